//! Unpacking one layer: compressed bytes in, a folder for overlayfs out, both digests known.
//!
//! ```text
//! chunks --bounded channel--> decompress -> sha256 (diff ID) --bounded channel--> archive::extract -> layers/ID
//!                             a thread of its own                                the caller's
//! ```
//!
//! Two threads, for the last and largest layer of a pull has the machine for itself.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use archive::ExtractOptions;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::digest::Hasher;
use crate::{Digest, Error};

/// Decompressed bytes handled at once.
const BUFFER: usize = 256 * 1024;
/// Buffers of [`BUFFER`] bytes that wait between a layer's two threads.
const AHEAD: usize = 4;
/// Largest zstd window accepted, log2 of bytes (the `zstd` tool's own limit). Layers made at the usual levels need
/// 8 MiB; only `--ultra` ones come near this.
const ZSTD_WINDOW_LOG: u32 = 27;
/// Most memory an xz stream may ask for, in KiB: `xz -9` needs 65 MiB.
const XZ_MEMORY: u32 = 96 << 10;

/// Reads the chunks that an async task sends.
pub(crate) struct Chunks {
    receiver: mpsc::Receiver<Result<Bytes, io::Error>>,
    current: Bytes,
}

impl Chunks {
    pub(crate) fn new(receiver: mpsc::Receiver<Result<Bytes, io::Error>>) -> Self {
        Chunks { receiver, current: Bytes::new() }
    }
}

impl Read for Chunks {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => break,
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, n: usize) {
        let _ = self.current.split_to(n);
    }
}

/// Decompresses by what the first bytes are: registries' media types are not always true to it. What is not known to
/// be compressed comes as it is.
///
/// # Errors
/// When the input cannot be read, or is compressed in a way that is not supported.
pub fn decompress<'a>(mut input: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut head = Vec::with_capacity(6);
    while head.len() < 6 {
        let available = input.fill_buf()?;
        if available.is_empty() {
            break;
        }
        let n = available.len().min(6 - head.len());
        head.extend_from_slice(&available[..n]);
        input.consume(n);
    }
    let whole = |head: Vec<u8>, input| Read::chain(io::Cursor::new(head), input);
    match head.as_slice() {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(whole(head, input)))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(whole(head, input))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Ok(Box::new(decoder))
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            Ok(Box::new(lzma_rust2::XzReader::new_mem_limit(whole(head, input), true, XZ_MEMORY)))
        }
        [b'B', b'Z', b'h', ..] => Ok(Box::new(bzip2::bufread::MultiBzDecoder::new(whole(head, input)))),
        _ => Ok(Box::new(whole(head, input))),
    }
}

/// Takes the digest of what is read through it.
pub(crate) struct Hashing<R> {
    pub(crate) inner: R,
    pub(crate) hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }
}

/// Unpacks a layer into the new folder `to`, and checks that it is the one meant. Returns its bytes on disk.
pub(crate) fn unpack(
    input: impl BufRead + Send,
    to: &Path,
    diff_id: Option<&Digest>,
) -> Result<(u64, Digest), Error> {
    let decoder = decompress(input).map_err(|e| Error::Layer(archive::Error::Read(e)))?;
    unpack_tar(decoder, to, diff_id)
}

/// The same for a layer that is not compressed.
pub(crate) fn unpack_tar(
    input: impl Read + Send,
    to: &Path,
    diff_id: Option<&Digest>,
) -> Result<(u64, Digest), Error> {
    std::fs::create_dir(to).map_err(|e| Error::os("mkdir", to, e))?;
    let folder = File::open(to).map_err(|e| Error::os("open", to, e))?;
    let read = |e: io::Error| Error::Layer(archive::Error::Read(e));
    let (summary, got) = std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(AHEAD);
        let (empty, emptied) = sync_channel(AHEAD + 2);
        let reading = std::thread::Builder::new()
            .name("unpack".into())
            .spawn_scoped(scope, move || read_ahead(input, &sender, &emptied))
            .map_err(|e| Error::os("start a thread for", to, e))?;
        let mut ahead = Ahead { receiver, empty, current: Filled::default(), at: 0 };
        let summary = archive::extract(&mut ahead, folder.as_fd(), &ExtractOptions::layer());
        // The digest covers all bytes, also those after the end of the archive.
        let summary = summary
            .map_err(Error::from)
            .and_then(|summary| io::copy(&mut ahead, &mut io::sink()).map(|_| summary).map_err(read));
        drop(ahead);
        match reading.join() {
            Ok(got) => summary.map(|summary| (summary, got)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    if let Some(expected) = diff_id.filter(|d| **d != got) {
        return Err(Error::Verification {
            what: "unpacked layer".into(),
            expected: expected.to_string(),
            got: got.to_string(),
        });
    }
    // Blocks of the folder itself count too: `du` and dockerd agree.
    let own = folder.metadata().map_err(|e| Error::os("stat", to, e))?.blocks() * 512;
    Ok((summary.disk_bytes + own, got))
}

/// Memory, and how much of it is filled.
type Filled = (Vec<u8>, usize);

/// Reads and hashes until the end, a fault, or until nobody takes it any more.
fn read_ahead(
    mut input: impl Read,
    sender: &SyncSender<io::Result<Filled>>,
    emptied: &Receiver<Vec<u8>>,
) -> Digest {
    let mut hasher = Hasher::default();
    loop {
        let mut buffer = emptied.try_recv().unwrap_or_else(|_| vec![0; BUFFER]);
        let mut filled = 0;
        let fault = loop {
            match input.read(&mut buffer[filled..]) {
                Ok(0) => break None,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Some(e),
            }
        };
        hasher.update(&buffer[..filled]);
        let end = filled == 0 || sender.send(Ok((buffer, filled))).is_err();
        if let Some(fault) = fault {
            // Whoever is gone does not want to know.
            let _ = sender.send(Err(fault));
            return hasher.finish();
        }
        if end {
            return hasher.finish();
        }
    }
}

/// What [`read_ahead`] read.
struct Ahead {
    receiver: Receiver<io::Result<Filled>>,
    empty: SyncSender<Vec<u8>>,
    current: Filled,
    at: usize,
}

impl Read for Ahead {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.1 {
            let Ok(next) = self.receiver.recv() else { return Ok(0) };
            let (used, _) = std::mem::replace(&mut self.current, next?);
            self.at = 0;
            // There is room for all that there are; the reader may have ended.
            if !used.is_empty() {
                let _ = self.empty.try_send(used);
            }
        }
        let n = buf.len().min(self.current.1 - self.at);
        buf[..n].copy_from_slice(&self.current.0[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(data: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompress(data)?.read_to_end(&mut out).map(|_| out)
    }

    /// The text below as xz(1) packs it.
    const XZ: &[u8] =
        b"\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\
        \xe5\xa3\x01\x00\x2b\x73\x6f\x6d\x65\x20\x74\x65\x78\x74\x20\x74\x68\x61\x74\x20\x69\x73\
        \x20\x6c\x6f\x6e\x67\x65\x72\x20\x74\x68\x61\x6e\x20\x61\x20\x6d\x61\x67\x69\x63\x20\x6e\
        \x75\x6d\x62\x65\x72\x00\xda\x81\x6c\xd4\xe8\xeb\x03\x04\x00\x01\x44\x2c\xc9\x53\x4b\x86\
        \x1f\xb6\xf3\x7d\x01\x00\x00\x00\x00\x04\x59\x5a";

    #[test]
    fn compression_is_told_by_the_first_bytes() {
        let gzip = |data: &[u8]| {
            let mut encoder = flate2::read::GzEncoder::new(data, flate2::Compression::fast());
            let mut out = Vec::new();
            encoder.read_to_end(&mut out).map(|_| out).unwrap()
        };
        let bzip2 = |data: &[u8]| {
            let mut encoder = bzip2::read::BzEncoder::new(data, bzip2::Compression::fast());
            let mut out = Vec::new();
            encoder.read_to_end(&mut out).map(|_| out).unwrap()
        };
        let text = b"some text that is longer than a magic number";
        for packed in
            [gzip(text), bzip2(text), zstd::encode_all(&text[..], 3).unwrap(), XZ.to_vec(), text.to_vec()]
        {
            assert_eq!(unpacked(&packed).unwrap(), text);
        }
        // Several members one after another (pigz, estargz) are one stream.
        assert_eq!(unpacked(&[gzip(b"one "), gzip(b"two")].concat()).unwrap(), b"one two");
        assert_eq!(unpacked(b"abc").unwrap(), b"abc");
        assert_eq!(unpacked(b"").unwrap(), b"");
        assert!(unpacked(b"\xfd7zXZ\0rest").is_err());
        assert!(unpacked(b"BZh9rest").is_err());
        let cut = gzip(text);
        assert!(unpacked(&cut[..cut.len() - 4]).is_err());
    }
}
