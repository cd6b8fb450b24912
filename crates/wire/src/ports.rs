//! Published ports: the engine says which it wants, the host opens them.
//!
//! Declarative: every message is the *full* wanted set, with a generation that grows. The host keeps listeners that
//! stay, closes and opens the difference, and answers per port under the same generation, bound before it answers. One
//! port that fails does not fail the others. After a restart of engine, guest or daemon the set is sent again and
//! nothing leaks and nothing is missing.
//!
//! The engine speaks this on a unix socket that `coracle-guest` serves (`--ports-socket`): frames of
//! [`frame`](crate::frame), each one JSON [`Wanted`] one way and [`Outcome`] the other. The guest passes it on over
//! the control stream.
//!
//! ```
//! use wire::ports::{Proto, Wanted};
//! let wanted: Wanted = serde_json::from_str(
//!     r#"{"generation":3,"ports":[{"key":"c1/80/tcp","proto":"tcp","host_ip":"0.0.0.0","host_port":8080,
//!         "target_ip":"172.17.0.2","target_port":80}]}"#,
//! )
//! .unwrap();
//! assert_eq!(wanted.ports[0].proto, Proto::Tcp);
//! ```

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Most ports in one set.
pub const MAX_PORTS: usize = 4096;
/// Longest key, in bytes.
pub const MAX_KEY: usize = 512;

/// The full set of ports wanted now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Grows with every set that an engine sends; the answer carries the same.
    pub generation: u64,
    /// Every port wanted, at most [`MAX_PORTS`].
    pub ports: Vec<Port>,
}

/// One port to be opened on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The engine's own name of the port, opaque to others; a port keeps its listener while key and address stay.
    pub key: String,
    /// Transport protocol.
    pub proto: Proto,
    /// Host address to listen on.
    pub host_ip: IpAddr,
    /// Host port; 0 asks for any free one, which is kept for this key while it is wanted.
    pub host_port: u16,
    /// The container's address.
    pub target_ip: IpAddr,
    /// The container's port.
    pub target_port: u16,
}

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// The host's answer to a [`Wanted`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Generation of the set that is answered.
    pub generation: u64,
    /// One result a port, in the set's order.
    pub results: Vec<PortResult>,
}

/// What became of one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortResult {
    /// [`Port::key`]
    pub key: String,
    /// Bound, or why not.
    #[serde(flatten)]
    pub result: Bind,
}

/// Bound, or why not: `"ok":{..}` or `"error":{..}` in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bind {
    /// The host listens.
    Ok {
        /// The port it listens on (the one picked, when any was asked for).
        host_port: u16,
    },
    /// It doesn't.
    Error {
        /// Kind of failure.
        code: PortError,
        /// One sentence for the user.
        message: String,
    },
}

/// Why a port could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortError {
    /// Another program (or another port of this set) holds it.
    InUse,
    /// The user may not bind it (a port below 1024 without the right).
    Denied,
    /// The host has no such address, or the set breaks a limit.
    Invalid,
    /// The host can't be asked now, or lacks the means.
    Unavailable,
}

impl Outcome {
    /// The same failure for every port of `wanted`: for when nobody can be asked.
    pub fn all_failed(wanted: &Wanted, code: PortError, message: &str) -> Self {
        let failed = |port: &Port| PortResult {
            key: port.key.clone(),
            result: Bind::Error { code, message: message.to_owned() },
        };
        Self { generation: wanted.generation, results: wanted.ports.iter().map(failed).collect() }
    }
}

impl Wanted {
    /// Why this set breaks a limit, if it does.
    pub fn check(&self) -> Result<(), String> {
        if self.ports.len() > MAX_PORTS {
            return Err(format!("{} ports are wanted, {MAX_PORTS} are the most", self.ports.len()));
        }
        if let Some(port) = self.ports.iter().find(|p| p.key.len() > MAX_KEY) {
            return Err(format!("a key of {} bytes, {MAX_KEY} are the most", port.key.len()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_as_agreed() {
        let outcome = Outcome {
            generation: 7,
            results: vec![
                PortResult { key: "a".into(), result: Bind::Ok { host_port: 8080 } },
                PortResult {
                    key: "b".into(),
                    result: Bind::Error { code: PortError::InUse, message: "taken".into() },
                },
            ],
        };
        let json = serde_json::to_string(&outcome).unwrap();
        assert_eq!(
            json,
            r#"{"generation":7,"results":[{"key":"a","ok":{"host_port":8080}},{"key":"b","error":{"code":"in_use","message":"taken"}}]}"#
        );
        assert_eq!(serde_json::from_str::<Outcome>(&json).unwrap(), outcome);
    }

    #[test]
    fn a_set_as_agreed() {
        let json = r#"{"generation":1,"ports":[{"key":"k","proto":"udp","host_ip":"::","host_port":0,"target_ip":"172.17.0.2","target_port":53}]}"#;
        let wanted: Wanted = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&wanted).unwrap(), json);
    }
}
