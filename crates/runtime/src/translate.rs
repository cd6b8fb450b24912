//! From the OCI spec to a [`Plan`]: every option is read, checked and refused here, before anything exists.

use crate::error::Error;
use crate::plan::{
    CapabilityPlan, DevicePlan, LogPlan, MountKind, MountPlan, Plan, ProcessPlan, RootPlan, StdinPlan,
};
use crate::{Bundle, LogConfig, RootFs};
use oci_spec::runtime::{
    Capability, Linux, LinuxCapabilities, LinuxDevice, LinuxDeviceType, LinuxIdMapping, LinuxNamespaceType,
    Mount, PosixRlimitType, Process,
};
use std::collections::HashSet;
use std::path::Path;

const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;

/// Capabilities and their numbers.
pub(crate) const CAPABILITIES: [(Capability, u32); 41] = [
    (Capability::Chown, 0),
    (Capability::DacOverride, 1),
    (Capability::DacReadSearch, 2),
    (Capability::Fowner, 3),
    (Capability::Fsetid, 4),
    (Capability::Kill, 5),
    (Capability::Setgid, 6),
    (Capability::Setuid, 7),
    (Capability::Setpcap, 8),
    (Capability::LinuxImmutable, 9),
    (Capability::NetBindService, 10),
    (Capability::NetBroadcast, 11),
    (Capability::NetAdmin, 12),
    (Capability::NetRaw, 13),
    (Capability::IpcLock, 14),
    (Capability::IpcOwner, 15),
    (Capability::SysModule, 16),
    (Capability::SysRawio, 17),
    (Capability::SysChroot, 18),
    (Capability::SysPtrace, 19),
    (Capability::SysPacct, 20),
    (Capability::SysAdmin, 21),
    (Capability::SysBoot, 22),
    (Capability::SysNice, 23),
    (Capability::SysResource, 24),
    (Capability::SysTime, 25),
    (Capability::SysTtyConfig, 26),
    (Capability::Mknod, 27),
    (Capability::Lease, 28),
    (Capability::AuditWrite, 29),
    (Capability::AuditControl, 30),
    (Capability::Setfcap, 31),
    (Capability::MacOverride, 32),
    (Capability::MacAdmin, 33),
    (Capability::Syslog, 34),
    (Capability::WakeAlarm, 35),
    (Capability::BlockSuspend, 36),
    (Capability::AuditRead, 37),
    (Capability::Perfmon, 38),
    (Capability::Bpf, 39),
    (Capability::CheckpointRestore, 40),
];

/// Devices every container has: name, major, minor.
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

fn invalid(message: impl Into<String>) -> Error {
    Error::Invalid(message.into())
}

pub(crate) fn text(path: &Path) -> Result<String, Error> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| invalid(format!("the path {} is not UTF-8", path.display())))
}

/// The whole container.
pub(crate) fn plan(
    bundle: &Bundle,
    cgroup: &Path,
    mountpoint: &Path,
    seccomp: Option<&Path>,
) -> Result<Plan, Error> {
    let spec = &bundle.spec;
    let linux = spec.linux().as_ref().ok_or_else(|| invalid("the spec has no linux part"))?;
    let process = spec.process().as_ref().ok_or_else(|| invalid("the spec has no process"))?;
    refuse_unsupported(spec, linux)?;
    if linux.seccomp().is_some() && bundle.seccomp.is_none() {
        return Err(invalid(
            "the spec has a seccomp profile but the bundle no compiled program: compile it first",
        ));
    }
    let namespaces = linux.namespaces().clone().unwrap_or_default();
    let (mut new_namespaces, mut join_namespaces) = (0, Vec::new());
    for namespace in &namespaces {
        let kind = namespace.typ();
        if kind == LinuxNamespaceType::Time {
            return Err(invalid("time namespaces are not supported"));
        }
        match namespace.path() {
            None => new_namespaces |= kind as u64,
            Some(path) => join_namespaces.push((kind as u64, text(path)?)),
        }
    }
    if new_namespaces & libc::CLONE_NEWNS as u64 == 0 {
        return Err(invalid("a container must have a mount namespace of its own"));
    }
    let own = namespaces.iter().fold(0, |all, namespace| all | namespace.typ() as u64);
    let settings = linux.sysctl().iter().flatten();
    let sysctl = settings.map(|(k, v)| Ok((sysctl(k, own)?, v.clone()))).collect::<Result<_, Error>>()?;
    let maps = |list: &Option<Vec<LinuxIdMapping>>| {
        list.iter().flatten().map(|m| (m.container_id(), m.host_id(), m.size())).collect::<Vec<_>>()
    };
    let stdio = &bundle.stdio;
    let stdin = match (stdio.open_stdin, stdio.stdin_once) {
        (false, _) => StdinPlan::Null,
        (true, false) => StdinPlan::Open,
        (true, true) => StdinPlan::Once,
    };
    let mut devices: Vec<DevicePlan> = DEFAULT_DEVICES
        .iter()
        .map(|(path, major, minor)| DevicePlan {
            path: (*path).into(),
            kind: libc::S_IFCHR,
            major: *major,
            minor: *minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
            staged: None,
        })
        .collect();
    for device in linux.devices().iter().flatten() {
        let device = self::device(device)?;
        devices.retain(|d| d.path != device.path);
        devices.push(device);
    }
    let root_readonly = spec.root().as_ref().and_then(|r| r.readonly()).unwrap_or(false);
    Ok(Plan {
        id: bundle.id.clone(),
        cgroup: text(cgroup)?,
        root: match &bundle.rootfs {
            RootFs::Overlay { lower, upper, work } => RootPlan::Overlay {
                lower: lower.iter().map(|p| text(p)).collect::<Result<_, _>>()?,
                upper: text(upper)?,
                work: text(work)?,
            },
            RootFs::Dir(path) => RootPlan::Dir(text(path)?),
        },
        mountpoint: text(mountpoint)?,
        stage: None,
        root_readonly,
        propagation: root_propagation(linux.rootfs_propagation().as_deref())?,
        mounts: spec.mounts().iter().flatten().map(mount).collect::<Result<_, _>>()?,
        devices,
        new_namespaces,
        join_namespaces,
        uid_map: maps(linux.uid_mappings()),
        gid_map: maps(linux.gid_mappings()),
        hostname: spec.hostname().clone().filter(|h| !h.is_empty()),
        domainname: spec.domainname().clone().filter(|d| !d.is_empty()),
        sysctl,
        masked: linux.masked_paths().clone().unwrap_or_default(),
        readonly: linux.readonly_paths().clone().unwrap_or_default(),
        process: self::process(process, stdio.tty, stdio.console_size, seccomp)?,
        stdin,
        log: match &bundle.log {
            LogConfig::None => None,
            LogConfig::JsonFile { path, max_size, max_file, compress } => Some(LogPlan {
                path: text(path)?,
                max_size: *max_size,
                max_file: (*max_file).max(1),
                compress: *compress,
            }),
        },
        exit_file: text(&bundle.exit_file)?,
        oci: None,
    })
}

fn refuse_unsupported(spec: &oci_spec::runtime::Spec, linux: &Linux) -> Result<(), Error> {
    let hooks = spec.hooks().as_ref().is_some_and(|h| h != &oci_spec::runtime::Hooks::default());
    let process = spec.process().as_ref();
    let refused = [
        (hooks, "OCI hooks"),
        (linux.intel_rdt().is_some(), "Intel RDT"),
        (linux.memory_policy().is_some(), "memory policies"),
        (linux.net_devices().as_ref().is_some_and(|d| !d.is_empty()), "network devices moved by the runtime"),
        (linux.time_offsets().as_ref().is_some_and(|t| !t.is_empty()), "time offsets"),
        (process.is_some_and(|p| p.scheduler().is_some()), "schedulers"),
        (process.is_some_and(|p| p.io_priority().is_some()), "I/O priorities"),
        (
            spec.mounts().iter().flatten().any(|m| m.uid_mappings().is_some() || m.gid_mappings().is_some()),
            "idmapped mounts",
        ),
        (linux.personality().is_some(), "personalities"),
        (
            process.is_some_and(|p| {
                p.apparmor_profile().as_deref().is_some_and(|s| !s.is_empty() && s != "unconfined")
            }),
            "AppArmor profiles",
        ),
        (
            process.is_some_and(|p| p.selinux_label().as_deref().is_some_and(|s| !s.is_empty())),
            "SELinux labels",
        ),
    ];
    match refused.into_iter().find(|(is, _)| *is) {
        Some((_, what)) => Err(Error::Unavailable(format!("{what} are not supported by this runtime"))),
        None => Ok(()),
    }
}

/// Settings of the kernel that each IPC namespace has of its own, beside those of `fs.mqueue.`.
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The name of a setting with dots, as sysctl(8) reads it: what separates first separates all. Refuses one that is not
/// of the container's namespaces (`own`), in runc's words: it would be the host's.
fn sysctl(key: &str, own: u64) -> Result<String, Error> {
    let has = |kind: i32| own & kind as u64 != 0;
    let exchanged = |text: &str| text.replace('.', "\0").replace('/', ".").replace('\0', "/");
    let slashes = key.find(['.', '/']).is_some_and(|at| key.as_bytes()[at] == b'/');
    let name = if slashes { exchanged(key) } else { key.to_owned() };
    let quoted = format!("sysctl {name:?}");
    let is_a_path = exchanged(&name).split('/').all(|part| !matches!(part, "" | "." | ".."));
    let allowed = if !is_a_path {
        Err(format!("{quoted} is no name of a setting"))
    } else if IPC_SYSCTLS.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
        has(libc::CLONE_NEWIPC)
            .then_some(())
            .ok_or_else(|| format!("{quoted} is not allowed in the hosts ipc namespace"))
    } else if name.starts_with("net.") {
        has(libc::CLONE_NEWNET)
            .then_some(())
            .ok_or_else(|| format!("{quoted} not allowed in host network namespace"))
    } else if name == "kernel.domainname" && has(libc::CLONE_NEWUTS) {
        Ok(())
    } else if name == "kernel.hostname" && has(libc::CLONE_NEWUTS) {
        Err(format!("{quoted} is not allowed as it conflicts with the OCI \"hostname\" field"))
    } else {
        Err(format!("{quoted} is not in a separate kernel namespace"))
    };
    allowed.map(|()| name).map_err(invalid)
}

fn root_propagation(name: Option<&str>) -> Result<u64, Error> {
    Ok(match name.unwrap_or("") {
        "" | "rprivate" | "private" => libc::MS_PRIVATE | libc::MS_REC,
        "rslave" | "slave" => libc::MS_SLAVE | libc::MS_REC,
        "rshared" | "shared" => libc::MS_SHARED | libc::MS_REC,
        other => return Err(invalid(format!("rootfsPropagation={other} is not supported"))),
    })
}

/// One mount of the spec.
pub(crate) fn mount(mount: &Mount) -> Result<MountPlan, Error> {
    let target = text(mount.destination())?;
    if !target.starts_with('/') {
        return Err(invalid(format!("invalid mount path: {target:?} mount path must be absolute")));
    }
    let (mut set, mut clear, mut set_recursive, mut propagation) = (0u64, 0u64, 0u64, 0u64);
    let mut beneath = None;
    let (mut bind, mut recursive) = (mount.typ().as_deref() == Some("bind"), false);
    let (mut copy_up, mut mapped) = (false, false);
    let mut options = Vec::new();
    for option in mount.options().iter().flatten() {
        let on = |bit: u64, set: &mut u64| *set |= bit;
        match option.as_str() {
            "bind" => bind = true,
            "rbind" => (bind, recursive) = (true, true),
            "ro" => on(RDONLY, &mut set),
            "rw" => set &= !RDONLY,
            "nosuid" => on(NOSUID, &mut set),
            "suid" => set &= !NOSUID,
            "nodev" => on(NODEV, &mut set),
            "dev" => set &= !NODEV,
            "noexec" => on(NOEXEC, &mut set),
            "exec" => set &= !NOEXEC,
            "nosymfollow" => on(NOSYMFOLLOW, &mut set),
            "symfollow" => set &= !NOSYMFOLLOW,
            "nodiratime" => on(NODIRATIME, &mut set),
            "diratime" => set &= !NODIRATIME,
            "relatime" => (set, clear) = (set & !ATIME, clear | ATIME),
            "noatime" => (set, clear) = (set & !ATIME | NOATIME, clear | ATIME),
            "strictatime" => (set, clear) = (set & !ATIME | STRICTATIME, clear | ATIME),
            "rro" => set_recursive |= RDONLY,
            "rnosuid" => set_recursive |= NOSUID,
            "rnodev" => set_recursive |= NODEV,
            "rnoexec" => set_recursive |= NOEXEC,
            "rnosymfollow" => set_recursive |= NOSYMFOLLOW,
            "private" => propagation = libc::MS_PRIVATE,
            "rprivate" => propagation = libc::MS_PRIVATE | libc::MS_REC,
            "slave" => propagation = libc::MS_SLAVE,
            "rslave" => propagation = libc::MS_SLAVE | libc::MS_REC,
            "shared" => propagation = libc::MS_SHARED,
            "rshared" => propagation = libc::MS_SHARED | libc::MS_REC,
            "unbindable" => propagation = libc::MS_UNBINDABLE,
            "runbindable" => propagation = libc::MS_UNBINDABLE | libc::MS_REC,
            "tmpcopyup" => copy_up = true,
            "idmap" => mapped = true,
            "defaults" | "async" | "atime" | "norelatime" | "nostrictatime" | "loud" | "silent" => {}
            "remount" => {
                return Err(invalid(format!("the mount option remount is not supported (at {target})")));
            }
            other => match other.split_once('=') {
                Some(("subpath", part)) => beneath = Some(part.to_owned()),
                Some((key, value)) => options.push((key.to_owned(), Some(value.to_owned()))),
                None => options.push((other.to_owned(), None)),
            },
        }
    }
    let source = mount.source().as_deref().map(text).transpose()?;
    let mut take = |name: &str| {
        let at = options.iter().position(|(key, _)| key == name)?;
        options.remove(at).1
    };
    let (other, own) = (take(crate::spec::OF_NAMESPACE), take(crate::spec::OF_ENGINE));
    let engine = own.is_some();
    let kind = if let (Some(namespace), true) = (other.or(own), bind) {
        let path = source.ok_or_else(|| invalid(format!("the bind mount at {target} has no source")))?;
        MountKind::BindOf { namespace, path, engine }
    } else if bind {
        let source = source.ok_or_else(|| invalid(format!("the bind mount at {target} has no source")))?;
        if let Some((option, _)) = options.iter().find(|(o, _)| !BIND_IGNORES.contains(&o.as_str())) {
            return Err(invalid(format!("the bind mount at {target} has an unknown option {option}")));
        }
        MountKind::Bind { source, beneath, recursive }
    } else {
        let kind = match mount.typ().as_deref() {
            Some("cgroup") => "cgroup2",
            Some(kind) if !kind.is_empty() => kind,
            _ => return Err(invalid(format!("the mount at {target} has no type"))),
        };
        MountKind::Filesystem {
            source: source.unwrap_or_else(|| kind.to_owned()),
            kind: kind.to_owned(),
            options: if kind == "cgroup2" { Vec::new() } else { options },
        }
    };
    Ok(MountPlan { target, kind, set, clear, set_recursive, propagation, copy_up, mapped })
}

/// Options that say nothing for a bind: labels where no SELinux is, copying that the engine has done.
pub(crate) const BIND_IGNORES: [&str; 7] =
    ["z", "Z", "nocopy", "volume-nocopy", "cached", "delegated", "consistent"];

fn device(device: &LinuxDevice) -> Result<DevicePlan, Error> {
    let number = |n: i64| u32::try_from(n).map_err(|_| invalid(format!("{n} is no device number")));
    Ok(DevicePlan {
        path: text(device.path())?,
        kind: match device.typ() {
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::P => libc::S_IFIFO,
            _ => libc::S_IFCHR,
        },
        major: number(device.major())?,
        minor: number(device.minor())?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        staged: None,
    })
}

/// A process, the first or an exec.
pub(crate) fn process(
    process: &Process,
    tty: bool,
    console_size: Option<(u16, u16)>,
    seccomp: Option<&Path>,
) -> Result<ProcessPlan, Error> {
    let user = process.user();
    let cwd = text(process.cwd())?;
    if !cwd.starts_with('/') {
        return Err(invalid(format!(
            "the working directory '{cwd}' is invalid, it needs to be an absolute path"
        )));
    }
    Ok(ProcessPlan {
        args: process.args().clone().unwrap_or_default(),
        env: process.env().clone().unwrap_or_default(),
        cwd,
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        capabilities: process.capabilities().as_ref().map(capabilities).unwrap_or_default(),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: process
            .rlimits()
            .iter()
            .flatten()
            .map(|limit| (rlimit(limit.typ()), limit.soft(), limit.hard()))
            .collect(),
        oom_score_adj: Some(process.oom_score_adj().unwrap_or(0)),
        seccomp: seccomp.map(text).transpose()?,
        tty,
        console_size,
        stdout: true,
        stderr: true,
    })
}

fn capabilities(sets: &LinuxCapabilities) -> CapabilityPlan {
    let bits = |set: &Option<HashSet<Capability>>| {
        set.iter().flatten().fold(0u64, |bits, wanted| {
            bits | CAPABILITIES.iter().find(|(c, _)| c == wanted).map_or(0, |(_, number)| 1 << number)
        })
    };
    CapabilityPlan {
        bounding: bits(sets.bounding()),
        effective: bits(sets.effective()),
        permitted: bits(sets.permitted()),
        inheritable: bits(sets.inheritable()),
        ambient: bits(sets.ambient()),
    }
}

fn rlimit(kind: PosixRlimitType) -> u32 {
    use PosixRlimitType as R;
    match kind {
        R::RlimitCpu => libc::RLIMIT_CPU,
        R::RlimitFsize => libc::RLIMIT_FSIZE,
        R::RlimitData => libc::RLIMIT_DATA,
        R::RlimitStack => libc::RLIMIT_STACK,
        R::RlimitCore => libc::RLIMIT_CORE,
        R::RlimitRss => libc::RLIMIT_RSS,
        R::RlimitNproc => libc::RLIMIT_NPROC,
        R::RlimitNofile => libc::RLIMIT_NOFILE,
        R::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        R::RlimitAs => libc::RLIMIT_AS,
        R::RlimitLocks => libc::RLIMIT_LOCKS,
        R::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        R::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        R::RlimitNice => libc::RLIMIT_NICE,
        R::RlimitRtprio => libc::RLIMIT_RTPRIO,
        R::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_kernel_are_the_containers_own_or_refused() {
        let all = (libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) as u64;
        for (key, name) in [
            ("net.ipv4.ip_forward", "net.ipv4.ip_forward"),
            ("net/ipv4/ip_forward", "net.ipv4.ip_forward"),
            ("net.ipv4.conf.eth0/100.forwarding", "net.ipv4.conf.eth0/100.forwarding"),
            ("kernel.shm_rmid_forced", "kernel.shm_rmid_forced"),
            ("fs.mqueue.msg_max", "fs.mqueue.msg_max"),
            ("kernel.domainname", "kernel.domainname"),
        ] {
            assert_eq!(sysctl(key, all).unwrap(), name);
            assert!(sysctl(key, 0).is_err(), "{key} would be the host's");
        }
        for key in [
            "vm.swappiness",
            "kernel.panic",
            "kernel.hostname",
            "kernel/core_pattern",
            "net.//.vm.swappiness",
            "net..ipv4",
            "fs.mqueue.//.//.vm.swappiness",
            "net",
            "",
        ] {
            assert!(sysctl(key, all).is_err(), "{key}");
        }
    }
}
