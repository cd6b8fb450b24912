//! What a handler gives back, and how it becomes an HTTP response.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::Value;

use crate::error::{Code, Error};

/// The body type of every response.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
/// A response's bytes as they come; an error ends the connection, so that the client sees that it is cut.
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;
/// Runs on the raw connection after the head was sent: gets the io with the bytes already read from it.
pub type OnHijack =
    Box<dyn FnOnce(super::hijack::Hijacked) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// What a handler gives back.
pub enum Reply {
    /// A status without a body.
    Empty(StatusCode),
    /// A JSON document.
    Json(StatusCode, Value),
    /// Plain text.
    Text(String),
    /// A body that is produced while it is read.
    Stream(&'static str, ByteStream),
    /// A body that is produced while it is read, with headers of the handler's own.
    StreamWith(&'static str, Vec<(&'static str, String)>, ByteStream),
    /// The connection itself, from here on not HTTP.
    Hijack(&'static str, OnHijack),
    /// The connection itself, from here on HTTP/2 without TLS.
    Upgrade(OnHijack),
    /// The connection as a WebSocket: the answer to the client's key, and who speaks frames from here on.
    WebSocket(String, OnHijack),
    /// A status and headers of the handler's own making.
    Headers(StatusCode, Vec<(&'static str, String)>, Option<Bytes>),
}

impl Reply {
    /// 200 with a JSON document.
    pub fn json(value: Value) -> Self {
        Self::Json(StatusCode::OK, value)
    }
    /// 201 with a JSON document.
    pub fn created(value: Value) -> Self {
        Self::Json(StatusCode::CREATED, value)
    }
    /// 200 without a body.
    pub fn ok() -> Self {
        Self::Empty(StatusCode::OK)
    }
    /// 204.
    pub fn no_content() -> Self {
        Self::Empty(StatusCode::NO_CONTENT)
    }
}

/// The status Docker uses for this kind of failure.
pub fn status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Conflict => StatusCode::CONFLICT,
        Code::NotModified => StatusCode::NOT_MODIFIED,
        Code::Unauthorized => StatusCode::UNAUTHORIZED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// `{"message": ...}` with the code's status.
pub fn error(e: &Error) -> Response<Body> {
    if e.code == Code::NotModified {
        return plain(StatusCode::NOT_MODIFIED, full(Bytes::new()));
    }
    json(status(e.code), &serde_json::json!({ "message": e.message }))
}

/// A JSON response, ended by a newline as Go's encoder does.
pub fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut text = value.to_string();
    text.push('\n');
    with_type(status, "application/json", full(text))
}

/// A response with a content type.
pub fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut r = plain(status, body);
    r.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    r
}

/// A response without a content type.
pub fn plain(status: StatusCode, body: Body) -> Response<Body> {
    let mut r = Response::new(body);
    *r.status_mut() = status;
    r
}

/// A response whose body is a stream.
pub fn stream(content_type: &'static str, stream: ByteStream) -> Response<Body> {
    use futures_util::StreamExt;
    with_type(
        StatusCode::OK,
        content_type,
        StreamBody::new(stream.map(|r| r.map(Frame::data))).boxed_unsync(),
    )
}

/// A response with headers of the handler's own making.
pub fn headers(status: StatusCode, list: Vec<(&'static str, String)>, body: Option<Bytes>) -> Response<Body> {
    with_headers(plain(status, full(body.unwrap_or_default())), list)
}

/// Adds headers of the handler's own making.
pub fn with_headers(mut r: Response<Body>, list: Vec<(&'static str, String)>) -> Response<Body> {
    for (name, value) in list {
        if let Ok(value) = HeaderValue::from_str(&value) {
            r.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    r
}
