//! git's index of a checkout: without one every file counts as removed, and programs that ask `git status` or
//! `git describe --dirty` find a changed tree.

use sha1::{Digest as _, Sha1};

use super::pack::{Id, Kind as Object, Pack};
use super::{DEPTH, items, malformed, object, tree_of};
use crate::Error;

/// Bytes of an entry before its name.
const HEAD: usize = 62;
/// Longest name whose length stands in an entry.
const LONGEST: usize = 0xfff;

/// A file that the index names.
struct File {
    path: String,
    mode: u32,
    id: Id,
}

/// The index of a commit's files, version 2. Nothing is said of the files' times and sizes: git looks at what is in them then.
pub(super) fn of(pack: &mut Pack, commit: &Id) -> Result<Vec<u8>, Error> {
    let mut files = Vec::new();
    let top = tree_of(pack, commit)?;
    walk(pack, &top, "", &mut files, 0)?;
    files.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    let count = u32::try_from(files.len()).map_err(|_| malformed("a tree of too many files"))?;
    let mut out = b"DIRC".to_vec();
    out.extend(2_u32.to_be_bytes());
    out.extend(count.to_be_bytes());
    for file in &files {
        let begin = out.len();
        // Times, device and inode; owner, group and size: not known.
        out.extend([0; 24]);
        out.extend(file.mode.to_be_bytes());
        out.extend([0; 12]);
        out.extend(file.id.0);
        let length = file.path.len().min(LONGEST);
        out.extend(u16::try_from(length).unwrap_or_default().to_be_bytes());
        debug_assert_eq!(out.len() - begin, HEAD);
        out.extend(file.path.as_bytes());
        // At least one zero, and entries begin at multiples of eight.
        let zeros = 8 - (out.len() - begin) % 8;
        out.extend(std::iter::repeat_n(0, zeros));
    }
    let sum = Sha1::digest(&out);
    out.extend(sum);
    Ok(out)
}

fn walk(pack: &mut Pack, tree: &Id, path: &str, files: &mut Vec<File>, depth: usize) -> Result<(), Error> {
    if depth > DEPTH {
        return Err(malformed("a tree that is too deep"));
    }
    for item in items(&object(pack, tree, Object::Tree)?)? {
        let path = if path.is_empty() { item.name.clone() } else { format!("{path}/{}", item.name) };
        let mode = match item.mode & 0o170000 {
            0o040000 => {
                walk(pack, &item.id, &path, files, depth + 1)?;
                continue;
            }
            // Of the other bits git knows one.
            0o100000 if item.mode & 0o100 != 0 => 0o100755,
            0o100000 => 0o100644,
            kind => kind,
        };
        files.push(File { path, mode, id: item.id });
    }
    Ok(())
}
