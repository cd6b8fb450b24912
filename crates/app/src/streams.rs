//! What goes on: each a task of its own between the engine and one window, ended when the window lets go of it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::{interval, sleep, timeout},
};

use crate::{
    App, AppError, body_of, docker, empty, import, log_stream,
    registries::{self, Config},
    tools, transfer,
    tree::{Reader, Tree},
    usage,
    words::{Input, Message, Open, State, Tool},
};

/// Messages on their way to a window, and from it: then the engine, or the window, waits.
const QUEUE: usize = 64;
/// How often the machine's state is looked at: while it changes, and while it runs.
const LOOK: (Duration, Duration) = (Duration::from_millis(150), Duration::from_secs(2));
/// How often a window hears how much has come or gone.
const TELL: Duration = Duration::from_millis(200);
/// Lines of one message, and longest line that may come.
const BATCH: usize = 512;
const LONGEST: usize = 16 << 20;
/// Bytes a terminal reads at a time.
const TERMINAL: usize = 16 * 1024;
/// Lines of a program that are kept to say why it failed.
const LAST_WORDS: usize = 40;

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
pub(crate) struct Gone;

/// One window's side of a stream.
pub(crate) struct Window {
    pub(crate) app: App,
    pub(crate) out: mpsc::Sender<Out>,
    pub(crate) input: mpsc::Receiver<In>,
}

/// Why a stream ends before its time.
pub(crate) enum End {
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
            Open::Lines { method, path, registry } => window.lines(&method, &path, registry.as_deref()).await,
            Open::Logs { containers, only } => log_stream::follow(&mut window, &containers, only).await,
            Open::Usage => usage::follow(&mut window).await,
            Open::Tree { container, path } => window.tree(&container, &path).await,
            Open::Send { method, path, file, pack } => {
                transfer::send(&mut window, &method, &path, &file, pack).await
            }
            Open::Receive { path, file } => transfer::receive(&mut window, &path, &file).await,
            Open::Copy { from, to } => transfer::copy(&mut window, &from, &to).await,
            Open::Import { socket, images, volumes } => {
                import::import(&mut window, &socket, images, volumes).await
            }
            Open::Tool { tool } => window.tool(&tool).await,
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
    pub(crate) async fn say(&self, message: Message) -> Result<(), Gone> {
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
                input = self.input.recv() => match input {
                    // Who asks may have missed a state between two looks that were alike: it is told again.
                    Some(_) => last = None,
                    None => return Err(End::Gone),
                },
            }
        }
    }

    async fn lines(&mut self, method: &str, path: &str, registry: Option<&str>) -> Result<(), End> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(registry) = registry
            && let Some(kept) = Config::load()?.get(registry).await
        {
            request = request.header("X-Registry-Auth", kept.header(&registries::key(registry)));
        }
        let request = request.body(empty());
        let request = request.map_err(|e| AppError::Request(format!("{method} {path}: {e}")))?;
        let response = self.app.docker(request).await?;
        self.pass_on(response, None).await
    }

    /// Passes an answer on line by line; beside it how much of the request's body has gone.
    pub(crate) async fn pass_on(
        &mut self,
        response: hyper::Response<hyper::body::Incoming>,
        gone: Option<(Arc<AtomicU64>, u64)>,
    ) -> Result<(), End> {
        if !response.status().is_success() {
            return Err(End::Failed(docker::refusal(response).await));
        }
        self.say(Message::Opened).await?;
        let (mut body, mut waiting, mut tick) = (response.into_body(), Waiting::default(), interval(TELL));
        loop {
            tokio::select! {
                frame = body.frame() => {
                    let Some(frame) = frame else { break };
                    let Ok(data) = frame?.into_data() else { continue };
                    let lines = waiting.feed(&data)?;
                    self.batches(lines).await?;
                }
                _ = tick.tick(), if gone.is_some() => {
                    if let Some((gone, of)) = &gone {
                        let bytes = gone.load(Ordering::Relaxed);
                        self.say(Message::Moved { bytes, of: Some(*of) }).await?;
                    }
                }
            }
        }
        let lines = waiting.finish();
        Ok(self.batches(lines).await?)
    }

    async fn batches(&self, lines: Vec<String>) -> Result<(), Gone> {
        for batch in lines.chunks(BATCH) {
            self.say(Message::Lines { lines: batch.to_vec() }).await?;
        }
        Ok(())
    }

    /// Runs a program; what it says comes line by line, and its end is the stream's. Let go of, it is killed.
    async fn tool(&mut self, tool: &Tool) -> Result<(), End> {
        let mut command = tools::command(&self.app, tool)?;
        let name = command.as_std().get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().map_err(|e| AppError::Tool(format!("{name}: {e}")))?;
        self.say(Message::Opened).await?;
        let mut outs = (child.stdout.take(), child.stderr.take());
        let mut waiting = [Waiting::default(), Waiting::default()];
        let mut last: VecDeque<String> = VecDeque::new();
        let mut buffers = [vec![0; TERMINAL], vec![0; TERMINAL]];
        while outs.0.is_some() || outs.1.is_some() {
            let [one, two] = &mut buffers;
            let (which, read) = tokio::select! {
                read = read_from(&mut outs.0, one) => (0, read),
                read = read_from(&mut outs.1, two) => (1, read),
            };
            let lines = match read {
                Ok(n) if n > 0 => waiting[which].feed(&buffers[which][..n])?,
                _ => {
                    if which == 0 {
                        outs.0 = None
                    } else {
                        outs.1 = None
                    }
                    waiting[which].finish()
                }
            };
            for line in &lines {
                if last.len() == LAST_WORDS {
                    last.pop_front();
                }
                last.push_back(line.clone());
            }
            self.batches(lines).await?;
        }
        let status = child.wait().await.map_err(|e| AppError::Tool(format!("{name}: {e}")))?;
        if status.success() {
            return Ok(());
        }
        let why = tools::reason(last.make_contiguous());
        Err(AppError::Tool(if why.is_empty() { format!("{name} ended with {status}") } else { why }).into())
    }

    /// Reads an archive's heads, then answers for folders.
    async fn tree(&mut self, container: &str, path: &str) -> Result<(), End> {
        let query: String = path
            .bytes()
            .map(|b| match b {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                    char::from(b).to_string()
                }
                other => format!("%{other:02X}"),
            })
            .collect();
        let container = log_stream::plain_name(container)?;
        let request = Request::get(format!("/containers/{container}/archive?path={query}"))
            .body(empty())
            .map_err(|e| AppError::Request(e.to_string()))?;
        let response = self.app.docker(request).await?;
        if !response.status().is_success() {
            return Err(End::Failed(docker::refusal(response).await));
        }
        let (mut tree, mut reader) = (Tree::default(), Reader::default());
        let (mut body, mut bytes, mut tick) = (response.into_body(), 0, interval(TELL));
        let mut asked = Vec::new();
        loop {
            tokio::select! {
                frame = body.frame() => {
                    let Some(frame) = frame else { break };
                    let Ok(data) = frame?.into_data() else { continue };
                    bytes += data.len() as u64;
                    reader.feed(&data, &mut tree).map_err(|e| AppError::Request(e.to_string()))?;
                }
                _ = tick.tick() => self.say(Message::Moved { bytes, of: None }).await?,
                input = self.input.recv() => match input {
                    None => return Err(End::Gone),
                    Some(In::Input(Input::Folder { id, path })) => asked.push((id, path)),
                    Some(_) => {}
                },
            }
        }
        self.say(Message::Opened).await?;
        for (id, path) in asked {
            self.say(Message::Folder { id, entries: tree.folder(&path) }).await?;
        }
        while let Some(input) = self.input.recv().await {
            if let In::Input(Input::Folder { id, path }) = input {
                self.say(Message::Folder { id, entries: tree.folder(&path) }).await?;
            }
        }
        Err(End::Gone)
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

/// Reads on; from one that has ended, never.
async fn read_from(
    from: &mut Option<impl tokio::io::AsyncRead + Unpin>,
    buffer: &mut [u8],
) -> std::io::Result<usize> {
    match from {
        Some(from) => from.read(buffer).await,
        None => std::future::pending().await,
    }
}

/// Bytes that are no line yet.
#[derive(Default)]
struct Waiting(Vec<u8>);

impl Waiting {
    /// Takes bytes as they come; answers the lines that are whole by now, without empty ones.
    fn feed(&mut self, data: &[u8]) -> Result<Vec<String>, AppError> {
        self.0.extend_from_slice(data);
        let Some(end) = self.0.iter().rposition(|b| *b == b'\n') else {
            if self.0.len() > LONGEST {
                return Err(AppError::Request("a line without an end came".into()));
            }
            return Ok(Vec::new());
        };
        let whole: Vec<u8> = self.0.drain(..=end).collect();
        Ok(split(&whole))
    }

    fn finish(&mut self) -> Vec<String> {
        split(&std::mem::take(&mut self.0))
    }
}

fn split(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().map(str::trim_end).filter(|l| !l.trim().is_empty()).map(str::to_owned).collect()
}
