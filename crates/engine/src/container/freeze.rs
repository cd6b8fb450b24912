//! Containers that stand still while their files are read: for `commit`, and for snapshots of volumes.

use super::{Command, Handle, Status};
use crate::error::Result;

/// Containers that were frozen here. [`Self::thaw`] must follow, whatever happens between.
#[must_use = "they stay frozen until they are thawed"]
pub struct Frozen(Vec<Handle>);

impl Frozen {
    /// Freezes those that run; those that a person froze already are left alone, then and later. When one can't be
    /// frozen, none is.
    pub async fn new(containers: impl IntoIterator<Item = Handle>) -> Result<Self> {
        let mut frozen = Self(Vec::new());
        for handle in containers {
            if !matches!(handle.view().status, Status::Running { paused: false, .. }) {
                continue;
            }
            let paused =
                handle.ask(|reply| Command::Pause { pause: true, reply }).await.and_then(|done| done);
            // One that ended meanwhile writes nothing.
            if paused.is_ok() {
                frozen.0.push(handle);
            } else if let Err(e) = paused
                && matches!(handle.view().status, Status::Running { paused: false, .. })
            {
                frozen.thaw().await;
                return Err(e);
            }
        }
        Ok(frozen)
    }

    /// Lets them go on.
    pub async fn thaw(self) {
        for handle in self.0 {
            // A container that ended meanwhile cannot be unpaused, and need not be.
            let done = handle.ask(|reply| Command::Pause { pause: false, reply }).await;
            if let Err(e) = done.and_then(|done| done) {
                tracing::debug!("{} goes on by itself: {e}", handle.view().record.name);
            }
        }
    }
}
