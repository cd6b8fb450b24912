//! What a test's guest runs under, and where it differs.

use std::{net::Ipv4Addr, path::PathBuf};

use crate::harness::target;

/// What runs a test's guest: QEMU itself, vfkit and krunkit (the real ones that the environment names, else their double,
/// which runs the same guest under QEMU), or WSL's double, in which it is hosted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hypervisor {
    Qemu,
    Vfkit,
    Krunkit,
    Wsl,
}

impl Hypervisor {
    /// As settings, status and errors name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Vfkit => "vfkit",
            Self::Krunkit => "krunkit",
            Self::Wsl => "wsl",
        }
    }

    /// The one of tests that are the same under each: a real vfkit where one is named, else QEMU.
    pub fn usual() -> Self {
        if Self::Vfkit.real().is_some() || cfg!(target_os = "macos") { Self::Vfkit } else { Self::Qemu }
    }

    /// The real program that is to be tested instead of a double: `CORACLE_TEST_VFKIT` names one, or
    /// `CORACLE_TEST_KRUNKIT` with `CORACLE_TEST_GVPROXY`.
    pub fn real(self) -> Option<PathBuf> {
        match self {
            Self::Vfkit => named("CORACLE_TEST_VFKIT"),
            Self::Krunkit => named("CORACLE_TEST_KRUNKIT"),
            Self::Qemu | Self::Wsl => None,
        }
    }

    /// Why its guests can't run on this system at all.
    pub fn foreign(self) -> Option<&'static str> {
        match self {
            _ if cfg!(target_os = "linux") => None,
            Self::Qemu => Some("machines run under QEMU on Linux alone"),
            Self::Wsl => Some("WSL's double makes namespaces of Linux"),
            Self::Krunkit if self.real().is_none() => Some("CORACLE_TEST_KRUNKIT names no krunkit"),
            Self::Vfkit | Self::Krunkit => None,
        }
    }

    /// What has to be made or named before a guest can run under it.
    pub fn lacking(self) -> Option<&'static str> {
        if !guest().join("manifest.json").exists() {
            return Some("there is no guest image with an engine double (run `cargo xtask double` first)");
        }
        match self.real() {
            Some(_) => None,
            None if cfg!(target_os = "linux") => {
                (!qemu().exists()).then_some("there is no QEMU (run `cargo xtask qemu` first)")
            }
            None => Some("CORACLE_TEST_VFKIT names no vfkit, and its double runs guests on Linux alone"),
        }
    }

    /// Whether its guests have this address: QEMU's driver tells it, vfkit's network gives it (DHCP; Apple's has subnets of
    /// its own), and where the guest is hosted it is its own pair's.
    pub fn gives(self, address: Ipv4Addr) -> bool {
        match self {
            Self::Wsl => address.octets().starts_with(&[192, 168, 127]),
            _ if self.real().is_some() => address.is_private(),
            _ => address == Ipv4Addr::new(10, 0, 2, 15),
        }
    }

    /// Boot arguments of a guest that never answers: where it is translated it is too slow for a limit of a second anyway,
    /// a real one listens where nobody asks.
    pub fn mute(self) -> &'static str {
        if self.real().is_some() { "coracle.link=vsock:1023" } else { "" }
    }
}

pub fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The guest's image with an engine double.
pub fn guest() -> PathBuf {
    guests().join(arch())
}

/// Those of all processors.
pub fn guests() -> PathBuf {
    target().join("double/share/coracle/guest")
}

pub fn qemu() -> PathBuf {
    target().join("tools").join(if arch() == "arm64" { "qemu-system-aarch64" } else { "qemu-system-x86_64" })
}

/// The guest's processor, as Debian names it: `CORACLE_ARCH`, else this computer's. Another one's is translated: so Linux
/// boots what a Mac does.
pub fn arch() -> &'static str {
    match std::env::var("CORACLE_ARCH").as_deref() {
        Ok("arm64") => "arm64",
        Ok("amd64") => "amd64",
        _ => own_arch(),
    }
}

pub fn own_arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}
