//! The digest of files that a step reads: what they are, not when they were made. With it in a step's key, an unchanged
//! file is a hit however often it was written.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use sha2::{Digest as _, Sha256};

use super::{Found, fault, names};
use crate::Error;
use crate::session::files::{self, Kind};
use crate::session::{Entry, Index};

/// Bytes read at once.
const BUFFER: usize = 256 << 10;
/// Deepest folder that is gone into.
pub(crate) const DEPTH: usize = 1024;

/// Adds one source to `hasher`: itself and all below it that is taken. `index`: digests of contents that are known, by
/// path from the root.
///
/// # Errors
/// When something cannot be read.
pub fn add<'a>(
    hasher: &'a mut Sha256,
    found: &Found,
    taken: &'a dyn Fn(&str, bool) -> bool,
    index: Option<&'a Index>,
) -> Result<(), Error> {
    // The folder itself gives its content only: its name and mode are not taken.
    let name = std::ffi::CString::new(found.name.clone()).map_err(|e| Error::invalid(e.to_string()))?;
    let path = found.path.trim_matches('/').to_owned();
    let mut walk = Walk { hasher, taken, index, folders: None, buffer: Vec::new() };
    let last = path.rsplit('/').next().unwrap_or("").to_owned();
    if !super::is_dir(&found.stat) {
        walk.text(last.as_bytes());
    }
    walk.entry(found.parent.as_fd(), &name, &found.stat, &path, "", 0)
}

struct Walk<'a> {
    hasher: &'a mut Sha256,
    taken: &'a dyn Fn(&str, bool) -> bool,
    index: Option<&'a Index>,
    /// What the index has, by folder.
    folders: Option<HashMap<&'a str, Vec<&'a Entry>>>,
    buffer: Vec<u8>,
}

impl<'a> Walk<'a> {
    /// Something whose length goes before it: two texts never look like two others.
    fn text(&mut self, text: &[u8]) {
        self.hasher.update((text.len() as u64).to_le_bytes());
        self.hasher.update(text);
    }

    /// `path` is from the root, `inside` from the source.
    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        stat: &Stat,
        path: &str,
        inside: &str,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(Error::invalid(format!("{path}: more than {DEPTH} folders below each other")));
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        if inside.is_empty() || (self.taken)(inside, kind == FileType::Directory) {
            self.text(inside.as_bytes());
            for number in [stat.st_mode, stat.st_uid, stat.st_gid] {
                self.hasher.update(number.to_le_bytes());
            }
            match kind {
                FileType::RegularFile => self.content(parent, name, path)?,
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(parent, name, Vec::new())
                        .map_err(|e| fault("read", path, e))?;
                    self.text(target.as_bytes());
                }
                FileType::Directory => {}
                _ => self.hasher.update(stat.st_rdev.to_le_bytes()),
            }
            self.xattrs(parent, name, kind, path);
        }
        if kind != FileType::Directory {
            return Ok(());
        }
        // The folder is as the index says: then nothing of it need be read.
        if let Some(index) = self.index.filter(|i| !i.0.is_empty())
            && (path.is_empty() || index.0.get(path).is_some_and(|e| files::kind(&e.stat) == Kind::Folder))
        {
            self.folders.get_or_insert_with(|| index.by_folder());
            return self.known(path, inside, depth);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder =
            rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|e| fault("open", path, e))?;
        for name in names(folder.as_fd()).map_err(|e| fault("read", path, e))? {
            let stat = rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| fault("stat", path, e))?;
            let text = name.to_string_lossy();
            let below = |at: &str| if at.is_empty() { text.to_string() } else { format!("{at}/{text}") };
            self.entry(folder.as_fd(), &name, &stat, &below(path), &below(inside), depth + 1)?;
        }
        Ok(())
    }

    /// What is below a folder of the index, just as it would be read.
    fn known(&mut self, path: &str, inside: &str, depth: usize) -> Result<(), Error> {
        if depth >= DEPTH {
            return Err(Error::invalid(format!("{path}: more than {DEPTH} folders below each other")));
        }
        let folder = self.folders.as_ref().and_then(|f| f.get(path)).cloned().unwrap_or_default();
        let name = |entry: &Entry| entry.stat.path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut entries: Vec<(String, &Entry)> = folder.into_iter().map(|e| (name(e), e)).collect();
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (name, entry) in &entries {
            let inside = if inside.is_empty() { name.clone() } else { format!("{inside}/{name}") };
            let (stat, kind) = (&entry.stat, files::kind(&entry.stat));
            if (self.taken)(&inside, kind == Kind::Folder) {
                self.text(inside.as_bytes());
                let of_kind = match kind {
                    Kind::Folder => libc::S_IFDIR,
                    Kind::Link => libc::S_IFLNK,
                    Kind::File | Kind::Other => libc::S_IFREG,
                };
                // Links have no mode of their own.
                let bits = if kind == Kind::Link { 0o777 } else { files::permissions(stat.mode) };
                for number in [of_kind | bits, stat.uid, stat.gid] {
                    self.hasher.update(number.to_le_bytes());
                }
                match kind {
                    Kind::Link => self.text(stat.linkname.as_bytes()),
                    Kind::Folder => {}
                    Kind::File | Kind::Other => self.text(&entry.digest),
                }
                if kind != Kind::Link {
                    let all: BTreeMap<_, _> = stat.xattrs.iter().collect();
                    for (name, value) in all {
                        self.text(name.as_bytes());
                        self.text(value);
                    }
                }
            }
            if kind == Kind::Folder {
                self.known(&stat.path, &inside, depth + 1)?;
            }
        }
        Ok(())
    }

    fn content(&mut self, parent: BorrowedFd<'_>, name: &std::ffi::CStr, path: &str) -> Result<(), Error> {
        if let Some(entry) = self.index.and_then(|i| i.0.get(path)).filter(|e| e.digest.len() == 32) {
            self.text(&entry.digest);
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd =
            rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|e| fault("open", path, e))?;
        let mut file = std::fs::File::from(fd);
        let mut own = Sha256::new();
        self.buffer.resize(BUFFER, 0);
        loop {
            match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(n) => own.update(&self.buffer[..n]),
                Err(e) => return Err(Error::invalid(format!("read {path}: {e}"))),
            }
        }
        self.text(&own.finalize());
        Ok(())
    }

    fn xattrs(&mut self, parent: BorrowedFd<'_>, name: &std::ffi::CStr, kind: FileType, path: &str) {
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return;
        }
        let known = self.index.and_then(|i| i.0.get(path));
        let all: BTreeMap<String, Vec<u8>> = match known {
            Some(entry) => entry.stat.xattrs.clone().into_iter().collect(),
            None => super::attributes::xattrs(parent, name).into_iter().collect(),
        };
        for (name, value) in all {
            self.text(name.as_bytes());
            self.text(&value);
        }
    }
}
