//! Where the resolver listens: a network namespace with nothing in it, and a pair of interfaces that leads there.
//!
//! A socket at port 53 of the guest's own network would keep a container of the network `host` from binding that port
//! on all addresses.

use std::{
    io,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    process::Command,
};

use crate::{GuestError, sys};

/// Both ends' addresses: out of those that belong to no network.
const HERE: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 1);
pub(super) const THERE: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 2);
const PREFIX: u8 = 30;
/// The end that the guest sees.
const NAME: &str = "names0";
/// The other one, as the kernel calls it.
const PEER: &str = "veth0";
const BUSYBOX: &str = "/usr/bin/busybox";

/// Both listen at [`THERE`].
pub struct Sockets {
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
}

impl Sockets {
    /// Makes the namespace and the pair. The namespace lives as long as the sockets.
    pub fn open() -> Result<Self, GuestError> {
        let there = sys::in_a_network_of_its_own(|| {
            // Made in there: both names are free.
            ip(&["link", "add", NAME, "type", "veth"])?;
            ip(&["link", "set", NAME, "netns", &std::process::id().to_string()])?;
            let end = sys::Interface { name: PEER, address: (THERE, PREFIX), gateway: Some(HERE) };
            sys::configure_interface(&end).map_err(GuestError::io("configuring", PEER))?;
            let listen = || -> io::Result<Self> {
                let (udp, tcp) = (UdpSocket::bind((THERE, 53))?, TcpListener::bind((THERE, 53))?);
                udp.set_nonblocking(true)?;
                tcp.set_nonblocking(true)?;
                Ok(Self { udp, tcp })
            };
            listen().map_err(GuestError::io("listening at", THERE.to_string()))
        })?;
        let end = sys::Interface { name: NAME, address: (HERE, PREFIX), gateway: None };
        sys::configure_interface(&end).map_err(GuestError::io("configuring", NAME))?;
        Ok(there)
    }
}

fn ip(args: &[&str]) -> Result<(), GuestError> {
    let mut command = Command::new(BUSYBOX);
    let done = sys::output(command.arg("ip").args(args)).map_err(GuestError::io("running", BUSYBOX))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(GuestError::Program { program: "busybox", message: format!("ip {}: {said}", args.join(" ")) })
}
