//! Images of OCI layouts at the client (`--build-context x=oci-layout://…`): their blobs come by the session and are
//! taken in as an archive would be.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::from_session;
use crate::Error;
use crate::error::Kind;
use crate::hex;
use crate::platform::Platform;
use crate::session::content::ContentStore;
use crate::worker::Worker;

/// Largest index, manifest or configuration, in bytes.
const DOCUMENT: u64 = 8 << 20;
/// Most blobs of an image.
const BLOBS: usize = 600;
/// Bytes on their way into the store.
const PIPE: usize = 256 << 10;

#[derive(Deserialize)]
struct Described {
    digest: String,
    size: u64,
    platform: Option<Of>,
}

#[derive(Deserialize)]
struct Of {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    media_type: String,
    config: Option<Described>,
    #[serde(default)]
    layers: Vec<Described>,
    #[serde(default)]
    manifests: Vec<Described>,
}

fn unknown(words: String) -> Error {
    Error::invalid(words).with_kind(Kind::Unknown)
}

async fn document(store: &ContentStore, digest: &str) -> Result<(Document, Vec<u8>), Error> {
    let mut data = Vec::new();
    let read = store.open(digest).take(DOCUMENT + 1).read_to_end(&mut data).await;
    read.map_err(|e| unknown(format!("{digest}: {e}")))?;
    if data.len() as u64 > DOCUMENT || hex(&Sha256::digest(&data)) != digest {
        return Err(unknown(format!("{digest} is not what its digest says")));
    }
    let read = serde_json::from_slice(&data).map_err(|e| unknown(format!("{digest}: {e}")))?;
    Ok((read, data))
}

/// Takes the image of this digest into the worker's store: of an index the manifest that fits a platform.
///
/// # Errors
/// The client's; an image that is not whole, or of other platforms alone.
pub(super) async fn load<W: Worker>(
    worker: &W,
    store: &ContentStore,
    digest: &str,
    platform: &Platform,
) -> Result<(), Error> {
    let (top, data) = document(store, digest).await?;
    let described = json!({ "mediaType": media_type(&top), "digest": digest, "size": data.len() });
    let mut small = vec![(digest.to_owned(), data)];
    let manifest = if top.config.is_some() {
        top
    } else {
        let fits = |d: &&Described| {
            let normal = |p: &Of| Platform::normal(&p.os, &p.architecture, &p.variant);
            d.platform.as_ref().is_some_and(|p| normal(p) == platform.normalized())
        };
        let none = || {
            let words = format!("no match for platform in manifest {digest}: {platform}");
            Error::invalid(words).with_kind(Kind::NotFound)
        };
        // A layout of one image need not say what it is for.
        let only = top.manifests.first().filter(|m| top.manifests.len() == 1 && m.platform.is_none());
        let chosen = top.manifests.iter().find(fits).or(only).ok_or_else(none)?;
        let (manifest, data) = document(store, &chosen.digest).await?;
        small.push((chosen.digest.clone(), data));
        manifest
    };
    let mut seen = BTreeSet::new();
    let mut blobs = Vec::new();
    for blob in manifest.config.iter().chain(&manifest.layers) {
        if seen.insert(blob.digest.clone()) {
            // What the manifest says of a length may be wrong, and the archive must say it before.
            let size = store.size(&blob.digest).await.map_err(from_session)?;
            let size = size.ok_or_else(|| unknown(format!("{}: not found", blob.digest)))?;
            if size != blob.size || blobs.len() >= BLOBS {
                return Err(unknown(format!("{} has another size than the manifest says", blob.digest)));
            }
            blobs.push((blob.digest.clone(), size));
        }
    }
    let (reader, mut writer) = tokio::io::duplex(PIPE);
    let write = async move {
        let index = json!({ "schemaVersion": 2, "manifests": [described] }).to_string().into_bytes();
        for (name, data) in
            [("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()), ("index.json", index)]
        {
            member(&mut writer, name, data.len() as u64, data.as_slice()).await?;
        }
        for (digest, data) in small {
            member(&mut writer, &path(&digest), data.len() as u64, data.as_slice()).await?;
        }
        for (digest, size) in blobs {
            member(&mut writer, &path(&digest), size, store.open(&digest)).await?;
        }
        writer.write_all(&[0; 1024]).await?;
        writer.shutdown().await
    };
    let (written, loaded) = tokio::join!(write, worker.load_archive(Box::pin(reader)));
    // A client that fails is why the archive is cut off.
    match (written, loaded) {
        (Err(e), _) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(unknown(e.to_string())),
        (_, loaded) => loaded,
    }
}

fn media_type(document: &Document) -> &str {
    match (document.media_type.as_str(), document.config.is_some()) {
        ("", true) => "application/vnd.oci.image.manifest.v1+json",
        ("", false) => "application/vnd.oci.image.index.v1+json",
        (other, _) => other,
    }
}

fn path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// One file of a tar archive (POSIX ustar); all names here are short.
async fn member(
    out: &mut (impl AsyncWrite + Unpin),
    name: &str,
    size: u64,
    mut data: impl AsyncRead + Unpin,
) -> std::io::Result<()> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, &name[..name.len().min(100)]);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&header).await?;
    let sent = tokio::io::copy(&mut (&mut data).take(size), out).await?;
    if sent != size {
        return Err(std::io::Error::other(format!("{name} is shorter than was said")));
    }
    out.write_all(&[0; 512][..(size.wrapping_neg() % 512) as usize]).await
}
