//! Volumes of the `local` driver: a folder each, kept until removed.
//!
//! One with options is mounted at its folder while a container uses it, as with dockerd: all that use it see the same
//! file system (a tmpfs, an NFS export, a folder of the host).
//!
//! ```text
//! ROOT/volumes/NAME/_data               the files
//! ROOT/volumes/NAME/snapshots/SNAPSHOT  those of an earlier time ([`snapshots`]); they go with the volume
//! ROOT/volumes/NAME/.coming             a snapshot that is being made or given back
//! ```

mod options;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host_paths::HostPaths;
use crate::store::{Durability, Kind, Store};
pub use snapshots::Snapshot;

/// The label that marks a volume nobody named.
pub const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// A volume, as recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// Unique name.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Labels; `None` is shown as `null`, as dockerd does.
    pub labels: Option<BTreeMap<String, String>>,
    /// Driver options, as given.
    pub options: Option<BTreeMap<String, String>>,
    /// Its snapshots, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Snapshot>,
}

impl Volume {
    /// Whether it was made for a container without a name of its own.
    pub fn is_anonymous(&self) -> bool {
        self.labels.as_ref().is_some_and(|l| l.contains_key(ANONYMOUS))
    }

    /// What is mounted at its folder while it is used.
    fn mount(&self) -> Option<options::LocalMount> {
        options::LocalMount::read(self.options.as_ref()?)
    }
}

/// All volumes.
pub struct Volumes {
    store: Store,
    root: PathBuf,
    volumes: Mutex<BTreeMap<String, Arc<Volume>>>,
    /// Held while a volume is made, removed, mounted or unmounted.
    users: tokio::sync::Mutex<Users>,
}

/// Who has to do with volumes right now, by the volumes' names.
#[derive(Default)]
struct Users {
    /// Containers that run with it, or are about to.
    containers: BTreeMap<String, BTreeSet<String>>,
    /// Its files are copied, by what says why: nobody else may begin with it.
    copied: BTreeMap<String, &'static str>,
}

impl Users {
    /// Refuses what may not happen while a volume's files are copied.
    fn not_copied(&self, name: &str) -> Result<()> {
        match self.copied.get(name) {
            None => Ok(()),
            Some(why) => Err(Error::conflict(format!("volume {name}: {why}; try again when that is done"))),
        }
    }
}

impl Volumes {
    /// Reads the records.
    pub async fn open(store: Store, root: &Path) -> Result<Self> {
        let root = root.join("volumes");
        tokio::fs::create_dir_all(&root).await?;
        let volumes = store.all::<Volume>(Kind::Volume).await?;
        Ok(Self {
            store,
            root,
            volumes: Mutex::new(volumes.into_iter().map(|(n, v)| (n, Arc::new(v))).collect()),
            users: tokio::sync::Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Volume>>> {
        self.volumes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Where a volume's files are.
    pub fn data(&self, name: &str) -> PathBuf {
        self.root.join(name).join("_data")
    }

    /// All, by name.
    pub fn list(&self) -> Vec<Arc<Volume>> {
        self.lock().values().cloned().collect()
    }

    /// By name.
    pub fn get(&self, name: &str) -> Result<Arc<Volume>> {
        self.lock().get(name).cloned().ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))
    }

    /// Makes a volume, or answers the one of that name; the flag tells whether it is new.
    pub async fn create(
        &self,
        name: &str,
        driver: &str,
        labels: Option<BTreeMap<String, String>>,
        options: Option<BTreeMap<String, String>>,
        durability: Durability,
    ) -> Result<(Arc<Volume>, bool)> {
        if !matches!(driver, "" | "local") {
            return Err(Error::not_found(format!(
                "create {name}: error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            )));
        }
        if let Some(options) = &options {
            options::check(options).map_err(|e| e.context(&format!("create {name}")))?;
        }
        if name.len() < 2 {
            return Err(Error::invalid(format!(
                "create {name}: volume name is too short, names should be at least two alphanumeric characters"
            )));
        }
        if !crate::names::is_valid(name) {
            return Err(Error::invalid(format!(
                "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
            )));
        }
        let _one_at_a_time = self.users.lock().await;
        if let Some(volume) = self.lock().get(name) {
            return Ok((volume.clone(), false));
        }
        tokio::fs::create_dir_all(self.data(name)).await?;
        let volume = Arc::new(Volume {
            name: name.to_owned(),
            created: crate::time::now(),
            labels,
            options,
            snapshots: Vec::new(),
        });
        self.store.put(Kind::Volume, name, &*volume, durability).await?;
        self.lock().insert(name.to_owned(), volume.clone());
        Ok((volume, true))
    }

    /// Removes a volume and its files. Whether something uses it is the caller's to know.
    pub async fn remove(&self, name: &str, durability: Durability) -> Result<()> {
        let users = self.users.lock().await;
        users.not_copied(name)?;
        if self.get(name)?.mount().is_some() {
            // What is mounted there is not the volume's to remove.
            self.unmount(name).await?;
        }
        self.store.delete(Kind::Volume, name, durability).await?;
        self.lock().remove(name);
        let folder = self.root.join(name);
        match tokio::fs::remove_dir_all(&folder).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::internal(format!("volume {name} is removed, but its files are not: {e}")))
            }
            _ => Ok(()),
        }
    }

    /// A container begins with its volumes: what they ask for is mounted, where it is not yet. [`Self::release`] gives
    /// it back.
    pub async fn acquire<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
        container: &str,
        host: &HostPaths,
    ) -> Result<()> {
        for name in names {
            let mount = self.get(name)?.mount();
            let mut users = self.users.lock().await;
            users.not_copied(name)?;
            if let Some(mount) = mount
                && !is_mounted(&self.data(name))?
            {
                mount.mount(&self.data(name), host).await?;
            }
            users.containers.entry(name.to_owned()).or_default().insert(container.to_owned());
        }
        Ok(())
    }

    /// The container has ended: unmounts what only it used.
    pub async fn release(&self, container: &str) {
        let mut users = self.users.lock().await;
        let mut free = Vec::new();
        users.containers.retain(|name, of| {
            if of.remove(container) && of.is_empty() {
                free.push(name.clone());
            }
            !of.is_empty()
        });
        for name in free {
            // What an administrator mounts at the folder of a volume without options is theirs.
            if self.get(&name).is_ok_and(|v| v.mount().is_none()) {
                continue;
            }
            if let Err(e) = self.unmount(&name).await {
                tracing::warn!("volume {name} stays mounted: {e}");
            }
        }
    }

    /// After a restart of the engine: unmounts what no running container uses.
    pub async fn release_unused(&self) {
        let users = self.users.lock().await;
        for volume in self.list() {
            if volume.mount().is_some()
                && !users.containers.contains_key(&volume.name)
                && let Err(e) = self.unmount(&volume.name).await
            {
                tracing::warn!("volume {} stays mounted: {e}", volume.name);
            }
        }
    }

    async fn unmount(&self, name: &str) -> Result<()> {
        let place = self.data(name);
        while is_mounted(&place)? {
            let at = place.clone();
            // An NFS server that is gone would hold it up.
            let unmounted = tokio::task::spawn_blocking(move || {
                rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH)
            });
            let unmounted = unmounted.await.map_err(|e| Error::internal(e.to_string()))?;
            unmounted.map_err(|e| Error::internal(format!("unmount {}: {e}", place.display())))?;
        }
        Ok(())
    }

    /// Bytes a volume's files take on disk, its snapshots' among them: what its removal frees.
    pub async fn size(&self, name: &str) -> Result<u64> {
        // Of one that is mounted, what is mounted there is none of the disk's but is what people ask for.
        let path = self.root.join(name);
        tokio::task::spawn_blocking(move || crate::rootfs::bytes_below(&path))
            .await
            .map_err(|e| Error::internal(e.to_string()))?
    }
}

/// Whether something is mounted at a folder; without asking what is mounted there, whose server may be gone.
fn is_mounted(place: &Path) -> Result<bool> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    match statx(CWD, place, flags, StatxFlags::empty()) {
        Ok(known) => Ok(known.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(e) => Err(Error::internal(format!("{}: {e}", place.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_volume_is_there_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db")).unwrap();
        let volumes = Volumes::open(store.clone(), dir.path()).await.unwrap();
        let (_, new) = volumes.create("data", "local", None, None, Durability::Durable).await.unwrap();
        assert!(new && volumes.data("data").is_dir());
        assert!(!volumes.create("data", "", None, None, Durability::Durable).await.unwrap().1);
        let again = Volumes::open(store, dir.path()).await.unwrap();
        assert_eq!(again.list().len(), 1);
        again.remove("data", Durability::Durable).await.unwrap();
        assert!(!volumes.data("data").exists());
        assert_eq!(again.get("data").unwrap_err().message, "get data: no such volume");
    }

    #[tokio::test]
    async fn names_that_are_paths_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(Store::open(&dir.path().join("db")).unwrap(), dir.path()).await.unwrap();
        for bad in ["../x", "a/b", ".."] {
            assert!(volumes.create(bad, "", None, None, Durability::Durable).await.is_err(), "{bad}");
        }
    }
}
