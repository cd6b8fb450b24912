//! Bridge networks: the link, its rules, and a container's end.
//!
//! Firewall rules stand in a table of our own, `inet coracle`, one pair of chains per network, replaced in one
//! atomic batch; no other table is touched. Starting a container changes no rule.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::Path;

use ipnet::Ipv4Net;
use rand::Rng;

use crate::error::{Code, Error, Result};
use crate::netlink::Netlink;
use crate::sys;

/// A bridge network as the kernel is to have it.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// The link's name, at most 15 bytes.
    pub link: String,
    /// Addresses of the network.
    pub subnet: Ipv4Net,
    /// The bridge's own address, the containers' way out.
    pub gateway: Ipv4Addr,
    /// No way in or out of the network.
    pub internal: bool,
    /// Containers may talk to each other.
    pub icc: bool,
    /// What leaves gets the host's address.
    pub masquerade: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
}

/// A container's end of a network.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The link's name inside (`eth0`).
    pub interface: String,
    /// Address with the network's prefix.
    pub address: Ipv4Net,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Default route, if this network gives it.
    pub gateway: Option<Ipv4Addr>,
}

impl Endpoint {
    /// A random, locally administered hardware address.
    pub fn random_mac() -> [u8; 6] {
        let mut mac: [u8; 6] = rand::rng().random();
        mac[0] = (mac[0] & 0xfc) | 0x02;
        mac
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::new(Code::Internal, e.to_string()))?
}

/// Makes the bridge and its rules so, whatever was there of them before.
pub async fn ensure(bridge: &Bridge) -> Result<()> {
    let b = bridge.clone();
    blocking(move || {
        let netlink = Netlink::open()?;
        let index = netlink.add_bridge(&b.link, b.mtu)?;
        let address = Ipv4Net::new(b.gateway, b.subnet.prefix_len())
            .map_err(|e| Error::new(Code::InvalidArgument, e.to_string()))?;
        netlink.add_address(index, address)?;
        netlink.up(index)?;
        if !b.internal {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
                .map_err(|e| Error::io("switch on IPv4 forwarding", &e))?;
        }
        Ok(())
    })
    .await?;
    sys::nft(&rules(bridge)).await
}

/// [`ensure`], if the link is not there yet: what a container's start calls, one netlink question when it is.
pub async fn ensure_once(bridge: &Bridge) -> Result<()> {
    static MADE: std::sync::Mutex<BTreeSet<String>> = std::sync::Mutex::new(BTreeSet::new());
    static MAKING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let link = bridge.link.clone();
    let known = || MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(&bridge.link);
    let there = move || blocking(move || Ok(Netlink::open()?.index(&link)?.is_some()));
    if known() && there.clone()().await? {
        return Ok(());
    }
    // Rules of an earlier engine may be old or flushed: the first use by this process writes them again.
    let _one_at_a_time = MAKING.lock().await;
    if known() && there().await? {
        return Ok(());
    }
    ensure(bridge).await?;
    MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(bridge.link.clone());
    Ok(())
}

/// Removes the bridge and its rules.
pub async fn remove(link: &str) -> Result<()> {
    sys::nft(&removal(link)).await?;
    let link = link.to_owned();
    blocking(move || Netlink::open()?.delete(&link)).await
}

/// Our table and its base chains, made if they are not there. `user` is asked first and never touched again:
/// a person's own rules for forwarded packets go there, like Docker's DOCKER-USER.
const BASE: &str = "\
add table inet coracle
add chain inet coracle user
add chain inet coracle forward { type filter hook forward priority filter; policy accept; }
add chain inet coracle postrouting { type nat hook postrouting priority srcnat; policy accept; }
add map inet coracle networks { type ifname : verdict; }
add map inet coracle from { type ifname : verdict; }
flush chain inet coracle forward
add rule inet coracle forward jump user
add rule inet coracle forward oifname vmap @networks
add rule inet coracle forward iifname vmap @from
";

/// The rules of one network, replacing older ones of the same link.
fn rules(b: &Bridge) -> String {
    let link = &b.link;
    let mut text = removal(link);
    let mut add = |rule: String| {
        text.push_str("add ");
        text.push_str(&rule);
        text.push('\n');
    };
    add(format!("chain inet coracle to-{link}"));
    add(format!("chain inet coracle from-{link}"));
    add(format!(
        "chain inet coracle nat-{link} {{ type nat hook postrouting priority srcnat; policy accept; }}"
    ));
    let icc = if b.icc { "accept" } else { "drop" };
    add(format!("rule inet coracle to-{link} iifname {link} {icc}"));
    add(format!("rule inet coracle to-{link} ct state established,related accept"));
    // Nothing comes in from elsewhere by itself: published ports enter through the engine's listeners.
    add(format!("rule inet coracle to-{link} drop"));
    add(format!("rule inet coracle from-{link} {}", if b.internal { "drop" } else { "accept" }));
    if b.masquerade && !b.internal {
        add(format!("rule inet coracle nat-{link} ip saddr {} oifname != {link} masquerade", b.subnet));
    }
    add(format!("element inet coracle networks {{ {link} : jump to-{link} }}"));
    add(format!("element inet coracle from {{ {link} : jump from-{link} }}"));
    text
}

/// Removes a network's rules whether or not they are there: `add` first makes `delete` succeed.
fn removal(link: &str) -> String {
    let mut text = String::from(BASE);
    for map in [("networks", "to"), ("from", "from")] {
        let (name, chain) = map;
        text.push_str(&format!("add chain inet coracle {chain}-{link}\n"));
        text.push_str(&format!("add element inet coracle {name} {{ {link} : jump {chain}-{link} }}\n"));
        text.push_str(&format!("delete element inet coracle {name} {{ {link} }}\n"));
        text.push_str(&format!("flush chain inet coracle {chain}-{link}\n"));
        text.push_str(&format!("delete chain inet coracle {chain}-{link}\n"));
    }
    text.push_str(&format!(
        "add chain inet coracle nat-{link} {{ type nat hook postrouting priority srcnat; policy accept; }}\n\
         flush chain inet coracle nat-{link}\ndelete chain inet coracle nat-{link}\n"
    ));
    text
}

/// Gives the namespace at `netns` a link to the bridge. Answers the host end's name.
pub async fn attach(bridge: &Bridge, netns: &Path, endpoint: &Endpoint) -> Result<String> {
    let host = format!("veth{:08x}", rand::rng().random::<u32>());
    let (b, e, name, path) = (bridge.clone(), endpoint.clone(), host.clone(), netns.to_owned());
    blocking(move || {
        let ns = File::open(&path).map_err(|e| Error::io("open the container's network namespace", &e))?;
        let netlink = Netlink::open()?;
        let index = netlink
            .index(&b.link)?
            .ok_or_else(|| Error::new(Code::NotFound, format!("bridge {} is gone", b.link)))?;
        netlink.add_veth(&name, index, &e.interface, ns.as_raw_fd(), e.mac, b.mtu)
    })
    .await?;
    let e = endpoint.clone();
    let configured = sys::in_netns(netns, move || {
        let netlink = Netlink::open()?;
        let index = netlink
            .index(&e.interface)?
            .ok_or_else(|| Error::new(Code::Internal, format!("{} did not appear", e.interface)))?;
        netlink.add_address(index, e.address)?;
        netlink.up(index)?;
        match e.gateway {
            Some(gateway) => netlink.set_default_route(gateway),
            None => Ok(()),
        }
    })
    .await;
    match configured {
        Ok(()) => Ok(host),
        Err(error) => {
            let link = host.clone();
            if let Err(e) = blocking(move || Netlink::open()?.delete(&link)).await {
                tracing::warn!("{host} is left behind: {e}");
            }
            Err(error)
        }
    }
}

/// Sends what the namespace at `netns` has no route for to `gateway`, in place of where it went before.
pub async fn set_default_route(netns: &Path, gateway: Ipv4Addr) -> Result<()> {
    sys::in_netns(netns, move || Netlink::open()?.set_default_route(gateway)).await
}

/// Removes a host end (and so the container's). One that died with its namespace is fine.
pub async fn detach(host_link: &str) -> Result<()> {
    let link = host_link.to_owned();
    blocking(move || Netlink::open()?.delete(&link)).await
}
