//! The few rtnetlink requests containers need, synchronous: they run on short-lived threads inside namespaces.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;

use ipnet::Ipv4Net;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::error::{Code, Error, Result};

/// A socket to the kernel's routing tables of the namespace it was opened in.
pub(crate) struct Netlink {
    socket: Socket,
}

/// Receive buffer of one datagram; the kernel sends dumps in pieces of at most 32 KiB.
const RECEIVE_BYTES: usize = 32 * 1024;

impl Netlink {
    pub(crate) fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(|e| Error::io("open netlink", &e))?;
        socket.bind_auto().map_err(|e| Error::io("bind netlink", &e))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(|e| Error::io("connect netlink", &e))?;
        Ok(Self { socket })
    }

    fn request(&self, what: &str, message: Message, flags: u16) -> Result<Vec<Message>> {
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.finalize();
        let mut buf = vec![0; packet.buffer_len()];
        packet.serialize(&mut buf);
        self.socket.send(&buf, 0).map_err(|e| Error::io(what, &e))?;
        let mut answers = Vec::new();
        let mut buf = Vec::with_capacity(RECEIVE_BYTES);
        loop {
            buf.clear();
            let n = self.socket.recv(&mut buf, 0).map_err(|e| Error::io(what, &e))?;
            let mut at = 0;
            while at < n {
                let packet = NetlinkMessage::<Message>::deserialize(&buf[at..n])
                    .map_err(|e| Error::new(Code::Internal, format!("{what}: {e}")))?;
                at += (packet.header.length as usize).next_multiple_of(4).max(4);
                match packet.payload {
                    NetlinkPayload::Error(e) => match e.code {
                        None => return Ok(answers),
                        Some(_) => return Err(Error::io(what, &e.to_io())),
                    },
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(m) => answers.push(m),
                    _ => {}
                }
            }
        }
    }

    fn set(&self, what: &str, message: Message, flags: u16) -> Result<()> {
        self.request(what, message, NLM_F_ACK | flags).map(|_| ())
    }

    /// The index of a link, or `None`.
    pub(crate) fn index(&self, name: &str) -> Result<Option<u32>> {
        let mut m = LinkMessage::default();
        m.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.request(&format!("look up link {name}"), Message::GetLink(m), NLM_F_ACK) {
            Ok(answers) => Ok(answers.into_iter().find_map(|a| match a {
                Message::NewLink(link) => Some(link.header.index),
                _ => None,
            })),
            Err(e) if e.to_string().contains("No such device") => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn existing(&self, name: &str) -> Result<u32> {
        self.index(name)?.ok_or_else(|| Error::new(Code::NotFound, format!("link {name} does not exist")))
    }

    /// Makes a bridge; one of that name already there is fine.
    pub(crate) fn add_bridge(&self, name: &str, mtu: u32) -> Result<u32> {
        if let Some(index) = self.index(name)? {
            return Ok(index);
        }
        let mut m = LinkMessage::default();
        m.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.set(&format!("make bridge {name}"), Message::NewLink(m), NLM_F_CREATE | NLM_F_EXCL)?;
        self.existing(name)
    }

    /// Makes a veth pair: `host` here, enslaved to link `bridge` and up; `inner` inside the namespace `netns`.
    pub(crate) fn add_veth(
        &self,
        host: &str,
        bridge: u32,
        inner: &str,
        netns: RawFd,
        mac: [u8; 6],
        mtu: u32,
    ) -> Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(inner.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::NetNsFd(netns),
        ];
        let mut m = LinkMessage::default();
        m.header.flags = LinkFlags::Up;
        m.header.change_mask = LinkFlags::Up;
        m.attributes = vec![
            LinkAttribute::IfName(host.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Controller(bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.set(&format!("make veth {host}"), Message::NewLink(m), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sets a link up.
    pub(crate) fn up(&self, index: u32) -> Result<()> {
        let mut m = LinkMessage::default();
        m.header.index = index;
        m.header.flags = LinkFlags::Up;
        m.header.change_mask = LinkFlags::Up;
        self.set("set link up", Message::SetLink(m), 0)
    }

    /// Sets the loopback link (always index 1) up.
    pub(crate) fn loopback_up(&self) -> Result<()> {
        self.up(1)
    }

    /// Removes a link; none of that name is fine.
    pub(crate) fn delete(&self, name: &str) -> Result<()> {
        let Some(index) = self.index(name)? else { return Ok(()) };
        let mut m = LinkMessage::default();
        m.header.index = index;
        self.set(&format!("remove link {name}"), Message::DelLink(m), 0)
    }

    /// Gives a link an address; already having it is fine.
    pub(crate) fn add_address(&self, index: u32, address: Ipv4Net) -> Result<()> {
        let mut m = AddressMessage::default();
        m.header.family = AddressFamily::Inet;
        m.header.prefix_len = address.prefix_len();
        m.header.index = index;
        m.attributes = vec![
            AddressAttribute::Local(IpAddr::V4(address.addr())),
            AddressAttribute::Address(IpAddr::V4(address.addr())),
            AddressAttribute::Broadcast(address.broadcast()),
        ];
        match self.set(&format!("add address {address}"), Message::NewAddress(m), NLM_F_CREATE | NLM_F_EXCL) {
            Err(e) if e.code() == Code::Conflict => Ok(()),
            other => other,
        }
    }

    /// Sets the default route, in place of another if there is one.
    pub(crate) fn set_default_route(&self, gateway: Ipv4Addr) -> Result<()> {
        let mut m = RouteMessage::default();
        m.header = RouteHeader {
            address_family: AddressFamily::Inet,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Boot,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        m.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway))];
        self.set(
            &format!("set default route via {gateway}"),
            Message::NewRoute(m),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// The IPv4 destinations that are routed here already (no default route).
    pub(crate) fn routes(&self) -> Result<Vec<Ipv4Net>> {
        let mut m = RouteMessage::default();
        m.header.address_family = AddressFamily::Inet;
        let answers = self.request("list routes", Message::GetRoute(m), NLM_F_DUMP)?;
        Ok(answers
            .into_iter()
            .filter_map(|a| match a {
                Message::NewRoute(r) if r.header.table == RouteHeader::RT_TABLE_MAIN => {
                    let prefix = r.header.destination_prefix_length;
                    r.attributes.iter().find_map(|attribute| match attribute {
                        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Ipv4Net::new(*ip, prefix).ok(),
                        _ => None,
                    })
                }
                _ => None,
            })
            .collect())
    }
}
