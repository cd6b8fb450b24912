//! The home folder: where everything of one machine lies.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    HostError,
    platform::{self, SOCKET_PATH},
};

/// One machine's folder.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
    default: bool,
}

impl Home {
    /// The user's: `CORACLE_HOME`, or `~/.coracle` (Windows: `%LOCALAPPDATA%\\Coracle`).
    pub fn of_user() -> Result<Self, HostError> {
        let default = platform::default_home();
        let chosen = std::env::var_os("CORACLE_HOME").filter(|h| !h.is_empty()).map(PathBuf::from);
        let is_default = chosen.is_none() || chosen == default;
        Self::at(chosen.or(default).ok_or(HostError::NoHome)?, is_default)
    }

    /// The one in a folder. `default` allows what lies outside it: the docker context of the user.
    pub fn at(root: PathBuf, default: bool) -> Result<Self, HostError> {
        let root = std::path::absolute(&root).map_err(HostError::io("finding", &root))?;
        let home = Self { root, default };
        for path in [home.docker_socket(), home.control_socket(), home.link_socket(), home.qmp_socket()] {
            let len = path.as_os_str().len();
            if len > SOCKET_PATH {
                return Err(HostError::PathTooLong { path, len, max: SOCKET_PATH });
            }
        }
        Ok(home)
    }

    /// Makes the folders, for this user alone.
    pub fn create(&self) -> Result<(), HostError> {
        for folder in ["", "run", "data", "logs", "machine"] {
            let folder = self.root.join(folder);
            fs::create_dir_all(&folder).map_err(HostError::io("making", &folder))?;
            platform::private(&folder).map_err(HostError::io("protecting", &folder))?;
        }
        Ok(())
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// True for the user's own home: only then the user's docker configuration is touched.
    pub fn is_default(&self) -> bool {
        self.default
    }

    /// Docker's API.
    pub fn docker_socket(&self) -> PathBuf {
        platform::endpoint(&self.root, "docker")
    }

    /// Other names of Docker's API, which only the user's own home takes, where nobody else has them.
    pub fn docker_aliases(&self) -> Vec<PathBuf> {
        if self.default { platform::docker_aliases() } else { Vec::new() }
    }

    /// The daemon's control socket.
    pub fn control_socket(&self) -> PathBuf {
        platform::endpoint(&self.root, "control")
    }

    /// The daemon's lock, held while it lives.
    pub fn lock(&self) -> PathBuf {
        self.root.join("run/daemon.lock")
    }

    /// The daemon's pid.
    pub fn daemon_pid(&self) -> PathBuf {
        self.root.join("run/daemon.pid")
    }

    /// The daemon's log.
    pub fn daemon_log(&self) -> PathBuf {
        self.root.join("logs/daemon.log")
    }

    /// The guest's console.
    pub fn console_log(&self) -> PathBuf {
        self.root.join("logs/console.log")
    }

    /// The data disk.
    pub fn disk(&self) -> PathBuf {
        self.root.join("data/disk.raw")
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Files of the driver.
    pub fn machine(&self, name: &str) -> PathBuf {
        self.root.join("machine").join(name)
    }

    /// The link's channel.
    pub fn link_socket(&self) -> PathBuf {
        self.machine("link.sock")
    }

    /// QEMU's monitor.
    pub fn qmp_socket(&self) -> PathBuf {
        self.machine("qmp.sock")
    }

    /// Settings of the guest's engine.
    pub fn engine_settings(&self) -> PathBuf {
        self.root.join("engine.json")
    }

    /// Folder of certificates that the guest's engine trusts.
    pub fn certificates(&self) -> PathBuf {
        self.root.join("certificates")
    }

    /// Settings.
    pub fn settings(&self) -> PathBuf {
        self.root.join("settings.json")
    }

    /// A docker configuration of its own.
    pub fn docker_config(&self) -> PathBuf {
        self.root.join("docker")
    }
}

/// Writes a file so that it is there whole or as it was.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), HostError> {
    let part = path.with_extension(format!("part{}", std::process::id()));
    let write = || {
        let mut file = fs::File::create(&part)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        platform::replace(&part, path)
    };
    write().map_err(HostError::io("writing", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_is_refused_in_words() {
        let long = PathBuf::from("/tmp").join("x".repeat(SOCKET_PATH - 13));
        let error = Home::at(long, false).unwrap_err();
        assert_eq!(error.code(), "path_too_long");
        assert!(error.to_string().contains("CORACLE_HOME"));
    }
}
