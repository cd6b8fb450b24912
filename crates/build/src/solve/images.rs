//! Images that steps stand on: fetched when their files are needed, and not before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::{Node, Solve};
use crate::Error;
use crate::graph::Op;
use crate::progress::{Part, Step};
use crate::worker::{Far, Layer, Tree, Worker};

impl<W: Worker> Solve<W> {
    /// Sees to it that images a tree stands on are here: those of cached steps may not be.
    pub(super) async fn here(&self, tree: &Tree) -> Result<(), Error> {
        for layer in &tree.0 {
            let Layer::Image { reference, platform } = layer else { continue };
            let same = |n: &Node| {
                matches!(&n.vertex.op, Op::Image { reference: r, .. } if r == reference)
                    && n.vertex.platform.as_ref().is_none_or(|p| p == platform)
            };
            match self.nodes.iter().position(same) {
                Some(v) => drop(self.present(&self.nodes[v], tree).await?),
                None => {
                    let asker = self.solver.context.asker();
                    let nothing = Box::new(|_: &str, _| {});
                    let mode = crate::graph::ResolveMode::Default;
                    let worker = &self.solver.builder.worker;
                    worker.fetch_image(reference, platform, mode, &asker, nothing).await?;
                }
            }
        }
        Ok(())
    }

    /// Sees to it that a node's image is here; whether it had to be fetched. Of another step: nothing.
    pub(super) async fn present(&self, node: &Node, tree: &Tree) -> Result<bool, Error> {
        let Op::Image { reference, resolve } = &node.vertex.op else { return Ok(false) };
        let get = || async {
            let fetched = self.fetch(node, reference, *resolve, tree).await;
            if !matches!(fetched, Ok(false)) {
                node.complete(&fetched);
            }
            fetched.map_err(|e| self.at(node, e))
        };
        node.present.get_or_init(get).await.clone()
    }

    async fn fetch(
        &self,
        node: &Node,
        reference: &str,
        mode: crate::graph::ResolveMode,
        tree: &Tree,
    ) -> Result<bool, Error> {
        let Some(Layer::Image { platform, .. }) = tree.0.first() else { return Ok(false) };
        let parts: Arc<Mutex<HashMap<String, (Part, u64)>>> = Arc::default();
        let begun = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (told, step) = (begun.clone(), node.step.clone());
        let fetched = Box::new(move |what: &str, far: Far| {
            let mut parts = parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let mut step = step.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if !told.swap(true, std::sync::atomic::Ordering::Relaxed) {
                step.again();
            }
            match far {
                Far::At(current, total) => {
                    let (part, all) =
                        parts.entry(what.to_owned()).or_insert_with(|| (step.part(what), total));
                    *all = total;
                    part.at(current, total);
                }
                Far::Done => {
                    let (part, all) = parts.remove(what).unwrap_or_else(|| (step.part(what), 0));
                    part.done(all);
                }
            }
        });
        let asker = self.solver.context.asker();
        let done = self.solver.builder.worker.fetch_image(reference, platform, mode, &asker, fetched).await;
        let begun = begun.load(std::sync::atomic::Ordering::Relaxed);
        if done.is_err() && !begun {
            node.with_step(Step::again);
        }
        done.map(|()| begun)
    }
}
