//! A Dockerfile read: text to nodes ([`parser`]), nodes to [`instructions`] and stages.
//!
//! Every file of up to [`MAX_SIZE`] bytes is read or refused, in time and memory that grow with its length only.

pub mod directives;
pub mod expand;
pub mod flags;
pub mod heredoc;
pub mod instructions;
pub mod mounts;
pub mod parser;
pub mod stages;
pub mod text;
pub mod words;

pub use instructions::{Command, Instruction};
pub use parser::{Parsed, parse};
pub use stages::{Stage, Stages, stages};

/// Largest Dockerfile, in bytes.
pub const MAX_SIZE: usize = 16 << 20;
/// Longest line, in bytes, with its line feed. BuildKit's.
pub const MAX_LINE: usize = 65536;
/// Most instructions of a Dockerfile.
pub const MAX_INSTRUCTIONS: usize = 10_000;
/// Most variables of a stage, its base image's and arguments included.
pub const MAX_VARIABLES: usize = 4096;
