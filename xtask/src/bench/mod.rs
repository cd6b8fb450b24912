//! `cargo xtask bench`: our engine beside a real dockerd, measured alternately in one run.
//!
//! Ours is the staged engine in namespaces of its own; the peer is whatever serves Docker's API on `--peer SOCKET`.
//! Both are driven by the same stock CLI, and both get the same image (loaded from one archive).
//! Rows that need an empty daemon (cold pull, start, idle memory) start one of each kind with a folder of its own:
//! the peer's by `--peer-daemon CMD`, a shell command that serves on `$BENCH_SOCKET` with its data below
//! `$BENCH_ROOT`. So nothing of a peer that others use is removed or restarted, both sides pull into an empty folder
//! each time, and a file system that slows down after deletions (ext4 without a journal does, for minutes) meets
//! both alike: nothing is deleted before the end.
//!
//! A command that fails ends the benchmark with an error: it is never a time. A missed target is reported, no error.

mod report;
mod side;
mod sys;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::debian::{Debian, hex};
use crate::{stage, tools};
use report::{Row, Target};
use side::{Daemon, Launch, Side, launch};
use sys::{Running, Sandbox, daemon_processes, memory};

/// Containers that run at once in the rows about many.
const MANY: usize = 50;
/// Samples of rows that take seconds, at most.
const SLOW_RUNS: usize = 3;
/// Lines of the log rows.
const LINES: &str = "1000000";

/// What the command line asks for.
#[derive(clap::Args)]
pub struct Options {
    /// Docker API socket of the real thing to compare with
    #[arg(long)]
    peer: Option<PathBuf>,
    /// Shell command that starts another daemon of the peer's kind: serves on $BENCH_SOCKET, data below $BENCH_ROOT
    #[arg(long)]
    peer_daemon: Option<String>,
    /// Measure in the guest, through the machine's socket
    #[arg(long)]
    guest: bool,
    /// Folder of a docker-registry to serve to ours at 127.0.0.1:5000 (read only), the one the peer pulls from
    #[arg(long)]
    registry_root: Option<PathBuf>,
    /// Image of the pull rows
    #[arg(long, default_value = "127.0.0.1:5000/fat")]
    pull: String,
    /// Write the samples there too
    #[arg(long)]
    json: Option<PathBuf>,
    /// Samples of a quick row
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Folder of the programs [default: target/stage/bin, as it is: `cargo xtask stage` builds it]
    #[arg(long)]
    programs: Option<PathBuf>,
}

/// Runs all rows, prints the table.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        !options.guest,
        "bench --guest is not there yet: it needs the machine's socket; leave the flag out to measure on bare Linux"
    );
    let programs = options.programs.clone().unwrap_or_else(|| stage::dir().join("bin"));
    let engine = programs.join("coracle-engine");
    ensure!(engine.is_file(), "{} is not there: run `cargo xtask stage` first", engine.display());
    let tools = tools::environment()?;
    let tool = |name: &str| {
        let found = tools.iter().find(|(n, _)| n == name).map(|(_, p)| p.clone());
        found.with_context(|| format!("no {name} among the tools"))
    };
    let cli = tool("CORACLE_TEST_DOCKER")?;
    let nft = tool("CORACLE_TEST_NFT")?;
    let nft = nft.parent().context("nft has a folder")?;
    let folder = tempfile::Builder::new().prefix("coracle-bench-").tempdir()?;
    let sandbox = Sandbox::new()?;
    let registry = match &options.registry_root {
        None => None,
        Some(root) => Some(serve_registry(&sandbox, &tool("CORACLE_TEST_REGISTRY")?, root, folder.path())?),
    };

    let mut bench = Bench {
        names: Names::of(folder.path())?,
        rows: Vec::new(),
        runs: options.runs.into(),
        folder: folder.path().into(),
    };
    println!("load average at the start: {}\n{}", load(), report::head());
    let how_ours = Launch::Ours { engine: &engine, sandbox: &sandbox, nft };
    bench.fresh(&how_ours, options, &cli, registry.is_some())?;

    let ours = launch(&how_ours, &folder.path().join("ours"), &cli)?;
    let peer_folder = folder.path().join("peer");
    fs::create_dir_all(&peer_folder)?;
    let mut sides = vec![&ours.side];
    let peer = options.peer.as_deref().map(|socket| Side::new("peer", socket, &cli, &peer_folder));
    sides.extend(&peer);
    let _clean = Clean { sides: &sides, label: bench.names.label.clone(), image: bench.names.image.clone() };
    let archive = image(&tool("CORACLE_TEST_BUSYBOX")?, &bench.names.image, folder.path())?;
    for side in &sides {
        side.docker(&["load", "-q", "-i", &archive.display().to_string()])?;
    }
    let versions: Vec<String> = sides
        .iter()
        .map(|s| s.docker(&["version", "-f", "{{.Server.Version}}"]).map(|v| format!("{}: {v}", s.name)))
        .collect::<Result<_>>()?;
    println!("{}", versions.join(", "));
    bench.one_container(&sides)?;
    bench.many(&sides)?;
    bench.streams(&sides)?;
    bench.memory_after(&sides)?;
    bench.syncs(&sides)?;
    println!("load average at the end: {}", load());
    if let Some(path) = &options.json {
        let out = json!({ "versions": versions, "load": load(), "rows": bench.rows });
        fs::write(path, serde_json::to_vec_pretty(&out)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Takes away what the benchmark made on both sides, also when a row failed.
struct Clean<'a> {
    sides: &'a [&'a Side],
    label: String,
    image: String,
}

impl Drop for Clean<'_> {
    fn drop(&mut self) {
        for side in self.sides {
            let filter = format!("label={}", self.label);
            let names = side.docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]);
            let names = names.unwrap_or_default();
            let ids: Vec<&str> = names.lines().collect();
            if !ids.is_empty()
                && let Err(e) = side.docker(&[&["rm", "-f", "-v"], &ids[..]].concat())
            {
                eprintln!("{e:#}");
            }
            // Not there is fine.
            let _ = side.docker(&["rmi", &self.image]);
        }
    }
}

/// What this run calls what it makes. A peer may be shared: two benchmarks at once must not meet in a name, and a
/// clean-up must find its own things only.
struct Names {
    /// Prefix of container names.
    run: String,
    /// `key=value`.
    label: String,
    /// The image of all rows but pulls.
    image: String,
}

impl Names {
    /// For a run whose folder (unique on this machine) is `folder`.
    fn of(folder: &Path) -> Result<Self> {
        let name = folder.file_name().and_then(|n| n.to_str()).context("a plain folder")?;
        let run = name.to_ascii_lowercase();
        Ok(Self { label: format!("coracle-bench={name}"), image: format!("{run}:latest"), run })
    }

    /// A container's name.
    fn container(&self, what: impl std::fmt::Display) -> String {
        format!("{}-{what}", self.run)
    }

    /// `docker run` with this run's label.
    fn run_args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["run", "--label", &self.label], more].concat()
    }
}

struct Bench {
    names: Names,
    rows: Vec<Row>,
    runs: usize,
    folder: PathBuf,
}

/// Who goes first changes with each turn.
fn order(sides: usize, turn: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sides).collect();
    if turn % 2 == 1 {
        order.reverse();
    }
    order
}

impl Bench {
    fn row(&mut self, row: Row) {
        println!("{}", row.line());
        self.rows.push(row);
    }

    /// Samples of `work` on each side, alternately, the first not counted; the order changes with each turn.
    fn alternate(
        &mut self,
        sides: &[&Side],
        name: &str,
        target: Target,
        runs: usize,
        mut work: impl FnMut(&Side) -> Result<f64>,
    ) -> Result<()> {
        let mut samples = vec![Vec::new(); 2];
        let warm = usize::from(runs > SLOW_RUNS);
        for turn in 0..runs + warm {
            for n in order(sides.len(), turn) {
                let took = work(sides[n]).with_context(|| format!("row {name:?}"))?;
                if turn >= warm {
                    samples[n].push(took);
                }
            }
        }
        let peer = samples.pop().unwrap_or_default();
        let ours = samples.pop().unwrap_or_default();
        self.row(Row { name: name.into(), unit: "ms", target, ours, peer, note: String::new() });
        Ok(())
    }

    /// Rows about daemons of their own: start, idle memory, cold pull.
    fn fresh(&mut self, ours: &Launch<'_>, options: &Options, cli: &Path, pulls: bool) -> Result<()> {
        let theirs = options.peer_daemon.as_deref().map(|command| Launch::Peer { command });
        let kinds: Vec<&Launch<'_>> = [ours].into_iter().chain(&theirs).collect();
        let (mut cold, mut again, mut start) =
            (vec![Vec::new(); 2], vec![Vec::new(); 2], vec![Vec::new(); 2]);
        let (mut rss, mut pss) = (vec![Vec::new(); 2], vec![Vec::new(); 2]);
        for turn in 0..self.runs.min(SLOW_RUNS) {
            for n in order(kinds.len(), turn) {
                let how = kinds[n];
                let folder = self.folder.join(format!("fresh-{n}-{turn}"));
                let first = launch(how, &folder, cli)?;
                let all = first.side.pid().map(daemon_processes)?;
                let used = all.iter().map(|p| memory(*p)).collect::<Result<Vec<_>>>()?;
                rss[n].push(used.iter().map(|m| m.rss as f64).sum::<f64>() / 1024.0);
                pss[n].push(used.iter().map(|m| m.pss as f64).sum::<f64>() / 1024.0);
                if pulls {
                    let Daemon { side, .. } = &first;
                    // What the other side just wrote must not be written back at this one's expense.
                    stage::run(&mut Command::new("sync"))?;
                    let took = side.time(&["pull", "-q", &options.pull])?;
                    ensure!(!side.docker(&["images", "-q"])?.is_empty(), "{}: nothing was pulled", side.name);
                    cold[n].push(took);
                    for _ in 0..3 {
                        again[n].push(side.time(&["pull", "-q", &options.pull])?);
                    }
                }
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
        let note =
            if pulls { "each into an empty folder; nothing deleted before" } else { "give --registry-root" };
        add("pull, cold", "ms", Target::Ratio(0.5), cold, note);
        add("pull, up to date", "ms", Target::None, again, "");
        Ok(())
    }

    fn one_container(&mut self, sides: &[&Side]) -> Result<()> {
        let names = Names::of(&self.folder)?;
        let runs = self.runs;
        self.alternate(sides, "docker version", Target::None, runs, |s| s.time(&["version"]))?;
        let args = names.run_args(&["--rm", &names.image, "true"]);
        self.alternate(sides, "run --rm true", Target::Ratio(0.6), runs, |s| s.time(&args))?;
        let args = names.run_args(&["--rm", "--network", "none", &names.image, "true"]);
        self.alternate(sides, "run --rm --network none true", Target::Ratio(0.5), runs, |s| s.time(&args))?;
        let target = names.container("exec");
        for side in sides {
            side.docker(&names.run_args(&["-d", "--name", &target, &names.image, "sleep", "100000"]))?;
        }
        let exec = ["exec", &target, "true"];
        self.alternate(sides, "exec true", Target::None, runs, |s| s.time(&exec))?;
        let mut groups = Vec::new();
        for side in sides {
            groups.push(sys::controllers(side.container_pid(&target)?)?);
            println!("  cgroups of a container, {}: {}", side.name, groups[groups.len() - 1]);
        }
        if groups.windows(2).any(|g| g[0] != g[1]) {
            println!(
                "  THESE DIFFER: in rows that create, start, exec or remove, the two did not do the same work"
            );
        }
        Ok(())
    }

    fn many(&mut self, sides: &[&Side]) -> Result<()> {
        let names = Names::of(&self.folder)?;
        let many: Vec<String> = (0..MANY).map(|n| names.container(n)).collect();
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
                        let (_, parent) = sys::stat(pid).with_context(|| format!("{name} has ended"))?;
                        shim[n].push(memory(parent)?.pss as f64 / 1024.0);
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
                let alive = pids.iter().filter(|p| Path::new(&format!("/proc/{p}")).exists()).count();
                ensure!(alive == 0, "{}: {alive} processes outlive the rm -f of their containers", side.name);
            }
        }
        for (name, unit, target, samples) in [
            (format!("{MANY} parallel run -d"), "ms", Target::None, up),
            (format!("ps, {} running", MANY + 1), "ms", Target::None, ps),
            (format!("rm -f {MANY} running"), "ms", Target::None, down),
            (format!("shim PSS, {MANY} running"), "MB", Target::AtMost(0.5), shim),
        ] {
            let mut samples = samples.into_iter();
            let (ours, peer) = (samples.next().unwrap_or_default(), samples.next().unwrap_or_default());
            self.row(Row { name, unit, target, ours, peer, note: String::new() });
        }
        Ok(())
    }

    fn streams(&mut self, sides: &[&Side]) -> Result<()> {
        let names = Names::of(&self.folder)?;
        let runs = self.runs.min(SLOW_RUNS);
        let log = names.container("log");
        let args = names.run_args(&["--name", &log, &names.image, "seq", LINES]);
        self.alternate(sides, "run, 1e6 lines (attach and log)", Target::None, runs, |s| {
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
        self.alternate(sides, "logs, 1e6 lines", Target::None, runs, |s| s.time(&args))?;
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
        self.alternate(sides, "attach, 100 MB", Target::None, runs, |s| s.time(&args))
    }

    fn memory_after(&mut self, sides: &[&Side]) -> Result<()> {
        let mut samples = vec![Vec::new(); 2];
        for (n, side) in sides.iter().enumerate() {
            let all = daemon_processes(side.pid()?);
            let used = all.iter().map(|p| memory(*p)).collect::<Result<Vec<_>>>()?;
            samples[n].push(used.iter().map(|m| m.pss as f64).sum::<f64>() / 1024.0);
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
    fn syncs(&mut self, sides: &[&Side]) -> Result<()> {
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
                let pids = daemon_processes(side.pid()?);
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

/// An image of busybox alone, as `docker load` takes it.
fn image(busybox: &Path, name: &str, folder: &Path) -> Result<PathBuf> {
    let root = folder.join("image");
    for name in ["bin", "etc", "tmp", "dev", "proc", "sys", "root"] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::copy(busybox, root.join("bin/busybox"))?;
    let list = Command::new(busybox).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|a| *a != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    let tar = |from: &Path, archive: &Path| {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(from).args(["--numeric-owner", "--owner=0", "--group=0", "-cf"]);
        stage::run(tar.arg(archive).arg("."))
    };
    let parts = folder.join("archive");
    fs::create_dir_all(&parts)?;
    let layer = parts.join("layer.tar");
    tar(&root, &layer)?;
    let config = json!({
        "architecture": crate::debian::host_arch(), "os": "linux", "config": { "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&Sha256::digest(fs::read(&layer)?)))] },
    })
    .to_string();
    let config_name = format!("{}.json", hex(&Sha256::digest(config.as_bytes())));
    fs::write(parts.join(&config_name), config)?;
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"] }]);
    fs::write(parts.join("manifest.json"), manifest.to_string())?;
    let archive = folder.join("image.tar");
    // Named one by one: readers of such archives know no "./".
    let mut whole = Command::new("tar");
    whole.arg("-C").arg(&parts).args(["--numeric-owner", "--owner=0", "--group=0", "-cf"]).arg(&archive);
    stage::run(whole.args(["manifest.json", &config_name, "layer.tar"]))?;
    Ok(archive)
}

/// Serves the registry's folder, read only, at 127.0.0.1:5000 of the sandbox.
fn serve_registry(sandbox: &Sandbox, program: &Path, root: &Path, folder: &Path) -> Result<Running> {
    ensure!(root.join("docker/registry/v2").is_dir(), "{} is no docker-registry's folder", root.display());
    let config = folder.join("registry.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  maintenance:\n    \
         readonly: {{enabled: true}}\n    uploadpurging: {{enabled: false}}\nhttp: {{addr: \"127.0.0.1:5000\"}}\n",
        fs::canonicalize(root)?.display()
    );
    fs::write(&config, text)?;
    let mut command = sandbox.command(program);
    command.arg("serve").arg(&config);
    let mut registry = Running::start(command, &folder.join("registry.log"))?;
    for _ in 0..1000 {
        let mut curl = sandbox.command(Path::new("curl"));
        if curl.args(["-sf", "http://127.0.0.1:5000/v2/"]).stdout(Stdio::null()).status()?.success() {
            return Ok(registry);
        }
        if let Some(end) = registry.ended()? {
            bail!("docker-registry ended: {end}: {}", fs::read_to_string(folder.join("registry.log"))?);
        }
        sys::pause(std::time::Duration::from_millis(10));
    }
    bail!("docker-registry does not answer")
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_share_no_name() {
        let (a, b) =
            (Names::of(Path::new("/tmp/coracle-bench-aB1")), Names::of(Path::new("/tmp/coracle-bench-c")));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_ne!(a.label, b.label);
        assert_eq!(
            (a.container("log").as_str(), b.image.as_str()),
            ("coracle-bench-ab1-log", "coracle-bench-c:latest")
        );
    }

    #[test]
    fn each_side_goes_first_in_turn() {
        assert_eq!((order(2, 0), order(2, 1), order(1, 1)), (vec![0, 1], vec![1, 0], vec![0]));
    }
}
