//! Containers that lean on another's network: `--network container:` shares it, `--link` knows it by another name.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::{Config, HostConfig};
use super::{Command, Handle, Record, Status};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::networks::split_link;

/// Another container of the default bridge, and the name it has in this one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The other's id.
    pub id: String,
    /// Its name here.
    pub alias: String,
}

impl Link {
    /// Whether a line of the container's `/etc/hosts` is this link's: see [`Linked::hosts_line`].
    pub fn wrote(&self, engine: &Engine, line: &str) -> bool {
        let other = engine.containers.find(&self.id).ok().map(|h| h.view().record.config.hostname.clone());
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(&self.alias) && other.is_none_or(|name| words.next() == Some(&name))
    }
}

/// Whether the container has no network of its own but another container's.
pub fn shares_network(host: &HostConfig) -> bool {
    host.network_mode.starts_with("container:")
}

/// The container whose network is shared, if it is.
pub fn network_owner(engine: &Engine, host: &HostConfig) -> Result<Option<Handle>> {
    let Some(reference) = host.network_mode.strip_prefix("container:") else { return Ok(None) };
    let found = engine.containers.find(reference);
    found.map(Some).map_err(|e| e.context("joining network namespace of container"))
}

/// The path of the network namespace that is shared; the container that has it must run.
pub fn shared_netns(engine: &Engine, record: &Record) -> Result<Option<String>> {
    let Some(owner) = network_owner(engine, &record.host)? else { return Ok(None) };
    let view = owner.view();
    match &view.status {
        Status::Running { container, .. } => Ok(Some(container.netns().to_string_lossy().into_owned())),
        other => Err(Error::conflict(format!(
            "cannot join network namespace of a non running container: container {} is {}",
            view.record.name,
            other.name()
        ))),
    }
}

/// Refuses what cannot be had together with another's network, in Docker's words.
pub fn check_conflicts(config: &Config, host: &HostConfig) -> Result<()> {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    let conflict = |what: &str| Err(Error::invalid(format!("conflicting options: {what}")));
    if host.network_mode == "host" && some(&host.links) {
        return conflict(
            "host type networking can't be used with links. This would result in undefined behavior",
        );
    }
    if !shares_network(host) {
        return Ok(());
    }
    if !config.hostname.is_empty() {
        return conflict("hostname and the network mode");
    }
    if some(&host.links) {
        return conflict(
            "container type network can't be used with links. This would result in undefined behavior",
        );
    }
    if !host.dns.is_empty() {
        return conflict("dns and the network mode");
    }
    if some(&host.extra_hosts) {
        return conflict("custom host-to-IP mapping and the network mode");
    }
    if !config.mac_address.is_empty() {
        return conflict("mac-address and the network mode");
    }
    if !host.port_bindings.is_empty() || host.publish_all_ports {
        return conflict("port publishing and the container type network mode");
    }
    if !config.exposed_ports.is_empty() {
        return conflict("port exposing and the container type network mode");
    }
    Ok(())
}

/// The links asked for, their containers found.
pub fn resolve(engine: &Engine, asked: &[String]) -> Result<Vec<Link>> {
    let link = |text: &String| {
        let (alias, name) = split_link(text);
        let found = engine.containers.find(&name);
        let other = found
            .map_err(|e| Error::invalid(format!("could not get container for {name}: {}", e.message)))?;
        Ok(Link { id: other.view().record.id.clone(), alias })
    };
    asked.iter().map(link).collect()
}

/// A link with what the other container is now.
pub struct Linked {
    alias: String,
    other: std::sync::Arc<Record>,
    address: Option<std::net::Ipv4Addr>,
}

/// The containers behind a container's links; all must run.
pub fn linked(engine: &Engine, record: &Record) -> Result<Vec<Linked>> {
    let look = |link: &Link| {
        let view = engine.containers.find(&link.id)?.view();
        if !view.status.is_running() {
            return Err(Error::internal(format!(
                "Cannot link to a non running container: /{} AS /{}/{}",
                view.record.name, record.name, link.alias
            )));
        }
        let place = view.record.last.members.iter().find(|m| m.network == "bridge");
        let address = place.and_then(|m| m.address).map(|a| a.addr());
        Ok(Linked { alias: link.alias.clone(), other: view.record, address })
    };
    record.links.iter().map(look).collect()
}

/// Removes a link by its name, `/CONTAINER/ALIAS`; the containers stay.
pub async fn remove(engine: &Engine, name: &str) -> Result<()> {
    let Some((parent, alias)) = name.trim_start_matches('/').rsplit_once('/') else {
        return Err(Error::conflict(format!(
            "Conflict, cannot remove the default link name of the container {name}"
        )));
    };
    let handle = engine.containers.find(parent)?;
    handle.ask(|reply| Command::Unlink { alias: alias.to_owned(), reply }).await?
}

/// How long the start of a container waits for those that know it by a link.
const RELINK_TIMEOUT: Duration = Duration::from_secs(2);

/// A container has started, with another address perhaps: those that know it by a link learn it.
pub async fn tell_those_linked_to(engine: &Engine, id: &str) {
    for handle in engine.containers.list() {
        let view = handle.view();
        if !view.status.is_running() || !view.record.links.iter().any(|l| l.id == id) {
            continue;
        }
        let told = handle.ask(|reply| Command::Relink { reply });
        match tokio::time::timeout(RELINK_TIMEOUT, told).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(e)) | Err(e)) => tracing::warn!("links of {}: {e}", view.record.name),
            // It has the command, and follows it when it is done with what it does.
            Err(_) => tracing::info!("links of {} are changed later", view.record.name),
        }
    }
}

impl Linked {
    /// The line with another address, if this is its line.
    pub fn renewed(&self, line: &str) -> Option<String> {
        let own = self.hosts_line()?;
        let names = own.split_once('\t')?.1;
        (line.split_once('\t')?.1 == names).then_some(own)
    }

    /// Its line of `/etc/hosts`.
    pub fn hosts_line(&self) -> Option<String> {
        let (alias, other) = (&self.alias, &self.other);
        let mut line = format!("{}\t{alias} {}", self.address?, other.config.hostname);
        if *alias != other.name {
            line.push_str(&format!(" {}", other.name));
        }
        Some(line)
    }

    /// The variables that tell of it: `DB_PORT_5432_TCP_ADDR` and the like.
    pub fn environment(&self, own_name: &str) -> Vec<String> {
        let alias = self.alias.to_uppercase().replace('-', "_");
        let mut env = Vec::new();
        let split = |port: &String| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            Some((protocol != "tcp", number.parse::<u16>().ok()?, protocol.to_owned()))
        };
        // TCP first, then by number: the first is the default.
        let ports: BTreeSet<_> = self.other.config.exposed_ports.keys().filter_map(split).collect();
        if let Some(ip) = self.address {
            if let Some((_, port, protocol)) = ports.first() {
                env.push(format!("{alias}_PORT={protocol}://{ip}:{port}"));
            }
            for (_, port, protocol) in &ports {
                let name = format!("{alias}_PORT_{port}_{}", protocol.to_uppercase());
                env.push(format!("{name}={protocol}://{ip}:{port}"));
                env.push(format!("{name}_ADDR={ip}"));
                env.push(format!("{name}_PORT={port}"));
                env.push(format!("{name}_PROTO={protocol}"));
            }
        }
        env.push(format!("{alias}_NAME=/{own_name}/{}", self.alias));
        let told = self.other.config.env.iter().filter_map(|v| v.split_once('='));
        // Every image has these two: they tell nothing.
        let told = told.filter(|(key, _)| !matches!(*key, "HOME" | "PATH"));
        env.extend(told.map(|(key, value)| format!("{alias}_ENV_{key}={value}")));
        env
    }
}

/// A container's links as `inspect` shows them.
pub fn shown(engine: &Engine, record: &Record) -> Option<Vec<String>> {
    let show = |link: &Link| {
        let other = engine.containers.find(&link.id).ok()?.view();
        Some(format!("/{}:/{}/{}", other.record.name, record.name, link.alias))
    };
    (!record.links.is_empty()).then(|| record.links.iter().filter_map(show).collect())
}
