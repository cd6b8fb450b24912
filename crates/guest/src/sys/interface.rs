//! Network interfaces by the old ioctls (netdevice(7)): enough for one address and one route.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket,
    sockopt::{BindToDevice, Broadcast, ReuseAddr},
};

/// A fixed configuration.
pub struct Interface<'a> {
    /// Kernel's name, e.g. `eth0`.
    pub name: &'a str,
    /// Own address and the length of its prefix.
    pub address: (Ipv4Addr, u8),
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
}

/// Gives an interface its address, brings it up, and makes it the way out.
pub fn configure_interface(interface: &Interface) -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let (address, prefix) = interface.address;
    let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0));
    request(&socket, nix::libc::SIOCSIFADDR, interface.name, |r| r.ifr_ifru.ifru_addr = sockaddr(address))?;
    request(&socket, nix::libc::SIOCSIFNETMASK, interface.name, |r| {
        r.ifr_ifru.ifru_netmask = sockaddr(mask)
    })?;
    let up = (nix::libc::IFF_UP | nix::libc::IFF_RUNNING) as i16;
    request(&socket, nix::libc::SIOCSIFFLAGS, interface.name, |r| r.ifr_ifru.ifru_flags = up)?;
    if let Some(gateway) = interface.gateway {
        // SAFETY: an all-zero rtentry is a valid one; the pointers it gets live through the call.
        unsafe {
            let mut route: nix::libc::rtentry = std::mem::zeroed();
            route.rt_dst = sockaddr(Ipv4Addr::UNSPECIFIED);
            route.rt_genmask = sockaddr(Ipv4Addr::UNSPECIFIED);
            route.rt_gateway = sockaddr(gateway);
            route.rt_flags = nix::libc::RTF_UP | nix::libc::RTF_GATEWAY;
            match check(nix::libc::ioctl(socket.as_raw_fd(), nix::libc::SIOCADDRT, &route)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {} // a renewed lease's
                other => other?,
            }
        }
    }
    Ok(())
}

/// Sets how many bytes a packet that leaves by an interface may have.
pub fn set_mtu(name: &str, mtu: u16) -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    request(&socket, nix::libc::SIOCSIFMTU, name, |r| r.ifr_ifru.ifru_mtu = i32::from(mtu))
}

/// Brings an interface up that may have no address yet, and gives a socket for broadcasts on it alone.
pub fn broadcast_socket(name: &str, port: u16) -> io::Result<UdpSocket> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let up = (nix::libc::IFF_UP | nix::libc::IFF_RUNNING) as i16;
    request(&socket, nix::libc::SIOCSIFFLAGS, name, |r| r.ifr_ifru.ifru_flags = up)?;
    setsockopt(&socket, BindToDevice, &name.into())?;
    setsockopt(&socket, Broadcast, &true)?;
    setsockopt(&socket, ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port))?;
    Ok(socket.into())
}

fn request(
    socket: &OwnedFd,
    what: nix::libc::Ioctl,
    name: &str,
    fill: impl FnOnce(&mut nix::libc::ifreq),
) -> io::Result<()> {
    let mut request = named(name)?;
    fill(&mut request);
    // SAFETY: the request lives through the call.
    check(unsafe { nix::libc::ioctl(socket.as_raw_fd(), what, &request) })
}

/// A request about an interface.
pub(super) fn named(name: &str) -> io::Result<nix::libc::ifreq> {
    let name = super::c_string(name)?;
    if name.as_bytes_with_nul().len() > nix::libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: nix::libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes_with_nul()) {
        *to = *from as nix::libc::c_char;
    }
    Ok(request)
}

fn sockaddr(address: Ipv4Addr) -> nix::libc::sockaddr {
    let octets = address.octets();
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(octets) {
        *to = from as nix::libc::c_char;
    }
    nix::libc::sockaddr { sa_family: nix::libc::AF_INET as u16, sa_data: data }
}

pub(super) fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
