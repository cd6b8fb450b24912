//! The lowest layer of every container: the places its runtime mounts at, where an image has none.
//!
//! Docker puts these into a layer of its own between image and container, so that `diff` and `commit` do not show
//! them. Below the image they are found just as well, and the image decides about the owner and mode of folders
//! both have (and whether its `/etc` is a folder at all).
//!
//! ```text
//! bottom/  .dockerenv  dev/{console,pts/,shm/}  etc/{hostname,hosts,mtab -> /proc/mounts,resolv.conf}  proc/  sys/
//! ```

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::Path;

use crate::Error;

const FOLDERS: [&str; 6] = ["dev", "dev/pts", "dev/shm", "etc", "proc", "sys"];
const FILES: [&str; 5] = [".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// Makes what is missing of it. Nobody ever writes there.
pub(super) fn make(root: &Path) -> Result<(), Error> {
    let present = |e: &io::Error| e.kind() == io::ErrorKind::AlreadyExists;
    let folder = |path: &Path| match DirBuilder::new().mode(0o755).create(path) {
        Err(e) if !present(&e) => Err(Error::os("mkdir", path, e)),
        _ => Ok(()),
    };
    folder(root)?;
    for name in FOLDERS {
        folder(&root.join(name))?;
    }
    for name in FILES {
        let path = root.join(name);
        match OpenOptions::new().write(true).create_new(true).mode(0o755).open(&path) {
            Err(e) if !present(&e) => return Err(Error::os("create", path, e)),
            _ => {}
        }
    }
    let mtab = root.join("etc/mtab");
    match symlink("/proc/mounts", &mtab) {
        Err(e) if !present(&e) => Err(Error::os("symlink", mtab, e)),
        _ => Ok(()),
    }
}
