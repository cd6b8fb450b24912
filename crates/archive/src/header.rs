//! The 512-byte header block, its number formats and the PAX records that amend it.

use crate::Error;

pub(crate) const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, its data follows.
    File,
    /// A hard link to `Entry::link`.
    Hardlink,
    /// A symbolic link to `Entry::link`.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A folder.
    Directory,
    /// A named pipe.
    Fifo,
    /// PAX global records: ignored, as Docker does.
    Global,
    /// Anything else, by its type flag.
    Other(u8),
}

/// One run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file it goes, bytes.
    pub offset: u64,
    /// How long it is, bytes.
    pub length: u64,
}

/// Map of a sparse file: data lies in `segments`, all else is holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparse {
    /// In ascending order, without overlap.
    pub segments: Vec<Segment>,
    /// Logical length of the file, bytes.
    pub real_size: u64,
}

/// One member of an archive, after PAX and GNU extensions were applied.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path as written in the archive, neither cleaned nor trusted.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Permission bits and set-id bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of data that follow in the archive.
    pub size: u64,
    /// Modification time, seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Device numbers, major and minor.
    pub device: (u32, u32),
    /// Extended attributes (`SCHILY.xattr.*`), by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Map, when the file is sparse; the data is the segments one after another.
    pub sparse: Option<Sparse>,
}

/// The raw block, checksum verified.
pub(crate) struct Header(pub(crate) [u8; BLOCK]);

#[derive(PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Gnu,
}

impl Header {
    /// `None` when the block is all zeros.
    pub(crate) fn parse(block: [u8; BLOCK]) -> Result<Option<Header>, Error> {
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let (mut unsigned, mut signed) = (0u64, 0i64);
        for (i, b) in block.iter().enumerate() {
            let b = if (148..156).contains(&i) { b' ' } else { *b };
            unsigned += u64::from(b);
            signed += i64::from(b as i8);
        }
        let wanted = number(&block[148..156])?;
        if wanted != unsigned as i64 && wanted != signed {
            return Err(Error::malformed("checksum mismatch"));
        }
        Ok(Some(Header(block)))
    }

    fn format(&self) -> Format {
        match &self.0[257..265] {
            b"ustar  \0" => Format::Gnu,
            m if m.starts_with(b"ustar\0") => Format::Ustar,
            _ => Format::V7,
        }
    }

    pub(crate) fn is_gnu(&self) -> bool {
        self.format() == Format::Gnu
    }

    pub(crate) fn flag(&self) -> u8 {
        self.0[156]
    }

    pub(crate) fn size(&self) -> Result<u64, Error> {
        u64::try_from(number(&self.0[124..136])?).map_err(|_| Error::malformed("negative size"))
    }

    fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = text(&self.0[345..500]);
        if self.format() == Format::Ustar && !prefix.is_empty() {
            [prefix, name].join(&b'/')
        } else {
            name.to_vec()
        }
    }

    /// The entry as this block alone describes it.
    pub(crate) fn entry(&self) -> Result<Entry, Error> {
        let id = |field: &[u8]| number(field).map(|n| n as u32);
        let device = if self.format() == Format::V7 {
            (0, 0)
        } else {
            (id(&self.0[329..337])?, id(&self.0[337..345])?)
        };
        let path = self.path();
        let kind = match self.flag() {
            // v7 had no flag for folders: a trailing slash says it.
            b'0' | 0 | b'7' if path.last() == Some(&b'/') => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'g' => Kind::Global,
            other => Kind::Other(other),
        };
        Ok(Entry {
            path,
            kind,
            link: text(&self.0[157..257]).to_vec(),
            mode: (number(&self.0[100..108])? as u32) & 0o7777,
            uid: id(&self.0[108..116])?,
            gid: id(&self.0[116..124])?,
            size: self.size()?,
            mtime: (number(&self.0[136..148])?, 0),
            device,
            xattrs: Vec::new(),
            sparse: None,
        })
    }
}

/// A NUL-terminated field.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

/// An octal field, or GNU's base-256 where the first bit is set.
pub(crate) fn number(field: &[u8]) -> Result<i64, Error> {
    if field[0] & 0x80 != 0 {
        // Two's complement over the whole field but the marker bit.
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (i, b) in field.iter().enumerate() {
            let b = if i == 0 { if negative { *b | 0x80 } else { *b & 0x7f } } else { *b };
            value = (value << 8) | i128::from(b);
        }
        return i64::try_from(value).map_err(|_| Error::malformed("number too large"));
    }
    let digits = text(field).trim_ascii();
    if digits.is_empty() {
        return Ok(0);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| Error::malformed("not a number"))?;
    u64::from_str_radix(digits, 8)
        .ok()
        .and_then(|n| i64::try_from(n).ok())
        .ok_or_else(|| Error::malformed("not an octal number"))
}

/// Key and value of a PAX record.
pub(crate) type Record<'a> = (&'a [u8], &'a [u8]);

/// Splits the body of a PAX header into its records: `LENGTH KEY=VALUE\n`, the length counting all of it. Values
/// are bytes: newlines in them are data.
pub(crate) fn pax_records(mut body: &[u8]) -> Result<Vec<Record<'_>>, Error> {
    let bad = || Error::malformed("malformed PAX record");
    let mut records = Vec::new();
    while !body.is_empty() {
        let space = body.iter().take(20).position(|b| *b == b' ').ok_or_else(bad)?;
        let length: usize =
            std::str::from_utf8(&body[..space]).ok().and_then(|n| n.parse().ok()).ok_or_else(bad)?;
        if length <= space + 1 || length > body.len() || body[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &body[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        records.push((&record[..equals], &record[equals + 1..]));
        body = &body[length..];
    }
    Ok(records)
}

/// Seconds and nanoseconds of a PAX time such as `1350244992.023960108` (may be negative).
pub(crate) fn pax_time(value: &[u8]) -> Result<(i64, u32), Error> {
    let bad = || Error::malformed("malformed PAX time");
    let value = std::str::from_utf8(value).map_err(|_| bad())?;
    let (seconds, fraction) = value.split_once('.').unwrap_or((value, ""));
    let negative = seconds.starts_with('-');
    let mut seconds: i64 = seconds.parse().map_err(|_| bad())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let mut nanos = 0u32;
    for i in 0..9 {
        nanos = nanos * 10 + fraction.as_bytes().get(i).map_or(0, |b| u32::from(b - b'0'));
    }
    if negative && nanos > 0 {
        seconds = seconds.checked_sub(1).ok_or_else(bad)?;
        nanos = 1_000_000_000 - nanos;
    }
    Ok((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(b"   644 \0").unwrap(), 0o644);
        assert_eq!(number(b"\0\0\0\0").unwrap(), 0);
        assert_eq!(number(&[0x80, 0, 0, 1, 0]).unwrap(), 256);
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xff]).unwrap(), -1);
        assert!(number(b"12x\0").is_err());
        assert!(number(&[0xbf; 12]).is_err());
    }

    #[test]
    fn pax_values_may_hold_newlines() {
        let body = b"30 SCHILY.xattr.user.x=a\nb\nc=\n12 size=123\n";
        let records = pax_records(body).unwrap();
        assert_eq!(records[0], (&b"SCHILY.xattr.user.x"[..], &b"a\nb\nc="[..]));
        assert_eq!(records[1], (&b"size"[..], &b"123"[..]));
        for bad in [&b"5 a=b\n"[..], b"999 a=b\n", b"x a=b\n", b"0 \n", b"6 abc\n", b"6 a=bc"] {
            assert!(pax_records(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pax_times_have_nanoseconds() {
        assert_eq!(pax_time(b"12.5").unwrap(), (12, 500_000_000));
        assert_eq!(pax_time(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(pax_time(b"7").unwrap(), (7, 0));
        assert!(pax_time(b"x").is_err());
    }
}
