//! Files of this computer to the engine and back, without a window holding them: loads, imports, uploads; saves,
//! exports, downloads.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::{Request, body::Frame};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, interval},
};

use crate::{
    AppError, Body, docker, empty,
    streams::{End, Window},
    words::Message,
};

/// Bytes that are read from a file at a time.
const CHUNK: usize = 256 * 1024;
/// How often a window hears how much has gone.
const TELL: Duration = Duration::from_millis(200);
/// A block of a tar archive.
const BLOCK: u64 = 512;

fn absolute(path: &str) -> Result<PathBuf, AppError> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(AppError::Request(format!("{}: a whole path is needed", path.display())))
    }
}

fn wrong(path: &Path) -> impl Fn(std::io::Error) -> AppError + '_ {
    move |e| AppError::Request(format!("{}: {e}", path.display()))
}

/// What stands before and after a file in an archive of its own.
fn packed(path: &Path, size: u64) -> Result<(Bytes, Bytes), AppError> {
    let name =
        path.file_name().ok_or_else(|| AppError::Request(format!("{} has no name", path.display())))?;
    let mut head = tar::Header::new_gnu();
    head.set_entry_type(tar::EntryType::Regular);
    head.set_mode(0o644);
    head.set_size(size);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    head.set_mtime(now.as_secs());
    let mut made = tar::Builder::new(Vec::new());
    made.append_data(&mut head, name, std::io::empty()).map_err(wrong(path))?;
    let before = made.get_ref().clone();
    let fill = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0);
    Ok((before.into(), vec![0; fill + 2 * 512].into()))
}

/// A file as a request's body; `gone` counts.
fn body(file: File, before: Bytes, after: Bytes, gone: Arc<AtomicU64>) -> Body {
    enum State {
        Before(File, Bytes, Bytes),
        In(File, Bytes),
        After,
    }
    let parts = stream::unfold(State::Before(file, before, after), move |mut state| {
        let gone = gone.clone();
        async move {
            loop {
                state = match state {
                    State::Before(file, before, after) if before.is_empty() => State::In(file, after),
                    State::Before(file, before, after) => {
                        return Some((Ok::<_, hyper::Error>(Frame::data(before)), State::In(file, after)));
                    }
                    State::In(mut file, after) => {
                        let mut chunk = vec![0; CHUNK];
                        match file.read(&mut chunk).await {
                            Ok(0) | Err(_) if after.is_empty() => return None,
                            // A file that can't be read on is too short for its head: the engine says so.
                            Ok(0) | Err(_) => return Some((Ok(Frame::data(after)), State::After)),
                            Ok(n) => {
                                chunk.truncate(n);
                                gone.fetch_add(n as u64, Ordering::Relaxed);
                                return Some((Ok(Frame::data(chunk.into())), State::In(file, after)));
                            }
                        }
                    }
                    State::After => return None,
                };
            }
        }
    });
    // hyper wants it shared between threads; a stream that is read by one needs a lock for that, which is never waited for.
    BodyExt::boxed(StreamBody::new(Shared(std::sync::Mutex::new(Box::pin(parts)))))
}

/// A stream that may be shared because it can be reached by whoever has it alone.
struct Shared<S>(std::sync::Mutex<std::pin::Pin<Box<S>>>);

impl<S: futures_util::Stream> futures_util::Stream for Shared<S> {
    type Item = S::Item;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        let inner = self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        inner.as_mut().poll_next(context)
    }
}

/// A file to the engine.
pub(crate) async fn send(
    window: &mut Window,
    method: &str,
    path: &str,
    file: &str,
    pack: bool,
) -> Result<(), End> {
    let from = absolute(file)?;
    let opened = File::open(&from).await.map_err(wrong(&from))?;
    let about = opened.metadata().await.map_err(wrong(&from))?;
    if !about.is_file() {
        return Err(AppError::Request(format!("{} is no file", from.display())).into());
    }
    let (before, after) = if pack { packed(&from, about.len())? } else { (Bytes::new(), Bytes::new()) };
    let gone = Arc::new(AtomicU64::new(0));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/x-tar")
        .body(body(opened, before, after, gone.clone()))
        .map_err(|e| AppError::Request(format!("{method} {path}: {e}")))?;
    let app = window.app.clone();
    let mut asked = std::pin::pin!(async move { app.docker(request).await });
    let mut tick = interval(TELL);
    let answer = loop {
        tokio::select! {
            answer = &mut asked => break answer?,
            _ = tick.tick() => {
                let bytes = gone.load(Ordering::Relaxed);
                window.say(Message::Moved { bytes, of: Some(about.len()) }).await?;
            }
            input = window.input.recv() => if input.is_none() { return Err(End::Gone) },
        }
    };
    window.pass_on(answer, Some((gone, about.len()))).await
}

/// An answer of the engine to the engine.
pub(crate) async fn copy(window: &mut Window, from: &str, to: &str) -> Result<(), End> {
    let bad = |e: hyper::http::Error| AppError::Request(e.to_string());
    let answer = window.app.docker(Request::get(from).body(empty()).map_err(bad)?).await?;
    if !answer.status().is_success() {
        return Err(End::Failed(docker::refusal(answer).await));
    }
    let body = answer.into_body().boxed();
    let request = Request::put(to).header("content-type", "application/x-tar").body(body).map_err(bad)?;
    let answer = window.app.docker(request).await?;
    window.pass_on(answer, None).await
}

/// An answer of the engine to a file.
pub(crate) async fn receive(window: &mut Window, path: &str, file: &str) -> Result<(), End> {
    let to = absolute(file)?;
    let request =
        Request::get(path).body(empty()).map_err(|e| AppError::Request(format!("GET {path}: {e}")))?;
    let answer = window.app.docker(request).await?;
    if !answer.status().is_success() {
        return Err(End::Failed(docker::refusal(answer).await));
    }
    let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let beside = to.with_file_name(format!(".{name}.part"));
    let made = async {
        let mut out = File::create(&beside).await.map_err(wrong(&beside))?;
        window.say(Message::Opened).await?;
        let (mut body, mut bytes, mut told) = (answer.into_body(), 0, Instant::now());
        loop {
            tokio::select! {
                frame = body.frame() => {
                    let Some(frame) = frame.transpose()? else { break };
                    let Ok(data) = frame.into_data() else { continue };
                    out.write_all(&data).await.map_err(wrong(&to))?;
                    bytes += data.len() as u64;
                    if told.elapsed() >= TELL {
                        window.say(Message::Moved { bytes, of: None }).await?;
                        told = Instant::now();
                    }
                }
                input = window.input.recv() => if input.is_none() { return Err(End::Gone) },
            }
        }
        out.sync_all().await.map_err(wrong(&to))?;
        tokio::fs::rename(&beside, &to).await.map_err(wrong(&to))?;
        Ok(window.say(Message::Moved { bytes, of: Some(bytes) }).await?)
    }
    .await;
    if made.is_err() {
        // A part of a file is nobody's.
        let _ = tokio::fs::remove_file(&beside).await;
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_in_an_archive_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        for (name, size) in [("short".to_owned(), 5_usize), ("n".repeat(150), 1024), ("empty".to_owned(), 0)]
        {
            let path = folder.path().join(&name);
            std::fs::write(&path, vec![b'x'; size]).unwrap();
            let (before, after) = packed(&path, size as u64).unwrap();
            let gone = Arc::new(AtomicU64::new(0));
            let file = File::open(&path).await.unwrap();
            let whole = body(file, before, after, gone.clone()).collect().await.unwrap().to_bytes();
            assert_eq!(gone.load(Ordering::Relaxed), size as u64);
            let mut archive = tar::Archive::new(&whole[..]);
            let entries: Vec<_> = archive
                .entries()
                .unwrap()
                .map(|e| e.map(|e| (e.path().unwrap().display().to_string(), e.size())).unwrap())
                .collect();
            assert_eq!(entries, [(name, size as u64)]);
        }
    }
}
