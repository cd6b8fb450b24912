//! Vertices as they come, and the graph of those that count.

use std::collections::HashMap;

use crate::Error;
use crate::graph::{Slot, Vertex, VertexRef};

/// Most bytes that the definition of a build may take. (An environment of a megabyte in ten thousand steps is
/// ten gigabytes of steps.)
pub const MAX_DEFINITION: usize = 64 << 20;

/// Vertices of a build, in topological order.
#[derive(Debug, Default)]
pub struct Builder {
    vertices: Vec<Vertex>,
    size: usize,
}

impl Builder {
    /// Adds one after those it is made of.
    ///
    /// # Errors
    /// The build's definition has grown too large.
    pub fn add(&mut self, vertex: Vertex) -> Result<VertexRef, Error> {
        self.spend(vertex.name.len() + vertex.command.len())?;
        if let crate::graph::Op::Exec(exec) = &vertex.op {
            self.spend(exec.env.iter().chain(&exec.args).map(String::len).sum())?;
        }
        self.vertices.push(vertex);
        Ok(VertexRef(self.vertices.len() - 1))
    }

    /// Counts what stands elsewhere (history) towards the definition's size.
    ///
    /// # Errors
    /// The build's definition has grown too large.
    pub fn spend(&mut self, bytes: usize) -> Result<(), Error> {
        self.size += bytes;
        if self.size > MAX_DEFINITION {
            return Err(Error::invalid(format!("build definition larger than {MAX_DEFINITION} bytes")));
        }
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.vertices.len()
    }

    /// One that was added, to complete it.
    pub fn get(&mut self, vertex: VertexRef) -> &mut Vertex {
        &mut self.vertices[vertex.0]
    }

    /// Those that `ends` need, the same ones once; `ends` are where they are now.
    pub fn finish(mut self, ends: &mut [&mut Option<VertexRef>], shown: Shown) -> Vec<Vertex> {
        let visited = self.visited(ends.iter().filter_map(|end| **end));
        // When each is visited; the vertices of a definition are one, and shown as the first or last of them.
        let mut turn: Vec<Option<usize>> = vec![None; self.vertices.len()];
        visited.iter().enumerate().for_each(|(at, v)| turn[v.0] = Some(at));
        let mut moved: Vec<VertexRef> = vec![VertexRef(usize::MAX); self.vertices.len()];
        let mut known: HashMap<String, (VertexRef, usize)> = HashMap::new();
        let mut out: Vec<Vertex> = Vec::new();
        for (at, mut vertex) in self.vertices.drain(..).enumerate() {
            let Some(turn) = turn[at] else { continue };
            vertex.inputs.iter_mut().for_each(|input| *input = moved[input.0]);
            let platform = vertex.platform.as_ref().map(ToString::to_string).unwrap_or_default();
            let key =
                format!("{} {:?} {platform} {}", vertex.op.digest(), vertex.inputs, vertex.ignore_cache);
            moved[at] = match known.get_mut(&key) {
                Some((same, before)) => {
                    if (turn > *before) == (shown == Shown::Last) {
                        *before = turn;
                        let Vertex { name, lines, command, .. } = vertex;
                        let kept = &mut out[same.0];
                        (kept.name, kept.lines, kept.command) = (name, lines, command);
                    }
                    *same
                }
                None => {
                    let place = VertexRef(out.len());
                    known.insert(key, (place, turn));
                    out.push(vertex);
                    place
                }
            };
        }
        for end in ends {
            **end = end.map(|v| moved[v.0]);
        }
        out
    }

    /// What is needed, inputs before what uses them, in the order of the inputs.
    fn visited(&self, ends: impl Iterator<Item = VertexRef>) -> Vec<VertexRef> {
        let mut seen = vec![false; self.vertices.len()];
        let mut order = Vec::new();
        for end in ends {
            // The way down, each with how many of its inputs were looked at.
            let mut way: Vec<(VertexRef, usize)> = Vec::new();
            if !std::mem::replace(&mut seen[end.0], true) {
                way.push((end, 0));
            }
            while let Some((vertex, next)) = way.last_mut() {
                match self.vertices[vertex.0].inputs.get(*next).copied() {
                    Some(input) => {
                        *next += 1;
                        if !std::mem::replace(&mut seen[input.0], true) {
                            way.push((input, 0));
                        }
                    }
                    None => {
                        order.push(*vertex);
                        way.pop();
                    }
                }
            }
        }
        order
    }
}

/// As which of them the same steps are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The first on the way to the result.
    First,
    /// The last.
    Last,
}

/// Inputs of a vertex as they come.
#[derive(Debug, Default)]
pub struct Inputs(pub Vec<VertexRef>);

impl Inputs {
    /// The place of an input; the same one once.
    pub fn slot(&mut self, vertex: Option<VertexRef>) -> Option<Slot> {
        let vertex = vertex?;
        let at = self.0.iter().position(|v| *v == vertex).unwrap_or_else(|| {
            self.0.push(vertex);
            self.0.len() - 1
        });
        Some(Slot(at))
    }
}
