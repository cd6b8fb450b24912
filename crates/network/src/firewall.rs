//! Firewall rules: a table of our own, `inet coracle`, changed in atomic batches; no other table is touched.
//!
//! ```text
//!  raw          to 127/8 from a bridge: dropped (the bridges route it, for published ports on loopback)
//!  prerouting   ) to an address of this host, not from a container: looked up in the maps of published ports, sent
//!  output       ) to the container
//!  forward      user (a person's own rules, asked first, never touched: like Docker's DOCKER-USER)
//!               -> from internal networks: dropped -> to-<bridge>: from the bridge itself, answers and
//!               published ports pass, the rest is dropped
//!  nat-<bridge> what leaves the network gets the host's address
//! ```
//! Starting a container changes no rule; publishing a port changes an element of a map. [`Firewall`] knows what is
//! to be there and writes all of it again when somebody else removed the table (`nft flush ruleset`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;

use crate::bridge::{Bridge, Entry};
use crate::error::Result;
use crate::ports::Protocol;
use crate::{sys, watch};

/// A published port as the kernel is to have it: what arrives for `at` goes to `target`, of the same family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Transport.
    pub protocol: Protocol,
    /// Address of this host, or unspecified for all of them, and port.
    pub at: SocketAddr,
    /// The container's address and port.
    pub target: SocketAddr,
}

/// The owner of the table.
#[derive(Default)]
pub struct Firewall {
    /// Held while `nft` runs: changes follow one another.
    wanted: tokio::sync::Mutex<Wanted>,
    watched: AtomicBool,
}

#[derive(Default)]
struct Wanted {
    bridges: BTreeMap<String, Bridge>,
    ports: BTreeMap<String, Vec<Redirect>>,
    /// Ports of containers to which who routes there may come, of networks without translation.
    admitted: BTreeMap<String, Vec<(Protocol, SocketAddr)>>,
    /// Bridges whose rules this process has written: those of an earlier engine may be old.
    written: BTreeSet<String>,
    /// Whether the maps of published ports are known to be there.
    maps: bool,
}

impl Firewall {
    /// Writes the rules of a network, in place of older ones of the same link.
    pub async fn ensure(self: &Arc<Self>, bridge: &Bridge) -> Result<()> {
        self.watch();
        let mut wanted = self.wanted.lock().await;
        sys::nft(&format!("{BASE}{}", rules(bridge))).await?;
        wanted.bridges.insert(bridge.link.clone(), bridge.clone());
        wanted.written.insert(bridge.link.clone());
        Ok(())
    }

    /// Whether this process has written the network's rules.
    pub async fn has(&self, link: &str) -> bool {
        self.wanted.lock().await.written.contains(link)
    }

    /// Removes the rules of a network.
    pub async fn remove(&self, link: &str) -> Result<()> {
        let mut wanted = self.wanted.lock().await;
        wanted.bridges.remove(link);
        wanted.written.remove(link);
        sys::nft(&format!("{BASE}{}", removal(link))).await
    }

    /// Lets in what comes to these ports of `owner`'s own addresses, in networks whose addresses the world knows.
    pub async fn admit(&self, owner: &str, ports: Vec<(Protocol, SocketAddr)>) -> Result<()> {
        let mut wanted = self.wanted.lock().await;
        sys::nft(&format!("{BASE}{}", elements("add", &ports))).await?;
        wanted.admitted.entry(owner.to_owned()).or_default().extend(ports);
        Ok(())
    }

    /// Lets nobody in to `owner`'s any more; nothing is fine.
    pub async fn dismiss(&self, owner: &str) {
        let mut wanted = self.wanted.lock().await;
        let Some(gone) = wanted.admitted.remove(owner) else { return };
        // Added first: one that somebody else removed can be removed.
        let text = format!("{BASE}{}{}", elements("add", &gone), elements("delete", &gone));
        if let Err(e) = sys::nft(&text).await {
            tracing::warn!("ports of {owner} stay open to who routes there: {e}");
        }
    }

    /// Sends what arrives for published ports to their containers, besides what `owner` has already.
    pub async fn publish(self: &Arc<Self>, owner: &str, redirects: Vec<Redirect>) -> Result<()> {
        self.watch();
        let mut wanted = self.wanted.lock().await;
        let mut text = String::new();
        if !wanted.maps {
            // Maps left by an earlier engine are not known to be right.
            text = wanted.ports_text();
        }
        for redirect in &redirects {
            text.push_str(&format!("add element inet coracle {}\n", redirect.element()));
        }
        let written = sys::nft(&text).await;
        if written.is_err() && wanted.maps {
            // The table was removed and is not restored yet, or an element is there that should not be.
            let again: String = wanted.ports_text();
            let more = redirects.iter().map(|r| format!("add element inet coracle {}\n", r.element()));
            sys::nft(&format!("{again}{}", more.collect::<String>())).await?;
        } else {
            written?;
        }
        wanted.maps = true;
        wanted.ports.entry(owner.to_owned()).or_default().extend(redirects);
        Ok(())
    }

    /// Takes the ports of `owner` out again.
    pub async fn withdraw(&self, owner: &str) -> Result<Vec<Redirect>> {
        let mut wanted = self.wanted.lock().await;
        let Some(gone) = wanted.ports.remove(owner) else { return Ok(Vec::new()) };
        let elements = gone.iter().map(|r| format!("delete element inet coracle {}\n", r.key()));
        if sys::nft(&elements.collect::<String>()).await.is_err() {
            // Somebody else removed them: what is left is what is wanted.
            sys::nft(&wanted.ports_text()).await?;
        }
        Ok(gone)
    }

    /// After a restart of the engine: these networks have running containers, and these ports of theirs are open. Their
    /// rules are written with the next change.
    pub async fn found(&self, bridges: Vec<Bridge>, admitted: BTreeMap<String, Vec<(Protocol, SocketAddr)>>) {
        let mut wanted = self.wanted.lock().await;
        wanted.bridges.extend(bridges.into_iter().map(|b| (b.link.clone(), b)));
        wanted.admitted = admitted;
    }

    /// After a restart of the engine: what is there of an earlier one is replaced by what runs still. In a task of
    /// its own: what runs has its rules already, and who starts an engine does not wait for those of what does not.
    pub async fn restore_ports(self: &Arc<Self>, ports: BTreeMap<String, Vec<Redirect>>) {
        self.wanted.lock().await.ports = ports;
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(e) = this.replace_left_over().await {
                tracing::error!("rules of an earlier engine are not replaced: {e}");
            }
        });
    }

    async fn replace_left_over(self: &Arc<Self>) -> Result<()> {
        let mut wanted = self.wanted.lock().await;
        if wanted.bridges.is_empty() && wanted.ports.is_empty() && !sys::nft_has_table("coracle").await? {
            return Ok(());
        }
        self.watch();
        wanted.maps = true;
        wanted.write_all().await
    }

    /// Writes everything again: somebody else removed the table.
    pub(crate) async fn rewrite(&self) -> Result<()> {
        self.wanted.lock().await.write_all().await
    }

    fn watch(self: &Arc<Self>) {
        if !self.watched.swap(true, Ordering::Relaxed)
            && let Err(e) = watch::start(self)
        {
            tracing::warn!("rules that somebody else removes are not restored: {e}");
        }
    }
}

impl Wanted {
    async fn write_all(&mut self) -> Result<()> {
        let mut text = String::from(BASE);
        for family in [4, 6] {
            text.push_str(&format!("flush set inet coracle routed{family}\n"));
        }
        for ports in self.admitted.values() {
            text.push_str(&elements("add", ports));
        }
        for bridge in self.bridges.values() {
            text.push_str(&rules(bridge));
        }
        // In a machine the host has the ports: no maps, and no modules for them.
        if self.maps {
            text.push_str(&self.ports_text());
        }
        sys::nft(&text).await?;
        self.written = self.bridges.keys().cloned().collect();
        Ok(())
    }

    /// The maps and chains of published ports with all that is in them.
    fn ports_text(&self) -> String {
        let mut text = format!("{BASE}{PORTS}");
        for redirect in self.ports.values().flatten() {
            text.push_str(&format!("add element inet coracle {}\n", redirect.element()));
        }
        text
    }
}

/// Changes of the sets of ports that are open without translation.
fn elements(verb: &str, ports: &[(Protocol, SocketAddr)]) -> String {
    let line = |(protocol, at): &(Protocol, SocketAddr)| {
        let family = if at.is_ipv4() { 4 } else { 6 };
        let (protocol, ip, port) = (protocol.name(), at.ip(), at.port());
        format!("{verb} element inet coracle routed{family} {{ {protocol} . {ip} . {port} }}\n")
    };
    ports.iter().map(line).collect()
}

impl Redirect {
    /// The map it is in and its key there.
    fn map_and_key(&self) -> (String, String) {
        let (family, protocol, port) =
            (if self.at.is_ipv4() { 4 } else { 6 }, self.protocol.name(), self.at.port());
        if self.at.ip().is_unspecified() {
            (format!("any{family}"), format!("{protocol} . {port}"))
        } else {
            (format!("pub{family}"), format!("{protocol} . {} . {port}", self.at.ip()))
        }
    }

    fn key(&self) -> String {
        let (map, key) = self.map_and_key();
        format!("{map} {{ {key} }}")
    }

    fn element(&self) -> String {
        let (map, key) = self.map_and_key();
        format!("{map} {{ {key} : {} . {} }}", self.target.ip(), self.target.port())
    }

    /// Whether the kernel can do it: both ends of one family. IPv6's loopback cannot be led elsewhere.
    pub(crate) fn is_possible(&self) -> bool {
        self.at.is_ipv4() == self.target.is_ipv4()
            && self.at.ip() != IpAddr::from(std::net::Ipv6Addr::LOCALHOST)
    }
}

/// Our table and its base chains, made if they are not there.
const BASE: &str = "\
add table inet coracle
add chain inet coracle user
add chain inet coracle raw { type filter hook prerouting priority raw; policy accept; }
add chain inet coracle forward { type filter hook forward priority filter; policy accept; }
add map inet coracle networks { type ifname : verdict; }
add map inet coracle from { type ifname : verdict; }
add set inet coracle bridges { type ifname; }
add set inet coracle routed4 { type inet_proto . ipv4_addr . inet_service; }
add set inet coracle routed6 { type inet_proto . ipv6_addr . inet_service; }
flush chain inet coracle raw
add rule inet coracle raw iifname @bridges ip daddr 127.0.0.0/8 drop
flush chain inet coracle forward
add rule inet coracle forward jump user
add rule inet coracle forward iifname vmap @from
add rule inet coracle forward oifname vmap @networks
";

/// Published ports: a map per family, and one for ports on all addresses of this host. Packets from elsewhere for
/// a loopback address are left to the kernel, which drops them. Containers are served by the engine's sockets: what a
/// bridge hands to these rules (br_netfilter) may go back to the port it came from, and would be lost.
const PORTS: &str = "\
add map inet coracle pub4 { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }
add map inet coracle any4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
add map inet coracle pub6 { type inet_proto . ipv6_addr . inet_service : ipv6_addr . inet_service; }
add map inet coracle any6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
add chain inet coracle published
add chain inet coracle prerouting { type nat hook prerouting priority -100; policy accept; }
add chain inet coracle output { type nat hook output priority -100; policy accept; }
flush map inet coracle pub4
flush map inet coracle any4
flush map inet coracle pub6
flush map inet coracle any6
flush chain inet coracle published
flush chain inet coracle prerouting
flush chain inet coracle output
add rule inet coracle prerouting ip daddr 127.0.0.0/8 return
add rule inet coracle prerouting iifname @bridges return
add rule inet coracle prerouting fib daddr type local jump published
add rule inet coracle output ip6 daddr ::1 return
add rule inet coracle output fib daddr type local jump published
add rule inet coracle published meta l4proto { tcp, udp } dnat ip to meta l4proto . ip daddr . th dport map @pub4
add rule inet coracle published meta l4proto { tcp, udp } dnat ip to meta l4proto . th dport map @any4
add rule inet coracle published meta l4proto { tcp, udp } dnat ip6 to meta l4proto . ip6 daddr . th dport map @pub6
add rule inet coracle published meta l4proto { tcp, udp } dnat ip6 to meta l4proto . th dport map @any6
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
    add(format!("element inet coracle bridges {{ {link} }}"));
    add(format!("chain inet coracle to-{link}"));
    add(format!("chain inet coracle from-{link}"));
    add(format!(
        "chain inet coracle nat-{link} {{ type nat hook postrouting priority srcnat; policy accept; }}"
    ));
    let icc = if b.icc { "accept" } else { "drop" };
    if !b.internal {
        add(format!("rule inet coracle to-{link} ct status dnat accept"));
    }
    add(format!("rule inet coracle to-{link} iifname {link} {icc}"));
    add(format!("rule inet coracle to-{link} ct state established,related accept"));
    for side in &b.sides {
        let (family, ip, ping) = match side.subnet {
            IpNet::V4(_) => (4, "ip", "icmp"),
            IpNet::V6(_) => (6, "ip6", "icmpv6"),
        };
        match side.entry {
            Entry::Published => {}
            _ if b.internal => {}
            Entry::All => add(format!("rule inet coracle to-{link} meta nfproto ipv{family} accept")),
            Entry::Routed => {
                add(format!("rule inet coracle to-{link} meta l4proto {ping} accept"));
                let to = format!("meta l4proto . {ip} daddr . th dport @routed{family}");
                add(format!("rule inet coracle to-{link} meta l4proto {{ tcp, udp }} {to} accept"));
            }
        }
    }
    add(format!("rule inet coracle to-{link} drop"));
    if b.internal {
        add(format!("rule inet coracle from-{link} oifname != {link} drop"));
        add(format!("element inet coracle from {{ {link} : jump from-{link} }}"));
    } else {
        for side in b.sides.iter().filter(|side| side.masquerade && side.entry != Entry::Routed) {
            let (family, subnet) = (if side.gateway.is_ipv4() { "ip" } else { "ip6" }, side.subnet);
            add(format!("rule inet coracle nat-{link} {family} saddr {subnet} oifname != {link} masquerade"));
        }
        add(format!("rule inet coracle nat-{link} ip saddr 127.0.0.0/8 oifname {link} masquerade"));
    }
    add(format!("element inet coracle networks {{ {link} : jump to-{link} }}"));
    text
}

/// Removes a network's rules whether or not they are there: `add` first makes `delete` succeed.
fn removal(link: &str) -> String {
    let mut text = format!(
        "add element inet coracle bridges {{ {link} }}\ndelete element inet coracle bridges {{ {link} }}\n"
    );
    for (map, chain) in [("networks", "to"), ("from", "from")] {
        text.push_str(&format!(
            "add chain inet coracle {chain}-{link}\n\
             add element inet coracle {map} {{ {link} : jump {chain}-{link} }}\n\
             delete element inet coracle {map} {{ {link} }}\n\
             flush chain inet coracle {chain}-{link}\n\
             delete chain inet coracle {chain}-{link}\n"
        ));
    }
    text.push_str(&format!(
        "add chain inet coracle nat-{link} {{ type nat hook postrouting priority srcnat; policy accept; }}\n\
         flush chain inet coracle nat-{link}\ndelete chain inet coracle nat-{link}\n"
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_one_address_and_one_of_all_are_in_different_maps() {
        let redirect = |at: &str, target: &str| Redirect {
            protocol: Protocol::Tcp,
            at: at.parse().unwrap(),
            target: target.parse().unwrap(),
        };
        assert_eq!(redirect("0.0.0.0:8080", "10.0.0.2:80").element(), "any4 { tcp . 8080 : 10.0.0.2 . 80 }");
        assert_eq!(
            redirect("[fd00::1]:53", "[fd00::2]:53").element(),
            "pub6 { tcp . fd00::1 . 53 : fd00::2 . 53 }"
        );
        assert_eq!(redirect("127.0.0.1:8080", "10.0.0.2:80").key(), "pub4 { tcp . 127.0.0.1 . 8080 }");
        assert!(!redirect("[::]:80", "10.0.0.2:80").is_possible());
        assert!(!redirect("[::1]:80", "[fd00::2]:80").is_possible());
    }
}
