//! All builds of one engine.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Semaphore, watch};

use crate::Error;
use crate::cache::Cache;
use crate::error::Kind;
use crate::jobs::Job;
use crate::progress::Progress;
use crate::session::Sessions;
use crate::solve::STEPS_PER_CPU;
use crate::worker::Worker;

/// Most sources that are remembered as used; then all are forgotten.
const USED: usize = 10_000;

/// Where things are.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Folder of clients' files and cache mounts, on a disk.
    pub root: PathBuf,
    /// Folder of what lives as long as a step.
    pub scratch: PathBuf,
    /// The engine's database.
    pub db: PathBuf,
}

/// All builds of one engine, and what they share.
pub struct Builder<W: Worker> {
    /// The engine.
    pub worker: W,
    /// What is kept.
    pub cache: Arc<Cache>,
    pub(crate) root: PathBuf,
    pub(crate) scratch: PathBuf,
    pub(crate) permits: Semaphore,
    /// Steps under way, by key; folders in use, by name.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    pub(crate) sessions: Arc<Sessions>,
    jobs: Mutex<HashMap<String, Arc<Job<W>>>>,
    /// What was told of builds that have just ended.
    ended: Mutex<HashMap<String, Arc<Progress>>>,
    pub(crate) changed: watch::Sender<u64>,
    /// Sources (images, repositories, files of web servers, texts of Dockerfiles) that builds of this engine have used: another build
    /// finds them, and is told so.
    used: Mutex<HashSet<String>>,
    /// What automatic collection keeps, in bytes; `None`: there is none.
    pub(crate) keep: Option<u64>,
    /// Held while the cache is made smaller.
    pub(crate) collecting: tokio::sync::Mutex<()>,
}

impl<W: Worker> Builder<W> {
    /// Opens the cache; drops what an engine that died left half-done.
    ///
    /// # Errors
    /// Faults of the disk.
    pub async fn open(
        worker: W,
        paths: Paths,
        sessions: Arc<Sessions>,
        keep: Option<u64>,
    ) -> Result<Arc<Self>, Error> {
        let layers = worker.layers().await?;
        let prepare = {
            let paths = paths.clone();
            move || -> Result<(Cache, Vec<i64>), Error> {
                let fault = |e: std::io::Error| Error::invalid(e.to_string()).with_kind(Kind::Unknown);
                for folder in [paths.root.join("local"), paths.root.join("mounts"), paths.scratch.clone()] {
                    std::fs::create_dir_all(&folder).map_err(fault)?;
                    for entry in std::fs::read_dir(&folder).map_err(fault)? {
                        let entry = entry.map_err(fault)?;
                        let left = folder == paths.scratch
                            || entry.file_name().to_string_lossy().starts_with("new-");
                        if left {
                            let _ = std::fs::remove_dir_all(entry.path());
                        }
                    }
                }
                let cache = Cache::open(&paths.db)?;
                let unknown = cache.reconcile(&layers)?;
                Ok((cache, unknown))
            }
        };
        let (cache, unknown) = tokio::task::spawn_blocking(prepare)
            .await
            .map_err(|e| Error::invalid(e.to_string()).with_kind(Kind::Unknown))??;
        if !unknown.is_empty() {
            worker.forget(unknown).await?;
        }
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Arc::new(Self {
            worker,
            cache: Arc::new(cache),
            root: paths.root,
            scratch: paths.scratch,
            permits: Semaphore::new(cpus * STEPS_PER_CPU),
            locks: Mutex::default(),
            sessions,
            jobs: Mutex::default(),
            ended: Mutex::default(),
            changed: watch::Sender::default(),
            used: Mutex::default(),
            keep,
            collecting: tokio::sync::Mutex::default(),
        }))
    }

    /// Notes that a build uses this source; whether one has before.
    pub(crate) fn uses(&self, source: &str) -> bool {
        let mut used = self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if used.len() >= USED {
            used.clear();
        }
        !used.insert(source.to_owned())
    }

    /// Forgets what builds have used, as their cache is.
    pub(crate) fn forget_used(&self) {
        self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }

    /// Whoever holds it is the only one at the step of this key.
    pub(crate) fn flight(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        self.lock_of(key)
    }

    /// Whoever holds it is the only one who uses the folder of this name.
    pub(crate) fn lock_of(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(name.to_owned()).or_default().clone()
    }

    pub(crate) fn lock_jobs(&self) -> MutexGuard<'_, HashMap<String, Arc<Job<W>>>> {
        self.jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn lock_ended(&self) -> MutexGuard<'_, HashMap<String, Arc<Progress>>> {
        self.ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Sessions of clients.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }
}
