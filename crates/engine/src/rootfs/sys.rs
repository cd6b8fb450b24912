//! Mounts, namespaces and file calls behind [`super`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use image::RootFs;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timestamps, Uid};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

use crate::error::{Error, Result};

fn step(what: &str, e: rustix::io::Errno) -> Error {
    Error::internal(format!("{what}: {e}"))
}

/// An error in the words by which clients know it.
fn words(e: rustix::io::Errno) -> String {
    match e {
        rustix::io::Errno::NOENT => "no such file or directory".into(),
        other => other.to_string(),
    }
}

/// Gives this thread a mount namespace of its own.
fn enter_own_namespace() -> Result<()> {
    #[allow(unsafe_code)]
    // SAFETY: the thread is our own, made for this, and ends after the work: nothing else runs on it.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }
        .map_err(|e| step("unshare the mount namespace", e))?;
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(|e| step("make mounts private", e))
}

/// Most bytes of `mount(2)`'s options: a page, with the NUL.
const OPTIONS: usize = 4096;

/// Mounts an overlay; without an upper and a work folder it is read-only.
fn mount_overlay(lower: &[PathBuf], write: Option<(&Path, &Path)>, at: &Path) -> Result<()> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
    let failed = |e| step("mount the image", e);
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    let set = |key: &str, path: &Path| rustix::mount::fsconfig_set_string(&context, key, path);
    set("source", Path::new("overlay")).map_err(failed)?;
    // One key for each layer (Linux 6.5): as many as overlayfs takes.
    for layer in lower {
        match set("lowerdir+", layer) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => return mount_by_options(lower, write, at),
            Err(e) => return Err(failed(e)),
        }
    }
    if let Some((upper, work)) = write {
        set("upperdir", upper).and_then(|()| set("workdir", work)).map_err(failed)?;
    }
    rustix::mount::fsconfig_create(&context).map_err(failed)?;
    let flags = if write.is_some() { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
    let tree = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(failed)?;
    let from = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", CWD, at, from).map_err(failed)
}

/// The same for older kernels (Debian 12 has 6.1): all layers together must fit in a page.
fn mount_by_options(lower: &[PathBuf], write: Option<(&Path, &Path)>, at: &Path) -> Result<()> {
    let mut options = format!("lowerdir={}", layers(lower));
    if let Some((upper, work)) = write {
        options.push_str(&format!(",upperdir={},workdir={}", upper.display(), work.display()));
    }
    if options.len() >= OPTIONS {
        return Err(Error::internal(format!(
            "mount the image: this kernel takes no {} layers (Linux 6.5 does)",
            lower.len()
        )));
    }
    let options =
        std::ffi::CString::new(options).map_err(|_| Error::internal("a layer's path has a NUL byte"))?;
    let flags = if write.is_some() { MountFlags::empty() } else { MountFlags::RDONLY };
    rustix::mount::mount("overlay", at, "overlay", flags, Some(options.as_c_str()))
        .map_err(|e| step("mount the image", e))
}

fn layers(folders: &[PathBuf]) -> String {
    let text: Vec<String> = folders.iter().map(|p| p.display().to_string().replace(':', "\\:")).collect();
    text.join(":")
}

/// Gives this thread a mount namespace of its own with the overlay, read-only, at `scratch`.
pub(super) fn mount_privately(rootfs: &RootFs, scratch: &Path) -> Result<()> {
    enter_own_namespace()?;
    std::fs::create_dir_all(scratch)?;
    // Read-only overlays need no work folder; the container's own changes lie on top.
    let mut lower = vec![rootfs.upper.clone()];
    lower.extend(rootfs.lower.iter().cloned());
    if lower.len() == 1 {
        // An image without layers: overlayfs wants at least two.
        return rustix::mount::mount_bind(&rootfs.upper, scratch).map_err(|e| step("bind the image", e));
    }
    mount_overlay(&lower, None, scratch)
}

/// Gives this thread a mount namespace of its own in which the files of a container that does not run stand at
/// `scratch` as they do in the container, with its volumes and binds. Writable, it must be the only one that mounts
/// them; read-only, nothing at all is changed on disk.
pub(super) fn mount_view(
    rootfs: &RootFs,
    binds: &[super::Bind],
    writable: bool,
    scratch: &Path,
) -> Result<()> {
    enter_own_namespace()?;
    std::fs::create_dir_all(scratch)?;
    if writable && !rootfs.lower.is_empty() {
        mount_overlay(&rootfs.lower, Some((&rootfs.upper, &rootfs.work)), scratch)?;
    } else if writable {
        rustix::mount::mount_bind(&rootfs.upper, scratch).map_err(|e| step("bind the image", e))?;
    } else {
        // The places of mounts that the image lacks are folders of a lowest layer that nobody else sees. First it
        // is at `scratch` itself: the overlay hides it there.
        rustix::mount::mount("tmpfs", scratch, "tmpfs", MountFlags::empty(), Some(c"mode=755"))
            .map_err(|e| step("mount the places of mounts", e))?;
        for bind in binds {
            make_place(&scratch.join(relative(&bind.destination)), &bind.source)?;
        }
        let mut lower = vec![rootfs.upper.clone()];
        lower.extend(rootfs.lower.iter().cloned());
        lower.push(scratch.to_owned());
        mount_overlay(&lower, None, scratch)?;
    }
    for bind in binds {
        bind_inside(scratch, bind, writable)?;
    }
    Ok(())
}

/// Gives this thread a mount namespace of its own in which each of these trees stands at a place of its own below
/// `scratch`; one with an upper folder can be written to.
pub(super) fn mount_trees(trees: &[super::Layers], scratch: &Path) -> Result<Vec<PathBuf>> {
    enter_own_namespace()?;
    // The places are of this namespace alone: nothing is left of them on the host.
    std::fs::create_dir_all(scratch)?;
    rustix::mount::mount("tmpfs", scratch, "tmpfs", MountFlags::empty(), Some(c"mode=700"))
        .map_err(|e| step("mount the places of trees", e))?;
    let empty = scratch.join("empty");
    std::fs::create_dir(&empty)?;
    let mut places = Vec::with_capacity(trees.len());
    for (n, tree) in trees.iter().enumerate() {
        let place = scratch.join(n.to_string());
        std::fs::create_dir(&place)?;
        match (&tree.upper, tree.lower.as_slice()) {
            (Some((upper, _)), []) => {
                rustix::mount::mount_bind(upper, &place).map_err(|e| step("bind a layer", e))?;
            }
            (Some((upper, work)), lower) => {
                mount_overlay(lower, Some((upper, work)), &place)?;
            }
            (None, []) => {}
            (None, lower) => {
                // Overlayfs wants two layers at least.
                let mut lower = lower.to_vec();
                lower.push(empty.clone());
                mount_overlay(&lower, None, &place)?;
            }
        }
        places.push(place);
    }
    Ok(places)
}

/// Makes a part of a mounted tree stand at a place of its own, beside it.
pub(super) fn bind_part(tree: &Path, part: &Path, scratch: &Path, name: &str) -> Result<PathBuf> {
    let root = open_root(tree)?;
    let found = open_in(&root, part, OFlags::PATH, ResolveFlags::empty())
        .map_err(|e| Error::invalid(format!("cannot access path {}: {}", part.display(), words(e))))?;
    let found = File::from(found);
    let place = scratch.join(name);
    make_place(&place, &super::path_of(&found))?;
    rustix::mount::mount_bind(super::path_of(&found), &place)
        .map_err(|e| step("bind a part of a tree", e))?;
    Ok(place)
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// An empty file or folder for `source` to be mounted on.
fn make_place(place: &Path, source: &Path) -> Result<()> {
    if std::fs::metadata(source).is_ok_and(|m| m.is_dir()) {
        std::fs::create_dir_all(place)?;
    } else {
        if let Some(folder) = place.parent() {
            std::fs::create_dir_all(folder)?;
        }
        File::create(place)?;
    }
    Ok(())
}

fn bind_inside(root: &Path, bind: &super::Bind, writable: bool) -> Result<()> {
    let Ok(source) = std::fs::metadata(&bind.source) else {
        // The file or folder of the host is gone: what lies below is shown.
        return Ok(());
    };
    let root = open_root(root)?;
    let mut place = super::lookup(&root, &bind.destination, OFlags::PATH)?;
    if place.is_none() && writable {
        make_place_inside(&root, &bind.destination, source.is_dir())
            .map_err(|e| step("make a mount's place", e))?;
        place = super::lookup(&root, &bind.destination, OFlags::PATH)?;
    }
    let Some(place) = place else { return Ok(()) };
    rustix::mount::mount_bind_recursive(&bind.source, super::path_of(&place))
        .map_err(|e| step("bind a volume", e))?;
    if !(writable && bind.read_only) {
        return Ok(());
    }
    // What was found before is the place below; what lies on it now is asked for anew.
    let Some(bound) = super::lookup(&root, &bind.destination, OFlags::PATH)? else { return Ok(()) };
    rustix::mount::mount_remount(super::path_of(&bound), MountFlags::BIND | MountFlags::RDONLY, c"")
        .map_err(|e| step("bind a volume read-only", e))
}

/// Makes the file or folder `path` and the folders above it, as far as they are missing.
fn make_place_inside(root: &OwnedFd, path: &Path, folder: bool) -> rustix::io::Result<()> {
    use rustix::io::Errno;
    let mut at = open_in(root, Path::new("/"), OFlags::PATH, ResolveFlags::empty())?;
    let parts: Vec<_> = relative(path).components().collect();
    let mut so_far = PathBuf::from("/");
    for (n, part) in parts.iter().enumerate() {
        so_far.push(part);
        if n + 1 == parts.len() && !folder {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            return rustix::fs::openat(&at, part.as_os_str(), flags, Mode::from_raw_mode(0o644)).map(drop);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        at = match open_in(root, &so_far, flags, ResolveFlags::empty()) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&at, part.as_os_str(), Mode::from_raw_mode(0o755))?;
                open_in(root, &so_far, flags, ResolveFlags::empty())?
            }
            other => other?,
        };
    }
    Ok(())
}

/// The folder as a root to resolve in.
pub(super) fn open_root(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::internal(format!("open {}: {e}", path.display())))
}

/// The root of the process `pid` in its mount namespace; `None` when it is not (any more) a process of the group
/// `id`: process ids are used again.
pub(super) fn root_of_process(pid: u32, id: &str) -> Result<Option<OwnedFd>> {
    // The open folder stands for this process only: once it has ended, nothing is found in it.
    let Ok(process) = open_root(Path::new(&format!("/proc/{pid}"))) else { return Ok(None) };
    let read = |name: &str| -> io::Result<String> {
        let fd = rustix::fs::openat(&process, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        io::read_to_string(File::from(fd))
    };
    if !read("cgroup").is_ok_and(|groups| groups.lines().any(|l| l.contains(id))) {
        return Ok(None);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(&process, "root", flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::NOENT) => Ok(None),
        Err(e) => Err(step("open the container's root", e)),
    }
}

/// The ids of the process's user namespace, when it is in another one than we are. From then on what this thread makes
/// belongs to the root of that namespace: files of nobody in there cannot be made on a container's mounts.
pub(super) fn enter_ids(pid: u32) -> Result<Option<archive::Ids>> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
    let (Ok(uids), Ok(gids)) = (read("uid_map"), read("gid_map")) else { return Ok(None) };
    let Some(remap) = crate::remap::Remap::of_process(&uids, &gids) else { return Ok(None) };
    let ids = archive::Ids { uids: remap.uids, gids: remap.gids };
    let (Some(uid), Some(gid)) = (ids.uid_outside(0), ids.gid_outside(0)) else {
        return Err(Error::internal("the container's user namespace has no root"));
    };
    #[allow(unsafe_code)]
    // SAFETY: no memory is passed. These calls are about this thread alone, which is our own and ends after the work.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
    // The kernel takes root's rights over files away with the id.
    let failed = |e| step("keep the rights over files", e);
    let mut rights = rustix::thread::capabilities(None).map_err(failed)?;
    rights.effective = rights.permitted;
    rustix::thread::set_capabilities(None, rights).map_err(failed)?;
    Ok(Some(ids))
}

/// Opens `path` as if `root` were `/`. No link, however quickly it is exchanged, leads out: the kernel resolves in one
/// call.
pub(super) fn open_in(
    root: &OwnedFd,
    path: &Path,
    flags: OFlags,
    more: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let path = relative(path);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename somewhere on the system raced with "..": the kernel asks to try again.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
}

pub(super) fn open_inside(root: &Path, path: &Path) -> Result<Option<File>> {
    super::lookup(&open_root(root)?, path, OFlags::RDONLY | OFlags::NONBLOCK)
}

/// Copies the contents of `source` into the folder `target`; never follows a link of the source. Names of one file stay
/// names of one file, holes stay holes.
pub(super) fn copy_tree(source: &Path, target: &Path) -> Result<()> {
    copy_folder(source, target, &mut HashMap::new())
}

/// `links`: where files of several names were copied to, by device and inode.
fn copy_folder(source: &Path, target: &Path, links: &mut HashMap<(u64, u64), PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(source)? {
        let entry = entry?;
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        let meta = entry.metadata()?;
        let kind = meta.file_type();
        if kind.is_dir() {
            if let Err(e) = std::fs::create_dir(&to)
                && e.kind() != io::ErrorKind::AlreadyExists
            {
                return Err(e.into());
            }
            // Gives the folder its attributes as well.
            copy_folder(&from, &to, links)?;
            continue;
        }
        if meta.nlink() > 1 {
            match links.entry((meta.dev(), meta.ino())) {
                Entry::Occupied(first) => {
                    std::fs::hard_link(first.get(), &to)?;
                    continue;
                }
                Entry::Vacant(first) => drop(first.insert(to.clone())),
            }
        }
        if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&from)?, &to)?;
        } else if kind.is_file() {
            copy_data(&File::open(&from)?, &File::create_new(&to)?, meta.len())?;
        } else if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() {
            let mode = Mode::from_raw_mode(meta.mode());
            let file_type = rustix::fs::FileType::from_raw_mode(meta.mode());
            rustix::fs::mknodat(CWD, &to, file_type, mode, meta.rdev()).map_err(io::Error::from)?;
        } else {
            // Sockets mean nothing without their process.
            links.remove(&(meta.dev(), meta.ino()));
            continue;
        }
        copy_attributes(&from, &to, &meta)?;
    }
    copy_attributes(source, target, &std::fs::metadata(source)?)
}

/// The bytes of a file, where there are any.
fn copy_data(mut from: &File, mut to: &File, length: u64) -> io::Result<()> {
    use rustix::fs::SeekFrom;
    to.set_len(length)?;
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        at = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        for file in [from, to] {
            rustix::fs::seek(file, SeekFrom::Start(start))?;
        }
        io::copy(&mut io::Read::take(&mut from, at - start), &mut to)?;
    }
    Ok(())
}

/// Owner, mode (after the owner: chown clears set-id bits), extended attributes (as it clears capabilities) and times.
fn copy_attributes(from: &Path, to: &Path, meta: &std::fs::Metadata) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    rustix::fs::chownat(CWD, to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)?;
    if !meta.file_type().is_symlink() {
        std::fs::set_permissions(to, std::fs::Permissions::from_mode(meta.mode() & 0o7777))?;
        copy_xattrs(from, to)?;
    }
    let time = |s, n| rustix::fs::Timespec { tv_sec: s, tv_nsec: n };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD.as_fd(), to, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)?;
    Ok(())
}

/// Largest list of names and largest value of extended attributes that Linux knows, in bytes.
const XATTR: usize = 64 << 10;

/// Those that are part of the file: the user's, capabilities and access lists.
fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    let mut names = vec![0_u8; XATTR];
    let length = match rustix::fs::llistxattr(from, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    names.truncate(length);
    let mut value = Vec::new();
    for name in names.split(|b| *b == 0).filter(|n| {
        n.starts_with(b"user.") || n.starts_with(b"system.posix_acl_") || *n == b"security.capability"
    }) {
        value.resize(XATTR, 0);
        let length = rustix::fs::lgetxattr(from, name, &mut value[..])?;
        match rustix::fs::lsetxattr(to, name, &value[..length], rustix::fs::XattrFlags::empty()) {
            // A file system of the volume's that keeps none (a tmpfs, an export) or has no room: left out, as dockerd does.
            Ok(()) | Err(Errno::NOTSUP | Errno::NOSPC) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
