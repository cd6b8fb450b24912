//! The daemon: one per home. It takes the home's lock, takes over what runs, serves the sockets until it is told to
//! end. Killed, it leaves the guest running for the next.

use std::{
    fs,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use link::{Frames, LinkError, opened, write_frame};
use tokio::{
    io::AsyncWriteExt,
    sync::{Semaphore, mpsc},
};
use wire::open::Open;

use crate::{
    BREATH, Home, HostError,
    api::{Answer, Failure, Hello, Request},
    context, forward,
    log::Log,
    machine::Machine,
    platform,
};

/// Clients of the control socket at once.
const MAX_CLIENTS: usize = 64;
/// Time in which a daemon that ends must let go of the home, and pause between two looks.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
const LOCK_LOOK: Duration = Duration::from_millis(10);
/// What the engine may take when a signal ends the daemon (a logout, a shutdown of this computer).
const SIGNAL_GRACE: Duration = Duration::from_secs(20);

/// Runs the daemon of a home until it is told to end; `start` starts the machine at once.
pub fn run(home: &Home, start: bool) -> Result<(), HostError> {
    home.create()?;
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(home.lock())
        .map_err(HostError::io("opening", home.lock()))?;
    // One that is just ending holds the lock a little longer than its sockets.
    let since = Instant::now();
    while lock.try_lock().is_err() {
        if since.elapsed() < LOCK_LIMIT && platform::connect_now(&home.control_socket()).is_err() {
            #[allow(clippy::disallowed_methods)] // waiting for a lock with a limit has no event
            std::thread::sleep(LOCK_LOOK);
            continue;
        }
        let pid = fs::read_to_string(home.daemon_pid()).unwrap_or_default();
        return Err(HostError::Locked(pid.trim().to_owned()));
    }
    log_to(home)?;
    let pid = home.daemon_pid();
    fs::write(&pid, format!("{}\n", std::process::id())).map_err(HostError::io("writing", pid))?;
    platform::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(home, start));
    if let Err(error) = &ended {
        tracing::error!("the daemon ends: {error}");
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    for socket in [home.docker_socket(), home.control_socket()] {
        platform::unbind(&socket);
    }
    let _ = fs::remove_file(home.daemon_pid());
    drop(lock);
    ended
}

fn log_to(home: &Home) -> Result<(), HostError> {
    let log = Log::open(&home.daemon_log()).map_err(HostError::io("opening", home.daemon_log()))?;
    let log: &'static Log = Box::leak(Box::new(log));
    let filter = std::env::var("CORACLE_LOG").unwrap_or_else(|_| "info".into());
    let _ = tracing_subscriber::fmt()
        .with_writer(move || log)
        .with_ansi(false)
        .with_env_filter(filter)
        .try_init();
    std::panic::set_hook(Box::new(move |panic| {
        let _ = writeln!(&*log, "the daemon panicked: {panic}");
    }));
    Ok(())
}

async fn serve(home: &Home, start: bool) -> Result<(), HostError> {
    let mut signals = platform::Signals::new()?;
    let machine = Machine::open(home.clone()).await;
    let docker = platform::bind_private(&home.docker_socket())
        .map_err(HostError::io("binding", home.docker_socket()))?;
    let mut control = platform::bind_private(&home.control_socket())
        .map_err(HostError::io("binding", home.control_socket()))?;
    if let Err(error) = context::register(home) {
        tracing::warn!("the docker context was not registered: {error}");
    }
    tracing::info!("serving {}", home.root().display());
    tokio::spawn(forward::docker(docker, machine.clone()));
    for alias in home.docker_aliases() {
        match platform::bind_private(&alias) {
            Ok(alias) => drop(tokio::spawn(forward::docker(alias, machine.clone()))),
            // Docker Desktop's, perhaps: who comes there wants that one.
            Err(error) => tracing::info!("{} is not served: {error}", alias.display()),
        }
    }
    if start {
        let machine = machine.clone();
        tokio::spawn(async move { machine.start().await });
    }
    let (end, mut ended) = mpsc::channel::<()>(1);
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let accepted = async {
            let client = control.accept().await;
            if let Err(error) = &client {
                tracing::warn!("the control socket: {error}");
                tokio::time::sleep(BREATH).await;
            }
            client
        };
        tokio::select! {
            client = accepted => {
                let (Ok(client), Ok(place)) = (client, places.clone().try_acquire_owned()) else { continue };
                let (machine, end) = (machine.clone(), end.clone());
                tokio::spawn(async move {
                    if let Err(error) = serve_client(client, &machine, &end).await {
                        tracing::debug!("a client: {error}");
                    }
                    drop(place);
                });
            }
            () = signals.recv() => {
                tracing::info!("a signal ends the daemon");
                return machine.stop(SIGNAL_GRACE).await.map_err(HostError::from);
            }
            _ = ended.recv() => return Ok(()),
        }
    }
}

async fn serve_client(
    client: platform::Socket,
    machine: &Machine,
    end: &mpsc::Sender<()>,
) -> Result<(), LinkError> {
    let (reader, mut writer) = tokio::io::split(client);
    let mut frames = Frames::new(reader);
    write_frame(&mut writer, &Hello::ours()).await?;
    let Some(hello) = frames.next::<Hello>().await? else { return Ok(()) };
    tracing::debug!("a client of {} ({})", hello.release, hello.build);
    let mut come = None;
    loop {
        let next = match come.take() {
            Some(request) => Some(request),
            None => frames.next::<Request>().await?,
        };
        let Some(request) = next else { return Ok(()) };
        let done = |result: Result<(), Failure>| match result {
            Ok(()) => Answer::Done,
            Err(failure) => Answer::Failed(failure),
        };
        match request {
            Request::Status => write_frame(&mut writer, &Answer::Status(Box::new(machine.status()))).await?,
            Request::Start => {
                let mut started = std::pin::pin!(machine.start());
                let started = loop {
                    tokio::select! {
                        started = &mut started => break started,
                        request = frames.next(), if come.is_none() => match request? {
                            Some(request) => come = Some(request),
                            // A client that has gone no longer waits for the machine.
                            None => return Ok(()),
                        },
                    }
                };
                write_frame(&mut writer, &done(started)).await?;
            }
            Request::Stop { grace_s } => {
                let stopped = machine.stop(Duration::from_secs(grace_s)).await;
                let off = stopped.is_ok();
                write_frame(&mut writer, &done(stopped)).await?;
                writer.shutdown().await?;
                if off {
                    let _ = end.try_send(());
                    return Ok(());
                }
            }
            Request::Shell { columns, rows } => {
                let Some(session) = machine.session() else {
                    write_frame(&mut writer, &Answer::Failed(Failure::from(&HostError::NotRunning))).await?;
                    continue;
                };
                let mut stream = session.open(&Open::Shell { columns, rows }).await?;
                if let Err(error) = opened(&mut stream).await {
                    write_frame(&mut writer, &Answer::Failed(Failure::from(&HostError::Link(error)))).await?;
                    continue;
                }
                write_frame(&mut writer, &Answer::Done).await?;
                let mut client = tokio::io::join(frames.into_rest(), writer);
                tokio::io::copy_bidirectional(&mut client, &mut stream).await?;
                return Ok(());
            }
        }
    }
}
