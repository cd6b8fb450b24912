//! Mounts, namespaces and file calls behind [`super`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use image::RootFs;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timestamps, Uid};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

use crate::error::{Error, Result};

/// Gives this thread a mount namespace of its own with the overlay, read-only, at `scratch`.
pub(super) fn mount_privately(rootfs: &RootFs, scratch: &Path) -> Result<()> {
    let step = |what: &str, e: rustix::io::Errno| Error::internal(format!("{what}: {e}"));
    #[allow(unsafe_code)]
    // SAFETY: the thread is our own, made for this, and ends after the work: nothing else runs on it.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }
        .map_err(|e| step("unshare the mount namespace", e))?;
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(|e| step("make mounts private", e))?;
    std::fs::create_dir_all(scratch)?;
    // Read-only overlays need no work folder; the container's own changes lie on top.
    let mut lower = vec![rootfs.upper.clone()];
    lower.extend(rootfs.lower.iter().cloned());
    if lower.len() == 1 {
        // An image without layers: overlayfs wants at least two.
        return rustix::mount::mount_bind(&rootfs.upper, scratch).map_err(|e| step("bind the image", e));
    }
    // Layers are named relative to their common folder where they can be: mount options end at a page.
    let text: Vec<String> = lower.iter().map(|p| p.display().to_string().replace(':', "\\:")).collect();
    let options = std::ffi::CString::new(format!("lowerdir={}", text.join(":")))
        .map_err(|_| Error::internal("a layer's path has a NUL byte"))?;
    rustix::mount::mount("overlay", scratch, "overlay", MountFlags::RDONLY, Some(options.as_c_str()))
        .map_err(|e| step("mount the image", e))
}

pub(super) fn open_inside(root: &Path, path: &Path) -> Result<Option<File>> {
    let dir = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::internal(format!("open {}: {e}", root.display())))?;
    let relative = path.strip_prefix("/").unwrap_or(path);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::openat2(
        &dir,
        relative,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    ) {
        Ok(fd) => Ok(Some(File::from(fd))),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(e) => Err(Error::internal(format!("open {} in the image: {e}", path.display()))),
    }
}

/// Copies the contents of `source` into the folder `target`; never follows a link of the source.
pub(super) fn copy_tree(source: &Path, target: &Path) -> Result<()> {
    for entry in std::fs::read_dir(source)? {
        let entry = entry?;
        let to = target.join(entry.file_name());
        let meta = entry.metadata()?;
        let kind = meta.file_type();
        if kind.is_dir() {
            if let Err(e) = std::fs::create_dir(&to)
                && e.kind() != io::ErrorKind::AlreadyExists
            {
                return Err(e.into());
            }
            copy_tree(&entry.path(), &to)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path())?, &to)?;
        } else if kind.is_file() {
            let from: OwnedFd = File::open(entry.path())?.into();
            let mut out = File::create_new(&to)?;
            io::copy(&mut File::from(from), &mut out)?;
        } else if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() {
            let mode = Mode::from_raw_mode(meta.mode());
            let file_type = rustix::fs::FileType::from_raw_mode(meta.mode());
            rustix::fs::mknodat(CWD, &to, file_type, mode, meta.rdev()).map_err(io::Error::from)?;
        } else {
            // Sockets mean nothing without their process.
            continue;
        }
        copy_owner(&to, &meta)?;
    }
    let meta = std::fs::metadata(source)?;
    copy_owner(target, &meta)
}

/// Owner, mode (after the owner: chown clears set-id bits) and times.
fn copy_owner(to: &Path, meta: &std::fs::Metadata) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    rustix::fs::chownat(CWD, to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)?;
    if !meta.file_type().is_symlink() {
        std::fs::set_permissions(to, std::fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    let time = |s, n| rustix::fs::Timespec { tv_sec: s, tv_nsec: n };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD.as_fd(), to, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)?;
    Ok(())
}
