//! Layers unpacked while the rest of the archive still comes: what a file is for is said only at the archive's end,
//! but what looks like a layer nearly always is one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use super::{BUFFER, Spooled, UNPACK_AT_ONCE};
use crate::layer::unpack;
use crate::store::{Draft, NewLayer, Store};
use crate::{Digest, Error, records};

/// Files smaller than this wait for the archive's end, bytes: most are documents, and little is gained.
const LEAST: u64 = 64 * 1024;
/// A tar's first block, bytes, and where in it its magic number is.
const BLOCK: usize = 512;
const MAGIC: usize = 257;

/// Layers that are unpacked, by the file they came from.
#[derive(Default)]
pub(super) struct Early {
    sender: Mutex<Option<Sender<Spooled>>>,
    done: Mutex<HashMap<Digest, NewLayer>>,
}

impl Early {
    /// Starts the threads, which end with [`Early::close`].
    pub(super) fn start<'s>(&'s self, scope: &'s Scope<'s, '_>, store: &'s Arc<Store>) {
        let (sender, receiver) = channel();
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..UNPACK_AT_ONCE {
            let receiver = receiver.clone();
            scope.spawn(move || self.work(store, &receiver));
        }
    }

    /// A file of the archive is complete.
    pub(super) fn offer(&self, file: &Spooled) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = sender.as_ref().filter(|_| file.size >= LEAST && looks_like_a_layer(file)) {
            // Nobody takes it: then it is unpacked at the end.
            let _ = sender.send(file.clone());
        }
    }

    /// No more will come.
    pub(super) fn close(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The layer that a file was unpacked to, if it is the one meant.
    pub(super) fn take(&self, file: &Digest, diff_id: &Digest) -> Option<NewLayer> {
        let layer = self.done.lock().unwrap_or_else(PoisonError::into_inner).remove(file)?;
        (layer.diff_id == *diff_id).then_some(layer)
    }

    fn work(&self, store: &Arc<Store>, files: &Mutex<Receiver<Spooled>>) {
        loop {
            let next = files.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(file) = next else { return };
            match early(store, &file) {
                Ok(Some(layer)) => {
                    self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(file.digest, layer);
                }
                Ok(None) => {}
                // No layer after all, or no room: what is wrong is said when it is known to be needed.
                Err(error) => tracing::debug!(file = %file.digest, %error, "not unpacked early"),
            }
        }
    }
}

fn early(store: &Arc<Store>, file: &Spooled) -> Result<Option<NewLayer>, Error> {
    let known = store.read(|db| {
        // An uncompressed layer is its own diff ID.
        Ok(records::has_blob(db, &file.digest)? || records::has_layer(db, &file.digest)?)
    })?;
    if known {
        return Ok(None);
    }
    let lease = store.lease(&[Draft::Layer])?.pop().ok_or(Error::Canceled)?;
    let input = File::open(&file.file).map_err(|e| Error::os("open", &file.file, e))?;
    let (disk_bytes, diff_id) = unpack(BufReader::with_capacity(BUFFER, &input), lease.path(), None)?;
    // As a blob it must be on the disk before it is recorded: the sooner it is begun, the less there is to wait for.
    input.sync_data().map_err(|e| Error::os("sync", &file.file, e))?;
    Ok(Some(NewLayer { lease, diff_id, disk_bytes }))
}

fn looks_like_a_layer(file: &Spooled) -> bool {
    let mut head = [0; BLOCK];
    let read = File::open(&file.file).and_then(|mut f| f.read_exact(&mut head));
    let packed = matches!(head, [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..]);
    read.is_ok() && (packed || head[MAGIC..].starts_with(b"ustar"))
}
