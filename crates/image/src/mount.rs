//! Root file systems of containers.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _};

use crate::error::blocking;
use crate::pull::{settle_later, unpack_stored};
use crate::store::{Commit, Pin, Store};
use crate::{Digest, Error, Platform, records};

/// Longest key of a mount, bytes: it is a file name.
const KEY_BYTES: usize = 255;

/// Folders for one overlay mount. Whoever runs the container mounts them, in a mount namespace of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFs {
    /// Layers, the topmost first (overlayfs' order).
    pub lower: Vec<PathBuf>,
    /// What the container writes.
    pub upper: PathBuf,
    /// Overlayfs' own work folder, on the same file system as `upper`.
    pub work: PathBuf,
}

pub(crate) async fn mount(store: Arc<Store>, image: Digest, key: &str) -> Result<RootFs, Error> {
    check_key(key)?;
    let key = key.to_string();
    let (manifest, chain, _pin) = {
        let (store, key) = (store.clone(), key.clone());
        blocking(move || plan(&store, image, &key)).await?
    };
    unpack(&store, &chain).await?;
    blocking(move || record(&store, &manifest, &chain, &key)).await
}

/// What a key was mounted from.
pub(crate) fn manifest(db: &Connection, key: &str) -> Result<Option<Digest>, Error> {
    let found: Option<String> = db
        .prepare_cached("SELECT manifest FROM image_mount WHERE key = ?1")?
        .query_row([key], |r| r.get(0))
        .optional()?;
    found.map(|m| m.parse()).transpose()
}

pub(crate) type Chain = Vec<(Digest, Option<Digest>)>;

/// The manifest, and its layers from the lowest up: with the blob of those that are still to be unpacked.
fn plan(store: &Arc<Store>, image: Digest, key: &str) -> Result<(Digest, Chain, Pin), Error> {
    let manifest = store.read(|db| {
        // A container keeps what it was made from, whatever else the image has meanwhile.
        match self::manifest(db, key)? {
            Some(manifest) => Ok(manifest),
            None => records::manifest_of(db, &image, &Platform::host())?
                .map(|(manifest, _)| manifest)
                .ok_or_else(|| Error::NoSuchImage(image.to_string())),
        }
    })?;
    let pin = store.pin([manifest]);
    let chain = chain(store, &manifest)?;
    Ok((manifest, chain, pin))
}

/// Layers of a manifest, from the lowest up.
pub(crate) fn chain(store: &Store, manifest: &Digest) -> Result<Chain, Error> {
    store.read(|db| {
        let rows: Vec<(String, String, bool)> = db
            .prepare_cached(
                // Child 0 of a manifest is its configuration, its layers follow.
                "SELECT diff_id, child, diff_id IN (SELECT diff_id FROM image_layer)
                 FROM image_chain JOIN image_child ON parent = manifest AND image_child.position = image_chain.position + 1
                 WHERE manifest = ?1 ORDER BY image_chain.position",
            )?
            .query_map([manifest.to_string()], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
            .collect::<Result<_, _>>()?;
        rows.iter()
            .map(|(diff_id, blob, here)| {
                Ok((diff_id.parse()?, if *here { None } else { Some(blob.parse()?) }))
            })
            .collect::<Result<Chain, Error>>()
    })
}

/// Unpacks those layers that are not.
pub(crate) async fn unpack(store: &Arc<Store>, chain: &Chain) -> Result<(), Error> {
    let mut unpacked = false;
    for (diff_id, blob) in chain {
        let Some(blob) = blob else { continue };
        let layer = unpack_stored(store.clone(), *blob, *diff_id).await?;
        let to = store.clone();
        blocking(move || to.commit(&Commit { layers: vec![Arc::new(layer)], ..Commit::default() })).await?;
        unpacked = true;
    }
    if unpacked {
        settle_later(store);
    }
    Ok(())
}

/// The folder of each layer of a chain, from the lowest up; one that comes twice is there once.
pub(crate) fn numbers(store: &Store, chain: &Chain) -> Result<Vec<i64>, Error> {
    let mut wanted = Vec::new();
    store.read(|db| {
        for (diff_id, _) in chain {
            let id: i64 = db
                .prepare_cached("SELECT id FROM image_layer WHERE diff_id = ?1")?
                .query_row([diff_id.to_string()], |r| r.get(0))?;
            // A layer may come twice in one image; overlayfs refuses it, and the upper one decides anyway.
            wanted.retain(|other| *other != id);
            wanted.push(id);
        }
        Ok(())
    })?;
    Ok(wanted)
}

/// Makes the container's folders and records that they, and the layers, are used.
fn record(store: &Store, manifest: &Digest, chain: &Chain, key: &str) -> Result<RootFs, Error> {
    let wanted = numbers(store, chain)?;
    let recorded: Vec<i64> = store.read(|db| {
        Ok(db
            .prepare_cached("SELECT layer FROM image_mount_layer WHERE key = ?1")?
            .query_map([key], |r| r.get(0))?
            .collect::<Result<_, _>>()?)
    })?;
    let mut sorted = wanted.clone();
    sorted.sort_unstable();
    if recorded != sorted || sorted.is_empty() {
        store.write(|tx| {
            tx.prepare_cached("INSERT OR IGNORE INTO image_mount(key, manifest) VALUES(?1, ?2)")?
                .execute((key, manifest.to_string()))?;
            tx.prepare_cached("DELETE FROM image_mount_layer WHERE key = ?1")?.execute([key])?;
            for layer in &sorted {
                tx.prepare_cached("INSERT INTO image_mount_layer(key, layer) VALUES(?1, ?2)")?
                    .execute((key, layer))?;
            }
            Ok(())
        })?;
    }
    let folder = store.container_path(key);
    let (upper, work) = (folder.join("upper"), folder.join("work"));
    let lower: Vec<PathBuf> =
        wanted.iter().rev().map(|id| store.layer_path(*id)).chain([store.bottom_path()]).collect();
    for path in [&folder, &work] {
        make_folder(path)?;
    }
    if make_folder(&upper)? {
        adopt_root(lower.first(), &upper)?;
    }
    Ok(RootFs { lower, upper, work })
}

/// Gives a new upper folder the owner and mode of the tree below it: the root of the merged tree shows the upper's.
pub(crate) fn adopt_root(top: Option<&PathBuf>, upper: &PathBuf) -> Result<(), Error> {
    let (mode, uid, gid) = match top {
        Some(top) => {
            let meta = fs::metadata(top).map_err(|e| Error::os("stat", top, e))?;
            (meta.mode() & 0o7777, meta.uid(), meta.gid())
        }
        None => (0o755, 0, 0),
    };
    chown(upper, Some(uid), Some(gid)).map_err(|e| Error::os("chown", upper, e))?;
    fs::set_permissions(upper, fs::Permissions::from_mode(mode)).map_err(|e| Error::os("chmod", upper, e))
}

/// Whether the folder is new.
pub(crate) fn make_folder(path: &PathBuf) -> Result<bool, Error> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::os("mkdir", path, e)),
    }
}

/// A key becomes a file name.
pub(crate) fn check_key(key: &str) -> Result<(), Error> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if key.is_empty() || key.len() > KEY_BYTES || key.starts_with('.') || !key.bytes().all(fine) {
        return Err(Error::Invalid(format!("invalid key of a root file system: {key:?}")));
    }
    Ok(())
}
