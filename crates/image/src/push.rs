//! Pushing: what the registry has is not sent again, and everything goes as it came: a pulled image pushed elsewhere
//! keeps its digest.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::stream::{StreamExt, TryStreamExt};

use rusqlite::Connection;

use crate::error::blocking;
use crate::pull::Puller;
use crate::pull::descriptor;
use crate::registry::{Repository, Sent, Source};
use crate::spec::{Document, Manifest};
use crate::store::{Pin, Store};
use crate::{Credentials, Descriptor, Digest, Error, Platform, Progress, ProgressSink, Reference, records};

/// Blobs sent at the same time (Docker's default).
const BLOBS_AT_ONCE: usize = 5;

/// How to push.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// Credentials for the registry.
    pub auth: Option<Credentials>,
    /// Push the manifest of this platform alone.
    pub platform: Option<Platform>,
}

/// A pushed image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Index or manifest that was pushed.
    pub descriptor: Descriptor,
    /// The image's index, when one of its manifests was pushed instead: not all of its platforms are here.
    pub instead_of: Option<Descriptor>,
}

/// Manifests (children first) and blobs to send.
struct Plan {
    documents: Vec<(Digest, String, Vec<u8>)>,
    configs: Vec<(Digest, Vec<u8>)>,
    layers: Vec<(Digest, u64)>,
    /// Other repositories of the same registry that this image has names in: layers may be mounted from there.
    siblings: Vec<String>,
    instead_of: Option<Descriptor>,
    _pin: Pin,
}

impl Puller {
    pub(crate) async fn push(
        &self,
        reference: &Reference,
        options: PushOptions,
        progress: &ProgressSink,
    ) -> Result<Pushed, Error> {
        let say = |id: Option<String>, status: String, current: u64, total: u64| {
            progress(Progress { id, status, current, total });
        };
        say(None, format!("The push refers to repository [{}]", reference.familiar_name()), 0, 0);
        let (store, name) = (self.store.clone(), reference.clone());
        let platform = options.platform;
        let plan = blocking(move || plan(&store, &name, platform.as_ref())).await?;
        let repository = self.registries.repository(reference, options.auth).for_push().await?;
        for (digest, _) in &plan.layers {
            say(Some(digest.short()), "Preparing".into(), 0, 0);
        }
        // Boxed: among many borrowed futures the compiler loses sight of their being Send (rust#100013).
        let mut transfers = Vec::new();
        for (digest, size) in &plan.layers {
            transfers.push(self.send_layer(&repository, *digest, *size, &plan, progress).boxed());
        }
        futures_util::stream::iter(transfers)
            .buffer_unordered(BLOBS_AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        for (digest, data) in &plan.configs {
            repository.send_blob(digest, data.len() as u64, &Source::Bytes(data), None, &|_| {}).await?;
        }
        let Some(((top, media_type, data), children)) = plan.documents.split_last() else {
            return Err(Error::NoSuchImage(reference.familiar()));
        };
        for (digest, media_type, data) in children {
            repository.send_document(&digest.to_string(), media_type, data).await?;
        }
        repository.send_document(&reference.target(), media_type, data).await?;
        let pushed = descriptor(media_type, *top, data);
        let tag = reference.tag().unwrap_or_default();
        say(None, format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size), 0, 0);
        Ok(Pushed { descriptor: pushed, instead_of: plan.instead_of })
    }

    /// Sends one layer, or has the registry take it from a sibling repository.
    async fn send_layer(
        &self,
        repository: &Repository,
        digest: Digest,
        size: u64,
        plan: &Plan,
        progress: &ProgressSink,
    ) -> Result<(), Error> {
        let say = |status: String, current: u64, total: u64| {
            progress(Progress { id: Some(digest.short()), status, current, total });
        };
        let path = self.store.blob_path(&digest);
        let sent = |bytes| say("Pushing".into(), bytes, size);
        let from = plan.siblings.first().map(String::as_str);
        let how = repository.send_blob(&digest, size, &Source::File(&path), from, &sent).await?;
        let words = match how {
            Sent::Existed => "Layer already exists".into(),
            Sent::Mounted => format!("Mounted from {}", from.unwrap_or_default()),
            Sent::Uploaded => "Pushed".into(),
        };
        say(words, 0, 0);
        Ok(())
    }
}

/// What is pushed for an image, by dockerd's rules: the index with all it names when all of that is here, else the
/// manifest that fits the platform best.
fn plan(store: &Arc<Store>, reference: &Reference, platform: Option<&Platform>) -> Result<Plan, Error> {
    let absent = || Error::NoLocalImage(reference.familiar_name());
    let id = store
        .read(|db| Ok(records::find(db, &reference.to_string()).ok().map(|(id, _)| id)))?
        .ok_or_else(absent)?;
    let pin = store.pin([id]);
    store.read(|db| {
        let mut plan = Plan {
            documents: Vec::new(),
            configs: Vec::new(),
            layers: Vec::new(),
            siblings: Vec::new(),
            instead_of: None,
            _pin: pin,
        };
        for name in records::names(db, &id)? {
            if name.domain() == reference.domain() && name.path() != reference.path() {
                plan.siblings.push(name.path().to_string());
            }
        }
        let (media_type, data) = records::document_in(db, &id)?.ok_or_else(absent)?;
        let index = match Document::parse(&media_type, &data, &reference.familiar())?.0 {
            Document::Index(index) => index,
            Document::Manifest(manifest) => {
                if let Some(platform) = platform {
                    let found = records::manifest_of(db, &id, platform)?;
                    if found.is_none_or(|(_, p)| platform.fit(&p).is_none()) {
                        return Err(Error::NoPlatform { platform: platform.to_string() });
                    }
                }
                plan.add(db, &manifest)?;
                plan.documents.push((id, media_type, data));
                return Ok(plan);
            }
        };
        let whole =
            index.manifests.iter().try_fold(true, |all, m| Ok::<_, Error>(all && is_here(db, &m.digest)?))?;
        let children: Vec<Digest> = if whole && platform.is_none() {
            index.manifests.iter().map(|m| m.digest).collect()
        } else {
            let wanted = platform.cloned().unwrap_or_else(Platform::host);
            let best = records::manifest_of(db, &id, &wanted)?
                .filter(|(_, p)| platform.is_none() || wanted.fit(p).is_some())
                .ok_or_else(|| Error::NoPlatform { platform: wanted.to_string() })?;
            vec![best.0]
        };
        for child in &children {
            let (child_type, child_data) = records::document_in(db, child)?.ok_or_else(absent)?;
            if let (Document::Manifest(manifest), _) =
                Document::parse(&child_type, &child_data, &child.to_string())?
            {
                plan.add(db, &manifest)?;
            }
            plan.documents.push((*child, child_type, child_data));
        }
        if whole && platform.is_none() {
            plan.documents.push((id, media_type, data));
        } else {
            plan.instead_of = Some(descriptor(&media_type, id, &data));
        }
        Ok(plan)
    })
}

/// Whether a manifest's document and everything it names are here.
fn is_here(db: &Connection, manifest: &Digest) -> Result<bool, Error> {
    let Some((media_type, data)) = records::document_in(db, manifest)? else { return Ok(false) };
    let Document::Manifest(manifest) = Document::parse(&media_type, &data, "manifest")?.0 else {
        return Ok(false);
    };
    for digest in crate::pull::manifest_children(&manifest) {
        let here = records::document_in(db, &digest)?.is_some()
            || db
                .prepare_cached("SELECT 1 FROM image_blob WHERE digest = ?1")?
                .exists([digest.to_string()])?;
        if !here {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Plan {
    /// Adds what a manifest names, each piece once.
    fn add(&mut self, db: &Connection, manifest: &Manifest) -> Result<(), Error> {
        let missing = |d: &Digest| Error::content("image", format!("{d} is not here"));
        let config = manifest.config.digest;
        if !self.configs.iter().any(|(d, _)| *d == config) {
            let (_, data) = records::document_in(db, &config)?.ok_or_else(|| missing(&config))?;
            self.configs.push((config, data));
        }
        for layer in &manifest.layers {
            if self.layers.iter().any(|(d, _)| *d == layer.digest) {
                continue;
            }
            let here = db
                .prepare_cached("SELECT 1 FROM image_blob WHERE digest = ?1")?
                .exists([layer.digest.to_string()])?;
            if !here {
                return Err(missing(&layer.digest));
            }
            self.layers.push((layer.digest, layer.size));
        }
        Ok(())
    }
}
