//! What a group has used, read from its files without the shim.
//!
//! Who is asked once a second keeps the files open ([`Meter`]): a file of a group says anew what is true whenever it is
//! read from its beginning, and opening it costs more than that.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Of `memory.stat`, what containerd tells of it, and dockerd with it. In order.
pub const MEMORY_KEYS: [&str; 31] = [
    "active_anon",
    "active_file",
    "anon",
    "anon_thp",
    "file",
    "file_dirty",
    "file_mapped",
    "file_writeback",
    "inactive_anon",
    "inactive_file",
    "kernel_stack",
    "pgactivate",
    "pgdeactivate",
    "pgfault",
    "pglazyfree",
    "pglazyfreed",
    "pgmajfault",
    "pgrefill",
    "pgscan",
    "pgsteal",
    "shmem",
    "slab",
    "slab_reclaimable",
    "slab_unreclaimable",
    "sock",
    "thp_collapse_alloc",
    "thp_fault_alloc",
    "unevictable",
    "workingset_activate",
    "workingset_nodereclaim",
    "workingset_refault",
];

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
    /// Times the limit was hit and nothing could be reclaimed.
    pub memory_failures: u64,
    /// `memory.stat`: the values of [`MEMORY_KEYS`], in their order.
    pub memory_stat: [u64; MEMORY_KEYS.len()],
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

/// Reads what one group has used, as often as it is asked. After the group's end everything is 0.
#[derive(Debug)]
pub struct Meter {
    group: PathBuf,
    cpu: Option<File>,
    memory: Option<File>,
    memory_max: Option<File>,
    memory_events: Option<File>,
    memory_stat: Option<File>,
    pids: Option<File>,
    pids_max: Option<File>,
    io: Option<File>,
    text: Vec<u8>,
}

impl Meter {
    /// Bytes that the files' texts are read into at first. It grows.
    const ROOM: usize = 4096;
    /// Files that are open.
    pub const FILES: usize = 8;

    pub(crate) fn of(group: &Path) -> Self {
        let file = |name: &str| File::open(group.join(name)).ok();
        Self {
            cpu: file("cpu.stat"),
            memory: file("memory.current"),
            memory_max: file("memory.max"),
            memory_events: file("memory.events"),
            memory_stat: file("memory.stat"),
            pids: file("pids.current"),
            pids_max: file("pids.max"),
            io: file("io.stat"),
            group: group.to_owned(),
            text: vec![0; Self::ROOM],
        }
    }

    /// What has been used until now.
    pub fn read(&mut self) -> Stats {
        let mut stats = Stats::default();
        let text = &mut self.text;
        for (key, value) in pairs(said(&self.cpu, text)) {
            let nanos = value.saturating_mul(1000);
            match key {
                "usage_usec" => stats.cpu_total = nanos,
                "user_usec" => stats.cpu_user = nanos,
                "system_usec" => stats.cpu_system = nanos,
                "nr_periods" => stats.cpu_periods = value,
                "nr_throttled" => stats.cpu_throttled_periods = value,
                "throttled_usec" => stats.cpu_throttled = nanos,
                _ => {}
            }
        }
        for (key, value) in pairs(said(&self.memory_stat, text)) {
            if let Ok(at) = MEMORY_KEYS.binary_search(&key) {
                stats.memory_stat[at] = value;
            }
        }
        let failures = pairs(said(&self.memory_events, text)).find(|(key, _)| *key == "max");
        stats.memory_failures = failures.map_or(0, |(_, times)| times);
        stats.io = said(&self.io, text).lines().filter_map(io_line).collect();
        stats.memory = number(said(&self.memory, text)).unwrap_or(0);
        stats.memory_limit = number(said(&self.memory_max, text));
        stats.pids_limit = number(said(&self.pids_max, text));
        let pids = number(said(&self.pids, text));
        stats.pids = pids.unwrap_or_else(|| super::pids(&self.group).len() as u64);
        stats
    }
}

/// What a file says now; nothing, where there is none or no more.
fn said<'a>(file: &Option<File>, text: &'a mut Vec<u8>) -> &'a str {
    let Some(file) = file else { return "" };
    loop {
        let Ok(read) = file.read_at(text, 0) else { return "" };
        if read < text.len() {
            return std::str::from_utf8(&text[..read]).unwrap_or_default();
        }
        text.resize(text.len() * 2, 0);
    }
}

/// A number; `None` for `max` and for nothing.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Lines of a key and a number.
fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|l| l.split_once(' ').and_then(|(k, v)| Some((k, v.parse().ok()?))))
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
    use std::fs;

    #[test]
    fn keys_are_in_order() {
        assert!(MEMORY_KEYS.is_sorted());
    }

    #[test]
    fn reads_what_the_kernel_writes() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        write("cpu.stat", "usage_usec 12\nuser_usec 5\nsystem_usec 7\nnr_periods 3\n");
        write("memory.current", "4096\n");
        write("memory.max", "max\n");
        write("pids.max", "100\n");
        write("io.stat", "253:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
        write("memory.stat", "anon 7\nzswap 3\npgfault 9\n");
        let mut meter = Meter::of(dir.path());
        let stats = meter.read();
        assert_eq!((stats.cpu_total, stats.cpu_periods, stats.memory), (12_000, 3, 4096));
        assert_eq!((stats.memory_limit, stats.pids_limit), (None, Some(100)));
        assert_eq!(
            stats.io,
            [IoStat { major: 253, minor: 0, read_bytes: 1, write_bytes: 2, reads: 3, writes: 4 }]
        );
        let of = |key| stats.memory_stat[MEMORY_KEYS.binary_search(&key).unwrap()];
        assert_eq!((of("anon"), of("pgfault"), of("file")), (7, 9, 0));

        // The same files, read once more: longer than what was made ready for them.
        let more = format!("usage_usec 13\n{}", "x 1\n".repeat(Meter::ROOM));
        write("cpu.stat", &more);
        assert_eq!(meter.read().cpu_total, 13_000);
    }
}
