//! Docker's socket: bytes between its connections and the engine, not parsed.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use link::{LinkError, Session, Stream, opened};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf, copy_buf},
    sync::Semaphore,
    time::{Instant, timeout},
};
use wire::open::Open;

use crate::{BREATH, machine::Machine, platform};

/// Connections to Docker's socket at once.
const MAX_CONNECTIONS: usize = 1024;
/// Bytes a stream copies at a time, each way: a whole frame.
const COPY: usize = wire::sync::MAX_BODY;
/// How long a connection waits for an engine that is starting.
const ROUTE_LIMIT: Duration = Duration::from_secs(120);

/// The way to the engine.
#[derive(Debug, Clone)]
pub enum Route {
    /// There is none, and none is coming.
    Down,
    /// There is none yet: one is being made.
    Coming,
    /// Over the link.
    Link(Arc<Session>),
    /// A socket of this computer.
    Socket(std::path::PathBuf),
    /// The machine was stopped because nobody used it: whoever comes now starts it.
    Asleep,
}

/// When Docker's socket was used last.
#[derive(Debug, Clone)]
pub struct Used(Arc<Mutex<Instant>>);

impl Used {
    /// Just now.
    pub fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// It is used.
    pub fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// For how long not a byte has passed.
    pub fn silent(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// A client whose bytes count as use. One that waits in silence (for events) does not.
///
/// The end of what it says is passed on as that; when it has gone altogether, reading it fails: then what is said to it is
/// given up as well, and the engine is not left waiting (for a registry, for events) on behalf of nobody.
struct Client(platform::Socket, Used);

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.0).poll_read(cx, buf);
        if read.is_ready() {
            self.1.touch();
        }
        let at_end = matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() == before;
        if at_end && platform::has_left(&self.0) {
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
        }
        read
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.0).poll_write(cx, bytes);
        if written.is_ready() {
            self.1.touch();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Serves Docker's socket for as long as the daemon lives.
pub async fn docker(mut listener: platform::Listener, machine: Machine) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok(client) => {
                let machine = machine.clone();
                tokio::spawn(async move {
                    if let Err(error) = connection(client, &machine).await {
                        tracing::debug!("a connection to docker's socket: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("docker's socket: {error}");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

async fn connection(client: platform::Socket, machine: &Machine) -> Result<(), LinkError> {
    let mut client = Client(client, machine.used());
    client.1.touch();
    let mut route = machine.route();
    loop {
        let ready = timeout(ROUTE_LIMIT, route.wait_for(|r| !matches!(r, Route::Coming)));
        let found = ready.await.map_err(|_| LinkError::NoAnswer)?.map_err(|_| LinkError::Closed)?.clone();
        match found {
            Route::Link(session) => return join(client, session.open(&Open::Docker).await?).await,
            Route::Socket(path) => {
                let mut engine = platform::connect(&path).await?;
                tokio::io::copy_bidirectional_with_sizes(&mut client, &mut engine, COPY, COPY).await?;
                return Ok(());
            }
            // Why it could not be started is in its status.
            Route::Asleep => machine.start().await.map_err(|_| LinkError::Closed)?,
            Route::Down | Route::Coming => return Err(LinkError::Closed),
        }
    }
}

/// Passes bytes both ways between a client and a stream just opened. What the client sends goes out at once; an end of
/// file passes each way by itself.
pub async fn join(client: impl AsyncRead + AsyncWrite, stream: Stream) -> Result<(), LinkError> {
    let (from_client, mut to_client) = tokio::io::split(client);
    let (mut from_guest, mut to_guest) = tokio::io::split(stream);
    let up = async {
        copy_buf(&mut BufReader::with_capacity(COPY, from_client), &mut to_guest).await?;
        to_guest.shutdown().await?;
        Ok::<_, LinkError>(())
    };
    let down = async {
        opened(&mut from_guest).await?;
        copy_buf(&mut BufReader::with_capacity(COPY, from_guest), &mut to_client).await?;
        to_client.shutdown().await?;
        Ok::<_, LinkError>(())
    };
    tokio::try_join!(up, down).map(|_| ())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn an_end_is_passed_on_and_a_client_that_has_gone_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let place = platform::endpoint(folder.path(), "docker");
        std::fs::create_dir(folder.path().join("run")).unwrap();
        let mut listener = platform::bind_private(&place).unwrap();
        let (client, server) = tokio::join!(platform::connect(&place), listener.accept());
        let (mut client, mut server) = (client.unwrap(), Client(server.unwrap(), Used::now()));
        client.write_all(b"word").await.unwrap();
        client.shutdown().await.unwrap();
        let mut said = Vec::new();
        server.read_to_end(&mut said).await.unwrap();
        server.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).await.unwrap();
        drop(client);
        let gone = server.read(&mut [0]).await.unwrap_err();
        assert_eq!((said.as_slice(), gone.kind()), (&b"word"[..], std::io::ErrorKind::ConnectionReset));
    }
}
