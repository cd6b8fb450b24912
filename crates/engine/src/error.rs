//! The engine's one error: a [`Code`] for the outside and words for the person.
//!
//! Only `api` turns a code into an HTTP status; the words are Docker's where a user of Docker knows them.

use std::fmt;

/// What kind of failure it is, independent of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request itself is wrong.
    InvalidArgument,
    /// What the request names does not exist.
    NotFound,
    /// The state of what is named does not allow it.
    Conflict,
    /// It is already so: nothing was changed.
    NotModified,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// Known, but not allowed.
    Forbidden,
    /// A part the engine needs (registry, disk, host) does not answer.
    Unavailable,
    /// This build cannot do it yet.
    NotImplemented,
    /// Anything that should not have happened.
    Internal,
}

/// A failure, as it is told to the client.
#[derive(Clone, Debug)]
pub struct Error {
    /// Its kind.
    pub code: Code,
    /// Its words, as `{"message": ...}` carries them.
    pub message: String,
}

/// `Result` with the engine's error.
pub type Result<T> = std::result::Result<T, Error>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident),* $(,)?) => {
        impl Error {
            $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
                Self { code: Code::$code, message: message.into() }
            })*
        }
    };
}

constructors! {
    /// The request itself is wrong.
    invalid => InvalidArgument,
    /// What is named does not exist.
    not_found => NotFound,
    /// The state does not allow it.
    conflict => Conflict,
    /// Known, but not allowed.
    forbidden => Forbidden,
    /// A part the engine needs does not answer.
    unavailable => Unavailable,
    /// This build cannot do it yet.
    not_implemented => NotImplemented,
    /// Anything that should not have happened.
    internal => Internal,
}

impl Error {
    /// It is already so: nothing was changed.
    pub fn not_modified() -> Self {
        Self { code: Code::NotModified, message: String::new() }
    }
    /// The same failure, with what was being done put in front.
    pub fn context(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Self::internal(e.to_string())
    }
}

impl From<rusqlite::Error> for Error {
    fn from(e: rusqlite::Error) -> Self {
        if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) {
            return Self::internal("state database: no space left on device");
        }
        Self::internal(format!("state database: {e}"))
    }
}

impl From<image::Error> for Error {
    fn from(e: image::Error) -> Self {
        let code = match e.code() {
            image::Code::InvalidArgument => Code::InvalidArgument,
            image::Code::NotFound => Code::NotFound,
            image::Code::Conflict => Code::Conflict,
            image::Code::Unauthorized => Code::Unauthorized,
            image::Code::Denied => Code::Forbidden,
            image::Code::Unavailable => Code::Unavailable,
            image::Code::NotImplemented => Code::NotImplemented,
            image::Code::Canceled | image::Code::Internal => Code::Internal,
        };
        Self { code, message: e.to_string() }
    }
}

impl From<network::Error> for Error {
    fn from(e: network::Error) -> Self {
        let code = match e.code() {
            network::Code::InvalidArgument => Code::InvalidArgument,
            network::Code::NotFound => Code::NotFound,
            network::Code::Conflict => Code::Conflict,
            network::Code::Forbidden => Code::Forbidden,
            network::Code::Internal => Code::Internal,
        };
        Self { code, message: e.to_string() }
    }
}
