//! Building images: a Dockerfile becomes a [`graph::Graph`], a graph becomes an image.
//!
//! ```text
//! options + Dockerfile --frontend--> Graph --executor--> snapshots --exporter--> image
//! ```
//!
//! The front half (`frontend`, `dockerfile`, `convert`, `checks`, `patterns`) is pure: it asks its [`frontend::Host`]
//! for files and for the configuration of images, and does nothing else. It says what BuildKit's Dockerfile frontend
//! says, to the word: names of steps, history entries, errors with their lines, build checks.
//!
//! The back half speaks BuildKit's protocol and does the work. It knows no engine: what it needs of one it asks of its
//! [`worker::Worker`].
//!
//! ```text
//! client --/grpc--> rpc -> control, gateway -> jobs -> solve -> worker (the engine)
//!        <-/session-- session (files, secrets, ...) <---'  '---> cache, export, progress
//! ```

#![forbid(unsafe_code)]

pub mod answers;
mod attest;
pub mod builder;
pub mod cache;
pub mod checks;
pub mod classic;
pub mod config;
pub mod control;
pub mod convert;
pub mod dockerfile;
pub mod error;
mod export;
pub mod files;
pub mod frontend;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod gateway;
pub mod gc;
mod git;
pub mod graph;
mod history;
pub mod jobs;
mod llb;
pub mod options;
pub mod outline;
pub mod patterns;
pub mod platform;
pub mod progress;
mod remote;
pub mod rpc;
pub mod sbom;
pub mod session;
pub mod solve;
pub mod worker;

pub use error::Error;

/// A digest as text: `sha256:` and hexadecimal digits.
pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    })
}

/// An id as BuildKit's are: 25 letters and digits that nobody else has.
pub(crate) fn random_id() -> String {
    const LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    (0..25).map(|_| LETTERS[rand::random_range(0..LETTERS.len())] as char).collect()
}
