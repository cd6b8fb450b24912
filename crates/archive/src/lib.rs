//! Hardened tar: reading, extraction inside a root folder, creation.
//!
//! Three steps, each usable alone:
//!
//! ```text
//! bytes --Reader--> Entry + data --extract--> files below one folder fd
//! folder --create--> bytes
//! ```
//!
//! * [`Reader`] parses v7, ustar, PAX and GNU archives with the precedence Go's `archive/tar` (and so Docker) has,
//!   so that an archive never means one thing to Docker and another to us (CVE-2025-62518 is about such a
//!   disagreement). It is our own because the `tar` crate 0.4.46 splits PAX records at newlines (binary xattr
//!   values hold newlines, and everything after one, `size` included, is lost), reads extension records of any
//!   size into memory and gives sparse files back as zeros. That crate still writes our headers.
//! * [`extract`] resolves every path with `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` below the folder it
//!   was given; it never follows a symbolic link in the last component, and sets modes and owners only through
//!   descriptors of what it made itself (CVE-2026-33056 is a chmod through a link).
//! * [`create`] walks a folder the same way and writes PAX where ustar does not suffice.
//!
//! There is no tokio here: callers run these functions on a thread that may block.

mod create;
mod error;
mod extract;
mod header;
mod ids;
mod path;
mod reader;

pub use create::{CreateOptions, Times, create, end, file};
pub use error::Error;
pub use extract::{ExtractOptions, Owner, Summary, Whiteouts, extract};
pub use header::{Entry, Kind, Segment, Sparse};
pub use ids::Ids;
pub use reader::{Limits, Reader};

/// Prefix of a file that stands for the removal of another, in a layer (OCI image-spec, `layer.md`).
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Name of the file that hides all a folder has in lower layers.
pub const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
/// Extended attribute by which overlayfs marks a folder that hides the lower ones.
pub const OVERLAY_OPAQUE: &str = "trusted.overlay.opaque";
