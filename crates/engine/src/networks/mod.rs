//! The engine's networks: which there are, who is in them, and which addresses they have.
//!
//! Three are always there, as with dockerd: `bridge` (the default), `host` and `none`. A network's record is
//! durable; addresses are not: they belong to running containers and are taken again when those are found.

mod driver;
mod make;
mod names;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use network::{AddressPool, Firewall, IpNet, Ipv4Net, Ipv6Net, WayOut};
use serde::{Deserialize, Serialize};

pub use driver::{Driver, Network, Plan, Pool, Pools, check_words};
pub use make::{NetworkRequest, PoolRequest};
pub use names::ContainerNames;

use crate::config::EngineConfig;
use crate::container::config::EndpointSettings;
use crate::error::{Error, Result};
use crate::names::random_id;
use crate::store::{Kind, Store};

/// What the error begins with where a network cannot be entered.
pub const CONTEXT: &str = "failed to set up container networking";
/// The default bridge's link.
const DEFAULT_LINK: &str = "docker0";

/// A running container's place in a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The network's id.
    pub network_id: String,
    /// The network's name.
    pub network: String,
    /// 64 hexadecimal digits, new at every start.
    pub endpoint_id: String,
    /// The container's address with the prefix; `None` in `host` and `none`.
    pub address: Option<Ipv4Net>,
    /// The network's gateway.
    pub gateway: Option<Ipv4Addr>,
    /// The container's address of version 6 with the prefix.
    #[serde(default)]
    pub address6: Option<Ipv6Net>,
    /// The network's gateway of version 6.
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// It leads out of its link with no gateway.
    #[serde(default)]
    pub on_link: bool,
    /// `aa:bb:..`; empty in `host` and `none`.
    pub mac: String,
    /// The host end of the veth pair.
    pub host_link: String,
    /// The container's end (`eth0`).
    #[serde(default)]
    pub interface: String,
    /// The higher, the rather it gives the default route.
    #[serde(default)]
    pub priority: i64,
    /// Names by which this container alone knows others: (alias, the other's name).
    #[serde(default)]
    pub links: Vec<(String, String)>,
    /// Names it answers to in this network, besides the container's name and short id.
    pub names: Vec<String>,
}

impl Member {
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.nets().map(|net| net.addr())
    }

    /// Its addresses with the prefixes.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> + use<> {
        self.address.map(IpNet::V4).into_iter().chain(self.address6.map(IpNet::V6))
    }

    /// Its ways out.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.gateway.map(IpAddr::V4).into_iter().chain(self.gateway6.map(IpAddr::V6))
    }

    /// The default routes it can give: one at most for each version of IP.
    pub fn ways_out(&self) -> Vec<WayOut> {
        if self.on_link {
            return self.addresses().map(|ip| WayOut::Link { v6: ip.is_ipv6() }).collect();
        }
        self.gateways().map(WayOut::Gateway).collect()
    }

    fn leads_out(&self, v6: bool) -> bool {
        self.ways_out().iter().any(|way| way.is_v6() == v6)
    }
}

/// Who is in a network: container id -> (container name, its place).
pub type Members = BTreeMap<String, (String, Member)>;

/// The place that gives the default route of a version of IP: the highest priority, then the first name.
pub fn leading(members: &[Member], v6: bool) -> Option<&Member> {
    let leads_out = members.iter().filter(|m| m.leads_out(v6));
    leads_out.min_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.network.cmp(&b.network)))
}

/// The place that carries published ports: where IPv4 leads out, or IPv6 where that does not.
pub fn primary(members: &[Member]) -> Option<&Member> {
    leading(members, false).or_else(|| leading(members, true))
}

/// The default routes that `member` gives among `members`.
pub fn routes_of(member: &Member, members: &[Member]) -> Vec<WayOut> {
    let leads = |way: &WayOut| {
        leading(members, way.is_v6()).is_some_and(|leading| leading.network_id == member.network_id)
    };
    member.ways_out().into_iter().filter(leads).collect()
}

struct Entry {
    network: Arc<Network>,
    pool: Option<AddressPool>,
    pool6: Option<AddressPool>,
    members: Members,
}

/// All networks; the one owner of their addresses.
pub struct Networks {
    store: Store,
    pools: Option<Vec<(Ipv4Net, u8)>>,
    /// Where networks of version 6 get theirs that ask for none.
    base6: Ipv6Net,
    /// A file of subnets that networks don't get, besides those that this host routes.
    taken: Option<PathBuf>,
    mtu: u32,
    upstreams: Vec<SocketAddr>,
    /// Where containers find this host, if not at the gateway of their network.
    host_gateway: Vec<IpAddr>,
    firewall: Arc<Firewall>,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Held while a network is made or removed: two must not choose the same subnet.
    changing: tokio::sync::Mutex<()>,
    /// Told when a container enters or leaves the network `host`.
    on_host: tokio::sync::watch::Sender<()>,
}

impl Networks {
    /// Reads the records, makes the predefined networks when they are not there yet. The kernel's side of a
    /// bridge is made when the first container needs it: start-up cost does not grow with networks.
    pub async fn open(
        store: Store,
        config: &EngineConfig,
        engine_id: &str,
        taken: Option<PathBuf>,
    ) -> Result<Arc<Self>> {
        let mut entries = BTreeMap::new();
        for (id, network) in store.all::<Network>(Kind::Network).await? {
            entries.insert(id, entry(network));
        }
        let this = Arc::new(Self {
            store,
            pools: config.address_pools()?,
            base6: network::unique_local(engine_id.get(..10).map_or(0, |digits| {
                // The id is random hexadecimal digits; ten of them are forty bits.
                u64::from_str_radix(digits, 16).unwrap_or_default()
            })),
            taken,
            mtu: config.mtu.unwrap_or(driver::DEFAULT_MTU),
            upstreams: resolvers(config),
            host_gateway: config.host_gateways(),
            firewall: Arc::new(Firewall::default()),
            entries: Mutex::new(entries),
            changing: tokio::sync::Mutex::new(()),
            on_host: tokio::sync::watch::Sender::new(()),
        });
        for (name, driver) in [("host", Driver::Host), ("none", Driver::Null)] {
            if this.find(name).is_err() {
                this.record(name, random_id(), driver, NetworkRequest::default()).await?;
            }
        }
        if this.find("bridge").is_err() {
            let options = [
                ("default_bridge", "true".to_owned()),
                ("enable_icc", "true".to_owned()),
                ("enable_ip_masquerade", "true".to_owned()),
                ("host_binding_ipv4", "0.0.0.0".to_owned()),
                ("name", DEFAULT_LINK.to_owned()),
            ]
            .into_iter()
            .map(|(k, v)| (format!("com.docker.network.bridge.{k}"), v))
            .chain([("com.docker.network.driver.mtu".to_owned(), this.mtu.to_string())])
            .collect();
            let request = NetworkRequest { options, ..NetworkRequest::default() };
            let pools = this.choose_pools(&Plan { v4: Some(PoolRequest::default()), v6: None })?;
            let driver = Driver::Bridge { link: DEFAULT_LINK.into(), foreign: false, pools };
            this.record("bridge", random_id(), driver, request).await?;
        }
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The rules of all networks and published ports.
    pub fn firewall(&self) -> &Arc<Firewall> {
        &self.firewall
    }

    /// Where containers find this host, if the settings say so.
    pub fn host_gateway(&self) -> &[IpAddr] {
        &self.host_gateway
    }

    /// Where steps of builds find this host: as the settings say, or else by the way out of the network they have by
    /// default.
    pub fn host_gateway_of_steps(&self) -> Vec<IpAddr> {
        if !self.host_gateway.is_empty() {
            return self.host_gateway.clone();
        }
        let own = self.find("bridge").ok().and_then(|network| network.bridge());
        own.map(|bridge| bridge.sides.iter().map(|side| side.gateway).collect()).unwrap_or_default()
    }

    /// All networks, with who is in them.
    pub fn list(&self) -> Vec<(Arc<Network>, Members)> {
        self.lock().values().map(|e| (e.network.clone(), e.members.clone())).collect()
    }

    /// Who is in a network: container id -> (name, place).
    pub fn members(&self, id: &str) -> Members {
        self.lock().get(id).map(|e| e.members.clone()).unwrap_or_default()
    }

    /// By name, id, or the beginning of an id.
    pub fn find(&self, name_or_id: &str) -> Result<Arc<Network>> {
        let entries = self.lock();
        let name = if name_or_id == "default" { "bridge" } else { name_or_id };
        if let Some(e) = entries.get(name).or_else(|| entries.values().find(|e| e.network.name == name)) {
            return Ok(e.network.clone());
        }
        let mut matching = entries.values().filter(|e| !name.is_empty() && e.network.id.starts_with(name));
        match (matching.next(), matching.next()) {
            (Some(e), None) => Ok(e.network.clone()),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("network {name} is ambiguous (more than one id starts so)")))
            }
            (None, _) => Err(Error::not_found(format!("network {name} not found"))),
        }
    }

    /// Takes an address for a container and makes sure the bridge is there. [`Self::leave`] gives it back.
    pub async fn join(
        &self,
        network: &Network,
        container: (&str, &str),
        settings: &EndpointSettings,
    ) -> Result<Member> {
        let (id, name) = container;
        if matches!(network.driver, Driver::Config(_)) {
            return Err(Error::forbidden("cannot create endpoint on configuration-only network"));
        }
        if let Some(bridge) = network.bridge() {
            network::ensure_once(&self.firewall, &bridge).await?;
        }
        if let Some(vlan) = network.vlan() {
            network::vlan::ensure_parent(&vlan.parent).await?;
        }
        let asked = settings.ipam_config.clone().unwrap_or_default();
        let wanted = fixed_address("IPv4", &asked.ipv4_address, IpAddr::is_ipv4)?;
        let wanted6 = fixed_address("IPv6", &asked.ipv6_address, IpAddr::is_ipv6)?;
        let mac = match settings.mac_address.as_str() {
            "" => network::Endpoint::random_mac(),
            text => parse_mac(text)?,
        };
        let mut entries = self.lock();
        let entry = entries
            .get_mut(&network.id)
            .ok_or_else(|| Error::not_found(format!("network {} not found", network.name)))?;
        let on_link = network.is_routed_vlan() && !network.internal;
        let leads_out = !network.internal && !on_link;
        let mut member = Member {
            network_id: network.id.clone(),
            network: network.name.clone(),
            endpoint_id: random_id(),
            address: None,
            gateway: None,
            address6: None,
            gateway6: None,
            on_link,
            mac: String::new(),
            host_link: String::new(),
            interface: String::new(),
            priority: settings.gw_priority,
            links: settings.links.iter().flatten().map(|link| split_link(link)).collect(),
            names: settings.aliases.clone().unwrap_or_default(),
        };
        if let Some(pools) = entry.network.driver.pools() {
            let taken = match &mut entry.pool {
                Some(pool) => Some(pool.allocate(wanted)?),
                None => None,
            };
            let taken6 = match &mut entry.pool6 {
                Some(pool6) => Some(pool6.allocate(wanted6).inspect_err(|_| {
                    if let (Some(pool), Some(ip)) = (&mut entry.pool, taken) {
                        pool.release(ip);
                    }
                })?),
                None => None,
            };
            if let (Some(IpAddr::V4(ip)), Some(v4)) = (taken, &pools.v4) {
                member.address = Ipv4Net::new(ip, v4.subnet.prefix_len()).ok();
            }
            if let (Some(IpAddr::V6(ip)), Some(v6)) = (taken6, &pools.v6) {
                member.address6 = Ipv6Net::new(ip, v6.subnet.prefix_len()).ok();
            }
            for gateway in pools.both().map(|pool| pool.gateway).filter(|_| leads_out) {
                match gateway {
                    IpAddr::V4(ip) => member.gateway = Some(ip),
                    IpAddr::V6(ip) => member.gateway6 = Some(ip),
                }
            }
            if !matches!(entry.network.driver, Driver::Ipvlan { .. }) {
                member.mac = format_mac(mac);
            }
        }
        entry.members.insert(id.to_owned(), (name.to_owned(), member.clone()));
        self.note(entry);
        Ok(member)
    }

    /// Gives the member its link inside the namespace, and the namespace these default routes.
    pub async fn plug(
        &self,
        member: &mut Member,
        netns: &Path,
        interface: &str,
        ways_out: Vec<WayOut>,
    ) -> Result<()> {
        let network = self.find(&member.network_id)?;
        let Some(carrier) = network.carrier() else { return Ok(()) };
        let endpoint = network::Endpoint {
            interface: interface.to_owned(),
            addresses: member.nets().collect(),
            mac: if member.mac.is_empty() { [0; 6] } else { parse_mac(&member.mac)? },
            ways_out,
        };
        interface.clone_into(&mut member.interface);
        member.host_link = network::attach(&carrier, netns, &endpoint).await?;
        Ok(())
    }

    /// Takes the member's link away while its container runs on; [`Self::leave`] gives back the rest.
    pub async fn unplug(&self, member: &Member, netns: &Path) -> Result<()> {
        if member.interface.is_empty() || member.nets().next().is_none() {
            return Ok(());
        }
        network::detach(&member.host_link, netns, &member.interface).await.map_err(Error::from)
    }

    /// A container has another name from now on.
    pub fn rename(&self, container: &str, name: &str) {
        for entry in self.lock().values_mut() {
            if let Some((known, _)) = entry.members.get_mut(container) {
                name.clone_into(known);
            }
        }
    }

    /// Notes a container that was found running after the engine's restart.
    pub fn rejoin(&self, container: (&str, &str), member: &Member) {
        let (id, name) = container;
        if let Some(entry) = self.lock().get_mut(&member.network_id) {
            for address in member.addresses() {
                let pool = if address.is_ipv4() { &mut entry.pool } else { &mut entry.pool6 };
                if let Some(Err(e)) = pool.as_mut().map(|pool| pool.allocate(Some(address))) {
                    tracing::warn!("container {name} keeps {address}, though: {e}");
                }
            }
            entry.members.insert(id.to_owned(), (name.to_owned(), member.clone()));
            self.note(entry);
        }
    }

    /// Gives back what [`Self::join`] took. The link dies with the container's namespace.
    pub fn leave(&self, container: &str, member: &Member) {
        if let Some(entry) = self.lock().get_mut(&member.network_id) {
            entry.members.remove(container);
            self.note(entry);
            for address in member.addresses() {
                let pool = if address.is_ipv4() { &mut entry.pool } else { &mut entry.pool6 };
                if let Some(pool) = pool {
                    pool.release(address);
                }
            }
        }
    }

    fn note(&self, changed: &Entry) {
        if matches!(changed.network.driver, Driver::Host) {
            self.on_host.send_replace(());
        }
    }

    /// Every change of who is in the network `host`.
    pub fn watch_host(&self) -> tokio::sync::watch::Receiver<()> {
        self.on_host.subscribe()
    }

    /// Who is in the network `host`: ids of containers.
    pub fn on_host(&self) -> std::collections::BTreeSet<String> {
        let entries = self.lock();
        let host = entries.values().filter(|e| matches!(e.network.driver, Driver::Host));
        host.flat_map(|e| e.members.keys().cloned()).collect()
    }

    /// Resolvers outside, for `resolv.conf` and the name server.
    pub fn upstreams(&self) -> &[SocketAddr] {
        &self.upstreams
    }
}

fn entry(network: Network) -> Entry {
    let pools = network.driver.pools();
    let (pool, pool6) = (pools.and_then(|p| p.given_out(false)), pools.and_then(|p| p.given_out(true)));
    Entry { network: Arc::new(network), pool, pool6, members: BTreeMap::new() }
}

/// An address asked for; empty: any.
fn fixed_address(family: &str, text: &str, right: fn(&IpAddr) -> bool) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse().ok().filter(right);
    parsed.map(Some).ok_or_else(|| Error::invalid(format!("invalid {family} address: {text}")))
}

/// The host's resolvers; those on loopback do not answer a container.
fn resolvers(config: &EngineConfig) -> Vec<SocketAddr> {
    let from_host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let listed = config.dns.iter().map(String::as_str);
    let found = from_host.lines().filter_map(|l| l.strip_prefix("nameserver"));
    let all: Vec<&str> = if config.dns.is_empty() { found.collect() } else { listed.collect() };
    all.iter()
        .filter_map(|text| text.trim().parse::<IpAddr>().ok())
        .filter(|ip| !ip.is_loopback())
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        *byte = parts
            .next()
            .and_then(|p| u8::from_str_radix(p, 16).ok())
            .ok_or_else(|| Error::invalid(format!("invalid MAC address: {text}")))?;
    }
    if parts.next().is_some() {
        return Err(Error::invalid(format!("invalid MAC address: {text}")));
    }
    Ok(mac)
}

fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// `name:alias` or `name` -> (alias, name), as `--link` has them.
pub fn split_link(link: &str) -> (String, String) {
    let (name, alias) = link.split_once(':').unwrap_or((link, link));
    (alias.trim_start_matches('/').to_owned(), name.trim_start_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(network: &str, priority: i64, gateways: &[&str]) -> Member {
        let mut json = serde_json::json!({
            "network_id": network, "network": network, "endpoint_id": "", "address": null, "gateway": null,
            "mac": "", "host_link": "", "priority": priority, "names": [],
        });
        for gateway in gateways {
            json[if gateway.contains(':') { "gateway6" } else { "gateway" }] = serde_json::json!(gateway);
        }
        serde_json::from_value(json).unwrap()
    }

    fn leaders(members: &[Member]) -> [Option<&str>; 3] {
        [leading(members, false), leading(members, true), primary(members)]
            .map(|m| m.map(|m| m.network.as_str()))
    }

    #[test]
    fn each_version_of_ip_leads_out_where_it_can() {
        let six = member("a", 0, &["fd00::1"]);
        let four = member("b", 0, &["10.0.0.1"]);
        let both = member("c", 0, &["10.0.1.1", "fd01::1"]);
        assert_eq!(leaders(&[six.clone(), four.clone()]), [Some("b"), Some("a"), Some("b")]);
        assert_eq!(leaders(&[six.clone(), four.clone(), both.clone()]), [Some("b"), Some("a"), Some("b")]);
        assert_eq!(leaders(std::slice::from_ref(&six)), [None, Some("a"), Some("a")]);
        let first = member("d", 1, &["10.0.2.1", "fd02::1"]);
        let all = [six, four, both, first];
        assert_eq!(leaders(&all), [Some("d"), Some("d"), Some("d")]);
        assert_eq!(routes_of(&all[3], &all).len(), 2);
        assert_eq!(routes_of(&all[0], &all), []);
        assert_eq!(leaders(&[member("none", 0, &[])]), [None, None, None]);
    }
}
