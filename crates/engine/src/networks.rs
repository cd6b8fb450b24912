//! The engine's networks: which there are, who is in them, and which addresses they have.
//!
//! Three are always there, as with dockerd: `bridge` (the default), `host` and `none`. A network's record is
//! durable; addresses are not: they belong to running containers and are taken again when those are found.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use network::{AddressPool, Bridge, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::config::EngineConfig;
use crate::container::config::EndpointSettings;
use crate::error::{Error, Result};
use crate::names::random_id;
use crate::store::{Durability, Kind, Store};

/// Largest packet of a bridge network unless the config or the network says otherwise, in bytes.
const DEFAULT_MTU: u32 = 1500;
/// The default bridge's link.
const DEFAULT_LINK: &str = "docker0";

/// What carries a network's packets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "lowercase")]
pub enum Driver {
    /// A Linux bridge.
    Bridge {
        /// The link's name.
        link: String,
        /// Addresses.
        subnet: Ipv4Net,
        /// The bridge's address.
        gateway: Ipv4Addr,
        /// Where addresses are given out, if not from all of the subnet.
        ip_range: Option<Ipv4Net>,
    },
    /// The host's own network.
    Host,
    /// No network.
    Null,
}

impl Driver {
    /// Docker's name of it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bridge { .. } => "bridge",
            Self::Host => "host",
            Self::Null => "null",
        }
    }
}

/// A network, as recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Network {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// What carries it.
    #[serde(flatten)]
    pub driver: Driver,
    /// No way in or out.
    pub internal: bool,
    /// For swarm; kept and shown.
    pub attachable: bool,
    /// Options as given.
    pub options: BTreeMap<String, String>,
    /// Labels as given.
    pub labels: BTreeMap<String, String>,
}

impl Network {
    /// Whether it is one of the three that are always there.
    pub fn is_predefined(&self) -> bool {
        matches!(self.name.as_str(), "bridge" | "host" | "none")
    }

    fn option(&self, key: &str) -> Option<&str> {
        self.options.get(key).map(String::as_str)
    }

    /// The link and rules the kernel is to have.
    pub fn bridge(&self) -> Option<Bridge> {
        let Driver::Bridge { link, subnet, gateway, .. } = &self.driver else { return None };
        Some(Bridge {
            link: link.clone(),
            subnet: *subnet,
            gateway: *gateway,
            internal: self.internal,
            icc: self.option("com.docker.network.bridge.enable_icc") != Some("false"),
            masquerade: self.option("com.docker.network.bridge.enable_ip_masquerade") != Some("false"),
            mtu: self
                .option("com.docker.network.driver.mtu")
                .and_then(|m| m.parse().ok())
                .unwrap_or(DEFAULT_MTU),
        })
    }
}

/// What `POST /networks/create` asks for, checked for form only.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct NetworkRequest {
    pub name: String,
    pub driver: String,
    pub internal: bool,
    pub attachable: bool,
    pub subnet: Option<Ipv4Net>,
    pub gateway: Option<Ipv4Addr>,
    pub ip_range: Option<Ipv4Net>,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

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

/// Who is in a network: container id -> (container name, its place).
pub type Members = BTreeMap<String, (String, Member)>;

/// The place that gives the default route and carries published ports: the highest priority, then the first name.
pub fn primary(members: &[Member]) -> Option<&Member> {
    let leads_out = members.iter().filter(|m| m.gateway.is_some());
    leads_out.min_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.network.cmp(&b.network)))
}

struct Entry {
    network: Arc<Network>,
    pool: Option<AddressPool>,
    members: Members,
}

/// All networks; the one owner of their addresses.
pub struct Networks {
    store: Store,
    pools: Option<Vec<(Ipv4Net, u8)>>,
    mtu: u32,
    upstreams: Vec<SocketAddr>,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Held while a network is made or removed: two must not choose the same subnet.
    changing: tokio::sync::Mutex<()>,
}

impl Networks {
    /// Reads the records, makes the predefined networks when they are not there yet. The kernel's side of a
    /// bridge is made when the first container needs it: start-up cost does not grow with networks.
    pub async fn open(store: Store, config: &EngineConfig) -> Result<Arc<Self>> {
        let mut entries = BTreeMap::new();
        for (id, network) in store.all::<Network>(Kind::Network).await? {
            entries.insert(id, entry(network));
        }
        let this = Arc::new(Self {
            store,
            pools: config.address_pools()?,
            mtu: config.mtu.unwrap_or(DEFAULT_MTU),
            upstreams: resolvers(config),
            entries: Mutex::new(entries),
            changing: tokio::sync::Mutex::new(()),
        });
        for (name, driver) in [("host", Driver::Host), ("none", Driver::Null)] {
            if this.find(name).is_err() {
                this.record(name, driver, NetworkRequest::default()).await?;
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
            let driver = this.bridge_driver(DEFAULT_LINK.into(), &request)?;
            this.record("bridge", driver, request).await?;
        }
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn bridge_driver(&self, link: String, r: &NetworkRequest) -> Result<Driver> {
        let subnet = match r.subnet {
            Some(subnet) => {
                let clash = self.lock().values().any(|e| match &e.network.driver {
                    Driver::Bridge { subnet: s, .. } => s.contains(&subnet) || subnet.contains(s),
                    _ => false,
                });
                if clash {
                    return Err(Error::forbidden(
                        "invalid pool request: Pool overlaps with other one on this address space",
                    ));
                }
                subnet.trunc()
            }
            None => {
                let mut taken = network::routed_subnets()?;
                taken.extend(self.lock().values().filter_map(|e| match &e.network.driver {
                    Driver::Bridge { subnet, .. } => Some(*subnet),
                    _ => None,
                }));
                network::choose_subnet(self.pools.as_deref(), &taken)?
            }
        };
        let gateway = match r.gateway {
            Some(gateway) if !subnet.contains(&gateway) => {
                return Err(Error::invalid(format!(
                    "invalid network config:\ninvalid gateway {gateway}: parent subnet is not {subnet}"
                )));
            }
            Some(gateway) => gateway,
            None => {
                subnet.hosts().next().ok_or_else(|| Error::invalid(format!("subnet {subnet} has no room")))?
            }
        };
        Ok(Driver::Bridge { link, subnet, gateway, ip_range: r.ip_range })
    }

    async fn record(&self, name: &str, driver: Driver, r: NetworkRequest) -> Result<Arc<Network>> {
        let network = Network {
            id: random_id(),
            name: name.to_owned(),
            created: crate::time::now(),
            driver,
            internal: r.internal,
            attachable: r.attachable,
            options: r.options,
            labels: r.labels,
        };
        self.store.put(Kind::Network, &network.id, &network, Durability::Durable).await?;
        let entry = entry(network);
        let network = entry.network.clone();
        self.lock().insert(network.id.clone(), entry);
        Ok(network)
    }

    /// Makes a network. Errors are Docker's.
    pub async fn create(&self, r: NetworkRequest) -> Result<Arc<Network>> {
        let _one_at_a_time = self.changing.lock().await;
        if r.name.trim().is_empty() {
            return Err(Error::invalid("invalid name: name is empty"));
        }
        if matches!(r.name.as_str(), "bridge" | "host" | "none" | "default") {
            return Err(Error::forbidden(format!(
                "operation is not permitted on predefined {} network",
                r.name
            )));
        }
        if !crate::names::is_valid(&r.name) && r.name.len() != 1 {
            return Err(Error::invalid(format!(
                "invalid name {:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
                r.name
            )));
        }
        if self.lock().values().any(|e| e.network.name == r.name) {
            return Err(Error::conflict(format!("network with name {} already exists", r.name)));
        }
        match r.driver.as_str() {
            "" | "bridge" | "default" => {}
            "host" | "null" | "none" => {
                return Err(Error::forbidden(format!(
                    "only one instance of \"{}\" network is allowed",
                    r.driver
                )));
            }
            "macvlan" | "ipvlan" | "overlay" => {
                return Err(Error::not_implemented(format!("network driver {} is not there yet", r.driver)));
            }
            other => {
                return Err(Error::not_found(format!("plugin \"{other}\" not found")));
            }
        }
        let link = match r.options.get("com.docker.network.bridge.name") {
            Some(link) if link.len() > 15 || link.is_empty() => {
                return Err(Error::invalid(format!("bridge name {link:?} must have 1 to 15 bytes")));
            }
            Some(link) => link.clone(),
            None => format!("br-{}", &random_id()[..12]),
        };
        let driver = self.bridge_driver(link, &r)?;
        let network = self.record(&r.name.clone(), driver, r).await?;
        if let Some(bridge) = network.bridge()
            && let Err(e) = network::ensure(&bridge).await
        {
            self.forget(&network.id).await?;
            return Err(Error::from(e));
        }
        Ok(network)
    }

    async fn forget(&self, id: &str) -> Result<()> {
        self.lock().remove(id);
        self.store.delete(Kind::Network, id, Durability::Durable).await
    }

    /// Removes a network nobody is in.
    pub async fn remove(&self, name_or_id: &str) -> Result<Arc<Network>> {
        let _one_at_a_time = self.changing.lock().await;
        let network = self.find(name_or_id)?;
        if network.is_predefined() {
            return Err(Error::forbidden(format!(
                "{} is a pre-defined network and cannot be removed",
                network.name
            )));
        }
        if let Some(entry) = self.lock().get(&network.id)
            && let Some((name, member)) = entry.members.values().next()
        {
            return Err(Error::forbidden(format!(
                "error while removing network: network {} has active endpoints (name:\"{name}\" id:\"{}\")",
                network.name,
                &member.endpoint_id[..12]
            )));
        }
        if let Driver::Bridge { link, .. } = &network.driver {
            network::remove(link).await?;
        }
        self.forget(&network.id).await?;
        Ok(network)
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
        if let Some(bridge) = network.bridge() {
            network::ensure_once(&bridge).await?;
        }
        let wanted = match settings.ipam_config.as_ref().map(|c| c.ipv4_address.as_str()) {
            None | Some("") => None,
            Some(text) => {
                Some(text.parse().map_err(|_| Error::invalid(format!("invalid IPv4 address: {text}")))?)
            }
        };
        let mac = match settings.mac_address.as_str() {
            "" => network::Endpoint::random_mac(),
            text => parse_mac(text)?,
        };
        let mut entries = self.lock();
        let entry = entries
            .get_mut(&network.id)
            .ok_or_else(|| Error::not_found(format!("network {} not found", network.name)))?;
        let (address, gateway) = match (&mut entry.pool, &entry.network.driver) {
            (Some(pool), Driver::Bridge { subnet, gateway, .. }) => {
                let ip = pool.allocate(wanted)?;
                (Ipv4Net::new(ip, subnet.prefix_len()).ok(), (!network.internal).then_some(*gateway))
            }
            _ => (None, None),
        };
        let member = Member {
            network_id: network.id.clone(),
            network: network.name.clone(),
            endpoint_id: random_id(),
            address,
            gateway,
            mac: if address.is_some() { format_mac(mac) } else { String::new() },
            host_link: String::new(),
            interface: String::new(),
            priority: settings.gw_priority,
            links: settings.links.iter().flatten().map(|link| split_link(link)).collect(),
            names: settings.aliases.clone().unwrap_or_default(),
        };
        entry.members.insert(id.to_owned(), (name.to_owned(), member.clone()));
        Ok(member)
    }

    /// Gives the member its link inside the namespace.
    pub async fn plug(
        &self,
        member: &mut Member,
        netns: &Path,
        interface: &str,
        default_route: bool,
    ) -> Result<()> {
        let network = self.find(&member.network_id)?;
        let (Some(bridge), Some(address)) = (network.bridge(), member.address) else { return Ok(()) };
        let endpoint = network::Endpoint {
            interface: interface.to_owned(),
            address,
            mac: parse_mac(&member.mac)?,
            gateway: member.gateway.filter(|_| default_route),
        };
        interface.clone_into(&mut member.interface);
        member.host_link = network::attach(&bridge, netns, &endpoint).await?;
        Ok(())
    }

    /// Takes the member's link away while its container runs on; [`Self::leave`] gives back the rest.
    pub async fn unplug(&self, member: &Member) -> Result<()> {
        if member.host_link.is_empty() {
            return Ok(());
        }
        network::detach(&member.host_link).await.map_err(Error::from)
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
            if let (Some(pool), Some(address)) = (&mut entry.pool, member.address)
                && let Err(e) = pool.allocate(Some(address.addr()))
            {
                tracing::warn!("container {name} keeps {address}, though: {e}");
            }
            entry.members.insert(id.to_owned(), (name.to_owned(), member.clone()));
        }
    }

    /// Gives back what [`Self::join`] took. The link dies with the container's namespace.
    pub fn leave(&self, container: &str, member: &Member) {
        if let Some(entry) = self.lock().get_mut(&member.network_id) {
            entry.members.remove(container);
            if let (Some(pool), Some(address)) = (&mut entry.pool, member.address) {
                pool.release(address.addr());
            }
        }
    }

    /// Resolvers outside, for `resolv.conf` and the name server.
    pub fn upstreams(&self) -> &[SocketAddr] {
        &self.upstreams
    }
}

fn entry(network: Network) -> Entry {
    let pool = match &network.driver {
        Driver::Bridge { subnet, gateway, ip_range, .. } => {
            Some(AddressPool::new(*subnet, *ip_range, *gateway))
        }
        _ => None,
    };
    Entry { network: Arc::new(network), pool, members: BTreeMap::new() }
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

/// Names inside one container: those of the other members of the user networks it is in at the time of a question.
pub struct ContainerNames {
    /// The networks to look in.
    pub networks: Arc<Networks>,
    /// The container.
    pub container: String,
    /// Resolvers for the rest: the container's `--dns` or the host's.
    pub upstreams: Vec<SocketAddr>,
}

/// The user networks a container is in, with its own place in each.
fn user_networks<'a>(
    entries: &'a BTreeMap<String, Entry>,
    container: &'a str,
) -> impl Iterator<Item = (&'a Entry, &'a Member)> {
    entries
        .values()
        .filter(|e| !e.network.is_predefined())
        .filter_map(move |e| e.members.get(container).map(|(_, own)| (e, own)))
}

impl network::dns::Names for ContainerNames {
    fn lookup(&self, name: &str) -> Option<Vec<Ipv4Addr>> {
        let entries = self.networks.lock();
        let mut found = Vec::new();
        for (entry, own) in user_networks(&entries, &self.container) {
            let suffix = format!(".{}", entry.network.name.to_ascii_lowercase());
            let bare = name.strip_suffix(&suffix).unwrap_or(name);
            let linked = own.links.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(bare));
            let wanted = linked.map_or(bare, |(_, other)| other);
            found.extend(entry.members.iter().filter_map(|(id, (container, member))| {
                let meant = container.eq_ignore_ascii_case(wanted)
                    || (wanted.len() >= 12 && id.starts_with(wanted))
                    || member.names.iter().any(|n| n.eq_ignore_ascii_case(wanted));
                member.address.filter(|_| meant).map(|a| a.addr())
            }));
        }
        (!found.is_empty()).then_some(found)
    }

    fn reverse(&self, address: Ipv4Addr) -> Option<String> {
        let entries = self.networks.lock();
        user_networks(&entries, &self.container).find_map(|(e, _)| {
            e.members.values().find_map(|(name, m)| {
                (m.address.map(|a| a.addr()) == Some(address)).then(|| format!("{name}.{}", e.network.name))
            })
        })
    }

    fn upstreams(&self) -> Vec<SocketAddr> {
        self.upstreams.clone()
    }
}
