//! Extraction below one folder, and never outside of it.
//!
//! Each entry goes the same way: its path is cleaned lexically, its parent folder is opened with
//! `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` (a symbolic link met on the way counts from the root given, as
//! in a chroot), whatever already stands under the last name is removed unless both are folders (a later entry
//! wins), the new object is made exclusively, and owner, mode, attributes and time are set through its own
//! descriptor, in this order: chown clears set-id bits and file capabilities. Folders get their times at the end.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT,
    Uid, XattrFlags, chmodat, chownat, fchmod, fchown, fsetxattr, fstat, ftruncate, futimens, linkat,
    lsetxattr, makedev, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::header::{Entry, Kind};
use crate::path::{clean, split};
use crate::{Error, Ids, Limits, OVERLAY_OPAQUE, Reader, WHITEOUT_OPAQUE, WHITEOUT_PREFIX, error::lossy};

/// Bytes written to a file at once.
const COPY_BYTES: usize = 128 * 1024;
/// Parent folders kept open.
const OPEN_PARENTS: usize = 64;
/// Mode of folders that entries imply without naming them (Docker's).
const IMPLIED_FOLDER: u32 = 0o755;

/// What `.wh.` files mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// A layer: they become overlayfs whiteouts (character device 0/0) and opaque folders.
    Overlay,
    /// Any other archive: files like others.
    Literal,
}

/// Who owns what is extracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// As the archive says.
    Archive,
    /// One user and group for all.
    Fixed {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

/// How to extract.
#[derive(Debug, Clone)]
pub struct ExtractOptions {
    /// Meaning of `.wh.` files.
    pub whiteouts: Whiteouts,
    /// Owner of what is made.
    pub owner: Owner,
    /// Refuse to replace a folder by something else and the other way round (`docker cp`'s
    /// `noOverwriteDirNonDir`).
    pub keep_kind: bool,
    /// Leave the folder that is extracted into as it is, whatever the archive says of it (`./`).
    pub keep_root: bool,
    /// What the owners are for the file system; `None`: as they are.
    pub ids: Option<Ids>,
    /// Limits of the archive.
    pub limits: Limits,
}

impl ExtractOptions {
    /// For a layer of an image, into a folder of its own.
    pub fn layer() -> Self {
        ExtractOptions {
            whiteouts: Whiteouts::Overlay,
            owner: Owner::Archive,
            keep_kind: false,
            keep_root: false,
            ids: None,
            limits: Limits::default(),
        }
    }

    /// For any other archive.
    pub fn plain() -> Self {
        ExtractOptions { whiteouts: Whiteouts::Literal, ..Self::layer() }
    }
}

/// What an extraction made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries read.
    pub entries: u64,
    /// Bytes of file data written.
    pub bytes: u64,
    /// Bytes on disk, by the file system's own count of blocks; hard links count once.
    pub disk_bytes: u64,
}

/// Extracts an archive below the folder `root`.
///
/// The input is read up to the end-of-archive mark; what follows it is left to the caller.
///
/// # Errors
/// Any [`Error`]; what was extracted until then stays.
pub fn extract(input: impl Read, root: BorrowedFd<'_>, options: &ExtractOptions) -> Result<Summary, Error> {
    let mut reader = Reader::new(input, options.limits.clone());
    let mut tree = Tree {
        root,
        options,
        parents: HashMap::new(),
        folder_times: Vec::new(),
        summary: Summary::default(),
    };
    let mut buffer = vec![0; COPY_BYTES];
    while let Some(entry) = reader.next_entry()? {
        tree.summary.entries += 1;
        tree.place(&entry, &mut reader, &mut buffer)?;
    }
    tree.finish()
}

struct Tree<'a> {
    root: BorrowedFd<'a>,
    options: &'a ExtractOptions,
    /// Folders opened before, by cleaned path. Emptied whenever a folder or link that a path may lead through goes
    /// away; a stale one could at worst be a removed folder, which takes no files.
    parents: HashMap<Vec<u8>, OwnedFd>,
    folder_times: Vec<(Vec<u8>, Timestamps)>,
    summary: Summary,
}

impl Tree<'_> {
    fn place<R: Read>(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<R>,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        let path = clean(&entry.path, reader.limits())?;
        if path.is_empty() {
            // The root itself: only its metadata can be meant.
            return match entry.kind {
                Kind::Directory if self.options.keep_root => Ok(()),
                Kind::Directory => {
                    let root = openat(self.root, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                        .map_err(|e| Error::os("open", b".", e))?;
                    self.settle(root.as_fd(), entry, b"")?;
                    self.folder_times.push((path, times(entry)));
                    Ok(())
                }
                _ => Err(Error::Outside { path: lossy(&entry.path) }),
            };
        }
        let (parent, name) = split(&path);
        self.open_parent(parent)?;
        if self.options.whiteouts == Whiteouts::Overlay && name.starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(parent, name, &path);
        }
        let had = self.make_room(parent, name, &path, entry.kind)?;
        let dir = self.parent(parent)?;
        let os = |action: &'static str| move |e: Errno| Error::os(action, &entry.path, e);
        let file_name = OsStr::from_bytes(name);
        match entry.kind {
            Kind::File => {
                let fd = openat(
                    dir,
                    file_name,
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::from_raw_mode(0o600),
                )
                .map_err(os("create"))?;
                let written = write_data(&fd, entry, reader, buffer)?;
                self.summary.bytes += written;
                self.settle(fd.as_fd(), entry, &path)?;
                futimens(&fd, &times(entry)).map_err(os("set the time of"))?;
                self.count(&fstat(&fd).map_err(os("stat"))?);
            }
            Kind::Directory => {
                if !matches!(had, Standing::Folder) {
                    mkdirat(dir, file_name, Mode::from_raw_mode(0o700)).map_err(os("mkdir"))?;
                }
                let fd = open_folder(dir, name).map_err(os("open"))?;
                if matches!(had, Standing::Whiteout) {
                    set_opaque(&fd, &path)?;
                }
                self.settle(fd.as_fd(), entry, &path)?;
                if !matches!(had, Standing::Folder) {
                    self.count(&fstat(&fd).map_err(os("stat"))?);
                }
                self.folder_times.push((path, times(entry)));
            }
            Kind::Symlink => {
                symlinkat(OsStr::from_bytes(&entry.link), dir, file_name).map_err(os("symlink"))?;
                let (uid, gid) = self.owner(entry).map_err(os("chown"))?;
                chownat(dir, file_name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(os("chown"))?;
                set_xattrs(Target::Name(dir, name), entry)?;
                utimensat(dir, file_name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(os("set the time of"))?;
                self.count(&statat(dir, file_name, AtFlags::SYMLINK_NOFOLLOW).map_err(os("stat"))?);
            }
            Kind::Hardlink => {
                let target = clean(&entry.link, reader.limits())?;
                let (target_parent, target_name) = split(&target);
                if target_name.is_empty() {
                    return Err(Error::Outside { path: lossy(&entry.link) });
                }
                let from = open_below(self.root, target_parent, OFlags::PATH | OFlags::DIRECTORY)
                    .map_err(|e| Error::os("link to", &entry.link, e))?;
                // Without AT_SYMLINK_FOLLOW: a link to a link is that link, not what it points at.
                linkat(&from, OsStr::from_bytes(target_name), dir, file_name, AtFlags::empty())
                    .map_err(|e| Error::os("link to", &entry.link, e))?;
            }
            Kind::Char | Kind::Block | Kind::Fifo => {
                let file_type = match entry.kind {
                    Kind::Char => FileType::CharacterDevice,
                    Kind::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device =
                    if entry.kind == Kind::Fifo { 0 } else { makedev(entry.device.0, entry.device.1) };
                mknodat(dir, file_name, file_type, Mode::from_raw_mode(0o600), device)
                    .map_err(os("mknod"))?;
                let node =
                    openat(dir, file_name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                        .map_err(os("open"))?;
                // In a folder others can write to (`docker cp`), what we opened must be what we made.
                let stat = fstat(&node).map_err(os("stat"))?;
                if FileType::from_raw_mode(stat.st_mode) != file_type || stat.st_nlink != 1 {
                    return Err(Error::os(
                        "mknod",
                        &entry.path,
                        io::Error::from(io::ErrorKind::AlreadyExists),
                    ));
                }
                let (uid, gid) = self.owner(entry).map_err(os("chown"))?;
                chownat(&node, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(os("chown"))?;
                chmodat(CWD, self_path(&node), Mode::from_raw_mode(entry.mode), AtFlags::empty())
                    .map_err(os("chmod"))?;
                set_xattrs(Target::Path(&node), entry)?;
                utimensat(dir, file_name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(os("set the time of"))?;
                self.count(&stat);
            }
            Kind::Global => {}
            Kind::Other(flag) => {
                return Err(Error::Unsupported { path: lossy(&entry.path), kind: flag.into() });
            }
        }
        Ok(())
    }

    /// Applies the times of folders, the deepest ones first.
    fn finish(mut self) -> Result<Summary, Error> {
        for (path, times) in self.folder_times.drain(..).rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            match open_below(self.root, &path, flags) {
                Ok(fd) => futimens(&fd, &times).map_err(|e| Error::os("set the time of", &path, e))?,
                // Replaced by a later entry.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(Error::os("open", &path, e)),
            }
        }
        Ok(self.summary)
    }

    /// The open folder of a parent path, which [`open_parent`](Tree::open_parent) opened before.
    fn parent(&self, parent: &[u8]) -> Result<BorrowedFd<'_>, Error> {
        self.parents
            .get(parent)
            .map(|fd| fd.as_fd())
            .ok_or_else(|| Error::os("open", parent, io::Error::from(io::ErrorKind::NotFound)))
    }

    /// Opens a parent folder, making what is missing of it.
    fn open_parent(&mut self, parent: &[u8]) -> Result<(), Error> {
        if self.parents.contains_key(parent) {
            return Ok(());
        }
        let fd = match open_below(self.root, parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_parents(parent)?,
            Err(e) => return Err(Error::os("open", parent, e)),
        };
        if self.parents.len() >= OPEN_PARENTS {
            self.parents.clear();
        }
        self.parents.insert(parent.to_vec(), fd);
        Ok(())
    }

    fn make_parents(&mut self, path: &[u8]) -> Result<OwnedFd, Error> {
        let os = |e: Errno| Error::os("mkdir", path, e);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut at = open_below(self.root, b"", flags).map_err(os)?;
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i).chain([path.len()]);
        for end in ends {
            let prefix = &path[..end];
            let name = OsStr::from_bytes(split(prefix).1);
            at = match open_below(self.root, prefix, flags) {
                Ok(fd) => fd,
                Err(e @ (Errno::NOENT | Errno::NOTDIR)) => {
                    // A whiteout followed by files below the same name: the folder is new and hides the old one.
                    let stat = statat(&at, name, AtFlags::SYMLINK_NOFOLLOW).ok();
                    let whiteout = stat.as_ref().is_some_and(is_whiteout)
                        && self.options.whiteouts == Whiteouts::Overlay;
                    if whiteout {
                        unlinkat(&at, name, AtFlags::empty()).map_err(os)?;
                    } else if stat.is_some() {
                        return Err(Error::os("mkdir", prefix, e));
                    }
                    mkdirat(&at, name, Mode::from_raw_mode(0o700)).map_err(os)?;
                    let fd = open_folder(at.as_fd(), name.as_bytes()).map_err(os)?;
                    if whiteout {
                        set_opaque(&fd, prefix)?;
                    }
                    if let Owner::Fixed { uid, gid } = self.options.owner {
                        let (uid, gid) = self.outside(uid, gid).map_err(os)?;
                        fchown(&fd, Some(uid), Some(gid)).map_err(os)?;
                    }
                    fchmod(&fd, Mode::from_raw_mode(IMPLIED_FOLDER)).map_err(os)?;
                    self.count(&fstat(&fd).map_err(os)?);
                    fd
                }
                Err(e) => return Err(Error::os("open", prefix, e)),
            };
        }
        Ok(at)
    }

    /// Removes what stands under `name`, unless both it and the new entry are folders.
    fn make_room(&mut self, parent: &[u8], name: &[u8], path: &[u8], new: Kind) -> Result<Standing, Error> {
        let dir = self.parent(parent)?;
        let stat = match statat(dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Standing::Nothing),
            Err(e) => return Err(Error::os("stat", path, e)),
        };
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_folder && new == Kind::Directory {
            return Ok(Standing::Folder);
        }
        if self.options.keep_kind {
            if is_folder {
                return Err(Error::Kind { path: lossy(path), existing: "directory", new: "non-directory" });
            }
            if new == Kind::Directory {
                return Err(Error::Kind { path: lossy(path), existing: "non-directory", new: "directory" });
            }
        }
        let whiteout = self.options.whiteouts == Whiteouts::Overlay && is_whiteout(&stat);
        let freed = remove(dir, name, &stat).map_err(|e| Error::os("replace", path, e))?;
        self.summary.disk_bytes = self.summary.disk_bytes.saturating_sub(freed);
        if FileType::from_raw_mode(stat.st_mode).is_dir()
            || FileType::from_raw_mode(stat.st_mode).is_symlink()
        {
            // Cached paths may have led through it. The parent itself is still where it was.
            let keep = self.parents.remove(parent);
            self.parents.clear();
            self.parents.extend(keep.map(|fd| (parent.to_vec(), fd)));
        }
        Ok(if whiteout { Standing::Whiteout } else { Standing::Nothing })
    }

    /// `.wh.NAME` hides NAME of the layers below, `.wh..wh..opq` all of them in this folder. What this very layer
    /// holds stays (OCI: whiteouts apply to lower layers only).
    fn whiteout(&mut self, parent: &[u8], name: &[u8], path: &[u8]) -> Result<(), Error> {
        if name == WHITEOUT_OPAQUE {
            let fd = open_below(self.root, parent, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(|e| Error::os("open", path, e))?;
            return set_opaque(&fd, parent);
        }
        let hidden = &name[WHITEOUT_PREFIX.len()..];
        if hidden.starts_with(WHITEOUT_PREFIX) {
            // AUFS's own bookkeeping, left in very old images.
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::Outside { path: lossy(path) });
        }
        let dir = self.parent(parent)?;
        let hidden = OsStr::from_bytes(hidden);
        match statat(dir, hidden, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let fd = open_folder(dir, hidden.as_bytes()).map_err(|e| Error::os("open", path, e))?;
                set_opaque(&fd, path)
            }
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                let mode = Mode::from_raw_mode(0o000);
                mknodat(dir, hidden, FileType::CharacterDevice, mode, makedev(0, 0))
                    .map_err(|e| Error::os("mknod", path, e))
            }
            Err(e) => Err(Error::os("stat", path, e)),
        }
    }

    /// Owner, mode and extended attributes, in the order that loses none.
    fn settle(&self, fd: BorrowedFd<'_>, entry: &Entry, path: &[u8]) -> Result<(), Error> {
        let (uid, gid) = self.owner(entry).map_err(|e| Error::os("chown", path, e))?;
        fchown(fd, Some(uid), Some(gid)).map_err(|e| Error::os("chown", path, e))?;
        fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(|e| Error::os("chmod", path, e))?;
        set_xattrs(Target::Fd(fd), entry)
    }

    fn owner(&self, entry: &Entry) -> Result<(Uid, Gid), Errno> {
        match self.options.owner {
            Owner::Archive => self.outside(entry.uid, entry.gid),
            Owner::Fixed { uid, gid } => self.outside(uid, gid),
        }
    }

    /// As the file system has them; who is nobody there is what `chown` inside says: EINVAL.
    fn outside(&self, uid: u32, gid: u32) -> Result<(Uid, Gid), Errno> {
        let (uid, gid) = match &self.options.ids {
            None => (uid, gid),
            Some(ids) => {
                (ids.uid_outside(uid).ok_or(Errno::INVAL)?, ids.gid_outside(gid).ok_or(Errno::INVAL)?)
            }
        };
        Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    fn count(&mut self, stat: &Stat) {
        self.summary.disk_bytes += stat.st_blocks as u64 * 512;
    }
}

/// What stood under the name of an entry, after room was made for it.
enum Standing {
    Nothing,
    /// A folder, which stays.
    Folder,
    /// A whiteout, removed: a folder in its place hides the one below.
    Whiteout,
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Opens a cleaned path as if `root` were `/`.
fn open_below(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) };
    loop {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename somewhere on the system raced with "..": the kernel asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

fn open_folder(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, OsStr::from_bytes(name), flags, Mode::empty())
}

fn write_data<R: Read>(
    fd: &OwnedFd,
    entry: &Entry,
    reader: &mut Reader<R>,
    buffer: &mut [u8],
) -> Result<u64, Error> {
    let os = |e: Errno| Error::os("write", &entry.path, e);
    let Some(sparse) = &entry.sparse else {
        let mut written = 0;
        loop {
            // Whole buffers: what does not end where a page ends is written twice.
            let mut filled = 0;
            while filled < buffer.len() {
                match reader.read_data(&mut buffer[filled..])? {
                    0 => break,
                    n => filled += n,
                }
            }
            if filled == 0 {
                return Ok(written);
            }
            write_all(fd, &buffer[..filled], written).map_err(os)?;
            written += filled as u64;
        }
    };
    ftruncate(fd, sparse.real_size).map_err(os)?;
    for segment in &sparse.segments {
        let mut at = 0;
        while at < segment.length {
            let want = buffer.len().min(usize::try_from(segment.length - at).unwrap_or(usize::MAX));
            let n = reader.read_data(&mut buffer[..want])?;
            if n == 0 {
                return Err(Error::Truncated);
            }
            write_all(fd, &buffer[..n], segment.offset + at).map_err(os)?;
            at += n as u64;
        }
    }
    Ok(entry.size)
}

fn write_all(fd: &OwnedFd, mut data: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !data.is_empty() {
        match rustix::io::pwrite(fd, data, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => {
                data = &data[n..];
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Removes a name and, for a folder, all below it. Returns the bytes on disk this gave back.
fn remove(dir: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<u64, Errno> {
    let os_name = OsStr::from_bytes(name);
    let own = if stat.st_nlink <= 1 || FileType::from_raw_mode(stat.st_mode).is_dir() {
        stat.st_blocks as u64 * 512
    } else {
        0
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        unlinkat(dir, os_name, AtFlags::empty())?;
        return Ok(own);
    }
    // An explicit stack of open folders: the archive may nest as deep as its limits allow.
    let mut freed = own;
    let mut stack = vec![(name.to_vec(), open_folder(dir, name)?)];
    while let Some((_, folder)) = stack.last() {
        let mut below = None;
        for item in Dir::read_from(folder)? {
            let item = item?;
            let item_name = item.file_name();
            if matches!(item_name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = statat(folder, item_name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                freed += stat.st_blocks as u64 * 512;
                below =
                    Some((item_name.to_bytes().to_vec(), open_folder(folder.as_fd(), item_name.to_bytes())?));
                break;
            }
            if stat.st_nlink <= 1 {
                freed += stat.st_blocks as u64 * 512;
            }
            unlinkat(folder, item_name, AtFlags::empty())?;
        }
        match below {
            Some(below) => stack.push(below),
            None => {
                let Some((done, _)) = stack.pop() else { break };
                let above = stack.last().map_or(dir, |(_, fd)| fd.as_fd());
                unlinkat(above, OsStr::from_bytes(&done), AtFlags::REMOVEDIR)?;
            }
        }
    }
    Ok(freed)
}

fn set_opaque(folder: &OwnedFd, path: &[u8]) -> Result<(), Error> {
    fsetxattr(folder, OVERLAY_OPAQUE, b"y", XattrFlags::empty())
        .map_err(|e| Error::os("mark as opaque", path, e))
}

/// What extended attributes are set on.
enum Target<'a> {
    Fd(BorrowedFd<'a>),
    /// A symbolic link, by its folder and name.
    Name(BorrowedFd<'a>, &'a [u8]),
    /// An `O_PATH` descriptor.
    Path(&'a OwnedFd),
}

fn set_xattrs(target: Target<'_>, entry: &Entry) -> Result<(), Error> {
    for (name, value) in &entry.xattrs {
        // Overlayfs' own attributes are its control plane (redirects, opaque marks): never an image's to set.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let attribute = OsStr::from_bytes(name);
        let flags = XattrFlags::empty();
        let done = match &target {
            Target::Fd(fd) => fsetxattr(fd, attribute, value, flags),
            Target::Name(dir, name) => {
                let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
                path.extend_from_slice(name);
                lsetxattr(OsStr::from_bytes(&path), attribute, value, flags)
            }
            Target::Path(node) => rustix::fs::setxattr(self_path(node), attribute, value, flags),
        };
        match done {
            // As Docker: a file system or object without them loses them (user.* on links and devices).
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(e) => return Err(Error::os("set an extended attribute of", &entry.path, e)),
        }
    }
    Ok(())
}

fn self_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn times(entry: &Entry) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.into() },
    }
}
