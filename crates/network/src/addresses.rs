//! Which subnets and addresses are free: pure decisions, no system calls but the route list.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::{Code, Error, Result};

/// The addresses of one network and family. Next fit: an address just released is not given out again at once, so
/// that neighbours' caches do not mislead.
#[derive(Clone, Debug)]
pub struct AddressPool {
    subnet: IpNet,
    /// Where to give out from: `--ip-range`, else the subnet.
    range: IpNet,
    used: BTreeSet<u128>,
    next: u128,
}

/// An address as a number of its family.
fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

impl AddressPool {
    /// The addresses of `subnet`, given out from `range`; those in `reserved` (the gateway) are taken.
    pub fn new(subnet: IpNet, range: Option<IpNet>, reserved: impl IntoIterator<Item = IpAddr>) -> Self {
        let range = range.unwrap_or(subnet);
        let used = reserved.into_iter().map(number).collect();
        Self { subnet, range, used, next: number(range.network()) }
    }

    fn address(&self, n: u128) -> IpAddr {
        match self.subnet {
            // Within a subnet of the family, so within its numbers.
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(n as u32)),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(n)),
        }
    }

    /// The addresses that name the network itself, and in IPv4 all of its members. A network of two addresses or
    /// one has none (RFC 3021).
    fn is_special(&self, n: u128) -> bool {
        let tiny = self.subnet.max_prefix_len() - self.subnet.prefix_len() <= 1;
        let broadcast = matches!(self.subnet, IpNet::V4(_)) && n == number(self.subnet.broadcast());
        !tiny && (n == number(self.subnet.network()) || broadcast)
    }

    /// Takes `wanted`, or a free address.
    pub fn allocate(&mut self, wanted: Option<IpAddr>) -> Result<IpAddr> {
        if let Some(ip) = wanted {
            if !self.subnet.contains(&ip) {
                return Err(Error::new(
                    Code::InvalidArgument,
                    format!("invalid address {ip}: It does not belong to any of this network's subnets"),
                ));
            }
            if !self.used.insert(number(ip)) {
                return Err(Error::new(Code::Forbidden, "Address already in use"));
            }
            return Ok(ip);
        }
        let (first, last) = (number(self.range.network()), number(self.range.broadcast()));
        // Among one more than are taken, the special ones counted, one is free, if the range has as many.
        let tries = (last - first).min(self.used.len() as u128 + 2) + 1;
        let mut candidate = self.next.clamp(first, last);
        for _ in 0..tries {
            let following = if candidate == last { first } else { candidate + 1 };
            if !self.is_special(candidate) && self.used.insert(candidate) {
                self.next = following;
                return Ok(self.address(candidate));
            }
            candidate = following;
        }
        let family = if matches!(self.subnet, IpNet::V4(_)) { "IPv4" } else { "IPv6" };
        Err(Error::new(
            Code::Conflict,
            format!("no available {family} addresses on this network's address pools: {}", self.subnet),
        ))
    }

    /// Gives an address back.
    pub fn release(&mut self, ip: IpAddr) {
        self.used.remove(&number(ip));
    }
}

/// The unique local network (RFC 4193) that belongs to `seed`: `fd` and 40 of its bits, a /48.
pub fn unique_local(seed: u64) -> Ipv6Net {
    let bits = (0xfd << 40 | u128::from(seed & 0xff_ffff_ffff)) << 80;
    Ipv6Net::new_assert(Ipv6Addr::from(bits), 48)
}

/// The first /64 of `base` that overlaps none in `taken`.
pub fn choose_subnet6(base: Ipv6Net, taken: &[Ipv6Net]) -> Result<Ipv6Net> {
    let mut pieces = base.subnets(64).into_iter().flatten();
    pieces.find(|s| !taken.iter().any(|t| t.contains(s) || s.contains(t))).ok_or_else(|| {
        Error::new(Code::Conflict, format!("all IPv6 subnets of {base} are taken: remove a network"))
    })
}

/// Docker's own default pools: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16 in pieces of /20.
pub const DEFAULT_POOLS: &[(Ipv4Net, u8)] = &[
    (Ipv4Net::new_assert(Ipv4Addr::new(172, 17, 0, 0), 16), 16),
    (Ipv4Net::new_assert(Ipv4Addr::new(172, 18, 0, 0), 16), 16),
    (Ipv4Net::new_assert(Ipv4Addr::new(172, 19, 0, 0), 16), 16),
    (Ipv4Net::new_assert(Ipv4Addr::new(172, 20, 0, 0), 14), 16),
    (Ipv4Net::new_assert(Ipv4Addr::new(172, 24, 0, 0), 14), 16),
    (Ipv4Net::new_assert(Ipv4Addr::new(172, 28, 0, 0), 14), 16),
    (Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16), 20),
];

/// The first subnet of the pools (`None`: Docker's defaults) that overlaps none in `taken`.
pub fn choose_subnet(pools: Option<&[(Ipv4Net, u8)]>, taken: &[Ipv4Net]) -> Result<Ipv4Net> {
    pools
        .unwrap_or(DEFAULT_POOLS)
        .iter()
        .filter_map(|(base, size)| base.subnets(*size).ok())
        .flatten()
        .find(|s| !taken.iter().any(|t| t.contains(s) || s.contains(t)))
        .ok_or_else(|| {
            Error::new(
                Code::Conflict,
                "all predefined address pools have been fully subnetted: remove a network or widen default-address-pools",
            )
        })
}

/// The subnets this host routes already: a container's network must not take them.
pub fn routed_subnets() -> Result<Vec<Ipv4Net>> {
    crate::netlink::Netlink::open()?.routes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(s: &str) -> Ipv4Net {
        s.parse().unwrap()
    }

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn pool(subnet: &str, gateway: &str) -> AddressPool {
        AddressPool::new(subnet.parse().unwrap(), None, [ip(gateway)])
    }

    #[test]
    fn addresses_are_given_out_in_turn_and_never_twice() {
        let mut pool = pool("10.0.0.0/29", "10.0.0.1");
        let all: Vec<_> = (0..5).map(|_| pool.allocate(None).unwrap()).collect();
        assert_eq!(all, [2, 3, 4, 5, 6].map(|n| IpAddr::from([10, 0, 0, n])));
        assert_eq!(pool.allocate(None).unwrap_err().code(), Code::Conflict);
        pool.release(all[1]);
        assert_eq!(pool.allocate(None).unwrap(), all[1]);
    }

    #[test]
    fn a_fixed_address_must_be_in_the_subnet_and_free() {
        let mut pool = pool("10.0.0.0/24", "10.0.0.1");
        assert_eq!(pool.allocate(Some(ip("10.0.1.5"))).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(pool.allocate(Some(ip("10.0.0.1"))).unwrap_err().to_string(), "Address already in use");
        assert!(pool.allocate(Some(ip("10.0.0.9"))).is_ok());
    }

    #[test]
    fn addresses_of_version_6_come_from_a_network_that_is_never_full() {
        let mut pool = pool("fd00::/64", "fd00::1");
        for n in 2..500u16 {
            assert_eq!(pool.allocate(None).unwrap(), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]));
        }
        assert!(pool.allocate(Some(ip("fd00::ffff"))).is_ok());
        assert_eq!(pool.allocate(Some(ip("10.0.0.1"))).unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn a_range_gives_all_it_has() {
        let range = Some("10.0.0.0/30".parse().unwrap());
        let mut pool = AddressPool::new("10.0.0.0/24".parse().unwrap(), range, [ip("10.0.0.1")]);
        let all: Vec<_> = std::iter::from_fn(|| pool.allocate(None).ok()).collect();
        assert_eq!(all, [ip("10.0.0.2"), ip("10.0.0.3")]);
    }

    #[test]
    fn subnets_that_are_routed_are_left_alone() {
        assert_eq!(choose_subnet(None, &[]).unwrap(), net("172.17.0.0/16"));
        assert_eq!(
            choose_subnet(None, &[net("172.16.0.0/15"), net("172.18.3.0/24")]).unwrap(),
            net("172.19.0.0/16")
        );
        assert!(choose_subnet(Some(&[(net("10.0.0.0/24"), 24)]), &[net("10.0.0.0/8")]).is_err());
    }

    #[test]
    fn every_engine_has_unique_local_networks_of_its_own() {
        let base = unique_local(0x12_3456_789a);
        assert_eq!(base.to_string(), "fd12:3456:789a::/48");
        let first = choose_subnet6(base, &[]).unwrap();
        assert_eq!(choose_subnet6(base, &[first]).unwrap().to_string(), "fd12:3456:789a:1::/64");
    }
}
