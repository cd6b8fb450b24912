//! What is shown of containers: `ps` and `inspect`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::size_of;
use crate::api::reply::Reply;
use crate::api::request::{Call, Filters, Version};
use crate::container::{Handle, Record, Status, View, health, links, names, spec};
use crate::engine::Engine;
use crate::error::{Error, Result};
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
    let address6 = member.and_then(|m| m.address6);
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
        "IPv6Gateway": member.and_then(|m| m.gateway6).map(|g| g.to_string()).unwrap_or_default(),
        "GlobalIPv6Address": address6.map(|a| a.addr().to_string()).unwrap_or_default(),
        "GlobalIPv6PrefixLen": address6.map_or(0, |a| a.prefix_len()),
        "DNSNames": if user { json!(names) } else { Value::Null },
    })
}

fn endpoints(engine: &Engine, record: &Record) -> Value {
    let member = |name: &str| record.last.members.iter().find(|m| m.network == name);
    let shown = |name: &String| {
        let mut shown = endpoint(record, name, member(name));
        // A container that ended keeps its place in the network, without addresses.
        if member(name).is_none()
            && !record.last.started_at.is_empty()
            && let Ok(network) = engine.networks.find(name)
        {
            shown["NetworkID"] = json!(network.id);
        }
        shown
    };
    let all: BTreeMap<&String, Value> = record.networks.keys().map(|name| (name, shown(name))).collect();
    json!(all)
}

/// The images that one answer speaks of, each asked for once: a list of many containers names few of them.
pub struct Images<'a> {
    engine: &'a Engine,
    known: HashMap<String, Option<Arc<image::Image>>>,
}

impl<'a> Images<'a> {
    /// For one answer.
    pub fn of(engine: &'a Engine) -> Self {
        Self { engine, known: HashMap::new() }
    }

    /// By name or id; `None` when there is no such image.
    async fn get(&mut self, reference: &str) -> Option<Arc<image::Image>> {
        if let Some(known) = self.known.get(reference) {
            return known.clone();
        }
        let found = self.engine.images.get(reference).await.ok().map(Arc::new);
        self.known.insert(reference.to_owned(), found.clone());
        found
    }
}

/// The image's manifest for this machine, as the containerd store describes it; `None` when the image is gone.
async fn manifest_of(images: &mut Images<'_>, image: &str) -> Option<Value> {
    let image = images.get(image).await?;
    let mut platform = json!({ "architecture": image.architecture, "os": image.os });
    if !image.variant.is_empty() {
        platform["variant"] = json!(image.variant);
    }
    let descriptor = &image.descriptor;
    Some(json!({
        "mediaType": descriptor.media_type, "digest": descriptor.digest.to_string(), "size": descriptor.size,
        "platform": platform,
    }))
}

fn mounts(engine: &Engine, record: &Record) -> Value {
    let mount = |m: &crate::container::mounts::MountPoint| match &m.volume {
        Some(name) => json!({
            "Type": "volume", "Name": name, "Source": engine.volumes.data(name), "Destination": m.destination,
            "Driver": "local", "Mode": m.mode,
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
pub async fn summary(images: &mut Images<'_>, view: &View, size: bool) -> Value {
    let engine = images.engine;
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
        "Id": record.id, "Names": [format!("/{}", record.name)], "Image": shown_image(images, record).await,
        "ImageID": record.image_id, "Command": command_line(record), "Created": created.map_or(0, |c| c.as_secs()),
        "Ports": ports, "Labels": record.config.labels, "State": view.status.name(), "Status": sentence(view),
        "HostConfig": { "NetworkMode": network_mode(record) },
        "NetworkSettings": { "Networks": endpoints(engine, record) }, "Mounts": mounts(engine, record),
    });
    if size {
        out["SizeRw"] = json!(size_of(engine, record).await);
        out["SizeRootFs"] = json!(images.get(&record.image_id).await.map_or(0, |i| i.size));
    }
    out
}

/// The image's name, or its id once the name is gone or means another.
async fn shown_image<'a>(images: &mut Images<'_>, record: &'a Record) -> &'a str {
    let named = images.get(&record.config.image).await;
    if named.is_some_and(|i| i.id.to_string() == record.image_id) {
        &record.config.image
    } else {
        &record.image_id
    }
}

fn network_mode(record: &Record) -> &str {
    if matches!(record.host.network_mode.as_str(), "" | "default") {
        "bridge"
    } else {
        &record.host.network_mode
    }
}

/// The command as dockerd shows it: quotes around words with spaces, and no thought for a shell.
fn command_line(record: &Record) -> String {
    let quote = |word: &String| if word.contains(' ') { format!("'{word}'") } else { word.clone() };
    std::iter::once(record.path.clone()).chain(record.args.iter().map(quote)).collect::<Vec<_>>().join(" ")
}

const LIST_FILTERS: &[&str] = &[
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "name", "network",
    "publish", "since", "status", "volume",
];

pub async fn list(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let filters = call.filters()?.only(LIST_FILTERS)?;
    let limit: Option<i64> = call.number("limit")?;
    let limit = limit.filter(|l| *l > 0);
    let all = call.flag("all") || limit.is_some() || !filters.values("status").is_empty();
    check_list_filters(&filters)?;
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
    let mut images = Images::of(&engine);
    for view in &views {
        let mut entry = summary(&mut images, view, call.flag("size")).await;
        if call.version >= Version(1, 48)
            && let Some(descriptor) = manifest_of(&mut images, &view.record.image_id).await
        {
            entry["ImageManifestDescriptor"] = descriptor;
        }
        out.push(entry);
    }
    Ok(Reply::json(json!(out)))
}

fn keeps(engine: &Engine, filters: &Filters, view: &View) -> bool {
    let record = &view.record;
    let exited = || view.record.last.exit_code.to_string();
    filters.matches("id", &[&record.id])
        // Names are matched with their slash and without.
        && filters.matches("name", &[&record.name, &format!("/{}", record.name)])
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
            let published = |p: &crate::container::PublishedPort| {
                let protocol = p.port.split_once('/').map_or("tcp", |(_, protocol)| protocol);
                ports_of(v).is_ok_and(|(range, wanted)| wanted == protocol && range.contains(&p.host_port))
            };
            record.last.ports.iter().any(published)
        })
        && filters.any("expose", |v| {
            let exposed = |port: &String| {
                let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
                let number = number.parse().unwrap_or(0);
                ports_of(v).is_ok_and(|(range, wanted)| wanted == protocol && range.contains(&number))
            };
            record.config.exposed_ports.keys().any(exposed)
        })
        && filters.any("is-task", |v| matches!(v, "0" | "false"))
        && filters.labels(&record.config.labels)
}

/// `80`, `80/udp`, `8000-9000/tcp` -> the range and the protocol.
fn ports_of(text: &str) -> std::result::Result<(std::ops::RangeInclusive<u16>, &str), String> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let number = |word: &str| {
        word.parse::<u16>().map_err(|_| format!("strconv.ParseUint: parsing \"{word}\": invalid syntax"))
    };
    Ok((number(first)?..=number(last)?, protocol))
}

/// Refuses values of filters that there are not, in Docker's words.
fn check_list_filters(filters: &Filters) -> Result<()> {
    let one_of = |key: &str, what: &str, known: &[&str]| -> Result<()> {
        match filters.values(key).iter().find(|v| !known.contains(&v.as_str())) {
            Some(v) => Err(Error::invalid(format!(
                "invalid filter '{key}={v}': invalid value for {what} ({v}): must be one of {}",
                known.join(", ")
            ))),
            None => Ok(()),
        }
    };
    let states = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
    one_of("status", "state", &states)?;
    one_of("health", "health", &["none", "starting", "healthy", "unhealthy"])?;
    for v in filters.values("exited") {
        if v.parse::<i64>().is_err() {
            return Err(Error::invalid(format!(
                "invalid filter 'exited={v}': strconv.Atoi: parsing \"{v}\": invalid syntax"
            )));
        }
    }
    for key in ["expose", "publish"] {
        for v in filters.values(key) {
            ports_of(v).map_err(|e| Error::internal(format!("error while looking up for {key} {v}: {e}")))?;
        }
    }
    Ok(())
}

pub async fn inspect(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let view = engine.containers.find(call.param(0))?.view();
    let record = &view.record;
    let last = &record.last;
    // The files are made when it starts for the first time.
    let prepared = !last.started_at.is_empty() || !last.error.is_empty();
    let folder = names::folder(&engine, record);
    let file = |name: &str| if prepared { json!(folder.join(name)) } else { json!("") };
    let running = view.status.is_running();
    let pid = match &view.status {
        Status::Running { container, .. } => container.pid(),
        _ => 0,
    };
    let paused = matches!(view.status, Status::Running { paused: true, .. });
    let mut host = json!(record.host);
    host["NetworkMode"] = json!(network_mode(record));
    host["Links"] = json!(links::shown(&engine, record));
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
    let address6 = bridge.and_then(|m| m.address6);
    let execs = engine.execs.of(&record.id);
    let mut out = json!({
        "Id": record.id, "Created": record.created, "Path": record.path, "Args": record.args,
        "State": {
            "Status": view.status.name(), "Running": running, "Paused": paused,
            "Restarting": matches!(view.status, Status::Restarting), "OOMKilled": last.oom_killed, "Dead": false,
            "Pid": pid, "ExitCode": if running { 0 } else { last.exit_code }, "Error": last.error,
            "StartedAt": or_zero(&last.started_at), "FinishedAt": or_zero(&last.finished_at),
        },
        "Image": record.image_id, "ResolvConfPath": file("resolv.conf"),
        "HostnamePath": file("hostname"), "HostsPath": file("hosts"),
        "LogPath": if prepared && record.host.log_config.r#type == "json-file" { json!(spec::log_path(&engine, record)) } else { json!("") },
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
            "GlobalIPv6Address": address6.map(|a| a.addr().to_string()).unwrap_or_default(),
            "GlobalIPv6PrefixLen": address6.map_or(0, |a| a.prefix_len()),
            "IPAddress": address.map(|a| a.addr().to_string()).unwrap_or_default(),
            "IPPrefixLen": address.map_or(0, |a| a.prefix_len()),
            "IPv6Gateway": bridge.and_then(|m| m.gateway6).map(|g| g.to_string()).unwrap_or_default(),
            "MacAddress": bridge.map_or("", |m| &m.mac),
            "Networks": endpoints(&engine, record),
        },
    });
    if call.version >= Version(1, 48)
        && let Some(descriptor) = manifest_of(&mut Images::of(&engine), &record.image_id).await
    {
        out["ImageManifestDescriptor"] = descriptor;
    }
    if let Some(health) = &last.health {
        out["State"]["Health"] = health.to_json();
    }
    if call.flag("size") {
        out["SizeRw"] = json!(size_of(&engine, record).await);
        out["SizeRootFs"] = json!(engine.images.get(&record.image_id).await.map_or(0, |i| i.size));
    }
    Ok(Reply::json(out))
}
