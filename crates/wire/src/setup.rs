//! What the user of the host set for the engine, told to the guest before it says that its engine runs (from version 2
//! on). The guest keeps it: the next boot begins with it.

use serde::{Deserialize, Serialize};

/// The first version of the protocol that has it.
pub const SINCE: u32 = 2;
/// Most bytes of settings, and of certificates: both fit in one frame, with room for escapes.
pub const MAX_BYTES: usize = 256 << 10;

/// All of it; empty where nothing is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setup {
    /// Settings in the form of dockerd's daemon.json; empty: none. Nobody reads it but the engine.
    pub engine: String,
    /// Certificates to trust beside the usual ones, in PEM.
    pub certificates: String,
    /// The proxies of the host's own environment.
    pub proxies: Proxies,
}

/// URLs as the variables of that name have them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Proxies {
    /// `HTTP_PROXY`.
    pub http: String,
    /// `HTTPS_PROXY`.
    pub https: String,
    /// `NO_PROXY`.
    pub direct: String,
}

impl Setup {
    /// Whether it is within the limits.
    pub fn fits(&self) -> bool {
        let Proxies { http, https, direct } = &self.proxies;
        [&self.engine, &self.certificates, http, https, direct].iter().all(|text| text.len() <= MAX_BYTES)
    }
}
