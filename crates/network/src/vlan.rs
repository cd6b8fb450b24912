//! macvlan and ipvlan networks: containers stand beside the host on one of its links.

use std::os::fd::RawFd;

use netlink_packet_route::link::{
    InfoData, InfoIpVlan, InfoKind, InfoMacVlan, IpVlanFlags, IpVlanMode, MacVlanMode,
};

use crate::bridge::blocking;
use crate::error::{Code, Error, Result};
use crate::netlink::Netlink;

/// A network over a link of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// How containers share it.
    pub mode: VlanMode,
    /// The link.
    pub parent: Parent,
}

/// How containers share the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VlanMode {
    /// Each has a hardware address.
    Macvlan(Macvlan),
    /// All have the link's hardware address.
    Ipvlan(Ipvlan, IpvlanFlag),
}

/// Modes of macvlan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Macvlan {
    Bridge,
    Private,
    Vepa,
    Passthru,
}

/// Modes of ipvlan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Ipvlan {
    L2,
    L3,
    L3s,
}

/// Who may speak to whom in an ipvlan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum IpvlanFlag {
    Bridge,
    Private,
    Vepa,
}

/// The link below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parent {
    /// One of the host's.
    Given(String),
    /// A VLAN `id` on one of the host's, ours to make and remove: `eth0.10`.
    Tagged {
        /// Its name.
        name: String,
        /// The link below it.
        below: String,
        /// VLAN number, 1 to 4094.
        id: u16,
    },
    /// One that leads nowhere, ours to make and remove.
    Dummy(String),
}

impl Parent {
    /// The link's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Given(name) | Self::Tagged { name, .. } | Self::Dummy(name) => name,
        }
    }
}

/// Makes the link below, if it is ours to make and not there.
pub async fn ensure_parent(parent: &Parent) -> Result<()> {
    let parent = parent.clone();
    blocking(move || {
        let netlink = Netlink::open()?;
        if netlink.index(parent.name())?.is_some() {
            return Ok(());
        }
        match &parent {
            Parent::Given(name) => Err(missing(name)),
            Parent::Dummy(name) => netlink.add_dummy(name),
            Parent::Tagged { name, below, id } => {
                let below = netlink.index(below)?.ok_or_else(|| missing(below))?;
                netlink.add_vlan(name, below, *id)
            }
        }
    })
    .await
}

fn missing(name: &str) -> Error {
    Error::new(Code::NotFound, format!("-o parent interface was not found on the host: {name}"))
}

/// Removes the link below, if it is ours.
pub async fn remove_parent(parent: &Parent) -> Result<()> {
    let name = match parent {
        Parent::Given(_) => return Ok(()),
        Parent::Tagged { name, .. } | Parent::Dummy(name) => name.clone(),
    };
    blocking(move || Netlink::open()?.delete(&name)).await
}

/// Makes a container's link of this name and hardware address over the parent, inside the namespace `netns`.
pub(crate) fn add(netlink: &Netlink, vlan: &Vlan, (link, mac): (&str, [u8; 6]), netns: RawFd) -> Result<()> {
    let name = vlan.parent.name();
    let parent = netlink.index(name)?.ok_or_else(|| missing(name))?;
    let (mac, kind) = match vlan.mode {
        VlanMode::Macvlan(mode) => {
            let mode = match mode {
                Macvlan::Bridge => MacVlanMode::Bridge,
                Macvlan::Private => MacVlanMode::Private,
                Macvlan::Vepa => MacVlanMode::Vepa,
                Macvlan::Passthru => MacVlanMode::Passthrough,
            };
            (Some(mac), (InfoKind::MacVlan, InfoData::MacVlan(vec![InfoMacVlan::Mode(mode)])))
        }
        VlanMode::Ipvlan(mode, flag) => {
            let mode = match mode {
                Ipvlan::L2 => IpVlanMode::L2,
                Ipvlan::L3 => IpVlanMode::L3,
                Ipvlan::L3s => IpVlanMode::L3S,
            };
            let flag = match flag {
                IpvlanFlag::Bridge => IpVlanFlags::empty(),
                IpvlanFlag::Private => IpVlanFlags::Private,
                IpvlanFlag::Vepa => IpVlanFlags::Vepa,
            };
            let data = vec![InfoIpVlan::Mode(mode), InfoIpVlan::Flags(flag)];
            (None, (InfoKind::IpVlan, InfoData::IpVlan(data)))
        }
    };
    netlink.add_over(parent, link, netns, mac, kind)
}
