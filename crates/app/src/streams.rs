//! What goes on: each a task of its own between the engine and one window, ended when the window lets go of it.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{
    App, AppError, body_of, docker, empty,
    logs::{Lines, Reader, expression},
    words::{Input, Message, Open, State},
};

/// Messages on their way to a window, and from it: then the engine, or the window, waits.
const QUEUE: usize = 64;
/// How often the machine's state is looked at: while it changes, and while it runs.
const LOOK: (Duration, Duration) = (Duration::from_millis(150), Duration::from_secs(1));
/// How often a window hears of a log that grows.
const GROWTH: Duration = Duration::from_millis(50);
/// Lines of one message, and longest line that may come.
const BATCH: usize = 512;
const LONGEST: usize = 16 << 20;
/// Bytes a terminal reads at a time.
const TERMINAL: usize = 16 * 1024;

/// To a window: a message, or bytes of a terminal.
#[derive(Debug)]
pub enum Out {
    /// A message.
    Message(Message),
    /// Bytes, as they came.
    Bytes(Bytes),
}

/// From a window.
#[derive(Debug)]
pub enum In {
    /// A message.
    Input(Input),
    /// What was typed.
    Bytes(Bytes),
}

/// An open stream. Dropped, it ends.
#[derive(Debug)]
pub struct Stream {
    /// What comes.
    pub from: mpsc::Receiver<Out>,
    /// What is said to it.
    pub to: mpsc::Sender<In>,
    /// Ends its task when the stream is dropped.
    pub guard: Guard,
}

/// Ends a stream's task.
#[derive(Debug)]
pub struct Guard(tokio::task::JoinHandle<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The window is gone: nobody hears an answer.
struct Gone;

struct Window {
    app: App,
    out: mpsc::Sender<Out>,
    input: mpsc::Receiver<In>,
}

/// Why a stream ends before its time.
enum End {
    Gone,
    Failed(AppError),
}

impl From<Gone> for End {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl<E: Into<AppError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Opens one.
pub fn open(app: App, what: Open) -> Stream {
    let (out, from) = mpsc::channel(QUEUE);
    let (to, input) = mpsc::channel(QUEUE);
    let task = tokio::spawn(async move {
        let mut window = Window { app, out, input };
        let ended = match what {
            Open::Machine => window.machine().await,
            Open::Lines { method, path } => window.lines(&method, &path).await,
            Open::Logs { container, tty } => window.logs(&container, tty).await,
            Open::Terminal { path, body } => window.terminal(&path, body).await,
        };
        let last = match ended {
            Ok(()) => Message::Ended,
            Err(End::Failed(error)) => Message::Failed { failure: error.failure() },
            Err(End::Gone) => return,
        };
        let _ = window.say(last).await;
    });
    Stream { from, to, guard: Guard(task) }
}

impl Window {
    async fn say(&self, message: Message) -> Result<(), Gone> {
        self.out.send(Out::Message(message)).await.map_err(|_| Gone)
    }

    /// The control API tells nobody of changes: it is asked, here and not in each window.
    async fn machine(&mut self) -> Result<(), End> {
        let mut last = None;
        loop {
            let machine = self.app.machine().await?;
            let pause = if machine.state == State::Running { LOOK.1 } else { LOOK.0 };
            if last.as_ref() != Some(&machine) {
                self.say(Message::Machine { machine: machine.clone() }).await?;
                last = Some(machine);
            }
            // The daemon's socket has no event to wait for. Any input asks for a look at once.
            tokio::select! {
                () = sleep(pause) => {}
                input = self.input.recv() => if input.is_none() { return Err(End::Gone) },
            }
        }
    }

    async fn lines(&mut self, method: &str, path: &str) -> Result<(), End> {
        let request = Request::builder().method(method).uri(path).body(empty());
        let request = request.map_err(|e| AppError::Request(format!("{method} {path}: {e}")))?;
        let response = self.app.docker(request).await?;
        if !response.status().is_success() {
            return Err(End::Failed(docker::refusal(response).await));
        }
        self.say(Message::Opened).await?;
        let mut body = response.into_body();
        let mut waiting = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            waiting.extend_from_slice(&data);
            let Some(end) = waiting.iter().rposition(|b| *b == b'\n') else {
                if waiting.len() > LONGEST {
                    return Err(AppError::Request("the engine sent a line without an end".into()).into());
                }
                continue;
            };
            let whole: Vec<u8> = waiting.drain(..=end).collect();
            self.batches(&whole).await?;
        }
        Ok(self.batches(&waiting).await?)
    }

    async fn batches(&self, bytes: &[u8]) -> Result<(), Gone> {
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<String> =
            text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
        for batch in lines.chunks(BATCH) {
            self.say(Message::Lines { lines: batch.to_vec() }).await?;
        }
        Ok(())
    }

    async fn logs(&mut self, container: &str, tty: bool) -> Result<(), End> {
        if !container.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
            return Err(AppError::Request(format!("{container:?} is no container's name")).into());
        }
        let path = format!("/containers/{container}/logs?follow=1&stdout=1&stderr=1&timestamps=1&tail=all");
        let request = Request::get(path).body(empty()).map_err(|e| AppError::Request(e.to_string()))?;
        let response = self.app.docker(request).await?;
        if !response.status().is_success() {
            return Err(End::Failed(docker::refusal(response).await));
        }
        self.say(Message::Opened).await?;
        let lines = Arc::new(RwLock::new(Lines::default()));
        let mut reader = Reader::new(tty);
        let mut body = response.into_body();
        // What the window was told last, and when.
        let (mut told, mut since) = (None, Instant::now() - GROWTH);
        let mut ended = false;
        loop {
            let size = {
                let lines = lines.read().unwrap_or_else(PoisonError::into_inner);
                (lines.first(), lines.end(), ended)
            };
            if told != Some(size) && (ended || since.elapsed() >= GROWTH) {
                self.say(Message::LogSize { first: size.0, end: size.1, ended }).await?;
                (told, since) = (Some(size), Instant::now());
            }
            tokio::select! {
                frame = body.frame(), if !ended => match frame.transpose()? {
                    Some(frame) => if let Ok(data) = frame.into_data() {
                        reader.feed(&data, &mut lines.write().unwrap_or_else(PoisonError::into_inner));
                    },
                    None => {
                        reader.finish(&mut lines.write().unwrap_or_else(PoisonError::into_inner));
                        ended = true;
                    }
                },
                () = sleep(GROWTH), if told != Some(size) => {}
                input = self.input.recv() => match input {
                    None => return Err(End::Gone),
                    Some(In::Bytes(_)) => {}
                    Some(In::Input(Input::LogLines { id, from, count })) => {
                        let found = lines.read().unwrap_or_else(PoisonError::into_inner).lines(from, count);
                        self.say(Message::LogLines { id, lines: found }).await?;
                    }
                    Some(In::Input(Input::LogSearch { id, text, regex, case })) => {
                        self.search(id, &text, regex, case, lines.clone()).await?;
                    }
                },
            }
        }
    }

    async fn search(
        &self,
        id: u32,
        text: &str,
        regex: bool,
        case: bool,
        lines: Arc<RwLock<Lines>>,
    ) -> Result<(), Gone> {
        let what = match expression(text, regex, case) {
            Ok(what) => what,
            Err(error) => {
                return self.say(Message::LogFound { id, total: 0, lines: vec![], error: Some(error) }).await;
            }
        };
        let found = tokio::task::spawn_blocking(move || {
            lines.read().unwrap_or_else(PoisonError::into_inner).search(&what)
        });
        let (total, lines) = found.await.map_err(|_| Gone)?;
        self.say(Message::LogFound { id, total, lines, error: None }).await
    }

    async fn terminal(&mut self, path: &str, body: Option<String>) -> Result<(), End> {
        /// What is still on its way when the input has ended.
        const REST: Duration = Duration::from_secs(5);
        let request = Request::post(path)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "tcp")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.map_or_else(empty, body_of))
            .map_err(|e| AppError::Request(format!("POST {path}: {e}")))?;
        let response = self.app.docker(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(End::Failed(docker::refusal(response).await));
        }
        self.say(Message::Opened).await?;
        let upgraded = hyper::upgrade::on(response).await?;
        let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
        let mut buffer = vec![0; TERMINAL];
        loop {
            tokio::select! {
                read = from.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return Ok(()),
                    Ok(n) => {
                        let bytes = Bytes::copy_from_slice(&buffer[..n]);
                        self.out.send(Out::Bytes(bytes)).await.map_err(|_| Gone)?;
                    }
                },
                input = self.input.recv() => match input {
                    Some(In::Bytes(bytes)) => if to.write_all(&bytes).await.is_err() { return Ok(()) },
                    Some(In::Input(_)) => {}
                    None => {
                        let _ = timeout(REST, to.shutdown()).await;
                        return Err(End::Gone);
                    }
                },
            }
        }
    }
}
