//! One byte channel to the guest, many streams over it.
//!
//! ```text
//!   channel (any AsyncRead + AsyncWrite)
//!      | in_step::host / in_step::guest   put both ends in step, past stale bytes of earlier sessions
//!      v
//!   Session ---- driver task: yamux over a channel that gathers what is sent
//!      | open(Open) -> Stream             header sent at once
//!      | accept() -> (Open, Stream)       header read, within HEADER_LIMIT
//! ```
//!
//! A session ends when the channel does, when the peer breaks the protocol, or when its last handle is dropped; then
//! every stream gives an error. A stalled stream holds at most its window and blocks no other. Streams close each
//! direction by itself (`shutdown` sends an end of file; reading goes on); one that is dropped ends for its peer as well, which
//! [`Strict`] tells from an end of file.

pub mod dialled;
mod frames;
mod gathered;
pub mod in_step;
pub mod names;
pub mod peer;
mod session;
mod strict;

pub use frames::{Frames, read_frame, write_frame};
pub use session::{Session, Stream, header, opened};
pub use strict::Strict;

use std::time::Duration;

/// Streams open at once in one session.
pub const MAX_STREAMS: usize = 4096;
/// Bytes by which the receive windows of all streams together may outgrow their first 256 KiB each.
pub const WINDOW_GROWTH: usize = 64 << 20;
/// Bytes gathered before they are written to the channel.
pub const WRITE_BUFFER: usize = 128 * 1024;
/// Bytes read from the channel at a time.
pub const READ_BUFFER: usize = 64 * 1024;
/// Streams that the peer opened and nobody has accepted yet.
pub const ACCEPT_BACKLOG: usize = 256;
/// Time in which the header of an incoming stream must arrive.
pub const HEADER_LIMIT: Duration = Duration::from_secs(10);

/// What goes wrong on a link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The channel to the other end.
    #[error("the link's channel: {0}")]
    Io(#[from] std::io::Error),
    /// The multiplexer.
    #[error("the link's session broke: {0}")]
    Broken(#[from] yamux::ConnectionError),
    /// A frame that is no good.
    #[error("the link: {0}")]
    Frame(#[from] wire::frame::FrameError),
    /// The session is over.
    #[error("the link's session is over")]
    Closed,
    /// The other end never came into step.
    #[error("the other end of the link does not answer")]
    NoAnswer,
    /// The other end could not serve the stream.
    #[error("{0}")]
    Refused(String),
}

impl LinkError {
    /// A word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io(_) => "link_io",
            Self::Broken(_) => "link_broken",
            Self::Frame(_) => "link_frame",
            Self::Closed => "link_closed",
            Self::NoAnswer => "link_no_answer",
            Self::Refused(_) => "refused",
        }
    }
}
