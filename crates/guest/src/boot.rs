//! From the kernel's hands to a system in which the engine can run.

use std::{convert::Infallible, fs, net::Ipv4Addr, path::Path, time::Duration};

use nix::mount::MsFlags;

use crate::{
    GuestError, IN_ROOT, binfmt,
    cmdline::{Arguments, Link, Share},
    dhcp::Lease,
    disk,
    loopback::Loopback,
    modules,
    names::Names,
    network, say, sys,
};

/// Time in which the root's device must appear after its driver was loaded.
const ROOT_DEVICE_LIMIT: Duration = Duration::from_secs(10);
/// Where the root is mounted before it becomes `/`.
const NEW_ROOT: &str = "/root";
/// Driver of the device that vsock goes by.
const VSOCK: &str = "vmw_vsock_virtio_transport";
/// Open files a process may have.
const OPEN_FILES: u64 = 1 << 20;

/// Settings of the network namespace: `/proc/sys` path and value. One that the kernel lacks is said and skipped.
const SETTINGS: [(&str, &str); 5] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    ("net/core/somaxconn", "4096"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
];
/// Limits of the whole kernel, the same way.
const LIMITS: [(&str, u64); 5] = [
    ("vm/max_map_count", 262_144), // Elasticsearch's demand, as every desktop engine sets it
    ("fs/inotify/max_user_instances", 8_192),
    ("fs/inotify/max_user_watches", 1_048_576),
    ("kernel/keys/maxkeys", 20_000),
    ("kernel/keys/maxbytes", 2_000_000),
];

/// Mounts of the root: type, place, options.
const MOUNTS: [(&str, &str, MsFlags, &str); 8] = [
    ("tmpfs", "/run", NOSUID_NODEV, "mode=755"),
    ("tmpfs", "/tmp", NOSUID_NODEV, "mode=1777"),
    ("devpts", "/dev/pts", MsFlags::MS_NOSUID, "mode=620,ptmxmode=666,gid=5"),
    ("tmpfs", "/dev/shm", NOSUID_NODEV, "mode=1777"),
    ("mqueue", "/dev/mqueue", NOSUID_NODEV, ""),
    ("cgroup2", "/sys/fs/cgroup", NOSUID_NODEV, "nsdelegate,memory_recursiveprot"),
    ("bpf", "/sys/fs/bpf", NOSUID_NODEV, "mode=700"),
    ("securityfs", "/sys/kernel/security", NOSUID_NODEV, ""),
];
const NOSUID_NODEV: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// In the initrd: to the root, and on in there. Returns only when that fails.
pub fn initrd() -> Result<Infallible, GuestError> {
    for (kind, place) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        sys::mount(kind, place, kind, MsFlags::MS_NOSUID, "")?;
    }
    let arguments = Arguments::parse(&read("/proc/cmdline")?)?;
    for path in read("/modules")?.lines() {
        sys::load_module(Path::new(path))?;
        let _ = fs::remove_file(path); // the initrd's files are memory
    }
    let root = arguments
        .root
        .ok_or_else(|| GuestError::Invalid("no coracle.root= among the boot arguments".into()))?;
    sys::wait_for_path(Path::new(&root), ROOT_DEVICE_LIMIT)?;
    sys::mount(&root, NEW_ROOT, "erofs", MsFlags::MS_RDONLY, "")?;
    for place in ["/dev", "/proc", "/sys"] {
        sys::move_mount(place, &format!("{NEW_ROOT}{place}"))?;
    }
    let _ = fs::remove_file("/init");
    sys::switch_root(NEW_ROOT)?;
    sys::exec("/usr/bin/coracle-guest", &[IN_ROOT])
}

/// Raises the kernel's limits where they are lower; what can't be set is said.
pub fn raise_settings_of_all() {
    for (path, value) in LIMITS {
        let path = format!("/proc/sys/{path}");
        let now = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        if now < value {
            problem(fs::write(&path, value.to_string()).map_err(GuestError::io("setting", path)));
        }
    }
}

/// In the root, before anything runs: what nothing works without. Failures are said; the boot goes on. `words`: the
/// boot arguments of a hosted guest, whose `/run` has been made already.
pub fn root(words: Option<&str>) -> Arguments {
    // Containers' mounts propagate as Docker documents only below a shared root.
    problem(sys::make_shared("/"));
    for (kind, place, flags, options) in MOUNTS {
        if place == "/run" && words.is_some() {
            continue;
        }
        if Path::new(place).exists() || fs::create_dir_all(place).is_ok() {
            problem(sys::mount(kind, place, kind, flags, options));
        }
    }
    for (path, value) in SETTINGS {
        problem(fs::write(format!("/proc/sys/{path}"), value).map_err(GuestError::io("setting", path)));
    }
    if words.is_none() {
        raise_settings_of_all();
    }
    problem(enable_controllers());
    problem(sys::set_hostname("coracle"));
    problem(sys::raise_open_files(OPEN_FILES));
    let _ = fs::create_dir_all("/run/coracle");
    let line = words.map_or_else(|| read("/proc/cmdline"), |words| Ok(words.to_owned()));
    match line.and_then(|line| Arguments::parse(&line)) {
        Ok(arguments) => arguments,
        Err(error) => {
            say(error);
            Arguments::default()
        }
    }
}

/// What the engine needs: modules, network, data disk. Both halves run side by side. A lease is passed on
/// to be kept. Gives where containers find the host.
pub fn services(
    arguments: &Arguments,
    names: &Names,
    loopback: &Loopback,
    leased: impl FnOnce(Lease) + Send,
) -> Result<Option<Ipv4Addr>, GuestError> {
    let is_hosted = arguments.is_hosted();
    std::thread::scope(|scope| {
        let network = scope.spawn(|| {
            if !is_hosted {
                modules::load_stage("start"); // another kernel's are none of ours
                // That kernel's programs as well: they are every distribution's.
                binfmt::register(arguments.rosetta.as_deref());
            }
            if arguments.net.is_some() {
                problem(names.open());
            }
            let by_link = arguments.loopback_by_link.then(|| loopback.open().map_err(say).ok()).flatten();
            let gateway = match network::up(arguments.net.as_ref(), names) {
                Ok((gateway, lease)) => {
                    if let Some(lease) = lease {
                        leased(lease);
                    }
                    gateway
                }
                Err(error) => {
                    say(error); // without a network the engine still runs what it has
                    None
                }
            };
            let host = by_link.or(arguments.host).or(gateway);
            names.host_is_at(host);
            host
        });
        let shares = scope.spawn(|| {
            if !is_hosted {
                mount_shares(&arguments.shares);
            }
        });
        let data = match &arguments.data {
            _ if is_hosted => disk::folder(),
            Some(device) => disk::mount(device),
            None => Err(GuestError::Invalid("no coracle.data= among the boot arguments".into())),
        };
        let host = network.join().unwrap_or_else(|_| {
            say("setting up the network panicked");
            None
        });
        if shares.join().is_err() {
            say("mounting the shares panicked");
        }
        data.map(|()| host)
    })
}

/// The driver of the link's device, where the link has another than every guest.
pub fn link_driver(link: &Link) {
    if let Link::Vsock(_) = link
        && let Err(error) = modules::load(VSOCK)
    {
        say(error);
    }
}

/// The host's folders. One that cannot be mounted is said; whoever asks for it finds an empty folder.
fn mount_shares(shares: &[Share]) {
    for share in shares {
        let place = share.place();
        let mounted = fs::create_dir_all(&place)
            .map_err(GuestError::io("making", &place))
            .and_then(|()| sys::mount(&share.tag, &place, "virtiofs", MsFlags::MS_NODEV, ""));
        if let Err(error) = mounted {
            say(error);
        }
    }
}

/// Every controller of the kernel for the groups below the root: whoever makes groups finds them usable. The root of a
/// hosted guest is a group like others: what has groups below it with controllers may have no processes itself.
fn enable_controllers() -> Result<(), GuestError> {
    const OWN: &str = "/sys/fs/cgroup/guest";
    if Path::new("/sys/fs/cgroup/cgroup.type").exists() {
        let own = fs::create_dir_all(OWN).and_then(|()| fs::write(format!("{OWN}/cgroup.procs"), "0"));
        own.map_err(GuestError::io("entering", OWN))?;
    }
    let controllers = read("/sys/fs/cgroup/cgroup.controllers")?;
    let all: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
    let path = "/sys/fs/cgroup/cgroup.subtree_control";
    fs::write(path, all.join(" ")).map_err(GuestError::io("writing", path))
}

fn problem(result: Result<(), GuestError>) {
    if let Err(error) = result {
        say(error);
    }
}

fn read(path: &str) -> Result<String, GuestError> {
    fs::read_to_string(path).map_err(GuestError::io("reading", path))
}
