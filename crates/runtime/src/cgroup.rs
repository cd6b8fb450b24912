//! Control groups (v2): one group per container below the parent, `<hierarchy>/<parent>/<id>`.
//!
//! A controller that the machine lacks (bare Linux with v1 hierarchies) means that its limits do not apply: the
//! container runs without, and [`Controllers`] says so for `docker info`.

pub(crate) mod devices;
mod kills;
mod stats;

pub use kills::MemoryKills;
pub(crate) use kills::killed;
pub use stats::{IoStat, MEMORY_KEYS, Meter, Stats};

use crate::error::Error;
use crate::sys::bpf;
use devices::Access;
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxResources, LinuxThrottleDevice,
};
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long the processes of a killed group may take to vanish.
const EMPTY_DEADLINE: Duration = Duration::from_secs(10);
/// How often a group that is still busy is tried again.
const EMPTY_RETRY: Duration = Duration::from_millis(2);
/// Compiled device programs kept loaded; nearly all containers share one or two.
const PROGRAM_CACHE: usize = 64;

/// Which controllers limits can be set with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Controllers {
    /// Of those containers use: present and enabled.
    pub present: Vec<String>,
    /// Of those containers use: absent on this machine.
    pub missing: Vec<String>,
    /// Whether the kernel weighs block I/O (`io.weight` or `io.bfq.weight`).
    pub weights: bool,
}

impl Controllers {
    /// Whether limits of the controller `name` (`cpu`, `memory`, `pids`, `io`, `cpuset`) apply.
    pub fn has(&self, name: &str) -> bool {
        self.present.iter().any(|c| c == name)
    }
}

/// The parent of all containers' groups.
#[derive(Debug)]
pub(crate) struct Groups {
    hierarchy: PathBuf,
    parent: PathBuf,
    controllers: Controllers,
    programs: Mutex<HashMap<Vec<u8>, Arc<OwnedFd>>>,
}

fn system(doing: impl Into<String>, error: io::Error) -> Error {
    Error::system(doing, error)
}

impl Groups {
    /// Finds the unified hierarchy and makes the parent group in it.
    pub fn new(parent: &str) -> Result<Groups, Error> {
        let hierarchy = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .into_iter()
            .map(Path::new)
            .find(|path| path.join("cgroup.controllers").exists())
            .ok_or_else(|| {
                Error::Unavailable(
                    "no cgroup v2 hierarchy at /sys/fs/cgroup or /sys/fs/cgroup/unified: mount one (cgroup2)"
                        .into(),
                )
            })?;
        let path = make_parent(hierarchy, parent)?;
        let enabled = fs::read_to_string(path.join("cgroup.subtree_control")).unwrap_or_default();
        let is_enabled = |c: &&str| enabled.split_whitespace().any(|e| e == *c);
        let (present, missing): (Vec<_>, Vec<_>) = WANTED.into_iter().partition(is_enabled);
        let owned = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
        let weights = ["io.weight", "io.bfq.weight"].iter().any(|file| path.join(file).exists());
        Ok(Groups {
            hierarchy: hierarchy.to_path_buf(),
            parent: path,
            controllers: Controllers { present: owned(present), missing: owned(missing), weights },
            programs: Mutex::default(),
        })
    }

    /// Where the unified hierarchy is.
    pub fn hierarchy(&self) -> &Path {
        &self.hierarchy
    }

    pub fn controllers(&self) -> &Controllers {
        &self.controllers
    }

    /// Where a container's group is, unless it has a parent of its own.
    pub fn path(&self, id: &str) -> PathBuf {
        self.parent.join(id)
    }

    /// Where a container's group is below a parent of its own, which is made where it is missing and left behind, as
    /// with Docker: others may be in it.
    pub fn path_below(&self, parent: &str, id: &str) -> Result<PathBuf, Error> {
        Ok(make_parent(&self.hierarchy, parent)?.join(id))
    }

    /// Makes the container's group with its limits and device rules. An old group of that name is emptied and removed.
    pub fn create(&self, path: &Path, resources: Option<&LinuxResources>) -> Result<(), Error> {
        match fs::create_dir(path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let _ = fs::write(path.join("cgroup.kill"), "1");
                remove_tree(path)
                    .map_err(|e| system(format!("cannot remove the old group {}", path.display()), e))?;
                fs::create_dir(path)
                    .map_err(|e| system(format!("cannot make the group {}", path.display()), e))?;
            }
            Err(e) => return Err(system(format!("cannot make the group {}", path.display()), e)),
        }
        let applied = match resources {
            Some(resources) => self.apply(path, resources),
            None => Ok(()),
        };
        if let Err(error) = applied {
            let _ = remove_tree(path);
            return Err(error);
        }
        Ok(())
    }

    /// Sets limits (those given; others stay) and device rules (if given).
    pub fn apply(&self, path: &Path, resources: &LinuxResources) -> Result<(), Error> {
        if let Some(rules) = resources.devices() {
            self.set_devices(path, rules)?;
        }
        let set = |controller: &str, file: &str, value: String| -> Result<(), Error> {
            if !self.controllers.has(controller) {
                return Ok(());
            }
            match fs::write(path.join(file), &value) {
                Ok(()) => Ok(()),
                // Swap accounting is off: no swap limit, as Docker.
                Err(e) if e.kind() == io::ErrorKind::NotFound && file.starts_with("memory.swap") => Ok(()),
                Err(e) => Err(system(format!("cannot set {file} to {value}"), e)),
            }
        };
        if let Some(memory) = resources.memory() {
            set_memory(memory, &set)?;
        }
        if let Some(cpu) = resources.cpu() {
            set_cpu(cpu, &set)?;
        }
        if let Some(pids) = resources.pids() {
            let limit = pids.limit();
            set("pids", "pids.max", if limit > 0 { limit.to_string() } else { "max".into() })?;
        }
        if let Some(io) = resources.block_io() {
            set_io(path, io, &set)?;
        }
        for (file, value) in resources.unified().iter().flatten() {
            if file.contains('/') || !file.contains('.') {
                return Err(Error::Invalid(format!("{file:?} is no file of a group")));
            }
            let controller = file.split('.').next().unwrap_or_default();
            set(controller, file, value.clone())?;
        }
        Ok(())
    }

    /// Puts the rules in force, in the place of any before them.
    fn set_devices(&self, path: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
        let failed = |e| system(format!("cannot set the device rules of {}", path.display()), e);
        let access = Access::from_rules(rules)?;
        let code = access.program();
        let program = self.program(&code).map_err(failed)?;
        let group = fs::File::open(path).map_err(failed)?;
        // Attach the new, then detach the old: at every moment at least one is in force, and all must allow.
        let attached = bpf::attached_device_programs(&group).map_err(failed)?;
        let new_id = bpf::program_id(&*program).map_err(failed)?;
        if !attached.contains(&new_id) {
            bpf::attach_device_program(&group, &*program).map_err(failed)?;
        }
        for old in attached.into_iter().filter(|id| *id != new_id) {
            let old = bpf::program_by_id(old).map_err(failed)?;
            bpf::detach_device_program(&group, old).map_err(failed)?;
        }
        Ok(())
    }

    fn program(&self, code: &[u8]) -> io::Result<Arc<OwnedFd>> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = programs.get(code) {
            return Ok(program.clone());
        }
        if programs.len() >= PROGRAM_CACHE {
            programs.clear();
        }
        let program = Arc::new(bpf::load_device_program(code)?);
        programs.insert(code.to_vec(), program.clone());
        Ok(program)
    }
}

/// The controllers that containers' limits use.
const WANTED: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];

/// Makes a parent of groups; every group from the root down to it hands the controllers on that it has.
fn make_parent(hierarchy: &Path, parent: &str) -> Result<PathBuf, Error> {
    let name = parent.trim_matches('/');
    if name.is_empty() || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Error::Invalid(format!("{parent:?} is no name of a parent group")));
    }
    let path = hierarchy.join(name);
    fs::create_dir_all(&path).map_err(|e| system(format!("cannot make the group {}", path.display()), e))?;
    let mut level = hierarchy.to_path_buf();
    for part in std::iter::once("").chain(name.split('/')) {
        level.push(part);
        for controller in WANTED {
            // One write each: one that is refused must not take the others along.
            let _ = fs::write(level.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    Ok(path)
}

/// Kills everything in the group and removes it with what the container made below it.
pub(crate) async fn destroy(path: &Path) -> Result<(), Error> {
    let _ = fs::write(path.join("cgroup.freeze"), "0");
    let _ = fs::write(path.join("cgroup.kill"), "1");
    let deadline = tokio::time::Instant::now() + EMPTY_DEADLINE;
    loop {
        match remove_tree(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && tokio::time::Instant::now() < deadline => {
                // Dead processes leave their group when they are reaped: no event tells that it may be removed.
                tokio::time::sleep(EMPTY_RETRY).await;
            }
            Err(e) => return Err(system(format!("cannot remove the group {}", path.display()), e)),
        }
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        done => return done,
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// The processes in the group and below it, as this pid namespace numbers them.
pub(crate) fn pids(path: &Path) -> Vec<u32> {
    let mut pids: Vec<u32> = fs::read_to_string(path.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|l| l.parse().ok())
        .collect();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            pids.extend(self::pids(&entry.path()));
        }
    }
    pids
}

/// Freezes or thaws the group; returns once the kernel says it is so.
pub(crate) async fn freeze(path: &Path, frozen: bool) -> Result<(), Error> {
    const DEADLINE: Duration = Duration::from_secs(10);
    let file = path.join("cgroup.freeze");
    fs::write(&file, if frozen { "1" } else { "0" }).map_err(|e| system("cannot freeze the container", e))?;
    let want = if frozen { "frozen 1" } else { "frozen 0" };
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let events = fs::read_to_string(path.join("cgroup.events"))
            .map_err(|e| system("cannot read cgroup.events", e))?;
        if events.lines().any(|l| l == want) {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            let _ = fs::write(&file, "0");
            return Err(Error::Shim("the container could not be frozen in time".into()));
        }
        // cgroup.events raises POLLPRI, but freezing takes microseconds: two looks are cheaper than a registration.
        tokio::time::sleep(EMPTY_RETRY).await;
    }
}

/// Whether the group is frozen, or about to be. One that is gone is not.
pub(crate) fn is_frozen(path: &Path) -> bool {
    fs::read(path.join("cgroup.freeze")).is_ok_and(|state| state.starts_with(b"1"))
}

type Set<'a> = &'a dyn Fn(&str, &str, String) -> Result<(), Error>;

fn bytes(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

fn set_memory(memory: &LinuxMemory, set: Set<'_>) -> Result<(), Error> {
    // Docker's `swap` is memory and swap together; the file is swap alone. Swap equal to the limit means none.
    let swap = match (memory.swap(), memory.limit()) {
        (Some(-1), _) => Some("max".to_owned()),
        (Some(swap), Some(limit)) if swap > 0 && limit > 0 => {
            if swap < limit {
                return Err(Error::Invalid(
                    "Minimum memoryswap limit should be larger than memory limit, see usage".into(),
                ));
            }
            Some((swap - limit).to_string())
        }
        _ => None,
    };
    if let Some(limit) = memory.limit().filter(|l| *l != 0) {
        set("memory", "memory.max", bytes(limit))?;
    }
    if let Some(swap) = swap {
        set("memory", "memory.swap.max", swap)?;
    }
    if let Some(low) = memory.reservation().filter(|l| *l != 0) {
        set("memory", "memory.low", bytes(low))?;
    }
    Ok(())
}

fn set_cpu(cpu: &LinuxCpu, set: Set<'_>) -> Result<(), Error> {
    if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
        // 2..262144 onto 1..10000, as runc and crun do.
        let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
        set("cpu", "cpu.weight", weight.to_string())?;
    }
    if let Some(idle) = cpu.idle() {
        set("cpu", "cpu.idle", idle.to_string())?;
    }
    if cpu.quota().is_some() || cpu.period().is_some() {
        let quota = cpu.quota().filter(|q| *q > 0).map_or("max".to_owned(), |q| q.to_string());
        let period = cpu.period().filter(|p| *p != 0).unwrap_or(100_000);
        set("cpu", "cpu.max", format!("{quota} {period}"))?;
    }
    if let Some(burst) = cpu.burst() {
        set("cpu", "cpu.max.burst", burst.to_string())?;
    }
    if let Some(cpus) = cpu.cpus().as_ref().filter(|c| !c.is_empty()) {
        set("cpuset", "cpuset.cpus", cpus.clone())?;
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|m| !m.is_empty()) {
        set("cpuset", "cpuset.mems", mems.clone())?;
    }
    Ok(())
}

/// 10..1000 onto 1..10000, as runc and crun do.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

fn set_io(path: &Path, io: &LinuxBlockIo, set: Set<'_>) -> Result<(), Error> {
    if let Some(weight) = io.weight().filter(|w| *w != 0) {
        if path.join("io.bfq.weight").exists() {
            set("io", "io.bfq.weight", weight.to_string())?;
        } else {
            set("io", "io.weight", io_weight(weight).to_string())?;
        }
    }
    for device in io.weight_device().iter().flatten() {
        let Some(weight) = device.weight().filter(|w| *w != 0) else { continue };
        let number = format!("{}:{}", device.major(), device.minor());
        if path.join("io.bfq.weight").exists() {
            set("io", "io.bfq.weight", format!("{number} {weight}"))?;
        } else {
            set("io", "io.weight", format!("{number} {}", io_weight(weight)))?;
        }
    }
    let throttles: [(&Option<Vec<LinuxThrottleDevice>>, &str); 4] = [
        (io.throttle_read_bps_device(), "rbps"),
        (io.throttle_write_bps_device(), "wbps"),
        (io.throttle_read_iops_device(), "riops"),
        (io.throttle_write_iops_device(), "wiops"),
    ];
    for (devices, key) in throttles {
        for device in devices.iter().flatten() {
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            set("io", "io.max", format!("{}:{} {key}={rate}", device.major(), device.minor()))?;
        }
    }
    Ok(())
}
