//! What goes wrong, in words that say what to do next.

use std::{io, path::PathBuf, time::Duration};

use crate::driver::vfkit::Kind;

/// Every way in which the machine can fail its user.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the sentences say it
pub enum HostError {
    #[error("{what} {path}: {source}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "the path {path} has {len} bytes, sockets may have {max}: choose a shorter folder and set CORACLE_HOME to it"
    )]
    PathTooLong { path: PathBuf, len: usize, max: usize },
    #[error("there is no home folder: set HOME or CORACLE_HOME")]
    NoHome,
    #[error("another daemon (pid {0}) runs in this home: `coracle stop` ends it")]
    Locked(String),
    #[error(
        "the guest's image is not complete: {0}. Install Coracle again, or set CORACLE_GUEST to the image's folder"
    )]
    Image(String),
    #[error(
        "QEMU was not found ({0}). Install it (Debian, Ubuntu: `apt install qemu-system-x86`), or set CORACLE_QEMU to its path"
    )]
    QemuMissing(String),
    #[error(
        "QEMU {found} is too old: {needed} or newer is needed {why}. Install a newer one and set CORACLE_QEMU to its path"
    )]
    QemuOld { found: String, needed: &'static str, why: &'static str },
    #[error("QEMU ended: {0}")]
    QemuDied(String),
    #[error("{name} was not found ({1}). {install}, or set {variable} to its path", name = .0.name, install = .0.install, variable = .0.variable)]
    VfkitMissing(&'static Kind, String),
    #[error("{name} ended: {1}", name = .0.name)]
    VfkitDied(&'static Kind, String),
    #[error(
        "macOS does not let vfkit make machines: it lacks the entitlement {0}. Install Coracle again, or take a vfkit that is signed with it (a program loses it when it is changed or signed anew)"
    )]
    Entitlement(&'static str),
    #[error("the path {1} can't be passed to {name}: it {2}. Choose another folder", name = .0.name)]
    VfkitPath(&'static Kind, PathBuf, &'static str),
    #[error(
        "gvproxy was not found ({0}). It is the network of guests under krunkit: install it (https://github.com/containers/gvisor-tap-vsock; `brew install podman` brings one), or set CORACLE_GVPROXY to its path"
    )]
    ProxyMissing(String),
    #[error("gvproxy, the guest's network, did not start: {0}")]
    Network(String),
    #[error(
        "the guest has no network any more: gvproxy has died{said}. `coracle restart` brings it back",
        said = if .0.is_empty() { String::new() } else { format!(" ({})", .0) }
    )]
    NetworkLost(String),
    #[error(
        "WSL was not found ({0}). It is a part of Windows: in an administrator's terminal, `wsl --install --no-distribution`, then restart Windows"
    )]
    WslMissing(String),
    #[error(
        "Windows' part of WSL is off or lacks something: in an administrator's terminal, `wsl --install --no-distribution`, then restart Windows; virtualization must be on in the firmware. It said: {0}"
    )]
    WslOff(String),
    #[error(
        "this WSL is too old: `wsl --update` (in an administrator's terminal) brings one that is kept up to date. It said: {0}"
    )]
    WslOld(String),
    #[error(
        "this Windows runs on a processor of {0}, and so does its WSL: this Coracle is made for x64, whose machine can't run there"
    )]
    WslProcessor(&'static str),
    #[error("WSL could not {what}: {said}")]
    Wsl { what: &'static str, said: String },
    #[error("the WSL distribution ended: {0}")]
    WslDied(String),
    #[error(
        "the root of the WSL distribution is not complete: {0}. Install Coracle again, or set CORACLE_WSL_ROOT to its folder"
    )]
    WslRoot(String),
    #[error("the guest's kernel panicked: {0}")]
    Panic(String),
    #[error("the guest did not answer within {limit:?}. The end of its console: {console}")]
    NoAnswer { limit: Duration, console: String },
    #[error(
        "this coracle and the running guest don't understand each other: {0}. `coracle restart` starts the guest anew"
    )]
    Version(String),
    #[error("the engine does not run: {0}")]
    Engine(String),
    #[error(
        "the disk of this computer is full: {folder} has {free_mib} MiB left, {needed_mib} are needed. Make room there, then run `coracle start`"
    )]
    DiskFull { folder: PathBuf, free_mib: u64, needed_mib: u64 },
    #[error(
        "the disk of this computer is full ({folder}): the guest stands still. Make room there, and it goes on by itself"
    )]
    StandsStill { folder: PathBuf },
    #[error("the data disk can't shrink: it has {now} GiB, {wanted} were asked for")]
    Shrink { now: u64, wanted: u64 },
    #[error(
        "nothing was deleted: {0} is still mounted, and what is in there would be lost. Unmount it and try again"
    )]
    Mounted(PathBuf),
    #[error("the engine's program was not found beside coracle ({0}): install Coracle again")]
    EngineMissing(PathBuf),
    #[error("the program coracle-share was not found beside coracle ({0}): install Coracle again")]
    ShareMissing(PathBuf),
    #[error("the folder {0} could not be shared with the machine: {1}")]
    Share(PathBuf, String),
    #[error(
        "the folder {0} is no longer shared with the machine: coracle-share has died{said}. Containers that use it wait; `coracle restart` brings it back",
        said = if .1.is_empty() { String::new() } else { format!(" ({})", .1) }
    )]
    ShareLost(PathBuf, String),
    #[error("{0}")]
    Setting(String),
    #[error("the machine is not running: `coracle start` starts it")]
    NotRunning,
    #[error("the machine is {0}: wait until that is done")]
    Busy(&'static str),
    #[error("the daemon: {0}")]
    Daemon(String),
    #[error(transparent)]
    Link(#[from] link::LinkError),
    /// As the daemon said it.
    #[error("{message}")]
    Remote { code: String, message: String },
}

impl HostError {
    /// For `map_err`: what was tried on which path.
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// A word for programs.
    pub fn code(&self) -> &str {
        match self {
            Self::Io { .. } => "io",
            Self::PathTooLong { .. } => "path_too_long",
            Self::NoHome => "no_home",
            Self::Locked(_) => "locked",
            Self::Image(_) => "image",
            Self::QemuMissing(_) => "qemu_missing",
            Self::QemuOld { .. } => "qemu_old",
            Self::QemuDied(_) => "qemu_died",
            Self::VfkitMissing(kind, _) => kind.codes[0],
            Self::VfkitDied(kind, _) => kind.codes[1],
            Self::Entitlement(_) => "entitlement",
            Self::VfkitPath(kind, ..) => kind.codes[2],
            Self::ProxyMissing(_) => "gvproxy_missing",
            Self::Network(_) => "network",
            Self::NetworkLost(_) => "network_lost",
            Self::WslMissing(_) => "wsl_missing",
            Self::WslOff(_) => "wsl_off",
            Self::WslOld(_) => "wsl_old",
            Self::WslProcessor(_) => "wsl_processor",
            Self::Wsl { .. } => "wsl",
            Self::WslDied(_) => "wsl_died",
            Self::WslRoot(_) => "wsl_root",
            Self::Panic(_) => "kernel_panic",
            Self::NoAnswer { .. } => "no_answer",
            Self::Version(_) => "version",
            Self::Engine(_) => "engine",
            Self::DiskFull { .. } | Self::StandsStill { .. } => "disk_full",
            Self::Shrink { .. } => "shrink",
            Self::Mounted(_) => "mounted",
            Self::EngineMissing(_) => "engine_missing",
            Self::ShareMissing(_) => "share_missing",
            Self::Share(..) => "share",
            Self::ShareLost(..) => "share_lost",
            Self::Setting(_) => "setting",
            Self::NotRunning => "not_running",
            Self::Busy(_) => "busy",
            Self::Daemon(_) => "daemon",
            Self::Link(error) => error.code(),
            Self::Remote { code, .. } => code,
        }
    }
}
