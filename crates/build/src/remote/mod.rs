//! Caches that are kept elsewhere: in a registry, in a folder of the client's, inside of an image.
//!
//! ```text
//! import: manifest --> document --> records by key; a step that is found brings its layers when they are needed
//! export: records of this build --> layers packed --> blobs, document, manifest
//! ```
//! Records are of our own solver's: see [`format`].

pub(crate) mod format;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine as _;
use bollard_buildkit_proto::moby::buildkit::v1 as proto;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use self::format::{Document, Piece, Record};
use crate::Error;
use crate::builder::Builder;
use crate::cache::Kept;
use crate::control::status;
use crate::dockerfile::text::parse_bool;
use crate::error::Kind;
use crate::export;
use crate::hex;
use crate::jobs::Returned;
use crate::progress::Step;
use crate::rpc::{Code, Status};
use crate::session::content::ContentStore;
use crate::solve::{Solver, from_session};
use crate::worker::{Artifact, Asker, Blob, Layer, Packed, Packing, Tree, Worker};

/// Largest document that is read, in bytes.
const DOCUMENT: u64 = 64 << 20;
/// Most images of one index whose caches are read.
const IMAGES: usize = 64;
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Key of what a client is told, by which it finds a cache in its folder again.
const TOLD: &str = "cache.manifest";

/// A cache of a request, to be read or written.
pub(crate) type Options = proto::CacheOptionsEntry;

fn flag(options: &Options, name: &str) -> Option<bool> {
    options.attrs.get(name).and_then(|v| parse_bool(v))
}

/// Whether the build goes on when this cache cannot be written.
pub(crate) fn may_fail(options: &Options) -> bool {
    flag(options, "ignore-error") == Some(true)
}

/// Which of a build's steps a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Those whose layers the result has.
    Min,
    /// All.
    Max,
}

fn mode(options: &Options) -> Result<Mode, Status> {
    match options.attrs.get("mode").map(String::as_str) {
        None | Some("" | "min") => Ok(Mode::Min),
        Some("max") => Ok(Mode::Max),
        Some(other) => Err(Status::new(Code::Unknown, format!("invalid cache export mode: {other}"))),
    }
}

/// Refuses an export that cannot be made, before anything is done.
///
/// # Errors
/// What is asked for that is not there.
pub(crate) fn check(options: &Options) -> Result<(), Status> {
    mode(options)?;
    let needs = |name: &str| {
        let words = format!("{} cache exporter requires {name}", options.r#type);
        options.attrs.get(name).filter(|v| !v.is_empty()).map(drop).ok_or(Status::new(Code::Unknown, words))
    };
    match options.r#type.as_str() {
        "inline" => {}
        "registry" => needs("ref")?,
        "local" => needs("dest")?,
        other => return Err(Status::new(Code::Unknown, format!("unknown cache exporter: {other:?}"))),
    }
    export::packing(&options.attrs).map(drop)
}

fn no_such(kind: &str) -> String {
    format!("unknown cache importer: {kind}")
}

/// Where a cache is.
enum Place {
    /// At a registry, by its canonical name.
    Registry { name: String, asker: Asker },
    /// In a folder of the client's.
    Client(ContentStore),
}

impl Place {
    async fn open<W: Worker>(
        &self,
        worker: &W,
        digest: &str,
    ) -> Result<Pin<Box<dyn AsyncRead + Send>>, Error> {
        match self {
            Self::Registry { name, asker } => worker.fetch_blob(name, digest, asker).await,
            Self::Client(store) => Ok(store.open(digest)),
        }
    }

    /// A small blob, held against its digest.
    async fn bytes<W: Worker>(&self, worker: &W, digest: &str) -> Result<Vec<u8>, Error> {
        let failed =
            |e: std::io::Error| Error::invalid(format!("read {digest}: {e}")).with_kind(Kind::Unknown);
        let mut data = Vec::new();
        self.open(worker, digest).await?.take(DOCUMENT + 1).read_to_end(&mut data).await.map_err(failed)?;
        if data.len() as u64 > DOCUMENT {
            return Err(Error::invalid(format!("{digest} is larger than {DOCUMENT} bytes")));
        }
        let got = hex(&Sha256::digest(&data));
        if got != digest {
            return Err(Error::invalid(format!("{digest} has the content of {got}")));
        }
        Ok(data)
    }

    /// An index or manifest by digest.
    async fn document<W: Worker>(&self, worker: &W, digest: &str) -> Result<Vec<u8>, Error> {
        match self {
            Self::Registry { name, asker } => worker.fetch_document(name, Some(digest), asker).await,
            Self::Client(_) => self.bytes(worker, digest).await,
        }
    }
}

/// A step that was done elsewhere.
pub(crate) struct Remote {
    pub record: Record,
    place: Arc<Place>,
}

/// Steps that were done elsewhere.
#[derive(Default)]
pub(crate) struct Imported {
    by_key: HashMap<String, Arc<Remote>>,
    by_tree: HashMap<Vec<Piece>, Arc<Remote>>,
}

impl Imported {
    /// The step that is found under a key.
    pub fn find(&self, key: &str) -> Option<Arc<Remote>> {
        self.by_key.get(key).cloned()
    }

    fn add(&mut self, records: Vec<Record>, place: &Arc<Place>) {
        for record in records {
            let remote = Arc::new(Remote { record, place: place.clone() });
            for key in remote.record.keys.iter().chain([&remote.record.output]) {
                self.by_key.entry(key.clone()).or_insert_with(|| remote.clone());
            }
            self.by_tree.entry(remote.record.tree.clone()).or_insert(remote);
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    config: Option<Described>,
    #[serde(default)]
    layers: Vec<Described>,
    #[serde(default)]
    manifests: Vec<Described>,
}

fn malformed(e: impl std::fmt::Display) -> Error {
    Error::invalid(format!("malformed cache: {e}"))
}

/// Reads caches. One that cannot be read is told of, and the build goes without it.
pub(crate) async fn import<W: Worker>(solver: &Solver<W>, all: &[Options]) -> Imported {
    let mut imported = Imported::default();
    for (n, options) in all.iter().enumerate() {
        let from = match options.r#type.as_str() {
            "registry" => options.attrs.get("ref").cloned().unwrap_or_default(),
            kind => format!("{kind}:{n}"),
        };
        let mut step = solver.progress.begin(&format!("importing cache manifest from {from}"));
        let read = one(solver, options).await;
        if let Ok((_, _, kind)) = &read {
            step.part(&format!("inferred cache manifest type: {kind}")).done(0);
        }
        let why = |e: &Error| format!("failed to configure {} cache importer: {}", options.r#type, e.message);
        step.complete(read.as_ref().err().map(why).as_deref());
        if let Ok((records, place, _)) = read {
            tracing::debug!("cache of {from}: {} steps", records.len());
            imported.add(records, &place);
        }
    }
    imported
}

/// The steps of one cache, where its layers are, and the type of its first document.
async fn one<W: Worker>(
    solver: &Solver<W>,
    options: &Options,
) -> Result<(Vec<Record>, Arc<Place>, String), Error> {
    let worker = &solver.builder.worker;
    let attr = |name: &str| {
        let none = || Error::invalid(format!("{} cache importer requires {name}", options.r#type));
        options.attrs.get(name).filter(|v| !v.is_empty()).ok_or_else(none)
    };
    let (place, top) = match options.r#type.as_str() {
        "registry" => {
            let asker = solver.context.asker();
            let name = worker.full_name(attr("ref")?)?;
            let top = worker.fetch_document(&name, None, &asker).await?;
            (Place::Registry { name, asker }, top)
        }
        "local" => {
            let none = || Error::invalid("local cache importer requires session");
            let session = solver.context.session.as_ref().ok_or_else(none)?;
            let store = ContentStore::new(session, format!("local:{}", attr("src")?));
            let place = Place::Client(store.map_err(from_session)?);
            let top = place.bytes(worker, attr("digest")?).await?;
            (place, top)
        }
        other => return Err(Error::invalid(no_such(other)).with_kind(Kind::Unsupported)),
    };
    let place = Arc::new(place);
    let manifest: Manifest = serde_json::from_slice(&top).map_err(malformed)?;
    let kind = manifest.media_type.clone().unwrap_or_else(|| {
        let kind = if manifest.config.is_some() { "manifest" } else { "index" };
        format!("application/vnd.oci.image.{kind}.v1+json")
    });
    let own = |d: &&Described| d.media_type == format::MEDIA_TYPE;
    if let Some(config) = manifest.config.iter().chain(&manifest.manifests).find(own) {
        let data = place.bytes(worker, &config.digest).await?;
        let document: Document = serde_json::from_slice(&data).map_err(malformed)?;
        return Ok((format::read(&document), place, kind));
    }
    let mut records = Vec::new();
    if manifest.config.is_some() {
        records = inline(worker, &place, manifest).await?;
    } else {
        for child in manifest.manifests.iter().take(IMAGES) {
            let data = place.document(worker, &child.digest).await?;
            let manifest: Manifest = serde_json::from_slice(&data).map_err(malformed)?;
            records.extend(inline(worker, &place, manifest).await?);
        }
    }
    Ok((records, place, kind))
}

/// The cache inside of an image; none where it has none.
async fn inline<W: Worker>(worker: &W, place: &Place, manifest: Manifest) -> Result<Vec<Record>, Error> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        rootfs: RootFs,
        #[serde(rename = "moby.buildkit.cache.v0")]
        cache: Option<String>,
    }
    #[derive(Deserialize, Default)]
    struct RootFs {
        #[serde(default)]
        diff_ids: Vec<String>,
    }
    let Some(config) = manifest.config else { return Ok(Vec::new()) };
    // An attestation's has no cache.
    let Ok(config) = serde_json::from_slice::<Config>(&place.bytes(worker, &config.digest).await?) else {
        return Ok(Vec::new());
    };
    let Some(cache) = config.cache.filter(|_| config.rootfs.diff_ids.len() == manifest.layers.len()) else {
        return Ok(Vec::new());
    };
    let data = base64::engine::general_purpose::STANDARD.decode(cache).map_err(malformed)?;
    let records = serde_json::from_slice(&data).map_err(malformed)?;
    let layer = |(at, (layer, diff_id)): (usize, (&Described, &String))| format::Layer {
        blob: layer.digest.clone(),
        parent: i64::try_from(at).unwrap_or(0) - 1,
        annotations: Some(format::Annotations {
            media_type: layer.media_type.clone(),
            diff_id: diff_id.clone(),
            size: layer.size,
            created_at: None,
        }),
    };
    let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids).enumerate().map(layer).collect();
    Ok(format::read(&Document { layers, records }))
}

impl<W: Worker> Solver<W> {
    /// Steps that were done elsewhere; read when they are first asked for.
    pub(crate) async fn imported(&self) -> &Imported {
        self.imported.get_or_init(|| import(self, &self.context.caches)).await
    }

    /// Fetches the layers of a step that was done elsewhere, as parts of the step of this digest.
    pub(crate) async fn bring(&self, remote: &Remote, step: Option<&str>) -> Result<Tree, Error> {
        let imported = self.imported().await;
        let (builder, cache) = (&self.builder, &self.builder.cache);
        let mut tree = Tree::default();
        // Names what lies below by its content: the same keys may stand for something else here.
        let mut name = crate::solve::key(&["elsewhere"]);
        for (n, piece) in remote.record.tree.iter().enumerate() {
            let blob = match piece {
                Piece::Image { reference, platform } => {
                    name = crate::solve::key(&["image", &name, reference, &platform.to_string()]);
                    tree =
                        tree.with(Layer::Image { reference: reference.clone(), platform: platform.clone() });
                    continue;
                }
                Piece::Blob(blob) => blob,
            };
            name = crate::solve::key(&["layer", &name, &blob.diff_id]);
            let flight = builder.flight(&name);
            let _alone = flight.lock().await;
            if let Some((found, in_use)) = cache.find(&name)? {
                self.hold(in_use);
                tree = found.tree;
                continue;
            }
            let known = imported.by_tree.get(&remote.record.tree[..=n]);
            let part = step.map(|step| self.progress.part_of(step, &blob.digest));
            let input = remote.place.open(&builder.worker, &blob.digest).await?;
            let (layer, used) = builder.worker.unpack(blob, input).await?;
            if let Some(part) = part {
                part.done(blob.size);
            }
            tree = tree.with(Layer::Built(layer));
            let id = crate::random_id();
            let description = known.map_or("imported layer", |k| k.record.description.as_str());
            let in_use = cache.add(
                &id,
                &crate::cache::NewRecord {
                    keys: vec![&name],
                    output: known.map_or(&name, |k| &k.record.output),
                    tree: &tree,
                    layer: Some(layer),
                    kind: crate::cache::kind::REGULAR,
                    description,
                    bytes: used.bytes,
                },
            )?;
            self.hold(in_use);
            for key in known.iter().flat_map(|k| k.record.keys.iter().chain([&k.record.output])) {
                // What was done here stays what it is.
                if cache.find(key)?.is_none() {
                    cache.alias(key, &id)?;
                }
            }
        }
        Ok(tree)
    }
}

/// The records of this build that a cache is to hold.
async fn chosen<W: Worker>(solver: &Solver<W>, returned: &Returned, mode: Mode) -> Result<Vec<Kept>, Error> {
    let results: Vec<i64> = returned.solved.iter().flat_map(|s| s.tree.built()).collect();
    if mode == Mode::Max {
        // What was found elsewhere and not needed here is passed on.
        for remote in solver.found() {
            solver.bring(&remote, None).await?;
        }
    }
    let held = solver.held();
    let all = solver.builder.cache.kept()?;
    let wanted = |kept: &Kept| results.contains(&kept.layer) || mode == Mode::Max && held.contains(&kept.id);
    Ok(all.into_iter().filter(wanted).collect())
}

/// These records, their layers as blobs.
async fn pack<W: Worker>(
    builder: &Builder<W>,
    kept: Vec<Kept>,
    packing: Packing,
) -> Result<(Vec<Record>, Vec<Packed>), Error> {
    let mut layers: Vec<i64> = kept.iter().flat_map(|k| k.tree.built()).collect();
    layers.sort_unstable();
    layers.dedup();
    let packed = builder.worker.pack(layers.clone(), packing).await?;
    let by_layer: HashMap<i64, &Blob> = layers.into_iter().zip(packed.iter().map(|p| &p.blob)).collect();
    let record = |kept: Kept| {
        let piece = |layer: &Layer| match layer {
            Layer::Image { reference, platform } => {
                Some(Piece::Image { reference: reference.clone(), platform: platform.clone() })
            }
            Layer::Built(id) => by_layer.get(id).map(|b| Piece::Blob((*b).clone())),
            Layer::Folder(_) => None,
        };
        Some(Record {
            keys: kept.keys,
            output: kept.output,
            tree: kept.tree.0.iter().map(piece).collect::<Option<_>>()?,
            description: kept.description,
            created: chrono::DateTime::from_timestamp(kept.created, 0)
                .map(|t| t.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
        })
    };
    let records = kept.into_iter().filter_map(record).collect();
    Ok((records, packed))
}

/// The cache that an image holds inside: for its configuration, one for each of the results.
///
/// # Errors
/// Faults of the store.
pub(crate) async fn for_images<W: Worker>(
    solver: &Solver<W>,
    returned: &Returned,
    packing: Packing,
) -> Result<Vec<String>, Error> {
    let kept = chosen(solver, returned, Mode::Min).await?;
    let (records, packed) = pack(&solver.builder, kept, packing).await?;
    let mut out = Vec::new();
    for solved in &returned.solved {
        let numbers: Vec<i64> = solved.tree.built().collect();
        let blobs: HashMap<i64, &str> = packed.iter().map(|p| (p.layer, p.blob.digest.as_str())).collect();
        let built: Vec<String> =
            numbers.iter().map(|n| blobs.get(n).map_or(String::new(), |d| (*d).to_owned())).collect();
        let below = solved.target.as_ref().map_or(0, |t| t.image.rootfs.diff_ids.len());
        let entries = format::write_inline(&records, below, &built);
        let text = serde_json::to_vec(&entries).map_err(malformed)?;
        out.push(base64::engine::general_purpose::STANDARD.encode(text));
    }
    Ok(out)
}

/// Writes a cache elsewhere; gives what the client is told of it.
///
/// # Errors
/// What the place answers; faults of the store.
pub(crate) async fn export<W: Worker>(
    solver: &Arc<Solver<W>>,
    returned: &Returned,
    options: &Options,
) -> Result<HashMap<String, String>, Status> {
    let where_to = match options.r#type.as_str() {
        "registry" => "registry",
        _ => "client directory",
    };
    let mut step = solver.progress.begin(&format!("exporting cache to {where_to}"));
    let done = export_in(solver, returned, options, &step).await;
    step.complete(done.as_ref().err().map(|e| e.message.as_str()));
    done
}

async fn export_in<W: Worker>(
    solver: &Arc<Solver<W>>,
    returned: &Returned,
    options: &Options,
    step: &Step,
) -> Result<HashMap<String, String>, Status> {
    let builder = &solver.builder;
    let part = step.part("preparing build cache for export");
    let kept = chosen(solver, returned, mode(options)?).await.map_err(status)?;
    let packing = export::packing(&options.attrs)?;
    let (records, packed) = pack(builder, kept, packing).await.map_err(status)?;
    let document = format::write(&records);
    let data = serde_json::to_vec(&document).map_err(|e| status(malformed(e)))?;
    let config = Blob {
        digest: hex(&Sha256::digest(&data)),
        diff_id: String::new(),
        size: data.len() as u64,
        media_type: format::MEDIA_TYPE.into(),
    };
    // In the order of the document, each once.
    let mut blobs: Vec<Packed> = Vec::new();
    for layer in &document.layers {
        if let Some(found) = packed.iter().find(|p| p.blob.digest == layer.blob)
            && !blobs.iter().any(|b| b.blob.digest == layer.blob)
        {
            blobs.push(found.clone());
        }
    }
    part.done(0);
    let (media_type, manifest) = manifest(&config, &blobs, options);
    let digest = hex(&Sha256::digest(&manifest));
    let told = json!({ "mediaType": media_type, "digest": digest, "size": manifest.len() }).to_string();
    let written = |what: &str| step.part(what).done(0);
    match options.r#type.as_str() {
        "registry" => {
            let name = options.attrs.get("ref").map_or("", String::as_str);
            let name = builder.worker.full_name(name).map_err(status)?;
            let names: Vec<String> = blobs.iter().map(|b| b.blob.digest.clone()).collect();
            let artifact = Artifact { blobs, config: (config.digest.clone(), data), media_type, manifest };
            let asker = solver.context.asker();
            builder.worker.push_artifact(&name, &asker, artifact).await.map_err(status)?;
            names.iter().for_each(|digest| written(&format!("writing layer {digest}")));
        }
        _ => {
            let dest = options.attrs.get("dest").map_or("", String::as_str);
            let none = || Status::new(Code::FailedPrecondition, "local cache exporter requires session");
            let session = solver.context.session.as_ref().ok_or_else(none)?;
            let store = ContentStore::new(session, format!("local:{dest}"))?;
            for packed in &blobs {
                let blob = &packed.blob;
                let part = step.part(&format!("writing layer {}", blob.digest));
                let fault = |e: std::io::Error| Status::new(Code::Internal, e.to_string());
                let file = tokio::fs::File::open(&packed.file).await.map_err(fault)?;
                store.write(&blob.digest, blob.size, file).await?;
                part.done(blob.size);
            }
            store.write(&config.digest, config.size, data.as_slice()).await?;
            store.write(&digest, manifest.len() as u64, manifest.as_slice()).await?;
        }
    }
    written(&format!("writing config {}", config.digest));
    written(&format!("writing cache image manifest {digest}"));
    Ok(HashMap::from([(TOLD.to_owned(), told)]))
}

/// The manifest of a cache: an image's, or (`image-manifest=false`) the index that older BuildKits write.
fn manifest(config: &Blob, blobs: &[Packed], options: &Options) -> (String, Vec<u8>) {
    let layer = |blob: &Blob| {
        json!({
            "mediaType": blob.media_type, "digest": blob.digest, "size": blob.size,
            "annotations": { "containerd.io/uncompressed": blob.diff_id },
        })
    };
    let own = json!({ "mediaType": config.media_type, "digest": config.digest, "size": config.size });
    let mut all: Vec<_> = blobs.iter().map(|p| layer(&p.blob)).collect();
    let document = if flag(options, "image-manifest") == Some(false) {
        all.push(own);
        json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": all })
    } else {
        json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": own, "layers": all })
    };
    let media_type = document["mediaType"].as_str().unwrap_or(OCI_MANIFEST).to_owned();
    (media_type, document.to_string().into_bytes())
}
