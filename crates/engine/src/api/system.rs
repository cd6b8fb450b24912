//! The engine itself: ping, version, info, events, disk usage.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::reply::{ByteStream, Reply};
use super::request::{Call, Filters, Version};
use super::{NEWEST, OLDEST};
use crate::config::OWN_RUNTIME;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::events::{Event, Events};
use crate::time;

/// The version Docker's tools see: that of the API's behaviour, with ours behind the plus.
pub const DOCKER_VERSION: &str = concat!("28.5.2+coracle.", env!("CARGO_PKG_VERSION"));

pub async fn ping(_: Arc<Engine>, _: Call) -> Result<Reply> {
    let headers = vec![
        ("cache-control", "no-cache, no-store, must-revalidate".to_owned()),
        ("pragma", "no-cache".to_owned()),
        ("swarm", "inactive".to_owned()),
        ("content-type", "text/plain; charset=utf-8".to_owned()),
    ];
    Ok(Reply::Headers(StatusCode::OK, headers, Some(Bytes::from_static(b"OK"))))
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub async fn version(_: Arc<Engine>, _: Call) -> Result<Reply> {
    let build = crate::build::BUILD;
    Ok(Reply::json(json!({
        "Platform": { "Name": "Coracle" },
        "Components": [{
            "Name": "Engine", "Version": DOCKER_VERSION,
            "Details": {
                "ApiVersion": NEWEST.to_string(), "Arch": go_arch(), "BuildTime": "", "Experimental": "false",
                "GitCommit": build, "GoVersion": "", "KernelVersion": kernel(),
                "MinAPIVersion": OLDEST.to_string(), "Os": "linux",
            },
        }],
        "Version": DOCKER_VERSION, "ApiVersion": NEWEST.to_string(), "MinAPIVersion": OLDEST.to_string(),
        "GitCommit": build, "GoVersion": "", "Os": "linux", "Arch": go_arch(), "KernelVersion": kernel(),
        "BuildTime": "",
    })))
}

pub async fn info(engine: Arc<Engine>, _: Call) -> Result<Reply> {
    let containers = engine.containers.list();
    let count = |wanted: &str| containers.iter().filter(|c| c.view().status.name() == wanted).count();
    let (running, paused) = (count("running"), count("paused"));
    let images = engine.images.list().await?.len();
    let controllers = engine.runtime.controllers();
    let has = |name| controllers.has(name);
    let memory = rustix::system::sysinfo();
    let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os = os
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .unwrap_or("Linux")
        .trim_matches('"')
        .to_owned();
    let missing = |what: &str| format!("WARNING: No {what} support: this limit is not applied");
    let mut warnings = Vec::new();
    for (name, words) in [
        ("memory", "memory limit"),
        ("cpu", "cpu limit"),
        ("pids", "pids limit"),
        ("io", "io limit"),
        ("cpuset", "cpuset"),
    ] {
        if !has(name) {
            warnings.push(missing(words));
        }
    }
    if engine.config.insecure_tcp && !engine.config.tlsverify {
        let plain = engine.config.hosts.iter().filter_map(|h| h.strip_prefix("tcp://"));
        warnings.extend(plain.map(|host| {
            format!(
                "WARNING: API is accessible on http://{host} without encryption.\n         Access to the remote API is equivalent to root access on the host. Refer\n         to the 'Docker daemon attack surface' section in the documentation for\n         more information: https://docs.docker.com/go/attack-surface/"
            )
        }));
    }
    // With a slash at the end, however they were written.
    let mirrors = engine.config.registry_mirrors.iter().map(|m| format!("{}/", m.trim_end_matches('/')));
    let mirrors: Vec<String> = mirrors.collect();
    let mut index = serde_json::Map::new();
    index.insert(
        "docker.io".into(),
        json!({ "Mirrors": mirrors, "Name": "docker.io", "Official": true, "Secure": true }),
    );
    for name in &engine.config.insecure_registries {
        index
            .insert(name.clone(), json!({ "Mirrors": [], "Name": name, "Official": false, "Secure": false }));
    }
    Ok(Reply::json(json!({
        "ID": engine.id, "Containers": containers.len(), "ContainersRunning": running, "ContainersPaused": paused,
        "ContainersStopped": containers.len() - running - paused, "Images": images,
        "Driver": "overlayfs", "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
        "Plugins": { "Volume": ["local"], "Network": ["bridge", "host", "null"], "Authorization": null, "Log": ["json-file", "local", "none"] },
        "MemoryLimit": has("memory"), "SwapLimit": has("memory"), "CpuCfsPeriod": has("cpu"), "CpuCfsQuota": has("cpu"),
        "CPUShares": has("cpu"), "CPUSet": has("cpuset"), "PidsLimit": has("pids"),
        "IPv4Forwarding": std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|t| t.trim() == "1"),
        "Debug": engine.config.debug, "NFd": std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        "OomKillDisable": false, "NGoroutines": engine.tasks.len(), "SystemTime": time::now(),
        "LoggingDriver": engine.config.log_driver.as_deref().unwrap_or("json-file"),
        "CgroupDriver": "cgroupfs", "CgroupVersion": "2", "NEventsListener": engine.events.listeners(),
        "KernelVersion": kernel(), "OperatingSystem": os, "OSVersion": "", "OSType": "linux",
        "Architecture": std::env::consts::ARCH, "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "IndexConfigs": index, "InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8"], "Mirrors": mirrors,
        },
        "NCPU": engine.cpus, "MemTotal": memory.totalram as u64 * u64::from(memory.mem_unit), "GenericResources": null,
        "DockerRootDir": engine.paths.root, "HttpProxy": "", "HttpsProxy": "", "NoProxy": "",
        "Name": rustix::system::uname().nodename().to_string_lossy(), "Labels": engine.config.labels,
        "ExperimentalBuild": false, "ServerVersion": DOCKER_VERSION,
        "Runtimes": runtimes(&engine), "DefaultRuntime": engine.config.default_runtime(),
        "Swarm": { "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "", "RemoteManagers": null },
        "LiveRestoreEnabled": true, "Isolation": "", "InitBinary": "", "ContainerdCommit": { "ID": "" },
        "RuncCommit": { "ID": "" }, "InitCommit": { "ID": "" },
        "SecurityOptions": security_options(&engine),
        "FirewallBackend": { "Driver": "nftables" }, "CDISpecDirs": [],
        "Warnings": if warnings.is_empty() { Value::Null } else { json!(warnings) },
    })))
}

/// What confines containers. In dockerd's order.
fn security_options(engine: &Engine) -> Vec<&'static str> {
    let mut options = vec!["name=seccomp,profile=builtin"];
    if engine.remap.is_some() {
        options.push("name=userns");
    }
    options.push("name=cgroupns");
    options
}

/// The runtimes that containers may ask for.
fn runtimes(engine: &Engine) -> Value {
    let own = (OWN_RUNTIME.to_owned(), json!({ "path": engine.paths.shim }));
    let others = engine.config.runtimes.iter().map(|(name, runtime)| {
        let mut shown = json!({ "path": runtime.path });
        if !runtime.runtime_args.is_empty() {
            shown["runtimeArgs"] = json!(runtime.runtime_args);
        }
        (name.clone(), shown)
    });
    [own].into_iter().chain(others).collect()
}

/// What this build can do: the app shows only that.
pub async fn features(_: Arc<Engine>, _: Call) -> Result<Reply> {
    let list = super::router::served();
    Ok(Reply::json(
        json!({ "version": env!("CARGO_PKG_VERSION"), "build": crate::build::BUILD, "operations": list }),
    ))
}

pub async fn no_plugins(_: Arc<Engine>, _: Call) -> Result<Reply> {
    Ok(Reply::json(json!([])))
}

pub async fn disk_usage(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let wanted = call.all("type");
    let known = |kind: &&String| matches!(kind.as_str(), "container" | "image" | "volume" | "build-cache");
    if let Some(kind) = wanted.iter().find(|k| !known(k)) {
        return Err(Error::invalid(format!("unknown object type: {kind}")));
    }
    let want = |kind: &str| wanted.is_empty() || wanted.iter().any(|w| w == kind);
    let mut out =
        json!({ "LayersSize": 0, "Images": null, "Containers": null, "Volumes": null, "BuildCache": null });
    if want("image") {
        let usage = engine.images.disk_usage().await?;
        out["LayersSize"] = json!(usage.total);
        out["Images"] = super::images::list_json(&engine, &engine.images.list().await?, true, false).await?;
        if call.version < Version(1, 44) {
            for image in out["Images"].as_array_mut().into_iter().flatten() {
                image["VirtualSize"] = image["Size"].clone();
            }
        }
    }
    if want("container") {
        let mut list = Vec::new();
        let mut images = super::containers::Images::of(&engine);
        for handle in engine.containers.list() {
            let view = handle.view();
            list.push(json!(super::containers::summary(&mut images, &view, true).await));
        }
        out["Containers"] = json!(list);
    }
    if want("volume") {
        let mut list = Vec::new();
        for volume in engine.volumes.list() {
            let mut v = super::volumes::json(&engine, &volume);
            let users = engine.containers.using_volume(&volume.name).len();
            v["UsageData"] = json!({ "RefCount": users, "Size": engine.volumes.size(&volume.name).await? });
            list.push(v);
        }
        out["Volumes"] = json!(list);
    }
    if want("build-cache") {
        out["BuildCache"] = super::build::usage(&engine).await?;
    }
    Ok(Reply::json(out))
}

/// Kinds that have a filter of their own name; of those that are never told, nothing fits.
const EVENT_KINDS: &[&str] =
    &["config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume"];

fn wanted(filters: &Filters, event: &Event) -> bool {
    let name = event.attributes.get("name").map_or("", String::as_str);
    // The beginning of an id or of a name. dockerd does not look at the kind here: `volume=web` tells of containers
    // called so as well.
    let is = |kind: &&str| {
        filters.any(kind, |v| event.kind == *kind && (event.id.starts_with(v) || name.starts_with(v)))
    };
    let action = event.action.split(':').next().unwrap_or_default();
    filters.allows("type", event.kind)
        && filters.any("event", |v| v == event.action || v == action)
        && filters.allows("scope", "local")
        && filters.labels(&event.attributes)
        && EVENT_KINDS.iter().all(is)
        && filters.any("image", |v| is_of_image(event, v))
}

/// Whether an event is an image's, or a container's of that image: by its id, or its name with the tag or without.
fn is_of_image(event: &Event, wanted: &str) -> bool {
    let key = if event.kind == "image" { "name" } else { "image" };
    let without_tag = |name: &str| match name.rsplit_once(':') {
        // What stands behind a slash is no port.
        Some((name, tag)) if !tag.contains('/') => name == wanted,
        _ => false,
    };
    event.id == wanted || event.attributes.get(key).is_some_and(|name| name == wanted || without_tag(name))
}

pub async fn events(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    // Unknown filters are no error here, as with dockerd.
    let filters = call.filters()?;
    let point = |name: &str| match call.get(name) {
        "" => Ok(None),
        text => time::parse_query(text).map(Some),
    };
    let (since, until) = (point("since")?, point("until")?);
    if let (Some(from), Some(to)) = (since, until)
        && from > to
    {
        let (from, to) = (call.get("since"), call.get("until"));
        return Err(Error::invalid(format!("`since` time ({from}) cannot be after `until` time ({to})")));
    }
    let (past, mut live) = engine.events.subscribe();
    let past: Vec<Event> = match since {
        Some(since) => past.into_iter().filter(|e| e.at >= since).collect(),
        // `until` alone shows what came before it.
        None if until.is_some() => past,
        None => Vec::new(),
    };
    let line = |event: &Event| Bytes::from(format!("{}\n", event.to_json()));
    let stream = async_stream(move |out| async move {
        let before_end = |e: &Event| until.is_none_or(|u| e.at <= u);
        for event in past.iter().filter(|e| before_end(e) && wanted(&filters, e)) {
            out.send(line(event)).await?;
        }
        loop {
            tokio::select! {
                event = Events::next(&mut live, until) => match event {
                    Some(event) if wanted(&filters, &event) => out.send(line(&event)).await?,
                    Some(_) => {}
                    None => return Ok(()),
                },
                () = out.closed() => return Ok(()),
            }
        }
    });
    Ok(Reply::Stream("application/json", stream))
}

/// The writing end of a streamed body.
pub struct Out(tokio::sync::mpsc::Sender<std::io::Result<Bytes>>);

impl Out {
    /// Sends a piece; an error means that the client went away.
    pub async fn send(&self, bytes: Bytes) -> std::result::Result<(), Gone> {
        self.0.send(Ok(bytes)).await.map_err(|_| Gone)
    }
    /// Resolves when the client went away.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
    /// Ends the body as cut off.
    pub async fn cut(&self, words: String) {
        // The client may have gone away, which is the same to it.
        let _ = self.0.send(Err(std::io::Error::other(words))).await;
    }
}

/// The client of a stream went away.
#[derive(Debug)]
pub struct Gone;

/// Pieces of a streamed body that may wait for a slow client.
const STREAM_QUEUE: usize = 16;

/// A body written by a task that ends with it: when the client goes away the task's sends fail and it is dropped
/// at its next await.
pub fn async_stream<F, Fut>(write: F) -> ByteStream
where
    F: FnOnce(Arc<Out>) -> Fut,
    Fut: Future<Output = std::result::Result<(), Gone>> + Send + 'static,
{
    let (tx, rx) = tokio::sync::mpsc::channel(STREAM_QUEUE);
    let task = tokio::spawn(write(Arc::new(Out(tx))));
    Box::pin(Guarded { rx, task })
}

struct Guarded {
    rx: tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>,
    task: tokio::task::JoinHandle<std::result::Result<(), Gone>>,
}

impl futures_util::Stream for Guarded {
    type Item = std::io::Result<Bytes>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.rx.poll_recv(cx)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::SystemTime};

    use super::*;

    #[test]
    fn events_of_an_image_are_found_by_its_name_with_the_tag_and_without() {
        let event = |kind, key: &str, name: &str| Event {
            kind,
            action: "tag".into(),
            id: "sha256:1".into(),
            attributes: BTreeMap::from([(key.to_owned(), name.to_owned())]),
            at: SystemTime::now(),
        };
        let tagged = event("image", "name", "host:5000/web:1");
        for fits in ["host:5000/web:1", "host:5000/web", "sha256:1"] {
            assert!(is_of_image(&tagged, fits), "{fits}");
        }
        for other in ["host:5000/web:2", "web", "host"] {
            assert!(!is_of_image(&tagged, other), "{other}");
        }
        assert!(!is_of_image(&event("image", "name", "host:5000/web"), "host"));
        assert!(is_of_image(&event("container", "image", "web"), "web"));
        assert!(!is_of_image(&event("container", "name", "web"), "web"));
    }
}
