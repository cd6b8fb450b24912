//! What runs the engine: a guest under QEMU, vfkit or krunkit, one in a WSL2 distribution, or this Linux itself. Drivers start, watch and stop a process; they never
//! know the link's protocol.

pub mod local;
pub mod qemu;
mod qmp;
mod shares;
pub mod vfkit;
pub mod wsl;

use std::{fs::OpenOptions, path::PathBuf, sync::Arc};

use crate::{Home, HostError, Settings, platform};

/// Room that the home's file system must have for a start, in MiB.
const ROOM_MIB: u64 = 256;

/// The boot argument of a guest that asks for services at this computer's loopback by the link: not every hypervisor's network leads
/// there, and those that do know IPv4 alone.
const LOOPBACK_BY_LINK: &str = "coracle.loopback=link";

/// Who hears of events.
pub type Tell = Arc<dyn Fn(Event) + Send + Sync>;

/// A driver at work.
pub enum Driver {
    /// A guest under QEMU.
    Qemu(qemu::Qemu),
    /// A guest under vfkit or krunkit.
    Vfkit(vfkit::Vfkit),
    /// A guest in a WSL2 distribution.
    Wsl(wsl::Wsl),
    /// The engine as the daemon's child.
    Local(local::Local),
}

/// What a driver notices.
#[derive(Debug)]
pub enum Event {
    /// Its process ended; what it said.
    Exited(String),
    /// The guest's kernel panicked.
    Panicked,
    /// The data disk could not be written: the guest stands still.
    DiskFull,
    /// The guest goes on.
    Resumed,
    /// The local engine takes connections.
    Ready,
    /// Whoever serves a shared folder has died.
    ShareLost(Shared),
    /// The program that is the guest's network has died.
    NetworkLost,
}

/// A folder of the host's in a guest that runs.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The guest's name of it.
    pub tag: String,
    /// The folder.
    pub folder: PathBuf,
    /// Where it is told what the host changes in there.
    pub changes: PathBuf,
}

/// How the engine is reached.
pub enum Channel {
    /// By the link over this socket.
    Link(PathBuf),
    /// By the link over a program's standard streams.
    Bridge(wsl::Bridge),
    /// Directly.
    Socket(PathBuf),
}

impl Driver {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Qemu(_) => "qemu",
            Self::Vfkit(vfkit) => vfkit.kind().name,
            Self::Wsl(_) => "wsl",
            Self::Local(_) => "local",
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        match self {
            Self::Qemu(qemu) => qemu.pid(),
            Self::Vfkit(vfkit) => vfkit.pid(),
            Self::Wsl(wsl) => wsl.pid(),
            Self::Local(local) => local.pid(),
        }
    }

    /// How instructions are run, and why so.
    pub fn accel(&self) -> Option<(qemu::Accel, Option<&str>)> {
        match self {
            Self::Qemu(qemu) => Some(qemu.accel()),
            Self::Vfkit(_) | Self::Wsl(_) | Self::Local(_) => None,
        }
    }

    /// How the engine is reached.
    pub fn channel(&self) -> Channel {
        match self {
            Self::Qemu(qemu) => Channel::Link(qemu.link_socket()),
            Self::Vfkit(vfkit) => Channel::Link(vfkit.link_socket()),
            Self::Wsl(wsl) => Channel::Bridge(wsl.bridge()),
            Self::Local(local) => Channel::Socket(local.socket()),
        }
    }

    /// Folders of the host in it that programs of ours serve.
    pub fn shared(&self, home: &Home) -> Vec<Shared> {
        match self {
            Self::Qemu(qemu) => shares::shared(home, qemu.folders()),
            Self::Vfkit(_) | Self::Wsl(_) | Self::Local(_) => Vec::new(),
        }
    }

    /// What the program said last that is the guest's network, where one is.
    pub fn network_said(&self, home: &Home) -> String {
        match self {
            Self::Vfkit(_) => vfkit::network_said(home),
            Self::Qemu(_) | Self::Wsl(_) | Self::Local(_) => String::new(),
        }
    }

    /// Asks it to end in order, by the driver's own means.
    pub fn terminate(&self) {
        match self {
            Self::Qemu(qemu) => qemu.power_button(),
            Self::Vfkit(vfkit) => vfkit.power_button(),
            Self::Wsl(wsl) => wsl.power_button(),
            Self::Local(local) => local.terminate(),
        }
    }

    /// Whether it can be made to end what it runs, with it, when it didn't stop in time; then it was told to.
    pub fn hurry(&self) -> bool {
        match self {
            Self::Local(local) => {
                local.terminate();
                true
            }
            Self::Qemu(_) | Self::Vfkit(_) | Self::Wsl(_) => false,
        }
    }

    /// Ends it at once.
    pub fn kill(&self) {
        match self {
            Self::Vfkit(vfkit) => vfkit.kill(),
            Self::Wsl(wsl) => wsl.kill(),
            Self::Qemu(_) | Self::Local(_) => platform::end(self.pid(), true),
        }
    }

    /// Lets a guest go on that stands still.
    pub fn resume(&self) {
        match self {
            Self::Qemu(qemu) => qemu.resume(),
            Self::Vfkit(vfkit) => vfkit.resume(),
            Self::Wsl(_) | Self::Local(_) => {}
        }
    }

    /// Whether a guest goes on, and its writes fail, when the data disk can't be written: then it is for us to let it
    /// stand still before.
    pub fn may_run_out(&self) -> bool {
        matches!(self, Self::Vfkit(_))
    }

    /// Lets a guest stand still that [`Self::may_run_out`]; others do so by themselves.
    pub fn pause(&self) {
        if let Self::Vfkit(vfkit) = self {
            vfkit.pause();
        }
    }

    /// Whether only the guest's console tells that its kernel panicked.
    pub fn is_mute(&self) -> bool {
        matches!(self, Self::Vfkit(_))
    }

    /// Why a driver that ended is a failure.
    pub fn died(&self, said: String) -> HostError {
        match self {
            Self::Qemu(_) => HostError::QemuDied(said),
            Self::Vfkit(vfkit) => HostError::VfkitDied(vfkit.kind(), said),
            Self::Wsl(_) => HostError::WslDied(said),
            Self::Local(_) => HostError::Engine(said),
        }
    }
}

/// Whether an earlier daemon may have left something running: a guest, an engine, its containers.
pub fn has_left(home: &Home) -> bool {
    home.machine("machine.json").exists() || local::has_left(home)
}

/// Takes away what a home's drivers left outside of it.
pub async fn forget(home: &Home) -> Result<(), HostError> {
    wsl::unregister(home).await
}

/// Whether there is room enough for a start.
fn need_room(home: &Home) -> Result<(), HostError> {
    let folder = home.data();
    let free_mib = platform::free_mib(&folder).map_err(HostError::io("measuring", &folder))?;
    if free_mib < ROOM_MIB {
        return Err(HostError::DiskFull { folder, free_mib, needed_mib: ROOM_MIB });
    }
    Ok(())
}

/// Makes the data disk, or lets it grow; it never shrinks.
fn make_disk(home: &Home, settings: &Settings) -> Result<(), HostError> {
    let path = home.disk();
    let wanted = settings.disk_gib << 30;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(HostError::io("opening", &path))?;
    let now = file.metadata().map_err(HostError::io("measuring", &path))?.len();
    if now > wanted {
        tracing::warn!(
            "the data disk has {} GiB and stays so: it can't shrink to {}",
            now >> 30,
            settings.disk_gib
        );
    } else if now < wanted {
        if now == 0 {
            // A disk that runs is of no use as it was copied, and each backup would copy all of it. Who wants it there says so.
            platform::leave_out_of_backups(&home.data());
        }
        file.set_len(wanted).and_then(|()| file.sync_all()).map_err(HostError::io("growing", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_disk_is_sparse_and_grows() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("h"), false).unwrap();
        home.create().unwrap();
        let mut settings = Settings { disk_gib: 2, ..Settings::default() };
        make_disk(&home, &settings).unwrap();
        settings.disk_gib = 3;
        make_disk(&home, &settings).unwrap();
        settings.disk_gib = 1;
        make_disk(&home, &settings).unwrap();
        assert_eq!(std::fs::metadata(home.disk()).unwrap().len(), 3 << 30);
    }
}
