//! Docker's defaults: what a container gets when nobody says otherwise.
//!
//! Values as dockerd 28.5 uses them (checked against one).

use oci_spec::runtime::{
    Capability, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, Mount, MountBuilder,
};
use std::collections::HashSet;

/// The 14 capabilities of an unprivileged container.
pub const DEFAULT_CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Paths hidden from an unprivileged container.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that an unprivileged container may only read.
pub const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The option of a bind whose source is a file system in another mount namespace: `OF_NAMESPACE=/proc/PID/ns/mnt`. An
/// option of our own: the OCI's specification has no words for it.
pub const OF_NAMESPACE: &str = "coracle.namespace";

/// The same for a file or folder of any file system that the engine itself mounted in a namespace of its own: nobody
/// else is in there. An option of our own too.
pub const OF_ENGINE: &str = "coracle.engine";

/// The size of /dev/shm, bytes.
pub const DEFAULT_SHM_SIZE: u64 = 64 * 1024 * 1024;

/// Every capability this build knows, for privileged containers; the kernel's own limit is applied by the shim.
pub fn all_capabilities() -> HashSet<Capability> {
    crate::translate::CAPABILITIES.iter().map(|(capability, _)| *capability).collect()
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    MountBuilder::default()
        .destination(target)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
        .unwrap_or_default()
}

/// The mounts every container has, with `/dev/shm` of `shm_size` bytes.
pub fn default_mounts(shm_size: u64) -> Vec<Mount> {
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &format!("size={shm_size}")],
        ),
    ]
}

/// The device rules of an unprivileged container: nothing but these, read from first to last.
pub fn default_device_rules() -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{A, B, C};
    let rule = |allow, kind, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access);
        if let Some(major) = major {
            rule = rule.major(major);
        }
        if let Some(minor) = minor {
            rule = rule.minor(minor);
        }
        rule.build().unwrap_or_default()
    };
    vec![
        rule(false, A, None, None, "rwm"),
        // Nodes of any kind may be made, not opened.
        rule(true, C, None, None, "m"),
        rule(true, B, None, None, "m"),
        // null, zero, full, random, urandom, tty, console
        rule(true, C, Some(1), Some(3), "rwm"),
        rule(true, C, Some(1), Some(5), "rwm"),
        rule(true, C, Some(1), Some(7), "rwm"),
        rule(true, C, Some(1), Some(8), "rwm"),
        rule(true, C, Some(1), Some(9), "rwm"),
        rule(true, C, Some(5), Some(0), "rwm"),
        rule(true, C, Some(5), Some(1), "rwm"),
        // pts/*, ptmx
        rule(true, C, Some(136), None, "rwm"),
        rule(true, C, Some(5), Some(2), "rwm"),
    ]
}
