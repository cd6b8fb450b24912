//! A container's output and input: `attach` and `logs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio_util::io::InspectReader;

use super::{MULTIPLEXED, RAW};
use crate::api::hijack::Hijacked;
use crate::api::reply::Reply;
use crate::api::request::Call;
use crate::container::{Command, Handle, Record, Status, log_options, spec};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::time;

/// `ctrl-p,ctrl-q` -> the bytes; empty text: Docker's default.
pub fn detach_keys(text: &str) -> Result<Option<Vec<u8>>> {
    let text = if text.is_empty() { "ctrl-p,ctrl-q" } else { text };
    let key = |name: &str| match name.strip_prefix("ctrl-") {
        Some(rest) => match rest.as_bytes() {
            [c @ b'a'..=b'z'] => Some(c - b'a' + 1),
            [b'@'] => Some(0),
            [b'['] => Some(27),
            [b'\\'] => Some(28),
            [b']'] => Some(29),
            [b'^'] => Some(30),
            [b'_'] => Some(31),
            _ => None,
        },
        None => match name.as_bytes() {
            [c] => Some(*c),
            _ => None,
        },
    };
    text.split(',')
        .map(key)
        .collect::<Option<Vec<u8>>>()
        .map(Some)
        .ok_or_else(|| Error::invalid(format!("Invalid detach keys ({text}) provided")))
}

/// Moves bytes both ways until the output ends, then waits for `ended` before it tells the client. The client's end of
/// input is the process's. Whether the client left by its keys (the shim lets it go by them, here they are only seen):
/// then nothing has ended.
pub async fn pump(
    io: Hijacked,
    attachment: runtime::Attachment,
    keys: Option<Vec<u8>>,
    ended: impl Future<Output = ()>,
) -> bool {
    let (from_client, mut to_client) = tokio::io::split(io);
    let runtime::Attachment { mut reader, mut writer } = attachment;
    let left = AtomicBool::new(false);
    let mut keys = keys.map(runtime::shim::DetachKeys::new);
    let mut from_client = InspectReader::new(from_client, |typed: &[u8]| {
        if keys.as_mut().is_some_and(|keys| keys.feed(typed).1) {
            left.store(true, Ordering::Relaxed);
        }
    });
    let input = async {
        let copied = tokio::io::copy(&mut from_client, &mut writer).await;
        if let Err(e) = writer.shutdown().await {
            tracing::debug!("end of input: {e} ({copied:?})");
        }
        // The output goes on: only its end ends the connection.
        std::future::pending::<()>().await;
    };
    let output = async {
        if let Err(e) = tokio::io::copy(&mut reader, &mut to_client).await {
            tracing::debug!("output: {e}");
        }
        if !left.load(Ordering::Relaxed) {
            ended.await;
        }
        if let Err(e) = to_client.shutdown().await {
            tracing::debug!("end of output: {e}");
        }
    };
    tokio::select! {
        () = input => {}
        () = output => {}
    }
    left.load(Ordering::Relaxed)
}

/// A container's streams as an attached client gets them.
pub(super) struct Attached {
    /// What was said before, where it was asked for.
    pub past: Option<crate::api::reply::ByteStream>,
    /// Comes when the container starts; never, when it is removed before. `None`: no stream was asked for.
    pub answer: Option<tokio::sync::oneshot::Receiver<runtime::Attachment>>,
    /// Whether the container has a terminal: its output is not in frames then.
    pub tty: bool,
    /// The keys by which the client leaves.
    pub keys: Option<Vec<u8>>,
    /// Who it is a client of.
    pub record: Arc<Record>,
}

/// Which streams an attached client asks for.
pub(super) struct Wants {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// What was said before comes without frames, terminal or not.
    pub raw: bool,
}

/// Registers a client with a container, running or not.
pub(super) async fn register(engine: &Arc<Engine>, call: &Call, wants: Wants) -> Result<Attached> {
    let handle = engine.containers.find(call.param(0))?;
    let view = handle.view();
    let record = view.record;
    if matches!(view.status, Status::Running { paused: true, .. }) {
        return Err(Error::conflict(format!(
            "container {} is paused, unpause the container before attach",
            record.id
        )));
    }
    if matches!(view.status, Status::Restarting) {
        return Err(Error::conflict(format!(
            "Container {} is restarting, wait until the container is running",
            record.id
        )));
    }
    let detach_keys = detach_keys(call.get("detachKeys"))?;
    let Wants { stdin, stdout, stderr, raw } = wants;
    let past = if call.flag("logs") {
        let want = LogWant { stdout, stderr, raw, ..LogWant::default() };
        Some(read_logs(engine, &handle, want).await?)
    } else {
        None
    };
    let mut answer = None;
    let keys = record.config.tty.then_some(detach_keys).flatten();
    if call.flag("stream") {
        let (reply, come) = tokio::sync::oneshot::channel();
        let want = runtime::AttachWant {
            stdin: stdin && record.config.open_stdin,
            stdout,
            stderr,
            detach_keys: keys.clone(),
        };
        // Registered before the answer goes out: the client starts the container only after it, and loses nothing.
        handle.send(Command::Attach { want, reply }).await?;
        answer = Some(come);
    }
    engine.container_event(&record, "attach", &[]);
    Ok(Attached { past, answer, tty: record.config.tty, keys, record })
}

pub async fn attach(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let wants = Wants {
        stdin: call.flag("stdin"),
        stdout: call.flag("stdout"),
        stderr: call.flag("stderr"),
        raw: false,
    };
    let Attached { past, answer, tty, keys, record } = register(&engine, &call, wants).await?;
    Ok(Reply::Hijack(
        if tty { RAW } else { MULTIPLEXED },
        Box::new(move |mut io| {
            Box::pin(async move {
                if let Some(mut past) = past {
                    while let Some(Ok(bytes)) = past.next().await {
                        if io.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                }
                if let Some(answer) = answer
                    && let Ok(attachment) = answer.await
                    && pump(io, attachment, keys, std::future::ready(())).await
                {
                    engine.container_event(&record, "detach", &[]);
                }
            })
        }),
    ))
}

#[derive(Default)]
struct LogWant {
    stdout: bool,
    stderr: bool,
    follow: bool,
    timestamps: bool,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
    tail: Option<u64>,
    /// Without frames, also where the container has no terminal.
    raw: bool,
    /// What stands before each line; see [`log_options::details`].
    details: Option<String>,
}

pub async fn logs(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let record = handle.view().record;
    let (stdout, stderr) = (call.flag("stdout"), call.flag("stderr"));
    if !stdout && !stderr {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
    }
    if record.host.log_config.r#type == "none" {
        return Err(Error::not_implemented("configured logging driver does not support reading"));
    }
    let point = |name: &str| match call.get(name) {
        "" | "0" => Ok(None),
        text => time::parse_query(text).map(Some),
    };
    let want = LogWant {
        stdout,
        stderr,
        follow: call.flag("follow"),
        timestamps: call.flag("timestamps"),
        since: point("since")?,
        until: point("until")?,
        tail: call.get("tail").parse().ok(),
        raw: false,
        details: call.flag("details").then(|| log_options::details(&record)),
    };
    let content_type = if record.config.tty { RAW } else { MULTIPLEXED };
    Ok(Reply::Stream(content_type, read_logs(&engine, &handle, want).await?))
}

/// The log as the client reads it: frames, or plain for a terminal.
async fn read_logs(engine: &Engine, handle: &Handle, want: LogWant) -> Result<crate::api::reply::ByteStream> {
    let view = handle.view();
    let record = view.record;
    let follow = (want.follow && view.status.is_running()).then(|| {
        let mut view = handle.watch();
        let ended = async move {
            // Ends when the container does; its task gone is the same.
            let _ = view.wait_for(|v| !v.status.is_running()).await;
        };
        Box::pin(ended) as runtime::logs::Ended
    });
    let options = runtime::logs::Options {
        since: want.since,
        until: want.until,
        tail: want.tail,
        no_stdout: !want.stdout,
        no_stderr: !want.stderr,
    };
    let path = spec::log_path(engine, &record);
    if !path.exists() {
        // Never started: nothing was said.
        return Ok(Box::pin(futures_util::stream::empty()));
    }
    let reader =
        runtime::logs::read(path, options, follow).await.map_err(|e| Error::internal(e.to_string()))?;
    let shape =
        Shape { raw: record.config.tty || want.raw, timestamps: want.timestamps, details: want.details };
    Ok(Box::pin(futures_util::stream::unfold(Some((reader, shape)), move |reader| async move {
        let (mut reader, shape) = reader?;
        let mut piece = Vec::new();
        // Many lines a piece: each costs the connection a chunk.
        while piece.len() < LOG_PIECE {
            if piece.is_empty() {
                match reader.next().await {
                    Ok(Some(entry)) => shape.write(&mut piece, &entry),
                    Ok(None) => return None,
                    Err(e) => return Some((Err(std::io::Error::other(e.to_string())), None)),
                }
            } else if let Some(entry) = reader.ready() {
                shape.write(&mut piece, &entry);
            } else {
                break;
            }
        }
        Some((Ok(Bytes::from(piece)), Some((reader, shape))))
    })))
}

/// Bytes of log gathered before they are sent, where more is ready.
const LOG_PIECE: usize = 64 << 10;

/// How a log's entries are sent.
struct Shape {
    /// Without frames.
    raw: bool,
    timestamps: bool,
    details: Option<String>,
}

impl Shape {
    fn write(&self, out: &mut Vec<u8>, entry: &runtime::logs::Entry) {
        let stamp = if self.timestamps { format!("{} ", entry.timestamp()) } else { String::new() };
        // An empty list of details is a space still, as with dockerd.
        let details = self.details.as_ref().map(|d| format!("{d} ")).unwrap_or_default();
        if !self.raw {
            let length = (stamp.len() + details.len() + entry.line.len()) as u32;
            out.extend([entry.stream.number(), 0, 0, 0]);
            out.extend(length.to_be_bytes());
        }
        out.extend(stamp.as_bytes());
        out.extend(details.as_bytes());
        out.extend(&entry.line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_control_characters_or_letters() {
        assert_eq!(detach_keys("").unwrap(), Some(vec![16, 17]));
        assert_eq!(detach_keys("ctrl-a,x").unwrap(), Some(vec![1, b'x']));
        assert!(detach_keys("ctrl-A").is_err());
        assert!(detach_keys("nope").is_err());
    }
}
