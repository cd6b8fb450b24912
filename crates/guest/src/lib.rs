//! The guest's PID 1: it boots, looks after the data disk, supervises the engine and serves the link.
//!
//! ```text
//!  kernel --> /init (this program, in the initrd): modules of the root device, mounts the root
//!    `exec--> this program in the root:
//!               mounts, kernel settings          boot
//!               modules, and /sbin/modprobe      modules
//!               other processors' programs       binfmt
//!               network                          network, dhcp
//!               data disk: check, make, grow     disk
//!               engine: start, watch, restart    engine   --spawns--> coracle-engine
//!               link: control, docker, tcp ...   serve    <--streams-- host
//!               ports socket                     ports    <--frames--- coracle-engine
//!               the host's changes, repeated     echo
//!               names, asked of the host         names
//!               the host's loopback, likewise    loopback
//!               orphans                          reaper
//! ```
//!
//! It knows no containers, images or HTTP. A failure after the root is mounted never ends it: the link is served and
//! says in words what failed. A failure before panics the kernel on purpose, with the reason on the console.
//!
//! On a Linux that is somebody else's (a distribution of WSL2) it makes namespaces and is PID 1 in them: [`hosted`].
//!
//! Boot arguments: `coracle.root=DEV coracle.data=DEV coracle.net=ADDR/LEN,GATEWAY,DNS` (or `dhcp`, or none: no network)
//! `coracle.link=serial` (or `vsock:PORT`, `unix:PATH`) `coracle.share=TAG,PATH` `coracle.host=ADDR` (where that isn't the
//! gateway) `coracle.loopback=link` (it leads to the host's loopback).

mod binfmt;
mod boot;
mod cmdline;
mod dhcp;
mod disk;
mod echo;
mod engine;
pub mod hosted;
mod idle;
mod last_words;
mod loopback;
mod modules;
mod names;
mod network;
mod ports;
mod reaper;
mod serve;
mod setup;
mod shutdown;
mod sys;

use std::process::ExitCode;

/// The release of this build.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");
/// Commit and dirty flag of this build.
pub const BUILD: &str = env!("CORACLE_BUILD");
/// First argument of the PID 1 that runs in the root (without it: in the initrd).
pub const IN_ROOT: &str = "in-root";
/// Out of descriptors: how long others have to give some back before the next connection is taken.
const BREATH: std::time::Duration = std::time::Duration::from_millis(100);

/// What goes wrong in the guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A step on a path failed.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried, e.g. `mounting`.
        what: &'static str,
        /// On what.
        path: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The data disk holds something that is no file system of ours.
    #[error("the data disk {0} holds something that is no ext4 file system; it was left as it is")]
    ForeignDisk(String),
    /// The data disk's file system is damaged beyond what is repaired without asking.
    #[error("the data disk is damaged and was left as it is; e2fsck says: {0}")]
    DamagedDisk(String),
    /// A program failed.
    #[error("{program} failed: {message}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it said.
        message: String,
    },
    /// A boot argument or a module's index is no good.
    #[error("{0}")]
    Invalid(String),
}

impl GuestError {
    fn io(what: &'static str, path: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// A word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::ForeignDisk(_) => "disk_foreign",
            Self::DamagedDisk(_) => "disk_damaged",
            Self::Program { .. } => "program",
            Self::Invalid(_) => "invalid",
        }
    }
}

/// A line on the console.
fn say(text: impl std::fmt::Display) {
    eprintln!("coracle-guest: {text}");
}

/// PID 1 in the initrd: mounts the root and goes on there.
pub fn initrd() -> ExitCode {
    let error = match boot::initrd() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    say(format_args!("the guest can't boot: {error}"));
    ExitCode::FAILURE // PID 1 that ends is a kernel panic: the host hears of it
}

/// PID 1 in the root: boots and serves until it is told to stop. `words`: the boot arguments of a hosted one.
pub fn init(words: Option<&[String]>) -> ExitCode {
    let arguments = boot::root(words.map(|words| words.join(" ")).as_deref());
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(serve::MAX_WORKERS));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(error) => say(format_args!("the guest can't run: {error}")),
    }
    ExitCode::FAILURE
}

/// `/sbin/modprobe`, as the kernel calls it.
pub fn modprobe(args: impl Iterator<Item = String>) -> ExitCode {
    modules::modprobe(args)
}

async fn run(arguments: cmdline::Arguments) {
    let reaper = reaper::Reaper::start();
    let ports = ports::Relay::default();
    let (stop, stopping) = tokio::sync::mpsc::channel(1);
    let echo = echo::Echo::start(arguments.shares.clone());
    let names = names::Names::default();
    let loopback = loopback::Loopback::default();
    let booted = tokio::task::spawn_blocking({
        let (arguments, echo, names, loopback) =
            (arguments.clone(), echo.clone(), names.clone(), loopback.clone());
        let runtime = tokio::runtime::Handle::current();
        boot::link_driver(&arguments.link);
        move || {
            let keep = |lease| drop(runtime.spawn(network::keep(lease, names.clone())));
            let booted = boot::services(&arguments, &names, &loopback, keep);
            runtime.spawn(names.clone().serve());
            runtime.spawn(loopback.serve());
            if !arguments.is_hosted() {
                echo.meet_shares();
            }
            booted
        }
    });
    let engine = engine::Engine::start(reaper.clone(), booted, arguments.clone());
    tokio::spawn(ports.clone().serve());
    let data = arguments.data.clone();
    let served = serve::Served { engine: engine.clone(), ports, echo, names, loopback, data, stop, reaper };
    let link = tokio::spawn(served.link(arguments.link));
    let grace = shutdown::wait(stopping).await;
    // The link stays up while the engine stops, so that the host sees it.
    shutdown::run(&engine, grace).await;
    link.abort();
}
