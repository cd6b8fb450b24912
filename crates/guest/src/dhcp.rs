//! The guest's address where the host's network gives it: a client of DHCP (RFC 2131, options of RFC 2132), as much of
//! it as one interface of one machine needs.

use std::net::Ipv4Addr;
use std::time::Duration;

/// Most bytes of a message that is taken: what fits in an Ethernet frame.
pub const MESSAGE: usize = 1500;
/// Ports of client and server.
pub const PORTS: (u16, u16) = (68, 67);

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ETHERNET: u8 = 1;
const MAC: usize = 6;
const HEADER: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// "Answer by broadcast": there is no address yet to answer to.
const BROADCAST: u16 = 0x8000;
/// Least time between two renewals, whatever a server says.
const LEAST_RENEWAL: Duration = Duration::from_secs(30);

mod option {
    pub const PAD: u8 = 0;
    pub const MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const REQUESTED: u8 = 50;
    pub const LEASE: u8 = 51;
    pub const KIND: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const WANTED: u8 = 55;
    pub const RENEWAL: u8 = 58;
    pub const END: u8 = 255;
}

/// What a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Is anybody there?
    Discover,
    /// That offer is taken.
    Take { address: Ipv4Addr, server: Ipv4Addr },
    /// The lease is to go on.
    Renew { address: Ipv4Addr },
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An offer.
    Offer(Lease),
    /// It is ours.
    Given(Lease),
    /// It is not.
    Refused,
}

/// An address and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Own address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// When it is to be renewed.
    pub renewal: Duration,
    /// When it is over.
    pub end: Duration,
}

/// A message of the dialogue `id` from the interface `mac`.
pub fn encode(ask: Ask, id: u32, mac: [u8; MAC]) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    (message[0], message[1], message[2]) = (REQUEST, ETHERNET, MAC as u8);
    message[4..8].copy_from_slice(&id.to_be_bytes());
    if let Ask::Renew { address } = ask {
        message[12..16].copy_from_slice(&address.octets());
    } else {
        message[10..12].copy_from_slice(&BROADCAST.to_be_bytes());
    }
    message[28..28 + MAC].copy_from_slice(&mac);
    message.extend(COOKIE);
    let kind = if ask == Ask::Discover { 1 } else { 3 };
    message.extend([option::KIND, 1, kind]);
    if let Ask::Take { address, server } = ask {
        message.extend([option::REQUESTED, 4]);
        message.extend(address.octets());
        message.extend([option::SERVER, 4]);
        message.extend(server.octets());
    }
    let wanted = [option::MASK, option::ROUTER, option::DNS, option::LEASE, option::RENEWAL];
    message.extend([option::WANTED, wanted.len() as u8]);
    message.extend(wanted);
    message.push(option::END);
    message
}

/// Reads an answer of the dialogue `id` to `mac`; `None` for anything else.
pub fn decode(message: &[u8], id: u32, mac: [u8; MAC]) -> Option<Answer> {
    let header = message.get(..HEADER)?;
    let options = message.get(HEADER..)?.strip_prefix(&COOKIE)?;
    if header[0] != REPLY || header[4..8] != id.to_be_bytes() || header[28..28 + MAC] != mac {
        return None;
    }
    let find = |wanted| find(options, wanted);
    match find(option::KIND)? {
        [kind @ (2 | 5)] => {
            let end = find(option::LEASE).and_then(seconds)?;
            let mask = find(option::MASK).and_then(addresses)?.first().copied()?;
            let renewal = find(option::RENEWAL).and_then(seconds).unwrap_or(end / 2);
            let lease = Lease {
                address: Ipv4Addr::new(header[16], header[17], header[18], header[19]),
                prefix: prefix(mask)?,
                gateway: find(option::ROUTER).and_then(addresses).and_then(|all| all.first().copied()),
                dns: find(option::DNS).and_then(addresses).unwrap_or_default(),
                server: find(option::SERVER).and_then(addresses)?.first().copied()?,
                renewal: renewal.max(LEAST_RENEWAL),
                end: end.max(LEAST_RENEWAL),
            };
            if lease.address.is_unspecified() || lease.address.is_broadcast() || lease.address.is_multicast()
            {
                return None;
            }
            Some(if *kind == 2 { Answer::Offer(lease) } else { Answer::Given(lease) })
        }
        [6] => Some(Answer::Refused),
        _ => None,
    }
}

/// An option's value; the first of its kind holds.
fn find(mut options: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        let (code, rest) = options.split_first()?;
        match *code {
            option::PAD => options = rest,
            option::END => return None,
            code => {
                let (len, rest) = rest.split_first()?;
                let value = rest.get(..usize::from(*len))?;
                if code == wanted {
                    return Some(value);
                }
                options = &rest[value.len()..];
            }
        }
    }
}

fn seconds(value: &[u8]) -> Option<Duration> {
    Some(Duration::from_secs(u32::from_be_bytes(value.try_into().ok()?).into()))
}

/// One or more addresses.
fn addresses(value: &[u8]) -> Option<Vec<Ipv4Addr>> {
    let (all, rest) = value.as_chunks::<4>();
    (rest.is_empty() && !all.is_empty()).then(|| all.iter().copied().map(Ipv4Addr::from).collect())
}

/// A mask's length; `None` for one with holes.
fn prefix(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    (bits.leading_ones() + bits.trailing_zeros() >= 32).then_some(bits.leading_ones() as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: u32 = 0x1234_5678;
    const OURS: [u8; 6] = [2, 1, 2, 3, 4, 5];

    fn reply(kind: u8, more: &[u8]) -> Vec<u8> {
        let mut message = encode(Ask::Discover, ID, OURS);
        message.truncate(HEADER);
        message[0] = REPLY;
        message[16..20].copy_from_slice(&[192, 168, 64, 7]);
        message.extend(COOKIE);
        message.extend([53, 1, kind, 54, 4, 192, 168, 64, 1, 1, 4, 255, 255, 255, 0, 0]);
        message.extend(more);
        message.push(255);
        message
    }

    #[test]
    fn an_offer_as_macos_makes_it() {
        let day = 86_400_u32.to_be_bytes();
        let mut more = vec![51, 4];
        more.extend(day);
        more.extend([3, 4, 192, 168, 64, 1, 6, 8, 192, 168, 64, 1, 1, 1, 1, 1]);
        let Some(Answer::Offer(lease)) = decode(&reply(2, &more), ID, OURS) else { panic!("no offer") };
        assert_eq!(lease.address, Ipv4Addr::new(192, 168, 64, 7));
        assert_eq!((lease.prefix, lease.gateway), (24, Some(Ipv4Addr::new(192, 168, 64, 1))));
        assert_eq!(lease.dns.len(), 2);
        assert_eq!(lease.renewal, Duration::from_secs(43_200));
        assert!(matches!(decode(&reply(5, &more), ID, OURS), Some(Answer::Given(_))));
        assert_eq!(decode(&reply(6, &[]), ID, OURS), Some(Answer::Refused));
    }

    #[test]
    fn what_is_not_for_us_or_not_whole_is_nothing() {
        let lease = [51, 4, 0, 1, 0, 0];
        assert_eq!(decode(&reply(2, &lease), ID + 1, OURS), None);
        assert_eq!(decode(&reply(2, &lease), ID, [0; 6]), None);
        assert_eq!(decode(&reply(2, &[]), ID, OURS), None, "no lease's time");
        assert_eq!(decode(&reply(2, &lease)[..250], ID, OURS), None);
        assert_eq!(prefix(Ipv4Addr::new(255, 0, 255, 0)), None);
        assert_eq!(prefix(Ipv4Addr::UNSPECIFIED), Some(0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            decode(&bytes, ID, OURS);
            // As far into it as bytes can get.
            let whole = reply(5, &[51, 4, 0, 0, 0, 1]);
            for (to, from) in bytes.iter_mut().zip(&whole[..HEADER + 4]) {
                *to = *from;
            }
            if let Some(Answer::Given(lease) | Answer::Offer(lease)) = decode(&bytes, ID, OURS) {
                prop_assert!(lease.prefix <= 32 && lease.end >= LEAST_RENEWAL);
            }
        }
    }
}
