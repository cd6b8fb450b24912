//! How a machine begins: launched anew, or taken over from an earlier daemon.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    BOOT_TIMES, ENGINE_LIMIT, Message, Owner, State, Stop, send,
    vm::{Vm, boot_limit},
};
use crate::{
    HostError, Settings,
    changes::Changes,
    driver::{
        self, Channel, Driver, Tell,
        local::Local,
        qemu::Qemu,
        vfkit::{Kind, Vfkit},
        wsl::Wsl,
    },
    forward::Route,
    guest::Guest,
    settings::DriverKind,
    setup,
};

impl Owner {
    /// `times`: which attempt it is.
    pub(super) async fn launch(&mut self, without_kvm: Option<String>, times: u32) {
        self.used.touch();
        let id = self.next_vm();
        let tell = self.tell(id);
        self.console_from = std::fs::metadata(self.home.console_log()).map_or(0, |meta| meta.len());
        let launched = async {
            let settings = Settings::load(&self.home)?;
            let driver = match settings.driver {
                DriverKind::Qemu => {
                    Driver::Qemu(Qemu::launch(&self.home, &settings, without_kvm, tell).await?)
                }
                DriverKind::Vfkit | DriverKind::Krunkit => {
                    let kind = Kind::of(settings.driver).expect("both are kinds of it");
                    Driver::Vfkit(Vfkit::launch(&self.home, &settings, kind, tell).await?)
                }
                DriverKind::Local => Driver::Local(Local::launch(&self.home, &settings, tell)?),
                DriverKind::Wsl => Driver::Wsl(Wsl::launch(&self.home, &settings, tell).await?),
            };
            Ok::<_, HostError>((driver, settings))
        };
        match launched.await {
            Ok((driver, settings)) => {
                if driver.is_mute() {
                    self.console_from = 0; // begun anew
                }
                let accel = driver.accel().map(|(accel, _)| accel);
                let deadline = Instant::now() + boot_limit(&settings, accel, times);
                let vm = self.connect(id, driver, settings.idle_stop_s);
                self.state = State::Starting { vm, deadline, settings, times };
            }
            Err(error) => self.fail(&error, None),
        }
    }

    pub(super) async fn adopt(&mut self) {
        let id = self.next_vm();
        let tell = self.tell(id);
        let found = match Qemu::adopt(&self.home, tell.clone()).await {
            Some(qemu) => Some(Driver::Qemu(qemu)),
            None => match Vfkit::adopt(&self.home, tell.clone()).await {
                Some(vfkit) => Some(Driver::Vfkit(vfkit)),
                None => match Wsl::adopt(&self.home, tell.clone()).await {
                    Some(wsl) => Some(Driver::Wsl(wsl)),
                    None => Local::adopt(&self.home, tell).await.map(Driver::Local),
                },
            },
        };
        if let Some(driver) = found {
            let settings = Settings::load(&self.home).unwrap_or_default();
            let accel = driver.accel().map(|(accel, _)| accel);
            let deadline = Instant::now() + boot_limit(&settings, accel, BOOT_TIMES);
            // What is not answering yet may still be booting; its deadline says when that is too long.
            let vm = Vm { is_adopted: true, ..self.connect(id, driver, settings.idle_stop_s) };
            self.state = State::Starting { vm, deadline, settings, times: BOOT_TIMES };
        }
    }

    /// An engine of this Linux died and left its containers, which only an engine finds and ends: one is started for
    /// that. Whether it could be.
    pub(super) fn end_left(&mut self, grace: Duration) -> bool {
        let id = self.next_vm();
        let settings = Settings::load(&self.home).unwrap_or_default();
        match Local::launch(&self.home, &settings, self.tell(id)) {
            Ok(local) => {
                tracing::info!("an engine ends the containers that an earlier one left");
                let vm = self.connect(id, Driver::Local(local), 0);
                // Until it is ready it can't be asked.
                self.state = State::Stopping {
                    vm,
                    deadline: Instant::now() + ENGINE_LIMIT + grace,
                    killed: false,
                    why: Stop::EndsLeft,
                };
                true
            }
            Err(error) => {
                tracing::error!("containers that an engine left are not ended: {error}");
                false
            }
        }
    }

    fn connect(&self, id: u64, driver: Driver, idle_stop_s: u64) -> Vm {
        self.route.send_replace(Route::Coming);
        let guest = match driver.channel() {
            Channel::Socket(_) => None,
            channel => {
                let messages = self.messages.clone();
                let tell = move |event| send(&messages, Message::Guest(id, event));
                let home = self.home.clone();
                let setup = move || setup::read(&home);
                Some(Guest::connect(channel, self.ports.clone(), self.route.clone(), setup, tell))
            }
        };
        let changes = guest.as_ref().map(|guest| {
            let tell = self.tell(id);
            let lost = move |share| tell(driver::Event::ShareLost(share));
            Changes::hear(driver.shared(&self.home), guest.requests(), lost)
        });
        let idle_stop = (idle_stop_s > 0).then(|| Duration::from_secs(idle_stop_s));
        Vm {
            id,
            driver,
            guest,
            _changes: changes,
            info: None,
            paused: None,
            broken: None,
            lost: None,
            quiet: None,
            idle_stop,
            is_adopted: false,
        }
    }

    fn tell(&self, id: u64) -> Tell {
        let messages = self.messages.clone();
        Arc::new(move |event| send(&messages, Message::Driver(id, event)))
    }
}
