//! The controller of Coracle's machine: one `coracle daemon` per user owns it; everything else is a client of its
//! control socket.
//!
//! ```text
//!  client (command line, app) --control socket--> daemon
//!                                                   | machine   the owner task and its states
//!                                                   |   driver    qemu | vfkit, krunkit | wsl | local: starts, watches, stops
//!                                                   |   guest     the host's end of the link
//!  docker ------------------------docker socket---> | forward   bytes, not parsed
//!  guest -------------------------link------------> | names     its questions, asked of this computer's resolvers
//!  anybody -----------------------published port--> | ports     listeners, as the engine wants them
//! ```
//!
//! It never parses Docker's JSON and never knows what a container is: streams and ports only.
//!
//! The home folder (`CORACLE_HOME`, default `~/.coracle`):
//!
//! ```text
//! run/docker.sock  control.sock  daemon.pid  daemon.lock
//! data/disk.raw               the data disk, sparse
//! logs/daemon.log  console.log  (+ .1 .. .3)
//! machine/qemu.pid  qmp.sock  link.sock  qemu.log  machine.json
//! docker/                     a docker configuration of its own (only of homes that aren't the default)
//! settings.json
//! engine.json                 settings of the guest's engine, in the form of dockerd's daemon.json; the user's
//! certificates/*.pem *.crt    certificates that the engine trusts beside the usual ones; the user's
//! ```

pub mod api;
mod asked;
mod changes;
pub mod context;
pub mod daemon;
mod driver;
mod error;
mod forward;
mod guest;
mod home;
mod log;
pub mod login;
mod loopback;
mod machine;
mod names;
mod parts;
mod platform;
mod ports;
pub mod programs;
pub mod routes;
mod settings;
pub mod setup;

pub use driver::{forget, has_left};
pub use error::HostError;
pub use home::Home;
pub use log::tail;
pub use platform::{Socket, connect, docker_host, mounted_below, spawn_daemon, windowless};
pub use settings::Settings;

/// The release of this build.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");
/// Commit and dirty flag of this build.
pub const BUILD: &str = env!("CORACLE_BUILD");
/// Out of descriptors: how long others have to give some back before the next connection is taken.
const BREATH: std::time::Duration = std::time::Duration::from_millis(100);
