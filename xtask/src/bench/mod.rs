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

mod builds;
mod containers;
mod guest;
mod image;
mod images;
mod machine;
mod network;
mod news;
mod outside;
mod place;
mod report;
mod rows;
mod side;
mod sys;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::{stage, tools};
use report::{Row, Target};
use side::{Launch, Side, launch};
use sys::{Running, Sandbox};

/// Containers that run at once in the rows about many.
const MANY: usize = 50;
/// Containers that run in the rows about a crowd.
const CROWD: usize = 200;
/// Samples of rows that take seconds, at most.
const SLOW_RUNS: usize = 3;

/// Rows that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Daemons of their own, or boots of guests
    Fresh,
    /// Ports of a guest
    Ports,
    /// Shared folders of a guest
    Folders,
    /// One container: run, exec
    One,
    /// Many at once: run -d, rm -f, ps, their shims
    Many,
    /// Logs and attach
    Streams,
    /// A crowd that stays: lists, inspect, stats, the daemon's memory
    Crowd,
    /// Nothing to do, with no container and with many
    Idle,
    /// How often data is forced to disk
    Syncs,
}

/// What the command line asks for.
#[derive(clap::Args)]
pub struct Options {
    /// Docker API socket of the real thing to compare with
    #[arg(long)]
    peer: Option<PathBuf>,
    /// Shell command that starts another daemon of the peer's kind: serves on $BENCH_SOCKET, data below $BENCH_ROOT
    #[arg(long)]
    peer_daemon: Option<String>,
    /// The same for a daemon that keeps images in containerd's store: the rows about images are held against both
    #[arg(long)]
    peer_daemon_containerd: Option<String>,
    /// Only the rows about images and about daemons of their own
    #[arg(long, requires = "registry_root", conflicts_with = "guest")]
    images: bool,
    /// Only the rows about builds
    #[arg(long, conflicts_with_all = ["guest", "images"])]
    builds: bool,
    /// Only the rows about networks: bytes by iperf3, requests by wrk
    #[arg(long, conflicts_with_all = ["guest", "images", "builds", "registry_root"])]
    network: bool,
    /// Measure the boot, and the rows in the guest through the machine's socket
    #[arg(long, conflicts_with_all = ["peer", "peer_daemon", "peer_daemon_containerd", "registry_root"])]
    guest: bool,
    /// With --guest: beside it Debian's dockerd in a guest of the same kernel
    #[arg(long, requires = "guest")]
    dockerd: bool,
    /// With --guest: only the rows about what the host has of it, ports and folders
    #[arg(long, requires = "guest")]
    outside: bool,
    /// Only these rows, by a comma
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with_all = ["images", "builds", "outside"])]
    only: Vec<Part>,
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
    /// Seconds for which idle daemons are looked at; 600 for a figure to quote
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    idle: u64,
    /// Folder of the programs [default: target/stage/bin, as it is: `cargo xtask stage` builds it]
    #[arg(long)]
    programs: Option<PathBuf>,
}

impl Options {
    /// Whether rows are asked for.
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// Runs all rows, prints the table.
pub fn run(options: &Options) -> Result<()> {
    if options.guest {
        return guest::run(options);
    }
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
    let registry_program = tool("CORACLE_TEST_REGISTRY")?;
    // Built before anything is measured.
    let limit = if options.registry_root.is_some() { Some(images::limit_program()?) } else { None };
    let folder = tempfile::Builder::new().prefix("coracle-bench-").tempdir()?;
    let sandbox = Sandbox::new()?;
    let registry = match &options.registry_root {
        None => None,
        Some(root) => Some(serve_registry(&sandbox, &registry_program, root, folder.path())?),
    };

    let mut bench = Bench {
        names: Names::of(folder.path())?,
        rows: Vec::new(),
        runs: options.runs.into(),
        many: MANY,
        crowd: CROWD,
        folder: folder.path().into(),
    };
    println!("load average at the start: {}\n{}", load(), report::head());
    let how_ours = Launch::Ours { engine: &engine, sandbox: &sandbox, nft };
    if !options.images && !options.network && options.only.is_empty() {
        bench.builds(
            &how_ours,
            options,
            &cli,
            &tool("CORACLE_TEST_BUILDX")?,
            &tool("CORACLE_TEST_BUSYBOX")?,
        )?;
    }
    if options.builds {
        println!("load average at the end: {}", load());
        return bench.write(options, &[]);
    }
    if options.wants(Part::Fresh) && !options.network {
        bench.fresh(&how_ours, options, &cli)?;
    }
    if options.only.is_empty() && !options.network {
        if let Some(limit) = &limit {
            let tools = images::Tools { cli: &cli, registry: &registry_program, limit };
            bench.images(&how_ours, options, &tools)?;
        }
        bench.start_with_many(&how_ours, &cli)?;
    }
    drop(registry);
    if options.images {
        println!("load average at the end: {}", load());
        return bench.write(options, &[]);
    }

    let ours = launch(&how_ours, &folder.path().join("ours"), &cli)?;
    let peer_folder = folder.path().join("peer");
    fs::create_dir_all(&peer_folder)?;
    let mut sides = vec![&ours.side];
    let peer = options.peer.as_deref().map(|socket| Side::new("peer", socket, &cli, &peer_folder));
    sides.extend(&peer);
    let _clean = Clean { sides: &sides, label: bench.names.label.clone(), image: bench.names.image.clone() };
    let archive = image::image(&tool("CORACLE_TEST_BUSYBOX")?, &bench.names.image, folder.path())?;
    for side in &sides {
        side.docker(&["load", "-q", "-i", &archive.display().to_string()])?;
    }
    let versions: Vec<String> = sides
        .iter()
        .map(|s| s.docker(&["version", "-f", "{{.Server.Version}}"]).map(|v| format!("{}: {v}", s.name)))
        .collect::<Result<_>>()?;
    println!("{}", versions.join(", "));
    if options.network {
        bench.network(&sides)?;
        println!("load average at the end: {}", load());
        return bench.write(options, &versions);
    }
    bench.of_containers(&sides, options)?;
    if options.wants(Part::Syncs) {
        bench.syncs(&sides)?;
    }
    println!("load average at the end: {}", load());
    bench.write(options, &versions)
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
    /// Containers of the rows about many.
    many: usize,
    /// Containers of the rows about a crowd.
    crowd: usize,
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

    /// The rows about containers that are wanted.
    fn of_containers(&mut self, sides: &[&Side], options: &Options) -> Result<()> {
        if options.wants(Part::One) {
            self.one_container(sides)?;
        }
        if options.wants(Part::Many) {
            self.many(sides)?;
        }
        if options.wants(Part::Streams) {
            self.streams(sides)?;
            self.memory_after(sides)?;
        }
        if options.wants(Part::Crowd) {
            self.crowd(sides)?;
        }
        if options.wants(Part::Idle) {
            self.idle(sides, options.idle, 0)?;
            self.idle(sides, options.idle, self.many)?;
        }
        Ok(())
    }

    /// Writes the samples where the options say.
    fn write(&self, options: &Options, versions: &[String]) -> Result<()> {
        let Some(path) = &options.json else { return Ok(()) };
        let out = json!({ "versions": versions, "load": load(), "rows": self.rows });
        fs::write(path, serde_json::to_vec_pretty(&out)?).with_context(|| format!("write {}", path.display()))
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
    let log = folder.join("registry.log");
    let registry = Running::start(command, &log)?;
    await_registry(registry, &log, || {
        let mut curl = sandbox.command(Path::new("curl"));
        curl.args(["-sf", "http://127.0.0.1:5000/v2/"]);
        curl
    })
}

/// Waits until a registry answers what `ask` makes.
fn await_registry(mut registry: Running, log: &Path, ask: impl Fn() -> Command) -> Result<Running> {
    for _ in 0..1000 {
        if ask().stdout(Stdio::null()).status()?.success() {
            return Ok(registry);
        }
        if let Some(end) = registry.ended()? {
            bail!("docker-registry ended: {end}: {}", fs::read_to_string(log)?);
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
