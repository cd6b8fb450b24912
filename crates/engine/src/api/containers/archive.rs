//! `docker cp` and `export`: a container's files as archives, both ways.

use std::io::{BufWriter, Read, Write};
use std::sync::Arc;

use base64::Engine as _;
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use hyper::StatusCode;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::api::reply::{ByteStream, Reply};
use crate::api::request::Call;
use crate::container::files::{self, PathStat, PutOptions};
use crate::engine::Engine;
use crate::error::{Error, Result};

/// Bytes of an archive sent at once, and how many such pieces may wait for the client.
const PIECE: usize = 64 << 10;
const PIECES: usize = 4;

fn path(call: &Call) -> Result<String> {
    match call.get("path") {
        "" => Err(Error::invalid("bad parameter: 'path' cannot be empty")),
        path => Ok(path.to_owned()),
    }
}

fn header(stat: &PathStat) -> (&'static str, String) {
    // In dockerd's order.
    let json = format!(
        "{{\"name\":{},\"size\":{},\"mode\":{},\"mtime\":{},\"linkTarget\":{}}}",
        json!(stat.name),
        json!(stat.size),
        json!(stat.mode),
        json!(stat.mtime),
        json!(stat.link_target)
    );
    ("x-docker-container-path-stat", base64::prelude::BASE64_STANDARD.encode(json))
}

pub async fn archive_info(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let path = path(&call)?;
    let handle = engine.containers.find(call.param(0))?;
    let stat = files::path_stat(&engine, &handle, call.param(0), &path).await?;
    Ok(Reply::Headers(StatusCode::OK, vec![header(&stat)], None))
}

pub async fn archive_get(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let path = path(&call)?;
    let reference = call.param(0).to_owned();
    let handle = engine.containers.find(&reference)?;
    let record = handle.view().record;
    let (found, stat) = oneshot::channel();
    let (out, stream) = pieces();
    let (owner, errors) = (engine.clone(), out.tx.clone());
    let work = tokio::spawn(async move {
        // The client may have gone away.
        let found = move |stat| drop(found.send(stat));
        let out = BufWriter::with_capacity(PIECE, out);
        let done = files::archive(&owner, &handle, &reference, &path, found, out).await;
        if let Err(e) = &done {
            // Cut short, so that the client sees that it is not whole.
            let _ = errors.send(Err(std::io::Error::other(e.message.clone()))).await;
        }
        done
    });
    let Ok(stat) = stat.await else {
        work.await.map_err(|e| Error::internal(e.to_string()))??;
        return Err(Error::internal("the archive was not begun"));
    };
    engine.container_event(&record, "archive-path", &[]);
    Ok(Reply::StreamWith("application/x-tar", vec![header(&stat)], stream))
}

pub async fn export(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let record = handle.view().record;
    let (out, stream) = pieces();
    let (owner, errors) = (engine.clone(), out.tx.clone());
    tokio::spawn(async move {
        let out = BufWriter::with_capacity(PIECE, out);
        if let Err(e) = files::export(&owner, &handle, out).await {
            tracing::debug!("export: {e}");
            let _ = errors.send(Err(std::io::Error::other(e.message))).await;
        }
    });
    engine.container_event(&record, "export", &[]);
    Ok(Reply::Stream("application/octet-stream", stream))
}

pub async fn changes(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let found = files::changes(&engine, &handle).await?;
    let list: Vec<_> =
        found.iter().map(|(path, kind)| json!({ "Path": path, "Kind": *kind as u8 })).collect();
    Ok(Reply::json(if list.is_empty() { serde_json::Value::Null } else { json!(list) }))
}

pub async fn archive_put(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let path = path(&call)?;
    let reference = call.param(0).to_owned();
    let handle = engine.containers.find(&reference)?;
    let options =
        PutOptions { keep_kind: call.flag("noOverwriteDirNonDir"), as_user: call.flag("copyUIDGID") };
    let input = Incoming {
        body: Box::pin(call.body.into_data_stream().map(|r| r.map_err(std::io::Error::other))),
        rest: Bytes::new(),
        runtime: tokio::runtime::Handle::current(),
    };
    files::put(&engine, &handle, &reference, &path, options, input).await?;
    engine.container_event(&handle.view().record, "extract-to-dir", &[]);
    Ok(Reply::Empty(StatusCode::OK))
}

/// `PUT /coracle/v1/containers/{id}/file?path=`: other contents of a file, which stays the file it is. `docker cp` puts
/// another file in its place.
pub async fn file_put(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let path = path(&call)?;
    let reference = call.param(0).to_owned();
    let handle = engine.containers.find(&reference)?;
    let contents = call.bytes().await?;
    files::rewrite(&engine, &handle, &reference, &path, contents).await?;
    engine.container_event(&handle.view().record, "extract-to-dir", &[]);
    Ok(Reply::Empty(StatusCode::NO_CONTENT))
}

/// A request's body, read by a thread.
struct Incoming {
    body: ByteStream,
    rest: Bytes,
    runtime: tokio::runtime::Handle,
}

impl Read for Incoming {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.runtime.block_on(self.body.next()) {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let n = self.rest.len().min(buf.len());
        self.rest.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

/// Bytes written by a thread, read as a response's body.
pub struct Pieces {
    tx: mpsc::Sender<std::io::Result<Bytes>>,
}

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.tx.blocking_send(Ok(Bytes::copy_from_slice(data))).map_err(gone)?;
        Ok(data.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn pieces() -> (Pieces, ByteStream) {
    let (tx, mut rx) = mpsc::channel(PIECES);
    (Pieces { tx }, Box::pin(futures_util::stream::poll_fn(move |cx| rx.poll_recv(cx))))
}
