//! Who listens in this network namespace: the kernel's tables of sockets, read as they are (proc(5), `/proc/net/tcp`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::ports::Protocol;

/// A socket that waits for whoever comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listening {
    /// Transport.
    pub protocol: Protocol,
    /// Where it waits.
    pub address: SocketAddr,
    /// The number by which a process' descriptor names it (`socket:[4711]`).
    pub inode: u64,
}

/// The kernel's tables, and the states in which a socket waits for anybody: `TCP_LISTEN`; a UDP socket without a peer is
/// in the state that TCP calls closed.
const TABLES: [(&str, Protocol, &str); 4] = [
    ("tcp", Protocol::Tcp, "0A"),
    ("tcp6", Protocol::Tcp, "0A"),
    ("udp", Protocol::Udp, "07"),
    ("udp6", Protocol::Udp, "07"),
];

/// All that listen. UDP sockets whose number the kernel chose are left out: those are clients.
pub fn listening() -> Vec<Listening> {
    let chosen = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut chosen = chosen.split_whitespace().filter_map(|n| n.parse().ok());
    let (first, last) = (chosen.next().unwrap_or(0), chosen.next().unwrap_or(0));
    let mut all = Vec::new();
    for (table, protocol, state) in TABLES {
        // Without IPv6 there are no such tables.
        let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        all.extend(text.lines().skip(1).filter_map(|line| entry(line, protocol, state)));
    }
    all.retain(|l| l.protocol == Protocol::Tcp || !(first..=last).contains(&l.address.port()));
    all
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...`
fn entry(line: &str, protocol: Protocol, state: &str) -> Option<Listening> {
    let mut words = line.split_whitespace().skip(1);
    let local = words.next()?;
    let its_state = words.nth(1)?;
    let inode = words.nth(5)?.parse().ok()?;
    (its_state == state).then_some(Listening { protocol, address: address(local)?, inode })
}

/// `0100007F:1F90`: words of the address as the processor has them in memory, the port as people write it.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for n in 0..4 {
                bytes[n * 4..n * 4 + 4].copy_from_slice(&word(n * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_wait_are_found_with_their_sockets() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let six = std::net::TcpListener::bind("[::1]:0").ok();
        let client = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let all = listening();
        let inode = |fd: &dyn std::os::fd::AsRawFd| {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
            let name = link.to_string_lossy().into_owned();
            name.trim_start_matches("socket:[").trim_end_matches(']').parse::<u64>().unwrap()
        };
        let at = |inode: u64| all.iter().find(|l| l.inode == inode).map(|l| (l.protocol, l.address));
        assert_eq!(at(inode(&tcp)), Some((Protocol::Tcp, tcp.local_addr().unwrap())));
        if let Some(six) = &six {
            assert_eq!(at(inode(six)), Some((Protocol::Tcp, six.local_addr().unwrap())));
        }
        assert_eq!(at(inode(&client)), None, "it is connected");
        assert_eq!(at(inode(&udp)), None, "its number was the kernel's choice");
    }

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let line = "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 x";
        let found = entry(line, Protocol::Tcp, "0A").unwrap();
        assert_eq!((found.address, found.inode), ("0.0.0.0:80".parse().unwrap(), 4711));
        assert_eq!(entry(line, Protocol::Udp, "07"), None);
        let line = "  22: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 12 2 x 0";
        assert_eq!(entry(line, Protocol::Udp, "07").unwrap().address, "[::]:53".parse().unwrap());
        for wrong in ["", "x", "0: 1:2 3 0A", "0: 0000000G:0050 x 0A a b c 0 0 1"] {
            assert_eq!(entry(wrong, Protocol::Tcp, "0A"), None);
        }
    }
}
