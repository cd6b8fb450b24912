//! How a run ends, and the container with it.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{BackOff, Run, State, Stopping, Task, idle, policy_restarts, tell};
use crate::container::{Status, health, images};
use crate::error::Result;
use crate::store::Kind;

impl Task {
    /// Gives back what a run took. Errors are told, none stops it.
    pub(super) async fn release(&self, run: Run) {
        let id = &self.record.id;
        drop(run.names);
        self.engine.ports.close(id).await;
        self.engine.networks.firewall().dismiss(id).await;
        for member in &run.members {
            self.engine.networks.leave(id, member);
            if let Ok(network) = self.engine.networks.find(&member.network_id) {
                self.engine.network_event(&network, "disconnect", id);
            }
        }
        if let Err(e) = run.container.delete().await {
            tracing::warn!("container {}: what its run used was not all released: {e}", self.record.name);
        }
        self.engine.volumes.release(id).await;
    }

    /// The container ended; `false` when it is gone with its record.
    pub(super) async fn exited(&mut self, exit: std::result::Result<runtime::Exit, runtime::Error>) -> bool {
        let State::Running(mut run) = std::mem::replace(&mut self.state, State::Idle) else { return true };
        let exit = exit.unwrap_or_else(|e| {
            tracing::error!("container {}: its end was not seen: {e}", self.record.name);
            runtime::Exit { code: 255, finished_at: SystemTime::now(), oom_killed: false }
        });
        let stopping = run.stopping.take();
        let ran_for = run.started.elapsed();
        self.release(*run).await;
        self.record.last.exit_code = exit.code;
        self.record.last.finished_at = crate::time::format(exit.finished_at);
        let untold = exit.oom_killed && !self.record.last.oom_killed;
        self.record.last.oom_killed |= exit.oom_killed;
        self.record.last.members.clear();
        if let Some(health) = &mut self.record.last.health {
            // Nothing is healthy that does not run: dockerd's word for it.
            health.status = health::Status::Unhealthy;
        }
        self.record.last.ports.clear();
        self.exits += 1;
        let was_stopped = stopping.is_some();
        let Stopping { waiters, restart, mut remove, .. } = stopping.unwrap_or_default();
        let stopped = !waiters.is_empty() || !restart.is_empty();
        // Told when it can be seen: who hears of an end and asks then must not be told that it runs.
        let tell_end = |task: &Self| {
            if untold {
                task.emit("oom", &[]);
            }
            let died = [("exitCode", exit.code.to_string()), ("execDuration", ran_for.as_secs().to_string())];
            task.emit("die", &died);
            task.engine.volumes_event(&task.record, "unmount");
            if stopped {
                task.emit("stop", &[]);
            }
        };
        if !restart.is_empty() {
            // A restart asked for wins over the policy, and over --rm.
            self.publish(Status::Exited);
            tell_end(self);
            let result = self.start_anew().await;
            if result.is_ok() {
                self.emit("restart", &[]);
            }
            restart.into_iter().for_each(|reply| tell(reply, result.clone()));
            waiters.into_iter().for_each(|reply| tell(reply, Ok(())));
            return true;
        }
        if !was_stopped && !self.record.stopped_by_user && policy_restarts(&self.record) {
            self.state = State::Waiting(Instant::now() + self.back_off.after(ran_for));
            self.save(self.run_durability()).await;
            self.publish(Status::Restarting);
            tell_end(self);
            waiters.into_iter().for_each(|reply| tell(reply, Ok(())));
            return true;
        }
        let mut gone = false;
        if self.record.host.auto_remove || !remove.is_empty() {
            self.publish(Status::Exited);
            tell_end(self);
            let volumes = self.record.host.auto_remove || remove.iter().any(|(volumes, _)| *volumes);
            let result = self.remove(volumes).await;
            gone = result.is_ok();
            for (_, reply) in remove.drain(..) {
                tell(reply, result.clone());
            }
        } else {
            self.save(self.run_durability()).await;
            self.publish(Status::Exited);
            tell_end(self);
        }
        waiters.into_iter().for_each(|reply| tell(reply, Ok(())));
        !gone
    }

    /// A start that a person asked for: restarts are counted anew, and the pauses before them begin short.
    pub(super) async fn start_anew(&mut self) -> Result<()> {
        self.back_off = BackOff::default();
        self.record.restart_count = 0;
        let started = self.start().await;
        if started.is_err() {
            self.publish(idle(&self.record));
        }
        started
    }

    /// It is not started again after all.
    pub(super) async fn give_up_waiting(&mut self) {
        self.state = State::Idle;
        self.save(self.run_durability()).await;
        self.publish(Status::Exited);
    }

    pub(super) async fn start_again(&mut self) {
        self.record.restart_count += 1;
        self.start_by_policy().await;
    }

    /// The engine has started, and the policy wants it to run.
    pub(super) async fn start_at_boot(&mut self) {
        self.record.restart_count = 0;
        self.start_by_policy().await;
    }

    async fn start_by_policy(&mut self) {
        if let Err(e) = self.start().await {
            tracing::warn!("container {} did not start again: {e}", self.record.name);
            self.state = State::Waiting(Instant::now() + self.back_off.after(Duration::ZERO));
            self.publish(Status::Restarting);
        }
    }

    pub(super) async fn remove(&mut self, volumes: bool) -> Result<()> {
        self.publish(Status::Removing);
        let _files = self.files.clone().lock_owned().await;
        let id = self.record.id.clone();
        let removed = async {
            images::discard(&self.engine, &id, &self.record.mounts).await?;
            self.engine.store.delete(Kind::Container, &id, self.durability()).await
        };
        if let Err(e) = removed.await {
            let e = e.context(&format!("cannot remove container \"{}\"", self.record.name));
            self.record.last.error.clone_from(&e.message);
            self.publish(Status::Exited);
            return Err(e);
        }
        let folder = self.engine.paths.container(&id);
        if let Err(e) = tokio::fs::remove_dir_all(&folder).await
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("{} is left behind: {e}", folder.display());
        }
        self.engine.containers.forget(&id);
        if volumes {
            self.engine.remove_anonymous_volumes(&self.record).await;
        }
        self.emit("destroy", &[]);
        self.pending.clear();
        self.publish(Status::Removed);
        Ok(())
    }
}
