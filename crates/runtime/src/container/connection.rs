//! The engine's connection to one shim: calls with answers, and the exits it reports.

use crate::cgroup;
use crate::error::Error;
use crate::logs;
use crate::protocol::{Call, Done, ExitRecord, FromShim, INIT, MAX_FRAME, ToShim, encode};
use crate::timestamp;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, oneshot, watch};

/// Calls waiting to be sent to one shim.
const CALLS: usize = 64;

type Answer = oneshot::Sender<Result<Done, Error>>;

/// A live connection; its task ends with the shim, or with the last handle.
#[derive(Debug)]
pub(super) struct Connection {
    id: String,
    calls: mpsc::Sender<(Call, Answer)>,
    exits: Arc<Exits>,
    closed: watch::Receiver<bool>,
}

/// The ends of processes, as far as known. `None` inside = not yet.
#[derive(Debug, Default)]
struct Exits(Mutex<HashMap<u32, watch::Sender<Option<ExitRecord>>>>);

impl Exits {
    fn of(&self, process: u32) -> watch::Receiver<Option<ExitRecord>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(process).or_insert_with(|| watch::channel(None).0).subscribe()
    }

    /// Of a process that nobody holds a handle of any more nothing is kept.
    fn set(&self, process: u32, exit: ExitRecord) {
        if let Some(sender) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&process) {
            sender.send_replace(Some(exit));
        }
    }

    /// Everything without an exit has ended unseen.
    fn close(&self, exit: ExitRecord) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in all.values() {
            sender.send_if_modified(|known| known.is_none().then(|| *known = Some(exit)).is_some());
        }
    }

    fn forget(&self, process: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&process);
    }
}

/// Reads one frame.
pub(super) async fn read_frame(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<FromShim> {
    let length = stream.read_u32_le().await? as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the shim sent too long a frame"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    postcard::from_bytes(&body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
}

impl Connection {
    pub fn start(id: String, group: PathBuf, stream: UnixStream) -> Connection {
        let (calls, receiver) = mpsc::channel(CALLS);
        let exits = Arc::new(Exits::default());
        // Known from the start, so that a shim's death finds it.
        drop(exits.of(INIT));
        let (closing, closed) = watch::channel(false);
        let task = Task { id: id.clone(), group, exits: exits.clone(), calls: receiver };
        tokio::spawn(async move {
            task.run(stream).await;
            closing.send_replace(true);
        });
        Connection { id, calls, exits, closed }
    }

    pub async fn call(&self, call: Call) -> Result<Done, Error> {
        let (answer, answered) = oneshot::channel();
        let gone = || Error::NotRunning(format!("container {} is not running", self.id));
        self.calls.send((call, answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    pub async fn exit_of(&self, process: u32) -> Result<ExitRecord, Error> {
        let mut exit = self.exits.of(process);
        let mut closed = self.closed.clone();
        let gone = async {
            // The sender lives as long as the task.
            let _ = closed.wait_for(|closed| *closed).await;
        };
        let known = tokio::select! {
            biased;
            known = exit.wait_for(Option::is_some) => known.ok().and_then(|known| *known),
            () = gone => None,
        };
        known.or_else(|| *self.exits.of(process).borrow()).ok_or_else(|| Error::ShimGone(self.id.clone()))
    }

    /// Waits until the shim has closed the connection.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// From now until [`Connection::forget`] the end of this process is kept. Called before it is started.
    pub fn expect(&self, process: u32) {
        drop(self.exits.of(process));
    }

    pub fn forget(&self, process: u32) {
        self.exits.forget(process);
    }
}

struct Task {
    id: String,
    group: PathBuf,
    exits: Arc<Exits>,
    calls: mpsc::Receiver<(Call, Answer)>,
}

impl Task {
    async fn run(mut self, stream: UnixStream) {
        let (reader, mut writer) = stream.into_split();
        let (frames, mut received) = mpsc::channel(CALLS);
        let reading = tokio::spawn(read_all(reader, frames));
        let mut waiting: HashMap<u32, Answer> = HashMap::new();
        let mut next = 1u32;
        let mut exited = false;
        loop {
            tokio::select! {
                call = self.calls.recv() => {
                    let Some((call, answer)) = call else { break };
                    let id = next;
                    next = next.wrapping_add(1).max(1);
                    if writer.write_all(&encode(&ToShim::Request { id, call })).await.is_ok() {
                        waiting.insert(id, answer);
                    }
                }
                frame = received.recv() => match frame {
                    Some(FromShim::Reply { id, result }) => {
                        if let Some(answer) = waiting.remove(&id) {
                            // Nobody waits any more: fine.
                            let _ = answer.send(result.map_err(Error::from));
                        }
                    }
                    Some(FromShim::Exited { process, exit }) => {
                        exited |= process == INIT;
                        self.exits.set(process, exit);
                    }
                    Some(FromShim::PutAside { log }) => drop(tokio::spawn(logs::compress_later(log.into()))),
                    Some(FromShim::Hello { .. }) => {}
                    None => {
                        if !exited {
                            self.shim_died().await;
                        }
                        break;
                    }
                },
            }
        }
        reading.abort();
    }

    /// The shim died alone: without it nobody reads the container's output or sees its end, so the container goes too.
    async fn shim_died(&self) {
        let _ = std::fs::write(self.group.join("cgroup.kill"), "1");
        tracing::warn!(container = self.id, "the container's shim is gone; the container was killed");
        self.exits.close(ExitRecord { code: 137, finished_at: timestamp::now(), oom_killed: false });
        let _ = cgroup::destroy(&self.group).await;
    }
}

async fn read_all(mut reader: OwnedReadHalf, frames: mpsc::Sender<FromShim>) {
    while let Ok(frame) = read_frame(&mut reader).await {
        if frames.send(frame).await.is_err() {
            return;
        }
    }
}
