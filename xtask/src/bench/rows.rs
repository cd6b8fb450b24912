//! The rows.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::place::Memory;
use super::report::{Row, Target};
use super::side::{Launch, Side, launch};
use super::{Bench, Names, Options, SLOW_RUNS, order, sys};
use crate::debian::Debian;

/// Lines of the log rows.
const LINES: &str = "1000000";
/// After this long a daemon that was started is idle.
const SETTLED: Duration = Duration::from_secs(5);

/// Idle is what a daemon is after its start, the programs that it ran for that gone: time is all there is to wait for.
#[allow(clippy::disallowed_methods)]
fn settle() {
    std::thread::sleep(SETTLED);
}

impl Bench {
    /// Rows about daemons of their own that have nothing yet: start and idle memory.
    pub fn fresh(&mut self, ours: &Launch<'_>, options: &Options, cli: &Path) -> Result<()> {
        let theirs = options.peer_daemon.as_deref().map(|command| Launch::Peer { command });
        let kinds: Vec<&Launch<'_>> = [ours].into_iter().chain(&theirs).collect();
        let mut start = vec![Vec::new(); 2];
        let (mut rss, mut pss) = (vec![Vec::new(); 2], vec![Vec::new(); 2]);
        for turn in 0..self.runs.min(SLOW_RUNS) {
            for n in order(kinds.len(), turn) {
                let how = kinds[n];
                let folder = self.folder.join(format!("fresh-{n}-{turn}"));
                let first = launch(how, &folder, cli)?;
                settle();
                let used = first.side.daemon_memory()?;
                rss[n].push(used.rss as f64 / 1024.0);
                pss[n].push(used.pss as f64 / 1024.0);
                drop(first);
                // The second start is the ordinary one: its folders and its database are there.
                start[n].push(launch(how, &folder, cli)?.started_in);
            }
        }
        let mut add = |name: &str, unit, target, samples: Vec<Vec<f64>>, note: &str| {
            let mut samples = samples.into_iter();
            let (ours, peer) = (samples.next().unwrap_or_default(), samples.next().unwrap_or_default());
            self.row(Row { name: name.into(), unit, target, ours, peer, note: note.into() });
        };
        add("start to _ping", "ms", Target::Ratio(0.3), start, "daemons of their own");
        add("idle memory, RSS", "MB", Target::Ratio(0.2), rss, "with what it starts (containerd)");
        add("idle memory, PSS", "MB", Target::Ratio(0.2), pss, "");
        Ok(())
    }

    /// Rows about one container.
    pub fn one_container(&mut self, sides: &[&Side]) -> Result<()> {
        let names = Names::of(&self.folder)?;
        let runs = self.runs;
        self.alternate(sides, "docker version", Target::None, runs, |s| s.time(&["version"]))?;
        let args = names.run_args(&["--rm", &names.image, "true"]);
        self.alternate(sides, "run --rm true", Target::Ratio(0.4), runs, |s| s.time(&args))?;
        let args = names.run_args(&["--rm", "--network", "none", &names.image, "true"]);
        self.alternate(sides, "run --rm --network none true", Target::Ratio(0.35), runs, |s| s.time(&args))?;
        let target = names.container("exec");
        for side in sides {
            side.docker(&names.run_args(&["-d", "--name", &target, &names.image, "sleep", "100000"]))?;
        }
        let exec = ["exec", &target, "true"];
        for side in sides {
            side.docker(&exec)?;
        }
        self.alternate(sides, "exec true", Target::Ratio(0.55), runs, |s| s.time(&exec))?;
        let mut groups = Vec::new();
        for side in sides {
            groups.push(side.place.controllers(side.container_pid(&target)?)?);
            println!("  cgroups of a container, {}: {}", side.name, groups[groups.len() - 1]);
        }
        if groups.windows(2).any(|g| g[0] != g[1]) {
            println!(
                "  THESE DIFFER: in rows that create, start, exec or remove, the two did not do the same work"
            );
        }
        Ok(())
    }

    /// Rows about many containers at once.
    pub fn many(&mut self, sides: &[&Side]) -> Result<()> {
        let names = Names::of(&self.folder)?;
        let many: Vec<String> = (0..self.many).map(|n| names.container(n)).collect();
        let starts: Vec<Vec<String>> = many
            .iter()
            .map(|name| names.run_args(&["-d", "--name", name, &names.image, "sleep", "100000"]))
            .map(|args| args.into_iter().map(str::to_owned).collect())
            .collect();
        let (mut up, mut down, mut ps) = (vec![Vec::new(); 2], vec![Vec::new(); 2], vec![Vec::new(); 2]);
        let mut shim = vec![Vec::new(); 2];
        for turn in 0..self.runs.min(SLOW_RUNS) {
            for n in order(sides.len(), turn) {
                let side = sides[n];
                let mut pids = Vec::new();
                up[n].push(side.time_parallel(&starts).context("many at once")?);
                if turn == 0 {
                    for name in &many {
                        let pid = side.container_pid(name)?;
                        pids.push(pid);
                        let parent = side.place.parent(pid)?.with_context(|| format!("{name} has ended"))?;
                        let memory = side.place.memory(parent)?.context("the shim has ended")?;
                        shim[n].push(memory.pss as f64 / 1024.0);
                    }
                }
                for _ in 0..5 {
                    ps[n].push(side.time(&["ps"])?);
                }
                let args: Vec<&str> =
                    ["rm", "-f"].into_iter().chain(many.iter().map(String::as_str)).collect();
                down[n].push(side.time(&args)?);
                // Acknowledged means gone: from the list, and the processes too.
                let format = "{{.Names}}\t{{.Status}}\t{{.Command}}";
                let list = side.docker(&[
                    "ps",
                    "-a",
                    "--filter",
                    &format!("label={}", names.label),
                    "--format",
                    format,
                ])?;
                let left: Vec<&str> = list
                    .lines()
                    .filter(|l| !l.starts_with(&format!("{}\t", names.container("exec"))))
                    .collect();
                ensure!(left.is_empty(), "{}: containers are left: {}", side.name, left.join("; "));
                let alive = side.place.alive(&pids)?;
                ensure!(alive == 0, "{}: {alive} processes outlive the rm -f of their containers", side.name);
            }
        }
        for (name, unit, target, samples) in [
            (format!("{} parallel run -d", self.many), "ms", Target::Ratio(0.3), up),
            (format!("ps, {} running", self.many + 1), "ms", Target::None, ps),
            (format!("rm -f {} running", self.many), "ms", Target::Ratio(0.2), down),
            (format!("shim PSS, {} running", self.many), "MB", Target::AtMost(0.2), shim),
        ] {
            let mut samples = samples.into_iter();
            let (ours, peer) = (samples.next().unwrap_or_default(), samples.next().unwrap_or_default());
            self.row(Row { name, unit, target, ours, peer, note: String::new() });
        }
        Ok(())
    }

    /// Rows about output.
    pub fn streams(&mut self, sides: &[&Side]) -> Result<()> {
        let names = Names::of(&self.folder)?;
        let runs = self.runs.min(SLOW_RUNS);
        let log = names.container("log");
        let args = names.run_args(&["--name", &log, &names.image, "seq", LINES]);
        self.alternate(sides, "run, 1e6 lines (attach and log)", Target::Ratio(0.7), runs, |s| {
            let _ = s.docker(&["rm", "-f", &log]);
            s.time(&args)
        })?;
        for side in sides {
            let mut command = side.command(&["logs", &log]);
            let out = command.stderr(Stdio::null()).output()?;
            let lines = out.stdout.iter().filter(|b| **b == b'\n').count();
            ensure!(lines.to_string() == LINES, "{}: logs shows {lines} of {LINES} lines", side.name);
        }
        let args = ["logs", &log];
        self.alternate(sides, "logs, 1e6 lines", Target::Ratio(0.4), runs, |s| s.time(&args))?;
        let args = names.run_args(&[
            "--rm",
            "--log-driver",
            "none",
            &names.image,
            "dd",
            "if=/dev/zero",
            "bs=1M",
            "count=100",
        ]);
        for side in sides {
            let got = side.command(&args).output()?.stdout.len();
            ensure!(got == 100 << 20, "{}: {got} bytes of 100 MB came through attach", side.name);
        }
        self.alternate(sides, "attach, 100 MB", Target::Ratio(0.7), runs, |s| s.time(&args))
    }

    /// Memory before there is any container; daemons of a guest are no daemons of the benchmark's own.
    pub fn idle_memory(&mut self, sides: &[&Side]) -> Result<()> {
        let used = sides.iter().map(|s| s.daemon_memory()).collect::<Result<Vec<_>>>()?;
        let row = |name: &str, of: fn(&Memory) -> u64, note: &str| {
            let mut samples = used.iter().map(|m| vec![of(m) as f64 / 1024.0]);
            let (ours, peer) = (samples.next().unwrap_or_default(), samples.next().unwrap_or_default());
            Row { name: name.into(), unit: "MB", target: Target::Ratio(0.2), ours, peer, note: note.into() }
        };
        let rows = [
            row("idle memory, RSS", |m| m.rss, "with what it starts (containerd)"),
            row("idle memory, PSS", |m| m.pss, ""),
        ];
        rows.into_iter().for_each(|row| self.row(row));
        Ok(())
    }

    /// Memory after the rows before.
    pub fn memory_after(&mut self, sides: &[&Side]) -> Result<()> {
        let mut samples = vec![Vec::new(); 2];
        for (n, side) in sides.iter().enumerate() {
            samples[n].push(side.daemon_memory()?.pss as f64 / 1024.0);
        }
        let peer = samples.pop().unwrap_or_default();
        let ours = samples.pop().unwrap_or_default();
        let note = "the peer also has its own past and images".to_owned();
        self.row(Row {
            name: "PSS after this load".into(),
            unit: "MB",
            target: Target::None,
            ours,
            peer,
            note,
        });
        Ok(())
    }

    /// How often each side forces data to disk: create, start, rm of one container.
    pub fn syncs(&mut self, sides: &[&Side]) -> Result<()> {
        let names = Names::of(&self.folder)?;
        let tree = Debian::open("bookworm")?.tree("strace", &["strace"])?;
        let name: &str = &names.container("sync");
        let steps: [(&str, Vec<&str>); 3] = [
            ("create", vec!["create", "--label", &names.label, "--name", name, &names.image, "true"]),
            ("start to exit", vec!["start", "-a", name]),
            ("rm", vec!["rm", name]),
        ];
        for (step, args) in steps {
            let mut samples = vec![Vec::new(); 2];
            for (n, side) in sides.iter().enumerate() {
                let pids = side.place.daemon(&side.socket)?;
                let mut strace = tree.command("/usr/bin/strace");
                let count = sys::syncs(&mut strace, &pids, &self.folder.join("strace"), || {
                    side.docker(&args).map(drop)
                })?;
                samples[n].push(count as f64);
            }
            let peer = samples.pop().unwrap_or_default();
            let ours = samples.pop().unwrap_or_default();
            let note = "fsync, fdatasync, syncfs, sync".to_owned();
            self.row(Row {
                name: format!("syncs of {step}"),
                unit: "",
                target: Target::None,
                ours,
                peer,
                note,
            });
        }
        Ok(())
    }
}
