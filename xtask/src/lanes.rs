//! Test programs side by side, in two lanes: what boots guests, one at a time, waits for them most of the time, and what
//! runs on this computer itself fills that time. A lane that has nothing left of its own takes what the other has.
//!
//! What a program says is kept in `target/test-logs/` and shown as a whole when it has ended. All of them run, though one
//! fails.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::target_dir;

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// It boots guests.
    Guest,
    /// It does not.
    Bare,
}

/// One lane each: two processors are what a run is made for.
const LANES: [Lane; 2] = [Lane::Guest, Lane::Bare];
/// A source that has one of these words boots guests: by the end-to-end tests' machines, or by the command line's own.
const BOOTS: [&str; 2] = ["Machine::start", "CORACLE_TEST_MACHINE"];

/// A test program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The package, and which of its programs.
    pub name: String,
    /// The package alone.
    pub package: String,
    file: PathBuf,
    folder: PathBuf,
    lane: Lane,
}

impl Program {
    /// The program of one of cargo's messages, if it speaks of one.
    fn of(message: &Value) -> Option<Self> {
        let file = PathBuf::from(message["executable"].as_str()?);
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
            return None;
        }
        let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
        let package = folder.file_name()?.to_string_lossy().into_owned();
        let target = &message["target"];
        let (kind, name) = (target["kind"][0].as_str()?, target["name"].as_str()?);
        let source = Path::new(target["src_path"].as_str()?);
        let (name, lane) = match kind {
            "test" => (format!("{package}: {name}"), lane_of(source)),
            // Unit tests; programs have some as well.
            kind => (format!("{package}: {kind} {name}"), Lane::Bare),
        };
        Some(Self { name, package, file, folder, lane })
    }
}

/// Where an integration test runs, by its source, or all that lies beside one in a folder of its own.
fn lane_of(source: &Path) -> Lane {
    let mut sources = vec![source.to_owned()];
    if let (Some("main.rs"), Some(folder)) = (source.file_name().and_then(|n| n.to_str()), source.parent()) {
        sources.extend(std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    let boots = |text: String| BOOTS.iter().any(|word| text.contains(word));
    if sources.iter().any(|s| std::fs::read_to_string(s).is_ok_and(boots)) { Lane::Guest } else { Lane::Bare }
}

/// Builds all that the workspace has, and answers which programs are tests.
pub fn build(cargo: &mut Command) -> Result<Vec<Program>> {
    // `cargo test --no-run` would leave out programs that no test runs, and these are to be linted as well.
    cargo.args(["build", "--workspace", "--all-targets", "--locked", "--quiet"]);
    cargo.arg("--message-format=json-render-diagnostics");
    let out = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("run cargo")?;
    ensure!(out.status.success(), "the tests could not be built (above is why)");
    let lines = String::from_utf8(out.stdout).context("cargo's messages")?;
    let messages = lines.lines().map(serde_json::from_str::<Value>);
    Ok(messages
        .collect::<Result<Vec<_>, _>>()
        .context("cargo's messages")?
        .iter()
        .filter_map(Program::of)
        .collect())
}

/// Something to run.
pub struct Job {
    name: String,
    lane: Lane,
    command: Command,
    /// It wants what is built meanwhile.
    waits: bool,
}

impl Job {
    /// All tests of a program whose names contain `filter`; with `environment`.
    pub fn of(program: &Program, filter: Option<&str>, environment: &[(OsString, OsString)]) -> Self {
        let mut command = Command::new(&program.file);
        command.args(filter).current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder);
        command.envs(environment.iter().cloned());
        Self { name: program.name.clone(), lane: program.lane, command, waits: false }
    }

    /// Anything else, beside guests.
    pub fn other(name: &str, command: Command) -> Self {
        Self { name: name.to_owned(), lane: Lane::Bare, command, waits: false }
    }

    /// The same, when what is built meanwhile is there.
    pub fn afterwards(self) -> Self {
        Self { waits: true, ..self }
    }
}

/// What is still to be run, and what came of the rest.
struct Queue {
    waiting: VecDeque<Job>,
    /// Environment of those that wait, once it is known.
    built: Option<Vec<(OsString, OsString)>>,
    failed: Vec<String>,
}

impl Queue {
    /// The next for a lane: of its own kind first.
    fn take(&mut self, lane: Lane) -> Option<Job> {
        let ready = |job: &Job| !job.waits || self.built.is_some();
        let own = self.waiting.iter().position(|job| job.lane == lane && ready(job));
        let next = own.or_else(|| self.waiting.iter().position(ready))?;
        let mut job = self.waiting.remove(next)?;
        if let (true, Some(environment)) = (job.waits, &self.built) {
            job.command.envs(environment.iter().cloned());
        }
        Some(job)
    }
}

/// Runs all jobs; those that wait begin when `build`, which goes on beside the others, has answered their environment.
pub fn run(jobs: Vec<Job>, build: impl FnOnce() -> Result<Vec<(OsString, OsString)>>) -> Result<()> {
    run_in(&target_dir().join("test-logs"), jobs, build)
}

fn run_in(
    logs: &Path,
    jobs: Vec<Job>,
    build: impl FnOnce() -> Result<Vec<(OsString, OsString)>>,
) -> Result<()> {
    std::fs::create_dir_all(logs).with_context(|| format!("make {}", logs.display()))?;
    let queue = Mutex::new(Queue { waiting: jobs.into(), built: None, failed: Vec::new() });
    let changed = Condvar::new();
    let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    let built = std::thread::scope(|scope| {
        for lane in LANES {
            let (lock, changed) = (&lock, &changed);
            scope.spawn(move || {
                loop {
                    let mut queue = lock();
                    let Some(job) = queue.take(lane) else {
                        if queue.waiting.is_empty() {
                            return;
                        }
                        drop(changed.wait(queue));
                        continue;
                    };
                    drop(queue);
                    let name = job.name.clone();
                    if let Err(error) = one(job, logs) {
                        eprintln!("== {name} FAILED: {error:#}");
                        lock().failed.push(name);
                    }
                }
            });
        }
        let built = build();
        let mut queue = lock();
        match &built {
            Ok(environment) => queue.built = Some(environment.clone()),
            // Nothing that wants it can run.
            Err(_) => queue.waiting.retain(|job| !job.waits),
        }
        drop(queue);
        changed.notify_all();
        built
    });
    let failed = std::mem::take(&mut lock().failed);
    built?;
    ensure!(failed.is_empty(), "tests failed: {}", failed.join(", "));
    Ok(())
}

/// Runs one and shows what it said.
fn one(mut job: Job, logs: &Path) -> Result<()> {
    let log = logs.join(format!("{}.log", job.name.replace([' ', ':', '/'], "-")));
    let out = std::fs::File::create(&log).with_context(|| format!("write {}", log.display()))?;
    let started = Instant::now();
    let command = job.command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let status = command.status().with_context(|| format!("run {}", job.name));
    let said = std::fs::read(&log).unwrap_or_default();
    // In one piece: the other lane speaks as well.
    eprint!(
        "== {}\n{}== {}: {:.1} s\n",
        job.name,
        String::from_utf8_lossy(&said),
        job.name,
        started.elapsed().as_secs_f32()
    );
    let status = status?;
    ensure!(status.success(), "{status} ({})", log.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;
    use serde_json::json;

    fn job(name: &str, lane: Lane) -> Job {
        Job { lane, ..Job::other(name, Command::new("true")) }
    }

    fn queue(waiting: Vec<Job>) -> Queue {
        Queue { waiting: waiting.into(), built: None, failed: Vec::new() }
    }

    #[test]
    fn a_lane_takes_its_own_first_and_then_what_is_left() {
        let mut queue = queue(vec![
            job("bare", Lane::Bare),
            job("guest", Lane::Guest),
            job("another guest", Lane::Guest),
            job("later", Lane::Guest).afterwards(),
        ]);
        let mut take = |lane| queue.take(lane).map(|job| job.name);
        assert_eq!(take(Lane::Guest).as_deref(), Some("guest"));
        assert_eq!(take(Lane::Bare).as_deref(), Some("bare"));
        assert_eq!(take(Lane::Bare).as_deref(), Some("another guest"));
        assert_eq!(take(Lane::Guest), None, "what it wants is not built yet");
        queue.built = Some(vec![("BIN".into(), "/bin".into())]);
        let last = queue.take(Lane::Bare).expect("it is built now");
        assert!(last.command.get_envs().any(|(key, value)| key == "BIN" && value == Some("/bin".as_ref())));
    }

    /// What cargo says of a program whose source is this.
    fn message(source: &Path) -> Value {
        json!({
            "reason": "compiler-artifact", "manifest_path": workspace().join("tests/Cargo.toml"),
            "target": { "kind": ["test"], "name": "x", "src_path": source },
            "profile": { "test": true }, "executable": "/target/x-1",
        })
    }

    #[test]
    fn what_boots_guests_is_known_by_its_source() {
        let lane = |source: &str| Program::of(&message(&workspace().join(source))).expect("a program").lane;
        for source in
            ["tests/tests/outside.rs", "tests/tests/power_cuts.rs", "crates/cli/tests/machine/main.rs"]
        {
            assert_eq!(lane(source), Lane::Guest, "{source}");
        }
        for source in ["tests/tests/volumes.rs", "crates/cli/tests/settings.rs"] {
            assert_eq!(lane(source), Lane::Bare, "{source}");
        }
    }

    #[test]
    fn of_what_cargo_builds_only_test_programs_are_run() {
        let program = message(Path::new("/none.rs"));
        assert_eq!(Program::of(&program).expect("one").name, "tests: x");
        for (key, value) in [
            ("reason", json!("build-finished")),
            ("executable", Value::Null),
            ("profile", json!({ "test": false })),
        ] {
            let mut other = program.clone();
            other[key] = value;
            assert_eq!(Program::of(&other), None, "{key}");
        }
    }

    /// Jobs that write their names into a file, one after the other or at once.
    #[test]
    fn every_program_runs_once_though_others_fail_and_all_that_failed_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let ran = folder.path().join("ran");
        let shell = |name: &str, code: i32| {
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("echo {name} $BIN >> {}; exit {code}", ran.display()));
            Job::other(name, command)
        };
        let jobs = vec![
            shell("a", 0),
            Job { lane: Lane::Guest, ..shell("b", 1) },
            shell("c", 0).afterwards(),
            shell("d", 3).afterwards(),
        ];
        let done = run_in(folder.path(), jobs, || Ok(vec![("BIN".into(), "there".into())]));
        let why = done.unwrap_err().to_string();
        let mut failed: Vec<&str> = why.strip_prefix("tests failed: ").expect(&why).split(", ").collect();
        failed.sort_unstable();
        assert_eq!(failed, ["b", "d"]);
        let text = std::fs::read_to_string(&ran).unwrap();
        let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["a", "b", "c there", "d there"]);

        // What could not be built is the reason then, and the others have run.
        std::fs::remove_file(&ran).unwrap();
        let jobs = vec![shell("a", 0), shell("c", 0).afterwards()];
        let done = run_in(folder.path(), jobs, || anyhow::bail!("no programs"));
        assert_eq!(done.unwrap_err().to_string(), "no programs");
        assert_eq!(std::fs::read_to_string(&ran).unwrap().trim(), "a");
    }
}
