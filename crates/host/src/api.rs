//! The control socket: frames of [`wire::frame`], first a [`Hello`] each way, then requests and their answers in turn.
//! After [`Request::Shell`] is answered with [`Answer::Done`] the connection is the shell's bytes.

use std::{path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use link::{Frames, LinkError, write_frame};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf},
    time::{Instant, sleep},
};

use crate::{BUILD, Home, HostError, RELEASE, platform};

/// The control protocol's version; it only grows, and a daemon serves all before.
pub const VERSION: u32 = 1;
/// Time in which a daemon just started must answer, and pause between two looks for it.
const DAEMON_LIMIT: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(10);

/// First frame, each way. Frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The sender's [`VERSION`].
    pub version: u32,
    /// Its release.
    pub release: String,
    /// Its build.
    pub build: String,
}

impl Hello {
    /// This build's.
    pub fn ours() -> Self {
        Self { version: VERSION, release: RELEASE.into(), build: BUILD.into() }
    }
}

/// What a client may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// How is the machine?
    Status,
    /// Start it; answered when it runs or has failed.
    Start,
    /// Frozen: stop it in order within the grace, then end the daemon.
    Stop {
        /// Seconds for the engine and its containers.
        grace_s: u64,
    },
    /// A shell in the guest.
    Shell {
        /// Columns of the terminal.
        columns: u16,
        /// Rows of the terminal.
        rows: u16,
    },
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// Done.
    Done,
    /// Not done.
    Failed(Failure),
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub code: String,
    /// For people: what, why, what to do.
    pub message: String,
}

impl From<&HostError> for Failure {
    fn from(error: &HostError) -> Self {
        Self { code: error.code().to_owned(), message: one_line(&error.to_string()) }
    }
}

/// What others said may have lines; an error is one.
pub(crate) fn one_line(text: &str) -> String {
    text.trim().lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ")
}

impl From<Failure> for HostError {
    fn from(failure: Failure) -> Self {
        Self::Remote { code: failure.code, message: failure.message }
    }
}

/// How the machine is: what `coracle status --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What it is doing.
    pub state: StateName,
    /// Stopped because nobody used it: the next use of Docker's socket starts it.
    #[serde(default)]
    pub asleep: bool,
    /// `qemu`, `vfkit`, `krunkit`, `wsl` or `local`.
    pub driver: Option<String>,
    /// `kvm`, `tcg` or none.
    pub accel: Option<String>,
    /// Why this accelerator, where another was wished for.
    pub accel_note: Option<String>,
    /// Process of the driver.
    pub pid: Option<u32>,
    /// Docker's socket.
    pub socket: String,
    /// The daemon, when there is one.
    pub daemon: Option<DaemonInfo>,
    /// The guest, when it has answered.
    pub guest: Option<GuestInfo>,
    /// What is wrong, if anything is.
    pub error: Option<Failure>,
}

impl Status {
    /// The status when no daemon runs.
    pub fn stopped(home: &Home) -> Self {
        Self {
            state: StateName::Stopped,
            asleep: false,
            driver: None,
            accel: None,
            accel_note: None,
            pid: None,
            socket: home.docker_socket().display().to_string(),
            daemon: None,
            guest: None,
            error: None,
        }
    }
}

/// States, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateName {
    /// Off.
    Stopped,
    /// Booting.
    Starting,
    /// The engine takes connections.
    Running,
    /// Going off in order.
    Stopping,
    /// It failed; the status' error says how.
    Failed,
}

impl std::fmt::Display for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
        })
    }
}

/// The daemon's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonInfo {
    /// Release.
    pub version: String,
    /// Build.
    pub build: String,
    /// Process.
    pub pid: u32,
}

/// The guest's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestInfo {
    /// Release of its PID 1.
    pub version: String,
    /// Build of its PID 1.
    pub build: String,
    /// Version of the protocol that is spoken with it.
    pub api: u32,
}

/// A connection to the daemon.
pub struct Client {
    frames: Frames<ReadHalf<platform::Socket>>,
    writer: WriteHalf<platform::Socket>,
    /// Who answers.
    pub daemon: Hello,
}

impl Client {
    /// Connects to the home's daemon; [`HostError::NotRunning`] when there is none.
    pub async fn connect(home: &Home) -> Result<Self, HostError> {
        let socket = match platform::connect(&home.control_socket()).await {
            Ok(socket) => socket,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Err(HostError::NotRunning);
            }
            Err(error) => return Err(HostError::io("connecting to", home.control_socket())(error)),
        };
        let (reader, mut writer) = tokio::io::split(socket);
        let mut frames = Frames::new(reader);
        let greeted = async {
            write_frame(&mut writer, &Hello::ours()).await?;
            frames.next().await
        };
        let daemon = match greeted.await {
            Ok(hello) => hello.ok_or(HostError::NotRunning)?,
            // A daemon that was killed just now: its socket takes connections a little longer than it lives.
            Err(LinkError::Io(error)) if ended(&error) => return Err(HostError::NotRunning),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { frames, writer, daemon })
    }

    /// Connects to the home's daemon; `program daemon` is started when there is none.
    pub async fn connect_or_start(home: &Home, program: &Path) -> Result<Self, HostError> {
        match Self::connect(home).await {
            Err(HostError::NotRunning) => {}
            other => return other,
        }
        let mut child = platform::spawn_daemon(program, &["daemon", "--idle"])?;
        let deadline = Instant::now() + DAEMON_LIMIT;
        loop {
            match Self::connect(home).await {
                Err(HostError::NotRunning) => {}
                other => return other,
            }
            let ended = child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                // Somebody else may have won the race for the home's lock: their daemon serves us as well.
                if let Ok(client) = Self::connect(home).await {
                    return Ok(client);
                }
                let how = ended
                    .map_or_else(|| format!("did not answer within {DAEMON_LIMIT:?}"), |s| s.to_string());
                let said = crate::tail(&home.daemon_log(), 3);
                return Err(HostError::Daemon(format!("it could not be started ({how}): {said}")));
            }
            sleep(LOOK).await; // it makes its socket when it likes
        }
    }

    /// Asks, and waits for the answer.
    pub async fn ask(&mut self, request: &Request) -> Result<Answer, HostError> {
        write_frame(&mut self.writer, request).await?;
        match self.frames.next().await? {
            Some(Answer::Failed(failure)) => Err(failure.into()),
            Some(answer) => Ok(answer),
            None => Err(HostError::Daemon("it ended before it answered; `coracle logs` shows why".into())),
        }
    }

    /// The machine's status.
    pub async fn status(&mut self) -> Result<Status, HostError> {
        match self.ask(&Request::Status).await? {
            Answer::Status(status) => Ok(*status),
            other => Err(HostError::Daemon(format!("it answered {other:?} to a question for its status"))),
        }
    }

    /// Turns the connection into a shell's: its input and output.
    pub async fn shell(
        mut self,
        columns: u16,
        rows: u16,
    ) -> Result<(impl AsyncRead + Unpin, impl AsyncWrite + Unpin), HostError> {
        self.ask(&Request::Shell { columns, rows }).await?;
        Ok((self.frames.into_rest(), self.writer))
    }
}

fn ended(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

impl From<std::io::Error> for HostError {
    fn from(error: std::io::Error) -> Self {
        Self::Link(LinkError::Io(error))
    }
}
