//! Where the host's folders are, seen from the engine.
//!
//! On bare Linux a path is a path. In a machine the host's folders are mounted beside the guest's own
//! (`/home/me` at `/run/host/share0`), and what a client calls `/home/me/project` is looked up there; some paths are
//! the guest's own on purpose: those of the kernel and of the engine, which tools mount from any Linux. Everything
//! else is an error that says what to do: an empty folder made in the guest would only puzzle.
//!
//! Windows' paths are shown as clients write them (`C:\Users\me`), and found as Windows finds them: by either slash, in
//! any case. Programs of other systems write such a path as `/c/Users/me` (compose, Git Bash) or `/mnt/c/Users/me` (WSL).

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Paths that mean the guest's own, with all below them.
const GUESTS_OWN: [&str; 8] =
    ["/dev", "/lib/modules", "/proc", "/run", "/sys", "/var/lib/coracle", "/var/lib/docker", "/var/run"];

/// The map.
#[derive(Clone, Debug, Default)]
pub struct HostPaths {
    machine: bool,
    /// Host's folder, place here; the longest first.
    map: Vec<(PathBuf, PathBuf)>,
}

impl HostPaths {
    /// `machine`: there is a host outside of this system, whose folders are only those of the map.
    pub fn new(machine: bool, mut map: Vec<(PathBuf, PathBuf)>) -> Self {
        map.sort_by_key(|(host, _)| std::cmp::Reverse(host.as_os_str().len()));
        Self { machine, map }
    }

    /// Reads `HOST=HERE`.
    pub fn parse(text: &str) -> Option<(PathBuf, PathBuf)> {
        // The place here is ours and has no `=`; the host's path may.
        let (host, here) = text.rsplit_once('=')?;
        let is_absolute = host.starts_with('/') || drive(host).is_some();
        (is_absolute && here.starts_with('/')).then(|| (host.into(), here.into()))
    }

    /// Where a path of the host's is here.
    ///
    /// # Errors
    /// In a machine, for one that is not shared with it, or no longer.
    pub fn here(&self, path: &Path) -> Result<PathBuf> {
        for (host, here) in &self.map {
            if let Some(below) = below_drive(host, path) {
                return Ok(below.iter().fold(here.clone(), |here, part| here.join(part)));
            }
            if let Ok(below) = path.strip_prefix(host) {
                let mut lost = here.clone().into_os_string();
                lost.push(wire::SHARE_LOST);
                if self.machine && Path::new(&lost).exists() {
                    return Err(Error::unavailable(format!(
                        "Mounts denied: {} is no longer shared with the machine, because coracle-share has died on the host: restart the machine (coracle restart)",
                        host.display()
                    )));
                }
                return Ok(if below.as_os_str().is_empty() { here.clone() } else { here.join(below) });
            }
        }
        // On a bare Linux such a path is a name in whatever folder this runs in: nothing anybody means.
        let is_windows = path.to_str().is_some_and(|text| drive(text).is_some());
        if is_windows && !self.machine {
            let path = path.display();
            return Err(Error::invalid(format!("invalid mount path: '{path}' mount path must be absolute")));
        }
        if !self.machine || GUESTS_OWN.iter().any(|own| path.starts_with(own)) {
            return Ok(path.to_owned());
        }
        Err(Error::invalid(format!(
            "Mounts denied: the path {} is not shared with the machine. Add it to the setting `shares` (coracle settings get shares) and restart the machine",
            path.display()
        )))
    }
}

/// A path that begins with one of Windows' drives: its letter, and what is below.
fn drive(text: &str) -> Option<(char, &str)> {
    let mut chars = text.chars();
    let letter = chars.next().filter(char::is_ascii_alphabetic)?;
    let below = chars.as_str().strip_prefix(':')?;
    below.starts_with(['\\', '/']).then_some((letter, below))
}

/// One of Windows' paths without `.`, `..` and doubled slashes; `None` for any other.
pub fn clean_windows(text: &str) -> Option<String> {
    let (letter, below) = drive(text)?;
    let mut parts: Vec<&str> = Vec::new();
    for part in below.split(['\\', '/']) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some(format!("{letter}:\\{}", parts.join("\\")))
}

/// The parts of `path` below a shared folder of Windows'; `None` where it isn't below, or the folder none of Windows'.
fn below_drive<'a>(folder: &Path, path: &'a Path) -> Option<Vec<&'a str>> {
    let (letter, folder) = drive(folder.to_str()?)?;
    let path = path.to_str()?;
    let (other, path) = drive(path).or_else(|| {
        let path = path.strip_prefix("/mnt").unwrap_or(path).trim_start_matches('/');
        let (drive, below) = path.split_once('/').unwrap_or((path, ""));
        let mut letters = drive.chars();
        letters.next().filter(|c| c.is_ascii_alphabetic() && letters.as_str().is_empty()).map(|c| (c, below))
    })?;
    let parts = |text: &'a str| text.split(['\\', '/']).filter(|part| !part.is_empty());
    let mut below = parts(path);
    let is_below = letter.eq_ignore_ascii_case(&other)
        && folder
            .split(['\\', '/'])
            .filter(|part| !part.is_empty())
            .all(|part| below.next().is_some_and(|other| other.to_lowercase() == part.to_lowercase()));
    is_below.then(|| below.collect()).filter(|parts: &Vec<&str>| !parts.contains(&".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_looked_up_in_the_nearest_share() {
        let pair = |text| HostPaths::parse(text).unwrap();
        let paths = HostPaths::new(
            true,
            vec![pair("/home/me=/run/host/share0"), pair("/home/me/deep=/run/host/share1")],
        );
        let here = |path: &str| paths.here(Path::new(path)).unwrap().to_str().unwrap().to_owned();
        assert_eq!(here("/home/me"), "/run/host/share0");
        assert_eq!(here("/home/me/src/x"), "/run/host/share0/src/x");
        assert_eq!(here("/home/me/deep/x"), "/run/host/share1/x");
        assert_eq!(here("/sys/fs/cgroup"), "/sys/fs/cgroup");
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("share2");
        let lost = HostPaths::new(true, vec![("/srv".into(), place)]);
        lost.here(Path::new("/srv/x")).unwrap();
        std::fs::write(folder.path().join("share2.lost"), "").unwrap();
        assert!(lost.here(Path::new("/srv/x")).unwrap_err().message.contains("coracle restart"));
        let denied = paths.here(Path::new("/home/meadow")).unwrap_err().message;
        assert!(denied.contains("/home/meadow") && denied.contains("shares"), "{denied}");
        assert_eq!(HostPaths::default().here(Path::new("/opt")).unwrap(), Path::new("/opt"));
        assert_eq!(HostPaths::parse("/a=b=/c").unwrap().0, Path::new("/a=b"));
        assert!(HostPaths::parse("a=/b").is_none() && HostPaths::parse("/a").is_none());
    }

    #[test]
    fn windows_paths_are_found_as_windows_finds_them() {
        let share = HostPaths::parse(r"C:\Users\Me=/run/host/share0").unwrap();
        let paths = HostPaths::new(true, vec![share]);
        let here = |path: &str| paths.here(Path::new(path)).map(|p| p.to_str().unwrap().to_owned());
        for same in [
            r"C:\Users\Me\Src\x",
            "c:/users/me/Src/x",
            "/c/Users/Me/Src/x",
            "//c/Users/Me/Src/x",
            "/mnt/c/Users/me/Src/x",
        ] {
            assert_eq!(here(same).unwrap(), "/run/host/share0/Src/x", "{same}");
        }
        assert_eq!(here(r"C:\Users\ME").unwrap(), "/run/host/share0");
        assert_eq!(here("/dev").unwrap(), "/dev");
        for denied in [r"C:\Users\Meadow", r"D:\Users\Me", r"C:\Users\Me\..\You", "/cc/Users/Me", r"C:\"] {
            assert!(here(denied).is_err(), "{denied}");
        }
        let whole = HostPaths::new(true, vec![HostPaths::parse(r"D:\=/run/host/s").unwrap()]);
        assert_eq!(whole.here(Path::new(r"d:\a b\c")).unwrap(), Path::new("/run/host/s/a b/c"));
        assert_eq!(clean_windows(r"c:/a/./b\..\c\").as_deref(), Some(r"c:\a\c"));
        assert_eq!(clean_windows(r"c:\..\..").as_deref(), Some(r"c:\"));
        assert_eq!(clean_windows("c:x"), None);
    }
}
