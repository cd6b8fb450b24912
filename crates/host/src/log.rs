//! Logs that stay small: a file that begins anew when it is full, and a few of the files before it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Most bytes of one log file.
pub const FILE_LIMIT: u64 = 4 << 20;
/// Older files that are kept.
pub const KEPT: u32 = 3;
/// Most bytes looked at for the last lines of a log.
const TAIL_BYTES: u64 = 64 * 1024;

/// A log of this process.
pub struct Log {
    path: PathBuf,
    open: Mutex<(File, u64)>,
}

impl Log {
    /// Opens or makes the log at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), open: Mutex::new(append(path)?) })
    }
}

impl Write for &Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.1 + bytes.len() as u64 > FILE_LIMIT {
            shift(&self.path);
            let _ = fs::rename(&self.path, numbered(&self.path, 1));
            *open = append(&self.path)?;
        }
        let n = open.0.write(bytes)?;
        open.1 += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bounds a log that another process appends to (opened with O_APPEND): copied away and cut to nothing when full.
pub fn bound(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > FILE_LIMIT => {
            shift(path);
            fs::copy(path, numbered(path, 1))?;
            OpenOptions::new().write(true).truncate(true).open(path)?;
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Puts a log aside that another process is about to begin anew.
pub fn begin_anew(path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() > 0) {
        shift(path);
        fs::rename(path, numbered(path, 1))?;
    }
    Ok(())
}

/// The last `lines` lines of a log; empty when there is none.
pub fn tail(path: &Path, lines: usize) -> String {
    tail_since(path, 0, lines)
}

/// The last `lines` lines of those that came after the first `since` bytes (all, when the log was begun anew).
pub fn tail_since(path: &Path, since: u64, lines: usize) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let since = if since > len { 0 } else { since };
        file.seek(SeekFrom::Start(since.max(len.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn append(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let len = file.metadata()?.len();
    Ok((file, len))
}

fn shift(path: &Path) {
    for n in (1..KEPT).rev() {
        let _ = fs::rename(numbered(path, n), numbered(path, n + 1));
    }
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_stays_within_its_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let log = Log::open(&path).unwrap();
        let line = [b'x'; 64 * 1024];
        for _ in 0..(6 * FILE_LIMIT / line.len() as u64) {
            (&log).write_all(&line).unwrap();
        }
        let files: Vec<u64> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(files.len() as u32, KEPT + 1);
        assert!(files.iter().all(|len| *len <= FILE_LIMIT));
    }

    #[test]
    fn the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        fs::write(&path, "a\nb\nc\n").unwrap();
        assert_eq!(tail(&path, 2), "b\nc");
        assert_eq!(tail_since(&path, 4, 2), "c");
        assert_eq!(tail_since(&path, 99, 2), "b\nc");
        assert_eq!(tail(&dir.path().join("none"), 2), "");
    }
}
