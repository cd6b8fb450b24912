//! What differs between the programs that make such machines. Both take one form of command line and of control; where
//! they don't, it stands here, and the driver asks for the difference instead of the name.

use crate::settings::DriverKind;

/// A program that makes machines.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name, and its file's.
    pub name: &'static str,
    /// Names another file of it.
    pub variable: &'static str,
    /// How it is had.
    pub install: &'static str,
    /// Words for programs: it is missing, it ended, a path can't be passed to it.
    pub codes: [&'static str; 3],
    /// What gets the guest's kernel running.
    pub boot: Boot,
    /// What the guest's network is.
    pub network: Network,
    /// What lets a guest stand still.
    pub pause: Pause,
    /// Whether its control ends a guest that doesn't hear.
    pub stops_hard: bool,
    /// Characters of a path that its options can't have: there is no escape for them.
    pub forbidden: &'static [(char, &'static str)],
    /// What it makes of its sockets' paths.
    pub sockets: Sockets,
    /// Whether it can give the guest Rosetta, which runs programs of amd64 on Apple silicon.
    pub has_rosetta: bool,
    /// Most memory of a guest, in MiB.
    pub most_memory_mib: Option<u64>,
}

/// What gets the guest's kernel running.
#[derive(Debug, PartialEq, Eq)]
pub enum Boot {
    /// The program loads it.
    Kernel,
    /// Firmware, from a disk before the others ([`super::boot_disk`]).
    Firmware,
}

/// What the guest's network is.
#[derive(Debug, PartialEq, Eq)]
pub enum Network {
    /// The framework's own.
    Nat,
    /// A program beside it ([`super::proxy`]).
    Proxy,
}

/// What a program makes of its sockets' paths.
#[derive(Debug, PartialEq, Eq)]
pub enum Sockets {
    /// Paths.
    Paths,
    /// Parts of addresses (URLs): what can't stand in one is read as something else, and the socket is made elsewhere, if at
    /// all (vfkit's pkg/vf/vsock.go, pkg/rest/rest.go).
    Addresses,
}

/// What lets a guest stand still.
#[derive(Debug, PartialEq, Eq)]
pub enum Pause {
    /// The program's control.
    Control,
    /// A signal to the program.
    Signal,
}

const COMMA: (char, &str) = (',', "has a comma");
const QUOTE: (char, &str) = ('"', "has a double quote");

/// Apple's Virtualization.framework.
pub static VFKIT: Kind = Kind {
    name: "vfkit",
    variable: "CORACLE_VFKIT",
    install: "Install Coracle again, or vfkit by `brew install vfkit`",
    codes: ["vfkit_missing", "vfkit_died", "vfkit_path"],
    boot: Boot::Kernel,
    network: Network::Nat,
    pause: Pause::Control,
    stops_hard: true,
    forbidden: &[COMMA, QUOTE],
    sockets: Sockets::Addresses,
    has_rosetta: true,
    most_memory_mib: None,
};

/// libkrun on Apple's Hypervisor.framework (https://github.com/libkrun/krunkit, 1.2 or newer: earlier ones have no vsock
/// that the host connects to). It gives memory back that its guest doesn't use. It knows no kernel but what its firmware
/// finds on the first disk, no network of its own, and no pause.
pub static KRUNKIT: Kind = Kind {
    name: "krunkit",
    variable: "CORACLE_KRUNKIT",
    install: "Install it by `brew install krunkit`",
    codes: ["krunkit_missing", "krunkit_died", "krunkit_path"],
    boot: Boot::Firmware,
    network: Network::Proxy,
    pause: Pause::Signal,
    stops_hard: false,
    forbidden: &[COMMA, QUOTE, ('=', "has an equals sign")],
    sockets: Sockets::Paths,
    has_rosetta: false,
    most_memory_mib: Some(61_440), // src/context.rs of its sources
};

impl Kind {
    /// The one of a setting.
    pub fn of(setting: DriverKind) -> Option<&'static Self> {
        match setting {
            DriverKind::Vfkit => Some(&VFKIT),
            DriverKind::Krunkit => Some(&KRUNKIT),
            DriverKind::Qemu | DriverKind::Local | DriverKind::Wsl => None,
        }
    }

    /// The one of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        [&VFKIT, &KRUNKIT].into_iter().find(|kind| kind.name == name)
    }
}
