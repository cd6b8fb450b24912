//! Processes that another OCI runtime makes: the shim runs it as containerd's runc shim would, and holds what it made.
//!
//! ```text
//!   init:  `create` --> Created --`start`--> Running --exit--> Draining --> Ended --`delete`
//!   exec:               Prepared --`exec --detach`--> Running --exit--> Draining --> Ended
//! ```
//! The runtime itself ends after each command; being a subreaper, the shim becomes the parent of what it leaves. The
//! shim waits for each command, at most [`LIMIT`]: nobody else depends on it.

use super::process::ChildStdio;
use super::processes::{Phase, Process, pipes};
use super::rootfs::{self, Doing as _, Step};
use super::{Shim, not_running};
use crate::plan::{OciPlan, ProcessPlan, StdinPlan};
use crate::protocol::{Done, Failure, FailureKind, INIT, OciExec};
use crate::sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long one command of the runtime may take.
const LIMIT: Duration = Duration::from_secs(30);
/// What a runtime's helpers are found by.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where all such runtimes look for the unified hierarchy.
const HIERARCHY: &str = "/sys/fs/cgroup";
/// Relative to the bundle, where the runtime is started: a socket's whole path may be too long.
const CONSOLE: &str = "console.sock";
const LOG: &str = "runtime.log";
const PID: &str = "pid";
const PROCESS: &str = "process.json";

impl Shim {
    /// Mounts the root and has the runtime make the container.
    pub(super) fn make_oci_init(&mut self, oci: &OciPlan) -> Result<Process, Failure> {
        mount(self, oci)?;
        // From here on the group is seen where the runtime sees it.
        self.plan.cgroup = oci.group.clone();
        let plan = &self.plan;
        let (stdio, ours) = pipes(&plan.process, plan.stdin, None)?;
        let create = ["create", "--bundle", &oci.bundle];
        let (pid, master) = oci.make(&create, &plan.id, stdio, plan.process.tty)?;
        let mut process = Process::made(INIT, pid, Phase::Created, ours, plan.stdin)?;
        if let Some(master) = master {
            process.set_terminal(sized(master, plan.process.console_size)?)?;
        }
        Ok(process)
    }

    /// Keeps an exec until it is started: a client may attach to it before.
    pub(super) fn prepare_oci_exec(
        &mut self,
        exec: OciExec,
        stdin: StdinPlan,
    ) -> Result<Option<Done>, Failure> {
        self.process(INIT).filter(|p| matches!(p.phase, Phase::Running)).ok_or_else(not_running)?;
        self.room_for_exec()?;
        let plan = ProcessPlan {
            tty: exec.tty,
            stdout: exec.stdout,
            stderr: exec.stderr,
            console_size: exec.console_size,
            ..ProcessPlan::default()
        };
        let (stdio, ours) = pipes(&plan, stdin, None)?;
        let number = self.next_process;
        self.next_process += 1;
        let phase = Phase::Prepared { exec: Box::new(exec), stdio };
        self.processes.push(Process::prepared(number, phase, ours, stdin));
        Ok(Some(Done::Process { process: number, pid: 0 }))
    }

    /// Starts what [`Self::make_oci_init`] or [`Self::prepare_oci_exec`] has ready.
    pub(super) fn start_oci(&mut self, number: u32) -> Result<Option<Done>, Failure> {
        let oci = self.plan.oci.clone().ok_or_else(not_running)?;
        let id = self.plan.id.clone();
        let process = self.process_mut(number).ok_or_else(not_running)?;
        match std::mem::replace(&mut process.phase, Phase::Running) {
            Phase::Created => {
                if let Err(failure) = oci.ask(&["start"], &id, None) {
                    // Nothing of it ran: there is no exit to tell of.
                    self.forget(number);
                    return Err(failure);
                }
                Ok(Some(Done::Nothing))
            }
            Phase::Prepared { exec, stdio } => {
                let made = oci.exec(&id, &exec, stdio);
                let process = self.process_mut(number).ok_or_else(not_running)?;
                let taken = made.and_then(|(pid, master)| {
                    process.is_now(pid)?;
                    if let Some(master) = master {
                        process.set_terminal(sized(master, exec.console_size)?)?;
                    }
                    Ok(pid)
                });
                match taken {
                    Ok(pid) => {
                        Ok(Some(Done::Process { process: number, pid: pid.as_raw_nonzero().get() as u32 }))
                    }
                    Err(failure) => {
                        self.forget(number);
                        Err(failure)
                    }
                }
            }
            other => {
                process.phase = other;
                Err(Failure::new(FailureKind::Invalid, "the process has been started already"))
            }
        }
    }

    /// Has the runtime forget the container, at the shim's end.
    pub(super) fn delete_oci(&self) {
        if let Some(oci) = &self.plan.oci {
            // What it does not remove, the engine does with the folder and the group.
            let _ = oci.ask(&["delete", "--force"], &self.plan.id, None);
        }
    }
}

/// Makes what the bundle's specification refers to, in a mount namespace of the shim's own.
fn mount(shim: &Shim, oci: &OciPlan) -> Step<()> {
    let slave = rustix::mount::MountPropagationFlags::DOWNSTREAM | rustix::mount::MountPropagationFlags::REC;
    sys::unshare(libc::CLONE_NEWNS).doing(|| "cannot make a mount namespace".into())?;
    rustix::mount::mount_change("/", slave).doing(|| "cannot leave the host's mounts".into())?;
    drop(rootfs::mount_root(&shim.plan)?);
    if oci.hierarchy != HIERARCHY {
        // A hybrid machine: the runtime would use the old hierarchies, which are not ours.
        rustix::mount::mount_bind(&oci.hierarchy, HIERARCHY)
            .doing(|| format!("cannot bind {} to {HIERARCHY}", oci.hierarchy))?;
    }
    for (mount, place) in &oci.staged {
        rootfs::stage(mount, place)?;
    }
    Ok(())
}

impl OciPlan {
    /// Has an exec made.
    fn exec(&self, id: &str, exec: &OciExec, stdio: ChildStdio) -> Result<(Pid, Option<OwnedFd>), Failure> {
        let file = format!("{}/{PROCESS}", self.bundle);
        fs::write(&file, &exec.process).doing(|| "cannot write the process".into())?;
        let made = self.make(&["exec", "--detach", "--process", &file], id, stdio, exec.tty);
        let _ = fs::remove_file(&file);
        made
    }

    /// Has a process made; its pid, and the master of its terminal.
    fn make(
        &self,
        command: &[&str],
        id: &str,
        stdio: ChildStdio,
        terminal: bool,
    ) -> Result<(Pid, Option<OwnedFd>), Failure> {
        let file = format!("{}/{PID}", self.bundle);
        let _ = fs::remove_file(&file);
        let mut arguments = [command, &["--pid-file", file.as_str()]].concat();
        let mut console = None;
        if terminal {
            console = Some(self.console()?);
            arguments.extend(["--console-socket", CONSOLE]);
        }
        self.ask(&arguments, id, Some(stdio))?;
        let pid = fs::read_to_string(&file).doing(|| "the runtime wrote no pid".into())?;
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Failure::internal("the runtime wrote no pid"))?;
        let master = console.map(|console| {
            let (socket, _) = console.accept().doing(|| "the runtime sent no terminal".into())?;
            super::process::receive(&socket).ok_or_else(|| Failure::internal("the runtime sent no terminal"))
        });
        Ok((pid, master.transpose()?))
    }

    /// The socket to which the runtime sends a terminal.
    fn console(&self) -> Result<UnixListener, Failure> {
        let failed = || "cannot make the socket for the terminal".to_owned();
        std::env::set_current_dir(&self.bundle).doing(failed)?;
        let _ = fs::remove_file(CONSOLE);
        let listener = UnixListener::bind(CONSOLE);
        std::env::set_current_dir("/").doing(failed)?;
        let listener = listener.doing(failed)?;
        listener.set_nonblocking(true).doing(failed)?;
        Ok(listener)
    }

    /// Runs one command to its end. An error is in the runtime's own words.
    fn ask(&self, command: &[&str], id: &str, stdio: Option<ChildStdio>) -> Result<(), Failure> {
        let log = format!("{}/{LOG}", self.bundle);
        let _ = fs::remove_file(&log);
        let of = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
        let stdio = stdio.unwrap_or(ChildStdio { stdin: None, stdout: None, stderr: None });
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .args(["--root", &format!("{}/state", self.bundle), "--log", &log, "--log-format", "json"])
            .args(command)
            .arg(id)
            .env("PATH", PATH)
            .current_dir(&self.bundle)
            .stdin(of(stdio.stdin))
            .stdout(of(stdio.stdout))
            .stderr(of(stdio.stderr))
            .spawn()
            .doing(|| format!("cannot start the runtime {}", self.program))?;
        if !ends(child.id())? {
            let _ = child.kill();
            let _ = child.wait();
            let (name, seconds) = (command.first().copied().unwrap_or_default(), LIMIT.as_secs());
            return Err(Failure::internal(format!("{} {name} did not end within {seconds} s", self.program)));
        }
        let status = child.wait().doing(|| "cannot wait for the runtime".into())?;
        if status.success() {
            return Ok(());
        }
        let said = fs::read_to_string(&log).unwrap_or_default();
        Err(failure(&said).unwrap_or_else(|| Failure::internal(format!("{}: {status}", self.program))))
    }
}

/// A terminal of the size that was asked for.
fn sized(master: OwnedFd, size: Option<(u16, u16)>) -> Result<OwnedFd, Failure> {
    if let Some((rows, cols)) = size {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).doing(|| "cannot make the terminal".into())?;
    }
    Ok(master)
}

/// Waits for a child, as long as one may take.
fn ends(pid: u32) -> Result<bool, Failure> {
    let failed = || "cannot wait for the runtime".to_owned();
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| Failure::internal(failed()))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).doing(failed)?;
    let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return Ok(ready.doing(failed)? > 0),
        }
    }
}

/// The last error in a runtime's log (a JSON object a line).
fn failure(log: &str) -> Option<Failure> {
    let message = log.lines().rev().find_map(|line| {
        let level = text_of(line, "level")?;
        matches!(level.as_str(), "error" | "fatal").then(|| text_of(line, "msg"))?
    })?;
    // In runc's words, whoever says it: clients tell by them what exit code to give.
    let message = message
        .replace("No such file or directory", "no such file or directory")
        .replace("Permission denied", "permission denied")
        .replace("open executable: Operation not permitted", "exec: permission denied");
    let message = match message.split_once("executable file `").and_then(|(_, rest)| rest.split_once('`')) {
        Some((name, _)) => format!("exec: {name:?}: executable file not found in $PATH"),
        None => message,
    };
    let kind =
        if message.contains("executable file not found") || message.contains("no such file or directory") {
            FailureKind::CommandNotFound
        } else if message.contains("permission denied") {
            FailureKind::CommandNotExecutable
        } else {
            FailureKind::Internal
        };
    Some(Failure::new(kind, message))
}

/// A text member of a flat JSON object. The shim has no JSON reader: this is all it ever reads of it.
fn text_of(object: &str, member: &str) -> Option<String> {
    let (_, rest) = object.split_once(&format!("\"{member}\""))?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let mut text = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return Some(text),
            '\\' => match chars.next()? {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'u' => {
                    let code: String = chars.by_ref().take(4).collect();
                    text.push(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32)?);
                }
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_told() {
        let log = concat!(
            r#"{"level":"warning","msg":"old","time":"x"}"#,
            "\n",
            r#"{"msg":"runc create failed: exec: \"nope\": executable file not found in $PATH","level":"error"}"#,
            "\n",
            r#"{"level":"debug","msg":"later"}"#,
        );
        let failure = failure(log).unwrap();
        assert!(matches!(failure.kind, FailureKind::CommandNotFound));
        assert_eq!(
            failure.message,
            r#"runc create failed: exec: "nope": executable file not found in $PATH"#
        );
        let crun = r#"{"msg":"executable file `nope` not found in $PATH: No such file or directory", "level":"error"}"#;
        let failure = super::failure(crun).unwrap();
        assert_eq!(failure.message, r#"exec: "nope": executable file not found in $PATH"#);
        assert!(super::failure("").is_none() && super::failure("not json").is_none());
    }
}
