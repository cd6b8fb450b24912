//! What can go wrong with networks.

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request is wrong.
    InvalidArgument,
    /// What is named does not exist.
    NotFound,
    /// Something else has it (an address, a port, a subnet).
    Conflict,
    /// Not allowed.
    Forbidden,
    /// The kernel or a program refused.
    Internal,
}

/// A failure in words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    code: Code,
    message: String,
}

/// `Result` with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure of a kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
    /// Its kind.
    pub fn code(&self) -> Code {
        self.code
    }
    pub(crate) fn io(what: &str, e: &std::io::Error) -> Self {
        let code = match e.kind() {
            std::io::ErrorKind::AddrInUse | std::io::ErrorKind::AlreadyExists => Code::Conflict,
            std::io::ErrorKind::PermissionDenied => Code::Forbidden,
            std::io::ErrorKind::NotFound => Code::NotFound,
            _ => Code::Internal,
        };
        Self::new(code, format!("{what}: {e}"))
    }
}
