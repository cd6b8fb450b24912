//! Steps that put files into a tree, and the digest of files that steps read.

use std::sync::Arc;

use futures_util::future::try_join_all;
use rustix::fs::Timespec;
use sha2::{Digest as _, Sha256};

use super::{Node, Solve, only_folder};
use crate::Error;
use crate::error::Kind;
use crate::files::attributes::resolve_owner;
use crate::files::copy::{Copier, is_archive, reader};
use crate::files::{Root, digest, is_dir, select};
use crate::graph::{Copy, CopySource, CopyStep, MountKind, Op, Owner, Slot};
use crate::hex;
use crate::patterns::Patterns;
use crate::session::Index;
use crate::worker::{StopOnDrop, Tree, View, Worker};

/// Which paths below a source a step takes.
type Taken = Box<dyn Fn(&str, bool) -> bool + Send>;

fn taken(step: &CopyStep) -> Result<Taken, Error> {
    if step.include.is_empty() && step.exclude.is_empty() {
        return Ok(Box::new(|_, _| true));
    }
    let read = |patterns: &[String]| Patterns::new(patterns).map_err(Error::invalid);
    let (include, exclude) = (read(&step.include)?, read(&step.exclude)?);
    Ok(Box::new(move |path, _| (include.is_empty() || include.matches(path)) && !exclude.matches(path)))
}

/// Something read: of which tree, which path, how it is looked up, and which of it.
struct Reading {
    tree: usize,
    path: String,
    wildcard: bool,
    follow: bool,
    allow_empty: bool,
    step: CopyStep,
}

impl<W: Worker> Solve<W> {
    /// Digest of all that a step reads of the inputs that do not stand under it.
    pub(super) async fn content(&self, node: &Node) -> Result<String, Error> {
        let mut readings = Vec::new();
        let mut slots: Vec<Slot> = Vec::new();
        let mut place = |slot: Slot| {
            slots.iter().position(|s| *s == slot).unwrap_or_else(|| {
                slots.push(slot);
                slots.len() - 1
            })
        };
        match &node.vertex.op {
            Op::Copy(copy) => {
                for step in &copy.steps {
                    let CopySource::Tree { from: Some(from), path } = &step.from else { continue };
                    readings.push(Reading {
                        tree: place(*from),
                        path: path.clone(),
                        wildcard: step.wildcard,
                        follow: step.follow_links,
                        allow_empty: step.allow_empty,
                        step: step.clone(),
                    });
                }
            }
            Op::Exec(exec) => {
                for mount in &exec.mounts {
                    let MountKind::Bind { from: Some(from), source, .. } = &mount.kind else { continue };
                    readings.push(Reading {
                        tree: place(*from),
                        path: source.clone(),
                        wildcard: false,
                        follow: true,
                        allow_empty: false,
                        step: CopyStep::default(),
                    });
                }
            }
            _ => {}
        }
        let trees = try_join_all(slots.into_iter().map(|slot| async move {
            let tree = self.result(self.input(node, slot)?).await?;
            self.here(&tree).await?;
            Ok::<_, Error>(tree)
        }))
        .await?;
        let indexes: Vec<Option<Arc<Index>>> =
            trees.iter().map(|t| only_folder(t).and_then(|f| self.index(f))).collect();
        self.solver
            .builder
            .worker
            .view(None, trees, move |view| {
                let mut hasher = Sha256::new();
                for reading in &readings {
                    let taken = taken(&reading.step)?;
                    let found = sources(&view.read[reading.tree], reading)?;
                    hasher.update((found.len() as u64).to_le_bytes());
                    for source in &found {
                        digest::add(&mut hasher, source, &taken, indexes[reading.tree].as_deref())?;
                    }
                }
                Ok(hex(&hasher.finalize()))
            })
            .await
    }

    /// Puts files onto a tree.
    pub(super) async fn copy(
        &self,
        copy: &Copy,
        base: &Tree,
        inputs: &[Tree],
        draft: &W::Draft,
    ) -> Result<(), Error> {
        let stop = StopOnDrop::default();
        let (stopped, copy, builder) = (stop.0.clone(), copy.clone(), self.solver.builder.clone());
        let work = move |view: View| {
            let to = view.write.ok_or_else(|| Error::invalid("no layer to write to"))?;
            for step in &copy.steps {
                one(&to, &view.read, step, &stopped, &|input| builder.worker.decompress(input))?;
            }
            Ok(())
        };
        self.solver.builder.worker.view(Some((base, draft)), inputs.to_vec(), work).await
    }

    /// Makes a folder.
    pub(super) async fn mkdir(
        &self,
        base: &Tree,
        draft: &W::Draft,
        path: String,
        mode: u32,
        owner: Option<Owner>,
        time: Option<i64>,
    ) -> Result<(), Error> {
        let work = move |view: View| {
            let to = view.write.ok_or_else(|| Error::invalid("no layer to write to"))?;
            let owner = owner.map(|o| resolve_owner(&to, &o)).transpose()?;
            let copier = Copier {
                to: &to,
                owner,
                chmod: None,
                time: time.map(seconds),
                contents_only: false,
                taken: &|_, _| true,
                stop: &std::sync::atomic::AtomicBool::new(false),
                links: Default::default(),
            };
            copier.make_dirs_as(&path, mode).map(drop)
        };
        self.solver.builder.worker.view(Some((base, draft)), Vec::new(), work).await
    }
}

fn seconds(seconds: i64) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: 0 }
}

fn sources(root: &Root, reading: &Reading) -> Result<Vec<crate::files::Found>, Error> {
    let found = select(root, &reading.path, reading.wildcard, reading.follow)
        .map_err(|e| e.context(format!("failed to calculate checksum of ref {}", crate::random_id())))?;
    if found.is_empty() && !reading.allow_empty && reading.wildcard {
        let words = format!("lstat {}: no such file or directory", reading.path);
        return Err(Error::invalid(words).with_kind(Kind::NotFound));
    }
    Ok(found)
}

/// Undoes compression.
type Decompress<'a> =
    &'a dyn Fn(Box<dyn std::io::BufRead + Send>) -> std::io::Result<Box<dyn std::io::Read + Send>>;

fn one(
    to: &Root,
    trees: &[Root],
    step: &CopyStep,
    stop: &std::sync::atomic::AtomicBool,
    decompress: Decompress<'_>,
) -> Result<(), Error> {
    let owner = step.owner.as_ref().map(|o| resolve_owner(to, o)).transpose()?;
    let taken = taken(step)?;
    let mut copier = Copier {
        to,
        owner,
        chmod: step.chmod.as_ref(),
        time: step.time.map(seconds),
        contents_only: step.contents_only,
        taken: &taken,
        stop,
        links: Default::default(),
    };
    let (from, path) = match &step.from {
        CopySource::Inline { name, data } => return copier.inline(name, data.as_bytes(), &step.dest),
        // Of `scratch` there is the root alone, and nothing in it.
        CopySource::Tree { from: None, path } if path.trim_matches('/').is_empty() => {
            return copier.make_dirs(&step.dest).map(drop);
        }
        CopySource::Tree { from: None, path } => {
            return Err(Error::invalid(format!("{path:?}: not found")).with_kind(Kind::NotFound));
        }
        CopySource::Tree { from: Some(slot), path } => {
            (trees.get(slot.0).ok_or_else(|| Error::invalid("a step without its input"))?, path)
        }
    };
    let found = select(from, path, step.wildcard, step.follow_links)?;
    if found.is_empty() && !step.allow_empty {
        return Err(Error::invalid(format!("{path} not found")).with_kind(Kind::NotFound));
    }
    for required in &step.required {
        select(from, required, false, false)?;
    }
    for source in &found {
        // Names of one file are one file below a source, not in several: as with BuildKit.
        copier.links.clear();
        if step.unpack && !is_dir(&source.stat) {
            let regular =
                rustix::fs::FileType::from_raw_mode(source.stat.st_mode) == rustix::fs::FileType::RegularFile;
            let archive = regular && decompress(Box::new(reader(source)?)).is_ok_and(is_archive);
            if archive {
                let plain = decompress(Box::new(reader(source)?))
                    .map_err(|e| Error::invalid(format!("unpack {}: {e}", source.path)))?;
                copier.unpack(plain, &step.dest)?;
                continue;
            }
        }
        copier.copy(source, &step.dest)?;
    }
    Ok(())
}
