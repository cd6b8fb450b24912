//! The machine: one task owns it; it waits for one thing at a time and then changes state.
//!
//! ```text
//!            Start                     engine runs
//!  Stopped --------> Starting ----------------------------> Running
//!   Asleep              |  |--limit, KVM--> Starting (TCG)   |   |
//!     ^                 |  `--limit, 1st --> Starting (2nd)  |   |
//!     |                 |  limit, panic, death, no image ..  |   | panic, death, engine fails,
//!     |                 v                                    |   v link lost too long
//!     |              Failed{why, vm?} <----------------------'-- |
//!     |                 |   ^ `--engine runs again (vm) ---> Running
//!     |   Stop          |   | Start: the old vm is ended, then Starting
//!     `---- Stopping <--'---'
//!             limit: killed
//! ```
//!
//! A machine that nobody uses is stopped when the setting `idle-stop-s` says so (it is then asleep); Docker's socket
//! stays, and its next use starts the machine again.
//!
//! A failed machine keeps its vm where the guest can still be looked at (`coracle shell`, `logs --guest`).

mod launch;
mod look;
mod vm;

use std::{sync::Arc, time::Duration};

use link::Session;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use wire::control::{Engine, ToGuest};

use self::vm::{Vm, boot_limit, end, kvm_by_choice};
use crate::{
    BUILD, Home, HostError, RELEASE, Settings,
    api::{DaemonInfo, Failure, GuestInfo, StateName, Status, one_line},
    driver::{self, Channel},
    forward::{Route, Used},
    guest,
    log::{tail, tail_since},
    ports::Ports,
};

/// Times a guest is started that does not answer: a kernel may hang as it boots, and did not touch the data disk yet.
const BOOT_TIMES: u32 = 2;
/// Time in which the engine must run, from the guest's answer on.
const ENGINE_LIMIT: Duration = Duration::from_secs(120);
/// Times an engine may fail in a row before a start is given up.
const ENGINE_TIMES: u32 = 3;
/// Time that the link may be lost before the machine counts as failed.
const LOST_LIMIT: Duration = Duration::from_secs(30);
/// What an orderly stop may take beyond the grace given to the engine.
const STOP_SLACK: Duration = Duration::from_secs(15);
/// Time in which a killed process must be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Lines of the console in which a panic is looked for: its trace is long.
const PANIC_LINES: usize = 400;
/// Lines of what a share said that make an error.
const SAID_LINES: usize = 2;
/// Lines of the console in an error.
const CONSOLE_LINES: usize = 8;
/// Grace of the engine when it is only ended to start anew.
const QUICK_GRACE: Duration = Duration::from_secs(5);
/// Commands and events that wait for the owner.
const QUEUE: usize = 256;

type Reply = oneshot::Sender<Result<(), Failure>>;

enum Message {
    Start(Reply),
    Stop(Duration, Reply),
    Driver(u64, driver::Event),
    Guest(u64, guest::Event),
}

/// A handle on the machine.
#[derive(Clone)]
pub struct Machine {
    messages: mpsc::Sender<Message>,
    status: watch::Receiver<Status>,
    route: watch::Receiver<Route>,
    used: Used,
}

impl Machine {
    /// The home's machine; takes over what an earlier daemon left running.
    pub async fn open(home: Home) -> Self {
        let (messages, inbox) = mpsc::channel(QUEUE);
        let (route, route_seen) = watch::channel(Route::Down);
        let (status, status_seen) = watch::channel(Status::stopped(&home));
        let ports = Ports::new(route_seen.clone());
        let used = Used::now();
        let mut owner = Owner {
            home,
            state: State::Stopped,
            messages: messages.downgrade(),
            route: Arc::new(route),
            status,
            ports,
            starting: Vec::new(),
            stopping: Vec::new(),
            last_vm: 0,
            console_from: 0,
            used: used.clone(),
        };
        owner.adopt().await;
        owner.publish();
        tokio::spawn(owner.run(inbox));
        Self { messages, status: status_seen, route: route_seen, used }
    }

    /// Starts it; returns when it runs, or in words why not.
    pub async fn start(&self) -> Result<(), Failure> {
        self.ask(Message::Start).await
    }

    /// Stops it in order; returns when it is off.
    pub async fn stop(&self, grace: Duration) -> Result<(), Failure> {
        self.ask(|reply| Message::Stop(grace, reply)).await
    }

    /// How it is.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The way to the engine.
    pub fn route(&self) -> watch::Receiver<Route> {
        self.route.clone()
    }

    /// When its API was used last.
    pub fn used(&self) -> Used {
        self.used.clone()
    }

    /// The link's session, while there is one.
    pub fn session(&self) -> Option<Arc<Session>> {
        match &*self.route.borrow() {
            Route::Link(session) => Some(session.clone()),
            Route::Down | Route::Coming | Route::Asleep | Route::Socket(_) => None,
        }
    }

    async fn ask(&self, message: impl FnOnce(Reply) -> Message) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        let gone = || Failure::from(&HostError::Daemon("it is ending".into()));
        self.messages.send(message(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

enum State {
    Stopped,
    /// Stopped because nobody used it: its next use starts it.
    Asleep,
    Starting {
        vm: Vm,
        deadline: Instant,
        settings: Settings,
        /// Which attempt it is.
        times: u32,
    },
    Running {
        vm: Vm,
    },
    Stopping {
        vm: Vm,
        deadline: Instant,
        killed: bool,
        why: Stop,
    },
    Failed {
        failure: Failure,
        vm: Option<Vm>,
    },
}

/// Why it stops.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Somebody said so.
    Asked,
    /// Nobody used it; whoever comes meanwhile waits for the next start.
    Idle,
    /// It is an engine that was started only to end what an earlier one left.
    EndsLeft,
}

impl Stop {
    /// What it is afterwards.
    fn end(self) -> State {
        match self {
            Self::Idle => State::Asleep,
            Self::Asked | Self::EndsLeft => State::Stopped,
        }
    }
}

struct Owner {
    home: Home,
    state: State,
    messages: mpsc::WeakSender<Message>,
    route: Arc<watch::Sender<Route>>,
    status: watch::Sender<Status>,
    ports: Ports,
    starting: Vec<Reply>,
    stopping: Vec<Reply>,
    last_vm: u64,
    /// Length of the console's log when the vm was started.
    console_from: u64,
    used: Used,
}

impl Owner {
    async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        let mut look = Instant::now();
        loop {
            let deadline = self.deadline();
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(Message::Start(reply)) => self.start(reply).await,
                    Some(Message::Stop(grace, reply)) => self.stop(grace, reply),
                    Some(Message::Driver(id, event)) if self.is_current(id) => self.driver_event(event).await,
                    Some(Message::Guest(id, event)) if self.is_current(id) => self.guest_event(event),
                    Some(Message::Driver(..) | Message::Guest(..)) => {} // of a vm that is no more
                    None => return,
                },
                () = async { sleep_until(deadline.unwrap_or_else(Instant::now)).await }, if deadline.is_some() => {
                    self.late().await;
                }
                () = sleep_until(look) => look = Instant::now() + self.look().await,
            }
            // Somebody came while it was falling asleep.
            if matches!(self.state, State::Stopped | State::Asleep) && !self.starting.is_empty() {
                self.launch(None, 1).await;
            }
            self.publish();
        }
    }

    fn vm(&self) -> Option<&Vm> {
        match &self.state {
            State::Starting { vm, .. } | State::Running { vm } | State::Stopping { vm, .. } => Some(vm),
            State::Failed { vm, .. } => vm.as_ref(),
            State::Stopped | State::Asleep => None,
        }
    }

    fn vm_mut(&mut self) -> Option<&mut Vm> {
        match &mut self.state {
            State::Starting { vm, .. } | State::Running { vm } | State::Stopping { vm, .. } => Some(vm),
            State::Failed { vm, .. } => vm.as_mut(),
            State::Stopped | State::Asleep => None,
        }
    }

    fn is_current(&self, id: u64) -> bool {
        self.vm().is_some_and(|vm| vm.id == id)
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Starting { deadline, .. } | State::Stopping { deadline, .. } => Some(*deadline),
            // One that stands still can't answer.
            State::Running { vm } if vm.paused.is_some() => None,
            State::Running { vm } => vm.lost.map(|lost| lost + LOST_LIMIT),
            State::Stopped | State::Asleep | State::Failed { .. } => None,
        }
    }

    // ---- what is asked ----

    async fn start(&mut self, reply: Reply) {
        match &self.state {
            State::Running { .. } => drop(reply.send(Ok(()))),
            State::Starting { .. } => self.starting.push(reply),
            State::Stopping { why: Stop::Idle, .. } => self.starting.push(reply),
            State::Stopping { why: Stop::Asked | Stop::EndsLeft, .. } => {
                drop(reply.send(Err(Failure::from(&HostError::Busy("stopping")))))
            }
            State::Stopped | State::Asleep | State::Failed { .. } => {
                if let State::Failed { vm: Some(vm), .. } = std::mem::replace(&mut self.state, State::Stopped)
                {
                    end(vm).await;
                }
                self.starting.push(reply);
                self.launch(None, 1).await;
            }
        }
    }

    fn stop(&mut self, grace: Duration, reply: Reply) {
        self.fail_starts(&HostError::Busy("stopping"));
        self.stopping.push(reply);
        if matches!(self.state, State::Stopped | State::Asleep | State::Failed { vm: None, .. })
            && driver::local::has_left(&self.home)
            && self.end_left(grace)
        {
            return;
        }
        self.state = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Stopped | State::Asleep | State::Failed { vm: None, .. } => State::Stopped,
            State::Stopping { vm, deadline, killed, why: Stop::Idle } => {
                State::Stopping { vm, deadline, killed, why: Stop::Asked }
            }
            stopping @ State::Stopping { .. } => stopping,
            State::Starting { vm, .. } | State::Running { vm } | State::Failed { vm: Some(vm), .. } => {
                tracing::info!("stopping, with {grace:?} for the engine");
                let grace_ms = grace.as_millis() as u64;
                let told = vm.info.is_some()
                    && vm.guest.as_ref().is_some_and(|guest| guest.say(ToGuest::Shutdown { grace_ms }));
                if !told {
                    vm.driver.terminate();
                }
                if vm.paused.is_some() {
                    vm.driver.resume(); // a guest that stands still can't stop in order: let it try
                }
                // A guest needs more than its engine; that the local one's containers get no more is what was asked.
                let slack = if vm.guest.is_some() { STOP_SLACK } else { Duration::ZERO };
                State::Stopping {
                    vm,
                    deadline: Instant::now() + grace + slack,
                    killed: false,
                    why: Stop::Asked,
                }
            }
        };
        if matches!(self.state, State::Stopped) {
            self.off(Stop::Asked);
        }
    }

    // ---- what happens ----

    async fn driver_event(&mut self, event: driver::Event) {
        match event {
            driver::Event::Exited(said) => {
                let panic = self.panic_words();
                let console = self.console(CONSOLE_LINES);
                if let State::Starting { vm, settings, .. } = &self.state
                    && vm.info.is_none()
                    && kvm_by_choice(vm, settings)
                {
                    return self.launch(Some(format!("QEMU ended with KVM: {said}")), 1).await;
                }
                // What was taken over while it was just ending: who wants a machine gets another.
                if let State::Starting { vm: Vm { is_adopted: true, .. }, .. } = &self.state
                    && panic.is_none()
                    && self.starting.iter().any(|reply| !reply.is_closed())
                {
                    tracing::warn!("what was taken over has ended and is started anew: {said}");
                    return self.launch(None, 1).await;
                }
                match std::mem::replace(&mut self.state, State::Stopped) {
                    State::Stopping { deadline, why, .. } => {
                        // An engine that was dying as it was taken over, or was killed while it stopped: another one
                        // ends what it left. Not a third.
                        let rest = deadline.saturating_duration_since(Instant::now());
                        if why == Stop::EndsLeft
                            || !driver::local::has_left(&self.home)
                            || !self.end_left(rest)
                        {
                            self.off(why);
                        }
                    }
                    // Its failure was told already; only the vm is gone now.
                    State::Failed { failure, .. } => self.fail_with(failure, None),
                    none @ (State::Stopped | State::Asleep) => self.state = none,
                    State::Starting { vm, .. } | State::Running { vm } => {
                        if let Some(words) = panic {
                            return self.fail(&HostError::Panic(words), None);
                        }
                        let said = if said.is_empty() {
                            format!("it said nothing; the console's end: {console}")
                        } else {
                            said
                        };
                        self.fail(&vm.driver.died(said), None);
                    }
                }
            }
            driver::Event::Panicked => {
                let words = self.panic_words().unwrap_or_else(|| self.console(CONSOLE_LINES));
                let vm = self.take_vm();
                if let Some(vm) = &vm {
                    vm.driver.kill();
                }
                self.fail(&HostError::Panic(words), vm);
            }
            driver::Event::DiskFull => {
                let folder = self.home.data();
                let room = self.has_room();
                let failure = Failure::from(&HostError::StandsStill { folder });
                let Some(vm) = self.vm_mut() else { return };
                // QEMU tells of such errors once a second at most, so that one may come after the guest went on:
                // going on when it does already is nothing.
                if room {
                    return vm.driver.resume();
                }
                tracing::error!("{}", failure.message);
                vm.paused = Some(failure);
            }
            driver::Event::Resumed => {
                if let Some(vm) = self.vm_mut() {
                    vm.paused = None;
                    // The link had no chance meanwhile: its limit begins anew.
                    vm.lost = vm.lost.map(|_| Instant::now());
                }
            }
            // When the machine goes, its shares do, too.
            driver::Event::ShareLost(share) => {
                let said = tail(&self.home.machine("share.log"), SAID_LINES);
                let failure = Failure::from(&HostError::ShareLost(share.folder, said));
                if let State::Starting { vm, .. } | State::Running { vm } = &mut self.state {
                    tracing::error!("{}", failure.message);
                    vm.broken = Some(failure);
                }
            }
            driver::Event::NetworkLost => {
                let said = self.vm().map(|vm| vm.driver.network_said(&self.home)).unwrap_or_default();
                let failure = Failure::from(&HostError::NetworkLost(said));
                if let State::Starting { vm, .. } | State::Running { vm } = &mut self.state {
                    tracing::error!("{}", failure.message);
                    vm.broken = Some(failure);
                }
            }
            driver::Event::Ready if matches!(self.state, State::Stopping { .. }) => {
                if let Some(vm) = self.vm() {
                    vm.driver.terminate(); // it was started for this
                }
            }
            driver::Event::Ready => {
                if let Some(Channel::Socket(path)) = self.vm().map(|vm| vm.driver.channel()) {
                    self.route.send_replace(Route::Socket(path));
                    self.engine_runs();
                }
            }
        }
    }

    fn guest_event(&mut self, event: guest::Event) {
        match event {
            guest::Event::Hello(hello, api) => {
                if let State::Starting { deadline, .. } = &mut self.state {
                    *deadline = Instant::now() + ENGINE_LIMIT;
                }
                if let Some(vm) = self.vm_mut() {
                    vm.lost = None;
                    vm.info = Some(GuestInfo { version: hello.release, build: hello.build, api });
                }
            }
            guest::Event::Incompatible(why) => {
                let vm = self.take_vm();
                self.fail(&HostError::Version(why), vm);
            }
            guest::Event::Engine(Engine::Running) => self.engine_runs(),
            guest::Event::Engine(Engine::Failed { message, times }) => {
                tracing::error!("the engine {message}");
                self.route.send_replace(Route::Coming);
                let give_up = match &self.state {
                    State::Starting { .. } => times >= ENGINE_TIMES || message.contains("data disk"),
                    State::Running { .. } => true,
                    State::Stopped | State::Asleep | State::Stopping { .. } | State::Failed { .. } => false,
                };
                if give_up {
                    let vm = self.take_vm();
                    self.fail(&HostError::Engine(message), vm);
                }
            }
            guest::Event::Engine(Engine::Starting | Engine::Stopped) => {}
            guest::Event::Quiet(quiet) => {
                if let Some(vm) = self.vm_mut() {
                    vm.quiet = quiet.then(|| vm.quiet.unwrap_or_else(Instant::now));
                }
            }
            guest::Event::Lost => {
                if let Some(vm) = self.vm_mut() {
                    vm.lost.get_or_insert_with(Instant::now);
                    vm.quiet = None;
                }
            }
        }
    }

    fn engine_runs(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Starting { vm, .. } | State::Running { vm } | State::Failed { vm: Some(vm), .. } => {
                tracing::info!("the engine runs");
                for reply in self.starting.drain(..) {
                    let _ = reply.send(Ok(()));
                }
                State::Running { vm }
            }
            other => other,
        };
    }

    /// The state's deadline has passed.
    async fn late(&mut self) {
        let console = self.console(CONSOLE_LINES);
        match std::mem::replace(&mut self.state, State::Stopped) {
            State::Starting { vm, settings, times, .. } => {
                let accel = vm.driver.accel().map(|(accel, _)| accel);
                let without_kvm = vm.driver.accel().and_then(|(_, why)| why.map(str::to_owned));
                let (answered, fall_back) = (vm.info.is_some(), kvm_by_choice(&vm, &settings));
                let limit = if answered { ENGINE_LIMIT } else { boot_limit(&settings, accel, times) };
                end(vm).await;
                if fall_back && !answered {
                    let why = format!("with KVM the guest did not answer within {limit:?}");
                    tracing::warn!("{why}; trying without");
                    return self.launch(Some(why), 1).await;
                }
                if !answered && times < BOOT_TIMES {
                    tracing::warn!(
                        "the guest did not answer within {limit:?} and is started once more; {console}"
                    );
                    return self.launch(without_kvm, times + 1).await;
                }
                self.fail(&HostError::NoAnswer { limit, console }, None);
            }
            State::Running { vm } => self.fail(&HostError::NoAnswer { limit: LOST_LIMIT, console }, Some(vm)),
            State::Stopping { vm, killed: false, why, .. } => {
                tracing::warn!("the {} machine did not stop in time and is ended", vm.driver.name());
                if !vm.driver.hurry() {
                    vm.driver.kill();
                }
                self.state = State::Stopping { vm, deadline: Instant::now() + KILL_LIMIT, killed: true, why };
            }
            State::Stopping { vm, why, .. } => {
                vm.driver.kill();
                self.off(why);
            }
            other => self.state = other,
        }
    }

    // ---- steps ----

    /// The last of what this vm wrote to its console.
    fn console(&self, lines: usize) -> String {
        tail_since(&self.home.console_log(), self.console_from, lines)
    }

    fn panic_words(&self) -> Option<String> {
        let console = self.console(PANIC_LINES);
        console.find("Kernel panic").and_then(|at| console[at..].lines().next()).map(str::to_owned)
    }

    fn next_vm(&mut self) -> u64 {
        self.last_vm += 1;
        self.last_vm
    }

    fn take_vm(&mut self) -> Option<Vm> {
        match std::mem::replace(&mut self.state, State::Stopped) {
            State::Starting { vm, .. } | State::Running { vm } | State::Stopping { vm, .. } => Some(vm),
            State::Failed { vm, .. } => vm,
            State::Stopped | State::Asleep => None,
        }
    }

    fn fail(&mut self, error: &HostError, vm: Option<Vm>) {
        self.fail_with(Failure::from(error), vm);
    }

    fn fail_with(&mut self, failure: Failure, vm: Option<Vm>) {
        tracing::error!("{}", failure.message);
        self.route.send_replace(Route::Down);
        if vm.is_none() {
            self.ports.clear();
        }
        for reply in self.starting.drain(..) {
            let _ = reply.send(Err(failure.clone()));
        }
        self.state = State::Failed { failure, vm };
    }

    fn fail_starts(&mut self, error: &HostError) {
        for reply in self.starting.drain(..) {
            let _ = reply.send(Err(Failure::from(error)));
        }
    }

    /// It is off, and why.
    fn off(&mut self, why: Stop) {
        self.state = why.end();
        self.route.send_replace(if why == Stop::Idle { Route::Asleep } else { Route::Down });
        self.ports.clear();
        let _ = std::fs::remove_file(self.home.machine("machine.json"));
        for reply in self.stopping.drain(..) {
            let _ = reply.send(Ok(()));
        }
    }

    fn publish(&self) {
        let mut status = Status::stopped(&self.home);
        status.daemon =
            Some(DaemonInfo { version: RELEASE.into(), build: BUILD.into(), pid: std::process::id() });
        status.state = match &self.state {
            State::Stopped | State::Asleep => StateName::Stopped,
            State::Starting { .. } => StateName::Starting,
            State::Running { .. } => StateName::Running,
            State::Stopping { .. } => StateName::Stopping,
            State::Failed { .. } => StateName::Failed,
        };
        if let Some(vm) = self.vm() {
            status.driver = Some(vm.driver.name().into());
            status.pid = Some(vm.driver.pid());
            if let Some((accel, note)) = vm.driver.accel() {
                status.accel = Some(accel.name().into());
                status.accel_note = note.map(one_line);
            }
            status.guest = vm.info.clone();
            status.error = vm.paused.clone().or_else(|| vm.broken.clone());
        }
        status.asleep = matches!(self.state, State::Asleep);
        if let State::Failed { failure, .. } = &self.state {
            status.error = Some(failure.clone());
        }
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }
}

/// Events come from tasks that must not wait; the queue is long enough for all that can be under way.
fn send(messages: &mpsc::WeakSender<Message>, message: Message) {
    if let Some(messages) = messages.upgrade()
        && messages.try_send(message).is_err()
    {
        tracing::error!("the machine's owner does not keep up: an event was lost");
    }
}
