//! Folders of the host in the guest, by virtio-fs: virtiofsd's file system with ownership of our own.
//!
//! ```text
//!  container -> guest kernel (virtiofs) ==vhost-user== Owned -> virtiofsd's PassthroughFs -> the host's files
//!               checks permissions                     owner, mode: a user xattr beside them
//! ```
//! The program runs as the user whose folder it is: every file belongs to that user on the host, whoever makes it in
//! the guest. What containers say about owners and modes is remembered per file and shown to them again ([`owner`]),
//! so that `chown` sticks, a database finds its folder owned by its own user, and nothing on the host is ever owned
//! by a number that the host does not know. What the host changes is told to whoever connects to the second socket
//! ([`changes`]), so that the guest can raise events for it. It ends when the hypervisor closes the connection.
#![cfg(target_os = "linux")]

mod changes;
mod file_system;
pub mod owner;
mod requests;

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::passthrough::{CachePolicy, Config, PassthroughFs};
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// Threads that serve requests of one share.
const THREADS: usize = 4;
/// Seconds the guest may believe what it knows of a file: changes on the host show after that at the latest.
const BELIEF: std::time::Duration = std::time::Duration::from_secs(1);
/// Which part of the open files may be watched folders.
const FOLDERS_SHARE: u64 = 4;
/// Open files this program keeps for itself; the rest is the guest's.
const OWN_FILES: u64 = 512;

#[derive(Parser)]
#[command(name = "coracle-share", about = "Give a folder to the guest", version)]
struct Arguments {
    /// Socket on which the hypervisor connects
    #[arg(long)]
    socket: PathBuf,
    /// Socket on which changes of the host are told
    #[arg(long)]
    changes: PathBuf,
    /// Socket on which the guest's requests are counted to whoever connects
    #[arg(long)]
    requests: Option<PathBuf>,
    /// The folder
    #[arg(long)]
    folder: PathBuf,
}

/// The program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coracle-share: {}: {error}", arguments.folder.display());
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let folder = arguments.folder.canonicalize()?;
    if !folder.is_dir() {
        return Err("not a folder".into());
    }
    let files = virtiofsd::limits::setup_rlimit_nofile(None)?;
    // A watched folder is an open file.
    let folders = changes::MAX_FOLDERS.min(usize::try_from(files / FOLDERS_SHARE)?);
    let watch = Arc::new(changes::Watch::new(&folder, file_system::ROOT, folders)?);
    let _ = std::fs::remove_file(&arguments.changes); // of an earlier one
    watch.clone().serve(UnixListener::bind(&arguments.changes)?);
    let requests = Arc::new(requests::Requests::default());
    if let Some(socket) = &arguments.requests {
        let _ = std::fs::remove_file(socket); // of an earlier one
        requests.clone().serve(UnixListener::bind(socket)?)?;
    }
    let closing_tells = file_system::tells_when_closed(&folder)?;
    let root_dir = folder.into_os_string().into_string().map_err(|_| "its path is not UTF-8")?;
    // Bound before the hypervisor is started: it connects once. The path is the controller's to remove: by the time
    // this one ends, another may have bound it anew.
    let mut listener = Listener::from(UnixListener::bind(&arguments.socket)?);
    let inner = PassthroughFs::new(Config {
        root_dir,
        xattr: true,
        killpriv_v2: true,
        cache_policy: CachePolicy::Auto,
        entry_timeout: BELIEF,
        attr_timeout: BELIEF,
        // Another file system below the folder is another device in the guest: inode numbers stay unique.
        announce_submounts: true,
        guest_fd_limit: files.saturating_sub(OWN_FILES + folders as u64),
        ..Config::default()
    })?;
    let backend = VhostUserFsBackendBuilder::default()
        .set_thread_pool_size(THREADS)
        .build(file_system::Owned::new(inner, watch, requests, closing_tells))
        .map_err(|e| e.to_string())?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("coracle-share".into(), Arc::new(backend), memory)
        .map_err(|e| format!("{e:?}"))?;
    daemon.start(&mut listener).map_err(|e| format!("{e:?}"))?;
    match daemon.wait() {
        Ok(()) | Err(vhost_user_backend::Error::HandleRequest(vhost::vhost_user::Error::Disconnected)) => {
            Ok(())
        }
        Err(e) => Err(format!("{e:?}").into()),
    }
}
