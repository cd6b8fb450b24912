//! Operations of the tag Container.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::StreamExt;
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::hijack::Hijacked;
use super::reply::Reply;
use super::request::{Call, Filters, Version};
use super::system::async_stream;
use crate::container::config::{Config, HostConfig, NetworkingConfig};
use crate::container::{Command, Handle, Record, Status, View, create as make, spec};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::networks::Member;
use crate::time;

/// Media types of attach and log streams: frames of two streams, or a terminal's bytes.
pub const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
pub const RAW: &str = "application/vnd.docker.raw-stream";

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct CreateBody {
    // The container's own configuration stands at the top of the body, not in a field.
    host_config: HostConfig,
    networking_config: NetworkingConfig,
}

pub async fn create(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let name = call.get("name").trim_start_matches('/').to_owned();
    let platform = match call.get("platform") {
        "" => None,
        text => Some((text.to_owned(), text.parse::<image::Platform>().map_err(Error::from)?)),
    };
    let version = call.version;
    let body: Value = call.json().await?;
    let beside =
        |key: &String| ["HostConfig", "NetworkingConfig"].iter().any(|other| other.eq_ignore_ascii_case(key));
    let empty = body.as_object().is_none_or(|fields| fields.keys().all(beside));
    let config: Config = super::go_json::from_value(body.clone())?;
    let CreateBody { mut host_config, networking_config } = super::go_json::from_value(body)?;
    // What older clients expect where they say nothing.
    if version < Version(1, 40) && host_config.ipc_mode.is_empty() {
        host_config.ipc_mode = "shareable".into();
    }
    if version < Version(1, 41) && host_config.cgroupns_mode.is_empty() {
        host_config.cgroupns_mode = "host".into();
    }
    if empty {
        return Err(Error::invalid("config cannot be empty in order to create a container"));
    }
    if let Some((text, wanted)) = platform {
        let image = engine.images.get(&config.image).await?;
        if image.os != wanted.os
            || (!wanted.architecture.is_empty() && image.architecture != wanted.architecture)
        {
            return Err(Error::not_found(format!(
                "image with reference {} was found but does not provide the specified platform ({text})",
                config.image
            )));
        }
    }
    let name = (!name.is_empty()).then_some(name.as_str());
    let made = make::create(&engine, name, config, host_config, networking_config).await?;
    Ok(Reply::created(json!({ "Id": made.id, "Warnings": made.warnings })))
}

pub async fn start(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    if !call.get("checkpoint").is_empty() {
        return Err(Error::not_implemented("checkpoints are not supported"));
    }
    // Docker took a configuration here once; one that is sent must not be lost without a word.
    let length = call.headers.get(hyper::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if length.unwrap_or(0) > 2u64 {
        return Err(Error::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    let handle = engine.containers.find(call.param(0))?;
    handle.ask(|reply| Command::Start { reply }).await??;
    Ok(Reply::no_content())
}

fn signal(call: &Call) -> Result<Option<i32>> {
    match call.get("signal") {
        "" => Ok(None),
        text => make::parse_signal(text)
            .map(Some)
            .ok_or_else(|| Error::invalid(format!("invalid signal: {text}"))),
    }
}

pub async fn stop(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let timeout = call.number("t")?;
    if !matches!(handle.view().status, Status::Running { .. } | Status::Restarting) {
        return Err(Error::not_modified());
    }
    let context = |e: Error| Error::internal(format!("cannot stop container: {}: {e}", call.param(0)));
    let signal = signal(&call).map_err(context)?;
    handle.ask(|reply| Command::Stop { signal, timeout, by_user: true, reply }).await??;
    Ok(Reply::no_content())
}

pub async fn restart(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let (signal, timeout) = (signal(&call)?, call.number("t")?);
    handle.ask(|reply| Command::Restart { signal, timeout, reply }).await??;
    Ok(Reply::no_content())
}

pub async fn kill(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let context = |e: Error| e.context(&format!("cannot kill container: {}", call.param(0)));
    let handle = engine.containers.find(call.param(0)).map_err(context)?;
    let signal = signal(&call).map_err(context)?.unwrap_or(libc::SIGKILL);
    handle.ask(|reply| Command::Kill { signal, reply }).await??;
    Ok(Reply::no_content())
}

pub async fn pause(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    handle.ask(|reply| Command::Pause { pause: true, reply }).await??;
    Ok(Reply::no_content())
}

pub async fn unpause(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    handle.ask(|reply| Command::Pause { pause: false, reply }).await??;
    Ok(Reply::no_content())
}

pub async fn rename(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let name = call.get("name").trim_start_matches('/').to_owned();
    if name.is_empty() {
        return Err(Error::invalid("Neither old nor new names may be empty"));
    }
    handle.ask(|reply| Command::Rename { name, reply }).await??;
    Ok(Reply::no_content())
}

pub async fn delete(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    if call.flag("link") {
        return Err(Error::not_implemented("removing links is not there yet"));
    }
    let (force, volumes) = (call.flag("force"), call.flag("v"));
    handle.ask(|reply| Command::Remove { force, volumes, reply }).await??;
    engine.execs.forget(&handle.view().record.id);
    Ok(Reply::no_content())
}

pub async fn prune(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let filters = call.filters()?.only(&["label", "label!", "until"])?;
    let mut removed = Vec::new();
    let mut bytes = 0;
    for handle in engine.containers.list() {
        let view = handle.view();
        let idle = matches!(view.status, Status::Created | Status::Exited);
        let old = filters.any("until", |u| {
            time::parse_point(u)
                .zip(time::parse(&view.record.created))
                .is_some_and(|(until, made)| made < until)
        });
        if !idle || !old || !filters.labels(&view.record.config.labels) {
            continue;
        }
        bytes += size_of(&engine, &view.record).await;
        let gone = handle.ask(|reply| Command::Remove { force: false, volumes: false, reply }).await;
        if matches!(gone, Ok(Ok(()))) {
            removed.push(view.record.id.clone());
        }
    }
    Ok(Reply::json(json!({
        "ContainersDeleted": if removed.is_empty() { Value::Null } else { json!(removed) },
        "SpaceReclaimed": bytes,
    })))
}

/// Bytes of the container's own files.
async fn size_of(engine: &Engine, record: &Record) -> u64 {
    engine.images.container_size(&record.id).await.unwrap_or(0)
}

// ---- looking ----

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
        Status::Running { .. } => format!("Up {}", ago(&last.started_at)),
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

/// The image's manifest for this machine, as the containerd store describes it; `None` when the image is gone.
async fn manifest_of(engine: &Engine, image: &str) -> Option<Value> {
    let image = engine.images.get(image).await.ok()?;
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
        "Id": record.id, "Names": [format!("/{}", record.name)], "Image": shown_image(engine, record).await,
        "ImageID": record.image_id, "Command": command_line(record), "Created": created.map_or(0, |c| c.as_secs()),
        "Ports": ports, "Labels": record.config.labels, "State": view.status.name(), "Status": sentence(view),
        "HostConfig": { "NetworkMode": network_mode(record) },
        "NetworkSettings": { "Networks": endpoints(engine, record) }, "Mounts": mounts(engine, record),
    });
    if size {
        out["SizeRw"] = json!(size_of(engine, record).await);
        out["SizeRootFs"] = json!(engine.images.get(&record.image_id).await.map_or(0, |i| i.size));
    }
    out
}

/// The image's name, or its id once the name is gone or means another.
async fn shown_image<'a>(engine: &Engine, record: &'a Record) -> &'a str {
    let named = engine.images.get(&record.config.image).await;
    if named.is_ok_and(|i| i.id.to_string() == record.image_id) {
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
    for view in &views {
        let mut entry = summary(&engine, view, call.flag("size")).await;
        if call.version >= Version(1, 48)
            && let Some(descriptor) = manifest_of(&engine, &view.record.image_id).await
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
        && filters.any("health", |v| v == "none")
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
    let folder = engine.paths.container(&record.id);
    let file = |name: &str| if prepared { json!(folder.join(name)) } else { json!("") };
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
            "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
            "IPAddress": address.map(|a| a.addr().to_string()).unwrap_or_default(),
            "IPPrefixLen": address.map_or(0, |a| a.prefix_len()),
            "IPv6Gateway": "", "MacAddress": bridge.map_or("", |m| &m.mac),
            "Networks": endpoints(&engine, record),
        },
    });
    if call.version >= Version(1, 48)
        && let Some(descriptor) = manifest_of(&engine, &record.image_id).await
    {
        out["ImageManifestDescriptor"] = descriptor;
    }
    if call.flag("size") {
        out["SizeRw"] = json!(size_of(&engine, record).await);
        out["SizeRootFs"] = json!(engine.images.get(&record.image_id).await.map_or(0, |i| i.size));
    }
    Ok(Reply::json(out))
}

/// A container's running processes; refuses in Docker's words when it does not run.
pub fn running(handle: &Handle) -> Result<(Arc<Record>, runtime::Container)> {
    let view = handle.view();
    match view.status {
        Status::Running { paused: true, .. } => Err(Error::conflict(format!(
            "Container {} is paused, unpause the container before exec",
            view.record.id
        ))),
        Status::Running { container, .. } => Ok((view.record, container)),
        Status::Restarting => Err(Error::conflict(format!(
            "Container {} is restarting, wait until the container is running",
            view.record.id
        ))),
        _ => Err(Error::conflict(format!("container {} is not running", view.record.id))),
    }
}

pub async fn top(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let (_, container) = running(&engine.containers.find(call.param(0))?)?;
    let pids = container.pids().await;
    if !matches!(call.get("ps_args"), "" | "-ef") {
        return Err(Error::not_implemented("ps options other than -ef are not there yet"));
    }
    let rows: Vec<Vec<String>> = pids.iter().filter_map(|pid| process_row(*pid)).collect();
    Ok(Reply::json(json!({
        "Titles": ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"], "Processes": rows,
    })))
}

/// One line of `ps -ef`; `None` when the process has just gone.
fn process_row(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let uid = status.lines().find_map(|l| l.strip_prefix("Uid:")?.split_whitespace().next()).unwrap_or("?");
    let uid = if uid == "0" { "root" } else { uid };
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = boot.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok())?;
    let started = chrono::DateTime::from_timestamp((boot + field(19) / ticks) as i64, 0)?;
    let seconds = (field(11) + field(12)) / ticks;
    let tty = match field(4) {
        0 => "?".to_owned(),
        n => format!("pts/{}", n & 0xff),
    };
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> = raw
        .split(|b| *b == 0)
        .filter(|w| !w.is_empty())
        .map(|w| String::from_utf8_lossy(w).into_owned())
        .collect();
    let command = if words.is_empty() {
        format!("[{}]", stat.split_once('(')?.1.rsplit_once(')')?.0)
    } else {
        words.join(" ")
    };
    Some(vec![
        uid.to_owned(),
        pid.to_string(),
        field(1).to_string(),
        "0".into(),
        started.format("%H:%M").to_string(),
        tty,
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        command,
    ])
}

pub async fn resize(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let (rows, columns) = size(&call)?;
    let (_, container) = running(&handle)?;
    container.resize(rows, columns).await.map_err(|e| Error::internal(e.to_string()))?;
    engine.container_event(
        &handle.view().record,
        "resize",
        &[("height", rows.to_string()), ("width", columns.to_string())],
    );
    Ok(Reply::Empty(StatusCode::OK))
}

/// `h` and `w` of a resize.
pub fn size(call: &Call) -> Result<(u16, u16)> {
    let side = |name: &str| -> Result<u16> {
        let what = if name == "h" { "height" } else { "width" };
        let text = call.get(name);
        text.parse().map_err(|_| Error::invalid(format!("invalid resize {what} \"{text}\": invalid syntax")))
    };
    Ok((side("h")?, side("w")?))
}

pub async fn wait(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let condition = match call.get("condition") {
        "" | "not-running" => Until::NotRunning,
        "next-exit" => Until::NextExit,
        "removed" => Until::Removed,
        other => return Err(Error::invalid(format!("invalid condition: {other:?}"))),
    };
    let mut view = handle.watch();
    let seen = view.borrow().exits;
    // The head goes out at once: the client starts the container only after it.
    Ok(Reply::Stream(
        "application/json",
        async_stream(move |out| async move {
            let reached = |v: &View| match condition {
                Until::NotRunning => {
                    !matches!(v.status, Status::Running { .. } | Status::Restarting | Status::Created)
                }
                Until::NextExit => v.exits > seen || matches!(v.status, Status::Removed),
                Until::Removed => matches!(v.status, Status::Removed),
            };
            // An error means that the task has gone with the container: its last words are still there.
            let gone = view.wait_for(reached).await.is_err();
            tracing::trace!("wait: gone {gone}");
            let code = view.borrow().record.last.exit_code;
            out.send(Bytes::from(format!("{}\n", json!({ "StatusCode": code })))).await
        }),
    ))
}

#[derive(Clone, Copy)]
enum Until {
    NotRunning,
    NextExit,
    Removed,
}

// ---- streams ----

/// `ctrl-p,ctrl-q` -> the bytes; empty text: Docker's default.
pub fn detach_keys(text: &str) -> Result<Option<Vec<u8>>> {
    let text = if text.is_empty() { "ctrl-p,ctrl-q" } else { text };
    let key = |name: &str| match name.strip_prefix("ctrl-") {
        Some(rest) => match rest.as_bytes() {
            [c @ b'a'..=b'z'] => Some(c - b'a' + 1),
            [b'@'] => Some(0),
            [b'['] => Some(27),
            [b'\\'] => Some(28),
            [b']'] => Some(29),
            [b'^'] => Some(30),
            [b'_'] => Some(31),
            _ => None,
        },
        None => match name.as_bytes() {
            [c] => Some(*c),
            _ => None,
        },
    };
    text.split(',')
        .map(key)
        .collect::<Option<Vec<u8>>>()
        .map(Some)
        .ok_or_else(|| Error::invalid(format!("Invalid detach keys ({text}) provided")))
}

/// Moves bytes both ways until the output ends, then waits for `ended` before it tells the client. The client's end of
/// input is the process's.
pub async fn pump(io: Hijacked, attachment: runtime::Attachment, ended: impl Future<Output = ()>) {
    let (mut from_client, mut to_client) = tokio::io::split(io);
    let runtime::Attachment { mut reader, mut writer } = attachment;
    let input = async {
        let copied = tokio::io::copy(&mut from_client, &mut writer).await;
        if let Err(e) = writer.shutdown().await {
            tracing::debug!("end of input: {e} ({copied:?})");
        }
        // The output goes on: only its end ends the connection.
        std::future::pending::<()>().await;
    };
    let output = async {
        if let Err(e) = tokio::io::copy(&mut reader, &mut to_client).await {
            tracing::debug!("output: {e}");
        }
        ended.await;
        if let Err(e) = to_client.shutdown().await {
            tracing::debug!("end of output: {e}");
        }
    };
    tokio::select! {
        () = input => {}
        () = output => {}
    }
}

pub async fn attach(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let view = handle.view();
    let record = view.record;
    if matches!(view.status, Status::Running { paused: true, .. }) {
        return Err(Error::conflict(format!(
            "container {} is paused, unpause the container before attach",
            record.id
        )));
    }
    let stream = call.flag("stream");
    let (stdin, stdout, stderr) = (call.flag("stdin"), call.flag("stdout"), call.flag("stderr"));
    let detach_keys = detach_keys(call.get("detachKeys"))?;
    let content_type = if record.config.tty { RAW } else { MULTIPLEXED };
    let past = if call.flag("logs") {
        Some(read_logs(&engine, &handle, LogWant { stdout, stderr, ..LogWant::default() }).await?)
    } else {
        None
    };
    let (reply, answer) = tokio::sync::oneshot::channel();
    if stream {
        let want = runtime::AttachWant {
            stdin: stdin && record.config.open_stdin,
            stdout,
            stderr,
            detach_keys: record.config.tty.then_some(detach_keys).flatten(),
        };
        // Registered before the answer goes out: the client starts the container only after it, and loses nothing.
        handle.send(Command::Attach { want, reply }).await?;
    }
    engine.container_event(&record, "attach", &[]);
    Ok(Reply::Hijack(
        content_type,
        Box::new(move |mut io| {
            Box::pin(async move {
                if let Some(mut past) = past {
                    while let Some(Ok(bytes)) = past.next().await {
                        if io.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                }
                if !stream {
                    return;
                }
                // Until the container starts; never, when it is removed before.
                if let Ok(attachment) = answer.await {
                    pump(io, attachment, std::future::ready(())).await;
                }
            })
        }),
    ))
}

#[derive(Default)]
struct LogWant {
    stdout: bool,
    stderr: bool,
    follow: bool,
    timestamps: bool,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
    tail: Option<u64>,
}

pub async fn logs(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let record = handle.view().record;
    let (stdout, stderr) = (call.flag("stdout"), call.flag("stderr"));
    if !stdout && !stderr {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
    }
    if record.host.log_config.r#type == "none" {
        return Err(Error::not_implemented("configured logging driver does not support reading"));
    }
    let point = |name: &str| match call.get(name) {
        "" | "0" => Ok(None),
        text => time::parse_point(text)
            .map(Some)
            .ok_or_else(|| Error::invalid(format!("invalid value for \"{name}\": {text}"))),
    };
    let want = LogWant {
        stdout,
        stderr,
        follow: call.flag("follow"),
        timestamps: call.flag("timestamps"),
        since: point("since")?,
        until: point("until")?,
        tail: call.get("tail").parse().ok(),
    };
    let content_type = if record.config.tty { RAW } else { MULTIPLEXED };
    Ok(Reply::Stream(content_type, read_logs(&engine, &handle, want).await?))
}

/// The log as the client reads it: frames, or plain for a terminal.
async fn read_logs(engine: &Engine, handle: &Handle, want: LogWant) -> Result<super::reply::ByteStream> {
    let view = handle.view();
    let record = view.record;
    let follow = (want.follow && view.status.is_running()).then(|| {
        let mut view = handle.watch();
        let ended = async move {
            // Ends when the container does; its task gone is the same.
            let _ = view.wait_for(|v| !v.status.is_running()).await;
        };
        Box::pin(ended) as runtime::logs::Ended
    });
    let options = runtime::logs::Options {
        since: want.since,
        until: want.until,
        tail: want.tail,
        no_stdout: !want.stdout,
        no_stderr: !want.stderr,
    };
    let path = spec::log_path(engine, &record);
    if !path.exists() {
        // Never started: nothing was said.
        return Ok(Box::pin(futures_util::stream::empty()));
    }
    let reader =
        runtime::logs::read(path, options, follow).await.map_err(|e| Error::internal(e.to_string()))?;
    let (tty, timestamps) = (record.config.tty, want.timestamps);
    Ok(Box::pin(futures_util::stream::unfold(Some(reader), move |reader| async move {
        let mut reader = reader?;
        let mut piece = Vec::new();
        // Many lines a piece: each costs the connection a chunk.
        while piece.len() < LOG_PIECE {
            if piece.is_empty() {
                match reader.next().await {
                    Ok(Some(entry)) => write_entry(&mut piece, &entry, tty, timestamps),
                    Ok(None) => return None,
                    Err(e) => return Some((Err(std::io::Error::other(e.to_string())), None)),
                }
            } else if let Some(entry) = reader.ready() {
                write_entry(&mut piece, &entry, tty, timestamps);
            } else {
                break;
            }
        }
        Some((Ok(Bytes::from(piece)), Some(reader)))
    })))
}

/// Bytes of log gathered before they are sent, where more is ready.
const LOG_PIECE: usize = 64 << 10;

fn write_entry(out: &mut Vec<u8>, entry: &runtime::logs::Entry, tty: bool, timestamps: bool) {
    let stamp = if timestamps { format!("{} ", entry.timestamp()) } else { String::new() };
    if !tty {
        let length = (stamp.len() + entry.line.len()) as u32;
        out.extend([entry.stream.number(), 0, 0, 0]);
        out.extend(length.to_be_bytes());
    }
    out.extend(stamp.as_bytes());
    out.extend(&entry.line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_control_characters_or_letters() {
        assert_eq!(detach_keys("").unwrap(), Some(vec![16, 17]));
        assert_eq!(detach_keys("ctrl-a,x").unwrap(), Some(vec![1, b'x']));
        assert!(detach_keys("ctrl-A").is_err());
        assert!(detach_keys("nope").is_err());
    }
}
