//! Room kept for what makes room.
//!
//! On a disk that is full to the last byte even a removal fails: the database's log has to grow for it, and a start
//! needs its index. So a file is kept that holds nothing. Whoever removes content and finds the disk full gives it up,
//! tries again, and keeps it anew.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::Error;

/// Bytes kept.
const BYTES: u64 = 2 << 20;
/// The file, below the folder of the images.
const NAME: &str = "reserve";

/// The reserve of a store.
pub(super) struct Reserve(PathBuf);

impl Reserve {
    pub(super) fn of(root: &Path) -> Reserve {
        Reserve(root.join(NAME))
    }

    /// Makes it what it should be, where there is room.
    pub(super) fn keep(&self) {
        if fs::metadata(&self.0).is_ok_and(|m| m.len() == BYTES) {
            return;
        }
        let made = fs::File::create(&self.0).and_then(|file| {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BYTES).map_err(Into::into)
        });
        if let Err(error) = made {
            tracing::warn!(%error, "no room is kept for removals on a full disk");
            self.give_up();
        }
    }

    fn give_up(&self) {
        // Not there is fine.
        let _ = fs::remove_file(&self.0);
    }

    /// Does what makes room; with the reserve's room when there is no other.
    pub(super) fn with<T>(&self, mut work: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        match work() {
            Err(error) if error.is_disk_full() => {
                tracing::warn!(%error, "the disk is full: going on with the room that was kept");
                self.give_up();
                let done = work();
                self.keep();
                done
            }
            done => done,
        }
    }
}

/// Gives up the room that a store below `root` keeps, when there is no other: an engine's database could not be
/// opened. [`Images::open`](crate::Images::open) keeps it anew.
pub fn make_room(root: &Path) {
    let full = rustix::fs::statvfs(root).is_ok_and(|s| s.f_bavail.saturating_mul(s.f_frsize) < BYTES);
    if full {
        tracing::warn!("the disk is full: starting with the room that was kept");
        Reserve::of(root).give_up();
    }
}
