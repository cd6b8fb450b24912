//! Snapshots of volumes: their files as they were, kept beside them until they are removed or given back.
//!
//! A snapshot is a copy, made aside, synced and then put in its place; the record is written last, so that what a crash
//! leaves half made is nobody's and goes with the next one. Giving back puts a copy in the place of the volume's files in
//! one step: a volume has the files it had or those of the snapshot, whenever the power goes.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Volume, Volumes};
use crate::error::{Error, Result};
use crate::store::{Durability, Kind};

/// Most snapshots of one volume.
const MOST: usize = 100;
/// Longest name of a snapshot, in bytes.
const LONGEST_NAME: usize = 128;

/// A snapshot, as its volume's record keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name, unique for its volume.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Bytes its files take.
    pub size: u64,
}

/// The words by which others are refused meanwhile.
const TAKEN: &str = "a snapshot of it is being made";
const REMOVED: &str = "a snapshot of it is being removed";
const GIVEN_BACK: &str = "a snapshot is being given back to it";

impl Volumes {
    /// Copies a volume's files. Containers that run with it should be frozen by the caller; none can start meanwhile.
    ///
    /// # Errors
    /// When the volume is not there, has options (its files are then somebody else's), is being copied already, or has a
    /// snapshot of that name or too many.
    pub async fn snapshot(&self, name: &str, snapshot: &str) -> Result<Snapshot> {
        if !crate::names::is_valid(snapshot) || snapshot.len() > LONGEST_NAME {
            return Err(Error::invalid(format!(
                "\"{snapshot}\" can't be a snapshot's name: only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed, 2 to {LONGEST_NAME} of them"
            )));
        }
        let volume = self.begin(name, TAKEN, false).await?;
        let made = async {
            if volume.snapshots.iter().any(|s| s.name == snapshot) {
                return Err(Error::conflict(format!("volume {name} has a snapshot {snapshot} already")));
            }
            if volume.snapshots.len() >= MOST {
                return Err(Error::conflict(format!(
                    "volume {name} has {MOST} snapshots: remove one of them first"
                )));
            }
            let (from, all) = (self.data(name), self.snapshots(name));
            let to = all.join(snapshot);
            let coming = self.coming(name);
            let size = blocking(move || {
                copy(&from, &coming)?;
                std::fs::create_dir_all(&all)?;
                // Of an earlier one of this name that got no record.
                gone(&to)?;
                std::fs::rename(&coming, &to)?;
                std::fs::File::open(&all)?.sync_all()?;
                crate::rootfs::bytes_below(&to)
            })
            .await?;
            let made = Snapshot { name: snapshot.to_owned(), created: crate::time::now(), size };
            self.change(name, |v| v.snapshots.push(made.clone())).await?;
            Ok(made)
        }
        .await;
        self.end(name).await;
        made
    }

    /// Puts a snapshot's files in the place of the volume's. The snapshot stays.
    ///
    /// # Errors
    /// When either is not there, or a container runs with the volume: it would go on with the files of before.
    pub async fn restore(&self, name: &str, snapshot: &str) -> Result<()> {
        let volume = self.begin(name, GIVEN_BACK, true).await?;
        let done = async {
            known(&volume, snapshot)?;
            let (from, to) = (self.snapshots(name).join(snapshot), self.data(name));
            let (coming, folder) = (self.coming(name), self.root.join(name));
            blocking(move || {
                copy(&from, &coming)?;
                exchange(&coming, &to)?;
                std::fs::File::open(folder)?.sync_all()?;
                gone(&coming)
            })
            .await
        }
        .await;
        self.end(name).await;
        done
    }

    /// Removes a snapshot.
    pub async fn remove_snapshot(&self, name: &str, snapshot: &str) -> Result<()> {
        let volume = self.begin(name, REMOVED, false).await?;
        let done = async {
            known(&volume, snapshot)?;
            self.change(name, |v| v.snapshots.retain(|s| s.name != snapshot)).await?;
            let folder = self.snapshots(name).join(snapshot);
            blocking(move || gone(&folder)).await
        }
        .await;
        self.end(name).await;
        done
    }

    fn snapshots(&self, name: &str) -> std::path::PathBuf {
        self.root.join(name).join("snapshots")
    }

    fn coming(&self, name: &str) -> std::path::PathBuf {
        self.root.join(name).join(".coming")
    }

    /// From now until [`Self::end`] nobody else begins with the volume.
    async fn begin(&self, name: &str, why: &'static str, unused: bool) -> Result<Arc<Volume>> {
        let mut users = self.users.lock().await;
        let volume = self.get(name)?;
        if volume.mount().is_some() {
            return Err(Error::conflict(format!(
                "volume {name} has options: its files are not the engine's to keep snapshots of"
            )));
        }
        users.not_copied(name)?;
        if unused && let Some(by) = users.containers.get(name) {
            let by: Vec<&str> = by.iter().map(|id| id.get(..12).unwrap_or(id)).collect();
            return Err(Error::conflict(format!(
                "volume {name} is in use by running containers: stop {} first",
                by.join(", ")
            )));
        }
        users.copied.insert(name.to_owned(), why);
        Ok(volume)
    }

    async fn end(&self, name: &str) {
        self.users.lock().await.copied.remove(name);
    }

    async fn change(&self, name: &str, change: impl FnOnce(&mut Volume)) -> Result<()> {
        let mut volume = Volume::clone(&*self.get(name)?);
        change(&mut volume);
        self.store.put(Kind::Volume, name, &volume, Durability::Durable).await?;
        self.lock().insert(name.to_owned(), Arc::new(volume));
        Ok(())
    }
}

fn known<'a>(volume: &'a Volume, snapshot: &str) -> Result<&'a Snapshot> {
    let found = volume.snapshots.iter().find(|s| s.name == snapshot);
    found.ok_or_else(|| Error::not_found(format!("volume {} has no snapshot {snapshot}", volume.name)))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(e.to_string()))?
}

/// A whole copy, on the disk; what was at `to` goes.
fn copy(from: &Path, to: &Path) -> Result<()> {
    gone(to)?;
    let copied = std::fs::create_dir(to)
        .map_err(Error::from)
        .and_then(|()| crate::rootfs::copy_tree(from, to))
        .and_then(|()| {
            rustix::fs::syncfs(std::fs::File::open(to)?).map_err(|e| std::io::Error::from(e).into())
        });
    if copied.is_err() {
        // Half a copy of what the disk has no room for.
        gone(to)?;
    }
    copied
}

fn gone(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Each gets the other's name, in one step.
fn exchange(one: &Path, other: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
        .map_err(|e| Error::internal(format!("exchange {} and {}: {e}", one.display(), other.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_paths::HostPaths;
    use crate::store::Store;

    async fn volumes(dir: &Path) -> Volumes {
        let volumes = Volumes::open(Store::open(&dir.join("db")).unwrap(), dir).await.unwrap();
        volumes.create("data", "", None, None, Durability::Durable).await.unwrap();
        volumes
    }

    #[tokio::test]
    async fn files_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = volumes(dir.path()).await;
        let file = volumes.data("data").join("file");
        std::fs::write(&file, "before").unwrap();
        let made = volumes.snapshot("data", "first").await.unwrap();
        assert_eq!((made.name.as_str(), made.size), ("first", 6));
        std::fs::write(&file, "after").unwrap();
        std::fs::write(volumes.data("data").join("more"), "more").unwrap();
        volumes.restore("data", "first").await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "before");
        assert!(!volumes.data("data").join("more").exists());

        // The record outlives the engine, the snapshot its use.
        let again = Volumes::open(volumes.store.clone(), dir.path()).await.unwrap();
        assert_eq!(again.get("data").unwrap().snapshots, vec![made]);
        again.remove_snapshot("data", "first").await.unwrap();
        assert_eq!(again.restore("data", "first").await.unwrap_err().code, crate::error::Code::NotFound);
        assert_eq!(again.size("data").await.unwrap(), 6, "nothing is left of it");
    }

    #[tokio::test]
    async fn a_volume_that_runs_is_not_exchanged_and_one_that_is_copied_does_not_start() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = volumes(dir.path()).await;
        volumes.snapshot("data", "one").await.unwrap();
        assert!(volumes.snapshot("data", "one").await.unwrap_err().message.contains("already"));
        assert!(volumes.snapshot("data", "../one").await.is_err());
        let host = HostPaths::default();
        volumes.acquire(["data"].into_iter(), "box", &host).await.unwrap();
        assert!(volumes.restore("data", "one").await.unwrap_err().message.contains("stop box first"));
        volumes.snapshot("data", "two").await.unwrap();
        volumes.release("box").await;

        volumes.begin("data", GIVEN_BACK, true).await.unwrap();
        let refused = volumes.acquire(["data"].into_iter(), "box", &host).await.unwrap_err();
        assert!(refused.message.contains("being given back"), "{refused:?}");
        assert!(volumes.remove("data", Durability::Durable).await.is_err());
        volumes.end("data").await;
        volumes.restore("data", "one").await.unwrap();
    }

    #[tokio::test]
    async fn what_a_crash_left_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = volumes(dir.path()).await;
        // Copied, not recorded; half copied.
        for left in [volumes.snapshots("data").join("one"), volumes.coming("data")] {
            std::fs::create_dir_all(left.join("folder")).unwrap();
        }
        std::fs::write(volumes.data("data").join("file"), "x").unwrap();
        volumes.snapshot("data", "one").await.unwrap();
        let kept = std::fs::read_dir(volumes.snapshots("data").join("one")).unwrap().count();
        assert_eq!((kept, volumes.coming("data").exists()), (1, false));
    }
}
