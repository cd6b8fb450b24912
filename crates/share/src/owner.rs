//! Who owns a file as containers see it, and with which mode.
//!
//! Recorded in the extended attribute [`XATTR`] of the file itself, as text: `UID:GID:MODE`, mode in octal, with
//! set-id and sticky bits and without the type. Folders and regular files only: Linux has no user attributes on
//! anything else. A file without one was made on the host: it belongs to [`HOST`], which is root's neighbour in most
//! images, and has its own mode.

use std::ffi::CStr;
use std::fmt;
use std::str::FromStr;

/// The attribute's name. The guest neither sees it nor can set it.
pub const XATTR: &CStr = c"user.coracle.owner";
/// The user and group that files made on the host show: the first ordinary user of Linux distributions, so that both
/// root and the usual `node`, `app` or `ubuntu` of an image can write to a project's folder.
pub const HOST: u32 = 1000;
/// Longest value, bytes: two numbers of 32 bits and a mode.
pub const LENGTH: usize = 32;
/// Bits of a mode that are recorded.
pub const MODE: u32 = 0o7777;

/// What is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions with set-id and sticky bits.
    pub mode: u32,
}

impl Owner {
    /// The mode a file has on the host: the user who shares it can always use it, and no bit gives anybody a right
    /// that only means something inside.
    pub fn host_mode(mode: u32, folder: bool) -> u32 {
        (mode & 0o777) | if folder { 0o700 } else { 0o600 }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{:o}", self.uid, self.gid, self.mode & MODE)
    }
}

/// Not what [`Owner`] is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl FromStr for Owner {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut parts = text.split(':');
        let mut next = |radix| {
            let part = parts.next().filter(|p| p.bytes().all(|b| b.is_ascii_digit()))?;
            u32::from_str_radix(part, radix).ok()
        };
        let (uid, gid, mode) = (next(10), next(10), next(8));
        match (uid, gid, mode, parts.next()) {
            (Some(uid), Some(gid), Some(mode), None) if mode <= MODE => Ok(Owner { uid, gid, mode }),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for owner in [
            Owner { uid: 0, gid: 0, mode: 0o755 },
            Owner { uid: u32::MAX, gid: 999, mode: 0o6711 },
            Owner { uid: 1, gid: 2, mode: 0 },
        ] {
            let text = owner.to_string();
            assert!(text.len() <= LENGTH);
            assert_eq!(text.parse(), Ok(owner));
        }
        for bad in [
            "",
            "1",
            "1:2",
            "1:2:3:4",
            "a:1:644",
            "1:2:99999",
            "-1:0:644",
            "1:2:8",
            "+1:2:3",
            "4294967296:0:0",
        ] {
            assert_eq!(bad.parse::<Owner>(), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn the_host_user_can_always_use_what_containers_make() {
        assert_eq!(Owner::host_mode(0o000, false), 0o600);
        assert_eq!(Owner::host_mode(0o6755, false), 0o755);
        assert_eq!(Owner::host_mode(0o1577, true), 0o777);
    }
}
