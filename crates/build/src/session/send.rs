//! Files to a client: a tree, or one stream of bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};
use bollard_buildkit_proto::moby::filesync::packet::BytesMessage;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
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

/// A tree as an archive.
///
/// # Errors
/// The client's own words; faults of the disk.
pub async fn archive<W: Worker>(
    builder: &Arc<Builder<W>>,
    session: &Session,
    metadata: &[(String, String)],
    tree: Tree,
) -> Result<(), Status> {
    let (out, sent) = bytes(session, metadata);
    let Some(tx) = out.0.get_ref().cloned() else {
        return Err(Status::new(Code::Internal, "a stream that ended before it began"));
    };
    drop(out);
    let write = move |view: View| {
        let root = view.read.first().ok_or_else(|| Error::invalid("nothing to send"))?;
        let failed = |e: &dyn std::fmt::Display| Error::invalid(format!("write the archive: {e}"));
        let folder = open(root.0.as_fd(), ".").map_err(|e| failed(&e))?;
        let options = archive::CreateOptions { bare: true, ..Default::default() };
        let mut out = std::io::BufWriter::with_capacity(CHUNK, Blocking(tx));
        archive::create(folder.as_fd(), b"", &options, &mut out).map_err(|e| failed(&e))?;
        out.flush().map_err(|e| failed(&e))
    };
    let (written, sent) = tokio::join!(builder.worker.view(None, vec![tree], write), sent);
    // A writer that was not listened to any more: the listener says why.
    match (written, sent) {
        (Ok(()), sent) => sent,
        (Err(_), Err(e)) => Err(e),
        (Err(e), Ok(())) => Err(crate::control::status(e)),
    }
}

fn open(folder: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// Trees to a folder of the client's, each below a name or all in one; gives the bytes that were sent.
///
/// # Errors
/// The client's own words; that it does not listen; faults of the disk.
pub async fn trees<W: Worker>(
    builder: &Arc<Builder<W>>,
    session: &Session,
    metadata: &[(String, String)],
    trees: Vec<(Option<String>, Tree)>,
) -> Result<u64, Status> {
    let (sender, answers) = session.files(Method::ToClient, metadata);
    let (tx, mut out) = mpsc::channel::<Packet>(QUEUE);
    let (wanted, requests) = mpsc::channel::<Packet>(QUEUE);
    let (folders, trees): (Vec<_>, Vec<_>) = trees.into_iter().unzip();
    let requests = Mutex::new(requests);
    let work = move |view: View| {
        let mut requests = requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Sender { out: tx, files: HashMap::new(), next: 0, sent: 0 }.run(&folders, &view.read, &mut requests)
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
    next: u32,
    sent: u64,
}

fn gone<E>(_: E) -> Error {
    Error::invalid("the client does not take the files")
}

impl Sender {
    fn run(
        mut self,
        folders: &[Option<String>],
        roots: &[Root],
        requests: &mut mpsc::Receiver<Packet>,
    ) -> Result<u64, Error> {
        let mut order: Vec<usize> = (0..roots.len()).collect();
        order.sort_by_key(|n| folders.get(*n).cloned().flatten());
        for n in order {
            let (Some(root), Some(folder)) = (roots.get(n), folders.get(n)) else { continue };
            let top = root
                .at("/", OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(|e| crate::files::fault("open", "/", e))?;
            if let Some(name) = folder {
                let stat = rustix::fs::fstat(&top).map_err(|e| crate::files::fault("stat", "/", e))?;
                self.describe(stat_of(name.clone(), &stat, String::new()))?;
            }
            let before = folder.clone().unwrap_or_default();
            self.walk(n, &top, &before, "", 0, &mut HashMap::new())?;
        }
        self.out.blocking_send(files::describes(None)).map_err(gone)?;
        let mut buffer = vec![0; CHUNK];
        while let Some(packet) = requests.blocking_recv() {
            match PacketType::try_from(packet.r#type) {
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

    fn walk(
        &mut self,
        n: usize,
        folder: &OwnedFd,
        shown: &str,
        path: &str,
        depth: usize,
        links: &mut HashMap<(u64, u64), String>,
    ) -> Result<(), Error> {
        if depth > crate::files::digest::DEPTH {
            return Err(Error::invalid(format!("{path}: too many folders below each other")));
        }
        for name in names(folder.as_fd()).map_err(|e| crate::files::fault("read", path, e))? {
            let text = name.to_string_lossy().into_owned();
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
            let id = self.describe(stat_of(shown.clone(), &stat, link))?;
            if kind == FileType::RegularFile {
                self.files.insert(id, (n, path.clone()));
            }
            if kind == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = rustix::fs::openat(folder, &name, flags, Mode::empty())
                    .map_err(|e| crate::files::fault("open", &path, e))?;
                self.walk(n, &inner, &shown, &path, depth + 1, links)?;
            }
        }
        Ok(())
    }
}

fn stat_of(path: String, stat: &rustix::fs::Stat, linkname: String) -> Stat {
    Stat {
        path,
        mode: files::go_mode(stat.st_mode),
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile { stat.st_size } else { 0 },
        mod_time: stat.st_mtime * 1_000_000_000 + i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
        linkname,
        ..Default::default()
    }
}
