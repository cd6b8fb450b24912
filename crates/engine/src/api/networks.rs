//! Operations of the tag Network.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use network::IpNet;
use serde_json::{Value, json};

use super::reply::Reply;
use super::request::Call;
use crate::container::config::EndpointSettings;
use crate::container::{Command, Handle};
use crate::engine::Engine;
use crate::error::{Code, Error, Result};
use crate::networks::{Driver, Members, Network, NetworkRequest, Plan, Pool, PoolRequest};

fn json(network: &Network, members: &Members, detailed: bool) -> Value {
    let mut containers = serde_json::Map::new();
    if detailed {
        for (id, (name, m)) in members {
            containers.insert(
                id.clone(),
                json!({
                    "Name": name, "EndpointID": m.endpoint_id, "MacAddress": m.mac,
                    "IPv4Address": m.address.map(|a| a.to_string()).unwrap_or_default(),
                    "IPv6Address": m.address6.map(|a| a.to_string()).unwrap_or_default(),
                }),
            );
        }
    }
    let (config, v4, v6) = addresses(&network.driver);
    json!({
        "Name": network.name, "Id": network.id, "Created": network.created, "Scope": "local",
        "Driver": network.driver.name(), "EnableIPv4": v4, "EnableIPv6": v6,
        "IPAM": {
            "Driver": "default", "Options": network.ipam_options, "Config": config,
        },
        "Internal": network.internal, "Attachable": network.attachable, "Ingress": false,
        "ConfigFrom": { "Network": network.config_from },
        "ConfigOnly": matches!(network.driver, Driver::Config(_)), "Containers": containers,
        "Options": network.options, "Labels": network.labels,
    })
}

/// A network's subnets, and whether it has addresses of IPv4 and of IPv6.
fn addresses(driver: &Driver) -> (Value, bool, bool) {
    let one = |subnet: Option<IpNet>,
               range: Option<IpNet>,
               gateway: Option<IpAddr>,
               auxiliary: &mut dyn Iterator<Item = (&String, &IpAddr)>| {
        let mut one = serde_json::Map::new();
        let mut set = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                one.insert(key.to_owned(), json!(value));
            }
        };
        set("Subnet", subnet.map(|net| net.to_string()));
        set("IPRange", range.map(|net| net.to_string()));
        set("Gateway", gateway.map(|ip| ip.to_string()));
        let auxiliary: serde_json::Map<_, _> =
            auxiliary.map(|(name, ip)| (name.clone(), json!(ip.to_string()))).collect();
        if !auxiliary.is_empty() {
            one.insert("AuxiliaryAddresses".to_owned(), Value::Object(auxiliary));
        }
        Value::Object(one)
    };
    if let Driver::Config(plan) = driver {
        // As asked for: what was left open is chosen by each network that is made from it.
        let asked = plan.v4.iter().chain(&plan.v6).filter(|p| **p != PoolRequest::default());
        let asked: Vec<Value> =
            asked.map(|p| one(p.subnet, p.ip_range, p.gateway, &mut p.auxiliary.iter())).collect();
        let config = if asked.is_empty() { Value::Null } else { json!(asked) };
        return (config, plan.v4.is_some(), plan.v6.is_some());
    }
    let Some(pools) = driver.pools() else { return (Value::Null, true, false) };
    let pool = |p: &Pool| {
        let mut same = pools.auxiliary.iter().filter(|(_, ip)| ip.is_ipv6() == p.gateway.is_ipv6());
        one(Some(p.subnet), p.ip_range, Some(p.gateway), &mut same)
    };
    (json!(pools.both().map(pool).collect::<Vec<_>>()), pools.v4.is_some(), pools.v6.is_some())
}

pub async fn list(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let filters = call.filters()?.only(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let dangling = filters.truth("dangling")?;
    if let Some(kind) = filters.values("type").iter().find(|t| !matches!(t.as_str(), "builtin" | "custom")) {
        return Err(Error::invalid(format!("invalid filter: 'type'='{kind}'")));
    }
    let mut out = Vec::new();
    for (network, members) in engine.networks.list() {
        let kind = if network.is_predefined() { "builtin" } else { "custom" };
        let keep = filters.allows("driver", network.driver.name())
            && filters.matches("id", &[&network.id])
            && filters.matches("name", &[&network.name])
            && filters.allows("scope", "local")
            && filters.allows("type", kind)
            && filters.labels(&network.labels)
            && dangling.is_none_or(|d| d == (members.is_empty() && !network.is_predefined()));
        if keep {
            out.push(json(&network, &members, false));
        }
    }
    Ok(Reply::json(json!(out)))
}

pub async fn inspect(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let network = engine.networks.find(call.param(0))?;
    Ok(Reply::json(json(&network, &engine.networks.members(&network.id), true)))
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct CreateBody {
    name: String,
    driver: String,
    internal: bool,
    attachable: bool,
    ingress: bool,
    scope: String,
    config_only: bool,
    config_from: ConfigFrom,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

impl CreateBody {
    /// A network that takes over another's configuration has none of its own.
    fn check_taken_over(&self) -> Result<()> {
        let of_its_own = self.enable_ipv6 == Some(true)
            || !self.labels.is_empty()
            || !self.ipam.config.is_empty()
            || self.ipam.options.as_ref().is_some_and(|options| !options.is_empty());
        let words = if self.config_only {
            "a configuration network cannot depend on another configuration network"
        } else if of_its_own {
            "user specified configurations are not supported if the network depends on a configuration network"
        } else if !self.options.is_empty() {
            "network driver options are not supported if the network depends on a configuration network"
        } else {
            return Ok(());
        };
        Err(Error::forbidden(words))
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigFrom {
    network: String,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    driver: String,
    options: Option<BTreeMap<String, String>>,
    config: Vec<IpamConfig>,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct IpamConfig {
    subnet: String,
    #[serde(rename = "IPRange")]
    ip_range: String,
    gateway: String,
    aux_address: BTreeMap<String, String>,
    auxiliary_addresses: BTreeMap<String, String>,
}

fn parse<T: std::str::FromStr>(what: &str, text: &str) -> Result<Option<T>> {
    if text.is_empty() {
        return Ok(None);
    }
    let why = if what == "gateway" { "invalid address" } else { "invalid CIDR block notation" };
    text.parse()
        .map(Some)
        .map_err(|_| Error::invalid(format!("invalid network config:\ninvalid {what} {text}: {why}")))
}

/// The addresses asked for, by version.
fn pools(configs: Vec<IpamConfig>) -> Result<(Option<PoolRequest>, Option<PoolRequest>)> {
    let wrong = |words: String| Error::invalid(format!("invalid network config:\n{words}"));
    let (mut v4, mut v6) = (None, None);
    for config in configs {
        let subnet: Option<IpNet> = parse("subnet", &config.subnet)?;
        let gateway: Option<IpAddr> = parse("gateway", &config.gateway)?;
        let ip_range: Option<IpNet> = parse("ip-range", &config.ip_range)?;
        // One that names itself by its first address, as dockerd wants it.
        if let Some(net) = subnet.filter(|net| net.trunc() != *net) {
            return Err(wrong(format!("invalid subnet {net}: it should be {}", net.trunc())));
        }
        let mut auxiliary = BTreeMap::new();
        for (name, address) in config.auxiliary_addresses.into_iter().chain(config.aux_address) {
            auxiliary.insert(name, parse::<IpAddr>("auxiliary address", &address)?);
        }
        let auxiliary: BTreeMap<String, IpAddr> =
            auxiliary.into_iter().filter_map(|(name, ip)| Some((name, ip?))).collect();
        if let Some(subnet) = subnet {
            let inside = [("gateway", gateway)].into_iter().filter_map(|(what, ip)| Some((what, ip?)));
            let inside = inside.chain(auxiliary.values().map(|ip| ("auxiliary address", *ip)));
            if let Some((what, ip)) = inside.into_iter().find(|(_, ip)| !subnet.contains(ip)) {
                return Err(wrong(format!("invalid {what} {ip}: parent subnet is not {subnet}")));
            }
            if let Some(range) = ip_range.filter(|range| !subnet.contains(range)) {
                return Err(wrong(format!("invalid ip-range {range}: parent subnet is not {subnet}")));
            }
        }
        let is_v6 = subnet.map(|n| n.addr()).or(gateway).is_some_and(|ip| ip.is_ipv6());
        let (place, family) = if is_v6 { (&mut v6, "IPv6") } else { (&mut v4, "IPv4") };
        if place.is_some() {
            return Err(Error::invalid(format!("a network has one {family} subnet")));
        }
        *place = Some(PoolRequest { subnet, gateway, ip_range, auxiliary });
    }
    Ok((v4, v6))
}

pub async fn create(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let body: CreateBody = call.json().await?;
    if body.driver == "overlay" {
        return Err(Error::forbidden(super::NO_SWARM));
    }
    if body.config_only && (body.ingress || body.internal || body.attachable || !body.scope.is_empty()) {
        return Err(Error::forbidden(
            "configuration network can only contain network specific fields. Network operator fields like \
             [ ingress | internal | attachable | scope ] are not supported.",
        ));
    }
    if body.ingress {
        return Err(Error::forbidden("Ingress network can only be global scope network"));
    }
    if body.scope == "swarm" {
        return Err(Error::forbidden("cannot create a swarm scoped network when swarm is not active"));
    }
    if !body.config_from.network.is_empty() {
        body.check_taken_over()?;
    }
    if !matches!(body.ipam.driver.as_str(), "" | "default") {
        return Err(Error::not_found(format!("plugin \"{}\" not found", body.ipam.driver)));
    }
    let ipam_options = body.ipam.options;
    let (v4, v6) = pools(body.ipam.config)?;
    let network = engine
        .networks
        .create(NetworkRequest {
            name: body.name,
            driver: body.driver,
            internal: body.internal,
            attachable: body.attachable,
            config_only: body.config_only,
            config_from: body.config_from.network,
            plan: Plan {
                v4: (body.enable_ipv4 != Some(false)).then(|| v4.unwrap_or_default()),
                v6: (body.enable_ipv6 == Some(true)).then(|| v6.unwrap_or_default()),
            },
            ipam_options,
            options: body.options,
            labels: body.labels,
        })
        .await?;
    engine.network_event(&network, "create", "");
    Ok(Reply::created(json!({ "Id": network.id, "Warning": "" })))
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct MembershipBody {
    container: String,
    endpoint_config: EndpointSettings,
    force: bool,
}

pub async fn connect(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let name = call.param(0).to_owned();
    let body: MembershipBody = call.json().await?;
    let network = engine.networks.find(&name)?;
    let handle = find_container(&engine, &body.container)?;
    network.check_endpoint(&body.endpoint_config)?;
    let settings = Box::new(body.endpoint_config);
    handle.ask(|reply| Command::Connect { network, settings, reply }).await??;
    Ok(Reply::ok())
}

pub async fn disconnect(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let name = call.param(0).to_owned();
    let body: MembershipBody = call.json().await?;
    let network = engine.networks.find(&name)?;
    let handle = match find_container(&engine, &body.container) {
        // By force, a place whose container is gone would be cleared; there are none: places end with their runs.
        Err(e) if body.force && e.code == Code::NotFound => {
            return Err(Error::not_found(format!("endpoint {} not found", body.container)));
        }
        found => found?,
    };
    handle.ask(|reply| Command::Disconnect { network, reply }).await??;
    Ok(Reply::ok())
}

fn find_container(engine: &Engine, reference: &str) -> Result<Handle> {
    if reference.is_empty() {
        return Err(Error::invalid("invalid name or ID supplied: \"\""));
    }
    engine.containers.find(reference)
}

pub async fn delete(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let network = engine.networks.remove(call.param(0)).await?;
    engine.network_event(&network, "destroy", "");
    Ok(Reply::no_content())
}

pub async fn prune(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let filters = call.filters()?.only(&["label", "label!", "until"])?;
    let until = filters.until()?;
    let mut removed = Vec::new();
    for (network, members) in engine.networks.list() {
        let used =
            engine.containers.list().iter().any(|c| c.view().record.networks.contains_key(&network.name));
        let made = crate::time::parse(&network.created);
        let old = until.is_none_or(|until| made.is_some_and(|made| made < until));
        let kept = network.is_predefined() || matches!(network.driver, Driver::Config(_));
        if kept || used || !members.is_empty() || !old || !filters.labels(&network.labels) {
            continue;
        }
        engine.networks.remove(&network.id).await?;
        engine.network_event(&network, "destroy", "");
        removed.push(network.name.clone());
    }
    engine.prune_event("network", 0);
    Ok(Reply::json(
        json!({ "NetworksDeleted": if removed.is_empty() { Value::Null } else { json!(removed) } }),
    ))
}
