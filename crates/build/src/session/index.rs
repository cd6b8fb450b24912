//! What a folder of files from a client holds: one entry a path, with the digest of its content.
//!
//! It is written beside the folder when a transfer has ended well, so that the next one asks only for what is new; while
//! files come there is none, and what a transfer that died left is not trusted.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use bollard_buildkit_proto::fsutil::types::Stat;
use prost::Message;

use crate::rpc::{Code, Status};

/// One file, folder or link.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// What the client said of it.
    #[prost(message, required, tag = "1")]
    pub stat: Stat,
    /// SHA-256 of a file's content; empty for what is none.
    #[prost(bytes = "vec", tag = "2")]
    pub digest: Vec<u8>,
}

/// Entries by path, relative and clean.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Index(pub BTreeMap<String, Entry>);

#[derive(Clone, PartialEq, Message)]
struct Saved {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Entry>,
}

impl Index {
    /// Reads it; what is not there or cannot be read is nothing.
    pub fn read(path: &Path) -> Option<Self> {
        let saved = Saved::decode(std::fs::read(path).ok()?.as_slice()).ok()?;
        Some(Self(saved.entries.into_iter().map(|e| (e.stat.path.clone(), e)).collect()))
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn write(&self, path: &Path) -> Result<(), Status> {
        let saved = Saved { entries: self.0.values().cloned().collect() };
        let new = path.with_extension("new");
        std::fs::write(&new, saved.encode_to_vec())
            .and_then(|()| std::fs::rename(&new, path))
            .map_err(|e| Status::new(Code::Internal, format!("write {}: {e}", path.display())))
    }

    /// Entries of each folder, by the folder's path (the root's is empty); in no order.
    pub fn by_folder(&self) -> HashMap<&str, Vec<&Entry>> {
        let mut folders: HashMap<&str, Vec<&Entry>> = HashMap::new();
        for (path, entry) in &self.0 {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            folders.entry(folder).or_default().push(entry);
        }
        folders
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.0.values().map(|e| u64::try_from(e.stat.size).unwrap_or(0)).sum()
    }
}
