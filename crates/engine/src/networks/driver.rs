//! What a network is: its driver, its addresses, its options, and what the kernel is to have for it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use network::vlan::{Ipvlan, IpvlanFlag, Macvlan, Parent, Vlan, VlanMode};
use network::{AddressPool, Bridge, Carrier, Entry, IpNet, Side};
use serde::{Deserialize, Serialize};

use super::make::PoolRequest;
use crate::container::config::EndpointSettings;
use crate::error::{Error, Result};
use crate::truth::truth;

/// Largest packet of a bridge network unless the config or the network says otherwise, in bytes.
pub const DEFAULT_MTU: u32 = 1500;
/// Names of Docker's options start so.
const BRIDGE: &str = "com.docker.network.bridge.";
const MTU: &str = "com.docker.network.driver.mtu";
/// Longest name of a link, in bytes (`IFNAMSIZ` without the zero).
const LINK_NAME_BYTES: usize = 15;

/// What carries a network's packets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "lowercase")]
pub enum Driver {
    /// A Linux bridge.
    Bridge {
        /// The link's name.
        link: String,
        /// The link was there before the network, and stays when it goes.
        #[serde(default)]
        foreign: bool,
        /// Addresses.
        #[serde(flatten)]
        pools: Pools,
    },
    /// Links over one of the host's, each with a hardware address.
    Macvlan {
        /// The link below is ours to make and remove.
        own_parent: bool,
        /// Addresses.
        #[serde(flatten)]
        pools: Pools,
    },
    /// Links over one of the host's, with its hardware address.
    Ipvlan {
        /// The link below is ours to make and remove.
        own_parent: bool,
        /// Addresses.
        #[serde(flatten)]
        pools: Pools,
    },
    /// The host's own network.
    Host,
    /// No network.
    Null,
    /// No network either, but what others are made from.
    Config(Plan),
}

/// What a network made from this one is given in place of what it would ask for itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Addresses of version 4, unless it has none.
    pub v4: Option<PoolRequest>,
    /// Addresses of version 6, if it has such.
    pub v6: Option<PoolRequest>,
}

/// The addresses of a network: of one version of IP at least.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pools {
    /// Those of version 4; beside the rest, as records of earlier versions have them.
    #[serde(flatten)]
    pub v4: Option<Pool>,
    /// Addresses that are never given out, by the names people gave them; of both versions.
    #[serde(default)]
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// Those of version 6.
    #[serde(default)]
    pub v6: Option<Pool>,
}

/// The addresses of one version of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// Addresses.
    pub subnet: IpNet,
    /// The bridge's address, or what the containers take for their way out.
    pub gateway: IpAddr,
    /// Where addresses are given out, if not from all of the subnet.
    pub ip_range: Option<IpNet>,
    /// The subnet was asked for: then addresses may be, too.
    #[serde(default)]
    pub by_user: bool,
}

impl Pools {
    /// Those of one version.
    pub fn of(&self, v6: bool) -> Option<&Pool> {
        if v6 { self.v6.as_ref() } else { self.v4.as_ref() }
    }

    /// Both, as far as there are such.
    pub fn both(&self) -> impl Iterator<Item = &Pool> {
        self.v4.iter().chain(&self.v6)
    }

    /// Who gives out the addresses of one version.
    pub fn given_out(&self, v6: bool) -> Option<AddressPool> {
        let pool = self.of(v6)?;
        let reserved = self.auxiliary.values().filter(|ip| ip.is_ipv6() == v6).copied();
        Some(AddressPool::new(pool.subnet, pool.ip_range, reserved.chain([pool.gateway])))
    }

    /// Whether two networks would have an address in common.
    pub fn overlaps(&self, subnet: &IpNet) -> bool {
        self.both().any(|own| own.subnet.contains(subnet) || subnet.contains(&own.subnet))
    }
}

impl Driver {
    /// Docker's name of it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bridge { .. } => "bridge",
            Self::Macvlan { .. } => "macvlan",
            Self::Ipvlan { .. } => "ipvlan",
            Self::Host => "host",
            Self::Null | Self::Config(_) => "null",
        }
    }

    /// Its addresses, if it has any.
    pub fn pools(&self) -> Option<&Pools> {
        match self {
            Self::Bridge { pools, .. } | Self::Macvlan { pools, .. } | Self::Ipvlan { pools, .. } => {
                Some(pools)
            }
            Self::Host | Self::Null | Self::Config(_) => None,
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
    /// The network whose configuration it was made from, by name; empty: none.
    #[serde(default)]
    pub config_from: String,
    /// Options of who gives out addresses, as given: none, or an empty list of them, are told apart.
    #[serde(default)]
    pub ipam_options: Option<BTreeMap<String, String>>,
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

    /// The link and rules the kernel is to have. Options were checked when it was made.
    pub fn bridge(&self) -> Option<Bridge> {
        let Driver::Bridge { link, pools, .. } = &self.driver else { return None };
        let options = BridgeOptions::read(&self.options, self.internal).unwrap_or_default();
        let side = |pool: &Pool| Side {
            subnet: pool.subnet,
            gateway: pool.gateway,
            masquerade: options.masquerade,
            entry: options.mode_of(pool.gateway.is_ipv6()).entry(),
        };
        Some(Bridge {
            link: link.clone(),
            sides: pools.both().map(side).collect(),
            internal: self.internal,
            isolated: options.mode == GatewayMode::Isolated,
            icc: options.icc,
            mtu: options.mtu,
        })
    }

    /// Whether a port asked for is not one of this host's: who routes to the container comes to it there.
    pub fn is_routed_to(&self, port: &network::PortRequest) -> bool {
        let bridge = self.bridge();
        let side = bridge.as_ref().and_then(|b| b.side(port.host_ip.is_ipv6()));
        side.is_some_and(|s| s.entry == Entry::Routed) && port.host_ip.is_ipv4() == port.target.is_ipv4()
    }

    /// What containers' ends are ends of.
    pub fn carrier(&self) -> Option<Carrier> {
        self.bridge().map(Carrier::Bridge).or_else(|| self.vlan().map(Carrier::Vlan))
    }

    /// The link over which containers stand, of macvlan and ipvlan.
    pub fn vlan(&self) -> Option<Vlan> {
        match &self.driver {
            Driver::Macvlan { own_parent, .. } => {
                let mode = VlanMode::Macvlan(macvlan_mode(&self.options).ok()?);
                Some(Vlan { mode, parent: parent(&self.options, *own_parent, &self.id) })
            }
            Driver::Ipvlan { own_parent, .. } => {
                let (mode, flag) = ipvlan_mode(&self.options).ok()?;
                let parent = parent(&self.options, *own_parent, &self.id);
                Some(Vlan { mode: VlanMode::Ipvlan(mode, flag), parent })
            }
            Driver::Bridge { .. } | Driver::Host | Driver::Null | Driver::Config(_) => None,
        }
    }

    /// Whether the way out is the link itself: ipvlan routes, then, and there is no gateway to ask.
    pub fn is_routed_vlan(&self) -> bool {
        let mode = self.vlan().map(|v| v.mode);
        matches!(mode, Some(VlanMode::Ipvlan(Ipvlan::L3 | Ipvlan::L3s, _)))
    }

    /// The address of this host on which its containers' ports are published when none is named.
    pub fn binding_address(&self) -> Option<IpAddr> {
        let text = self.options.get("com.docker.network.bridge.host_binding_ipv4")?;
        text.parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified())
    }

    /// Containers' links are called so, with a number.
    pub fn interface_prefix(&self) -> &str {
        self.options.get("com.docker.network.container_iface_prefix").map_or("eth", String::as_str)
    }
}

impl Network {
    /// The addresses asked for, held against the network, in Docker's words.
    pub fn check_endpoint(&self, settings: &EndpointSettings) -> Result<()> {
        check_hardware(settings)?;
        let Some(asked) = &settings.ipam_config else { return Ok(()) };
        let pools = self.driver.pools();
        let pool = |v6: bool| pools.and_then(|p| p.of(v6));
        let mut wrong = Vec::new();
        for (v6, text) in [(false, asked.ipv4_address.as_str()), (true, asked.ipv6_address.as_str())] {
            if text.is_empty() {
                continue;
            }
            if self.is_predefined() {
                wrong.push("user specified IP address is supported on user defined networks only".to_owned());
            }
            let address = text.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv6() == v6);
            if address.is_none() {
                wrong.push(format!("invalid {} address: {text}", if v6 { "IPv6" } else { "IPv4" }));
            }
            let inside = address.is_some_and(|ip| pool(v6).is_some_and(|p| p.subnet.contains(&ip)));
            if !pool(v6).is_some_and(|p| p.by_user) {
                wrong.push("user specified IP address is supported only when connecting to networks with user configured subnets".to_owned());
            } else if !inside {
                wrong.push(format!("no configured subnet or ip-range contain the IP address {text}"));
            }
        }
        refused(&wrong)
    }
}

/// The same for a network that is not known yet: what is no address is none in any.
pub fn check_words(settings: &EndpointSettings) -> Result<()> {
    check_hardware(settings)?;
    let asked = settings.ipam_config.clone().unwrap_or_default();
    let mut wrong = Vec::new();
    for (kind, text, v6) in [("IPv4", asked.ipv4_address, false), ("IPv6", asked.ipv6_address, true)] {
        if !text.is_empty() && !text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == v6) {
            wrong.push(format!("invalid {kind} address: {text}"));
        }
    }
    refused(&wrong)
}

fn check_hardware(settings: &EndpointSettings) -> Result<()> {
    let text = &settings.mac_address;
    if text.is_empty() || super::parse_mac(text).is_ok() {
        return Ok(());
    }
    Err(Error::invalid(format!("invalid MAC address {text}")))
}

fn refused(wrong: &[String]) -> Result<()> {
    match wrong {
        [] => Ok(()),
        [one] => Err(Error::invalid(format!("invalid endpoint settings:\n{one}"))),
        many => Err(Error::invalid(format!("invalid endpoint settings:\n* {}", many.join("\n* ")))),
    }
}

/// How a bridge network and the world meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GatewayMode {
    /// By the host's address, and published ports.
    #[default]
    Nat,
    /// The same, but what routes to a container gets in, published or not.
    Unprotected,
    /// By the containers' own addresses, which others know a way to: nothing is translated.
    Routed,
    /// Not at all: the bridge has no address. Internal networks only.
    Isolated,
}

impl GatewayMode {
    fn entry(self) -> Entry {
        match self {
            Self::Nat | Self::Isolated => Entry::Published,
            Self::Unprotected => Entry::All,
            Self::Routed => Entry::Routed,
        }
    }
}

/// Options of the bridge driver.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct BridgeOptions {
    pub link: Option<String>,
    pub icc: bool,
    pub masquerade: bool,
    pub mode: GatewayMode,
    pub mode6: GatewayMode,
    pub mtu: u32,
}

impl Default for BridgeOptions {
    fn default() -> Self {
        Self {
            link: None,
            icc: true,
            masquerade: true,
            mode: GatewayMode::Nat,
            mode6: GatewayMode::Nat,
            mtu: DEFAULT_MTU,
        }
    }
}

impl BridgeOptions {
    /// How it and the world meet by one version of IP.
    fn mode_of(&self, v6: bool) -> GatewayMode {
        if v6 { self.mode6 } else { self.mode }
    }

    /// Reads and checks them, in Docker's words. Unknown ones are ignored, as with dockerd.
    pub fn read(options: &BTreeMap<String, String>, internal: bool) -> Result<Self> {
        let mut read = Self::default();
        for (key, value) in options {
            let bad =
                |why: String| Err(Error::invalid(format!("failed to parse {key} value: {value} ({why})")));
            let switch = || {
                truth(value).ok_or_else(|| format!("strconv.ParseBool: parsing \"{value}\": invalid syntax"))
            };
            let mode = || match value.as_str() {
                "" | "nat" => Ok(GatewayMode::Nat),
                "nat-unprotected" => Ok(GatewayMode::Unprotected),
                "isolated" if internal => Ok(GatewayMode::Isolated),
                "isolated" => {
                    Err(Error::invalid("gateway mode 'isolated' can only be used for an internal network"))
                }
                "routed" => Ok(GatewayMode::Routed),
                other => Err(Error::invalid(format!(
                    "failed to parse {key} value: {value} (unknown gateway mode {other})"
                ))),
            };
            if key == MTU {
                match value.parse() {
                    Ok(mtu) => read.mtu = mtu,
                    Err(_) => return bad(format!("strconv.Atoi: parsing \"{value}\": invalid syntax")),
                }
                continue;
            }
            match key.strip_prefix(BRIDGE).unwrap_or_default() {
                "name" if value.is_empty() || value.len() > LINK_NAME_BYTES || value.contains(['/', ' ']) => {
                    return Err(Error::invalid(format!("bridge name {value:?} must have 1 to 15 bytes")));
                }
                "name" => read.link = Some(value.clone()),
                "enable_icc" => match switch() {
                    Ok(icc) => read.icc = icc,
                    Err(why) => return bad(why),
                },
                "enable_ip_masquerade" => match switch() {
                    Ok(masquerade) => read.masquerade = masquerade,
                    Err(why) => return bad(why),
                },
                "host_binding_ipv4" if value.parse::<Ipv4Addr>().is_err() => {
                    return bad(format!("invalid ip address: {value}"));
                }
                "gateway_mode_ipv4" => read.mode = mode()?,
                "gateway_mode_ipv6" => read.mode6 = mode()?,
                _ => {}
            }
        }
        Ok(read)
    }
}

/// The mode of a macvlan, in Docker's words where there is none such.
pub fn macvlan_mode(options: &BTreeMap<String, String>) -> Result<Macvlan> {
    match options.get("macvlan_mode").map_or("", String::as_str) {
        "" | "bridge" => Ok(Macvlan::Bridge),
        "private" => Ok(Macvlan::Private),
        "vepa" => Ok(Macvlan::Vepa),
        "passthru" => Ok(Macvlan::Passthru),
        other => Err(Error::internal(format!(
            "requested macvlan mode '{other}' is not valid, 'bridge' mode is the macvlan driver default"
        ))),
    }
}

/// The mode and flag of an ipvlan.
pub fn ipvlan_mode(options: &BTreeMap<String, String>) -> Result<(Ipvlan, IpvlanFlag)> {
    let mode = match options.get("ipvlan_mode").map_or("", String::as_str) {
        "" | "l2" => Ipvlan::L2,
        "l3" => Ipvlan::L3,
        "l3s" => Ipvlan::L3s,
        other => {
            return Err(Error::internal(format!(
                "requested ipvlan mode '{other}' is not valid, 'l2' mode is the ipvlan driver default"
            )));
        }
    };
    match options.get("ipvlan_flag").map_or("", String::as_str) {
        "" | "bridge" => Ok((mode, IpvlanFlag::Bridge)),
        "private" => Ok((mode, IpvlanFlag::Private)),
        "vepa" => Ok((mode, IpvlanFlag::Vepa)),
        other => Err(Error::internal(format!(
            "requested ipvlan flag '{other}' is not valid, 'bridge' is the ipvlan driver default"
        ))),
    }
}

/// The link below a macvlan or ipvlan: `-o parent`, or one that leads nowhere.
fn parent(options: &BTreeMap<String, String>, own: bool, id: &str) -> Parent {
    match options.get("parent").filter(|p| !p.is_empty()) {
        None => Parent::Dummy(dummy_name(id)),
        Some(name) if own => tagged(name).unwrap_or_else(|| Parent::Given(name.clone())),
        Some(name) => Parent::Given(name.clone()),
    }
}

/// The name of a link that leads nowhere, as dockerd calls it.
fn dummy_name(id: &str) -> String {
    format!("dm-{}", id.get(..12).unwrap_or(id))
}

/// `eth0.10`: VLAN 10 of `eth0`.
pub fn tagged(name: &str) -> Option<Parent> {
    let (below, id) = name.rsplit_once('.')?;
    let id = id.parse().ok().filter(|id| (1..=4094).contains(id))?;
    Some(Parent::Tagged { name: name.to_owned(), below: below.to_owned(), id })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn options_that_cannot_be_are_refused_in_dockers_words() {
        let words = |key: &str, value: &str| {
            BridgeOptions::read(&options(&[(key, value)]), false).unwrap_err().message
        };
        assert_eq!(
            words(MTU, "abc"),
            "failed to parse com.docker.network.driver.mtu value: abc (strconv.Atoi: parsing \"abc\": invalid syntax)"
        );
        assert_eq!(
            words("com.docker.network.bridge.gateway_mode_ipv4", "bad"),
            "failed to parse com.docker.network.bridge.gateway_mode_ipv4 value: bad (unknown gateway mode bad)"
        );
        assert!(words("com.docker.network.bridge.gateway_mode_ipv4", "isolated").contains("internal"));
    }

    #[test]
    fn records_of_earlier_versions_are_read() {
        let record = r#"{"id":"1","name":"n","created":"","driver":"bridge","link":"br-1","subnet":"10.0.0.0/24",
            "gateway":"10.0.0.1","ip_range":null,"internal":false,"attachable":false,"options":{},"labels":{}}"#;
        let network: Network = serde_json::from_str(record).unwrap();
        assert_eq!(network.bridge().unwrap().side(false).unwrap().subnet.to_string(), "10.0.0.0/24");
        assert!(network.bridge().unwrap().side(true).is_none());
        let again: Network = serde_json::from_str(&serde_json::to_string(&network).unwrap()).unwrap();
        assert_eq!(again.driver, network.driver);
    }

    #[test]
    fn a_dot_in_the_parents_name_is_a_vlan() {
        let ten = Parent::Tagged { name: "eth0.10".into(), below: "eth0".into(), id: 10 };
        assert_eq!(tagged("eth0.10"), Some(ten));
        for bad in ["eth0", "eth0.0", "eth0.4095", "eth0.x"] {
            assert_eq!(tagged(bad), None, "{bad}");
        }
    }
}
