//! The handle to all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_util::io::SyncIoBridge;

use crate::error::blocking;
use crate::pull::{Flights, Puller, permits, settle_later};
use crate::registry::Registries;
use crate::store::{Commit, Store};
use crate::{
    Credentials, Digest, DiskUsage, Distribution, Error, Found, Image, InUse, LayerFiles, LoadOptions,
    Loaded, ManifestSummary, NewImage, Platform, ProgressSink, Proxies, Prunable, PruneOptions, Pruned,
    PullOptions, Pulled, PushOptions, Pushed, Reference, RemoveOptions, Removed, RootFs, files, load, make,
    mount, records, remove, save,
};

/// Where images are kept and where they come from.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Folder of the content; on a file system that overlayfs accepts as upper and lower.
    pub root: PathBuf,
    /// The engine's database.
    pub db: PathBuf,
    /// Mirrors of docker.io, tried in this order before it.
    pub registry_mirrors: Vec<String>,
    /// Registries that may speak plain http or have a certificate nobody knows: `host[:port]` or CIDR blocks.
    pub insecure_registries: Vec<String>,
    /// Folders like Docker's `certs.d`: certificates by registry.
    pub certificates: Vec<PathBuf>,
    /// Proxies on the way to registries.
    pub proxies: Proxies,
}

/// All images of one engine. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    pub(crate) store: Arc<Store>,
    pub(crate) puller: Puller,
}

impl Images {
    /// Opens the store, making it if need be, and drops what was left half-done. The cost does not grow with the
    /// number of images. Blocks.
    ///
    /// # Errors
    /// [`Error::NewerFormat`] for the database of a newer program; faults of the disk.
    pub fn open(config: Config) -> Result<Images, Error> {
        let registries = Arc::new(Registries::new(&config)?);
        let store = Store::open(&config.root, &config.db)?;
        let puller = Puller {
            store: store.clone(),
            registries,
            flights: Arc::new(Flights::default()),
            permits: permits(),
        };
        Ok(Images { store, puller })
    }

    /// Removes content that nothing reaches: whoever was killed between forgetting a name and removing what it meant
    /// left some. To be called once after [`Images::open`]; everything else may go on beside it.
    ///
    /// # Errors
    /// Faults of the disk.
    pub async fn tidy(&self) -> Result<(), Error> {
        let store = self.store.clone();
        blocking(move || store.collect()).await.map(drop)
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

    /// Asks the registry what a reference stands for: its ID, and its configuration for the platform. Nothing is kept.
    ///
    /// # Errors
    /// Those of [`Images::pull`].
    pub async fn look_up(
        &self,
        reference: &Reference,
        options: PullOptions,
    ) -> Result<(Digest, Vec<u8>), Error> {
        self.puller.look_up(reference, options).await
    }

    /// Pushes the image of this name; its digest stays what it is.
    ///
    /// # Errors
    /// [`Error::NoLocalImage`]; what the registry answers, in Docker's words.
    pub async fn push(
        &self,
        reference: &Reference,
        options: PushOptions,
        progress: ProgressSink,
    ) -> Result<Pushed, Error> {
        self.puller.push(reference, options, &progress).await
    }

    /// All tags of a repository at its registry.
    ///
    /// # Errors
    /// What the registry answers, in Docker's words.
    pub async fn tags(&self, reference: &Reference, auth: Option<Credentials>) -> Result<Vec<String>, Error> {
        self.puller.registries.repository(reference, auth).tags().await
    }

    /// What a reference stands for at its registry; nothing is pulled.
    ///
    /// # Errors
    /// What the registry answers, in Docker's words.
    pub async fn distribution(
        &self,
        reference: &Reference,
        auth: Option<Credentials>,
    ) -> Result<Distribution, Error> {
        self.puller.registries.repository(reference, auth).distribution().await
    }

    /// Proves credentials at a registry (`docker login`); an identity token is to be kept in place of the password.
    ///
    /// # Errors
    /// [`Error::LoginFailed`]; [`Error::Registry`] when it cannot be asked.
    pub async fn login(
        &self,
        server: &str,
        user: &str,
        credentials: &Credentials,
    ) -> Result<Option<String>, Error> {
        self.puller.registries.login(server, user, credentials).await
    }

    /// Searches Docker Hub, or the registry the term begins with.
    ///
    /// # Errors
    /// [`Error::Registry`] when it cannot be asked.
    pub async fn search(&self, term: &str, limit: u32) -> Result<Vec<Found>, Error> {
        self.puller.registries.search(term, limit).await
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

    /// The same as one of its platforms describes it.
    ///
    /// # Errors
    /// As [`get`](Images::get); [`Error::PlatformNotHere`].
    pub async fn get_for(&self, name_or_id: &str, platform: &Platform) -> Result<Image, Error> {
        let (store, text, platform) = (self.store.clone(), name_or_id.to_string(), platform.clone());
        blocking(move || {
            store.read(|db| {
                let (id, _) = records::find(db, &text)?;
                records::image_for(db, &id, Some(&platform)).map_err(|e| match e {
                    Error::PlatformNotHere { platform, .. } => {
                        Error::PlatformNotHere { image: text, platform }
                    }
                    e => e,
                })
            })
        })
        .await
    }

    /// The manifests of an image: those of all platforms, here or not, and attestations.
    pub async fn manifests(&self, id: &Digest) -> Result<Vec<ManifestSummary>, Error> {
        let (store, id) = (self.store.clone(), *id);
        blocking(move || store.read(|db| records::manifests(db, &id))).await
    }

    /// Gives an image another name; a name in use moves.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::Invalid`] for a target with a digest.
    pub async fn tag(&self, source: &str, target: &Reference) -> Result<(), Error> {
        if target.digest().is_some() || target.tag().is_none() {
            return Err(Error::Invalid("refusing to create a tag with a digest reference".into()));
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

    /// Removes a name, or an image with all its names (by ID), or its manifests of some platforms, by Docker's rules.
    /// `in_use` tells which containers use an image.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::Conflict`] with Docker's words.
    pub async fn remove(
        &self,
        name_or_id: &str,
        options: RemoveOptions,
        in_use: InUse<'_>,
    ) -> Result<Vec<Removed>, Error> {
        let (store, text) = (self.store.clone(), name_or_id.to_string());
        let (id, name) = blocking(move || store.read(|db| records::find(db, &text))).await?;
        let uses = in_use(&id);
        let store = self.store.clone();
        blocking(move || {
            let removed = store.write_less(|tx| {
                let by = if options.platforms.is_empty() { remove::remove } else { remove::remove_platforms };
                by(tx, id, name.as_ref(), &options, &uses)
            })?;
            store.collect()?;
            Ok(removed)
        })
        .await
    }

    /// Removes images that no container uses: those without names, or all.
    pub async fn prune(&self, options: PruneOptions, in_use: InUse<'_>) -> Result<Pruned, Error> {
        let images: Vec<Image> = self
            .list()
            .await?
            .into_iter()
            .filter(|i| remove::is_prunable(i, &options) && in_use(&i.id).is_empty())
            .collect();
        let store = self.store.clone();
        blocking(move || {
            let mut pruned = Pruned::default();
            for image in &images {
                pruned.removed.extend(store.write_less(|tx| remove::prune(tx, image))?);
            }
            pruned.space_reclaimed = store.collect()?.bytes;
            Ok(pruned)
        })
        .await
    }

    /// What [`Images::prune`] would do now.
    ///
    /// # Errors
    /// Faults of the disk.
    pub async fn prunable(&self, options: &PruneOptions, in_use: InUse<'_>) -> Result<Prunable, Error> {
        let these: BTreeSet<String> = self
            .list()
            .await?
            .into_iter()
            .filter(|i| remove::is_prunable(i, options) && in_use(&i.id).is_empty())
            .map(|i| i.id.to_string())
            .collect();
        let store = self.store.clone();
        blocking(move || {
            let bytes = store.read(|db| remove::needed_by(db, &these))?;
            Ok(Prunable { images: these.len(), bytes })
        })
        .await
    }

    /// Loads all images of an archive (OCI layout or docker-archive; plain, gzip or zstd).
    ///
    /// # Errors
    /// [`Error::Content`] and [`Error::Verification`] for archives that are not what they should be: then nothing of
    /// it was loaded.
    pub async fn load(
        &self,
        input: impl AsyncRead + Send + Unpin + 'static,
        options: LoadOptions,
        progress: ProgressSink,
    ) -> Result<Vec<Loaded>, Error> {
        let store = self.store.clone();
        let mut input = SyncIoBridge::new(input);
        let loaded = blocking(move || {
            let loaded = load::load(&store, &mut input, &options, &progress);
            if loaded.is_err() {
                // A client listens when it has sent everything: it would hear of a broken pipe instead of the reason.
                let _ = std::io::copy(&mut input, &mut std::io::sink());
            }
            loaded
        })
        .await?;
        settle_later(&self.store);
        Ok(loaded)
    }

    /// Writes one image as an archive, under names that it need not have here.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] before the first byte is written.
    pub async fn save_as(
        &self,
        id: &Digest,
        names: Vec<Reference>,
        annotations: BTreeMap<String, String>,
        out: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(), Error> {
        let (store, id) = (self.store.clone(), *id);
        let plan = blocking(move || save::plan_of(&store, vec![(id, names)], &annotations, None)).await?;
        self.write_archive(plan, out).await
    }

    /// Writes images as one archive, which both Docker and tools for OCI layouts read; of indexes only the manifest
    /// of a platform, where one is given.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] and [`Error::PlatformNotHere`] before the first byte is written.
    pub async fn save(
        &self,
        names: &[String],
        platform: Option<Platform>,
        out: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(), Error> {
        let (store, names) = (self.store.clone(), names.to_vec());
        let plan = blocking(move || save::plan(&store, &names, platform.as_ref())).await?;
        self.write_archive(plan, out).await
    }

    async fn write_archive(
        &self,
        plan: save::Plan,
        mut out: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(), Error> {
        let store = self.store.clone();
        let mut out = blocking(move || {
            let mut bridge = SyncIoBridge::new(&mut out);
            save::write(&store, &plan, &mut bridge)?;
            Ok(out)
        })
        .await?;
        out.shutdown().await.map_err(|e| Error::Layer(archive::Error::Write(e)))
    }

    /// The manifest a root file system was made from; `None` before it was first mounted.
    pub async fn mounted_manifest(&self, key: &str) -> Result<Option<Digest>, Error> {
        let (store, key) = (self.store.clone(), key.to_string());
        blocking(move || store.read(|db| mount::manifest(db, &key))).await
    }

    /// Makes an image of what is here (`docker import`, `docker commit`); its ID is its manifest's digest.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] for the base; [`Error::Layer`] for an archive that is none. Nothing is left behind.
    pub async fn make(&self, image: NewImage) -> Result<Digest, Error> {
        let store = self.store.clone();
        let id = blocking(move || make::make(&store, image)).await?;
        settle_later(&self.store);
        Ok(id)
    }

    /// What images use of the disk.
    pub async fn disk_usage(&self) -> Result<DiskUsage, Error> {
        let store = self.store.clone();
        blocking(move || store.read(remove::disk_usage)).await
    }

    /// Bytes on disk of an image's unpacked layers, the lowest first; a layer that is not unpacked counts 0.
    pub async fn layer_sizes(&self, image: &Image) -> Result<Vec<u64>, Error> {
        let (store, layers) = (self.store.clone(), image.diff_ids.clone());
        blocking(move || store.read(|db| records::layer_sizes(db, &layers))).await
    }

    /// What a layer of an image holds, at most `most` of it; `layer` counts from the lowest.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a layer that the image doesn't have; faults of the disk.
    pub async fn layer_files(&self, image: &Image, layer: usize, most: usize) -> Result<LayerFiles, Error> {
        let Some(diff_id) = image.diff_ids.get(layer) else {
            let has = image.diff_ids.len();
            return Err(Error::Invalid(format!("there is no layer {layer}: the image has {has}")));
        };
        files::list(self.store.clone(), image.manifest, diff_id.clone(), most).await
    }

    /// Bytes on disk that a container wrote (its upper folder).
    pub async fn container_size(&self, key: &str) -> Result<u64, Error> {
        mount::check_key(key)?;
        let (store, key) = (self.store.clone(), key.to_string());
        blocking(move || remove::container_size(&store, &key)).await
    }

    /// Reads what a URL stands for, as `docker import URL` does; redirects are followed, proxies used.
    ///
    /// # Errors
    /// [`Error::Registry`] when it cannot be had.
    pub async fn open_url(&self, url: &str) -> Result<impl AsyncRead + Send + Unpin + use<>, Error> {
        self.puller.registries.open_url(url).await
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
        blocking(move || store.discard(&key)).await
    }
}
