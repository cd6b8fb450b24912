//! The guest's end of the link: sessions come and go, each with its control stream and the streams the host opens.

use std::{
    io,
    path::Path,
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use link::{Frames, LinkError, Session, Stream, dialled, header, in_step, write_frame};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};
use wire::{
    control::{Engine as EngineState, Hello, ToGuest, ToHost},
    open::{Open, Opened},
};

use crate::{
    BUILD, RELEASE, cmdline::Link, disk, echo::Echo, engine, engine::Engine, idle::Idle, loopback::Loopback,
    names::Names, ports::Relay, reaper::Reaper, say, sys,
};

/// Most threads that serve streams.
pub const MAX_WORKERS: usize = 4;
/// Pause before the port is looked at again while no host is there (virtio-serial has no event for it).
const PORT_POLL: Duration = Duration::from_millis(20);
/// Time in which an address in the guest must take a connection.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// Time in which an engine that is starting must answer, before a Docker stream is refused.
const ENGINE_LIMIT: Duration = Duration::from_secs(60);
/// What a terminal takes for the end of what is typed (^D).
const END_OF_FILE: u8 = 4;
/// A clock that is off by less is left alone.
const CLOCK_SLACK: Duration = Duration::from_millis(20);

/// What streams are served with.
#[derive(Clone)]
pub struct Served {
    /// The engine that is supervised.
    pub engine: Engine,
    /// Published ports.
    pub ports: Relay,
    /// The host's changes, repeated.
    pub echo: Echo,
    /// Who answers questions about names.
    pub names: Names,
    /// The host's loopback.
    pub loopback: Loopback,
    /// Device of the data disk.
    pub data: Option<String>,
    /// Who is told to stop, and in what time.
    pub stop: mpsc::Sender<Duration>,
    /// Who spawns.
    pub reaper: Reaper,
}

impl Served {
    /// Serves hosts, one after the other, for ever.
    pub async fn link(self, link: Link) {
        match link {
            Link::Serial => self.serial().await,
            Link::Vsock(port) => self.vsock(port).await,
            Link::Unix(path) => self.unix(&path).await,
        }
    }

    async fn serial(&self) {
        loop {
            let Ok(mut port) = sys::Port::open() else {
                sleep(PORT_POLL).await;
                continue;
            };
            if in_step::guest(&mut port).await.is_err() {
                drop(port);
                sleep(PORT_POLL).await;
                continue;
            }
            self.session(Session::guest(port)).await;
        }
    }

    async fn vsock(&self, port: u32) {
        let mut said = false;
        let listener = loop {
            match sys::Vsock::listen(port) {
                Ok(listener) => break listener,
                Err(error) if !said => {
                    say(format_args!("vsock port {port}: {error}; trying on"));
                    said = true;
                }
                Err(_) => {}
            }
            sleep(PORT_POLL).await;
        };
        self.connections(|| listener.accept()).await;
    }

    async fn unix(&self, path: &Path) {
        let _ = std::fs::remove_file(path);
        let listener = match UnixListener::bind(path) {
            Ok(listener) => listener,
            Err(error) => return say(format_args!("the link's socket {}: {error}", path.display())),
        };
        if let Err(error) = sys::private(path) {
            return say(format_args!("the link's socket {}: {error}", path.display()));
        }
        self.connections(|| async { listener.accept().await.map(|(channel, _)| channel) }).await;
    }

    /// Serves connections, one after the other.
    async fn connections<F: Future<Output = io::Result<UnixStream>>>(&self, accept: impl Fn() -> F) {
        let mut next = None;
        loop {
            let mut channel = match next.take() {
                Some(channel) => channel,
                None => match accept().await {
                    Ok(channel) => channel,
                    Err(error) => {
                        say(format_args!("the link: {error}"));
                        sleep(PORT_POLL).await;
                        continue;
                    }
                },
            };
            let serve = async {
                if in_step::guest(&mut channel).await.is_ok() {
                    self.session(Session::guest(channel)).await;
                }
            };
            // The newest host holds: one that comes while another is served has taken over from it.
            tokio::select! {
                () = serve => {}
                Ok(channel) = accept() => next = Some(channel),
            }
        }
    }

    async fn session(&self, session: Session) {
        // Dropping the set ends the streams with their session.
        let mut streams = JoinSet::new();
        let session = Arc::new(session);
        loop {
            tokio::select! {
                stream = session.accept() => {
                    let Ok(stream) = stream else { return };
                    let (served, session) = (self.clone(), Arc::downgrade(&session));
                    streams.spawn(async move {
                        if let Err(error) = served.stream(stream, session).await
                            && !matches!(error, LinkError::Io(_) | LinkError::Closed | LinkError::Broken(_))
                        {
                            say(format_args!("a stream: {error}"));
                        }
                    });
                }
                Some(_) = streams.join_next() => {}
            }
        }
    }

    async fn stream(self, mut stream: Stream, session: Weak<Session>) -> Result<(), LinkError> {
        match header(&mut stream).await? {
            Open::Control => self.control(stream, session).await,
            Open::Docker => {
                let socket = self.docker().await;
                dialled::join(stream, socket).await
            }
            Open::Tcp { to, from: _ } => {
                let socket = match timeout(DIAL_LIMIT, TcpStream::connect(to)).await {
                    Ok(Ok(socket)) => {
                        let _ = socket.set_nodelay(true);
                        Ok(socket)
                    }
                    Ok(Err(error)) => Err(format!("{to}: {error}")),
                    Err(_) => Err(format!("{to} does not answer")),
                };
                dialled::join(stream, socket).await
            }
            Open::Udp { to, from: _ } => dialled::datagrams(stream, to).await,
            // The host has resolvers and a loopback of its own.
            Open::Names { .. } | Open::Loopback { .. } => Ok(()),
            Open::Shell { columns, rows } => self.shell(stream, columns, rows).await,
        }
    }

    async fn docker(&self) -> Result<UnixStream, String> {
        if let Ok(socket) = UnixStream::connect(engine::SOCKET).await {
            return Ok(socket);
        }
        let mut state = self.engine.state();
        let waiting = state.wait_for(|s| !matches!(s, EngineState::Starting));
        match timeout(ENGINE_LIMIT, waiting).await {
            Ok(Ok(state)) => {
                if let EngineState::Failed { message, .. } = &*state {
                    return Err(format!("the engine {message}"));
                }
            }
            _ => return Err(format!("the engine did not answer within {ENGINE_LIMIT:?}")),
        }
        UnixStream::connect(engine::SOCKET).await.map_err(|error| format!("the engine's socket: {error}"))
    }

    async fn control(&self, stream: Stream, session: Weak<Session>) -> Result<(), LinkError> {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut frames = Frames::new(reader);
        let ours = Hello::ours(RELEASE, BUILD);
        write_frame(&mut writer, &ToHost::Hello(ours.clone())).await?;
        // Until versions are agreed only the frozen words are spoken.
        let mut agreed = false;
        // A host that sets up the engine hears of the one that is set up so.
        let (mut awaited, mut taken) = (false, None);
        let mut idle = Idle::default();
        let (mut engine, mut wanted) = (self.engine.state(), self.ports.wanted());
        engine.mark_changed();
        wanted.mark_changed();
        loop {
            tokio::select! {
                message = frames.next::<ToGuest>() => match message? {
                    None => return Ok(()),
                    Some(ToGuest::Hello(theirs)) => match ours.agree(&theirs) {
                        Ok(version) => (agreed, awaited) = (true, version >= wire::setup::SINCE),
                        Err(why) => say(format_args!("the host can't be served: {why}")),
                    },
                    Some(ToGuest::Shutdown { grace_ms }) => {
                        let _ = self.stop.try_send(Duration::from_millis(grace_ms));
                        write_frame(&mut writer, &ToHost::Stopping).await?;
                    }
                    // Hosted, the clock is the distribution's.
                    Some(ToGuest::Clock { .. }) if self.engine.is_hosted() => {}
                    Some(ToGuest::Clock { unix_ns }) => set_clock(Duration::from_nanos(unix_ns)),
                    Some(ToGuest::DiskGrown) => self.grow(),
                    Some(ToGuest::Ports(outcome)) => self.ports.answered(outcome),
                    Some(ToGuest::Setup(setup)) => taken = Some(self.engine.set_up(setup)),
                    Some(ToGuest::Changed { share, changes }) => self.echo.repeat(&share, changes),
                    Some(ToGuest::Routes { subnets }) => self.engine.avoid(&subnets),
                    // Hosted, WSL's own resolver asks as Windows does.
                    Some(ToGuest::Names) if self.engine.is_hosted() => {}
                    Some(ToGuest::Names) => self.names.ask_by(session.clone()),
                    Some(ToGuest::Loopback) => self.loopback.ask_by(session.clone()),
                    Some(ToGuest::ShareLost { share }) => lost(&share),
                    Some(ToGuest::Ping { n }) => {
                        write_frame(&mut writer, &ToHost::Pong { n, quiet: idle.is_quiet() }).await?;
                    }
                    Some(ToGuest::Unknown) => {}
                },
                () = answered(&mut taken), if taken.is_some() => (awaited, taken) = (false, None),
                Ok(()) = engine.changed(), if agreed && !awaited => {
                    let state = engine.borrow_and_update().clone();
                    write_frame(&mut writer, &ToHost::Engine(state)).await?;
                }
                Ok(()) = wanted.changed(), if agreed => {
                    let set = wanted.borrow_and_update().clone();
                    write_frame(&mut writer, &ToHost::Ports(set)).await?;
                }
            }
        }
    }

    fn grow(&self) {
        let Some(device) = self.data.clone() else { return };
        tokio::task::spawn_blocking(move || {
            if let Err(error) = disk::grow(&device) {
                say(error);
            }
        });
    }

    async fn shell(&self, mut stream: Stream, columns: u16, rows: u16) -> Result<(), LinkError> {
        // Nobody waits for its end: the terminal's end tells.
        let (master, pid, _) = match self.reaper.spawn(|| sys::shell(columns, rows)) {
            Ok(started) => started,
            Err(error) => {
                return dialled::refuse(&mut stream, format!("the shell could not be started: {error}"))
                    .await;
            }
        };
        let _hang_up = HangUp(pid);
        write_frame(&mut stream, &Opened::Ok).await?;
        let mut output = tokio::fs::File::from_std(master.try_clone()?);
        let mut input = tokio::fs::File::from_std(master);
        let (mut reader, mut writer) = tokio::io::split(stream);
        let typed = async {
            tokio::io::copy(&mut reader, &mut input).await?;
            // What was typed has ended, not what is shown: the terminal's own end of file.
            input.write_all(&[END_OF_FILE]).await?;
            input.flush().await?;
            std::future::pending::<std::io::Result<()>>().await
        };
        tokio::select! {
            _ = typed => {}
            // A terminal whose last process is gone gives EIO.
            _ = tokio::io::copy(&mut output, &mut writer) => {}
        }
        let _ = writer.shutdown().await;
        Ok(())
    }
}

/// Resolves with what is waited for, also when nobody will answer.
async fn answered(taken: &mut Option<oneshot::Receiver<()>>) {
    match taken {
        Some(taken) => drop(taken.await),
        None => std::future::pending().await,
    }
}

/// Ends a shell with its stream: a read of its terminal may be under way in a thread and keep the terminal open.
struct HangUp(u32);

impl Drop for HangUp {
    fn drop(&mut self) {
        sys::signal(self.0, nix::sys::signal::Signal::SIGHUP);
    }
}

/// Leaves word beside the share's place: the engine looks there and lets nobody begin to wait.
fn lost(share: &str) {
    let sound = share.bytes().all(|b| b.is_ascii_alphanumeric());
    let path = format!("/run/host/{share}{}", wire::SHARE_LOST);
    if sound && let Err(error) = std::fs::write(&path, "") {
        say(format_args!("{path}: {error}"));
    }
}

fn set_clock(host: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if now.abs_diff(host) > CLOCK_SLACK
        && let Err(error) = sys::set_clock(host)
    {
        say(format_args!("the clock could not be set: {error}"));
    }
}
