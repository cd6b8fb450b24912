//! Entering a network namespace, and running `nft`: the only places here that change a thread or spawn.

use std::fs::File;
use std::path::Path;

use netlink_sys::Socket;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use tokio::io::AsyncWriteExt;
use tokio::io::unix::AsyncFd;

use crate::error::{Code, Error, Result};

/// Runs `work` on a thread of its own that has entered the namespace at `netns`; the thread ends with it, so no
/// other work ever runs in there.
pub(crate) async fn in_netns<T: Send + 'static>(
    netns: &Path,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let netns = netns.to_owned();
    let (tx, rx) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("netns".into())
        .stack_size(256 * 1024)
        .spawn(move || {
            let result = File::open(&netns)
                .and_then(|ns| {
                    use std::os::fd::AsFd;
                    move_into_thread_name_spaces(ns.as_fd(), ThreadNameSpaceType::NETWORK).map_err(Into::into)
                })
                .map_err(|e| Error::io(&format!("enter network namespace {}", netns.display()), &e))
                .and_then(|()| work());
            // The one that asked may have gone away.
            let _ = tx.send(result);
        })
        .map_err(|e| Error::io("start a thread", &e))?;
    rx.await.map_err(|_| Error::new(Code::Internal, "the network thread died"))?
}

/// A netlink socket that can be waited for.
#[allow(unsafe_code)]
pub(crate) fn watchable(socket: Socket) -> Result<AsyncFd<Socket>> {
    // SAFETY: the socket owns its descriptor, always answers that one and closes it when it is dropped, which the
    // value made here does after it has let go of it.
    let watched = unsafe { AsyncFd::register(socket) };
    watched.map_err(|e| Error::new(Code::Internal, format!("watch a netlink socket: {e}")))
}

/// Whether nftables has an `inet` table of that name.
pub(crate) async fn nft_has_table(name: &str) -> Result<bool> {
    let status = tokio::process::Command::new("nft")
        .args(["list", "chains", "inet", name])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .status()
        .await;
    match status {
        Ok(status) => Ok(status.success()),
        // Without the program nothing was ever made.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("run nft", &e)),
    }
}

/// Feeds `rules` to `nft -f -`: one atomic transaction.
pub(crate) async fn nft(rules: &str) -> Result<()> {
    let mut child = tokio::process::Command::new("nft")
        .args(["-f", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new(Code::Internal, "nft is not installed: bridge networks need the nftables package")
            }
            _ => Error::io("run nft", &e),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).await.map_err(|e| Error::io("write to nft", &e))?;
    }
    let out = child.wait_with_output().await.map_err(|e| Error::io("wait for nft", &e))?;
    if out.status.success() {
        return Ok(());
    }
    Err(Error::new(Code::Internal, format!("nft refused: {}", String::from_utf8_lossy(&out.stderr).trim())))
}
