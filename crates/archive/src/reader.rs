//! The streaming parser: bytes in, entries and their data out.

use std::io::{self, Read};

use crate::header::{BLOCK, Entry, Header, Kind, Segment, Sparse, number, pax_records, pax_time};
use crate::{Error, error::lossy};

/// Longest PAX header or GNU long name, bytes (Go's `maxSpecialFileSize`).
const EXTENSION_BYTES: u64 = 1024 * 1024;
/// Most runs of data in one sparse file.
const SPARSE_SEGMENTS: usize = 256 * 1024;

/// What an archive may ask of us.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Number of entries.
    pub entries: u64,
    /// Bytes of file data in all; holes of sparse files do not count.
    pub bytes: u64,
    /// Bytes in one path or link target.
    pub path_bytes: usize,
    /// Folders below each other.
    pub depth: usize,
}

impl Default for Limits {
    /// Ample for real images: 4 million entries, 1 TiB of data, paths as long as Linux has them (4096), 512 deep.
    fn default() -> Self {
        Limits { entries: 4 << 20, bytes: 1 << 40, path_bytes: 4096, depth: 512 }
    }
}

/// Reads an archive entry by entry.
///
/// After [`next_entry`](Reader::next_entry) the entry's data comes from [`read_data`](Reader::read_data); what was
/// not read of it is skipped by the next call.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    limits: Limits,
    /// Data of the current entry not yet read, and the padding after it.
    remaining: u64,
    padding: u64,
    entries: u64,
    bytes: u64,
    finished: bool,
}

impl<R: Read> Reader<R> {
    /// A reader with the given limits.
    pub fn new(inner: R, limits: Limits) -> Self {
        Reader { inner, limits, remaining: 0, padding: 0, entries: 0, bytes: 0, finished: false }
    }

    /// The input, at wherever reading stopped: after the end-of-archive mark there may be padding left.
    pub fn into_inner(self) -> R {
        self.inner
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Reads on to the next entry; `None` at the end of the archive.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        if self.finished {
            return Ok(None);
        }
        let mut extension: Vec<u8> = Vec::new();
        let mut long_path = None;
        let mut long_link = None;
        loop {
            self.skip_rest()?;
            let Some(header) = self.next_header()? else {
                self.finished = true;
                return if extension.is_empty() && long_path.is_none() && long_link.is_none() {
                    Ok(None)
                } else {
                    Err(Error::Truncated)
                };
            };
            match header.flag() {
                b'x' => {
                    extension = self.read_extension(&header)?;
                    continue;
                }
                b'L' => {
                    long_path = Some(trimmed(self.read_extension(&header)?));
                    continue;
                }
                b'K' => {
                    long_link = Some(trimmed(self.read_extension(&header)?));
                    continue;
                }
                _ => {}
            }
            let mut entry = header.entry()?;
            let pax_sparse = apply_pax(&mut entry, &extension)?;
            if let Some(path) = long_path.take() {
                entry.path = path;
            }
            if let Some(link) = long_link.take() {
                entry.link = link;
            }
            self.check(&entry)?;
            if !matches!(entry.kind, Kind::File | Kind::Global | Kind::Other(_)) {
                // As Go: these have no data, whatever the header's size says.
                entry.size = 0;
            }
            self.remaining = entry.size;
            self.padding = entry.size.wrapping_neg() % BLOCK as u64;
            if entry.kind == Kind::Global {
                continue;
            }
            if header.flag() == b'S' && header.is_gnu() {
                entry.sparse = Some(self.gnu_sparse(&header)?);
            } else if let Some(sparse) = pax_sparse {
                entry.sparse = Some(self.pax_sparse(sparse)?);
            }
            entry.size = self.remaining;
            if let Some(sparse) = &entry.sparse {
                verify(sparse, entry.size)?;
            }
            return Ok(Some(entry));
        }
    }

    /// Reads data of the current entry; 0 at its end.
    pub fn read_data(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let want = buf.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        loop {
            match self.inner.read(&mut buf[..want]) {
                Ok(0) => return Err(Error::Truncated),
                Ok(n) => {
                    self.remaining -= n as u64;
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::read(e)),
            }
        }
    }

    /// Reads all data of the current entry, which must not be longer than `limit` bytes.
    pub fn read_all(&mut self, limit: u64) -> Result<Vec<u8>, Error> {
        if self.remaining > limit {
            return Err(Error::Limit { what: "bytes in this file", limit });
        }
        let mut data = Vec::with_capacity(self.remaining as usize);
        self.inner.by_ref().take(self.remaining).read_to_end(&mut data).map_err(Error::read)?;
        if data.len() as u64 != self.remaining {
            return Err(Error::Truncated);
        }
        self.remaining = 0;
        Ok(data)
    }

    fn check(&mut self, entry: &Entry) -> Result<(), Error> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Error::Limit { what: "entries", limit: self.limits.entries });
        }
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > self.limits.bytes {
            return Err(Error::Limit { what: "bytes", limit: self.limits.bytes });
        }
        if entry.path.len().max(entry.link.len()) > self.limits.path_bytes {
            return Err(Error::Limit { what: "bytes in a path", limit: self.limits.path_bytes as u64 });
        }
        if entry.path.contains(&0) || entry.link.contains(&0) {
            return Err(Error::malformed("a path with a NUL byte"));
        }
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), Error> {
        let skip = self.remaining + self.padding;
        if skip > 0 {
            let skipped =
                io::copy(&mut self.inner.by_ref().take(skip), &mut io::sink()).map_err(Error::read)?;
            // Some writers leave out the padding of the last entry.
            if skipped < self.remaining {
                return Err(Error::Truncated);
            }
            (self.remaining, self.padding) = (0, 0);
        }
        Ok(())
    }

    /// A block; `None` at a clean end of the input.
    fn next_block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(Error::Truncated),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::read(e)),
            }
        }
        Ok(Some(block))
    }

    fn next_header(&mut self) -> Result<Option<Header>, Error> {
        let Some(block) = self.next_block()? else { return Ok(None) };
        if let Some(header) = Header::parse(block)? {
            return Ok(Some(header));
        }
        // The end is two blocks of zeros (or one, and the end of the input).
        match self.next_block()? {
            None => Ok(None),
            Some(block) if block.iter().all(|b| *b == 0) => Ok(None),
            Some(_) => Err(Error::malformed("a lone block of zeros")),
        }
    }

    fn read_extension(&mut self, header: &Header) -> Result<Vec<u8>, Error> {
        let size = header.size()?;
        if size > EXTENSION_BYTES {
            return Err(Error::Limit { what: "bytes in an extension header", limit: EXTENSION_BYTES });
        }
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        self.read_all(EXTENSION_BYTES)
    }

    /// GNU's old format: a map in the header, continued in blocks between it and the data.
    fn gnu_sparse(&mut self, header: &Header) -> Result<Sparse, Error> {
        let unsigned = |field: &[u8]| {
            u64::try_from(number(field)?).map_err(|_| Error::malformed("negative number in a sparse map"))
        };
        let mut segments = Vec::new();
        let mut add = |table: &[u8]| -> Result<(), Error> {
            for pair in table.chunks_exact(24) {
                if pair.iter().all(|b| *b == 0) {
                    break;
                }
                if segments.len() == SPARSE_SEGMENTS {
                    return Err(Error::Limit {
                        what: "runs in a sparse file",
                        limit: SPARSE_SEGMENTS as u64,
                    });
                }
                segments.push(Segment { offset: unsigned(&pair[..12])?, length: unsigned(&pair[12..])? });
            }
            Ok(())
        };
        add(&header.0[386..482])?;
        let real_size = unsigned(&header.0[483..495])?;
        let mut more = header.0[482] != 0;
        while more {
            let block = self.next_block()?.ok_or(Error::Truncated)?;
            add(&block[..504])?;
            more = block[504] != 0;
        }
        Ok(Sparse { segments, real_size })
    }

    /// GNU's PAX formats: 0.0 and 0.1 keep the map in records, 1.0 at the head of the data.
    fn pax_sparse(&mut self, pax: PaxSparse) -> Result<Sparse, Error> {
        let segments = match pax.map {
            Some(map) => map,
            None => {
                let count = self.sparse_number()?;
                if count > SPARSE_SEGMENTS as u64 {
                    return Err(Error::Limit {
                        what: "runs in a sparse file",
                        limit: SPARSE_SEGMENTS as u64,
                    });
                }
                let mut segments = Vec::new();
                let mut used = decimal_length(count);
                for _ in 0..count {
                    let (offset, length) = (self.sparse_number()?, self.sparse_number()?);
                    used += decimal_length(offset) + decimal_length(length);
                    segments.push(Segment { offset, length });
                }
                // The map fills whole blocks.
                let mut fill = [0; BLOCK];
                let mut rest = (used.wrapping_neg() % BLOCK as u64) as usize;
                while rest > 0 {
                    rest -= match self.read_data(&mut fill[..rest])? {
                        0 => return Err(Error::Truncated),
                        n => n,
                    };
                }
                segments
            }
        };
        Ok(Sparse { segments, real_size: pax.real_size })
    }

    /// A decimal number and its newline, in the canonical form that makes its length known.
    fn sparse_number(&mut self) -> Result<u64, Error> {
        let bad = || Error::malformed("malformed sparse map");
        let mut digits = Vec::with_capacity(20);
        let mut byte = [0];
        loop {
            if self.read_data(&mut byte)? == 0 {
                return Err(bad());
            }
            match byte[0] {
                b'\n' => break,
                b'0'..=b'9' if digits.len() < 20 => digits.push(byte[0]),
                _ => return Err(bad()),
            }
        }
        if digits.len() > 1 && digits[0] == b'0' {
            return Err(bad());
        }
        String::from_utf8_lossy(&digits).parse().map_err(|_| bad())
    }
}

/// Length of a number in decimal with its newline.
fn decimal_length(n: u64) -> u64 {
    u64::from(n.checked_ilog10().unwrap_or(0)) + 2
}

/// A GNU long name: up to its NUL.
fn trimmed(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|b| *b == 0) {
        name.truncate(end);
    }
    name
}

struct PaxSparse {
    /// `None`: at the head of the data (format 1.0).
    map: Option<Vec<Segment>>,
    real_size: u64,
}

/// Applies the records of a PAX header to an entry; an empty value keeps what the header says.
fn apply_pax(entry: &mut Entry, body: &[u8]) -> Result<Option<PaxSparse>, Error> {
    let bad = || Error::malformed("malformed number in a PAX record");
    let decimal = |value: &[u8]| -> Result<u64, Error> {
        std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).ok_or_else(bad)
    };
    let (mut real_size, mut major, mut is_sparse) = (None, None, false);
    let mut numbers: Vec<u64> = Vec::new();
    for (key, value) in pax_records(body)? {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            entry.xattrs.retain(|(n, _)| n != name);
            entry.xattrs.push((name.to_vec(), value.to_vec()));
            continue;
        }
        if value.is_empty() {
            continue;
        }
        match key {
            b"path" => entry.path = value.to_vec(),
            b"linkpath" => entry.link = value.to_vec(),
            b"size" => entry.size = decimal(value)?,
            b"uid" => entry.uid = u32::try_from(decimal(value)?).map_err(|_| bad())?,
            b"gid" => entry.gid = u32::try_from(decimal(value)?).map_err(|_| bad())?,
            b"mtime" => entry.mtime = pax_time(value)?,
            b"GNU.sparse.name" => entry.path = value.to_vec(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                is_sparse = true;
                real_size = Some(decimal(value)?);
            }
            b"GNU.sparse.major" => {
                is_sparse = true;
                major = Some(decimal(value)?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                // 0.0: pairs of records. An offset comes at even places.
                if numbers.len().is_multiple_of(2) != (key == b"GNU.sparse.offset") {
                    return Err(Error::malformed("malformed sparse map"));
                }
                numbers.push(decimal(value)?);
            }
            b"GNU.sparse.map" => {
                for n in value.split(|b| *b == b',') {
                    numbers.push(decimal(n)?);
                }
            }
            _ => {}
        }
    }
    if entry.kind == Kind::File && entry.path.last() == Some(&b'/') && !is_sparse {
        entry.kind = Kind::Directory;
    }
    if !is_sparse || entry.kind != Kind::File {
        return Ok(None);
    }
    let real_size = real_size.ok_or_else(|| Error::malformed("sparse file without a size"))?;
    match major {
        None | Some(0) => {
            if !numbers.len().is_multiple_of(2) {
                return Err(Error::malformed("malformed sparse map"));
            }
            let map = numbers.chunks_exact(2).map(|p| Segment { offset: p[0], length: p[1] }).collect();
            Ok(Some(PaxSparse { map: Some(map), real_size }))
        }
        Some(1) => Ok(Some(PaxSparse { map: None, real_size })),
        Some(other) => {
            Err(Error::Malformed(format!("sparse format {other} of {:?} is not known", lossy(&entry.path))))
        }
    }
}

/// A map must be in order, within the file, and account for exactly the data there is.
fn verify(sparse: &Sparse, size: u64) -> Result<(), Error> {
    let bad = || Error::malformed("malformed sparse map");
    let (mut end, mut data) = (0u64, 0u64);
    for s in &sparse.segments {
        if s.offset < end {
            return Err(bad());
        }
        end = s.offset.checked_add(s.length).ok_or_else(bad)?;
        data = data.checked_add(s.length).ok_or_else(bad)?;
    }
    if end > sparse.real_size || data != size || i64::try_from(sparse.real_size).is_err() {
        return Err(bad());
    }
    Ok(())
}
