//! The side that calls.

use std::time::Duration;

use bytes::Bytes;
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use hyper::{Method, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use super::{Code, Messages, Outgoing, QUEUE, Status, WINDOWS, frame, gone};

/// How long the other side of a session may be silent, and how long it then has to answer a ping.
const ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));

/// A connection on which calls are made; clones share it.
#[derive(Clone)]
pub struct Channel {
    sender: http2::SendRequest<Outgoing>,
    closed: watch::Receiver<bool>,
}

impl Channel {
    /// Greets the server at the other end of `io`.
    ///
    /// # Errors
    /// When it speaks no HTTP/2.
    pub async fn open(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Self, Status> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .keep_alive_interval(ALIVE.0)
            .keep_alive_timeout(ALIVE.1)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|e| gone(&e))?;
        let (tell, closed) = watch::channel(false);
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!("session ended: {e}");
            }
            tell.send_replace(true);
        });
        Ok(Self { sender, closed })
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// One message there, one back.
    ///
    /// # Errors
    /// The other side's status; that it is gone.
    pub async fn unary<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        question: &Q,
    ) -> Result<A, Status> {
        let (sender, answers) = self.stream(path, &[]);
        sender.send(question).await?;
        drop(sender);
        let mut answers = answers.await?;
        let none = || Status::new(Code::Internal, format!("{path} was answered by nothing"));
        let answer = answers.next().await?.ok_or_else(none)?;
        while answers.next_bytes().await?.is_some() {}
        Ok(answer)
    }

    /// Messages both ways; `metadata` goes before them. The answers can be awaited once the other side has begun to
    /// answer, which it may do only after it has been sent something.
    pub fn stream(
        &self,
        path: &str,
        metadata: &[(String, String)],
    ) -> (Sender, impl Future<Output = Result<Messages, Status>> + Send + use<>) {
        let (tx, rx) = mpsc::channel(QUEUE);
        let mut request = hyper::Request::new(Outgoing { messages: rx, trailers: false });
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        let uri = format!("http://session{path}");
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let mut refused = None;
        for (name, value) in metadata {
            match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                (Ok(name), Ok(value)) => {
                    headers.append(name, value);
                }
                _ => refused = Some(format!("{name} cannot be sent")),
            }
        }
        match uri.parse() {
            Ok(uri) => *request.uri_mut() = uri,
            Err(e) => refused = Some(format!("{path}: {e}")),
        }
        let mut sender = self.sender.clone();
        let answers = async move {
            if let Some(why) = refused {
                return Err(Status::new(Code::InvalidArgument, why));
            }
            sender.ready().await.map_err(|e| gone(&e))?;
            let response = sender.send_request(request).await.map_err(|e| gone(&e))?;
            if response.status() != StatusCode::OK {
                let words = format!("the session answered {}", response.status());
                return Err(Status::new(Code::Unavailable, words));
            }
            // An answer without a body has its status in its head.
            if response.headers().contains_key("grpc-status")
                && let Some(status) = Status::from_trailers(response.headers())
            {
                return Err(status);
            }
            Ok(Messages::new(response.into_body(), true))
        };
        // The request must be on its way before the first answer is asked for.
        let answers = tokio::spawn(answers);
        let answers = async move { answers.await.unwrap_or_else(|e| Err(gone(&e))) };
        (Sender(tx), answers)
    }
}

/// Sends messages of a stream; dropping it says that these were all.
#[derive(Clone)]
pub struct Sender(mpsc::Sender<Result<Bytes, Status>>);

impl Sender {
    /// Sends one, once there is room.
    ///
    /// # Errors
    /// When the stream has ended.
    pub async fn send(&self, message: &impl Message) -> Result<(), Status> {
        let ended = |_| Status::new(Code::Unavailable, "the other side does not listen any more");
        self.0.send(Ok(frame(message))).await.map_err(ended)
    }
}
