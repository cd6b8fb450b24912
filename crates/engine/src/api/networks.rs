//! Operations of the tag Network.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::reply::Reply;
use super::request::Call;
use crate::container::config::EndpointSettings;
use crate::container::{Command, Handle};
use crate::engine::Engine;
use crate::error::{Code, Error, Result};
use crate::networks::{Driver, Members, Network, NetworkRequest};

fn json(network: &Network, members: &Members, detailed: bool) -> Value {
    let mut containers = serde_json::Map::new();
    if detailed {
        for (id, (name, m)) in members {
            containers.insert(
                id.clone(),
                json!({
                    "Name": name, "EndpointID": m.endpoint_id, "MacAddress": m.mac,
                    "IPv4Address": m.address.map(|a| a.to_string()).unwrap_or_default(), "IPv6Address": "",
                }),
            );
        }
    }
    let config = match &network.driver {
        Driver::Bridge { subnet, gateway, ip_range, .. } => {
            let mut one = json!({ "Subnet": subnet.to_string(), "Gateway": gateway.to_string() });
            if let Some(range) = ip_range {
                one["IPRange"] = json!(range.to_string());
            }
            json!([one])
        }
        Driver::Host | Driver::Null => Value::Null,
    };
    json!({
        "Name": network.name, "Id": network.id, "Created": network.created, "Scope": "local",
        "Driver": network.driver.name(), "EnableIPv4": true, "EnableIPv6": false,
        "IPAM": {
            "Driver": "default", "Options": if network.is_predefined() { Value::Null } else { json!({}) }, "Config": config,
        },
        "Internal": network.internal, "Attachable": network.attachable, "Ingress": false,
        "ConfigFrom": { "Network": "" }, "ConfigOnly": false, "Containers": containers,
        "Options": network.options, "Labels": network.labels,
    })
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
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    driver: String,
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

/// A subnet that names itself by its first address, as dockerd wants it.
fn subnet(text: &str) -> Result<Option<network::Ipv4Net>> {
    let subnet: Option<network::Ipv4Net> = parse("subnet", text)?;
    match subnet {
        Some(net) if net.trunc() != net => Err(Error::invalid(format!(
            "invalid network config:\ninvalid subnet {text}: it should be {}",
            net.trunc()
        ))),
        other => Ok(other),
    }
}

pub async fn create(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let body: CreateBody = call.json().await?;
    let missing = |what: &str| Err(Error::not_implemented(format!("{what} is not there yet")));
    if body.enable_ipv6 == Some(true) {
        return missing("IPv6 in networks");
    }
    if body.config_only || body.ingress {
        return missing("config-only and ingress networks");
    }
    if !matches!(body.scope.as_str(), "" | "local") {
        return Err(Error::unavailable(
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
        ));
    }
    if !matches!(body.ipam.driver.as_str(), "" | "default") {
        return Err(Error::not_found(format!("plugin \"{}\" not found", body.ipam.driver)));
    }
    if body.ipam.config.len() > 1 {
        return Err(Error::invalid("bridge driver supports only one IPv4 subnet"));
    }
    let ipam = body.ipam.config.into_iter().next().unwrap_or_default();
    if !ipam.aux_address.is_empty() || !ipam.auxiliary_addresses.is_empty() {
        return missing("--aux-address");
    }
    let network = engine
        .networks
        .create(NetworkRequest {
            name: body.name,
            driver: body.driver,
            internal: body.internal,
            attachable: body.attachable,
            subnet: subnet(&ipam.subnet)?,
            gateway: parse("gateway", &ipam.gateway)?,
            ip_range: parse("ip-range", &ipam.ip_range)?,
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
    check_endpoint(&network, &body.endpoint_config)?;
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

/// An address asked for, held against the network, in Docker's words.
fn check_endpoint(network: &Network, settings: &EndpointSettings) -> Result<()> {
    let asked = settings.ipam_config.as_ref().map_or("", |c| c.ipv4_address.as_str());
    if asked.is_empty() {
        return Ok(());
    }
    let mut wrong = Vec::new();
    if network.is_predefined() {
        wrong.push("user specified IP address is supported on user defined networks only".to_owned());
        wrong.push("user specified IP address is supported only when connecting to networks with user configured subnets".to_owned());
    } else {
        let address = asked.parse::<std::net::Ipv4Addr>();
        if address.is_err() {
            wrong.push(format!("invalid IPv4 address: {asked}"));
        }
        let inside = match &network.driver {
            Driver::Bridge { subnet, .. } => address.is_ok_and(|a| subnet.contains(&a)),
            Driver::Host | Driver::Null => false,
        };
        if !inside {
            wrong.push(format!("no configured subnet or ip-range contain the IP address {asked}"));
        }
    }
    match wrong.as_slice() {
        [] => Ok(()),
        [one] => Err(Error::invalid(format!("invalid endpoint settings:\n{one}"))),
        many => Err(Error::invalid(format!("invalid endpoint settings:\n* {}", many.join("\n* ")))),
    }
}

pub async fn delete(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let network = engine.networks.remove(call.param(0)).await?;
    engine.network_event(&network, "destroy", "");
    Ok(Reply::no_content())
}

pub async fn prune(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let filters = call.filters()?.only(&["label", "label!", "until"])?;
    let mut removed = Vec::new();
    for (network, members) in engine.networks.list() {
        let used =
            engine.containers.list().iter().any(|c| c.view().record.networks.contains_key(&network.name));
        let old = filters.any("until", |u| {
            crate::time::parse_point(u)
                .zip(crate::time::parse(&network.created))
                .is_some_and(|(until, made)| made < until)
        });
        if network.is_predefined() || used || !members.is_empty() || !old || !filters.labels(&network.labels)
        {
            continue;
        }
        engine.networks.remove(&network.id).await?;
        engine.network_event(&network, "destroy", "");
        removed.push(network.name.clone());
    }
    Ok(Reply::json(
        json!({ "NetworksDeleted": if removed.is_empty() { Value::Null } else { json!(removed) } }),
    ))
}
