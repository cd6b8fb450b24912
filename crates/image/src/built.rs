//! Layers that builds make: an overlay's upper folder is kept as it is, and becomes a layer of an image when one is made
//! of it. Until then it has no digest, no archive and no blob: steps whose result nobody exports cost none.
//!
//! ```text
//! draft --(written to)--> keep --> layers/ID, image_built      <-- a build's cache holds it, by its number
//!                                    | make: archive, digests, blob
//!                                    '--> image_layer (the same folder), image_blob
//! ```
//! A folder goes when neither table has its number any more.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::OptionalExtension as _;
use serde_json::{Map, Value, json};

use crate::error::blocking;
use crate::make::serialise;
use crate::pack::{Packed, Packing, Wanted, pack_all};
use crate::pull::{descriptor, manifest_children, settle_later};
use crate::spec::{ConfigDocument, DOCKER_CONFIG, DOCKER_MANIFEST, Manifest, OCI_CONFIG, OCI_MANIFEST};
use crate::store::{Commit, Draft, Lease, NewBlob, NewDocument, NewManifest, Pin, Store};
use crate::{Descriptor, Digest, Error, Images, LayerFolders, Platform, Reference, RootFs, mount, records};

/// A part of a stack of layers, from the lowest up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All layers of an image: its ID or the digest of a manifest.
    Image(Digest),
    /// A layer that was kept.
    Built(i64),
}

/// Folders of a stack of layers, the topmost first, whose image parts stay for as long as this lives.
pub struct Stack {
    /// The folders.
    pub lower: Vec<PathBuf>,
    /// What a container finds below them.
    bottom: PathBuf,
    _pins: Vec<Pin>,
}

/// A layer that is being written; what is not kept goes.
pub struct NewBuilt {
    layer: Lease,
    work: Lease,
}

impl NewBuilt {
    /// The overlay of this layer upon a stack; `running`: with what a container's runtime mounts at.
    pub fn rootfs(&self, stack: &Stack, running: bool) -> RootFs {
        let bottom = running.then(|| stack.bottom.clone());
        RootFs {
            lower: stack.lower.iter().cloned().chain(bottom).collect(),
            upper: self.layer.path().to_owned(),
            work: self.work.path().to_owned(),
        }
    }

    /// The number it will have.
    pub fn id(&self) -> i64 {
        self.layer.id()
    }
}

/// An image to be made of a stack of layers.
pub struct NewBuiltImage {
    /// Its layers.
    pub parts: Vec<Part>,
    /// Its configuration (OCI image-spec, `config.md`) but for `rootfs`. Where entries of `history` that made a layer of
    /// this build have no time, they get that of the image.
    pub config: Map<String, Value>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Its documents have Docker's media types (schema 2), not OCI's.
    pub docker_types: bool,
    /// How its layers are compressed.
    pub packing: Packing,
    /// Names it gets; one in use moves.
    pub names: Vec<Reference>,
    /// Whether it is an image of its own, also without a name.
    pub keep: bool,
}

/// An image that was made.
pub struct BuiltImage {
    /// Its manifest, which is its ID.
    pub manifest: Descriptor,
    /// Its configuration.
    pub config: Descriptor,
    /// Its platform.
    pub platform: Platform,
    /// Annotations of what names it in a list.
    pub descriptor_annotations: BTreeMap<String, String>,
    /// What stands beside it, for the list that names both.
    attestations: Vec<Attestation>,
    _pins: Vec<Pin>,
}

/// What stands beside an image, and is recorded with the list that names both.
struct Attestation {
    descriptor: Descriptor,
    blobs: Vec<Arc<NewBlob>>,
    documents: Vec<NewDocument>,
    _pin: Pin,
}

impl BuiltImage {
    /// The manifest of what is said of it, where something is.
    pub fn attestation(&self) -> Option<&Descriptor> {
        self.attestations.first().map(|a| &a.descriptor)
    }
}

impl Images {
    /// Folders of a stack; layers of images are unpacked where they are not.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] for a part that is not here.
    pub async fn stack(&self, parts: &[Part]) -> Result<Stack, Error> {
        let mut pins = Vec::new();
        let mut numbers: Vec<i64> = Vec::new();
        for part in parts {
            let more = match part {
                Part::Built(id) => vec![*id],
                Part::Image(digest) => {
                    let (store, digest) = (self.store.clone(), *digest);
                    let (chain, pin) = blocking(move || {
                        let gone = || Error::NoSuchImage(digest.to_string());
                        let found = store.read(|db| records::manifest_of(db, &digest, &Platform::host()))?;
                        let manifest = found.ok_or_else(gone)?.0;
                        let pin = store.pin([manifest]);
                        Ok((mount::chain(&store, &manifest)?, pin))
                    })
                    .await?;
                    pins.push(pin);
                    mount::unpack(&self.store, &chain).await?;
                    let store = self.store.clone();
                    blocking(move || mount::numbers(&store, &chain)).await?
                }
            };
            for id in more {
                numbers.retain(|other| *other != id);
                numbers.push(id);
            }
        }
        let lower = numbers.iter().rev().map(|id| self.store.layer_path(*id)).collect();
        Ok(Stack { lower, bottom: self.store.bottom_path(), _pins: pins })
    }

    /// A new layer upon a stack.
    ///
    /// # Errors
    /// Faults of the disk.
    pub async fn new_built(&self, stack: &Stack) -> Result<NewBuilt, Error> {
        let (store, top) = (self.store.clone(), stack.lower.first().cloned());
        blocking(move || {
            let mut leases = store.lease(&[Draft::Layer, Draft::Blob(None)])?.into_iter();
            let (Some(layer), Some(work)) = (leases.next(), leases.next()) else {
                return Err(Error::Canceled);
            };
            for path in [layer.path(), work.path()] {
                mount::make_folder(&path.to_owned())?;
            }
            mount::adopt_root(top.as_ref(), &layer.path().to_owned())?;
            Ok(NewBuilt { layer, work })
        })
        .await
    }

    /// Keeps a layer that nobody writes to any more; gives its bytes on disk.
    ///
    /// # Errors
    /// Faults of the disk.
    pub async fn keep_built(&self, new: NewBuilt) -> Result<(i64, u64), Error> {
        let store = self.store.clone();
        let kept = blocking(move || {
            let bytes = disk_bytes(new.layer.path())?;
            let id = new.layer.id();
            store.write(|tx| {
                tx.prepare_cached("INSERT INTO image_built(id, disk_bytes, boot) VALUES(?1, ?2, ?3)")?
                    .execute((id, bytes as i64, store.boot()))?;
                new.layer.end(tx)
            })?;
            new.layer.kept();
            new.work.remove()?;
            Ok((id, bytes))
        })
        .await?;
        Ok(kept)
    }

    /// Those of these layers that are there, with their bytes on disk and whether an image has them too.
    ///
    /// # Errors
    /// Faults of the disk.
    pub async fn built(&self) -> Result<BTreeMap<i64, (u64, bool)>, Error> {
        let store = self.store.clone();
        blocking(move || {
            store.read(|db| {
                Ok(db
                    .prepare_cached(
                        "SELECT id, disk_bytes, id IN (SELECT id FROM image_layer) FROM image_built",
                    )?
                    .query_map([], |r| Ok((r.get(0)?, (r.get::<_, i64>(1)? as u64, r.get(2)?))))?
                    .collect::<Result<_, _>>()?)
            })
        })
        .await
    }

    /// Forgets layers; gives the bytes on disk that this freed. Those that an image has stay as its own.
    ///
    /// # Errors
    /// Faults of the disk.
    pub async fn forget_built(&self, ids: Vec<i64>) -> Result<u64, Error> {
        let store = self.store.clone();
        blocking(move || {
            let (folders, bytes) = store.write_less(|tx| {
                let (mut folders, mut freed) = (Vec::new(), 0);
                for id in &ids {
                    let bytes: Option<i64> = tx
                        .prepare_cached("DELETE FROM image_built WHERE id = ?1 RETURNING disk_bytes")?
                        .query_row([id], |r| r.get(0))
                        .optional()?;
                    let shared =
                        tx.prepare_cached("SELECT 1 FROM image_layer WHERE id = ?1")?.exists([id])?;
                    let (Some(bytes), false) = (bytes, shared) else { continue };
                    tx.prepare_cached("INSERT INTO image_lease(path) VALUES(?1)")?
                        .execute([format!("layers/{id}")])?;
                    folders.push((tx.last_insert_rowid(), store.layer_path(*id)));
                    freed += bytes as u64;
                }
                Ok((folders, freed))
            })?;
            store.remove_leased(folders)?;
            Ok(bytes)
        })
        .await
    }

    /// Makes an image of a stack of layers.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] for a part that is not here; faults of the disk.
    pub async fn make_built(&self, image: NewBuiltImage) -> Result<BuiltImage, Error> {
        let store = self.store.clone();
        let made = blocking(move || make(&store, image)).await?;
        settle_later(&self.store);
        Ok(made)
    }

    /// Makes a list of images of several platforms, and of what stands beside them.
    ///
    /// # Errors
    /// Faults of the disk.
    pub async fn make_index(
        &self,
        images: Vec<BuiltImage>,
        names: Vec<Reference>,
        annotations: BTreeMap<String, String>,
    ) -> Result<Descriptor, Error> {
        let store = self.store.clone();
        blocking(move || {
            let manifests: Vec<Descriptor> = images
                .iter()
                .map(|i| Descriptor {
                    platform: Some(i.platform.clone()),
                    annotations: i.descriptor_annotations.clone(),
                    ..i.manifest.clone()
                })
                .chain(images.iter().flat_map(|i| i.attestations.iter().map(|a| a.descriptor.clone())))
                .collect();
            let docker = images.iter().all(|i| i.manifest.media_type == DOCKER_MANIFEST);
            let index_type = if docker { crate::spec::DOCKER_INDEX } else { crate::spec::OCI_INDEX };
            let mut index = json!({
                "schemaVersion": 2, "mediaType": index_type, "manifests": manifests,
            });
            if !annotations.is_empty() {
                index["annotations"] = json!(annotations);
            }
            let data = serialise(&index)?;
            let index = descriptor(index_type, Digest::of(&data), &data);
            let children = manifests.iter().map(|m| m.digest).collect();
            let mut commit = Commit {
                documents: vec![NewDocument { descriptor: index.clone(), data, children }],
                targets: vec![index.clone()],
                names: names.into_iter().map(|n| (n.stored().to_string(), index.digest)).collect(),
                ..Commit::default()
            };
            // The images stay pinned until the list has them.
            let mut images = images;
            for attestation in images.iter_mut().flat_map(|i| &mut i.attestations) {
                commit.blobs.append(&mut attestation.blobs);
                commit.documents.append(&mut attestation.documents);
            }
            store.commit(&commit)?;
            Ok(index)
        })
        .await
    }

    /// An image's manifest for a platform and its configuration document, by ID, or digest of a manifest.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] when there is none.
    pub async fn document(&self, id: &Digest, platform: &Platform) -> Result<(Digest, Vec<u8>), Error> {
        let (store, id, platform) = (self.store.clone(), *id, platform.clone());
        blocking(move || {
            store.read(|db| {
                let gone = || Error::NoSuchImage(id.to_string());
                let manifest = records::manifest_of(db, &id, &platform)?.ok_or_else(gone)?.0;
                let (_, data) = records::document_in(db, &manifest)?.ok_or_else(gone)?;
                let read: Manifest =
                    serde_json::from_slice(&data).map_err(|e| Error::content("manifest", e))?;
                let (_, config) = records::document_in(db, &read.config.digest)?.ok_or_else(gone)?;
                Ok((manifest, config))
            })
        })
        .await
    }
}

/// Bytes on disk of all below a folder, itself included; hard links once.
fn disk_bytes(folder: &Path) -> Result<u64, Error> {
    let own = fs::symlink_metadata(folder).map_err(|e| Error::os("stat", folder, e))?.blocks() * 512;
    let (mut pending, mut total, mut seen) = (vec![folder.to_owned()], own, std::collections::HashSet::new());
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).map_err(|e| Error::os("read", &dir, e))? {
            let entry = entry.map_err(|e| Error::os("read", &dir, e))?;
            let meta = entry.metadata().map_err(|e| Error::os("stat", entry.path(), e))?;
            if meta.is_dir() {
                pending.push(entry.path());
            } else if meta.nlink() > 1 && !seen.insert((meta.dev(), meta.ino())) {
                continue;
            }
            total += meta.blocks() * 512;
        }
    }
    Ok(total)
}

fn make(store: &Arc<Store>, image: NewBuiltImage) -> Result<BuiltImage, Error> {
    let mut pins = Vec::new();
    // What is to be done for each layer; images' own are there.
    let mut wanted: Vec<Wanted> = Vec::new();
    for part in &image.parts {
        match part {
            Part::Built(id) => wanted.push(Wanted::Built(*id)),
            Part::Image(digest) => {
                let gone = || Error::NoSuchImage(digest.to_string());
                let found = store.read(|db| records::manifest_of(db, digest, &Platform::host()))?;
                let found = found.ok_or_else(gone)?.0;
                pins.push(store.pin([found]));
                let (manifest, config) = store.read(|db| {
                    let (_, data) = records::document_in(db, &found)?.ok_or_else(gone)?;
                    let manifest: Manifest =
                        serde_json::from_slice(&data).map_err(|e| Error::content("manifest", e))?;
                    let (_, data) = records::document_in(db, &manifest.config.digest)?.ok_or_else(gone)?;
                    let config: ConfigDocument =
                        serde_json::from_slice(&data).map_err(|e| Error::content("configuration", e))?;
                    Ok((manifest, config))
                })?;
                for (descriptor, diff_id) in manifest.layers.into_iter().zip(config.rootfs.diff_ids) {
                    let anew = image.packing.changes(&descriptor);
                    let there = Packed { descriptor, diff_id, built: None, blob: None };
                    wanted.push(if anew { Wanted::Anew(there) } else { Wanted::There(there) });
                }
            }
        }
    }
    let layers = pack_all(store, wanted, image.packing, &mut pins)?;

    let mut commit = Commit::default();
    let diff_ids: Vec<Digest> = layers.iter().map(|l| l.diff_id).collect();
    let (manifest_type, config_type) = match image.docker_types {
        true => (DOCKER_MANIFEST, DOCKER_CONFIG),
        false => (OCI_MANIFEST, OCI_CONFIG),
    };
    // A base image's layers may be of the other kind: an image is one of them alone.
    let one_kind = |layer: &Descriptor| Descriptor {
        media_type: crate::spec::layer_type(&layer.media_type, image.docker_types).to_owned(),
        ..layer.clone()
    };
    let descriptors: Vec<Descriptor> = layers.iter().map(|l| one_kind(&l.descriptor)).collect();
    let mut config = image.config;
    config.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": diff_ids }));
    let config_data = serialise(&config)?;
    let platform = serde_json::from_slice::<ConfigDocument>(&config_data)
        .map_err(|e| Error::content("image configuration", e))?
        .platform;
    let config = descriptor(config_type, Digest::of(&config_data), &config_data);
    let mut document = json!({
        "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": descriptors,
    });
    if !image.annotations.is_empty() {
        document["annotations"] = json!(image.annotations);
    }
    let manifest_data = serialise(&document)?;
    let manifest: Manifest =
        serde_json::from_slice(&manifest_data).map_err(|e| Error::content("manifest", e))?;
    let target = descriptor(manifest_type, Digest::of(&manifest_data), &manifest_data);
    pins.push(store.pin([target.digest, config.digest]));
    for layer in layers {
        if let Some(id) = layer.built {
            commit.built.push((id, layer.diff_id));
        }
        commit.blobs.extend(layer.blob.map(Arc::new));
    }
    commit.documents.push(NewDocument {
        descriptor: target.clone(),
        data: manifest_data,
        children: manifest_children(&manifest),
    });
    commit.manifests.push(NewManifest {
        digest: target.digest,
        config: config.digest,
        platform: platform.clone(),
        diff_ids,
    });
    commit.documents.push(NewDocument {
        descriptor: config.clone(),
        data: config_data,
        children: Vec::new(),
    });
    if image.keep || !image.names.is_empty() {
        commit.targets.push(target.clone());
    }
    commit.names.extend(image.names.iter().map(|n| (n.stored().to_string(), target.digest)));
    store.commit(&commit)?;
    Ok(BuiltImage {
        manifest: target,
        config,
        platform,
        descriptor_annotations: BTreeMap::new(),
        attestations: Vec::new(),
        _pins: pins,
    })
}

/// Media type of a statement (in-toto).
const STATEMENT: &str = "application/vnd.in-toto+json";

impl Images {
    /// The layers of an image that was made, and what each has.
    ///
    /// # Errors
    /// Faults of the disk.
    pub async fn layers_of(&self, image: &BuiltImage) -> Result<LayerFolders, Error> {
        LayerFolders::open(self.store.clone(), image.manifest.digest).await
    }

    /// Puts statements beside an image that was made, each with its type, as BuildKit does: in a manifest of its own that
    /// names the image's.
    ///
    /// # Errors
    /// Faults of the disk.
    pub async fn attest(
        &self,
        image: &mut BuiltImage,
        statements: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Error> {
        let (store, about) = (self.store.clone(), image.manifest.digest);
        image.attestations.push(blocking(move || attestation(&store, &about, &statements)).await?);
        Ok(())
    }
}

fn attestation(
    store: &Arc<Store>,
    about: &Digest,
    statements: &[(String, Vec<u8>)],
) -> Result<Attestation, Error> {
    let digests: Vec<Digest> = statements.iter().map(|(_, data)| Digest::of(data)).collect();
    let config_data = serialise(&json!({
        "architecture": "unknown", "os": "unknown", "config": {},
        "rootfs": { "type": "layers", "diff_ids": digests },
    }))?;
    let config = descriptor(OCI_CONFIG, Digest::of(&config_data), &config_data);
    let layers: Vec<Descriptor> = statements
        .iter()
        .zip(&digests)
        .map(|((kind, data), digest)| {
            let mut layer = descriptor(STATEMENT, *digest, data);
            layer.annotations.insert("in-toto.io/predicate-type".into(), kind.clone());
            layer
        })
        .collect();
    let data = serialise(&json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
    }))?;
    let manifest: Manifest = serde_json::from_slice(&data).map_err(|e| Error::content("manifest", e))?;
    let mut target = descriptor(OCI_MANIFEST, Digest::of(&data), &data);
    let pin = store.pin(digests.iter().copied().chain([target.digest, config.digest]));
    let mut blobs: Vec<Arc<NewBlob>> = Vec::new();
    for ((_, statement), digest) in statements.iter().zip(&digests) {
        // The same may be said twice.
        if blobs.iter().any(|blob| blob.digest == *digest) {
            continue;
        }
        let lease = store.lease(&[Draft::Blob(Some(*digest))])?.pop().ok_or(Error::Canceled)?;
        let path = lease.path().to_path_buf();
        let written = File::create_new(&path).and_then(|mut file| {
            file.write_all(statement)?;
            file.sync_data()
        });
        written.map_err(|e| Error::os("write", &path, e))?;
        blobs.push(Arc::new(NewBlob { lease, digest: *digest, size: statement.len() as u64 }));
    }
    let documents = vec![
        NewDocument { descriptor: target.clone(), data, children: manifest_children(&manifest) },
        NewDocument { descriptor: config, data: config_data, children: Vec::new() },
    ];
    let unknown = || "unknown".to_owned();
    target.platform = Some(Platform { os: unknown(), architecture: unknown(), variant: String::new() });
    target.annotations = crate::spec::attestation_of(about);
    Ok(Attestation { descriptor: target, blobs, documents, _pin: pin })
}
