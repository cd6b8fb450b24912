//! What a container is asked to be, checked before anything is made.

use super::config::{Config, HostConfig};
use super::security::Security;
use super::signal::parse_signal;
use super::{limits, links, log_options, ports, spec};
use crate::engine::Engine;
use crate::error::{Error, Result};

/// `/dev/shm` unless asked otherwise, in bytes.
const SHM_SIZE: i64 = 64 << 20;

/// Fills in defaults and refuses what cannot be. What this engine cannot do yet is refused, never ignored.
pub fn validate(engine: &Engine, config: &Config, host: &mut HostConfig) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let missing = |what: &str| Err(Error::not_implemented(format!("{what} is not there yet")));
    links::check_conflicts(config, host)?;
    limits::check(host, engine.cpus, limits::memory_nodes())?;
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
    if let Some(check) = &config.healthcheck {
        let durations = [
            (check.interval, "Interval"),
            (check.timeout, "Timeout"),
            (check.start_period, "StartPeriod"),
            (check.start_interval, "StartInterval"),
        ];
        if let Some((_, what)) = durations.iter().find(|(d, _)| *d != 0 && *d < 1_000_000) {
            return Err(Error::invalid(format!("{what} in Healthcheck cannot be less than 1ms")));
        }
        if check.retries < 0 {
            return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
        }
    }
    for variable in &config.env {
        if variable.is_empty() || variable.starts_with('=') {
            return Err(Error::invalid(format!("invalid environment variable: {variable}")));
        }
    }
    log_options::check(engine, host)?;
    if host.shm_size < 0 {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    if host.shm_size == 0 {
        host.shm_size = SHM_SIZE;
    }
    match host.ipc_mode.as_str() {
        "" => host.ipc_mode = "private".into(),
        "private" | "none" | "host" | "shareable" => {}
        other => match other.strip_prefix("container:").filter(|name| !name.is_empty()) {
            Some(name) => known_container(engine, name)?,
            None => return Err(Error::invalid(format!("invalid IPC mode: {other}"))),
        },
    }
    match host.cgroupns_mode.as_str() {
        "" => host.cgroupns_mode = "private".into(),
        "private" | "host" => {}
        other => return Err(Error::invalid(format!("invalid cgroup namespace mode: {other}"))),
    }
    match host.pid_mode.strip_prefix("container:").filter(|name| !name.is_empty()) {
        Some(name) => known_container(engine, name)?,
        None if matches!(host.pid_mode.as_str(), "" | "private" | "host") => {}
        None => return Err(Error::invalid(format!("invalid PID mode: {}", host.pid_mode))),
    }
    if host.network_mode == "container:" {
        return Err(Error::invalid("invalid network mode: invalid container format container:<name|id>"));
    }
    ports::check(host)?;
    host.extra_hosts.iter().flatten().try_for_each(|asked| extra_host(asked))?;
    if !matches!(host.uts_mode.as_str(), "" | "host") {
        return Err(Error::invalid(format!("invalid UTS mode: {}", host.uts_mode)));
    }
    if host.runtime.is_empty() {
        host.runtime = engine.config.default_runtime().into();
    }
    engine.config.runtime(&host.runtime)?;
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        return Err(Error::invalid(format!("invalid user namespace mode: {}", host.userns_mode)));
    }
    spec::check_mapped(engine, host)?;
    if let Some(option) = host.storage_opt.keys().find(|option| !option.eq_ignore_ascii_case("size")) {
        return Err(Error::invalid(format!("Unknown option {option}")));
    }
    if !host.storage_opt.is_empty() {
        return Err(Error::invalid(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        ));
    }
    let parts = host.cgroup_parent.split('/').filter(|p| !p.is_empty());
    if parts.clone().any(|part| matches!(part, "." | "..")) {
        return Err(Error::invalid(format!("invalid cgroup parent: {}", host.cgroup_parent)));
    }
    if parts.count() == 0 {
        host.cgroup_parent.clear();
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
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(Error::invalid(format!(
            "invalid isolation ({}): linux only supports 'default'",
            host.isolation
        )));
    }
    if let Some(profile) = Security::of(host)?.apparmor {
        warnings.push(format!("This kernel does not support AppArmor. Profile {profile} discarded."));
    }
    // Nothing confines processes that see the host's: dockerd takes SELinux labels away, and says so.
    let confined = host.ipc_mode != "host" && host.pid_mode != "host" && !host.privileged;
    let labelled = host.security_opt.iter().flatten().any(|o| o.starts_with("label"));
    if !confined && !labelled {
        host.security_opt.get_or_insert_default().push("label=disable".into());
    }
    let controllers = engine.runtime.controllers();
    warnings.extend(limits::discarded(host, |controller| controllers.has(controller)));
    if let Some(device) = host.blkio_weight_device.iter().find(|d| !limits::BLKIO_WEIGHTS.contains(&d.weight))
    {
        return Err(Error::invalid(format!(
            "invalid weight for device: {}:{}: it ranges from 10 to 1000",
            device.path, device.weight
        )));
    }
    if !host.blkio_weight_device.is_empty() && !controllers.weights {
        warnings.push(
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded."
                .into(),
        );
        host.blkio_weight_device = Default::default();
    }
    if host.blkio_weight > 0 && !controllers.weights {
        warnings.push(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
                .into(),
        );
        host.blkio_weight = 0;
    }
    if host.blkio_weight > 0 && !limits::BLKIO_WEIGHTS.contains(&host.blkio_weight) {
        return Err(Error::invalid("Range of blkio weight is from 10 to 1000"));
    }
    if host.network_mode == "host" && host.port_bindings.values().any(Option::is_some) {
        warnings.push("Published ports are discarded when using host network mode".into());
    }
    Ok(warnings)
}

/// A container whose namespaces are asked for. 400 where there is none: the CLI would take a 404 for a missing image.
fn known_container(engine: &Engine, name: &str) -> Result<()> {
    engine.containers.find(name).map(drop).map_err(|e| Error::invalid(e.message))
}

/// `NAME:ADDRESS`, where `host-gateway` is an address.
fn extra_host(asked: &str) -> Result<()> {
    match asked.split_once(':') {
        Some(("", _)) => {}
        Some((_, "host-gateway")) => return Ok(()),
        Some((_, address)) => {
            // IPv6 may stand in brackets.
            let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
            return match bare.parse::<std::net::IpAddr>() {
                Ok(_) => Ok(()),
                Err(_) => Err(Error::invalid(format!("invalid IP address in add-host: {address:?}"))),
            };
        }
        None => {}
    }
    Err(Error::invalid(format!("bad format for add-host: {asked:?}")))
}

/// Refuses GPUs and their like when a container starts: there is no driver for any, and Docker's words for that.
pub fn device_drivers(host: &HostConfig) -> Result<()> {
    let Some(request) = host.device_requests.iter().flatten().next() else { return Ok(()) };
    let words = |list: &serde_json::Value| -> String {
        let all = list.as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
        format!("[{}]", all.collect::<Vec<_>>().join(" "))
    };
    let sets: Vec<String> = request["Capabilities"].as_array().into_iter().flatten().map(words).collect();
    Err(Error::internal(format!(
        "could not select device driver {:?} with capabilities: [{}]",
        request["Driver"].as_str().unwrap_or_default(),
        sets.join(" ")
    )))
}
