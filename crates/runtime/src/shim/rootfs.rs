//! The container's file system, made by its own first process inside its own mount namespace.
//!
//! Nothing is ever mounted on the host: the overlay, the mounts of the spec and the masks exist in this namespace
//! only, and vanish with it. The steps:
//!
//! ```text
//!   propagation -> root (overlay or bind) on the mountpoint -> mounts of the spec -> /dev -> pivot_root
//!     -> masked and read-only paths -> read-only root
//! ```
//! Every target is opened (and where missing made) with `openat2(RESOLVE_IN_ROOT)` and from then on named by its
//! descriptor, and every mount is made detached and moved onto that descriptor: an image or a volume full of symbolic
//! links cannot lead a mount outside the root (CVE-2021-30465, CVE-2025-52881). A path is masked with a `/dev/null`
//! that was checked to be the null device (CVE-2025-31133), and `/dev/console` is bound from the pty's descriptor
//! (CVE-2025-52565).

use crate::plan::{DevicePlan, MountKind, MountPlan, Plan, RootPlan};
use crate::protocol::Failure;
use crate::sys;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use std::io;

/// A step's result: what failed, in words.
pub(super) type Step<T> = Result<T, Failure>;

/// Adds what was being done to a system's error.
pub(super) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Step<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Step<T> {
        self.map_err(|e| Failure::internal(format!("{}: {}", what(), words(&e.into()))))
    }
}

/// An error's words as Go prints them: lower case, without the number.
pub(super) fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "no such file or directory".into(),
        Some(libc::EACCES) => "permission denied".into(),
        Some(libc::EPERM) => "operation not permitted".into(),
        Some(libc::ENOTDIR) => "not a directory".into(),
        Some(libc::EISDIR) => "is a directory".into(),
        Some(libc::ENOEXEC) => "exec format error".into(),
        Some(libc::EROFS) => "read-only file system".into(),
        Some(libc::EINVAL) => "invalid argument".into(),
        Some(libc::EBUSY) => "device or resource busy".into(),
        Some(libc::ELOOP) => "too many levels of symbolic links".into(),
        Some(libc::E2BIG) => "argument list too long".into(),
        Some(libc::ETXTBSY) => "text file busy".into(),
        _ => error.to_string(),
    }
}

const DIR_MODE: Mode = Mode::from_raw_mode(0o755);
/// How many symbolic links and `..` a rename race may cost before we give up.
const OPEN_RETRIES: u32 = 128;

/// Opens `path` inside `root` without ever leaving it.
pub(super) fn open_in(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let relative = path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    let mut tries = 0;
    loop {
        let opened = rustix::fs::openat2(
            root,
            relative,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        match opened {
            Err(Errno::AGAIN | Errno::INTR) if tries < OPEN_RETRIES => tries += 1,
            other => return other,
        }
    }
}

/// Opens the folder `path` inside `root`, making what is missing of it (as `mkdir -p`, inside the root).
pub(super) fn make_dir_in(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    make_in(
        root,
        path,
        &|parent, name| rustix::fs::mkdirat(parent, name, DIR_MODE),
        OFlags::DIRECTORY,
        MAX_LINKS,
    )
}

/// Opens the file `path` inside `root` as a mount's target, making an empty one where it is missing.
fn make_file_in(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let create = |parent: BorrowedFd<'_>, name: &str| {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
        rustix::fs::openat(parent, name, flags, DIR_MODE).map(drop)
    };
    make_in(root, path, &create, OFlags::empty(), MAX_LINKS)
}

/// Dangling symbolic links followed to make one path.
const MAX_LINKS: u32 = 40;

type Create<'a> = &'a dyn Fn(BorrowedFd<'_>, &str) -> Result<(), Errno>;

/// Opens `path`, made by `create` where it is missing; a link that dangles is followed, inside the root.
fn make_in(
    root: BorrowedFd<'_>,
    path: &str,
    create: Create<'_>,
    kind: OFlags,
    links: u32,
) -> Result<OwnedFd, Errno> {
    match open_in(root, path, OFlags::PATH | kind) {
        Err(Errno::NOENT) => {}
        done => return done,
    }
    let trimmed = path.trim_end_matches('/');
    let (above, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
    let parent = make_dir_in(root, above)?;
    match create(parent.as_fd(), name) {
        // Through the root again: whatever is there now is opened as anything else.
        Ok(()) => return open_in(root, path, OFlags::PATH | kind),
        Err(Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    let link = match rustix::fs::readlinkat(&parent, name, Vec::new()) {
        Ok(link) => link,
        // Someone made it just now.
        Err(Errno::INVAL) => return open_in(root, path, OFlags::PATH | kind),
        Err(e) => return Err(e),
    };
    let Ok(link) = link.into_string() else { return Err(Errno::ILSEQ) };
    if links == 0 {
        return Err(Errno::LOOP);
    }
    let target = if link.starts_with('/') { link } else { format!("{above}/{link}") };
    make_in(root, &target, create, kind, links - 1)
}

pub(super) fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    move_mount(
        mount,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// The detached mount of a file system.
pub(super) fn filesystem(
    kind: &str,
    source: &str,
    options: &[(String, Option<String>)],
    attributes: u64,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", source)?;
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str())?,
            None => fsconfig_set_flag(&context, key.as_str())?,
        }
    }
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or(0)),
    )
}

/// The detached copy of an existing tree.
pub(super) fn clone_tree(from: impl AsFd, path: &str, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(from, path, flags)
}

/// The same of a part of a folder. Links in there may lead anywhere within the folder, never out of it, whatever
/// somebody else changes meanwhile.
fn clone_part(folder: &str, part: &str, recursive: bool) -> Result<OwnedFd, Errno> {
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    clone_tree(open_in(folder.as_fd(), part, OFlags::PATH)?, "", recursive)
}

/// The detached copy of a tmpfs in another mount namespace, by the way of that namespace: a mount can be cloned only
/// where it is. The other's processes cannot lead it elsewhere: no link is followed, and it must be a tmpfs; anything
/// where the namespace is the engine's.
fn clone_of(namespace: &str, path: &str, engine: bool) -> Step<OwnedFd> {
    let failed = || format!("cannot take {path} of another container");
    let open = |path: &str, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
    let own = open("/proc/self/ns/mnt", OFlags::RDONLY).doing(failed)?;
    let other = open(namespace, OFlags::RDONLY).doing(failed)?;
    sys::setns(&other, libc::CLONE_NEWNS).doing(failed)?;
    let cloned = open("/", OFlags::PATH | OFlags::DIRECTORY)
        .and_then(|root| {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
            let folder = if engine { OFlags::empty() } else { OFlags::DIRECTORY };
            let flags = OFlags::PATH | folder | OFlags::CLOEXEC;
            rustix::fs::openat2(root, path.trim_start_matches('/'), flags, Mode::empty(), resolve)
        })
        .and_then(|place| match rustix::fs::fstatfs(&place)?.f_type as i64 {
            _ if engine => clone_tree(&place, "", false),
            libc::TMPFS_MAGIC => clone_tree(&place, "", false),
            _ => Err(Errno::INVAL),
        });
    sys::setns(&own, libc::CLONE_NEWNS).doing(failed)?;
    cloned.doing(failed)
}

/// The detached tree that a bind of the spec shows, with none of its options; `None`: it is no bind.
pub(super) fn bound(mount: &MountPlan) -> Step<Option<OwnedFd>> {
    let target = &mount.target;
    Ok(Some(match &mount.kind {
        MountKind::Bind { source, beneath: Some(part), recursive } => {
            clone_part(source, part, *recursive).doing(|| format!("cannot access path {source}/{part}"))?
        }
        MountKind::Bind { source, recursive, .. } => {
            clone_tree(CWD, source, *recursive).doing(|| format!("cannot bind {source} to {target}"))?
        }
        MountKind::BindOf { namespace, path, engine } => clone_of(namespace, path, *engine)?,
        MountKind::Filesystem { .. } => return Ok(None),
    }))
}

/// Gives the tree of a bind the options that the spec has for it.
pub(super) fn set_options(tree: &OwnedFd, mount: &MountPlan) -> Step<()> {
    let failed = || format!("cannot set the options of the mount at {}", mount.target);
    let propagation =
        if mount.propagation == 0 { libc::MS_PRIVATE | libc::MS_REC } else { mount.propagation };
    sys::mount_setattr(tree, propagation & libc::MS_REC != 0, 0, 0, propagation & !libc::MS_REC)
        .doing(failed)?;
    if mount.set | mount.clear != 0 {
        sys::mount_setattr(tree, false, mount.set, mount.clear, 0).doing(failed)?;
    }
    if mount.set_recursive != 0 {
        sys::mount_setattr(tree, true, mount.set_recursive, 0, 0).doing(failed)?;
    }
    Ok(())
}

/// Makes a bind of the spec at a place of ours, with no options: another runtime binds it from there.
pub(super) fn stage(mount: &MountPlan, place: &str) -> Step<()> {
    let failed = || format!("cannot make the mount for {}", mount.target);
    let Some(tree) = bound(mount)? else { return Ok(()) };
    sys::mount_setattr(&tree, true, 0, 0, libc::MS_PRIVATE).doing(failed)?;
    put(&tree, place).doing(failed)
}

/// Attaches a detached tree at a new place.
pub(super) fn put(tree: &OwnedFd, place: &str) -> io::Result<()> {
    let stat = rustix::fs::fstat(tree)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        std::fs::create_dir(place)?;
    } else {
        std::fs::File::create(place)?;
    }
    let target = rustix::fs::open(place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(attach(tree, &target)?)
}

pub(super) fn overlay(lower: &[String], upper: &str, work: &str, mountpoint: &str) -> Step<OwnedFd> {
    let failed = || "cannot mount the container's overlay".to_owned();
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).doing(failed)?;
    fsconfig_set_string(&context, "source", "overlay").doing(failed)?;
    // One key per layer (Linux 6.5): no limit by the page size on the number of layers, no escaping of ':'.
    for layer in lower {
        match fsconfig_set_string(&context, "lowerdir+", layer.as_str()) {
            Ok(()) => {}
            Err(Errno::INVAL) => return overlay_by_options(lower, upper, work, mountpoint),
            Err(e) => return Err(e).doing(|| format!("{}: layer {layer}", failed())),
        }
    }
    fsconfig_set_string(&context, "upperdir", upper)
        .doing(|| format!("{}: upper folder {upper}", failed()))?;
    fsconfig_set_string(&context, "workdir", work).doing(|| format!("{}: work folder {work}", failed()))?;
    fsconfig_create(&context).doing(failed)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).doing(failed)
}

/// The same for older kernels (Debian 12 has 6.1), by `mount(2)`: all options together must fit in a page. That call
/// mounts somewhere: at the mountpoint, from where the mount is taken again.
fn overlay_by_options(lower: &[String], upper: &str, work: &str, mountpoint: &str) -> Step<OwnedFd> {
    let failed = || "cannot mount the container's overlay".to_owned();
    let escaped = |path: &str| path.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,");
    let lower: Vec<String> = lower.iter().map(|l| escaped(l)).collect();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), escaped(upper), escaped(work));
    if options.len() >= OPTIONS_BYTES {
        return Err(Errno::NAMETOOLONG)
            .doing(|| format!("{}: this kernel takes no more layers (Linux 6.5 does)", failed()));
    }
    let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL).doing(failed)?;
    rustix::mount::mount("overlay", mountpoint, "overlay", rustix::mount::MountFlags::empty(), &*options)
        .doing(failed)?;
    let tree = clone_tree(CWD, mountpoint, false);
    rustix::mount::unmount(mountpoint, rustix::mount::UnmountFlags::DETACH).doing(failed)?;
    tree.doing(failed)
}

/// Bytes of mount options the kernel takes: a page.
const OPTIONS_BYTES: usize = 4096;

/// The container's root, mounted; everything after works with this descriptor.
pub(super) fn mount_root(plan: &Plan) -> Step<OwnedFd> {
    rustix::mount::mount_change("/", propagation_flags(plan.propagation))
        .doing(|| "cannot set the propagation of the mount namespace".into())?;
    let mount = match &plan.root {
        RootPlan::Overlay { lower, upper, work } => overlay(lower, upper, work, &plan.mountpoint)?,
        RootPlan::Dir(path) => {
            let tree = clone_tree(CWD, path, true).doing(|| format!("cannot bind the root {path}"))?;
            sys::mount_setattr(&tree, true, 0, 0, libc::MS_PRIVATE)
                .doing(|| "cannot make the root private".into())?;
            tree
        }
    };
    let target = rustix::fs::open(plan.mountpoint.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("cannot open {}", plan.mountpoint))?;
    if plan.propagation & libc::MS_SHARED != 0 {
        isolate_parent(&plan.mountpoint)?;
    }
    attach(&mount, &target).doing(|| "cannot attach the root".into())?;
    Ok(mount)
}

/// With a shared namespace our root would appear on the host: the mount it is attached to is made private first.
fn isolate_parent(mountpoint: &str) -> Step<()> {
    let mut path = std::path::Path::new(mountpoint);
    while let Some(parent) = path.parent() {
        path = parent;
        let known = rustix::fs::statx(CWD, path, AtFlags::empty(), rustix::fs::StatxFlags::BASIC_STATS)
            .map_err(io::Error::from);
        let at_root =
            matches!(known, Ok(s) if s.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT));
        if at_root {
            return rustix::mount::mount_change(path, rustix::mount::MountPropagationFlags::PRIVATE)
                .doing(|| format!("cannot make {} private", path.display()));
        }
    }
    Ok(())
}

fn propagation_flags(flags: u64) -> rustix::mount::MountPropagationFlags {
    rustix::mount::MountPropagationFlags::from_bits_retain(u32::try_from(flags).unwrap_or(0))
}

/// Mounts that must become read-only only after what is inside them was made.
pub(super) type Later = Vec<OwnedFd>;

/// The mounts of the spec, in its order.
pub(super) fn mounts(plan: &Plan, root: BorrowedFd<'_>) -> Step<Later> {
    let mut later = Vec::new();
    for mount in &plan.mounts {
        if let Some(read_only) = one_mount(mount, root)? {
            later.push(read_only);
        }
    }
    Ok(later)
}

fn one_mount(mount: &MountPlan, root: BorrowedFd<'_>) -> Step<Option<OwnedFd>> {
    let target_error = || format!("cannot create the mount point {}", mount.target);
    match &mount.kind {
        MountKind::Bind { source, beneath, recursive } => {
            let tree = match beneath {
                None => clone_tree(CWD, source, *recursive),
                Some(part) => clone_part(source, part, *recursive),
            }
            .doing(|| match beneath {
                None => format!("cannot bind {source} to {}", mount.target),
                Some(part) => format!("cannot access path {source}/{part}"),
            })?;
            let kind = FileType::from_raw_mode(
                rustix::fs::fstat(&tree).doing(|| format!("cannot stat {source}"))?.st_mode,
            );
            let target = if kind == FileType::Directory {
                make_dir_in(root, &mount.target)
            } else {
                make_file_in(root, &mount.target)
            }
            .doing(target_error)?;
            refuse_proc(root, &target, mount, Some(&tree))?;
            set_options(&tree, mount)?;
            attach(&tree, &target).doing(|| format!("cannot mount {source} at {}", mount.target))?;
            Ok(None)
        }
        MountKind::BindOf { namespace, path, engine } => {
            let tree = clone_of(namespace, path, *engine)?;
            let stat = rustix::fs::fstat(&tree).doing(target_error)?;
            let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let target =
                if folder { make_dir_in(root, &mount.target) } else { make_file_in(root, &mount.target) }
                    .doing(target_error)?;
            refuse_proc(root, &target, mount, None)?;
            let failed = || format!("cannot mount another container's {path} at {}", mount.target);
            sys::mount_setattr(&tree, false, mount.set, mount.clear, libc::MS_PRIVATE).doing(failed)?;
            attach(&tree, &target).doing(failed)?;
            Ok(None)
        }
        MountKind::Filesystem { kind, source, options } => {
            let covers = open_in(root, &mount.target, OFlags::PATH).is_ok();
            let target = make_dir_in(root, &mount.target).doing(target_error)?;
            if kind != "proc" {
                refuse_proc(root, &target, mount, None)?;
            }
            let failed = || format!("cannot mount {kind} at {}", mount.target);
            let read_only = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
            let defer = kind == "tmpfs" && mount.set & read_only != 0;
            let attributes = if defer { mount.set & !read_only } else { mount.set };
            let options =
                if kind == "tmpfs" && covers { with_mode(options, &target) } else { options.clone() };
            let mounted = filesystem(kind, source, &options, attributes).doing(failed)?;
            if mount.copy_up {
                copy_up(&target, &mounted).doing(|| format!("cannot copy the image's {}", mount.target))?;
            }
            attach(&mounted, &target).doing(failed)?;
            if mount.propagation != 0 {
                sys::mount_setattr(
                    &mounted,
                    mount.propagation & libc::MS_REC != 0,
                    0,
                    0,
                    mount.propagation & !libc::MS_REC,
                )
                .doing(failed)?;
            }
            Ok(defer.then_some(mounted))
        }
    }
}

/// A tmpfs without a mode takes that of the folder it covers, as runc does; where there was none, anybody may write.
fn with_mode(options: &[(String, Option<String>)], target: &OwnedFd) -> Vec<(String, Option<String>)> {
    let mut all = options.to_vec();
    if !all.iter().any(|(key, _)| key == "mode")
        && let Ok(stat) = rustix::fs::fstat(target)
    {
        all.push(("mode".into(), Some(format!("{:o}", stat.st_mode & 0o7777))));
    }
    all
}

/// Nothing but proc itself, and lxcfs-like files known to be harmless, may be mounted at or inside /proc: it would stand
/// between us and the files we must write and mask (CVE-2019-16884, CVE-2019-19921).
fn refuse_proc(
    root: BorrowedFd<'_>,
    target: &OwnedFd,
    mount: &MountPlan,
    source: Option<&OwnedFd>,
) -> Step<()> {
    const ALLOWED: [&str; 9] = [
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/slabinfo",
        "/proc/sys/kernel/ns_last_pid",
    ];
    let on_proc = |fd: &OwnedFd| rustix::fs::fstatfs(fd).is_ok_and(|s| s.f_type == libc::PROC_SUPER_MAGIC);
    let same = |other: &OwnedFd| {
        let (a, b) = (rustix::fs::fstat(target), rustix::fs::fstat(other));
        matches!((a, b), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    };
    // In the place of /proc only another proc will do.
    if open_in(root, "/proc", OFlags::PATH).is_ok_and(|proc| same(&proc)) && !source.is_some_and(on_proc) {
        return Err(Failure::new(
            crate::protocol::FailureKind::Invalid,
            format!("{:?} cannot be mounted because it is not of type proc", mount.target),
        ));
    }
    let inside = on_proc(target);
    if inside && !ALLOWED.contains(&mount.target.trim_end_matches('/')) {
        return Err(Failure::new(
            crate::protocol::FailureKind::Invalid,
            format!("{:?} cannot be mounted because it is inside /proc", mount.target),
        ));
    }
    Ok(())
}

/// Copies the tree at `from` into the new, unattached `to`, owners and modes included.
fn copy_up(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(from, ".", open, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, mode)?;
                let (inner_from, inner_to) = (
                    rustix::fs::openat(&dir, name, open, Mode::empty())?,
                    rustix::fs::openat(to, name, open, Mode::empty())?,
                );
                copy_up(&inner_from, &inner_to)?;
            }
            FileType::RegularFile => {
                let source = rustix::fs::openat(
                    &dir,
                    name,
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                let copy = rustix::fs::openat(
                    to,
                    name,
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
                    Mode::from_raw_mode(0o600),
                )?;
                while rustix::fs::sendfile(&copy, &source, None, 1 << 20)? > 0 {}
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(&dir, name, Vec::new())?;
                rustix::fs::symlinkat(link.as_c_str(), to, name)?;
            }
            kind => rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?,
        }
        rustix::fs::chownat(
            to,
            name,
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
        }
    }
    let stat = rustix::fs::fstat(from)?;
    let here = rustix::fs::openat(to, ".", open, Mode::empty())?;
    rustix::fs::fchown(&here, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(&here, Mode::from_raw_mode(stat.st_mode & 0o7777))
}

/// Device nodes and the links every container has in /dev.
pub(super) fn devices(plan: &Plan, root: BorrowedFd<'_>) -> Step<()> {
    // A host's /dev bound over ours brings its own nodes.
    if plan.mounts.iter().any(|m| m.target == "/dev" && matches!(m.kind, MountKind::Bind { .. })) {
        return Ok(());
    }
    let in_user_namespace = plan.new_namespaces & libc::CLONE_NEWUSER as u64 != 0
        || plan.join_namespaces.iter().any(|(kind, _)| *kind == libc::CLONE_NEWUSER as u64);
    sys::umask(0);
    for device in &plan.devices {
        let staged = device.staged.as_deref().or(in_user_namespace.then_some(device.path.as_str()));
        device_node(device, root, staged)?;
    }
    sys::umask(0o022);
    let dev = make_dir_in(root, "/dev").doing(|| "cannot open /dev".into())?;
    let links: [(&str, &str); 6] = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("/proc/kcore", "core"),
        ("pts/ptmx", "ptmx"),
    ];
    for (to, name) in links {
        // As runc: core only where the kernel has it (it is masked afterwards).
        if name == "core" && open_in(root, "/proc/kcore", OFlags::PATH).is_err() {
            continue;
        }
        if name == "ptmx" {
            let _ = rustix::fs::unlinkat(&dev, name, AtFlags::empty());
        }
        match rustix::fs::symlinkat(to, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e).doing(|| format!("cannot create /dev/{name}")),
        }
    }
    Ok(())
}

fn device_node(device: &DevicePlan, root: BorrowedFd<'_>, staged: Option<&str>) -> Step<()> {
    let failed = || format!("cannot create the device {}", device.path);
    if let Some(node) = staged {
        let tree = clone_tree(CWD, node, false).doing(failed)?;
        let target = make_file_in(root, &device.path).doing(failed)?;
        return attach(tree, target).doing(failed);
    }
    let (parent, name) = device.path.rsplit_once('/').unwrap_or(("", &device.path));
    let parent = make_dir_in(root, parent).doing(failed)?;
    let number = rustix::fs::makedev(device.major, device.minor);
    let kind = FileType::from_raw_mode(device.kind);
    match rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(device.mode), number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).doing(failed)?;
            if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != number {
                return Err(Failure::internal(format!("{}: the image has something else there", failed())));
            }
        }
        Err(e) => return Err(e).doing(failed),
    }
    rustix::fs::chownat(
        &parent,
        name,
        Some(Uid::from_raw(device.uid)),
        Some(Gid::from_raw(device.gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .doing(failed)
}

/// Makes a pty in the container's own devpts and binds its end to /dev/console.
/// Returns the master and the container's end.
pub(super) fn console(root: BorrowedFd<'_>, size: Option<(u16, u16)>) -> Step<(OwnedFd, OwnedFd)> {
    let failed = || "cannot make the terminal".to_owned();
    let master = open_in(root, "/dev/pts/ptmx", OFlags::RDWR | OFlags::NOCTTY).doing(failed)?;
    let kind = rustix::fs::fstatfs(&master).doing(failed)?.f_type as i64;
    if kind != DEVPTS_SUPER_MAGIC {
        return Err(Failure::internal(
            "cannot make the terminal: /dev/pts/ptmx is not on a devpts file system",
        ));
    }
    rustix::pty::unlockpt(&master).doing(failed)?;
    let peer = rustix::pty::ioctl_tiocgptpeer(
        &master,
        rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC,
    )
    .doing(failed)?;
    if let Some((rows, cols)) = size {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).doing(failed)?;
    }
    Ok((master, peer))
}

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Binds the container's end of its terminal to /dev/console.
pub(super) fn bind_console(root: BorrowedFd<'_>, peer: &OwnedFd) -> Step<()> {
    let failed = || "cannot bind /dev/console".to_owned();
    let tree = clone_tree(peer, "", false).doing(failed)?;
    let target = make_file_in(root, "/dev/console").doing(failed)?;
    attach(tree, target).doing(failed)
}

/// Makes `root` the root of this mount namespace and lets go of the host's.
pub(super) fn pivot(root: BorrowedFd<'_>) -> Step<()> {
    let failed = || "cannot pivot to the container's root".to_owned();
    let old = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .doing(failed)?;
    rustix::process::fchdir(root).doing(failed)?;
    sys::pivot_root_here().doing(failed)?;
    rustix::process::fchdir(&old).doing(failed)?;
    // The detaching below must not travel to the host.
    sys::mount_setattr(&old, true, 0, 0, libc::MS_SLAVE).doing(failed)?;
    unmount(".", UnmountFlags::DETACH).doing(failed)?;
    rustix::process::chdir("/").doing(failed)
}

/// Masked and read-only paths; the process is inside its root already.
pub(super) fn protect(plan: &Plan) -> Step<()> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "cannot open /".into())?;
    for path in &plan.readonly {
        let failed = || format!("cannot make {path} read-only");
        match clone_tree_in(root.as_fd(), path) {
            Ok((tree, target)) => {
                sys::mount_setattr(&tree, true, MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), 0, 0)
                    .doing(failed)?;
                attach(tree, target).doing(failed)?;
            }
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e).doing(failed),
        }
    }
    if plan.masked.is_empty() {
        return Ok(());
    }
    let null = null_device(root.as_fd())?;
    let mut empty: Option<OwnedFd> = None;
    for path in &plan.masked {
        let failed = || format!("cannot mask {path}");
        let target = match open_in(root.as_fd(), path, OFlags::PATH) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(e) => return Err(e).doing(failed),
        };
        let stat = rustix::fs::fstat(&target).doing(failed)?;
        let cover = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            // One empty, read-only tmpfs serves all masked folders.
            match &empty {
                Some(first) => clone_tree(first, "", false).doing(failed)?,
                None => {
                    let options = [
                        ("nr_blocks".to_owned(), Some("1".to_owned())),
                        ("nr_inodes".to_owned(), Some("1".to_owned())),
                    ];
                    let made = filesystem(
                        "tmpfs",
                        "tmpfs",
                        &options,
                        MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(),
                    )
                    .doing(failed)?;
                    attach(&made, &target).doing(failed)?;
                    empty = Some(made);
                    continue;
                }
            }
        } else {
            clone_tree(&null, "", false).doing(failed)?
        };
        attach(cover, target).doing(failed)?;
    }
    Ok(())
}

fn clone_tree_in(root: BorrowedFd<'_>, path: &str) -> Result<(OwnedFd, OwnedFd), Errno> {
    let target = open_in(root, path, OFlags::PATH)?;
    Ok((clone_tree(&target, "", true)?, target))
}

/// The container's /dev/null, checked to be the null device and nothing a malicious image left there.
pub(super) fn null_device(root: BorrowedFd<'_>) -> Step<OwnedFd> {
    let null = open_in(root, "/dev/null", OFlags::PATH | OFlags::NOFOLLOW)
        .doing(|| "cannot open /dev/null".into())?;
    let stat = rustix::fs::fstat(&null).doing(|| "cannot stat /dev/null".into())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
        || stat.st_rdev != rustix::fs::makedev(1, 3)
    {
        return Err(Failure::internal("the container's /dev/null is not the null device"));
    }
    Ok(null)
}

/// Makes the deferred mounts, and at last the root, read-only.
pub(super) fn seal(plan: &Plan, root: BorrowedFd<'_>, later: &Later) -> Step<()> {
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into();
    for mount in later {
        sys::mount_setattr(mount, false, read_only, 0, 0).doing(|| "cannot make a mount read-only".into())?;
    }
    if plan.root_readonly {
        sys::mount_setattr(root, false, read_only, 0, 0).doing(|| "cannot make the root read-only".into())?;
    }
    Ok(())
}
