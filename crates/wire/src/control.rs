//! Messages of the control stream: frames of JSON, the host's ([`ToGuest`]) and the guest's ([`ToHost`]).
//!
//! ```text
//! host                                  guest
//!  | Hello{version, build} ------------> |
//!  | <------------ Hello{version, build} |   differing versions: both say so in words; only Shutdown is served
//!  | Clock{unix_ns} -------------------> |   at once and every 30 s; the guest steps
//!  | <------------------- Engine{state}  |   whenever it changes
//!  | <------------------- Ports(Wanted)  |   the last set, after Hello and whenever it changes
//!  | Ports(Outcome) -------------------> |
//!  | Changed{share, changes} ---------> |   what the host did in a shared folder
//!  | ShareLost{share} ----------------> |   whoever serves that folder has died: nobody shall begin to wait for it
//!  | Routes{subnets} -----------------> |   where the host's network leads, after Hello and when that changes
//!  | Names -------------------------->  |   questions about names may be passed on (`names`)
//!  | Loopback ----------------------->  |   services at the host's loopback are let in to (`Open::Loopback`)
//!  | Ping{n} --------------------------> |   watchdog, both ways: a Pong carries the same n
//!  | Shutdown{grace_ms} ---------------> |
//!  | <------------------------- Stopping |   then the guest turns itself off
//! ```
//!
//! An unknown message is skipped ([`ToGuest::Unknown`]), so that a newer peer may say more than an older one hears.

use serde::{Deserialize, Serialize};

use crate::{changes::Change, ports};

/// From host to guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToGuest {
    /// Frozen: who speaks.
    Hello(Hello),
    /// Frozen: stop the engine in order, sync, turn off.
    Shutdown {
        /// How long the engine may take, in milliseconds.
        grace_ms: u64,
    },
    /// The host's wall clock.
    Clock {
        /// Nanoseconds since 1970, UTC.
        unix_ns: u64,
    },
    /// The data disk has grown: let the file system follow.
    DiskGrown,
    /// What became of the last wanted set of ports.
    Ports(ports::Outcome),
    /// What is set for the engine; the first message after the hello, from version 2 on.
    Setup(crate::setup::Setup),
    /// The host changed something in a shared folder.
    Changed {
        /// The share's tag.
        share: String,
        /// At most [`MAX_CHANGES`](crate::changes::MAX_CHANGES).
        changes: Vec<Change>,
    },
    /// Where the host's own network leads: what the engine must not give to networks of containers.
    Routes {
        /// As `address/prefix`, of IPv4.
        subnets: Vec<String>,
    },
    /// Whoever serves a shared folder has died; only a restart of the machine brings it back.
    ShareLost {
        /// The share's tag.
        share: String,
    },
    /// This host asks its own resolvers in the guest's place: [`Open::Names`](crate::open::Open::Names) is served from now
    /// on.
    Names,
    /// Services at this host's loopback are there for the guest: [`Open::Loopback`](crate::open::Open::Loopback) is served
    /// from now on.
    Loopback,
    /// Are you there?
    Ping {
        /// Comes back in the [`ToHost::Pong`].
        n: u64,
    },
    /// Something this version doesn't know.
    #[serde(other)]
    Unknown,
}

/// From guest to host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToHost {
    /// Frozen: who speaks.
    Hello(Hello),
    /// Frozen: the shutdown has begun.
    Stopping,
    /// How the engine is.
    Engine(Engine),
    /// The ports wanted now.
    Ports(ports::Wanted),
    /// I am.
    Pong {
        /// As in the [`ToGuest::Ping`].
        n: u64,
        /// Nothing runs in the guest but itself and an engine that does nothing.
        #[serde(default)]
        quiet: bool,
    },
    /// Something this version doesn't know.
    #[serde(other)]
    Unknown,
}

/// Frozen: the first message each way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest protocol version the sender speaks.
    pub version: u32,
    /// The oldest it serves.
    pub oldest: u32,
    /// The sender's release, e.g. `0.1.0`.
    pub release: String,
    /// The sender's build: commit and dirty flag.
    pub build: String,
}

impl Hello {
    /// What this code speaks.
    pub fn ours(release: &str, build: &str) -> Self {
        Self { version: crate::VERSION, oldest: crate::OLDEST, release: release.into(), build: build.into() }
    }

    /// The version to speak with a peer, or in words why there is none.
    pub fn agree(&self, peer: &Self) -> Result<u32, String> {
        let version = self.version.min(peer.version);
        if version >= self.oldest && version >= peer.oldest {
            return Ok(version);
        }
        Err(format!(
            "this side ({}) speaks versions {} to {} of the protocol, the other ({}) {} to {}",
            self.release, self.oldest, self.version, peer.release, peer.oldest, peer.version
        ))
    }
}

/// The engine as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Engine {
    /// Started, its socket not there yet.
    Starting,
    /// Its socket takes connections.
    Running,
    /// It ended; it is started again after a pause.
    Failed {
        /// How it ended, and the last it said.
        message: String,
        /// Ends in a row.
        times: u32,
    },
    /// It was told to stop.
    Stopped,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frozen messages, byte for byte: this test is never edited, only added to.
    #[test]
    fn frozen_messages() {
        let hello = Hello { version: 1, oldest: 1, release: "0.1.0".into(), build: "b".into() };
        let json = |m: &ToGuest| serde_json::to_string(m).unwrap();
        assert_eq!(
            json(&ToGuest::Hello(hello.clone())),
            r#"{"type":"hello","version":1,"oldest":1,"release":"0.1.0","build":"b"}"#
        );
        assert_eq!(json(&ToGuest::Shutdown { grace_ms: 5000 }), r#"{"type":"shutdown","grace_ms":5000}"#);
        assert_eq!(serde_json::to_string(&ToHost::Stopping).unwrap(), r#"{"type":"stopping"}"#);
        let later: ToHost = serde_json::from_str(r#"{"type":"of the future","x":1}"#).unwrap();
        assert_eq!(later, ToHost::Unknown);
    }

    #[test]
    fn versions_meet_or_say_why_not() {
        let of = |oldest, version| Hello { version, oldest, release: "r".into(), build: String::new() };
        assert_eq!(of(1, 2).agree(&of(2, 3)), Ok(2));
        assert!(of(1, 2).agree(&of(3, 4)).unwrap_err().contains("versions 1 to 2"));
    }
}
