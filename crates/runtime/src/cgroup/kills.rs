//! The kernel's word that it killed a process of a group for want of memory, as it comes.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// Longest `memory.events`.
const EVENTS: usize = 1024;
/// How long after a change that was no kill the next one is looked at: a group at its limit changes all the time.
const CALM: Duration = Duration::from_millis(200);

/// Kills for want of memory in one group, from when this was made.
#[derive(Debug)]
pub struct MemoryKills {
    events: AsyncFd<rustix::fd::OwnedFd>,
    seen: u64,
}

impl MemoryKills {
    /// Of the group at `path`; an error where its memory is not counted.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path.join("memory.events"), flags, Mode::empty())?;
        let seen = count(&file)?;
        Ok(Self { events: sys::async_fd_for(file, Interest::PRIORITY)?, seen })
    }

    /// Waits for the next one. An error is the group's end.
    pub async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut changed = self.events.ready(Interest::PRIORITY).await?;
            changed.clear_ready();
            // Reading is also what lets the kernel tell of the next change.
            let now = count(self.events.get_ref())?;
            if now > self.seen {
                self.seen = now;
                return Ok(());
            }
            tokio::time::sleep(CALM).await;
        }
    }
}

fn count(file: &rustix::fd::OwnedFd) -> io::Result<u64> {
    let mut text = [0; EVENTS];
    let length = rustix::io::pread(file, &mut text, 0)?;
    Ok(killed(&String::from_utf8_lossy(&text[..length])))
}

/// The kills that `memory.events` counts.
pub(crate) fn killed(events: &str) -> u64 {
    events.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_as_the_kernel_writes_them() {
        assert_eq!(killed("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(killed(""), 0);
    }
}
