//! vfkit's control: HTTP over a unix socket, a connection for each request. `GET /vm/state` tells the state, `POST
//! /vm/state` changes it (vfkit's doc/usage.md and pkg/rest).

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::platform;

/// Time in which vfkit must answer.
pub const LIMIT: Duration = Duration::from_secs(5);
/// Most bytes of an answer.
const ANSWER: u64 = 64 * 1024;

/// Where vfkit is asked.
#[derive(Debug, Clone)]
pub struct Rest {
    socket: PathBuf,
}

/// What a guest does, as the framework names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum State {
    #[serde(rename = "VirtualMachineStateStopped")]
    Stopped,
    #[serde(rename = "VirtualMachineStateRunning")]
    Running,
    #[serde(rename = "VirtualMachineStatePaused")]
    Paused,
    #[serde(rename = "VirtualMachineStateError")]
    Error,
    /// Starting, pausing, resuming, stopping, saving, restoring.
    #[serde(other)]
    Between,
}

/// What it is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Stop,
    HardStop,
    Pause,
    Resume,
}

impl Rest {
    /// The one at a socket.
    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the guest does.
    pub async fn state(&self) -> io::Result<State> {
        #[derive(Deserialize)]
        struct Answer {
            state: State,
        }
        let body = self.ask("GET", "").await?;
        serde_json::from_slice(&body).map(|answer: Answer| answer.state).map_err(io::Error::other)
    }

    /// Asks for a change; it has begun when this returns.
    pub async fn change(&self, change: Change) -> io::Result<()> {
        self.ask("POST", &format!("{{\"state\":\"{change:?}\"}}")).await.map(drop)
    }

    async fn ask(&self, method: &str, body: &str) -> io::Result<Vec<u8>> {
        let request = format!(
            "{method} /vm/state HTTP/1.1\r\nHost: vfkit\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let ask = async {
            let mut socket = platform::connect(&self.socket).await?;
            socket.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            socket.take(ANSWER).read_to_end(&mut answer).await?;
            parse(&answer)
        };
        timeout(LIMIT, ask).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// The body of an answer that says yes. Its docs say 200, its sources 202.
fn parse(answer: &[u8]) -> io::Result<Vec<u8>> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = match head {
        Some(at) => (String::from_utf8_lossy(&answer[..at]), &answer[at + 4..]),
        None => return Err(io::Error::other("it closed the connection without an answer")),
    };
    // Older krunkits send their text as C has it, with the null that ends it, and no length (src/status.rs).
    let body = body.strip_suffix(b"\0").unwrap_or(body);
    match head.split(' ').nth(1) {
        Some("200" | "202") => Ok(body.to_vec()),
        Some(code) => {
            Err(io::Error::other(format!("it answered {code}: {}", String::from_utf8_lossy(body).trim())))
        }
        None => Err(io::Error::other("its answer is no HTTP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_vfkit_gives_them() {
        let of = |text: &str| parse(text.as_bytes()).map_err(|e| e.to_string());
        assert_eq!(of("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").unwrap(), b"");
        let refused = "HTTP/1.1 500 Internal Server Error\r\n\r\n{\"error\":\"invalid state\"}";
        assert!(of(refused).unwrap_err().contains("500: {\"error\":\"invalid state\"}"));
        assert!(of("").is_err() && of("nonsense\r\n\r\n").is_err());
    }

    #[test]
    fn answers_as_krunkit_gives_them() {
        let old = "HTTP/1.1 200 OK\r\nContent-type: application/json\r\n\r\n{\"state\": \"VirtualMachineStateRunning\"}\0";
        assert_eq!(parse(old.as_bytes()).unwrap(), b"{\"state\": \"VirtualMachineStateRunning\"}");
    }

    #[test]
    fn every_state_is_understood() {
        let of =
            |name: &str| serde_json::from_str::<State>(&format!("\"VirtualMachineState{name}\"")).unwrap();
        assert_eq!(of("Running"), State::Running);
        assert_eq!(of("Resuming"), State::Between);
    }
}
