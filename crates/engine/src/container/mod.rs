//! Containers: what is recorded of one, what others see of it, and who owns it.
//!
//! Every container has one task ([`task`]) that owns its state; others send it [`Command`]s and read the
//! [`View`] it publishes, so that a container that is stuck blocks nobody else's `ps` or `inspect`.
//!
//! ```text
//!            start                      exit
//!  Created ---------> Running(shim) ----------> Exited --remove--> Removed
//!     |                 |   ^   |                 | ^
//!     |           pause v   |   | exit and        | | start
//!     |              Paused-'   | restart policy  v |
//!     |                         '------------> Restarting --(back-off over)--> Running
//!     '--remove--> Removed
//! ```
//!
//! A start that fails leaves the state as it was, with the failure in `State.Error`.

pub mod changes;
pub mod config;
pub mod create;
pub mod files;
pub mod freeze;
pub mod health;
pub mod images;
mod inherit;
pub mod limits;
pub mod links;
pub mod list;
pub mod log_options;
pub mod memory;
pub mod mounts;
pub mod names;
pub mod ports;
pub mod ps;
pub mod security;
pub mod signal;
pub mod spec;
pub mod stats;
pub mod task;
pub mod update;
pub mod user;
mod validate;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::error::{Error, Result};
use crate::networks::{Member, Network};
use config::{Config, EndpointSettings, HostConfig};
use mounts::MountPoint;

/// Commands one container's task may have waiting; more senders wait.
const COMMAND_QUEUE: usize = 64;

/// What is recorded of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique name, without the slash.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Digest of the image.
    pub image_id: String,
    /// What does not depend on the host, merged with the image's.
    pub config: Config,
    /// What depends on the host, defaults filled in.
    pub host: HostConfig,
    /// The networks it starts in, by name.
    pub networks: BTreeMap<String, EndpointSettings>,
    /// Containers of the default bridge it knows by names of its own (`--link`).
    #[serde(default)]
    pub links: Vec<links::Link>,
    /// Its mounts, binds and volumes both.
    pub mounts: Vec<MountPoint>,
    /// The program.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// How the last run went, or goes.
    pub last: LastRun,
    /// Times the restart policy started it again.
    pub restart_count: u32,
    /// A person stopped it: `unless-stopped` then leaves it alone.
    pub stopped_by_user: bool,
}

/// How the last run went, or goes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LastRun {
    /// RFC 3339; empty if it never ran.
    pub started_at: String,
    /// RFC 3339; empty while it runs for the first time.
    pub finished_at: String,
    /// 128 + signal when a signal ended it.
    pub exit_code: u8,
    /// The kernel killed one of its processes for memory.
    pub oom_killed: bool,
    /// Why it could not start.
    pub error: String,
    /// What its health checks say; `None` without them.
    pub health: Option<health::Health>,
    /// Its places in networks while it runs.
    pub members: Vec<Member>,
    /// Its published ports while it runs.
    pub ports: Vec<PublishedPort>,
}

/// A port of the host that leads to a container's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// `80/tcp`.
    pub port: String,
    /// Address on the host.
    pub host_ip: std::net::IpAddr,
    /// Port on the host; 0: none, who routes to the container reaches it at its own address.
    pub host_port: u16,
}

/// What a container does, with what is valid only then.
#[derive(Clone)]
pub enum Status {
    /// Never started.
    Created,
    /// Its processes run.
    Running {
        /// The running container, for exec, resize, stats.
        container: runtime::Container,
        /// Its processes are frozen.
        paused: bool,
    },
    /// Its policy starts it again: after a pause, or as the engine comes up.
    Restarting,
    /// It ended.
    Exited,
    /// It is being removed.
    Removing,
    /// It is gone.
    Removed,
}

impl Status {
    /// Docker's word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running { paused: false, .. } => "running",
            Self::Running { paused: true, .. } => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing | Self::Removed => "removing",
        }
    }
    /// Whether `ps` shows it and `inspect` says that it runs: dockerd counts one that waits for its restart, too.
    pub fn counts_as_running(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Restarting)
    }
    /// Whether it has processes.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

/// What others see of a container: a snapshot.
#[derive(Clone)]
pub struct View {
    /// The record.
    pub record: Arc<Record>,
    /// What it does.
    pub status: Status,
    /// How many runs have ended since this engine started: `wait` for the next exit watches it.
    pub exits: u64,
}

/// What a container's task is asked to do.
#[allow(missing_docs)]
pub enum Command {
    Start {
        reply: oneshot::Sender<Result<()>>,
    },
    /// Signal (`None`: its stop signal), then after the timeout in seconds (`None`: its own; -1: never) SIGKILL.
    Stop {
        signal: Option<i32>,
        timeout: Option<i64>,
        /// A person wants it to stay stopped; else the machine goes down, and its restart policy brings it back at
        /// the next boot.
        by_user: bool,
        reply: oneshot::Sender<Result<()>>,
    },
    Restart {
        signal: Option<i32>,
        timeout: Option<i64>,
        reply: oneshot::Sender<Result<()>>,
    },
    Kill {
        signal: i32,
        reply: oneshot::Sender<Result<()>>,
    },
    Pause {
        pause: bool,
        reply: oneshot::Sender<Result<()>>,
    },
    /// Kept until the next start when it does not run.
    Attach {
        want: runtime::AttachWant,
        reply: oneshot::Sender<runtime::Attachment>,
    },
    Rename {
        name: String,
        reply: oneshot::Sender<Result<()>>,
    },
    /// A health check has ended, begun when the container had run for `age`; answers what it is now.
    Probed {
        probe: health::Probe,
        age: std::time::Duration,
        reply: oneshot::Sender<health::Status>,
    },
    /// The kernel killed one of its processes for memory, in the run that began at `run`.
    OutOfMemory {
        run: String,
    },
    /// Enters a network, at once while it runs.
    Connect {
        network: Arc<Network>,
        settings: Box<EndpointSettings>,
        reply: oneshot::Sender<Result<()>>,
    },
    /// Leaves a network, at once while it runs.
    Disconnect {
        network: Arc<Network>,
        reply: oneshot::Sender<Result<()>>,
    },
    /// A container it knows by a link has another address now.
    Relink {
        reply: oneshot::Sender<Result<()>>,
    },
    /// Forgets the container it knows by this name.
    Unlink {
        alias: String,
        reply: oneshot::Sender<Result<()>>,
    },
    /// Other limits, another restart policy; what is zero or empty stays.
    Update {
        wanted: Box<HostConfig>,
        reply: oneshot::Sender<Result<()>>,
    },
    Remove {
        force: bool,
        volumes: bool,
        reply: oneshot::Sender<Result<()>>,
    },
}

/// A container as others hold it.
#[derive(Clone)]
pub struct Handle {
    tx: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
    files: FilesLock,
}

/// Held by whoever mounts a container's files writable (a start, a copy into a stopped container) or removes them.
pub type FilesLock = Arc<tokio::sync::Mutex<()>>;

impl Handle {
    /// The newest snapshot.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Snapshots from now on.
    pub fn watch(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// The right to mount its files writable.
    pub fn files(&self) -> &FilesLock {
        &self.files
    }

    /// Sends a command and waits for its answer.
    pub async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let gone = || Error::not_found(format!("No such container: {}", self.view.borrow().record.id));
        self.tx.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// Sends a command without waiting.
    pub async fn send(&self, command: Command) -> Result<()> {
        self.tx.send(command).await.map_err(|_| Error::not_found("No such container"))
    }
}

/// How long requests wait, after the engine came up, for the containers that restart policies start then. One whose
/// start hangs (on a volume whose server is away) is not to hold up everything.
const BOOT_PATIENCE: Duration = Duration::from_secs(10);

/// All containers, by id and by name.
pub struct Containers {
    inner: Mutex<Index>,
    /// First starts by policies, as the engine comes up.
    boot: TaskTracker,
    /// Nobody waits for them any longer than this.
    boot_deadline: Instant,
}

impl Default for Containers {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            boot: TaskTracker::new(),
            boot_deadline: Instant::now() + BOOT_PATIENCE,
        }
    }
}

#[derive(Default)]
struct Index {
    by_id: BTreeMap<String, Handle>,
    /// Names taken, also by containers that are just being made.
    names: HashMap<String, String>,
}

impl Containers {
    fn lock(&self) -> MutexGuard<'_, Index> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A container that is being started as the engine comes up, until this is dropped.
    pub fn boots(&self) -> TaskTrackerToken {
        self.boot.token()
    }

    /// All that were there have been found.
    pub fn found(&self) {
        self.boot.close();
    }

    /// Returns when each that a policy starts as the engine comes up runs, or has failed to once. As with dockerd,
    /// which answers nobody before.
    pub async fn settled(&self) {
        let _ = tokio::time::timeout_at(self.boot_deadline, self.boot.wait()).await;
    }

    /// Takes a name for `id`; the words are Docker's when another has it.
    pub fn reserve_name(&self, name: &str, id: &str) -> Result<()> {
        let mut index = self.lock();
        if let Some(owner) = index.names.get(name) {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to remove (or rename) that container to be able to reuse that name."
            )));
        }
        index.names.insert(name.to_owned(), id.to_owned());
        Ok(())
    }

    /// Gives a name back, if `id` has it.
    pub fn release_name(&self, name: &str, id: &str) {
        let mut index = self.lock();
        if index.names.get(name).is_some_and(|owner| owner == id) {
            index.names.remove(name);
        }
    }

    /// Enters a container, whose name is reserved.
    pub fn insert(&self, id: &str, handle: Handle) {
        self.lock().by_id.insert(id.to_owned(), handle);
    }

    /// Forgets a container and its name.
    pub fn forget(&self, id: &str) {
        let mut index = self.lock();
        index.by_id.remove(id);
        index.names.retain(|_, owner| owner != id);
    }

    /// All, by id.
    pub fn list(&self) -> Vec<Handle> {
        self.lock().by_id.values().cloned().collect()
    }

    /// By id, name, or the beginning of an id, in this order.
    pub fn find(&self, reference: &str) -> Result<Handle> {
        let index = self.lock();
        let name = reference.strip_prefix('/').unwrap_or(reference);
        let exact =
            index.by_id.get(reference).or_else(|| index.names.get(name).and_then(|id| index.by_id.get(id)));
        if let Some(handle) = exact {
            return Ok(handle.clone());
        }
        let mut matching = index
            .by_id
            .range(reference.to_owned()..)
            .take_while(|(id, _)| !reference.is_empty() && id.starts_with(reference));
        match (matching.next(), matching.next()) {
            (Some((_, handle)), None) => Ok(handle.clone()),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("Multiple IDs found with provided prefix: {reference}")))
            }
            (None, _) => Err(Error::not_found(format!("No such container: {reference}"))),
        }
    }

    /// Ids of the containers that use volume `name`.
    pub fn using_volume(&self, name: &str) -> Vec<String> {
        let uses = |h: &Handle| {
            let view = h.view();
            view.record
                .mounts
                .iter()
                .any(|m| m.volume.as_deref() == Some(name))
                .then(|| view.record.id.clone())
        };
        self.list().iter().filter_map(uses).collect()
    }
}

/// Makes the channel pair of a container's task.
pub fn channel(view: View) -> (Handle, mpsc::Receiver<Command>, watch::Sender<View>) {
    let (tx, rx) = mpsc::channel(COMMAND_QUEUE);
    let (publish, view) = watch::channel(view);
    (Handle { tx, view, files: FilesLock::default() }, rx, publish)
}
