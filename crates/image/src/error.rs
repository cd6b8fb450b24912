use std::io;

/// What kind of failure it is, for whoever must choose a status for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The caller asked for something malformed.
    InvalidArgument,
    /// It does not exist, here or at the registry.
    NotFound,
    /// It is in use.
    Conflict,
    /// The registry wants other credentials.
    Unauthorized,
    /// The registry does not allow it.
    Denied,
    /// The registry cannot be reached or fails; trying again may help.
    Unavailable,
    /// The caller went away.
    Canceled,
    /// A fault of this machine or of this program.
    Internal,
    /// Known, but not served.
    NotImplemented,
}

/// Why something about images failed. `Display` uses Docker's words.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not an image reference.
    #[error("invalid reference format{0}")]
    Reference(std::borrow::Cow<'static, str>),
    /// No image of this name or ID.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// Nothing of this name to push.
    #[error("An image does not exist locally with the tag: {0}")]
    NoLocalImage(String),
    /// A short ID that fits several images.
    #[error("image ID {0:?} is ambiguous: it fits several images; give more of its digits")]
    Ambiguous(String),
    /// The registry has no such manifest.
    #[error("manifest for {0} not found: manifest unknown: manifest unknown")]
    ManifestUnknown(String),
    /// The repository does not exist, or reading it is not allowed.
    #[error(
        "pull access denied for {0}, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"
    )]
    PullDenied(String),
    /// The registry refuses these credentials.
    #[error("Head {url:?}: unauthorized: {message}")]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// The registry's words.
        message: String,
    },
    /// The registry refuses to take or give this.
    #[error("denied: {0}")]
    Denied(String),
    /// The registry wants us to ask less often.
    #[error("toomanyrequests: {0}")]
    RateLimited(String),
    /// These credentials are none.
    #[error("Get {url:?}: unauthorized: incorrect username or password")]
    LoginFailed {
        /// What was asked for.
        url: String,
    },
    /// No manifest in the index fits the platform.
    #[error("no matching manifest for {platform} in the manifest list entries")]
    NoPlatform {
        /// What was wanted.
        platform: String,
    },
    /// The image is here, but not for this platform.
    #[error(
        "image with reference {image} was found but does not provide the specified platform ({platform})"
    )]
    PlatformNotHere {
        /// As it was asked for.
        image: String,
        /// What was wanted.
        platform: String,
    },
    /// An image format from before 2016.
    #[error(
        "{reference} uses Docker image manifest schema 1, which is no longer served: push it again with a current docker"
    )]
    Schema1 {
        /// The image.
        reference: String,
    },
    /// The registry cannot be reached, or answers with an error of its own.
    #[error("Get \"{url}\": {message}")]
    Registry {
        /// What was asked for.
        url: String,
        /// What came back.
        message: String,
    },
    /// Content that is not what its digest says.
    #[error("{what} failed verification: expected {expected}, got {got}")]
    Verification {
        /// Which content.
        what: String,
        /// Digest or size wanted.
        expected: String,
        /// Digest or size met.
        got: String,
    },
    /// A manifest, index or configuration that makes no sense.
    #[error("invalid {what}: {why}")]
    Content {
        /// Which document.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A layer that cannot be unpacked.
    #[error("failed to register layer: {0}")]
    Layer(#[from] archive::Error),
    /// The image is used.
    #[error("conflict: unable to {what} {name} {why}")]
    Conflict {
        /// `delete`, in Docker's order of words.
        what: &'static str,
        /// Short ID or reference as given.
        name: String,
        /// Docker's reason.
        why: String,
    },
    /// Something Docker can do and this build cannot.
    #[error("{0}")]
    Unsupported(String),
    /// The input is not what was expected.
    #[error("{0}")]
    Invalid(String),
    /// The database of a newer program.
    #[error(
        "the image database has format {found}, this program knows up to {known}: use the newer program it was made by"
    )]
    NewerFormat {
        /// Version found.
        found: i64,
        /// Newest version this program reads.
        known: i64,
    },
    /// The work was given up because its caller went away.
    #[error("context canceled")]
    Canceled,
    /// The database failed.
    #[error("image database: {}", database_words(.0))]
    Database(#[from] rusqlite::Error),
    /// The operating system failed.
    #[error("{action} {path}: {source}")]
    Os {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl Error {
    /// The kind of failure.
    pub fn code(&self) -> Code {
        match self {
            Error::Reference(_) | Error::Content { .. } | Error::Invalid(_) | Error::Ambiguous(_) => {
                Code::InvalidArgument
            }
            Error::NoSuchImage(_)
            | Error::NoLocalImage(_)
            | Error::ManifestUnknown(_)
            | Error::PullDenied(_)
            | Error::NoPlatform { .. }
            | Error::PlatformNotHere { .. } => Code::NotFound,
            Error::Unauthorized { .. } | Error::LoginFailed { .. } => Code::Unauthorized,
            Error::Denied(_) => Code::Denied,
            Error::Registry { .. } | Error::RateLimited(_) => Code::Unavailable,
            Error::Schema1 { .. } | Error::Unsupported(_) => Code::NotImplemented,
            Error::Conflict { .. } => Code::Conflict,
            Error::Canceled => Code::Canceled,
            Error::Layer(archive::Error::Os { .. } | archive::Error::Write(_))
            | Error::Database(_)
            | Error::NewerFormat { .. }
            | Error::Os { .. }
            | Error::Verification { .. } => Code::Internal,
            Error::Layer(_) => Code::InvalidArgument,
        }
    }

    /// Whether there is no room left on the disk.
    pub(crate) fn is_disk_full(&self) -> bool {
        let full =
            |e: &io::Error| matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            Error::Database(e) => e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            Error::Os { source, .. } => full(source),
            Error::Layer(archive::Error::Os { source, .. } | archive::Error::Write(source)) => full(source),
            _ => false,
        }
    }

    pub(crate) fn os(
        action: &'static str,
        path: impl AsRef<std::path::Path>,
        source: impl Into<io::Error>,
    ) -> Self {
        Error::Os { action, path: path.as_ref().display().to_string(), source: source.into() }
    }

    pub(crate) fn content(what: impl Into<String>, why: impl ToString) -> Self {
        Error::Content { what: what.into(), why: why.to_string() }
    }
}

/// A full disk has the words that everyone knows it by.
fn database_words(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => "no space left on device".into(),
        _ => error.to_string(),
    }
}

/// Runs work that may block off the async threads. A panic in it is passed on; a runtime that shuts down cancels.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Canceled),
        },
    }
}
