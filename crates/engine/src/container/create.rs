//! Making a container: the request checked and merged with the image, one record written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use network::{PortRequest, Protocol};

use super::config::{Config, EndpointSettings, HostConfig, NetworkingConfig, PortBinding};
use super::mounts::{self, MountKind, MountPoint};
use super::{Handle, LastRun, PublishedPort, Record, limits, spec, task};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::networks::Member;
use crate::store::{Durability, Kind};

/// Docker's log drivers that are not there yet.
const KNOWN_LOG_DRIVERS: &[&str] =
    &["awslogs", "fluentd", "gcplogs", "gelf", "journald", "local", "splunk", "syslog"];
/// `/dev/shm` unless asked otherwise, in bytes.
const SHM_SIZE: i64 = 64 << 20;

/// A container that was made.
pub struct Made {
    /// It.
    pub handle: Handle,
    /// Its id.
    pub id: String,
    /// What the person should know, in Docker's words where it has them.
    pub warnings: Vec<String>,
}

/// Makes a container.
pub async fn create(
    engine: &Arc<Engine>,
    name: Option<&str>,
    mut config: Config,
    mut host: HostConfig,
    networking: NetworkingConfig,
) -> Result<Made> {
    if let Some(name) = name
        && !crate::names::is_valid(name)
    {
        return Err(Error::invalid(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )));
    }
    let mut warnings = validate(engine, &config, &mut host)?;
    if config.image.is_empty() {
        command(&config)?;
    }
    let image = engine.images.get(&config.image).await?;
    merge_image(&mut config, &image.config);
    let command = command(&config)?;
    if config.healthcheck.as_ref().is_some_and(|h| h.test.first().is_some_and(|t| t != "NONE")) {
        warnings.push(
            "This engine does not run health checks yet: the container will have no health status.".into(),
        );
    }
    let networks = networks(engine, &host, networking)?;
    let mut mounts = mounts::collect(&host, &config.volumes)?;

    let id = crate::names::random_id();
    if config.hostname.is_empty() {
        config.hostname = if host.network_mode == "host" { host_name() } else { id[..12].to_owned() };
    }
    let name = reserve(engine, name, &id)?;
    let made = async {
        let durability = if host.auto_remove { Durability::Lazy } else { Durability::Durable };
        prepare_volumes(engine, &id, &image.id, &mut mounts, durability).await?;
        tokio::fs::create_dir_all(engine.paths.container(&id)).await?;
        let record = Record {
            id: id.clone(),
            name: name.clone(),
            created: crate::time::now(),
            image_id: image.id.to_string(),
            path: command.0,
            args: command.1,
            config,
            host,
            networks,
            mounts,
            last: LastRun::default(),
            restart_count: 0,
            stopped_by_user: false,
        };
        engine.store.put(Kind::Container, &id, &record, durability).await?;
        Ok::<_, Error>(record)
    }
    .await;
    let record = match made {
        Ok(record) => record,
        Err(e) => {
            engine.containers.forget(&id);
            engine.containers.release_name(&name, &id);
            // Nothing else knows the folder: a failure to remove it only wastes space.
            let _ = tokio::fs::remove_dir_all(engine.paths.container(&id)).await;
            return Err(e);
        }
    };
    engine.container_event(&record, "create", &[]);
    let handle = task::spawn(engine, record, None);
    engine.containers.insert(&id, handle.clone());
    Ok(Made { handle, id, warnings })
}

fn reserve(engine: &Engine, name: Option<&str>, id: &str) -> Result<String> {
    if let Some(name) = name {
        engine.containers.reserve_name(name, id)?;
        return Ok(name.to_owned());
    }
    for attempt in 0.. {
        let name = crate::names::random_name(attempt);
        match engine.containers.reserve_name(&name, id) {
            Ok(()) => return Ok(name),
            // With digits there are tens of thousands: when all are taken, the id itself is a name.
            Err(_) if attempt < 20 => {}
            Err(_) => break,
        }
    }
    engine.containers.reserve_name(id, id).map(|()| id.to_owned())
}

/// Fills in defaults and refuses what cannot be. What this engine cannot do yet is refused, never ignored.
fn validate(engine: &Engine, config: &Config, host: &mut HostConfig) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let missing = |what: &str| Err(Error::not_implemented(format!("{what} is not there yet")));
    limits::check(host, engine.cpus)?;
    spec::check_capabilities(host)?;
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
        return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    match host.restart_policy.name.as_str() {
        "" => host.restart_policy.name = "no".into(),
        "no" | "always" | "unless-stopped" | "on-failure" => {}
        other => {
            return Err(Error::invalid(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )));
        }
    }
    let retries = host.restart_policy.maximum_retry_count;
    if retries != 0 && host.restart_policy.name != "on-failure" {
        return Err(Error::invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ));
    }
    if retries < 0 {
        return Err(Error::invalid("invalid restart policy: maximum retry count cannot be negative"));
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    if !config.stop_signal.is_empty() && parse_signal(&config.stop_signal).is_none() {
        return Err(Error::invalid(format!("invalid signal: {}", config.stop_signal)));
    }
    for variable in &config.env {
        if variable.is_empty() || variable.starts_with('=') {
            return Err(Error::invalid(format!("invalid environment variable: {variable}")));
        }
    }
    match host.log_config.r#type.as_str() {
        "" => {
            host.log_config.r#type = engine.config.log_driver.clone().unwrap_or_else(|| "json-file".into());
            if host.log_config.config.is_empty() {
                host.log_config.config.clone_from(&engine.config.log_opts);
            }
        }
        "json-file" | "none" => {}
        other if KNOWN_LOG_DRIVERS.contains(&other) => return missing(&format!("log driver {other}")),
        other => {
            return Err(Error::invalid(format!(
                "error looking up logging plugin {other}: plugin \"{other}\" not found"
            )));
        }
    }
    for key in host.log_config.config.keys() {
        if !matches!(key.as_str(), "max-size" | "max-file") {
            return Err(Error::invalid(format!("unknown log opt '{key}' for json-file log driver")));
        }
    }
    if host.shm_size < 0 {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    if host.shm_size == 0 {
        host.shm_size = SHM_SIZE;
    }
    match host.ipc_mode.as_str() {
        "" => host.ipc_mode = "private".into(),
        "private" | "none" | "host" | "shareable" => {}
        other if other.starts_with("container:") => return missing(&format!("IPC mode {other}")),
        other => return Err(Error::invalid(format!("invalid IPC mode: {other}"))),
    }
    match host.cgroupns_mode.as_str() {
        "" => host.cgroupns_mode = "private".into(),
        "private" | "host" => {}
        other => return Err(Error::invalid(format!("invalid cgroup namespace mode: {other}"))),
    }
    if !matches!(host.pid_mode.as_str(), "" | "private" | "host") {
        return missing(&format!("PID mode {}", host.pid_mode));
    }
    if !matches!(host.uts_mode.as_str(), "" | "host") {
        return Err(Error::invalid(format!("invalid UTS mode: {}", host.uts_mode)));
    }
    if !matches!(host.runtime.as_str(), "" | "runc" | "coracle" | "io.containerd.runc.v2") {
        return Err(Error::invalid(format!("unknown or invalid runtime name: {}", host.runtime)));
    }
    if host.runtime.is_empty() {
        host.runtime = "coracle".into();
    }
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    if some(&host.volumes_from) {
        return missing("--volumes-from");
    }
    if some(&host.links) {
        return missing("--link (put both containers in a network of their own instead)");
    }
    if !host.userns_mode.is_empty() && host.userns_mode != "host" {
        return missing("--userns");
    }
    if !host.storage_opt.is_empty() {
        return missing("--storage-opt");
    }
    if !host.cgroup_parent.is_empty() {
        return missing("--cgroup-parent");
    }
    if !matches!(host.volume_driver.as_str(), "" | "local") {
        return missing("--volume-driver");
    }
    if !host.blkio_weight_device.is_empty() {
        return missing("--blkio-weight-device");
    }
    if host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0 {
        return missing("CPU real-time scheduling");
    }
    if host.oom_kill_disable == Some(true) {
        warnings.push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".into());
        host.oom_kill_disable = None;
    }
    if host.memory_swappiness.is_some_and(|s| s != -1) {
        warnings.push("Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.".into());
        host.memory_swappiness = None;
    }
    if host.device_requests.as_ref().is_some_and(|d| !d.is_empty()) {
        return missing("--gpus");
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(Error::invalid(format!(
            "invalid isolation ({}): linux only supports 'default'",
            host.isolation
        )));
    }
    for option in host.security_opt.iter().flatten() {
        match option.as_str() {
            "no-new-privileges"
            | "no-new-privileges:true"
            | "no-new-privileges=true"
            | "no-new-privileges=false"
            | "seccomp=unconfined"
            | "seccomp:unconfined"
            | "seccomp=builtin"
            | "apparmor=unconfined"
            | "apparmor:unconfined"
            | "label=disable"
            | "label:disable" => {}
            other => return missing(&format!("--security-opt {other}")),
        }
    }
    // Nothing confines processes that see the host's: dockerd takes SELinux labels away, and says so.
    let confined = host.ipc_mode != "host" && host.pid_mode != "host" && !host.privileged;
    let labelled = host.security_opt.iter().flatten().any(|o| o.starts_with("label"));
    if !confined && !labelled {
        host.security_opt.get_or_insert_default().push("label=disable".into());
    }
    let controllers = engine.runtime.controllers();
    if host.memory > 0 && !controllers.has("memory") {
        warnings.push("Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.".into());
    }
    if host.pids_limit.is_some_and(|l| l > 0) && !controllers.has("pids") {
        warnings.push("Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.".into());
    }
    if (host.nano_cpus > 0 || host.cpu_quota > 0) && !controllers.has("cpu") {
        warnings.push("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.".into());
    }
    if host.blkio_weight > 0 && !controllers.has("io") {
        warnings.push(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
                .into(),
        );
        host.blkio_weight = 0;
    }
    if host.network_mode == "host" && host.port_bindings.values().any(Option::is_some) {
        warnings.push("Published ports are discarded when using host network mode".into());
    }
    Ok(warnings)
}

/// What the image says where the request says nothing.
fn merge_image(config: &mut Config, image: &image::ImageConfig) {
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    for port in &image.exposed_ports {
        config.exposed_ports.entry(port.clone()).or_default();
    }
    let named: BTreeSet<String> = config.env.iter().map(|e| env_name(e).to_owned()).collect();
    config.env.extend(image.env.iter().filter(|e| !named.contains(env_name(e))).cloned());
    if config.entrypoint.is_none() {
        // A command of the image's belongs to its entrypoint: with another entrypoint it is dropped.
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&image.cmd);
        }
        config.entrypoint.clone_from(&image.entrypoint);
    } else if config.entrypoint.as_deref() == Some(&[String::new()]) {
        // `--entrypoint ""` takes the image's away.
        config.entrypoint = None;
    }
    if config.healthcheck.is_none() {
        config.healthcheck = image.healthcheck.clone().and_then(|h| serde_json::from_value(h).ok());
    }
    for (key, value) in &image.labels {
        config.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    for path in &image.volumes {
        config.volumes.entry(path.clone()).or_default();
    }
    if config.stop_signal.is_empty()
        && let Some(signal) = &image.stop_signal
    {
        config.stop_signal.clone_from(signal);
    }
}

fn env_name(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

fn command(config: &Config) -> Result<(String, Vec<String>)> {
    let entrypoint = config.entrypoint.iter().flatten();
    let mut words = entrypoint.chain(config.cmd.iter().flatten()).cloned();
    match words.next() {
        Some(path) => Ok((path, words.collect())),
        None => Err(Error::invalid("no command specified")),
    }
}

/// The networks by name, with what was asked of each.
fn networks(
    engine: &Engine,
    host: &HostConfig,
    networking: NetworkingConfig,
) -> Result<BTreeMap<String, EndpointSettings>> {
    let mode = match host.network_mode.as_str() {
        "" | "default" => "bridge",
        other => other,
    };
    if mode.starts_with("container:") {
        return Err(Error::not_implemented("--network container: is not there yet"));
    }
    let mut all = BTreeMap::new();
    for (name, settings) in networking.endpoints_config {
        let network = match engine.networks.find(&name) {
            Ok(network) => network.name.clone(),
            // Checked when the container starts, as dockerd does.
            Err(_) => name,
        };
        all.insert(network, settings.unwrap_or_default());
    }
    let mode = engine.networks.find(mode).map_or_else(|_| mode.to_owned(), |n| n.name.clone());
    all.entry(mode).or_default();
    if all.len() > 1 && (all.contains_key("host") || all.contains_key("none")) {
        return Err(Error::invalid(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        ));
    }
    for (name, settings) in &all {
        if let Some(ipam) = &settings.ipam_config
            && !ipam.ipv4_address.is_empty()
            && matches!(name.as_str(), "bridge" | "host" | "none")
        {
            return Err(Error::invalid(format!(
                "invalid config for network {name}: invalid endpoint settings:\n* user specified IP address is supported on user defined networks only\n* user specified IP address is supported only when connecting to networks with user configured subnets"
            )));
        }
        if settings.links.as_ref().is_some_and(|l| !l.is_empty()) {
            return Err(Error::not_implemented("links are not there yet"));
        }
    }
    Ok(all)
}

/// Makes the volumes a container needs and fills new ones with what the image has there.
async fn prepare_volumes(
    engine: &Arc<Engine>,
    id: &str,
    image_id: &image::Digest,
    mounts: &mut [MountPoint],
    durability: Durability,
) -> Result<()> {
    let mut fill = Vec::new();
    for mount in mounts.iter_mut().filter(|m| m.kind == MountKind::Volume) {
        let mut labels = mount.labels.clone();
        let name = mount.volume.clone().unwrap_or_else(|| {
            labels.insert(crate::volumes::ANONYMOUS.into(), String::new());
            crate::names::random_id()
        });
        let labels = (!labels.is_empty()).then_some(labels);
        let (_, new) = engine.volumes.create(&name, "local", labels, None, durability).await?;
        if new {
            engine.volume_event(&name, "create", BTreeMap::new());
        }
        if mount.copy_up && is_empty(&engine.volumes.data(&name)).await {
            fill.push((mount.destination.clone(), engine.volumes.data(&name)));
        }
        mount.volume = Some(name);
    }
    if fill.is_empty() {
        return Ok(());
    }
    let rootfs = engine.images.mount(image_id, id).await?;
    let scratch = engine.paths.exec_root.join("rootfs");
    crate::rootfs::merged(rootfs, scratch, move |root| {
        for (inside, volume) in fill {
            let Some(source) = crate::rootfs::open_inside(root, &inside)? else { continue };
            if source.metadata()?.is_dir() {
                crate::rootfs::copy_into_volume(&crate::rootfs::path_of(&source), &volume)?;
            }
        }
        Ok(())
    })
    .await
}

async fn is_empty(folder: &std::path::Path) -> bool {
    match tokio::fs::read_dir(folder).await {
        Ok(mut entries) => matches!(entries.next_entry().await, Ok(None)),
        Err(_) => false,
    }
}

/// The digest of a container's image.
pub fn image_digest(record: &Record) -> Result<image::Digest> {
    record.image_id.parse().map_err(Error::from)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Resolvers a container's questions go to: its own `--dns`, else the engine's.
pub fn upstreams(engine: &Engine, record: &Record) -> Vec<SocketAddr> {
    if record.host.dns.is_empty() {
        return engine.networks.upstreams().to_vec();
    }
    record
        .host
        .dns
        .iter()
        .filter_map(|ip| ip.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

/// `/etc/hosts` of a container: its own names, and those asked for.
pub async fn write_hosts(engine: &Engine, record: &Record, members: &[Member]) -> Result<()> {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    let gateway = members.iter().find_map(|m| m.gateway);
    for extra in record.host.extra_hosts.iter().flatten() {
        let Some((name, address)) = extra.split_once([':', '=']) else { continue };
        let address = match (address, gateway) {
            ("host-gateway", Some(gateway)) => gateway.to_string(),
            ("host-gateway", None) => continue,
            (address, _) => address.trim_matches(['[', ']']).to_owned(),
        };
        text.push_str(&format!("{address}\t{name}\n"));
    }
    let full = match record.config.domainname.as_str() {
        "" => record.config.hostname.clone(),
        domain => format!("{0}.{domain} {0}", record.config.hostname),
    };
    for member in members {
        if let Some(address) = member.address {
            text.push_str(&format!("{}\t{full}\n", address.addr()));
        }
    }
    tokio::fs::write(engine.paths.container(&record.id).join("hosts"), text).await?;
    Ok(())
}

/// `/etc/hostname` and `/etc/resolv.conf`, before the container's namespaces are made.
pub async fn write_names(engine: &Engine, record: &Record) -> Result<()> {
    let folder = engine.paths.container(&record.id);
    tokio::fs::create_dir_all(&folder).await?;
    tokio::fs::write(folder.join("hostname"), format!("{}\n", record.config.hostname)).await?;
    let text = if record.networks.contains_key("host") && record.host.dns.is_empty() {
        tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default()
    } else {
        resolv_conf(engine, record)
    };
    tokio::fs::write(folder.join("resolv.conf"), text).await?;
    // Written for good when the addresses are known; the file must be there to be mounted.
    write_hosts(engine, record, &[]).await
}

fn resolv_conf(engine: &Engine, record: &Record) -> String {
    let own_server = record.networks.keys().any(|n| !matches!(n.as_str(), "bridge" | "host" | "none"));
    let mut text = String::from("# Generated by Coracle.\n");
    if own_server {
        text.push_str(&format!("nameserver {}\n", network::dns::ADDRESS));
    } else {
        for upstream in upstreams(engine, record) {
            text.push_str(&format!("nameserver {}\n", upstream.ip()));
        }
    }
    let or_engines =
        |own: &[String], engines: &[String]| if own.is_empty() { engines.to_vec() } else { own.to_vec() };
    let search = or_engines(&record.host.dns_search, &engine.config.dns_search);
    if !search.is_empty() && search != ["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    let mut options = or_engines(&record.host.dns_options, &engine.config.dns_opts);
    if own_server && !options.iter().any(|o| o.starts_with("ndots:")) {
        options.push("ndots:0".into());
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

/// The ports a container asks the host for, both families where it names no address.
pub fn port_requests(record: &Record, address: Ipv4Addr) -> Result<Vec<PortRequest>> {
    let mut bindings: BTreeMap<String, Vec<PortBinding>> = BTreeMap::new();
    for (port, asked) in &record.host.port_bindings {
        bindings.insert(port.clone(), asked.clone().unwrap_or_else(|| vec![PortBinding::default()]));
    }
    if record.host.publish_all_ports {
        for port in record.config.exposed_ports.keys() {
            bindings.entry(port.clone()).or_insert_with(|| vec![PortBinding::default()]);
        }
    }
    let mut requests = Vec::new();
    for (port, asked) in bindings {
        let (number, protocol) = parse_port(&port)?;
        let target = SocketAddr::from((address, number));
        for binding in asked {
            let ips: Vec<IpAddr> = match binding.host_ip.as_str() {
                "" => vec![Ipv4Addr::UNSPECIFIED.into(), std::net::Ipv6Addr::UNSPECIFIED.into()],
                text => {
                    vec![text.parse().map_err(|_| Error::invalid(format!("invalid IP address: {text}")))?]
                }
            };
            let bad_port =
                || Error::invalid(format!("invalid port specification: \"{}\"", binding.host_port));
            // A range: the first of it is asked for (dockerd takes the first that is free).
            let first = binding.host_port.split('-').next().unwrap_or_default();
            let host_port = if first.is_empty() { 0 } else { first.parse().map_err(|_| bad_port())? };
            requests.extend(ips.into_iter().map(|host_ip| PortRequest {
                protocol,
                host_ip,
                host_port,
                target,
            }));
        }
    }
    Ok(requests)
}

/// The same ports once more, for a container found running.
pub fn ports_again(ports: &[PublishedPort], address: Ipv4Addr) -> Vec<PortRequest> {
    let request = |p: &PublishedPort| {
        let (number, protocol) = parse_port(&p.port).ok()?;
        let target = SocketAddr::from((address, number));
        Some(PortRequest { protocol, host_ip: p.host_ip, host_port: p.host_port, target })
    };
    ports.iter().filter_map(request).collect()
}

/// `80/tcp` or `80`.
fn parse_port(text: &str) -> Result<(u16, Protocol)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let number =
        number.parse().map_err(|_| Error::invalid(format!("invalid port specification: \"{text}\"")))?;
    match protocol {
        "tcp" => Ok((number, Protocol::Tcp)),
        "udp" => Ok((number, Protocol::Udp)),
        "sctp" => Err(Error::not_implemented("publishing SCTP ports is not there yet")),
        other => Err(Error::invalid(format!("invalid proto: {other}"))),
    }
}

/// The signal a container is stopped with.
pub fn stop_signal(config: &Config) -> i32 {
    parse_signal(&config.stop_signal).unwrap_or(libc::SIGTERM)
}

/// A signal by number or by name, with or without `SIG`.
pub fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = match name {
        "ABRT" | "IOT" => libc::SIGABRT,
        "ALRM" => libc::SIGALRM,
        "BUS" => libc::SIGBUS,
        "CHLD" | "CLD" => libc::SIGCHLD,
        "CONT" => libc::SIGCONT,
        "FPE" => libc::SIGFPE,
        "HUP" => libc::SIGHUP,
        "ILL" => libc::SIGILL,
        "INT" => libc::SIGINT,
        "IO" | "POLL" => libc::SIGIO,
        "KILL" => libc::SIGKILL,
        "PIPE" => libc::SIGPIPE,
        "PROF" => libc::SIGPROF,
        "PWR" => libc::SIGPWR,
        "QUIT" => libc::SIGQUIT,
        "SEGV" => libc::SIGSEGV,
        "STKFLT" => libc::SIGSTKFLT,
        "STOP" => libc::SIGSTOP,
        "SYS" => libc::SIGSYS,
        "TERM" => libc::SIGTERM,
        "TRAP" => libc::SIGTRAP,
        "TSTP" => libc::SIGTSTP,
        "TTIN" => libc::SIGTTIN,
        "TTOU" => libc::SIGTTOU,
        "URG" => libc::SIGURG,
        "USR1" => libc::SIGUSR1,
        "USR2" => libc::SIGUSR2,
        "VTALRM" => libc::SIGVTALRM,
        "WINCH" => libc::SIGWINCH,
        "XCPU" => libc::SIGXCPU,
        "XFSZ" => libc::SIGXFSZ,
        "RTMIN" => 34,
        "RTMAX" => 64,
        other => {
            let offset = |rest: &str, base: i32, sign: i32| Some(base + sign * rest.parse::<i32>().ok()?);
            let number = match (other.strip_prefix("RTMIN+"), other.strip_prefix("RTMAX-")) {
                (Some(rest), _) => offset(rest, 34, 1),
                (_, Some(rest)) => offset(rest, 64, -1),
                _ => None,
            }?;
            return (34..=64).contains(&number).then_some(number);
        }
    };
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(parse_signal("SIGTERM"), Some(15));
        assert_eq!(parse_signal("int"), Some(2));
        assert_eq!(parse_signal("9"), Some(9));
        assert_eq!(parse_signal("RTMIN+3"), Some(37));
        for bad in ["0", "65", "SIGNOPE", "", "-1"] {
            assert_eq!(parse_signal(bad), None, "{bad}");
        }
    }

    #[test]
    fn another_entrypoint_drops_the_images_command() {
        let image = image::ImageConfig {
            entrypoint: Some(vec!["/entry".into()]),
            cmd: Some(vec!["default".into()]),
            env: vec!["A=image".into(), "B=image".into()],
            ..Default::default()
        };
        let mut plain = Config { env: vec!["A=mine".into()].into(), ..Config::default() };
        merge_image(&mut plain, &image);
        assert_eq!(command(&plain).unwrap(), ("/entry".into(), vec!["default".into()]));
        assert_eq!(plain.env[..2], ["A=mine", "B=image"]);
        assert_eq!(plain.env.len(), 2);

        let mut other = Config { entrypoint: Some(vec!["sh".into()]), ..Config::default() };
        merge_image(&mut other, &image);
        assert_eq!(command(&other).unwrap(), ("sh".into(), vec![]));

        let mut none = Config { entrypoint: Some(vec![String::new()]), ..Config::default() };
        merge_image(&mut none, &image);
        assert_eq!(command(&none).unwrap_err().message, "no command specified");
    }
}
