//! Room kept for what makes room.
//!
//! On a disk that is full to the last byte even a removal fails: the database's log has to grow for it, and a start
//! needs its index. So a file is kept that holds nothing. Whoever removes content and finds the disk full gives it up,
//! tries again, and keeps it anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FallocateFlags;

use crate::Error;

/// Bytes kept.
const BYTES: u64 = 2 << 20;
/// The file, below the folder of the images.
const NAME: &str = "reserve";

/// The reserve of a store.
pub(super) struct Reserve {
    path: PathBuf,
    /// Held by the one who uses its room: another's keeping it anew would take that away.
    in_use: Mutex<()>,
}

impl Reserve {
    pub(super) fn of(root: &Path) -> Reserve {
        Reserve { path: root.join(NAME), in_use: Mutex::default() }
    }

    /// Makes it what it should be, where there is room.
    pub(super) fn keep(&self) {
        if fs::metadata(&self.path).is_ok_and(|m| m.len() == BYTES) {
            return;
        }
        let made = fs::File::create(&self.path).and_then(|file| {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BYTES).map_err(Into::into)
        });
        if let Err(error) = made {
            tracing::warn!(%error, "no room is kept for removals on a full disk");
            self.give_up();
        }
    }

    fn give_up(&self) {
        // Not there is fine.
        let _ = fs::remove_file(&self.path);
    }

    /// Does what makes room; with the reserve's room when there is no other.
    pub(super) fn with<T>(&self, mut work: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        match work() {
            Err(error) if error.is_disk_full() => {
                let _in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk on which there is room as long as the reserve is not.
    #[test]
    fn two_who_make_room_at_once_both_have_it() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(dir.path());
        reserve.keep();
        let full = || Error::os("write", "x", std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert!(full().is_disk_full());
        let both = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            let work = || {
                let mut first = true;
                reserve.with(|| {
                    if std::mem::take(&mut first) {
                        both.wait();
                        return Err(full());
                    }
                    // While it works, nobody takes the room back.
                    for _ in 0..200 {
                        if reserve.path.exists() {
                            return Err(full());
                        }
                        std::thread::yield_now();
                    }
                    Ok(())
                })
            };
            let all: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
            for one in all {
                one.join().unwrap().unwrap();
            }
        });
        assert!(reserve.path.exists(), "it is kept anew");
    }
}
