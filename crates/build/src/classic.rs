//! Builds of dockerd's classic builder (`POST /build` without BuildKit): the client's files come with the request, and
//! what happens is told as text, instruction by instruction.
//!
//! The work is the same as for BuildKit's clients: same conversion, same steps, same cache. Steps that nothing of the
//! target needs are not done, and there are no images between the instructions, so that ids are told only of the images
//! that stages begin with and of the one that was built.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bollard_buildkit_proto::moby::buildkit::v1 as proto;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;

use crate::Error;
use crate::builder::Builder;
use crate::checks::Checks;
use crate::dockerfile::stages::Stages;
use crate::dockerfile::{Command, parse, stages};
use crate::error::Kind;
use crate::frontend::{self, Host, ImageRequest, Outcome, ResolvedImage};
use crate::graph::{Graph, Op, Vertex};
use crate::jobs::{Returned, Solved};
use crate::patterns::Patterns;
use crate::platform::Platform;
use crate::rpc::Status;
use crate::solve::Context;
use crate::solve::host::Answers;
use crate::solve::source::Temporary;
use crate::worker::{Credentials, MadeImage, Worker};

/// Digits of an id, as Docker shows it.
const SHORT: usize = 12;
/// Deepest folder of a context that is gone into.
const DEPTH: usize = 1024;
/// Arguments that need no `ARG`.
const PREDEFINED: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY", "SOURCE_DATE_EPOCH"];

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
    let Order { options, context, entitlements, credentials, names } = order;
    let names = names.iter().map(|n| builder.worker.full_name(n)).collect::<Result<Vec<_>, _>>()?;
    let context = Context {
        entitlements,
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
    let solved = solved.map(|(t, tree)| Solved { tree, target: Some(Arc::new(t.clone())) }).collect();
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

/// One instruction.
struct Line {
    code: String,
    start: u32,
    /// Steps that carry it out, as progress calls them; none for what only changes the configuration.
    steps: Vec<String>,
    /// Where it is `FROM`: the image's id, empty for none.
    image: Option<String>,
}

/// What is known of a step.
#[derive(Default)]
struct Known {
    log: Vec<Told>,
    /// Lines that have not ended yet, of stdout and stderr.
    rest: [Vec<u8>; 2],
    ended: bool,
    cached: bool,
    failed: bool,
}

/// Instructions as the classic builder shows them: one after the other, whatever the order they are done in.
struct Show {
    lines: Vec<Line>,
    known: HashMap<String, Known>,
    /// The instruction that is being shown, and whether its head was.
    at: usize,
    begun: bool,
    declared: HashSet<String>,
    out: Vec<Told>,
}

impl Show {
    fn new(graph: &Graph, target: &str) -> Result<Self, Error> {
        let text = String::from_utf8_lossy(&graph.source.data).into_owned();
        let read = stages(&parse(&text)?, &mut Checks::default())?;
        let mut at: HashMap<u32, Vec<String>> = HashMap::new();
        let mut images: HashMap<u32, String> = HashMap::new();
        let mut known = HashMap::new();
        let digests = crate::solve::digests(&graph.vertices)?;
        for (vertex, digest) in graph.vertices.iter().zip(digests) {
            let Some(start) = vertex.lines.first().map(|l| l.start) else { continue };
            match &vertex.op {
                Op::Image { reference, .. } => {
                    let id = reference.rsplit_once('@').map(|(_, id)| id.to_owned());
                    images.insert(start, id.unwrap_or_default());
                }
                Op::Exec(_) | Op::Copy(_) | Op::Mkdir { .. } => {
                    known.insert(digest.clone(), Known::default());
                    at.entry(start).or_default().push(digest);
                }
                _ => {}
            }
        }
        let mut lines = Vec::new();
        let mut add = |code: &str, start: u32, from: bool| {
            let image = from.then(|| images.get(&start).cloned().unwrap_or_default());
            let steps = at.remove(&start).unwrap_or_default();
            lines.push(Line { code: code.to_owned(), start, steps, image });
        };
        for arg in &read.args {
            let words: Vec<String> = arg.args.iter().map(argument).collect();
            add(&format!("ARG {}", words.join(" ")), arg.lines.start, false);
        }
        for stage in &read.stages[..=last_stage(&read, target)] {
            add(&stage.code, stage.lines.start, true);
            for command in &stage.commands {
                add(&command.code, command.lines.start, false);
            }
        }
        let declared = declared(&read);
        Ok(Self { lines, known, at: 0, begun: false, declared, out: Vec::new() })
    }

    fn text(&mut self, text: String) {
        self.out.push(Told::Text(text));
    }

    /// Takes up what is told of steps, and shows what comes next of it.
    fn take(&mut self, event: &proto::StatusResponse) {
        for log in &event.logs {
            let Some(known) = self.known.get_mut(&log.vertex) else { continue };
            known.log(log.stream, &log.msg);
        }
        for vertex in &event.vertexes {
            let Some(known) = self.known.get_mut(&vertex.digest) else { continue };
            if vertex.completed.is_some() {
                known.ended = true;
                known.cached = vertex.cached;
                known.failed = !vertex.error.is_empty();
                known.flush();
            }
        }
        // The last one waits for the image.
        while self.at + 1 < self.lines.len() && self.one() {}
        if self.at + 1 == self.lines.len() {
            self.one_begins();
        }
    }

    /// Shows the head of the current instruction and what it has written.
    fn one_begins(&mut self) {
        let (Some(line), count) = (self.lines.get(self.at), self.lines.len()) else { return };
        if !self.begun {
            self.begun = true;
            self.out.push(Told::Text(format!("Step {}/{count} : {}\n", self.at + 1, line.code)));
        }
        for step in &line.steps {
            if let Some(known) = self.known.get_mut(step) {
                self.out.append(&mut known.log);
            }
        }
    }

    /// Shows as much of the current instruction as is known; whether it has ended well.
    fn one(&mut self) -> bool {
        self.one_begins();
        let Some(line) = self.lines.get(self.at) else { return false };
        let steps: Vec<&Known> = line.steps.iter().filter_map(|s| self.known.get(s)).collect();
        if !steps.iter().all(|s| s.ended && !s.failed) {
            return false;
        }
        let cached = !steps.is_empty() && steps.iter().all(|s| s.cached);
        let image = line.image.clone();
        if cached {
            self.text(" ---> Using cache\n".into());
        }
        if let Some(image) = image {
            self.text(format!(" ---> {}\n", short(&image)));
        }
        self.next();
        true
    }

    fn next(&mut self) {
        self.at += 1;
        self.begun = false;
    }

    /// Shows the head of the instruction in this line of the file.
    fn begin_at(&mut self, start: u32) {
        self.at = self.lines.iter().position(|l| l.start == start).unwrap_or(0);
        self.one_begins();
    }

    /// Shows the instruction that failed, with what it has written.
    fn failed(&mut self) {
        let failed =
            |l: &Line| l.steps.iter().any(|s| self.known.get(s).is_some_and(|k| k.failed && k.wrote()));
        let silent = |l: &Line| l.steps.iter().any(|s| self.known.get(s).is_some_and(|k| k.failed));
        let found = self.lines.iter().position(failed).or_else(|| self.lines.iter().position(silent));
        if let Some(found) = found.filter(|f| *f != self.at) {
            self.at = found;
            self.begun = false;
        }
        self.one_begins();
    }

    /// All steps have ended.
    fn all_but_last(&mut self) {
        while self.at + 1 < self.lines.len() {
            if !self.one() {
                self.next();
            }
        }
        self.one_begins();
    }

    /// The image is there.
    fn last(&mut self, id: &str) {
        let steps = self.lines.get(self.at).map(|l| l.steps.clone()).unwrap_or_default();
        let cached = |s: &String| self.known.get(s).is_some_and(|k| k.cached);
        if !steps.is_empty() && steps.iter().all(cached) {
            self.text(" ---> Using cache\n".into());
        }
        self.text(format!(" ---> {}\n", short(id)));
    }

    /// Says which build arguments nothing asks for.
    fn unused(&mut self, given: Vec<&str>) {
        let predefined = |name: &str| PREDEFINED.iter().any(|p| p.eq_ignore_ascii_case(name));
        let unused: Vec<&str> = given
            .into_iter()
            .filter(|n| !predefined(n) && !n.starts_with("BUILDKIT_") && !self.declared.contains(*n))
            .collect();
        if !unused.is_empty() {
            self.text(format!("[Warning] One or more build-args [{}] were not consumed\n", unused.join(" ")));
        }
    }
}

impl Known {
    fn wrote(&self) -> bool {
        !self.log.is_empty()
    }

    /// Keeps whole lines together, so that those of stdout and stderr do not mix.
    fn log(&mut self, stream: i64, bytes: &[u8]) {
        let rest = &mut self.rest[usize::from(stream == 2)];
        rest.extend_from_slice(bytes);
        if let Some(end) = rest.iter().rposition(|b| *b == b'\n' || *b == b'\r') {
            let whole: Vec<u8> = rest.drain(..=end).collect();
            self.log.push(told(stream == 2, &whole));
        }
    }

    fn flush(&mut self) {
        for (stderr, rest) in [false, true].into_iter().zip(&mut self.rest) {
            if !rest.is_empty() {
                self.log.push(told(stderr, &std::mem::take(rest)));
            }
        }
    }
}

fn told(stderr: bool, bytes: &[u8]) -> Told {
    let text = String::from_utf8_lossy(bytes).into_owned();
    if stderr { Told::Stderr(text) } else { Told::Text(text) }
}

fn argument(arg: &crate::dockerfile::instructions::Arg) -> String {
    match &arg.value {
        Some(value) => format!("{}={value}", arg.key),
        None => arg.key.clone(),
    }
}

/// The stage that is built, by name or number; the last one.
fn last_stage(read: &Stages, target: &str) -> usize {
    let last = read.stages.len() - 1;
    if target.is_empty() {
        return last;
    }
    let named = read.stages.iter().position(|s| s.from.stage.eq_ignore_ascii_case(target));
    named.or_else(|| target.parse().ok().filter(|n| *n <= last)).unwrap_or(last)
}

/// Arguments that the file declares.
fn declared(read: &Stages) -> HashSet<String> {
    let inner = read.stages.iter().flat_map(|s| &s.commands).filter_map(|c| match &c.command {
        Command::Arg(args) => Some(args),
        _ => None,
    });
    read.args.iter().map(|a| &a.args).chain(inner).flatten().map(|a| a.key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(show: &mut Show) -> String {
        let text = |t: Told| match t {
            Told::Text(t) => t,
            Told::Stderr(t) => format!("!{t}"),
        };
        show.out.drain(..).map(text).collect()
    }

    fn file(text: &str) -> Graph {
        Graph { source: crate::graph::Source { data: text.into(), ..Default::default() }, ..Graph::default() }
    }

    #[test]
    fn instructions_are_numbered_up_to_the_target() {
        let graph = file("ARG V=1\nFROM a AS one\nARG W\nRUN make \\\n  all\nFROM one\nCMD x\n");
        let mut show = Show::new(&graph, "ONE").unwrap();
        show.all_but_last();
        show.last("sha256:0123456789abcdef");
        show.unused(vec!["W", "no_proxy", "X"]);
        assert_eq!(
            text(&mut show),
            "Step 1/4 : ARG V=1\nStep 2/4 : FROM a AS one\n ---> \nStep 3/4 : ARG W\nStep 4/4 : RUN make   all\n \
             ---> 0123456789ab\n[Warning] One or more build-args [X] were not consumed\n"
        );
        assert_eq!(Show::new(&graph, "").unwrap().lines.len(), 6);
    }

    #[test]
    fn output_is_shown_in_whole_lines_below_its_instruction() {
        let mut show = Show::new(&file("FROM a\nRUN x\nRUN y\n"), "").unwrap();
        for (line, step) in [(1, "x"), (2, "y")] {
            show.lines[line].steps.push(step.into());
            show.known.insert(step.into(), Known::default());
        }
        let log = |vertex: &str, stream, msg: &str| proto::StatusResponse {
            logs: vec![proto::VertexLog {
                vertex: vertex.into(),
                stream,
                msg: msg.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let end = |digest: &str, error: &str| proto::StatusResponse {
            vertexes: vec![proto::Vertex {
                digest: digest.into(),
                completed: Some(crate::progress::now()),
                error: error.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        // The second is done beside the first, and shown after it.
        show.take(&log("y", 2, "of y"));
        show.take(&log("x", 1, "one\ntw"));
        assert_eq!(text(&mut show), "Step 1/3 : FROM a\n ---> \nStep 2/3 : RUN x\none\n");
        show.take(&log("x", 1, "o\n"));
        assert_eq!(text(&mut show), "two\n");
        show.take(&end("x", ""));
        show.take(&end("y", "it failed"));
        show.failed();
        assert_eq!(text(&mut show), "Step 3/3 : RUN y\n!of y");
    }

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
