//! Looking into a container's file system from outside.
//!
//! A container's overlay is mounted only in its own mount namespace, so nothing is ever mounted on the host.
//! Where the engine itself must see the merged files (a user's number, what an image has at a volume's place),
//! [`merged`] mounts the overlay read-only in a namespace of one short-lived thread.

use std::path::{Path, PathBuf};

use image::RootFs;

use crate::error::{Error, Result};

#[path = "rootfs/sys.rs"]
mod sys;

/// Runs `work` on a thread that sees the merged root file system at the path it is given. The mount ends with
/// the thread. Below that path the image decides what links mean: resolve with [`open_inside`].
pub async fn merged<T: Send + 'static>(
    rootfs: RootFs,
    scratch: PathBuf,
    work: impl FnOnce(&Path) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (tx, rx) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("rootfs".into())
        .spawn(move || {
            let result = sys::mount_privately(&rootfs, &scratch).and_then(|()| work(&scratch));
            // The one that asked may have gone away.
            let _ = tx.send(result);
        })
        .map_err(|e| Error::internal(format!("start a thread: {e}")))?;
    rx.await.map_err(|_| Error::internal("the thread that looked into the image died"))?
}

/// Opens `path` inside `root`, links resolved as if `root` were `/`; `None` when it is not there.
pub fn open_inside(root: &Path, path: &Path) -> Result<Option<std::fs::File>> {
    sys::open_inside(root, path)
}

/// `/proc/self/fd/N` of an open file: a path for calls that take no descriptor.
pub fn path_of(file: &std::fs::File) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Bytes the files below a folder take on disk, hard links once.
pub fn bytes_below(folder: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::HashSet::new();
    let mut pending = vec![folder.to_owned()];
    let mut total = 0;
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            // One that vanished meanwhile takes nothing.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                pending.push(entry.path());
            } else if meta.nlink() == 1 || seen.insert((meta.dev(), meta.ino())) {
                total += meta.len();
            }
        }
    }
    Ok(total)
}

/// Copies what the image has at a volume's place into the new volume, with owners, modes, times and links.
pub fn copy_into_volume(source: &Path, target: &Path) -> Result<()> {
    sys::copy_tree(source, target)
}
