//! Images that are mounted in a container (`--mount type=image`): their trees, read only.
//!
//! ```text
//!  create: image found, its layers kept for the container (key ID.imageN) --> record
//!  start:  overlay of the layers in a namespace of one thread --(the shim takes its part from there)--> container
//!  remove: layers given back
//! ```
//! Nothing of it is mounted on the host.

use std::path::PathBuf;
use std::sync::Arc;

use super::Record;
use super::mounts::MountPoint;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::rootfs::{self, Held, Layers};

/// What the image store calls the n-th image mount of a container.
fn key(id: &str, n: usize) -> String {
    format!("{id}.image{n}")
}

/// The digest of each image mount.
fn digests(mounts: &[MountPoint]) -> Result<Vec<image::Digest>> {
    let images = mounts.iter().filter_map(|m| m.image.as_ref());
    images.map(|image| image.id.parse().map_err(Error::from)).collect()
}

/// Finds the images that mounts name: a name may mean another one later.
pub async fn resolve(engine: &Engine, mounts: &mut [MountPoint]) -> Result<()> {
    for image in mounts.iter_mut().filter_map(|m| m.image.as_mut()) {
        // Those of another container's are known.
        if image.id.is_empty() {
            image.id = engine.images.get(&image.name).await?.id.to_string();
        }
    }
    Ok(())
}

/// Keeps the layers for the container `id`, until [`discard`]; answers them with the part that is meant.
pub async fn keep(engine: &Engine, id: &str, mounts: &[MountPoint]) -> Result<Vec<(Layers, PathBuf)>> {
    let parts = mounts.iter().filter(|m| m.image.is_some()).map(|m| PathBuf::from("/").join(&m.subpath));
    let mut trees = Vec::new();
    for ((n, digest), part) in digests(mounts)?.iter().enumerate().zip(parts) {
        let rootfs = engine.images.mount(digest, &key(id, n)).await?;
        trees.push((Layers { lower: rootfs.lower, upper: None }, part));
    }
    Ok(trees)
}

/// Mounts them for a start. What is answered is needed until the container's own mounts are made.
pub async fn hold(engine: &Arc<Engine>, record: &Record) -> Result<Option<Held>> {
    let trees = keep(engine, &record.id, &record.mounts).await?;
    if trees.is_empty() {
        return Ok(None);
    }
    rootfs::hold(trees, engine.paths.exec_root.join("rootfs")).await.map(Some)
}

/// Gives back all that the image store keeps for a container: its own files and the images that it mounts.
pub async fn discard(engine: &Engine, id: &str, mounts: &[MountPoint]) -> Result<()> {
    for n in 0..mounts.iter().filter(|m| m.image.is_some()).count() {
        engine.images.unmount_and_discard(&key(id, n)).await?;
    }
    engine.images.unmount_and_discard(id).await.map_err(Error::from)
}
