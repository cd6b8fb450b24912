//! Docker's API over HTTP: the only place that knows HTTP and Docker's JSON.
//!
//! Answers are built as JSON by hand, in Go's shapes (`null`, `[]`, absent): clients of every version tell them
//! apart, and generated types do not.

mod body;
mod build;
mod classic;
mod containers;
mod exec;
pub mod go_json;
mod hijack;
mod images;
pub mod listen;
mod make;
mod networks;
mod preface;
mod presence;
mod registry;
pub mod reply;
mod request;
pub mod router;
mod system;
mod volumes;

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::{Request, Response, StatusCode};

use crate::engine::Engine;
use crate::error::{Error, Result};
use body::Heard;
use hijack::Answer;
use reply::{Body, Reply};
use request::{Call, Version};
use router::{Handler, Route};

/// What a node without swarm says to those who want one.
pub(crate) const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";
/// The newest API version answered.
pub const NEWEST: Version = Version(1, 51);
/// The oldest API version answered.
pub const OLDEST: Version = Version(1, 24);

async fn answer(engine: Arc<Engine>, request: Request<Incoming>) -> Answer {
    let upgrade = request
        .headers()
        .get(CONNECTION)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.to_ascii_lowercase().contains("upgrade"));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let started = std::time::Instant::now();
    let result = dispatch(engine, request.map(Heard::new)).await;
    tracing::debug!("{method} {path}: {:?} in {:?}", result.as_ref().err(), started.elapsed());
    let response = match result {
        Ok(Reply::Hijack(content_type, run)) => {
            return Answer::Hijack { head: hijack::head(content_type, upgrade), run };
        }
        Ok(Reply::Upgrade(run)) => return Answer::Hijack { head: hijack::h2c_head(), run },
        Ok(Reply::WebSocket(accept, run)) => {
            return Answer::Hijack { head: hijack::websocket_head(&accept), run };
        }
        Ok(Reply::Empty(status)) => reply::plain(status, reply::full("")),
        Ok(Reply::Json(status, value)) => reply::json(status, &value),
        Ok(Reply::Encoded(text)) => reply::with_type(StatusCode::OK, "application/json", reply::full(text)),
        Ok(Reply::Text(text)) => {
            reply::with_type(StatusCode::OK, "text/plain; charset=utf-8", reply::full(text))
        }
        Ok(Reply::Stream(content_type, stream)) => reply::stream(content_type, stream),
        Ok(Reply::StreamWith(content_type, list, stream)) => {
            reply::with_headers(reply::stream(content_type, stream), list)
        }
        Ok(Reply::Headers(status, list, body)) => reply::headers(status, list, body),
        Err(e) => reply::error(&e),
    };
    Answer::Response(signed(response))
}

/// The headers every answer carries.
fn signed(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    let server = concat!("Docker/", env!("CARGO_PKG_VERSION"), " (linux)");
    for (name, value) in
        [("api-version", "1.51"), ("docker-experimental", "false"), ("ostype", "linux"), ("server", server)]
    {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn dispatch(engine: Arc<Engine>, request: Request<Heard>) -> Result<Reply> {
    let path = request.uri().path();
    let (version, path) = split_version(path)?;
    let (operation, params) = match router::route(request.method(), path) {
        Route::To(operation, params) => (operation, params),
        Route::Nowhere => return Err(Error::not_found("page not found")),
    };
    if operation.sees_containers() {
        engine.containers.settled().await;
    }
    match operation.handler {
        Handler::Serves(handler) => handler(engine, Call::new(request, params, version)).await,
        Handler::Missing => Err(Error::not_implemented(format!(
            "{} is not there yet: this is Coracle {}, see its README for what is",
            operation.id,
            env!("CARGO_PKG_VERSION")
        ))),
        Handler::Refused(reason) => Err(Error::not_implemented(format!("{}: {reason}", operation.id))),
        Handler::NeedsSwarm => Err(Error::unavailable(NO_SWARM)),
    }
}

/// `/v1.51/x` -> (1.51, `/x`); no version means the newest.
fn split_version(path: &str) -> Result<(Version, &str)> {
    let versioned = path.strip_prefix("/v").and_then(|rest| rest.split_once('/'));
    let Some((text, _)) = versioned else { return Ok((NEWEST, path)) };
    let Some(version) = Version::parse(text) else { return Ok((NEWEST, path)) };
    if version > NEWEST {
        return Err(Error::invalid(format!(
            "client version {text} is too new. Maximum supported API version is {NEWEST}"
        )));
    }
    if version < OLDEST {
        return Err(Error::invalid(format!(
            "client version {text} is too old. Minimum supported API version is {OLDEST}, please upgrade your client to a newer version"
        )));
    }
    Ok((version, &path[text.len() + 2..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_taken_from_the_path() {
        assert_eq!(split_version("/v1.40/containers/json").unwrap(), (Version(1, 40), "/containers/json"));
        assert_eq!(split_version("/volumes").unwrap(), (NEWEST, "/volumes"));
        assert!(split_version("/v1.99/info").unwrap_err().message.contains("too new"));
        assert!(split_version("/v1.2/info").unwrap_err().message.contains("too old"));
    }
}
