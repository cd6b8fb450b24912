//! The rows about builds, by stock buildx, on daemons of their own: what they leave is in nobody's cache.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::report::Target;
use super::side::{Launch, Side, launch};
use super::{Bench, Options, SLOW_RUNS, image};

/// Files of the context that is sent, and bytes of each: 200 MB.
const FILES: usize = 20_000;
const FILE: usize = 10_000;
/// Files in one folder of it.
const IN_FOLDER: usize = 200;
/// Runs of a build that takes about a second, at most.
const RUNS: usize = 7;

impl Bench {
    /// Rows about builds.
    pub fn builds(
        &mut self,
        ours: &Launch<'_>,
        options: &Options,
        cli: &Path,
        buildx: &Path,
        busybox: &Path,
    ) -> Result<()> {
        let theirs = options.peer_daemon.as_deref().map(|command| Launch::Peer { command });
        let folder = self.folder.join("builds");
        fs::create_dir_all(&folder)?;
        let archive = image::image(busybox, &self.names.image, &folder)?;
        let mut daemons = Vec::new();
        for (n, how) in [ours].into_iter().chain(&theirs).enumerate() {
            let daemon = launch(how, &folder.join(format!("daemon-{n}")), cli)?;
            daemon.side.plugin("docker-buildx", buildx)?;
            daemon.side.docker(&["load", "-q", "-i", &archive.display().to_string()])?;
            daemons.push(daemon);
        }
        let sides: Vec<&Side> = daemons.iter().map(|d| &d.side).collect();
        let runs = self.runs.min(RUNS);
        self.alternate(&sides, "buildx version (its own floor)", Target::None, runs, |s| {
            s.time(&["buildx", "version"])
        })?;

        let steps = folder.join("steps");
        fs::create_dir_all(&steps)?;
        let mut text = format!("FROM {}\nARG N\n", self.names.image);
        for step in 1..10 {
            writeln!(text, "RUN echo $N {step} > /f{step}")?;
        }
        fs::write(steps.join("Dockerfile"), text)?;
        let mut turn = 0;
        self.alternate(&sides, "build of 10 steps, cold", Target::Ratio(0.5), runs, |s| {
            turn += 1;
            build(s, &steps, &["--build-arg", &format!("N={turn}")])
        })?;
        for side in &sides {
            build(side, &steps, &["--build-arg", "N=same"])?;
        }
        self.alternate(&sides, "the same, all of it cached", Target::Ratio(0.6), runs, |s| {
            build(s, &steps, &["--build-arg", "N=same"])
        })?;

        // What of it is the daemon's: the rest is the client's start, its connections and its end.
        let name = "of it, from the first step to the image";
        self.alternate(&sides, name, Target::None, runs, |s| {
            inside(&told(s, &steps, &["--build-arg", "N=same"])?).context("no steps were told of")
        })?;

        let branches = folder.join("branches");
        fs::create_dir_all(&branches)?;
        fs::write(branches.join("Dockerfile"), of_four_branches(&self.names.image)?)?;
        self.alternate(&sides, "12 stages, 4 branches, cold", Target::Ratio(0.6), runs, |s| {
            turn += 1;
            build(s, &branches, &["--build-arg", &format!("N={turn}")])
        })?;

        let mut contexts: Vec<PathBuf> = Vec::new();
        let image = self.names.image.clone();
        let name = "context of 200 MB, 20,000 files, first";
        self.alternate(&sides, name, Target::Ratio(0.8), self.runs.min(SLOW_RUNS), |s| {
            let context = folder.join(format!("context-{}", contexts.len()));
            context_of(&context, &image).context("a context")?;
            contexts.push(context.clone());
            build(s, &context, &[])
        })?;
        // Each side knows the one it was sent last.
        let last: Vec<PathBuf> = contexts.split_off(contexts.len() - sides.len());
        for (side, context) in sides.iter().flat_map(|s| last.iter().map(move |c| (s, c))) {
            build(side, context, &[])?;
        }
        self.alternate(&sides, "the same, unchanged", Target::Ratio(0.6), runs, |s| build(s, &last[0], &[]))?;
        // What of it is the client's: its walk through the files, and its telling of each.
        let name = "of it, until the client has told of its last file";
        self.alternate(&sides, name, Target::None, runs, |s| {
            told(s, &last[0], &[])?.iter().filter_map(transferred).next_back().context("no context was sent")
        })
    }
}

/// What a daemon tells of a build.
fn told(side: &Side, folder: &Path, more: &[&str]) -> Result<Vec<serde_json::Value>> {
    let folder = folder.display().to_string();
    let args = [&["buildx", "build", "--progress=rawjson", "-t", "built"], more, &[&folder]].concat();
    let done = side.command(&args).output().context("run docker")?;
    let said = String::from_utf8_lossy(&done.stderr);
    anyhow::ensure!(done.status.success(), "{said}");
    Ok(said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Milliseconds from the begin of the first step to the end of the last, which makes the image.
fn inside(events: &[serde_json::Value]) -> Option<f64> {
    let steps = || events.iter().filter_map(|e| e["vertexes"].as_array()).flatten();
    let times =
        |which: &str| steps().filter_map(|s| s[which].as_str().and_then(time_of_day)).collect::<Vec<_>>();
    let (begun, ended) = (times("started"), times("completed"));
    let took = ended.into_iter().reduce(f64::max)? - begun.into_iter().reduce(f64::min)?;
    // Midnight was in between.
    (took < DAY / 2.0).then_some(took)
}

/// The time of a transfer that is told of as done, in milliseconds.
fn transferred(event: &serde_json::Value) -> Option<f64> {
    let all = event["statuses"].as_array()?;
    let status = all.iter().find(|s| s["id"] == "transferring context:" && s["completed"].is_string())?;
    let took = time_of_day(status["completed"].as_str()?)? - time_of_day(status["started"].as_str()?)?;
    Some(if took < 0.0 { took + DAY } else { took })
}

/// Milliseconds of a day.
const DAY: f64 = 86_400e3;

/// Milliseconds since midnight, of a time in RFC 3339.
fn time_of_day(time: &str) -> Option<f64> {
    let clock = time.split_once('T')?.1;
    let end = clock.find(['Z', '+', '-'])?;
    let parts: Vec<f64> = clock[..end].split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [hours, minutes, seconds] = parts[..] else { return None };
    Some(((hours * 60.0 + minutes) * 60.0 + seconds) * 1e3)
}

fn build(side: &Side, folder: &Path, more: &[&str]) -> Result<f64> {
    let folder = folder.display().to_string();
    side.time(&[&["buildx", "build", "-q", "-t", "built"], more, &[&folder]].concat())
}

/// Four branches of three stages, which the last stage joins; each step writes 20 MB.
fn of_four_branches(image: &str) -> Result<String> {
    let mut text = String::new();
    for branch in 0..4 {
        let mut from = image.to_owned();
        for stage in 0..3 {
            let name = format!("s{branch}{stage}");
            writeln!(text, "FROM {from} AS {name}\nARG N")?;
            writeln!(
                text,
                "RUN echo $N {name} > /{name}; dd if=/dev/urandom of=/data{stage} bs=1M count=20"
            )?;
            from = name;
        }
    }
    writeln!(text, "FROM {image}")?;
    for branch in 0..4 {
        writeln!(text, "COPY --from=s{branch}2 /s{branch}2 /")?;
    }
    Ok(text)
}

/// A folder of [`FILES`] files and a Dockerfile that takes them all; no two are alike.
fn context_of(folder: &Path, image: &str) -> Result<()> {
    let mut data = vec![0u8; FILE];
    for n in 0..FILES {
        let inside = folder.join(format!("data/{}", n / IN_FOLDER));
        if n % IN_FOLDER == 0 {
            fs::create_dir_all(&inside)?;
        }
        data[..8].copy_from_slice(&(n as u64).to_le_bytes());
        fs::write(inside.join(n.to_string()), &data)?;
    }
    fs::write(folder.join("data/of"), folder.display().to_string())?;
    fs::write(folder.join("Dockerfile"), format!("FROM {image}\nCOPY data /data\n"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_are_read_of_the_progress() {
        let status = |started: &str, completed: &str| {
            let status = serde_json::json!({ "id": "transferring context:", "started": started, "completed": completed });
            serde_json::json!({ "statuses": [{ "id": "other" }, status] })
        };
        let near = |event, expected: f64| (transferred(&event).unwrap() - expected).abs() < 1e-3;
        assert!(near(status("2026-11-22T01:02:03.25Z", "2026-11-22T01:02:04.5Z"), 1250.0));
        assert!(near(status("2026-11-22T23:59:59Z", "2026-11-23T00:00:01Z"), 2000.0));
        assert_eq!(
            transferred(&serde_json::json!({ "statuses": [{ "id": "transferring context:" }] })),
            None
        );
    }
}
