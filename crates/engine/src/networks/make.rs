//! Making and removing networks.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use network::vlan::Parent;
use network::{IpNet, Ipv4Net, Ipv6Net};

use super::driver::{BridgeOptions, Driver, Network, PoolV6, Pools, ipvlan_mode, macvlan_mode, tagged};
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
    pub v4: PoolRequest,
    /// With `--ipv6`.
    pub v6: Option<PoolRequest>,
    /// Options of who gives out addresses: shown again.
    pub ipam_options: Option<BTreeMap<String, String>>,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// The addresses of one version a network asks for; a subnet, where there is one, holds the rest.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct PoolRequest {
    pub subnet: Option<IpNet>,
    pub gateway: Option<IpAddr>,
    pub ip_range: Option<IpNet>,
    pub auxiliary: BTreeMap<String, IpAddr>,
}

impl Networks {
    /// The addresses for a network: those asked for, or some that nothing else has.
    pub(super) fn choose_pools(&self, r: &NetworkRequest) -> Result<Pools> {
        let known: Vec<Arc<Network>> = self.lock().values().map(|e| e.network.clone()).collect();
        let pools = || known.iter().filter_map(|n| n.driver.pools());
        for subnet in [Some(&r.v4), r.v6.as_ref()].into_iter().flatten().filter_map(|p| p.subnet) {
            if pools().any(|p| p.overlaps(&subnet)) {
                return Err(Error::forbidden(
                    "invalid pool request: Pool overlaps with other one on this address space",
                ));
            }
        }
        let subnet = match r.v4.subnet {
            Some(IpNet::V4(subnet)) => subnet,
            _ => {
                let mut taken = network::routed_subnets()?;
                taken.extend(pools().map(|p| p.subnet));
                let outside = [&taken[..], &self.taken_outside()].concat();
                // Rather one that the host outside has as well than none.
                network::choose_subnet(self.pools.as_deref(), &outside)
                    .or_else(|_| network::choose_subnet(self.pools.as_deref(), &taken))?
            }
        };
        let gateway = match r.v4.gateway {
            Some(IpAddr::V4(gateway)) => gateway,
            _ => {
                let range = v4(r.v4.ip_range).unwrap_or(subnet);
                let free = |ip: &std::net::Ipv4Addr| {
                    *ip != subnet.network() && !r.v4.auxiliary.values().any(|taken| *taken == IpAddr::V4(*ip))
                };
                let room = || Error::invalid(format!("subnet {subnet} has no room"));
                range.hosts().find(free).ok_or_else(room)?
            }
        };
        let v6 = match &r.v6 {
            None => None,
            Some(asked) => {
                let subnet = match asked.subnet {
                    Some(IpNet::V6(subnet)) => subnet,
                    _ => {
                        let taken: Vec<Ipv6Net> =
                            pools().filter_map(|p| Some(p.v6.as_ref()?.subnet)).collect();
                        network::choose_subnet6(self.base6, &taken)?
                    }
                };
                let gateway = match asked.gateway {
                    Some(IpAddr::V6(gateway)) => gateway,
                    _ => {
                        let range = v6(asked.ip_range).unwrap_or(subnet);
                        let free = |ip: &std::net::Ipv6Addr| {
                            *ip != subnet.network()
                                && !asked.auxiliary.values().any(|taken| *taken == IpAddr::V6(*ip))
                        };
                        let room = || Error::invalid(format!("subnet {subnet} has no room"));
                        range.hosts().find(free).ok_or_else(room)?
                    }
                };
                let ip_range = v6(asked.ip_range);
                Some(PoolV6 { subnet, gateway, ip_range, by_user: asked.subnet.is_some() })
            }
        };
        let auxiliary = |p: &PoolRequest| p.auxiliary.clone();
        let mut all = auxiliary(&r.v4);
        all.extend(r.v6.as_ref().map(auxiliary).unwrap_or_default());
        Ok(Pools {
            subnet,
            gateway,
            ip_range: v4(r.v4.ip_range),
            by_user: r.v4.subnet.is_some(),
            auxiliary: all,
            v6,
        })
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
        let id = random_id();
        let driver = match r.driver.as_str() {
            "" | "bridge" | "default" => self.bridge_driver(&id, &r).await?,
            "macvlan" => {
                macvlan_mode(&r.options)?;
                let own_parent = self.check_parent(&r).await?;
                Driver::Macvlan { own_parent, pools: self.choose_pools(&r)? }
            }
            "ipvlan" => {
                ipvlan_mode(&r.options)?;
                let own_parent = self.check_parent(&r).await?;
                Driver::Ipvlan { own_parent, pools: self.choose_pools(&r)? }
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
        let mut r = r;
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
        Ok(Driver::Bridge { link, foreign, pools: self.choose_pools(r)? })
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
        self.unmake(&network).await?;
        self.forget(&network.id).await?;
        Ok(network)
    }
}

fn v4(net: Option<IpNet>) -> Option<Ipv4Net> {
    if let Some(IpNet::V4(net)) = net { Some(net) } else { None }
}

fn v6(net: Option<IpNet>) -> Option<Ipv6Net> {
    if let Some(IpNet::V6(net)) = net { Some(net) } else { None }
}
