//! The engine's side: starting shims, speaking to them, finding them again.

mod connection;

use crate::cgroup::{self, Controllers, Groups, MemoryKills, Meter};
use crate::error::Error;
use crate::oci::{self, OciRuntime};
use crate::plan::{Plan, ProcessPlan, StdinPlan};
use crate::protocol::{Call, Done, ExitRecord, FromShim, INIT, OciExec, ToShim, VERSION, encode};
use crate::{shim, sys, timestamp, translate};
use connection::{Connection, read_frame};
use oci_spec::runtime::{LinuxResources, Process, Spec};
use rustix::fd::{AsRawFd, OwnedFd};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Stdio as ProcessStdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// The container's compiled seccomp filter.
const FILTER: &str = "seccomp.bpf";
/// How long a shim may take to make a container, or to answer at all.
const SHIM_DEADLINE: Duration = Duration::from_secs(60);
/// How long a shim may take to end once it was asked to.
const END_DEADLINE: Duration = Duration::from_secs(15);

/// Where the runtime keeps its things.
#[derive(Debug, Clone)]
pub struct Config {
    /// The program `coracle-shim`.
    pub shim: PathBuf,
    /// The folder with a folder per container; need not survive a reboot.
    pub exec_root: PathBuf,
    /// The parent of all containers' groups, below the unified hierarchy.
    pub cgroup_parent: String,
}

/// What a container is made from.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Its id: unique, a plain file name.
    pub id: String,
    /// The OCI spec. `linux.seccomp` is not read: the compiled program is in `seccomp`.
    pub spec: Spec,
    /// What becomes `/`.
    pub rootfs: RootFs,
    /// Terminal and stdin.
    pub stdio: Stdio,
    /// Where output is logged.
    pub log: LogConfig,
    /// A program from [`crate::seccomp::compile`]; `None` = unconfined.
    pub seccomp: Option<Arc<[u8]>>,
    /// Where the shim records the exit, so that it is not lost while no engine runs.
    pub exit_file: PathBuf,
    /// The parent of its group below the unified hierarchy, instead of the runtime's own.
    pub cgroup_parent: Option<String>,
    /// The program that makes its processes, instead of this runtime.
    pub oci: Option<OciRuntime>,
}

/// Where a container's `/` comes from.
#[derive(Debug, Clone)]
pub enum RootFs {
    /// An overlay, mounted in the container's own mount namespace.
    Overlay {
        /// Read-only layers, the topmost first.
        lower: Vec<PathBuf>,
        /// What the container changes.
        upper: PathBuf,
        /// Overlayfs' own, on the same file system as `upper`, empty.
        work: PathBuf,
    },
    /// A folder as it is.
    Dir(PathBuf),
}

/// A container's terminal and stdin.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stdio {
    /// Give it a terminal.
    pub tty: bool,
    /// Keep stdin open even when nobody is attached.
    pub open_stdin: bool,
    /// Close stdin once the first client that could write to it has ended.
    pub stdin_once: bool,
    /// The terminal's rows and columns.
    pub console_size: Option<(u16, u16)>,
}

/// Where a container's output is logged.
#[derive(Debug, Clone)]
pub enum LogConfig {
    /// Docker's json-file.
    JsonFile {
        /// The current file; older ones are `path.1` and so on.
        path: PathBuf,
        /// Bytes at which it is rotated; `None` = never.
        max_size: Option<u64>,
        /// Files kept, the current one included.
        max_file: u32,
        /// Compress those that are not the current one.
        compress: bool,
    },
    /// Nowhere.
    None,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit status, or 128 + the signal that killed it.
    pub code: u8,
    /// When.
    pub finished_at: SystemTime,
    /// Whether the kernel killed a process of the container for want of memory.
    pub oom_killed: bool,
}

impl From<ExitRecord> for Exit {
    fn from(record: ExitRecord) -> Exit {
        Exit {
            code: record.code,
            finished_at: timestamp::to_system(record.finished_at),
            oom_killed: record.oom_killed,
        }
    }
}

/// Which streams an attached client wants.
#[derive(Debug, Clone, Default)]
pub struct AttachWant {
    /// It sends stdin.
    pub stdin: bool,
    /// It gets stdout (all output where there is a terminal).
    pub stdout: bool,
    /// It gets stderr.
    pub stderr: bool,
    /// Input bytes that end the attachment without ending stdin; `None` or empty = none.
    pub detach_keys: Option<Vec<u8>>,
}

/// A client's connection to a process's stdio, straight to the shim.
#[derive(Debug)]
pub struct Attachment {
    /// Output: raw with a terminal, else Docker's stdcopy frames. Ends when the process's output has ended.
    pub reader: OwnedReadHalf,
    /// Stdin: `shutdown` (or dropping it) is its end.
    pub writer: OwnedWriteHalf,
}

/// A further process in a container.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    /// As the container's own process; the container's seccomp filter is added.
    pub process: Process,
    /// Give it a terminal.
    pub tty: bool,
    /// A client will send its stdin.
    pub stdin: bool,
    /// Its stdout is wanted.
    pub stdout: bool,
    /// Its stderr is wanted.
    pub stderr: bool,
    /// The terminal's rows and columns.
    pub console_size: Option<(u16, u16)>,
}

/// What became of a container while no engine was looking.
#[derive(Debug)]
pub enum Reconnected {
    /// It runs (or was created and waits for its start).
    Running(Container),
    /// It has ended; nothing of it is left.
    Exited(Exit),
    /// Nothing is known of it.
    Gone,
}

/// Starts containers and finds them again.
#[derive(Debug, Clone)]
pub struct Runtime(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    exec_root: PathBuf,
    groups: Groups,
    /// A sealed copy of the shim's program: what containers can get hold of cannot be written (CVE-2019-5736).
    program: OwnedFd,
}

/// `EXEC_ROOT/<id>/state.json`.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    shim: u32,
    exit_file: PathBuf,
    /// Its group; absent in what engines before wrote: the usual place.
    #[serde(default)]
    group: Option<PathBuf>,
}

impl State {
    fn read(dir: &Path) -> Option<State> {
        serde_json::from_slice(&std::fs::read(dir.join("state.json")).ok()?).ok()
    }

    /// Whether the pid still is a shim's.
    fn shim_lives(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/comm", self.shim))
            .is_ok_and(|name| name.trim() == "coracle-shim")
            && std::fs::read_to_string(format!("/proc/{}/stat", self.shim))
                .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").starts_with(" Z"))
    }
}

/// The exit file.
#[derive(Debug, Deserialize)]
struct ExitFile {
    exit_code: u8,
    finished_at: String,
    oom_killed: bool,
}

/// A container that exists. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Container(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runtime: Runtime,
    id: String,
    pid: u32,
    dir: PathBuf,
    group: PathBuf,
    connection: Connection,
}

/// A process started by [`Container::exec`].
#[derive(Debug)]
pub struct Exec {
    container: Container,
    number: u32,
    pid: AtomicU32,
}

impl Runtime {
    /// Takes the machine's cgroup hierarchy, and the shim's program, into use.
    pub fn new(config: Config) -> Result<Runtime, Error> {
        let groups = Groups::new(&config.cgroup_parent)?;
        std::fs::create_dir_all(&config.exec_root)
            .map_err(|e| Error::system(format!("cannot make {}", config.exec_root.display()), e))?;
        let program = sealed_copy(&config.shim)?;
        Ok(Runtime(Arc::new(Shared { exec_root: config.exec_root, groups, program })))
    }

    /// Which limits this machine can set.
    pub fn controllers(&self) -> &Controllers {
        self.0.groups.controllers()
    }

    /// Makes a container: its shim, group, namespaces, root; its process waits to be started. On an error nothing of
    /// it is left.
    pub async fn create(&self, bundle: Bundle) -> Result<Container, Error> {
        check_id(&bundle.id)?;
        let dir = self.0.exec_root.join(&bundle.id);
        if State::read(&dir).is_some_and(|state| state.shim_lives()) {
            return Err(Error::Invalid(format!("container {} exists already", bundle.id)));
        }
        let group = match &bundle.cgroup_parent {
            Some(parent) => self.0.groups.path_below(parent, &bundle.id)?,
            None => self.0.groups.path(&bundle.id),
        };
        let mountpoint = dir.join("rootfs");
        let filter = dir.join(FILTER);
        let filter = bundle.seccomp.is_some().then_some(filter.as_path());
        let plan = translate::plan(&bundle, &group, &mountpoint, filter)?;
        let resources = bundle.spec.linux().as_ref().and_then(|l| l.resources().as_ref());
        let made = self.launch(&bundle, &dir, &group, resources, plan).await;
        match made {
            Ok(container) => Ok(container),
            Err(error) => {
                let _ = cgroup::destroy(&group).await;
                let _ = std::fs::remove_dir_all(&dir);
                Err(error)
            }
        }
    }

    async fn launch(
        &self,
        bundle: &Bundle,
        dir: &Path,
        group: &Path,
        resources: Option<&LinuxResources>,
        mut plan: Plan,
    ) -> Result<Container, Error> {
        let failed = |what: &'static str| move |e: std::io::Error| Error::system(what, e);
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir.join("rootfs")).map_err(failed("cannot make the container's folder"))?;
        let _ = std::fs::remove_file(&bundle.exit_file);
        if let Some(filter) = &bundle.seccomp {
            std::fs::write(dir.join(FILTER), filter).map_err(failed("cannot write the seccomp filter"))?;
        }
        if let Some(runtime) = &bundle.oci {
            plan.oci = Some(oci::write_bundle(bundle, runtime, dir, group, self.0.groups.hierarchy())?);
        }
        let plan = encode(&plan);
        self.0.groups.create(group, resources)?;
        let errors =
            std::fs::File::create(dir.join("shim.log")).map_err(failed("cannot make the shim's log"))?;
        let (ours, theirs) =
            std::os::unix::net::UnixStream::pair().map_err(failed("cannot make a socket"))?;
        ours.set_nonblocking(true).map_err(failed("cannot make a socket"))?;
        let mut stream = UnixStream::from_std(ours).map_err(failed("cannot make a socket"))?;
        // Without pre_exec this is a vfork: its cost does not grow with the engine.
        let mut child = tokio::process::Command::new(format!("/proc/self/fd/{}", self.0.program.as_raw_fd()))
            .arg0("coracle-shim")
            .arg(dir)
            .env_clear()
            .stdin(ProcessStdio::from(OwnedFd::from(theirs)))
            .stdout(ProcessStdio::null())
            .stderr(errors)
            .spawn()
            .map_err(failed("cannot start coracle-shim"))?;
        let shim = child.id().unwrap_or(0);
        let made = async {
            let state = State { shim, exit_file: bundle.exit_file.clone(), group: Some(group.to_owned()) };
            let state = serde_json::to_vec(&state).unwrap_or_default();
            std::fs::write(dir.join("state.json"), state)
                .map_err(failed("cannot write the container's state"))?;
            stream.write_all(&plan).await.map_err(failed("the shim ended before it took its plan"))?;
            match read_frame(&mut stream).await {
                Ok(FromShim::Reply { result: Ok(Done::Process { pid, .. }), .. }) => Ok(pid),
                Ok(FromShim::Reply { result: Err(failure), .. }) => Err(Error::from(failure)),
                Ok(_) => Err(Error::Shim("the shim answered something unexpected".into())),
                Err(e) => {
                    let said = std::fs::read_to_string(dir.join("shim.log")).unwrap_or_default();
                    Err(Error::Shim(format!("the shim died: {e} {}", said.trim())))
                }
            }
        };
        let made = tokio::time::timeout(SHIM_DEADLINE, made).await.unwrap_or_else(|_| {
            Err(Error::Shim(format!("the shim made no container within {} s", SHIM_DEADLINE.as_secs())))
        });
        let pid = match made {
            Ok(pid) => pid,
            Err(error) => {
                drop(stream);
                // A shim whose container failed ends by itself, its connection gone; this waits for its children.
                if tokio::time::timeout(END_DEADLINE, child.wait()).await.is_err() {
                    let _ = child.kill().await;
                }
                return Err(error);
            }
        };
        // The shim is our child while we live: someone must collect it.
        tokio::spawn(async move { child.wait().await });
        Ok(self.container(&bundle.id, pid, dir, group.to_owned(), stream))
    }

    fn container(&self, id: &str, pid: u32, dir: &Path, group: PathBuf, stream: UnixStream) -> Container {
        Container(Arc::new(Inner {
            runtime: self.clone(),
            id: id.to_owned(),
            pid,
            dir: dir.to_owned(),
            connection: Connection::start(id.to_owned(), group.clone(), stream),
            group,
        }))
    }

    /// Finds a container of an earlier engine. A container whose shim has died alone is killed and reported as exited
    /// with 137.
    pub async fn reconnect(&self, id: &str) -> Result<Reconnected, Error> {
        check_id(id)?;
        let dir = self.0.exec_root.join(id);
        let group = self.0.groups.path(id);
        let Ok(state) = std::fs::read(dir.join("state.json")) else {
            if group.exists() {
                cgroup::destroy(&group).await?;
            }
            // Of an engine that died while it made or removed it.
            let _ = std::fs::remove_dir_all(&dir);
            return Ok(Reconnected::Gone);
        };
        let state: State = serde_json::from_slice(&state)
            .map_err(|e| Error::Shim(format!("{} cannot be read: {e}", dir.join("state.json").display())))?;
        let group = state.group.clone().unwrap_or(group);
        match connect(&dir).await {
            Ok((stream, FromShim::Hello { pid, exit, .. })) => {
                let container = self.container(id, pid, &dir, group, stream);
                return match exit {
                    None => Ok(Reconnected::Running(container)),
                    Some(exit) => {
                        container.delete().await?;
                        Ok(Reconnected::Exited(exit.into()))
                    }
                };
            }
            // A shim that lives but cannot be spoken to keeps its container.
            Err(error) if state.shim_lives() => return Err(error),
            _ => {}
        }
        let had_processes = !cgroup::pids(&group).is_empty();
        cgroup::destroy(&group).await?;
        let exit = read_exit(&state.exit_file);
        let _ = std::fs::remove_dir_all(&dir);
        Ok(match exit {
            Some(exit) => Reconnected::Exited(exit),
            // It ran when its shim died: what was left of it has just been killed.
            None if had_processes => {
                Reconnected::Exited(Exit { code: 137, finished_at: SystemTime::now(), oom_killed: false })
            }
            None => Reconnected::Gone,
        })
    }
}

fn check_id(id: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if id.is_empty() || id.starts_with('.') || id.len() > 128 || !id.chars().all(plain) {
        return Err(Error::Invalid(format!("{id:?} is no container id")));
    }
    Ok(())
}

fn read_exit(path: &Path) -> Option<Exit> {
    let file: ExitFile = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    Some(Exit {
        code: file.exit_code,
        finished_at: timestamp::to_system(timestamp::parse(&file.finished_at)?),
        oom_killed: file.oom_killed,
    })
}

/// The program in memory, sealed: read and executed, never written.
fn sealed_copy(path: &Path) -> Result<OwnedFd, Error> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let failed =
        |e: std::io::Error| Error::system(format!("cannot take the program {} into use", path.display()), e);
    let mut program = std::fs::File::open(path).map_err(failed)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create("coracle-shim", flags | MemfdFlags::EXEC)
        // Before Linux 6.3 every memfd is executable and the flag unknown.
        .or_else(|_| rustix::fs::memfd_create("coracle-shim", flags))
        .map_err(|e| failed(e.into()))?;
    let mut copy = std::fs::File::from(copy);
    std::io::copy(&mut program, &mut copy).map_err(failed)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals).map_err(|e| failed(e.into()))?;
    Ok(copy.into())
}

/// A new connection to the shim in `dir`, greeted.
async fn connect(dir: &Path) -> Result<(UnixStream, FromShim), Error> {
    let failed = |e: std::io::Error| Error::system(format!("cannot reach the shim in {}", dir.display()), e);
    let reach = async {
        // By the folder's descriptor: a socket's path is limited to 107 bytes, ours is not.
        let folder = std::fs::File::open(dir).map_err(failed)?;
        let path = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), shim::SOCKET);
        let mut stream = UnixStream::connect(path).await.map_err(failed)?;
        stream.write_all(&encode(&ToShim::Hello { version: VERSION })).await.map_err(failed)?;
        match read_frame(&mut stream).await.map_err(failed)? {
            FromShim::Hello { version, .. } if version != VERSION => Err(Error::Unavailable(format!(
                "the shim speaks version {version} of its protocol, this engine {VERSION}"
            ))),
            hello @ FromShim::Hello { .. } => Ok((stream, hello)),
            _ => Err(Error::Shim("the shim did not greet".into())),
        }
    };
    tokio::time::timeout(SHIM_DEADLINE, reach)
        .await
        .unwrap_or_else(|_| Err(Error::Shim(format!("the shim in {} does not answer", dir.display()))))
}

impl Container {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The pid of its first process, in the engine's pid namespace.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Its network namespace, for setting it up between `create` and `start`.
    pub fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.0.pid))
    }

    /// Lets the process run its program. The error says why it could not.
    pub async fn start(&self) -> Result<(), Error> {
        self.0.connection.call(Call::Start { process: INIT }).await.map(drop)
    }

    /// Waits for the end of the first process, and of its output.
    pub async fn wait(&self) -> Result<Exit, Error> {
        self.0.connection.exit_of(INIT).await.map(Exit::from)
    }

    /// Sends `signal` to the first process.
    pub async fn kill(&self, signal: i32) -> Result<(), Error> {
        self.0.connection.call(Call::Kill { process: INIT, signal }).await.map(drop)
    }

    /// Sets the terminal's size.
    pub async fn resize(&self, rows: u16, cols: u16) -> Result<(), Error> {
        self.0.connection.call(Call::Resize { process: INIT, rows, cols }).await.map(drop)
    }

    /// Connects to the first process's stdio. From when this returns, nothing is lost.
    pub async fn attach(&self, want: AttachWant) -> Result<Attachment, Error> {
        attach(&self.0.dir, INIT, want).await
    }

    /// Makes a further process, in the container's namespaces and group, under its seccomp filter; it waits for
    /// [`Exec::start`], so that a client can be attached before.
    pub async fn exec(&self, exec: ExecSpec) -> Result<Exec, Error> {
        let stdin = if exec.stdin { StdinPlan::Once } else { StdinPlan::Null };
        let call = if self.0.dir.join(oci::BUNDLE).exists() {
            let exec = OciExec {
                process: oci::process(&exec.process, exec.tty)?,
                tty: exec.tty,
                console_size: exec.console_size,
                stdout: exec.stdout,
                stderr: exec.stderr,
            };
            Call::OciExec { exec: Box::new(exec), stdin }
        } else {
            Call::Exec { process: Box::new(self.exec_plan(&exec)?), stdin }
        };
        match self.0.connection.call(call).await? {
            Done::Process { process: number, pid } => {
                self.0.connection.expect(number);
                Ok(Exec { container: self.clone(), number, pid: AtomicU32::new(pid) })
            }
            Done::Nothing => Err(Error::Shim("the shim answered something unexpected".into())),
        }
    }

    fn exec_plan(&self, exec: &ExecSpec) -> Result<ProcessPlan, Error> {
        let filter = self.0.dir.join(FILTER);
        let filter = match filter.try_exists() {
            Ok(true) => Some(filter.as_path()),
            // Unconfined; but a folder that is gone has lost a filter that there may have been.
            Ok(false) if self.0.dir.exists() => None,
            Ok(false) => return Err(Error::NotRunning(format!("container {} is not running", self.0.id))),
            Err(e) => return Err(Error::system("cannot find the container's seccomp filter", e)),
        };
        let mut process = translate::process(&exec.process, exec.tty, exec.console_size, filter)?;
        process.stdout = exec.stdout;
        process.stderr = exec.stderr;
        Ok(process)
    }

    /// Changes limits and device rules while it runs.
    pub async fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        self.0.runtime.0.groups.apply(&self.0.group, resources)
    }

    /// Freezes all its processes.
    pub async fn pause(&self) -> Result<(), Error> {
        cgroup::freeze(&self.0.group, true).await
    }

    /// Lets frozen processes go on.
    pub async fn resume(&self) -> Result<(), Error> {
        cgroup::freeze(&self.0.group, false).await
    }

    /// Whether its processes are frozen; one found again may be.
    pub fn is_paused(&self) -> bool {
        cgroup::is_frozen(&self.0.group)
    }

    /// All its processes, in the engine's pid namespace.
    pub async fn pids(&self) -> Vec<u32> {
        cgroup::pids(&self.0.group)
    }

    /// Reads what it has used.
    pub fn meter(&self) -> Meter {
        Meter::of(&self.0.group)
    }

    /// The kernel's kills for want of memory among its processes, from now on; an error where memory is not counted.
    pub fn memory_kills(&self) -> std::io::Result<MemoryKills> {
        MemoryKills::of(&self.0.group)
    }

    /// Ends whatever still runs, and removes shim, group and folder. Other handles find it gone.
    pub async fn delete(self) -> Result<(), Error> {
        // A frozen group dies only when thawed.
        let _ = std::fs::write(self.0.group.join("cgroup.freeze"), "0");
        let ended = async {
            // The answer, or the end of a shim that was quicker.
            let _ = self.0.connection.call(Call::Shutdown).await;
            self.0.connection.closed().await;
        };
        if tokio::time::timeout(END_DEADLINE, ended).await.is_err() {
            self.kill_shim();
        }
        cgroup::destroy(&self.0.group).await?;
        match std::fs::remove_dir_all(&self.0.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::system(format!("cannot remove {}", self.0.dir.display()), e))
            }
            _ => Ok(()),
        }
    }

    /// A shim that does not end is ended: by its pid, if that still is a shim.
    fn kill_shim(&self) {
        let Some(state) = State::read(&self.0.dir) else { return };
        let Some(pid) = i32::try_from(state.shim).ok().and_then(rustix::process::Pid::from_raw) else {
            return;
        };
        let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
            return;
        };
        if state.shim_lives() {
            let _ = sys::pidfd_send_signal(&pidfd, libc::SIGKILL);
        }
    }
}

async fn attach(dir: &Path, process: u32, want: AttachWant) -> Result<Attachment, Error> {
    let (mut stream, _) = connect(dir).await?;
    let call = Call::Attach {
        process,
        stdin: want.stdin,
        stdout: want.stdout,
        stderr: want.stderr,
        detach_keys: want.detach_keys.unwrap_or_default(),
    };
    let failed = |e: std::io::Error| Error::system("cannot attach", e);
    stream.write_all(&encode(&ToShim::Request { id: 1, call })).await.map_err(failed)?;
    loop {
        match read_frame(&mut stream).await.map_err(failed)? {
            FromShim::Reply { result: Ok(_), .. } => break,
            FromShim::Reply { result: Err(failure), .. } => return Err(failure.into()),
            // News of other processes, sent to every connection.
            _ => {}
        }
    }
    let (reader, writer) = stream.into_split();
    Ok(Attachment { reader, writer })
}

impl Exec {
    /// Its pid, in the engine's pid namespace; 0 as long as another runtime has not made it.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Lets it run its program.
    pub async fn start(&self) -> Result<(), Error> {
        let started = self.container.0.connection.call(Call::Start { process: self.number }).await?;
        if let Done::Process { pid, .. } = started {
            self.pid.store(pid, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Connects to its stdio; before `start` nothing of it is lost.
    pub async fn attach(&self, want: AttachWant) -> Result<Attachment, Error> {
        attach(&self.container.0.dir, self.number, want).await
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Result<Exit, Error> {
        self.container.0.connection.exit_of(self.number).await.map(Exit::from)
    }

    /// Sends it `signal`.
    pub async fn kill(&self, signal: i32) -> Result<(), Error> {
        self.container.0.connection.call(Call::Kill { process: self.number, signal }).await.map(drop)
    }

    /// Sets its terminal's size.
    pub async fn resize(&self, rows: u16, cols: u16) -> Result<(), Error> {
        self.container.0.connection.call(Call::Resize { process: self.number, rows, cols }).await.map(drop)
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        self.container.0.connection.forget(self.number);
    }
}
