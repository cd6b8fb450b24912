//! The few rtnetlink requests containers need, synchronous: they run on short-lived threads inside namespaces.

use std::net::IpAddr;
use std::os::fd::RawFd;

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, InfoVlan, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::bridge::WayOut;
use crate::error::{Code, Error, Result};

/// A socket to the kernel's routing tables of the namespace it was opened in.
pub(crate) struct Netlink {
    socket: Socket,
}

/// The kernel's own table of addresses (rtnetlink(7), `RT_TABLE_LOCAL`).
const LOCAL_TABLE: u8 = 255;
/// Routes shorter than this are ways out, not places: a VPN splits the world into two halves.
const WIDEST_ROUTE: u8 = 4;
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

    /// Makes a bridge with a hardware address of its own; one of that name already there is fine.
    ///
    /// Without an address of its own a bridge has the lowest of its ports', and changes it with them: what its neighbours
    /// know of it would be wrong then, for as long as it takes them to ask again.
    pub(crate) fn add_bridge(&self, name: &str, mtu: u32, mac: [u8; 6]) -> Result<u32> {
        if let Some(index) = self.index(name)? {
            return Ok(index);
        }
        let mut m = LinkMessage::default();
        m.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Address(mac.to_vec()),
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

    /// Keeps a bridge's port from speaking to the bridge's other ports of that kind; the bridge itself it reaches.
    pub(crate) fn isolate(&self, name: &str) -> Result<()> {
        let mut m = LinkMessage::default();
        m.header.index = self.existing(name)?;
        m.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)])),
        ]));
        self.set(&format!("isolate bridge port {name}"), Message::NewLink(m), 0)
    }

    /// Makes a link `inner` over link `parent` inside the namespace `netns`.
    pub(crate) fn add_over(
        &self,
        parent: u32,
        inner: &str,
        netns: RawFd,
        mac: Option<[u8; 6]>,
        (kind, data): (InfoKind, InfoData),
    ) -> Result<()> {
        let mut m = LinkMessage::default();
        m.attributes = vec![
            LinkAttribute::IfName(inner.to_owned()),
            LinkAttribute::Link(parent),
            LinkAttribute::NetNsFd(netns),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]),
        ];
        m.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        self.set(&format!("make {inner} over its parent"), Message::NewLink(m), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes the VLAN link `name` with number `id` on link `parent`, and sets it up.
    pub(crate) fn add_vlan(&self, name: &str, parent: u32, id: u16) -> Result<()> {
        let mut m = LinkMessage::default();
        m.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Link(parent),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id)])),
            ]),
        ];
        self.set(&format!("make VLAN link {name}"), Message::NewLink(m), NLM_F_CREATE | NLM_F_EXCL)?;
        self.up(self.existing(name)?)
    }

    /// Makes a link that leads nowhere, and sets it up.
    pub(crate) fn add_dummy(&self, name: &str) -> Result<()> {
        let mut m = LinkMessage::default();
        m.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)]),
        ];
        self.set(&format!("make link {name}"), Message::NewLink(m), NLM_F_CREATE | NLM_F_EXCL)?;
        self.up(self.existing(name)?)
    }

    /// Gives a link that is not up another name.
    pub(crate) fn rename(&self, index: u32, name: &str) -> Result<()> {
        let mut m = LinkMessage::default();
        m.header.index = index;
        m.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.set(&format!("name a link {name}"), Message::SetLink(m), 0)
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

    /// Gives a link an address that may be used at once; already having it is fine.
    pub(crate) fn add_address(&self, index: u32, address: IpNet) -> Result<()> {
        let mut m = AddressMessage::default();
        m.header.prefix_len = address.prefix_len();
        m.header.index = index;
        m.attributes =
            vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
        match address {
            IpNet::V4(v4) => {
                m.header.family = AddressFamily::Inet;
                m.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
            }
            IpNet::V6(_) => {
                m.header.family = AddressFamily::Inet6;
                // The engine gives no address twice: nothing to wait for.
                m.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
        }
        match self.set(&format!("add address {address}"), Message::NewAddress(m), NLM_F_CREATE | NLM_F_EXCL) {
            Err(e) if e.code() == Code::Conflict => Ok(()),
            other => other,
        }
    }

    /// Sets the default route of its version, in place of another if there is one; `index` is the link it leaves by.
    pub(crate) fn set_way_out(&self, index: u32, way: WayOut) -> Result<()> {
        let family = if way.is_v6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let (what, to) = match way {
            WayOut::Gateway(ip) => {
                let via = match ip {
                    IpAddr::V4(ip) => RouteAddress::Inet(ip),
                    IpAddr::V6(ip) => RouteAddress::Inet6(ip),
                };
                (format!("set default route via {ip}"), RouteAttribute::Gateway(via))
            }
            WayOut::Link { .. } => ("set default route".to_owned(), RouteAttribute::Oif(index)),
        };
        self.default_route(&what, family, to, NLM_F_REPLACE)
    }

    fn default_route(&self, what: &str, family: AddressFamily, to: RouteAttribute, flags: u16) -> Result<()> {
        let mut m = RouteMessage::default();
        m.header = RouteHeader {
            address_family: family,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Boot,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        m.attributes = vec![to];
        self.set(what, Message::NewRoute(m), NLM_F_CREATE | flags)
    }

    /// All addresses of this host.
    pub(crate) fn addresses(&self) -> Result<Vec<IpAddr>> {
        let answers =
            self.request("list addresses", Message::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
        let address = |answer| {
            let Message::NewAddress(m) = answer else { return None };
            let of = |a: &AddressAttribute| match a {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            };
            let or = |a: &AddressAttribute| match a {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            };
            m.attributes.iter().find_map(of).or_else(|| m.attributes.iter().find_map(or))
        };
        Ok(answers.into_iter().filter_map(address).collect())
    }

    /// The IPv4 destinations that are routed here already (no default route).
    pub(crate) fn routes(&self) -> Result<Vec<Ipv4Net>> {
        let all = self.routes_of(AddressFamily::Inet)?;
        Ok(all
            .into_iter()
            .filter_map(|net| if let IpNet::V4(net) = net { Some(net) } else { None })
            .collect())
    }

    fn routes_of(&self, family: AddressFamily) -> Result<Vec<IpNet>> {
        let mut m = RouteMessage::default();
        m.header.address_family = family;
        let answers = self.request("list routes", Message::GetRoute(m), NLM_F_DUMP)?;
        let destination = |answer| {
            let Message::NewRoute(r) = answer else { return None };
            let prefix = r.header.destination_prefix_length;
            // Every table counts: VPNs keep their routes in tables of their own. Broadcast and local addresses
            // stand in the kernel's table and are within the others' anyway.
            if r.header.table == LOCAL_TABLE || prefix < WIDEST_ROUTE {
                return None;
            }
            r.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) => IpNet::new((*ip).into(), prefix).ok(),
                RouteAttribute::Destination(RouteAddress::Inet6(ip)) => IpNet::new((*ip).into(), prefix).ok(),
                _ => None,
            })
        };
        Ok(answers.into_iter().filter_map(destination).collect())
    }
}
