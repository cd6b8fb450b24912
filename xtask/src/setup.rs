//! Programs that the tests call and a fresh Debian may lack: installed when this runs as root.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::stage::run;

/// Program and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("cc", "build-essential"),
    ("curl", "curl"),
    ("git", "git"),
    ("ip", "iproute2"),
    ("kill", "procps"),
    ("openssl", "openssl"),
    ("script", "bsdutils"),
    ("ssh-agent", "openssh-client"),
];

/// Makes sure of them; without the right to install, says what is missing.
pub fn programs() -> Result<()> {
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(p, _)| !is_there(p)).map(|(_, package)| *package).collect();
    install(missing)
}

/// Installs Debian packages; without the right to, says which are missing.
pub fn install(missing: Vec<&str>) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!("these Debian packages are missing: {0}\n  apt-get install {0}", missing.join(" "));
    }
    run(Command::new("apt-get").args(["update", "-q"]))?;
    run(Command::new("apt-get")
        .args(["install", "-y", "-q", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Whether packages may be installed.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Whether a program is in the PATH.
pub fn is_there(program: &str) -> bool {
    find(program).is_some()
}

/// Where a program is.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}
