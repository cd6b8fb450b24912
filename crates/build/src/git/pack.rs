//! Objects of a repository as they are sent: a pack (`gitformat-pack(5)`).
//!
//! The pack lies in a file; what stands where in it is found out in one pass, and objects are made whole when they are
//! asked for.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use flate2::bufread::ZlibDecoder;
use sha1::{Digest as _, Sha1};

/// Name of an object: the SHA-1 of its kind, length and content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub [u8; 20]);

impl Id {
    /// Reads 40 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Id> {
        let mut id = [0; 20];
        if text.len() != 40 || !text.is_ascii() {
            return None;
        }
        for (at, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
        }
        Some(Id(id))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Commit,
    Tree,
    Blob,
    Tag,
}

impl Kind {
    /// Git's word.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Commit => "commit",
            Kind::Tree => "tree",
            Kind::Blob => "blob",
            Kind::Tag => "tag",
        }
    }
}

/// Most objects of a pack.
const OBJECTS: u32 = 20_000_000;
/// Largest object, in bytes: it is held in memory.
const OBJECT: u64 = 1 << 30;
/// Longest chain of differences (git makes none longer than 4095).
const CHAIN: usize = 4096;
/// Bytes of whole objects that are kept for those that differ from them.
const KEPT: usize = 64 << 20;
/// Bytes before the first object.
const HEAD: u64 = 12;
/// Bytes after the last: the SHA-1 of all before.
const TAIL: u64 = 20;

/// What stands at a place of the pack.
#[derive(Clone, Copy, Debug)]
enum Stored {
    Whole(Kind),
    /// What differs from the object at this place.
    At(u64),
    /// What differs from this object.
    Of(Id),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    stored: Stored,
    size: u64,
    /// Where its bytes begin.
    data: u64,
}

/// A pack.
pub struct Pack {
    file: File,
    entries: Vec<Entry>,
    by_offset: HashMap<u64, usize>,
    by_id: HashMap<Id, usize>,
    kept: HashMap<usize, Whole>,
    kept_bytes: usize,
}

type Whole = (Kind, Arc<Vec<u8>>);

fn wrong(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed pack: {why}"))
}

/// Counts what is taken.
struct Counting<R> {
    inner: R,
    count: u64,
}

impl<R: BufRead> Read for Counting<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Counting<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.count += n as u64;
        self.inner.consume(n);
    }
}

fn byte(input: &mut impl Read) -> io::Result<u8> {
    let mut one = [0];
    input.read_exact(&mut one)?;
    Ok(one[0])
}

/// A length of a difference: seven bits a byte, the lowest first.
fn length(input: &mut &[u8]) -> io::Result<u64> {
    let (mut value, mut shift) = (0_u64, 0);
    loop {
        let next = byte(input)?;
        if shift > 56 {
            return Err(wrong("a length of too many bytes"));
        }
        value |= u64::from(next & 0x7f) << shift;
        shift += 7;
        if next & 0x80 == 0 {
            return Ok(value);
        }
    }
}

/// Makes an object of another and what differs.
fn apply(base: &[u8], mut delta: &[u8]) -> io::Result<Vec<u8>> {
    let from = length(&mut delta)?;
    let to = length(&mut delta)?;
    if from != base.len() as u64 || to > OBJECT {
        return Err(wrong("a difference from something else"));
    }
    let mut out = Vec::new();
    while let Some((&op, rest)) = delta.split_first() {
        delta = rest;
        if op & 0x80 == 0 {
            let n = usize::from(op);
            if n == 0 || n > delta.len() {
                return Err(wrong("a difference that is cut off"));
            }
            out.extend_from_slice(&delta[..n]);
            delta = &delta[n..];
        } else {
            let mut field = |bits: std::ops::Range<u8>| -> io::Result<usize> {
                let mut value = 0;
                for (place, bit) in bits.enumerate() {
                    if op & (1 << bit) != 0 {
                        value |= usize::from(byte(&mut delta)?) << (8 * place);
                    }
                }
                Ok(value)
            };
            let (offset, size) = (field(0..4)?, field(4..7)?);
            let size = if size == 0 { 0x10000 } else { size };
            let piece = offset.checked_add(size).and_then(|end| base.get(offset..end));
            out.extend_from_slice(piece.ok_or_else(|| wrong("a difference that reaches too far"))?);
        }
        if out.len() as u64 > to {
            return Err(wrong("a difference that is too long"));
        }
    }
    if out.len() as u64 != to {
        return Err(wrong("a difference that is too short"));
    }
    Ok(out)
}

impl Pack {
    /// Reads what stands where; the whole is held against its sum.
    ///
    /// # Errors
    /// When it is no whole pack.
    pub fn open(mut file: File) -> io::Result<Pack> {
        let bytes = file.metadata()?.len();
        check_sum(&mut file, bytes)?;
        file.seek(SeekFrom::Start(0))?;
        let mut input = Counting { inner: BufReader::with_capacity(1 << 18, file.try_clone()?), count: 0 };
        let mut head = [0; HEAD as usize];
        input.read_exact(&mut head)?;
        let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if &head[..4] != b"PACK" || !matches!(number(4), 2 | 3) || number(8) > OBJECTS {
            return Err(wrong("not a pack of a known version"));
        }
        let mut pack = Pack {
            file,
            entries: Vec::new(),
            by_offset: HashMap::new(),
            by_id: HashMap::new(),
            kept: HashMap::new(),
            kept_bytes: 0,
        };
        for _ in 0..number(8) {
            let at = input.count;
            let entry = entry(&mut input, at)?;
            let plain = io::copy(&mut ZlibDecoder::new(&mut input).take(entry.size + 1), &mut io::sink())?;
            if plain != entry.size {
                return Err(wrong("an object of another length"));
            }
            pack.by_offset.insert(at, pack.entries.len());
            pack.entries.push(entry);
        }
        if input.count + TAIL != bytes {
            return Err(wrong("more than its objects"));
        }
        pack.name_all()?;
        Ok(pack)
    }

    /// Names of all objects.
    pub fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        self.by_id.keys().copied()
    }

    fn name_all(&mut self) -> io::Result<()> {
        let mut left: Vec<usize> = (0..self.entries.len()).collect();
        while !left.is_empty() {
            let before = left.len();
            let mut later = Vec::new();
            for n in left {
                let Some((kind, data)) = self.whole(n)? else {
                    later.push(n);
                    continue;
                };
                let mut hasher = Sha1::new();
                hasher.update(format!("{} {}\0", kind.word(), data.len()));
                hasher.update(data.as_slice());
                self.by_id.insert(Id(hasher.finalize().into()), n);
            }
            if later.len() == before {
                return Err(wrong("differences from objects that are not there"));
            }
            left = later;
        }
        Ok(())
    }

    /// An object; `None` where it differs from one whose place is not known (yet).
    fn whole(&mut self, n: usize) -> io::Result<Option<Whole>> {
        let mut chain = vec![n];
        let (kind, mut data) = loop {
            let top = chain[chain.len() - 1];
            if let Some(found) = self.kept.get(&top) {
                chain.pop();
                break found.clone();
            }
            let next = match self.entries[top].stored {
                Stored::Whole(kind) => {
                    let data = Arc::new(self.inflate(top)?);
                    chain.pop();
                    self.keep(top, (kind, data.clone()));
                    break (kind, data);
                }
                Stored::At(offset) => self.by_offset.get(&offset).copied(),
                Stored::Of(id) => self.by_id.get(&id).copied(),
            };
            let Some(next) = next else { return Ok(None) };
            if chain.len() > CHAIN || chain.contains(&next) {
                return Err(wrong("a chain of differences that is too long"));
            }
            chain.push(next);
        };
        while let Some(n) = chain.pop() {
            data = Arc::new(apply(&data, &self.inflate(n)?)?);
            self.keep(n, (kind, data.clone()));
        }
        Ok(Some((kind, data)))
    }

    fn keep(&mut self, n: usize, whole: Whole) {
        if whole.1.len() > KEPT / 4 {
            return;
        }
        if self.kept_bytes + whole.1.len() > KEPT {
            self.kept.clear();
            self.kept_bytes = 0;
        }
        self.kept_bytes += whole.1.len();
        self.kept.insert(n, whole);
    }

    fn inflate(&self, n: usize) -> io::Result<Vec<u8>> {
        let entry = &self.entries[n];
        let input = BufReader::with_capacity(1 << 14, At { file: &self.file, offset: entry.data });
        let mut out = Vec::new();
        ZlibDecoder::new(input).take(entry.size + 1).read_to_end(&mut out)?;
        if out.len() as u64 != entry.size {
            return Err(wrong("an object of another length"));
        }
        Ok(out)
    }

    /// An object by its name; `None` where it is not in the pack.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn object(&mut self, id: &Id) -> io::Result<Option<Whole>> {
        match self.by_id.get(id).copied() {
            Some(n) => self.whole(n),
            None => Ok(None),
        }
    }
}

/// The head of an object that stands at `at`.
fn entry(input: &mut impl Read, at: u64) -> io::Result<Entry> {
    let first = byte(input)?;
    let mut used = 1;
    let (mut size, mut shift, mut next) = (u64::from(first & 0x0f), 4, first);
    while next & 0x80 != 0 {
        next = byte(input)?;
        used += 1;
        if shift > 56 {
            return Err(wrong("a length of too many bytes"));
        }
        size |= u64::from(next & 0x7f) << shift;
        shift += 7;
    }
    if size > OBJECT {
        return Err(wrong(format_args!("an object of {size} bytes is larger than {OBJECT}")));
    }
    let stored = match first >> 4 & 7 {
        1 => Stored::Whole(Kind::Commit),
        2 => Stored::Whole(Kind::Tree),
        3 => Stored::Whole(Kind::Blob),
        4 => Stored::Whole(Kind::Tag),
        6 => {
            let mut next = byte(input)?;
            used += 1;
            let mut back = u64::from(next & 0x7f);
            while next & 0x80 != 0 {
                next = byte(input)?;
                used += 1;
                back =
                    back.checked_add(1).filter(|b| *b < 1 << 56).ok_or_else(|| wrong("a place too far"))?
                        << 7
                        | u64::from(next & 0x7f);
            }
            Stored::At(at.checked_sub(back).filter(|_| back > 0).ok_or_else(|| wrong("a place before it"))?)
        }
        7 => {
            let mut id = [0; 20];
            input.read_exact(&mut id)?;
            used += 20;
            Stored::Of(Id(id))
        }
        other => return Err(wrong(format_args!("an object of the unknown kind {other}"))),
    };
    Ok(Entry { stored, size, data: at + used })
}

fn check_sum(file: &mut File, bytes: u64) -> io::Result<()> {
    let body = bytes.checked_sub(TAIL).filter(|b| *b >= HEAD).ok_or_else(|| wrong("it is cut off"))?;
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = Sha1::new();
    let mut input = BufReader::with_capacity(1 << 18, &mut *file).take(body);
    let mut buffer = vec![0; 1 << 18];
    loop {
        match input.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let mut sum = [0; TAIL as usize];
    file.read_exact_at(&mut sum, body)?;
    if sum[..] != hasher.finalize()[..] {
        return Err(wrong("its sum is another"));
    }
    Ok(())
}

/// Reads a file from a place on, whoever else reads it.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn zip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn head(kind: u8, size: usize) -> Vec<u8> {
        assert!(size < 2048);
        if size < 16 {
            vec![kind << 4 | size as u8]
        } else {
            vec![0x80 | kind << 4 | size as u8 & 15, (size >> 4) as u8]
        }
    }

    fn pack(objects: &[Vec<u8>]) -> Vec<u8> {
        let mut out = b"PACK\0\0\0\x02".to_vec();
        out.extend((objects.len() as u32).to_be_bytes());
        objects.iter().for_each(|o| out.extend(o));
        let sum = Sha1::digest(&out);
        out.extend_from_slice(&sum);
        out
    }

    fn open(bytes: &[u8]) -> io::Result<Pack> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Pack::open(file)
    }

    const TEXT: &[u8] = b"the first line\nthe second line\n";
    // `git hash-object` says so.
    const HELLO: &str = "ce013625030ba8dba906f756967f9e9ca394464a";

    fn blobs() -> Vec<u8> {
        let hello = [head(3, 6), zip(b"hello\n")].concat();
        let text = [head(3, TEXT.len()), zip(TEXT)].concat();
        // Copy 15 bytes from 0, insert 4, copy 16 from 15.
        let delta = [&[TEXT.len() as u8, 35, 0x90, 15, 4][..], b"new\n", &[0x91, 15, 16]].concat();
        let back = text.len() as u8;
        let changed = [head(6, delta.len()), vec![back], zip(&delta)].concat();
        pack(&[hello, text, changed])
    }

    #[test]
    fn objects_are_made_whole_and_named() {
        let mut pack = open(&blobs()).unwrap();
        let (kind, data) = pack.object(&Id::parse(HELLO).unwrap()).unwrap().unwrap();
        assert_eq!((kind, data.as_slice()), (Kind::Blob, &b"hello\n"[..]));
        let all: Vec<Id> = pack.ids().collect();
        let all: Vec<Vec<u8>> =
            all.iter().map(|id| pack.object(id).unwrap().unwrap().1.as_ref().clone()).collect();
        assert!(all.contains(&b"the first line\nnew\nthe second line\n".to_vec()), "{all:?}");
        assert!(pack.object(&Id([7; 20])).unwrap().is_none());
    }

    #[test]
    fn packs_that_are_none_are_refused() {
        let good = blobs();
        for (what, bytes) in [
            ("cut", good[..good.len() - 1].to_vec()),
            ("empty", Vec::new()),
            ("another", pack(&[vec![0xff; 3]])),
            ("a place before it", pack(&[[head(6, 3), vec![100], zip(b"abc")].concat()])),
            ("of nothing", pack(&[[head(7, 3), vec![1; 20], zip(b"abc")].concat()])),
            ("another length", pack(&[[head(3, 7), zip(b"hello\n")].concat()])),
        ] {
            assert!(open(&bytes).is_err(), "{what}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_pack_does_harm(at in 0..200_usize, byte: u8, keep_sum: bool) {
            let mut bytes = blobs();
            let at = at % (bytes.len() - 20);
            bytes[at] = byte;
            if keep_sum {
                let body = bytes.len() - 20;
                let sum = Sha1::digest(&bytes[..body]);
                bytes[body..].copy_from_slice(&sum);
            }
            if let Ok(mut pack) = open(&bytes) {
                for id in pack.ids().collect::<Vec<_>>() {
                    pack.object(&id).unwrap();
                }
            }
        }

        #[test]
        fn no_difference_does_harm(base: Vec<u8>, delta: Vec<u8>) {
            let _ = apply(&base, &delta);
        }
    }
}
