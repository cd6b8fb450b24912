//! What the classic builder tells of a build: its instructions one after the other, whatever the order they are done in.

use std::collections::{HashMap, HashSet};

use bollard_buildkit_proto::moby::buildkit::v1 as proto;

use super::{Told, short};
use crate::Error;
use crate::checks::Checks;
use crate::dockerfile::stages::Stages;
use crate::dockerfile::{Command, parse, stages};
use crate::graph::{Graph, Op};

/// Arguments that need no `ARG`.
const PREDEFINED: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY", "SOURCE_DATE_EPOCH"];

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
pub(super) struct Show {
    lines: Vec<Line>,
    known: HashMap<String, Known>,
    /// The instruction that is being shown, and whether its head was.
    at: usize,
    begun: bool,
    declared: HashSet<String>,
    /// What is to be told next.
    pub(super) out: Vec<Told>,
}

impl Show {
    pub(super) fn new(graph: &Graph, target: &str) -> Result<Self, Error> {
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
    pub(super) fn take(&mut self, event: &proto::StatusResponse) {
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
    pub(super) fn begin_at(&mut self, start: u32) {
        self.at = self.lines.iter().position(|l| l.start == start).unwrap_or(0);
        self.one_begins();
    }

    /// Shows the instruction that failed, with what it has written.
    pub(super) fn failed(&mut self) {
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
    pub(super) fn all_but_last(&mut self) {
        while self.at + 1 < self.lines.len() {
            if !self.one() {
                self.next();
            }
        }
        self.one_begins();
    }

    /// The image is there.
    pub(super) fn last(&mut self, id: &str) {
        let steps = self.lines.get(self.at).map(|l| l.steps.clone()).unwrap_or_default();
        let cached = |s: &String| self.known.get(s).is_some_and(|k| k.cached);
        if !steps.is_empty() && steps.iter().all(cached) {
            self.text(" ---> Using cache\n".into());
        }
        self.text(format!(" ---> {}\n", short(id)));
    }

    /// Says which build arguments nothing asks for.
    pub(super) fn unused(&mut self, given: Vec<&str>) {
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
}
