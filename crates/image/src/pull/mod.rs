//! Pulling: resolve, fetch and unpack side by side, record at once.
//!
//! ```text
//!  registry --chunks--+--> blob thread: sha256, ingest/ID ---.
//!    (resumed by      |                                       +--> one commit for the whole image
//!     Range)          '--> unpack thread: layers/ID ---------'
//! ```
//! Each layer unpacks into a folder of its own, so their order does not matter; the largest starts first, which
//! makes the whole finish earliest. A layer that two pulls want at the same time is fetched by one of them
//! ([`Flights`]); if that one is cancelled the other takes over.
//!
//! Of an index the manifest that fits comes, and the attestations about it: so an image that was built for one
//! platform is pushed on as it was pulled. Artifacts (manifests whose configuration is no image's) are kept as they
//! are, and not unpacked.

mod transfer;

use std::sync::Arc;

use rusqlite::OptionalExtension as _;
use tokio::sync::Semaphore;

use crate::error::blocking;
use crate::registry::{Registries, Repository};
use crate::spec::{ConfigDocument, Document, Manifest};
use crate::store::{Commit, NewDocument, NewManifest, Pin, Store};
use crate::{Credentials, Descriptor, Digest, Error, Platform, Reference};

pub(crate) use transfer::{Flights, fetch_config, permits, unpack_stored};

/// Attestations of one manifest that are fetched with it.
const ATTESTATIONS: usize = 16;

/// How to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Platform wanted; this machine's if none.
    pub platform: Option<Platform>,
    /// Credentials for the registry.
    pub auth: Option<Credentials>,
    /// The name that it gets; the reference's own if none.
    pub name: Option<Reference>,
}

/// A pulled image.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// Its ID: digest of the index or manifest the reference names.
    pub id: Digest,
    /// The reference, normalised.
    pub reference: Reference,
    /// Whether it was here already.
    pub up_to_date: bool,
}

/// One step of progress, in the words of dockerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What it is about: 12 digits of a layer's digest, or a tag.
    pub id: Option<String>,
    /// The words.
    pub status: String,
    /// Bytes done; 0 where there is nothing to count.
    pub current: u64,
    /// Bytes in all; 0 where there is nothing to count.
    pub total: u64,
    /// The layer that is pulled, where it is about one.
    pub layer: Option<Digest>,
}

/// Takes progress as it happens: is called often and must return at once.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// What pulling needs of the store's owner.
#[derive(Clone)]
pub(crate) struct Puller {
    pub(crate) store: Arc<Store>,
    pub(crate) registries: Arc<Registries>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) permits: Arc<Semaphore>,
}

/// What a reference stands for at its registry, as far as it is pulled.
struct Resolved {
    /// The index or manifest.
    target: Descriptor,
    /// The index, when it is one.
    index: Option<NewDocument>,
    /// The manifest that fits.
    manifest: Found,
    /// Attestations about it.
    attestations: Vec<Descriptor>,
    /// Held to the end: what is found here must not be collected meanwhile.
    pins: Vec<Pin>,
}

/// A manifest, as it came.
struct Found {
    digest: Digest,
    media_type: String,
    manifest: Manifest,
    data: Vec<u8>,
}

impl Found {
    /// Adds the documents: the manifest, and its configuration.
    fn record(self, config: Vec<u8>, commit: &mut Commit) {
        commit.documents.push(NewDocument {
            descriptor: descriptor(&self.media_type, self.digest, &self.data),
            data: self.data,
            children: manifest_children(&self.manifest),
        });
        commit.documents.push(NewDocument {
            descriptor: self.manifest.config,
            data: config,
            children: Vec::new(),
        });
    }
}

impl Puller {
    pub(crate) async fn pull(
        &self,
        reference: &Reference,
        options: PullOptions,
        progress: &ProgressSink,
    ) -> Result<Pulled, Error> {
        let say = |id: Option<String>, status: String| {
            progress(Progress { id, status, current: 0, total: 0, layer: None })
        };
        let wanted = options.platform.clone().unwrap_or_else(Platform::host);
        let repository = self.registries.repository(reference, options.auth.clone());
        let mut found = self.resolve(&repository, reference, &wanted).await?;
        let top = found.target.digest;
        let title = reference.digest().map_or_else(|| reference.target(), Digest::to_string);
        say(Some(title), format!("Pulling from {}", reference.path()));

        let name = options.name.as_ref().unwrap_or(reference).stored().to_string();
        let up_to_date = self.is_complete(&name, top, found.manifest.digest).await?;
        if !up_to_date {
            let mut commit =
                Commit { targets: vec![found.target], names: vec![(name, top)], ..Commit::default() };
            commit.documents.extend(found.index);
            if found.manifest.manifest.is_artifact() {
                let (blobs, config) =
                    self.fetch_plain(&repository, &found.manifest.manifest, progress).await?;
                commit.blobs.extend(blobs);
                found.manifest.record(config, &mut commit);
            } else {
                let platform = options.platform.as_ref();
                let pin =
                    self.fetch_image(&repository, found.manifest, platform, progress, &mut commit).await?;
                found.pins.push(pin);
            }
            for attestation in found.attestations {
                // The image runs without.
                if let Err(error) =
                    self.fetch_attestation(&repository, &attestation, &mut commit, &mut found.pins).await
                {
                    tracing::warn!(attestation = %attestation.digest, %error, "could not fetch an attestation");
                }
            }
            let store = self.store.clone();
            blocking(move || store.commit(&commit)).await?;
            settle_later(&self.store);
        }
        say(None, format!("Digest: {top}"));
        let familiar = reference.stored().familiar();
        say(
            None,
            if up_to_date {
                format!("Status: Image is up to date for {familiar}")
            } else {
                format!("Status: Downloaded newer image for {familiar}")
            },
        );
        Ok(Pulled { id: top, reference: reference.clone(), up_to_date })
    }

    /// What a reference stands for, and its configuration; nothing is kept.
    pub(crate) async fn look_up(
        &self,
        reference: &Reference,
        options: PullOptions,
    ) -> Result<(Digest, Vec<u8>), Error> {
        let wanted = options.platform.clone().unwrap_or_else(Platform::host);
        let repository = self.registries.repository(reference, options.auth);
        let found = self.resolve(&repository, reference, &wanted).await?;
        let manifest = &found.manifest.manifest;
        let data = self.config(&repository, manifest).await?;
        let config = read_config(&data, manifest, &repository.familiar())?;
        match options.platform.filter(|p| p.fit(&config.platform).is_none()) {
            Some(platform) => Err(Error::NoPlatform { platform: platform.to_string() }),
            None => Ok((found.target.digest, data)),
        }
    }

    /// Asks the registry what the reference stands for; what is here already is not fetched again.
    async fn resolve(
        &self,
        repository: &Repository,
        reference: &Reference,
        wanted: &Platform,
    ) -> Result<Resolved, Error> {
        let digest = match reference.digest() {
            Some(digest) => Some(*digest),
            None => repository.resolve().await?,
        };
        let mut pins: Vec<Pin> = digest.iter().map(|digest| self.store.pin([*digest])).collect();
        let (top, media_type, data) = match digest {
            Some(digest) => self.document(repository, digest).await?,
            None => fetched(repository.document(None).await?),
        };
        if digest != Some(top) {
            pins.push(self.store.pin([top]));
        }
        let name = reference.familiar();
        let (document, media_type) = Document::parse(&media_type, &data, &name)?;
        let target = descriptor(&media_type, top, &data);
        let resolved = match document {
            Document::Manifest(manifest) => Resolved {
                target,
                index: None,
                manifest: Found { digest: top, media_type, manifest: *manifest, data },
                attestations: Vec::new(),
                pins,
            },
            Document::Index(index) => {
                let chosen = choose(&index.manifests, wanted)?.digest;
                pins.push(self.store.pin([chosen]));
                let (_, media_type, child) = self.document(repository, chosen).await?;
                let (Document::Manifest(manifest), media_type) = Document::parse(&media_type, &child, &name)?
                else {
                    return Err(Error::content(name, "an index within an index"));
                };
                let about = chosen.to_string();
                let attestations =
                    index.manifests.iter().filter(|m| m.attests().is_some_and(|of| of == about));
                let attestations = attestations.take(ATTESTATIONS).cloned().collect();
                let children = index.manifests.iter().map(|m| m.digest).collect();
                Resolved {
                    index: Some(NewDocument { descriptor: target.clone(), data, children }),
                    target,
                    manifest: Found { digest: chosen, media_type, manifest: *manifest, data: child },
                    attestations,
                    pins,
                }
            }
        };
        let manifest = &resolved.manifest.manifest;
        let content = manifest.layers.iter().map(|l| l.digest).chain([manifest.config.digest]);
        let pin = self.store.pin(content);
        Ok(Resolved { pins: resolved.pins.into_iter().chain([pin]).collect(), ..resolved })
    }

    /// An index or manifest, from the store when it is here.
    async fn document(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<(Digest, String, Vec<u8>), Error> {
        match self.stored_document(digest).await? {
            Some((media_type, data)) => Ok((digest, media_type, data)),
            None => repository.document(Some(&digest)).await.map(fetched),
        }
    }

    /// Fetches and unpacks what a container needs.
    async fn fetch_image(
        &self,
        repository: &Repository,
        found: Found,
        platform: Option<&Platform>,
        progress: &ProgressSink,
        commit: &mut Commit,
    ) -> Result<Pin, Error> {
        let data = self.config(repository, &found.manifest).await?;
        let config = read_config(&data, &found.manifest, &repository.familiar())?;
        if let Some(platform) = platform.filter(|p| p.fit(&config.platform).is_none()) {
            return Err(Error::NoPlatform { platform: platform.to_string() });
        }
        let pin = self.store.pin(config.rootfs.diff_ids.iter().copied());
        self.fetch_layers(repository, &found.manifest, &config, progress, commit).await?;
        commit.manifests.push(NewManifest {
            digest: found.digest,
            config: found.manifest.config.digest,
            platform: config.platform,
            diff_ids: config.rootfs.diff_ids,
        });
        found.record(data, commit);
        Ok(pin)
    }

    /// Fetches an attestation: all of it is added, or nothing.
    async fn fetch_attestation(
        &self,
        repository: &Repository,
        attestation: &Descriptor,
        commit: &mut Commit,
        pins: &mut Vec<Pin>,
    ) -> Result<(), Error> {
        pins.push(self.store.pin([attestation.digest]));
        let (digest, media_type, data) = self.document(repository, attestation.digest).await?;
        let name = digest.to_string();
        let (Document::Manifest(manifest), media_type) = Document::parse(&media_type, &data, &name)? else {
            return Err(Error::content(name, "an index as an attestation"));
        };
        pins.push(self.store.pin(manifest_children(&manifest)));
        let silent: ProgressSink = Arc::new(|_| {});
        let (blobs, config) = self.fetch_plain(repository, &manifest, &silent).await?;
        commit.blobs.extend(blobs);
        Found { digest, media_type, manifest: *manifest, data }.record(config, commit);
        Ok(())
    }

    /// A manifest's configuration, from the store when it is here.
    async fn config(&self, repository: &Repository, manifest: &Manifest) -> Result<Vec<u8>, Error> {
        match self.stored_document(manifest.config.digest).await? {
            Some((_, data)) => Ok(data),
            None => fetch_config(repository, &manifest.config).await,
        }
    }

    /// Whether the name stands for this image already, with this manifest complete.
    async fn is_complete(&self, name: &str, top: Digest, manifest: Digest) -> Result<bool, Error> {
        let (store, name) = (self.store.clone(), name.to_string());
        blocking(move || {
            store.read(|db| {
                let named = db
                    .prepare_cached("SELECT 1 FROM image_name WHERE name = ?1 AND target = ?2")?
                    .query_row((name, top.to_string()), |_| Ok(()))
                    .optional()?;
                Ok(named.is_some() && crate::records::is_here(db, &manifest)?)
            })
        })
        .await
    }

    async fn stored_document(&self, digest: Digest) -> Result<Option<(String, Vec<u8>)>, Error> {
        let store = self.store.clone();
        blocking(move || crate::records::document(&store, &digest)).await
    }
}

/// Sees unpacked layers onto the disk. Not awaited, as their rows say that they may not be there yet; a runtime that
/// shuts down waits for it, and what is missed is unpacked again.
pub(crate) fn settle_later(store: &Arc<Store>) {
    let store = store.clone();
    drop(tokio::task::spawn_blocking(move || {
        if let Err(error) = store.settle() {
            tracing::warn!(%error, "could not sync unpacked layers");
        }
    }));
}

fn fetched(fetched: crate::registry::Fetched) -> (Digest, String, Vec<u8>) {
    (fetched.digest, fetched.media_type, fetched.data)
}

pub(crate) fn descriptor(media_type: &str, digest: Digest, data: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest,
        size: data.len() as u64,
        platform: None,
        urls: Vec::new(),
        annotations: Default::default(),
    }
}

/// What a manifest names: its configuration, then its layers.
pub(crate) fn manifest_children(manifest: &Manifest) -> Vec<Digest> {
    [manifest.config.digest].into_iter().chain(manifest.layers.iter().map(|l| l.digest)).collect()
}

/// The manifest of an index that fits a platform best.
fn choose<'a>(manifests: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor, Error> {
    manifests
        .iter()
        .filter_map(|m| m.platform.as_ref().and_then(|p| wanted.fit(p)).map(|fit| (fit, m)))
        .min_by_key(|(fit, _)| *fit)
        .map(|(_, m)| m)
        .ok_or_else(|| Error::NoPlatform { platform: wanted.to_string() })
}

/// Reads a configuration and holds it against its manifest.
pub(crate) fn read_config(data: &[u8], manifest: &Manifest, name: &str) -> Result<ConfigDocument, Error> {
    let mut config: ConfigDocument = serde_json::from_slice(data).map_err(|e| Error::content(name, e))?;
    if config.platform.os.is_empty() {
        config.platform.os = "linux".into();
    }
    if config.platform.os != "linux" {
        return Err(Error::Unsupported(format!(
            "image operating system {:?} cannot be used on this platform",
            config.platform.os
        )));
    }
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(Error::content(
            name,
            format!(
                "{} layers, but the configuration names {}: not a container image?",
                manifest.layers.len(),
                config.rootfs.diff_ids.len()
            ),
        ));
    }
    Ok(config)
}
