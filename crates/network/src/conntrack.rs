//! Forgets flows of UDP that go by rules that are no more.
//!
//! The kernel asks the rules for the first datagram of a flow only. A client that keeps sending would go on to the
//! place of a container that is gone, or past one that is new (moby#8795).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::error::{Error, Result};
use crate::netlink::Netlink;

/// `NFNL_SUBSYS_CTNETLINK << 8 |` what is asked (linux/netfilter/nfnetlink_conntrack.h).
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// Message types of every netlink family: the end of an answer.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Attributes, without the flag that says they hold others.
const TUPLE_ORIG: u16 = 1;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_DST: u16 = 2;
const IP_V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;
const TYPE_MASK: u16 = 0x3fff;
const UDP: u8 = 17;
/// Bytes of a netlink header, and of the netfilter header after it.
const HEADERS: usize = 16 + 4;
const RECEIVE_BYTES: usize = 64 * 1024;

/// Forgets the flows of UDP to these ports of this host.
pub(crate) fn forget_udp(ports: &[u16]) -> Result<()> {
    let mine = Netlink::open()?.addresses()?;
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(|e| Error::io("open netlink", &e))?;
    socket.bind_auto().map_err(|e| Error::io("bind netlink", &e))?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(|e| Error::io("connect netlink", &e))?;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let mut stale = Vec::new();
        ask(&socket, &message(GET, REQUEST | DUMP, family, &[]), |flow| {
            let Some(tuple) = attribute(flow, TUPLE_ORIG) else { return };
            if let Some((address, port)) = udp_destination(tuple)
                && ports.contains(&port)
                && (mine.contains(&address) || address.is_loopback())
            {
                stale.push(tuple.to_vec());
            }
        })?;
        for tuple in stale {
            let mut attr = Vec::with_capacity(tuple.len() + 4);
            attr.extend(((tuple.len() + 4) as u16).to_ne_bytes());
            attr.extend((TUPLE_ORIG | 0x8000).to_ne_bytes());
            attr.extend(&tuple);
            match ask(&socket, &message(DELETE, REQUEST | ACK, family, &attr), |_| ()) {
                // It ended by itself meanwhile.
                Err(e) if e.code() == crate::error::Code::NotFound => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let mut m = Vec::with_capacity(HEADERS + attributes.len());
    m.extend(((HEADERS + attributes.len()) as u32).to_ne_bytes());
    m.extend(kind.to_ne_bytes());
    m.extend(flags.to_ne_bytes());
    m.extend([0; 8]);
    m.extend([family, 0, 0, 0]);
    m.extend(attributes);
    m
}

/// Sends a request and shows every answer's attributes to `each`.
fn ask(socket: &Socket, request: &[u8], mut each: impl FnMut(&[u8])) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("ask for tracked connections", &e);
    socket.send(request, 0).map_err(failed)?;
    loop {
        let mut buf = Vec::with_capacity(RECEIVE_BYTES);
        socket.recv(&mut buf, 0).map_err(failed)?;
        let mut rest = buf.as_slice();
        while rest.len() >= 16 {
            let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            let Some(answer) = rest.get(..length).filter(|a| a.len() >= 16) else { return Ok(()) };
            match kind {
                DONE => return Ok(()),
                ERROR => {
                    let code =
                        answer.get(16..20).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
                    return if code == 0 {
                        Ok(())
                    } else {
                        Err(failed(std::io::Error::from_raw_os_error(-code)))
                    };
                }
                _ => each(answer.get(HEADERS..).unwrap_or_default()),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// The value of the first attribute of a type.
fn attribute(mut list: &[u8], wanted: u16) -> Option<&[u8]> {
    while list.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([list[0], list[1]]));
        let kind = u16::from_ne_bytes([list[2], list[3]]) & TYPE_MASK;
        let value = list.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        list = list.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// Where a flow of UDP was first sent.
fn udp_destination(tuple: &[u8]) -> Option<(IpAddr, u16)> {
    let (ip, proto) = (attribute(tuple, TUPLE_IP)?, attribute(tuple, TUPLE_PROTO)?);
    if attribute(proto, PROTO_NUM)?.first() != Some(&UDP) {
        return None;
    }
    let port = u16::from_be_bytes(attribute(proto, PROTO_DST_PORT)?.try_into().ok()?);
    let v4 = attribute(ip, IP_V4_DST).and_then(|b| <[u8; 4]>::try_from(b).ok());
    let v6 = attribute(ip, IP_V6_DST).and_then(|b| <[u8; 16]>::try_from(b).ok());
    let address = v4.map(|b| Ipv4Addr::from(b).into()).or_else(|| v6.map(|b| Ipv6Addr::from(b).into()));
    Some((address?, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut a = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        a.extend(kind.to_ne_bytes());
        a.extend(value);
        a.resize(a.len().next_multiple_of(4), 0);
        a
    }

    #[test]
    fn a_flows_first_destination_is_read() {
        let ip =
            attr(TUPLE_IP | 0x8000, &[attr(1, &[10, 0, 0, 9]), attr(IP_V4_DST, &[127, 0, 0, 1])].concat());
        let proto = |number| {
            let parts = [attr(PROTO_NUM, &[number]), attr(2, &[0, 9]), attr(PROTO_DST_PORT, &[0x1f, 0x90])];
            attr(TUPLE_PROTO | 0x8000, &parts.concat())
        };
        let found = udp_destination(&[ip.clone(), proto(UDP)].concat());
        assert_eq!(found, Some((IpAddr::from([127, 0, 0, 1]), 8080)));
        assert_eq!(udp_destination(&[ip.clone(), proto(6)].concat()), None);
        assert_eq!(udp_destination(&ip[..5]), None, "cut off");
    }
}
