//! `docker diff`: what a container has changed of its image, read from its upper folder.
//!
//! The container may change the folder meanwhile: every step goes through descriptors and follows no link.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// How a path differs from the image's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is another.
    Modified = 0,
    /// It is new.
    Added = 1,
    /// It is gone.
    Deleted = 2,
}

/// Places that a start makes for its own mounts: not the container's doing.
const OWN_PLACES: [&str; 12] = [
    "/.dockerenv",
    "/dev",
    "/dev/console",
    "/dev/mqueue",
    "/dev/pts",
    "/dev/shm",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/mtab",
    "/etc/resolv.conf",
    "/proc",
    "/sys",
];

/// All changes, parents before children, by name within a folder.
pub fn changes(rootfs: &image::RootFs) -> Result<Vec<(PathBuf, Kind)>> {
    let open = |path: &Path| {
        rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::internal(format!("{}: {e}", path.display())))
    };
    let lower = rootfs.lower.iter().map(|l| open(l)).collect::<Result<Vec<_>>>()?;
    let mut found = Vec::new();
    folder(&open(&rootfs.upper)?, Path::new("/"), &lower, &mut found)
        .map_err(|e| Error::internal(format!("read the container's changes: {e}")))?;
    Ok(found)
}

fn names(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort();
    Ok(names)
}

fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_whiteout(stat: &Stat) -> bool {
    kind_of(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(dir: impl AsFd) -> bool {
    let mut value = [0; 4];
    matches!(rustix::fs::fgetxattr(dir, archive::OVERLAY_OPAQUE, &mut value), Ok(n) if &value[..n] == b"y")
}

/// What the image has at a path: the topmost layer that says anything about it, or about a folder above it, decides.
fn in_image(lower: &[OwnedFd], path: &Path) -> Option<Stat> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    for layer in lower {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(layer, relative, flags, Mode::empty(), resolve) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).ok()?;
                return (!is_whiteout(&stat)).then_some(stat);
            }
            Err(Errno::NOENT) if !hides(layer, relative) => {}
            // Something else than a folder is in the way, or an opaque folder hides what lies below.
            Err(_) => return None,
        }
    }
    None
}

/// Whether a folder above `path` is opaque in this layer.
fn hides(layer: &OwnedFd, path: &Path) -> bool {
    path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).any(|above| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(layer, above, flags, Mode::empty(), resolve).is_ok_and(is_opaque)
    })
}

/// Changes in a folder of the upper layer. Answers whether some are its start's own only.
fn folder(
    dir: &OwnedFd,
    path: &Path,
    lower: &[OwnedFd],
    found: &mut Vec<(PathBuf, Kind)>,
) -> rustix::io::Result<bool> {
    let mut own = false;
    for name in names(dir.as_fd())? {
        let place = path.join(&name);
        let stat = match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It went away meanwhile.
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(e),
        };
        let old = in_image(lower, &place);
        if is_whiteout(&stat) {
            if old.is_some() {
                found.push((place, Kind::Deleted));
            }
            continue;
        }
        let start = found.len();
        let added = old.is_none();
        found.push((place.clone(), if added { Kind::Added } else { Kind::Modified }));
        let mut own_below = false;
        if kind_of(&stat) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(dir, &name, flags, Mode::empty()) {
                Ok(below) => {
                    own_below = folder(&below, &place, lower, found)?;
                    if is_opaque(&below) && old.as_ref().is_some_and(|o| kind_of(o) == FileType::Directory) {
                        hidden(&below, &place, lower, found)?;
                    }
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(e),
            }
        }
        if found.len() > start + 1 {
            continue;
        }
        // By itself: is it a change at all?
        let same_folder = old.as_ref().is_some_and(|old| {
            let time = |s: &Stat| (s.st_mtime, s.st_mtime_nsec);
            kind_of(&stat) == FileType::Directory
                && kind_of(old) == FileType::Directory
                && (own_below || time(old) == time(&stat))
                && (old.st_mode, old.st_uid, old.st_gid) == (stat.st_mode, stat.st_uid, stat.st_gid)
        });
        let is_own = added && OWN_PLACES.iter().any(|own| place.as_os_str() == *own);
        if same_folder || is_own {
            found.truncate(start);
        }
        own |= is_own;
    }
    Ok(own)
}

/// What an opaque folder hides of the image's.
fn hidden(
    dir: &OwnedFd,
    path: &Path,
    lower: &[OwnedFd],
    found: &mut Vec<(PathBuf, Kind)>,
) -> rustix::io::Result<()> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let mut gone: Vec<OsString> = Vec::new();
    for layer in lower {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let Ok(layer) = rustix::fs::openat2(layer, relative, flags, Mode::empty(), resolve) else { continue };
        gone.extend(names(layer.as_fd())?);
    }
    gone.sort();
    gone.dedup();
    for name in gone {
        let kept = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if !kept && in_image(lower, &path.join(&name)).is_some() {
            found.push((path.join(OsString::from_vec(name.as_bytes().to_vec())), Kind::Deleted));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn additions_changes_and_removals_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["low/etc", "low/var/old", "up/etc", "up/new/sub", "up/proc", "up/var", "work"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for file in ["low/etc/passwd", "low/var/gone", "up/etc/passwd", "up/etc/hosts", "up/new/sub/f"] {
            fs::write(at(file), file).unwrap();
        }
        let whiteout = rustix::fs::mknodat(
            CWD,
            at("up/var/gone"),
            FileType::CharacterDevice,
            Mode::empty(),
            rustix::fs::makedev(0, 0),
        );
        if whiteout.is_err() {
            eprintln!("left out: device nodes need root");
            return;
        }
        // A link in the upper folder that leads out is itself the change: nothing behind it is looked at.
        std::os::unix::fs::symlink("/", at("up/escape")).unwrap();
        let rootfs = image::RootFs { lower: vec![at("low")], upper: at("up"), work: at("work") };
        let found = changes(&rootfs).unwrap();
        let shown: Vec<(&str, Kind)> = found.iter().map(|(p, k)| (p.to_str().unwrap(), *k)).collect();
        assert_eq!(
            shown,
            [
                ("/escape", Kind::Added),
                ("/etc", Kind::Modified),
                ("/etc/passwd", Kind::Modified),
                ("/new", Kind::Added),
                ("/new/sub", Kind::Added),
                ("/new/sub/f", Kind::Added),
                ("/var", Kind::Modified),
                ("/var/gone", Kind::Deleted),
            ]
        );
    }
}
