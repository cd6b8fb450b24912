//! Which files a `COPY` takes.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, OFlags, Stat};
use rustix::io::Errno;

use super::{Root, fault, glob, names, open_in};
use crate::Error;
use crate::error::Kind;

/// A source that was found: in the folder `parent` it is called `name`.
#[derive(Debug)]
pub struct Found {
    /// The folder it is in; for the root itself, the root.
    pub parent: OwnedFd,
    /// Its name there; `.` is the folder itself.
    pub name: String,
    /// Its path, as it was named: what it is called at the other end.
    pub path: String,
    /// What it is, links not followed.
    pub stat: Stat,
}

/// Links on a path that are followed one after another, at most.
const LINKS: usize = 40;

/// What `path` means in `root`: itself, or all that its wildcards match, in order.
///
/// # Errors
/// When it is not there (a path with wildcards may be nothing).
pub fn select(root: &Root, path: &str, wildcards: bool, follow: bool) -> Result<Vec<Found>, Error> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    let plain = parts.iter().take_while(|p| !wildcards || !glob::has_wildcards(p)).count();
    if plain == parts.len() {
        return locate(root, path, follow).map(|found| vec![found]);
    }
    let before = parts[..plain].join("/");
    let folder = match root.at(&before, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(folder) => folder,
        // Nothing may match, but where to look is there.
        Err(Errno::NOENT | Errno::NOTDIR) => {
            let words = format!("lstat /{before}: no such file or directory");
            return Err(Error::invalid(words).with_kind(Kind::NotFound));
        }
        Err(e) => return Err(fault("open", &before, e)),
    };
    let mut found = Vec::new();
    expand(root, folder, &format!("/{before}"), &parts[plain..], follow, &mut found)?;
    Ok(found)
}

fn expand(
    root: &Root,
    folder: OwnedFd,
    at: &str,
    parts: &[&str],
    follow: bool,
    found: &mut Vec<Found>,
) -> Result<(), Error> {
    let Some((part, rest)) = parts.split_first() else { return Ok(()) };
    for name in names(folder.as_fd()).map_err(|e| fault("read", at, e))? {
        // What is no text cannot be named in a Dockerfile, but by a wildcard.
        let text = name.to_string_lossy().into_owned();
        if !glob::matches(part, &text) {
            continue;
        }
        let path = format!("{}/{text}", at.trim_end_matches('/'));
        if !rest.is_empty() {
            // Links to folders are not gone into.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(inner) = rustix::fs::openat(&folder, &name, flags, rustix::fs::Mode::empty()) {
                expand(root, inner, &path, rest, follow, found)?;
            }
            continue;
        }
        if follow {
            found.push(locate(root, &path, true)?);
            continue;
        }
        let stat = rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| fault("stat", &path, e))?;
        let parent = folder.try_clone().map_err(|e| Error::invalid(format!("{path}: {e}")))?;
        found.push(Found { parent, name: text, path, stat });
    }
    Ok(())
}

/// One path; `follow`: also where the last part is a link.
fn locate(root: &Root, path: &str, follow: bool) -> Result<Found, Error> {
    let missing = || Error::invalid(format!("{path:?}: not found")).with_kind(Kind::NotFound);
    let mut current = path.to_owned();
    for _ in 0..LINKS {
        let clean = current.trim_matches('/').to_owned();
        let (before, name) = clean.rsplit_once('/').unwrap_or(("", &clean));
        let folder = match open_in(root.0.as_fd(), before, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(missing()),
            Err(e) => return Err(fault("open", path, e)),
        };
        let name = if name.is_empty() { "." } else { name };
        let (folder, name) = match name {
            // Of the root, or above it: itself.
            "." | ".." => {
                let itself = open_in(root.0.as_fd(), &clean, OFlags::PATH | OFlags::DIRECTORY);
                (itself.map_err(|e| fault("open", path, e))?, ".")
            }
            name => (folder, name),
        };
        let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing()),
            Err(e) => return Err(fault("stat", path, e)),
        };
        let link = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Symlink;
        if !link || !follow {
            return Ok(Found { parent: folder, name: name.to_owned(), path: path.to_owned(), stat });
        }
        let target = rustix::fs::readlinkat(&folder, name, Vec::new()).map_err(|e| fault("read", path, e))?;
        let target = target.to_string_lossy();
        current = if target.starts_with('/') { target.into_owned() } else { format!("{before}/{target}") };
    }
    Err(Error::invalid(format!("{path}: too many links")))
}
