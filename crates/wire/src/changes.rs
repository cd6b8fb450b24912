//! What the host changes in shared folders: a share tells the daemon, which passes it on to the guest.
//!
//! ```text
//! coracle-share --frames of Vec<Change>--> daemon --ToGuest::Changed--> coracle-guest
//!       ^                                                                    |
//!       '--- file operations of one thread, answered, never carried out -----'
//! ```
//! A guest's kernel raises inotify events for what is done in the guest only. So a thread of the guest does again what
//! the host did; the share, which knows that it was done already, answers as if it were done now. The thread makes
//! itself known before there are containers: by an attempt to make [`ECHO_NAME`] in the share's own folder as
//! [`ECHO_GROUP`], which is refused. From then on the share carries out nothing that this thread asks for.

use serde::{Deserialize, Serialize};

/// The group as which the thread makes itself known.
pub const ECHO_GROUP: u32 = 0xc0ac_1e00;
/// The name that it asks for then.
pub const ECHO_NAME: &std::ffi::CStr = c".coracle-echo";
/// Most changes in one message.
pub const MAX_CHANGES: usize = 128;
/// Longest path of a change, bytes (Linux's `PATH_MAX`).
pub const MAX_PATH: usize = 4096;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The folder, from the share's own; empty for that itself.
    pub folder: String,
    /// The name in it.
    pub name: String,
    /// What happened.
    pub what: What,
}

/// What happened to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A regular file is there that was not, or was another.
    FileMade,
    /// A folder is there.
    FolderMade,
    /// A symbolic link is there.
    LinkMade,
    /// What is no folder is gone.
    FileGone,
    /// A folder is gone.
    FolderGone,
    /// A file has been written to.
    Written,
}

impl Change {
    /// Whether the names are such that no path made of them leads out of the share.
    pub fn is_sound(&self) -> bool {
        let plain = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0');
        self.folder.len() + self.name.len() < MAX_PATH
            && plain(&self.name)
            && !self.name.contains('/')
            && (self.folder.is_empty() || self.folder.split('/').all(plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_share() {
        let change = |folder: &str, name: &str| Change {
            folder: folder.into(),
            name: name.into(),
            what: What::Written,
        };
        assert!(change("", "a").is_sound() && change("a/b c", "d").is_sound());
        for (folder, name) in [
            ("", ""),
            ("", ".."),
            ("/a", "b"),
            ("a/../b", "c"),
            ("a//b", "c"),
            ("a", "b/c"),
            ("a/", "b"),
            (".", "b"),
        ] {
            assert!(!change(folder, name).is_sound(), "{folder:?} {name:?}");
        }
    }
}
