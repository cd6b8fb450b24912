//! What goes wrong between the window and the engine.

use crate::words::Failure;

/// Every way in which a call can fail before the engine answers it.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The daemon's or the home's words.
    #[error(transparent)]
    Host(#[from] host::HostError),
    /// Nobody answers at the engine's socket.
    #[error("the engine does not answer: {0}")]
    Unreachable(String),
    /// The engine's answer to a stream that was refused: its status and words.
    #[error("{message}")]
    Refused {
        /// HTTP's status.
        status: u16,
        /// The engine's own words.
        message: String,
    },
    /// A program beside the engine failed, in its own words.
    #[error("{0}")]
    Tool(String),
    /// What came from the window can't be meant.
    #[error("{0}")]
    Request(String),
}

impl AppError {
    /// For the window: a word for programs, words for people.
    pub fn failure(&self) -> Failure {
        let (code, status) = match self {
            Self::Host(error) => (error.code().to_owned(), None),
            Self::Unreachable(_) => ("engine_unreachable".to_owned(), None),
            Self::Refused { status, .. } => ("refused".to_owned(), Some(*status)),
            Self::Tool(_) => ("tool".to_owned(), None),
            Self::Request(_) => ("request".to_owned(), None),
        };
        Failure { code, status, message: self.to_string() }
    }
}

impl From<hyper::Error> for AppError {
    fn from(error: hyper::Error) -> Self {
        Self::Unreachable(error.to_string())
    }
}
