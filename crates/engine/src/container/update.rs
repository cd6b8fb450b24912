//! `docker update`: other limits and another restart policy for a container that is there.

use super::config::{Config, HostConfig};
use super::validate::validate;
use crate::engine::Engine;
use crate::error::{Error, Result};

/// What of a body `update` takes; anything else in it is left alone, as dockerd does.
pub fn only_limits(body: HostConfig) -> HostConfig {
    HostConfig {
        restart_policy: body.restart_policy,
        cpu_shares: body.cpu_shares,
        memory: body.memory,
        nano_cpus: body.nano_cpus,
        blkio_weight: body.blkio_weight,
        cpu_period: body.cpu_period,
        cpu_quota: body.cpu_quota,
        cpu_realtime_period: body.cpu_realtime_period,
        cpu_realtime_runtime: body.cpu_realtime_runtime,
        cpuset_cpus: body.cpuset_cpus,
        cpuset_mems: body.cpuset_mems,
        memory_reservation: body.memory_reservation,
        memory_swap: body.memory_swap,
        pids_limit: body.pids_limit,
        memory_swappiness: body.memory_swappiness,
        ..HostConfig::default()
    }
}

/// Checks the wanted limits by themselves, as at a container's making, and takes away what this machine cannot do;
/// answers warnings.
pub fn check(engine: &Engine, wanted: &mut HostConfig) -> Result<Vec<String>> {
    let mut probe = wanted.clone();
    if probe.memory == 0 {
        // Only at a container's making does swap need a memory limit beside it: here there may be one.
        probe.memory_swap = 0;
    }
    let warnings = validate(engine, &Config::default(), &mut probe)?;
    wanted.blkio_weight = probe.blkio_weight;
    // "No limit" is said by nothing at a container's making, where nothing was before; here it takes one away.
    wanted.pids_limit = wanted.pids_limit.map(|limit| limit.max(0));
    Ok(warnings)
}

/// The container's settings with the wanted ones in them; what is zero or empty stays as it was.
pub fn merge(current: &HostConfig, wanted: &HostConfig) -> Result<HostConfig> {
    let conflict = |words: &str| Err(Error::conflict(format!("Conflicting options: {words}")));
    if wanted.nano_cpus > 0 && current.cpu_period > 0 {
        return conflict("Nano CPUs cannot be updated as CPU Period has already been set");
    }
    if wanted.nano_cpus > 0 && current.cpu_quota > 0 {
        return conflict("Nano CPUs cannot be updated as CPU Quota has already been set");
    }
    if wanted.cpu_period > 0 && current.nano_cpus > 0 {
        return conflict("CPU Period cannot be updated as NanoCPUs has already been set");
    }
    if wanted.cpu_quota > 0 && current.nano_cpus > 0 {
        return conflict("CPU Quota cannot be updated as NanoCPUs has already been set");
    }
    let swap = match (current.memory, current.memory_swap) {
        // Said by nobody: twice the memory.
        (memory, 0) => memory * 2,
        (_, swap) => swap,
    };
    if wanted.memory != 0 && wanted.memory > swap && wanted.memory_swap == 0 {
        return Err(Error::conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    if current.auto_remove && !matches!(wanted.restart_policy.name.as_str(), "" | "no") {
        return Err(Error::conflict(
            "Restart policy cannot be updated because AutoRemove is enabled for the container",
        ));
    }
    let (mut new, unsaid) = (current.clone(), HostConfig::default());
    macro_rules! take {
        ($($field:ident)*) => { $(if wanted.$field != unsaid.$field { new.$field = wanted.$field.clone(); })* };
    }
    if new.memory_swap == 0 {
        new.memory_swap = swap;
    }
    take!(
        cpu_shares memory nano_cpus blkio_weight cpu_period cpu_quota cpu_realtime_period cpu_realtime_runtime
        cpuset_cpus cpuset_mems memory_reservation memory_swap pids_limit
    );
    if !wanted.restart_policy.name.is_empty() {
        new.restart_policy = wanted.restart_policy.clone();
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_stays() {
        let current = HostConfig { memory: 100 << 20, cpu_shares: 512, ..HostConfig::default() };
        let wanted = HostConfig { memory: 150 << 20, pids_limit: Some(7), ..HostConfig::default() };
        let new = merge(&current, &wanted).unwrap();
        assert_eq!((new.memory, new.cpu_shares, new.pids_limit), (150 << 20, 512, Some(7)));
        assert_eq!(new.memory_swap, 200 << 20, "the swap limit that was in force stays in force");
    }

    #[test]
    fn what_contradicts_is_refused_in_dockers_words() {
        let limited = HostConfig { memory: 100 << 20, ..HostConfig::default() };
        let more = HostConfig { memory: 300 << 20, ..HostConfig::default() };
        assert!(
            merge(&limited, &more).unwrap_err().message.contains("update the memoryswap at the same time")
        );
        assert!(merge(&HostConfig::default(), &more).is_err());
        let both = HostConfig { memory: 300 << 20, memory_swap: -1, ..HostConfig::default() };
        assert_eq!(merge(&limited, &both).unwrap().memory_swap, -1);
        let quota = HostConfig { cpu_quota: 1000, ..HostConfig::default() };
        let nano = HostConfig { nano_cpus: 1, ..HostConfig::default() };
        assert!(merge(&quota, &nano).unwrap_err().message.starts_with("Conflicting options: Nano CPUs"));
        assert!(merge(&nano, &quota).unwrap_err().message.starts_with("Conflicting options: CPU Quota"));
        let removed = HostConfig { auto_remove: true, ..HostConfig::default() };
        let mut always = HostConfig::default();
        always.restart_policy.name = "always".into();
        assert!(merge(&removed, &always).is_err());
    }
}
