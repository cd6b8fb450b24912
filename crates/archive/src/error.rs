use std::io;

/// Why an archive could not be read, extracted or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not a well-formed archive.
    #[error("invalid tar header: {0}")]
    Malformed(String),
    /// The archive ends within an entry.
    #[error("unexpected EOF in the archive")]
    Truncated,
    /// A path that leads out of the folder.
    #[error("{path:?} is outside of the target folder")]
    Outside {
        /// The entry's path.
        path: String,
    },
    /// One of the [`Limits`](crate::Limits) was exceeded.
    #[error("the archive exceeds the limit of {limit} {what}")]
    Limit {
        /// Unit and subject of the limit.
        what: &'static str,
        /// Its value.
        limit: u64,
    },
    /// An entry of a type that means nothing on a file system.
    #[error("unhandled tar header type {kind:?} of {path:?}")]
    Unsupported {
        /// The entry's path.
        path: String,
        /// The type flag.
        kind: char,
    },
    /// A folder in the way of a file, or the other way round, where replacing is not wanted.
    #[error("cannot overwrite {existing} with {new} {path:?}")]
    Kind {
        /// The entry's path.
        path: String,
        /// What stands there.
        existing: &'static str,
        /// What should replace it.
        new: &'static str,
    },
    /// The operating system refused.
    #[error("{action} {path:?}: {source}")]
    Os {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The input could not be read.
    #[error("reading the archive: {0}")]
    Read(#[source] io::Error),
    /// The output could not be written.
    #[error("writing the archive: {0}")]
    Write(#[source] io::Error),
}

impl Error {
    pub(crate) fn os(action: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        Error::Os { action, path: lossy(path), source: source.into() }
    }

    pub(crate) fn malformed(why: impl Into<String>) -> Self {
        Error::Malformed(why.into())
    }

    pub(crate) fn read(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::UnexpectedEof { Error::Truncated } else { Error::Read(e) }
    }
}

pub(crate) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
