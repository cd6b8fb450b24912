//! What differs between operating systems: the terminal, and what a shell reads.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as imp;
#[cfg(windows)]
use windows as imp;

pub use imp::{Raw, set_variable, size};
