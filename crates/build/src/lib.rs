//! Building images: a Dockerfile becomes a [`graph::Graph`], a graph becomes an image.
//!
//! ```text
//! options + Dockerfile --frontend--> Graph --executor--> snapshots --exporter--> image
//! ```
//!
//! The front half (`frontend`, `dockerfile`, `convert`, `checks`, `patterns`) is pure: it asks its [`frontend::Host`]
//! for files and for the configuration of images, and does nothing else. It says what BuildKit's Dockerfile frontend
//! says, to the word: names of steps, history entries, errors with their lines, build checks.

#![forbid(unsafe_code)]

pub mod answers;
pub mod checks;
pub mod config;
pub mod convert;
pub mod dockerfile;
pub mod error;
pub mod frontend;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod graph;
pub mod options;
pub mod outline;
pub mod patterns;
pub mod platform;

pub use error::Error;
