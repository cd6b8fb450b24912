//! The words that Coracle's host and guest speak: pure data and codec. No tokio, no sockets, no OS.
//!
//! - [`sync`]: the records that put host and guest in step on a byte channel without connection semantics.
//! - [`open`]: the header that begins every stream of the link.
//! - [`control`]: messages of the control stream. `Hello`, `Version` and `Shutdown` are frozen for ever: any daemon can
//!   cleanly stop any guest.
//! - [`ports`]: published ports, which engine, guest and host pass along.
//! - [`changes`]: what the host changes in shared folders.
//! - [`names`]: questions about names, which the host asks in the guest's place.
//! - [`setup`]: what the host's user set for the engine.
//! - [`frame`]: the framing of all of these.

pub mod changes;
pub mod control;
pub mod frame;
pub mod names;
pub mod open;
pub mod ports;
pub mod setup;
pub mod sync;

/// The protocol's version: a peer that speaks this or the one before is served.
pub const VERSION: u32 = 2;
/// The oldest version that is served.
pub const OLDEST: u32 = 1;
/// In the guest: a file beside a share's place with this at the end of its name says that the share has died.
pub const SHARE_LOST: &str = ".lost";
