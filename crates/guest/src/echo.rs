//! Changes that the host made in its folders, done again here so that the kernel tells containers ([`wire::changes`]).
//!
//! One thread does all of them; the share knows it, answers, and carries nothing out. Containers can put
//! symbolic links anywhere in a share, so folders are opened without following any, and never outside the share.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2},
    sys::{
        stat::{Mode, SFlag, futimens, mkdirat, mknodat},
        time::TimeSpec,
    },
    unistd::{Gid, UnlinkatFlags, setfsgid, symlinkat, unlinkat},
};
use wire::changes::{Change, ECHO_GROUP, ECHO_NAME, What};

use crate::{cmdline::Share, say};

/// Most names whose changes wait; more are dropped, for a flood must not fill memory.
const WAITING: usize = 100_000;

/// Where changes are handed in.
#[derive(Clone)]
pub struct Echo(Arc<Queue>);

/// A share's tag, a folder in it, a name in that.
type Key = (String, String, String);

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

/// What is to be done again, one thing per name: the host may be faster for a while, and what counts is the last.
#[derive(Default)]
struct Waiting {
    order: VecDeque<Key>,
    what: HashMap<Key, What>,
    /// Who waits until the shares know the thread.
    meet: Option<mpsc::Sender<()>>,
}

enum Job {
    Meet(mpsc::Sender<()>),
    Repeat(Key, What),
}

impl Waiting {
    fn add(&mut self, key: Key, what: What) {
        match self.what.get_mut(&key) {
            // What is new and written to is new.
            Some(What::FileMade) if what == What::Written => {}
            Some(earlier) => *earlier = what,
            None if self.order.len() >= WAITING => {}
            None => {
                self.order.push_back(key.clone());
                self.what.insert(key, what);
            }
        }
    }

    fn next(&mut self) -> Option<Job> {
        if let Some(done) = self.meet.take() {
            return Some(Job::Meet(done));
        }
        let key = self.order.pop_front()?;
        let what = self.what.remove(&key)?;
        Some(Job::Repeat(key, what))
    }
}

impl Echo {
    /// Starts the thread, for these shares.
    pub fn start(shares: Vec<Share>) -> Self {
        let queue = Arc::new(Queue::default());
        let jobs = queue.clone();
        std::thread::spawn(move || {
            loop {
                match jobs.next() {
                    Job::Meet(done) => {
                        meet(&shares);
                        let _ = done.send(());
                    }
                    Job::Repeat((tag, folder, name), what) => {
                        if let Some(share) = shares.iter().find(|share| share.tag == tag) {
                            echo(share, &Change { folder, name, what });
                        }
                    }
                }
            }
        });
        Self(queue)
    }

    /// Makes the thread known to the shares; they are mounted, and no container runs yet. Blocks until it is done.
    pub fn meet_shares(&self) {
        let (done, wait) = mpsc::channel();
        self.0.waiting().meet = Some(done);
        self.0.more.notify_one();
        let _ = wait.recv();
    }

    /// Does these again, when there is time.
    pub fn repeat(&self, share: &str, changes: Vec<Change>) {
        let mut waiting = self.0.waiting();
        for change in changes.into_iter().filter(Change::is_sound) {
            waiting.add((share.to_owned(), change.folder, change.name), change.what);
        }
        self.0.more.notify_one();
    }
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Job {
        let mut waiting = self.waiting();
        loop {
            if let Some(job) = waiting.next() {
                return job;
            }
            waiting = self.more.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn meet(shares: &[Share]) {
    let own = setfsgid(Gid::from_raw(ECHO_GROUP));
    for share in shares {
        let met = folder(share, "").and_then(|f| mknodat(&f, ECHO_NAME, SFlag::S_IFREG, Mode::empty(), 0));
        if met != Err(Errno::EPERM) {
            say(format_args!(
                "{}: what the host changes will not be noticed in containers: {met:?}",
                share.tag
            ));
        }
    }
    setfsgid(own);
}

fn echo(share: &Share, change: &Change) {
    use Errno::{EEXIST, EIO, EISDIR, ELOOP, ENOENT, ENOTDIR, EPERM, ESTALE};
    match repeat(share, change) {
        // The host went on meanwhile: gone, there again, another kind of thing.
        Ok(()) | Err(ENOENT | ENOTDIR | EEXIST | EPERM | EISDIR | ELOOP | ESTALE | EIO) => {}
        Err(error) => say(format_args!("{}: {}/{}: {error}", share.tag, change.folder, change.name)),
    }
}

/// A folder of the share.
fn folder(share: &Share, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(share.place().as_str(), flags, Mode::empty())?;
    if path.is_empty() {
        return Ok(root);
    }
    let resolve =
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(root.as_fd(), path, OpenHow::new().flags(flags).resolve(resolve))
}

fn repeat(share: &Share, change: &Change) -> Result<(), Errno> {
    let folder = folder(share, &change.folder)?;
    let name = change.name.as_str();
    match change.what {
        What::FileMade => {
            match mknodat(&folder, name, SFlag::S_IFREG, Mode::empty(), 0) {
                // Looked up a moment ago: it is no news, but its content may be.
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error),
            }
            written(&folder, name)
        }
        What::FolderMade => mkdirat(&folder, name, Mode::empty()),
        What::LinkMade => symlinkat(".", &folder, name),
        What::FileGone => unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir),
        What::FolderGone => unlinkat(&folder, name, UnlinkatFlags::RemoveDir),
        What::Written => written(&folder, name),
    }
}

/// IN_MODIFY by a new time, IN_CLOSE_WRITE by the end of writing.
fn written(folder: &OwnedFd, name: &str) -> Result<(), Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => futimens(&file, &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW),
        // Not to be written to, or a container runs it just now: a new time is all that can be shown.
        Err(Errno::EACCES | Errno::EROFS | Errno::ETXTBSY) => nix::sys::stat::utimensat(
            folder,
            name,
            &TimeSpec::UTIME_OMIT,
            &TimeSpec::UTIME_NOW,
            nix::sys::stat::UtimensatFlags::NoFollowSymlink,
        ),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_name_the_last_counts_in_the_order_of_the_first() {
        let mut waiting = Waiting::default();
        let key = |name: &str| ("share0".to_owned(), String::new(), name.to_owned());
        for (name, what) in [
            ("a", What::FileMade),
            ("b", What::Written),
            ("a", What::Written),
            ("b", What::FileGone),
            ("c", What::FileGone),
            ("c", What::FileMade),
        ] {
            waiting.add(key(name), what);
        }
        let mut left = Vec::new();
        while let Some(Job::Repeat((_, _, name), what)) = waiting.next() {
            left.push((name, what));
        }
        let expected = [("a", What::FileMade), ("b", What::FileGone), ("c", What::FileMade)];
        assert_eq!(left, expected.map(|(name, what)| (name.to_owned(), what)));
    }
}
