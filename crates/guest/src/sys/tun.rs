//! A TUN device: the packets that are routed to an interface, one a read, and packets that come in by it, one a write.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
};

use tokio::io::unix::AsyncFd;

use super::interface::{check, named};

const DEVICE: &str = "/dev/net/tun";

/// Makes the interface `name`, which has no address yet. It lives as long as the file.
pub fn make_tun(name: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(DEVICE)?;
    let mut request = named(name)?;
    request.ifr_ifru.ifru_flags = (nix::libc::IFF_TUN | nix::libc::IFF_NO_PI) as i16;
    // SAFETY: the request lives through the call.
    check(unsafe { nix::libc::ioctl(file.as_raw_fd(), nix::libc::TUNSETIFF, &mut request) })?;
    Ok(file)
}

/// A device in use.
pub struct Tun(AsyncFd<File>);

impl Tun {
    /// Of what [`make_tun`] gave.
    pub fn new(file: File) -> io::Result<Self> {
        // SAFETY: a File keeps its one descriptor open for as long as it lives, and AsyncFd owns it.
        let registered = unsafe { AsyncFd::register(file) };
        registered.map(Self).map_err(io::Error::from)
    }

    /// The length of the next packet, which is put into `packet`.
    pub async fn receive(&self, packet: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.0.readable().await?;
            match guard.get_inner().read(packet) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                other => return other,
            }
        }
    }

    /// The same, if one is there.
    pub fn try_receive(&self, packet: &mut [u8]) -> Option<usize> {
        self.0.get_ref().read(packet).ok()
    }

    /// Hands a packet to the kernel; one that it doesn't take is lost, as packets may be.
    pub fn send(&self, packet: &[u8]) {
        let _ = self.0.get_ref().write(packet);
    }
}
