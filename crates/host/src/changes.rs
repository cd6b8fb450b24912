//! What the host changes in the shared folders, passed on from the shares to the guest ([`wire::changes`]).

use std::{path::PathBuf, time::Duration};

use link::Frames;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use wire::control::ToGuest;

use crate::platform;

/// Pause before a share that has closed its connection is asked again.
const RETRY: Duration = Duration::from_millis(50);

/// Hears the shares; ends when dropped.
pub struct Changes {
    _tasks: JoinSet<()>,
}

impl Changes {
    /// Hears those that tell at these sockets, each with its tag.
    pub fn hear(shares: Vec<(String, PathBuf)>, guest: &mpsc::Sender<ToGuest>) -> Self {
        let mut tasks = JoinSet::new();
        for (tag, socket) in shares {
            tasks.spawn(hear(tag, socket, guest.clone()));
        }
        Self { _tasks: tasks }
    }
}

/// Hears one, until it has ended: it is not started again before the machine is.
async fn hear(tag: String, socket: PathBuf, guest: mpsc::Sender<ToGuest>) {
    let mut heard = false;
    while let Ok(stream) = platform::connect(&socket).await {
        heard = true;
        let mut frames = Frames::new(stream);
        while let Ok(Some(changes)) = frames.next().await {
            // Waits while the guest can't be reached: the share gathers meanwhile.
            if guest.send(ToGuest::Changed { share: tag.clone(), changes }).await.is_err() {
                return;
            }
        }
        sleep(RETRY).await;
    }
    if heard {
        tracing::warn!("{tag} has ended: whoever uses its folder waits; `coracle restart` brings it back");
    }
}
