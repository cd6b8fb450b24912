//! The bridge: the app's calls over HTTP and WebSocket, for a plain browser. Development and tests use it; the window
//! does not.
//!
//! ```text
//!  GET  /...            the user interface, as it was built
//!  POST /control        words::Control -> words::ControlAnswer, or words::Failure with status 502
//!  ANY  /docker/...     passed on to the engine as it is
//!  GET  /open           WebSocket: first words::Open, then words::Input; back come words::Message. Bytes: a terminal's
//! ```
//!
//! It listens on loopback alone. All but the user interface's own files needs the token (header `x-coracle-token`; for
//! WebSockets the subprotocol `token.<token>`, as browsers can send nothing else). `Host` must be the bridge's own, so
//! that no name of somebody else leads here; a request from another page's `Origin` is refused.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;
use rand::Rng;
use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message as Frame, handshake::derive_accept_key, protocol::Role},
};

use crate::{
    App, AppError, Body, body_of, empty,
    streams::{In, Out},
    words::{Control, Failure},
};

/// What a page of ours may load: only what comes with it. Inline styles are what xterm and Svelte's transitions set.
pub const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; \
     font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Connections at once.
const MAX_CONNECTIONS: usize = 256;
/// Longest request of `/control`.
const MAX_CONTROL: usize = 64 * 1024;
/// Bytes of a token.
const TOKEN: usize = 24;
/// The header that carries it.
const TOKEN_HEADER: &str = "x-coracle-token";
/// Headers that are the connection's, not the message's.
const HOP: [header::HeaderName; 5] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE, header::TRAILER];

/// A bridge that listens.
#[derive(Debug)]
pub struct Bridge {
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    app: App,
    ui: PathBuf,
    token: String,
    address: SocketAddr,
}

impl Bridge {
    /// Listens on a port of loopback (0: any that is free) and serves the user interface built in `ui`.
    pub async fn bind(app: App, ui: PathBuf, port: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = listener.local_addr()?;
        let bytes: [u8; TOKEN] = rand::rng().random();
        let token = bytes.iter().map(|b| format!("{b:02x}")).collect();
        Ok(Self { listener, shared: Arc::new(Shared { app, ui, token, address }) })
    }

    /// The address to open: the token is in its fragment, which browsers send to nobody.
    pub fn url(&self) -> String {
        format!("http://{}/#token={}", self.shared.address, self.shared.token)
    }

    /// Serves for ever.
    pub async fn serve(self) -> Infallible {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let place = places.clone().acquire_owned().await.expect("never closed");
            let Ok((socket, _)) = self.listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await; // out of descriptors
                continue;
            };
            let shared = self.shared.clone();
            tokio::spawn(async move {
                connection(socket, shared).await;
                drop(place);
            });
        }
    }
}

async fn connection(socket: TcpStream, shared: Arc<Shared>) {
    let _ = socket.set_nodelay(true);
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
    });
    // A browser that goes away is no error.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades()
        .await;
}

async fn answer(request: Request<Incoming>, shared: &Arc<Shared>) -> Response<Body> {
    let mut response = match admit(&request, shared) {
        Err((status, words)) => plain(status, words),
        Ok(()) => route(request, shared).await,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    response
}

/// Whether a request may come in at all.
fn admit(request: &Request<Incoming>, shared: &Shared) -> Result<(), (StatusCode, &'static str)> {
    let text = |name: header::HeaderName| request.headers().get(name).and_then(|v| v.to_str().ok());
    let port = shared.address.port();
    let own = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    let host = text(header::HOST).unwrap_or_default();
    if !own.iter().any(|o| o == host) {
        return Err((StatusCode::MISDIRECTED_REQUEST, "this is not the host you asked for"));
    }
    if let Some(origin) = request.headers().get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        if origin.strip_prefix("http://") != Some(host) {
            return Err((StatusCode::FORBIDDEN, "requests of other pages are refused"));
        }
    }
    if is_page(request) {
        return Ok(());
    }
    let header = request.headers().get(TOKEN_HEADER).and_then(|v| v.to_str().ok());
    let protocol = text(header::SEC_WEBSOCKET_PROTOCOL)
        .and_then(|list| list.split(',').find_map(|p| p.trim().strip_prefix("token.")));
    match header.or(protocol) {
        Some(token) if equal(token.as_bytes(), shared.token.as_bytes()) => Ok(()),
        _ => Err((StatusCode::UNAUTHORIZED, "the bridge's token is missing or wrong")),
    }
}

fn is_page(request: &Request<Incoming>) -> bool {
    let path = request.uri().path();
    request.method() == Method::GET && path != "/open" && !path.starts_with("/docker/")
}

/// Compares in a time that does not tell where two differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (x, y)| all | (x ^ y)) == 0
}

async fn route(request: Request<Incoming>, shared: &Arc<Shared>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/control") => control(request, shared).await,
        (&Method::GET, "/open") => open(request, shared),
        (_, path) if path.starts_with("/docker/") => docker(request, shared).await,
        (&Method::GET, path) => file(&shared.ui, path).await,
        _ => plain(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

async fn control(request: Request<Incoming>, shared: &Shared) -> Response<Body> {
    let body = match Limited::new(request.into_body(), MAX_CONTROL).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return plain(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long"),
    };
    let asked: Control = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(e) => {
            return failed(
                StatusCode::BAD_REQUEST,
                &Failure { code: "request".into(), status: None, message: e.to_string() },
            );
        }
    };
    match shared.app.control(asked).await {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(error) => failed(StatusCode::BAD_GATEWAY, &error.failure()),
    }
}

async fn docker(request: Request<Incoming>, shared: &Shared) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |p| p.as_str());
    let target = target.strip_prefix("/docker").unwrap_or(target);
    head.uri = match target.parse() {
        Ok(uri) => uri,
        Err(_) => return plain(StatusCode::BAD_REQUEST, "this is no path"),
    };
    for name in HOP.iter().chain(&[header::ORIGIN, header::COOKIE, header::REFERER]) {
        head.headers.remove(name);
    }
    head.headers.remove(TOKEN_HEADER);
    match shared.app.docker(Request::from_parts(head, body.boxed())).await {
        Ok(response) => {
            let (mut head, body) = response.into_parts();
            HOP.iter().for_each(|name| drop(head.headers.remove(name)));
            Response::from_parts(head, body.boxed())
        }
        Err(error) => failed(StatusCode::BAD_GATEWAY, &error.failure()),
    }
}

fn open(mut request: Request<Incoming>, shared: &Arc<Shared>) -> Response<Body> {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() else {
        return plain(StatusCode::UPGRADE_REQUIRED, "this is for WebSockets");
    };
    let (upgrade, shared) = (hyper::upgrade::on(&mut request), shared.clone());
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        // A browser that goes away is no error.
        let _ = stream(socket, &shared).await;
    });
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, header::HeaderValue::from_static("coracle"));
    if let Ok(accept) = derive_accept_key(key.as_bytes()).parse() {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    headers.remove(header::CONTENT_TYPE);
    response
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn stream(mut socket: Socket, shared: &Shared) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    let Some(first) = socket.next().await else { return Ok(()) };
    let what = match first?.to_text().map(serde_json::from_str) {
        Ok(Ok(what)) => what,
        other => {
            let message =
                other.map_or_else(|e| e.to_string(), |r| r.err().map_or_else(String::new, |e| e.to_string()));
            let failure = AppError::Request(message).failure();
            return socket.send(frame(&crate::words::Message::Failed { failure })).await;
        }
    };
    let crate::Stream { mut from, to, guard: _guard } = shared.app.open(what);
    loop {
        tokio::select! {
            out = from.recv() => match out {
                Some(Out::Message(message)) => socket.send(frame(&message)).await?,
                Some(Out::Bytes(bytes)) => socket.send(Frame::Binary(bytes)).await?,
                None => return socket.close(None).await,
            },
            input = socket.next() => {
                let Some(input) = input else { return Ok(()) };
                let input = match input? {
                    Frame::Text(text) => match serde_json::from_str(&text) {
                        Ok(input) => In::Input(input),
                        Err(_) => return socket.close(None).await,
                    },
                    Frame::Binary(bytes) => In::Bytes(bytes),
                    Frame::Close(_) => return Ok(()),
                    _ => continue,
                };
                if to.send(input).await.is_err() {
                    return socket.close(None).await;
                }
            }
        }
    }
}

fn frame(message: &impl Serialize) -> Frame {
    Frame::text(serde_json::to_string(message).expect("words are JSON"))
}

/// A file of the user interface.
async fn file(ui: &Path, path: &str) -> Response<Body> {
    let name = if path == "/" { "index.html" } else { path.trim_start_matches('/') };
    let inside = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    let kind = match Path::new(name).extension().and_then(|e| e.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        _ => return plain(StatusCode::NOT_FOUND, "there is nothing here"),
    };
    if !inside {
        return plain(StatusCode::NOT_FOUND, "there is nothing here");
    }
    match tokio::fs::read(ui.join(name)).await {
        Ok(bytes) => with_type(StatusCode::OK, kind, body_of(bytes)),
        Err(_) => plain(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

fn plain(status: StatusCode, words: &'static str) -> Response<Body> {
    let body = if words.is_empty() { empty() } else { body_of(Bytes::from_static(words.as_bytes())) };
    with_type(status, "text/plain; charset=utf-8", body)
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    with_type(status, "application/json", body_of(serde_json::to_vec(value).expect("words are JSON")))
}

/// An error of ours, told apart from the engine's by a header.
fn failed(status: StatusCode, failure: &Failure) -> Response<Body> {
    let mut response = json(status, failure);
    response.headers_mut().insert("x-coracle-failure", header::HeaderValue::from_static("1"));
    response
}

fn with_type(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
