//! The side that answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{HeaderMap, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::{Code, Messages, Outgoing, QUEUE, Status, WINDOWS, frame};

/// Most calls at once on one connection.
const CALLS: u32 = 256;

/// A call that came in.
pub struct Request {
    /// `/package.Service/Method`.
    pub path: String,
    /// What went before its messages.
    pub metadata: HeaderMap,
    /// Its messages.
    pub messages: Messages,
}

impl Request {
    /// The one message of a call that has one.
    ///
    /// # Errors
    /// When there is none, or it is malformed.
    pub async fn message<M: Message + Default>(&mut self) -> Result<M, Status> {
        let none = || Status::new(Code::InvalidArgument, "the call has no message");
        self.messages.next().await?.ok_or_else(none)
    }

    /// A value of the metadata.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.metadata.get(name)?.to_str().ok()
    }
}

/// What a call is answered with.
pub struct Answer(Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>);

impl Answer {
    /// One message.
    pub fn one(message: &impl Message) -> Self {
        Self(Box::pin(futures_util::stream::iter([Ok(frame(message))])))
    }

    /// Messages as they are made; an error ends them.
    pub fn stream<M: Message + 'static>(
        messages: impl Stream<Item = Result<M, Status>> + Send + 'static,
    ) -> Self {
        Self(Box::pin(messages.map(|m| m.map(|m| frame(&m)))))
    }
}

/// Answers calls.
pub trait Service: Send + Sync + 'static {
    /// Answers one; dropped when the client gives it up.
    fn call(
        self: Arc<Self>,
        request: Request,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, Status>> + Send>>;
}

/// Serves one connection until it ends.
pub async fn serve(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, service: Arc<dyn Service>) {
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(respond(service, request).await) }
    });
    let done = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(CALLS)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .serve_connection(TokioIo::new(io), answer)
        .await;
    // A client that only looks whether the engine serves gRPC closes before it says anything.
    if let Err(e) = done {
        tracing::debug!("gRPC connection ended: {e}");
    }
}

/// The content type of gRPC, or of a form of it: `application/grpc+proto`.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let rest = kind.and_then(|kind| kind.strip_prefix("application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}

/// The answer to what is no gRPC, with the status that gRPC has for it, and in the form of Docker's errors.
fn refusal() -> Response<Outgoing> {
    let (tx, rx) = mpsc::channel(1);
    // There is room for one.
    let _ = tx.try_send(Ok(Bytes::from_static(b"{\"message\":\"over HTTP/2 only gRPC is served\"}\n")));
    let mut response = Response::new(Outgoing { messages: rx, trailers: false });
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn respond(service: Arc<dyn Service>, request: hyper::Request<Incoming>) -> Response<Outgoing> {
    let (parts, body) = request.into_parts();
    if !is_grpc(&parts.headers) {
        return refusal();
    }
    let request = Request {
        path: parts.uri.path().to_owned(),
        metadata: parts.headers,
        messages: Messages::new(body, false),
    };
    let (tx, rx) = mpsc::channel(QUEUE);
    let path = request.path.clone();
    // In a task of its own, so that the head goes out at once; it ends with the client, whose end closes `rx`.
    tokio::spawn(async move {
        let gone = tx.clone();
        let work = async {
            match service.call(request).await {
                Ok(mut answer) => {
                    while let Some(message) = answer.0.next().await {
                        if let Err(status) = &message {
                            tracing::debug!("{path}: {status}");
                        }
                        let last = message.is_err();
                        if tx.send(message).await.is_err() || last {
                            break;
                        }
                    }
                }
                Err(status) => {
                    tracing::debug!("{path}: {status}");
                    let _ = tx.send(Err(status)).await;
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = gone.closed() => {}
        }
    });
    let mut response = Response::new(Outgoing { messages: rx, trailers: true });
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
