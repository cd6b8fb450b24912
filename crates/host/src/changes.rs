//! What the host changes in the shared folders, passed on from the shares to the guest ([`wire::changes`]). The same
//! connection tells that a share has died: QEMU does not say so, and does not connect to another.

use std::time::Duration;

use link::Frames;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use wire::control::ToGuest;

use crate::{driver::Shared, platform};

/// Pause before a share that has closed its connection is asked again.
const RETRY: Duration = Duration::from_millis(50);

/// Hears the shares; ends when dropped.
pub struct Changes {
    _tasks: JoinSet<()>,
}

impl Changes {
    /// Hears these; `lost` is told of one that has died, and so is the guest.
    pub fn hear(
        shares: Vec<Shared>,
        guest: &mpsc::Sender<ToGuest>,
        lost: impl Fn(Shared) + Clone + Send + Sync + 'static,
    ) -> Self {
        let mut tasks = JoinSet::new();
        for share in shares {
            let (guest, lost) = (guest.clone(), lost.clone());
            tasks.spawn(async move {
                hear(&share, &guest).await;
                let tag = share.tag.clone();
                lost(share);
                // Waits while the guest can't be reached; one that is no more needs no word.
                let _ = guest.send(ToGuest::ShareLost { share: tag }).await;
            });
        }
        Self { _tasks: tasks }
    }
}

/// Hears one until it is no more, or the guest is.
async fn hear(share: &Shared, guest: &mpsc::Sender<ToGuest>) {
    while let Ok(stream) = platform::connect(&share.changes).await {
        let mut frames = Frames::new(stream);
        while let Ok(Some(changes)) = frames.next().await {
            // Waits while the guest can't be reached: the share gathers meanwhile.
            if guest.send(ToGuest::Changed { share: share.tag.clone(), changes }).await.is_err() {
                return;
            }
        }
        sleep(RETRY).await;
    }
}
