//! Names that this computer knows by itself: `/etc/hosts` (hosts(5)).
//!
//! Names of its loopback are left out, its own among them: in a container those addresses are the container's. On
//! Windows the guest's resolver is the system's, which reads its own file.

use std::{
    collections::HashMap,
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use wire::names::{About, Kind};

use crate::platform;

/// A file in the form of `/etc/hosts`, in the place of this computer's own.
const FILE: &str = "CORACLE_HOSTS";
/// Longest file that is read; lists of names that nobody wants to reach have some megabytes.
const MAX_FILE: u64 = 64 << 20;

/// The file's names.
#[derive(Debug, Default)]
pub struct Hosts {
    /// By which the file is known to be the same: when it was written, and its length.
    stamp: Option<(SystemTime, u64)>,
    names: HashMap<String, Vec<IpAddr>>,
}

impl Hosts {
    /// What the file says now; `before` where it is still the same.
    pub fn read(before: Arc<Self>) -> Arc<Self> {
        let path = std::env::var_os(FILE).map(PathBuf::from).or_else(|| platform::HOSTS.map(PathBuf::from));
        path.map_or_else(Arc::default, |path| Self::of(&path, before))
    }

    fn of(path: &Path, before: Arc<Self>) -> Arc<Self> {
        let Ok(file) = std::fs::File::open(path) else { return Arc::default() };
        let stamp = file.metadata().and_then(|m| Ok((m.modified()?, m.len()))).ok();
        if stamp.is_some() && stamp == before.stamp {
            return before;
        }
        let mut bytes = Vec::new();
        // What can't be read is not known.
        let _ = file.take(MAX_FILE).read_to_end(&mut bytes);
        Arc::new(Self { stamp, names: names(&String::from_utf8_lossy(&bytes)) })
    }

    /// The addresses that a question asks for, none where the name has others; nothing where the name is not known, or
    /// something else is asked.
    pub fn addresses(&self, about: &About) -> Option<Vec<IpAddr>> {
        let all = self.names.get(&about.name).filter(|_| about.kind != Kind::Other)?;
        Some(all.iter().copied().filter(|ip| about.kind.is(ip)).collect())
    }
}

/// `ADDRESS NAME [ALIAS...]`, `#` begins a comment.
fn names(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(ip) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        if ip.to_canonical().is_loopback() {
            continue;
        }
        for name in words {
            let of_name = names.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default();
            if !of_name.contains(&ip) {
                of_name.push(ip);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(hosts: &Hosts, name: &str, kind: Kind) -> Option<Vec<String>> {
        let all = hosts.addresses(&About { name: name.into(), kind })?;
        Some(all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn lines_are_read_as_hosts_5_has_them() {
        let text = "127.0.0.1\tlocalhost me\n::1 localhost\n\n# 10.0.0.9 no\n10.0.0.7  NAS.home nas # mine\n\
                    fd00::7 nas\n10.0.0.8 nas\n10.0.0.7 nas\n0.0.0.0 tracker.example.\nfe80::1%lo0 x\nnonsense\n";
        let hosts = Hosts { stamp: None, names: names(text) };
        let v4 = |name: &str| asked(&hosts, name, Kind::V4);
        assert_eq!(v4("nas").unwrap(), ["10.0.0.7", "10.0.0.8"]);
        assert_eq!(v4("nas.home").unwrap(), ["10.0.0.7"]);
        assert_eq!(v4("tracker.example").unwrap(), ["0.0.0.0"]);
        assert_eq!(asked(&hosts, "nas", Kind::V6).unwrap(), ["fd00::7"]);
        assert!(
            asked(&hosts, "nas.home", Kind::V6).unwrap().is_empty(),
            "it is there, without such an address"
        );
        assert_eq!(asked(&hosts, "nas", Kind::Other), None);
        for unknown in ["localhost", "me", "no", "mine", "x"] {
            assert_eq!(v4(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_file_is_read_anew_when_it_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        assert!(Hosts::of(&path, Arc::default()).names.is_empty(), "there is none");
        std::fs::write(&path, "10.0.0.1 a\n").unwrap();
        let first = Hosts::of(&path, Arc::default());
        assert_eq!(asked(&first, "a", Kind::V4).unwrap(), ["10.0.0.1"]);
        assert!(Arc::ptr_eq(&first, &Hosts::of(&path, first.clone())));
        std::fs::write(&path, "10.0.0.22 a\n").unwrap();
        let second = Hosts::of(&path, first);
        assert_eq!(asked(&second, "a", Kind::V4).unwrap(), ["10.0.0.22"]);
        std::fs::remove_file(&path).unwrap();
        assert!(Hosts::of(&path, second).names.is_empty());
    }
}
