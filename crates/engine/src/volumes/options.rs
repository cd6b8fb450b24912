//! What the options of a local volume say: `type`, `o` and `device`, as mount(8) and dockerd take them.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::net::IpAddr;
use std::path::Path;

use rustix::mount::MountFlags;

use crate::error::{Error, Result};
use crate::host_paths::HostPaths;

/// What is mounted as a volume.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalMount {
    kind: String,
    device: String,
    flags: MountFlags,
    /// Words of the file system's own.
    data: String,
}

/// Refuses options that there are not, in Docker's words.
pub fn check(options: &BTreeMap<String, String>) -> Result<()> {
    let known = |option: &&String| matches!(option.as_str(), "type" | "o" | "device" | "size");
    if let Some(option) = options.keys().find(|o| !known(o)) {
        return Err(Error::invalid(format!("invalid option: \"{option}\"")));
    }
    for (given, needed) in
        [("device", &["type"][..]), ("type", &["device"]), ("o", &["device", "type"]), ("size", &[])]
    {
        if !options.contains_key(given) {
            continue;
        }
        if let Some(missing) = needed.iter().find(|needed| !options.contains_key(**needed)) {
            return Err(Error::invalid(format!("missing required option: \"{missing}\"")));
        }
    }
    if options.contains_key("size") {
        return Err(Error::invalid("quota size requested but no quota support"));
    }
    Ok(())
}

impl LocalMount {
    /// What the options ask for; `None` for a plain folder.
    pub fn read(options: &BTreeMap<String, String>) -> Option<Self> {
        let (kind, device) = (options.get("type")?, options.get("device")?);
        let (mut flags, mut data) = (MountFlags::empty(), Vec::new());
        for word in options.get("o").map_or("", String::as_str).split(',').filter(|w| !w.is_empty()) {
            match flag(word) {
                Some((true, flag)) => flags |= flag,
                Some((false, flag)) => flags -= flag,
                None => data.push(word),
            }
        }
        Some(Self { kind: kind.clone(), device: device.clone(), flags, data: data.join(",") })
    }

    /// Mounts it at a folder.
    pub async fn mount(&self, at: &Path, host: &HostPaths) -> Result<()> {
        let mut wanted = self.clone();
        let failed = |why: &dyn std::fmt::Display| {
            let (device, at) = (&self.device, at.display());
            let mut words = format!("failed to mount local volume: mount {device}:{at}");
            if !self.flags.is_empty() {
                words.push_str(&format!(", flags: {:#x}", self.flags.bits()));
            }
            if !self.data.is_empty() {
                words.push_str(&format!(", data: {}", self.data));
            }
            Error::internal(format!("error while mounting volume '{at}': {words}: {why}"))
        };
        if wanted.flags.contains(MountFlags::BIND) {
            wanted.device = host.here(Path::new(&self.device))?.to_string_lossy().into_owned();
        }
        if wanted.kind.starts_with("nfs") || wanted.kind == "cifs" {
            wanted.resolve_server().await.map_err(|e| failed(&e))?;
        }
        let place = at.to_owned();
        let mounted = tokio::task::spawn_blocking(move || {
            let data = CString::new(wanted.data).map_err(std::io::Error::from)?;
            let data = (!data.is_empty()).then_some(data.as_c_str());
            let read_only_bind = wanted.flags.contains(MountFlags::BIND | MountFlags::RDONLY);
            rustix::mount::mount(&wanted.device, &place, &wanted.kind, wanted.flags, data)?;
            if read_only_bind {
                // A bind takes no other flag when it is made.
                rustix::mount::mount_remount(&place, wanted.flags, c"")?;
            }
            Ok::<_, std::io::Error>(())
        });
        let mounted = mounted.await.map_err(|e| Error::internal(e.to_string()))?;
        mounted.map_err(|e| failed(&os_words(&e)))
    }

    /// The kernel knows servers by their addresses alone: `addr=` may be a name.
    async fn resolve_server(&mut self) -> std::io::Result<()> {
        let Some(name) = self.data.split(',').find_map(|word| word.strip_prefix("addr=")) else {
            return Ok(());
        };
        if name.parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        let found = tokio::net::lookup_host((name, 0)).await?.next();
        let address = found.ok_or_else(|| std::io::Error::other(format!("{name} has no address")))?.ip();
        self.data = self.data.replace(&format!("addr={name}"), &format!("addr={address}"));
        Ok(())
    }
}

/// The system's words for a failure, as Go writes them.
fn os_words(e: &std::io::Error) -> String {
    let words = e.to_string();
    let words = words.split(" (os error").next().unwrap_or_default();
    words.chars().take(1).flat_map(char::to_lowercase).chain(words.chars().skip(1)).collect()
}

/// A word that is a flag: whether it is set or cleared.
fn flag(word: &str) -> Option<(bool, MountFlags)> {
    Some(match word {
        "ro" => (true, MountFlags::RDONLY),
        "rw" => (false, MountFlags::RDONLY),
        "nosuid" => (true, MountFlags::NOSUID),
        "suid" => (false, MountFlags::NOSUID),
        "nodev" => (true, MountFlags::NODEV),
        "dev" => (false, MountFlags::NODEV),
        "noexec" => (true, MountFlags::NOEXEC),
        "exec" => (false, MountFlags::NOEXEC),
        "sync" => (true, MountFlags::SYNCHRONOUS),
        "async" => (false, MountFlags::SYNCHRONOUS),
        "dirsync" => (true, MountFlags::DIRSYNC),
        "noatime" => (true, MountFlags::NOATIME),
        "atime" => (false, MountFlags::NOATIME),
        "nodiratime" => (true, MountFlags::NODIRATIME),
        "diratime" => (false, MountFlags::NODIRATIME),
        "relatime" => (true, MountFlags::RELATIME),
        "norelatime" => (false, MountFlags::RELATIME),
        "strictatime" => (true, MountFlags::STRICTATIME),
        "nostrictatime" => (false, MountFlags::STRICTATIME),
        "bind" => (true, MountFlags::BIND),
        "rbind" => (true, MountFlags::BIND | MountFlags::REC),
        "defaults" => (true, MountFlags::empty()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn flags_and_the_file_systems_own_words_are_told_apart() {
        let mount = LocalMount::read(&options(&[
            ("type", "tmpfs"),
            ("device", "tmpfs"),
            ("o", "size=1m,nosuid,ro,rw,uid=1000"),
        ]));
        let mount = mount.unwrap();
        assert_eq!((mount.flags, mount.data.as_str()), (MountFlags::NOSUID, "size=1m,uid=1000"));
        assert_eq!(LocalMount::read(&BTreeMap::new()), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let words = |list: &[(&str, &str)]| check(&options(list)).unwrap_err().message;
        assert_eq!(words(&[("type", "tmpfs")]), "missing required option: \"device\"");
        assert_eq!(words(&[("o", "ro"), ("device", "/x")]), "missing required option: \"type\"");
        assert_eq!(words(&[("x", "y")]), "invalid option: \"x\"");
        assert!(check(&options(&[("type", "none"), ("device", "/x"), ("o", "bind")])).is_ok());
    }
}
