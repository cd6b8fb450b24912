//! The host's end of the link: connects, comes into step, speaks control; and again whenever it is lost.

use std::{
    io,
    pin::Pin,
    process::Stdio,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use link::{Frames, LinkError, Session, in_step, write_frame};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    process::{Child, ChildStdin, ChildStdout},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use wire::{
    control::{Engine, Hello, ToGuest, ToHost},
    open::Open,
    setup::Setup,
};

use crate::{BUILD, RELEASE, asked, driver::Channel, forward::Route, platform, ports::Ports, routes};

/// Pause before the link is tried again.
const RETRY: Duration = Duration::from_millis(50);
/// Time in which the ends come into step on one connection, before another is made.
const STEP_LIMIT: Duration = Duration::from_secs(5);
/// How often the guest's clock is set.
const CLOCK: Duration = Duration::from_secs(30);
/// A wall clock that ran ahead of, or fell behind, the time this computer was awake by more than this was stepped, or the
/// computer slept.
const JUMP: Duration = Duration::from_millis(500);
/// How often the guest is asked whether it is there, and for how long it may stay silent.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// Requests that wait for the link.
const QUEUE: usize = 16;

/// What the guest does.
#[derive(Debug)]
pub enum Event {
    /// It answered, and this version is spoken.
    Hello(Hello, u32),
    /// It answered, and can't be understood.
    Incompatible(String),
    /// Its engine changed.
    Engine(Engine),
    /// Whether nothing has happened in it for a moment; told from time to time.
    Quiet(bool),
    /// The link to it is gone; it is being tried again.
    Lost,
}

/// The link to a guest; dropping it closes it.
pub struct Guest {
    requests: mpsc::Sender<ToGuest>,
    task: JoinHandle<()>,
}

impl Guest {
    /// Keeps a link over `channel`. `setup` is asked whenever the guest says hello. Events are passed
    /// through `tell`; `route` follows the session.
    pub fn connect(
        channel: Channel,
        ports: Ports,
        route: Arc<watch::Sender<Route>>,
        setup: impl Fn() -> Setup + Send + Sync + 'static,
        tell: impl Fn(Event) + Send + Sync + 'static,
    ) -> Self {
        let (requests, mut asked) = mpsc::channel(QUEUE);
        let task = tokio::spawn(async move {
            loop {
                let (session, channel_up) = match connect(&channel).await {
                    Ok(session) => (Arc::new(session), Instant::now()),
                    Err(error) => {
                        tracing::trace!("the link: {error}");
                        sleep(RETRY).await;
                        continue;
                    }
                };
                tracing::info!("the link is in step");
                let end = control(&session, &ports, &route, &mut asked, &setup, &tell).await;
                let why = end.map_or_else(|error| error.to_string(), |()| "the guest closed it".to_owned());
                tracing::warn!("the link was lost after {:?}: {why}", channel_up.elapsed());
                route.send_replace(Route::Coming);
                tell(Event::Lost);
            }
        });
        Self { requests, task }
    }

    /// Where messages to the guest are handed in; they wait while it can't be reached.
    pub fn requests(&self) -> &mpsc::Sender<ToGuest> {
        &self.requests
    }

    /// Says something to the guest, when it can be reached.
    pub fn say(&self, message: ToGuest) -> bool {
        self.requests.try_send(message).is_ok()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(channel: &Channel) -> Result<Session, LinkError> {
    match channel {
        Channel::Link(path) => in_step(platform::connect(path).await?).await,
        Channel::Bridge(bridge) => {
            let mut command = bridge.command();
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
            let (input, output) =
                (child.stdin.take().ok_or(LinkError::Closed)?, child.stdout.take().ok_or(LinkError::Closed)?);
            in_step(Bridged { streams: tokio::io::join(output, input), _child: child }).await
        }
        Channel::Socket(_) => Err(LinkError::Closed), // the engine's own socket has no link
    }
}

async fn in_step(
    mut channel: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<Session, LinkError> {
    in_step::host(&mut channel, STEP_LIMIT).await?;
    Ok(Session::host(channel))
}

/// A program's standard streams; it ends with this value.
struct Bridged {
    streams: tokio::io::Join<ChildStdout, ChildStdin>,
    _child: Child,
}

impl AsyncRead for Bridged {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.streams).poll_read(cx, into)
    }
}

impl AsyncWrite for Bridged {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.streams).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.streams).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.streams).poll_shutdown(cx)
    }
}

/// Tells by two clocks whether this computer slept: one goes on meanwhile, the other does not.
struct Awake {
    at: std::time::Instant,
    wall: SystemTime,
}

impl Awake {
    fn new(at: std::time::Instant, wall: SystemTime) -> Self {
        Self { at, wall }
    }

    /// Whether the wall clock is elsewhere than the time since the last look says.
    fn jumped(&mut self, at: std::time::Instant, wall: SystemTime) -> bool {
        let expected = self.wall + at.duration_since(self.at);
        *self = Self { at, wall };
        let off = wall.duration_since(expected).unwrap_or_else(|error| error.duration());
        off > JUMP
    }
}

async fn control(
    session: &Arc<Session>,
    ports: &Ports,
    route: &watch::Sender<Route>,
    asked: &mut mpsc::Receiver<ToGuest>,
    setup: &(impl Fn() -> Setup + Send + Sync),
    tell: &(impl Fn(Event) + Send + Sync),
) -> Result<(), LinkError> {
    let stream = session.open(&Open::Control).await?;
    let (reader, mut writer) = tokio::io::split(stream);
    let mut frames = Frames::new(reader);
    let ours = Hello::ours(RELEASE, BUILD);
    write_frame(&mut writer, &ToGuest::Hello(ours.clone())).await?;
    let mut asked_of_us = std::pin::pin!(asked::serve(session));
    let (mut clock, mut ping) = (interval(CLOCK), interval(PING.0));
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ping.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut heard, mut n, mut agreed) = (Instant::now(), 0, false);
    let mut awake = Awake::new(std::time::Instant::now(), SystemTime::now());
    let mut told = None;
    loop {
        tokio::select! {
            message = frames.next::<ToHost>() => {
                let Some(message) = message? else { return Ok(()) };
                heard = Instant::now();
                match message {
                    ToHost::Hello(theirs) => match ours.agree(&theirs) {
                        Ok(version) => {
                            agreed = true;
                            if version >= wire::setup::SINCE {
                                write_frame(&mut writer, &ToGuest::Setup(setup())).await?;
                            }
                            write_frame(&mut writer, &ToGuest::Names).await?;
                            write_frame(&mut writer, &ToGuest::Loopback).await?;
                            clock.reset_immediately();
                            tell(Event::Hello(theirs, version));
                        }
                        Err(why) => tell(Event::Incompatible(why)),
                    },
                    ToHost::Engine(state) => {
                        // The way is open before anybody hears that the engine runs.
                        if state == Engine::Running {
                            route.send_replace(Route::Link(session.clone()));
                        }
                        tell(Event::Engine(state));
                    }
                    ToHost::Ports(wanted) => {
                        let outcome = ports.apply(&wanted).await;
                        write_frame(&mut writer, &ToGuest::Ports(outcome)).await?;
                    }
                    ToHost::Stopping => tracing::info!("the guest is stopping"),
                    ToHost::Pong { quiet, .. } => tell(Event::Quiet(quiet)),
                    ToHost::Unknown => {}
                }
            }
            Some(message) = asked.recv() => write_frame(&mut writer, &message).await?,
            _ = clock.tick(), if agreed => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                write_frame(&mut writer, &ToGuest::Clock { unix_ns: now.as_nanos() as u64 }).await?;
                let subnets = tokio::task::spawn_blocking(routes::subnets).await.unwrap_or_default();
                if told.as_ref() != Some(&subnets) {
                    write_frame(&mut writer, &ToGuest::Routes { subnets: subnets.clone() }).await?;
                    told = Some(subnets);
                }
            }
            _ = ping.tick() => {
                // A guest's clock stands still with its computer, and vfkit tells only qemu's agent of a wake.
                if awake.jumped(std::time::Instant::now(), SystemTime::now()) {
                    tracing::info!("this computer slept, or its clock was set: the guest's is set");
                    clock.reset_immediately();
                }
                if heard.elapsed() > PING.1 {
                    return Err(LinkError::NoAnswer);
                }
                n += 1;
                write_frame(&mut writer, &ToGuest::Ping { n }).await?;
            }
            () = &mut asked_of_us => return Err(LinkError::Closed),
            () = session.closed() => return Err(LinkError::Closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_computer_that_slept_or_whose_clock_was_set_is_noticed() {
        let (start, wall) = (std::time::Instant::now(), SystemTime::now());
        let mut awake = Awake::new(start, wall);
        let seconds = Duration::from_secs;
        assert!(!awake.jumped(start + seconds(5), wall + seconds(5)));
        assert!(awake.jumped(start + seconds(10), wall + seconds(3610)), "an hour asleep");
        assert!(!awake.jumped(start + seconds(15), wall + seconds(3615)), "told once");
        assert!(awake.jumped(start + seconds(20), wall + seconds(15)), "set back");
        assert!(!awake.jumped(start + seconds(25), wall + seconds(20) + Duration::from_millis(100)));
    }
}
