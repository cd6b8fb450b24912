//! Reading json-file logs: by tail, since and until, across rotation, and as they grow.
//!
//! ```text
//!   <path>.2.gz  <path>.1  <path>      oldest to newest: what the shim writes (see `shim::log`), and `files` keeps
//! ```
//! Following wakes by inotify on the log's folder, never by a clock. A file that was rotated away is read to its end
//! (it stays open) before its successor; one that was cut back to nothing is read from its start.

pub(crate) mod files;

pub use files::compress;

use crate::error::Error;
use crate::{sys, timestamp};
use files::{Body, Found, MAX_FILES, MAX_GAPS};
use rustix::fs::inotify;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::SystemTime;
use tokio::io::unix::AsyncFd;

/// Bytes of a log read at once.
const CHUNK: usize = 1 << 20;
/// The longest line of the file itself, bytes: 16 KiB of output, each byte escaped to six, and the frame around it.
const MAX_LINE: usize = 256 * 1024;
/// Looks at the files before one that is not among them counts as removed.
const LOOKS: u32 = 3;

/// Which of a container's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Its number in Docker's frames.
    pub fn number(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it was written.
    pub time: SystemTime,
    /// Where it came from.
    pub stream: Stream,
    /// The line with its `\n`, or a piece of one.
    pub line: Vec<u8>,
}

impl Entry {
    /// Whether the line goes on in the stream's next entry (or ended without `\n`).
    pub fn partial(&self) -> bool {
        self.line.last() != Some(&b'\n')
    }

    /// `time` as Docker prints it (`RFC3339Nano`).
    pub fn timestamp(&self) -> String {
        let mut text = Vec::with_capacity(32);
        timestamp::write(timestamp::from_system(self.time), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only entries at or after this.
    pub since: Option<SystemTime>,
    /// Only entries at or before this.
    pub until: Option<SystemTime>,
    /// Only the last so many; `None` = all.
    pub tail: Option<u64>,
    /// Leave out stdout.
    pub no_stdout: bool,
    /// Leave out stderr.
    pub no_stderr: bool,
}

/// Completes when nothing more will be written: the container has exited.
pub type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Opens the log at `path`. With `follow` the reader waits for more until that completes; without it ends at the end.
pub async fn read(path: PathBuf, options: Options, follow: Option<Ended>) -> Result<Reader, Error> {
    let shown = path.display().to_string();
    let failed = move |e: io::Error| Error::system(format!("cannot read the log {shown}"), e);
    // The watch first: what is written after this look wakes us.
    let watch = match &follow {
        Some(_) => Some(watch(&path).map_err(&failed)?),
        None => None,
    };
    let tail = options.tail;
    let cursor = blocking(move || Cursor::open(path, tail)).await.map_err(&failed)?;
    Ok(Reader { cursor: Some(cursor), options, ready: VecDeque::new(), follow, watch, finished: false })
}

/// Compresses what has been put aside of a log; one log at a time, behind everything else. What cannot be compressed
/// stays as it is.
pub async fn compress_later(path: PathBuf) {
    static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _one = ONE.lock().await;
    let shown = path.display().to_string();
    match blocking(move || compress(&path)).await {
        // Its container has been removed meanwhile.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => tracing::warn!("the log {shown} is not compressed: {e}"),
        Ok(()) => {}
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

fn watch(path: &Path) -> io::Result<AsyncFd<rustix::fd::OwnedFd>> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&fd, folder, flags)?;
    sys::async_fd(fd)
}

enum Sifted {
    Wanted(Entry),
    LeftOut,
    PastTheEnd,
}

/// A log being read.
pub struct Reader {
    /// Away while a thread reads with it.
    cursor: Option<Cursor>,
    options: Options,
    ready: VecDeque<Entry>,
    follow: Option<Ended>,
    watch: Option<AsyncFd<rustix::fd::OwnedFd>>,
    finished: bool,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("options", &self.options).field("finished", &self.finished).finish()
    }
}

impl Reader {
    /// The next entry; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Entry>, Error> {
        loop {
            if let Some(entry) = self.ready() {
                return Ok(Some(entry));
            }
            if self.finished {
                return Ok(None);
            }
            if self.fill().await? {
                continue;
            }
            // At the end of what there is.
            let (Some(ended), Some(watch)) = (&mut self.follow, &self.watch) else {
                self.finished = true;
                continue;
            };
            let until = self.options.until.map(|u| u.duration_since(SystemTime::now()).unwrap_or_default());
            tokio::select! {
                () = ended => {
                    // One more look: what came before the end is in the file now.
                    self.follow = None;
                    self.watch = None;
                }
                // What comes from now on is not wanted.
                () = tokio::time::sleep(until.unwrap_or_default()), if until.is_some() => {
                    self.follow = None;
                    self.watch = None;
                }
                ready = watch.readable() => {
                    let mut ready = ready.map_err(|e| Error::system("cannot watch the log", e))?;
                    let mut events = [0u8; 4096];
                    while rustix::io::read(watch.get_ref(), &mut events).is_ok_and(|n| n > 0) {}
                    ready.clear_ready();
                }
            }
        }
    }

    /// The next entry, if it has been read already: never waits.
    pub fn ready(&mut self) -> Option<Entry> {
        loop {
            let entry = self.ready.pop_front()?;
            match self.sift(entry) {
                Sifted::Wanted(entry) => return Some(entry),
                Sifted::LeftOut => {}
                Sifted::PastTheEnd => return None,
            }
        }
    }

    /// Whether an entry is wanted; one after `until` ends the reading.
    fn sift(&mut self, entry: Entry) -> Sifted {
        if self.options.until.is_some_and(|until| entry.time > until) {
            self.finished = true;
            self.ready.clear();
            return Sifted::PastTheEnd;
        }
        let left_out = match entry.stream {
            Stream::Stdout => self.options.no_stdout,
            Stream::Stderr => self.options.no_stderr,
        };
        if left_out || self.options.since.is_some_and(|since| entry.time < since) {
            return Sifted::LeftOut;
        }
        Sifted::Wanted(entry)
    }

    /// Reads on; `false` = there is nothing more now.
    async fn fill(&mut self) -> Result<bool, Error> {
        let Some(mut cursor) = self.cursor.take() else { return Ok(false) };
        let mut ready = std::mem::take(&mut self.ready);
        let (cursor, ready, more) = blocking(move || {
            let more = cursor.fill(&mut ready)?;
            Ok((cursor, ready, more))
        })
        .await
        .map_err(|e| Error::system("cannot read the log", e))?;
        (self.cursor, self.ready) = (Some(cursor), ready);
        Ok(more)
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    log: Cow<'a, str>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(borrow, default)]
    time: Cow<'a, str>,
}

fn parse(line: &[u8]) -> Option<Entry> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    Some(Entry {
        time: timestamp::to_system(timestamp::parse(&line.time)?),
        stream: if line.stream == "stderr" { Stream::Stderr } else { Stream::Stdout },
        line: line.log.into_owned().into_bytes(),
    })
}

/// A place in a row of files.
struct Cursor {
    path: PathBuf,
    at: Option<At>,
    /// The file's last, incomplete line.
    rest: Vec<u8>,
    chunk: Vec<u8>,
}

/// A file, and where in it the next read begins.
struct At {
    found: Found,
    offset: u64,
}

impl At {
    fn start(found: Found) -> At {
        At { found, offset: 0 }
    }

    /// Reads on; 0 = at its end.
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.found.body {
            Body::Plain(file) => file.read_at(chunk, self.offset)?,
            // What is damaged ends there: what comes after it is still to be read.
            Body::Packed(file) => file.read(chunk).unwrap_or_else(|e| {
                tracing::warn!("a compressed log is damaged: {e}");
                0
            }),
        };
        self.offset += read as u64;
        Ok(read)
    }

    /// Goes to where the last `count` lines begin; how many there are.
    fn seek_to_last_lines(&mut self, count: u64) -> io::Result<u64> {
        match &mut self.found.body {
            Body::Plain(file) => {
                let (offset, found) = last_lines(file, count)?;
                self.offset = offset;
                Ok(found)
            }
            Body::Packed(file) => {
                let lines = files::count_lines(file)?;
                for _ in count..lines {
                    file.skip_until(b'\n')?;
                }
                Ok(lines.min(count))
            }
        }
    }

    /// Whether that is this file, however it is called and kept by now.
    fn is(&self, other: &Found) -> bool {
        match (&self.found.body, &other.body) {
            (Body::Plain(_), Body::Packed(_)) => other.was == Some(self.found.inode),
            (Body::Plain(_), Body::Plain(_)) | (Body::Packed(_), Body::Packed(_)) => {
                self.found.inode == other.inode
            }
            (Body::Packed(_), Body::Plain(_)) => false,
        }
    }
}

impl Cursor {
    fn open(path: PathBuf, tail: Option<u64>) -> io::Result<Cursor> {
        let mut cursor = Cursor { path, at: None, rest: Vec::new(), chunk: Vec::new() };
        let all = files::list(&cursor.path)?;
        let Some(mut wanted) = tail else {
            cursor.at = all.into_iter().next_back().map(At::start);
            return Ok(cursor);
        };
        for found in all {
            let mut at = At::start(found);
            wanted -= at.seek_to_last_lines(wanted)?;
            cursor.at = Some(at);
            if wanted == 0 {
                break;
            }
        }
        Ok(cursor)
    }

    /// Appends entries; `false` = nothing new.
    fn fill(&mut self, out: &mut VecDeque<Entry>) -> io::Result<bool> {
        loop {
            if self.at.is_none() {
                self.at = files::find(&self.path, 0)?.map(At::start);
            }
            let Some(at) = &mut self.at else { return Ok(false) };
            self.chunk.resize(CHUNK, 0);
            let read = at.read(&mut self.chunk)?;
            if read > 0 {
                let before = out.len();
                self.lines(read, out);
                if out.len() > before {
                    return Ok(true);
                }
                continue;
            }
            if let Body::Plain(file) = &at.found.body
                && file.metadata()?.len() < at.offset
            {
                at.offset = 0;
                self.rest.clear();
                continue;
            }
            if !self.move_on()? {
                return Ok(false);
            }
        }
    }

    /// At the end of a file: to its successor, if it has been rotated away.
    fn move_on(&mut self) -> io::Result<bool> {
        let Some(at) = &self.at else { return Ok(false) };
        let mut oldest = None;
        for _ in 0..LOOKS {
            let mut newer: Option<Found> = None;
            let mut gaps = 0;
            for number in 0..MAX_FILES {
                // Rotation only ever moves files up, the oldest first: one look upwards meets every file, but also
                // gaps.
                let Some(found) = files::find(&self.path, number)? else {
                    gaps += 1;
                    if gaps > MAX_GAPS {
                        break;
                    }
                    continue;
                };
                if at.is(&found) {
                    let Some(next) = newer else { return Ok(false) };
                    // Unless it was written to between our last read and its rotation.
                    let whole = match &at.found.body {
                        Body::Plain(file) => file.metadata()?.len() <= at.offset,
                        Body::Packed(_) => true,
                    };
                    if whole {
                        self.step_to(next);
                    }
                    return Ok(true);
                }
                newer = Some(found);
            }
            oldest = newer;
        }
        // Ours has been removed: on with the oldest that is left.
        match oldest {
            Some(oldest) => {
                self.step_to(oldest);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    fn step_to(&mut self, found: Found) {
        self.at = Some(At::start(found));
        self.rest.clear();
    }

    fn lines(&mut self, read: usize, out: &mut VecDeque<Entry>) {
        let mut bytes = &self.chunk[..read];
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let entry = if self.rest.is_empty() {
                parse(&bytes[..end])
            } else {
                self.rest.extend_from_slice(&bytes[..end]);
                let entry = parse(&self.rest);
                self.rest.clear();
                entry
            };
            // What a crash left half written is no entry.
            out.extend(entry);
            bytes = &bytes[end + 1..];
        }
        if self.rest.len() + bytes.len() <= MAX_LINE {
            self.rest.extend_from_slice(bytes);
        } else {
            self.rest.clear();
        }
    }
}

/// Where the last `count` lines begin, and how many of them there are.
fn last_lines(file: &mut File, count: u64) -> io::Result<(u64, u64)> {
    const BLOCK: u64 = 64 * 1024;
    let end = file.seek(SeekFrom::End(0))?;
    if count == 0 {
        return Ok((end, 0));
    }
    let (mut at, mut found) = (end, 0);
    let mut block = Vec::new();
    while at > 0 {
        let from = at.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(from))?;
        block.resize((at - from) as usize, 0);
        file.read_exact(&mut block)?;
        for (index, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let next = from + index as u64 + 1;
            // The newline at the very end closes the last line, it begins none.
            if next == end {
                continue;
            }
            found += 1;
            if found == count {
                return Ok((next, found));
            }
        }
        at = from;
    }
    Ok((0, found + u64::from(end > 0)))
}

#[cfg(test)]
mod tests {
    use super::files::numbered;
    use super::*;
    use std::io::Write as _;

    fn entry(n: usize) -> String {
        format!(
            "{{\"log\":\"line {n}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:{:02}Z\"}}\n",
            n % 60
        )
    }

    fn write(path: &Path, range: std::ops::Range<usize>) {
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        file.write_all(range.map(entry).collect::<String>().as_bytes()).unwrap();
    }

    async fn all(mut reader: Reader) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(entry) = reader.next().await.unwrap() {
            lines.push(String::from_utf8(entry.line).unwrap().trim().to_owned());
        }
        lines
    }

    fn lines(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|n| format!("line {n}")).collect()
    }

    #[tokio::test]
    async fn all_files_in_order_and_the_tail_across_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&numbered(&path, 2), 0..10);
        write(&numbered(&path, 1), 10..20);
        write(&path, 20..25);
        assert_eq!(all(read(path.clone(), Options::default(), None).await.unwrap()).await, lines(0..25));
        for tail in [0, 1, 5, 6, 15, 16, 25, 99] {
            let options = Options { tail: Some(tail), ..Options::default() };
            let from = 25 - (tail as usize).min(25);
            assert_eq!(
                all(read(path.clone(), options, None).await.unwrap()).await,
                lines(from..25),
                "tail {tail}"
            );
        }
    }

    #[tokio::test]
    async fn since_and_until_bound_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&path, 0..50);
        let at = |n: u64| {
            Some(timestamp::to_system(timestamp::parse("2026-01-01T00:00:00Z").unwrap() + n * 1_000_000_000))
        };
        let options = Options { since: at(10), until: at(19), ..Options::default() };
        assert_eq!(all(read(path, options, None).await.unwrap()).await, lines(10..20));
    }

    /// Follows while more is written and the file is put aside now and then.
    async fn follow(put_aside: fn(&Path)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&path, 0..3);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let ended: Ended = Box::pin(async move { drop(ended.await) });
        let mut reader = read(path.clone(), Options::default(), Some(ended)).await.unwrap();
        for n in 0..3 {
            assert_eq!(reader.next().await.unwrap().unwrap().line, format!("line {n}\n").into_bytes());
        }
        let writer = tokio::task::spawn_blocking(move || {
            for round in 0..20 {
                write(&path, 3 + round * 5..8 + round * 5);
                if round % 3 == 0 {
                    put_aside(&path);
                }
            }
        });
        for n in 3..103 {
            let entry = reader.next().await.unwrap().unwrap();
            assert_eq!(String::from_utf8(entry.line).unwrap(), format!("line {n}\n"));
        }
        writer.await.unwrap();
        end.send(()).unwrap();
        assert_eq!(reader.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn following_sees_growth_and_rotation_and_ends_when_told() {
        follow(|path| {
            for number in (0..10).rev() {
                let _ = std::fs::rename(numbered(path, number), numbered(path, number + 1));
            }
        })
        .await;
    }

    #[tokio::test]
    async fn half_an_entry_waits_for_its_rest_and_rubbish_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, format!("{}rubbish\n{}{}", entry(0), entry(1), &entry(2)[..20])).unwrap();
        assert_eq!(all(read(path, Options::default(), None).await.unwrap()).await, lines(0..2));
    }

    #[tokio::test]
    async fn compressed_files_are_read_like_all_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&numbered(&path, 2), 0..10);
        write(&numbered(&path, 1), 10..20);
        write(&path, 20..25);
        // Of an engine that died while it compressed.
        std::fs::write(dir.path().join("log.gz.new"), b"half").unwrap();
        compress(&path).unwrap();
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["log", "log.1.gz", "log.2.gz"]);
        for tail in [None, Some(0), Some(4), Some(5), Some(6), Some(15), Some(16), Some(25), Some(99)] {
            let options = Options { tail, ..Options::default() };
            let from = 25 - tail.map_or(25, |tail| (tail as usize).min(25));
            let found = all(read(path.clone(), options, None).await.unwrap()).await;
            assert_eq!(found, lines(from..25), "tail {tail:?}");
        }
        // Died between the last two steps: the plain file is there as well.
        write(&numbered(&path, 1), 10..20);
        assert_eq!(all(read(path.clone(), Options::default(), None).await.unwrap()).await, lines(0..25));
        compress(&path).unwrap();
        assert_eq!(all(read(path.clone(), Options::default(), None).await.unwrap()).await, lines(0..25));
        // Damaged behind its start: the rest of the row is read.
        let packed = dir.path().join("log.2.gz");
        let bytes = std::fs::read(&packed).unwrap();
        std::fs::write(&packed, &bytes[..bytes.len() - 20]).unwrap();
        let found = all(read(path.clone(), Options::default(), None).await.unwrap()).await;
        assert!(found.ends_with(&lines(10..25)), "{found:?}");
    }

    #[tokio::test]
    async fn following_goes_on_while_what_was_put_aside_is_compressed() {
        follow(|path| {
            while !files::put_aside(path, 20).unwrap() {}
            compress(path).unwrap();
        })
        .await;
    }

    #[test]
    fn what_is_held_is_put_aside_later_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&path, 0..1);
        let held = files::hold(&path, rustix::fs::FlockOperation::LockShared).unwrap();
        assert!(!files::put_aside(&path, 2).unwrap());
        drop(held);
        for n in 1..4 {
            assert!(files::put_aside(&path, 2).unwrap());
            compress(&path).unwrap();
            write(&path, n..n + 1);
        }
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["log", "log.1.gz", "log.2.gz"]);
    }
}
