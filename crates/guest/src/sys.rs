//! The guest's system calls and the programs it spawns; the only place with `unsafe`.
#![allow(unsafe_code)]

mod interface;
mod port;
mod terminal;
mod tun;
mod vsock;

pub use interface::{Interface, broadcast_socket, configure_interface, set_mtu};
pub use port::Port;
pub use terminal::shell;
pub use tun::{Tun, Unfinished, make_tun};
pub use vsock::Vsock;

use std::{
    convert::Infallible,
    ffi::CString,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags},
    sched::CloneFlags,
    sys::{
        resource::{Resource, setrlimit},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::GuestError;

/// Pause between two looks for a device: the kernel tells nobody in an initrd.
const DEVICE_POLL: Duration = Duration::from_millis(5);
/// What the last writing to the disks may take.
const SYNC_LIMIT: Duration = Duration::from_secs(5);

/// Mounts `device` at `place`; one that is there already is fine.
pub fn mount(device: &str, place: &str, kind: &str, flags: MsFlags, options: &str) -> Result<(), GuestError> {
    let options = (!options.is_empty()).then_some(options);
    match nix::mount::mount(Some(device), place, Some(kind), flags, options) {
        Ok(()) | Err(nix::errno::Errno::EBUSY) => Ok(()),
        Err(error) => Err(GuestError::io("mounting", place)(error.into())),
    }
}

/// Shows the folder `from` at `to` as well, without what is mounted below it; or a tree of a file system of the host's.
pub fn bind(from: &str, to: &str) -> Result<(), GuestError> {
    nix::mount::mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|e| GuestError::io("binding", from)(e.into()))
}

/// Nothing may be written below a bound folder any more.
pub fn make_read_only(place: &str) -> Result<(), GuestError> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    nix::mount::mount(None::<&str>, place, None::<&str>, flags, None::<&str>)
        .map_err(|e| GuestError::io("protecting", place)(e.into()))
}

/// Mount events go nowhere from here, and none come.
pub fn make_private(place: &str) -> Result<(), GuestError> {
    nix::mount::mount(None::<&str>, place, None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|e| GuestError::io("parting", place)(e.into()))
}

/// Lets a command begin in a session and namespaces of its own (but that of pids, which its parent chooses), in a control group if
/// one is given, and end in order when its parent has.
pub fn in_namespaces(command: &mut Command, group: Option<PathBuf>) {
    let procs = group.and_then(|group| c_string(&group.join("cgroup.procs").display().to_string()).ok());
    // SAFETY: what is called in the child is async-signal-safe: open, write, close, setsid, prctl and unshare.
    unsafe {
        command.pre_exec(move || {
            if let Some(procs) = &procs {
                let file = nix::libc::open(procs.as_ptr(), nix::libc::O_WRONLY | nix::libc::O_CLOEXEC);
                // "0" is who writes; one that can't be entered leaves containers without limits.
                if file >= 0 {
                    nix::libc::write(file, c"0".as_ptr().cast(), 1);
                    nix::libc::close(file);
                }
            }
            // A session of its own: what hangs up the caller's hangs up nobody in here.
            nix::unistd::setsid()?;
            let signal = nix::libc::SIGTERM as nix::libc::c_ulong;
            if nix::libc::prctl(nix::libc::PR_SET_PDEATHSIG, signal) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(nix::sched::unshare(
                CloneFlags::CLONE_NEWNS
                    | CloneFlags::CLONE_NEWNET
                    | CloneFlags::CLONE_NEWUTS
                    | CloneFlags::CLONE_NEWIPC
                    | CloneFlags::CLONE_NEWCGROUP,
            )?)
        });
    }
}

/// Does something in a new network namespace, which what it opens keeps. The programs that it runs are in there as well.
pub fn in_a_network_of_its_own<T: Send>(
    work: impl FnOnce() -> Result<T, GuestError> + Send,
) -> Result<T, GuestError> {
    let here = || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|e| GuestError::io("leaving", "the network")(e.into()))?;
        work()
    };
    // A thread of its own: nobody else's network changes.
    std::thread::scope(|scope| scope.spawn(here).join())
        .unwrap_or_else(|_| Err(GuestError::Invalid("setting up a network of its own panicked".into())))
}

/// Standard output, without a buffer.
pub fn standard_output() -> io::Result<OwnedFd> {
    std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned()
}

/// For root alone.
pub fn private(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
}

/// Moves a mount.
pub fn move_mount(from: &str, to: &str) -> Result<(), GuestError> {
    nix::mount::mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(|e| GuestError::io("moving", from)(e.into()))
}

/// Makes `place` the root of everything that follows.
pub fn switch_root(place: &str) -> Result<(), GuestError> {
    let failed = |e: nix::errno::Errno| GuestError::io("entering", place)(e.into());
    nix::unistd::chdir(place).map_err(failed)?;
    move_mount(".", "/")?;
    nix::unistd::chroot(".").map_err(failed)?;
    nix::unistd::chdir("/").map_err(failed)
}

/// Mount events below `place` propagate.
pub fn make_shared(place: &str) -> Result<(), GuestError> {
    nix::mount::mount(None::<&str>, place, None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
        .map_err(|e| GuestError::io("sharing", place)(e.into()))
}

/// Unmounts; `lazily` when something still uses it.
pub fn unmount(place: &str, lazily: bool) -> io::Result<()> {
    let flags = if lazily { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    Ok(nix::mount::umount2(place, flags)?)
}

/// Becomes another program.
pub fn exec(program: &str, args: &[&str]) -> Result<Infallible, GuestError> {
    let error = Command::new(program).args(args).env_clear().env("PATH", PATH).exec();
    Err(GuestError::io("running", program)(error))
}

/// Where programs are looked for.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Loads a kernel module; one that is loaded already is fine.
pub fn load_module(path: &Path) -> Result<(), GuestError> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(GuestError::io("opening", name.clone()))?;
    match nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty()) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(error) => Err(GuestError::io("loading", name)(error.into())),
    }
}

/// Waits until a path is there.
pub fn wait_for_path(path: &Path, limit: Duration) -> Result<(), GuestError> {
    let start = Instant::now();
    while !path.exists() {
        if start.elapsed() > limit {
            let missing = io::Error::from(io::ErrorKind::NotFound);
            return Err(GuestError::io("waiting for", path.display().to_string())(missing));
        }
        #[allow(clippy::disallowed_methods)]
        // devtmpfs has no events that a program without udev could wait for
        std::thread::sleep(DEVICE_POLL);
    }
    Ok(())
}

/// Bytes of a file or block device.
pub fn size(mut file: &File) -> io::Result<u64> {
    io::Seek::seek(&mut file, io::SeekFrom::End(0))
}

/// Sets the host's name.
pub fn set_hostname(name: &str) -> Result<(), GuestError> {
    nix::unistd::sethostname(name).map_err(|e| GuestError::io("naming", name)(e.into()))
}

/// Raises the limit of open files of this process and its children.
pub fn raise_open_files(limit: u64) -> Result<(), GuestError> {
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit)
        .map_err(|e| GuestError::io("raising", "open files")(e.into()))
}

/// Steps the wall clock.
pub fn set_clock(since_1970: Duration) -> io::Result<()> {
    let time = nix::sys::time::TimeSpec::from_duration(since_1970);
    Ok(nix::time::clock_settime(nix::time::ClockId::CLOCK_REALTIME, time)?)
}

/// The next child that has ended, if one has: its pid and how.
pub fn reap() -> Option<(u32, String)> {
    match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(pid, code)) => Some((pid.as_raw() as u32, format!("exited with code {code}"))),
        Ok(WaitStatus::Signaled(pid, signal, _)) => {
            Some((pid.as_raw() as u32, format!("was killed by {signal}")))
        }
        _ => None,
    }
}

/// Runs a program to its end, whoever else waits for children: the status comes from its own pid, and
/// [`reap`] is kept away by `CHILDREN`.
pub fn output(command: &mut Command) -> io::Result<Output> {
    let _turn = CHILDREN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    command.env("PATH", PATH).output()
}

/// Held while a child's pid is not yet known to its owner, or its owner waits for it by itself.
pub static CHILDREN: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Signals one process; one that is gone is fine.
pub fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid as i32), signal);
}

/// Signals every process but this one.
pub fn signal_all(signal: Signal) {
    let _ = kill(Pid::from_raw(-1), signal);
}

/// True while this process has children (those that it adopted included).
pub fn has_children() -> bool {
    let flags = nix::libc::WNOHANG | nix::libc::WEXITED | nix::libc::WNOWAIT;
    // SAFETY: an all-zero siginfo_t is a valid one, and the pointer lives through the call.
    unsafe {
        let mut info: nix::libc::siginfo_t = std::mem::zeroed();
        nix::libc::waitid(nix::libc::P_ALL, 0, &mut info, flags) == 0
    }
}

/// Writes all of the disk that is mounted at `place`.
pub fn sync_disk(place: &str) -> io::Result<()> {
    Ok(nix::unistd::syncfs(&File::open(place)?)?)
}

/// Writes everything to the disks and turns the machine off.
pub fn power_off() -> ! {
    // A share that has died never answers.
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        nix::unistd::sync();
        done.send(())
    });
    let _ = wait.recv_timeout(SYNC_LIMIT);
    let _ = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    // Only where the kernel can't: end, which panics it.
    std::process::exit(1)
}

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes)
}

/// A string for a system call.
fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::ErrorKind::InvalidInput.into())
}
