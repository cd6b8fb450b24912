//! What builds keep: layers by the key of the step that made them, folders of clients' files and of cache mounts.
//!
//! Durable in the engine's database, as part `build`. A step's layer is the worker's; the record here says what it is
//! for. Between the two an engine may be killed: what only one of them knows goes when the cache is opened.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _};

use crate::Error;
use crate::error::Kind;
use crate::worker::{LayerUse, Tree};

const PART: &str = "build";
const VERSION: i64 = 2;
/// Times are nanoseconds since 1970: several builds fit into a second, and what was used last must stay the longest.
const TABLES: &str = "
-- What a step made. `output` stands for it in the keys of steps upon it; `tree` is JSON; `layer` its own layer.
CREATE TABLE build_record(id TEXT PRIMARY KEY, output TEXT NOT NULL, tree TEXT NOT NULL, layer INTEGER,
  kind TEXT NOT NULL, description TEXT NOT NULL, created INTEGER NOT NULL, used INTEGER NOT NULL,
  count INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
-- Keys under which it is found: by definition, and by the content that was read.
CREATE TABLE build_key(key TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX build_key_record ON build_key(record);
-- Builds of the past; `record` and `events` are BuildKit's messages.
CREATE TABLE build_history(ref TEXT PRIMARY KEY, created INTEGER NOT NULL, pinned INTEGER NOT NULL,
  record BLOB NOT NULL, events BLOB NOT NULL) WITHOUT ROWID;
";
/// Until format 2 times were seconds.
const FROM_1: &str = "
UPDATE build_record SET created = created * 1000000000, used = used * 1000000000;
UPDATE build_history SET created = created * 1000000000;
";
/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;
/// How long to wait for another connection's transaction.
const BUSY: Duration = Duration::from_secs(30);

/// What a record is of, in BuildKit's words.
pub mod kind {
    /// A step's layer.
    pub const REGULAR: &str = "regular";
    /// A folder of a cache mount.
    pub const CACHE_MOUNT: &str = "exec.cachemount";
    /// Files of a client.
    pub const LOCAL: &str = "source.local";
    /// A checkout.
    pub const GIT: &str = "source.git.checkout";
    /// A file of a web server.
    pub const HTTP: &str = "regular";
}

/// A step that was done before.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The record's id.
    pub id: String,
    /// What stands for it in keys of steps upon it.
    pub output: String,
    /// What it made.
    pub tree: Tree,
}

/// One record, as `docker buildx du` shows it.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Usage {
    pub id: String,
    pub kind: String,
    pub description: String,
    pub created: SystemTime,
    pub used: SystemTime,
    pub count: i64,
    pub bytes: u64,
    pub shared: bool,
    pub in_use: bool,
    pub layer: Option<i64>,
    pub parents: Vec<String>,
}

/// A new record.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct NewRecord<'a> {
    pub keys: Vec<&'a str>,
    pub output: &'a str,
    pub tree: &'a Tree,
    pub layer: Option<i64>,
    pub kind: &'a str,
    pub description: &'a str,
    pub bytes: u64,
}

/// The cache. All its functions block, for as long as SQLite takes.
pub struct Cache {
    db: Mutex<Connection>,
    in_use: Mutex<HashMap<String, usize>>,
}

/// A step's record, to be kept elsewhere too.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Kept {
    pub id: String,
    pub keys: Vec<String>,
    pub output: String,
    pub tree: Tree,
    /// The layer it made: the tree's last.
    pub layer: i64,
    pub description: String,
    /// Seconds since 1970.
    pub created: i64,
}

/// Keeps a record while it lives.
pub struct InUse {
    cache: Arc<Cache>,
    id: String,
}

impl InUse {
    /// The record's id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut in_use = lock(&self.cache.in_use);
        if let Some(count) = in_use.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                in_use.remove(&self.id);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl From<rusqlite::Error> for Error {
    fn from(e: rusqlite::Error) -> Self {
        Error::invalid(format!("build cache: {e}")).with_kind(Kind::Unknown)
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn time(nanoseconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}

impl Cache {
    /// Opens it, or makes it.
    ///
    /// # Errors
    /// The database of a newer program; faults of the disk.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut db = Connection::open(path)?;
        db.busy_timeout(BUSY)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        // What a power cut takes is built again.
        db.pragma_update(None, "synchronous", "NORMAL")?;
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS schema(part TEXT PRIMARY KEY, version INTEGER NOT NULL)",
        )?;
        let found: Option<i64> =
            tx.query_row("SELECT version FROM schema WHERE part = ?1", [PART], |r| r.get(0)).optional()?;
        match found {
            Some(VERSION) => {}
            Some(1) => {
                tx.execute_batch(FROM_1)?;
                tx.execute("UPDATE schema SET version = ?2 WHERE part = ?1", (PART, VERSION))?;
            }
            Some(found) => {
                return Err(Error::invalid(format!(
                    "the build cache was written by another Coracle (format {found}, this one knows {VERSION})"
                )));
            }
            None => {
                tx.execute_batch(TABLES)?;
                tx.execute("INSERT INTO schema(part, version) VALUES(?1, ?2)", (PART, VERSION))?;
            }
        }
        tx.commit()?;
        Ok(Self { db: Mutex::new(db), in_use: Mutex::default() })
    }

    /// Drops records whose layers are gone, and gives the layers that no record has.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn reconcile(&self, layers: &BTreeMap<i64, LayerUse>) -> Result<Vec<i64>, Error> {
        let mut db = lock(&self.db);
        let tx = db.transaction()?;
        let mut known = BTreeSet::new();
        let mut gone = Vec::new();
        {
            let mut all = tx.prepare("SELECT id, tree, layer FROM build_record")?;
            let mut rows = all.query([])?;
            while let Some(row) = rows.next()? {
                let (id, tree): (String, String) = (row.get(0)?, row.get(1)?);
                let tree: Tree = serde_json::from_str(&tree).unwrap_or_default();
                if tree.built().all(|l| layers.contains_key(&l)) {
                    known.extend(row.get::<_, Option<i64>>(2)?);
                } else {
                    gone.push(id);
                }
            }
        }
        for id in &gone {
            forget(&tx, id)?;
        }
        tx.commit()?;
        Ok(layers.keys().filter(|id| !known.contains(id)).copied().collect())
    }

    /// What was made under a key.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn find(self: &Arc<Self>, key: &str) -> Result<Option<(Hit, InUse)>, Error> {
        let db = lock(&self.db);
        let found: Option<(String, String, String)> = db
            .prepare_cached(
                "SELECT id, output, tree FROM build_key JOIN build_record ON id = record WHERE key = ?1",
            )?
            .query_row([key], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
            .optional()?;
        let Some((id, output, tree)) = found else { return Ok(None) };
        let Ok(tree) = serde_json::from_str(&tree) else { return Ok(None) };
        db.prepare_cached("UPDATE build_record SET used = ?2, count = count + 1 WHERE id = ?1")?
            .execute((&id, now()))?;
        // Under the database's lock: nobody removes it in between.
        let in_use = self.take(&id);
        Ok(Some((Hit { id, output, tree }, in_use)))
    }

    fn take(self: &Arc<Self>, id: &str) -> InUse {
        *lock(&self.in_use).entry(id.to_owned()).or_default() += 1;
        InUse { cache: self.clone(), id: id.to_owned() }
    }

    /// Makes a record be found under one more key.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn alias(&self, key: &str, record: &str) -> Result<(), Error> {
        lock(&self.db)
            .prepare_cached(
                "INSERT OR REPLACE INTO build_key(key, record) SELECT ?1, id FROM build_record WHERE id = ?2",
            )?
            .execute((key, record))?;
        Ok(())
    }

    /// Notes what a step made.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn add(self: &Arc<Self>, id: &str, new: &NewRecord<'_>) -> Result<InUse, Error> {
        let mut db = lock(&self.db);
        let tx = db.transaction()?;
        let now = now();
        let tree = serde_json::to_string(new.tree).map_err(|e| Error::invalid(e.to_string()))?;
        tx.prepare_cached(
            "INSERT OR REPLACE INTO build_record(id, output, tree, layer, kind, description, created, used, count, bytes)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, 1, ?8)",
        )?
        .execute((id, new.output, tree, new.layer, new.kind, new.description, now, new.bytes as i64))?;
        for key in &new.keys {
            tx.prepare_cached("INSERT OR REPLACE INTO build_key(key, record) VALUES(?1, ?2)")?
                .execute((key, id))?;
        }
        let in_use = self.take(id);
        tx.commit()?;
        Ok(in_use)
    }

    /// Notes that a folder is used, and how large it is.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn touch(
        self: &Arc<Self>,
        id: &str,
        kind: &str,
        description: &str,
        bytes: Option<u64>,
    ) -> Result<InUse, Error> {
        let db = lock(&self.db);
        let now = now();
        db.prepare_cached(
            "INSERT INTO build_record(id, output, tree, layer, kind, description, created, used, count, bytes)
             VALUES(?1, '', '[]', NULL, ?2, ?3, ?4, ?4, 1, coalesce(?5, 0))
             ON CONFLICT(id) DO UPDATE SET used = ?4, count = count + 1, bytes = coalesce(?5, bytes)",
        )?
        .execute((id, kind, description, now, bytes.map(|b| b as i64)))?;
        Ok(self.take(id))
    }

    /// All records.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn usage(&self, layers: &BTreeMap<i64, LayerUse>) -> Result<Vec<Usage>, Error> {
        let db = lock(&self.db);
        let in_use = lock(&self.in_use);
        let mut all = db.prepare(
            "SELECT id, kind, description, created, used, count, bytes, layer, tree FROM build_record ORDER BY used DESC, id",
        )?;
        let mut by_layer = HashMap::new();
        let mut rows = all.query([])?;
        let mut found = Vec::new();
        while let Some(r) = rows.next()? {
            let layer: Option<i64> = r.get(7)?;
            let kept = layer.and_then(|l| layers.get(&l)).copied().unwrap_or_default();
            let id: String = r.get(0)?;
            let tree: Tree = serde_json::from_str(&r.get::<_, String>(8)?).unwrap_or_default();
            if let Some(layer) = layer {
                by_layer.insert(layer, id.clone());
            }
            let below: Vec<i64> = tree.built().filter(|l| Some(*l) != layer).collect();
            let usage = Usage {
                in_use: in_use.contains_key(&id),
                id,
                kind: r.get(1)?,
                description: r.get(2)?,
                created: time(r.get(3)?),
                used: time(r.get(4)?),
                count: r.get(5)?,
                bytes: if layer.is_some() { kept.bytes } else { r.get::<_, i64>(6)? as u64 },
                shared: kept.shared,
                layer,
                parents: Vec::new(),
            };
            found.push((usage, below.last().copied()));
        }
        Ok(found
            .into_iter()
            .map(|(mut usage, below)| {
                usage.parents.extend(below.and_then(|l| by_layer.get(&l)).cloned());
                usage
            })
            .collect())
    }

    /// Records of all steps that made a layer, the oldest first.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn kept(&self) -> Result<Vec<Kept>, Error> {
        let db = lock(&self.db);
        let mut keys: HashMap<String, Vec<String>> = HashMap::new();
        let mut all = db.prepare_cached("SELECT record, key FROM build_key ORDER BY key")?;
        let mut rows = all.query([])?;
        while let Some(r) = rows.next()? {
            keys.entry(r.get(0)?).or_default().push(r.get(1)?);
        }
        let mut all = db.prepare_cached(
            "SELECT id, output, tree, layer, description, created FROM build_record
             WHERE layer IS NOT NULL ORDER BY created, layer",
        )?;
        let mut rows = all.query([])?;
        let mut found = Vec::new();
        while let Some(r) = rows.next()? {
            let id: String = r.get(0)?;
            let tree: Tree = serde_json::from_str(&r.get::<_, String>(2)?).unwrap_or_default();
            let (keys, layer) = (keys.remove(&id).unwrap_or_default(), r.get(3)?);
            if tree.0.last() != Some(&crate::worker::Layer::Built(layer)) {
                continue;
            }
            let (output, description) = (r.get(1)?, r.get(4)?);
            let created = r.get::<_, i64>(5)? / SECOND;
            found.push(Kept { id, keys, output, tree, layer, description, created });
        }
        Ok(found)
    }

    /// When each layer was made, in seconds since 1970.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn created(&self) -> Result<HashMap<i64, i64>, Error> {
        let db = lock(&self.db);
        let mut all = db.prepare_cached("SELECT layer, created FROM build_record WHERE layer IS NOT NULL")?;
        Ok(all.query_map([], |r| Ok((r.get(0)?, r.get::<_, i64>(1)? / SECOND)))?.collect::<Result<_, _>>()?)
    }

    /// Forgets a record that nobody uses, and those whose trees have its layer; gives all that went, with the layers
    /// that nothing needs any more.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn remove(&self, id: &str) -> Result<Vec<(String, Option<i64>)>, Error> {
        let mut db = lock(&self.db);
        let in_use = lock(&self.in_use);
        let tx = db.transaction()?;
        let Some(layer) = tx
            .query_row("SELECT layer FROM build_record WHERE id = ?1", [id], |r| r.get::<_, Option<i64>>(0))
            .optional()?
        else {
            return Ok(Vec::new());
        };
        let mut gone = vec![(id.to_owned(), layer)];
        if let Some(layer) = layer {
            let mut all = tx.prepare("SELECT id, tree, layer FROM build_record WHERE id != ?1")?;
            let mut rows = all.query([id])?;
            while let Some(r) = rows.next()? {
                let tree: Tree = serde_json::from_str(&r.get::<_, String>(1)?).unwrap_or_default();
                if tree.built().any(|l| l == layer) {
                    gone.push((r.get(0)?, r.get(2)?));
                }
            }
        }
        if gone.iter().any(|(id, _)| in_use.contains_key(id)) {
            return Ok(Vec::new());
        }
        for (id, _) in &gone {
            forget(&tx, id)?;
        }
        tx.commit()?;
        Ok(gone)
    }

    /// Writes a build of the past.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn put_history(
        &self,
        reference: &str,
        record: &[u8],
        events: &[u8],
        most: usize,
    ) -> Result<(), Error> {
        let db = lock(&self.db);
        db.prepare_cached(
            "INSERT INTO build_history(ref, created, pinned, record, events) VALUES(?1, ?2, 0, ?3, ?4)
             ON CONFLICT(ref) DO UPDATE SET record = excluded.record, events = excluded.events",
        )?
        .execute((reference, now(), record, events))?;
        db.prepare_cached(
            "DELETE FROM build_history WHERE pinned = 0 AND ref NOT IN
               (SELECT ref FROM build_history WHERE pinned = 0 ORDER BY created DESC, ref LIMIT ?1)",
        )?
        .execute([i64::try_from(most).unwrap_or(i64::MAX)])?;
        Ok(())
    }

    /// Builds of the past, the oldest first: record and whether it is pinned.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn history(&self) -> Result<Vec<(Vec<u8>, bool)>, Error> {
        let db = lock(&self.db);
        let mut all = db.prepare("SELECT record, pinned FROM build_history ORDER BY created, ref")?;
        Ok(all.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_, _>>()?)
    }

    /// What was told of a build of the past.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn events(&self, reference: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(lock(&self.db)
            .query_row("SELECT events FROM build_history WHERE ref = ?1", [reference], |r| r.get(0))
            .optional()?)
    }

    /// Pins a build of the past, or forgets it; whether it was there.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn update_history(&self, reference: &str, pinned: bool, delete: bool) -> Result<bool, Error> {
        let db = lock(&self.db);
        let changed = if delete {
            db.execute("DELETE FROM build_history WHERE ref = ?1", [reference])?
        } else {
            db.execute("UPDATE build_history SET pinned = ?2 WHERE ref = ?1", (reference, pinned))?
        };
        Ok(changed > 0)
    }
}

fn forget(tx: &Connection, id: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM build_key WHERE record = ?1")?.execute([id])?;
    tx.prepare_cached("DELETE FROM build_record WHERE id = ?1")?.execute([id])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record<'a>(keys: Vec<&'a str>, tree: &'a Tree) -> NewRecord<'a> {
        NewRecord { keys, output: "o", tree, layer: None, kind: kind::REGULAR, description: "", bytes: 1 }
    }

    fn order(cache: &Cache) -> Vec<String> {
        cache.usage(&BTreeMap::new()).unwrap().into_iter().map(|u| u.id).collect()
    }

    #[test]
    fn what_was_used_last_comes_first_also_within_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Arc::new(Cache::open(&folder.path().join("db")).unwrap());
        let tree = Tree::default();
        for id in ["b", "c", "a"] {
            cache.add(id, &record(vec![id], &tree)).unwrap();
        }
        assert_eq!(order(&cache), ["a", "c", "b"]);
        cache.find("c").unwrap().unwrap();
        assert_eq!(order(&cache), ["c", "a", "b"]);
    }

    #[test]
    fn times_of_format_1_are_read_as_seconds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let tree = Tree::default();
        Arc::new(Cache::open(&path).unwrap()).add("a", &record(vec!["a"], &tree)).unwrap();
        let db = Connection::open(&path).unwrap();
        db.execute_batch("UPDATE build_record SET created = 7, used = 8; UPDATE schema SET version = 1")
            .unwrap();
        let cache = Cache::open(&path).unwrap();
        let found = cache.usage(&BTreeMap::new()).unwrap().remove(0);
        assert_eq!((found.created, found.used), (time(7 * SECOND), time(8 * SECOND)));
    }
}
