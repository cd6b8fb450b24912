//! Windows: local sockets are named pipes, rights are access lists, and nothing can be asked to end.

mod access;
mod pipe;

use std::{
    io,
    os::windows::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use sha2::{Digest, Sha256};
use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, CtrlLogoff, CtrlShutdown};
use windows_sys::Win32::{
    Foundation::{CloseHandle, HANDLE, WAIT_TIMEOUT},
    Storage::FileSystem::{GetDiskFreeSpaceExW, SYNCHRONIZE},
    System::{
        SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX},
        Threading::{
            CREATE_NEW_PROCESS_GROUP, CREATE_NO_WINDOW, OpenProcess, PROCESS_TERMINATE, TerminateProcess,
            WaitForSingleObject,
        },
    },
};

pub use access::private;
pub use pipe::{Listener, Socket, bind_private, connect, connect_now, has_left};

use crate::{login::Entry, settings::DriverKind};

/// Longest name of a pipe.
pub const SOCKET_PATH: usize = 256;
/// What runs the engine where the user chose nothing.
pub const DEFAULT_DRIVER: DriverKind = DriverKind::Wsl;
/// What can run it here.
pub const DRIVERS: &[DriverKind] = &[DriverKind::Wsl];
/// Where programs are that `PATH` may not name: nowhere.
pub const PROGRAM_FOLDERS: &[&str] = &[];
/// Names that the computer knows by itself.
pub const HOSTS: Option<&str> = None;
/// Windows lists its resolvers in no file: the guest asks by WSL's own, or the hypervisor's.
pub const RESOLV_CONF: Option<&str> = None;
/// Where those of single domains are.
pub const RESOLVERS_OF_DOMAINS: Option<&str> = None;
/// Exit code of a process that was made to end.
const ENDED: u32 = 1;

/// A home's pipe of that name. Pipes have one name space for all users, so it has the home's digest in it: two users,
/// or two homes, don't meet.
pub fn endpoint(home: &Path, name: &str) -> PathBuf {
    // Paths differ by case only for people.
    let folder = home.to_string_lossy().to_lowercase();
    let digest: String = Sha256::digest(folder).iter().take(6).map(|b| format!("{b:02x}")).collect();
    PathBuf::from(format!(r"\\.\pipe\coracle-{digest}-{name}"))
}

/// Names under which the user's own Docker socket is found by who was told of none: dockerd's own.
pub fn docker_aliases() -> Vec<PathBuf> {
    vec![PathBuf::from(r"\\.\pipe\docker_engine")]
}

/// A pipe's address as docker's clients write it.
pub fn docker_host(socket: &Path) -> String {
    format!("npipe://{}", socket.display().to_string().replace('\\', "/"))
}

/// A pipe's name goes with its last handle.
pub fn unbind(_: &Path) {}

/// On Windows no port is root's.
pub const LOW_PORTS_ON_ALL_ADDRESSES: bool = false;

/// How a port is had that is refused.
pub fn low_ports(port: u16) -> String {
    format!(
        "Windows keeps {port} for something else (`netsh interface ipv4 show excludedportrange tcp` lists what); publish another port"
    )
}

/// Where this computer's network leads.
pub fn routes() -> Vec<crate::routes::Subnet> {
    let mut command = Command::new("route");
    command.args(["print", "-4"]).stdin(Stdio::null());
    windowless(&mut command);
    let said = command.output();
    said.map_or(Vec::new(), |said| crate::routes::of_windows(&String::from_utf8_lossy(&said.stdout)))
}

/// Makes a link that leads to `to`.
pub fn link(to: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(to, link)
}

/// On Windows the option would let two programs share a port; TIME_WAIT is in nobody's way.
pub fn reuse_address(_: &socket2::Socket) -> io::Result<()> {
    Ok(())
}

/// The home of a user who chose none: on this computer, not in a profile that travels.
pub fn default_home() -> Option<PathBuf> {
    let local = std::env::var_os("LOCALAPPDATA").map(PathBuf::from).filter(|folder| folder.is_absolute());
    local.map(|folder| folder.join("Coracle"))
}

/// What starts the machine when the user logs in: a command in the Startup folder.
pub fn login_entry(program: &Path, home: Option<&Path>) -> Result<Entry, String> {
    let roaming = std::env::var_os("APPDATA").map(PathBuf::from).ok_or("APPDATA is not set")?;
    let path = roaming.join(r"Microsoft\Windows\Start Menu\Programs\Startup\Coracle.cmd");
    let plain = |path: &Path| path.display().to_string().replace('%', "%%");
    let environment = home.map_or(String::new(), |home| format!("@set \"CORACLE_HOME={}\"\r\n", plain(home)));
    Ok(Entry { path, text: format!("{environment}@\"{}\" start\r\n", plain(program)), link: None })
}

/// True for a file that may be run.
pub fn is_program(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("exe"))
}

/// This computer's memory, in MiB.
pub fn memory_mib() -> Option<u64> {
    let mut status =
        MEMORYSTATUSEX { dwLength: size_of::<MEMORYSTATUSEX>() as u32, ..MEMORYSTATUSEX::default() };
    // SAFETY: the structure lives through the call and says its own size.
    (unsafe { GlobalMemoryStatusEx(&mut status) } != 0).then_some(status.ullTotalPhys >> 20)
}

/// Room left for this user on the volume of `folder`, in MiB.
pub fn free_mib(folder: &Path) -> io::Result<u64> {
    let (path, mut free) = (wide(folder), 0);
    // SAFETY: the path ends in a null, and the number lives through the call.
    let done =
        unsafe { GetDiskFreeSpaceExW(path.as_ptr(), &mut free, std::ptr::null_mut(), std::ptr::null_mut()) };
    if done == 0 { Err(io::Error::last_os_error()) } else { Ok(free >> 20) }
}

/// True while a process lives.
pub fn alive(pid: u32) -> bool {
    Process::open(pid, SYNCHRONIZE).is_some_and(|process| {
        // SAFETY: the handle is open and may be waited for.
        unsafe { WaitForSingleObject(process.0, 0) == WAIT_TIMEOUT }
    })
}

/// Makes a process end. A program without a window can't be asked to: without `force` nothing happens, and whoever
/// waits for its end makes it after their limit.
pub fn end(pid: u32, force: bool) {
    if force && let Some(process) = Process::open(pid, PROCESS_TERMINATE) {
        // SAFETY: the handle is open and may end the process.
        unsafe { TerminateProcess(process.0, ENDED) };
    }
}

/// Nothing that could stand still runs here.
pub fn hold(_: u32, _: bool) {}

/// Nothing is ever mounted in a home here: an engine runs on Linux alone.
pub fn mounted_below(_folder: &Path) -> Option<PathBuf> {
    None
}

/// Handles have no limit that programs reach.
pub fn raise_open_files() {}

/// An engine runs on Linux alone.
pub fn power_fails(pid: u32) {
    end(pid, false);
}

/// A handle on a process, closed when dropped.
struct Process(HANDLE);

impl Process {
    fn open(pid: u32, right: u32) -> Option<Self> {
        // SAFETY: no preconditions; a null handle is what failure gives.
        let handle = unsafe { OpenProcess(right, 0, pid) };
        (!handle.is_null()).then_some(Self(handle))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and open.
        unsafe { CloseHandle(self.0) };
    }
}

/// Spawns a program that outlives this process and its console.
pub fn spawn_detached(command: &mut Command) -> io::Result<Child> {
    // A console without a window: `wsl.exe` wants one, and with it logout and shutdown are heard of.
    command.creation_flags(CREATE_NO_WINDOW | CREATE_NEW_PROCESS_GROUP).stdin(Stdio::null()).spawn()
}

/// The same; its number is in a file from soon on.
pub fn spawn_noted(command: &mut Command, pid_file: &Path) -> io::Result<Child> {
    let child = spawn_detached(command)?;
    std::fs::write(pid_file, child.id().to_string())?;
    Ok(child)
}

/// Keeps a program that talks to a console from opening a window of its own.
pub fn windowless(command: &mut Command) {
    command.creation_flags(CREATE_NO_WINDOW);
}

/// Starts the daemon, detached from everything of the caller.
pub fn spawn_daemon(program: &Path, args: &[&str]) -> io::Result<Child> {
    spawn_detached(Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()))
}

/// What ends the daemon when it has a console: its keys, its window's end, logout and shutdown. Without a console
/// Windows tells it nothing and ends it; the next one takes over.
pub struct Signals {
    c: CtrlC,
    pause: CtrlBreak,
    close: CtrlClose,
    logoff: CtrlLogoff,
    shutdown: CtrlShutdown,
}

impl Signals {
    /// From now on they are asked for instead of obeyed.
    pub fn new() -> io::Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_logoff, ctrl_shutdown};
        Ok(Self {
            c: ctrl_c()?,
            pause: ctrl_break()?,
            close: ctrl_close()?,
            logoff: ctrl_logoff()?,
            shutdown: ctrl_shutdown()?,
        })
    }

    /// Returns when one has come.
    pub async fn recv(&mut self) {
        tokio::select! {
            _ = self.c.recv() => {}
            _ = self.pause.recv() => {}
            _ = self.close.recv() => {}
            _ = self.logoff.recv() => {}
            _ = self.shutdown.recv() => {}
        }
    }
}

/// Another process' command line is not to be had: nothing is taken for ours.
pub fn command_names(_: u32, _: &str) -> bool {
    false
}

/// Rosetta is macOS'.
pub fn has_rosetta() -> bool {
    false
}

/// There is no KVM here.
pub fn kvm_works() -> Result<(), String> {
    Err("KVM is Linux's".into())
}

/// A path as Windows' functions take it.
fn wide(path: &Path) -> Vec<u16> {
    path.as_os_str().encode_wide().chain([0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_have_pipes_of_their_own() {
        let (a, b) = (Path::new(r"C:\Users\A\Coracle"), Path::new(r"C:\Users\B\Coracle"));
        assert_ne!(endpoint(a, "docker"), endpoint(b, "docker"));
        assert_ne!(endpoint(a, "docker"), endpoint(a, "control"));
        assert_eq!(endpoint(a, "docker"), endpoint(Path::new(r"c:\users\a\coracle"), "docker"));
        assert!(docker_host(&endpoint(a, "docker")).starts_with("npipe:////./pipe/coracle-"));
    }
}
