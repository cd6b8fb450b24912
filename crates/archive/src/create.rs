//! Archives from a folder.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fgetxattr, flistxattr, lgetxattr, llistxattr,
    major, minor, openat, openat2, readlinkat, statat,
};
use rustix::io::Errno;

use crate::{Error, Ids, OVERLAY_OPAQUE, Summary, WHITEOUT_OPAQUE, WHITEOUT_PREFIX, Whiteouts, error::lossy};

/// Longest list of attribute names, and longest value, that Linux has (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`), bytes.
const XATTR_BYTES: usize = 64 * 1024;

/// How to make an archive.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Name the members get in place of the path given: `docker cp` renames its source so.
    pub rename: Option<Vec<u8>>,
    /// Write only what lies in the folder, as `./...` with the folder itself first.
    pub contents_only: bool,
    /// Write only what lies in the folder, by its plain path (`etc/passwd`), without the folder itself.
    pub bare: bool,
    /// Folders, by device and inode, that are written without what lies in them: `/proc` and its like.
    pub without_contents: Vec<(u64, u64)>,
    /// What the owners on the file system are in the archive; `None`: the same.
    pub ids: Option<Ids>,
    /// What overlayfs' whiteouts become: `.wh.` files of a layer, or devices as they are.
    pub whiteouts: Whiteouts,
    /// Write no end-of-archive mark: more follows, and at last [`end`].
    pub unended: bool,
    /// Which times members have.
    pub times: Times,
}

/// Times of an archive's members, in seconds after 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Times {
    /// Those that the files have.
    #[default]
    Own,
    /// No member is younger.
    NotAfter(i64),
    /// All have this one.
    All(i64),
}

impl Default for CreateOptions {
    fn default() -> Self {
        CreateOptions {
            rename: None,
            contents_only: false,
            bare: false,
            without_contents: Vec::new(),
            ids: None,
            whiteouts: Whiteouts::Literal,
            unended: false,
            times: Times::Own,
        }
    }
}

impl CreateOptions {
    /// For the upper folder of an overlay, as a layer of an image: its contents without the folder itself.
    pub fn layer() -> Self {
        CreateOptions { bare: true, whiteouts: Whiteouts::Overlay, ..CreateOptions::default() }
    }
}

/// Writes `path` (below the folder `root`, resolved as if that were `/`; not followed in its last component) and all
/// below it as an archive. Sockets are left out, as Docker does.
///
/// # Errors
/// [`Error::Os`] when something cannot be read, [`Error::Write`] when the output ends.
pub fn create(
    root: BorrowedFd<'_>,
    path: &[u8],
    options: &CreateOptions,
    out: impl Write,
) -> Result<Summary, Error> {
    let path = crate::path::clean(path, &crate::Limits::default())?;
    let (parent, name) = crate::path::split(&path);
    let above = if parent.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(parent) };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let dir =
        openat2(root, above, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve)
            .map_err(|e| Error::os("open", parent, e))?;
    let mut walk = Walk {
        out,
        links: HashMap::new(),
        summary: Summary::default(),
        without_contents: &options.without_contents,
        ids: options.ids.as_ref(),
        overlay: options.whiteouts == Whiteouts::Overlay,
        times: options.times,
    };
    let name = if name.is_empty() { &b"."[..] } else { name };
    let shown = match &options.rename {
        Some(shown) => shown.clone(),
        None if options.bare => Vec::new(),
        None if options.contents_only => b".".to_vec(),
        None => name.to_vec(),
    };
    walk.add(dir.as_fd(), name, shown, options.bare)?;
    if !options.unended {
        end(&mut walk.out)?;
    }
    walk.out.flush().map_err(Error::Write)?;
    Ok(walk.summary)
}

/// Writes one file of an archive, root's, from memory; `mtime` in seconds after 1970.
///
/// # Errors
/// [`Error::Write`] when the output ends.
pub fn file(path: &[u8], mode: u32, mtime: i64, data: &[u8], mut out: impl Write) -> Result<(), Error> {
    let member = Member {
        path: path.to_vec(),
        link: Vec::new(),
        flag: b'0',
        mode,
        uid: 0,
        gid: 0,
        size: data.len() as u64,
        mtime: (mtime, 0),
        device: (0, 0),
        xattrs: Vec::new(),
    };
    let padding = data.len().wrapping_neg() % 512;
    out.write_all(&member.encode())
        .and_then(|()| out.write_all(data))
        .and_then(|()| out.write_all(&[0; 512][..padding]))
        .map_err(Error::Write)
}

/// Writes the end-of-archive mark.
///
/// # Errors
/// [`Error::Write`] when the output ends.
pub fn end(mut out: impl Write) -> Result<(), Error> {
    out.write_all(&[0; 1024]).map_err(Error::Write)
}

struct Walk<'a, W> {
    out: W,
    without_contents: &'a [(u64, u64)],
    ids: Option<&'a Ids>,
    /// First member of each file with more than one name, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    summary: Summary,
    /// Whiteouts are written as a layer has them.
    overlay: bool,
    /// No member is younger.
    times: Times,
}

impl<W: Write> Walk<'_, W> {
    fn add(&mut self, dir: BorrowedFd<'_>, name: &[u8], shown: Vec<u8>, bare: bool) -> Result<(), Error> {
        let mut stack: Vec<(OwnedFd, Vec<u8>, std::vec::IntoIter<Vec<u8>>)> = Vec::new();
        if bare {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder = openat(dir, OsStr::from_bytes(name), flags, Mode::empty())
                .map_err(|e| Error::os("open", name, e))?;
            let names = names_in(&folder, name)?;
            stack.push((folder, shown, names.into_iter()));
        } else if let Some(folder) = self.one(dir, name, &shown)? {
            let names = names_in(&folder, &shown)?;
            stack.push((folder, shown, names.into_iter()));
        }
        while let Some((folder, shown, names)) = stack.last_mut() {
            let Some(name) = names.next() else {
                stack.pop();
                continue;
            };
            let shown = match shown.as_slice() {
                [] if bare => name.clone(),
                above => [above, name.as_slice()].join(&b'/'),
            };
            if let Some(below) = self.one(folder.as_fd(), &name, &shown)? {
                let names = names_in(&below, &shown)?;
                stack.push((below, shown, names.into_iter()));
            }
        }
        Ok(())
    }

    /// Writes one member; returns the folder when it is one.
    fn one(&mut self, dir: BorrowedFd<'_>, name: &[u8], shown: &[u8]) -> Result<Option<OwnedFd>, Error> {
        let os = |action: &'static str| move |e: Errno| Error::os(action, shown, e);
        let file_name = OsStr::from_bytes(name);
        let stat = statat(dir, file_name, AtFlags::SYMLINK_NOFOLLOW).map_err(os("stat"))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Socket {
            return Ok(None);
        }
        let opened = match kind {
            FileType::RegularFile | FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                Some(openat(dir, file_name, flags, Mode::empty()).map_err(os("open"))?)
            }
            _ => None,
        };
        // What was opened counts: it may have been replaced since.
        let stat = match &opened {
            Some(fd) => rustix::fs::fstat(fd).map_err(os("stat"))?,
            None => stat,
        };
        if FileType::from_raw_mode(stat.st_mode) != kind {
            return Err(Error::os("open", shown, io::Error::other("changed while it was read")));
        }
        let whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0;
        if self.overlay && whiteout {
            return self.whiteout(shown, &stat).map(|()| None);
        }
        let mut member = self.member(shown, &stat);
        if let Some(ids) = self.ids {
            (member.uid, member.gid) = (ids.uid_inside(member.uid), ids.gid_inside(member.gid));
        }
        self.summary.entries += 1;
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                member.link = first.clone();
                member.flag = b'1';
                member.size = 0;
                self.out.write_all(&member.encode()).map_err(Error::Write)?;
                return Ok(None);
            }
            self.links.insert((stat.st_dev, stat.st_ino), shown.to_vec());
        }
        match kind {
            FileType::Directory => {
                member.flag = b'5';
                member.path.push(b'/');
            }
            FileType::Symlink => {
                member.flag = b'2';
                member.link = readlinkat(dir, file_name, Vec::new()).map_err(os("readlink"))?.into_bytes();
            }
            FileType::CharacterDevice => member.flag = b'3',
            FileType::BlockDevice => member.flag = b'4',
            FileType::Fifo => member.flag = b'6',
            _ => member.size = stat.st_size as u64,
        }
        member.xattrs = match &opened {
            Some(fd) => xattrs(|buf| flistxattr(fd, buf), |name, buf| fgetxattr(fd, name, buf))
                .map_err(os("xattr"))?,
            None => {
                let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
                path.extend_from_slice(name);
                let path = OsStr::from_bytes(&path);
                xattrs(|buf| llistxattr(path, buf), |name, buf| lgetxattr(path, name, buf))
                    .map_err(os("xattr"))?
            }
        };
        self.out.write_all(&member.encode()).map_err(Error::Write)?;
        match (kind, opened) {
            (FileType::Directory, _) if self.without_contents.contains(&(stat.st_dev, stat.st_ino)) => {
                Ok(None)
            }
            (FileType::Directory, Some(folder)) => {
                if self.overlay && is_opaque(&folder).map_err(os("xattr"))? {
                    let mark = self.member(&[shown, WHITEOUT_OPAQUE].join(&b'/'), &stat).empty();
                    self.out.write_all(&mark.encode()).map_err(Error::Write)?;
                }
                Ok(Some(folder))
            }
            (FileType::RegularFile, Some(fd)) => {
                let size = member.size;
                let mut file = std::fs::File::from(fd).take(size);
                let copied = io::copy(&mut file, &mut self.out).map_err(Error::Write)?;
                // A file that shrank meanwhile is filled up: the header has promised its length.
                let fill = (size - copied) + size.wrapping_neg() % 512;
                io::copy(&mut io::repeat(0).take(fill), &mut self.out).map_err(Error::Write)?;
                self.summary.bytes += size;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn member(&self, path: &[u8], stat: &Stat) -> Member {
        let mut member = Member::new(path, stat);
        member.mtime = match self.times {
            Times::Own => member.mtime,
            Times::NotAfter(youngest) => member.mtime.min((youngest, 0)),
            Times::All(time) => (time, 0),
        };
        member
    }

    /// Writes what stands for the removal of a lower file.
    fn whiteout(&mut self, shown: &[u8], stat: &Stat) -> Result<(), Error> {
        let (folder, name) = crate::path::split(shown);
        let mut path = folder.to_vec();
        if !folder.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(WHITEOUT_PREFIX);
        path.extend_from_slice(name);
        self.summary.entries += 1;
        self.out.write_all(&self.member(&path, stat).empty().encode()).map_err(Error::Write)
    }
}

/// Whether overlayfs has marked a folder as hiding the lower ones.
fn is_opaque(folder: &OwnedFd) -> Result<bool, Errno> {
    let mut value = [0; 1];
    match fgetxattr(folder, OVERLAY_OPAQUE, &mut value) {
        // `x` marks folders that merely hold whiteouts of another kind.
        Ok(n) => Ok(n == 1 && value[0] == b'y'),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(Errno::RANGE) => Ok(false),
        Err(e) => Err(e),
    }
}

fn names_in(folder: &OwnedFd, shown: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let mut names = Vec::new();
    for item in Dir::read_from(folder).map_err(|e| Error::os("read", shown, e))? {
        let item = item.map_err(|e| Error::os("read", shown, e))?;
        let name = item.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Extended attributes: names and values.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Attributes by name; those of overlayfs and of labels stay behind.
fn xattrs(
    list: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&OsStr, &mut [u8]) -> Result<usize, Errno>,
) -> Result<Xattrs, Errno> {
    let mut names = vec![0; XATTR_BYTES];
    let length = match list(&mut names) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    let mut value = vec![0; XATTR_BYTES];
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        // What Docker keeps of them: capabilities and user's own.
        if name != b"security.capability"
            && (!name.starts_with(b"user.") || name.starts_with(b"user.overlay."))
        {
            continue;
        }
        match get(OsStr::from_bytes(name), &mut value) {
            Ok(n) => found.push((name.to_vec(), value[..n].to_vec())),
            Err(Errno::NODATA) => {}
            Err(e) => return Err(e),
        }
    }
    found.sort();
    Ok(found)
}

struct Member {
    path: Vec<u8>,
    link: Vec<u8>,
    flag: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: (i64, u32),
    device: (u32, u32),
    xattrs: Xattrs,
}

impl Member {
    fn new(path: &[u8], stat: &Stat) -> Self {
        Member {
            path: path.to_vec(),
            link: Vec::new(),
            flag: b'0',
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: 0,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            device: (major(stat.st_rdev), minor(stat.st_rdev)),
            xattrs: Vec::new(),
        }
    }

    /// As an empty file that only its name says something of.
    fn empty(mut self) -> Self {
        (self.flag, self.mode, self.size, self.device) = (b'0', 0, 0, (0, 0));
        self
    }

    /// The ustar block, with a PAX header before it where a field does not fit.
    fn encode(&self) -> Vec<u8> {
        let mut pax: Vec<(String, Vec<u8>)> = Vec::new();
        let mut header = tar::Header::new_ustar();
        let bytes = header.as_mut_bytes();
        if self.path.len() <= 100 && self.path.is_ascii() {
            bytes[..self.path.len()].copy_from_slice(&self.path);
        } else {
            pax.push(("path".into(), self.path.clone()));
            let short = short_ascii(&self.path);
            bytes[..short.len()].copy_from_slice(&short);
        }
        if self.link.len() <= 100 && self.link.is_ascii() {
            bytes[157..157 + self.link.len()].copy_from_slice(&self.link);
        } else {
            pax.push(("linkpath".into(), self.link.clone()));
        }
        header.set_entry_type(tar::EntryType::new(self.flag));
        header.set_mode(self.mode);
        // 7 octal digits for ids, 11 for size and time.
        let id = |value: u32, name: &str, pax: &mut Vec<(String, Vec<u8>)>| {
            if value > 0o777_7777 {
                pax.push((name.into(), value.to_string().into_bytes()));
                return 0;
            }
            u64::from(value)
        };
        header.set_uid(id(self.uid, "uid", &mut pax));
        header.set_gid(id(self.gid, "gid", &mut pax));
        if self.size > 0o777_7777_7777 {
            pax.push(("size".into(), self.size.to_string().into_bytes()));
            header.set_size(0);
        } else {
            header.set_size(self.size);
        }
        let (seconds, nanos) = self.mtime;
        header.set_mtime(seconds.clamp(0, 0o777_7777_7777) as u64);
        if nanos != 0 || !(0..=0o777_7777_7777).contains(&seconds) {
            let text = if seconds < 0 && nanos > 0 {
                let back = 1_000_000_000 - nanos;
                // -0.5 is second -1 and half a second.
                format!("-{}.{back:09}", (seconds + 1).unsigned_abs())
            } else {
                format!("{seconds}.{nanos:09}")
            };
            pax.push(("mtime".into(), text.into_bytes()));
        }
        if matches!(self.flag, b'3' | b'4') {
            // An ustar header always has these fields.
            let _ = header.set_device_major(self.device.0);
            let _ = header.set_device_minor(self.device.1);
        }
        for (name, value) in &self.xattrs {
            pax.push((format!("SCHILY.xattr.{}", lossy(name)), value.clone()));
        }
        header.set_cksum();
        let mut out = Vec::with_capacity(512);
        if !pax.is_empty() {
            let body: Vec<u8> = pax.iter().flat_map(|(k, v)| pax_record(k, v)).collect();
            let mut extension = tar::Header::new_ustar();
            extension.as_mut_bytes()[..10].copy_from_slice(b"PaxHeaders");
            extension.set_entry_type(tar::EntryType::XHeader);
            extension.set_mode(0o644);
            extension.set_size(body.len() as u64);
            extension.set_cksum();
            out.extend_from_slice(extension.as_bytes());
            out.extend_from_slice(&body);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out.extend_from_slice(header.as_bytes());
        out
    }
}

fn short_ascii(path: &[u8]) -> Vec<u8> {
    path.iter().take(100).map(|b| if b.is_ascii() { *b } else { b'_' }).collect()
}

fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() != rest.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}
