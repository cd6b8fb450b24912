//! What each command does.

use std::{
    io::{Read, Seek, SeekFrom, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::CommandFactory;
use host::{
    BUILD, Home, HostError, RELEASE, Settings,
    api::{Client, Request, StateName, Status},
    context, daemon,
    login::Entry,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use crate::{
    NOT_RUNNING,
    args::{Args, AutostartAction, Command, SettingsAction},
    platform,
};

/// Pause between two looks for the daemon, or for new lines of a log.
const LOOK: Duration = Duration::from_millis(10);
const FOLLOW: Duration = Duration::from_millis(250);
/// Time in which `_ping` must answer through the socket once the engine runs.
const PING_LIMIT: Duration = Duration::from_secs(30);
/// Grace of a stop that nobody gave one.
const GRACE_S: u64 = 20;

type Done = Result<ExitCode, HostError>;

/// Runs a command.
pub fn run(command: Command) -> Done {
    match command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "coracle", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Daemon { idle } => daemon::run(&Home::of_user()?, !idle).map(|()| ExitCode::SUCCESS),
        Command::Scan { image } => {
            Err(HostError::Setting(format!("{image} was not scanned: this build has no scanner yet")))
        }
        Command::Settings { action } => settings(action),
        Command::Autostart { action } => autostart(&action),
        Command::Env => env(),
        Command::Logs { follow, guest, lines } => logs(follow, guest, lines),
        other => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let done = runtime.block_on(ask(other));
            // A read of standard input may be under way, which nothing can cancel.
            runtime.shutdown_background();
            done
        }
    }
}

async fn ask(command: Command) -> Done {
    let home = Home::of_user()?;
    match command {
        Command::Start { timeout } => start(&home, timeout).await,
        Command::Stop { grace } => stop(&home, grace).await,
        Command::Restart { timeout } => {
            match stop(&home, GRACE_S).await {
                Ok(_) => {}
                Err(error) if error.code() == "not_running" => {}
                Err(error) => return Err(error),
            }
            start(&home, timeout).await
        }
        Command::Status { json } => status(&home, json).await,
        Command::Shell => shell(&home).await,
        Command::Version { json } => version(&home, json).await,
        Command::Delete { force } => delete(&home, force).await,
        Command::Completions { .. }
        | Command::Daemon { .. }
        | Command::Scan { .. }
        | Command::Settings { .. }
        | Command::Autostart { .. }
        | Command::Env
        | Command::Logs { .. } => unreachable!("these ask nobody"),
    }
}

// ---- the machine ----

async fn start(home: &Home, limit: u64) -> Done {
    Settings::load(home)?;
    home.create()?;
    let limit = Duration::from_secs(limit);
    let started = async {
        let mut client = Client::connect_or_start(home, &std::env::current_exe()?).await?;
        if client.daemon.build != BUILD {
            eprintln!(
                "coracle: the daemon that runs is another build ({}, this is {BUILD}): `coracle restart` replaces it",
                client.daemon.build
            );
        }
        client.ask(&Request::Start).await?;
        ping(home).await
    };
    match timeout(limit, started).await {
        Ok(done) => done.map(|()| ExitCode::SUCCESS),
        Err(_) => Err(HostError::Daemon(format!(
            "the machine is not running after {limit:?} and goes on starting; `coracle status` says how far it is"
        ))),
    }
}

/// Asks Docker's own question through Docker's own socket.
async fn ping(home: &Home) -> Result<(), HostError> {
    let ask = async {
        let mut socket = host::connect(&home.docker_socket()).await?;
        socket.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n").await?;
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer == *b"HTTP/1.1 200")
    };
    match timeout(PING_LIMIT, ask).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => {
            Err(HostError::Engine("it answers, but not with 200; see `coracle logs --guest`".into()))
        }
        Ok(Err(error)) => Err(HostError::Engine(format!("its socket: {error}; see `coracle logs --guest`"))),
        Err(_) => Err(HostError::Engine(format!(
            "it does not answer within {PING_LIMIT:?}; see `coracle logs --guest`"
        ))),
    }
}

async fn stop(home: &Home, grace_s: u64) -> Done {
    let mut client = match Client::connect(home).await {
        // What a daemon that died has left running only a daemon can stop.
        Err(HostError::NotRunning) if host::has_left(home) => {
            Client::connect_or_start(home, &std::env::current_exe()?).await?
        }
        other => other?,
    };
    client.ask(&Request::Stop { grace_s }).await?;
    // The daemon ends after its answer; who starts one next shall not meet it.
    while Client::connect(home).await.is_ok() {
        sleep(LOOK).await;
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(home: &Home, json: bool) -> Done {
    let status = match Client::connect(home).await {
        Ok(mut client) => client.status().await?,
        Err(HostError::NotRunning) => Status::stopped(home),
        Err(error) => return Err(error),
    };
    if json {
        println!("{}", serde_json::to_string(&status).expect("a status is JSON"));
    } else {
        let asleep = if status.asleep { " (asleep: the next docker command starts it)" } else { "" };
        println!("{}{asleep}", status.state);
        let row = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                println!("{name:<8} {value}");
            }
        };
        row(
            "driver",
            status.driver.as_ref().map(|driver| match (&status.accel, &status.accel_note) {
                (Some(accel), Some(note)) => format!("{driver}, {accel} ({note})"),
                (Some(accel), None) => format!("{driver}, {accel}"),
                _ => driver.clone(),
            }),
        );
        row("pid", status.pid.map(|pid| pid.to_string()));
        row("socket", Some(status.socket.clone()));
        row("daemon", status.daemon.as_ref().map(|d| format!("{} ({}), pid {}", d.version, d.build, d.pid)));
        row(
            "guest",
            status.guest.as_ref().map(|g| format!("{} ({}), speaks version {}", g.version, g.build, g.api)),
        );
        row("error", status.error.as_ref().map(|e| format!("{} ({})", e.message, e.code)));
    }
    Ok(ExitCode::from(if status.state == StateName::Running { 0 } else { NOT_RUNNING }))
}

async fn shell(home: &Home) -> Done {
    let client = Client::connect(home).await?;
    let (columns, rows) = platform::size();
    let (mut from, mut to) = client.shell(columns, rows).await?;
    let _raw = platform::Raw::enter();
    let (mut input, mut output) = (tokio::io::stdin(), tokio::io::stdout());
    let up = async {
        tokio::io::copy(&mut input, &mut to).await?;
        to.shutdown().await?;
        // The end of what is said is not the end of what is heard.
        std::future::pending::<Result<(), std::io::Error>>().await
    };
    let down = async {
        tokio::io::copy(&mut from, &mut output).await?;
        output.flush().await
    };
    tokio::select! { end = up => end?, end = down => end? }
    Ok(ExitCode::SUCCESS)
}

async fn version(home: &Home, json: bool) -> Done {
    let running = match Client::connect(home).await {
        Ok(mut client) => Some(client.status().await?),
        Err(HostError::NotRunning) => None,
        Err(error) => return Err(error),
    };
    let daemon = running.as_ref().and_then(|s| s.daemon.clone());
    let guest = running.as_ref().and_then(|s| s.guest.clone());
    if json {
        let value = serde_json::json!({
            "coracle": { "version": RELEASE, "build": BUILD },
            "daemon": daemon.map(|d| serde_json::json!({ "version": d.version, "build": d.build })),
            "guest": guest.map(|g| serde_json::json!({ "version": g.version, "build": g.build, "api": g.api })),
        });
        println!("{value}");
    } else {
        println!("coracle {RELEASE} ({BUILD})");
        if let Some(daemon) = daemon {
            println!("daemon  {} ({})", daemon.version, daemon.build);
        }
        if let Some(guest) = guest {
            println!("guest   {} ({})", guest.version, guest.build);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn delete(home: &Home, force: bool) -> Done {
    if !force {
        eprint!(
            "This deletes every image, container and volume of {}. Type yes to go on: ",
            home.root().display()
        );
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if answer.trim() != "yes" {
            return Err(HostError::Setting("nothing was deleted".into()));
        }
    }
    match stop(home, GRACE_S).await {
        Ok(_) => {}
        Err(error) if error.code() == "not_running" => {}
        Err(error) => return Err(error),
    }
    // A folder of somebody else's may be mounted in there (a volume's): it would be emptied.
    if let Some(mount) = host::mounted_below(home.root()) {
        return Err(HostError::Mounted(mount));
    }
    context::unregister(home)?;
    host::forget(home).await?;
    // Only what is ours: a home may have been pointed at a folder that holds other things as well.
    for name in ["run", "data", "logs", "machine", "docker"] {
        remove(home.root().join(name))?;
    }
    remove(home.settings())?;
    let _ = std::fs::remove_dir(home.root());
    Ok(ExitCode::SUCCESS)
}

fn remove(path: PathBuf) -> Result<(), HostError> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

// ---- what needs no daemon ----

fn settings(action: SettingsAction) -> Done {
    let home = Home::of_user()?;
    match action {
        SettingsAction::Get { key: Some(key) } => println!("{}", Settings::load(&home)?.get(&key)?),
        SettingsAction::Get { key: None } => {
            for (key, value) in Settings::load(&home)?.acting() {
                println!("{key}={value}");
            }
        }
        SettingsAction::Set { key, value } => {
            let settings = Settings::set(&home, &key, &value)?;
            if settings.acting().iter().all(|(acting, _)| *acting != key) {
                eprintln!(
                    "coracle: {key} is kept, and does nothing here: the driver {}, or this processor, can't have it",
                    settings.driver
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn autostart(action: &AutostartAction) -> Done {
    let program = std::env::current_exe()?;
    let entry = Entry::of(&Home::of_user()?, &program)?;
    match action {
        AutostartAction::On => {
            host::login::stays(&program).map_err(HostError::Setting)?;
            entry.enable()?;
        }
        AutostartAction::Off => entry.disable()?,
        AutostartAction::Status => println!("{}", if entry.is_enabled() { "on" } else { "off" }),
    }
    Ok(ExitCode::SUCCESS)
}

fn env() -> Done {
    let home = Home::of_user()?;
    println!("{}", platform::set_variable("DOCKER_HOST", &host::docker_host(&home.docker_socket())));
    if !home.is_default() {
        let folder = home.docker_config().display().to_string();
        println!("{}", platform::set_variable("DOCKER_CONFIG", &folder));
    }
    Ok(ExitCode::SUCCESS)
}

fn logs(follow: bool, guest: bool, lines: usize) -> Done {
    let home = Home::of_user()?;
    let path = if guest { home.console_log() } else { home.daemon_log() };
    let mut file = std::fs::File::open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => HostError::NotRunning,
        _ => HostError::from(error),
    })?;
    let mut at = file.seek(SeekFrom::End(0))?;
    let last = host::tail(&path, lines);
    let mut out = std::io::stdout().lock();
    if !last.is_empty() {
        writeln!(out, "{last}")?;
    }
    if !follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        // A log that became shorter was begun anew.
        let len = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        if len < at {
            file = std::fs::File::open(&path)?;
            at = 0;
        }
        let mut new = Vec::new();
        file.seek(SeekFrom::Start(at))?;
        at += file.read_to_end(&mut new)? as u64;
        out.write_all(&new)?;
        out.flush()?;
        #[allow(clippy::disallowed_methods)] // a log file has no event on every OS; a person reads it
        std::thread::sleep(FOLLOW);
    }
}
