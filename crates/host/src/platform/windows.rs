//! Windows: local sockets are named pipes, rights are access lists, and nothing can be asked to end.

mod access;
mod pipe;

use std::{
    io,
    os::windows::{
        ffi::{OsStrExt, OsStringExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, CtrlLogoff, CtrlShutdown};
use windows_sys::Win32::{
    Foundation::{
        CloseHandle, ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION, HANDLE, HANDLE_FLAG_INHERIT,
        SetHandleInformation, WAIT_TIMEOUT,
    },
    Storage::FileSystem::{GetDiskFreeSpaceExW, SYNCHRONIZE},
    System::{
        Console::{GetStdHandle, STD_ERROR_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE},
        SystemInformation::{GlobalMemoryStatusEx, IMAGE_FILE_MACHINE_ARM64, MEMORYSTATUSEX},
        Threading::{
            CREATE_BREAKAWAY_FROM_JOB, CREATE_NEW_PROCESS_GROUP, CREATE_NO_WINDOW, GetCurrentProcess,
            IsWow64Process2, OpenProcess, PROCESS_NAME_WIN32, PROCESS_QUERY_LIMITED_INFORMATION,
            PROCESS_TERMINATE, QueryFullProcessImageNameW, TerminateProcess, WaitForSingleObject,
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
/// Characters that a program's path has at most, as far as it is asked for.
const MAX_PATH_CHARS: usize = 1024;
/// How long a file that others hold is waited for, and the pause between two tries.
const HELD: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(20));

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

/// What starts the machine when the user logs in: a command in the Startup folder, in a window that stays down.
///
/// Paths have the user's name in them. Windows' shell reads a file in the code page of its console, which has no room for every
/// name, until it is told another: line by line, so that what follows is UTF-8.
pub fn login_entry(program: &Path, home: Option<&Path>) -> Result<Entry, String> {
    let roaming = std::env::var_os("APPDATA").map(PathBuf::from).ok_or("APPDATA is not set")?;
    let path = roaming.join(r"Microsoft\Windows\Start Menu\Programs\Startup\Coracle.cmd");
    let plain = |path: &Path| path.display().to_string().replace('%', "%%");
    let environment = home.map_or(String::new(), |home| format!("@set \"CORACLE_HOME={}\"\r\n", plain(home)));
    let start = format!("@start \"Coracle\" /min \"{}\" start\r\n", plain(program));
    Ok(Entry { path, text: format!("@chcp 65001 >nul\r\n{environment}{start}"), link: None })
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

/// Whether a process is one of a program: a number alone says little, after a restart it may be anybody's.
pub fn is_of(pid: u32, program: &Path) -> bool {
    let Some(process) = Process::open(pid, PROCESS_QUERY_LIMITED_INFORMATION) else { return false };
    let (mut path, mut len) = ([0; MAX_PATH_CHARS], MAX_PATH_CHARS as u32);
    // SAFETY: the handle is open, and the buffer has as many characters as it is said to have.
    if unsafe { QueryFullProcessImageNameW(process.0, PROCESS_NAME_WIN32, path.as_mut_ptr(), &mut len) } == 0
    {
        return false;
    }
    // By its name: folders have several (short ones, links).
    let path = PathBuf::from(std::ffi::OsString::from_wide(&path[..len as usize]));
    matches!((path.file_name(), program.file_name()), (Some(a), Some(b)) if a.eq_ignore_ascii_case(b))
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

/// Spawns a program that outlives this process, its console and its job.
pub fn spawn_detached(command: &mut Command) -> io::Result<Child> {
    // A console without a window: `wsl.exe` wants one, and with it logout and shutdown are heard of.
    let flags = CREATE_NO_WINDOW | CREATE_NEW_PROCESS_GROUP;
    keep_own_streams();
    command.stdin(Stdio::null());
    // Editors' terminals and ssh put what they start into a job, and end it as one. Not every job lets go.
    match command.creation_flags(flags | CREATE_BREAKAWAY_FROM_JOB).spawn() {
        Err(error) if error.raw_os_error() == Some(ERROR_ACCESS_DENIED as i32) => {
            command.creation_flags(flags).spawn()
        }
        other => other,
    }
}

/// A program that is started gets every handle that may be inherited, whatever its own streams are. Ours were inherited:
/// who reads what `coracle start` says to its end (`$said = coracle start`) would wait for the daemon's end.
fn keep_own_streams() {
    for name in [STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE] {
        // SAFETY: no preconditions; what is no handle is refused. Programs that are to have the same stream get a copy.
        unsafe { SetHandleInformation(GetStdHandle(name), HANDLE_FLAG_INHERIT, 0) };
    }
}

/// The same; its number is in a file from soon on.
pub fn spawn_noted(command: &mut Command, pid_file: &Path) -> io::Result<Child> {
    let child = spawn_detached(command)?;
    std::fs::write(pid_file, child.id().to_string())?;
    Ok(child)
}

/// Puts a file into the place of another. Who looks for viruses, or makes an index, holds a file that was just written
/// for a moment, and Windows refuses to replace it meanwhile.
pub fn replace(from: &Path, to: &Path) -> io::Result<()> {
    let since = Instant::now();
    loop {
        match std::fs::rename(from, to) {
            Err(error) if is_held(&error) && since.elapsed() < HELD.0 => {
                #[allow(clippy::disallowed_methods)] // nothing tells that another program closes a file
                std::thread::sleep(HELD.1);
            }
            other => return other,
        }
    }
}

fn is_held(error: &io::Error) -> bool {
    [ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION]
        .map(|code| Some(code as i32))
        .contains(&error.raw_os_error())
}

/// The processor of this Windows, where it isn't the one that this program is made for, and translates it.
pub fn other_processor() -> Option<&'static str> {
    let (mut own, mut native) = (0, 0);
    // SAFETY: both numbers live through the call; the process' own handle needs no closing.
    let told = unsafe { IsWow64Process2(GetCurrentProcess(), &mut own, &mut native) };
    if told == 0 { None } else { translated_on(native) }
}

fn translated_on(native: u16) -> Option<&'static str> {
    (native == IMAGE_FILE_MACHINE_ARM64 && cfg!(not(target_arch = "aarch64"))).then_some("ARM64")
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

/// Time Machine is macOS'.
pub fn leave_out_of_backups(_folder: &Path) {}

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

    /// What this program is to be when a test starts it again: `starter` starts a daemon and ends, `in a job` does it in a
    /// job that ends with it, `daemon` waits until it is ended.
    const ROLE: &str = "CORACLE_TEST_ROLE";
    /// Where the daemon's number is written.
    const DAEMON: &str = "CORACLE_TEST_DAEMON";

    fn again(role: &str, daemon: &Path) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--nocapture", "platform::windows::tests::a_role_in_another_test"]);
        command.env(ROLE, role).env(DAEMON, daemon);
        command
    }

    /// The daemon that a starter left; it ends with this value.
    struct Daemon(u32);

    impl Daemon {
        fn of(file: &Path) -> Self {
            Self(std::fs::read_to_string(file).unwrap().parse().unwrap())
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            end(self.0, true);
        }
    }

    #[test]
    fn a_role_in_another_test() {
        let Ok(role) = std::env::var(ROLE) else { return };
        let file = PathBuf::from(std::env::var_os(DAEMON).unwrap());
        if role == "daemon" {
            loop {
                std::thread::park();
            }
        }
        if role == "in a job" {
            enter_a_job();
        }
        let mut command = again("daemon", &file);
        #[allow(clippy::zombie_processes)] // it is to outlive this one
        let child = spawn_detached(command.stdout(Stdio::null()).stderr(Stdio::null())).unwrap();
        std::fs::write(file, child.id().to_string()).unwrap();
    }

    #[test]
    fn who_reads_what_a_starter_says_does_not_wait_for_the_daemons_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("daemon");
        // Read to its end, by a thread: nothing would end the reading but the daemon's end.
        let (told, said) = std::sync::mpsc::channel();
        let mut starter = again("starter", &file);
        std::thread::spawn(move || told.send(starter.output().unwrap()));
        let said = said.recv_timeout(std::time::Duration::from_secs(20));
        let daemon = Daemon::of(&file);
        assert!(alive(daemon.0));
        assert!(said.expect("the daemon holds the starter's streams").status.success());
    }

    #[test]
    fn a_daemon_outlives_the_job_that_its_starter_was_in() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("daemon");
        let status = again("in a job", &file).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "{status}");
        assert!(alive(Daemon::of(&file).0));
    }

    /// A job that ends what is in it with its last handle, which this process' end closes, and lets go who asks for it.
    fn enter_a_job() {
        use windows_sys::Win32::System::{
            JobObjects::{
                AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT_BREAKAWAY_OK,
                JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, JOBOBJECT_EXTENDED_LIMIT_INFORMATION,
                JobObjectExtendedLimitInformation, SetInformationJobObject,
            },
            Threading::GetCurrentProcess,
        };
        let mut limits = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        limits.BasicLimitInformation.LimitFlags =
            JOB_OBJECT_LIMIT_BREAKAWAY_OK | JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
        let bytes = size_of_val(&limits) as u32;
        // SAFETY: the limits live through the call that reads them.
        unsafe {
            let job = CreateJobObjectW(std::ptr::null(), std::ptr::null());
            let (what, limits) = (JobObjectExtendedLimitInformation, (&raw const limits).cast());
            assert_ne!(SetInformationJobObject(job, what, limits, bytes), 0);
            assert_ne!(AssignProcessToJobObject(job, GetCurrentProcess()), 0);
        }
    }

    #[test]
    fn a_process_is_known_by_its_programs_name() {
        let own = std::env::current_exe().unwrap();
        let name = own.file_name().unwrap().to_ascii_uppercase();
        let pid = std::process::id();
        assert!(is_of(pid, &own) && is_of(pid, &Path::new(r"D:\elsewhere").join(name)));
        assert!(!is_of(pid, Path::new(r"C:\Windows\System32\wsl.exe")) && !is_of(u32::MAX, &own));
    }

    #[test]
    fn a_file_that_somebody_holds_for_a_moment_is_replaced_then() {
        use std::os::windows::fs::OpenOptionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        std::fs::write(&old, "old").unwrap();
        std::fs::write(&new, "new").unwrap();
        let held = std::fs::OpenOptions::new().read(true).share_mode(0).open(&old).unwrap();
        assert!(is_held(&std::fs::rename(&new, &old).unwrap_err()));
        let replaces = std::thread::spawn({
            let old = old.clone();
            move || replace(&new, &old)
        });
        drop(held);
        replaces.join().unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(old).unwrap(), "new");
    }

    #[test]
    fn what_starts_at_login_is_read_whatever_the_users_name() {
        let program = Path::new(r"C:\Users\Jürgen 100% Öz\coracle.exe");
        let entry = login_entry(program, Some(Path::new(r"D:\日本"))).unwrap();
        let lines: Vec<&str> = entry.text.lines().collect();
        let expected = [
            "@chcp 65001 >nul",
            r#"@set "CORACLE_HOME=D:\日本""#,
            r#"@start "Coracle" /min "C:\Users\Jürgen 100%% Öz\coracle.exe" start"#,
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_windows_of_another_processor_is_told_from_ones_own() {
        assert_eq!(other_processor(), None);
        assert_eq!(translated_on(IMAGE_FILE_MACHINE_ARM64), Some("ARM64"));
    }

    #[test]
    fn homes_have_pipes_of_their_own() {
        let (a, b) = (Path::new(r"C:\Users\A\Coracle"), Path::new(r"C:\Users\B\Coracle"));
        assert_ne!(endpoint(a, "docker"), endpoint(b, "docker"));
        assert_ne!(endpoint(a, "docker"), endpoint(a, "control"));
        assert_eq!(endpoint(a, "docker"), endpoint(Path::new(r"c:\users\a\coracle"), "docker"));
        assert!(docker_host(&endpoint(a, "docker")).starts_with("npipe:////./pipe/coracle-"));
    }
}
