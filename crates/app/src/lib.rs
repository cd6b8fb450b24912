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
mod import;
mod log_stream;
pub mod logs;
mod platform;
pub mod registries;
mod report;
pub mod streams;
pub mod tools;
mod transfer;
pub mod tray;
pub mod tree;
mod usage;
pub mod words;

use std::path::PathBuf;

pub use docker::{Body, body_of, empty};
pub use error::AppError;
pub use host::login::stays;
use host::{
    Home, HostError, Settings,
    api::{Client, Request},
};
use http_body_util::BodyExt;
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
                let settings = Settings::load(&self.home)?.acting().into_iter().collect();
                Ok(ControlAnswer::Settings { settings })
            }
            Control::Set { key, value } => {
                let settings = Settings::set(&self.home, &key, &value)?.acting().into_iter().collect();
                Ok(ControlAnswer::Settings { settings })
            }
            Control::Log { guest, lines } => {
                let path = if guest { self.home.console_log() } else { self.home.daemon_log() };
                let lines = usize::try_from(lines).unwrap_or(usize::MAX).min(MAX_LOG_LINES);
                Ok(ControlAnswer::Text { text: host::tail(&path, lines) })
            }
            Control::Tools => Ok(tools::there()),
            Control::Look { path } => tools::look(&path),
            Control::Registries => registries().await,
            Control::SignIn { registry, user, secret } => {
                self.sign_in(&registry, &user, &secret).await?;
                registries().await
            }
            Control::SignOut { registry } => {
                registries::Config::load()?.forget(&registry).await?;
                registries().await
            }
            Control::EngineSettings => {
                Ok(ControlAnswer::Text { text: host::setup::engine_settings(&self.home)? })
            }
            Control::SetEngineSettings { text } => {
                host::setup::set_engine_settings(&self.home, &text)?;
                Ok(ControlAnswer::Text { text: host::setup::engine_settings(&self.home)? })
            }
            Control::Certificates => Ok(self.certificates()),
            Control::Trust { path } => {
                host::setup::trust(&self.home, std::path::Path::new(&path))?;
                Ok(self.certificates())
            }
            Control::Distrust { name } => {
                host::setup::distrust(&self.home, &name)?;
                Ok(self.certificates())
            }
            Control::Context => Ok(ControlAnswer::Context { used: self.context(None)? }),
            Control::UseContext { wanted } => {
                Ok(ControlAnswer::Context { used: self.context(Some(wanted))? })
            }
            Control::Diagnostics { path } => {
                report::write(self, std::path::Path::new(&path)).await?;
                Ok(ControlAnswer::Text { text: path })
            }
            Control::Engines => Ok(ControlAnswer::Engines { engines: import::engines(self).await }),
            Control::Reset => {
                self.reset().await?;
                Ok(ControlAnswer::Machine { machine: Box::new(self.machine().await?) })
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

    fn certificates(&self) -> ControlAnswer {
        ControlAnswer::Certificates { names: host::setup::trusted(&self.home) }
    }

    /// Whether docker's current context is ours, after it was set if that is `wanted`. Homes that aren't the default
    /// have docker's configuration of their own.
    fn context(&self, wanted: Option<bool>) -> Result<Option<bool>, AppError> {
        if !self.home.is_default() {
            return Ok(None);
        }
        let mut config = registries::Config::load()?;
        match wanted {
            Some(true) => {
                host::context::register(&self.home)?;
                config.set_context(Some(host::context::NAME))?;
            }
            Some(false) if config.context().as_deref() == Some(host::context::NAME) => {
                config.set_context(None)?
            }
            Some(false) | None => {}
        }
        Ok(Some(config.context().as_deref() == Some(host::context::NAME)))
    }

    /// The engine asks the registry; what it says is good is kept.
    async fn sign_in(&self, registry: &str, user: &str, secret: &str) -> Result<(), AppError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            identity_token: Option<String>,
        }
        let mut config = registries::Config::load()?;
        let key = registries::key(registry);
        let words = serde_json::json!({ "username": user, "password": secret, "serveraddress": key });
        let request = hyper::Request::post("/auth")
            .header("content-type", "application/json")
            .body(body_of(words.to_string()))
            .map_err(|e| AppError::Request(e.to_string()))?;
        let answer = self.docker(request).await?;
        if !answer.status().is_success() {
            return Err(docker::refusal(answer).await);
        }
        let body = http_body_util::Limited::new(answer.into_body(), MOST_OF_SIGN_IN).collect().await;
        let body = body.map_err(|e| AppError::Unreachable(e.to_string()))?.to_bytes();
        let token = serde_json::from_slice::<Answer>(&body).ok().and_then(|a| a.identity_token);
        match token.filter(|t| !t.is_empty()) {
            Some(token) => config.keep(registry, "<token>", &token).await,
            None => config.keep(registry, user, secret).await,
        }
    }

    /// Every container first: without a machine around them they would outlive their engine. Then as
    /// `coracle delete --force` does it.
    async fn reset(&self) -> Result<(), AppError> {
        if self.machine().await.is_ok_and(|m| m.state == words::State::Running) {
            self.remove_containers().await?;
        }
        let mut program = platform::program(&self.program);
        program.args(["delete", "--force"]).stdin(std::process::Stdio::null());
        if !self.home.is_default() {
            program.env("CORACLE_HOME", self.home.root());
        }
        let name = self.program.display();
        let done = program.output().await.map_err(|e| AppError::Tool(format!("{name}: {e}")))?;
        if done.status.success() {
            return Ok(());
        }
        Err(AppError::Tool(String::from_utf8_lossy(&done.stderr).trim().to_owned()))
    }

    async fn remove_containers(&self) -> Result<(), AppError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Container {
            id: String,
        }
        let bad = |e: hyper::http::Error| AppError::Request(e.to_string());
        let list = hyper::Request::get("/containers/json?all=1").body(empty()).map_err(bad)?;
        let body = self.docker(list).await?.into_body();
        let body = http_body_util::Limited::new(body, MOST_OF_LIST).collect().await;
        let body = body.map_err(|e| AppError::Unreachable(e.to_string()))?.to_bytes();
        let list: Vec<Container> =
            serde_json::from_slice(&body).map_err(|e| AppError::Unreachable(e.to_string()))?;
        for Container { id } in list {
            let remove = hyper::Request::delete(format!("/containers/{id}?force=1&v=1")).body(empty());
            // One that can't be removed goes with everything else.
            let _ = self.docker(remove.map_err(bad)?).await?.into_body().collect().await;
        }
        Ok(())
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

async fn registries() -> Result<ControlAnswer, AppError> {
    Ok(ControlAnswer::Registries { registries: registries::Config::load()?.all().await })
}

/// Longest list of containers.
const MOST_OF_LIST: usize = 64 << 20;
/// Longest answer to credentials.
const MOST_OF_SIGN_IN: usize = 64 * 1024;
/// Most lines of the daemon's log or the console in one answer.
const MAX_LOG_LINES: usize = 5000;
