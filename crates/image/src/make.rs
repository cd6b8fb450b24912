//! Making images of what is here: the layers of another, one more layer, a configuration. This is what `docker
//! import` and `docker commit` do; nothing is fetched.
//!
//! ```text
//! archive --decompress--.                    .--> gzip --> sha256 --> ingest/ID   (the blob)
//! upper folder --create-+--> tar, one pass --+
//!                                            '--> sha256 (diff ID) --> layers/ID  (unpacked)
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

use crate::digest::Hasher;
use crate::layer::{decompress, unpack_tar};
use crate::pull::{descriptor, manifest_children};
use crate::spec::{ConfigDocument, History, Manifest, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
use crate::store::{Commit, Draft, NewBlob, NewDocument, NewLayer, NewManifest, Pin, Store};
use crate::{Descriptor, Digest, Error, Platform, Reference, mount, records};

/// Level of the blobs made here: they are written once and mostly stay on this machine.
pub(crate) const LEVEL: Compression = Compression::fast();
/// Bytes handled at once.
pub(crate) const BUFFER: usize = 256 * 1024;
/// Bytes of a container's files in flight between the thread that reads them and the one that unpacks.
const PIPE: usize = 1024 * 1024;
/// Length of an archive of nothing, bytes.
const EMPTY_ARCHIVE: usize = 1024;

/// An image to be made.
pub struct NewImage {
    /// Image whose layers come first: its ID or the digest of one of its manifests.
    pub base: Option<Digest>,
    /// One more layer on top of them.
    pub layer: Option<LayerSource>,
    /// The configuration document (OCI image-spec, `config.md`) without `rootfs` and `history`, which are made from
    /// the layers. Where it names no platform it is the base's, or this machine's.
    pub config: Map<String, Value>,
    /// The step added to the base's history; whether it made a layer is filled in.
    pub step: History,
    /// Name it gets; one in use moves.
    pub name: Option<Reference>,
}

/// Where a new layer comes from.
pub enum LayerSource {
    /// An archive, perhaps compressed; read to its end.
    Archive(Box<dyn BufRead + Send>),
    /// What was written to the root file system of this key (nothing, before it was first mounted). Who writes to it
    /// meanwhile should be paused.
    Written(String),
}

/// What the base brings.
struct Base {
    platform: Platform,
    layers: Vec<Descriptor>,
    diff_ids: Vec<Digest>,
    history: Vec<History>,
    _pin: Option<Pin>,
}

/// Makes it and records it; the new image's ID is its manifest's digest. Blocks.
pub(crate) fn make(store: &Arc<Store>, image: NewImage) -> Result<Digest, Error> {
    let mut base = match image.base {
        Some(id) => self::base(store, &id)?,
        None => Base {
            platform: Platform::host(),
            layers: Vec::new(),
            diff_ids: Vec::new(),
            history: Vec::new(),
            _pin: None,
        },
    };
    let mut commit = Commit::default();
    let mut step = image.step;
    step.empty_layer = image.layer.is_none();
    if let Some(source) = image.layer {
        let (blob, layer) = add_layer(store, source)?;
        base.layers.push(Descriptor {
            media_type: OCI_LAYER_GZIP.into(),
            digest: blob.digest,
            size: blob.size,
            platform: None,
            urls: Vec::new(),
            annotations: Default::default(),
        });
        base.diff_ids.push(layer.diff_id);
        commit.blobs.push(Arc::new(blob));
        commit.layers.push(Arc::new(layer));
    }
    base.history.push(step);

    let mut config = image.config;
    if !config.contains_key("architecture") {
        config.insert("architecture".into(), json!(base.platform.architecture));
        if !base.platform.variant.is_empty() {
            config.insert("variant".into(), json!(base.platform.variant));
        }
    }
    config.entry("os").or_insert_with(|| json!(base.platform.os));
    config.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": base.diff_ids }));
    config.insert("history".into(), json!(base.history));
    let config_data = serialise(&config)?;
    let platform = serde_json::from_slice::<ConfigDocument>(&config_data)
        .map_err(|e| Error::content("image configuration", e))?
        .platform;
    let config = descriptor(OCI_CONFIG, Digest::of(&config_data), &config_data);

    let manifest_data = serialise(&json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": base.layers,
    }))?;
    let manifest: Manifest =
        serde_json::from_slice(&manifest_data).map_err(|e| Error::content("manifest", e))?;
    let target = descriptor(OCI_MANIFEST, Digest::of(&manifest_data), &manifest_data);
    let id = target.digest;
    let _pins = [store.pin([id, config.digest]), store.pin(base.diff_ids.iter().copied())];
    commit.documents.push(NewDocument {
        descriptor: target.clone(),
        data: manifest_data,
        children: manifest_children(&manifest),
    });
    commit.manifests.push(NewManifest {
        digest: id,
        config: config.digest,
        platform,
        diff_ids: base.diff_ids,
    });
    commit.documents.push(NewDocument { descriptor: config, data: config_data, children: Vec::new() });
    commit.targets.push(target);
    commit.names.extend(image.name.map(|n| (n.stored().to_string(), id)));
    store.commit(&commit)?;
    Ok(id)
}

pub(crate) fn serialise(document: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(document).map_err(|e| Error::content("new image", e))
}

/// Looks the base up, and pins it: its content is part of the new image.
fn base(store: &Arc<Store>, id: &Digest) -> Result<Base, Error> {
    let gone = || Error::NoSuchImage(id.to_string());
    let found = store.read(|db| records::manifest_of(db, id, &Platform::host()))?.ok_or_else(gone)?.0;
    let pin = store.pin([found]);
    let (manifest, config) = store.read(|db| {
        let (_, data) = records::document_in(db, &found)?.ok_or_else(gone)?;
        let manifest: Manifest = serde_json::from_slice(&data).map_err(|e| Error::content("manifest", e))?;
        let (_, data) = records::document_in(db, &manifest.config.digest)?.ok_or_else(gone)?;
        let config: ConfigDocument =
            serde_json::from_slice(&data).map_err(|e| Error::content("image configuration", e))?;
        Ok((manifest, config))
    })?;
    Ok(Base {
        platform: config.platform,
        layers: manifest.layers,
        diff_ids: config.rootfs.diff_ids,
        history: config.history,
        _pin: Some(pin),
    })
}

/// Writes a layer as blob and as folder, in one pass over its archive.
fn add_layer(store: &Arc<Store>, source: LayerSource) -> Result<(NewBlob, NewLayer), Error> {
    match source {
        LayerSource::Archive(input) => {
            let input = decompress(input).map_err(|e| Error::Layer(archive::Error::Read(e)))?;
            write_layer(store, input)
        }
        LayerSource::Written(key) => {
            mount::check_key(&key)?;
            let upper = store.container_path(&key).join("upper");
            let folder = match File::open(&upper) {
                Ok(folder) => folder,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return write_layer(store, &[0; EMPTY_ARCHIVE][..]);
                }
                Err(e) => return Err(Error::os("open", &upper, e)),
            };
            let (reader, writer) = io::pipe().map_err(|e| Error::os("make a pipe for", &upper, e))?;
            // A small pipe works too, only slower.
            let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE);
            std::thread::scope(|scope| {
                let reading = scope.spawn(move || {
                    let out = BufWriter::with_capacity(BUFFER, writer);
                    archive::create(folder.as_fd(), b"", &archive::CreateOptions::layer(), out)
                });
                let written = write_layer(store, reader);
                match (reading.join(), written) {
                    (Ok(Ok(_)), written) => written,
                    // A reader that ended early broke the writer's pipe: then its own error says why.
                    (Ok(Err(archive::Error::Write(_))), Err(error)) => Err(error),
                    (Ok(Err(error)), _) => Err(Error::Layer(error)),
                    (Err(panic), _) => std::panic::resume_unwind(panic),
                }
            })
        }
    }
}

fn write_layer(store: &Arc<Store>, tar: impl Read + Send) -> Result<(NewBlob, NewLayer), Error> {
    let mut leases = store.lease(&[Draft::Blob(None), Draft::Layer])?.into_iter();
    let (Some(blob), Some(layer)) = (leases.next(), leases.next()) else { return Err(Error::Canceled) };
    let path = blob.path().to_path_buf();
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|e| Error::os("create", &path, e))?;
    let out = Counting { inner: BufWriter::with_capacity(BUFFER, file), hasher: Hasher::default(), bytes: 0 };
    let mut tee = Tee { inner: tar, copy: GzEncoder::new(out, LEVEL), failed: None };
    let unpacked = unpack_tar(&mut tee, layer.path(), None);
    if let Some(error) = tee.failed {
        return Err(Error::os("write", &path, error));
    }
    let (disk_bytes, diff_id) = unpacked?;
    let done = |out: GzEncoder<Counting>| -> io::Result<(Digest, u64)> {
        let mut out = out.finish()?;
        out.flush()?;
        out.inner.get_ref().sync_data()?;
        Ok((out.hasher.finish(), out.bytes))
    };
    let (digest, size) = done(tee.copy).map_err(|e| Error::os("write", &path, e))?;
    Ok((NewBlob { lease: blob, digest, size }, NewLayer { lease: layer, diff_id, disk_bytes }))
}

/// Copies what is read through it.
struct Tee<R> {
    inner: R,
    copy: GzEncoder<Counting>,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        if let Err(error) = self.copy.write_all(&buf[..n]) {
            // Told apart from a fault of the archive by where it is kept.
            self.failed = Some(error);
            return Err(io::Error::other("the copy failed"));
        }
        Ok(n)
    }
}

/// Counts and hashes what is written through it.
pub(crate) struct Counting {
    pub(crate) inner: BufWriter<File>,
    pub(crate) hasher: Hasher,
    pub(crate) bytes: u64,
}

impl Write for Counting {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
