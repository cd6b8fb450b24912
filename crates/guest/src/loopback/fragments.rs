//! Datagrams that come in fragments, put together again.
//!
//! The guest's kernel has put them together already, for its firewall, and cuts them once more, in order, as it passes them
//! on. So each fragment continues the one before it, or its datagram is lost.

use std::{borrow::Cow, collections::VecDeque, net::Ipv4Addr};

use smoltcp::wire::Ipv4Packet;

/// Datagrams that are under way at once; the one that began first gives way.
const AT_ONCE: usize = 16;

/// Those that have begun.
#[derive(Debug, Default)]
pub struct Fragments(VecDeque<Begun>);

#[derive(Debug)]
struct Begun {
    /// Who sends it, and its number there.
    key: (Ipv4Addr, u16),
    /// What has come of it.
    bytes: Vec<u8>,
}

impl Fragments {
    /// Takes one of UDP's packets; gives all that IP carried when it is whole, or the last part of it.
    pub fn take<'a>(&mut self, part: &Ipv4Packet<&'a [u8]>) -> Option<Cow<'a, [u8]>> {
        if part.frag_offset() == 0 && !part.more_frags() {
            return Some(part.payload().into());
        }
        let key = (part.src_addr(), part.ident());
        let begun = self.0.iter().position(|begun| begun.key == key);
        let mut begun = match (begun.and_then(|at| self.0.remove(at)), part.frag_offset()) {
            // A number that comes again is another datagram's.
            (_, 0) => Begun { key, bytes: Vec::new() },
            (Some(begun), offset) if begun.bytes.len() == usize::from(offset) => begun,
            _ => return None,
        };
        begun.bytes.extend_from_slice(part.payload());
        if !part.more_frags() {
            return Some(begun.bytes.into());
        }
        if begun.bytes.len() <= super::PACKET {
            self.0.truncate(AT_ONCE - 1);
            self.0.push_front(begun);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use smoltcp::{
        phy::ChecksumCapabilities,
        wire::{IpProtocol, Ipv4Repr},
    };

    use super::*;

    /// A part of datagram `ident`: `bytes` from `offset` on.
    fn part(ident: u16, offset: u16, more: bool, bytes: &[u8]) -> Vec<u8> {
        let ip = Ipv4Repr {
            src_addr: Ipv4Addr::new(172, 17, 0, 2),
            dst_addr: super::super::HOST,
            next_header: IpProtocol::Udp,
            payload_len: bytes.len(),
            hop_limit: 64,
        };
        let mut packet = vec![0; ip.buffer_len() + bytes.len()];
        let mut whole = Ipv4Packet::new_unchecked(&mut packet[..]);
        ip.emit(&mut whole, &ChecksumCapabilities::default());
        whole.set_ident(ident);
        whole.set_frag_offset(offset);
        whole.set_more_frags(more);
        whole.payload_mut().copy_from_slice(bytes);
        packet
    }

    fn take(fragments: &mut Fragments, packet: &[u8]) -> Option<Vec<u8>> {
        fragments.take(&Ipv4Packet::new_unchecked(packet)).map(Cow::into_owned)
    }

    #[test]
    fn parts_in_order_make_a_whole_beside_others() {
        let mut all = Fragments::default();
        assert_eq!(take(&mut all, &part(1, 0, true, b"for one ")), None);
        assert_eq!(take(&mut all, &part(2, 0, true, b"another ")), None);
        assert_eq!(take(&mut all, &part(1, 8, true, b"and all ")), None);
        assert_eq!(take(&mut all, &part(1, 0, false, b"whole")).unwrap(), b"whole");
        assert_eq!(take(&mut all, &part(2, 8, false, b"one")).unwrap(), b"another one");
        assert_eq!(take(&mut all, &part(1, 16, false, b".")).unwrap(), b"for one and all .");
        assert!(all.0.is_empty());
    }

    #[test]
    fn what_continues_nothing_is_lost_with_what_it_belongs_to() {
        let mut all = Fragments::default();
        assert_eq!(take(&mut all, &part(1, 8, false, b"late")), None, "never begun");
        take(&mut all, &part(1, 0, true, b"eight by"));
        assert_eq!(take(&mut all, &part(1, 16, false, b"one is missing")), None);
        assert_eq!(take(&mut all, &part(1, 8, false, b"too late")), None);
        take(&mut all, &part(1, 0, true, b"eight by"));
        take(&mut all, &part(1, 0, true, b"eightnew"));
        assert_eq!(take(&mut all, &part(1, 8, false, b"")).unwrap(), b"eightnew");
    }

    #[test]
    fn those_that_never_end_take_no_more_room() {
        let mut all = Fragments::default();
        for n in 0..100 {
            take(&mut all, &part(n, 0, true, b"eight by"));
        }
        assert_eq!(all.0.len(), AT_ONCE);
        assert_eq!(take(&mut all, &part(0, 8, false, b"")), None, "it gave way");
        assert!(take(&mut all, &part(99, 8, false, b"")).is_some());
        let long = [0; 1 << 13];
        for n in 0..8 {
            assert_eq!(take(&mut all, &part(7, n << 13, true, &long)), None);
        }
        assert_eq!(take(&mut all, &part(7, 0xfff8, true, &long)), None);
        assert!(all.0.iter().all(|begun| begun.bytes.len() <= super::super::PACKET));
    }
}
