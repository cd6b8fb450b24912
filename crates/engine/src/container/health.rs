//! Health checks: a command run in a container again and again, and what it says.
//!
//! ```text
//!   start --> starting --success--> healthy <--success-- unhealthy
//!                |                     '--`retries` failures in a row--^
//!                '--`retries` failures, those in the start period left out--^
//! ```
//! The container's task owns the [`Health`]; a monitor of its own runs the command and tells the task each result.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::config::{Config, Healthcheck};
use super::{Command, Record, spec};
use crate::engine::Engine;
use crate::exec::ExecConfig;

/// Docker's defaults for what a health check does not say.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Results kept, and bytes of output kept of each.
const KEPT: usize = 5;
const OUTPUT: usize = 4096;
/// How long a command that was killed may take to go.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// What a container's health checks have found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No check has succeeded yet, nor failed often enough.
    #[default]
    Starting,
    /// The last ones succeeded.
    Healthy,
    /// Too many in a row failed.
    Unhealthy,
}

impl Status {
    /// Docker's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One run of the command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// RFC 3339.
    pub start: String,
    /// RFC 3339.
    pub end: String,
    /// Its exit code; -1: it could not run, or took too long.
    pub exit_code: i32,
    /// The beginning of what it said.
    pub output: String,
}

/// What is known of a container's health.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// What the checks say.
    pub status: Status,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last results.
    pub log: Vec<Probe>,
}

impl Health {
    /// Enters a result; whether the status is another now. `age`: how long the container had run when the command
    /// began.
    pub fn enter(&mut self, probe: Probe, check: &Healthcheck, age: Duration) -> bool {
        let before = self.status;
        if probe.exit_code == 0 {
            self.failing_streak = 0;
            self.status = Status::Healthy;
        } else if self.status != Status::Starting || age >= or(check.start_period, Duration::ZERO) {
            self.failing_streak += 1;
            let retries = u32::try_from(check.retries).ok().filter(|r| *r > 0).unwrap_or(RETRIES);
            if self.failing_streak >= retries {
                self.status = Status::Unhealthy;
            }
        }
        self.log.push(probe);
        let excess = self.log.len().saturating_sub(KEPT);
        self.log.drain(..excess);
        self.status != before
    }

    /// As `inspect` shows it.
    pub fn to_json(&self) -> Value {
        let probe = |p: &Probe| json!({ "Start": p.start, "End": p.end, "ExitCode": p.exit_code, "Output": p.output });
        json!({
            "Status": self.status.name(), "FailingStreak": self.failing_streak,
            "Log": self.log.iter().map(probe).collect::<Vec<_>>(),
        })
    }
}

fn or(nanoseconds: i64, default: Duration) -> Duration {
    match u64::try_from(nanoseconds) {
        Ok(0) | Err(_) => default,
        Ok(n) => Duration::from_nanos(n),
    }
}

/// The command of a container's health check; `None` when it has none.
pub fn command(config: &Config) -> Option<(&Healthcheck, Vec<String>)> {
    let check = config.healthcheck.as_ref()?;
    let (kind, rest) = check.test.split_first()?;
    let command = match kind.as_str() {
        "CMD" => rest.to_vec(),
        "CMD-SHELL" => {
            let shell = config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
            shell.into_iter().chain(rest.first().cloned()).collect()
        }
        _ => return None,
    };
    (!command.is_empty()).then_some((check, command))
}

/// Ends with the value: the monitor of one run.
pub struct Monitor(tokio::task::JoinHandle<()>);

impl Drop for Monitor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to check a container that has just started, or was found running; `None` when it has no check.
pub fn watch(engine: &Arc<Engine>, record: &Record, container: &runtime::Container) -> Option<Monitor> {
    let (check, command) = command(&record.config)?;
    let (engine, check, container) = (engine.clone(), check.clone(), container.clone());
    let record = Arc::new(record.clone());
    let started = crate::time::parse(&record.last.started_at).unwrap_or_else(SystemTime::now);
    Some(Monitor(tokio::spawn(async move {
        let mut status = record.last.health.as_ref().map(|h| h.status).unwrap_or_default();
        loop {
            let age = started.elapsed().unwrap_or_default();
            let in_start = status == Status::Starting && age < or(check.start_period, Duration::ZERO);
            let interval = or(check.interval, INTERVAL);
            // dockerd's default is five seconds, though checks be asked for more often than that.
            let pause =
                if in_start { or(check.start_interval, START_INTERVAL.min(interval)) } else { interval };
            tokio::time::sleep(pause).await;
            // Gone with its container: then this ends too.
            let Ok(handle) = engine.containers.find(&record.id) else { return };
            if matches!(handle.view().status, super::Status::Running { paused: true, .. }) {
                continue;
            }
            let age = started.elapsed().unwrap_or_default();
            let probe = run(&engine, &record, &container, &command, or(check.timeout, TIMEOUT)).await;
            match handle.ask(|reply| Command::Probed { probe, age, reply }).await {
                Ok(now) => status = now,
                Err(_) => return,
            }
        }
    })))
}

/// Runs the command once.
async fn run(
    engine: &Arc<Engine>,
    record: &Arc<Record>,
    container: &runtime::Container,
    command: &[String],
    limit: Duration,
) -> Probe {
    let start = crate::time::now();
    let (exit_code, output) = match attempt(engine, record, container, command, limit).await {
        Ok(result) => result,
        Err(words) => (-1, words),
    };
    Probe { start, end: crate::time::now(), exit_code, output }
}

async fn attempt(
    engine: &Arc<Engine>,
    record: &Arc<Record>,
    container: &runtime::Container,
    command: &[String],
    limit: Duration,
) -> Result<(i32, String), String> {
    let config = ExecConfig { cmd: command.to_vec(), ..ExecConfig::default() };
    let process = spec::exec_process(engine, record, container, &config).await.map_err(|e| e.message)?;
    let id = crate::names::random_id();
    let tell = |action: String, more: &[(&str, String)]| {
        let mut all = vec![("execID", id.clone())];
        all.extend(more.iter().cloned());
        engine.container_event(record, &action, &all);
    };
    let words = command.join(" ");
    tell(format!("exec_create: {words}"), &[]);
    let exec = runtime::ExecSpec {
        process,
        tty: false,
        stdin: false,
        stdout: true,
        stderr: true,
        console_size: None,
    };
    let failed = |e: runtime::Error| {
        format!("OCI runtime exec failed: exec failed: unable to start container process: {e}")
    };
    let exec = container.exec(exec).await.map_err(failed)?;
    let want = runtime::AttachWant { stdout: true, stderr: true, ..runtime::AttachWant::default() };
    let attachment = exec.attach(want).await.map_err(failed)?;
    exec.start().await.map_err(failed)?;
    tell(format!("exec_start: {words}"), &[]);
    let mut output = Output::default();
    let said = async {
        output.read(attachment.reader).await;
        exec.wait().await
    };
    let result = match tokio::time::timeout(limit, said).await {
        Ok(Ok(exit)) => Ok((i32::from(exit.code), output.text())),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => {
            // Already gone is fine.
            let _ = exec.kill(libc::SIGKILL).await;
            let _ = tokio::time::timeout(KILL_PATIENCE, exec.wait()).await;
            let words = format!("Health check exceeded timeout ({})", in_go(limit));
            // What it said until then may tell why.
            let said = output.text();
            Err(if said.is_empty() { words } else { format!("{words}: {said}") })
        }
    };
    tell("exec_die".into(), &[("exitCode", result.as_ref().map_or(-1, |(code, _)| *code).to_string())]);
    result
}

/// A duration as Go writes it, for what people give: `1m30s`, `500ms`.
fn in_go(d: Duration) -> String {
    let seconds = d.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0) => format!("{}ms", d.as_millis()),
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

/// What both streams of a command have said, up to the limit.
#[derive(Default)]
struct Output {
    kept: Vec<u8>,
    cut: bool,
}

impl Output {
    /// Reads frames until the end; what is beyond the limit is dropped.
    async fn read(&mut self, mut stream: tokio::net::unix::OwnedReadHalf) {
        let mut head = [0; 8];
        while stream.read_exact(&mut head).await.is_ok() {
            let mut left = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            let mut piece = [0; 4096];
            while left > 0 {
                let want = left.min(piece.len());
                let n = match stream.read(&mut piece[..want]).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => n,
                };
                left -= n;
                let room = OUTPUT.saturating_sub(self.kept.len()).min(n);
                self.kept.extend_from_slice(&piece[..room]);
                self.cut |= room < n;
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.kept).into_owned();
        if self.cut {
            text.push_str("...");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(exit_code: i32) -> Probe {
        Probe { start: String::new(), end: String::new(), exit_code, output: String::new() }
    }

    #[test]
    fn failures_in_a_row_make_it_unhealthy_and_one_success_healthy() {
        let check = Healthcheck { retries: 2, ..Healthcheck::default() };
        let mut health = Health::default();
        let old = Duration::from_secs(60);
        assert!(!health.enter(probe(1), &check, old));
        assert!(health.enter(probe(1), &check, old));
        assert_eq!((health.status, health.failing_streak), (Status::Unhealthy, 2));
        assert!(health.enter(probe(0), &check, old));
        assert!(!health.enter(probe(1), &check, old), "one failure of two");
        assert_eq!((health.status, health.failing_streak), (Status::Healthy, 1));
        for _ in 0..9 {
            health.enter(probe(0), &check, old);
        }
        assert_eq!(health.log.len(), KEPT);
    }

    #[test]
    fn failures_in_the_start_period_do_not_count() {
        let check = Healthcheck { retries: 1, start_period: 10_000_000_000, ..Healthcheck::default() };
        let mut health = Health::default();
        assert!(!health.enter(probe(1), &check, Duration::from_secs(9)));
        assert_eq!(health.failing_streak, 0);
        assert!(health.enter(probe(0), &check, Duration::from_secs(9)));
        // Once it was healthy, the start period is over.
        assert!(health.enter(probe(1), &check, Duration::from_secs(9)));
        assert_eq!(health.status, Status::Unhealthy);
    }

    #[test]
    fn the_command_is_run_by_a_shell_or_as_it_is() {
        let config = |test: &[&str]| Config {
            healthcheck: Some(Healthcheck {
                test: test.iter().map(|t| (*t).to_owned()).collect(),
                ..Healthcheck::default()
            }),
            ..Config::default()
        };
        let of = |test: &[&str]| command(&config(test)).map(|(_, c)| c);
        assert_eq!(of(&["CMD", "a", "b"]).unwrap(), ["a", "b"]);
        assert_eq!(of(&["CMD-SHELL", "a b"]).unwrap(), ["/bin/sh", "-c", "a b"]);
        assert_eq!(of(&["NONE"]), None);
        assert_eq!(of(&[]), None);
        assert_eq!(in_go(Duration::from_secs(90)), "1m30s");
    }
}
