//! A control group of the guest's own, below whatever the distribution has.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::say;

/// Where a distribution has version 2, alone or (older ones) beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Names are this and a number: homes have guests side by side.
const NAME: &str = "coracle-";
const GUESTS: usize = 64;

/// Makes it, with every controller that can be had; `None`, and that is said, where there is none: containers then
/// run without limits.
pub fn make() -> Option<PathBuf> {
    let mount = MOUNTS.map(PathBuf::from).into_iter().find(|m| m.join("cgroup.procs").is_file());
    let Some(mount) = mount else {
        say("there are no control groups of version 2 here: containers have no limits");
        return None;
    };
    let controllers = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    for name in controllers.split_whitespace() {
        // One at a time: one that can't be had takes no other along.
        if let Err(error) = fs::write(mount.join("cgroup.subtree_control"), format!("+{name}")) {
            say(format_args!("no limits of {name}: {error}"));
        }
    }
    // What guests left that were killed, and nobody is in any more.
    for entry in fs::read_dir(&mount).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(NAME);
        let events = fs::read_to_string(entry.path().join("cgroup.events")).unwrap_or_default();
        if is_ours && events.contains("populated 0") {
            remove(&entry.path());
        }
    }
    let number = (0..GUESTS).find(|n| !mount.join(format!("{NAME}{n}")).exists()).unwrap_or(GUESTS);
    let group = mount.join(format!("{NAME}{number}"));
    match fs::create_dir(&group) {
        Ok(()) => Some(group),
        Err(error) => {
            say(format_args!("{}: {error}: containers have no limits", group.display()));
            None
        }
    }
}

/// Takes it away with all below it: with the guest its processes are gone.
pub fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
