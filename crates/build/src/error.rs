//! Why a Dockerfile cannot be built.

use crate::graph::{Range, Source, Warning};

/// What kind of failure it is, as gRPC and HTTP need to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// The Dockerfile or an option is wrong.
    #[default]
    Invalid,
    /// Something that is named is not there.
    NotFound,
    /// Asked for something that this builder does not do.
    Unsupported,
    /// The other side (registry, session, worker) failed.
    Unknown,
}

/// How a step's program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The program and its arguments, joined by spaces.
    pub command: String,
    /// Its exit status.
    pub code: u8,
}

/// Why a Dockerfile cannot be built: BuildKit's words, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// One sentence, as `docker build` shows it.
    pub message: String,
    /// What kind.
    pub kind: Kind,
    /// The lines it is about, innermost first; each with all lines of an instruction.
    pub lines: Vec<Vec<Range>>,
    /// The file of `lines`, set by [`crate::frontend`].
    pub file: Option<Box<Source>>,
    /// What build checks found until then; they are shown all the same.
    pub warnings: Vec<Warning>,
    /// It is the end of a step's program.
    pub exit: Option<Box<Exit>>,
    /// It is about no line of the file, for what is elsewhere cannot be had; and what is said before it, but by the step itself. BuildKit
    /// names no lines of such.
    pub elsewhere: Option<&'static str>,
}

impl Error {
    /// A wrong Dockerfile or option.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error {
            message: message.into(),
            kind: Kind::Invalid,
            lines: Vec::new(),
            file: None,
            warnings: Vec::new(),
            exit: None,
            elsewhere: None,
        }
    }

    /// The same of another kind.
    pub fn with_kind(mut self, kind: Kind) -> Error {
        self.kind = kind;
        self
    }

    /// The same about these lines, unless it is about some already.
    pub fn at(mut self, lines: &[Range]) -> Error {
        if self.lines.is_empty() && !lines.is_empty() && self.elsewhere.is_none() {
            self.lines.push(lines.to_vec());
        }
        self
    }

    /// The same about no line at all, `before` being said before it where it is the build's.
    pub fn elsewhere(mut self, before: &'static str) -> Error {
        self.elsewhere.get_or_insert(before);
        self
    }

    /// The step has said it: now it is the build's.
    pub fn of_build(mut self) -> Error {
        let Some(before) = self.elsewhere else { return self };
        self.elsewhere = Some("");
        if before.is_empty() { self } else { self.context(before) }
    }

    /// The same of this file.
    pub fn of(mut self, file: &Source) -> Error {
        if self.file.is_none() && !self.lines.is_empty() {
            self.file = Some(Box::new(file.clone()));
        }
        self
    }

    /// The same with what checks found until then.
    pub fn with_warnings(mut self, warnings: &[Warning]) -> Error {
        self.warnings = warnings.to_vec();
        self
    }

    /// The same with words before it.
    pub fn context(mut self, before: impl AsRef<str>) -> Error {
        self.message = format!("{}: {}", before.as_ref(), self.message);
        self
    }
}
