//! What steps do with files: in trees that a hostile image or context may have filled.
//!
//! Every path is resolved by the kernel in one call that cannot leave the tree's root (`openat2`, `RESOLVE_IN_ROOT`);
//! what is made is made in a folder that is held open, and changed through what was opened itself.

pub mod attributes;
pub mod copy;
pub mod digest;
pub mod glob;
mod select;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::Error;
use crate::error::Kind;
pub use select::{Found, select};

/// A folder that paths are resolved in.
#[derive(Debug)]
pub struct Root(pub OwnedFd);

impl Root {
    /// Opens a folder as one.
    ///
    /// # Errors
    /// When it is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens a path in it; links are followed inside it, the last one too.
    pub fn at(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        open_in(self.0.as_fd(), path, flags)
    }

    /// A file's content, for small ones; `None` where there is no file.
    pub fn text(&self, path: &str, limit: u64) -> Option<String> {
        use std::io::Read;
        let fd = self.at(path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
        let file = std::fs::File::from(fd);
        let mut bytes = Vec::new();
        file.metadata().ok()?.is_file().then_some(())?;
        file.take(limit).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Opens `path` as if `root` were `/`.
pub(crate) fn open_in(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = path.trim_start_matches('/');
    let path = if path.is_empty() { "." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename somewhere on the system raced with "..": the kernel asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

pub(crate) fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Names in a folder, sorted.
pub(crate) fn names(folder: BorrowedFd<'_>) -> rustix::io::Result<Vec<std::ffi::CString>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(folder, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(dir)? {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A fault of the disk or of what is on it, in words.
pub(crate) fn fault(what: &str, path: &str, e: Errno) -> Error {
    Error::invalid(format!("{what} {path}: {e}")).with_kind(Kind::Unknown)
}
