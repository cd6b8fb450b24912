//! What the host changes in the folder: watched here, told to the daemon, done again by the guest ([`wire::changes`]).
//!
//! ```text
//!  guest looks a folder up --> Folder { fd, inotify watch }      until the guest forgets it
//!  inotify --(what this program did itself is left out)--> dirty --(SETTLE later)--> Change --> the daemon
//!                                                                        `--> told: what the guest may echo
//! ```
//! What is removed together with its folder is told as the folder's removal.
//! Only folders that the guest knows are watched: whoever waits for events in there keeps the folder known. A write of
//! the guest and one of the host give the same event; a file that the guest has just written to is looked at again
//! after [`SUSPICION`], and its time tells whether somebody else wrote after it.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timespec, inotify};
use wire::changes::{Change, MAX_CHANGES, What};

/// Most folders that are watched at once; changes in more are not seen. (A user may have
/// `fs.inotify.max_user_watches` in all.)
pub(crate) const MAX_FOLDERS: usize = 8192;
/// How long changes are gathered: several to one file become one.
const SETTLE: Duration = Duration::from_millis(15);
/// How long after a write of the guest an event is taken for its.
const SUSPICION: Duration = Duration::from_millis(300);
/// How long the guest may take to echo what it was told, and an own change to be heard of.
const REMEMBERED: Duration = Duration::from_secs(30);
/// How long the daemon may take to hear.
const HEARING: Duration = Duration::from_secs(5);
/// Names remembered before old ones are looked for.
const MANY: usize = 1024;
/// Bytes of events read at a time.
const EVENTS: usize = 64 * 1024;

/// A file's number in the guest.
pub(crate) type Inode = u64;
/// A name in a folder.
type Key = (Inode, CString);

/// What is done to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// It is there now.
    Made,
    /// It is gone.
    Gone,
}

/// The watch over a share.
pub(crate) struct Watch {
    root: PathBuf,
    inotify: OwnedFd,
    limit: usize,
    table: Mutex<Table>,
    /// Said that not every folder is watched.
    unseen: Once,
}

#[derive(Default)]
struct Table {
    folders: HashMap<Inode, Folder>,
    by_watch: HashMap<i32, Inode>,
    /// What this program does itself, until its event has come.
    own: HashMap<Key, Vec<(Deed, Instant)>>,
    /// Files open for writing: their numbers on the host, by handle.
    writers: HashMap<u64, u64>,
    /// When the guest wrote last to a file, by number on the host.
    written: HashMap<u64, (Instant, SystemTime)>,
    /// What the guest was told and has not echoed yet.
    told: HashMap<Key, (What, Instant)>,
}

struct Folder {
    fd: OwnedFd,
    watch: i32,
    /// How often the guest was given it, less what it has forgotten.
    known: u64,
}

/// What is known of a name since the last time the guest was told.
#[derive(Clone, Copy)]
enum Dirt {
    /// `new`: nothing had that name before.
    Made {
        new: bool,
    },
    Gone {
        folder: bool,
    },
    Written,
    /// Written, perhaps by the guest.
    Suspect(Instant),
}

#[derive(Default)]
struct Dirty {
    names: HashMap<Key, (u64, Dirt)>,
    next: u64,
}

impl Dirty {
    fn add(&mut self, key: Key, dirt: Dirt) {
        self.next += 1;
        let at = self.next;
        let merged = match (self.names.get(&key), dirt) {
            // Nobody has heard of it, and nobody needs to.
            (Some((_, Dirt::Made { new: true })), Dirt::Gone { .. }) => {
                self.names.remove(&key);
                return;
            }
            (Some((_, Dirt::Gone { .. })), Dirt::Made { .. }) => (at, Dirt::Made { new: false }),
            // A new file that is written to is a new file; a suspicion is no more than what is known already.
            (Some((at, old @ Dirt::Made { .. })), Dirt::Written | Dirt::Suspect(_)) => (*at, *old),
            (Some((at, old @ Dirt::Written)), Dirt::Suspect(_)) => (*at, *old),
            (Some((at, old @ Dirt::Suspect(_))), Dirt::Suspect(_)) => (*at, *old),
            _ => (at, dirt),
        };
        self.names.insert(key, merged);
    }
}

fn wall(seconds: i64, nanoseconds: i64) -> SystemTime {
    let since = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0));
    UNIX_EPOCH + since
}

impl Watch {
    /// Over the folder `root` (canonical), whose number in the guest is `number`; at most `limit` folders.
    pub(crate) fn new(root: &Path, number: Inode, limit: usize) -> io::Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let watch =
            Self { root: root.to_owned(), inotify, limit, table: Mutex::default(), unseen: Once::new() };
        let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        watch.add(&mut watch.table(), fd, number)?;
        Ok(watch)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, table: &mut Table, fd: OwnedFd, number: Inode) -> io::Result<()> {
        use inotify::WatchFlags as F;
        let flags =
            F::CREATE | F::DELETE | F::MOVED_FROM | F::MOVED_TO | F::MODIFY | F::CLOSE_WRITE | F::ONLYDIR;
        let watch = inotify::add_watch(&self.inotify, fd_path(&fd), flags)?;
        table.by_watch.insert(watch, number);
        table.folders.insert(number, Folder { fd, watch, known: 1 });
        Ok(())
    }

    /// The guest was given the folder `name` of `parent`.
    pub(crate) fn looked_up(&self, parent: Inode, name: &CStr, number: Inode) {
        let mut table = self.table();
        if let Some(folder) = table.folders.get_mut(&number) {
            folder.known += 1;
            return;
        }
        if table.folders.len() >= self.limit {
            return self.say_once(&format!("more than {} folders are in use", self.limit));
        }
        let Some(above) = table.folders.get(&parent) else { return };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Gone meanwhile: nobody waits for its changes.
        let Ok(fd) = rustix::fs::openat(&above.fd, name, flags, Mode::empty()) else { return };
        if let Err(error) = self.add(&mut table, fd, number) {
            self.say_once(&format!("{error} (raise the sysctl fs.inotify.max_user_watches)"));
        }
    }

    fn say_once(&self, why: &str) {
        self.unseen.call_once(|| {
            eprintln!(
                "coracle-share: what the host changes in some folders raises no events in containers: {why}"
            );
        });
    }

    /// The guest has forgotten it `count` times.
    pub(crate) fn forgotten(&self, number: Inode, count: u64) {
        let mut table = self.table();
        let Some(folder) = table.folders.get_mut(&number) else { return };
        folder.known = folder.known.saturating_sub(count);
        if folder.known == 0
            && let Some(folder) = table.folders.remove(&number)
        {
            table.by_watch.remove(&folder.watch);
            // It may be gone already, and its watch with it.
            let _ = inotify::remove_watch(&self.inotify, folder.watch);
        }
    }

    /// Does something to names in the guest's behalf: its events are not the host's.
    pub(crate) fn doing<T>(
        &self,
        deeds: &[(Inode, &CStr, Deed)],
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut table = self.table();
        let keys: Vec<(Key, Deed)> = deeds
            .iter()
            .filter(|(parent, ..)| table.folders.contains_key(parent))
            .map(|(parent, name, deed)| ((*parent, (*name).to_owned()), *deed))
            .collect();
        let now = Instant::now();
        for (key, deed) in &keys {
            table.own.entry(key.clone()).or_default().push((*deed, now));
        }
        drop(table);
        let done = work();
        if done.is_err() {
            let mut table = self.table();
            for (key, deed) in keys {
                table.take_own(&key, deed);
            }
        }
        done
    }

    /// The guest has opened a file for writing.
    pub(crate) fn opened(&self, handle: u64, file: u64) {
        self.table().writers.insert(handle, file);
    }

    /// The guest has written through a handle.
    pub(crate) fn wrote(&self, handle: u64) {
        let mut table = self.table();
        if let Some(file) = table.writers.get(&handle).copied() {
            table.wrote(file);
        }
    }

    /// The guest has written to a file (by its number on the host).
    pub(crate) fn wrote_to(&self, file: u64) {
        self.table().wrote(file);
    }

    /// The guest has closed a handle.
    pub(crate) fn closed(&self, handle: u64) {
        let mut table = self.table();
        if let Some(file) = table.writers.remove(&handle) {
            table.wrote(file);
        }
    }

    /// What the guest was told of a name and has not echoed yet.
    pub(crate) fn told(&self, parent: Inode, name: &CStr) -> Option<What> {
        self.table().told.get(&(parent, name.to_owned())).map(|(what, _)| *what)
    }

    /// The guest echoes what it was told of a name.
    pub(crate) fn echoed(&self, parent: Inode, name: &CStr) {
        self.table().told.remove(&(parent, name.to_owned()));
    }

    /// Tells whoever connects to `listener` last, for ever.
    pub(crate) fn serve(self: Arc<Self>, listener: UnixListener) {
        let hearer: Arc<Mutex<Option<UnixStream>>> = Arc::default();
        let newest = hearer.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stream.set_write_timeout(Some(HEARING)).is_ok() {
                    *newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
                }
            }
        });
        std::thread::spawn(move || {
            let mut dirty = Dirty::default();
            while self.wait(&dirty).is_ok() {
                // What is gathered is time itself: there is no event for its end.
                #[allow(clippy::disallowed_methods)]
                std::thread::sleep(SETTLE);
                let overflow = self.collect(&mut dirty);
                if overflow {
                    self.look_everywhere(&mut dirty);
                }
                let changes = self.settled(&mut dirty);
                let mut hearer = hearer.lock().unwrap_or_else(PoisonError::into_inner);
                for part in changes.chunks(MAX_CHANGES) {
                    let Some(to) = hearer.as_mut() else { break };
                    let sent = wire::frame::encode(&part).ok().map(|frame| to.write_all(&frame));
                    if !matches!(sent, Some(Ok(()))) {
                        *hearer = None; // the daemon connects again
                    }
                }
            }
        });
    }

    /// Until there are events, or a suspicion is due.
    fn wait(&self, dirty: &Dirty) -> io::Result<()> {
        let due = dirty.names.values().filter_map(|(_, dirt)| match dirt {
            Dirt::Suspect(since) => Some((*since + SUSPICION).saturating_duration_since(Instant::now())),
            _ => None,
        });
        let limit =
            due.min().map(|d| Timespec { tv_sec: d.as_secs() as i64, tv_nsec: d.subsec_nanos().into() });
        match poll(&mut [PollFd::new(&self.inotify, PollFlags::IN)], limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes in the events there are; true when the kernel has dropped some.
    fn collect(&self, dirty: &mut Dirty) -> bool {
        use inotify::ReadFlags as F;
        let mut bytes = vec![MaybeUninit::uninit(); EVENTS];
        let mut events = inotify::Reader::new(&self.inotify, &mut bytes);
        let mut overflow = false;
        while let Ok(event) = events.next() {
            let flags = event.events();
            overflow |= flags.contains(F::QUEUE_OVERFLOW);
            let mut table = self.table();
            let Some(folder) = table.by_watch.get(&event.wd()).copied() else { continue };
            if flags.contains(F::IGNORED) {
                table.by_watch.remove(&event.wd()); // the folder is gone; the guest forgets it in time
                continue;
            }
            let Some(name) = event.file_name() else { continue };
            let key = (folder, name.to_owned());
            if flags.intersects(F::CREATE | F::MOVED_TO) {
                if !table.take_own(&key, Deed::Made) {
                    dirty.add(key, Dirt::Made { new: flags.contains(F::CREATE) });
                }
            } else if flags.intersects(F::DELETE | F::MOVED_FROM) {
                if !table.take_own(&key, Deed::Gone) {
                    dirty.add(key, Dirt::Gone { folder: flags.contains(F::ISDIR) });
                }
            } else if !flags.contains(F::ISDIR) {
                let number = table.folders.get(&folder).and_then(|f| stat(f, &key.1)).map(|s| s.st_ino);
                let suspect = number.and_then(|n| table.written.get(&n)).map(|(when, _)| *when);
                let suspect = suspect.filter(|when| when.elapsed() < SUSPICION);
                dirty.add(key, suspect.map_or(Dirt::Written, |_| Dirt::Suspect(Instant::now())));
            }
        }
        overflow
    }

    /// More happened than the kernel keeps: what changed lately in the folders counts as changed.
    fn look_everywhere(&self, dirty: &mut Dirty) {
        let lately = SystemTime::now() - REMEMBERED;
        let mut table = self.table();
        table.own.clear(); // their events are among those that are lost
        let table = &*table;
        for (number, folder) in &table.folders {
            // What is only a path can't be read.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let entries = rustix::fs::openat(&folder.fd, c".", flags, Mode::empty()).and_then(Dir::new);
            let Ok(entries) = entries else { continue };
            for entry in entries.flatten().filter(|e| !matches!(e.file_name().to_bytes(), b"." | b"..")) {
                let changed = stat(folder, entry.file_name());
                if changed.is_some_and(|s| wall(s.st_ctime, s.st_ctime_nsec as i64) > lately) {
                    dirty.add((*number, entry.file_name().to_owned()), Dirt::Made { new: false });
                }
            }
        }
    }

    /// What the guest is to be told now, in the order in which it happened; suspicions that are not due stay.
    fn settled(&self, dirty: &mut Dirty) -> Vec<Change> {
        let mut table = self.table();
        table.tidy();
        let due = |dirt: &Dirt| !matches!(dirt, Dirt::Suspect(since) if since.elapsed() < SUSPICION);
        let mut settled: Vec<(Key, (u64, Dirt))> = dirty.names.extract_if(|_, (_, dirt)| due(dirt)).collect();
        settled.sort_by_key(|(_, (at, _))| *at);
        let mut changes = Vec::new();
        for (key, (_, dirt)) in settled {
            let Some(folder) = table.folders.get(&key.0) else { continue };
            let now = stat(folder, &key.1);
            let kind = now.as_ref().map(|s| FileType::from_raw_mode(s.st_mode));
            let what = match (dirt, kind) {
                (Dirt::Made { .. }, Some(FileType::RegularFile)) => What::FileMade,
                (Dirt::Made { .. }, Some(FileType::Directory)) => What::FolderMade,
                (Dirt::Made { .. }, Some(FileType::Symlink)) => What::LinkMade,
                (Dirt::Written, Some(FileType::RegularFile)) => What::Written,
                (Dirt::Suspect(_), Some(FileType::RegularFile)) => {
                    let by_guest = now.as_ref().and_then(|s| Some((s, table.written.get(&s.st_ino)?)));
                    if by_guest.is_some_and(|(s, (_, at))| wall(s.st_mtime, s.st_mtime_nsec as i64) <= *at) {
                        continue;
                    }
                    What::Written
                }
                (Dirt::Gone { folder }, None) => {
                    if folder {
                        What::FolderGone
                    } else {
                        What::FileGone
                    }
                }
                // There again, or gone again: the other event tells. Pipes, sockets and devices nobody waits for.
                _ => continue,
            };
            let Some(path) = self.path(folder) else { continue };
            let Ok(name) = key.1.to_str() else { continue };
            let change = Change { folder: path, name: name.to_owned(), what };
            if change.is_sound() {
                table.told.insert(key, (what, Instant::now()));
                changes.push(change);
            }
        }
        changes
    }

    /// Where a folder is now, from the share's own; `None` when it is no longer in it, or its name is no text.
    fn path(&self, folder: &Folder) -> Option<String> {
        let link = rustix::fs::readlink(fd_path(&folder.fd), Vec::new()).ok()?;
        let path = Path::new(std::ffi::OsStr::from_bytes(link.to_bytes()));
        // The kernel marks what is gone with words after its name: the guest finds nothing of that name.
        let found = path.strip_prefix(&self.root).ok()?;
        found.to_str().map(str::to_owned)
    }
}

impl Table {
    fn take_own(&mut self, key: &Key, deed: Deed) -> bool {
        let Some(deeds) = self.own.get_mut(key) else { return false };
        // An event that never came must not stand for one of the host's long after.
        deeds.retain(|(_, when)| when.elapsed() < REMEMBERED);
        let found = deeds.iter().position(|(d, _)| *d == deed).map(|at| deeds.remove(at));
        if deeds.is_empty() {
            self.own.remove(key);
        }
        found.is_some()
    }

    fn wrote(&mut self, file: u64) {
        self.written.insert(file, (Instant::now(), SystemTime::now()));
        if self.written.len() > MANY {
            self.written.retain(|_, (when, _)| when.elapsed() < 2 * SUSPICION);
        }
    }

    /// Lets go of what nothing came of.
    fn tidy(&mut self) {
        if self.own.len() + self.told.len() > MANY {
            self.own.retain(|_, deeds| deeds.iter().any(|(_, when)| when.elapsed() < REMEMBERED));
            self.told.retain(|_, (_, when)| when.elapsed() < REMEMBERED);
        }
    }
}

fn fd_path(fd: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn stat(folder: &Folder, name: &CStr) -> Option<rustix::fs::Stat> {
    rustix::fs::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ROOT: Inode = 1;

    struct Scene {
        folder: tempfile::TempDir,
        watch: Watch,
        dirty: Dirty,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let watch = Watch::new(&folder.path().canonicalize().unwrap(), ROOT, MAX_FOLDERS).unwrap();
            Self { folder, watch, dirty: Dirty::default() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        /// Everything that is heard of, suspicions included.
        fn heard(&mut self) -> Vec<(String, What)> {
            self.watch.collect(&mut self.dirty);
            for (_, dirt) in self.dirty.names.values_mut() {
                if let Dirt::Suspect(since) = dirt {
                    *since -= SUSPICION;
                }
            }
            let changes = self.watch.settled(&mut self.dirty);
            changes
                .into_iter()
                .map(|c| (Path::new(&c.folder).join(c.name).display().to_string(), c.what))
                .collect()
        }
    }

    /// The time that a file made now gets.
    fn wall_of(path: &Path) -> SystemTime {
        let _ = fs::remove_file(path);
        fs::write(path, "").and_then(|()| fs::metadata(path)?.modified()).unwrap()
    }

    fn said(list: &[(&str, What)]) -> Vec<(String, What)> {
        list.iter().map(|(name, what)| ((*name).to_owned(), *what)).collect()
    }

    #[test]
    fn what_the_host_does_is_heard_once_each_in_order() {
        let mut scene = Scene::new();
        fs::write(scene.path("a"), "1").unwrap();
        fs::write(scene.path("a"), "2").unwrap();
        fs::create_dir(scene.path("d")).unwrap();
        std::os::unix::fs::symlink("a", scene.path("l")).unwrap();
        let made = [("a", What::FileMade), ("d", What::FolderMade), ("l", What::LinkMade)];
        assert_eq!(scene.heard(), said(&made));
        fs::write(scene.path("a"), "3").unwrap();
        fs::remove_dir(scene.path("d")).unwrap();
        fs::rename(scene.path("l"), scene.path("m")).unwrap();
        let next =
            [("a", What::Written), ("d", What::FolderGone), ("l", What::FileGone), ("m", What::LinkMade)];
        assert_eq!(scene.heard(), said(&next));
        // There and gone before anybody was told.
        fs::write(scene.path("x"), "").unwrap();
        fs::remove_file(scene.path("x")).unwrap();
        assert_eq!(scene.heard(), []);
        // As editors save: what takes a name's place may be gone again, and the name with it.
        fs::write(scene.path("x"), "").unwrap();
        fs::rename(scene.path("x"), scene.path("a")).unwrap();
        assert_eq!(scene.heard(), said(&[("a", What::FileMade)]));
        fs::write(scene.path("x"), "").unwrap();
        fs::rename(scene.path("x"), scene.path("a")).unwrap();
        fs::remove_file(scene.path("a")).unwrap();
        assert_eq!(scene.heard(), said(&[("a", What::FileGone)]));
    }

    #[test]
    fn folders_are_watched_while_the_guest_knows_them() {
        let mut scene = Scene::new();
        fs::create_dir_all(scene.path("d/e")).unwrap();
        scene.heard();
        fs::write(scene.path("d/unknown"), "").unwrap();
        assert_eq!(scene.heard(), []);
        scene.watch.looked_up(ROOT, c"d", 7);
        scene.watch.looked_up(7, c"e", 8);
        scene.watch.looked_up(7, c"e", 8);
        fs::write(scene.path("d/e/f"), "").unwrap();
        assert_eq!(scene.heard(), said(&[("d/e/f", What::FileMade)]));
        assert_eq!(scene.watch.told(8, c"f"), Some(What::FileMade));
        scene.watch.echoed(8, c"f");
        assert_eq!(scene.watch.told(8, c"f"), None);
        // A folder that moves is found under its new name.
        fs::rename(scene.path("d"), scene.path("moved")).unwrap();
        scene.heard();
        fs::write(scene.path("moved/e/f"), "").unwrap();
        assert_eq!(scene.heard(), said(&[("moved/e/f", What::Written)]));
        scene.watch.forgotten(8, 1);
        fs::write(scene.path("moved/e/g"), "").unwrap();
        assert_eq!(scene.heard(), said(&[("moved/e/g", What::FileMade)]));
        scene.watch.forgotten(8, 1);
        fs::write(scene.path("moved/e/h"), "").unwrap();
        assert_eq!(scene.heard(), []);
    }

    #[test]
    fn what_the_guest_does_is_no_news() {
        let mut scene = Scene::new();
        let path = scene.path("f");
        scene.watch.doing(&[(ROOT, c"f", Deed::Made)], || fs::write(&path, "x")).unwrap();
        let number = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap());
        scene.watch.wrote_to(number);
        assert_eq!(scene.heard(), []);
        // The host writes right after the guest: heard of, though later.
        // The kernel's file times are coarse: the next one must be another.
        let (before, clock) = (SystemTime::now(), tempfile::tempdir().unwrap());
        while wall_of(&clock.path().join("now")) <= before {}
        fs::write(&path, "by the host").unwrap();
        assert_eq!(scene.heard(), said(&[("f", What::Written)]));
        // What failed leaves no expectation behind.
        let failed =
            scene.watch.doing(&[(ROOT, c"f", Deed::Gone)], || Err::<(), _>(io::ErrorKind::Other.into()));
        assert!(failed.is_err());
        fs::remove_file(&path).unwrap();
        assert_eq!(scene.heard(), said(&[("f", What::FileGone)]));
    }

    #[test]
    fn a_burst_beyond_what_the_kernel_keeps_loses_no_last_state() {
        let mut scene = Scene::new();
        for n in 0..20_000 {
            fs::write(scene.path(&format!("f{n}")), "").unwrap();
        }
        let overflow = scene.watch.collect(&mut scene.dirty);
        if overflow {
            scene.watch.look_everywhere(&mut scene.dirty);
        }
        assert_eq!(scene.watch.settled(&mut scene.dirty).len(), 20_000);
    }
}
