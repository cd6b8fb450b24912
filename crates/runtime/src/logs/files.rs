//! The row of files that a log is: which there are, and how those put aside become smaller.
//!
//! ```text
//!   <path>            written by the shim
//!   <path>.1          what it put aside last; .2 ... are older
//!   <path>.<n>.gz     the same, compressed; its header's extra field is {"lastTime":"...","inode":N}, N that of the
//!                     plain file
//!   <path>.gz.new     being compressed: nobody reads it
//! ```
//! The shim puts files aside, the engine compresses them: never in the container's way. Who changes names, or needs
//! them to stand still while it opens several, holds the folder (`flock`); the shim does not wait for it, it puts
//! aside a line later. A compressed file takes its plain one's place when it is whole and on disk; while both are
//! there, the plain one counts.

use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Rotated files looked for; as many as Docker allows sensibly.
pub(super) const MAX_FILES: u32 = 1000;
/// Missing numbers passed over in a row of files: rotation leaves one at a time.
pub(super) const MAX_GAPS: u32 = 2;
/// Bytes read for compression at once.
const CHUNK: usize = 256 * 1024;

/// What the header of a compressed file tells; `lastTime` is Docker's.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Extra {
    last_time: String,
    inode: u64,
}

/// A compressed file being read.
pub(super) type Packed = BufReader<GzDecoder<File>>;

pub(super) enum Body {
    Plain(File),
    Packed(Box<Packed>),
}

/// One file of the row.
pub(super) struct Found {
    pub body: Body,
    /// Its own inode.
    pub inode: u64,
    /// Of a compressed one: the inode of what it was.
    pub was: Option<u64>,
}

pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 { path.to_owned() } else { with(path, &format!(".{number}")) }
}

fn packed(path: &Path, number: u32) -> PathBuf {
    with(path, &format!(".{number}.gz"))
}

fn with(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The file of that number, compressed or not.
pub(super) fn find(path: &Path, number: u32) -> io::Result<Option<Found>> {
    if let Some(file) = open(&numbered(path, number))? {
        let inode = file.metadata()?.ino();
        return Ok(Some(Found { body: Body::Plain(file), inode, was: None }));
    }
    if number == 0 {
        return Ok(None);
    }
    let Some(file) = open(&packed(path, number))? else { return Ok(None) };
    let inode = file.metadata()?.ino();
    let (decoder, was) = unpack(file);
    Ok(Some(Found { body: Body::Packed(Box::new(decoder)), inode, was }))
}

fn unpack(file: File) -> (Packed, Option<u64>) {
    let decoder = GzDecoder::new(file);
    let extra = decoder.header().and_then(|h| h.extra());
    let was = extra.and_then(|extra| serde_json::from_slice::<Extra>(extra).ok()).map(|extra| extra.inode);
    (BufReader::new(decoder), was)
}

/// All files, the newest first, as they stand at one moment.
pub(super) fn list(path: &Path) -> io::Result<Vec<Found>> {
    let _held = hold(path, FlockOperation::LockShared);
    let mut all = Vec::new();
    for number in 0..MAX_FILES {
        match find(path, number)? {
            Some(found) => all.push(found),
            None if number == 0 => {}
            None => break,
        }
    }
    Ok(all)
}

/// Holds a log's folder until it is dropped; `None` where that cannot be.
pub(crate) fn hold(path: &Path, how: FlockOperation) -> Option<File> {
    let folder = File::open(path.parent().filter(|p| !p.as_os_str().is_empty())?).ok()?;
    rustix::io::retry_on_intr(|| flock(&folder, how)).ok()?;
    Some(folder)
}

/// Lines of a compressed file. It is at its start, and will be again.
pub(super) fn count_lines(file: &mut Packed) -> io::Result<u64> {
    let (mut count, mut open) = (0, false);
    let mut block = vec![0; CHUNK];
    loop {
        // A damaged file ends where its damage begins.
        let read = file.read(&mut block).unwrap_or(0);
        if read == 0 {
            break;
        }
        count += block[..read].iter().filter(|b| **b == b'\n').count() as u64;
        open = block[read - 1] != b'\n';
    }
    let mut start = file.get_ref().get_ref().try_clone()?;
    start.seek(SeekFrom::Start(0))?;
    *file = unpack(start).0;
    Ok(count + u64::from(open))
}

/// Compresses what has been put aside of the log at `path`.
pub fn compress(path: &Path) -> io::Result<()> {
    let aside = with(path, ".gz.new");
    while let Some((file, inode)) = oldest_plain(path)? {
        let done = pack(file, inode, &aside).and_then(|()| take_place(path, inode, &aside));
        if done.is_err() {
            let _ = std::fs::remove_file(&aside);
        }
        done?;
    }
    Ok(())
}

fn oldest_plain(path: &Path) -> io::Result<Option<(File, u64)>> {
    let _held = hold(path, FlockOperation::LockShared);
    let (mut oldest, mut gaps) = (None, 0);
    for number in 1..MAX_FILES {
        match find(path, number)? {
            Some(Found { body: Body::Plain(file), inode, .. }) => oldest = Some((file, inode)),
            Some(_) => {}
            None => gaps += 1,
        }
        if gaps > MAX_GAPS {
            break;
        }
    }
    Ok(oldest)
}

fn pack(mut file: File, inode: u64, aside: &Path) -> io::Result<()> {
    let last_time = last_time(&mut file)?;
    file.seek(SeekFrom::Start(0))?;
    let extra = serde_json::to_vec(&Extra { last_time, inode })?;
    let mut out = GzBuilder::new().extra(extra).write(File::create(aside)?, Compression::fast());
    let mut block = vec![0; CHUNK];
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            break;
        }
        io::Write::write_all(&mut out, &block[..read])?;
    }
    out.finish()?.sync_all()
}

fn last_time(file: &mut File) -> io::Result<String> {
    let (from, _) = super::last_lines(file, 1)?;
    file.seek(SeekFrom::Start(from))?;
    let mut line = Vec::new();
    file.take(super::MAX_LINE as u64).read_to_end(&mut line)?;
    Ok(super::parse(&line).map(|entry| entry.timestamp()).unwrap_or_default())
}

/// Puts the compressed file where its plain one is by now.
fn take_place(path: &Path, inode: u64, aside: &Path) -> io::Result<()> {
    let _held = hold(path, FlockOperation::LockExclusive);
    let is_it = |number: &u32| std::fs::metadata(numbered(path, *number)).is_ok_and(|m| m.ino() == inode);
    match (1..MAX_FILES).find(is_it) {
        Some(number) => {
            std::fs::rename(aside, packed(path, number))?;
            std::fs::remove_file(numbered(path, number))
        }
        // It was the oldest, and has gone.
        None => std::fs::remove_file(aside),
    }
}

/// `path` becomes `path.1`, that `path.2`, and so on up to `last`; what was there goes. `false`: not now, the folder is
/// held.
pub(crate) fn put_aside(path: &Path, last: u32) -> io::Result<bool> {
    let _held = match path.parent().map(File::open) {
        Some(Ok(folder)) => match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
            // Where nothing can be held, nobody can count on it.
            _ => Some(folder),
        },
        _ => None,
    };
    let _ = std::fs::remove_file(numbered(path, last));
    let _ = std::fs::remove_file(packed(path, last));
    for number in (1..last).rev() {
        // A gap in the row is no error.
        let _ = std::fs::rename(packed(path, number), packed(path, number + 1));
        let _ = std::fs::rename(numbered(path, number), numbered(path, number + 1));
    }
    std::fs::rename(path, numbered(path, 1))?;
    Ok(true)
}
