//! Requests to the engine, over its socket: one connection each.

use std::path::Path;

use bytes::Bytes;
use host::Home;
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::{Request, Response, body::Incoming, header};
use hyper_util::rt::TokioIo;

use crate::AppError;

/// A request's body.
pub type Body = BoxBody<Bytes, hyper::Error>;

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// A body of bytes.
pub fn body_of(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// Sends a request whose target is the engine's path; the connection lives as long as its answer is read.
pub async fn send(home: &Home, request: Request<Body>) -> Result<Response<Incoming>, AppError> {
    send_to(&home.docker_socket(), request).await
}

/// The same to any engine of this computer.
pub async fn send_to(path: &Path, mut request: Request<Body>) -> Result<Response<Incoming>, AppError> {
    let socket =
        host::connect(path).await.map_err(|e| AppError::Unreachable(format!("{}: {e}", path.display())))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection.with_upgrades());
    request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("docker"));
    Ok(sender.send_request(request).await?)
}

/// The engine's words in the body of an error.
pub async fn refusal(response: Response<Incoming>) -> AppError {
    /// Longer ones aren't errors of Docker's.
    const MOST: usize = 64 * 1024;
    #[derive(serde::Deserialize)]
    struct Words {
        message: String,
    }
    let status = response.status().as_u16();
    let body = http_body_util::Limited::new(response.into_body(), MOST).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let message = match serde_json::from_slice::<Words>(&body) {
        Ok(words) => words.message,
        Err(_) if body.is_empty() => format!("the engine answered {status} without a word"),
        Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
    };
    AppError::Refused { status, message }
}
