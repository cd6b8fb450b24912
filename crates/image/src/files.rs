//! What a layer of an image holds, told from its folder in overlayfs' form: a character device 0/0 says that something
//! of the layers below is gone.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use rusqlite::OptionalExtension as _;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::error::blocking;
use crate::store::Store;
use crate::{Digest, Error, mount};

/// Something in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile {
    /// From the root on, with a leading slash; what is no UTF-8 is shown by its replacement.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Bytes, of a file.
    pub size: u64,
    /// Permissions.
    pub mode: u32,
}

/// Kinds of what is in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// An ordinary file.
    File,
    /// A folder with nothing of this layer in it; others are told by what they hold.
    Folder,
    /// A symbolic link, and where it leads.
    Link(String),
    /// A device, a pipe or a socket.
    Special,
    /// Something of a layer below that this one takes away.
    Removed,
}

/// What a layer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFiles {
    /// Its digest, unpacked.
    pub diff_id: String,
    /// The first of them, in the order of their paths.
    pub files: Vec<LayerFile>,
    /// How many there are.
    pub total: u64,
}

/// Lists a layer of a manifest: at most `most` of what is in it. Unpacks what is not yet.
pub(crate) async fn list(
    store: Arc<Store>,
    manifest: Digest,
    diff_id: String,
    most: usize,
) -> Result<LayerFiles, Error> {
    let pin = store.pin([manifest]);
    let chain = {
        let store = store.clone();
        blocking(move || mount::chain(&store, &manifest)).await?
    };
    mount::unpack(&store, &chain).await?;
    blocking(move || {
        let _pin = pin;
        let id: Option<i64> = store.read(|db| {
            Ok(db
                .prepare_cached("SELECT id FROM image_layer WHERE diff_id = ?1")?
                .query_row([&diff_id], |row| row.get(0))
                .optional()?)
        })?;
        let id = id.ok_or_else(|| Error::Invalid(format!("layer {diff_id} is not here")))?;
        let (mut files, mut total) = (Vec::new(), 0);
        let root = store.layer_path(id);
        walk(&root, "", most, &mut files, &mut total).map_err(|e| Error::os("read", &root, e))?;
        Ok(LayerFiles { diff_id, files, total })
    })
    .await
}

/// The layers of an image, and what each has.
#[derive(Default)]
pub struct LayerFolders {
    /// Digests of their blobs and their folders, the topmost first.
    layers: Vec<(Digest, OwnedFd)>,
}

impl LayerFolders {
    /// Opens those of a manifest, unpacking what is not yet.
    pub(crate) async fn open(store: Arc<Store>, manifest: Digest) -> Result<Self, Error> {
        let chain = {
            let store = store.clone();
            blocking(move || mount::chain(&store, &manifest)).await?
        };
        mount::unpack(&store, &chain).await?;
        blocking(move || {
            let found: Vec<(String, i64)> = store.read(|db| {
                Ok(db
                    .prepare_cached(
                        "SELECT child, image_layer.id
                         FROM image_chain
                         JOIN image_child ON parent = manifest AND image_child.position = image_chain.position + 1
                         JOIN image_layer ON image_layer.diff_id = image_chain.diff_id
                         WHERE manifest = ?1 ORDER BY image_chain.position DESC",
                    )?
                    .query_map([manifest.to_string()], |r| Ok((r.get(0)?, r.get(1)?)))?
                    .collect::<Result<_, _>>()?)
            })?;
            let open = |(digest, id): (String, i64)| {
                let (path, flags) = (store.layer_path(id), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC);
                let folder = rustix::fs::open(&path, flags, Mode::empty());
                Ok((digest.parse()?, folder.map_err(|e| Error::os("open", &path, e))?))
            };
            Ok(Self { layers: found.into_iter().map(open).collect::<Result<_, Error>>()? })
        })
        .await
    }

    /// The topmost layer that has something at this path, be it gone in the layers upon it.
    pub fn find(&self, path: &str) -> Option<Digest> {
        let path = path.trim_start_matches('/');
        let has = |folder: &OwnedFd| {
            // A link on the way is no folder of this layer's, and leads nowhere.
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = rustix::fs::openat2(folder, path, flags, Mode::empty(), resolve);
            found.and_then(|fd| rustix::fs::fstat(&fd)).is_ok_and(|stat| {
                FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || stat.st_rdev != 0
            })
        };
        self.layers.iter().find(|(_, folder)| has(folder)).map(|(digest, _)| *digest)
    }
}

fn walk(folder: &Path, at: &str, most: usize, files: &mut Vec<LayerFile>, total: &mut u64) -> io::Result<()> {
    let mut names: Vec<_> =
        fs::read_dir(folder)?.map(|entry| entry.map(|e| e.file_name())).collect::<Result<_, _>>()?;
    names.sort_unstable();
    for name in names {
        let (real, path) = (folder.join(&name), format!("{at}/{}", name.to_string_lossy()));
        let meta = fs::symlink_metadata(&real)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            let before = *total;
            walk(&real, &path, most, files, total)?;
            if *total > before {
                continue;
            }
        }
        *total += 1;
        if files.len() >= most {
            continue;
        }
        let kind = match () {
            () if kind.is_dir() => FileKind::Folder,
            () if kind.is_file() => FileKind::File,
            () if kind.is_symlink() => FileKind::Link(fs::read_link(&real)?.to_string_lossy().into_owned()),
            () if kind.is_char_device() && meta.rdev() == 0 => FileKind::Removed,
            () => FileKind::Special,
        };
        let size = if kind == FileKind::File { meta.size() } else { 0 };
        files.push(LayerFile { path, kind, size, mode: meta.mode() & 0o7777 });
    }
    Ok(())
}
