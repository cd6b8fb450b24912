//! What a file has besides its content: owner, mode, time, extended attributes.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use super::{Root, fault};
use crate::Error;
use crate::graph::{Id, Owner};

/// Largest `/etc/passwd` or `/etc/group` that is read, in bytes.
const NAMES: u64 = 1 << 20;

/// Owner, mode (after the owner: chown clears set-id bits) and time.
pub(super) fn adorn(
    file: &impl AsFd,
    uid: u32,
    gid: u32,
    mode: Option<u32>,
    time: Timespec,
    shown: &str,
) -> Result<(), Error> {
    rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .and_then(|()| match mode {
            Some(mode) => rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777)),
            None => Ok(()),
        })
        .and_then(|()| rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time }))
        .map_err(|e| fault("set owner, mode and time of", shown, e))
}

/// Extended attributes of a file or folder that are part of it: not those of the file system below.
pub(crate) fn xattrs(parent: BorrowedFd<'_>, name: &CStr) -> Vec<(String, Vec<u8>)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(parent, name, flags, Mode::empty()).map_or_else(|_| Vec::new(), |fd| xattrs_of(&fd))
}

pub(super) fn xattrs_of(file: &impl AsFd) -> Vec<(String, Vec<u8>)> {
    let mut list = vec![0_u8; 64 << 10];
    let Ok(length) = rustix::fs::flistxattr(file, &mut list) else { return Vec::new() };
    list.truncate(length);
    list.split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .filter_map(|name| {
            let name = String::from_utf8(name.to_vec()).ok()?;
            if !(name.starts_with("user.") || name == "security.capability") {
                return None;
            }
            let mut value = vec![0_u8; 64 << 10];
            let length = rustix::fs::fgetxattr(file, name.as_str(), &mut value).ok()?;
            value.truncate(length);
            Some((name, value))
        })
        .collect()
}

/// Numbers of an owner, names looked up in the tree that is written to.
///
/// # Errors
/// When a name is not there.
pub fn resolve_owner(root: &Root, owner: &Owner) -> Result<(u32, u32), Error> {
    let lines = |path| root.text(path, NAMES).unwrap_or_default();
    let find = |text: &str, name: &str| -> Option<Vec<String>> {
        text.lines()
            .map(|l| l.split(':').map(str::to_owned).collect::<Vec<_>>())
            .find(|f| f.first().is_some_and(|n| n == name))
    };
    let number = |field: Option<&String>| field.and_then(|f| f.parse::<u32>().ok());
    let (uid, primary) = match &owner.user {
        None => (0, 0),
        // Without a group the user's number is the group's, too.
        Some(Id::Number(uid)) => (*uid, *uid),
        Some(Id::Name(name)) => {
            let passwd = lines("/etc/passwd");
            // As with BuildKit: who is not there is root.
            let found = find(&passwd, name).unwrap_or_default();
            (number(found.get(2)).unwrap_or(0), number(found.get(3)).unwrap_or(0))
        }
    };
    let gid = match &owner.group {
        None => primary,
        Some(Id::Number(gid)) => *gid,
        Some(Id::Name(name)) => {
            let group = lines("/etc/group");
            find(&group, name).and_then(|found| number(found.get(2))).unwrap_or(0)
        }
    };
    Ok((uid, gid))
}

/// chmod(1)'s words: `u+x,go-w`, `a=rX`.
pub(super) fn symbolic(text: &str, mode: u32, folder: bool) -> u32 {
    let mut mode = mode;
    for clause in text.split(',') {
        let at = clause.find(['+', '-', '=']).unwrap_or(clause.len());
        let who = &clause[..at];
        let (mut mask, mut special) = (0, 0);
        for c in who.chars() {
            match c {
                'u' => (mask, special) = (mask | 0o700, special | 0o4000),
                'g' => (mask, special) = (mask | 0o070, special | 0o2000),
                'o' => mask |= 0o007,
                _ => (mask, special) = (mask | 0o777, special | 0o6000),
            }
        }
        if who.is_empty() {
            (mask, special) = (0o777, 0o6000);
        }
        let mut rest = &clause[at..];
        while let Some(operator) = rest.chars().next() {
            let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |n| n + 1);
            let mut bits = 0;
            for c in rest[1..end].chars() {
                bits |= match c {
                    'r' => 0o444 & mask,
                    'w' => 0o222 & mask,
                    'x' => 0o111 & mask,
                    'X' if folder || mode & 0o111 != 0 => 0o111 & mask,
                    's' => special,
                    't' => 0o1000,
                    'u' => ((mode >> 6 & 7) * 0o111) & mask,
                    'g' => ((mode >> 3 & 7) * 0o111) & mask,
                    'o' => ((mode & 7) * 0o111) & mask,
                    _ => 0,
                };
            }
            mode = match operator {
                '+' => mode | bits,
                '-' => mode & !bits,
                // As BuildKit has it: set-id bits stay what they are.
                _ => mode & !mask | bits,
            };
            rest = &rest[end..];
        }
    }
    mode & 0o7777
}

#[cfg(test)]
mod tests {
    use super::symbolic;

    #[test]
    fn modes_in_words_are_chmods() {
        assert_eq!(symbolic("u+x,go-w", 0o666, false), 0o744);
        assert_eq!(symbolic("a=rX", 0o755, true), 0o555);
        assert_eq!(symbolic("a=rX", 0o644, false), 0o444);
        assert_eq!(symbolic("+x", 0o644, false), 0o755);
        assert_eq!(symbolic("u=rw,g=u", 0o000, false), 0o660);
        assert_eq!(symbolic("g+s,+t", 0o755, true), 0o3755);
        assert_eq!(symbolic("g=u", 0o2750, false), 0o2770);
    }
}
