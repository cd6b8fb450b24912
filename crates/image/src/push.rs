//! Pushing: what the registry has is not sent again, and everything goes as it came: a pulled image pushed elsewhere
//! keeps its digest.

use std::collections::BTreeSet;
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
/// Other repositories that one push may take blobs from: its token names them all.
const MOUNTS: usize = 4;

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
    layers: Vec<Layer>,
    /// Layers that are not for registries: named in the manifest, not sent.
    foreign: BTreeSet<Digest>,
    instead_of: Option<Descriptor>,
    _pin: Pin,
}

/// A blob to send.
struct Layer {
    digest: Digest,
    size: u64,
    /// Other repositories of the same registry in which an image with this layer has a name: it may be mounted from
    /// there.
    siblings: Vec<String>,
}

impl Puller {
    pub(crate) async fn push(
        &self,
        reference: &Reference,
        options: PushOptions,
        progress: &ProgressSink,
    ) -> Result<Pushed, Error> {
        let say = |id: Option<String>, status: String, current: u64, total: u64| {
            progress(Progress { id, status, current, total, layer: None });
        };
        say(None, format!("The push refers to repository [{}]", reference.familiar_name()), 0, 0);
        let (store, name) = (self.store.clone(), reference.clone());
        let platform = options.platform;
        let plan = blocking(move || plan(&store, &name, platform.as_ref())).await?;
        let mounts: BTreeSet<String> = plan.layers.iter().flat_map(|l| l.siblings.iter().cloned()).collect();
        let mounts = mounts.into_iter().take(MOUNTS).collect();
        let repository = self.registries.repository(reference, options.auth).for_push(mounts).await?;
        for layer in &plan.layers {
            say(Some(layer.digest.short()), "Preparing".into(), 0, 0);
        }
        for digest in &plan.foreign {
            say(Some(digest.short()), "Skipped foreign layer".into(), 0, 0);
        }
        // Boxed: among many borrowed futures the compiler loses sight of their being Send (rust#100013).
        let mut transfers = Vec::new();
        for layer in &plan.layers {
            transfers.push(self.send_layer(&repository, layer, progress).boxed());
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
        layer: &Layer,
        progress: &ProgressSink,
    ) -> Result<(), Error> {
        let (digest, size) = (layer.digest, layer.size);
        let say = |status: String, current: u64, total: u64| {
            progress(Progress { id: Some(digest.short()), status, current, total, layer: None });
        };
        let path = self.store.blob_path(&digest);
        let sent = |bytes| say("Pushing".into(), bytes, size);
        let from = layer.siblings.first().map(String::as_str);
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
            foreign: BTreeSet::new(),
            instead_of: None,
            _pin: pin,
        };
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
                plan.add(db, &manifest, reference)?;
                plan.documents.push((id, media_type, data));
                return Ok(plan);
            }
        };
        let whole = index
            .manifests
            .iter()
            .try_fold(true, |all, m| Ok::<_, Error>(all && records::is_here(db, &m.digest)?))?;
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
                plan.add(db, &manifest, reference)?;
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

impl Plan {
    /// Adds what a manifest names, each piece once.
    fn add(&mut self, db: &Connection, manifest: &Manifest, to: &Reference) -> Result<(), Error> {
        let missing = |d: &Digest| Error::content("image", format!("{d} is not here"));
        let config = manifest.config.digest;
        if !self.configs.iter().any(|(d, _)| *d == config) {
            let (_, data) = records::document_in(db, &config)?.ok_or_else(|| missing(&config))?;
            self.configs.push((config, data));
        }
        for layer in &manifest.layers {
            if layer.is_foreign() {
                self.foreign.insert(layer.digest);
                continue;
            }
            if self.layers.iter().any(|l| l.digest == layer.digest) {
                continue;
            }
            if !records::has_blob(db, &layer.digest)? {
                return Err(missing(&layer.digest));
            }
            let siblings = siblings(db, &layer.digest, to)?;
            self.layers.push(Layer { digest: layer.digest, size: layer.size, siblings });
        }
        Ok(())
    }
}

/// Repositories of the registry of `to`, other than its own, in which an image with this blob has a name.
fn siblings(db: &Connection, blob: &Digest, to: &Reference) -> Result<Vec<String>, Error> {
    let names: Vec<String> = db
        .prepare_cached(
            "WITH RECURSIVE holders(digest) AS (
               VALUES(?1) UNION SELECT parent FROM image_child JOIN holders ON child = holders.digest)
             SELECT name FROM image_name WHERE target IN holders AND substr(name, 1, length(?2)) = ?2 ORDER BY name",
        )?
        .query_map((blob.to_string(), format!("{}/", to.domain())), |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    let mut paths = Vec::new();
    for name in names {
        let path = Reference::parse(&name)?.path().to_owned();
        if path != to.path() && !paths.contains(&path) {
            paths.push(path);
        }
    }
    Ok(paths)
}
