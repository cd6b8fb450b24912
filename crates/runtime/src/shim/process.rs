//! From a fresh clone to the container's program: what runs in the child between `clone3` and `execve`.
//!
//! ```text
//!   clone3 --> set up (namespaces, root, terminal, user, capabilities) --Ready--> waits --Go--> seccomp, execve
//!                 |                                                                 |              |
//!                 '--Failed{what, why} and exit                        shim gone: exit         Failed / EOF = running
//! ```
//! The pair of sockets that carries this is close-on-exec: its end without a word is the news that the program runs.
//! Until then the child is not dumpable and, being a copy of the shim, runs from the sealed memfd the engine starts
//! shims from: a container that catches `/proc/<child>/exe` holds a copy that nobody can write (CVE-2019-5736).

use super::rootfs::{self, Doing, Step, words};
use crate::plan::{Plan, ProcessPlan};
use crate::protocol::{Failure, FailureKind};
use crate::sys;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// What the child tells the shim.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromChild {
    /// Set up; with a terminal its master travels along.
    Ready,
    Failed(Failure),
}

/// The longest message of a child, bytes: an error's words.
const MAX_MESSAGE: usize = 8 * 1024;

/// The child's ends of its stdio; `None` = `/dev/null`.
pub(super) struct ChildStdio {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// What an exec joins.
pub(super) struct Tenant {
    /// The container's init.
    pub init: OwnedFd,
    /// `CLONE_NEW*` of the namespaces to join, without the pid namespace.
    pub namespaces: i32,
}

fn send(sync: BorrowedFd<'_>, message: &FromChild, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let bytes = postcard::to_allocvec(message).unwrap_or_default();
    let bytes = bytes.get(..MAX_MESSAGE).unwrap_or(&bytes);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    rustix::net::sendmsg(sync, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// What the shim reads from a child.
pub(super) enum Heard {
    Ready(Option<OwnedFd>),
    Failed(Failure),
    /// The program runs, or the child died without a word.
    End,
    Nothing,
}

/// The descriptor that somebody sends over a socket: a runtime's terminal.
pub(super) fn receive(socket: impl AsFd) -> Option<OwnedFd> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )
    .ok()?;
    control.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

/// Reads one message of the child, without waiting.
pub(super) fn hear(sync: BorrowedFd<'_>) -> Heard {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        sync,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    );
    let message = match received {
        Ok(message) => message,
        Err(Errno::AGAIN | Errno::INTR) => return Heard::Nothing,
        Err(_) => return Heard::End,
    };
    if message.bytes == 0 {
        return Heard::End;
    }
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Heard::Failed(Failure::internal("the container's process sent too long an error"));
    }
    let mut fd = None;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = part {
            fd = fds.next();
        }
    }
    match postcard::from_bytes(&bytes[..message.bytes]) {
        Ok(FromChild::Ready) => Heard::Ready(fd),
        Ok(FromChild::Failed(failure)) => Heard::Failed(failure),
        Err(_) => Heard::Failed(Failure::internal("the container's process sent an unreadable error")),
    }
}

/// Waits for the shim's word; the shim's end is ours too.
fn await_word(sync: BorrowedFd<'_>) {
    let mut word = [0u8; 1];
    loop {
        match rustix::io::read(sync, &mut word) {
            Ok(1) => return,
            Err(Errno::INTR) => {}
            _ => sys::exit_now(1),
        }
    }
}

/// The container's first process, in its user namespace already. Never returns.
pub(super) fn run_init(plan: &Plan, joins: &[(i32, OwnedFd)], stdio: ChildStdio, sync: OwnedFd) -> ! {
    let result = init(plan, joins, stdio, sync.as_fd());
    let Err(failure) = result;
    let _ = send(sync.as_fd(), &FromChild::Failed(failure), None);
    sys::exit_now(1)
}

/// A further process of a running container. Never returns.
pub(super) fn run_exec(plan: &ProcessPlan, tenant: &Tenant, stdio: ChildStdio, sync: OwnedFd) -> ! {
    let result = exec(plan, tenant, stdio, sync.as_fd());
    let Err(failure) = result;
    let _ = send(sync.as_fd(), &FromChild::Failed(failure), None);
    sys::exit_now(1)
}

enum Never {}

fn init(
    plan: &Plan,
    joins: &[(i32, OwnedFd)],
    stdio: ChildStdio,
    sync: BorrowedFd<'_>,
) -> Result<Never, Failure> {
    let process = &plan.process;
    let filter = prepare(process)?;
    if plan.new_namespaces & libc::CLONE_NEWUSER as u64 != 0 {
        await_word(sync);
    }
    if let Some(stage) = &plan.stage {
        // As long as the folders above may be passed through.
        rustix::process::chdir(stage.as_str()).doing(|| format!("cannot enter {stage}"))?;
    }
    if !plan.uid_map.is_empty() {
        sys::setresgid(0).doing(|| "cannot become root of the user namespace".into())?;
        sys::setresuid(0).doing(|| "cannot become root of the user namespace".into())?;
    }
    for (kind, namespace) in joins {
        sys::setns(namespace, *kind).doing(|| format!("cannot join a namespace ({kind:#x})"))?;
    }
    // Only now: the root of a cgroup namespace is the group its maker is in.
    if plan.new_namespaces & libc::CLONE_NEWCGROUP as u64 != 0 {
        sys::unshare(libc::CLONE_NEWCGROUP).doing(|| "cannot make a cgroup namespace".into())?;
    }
    sys::set_names(plan.hostname.as_deref(), plan.domainname.as_deref())
        .doing(|| "cannot set the hostname".into())?;

    let root = rootfs::mount_root(plan)?;
    let later = rootfs::mounts(plan, root.as_fd())?;
    rootfs::devices(plan, root.as_fd())?;
    let terminal = if process.tty {
        let (master, peer) = rootfs::console(root.as_fd(), process.console_size)?;
        rootfs::bind_console(root.as_fd(), &peer)?;
        Some((master, peer))
    } else {
        None
    };
    // runc makes the working folder where the image has none, before a read-only root forbids it.
    if let Err(e) = rootfs::make_dir_in(root.as_fd(), &process.cwd) {
        return Err(e).doing(|| format!("mkdir {}", process.cwd));
    }
    rootfs::pivot(root.as_fd())?;
    sysctls(&plan.sysctl)?;
    rootfs::protect(plan)?;
    rootfs::seal(plan, root.as_fd(), &later)?;
    drop((later, root));
    become_program(process, filter.as_deref(), terminal, stdio, sync)
}

fn exec(
    plan: &ProcessPlan,
    tenant: &Tenant,
    stdio: ChildStdio,
    sync: BorrowedFd<'_>,
) -> Result<Never, Failure> {
    let filter = prepare(plan)?;
    sys::setns(&tenant.init, tenant.namespaces).doing(|| "cannot join the container's namespaces".into())?;
    if tenant.namespaces & libc::CLONE_NEWUSER != 0 {
        sys::setresgid(0).doing(|| "cannot become root of the user namespace".into())?;
        sys::setresuid(0).doing(|| "cannot become root of the user namespace".into())?;
    }
    let terminal = if plan.tty {
        let root = open_root()?;
        Some(rootfs::console(root.as_fd(), plan.console_size)?)
    } else {
        None
    };
    become_program(plan, filter.as_deref(), terminal, stdio, sync)
}

fn open_root() -> Step<OwnedFd> {
    rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "cannot open /".into())
}

/// What wants the host's view: it comes before any namespace is entered.
fn prepare(process: &ProcessPlan) -> Step<Option<Vec<u8>>> {
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).doing(|| "cannot give up dumpability".into())?;
    sys::setsid();
    sys::reset_signals();
    sys::umask(0o022);
    sys::new_session_keyring();
    if let Some(score) = process.oom_score_adj {
        // Not dumpable, /proc/self belongs to root: that we still are.
        write_proc(CWD, "/proc/self/oom_score_adj", &score.to_string())?;
    }
    match &process.seccomp {
        Some(file) => std::fs::read(file).map(Some).doing(|| "cannot read the seccomp filter".into()),
        None => Ok(None),
    }
}

/// Writes a file below /proc after making sure that it is procfs and no fake.
fn write_proc(at: BorrowedFd<'_>, path: &str, value: &str) -> Step<()> {
    let failed = || format!("cannot write {value} to {path}");
    let file =
        rustix::fs::openat(at, path, OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .doing(failed)?;
    if rustix::fs::fstatfs(&file).doing(failed)?.f_type as i64 != libc::PROC_SUPER_MAGIC {
        return Err(Failure::internal(format!("{}: it is not on procfs", failed())));
    }
    rustix::io::write(&file, value.as_bytes()).doing(failed)?;
    Ok(())
}

fn sysctls(settings: &[(String, String)]) -> Step<()> {
    if settings.is_empty() {
        return Ok(());
    }
    let root = open_root()?;
    for (key, value) in settings {
        // A '/' in a key stands for a '.' in a name (interfaces with VLANs), as sysctl(8) has it.
        let path: String = key
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect();
        let path = format!("/proc/sys/{path}");
        let failed = || format!("cannot set the sysctl {key} to {value}");
        let file = rootfs::open_in(root.as_fd(), &path, OFlags::WRONLY | OFlags::NOFOLLOW).doing(failed)?;
        if rustix::fs::fstatfs(&file).doing(failed)?.f_type as i64 != libc::PROC_SUPER_MAGIC {
            return Err(Failure::internal(format!("{}: it is not on procfs", failed())));
        }
        rustix::io::write(&file, value.as_bytes()).doing(failed)?;
    }
    Ok(())
}

/// The last steps, common to both: stdio, user, capabilities, the word, seccomp, `execve`.
fn become_program(
    process: &ProcessPlan,
    filter: Option<&[u8]>,
    terminal: Option<(OwnedFd, OwnedFd)>,
    stdio: ChildStdio,
    sync: BorrowedFd<'_>,
) -> Result<Never, Failure> {
    let root = open_root()?;
    let master = connect_stdio(process, terminal, stdio, root.as_fd())?;
    sys::close_on_exec_from(3).doing(|| "cannot mark descriptors close-on-exec".into())?;
    drop(root);
    // As late as privileges allow: a small limit on open files must not break the set-up.
    for (resource, soft, hard) in &process.rlimits {
        sys::setrlimit(*resource, *soft, *hard).doing(|| format!("error setting rlimit type {resource}"))?;
    }

    // Without no_new_privs only CAP_SYS_ADMIN may load a filter: it must come before that capability goes.
    if let Some(filter) = filter.filter(|_| !process.no_new_privileges) {
        sys::seccomp_load(filter).doing(|| "cannot load the seccomp filter".into())?;
    }
    let entered = enter_cwd(&process.cwd);
    set_user(process)?;
    if entered.is_err() {
        // A folder that only the user may enter (or that root may not: NFS, FUSE).
        enter_cwd(&process.cwd)?;
    }
    let (path, args, env) = command(process)?;
    if process.no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).doing(|| "cannot set no_new_privs".into())?;
    }
    if let Some(mask) = process.umask {
        sys::umask(mask);
    }
    send(sync, &FromChild::Ready, master.as_ref().map(AsFd::as_fd))
        .doing(|| "cannot report to the shim".into())?;
    drop(master);
    await_word(sync);
    if let Some(filter) = filter.filter(|_| process.no_new_privileges) {
        sys::seccomp_load(filter).doing(|| "cannot load the seccomp filter".into())?;
    }
    let error = sys::execve(&path, &args, &env);
    // The program was found and may be executed, but the kernel cannot (a foreign format, a missing interpreter). As
    // with runc that is the container's own failure: it has started, says so on its stderr, and exits with 255.
    let said = format!("exec {}: {}\n", path.to_string_lossy(), words(&error));
    let _ = rustix::io::write(rustix::stdio::stderr(), said.as_bytes());
    sys::exit_now(EXEC_FAILED)
}

/// The exit status of a program that could not be executed after its container had started; runc's.
const EXEC_FAILED: i32 = 255;

/// Puts the stdio in place; returns the terminal's master, which the shim is sent.
fn connect_stdio(
    process: &ProcessPlan,
    terminal: Option<(OwnedFd, OwnedFd)>,
    stdio: ChildStdio,
    root: BorrowedFd<'_>,
) -> Step<Option<OwnedFd>> {
    let failed = || "cannot connect the standard streams".to_owned();
    let mut null = None;
    let mut null_fd = || -> Step<OwnedFd> {
        if null.is_none() {
            rootfs::null_device(root)?;
            let file = rootfs::open_in(root, "/dev/null", OFlags::RDWR).doing(failed)?;
            let stat = rustix::fs::fstat(&file).doing(failed)?;
            if stat.st_rdev != rustix::fs::makedev(1, 3) {
                return Err(Failure::internal("the container's /dev/null is not the null device"));
            }
            null = Some(file);
        }
        match &null {
            Some(file) => file.try_clone().doing(failed),
            None => Err(Failure::internal(failed())),
        }
    };
    let (master, streams) = match terminal {
        Some((master, peer)) => {
            sys::set_controlling_tty(&peer).doing(|| "cannot set the controlling terminal".into())?;
            let streams = [peer.try_clone().doing(failed)?, peer.try_clone().doing(failed)?, peer];
            (Some(master), streams)
        }
        None => {
            let mut take = |fd: Option<OwnedFd>| fd.map_or_else(&mut null_fd, Ok);
            (None, [take(stdio.stdin)?, take(stdio.stdout)?, take(stdio.stderr)?])
        }
    };
    for stream in &streams {
        // So that an unprivileged user may open /dev/stdout again.
        let stat = rustix::fs::fstat(stream).doing(failed)?;
        let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3);
        if !is_null && stat.st_uid != process.uid {
            match rustix::fs::fchown(stream, Some(Uid::from_raw(process.uid)), None::<Gid>) {
                Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
                Err(e) => return Err(e).doing(failed),
            }
        }
    }
    let [stdin, stdout, stderr] = streams;
    // The sources are all >= 3: 0, 1 and 2 are occupied in the shim from its start.
    rustix::stdio::dup2_stdin(&stdin).doing(failed)?;
    rustix::stdio::dup2_stdout(&stdout).doing(failed)?;
    rustix::stdio::dup2_stderr(&stderr).doing(failed)?;
    Ok(master)
}

/// Enters the working folder and makes sure that it lies inside the root (CVE-2024-21626).
fn enter_cwd(cwd: &str) -> Step<()> {
    rustix::process::chdir(cwd).map_err(|e| {
        Failure::internal(format!("chdir to cwd ({cwd:?}) set in config.json failed: {}", words(&e.into())))
    })?;
    match rustix::process::getcwd(Vec::new()) {
        Ok(path) if path.to_bytes().starts_with(b"/") => Ok(()),
        _ => Err(Failure::internal(
            "current working directory is outside of container mount namespace root -- possible container breakout detected",
        )),
    }
}

/// User, groups and the five capability sets.
fn set_user(process: &ProcessPlan) -> Step<()> {
    let failed = || "cannot apply the capabilities".to_owned();
    let capabilities = &process.capabilities;
    let have = sys::capget_permitted().doing(failed)?;
    for number in 0..64 {
        let bit = 1u64 << number;
        if capabilities.bounding & bit != 0 {
            continue;
        }
        match sys::prctl(libc::PR_CAPBSET_DROP, number, 0) {
            Ok(_) => {}
            // Past the last capability of this kernel.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            Err(e) => return Err(e).doing(failed),
        }
    }
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).doing(failed)?;
    let user = || "cannot set the user".to_owned();
    match sys::setgroups(&process.groups) {
        Ok(()) => {}
        // A user namespace may forbid it; no groups were asked for.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) && process.groups.is_empty() => {}
        Err(e) => return Err(e).doing(user),
    }
    sys::setresgid(process.gid).doing(user)?;
    sys::setresuid(process.uid).doing(user)?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0, 0).doing(failed)?;
    // Not more than we have: capabilities the machine itself lacks are left out, as Docker does.
    let permitted = capabilities.permitted & have;
    sys::capset(capabilities.effective & permitted, permitted, capabilities.inheritable & (have | permitted))
        .doing(failed)?;
    for number in 0..64 {
        if capabilities.ambient & (1 << number) != 0 {
            sys::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, number).doing(failed)?;
        }
    }
    Ok(())
}

/// The program's path, arguments and environment, found as Go's `exec.LookPath` does, with its words.
fn command(process: &ProcessPlan) -> Step<(CString, Vec<CString>, Vec<CString>)> {
    let Some(name) = process.args.first() else {
        return Err(Failure::new(FailureKind::Invalid, "no command specified"));
    };
    let c_strings = |list: &[String]| {
        list.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>().map_err(|_| {
            Failure::new(FailureKind::Invalid, "an argument or environment variable contains a NUL byte")
        })
    };
    let args = c_strings(&process.args)?;
    let mut env = c_strings(&process.env)?;
    if !process.env.iter().any(|e| e.starts_with("HOME=")) {
        let home = format!("HOME={}", home_of(process.uid));
        env.extend(c_strings(&[home])?);
    }
    let path = find(name, &process.env)?;
    let path = CString::new(path)
        .map_err(|_| Failure::new(FailureKind::Invalid, "the command contains a NUL byte"))?;
    Ok((path, args, env))
}

fn find(name: &str, env: &[String]) -> Step<String> {
    let not_in_path = || {
        Failure::new(
            FailureKind::CommandNotFound,
            format!("exec: {name:?}: executable file not found in $PATH"),
        )
    };
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(e) if e == Errno::NOENT || e == Errno::NOTDIR => Err(Failure::new(
                FailureKind::CommandNotFound,
                format!("exec: {name:?}: stat {name}: {}", words(&e.into())),
            )),
            Err(Errno::ISDIR) => Err(Failure::new(
                FailureKind::CommandNotExecutable,
                format!("exec: {name:?}: is a directory: permission denied"),
            )),
            Err(e) => Err(Failure::new(
                FailureKind::CommandNotExecutable,
                format!("exec: {name:?}: {}", words(&e.into())),
            )),
        };
    }
    let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("");
    if name.is_empty() {
        return Err(not_in_path());
    }
    for folder in path.split(':') {
        let candidate = if folder.is_empty() { format!("./{name}") } else { format!("{folder}/{name}") };
        if executable(&candidate).is_ok() {
            return Ok(candidate);
        }
    }
    Err(not_in_path())
}

fn executable(path: &str) -> Result<(), Errno> {
    let stat = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    rustix::fs::accessat(CWD, path, rustix::fs::Access::EXEC_OK, rustix::fs::AtFlags::EACCESS).or_else(|e| {
        match e {
            // A filter that knows no faccessat2: go by the mode.
            Errno::NOSYS | Errno::PERM if stat.st_mode & 0o111 != 0 => Ok(()),
            Errno::NOSYS | Errno::PERM => Err(Errno::ACCESS),
            e => Err(e),
        }
    })
}

/// The home folder of `uid` by the container's own /etc/passwd, else `/`.
fn home_of(uid: u32) -> String {
    /// A passwd file over this many bytes is not read.
    const MAX_PASSWD: usize = 4 * 1024 * 1024;
    let lookup = || -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open("/etc/passwd", flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            || stat.st_size as usize > MAX_PASSWD
        {
            return None;
        }
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(file), &mut text).ok()?;
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.nth(2)?.parse::<u32>().ok()? == uid).then(|| fields.nth(2).map(str::to_owned)).flatten()
        })
    };
    lookup().filter(|home| !home.is_empty()).unwrap_or_else(|| "/".into())
}
