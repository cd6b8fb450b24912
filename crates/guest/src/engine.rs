//! The engine's supervisor: one task owns it.
//!
//! ```text
//!  Starting --socket answers--> Running
//!     ^  \                        |
//!     |   `------- ends ----------+--> Failed{message, times} --pause--> Starting
//!     boot failed: Failed for good        stop: Stopped
//!     set up anew: ends in order, then Starting at once
//! ```

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};
use wire::{control::Engine as State, setup::Setup};

use crate::{
    GuestError, cmdline::Arguments, disk, last_words::LastWords, modules, ports, reaper::Reaper, say, setup,
    sys,
};

/// The engine's API.
pub const SOCKET: &str = "/run/docker.sock";
const PROGRAM: &str = "/usr/bin/coracle-engine";
/// Where the host's own network leads, a subnet a line. The engine reads it whenever it chooses a subnet.
const TAKEN: &str = "/run/coracle/taken-subnets";
const IMAGES: &str = "/usr/share/coracle/images";
/// First and longest pause before an engine that ended is started again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// An engine that ran this long begins with the first pause again.
const GOOD_RUN: Duration = Duration::from_secs(30);
/// Pause between two looks whether the socket answers, while the engine starts.
const SOCKET_POLL: Duration = Duration::from_millis(10);
/// Set-ups that wait to be taken.
const SETUPS: usize = 4;
/// How long an engine that is to be set up anew may take to end; its containers go on.
const END_LIMIT: Duration = Duration::from_secs(20);

/// The engine, as seen by others.
#[derive(Clone)]
pub struct Engine {
    state: Arc<watch::Sender<State>>,
    wish: Arc<watch::Sender<Wish>>,
    setups: mpsc::Sender<Told>,
    arguments: Arc<Arguments>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Run,
    /// Stop, by SIGKILL after the grace.
    Stop(Duration),
}

/// A set-up that the host told, and who waits until it is taken.
type Told = (Setup, oneshot::Sender<()>);

/// What the engine is started with, and what comes to change it.
struct Setups {
    current: Setup,
    told: mpsc::Receiver<Told>,
    /// Where the hypervisor's network leads to the host.
    gateway: Option<Ipv4Addr>,
}

impl Setups {
    /// Takes what was told; whether it is another.
    fn take(&mut self, told: Setup) -> bool {
        if told == self.current {
            return false;
        }
        setup::keep(&told);
        self.current = told;
        true
    }
}

/// How a life of the engine ended.
enum End {
    /// It was told to.
    Stopped,
    /// To begin anew with another set-up.
    Again,
    /// By itself.
    Died(String),
}

impl Engine {
    /// Starts it once `booted` is through.
    pub fn start(
        reaper: Reaper,
        booted: JoinHandle<Result<Option<Ipv4Addr>, GuestError>>,
        arguments: Arguments,
    ) -> Self {
        let (setups, told) = mpsc::channel(SETUPS);
        let engine = Self {
            state: Arc::new(watch::Sender::new(State::Starting)),
            wish: Arc::new(watch::Sender::new(Wish::Run)),
            setups,
            arguments: Arc::new(arguments),
        };
        engine.avoid(&engine.arguments.taken);
        tokio::spawn(engine.clone().supervise(reaper, booted, told));
        engine
    }

    /// Where the host's network leads now.
    pub fn avoid(&self, subnets: &[String]) {
        // The engine reads while this writes: all of it or what was there before.
        let new = format!("{TAKEN}.new");
        let lines: String = subnets.iter().map(|subnet| format!("{subnet}\n")).collect();
        let written = std::fs::write(&new, lines).and_then(|()| std::fs::rename(&new, TAKEN));
        if let Err(error) = written {
            say(format_args!("{TAKEN}: {error}"));
        }
    }

    /// Whether all around it is somebody else's.
    pub fn is_hosted(&self) -> bool {
        self.arguments.is_hosted()
    }

    /// Its state, and every change.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Tells what is set for it. What is answered comes (or is closed) when the state speaks of an engine that has it.
    pub fn set_up(&self, setup: Setup) -> oneshot::Receiver<()> {
        let (tell, taken) = oneshot::channel();
        // One that finds no room is told again with the next session.
        let _ = self.setups.try_send((setup, tell));
        taken
    }

    /// Stops it and waits until it has.
    pub async fn stop(&self, grace: Duration) {
        self.wish.send_replace(Wish::Stop(grace));
        let mut state = self.state();
        let _ = state.wait_for(|s| *s == State::Stopped).await;
    }

    async fn supervise(
        self,
        reaper: Reaper,
        booted: JoinHandle<Result<Option<Ipv4Addr>, GuestError>>,
        told: mpsc::Receiver<Told>,
    ) {
        let mut wish = self.wish.subscribe();
        let booted = match booted.await {
            Ok(booted) => booted.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let gateway = match booted {
            Ok(gateway) => gateway,
            Err(message) => {
                say(&message);
                self.state.send_replace(State::Failed { message, times: 1 });
                drop(told);
                let _ = wish.wait_for(|w| *w != Wish::Run).await;
                self.state.send_replace(State::Stopped);
                return;
            }
        };
        let mut setups = Setups { current: setup::kept(), told, gateway };
        let (mut times, mut pause, mut first) = (0, PAUSES.0, true);
        loop {
            self.state.send_replace(State::Starting);
            let since = Instant::now();
            let message = match self.run(&reaper, &mut wish, &mut setups, &mut first).await {
                End::Stopped => {
                    self.state.send_replace(State::Stopped);
                    return;
                }
                End::Again => continue,
                End::Died(message) => message,
            };
            if since.elapsed() > GOOD_RUN {
                (times, pause) = (0, PAUSES.0);
            }
            times += 1;
            say(format_args!("the engine {message}; it is started again in {pause:?}"));
            self.state.send_replace(State::Failed { message, times });
            tokio::select! {
                () = sleep(pause) => {}
                // What is set now may be what it lacked.
                Some((told, taken)) = setups.told.recv() => {
                    if setups.take(told) {
                        (times, pause) = (0, PAUSES.0);
                        self.state.send_replace(State::Starting);
                    }
                    let _ = taken.send(());
                    continue;
                }
                _ = wish.wait_for(|w| *w != Wish::Run) => {
                    self.state.send_replace(State::Stopped);
                    return;
                }
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// One life of the engine.
    async fn run(
        &self,
        reaper: &Reaper,
        wish: &mut watch::Receiver<Wish>,
        setups: &mut Setups,
        first: &mut bool,
    ) -> End {
        let started = reaper.spawn(|| {
            let mut child = command(&self.arguments, setups)?.spawn()?;
            Ok((LastWords::of(&mut child), child.id()))
        });
        let (last_words, pid, mut ended) = match started {
            Ok(started) => started,
            Err(error) => return End::Died(format!("could not be started: {error}")),
        };
        let mut answering = std::pin::pin!(socket_answers());
        let mut answered = false;
        let how = loop {
            tokio::select! {
                how = &mut ended => break how.unwrap_or_default(),
                () = &mut answering, if !answered => {
                    answered = true;
                    self.state.send_replace(State::Running);
                    if std::mem::take(first) && !self.is_hosted() {
                        tokio::task::spawn_blocking(|| modules::load_stage("later"));
                    }
                }
                Some((told, taken)) = setups.told.recv() => {
                    let another = setups.take(told);
                    if another {
                        self.state.send_replace(State::Starting);
                    }
                    let _ = taken.send(());
                    if another {
                        // SIGTERM: the engine ends alone, its containers stay.
                        sys::signal(pid, Signal::SIGTERM);
                        if tokio::time::timeout(END_LIMIT, &mut ended).await.is_err() {
                            sys::signal(pid, Signal::SIGKILL);
                            let _ = ended.await;
                        }
                        return End::Again;
                    }
                }
                grace = stop_wished(wish) => {
                    // SIGPWR: the engine stops its containers in order, each with its own signal, and ends.
                    sys::signal(pid, Signal::SIGPWR);
                    if tokio::time::timeout(grace, &mut ended).await.is_err() {
                        say("the engine did not stop in time and is killed");
                        sys::signal(pid, Signal::SIGKILL);
                        let _ = ended.await;
                    }
                    return End::Stopped;
                }
            }
        };
        let words = last_words.said().await;
        End::Died(if words.is_empty() { how } else { format!("{how}; its last words: {words}") })
    }
}

fn command(arguments: &Arguments, setups: &Setups) -> std::io::Result<Command> {
    let mut command = Command::new(PROGRAM);
    command
        .args(["serve", "--socket", SOCKET, "--root", &format!("{}/engine", disk::MOUNT)])
        .args(["--exec-root", "/run/engine", "--preload", IMAGES, "--ports-socket", ports::SOCKET])
        .env_clear()
        .envs([("PATH", sys::PATH), ("HOME", "/root")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(gateway) = setups.gateway {
        command.args(["--host-gateway-ip", &gateway.to_string()]);
    }
    command.args(["--taken-subnets", TAKEN]);
    for share in &arguments.shares {
        command.args(["--host-path", &format!("{}={}", share.host, share.place())]);
    }
    setup::apply(&setups.current, setups.gateway.map(Into::into), &mut command)?;
    Ok(command)
}

async fn stop_wished(wish: &mut watch::Receiver<Wish>) -> Duration {
    match wish.wait_for(|w| *w != Wish::Run).await.map(|w| *w) {
        Ok(Wish::Stop(grace)) => grace,
        Ok(Wish::Run) | Err(_) => Duration::ZERO,
    }
}

async fn socket_answers() {
    // The engine unlinks and binds the socket itself: there is nothing to wait for but an answer.
    while UnixStream::connect(SOCKET).await.is_err() {
        sleep(SOCKET_POLL).await;
    }
}
