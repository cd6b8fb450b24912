//! The differential test: the same commands of the stock CLI, and the same requests, are run against a real dockerd
//! and against our engine, and what they answer is compared.
//!
//! dockerd's answers are recorded (`cargo xtask fixtures --peer SOCKET`) below `tests/fixtures/dockerd/`, so that no
//! dockerd is needed to run the test.
//!
//! # To add a line
//! 1. Write it into a file of `tests/fixtures/cases/` (a new file is a new group, with an engine of its own):
//!
//!    ```text
//!    == a name for the case
//!    setup: docker create --name d-a d-busybox
//!    run: docker start d-a
//!    json: api GET /containers/d-a/json
//!    ```
//! 2. `cargo xtask fixtures --peer SOCKET [GROUP]`, and read what the diff of the fixture says.
//! 3. `cargo xtask test what_dockerd_says_we_say`. A difference that is meant goes into `tests/fixtures/known.txt`
//!    with its reason; one that is not, into the engine.
//!
//! Every line is a shell's. What it says behind the first word:
//!
//! | word | compared |
//! |---|---|
//! | `setup:` | nothing; it must succeed |
//! | `run:` | exit code, standard output, standard error |
//! | `sorted:` | the same, lines of the output in any order |
//! | `exit:` | the exit code |
//! | `json:` | the same as `run:`, but the output is JSON, compared value by value, absent, `null` and `[]` told apart |
//! | `steps:` | exit code, and what a build's raw report on standard error (`--progress=rawjson`) says of its steps ([`told`]) |
//! | `shape:` | as `json:`, but only which fields there are and of which type |
//!
//! A line that begins with white space goes on with the line before. In the shell there are `docker` (the stock CLI), `compose` (docker-compose),
//! `api METHOD PATH [BODY]` (a raw request; prints `HTTP status` and the body), `try OPTIONS` (makes a container with them
//! and removes it), `build IMAGE OPTIONS` and `tree IMAGE PATHS` (an image of the case's folder, and what is in one),
//! `repository COMMAND` (runs it while git serves the folder's repositories, `repo` among them),
//! `$START` (the case's begin as
//! `docker events --since` takes it), and `$DIR`, a folder of the case's own. Images: `d-busybox`, `d-rich` (all that an
//! image's configuration can say) and a registry at `127.0.0.1:5000`.
//!
//! **Everything a case makes is called `d-...`**: what is left is removed by that after each case. Before comparing,
//! both sides pass the named rules of [`rules`].

mod case;
mod compare;
mod known;
mod rules;
mod side;
mod told;

pub use case::{Case, Compared, Group, Step};
pub use compare::{Difference, compare};
pub use known::Known;
pub use side::Side;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

/// What a step answered, after the rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The exit code.
    pub code: i32,
    /// The standard output; or the JSON document it is.
    pub out: Value,
    /// The standard error.
    pub err: String,
    /// What was said where only the exit code counts: not compared, nor recorded, but told when the codes differ.
    pub said: String,
}

/// Recorded answers of a group, by case and step.
#[derive(Debug, Default)]
pub struct Fixture {
    /// Which dockerd answered.
    pub peer: Value,
    /// Per case: each compared line with its answer.
    pub cases: BTreeMap<String, Vec<(String, Answer)>>,
}

/// `tests/fixtures`.
pub fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures"))
}

impl Fixture {
    fn path(group: &str) -> PathBuf {
        folder().join("dockerd").join(format!("{group}.json"))
    }

    /// Reads the recording of a group.
    pub fn read(group: &str) -> Self {
        let path = Self::path(group);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("{}: {e}: record it by `cargo xtask fixtures`", path.display()));
        let all: Value = serde_json::from_str(&text).expect("a recording is JSON");
        let answer = |step: &Value| Answer {
            said: String::new(),
            code: step["code"].as_i64().expect("a code") as i32,
            out: step["out"].clone(),
            err: step["err"].as_str().unwrap_or_default().to_owned(),
        };
        let steps = |steps: &Value| {
            let list = steps.as_array().expect("a case is a list of steps");
            list.iter().map(|s| (s["line"].as_str().expect("a line").to_owned(), answer(s))).collect()
        };
        let cases = all["cases"].as_object().expect("cases");
        Self {
            peer: all["peer"].clone(),
            cases: cases.iter().map(|(name, list)| (name.clone(), steps(list))).collect(),
        }
    }

    /// Writes the recording of a group.
    pub fn write(&self, group: &str) {
        let step = |(line, a): &(String, Answer)| {
            let mut out = json!({ "line": line, "code": a.code, "out": a.out });
            if !a.err.is_empty() {
                out["err"] = json!(a.err);
            }
            out
        };
        let cases: BTreeMap<&String, Vec<Value>> =
            self.cases.iter().map(|(name, steps)| (name, steps.iter().map(step).collect())).collect();
        let text = serde_json::to_string_pretty(&json!({ "peer": self.peer, "cases": cases })).expect("JSON");
        let path = Self::path(group);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder of recordings");
        std::fs::write(&path, text + "\n").expect("write the recording");
    }
}
