//! Making and removing networks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use network::vlan::Parent;
use network::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::driver::{BridgeOptions, Driver, Network, Plan, Pool, Pools, ipvlan_mode, macvlan_mode, tagged};
use super::{Networks, entry};
use crate::error::{Error, Result};
use crate::names::random_id;
use crate::store::{Durability, Kind};

/// What `POST /networks/create` asks for, checked for form only.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct NetworkRequest {
    pub name: String,
    pub driver: String,
    pub internal: bool,
    pub attachable: bool,
    /// What others are to be made from, no network itself.
    pub config_only: bool,
    /// The network whose configuration it takes in place of one of its own; empty: none.
    pub config_from: String,
    /// Addresses asked for.
    pub plan: Plan,
    /// Options of who gives out addresses: shown again.
    pub ipam_options: Option<BTreeMap<String, String>>,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

impl NetworkRequest {
    /// Itself, if it asks for addresses of a version at least.
    fn with_addresses(self) -> Result<Self> {
        if self.plan == Plan::default() {
            return Err(Error::invalid("IPv4 or IPv6 must be enabled"));
        }
        Ok(self)
    }
}

/// The addresses of one version a network asks for; a subnet, where there is one, holds the rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PoolRequest {
    pub subnet: Option<IpNet>,
    pub gateway: Option<IpAddr>,
    pub ip_range: Option<IpNet>,
    pub auxiliary: BTreeMap<String, IpAddr>,
}

impl Networks {
    /// The addresses for a network: those asked for, or some that nothing else has.
    pub(super) fn choose_pools(&self, plan: &Plan) -> Result<Pools> {
        let known: Vec<Arc<Network>> = self.lock().values().map(|e| e.network.clone()).collect();
        let known: Vec<&Pools> = known.iter().filter_map(|n| n.driver.pools()).collect();
        let asked = || plan.v4.iter().chain(&plan.v6);
        if asked().filter_map(|p| p.subnet).any(|subnet| known.iter().any(|p| p.overlaps(&subnet))) {
            return Err(Error::forbidden(
                "invalid pool request: Pool overlaps with other one on this address space",
            ));
        }
        let choose = |asked: &PoolRequest, v6: bool| -> Result<Pool> {
            let subnet = match asked.subnet {
                Some(subnet) => subnet,
                None if v6 => self.free_subnet6(&known)?.into(),
                None => self.free_subnet(&known)?.into(),
            };
            let gateway = match asked.gateway {
                Some(gateway) => gateway,
                None => first_free(asked, subnet)
                    .ok_or_else(|| Error::invalid(format!("subnet {subnet} has no room")))?,
            };
            Ok(Pool { subnet, gateway, ip_range: asked.ip_range, by_user: asked.subnet.is_some() })
        };
        Ok(Pools {
            v4: plan.v4.as_ref().map(|asked| choose(asked, false)).transpose()?,
            v6: plan.v6.as_ref().map(|asked| choose(asked, true)).transpose()?,
            auxiliary: asked().flat_map(|p| p.auxiliary.clone()).collect(),
        })
    }

    fn free_subnet(&self, known: &[&Pools]) -> Result<Ipv4Net> {
        let mut taken = network::routed_subnets()?;
        taken.extend(known.iter().filter_map(|p| v4(p.v4.as_ref()?.subnet)));
        let outside = [&taken[..], &self.taken_outside()].concat();
        // Rather one that the host outside has as well than none.
        let found = network::choose_subnet(self.pools.as_deref(), &outside)
            .or_else(|_| network::choose_subnet(self.pools.as_deref(), &taken))?;
        Ok(found)
    }

    fn free_subnet6(&self, known: &[&Pools]) -> Result<Ipv6Net> {
        let taken: Vec<Ipv6Net> = known.iter().filter_map(|p| v6(p.v6.as_ref()?.subnet)).collect();
        Ok(network::choose_subnet6(self.base6, &taken)?)
    }

    /// Where the host outside has its own network. What is no subnet is skipped: who wrote it has said so.
    fn taken_outside(&self) -> Vec<Ipv4Net> {
        let text =
            self.taken.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        text.lines().filter_map(|line| line.trim().parse().ok()).collect()
    }

    pub(super) async fn record(
        &self,
        name: &str,
        id: String,
        driver: Driver,
        r: NetworkRequest,
    ) -> Result<Arc<Network>> {
        let network = Network {
            id,
            name: name.to_owned(),
            created: crate::time::now(),
            driver,
            internal: r.internal,
            attachable: r.attachable,
            config_from: r.config_from,
            ipam_options: r.ipam_options,
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
        self.check_name(&r.name)?;
        let mut r = self.configured(r)?;
        let id = random_id();
        let driver = match r.driver.as_str() {
            // Whatever it says: a network made from it has one of its own.
            _ if r.config_only => Driver::Config(r.plan.clone()),
            "" | "bridge" | "default" => self.bridge_driver(&id, &r).await?,
            "macvlan" => {
                macvlan_mode(&r.options)?;
                let own_parent = self.check_parent(&r).await?;
                Driver::Macvlan { own_parent, pools: self.choose_pools(&r.plan)? }
            }
            "ipvlan" => {
                ipvlan_mode(&r.options)?;
                let own_parent = self.check_parent(&r).await?;
                Driver::Ipvlan { own_parent, pools: self.choose_pools(&r.plan)? }
            }
            "host" | "null" | "none" => {
                return Err(Error::forbidden(format!(
                    "only one instance of \"{}\" network is allowed",
                    r.driver
                )));
            }
            other => {
                return Err(Error::not_found(format!("plugin \"{other}\" not found")));
            }
        };
        // Over a link that leads nowhere there is no way out.
        r.internal |= matches!(driver, Driver::Macvlan { .. } | Driver::Ipvlan { .. })
            && r.options.get("parent").is_none_or(String::is_empty);
        // The record first: what is in the kernel without one would stay for good.
        let network = self.record(&r.name.clone(), id, driver, r).await?;
        if let Err(e) = self.make(&network).await {
            if let Err(left) = self.unmake(&network).await {
                tracing::warn!("network {} leaves something behind: {left}", network.name);
            }
            self.forget(&network.id).await?;
            return Err(e);
        }
        Ok(network)
    }

    /// What a network is to be that is made from the configuration of another.
    fn configured(&self, mut r: NetworkRequest) -> Result<NetworkRequest> {
        if r.config_from.is_empty() {
            return if r.config_only { Ok(r) } else { r.with_addresses() };
        }
        let name = &r.config_from;
        let entries = self.lock();
        let found = entries.values().map(|e| &e.network).find(|n| n.name == *name);
        let Some((network, Driver::Config(plan))) = found.map(|n| (n, &n.driver)) else {
            return Err(Error::not_found(format!("configuration network {name:?} does not exist")));
        };
        r.plan = plan.clone();
        r.ipam_options.clone_from(&network.ipam_options);
        r.options.clone_from(&network.options);
        r.labels.clone_from(&network.labels);
        r.with_addresses()
    }

    fn check_name(&self, name: &str) -> Result<()> {
        if name.trim().is_empty() {
            return Err(Error::invalid("invalid name: name is empty"));
        }
        if matches!(name, "bridge" | "host" | "none" | "default") {
            return Err(Error::forbidden(format!("operation is not permitted on predefined {name} network")));
        }
        if !crate::names::is_valid(name) && name.len() != 1 {
            return Err(Error::invalid(format!(
                "invalid name {name:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        if self.lock().values().any(|e| e.network.name == name) {
            return Err(Error::conflict(format!("network with name {name} already exists")));
        }
        Ok(())
    }

    async fn bridge_driver(&self, id: &str, r: &NetworkRequest) -> Result<Driver> {
        let options = BridgeOptions::read(&r.options, r.internal)?;
        let given = options.link.is_some();
        let link = options.link.unwrap_or_else(|| format!("br-{}", &id[..12]));
        let taken = self.lock().values().find_map(|e| match &e.network.driver {
            Driver::Bridge { link: other, .. } if *other == link => Some(e.network.clone()),
            _ => None,
        });
        if let Some(other) = taken {
            return Err(Error::forbidden(format!(
                "cannot create network {id} ({link}): conflicts with network {} ({link}): networks have same bridge name",
                other.id
            )));
        }
        let foreign = given && network::link_exists(&link).await?;
        Ok(Driver::Bridge { link, foreign, pools: self.choose_pools(&r.plan)? })
    }

    /// Looks at the link a macvlan or ipvlan asks for. Answers whether it is ours to make.
    async fn check_parent(&self, r: &NetworkRequest) -> Result<bool> {
        let Some(name) = r.options.get("parent").filter(|p| !p.is_empty()) else { return Ok(true) };
        let user = self.lock().values().find_map(|e| {
            let same = e.network.driver.name() == r.driver && e.network.options.get("parent") == Some(name);
            same.then(|| e.network.id.clone())
        });
        if let Some(id) = user {
            return Err(Error::internal(format!("network {id} is already using parent interface {name}")));
        }
        if network::link_exists(name).await? {
            return Ok(false);
        }
        match tagged(name) {
            // The link below is looked for first.
            None if let Some((below, _)) = name.rsplit_once('.')
                && !network::link_exists(below).await? =>
            {
                Err(Error::internal(format!("-o parent interface was not found on the host: {below}")))
            }
            None => Err(Error::internal(format!(
                "invalid subinterface vlan name {name}, example formatting is eth0.10"
            ))),
            Some(Parent::Tagged { below, .. }) if !network::link_exists(&below).await? => {
                Err(Error::internal(format!("-o parent interface was not found on the host: {below}")))
            }
            Some(_) => Ok(true),
        }
    }

    /// Makes the kernel's side of a network.
    async fn make(&self, network: &Network) -> Result<()> {
        if let Some(bridge) = network.bridge() {
            network::ensure(&self.firewall, &bridge).await?;
        }
        if let Some(vlan) = network.vlan() {
            network::vlan::ensure_parent(&vlan.parent).await?;
        }
        Ok(())
    }

    async fn unmake(&self, network: &Network) -> Result<()> {
        if let Driver::Bridge { link, foreign, .. } = &network.driver {
            network::remove(&self.firewall, link, *foreign).await?;
        }
        if let Some(vlan) = network.vlan() {
            network::vlan::remove_parent(&vlan.parent).await?;
        }
        Ok(())
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
        let is_config = matches!(network.driver, Driver::Config(_));
        if is_config && self.lock().values().any(|e| e.network.config_from == network.name) {
            return Err(Error::forbidden(format!(
                "error while removing network: configuration network {:?} is in use",
                network.name
            )));
        }
        self.unmake(&network).await?;
        self.forget(&network.id).await?;
        Ok(network)
    }
}

/// The first address that a gateway can have.
fn first_free(asked: &PoolRequest, subnet: IpNet) -> Option<IpAddr> {
    let taken = |ip: &IpAddr| *ip == subnet.network() || asked.auxiliary.values().any(|other| other == ip);
    asked.ip_range.unwrap_or(subnet).hosts().find(|ip| !taken(ip))
}

fn v4(net: IpNet) -> Option<Ipv4Net> {
    if let IpNet::V4(net) = net { Some(net) } else { None }
}

fn v6(net: IpNet) -> Option<Ipv6Net> {
    if let IpNet::V6(net) = net { Some(net) } else { None }
}
