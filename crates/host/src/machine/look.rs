//! What is looked at from time to time: room on the disk, logs, whether anybody uses the machine.

use std::time::Duration;

use tokio::time::Instant;
use wire::control::ToGuest;

use super::{Owner, QUICK_GRACE, STOP_SLACK, State, Stop};
use crate::{HostError, api::Failure, driver, forward::Route, log::bound, platform};

/// Room that lets a guest go on, in MiB, and the one below which it is made to stand still where its hypervisor doesn't
/// do so by itself.
const ROOM_MIB: u64 = 192;
const NO_ROOM_MIB: u64 = 128;
/// What a guest may write before the next look where its hypervisor doesn't stop it by itself, in MiB a second: a write
/// that finds no room fails inside, and its file system gives up.
const WRITES_MIB: u64 = 4096;
/// Pause between two looks, at least and at most: the closer the end, the more often.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

impl Owner {
    /// From time to time: room for a guest that stands still, logs that others write, what no hypervisor tells. Answers
    /// when to look again.
    pub(super) async fn look(&mut self) -> Duration {
        let is_mute = self.vm().is_some_and(|vm| vm.driver.is_mute());
        // A mute one writes on where it was: its log is begun anew with each start instead.
        if !is_mute && let Err(error) = bound(&self.home.console_log()) {
            tracing::warn!("the console's log: {error}");
        }
        if is_mute
            && matches!(self.state, State::Starting { .. } | State::Running { .. })
            && self.panic_words().is_some()
        {
            self.driver_event(driver::Event::Panicked).await;
            return PAUSES.1;
        }
        let room = platform::free_mib(&self.home.data()).unwrap_or(u64::MAX);
        let failure = Failure::from(&HostError::StandsStill { folder: self.home.data() });
        if room < NO_ROOM_MIB
            && let State::Running { vm } = &mut self.state
            && vm.paused.is_none()
            && vm.driver.may_run_out()
        {
            tracing::error!("{}", failure.message);
            vm.driver.pause();
            vm.paused = Some(failure);
        }
        if let Some(vm) = self.vm()
            && vm.paused.is_some()
            && self.has_room()
        {
            tracing::info!("there is room again: the guest goes on");
            vm.driver.resume();
        }
        self.sleep_unless_used();
        match &self.state {
            State::Running { vm } if vm.driver.may_run_out() && vm.paused.is_none() => pause_at(room),
            _ => PAUSES.1,
        }
    }

    /// Stops a guest in which nothing happens, and which nobody asks anything.
    fn sleep_unless_used(&mut self) {
        let State::Running { vm } = &self.state else { return };
        let (Some(limit), Some(quiet)) = (vm.idle_stop, vm.quiet) else { return };
        if quiet.elapsed() < limit || self.used.silent() < limit || vm.paused.is_some() {
            return;
        }
        // From here on whoever comes waits for the next start.
        self.route.send_replace(Route::Asleep);
        let grace_ms = QUICK_GRACE.as_millis() as u64;
        let told = vm.guest.as_ref().is_some_and(|guest| guest.say(ToGuest::Shutdown { grace_ms }));
        if !told {
            vm.driver.terminate();
        }
        tracing::info!("nothing has happened for {limit:?}: the machine is stopped until it is used again");
        self.state = match std::mem::replace(&mut self.state, State::Stopped) {
            State::Running { vm } => State::Stopping {
                vm,
                deadline: Instant::now() + QUICK_GRACE + STOP_SLACK,
                killed: false,
                why: Stop::Idle,
            },
            other => other,
        };
    }

    pub(super) fn has_room(&self) -> bool {
        platform::free_mib(&self.home.data()).is_ok_and(|free| free >= ROOM_MIB)
    }
}

/// When to look again for one that has so much room, in MiB.
fn pause_at(room_mib: u64) -> Duration {
    let left = room_mib.saturating_sub(NO_ROOM_MIB);
    Duration::from_millis(left.saturating_mul(1000) / WRITES_MIB).clamp(PAUSES.0, PAUSES.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closer_the_end_the_more_often_is_looked() {
        assert_eq!(pause_at(100_000), PAUSES.1);
        assert_eq!(pause_at(NO_ROOM_MIB + 4096), Duration::from_secs(1));
        assert_eq!(pause_at(NO_ROOM_MIB + 512), Duration::from_millis(125));
        assert_eq!(pause_at(0), PAUSES.0);
        // What is written meanwhile at that speed finds room.
        for room in NO_ROOM_MIB..10_000 {
            let written = WRITES_MIB * pause_at(room).as_millis() as u64 / 1000;
            assert!(written < room, "{room}");
        }
    }
}
