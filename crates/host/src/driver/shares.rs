//! The host's folders in the guest: a `coracle-share` for each, started before QEMU, which connects to it. They end
//! with QEMU's connection, and outlive the daemon as QEMU does. One that dies before is not replaced: QEMU connects
//! once (`vhost-user-fs` has no way to begin anew), and what the guest's kernel has asked and not been answered stays
//! asked for ever. The machine says so, and lets nobody begin to wait for it.
//!
//! ```text
//! machine/share0.sock ...    where QEMU finds them
//! machine/share0.changes ... where they tell what the host changes in their folders
//! machine/share0.requests .. where they tell how often the guest asked for what
//! machine/share.log          what they say when they fail
//! ```

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::Shared;
use crate::{Home, HostError, Settings, log::tail, parts, platform};

/// Time in which a share must listen, and pause between two looks.
const LISTENS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(2));
/// Lines of what one said that make an error.
const SAID_LINES: usize = 4;

/// Shares being started; they are ended again unless QEMU took them over ([`Shares::keep`]).
pub struct Shares {
    list: Vec<Share>,
}

struct Share {
    tag: String,
    folder: PathBuf,
    socket: PathBuf,
    pid: u32,
}

impl Shares {
    /// Starts those of the settings whose folders are there.
    pub async fn start(home: &Home, settings: &Settings) -> Result<Self, HostError> {
        let mut shares = Self { list: Vec::new() };
        if settings.shares.is_empty() {
            return Ok(shares);
        }
        let program = parts::share()?;
        let log = home.machine("share.log");
        let said = File::create(&log).map_err(HostError::io("making", &log))?;
        for folder in &settings.shares {
            if !folder.is_dir() {
                tracing::warn!("{} is not shared: it is not a folder", folder.display());
                continue;
            }
            let tag = tag(shares.list.len());
            let socket = home.machine(&format!("{tag}.sock"));
            let _ = fs::remove_file(&socket);
            let _ = fs::remove_file(changes_socket(home, &tag));
            let said = said.try_clone().map_err(HostError::io("opening", &log))?;
            let mut command = Command::new(&program);
            command.arg("--socket").arg(&socket).arg("--folder").arg(folder);
            command.arg("--changes").arg(changes_socket(home, &tag));
            command.arg("--requests").arg(home.machine(&format!("{tag}.requests")));
            command.stdout(Stdio::null()).stderr(Stdio::from(said));
            let mut child =
                platform::spawn_detached(&mut command).map_err(HostError::io("running", &program))?;
            let pid = child.id();
            // Reaped when it ends; after a restart of the daemon it is somebody else's child.
            std::thread::spawn(move || child.wait());
            shares.list.push(Share { tag, folder: folder.clone(), socket, pid });
        }
        let deadline = Instant::now() + LISTENS.0;
        for share in &shares.list {
            // It binds its socket when it likes.
            while !share.socket.exists() {
                if !platform::alive(share.pid) || Instant::now() > deadline {
                    return Err(HostError::Share(share.folder.clone(), tail(&log, SAID_LINES)));
                }
                sleep(LISTENS.1).await;
            }
        }
        Ok(shares)
    }

    /// QEMU's devices for them.
    pub fn devices(&self) -> Vec<(&'static str, String)> {
        let path = |p: &Path| p.display().to_string().replace(',', ",,"); // QEMU's own escape
        let pairs = self.list.iter().flat_map(|share| {
            let tag = &share.tag;
            [
                ("-chardev", format!("socket,id={tag},path={}", path(&share.socket))),
                ("-device", format!("vhost-user-fs-pci,queue-size=1024,chardev={tag},tag={tag}")),
            ]
        });
        pairs.collect()
    }

    /// Their folders, in the order of their tags.
    pub fn folders(&self) -> Vec<PathBuf> {
        self.list.iter().map(|share| share.folder.clone()).collect()
    }

    /// The guest's boot arguments for them.
    pub fn boot_arguments(&self) -> String {
        let folders: Vec<&Path> = self.list.iter().map(|share| share.folder.as_path()).collect();
        boot_arguments(&folders)
    }

    /// QEMU has connected: they live as long as it does.
    pub fn keep(mut self) {
        self.list.clear();
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        for share in &self.list {
            platform::end(share.pid, true);
            let _ = fs::remove_file(&share.socket);
        }
    }
}

/// The guest's boot arguments for folders, in the order of their tags.
pub fn boot_arguments(folders: &[&Path]) -> String {
    let numbered = folders.iter().enumerate();
    numbered.map(|(n, folder)| format!(" coracle.share={},{}", tag(n), escape(folder))).collect()
}

/// The name by which a guest mounts a share.
pub fn tag(number: usize) -> String {
    format!("share{number}")
}

fn changes_socket(home: &Home, tag: &str) -> PathBuf {
    home.machine(&format!("{tag}.changes"))
}

/// Those of the machine that runs, by their folders in the order of their tags.
pub fn shared(home: &Home, folders: &[PathBuf]) -> Vec<Shared> {
    let numbered = folders.iter().enumerate().map(|(n, folder)| (tag(n), folder.clone()));
    numbered.map(|(tag, folder)| Shared { changes: changes_socket(home, &tag), tag, folder }).collect()
}

/// A path as a boot argument: everything but letters, digits and `/._-` as `%XX`.
fn escape(path: &Path) -> String {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    let bytes = path.as_os_str().as_encoded_bytes().iter();
    bytes.map(|b| if fine(*b) { char::from(*b).to_string() } else { format!("%{b:02x}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_is_one_boot_argument() {
        assert_eq!(escape(Path::new("/home/me/a b,ä")), "/home/me/a%20b%2c%c3%a4");
    }

    #[tokio::test]
    async fn without_folders_there_is_nothing_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("h"), false).unwrap();
        let settings = Settings { shares: Vec::new(), ..Settings::default() };
        let shares = Shares::start(&home, &settings).await.unwrap();
        assert!(shares.devices().is_empty() && shares.boot_arguments().is_empty());
    }
}
