//! The task that owns one container's state: wait for a command, an exit or a deadline, then apply it.
//!
//! What a run takes (a place in networks, ports, the shim) is held by [`Run`] and given back in one place,
//! [`Task::release`], which the normal end and every failed start share; it collects errors and never stops at
//! the first.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::{Command, Handle, LastRun, PublishedPort, Record, Status, View, channel, create, spec};
use crate::engine::Engine;
use crate::error::{Code, Error, Result};
use crate::networks::{ContainerNames, Member};
use crate::store::{Durability, Kind};

/// Seconds a container has to stop before it is killed, unless it or the request says otherwise.
pub const STOP_TIMEOUT_SECONDS: i64 = 10;
/// How long a killed container may take to go before the request gives up waiting.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// First pause before a restart; it doubles up to [`RESTART_MAX`] and starts over after [`RESTART_CALM`].
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(60);
const RESTART_CALM: Duration = Duration::from_secs(10);

/// What a run holds.
struct Run {
    container: runtime::Container,
    members: Vec<Member>,
    names: Option<network::dns::Server>,
    started: Instant,
    paused: bool,
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
    back_off: Duration,
    commands: mpsc::Receiver<Command>,
    publish: watch::Sender<View>,
}

/// Starts the task of a container that is recorded, and answers its handle. `found` is the container when it
/// was found running after the engine's restart.
pub fn spawn(engine: &Arc<Engine>, record: Record, found: Option<runtime::Container>) -> Handle {
    let status = match &found {
        Some(container) => Status::Running { container: container.clone(), paused: false },
        None if record.last.started_at.is_empty() => Status::Created,
        None => Status::Exited,
    };
    let view = View { record: Arc::new(record.clone()), status, exits: 0 };
    let (handle, commands, publish) = channel(view);
    let mut task = Task {
        engine: engine.clone(),
        record,
        state: State::Idle,
        pending: Vec::new(),
        exits: 0,
        back_off: RESTART_FIRST,
        commands,
        publish,
    };
    engine.tasks.spawn(async move {
        if let Some(container) = found {
            task.adopt(container).await;
        } else if task.wants_start_at_boot() {
            task.state = State::Waiting(Instant::now());
        }
        task.run().await;
    });
    handle
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
                    State::Running(_) => Err(Error::not_modified()),
                    State::Idle | State::Waiting(_) => {
                        self.back_off = RESTART_FIRST;
                        self.start().await
                    }
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
                    self.state = State::Idle;
                    self.publish(Status::Exited);
                    tell(reply, Ok(()));
                }
                State::Idle => tell(reply, Err(Error::not_modified())),
            },
            Command::Restart { signal, timeout, reply } => match &self.state {
                State::Running(_) => self.begin_stop(signal, timeout).await.restart.push(reply),
                State::Idle | State::Waiting(_) => {
                    let result = self.start().await;
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

    async fn save(&self, durability: Durability) {
        let saved = self.engine.store.put(Kind::Container, &self.record.id, &self.record, durability).await;
        if let Err(e) = saved {
            tracing::error!("the record of container {} was not written: {e}", self.record.name);
        }
    }

    fn emit(&self, action: &str, more: &[(&str, String)]) {
        self.engine.container_event(&self.record, action, more);
    }

    // ---- start ----

    async fn start(&mut self) -> Result<()> {
        match self.bring_up().await {
            Ok(run) => {
                self.record.last.error = String::new();
                self.record.stopped_by_user = false;
                self.state = State::Running(Box::new(run));
                // Found again through its shim after a crash: nothing is lost if this line is.
                self.save(Durability::Lazy).await;
                self.publish_running();
                self.emit("start", &[]);
                Ok(())
            }
            Err(error) => {
                self.record.last.error.clone_from(&error.error.message);
                self.record.last.exit_code = error.exit_code.unwrap_or(128);
                self.record.last.members.clear();
                self.record.last.ports.clear();
                self.state = State::Idle;
                let ran = !self.record.last.started_at.is_empty();
                self.publish(if ran { Status::Exited } else { Status::Created });
                self.pending.clear();
                if !self.record.host.auto_remove {
                    self.save(Durability::Lazy).await;
                }
                Err(error.error)
            }
        }
    }

    async fn bring_up(&mut self) -> std::result::Result<Run, StartError> {
        let engine = self.engine.clone();
        let id = self.record.id.clone();
        let rootfs =
            engine.images.mount(&create::image_digest(&self.record)?, &id).await.map_err(Error::from)?;
        let bundle = spec::bundle(&engine, &self.record, rootfs).await?;
        let container = engine.runtime.create(bundle).await.map_err(start_error)?;
        let mut run = Run {
            container,
            members: Vec::new(),
            names: None,
            started: Instant::now(),
            paused: false,
            stopping: None,
        };
        let mut ports = Vec::new();
        match self.connect_and_start(&mut run, &mut ports).await {
            Ok(()) => {
                engine.volumes_event(&self.record, "mount");
                self.record.last = LastRun {
                    started_at: crate::time::now(),
                    finished_at: self.record.last.finished_at.clone(),
                    members: run.members.clone(),
                    ports,
                    ..LastRun::default()
                };
                Ok(run)
            }
            Err(e) => {
                self.release(run).await;
                Err(e)
            }
        }
    }

    async fn connect_and_start(
        &mut self,
        run: &mut Run,
        ports: &mut Vec<PublishedPort>,
    ) -> std::result::Result<(), StartError> {
        self.join_networks(run).await?;
        *ports = self.open_ports(run).await?;
        for (want, reply) in self.pending.drain(..) {
            if reply.is_closed() {
                continue;
            }
            let attachment = run.container.attach(want).await.map_err(start_error)?;
            // The client may have gone away.
            let _ = reply.send(attachment);
        }
        run.container.start().await.map_err(start_error)
    }

    async fn join_networks(&mut self, run: &mut Run) -> Result<()> {
        let context = "failed to set up container networking";
        if self.record.host.network_mode.starts_with("container:")
            || self.record.networks.contains_key("host")
        {
            return self.note_host_network(run).await;
        }
        let netns = run.container.netns();
        network::loopback_up(&netns).await.map_err(|e| Error::from(e).context(context))?;
        let engine = self.engine.clone();
        let mut user_networks = Vec::new();
        let wanted = self.record.networks.clone();
        for (n, (name, settings)) in wanted.iter().enumerate() {
            let network = engine.networks.find(name).map_err(|e| e.context(context))?;
            let who = (self.record.id.as_str(), self.record.name.as_str());
            let member =
                engine.networks.join(&network, who, settings).await.map_err(|e| e.context(context))?;
            // Entered before it is plugged, so that a failure gives the address back.
            run.members.push(member);
            if let Some(member) = run.members.last_mut() {
                let plugged = engine.networks.plug(member, &netns, &format!("eth{n}"), n == 0).await;
                plugged.map_err(|e| e.context(context))?;
            }
            if !network.is_predefined() {
                user_networks.push(network.id.clone());
            }
            engine.network_event(&network, "connect", &self.record.id);
        }
        create::write_hosts(&engine, &self.record, &run.members).await?;
        if !user_networks.is_empty() {
            let names = ContainerNames {
                networks: engine.networks.clone(),
                network_ids: user_networks,
                upstreams: create::upstreams(&engine, &self.record),
            };
            let server = network::dns::serve(&netns, Arc::new(names)).await;
            run.names = Some(server.map_err(|e| Error::from(e).context(context))?);
        }
        Ok(())
    }

    /// `--network host`: no link, but it is listed as a member.
    async fn note_host_network(&mut self, run: &mut Run) -> Result<()> {
        if let Some(settings) = self.record.networks.get("host") {
            let network = self.engine.networks.find("host")?;
            let who = (self.record.id.as_str(), self.record.name.as_str());
            run.members.push(self.engine.networks.join(&network, who, settings).await?);
        }
        Ok(())
    }

    async fn open_ports(&self, run: &Run) -> Result<Vec<PublishedPort>> {
        let Some(member) = run.members.iter().find(|m| m.address.is_some()) else { return Ok(Vec::new()) };
        let Some(address) = member.address else { return Ok(Vec::new()) };
        let requests = create::port_requests(&self.record, address.addr())?;
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let opened = self.engine.ports.open(&self.record.id, requests).await.map_err(|e| {
            // dockerd answers 500 here whatever the cause; the CLI exits with 125.
            Error::internal(format!(
                "failed to set up container networking: driver failed programming external connectivity on endpoint {} ({}): {e}",
                self.record.name, member.endpoint_id
            ))
        })?;
        let published = |b: network::Binding| PublishedPort {
            port: format!("{}/{}", b.request.target.port(), b.request.protocol.name()),
            host_ip: b.request.host_ip,
            host_port: b.host_port,
        };
        Ok(opened.into_iter().map(published).collect())
    }

    // ---- end ----

    /// Gives back what a run took. Errors are told, none stops it.
    async fn release(&self, run: Run) {
        let id = &self.record.id;
        drop(run.names);
        self.engine.ports.close(id).await;
        for member in &run.members {
            self.engine.networks.leave(id, member);
            if let Ok(network) = self.engine.networks.find(&member.network_id) {
                self.engine.network_event(&network, "disconnect", id);
            }
        }
        if let Err(e) = run.container.delete().await {
            tracing::warn!("container {}: what its run used was not all released: {e}", self.record.name);
        }
    }

    /// The container ended; `false` when it is gone with its record.
    async fn exited(&mut self, exit: std::result::Result<runtime::Exit, runtime::Error>) -> bool {
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
        self.record.last.oom_killed = exit.oom_killed;
        self.record.last.members.clear();
        self.record.last.ports.clear();
        self.exits += 1;
        if exit.oom_killed {
            self.emit("oom", &[]);
        }
        let died = [("exitCode", exit.code.to_string()), ("execDuration", ran_for.as_secs().to_string())];
        self.emit("die", &died);
        self.engine.volumes_event(&self.record, "unmount");
        let was_stopped = stopping.is_some();
        let Stopping { waiters, restart, mut remove, .. } = stopping.unwrap_or_default();
        if !waiters.is_empty() || !restart.is_empty() {
            self.emit("stop", &[]);
        }
        if !restart.is_empty() {
            // A restart asked for wins over the policy, and over --rm.
            self.publish(Status::Exited);
            let result = self.start().await;
            if result.is_ok() {
                self.emit("restart", &[]);
            }
            restart.into_iter().for_each(|reply| tell(reply, result.clone()));
            waiters.into_iter().for_each(|reply| tell(reply, Ok(())));
            return true;
        }
        if !was_stopped && !self.record.stopped_by_user && self.policy_restarts(exit.code) {
            if ran_for > RESTART_CALM {
                self.back_off = RESTART_FIRST;
            }
            self.state = State::Waiting(Instant::now() + self.back_off);
            self.back_off = (self.back_off * 2).min(RESTART_MAX);
            self.save(Durability::Lazy).await;
            self.publish(Status::Restarting);
            waiters.into_iter().for_each(|reply| tell(reply, Ok(())));
            return true;
        }
        let mut gone = false;
        if self.record.host.auto_remove || !remove.is_empty() {
            self.publish(Status::Exited);
            let volumes = self.record.host.auto_remove || remove.iter().any(|(volumes, _)| *volumes);
            let result = self.remove(volumes).await;
            gone = result.is_ok();
            for (_, reply) in remove.drain(..) {
                tell(reply, result.clone());
            }
        } else {
            // The shim's own record of the exit is durable: this one may be lost and is made again from it.
            self.save(Durability::Lazy).await;
            self.publish(Status::Exited);
        }
        waiters.into_iter().for_each(|reply| tell(reply, Ok(())));
        !gone
    }

    fn policy_restarts(&self, code: u8) -> bool {
        let policy = &self.record.host.restart_policy;
        match policy.name.as_str() {
            "always" | "unless-stopped" => true,
            "on-failure" => {
                let max = policy.maximum_retry_count;
                code != 0 && (max == 0 || i64::from(self.record.restart_count) < max)
            }
            _ => false,
        }
    }

    fn wants_start_at_boot(&self) -> bool {
        let started = !self.record.last.started_at.is_empty();
        match self.record.host.restart_policy.name.as_str() {
            "always" => started,
            "unless-stopped" => started && !self.record.stopped_by_user,
            _ => false,
        }
    }

    async fn start_again(&mut self) {
        self.record.restart_count += 1;
        if let Err(e) = self.start().await {
            tracing::warn!("container {} did not start again: {e}", self.record.name);
            self.state = State::Waiting(Instant::now() + self.back_off);
            self.back_off = (self.back_off * 2).min(RESTART_MAX);
            self.publish(Status::Restarting);
        }
    }

    // ---- while it runs ----

    /// Sends the stop signal and sets the deadline. Called only while it runs.
    async fn begin_stop(&mut self, signal: Option<i32>, timeout: Option<i64>) -> &mut Stopping {
        let signal = signal.unwrap_or_else(|| create::stop_signal(&self.record.config));
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

    async fn kill_now(&mut self) {
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

    async fn kill(&mut self, signal: i32) -> Result<()> {
        let not_running = || {
            Error::conflict(format!(
                "cannot kill container: {}: container {} is not running",
                self.record.name, self.record.id
            ))
        };
        let State::Running(run) = &mut self.state else { return Err(not_running()) };
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
            self.record.stopped_by_user = true;
        }
        self.emit("kill", &[("signal", signal.to_string())]);
        Ok(())
    }

    async fn pause(&mut self, pause: bool) -> Result<()> {
        let (name, id) = (self.record.name.clone(), self.record.id.clone());
        // dockerd answers 500 here.
        let not_paused = || Error::internal(format!("Container {id} is not paused"));
        let run = match &mut self.state {
            State::Running(run) if run.paused && pause => {
                return Err(Error::conflict(format!("Container {id} is already paused")));
            }
            State::Running(run) if !run.paused && !pause => return Err(not_paused()),
            State::Running(run) => run,
            State::Idle | State::Waiting(_) if pause => {
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

    async fn rename(&mut self, name: String) -> Result<()> {
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
        self.save(Durability::Durable).await;
        let status = self.publish.borrow().status.clone();
        self.publish(status);
        self.emit("rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }

    /// A container found running after the engine's restart.
    async fn adopt(&mut self, container: runtime::Container) {
        let who = (self.record.id.as_str(), self.record.name.as_str());
        for member in &self.record.last.members {
            self.engine.networks.rejoin(who, member);
        }
        let mut run = Run {
            members: self.record.last.members.clone(),
            names: None,
            started: Instant::now(),
            paused: false,
            stopping: None,
            container,
        };
        let user_networks: Vec<String> = run
            .members
            .iter()
            .filter_map(|m| self.engine.networks.find(&m.network_id).ok())
            .filter(|n| !n.is_predefined())
            .map(|n| n.id.clone())
            .collect();
        if !user_networks.is_empty() {
            let names = ContainerNames {
                networks: self.engine.networks.clone(),
                network_ids: user_networks,
                upstreams: create::upstreams(&self.engine, &self.record),
            };
            match network::dns::serve(&run.container.netns(), Arc::new(names)).await {
                Ok(server) => run.names = Some(server),
                Err(e) => tracing::error!("container {} has no name server: {e}", self.record.name),
            }
        }
        self.state = State::Running(Box::new(run));
    }

    // ---- the end of it all ----

    async fn remove(&mut self, volumes: bool) -> Result<()> {
        self.publish(Status::Removing);
        let id = self.record.id.clone();
        let removed = async {
            self.engine.images.unmount_and_discard(&id).await.map_err(Error::from)?;
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

/// Answers a request; the one that asked may have gone away, which is no failure.
fn tell(reply: oneshot::Sender<Result<()>>, result: Result<()>) {
    let _ = reply.send(result);
}

/// Why a start failed, and the exit code Docker gives for it.
struct StartError {
    error: Error,
    exit_code: Option<u8>,
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self { error, exit_code: None }
    }
}

/// The runtime's failure in the words the CLI looks for when it chooses between 125, 126 and 127.
fn start_error(e: runtime::Error) -> StartError {
    let words = format!(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: unable to start container process: error during container init: {e}"
    );
    match e.code() {
        runtime::Code::NotFound => {
            StartError { error: Error { code: Code::InvalidArgument, message: words }, exit_code: Some(127) }
        }
        runtime::Code::NotExecutable => {
            StartError { error: Error { code: Code::InvalidArgument, message: words }, exit_code: Some(126) }
        }
        runtime::Code::InvalidArgument => {
            StartError { error: Error { code: Code::InvalidArgument, message: words }, exit_code: Some(128) }
        }
        _ => StartError { error: Error::internal(words), exit_code: Some(128) },
    }
}
