//! The json-file log, written by the shim itself as Docker's driver writes it.
//!
//! ```text
//!   <path>      {"log":"a line\n","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}   one per line
//!   <path>.1    the file before (after rotation), then .2 ... up to max_file - 1: see `logs::files`
//! ```
//! A line longer than [`MAX_LINE`] is written in pieces, all but the last without `\n` (so Docker). A disk that is
//! full never stops the container: what does not fit is dropped whole (the file is cut back to its last complete
//! entry) and the loss is noted in the log once writing works again.

use crate::logs::files;
use crate::plan::LogPlan;
use crate::timestamp;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The longest piece of a line in one entry, bytes: Docker's.
pub(crate) const MAX_LINE: usize = 16 * 1024;
/// Encoded entries are handed to the kernel at this size, bytes.
const FLUSH_AT: usize = 256 * 1024;

/// Which stream an entry came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// A log open for writing.
pub(super) struct JsonLog {
    plan: LogPlan,
    file: Option<File>,
    /// Bytes of complete entries in the file.
    size: u64,
    /// Encoded, not yet written.
    pending: Vec<u8>,
    /// The unfinished line of each stream.
    partial: [Vec<u8>; 2],
    /// Entries lost since the last that was written.
    lost: u64,
    /// A file has been put aside, to be compressed: nobody has been told yet.
    pub put_aside: bool,
}

impl JsonLog {
    /// Opens (or creates) the log; entries are appended.
    pub fn open(plan: &LogPlan) -> io::Result<JsonLog> {
        let file = open_append(&plan.path)?;
        let size = file.metadata()?.len();
        Ok(JsonLog {
            plan: plan.clone(),
            file: Some(file),
            size,
            pending: Vec::new(),
            partial: [Vec::new(), Vec::new()],
            lost: 0,
            put_aside: false,
        })
    }

    /// Takes output; complete lines reach the file before this returns.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8]) {
        let slot = stream as usize;
        while !bytes.is_empty() {
            let room = MAX_LINE - self.partial[slot].len();
            let window = &bytes[..bytes.len().min(room)];
            match window.iter().position(|b| *b == b'\n') {
                Some(end) => {
                    self.complete(stream, &bytes[..=end]);
                    bytes = &bytes[end + 1..];
                }
                None if window.len() == room => {
                    self.complete(stream, window);
                    bytes = &bytes[room..];
                }
                None => {
                    self.partial[slot].extend_from_slice(bytes);
                    break;
                }
            }
        }
        self.flush();
    }

    /// The stream has ended: what is left of a line is an entry without `\n`.
    pub fn end(&mut self, stream: Stream) {
        if !self.partial[stream as usize].is_empty() {
            self.complete(stream, b"");
        }
        self.flush();
    }

    /// One entry: the stream's unfinished line and `rest`.
    fn complete(&mut self, stream: Stream, rest: &[u8]) {
        let now = timestamp::now();
        let mut start = std::mem::take(&mut self.partial[stream as usize]);
        let from = self.pending.len();
        if start.is_empty() {
            encode(stream, rest, now, &mut self.pending);
        } else {
            start.extend_from_slice(rest);
            encode(stream, &start, now, &mut self.pending);
            start.clear();
            if start.capacity() <= MAX_LINE {
                self.partial[stream as usize] = start;
            }
        }
        let grown = self.size + self.pending.len() as u64;
        if self.plan.max_size.is_some_and(|max| grown > max) && (self.size > 0 || from > 0) {
            let entry = self.pending.split_off(from);
            self.flush();
            self.rotate();
            self.pending = entry;
        } else if self.pending.len() >= FLUSH_AT {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        if self.lost > 0 {
            let note = format!("[coracle: {} bytes of this log were lost: the disk was full]\n", self.lost);
            let mut noted = Vec::with_capacity(self.pending.len() + note.len() + 128);
            encode(Stream::Stderr, note.as_bytes(), timestamp::now(), &mut noted);
            noted.append(&mut self.pending);
            self.pending = noted;
        }
        let written = match &mut self.file {
            Some(file) => file.write_all(&self.pending),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        match written {
            Ok(()) => {
                self.size += self.pending.len() as u64;
                self.lost = 0;
            }
            Err(_) => {
                self.lost += self.pending.len() as u64;
                match &self.file {
                    Some(file) => drop(file.set_len(self.size)),
                    None => self.reopen(),
                }
            }
        }
        self.pending.clear();
        if self.pending.capacity() > FLUSH_AT {
            self.pending = Vec::new();
        }
    }

    fn reopen(&mut self) {
        if let Ok(file) = open_append(&self.plan.path) {
            self.size = file.metadata().map_or(0, |m| m.len());
            self.file = Some(file);
        }
    }

    /// `path` becomes `path.1`, that `path.2`, and so on; the oldest goes.
    fn rotate(&mut self) {
        let path = &self.plan.path;
        if self.plan.max_file <= 1 {
            if let Some(file) = &self.file
                && file.set_len(0).is_ok()
            {
                self.size = 0;
            }
            return;
        }
        if matches!(files::put_aside(Path::new(path), self.plan.max_file - 1), Ok(true)) {
            self.file = None;
            self.size = 0;
            self.reopen();
            self.put_aside |= self.plan.compress;
        }
    }
}

fn open_append(path: &str) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Appends one entry.
fn encode(stream: Stream, line: &[u8], time: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(line, out);
    out.extend_from_slice(match stream {
        Stream::Stdout => b"\",\"stream\":\"stdout\",\"time\":\"",
        Stream::Stderr => b"\",\"stream\":\"stderr\",\"time\":\"",
    });
    timestamp::write(time, out);
    out.extend_from_slice(b"\"}\n");
}

/// JSON string escapes as Docker's driver writes them; bytes that are no UTF-8 become U+FFFD.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid().as_bytes();
        let mut plain = 0;
        for (at, byte) in valid.iter().enumerate() {
            let escaped: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                0..0x20 | b'<' | b'>' | b'&' => b"",
                // U+2028 and U+2029, which JavaScript takes for line ends.
                0xe2 if matches!(valid.get(at + 1..at + 3), Some([0x80, 0xa8 | 0xa9])) => {
                    if valid[at + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" }
                }
                _ => continue,
            };
            out.extend_from_slice(&valid[plain..at]);
            plain = at + 1;
            if escaped.is_empty() {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            } else {
                out.extend_from_slice(escaped);
                if *byte == 0xe2 {
                    plain = at + 3;
                }
            }
        }
        out.extend_from_slice(&valid[plain..]);
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(max_size: Option<u64>, max_file: u32) -> (tempfile::TempDir, JsonLog) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c-json.log").to_str().unwrap().to_owned();
        (dir, JsonLog::open(&LogPlan { path, max_size, max_file, compress: false }).unwrap())
    }

    fn entries(path: &str) -> Vec<(String, String)> {
        std::fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(|l| {
                let v: serde_json::Value = serde_json::from_str(l).unwrap();
                (v["log"].as_str().unwrap().to_owned(), v["stream"].as_str().unwrap().to_owned())
            })
            .collect()
    }

    #[test]
    fn a_line_in_two_writes_is_one_entry() {
        let (_dir, mut log) = log(None, 1);
        log.write(Stream::Stdout, b"hel");
        log.write(Stream::Stderr, b"err\n");
        log.write(Stream::Stdout, b"lo\nrest");
        log.end(Stream::Stdout);
        assert_eq!(
            entries(&log.plan.path),
            [("err\n", "stderr"), ("hello\n", "stdout"), ("rest", "stdout")]
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
    }

    #[test]
    fn long_lines_are_cut_at_16_kib() {
        let (_dir, mut log) = log(None, 1);
        let mut line = vec![b'x'; MAX_LINE + 10];
        line.push(b'\n');
        log.write(Stream::Stdout, &line[..5]);
        log.write(Stream::Stdout, &line[5..]);
        let lengths: Vec<usize> = entries(&log.plan.path).iter().map(|(l, _)| l.len()).collect();
        assert_eq!(lengths, [MAX_LINE, 11]);
    }

    #[test]
    fn rotation_keeps_max_file_files_and_every_entry_whole() {
        let (_dir, mut log) = log(Some(1000), 3);
        for n in 0..200 {
            log.write(Stream::Stdout, format!("line {n}\n").as_bytes());
        }
        let path = log.plan.path.clone();
        assert!(!std::path::Path::new(&format!("{path}.3")).exists());
        let mut all = Vec::new();
        for file in [format!("{path}.2"), format!("{path}.1"), path] {
            assert!(std::fs::metadata(&file).unwrap().len() <= 1000);
            all.extend(entries(&file));
        }
        assert_eq!(all.last().unwrap().0, "line 199\n");
        let first: usize = all[0].0.trim().strip_prefix("line ").unwrap().parse().unwrap();
        assert_eq!(all.len(), 200 - first);
    }

    #[test]
    fn a_full_disk_loses_whole_entries_and_says_so_later() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: this test needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_owned();
        // A thread with a mount namespace of its own: the little disk vanishes with it.
        let thread = std::thread::spawn(move || {
            crate::sys::unshare(libc::CLONE_FS | libc::CLONE_NEWNS).unwrap();
            let flags =
                rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change("/", flags).unwrap();
            rustix::mount::mount("tmpfs", &folder, "tmpfs", rustix::mount::MountFlags::empty(), c"size=64k")
                .unwrap();
            let ballast = folder.join("ballast");
            std::fs::write(&ballast, vec![0; 48 * 1024]).unwrap();
            let path = folder.join("log").to_str().unwrap().to_owned();
            let mut log =
                JsonLog::open(&LogPlan { path: path.clone(), max_size: None, max_file: 1, compress: false })
                    .unwrap();
            for n in 0..1000 {
                log.write(Stream::Stdout, format!("line {n}\n").as_bytes());
            }
            let kept = entries(&path);
            assert!(!kept.is_empty() && kept.len() < 1000);
            std::fs::remove_file(ballast).unwrap();
            log.write(Stream::Stdout, b"room again\n");
            let after = entries(&path);
            assert_eq!(after.len(), kept.len() + 2);
            assert!(after[kept.len()].0.contains("were lost"), "{:?}", after[kept.len()]);
            assert_eq!(after[kept.len() + 1].0, "room again\n");
        });
        thread.join().unwrap();
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_json_that_reads_back(bytes: Vec<u8>) {
            let mut out = Vec::new();
            encode(Stream::Stdout, &bytes, 0, &mut out);
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let expected: String = bytes.utf8_chunks().map(|c| {
                format!("{}{}", c.valid(), "\u{fffd}".repeat(c.invalid().len()))
            }).collect();
            assert_eq!(value["log"].as_str().unwrap(), expected);
        }
    }
}
