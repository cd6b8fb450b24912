//! The shim's processes: how they come to be, their output and input, and how they end.

use super::log::Stream;
use super::mapped;
use super::process::{self, ChildStdio, Heard, Tenant};
use super::rootfs::Doing as _;
use super::{DRAIN, Kind, MAX_PROCESSES, Shim, not_running};
use crate::plan::{ProcessPlan, StdinPlan};
use crate::protocol::{Done, ExitRecord, Failure, FailureKind, FromShim, INIT, OciExec};
use crate::sys::{self, Cloned};
use crate::timestamp;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, wait};
use std::time::Instant;

/// One process of the container.
pub(super) struct Process {
    pub number: u32,
    pub pid: i32,
    /// `None` as long as there is no process yet: see [`Phase::Prepared`].
    pidfd: Option<OwnedFd>,
    pub phase: Phase,
    pub outputs: Vec<Output>,
    stdin: Input,
    stdin_plan: StdinPlan,
    terminal: Option<Terminal>,
}

/// A terminal: its master, and an end of it that keeps it from hanging up while the process lives.
struct Terminal {
    master: OwnedFd,
    keep: Option<OwnedFd>,
}

/// Who is to be answered.
#[derive(Clone, Copy)]
pub(super) struct Asker {
    client: u64,
    request: u32,
}

pub(super) enum Phase {
    /// An init that another runtime made, before its start.
    Created,
    /// An exec for another runtime to make at its start.
    Prepared {
        exec: Box<OciExec>,
        stdio: ChildStdio,
    },
    SettingUp {
        sync: OwnedFd,
        asker: Asker,
    },
    Paused {
        sync: OwnedFd,
    },
    Starting {
        sync: OwnedFd,
        asker: Asker,
    },
    Running,
    /// Dead; its output is read to the end. One that never ran its program leaves no record.
    Draining {
        exit: ExitRecord,
        quiet_since: Instant,
        ran: bool,
    },
    Ended(ExitRecord),
}

impl Phase {
    /// The set-up pair, while there is one.
    pub fn sync(&self) -> Option<&OwnedFd> {
        match self {
            Phase::SettingUp { sync, .. } | Phase::Paused { sync } | Phase::Starting { sync, .. } => {
                Some(sync)
            }
            _ => None,
        }
    }

    pub fn started(&self) -> bool {
        !matches!(
            self,
            Phase::SettingUp { .. } | Phase::Paused { .. } | Phase::Created | Phase::Prepared { .. }
        )
    }
}

/// A stream read from a process.
pub(super) struct Output {
    pub fd: Option<OwnedFd>,
    stream: Stream,
}

/// A process's stdin as the shim feeds it.
enum Input {
    Closed,
    /// Bytes wait in the queue; at its end `closing` closes the pipe.
    Open {
        fd: OwnedFd,
        queue: Vec<u8>,
        closing: bool,
    },
}

impl Process {
    /// One that another runtime made.
    pub fn made(
        number: u32,
        pid: Pid,
        phase: Phase,
        pipes: Pipes,
        stdin_plan: StdinPlan,
    ) -> Result<Process, Failure> {
        let mut process = Process::prepared(number, phase, pipes, stdin_plan);
        process.is_now(pid)?;
        Ok(process)
    }

    /// One that is yet to be made.
    pub fn prepared(number: u32, phase: Phase, pipes: Pipes, stdin_plan: StdinPlan) -> Process {
        let Pipes { outputs, stdin } = pipes;
        Process { number, pid: 0, pidfd: None, phase, outputs, stdin, stdin_plan, terminal: None }
    }

    /// It has been made: a child of ours, which stays findable until we collect it.
    pub fn is_now(&mut self, pid: Pid) -> Result<(), Failure> {
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).doing(|| "the process is gone".into())?;
        (self.pid, self.pidfd) = (pid.as_raw_nonzero().get(), Some(pidfd));
        Ok(())
    }

    /// Sends a signal; to one that does not exist (yet), `ESRCH`.
    fn signal(&self, signal: i32) -> std::io::Result<()> {
        let gone = || std::io::Error::from_raw_os_error(libc::ESRCH);
        sys::pidfd_send_signal(self.pidfd.as_ref().ok_or_else(gone)?, signal)
    }

    pub fn takes_stdin(&self, limit: usize) -> bool {
        match &self.stdin {
            Input::Open { queue, .. } => queue.len() < limit,
            Input::Closed => true,
        }
    }

    pub fn stdin_wants_writing(&self) -> Option<BorrowedFd<'_>> {
        match &self.stdin {
            Input::Open { fd, queue, closing } if !queue.is_empty() || *closing => Some(fd.as_fd()),
            _ => None,
        }
    }

    pub fn queue_stdin(&mut self, bytes: &[u8]) {
        if let Input::Open { queue, .. } = &mut self.stdin {
            queue.extend_from_slice(bytes);
            self.write_stdin();
        }
    }

    pub fn write_stdin(&mut self) {
        let Input::Open { fd, queue, closing } = &mut self.stdin else { return };
        let mut done = 0;
        while done < queue.len() {
            match rustix::io::write(&*fd, &queue[done..]) {
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.stdin = Input::Closed;
                    return;
                }
            }
        }
        queue.drain(..done);
        if queue.is_empty() {
            *queue = Vec::new();
            if *closing {
                self.stdin = Input::Closed;
            }
        }
    }

    /// A client that was a source of stdin has ended it.
    pub fn client_stdin_ended(&mut self) {
        if self.terminal.is_none() && self.stdin_plan == StdinPlan::Once {
            if let Input::Open { closing, .. } = &mut self.stdin {
                *closing = true;
            }
            self.write_stdin();
        }
    }

    pub fn output_ended(&self) -> bool {
        self.phase.sync().is_none() && !self.outputs.is_empty() && self.outputs.iter().all(|o| o.fd.is_none())
    }

    pub fn set_terminal(&mut self, master: OwnedFd) -> Result<(), Failure> {
        let failed = || "cannot take over the terminal".to_owned();
        rustix::io::ioctl_fionbio(&master, true).doing(failed)?;
        let keep = rustix::pty::ioctl_tiocgptpeer(
            &master,
            rustix::pty::OpenptFlags::RDWR
                | rustix::pty::OpenptFlags::NOCTTY
                | rustix::pty::OpenptFlags::CLOEXEC,
        )
        .doing(failed)?;
        self.outputs = vec![Output { fd: Some(master.try_clone().doing(failed)?), stream: Stream::Stdout }];
        self.stdin = Input::Open { fd: master.try_clone().doing(failed)?, queue: Vec::new(), closing: false };
        self.terminal = Some(Terminal { master, keep: Some(keep) });
        Ok(())
    }
}

/// The shim's ends of a process's pipes.
pub(super) struct Pipes {
    outputs: Vec<Output>,
    stdin: Input,
}

/// The pipes of a process, which belong to `owner`: the container's root may open `/dev/stdout` again.
pub(super) fn pipes(
    plan: &ProcessPlan,
    stdin: StdinPlan,
    owner: Option<(u32, u32)>,
) -> Result<(ChildStdio, Pipes), Failure> {
    let mut child = ChildStdio { stdin: None, stdout: None, stderr: None };
    let mut ours = Pipes { outputs: Vec::new(), stdin: Input::Closed };
    if plan.tty {
        return Ok((child, ours));
    }
    let failed = || "cannot make the pipes of the standard streams".to_owned();
    let pipe = || -> Result<(OwnedFd, OwnedFd), Failure> {
        let ends = pipe_with(PipeFlags::CLOEXEC).doing(failed)?;
        if let Some((uid, gid)) = owner {
            rustix::fs::fchown(&ends.0, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).doing(failed)?;
        }
        Ok(ends)
    };
    let mut output = |stream| -> Result<OwnedFd, Failure> {
        let (read, write) = pipe()?;
        rustix::io::ioctl_fionbio(&read, true).doing(failed)?;
        ours.outputs.push(Output { fd: Some(read), stream });
        Ok(write)
    };
    if plan.stdout {
        child.stdout = Some(output(Stream::Stdout)?);
    }
    if plan.stderr {
        child.stderr = Some(output(Stream::Stderr)?);
    }
    if stdin != StdinPlan::Null {
        let (read, write) = pipe()?;
        rustix::io::ioctl_fionbio(&write, true).doing(failed)?;
        child.stdin = Some(read);
        ours.stdin = Input::Open { fd: write, queue: Vec::new(), closing: false };
    }
    Ok((child, ours))
}

pub(super) fn sync_pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .doing(|| "cannot make a pair of sockets".into())
}

fn open_folder(path: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

impl Shim {
    /// Clones the container's init; it reports by its sync pair, to the engine's first request.
    pub(super) fn make_init(&mut self) -> Result<Process, Failure> {
        if self.plan.uid_map.is_empty() {
            return self.clone_init();
        }
        self.limits = std::mem::take(&mut self.plan.process.rlimits);
        let home = mapped::stage(&mut self.plan)?;
        let made = self.clone_init()?;
        // What was staged is the container's alone from here on.
        sys::setns(&home, libc::CLONE_NEWNS).doing(|| "cannot return to the host's mounts".into())?;
        Ok(made)
    }

    fn clone_init(&self) -> Result<Process, Failure> {
        let plan = &self.plan;
        let mut joins = Vec::new();
        let (mut pid_namespace, mut users) = (None, None);
        for (kind, path) in &plan.join_namespaces {
            let file = rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .doing(|| format!("cannot open the namespace {path}"))?;
            if *kind == libc::CLONE_NEWPID as u64 {
                pid_namespace = Some(file);
            } else if *kind == libc::CLONE_NEWUSER as u64 {
                users = Some(file);
            } else {
                joins.push((*kind as i32, file));
            }
        }
        let group = open_folder(&plan.cgroup).doing(|| format!("cannot open the group {}", plan.cgroup))?;
        let (sync, child_sync) = sync_pair()?;
        let (child_stdio, ours) = pipes(&plan.process, self.plan.stdin, mapped::root(plan))?;
        // The cgroup namespace is made later, by the child: see `process`.
        let flags = plan.new_namespaces & !(libc::CLONE_NEWCGROUP as u64);
        let group = Some(group.as_fd());
        let cloned = match &users {
            Some(users) => mapped::clone_within(users, pid_namespace.as_ref(), flags, group),
            None => in_pid_namespace(pid_namespace.as_ref(), || sys::clone3(flags, group)),
        };
        match cloned.doing(|| "cannot make the container's process".into())? {
            Cloned::Child => {
                drop(sync);
                process::run_init(plan, &joins, child_stdio, child_sync)
            }
            Cloned::Parent(pid, pidfd) => {
                if plan.new_namespaces & libc::CLONE_NEWUSER as u64 != 0 {
                    map_users(pid, &plan.uid_map, &plan.gid_map)?;
                    rustix::io::write(&sync, b"m").doing(|| "the container's process is gone".into())?;
                }
                Ok(Process {
                    number: INIT,
                    pid,
                    pidfd: Some(pidfd),
                    phase: Phase::SettingUp { sync, asker: Asker { client: 0, request: 0 } },
                    outputs: ours.outputs,
                    stdin: ours.stdin,
                    stdin_plan: self.plan.stdin,
                    terminal: None,
                })
            }
        }
    }

    /// Clones a further process of the running container.
    pub(super) fn make_exec(
        &mut self,
        plan: &ProcessPlan,
        stdin: StdinPlan,
        client: u64,
        request: u32,
    ) -> Result<Option<Done>, Failure> {
        let init =
            self.process(INIT).filter(|p| matches!(p.phase, Phase::Running)).ok_or_else(not_running)?;
        self.room_for_exec()?;
        let user = libc::CLONE_NEWUSER as u64;
        let joined = |kind: u64| {
            self.plan.new_namespaces & kind != 0 || self.plan.join_namespaces.iter().any(|(k, _)| *k == kind)
        };
        let mut namespaces = libc::CLONE_NEWNS
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWCGROUP;
        if joined(user) {
            namespaces |= libc::CLONE_NEWUSER;
        }
        let pidfd = init.pidfd.as_ref().ok_or_else(not_running)?;
        let pidfd = pidfd.try_clone().doing(|| "cannot copy a descriptor".into())?;
        let init_pid = init.pid;
        let tenant = Tenant { init: pidfd, namespaces };
        let (sync, child_sync) = sync_pair()?;
        let (child_stdio, ours) = pipes(plan, stdin, mapped::root(&self.plan))?;
        let clone_into =
            |group: &OwnedFd| in_pid_namespace(Some(&tenant.init), || sys::clone3(0, Some(group.as_fd())));
        let group =
            open_folder(&self.plan.cgroup).doing(|| format!("cannot open the group {}", self.plan.cgroup))?;
        let mut cloned = clone_into(&group);
        if cloned.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY)) {
            // The container has made groups of its own below its group (systemd does): go where its init is.
            let inner = group_of(init_pid, &self.plan.cgroup)?;
            cloned = clone_into(&inner);
        }
        match cloned.doing(|| "cannot make a process in the container".into())? {
            Cloned::Child => {
                drop(sync);
                process::run_exec(plan, &tenant, child_stdio, child_sync)
            }
            Cloned::Parent(pid, pidfd) => {
                let number = self.next_process;
                self.next_process += 1;
                self.processes.push(Process {
                    number,
                    pid,
                    pidfd: Some(pidfd),
                    phase: Phase::SettingUp { sync, asker: Asker { client, request } },
                    outputs: ours.outputs,
                    stdin: ours.stdin,
                    stdin_plan: stdin,
                    terminal: None,
                });
                Ok(None)
            }
        }
    }

    /// Whether one more process may be made.
    pub(super) fn room_for_exec(&self) -> Result<(), Failure> {
        self.processes.len().lt(&MAX_PROCESSES).then_some(()).ok_or_else(|| {
            Failure::new(FailureKind::Invalid, format!("the container has {MAX_PROCESSES} execs already"))
        })
    }

    pub(super) fn start(&mut self, number: u32, client: u64, request: u32) -> Result<Option<Done>, Failure> {
        if self.plan.oci.is_some() {
            return self.start_oci(number);
        }
        let process = self.process_mut(number).ok_or_else(not_running)?;
        match std::mem::replace(&mut process.phase, Phase::Running) {
            Phase::Paused { sync } => {
                // A child that died meanwhile is found by its exit.
                let _ = rustix::io::write(&sync, b"g");
                process.phase = Phase::Starting { sync, asker: Asker { client, request } };
                Ok(None)
            }
            other => {
                process.phase = other;
                Err(Failure::new(FailureKind::Invalid, "the process has been started already"))
            }
        }
    }

    pub(super) fn kill(&self, number: u32, signal: i32) -> Result<Done, Failure> {
        let process = self.process(number).ok_or_else(not_running)?;
        match process.phase {
            Phase::Draining { .. } | Phase::Ended(_) => Err(not_running()),
            _ => match process.signal(signal) {
                Ok(()) => Ok(Done::Nothing),
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(not_running()),
                Err(e) => Err(e).doing(|| format!("cannot send signal {signal}")),
            },
        }
    }

    pub(super) fn resize(&self, number: u32, rows: u16, cols: u16) -> Result<Done, Failure> {
        let process = self.process(number).ok_or_else(not_running)?;
        let Some(terminal) = &process.terminal else {
            return Err(Failure::new(FailureKind::Invalid, "the process has no terminal"));
        };
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&terminal.master, size)
            .doing(|| "cannot resize the terminal".into())?;
        Ok(Done::Nothing)
    }

    /// Kills everything in the container.
    pub(super) fn kill_all(&self) {
        // Needs Linux 5.14; and the pid namespace takes the rest along where that is missing.
        let _ = std::fs::write(format!("{}/cgroup.kill", self.plan.cgroup), "1");
        for process in &self.processes {
            let _ = process.signal(libc::SIGKILL);
        }
    }

    /// A message of a child in set-up, or the end of its pair.
    pub(super) fn hear(&mut self, number: u32) {
        let limits = if number == INIT { self.limits.clone() } else { Vec::new() };
        let Some(process) = self.process_mut(number) else { return };
        let Some(sync) = process.phase.sync() else { return };
        match process::hear(sync.as_fd()) {
            Heard::Nothing => {}
            Heard::Ready(master) => {
                let pid = process.pid as u32;
                let mut taken = match master {
                    Some(master) => process.set_terminal(master),
                    None => Ok(()),
                };
                for (resource, soft, hard) in limits {
                    let set = sys::prlimit(process.pid, resource, soft, hard);
                    let set = set.doing(|| format!("error setting rlimit type {resource}"));
                    taken = taken.and(set);
                }
                if let Phase::SettingUp { sync, asker } =
                    std::mem::replace(&mut process.phase, Phase::Running)
                {
                    process.phase = Phase::Paused { sync };
                    let answer = taken.map(|()| Done::Process { process: number, pid });
                    self.reply(asker.client, asker.request, answer);
                }
            }
            Heard::Failed(failure) => self.setup_failed(number, failure),
            Heard::End => match std::mem::replace(&mut process.phase, Phase::Running) {
                Phase::Starting { asker, .. } => self.reply(asker.client, asker.request, Ok(Done::Nothing)),
                Phase::SettingUp { asker, .. } => {
                    self.reply(asker.client, asker.request, Err(died_early()));
                    self.forget(number);
                }
                // Killed while paused: its exit follows.
                before => process.phase = before,
            },
        }
    }

    /// The child has said why it goes.
    fn setup_failed(&mut self, number: u32, failure: Failure) {
        let Some(process) = self.process_mut(number) else { return };
        let asker = match std::mem::replace(&mut process.phase, Phase::Running) {
            Phase::SettingUp { asker, .. } | Phase::Starting { asker, .. } => Some(asker),
            _ => None,
        };
        if let Some(asker) = asker {
            self.reply(asker.client, asker.request, Err(failure));
        }
        self.forget(number);
    }

    /// A process that never became a program: there will be no exit of it to report.
    pub(super) fn forget(&mut self, number: u32) {
        if let Some(process) = self.process_mut(number) {
            let _ = process.signal(libc::SIGKILL);
        }
        self.processes.retain(|p| p.number != number);
        if number == INIT {
            self.ending = true;
            self.kill_all();
        }
    }

    /// Collects every child that has exited, ours and those we inherited.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let Some(number) = self.processes.iter().find(|p| p.pid == pid).map(|p| p.number) else {
                continue;
            };
            // Its last word may still wait in the pair.
            if self.process(number).is_some_and(|p| p.phase.sync().is_some()) {
                self.hear(number);
            }
            let code = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => code as u8,
                (None, Some(signal)) => 128u8.wrapping_add(signal as u8),
                (None, None) => 255,
            };
            self.exited(number, code);
        }
    }

    fn exited(&mut self, number: u32, code: u8) {
        let finished_at = timestamp::now();
        let oom_killed = number == INIT && self.oom_killed();
        let own_pids = self.plan.new_namespaces & libc::CLONE_NEWPID as u64 != 0;
        if number == INIT {
            // What was not made yet never will be.
            self.processes.retain(|p| !matches!(p.phase, Phase::Prepared { .. }));
        }
        let Some(process) = self.process_mut(number) else { return };
        let ran = process.phase.started();
        let before = std::mem::replace(
            &mut process.phase,
            Phase::Draining {
                exit: ExitRecord { code, finished_at, oom_killed },
                quiet_since: Instant::now(),
                ran,
            },
        );
        process.stdin = Input::Closed;
        if let Some(terminal) = &mut process.terminal {
            terminal.keep = None;
        }
        match before {
            Phase::SettingUp { asker, .. } => {
                self.reply(asker.client, asker.request, Err(died_early()));
                self.forget(number);
            }
            // The pair had no error in it: the program was executed and is over already.
            Phase::Starting { asker, .. } => self.reply(asker.client, asker.request, Ok(Done::Nothing)),
            _ => {}
        }
        if number == INIT && !own_pids {
            // No pid namespace took the rest of the container along.
            self.kill_all();
        }
    }

    fn oom_killed(&self) -> bool {
        std::fs::read_to_string(format!("{}/memory.events", self.plan.cgroup))
            .is_ok_and(|events| crate::cgroup::killed(&events) > 0)
    }

    /// Output of a process: to the log, then to its clients.
    pub(super) fn output_ready(&mut self, number: u32, index: usize) {
        let Some(at) = self.processes.iter().position(|p| p.number == number) else { return };
        let Some(output) = self.processes[at].outputs.get_mut(index) else { return };
        let Some(fd) = &output.fd else { return };
        let stream = output.stream;
        let read = match rustix::io::read(fd, &mut self.buffer) {
            Ok(n) => n,
            Err(Errno::AGAIN | Errno::INTR) => return,
            // A terminal whose other end is closed.
            Err(_) => 0,
        };
        if read == 0 {
            output.fd = None;
            if let Some(log) = self.log.as_mut().filter(|_| number == INIT) {
                log.end(stream);
            }
            return;
        }
        let raw = self.processes[at].terminal.is_some();
        let mut put_aside = false;
        if let Phase::Draining { quiet_since, .. } = &mut self.processes[at].phase {
            *quiet_since = Instant::now();
        }
        let bytes = &self.buffer[..read];
        if let Some(log) = self.log.as_mut().filter(|_| number == INIT) {
            log.write(stream, bytes);
            put_aside = std::mem::take(&mut log.put_aside);
        }
        for client in &mut self.clients {
            let Kind::Attached(attached) = &client.kind else { continue };
            let wants = match stream {
                Stream::Stdout => attached.stdout,
                Stream::Stderr => attached.stderr,
            };
            if attached.process != number || !(wants || (raw && attached.stderr)) {
                continue;
            }
            if !raw {
                // Docker's stdcopy: stream, three zeros, length in big endian.
                let mut head = [stream as u8 + 1, 0, 0, 0, 0, 0, 0, 0];
                head[4..].copy_from_slice(&(read as u32).to_be_bytes());
                client.queue_later(&head);
            }
            client.queue(bytes);
        }
        if put_aside && let Some(plan) = &self.plan.log {
            let log = plan.path.clone();
            self.broadcast(&FromShim::PutAside { log });
        }
    }

    /// Processes whose output has ended, or stayed silent for long, end.
    pub(super) fn settle_processes(&mut self) {
        let now = Instant::now();
        for at in 0..self.processes.len() {
            let number = self.processes[at].number;
            let held_back = self.held_back(number);
            let process = &mut self.processes[at];
            let Phase::Draining { exit, quiet_since, ran } = &mut process.phase else { continue };
            let (exit, ran) = (*exit, *ran);
            if held_back {
                *quiet_since = now;
                continue;
            }
            let open = process.outputs.iter().any(|o| o.fd.is_some());
            if open && now < *quiet_since + DRAIN {
                continue;
            }
            process.outputs.clear();
            process.terminal = None;
            process.phase = Phase::Ended(exit);
            if number == INIT {
                if let Some(mut log) = self.log.take() {
                    log.end(Stream::Stdout);
                    log.end(Stream::Stderr);
                }
                if ran {
                    // Without its folder the record is only kept here.
                    let _ = record(&self.plan.exit_file, exit);
                }
            }
            self.broadcast(&FromShim::Exited { process: number, exit });
        }
        self.processes.retain(|p| p.number == INIT || !matches!(p.phase, Phase::Ended(_)));
    }
}

fn died_early() -> Failure {
    Failure::internal("the container's process died while it was being set up")
}

/// Runs `clone` such that its child lands in the pid namespace of `namespace` (a namespace file or a pidfd); our own
/// children-to-be come back to ours.
fn in_pid_namespace(
    namespace: Option<&OwnedFd>,
    clone: impl FnOnce() -> std::io::Result<Cloned>,
) -> std::io::Result<Cloned> {
    let Some(namespace) = namespace else { return clone() };
    let ours = rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    sys::setns(namespace, libc::CLONE_NEWPID)?;
    let cloned = clone();
    if matches!(cloned, Ok(Cloned::Child)) {
        return cloned;
    }
    sys::setns(&ours, libc::CLONE_NEWPID)?;
    cloned
}

/// The folder of the group that `pid` is in, which must lie below `group`.
fn group_of(pid: i32, group: &str) -> Result<OwnedFd, Failure> {
    let failed = || format!("cannot find the group of process {pid}");
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).doing(failed)?;
    let path = text.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
    // `group` ends with the same path from the hierarchy's root on.
    let name = group.rsplit('/').next().unwrap_or(group);
    let below = path.split_once(&format!("/{name}")).map_or("", |(_, below)| below);
    open_folder(&format!("{group}{below}")).doing(failed)
}

pub(super) fn map_users(pid: i32, uids: &[(u32, u32, u32)], gids: &[(u32, u32, u32)]) -> Result<(), Failure> {
    for (file, map) in [("uid_map", uids), ("gid_map", gids)] {
        let text: String =
            map.iter().map(|(inside, outside, count)| format!("{inside} {outside} {count}\n")).collect();
        std::fs::write(format!("/proc/{pid}/{file}"), text).doing(|| format!("cannot write the {file}"))?;
    }
    Ok(())
}

/// The durable record of an exit: written aside and renamed, so that it is whole or absent.
fn record(path: &str, exit: ExitRecord) -> std::io::Result<()> {
    let mut text = format!("{{\"exit_code\":{},\"finished_at\":\"", exit.code).into_bytes();
    timestamp::write(exit.finished_at, &mut text);
    text.extend_from_slice(format!("\",\"oom_killed\":{}}}\n", exit.oom_killed).as_bytes());
    let aside = format!("{path}.new");
    std::fs::write(&aside, text)?;
    std::fs::rename(aside, path)
}
