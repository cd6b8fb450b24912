//! Carrying content from a registry into the store: fetched, verified and unpacked in one go.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Semaphore, mpsc};

use super::{Progress, ProgressSink, Puller};
use crate::digest::Hasher;
use crate::direct::DirectFile;
use crate::error::blocking;
use crate::layer::{Chunks, unpack};
use crate::registry::{ATTEMPTS, Repository, back_off, causes, registry};
use crate::spec::{ConfigDocument, DOCUMENT_BYTES, Manifest};
use crate::store::{Commit, Draft, Lease, NewBlob, NewLayer, Store};
use crate::{Descriptor, Digest, Error, records};

/// Layers fetched or unpacked at the same time, in all pulls together.
const LAYERS_AT_ONCE: usize = 4;
/// Chunks (16 to 400 KiB each) waiting between the network and each of a layer's two threads.
const CHUNKS_WAITING: usize = 16;
/// A transfer that got this far since its last failure has its attempts back, bytes.
const PROGRESS_RESETS: u64 = 16 * 1024 * 1024;
/// Pause between two progress messages of one layer.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Transfers under way, by blob.
#[derive(Default)]
pub(crate) struct Flights(Mutex<HashMap<Digest, Weak<Flight>>>);

#[derive(Default)]
struct Flight(tokio::sync::Mutex<Option<Landed>>);

/// What a transfer brought; recorded by whichever pull commits first.
#[derive(Clone, Default)]
struct Landed {
    blob: Option<Arc<NewBlob>>,
    layer: Option<Arc<NewLayer>>,
}

impl Flights {
    fn join(&self, digest: Digest) -> Arc<Flight> {
        let mut map = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(flight) = map.get(&digest).and_then(Weak::upgrade) {
            return flight;
        }
        map.retain(|_, f| f.strong_count() > 0);
        let flight = Arc::new(Flight::default());
        map.insert(digest, Arc::downgrade(&flight));
        flight
    }
}

/// The permits that bound the layers in work.
pub(crate) fn permits() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(LAYERS_AT_ONCE))
}

/// One layer of an image: its blob and what that unpacks to.
#[derive(Clone)]
struct Layer {
    blob: Descriptor,
    diff_id: Digest,
}

/// Whether a layer's two forms are recorded.
struct Present {
    blob: bool,
    layer: bool,
}

impl Puller {
    pub(super) async fn fetch_layers(
        &self,
        repository: &Repository,
        manifest: &Manifest,
        config: &ConfigDocument,
        progress: &ProgressSink,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let mut seen = HashSet::new();
        let mut layers: Vec<Layer> = manifest
            .layers
            .iter()
            .zip(&config.rootfs.diff_ids)
            .filter(|(blob, _)| seen.insert(blob.digest))
            .map(|(blob, diff_id)| Layer { blob: blob.clone(), diff_id: *diff_id })
            .collect();
        for layer in &layers {
            layer.say(progress, "Pulling fs layer", 0);
        }
        layers.sort_by_key(|l| std::cmp::Reverse(l.blob.size));
        // Boxed: among many borrowed futures the compiler loses sight of their being Send (rust#100013).
        let mut transfers = FuturesUnordered::new();
        for layer in layers {
            transfers.push(self.carry(repository, layer, progress).boxed());
        }
        let mut flights = Vec::new();
        while let Some(landed) = transfers.next().await {
            let (flight, landed) = landed?;
            flights.push(flight);
            commit.blobs.extend(landed.blob);
            commit.layers.extend(landed.layer);
        }
        drop(transfers);
        Ok(())
    }

    /// Fetches what is not unpacked (artifacts, attestations): blobs that are not here yet, and the configuration.
    pub(super) async fn fetch_plain(
        &self,
        repository: &Repository,
        manifest: &Manifest,
        progress: &ProgressSink,
    ) -> Result<(Vec<Arc<NewBlob>>, Vec<u8>), Error> {
        let config = self.config(repository, manifest).await?;
        let (mut seen, mut blobs) = (HashSet::new(), Vec::new());
        for blob in manifest.layers.iter().filter(|l| seen.insert(l.digest)) {
            let layer = Layer { blob: blob.clone(), diff_id: blob.digest };
            let _permit = self.permits.acquire().await.map_err(|_| Error::Canceled)?;
            if self.present(&layer).await?.blob {
                layer.say(progress, "Already exists", 0);
                continue;
            }
            layer.say(progress, "Pulling fs layer", 0);
            blobs.extend(self.transfer(repository, &layer, false, progress).await?.blob);
            layer.say(progress, "Pull complete", 0);
        }
        Ok((blobs, config))
    }

    /// One layer, together with its flight, which lives until the commit: pulls that come meanwhile find it.
    async fn carry(
        &self,
        repository: &Repository,
        layer: Layer,
        progress: &ProgressSink,
    ) -> Result<(Arc<Flight>, Landed), Error> {
        let flight = self.flights.join(layer.blob.digest);
        let landed = self.land(&flight, repository, &layer, progress).await?;
        Ok((flight, landed))
    }

    async fn land(
        &self,
        flight: &Flight,
        repository: &Repository,
        layer: &Layer,
        progress: &ProgressSink,
    ) -> Result<Landed, Error> {
        let mut state = flight.0.lock().await;
        if let Some(landed) = &*state {
            layer.say(progress, "Pull complete", 0);
            return Ok(landed.clone());
        }
        let _permit = self.permits.acquire().await.map_err(|_| Error::Canceled)?;
        let present = self.present(layer).await?;
        let landed = match present {
            Present { blob: true, layer: true } => {
                layer.say(progress, "Already exists", 0);
                return Ok(Landed::default());
            }
            Present { blob: true, layer: false } => {
                let new = unpack_stored(self.store.clone(), layer.blob.digest, layer.diff_id).await?;
                Landed { blob: None, layer: Some(Arc::new(new)) }
            }
            Present { blob: false, layer: has } => self.transfer(repository, layer, !has, progress).await?,
        };
        layer.say(progress, "Pull complete", 0);
        *state = Some(landed.clone());
        Ok(landed)
    }

    async fn present(&self, layer: &Layer) -> Result<Present, Error> {
        let (store, blob, diff_id) = (self.store.clone(), layer.blob.digest, layer.diff_id);
        blocking(move || {
            store.read(|db| {
                Ok(Present { blob: records::has_blob(db, &blob)?, layer: records::has_layer(db, &diff_id)? })
            })
        })
        .await
    }

    /// Fetches a blob, and unpacks it while it comes.
    async fn transfer(
        &self,
        repository: &Repository,
        layer: &Layer,
        unpacked: bool,
        progress: &ProgressSink,
    ) -> Result<Landed, Error> {
        let store = self.store.clone();
        let digest = layer.blob.digest;
        let drafts = [Draft::Blob(Some(digest)), Draft::Layer];
        let mut leases =
            blocking(move || store.lease(&drafts[..if unpacked { 2 } else { 1 }])).await?.into_iter();
        let missing = || Error::Invalid("a lease is missing".into());

        let (blob_chunks, receiver) = mpsc::channel(CHUNKS_WAITING);
        let (lease, descriptor) = (leases.next().ok_or_else(missing)?, layer.blob.clone());
        let blob = blocking(move || store_blob(receiver, lease, &descriptor));
        let (layer_chunks, receiver) = mpsc::channel(CHUNKS_WAITING);
        let unpacking = leases.next().map(|lease| {
            let diff_id = layer.diff_id;
            blocking(move || {
                let (disk_bytes, diff_id) = unpack(Chunks::new(receiver), lease.path(), Some(&diff_id))?;
                Ok(NewLayer { lease, diff_id, disk_bytes })
            })
        });
        let download = async {
            let layer_chunks = unpacked.then_some(layer_chunks);
            let done = download(repository, layer, &blob_chunks, layer_chunks.clone(), progress).await;
            if let Err(Failed::Transfer(e)) = &done {
                // So that the threads do not take the end of the channel for the end of the layer.
                for sink in [Some(&blob_chunks), layer_chunks.as_ref()].into_iter().flatten() {
                    let _ = sink.send(Err(io::Error::other(e.to_string()))).await;
                }
            }
            drop((blob_chunks, layer_chunks));
            if done.is_ok() {
                layer.say(progress, "Download complete", 0);
                if unpacked {
                    layer.say(progress, "Extracting", layer.blob.size);
                }
            }
            done
        };
        let unpacking = async {
            match unpacking {
                Some(unpacking) => unpacking.await.map(|l| Some(Arc::new(l))),
                None => Ok(None),
            }
        };
        let (downloaded, blob, unpacked) = tokio::join!(download, blob, unpacking);
        // The cause first: a failed transfer fails the others too, and a blob that can't be written ends the layer's
        // bytes. A blob that is not what it should be outweighs whatever its wrong bytes did to the unpacking.
        let blob_failed_first = match downloaded {
            Err(Failed::Transfer(e)) => return Err(e),
            Err(Failed::Writer) => true,
            Ok(()) => false,
        };
        let (blob, unpacked) = match (blob, unpacked) {
            (Err(e), _) if blob_failed_first => return Err(e),
            (Err(e @ Error::Verification { .. }), _) | (_, Err(e)) | (Err(e), _) => return Err(e),
            (Ok(blob), Ok(unpacked)) => (blob, unpacked),
        };
        Ok(Landed { blob: Some(Arc::new(blob)), layer: unpacked })
    }
}

impl Layer {
    fn say(&self, progress: &ProgressSink, status: &str, current: u64) {
        let total = if current > 0 { self.blob.size } else { 0 };
        let (id, layer) = (Some(self.blob.digest.short()), Some(self.blob.digest));
        progress(Progress { id, status: status.into(), current, total, layer });
    }
}

/// Fetches a configuration, whole and verified.
pub(crate) async fn fetch_config(repository: &Repository, config: &Descriptor) -> Result<Vec<u8>, Error> {
    if config.size > DOCUMENT_BYTES {
        return Err(Error::content("image configuration", format!("larger than {DOCUMENT_BYTES} bytes")));
    }
    let mut attempt = 0;
    loop {
        let (mut response, _) = repository.blob(&config.digest, 0).await?;
        let url = response.url().to_string();
        let mut data = Vec::new();
        let done = loop {
            match response.chunk().await {
                Ok(Some(chunk)) if data.len() as u64 + chunk.len() as u64 > config.size => {
                    return Err(mismatch("image configuration", config.size, "more bytes"));
                }
                Ok(Some(chunk)) => data.extend_from_slice(&chunk),
                Ok(None) => break Ok(()),
                Err(e) => break Err(registry(&url, causes(&e))),
            }
        };
        match done {
            Ok(()) if Digest::of(&data) == config.digest => return Ok(data),
            Ok(()) => return Err(mismatch("image configuration", config.digest, Digest::of(&data))),
            Err(e) if attempt + 1 == ATTEMPTS => return Err(e),
            Err(_) => {
                back_off(attempt).await;
                attempt += 1;
            }
        }
    }
}

fn mismatch(what: &str, expected: impl ToString, got: impl ToString) -> Error {
    Error::Verification { what: what.into(), expected: expected.to_string(), got: got.to_string() }
}

enum Failed {
    /// The registry's fault, or content of the wrong length.
    Transfer(Error),
    /// The thread that writes the blob went away; it says itself why.
    Writer,
}

/// Sends a blob's bytes to who writes them and who unpacks them, resuming where the connection broke off.
async fn download(
    repository: &Repository,
    layer: &Layer,
    blob: &mpsc::Sender<io::Result<Bytes>>,
    mut unpacking: Option<mpsc::Sender<io::Result<Bytes>>>,
    progress: &ProgressSink,
) -> Result<(), Failed> {
    let size = layer.blob.size;
    let (mut offset, mut failures, mut failed_at) = (0, 0, 0);
    let mut last_said = Instant::now();
    loop {
        let broken = match repository.content(&layer.blob, offset).await {
            Ok((mut response, start)) => {
                let url = response.url().to_string();
                let mut skip = offset - start;
                loop {
                    match response.chunk().await {
                        Ok(Some(mut chunk)) => {
                            let skipped = skip.min(chunk.len() as u64);
                            skip -= skipped;
                            let _ = chunk.split_to(skipped as usize);
                            offset += chunk.len() as u64;
                            if offset > size {
                                return Err(Failed::Transfer(mismatch(
                                    &format!("layer {}", layer.blob.digest),
                                    format!("{size} bytes"),
                                    "more",
                                )));
                            }
                            if blob.send(Ok(chunk.clone())).await.is_err() {
                                return Err(Failed::Writer);
                            }
                            // Should the unpacking have failed, only the whole blob tells whether its bytes are why.
                            if let Some(layer) = &unpacking
                                && layer.send(Ok(chunk)).await.is_err()
                            {
                                unpacking = None;
                            }
                            if last_said.elapsed() >= PROGRESS_EVERY {
                                last_said = Instant::now();
                                layer.say(progress, "Downloading", offset);
                            }
                        }
                        Ok(None) => break registry(&url, "connection closed before the end of the layer"),
                        Err(e) => break registry(&url, causes(&e)),
                    }
                }
            }
            // Refusals are final; `Registry` is all that a second attempt may help with.
            Err(e @ Error::Registry { .. }) => e,
            Err(e) => return Err(Failed::Transfer(e)),
        };
        if offset == size {
            return Ok(());
        }
        if offset - failed_at >= PROGRESS_RESETS {
            failures = 0;
        }
        (failures, failed_at) = (failures + 1, offset);
        if failures == ATTEMPTS {
            return Err(Failed::Transfer(broken));
        }
        tracing::debug!(layer = %layer.blob.digest, offset, error = %broken, "resuming");
        layer.say(progress, "Retrying", 0);
        back_off(failures - 1).await;
    }
}

/// Writes a blob's bytes to its lease, verifies them and sees them onto the disk.
fn store_blob(
    mut chunks: mpsc::Receiver<io::Result<Bytes>>,
    lease: Lease,
    descriptor: &Descriptor,
) -> Result<NewBlob, Error> {
    let path = lease.path();
    let mut file = DirectFile::create_new(path).map_err(|e| Error::os("create", path, e))?;
    let (mut hasher, mut size) = (Hasher::default(), 0);
    while let Some(chunk) = chunks.blocking_recv() {
        let chunk = chunk.map_err(|e| Error::os("fetch", path, e))?;
        hasher.update(&chunk);
        size += chunk.len() as u64;
        file.write_all(&chunk).map_err(|e| Error::os("write", path, e))?;
    }
    let got = hasher.finish();
    if got != descriptor.digest {
        return Err(mismatch(&format!("layer {}", descriptor.digest), descriptor.digest, got));
    }
    file.finish().map_err(|e| Error::os("write", path, e))?;
    Ok(NewBlob { lease, digest: got, size })
}

/// Unpacks a layer from its stored blob.
pub(crate) async fn unpack_stored(
    store: Arc<Store>,
    blob: Digest,
    diff_id: Digest,
) -> Result<NewLayer, Error> {
    blocking(move || {
        let lease = store.lease(&[Draft::Layer])?.pop().ok_or(Error::Canceled)?;
        let path = store.blob_path(&blob);
        let file = std::fs::File::open(&path).map_err(|e| Error::os("open", &path, e))?;
        let (disk_bytes, diff_id) = unpack(io::BufReader::new(file), lease.path(), Some(&diff_id))?;
        Ok(NewLayer { lease, diff_id, disk_bytes })
    })
    .await
}
