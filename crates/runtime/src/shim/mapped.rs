//! Containers in a user namespace: what the shim makes before, and for, their first process.
//!
//! Files lie on disk with the ids that the container sees, whatever user namespace it is in: a mount shifts them. Only
//! who has rights over the host may make such mounts, device nodes, and binds of folders that the container's root may
//! not pass through. So the shim makes them all in a mount namespace that the first process gets a copy of; the kernel
//! locks in that copy what was made before, options included. The shim itself returns to the host's mounts.
//!
//! ```text
//!   <container's folder>/staged/    a tmpfs
//!     layer<n>/  own/    the image's layers, and the folder of upper and work, shifted; only until the overlay stands
//!     root/              the overlay
//!     at/                where the first process puts it
//!     bind<n>            binds, with their options; shifted where they are the container's own
//!     dev<n>             device nodes
//! ```

use super::processes::{map_users, sync_pair};
use super::rootfs::{self, Doing as _, Step};
use crate::plan::{MountKind, MountPlan, Plan, RootPlan};
use crate::protocol::Failure;
use crate::sys::{self, Cloned};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use std::io;
use std::path::Path;

/// The folder's name.
const STAGE: &str = "staged";
/// Files of a group that belong to whom it is given to, where the kernel does not say which (its documentation of
/// cgroup v2, "Delegation").
const DELEGATED: &str = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n";

/// Which id outside `id` stands for.
fn outside(map: &[(u32, u32, u32)], id: u32) -> Option<u32> {
    map.iter().find_map(|(inside, outside, count)| {
        let at = id.checked_sub(*inside).filter(|at| at < count)?;
        outside.checked_add(at)
    })
}

/// The ids outside of the container's root; `None`: the same as inside.
pub(super) fn root(plan: &Plan) -> Option<(u32, u32)> {
    Some((outside(&plan.uid_map, 0)?, outside(&plan.gid_map, 0)?))
}

/// Stages what `plan` needs, and changes it to what is staged. Returns the mount namespace that the shim has left.
pub(super) fn stage(plan: &mut Plan) -> Step<OwnedFd> {
    let home = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "cannot open the mount namespace".into())?;
    sys::unshare(libc::CLONE_NEWNS).doing(|| "cannot make a mount namespace".into())?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .doing(|| "cannot leave the host's mounts".into())?;
    let folder = Path::new(&plan.mountpoint).with_file_name(STAGE).to_string_lossy().into_owned();
    let failed = || format!("cannot make {folder}");
    std::fs::create_dir_all(&folder).doing(failed)?;
    let mode = [("mode".to_owned(), Some("755".to_owned()))];
    let tmpfs = rootfs::filesystem("tmpfs", "tmpfs", &mode, 0).doing(failed)?;
    let target =
        rustix::fs::open(folder.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(failed)?;
    rootfs::attach(&tmpfs, &target).doing(failed)?;
    std::fs::create_dir(format!("{folder}/at")).doing(failed)?;

    let users = namespace(plan)?;
    stage_root(plan, &folder, &users)?;
    for number in 0..plan.mounts.len() {
        stage_mount(plan, number, &folder, &users)?;
    }
    plan.mounts.retain(|mount| !matches!(&mount.kind, MountKind::Bind { source, .. } if source.is_empty()));
    stage_devices(plan, &folder)?;
    delegate(plan)?;
    plan.root = RootPlan::Dir("root".into());
    plan.mountpoint = "at".into();
    plan.stage = Some(folder);
    Ok(home)
}

/// A user namespace that maps as the container's does, for mounts: nobody is in it.
fn namespace(plan: &Plan) -> Step<OwnedFd> {
    let failed = || "cannot make a user namespace".to_owned();
    let (ours, theirs) = sync_pair()?;
    match sys::clone3(libc::CLONE_NEWUSER as u64, None).doing(failed)? {
        Cloned::Child => {
            drop(ours);
            // Until the other end is gone.
            let _ = rustix::io::read(&theirs, &mut [0u8; 1]);
            sys::exit_now(0)
        }
        Cloned::Parent(pid, _) => {
            drop(theirs);
            let made = map_users(pid, &plan.uid_map, &plan.gid_map).and_then(|()| {
                let path = format!("/proc/{pid}/ns/user");
                rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(failed)
            });
            drop(ours);
            collect(pid);
            made
        }
    }
}

/// Waits for a child of ours that is about to end.
fn collect(pid: i32) {
    while let Err(rustix::io::Errno::INTR) = waitpid(Pid::from_raw(pid), WaitOptions::empty()) {}
}

/// Shows a folder at a new place, its owners shifted.
fn shifted(folder: &str, place: &str, users: &OwnedFd) -> Step<()> {
    let failed = || format!("cannot map the owners of {folder}");
    let tree = rootfs::clone_tree(CWD, folder, false).doing(failed)?;
    sys::mount_setattr(&tree, false, 0, 0, libc::MS_PRIVATE).doing(failed)?;
    sys::mount_shift(&tree, users).doing(failed)?;
    rootfs::put(&tree, place).doing(failed)
}

fn stage_root(plan: &Plan, folder: &str, users: &OwnedFd) -> Step<()> {
    let place = format!("{folder}/root");
    let (lower, upper, work) = match &plan.root {
        RootPlan::Dir(path) => return shifted(path, &place, users),
        RootPlan::Overlay { lower, upper, work } => (lower, Path::new(upper), Path::new(work)),
    };
    let mut places = Vec::with_capacity(lower.len());
    for (number, layer) in lower.iter().enumerate() {
        places.push(format!("{folder}/layer{number}"));
        shifted(layer, &places[number], users)?;
    }
    // Overlayfs wants these two on one mount.
    let own = format!("{folder}/own");
    let (Some(above), Some(upper), Some(work), true) =
        (upper.parent(), upper.file_name(), work.file_name(), upper.parent() == work.parent())
    else {
        return Err(Failure::internal("the container's own layer and its work folder lie apart"));
    };
    shifted(&above.to_string_lossy(), &own, users)?;
    let failed = || "cannot mount the container's overlay".to_owned();
    std::fs::create_dir(&place).doing(failed)?;
    // Whoever mounts an overlay is who it works as: somebody whose files these mounts can have.
    let (uid, gid) = root(plan).ok_or_else(|| Failure::internal("the user namespace has no root"))?;
    sys::set_file_owner(uid, gid).doing(failed)?;
    let inside = |name: &std::ffi::OsStr| format!("{own}/{}", name.to_string_lossy());
    let made = rootfs::overlay(&places, &inside(upper), &inside(work), &place);
    sys::set_file_owner(0, 0).doing(failed)?;
    let target =
        rustix::fs::open(place.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(failed)?;
    rootfs::attach(&made?, &target).doing(failed)?;
    // The overlay has taken hold of them.
    for place in places.iter().chain([&own]) {
        unmount(place.as_str(), UnmountFlags::DETACH).doing(failed)?;
    }
    Ok(())
}

/// A mount that the first process binds from here instead of making it. One with an empty source is left out.
fn stage_mount(plan: &mut Plan, number: usize, folder: &str, users: &OwnedFd) -> Step<()> {
    if let Some(instead) = not_its_own(plan, &plan.mounts[number])? {
        plan.mounts[number].kind = instead;
    }
    let mount = &mut plan.mounts[number];
    if matches!(&mount.kind, MountKind::Bind { source, .. } if source.is_empty()) {
        return Ok(());
    }
    let Some(tree) = rootfs::bound(mount)? else { return Ok(()) };
    if mount.mapped {
        sys::mount_shift(&tree, users).doing(|| {
            format!("cannot map the owners of the files at {}: its file system must be able to", mount.target)
        })?;
    }
    rootfs::set_options(&tree, mount)?;
    let name = format!("bind{number}");
    rootfs::put(&tree, &format!("{folder}/{name}"))
        .doing(|| format!("cannot make the mount for {}", mount.target))?;
    mount.kind = MountKind::Bind { source: name, beneath: None, recursive: true };
    (mount.set, mount.clear, mount.set_recursive) = (0, 0, 0);
    Ok(())
}

/// File systems that show a namespace can be mounted only by who owns that namespace: for one of the host's, its mount
/// is bound, as runc does.
fn not_its_own(plan: &Plan, mount: &MountPlan) -> Step<Option<MountKind>> {
    let MountKind::Filesystem { kind, .. } = &mount.kind else { return Ok(None) };
    let own = |namespace: i32| {
        let namespace = namespace as u64;
        plan.new_namespaces & namespace != 0
            || plan.join_namespaces.iter().any(|(kind, _)| *kind == namespace)
    };
    let bind = |source: String| Some(MountKind::Bind { source, beneath: None, recursive: true });
    Ok(match kind.as_str() {
        "cgroup2" if !own(libc::CLONE_NEWCGROUP) => {
            // The hierarchy is the topmost folder of that file system above the group.
            let is_hierarchy =
                |path: &&Path| rustix::fs::statfs(*path).is_ok_and(|s| s.f_type == libc::CGROUP2_SUPER_MAGIC);
            let top = Path::new(&plan.cgroup).ancestors().take_while(is_hierarchy).last();
            bind(top.unwrap_or(Path::new("")).to_string_lossy().into_owned())
        }
        "sysfs" if !own(libc::CLONE_NEWNET) => bind("/sys".into()),
        "mqueue" if !own(libc::CLONE_NEWIPC) => {
            bind(if Path::new("/dev/mqueue").exists() { "/dev/mqueue".into() } else { String::new() })
        }
        _ => None,
    })
}

fn stage_devices(plan: &mut Plan, folder: &str) -> Step<()> {
    for (number, device) in plan.devices.iter_mut().enumerate() {
        let failed = || format!("cannot create the device {}", device.path);
        let place = format!("{folder}/dev{number}");
        let id = |map: &[(u32, u32, u32)], id| outside(map, id).unwrap_or(libc::uid_t::MAX - 1);
        let (uid, gid) = (id(&plan.uid_map, device.uid), id(&plan.gid_map, device.gid));
        let mode = Mode::from_raw_mode(device.mode);
        let node = rustix::fs::makedev(device.major, device.minor);
        rustix::fs::mknodat(CWD, place.as_str(), FileType::from_raw_mode(device.kind), mode, node)
            .doing(failed)?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(CWD, place.as_str(), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .doing(failed)?;
        rustix::fs::chmodat(CWD, place.as_str(), mode, AtFlags::empty()).doing(failed)?;
        device.staged = Some(format!("dev{number}"));
    }
    Ok(())
}

/// A container that may write below /sys/fs/cgroup gets its own group, with its limits out of reach.
fn delegate(plan: &Plan) -> Step<()> {
    let read_only = u64::from(rustix::mount::MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
    let writable = plan.mounts.iter().any(|m| {
        matches!(&m.kind, MountKind::Filesystem { kind, .. } if kind == "cgroup2") && m.set & read_only == 0
    });
    let (Some((uid, gid)), true) = (root(plan), writable) else { return Ok(()) };
    let files = std::fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_else(|_| DELEGATED.into());
    for name in std::iter::once("").chain(files.lines()) {
        match std::os::unix::fs::chown(Path::new(&plan.cgroup).join(name), Some(uid), Some(gid)) {
            // Not every controller is there.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => done.doing(|| format!("cannot hand over the group's {name}"))?,
        }
    }
    Ok(())
}

/// A child of ours whose new namespaces belong to an existing user namespace: a process must be in there to make it, and
/// nobody comes back from there. So a helper makes it, as its sibling.
pub(super) fn clone_within(
    users: &OwnedFd,
    pids: Option<&OwnedFd>,
    flags: u64,
    group: Option<BorrowedFd<'_>>,
) -> io::Result<Cloned> {
    let (ours, theirs) = sync_pair().map_err(|f| io::Error::other(f.message))?;
    let helper = match sys::clone3(0, None)? {
        Cloned::Parent(helper, _) => helper,
        Cloned::Child => {
            let made = sys::setns(users, libc::CLONE_NEWUSER)
                .and_then(|()| pids.map_or(Ok(()), |pids| sys::setns(pids, libc::CLONE_NEWPID)))
                .and_then(|()| sys::clone3(flags | libc::CLONE_PARENT as u64, group));
            let answer = match made {
                Ok(Cloned::Child) => return Ok(Cloned::Child),
                Ok(Cloned::Parent(pid, _)) => pid,
                Err(e) => -e.raw_os_error().unwrap_or(libc::EINVAL),
            };
            let _ = rustix::io::write(&theirs, &answer.to_ne_bytes());
            sys::exit_now(0)
        }
    };
    drop(theirs);
    let mut answer = [0u8; 4];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(ours.as_fd(), &mut answer[..]));
    collect(helper);
    if read? != answer.len() {
        return Err(io::Error::other("the process that was to make it died"));
    }
    match Pid::from_raw(i32::from_ne_bytes(answer)) {
        Some(pid) if i32::from_ne_bytes(answer) > 0 => {
            Ok(Cloned::Parent(i32::from_ne_bytes(answer), pidfd_open(pid, PidfdFlags::empty())?))
        }
        _ => Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(answer))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_are_those_of_the_range_they_are_in() {
        let map = [(0, 100_000, 10), (10, 5_000, 5)];
        assert_eq!(outside(&map, 0), Some(100_000));
        assert_eq!(outside(&map, 9), Some(100_009));
        assert_eq!(outside(&map, 12), Some(5_002));
        assert_eq!(outside(&map, 15), None);
        assert_eq!(outside(&[], 0), None);
    }
}
