//! Entering a network namespace, and running `nft`: the only places here that change a thread or spawn.

use std::fs::File;
use std::path::Path;

use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use tokio::io::AsyncWriteExt;

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
