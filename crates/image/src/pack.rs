//! Layers that builds made, as blobs: an archive of the folder, compressed as the one who exports it wants.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::write::GzEncoder;
use rusqlite::OptionalExtension as _;

use crate::digest::Hasher;
use crate::layer::decompress;
use crate::make::{BUFFER, Counting, LEVEL};
use crate::spec::{DOCKER_LAYER, DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
use crate::store::{NewBlob, Pin, Store};
use crate::{Descriptor, Digest, Error, records};

/// How a layer's archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, which every registry and engine takes.
    #[default]
    Gzip,
    /// zstd: smaller and faster, not taken by engines of before 2021.
    Zstd,
}

impl Compression {
    fn media_type(self) -> &'static str {
        match self {
            Self::None => OCI_LAYER,
            Self::Gzip => OCI_LAYER_GZIP,
            Self::Zstd => OCI_LAYER_ZSTD,
        }
    }

    /// That of a blob, by its first bytes.
    fn of(blob: &Path) -> Result<Self, Error> {
        let mut magic = Vec::new();
        let read = File::open(blob).and_then(|file| file.take(4).read_to_end(&mut magic));
        read.map_err(|e| Error::os("read", blob, e))?;
        Ok(match magic.as_slice() {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] => Self::Zstd,
            _ => Self::None,
        })
    }
}

/// How layers are to be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packing {
    /// Of those that are not packed yet.
    pub compression: Compression,
    /// The compression's own; none: its fastest, since most blobs stay on this machine.
    pub level: Option<u32>,
    /// Also of those that are packed already in another way.
    pub anew: bool,
    /// No file of a layer that a build made is younger, in seconds after 1970; layers that images have stay as they are.
    pub youngest: Option<i64>,
}

impl Packing {
    /// Whether a layer that an image has would be packed anew. Those of unknown kinds (foreign, encrypted) stay.
    pub(crate) fn changes(self, layer: &Descriptor) -> bool {
        let is = match layer.media_type.as_str() {
            OCI_LAYER | DOCKER_LAYER => Compression::None,
            OCI_LAYER_GZIP | DOCKER_LAYER_GZIP => Compression::Gzip,
            OCI_LAYER_ZSTD => Compression::Zstd,
            _ => return false,
        };
        self.anew && is != self.compression
    }
}

/// What compresses.
enum Encoder<W: Write> {
    None(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
}

/// zstd's own level when none is asked for.
const ZSTD_LEVEL: i32 = 3;

impl<W: Write> Encoder<W> {
    fn new(packing: Packing, to: W) -> std::io::Result<Self> {
        Ok(match packing.compression {
            Compression::None => Self::None(to),
            Compression::Gzip => {
                let level = packing.level.map_or(LEVEL, |l| flate2::Compression::new(l.min(9)));
                Self::Gzip(GzEncoder::new(to, level))
            }
            Compression::Zstd => {
                let level = packing.level.and_then(|l| i32::try_from(l.min(22)).ok()).unwrap_or(ZSTD_LEVEL);
                Self::Zstd(zstd::Encoder::new(to, level)?)
            }
        })
    }

    fn finish(self) -> std::io::Result<W> {
        match self {
            Self::None(to) => Ok(to),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::None(to) => to.write(buf),
            Self::Gzip(encoder) => encoder.write(buf),
            Self::Zstd(encoder) => encoder.write(buf),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::None(to) => to.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// A layer with its archive's digests, and the blob where it is new.
pub(crate) struct Packed {
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) built: Option<i64>,
    pub(crate) blob: Option<NewBlob>,
}

impl Packed {
    /// The same layer once more: the blob is new once.
    fn again(&self) -> Self {
        Self { descriptor: self.descriptor.clone(), diff_id: self.diff_id, built: self.built, blob: None }
    }
}

/// What is to be done for a layer of an image that is made.
pub(crate) enum Wanted {
    /// Nothing: an image has it.
    There(Packed),
    /// An archive of what a build made.
    Built(i64),
    /// Another archive of what an image has.
    Anew(Packed),
}

/// Archives of all layers that have none yet, several at once.
pub(crate) fn pack_all(
    store: &Arc<Store>,
    wanted: Vec<Wanted>,
    packing: Packing,
    pins: &mut Vec<Pin>,
) -> Result<Vec<Packed>, Error> {
    let next = AtomicUsize::new(0);
    let jobs = wanted.iter().filter(|w| !matches!(w, Wanted::There(_))).count();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(jobs);
    type Done = Vec<(usize, Result<(Packed, Pin), Error>)>;
    let packed: Done = std::thread::scope(|scope| {
        let work = || {
            let mut done = Done::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let packed = match wanted.get(n) {
                    None => return done,
                    Some(Wanted::There(_)) => continue,
                    // A layer may come twice: it is packed once.
                    Some(Wanted::Built(id)) if came_before(&wanted[..n], *id) => continue,
                    Some(Wanted::Built(id)) => pack(store, *id, packing),
                    Some(Wanted::Anew(layer)) => pack_anew(store, layer, packing),
                };
                done.push((n, packed));
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut by_place = BTreeMap::new();
    for (n, packed) in packed {
        let (packed, pin) = packed?;
        pins.push(pin);
        by_place.insert(n, packed);
    }
    let mut layers: Vec<Packed> = Vec::with_capacity(wanted.len());
    let mut places: BTreeMap<i64, usize> = BTreeMap::new();
    for (n, one) in wanted.into_iter().enumerate() {
        let layer = match one {
            Wanted::There(layer) => Some(layer),
            Wanted::Anew(_) => by_place.remove(&n),
            Wanted::Built(id) => {
                let first = *places.entry(id).or_insert(n);
                by_place.remove(&n).or_else(|| layers.get(first).map(Packed::again))
            }
        };
        layers.push(layer.ok_or(Error::Canceled)?);
    }
    Ok(layers)
}

fn came_before(wanted: &[Wanted], id: i64) -> bool {
    wanted.iter().any(|w| matches!(w, Wanted::Built(other) if *other == id))
}

/// The archive of one layer; made where there is none yet, or none of the wanted kind.
pub(crate) fn pack(store: &Arc<Store>, id: i64, packing: Packing) -> Result<(Packed, Pin), Error> {
    if packing.youngest.is_some() {
        return pack_older(store, id, packing);
    }
    let known: Option<(String, String, i64)> = store.read(|db| {
        Ok(db
            .prepare_cached(
                "SELECT diff_id, blob, blob_size FROM image_built WHERE id = ?1 AND diff_id IS NOT NULL",
            )?
            .query_row([id], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
            .optional()?)
    })?;
    if let Some((diff_id, blob, size)) = known {
        let (diff_id, blob): (Digest, Digest) = (diff_id.parse()?, blob.parse()?);
        let pin = store.pin([diff_id, blob]);
        if store.read(|db| records::has_blob(db, &blob))? {
            let compression = Compression::of(&store.blob_path(&blob))?;
            if !packing.anew || compression == packing.compression {
                let descriptor = layer(compression, blob, size as u64);
                return Ok((Packed { descriptor, diff_id, built: Some(id), blob: None }, pin));
            }
        }
    }
    let (diff_id, blob) = write_folder(store, id, packing)?;
    let pin = store.pin([diff_id, blob.digest]);
    store.write(|tx| {
        tx.prepare_cached("UPDATE image_built SET diff_id = ?2, blob = ?3, blob_size = ?4 WHERE id = ?1")?
            .execute((id, diff_id.to_string(), blob.digest.to_string(), blob.size as i64))?;
        Ok(())
    })?;
    let descriptor = layer(packing.compression, blob.digest, blob.size);
    Ok((Packed { descriptor, diff_id, built: Some(id), blob: Some(blob) }, pin))
}

/// The archive of one layer with other times than its folder has: a layer of its own, which is unpacked where it is used.
fn pack_older(store: &Arc<Store>, id: i64, packing: Packing) -> Result<(Packed, Pin), Error> {
    let (diff_id, blob) = write_folder(store, id, packing)?;
    let pin = store.pin([diff_id, blob.digest]);
    let descriptor = layer(packing.compression, blob.digest, blob.size);
    Ok((Packed { descriptor, diff_id, built: None, blob: Some(blob) }, pin))
}

/// Writes a layer's folder into a new blob.
fn write_folder(store: &Arc<Store>, id: i64, packing: Packing) -> Result<(Digest, NewBlob), Error> {
    let folder = store.layer_path(id);
    let opened = File::open(&folder).map_err(|e| Error::os("open", &folder, e))?;
    let times = packing.youngest.map_or(archive::Times::Own, archive::Times::NotAfter);
    let options = archive::CreateOptions { times, ..archive::CreateOptions::layer() };
    write(store, packing, |out| {
        archive::create(opened.as_fd(), b"", &options, out)?;
        Ok(())
    })
}

/// Another archive of a layer that an image has; what is in it stays the same.
fn pack_anew(store: &Arc<Store>, there: &Packed, packing: Packing) -> Result<(Packed, Pin), Error> {
    let path = store.blob_path(&there.descriptor.digest);
    let file = File::open(&path).map_err(|e| Error::os("open", &path, e))?;
    let (diff_id, blob) = write(store, packing, |mut out| {
        let read = |e| Error::Layer(archive::Error::Read(e));
        let mut plain = decompress(BufReader::with_capacity(BUFFER, file)).map_err(read)?;
        std::io::copy(&mut plain, &mut out).map_err(read)?;
        out.flush().map_err(read)
    })?;
    if diff_id != there.diff_id {
        return Err(Error::Verification {
            what: "unpacked layer".into(),
            expected: there.diff_id.to_string(),
            got: diff_id.to_string(),
        });
    }
    let pin = store.pin([diff_id, blob.digest]);
    let descriptor = Descriptor {
        annotations: there.descriptor.annotations.clone(),
        ..layer(packing.compression, blob.digest, blob.size)
    };
    Ok((Packed { descriptor, diff_id, built: None, blob: Some(blob) }, pin))
}

/// Writes an archive into a new blob; gives the digest of what it is unpacked as well.
fn write(
    store: &Arc<Store>,
    packing: Packing,
    fill: impl FnOnce(BufWriter<&mut dyn Write>) -> Result<(), Error>,
) -> Result<(Digest, NewBlob), Error> {
    let lease = store.scratch()?;
    let path = lease.path().to_path_buf();
    let create = OpenOptions::new().write(true).create_new(true).open(&path);
    let file = create.map_err(|e| Error::os("create", &path, e))?;
    let failed = |e| Error::os("write", &path, e);
    let counting =
        Counting { inner: BufWriter::with_capacity(BUFFER, file), hasher: Hasher::default(), bytes: 0 };
    let encoder = Encoder::new(packing, counting).map_err(failed)?;
    let mut out = Hashing { inner: encoder, hasher: Hasher::default() };
    fill(BufWriter::with_capacity(BUFFER, &mut out))?;
    let diff_id = out.hasher.finish();
    let mut counting = out.inner.finish().map_err(failed)?;
    counting.flush().map_err(failed)?;
    counting.inner.get_ref().sync_data().map_err(failed)?;
    Ok((diff_id, NewBlob { lease, digest: counting.hasher.finish(), size: counting.bytes }))
}

fn layer(compression: Compression, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: compression.media_type().into(),
        digest,
        size,
        platform: None,
        urls: Vec::new(),
        annotations: BTreeMap::default(),
    }
}

/// Hashes what is written through it.
struct Hashing<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
