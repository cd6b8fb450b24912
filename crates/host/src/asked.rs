//! What a guest asks of this computer: the streams that it opens itself. Two kinds are served, each up to a number; others are
//! closed.

use std::sync::Arc;

use link::{LinkError, Session, Stream, header};
use tokio::{sync::Semaphore, task::JoinSet};
use wire::{
    names::MAX_ASKED,
    open::{MAX_LOOPBACK, Open},
};

use crate::{loopback, names::Names};

/// Serves the streams that a guest opens, until the session ends.
pub async fn serve(session: &Session) {
    let served = Arc::new(Served::default());
    // Dropping the set ends the streams with their session.
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            stream = session.accept() => {
                let Ok(stream) = stream else { return };
                let served = served.clone();
                streams.spawn(async move {
                    if let Err(error) = served.stream(stream).await {
                        tracing::debug!("a stream of the guest: {error}");
                    }
                });
            }
            Some(_) = streams.join_next() => {}
        }
    }
}

struct Served {
    names: Names,
    questions: Semaphore,
    connections: Semaphore,
}

impl Default for Served {
    fn default() -> Self {
        Self {
            names: Names::default(),
            questions: Semaphore::new(MAX_ASKED),
            connections: Semaphore::new(MAX_LOOPBACK),
        }
    }
}

impl Served {
    /// Above the limits a stream is dropped, which resets it: the guest asks elsewhere, or is asked again.
    async fn stream(&self, mut stream: Stream) -> Result<(), LinkError> {
        let full = |_| LinkError::Refused("the guest has too many streams of this kind".into());
        match header(&mut stream).await? {
            Open::Names { tcp } => {
                let _place = self.questions.try_acquire().map_err(full)?;
                self.names.answer(stream, tcp).await
            }
            Open::Loopback { proto, port } => {
                let _place = self.connections.try_acquire().map_err(full)?;
                loopback::serve(stream, proto, port).await
            }
            Open::Control | Open::Docker | Open::Tcp { .. } | Open::Udp { .. } | Open::Shell { .. } => {
                Err(LinkError::Refused("a guest may not open a stream of this kind".into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use link::names::{MAX_ANSWER, read_message};
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_guests_stream_of_another_kind_is_closed_and_the_others_go_on() {
        let (host, guest) = tokio::io::duplex(64 << 10);
        let (host, guest) = (Session::host(host), Session::guest(guest));
        tokio::spawn(async move { serve(&host).await });
        let mut wrong = guest.open(&Open::Docker).await.unwrap();
        assert!(read_message(&mut wrong, MAX_ANSWER).await.is_err());
        let mut endless = guest.open(&Open::Names { tcp: false }).await.unwrap();
        endless.write_all(&[0xff; 2]).await.unwrap();
        assert!(read_message(&mut endless, MAX_ANSWER).await.is_err());
    }
}
