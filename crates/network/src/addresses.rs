//! Which subnets and addresses are free: pure decisions, no system calls but the route list.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::error::{Code, Error, Result};

/// The addresses of one network. Next fit: an address just released is not given out again at once, so that
/// neighbours' caches do not mislead.
#[derive(Clone, Debug)]
pub struct AddressPool {
    subnet: Ipv4Net,
    /// Where to give out from: `--ip-range`, else the subnet.
    range: Ipv4Net,
    used: BTreeSet<Ipv4Addr>,
    next: u32,
}

impl AddressPool {
    /// The addresses of `subnet`, given out from `range`; the gateway is taken.
    pub fn new(subnet: Ipv4Net, range: Option<Ipv4Net>, gateway: Ipv4Addr) -> Self {
        let range = range.unwrap_or(subnet);
        Self { subnet, range, used: BTreeSet::from([gateway]), next: u32::from(range.network()) }
    }

    /// Takes `wanted`, or a free address.
    pub fn allocate(&mut self, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr> {
        if let Some(ip) = wanted {
            if !self.subnet.contains(&ip) {
                return Err(Error::new(
                    Code::InvalidArgument,
                    format!("invalid address {ip}: It does not belong to any of this network's subnets"),
                ));
            }
            if !self.used.insert(ip) {
                return Err(Error::new(Code::Forbidden, "Address already in use"));
            }
            return Ok(ip);
        }
        let (first, last) = (u32::from(self.range.network()), u32::from(self.range.broadcast()));
        let size = u64::from(last - first) + 1;
        for offset in 0..size {
            let candidate = first + ((u64::from(self.next - first) + offset) % size) as u32;
            let ip = Ipv4Addr::from(candidate);
            if ip == self.subnet.network() || ip == self.subnet.broadcast() || self.used.contains(&ip) {
                continue;
            }
            self.used.insert(ip);
            self.next = if candidate == last { first } else { candidate + 1 };
            return Ok(ip);
        }
        Err(Error::new(
            Code::Conflict,
            format!("no available IPv4 addresses on this network's address pools: {}", self.subnet),
        ))
    }

    /// Gives an address back.
    pub fn release(&mut self, ip: Ipv4Addr) {
        self.used.remove(&ip);
    }
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

    #[test]
    fn addresses_are_given_out_in_turn_and_never_twice() {
        let gateway = Ipv4Addr::new(10, 0, 0, 1);
        let mut pool = AddressPool::new(net("10.0.0.0/29"), None, gateway);
        let all: Vec<_> = (0..5).map(|_| pool.allocate(None).unwrap()).collect();
        assert_eq!(all, [2, 3, 4, 5, 6].map(|n| Ipv4Addr::new(10, 0, 0, n)));
        assert_eq!(pool.allocate(None).unwrap_err().code(), Code::Conflict);
        pool.release(all[1]);
        assert_eq!(pool.allocate(None).unwrap(), all[1]);
    }

    #[test]
    fn a_fixed_address_must_be_in_the_subnet_and_free() {
        let mut pool = AddressPool::new(net("10.0.0.0/24"), None, Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(
            pool.allocate(Some(Ipv4Addr::new(10, 0, 1, 5))).unwrap_err().code(),
            Code::InvalidArgument
        );
        assert_eq!(
            pool.allocate(Some(Ipv4Addr::new(10, 0, 0, 1))).unwrap_err().to_string(),
            "Address already in use"
        );
        assert!(pool.allocate(Some(Ipv4Addr::new(10, 0, 0, 9))).is_ok());
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
}
