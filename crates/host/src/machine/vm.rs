//! A hypervisor at work, and the link to its guest.

use std::time::Duration;

use tokio::time::Instant;
use wire::control::ToGuest;

use super::{KILL_LIMIT, QUICK_GRACE, STOP_SLACK};
use crate::{
    Settings,
    api::{Failure, GuestInfo},
    changes::Changes,
    driver::{Driver, qemu::Accel},
    guest::Guest,
    platform,
    settings::AccelChoice,
};

/// Time in which a guest must answer: with KVM (then TCG is tried), and translated, the first time; the next time it has
/// as much again.
pub(super) const BOOT_LIMIT: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(60));

/// A driver at work and the link to its guest.
pub(super) struct Vm {
    pub(super) id: u64,
    pub(super) driver: Driver,
    pub(super) guest: Option<Guest>,
    /// Passes on what the host changes in shared folders.
    pub(super) _changes: Option<Changes>,
    pub(super) info: Option<GuestInfo>,
    /// Why the guest stands still.
    pub(super) paused: Option<Failure>,
    /// What died of it, while it goes on.
    pub(super) broken: Option<Failure>,
    /// Since when the link is gone.
    pub(super) lost: Option<Instant>,
    /// Since when nothing happens in the guest.
    pub(super) quiet: Option<Instant>,
    /// How long nothing may happen before it is stopped.
    pub(super) idle_stop: Option<Duration>,
    /// An earlier daemon started it.
    pub(super) is_adopted: bool,
}

/// KVM was found to work, not asked for: it may be done without.
pub(super) fn kvm_by_choice(vm: &Vm, settings: &Settings) -> bool {
    settings.accel == AccelChoice::Auto && vm.driver.accel().is_some_and(|(accel, _)| accel == Accel::Kvm)
}

/// How long the guest may take to answer, the `times`-th time.
pub(super) fn boot_limit(settings: &Settings, accel: Option<Accel>, times: u32) -> Duration {
    match (settings.boot_limit_s, accel) {
        (0, Some(Accel::Kvm)) => BOOT_LIMIT.0 * times,
        (0, _) => BOOT_LIMIT.1 * times,
        (seconds, _) => Duration::from_secs(seconds),
    }
}

/// Ends a vm that is in the way, in order where it hears.
pub(super) async fn end(vm: Vm) {
    let pid = vm.driver.pid();
    let asked = vm.info.is_some()
        && vm
            .guest
            .as_ref()
            .is_some_and(|g| g.say(ToGuest::Shutdown { grace_ms: QUICK_GRACE.as_millis() as u64 }));
    if asked {
        gone(pid, QUICK_GRACE + STOP_SLACK).await;
    }
    if platform::alive(pid) {
        vm.driver.kill();
        gone(pid, KILL_LIMIT).await;
    }
}

async fn gone(pid: u32, limit: Duration) {
    let deadline = Instant::now() + limit;
    while platform::alive(pid) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await; // it may be another daemon's child: no event for its end
    }
}
