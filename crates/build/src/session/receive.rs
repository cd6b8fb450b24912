//! Files from a client, into a folder of ours: only what is not there already is asked for.
//!
//! The other side is not trusted. Every path is checked before it is used: it is relative and clean, and its parent is a
//! folder that was described before; links are made as they are and never followed. Nothing but this writes in the
//! folder.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};
use futures_util::FutureExt as _;
use prost::Message as _;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::Session;
use super::files::{self, Kind, Method, Selection};
use super::index::{Entry, Index};
use crate::rpc::{Code, Status};

/// What a client may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most files, folders and links.
    pub entries: usize,
    /// Most bytes of all files together.
    pub bytes: u64,
    /// How long it may be silent.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 4_000_000, bytes: 256 << 30, silence: Duration::from_secs(120) }
    }
}

/// Longest path, in bytes, as the kernel's.
const PATH_LIMIT: usize = 4096;
/// Batches of packets between the network and the disk.
const QUEUE: usize = 16;
/// Most packets of one, and about as many bytes.
const BATCH: (usize, usize) = (256, 256 << 10);

/// How a transfer went.
#[derive(Debug, Default)]
pub struct Transfer {
    /// What the folder holds now.
    pub index: Index,
    /// Bytes that came, descriptions included.
    pub received: u64,
}

/// Makes `folder` what the client has, asking for what `held` does not have. Bytes received so far are told to
/// `progress`.
///
/// # Errors
/// The client's own words; that it sent what it may not, or nothing in time; faults of the disk. Then the folder is in
/// no known state.
pub async fn receive(
    session: &Session,
    selection: &Selection,
    folder: PathBuf,
    held: Index,
    limits: Limits,
    progress: impl Fn(u64) + Send + 'static,
) -> Result<Transfer, Status> {
    let (sender, answers) = session.files(Method::FromClient, &selection.metadata());
    let (packets, to_disk) = mpsc::channel::<Vec<Packet>>(QUEUE);
    let (from_disk, mut wanted) = mpsc::unbounded_channel::<Packet>();
    let disk = tokio::task::spawn_blocking(move || {
        let mut receiver = Receiver::new(folder, held, limits, from_disk);
        receiver.run(to_disk, progress)?;
        receiver.finish()
    });
    let ask = async {
        while let Some(packet) = wanted.recv().await {
            sender.send(&packet).await?;
        }
        Ok::<(), Status>(())
    };
    let hear = async move {
        let silent = |_| {
            let words = format!("the client sent nothing for {} s", limits.silence.as_secs());
            Status::new(Code::DeadlineExceeded, words)
        };
        let mut answers = tokio::time::timeout(limits.silence, answers).await.map_err(silent)??;
        loop {
            let next = tokio::time::timeout(limits.silence, answers.next::<Packet>());
            let Some(packet) = next.await.map_err(silent)?? else { break };
            let is_last = |packet: &Packet| packet.r#type == PacketType::PacketFin as i32;
            let (mut bytes, mut last) = (packet.data.len(), is_last(&packet));
            // With all that is there already: a thread that is woken for each of many small ones does little else.
            let mut batch = vec![packet];
            while !last && batch.len() < BATCH.0 && bytes < BATCH.1 {
                let Some(next) = answers.next::<Packet>().now_or_never() else { break };
                let Some(packet) = next? else { break };
                (bytes, last) = (bytes + packet.data.len(), is_last(&packet));
                batch.push(packet);
            }
            // The disk has given up: it says why.
            if packets.send(batch).await.is_err() || last {
                break;
            }
        }
        Ok::<(), Status>(())
    };
    let (heard, asked) = tokio::join!(hear, ask);
    let done = disk.await.map_err(|e| Status::new(Code::Internal, e.to_string()))?;
    match (done, heard, asked) {
        (Ok(transfer), ..) => Ok(transfer),
        // A stream that ended early is the consequence of why it did.
        (Err(e), Err(cause), _) if e.is(Code::Unavailable) => Err(cause),
        (Err(e), ..) => Err(e),
    }
}

struct Receiver {
    folder: PathBuf,
    held: Index,
    limits: Limits,
    ask: mpsc::UnboundedSender<Packet>,
    index: Index,
    /// Paths by number.
    paths: Vec<String>,
    folders: BTreeSet<String>,
    /// Files asked for, and those of them that have begun to come.
    wanted: HashMap<u32, Option<Coming>>,
    /// Hard links, made once all contents are there.
    links: Vec<(String, String)>,
    described: bool,
    announced: u64,
    received: u64,
    /// Bytes of all packets: what BuildKit shows.
    told: u64,
}

struct Coming {
    file: File,
    hasher: Sha256,
}

fn refuse(words: impl Into<String>) -> Status {
    Status::new(Code::InvalidArgument, format!("invalid files from the client: {}", words.into()))
}

fn disk(what: &str, path: &Path, e: impl std::fmt::Display) -> Status {
    Status::new(Code::Internal, format!("{what} {}: {e}", path.display()))
}

/// Whether a path is relative and has only plain names.
fn is_clean(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= PATH_LIMIT
        && !path.contains('\0')
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
        && !path.ends_with('/')
        && !path.contains("//")
        && !path.split('/').any(|p| p == ".")
}

impl Receiver {
    fn new(folder: PathBuf, held: Index, limits: Limits, ask: mpsc::UnboundedSender<Packet>) -> Self {
        Self {
            folder,
            held,
            limits,
            ask,
            index: Index::default(),
            paths: Vec::new(),
            folders: BTreeSet::new(),
            wanted: HashMap::new(),
            links: Vec::new(),
            described: false,
            announced: 0,
            received: 0,
            told: 0,
        }
    }

    fn run(
        &mut self,
        mut packets: mpsc::Receiver<Vec<Packet>>,
        progress: impl Fn(u64),
    ) -> Result<(), Status> {
        fs::create_dir_all(&self.folder).map_err(|e| disk("mkdir", &self.folder, e))?;
        let mut batch = Vec::new().into_iter();
        let done = loop {
            let next = batch.next().or_else(|| {
                batch = packets.blocking_recv()?.into_iter();
                batch.next()
            });
            let Some(packet) = next else {
                break Err(Status::new(Code::Unavailable, "the client went away while it sent files"));
            };
            let before = self.told >> 20;
            self.told += packet.encoded_len() as u64;
            let taken = match PacketType::try_from(packet.r#type) {
                Ok(PacketType::PacketStat) => match packet.stat {
                    Some(stat) if self.described => Err(refuse(format!("{} comes late", stat.path))),
                    Some(stat) => self.describe(stat),
                    None => {
                        self.described = true;
                        Ok(())
                    }
                },
                Ok(PacketType::PacketData) => self.data(packet.id, &packet.data),
                Ok(PacketType::PacketErr) => {
                    Err(Status::new(Code::Unknown, String::from_utf8_lossy(&packet.data).into_owned()))
                }
                Ok(PacketType::PacketFin) if self.is_complete() => break Ok(()),
                Ok(PacketType::PacketFin) => Err(refuse("it ended before all came")),
                Ok(PacketType::PacketReq) | Err(_) => Err(refuse("a packet of an unknown kind")),
            };
            if self.told >> 20 != before {
                progress(self.told);
            }
            if let Err(e) = taken {
                let _ = self.ask.send(files::failed(&e.message));
                break Err(e);
            }
            if self.is_complete() {
                // The other side's own end follows; when it does not, nothing is missing.
                let _ = self.ask.send(files::finished());
            }
        };
        progress(self.told);
        done
    }

    fn is_complete(&self) -> bool {
        self.described && self.wanted.is_empty()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    fn describe(&mut self, mut stat: Stat) -> Result<(), Status> {
        let id = u32::try_from(self.paths.len()).map_err(|_| refuse("too many files"))?;
        if self.paths.len() >= self.limits.entries {
            let words = format!("the client sends more than {} files", self.limits.entries);
            return Err(Status::new(Code::ResourceExhausted, words));
        }
        if !is_clean(&stat.path) {
            return Err(refuse(format!("path {:?}", stat.path)));
        }
        if let Some((parent, _)) = stat.path.rsplit_once('/')
            && !self.folders.contains(parent)
        {
            return Err(refuse(format!("{} is in no folder that there is", stat.path)));
        }
        if self.index.0.contains_key(&stat.path) {
            return Err(refuse(format!("{} comes twice", stat.path)));
        }
        self.paths.push(stat.path.clone());
        // Only what an image may have, and nothing of the file system below us. What a file may do by its own
        // (`security.capability`) is lost on this way with BuildKit, too: an archive keeps it.
        stat.xattrs.retain(|name, _| name.starts_with("user."));
        let (path, kind) = (self.path(&stat.path), files::kind(&stat));
        let old = self.held.0.remove(&stat.path);
        let same = old.as_ref().is_some_and(|old| old.stat == stat);
        let was = old.as_ref().map(|old| files::kind(&old.stat));
        let mut entry = Entry { stat, digest: Vec::new() };
        match kind {
            Kind::Folder => {
                self.folders.insert(entry.stat.path.clone());
                if was != Some(Kind::Folder) {
                    remove(&path)?;
                    fs::create_dir(&path).map_err(|e| disk("mkdir", &path, e))?;
                }
            }
            Kind::Link if !same => {
                remove(&path)?;
                symlink(&entry.stat.linkname, &path).map_err(|e| disk("link", &path, e))?;
                adorn(&path, &entry.stat)?;
            }
            // Always made anew: the file it was linked with may be another one now.
            Kind::File if !entry.stat.linkname.is_empty() => {
                let target = entry.stat.linkname.trim_start_matches('/').to_owned();
                let known = self.index.0.get(&target).is_some_and(|e| files::kind(&e.stat) == Kind::File);
                if !known {
                    return Err(refuse(format!(
                        "{} links to {target:?}, which is not there",
                        entry.stat.path
                    )));
                }
                self.links.push((entry.stat.path.clone(), target));
            }
            Kind::File if same => entry.digest = old.map(|old| old.digest).unwrap_or_default(),
            Kind::File => {
                let size = u64::try_from(entry.stat.size).map_err(|_| refuse("a negative size"))?;
                self.announced = self.announced.saturating_add(size);
                self.within(self.announced)?;
                remove(&path)?;
                self.wanted.insert(id, None);
                let _ = self.ask.send(files::request(id));
            }
            Kind::Link => {}
            // Sockets and devices mean nothing here: BuildKit's contexts have none.
            Kind::Other => {
                remove(&path)?;
                return Ok(());
            }
        }
        self.index.0.insert(entry.stat.path.clone(), entry);
        Ok(())
    }

    fn within(&self, bytes: u64) -> Result<(), Status> {
        if bytes > self.limits.bytes {
            let words = format!("the client's files are larger than {} bytes", self.limits.bytes);
            return Err(Status::new(Code::ResourceExhausted, words));
        }
        Ok(())
    }

    fn data(&mut self, id: u32, data: &[u8]) -> Result<(), Status> {
        self.received = self.received.saturating_add(data.len() as u64);
        // A file may have grown since it was described: what comes counts.
        self.within(self.received)?;
        let path = self.paths.get(id as usize).cloned().unwrap_or_default();
        let file = self.folder.join(&path);
        let Some(slot) = self.wanted.get_mut(&id) else {
            return Err(refuse(format!("contents of file {id}, which were not asked for")));
        };
        if slot.is_none() {
            let made = File::create_new(&file).map_err(|e| disk("create", &file, e))?;
            *slot = Some(Coming { file: made, hasher: Sha256::new() });
        }
        let Some(coming) = slot else { return Ok(()) };
        if !data.is_empty() {
            coming.hasher.update(data);
            return coming.file.write_all(data).map_err(|e| disk("write", &file, e));
        }
        let Some(Some(coming)) = self.wanted.remove(&id) else { return Ok(()) };
        if let Some(entry) = self.index.0.get_mut(&path) {
            entry.digest = coming.hasher.finalize().to_vec();
            adorn(&file, &entry.stat)?;
        }
        Ok(())
    }

    /// Takes away what is no more, makes hard links, and gives folders their times, which making files in them changed.
    fn finish(mut self) -> Result<Transfer, Status> {
        for path in self.held.0.keys().rev() {
            // What was in a folder that is none any more went with it. Where a link stands there now, the path would
            // lead to wherever that leads.
            let parent = path.rsplit_once('/').map(|(parent, _)| parent);
            if parent.is_none_or(|parent| self.folders.contains(parent)) {
                remove(&self.folder.join(path))?;
            }
        }
        for (path, target) in std::mem::take(&mut self.links) {
            let (at, from) = (self.path(&path), self.path(&target));
            remove(&at)?;
            fs::hard_link(&from, &at).map_err(|e| disk("link", &at, e))?;
            let digest = self.index.0.get(&target).map(|e| e.digest.clone()).unwrap_or_default();
            if let Some(entry) = self.index.0.get_mut(&path) {
                entry.digest = digest;
            }
        }
        for path in self.folders.iter().rev() {
            if let Some(entry) = self.index.0.get(path) {
                adorn(&self.folder.join(path), &entry.stat)?;
            }
        }
        Ok(Transfer { index: self.index, received: self.told })
    }
}

/// Removes a file, link or folder with all in it; none there is fine.
fn remove(path: &Path) -> Result<(), Status> {
    let done = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match done {
        Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(disk("remove", path, e))
        }
        _ => Ok(()),
    }
}

/// Owner, mode, attributes and time.
fn adorn(path: &Path, stat: &Stat) -> Result<(), Status> {
    let failed = |what: &'static str| move |e: io::Error| disk(what, path, e);
    lchown(path, Some(stat.uid), Some(stat.gid)).map_err(failed("chown"))?;
    if files::kind(stat) != Kind::Link {
        let mode = Permissions::from_mode(files::permissions(stat.mode));
        fs::set_permissions(path, mode).map_err(failed("chmod"))?;
    }
    for (name, value) in &stat.xattrs {
        // A file system without them loses them, as BuildKit's does.
        let _ = rustix::fs::lsetxattr(path, name.as_str(), value, XattrFlags::empty());
    }
    let time = Timespec {
        tv_sec: stat.mod_time.div_euclid(1_000_000_000),
        tv_nsec: stat.mod_time.rem_euclid(1_000_000_000),
    };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| disk("set the time of", path, e))
}

#[cfg(test)]
mod tests;
