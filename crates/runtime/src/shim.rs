//! The shim: one small, single-threaded process per container that outlives the engine.
//!
//! It makes the container's first process, holds its terminal or pipes, writes its log, waits for its exit, and serves
//! the engine over `shim.sock` (see `protocol`). One loop, one `poll(2)`; nothing in it waits for anything else.
//!
//! ```text
//!   process:  SettingUp --Ready--> Paused --Start--> Starting --EOF--> Running --exit--> Draining --> Ended
//!                 '--Failed--> gone                     '--Failed--> Ended
//! ```
//! A container that was never started ends with the last connection to the engine (nobody could set up its network
//! any more); one that was started ends only by itself or by request. The shim ends when its init has ended, the exit
//! is recorded, and nobody is connected, or by `Shutdown`.
//!
//! Output goes to the log first, then to attached clients, each with a queue of its own. A client whose queue is over
//! [`ATTACH_QUEUE`] holds the process's output back (as a terminal would) for at most [`ATTACH_STALL`] without
//! progress; then it is dropped.

mod clients;
mod init;
mod log;
mod mapped;
mod oci;
mod process;
mod processes;
mod rootfs;

pub use init::PATH as INIT_PATH;

use crate::plan::Plan;
use crate::protocol::{self, Call, Done, Failure, FailureKind, FromShim, INIT, ToShim, VERSION};
use crate::sys;
pub use clients::DetachKeys;
use clients::{Client, Kind};
use processes::{Phase, Process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

/// Bytes waiting for one attached client above which its process's output is held back.
const ATTACH_QUEUE: usize = 256 * 1024;
/// How long an attached client may make no progress before it is dropped.
const ATTACH_STALL: Duration = Duration::from_secs(60);
/// The same once the container has been told to end, and has: what nobody takes keeps nobody waiting. dockerd's own limit.
const ATTACH_STALL_HURRIED: Duration = Duration::from_secs(2);
/// Bytes of stdin waiting for a process above which its clients are not read.
const STDIN_QUEUE: usize = 256 * 1024;
/// How long a dead process's output may stay silent (held open by a descendant) before it is closed.
const DRAIN: Duration = Duration::from_millis(500);
/// Bytes read from a descriptor at once.
const CHUNK: usize = 64 * 1024;
/// Connections at once.
const MAX_CLIENTS: usize = 256;
/// Processes at once: the init and execs.
const MAX_PROCESSES: usize = 1024;

/// The name of the socket in the container's folder.
pub(crate) const SOCKET: &str = "shim.sock";

/// What a descriptor in the poll set stands for.
#[derive(Clone, Copy)]
enum Token {
    Signals,
    Listener,
    Client(u64),
    /// A child's end of the set-up pair.
    Sync(u32),
    /// A process's output: number and index.
    Output(u32, usize),
    Stdin(u32),
}

struct Shim {
    plan: Plan,
    signals: OwnedFd,
    listener: UnixListener,
    log: Option<log::JsonLog>,
    processes: Vec<Process>,
    clients: Vec<Client>,
    next_client: u64,
    next_process: u32,
    /// Set by `Shutdown`: end once everything has ended.
    ending: bool,
    /// Somebody has told the container to end.
    hurried: bool,
    /// Limits that the first process has no right to set itself: as in [`ProcessPlan`](crate::plan::ProcessPlan).
    limits: Vec<(u32, u64, u64)>,
    buffer: Vec<u8>,
}

/// The program `coracle-shim`. Its folder is its only argument; fd 0 is the socket to the engine.
pub fn main() -> std::process::ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    if init::is_asked_for(&name) {
        return init::run(args);
    }
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("coracle-shim: {}", failure.message);
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    use rootfs::Doing as _;
    let mut args = std::env::args_os().skip(1);
    let Some(folder) = args.next() else {
        return Err(Failure::internal("this program is started by coracle-engine, not by hand"));
    };
    sys::setsid();
    sys::set_name(c"coracle-shim");
    // The engine's descriptors are close-on-exec, but a shim must hold nothing it was not meant to have.
    let _ = sys::close_range(3, u32::MAX);
    let engine =
        rustix::io::fcntl_dupfd_cloexec(sys::inherited(0), 3).doing(|| "fd 0 is no socket".into())?;
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())
        .doing(|| "cannot open /dev/null".into())?;
    // The lowest free descriptor is 0 again: it stays open for good.
    std::mem::forget(null);
    sys::ignore_signal(libc::SIGPIPE);
    let signals = sys::signal_fd(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT])
        .doing(|| "cannot make a signalfd".into())?;
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).doing(|| "cannot become a subreaper".into())?;
    // The container's own score is in the plan; the shim is worth more than what it holds. Without the right to
    // lower it, it stays.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
    std::env::set_current_dir(&folder).doing(|| format!("cannot enter {}", folder.display()))?;

    let plan = first_frame(&engine)?;
    let _ = std::fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET).doing(|| "cannot bind the shim's socket".into())?;
    listener.set_nonblocking(true).doing(|| "cannot bind the shim's socket".into())?;
    std::env::set_current_dir("/").doing(|| "cannot enter /".into())?;
    rustix::io::ioctl_fionbio(&engine, true).doing(|| "cannot make the socket non-blocking".into())?;

    let log = plan
        .log
        .as_ref()
        .map(|wanted| log::JsonLog::open(wanted).doing(|| format!("cannot open the log {}", wanted.path)));
    let mut shim = Shim {
        signals,
        listener,
        log: None,
        processes: Vec::new(),
        clients: vec![Client::engine(0, engine)],
        next_client: 1,
        next_process: INIT + 1,
        ending: false,
        hurried: false,
        limits: Vec::new(),
        buffer: vec![0; CHUNK],
        plan,
    };
    let made = match log.transpose() {
        Ok(log) => {
            shim.log = log;
            match shim.plan.oci.clone() {
                Some(oci) => shim.make_oci_init(&oci),
                None => shim.make_init(),
            }
        }
        Err(failure) => Err(failure),
    };
    match made {
        Ok(init) => {
            if matches!(init.phase, Phase::Created) {
                shim.reply(0, 0, Ok(Done::Process { process: INIT, pid: init.pid as u32 }));
            }
            shim.processes.push(init);
        }
        Err(failure) => shim.give_up(failure),
    }
    shim.forget_plan();
    let result = shim.serve();
    shim.delete_oci();
    let _ = std::fs::remove_file(std::path::Path::new(&folder).join(SOCKET));
    result
}

/// Reads the plan from the engine; this is before the loop, so it may wait.
fn first_frame(engine: &OwnedFd) -> Result<Plan, Failure> {
    use rootfs::Doing as _;
    let mut inbox = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        if let Some(plan) = protocol::take(&mut inbox)? {
            return Ok(plan);
        }
        let read = rustix::io::read(engine, &mut chunk).doing(|| "cannot read the plan".into())?;
        if read == 0 {
            return Err(Failure::internal("the engine went away before it sent a plan"));
        }
        inbox.extend_from_slice(&chunk[..read]);
    }
}

impl Shim {
    /// The init could not even be cloned: say so and end.
    fn give_up(&mut self, failure: Failure) {
        self.reply(0, 0, Err(failure));
        self.ending = true;
    }

    /// What only the set-up needed is given back.
    fn forget_plan(&mut self) {
        self.plan.mounts = Vec::new();
        self.plan.devices = Vec::new();
        self.plan.masked = Vec::new();
        self.plan.readonly = Vec::new();
        self.plan.sysctl = Vec::new();
        self.plan.join_namespaces = Vec::new();
        self.plan.process.env = Vec::new();
        self.plan.process.args = Vec::new();
        sys::trim_heap();
    }

    fn serve(&mut self) -> Result<(), Failure> {
        use rootfs::Doing as _;
        loop {
            if self.finished() {
                return Ok(());
            }
            let now = Instant::now();
            let (tokens, ready) = {
                let mut tokens = Vec::new();
                let mut fds = Vec::new();
                self.watch(&mut tokens, &mut fds);
                let timeout = self.next_deadline(now).map(|left| Timespec {
                    tv_sec: left.as_secs() as i64,
                    tv_nsec: left.subsec_nanos().into(),
                });
                match poll(&mut fds, timeout.as_ref()) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(e) => return Err(e).doing(|| "cannot wait for events".into()),
                }
                let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
                (tokens, ready)
            };
            for (token, ready) in tokens.into_iter().zip(ready) {
                if !ready.is_empty() {
                    self.handle(token, ready);
                }
            }
            self.settle();
        }
    }

    /// Everything we wait for right now.
    fn watch<'a>(&'a self, tokens: &mut Vec<Token>, fds: &mut Vec<PollFd<'a>>) {
        let mut add = |token, fd: BorrowedFd<'a>, flags| {
            tokens.push(token);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        add(Token::Signals, self.signals.as_fd(), PollFlags::IN);
        if self.clients.len() < MAX_CLIENTS {
            add(Token::Listener, self.listener.as_fd(), PollFlags::IN);
        }
        for client in &self.clients {
            let mut flags = PollFlags::empty();
            if client.has_output() {
                flags |= PollFlags::OUT;
            }
            let reads = match &client.kind {
                Kind::Control { .. } => true,
                Kind::Attached(a) => {
                    a.open && self.process(a.process).is_none_or(|p| p.takes_stdin(STDIN_QUEUE))
                }
            };
            if reads {
                flags |= PollFlags::IN;
            }
            add(Token::Client(client.id), client.socket.as_fd(), flags);
        }
        for process in &self.processes {
            if let Some(sync) = process.phase.sync() {
                add(Token::Sync(process.number), sync.as_fd(), PollFlags::IN);
            }
            if !self.held_back(process.number) {
                for (index, output) in process.outputs.iter().enumerate() {
                    if let Some(fd) = &output.fd {
                        add(Token::Output(process.number, index), fd.as_fd(), PollFlags::IN);
                    }
                }
            }
            if let Some(fd) = process.stdin_wants_writing() {
                add(Token::Stdin(process.number), fd, PollFlags::OUT);
            }
        }
    }

    /// Whether a client's full queue holds back the process's output.
    fn held_back(&self, number: u32) -> bool {
        self.clients.iter().any(|c| c.attached_to(number) && c.queued() > ATTACH_QUEUE)
    }

    /// How long a client may take nothing: less once somebody wants the container's end, and it has ended.
    fn stall_limit(&self) -> Duration {
        let ended =
            self.process(INIT).is_none_or(|p| matches!(p.phase, Phase::Draining { .. } | Phase::Ended(_)));
        if self.hurried && ended { ATTACH_STALL_HURRIED } else { ATTACH_STALL }
    }

    fn next_deadline(&self, now: Instant) -> Option<Duration> {
        let drains = self.processes.iter().filter_map(|p| match &p.phase {
            Phase::Draining { quiet_since, .. } => Some(*quiet_since + DRAIN),
            _ => None,
        });
        let limit = self.stall_limit();
        let stalls = self.clients.iter().filter_map(|c| c.stalled_since.map(|since| since + limit));
        drains.chain(stalls).min().map(|at| at.saturating_duration_since(now) + Duration::from_millis(1))
    }

    fn handle(&mut self, token: Token, ready: PollFlags) {
        match token {
            Token::Signals => {
                let mut drained = [0u8; 128 * 8];
                while rustix::io::read(&self.signals, &mut drained).is_ok_and(|n| n > 0) {}
                self.reap();
            }
            Token::Listener => self.accept(),
            Token::Client(id) => self.client_ready(id, ready),
            Token::Sync(number) => self.hear(number),
            Token::Output(number, index) => self.output_ready(number, index),
            Token::Stdin(number) => {
                if let Some(process) = self.process_mut(number) {
                    process.write_stdin();
                }
            }
        }
    }

    fn accept(&mut self) {
        while self.clients.len() < MAX_CLIENTS {
            let Ok((socket, _)) = self.listener.accept() else { return };
            if socket.set_nonblocking(true).is_ok() {
                self.clients.push(Client::new(self.next_client, socket.into()));
                self.next_client += 1;
            }
        }
    }

    fn client_ready(&mut self, id: u64, ready: PollFlags) {
        let Some(at) = self.clients.iter().position(|c| c.id == id) else { return };
        if ready.contains(PollFlags::OUT) {
            self.clients[at].flush();
        }
        if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            let read = match rustix::io::read(&self.clients[at].socket, &mut self.buffer) {
                Ok(n) => n,
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => return self.drop_client(at),
            };
            if read == 0 {
                return self.client_ended(at, ready);
            }
            let bytes = self.buffer[..read].to_vec();
            match &mut self.clients[at].kind {
                Kind::Control { inbox, .. } => {
                    inbox.extend_from_slice(&bytes);
                    self.frames(id);
                }
                Kind::Attached(_) => self.stdin_from(at, &bytes),
            }
        }
    }

    /// The client will send no more: for an attached one that is stdin's end, any other is gone.
    fn client_ended(&mut self, at: usize, ready: PollFlags) {
        let gone = ready.intersects(PollFlags::HUP | PollFlags::ERR);
        let stdin_of = match &mut self.clients[at].kind {
            Kind::Control { .. } => return self.drop_client(at),
            Kind::Attached(attached) => {
                let first = std::mem::take(&mut attached.open);
                (first && attached.stdin).then_some(attached.process)
            }
        };
        if gone {
            self.clients.swap_remove(at);
        }
        if let Some(process) = stdin_of.and_then(|number| self.process_mut(number)) {
            process.client_stdin_ended();
        }
    }

    fn drop_client(&mut self, at: usize) {
        let client = self.clients.swap_remove(at);
        if let Kind::Attached(attached) = client.kind
            && attached.open
            && attached.stdin
            && let Some(process) = self.process_mut(attached.process)
        {
            process.client_stdin_ended();
        }
    }

    /// Bytes for a process's stdin; the detach keys end the client, not the stdin.
    fn stdin_from(&mut self, at: usize, bytes: &[u8]) {
        let Kind::Attached(attached) = &mut self.clients[at].kind else { return };
        if !attached.stdin {
            return;
        }
        let (pass, detached) = attached.detach.feed(bytes);
        let number = attached.process;
        if let Some(process) = self.process_mut(number) {
            process.queue_stdin(&pass);
        }
        if detached {
            self.clients.swap_remove(at);
        }
    }

    /// Every complete frame of a control connection.
    fn frames(&mut self, id: u64) {
        loop {
            let Some(at) = self.clients.iter().position(|c| c.id == id) else { return };
            let Kind::Control { inbox, .. } = &mut self.clients[at].kind else {
                return;
            };
            match protocol::take::<ToShim>(inbox) {
                Ok(Some(ToShim::Hello { .. })) => {
                    let hello = self.hello();
                    self.send(id, &hello);
                    if let Some(Kind::Control { greeted, .. }) =
                        self.clients.iter_mut().find(|c| c.id == id).map(|c| &mut c.kind)
                    {
                        *greeted = true;
                    }
                }
                Ok(Some(ToShim::Request { id: request, call })) => self.call(id, request, call),
                Ok(None) => return,
                Err(_) => return self.drop_client(at),
            }
        }
    }

    fn hello(&self) -> FromShim {
        let init = self.process(INIT);
        FromShim::Hello {
            version: VERSION,
            pid: init.map_or(0, |p| p.pid as u32),
            started: init.is_some_and(|p| p.phase.started()),
            exit: init.and_then(|p| match p.phase {
                Phase::Ended(exit) => Some(exit),
                _ => None,
            }),
        }
    }

    fn call(&mut self, client: u64, request: u32, call: Call) {
        let answer = match call {
            Call::Start { process } => self.start(process, client, request),
            Call::Kill { process, signal } => {
                self.hurried |= process == INIT;
                self.kill(process, signal).map(Some)
            }
            Call::Resize { process, rows, cols } => self.resize(process, rows, cols).map(Some),
            Call::Attach { process, stdin, stdout, stderr, detach_keys } => {
                return self.attach(client, request, process, [stdin, stdout, stderr], detach_keys);
            }
            Call::Exec { process, stdin } => self.make_exec(&process, stdin, client, request),
            Call::OciExec { exec, stdin } => self.prepare_oci_exec(*exec, stdin),
            Call::Shutdown => {
                (self.ending, self.hurried) = (true, true);
                self.kill_all();
                Ok(Some(Done::Nothing))
            }
        };
        match answer {
            Ok(Some(done)) => self.reply(client, request, Ok(done)),
            Ok(None) => {}
            Err(failure) => self.reply(client, request, Err(failure)),
        }
    }

    fn attach(&mut self, client: u64, request: u32, number: u32, wants: [bool; 3], detach_keys: Vec<u8>) {
        let known = self.process(number).is_some_and(|p| !matches!(p.phase, Phase::Ended(_)));
        if !known {
            return self.reply(client, request, Err(not_running()));
        }
        self.reply(client, request, Ok(Done::Nothing));
        let Some(at) = self.clients.iter().position(|c| c.id == client) else { return };
        let early = self.clients[at].become_attached(number, wants, detach_keys);
        if !early.is_empty() {
            self.stdin_from(at, &early);
        }
    }

    fn send(&mut self, client: u64, message: &FromShim) {
        if let Some(client) = self.clients.iter_mut().find(|c| c.id == client) {
            client.queue(&protocol::encode(message));
        }
    }

    fn reply(&mut self, client: u64, request: u32, result: Result<Done, Failure>) {
        self.send(client, &FromShim::Reply { id: request, result });
    }

    fn broadcast(&mut self, message: &FromShim) {
        let frame = protocol::encode(message);
        for client in self.clients.iter_mut().filter(|c| c.is_greeted()) {
            client.queue(&frame);
        }
    }

    fn process(&self, number: u32) -> Option<&Process> {
        self.processes.iter().find(|p| p.number == number)
    }

    fn process_mut(&mut self, number: u32) -> Option<&mut Process> {
        self.processes.iter_mut().find(|p| p.number == number)
    }

    /// After every round: what has drained ends, stalled clients go, an abandoned container ends.
    fn settle(&mut self) {
        self.settle_processes();
        let now = Instant::now();
        let limit = self.stall_limit();
        while let Some(at) = self.clients.iter().position(|c| c.broken || c.stalled_at(now, limit)) {
            self.drop_client(at);
        }
        for client in &mut self.clients {
            let Kind::Attached(attached) = &client.kind else { continue };
            let process = self.processes.iter().find(|p| p.number == attached.process);
            let over = match process {
                None => true,
                Some(p) => {
                    matches!(p.phase, Phase::Ended(_)) || (!attached.takes_input() && p.output_ended())
                }
            };
            client.over = over;
        }
        self.clients.retain(|c| !c.over || c.has_output());
        let controlled = self.clients.iter().any(Client::is_control);
        if !controlled && self.process(INIT).is_some_and(|p| !p.phase.started()) && !self.ending {
            self.ending = true;
            self.kill_all();
        }
    }

    fn finished(&self) -> bool {
        let running = self.processes.iter().any(|p| !matches!(p.phase, Phase::Ended(_)));
        let owed = self.clients.iter().any(Client::has_output);
        let init_ended = self.process(INIT).is_none_or(|p| matches!(p.phase, Phase::Ended(_)));
        let controlled = self.clients.iter().any(Client::is_control);
        (self.ending && !running && !owed) || (init_ended && !running && !owed && !controlled)
    }
}

fn not_running() -> Failure {
    Failure::new(FailureKind::NotRunning, "the process is not running")
}
