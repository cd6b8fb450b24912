//! The handle to all of it.

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::blocking;
use crate::pull::{Flights, Puller, permits};
use crate::registry::Registries;
use crate::store::{Commit, Store};
use crate::{Digest, Error, Image, ProgressSink, PullOptions, Pulled, Reference, RootFs, mount, records};

/// Where images are kept and where they come from.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of the content; on a file system that overlayfs accepts as upper and lower.
    pub root: PathBuf,
    /// The engine's database.
    pub db: PathBuf,
    /// Mirrors of docker.io, tried in this order before it.
    pub registry_mirrors: Vec<String>,
    /// Registries that may speak plain http or have a certificate nobody knows: `host[:port]` or CIDR blocks.
    pub insecure_registries: Vec<String>,
}

/// All images of one engine. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    pub(crate) store: Arc<Store>,
    puller: Puller,
}

impl Images {
    /// Opens the store, making it if need be, and drops what was left half-done. The cost does not grow with the
    /// number of images. Blocks.
    ///
    /// # Errors
    /// [`Error::NewerFormat`] for the database of a newer program; faults of the disk.
    pub fn open(config: Config) -> Result<Images, Error> {
        let registries = Arc::new(Registries::new(&config.registry_mirrors, &config.insecure_registries)?);
        let store = Store::open(&config.root, &config.db)?;
        let puller = Puller {
            store: store.clone(),
            registries,
            flights: Arc::new(Flights::default()),
            permits: permits(),
        };
        Ok(Images { store, puller })
    }

    /// Pulls an image. Dropping the future cancels it and leaves nothing behind.
    ///
    /// # Errors
    /// What the registry answers, in Docker's words; [`Error::Verification`] for content that is not what its digest
    /// says.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: PullOptions,
        progress: ProgressSink,
    ) -> Result<Pulled, Error> {
        self.puller.pull(reference, options, &progress).await
    }

    /// All images, the newest first.
    pub async fn list(&self) -> Result<Vec<Image>, Error> {
        let store = self.store.clone();
        blocking(move || store.read(records::list)).await
    }

    /// One image by name, name and digest, ID, or the beginning of an ID.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::Ambiguous`] for a beginning that several IDs have.
    pub async fn get(&self, name_or_id: &str) -> Result<Image, Error> {
        let (store, text) = (self.store.clone(), name_or_id.to_string());
        blocking(move || {
            store.read(|db| {
                let (id, _) = records::find(db, &text)?;
                records::image(db, &id)
            })
        })
        .await
    }

    /// Gives an image another name; a name in use moves.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::Reference`] for a target with a digest.
    pub async fn tag(&self, source: &str, target: &Reference) -> Result<(), Error> {
        if target.digest().is_some() || target.tag().is_none() {
            return Err(Error::Reference(": refusing to create a tag with a digest reference"));
        }
        let (store, source, name) = (self.store.clone(), source.to_string(), target.to_string());
        blocking(move || {
            let id = store.read(|db| Ok(records::find(db, &source)?.0))?;
            let _pin = store.pin([id]);
            // It may have gone between the two.
            store.read(|db| records::image(db, &id))?;
            store.commit(&Commit { names: vec![(name, id)], ..Commit::default() })
        })
        .await
    }

    /// Makes the root file system of a container, unpacking layers that are not. `image` is an image's ID or the
    /// digest of one of its manifests. With a key that is mounted already it gives the same folders again, what was
    /// written included.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; faults of the disk.
    pub async fn mount(&self, image: &Digest, key: &str) -> Result<RootFs, Error> {
        mount::mount(self.store.clone(), *image, key).await
    }

    /// Removes a container's root file system and all that was written to it; one that is not there is fine.
    /// Whoever had it mounted must have unmounted it.
    pub async fn unmount_and_discard(&self, key: &str) -> Result<(), Error> {
        mount::check_key(key)?;
        let (store, key) = (self.store.clone(), key.to_string());
        blocking(move || {
            store.discard(&key)?;
            // Its image may have been removed before it.
            store.collect().map(|_| ())
        })
        .await
    }
}
