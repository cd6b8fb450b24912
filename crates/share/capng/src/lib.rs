//! In place of the crate `capng`, which binds the C library libcap-ng.
//!
//! `virtiofsd` uses it to change capabilities of threads when it serves as root for other users. `coracle-share`
//! serves as the user whose files it shares, for that user only: it has no capabilities, acts for nobody else and
//! changes none. So there is nothing to bind, and no C library to build with. Whoever asks for a change all the same
//! gets an error.

use std::fmt;

/// A capability's number (`linux/capability.h`).
pub type Capability = u32;

/// A change was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("coracle-share changes no capabilities")
    }
}

impl std::error::Error for Error {}

/// Result of a change.
pub type Result<T> = std::result::Result<T, Error>;

/// Which sets are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// Those of the process.
    CAPS,
    /// And the bounding set.
    BOTH,
}

/// Which set of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// The effective one.
    EFFECTIVE,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Take away.
    DROP,
    /// Add.
    ADD,
}

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CUpdate {
    /// What to do.
    pub action: Action,
    /// In which set.
    pub cap_type: Type,
    /// With which capability.
    pub capability: Capability,
}

/// Nothing is held in between: nothing to clear.
pub fn clear(_: Set) {}

/// Would apply changes.
///
/// # Errors
/// Always.
pub fn apply(_: Set) -> Result<()> {
    Err(Error)
}

/// Would read the process's capabilities in order to change them.
///
/// # Errors
/// Always.
pub fn get_caps_process() -> Result<()> {
    Err(Error)
}

/// Would note changes.
///
/// # Errors
/// Always.
pub fn update(_: Vec<CUpdate>) -> Result<()> {
    Err(Error)
}

/// Whether this process has one it could drop: none that it would.
pub fn have_capability(_: Type, _: Capability) -> bool {
    false
}

/// Numbers of the two that are asked for by name.
///
/// # Errors
/// For any other.
pub fn name_to_capability(name: &str) -> Result<Capability> {
    match name {
        "DAC_OVERRIDE" => Ok(1),
        "FSETID" => Ok(4),
        _ => Err(Error),
    }
}
