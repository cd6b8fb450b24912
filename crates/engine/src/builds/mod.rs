//! Building images: this engine as a worker of crate `build`.
//!
//! ```text
//! ROOT/build/local/      files of clients, from build to build
//! ROOT/build/mounts/     folders of cache mounts
//! EXEC_ROOT/build/       what lives as long as a step
//! ```
//! All of it is made when the first build comes: an engine that builds nothing has none.

mod run;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use build::builder::{Builder, Paths};
use build::session::Sessions;
use tokio::sync::OnceCell;

use crate::engine::Engine;
use crate::error::{Code, Error, Result};
pub use worker::{EngineWorker, HUB};

/// Beginning of the ids of containers that steps run in.
const PREFIX: &str = "build-";
/// What automatic collection of the build cache leaves, where the settings do not say: a share of the disk, but no
/// more than so many bytes.
const KEEP_SHARE: u64 = 10;
const KEEP_MOST: u64 = 100 << 30;

/// How long a start may take to end what an engine that died left running.
const LEFTOVERS: Duration = Duration::from_secs(5);

/// Builds of one engine.
#[derive(Default)]
pub struct Builds {
    /// Sessions of clients. They may come before anything is built.
    pub sessions: Arc<Sessions>,
    builder: OnceCell<Arc<Builder<EngineWorker>>>,
}

impl From<build::Error> for Error {
    fn from(e: build::Error) -> Self {
        let code = match e.kind {
            build::error::Kind::Invalid => Code::InvalidArgument,
            build::error::Kind::NotFound => Code::NotFound,
            build::error::Kind::Unsupported => Code::NotImplemented,
            build::error::Kind::Unknown => Code::Internal,
        };
        Self { code, message: e.message }
    }
}

impl From<Error> for build::Error {
    fn from(e: Error) -> Self {
        let kind = match e.code {
            Code::InvalidArgument => build::error::Kind::Invalid,
            Code::NotFound => build::error::Kind::NotFound,
            Code::NotImplemented => build::error::Kind::Unsupported,
            _ => build::error::Kind::Unknown,
        };
        build::Error::invalid(e.message).with_kind(kind)
    }
}

/// Ends steps that an engine that died left running. One that can't be ended in time waits for the next start: it holds
/// up nobody.
pub async fn end_leftovers(engine: &Engine) {
    if tokio::time::timeout(LEFTOVERS, run::end_leftovers(engine)).await.is_err() {
        tracing::warn!(
            "steps of an earlier engine did not end within {LEFTOVERS:?}; the next start tries again"
        );
    }
}

/// The builder of this engine, made when it is first asked for.
pub async fn builder(engine: &Arc<Engine>) -> Result<Arc<Builder<EngineWorker>>> {
    let open = || async {
        let paths = Paths {
            root: engine.paths.root.join("build"),
            scratch: engine.paths.exec_root.join("build"),
            db: engine.paths.root.join("coracle.db"),
        };
        let keep = rustix::fs::statvfs(&engine.paths.root)
            .map(|s| (s.f_blocks * s.f_frsize / KEEP_SHARE).min(KEEP_MOST))
            .unwrap_or(KEEP_MOST);
        let worker = EngineWorker::new(engine);
        Ok::<_, Error>(Builder::open(worker, paths, engine.builds.sessions.clone(), Some(keep)).await?)
    };
    engine.builds.builder.get_or_try_init(open).await.cloned()
}
