//! Logs, as a stream to one window: of one container, or of several as one.

use std::{
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Request, Response, body::Incoming, header};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    AppError, docker, empty,
    logs::{self, Lines, Reader, expression},
    streams::{End, Gone, In, Window},
    words::{Input, LogOf, Message, Output},
};

/// How often a window hears of a log that grows.
const GROWTH: Duration = Duration::from_millis(50);
/// Most logs that are shown as one.
const MOST: usize = 200;
/// Lines of each that are asked for where there are several.
const TAIL: u32 = 50_000;
/// Chunks of several logs on their way.
const QUEUE: usize = 256;

/// A container's name or id that can stand in a path.
pub(crate) fn plain_name(container: &str) -> Result<&str, AppError> {
    if !container.is_empty() && container.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
        return Ok(container);
    }
    Err(AppError::Request(format!("{container:?} is no container's name")))
}

async fn open(
    window: &Window,
    of: &LogOf,
    tail: &str,
    only: Option<Output>,
) -> Result<Response<Incoming>, AppError> {
    let container = plain_name(&of.id)?;
    let (stdout, stderr) = (u8::from(only != Some(Output::Stderr)), u8::from(only != Some(Output::Stdout)));
    let path = format!(
        "/containers/{container}/logs?follow=1&stdout={stdout}&stderr={stderr}&timestamps=1&tail={tail}"
    );
    let request = Request::get(path).body(empty()).map_err(|e| AppError::Request(e.to_string()))?;
    let response = window.app.docker(request).await?;
    if response.status().is_success() { Ok(response) } else { Err(docker::refusal(response).await) }
}

/// What comes next.
enum Next {
    Data(u16, Bytes),
    /// One of them has ended.
    End(u16),
}

/// Ends the tasks that read.
struct Readers(Vec<JoinHandle<()>>);

impl Drop for Readers {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Lines of several logs that wait to be put in order.
#[derive(Default)]
struct Unordered(Vec<(Vec<u8>, bool, u16)>);

impl Unordered {
    fn flush(&mut self, lines: &mut Lines) {
        self.0.sort_by_key(|(raw, _, _)| logs::time(raw));
        for (raw, stderr, source) in self.0.drain(..) {
            lines.push(&raw, stderr, source);
        }
    }
}

/// Follows logs until the window lets go of them.
pub(crate) async fn follow(
    window: &mut Window,
    containers: &[LogOf],
    only: Option<Output>,
) -> Result<(), End> {
    if containers.is_empty() || containers.len() > MOST {
        return Err(AppError::Request(format!("logs of 1 to {MOST} containers can be shown")).into());
    }
    let several = containers.len() > 1;
    let tail = if several { TAIL.to_string() } else { "all".to_owned() };
    let (to, mut from) = mpsc::channel(QUEUE);
    let (mut readers, mut tasks) = (Vec::new(), Readers(Vec::new()));
    for (source, of) in (0_u16..).zip(containers) {
        let answer = open(window, of, &tail, only).await?;
        // The engine says what it sends; one that doesn't leaves us with what the window knows.
        let kind =
            answer.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let tty = kind.ends_with("raw-stream") || (of.tty && !kind.ends_with("multiplexed-stream"));
        readers.push(Reader::new(tty));
        let mut body = answer.into_body();
        let to = to.clone();
        tasks.0.push(tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(data) = frame.into_data() else { continue };
                if to.send(Next::Data(source, data)).await.is_err() {
                    return;
                }
            }
            let _ = to.send(Next::End(source)).await;
        }));
    }
    drop(to);
    window.say(Message::Opened).await?;
    let lines = Arc::new(RwLock::new(Lines::default()));
    let mut unordered = Unordered::default();
    let mut open = containers.len();
    // What the window was told last, and when; when something came last.
    let (mut told, mut since, mut came) = (None, Instant::now() - GROWTH, Instant::now());
    loop {
        let ended = open == 0;
        if several && (ended || came.elapsed() >= GROWTH) {
            unordered.flush(&mut written(&lines));
        }
        let size = {
            let lines = lines.read().unwrap_or_else(PoisonError::into_inner);
            (lines.first(), lines.end(), ended)
        };
        if told != Some(size) && (ended || since.elapsed() >= GROWTH) {
            window.say(Message::LogSize { first: size.0, end: size.1, ended }).await?;
            (told, since) = (Some(size), Instant::now());
        }
        tokio::select! {
            next = from.recv(), if !ended => match next {
                Some(Next::Data(source, data)) => {
                    came = Instant::now();
                    let reader = &mut readers[usize::from(source)];
                    if several {
                        reader.feed(&data, |line, stderr| unordered.0.push((line.to_vec(), stderr, source)));
                    } else {
                        let mut lines = written(&lines);
                        reader.feed(&data, |line, stderr| lines.push(line, stderr, source));
                    }
                }
                Some(Next::End(source)) => {
                    let reader = &mut readers[usize::from(source)];
                    reader.finish(|line, stderr| unordered.0.push((line.to_vec(), stderr, source)));
                    if !several {
                        unordered.flush(&mut written(&lines));
                    }
                    open -= 1;
                }
                // A log that was cut off has ended as well.
                None => open = 0,
            },
            () = sleep(GROWTH), if told != Some(size) || !unordered.0.is_empty() => {}
            input = window.input.recv() => match input {
                None => return Err(End::Gone),
                Some(In::Input(Input::LogLines { id, from, count })) => {
                    let found = lines.read().unwrap_or_else(PoisonError::into_inner).lines(from, count);
                    window.say(Message::LogLines { id, lines: found }).await?;
                }
                Some(In::Input(Input::LogSearch { id, text, regex, case })) => {
                    search(window, id, &text, regex, case, lines.clone()).await?;
                }
                Some(In::Input(_) | In::Bytes(_)) => {}
            },
        }
    }
}

fn written(lines: &RwLock<Lines>) -> RwLockWriteGuard<'_, Lines> {
    lines.write().unwrap_or_else(PoisonError::into_inner)
}

async fn search(
    window: &Window,
    id: u32,
    text: &str,
    regex: bool,
    case: bool,
    lines: Arc<RwLock<Lines>>,
) -> Result<(), Gone> {
    let what = match expression(text, regex, case) {
        Ok(what) => what,
        Err(error) => {
            return window.say(Message::LogFound { id, total: 0, lines: vec![], error: Some(error) }).await;
        }
    };
    let found = tokio::task::spawn_blocking(move || {
        lines.read().unwrap_or_else(PoisonError::into_inner).search(&what)
    });
    let (total, lines) = found.await.map_err(|_| Gone)?;
    window.say(Message::LogFound { id, total, lines, error: None }).await
}
