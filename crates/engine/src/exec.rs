//! Commands run in running containers (`docker exec`).
//!
//! An exec is not durable: it lives as long as its container's run, and is forgotten a while after it ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::error::{Error, Result};

/// How long an ended exec can still be inspected.
const KEPT_AFTER_END: Duration = Duration::from_secs(300);

/// What an exec was asked to be.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct ExecConfig {
    pub user: String,
    pub privileged: bool,
    pub tty: bool,
    pub console_size: Option<(u16, u16)>,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub detach_keys: String,
    pub env: Vec<String>,
    pub working_dir: String,
    pub cmd: Vec<String>,
}

/// What an exec does.
#[derive(Clone)]
pub enum ExecState {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running(Arc<runtime::Exec>),
    /// It ended.
    Exited {
        /// Its exit code.
        code: i32,
        /// Its process id while it ran.
        pid: u32,
        /// When.
        at: Instant,
    },
}

/// One exec.
pub struct Exec {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The container's id.
    pub container: String,
    /// What was asked.
    pub config: ExecConfig,
    state: watch::Sender<ExecState>,
}

impl Exec {
    /// A snapshot of what it does.
    pub fn state(&self) -> ExecState {
        self.state.borrow().clone()
    }

    /// Changes what it does.
    pub fn set(&self, state: ExecState) {
        self.state.send_replace(state);
    }

    /// Resolves when it has ended.
    pub async fn ended(&self) {
        // The sender is ours: it does not go away meanwhile.
        let _ = self.state.subscribe().wait_for(|s| matches!(s, ExecState::Exited { .. })).await;
    }
}

/// All execs.
#[derive(Default)]
pub struct Execs {
    all: Mutex<HashMap<String, Arc<Exec>>>,
}

impl Execs {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Exec>>> {
        self.all.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Enters a new exec, and forgets those that ended long ago.
    pub fn create(&self, container: &str, config: ExecConfig) -> Arc<Exec> {
        let exec = Arc::new(Exec {
            id: crate::names::random_id(),
            container: container.to_owned(),
            config,
            state: watch::channel(ExecState::Created).0,
        });
        let mut all = self.lock();
        all.retain(
            |_, e| !matches!(e.state(), ExecState::Exited { at, .. } if at.elapsed() > KEPT_AFTER_END),
        );
        all.insert(exec.id.clone(), exec.clone());
        exec
    }

    /// By id.
    pub fn find(&self, id: &str) -> Result<Arc<Exec>> {
        self.lock().get(id).cloned().ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))
    }

    /// Ids of the execs of a container that have not ended.
    pub fn of(&self, container: &str) -> Vec<String> {
        let all = self.lock();
        let open =
            |e: &&Arc<Exec>| e.container == container && !matches!(e.state(), ExecState::Exited { .. });
        all.values().filter(open).map(|e| e.id.clone()).collect()
    }

    /// Forgets the execs of a container that is gone.
    pub fn forget(&self, container: &str) {
        self.lock().retain(|_, e| e.container != container);
    }
}
