//! The orderly end: the engine, then everything else, then the disks.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::{disk, engine::Engine, say, sys};

/// Grace when nobody says how long (the hypervisor's power button).
const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// What processes that outlive the engine (containers) get: at least, whatever the grace, and at most, Docker's own
/// default for a container's stop.
const REST: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(10));
/// Time in which killed processes must be gone.
const KILLED: Duration = Duration::from_secs(2);
/// Pause between two looks whether everything has ended.
const POLL: Duration = Duration::from_millis(20);

/// Waits until somebody wants the guest off; gives the grace.
pub async fn wait(mut asked: mpsc::Receiver<Duration>) -> Duration {
    let terminate = async {
        match (signal(SignalKind::terminate()), signal(SignalKind::from_raw(nix::libc::SIGPWR))) {
            (Ok(mut term), Ok(mut power)) => {
                tokio::select! { _ = term.recv() => {}, _ = power.recv() => {} }
            }
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        Some(grace) = asked.recv() => grace,
        () = terminate => DEFAULT_GRACE,
    }
}

/// Stops everything and turns the machine off; where it is hosted, ends: with PID 1 its namespaces do.
pub async fn run(engine: &Engine, grace: Duration) {
    say("stopping");
    let deadline = Instant::now() + grace;
    engine.stop(grace).await;
    // Containers outlive the engine by design; here they get the signal that an operating system sends at its end.
    sys::signal_all(Signal::SIGTERM);
    let now = Instant::now();
    let deadline = deadline.clamp(now + REST.0, now + REST.1);
    while sys::has_children() && Instant::now() < deadline {
        sleep(POLL).await;
    }
    sys::signal_all(Signal::SIGKILL);
    let killed = Instant::now() + KILLED;
    while sys::has_children() && Instant::now() < killed {
        sleep(POLL).await;
    }
    if sys::unmount(disk::MOUNT, false).is_err() {
        // What can't be killed (who waits for a share that has died) keeps it: written to the end all the same.
        if let Err(error) = sys::sync_disk(disk::MOUNT) {
            say(format_args!("{}: {error}", disk::MOUNT));
        }
        let _ = sys::unmount(disk::MOUNT, true);
    }
    say("off");
    if engine.is_hosted() {
        nix::unistd::sync();
        std::process::exit(0)
    }
    sys::power_off()
}
