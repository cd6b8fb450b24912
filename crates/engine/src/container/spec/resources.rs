//! Devices and limits of a container, in the words of the OCI's specification.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxResources};
use serde_json::json;

use crate::container::Record;
use crate::container::config::ThrottleDevice;
use crate::error::{Error, Result};

/// The device nodes of a container, beside those every one has.
pub(super) fn devices(record: &Record) -> Result<Vec<LinuxDevice>> {
    if record.host.privileged {
        return host_devices();
    }
    record.host.devices.iter().map(|d| device(&d.path_on_host, &d.path_in_container)).collect()
}

fn device(on_host: &str, inside: &str) -> Result<LinuxDevice> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let gather = |e: &dyn std::fmt::Display| {
        // As Go words it: the CLI tells exit codes by it.
        let words = e.to_string();
        let words = words.split(" (os error").next().unwrap_or_default();
        let words = words.replacen("No such", "no such", 1);
        Error::internal(format!(
            "error gathering device information while adding custom device \"{on_host}\": {words}"
        ))
    };
    let meta = std::fs::metadata(on_host).map_err(|e| gather(&e))?;
    let kind = match meta.file_type() {
        t if t.is_char_device() => "c",
        t if t.is_block_device() => "b",
        _ => return Err(gather(&"not a device node")),
    };
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let path = if inside.is_empty() { on_host } else { inside };
    serde_json::from_value(json!({
        "path": path, "type": kind, "major": major, "minor": minor,
        "fileMode": meta.mode() & 0o7777, "uid": meta.uid(), "gid": meta.gid(),
    }))
    .map_err(|e| Error::internal(e.to_string()))
}

/// All of the host's devices, for a privileged container.
fn host_devices() -> Result<Vec<LinuxDevice>> {
    use std::os::unix::fs::FileTypeExt;
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::from("/dev")];
    while let Some(folder) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let (Ok(kind), path) = (entry.file_type(), entry.path()) else { continue };
            let own = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console", "/dev/.lxc", "/dev/fd"];
            if own.iter().any(|o| path == std::path::Path::new(o)) {
                continue;
            }
            if kind.is_dir() {
                pending.push(path);
            } else if (kind.is_char_device() || kind.is_block_device())
                && let Some(text) = path.to_str()
                && let Ok(device) = device(text, text)
            {
                found.push(device);
            }
        }
    }
    Ok(found)
}

fn device_rules(record: &Record) -> Result<Vec<LinuxDeviceCgroup>> {
    let rule = |value| serde_json::from_value(value).map_err(|e| Error::internal(e.to_string()));
    if record.host.privileged {
        return Ok(vec![rule(json!({ "allow": true, "access": "rwm" }))?]);
    }
    let mut rules = runtime::spec::default_device_rules();
    for d in &record.host.devices {
        let node = device(&d.path_on_host, &d.path_in_container)?;
        let access = if d.cgroup_permissions.is_empty() { "rwm" } else { &d.cgroup_permissions };
        rules.push(rule(json!({
            "allow": true, "type": node.typ(), "major": node.major(), "minor": node.minor(), "access": access,
        }))?);
    }
    for text in record.host.device_cgroup_rules.iter().flatten() {
        let bad = || Error::invalid(format!("invalid device cgroup rule format: '{text}'"));
        let parts: Vec<&str> = text.split_whitespace().collect();
        let &[kind @ ("a" | "b" | "c"), numbers, access] = parts.as_slice() else { return Err(bad()) };
        let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
        let number =
            |n: &str| if n == "*" { Ok(None) } else { n.parse::<i64>().map(Some).map_err(|_| bad()) };
        rules.push(rule(json!({
            "allow": true, "type": kind, "major": number(major)?, "minor": number(minor)?, "access": access,
        }))?);
    }
    Ok(rules)
}

/// Limits, for cgroup v2: cpu shares become a weight, as runc converts them.
pub fn resources(record: &Record) -> Result<LinuxResources> {
    let host = &record.host;
    let (period, quota) = match host.nano_cpus {
        0 => (host.cpu_period, host.cpu_quota),
        nano => (100_000, nano / 10_000),
    };
    let positive = |n: i64| (n > 0).then_some(n);
    let swap = match (host.memory, host.memory_swap) {
        (0, _) => None,
        // Not said: as much swap again as memory, as dockerd does.
        (memory, 0) => Some(memory * 2),
        (_, swap) => Some(swap),
    };
    let rate = |list: &[ThrottleDevice]| -> Result<Vec<serde_json::Value>> {
        list.iter()
            .map(|t| {
                let node = device(&t.path, "")?;
                Ok(json!({ "major": node.major(), "minor": node.minor(), "rate": t.rate }))
            })
            .collect()
    };
    let weights: Vec<serde_json::Value> = host
        .blkio_weight_device
        .iter()
        .map(|w| {
            let node = device(&w.path, "")?;
            Ok(json!({ "major": node.major(), "minor": node.minor(), "weight": w.weight }))
        })
        .collect::<Result<_>>()?;
    let mut value = json!({
        "memory": {
            "limit": positive(host.memory), "reservation": positive(host.memory_reservation), "swap": swap,
        },
        "cpu": {
            "shares": positive(host.cpu_shares), "period": positive(period), "quota": (quota != 0).then_some(quota),
        },
        "pids": host.pids_limit.map(|l| json!({ "limit": if l > 0 { l } else { -1 } })),
        "blockIO": {
            "weight": (host.blkio_weight > 0).then_some(host.blkio_weight),
            "weightDevice": weights,
            "throttleReadBpsDevice": rate(&host.blkio_device_read_bps)?,
            "throttleWriteBpsDevice": rate(&host.blkio_device_write_bps)?,
            "throttleReadIOPSDevice": rate(&host.blkio_device_read_iops)?,
            "throttleWriteIOPSDevice": rate(&host.blkio_device_write_iops)?,
        },
    });
    if !host.cpuset_cpus.is_empty() {
        value["cpu"]["cpus"] = json!(host.cpuset_cpus);
    }
    if !host.cpuset_mems.is_empty() {
        value["cpu"]["mems"] = json!(host.cpuset_mems);
    }
    let mut resources: LinuxResources =
        serde_json::from_value(value).map_err(|e| Error::internal(format!("limits: {e}")))?;
    resources.set_devices(Some(device_rules(record)?));
    Ok(resources)
}
