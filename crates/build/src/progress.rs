//! What clients are told while a build goes on: steps, their output, how far transfers are.
//!
//! All of it is kept until the build has ended, so that who asks late sees it from the beginning, and again for as long
//! as the build is in the history.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1 as control;
use control::{StatusResponse, VertexLog, VertexStatus, VertexWarning};
use futures_util::Stream;
use tokio::sync::watch;

use crate::rpc::Status;

/// Most output of one step that is passed on, in bytes: as BuildKit's.
const LOG_LIMIT: usize = 2 << 20;

/// Now, as messages carry it.
pub fn now() -> Timestamp {
    timestamp(SystemTime::now())
}

/// A time as messages carry it.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// What is told of one build.
#[derive(Default)]
pub struct Progress {
    told: Mutex<Told>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Told {
    events: Vec<Arc<StatusResponse>>,
    ended: bool,
    warnings: i32,
    /// Steps that were begun or found, by digest: whether they have ended well, and whether they were found.
    steps: HashMap<String, (bool, bool)>,
}

/// Numbers for the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Steps begun or found.
    pub steps: i32,
    /// Steps that were found in the cache.
    pub cached: i32,
    /// Steps that ended well.
    pub completed: i32,
    /// Warnings.
    pub warnings: i32,
}

impl Progress {
    /// What was told of a build before, to be told again.
    pub fn replay(events: Vec<StatusResponse>) -> Self {
        let told =
            Told { events: events.into_iter().map(Arc::new).collect(), ended: true, ..Told::default() };
        Self { told: Mutex::new(told), changed: watch::Sender::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn tell(&self, event: StatusResponse) {
        let mut told = self.lock();
        if told.ended {
            return;
        }
        for vertex in &event.vertexes {
            let step = told.steps.entry(vertex.digest.clone()).or_default();
            step.0 |= vertex.completed.is_some() && vertex.error.is_empty();
            step.1 |= vertex.cached;
        }
        told.warnings += i32::try_from(event.warnings.len()).unwrap_or(0);
        told.events.push(Arc::new(event));
        drop(told);
        self.changed.send_modify(|n| *n += 1);
    }

    /// Nothing more will be told.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.send_modify(|n| *n += 1);
    }

    /// Whether a step of this digest has been told of.
    pub fn knows(&self, digest: &str) -> bool {
        self.lock().steps.contains_key(digest)
    }

    /// All that was told.
    pub fn events(&self) -> Vec<Arc<StatusResponse>> {
        self.lock().events.clone()
    }

    /// Counts for the history.
    pub fn counts(&self) -> Counts {
        let told = self.lock();
        let count = |fits: fn(&&(bool, bool)) -> bool| {
            i32::try_from(told.steps.values().filter(fits).count()).unwrap_or(i32::MAX)
        };
        Counts {
            steps: count(|_| true),
            cached: count(|(_, cached)| *cached),
            completed: count(|(done, _)| *done),
            warnings: told.warnings,
        }
    }

    /// All from the beginning, then what is told, until the end.
    pub fn stream(self: &Arc<Self>) -> impl Stream<Item = Result<StatusResponse, Status>> + Send + 'static {
        let state = (self.clone(), self.changed.subscribe(), 0);
        futures_util::stream::unfold(state, |(progress, mut changed, at)| async move {
            loop {
                changed.borrow_and_update();
                let (fresh, ended) = {
                    let told = progress.lock();
                    (told.events.get(at..).unwrap_or_default().to_vec(), told.ended)
                };
                if !fresh.is_empty() {
                    let next = at + fresh.len();
                    let mut all = StatusResponse::default();
                    for event in &fresh {
                        all.vertexes.extend(event.vertexes.iter().cloned());
                        all.statuses.extend(event.statuses.iter().cloned());
                        all.logs.extend(event.logs.iter().cloned());
                        all.warnings.extend(event.warnings.iter().cloned());
                    }
                    return Some((Ok(all), (progress, changed, next)));
                }
                if ended || changed.changed().await.is_err() {
                    return None;
                }
            }
        })
    }

    /// Warns, as build checks do.
    pub fn warn(&self, warning: VertexWarning) {
        self.tell(StatusResponse { warnings: vec![warning], ..Default::default() });
    }

    /// Tells of a step that has not begun.
    pub fn step(self: &Arc<Self>, digest: String, name: String, inputs: Vec<String>) -> Step {
        let vertex = control::Vertex { digest, name, inputs, ..Default::default() };
        Step { progress: self.clone(), vertex, ended: false, logged: Mutex::default() }
    }

    /// Begins a part of the step of this digest.
    pub fn part_of(self: &Arc<Self>, vertex: &str, id: &str) -> Part {
        let part = Part {
            progress: self.clone(),
            status: VertexStatus {
                id: id.to_owned(),
                vertex: vertex.to_owned(),
                name: id.to_owned(),
                started: Some(now()),
                ..Default::default()
            },
        };
        part.at(0, 0);
        part
    }

    /// Begins a step of the engine's own.
    pub fn begin(self: &Arc<Self>, name: &str) -> Step {
        use sha2::Digest;
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let digest = crate::hex(&sha2::Sha256::digest(format!("{name} {number}")));
        let mut step = self.step(digest, name.to_owned(), Vec::new());
        step.start();
        step
    }
}

/// One step, as clients see it. One that is dropped before it ended was cancelled.
pub struct Step {
    progress: Arc<Progress>,
    vertex: control::Vertex,
    ended: bool,
    logged: Mutex<usize>,
}

impl Step {
    /// Tells that it is there, and will perhaps be done.
    pub fn announce(&self) {
        let event = StatusResponse { vertexes: vec![self.vertex.clone()], ..Default::default() };
        self.progress.tell(event);
    }

    /// It begins.
    pub fn start(&mut self) {
        if self.vertex.started.is_none() {
            self.vertex.started = Some(now());
            self.announce();
        }
    }

    /// It begins once more: what stands for it was told before what it makes is made.
    pub fn again(&mut self) {
        self.ended = false;
        self.vertex.started = Some(now());
        self.vertex.completed = None;
        self.announce();
    }

    /// It need not be done; of a source this is told after it was found out what stands for it.
    pub fn cached(&mut self) {
        self.ended = true;
        self.vertex.cached = true;
        let now = now();
        self.vertex.started = Some(now);
        self.vertex.completed = Some(now);
        self.announce();
    }

    /// It has ended; with words where it failed.
    pub fn complete(&mut self, error: Option<&str>) {
        if self.ended {
            return;
        }
        self.ended = true;
        self.vertex.started.get_or_insert_with(now);
        self.vertex.completed = Some(now());
        self.vertex.error = error.unwrap_or_default().to_owned();
        self.announce();
    }

    /// Its digest.
    pub fn digest(&self) -> &str {
        &self.vertex.digest
    }

    /// Passes output on: 1 for stdout, 2 for stderr. What is more than a limit is left out, and that is said.
    pub fn log(&self, stream: i64, bytes: &[u8]) {
        let mut logged = self.logged.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let left = LOG_LIMIT.saturating_sub(*logged);
        if left == 0 {
            return;
        }
        *logged += bytes.len();
        let mut msg = bytes[..bytes.len().min(left)].to_vec();
        if msg.len() < bytes.len() {
            msg.extend_from_slice(b"\n[output clipped, log limit 2MiB reached]\n");
        }
        let log = VertexLog { vertex: self.vertex.digest.clone(), timestamp: Some(now()), stream, msg };
        self.progress.tell(StatusResponse { logs: vec![log], ..Default::default() });
    }

    /// Begins a part of it, such as a transfer.
    pub fn part(&self, id: &str) -> Part {
        self.progress.part_of(&self.vertex.digest, id)
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.vertex.started.is_some() {
            self.complete(Some("context canceled"));
        }
    }
}

/// A part of a step.
#[derive(Clone)]
pub struct Part {
    progress: Arc<Progress>,
    status: VertexStatus,
}

impl Part {
    /// How far it is.
    pub fn at(&self, current: u64, total: u64) {
        let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let status = VertexStatus {
            current: bytes(current),
            total: bytes(total),
            timestamp: Some(now()),
            ..self.status.clone()
        };
        self.progress.tell(StatusResponse { statuses: vec![status], ..Default::default() });
    }

    /// It is done.
    pub fn done(self, current: u64) {
        let current = i64::try_from(current).unwrap_or(i64::MAX);
        let status = VertexStatus { current, timestamp: Some(now()), completed: Some(now()), ..self.status };
        self.progress.tell(StatusResponse { statuses: vec![status], ..Default::default() });
    }
}
