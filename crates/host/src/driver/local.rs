//! The engine as the daemon's child on this Linux: no guest, the same sockets in front of it.
//!
//! ```text
//! run/engine.sock   data/engine/   run/engine/engine.pid   machine/engine.log
//! ```

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::time::sleep;

use super::{Event, Tell};
use crate::{Home, HostError, Settings, log::tail, parts, platform, setup};

/// Pause between two looks: whether an engine answers, whether one that isn't our child still lives.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// Lines of its last words.
const SAID_LINES: usize = 6;

/// An engine at work.
pub struct Local {
    pid: u32,
    socket: PathBuf,
    watch: tokio::task::JoinHandle<()>,
}

impl Local {
    /// Starts it.
    pub fn launch(home: &Home, settings: &Settings, tell: Tell) -> Result<Self, HostError> {
        let program = parts::engine()?;
        let log = home.machine("engine.log");
        let said = File::create(&log).map_err(HostError::io("making", &log))?;
        let again = said.try_clone().map_err(HostError::io("making", &log))?;
        let socket = socket(home);
        let _ = fs::remove_file(&socket);
        let mut command = Command::new(&program);
        command.arg("serve").arg("--socket").arg(&socket);
        command.arg("--root").arg(home.data().join("engine")).arg("--exec-root").arg(exec_root(home));
        if home.engine_settings().is_file() {
            command.arg("--config").arg(home.engine_settings());
        }
        let proxies = setup::proxies(settings);
        let all =
            [("HTTP_PROXY", proxies.http), ("HTTPS_PROXY", proxies.https), ("NO_PROXY", proxies.direct)];
        command.envs(all.into_iter().filter(|(_, value)| !value.is_empty()));
        command.stdout(Stdio::from(again)).stderr(Stdio::from(said));
        let mut child = platform::spawn_detached(&mut command).map_err(HostError::io("running", &program))?;
        let pid = child.id();
        let ready = answers(socket.clone());
        let watch = tokio::spawn(async move {
            let mut ended = std::pin::pin!(tokio::task::spawn_blocking(move || child.wait()));
            let end = tokio::select! {
                () = ready => { tell(Event::Ready); ended.await }
                end = &mut ended => end,
            };
            let how = end
                .map_err(std::io::Error::other)
                .flatten()
                .map_or_else(|e| e.to_string(), |s| s.to_string());
            tell(Event::Exited(format!("{how}: {}", tail(&log, SAID_LINES))));
        });
        Ok(Self { pid, socket, watch })
    }

    /// Takes over an engine that an earlier daemon left.
    pub async fn adopt(home: &Home, tell: Tell) -> Option<Self> {
        let pid: u32 = fs::read_to_string(exec_root(home).join("engine.pid")).ok()?.trim().parse().ok()?;
        let socket = socket(home);
        platform::connect(&socket).await.ok()?;
        let log = home.machine("engine.log");
        let watch = tokio::spawn(async move {
            tell(Event::Ready);
            while platform::alive(pid) {
                sleep(LOOK.1).await; // not our child: nobody tells us of its end
            }
            tell(Event::Exited(tail(&log, SAID_LINES)));
        });
        Some(Self { pid, socket, watch })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its API.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Asks it to end, after its containers; asked again, it kills them.
    pub fn terminate(&self) {
        platform::power_fails(self.pid);
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Whether containers may run here that an engine left when it died.
pub fn has_left(home: &Home) -> bool {
    fs::read_dir(exec_root(home).join("containers")).is_ok_and(|mut left| left.next().is_some())
}

fn socket(home: &Home) -> PathBuf {
    home.root().join("run/engine.sock")
}

fn exec_root(home: &Home) -> PathBuf {
    home.root().join("run/engine")
}

async fn answers(socket: PathBuf) {
    while platform::connect(&socket).await.is_err() {
        sleep(LOOK.0).await; // the engine makes its socket when it likes
    }
}
