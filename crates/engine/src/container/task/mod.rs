//! The task that owns one container's state: wait for a command, an exit or a deadline, then apply it.
//!
//! What a run takes (a place in networks, ports, the shim) is held by [`Run`] and given back in one place,
//! [`Task::release`], which the normal end and every failed start share; it collects errors and never stops at
//! the first.

mod end;
mod networks;
mod start;
mod steer;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::{Command, FilesLock, Handle, Record, Status, View, channel, health, memory, names};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::networks::Member;
use crate::store::{Durability, Kind};

/// Seconds a container has to stop before it is killed, unless it or the request says otherwise.
pub const STOP_TIMEOUT_SECONDS: i64 = 10;
/// How long a killed container may take to go before the request gives up waiting.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// What a run holds.
struct Run {
    container: runtime::Container,
    members: Vec<Member>,
    names: Option<network::dns::Server>,
    started: Instant,
    paused: bool,
    /// Runs its health checks.
    _monitor: Option<health::Monitor>,
    /// Hears of kills for memory.
    _kills: Option<memory::Listener>,
    /// A stop in progress: when to kill, and who waits.
    stopping: Option<Stopping>,
}

#[derive(Default)]
struct Stopping {
    /// When SIGKILL follows; `None`: never, or it was sent.
    kill_at: Option<Instant>,
    /// Told when the container has ended.
    waiters: Vec<oneshot::Sender<Result<()>>>,
    /// Start again once it has ended.
    restart: Vec<oneshot::Sender<Result<()>>>,
    /// Remove once it has ended: with its anonymous volumes?
    remove: Vec<(bool, oneshot::Sender<Result<()>>)>,
}

enum State {
    /// Created or exited: no process.
    Idle,
    /// It runs.
    Running(Box<Run>),
    /// The restart policy starts it again at this time.
    Waiting(Instant),
}

/// The pauses before restarts by the policy: each twice as long as the one before, as dockerd has them.
#[derive(Debug)]
struct BackOff(Duration);

impl BackOff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(60);
    /// Who ran for so long did not fail at its start: the next pause is the first again.
    const CALM: Duration = Duration::from_secs(10);

    /// The pause after a run that took so long.
    fn after(&mut self, ran_for: Duration) -> Duration {
        if ran_for >= Self::CALM {
            *self = Self::default();
        }
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LONGEST);
        pause
    }
}

impl Default for BackOff {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

enum Wake {
    Command(Option<Command>),
    Exit(std::result::Result<runtime::Exit, runtime::Error>),
    KillNow,
    StartAgain,
}

/// One container's task.
pub struct Task {
    engine: Arc<Engine>,
    record: Record,
    state: State,
    /// Attachments that wait for the next start.
    pending: Vec<(runtime::AttachWant, oneshot::Sender<runtime::Attachment>)>,
    exits: u64,
    back_off: BackOff,
    commands: mpsc::Receiver<Command>,
    publish: watch::Sender<View>,
    files: FilesLock,
}

/// Starts the task of a container that is recorded, and answers its handle. `found` is the container when it
/// was found running after the engine's restart.
pub fn spawn(engine: &Arc<Engine>, record: Record, found: Option<runtime::Container>) -> Handle {
    let starts = found.is_none() && wants_start_at_boot(&record);
    let status = match &found {
        Some(container) => Status::Running { container: container.clone(), paused: container.is_paused() },
        // From the first answer on: whoever stops it now does not want it to be started.
        None if starts => Status::Restarting,
        None => idle(&record),
    };
    let booting = starts.then(|| engine.containers.boots());
    let view = View { record: Arc::new(record.clone()), status, exits: 0 };
    let (handle, commands, publish) = channel(view);
    let mut task = Task {
        engine: engine.clone(),
        record,
        state: State::Idle,
        pending: Vec::new(),
        exits: 0,
        back_off: BackOff::default(),
        commands,
        publish,
        files: handle.files().clone(),
    };
    engine.tasks.spawn(async move {
        if let Some(container) = found {
            task.adopt(container).await;
        } else if starts {
            task.start_at_boot().await;
        }
        drop(booting);
        task.run().await;
    });
    handle
}

/// What one is that has no process.
fn idle(record: &Record) -> Status {
    if record.last.started_at.is_empty() { Status::Created } else { Status::Exited }
}

/// Whether its policy restarts it, ended as it has.
fn policy_restarts(record: &Record) -> bool {
    let policy = &record.host.restart_policy;
    match policy.name.as_str() {
        "always" | "unless-stopped" => true,
        "on-failure" => {
            let max = policy.maximum_retry_count;
            record.last.exit_code != 0 && (max == 0 || i64::from(record.restart_count) < max)
        }
        _ => false,
    }
}

/// Whether its policy starts it when the engine comes up. dockerd does so, too, with one that is to be restarted on
/// failure and that a person has stopped, against its documentation; this engine does not.
fn wants_start_at_boot(record: &Record) -> bool {
    let may = record.host.restart_policy.name == "always" || !record.stopped_by_user;
    may && !record.last.started_at.is_empty() && policy_restarts(record)
}

impl Task {
    async fn run(mut self) {
        loop {
            let wake = self.wait().await;
            let go_on = match wake {
                Wake::Command(Some(command)) => self.apply(command).await,
                // Nobody can ask any more: the engine is going down, the container stays with its shim.
                Wake::Command(None) => false,
                Wake::Exit(exit) => self.exited(exit).await,
                Wake::KillNow => {
                    self.kill_now().await;
                    true
                }
                Wake::StartAgain => {
                    self.start_again().await;
                    true
                }
            };
            if !go_on {
                return;
            }
        }
    }

    async fn wait(&mut self) -> Wake {
        let never = Instant::now() + Duration::from_secs(365 * 86_400);
        match &self.state {
            State::Idle => Wake::Command(self.commands.recv().await),
            State::Waiting(at) => tokio::select! {
                command = self.commands.recv() => Wake::Command(command),
                () = tokio::time::sleep_until(*at) => Wake::StartAgain,
            },
            State::Running(run) => {
                let kill_at = run.stopping.as_ref().and_then(|s| s.kill_at);
                tokio::select! {
                    exit = run.container.wait() => Wake::Exit(exit),
                    command = self.commands.recv() => Wake::Command(command),
                    () = tokio::time::sleep_until(kill_at.unwrap_or(never)), if kill_at.is_some() => Wake::KillNow,
                }
            }
        }
    }

    /// Applies one command; `false` when the container is gone.
    async fn apply(&mut self, command: Command) -> bool {
        match command {
            Command::Start { reply } => {
                let result = match &self.state {
                    State::Running(run) if run.paused => {
                        Err(Error::conflict("cannot start a paused container, try unpause instead"))
                    }
                    // As with dockerd: what waits to be started again counts as running.
                    State::Running(_) | State::Waiting(_) => Err(Error::not_modified()),
                    State::Idle => self.start_anew().await,
                };
                let leftover =
                    result.is_err() && self.record.host.auto_remove && matches!(self.state, State::Idle);
                // dockerd removes it before it answers: the client then waits for nothing.
                let gone = leftover && self.remove(true).await.is_ok();
                tell(reply, result);
                return !gone;
            }
            Command::Stop { signal, timeout, by_user, reply } => match &mut self.state {
                State::Running(_) => {
                    self.record.stopped_by_user = by_user;
                    self.begin_stop(signal, timeout).await.waiters.push(reply);
                }
                State::Waiting(_) => {
                    self.record.stopped_by_user = by_user;
                    self.give_up_waiting().await;
                    tell(reply, Ok(()));
                }
                State::Idle => tell(reply, Err(Error::not_modified())),
            },
            Command::Restart { signal, timeout, reply } => match &self.state {
                State::Running(_) => self.begin_stop(signal, timeout).await.restart.push(reply),
                State::Idle | State::Waiting(_) => {
                    let result = self.start_anew().await;
                    if result.is_ok() {
                        self.emit("restart", &[]);
                    }
                    tell(reply, result);
                }
            },
            Command::Kill { signal, reply } => {
                let result = self.kill(signal).await;
                tell(reply, result);
            }
            Command::Pause { pause, reply } => {
                let result = self.pause(pause).await;
                tell(reply, result);
            }
            Command::Attach { want, reply } => match &self.state {
                State::Running(run) => match run.container.attach(want).await {
                    Ok(attachment) => {
                        // The client may have gone away.
                        let _ = reply.send(attachment);
                    }
                    Err(e) => tracing::warn!("attach to {}: {e}", self.record.name),
                },
                State::Idle | State::Waiting(_) => {
                    self.pending.retain(|(_, waiting)| !waiting.is_closed());
                    self.pending.push((want, reply));
                }
            },
            Command::Rename { name, reply } => {
                let result = self.rename(name).await;
                tell(reply, result);
            }
            Command::Probed { probe, age, reply } => {
                let status = self.probed(probe, age).await;
                // The monitor ends with the run.
                let _ = reply.send(status);
            }
            Command::OutOfMemory { run } => self.out_of_memory(&run).await,
            Command::Update { wanted, reply } => {
                let result = self.update(&wanted).await;
                tell(reply, result);
            }
            Command::Relink { reply } => {
                let result = match &self.state {
                    State::Running(_) => names::relink(&self.engine, &self.record).await,
                    State::Idle | State::Waiting(_) => Ok(()),
                };
                tell(reply, result);
            }
            Command::Unlink { alias, reply } => {
                let result = self.unlink(&alias).await;
                tell(reply, result);
            }
            Command::Connect { network, settings, reply } => {
                let result = self.connect(&network, *settings).await;
                tell(reply, result);
            }
            Command::Disconnect { network, reply } => {
                let result = self.disconnect(&network).await;
                tell(reply, result);
            }
            Command::Remove { force, volumes, reply } => match &self.state {
                State::Running(run) if !force => {
                    let why = if run.paused {
                        "container is paused and must be unpaused first"
                    } else {
                        "container is running: stop the container before removing or force remove"
                    };
                    let words = format!("cannot remove container \"{}\": {why}", self.record.name);
                    tell(reply, Err(Error::conflict(words)));
                }
                State::Running(_) => {
                    self.record.stopped_by_user = true;
                    let stop = self.begin_stop(Some(libc::SIGKILL), Some(0)).await;
                    stop.remove.push((volumes, reply));
                }
                State::Waiting(_) if !force => {
                    let words = format!(
                        "cannot remove container \"{}\": container is restarting: stop the container before removing or force remove",
                        self.record.name
                    );
                    tell(reply, Err(Error::conflict(words)));
                }
                State::Idle | State::Waiting(_) => {
                    let result = self.remove(volumes).await;
                    let gone = result.is_ok();
                    tell(reply, result);
                    return !gone;
                }
            },
        }
        true
    }

    fn view(&self, status: Status) -> View {
        View { record: Arc::new(self.record.clone()), status, exits: self.exits }
    }

    fn publish(&self, status: Status) {
        self.publish.send_replace(self.view(status));
    }

    fn publish_running(&self) {
        if let State::Running(run) = &self.state {
            self.publish(Status::Running { container: run.container.clone(), paused: run.paused });
        }
    }

    /// A record that goes away with the container need not outlive a crash.
    fn durability(&self) -> Durability {
        if self.record.host.auto_remove { Durability::Lazy } else { Durability::Durable }
    }

    /// How a run begins and ends is found again after a crash; after a power cut a restart policy follows what is on
    /// the disk.
    fn run_durability(&self) -> Durability {
        match self.record.host.restart_policy.name.as_str() {
            _ if self.record.host.auto_remove => Durability::Lazy,
            "" | "no" => Durability::Soon,
            _ => Durability::Durable,
        }
    }

    async fn save(&self, durability: Durability) {
        let saved = self.engine.store.put(Kind::Container, &self.record.id, &self.record, durability).await;
        if let Err(e) = saved {
            tracing::error!("the record of container {} was not written: {e}", self.record.name);
        }
    }

    fn emit(&self, action: &str, more: &[(&str, String)]) {
        self.engine.container_event(&self.record, action, more);
    }
}

/// Answers a request; the one that asked may have gone away, which is no failure.
fn tell(reply: oneshot::Sender<Result<()>>, result: Result<()>) {
    let _ = reply.send(result);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_again_after_a_run_of_ten_seconds() {
        let mut pauses = BackOff::default();
        let short = Duration::from_secs(9);
        let ms: Vec<u128> = (0..12).map(|_| pauses.after(short).as_millis()).collect();
        assert_eq!(ms, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        assert_eq!(pauses.after(Duration::from_secs(10)), BackOff::FIRST);
        assert_eq!(pauses.after(Duration::ZERO), BackOff::FIRST * 2);
    }
}
