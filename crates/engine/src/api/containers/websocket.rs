//! `attach/ws`: a container's streams over a WebSocket (RFC 6455), as web consoles use it.
//!
//! Output comes without frames of Docker's own, both streams mixed, as with dockerd; in binary messages from API 1.28 on,
//! in text before.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use hyper::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use super::streams::{Attached, Wants, register};
use crate::api::hijack::Hijacked;
use crate::api::reply::Reply;
use crate::api::request::{Call, Version};
use crate::engine::Engine;
use crate::error::{Error, Result};

/// Largest message a client may send, in bytes: more than any console pastes.
const MESSAGE_LIMIT: usize = 1 << 20;
/// Output sent in one message, in bytes.
const PIECE: usize = 32 << 10;

pub async fn attach(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    // Before 1.42 all streams were attached, whatever was asked.
    let asked = |name: &str| call.version < Version(1, 42) || call.flag(name);
    let wants = Wants { stdin: asked("stdin"), stdout: asked("stdout"), stderr: asked("stderr"), raw: true };
    // First, so that nothing is registered for a client that cannot speak.
    let accept = match engine.containers.find(call.param(0)) {
        Ok(_) => accept(&call.headers)?,
        Err(e) => return Err(e),
    };
    let binary = call.version >= Version(1, 28);
    let attached = register(&engine, &call, wants).await?;
    Ok(Reply::WebSocket(accept, Box::new(move |io| Box::pin(speak(io, attached, binary)))))
}

/// The answer to the client's handshake.
fn accept(headers: &HeaderMap) -> Result<String> {
    let get = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("").trim();
    if !get("upgrade").eq_ignore_ascii_case("websocket") {
        return Err(Error::invalid("not a websocket protocol: the request has no `Upgrade: websocket`"));
    }
    if get("sec-websocket-version") != "13" {
        return Err(Error::invalid("missing or bad WebSocket Version: 13 is spoken"));
    }
    match get("sec-websocket-key") {
        "" => Err(Error::invalid("challenge/response: the request has no Sec-WebSocket-Key")),
        key => Ok(derive_accept_key(key.as_bytes())),
    }
}

async fn speak(io: Hijacked, attached: Attached, binary: bool) {
    let limits =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_LIMIT)).max_frame_size(Some(MESSAGE_LIMIT));
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(limits)).await;
    let message = |bytes: &[u8]| match binary {
        true => Message::binary(bytes.to_vec()),
        false => Message::text(String::from_utf8_lossy(bytes).into_owned()),
    };
    if let Some(mut past) = attached.past {
        while let Some(Ok(bytes)) = past.next().await {
            if socket.send(message(&bytes)).await.is_err() {
                return;
            }
        }
    }
    let Some(answer) = attached.answer else {
        let _ = socket.close(None).await;
        return;
    };
    // A client that goes before the container starts is not waited for; what it says until then is kept.
    let mut early = Vec::new();
    let attachment = tokio::select! {
        answer = answer => answer,
        () = listen_early(&mut socket, &mut early) => return,
    };
    let Ok(runtime::Attachment { mut reader, mut writer }) = attachment else {
        let _ = socket.close(None).await;
        return;
    };
    let (mut to_client, mut from_client) = socket.split();
    let input = async {
        if writer.write_all(&early).await.is_err() {
            std::future::pending::<()>().await;
        }
        while let Some(Ok(said)) = from_client.next().await {
            let bytes = match &said {
                Message::Text(text) => text.as_bytes(),
                Message::Binary(bytes) => bytes.as_ref(),
                // Pings are answered by the library.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
                Message::Close(_) => break,
            };
            if writer.write_all(bytes).await.is_err() {
                // The process takes no more input; its output goes on.
                std::future::pending::<()>().await;
            }
        }
        if let Err(e) = writer.shutdown().await {
            tracing::debug!("end of input: {e}");
        }
    };
    let output = async {
        let mut frames = Frames { tty: attached.tty, ..Frames::default() };
        let mut piece = vec![0; PIECE];
        let mut out = Vec::new();
        while let Ok(n @ 1..) = reader.read(&mut piece).await {
            out.clear();
            frames.take(&piece[..n], &mut out);
            if !out.is_empty() && to_client.send(message(&out)).await.is_err() {
                return;
            }
        }
        if let Err(e) = to_client.close().await {
            tracing::debug!("end of output: {e}");
        }
    };
    tokio::select! {
        () = input => {}
        () = output => {}
    }
}

/// Keeps what the client says, up to a limit; completes when it has gone.
async fn listen_early(socket: &mut WebSocketStream<Hijacked>, early: &mut Vec<u8>) {
    while let Some(Ok(message)) = socket.next().await {
        match &message {
            Message::Close(_) => return,
            Message::Text(_) | Message::Binary(_) => early.extend(message.into_data()),
            _ => {}
        }
        if early.len() > MESSAGE_LIMIT {
            // The rest waits in the connection.
            std::future::pending::<()>().await;
        }
    }
}

/// Takes Docker's frames (stream, length, bytes) off an output.
#[derive(Default)]
struct Frames {
    /// There are none.
    tty: bool,
    head: Vec<u8>,
    /// Bytes of the frame still to come.
    left: usize,
}

impl Frames {
    fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        const HEAD: usize = 8;
        if self.tty {
            return out.extend(bytes);
        }
        while !bytes.is_empty() {
            if self.left == 0 {
                let n = bytes.len().min(HEAD - self.head.len());
                self.head.extend(&bytes[..n]);
                bytes = &bytes[n..];
                if let [_, _, _, _, length @ ..] = self.head.as_slice()
                    && let Ok(length) = <[u8; 4]>::try_from(length)
                {
                    self.left = u32::from_be_bytes(length) as usize;
                    self.head.clear();
                }
                continue;
            }
            let n = bytes.len().min(self.left);
            out.extend(&bytes[..n]);
            self.left -= n;
            bytes = &bytes[n..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_off_wherever_they_are_cut() {
        let stream = b"\x01\0\0\0\0\0\0\x03one\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x04four";
        for cut in 1..stream.len() {
            let (mut frames, mut out) = (Frames::default(), Vec::new());
            for piece in stream.chunks(cut) {
                frames.take(piece, &mut out);
            }
            assert_eq!(out, b"onefour", "in pieces of {cut}");
        }
    }

    #[test]
    fn the_handshake_is_the_standards() {
        let mut headers = HeaderMap::new();
        assert!(accept(&headers).is_err());
        headers.insert("upgrade", "WebSocket".parse().unwrap());
        headers.insert("sec-websocket-version", "13".parse().unwrap());
        assert!(accept(&headers).unwrap_err().message.contains("Key"));
        // The standard's own example.
        headers.insert("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        assert_eq!(accept(&headers).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
