//! macOS' own.

use std::{path::Path, process::Command};

pub use super::unix::home_in_profile as default_home;
use crate::{login::Entry, settings::DriverKind};

/// What runs the engine where the user chose nothing.
pub const DEFAULT_DRIVER: DriverKind = DriverKind::Vfkit;
/// What can run it here; krunkit is for Apple silicon alone.
pub const DRIVERS: &[DriverKind] = if cfg!(target_arch = "aarch64") {
    &[DriverKind::Vfkit, DriverKind::Krunkit]
} else {
    &[DriverKind::Vfkit]
};
/// Where programs are that `PATH` may not name: Homebrew's (on Apple silicon, and on Intel, where others put theirs too) and
/// MacPorts'. launchd's `PATH`, which apps have as well, has only the system's own.
pub const PROGRAM_FOLDERS: &[&str] = &["/opt/homebrew/bin", "/usr/local/bin", "/opt/local/bin"];
/// Names that the computer knows by itself.
pub const HOSTS: Option<&str> = Some("/etc/hosts");
/// Where the system lists its resolvers, those of a VPN first.
pub const RESOLV_CONF: Option<&str> = Some("/etc/resolv.conf");
/// Where those of single domains are.
pub const RESOLVERS_OF_DOMAINS: Option<&str> = Some("/etc/resolver");

/// Whether a process' command line has `word`: a pid alone says little, after a reboot it may be anybody's.
pub fn command_names(pid: u32, word: &str) -> bool {
    let said = Command::new("/bin/ps").args(["-ww", "-o", "command=", "-p", &pid.to_string()]).output();
    said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains(word))
}

/// Nothing is ever mounted in a home here: an engine runs on Linux alone.
pub fn mounted_below(_folder: &Path) -> Option<std::path::PathBuf> {
    None
}

/// On macOS anybody may have a low port on all addresses, but on none in particular (since 10.14).
pub const LOW_PORTS_ON_ALL_ADDRESSES: bool = true;

/// How a port is had that is refused to ordinary users.
pub fn low_ports(port: u16) -> String {
    format!(
        "ports below 1024 are everybody's here on loopback and on all addresses alone: publish {port} without an address, or another port"
    )
}

/// Where this computer's network leads.
pub fn routes() -> Vec<crate::routes::Subnet> {
    let said = Command::new("/usr/sbin/netstat").args(["-rn", "-f", "inet"]).output();
    said.map_or(Vec::new(), |said| crate::routes::of_macos(&String::from_utf8_lossy(&said.stdout)))
}

/// An engine runs on Linux alone.
pub fn power_fails(pid: u32) {
    super::end(pid, false);
}

/// What starts the daemon when the user logs in: a launchd agent. What it leaves behind lives on, as a crashed
/// daemon's guest must.
pub fn login_entry(program: &Path, home: Option<&Path>) -> Result<Entry, String> {
    let folder = std::env::home_dir().ok_or("there is no home folder")?.join("Library/LaunchAgents");
    let text = crate::login::agent(program, home);
    Ok(Entry { path: folder.join("dev.coracle.plist"), text, link: None })
}

/// Leaves a folder out of Time Machine's backups, as `tmutil addexclusion` does. What can't be said stays in them.
pub fn leave_out_of_backups(folder: &Path) {
    const NAME: &str = "com.apple.metadata:com_apple_backup_excludeItem";
    let told = rustix::fs::setxattr(folder, NAME, b"com.apple.backupd", rustix::fs::XattrFlags::empty());
    if let Err(error) = told {
        tracing::debug!("{} is in Time Machine's backups: {error}", folder.display());
    }
}

/// Whether Rosetta is installed: without it, vfkit refuses to start a guest that is to have it.
pub fn has_rosetta() -> bool {
    cfg!(target_arch = "aarch64") && Path::new("/Library/Apple/usr/libexec/oah/libRosettaRuntime").exists()
}

/// There is no KVM here.
pub fn kvm_works() -> Result<(), String> {
    Err("KVM is Linux's".into())
}
