//! The programs a benchmark starts.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a daemon may take to answer, seconds.
const START: Duration = Duration::from_secs(60);
/// Between two looks at a socket.
const LOOK: Duration = Duration::from_millis(1);

/// A process that ends with this value: TERM, and KILL after [`Running::GRACE`].
pub struct Running(Child);

impl Running {
    const GRACE: Duration = Duration::from_secs(15);

    /// Starts `command`, its output going to `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log = fs::File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn().with_context(|| format!("run {command:?}"))?))
    }

    /// Its exit, when it has ended by itself.
    pub fn ended(&mut self) -> Result<Option<String>> {
        Ok(self.0.try_wait()?.map(|s| s.to_string()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already waited for: its number may be somebody else's by now.
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        signal(&self.0, "TERM");
        let deadline = Instant::now() + Self::GRACE;
        while matches!(self.0.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.0.kill();
                let _ = self.0.wait();
                return;
            }
            pause(Duration::from_millis(5));
        }
    }
}

fn signal(child: &Child, name: &str) {
    let _ = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
}

/// Network and mount namespaces of our own, for as long as this value lives.
pub struct Sandbox(Child);

impl Sandbox {
    /// Makes them, the loopback link up.
    pub fn new() -> Result<Self> {
        let mut child = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "--kill-child", "sh", "-c"])
            .arg("ip link set lo up && echo up && exec sleep infinity")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("run unshare")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut line)?;
        let this = Self(child);
        ensure!(line == "up\n", "no namespaces of our own could be made: this needs root");
        Ok(this)
    }

    /// A command that runs inside.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.0.id().to_string(), "--net", "--mount", "--"]).arg(program);
        command
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the Docker API behind `socket` answers `_ping` with 200.
pub fn await_ping(socket: &Path, daemon: &mut Running) -> Result<()> {
    let deadline = Instant::now() + START;
    while !ping(socket) {
        if let Some(end) = daemon.ended()? {
            bail!("the daemon for {} ended before it answered: {end}", socket.display());
        }
        ensure!(Instant::now() < deadline, "no answer from {} within {START:?}", socket.display());
        pause(LOOK);
    }
    Ok(())
}

fn ping(socket: &Path) -> bool {
    let answer = || -> std::io::Result<bool> {
        use std::io::Write;
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(START))?;
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    answer().unwrap_or(false)
}

/// The process that listens on `socket`.
pub fn listener(socket: &Path) -> Result<u32> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    let peer = rustix::net::sockopt::socket_peercred(stream.as_fd())?;
    Ok(peer.pid.as_raw_nonzero().get().unsigned_abs())
}

/// Makes a process's peak memory what it uses now, and answers that: resident set, kB.
pub fn reset_peak(pid: u32) -> Result<u64> {
    match fs::write(format!("/proc/{pid}/clear_refs"), "5") {
        // It was started for a moment only.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        done => {
            done.with_context(|| format!("reset the peak of {pid}"))?;
            Ok(status(pid, "VmRSS:"))
        }
    }
}

/// Most memory that a process had since: resident set, kB.
pub fn peak(pid: u32) -> u64 {
    status(pid, "VmHWM:")
}

/// A number of a process's status; one that has ended has no memory.
fn status(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = text.lines().find_map(|l| l.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse().ok());
    value.unwrap_or_default()
}

/// Counts calls that force data to disk in `pids` and all they start while `work` runs.
pub fn syncs(
    strace: &mut Command,
    pids: &[u32],
    file: &Path,
    work: impl FnOnce() -> Result<()>,
) -> Result<u64> {
    strace.args(["-f", "-q", "-e", "trace=fsync,fdatasync,syncfs,sync,sync_file_range", "-o"]).arg(file);
    for pid in pids {
        strace.args(["-p", &pid.to_string()]);
    }
    let child = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("run strace")?;
    let mut child = Running(child);
    // Attached means: every thread of each process has a tracer.
    let deadline = Instant::now() + START;
    while !pids.iter().all(|pid| traced(*pid)) {
        ensure!(child.ended()?.is_none(), "strace ended: may this process trace {pids:?}?");
        ensure!(Instant::now() < deadline, "strace did not attach to {pids:?} within {START:?}");
        pause(LOOK);
    }
    let done = work();
    signal(&child.0, "INT");
    child.0.wait()?;
    done?;
    let text = fs::read_to_string(file)?;
    fs::remove_file(file)?;
    Ok(text.lines().filter(|l| is_sync_call(l)).count() as u64)
}

/// Whether a line of strace is the beginning of a call (its end may be a line of its own: `resumed`).
fn is_sync_call(line: &str) -> bool {
    let call = line.split_whitespace().nth(1).unwrap_or("");
    ["fsync(", "fdatasync(", "syncfs(", "sync(", "sync_file_range("].iter().any(|c| call.starts_with(c))
}

fn traced(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|t| {
        let status = fs::read_to_string(t.path().join("status")).unwrap_or_default();
        // A thread that has just ended has none.
        status.lines().find_map(|l| l.strip_prefix("TracerPid:")).is_none_or(|p| p.trim() != "0")
    })
}

// What is watched here belongs to other programs: there is no event to wait for.
#[allow(clippy::disallowed_methods)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_remembered_until_it_is_reset() {
        let own = std::process::id();
        let before = reset_peak(own).unwrap();
        drop(std::hint::black_box(vec![1u8; 64 << 20]));
        assert!(peak(own) >= before + (60 << 10));
        reset_peak(own).unwrap();
        assert!(peak(own) < before + (60 << 10));
    }

    #[test]
    fn a_call_is_counted_once() {
        assert!(is_sync_call("123 fsync(5) = 0"));
        assert!(is_sync_call("123   fdatasync(5 <unfinished ...>"));
        assert!(!is_sync_call("123 <... fdatasync resumed>) = 0"));
        assert!(!is_sync_call("123 --- SIGCHLD {si_signo=SIGCHLD} ---"));
    }
}
