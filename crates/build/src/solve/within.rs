//! Parts of a step's work that BuildKit does in steps of their own, and that are told as such: texts of the Dockerfile, folders of cache
//! mounts.

use std::sync::{Arc, Mutex};

use super::Solver;
use crate::graph::{CopySource, MountKind, Op};
use crate::progress::{Progress, Step};
use crate::worker::Worker;

/// Permission bits of files that stand in the Dockerfile.
const INLINE_MODE: u32 = 0o644;
/// BuildKit's name of the step that makes such a file.
const INLINE: &str = "[internal] preparing inline document";
/// BuildKit's name of the step that makes the folder of a cache mount.
const CACHE_ACCESS: &str = "[internal] setting cache mount permissions";

/// Such parts of an op: the step's name, and what it does.
pub(super) fn of(op: &Op) -> Vec<(&'static str, String)> {
    let text = |name: &str, data: &str, mode: u32| (INLINE, format!("{mode:o} {name:?} {data}"));
    match op {
        Op::Copy(copy) => {
            let inline = copy.steps.iter().filter_map(|step| match &step.from {
                CopySource::Inline { name, data } => Some(text(name, data, INLINE_MODE)),
                CopySource::Tree { .. } => None,
            });
            inline.collect()
        }
        Op::Exec(exec) => {
            let inline = exec.mounts.iter().filter_map(|mount| match &mount.kind {
                MountKind::Inline { name, data, mode } => Some(text(name, data, *mode)),
                MountKind::Cache { access: Some(access), .. } => {
                    Some((CACHE_ACCESS, format!("{:o} {} {}", access.mode, access.uid, access.gid)))
                }
                _ => None,
            });
            inline.collect()
        }
        _ => Vec::new(),
    }
}

/// A part of a step's work that is told as a step of its own ([`of`]).
pub(super) struct Within {
    pub(super) digest: String,
    step: Mutex<Step>,
}

impl Within {
    pub(super) fn announced(progress: &Arc<Progress>, digest: &str, name: &str) -> Arc<Self> {
        let step = progress.step(digest.to_owned(), name.to_owned(), Vec::new());
        step.announce();
        Arc::new(Self { digest: digest.to_owned(), step: Mutex::new(step) })
    }

    fn with_step(&self, change: impl FnOnce(&mut Step)) {
        change(&mut self.step.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    /// What stands for it is known.
    pub(super) fn is_known(&self) {
        self.with_step(|step| {
            step.start();
            step.complete(None);
        });
    }

    /// A step needs what it makes.
    pub(super) fn is_needed<W: Worker>(&self, solver: &Solver<W>) {
        if solver.is_found(&self.digest) {
            self.with_step(Step::cached);
        }
    }
}
