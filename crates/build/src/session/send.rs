//! Files to a client: a tree, or one stream of bytes.

use std::collections::{HashMap, VecDeque};
use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};
use bollard_buildkit_proto::moby::filesync::packet::BytesMessage;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::Session;
use super::files::{self, Method};
use crate::Error;
use crate::builder::Builder;
use crate::files::{Root, names};
use crate::rpc::{Code, Status};
use crate::worker::{Tree, View, Worker};

/// Bytes of a message.
const CHUNK: usize = 32 << 10;
/// Messages on their way.
const QUEUE: usize = 64;
/// How long a client may take to take what it is sent.
const SILENCE: Duration = Duration::from_secs(120);

/// Bytes to the client; what is written goes there, and the second half waits until it has all.
pub fn bytes(
    session: &Session,
    metadata: &[(String, String)],
) -> (Bytes, impl Future<Output = Result<(), Status>> + Send + 'static) {
    let (sender, answers) = session.files(Method::ToClient, metadata);
    let (tx, mut rx) = mpsc::channel::<Vec<u8>>(QUEUE);
    let done = async move {
        let send = async move {
            while let Some(data) = rx.recv().await {
                sender.send(&BytesMessage { data }).await?;
            }
            Ok::<(), Status>(())
        };
        let hear = async move {
            let mut answers = answers.await?;
            while answers.next::<BytesMessage>().await?.is_some() {}
            Ok::<(), Status>(())
        };
        // The client's own words say more than that it does not listen.
        let (sent, heard) = tokio::join!(send, hear);
        heard.and(sent)
    };
    (Bytes(PollSender::new(tx)), done)
}

/// A writer whose bytes go to a client.
pub struct Bytes(PollSender<Vec<u8>>);

impl AsyncWrite for Bytes {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        std::task::ready!(self.0.poll_reserve(cx)).map_err(|_| gone())?;
        let n = buf.len().min(CHUNK);
        self.0.send_item(buf[..n].to_vec()).map_err(|_| gone())?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.0.close();
        Poll::Ready(Ok(()))
    }
}

/// The same for a thread.
struct Blocking(mpsc::Sender<Vec<u8>>);

impl Write for Blocking {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let n = buf.len().min(CHUNK);
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.0.blocking_send(buf[..n].to_vec()).map_err(gone)?;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A tree that goes to a client.
pub struct Part {
    /// The folder it goes to; `None`: the client's own.
    pub folder: Option<String>,
    /// What goes there.
    pub tree: Tree,
    /// Time that all of it has, in seconds after 1970; where there is none, files have their own, and what is made beside
    /// them is of now.
    pub time: Option<i64>,
    /// Says something of its files, in files beside them.
    pub statements: Option<Say>,
}

/// Makes names and contents of files that say something of others: by their paths, with the hex digits of their
/// SHA-256.
pub type Say = Box<dyn FnOnce(&[(String, String)]) -> Vec<(String, Vec<u8>)> + Send>;

/// A file that is in no tree.
struct Beside {
    name: String,
    data: Vec<u8>,
    /// Seconds after 1970.
    time: i64,
}

/// Permission bits of a statement.
const STATEMENT: u32 = 0o600;

/// What is said of a tree, in the order of the names.
fn say(statements: Option<Say>, time: Option<i64>, root: &Root) -> Result<VecDeque<Beside>, Error> {
    let Some(statements) = statements else { return Ok(VecDeque::new()) };
    let top = top(root)?;
    let files = digests(&top)?;
    let time = time.unwrap_or_else(|| chrono::Utc::now().timestamp());
    let made = statements(&files).into_iter();
    let mut beside: Vec<Beside> = made.map(|(name, data)| Beside { name, data, time }).collect();
    beside.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(twice) = beside.windows(2).find(|two| two[0].name == two[1].name) {
        return Err(Error::invalid(format!("duplicate attestation path name {}", twice[0].name)));
    }
    Ok(beside.into())
}

/// Shows all that is below a folder and is no folder itself: in which folder it is, its name there, its path, its kind.
fn each(
    folder: &OwnedFd,
    at: &str,
    depth: usize,
    see: &mut impl FnMut(&OwnedFd, &CStr, String, FileType) -> Result<(), Error>,
) -> Result<(), Error> {
    if depth > crate::files::digest::DEPTH {
        return Err(Error::invalid(format!("{at}: too many folders below each other")));
    }
    for name in names(folder.as_fd()).map_err(|e| crate::files::fault("read", at, e))? {
        let text = name.to_string_lossy();
        let path = if at.is_empty() { text.into_owned() } else { format!("{at}/{text}") };
        let fault = |e| crate::files::fault("read", &path, e);
        let stat = rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(fault)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory {
            see(folder, &name, path, kind)?;
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner = rustix::fs::openat(folder, &name, flags, Mode::empty()).map_err(fault)?;
        each(&inner, &path, depth + 1, see)?;
    }
    Ok(())
}

/// Paths and digests of all files below a folder.
fn digests(folder: &OwnedFd) -> Result<Vec<(String, String)>, Error> {
    let mut found = Vec::new();
    each(folder, "", 0, &mut |folder, name, path, kind| {
        if kind != FileType::RegularFile {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, name, flags, Mode::empty());
        let mut file = File::from(file.map_err(|e| crate::files::fault("read", &path, e))?);
        let (mut hasher, mut buffer) = (Sha256::new(), vec![0; CHUNK]);
        loop {
            let got = file.read(&mut buffer).map_err(|e| Error::invalid(format!("read {path}: {e}")))?;
            if got == 0 {
                break;
            }
            hasher.update(&buffer[..got]);
        }
        let digest = crate::hex(&hasher.finalize());
        found.push((path, digest.trim_start_matches("sha256:").to_owned()));
        Ok(())
    })?;
    Ok(found)
}

fn top(root: &Root) -> Result<OwnedFd, Error> {
    root.at("/", OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| crate::files::fault("open", "/", e))
}

/// Trees as an archive.
///
/// # Errors
/// The client's own words; faults of the disk.
pub async fn archive<W: Worker>(
    builder: &Arc<Builder<W>>,
    session: &Session,
    metadata: &[(String, String)],
    mut parts: Vec<Part>,
) -> Result<(), Status> {
    let (out, sent) = bytes(session, metadata);
    let Some(tx) = out.0.get_ref().cloned() else {
        return Err(Status::new(Code::Internal, "a stream that ended before it began"));
    };
    drop(out);
    parts.sort_by(|a, b| a.folder.cmp(&b.folder));
    let trees = parts.iter().map(|p| p.tree.clone()).collect();
    let write = move |view: View| {
        let failed = |e: &dyn std::fmt::Display| Error::invalid(format!("write the archive: {e}"));
        let mut out = std::io::BufWriter::with_capacity(CHUNK, Blocking(tx));
        for (part, root) in parts.into_iter().zip(&view.read) {
            let beside = say(part.statements, part.time, root)?;
            let options = archive::CreateOptions {
                bare: part.folder.is_none(),
                rename: part.folder.clone().map(String::into_bytes),
                unended: true,
                times: part.time.map_or(archive::Times::Own, archive::Times::All),
                ..Default::default()
            };
            archive::create(top(root)?.as_fd(), b"", &options, &mut out).map_err(|e| failed(&e))?;
            let folder = part.folder.map(|f| f + "/").unwrap_or_default();
            for beside in beside {
                let path = format!("{folder}{}", beside.name);
                archive::file(path.as_bytes(), STATEMENT, beside.time, &beside.data, &mut out)
                    .map_err(|e| failed(&e))?;
            }
        }
        archive::end(&mut out).map_err(|e| failed(&e))?;
        out.flush().map_err(|e| failed(&e))
    };
    let (written, sent) = tokio::join!(builder.worker.view(None, trees, write), sent);
    // A writer that was not listened to any more: the listener says why.
    match (written, sent) {
        (Ok(()), sent) => sent,
        (Err(_), Err(e)) => Err(e),
        (Err(e), Ok(())) => Err(crate::control::status(e)),
    }
}

/// Refuses trees that have files in each other's places; each with its platform.
///
/// # Errors
/// The first such file, in BuildKit's words; faults of the disk.
pub async fn check_apart<W: Worker>(
    builder: &Arc<Builder<W>>,
    parts: Vec<(String, Tree)>,
) -> Result<(), Error> {
    if parts.len() < 2 {
        return Ok(());
    }
    let (platforms, trees): (Vec<String>, Vec<Tree>) = parts.into_iter().unzip();
    let compare = move |view: View| {
        let mut seen: HashMap<String, String> = HashMap::new();
        for (platform, root) in platforms.into_iter().zip(&view.read) {
            each(&top(root)?, "", 0, &mut |_, _, path, _| {
                let Some(before) = seen.insert(path.clone(), platform.clone()) else { return Ok(()) };
                let words = "when split option is disabled";
                let words = format!("cannot overwrite {path} from {before} with {platform} {words}");
                Err(Error::invalid(words))
            })?;
        }
        Ok(())
    };
    builder.worker.view(None, trees, compare).await
}

/// Trees to a folder of the client's, each below a name or all in one; gives the bytes that were sent.
///
/// # Errors
/// The client's own words; that it does not listen; faults of the disk.
pub async fn trees<W: Worker>(
    builder: &Arc<Builder<W>>,
    session: &Session,
    metadata: &[(String, String)],
    mut parts: Vec<Part>,
) -> Result<u64, Status> {
    let (sender, answers) = session.files(Method::ToClient, metadata);
    let (tx, mut out) = mpsc::channel::<Packet>(QUEUE);
    let (wanted, requests) = mpsc::channel::<Packet>(QUEUE);
    parts.sort_by(|a, b| a.folder.cmp(&b.folder));
    let trees = parts.iter().map(|p| p.tree.clone()).collect();
    let requests = Mutex::new(requests);
    let work = move |view: View| {
        let mut requests = requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (files, beside) = (HashMap::new(), HashMap::new());
        let sender = Sender { out: tx, files, beside, time: None, next: 0, sent: 0 };
        sender.run(parts, &view.read, &mut requests)
    };
    let send = async move {
        while let Some(packet) = out.recv().await {
            sender.send(&packet).await?;
        }
        Ok::<(), Status>(())
    };
    let hear = async move {
        let silent = |_| Status::new(Code::DeadlineExceeded, "the client does not take the files");
        let mut answers = tokio::time::timeout(SILENCE, answers).await.map_err(silent)??;
        while let Some(packet) =
            tokio::time::timeout(SILENCE, answers.next::<Packet>()).await.map_err(silent)??
        {
            if packet.r#type == PacketType::PacketErr as i32 {
                let words = String::from_utf8_lossy(&packet.data).into_owned();
                return Err(Status::new(Code::Unknown, words));
            }
            let last = packet.r#type == PacketType::PacketFin as i32;
            if wanted.send(packet).await.is_err() || last {
                break;
            }
        }
        drop(wanted);
        // The end of the stream, with its status.
        while answers.next::<Packet>().await?.is_some() {}
        Ok::<(), Status>(())
    };
    let (done, sent, heard) = tokio::join!(builder.worker.view(None, trees, work), send, hear);
    heard?;
    sent?;
    done.map_err(crate::control::status)
}

struct Sender {
    out: mpsc::Sender<Packet>,
    /// Files by number: of which tree, and the path in it.
    files: HashMap<u32, (usize, String)>,
    /// Contents of files that are in none.
    beside: HashMap<u32, Vec<u8>>,
    /// What all files of the tree at hand have in place of their own time.
    time: Option<i64>,
    next: u32,
    sent: u64,
}

fn gone<E>(_: E) -> Error {
    Error::invalid("the client does not take the files")
}

impl Sender {
    fn run(
        mut self,
        parts: Vec<Part>,
        roots: &[Root],
        requests: &mut mpsc::Receiver<Packet>,
    ) -> Result<u64, Error> {
        for (n, (part, root)) in parts.into_iter().zip(roots).enumerate() {
            let top = top(root)?;
            self.time = part.time;
            if let Some(name) = &part.folder {
                let stat = rustix::fs::fstat(&top).map_err(|e| crate::files::fault("stat", "/", e))?;
                self.describe(stat_of(name.clone(), &stat, String::new(), self.time))?;
            }
            let mut beside = say(part.statements, part.time, root)?;
            let before = part.folder.unwrap_or_default();
            self.walk(n, &top, &before, "", 0, &mut HashMap::new(), &mut beside)?;
            for beside in beside {
                self.say(beside, &before)?;
            }
        }
        self.out.blocking_send(files::describes(None)).map_err(gone)?;
        let mut buffer = vec![0; CHUNK];
        while let Some(packet) = requests.blocking_recv() {
            match PacketType::try_from(packet.r#type) {
                Ok(PacketType::PacketReq) if self.beside.contains_key(&packet.id) => {
                    let data = self.beside.get(&packet.id).cloned().unwrap_or_default();
                    self.sent += data.len() as u64;
                    for chunk in data.chunks(CHUNK).chain([&[][..]]) {
                        self.out.blocking_send(files::data(packet.id, chunk.to_vec())).map_err(gone)?;
                    }
                }
                Ok(PacketType::PacketReq) => {
                    let none = || Error::invalid(format!("file {} was not offered", packet.id));
                    let (n, path) = self.files.get(&packet.id).cloned().ok_or_else(none)?;
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                    let root = roots.get(n).ok_or_else(none)?;
                    let fd = root.at(&path, flags).map_err(|e| crate::files::fault("open", &path, e))?;
                    let mut file = File::from(fd);
                    loop {
                        let got = file
                            .read(&mut buffer)
                            .map_err(|e| Error::invalid(format!("read {path}: {e}")))?;
                        let data = files::data(packet.id, buffer[..got].to_vec());
                        self.out.blocking_send(data).map_err(gone)?;
                        self.sent += got as u64;
                        if got == 0 {
                            break;
                        }
                    }
                }
                Ok(PacketType::PacketFin) => {
                    self.out.blocking_send(files::finished()).map_err(gone)?;
                    return Ok(self.sent);
                }
                _ => return Err(Error::invalid("the client answered with a packet of an unknown kind")),
            }
        }
        Err(gone(()))
    }

    fn describe(&mut self, stat: Stat) -> Result<u32, Error> {
        let id = self.next;
        self.next = self.next.checked_add(1).ok_or_else(|| Error::invalid("too many files to send"))?;
        self.out.blocking_send(files::describes(Some(stat))).map_err(gone)?;
        Ok(id)
    }

    /// Offers a file that is in no tree.
    fn say(&mut self, beside: Beside, folder: &str) -> Result<(), Error> {
        let path = if folder.is_empty() { beside.name.clone() } else { format!("{folder}/{}", beside.name) };
        let stat = Stat {
            path,
            mode: STATEMENT,
            size: i64::try_from(beside.data.len()).unwrap_or(i64::MAX),
            mod_time: beside.time.saturating_mul(1_000_000_000),
            ..Default::default()
        };
        let id = self.describe(stat)?;
        self.beside.insert(id, beside.data);
        Ok(())
    }

    /// Offers what is in a folder, in order; files beside it where their names belong.
    #[expect(clippy::too_many_arguments, reason = "a walk has a place at both ends")]
    fn walk(
        &mut self,
        n: usize,
        folder: &OwnedFd,
        shown: &str,
        path: &str,
        depth: usize,
        links: &mut HashMap<(u64, u64), String>,
        beside: &mut VecDeque<Beside>,
    ) -> Result<(), Error> {
        if depth > crate::files::digest::DEPTH {
            return Err(Error::invalid(format!("{path}: too many folders below each other")));
        }
        for name in names(folder.as_fd()).map_err(|e| crate::files::fault("read", path, e))? {
            let text = name.to_string_lossy().into_owned();
            let mut stands_for = false;
            while depth == 0
                && let Some(first) = beside.pop_front_if(|b| b.name <= text)
            {
                stands_for = first.name == text;
                self.say(first, shown)?;
            }
            if stands_for {
                continue;
            }
            let join = |at: &str| if at.is_empty() { text.clone() } else { format!("{at}/{text}") };
            let (shown, path) = (join(shown), join(path));
            let stat = rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| crate::files::fault("stat", &path, e))?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            let mut link = String::new();
            match kind {
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(folder, &name, Vec::new())
                        .map_err(|e| crate::files::fault("read", &path, e))?;
                    link = target.to_string_lossy().into_owned();
                }
                FileType::RegularFile if stat.st_nlink > 1 => match links.get(&(stat.st_dev, stat.st_ino)) {
                    Some(first) => link.clone_from(first),
                    None => drop(links.insert((stat.st_dev, stat.st_ino), shown.clone())),
                },
                // Devices and sockets cannot be made by a client without rights.
                FileType::RegularFile | FileType::Directory => {}
                _ => continue,
            }
            let id = self.describe(stat_of(shown.clone(), &stat, link, self.time))?;
            if kind == FileType::RegularFile {
                self.files.insert(id, (n, path.clone()));
            }
            if kind == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = rustix::fs::openat(folder, &name, flags, Mode::empty())
                    .map_err(|e| crate::files::fault("open", &path, e))?;
                self.walk(n, &inner, &shown, &path, depth + 1, links, beside)?;
            }
        }
        Ok(())
    }
}

fn stat_of(path: String, stat: &rustix::fs::Stat, linkname: String, time: Option<i64>) -> Stat {
    let own = (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0));
    let (seconds, nanos) = time.map_or(own, |time| (time, 0));
    Stat {
        path,
        mode: files::go_mode(stat.st_mode),
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile { stat.st_size } else { 0 },
        mod_time: seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
        linkname,
        ..Default::default()
    }
}
