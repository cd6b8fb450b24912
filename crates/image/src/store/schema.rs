//! The image store's part of the engine's database.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use crate::Error;

/// Name of our part in the table `schema`.
const PART: &str = "image";
/// Version of the tables below.
const VERSION: i64 = 3;
/// How long to wait for another connection's transaction.
const BUSY: Duration = Duration::from_secs(30);

/// Digests are text (`sha256:...`): the database is meant to be read with `sqlite3` when something is wrong.
const TABLES: &str = "
-- Indexes, manifests and configurations, byte for byte as fetched.
CREATE TABLE image_document(digest TEXT PRIMARY KEY, media_type TEXT NOT NULL, data BLOB NOT NULL) WITHOUT ROWID;
-- Layer blobs in blobs/sha256.
CREATE TABLE image_blob(digest TEXT PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID;
-- What a stored index or manifest names; of an index, children of other platforms may be absent here.
CREATE TABLE image_child(parent TEXT NOT NULL, position INTEGER NOT NULL, child TEXT NOT NULL,
  PRIMARY KEY(parent, position)) WITHOUT ROWID;
CREATE INDEX image_child_child ON image_child(child);
-- Manifests that are here with all their content.
CREATE TABLE image_manifest(digest TEXT PRIMARY KEY, config TEXT NOT NULL,
  os TEXT NOT NULL, architecture TEXT NOT NULL, variant TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE image_chain(manifest TEXT NOT NULL, position INTEGER NOT NULL, diff_id TEXT NOT NULL,
  PRIMARY KEY(manifest, position)) WITHOUT ROWID;
-- Unpacked layers in layers/ID. `boot` is set until the layer is known to be on disk.
CREATE TABLE image_layer(id INTEGER PRIMARY KEY, diff_id TEXT NOT NULL UNIQUE, disk_bytes INTEGER NOT NULL, boot TEXT);
-- Images: what a name or an ID stands for. `added` orders them.
CREATE TABLE image_target(digest TEXT PRIMARY KEY, media_type TEXT NOT NULL, size INTEGER NOT NULL, added INTEGER NOT NULL)
  WITHOUT ROWID;
CREATE TABLE image_name(name TEXT PRIMARY KEY, target TEXT NOT NULL REFERENCES image_target(digest),
  tagged INTEGER) WITHOUT ROWID; -- when the name was given, nanoseconds since 1970
CREATE INDEX image_name_target ON image_name(target);
-- Root file systems of containers, in containers/KEY.
CREATE TABLE image_mount(key TEXT PRIMARY KEY, manifest TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE image_mount_layer(key TEXT NOT NULL, layer INTEGER NOT NULL, PRIMARY KEY(key, layer)) WITHOUT ROWID;
-- Paths being made or removed; what is left here at start is removed.
CREATE TABLE image_lease(id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL, blob TEXT);
";

/// Since version 3.
const BUILT: &str = "
-- Layers of builds, in layers/ID as those of images are; the digests are known once an image was made of one, and then
-- image_layer may have the same folder.
CREATE TABLE image_built(id INTEGER PRIMARY KEY, disk_bytes INTEGER NOT NULL, boot TEXT,
  diff_id TEXT, blob TEXT, blob_size INTEGER);
";

/// Opens a connection as the engine's database is to be used, and makes or checks our tables.
pub(super) fn open(path: &Path) -> Result<Connection, Error> {
    let mut db = connect(path)?;
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch("CREATE TABLE IF NOT EXISTS schema(part TEXT PRIMARY KEY, version INTEGER NOT NULL)")?;
    let found: Option<i64> =
        tx.query_row("SELECT version FROM schema WHERE part = ?1", [PART], |r| r.get(0)).optional()?;
    match found {
        Some(VERSION) => {}
        Some(found) if found > VERSION => return Err(Error::NewerFormat { found, known: VERSION }),
        Some(found @ (1 | 2)) => {
            if found == 1 {
                tx.execute_batch("ALTER TABLE image_name ADD COLUMN tagged INTEGER")?;
            }
            tx.execute_batch(BUILT)?;
            tx.execute("UPDATE schema SET version = ?2 WHERE part = ?1", (PART, VERSION))?;
        }
        Some(found) => return Err(Error::content("image database", format!("unknown format {found}"))),
        None => {
            tx.execute_batch(TABLES)?;
            tx.execute_batch(BUILT)?;
            tx.execute("INSERT INTO schema(part, version) VALUES(?1, ?2)", (PART, VERSION))?;
        }
    }
    tx.commit()?;
    Ok(db)
}

/// A further connection to the same database.
pub(super) fn connect(path: &Path) -> Result<Connection, Error> {
    let db = Connection::open(path)?;
    db.busy_timeout(BUSY)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}
