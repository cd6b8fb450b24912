//! A container's files from outside: what `docker cp` reads and writes, and what `export` writes.
//!
//! A path is looked up in the container as it is ([`crate::rootfs::Root`]), running or not, with its volumes and
//! binds. Reading never changes anything; writing into a stopped container keeps others from mounting it meanwhile.

use std::io::{BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::mounts::MountKind;
use super::{Handle, Record, Status, changes, create, images, spec, user};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::rootfs::{self, Bind, Place, Root};

/// Bytes read from an incoming archive at once.
const READ_BYTES: usize = 64 << 10;

/// What is known of a path in a container (`X-Docker-Container-Path-Stat`).
#[derive(Clone, Debug, PartialEq)]
pub struct PathStat {
    /// The path's last part.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Go's `FileMode`.
    pub mode: u32,
    /// Last change, RFC 3339.
    pub mtime: String,
    /// Where a link leads in the end; empty for anything else.
    pub link_target: String,
}

/// A path as it was asked for: cleaned, and whether it ended as a folder's does.
#[derive(Debug, PartialEq)]
struct Asked {
    path: PathBuf,
    /// `/` or `/.` at its end: a link is followed, and it must be a folder.
    folder: bool,
    /// Docker's name for it: the last part, `.` and `/` as they are.
    name: String,
}

impl Asked {
    fn new(text: &str) -> Self {
        let mut path = PathBuf::from("/");
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    path.pop();
                }
                name => path.push(name),
            }
        }
        let dot = text == "." || text.ends_with("/.");
        let name = match path.file_name() {
            _ if dot => ".".into(),
            Some(name) => name.to_string_lossy().into_owned(),
            None => "/".into(),
        };
        Self { folder: dot || text.ends_with('/'), path, name }
    }
}

/// How an archive is put into a container.
#[derive(Clone, Copy, Debug, Default)]
pub struct PutOptions {
    /// A folder is not replaced by something else, nor the other way round.
    pub keep_kind: bool,
    /// What is made belongs to the container's user.
    pub as_user: bool,
}

/// Runs `work` where the container's files are seen.
async fn look<T: Send + 'static>(
    engine: &Arc<Engine>,
    handle: &Handle,
    writable: bool,
    work: impl FnOnce(&Root) -> Result<T> + Send + 'static,
) -> Result<T> {
    let scratch = engine.paths.exec_root.join("rootfs");
    // Before the state is looked at: what is stopped then stays so.
    let files = if writable { Some(handle.files().clone().lock_owned().await) } else { None };
    let view = handle.view();
    let record = view.record;
    let (place, files) = match view.status {
        Status::Running { container, .. } => {
            (Place::Running { pid: container.pid(), id: record.id.clone() }, None)
        }
        Status::Removing | Status::Removed => {
            return Err(Error::not_found(format!("No such container: {}", record.id)));
        }
        Status::Created | Status::Exited | Status::Restarting => {
            let rootfs = rootfs_of(engine, &record).await?;
            let trees = images::keep(engine, &record.id, &record.mounts).await?;
            (Place::Stopped { rootfs, binds: binds(engine, &record, &scratch), trees, writable }, files)
        }
    };
    let looked = rootfs::look(place, scratch, move |root| {
        let _files = files;
        work(root)
    });
    looked.await?.ok_or_else(|| Error::conflict(format!("container {} has just ended: try again", record.id)))
}

fn binds(engine: &Engine, record: &Record, scratch: &Path) -> Vec<Bind> {
    let folder = engine.paths.container(&record.id);
    let names = ["resolv.conf", "hostname", "hosts"]
        .into_iter()
        .map(|name| (folder.join(name), Path::new("/etc").join(name)))
        .map(|(source, destination)| Bind { source, destination, read_only: false });
    // Of these the container itself has a file only once it has been started.
    let names =
        names.filter(|b| b.source.exists() && !record.mounts.iter().any(|m| m.destination == b.destination));
    let own = record.mounts.iter().filter(|m| m.kind != MountKind::Tmpfs);
    let mut images = 0..;
    let own = own.map(|m| {
        let source = match m.kind {
            MountKind::Image => rootfs::part(scratch, images.next().unwrap_or_default()),
            _ => spec::source(engine, m),
        };
        Bind { source, destination: m.destination.clone(), read_only: !m.rw }
    });
    names.chain(own).collect()
}

fn not_there(reference: &str, path: &str) -> Error {
    Error::not_found(format!("Could not find the file {path} in container {reference}"))
}

/// The file system is the kernel's own: its files have no size, and are not the container's.
fn is_made_up(fd: impl rustix::fd::AsFd) -> bool {
    const KERNELS: [i64; 7] =
        [0x9fa0, 0x6265_6572, 0x6367_7270, 0x0027_e0eb, 0x1cd1, 0x1980_0202, 0x7472_6163];
    rustix::fs::fstatfs(fd).is_ok_and(|s| KERNELS.contains(&s.f_type))
}

/// Opens what was asked for, and tells what it is. `shown` are the container and the path in the client's words.
fn stat(root: &Root, asked: &Asked, shown: (&str, &str)) -> Result<PathStat> {
    let missing = || not_there(shown.0, shown.1);
    let fd = match root.open(&asked.path, asked.folder) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Err(missing()),
        Err(e) => return Err(Error::internal(format!("lstat {}: {}", shown.1, words(e)))),
    };
    if is_made_up(&fd) {
        return Err(missing());
    }
    let stat = rustix::fs::fstat(&fd).map_err(|e| Error::internal(e.to_string()))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if asked.folder && kind != FileType::Directory {
        return Err(Error::internal(format!("lstat {}: not a directory", shown.1)));
    }
    let link_target = if kind == FileType::Symlink {
        root.evaluate(&asked.path)?.to_string_lossy().into_owned()
    } else {
        String::new()
    };
    Ok(PathStat {
        name: asked.name.clone(),
        size: stat.st_size,
        mode: go_mode(&stat),
        mtime: mtime(&stat),
        link_target,
    })
}

fn words(e: Errno) -> String {
    match e {
        Errno::NOTDIR => "not a directory".into(),
        Errno::LOOP => "too many levels of symbolic links".into(),
        other => other.to_string(),
    }
}

/// Go's `os.FileMode`: permissions as usual, the kind and the special bits at places of their own.
fn go_mode(stat: &Stat) -> u32 {
    let mode = stat.st_mode;
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special: u32 = special.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, go)| go).sum();
    kind | special | mode & 0o777
}

fn mtime(stat: &Stat) -> String {
    let at = chrono::DateTime::from_timestamp(stat.st_mtime, stat.st_mtime_nsec as u32).unwrap_or_default();
    let text = at.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true);
    // Go leaves zeros at a fraction's end away.
    match text.trim_end_matches('Z').trim_end_matches('0') {
        whole if whole.ends_with('.') => format!("{}Z", &whole[..whole.len() - 1]),
        fraction => format!("{fraction}Z"),
    }
}

/// Looks at a path. `reference` is the container in the client's words.
pub async fn path_stat(
    engine: &Arc<Engine>,
    handle: &Handle,
    reference: &str,
    path: &str,
) -> Result<PathStat> {
    let (reference, path) = (reference.to_owned(), path.to_owned());
    look(engine, handle, false, move |root| stat(root, &Asked::new(&path), (&reference, &path))).await
}

/// Writes a path and what lies below it as an archive. `found` is told what it is, before the first byte.
pub async fn archive(
    engine: &Arc<Engine>,
    handle: &Handle,
    reference: &str,
    path: &str,
    found: impl FnOnce(PathStat) + Send + 'static,
    out: impl Write + Send + 'static,
) -> Result<()> {
    let (reference, path) = (reference.to_owned(), path.to_owned());
    look(engine, handle, false, move |root| {
        let asked = Asked::new(&path);
        let stat = stat(root, &asked, (&reference, &path))?;
        // A folder may have been reached through a link; anything else is taken as it is.
        let source = if asked.folder { root.evaluate(&asked.path)? } else { asked.path };
        let rename = if stat.name == "/" { String::new() } else { stat.name.clone() };
        let options = archive::CreateOptions {
            rename: Some(rename.into_bytes()),
            without_contents: root.made_up().to_vec(),
            ids: root.ids().cloned(),
            ..archive::CreateOptions::default()
        };
        found(stat);
        archive::create(root.fd(), source.as_os_str().as_bytes(), &options, out)
            .map(drop)
            .map_err(|e| Error::internal(e.to_string()))
    })
    .await
}

/// Writes all files of a container but for its mounts' as an archive.
pub async fn export(engine: &Arc<Engine>, handle: &Handle, out: impl Write + Send + 'static) -> Result<()> {
    let record = handle.view().record;
    let rootfs = rootfs_of(engine, &record).await?;
    let place = Place::Stopped { rootfs, binds: Vec::new(), trees: Vec::new(), writable: false };
    let written = rootfs::look(place, engine.paths.exec_root.join("rootfs"), move |root| {
        let options = archive::CreateOptions { bare: true, ..archive::CreateOptions::default() };
        archive::create(root.fd(), b"", &options, out).map(drop).map_err(|e| Error::internal(e.to_string()))
    });
    written.await.map(drop)
}

/// What a container has changed of its image.
pub async fn changes(engine: &Arc<Engine>, handle: &Handle) -> Result<Vec<(PathBuf, changes::Kind)>> {
    let rootfs = rootfs_of(engine, &handle.view().record).await?;
    tokio::task::spawn_blocking(move || changes::changes(&rootfs))
        .await
        .map_err(|e| Error::internal(e.to_string()))?
}

async fn rootfs_of(engine: &Engine, record: &Record) -> Result<image::RootFs> {
    let image = create::image_digest(record)?;
    engine.images.mount(&image, &record.id).await.map_err(Error::from)
}

/// Extracts an archive, compressed or not, into a folder of the container.
pub async fn put(
    engine: &Arc<Engine>,
    handle: &Handle,
    reference: &str,
    path: &str,
    options: PutOptions,
    input: impl Read + Send + 'static,
) -> Result<()> {
    let (reference, path) = (reference.to_owned(), path.to_owned());
    let record = handle.view().record;
    look(engine, handle, true, move |root| {
        let asked = Asked::new(&path);
        let place = root.evaluate(&asked.path)?;
        let fd = match root.open(&place, true) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(not_there(&reference, &path)),
            Err(e) => return Err(Error::internal(format!("lstat {path}: {e}"))),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|e| Error::internal(e.to_string()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(Error::invalid("extraction point is not a directory"));
        }
        check_writable(&record, &place)?;
        let owner = match record.config.user.as_str() {
            user if options.as_user && !user.is_empty() => {
                let who = user::resolve_in(root, user)?;
                archive::Owner::Fixed { uid: who.uid, gid: who.gid }
            }
            _ => archive::Owner::Archive,
        };
        let broken = |e: std::io::Error| Error::invalid(format!("Error processing tar file: {e}"));
        let mut input = image::decompress(BufReader::with_capacity(READ_BYTES, input)).map_err(broken)?;
        let options = archive::ExtractOptions {
            owner,
            keep_kind: options.keep_kind,
            ids: root.ids().cloned(),
            limits: archive::Limits::default(),
            ..archive::ExtractOptions::plain()
        };
        use rustix::fd::AsFd;
        archive::extract(&mut input, fd.as_fd(), &options).map_err(|e| match e {
            archive::Error::Os { .. } | archive::Error::Read(_) => Error::internal(e.to_string()),
            e => Error::invalid(e.to_string()),
        })?;
        // Padding after the end: the client sends it, and counts on its being read.
        std::io::copy(&mut input, &mut std::io::sink()).map_err(broken)?;
        Ok(())
    })
    .await
}

/// Gives a file other contents and leaves it the file it is: names of it, what is mounted there, and whoever has it
/// open see them; owner, mode and attributes stay. Where there is no room for them the file is as it was.
pub async fn rewrite(
    engine: &Arc<Engine>,
    handle: &Handle,
    reference: &str,
    path: &str,
    contents: bytes::Bytes,
) -> Result<()> {
    let (reference, path) = (reference.to_owned(), path.to_owned());
    let record = handle.view().record;
    look(engine, handle, true, move |root| {
        let asked = Asked::new(&path);
        let (Some(folder), Some(name)) = (asked.path.parent(), asked.path.file_name()) else {
            return Err(Error::invalid(format!("{path} is not a file")));
        };
        let place = root.evaluate(folder)?.join(name);
        let failed = |e: std::io::Error| Error::internal(format!("write {path}: {e}"));
        let there = match root.open(&place, false) {
            Ok(fd) => std::fs::File::from(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(not_there(&reference, &path)),
            Err(e) => return Err(failed(e.into())),
        };
        // Looked at before it is opened: to open a device does something already.
        if !there.metadata().map_err(failed)?.is_file() || is_made_up(&there) {
            return Err(Error::invalid(format!("{path} is not a file")));
        }
        check_writable(&record, &place)?;
        let file = std::fs::OpenOptions::new().write(true).open(rootfs::path_of(&there)).map_err(failed)?;
        replace_contents(&file, &contents).map_err(failed)
    })
    .await
}

fn replace_contents(file: &std::fs::File, contents: &[u8]) -> std::io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use std::os::unix::fs::FileExt;
    let (before, length) = (file.metadata()?.len(), contents.len() as u64);
    // Room first, beyond the end that it has: a full disk leaves it whole. Some file systems can't say.
    if length > before {
        match fallocate(file, FallocateFlags::KEEP_SIZE, 0, length) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(e) => {
                // Gives back what was got of it.
                file.set_len(before)?;
                return Err(e.into());
            }
        }
    }
    file.write_all_at(contents, 0)?;
    file.set_len(length)
}

/// A read-only root or mount is one for `docker cp` too.
fn check_writable(record: &Record, place: &Path) -> Result<()> {
    let mount = record.mounts.iter().rev().find(|m| place.starts_with(&m.destination));
    match mount {
        Some(mount) if !mount.rw => Err(Error::invalid("mounted volume is marked read-only")),
        None if record.host.readonly_rootfs => Err(Error::invalid("container rootfs is marked read-only")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_keeps_its_end() {
        let asked = |text: &str| {
            let a = Asked::new(text);
            (a.path.to_str().unwrap().to_owned(), a.folder, a.name)
        };
        assert_eq!(asked("etc/passwd"), ("/etc/passwd".into(), false, "passwd".into()));
        assert_eq!(asked("/etc/"), ("/etc".into(), true, "etc".into()));
        assert_eq!(asked("/etc/."), ("/etc".into(), true, ".".into()));
        assert_eq!(asked("/"), ("/".into(), true, "/".into()));
        assert_eq!(asked("/.."), ("/".into(), false, "/".into()));
        assert_eq!(asked("../../x/../y"), ("/y".into(), false, "y".into()));
    }

    #[test]
    fn modes_and_times_are_gos() {
        let folder = tempfile::tempdir().unwrap();
        let stat = rustix::fs::stat(folder.path()).unwrap();
        assert_eq!(go_mode(&stat), 1 << 31 | stat.st_mode & 0o777);
        let null = rustix::fs::stat("/dev/null").unwrap();
        assert_eq!(go_mode(&null) >> 20, 0b100_0010);
        let mut at = stat;
        (at.st_mtime, at.st_mtime_nsec) = (1_700_000_000, 0);
        assert_eq!(mtime(&at), "2023-11-14T22:13:20Z");
        at.st_mtime_nsec = 120_000_000;
        assert_eq!(mtime(&at), "2023-11-14T22:13:20.12Z");
    }
}
