//! What is shown of containers: `ps` and `inspect`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::size_of;
use crate::api::reply::Reply;
use crate::api::request::{Call, Filters};
use crate::container::{Handle, Record, Status, View, health, spec};
use crate::engine::Engine;
use crate::error::Result;
use crate::networks::Member;
use crate::time;

fn or_zero(text: &str) -> &str {
    if text.is_empty() { time::ZERO } else { text }
}

/// Docker's sentence about a state: `Up 3 minutes`, `Exited (0) 2 hours ago`.
fn sentence(view: &View) -> String {
    let last = &view.record.last;
    let ago = |text: &str| {
        let at = time::parse(text).unwrap_or(SystemTime::UNIX_EPOCH);
        time::human(SystemTime::now().duration_since(at).unwrap_or_default().as_secs())
    };
    match &view.status {
        Status::Created => "Created".into(),
        Status::Running { paused: true, .. } => format!("Up {} (Paused)", ago(&last.started_at)),
        Status::Running { .. } => match &last.health {
            Some(h) if h.status == health::Status::Starting => {
                format!("Up {} (health: starting)", ago(&last.started_at))
            }
            Some(h) => format!("Up {} ({})", ago(&last.started_at), h.status.name()),
            None => format!("Up {}", ago(&last.started_at)),
        },
        Status::Restarting => format!("Restarting ({}) {} ago", last.exit_code, ago(&last.finished_at)),
        Status::Exited => format!("Exited ({}) {} ago", last.exit_code, ago(&last.finished_at)),
        Status::Removing | Status::Removed => "Removal In Progress".into(),
    }
}

fn endpoint(record: &Record, name: &str, member: Option<&Member>) -> Value {
    let asked = record.networks.get(name).cloned().unwrap_or_default();
    let address = member.and_then(|m| m.address);
    let user = !matches!(name, "bridge" | "host" | "none");
    let mut names: Vec<String> = vec![record.name.clone()];
    names.extend(asked.aliases.iter().flatten().cloned());
    names.push(record.id[..12].to_owned());
    names.dedup();
    json!({
        "IPAMConfig": asked.ipam_config, "Links": asked.links, "Aliases": asked.aliases,
        "MacAddress": member.map_or("", |m| &m.mac), "DriverOpts": asked.driver_opts,
        "GwPriority": asked.gw_priority,
        "NetworkID": member.map_or("", |m| &m.network_id), "EndpointID": member.map_or("", |m| &m.endpoint_id),
        "Gateway": member.and_then(|m| m.gateway).map(|g| g.to_string()).unwrap_or_default(),
        "IPAddress": address.map(|a| a.addr().to_string()).unwrap_or_default(),
        "IPPrefixLen": address.map_or(0, |a| a.prefix_len()),
        "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
        "DNSNames": if user { json!(names) } else { Value::Null },
    })
}

fn endpoints(record: &Record) -> Value {
    let member = |name: &str| record.last.members.iter().find(|m| m.network == name);
    let all: BTreeMap<&String, Value> =
        record.networks.keys().map(|name| (name, endpoint(record, name, member(name)))).collect();
    json!(all)
}

/// dockerd shows `z` for a named volume without a mode.
fn volume_mode<'a>(m: &'a crate::container::mounts::MountPoint, name: &str) -> &'a str {
    let anonymous = name.len() == 64;
    if m.mode.is_empty() && !anonymous { "z" } else { &m.mode }
}

fn mounts(engine: &Engine, record: &Record) -> Value {
    let mount = |m: &crate::container::mounts::MountPoint| match &m.volume {
        Some(name) => json!({
            "Type": "volume", "Name": name, "Source": engine.volumes.data(name), "Destination": m.destination,
            "Driver": "local", "Mode": volume_mode(m, name),
            "RW": m.rw, "Propagation": "",
        }),
        None => json!({
            "Type": m.kind.name(), "Source": m.source, "Destination": m.destination, "Mode": m.mode, "RW": m.rw,
            "Propagation": m.propagation,
        }),
    };
    json!(record.mounts.iter().map(mount).collect::<Vec<_>>())
}

/// One entry of `GET /containers/json`.
pub async fn summary(engine: &Engine, view: &View, size: bool) -> Value {
    let record = &view.record;
    let mut ports: Vec<Value> = Vec::new();
    let split = |port: &str| {
        let (number, kind) = port.split_once('/').unwrap_or((port, "tcp"));
        (number.parse::<u16>().unwrap_or(0), kind.to_owned())
    };
    for p in &record.last.ports {
        let (number, kind) = split(&p.port);
        ports.push(json!({ "IP": p.host_ip.to_string(), "PrivatePort": number, "PublicPort": p.host_port, "Type": kind }));
    }
    if view.status.is_running() {
        for port in record.config.exposed_ports.keys() {
            if !record.last.ports.iter().any(|p| p.port == *port) {
                let (number, kind) = split(port);
                ports.push(json!({ "PrivatePort": number, "Type": kind }));
            }
        }
    }
    let created = time::parse(&record.created).and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
    let mut out = json!({
        "Id": record.id, "Names": [format!("/{}", record.name)], "Image": record.config.image,
        "ImageID": record.image_id, "Command": command_line(record), "Created": created.map_or(0, |c| c.as_secs()),
        "Ports": ports, "Labels": record.config.labels, "State": view.status.name(), "Status": sentence(view),
        "HostConfig": { "NetworkMode": network_mode(record) },
        "NetworkSettings": { "Networks": endpoints(record) }, "Mounts": mounts(engine, record),
    });
    if size {
        out["SizeRw"] = json!(size_of(engine, record).await);
        out["SizeRootFs"] = json!(engine.images.get(&record.image_id).await.map_or(0, |i| i.size));
    }
    out
}

fn network_mode(record: &Record) -> &str {
    if matches!(record.host.network_mode.as_str(), "" | "default") {
        "bridge"
    } else {
        &record.host.network_mode
    }
}

/// The command as a shell would take it, as dockerd shows it.
fn command_line(record: &Record) -> String {
    let quote = |word: &String| {
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c));
        if plain && !word.is_empty() { word.clone() } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    std::iter::once(&record.path).chain(&record.args).map(quote).collect::<Vec<_>>().join(" ")
}

const LIST_FILTERS: &[&str] = &[
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "name", "network",
    "publish", "since", "status", "volume",
];

pub async fn list(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let filters = call.filters()?.only(LIST_FILTERS)?;
    let limit: Option<i64> = call.number("limit")?;
    let limit = limit.filter(|l| *l > 0);
    let all = call.flag("all")
        || limit.is_some()
        || !filters.values("status").is_empty()
        || !filters.values("exited").is_empty();
    let created =
        |reference: &str| engine.containers.find(reference).map(|h| h.view().record.created.clone());
    let since = filters.values("since").first().map(|r| created(r)).transpose()?;
    let before = filters.values("before").first().map(|r| created(r)).transpose()?;
    let mut views: Vec<View> = engine.containers.list().iter().map(Handle::view).collect();
    views.retain(|v| {
        (all || v.status.is_running())
            && since.as_ref().is_none_or(|s| v.record.created > *s)
            && before.as_ref().is_none_or(|b| v.record.created < *b)
            && keeps(&engine, &filters, v)
    });
    views.sort_by(|a, b| b.record.created.cmp(&a.record.created));
    if let Some(limit) = limit {
        views.truncate(limit as usize);
    }
    let ancestors = filters.values("ancestor");
    if !ancestors.is_empty() {
        let mut ids = Vec::new();
        for name in ancestors {
            if let Ok(image) = engine.images.get(name).await {
                ids.push(image.id.to_string());
            }
        }
        views.retain(|v| ids.contains(&v.record.image_id) || ancestors.contains(&v.record.config.image));
    }
    let mut out = Vec::with_capacity(views.len());
    for view in &views {
        out.push(summary(&engine, view, call.flag("size")).await);
    }
    Ok(Reply::json(json!(out)))
}

fn keeps(engine: &Engine, filters: &Filters, view: &View) -> bool {
    let record = &view.record;
    let exited = || view.record.last.exit_code.to_string();
    filters.any("id", |v| record.id.starts_with(v))
        && filters.any("name", |v| {
            let bare = v.trim_start_matches('/');
            // Docker takes a regular expression; names are mostly given plain or anchored.
            let (start, bare) = bare.strip_prefix('^').map_or((false, bare), |b| (true, b));
            let bare = bare.trim_start_matches('/');
            let (end, bare) = bare.strip_suffix('$').map_or((false, bare), |b| (true, b));
            match (start, end) {
                (true, true) => record.name == bare,
                (true, false) => record.name.starts_with(bare),
                (false, true) => record.name.ends_with(bare),
                (false, false) => record.name.contains(bare),
            }
        })
        && filters.allows("status", view.status.name())
        && filters.any("exited", |v| matches!(view.status, Status::Exited) && v == exited())
        && filters.allows("health", record.last.health.as_ref().map_or("none", |h| h.status.name()))
        && filters.any("network", |v| {
            record.networks.contains_key(v)
                || engine.networks.find(v).is_ok_and(|n| record.networks.contains_key(&n.name))
        })
        && filters.any("volume", |v| {
            record
                .mounts
                .iter()
                .any(|m| m.volume.as_deref() == Some(v) || m.destination == std::path::Path::new(v))
        })
        && filters.any("publish", |v| {
            record.last.ports.iter().any(|p| p.port == v || p.port.split('/').next() == Some(v))
        })
        && filters.any("expose", |v| {
            record.config.exposed_ports.keys().any(|p| p == v || p.split('/').next() == Some(v))
        })
        && filters.any("is-task", |v| matches!(v, "0" | "false"))
        && filters.labels(&record.config.labels)
}

pub async fn inspect(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let view = engine.containers.find(call.param(0))?.view();
    let record = &view.record;
    let last = &record.last;
    let folder = engine.paths.container(&record.id);
    let running = view.status.is_running();
    let pid = match &view.status {
        Status::Running { container, .. } => container.pid(),
        _ => 0,
    };
    let paused = matches!(view.status, Status::Running { paused: true, .. });
    let mut host = json!(record.host);
    host["NetworkMode"] = json!(network_mode(record));
    let strings = |list: &[&str]| json!(list);
    if host["MaskedPaths"].is_null() && !record.host.privileged {
        host["MaskedPaths"] = strings(&runtime::spec::MASKED_PATHS);
        host["ReadonlyPaths"] = strings(&runtime::spec::READONLY_PATHS);
    }
    let mut ports = serde_json::Map::new();
    if running {
        for port in record.config.exposed_ports.keys().chain(record.host.port_bindings.keys()) {
            let bound: Vec<Value> = last
                .ports
                .iter()
                .filter(|p| p.port == *port)
                .map(|p| json!({ "HostIp": p.host_ip.to_string(), "HostPort": p.host_port.to_string() }))
                .collect();
            ports.insert(port.clone(), if bound.is_empty() { Value::Null } else { json!(bound) });
        }
    }
    let bridge = last.members.iter().find(|m| m.network == "bridge");
    let address = bridge.and_then(|m| m.address);
    let execs = engine.execs.running_in(&record.id);
    let mut out = json!({
        "Id": record.id, "Created": record.created, "Path": record.path, "Args": record.args,
        "State": {
            "Status": view.status.name(), "Running": running, "Paused": paused,
            "Restarting": matches!(view.status, Status::Restarting), "OOMKilled": last.oom_killed, "Dead": false,
            "Pid": pid, "ExitCode": if running { 0 } else { last.exit_code }, "Error": last.error,
            "StartedAt": or_zero(&last.started_at), "FinishedAt": or_zero(&last.finished_at),
        },
        "Image": record.image_id, "ResolvConfPath": folder.join("resolv.conf"),
        "HostnamePath": folder.join("hostname"), "HostsPath": folder.join("hosts"),
        "LogPath": if record.host.log_config.r#type == "json-file" { json!(spec::log_path(&engine, record)) } else { json!("") },
        "Name": format!("/{}", record.name), "RestartCount": record.restart_count, "Driver": "overlayfs",
        "Platform": "linux", "MountLabel": "", "ProcessLabel": "", "AppArmorProfile": "",
        "ExecIDs": if execs.is_empty() { Value::Null } else { json!(execs) },
        "HostConfig": host,
        "GraphDriver": { "Data": null, "Name": "overlayfs" },
        "Mounts": mounts(&engine, record),
        "Config": record.config,
        "NetworkSettings": {
            "Bridge": "", "SandboxID": if running { &record.id } else { "" },
            "SandboxKey": if running { format!("/proc/{pid}/ns/net") } else { String::new() },
            "Ports": ports, "HairpinMode": false, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
            "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null,
            "EndpointID": bridge.map_or("", |m| &m.endpoint_id),
            "Gateway": bridge.and_then(|m| m.gateway).map(|g| g.to_string()).unwrap_or_default(),
            "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
            "IPAddress": address.map(|a| a.addr().to_string()).unwrap_or_default(),
            "IPPrefixLen": address.map_or(0, |a| a.prefix_len()),
            "IPv6Gateway": "", "MacAddress": bridge.map_or("", |m| &m.mac),
            "Networks": endpoints(record),
        },
    });
    if let Some(health) = &last.health {
        out["State"]["Health"] = health.to_json();
    }
    if call.flag("size") {
        out["SizeRw"] = json!(size_of(&engine, record).await);
        out["SizeRootFs"] = json!(engine.images.get(&record.image_id).await.map_or(0, |i| i.size));
    }
    Ok(Reply::json(out))
}
