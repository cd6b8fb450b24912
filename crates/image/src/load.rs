//! Loading archives: OCI layouts, and docker-archives without one (`manifest.json` alone).
//!
//! Members come in any order, so all are spooled to one leased folder, hashed as they pass, and looked at when the
//! archive has ended. Nothing in it is believed: content is found by its digest, or by the path a docker-archive
//! names and then gets its digest here.

mod early;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use archive::{Kind, Limits};
use serde::Deserialize;

use crate::digest::Hasher;
use crate::layer::{decompress, unpack};
use crate::pull::{descriptor, manifest_children, read_config};
use crate::spec::{
    DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, DOCUMENT_BYTES, Document, Index,
    Manifest, OCI_LAYER_ZSTD,
};
use crate::store::{Commit, Draft, Lease, NewBlob, NewDocument, NewLayer, NewManifest, Store};
use crate::{Descriptor, Digest, Error, Platform, Progress, ProgressSink, Reference, records};
use early::Early;

/// Files in an archive of images.
const FILES: u64 = 64 * 1024;
/// Links followed from one name to its file (old archives link equal layers).
const LINKS: usize = 8;
/// Layers unpacked at the same time.
const UNPACK_AT_ONCE: usize = 4;
/// Bytes read from the archive at once.
const BUFFER: usize = 256 * 1024;

/// How to load.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Only this platform's manifests.
    pub platform: Option<Platform>,
}

/// A loaded image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its ID.
    pub id: Digest,
    /// The name the archive gives it; Docker says `Loaded image: NAME`, else `Loaded image ID: sha256:...`.
    pub reference: Option<Reference>,
}

/// A file of the archive.
#[derive(Clone)]
struct Spooled {
    file: PathBuf,
    digest: Digest,
    size: u64,
}

/// What an archive holds, to be recorded at once.
#[derive(Default)]
struct Found {
    commit: Commit,
    /// Blobs of artifacts and attestations: kept, not unpacked.
    plain: Vec<Digest>,
}

/// How much of a manifest is in the archive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// All of it, and containers can be made of it.
    Image,
    /// All of it: an artifact or attestation.
    Plain,
    /// Not all, or not for the platform asked for.
    Nothing,
}

struct Spool {
    files: HashMap<String, Spooled>,
    links: HashMap<String, String>,
    by_digest: HashMap<Digest, Spooled>,
    lease: Lease,
}

/// Reads the whole archive and records what it holds.
pub(crate) fn load(
    store: &Arc<Store>,
    input: impl Read + Send,
    options: &LoadOptions,
    progress: &ProgressSink,
) -> Result<Vec<Loaded>, Error> {
    let early = Early::default();
    let spool = std::thread::scope(|scope| {
        early.start(scope, store);
        let spool = Spool::read(store, input, &early);
        early.close();
        spool
    })?;
    let mut found = Found::default();
    let loaded = match spool.find("index.json") {
        Some(index) => oci_layout(&spool, index, options, &mut found)?,
        None => docker_archive(&spool, &mut found)?,
    };
    if loaded.is_empty() {
        return Err(Error::Invalid("the archive holds no image for this platform".into()));
    }
    let Found { mut commit, plain } = found;
    let pins: Vec<Digest> = commit
        .documents
        .iter()
        .flat_map(|d| d.children.iter().copied().chain([d.descriptor.digest]))
        .chain(commit.manifests.iter().flat_map(|m| m.diff_ids.iter().copied()))
        .collect();
    let _pin = store.pin(pins);
    keep_layers(store, &spool, &early, &mut commit, &plain, progress)?;
    store.commit(&commit)?;
    spool.lease.remove()?;
    Ok(loaded)
}

impl Spool {
    fn read(store: &Arc<Store>, input: impl Read + Send, early: &Early) -> Result<Spool, Error> {
        let broken = |e: io::Error| Error::Layer(archive::Error::Read(e));
        let lease = store.lease(&[Draft::Blob(None)])?.pop().ok_or(Error::Canceled)?;
        let folder = lease.path().to_path_buf();
        fs::create_dir(&folder).map_err(|e| Error::os("mkdir", &folder, e))?;
        let input = decompress(BufReader::with_capacity(BUFFER, input)).map_err(broken)?;
        let limits = Limits { entries: FILES, ..Limits::default() };
        let mut reader = archive::Reader::new(BufReader::with_capacity(BUFFER, input), limits);
        let mut spool =
            Spool { files: HashMap::new(), links: HashMap::new(), by_digest: HashMap::new(), lease };
        let mut buffer = vec![0; BUFFER];
        let mut number = 0u64;
        while let Some(entry) = reader.next_entry()? {
            let Some(name) = clean(&entry.path) else { continue };
            match entry.kind {
                Kind::File if entry.sparse.is_none() => {
                    number += 1;
                    // Names of our own: the archive's never meet the file system.
                    let path = folder.join(number.to_string());
                    let mut file = File::create_new(&path).map_err(|e| Error::os("create", &path, e))?;
                    let mut hasher = Hasher::default();
                    loop {
                        let n = reader.read_data(&mut buffer)?;
                        if n == 0 {
                            break;
                        }
                        hasher.update(&buffer[..n]);
                        file.write_all(&buffer[..n]).map_err(|e| Error::os("write", &path, e))?;
                    }
                    let spooled = Spooled { file: path, digest: hasher.finish(), size: entry.size };
                    early.offer(&spooled);
                    spool.by_digest.insert(spooled.digest, spooled.clone());
                    spool.files.insert(name, spooled);
                }
                Kind::Symlink | Kind::Hardlink => {
                    let base = match entry.kind {
                        Kind::Symlink => name.rsplit_once('/').map_or("", |(folder, _)| folder),
                        _ => "",
                    };
                    let target = [base.as_bytes(), &entry.link].join(&b'/');
                    if let Some(target) = clean(&target) {
                        spool.links.insert(name, target);
                    }
                }
                _ => {}
            }
        }
        if spool.files.is_empty() {
            return Err(Error::Invalid("the archive is empty: not a tar of images".into()));
        }
        Ok(spool)
    }

    fn find(&self, name: &str) -> Option<&Spooled> {
        let mut name = name;
        for _ in 0..LINKS {
            if let Some(file) = self.files.get(name) {
                return Some(file);
            }
            name = self.links.get(name)?;
        }
        None
    }

    fn document(&self, file: &Spooled, what: &str) -> Result<Vec<u8>, Error> {
        if file.size > DOCUMENT_BYTES {
            return Err(Error::content(what, format!("larger than {DOCUMENT_BYTES} bytes")));
        }
        fs::read(&file.file).map_err(|e| Error::os("read", &file.file, e))
    }
}

/// A member's path with `.` and `..` applied; none for one that leads out or is no text.
fn clean(path: &[u8]) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in std::str::from_utf8(path).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Images of `index.json`: its manifests and indexes, with the names their annotations give.
fn oci_layout(
    spool: &Spool,
    index: &Spooled,
    options: &LoadOptions,
    found: &mut Found,
) -> Result<Vec<Loaded>, Error> {
    let data = spool.document(index, "index.json")?;
    let index: Index = serde_json::from_slice(&data).map_err(|e| Error::content("index.json", e))?;
    // Names that only a docker-archive's part of the same file knows.
    let mut names: HashMap<Digest, Vec<Reference>> = HashMap::new();
    for image in docker_manifests(spool)?.unwrap_or_default() {
        if let Some(config) = clean(image.config.as_bytes()).and_then(|c| spool.find(&c)) {
            names.entry(config.digest).or_default().extend(tags(&image)?);
        }
    }
    let mut loaded = Vec::new();
    for entry in index.manifests {
        let Some(target) = image_tree(spool, &entry, options, found)? else { continue };
        let mut references: Vec<Reference> = Vec::new();
        let annotation = |key: &str| entry.annotations.get(key);
        if let Some(name) = annotation("io.containerd.image.name") {
            references.push(Reference::parse(name)?);
        } else if let Some(name) =
            annotation("org.opencontainers.image.ref.name").filter(|n| n.contains([':', '/']))
        {
            references.push(Reference::parse(name)?);
        } else {
            let config = found.commit.manifests.iter().find(|m| m.digest == entry.digest).map(|m| m.config);
            references.extend(config.and_then(|c| names.get(&c)).into_iter().flatten().cloned());
        }
        name(&mut found.commit, &mut loaded, target, references);
    }
    Ok(loaded)
}

fn name(commit: &mut Commit, loaded: &mut Vec<Loaded>, target: Descriptor, references: Vec<Reference>) {
    let id = target.digest;
    commit.targets.push(target);
    if references.is_empty() {
        loaded.push(Loaded { id, reference: None });
    }
    for reference in references {
        commit.names.push((reference.stored().to_string(), id));
        loaded.push(Loaded { id, reference: Some(reference) });
    }
}

/// Adds an index or manifest with all that is here of it; `None` when no manifest is complete.
fn image_tree(
    spool: &Spool,
    entry: &Descriptor,
    options: &LoadOptions,
    found: &mut Found,
) -> Result<Option<Descriptor>, Error> {
    let Some(file) = spool.by_digest.get(&entry.digest) else { return Ok(None) };
    let what = entry.digest.to_string();
    let data = spool.document(file, &what)?;
    let (document, media_type) = Document::parse(&entry.media_type, &data, &what)?;
    let target = descriptor(&media_type, entry.digest, &data);
    match document {
        Document::Manifest(manifest) => {
            if manifest_tree(spool, &manifest, &target, data, options, found)? == Kept::Nothing {
                return Ok(None);
            }
        }
        Document::Index(index) => {
            let mut complete = false;
            for child in &index.manifests {
                let Some(file) = spool.by_digest.get(&child.digest) else { continue };
                let what = child.digest.to_string();
                let data = spool.document(file, &what)?;
                let (Document::Manifest(manifest), media_type) =
                    Document::parse(&child.media_type, &data, &what)?
                else {
                    return Err(Error::content(what, "an index within an index"));
                };
                let described = descriptor(&media_type, child.digest, &data);
                // BuildKit's attestations say that they are images, for an unknown platform.
                let attests = child.attests().is_some();
                let kept = if attests {
                    plain_tree(spool, &manifest, &described, data, found)?
                } else {
                    manifest_tree(spool, &manifest, &described, data, options, found)?
                };
                complete |= kept == Kept::Image || (kept == Kept::Plain && !attests);
            }
            if !complete {
                return Ok(None);
            }
            found.commit.documents.push(NewDocument {
                descriptor: target.clone(),
                data,
                children: index.manifests.iter().map(|m| m.digest).collect(),
            });
        }
    }
    Ok(Some(target))
}

/// Adds a manifest whose content is all here.
fn manifest_tree(
    spool: &Spool,
    manifest: &Manifest,
    descriptor: &Descriptor,
    data: Vec<u8>,
    options: &LoadOptions,
    found: &mut Found,
) -> Result<Kept, Error> {
    if manifest.is_artifact() {
        return plain_tree(spool, manifest, descriptor, data, found);
    }
    let what = descriptor.digest.to_string();
    let Some(config_data) = complete(spool, manifest, &what)? else { return Ok(Kept::Nothing) };
    let config = read_config(&config_data, manifest, &what)?;
    if options.platform.as_ref().is_some_and(|p| p.fit(&config.platform).is_none()) {
        return Ok(Kept::Nothing);
    }
    found.record(manifest, descriptor, data, config_data);
    found.commit.manifests.push(NewManifest {
        digest: descriptor.digest,
        config: manifest.config.digest,
        platform: config.platform,
        diff_ids: config.rootfs.diff_ids,
    });
    Ok(Kept::Image)
}

/// Adds a manifest that is kept as it is, whatever it is about.
fn plain_tree(
    spool: &Spool,
    manifest: &Manifest,
    descriptor: &Descriptor,
    data: Vec<u8>,
    found: &mut Found,
) -> Result<Kept, Error> {
    let what = descriptor.digest.to_string();
    let Some(config_data) = complete(spool, manifest, &what)? else { return Ok(Kept::Nothing) };
    found.record(manifest, descriptor, data, config_data);
    found.plain.extend(manifest.layers.iter().map(|l| l.digest));
    Ok(Kept::Plain)
}

/// A manifest's configuration, when that and all layers are in the archive.
fn complete(spool: &Spool, manifest: &Manifest, what: &str) -> Result<Option<Vec<u8>>, Error> {
    let Some(config) = spool.by_digest.get(&manifest.config.digest) else { return Ok(None) };
    if manifest.layers.iter().any(|l| !spool.by_digest.contains_key(&l.digest)) {
        return Ok(None);
    }
    spool.document(config, what).map(Some)
}

impl Found {
    /// Adds the documents: the manifest, and its configuration.
    fn record(&mut self, manifest: &Manifest, descriptor: &Descriptor, data: Vec<u8>, config: Vec<u8>) {
        self.commit.documents.push(NewDocument {
            descriptor: descriptor.clone(),
            data,
            children: manifest_children(manifest),
        });
        self.commit.documents.push(NewDocument {
            descriptor: manifest.config.clone(),
            data: config,
            children: Vec::new(),
        });
    }
}

/// One image of a docker-archive's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

fn docker_manifests(spool: &Spool) -> Result<Option<Vec<DockerImage>>, Error> {
    let Some(file) = spool.find("manifest.json") else { return Ok(None) };
    let data = spool.document(file, "manifest.json")?;
    serde_json::from_slice(&data).map(Some).map_err(|e| Error::content("manifest.json", e))
}

fn tags(image: &DockerImage) -> Result<Vec<Reference>, Error> {
    image.repo_tags.iter().flatten().map(|t| Reference::parse(t)).collect()
}

/// Images of an archive without an OCI layout: their manifests are made here, as containerd does.
fn docker_archive(spool: &Spool, found: &mut Found) -> Result<Vec<Loaded>, Error> {
    let images = docker_manifests(spool)?.ok_or_else(|| {
        Error::Invalid("neither index.json nor manifest.json in the archive: not a tar of images".into())
    })?;
    let mut loaded = Vec::new();
    for image in images {
        let file = |path: &str| {
            clean(path.as_bytes())
                .and_then(|p| spool.find(&p))
                .ok_or_else(|| Error::content("manifest.json", format!("{path} is not in the archive")))
        };
        let config = file(&image.config)?;
        let mut layers = Vec::new();
        for path in image.layers.iter().flatten() {
            let layer = file(path)?;
            layers.push(Descriptor {
                media_type: layer_type(layer)?.into(),
                digest: layer.digest,
                size: layer.size,
                platform: None,
                urls: Vec::new(),
                annotations: BTreeMap::new(),
            });
        }
        let document = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": { "mediaType": DOCKER_CONFIG, "digest": config.digest, "size": config.size },
            "layers": layers,
        });
        let data = serde_json::to_vec(&document).map_err(|e| Error::content("manifest", e))?;
        let manifest: Manifest = serde_json::from_slice(&data).map_err(|e| Error::content("manifest", e))?;
        let target = descriptor(DOCKER_MANIFEST, Digest::of(&data), &data);
        manifest_tree(spool, &manifest, &target, data, &LoadOptions::default(), found)?;
        name(&mut found.commit, &mut loaded, target, tags(&image)?);
    }
    Ok(loaded)
}

fn layer_type(layer: &Spooled) -> Result<&'static str, Error> {
    let mut head = [0; 4];
    let mut file = File::open(&layer.file).map_err(|e| Error::os("open", &layer.file, e))?;
    // A layer shorter than this is no archive; unpacking says so.
    let _ = file.read(&mut head).map_err(|e| Error::os("read", &layer.file, e))?;
    Ok(match head {
        [0x1f, 0x8b, ..] => DOCKER_LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd] => OCI_LAYER_ZSTD,
        _ => DOCKER_LAYER,
    })
}

/// Unpacks the layers that are not here yet, and moves their blobs to where a commit takes them from.
fn keep_layers(
    store: &Arc<Store>,
    spool: &Spool,
    early: &Early,
    commit: &mut Commit,
    plain: &[Digest],
    progress: &ProgressSink,
) -> Result<(), Error> {
    let mut wanted: HashMap<Digest, Digest> = HashMap::new();
    for manifest in &commit.manifests {
        let children = commit
            .documents
            .iter()
            .find(|d| d.descriptor.digest == manifest.digest)
            .map(|d| d.children.as_slice())
            .unwrap_or_default();
        wanted.extend(children.iter().skip(1).copied().zip(manifest.diff_ids.iter().copied()));
    }
    let (mut work, mut layers) = (Vec::new(), Vec::new());
    let mut unpacking = HashSet::new();
    for blob in plain {
        let Some(file) = spool.by_digest.get(blob).filter(|_| !wanted.contains_key(blob)) else { continue };
        let known = store.read(|db| records::has_blob(db, blob))?;
        if !known && unpacking.insert(*blob) {
            work.push((file.clone(), *blob, true, false));
        }
    }
    for (blob, diff_id) in wanted {
        let Some(file) = spool.by_digest.get(&blob) else { continue };
        let (has_blob, has_layer) =
            store.read(|db| Ok((records::has_blob(db, &blob)?, records::has_layer(db, &diff_id)?)))?;
        let mut unpack = !has_layer && unpacking.insert(diff_id);
        if let Some(layer) = early.take(&blob, &diff_id).filter(|_| unpack) {
            layers.push(Arc::new(layer));
            unpack = false;
        }
        if !has_blob || unpack {
            work.push((file.clone(), diff_id, !has_blob, unpack));
        }
    }
    // Popped from the end: the largest first.
    work.sort_by_key(|(file, ..)| file.size);
    let drafts: Vec<Draft> = work
        .iter()
        .flat_map(|(file, _, blob, unpack)| {
            [blob.then_some(Draft::Blob(Some(file.digest))), unpack.then_some(Draft::Layer)]
                .into_iter()
                .flatten()
        })
        .collect();
    let mut leases = store.lease(&drafts)?.into_iter();
    let work: Vec<_> = work
        .into_iter()
        .map(|(file, diff_id, blob, unpack)| {
            let blob = if blob { leases.next() } else { None };
            let layer = if unpack { leases.next() } else { None };
            (file, diff_id, blob, layer)
        })
        .collect();
    let queue = Mutex::new(work);
    let results = Mutex::new((Vec::new(), layers));
    let next = || queue.lock().unwrap_or_else(|e| e.into_inner()).pop();
    let worker = || -> Result<(), Error> {
        while let Some((file, diff_id, blob, layer)) = next() {
            let said = |status: &str, current| {
                progress(Progress {
                    id: Some(diff_id.short()),
                    status: status.into(),
                    current,
                    total: file.size,
                    layer: None,
                });
            };
            if let Some(lease) = layer {
                said("Loading layer", 0);
                let input = File::open(&file.file).map_err(|e| Error::os("open", &file.file, e))?;
                let input = BufReader::with_capacity(BUFFER, input);
                let (disk_bytes, diff_id) = unpack(input, lease.path(), Some(&diff_id))?;
                let new = Arc::new(NewLayer { lease, diff_id, disk_bytes });
                results.lock().unwrap_or_else(|e| e.into_inner()).1.push(new);
            }
            if let Some(lease) = blob {
                File::open(&file.file)
                    .and_then(|f| f.sync_data())
                    .and_then(|()| fs::rename(&file.file, lease.path()))
                    .map_err(|e| Error::os("keep", &file.file, e))?;
                let new = Arc::new(NewBlob { lease, digest: file.digest, size: file.size });
                results.lock().unwrap_or_else(|e| e.into_inner()).0.push(new);
            }
            said("Loading layer", file.size);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..UNPACK_AT_ONCE).map(|_| scope.spawn(worker)).collect();
        let mut outcome = Ok(());
        for thread in threads {
            match thread.join() {
                Ok(done) => outcome = outcome.and(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcome
    })?;
    let (blobs, layers) = results.into_inner().unwrap_or_else(|e| e.into_inner());
    commit.blobs = blobs;
    commit.layers = layers;
    Ok(())
}
