//! The crate's error.

use crate::protocol::{Failure, FailureKind};
use std::io;

/// What kind of failure this is, for the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The command does not exist (Docker's exit code 127).
    NotFound,
    /// The command exists but cannot be executed (Docker's exit code 126).
    NotExecutable,
    /// The request or the spec is wrong.
    InvalidArgument,
    /// The container or process is not running.
    NotRunning,
    /// Something this machine lacks.
    Unavailable,
    /// Everything else.
    Internal,
}

/// Why something about a container did not work.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The command could not be found; the words are runc's.
    #[error("{0}")]
    CommandNotFound(String),
    /// The command could not be executed; the words are runc's.
    #[error("{0}")]
    CommandNotExecutable(String),
    /// The spec or an argument is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The container or process is not running.
    #[error("{0}")]
    NotRunning(String),
    /// This machine or kernel lacks what was asked for.
    #[error("{0}")]
    Unavailable(String),
    /// The shim died: its container was killed.
    #[error("the shim of container {0} is gone")]
    ShimGone(String),
    /// A system call failed.
    #[error("{doing}: {error}")]
    System {
        /// What was being done.
        doing: String,
        /// The system's own words.
        error: String,
        /// The system's number, 0 where there is none.
        errno: i32,
    },
    /// The shim reported something that should not happen.
    #[error("{0}")]
    Shim(String),
}

impl Error {
    /// The kind of this error.
    pub fn code(&self) -> Code {
        match self {
            Error::CommandNotFound(_) => Code::NotFound,
            Error::CommandNotExecutable(_) => Code::NotExecutable,
            Error::Invalid(_) => Code::InvalidArgument,
            Error::NotRunning(_) => Code::NotRunning,
            Error::Unavailable(_) => Code::Unavailable,
            Error::ShimGone(_) | Error::System { .. } | Error::Shim(_) => Code::Internal,
        }
    }

    pub(crate) fn system(doing: impl Into<String>, error: impl Into<io::Error>) -> Error {
        let error = error.into();
        Error::System {
            doing: doing.into(),
            errno: error.raw_os_error().unwrap_or(0),
            error: error.to_string(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure.kind {
            FailureKind::CommandNotFound => Error::CommandNotFound(failure.message),
            FailureKind::CommandNotExecutable => Error::CommandNotExecutable(failure.message),
            FailureKind::Invalid => Error::Invalid(failure.message),
            FailureKind::NotRunning => Error::NotRunning(failure.message),
            FailureKind::Internal => Error::Shim(failure.message),
        }
    }
}
