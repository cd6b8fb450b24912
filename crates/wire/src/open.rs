//! The header that begins every stream of the link: one frame of JSON, then the stream's own bytes.
//!
//! The opener sends it at once and does not wait; the other end closes the stream when it can't serve it. For
//! what is dialled ([`Open::Docker`], [`Open::Tcp`], [`Open::Udp`], [`Open::Loopback`]) a [`Opened`] frame comes back before the first byte, so that a refused dial is known for what it is.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ports::Proto;

/// Connections to the host's loopback at once, of one guest.
pub const MAX_LOOPBACK: usize = 1024;

/// What a stream is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "open", rename_all = "snake_case")]
pub enum Open {
    /// The session's first stream, opened by the host: [`control`](crate::control) messages both ways.
    Control,
    /// Bytes to and from the engine's API socket.
    Docker,
    /// A connection to an address that the guest can reach.
    Tcp {
        /// Where to.
        to: SocketAddr,
        /// The peer that connected on the host.
        from: Option<SocketAddr>,
    },
    /// Datagrams of one peer to one address, each a `u16` big-endian length and its bytes, both ways.
    Udp {
        /// Where to.
        to: SocketAddr,
        /// The peer that sends on the host.
        from: Option<SocketAddr>,
    },
    /// One question about a name, opened by the guest where the host says that it asks ([`names`](crate::names)).
    Names {
        /// Whether it came by TCP, and is to be asked so.
        tcp: bool,
    },
    /// A service at the host's loopback, opened by the guest where the host says that it lets it in
    /// ([`ToGuest::Loopback`](crate::control::ToGuest::Loopback)). Datagrams as with [`Open::Udp`].
    Loopback {
        /// Whether bytes or datagrams follow.
        proto: Proto,
        /// Its port: the guest names no address.
        port: u16,
    },
    /// A terminal in the guest, for looking after it.
    Shell {
        /// Columns of the terminal.
        columns: u16,
        /// Rows of the terminal.
        rows: u16,
    },
}

/// The answer that precedes the bytes of a dialled stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "opened", rename_all = "snake_case")]
pub enum Opened {
    /// Connected: bytes follow.
    Ok,
    /// Not connected: the stream ends.
    Failed {
        /// One sentence.
        message: String,
    },
}
