//! Settings: one JSON file; what isn't in it has its default.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Home, HostError, driver::vfkit::Kind, home::write_whole, parts, platform};

/// Least memory of a guest, in MiB.
const MIN_MEMORY: u64 = 512;
/// Bounds of the default memory, in MiB.
const DEFAULT_MEMORY: (u64, u64) = (2048, 8192);
/// Most processors by default.
const DEFAULT_CPUS: usize = 4;
/// Default size of the data disk, in GiB (sparse: it takes what is used).
const DEFAULT_DISK: u64 = 64;
/// Bounds of the data disk's size, in GiB.
const DISK: (u64, u64) = (1, 16 * 1024);

/// How the machine is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Processors of the guest.
    pub cpus: usize,
    /// Memory of the guest, in MiB.
    pub memory_mib: u64,
    /// Size of the data disk, in GiB; it can only grow.
    pub disk_gib: u64,
    /// What runs the engine.
    pub driver: DriverKind,
    /// How QEMU runs the guest's instructions.
    pub accel: AccelChoice,
    /// Folders of this computer that containers can mount by their own paths; the user's home unless set.
    pub shares: Vec<PathBuf>,
    /// QEMU's program, where it isn't found by itself.
    pub qemu: Option<PathBuf>,
    /// Whether Rosetta runs programs of amd64 in a guest of Apple silicon; else an emulator of the guest's does.
    pub rosetta: bool,
    /// More boot arguments of the guest's kernel.
    pub kernel_arguments: String,
    /// Seconds in which the guest must answer after its start; 0: as the accelerator needs.
    pub boot_limit_s: u64,
    /// Seconds after which a guest in which nothing runs is stopped; the next use of Docker's socket starts it again.
    /// 0: never.
    pub idle_stop_s: u64,
    /// The proxy of the engine's pulls to registries without TLS, a URL; empty: the one of the daemon's environment.
    pub http_proxy: String,
    /// The one to registries with TLS.
    pub https_proxy: String,
    /// Hosts that are reached without one, separated by commas; empty: those of the environment.
    pub no_proxy: String,
}

/// What runs the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// A guest under QEMU.
    Qemu,
    /// This Linux itself: the engine is the daemon's child.
    Local,
    /// A guest under macOS' own hypervisor.
    Vfkit,
    /// The same by libkrun.
    Krunkit,
    /// A WSL2 distribution.
    Wsl,
}

impl std::fmt::Display for DriverKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Qemu => "qemu",
            Self::Local => "local",
            Self::Vfkit => "vfkit",
            Self::Krunkit => "krunkit",
            Self::Wsl => "wsl",
        })
    }
}

/// How QEMU runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccelChoice {
    /// KVM where it works, else TCG.
    Auto,
    /// KVM or an error.
    Kvm,
    /// Translated: slow, works everywhere.
    Tcg,
}

impl Default for Settings {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get().min(DEFAULT_CPUS));
        let memory_mib = platform::memory_mib()
            .map_or(DEFAULT_MEMORY.0, |m| (m / 4).clamp(DEFAULT_MEMORY.0, DEFAULT_MEMORY.1));
        Self {
            cpus,
            memory_mib,
            disk_gib: DEFAULT_DISK,
            driver: platform::DEFAULT_DRIVER,
            accel: AccelChoice::Auto,
            shares: home_folder().into_iter().collect(),
            qemu: None,
            rosetta: platform::has_rosetta(),
            kernel_arguments: String::new(),
            boot_limit_s: 0,
            idle_stop_s: 0,
            http_proxy: String::new(),
            https_proxy: String::new(),
            no_proxy: String::new(),
        }
    }
}

impl Settings {
    /// The home's.
    pub fn load(home: &Home) -> Result<Self, HostError> {
        let path = home.settings();
        match std::fs::read(&path) {
            Ok(bytes) => {
                let settings: Self = serde_json::from_slice(&bytes)
                    .map_err(|e| HostError::Setting(format!("{} is not understood: {e}", path.display())))?;
                settings.check()?;
                Ok(settings)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(HostError::io("reading", path)(error)),
        }
    }

    /// Every key and value.
    pub fn all(&self) -> Vec<(String, String)> {
        let serde_json::Value::Object(fields) = self.json() else { unreachable!("a struct is an object") };
        fields.into_iter().map(|(key, value)| (key, plain(&value))).collect()
    }

    /// Those that do something here: what the driver, or a guest of this processor, can't have is left out.
    pub fn acting(&self) -> Vec<(String, String)> {
        self.acting_on(parts::arch())
    }

    fn acting_on(&self, arch: &str) -> Vec<(String, String)> {
        let rosetta = arch == "arm64" && Kind::of(self.driver).is_some_and(|kind| kind.has_rosetta);
        self.all().into_iter().filter(|(key, _)| key != "rosetta" || rosetta).collect()
    }

    /// One value.
    pub fn get(&self, key: &str) -> Result<String, HostError> {
        let found = self.all().into_iter().find(|(k, _)| k == key);
        found.map(|(_, value)| value).ok_or_else(|| self.unknown(key))
    }

    /// Changes one value in the home's file; takes effect with the next start.
    pub fn set(home: &Home, key: &str, value: &str) -> Result<Self, HostError> {
        let settings = Self::load(home)?;
        let mut json = settings.json();
        let field = json.get_mut(key).ok_or_else(|| settings.unknown(key))?;
        *field = match (key, value) {
            ("qemu", "") => serde_json::Value::Null,
            ("shares", list) => list.split(',').map(str::trim).filter(|p| !p.is_empty()).collect(),
            ("cpus" | "memory-mib" | "disk-gib" | "boot-limit-s" | "idle-stop-s", _) => value
                .parse::<u64>()
                .map_err(|_| HostError::Setting(format!("{key} is a whole number, not {value:?}")))?
                .into(),
            ("rosetta", "true" | "false") => (value == "true").into(),
            _ => value.into(),
        };
        let new: Self = serde_json::from_value(json)
            .map_err(|e| HostError::Setting(format!("{key} can't be {value:?}: {e}")))?;
        new.check()?;
        if new.disk_gib < settings.disk_gib && home.disk().exists() {
            return Err(HostError::Shrink { now: settings.disk_gib, wanted: new.disk_gib });
        }
        home.create()?;
        write_whole(&home.settings(), &serde_json::to_vec_pretty(&new).expect("settings are JSON"))?;
        Ok(new)
    }

    fn check(&self) -> Result<(), HostError> {
        let wrong = |text: String| Err(HostError::Setting(text));
        if self.cpus == 0 {
            return wrong("cpus must be 1 or more".into());
        }
        if self.memory_mib < MIN_MEMORY {
            return wrong(format!("memory-mib must be {MIN_MEMORY} or more"));
        }
        if !(DISK.0..=DISK.1).contains(&self.disk_gib) {
            return wrong(format!("disk-gib must be between {} and {}", DISK.0, DISK.1));
        }
        if !platform::DRIVERS.contains(&self.driver) {
            let known: Vec<String> = platform::DRIVERS.iter().map(|kind| kind.to_string()).collect();
            return wrong(format!(
                "driver can't be {} on this system: there is {}",
                self.driver,
                known.join(", ")
            ));
        }
        if let Some(path) = self.shares.iter().find(|p| !p.is_absolute()) {
            return wrong(format!(
                "shares are whole paths, separated by commas, not {:?}",
                path.display().to_string()
            ));
        }
        for (key, url) in [("http-proxy", &self.http_proxy), ("https-proxy", &self.https_proxy)] {
            if !url.is_empty() && !is_proxy(url) {
                return wrong(format!("{key} is a URL such as http://proxy.example.com:3128, not {url:?}"));
            }
        }
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("settings are JSON")
    }

    fn unknown(&self, key: &str) -> HostError {
        let keys: Vec<String> = self.all().into_iter().map(|(key, _)| key).collect();
        HostError::Setting(format!("there is no setting {key:?}; there are: {}", keys.join(", ")))
    }
}

/// Whether it may be a proxy: `http://[user[:password]@]host[:port][/]`, or https.
fn is_proxy(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return false;
    };
    let place = rest.strip_suffix('/').unwrap_or(rest);
    let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
    !host.is_empty() && !place.contains(|c: char| c.is_whitespace() || c.is_control() || "/?#".contains(c))
}

/// The user's home folder.
fn home_folder() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| home.is_absolute() && home.parent().is_some() && home.is_dir())
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => String::new(),
        serde_json::Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_kept_and_a_wrong_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("h"), false).unwrap();
        Settings::set(&home, "cpus", "3").unwrap();
        assert_eq!(Settings::load(&home).unwrap().get("cpus").unwrap(), "3");
        assert!(Settings::set(&home, "cpus", "many").unwrap_err().to_string().contains("whole number"));
        assert!(Settings::set(&home, "colour", "red").unwrap_err().to_string().contains("memory-mib"));
        assert_eq!(Settings::set(&home, "driver", "vmware").unwrap_err().code(), "setting");
        assert!(Settings::set(&home, "rosetta", "true").unwrap().rosetta);
        assert_eq!(Settings::set(&home, "rosetta", "perhaps").unwrap_err().code(), "setting");
        let whole = |path: &str| std::path::absolute(path).unwrap().display().to_string();
        let (srv, opt) = (whole("/srv"), whole("/opt"));
        Settings::set(&home, "shares", &format!("{srv}, {opt}")).unwrap();
        assert_eq!(Settings::load(&home).unwrap().get("shares").unwrap(), format!("{srv},{opt}"));
        assert!(Settings::set(&home, "shares", "srv").unwrap_err().to_string().contains("whole paths"));
        assert!(Settings::set(&home, "shares", "").unwrap().shares.is_empty());
        for url in ["http://proxy:3128", "https://me:p%40ss@proxy.example.com/", "http://[::1]:8080", ""] {
            assert_eq!(Settings::set(&home, "https-proxy", url).unwrap().https_proxy, url);
        }
        for url in ["proxy:3128", "http://", "http://user@", "socks5://x:1", "http://a b:1", "http://a/path"]
        {
            assert_eq!(Settings::set(&home, "http-proxy", url).unwrap_err().code(), "setting", "{url}");
        }
        // Each system has drivers of its own.
        for kind in
            [DriverKind::Qemu, DriverKind::Local, DriverKind::Vfkit, DriverKind::Krunkit, DriverKind::Wsl]
        {
            let set = Settings::set(&home, "driver", &kind.to_string());
            assert_eq!(set.is_ok(), platform::DRIVERS.contains(&kind), "{kind}");
        }
    }

    #[test]
    fn rosetta_is_a_setting_only_where_it_can_be() {
        let has = |driver, arch| {
            let settings = Settings { driver, ..Settings::default() };
            settings.acting_on(arch).iter().any(|(key, _)| key == "rosetta")
        };
        assert!(has(DriverKind::Vfkit, "arm64"));
        assert!(!has(DriverKind::Vfkit, "amd64"));
        for driver in [DriverKind::Krunkit, DriverKind::Qemu, DriverKind::Local, DriverKind::Wsl] {
            assert!(!has(driver, "arm64"), "{driver}");
        }
        assert_eq!(Settings::default().acting_on("amd64").len() + 1, Settings::default().all().len());
    }

    #[test]
    fn the_disk_never_shrinks() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("h"), false).unwrap();
        home.create().unwrap();
        std::fs::write(home.disk(), "").unwrap();
        assert_eq!(Settings::set(&home, "disk-gib", "10").unwrap_err().code(), "shrink");
        Settings::set(&home, "disk-gib", "100").unwrap();
    }
}
