//! Where the host's folders are, seen from the engine.
//!
//! On bare Linux a path is a path. In a machine the host's folders are mounted beside the guest's own
//! (`/home/me` at `/run/host/share0`), and what a client calls `/home/me/project` is looked up there; some paths are
//! the guest's own on purpose: those of the kernel and of the engine, which tools mount from any Linux. Everything
//! else is an error that says what to do: an empty folder made in the guest would only puzzle.

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
        (host.starts_with('/') && here.starts_with('/')).then(|| (host.into(), here.into()))
    }

    /// Where a path of the host's is here.
    ///
    /// # Errors
    /// In a machine, for one that is not shared with it, or no longer.
    pub fn here(&self, path: &Path) -> Result<PathBuf> {
        for (host, here) in &self.map {
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
        if !self.machine || GUESTS_OWN.iter().any(|own| path.starts_with(own)) {
            return Ok(path.to_owned());
        }
        Err(Error::invalid(format!(
            "Mounts denied: the path {} is not shared with the machine. Add it to the setting `shares` (coracle settings get shares) and restart the machine",
            path.display()
        )))
    }
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
}
