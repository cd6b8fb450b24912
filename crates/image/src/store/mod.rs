//! What is on disk, and the one place that changes it.
//!
//! ```text
//! ROOT/
//!   blobs/sha256/HEX     layer blobs as fetched (compressed), verified, on disk (fdatasync) before they are named here
//!   layers/ID/           a layer unpacked in overlayfs' own form; ID is a small number that is never used again
//!                        (short paths: all lower folders of a mount must fit in its options)
//!   bottom/              what every container finds below its image: bottom.rs
//!   containers/KEY/      upper/ and work/ of a container's root file system
//!   ingest/ID            blobs being fetched and folders being removed: emptied at start
//!   reserve              room for removals on a full disk: reserve.rs
//! database               documents (indexes, manifests, configurations) and all records: schema.rs
//! ```
//!
//! A path exists before its record only under a **lease** (a durable row naming the path):
//!
//! ```text
//!   lease -> write -> rename, record and end of lease in one transaction -> acknowledged
//!   record ends and lease begins in one transaction -> remove -> end of lease
//! ```
//! At start every path under a lease is removed; that costs as much as was under way, not as much as there is.
//!
//! **Power cuts.** A blob is on disk before it is recorded. An unpacked layer need not be: until a `syncfs` after it
//! has returned (in the background) its row carries the id of the boot it was written in. A layer of another boot
//! was perhaps not written out: it is dropped at start and unpacked again from its blob when it is next mounted.
//!
//! **Garbage** is whatever no image, mount or pin reaches; it is looked for under the writer's lock, and pins are
//! taken before the database is asked what is there, so content in use never goes.

mod bottom;
mod reserve;
mod schema;

pub use reserve::make_room;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use crate::{Descriptor, Digest, Error};

/// Folder of the lowest layer of every container.
const BOTTOM: &str = "bottom";

/// Where content is kept. All its functions block.
pub(crate) struct Store {
    root: PathBuf,
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    pins: Mutex<HashMap<Digest, usize>>,
    boot: String,
    reserve: reserve::Reserve,
}

/// A path that disappears again unless it is recorded.
pub(crate) struct Lease {
    store: Arc<Store>,
    id: i64,
    path: PathBuf,
    kept: AtomicBool,
}

/// A fetched, verified blob that is on disk but not yet recorded.
pub(crate) struct NewBlob {
    pub(crate) lease: Lease,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// An unpacked, verified layer that is not yet recorded.
pub(crate) struct NewLayer {
    pub(crate) lease: Lease,
    pub(crate) diff_id: Digest,
    pub(crate) disk_bytes: u64,
}

/// What a lease is for.
#[derive(Clone, Copy)]
pub(crate) enum Draft {
    Blob(Option<Digest>),
    Layer,
}

/// An index, manifest or configuration.
pub(crate) struct NewDocument {
    pub(crate) descriptor: Descriptor,
    pub(crate) data: Vec<u8>,
    pub(crate) children: Vec<Digest>,
}

/// A manifest all of whose content is here or part of the same commit.
pub(crate) struct NewManifest {
    pub(crate) digest: Digest,
    pub(crate) config: Digest,
    pub(crate) platform: crate::Platform,
    pub(crate) diff_ids: Vec<Digest>,
}

/// One transaction's worth of new content.
#[derive(Default)]
pub(crate) struct Commit {
    pub(crate) blobs: Vec<Arc<NewBlob>>,
    pub(crate) layers: Vec<Arc<NewLayer>>,
    /// Layers of builds that become layers of images.
    pub(crate) built: Vec<(i64, Digest)>,
    pub(crate) documents: Vec<NewDocument>,
    pub(crate) manifests: Vec<NewManifest>,
    pub(crate) targets: Vec<Descriptor>,
    /// Full names and what they stand for from now on.
    pub(crate) names: Vec<(String, Digest)>,
}

/// Content that garbage collection leaves alone for as long as this lives.
pub(crate) struct Pin {
    store: Arc<Store>,
    digests: BTreeSet<Digest>,
}

/// Removed by a garbage collection.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Freed {
    pub(crate) bytes: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held rolled its transaction back: the state is whole.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Store {
    pub(crate) fn open(root: &Path, db: &Path) -> Result<Arc<Store>, Error> {
        for folder in ["blobs/sha256", "layers", "containers", "ingest"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(|e| Error::os("mkdir", &path, e))?;
            // Images hold set-id programs: nobody but root gets at them from outside.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
                .map_err(|e| Error::os("chmod", &path, e))?;
        }
        bottom::make(&root.join(BOTTOM))?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|e| Error::os("read", "/proc/sys/kernel/random/boot_id", e))?
            .trim()
            .to_string();
        let store = Store {
            root: root.to_path_buf(),
            writer: Mutex::new(schema::open(db)?),
            reader: Mutex::new(schema::connect(db)?),
            pins: Mutex::default(),
            boot,
            reserve: reserve::Reserve::of(root),
        };
        store.reserve.with(|| store.recover())?;
        store.reserve.keep();
        Ok(Arc::new(store))
    }

    /// Drops what a crash or power cut left half-done.
    fn recover(&self) -> Result<(), Error> {
        let mut db = lock(&self.writer);
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute(
            "INSERT INTO image_lease(path) SELECT 'layers/' || id FROM image_layer WHERE boot IS NOT NULL AND boot != ?1",
            [&self.boot],
        )?;
        tx.execute("DELETE FROM image_layer WHERE boot IS NOT NULL AND boot != ?1", [&self.boot])?;
        tx.execute(
            "INSERT INTO image_lease(path) SELECT 'layers/' || id FROM image_built
             WHERE boot IS NOT NULL AND boot != ?1 AND id NOT IN (SELECT id FROM image_layer)",
            [&self.boot],
        )?;
        tx.execute("DELETE FROM image_built WHERE boot IS NOT NULL AND boot != ?1", [&self.boot])?;
        let left: Vec<(String, Option<String>)> = tx
            .prepare(
                "SELECT path, (SELECT l.blob WHERE l.blob NOT IN (SELECT digest FROM image_blob)) FROM image_lease l",
            )?
            .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
            .collect::<Result<_, _>>()?;
        tx.commit()?;
        for (path, blob) in left {
            tracing::info!(path, "removing what was left half-done");
            remove_path(&self.root.join(path))?;
            if let Some(blob) = blob {
                remove_path(&self.blob_path(&blob.parse()?))?;
            }
        }
        let ingest = self.root.join("ingest");
        for item in fs::read_dir(&ingest).map_err(|e| Error::os("read", &ingest, e))? {
            remove_path(&item.map_err(|e| Error::os("read", &ingest, e))?.path())?;
        }
        db.execute("DELETE FROM image_lease", [])?;
        Ok(())
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn layer_path(&self, id: i64) -> PathBuf {
        self.root.join("layers").join(id.to_string())
    }

    pub(crate) fn bottom_path(&self) -> PathBuf {
        self.root.join(BOTTOM)
    }

    pub(crate) fn container_path(&self, key: &str) -> PathBuf {
        self.root.join("containers").join(key)
    }

    /// Reads with the reader's connection.
    pub(crate) fn read<T>(&self, query: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        query(&lock(&self.reader))
    }

    /// Changes records in one durable transaction.
    pub(crate) fn write<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut db = lock(&self.writer);
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = change(&tx)?;
        tx.commit()?;
        Ok(value)
    }

    /// The same for a change that takes something away: works on a full disk too, once more from the beginning.
    pub(crate) fn write_less<T>(
        &self,
        change: impl Fn(&Transaction<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.reserve.with(|| self.write(&change))
    }

    /// Keeps garbage collection off these until the pin is dropped, whether they are here already or not.
    pub(crate) fn pin(self: &Arc<Self>, digests: impl IntoIterator<Item = Digest>) -> Pin {
        let digests: BTreeSet<Digest> = digests.into_iter().collect();
        let mut pins = lock(&self.pins);
        for digest in &digests {
            *pins.entry(*digest).or_default() += 1;
        }
        Pin { store: self.clone(), digests }
    }

    /// Durable leases for new content, in one transaction.
    pub(crate) fn lease(self: &Arc<Self>, drafts: &[Draft]) -> Result<Vec<Lease>, Error> {
        self.write(|tx| {
            let mut insert = tx.prepare_cached("INSERT INTO image_lease(path, blob) VALUES('', ?1)")?;
            let mut name = tx.prepare_cached("UPDATE image_lease SET path = ?2 WHERE id = ?1")?;
            drafts
                .iter()
                .map(|draft| {
                    let (folder, blob) = match draft {
                        Draft::Blob(digest) => ("ingest", digest.map(|d| d.to_string())),
                        Draft::Layer => ("layers", None),
                    };
                    insert.execute([blob])?;
                    let id = tx.last_insert_rowid();
                    let relative = format!("{folder}/{id}");
                    name.execute((id, &relative))?;
                    let path = self.root.join(relative);
                    Ok(Lease { store: self.clone(), id, path, kept: AtomicBool::new(false) })
                })
                .collect()
        })
    }

    /// Records new content: all of it or nothing.
    pub(crate) fn commit(&self, commit: &Commit) -> Result<(), Error> {
        let mut db = lock(&self.writer);
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let added: i64 =
            tx.query_row("SELECT coalesce(max(added), 0) + 1 FROM image_target", [], |r| r.get(0))?;
        for blob in &commit.blobs {
            // Two pulls that shared one fetch both come here: the first has moved it already.
            let inserted = tx
                .prepare_cached("INSERT OR IGNORE INTO image_blob(digest, size) VALUES(?1, ?2)")?
                .execute((blob.digest.to_string(), blob.size as i64))?;
            if inserted == 1 {
                let to = self.blob_path(&blob.digest);
                fs::rename(&blob.lease.path, &to).map_err(|e| Error::os("rename", &to, e))?;
                blob.lease.end(&tx)?;
            }
        }
        for layer in &commit.layers {
            let inserted = tx
                .prepare_cached(
                    "INSERT OR IGNORE INTO image_layer(id, diff_id, disk_bytes, boot) VALUES(?1, ?2, ?3, ?4)",
                )?
                .execute((layer.lease.id, layer.diff_id.to_string(), layer.disk_bytes as i64, &self.boot))?;
            if inserted == 1 {
                layer.lease.end(&tx)?;
            }
        }
        for (id, diff_id) in &commit.built {
            tx.prepare_cached(
                "INSERT OR IGNORE INTO image_layer(id, diff_id, disk_bytes, boot)
                 SELECT id, ?2, disk_bytes, boot FROM image_built WHERE id = ?1",
            )?
            .execute((id, diff_id.to_string()))?;
        }
        for document in &commit.documents {
            let digest = document.descriptor.digest.to_string();
            tx.prepare_cached(
                "INSERT OR IGNORE INTO image_document(digest, media_type, data) VALUES(?1, ?2, ?3)",
            )?
            .execute((&digest, &document.descriptor.media_type, &document.data))?;
            for (position, child) in document.children.iter().enumerate() {
                tx.prepare_cached(
                    "INSERT OR IGNORE INTO image_child(parent, position, child) VALUES(?1, ?2, ?3)",
                )?
                .execute((&digest, position as i64, child.to_string()))?;
            }
        }
        for manifest in &commit.manifests {
            let digest = manifest.digest.to_string();
            let platform = manifest.platform.normalised();
            tx.prepare_cached("INSERT OR IGNORE INTO image_manifest(digest, config, os, architecture, variant) VALUES(?1, ?2, ?3, ?4, ?5)")?
                .execute((&digest, manifest.config.to_string(), platform.os, platform.architecture, platform.variant))?;
            for (position, diff_id) in manifest.diff_ids.iter().enumerate() {
                tx.prepare_cached(
                    "INSERT OR IGNORE INTO image_chain(manifest, position, diff_id) VALUES(?1, ?2, ?3)",
                )?
                .execute((&digest, position as i64, diff_id.to_string()))?;
            }
        }
        for target in &commit.targets {
            tx.prepare_cached(
                "INSERT OR IGNORE INTO image_target(digest, media_type, size, added) VALUES(?1, ?2, ?3, ?4)",
            )?
            .execute((
                target.digest.to_string(),
                &target.media_type,
                target.size as i64,
                added,
            ))?;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        for (name, target) in &commit.names {
            tx.prepare_cached(
                "INSERT INTO image_name(name, target, tagged) VALUES(?1, ?2, ?3)
                 ON CONFLICT(name) DO UPDATE SET target = excluded.target, tagged = excluded.tagged",
            )?
            .execute((name, target.to_string(), now))?;
        }
        if !commit.blobs.is_empty() {
            sync_folder(&self.root.join("blobs/sha256"))?;
        }
        tx.commit()?;
        // Only now: a transaction that fails must leave the leases' owners in charge of the paths.
        for lease in commit.blobs.iter().map(|b| &b.lease).chain(commit.layers.iter().map(|l| &l.lease)) {
            let ended = db
                .prepare_cached("SELECT 1 FROM image_lease WHERE id = ?1")?
                .query_row([lease.id], |_| Ok(()))
                .optional()?
                .is_none();
            if ended {
                lease.kept.store(true, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Makes sure that the layers recorded so far are on disk, and notes it.
    pub(crate) fn settle(&self) -> Result<(), Error> {
        let ids: Vec<i64> = self.read(|db| {
            Ok(db
                .prepare_cached(
                    "SELECT id FROM image_layer WHERE boot = ?1 UNION SELECT id FROM image_built WHERE boot = ?1",
                )?
                .query_map([&self.boot], |r| r.get(0))?
                .collect::<Result<_, _>>()?)
        })?;
        if ids.is_empty() {
            return Ok(());
        }
        let root = fs::File::open(&self.root).map_err(|e| Error::os("open", &self.root, e))?;
        rustix::fs::syncfs(&root).map_err(|e| Error::os("sync", &self.root, e))?;
        self.write(|tx| {
            for id in &ids {
                for table in ["image_layer", "image_built"] {
                    let done = format!("UPDATE {table} SET boot = NULL WHERE id = ?1");
                    tx.prepare_cached(&done)?.execute([id])?;
                }
            }
            Ok(())
        })
    }

    /// Removes all content that nothing reaches.
    pub(crate) fn collect(&self) -> Result<Freed, Error> {
        self.reserve.with(|| self.collect_once())
    }

    fn collect_once(&self) -> Result<Freed, Error> {
        let mut freed = Freed::default();
        let mut folders = Vec::new();
        {
            let mut db = lock(&self.writer);
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            tx.execute_batch(
                "CREATE TEMP TABLE IF NOT EXISTS live(digest TEXT PRIMARY KEY) WITHOUT ROWID; DELETE FROM live;",
            )?;
            // Pins are read under the writer's lock: whoever pins after this finds the records gone.
            for digest in lock(&self.pins).keys() {
                tx.prepare_cached("INSERT OR IGNORE INTO live VALUES(?1)")?.execute([digest.to_string()])?;
            }
            tx.execute_batch(
                "INSERT OR IGNORE INTO live
                 WITH RECURSIVE reached(digest) AS (
                   SELECT digest FROM image_target UNION SELECT manifest FROM image_mount UNION SELECT digest FROM live
                   UNION SELECT child FROM image_child JOIN reached ON parent = reached.digest)
                 SELECT digest FROM reached;
                 INSERT OR IGNORE INTO live SELECT diff_id FROM image_chain WHERE manifest IN (SELECT digest FROM live);
                 INSERT OR IGNORE INTO live
                   SELECT diff_id FROM image_layer WHERE id IN (SELECT layer FROM image_mount_layer);
                 DELETE FROM image_child WHERE parent NOT IN (SELECT digest FROM live);
                 DELETE FROM image_chain WHERE manifest NOT IN (SELECT digest FROM live);
                 DELETE FROM image_manifest WHERE digest NOT IN (SELECT digest FROM live);",
            )?;
            let documents: Option<i64> = tx.query_row(
                "SELECT sum(length(data)) FROM image_document WHERE digest NOT IN (SELECT digest FROM live)",
                [],
                |r| r.get(0),
            )?;
            freed.bytes += documents.unwrap_or(0) as u64;
            tx.execute("DELETE FROM image_document WHERE digest NOT IN (SELECT digest FROM live)", [])?;
            let blobs: Vec<(String, i64)> = tx
                .prepare("DELETE FROM image_blob WHERE digest NOT IN (SELECT digest FROM live) RETURNING digest, size")?
                .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect::<Result<_, _>>()?;
            let layers: Vec<(i64, i64)> = tx
                .prepare("DELETE FROM image_layer WHERE diff_id NOT IN (SELECT digest FROM live) RETURNING id, disk_bytes")?
                .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect::<Result<_, _>>()?;
            let mut files = Vec::new();
            for (digest, size) in blobs {
                let digest: Digest = digest.parse()?;
                let relative = format!("blobs/sha256/{}", digest.hex());
                tx.prepare_cached("INSERT INTO image_lease(path) VALUES(?1)")?.execute([&relative])?;
                files.push((tx.last_insert_rowid(), self.root.join(relative)));
                freed.bytes += size as u64;
            }
            for (id, disk_bytes) in layers {
                // A build's cache has the same folder.
                if tx.prepare_cached("SELECT 1 FROM image_built WHERE id = ?1")?.exists([id])? {
                    continue;
                }
                tx.prepare_cached("INSERT INTO image_lease(path) VALUES(?1)")?
                    .execute([format!("layers/{id}")])?;
                folders.push((tx.last_insert_rowid(), self.layer_path(id)));
                freed.bytes += disk_bytes as u64;
            }
            tx.commit()?;
            // Files go under the lock, as the same digest may come again; folders' numbers never do.
            for (id, path) in files {
                remove_path(&path)?;
                db.prepare_cached("DELETE FROM image_lease WHERE id = ?1")?.execute([id])?;
            }
        }
        self.remove_leased(folders)?;
        Ok(freed)
    }

    /// Ends the record of a container's root file system and removes its folders, and the content that only it held.
    pub(crate) fn discard(&self, key: &str) -> Result<(), Error> {
        self.reserve.with(|| self.discard_once(key))
    }

    fn discard_once(&self, key: &str) -> Result<(), Error> {
        let path = self.container_path(key);
        let (id, trash, last_user) = {
            let mut db = lock(&self.writer);
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // A collection looks at everything: only where the image went before its container.
            let last_user = tx
                .prepare_cached(
                    "SELECT 1 FROM image_mount WHERE key = ?1
                     AND manifest NOT IN (SELECT digest FROM image_target)
                     AND NOT EXISTS (SELECT 1 FROM image_child JOIN image_target ON digest = parent WHERE child = manifest)",
                )?
                .exists([key])?;
            tx.prepare_cached("DELETE FROM image_mount WHERE key = ?1")?.execute([key])?;
            tx.prepare_cached("DELETE FROM image_mount_layer WHERE key = ?1")?.execute([key])?;
            tx.prepare_cached("INSERT INTO image_lease(path) VALUES(?1)")?
                .execute([format!("containers/{key}")])?;
            let id = tx.last_insert_rowid();
            tx.commit()?;
            // Out of the way at once: the same key may be mounted again.
            let trash = self.root.join("ingest").join(id.to_string());
            match fs::rename(&path, &trash) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::os("rename", &path, e)),
            }
            (id, trash, last_user)
        };
        remove_path(&trash)?;
        self.end_lease(id)?;
        if last_user {
            self.collect()?;
        }
        Ok(())
    }

    /// The boot that layers are marked with until they are known to be on disk.
    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }

    /// A folder of the store that nothing but its lease knows.
    pub(crate) fn scratch(self: &Arc<Self>) -> Result<Lease, Error> {
        self.lease(&[Draft::Blob(None)])?.pop().ok_or(Error::Canceled)
    }

    /// Removes folders of layers whose records ended under these leases.
    pub(crate) fn remove_leased(&self, folders: Vec<(i64, PathBuf)>) -> Result<(), Error> {
        for (id, path) in folders {
            remove_path(&path)?;
            self.end_lease(id)?;
        }
        Ok(())
    }

    fn end_lease(&self, id: i64) -> Result<(), Error> {
        self.write_less(|tx| {
            tx.prepare_cached("DELETE FROM image_lease WHERE id = ?1")?.execute([id])?;
            Ok(())
        })
    }
}

impl Lease {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the path now, on this thread.
    pub(crate) fn remove(mut self) -> Result<(), Error> {
        remove_path(&self.path)?;
        self.store.end_lease(self.id)?;
        *self.kept.get_mut() = true;
        Ok(())
    }

    /// The number in its path, which a layer keeps.
    pub(crate) fn id(&self) -> i64 {
        self.id
    }

    /// It has become part of a transaction that was committed.
    pub(crate) fn kept(&self) {
        self.kept.store(true, Ordering::Release);
    }

    pub(crate) fn end(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        tx.prepare_cached("DELETE FROM image_lease WHERE id = ?1")?.execute([self.id])?;
        Ok(())
    }
}

impl Drop for Lease {
    /// Removes what was not kept; off the async threads, where a cancelled pull drops it.
    fn drop(&mut self) {
        if *self.kept.get_mut() {
            return;
        }
        let (store, id, path) = (self.store.clone(), self.id, std::mem::take(&mut self.path));
        let remove = move || {
            if let Err(error) = remove_path(&path).and_then(|()| store.end_lease(id)) {
                // The row stays: the next start tries again.
                tracing::warn!(path = %path.display(), %error, "could not remove unfinished content");
            }
        };
        match tokio::runtime::Handle::try_current() {
            // A runtime that is shutting down may not run it any more: the next start does.
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = lock(&self.store.pins);
        for digest in &self.digests {
            if let Some(count) = pins.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(digest);
                }
            }
        }
    }
}

/// Removes a file or folder; one that is not there is fine.
pub(crate) fn remove_path(path: &Path) -> Result<(), Error> {
    let done = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match done {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::os("remove", path, e)),
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> Result<(), Error> {
    fs::File::open(path).and_then(|f| f.sync_all()).map_err(|e| Error::os("sync", path, e))
}
