//! Where this computer's own network leads, so that the guest's engine gives containers no addresses of it: a company's
//! network or a VPN that has them too could not be reached from any container. Each system's table is read here, whichever
//! this one is; `platform` asks for it.

use std::net::Ipv4Addr;

/// Most subnets that the guest is told, the widest first: they must fit among the boot arguments.
pub const MAX: usize = 32;
/// Routes wider than this are ways out, not places: a VPN splits the world into two halves.
const WIDEST: u8 = 4;

/// An address and the length of its prefix.
pub type Subnet = (Ipv4Addr, u8);

/// This computer's, as `address/prefix`.
pub fn subnets() -> Vec<String> {
    told(crate::platform::routes())
}

fn told(mut all: Vec<Subnet>) -> Vec<String> {
    all.retain(|(ip, prefix)| {
        *prefix >= WIDEST && !ip.is_loopback() && !ip.is_link_local() && !ip.is_multicast()
    });
    all.retain(|(ip, _)| !ip.is_broadcast());
    all.sort_by_key(|(ip, prefix)| (*prefix, *ip));
    all.dedup();
    all.truncate(MAX);
    all.into_iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect()
}

/// As one boot argument; empty when there are none.
pub fn boot_argument() -> String {
    let subnets = subnets();
    if subnets.is_empty() { String::new() } else { format!(" coracle.taken={}", subnets.join(",")) }
}

/// Linux' `/proc/net/route`: addresses as the processor has them in memory.
pub fn of_linux(table: &str) -> Vec<Subnet> {
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let address = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok().map(u32::to_ne_bytes);
        let mask = u32::from_be_bytes(address(7)?);
        Some((Ipv4Addr::from(address(1)?), mask.leading_ones() as u8))
    };
    table.lines().skip(1).filter_map(entry).collect()
}

/// macOS' `netstat -rn -f inet`: `192.168.1`, `10.8/16`, `127.0.0.1`; what is left out are zeros, and tells the prefix.
pub fn of_macos(table: &str) -> Vec<Subnet> {
    let entry = |line: &str| {
        let place = line.split_whitespace().next()?;
        let (address, prefix) = place.split_once('/').map_or((place, None), |(a, p)| (a, Some(p)));
        let mut bytes = [0; 4];
        let given: Vec<u8> = address.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        bytes.get_mut(..given.len())?.copy_from_slice(&given);
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|p| *p <= 32)?,
            None => given.len() as u8 * 8,
        };
        Some((Ipv4Addr::from(bytes), prefix))
    };
    table.lines().filter_map(entry).collect()
}

/// Windows' `route print -4`: lines that begin with an address and a mask, whatever language the others are in.
pub fn of_windows(table: &str) -> Vec<Subnet> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (address, mask): (Ipv4Addr, Ipv4Addr) =
            (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        // A mask is ones and then zeros; a gateway, which stands there in the list of fixed routes, is not.
        let bits = u32::from(mask);
        (bits.leading_ones() + bits.trailing_zeros() >= 32).then_some((address, bits.leading_ones() as u8))
    };
    table.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Subnet {
        let (ip, prefix) = text.split_once('/').unwrap();
        (ip.parse().unwrap(), prefix.parse().unwrap())
    }

    #[test]
    fn each_systems_table_is_read() {
        let linux = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth0\t0002A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n\
            tun0\t0000A8AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        assert_eq!(of_linux(linux), [net("0.0.0.0/0"), net("192.168.2.0/24"), net("172.168.0.0/16")]);
        let macos = "Routing tables\n\nInternet:\nDestination        Gateway            Flags   Netif Expire\n\
            default            192.168.1.1        UGScg     en0\n127                127.0.0.1          UCS       lo0\n\
            172.17/16          10.8.0.1           UGSc    utun4\n192.168.1          link#11            UCS       en0\n\
            192.168.1.1/32     link#11            UCS       en0\n";
        let expected = ["127.0.0.0/8", "172.17.0.0/16", "192.168.1.0/24", "192.168.1.1/32"].map(net);
        assert_eq!(of_macos(macos), expected);
        let windows = "IPv4-Routentabelle\r\n=====\r\nAktive Routen:\r\n\
            \x20    Netzwerkziel    Netzwerkmaske          Gateway    Schnittstelle Metrik\r\n\
            \x20         0.0.0.0          0.0.0.0      192.168.1.1    192.168.1.20     25\r\n\
            \x20      172.17.0.0      255.255.0.0   Auf Verbindung       10.8.0.2    281\r\n\
            \x20     192.168.1.0      192.168.1.7   1\r\n";
        assert_eq!(of_windows(windows), [net("0.0.0.0/0"), net("172.17.0.0/16")]);
    }

    #[test]
    fn places_are_told_ways_out_are_not() {
        let all = [
            "0.0.0.0/0",
            "128.0.0.0/1",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/4",
            "10.0.0.0/8",
            "10.0.0.0/8",
        ];
        assert_eq!(told(all.map(net).to_vec()), ["10.0.0.0/8"]);
        let many: Vec<Subnet> = (0..100).map(|n| (Ipv4Addr::new(10, n, 0, 0), 16)).collect();
        assert_eq!(told(many).len(), MAX);
    }
}
