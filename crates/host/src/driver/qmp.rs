//! QEMU's monitor protocol: lines of JSON over a socket. One task owns the connection; commands are sent without
//! waiting for their answers (an error is logged), events are told.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    sync::mpsc,
    time::timeout,
};

use crate::platform;

/// Time in which QEMU must greet.
const GREETING_LIMIT: Duration = Duration::from_secs(5);
/// Commands that wait to be sent.
const QUEUE: usize = 16;

/// A monitor; dropping it closes the connection.
pub struct Monitor {
    commands: mpsc::Sender<Value>,
}

/// What the monitor says.
#[derive(Debug)]
pub enum Said {
    /// An event: its name and data.
    Event(String, Value),
    /// The status asked for on connecting: `running`, `io-error`, `guest-panicked`, ...
    Status(String),
    /// The connection ended.
    Gone,
}

impl Monitor {
    /// Connects and asks for the status; everything said is passed to `tell`.
    pub async fn connect(path: &Path, tell: impl Fn(Said) + Send + 'static) -> std::io::Result<Self> {
        let (reader, mut writer) = tokio::io::split(platform::connect(path).await?);
        let mut reader = BufReader::new(reader).lines();
        let greeting =
            timeout(GREETING_LIMIT, next(&mut reader)).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
        if greeting.is_none_or(|g| g.get("QMP").is_none()) {
            return Err(std::io::Error::other("that is no QEMU monitor"));
        }
        for command in ["qmp_capabilities", "query-status"] {
            writer.write_all(json!({ "execute": command, "id": command }).to_string().as_bytes()).await?;
        }
        let (commands, mut asked) = mpsc::channel::<Value>(QUEUE);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    line = next(&mut reader) => match line {
                        Ok(Some(line)) => hear(&line, &tell),
                        Ok(None) | Err(_) => return tell(Said::Gone),
                    },
                    command = asked.recv() => {
                        let Some(command) = command else { return };
                        if writer.write_all(command.to_string().as_bytes()).await.is_err() {
                            return tell(Said::Gone);
                        }
                    }
                }
            }
        });
        Ok(Self { commands })
    }

    /// Sends a command.
    pub fn send(&self, command: &str) {
        let _ = self.commands.try_send(json!({ "execute": command, "id": command }));
    }
}

/// The next line; cancel-safe.
async fn next(lines: &mut Lines<impl AsyncBufRead + Unpin>) -> std::io::Result<Option<Value>> {
    match lines.next_line().await? {
        Some(line) => serde_json::from_str(&line).map(Some).map_err(std::io::Error::other),
        None => Ok(None),
    }
}

fn hear(line: &Value, tell: &impl Fn(Said)) {
    if let Some(event) = line.get("event").and_then(Value::as_str) {
        tell(Said::Event(event.to_owned(), line.get("data").cloned().unwrap_or(Value::Null)));
    } else if let Some(error) = line.get("error") {
        let id = line.get("id").and_then(Value::as_str).unwrap_or("a command");
        tracing::warn!("QEMU refused {id}: {error}");
    } else if line.get("id").and_then(Value::as_str) == Some("query-status")
        && let Some(status) = line.pointer("/return/status").and_then(Value::as_str)
    {
        tell(Said::Status(status.to_owned()));
    }
}
