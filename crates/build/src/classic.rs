//! Builds of dockerd's classic builder (`POST /build` without BuildKit): the client's files come with the request, and
//! what happens is told as text, instruction by instruction.
//!
//! The work is the same as for BuildKit's clients: same conversion, same steps, same cache. Steps that nothing of the
//! target needs are not done, and there are no images between the instructions, so that ids are told only of the images
//! that stages begin with and of the one that was built.

mod show;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;

use self::show::Show;
use crate::Error;
use crate::builder::Builder;
use crate::error::Kind;
use crate::frontend::{self, Host, ImageRequest, Outcome, ResolvedImage};
use crate::graph::{Graph, Vertex};
use crate::jobs::{Returned, Solved};
use crate::patterns::Patterns;
use crate::platform::Platform;
use crate::rpc::Status;
use crate::solve::Context;
use crate::solve::host::Answers;
use crate::solve::source::Temporary;
use crate::worker::{Credentials, Limits, MadeImage, Worker};

/// Digits of an id, as Docker shows it.
const SHORT: usize = 12;
/// Deepest folder of a context that is gone into.
const DEPTH: usize = 1024;

/// A context that came with a request: a folder of the build's own, which goes with it.
pub struct Unpacked {
    place: Temporary,
    /// Patterns that were carried out, one after the other.
    excluded: tokio::sync::Mutex<HashSet<Vec<String>>>,
}

impl Unpacked {
    /// An empty one.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn new<W: Worker>(builder: &Builder<W>) -> Result<Self, Error> {
        let place = builder.root.join("local").join(format!("new-{}", crate::random_id()));
        std::fs::create_dir_all(place.join("files")).map_err(|e| {
            Error::invalid(format!("make room for the context: {e}")).with_kind(Kind::Unknown)
        })?;
        Ok(Self { place: Temporary(place), excluded: tokio::sync::Mutex::default() })
    }

    /// Where its files are.
    pub fn folder(&self) -> PathBuf {
        self.place.0.join("files")
    }

    /// Removes what `.dockerignore` leaves out: clients may have sent it all the same.
    pub(crate) async fn exclude(&self, patterns: &[String]) -> Result<(), Error> {
        let mut excluded = self.excluded.lock().await;
        if patterns.is_empty() || excluded.contains(patterns) {
            return Ok(());
        }
        let (folder, list) = (self.folder(), patterns.to_vec());
        let work = move || -> Result<(), Error> {
            let patterns = Patterns::new(&list).map_err(Error::invalid)?;
            remove(&folder, "", &patterns, 0)
                .map_err(|e| Error::invalid(format!(".dockerignore: {e}")).with_kind(Kind::Unknown))
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::invalid(e.to_string()))??;
        excluded.insert(patterns.to_vec());
        Ok(())
    }
}

/// Removes what matches, and folders that match and have nothing left. Nobody else writes to the folder.
fn remove(folder: &Path, path: &str, patterns: &Patterns, depth: usize) -> std::io::Result<()> {
    if depth > DEPTH {
        return Err(std::io::Error::other(format!("more than {DEPTH} folders below each other")));
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let below = if path.is_empty() { name } else { format!("{path}/{name}") };
        let matches = patterns.matches(&below);
        if !entry.file_type()?.is_dir() {
            if matches {
                std::fs::remove_file(entry.path())?;
            }
        } else if matches && patterns.may_skip(&below) {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            remove(&entry.path(), &below, patterns, depth + 1)?;
            if matches && std::fs::read_dir(entry.path())?.next().is_none() {
                std::fs::remove_dir(entry.path())?;
            }
        }
    }
    Ok(())
}

/// What is to be built.
#[derive(Default)]
pub struct Order {
    /// Options of the Dockerfile frontend.
    pub options: BTreeMap<String, String>,
    /// The client's files; `None` where `options` name a context elsewhere.
    pub context: Option<Unpacked>,
    /// What is allowed: see [`Context::entitlements`].
    pub entitlements: Vec<String>,
    /// What each step's program may use.
    pub limits: Limits,
    /// The network of its steps: see [`Context::network`].
    pub network: String,
    /// For registries.
    pub credentials: Credentials,
    /// Names of the image.
    pub names: Vec<String>,
}

/// Something the client is told, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Text.
    Text(String),
    /// What a step's program wrote to stderr.
    Stderr(String),
}

/// Builds; tells of it as it goes on, or nothing where the order or the Dockerfile is wrong.
///
/// # Errors
/// The build's. That of a step's program has [`Error::exit`].
pub async fn build<W: Worker>(
    builder: &Arc<Builder<W>>,
    order: Order,
    tell: &mpsc::Sender<Told>,
) -> Result<MadeImage, Error> {
    let Order { options, context, entitlements, limits, network, credentials, names } = order;
    let names = names.iter().map(|n| builder.worker.full_name(n)).collect::<Result<Vec<_>, _>>()?;
    let context = Context {
        entitlements,
        limits,
        network,
        folder: context.map(Arc::new),
        credentials: Arc::new(credentials),
        ..Context::default()
    };
    let listed = builder.begin(&crate::random_id(), context).map_err(of_status)?;
    let job = &listed.job;
    let asked = Asked { answers: Answers::new(job.solver.clone()), seen: Mutex::default() };
    let graph = match frontend::solve(&options, &asked).await {
        Ok(Outcome::Build(graph)) => *graph,
        Ok(Outcome::Answer(_)) => return Err(Error::invalid("a question is not a build")),
        Err(e) => {
            // An image that cannot be had is told of as the first stage's failure, after its instruction.
            let seen = asked.seen.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            if seen.no_image {
                let graph = Graph {
                    source: crate::graph::Source { data: seen.dockerfile, ..Default::default() },
                    ..Graph::default()
                };
                let target = options.get("target").map_or("", String::as_str);
                if let Ok(mut show) = Show::new(&graph, target) {
                    let failed = e.lines.first().and_then(|l| l.first()).map_or(1, |r| r.start);
                    show.begin_at(failed);
                    send(tell, &mut show).await;
                }
            }
            return Err(e);
        }
    };
    let mut show = Show::new(&graph, options.get("target").map_or("", String::as_str))?;
    let trees = {
        let events = job.progress.stream();
        let solve = job.solver.solve(&graph);
        tokio::pin!(events, solve);
        let done = loop {
            tokio::select! {
                done = &mut solve => break done,
                Some(Ok(event)) = events.next() => {
                    show.take(&event);
                    send(tell, &mut show).await;
                }
            }
        };
        // What was told before the end, and is not read yet.
        while let Some(Some(Ok(event))) = events.next().now_or_never() {
            show.take(&event);
        }
        done
    };
    let trees = match trees {
        Ok(trees) => trees,
        Err(e) => {
            show.failed();
            send(tell, &mut show).await;
            return Err(e);
        }
    };
    let solved = graph.results.iter().zip(trees);
    let one = |(t, made): (&crate::graph::Target, crate::solve::Made)| Solved {
        tree: made.tree,
        sbom: None,
        target: Some(Arc::new(t.clone())),
    };
    let solved = solved.map(one).collect();
    let returned = Returned { solved, multi_platform: graph.multi_platform, metadata: HashMap::new() };
    show.all_but_last();
    send(tell, &mut show).await;
    let made = crate::export::image(builder, job, &returned, &names).await.map_err(of_status)?;
    show.last(&made.digest);
    let given = options.keys().filter_map(|k| k.strip_prefix("build-arg:"));
    show.unused(given.collect());
    send(tell, &mut show).await;
    Ok(made)
}

async fn send(tell: &mpsc::Sender<Told>, show: &mut Show) {
    for told in show.out.drain(..) {
        // Nobody listens when the build is being given up.
        let _ = tell.send(told).await;
    }
}

fn of_status(status: Status) -> Error {
    Error::invalid(status.message).with_kind(Kind::Unknown)
}

/// The first characters of an id, without its algorithm.
pub fn short(id: &str) -> &str {
    let id = id.split_once(':').map_or(id, |(_, hex)| hex);
    id.get(..SHORT).unwrap_or(id)
}

/// The executor's answers to the frontend, and what of them is needed to tell of a failure.
struct Asked<W: Worker> {
    answers: Answers<W>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    dockerfile: Vec<u8>,
    no_image: bool,
}

impl<W: Worker> Asked<W> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<W: Worker> Host for Asked<W> {
    async fn read_files(&self, steps: &[Vertex], paths: &[String]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let read = self.answers.read_files(steps, paths).await?;
        // The Dockerfile is what is asked for first.
        if let Some(first) = read.iter().flatten().next() {
            let mut seen = self.lock();
            if seen.dockerfile.is_empty() {
                seen.dockerfile.clone_from(first);
            }
        }
        Ok(read)
    }

    async fn resolve_image(&self, request: ImageRequest) -> Result<ResolvedImage, Error> {
        let found = self.answers.resolve_image(request).await;
        self.lock().no_image |= found.is_err();
        found
    }

    fn platforms(&self) -> Vec<Platform> {
        self.answers.platforms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_goes_but_for_exceptions() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/b/keep", "a/b/drop", "c/d/e", "f"] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
        let patterns = Patterns::new(&["a", "!a/b/keep", "c", "link"]).unwrap();
        remove(dir.path(), "", &patterns, 0).unwrap();
        let there = |path: &str| dir.path().join(path).symlink_metadata().is_ok();
        assert!(there("a/b/keep") && there("f"));
        assert!(!there("a/b/drop") && !there("c") && !there("link"));
    }
}
