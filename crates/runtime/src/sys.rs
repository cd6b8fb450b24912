//! Raw system calls: what neither std nor rustix offers. The only place of this crate with `unsafe`.
//!
//! The shim has one thread, so that its child after [`clone3`] may do anything a program may.
#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ffi::{CStr, CString};
use std::io;

pub(crate) mod bpf;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_int(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The constant of libc overflows its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What [`clone3`] returns.
pub(crate) enum Cloned {
    Child,
    /// The child's pid and its pidfd.
    Parent(i32, OwnedFd),
}

/// A child in new namespaces (`flags`), in the group `cgroup`, with its own copy of all memory. With `CLONE_PARENT` it is
/// a child of the caller's parent.
///
/// The caller must be the only thread of its process: the child returns into the same code.
pub(crate) fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain data for which zero is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    // A sibling tells of its end as the caller does: the kernel takes no word on it.
    let sibling = flags & libc::CLONE_PARENT as u64 != 0;
    args.exit_signal = if sibling { 0 } else { libc::SIGCHLD as u64 };
    if let Some(group) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = group.as_raw_fd() as u64;
    }
    // SAFETY: args is a valid clone_args of that size; without CLONE_VM the child has its own memory and stack copy.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(Cloned::Parent(pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Joins the namespaces `kinds` of what `fd` (a namespace file or a pidfd) names.
pub(crate) fn setns(fd: impl AsFd, kinds: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check_int(unsafe { libc::setns(fd.as_fd().as_raw_fd(), kinds) }).map(drop)
}

/// `unshare(2)`.
pub(crate) fn unshare(kinds: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check_int(unsafe { libc::unshare(kinds) }).map(drop)
}

/// Sends `signal` through a pidfd; 0 only asks whether the process is there.
pub(crate) fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// Changes attributes (`MOUNT_ATTR_*`) and propagation (`MS_*`) of the mount `fd`, with its submounts if `recursive`.
pub(crate) fn mount_setattr(
    fd: impl AsFd,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
    set_attributes(fd, recursive, &attr)
}

/// Has the detached mount `fd` show its files' owners as the user namespace `users` maps them (Linux 5.12; not every
/// file system can: EINVAL).
pub(crate) fn mount_shift(fd: impl AsFd, users: impl AsFd) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users.as_fd().as_raw_fd() as u64,
    };
    set_attributes(fd, false, &attr)
}

fn set_attributes(fd: impl AsFd, recursive: bool, attr: &libc::mount_attr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, attr lives through the call and its size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// `pivot_root(".", ".")`: the new root is the current folder, the old one is stacked on it.
pub(crate) fn pivot_root_here() -> io::Result<()> {
    // SAFETY: both arguments are C strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: only flags of descriptors change.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Closes descriptors `first..=last`.
pub(crate) fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: used by the child and at start, where no owner of these descriptors lives on.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// A file that this process was started with as descriptor `fd`.
pub(crate) fn inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: called once per descriptor at the program's start, before anything else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A number-only `prctl(2)`.
pub(crate) fn prctl(option: i32, a: u64, b: u64) -> io::Result<i32> {
    // SAFETY: the options used by this crate take numbers, no pointers.
    check_int(unsafe { libc::prctl(option, a, b, 0, 0) })
}

/// `PR_SET_NAME`.
pub(crate) fn set_name(name: &CStr) {
    // SAFETY: a C string; the kernel copies at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}
#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `capset(2)`, version 3.
pub(crate) fn capset(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let header = CapHeader { version: 0x2008_0522, pid: 0 };
    let word = |shift: u32| CapData {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [word(0), word(32)];
    // SAFETY: header and data have the layout of version 3.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// The permitted set of this process.
pub(crate) fn capget_permitted() -> io::Result<u64> {
    let header = CapHeader { version: 0x2008_0522, pid: 0 };
    let mut data = [CapData { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: header and data have the layout of version 3.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Sets all uids of this (single) thread.
pub(crate) fn setresuid(uid: u32) -> io::Result<()> {
    // SAFETY: no memory is passed. The raw call: the process has one thread.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Sets all gids of this (single) thread.
pub(crate) fn setresgid(gid: u32) -> io::Result<()> {
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// Who this (single) thread is to file systems, with all the rights it may have.
pub(crate) fn set_file_owner(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: no memory is passed. These calls answer the id that was, and no errors.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
    // The kernel takes root's rights over files away with the id.
    let all = capget_permitted()?;
    capset(all, all, 0)
}

/// Sets the additional groups.
pub(crate) fn setgroups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length belong together.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// `setrlimit(2)` for this process.
pub(crate) fn setrlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    prlimit(0, resource, soft, hard)
}

/// The same for the process `pid`; 0 is the caller.
pub(crate) fn prlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: limit lives through the call; no old value is asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })
    .map(drop)
}

/// Loads a seccomp program (an array of `struct sock_filter`).
pub(crate) fn seccomp_load(program: &[u8]) -> io::Result<()> {
    let filters = program.len() / size_of::<libc::sock_filter>();
    let mut code: Vec<libc::sock_filter> = Vec::with_capacity(filters);
    for insn in program.chunks_exact(8) {
        code.push(libc::sock_filter {
            code: u16::from_ne_bytes([insn[0], insn[1]]),
            jt: insn[2],
            jf: insn[3],
            k: u32::from_ne_bytes([insn[4], insn[5], insn[6], insn[7]]),
        });
    }
    let len = u16::try_from(code.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let prog = libc::sock_fprog { len, filter: code.as_mut_ptr() };
    // SAFETY: prog and the filters it points at live through the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const prog) })
        .map(drop)
}

/// Leaves the session keyring of whoever started us, so that the container cannot read it.
pub(crate) fn new_session_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: u64 = 1;
    // SAFETY: a null name asks for an anonymous keyring. Kernels without keys answer ENOSYS: nothing to hide then.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
}

/// `execve(2)`: only returns with an error.
pub(crate) fn execve(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| {
        list.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with null and point at C strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends this process at once, without destructors: for the child that never became the container.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: always sound.
    unsafe { libc::_exit(code) }
}

/// Makes `tty` the controlling terminal of this session leader.
pub(crate) fn set_controlling_tty(tty: impl AsFd) -> io::Result<()> {
    // SAFETY: the argument is a number.
    check_int(unsafe { libc::ioctl(tty.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Blocks every signal the shim handles through a descriptor, and returns that signalfd.
pub(crate) fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: sigset_t is plain data, initialised by sigemptyset.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        check_int(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        let fd = check_int(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Default actions for all signals and none blocked: what a container's process starts with.
pub(crate) fn reset_signals() {
    // SAFETY: setting default dispositions and an empty mask is always sound.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Ignores `signal`.
pub(crate) fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN is a valid disposition.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Gives memory the allocator no longer uses back to the kernel.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: always sound.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets the allocator have as many heaps as there are processors. By itself it makes eight times as many, one for each
/// thread that waited for a file, and what is free in one serves no other.
pub fn one_heap_a_processor() {
    #[cfg(target_env = "gnu")]
    {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let heaps = i32::try_from(processors.max(2)).unwrap_or(i32::MAX);
        // SAFETY: sets a number, before there are other threads or after.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, heaps) };
    }
}

/// Sets the process's umask.
pub(crate) fn umask(mask: u32) {
    // SAFETY: always sound.
    unsafe { libc::umask(mask) };
}

/// `setsid(2)`; an error means that we lead a group already, which serves as well.
pub(crate) fn setsid() {
    // SAFETY: always sound.
    unsafe { libc::setsid() };
}

/// `sethostname(2)` / `setdomainname(2)`.
pub(crate) fn set_names(host: Option<&str>, domain: Option<&str>) -> io::Result<()> {
    // SAFETY: pointer and length belong together.
    unsafe {
        if let Some(host) = host {
            check_int(libc::sethostname(host.as_ptr().cast(), host.len()))?;
        }
        if let Some(domain) = domain {
            check_int(libc::setdomainname(domain.as_ptr().cast(), domain.len()))?;
        }
    }
    Ok(())
}

/// A descriptor whose readiness tokio watches.
pub(crate) fn async_fd(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    async_fd_for(fd, tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE)
}

/// The same, for some kinds of readiness only.
pub(crate) fn async_fd_for(
    fd: OwnedFd,
    interest: tokio::io::Interest,
) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd always answers the same descriptor, which stays open as long as it lives.
    Ok(unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, interest) }?)
}

/// As [`signal_fd`], but reading it waits.
pub(crate) fn blocking_signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    let fd = signal_fd(signals)?;
    rustix::io::ioctl_fionbio(&fd, false)?;
    Ok(fd)
}

/// `kill(2)`.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check_int(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Lets the program of `command` start with default signal actions and none blocked (std passes the mask on).
pub(crate) fn with_signals_reset(command: &mut std::process::Command) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: between fork and exec only async-signal-safe calls are made.
    unsafe {
        command.pre_exec(|| {
            reset_signals();
            Ok(())
        })
    }
}
