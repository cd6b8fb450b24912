//! Builds under way: what joins `Control/Solve`, `Control/Status` and the calls of the frontend that runs in the client.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard_buildkit_proto::pb;
use tokio::sync::watch;

use crate::builder::Builder;
use crate::error::Error;
use crate::frontend::{self, Outcome};
use crate::graph::Target;
use crate::progress::Progress;
use crate::rpc::{Code, Status};
use crate::solve::host::Answers;
use crate::solve::{Context, Solver};
use crate::worker::{Tree, Worker};

/// How long a call waits for the build it names: a client makes both at once.
const ARRIVAL: Duration = Duration::from_secs(5);
/// How long what was told of a build that has ended can be asked for: a client asks beside the build, and may be late.
const LATE: Duration = Duration::from_secs(10);
/// Most refs of one build.
const REFS: usize = 4096;

/// What a solve request made, for one platform.
#[derive(Clone)]
pub struct Solved {
    /// Its file system.
    pub tree: Tree,
    /// What a scanner said of it: a folder of statements.
    pub sbom: Option<Tree>,
    /// What was asked for; `None` for one that came of a definition alone.
    pub target: Option<Arc<Target>>,
}

/// What a build comes to.
#[derive(Clone, Default)]
pub struct Returned {
    /// What was made, one for each platform.
    pub solved: Vec<Solved>,
    /// A list of platforms, also of one.
    pub multi_platform: bool,
    /// What the client put in the result.
    pub metadata: HashMap<String, Vec<u8>>,
}

/// A build under way.
pub struct Job<W: Worker> {
    /// The client's name of it.
    pub reference: String,
    /// What is told of it.
    pub progress: Arc<Progress>,
    /// Its work.
    pub solver: Arc<Solver<W>>,
    /// What was made so far, by the id that clients have of it.
    refs: Mutex<HashMap<String, (Solved, bool)>>,
    returned: watch::Sender<Option<Result<Returned, Status>>>,
    /// What was built last.
    graph: Mutex<Option<Arc<crate::graph::Graph>>>,
}

/// Leaves the list of builds when it is dropped.
pub struct Listed<W: Worker> {
    /// The build.
    pub job: Arc<Job<W>>,
    builder: Arc<Builder<W>>,
}

impl<W: Worker> Drop for Listed<W> {
    fn drop(&mut self) {
        self.job.progress.end();
        let (builder, reference) = (self.builder.clone(), self.job.reference.clone());
        builder.lock_jobs().remove(&reference);
        builder.lock_ended().insert(reference.clone(), self.job.progress.clone());
        tokio::spawn(async move {
            tokio::time::sleep(LATE).await;
            builder.lock_ended().remove(&reference);
        });
    }
}

/// An answer of the frontend.
pub enum Answered {
    /// Refs of what was made, with their platforms; whether it is a list.
    Refs(Vec<(String, Solved)>, bool),
    /// An answer to a question.
    Metadata(BTreeMap<String, Vec<u8>>),
}

impl<W: Worker> Builder<W> {
    /// Begins a build.
    ///
    /// # Errors
    /// When one of this name is under way.
    pub fn begin(self: &Arc<Self>, reference: &str, context: Context) -> Result<Listed<W>, Status> {
        let progress = Arc::new(Progress::default());
        let job = Arc::new(Job {
            reference: reference.to_owned(),
            progress: progress.clone(),
            solver: Solver::new(self.clone(), progress, context),
            refs: Mutex::default(),
            returned: watch::Sender::default(),
            graph: Mutex::default(),
        });
        let mut jobs = self.lock_jobs();
        if jobs.contains_key(reference) {
            return Err(Status::new(Code::FailedPrecondition, format!("job ID {reference} exists")));
        }
        jobs.insert(reference.to_owned(), job.clone());
        drop(jobs);
        self.changed.send_modify(|n| *n += 1);
        Ok(Listed { job, builder: self.clone() })
    }

    /// What is told of the build of this name, which may be about to begin or have just ended.
    ///
    /// # Errors
    /// When there is none.
    pub async fn progress(&self, reference: &str) -> Result<Arc<Progress>, Status> {
        let ended = || self.lock_ended().get(reference).cloned();
        if let Some(progress) = ended() {
            return Ok(progress);
        }
        let mut changed = self.changed.subscribe();
        let find = async {
            loop {
                changed.borrow_and_update();
                let running = self.lock_jobs().get(reference).map(|job| job.progress.clone());
                // A build that fails at once may be over before anybody has looked.
                if let Some(progress) = running.or_else(ended) {
                    return Some(progress);
                }
                changed.changed().await.ok()?;
            }
        };
        let none = || Status::new(Code::NotFound, format!("no such job {reference}"));
        tokio::time::timeout(ARRIVAL, find).await.ok().flatten().ok_or_else(none)
    }

    /// What a ref of any build under way stands for, and what keeps it.
    pub(crate) fn find_ref(&self, id: &str) -> Option<(Tree, Arc<Solver<W>>)> {
        let jobs: Vec<Arc<Job<W>>> = self.lock_jobs().values().cloned().collect();
        jobs.iter().find_map(|job| Some((job.find_ref(id).ok()?.0.tree, job.solver.clone())))
    }

    /// The build of this name, which may be about to begin.
    ///
    /// # Errors
    /// When there is none.
    pub async fn job(&self, reference: &str) -> Result<Arc<Job<W>>, Status> {
        let mut changed = self.changed.subscribe();
        let find = async {
            loop {
                changed.borrow_and_update();
                let found = self.lock_jobs().get(reference).cloned();
                if found.is_some() {
                    return found;
                }
                changed.changed().await.ok()?;
            }
        };
        let none = || Status::new(Code::NotFound, format!("no such job {reference}"));
        tokio::time::timeout(ARRIVAL, find).await.ok().flatten().ok_or_else(none)
    }
}

impl<W: Worker> Job<W> {
    /// Does what the frontend `dockerfile.v0` makes of these options.
    ///
    /// # Errors
    /// The build's.
    pub async fn dockerfile(&self, options: &BTreeMap<String, String>) -> Result<Answered, Error> {
        let answers = Answers::new(self.solver.clone());
        let graph = match frontend::solve(options, &answers).await? {
            Outcome::Answer(metadata) => return Ok(Answered::Metadata(metadata)),
            Outcome::Build(graph) => graph,
        };
        let graph: Arc<crate::graph::Graph> = Arc::from(graph);
        *self.graph.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(graph.clone());
        crate::control::warn(&self.progress, &graph);
        let made = self.solver.solve(&graph).await?;
        let list = graph.multi_platform;
        let solved = graph.results.iter().cloned().zip(made).map(|(target, made)| {
            let solved = Solved { tree: made.tree, sbom: made.sbom, target: Some(Arc::new(target)) };
            (self.add_ref(solved.clone(), list), solved)
        });
        Ok(Answered::Refs(solved.collect(), list))
    }

    /// What was built last.
    pub(crate) fn graph(&self) -> Option<Arc<crate::graph::Graph>> {
        self.graph.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Does what a definition in LLB says; gives the ref of its result.
    ///
    /// # Errors
    /// Those of [`Solver::definition`].
    pub(crate) async fn definition(&self, definition: &pb::Definition) -> Result<(String, Solved), Error> {
        let solved = Solved { tree: self.solver.definition(definition).await?, sbom: None, target: None };
        Ok((self.add_ref(solved.clone(), false), solved))
    }

    fn add_ref(&self, solved: Solved, list: bool) -> String {
        let id = crate::random_id();
        let mut refs = self.refs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if refs.len() < REFS {
            refs.insert(id.clone(), (solved, list));
        }
        id
    }

    /// What an id stands for, and whether it is one of a list.
    ///
    /// # Errors
    /// When it is nobody's.
    pub fn find_ref(&self, id: &str) -> Result<(Solved, bool), Status> {
        let refs = self.refs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let none = || Status::new(Code::NotFound, format!("no such ref: {id}"));
        refs.get(id).cloned().ok_or_else(none)
    }

    /// The frontend in the client has ended.
    pub fn give(&self, result: Result<Returned, Status>) {
        self.returned.send_replace(Some(result));
    }

    /// Waits for it.
    ///
    /// # Errors
    /// The frontend's.
    pub async fn returned(&self) -> Result<Returned, Status> {
        let mut returned = self.returned.subscribe();
        let ended = |_| Status::new(Code::Cancelled, "the build was given up");
        let result = returned.wait_for(Option::is_some).await.map_err(ended)?.clone();
        result.unwrap_or_else(|| Ok(Returned::default()))
    }
}
