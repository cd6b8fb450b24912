//! Files written past the page cache.
//!
//! A blob is written once and hardly ever read again: in the page cache it would only push out what containers use,
//! and a machine's guest would have to ask its host for that memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// What memory, offsets and lengths must be multiples of: no disk has larger logical blocks.
const ALIGNMENT: usize = 4096;
/// Bytes written at once.
const BUFFER: usize = 1 << 20;

/// A new file that is written from its beginning to its end. Where the file system has no direct writes, it is written
/// as others are.
pub(crate) struct DirectFile {
    file: File,
    direct: bool,
    memory: Vec<u8>,
    /// Where the aligned part of `memory` begins, and how much of it is filled.
    start: usize,
    filled: usize,
}

impl DirectFile {
    /// Makes the file, which must not be there.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn create_new(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        let flag = OFlags::DIRECT.bits() as i32;
        let (file, direct) = match options.clone().custom_flags(flag).open(path) {
            Ok(file) => (file, true),
            // Not on this file system; the file may have been made all the same.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
                (file, false)
            }
            Err(e) => return Err(e),
        };
        let memory = vec![0; BUFFER + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Ok(Self { file, direct, memory, start, filled: 0 })
    }

    /// Writes what is left, and sees all of it onto the disk.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.buffered()?;
        self.put()?;
        self.file.sync_data()
    }

    /// From here on through the page cache, as any length may be.
    fn buffered(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.direct) {
            let flags = fcntl_getfl(&self.file)?;
            fcntl_setfl(&self.file, flags - OFlags::DIRECT)?;
        }
        Ok(())
    }

    fn put(&mut self) -> io::Result<()> {
        let (mut at, end) = (self.start, self.start + self.filled);
        while at < end {
            match self.file.write(&self.memory[at..end]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => at += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Some file systems tell only now, or a disk took half a block.
                Err(e) if self.direct && e.kind() == io::ErrorKind::InvalidInput => self.buffered()?,
                Err(e) => return Err(e),
            }
        }
        self.filled = 0;
        Ok(())
    }
}

impl Write for DirectFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = data.len().min(BUFFER - self.filled);
        let at = self.start + self.filled;
        self.memory[at..at + n].copy_from_slice(&data[..n]);
        self.filled += n;
        if self.filled == BUFFER {
            self.put()?;
        }
        Ok(n)
    }

    /// Does nothing: only whole blocks can be written, see [`DirectFile::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_lengths_are_whole() {
        // On a disk, and where there may be no direct writes.
        for folder in [tempfile::tempdir(), tempfile::tempdir_in("/dev/shm")] {
            let folder = folder.unwrap();
            for length in [0, 1, 4095, 4096, BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER + 4097] {
                let data: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
                let path = folder.path().join(length.to_string());
                let mut file = DirectFile::create_new(&path).unwrap();
                for piece in data.chunks(100_003) {
                    file.write_all(piece).unwrap();
                }
                file.finish().unwrap();
                assert!(std::fs::read(&path).unwrap() == data, "{length}");
                assert!(DirectFile::create_new(&path).is_err());
            }
        }
    }
}
