//! What is done to a container while it runs: signals, stops, freezing, another name.

use std::time::Duration;

use tokio::time::Instant;

use super::{KILL_PATIENCE, STOP_TIMEOUT_SECONDS, State, Stopping, Task, policy_restarts};
use crate::container::config::HostConfig;
use crate::container::{health, names, signal, spec, update};
use crate::error::{Error, Result};
use crate::store::Durability;

impl Task {
    /// Sends the stop signal and sets the deadline. Called only while it runs.
    pub(super) async fn begin_stop(&mut self, signal: Option<i32>, timeout: Option<i64>) -> &mut Stopping {
        let signal = signal.unwrap_or_else(|| signal::stop_signal(&self.record.config));
        let seconds = timeout.or(self.record.config.stop_timeout).unwrap_or(STOP_TIMEOUT_SECONDS);
        let State::Running(run) = &mut self.state else {
            unreachable!("a stop begins only while the container runs")
        };
        if run.paused {
            if let Err(e) = run.container.resume().await {
                tracing::warn!("thaw {} to stop it: {e}", self.record.name);
            }
            run.paused = false;
        }
        let mut kill_at = u64::try_from(seconds).ok().map(|s| Instant::now() + Duration::from_secs(s));
        if let Err(e) = run.container.kill(signal).await
            && e.code() != runtime::Code::NotRunning
        {
            tracing::warn!("stop signal to {}: {e}", self.record.name);
            kill_at = Some(Instant::now());
        }
        self.engine.container_event(&self.record, "kill", &[("signal", signal.to_string())]);
        let stopping = run.stopping.get_or_insert_default();
        stopping.kill_at = match (signal, kill_at, stopping.kill_at) {
            (libc::SIGKILL, ..) => None,
            (_, Some(new), Some(old)) => Some(new.min(old)),
            (_, new, old) => new.or(old),
        };
        stopping
    }

    pub(super) async fn kill_now(&mut self) {
        let State::Running(run) = &mut self.state else { return };
        let Some(stopping) = &mut run.stopping else { return };
        if let Err(e) = run.container.kill(libc::SIGKILL).await
            && e.code() != runtime::Code::NotRunning
        {
            tracing::error!("container {} could not be killed: {e}", self.record.name);
        }
        stopping.kill_at = Some(Instant::now() + KILL_PATIENCE);
        self.engine.container_event(&self.record, "kill", &[("signal", libc::SIGKILL.to_string())]);
    }

    pub(super) async fn kill(&mut self, signal: i32) -> Result<()> {
        let not_running = || {
            Error::conflict(format!(
                "cannot kill container: {}: container {} is not running",
                self.record.name, self.record.id
            ))
        };
        let run = match &mut self.state {
            State::Running(run) => run,
            // Whatever the signal: nothing is there to get it, so it is not started again.
            State::Waiting(_) => {
                self.record.stopped_by_user = true;
                self.give_up_waiting().await;
                return Ok(());
            }
            State::Idle => return Err(not_running()),
        };
        match run.container.kill(signal).await {
            Ok(()) => {}
            Err(e) if e.code() == runtime::Code::NotRunning => return Err(not_running()),
            Err(e) => {
                return Err(Error::internal(format!("cannot kill container {}: {e}", self.record.name)));
            }
        }
        if signal == libc::SIGKILL {
            // Frozen processes do not die until they are thawed.
            if run.paused && run.container.resume().await.is_ok() {
                run.paused = false;
            }
        }
        // A policy is not to bring back what a person ended.
        if !self.record.stopped_by_user && signal::means_stop(&self.record.config, signal) {
            self.record.stopped_by_user = true;
            self.save(self.run_durability()).await;
        }
        self.emit("kill", &[("signal", signal.to_string())]);
        Ok(())
    }

    pub(super) async fn pause(&mut self, pause: bool) -> Result<()> {
        let (name, id) = (self.record.name.clone(), self.record.id.clone());
        // dockerd answers 500 here.
        let not_paused = || Error::internal(format!("Container {id} is not paused"));
        let run = match &mut self.state {
            State::Running(run) if run.paused && pause => {
                return Err(Error::conflict(format!("Container {id} is already paused")));
            }
            State::Running(run) if !run.paused && !pause => return Err(not_paused()),
            State::Running(run) => run,
            State::Waiting(_) if pause => {
                let words = "is restarting, wait until the container is running";
                return Err(Error::conflict(format!("Container {id} {words}")));
            }
            State::Idle if pause => {
                return Err(Error::conflict(format!("container {id} is not running")));
            }
            State::Idle | State::Waiting(_) => return Err(not_paused()),
        };
        let done = if pause { run.container.pause().await } else { run.container.resume().await };
        done.map_err(|e| Error::internal(format!("cannot change container {name}: {e}")))?;
        run.paused = pause;
        self.publish_running();
        self.emit(if pause { "pause" } else { "unpause" }, &[]);
        Ok(())
    }

    /// Enters the result of a health check.
    pub(super) async fn probed(&mut self, probe: health::Probe, age: Duration) -> health::Status {
        let running = matches!(self.state, State::Running(_));
        let (Some(health), Some(check)) = (&mut self.record.last.health, &self.record.config.healthcheck)
        else {
            return health::Status::default();
        };
        if !running {
            return health.status;
        }
        let changed = health.enter(probe, check, age);
        let status = health.status;
        self.publish_running();
        if changed {
            self.save(self.run_durability()).await;
            self.emit(&format!("health_status: {}", status.name()), &[]);
        }
        status
    }

    /// The kernel killed one of its processes for memory, and others may go on.
    pub(super) async fn out_of_memory(&mut self, run: &str) {
        if !matches!(self.state, State::Running(_)) || self.record.last.started_at != run {
            return;
        }
        self.record.last.oom_killed = true;
        self.save(self.run_durability()).await;
        self.publish_running();
        self.emit("oom", &[]);
    }

    pub(super) async fn update(&mut self, wanted: &HostConfig) -> Result<()> {
        let cannot = |e: Error| e.context(&format!("Cannot update container {}", self.record.id));
        let host = update::merge(&self.record.host, wanted).map_err(cannot)?;
        let mut record = self.record.clone();
        record.host = host;
        if let State::Running(run) = &self.state {
            let mut limits = spec::resources(&record).map_err(cannot)?;
            // Device rules are as they were.
            limits.set_devices(None);
            run.container.update(&limits).await.map_err(|e| cannot(Error::internal(e.to_string())))?;
        }
        self.record = record;
        self.save(Durability::Durable).await;
        if matches!(self.state, State::Waiting(_)) && !policy_restarts(&self.record) {
            self.give_up_waiting().await;
        }
        let status = self.publish.borrow().status.clone();
        self.publish(status);
        self.emit("update", &[]);
        Ok(())
    }

    pub(super) async fn unlink(&mut self, alias: &str) -> Result<()> {
        let Some(at) = self.record.links.iter().position(|link| link.alias == alias) else {
            let name = &self.record.name;
            return Err(Error::not_found(format!("Could not get container for link /{name}/{alias}")));
        };
        let link = self.record.links.remove(at);
        self.save(Durability::Durable).await;
        let status = self.publish.borrow().status.clone();
        self.publish(status);
        match &self.state {
            State::Running(_) => names::unlink(&self.engine, &self.record, &link).await,
            State::Idle | State::Waiting(_) => Ok(()),
        }
    }

    pub(super) async fn rename(&mut self, name: String) -> Result<()> {
        if name == self.record.name {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        let context = "Error when allocating new name";
        if !crate::names::is_valid(&name) {
            return Err(Error::invalid(format!(
                "{context}: Invalid container name (/{name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        self.engine.containers.reserve_name(&name, &self.record.id).map_err(|e| e.context(context))?;
        let old = std::mem::replace(&mut self.record.name, name);
        self.engine.containers.release_name(&old, &self.record.id);
        self.engine.networks.rename(&self.record.id, &self.record.name);
        self.save(Durability::Durable).await;
        let status = self.publish.borrow().status.clone();
        self.publish(status);
        self.emit("rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }
}
