//! Linux and macOS.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};
use tokio::{
    net::{UnixListener, UnixStream},
    signal::unix::{Signal as Stream, SignalKind, signal},
};

/// Longest path of a socket: what macOS takes, whose 104 bytes end in a null (Linux has 108).
pub const SOCKET_PATH: usize = 103;

/// Most open files that are asked for: macOS' own limit per process.
const OPEN_FILES: u64 = 10_240;

/// A connection to a local socket.
pub type Socket = UnixStream;

/// A listener on a local socket.
pub struct Listener(UnixListener);

impl Listener {
    /// The next connection.
    pub async fn accept(&mut self) -> io::Result<Socket> {
        Ok(self.0.accept().await?.0)
    }
}

/// Where a home's socket of that name is.
pub fn endpoint(home: &Path, name: &str) -> PathBuf {
    home.join("run").join(format!("{name}.sock"))
}

/// A socket's address as docker's clients write it.
pub fn docker_host(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// Other names of the user's own Docker socket: here they are root's to make (`installer/linux/docker-socket`).
pub fn docker_aliases() -> Vec<PathBuf> {
    Vec::new()
}

/// Connects to a local socket.
pub async fn connect(path: &Path) -> io::Result<Socket> {
    UnixStream::connect(path).await
}

/// Whether whoever was at the other end has gone, and not only said that nothing more is to come. Of a socket that is only
/// asked whether it can be written to, Linux and macOS say `POLLHUP` when the other end does not read any more either.
pub fn has_left(socket: &Socket) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut asked = [PollFd::new(socket, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&now)).is_ok() && asked[0].revents().contains(PollFlags::HUP)
}

/// Whether somebody listens on a local socket.
pub fn connect_now(path: &Path) -> io::Result<()> {
    std::os::unix::net::UnixStream::connect(path).map(drop)
}

/// Listens at `path`, for this user alone; what was there is replaced (the caller holds the home's lock).
pub fn bind_private(path: &Path) -> io::Result<Listener> {
    // Bound under another name and renamed: nobody sees it with other rights.
    let part = path.with_extension("new");
    let _ = fs::remove_file(&part);
    let listener = UnixListener::bind(&part)?;
    fs::set_permissions(&part, fs::Permissions::from_mode(0o600))?;
    fs::rename(&part, path)?;
    Ok(Listener(listener))
}

/// Takes a socket's name away.
pub fn unbind(path: &Path) {
    let _ = fs::remove_file(path);
}

/// Makes a link that leads to `to`.
pub fn link(to: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, link)
}

/// Lets a listener have a port that an earlier one left in TIME_WAIT.
pub fn reuse_address(socket: &socket2::Socket) -> io::Result<()> {
    socket.set_reuse_address(true)
}

/// Makes a folder this user's alone.
pub fn private(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

/// True for a file that may be run.
pub fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// As many open files as this user may have: each connection is one, and the limit that systems begin with is 1024
/// (256 on macOS). What can't be raised stays.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // macOS takes no "unlimited" here.
    let most = Some(limit.maximum.unwrap_or(OPEN_FILES).min(OPEN_FILES));
    if limit.current < most {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: limit.maximum });
    }
}

/// This computer's memory, in MiB.
pub fn memory_mib() -> Option<u64> {
    // SAFETY: sysconf has no preconditions.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    Some((u64::try_from(pages).ok()? * u64::try_from(size).ok()?) >> 20)
}

/// Room left for this user on the file system of `folder`, in MiB.
pub fn free_mib(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok((stat.f_bavail * stat.f_frsize) >> 20)
}

/// True while a process lives.
pub fn alive(pid: u32) -> bool {
    pid_of(pid).is_some_and(|pid| test_kill_process(pid).is_ok())
}

/// Whether a process is one of a program.
pub fn is_of(pid: u32, program: &Path) -> bool {
    super::command_names(pid, &program.file_name().unwrap_or_default().to_string_lossy())
}

/// Asks a process to end, or makes it.
pub fn end(pid: u32, force: bool) {
    if let Some(pid) = pid_of(pid) {
        let _ = kill_process(pid, if force { Signal::KILL } else { Signal::TERM });
    }
}

/// Lets a program of [`spawn_detached`], and what it started, stand still, or go on.
pub fn hold(pid: u32, still: bool) {
    if let Some(pid) = pid_of(pid) {
        // Its session has a group of its number.
        let _ = kill_process_group(pid, if still { Signal::STOP } else { Signal::CONT });
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Puts a file into the place of another.
pub fn replace(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Only Windows runs programs of another processor that ask for a machine of their own.
pub fn other_processor() -> Option<&'static str> {
    None
}

/// Only Windows opens windows for programs.
pub fn windowless(_: &mut Command) {}

/// Spawns a program in a session of its own: it outlives this process and its terminal.
pub fn spawn_detached(command: &mut Command) -> io::Result<Child> {
    // SAFETY: setsid is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
    command.stdin(Stdio::null()).spawn()
}

/// The same; the new process writes its number into a file before it becomes the program, so that whoever starts it may be
/// killed at any moment, and the next knows of it.
pub fn spawn_noted(command: &mut Command, pid_file: &Path) -> io::Result<Child> {
    let file = fs::File::create(pid_file)?;
    // SAFETY: getpid and write are async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            let (mut digits, mut at) = ([0; 20], 20);
            let mut left = std::process::id();
            while left > 0 {
                at -= 1;
                digits[at] = b'0' + (left % 10) as u8;
                left /= 10;
            }
            rustix::io::write(&file, &digits[at..])?;
            Ok(())
        });
    }
    spawn_detached(command)
}

/// Starts the daemon, detached from everything of the caller.
pub fn spawn_daemon(program: &Path, args: &[&str]) -> io::Result<Child> {
    spawn_detached(
        Command::new(program).args(args).current_dir("/").stdout(Stdio::null()).stderr(Stdio::null()),
    )
}

/// Signals that end the daemon.
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
}

impl Signals {
    /// From now on they are asked for instead of obeyed.
    pub fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Returns when one has come.
    pub async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The home of a user who chose none.
pub fn home_in_profile() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| !home.as_os_str().is_empty()).map(|home| home.join(".coracle"))
}
