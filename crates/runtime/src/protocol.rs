//! What the engine and a shim say to each other, over a unix stream socket.
//!
//! ```text
//!   frame     := length: u32 LE (of what follows, <= MAX_FRAME) | body (postcard)
//!   client    -> Hello{version}                    first frame of every connection
//!   shim      -> Hello{version, init, state, ...}  the shim's answer
//!   client    -> Request{id, call}  ...            any number, answered in any order
//!   shim      -> Reply{id, result} | Event
//! ```
//! `Call::Attach` ends the framed part: after its `Reply` the connection carries raw bytes, the process's output one
//! way (Docker's stdcopy frames unless there is a tty), its stdin the other; a half-close is stdin's EOF.
//!
//! The engine is replaced while shims live on, so enums here only ever grow at the end, and a shim answers
//! `VERSION` and serves any client of the same major version. The first connection of a shim is the socket it was
//! started with as fd 0; its first frame is the [`crate::plan::Plan`], answered by `Reply{id: 0}`.

use crate::plan::{ProcessPlan, StdinPlan};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The protocol's version.
pub(crate) const VERSION: u32 = 1;
/// The largest frame, bytes. A plan carries the environment, the mounts and a seccomp program: a few dozen KiB.
pub(crate) const MAX_FRAME: usize = 4 * 1024 * 1024;
/// The process number of the container's init; execs count from 1.
pub(crate) const INIT: u32 = 0;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToShim {
    Hello { version: u32 },
    Request { id: u32, call: Call },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    Start {
        process: u32,
    },
    Kill {
        process: u32,
        signal: i32,
    },
    Resize {
        process: u32,
        rows: u16,
        cols: u16,
    },
    Attach {
        process: u32,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        detach_keys: Vec<u8>,
    },
    /// Makes a process in the container, paused before its exec.
    Exec {
        process: Box<ProcessPlan>,
        stdin: StdinPlan,
    },
    /// The shim ends once nothing runs; with a running container it kills that first.
    Shutdown,
    /// As `Exec`, by the OCI runtime that made the container.
    OciExec {
        exec: Box<OciExec>,
        stdin: StdinPlan,
    },
}

/// A process for another OCI runtime to make.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OciExec {
    /// The specification's `process`, JSON.
    pub process: String,
    pub tty: bool,
    /// Rows, columns.
    pub console_size: Option<(u16, u16)>,
    pub stdout: bool,
    pub stderr: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromShim {
    Hello {
        version: u32,
        /// The init's pid in the shim's pid namespace.
        pid: u32,
        started: bool,
        exit: Option<ExitRecord>,
    },
    Reply {
        id: u32,
        result: Result<Done, Failure>,
    },
    /// A process has ended and its output has been written to log and clients.
    Exited {
        process: u32,
        exit: ExitRecord,
    },
    /// The log at this path has a file more that is complete and may be compressed.
    PutAside {
        log: String,
    },
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Done {
    Nothing,
    /// Created: the process's number and pid.
    Process {
        process: u32,
        pid: u32,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    /// Exit status, or 128 + signal.
    pub code: u8,
    /// Nanoseconds since 1970.
    pub finished_at: u64,
    pub oom_killed: bool,
}

/// Why a call failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FailureKind {
    CommandNotFound,
    CommandNotExecutable,
    Invalid,
    NotRunning,
    Internal,
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into() }
    }
    pub fn internal(message: impl Into<String>) -> Failure {
        Failure::new(FailureKind::Internal, message)
    }
}

/// One frame around `body`.
pub(crate) fn encode<T: Serialize>(body: &T) -> Vec<u8> {
    let mut frame = postcard::to_extend(body, vec![0; 4]).unwrap_or_default();
    let length = u32::try_from(frame.len().saturating_sub(4)).unwrap_or(u32::MAX);
    if let Some(head) = frame.get_mut(..4) {
        head.copy_from_slice(&length.to_le_bytes());
    }
    frame
}

/// Takes one frame off the front of `buffer`; `Ok(None)` = more bytes are needed.
pub(crate) fn take<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> Result<Option<T>, Failure> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*head) as usize;
    if length > MAX_FRAME {
        return Err(Failure::internal(format!("a frame of {length} bytes is over the limit of {MAX_FRAME}")));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let body = postcard::from_bytes(&buffer[4..4 + length])
        .map_err(|e| Failure::internal(format!("a frame could not be read: {e}")))?;
    buffer.drain(..4 + length);
    Ok(Some(body))
}
