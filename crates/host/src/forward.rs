//! Docker's socket: bytes between its connections and the engine, not parsed.

use std::{sync::Arc, time::Duration};

use link::{LinkError, Session, Stream, opened};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf},
    sync::{Semaphore, watch},
    time::timeout,
};
use wire::open::Open;

use crate::platform;

/// Connections to Docker's socket at once.
const MAX_CONNECTIONS: usize = 1024;
/// Bytes a stream copies at a time, each way.
const COPY: usize = 64 * 1024;
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
}

/// Serves Docker's socket for as long as the daemon lives.
pub async fn docker(mut listener: platform::Listener, route: watch::Receiver<Route>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok(client) => {
                let route = route.clone();
                tokio::spawn(async move {
                    if let Err(error) = connection(client, route).await {
                        tracing::debug!("a connection to docker's socket: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("docker's socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await; // out of descriptors: give some time to close
            }
        }
    }
}

async fn connection(client: platform::Socket, mut route: watch::Receiver<Route>) -> Result<(), LinkError> {
    let ready = timeout(ROUTE_LIMIT, route.wait_for(|r| !matches!(r, Route::Coming)));
    let route = ready.await.map_err(|_| LinkError::NoAnswer)?.map_err(|_| LinkError::Closed)?.clone();
    match route {
        Route::Link(session) => join(client, session.open(&Open::Docker).await?).await,
        Route::Socket(path) => {
            let (mut client, mut engine) = (client, platform::connect(&path).await?);
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut engine, COPY, COPY).await?;
            Ok(())
        }
        Route::Down | Route::Coming => Err(LinkError::Closed),
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
