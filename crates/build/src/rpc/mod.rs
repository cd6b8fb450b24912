//! gRPC over any connection, both ways: what of it BuildKit's protocol uses.
//!
//! HTTP/2 is hyper's; on top of it gRPC is five bytes before each message and a status in the trailers
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). Messages are never compressed: BuildKit's
//! clients do not ask for it.

mod client;
mod server;

use std::pin::Pin;
use std::task::{Context, Poll};

use bollard_buildkit_proto::google::{protobuf::Any, rpc};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::Stream;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderValue;
use prost::Message;
use tokio::sync::mpsc;

pub use client::{Channel, Sender};
pub use server::{Answer, Request, Service, serve};

/// Largest message taken, in bytes: as BuildKit's own limit.
pub const MESSAGE_LIMIT: usize = 16 << 20;
/// Messages on their way to the other side before whoever sends more waits.
const QUEUE: usize = 32;
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// HTTP/2 windows, in bytes: of one stream and of the connection. A context's files come through them.
const WINDOWS: (u32, u32) = (4 << 20, 16 << 20);

/// gRPC's codes, as far as they are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// It was given up.
    Cancelled = 1,
    /// What nothing else says.
    Unknown = 2,
    /// The request is wrong.
    InvalidArgument = 3,
    /// Not in time.
    DeadlineExceeded = 4,
    /// What is named is not there.
    NotFound = 5,
    /// Known, but not allowed.
    PermissionDenied = 7,
    /// More than a limit.
    ResourceExhausted = 8,
    /// Not in this state.
    FailedPrecondition = 9,
    /// No such method.
    Unimplemented = 12,
    /// A fault of ours.
    Internal = 13,
    /// The other side is gone.
    Unavailable = 14,
}

/// How a call failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// gRPC's code.
    pub code: i32,
    /// Words for a person.
    pub message: String,
    /// What programs read of it.
    pub details: Vec<Any>,
}

impl Status {
    /// A failure in words.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code as i32, message: message.into(), details: Vec::new() }
    }

    /// Whether it has this code.
    pub fn is(&self, code: Code) -> bool {
        self.code == code as i32
    }

    /// As a message carries it.
    pub fn to_message(&self) -> rpc::Status {
        rpc::Status { code: self.code, message: self.message.clone(), details: self.details.clone() }
    }

    /// From a message.
    pub fn from_message(status: rpc::Status) -> Self {
        Self { code: status.code, message: status.message, details: status.details }
    }

    /// From trailers (or the head of an answer without a body); `None`: all went well.
    fn from_trailers(trailers: &HeaderMap) -> Option<Self> {
        use base64::Engine;
        let code = trailers.get("grpc-status").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let code: i32 = match code {
            Some(0) => return None,
            Some(code) => code,
            None => return Some(Self::new(Code::Unknown, "the other side sent no status")),
        };
        let message = trailers.get("grpc-message").map_or(String::new(), |v| percent_decode(v.as_bytes()));
        let details = trailers
            .get("grpc-status-details-bin")
            .and_then(|v| {
                base64::engine::general_purpose::STANDARD_NO_PAD
                    .decode(v.as_bytes().trim_ascii_end().strip_suffix(b"=").unwrap_or(v.as_bytes()))
                    .ok()
            })
            .and_then(|bytes| rpc::Status::decode(bytes.as_slice()).ok())
            .map_or_else(Vec::new, |s| s.details);
        Some(Self { code, message, details })
    }

    fn into_trailers(self) -> HeaderMap {
        use base64::Engine;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(self.code));
        if let Ok(message) = HeaderValue::from_str(&percent_encode(&self.message)) {
            trailers.insert("grpc-message", message);
        }
        if !self.details.is_empty() {
            let bytes = self.to_message().encode_to_vec();
            let text = base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes);
            if let Ok(value) = HeaderValue::from_str(&text) {
                trailers.insert("grpc-status-details-bin", value);
            }
        }
        trailers
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// gRPC's percent encoding of messages: all but printable ASCII, and `%`.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => out.push_str("%25"),
            0x20..=0x7e => out.push(byte as char),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn percent_decode(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |n: usize| bytes.get(i + n).and_then(|b| (*b as char).to_digit(16));
        match (bytes[i], hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                i += 3;
            }
            (other, ..) => {
                out.push(other);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A message with its prefix.
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    // Lengths are bounded by what is put into messages here.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room for all of it.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// Messages as they come from the other side.
pub struct Messages {
    body: Incoming,
    buffer: BytesMut,
    /// Whether the end carries a status: it does in answers.
    answers: bool,
    ended: bool,
}

impl Messages {
    fn new(body: Incoming, answers: bool) -> Self {
        Self { body, buffer: BytesMut::new(), answers, ended: false }
    }

    /// The next message; `None`: the other side has said all.
    ///
    /// # Errors
    /// The other side's status, or what is wrong with what it sent.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let Some(bytes) = self.next_bytes().await? else { return Ok(None) };
        let malformed = |e| Status::new(Code::InvalidArgument, format!("malformed message: {e}"));
        M::decode(bytes).map(Some).map_err(malformed)
    }

    async fn next_bytes(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if self.buffer.len() >= PREFIX {
                let length = (&self.buffer[1..PREFIX]).get_u32() as usize;
                if self.buffer[0] != 0 {
                    return Err(Status::new(Code::Unimplemented, "compressed messages are not taken"));
                }
                if length > MESSAGE_LIMIT {
                    let words = format!("a message of {length} bytes is larger than {MESSAGE_LIMIT}");
                    return Err(Status::new(Code::ResourceExhausted, words));
                }
                if self.buffer.len() >= PREFIX + length {
                    self.buffer.advance(PREFIX);
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    // The usual: one frame is one message; then nothing is copied.
                    Ok(data) if self.buffer.is_empty() => {
                        self.buffer = data.try_into_mut().unwrap_or_else(|data| BytesMut::from(&data[..]));
                    }
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        self.ended = true;
                        if let (true, Ok(trailers)) = (self.answers, frame.into_trailers())
                            && let Some(status) = Status::from_trailers(&trailers)
                        {
                            return Err(status);
                        }
                    }
                },
                Some(Err(e)) => return Err(gone(&e)),
                None if !self.buffer.is_empty() => {
                    return Err(Status::new(Code::InvalidArgument, "a message was cut off"));
                }
                None => self.ended = true,
            }
        }
    }
}

fn gone(e: &dyn std::fmt::Display) -> Status {
    Status::new(Code::Unavailable, format!("the connection ended: {e}"))
}

/// What is sent: messages, and the status at the end where one is due.
struct Outgoing {
    messages: mpsc::Receiver<Result<Bytes, Status>>,
    /// Whether a status ends it.
    trailers: bool,
}

impl hyper::body::Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(match std::task::ready!(self.messages.poll_recv(cx)) {
            Some(Ok(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Err(status)) => {
                self.messages.close();
                std::mem::take(&mut self.trailers).then(|| Ok(Frame::trailers(status.into_trailers())))
            }
            None => std::mem::take(&mut self.trailers).then(|| Ok(Frame::trailers(success()))),
        })
    }
}

fn success() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

/// Messages that are made while they are sent.
pub type Stream_<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;
