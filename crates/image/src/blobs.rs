//! Single blobs and documents, of layers that builds made and of what is kept at registries besides images: build
//! caches go to and fro by these.

use std::io::{self, BufReader};
use std::path::PathBuf;

use futures_util::TryStreamExt as _;
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

use crate::digest::Hasher;
use crate::error::blocking;
use crate::layer::{Hashing, unpack};
use crate::pack::{Packed, Packing, pack};
use crate::registry::{Source, causes};
use crate::store::{Draft, NewBlob, Pin};
use crate::{Credentials, Descriptor, Digest, Error, Images, Reference};

/// Bytes read at once.
const BUFFER: usize = 256 * 1024;

/// A layer of a build as a blob, whose file stays for as long as this lives.
pub struct PackedLayer {
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of the archive in it.
    pub diff_id: Digest,
    /// Where it is.
    pub file: PathBuf,
    _blob: Option<NewBlob>,
    _pin: Pin,
}

/// A manifest to be kept at a registry, with what it names.
pub struct Manifested<'a> {
    /// Blobs, with their sizes and files.
    pub blobs: Vec<(Digest, u64, PathBuf)>,
    /// Small blobs.
    pub data: Vec<(Digest, &'a [u8])>,
    /// The manifest's media type.
    pub media_type: &'a str,
    /// The manifest.
    pub manifest: &'a [u8],
}

impl Images {
    /// Layers of builds as blobs, in this order; those that an image has are not made anew.
    ///
    /// # Errors
    /// Faults of the disk.
    pub async fn pack_built(&self, ids: Vec<i64>, packing: Packing) -> Result<Vec<PackedLayer>, Error> {
        let store = self.store.clone();
        blocking(move || {
            let one = |id: i64| {
                let (Packed { descriptor, diff_id, blob, .. }, pin) = pack(&store, id, packing)?;
                let file = match &blob {
                    Some(new) => new.lease.path().to_path_buf(),
                    None => store.blob_path(&descriptor.digest),
                };
                Ok(PackedLayer { descriptor, diff_id, file, _blob: blob, _pin: pin })
            };
            ids.into_iter().map(one).collect()
        })
        .await
    }

    /// Makes a layer of a build of a blob; gives its number and its bytes on disk.
    ///
    /// # Errors
    /// [`Error::Verification`] for a blob that is not what its digests say; [`Error::Layer`] for one that is none.
    pub async fn unpack_built(
        &self,
        input: impl AsyncRead + Send + Unpin + 'static,
        digest: Digest,
        diff_id: Digest,
    ) -> Result<(i64, u64), Error> {
        let store = self.store.clone();
        let input = SyncIoBridge::new(input);
        let made = blocking(move || {
            let layer = store.lease(&[Draft::Layer])?.pop().ok_or(Error::Canceled)?;
            let mut input =
                BufReader::with_capacity(BUFFER, Hashing { inner: input, hasher: Hasher::default() });
            let (disk_bytes, _) = unpack(&mut input, layer.path(), Some(&diff_id))?;
            // The digest covers all bytes, also those after the end of the compressed stream.
            io::copy(&mut input, &mut io::sink()).map_err(|e| Error::Layer(archive::Error::Read(e)))?;
            let got = input.into_inner().hasher.finish();
            if got != digest {
                return Err(Error::Verification {
                    what: "layer".into(),
                    expected: digest.to_string(),
                    got: got.to_string(),
                });
            }
            let id = layer.id();
            store.write(|tx| {
                tx.prepare_cached("INSERT INTO image_built(id, disk_bytes, boot) VALUES(?1, ?2, ?3)")?
                    .execute((id, disk_bytes as i64, store.boot()))?;
                layer.end(tx)
            })?;
            layer.kept();
            Ok((id, disk_bytes))
        })
        .await?;
        crate::pull::settle_later(&self.store);
        Ok(made)
    }

    /// An index or manifest at its registry, by digest or else by the reference's tag; nothing is pulled.
    ///
    /// # Errors
    /// What the registry answers, in Docker's words.
    pub async fn fetch_document(
        &self,
        reference: &Reference,
        digest: Option<&Digest>,
        auth: Option<Credentials>,
    ) -> Result<Vec<u8>, Error> {
        Ok(self.puller.registries.repository(reference, auth).document(digest).await?.data)
    }

    /// Reads a blob at its registry. Its bytes are not held against the digest here.
    ///
    /// # Errors
    /// What the registry answers, in Docker's words.
    pub async fn open_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        auth: Option<Credentials>,
    ) -> Result<impl AsyncRead + Send + Unpin + use<>, Error> {
        let (response, _) = self.puller.registries.repository(reference, auth).blob(digest, 0).await?;
        let body = response.bytes_stream().map_err(|e| io::Error::other(causes(&e)));
        Ok(tokio_util::io::StreamReader::new(Box::pin(body)))
    }

    /// Asks a web server, by POST where there is a body: its number, its address after redirections, and its body.
    ///
    /// # Errors
    /// [`Error::Registry`] when it cannot be asked.
    pub async fn ask_url(
        &self,
        url: &str,
        headers: &[(String, String)],
        body: Option<Vec<u8>>,
    ) -> Result<(u16, String, impl AsyncRead + Send + Unpin + use<>), Error> {
        let response = self.puller.registries.ask_url(url, headers, body).await?;
        let (status, url) = (response.status().as_u16(), response.url().to_string());
        let body = response.bytes_stream().map_err(|e| io::Error::other(causes(&e)));
        Ok((status, url, tokio_util::io::StreamReader::new(Box::pin(body))))
    }

    /// Keeps a manifest and what it names at a registry; what is there is not sent again.
    ///
    /// # Errors
    /// What the registry answers, in Docker's words.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        auth: Option<Credentials>,
        what: Manifested<'_>,
    ) -> Result<(), Error> {
        let repository = self.puller.registries.repository(reference, auth).for_push(Vec::new()).await?;
        for (digest, size, file) in &what.blobs {
            repository.send_blob(digest, *size, &Source::File(file), None, &|_| {}).await?;
        }
        for (digest, data) in &what.data {
            repository.send_blob(digest, data.len() as u64, &Source::Bytes(data), None, &|_| {}).await?;
        }
        repository.send_document(&reference.target(), what.media_type, what.manifest).await
    }
}
