//! What the Dockerfile frontend asks, answered by the executor.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex};

use rustix::fs::OFlags;

use super::{Node, Op, Solve, Solver};
use crate::Error;
use crate::frontend::{Host, ImageRequest, MAX_FILE, ResolvedImage};
use crate::graph::{ResolveMode, Source, Vertex};
use crate::platform::Platform;
use crate::session::content::ContentStore;
use crate::worker::{Tree, Worker};

/// Answers for one solve request.
pub struct Answers<W: Worker> {
    solver: Arc<Solver<W>>,
    images: Mutex<HashMap<(String, Platform), ResolvedImage>>,
}

impl<W: Worker> Answers<W> {
    /// For the frontend of one solve request.
    pub fn new(solver: Arc<Solver<W>>) -> Self {
        Self { solver, images: Mutex::default() }
    }
}

impl<W: Worker> Solver<W> {
    /// The tree of the last of these steps, files of a client as they are.
    async fn last(self: &Arc<Self>, steps: &[Vertex]) -> Result<(Tree, Solve<W>), Error> {
        let mut nodes: Vec<Node> = Vec::new();
        for (vertex, digest) in steps.iter().zip(super::digests(steps)?) {
            let inputs = vertex.inputs.iter().filter_map(|v| Some(nodes.get(v.0)?.digest.clone())).collect();
            let step = self.progress.step(digest.clone(), vertex.name.clone(), inputs);
            nodes.push(Node::new(vertex.clone(), digest, step, Vec::new()));
        }
        let solve = Solve { solver: self.clone(), nodes, source: Source::default() };
        let last = solve.nodes.len().checked_sub(1).ok_or_else(|| Error::invalid("nothing to read"))?;
        let work = async {
            let tree = solve.result(last).await?;
            if !matches!(solve.nodes[last].vertex.op, Op::Local(_) | Op::Http(_) | Op::Git(_)) {
                solve.here(&tree).await?;
            }
            Ok::<_, Error>(tree)
        };
        let tree = solve.driven(work).await?;
        Ok((tree, solve))
    }
}

impl<W: Worker> Host for Answers<W> {
    async fn read_files(&self, steps: &[Vertex], paths: &[String]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let (tree, _solve) = self.solver.last(steps).await?;
        let paths = paths.to_vec();
        let read = move |view: crate::worker::View| {
            let root = view.read.first().ok_or_else(|| Error::invalid("nothing to read"))?;
            paths.iter().map(|path| read_file(root, path)).collect()
        };
        self.solver.builder.worker.view(None, vec![tree], read).await
    }

    async fn resolve_image(&self, request: ImageRequest) -> Result<ResolvedImage, Error> {
        let key = (request.reference.clone(), request.platform.clone());
        let known = |images: &Mutex<HashMap<_, _>>| {
            images.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&key).cloned()
        };
        if let Some(found) = known(&self.images) {
            return Ok(found);
        }
        let mut step = self.solver.progress.begin(&request.name);
        let asker = self.solver.context.asker();
        let worker = &self.solver.builder.worker;
        let found = async {
            if let Some(store) = &request.oci_layout {
                let session = self.solver.context.session.as_ref();
                let session = session.ok_or_else(|| Error::invalid("an OCI layout needs a session"))?;
                let store =
                    ContentStore::new(session, format!("oci:{store}")).map_err(super::from_session)?;
                let digest = request.reference.rsplit_once('@').map_or("", |(_, digest)| digest);
                // What is here has been held against its digest.
                let local = ImageRequest { mode: ResolveMode::Local, ..request.clone() };
                super::layout::load(worker, &store, digest, &request.platform).await?;
                return worker.find_image(&local, &asker).await;
            }
            worker.find_image(&request, &asker).await
        };
        let found = found.await;
        step.complete(found.as_ref().err().map(|e| e.message.as_str()));
        let found = found.map_err(|e| match request.oci_layout {
            Some(_) => e,
            None => e.context(format!("failed to resolve source metadata for {}", request.reference)),
        })?;
        self.images.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key, found.clone());
        Ok(found)
    }

    fn platforms(&self) -> Vec<Platform> {
        self.solver.builder.worker.platforms()
    }
}

/// A file's content, at most [`MAX_FILE`] bytes of it; `None` where there is none.
pub(crate) fn read_file(root: &crate::files::Root, path: &str) -> Result<Option<Vec<u8>>, Error> {
    use rustix::io::Errno;
    let fd = match root.at(path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(crate::files::fault("open", path, e)),
    };
    let failed = |e: std::io::Error| Error::invalid(format!("read {path}: {e}"));
    let file = std::fs::File::from(fd);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::invalid(format!("read {path}: is not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE as u64).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}
