//! A session: one driver task owns the multiplexer, handles ask it for streams.

use std::{collections::VecDeque, future::poll_fn, task::Poll};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Mutex, mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::compat::FuturesAsyncReadCompatExt;
use wire::open::{Open, Opened};

use crate::{
    ACCEPT_BACKLOG, HEADER_LIMIT, LinkError, MAX_STREAMS, WINDOW_GROWTH, gathered::Gathered, read_frame,
    write_frame,
};

/// Requests for streams waiting for the driver.
const OPEN_QUEUE: usize = 64;
/// What yamux gives every stream at first.
const FIRST_WINDOW: usize = yamux::DEFAULT_CREDIT as usize;

type Reply = oneshot::Sender<Result<yamux::Stream, LinkError>>;

/// One stream of a session.
pub type Stream = tokio_util::compat::Compat<yamux::Stream>;

/// One end of a link in step. Dropping it ends the session.
#[derive(Debug)]
pub struct Session {
    open: mpsc::Sender<Reply>,
    incoming: Mutex<mpsc::Receiver<yamux::Stream>>,
    driver: JoinHandle<()>,
}

impl Session {
    /// The host's end.
    pub fn host(channel: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self::start(channel, yamux::Mode::Client)
    }

    /// The guest's end.
    pub fn guest(channel: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self::start(channel, yamux::Mode::Server)
    }

    fn start(channel: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, mode: yamux::Mode) -> Self {
        let mut config = yamux::Config::default();
        config
            .set_max_connection_receive_window(Some(MAX_STREAMS * FIRST_WINDOW + WINDOW_GROWTH))
            .set_max_num_streams(MAX_STREAMS)
            .set_split_send_size(wire::sync::MAX_BODY);
        let channel = Gathered::new(channel);
        let connection = yamux::Connection::new(channel.clone(), config, mode);
        let (open, requests) = mpsc::channel(OPEN_QUEUE);
        let (accepted, incoming) = mpsc::channel(ACCEPT_BACKLOG);
        let driver = tokio::spawn(drive(connection, channel, requests, accepted));
        Self { open, incoming: Mutex::new(incoming), driver }
    }

    /// Opens a stream. The header is on its way when this returns; [`opened`] tells whether it is served.
    pub async fn open(&self, open: &Open) -> Result<Stream, LinkError> {
        let (reply, stream) = oneshot::channel();
        self.open.send(reply).await.map_err(|_| LinkError::Closed)?;
        let mut stream = stream.await.map_err(|_| LinkError::Closed)??.compat();
        write_frame(&mut stream, open).await?;
        Ok(stream)
    }

    /// The next stream that the peer opens, its header not yet read ([`header`]). [`LinkError::Closed`] at the end.
    pub async fn accept(&self) -> Result<Stream, LinkError> {
        Ok(self.incoming.lock().await.recv().await.ok_or(LinkError::Closed)?.compat())
    }

    /// Returns when the session is over.
    pub async fn closed(&self) {
        self.open.closed().await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Reads the header of an accepted stream.
pub async fn header(stream: &mut Stream) -> Result<Open, LinkError> {
    tokio::time::timeout(HEADER_LIMIT, read_frame(stream)).await.map_err(|_| LinkError::NoAnswer)?
}

/// Waits for the answer to an [`Open`]: what follows on the stream is the other side's.
pub async fn opened(from: &mut (impl AsyncRead + Unpin)) -> Result<(), LinkError> {
    match read_frame(from).await? {
        Opened::Ok => Ok(()),
        Opened::Failed { message } => Err(LinkError::Refused(message)),
    }
}

/// Polls the connection until it ends or every handle is gone: yamux makes progress only in here.
async fn drive<C>(
    mut connection: yamux::Connection<Gathered<C>>,
    channel: Gathered<C>,
    mut requests: mpsc::Receiver<Reply>,
    accepted: mpsc::Sender<yamux::Stream>,
) where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let mut waiting: VecDeque<Reply> = VecDeque::new();
    let end = poll_fn(|cx| {
        loop {
            while waiting.len() < OPEN_QUEUE {
                match requests.poll_recv(cx) {
                    Poll::Ready(Some(reply)) => waiting.push_back(reply),
                    Poll::Ready(None) => return Poll::Ready(None),
                    Poll::Pending => break,
                }
            }
            waiting.retain(|reply| !reply.is_closed());
            let mut progress = false;
            if !waiting.is_empty() {
                match connection.poll_new_outbound(cx) {
                    Poll::Ready(Ok(stream)) => {
                        // A request that was dropped meanwhile drops the stream, which closes it.
                        let _ = waiting.pop_front().expect("not empty").send(Ok(stream));
                        progress = true;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Some(error)),
                    Poll::Pending => {}
                }
            }
            match connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    // A full backlog drops the stream, which resets it: the peer sees a refusal, not a stall.
                    if accepted.try_send(stream).is_err() {
                        tracing::warn!(
                            "more than {ACCEPT_BACKLOG} streams wait to be accepted: one was dropped"
                        );
                    }
                    progress = true;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(error)),
                Poll::Ready(None) => return Poll::Ready(Some(yamux::ConnectionError::Closed)),
                Poll::Pending => {}
            }
            if progress {
                continue;
            }
            // Nothing more comes to be sent by itself: now it goes, as one.
            match channel.poll_send(cx) {
                Poll::Ready(Ok(false)) | Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Some(error.into())),
            }
        }
    })
    .await;
    match end {
        Some(error) => tracing::debug!("the link's session ended: {error}"),
        None => {
            let _ = poll_fn(|cx| connection.poll_close(cx)).await;
        }
    }
}
