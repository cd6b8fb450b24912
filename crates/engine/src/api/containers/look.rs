//! What `inspect` shows of a container: written to the answer as it is read, like `ps`'s list.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::size_of;
use super::summary::{Images, Manifest, endpoints, mounts, network_mode, or_empty};
use crate::api::reply::Reply;
use crate::api::request::{Call, Version};
use crate::container::config::{Config, HostConfig};
use crate::container::{Record, Status, View, links, names, spec};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::time;

fn or_zero(text: &str) -> &str {
    if text.is_empty() { time::ZERO } else { text }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct State<'a> {
    status: &'static str,
    running: bool,
    paused: bool,
    restarting: bool,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    dead: bool,
    pid: u32,
    exit_code: u8,
    error: &'a str,
    started_at: &'a str,
    finished_at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Value>,
}

impl<'a> State<'a> {
    fn of(view: &'a View) -> Self {
        let last = &view.record.last;
        let running = view.status.is_running();
        Self {
            status: view.status.name(),
            running: view.status.counts_as_running(),
            paused: matches!(view.status, Status::Running { paused: true, .. }),
            restarting: matches!(view.status, Status::Restarting),
            oom_killed: last.oom_killed,
            dead: false,
            pid: pid(view),
            exit_code: if running { 0 } else { last.exit_code },
            error: &last.error,
            started_at: or_zero(&last.started_at),
            finished_at: or_zero(&last.finished_at),
            health: last.health.as_ref().map(|h| h.to_json()),
        }
    }
}

fn pid(view: &View) -> u32 {
    match &view.status {
        Status::Running { container, .. } => container.pid(),
        _ => 0,
    }
}

/// What depends on the host, with what the engine made of the defaults.
fn host<'a>(engine: &Engine, record: &'a Record) -> Cow<'a, HostConfig> {
    let mut host = Cow::Borrowed(&record.host);
    if host.network_mode != network_mode(record) {
        host.to_mut().network_mode = network_mode(record).to_owned();
    }
    if host.links.is_some() || !record.links.is_empty() {
        host.to_mut().links = links::shown(engine, record);
    }
    if host.masked_paths.is_none() && !host.privileged {
        let strings = |list: &[&str]| Some(list.iter().map(|&path| path.to_owned()).collect());
        let host = host.to_mut();
        host.masked_paths = strings(&runtime::spec::MASKED_PATHS);
        host.readonly_paths = strings(&runtime::spec::READONLY_PATHS);
    }
    host
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Bound {
    host_ip: IpAddr,
    host_port: String,
}

/// The ports of a running container, with where they are published.
fn ports(view: &View) -> BTreeMap<&str, Option<Vec<Bound>>> {
    let record = &view.record;
    if !view.status.is_running() {
        return BTreeMap::new();
    }
    let all = record.config.exposed_ports.keys().chain(record.host.port_bindings.keys());
    let bound = |port: &str| -> Option<Vec<Bound>> {
        let here = record.last.ports.iter().filter(|p| p.port == port);
        let number = |port: u16| if port == 0 { String::new() } else { port.to_string() };
        let bound: Vec<_> =
            here.map(|p| Bound { host_ip: p.host_ip, host_port: number(p.host_port) }).collect();
        (!bound.is_empty()).then_some(bound)
    };
    all.map(|port| (port.as_str(), bound(port))).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings<'a, N> {
    bridge: &'static str,
    #[serde(rename = "SandboxID")]
    sandbox_id: &'a str,
    sandbox_key: String,
    ports: BTreeMap<&'a str, Option<Vec<Bound>>>,
    hairpin_mode: bool,
    #[serde(rename = "LinkLocalIPv6Address")]
    link_local_ipv6_address: &'static str,
    #[serde(rename = "LinkLocalIPv6PrefixLen")]
    link_local_ipv6_prefix_len: u8,
    #[serde(rename = "SecondaryIPAddresses")]
    secondary_ip_addresses: (),
    #[serde(rename = "SecondaryIPv6Addresses")]
    secondary_ipv6_addresses: (),
    /// These are of the default bridge.
    #[serde(rename = "EndpointID")]
    endpoint_id: &'a str,
    #[serde(serialize_with = "or_empty")]
    gateway: Option<IpAddr>,
    #[serde(rename = "GlobalIPv6Address", serialize_with = "or_empty")]
    global_ipv6_address: Option<IpAddr>,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    #[serde(rename = "IPAddress", serialize_with = "or_empty")]
    ip_address: Option<IpAddr>,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway", serialize_with = "or_empty")]
    ipv6_gateway: Option<IpAddr>,
    mac_address: &'a str,
    networks: N,
}

fn network_settings<'a>(engine: &Engine, view: &'a View) -> NetworkSettings<'a, impl Serialize + use<'a>> {
    let record = &*view.record;
    let running = view.status.is_running();
    let bridge = record.last.members.iter().find(|m| m.network == "bridge");
    let address = bridge.and_then(|m| m.address);
    let address6 = bridge.and_then(|m| m.address6);
    NetworkSettings {
        bridge: "",
        sandbox_id: if running { &record.id } else { "" },
        sandbox_key: if running { format!("/proc/{}/ns/net", pid(view)) } else { String::new() },
        ports: ports(view),
        hairpin_mode: false,
        link_local_ipv6_address: "",
        link_local_ipv6_prefix_len: 0,
        secondary_ip_addresses: (),
        secondary_ipv6_addresses: (),
        endpoint_id: bridge.map_or("", |m| &m.endpoint_id),
        gateway: bridge.and_then(|m| m.gateway).map(IpAddr::V4),
        global_ipv6_address: address6.map(|a| IpAddr::V6(a.addr())),
        global_ipv6_prefix_len: address6.map_or(0, |a| a.prefix_len()),
        ip_address: address.map(|a| IpAddr::V4(a.addr())),
        ip_prefix_len: address.map_or(0, |a| a.prefix_len()),
        ipv6_gateway: bridge.and_then(|m| m.gateway6).map(IpAddr::V6),
        mac_address: bridge.map_or("", |m| &m.mac),
        networks: endpoints(engine, record),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GraphDriver {
    data: (),
    name: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Inspect<'a, N, M> {
    id: &'a str,
    created: &'a str,
    path: &'a str,
    args: &'a [String],
    state: State<'a>,
    image: &'a str,
    resolv_conf_path: PathBuf,
    hostname_path: PathBuf,
    hosts_path: PathBuf,
    log_path: PathBuf,
    name: String,
    restart_count: u32,
    driver: &'static str,
    platform: &'static str,
    mount_label: &'static str,
    process_label: &'static str,
    app_armor_profile: &'static str,
    #[serde(rename = "ExecIDs")]
    exec_ids: Option<Vec<String>>,
    host_config: Cow<'a, HostConfig>,
    graph_driver: GraphDriver,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    mounts: M,
    config: &'a Config,
    network_settings: NetworkSettings<'a, N>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_manifest_descriptor: Option<Manifest>,
}

/// `GET /containers/{id}/json`.
pub async fn inspect(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let view = engine.containers.find(call.param(0))?.view();
    let record = &*view.record;
    // The files are made when it starts for the first time.
    let prepared = !record.last.started_at.is_empty() || !record.last.error.is_empty();
    let folder = names::folder(&engine, record);
    let file = |name: &str| if prepared { folder.join(name) } else { PathBuf::new() };
    let execs = engine.execs.of(&record.id);
    let mut images = Images::of(&engine);
    let image_manifest_descriptor = match call.version >= Version(1, 48) {
        true => Manifest::of(&mut images, &record.image_id).await,
        false => None,
    };
    let (size_rw, size_root_fs) = match call.flag("size") {
        true => (
            Some(size_of(&engine, record).await),
            Some(images.get(&record.image_id).await.map_or(0, |i| i.size)),
        ),
        false => (None, None),
    };
    let shown = Inspect {
        id: &record.id,
        created: &record.created,
        path: &record.path,
        args: &record.args,
        state: State::of(&view),
        image: &record.image_id,
        resolv_conf_path: file("resolv.conf"),
        hostname_path: file("hostname"),
        hosts_path: file("hosts"),
        log_path: match prepared && record.host.log_config.r#type == "json-file" {
            true => spec::log_path(&engine, record),
            false => PathBuf::new(),
        },
        name: format!("/{}", record.name),
        restart_count: record.restart_count,
        driver: "overlayfs",
        platform: "linux",
        mount_label: "",
        process_label: "",
        app_armor_profile: "",
        exec_ids: (!execs.is_empty()).then_some(execs),
        host_config: host(&engine, record),
        graph_driver: GraphDriver { data: (), name: "overlayfs" },
        size_rw,
        size_root_fs,
        mounts: mounts(&engine, record),
        config: &record.config,
        network_settings: network_settings(&engine, &view),
        image_manifest_descriptor,
    };
    let mut text = serde_json::to_vec(&shown).map_err(|e| Error::internal(e.to_string()))?;
    text.push(b'\n');
    Ok(Reply::Encoded(text.into()))
}
