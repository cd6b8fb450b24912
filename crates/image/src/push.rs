//! Pushing: what the registry has is not sent again, and everything goes as it came: a pulled image pushed elsewhere
//! keeps its digest.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::stream::{StreamExt, TryStreamExt};

use crate::error::blocking;
use crate::pull::Puller;
use crate::registry::{Repository, Sent, Source};
use crate::spec::{Document, Manifest};
use crate::store::{Pin, Store};
use crate::{Credentials, Digest, Error, Progress, ProgressSink, Reference, records};

/// Blobs sent at the same time (Docker's default).
const BLOBS_AT_ONCE: usize = 5;

/// How to push.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// Credentials for the registry.
    pub auth: Option<Credentials>,
}

/// A pushed image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Digest of the index or manifest that was pushed.
    pub digest: Digest,
    /// Its length, bytes.
    pub size: u64,
}

/// Manifests (children first) and blobs to send.
struct Plan {
    documents: Vec<(Digest, String, Vec<u8>)>,
    configs: Vec<(Digest, Vec<u8>)>,
    layers: Vec<(Digest, u64)>,
    /// Other repositories of the same registry that this image has names in: layers may be mounted from there.
    siblings: Vec<String>,
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
        let plan = blocking(move || plan(&store, &name)).await?;
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
        let pushed = Pushed { digest: *top, size: data.len() as u64 };
        let tag = reference.tag().unwrap_or_default();
        say(None, format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size), 0, 0);
        Ok(pushed)
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

fn plan(store: &Arc<Store>, reference: &Reference) -> Result<Plan, Error> {
    let absent = || Error::NoLocalImage(reference.familiar_name());
    let id = store
        .read(|db| Ok(records::find(db, &reference.to_string()).ok().map(|(id, _)| id)))?
        .ok_or_else(absent)?;
    let pin = store.pin([id]);
    store.read(|db| {
        let mut plan =
            Plan { documents: Vec::new(), configs: Vec::new(), layers: Vec::new(), siblings: Vec::new(), _pin: pin };
        for name in records::names(db, &id)? {
            if name.domain() == reference.domain() && name.path() != reference.path() {
                plan.siblings.push(name.path().to_string());
            }
        }
        let (media_type, data) = records::document_in(db, &id)?.ok_or_else(absent)?;
        let mut seen = BTreeSet::new();
        let mut add = |manifest: &Manifest, plan: &mut Plan| -> Result<(), Error> {
            let missing = |d: &Digest| Error::content("image", format!("{d} is not here"));
            let config = manifest.config.digest;
            if seen.insert(config) {
                let (_, data) = records::document_in(db, &config)?.ok_or_else(|| missing(&config))?;
                plan.configs.push((config, data));
            }
            for layer in &manifest.layers {
                if !seen.insert(layer.digest) {
                    continue;
                }
                let here = db
                    .prepare_cached("SELECT 1 FROM image_blob WHERE digest = ?1")?
                    .exists([layer.digest.to_string()])?;
                if !here {
                    return Err(missing(&layer.digest));
                }
                plan.layers.push((layer.digest, layer.size));
            }
            Ok(())
        };
        match Document::parse(&media_type, &data, &reference.familiar())?.0 {
            Document::Manifest(manifest) => add(&manifest, &mut plan)?,
            Document::Index(index) => {
                for child in &index.manifests {
                    // An index whose manifests are not all there would be refused by the registry.
                    let Some((child_type, child_data)) = records::document_in(db, &child.digest)? else {
                        return Err(Error::Unsupported(format!(
                            "{} is a multi-platform image of which only some platforms are here: pull the others, or push the manifest of one platform",
                            reference.familiar()
                        )));
                    };
                    if let (Document::Manifest(manifest), _) =
                        Document::parse(&child_type, &child_data, &child.digest.to_string())?
                    {
                        add(&manifest, &mut plan)?;
                    }
                    plan.documents.push((child.digest, child_type, child_data));
                }
            }
        }
        plan.documents.push((id, media_type, data));
        Ok(plan)
    })
}
