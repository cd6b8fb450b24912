//! The daemon: found, started when it is not there, stopped.

use std::{path::PathBuf, time::Duration};

use host::{
    Home, HostError,
    api::{Client, Request},
};
use tokio::time::sleep;

/// Pause between two looks for the daemon: its sockets come and go when it likes.
const LOOK: Duration = Duration::from_millis(10);

/// The `coracle` that belongs to this program: `CORACLE_PROGRAM`, or the one beside it.
pub fn program() -> Result<PathBuf, HostError> {
    if let Some(path) = std::env::var_os("CORACLE_PROGRAM").filter(|p| !p.is_empty()) {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let name = format!("coracle{}", std::env::consts::EXE_SUFFIX);
    let beside = own.with_file_name(name);
    if beside.is_file() {
        return Ok(beside);
    }
    Err(HostError::Daemon(format!(
        "the program {} was not found: install Coracle again, or set CORACLE_PROGRAM to its path",
        beside.display()
    )))
}

/// The home's daemon; started when there is none.
pub async fn client(home: &Home, program: &std::path::Path) -> Result<Client, HostError> {
    Client::connect_or_start(home, program).await
}

/// Stops the machine in order and waits until the daemon is gone.
pub async fn stop(home: &Home, grace_s: u64) -> Result<(), HostError> {
    let mut client = match Client::connect(home).await {
        Err(HostError::NotRunning) => return Ok(()),
        other => other?,
    };
    client.ask(&Request::Stop { grace_s }).await?;
    while Client::connect(home).await.is_ok() {
        sleep(LOOK).await;
    }
    Ok(())
}
