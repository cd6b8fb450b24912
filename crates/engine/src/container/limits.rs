//! What a container asks of the machine's resources: checked, and brought into the form that is kept.

use super::config::HostConfig;
use crate::error::{Error, Result};

/// Least memory limit that dockerd accepts, in bytes.
const LEAST_MEMORY: i64 = 6 << 20;
/// Microseconds that a period of the scheduler may have; least of a quota.
const CPU_PERIOD: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
/// Weights that block I/O may have.
pub const BLKIO_WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;
/// What the kernel takes as a process's out-of-memory score adjustment.
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i32> = -1000..=1000;

/// Refuses limits that cannot be, in Docker's words, and fills in what follows from others. `cpus`: those of the
/// machine; `nodes`: those of its memory.
pub fn check(host: &mut HostConfig, cpus: usize, nodes: usize) -> Result<()> {
    let invalid = |words: &str| Err(Error::invalid(words));
    if host.memory != 0 && host.memory < LEAST_MEMORY {
        return invalid("Minimum memory limit allowed is 6MB");
    }
    if host.memory > 0 && host.memory_swap > 0 && host.memory_swap < host.memory {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if host.memory == 0 && host.memory_swap > 0 {
        return invalid("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if host.memory > 0 && host.memory_reservation > host.memory {
        return invalid("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if host.memory > 0 && host.memory_swap == 0 {
        // Not said: as much swap again as memory.
        host.memory_swap = host.memory.saturating_mul(2);
    }
    if host.memory_reservation > 0 && host.memory_reservation < LEAST_MEMORY {
        return invalid("Minimum memory reservation allowed is 6MB");
    }
    if let Some(swappiness) = host.memory_swappiness.filter(|s| !(-1..=100).contains(s)) {
        return Err(Error::invalid(format!(
            "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        )));
    }
    if host.nano_cpus > 0 && host.cpu_period > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if host.nano_cpus > 0 && host.cpu_quota > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    if host.cpu_period != 0 && !CPU_PERIOD.contains(&host.cpu_period) {
        return invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if host.cpu_quota > 0 && host.cpu_quota < *CPU_PERIOD.start() {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if host.io_maximum_bandwidth != 0 {
        return invalid("invalid option: QoS maximum bandwidth configuration is not supported on linux");
    }
    if host.io_maximum_iops != 0 {
        return invalid("invalid option: QoS maximum IOPs configuration is not supported on linux");
    }
    if host.nano_cpus < 0 || host.nano_cpus > 1_000_000_000 * cpus as i64 {
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    if host.cpu_shares < 0 {
        return Err(Error::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            host.cpu_shares
        )));
    }
    within(&host.cpuset_cpus, "cpus", "CPUs", cpus)?;
    within(&host.cpuset_mems, "mems", "memory nodes", nodes)?;
    if !OOM_SCORE_ADJ.contains(&host.oom_score_adj) {
        return Err(Error::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    // Words for "no limit": kept as nothing.
    host.pids_limit = host.pids_limit.filter(|limit| *limit > 0);
    host.memory_swappiness = host.memory_swappiness.filter(|swappiness| *swappiness != -1);
    Ok(())
}

/// Warns of limits that this machine has no controller for, in Docker's words.
pub fn discarded(host: &HostConfig, has: impl Fn(&str) -> bool) -> Vec<String> {
    let without = |what: &str, why: &str| format!("Your kernel does not support {what}. {why} discarded.");
    let gone = "or the cgroup is not mounted";
    let asked = [
        (host.memory > 0, "memory", without(&format!("memory limit capabilities {gone}"), "Limitation")),
        (
            host.memory_reservation > 0,
            "memory",
            without(&format!("memory soft limit capabilities {gone}"), "Limitation"),
        ),
        (
            host.pids_limit.is_some_and(|limit| limit > 0),
            "pids",
            without(&format!("PIDs limit capabilities {gone}"), "PIDs limit"),
        ),
        (host.cpu_shares > 0, "cpu", without(&format!("CPU shares {gone}"), "Shares")),
        (
            host.nano_cpus > 0 || host.cpu_quota > 0 || host.cpu_period > 0,
            "cpu",
            without("CPU CFS scheduler", "CPU period/quota"),
        ),
        (
            !host.cpuset_cpus.is_empty() || !host.cpuset_mems.is_empty(),
            "cpuset",
            without(&format!("cpuset {gone}"), "Cpuset"),
        ),
    ];
    let rates = [
        (&host.blkio_device_read_bps, "BPS Block I/O read", "Block I/O BPS read"),
        (&host.blkio_device_write_bps, "BPS Block I/O write", "Block I/O BPS write"),
        (&host.blkio_device_read_iops, "IOPS Block read", "Block I/O IOPS read"),
        (&host.blkio_device_write_iops, "IOPS Block write", "Block I/O IOPS write"),
    ];
    let rates = rates.into_iter().map(|(devices, what, why)| {
        (!devices.is_empty(), "io", without(&format!("{what} limit {gone}"), &format!("{why} limit")))
    });
    let cannot = asked.into_iter().chain(rates).filter(|(asked, controller, _)| *asked && !has(controller));
    let mut warnings: Vec<String> = cannot.map(|(.., words)| words).collect();
    if host.cpu_percent > 0 {
        warnings.push("linux does not support CPU percent. Percent discarded.".into());
    }
    warnings
}

/// How many nodes this machine's memory has.
pub fn memory_nodes() -> usize {
    let online = std::fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
    numbers(online.trim(), "mems").ok().and_then(|nodes| nodes.into_iter().max()).map_or(1, |last| last + 1)
}

/// Refuses a list that names more than `there` are.
fn within(asked: &str, kind: &str, called: &str, there: usize) -> Result<()> {
    if numbers(asked, kind)?.iter().all(|number| *number < there) {
        return Ok(());
    }
    let last = there.saturating_sub(1);
    let available = if last == 0 { "0".to_owned() } else { format!("0-{last}") };
    Err(Error::invalid(format!(
        "Requested {called} are not available - requested {asked}, available: {available}"
    )))
}

/// `0-2,5` -> numbers of processors or of memory nodes, of ranges the ends.
fn numbers(text: &str, kind: &str) -> Result<Vec<usize>> {
    let bad = || Error::invalid(format!("Invalid value {text} for cpuset {kind}: invalid format: {text}"));
    let number = |word: &str| word.trim().parse::<usize>().map_err(|_| bad());
    let mut all = Vec::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        match part.split_once('-') {
            None => all.push(number(part)?),
            // The ends are all that is looked at: a hostile range makes no list.
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(bad());
                }
                all.extend([first, last]);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(host: HostConfig) -> std::result::Result<HostConfig, String> {
        let mut host = host;
        check(&mut host, 2, 1).map(|()| host).map_err(|e| e.message)
    }

    #[test]
    fn what_follows_is_filled_in() {
        let host = HostConfig {
            memory: 64 << 20,
            pids_limit: Some(-1),
            memory_swappiness: Some(-1),
            ..HostConfig::default()
        };
        let host = checked(host).unwrap();
        assert_eq!((host.memory_swap, host.pids_limit, host.memory_swappiness), (128 << 20, None, None));
    }

    #[test]
    fn limits_without_a_controller_are_warned_of() {
        let host = HostConfig {
            cpu_shares: 10,
            cpuset_cpus: "0".into(),
            memory_reservation: 8 << 20,
            cpu_percent: 5,
            ..HostConfig::default()
        };
        let all = discarded(&host, |_| false);
        assert_eq!(all.len(), 4, "{all:?}");
        assert_eq!(
            all[1],
            "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded."
        );
        assert_eq!(discarded(&host, |controller| controller != "cpuset").len(), 2);
        assert!(discarded(&HostConfig::default(), |_| false).is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let cpuset = |text: &str| checked(HostConfig { cpuset_cpus: text.into(), ..HostConfig::default() });
        assert!(cpuset("0,1").is_ok() && cpuset("0-1").is_ok() && cpuset("").is_ok());
        assert_eq!(
            cpuset("900").unwrap_err(),
            "Requested CPUs are not available - requested 900, available: 0-1"
        );
        assert_eq!(cpuset("x").unwrap_err(), "Invalid value x for cpuset cpus: invalid format: x");
        assert!(cpuset("0-18446744073709551615").is_err() && cpuset("1-0").is_err());
        let nodes = |text: &str| checked(HostConfig { cpuset_mems: text.into(), ..HostConfig::default() });
        assert_eq!(
            nodes("9").unwrap_err(),
            "Requested memory nodes are not available - requested 9, available: 0"
        );
        assert_eq!(nodes("x").unwrap_err(), "Invalid value x for cpuset mems: invalid format: x");
        assert!(nodes("0").is_ok() && memory_nodes() >= 1);
        assert!(checked(HostConfig { oom_score_adj: 5000, ..HostConfig::default() }).is_err());
        assert!(checked(HostConfig { cpu_shares: -1, ..HostConfig::default() }).is_err());
        let more = HostConfig { memory: 8 << 20, memory_reservation: 16 << 20, ..HostConfig::default() };
        assert!(checked(more).is_err());
        let refused = [
            HostConfig { memory_reservation: 1 << 20, ..HostConfig::default() },
            HostConfig { nano_cpus: 1, cpu_period: 1000, ..HostConfig::default() },
            HostConfig { nano_cpus: 1, cpu_quota: 1000, ..HostConfig::default() },
            HostConfig { cpu_period: 10, ..HostConfig::default() },
            HostConfig { cpu_quota: 999, ..HostConfig::default() },
            HostConfig { io_maximum_iops: 5, ..HostConfig::default() },
            HostConfig { memory_swappiness: Some(101), ..HostConfig::default() },
        ];
        for host in refused {
            assert!(checked(host.clone()).is_err(), "{host:?}");
        }
    }
}
