//! The engine's state on disk: one SQLite database, `ROOT/coracle.db`.
//!
//! ```text
//! ROOT/coracle.db            WAL; table schema(part, version): each part migrates its own tables
//!   record(kind, id, json)   what is written here: kind = container | network | volume | meta
//!   image_*                  the image store's part
//! ROOT/containers/<id>/      hostname, hosts, resolv.conf, <id>-json.log, exit.json
//! ROOT/volumes/<name>/_data  a volume's files
//! ```
//!
//! What is acknowledged to a client is written with [`Durability::Durable`]: synced before the call returns.
//! What is found again after a crash of the engine (a container runs: its shim tells), and decides nothing after a
//! power cut, is [`Durability::Soon`]: written to the log, synced behind the answer. What need not outlive a crash (a
//! container with `--rm`) is [`Durability::Lazy`]: synced with the next durable write.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

/// Version of the engine's part of the schema.
const VERSION: i64 = 1;

/// The longest that a write of [`Durability::Soon`] is not on the disk; what comes in that time is synced together.
pub const SYNC_DELAY: Duration = Duration::from_millis(200);

/// Whether a write must have reached the disk when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Synced before it returns.
    Durable,
    /// Synced within [`SYNC_DELAY`].
    Soon,
    /// Synced with the next durable write.
    Lazy,
}

/// What a record describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A container's configuration and last state.
    Container,
    /// A network.
    Network,
    /// A volume.
    Volume,
    /// Facts of the engine itself (its id, archives already loaded).
    Meta,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Meta => "meta",
        }
    }
}

/// Handle to the database; cheap to clone.
#[derive(Clone)]
pub struct Store {
    conn: Arc<Mutex<Connection>>,
    log: PathBuf,
    /// A sync behind the answers is on its way.
    syncing: Arc<AtomicBool>,
}

impl Store {
    /// Opens or makes the database. A newer format is refused.
    pub fn open(path: &Path) -> Result<Self> {
        let conn = Connection::open(path)?;
        conn.busy_timeout(std::time::Duration::from_secs(10))?;
        conn.pragma_update(None, "journal_mode", "WAL")?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.execute_batch(
            "CREATE TABLE IF NOT EXISTS schema(part TEXT PRIMARY KEY, version INTEGER NOT NULL)",
        )?;
        let found: Option<i64> = conn
            .query_row("SELECT version FROM schema WHERE part = 'engine'", [], |r| r.get(0))
            .optional()?;
        match found {
            Some(v) if v > VERSION => {
                return Err(Error::internal(format!(
                    "{} was written by a newer Coracle (format {v}, this one knows {VERSION}): use that version, or another --root",
                    path.display()
                )));
            }
            Some(_) => {}
            None => conn.execute_batch(&format!(
                "BEGIN;
                 CREATE TABLE record(kind TEXT NOT NULL, id TEXT NOT NULL, json TEXT NOT NULL, PRIMARY KEY(kind, id)) WITHOUT ROWID;
                 INSERT INTO schema VALUES('engine', {VERSION});
                 COMMIT;"
            ))?,
        }
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Ok(Self { conn: Arc::new(Mutex::new(conn)), log: log.into(), syncing: Arc::default() })
    }

    async fn with<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let conn = self.conn.clone();
        let run = move || -> Result<T> {
            let conn = conn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let lazy = durability != Durability::Durable;
            if lazy {
                conn.pragma_update(None, "synchronous", "NORMAL")?;
            }
            let result = work(&conn);
            if lazy {
                conn.pragma_update(None, "synchronous", "FULL")?;
            }
            Ok(result?)
        };
        let result = tokio::task::spawn_blocking(run).await.map_err(|e| Error::internal(e.to_string()))?;
        if durability == Durability::Soon && !self.syncing.swap(true, Ordering::AcqRel) {
            // Nobody waits for it: an orderly end closes the database, which syncs it.
            tokio::spawn(self.clone().sync());
        }
        result
    }

    /// Brings the log to the disk as it is after the delay.
    async fn sync(self) {
        tokio::time::sleep(SYNC_DELAY).await;
        self.syncing.store(false, Ordering::Release);
        let log = self.log.clone();
        let synced = tokio::task::spawn_blocking(move || std::fs::File::open(&log)?.sync_data()).await;
        if let Ok(Err(e)) = synced {
            tracing::warn!("{} was not synced: {e}", self.log.display());
        }
    }

    /// Writes (or overwrites) a record.
    pub async fn put(
        &self,
        kind: Kind,
        id: &str,
        value: &impl Serialize,
        durability: Durability,
    ) -> Result<()> {
        let json = serde_json::to_string(value).map_err(|e| Error::internal(e.to_string()))?;
        let id = id.to_owned();
        self.with(durability, move |c| {
            c.prepare_cached("INSERT OR REPLACE INTO record VALUES(?1, ?2, ?3)")?
                .execute(params![kind.name(), id, json])
                .map(|_| ())
        })
        .await
    }

    /// Removes a record; none there is fine.
    pub async fn delete(&self, kind: Kind, id: &str, durability: Durability) -> Result<()> {
        let id = id.to_owned();
        self.with(durability, move |c| {
            c.prepare_cached("DELETE FROM record WHERE kind = ?1 AND id = ?2")?
                .execute(params![kind.name(), id])
                .map(|_| ())
        })
        .await
    }

    /// All records of a kind, by id. A record that cannot be read is reported, not dropped.
    pub async fn all<T: DeserializeOwned + Send + 'static>(&self, kind: Kind) -> Result<Vec<(String, T)>> {
        let rows = self
            .with(Durability::Durable, move |c| {
                c.prepare("SELECT id, json FROM record WHERE kind = ?1 ORDER BY id")?
                    .query_map([kind.name()], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?
                    .collect::<rusqlite::Result<Vec<_>>>()
            })
            .await?;
        rows.into_iter()
            .map(|(id, json)| match serde_json::from_str(&json) {
                Ok(value) => Ok((id, value)),
                Err(e) => {
                    Err(Error::internal(format!("the record of {} {id} cannot be read: {e}", kind.name())))
                }
            })
            .collect()
    }

    /// One record.
    pub async fn get<T: DeserializeOwned>(&self, kind: Kind, id: &str) -> Result<Option<T>> {
        let id = id.to_owned();
        let json = self
            .with(Durability::Durable, move |c| {
                c.query_row(
                    "SELECT json FROM record WHERE kind = ?1 AND id = ?2",
                    params![kind.name(), id],
                    |r| r.get::<_, String>(0),
                )
                .optional()
            })
            .await?;
        json.map(|j| serde_json::from_str(&j).map_err(|e| Error::internal(e.to_string()))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn records_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coracle.db");
        let store = Store::open(&path).unwrap();
        store.put(Kind::Volume, "v", &"data", Durability::Durable).await.unwrap();
        store.put(Kind::Container, "c", &1, Durability::Lazy).await.unwrap();
        store.delete(Kind::Container, "c", Durability::Lazy).await.unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.all::<String>(Kind::Volume).await.unwrap(), [("v".to_owned(), "data".to_owned())]);
        assert!(store.get::<i32>(Kind::Container, "c").await.unwrap().is_none());
    }

    #[test]
    fn a_newer_format_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coracle.db");
        drop(Store::open(&path).unwrap());
        Connection::open(&path)
            .unwrap()
            .execute("UPDATE schema SET version = 99 WHERE part = 'engine'", [])
            .unwrap();
        let words = Store::open(&path).err().unwrap().message;
        assert!(words.contains("newer Coracle"), "{words}");
    }
}
