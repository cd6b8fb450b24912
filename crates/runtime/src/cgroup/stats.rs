//! What a group has used, read from its files without the shim.

use std::fs;
use std::path::Path;

/// Use of resources by one container. What the machine cannot count is 0 (or empty).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time, nanoseconds: all, in user mode, in the kernel.
    pub cpu_total: u64,
    /// See `cpu_total`.
    pub cpu_user: u64,
    /// See `cpu_total`.
    pub cpu_system: u64,
    /// Bandwidth periods that have passed.
    pub cpu_periods: u64,
    /// Periods in which the group was held back.
    pub cpu_throttled_periods: u64,
    /// Time it was held back, nanoseconds.
    pub cpu_throttled: u64,
    /// Memory in use, bytes (`memory.current`).
    pub memory: u64,
    /// Its limit, bytes; `None` = none.
    pub memory_limit: Option<u64>,
    /// The highest use, bytes, where the kernel knows it.
    pub memory_peak: Option<u64>,
    /// Times the limit was hit and nothing could be reclaimed.
    pub memory_failures: u64,
    /// `memory.stat`, key and value.
    pub memory_stat: Vec<(String, u64)>,
    /// Processes and threads.
    pub pids: u64,
    /// Their limit; `None` = none.
    pub pids_limit: Option<u64>,
    /// Block devices.
    pub io: Vec<IoStat>,
}

/// Use of one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoStat {
    /// Device number.
    pub major: u64,
    /// Device number.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

fn number(path: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(path.join(file)).ok()?.trim().parse().ok()
}

fn pairs(path: &Path, file: &str) -> Vec<(String, u64)> {
    let text = fs::read_to_string(path.join(file)).unwrap_or_default();
    text.lines()
        .filter_map(|l| l.split_once(' ').and_then(|(k, v)| Some((k.to_owned(), v.parse().ok()?))))
        .collect()
}

/// Reads the files of the group.
pub(crate) fn read(path: &Path) -> Stats {
    let cpu = pairs(path, "cpu.stat");
    let of = |list: &[(String, u64)], key: &str| list.iter().find(|(k, _)| k == key).map_or(0, |(_, v)| *v);
    let micros = |key: &str| of(&cpu, key).saturating_mul(1000);
    let pids = number(path, "pids.current").unwrap_or_else(|| super::pids(path).len() as u64);
    Stats {
        cpu_total: micros("usage_usec"),
        cpu_user: micros("user_usec"),
        cpu_system: micros("system_usec"),
        cpu_periods: of(&cpu, "nr_periods"),
        cpu_throttled_periods: of(&cpu, "nr_throttled"),
        cpu_throttled: micros("throttled_usec"),
        memory: number(path, "memory.current").unwrap_or(0),
        memory_limit: number(path, "memory.max"),
        memory_peak: number(path, "memory.peak"),
        memory_failures: of(&pairs(path, "memory.events"), "max"),
        memory_stat: pairs(path, "memory.stat"),
        pids,
        pids_limit: number(path, "pids.max"),
        io: fs::read_to_string(path.join("io.stat"))
            .unwrap_or_default()
            .lines()
            .filter_map(io_line)
            .collect(),
    }
}

fn io_line(line: &str) -> Option<IoStat> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let mut stat = IoStat { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IoStat::default() };
    for word in words {
        let (key, value) = word.split_once('=')?;
        let value = value.parse().ok()?;
        match key {
            "rbytes" => stat.read_bytes = value,
            "wbytes" => stat.write_bytes = value,
            "rios" => stat.reads = value,
            "wios" => stat.writes = value,
            _ => {}
        }
    }
    Some(stat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        write("cpu.stat", "usage_usec 12\nuser_usec 5\nsystem_usec 7\nnr_periods 3\n");
        write("memory.current", "4096\n");
        write("memory.max", "max\n");
        write("pids.max", "100\n");
        write("io.stat", "253:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
        let stats = read(dir.path());
        assert_eq!((stats.cpu_total, stats.cpu_periods, stats.memory), (12_000, 3, 4096));
        assert_eq!((stats.memory_limit, stats.pids_limit), (None, Some(100)));
        assert_eq!(
            stats.io,
            [IoStat { major: 253, minor: 0, read_bytes: 1, write_bytes: 2, reads: 3, writes: 4 }]
        );
    }
}
