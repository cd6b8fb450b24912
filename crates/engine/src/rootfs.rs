//! Looking into a container's file system from outside.
//!
//! [`Root`] is a container's `/` as it stands in the container: that of its first process while it runs, else its
//! overlay with its volumes, mounted in a namespace of one short-lived thread. Every path in it is resolved by the
//! kernel in one call that cannot leave it, so that a container that exchanges folders and links meanwhile gains
//! nothing (CVE-2018-15664); nothing of the container is ever run or loaded (CVE-2019-14271).
//!
//! A container's overlay is mounted only in its own mount namespace, so nothing is ever mounted on the host.
//! Where the engine itself must see the merged files (a user's number, what an image has at a volume's place),
//! [`merged`] mounts the overlay read-only in a namespace of one short-lived thread.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use image::RootFs;
use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;

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
    on_thread(move || {
        sys::mount_privately(&rootfs, &scratch)?;
        work(&scratch)
    })
    .await
}

/// Layers, the topmost first, and where changes to them go (overlayfs' upper and work folders), if anywhere.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// Not written to.
    pub lower: Vec<PathBuf>,
    /// Written to.
    pub upper: Option<(PathBuf, PathBuf)>,
}

/// Runs `work` on a thread that sees each of these trees at the path it is given. The mounts end with the thread.
pub async fn trees<T: Send + 'static>(
    trees: Vec<Layers>,
    scratch: PathBuf,
    work: impl FnOnce(&[PathBuf]) -> Result<T> + Send + 'static,
) -> Result<T> {
    on_thread(move || {
        let places = sys::mount_trees(&trees, &scratch)?;
        work(&places)
    })
    .await
}

/// Parts of trees that stand in a mount namespace of their own, for as long as this lives.
pub struct Held {
    /// The namespace.
    pub namespace: PathBuf,
    /// The path of each part in it.
    pub places: Vec<PathBuf>,
    _end: std::sync::mpsc::Sender<()>,
}

/// Mounts trees and holds a part of each.
pub async fn hold(parts: Vec<(Layers, PathBuf)>, scratch: PathBuf) -> Result<Held> {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let (tx, rx) = tokio::sync::oneshot::channel();
    let work = move || -> Result<(PathBuf, Vec<PathBuf>)> {
        let places = mount_parts(parts, &scratch)?;
        let thread = rustix::thread::gettid().as_raw_nonzero();
        Ok((PathBuf::from(format!("/proc/{}/task/{thread}/ns/mnt", std::process::id())), places))
    };
    std::thread::Builder::new()
        .name("trees".into())
        .spawn(move || {
            let done = work();
            let holds = done.is_ok();
            if tx.send(done).is_ok() && holds {
                // Until the other end is gone.
                let _ = ended.recv();
            }
        })
        .map_err(|e| Error::internal(format!("start a thread: {e}")))?;
    let (namespace, places) =
        rx.await.map_err(|_| Error::internal("the thread that mounted trees died"))??;
    Ok(Held { namespace, places, _end: end })
}

/// Gives this thread a mount namespace of its own in which a part of each tree stands at a place of its own below
/// `scratch`: the n-th at [`part`].
fn mount_parts(parts: Vec<(Layers, PathBuf)>, scratch: &Path) -> Result<Vec<PathBuf>> {
    let (trees, paths): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let mounted = sys::mount_trees(&trees, scratch)?;
    let bind =
        |(n, (tree, path)): (usize, (&PathBuf, &PathBuf))| sys::bind_part(tree, path, scratch, &part_name(n));
    mounted.iter().zip(&paths).enumerate().map(bind).collect()
}

fn part_name(n: usize) -> String {
    format!("part-{n}")
}

/// Where the trees stand of a container that is looked at: beside the place where its files do, which covers what is
/// below it.
fn parts(scratch: &Path) -> PathBuf {
    scratch.with_extension("parts")
}

/// Where [`look`] shows the n-th of [`Place::Stopped`]'s trees.
pub fn part(scratch: &Path, n: usize) -> PathBuf {
    parts(scratch).join(part_name(n))
}

/// Runs `work` on a thread of its own: a file system that hangs holds up nobody else.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (tx, rx) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("rootfs".into())
        .spawn(move || {
            let result = work();
            // The one that asked may have gone away.
            let _ = tx.send(result);
        })
        .map_err(|e| Error::internal(format!("start a thread: {e}")))?;
    rx.await.map_err(|_| Error::internal("the thread that looked into the container died"))?
}

/// A file or folder of the host that is seen in a container.
#[derive(Clone, Debug)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// In the container, absolute.
    pub destination: PathBuf,
    /// Not to be written to, also by who may write to the rest.
    pub read_only: bool,
}

/// Where a container's files are.
pub enum Place {
    /// It runs: where its first process is.
    Running {
        /// That process.
        pid: u32,
        /// The container, in whose group the process must be.
        id: String,
    },
    /// It does not: its layers, and what is mounted over them.
    Stopped {
        /// Its layers.
        rootfs: RootFs,
        /// Volumes and binds, parents first.
        binds: Vec<Bind>,
        /// Trees and the part of each that is meant: the n-th is the source [`part`] of a bind.
        trees: Vec<(Layers, PathBuf)>,
        /// Whether it may be written to: then nobody else may mount it meanwhile.
        writable: bool,
    },
}

/// A container's `/`.
pub struct Root {
    fd: OwnedFd,
    /// Folders whose contents are the kernel's, not the container's: by device and inode.
    made_up: Vec<(u64, u64)>,
    /// What the owners of its files are inside.
    ids: Option<archive::Ids>,
}

/// Runs `work` on a thread that sees the container's files; `None` when the container is not there as `place` says.
pub async fn look<T: Send + 'static>(
    place: Place,
    scratch: PathBuf,
    work: impl FnOnce(&Root) -> Result<T> + Send + 'static,
) -> Result<Option<T>> {
    on_thread(move || {
        let root = match place {
            Place::Running { pid, id } => {
                let Some(fd) = sys::root_of_process(pid, &id)? else { return Ok(None) };
                let ids = sys::enter_ids(pid)?;
                let mut root = Root { fd, made_up: Vec::new(), ids };
                for path in ["/proc", "/sys", "/dev"] {
                    if let Ok(stat) = root.stat_folder(Path::new(path)) {
                        root.made_up.push((stat.st_dev, stat.st_ino));
                    }
                }
                root
            }
            Place::Stopped { rootfs, binds, trees, writable } => {
                if !trees.is_empty() {
                    mount_parts(trees, &parts(&scratch))?;
                }
                sys::mount_view(&rootfs, &binds, writable, &scratch)?;
                Root { fd: sys::open_root(&scratch)?, made_up: Vec::new(), ids: None }
            }
        };
        work(&root).map(Some)
    })
    .await
}

/// Links followed on one path before it counts as a loop (the kernel's own limit).
const LINK_LIMIT: usize = 40;

impl Root {
    /// As a folder that paths are resolved in.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Folders whose contents are the kernel's: by device and inode.
    pub fn made_up(&self) -> &[(u64, u64)] {
        &self.made_up
    }

    /// What the owners of its files, as they are seen through [`Self::fd`], are inside; `None`: the same.
    pub fn ids(&self) -> Option<&archive::Ids> {
        self.ids.as_ref()
    }

    fn stat_folder(&self, path: &Path) -> rustix::io::Result<rustix::fs::Stat> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        rustix::fs::fstat(&sys::open_in(&self.fd, path, flags, ResolveFlags::empty())?)
    }

    /// Opens a path without following a link in its last part, unless `follow`.
    pub fn open(&self, path: &Path, follow: bool) -> rustix::io::Result<OwnedFd> {
        let flags = if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
        sys::open_in(&self.fd, path, flags, ResolveFlags::empty())
    }

    /// Opens a file for reading; `None` when it is not there.
    pub fn read(&self, path: &Path) -> Result<Option<std::fs::File>> {
        lookup(&self.fd, path, OFlags::RDONLY | OFlags::NONBLOCK)
    }

    /// The path with all links followed, as far as it exists; what does not exist stays as it is. For showing and for
    /// opening through this root again: by itself it proves nothing, for the container may change meanwhile.
    pub fn evaluate(&self, path: &Path) -> Result<PathBuf> {
        let parts = |path: &Path| -> Vec<OsString> {
            let part = |c: Component<'_>| match c {
                Component::Normal(name) => Some(name.to_owned()),
                Component::ParentDir => Some("..".into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
            };
            path.components().filter_map(part).collect()
        };
        let mut pending: VecDeque<OsString> = parts(path).into();
        let (mut done, mut links) = (PathBuf::from("/"), 0);
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&name);
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let target = match sys::open_in(&self.fd, &next, flags, ResolveFlags::NO_SYMLINKS) {
                // EINVAL and ENOENT: not a link.
                Ok(fd) => rustix::fs::readlinkat(&fd, "", Vec::new()).ok(),
                Err(Errno::NOENT | Errno::NOTDIR) => None,
                Err(e) => return Err(Error::internal(format!("{}: {e}", next.display()))),
            };
            let Some(target) = target else {
                done = next;
                continue;
            };
            links += 1;
            if links > LINK_LIMIT {
                return Err(Error::invalid(format!("{}: too many links", path.display())));
            }
            let target =
                PathBuf::from(<OsString as std::os::unix::ffi::OsStringExt>::from_vec(target.into_bytes()));
            if target.is_absolute() {
                done = PathBuf::from("/");
            }
            for part in parts(&target).into_iter().rev() {
                pending.push_front(part);
            }
        }
        Ok(done)
    }
}

/// Opens `path` as if `root` were `/`; `None` when it is not there.
fn lookup(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<Option<std::fs::File>> {
    match sys::open_in(root, path, flags, ResolveFlags::empty()) {
        Ok(fd) => Ok(Some(fd.into())),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(Error::internal(format!("open {} in the image: {e}", path.display()))),
    }
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

/// Copies a folder's content into another one's, with owners, modes, times, extended attributes, links and holes: what an
/// image has at a volume's place, a volume's snapshots.
pub fn copy_tree(source: &Path, target: &Path) -> Result<()> {
    sys::copy_tree(source, target)
}
