//! A guest in a WSL2 distribution of its own: Windows has the kernel, the distribution our root, in which `coracle-guest`
//! is hosted (`crates/guest/src/hosted.rs`).
//!
//! ```text
//! wsl.exe --import ...                                once: the distribution, its disk in data/wsl
//! wsl.exe ... --exec coracle-guest roots, unpack      another build's root beside the old one; data stays
//! wsl.exe ... --exec coracle-guest hosted BUILD       the keeper: lives as long as the guest, outlives the daemon
//! wsl.exe ... --exec coracle-guest bridge             one for each connection of the link: its standard streams
//! wsl.exe --terminate, --unregister                   the end by force; the end for good
//!
//! machine/distribution    its name, from before it is imported until it is unregistered
//! machine/machine.json    the keeper's pid and the build, for whoever takes over
//! logs/console.log        what the keeper and the guest say
//! ```
//!
//! How it differs from the others: memory, processors and the disk's size are WSL's own settings (`.wslconfig`), the
//! clock is WSL's, and folders are seen below `/mnt` instead of being shared by us.

mod service;

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};

use super::{Event, LOOPBACK_BY_LINK, Tell, need_room, shares};
use crate::{
    Home, HostError, Settings,
    home::write_whole,
    log::{bound, tail_since},
    parts::{self, WslRoot},
    platform,
};
pub use service::Service;

/// Pause between two looks whether a keeper that isn't our child still lives.
const LOOK: Duration = Duration::from_millis(500);
/// Time in which a terminated distribution's keeper must be gone, and pause between two looks.
const GONE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(20));
/// Lines of what the guest said that make an error.
const SAID_LINES: usize = 6;
/// The guest's program, in every root.
const GUEST: &str = "/usr/bin/coracle-guest";

/// A guest at work.
pub struct Wsl {
    record: Record,
    service: Service,
    _watch: Watch,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    wsl: u32,
    distribution: String,
    build: String,
}

/// The task that waits for the end; it goes with its owner.
struct Watch(tokio::task::JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Wsl {
    /// Starts a guest: imports the distribution where there is none, and brings its root up to this build's.
    pub async fn launch(home: &Home, settings: &Settings, tell: Tell) -> Result<Self, HostError> {
        if let Some(processor) = platform::other_processor() {
            return Err(HostError::WslProcessor(processor));
        }
        let service = Service::new(parts::wsl()?);
        let root = WslRoot::find()?;
        need_room(home)?;
        let name = distribution(home);
        provide(home, &service, &name, &root).await?;
        let record = home.machine("machine.json");
        let _ = fs::remove_file(&record);
        let (pid, watch) = keep(home, settings, &service, &name, &root, tell)?;
        let record = Record { wsl: pid, distribution: name, build: root.build };
        Ok(Self { record, service, _watch: watch })
    }

    /// Takes over a guest that an earlier daemon left; `None` when there is none that runs.
    pub async fn adopt(home: &Home, tell: Tell) -> Option<Self> {
        let record: Record = serde_json::from_slice(&fs::read(home.machine("machine.json")).ok()?).ok()?;
        let service = Service::new(parts::wsl().ok()?);
        let pid = record.wsl;
        // After a restart of Windows the number may be anybody's, and the distribution somebody's who looked into it.
        let runs = service.list(true).await.ok()?.contains(&record.distribution);
        if !runs || !platform::alive(pid) || !platform::is_of(pid, service.program()) {
            return None;
        }
        tracing::info!("taking over the distribution {}, pid {pid}", record.distribution);
        let watch = tokio::spawn({
            let log = home.console_log();
            async move {
                while platform::alive(pid) {
                    sleep(LOOK).await; // not our child: nobody tells us of its end
                }
                tell(Event::Exited(tail_since(&log, 0, SAID_LINES)));
            }
        });
        Some(Self { record, service, _watch: Watch(watch) })
    }

    /// The keeper's process.
    pub fn pid(&self) -> u32 {
        self.record.wsl
    }

    /// A program whose standard streams are a channel of the link.
    pub fn bridge(&self) -> Bridge {
        Bridge { service: self.service.clone(), name: self.record.distribution.clone() }
    }

    /// Asks the guest to end in order, beside the link.
    pub fn power_button(&self) {
        let (service, name) = (self.service.clone(), self.record.distribution.clone());
        tokio::spawn(async move {
            if let Err(error) = service.run(&name, &[GUEST, "end"]).await {
                tracing::warn!("the distribution {name} was not asked to stop: {error}");
            }
        });
    }

    /// Ends the distribution at once, and the keeper where that doesn't.
    pub fn kill(&self) {
        let (service, name, pid) = (self.service.clone(), self.record.distribution.clone(), self.pid());
        tokio::spawn(async move {
            if let Err(error) = service.terminate(&name).await {
                tracing::warn!("the distribution {name} was not terminated: {error}");
            }
            let deadline = Instant::now() + GONE.0;
            while platform::alive(pid) && Instant::now() < deadline {
                sleep(GONE.1).await; // it may be another daemon's child: no event for its end
            }
            platform::end(pid, true);
        });
    }
}

/// Brings connections of the link: each a `wsl.exe` of its own.
#[derive(Clone)]
pub struct Bridge {
    service: Service,
    name: String,
}

impl Bridge {
    /// The program that brings one.
    pub fn command(&self) -> Command {
        self.service.in_distribution(&self.name, &[GUEST, "bridge"])
    }
}

/// Takes a home's distribution away for good, with all that is in it; nothing where there is none.
pub async fn unregister(home: &Home) -> Result<(), HostError> {
    let file = home.machine("distribution");
    let Ok(name) = fs::read_to_string(&file) else { return Ok(()) };
    let (service, name) = (Service::new(parts::wsl()?), name.trim());
    if service.list(false).await?.iter().any(|known| known == name) {
        service.unregister(name).await?;
    }
    fs::remove_file(&file).map_err(HostError::io("removing", file))
}

/// The home's distribution. Names are one space for all homes of a user.
fn distribution(home: &Home) -> String {
    if home.is_default() {
        return "coracle".into();
    }
    let digest = Sha256::digest(home.root().as_os_str().as_encoded_bytes());
    let digest: String = digest.iter().take(6).map(|b| format!("{b:02x}")).collect();
    format!("coracle-{digest}")
}

/// Makes sure of the distribution, stopped, and of this build's root in it.
async fn provide(home: &Home, service: &Service, name: &str, root: &WslRoot) -> Result<(), HostError> {
    let known = service.list(false).await?;
    if !known.iter().any(|other| other == name) {
        // From here on it is known whose it is, also when the import is cut short.
        write_whole(&home.machine("distribution"), name.as_bytes())?;
        let folder = home.data().join("wsl");
        fs::create_dir_all(&folder).map_err(HostError::io("making", &folder))?;
        tracing::info!("importing the distribution {name} into {}", folder.display());
        return service.import(name, &folder, &root.archive).await;
    }
    // WSL lets a distribution run on for a while after its last program: only a guest that didn't stop is in the way.
    let is_over = !home.machine("machine.json").exists();
    if !is_over && service.list(true).await?.iter().any(|other| other == name) {
        tracing::warn!("the distribution {name} has a guest that did not stop and is terminated");
        service.terminate(name).await?;
    }
    let roots = service.run(name, &[GUEST, "roots"]).await?;
    if !roots.lines().any(|build| build.trim() == root.build) {
        tracing::info!("the distribution {name} gets the root {}", root.build);
        let archive = File::open(&root.archive).map_err(HostError::io("opening", &root.archive))?;
        service.feed(name, &[GUEST, "unpack", &root.build], archive).await?;
    }
    Ok(())
}

/// Starts the keeper.
fn keep(
    home: &Home,
    settings: &Settings,
    service: &Service,
    name: &str,
    root: &WslRoot,
    tell: Tell,
) -> Result<(u32, Watch), HostError> {
    let log = home.console_log();
    bound(&log).map_err(HostError::io("turning", &log))?;
    let said = OpenOptions::new().create(true).append(true).open(&log);
    let said = said.map_err(HostError::io("opening", &log))?;
    let from = said.metadata().map_or(0, |meta| meta.len());
    let again = said.try_clone().map_err(HostError::io("opening", &log))?;
    let mut words = vec![GUEST.to_owned(), "hosted".into(), root.build.clone()];
    words.extend(share_words(&settings.shares));
    words.push(LOOPBACK_BY_LINK.to_owned());
    words.extend(crate::routes::boot_argument().split_whitespace().map(str::to_owned));
    words.extend(settings.kernel_arguments.split_whitespace().map(str::to_owned));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut command = service.in_distribution(name, &words);
    command.stdout(Stdio::from(again)).stderr(Stdio::from(said));
    tracing::info!("starting {command:?}");
    let mut child =
        platform::spawn_detached(&mut command).map_err(HostError::io("running", service.program()))?;
    let pid = child.id();
    // Before anything else: a daemon killed from here on leaves a guest that the next one knows of.
    let record = Record { wsl: pid, distribution: name.into(), build: root.build.clone() };
    let json = serde_json::to_vec(&record).expect("a record is JSON");
    write_whole(&home.machine("machine.json"), &json).inspect_err(|_| platform::end(pid, true))?;
    let watch = tokio::spawn(async move {
        let ended = tokio::task::spawn_blocking(move || child.wait()).await;
        let how = ended.map_err(std::io::Error::other).flatten();
        let how = how.map_or_else(|error| error.to_string(), |status| status.to_string());
        tell(Event::Exited(format!("{how}. {}", tail_since(&log, from, SAID_LINES))));
    });
    Ok((pid, Watch(watch)))
}

/// Shared folders as boot arguments: those that a distribution sees, which are those of drives.
fn share_words(folders: &[PathBuf]) -> Vec<String> {
    let seen = |folder: &&Path| {
        let is_seen = folder.is_dir() && !folder.as_os_str().as_encoded_bytes().starts_with(br"\\");
        if !is_seen {
            tracing::warn!("{} is not shared: it is no folder of a drive", folder.display());
        }
        is_seen
    };
    let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).filter(seen).collect();
    shares::boot_arguments(&folders).split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_have_distributions_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let home = |name: &str, default| Home::at(dir.path().join(name), default).unwrap();
        assert_eq!(distribution(&home("a", true)), "coracle");
        assert_ne!(distribution(&home("a", false)), distribution(&home("b", false)));
        assert!(distribution(&home("a", false)).starts_with("coracle-"));
    }

    #[test]
    fn only_folders_that_a_distribution_sees_are_shared() {
        let dir = tempfile::tempdir().unwrap();
        let folders = [dir.path().to_owned(), dir.path().join("gone")];
        assert_eq!(share_words(&folders).len(), 1);
        assert!(share_words(&folders)[0].starts_with("coracle.share="));
    }
}
