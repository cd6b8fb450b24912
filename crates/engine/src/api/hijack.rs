//! One connection: HTTP/1 until a handler takes it over.
//!
//! Docker "hijacks" connections for attach and exec: after the response's head both ends speak raw bytes, with
//! `101 Switching Protocols` when the client asked for an upgrade and with `200 OK` when it did not. hyper can
//! only upgrade on 101, so both go one way: a handler answers with a hijack; the service hands the head and the
//! handler to the connection's driver and never resolves; the driver gives up HTTP, writes the head raw and runs
//! the handler on the io with what was already read.
//!
//! ```text
//!   serving --(hijack sent by the service)--> head written --> handler owns the io --> closed
//!      |`---(peer asks for no keep-alive, or closes between two requests)------------> closed
//!       `---(peer closes while an answer's body is on its way)-----------------------> closed
//! ```
//!
//! A handler is never cut off by its client: what it has begun it ends. The few that wait before they answer (a pull, whose
//! registry says nothing) watch [`Left`] themselves.

use std::io::Cursor;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use super::listen::Io;
use super::presence::{Left, hang_up};
use super::reply::{Body, OnHijack};

/// How long a client may take to read the head before the stream's first bytes follow it, and how often is looked: the
/// kernel tells nobody.
const HEAD: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(1));

/// Connections shorter than this are not watched for their client's leaving: most are.
const SHORT: Duration = Duration::from_millis(100);

/// The raw connection: first what HTTP had already read, then the socket.
pub struct Hijacked {
    early: Cursor<Bytes>,
    io: Io,
    /// Until when the head may be unread, and the pause before the next look; `None` once it was read.
    head: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Hijacked {
    /// Ready once the client has read the head. docker-py takes whatever arrives together with it for the head's, and
    /// loses it.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some((deadline, pause)) = &mut self.head {
            if !self.io.unread() || Instant::now() >= *deadline {
                self.head = None;
                break;
            }
            ready!(pause.as_mut().poll(cx));
            pause.as_mut().reset(Instant::now() + HEAD.1);
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Hijacked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        let pos = usize::try_from(this.early.position()).unwrap_or(usize::MAX);
        if let Some(rest) = this.early.get_ref().get(pos..).filter(|r| !r.is_empty()) {
            let n = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..n]);
            this.early.set_position((pos + n) as u64);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Hijacked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        ready!(self.poll_head(cx));
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// What the service answers: a response, or the connection's end as HTTP.
pub enum Answer {
    /// An ordinary response.
    Response(Response<Body>),
    /// The connection goes to this handler, after this head was written.
    Hijack {
        /// The answer's head: [`head`] or [`websocket_head`].
        head: Vec<u8>,
        /// What runs on the raw connection.
        run: OnHijack,
    },
}

/// Serves one connection until it ends.
pub async fn serve<F, Fut>(io: Io, service: F)
where
    F: Fn(Request<Incoming>) -> Fut + Unpin,
    Fut: Future<Output = Answer>,
{
    let (tx, mut rx) = mpsc::channel::<(Vec<u8>, OnHijack)>(1);
    let (left, answered) = (Left::default(), Arc::new(AtomicBool::new(false)));
    let socket = io.telling();
    let (its_left, its_answered) = (left.clone(), answered.clone());
    let service = service_fn(move |mut req: Request<Incoming>| {
        its_answered.store(false, Ordering::Relaxed);
        req.extensions_mut().insert(its_left.clone());
        let answer = service(req);
        let (tx, answered) = (tx.clone(), its_answered.clone());
        // Boxed: the connection has to be Unpin to be taken apart.
        Box::pin(async move {
            match answer.await {
                Answer::Response(r) => {
                    answered.store(true, Ordering::Relaxed);
                    Ok::<_, std::convert::Infallible>(r)
                }
                Answer::Hijack { head, run } => {
                    // The driver drops this future with the HTTP connection: it never has to resolve.
                    if tx.send((head, run)).await.is_err() {
                        tracing::debug!("connection went away before its hijack");
                    }
                    std::future::pending().await
                }
            }
        })
    });
    let mut conn = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(io), service);
    // What watches goes before the handler has the connection: it holds the socket once more.
    let (head, run) = {
        let mut gone = std::pin::pin!(async {
            tokio::time::sleep(SHORT).await;
            hang_up(socket).await;
        });
        loop {
            tokio::select! {
                biased;
                Some(hijack) = rx.recv() => break hijack,
                end = std::future::poll_fn(|cx| conn.poll_without_shutdown(cx)) => {
                    if let Err(e) = end {
                        tracing::debug!("connection ended: {e}");
                    }
                    let mut io = conn.into_parts().io.into_inner();
                    if let Err(e) = io.shutdown().await {
                        tracing::debug!("connection already closed: {e}");
                    }
                    return;
                }
                () = &mut gone, if !left.is_told() => {
                    left.tell();
                    if answered.load(Ordering::Relaxed) {
                        return tracing::debug!("a client left its answer");
                    }
                }
            }
        }
    };
    let parts = conn.into_parts();
    let mut io = parts.io.into_inner();
    if io.write_all(&head).await.is_ok() {
        let now = Instant::now();
        let head = Some((now + HEAD.0, Box::pin(tokio::time::sleep_until(now + HEAD.1))));
        run(Hijacked { early: Cursor::new(parts.read_buf), io, head }).await;
    }
}

/// The head before a stream of this media type; `upgrade`: whether the client sent `Connection: Upgrade`.
pub fn head(content_type: &str, upgrade: bool) -> Vec<u8> {
    // No content-length: curl would stop and docker-py would lose its first frame.
    if upgrade {
        format!("HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
    } else {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n")
    }
    .into_bytes()
}

/// The head before HTTP/2 (RFC 7540, 3.2, as BuildKit's clients ask for it).
pub fn h2c_head() -> Vec<u8> {
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n".to_vec()
}

/// The head before a WebSocket's frames (RFC 6455, 4.2.2); `accept` answers the client's key.
pub fn websocket_head(accept: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes()
}
