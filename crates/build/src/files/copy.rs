//! `COPY` and `ADD`: files of one tree put into another, as BuildKit does it (fsutil, `copy/copy.go`).

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::attributes::{adorn, symbolic, xattrs, xattrs_of};
use super::digest::DEPTH;
use super::{Found, Root, fault, is_dir, names};
use crate::Error;
use crate::graph::Chmod;

/// Mode of folders that are made on the way to a destination.
const FOLDER: u32 = 0o755;
/// Mode of a file that stands in the Dockerfile.
const INLINE: u32 = 0o644;

/// What is the same for all sources of one step.
pub struct Copier<'a> {
    /// Where to.
    pub to: &'a Root,
    /// Owner of what is made; `None`: the source's own, and root for folders on the way.
    pub owner: Option<(u32, u32)>,
    /// Mode of what is made.
    pub chmod: Option<&'a Chmod>,
    /// Time of what is made.
    pub time: Option<Timespec>,
    /// Of a folder, take what is in it.
    pub contents_only: bool,
    /// Which paths below a source are taken; the flag: a folder.
    pub taken: &'a dyn Fn(&str, bool) -> bool,
    /// Set: give up.
    pub stop: &'a AtomicBool,
    /// Hard links seen so far, by device and inode: in which folder, under which name.
    pub links: HashMap<(u64, u64), (OwnedFd, CString)>,
}

/// What a hand-over of one name needs.
struct Place<'a> {
    from: BorrowedFd<'a>,
    name: &'a CStr,
    to: BorrowedFd<'a>,
    as_name: &'a CStr,
    /// Path at the destination, for words.
    shown: &'a str,
    /// Path from the source, for patterns.
    inside: &'a str,
    /// A folder that is there gets the source's mode and owner.
    overwrite: bool,
    depth: usize,
}

/// A name in a folder that is held open: one that led elsewhere would leave the tree.
fn one_name(text: &str) -> Result<CString, Error> {
    let none = || Error::invalid(format!("{text:?} is not the name of a file"));
    if text.contains('/') || text == ".." {
        return Err(none());
    }
    CString::new(text).map_err(|_| none())
}

impl Copier<'_> {
    /// Puts one source at `dest`.
    ///
    /// # Errors
    /// A file where a folder is and the other way round; faults of the disk.
    pub fn copy(&mut self, found: &Found, dest: &str) -> Result<(), Error> {
        let (folder, name, into) = self.place(dest)?;
        let from_dir = is_dir(&found.stat);
        let base = found.path.trim_matches('/').rsplit('/').next().unwrap_or("").to_owned();
        let below = if from_dir { into.is_some() && !self.contents_only } else { into.is_some() };
        let source = one_name(&found.name)?;
        if from_dir && self.contents_only {
            let target = match into {
                Some(target) => target,
                None => self.make_dirs(dest)?,
            };
            return self.contents(found.parent.as_fd(), &source, target.as_fd(), dest, "", 0);
        }
        let (to, as_name) = match into.filter(|_| below) {
            Some(folder) => (folder, base),
            None => (folder, name),
        };
        let shown = format!("{}/{as_name}", dest.trim_end_matches('/'));
        self.entry(
            Place {
                from: found.parent.as_fd(),
                name: &source,
                to: to.as_fd(),
                as_name: &one_name(&as_name)?,
                shown: &shown,
                inside: "",
                overwrite: false,
                depth: 0,
            },
            &found.stat,
        )
    }

    /// Makes a file with this content at `dest`.
    ///
    /// # Errors
    /// As [`copy`](Self::copy).
    pub fn inline(&mut self, name: &str, data: &[u8], dest: &str) -> Result<(), Error> {
        let (folder, last, into) = self.place(dest)?;
        let (to, as_name) = match into {
            Some(folder) => (folder, name.to_owned()),
            None => (folder, last),
        };
        let as_name = one_name(&as_name)?;
        self.make_room(to.as_fd(), &as_name, dest)?;
        let file = create(to.as_fd(), &as_name, dest)?;
        File::from(file.try_clone().map_err(|e| Error::invalid(e.to_string()))?)
            .write_all(data)
            .map_err(|e| Error::invalid(format!("write {dest}: {e}")))?;
        let (uid, gid) = self.owner.unwrap_or((0, 0));
        let mode = self.mode(INLINE, false);
        let now = self.time.unwrap_or_else(now);
        adorn(&file, uid, gid, Some(mode), now, dest)
    }

    /// Unpacks an archive into the folder `dest`.
    ///
    /// # Errors
    /// What is wrong with the archive.
    pub fn unpack(&mut self, archive: impl Read, dest: &str) -> Result<(), Error> {
        // As with BuildKit: a mode that is asked for is none of an archive, nor of where it goes.
        let target = self.make_dirs_as(dest, FOLDER)?;
        let folder = reopen(&target, dest)?;
        let stopped = Stopped { inner: archive, stop: self.stop };
        let mut options = archive::ExtractOptions::plain();
        options.keep_root = true;
        if let Some((uid, gid)) = self.owner {
            options.owner = archive::Owner::Fixed { uid, gid };
        }
        archive::extract(stopped, folder.as_fd(), &options)
            .map(drop)
            .map_err(|e| Error::invalid(format!("unpack to {dest}: {e}")))
    }

    /// The folder a destination is in, its name there, and the folder that it is, if it is one. Folders above it are
    /// made.
    fn place(&self, dest: &str) -> Result<(OwnedFd, String, Option<OwnedFd>), Error> {
        let clean = dest.trim_matches('/');
        let as_folder = dest.ends_with('/') || clean.is_empty();
        let (before, name) = clean.rsplit_once('/').unwrap_or(("", clean));
        let folder = self.make_dirs(if as_folder { clean } else { before })?;
        if as_folder {
            let again = folder.try_clone().map_err(|e| Error::invalid(e.to_string()))?;
            return Ok((folder, name.to_owned(), Some(again)));
        }
        match self.to.at(clean, OFlags::PATH) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).map_err(|e| fault("stat", dest, e))?;
                if is_dir(&stat) {
                    return Ok((folder, name.to_owned(), Some(fd)));
                }
                // A link to a file: what it leads to is replaced, not the link.
                let real =
                    std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)));
                let root = std::fs::read_link(format!(
                    "/proc/self/fd/{}",
                    std::os::fd::AsRawFd::as_raw_fd(&self.to.0)
                ));
                if let (Ok(real), Ok(root)) = (real, root)
                    && let Ok(inside) = real.strip_prefix(&root)
                    && let Some(inside) = inside.to_str()
                    && inside != clean
                {
                    let (before, name) = inside.rsplit_once('/').unwrap_or(("", inside));
                    return Ok((self.make_dirs(before)?, name.to_owned(), None));
                }
                Ok((folder, name.to_owned(), None))
            }
            Err(Errno::NOENT) => Ok((folder, name.to_owned(), None)),
            Err(e) => Err(fault("open", dest, e)),
        }
    }

    /// Makes a folder with those above it, as far as they are missing.
    ///
    /// # Errors
    /// When something else is in the way.
    pub fn make_dirs(&self, path: &str) -> Result<OwnedFd, Error> {
        // As with BuildKit: a mode in numbers is one for the folders above as well, but for set-id bits; a symbolic one
        // is not.
        let mode = match self.chmod {
            Some(Chmod::Bits(bits)) => *bits & 0o777,
            _ => FOLDER,
        };
        self.make_dirs_as(path, mode)
    }

    /// The same with a mode.
    ///
    /// # Errors
    /// When something else is in the way.
    pub fn make_dirs_as(&self, path: &str, mode: u32) -> Result<OwnedFd, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.to.at(path, flags) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(fault("open", path, e)),
        }
        let mut at = self.to.at("/", flags).map_err(|e| fault("open", path, e))?;
        let mut so_far = String::new();
        for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
            so_far = format!("{so_far}/{part}");
            at = match self.to.at(&so_far, flags) {
                Err(Errno::NOENT) if part != ".." => {
                    match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o700)) {
                        // A link that leads nowhere: it stays.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(e) => return Err(fault("mkdir", &so_far, e)),
                    }
                    let made = self.to.at(&so_far, flags).map_err(|e| fault("open", &so_far, e))?;
                    let (uid, gid) = self.owner.unwrap_or((0, 0));
                    let real = reopen(&made, &so_far)?;
                    adorn(&real, uid, gid, Some(mode), self.time.unwrap_or_else(now), &so_far)?;
                    made
                }
                Ok(fd) => fd,
                Err(e) => return Err(fault("open", &so_far, e)),
            };
        }
        Ok(at)
    }

    fn mode(&self, source: u32, folder: bool) -> u32 {
        match self.chmod {
            None => source & 0o7777,
            Some(Chmod::Bits(bits)) => *bits,
            Some(Chmod::Symbolic(text)) => symbolic(text, source & 0o7777, folder),
        }
    }

    fn contents(
        &mut self,
        from: BorrowedFd<'_>,
        name: &CStr,
        to: BorrowedFd<'_>,
        shown: &str,
        inside: &str,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(Error::invalid(format!("{shown}: more than {DEPTH} folders below each other")));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder =
            rustix::fs::openat(from, name, flags, Mode::empty()).map_err(|e| fault("open", shown, e))?;
        for name in names(folder.as_fd()).map_err(|e| fault("read", shown, e))? {
            let stat = rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| fault("stat", shown, e))?;
            let text = name.to_string_lossy();
            let below = if inside.is_empty() { text.to_string() } else { format!("{inside}/{text}") };
            self.entry(
                Place {
                    from: folder.as_fd(),
                    name: &name,
                    to,
                    as_name: &name,
                    shown: &format!("{}/{text}", shown.trim_end_matches('/')),
                    inside: &below,
                    overwrite: true,
                    depth: depth + 1,
                },
                &stat,
            )?;
        }
        Ok(())
    }

    fn entry(&mut self, place: Place<'_>, stat: &Stat) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::invalid("context canceled"));
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let folder = kind == FileType::Directory;
        let wanted = place.inside.is_empty() || (self.taken)(place.inside, folder);
        if folder {
            return self.folder(&place, stat, wanted);
        }
        if !wanted || kind == FileType::Socket {
            return Ok(());
        }
        self.make_room(place.to, place.as_name, place.shown)?;
        if stat.st_nlink > 1 && kind == FileType::RegularFile {
            let key = (stat.st_dev, stat.st_ino);
            if let Some((folder, name)) = self.links.get(&key) {
                return rustix::fs::linkat(folder, name, place.to, place.as_name, AtFlags::empty())
                    .map_err(|e| fault("link", place.shown, e));
            }
            let folder = place.to.try_clone_to_owned().map_err(|e| Error::invalid(e.to_string()))?;
            self.links.insert(key, (folder, place.as_name.to_owned()));
        }
        let (uid, gid) = self.owner.unwrap_or((stat.st_uid, stat.st_gid));
        let time = self.time.unwrap_or(modified(stat));
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let source = rustix::fs::openat(place.from, place.name, flags, Mode::empty())
                    .map_err(|e| fault("open", place.shown, e))?;
                let file = create(place.to, place.as_name, place.shown)?;
                let mut from = File::from(source);
                let mut to = File::from(file);
                if stat.st_size > 0 {
                    std::io::copy(&mut Stopped { inner: &mut from, stop: self.stop }.plain(), &mut to)
                        .map_err(|e| Error::invalid(format!("copy to {}: {e}", place.shown)))?;
                }
                for (name, value) in xattrs_of(&from) {
                    // Where the file system has none, it is as with BuildKit: they are lost.
                    let _ = rustix::fs::fsetxattr(&to, name.as_str(), &value, XattrFlags::empty());
                }
                let mode = self.mode(stat.st_mode, false);
                // A change of owner takes away what a file may do by its own.
                let capabilities = xattrs_of(&from).into_iter().find(|(n, _)| n == "security.capability");
                adorn(&to, uid, gid, Some(mode), time, place.shown)?;
                if let Some((name, value)) = capabilities {
                    let _ = rustix::fs::fsetxattr(&to, name.as_str(), &value, XattrFlags::empty());
                }
                Ok(())
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(place.from, place.name, Vec::new())
                    .map_err(|e| fault("read", place.shown, e))?;
                rustix::fs::symlinkat(&target, place.to, place.as_name)
                    .map_err(|e| fault("link", place.shown, e))?;
                finish(&place, uid, gid, None, time)
            }
            _ => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::mknodat(place.to, place.as_name, kind, mode, stat.st_rdev)
                    .map_err(|e| fault("mknod", place.shown, e))?;
                finish(&place, uid, gid, Some(self.mode(stat.st_mode, false)), time)
            }
        }
    }

    fn folder(&mut self, place: &Place<'_>, stat: &Stat, wanted: bool) -> Result<(), Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(place.to, place.as_name, flags, Mode::empty());
        let (target, new) = match rustix::fs::statat(place.to, place.as_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) if is_dir(&there) => (open().map_err(|e| fault("open", place.shown, e))?, false),
            Ok(_) => {
                return Err(Error::invalid(format!("cannot copy to non-directory: {}", place.shown)));
            }
            Err(Errno::NOENT) if !wanted && !self.has_wanted(place)? => return Ok(()),
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(place.to, place.as_name, Mode::from_raw_mode(0o700))
                    .map_err(|e| fault("mkdir", place.shown, e))?;
                (open().map_err(|e| fault("open", place.shown, e))?, true)
            }
            Err(e) => return Err(fault("stat", place.shown, e)),
        };
        self.contents(place.from, place.name, target.as_fd(), place.shown, place.inside, place.depth)?;
        let adorned = new || place.overwrite && wanted;
        if !adorned {
            return Ok(());
        }
        for (name, value) in xattrs(place.from, place.name) {
            let _ = rustix::fs::fsetxattr(&target, name.as_str(), &value, XattrFlags::empty());
        }
        let (uid, gid) = self.owner.unwrap_or((stat.st_uid, stat.st_gid));
        let mode = self.mode(stat.st_mode, true);
        adorn(&target, uid, gid, Some(mode), self.time.unwrap_or(modified(stat)), place.shown)
    }

    /// Whether anything below a folder that is not taken itself is.
    fn has_wanted(&self, place: &Place<'_>) -> Result<bool, Error> {
        fn look(
            folder: &OwnedFd,
            inside: &str,
            taken: &dyn Fn(&str, bool) -> bool,
            depth: usize,
        ) -> rustix::io::Result<bool> {
            if depth > DEPTH {
                return Ok(false);
            }
            for name in names(folder.as_fd())? {
                let stat = rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                let below = format!("{inside}/{}", name.to_string_lossy());
                if taken(&below, is_dir(&stat)) {
                    return Ok(true);
                }
                if is_dir(&stat) {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let inner = rustix::fs::openat(folder, &name, flags, Mode::empty())?;
                    if look(&inner, &below, taken, depth + 1)? {
                        return Ok(true);
                    }
                }
            }
            Ok(false)
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(place.from, place.name, flags, Mode::empty())
            .and_then(|folder| look(&folder, place.inside, self.taken, place.depth))
            .map_err(|e| fault("read", place.shown, e))
    }

    /// Takes away the file that is in the way; a folder is not.
    fn make_room(&self, to: BorrowedFd<'_>, name: &CStr, shown: &str) -> Result<(), Error> {
        match rustix::fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(fault("stat", shown, e)),
            Ok(there) if is_dir(&there) => {
                Err(Error::invalid(format!("cannot replace to directory {shown} with file")))
            }
            Ok(_) => rustix::fs::unlinkat(to, name, AtFlags::empty()).map_err(|e| fault("remove", shown, e)),
        }
    }
}

fn create(to: BorrowedFd<'_>, name: &CStr, shown: &str) -> Result<OwnedFd, Error> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600)).map_err(|e| fault("create", shown, e))
}

fn reopen(folder: &OwnedFd, shown: &str) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(folder, ".", flags, Mode::empty()).map_err(|e| fault("open", shown, e))
}

fn modified(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ }
}

fn now() -> Timespec {
    rustix::time::clock_gettime(rustix::time::ClockId::Realtime)
}

/// The same for what cannot be opened: in the folder that is held, the last part not followed.
fn finish(place: &Place<'_>, uid: u32, gid: u32, mode: Option<u32>, time: Timespec) -> Result<(), Error> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::chownat(place.to, place.as_name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .and_then(|()| match mode {
            Some(mode) => rustix::fs::chmodat(
                place.to,
                place.as_name,
                Mode::from_raw_mode(mode & 0o7777),
                AtFlags::empty(),
            ),
            None => Ok(()),
        })
        .and_then(|()| rustix::fs::utimensat(place.to, place.as_name, &times, AtFlags::SYMLINK_NOFOLLOW))
        .map_err(|e| fault("set owner and time of", place.shown, e))
}

/// Reads until told to stop.
struct Stopped<'a, R> {
    inner: R,
    stop: &'a AtomicBool,
}

impl<R: Read> Read for Stopped<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("context canceled"));
        }
        self.inner.read(buf)
    }
}

impl<'a, 'b> Stopped<'a, &'b mut File> {
    /// The file itself, which the kernel can copy without us; a copy that is under way is not stopped.
    fn plain(self) -> &'b mut File {
        self.inner
    }
}

/// Whether a file is an archive that `ADD` unpacks, by its content. Reads to tell; the reader then starts anew.
pub fn is_archive(mut head: impl Read) -> bool {
    let mut block = [0; 512];
    let mut have = 0;
    while have < block.len() {
        match head.read(&mut block[have..]) {
            Ok(0) | Err(_) => break,
            Ok(n) => have += n,
        }
    }
    // The checksum of a header: its bytes with the field itself as spaces (POSIX ustar).
    if have < block.len() {
        return false;
    }
    let text = String::from_utf8_lossy(&block[148..156]).trim_matches([' ', '\0']).to_owned();
    let Ok(said) = u32::from_str_radix(&text, 8) else { return false };
    let sum: u32 =
        block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
    said == sum && block.iter().any(|b| *b != 0)
}

/// A file as a reader from its beginning.
///
/// # Errors
/// When it cannot be opened.
pub fn reader(found: &Found) -> Result<BufReader<File>, Error> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::openat(&found.parent, found.name.as_str(), flags, Mode::empty())
        .map_err(|e| fault("open", &found.path, e))?;
    Ok(BufReader::with_capacity(256 << 10, File::from(fd)))
}
