//! The executor: does what a [`Graph`] says, as much at once as depends on nothing else, and as little as the cache
//! leaves.
//!
//! ```text
//! keyed(v)    keys of its inputs --> key by definition --> cache?
//!               '-- reads files? results of those inputs --> digest of what is read --> key by content --> cache?
//! result(v)   a hit's tree, or: results of all inputs --> done --> layer kept, recorded under its keys
//! ```
//! A vertex is keyed once and done once, however many wait for it. A result that nobody needs is never made: of a cached
//! step not even the image it stands on is pulled. Dropping a solve ends everything of it.

mod copy;
mod exec;
pub mod host;
mod images;
mod layout;
pub(crate) mod source;
mod within;

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::future::{FutureExt as _, join_all, try_join_all};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OnceCell, SetOnce};

use self::within::Within;

use crate::Error;
use crate::builder::Builder;
use crate::cache::{self, InUse, NewRecord};
use crate::error::Kind;
use crate::graph::{CopySource, Graph, MountKind, Op, Slot, Vertex, VertexRef};
use crate::hex;
use crate::llb;
use crate::progress::{Progress, Step};
use crate::remote::{Imported, Remote};
use crate::session::{Index, Session};
use crate::worker::{Layer, Tree, Worker};

/// Steps of one engine that run programs or copy files at once, for each processor.
pub const STEPS_PER_CPU: usize = 2;

/// What a client asks for besides the graph.
#[derive(Clone, Default)]
pub struct Context {
    /// The client's session.
    pub session: Option<Arc<Session>>,
    /// `network.host`, `security.insecure`: what was allowed.
    pub entitlements: Vec<String>,
    /// The client's files, where they came with the request: then no session is asked for them.
    pub folder: Option<Arc<crate::classic::Unpacked>>,
    /// Credentials that came with the request.
    pub credentials: Arc<crate::worker::Credentials>,
    /// What each step's program may use. No part of what a step is: with other limits it is found in the cache.
    pub limits: crate::worker::Limits,
    /// A network that the worker knows, in place of the one that steps have by default; empty: that. No part of what a
    /// step is either.
    pub network: String,
    /// Caches elsewhere to look into (`--cache-from`).
    pub caches: Vec<bollard_buildkit_proto::moby::buildkit::v1::CacheOptionsEntry>,
}

impl Context {
    /// Where credentials come from.
    pub(crate) fn asker(&self) -> crate::worker::Asker {
        crate::worker::Asker { session: self.session.clone(), given: self.credentials.clone() }
    }
}

/// One build's work. Its folders and records stay in use for as long as it lives.
pub struct Solver<W: Worker> {
    pub(crate) builder: Arc<Builder<W>>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) context: Context,
    /// Records in use.
    held: Mutex<Vec<InUse>>,
    /// Clients' files of this build, by what was asked for.
    sources: Mutex<HashMap<String, Arc<Source>>>,
    /// What caches elsewhere have.
    pub(crate) imported: OnceCell<Imported>,
    /// What came from elsewhere, for the image's provenance.
    pub(crate) materials: Mutex<crate::attest::Materials>,
    /// Steps of this build that were found there.
    found: Mutex<Vec<Arc<Remote>>>,
    /// Sources that this build has needed.
    needed: Mutex<std::collections::HashSet<String>>,
    /// Inputs of the solve requests, by name; results of other builds by their refs.
    inputs: Mutex<HashMap<String, Input<W>>>,
}

/// What a result came to.
pub struct Made {
    /// Its file system.
    pub tree: Tree,
    /// What a scanner said of it.
    pub sbom: Option<Tree>,
}

/// A tree that comes with a request.
struct Input<W: Worker> {
    tree: Tree,
    /// Keeps it, where it is another build's.
    _of: Option<Arc<Solver<W>>>,
}

/// Files of a source, once they are there.
type Source = OnceCell<Result<Arc<source::Files>, Error>>;

/// What is known of a step before it is done.
#[derive(Clone)]
struct Keyed {
    /// What stands for it in the keys of steps upon it.
    output: String,
    /// Keys it is recorded under.
    keys: Vec<String>,
    /// What it makes, where that is known.
    tree: Option<Tree>,
    /// It was done elsewhere.
    remote: Option<Arc<Remote>>,
}

struct Node {
    vertex: Vertex,
    digest: String,
    /// Somebody wants to know what stands for it; what does.
    ask_key: SetOnce<()>,
    keyed: SetOnce<Result<Keyed, Error>>,
    /// Somebody wants what it makes; that.
    ask: SetOnce<()>,
    done: SetOnce<Result<Tree, Error>>,
    /// An image is here; whether it was fetched for that.
    present: OnceCell<Result<bool, Error>>,
    step: Arc<Mutex<Step>>,
    /// What it does besides that is told as steps of their own.
    within: Vec<Arc<Within>>,
}

/// One graph under way.
struct Solve<W: Worker> {
    solver: Arc<Solver<W>>,
    nodes: Vec<Node>,
    source: crate::graph::Source,
}

impl<W: Worker> Solver<W> {
    /// Work for one build.
    pub fn new(builder: Arc<Builder<W>>, progress: Arc<Progress>, context: Context) -> Arc<Self> {
        Arc::new(Self {
            builder,
            progress,
            context,
            held: Mutex::default(),
            sources: Mutex::default(),
            imported: OnceCell::new(),
            materials: Mutex::default(),
            found: Mutex::default(),
            needed: Mutex::default(),
            inputs: Mutex::default(),
        })
    }

    /// Whether a source is one that builds before this one have used, when this one needs it for the first time: that is told once.
    fn is_found(&self, source: &str) -> bool {
        let mut needed = self.needed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        needed.insert(source.to_owned()) && self.builder.uses(source)
    }

    /// Does a graph; gives what each of its results came to.
    ///
    /// # Errors
    /// The first step's that failed, with its lines.
    pub async fn solve(self: &Arc<Self>, graph: &Graph) -> Result<Vec<Made>, Error> {
        // Asked before the first step, also of steps that the cache has.
        for vertex in &graph.vertices {
            if let crate::graph::Op::Exec(exec) = &vertex.op {
                self.allowed(exec)?;
            }
        }
        let outputs = graph.results.iter().map(|t| t.output);
        let scans = graph.results.iter().filter(|t| t.sbom.is_some()).map(|t| t.sbom);
        let wanted: Vec<Option<VertexRef>> = outputs.chain(scans).collect();
        let mut trees = self.run(graph.vertices.clone(), graph.source.clone(), &wanted).await?;
        let mut scans = trees.split_off(graph.results.len()).into_iter();
        let made = graph
            .results
            .iter()
            .zip(trees)
            .map(|(target, tree)| Made { tree, sbom: target.sbom.and_then(|_| scans.next()) });
        Ok(made.collect())
    }

    /// What a definition in LLB gives.
    ///
    /// # Errors
    /// Definitions that are none; refs of builds that are over; the first step's that failed.
    pub(crate) async fn definition(
        self: &Arc<Self>,
        definition: &bollard_buildkit_proto::pb::Definition,
    ) -> Result<Tree, Error> {
        let steps = llb::steps(definition)?;
        for step in &steps {
            let Op::Input { name } = &step.op else { continue };
            let none = || Error::invalid(format!("ref {name} is of no build that is under way"));
            let (tree, of) = self.builder.find_ref(name).ok_or_else(none)?;
            self.add_input(name, tree.clone(), Some(of));
            if steps.len() == 1 {
                return Ok(tree);
            }
        }
        let last = steps.len().checked_sub(1).map(VertexRef);
        let trees = self.run(steps, crate::graph::Source::default(), &[last]).await?;
        Ok(trees.into_iter().next().unwrap_or_default())
    }

    /// A tree that steps of this build have by that name ([`Op::Input`]); `of` keeps it.
    pub(crate) fn add_input(&self, name: &str, tree: Tree, of: Option<Arc<Solver<W>>>) {
        let mut inputs = self.inputs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        inputs.insert(name.to_owned(), Input { tree, _of: of });
    }

    fn input(&self, name: &str) -> Option<Tree> {
        let inputs = self.inputs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        inputs.get(name).map(|input| input.tree.clone())
    }

    fn allowed(&self, exec: &crate::graph::Exec) -> Result<(), Error> {
        use crate::graph::{Network, Security};
        let needs = [
            (exec.network == Network::Host, "network.host"),
            (exec.security == Security::Insecure, "security.insecure"),
        ];
        for (_, name) in needs.into_iter().filter(|(needed, _)| *needed) {
            if !self.context.entitlements.iter().any(|e| e == name) {
                return Err(Error::invalid(format!("failed to load LLB: {name} is not allowed")));
            }
        }
        Ok(())
    }

    async fn run(
        self: &Arc<Self>,
        vertices: Vec<Vertex>,
        source: crate::graph::Source,
        results: &[Option<VertexRef>],
    ) -> Result<Vec<Tree>, Error> {
        self.imported().await;
        let mut nodes: Vec<Node> = Vec::with_capacity(vertices.len());
        let digests = digests(&vertices)?;
        let mut within: HashMap<String, Arc<Within>> = HashMap::new();
        for (vertex, digest) in vertices.into_iter().zip(digests) {
            let mut inputs: Vec<String> = vertex.inputs.iter().map(|i| nodes[i.0].digest.clone()).collect();
            let mut of_node = Vec::new();
            for (name, what) in within::of(&vertex.op) {
                let platform = vertex.platform.as_ref().map(ToString::to_string).unwrap_or_default();
                let digest = key(&["within", name, &what, &platform]);
                let part = within.entry(digest);
                let part = part.or_insert_with_key(|d| Within::announced(&self.progress, d, name));
                inputs.push(part.digest.clone());
                of_node.push(part.clone());
            }
            let step = self.progress.step(digest.clone(), vertex.name.clone(), inputs);
            // What a Dockerfile was read from has been told of.
            if !self.progress.knows(&digest) {
                step.announce();
            }
            nodes.push(Node::new(vertex, digest, step, of_node));
        }
        let solve = Solve { solver: self.clone(), nodes, source };
        let all = try_join_all(results.iter().map(|result| async {
            match result {
                Some(v) => {
                    let tree = solve.result(v.0).await?;
                    solve.solid(v.0, tree).await
                }
                None => Ok(Tree::default()),
            }
        }));
        solve.driven(all).await
    }

    /// Notes something that came from elsewhere.
    fn took(&self, uri: String, algorithm: &'static str, digits: &str) {
        let mut materials = self.materials.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        materials.insert(uri, (algorithm, digits.to_owned()));
    }

    /// Ids of the records that this build has made or found.
    pub(crate) fn held(&self) -> std::collections::HashSet<String> {
        let held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        held.iter().map(|in_use| in_use.id().to_owned()).collect()
    }

    /// Steps of this build that were done elsewhere.
    pub(crate) fn found(&self) -> Vec<Arc<Remote>> {
        self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Keeps a record for as long as this build lives.
    pub(crate) fn hold(&self, in_use: InUse) {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(in_use);
    }
}

impl Node {
    fn new(vertex: Vertex, digest: String, step: Step, within: Vec<Arc<Within>>) -> Self {
        Self {
            vertex,
            digest,
            ask_key: SetOnce::new(),
            keyed: SetOnce::new(),
            ask: SetOnce::new(),
            done: SetOnce::new(),
            present: OnceCell::new(),
            step: Arc::new(Mutex::new(step)),
            within,
        }
    }

    fn with_step<T>(&self, change: impl FnOnce(&mut Step) -> T) -> T {
        change(&mut self.step.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Ends the step as the work did.
    fn complete<T>(&self, done: &Result<T, Error>) {
        self.with_step(|step| step.complete(done.as_ref().err().map(|e| e.message.as_str())));
    }
}

/// What progress calls these steps.
pub(crate) fn digests(vertices: &[Vertex]) -> Result<Vec<String>, Error> {
    let mut digests: Vec<String> = Vec::with_capacity(vertices.len());
    for vertex in vertices {
        let mut hasher = Sha256::new();
        hasher.update(vertex.op.digest());
        hasher.update(&vertex.name);
        for input in &vertex.inputs {
            let before = digests.get(input.0).ok_or_else(|| Error::invalid("a step before its inputs"))?;
            hasher.update(before);
        }
        digests.push(hex(&hasher.finalize()));
    }
    Ok(digests)
}

/// Digest of parts, each told from the next.
pub(crate) fn key(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex(&hasher.finalize())
}

/// The inputs of an op that stand under it, and those whose files it only reads.
fn inputs(op: &Op) -> (Vec<Slot>, Vec<Slot>) {
    match op {
        Op::Exec(exec) => {
            let read = exec.mounts.iter().filter_map(|m| match &m.kind {
                MountKind::Bind { from, .. } => *from,
                _ => None,
            });
            // What a cache mount starts with is no part of the key, by BuildKit's rules.
            (exec.base.into_iter().collect(), read.collect())
        }
        Op::Copy(copy) => {
            let read = copy.steps.iter().filter_map(|s| match &s.from {
                CopySource::Tree { from, .. } => *from,
                CopySource::Inline { .. } => None,
            });
            (copy.base.into_iter().collect(), read.collect())
        }
        Op::Mkdir { base, .. } => (base.iter().copied().collect(), Vec::new()),
        Op::Image { .. }
        | Op::Local(_)
        | Op::Http(_)
        | Op::Git(_)
        | Op::OciLayout { .. }
        | Op::Input { .. } => (Vec::new(), Vec::new()),
    }
}

impl Keyed {
    /// What is there.
    fn known(output: String, tree: Tree) -> Self {
        Self { output, keys: Vec::new(), tree: Some(tree), remote: None }
    }

    /// Whether it has to be done.
    fn is_new(&self) -> bool {
        self.tree.is_none() && self.remote.is_none()
    }
}

impl<W: Worker> Solve<W> {
    /// What stands for a step; it is found out beside whoever asks.
    async fn keyed(&self, v: usize) -> Result<Keyed, Error> {
        let node = &self.nodes[v];
        let _ = node.ask_key.set(());
        node.keyed.wait().await.clone()
    }

    /// What a step makes; it is made beside whoever asks.
    async fn result(&self, v: usize) -> Result<Tree, Error> {
        let node = &self.nodes[v];
        let _ = node.ask.set(());
        node.done.wait().await.clone()
    }

    /// Does `main`, and all that it asks for of steps. Each step's work is a future of its own, which is polled from
    /// here: were it polled by who waits for it, a file of many steps would need a stack as deep.
    async fn driven<T>(&self, main: impl Future<Output = T>) -> T {
        let drive = |v: usize| async move {
            let node = &self.nodes[v];
            let key = async {
                node.ask_key.wait().await;
                let _ = node.keyed.set(self.find(node).await.map_err(|e| self.at(node, e)));
            };
            let make = async {
                node.ask.wait().await;
                let made = match self.keyed(v).await {
                    Ok(keyed) => self.make(node, keyed).await.map_err(|e| self.at(node, e)),
                    Err(e) => Err(e),
                };
                let _ = node.done.set(made);
            };
            tokio::join!(key, make);
        };
        let steps = join_all((0..self.nodes.len()).map(|v| Box::pin(drive(v)))).map(drop);
        tokio::pin!(steps);
        while_going(main, steps).await
    }

    /// The error, with the lines of the step that it is about.
    fn at(&self, node: &Node, error: Error) -> Error {
        let mut error = error.at(&node.vertex.lines);
        if !error.lines.is_empty() && error.file.is_none() {
            error.file = Some(Box::new(self.source.clone()));
        }
        error
    }

    fn input(&self, node: &Node, slot: Slot) -> Result<usize, Error> {
        node.vertex.inputs.get(slot.0).map(|v| v.0).ok_or_else(|| Error::invalid("a step without its input"))
    }

    /// Finds out what stands for a step, and whether it was done before.
    async fn find(&self, node: &Node) -> Result<Keyed, Error> {
        let platform = node.vertex.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        let cache = &self.solver.builder.cache;
        match &node.vertex.op {
            Op::Image { reference, .. } | Op::OciLayout { reference, .. } => {
                let platform = node.vertex.platform.clone().unwrap_or_else(crate::platform::Platform::host);
                if let Some((name, digest)) = reference.split_once("@sha256:") {
                    self.solver.took(crate::attest::purl(name, &platform), "sha256", digest);
                }
                let tagged = reference.split('@').next().unwrap_or(reference);
                // What stands for it is all that is needed of an image whose steps were done before.
                node.with_step(|step| {
                    step.start();
                    // An image that a client names in the place of another is told without its digest, as its step's name is.
                    let shown = if node.vertex.name.contains('@') { reference.as_str() } else { tagged };
                    step.part(&format!("resolve {shown}")).done(0);
                    step.complete(None);
                });
                let output = key(&["image", reference, &platform.to_string()]);
                let layer = Layer::Image { reference: reference.clone(), platform };
                return Ok(Keyed::known(output, Tree(vec![layer])));
            }
            Op::Input { name } => {
                let tree = self.solver.input(name);
                let tree = tree.ok_or_else(|| Error::invalid(format!("input {name} is not there")))?;
                let output = key(&["input", &serde_json::to_string(&tree).unwrap_or_default()]);
                return Ok(Keyed::known(output, tree));
            }
            Op::Local(_) | Op::Http(_) | Op::Git(_) => {
                let is_new = self.is_new_source(node);
                if is_new {
                    node.with_step(Step::start);
                }
                let files = self.source(node).await;
                if is_new {
                    node.complete(&files);
                }
                let files = files.map_err(Error::of_build)?;
                let output = key(&["files", &files.digest]);
                let tree = Tree(vec![Layer::Folder(files.folder.clone())]);
                return Ok(Keyed::known(output, tree));
            }
            Op::Exec(_) | Op::Copy(_) | Op::Mkdir { .. } => {}
        }
        node.within.iter().for_each(|part| part.is_known());
        let definition = node.vertex.op.digest();
        let (under, read) = inputs(&node.vertex.op);
        let outputs = |slots: Vec<Slot>| async move {
            try_join_all(slots.into_iter().map(|slot| async move {
                let v = self.input(node, slot)?;
                let keyed = self.keyed(v).await?;
                Ok::<_, Error>((v, keyed))
            }))
            .await
        };
        let ahead = self.ahead(node, under.clone(), read.clone()).fuse();
        tokio::pin!(ahead);
        let keys = async { tokio::try_join!(outputs(under), outputs(read)) };
        let (under, reads) = while_going(keys, ahead.as_mut()).await?;
        let mut parts = vec!["definition", &definition, &platform];
        parts.extend(under.iter().chain(&reads).map(|(_, k)| k.output.as_str()));
        let by_definition = key(&parts);
        let look = |key: &str| -> Result<Option<Keyed>, Error> {
            if node.vertex.ignore_cache {
                return Ok(None);
            }
            if let Some((found, in_use)) = cache.find(key)? {
                self.solver.hold(in_use);
                cache.alias(&by_definition, &found.id)?;
                node.with_step(Step::cached);
                return Ok(Some(Keyed::known(found.output, found.tree)));
            }
            let Some(remote) = self.solver.imported.get().and_then(|i| i.find(key)) else { return Ok(None) };
            node.with_step(Step::cached);
            let mut found = self.solver.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            found.push(remote.clone());
            let (output, mut keys) = (remote.record.output.clone(), remote.record.keys.clone());
            keys.extend([by_definition.clone(), output.clone()]);
            keys.sort_unstable();
            keys.dedup();
            Ok(Some(Keyed { output, keys, tree: None, remote: Some(remote) }))
        };
        // Files of a client are compared by their content alone: the whole of them is another every time.
        let local = |v: usize| {
            !matches!(
                self.nodes[v].vertex.op,
                Op::Image { .. } | Op::OciLayout { .. } | Op::Exec(_) | Op::Copy(_) | Op::Mkdir { .. }
            )
        };
        if !reads.iter().any(|(v, _)| local(*v))
            && let Some(hit) = look(&by_definition)?
        {
            return Ok(hit);
        }
        if reads.is_empty() {
            let output = by_definition.clone();
            return Ok(Keyed { output, keys: vec![by_definition], tree: None, remote: None });
        }
        let content = match while_going(self.content(node), ahead.as_mut()).await {
            Ok(content) => content,
            // The lines of an input that failed are its own.
            Err(e) if !e.lines.is_empty() || e.elsewhere.is_some() => return Err(e),
            Err(e) => {
                node.complete(&Err::<(), _>(e.clone()));
                return Err(e.context("failed to compute cache key"));
            }
        };
        let mut parts = vec!["content", &definition, &platform];
        parts.extend(under.iter().map(|(_, k)| k.output.as_str()));
        parts.push(&content);
        let by_content = key(&parts);
        if let Some(hit) = look(&by_content)? {
            return Ok(hit);
        }
        let keys = vec![by_definition, by_content.clone()];
        Ok(Keyed { output: by_content, keys, tree: None, remote: None })
    }

    /// Begins what a step will need of its inputs as soon as that is known, while its own key is still looked for: else
    /// stages that need nothing of each other would wait for each other. What fails here fails where it is waited for.
    async fn ahead(&self, node: &Node, under: Vec<Slot>, read: Vec<Slot>) {
        let missing = |slots: Vec<Slot>| async move {
            let inputs = slots.into_iter().filter_map(|slot| self.input(node, slot).ok());
            let keyed = join_all(inputs.map(|v| async move { (v, self.keyed(v).await) })).await;
            let new = keyed.into_iter().filter(|(_, k)| k.as_ref().is_ok_and(Keyed::is_new));
            // Not cached: what stands on it is not either, in all likelihood.
            drop(join_all(new.map(|(v, _)| self.result(v))).await);
        };
        tokio::join!(missing(under), missing(read));
    }

    /// Gives what a step makes, doing it where it was not done.
    async fn make(&self, node: &Node, keyed: Keyed) -> Result<Tree, Error> {
        if let Some(tree) = keyed.tree {
            let source =
                matches!(node.vertex.op, Op::Image { .. } | Op::OciLayout { .. } | Op::Http(_) | Op::Git(_));
            let fetched = self.present(node, &tree).await?;
            if source && self.solver.is_found(&keyed.output) && !fetched {
                node.with_step(Step::cached);
            }
            return Ok(tree);
        }
        if let Some(remote) = &keyed.remote {
            match self.solver.bring(remote, Some(&node.digest)).await {
                Ok(tree) => return Ok(tree),
                Err(e) => tracing::warn!("{}: done anew, as its layers cannot be had: {e}", node.vertex.name),
            }
        }
        let inputs = try_join_all(node.vertex.inputs.iter().map(|v| self.result(v.0))).await?;
        let inputs = try_join_all(
            node.vertex.inputs.iter().zip(inputs).map(|(v, tree)| self.solid_base(node, v.0, tree)),
        )
        .await?;
        for tree in &inputs {
            self.here(tree).await?;
        }
        let builder = &self.solver.builder;
        // Another build may be at the same step.
        let flight = builder.flight(&keyed.output);
        let _alone = flight.lock().await;
        if !node.vertex.ignore_cache
            && let Some((found, in_use)) = builder.cache.find(&keyed.output)?
        {
            self.solver.hold(in_use);
            node.with_step(Step::cached);
            return Ok(found.tree);
        }
        let _permit = builder.permits.acquire().await.map_err(|e| Error::invalid(e.to_string()))?;
        node.within.iter().for_each(|part| part.is_needed(&self.solver));
        node.with_step(Step::start);
        let done = self.do_step(node, &keyed, &inputs).await;
        node.complete(&done);
        done
    }

    async fn do_step(&self, node: &Node, keyed: &Keyed, inputs: &[Tree]) -> Result<Tree, Error> {
        let worker = &self.solver.builder.worker;
        let (under, _) = self::inputs(&node.vertex.op);
        let base = match under.first() {
            Some(slot) => inputs.get(slot.0).cloned().unwrap_or_default(),
            None => Tree::default(),
        };
        let draft = worker.draft(&base).await?;
        match &node.vertex.op {
            Op::Exec(exec) => {
                if let Some(output) = self.exec(node, exec, &base, inputs, &draft).await? {
                    let files = Tree(vec![Layer::Folder(output.0.clone())]);
                    return self.layer_of(files, &keyed.output, &keyed.keys, &node.vertex.name).await;
                }
            }
            Op::Copy(copy) => self.copy(copy, &base, inputs, &draft).await?,
            Op::Mkdir { path, mode, owner, time, .. } => {
                self.mkdir(&base, &draft, path.clone(), *mode, owner.clone(), *time).await?;
            }
            _ => return Err(Error::invalid("this step makes no layer")),
        }
        self.keep(draft, base, &keyed.output, &keyed.keys, &node.vertex.name).await
    }

    async fn keep(
        &self,
        draft: W::Draft,
        base: Tree,
        output: &str,
        keys: &[String],
        description: &str,
    ) -> Result<Tree, Error> {
        let builder = &self.solver.builder;
        let (layer, used) = builder.worker.keep(draft).await?;
        let tree = base.with(Layer::Built(layer));
        let record = NewRecord {
            keys: keys.iter().map(String::as_str).collect(),
            output,
            tree: &tree,
            layer: Some(layer),
            kind: cache::kind::REGULAR,
            description,
            bytes: used.bytes,
        };
        let in_use = builder.cache.add(&crate::random_id(), &record)?;
        self.solver.hold(in_use);
        Ok(tree)
    }

    /// An input that is stood upon: files of a client become a layer.
    async fn solid_base(&self, node: &Node, v: usize, tree: Tree) -> Result<Tree, Error> {
        let (under, _) = self::inputs(&node.vertex.op);
        let is_base = under.iter().any(|slot| node.vertex.inputs.get(slot.0).is_some_and(|i| i.0 == v));
        if is_base { self.solid(v, tree).await } else { Ok(tree) }
    }

    async fn solid(&self, v: usize, tree: Tree) -> Result<Tree, Error> {
        let [Layer::Folder(_)] = tree.0.as_slice() else {
            self.here(&tree).await?;
            return Ok(tree);
        };
        let output = key(&["layer", &self.keyed(v).await?.output]);
        let cache = &self.solver.builder.cache;
        let flight = self.solver.builder.flight(&output);
        let _alone = flight.lock().await;
        if let Some((found, in_use)) = cache.find(&output)? {
            self.solver.hold(in_use);
            return Ok(found.tree);
        }
        self.layer_of(tree, &output, std::slice::from_ref(&output), &self.nodes[v].vertex.name).await
    }

    /// Keeps all files of a tree as one layer upon nothing.
    async fn layer_of(
        &self,
        files: Tree,
        output: &str,
        keys: &[String],
        description: &str,
    ) -> Result<Tree, Error> {
        let empty = Tree::default();
        let draft = self.solver.builder.worker.draft(&empty).await?;
        let whole = crate::graph::Copy {
            base: None,
            steps: vec![crate::graph::CopyStep {
                from: CopySource::Tree { from: Some(Slot(0)), path: "/".into() },
                dest: "/".into(),
                contents_only: true,
                ..Default::default()
            }],
        };
        self.copy(&whole, &empty, &[files], &draft).await?;
        self.keep(draft, empty, output, keys, description).await
    }

    /// What is known of a client's folder.
    fn index(&self, folder: &std::path::Path) -> Option<Arc<Index>> {
        let sources = self.solver.sources.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sources
            .values()
            .filter_map(|cell| cell.get()?.as_ref().ok())
            .find(|files| files.folder == folder)
            .map(|files| files.index.clone())
    }
}

/// Waits for `main` while the other goes on as well.
async fn while_going<T>(main: impl Future<Output = T>, other: Pin<&mut impl Future<Output = ()>>) -> T {
    tokio::pin!(main);
    tokio::select! {
        done = &mut main => return done,
        () = other => {}
    }
    main.await
}

/// An error of the other side of a session.
pub(crate) fn from_session(e: crate::rpc::Status) -> Error {
    Error::invalid(e.message).with_kind(Kind::Unknown)
}

/// The folder that a tree of one folder is.
fn only_folder(tree: &Tree) -> Option<&PathBuf> {
    match tree.0.as_slice() {
        [Layer::Folder(folder)] => Some(folder),
        _ => None,
    }
}
