//! The files of a container that does not run, or of a volume: the heads of the archive that the engine sends of them,
//! kept as folders. What the files hold is passed over.

use std::collections::HashMap;

use crate::words::{Entry, EntryKind};

/// Most entries of one tree.
pub const MOST: usize = 500_000;
/// Bytes of a head, and of what data is rounded up to.
const BLOCK: usize = 512;
/// Longest record with a long name.
const LONGEST: u64 = 1 << 20;

/// Why an archive is not gone on with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// It is no tar archive, or a broken one.
    #[error("the engine’s archive is broken: {0}")]
    Broken(&'static str),
    /// It has more entries than are shown.
    #[error("it has more than {MOST} files: they are too many to be shown")]
    TooMany,
}

/// Folders by their paths; the root is the empty one.
#[derive(Debug, Default)]
pub struct Tree {
    folders: HashMap<String, Vec<Entry>>,
    count: usize,
}

impl Tree {
    /// What is in a folder: folders first, by name.
    pub fn folder(&self, path: &str) -> Option<Vec<Entry>> {
        let path = path.split('/').filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/");
        let mut entries = self.folders.get(&path)?.clone();
        entries.sort_by(|a, b| {
            (a.kind != EntryKind::Folder, &a.name).cmp(&(b.kind != EntryKind::Folder, &b.name))
        });
        Some(entries)
    }

    fn add(&mut self, path: &[&str], entry: Entry) -> Result<(), TreeError> {
        self.count += 1;
        if self.count > MOST {
            return Err(TreeError::TooMany);
        }
        let folder = path.join("/");
        if entry.kind == EntryKind::Folder {
            let own = if folder.is_empty() { entry.name.clone() } else { format!("{folder}/{}", entry.name) };
            self.folders.entry(own).or_default();
        }
        self.folders.entry(folder).or_default().push(entry);
        Ok(())
    }
}

/// Reads an archive as it comes.
#[derive(Debug, Default)]
pub struct Reader {
    waiting: Vec<u8>,
    /// Bytes of data, and what fills its last block, that are still to be passed over.
    skip: u64,
    /// A record that is being read: its kind and size.
    record: Option<(u8, u64)>,
    name: Option<String>,
    link: Option<String>,
    size: Option<u64>,
    /// The first entry's path: the root.
    root: Option<Vec<String>>,
}

impl Reader {
    /// Takes bytes as they come.
    pub fn feed(&mut self, mut bytes: &[u8], tree: &mut Tree) -> Result<(), TreeError> {
        // Most of an archive is data: it is passed over without being copied.
        if self.waiting.is_empty() {
            let step = self.skip.min(bytes.len() as u64);
            self.skip -= step;
            bytes = &bytes[usize::try_from(step).unwrap_or(bytes.len())..];
        }
        self.waiting.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let step = self.skip.min((self.waiting.len() - at) as u64);
            self.skip -= step;
            at += usize::try_from(step).unwrap_or(0);
            if self.skip > 0 {
                break;
            }
            if let Some((kind, size)) = self.record {
                let whole = padded(size);
                let Some(data) = self.waiting.get(at..at + usize::try_from(whole).unwrap_or(usize::MAX))
                else {
                    break;
                };
                let data = data[..usize::try_from(size).unwrap_or(0)].to_vec();
                at += usize::try_from(whole).unwrap_or(0);
                self.record = None;
                self.take_record(kind, &data);
                continue;
            }
            let Some(head) = self.waiting.get(at..at + BLOCK) else { break };
            let head: Vec<u8> = head.to_vec();
            at += BLOCK;
            self.take_head(&head, tree)?;
        }
        self.waiting.drain(..at);
        Ok(())
    }

    fn take_record(&mut self, kind: u8, data: &[u8]) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        match kind {
            b'L' => self.name = Some(text(data)),
            b'K' => self.link = Some(text(data)),
            _ => {
                for (key, value) in pax(data) {
                    match key {
                        b"path" => self.name = Some(text(value)),
                        b"linkpath" => self.link = Some(text(value)),
                        b"size" => self.size = text(value).parse().ok(),
                        _ => {}
                    }
                }
            }
        }
    }

    fn take_head(&mut self, head: &[u8], tree: &mut Tree) -> Result<(), TreeError> {
        if head.iter().all(|b| *b == 0) {
            return Ok(());
        }
        let stated = number(&head[124..136]).ok_or(TreeError::Broken("a size that is none"))?;
        let kind = head[156];
        if matches!(kind, b'x' | b'L' | b'K' | b'g') {
            if stated > LONGEST {
                return Err(TreeError::Broken("a record that is too long"));
            }
            if kind == b'g' {
                self.skip = padded(stated);
            } else {
                self.record = Some((kind, stated));
            }
            return Ok(());
        }
        let size = self.size.take().unwrap_or(stated);
        self.skip = padded(if matches!(kind, b'0' | 0 | b'7') { size } else { 0 });
        let name = self.name.take().unwrap_or_else(|| {
            let name = text(&head[..100]);
            let prefix = if &head[257..263] == b"ustar\0" { text(&head[345..500]) } else { String::new() };
            if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
        });
        let link = self.link.take().unwrap_or_else(|| text(&head[157..257]));
        let parts: Vec<String> =
            name.split('/').filter(|p| !p.is_empty() && *p != "." && *p != "..").map(str::to_owned).collect();
        let Some(root) = &self.root else {
            tree.folders.entry(String::new()).or_default();
            self.root = Some(parts);
            return Ok(());
        };
        let Some(inside) = parts.strip_prefix(root.as_slice()) else { return Ok(()) };
        let inside: Vec<&str> = inside.iter().map(String::as_str).collect();
        let Some((own, above)) = inside.split_last() else { return Ok(()) };
        let (kind, letter) = match kind {
            b'5' => (EntryKind::Folder, 'd'),
            b'2' => (EntryKind::Link, 'l'),
            b'0' | 0 | b'7' | b'1' => (EntryKind::File, '-'),
            b'3' => (EntryKind::Other, 'c'),
            b'4' => (EntryKind::Other, 'b'),
            _ => (EntryKind::Other, 'p'),
        };
        let bits = number(&head[100..108]).unwrap_or(0);
        let mode = format!("{letter}{}", mode(bits));
        let target = (kind == EntryKind::Link).then_some(link);
        tree.add(above, Entry { name: (*own).to_owned(), kind, size, mode, target })
    }
}

fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Octal digits, or GNU's binary for what is too large for them.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let low = field.get(field.len() - 8..)?;
        return Some(u64::from_be_bytes(low.try_into().ok()?) & (u64::MAX >> 1));
    }
    let text = text(field);
    let text = text.trim();
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

fn mode(bits: u64) -> String {
    "rwxrwxrwx".chars().enumerate().map(|(i, c)| if bits >> (8 - i) & 1 == 1 { c } else { '-' }).collect()
}

/// Records `<length> <key>=<value>\n`, the length counting all of it.
fn pax(mut data: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut found = Vec::new();
    while let Some(space) = data.iter().position(|b| *b == b' ') {
        let length: Option<usize> = std::str::from_utf8(&data[..space]).ok().and_then(|t| t.parse().ok());
        let Some(record) = length.filter(|l| *l > space + 1).and_then(|l| data.get(space + 1..l)) else {
            break;
        };
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        if let Some(equal) = record.iter().position(|b| *b == b'=') {
            found.push((&record[..equal], &record[equal + 1..]));
        }
        data = &data[length.unwrap_or(data.len())..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn archive() -> Vec<u8> {
        let mut made = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind: tar::EntryType, data: &[u8], link: &str| {
            let mut head = tar::Header::new_gnu();
            head.set_entry_type(kind);
            head.set_mode(0o755);
            head.set_size(data.len() as u64);
            if link.is_empty() {
                made.append_data(&mut head, path, data).unwrap();
            } else {
                made.append_link(&mut head, path, link).unwrap();
            }
        };
        add("data/", tar::EntryType::Directory, b"", "");
        add("data/b", tar::EntryType::Regular, &[7; 1000], "");
        add("data/sub/", tar::EntryType::Directory, b"", "");
        add(&format!("data/sub/{}", "n".repeat(150)), tar::EntryType::Regular, b"x", "");
        add("data/link", tar::EntryType::Symlink, b"", "b");
        add("data/empty/", tar::EntryType::Directory, b"", "");
        made.into_inner().unwrap()
    }

    #[test]
    fn heads_become_folders_however_the_bytes_come() {
        let bytes = archive();
        for step in [1, 7, 512, 700, bytes.len()] {
            let (mut tree, mut reader) = (Tree::default(), Reader::default());
            for part in bytes.chunks(step) {
                reader.feed(part, &mut tree).unwrap();
            }
            let names =
                |path: &str| tree.folder(path).map(|f| f.into_iter().map(|e| e.name).collect::<Vec<_>>());
            assert_eq!(names("/").unwrap(), ["empty", "sub", "b", "link"]);
            assert_eq!(names("/sub/").unwrap(), ["n".repeat(150)]);
            assert_eq!(names("empty").unwrap(), [""; 0]);
            assert_eq!(names("none"), None);
            let root = tree.folder("").unwrap();
            assert_eq!((root[2].size, root[2].mode.as_str()), (1000, "-rwxr-xr-x"));
            assert_eq!(root[3].target.as_deref(), Some("b"));
        }
    }

    #[test]
    fn a_long_name_by_pax() {
        assert_eq!(pax(b"11 path=ab\n12 size=123\n"), [(&b"path"[..], &b"ab"[..]), (b"size", b"123")]);
        assert_eq!(pax(b"999 path=ab\n"), []);
    }

    proptest! {
        #[test]
        fn nothing_that_comes_breaks_it(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..8)) {
            let (mut tree, mut reader) = (Tree::default(), Reader::default());
            for chunk in &chunks {
                if reader.feed(chunk, &mut tree).is_err() {
                    break;
                }
            }
        }
    }
}
