//! Bridge networks: the link and a container's end. Their rules are [`crate::firewall`]'s.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use rand::Rng;

use crate::error::{Code, Error, Result};
use crate::firewall::Firewall;
use crate::netlink::Netlink;
use crate::sys;
use crate::vlan::{self, Vlan};

/// A bridge network as the kernel is to have it.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// The link's name, at most 15 bytes.
    pub link: String,
    /// Its addresses: of one version of IP, or of each.
    pub sides: Vec<Side>,
    /// No way in or out of the network.
    pub internal: bool,
    /// The bridge itself has no address: not even this host is reached.
    pub isolated: bool,
    /// Containers may talk to each other.
    pub icc: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
}

/// A bridge network's addresses of one version of IP.
#[derive(Clone, Debug)]
pub struct Side {
    /// Addresses of the network.
    pub subnet: IpNet,
    /// The bridge's own address, the containers' way out; of the subnet's version.
    pub gateway: IpAddr,
    /// What leaves gets the host's address.
    pub masquerade: bool,
    /// What may come in from outside.
    pub entry: Entry,
}

impl Bridge {
    /// Its addresses of IPv4, or of IPv6.
    pub fn side(&self, v6: bool) -> Option<&Side> {
        self.sides.iter().find(|side| side.gateway.is_ipv6() == v6)
    }
}

/// What may come into a network from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Entry {
    /// What is published on this host's ports.
    #[default]
    Published,
    /// What is sent to the containers' own addresses, at their published ports; nothing is translated, either way.
    Routed,
    /// The first, and all that is sent to the containers' own addresses.
    All,
}

/// What a container's end is an end of.
#[derive(Clone, Debug)]
pub enum Carrier {
    /// A bridge and a veth pair.
    Bridge(Bridge),
    /// A link over one of the host's.
    Vlan(Vlan),
}

/// A container's end of a network.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The link's name inside (`eth0`).
    pub interface: String,
    /// Addresses with the network's prefixes.
    pub addresses: Vec<IpNet>,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Default routes, if this network gives them: one at most for each version of IP.
    pub ways_out: Vec<WayOut>,
}

/// A default route of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WayOut {
    /// By the address of a router.
    Gateway(IpAddr),
    /// Out of the link itself, of IPv4 or IPv6.
    Link {
        /// IPv6.
        v6: bool,
    },
}

impl WayOut {
    /// Whether it is one of IPv6.
    pub fn is_v6(&self) -> bool {
        match self {
            Self::Gateway(ip) => ip.is_ipv6(),
            Self::Link { v6 } => *v6,
        }
    }
}

impl Endpoint {
    /// A random, locally administered hardware address.
    pub fn random_mac() -> [u8; 6] {
        let mut mac: [u8; 6] = rand::rng().random();
        mac[0] = (mac[0] & 0xfc) | 0x02;
        mac
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::new(Code::Internal, e.to_string()))?
}

/// Writes a setting below `/proc/sys/net` of the namespace this thread is in.
fn sysctl(path: &str, value: &str) -> Result<()> {
    std::fs::write(format!("/proc/sys/net/{path}"), value)
        .map_err(|e| Error::io(&format!("set net/{path}"), &e))
}

/// Makes the bridge and its rules so, whatever was there of them before.
pub async fn ensure(firewall: &Arc<Firewall>, bridge: &Bridge) -> Result<()> {
    let b = bridge.clone();
    blocking(move || {
        let netlink = Netlink::open()?;
        let index = netlink.add_bridge(&b.link, b.mtu, Endpoint::random_mac())?;
        if !b.isolated {
            for side in &b.sides {
                let net = IpNet::new(side.gateway, side.subnet.prefix_len());
                let net = net.map_err(|e| Error::new(Code::InvalidArgument, e.to_string()))?;
                netlink.add_address(index, net)?;
            }
        }
        netlink.up(index)?;
        if !b.internal {
            if b.side(false).is_some() {
                sysctl("ipv4/ip_forward", "1")?;
            }
            if b.side(true).is_some() {
                forward_v6()?;
            }
        }
        Ok(())
    })
    .await?;
    firewall.ensure(bridge).await?;
    if bridge.internal || bridge.side(false).is_none() {
        return Ok(());
    }
    // Ports published on loopback are led to the bridge from there. What arrives from the bridge itself for a
    // loopback address is dropped by a rule that stands by now.
    let path = format!("ipv4/conf/{}/route_localnet", bridge.link);
    blocking(move || sysctl(&path, "1")).await
}

/// Makes this host a router of IPv6. A router does not listen to others' router advertisements, unless told to:
/// links that did go on so, else this host would lose its own way out.
fn forward_v6() -> Result<()> {
    const CONF: &str = "/proc/sys/net/ipv6/conf";
    if std::fs::read_to_string(format!("{CONF}/all/forwarding")).is_ok_and(|v| v.trim() == "1") {
        return Ok(());
    }
    for entry in std::fs::read_dir(CONF).into_iter().flatten().flatten() {
        let path = entry.path().join("accept_ra");
        if std::fs::read_to_string(&path).is_ok_and(|v| v.trim() == "1") {
            // A link may go away meanwhile.
            let _ = std::fs::write(&path, "2");
        }
    }
    sysctl("ipv6/conf/all/forwarding", "1")
}

/// [`ensure`], if the link is not there yet: what a container's start calls, one netlink question when it is.
pub async fn ensure_once(firewall: &Arc<Firewall>, bridge: &Bridge) -> Result<()> {
    static MAKING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let link = bridge.link.clone();
    let there = move || blocking(move || Ok(Netlink::open()?.index(&link)?.is_some()));
    // Rules of an earlier engine may be old or flushed: the first use by this process writes them again.
    if firewall.has(&bridge.link).await && there.clone()().await? {
        return Ok(());
    }
    let _one_at_a_time = MAKING.lock().await;
    if firewall.has(&bridge.link).await && there().await? {
        return Ok(());
    }
    ensure(firewall, bridge).await
}

/// Whether there is a link of that name.
pub async fn link_exists(name: &str) -> Result<bool> {
    let name = name.to_owned();
    blocking(move || Ok(Netlink::open()?.index(&name)?.is_some())).await
}

/// Removes the bridge's rules, and its link unless that was there before us.
pub async fn remove(firewall: &Arc<Firewall>, link: &str, keep_link: bool) -> Result<()> {
    firewall.remove(link).await?;
    if keep_link {
        return Ok(());
    }
    let link = link.to_owned();
    blocking(move || Netlink::open()?.delete(&link)).await
}

/// Gives the namespace at `netns` a link of the network. Answers the host end's name; a link over one of the
/// host's has none.
pub async fn attach(carrier: &Carrier, netns: &Path, endpoint: &Endpoint) -> Result<String> {
    let number: u32 = rand::rng().random();
    let (host, made) = match carrier {
        Carrier::Bridge(_) => (format!("veth{number:08x}"), endpoint.interface.clone()),
        // The kernel looks for the name where the link is asked for, too: in a machine that has an eth0 of its own none
        // could be made for a container. It gets its own name inside.
        Carrier::Vlan(_) => (String::new(), format!("vlan{number:08x}")),
    };
    let (c, e, name, path) = (carrier.clone(), endpoint.clone(), host.clone(), netns.to_owned());
    let inner = made.clone();
    blocking(move || {
        let ns = File::open(&path).map_err(|e| Error::io("open the container's network namespace", &e))?;
        let netlink = Netlink::open()?;
        match c {
            Carrier::Bridge(b) => {
                let index = netlink
                    .index(&b.link)?
                    .ok_or_else(|| Error::new(Code::NotFound, format!("bridge {} is gone", b.link)))?;
                netlink.add_veth(&name, index, &e.interface, ns.as_raw_fd(), e.mac, b.mtu)?;
                if b.icc { Ok(()) } else { netlink.isolate(&name) }
            }
            Carrier::Vlan(vlan) => vlan::add(&netlink, &vlan, (&inner, e.mac), ns.as_raw_fd()),
        }
    })
    .await?;
    let e = endpoint.clone();
    let configured = sys::in_netns(netns, move || named(&made, &e).and_then(|()| configure(&e))).await;
    if configured.is_err()
        && let Err(e) = detach(&host, netns, &endpoint.interface).await
    {
        tracing::warn!("{host} is left behind: {e}");
    }
    configured.map(|()| host)
}

/// Gives the link `made` its name; runs inside the container's namespace. One that can't have it is removed.
fn named(made: &str, e: &Endpoint) -> Result<()> {
    if made == e.interface {
        return Ok(());
    }
    let netlink = Netlink::open()?;
    let index = netlink
        .index(made)?
        .ok_or_else(|| Error::new(Code::Internal, format!("{} did not appear", e.interface)))?;
    netlink.rename(index, &e.interface).inspect_err(|_| {
        if let Err(e) = netlink.delete(made) {
            tracing::warn!("{made} is left behind: {e}");
        }
    })
}

/// Gives the link its addresses and routes; runs inside the container's namespace.
fn configure(e: &Endpoint) -> Result<()> {
    let netlink = Netlink::open()?;
    let index = netlink
        .index(&e.interface)?
        .ok_or_else(|| Error::new(Code::Internal, format!("{} did not appear", e.interface)))?;
    // A network without IPv6 has none of its link-local addresses either, as with dockerd. A kernel without IPv6
    // has nothing to switch.
    let v6 = e.addresses.iter().any(|a| matches!(a, IpNet::V6(_)));
    let switched = sysctl(&format!("ipv6/conf/{}/disable_ipv6", e.interface), if v6 { "0" } else { "1" });
    if v6 {
        switched?;
    }
    for address in &e.addresses {
        netlink.add_address(index, *address)?;
    }
    netlink.up(index)?;
    e.ways_out.iter().try_for_each(|way| netlink.set_way_out(index, *way))
}

/// Sends what the namespace at `netns` has no route for that way, by its link `interface`, in place of where its
/// version went before.
pub async fn set_way_out(netns: &Path, interface: &str, way: WayOut) -> Result<()> {
    let link = interface.to_owned();
    sys::in_netns(netns, move || {
        let netlink = Netlink::open()?;
        let index = netlink.index(&link)?;
        netlink.set_way_out(index.ok_or_else(|| Error::new(Code::NotFound, format!("{link} is gone")))?, way)
    })
    .await
}

/// Removes a container's end: by the host end of a veth pair, or inside the namespace where there is none. One that
/// died with its namespace is fine.
pub async fn detach(host_link: &str, netns: &Path, interface: &str) -> Result<()> {
    if host_link.is_empty() {
        let link = interface.to_owned();
        return sys::in_netns(netns, move || Netlink::open()?.delete(&link)).await;
    }
    let link = host_link.to_owned();
    blocking(move || Netlink::open()?.delete(&link)).await
}
