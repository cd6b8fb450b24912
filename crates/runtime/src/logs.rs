//! Reading json-file logs: by tail, since and until, across rotation, and as they grow.
//!
//! ```text
//!   <path>.2  <path>.1  <path>      oldest to newest; what the shim writes (see `shim::log`)
//! ```
//! Following wakes by inotify on the log's folder, never by a clock. A file that was rotated away is read to its end
//! (it stays open) before its successor; one that was cut back to nothing is read from its start.

use crate::error::Error;
use crate::{sys, timestamp};
use rustix::fs::inotify;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::SystemTime;
use tokio::io::unix::AsyncFd;

/// Bytes of a log read at once.
const CHUNK: usize = 1 << 20;
/// The longest line of the file itself, bytes: 16 KiB of output, each byte escaped to six, and the frame around it.
const MAX_LINE: usize = 256 * 1024;
/// Rotated files looked for; as many as Docker allows sensibly.
const MAX_FILES: u32 = 1000;
/// Missing numbers passed over in a row of files: rotation leaves one at a time.
const MAX_GAPS: u32 = 2;
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
            tokio::select! {
                () = ended => {
                    // One more look: what came before the end is in the file now.
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
    file: Option<File>,
    /// Where in `file` the next read begins.
    offset: u64,
    /// The file's last, incomplete line.
    rest: Vec<u8>,
    chunk: Vec<u8>,
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl Cursor {
    fn open(path: PathBuf, tail: Option<u64>) -> io::Result<Cursor> {
        let mut cursor = Cursor { path, file: None, offset: 0, rest: Vec::new(), chunk: Vec::new() };
        let mut wanted = tail;
        for number in 0..MAX_FILES {
            let Some(mut file) = open(&numbered(&cursor.path, number))? else {
                // The newest may be missing for a moment while it is rotated.
                if number == 0 {
                    continue;
                }
                break;
            };
            match wanted {
                None => cursor.offset = 0,
                Some(count) => {
                    let (offset, found) = last_lines(&mut file, count)?;
                    cursor.offset = offset;
                    wanted = Some(count - found);
                }
            }
            cursor.file = Some(file);
            if wanted == Some(0) {
                break;
            }
        }
        Ok(cursor)
    }

    /// Appends entries; `false` = nothing new.
    fn fill(&mut self, out: &mut VecDeque<Entry>) -> io::Result<bool> {
        loop {
            if self.file.is_none() {
                self.file = open(&self.path)?;
                self.offset = 0;
            }
            let Some(file) = &self.file else { return Ok(false) };
            self.chunk.resize(CHUNK, 0);
            let read = file.read_at(&mut self.chunk, self.offset)?;
            if read > 0 {
                self.offset += read as u64;
                let before = out.len();
                self.lines(read, out);
                if out.len() > before {
                    return Ok(true);
                }
                continue;
            }
            let metadata = file.metadata()?;
            if metadata.len() < self.offset {
                self.offset = 0;
                self.rest.clear();
                continue;
            }
            if !self.move_on(metadata.ino())? {
                return Ok(false);
            }
        }
    }

    /// At the end of a file: to its successor, if it has been rotated away.
    fn move_on(&mut self, inode: u64) -> io::Result<bool> {
        let mut oldest = None;
        for _ in 0..LOOKS {
            let mut newer: Option<File> = None;
            let mut gaps = 0;
            for number in 0..MAX_FILES {
                // Rotation only ever moves files up, the oldest first: one look upwards meets every file, but also
                // gaps.
                let Some(file) = open(&numbered(&self.path, number))? else {
                    gaps += 1;
                    if gaps > MAX_GAPS {
                        break;
                    }
                    continue;
                };
                let metadata = file.metadata()?;
                if metadata.ino() == inode {
                    let Some(next) = newer else { return Ok(false) };
                    // Unless it was written to between our last read and its rotation.
                    if metadata.len() <= self.offset {
                        self.step_to(next);
                    }
                    return Ok(true);
                }
                newer = Some(file);
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

    fn step_to(&mut self, file: File) {
        self.file = Some(file);
        self.offset = 0;
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

    #[tokio::test]
    async fn following_sees_growth_and_rotation_and_ends_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        write(&path, 0..3);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let ended: Ended = Box::pin(async move { drop(ended.await) });
        let mut reader = read(path.clone(), Options::default(), Some(ended)).await.unwrap();
        for n in 0..3 {
            assert_eq!(reader.next().await.unwrap().unwrap().line, format!("line {n}\n").into_bytes());
        }
        let writer = tokio::task::spawn_blocking({
            let path = path.clone();
            move || {
                for round in 0..20 {
                    write(&path, 3 + round * 5..8 + round * 5);
                    if round % 3 == 0 {
                        for number in (0..10).rev() {
                            let _ = std::fs::rename(numbered(&path, number), numbered(&path, number + 1));
                        }
                    }
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
    async fn half_an_entry_waits_for_its_rest_and_rubbish_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, format!("{}rubbish\n{}{}", entry(0), entry(1), &entry(2)[..20])).unwrap();
        assert_eq!(all(read(path, Options::default(), None).await.unwrap()).await, lines(0..2));
    }
}
