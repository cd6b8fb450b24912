//! What the window needs beyond its shell: the same calls whether they come from the window itself or, in a plain
//! browser, over the [`bridge`].
//!
//! ```text
//!  ui --invoke-----------> src-tauri --.
//!  ui --HTTP, WebSocket--> bridge -----+--> App   docker   one request, passed on as it is
//!                                             |   control  the machine: the daemon's control API, settings
//!                                             |   open     what goes on: events, progress, logs, terminals
//! ```
//!
//! It decides nothing about containers: the user interface is a client of Docker's API like any other. What is here is
//! what a web view can't do (sockets) or can't do well (a million lines of a log: [`logs`]).

pub mod bridge;
mod daemon;
mod docker;
mod error;
pub mod logs;
pub mod streams;
pub mod tray;
pub mod words;

use std::path::PathBuf;

pub use docker::{Body, body_of, empty};
pub use error::AppError;
use host::{
    Home, HostError, Settings,
    api::{Client, Request},
};
pub use streams::Stream;
use words::{Control, ControlAnswer, Machine};

/// What an orderly stop gives the engine and its containers, in seconds.
const GRACE_S: u64 = 20;

/// One home's daemon and engine, as a window sees them.
#[derive(Debug, Clone)]
pub struct App {
    home: Home,
    program: PathBuf,
}

impl App {
    /// The user's own; `coracle` is found beside this program, or named by `CORACLE_PROGRAM`.
    pub fn of_user() -> Result<Self, AppError> {
        Ok(Self { home: Home::of_user()?, program: daemon::program()? })
    }

    /// For a home and the program that serves it.
    pub fn at(home: Home, program: PathBuf) -> Self {
        Self { home, program }
    }

    /// The home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Asks for something that concerns the machine itself.
    pub async fn control(&self, request: Control) -> Result<ControlAnswer, AppError> {
        match request {
            Control::Machine => Ok(ControlAnswer::Machine { machine: Box::new(self.machine().await?) }),
            Control::Start => {
                Settings::load(&self.home)?;
                self.home.create()?;
                daemon::client(&self.home, &self.program).await?.ask(&Request::Start).await?;
                Ok(ControlAnswer::Machine { machine: Box::new(self.machine().await?) })
            }
            Control::Stop => {
                daemon::stop(&self.home, GRACE_S).await?;
                Ok(ControlAnswer::Machine { machine: Box::new(self.machine().await?) })
            }
            Control::Settings => {
                let settings = Settings::load(&self.home)?.all().into_iter().collect();
                Ok(ControlAnswer::Settings { settings })
            }
            Control::Set { key, value } => {
                let settings = Settings::set(&self.home, &key, &value)?.all().into_iter().collect();
                Ok(ControlAnswer::Settings { settings })
            }
            Control::Log { guest, lines } => {
                let path = if guest { self.home.console_log() } else { self.home.daemon_log() };
                let lines = usize::try_from(lines).unwrap_or(usize::MAX).min(MAX_LOG_LINES);
                Ok(ControlAnswer::Text { text: host::tail(&path, lines) })
            }
        }
    }

    /// How the machine is; [`words::State::Stopped`] when there is no daemon.
    pub async fn machine(&self) -> Result<Machine, AppError> {
        let status = match Client::connect(&self.home).await {
            Ok(mut client) => client.status().await?,
            Err(HostError::NotRunning) => host::api::Status::stopped(&self.home),
            Err(error) => return Err(error.into()),
        };
        Ok(Machine::of(status))
    }

    /// Passes a request on to the engine and answers with what it says, as it says it.
    pub async fn docker(
        &self,
        request: hyper::Request<Body>,
    ) -> Result<hyper::Response<hyper::body::Incoming>, AppError> {
        docker::send(&self.home, request).await
    }

    /// Opens something that goes on. It ends when what is returned is dropped.
    pub fn open(&self, what: words::Open) -> Stream {
        streams::open(self.clone(), what)
    }
}

/// Most lines of the daemon's log or the console in one answer.
const MAX_LOG_LINES: usize = 5000;
