//! What runs the engine: a guest under QEMU, or this Linux itself. Drivers start, watch and stop a process; they never
//! know the link's protocol.

pub mod local;
pub mod qemu;
mod qmp;
mod shares;

use std::path::PathBuf;

use crate::Home;

/// A driver at work.
pub enum Driver {
    /// A guest under QEMU.
    Qemu(qemu::Qemu),
    /// The engine as the daemon's child.
    Local(local::Local),
}

/// What a driver notices.
#[derive(Debug)]
pub enum Event {
    /// Its process ended; what it said.
    Exited(String),
    /// The guest's kernel panicked.
    Panicked,
    /// The data disk could not be written: the guest stands still.
    DiskFull,
    /// The guest goes on.
    Resumed,
    /// The local engine takes connections.
    Ready,
}

/// How the engine is reached.
pub enum Channel {
    /// By the link over this socket.
    Link(PathBuf),
    /// Directly.
    Socket(PathBuf),
}

impl Driver {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Qemu(_) => "qemu",
            Self::Local(_) => "local",
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        match self {
            Self::Qemu(qemu) => qemu.pid(),
            Self::Local(local) => local.pid(),
        }
    }

    /// How instructions are run, and why so.
    pub fn accel(&self) -> Option<(qemu::Accel, Option<&str>)> {
        match self {
            Self::Qemu(qemu) => Some(qemu.accel()),
            Self::Local(_) => None,
        }
    }

    /// How the engine is reached.
    pub fn channel(&self) -> Channel {
        match self {
            Self::Qemu(qemu) => Channel::Link(qemu.link_socket()),
            Self::Local(local) => Channel::Socket(local.socket()),
        }
    }

    /// Where its shares tell what the host changes, with their tags.
    pub fn changes(&self, home: &Home) -> Vec<(String, PathBuf)> {
        match self {
            Self::Qemu(_) => shares::changes(home),
            Self::Local(_) => Vec::new(),
        }
    }

    /// Asks it to end in order, by the driver's own means.
    pub fn terminate(&self) {
        match self {
            Self::Qemu(qemu) => qemu.power_button(),
            Self::Local(local) => local.terminate(),
        }
    }

    /// Ends it at once.
    pub fn kill(&self) {
        crate::sys::end(self.pid(), true);
    }

    /// Lets a guest go on that stands still.
    pub fn resume(&self) {
        if let Self::Qemu(qemu) = self {
            qemu.resume();
        }
    }
}
