//! The two that are compared: an engine of the staged programs, and a peer that somebody else runs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::place::{Memory, Place};
use super::sys::{Running, Sandbox, await_ping};

/// One of the two: how to reach it, and the CLI that speaks to it.
pub struct Side {
    /// `ours` or `peer`.
    pub name: &'static str,
    /// Docker API.
    pub socket: PathBuf,
    /// Where its processes are.
    pub place: Place,
    cli: PathBuf,
    config: PathBuf,
}

impl Side {
    /// A side behind a socket; `folder` takes the CLI's settings.
    pub fn new(name: &'static str, socket: &Path, cli: &Path, folder: &Path) -> Self {
        let config = folder.join("docker-config");
        Self { name, socket: socket.into(), place: Place::Here, cli: cli.into(), config }
    }

    /// The same side, its processes in a guest.
    pub fn in_guest(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// Gives the CLI a plugin (`docker-buildx`).
    pub fn plugin(&self, name: &str, program: &Path) -> Result<()> {
        let plugins = self.config.join("cli-plugins");
        std::fs::create_dir_all(&plugins)?;
        std::os::unix::fs::symlink(program, plugins.join(name)).context("a plugin of the CLI")
    }

    /// A command of the stock CLI.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.cli);
        command
            .args(args)
            .env("DOCKER_HOST", format!("unix://{}", self.socket.display()))
            .env("DOCKER_CONFIG", &self.config)
            .env("DOCKER_CLI_HINTS", "false")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command; its output, or an error with its words.
    pub fn docker(&self, args: &[&str]) -> Result<String> {
        let done = self.command(args).output().context("run docker")?;
        if !done.status.success() {
            // An exec's error comes as its output.
            let said = [&done.stdout[..], &done.stderr[..]].concat();
            let said = String::from_utf8_lossy(&said);
            bail!("{}: docker {} failed ({}): {}", self.name, args.join(" "), done.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
    }

    /// Milliseconds that a command takes, from its start to its end. One that fails is an error, never a time.
    pub fn time(&self, args: &[&str]) -> Result<f64> {
        let mut command = self.command(args);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let started = Instant::now();
        let done = command.output().context("run docker")?;
        let took = started.elapsed().as_secs_f64() * 1e3;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            bail!("{}: docker {} failed ({}): {}", self.name, args.join(" "), done.status, said.trim());
        }
        Ok(took)
    }

    /// Milliseconds from the start of the first to the end of the last of commands that run at once.
    pub fn time_parallel(&self, commands: &[Vec<String>]) -> Result<f64> {
        let started = Instant::now();
        let running: Vec<Child> = commands
            .iter()
            .map(|args| {
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let mut command = self.command(&args);
                command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("run docker")
            })
            .collect::<Result<_>>()?;
        let mut failed = Vec::new();
        for child in running {
            let done = child.wait_with_output()?;
            if !done.status.success() {
                failed.push(String::from_utf8_lossy(&done.stderr).trim().to_owned());
            }
        }
        let took = started.elapsed().as_secs_f64() * 1e3;
        ensure!(
            failed.is_empty(),
            "{}: {} of {} at once failed: {}",
            self.name,
            failed.len(),
            commands.len(),
            failed[0]
        );
        Ok(took)
    }

    /// Process id of a container, as its own machine sees it.
    pub fn container_pid(&self, name: &str) -> Result<u32> {
        Ok(self.docker(&["inspect", "-f", "{{.State.Pid}}", name])?.parse()?)
    }

    /// What runs these containers: one shim each.
    pub fn shims(&self, containers: &[String]) -> Result<Vec<u32>> {
        let args = ["inspect", "-f", "{{.State.Pid}}"];
        let args: Vec<&str> = args.into_iter().chain(containers.iter().map(String::as_str)).collect();
        let pids: Vec<u32> = self.docker(&args)?.lines().map(str::parse).collect::<Result<_, _>>()?;
        self.place.parents(&pids)
    }

    /// Memory of the daemon and its helpers.
    pub fn daemon_memory(&self) -> Result<Memory> {
        self.place.memory_of(&self.place.daemon(&self.socket)?)
    }
}

/// How a daemon with an empty root is started, for either side.
pub enum Launch<'a> {
    /// Our staged engine in a sandbox.
    Ours {
        /// `coracle-engine`.
        engine: &'a Path,
        /// Where it runs.
        sandbox: &'a Sandbox,
        /// Folder of nft.
        nft: &'a Path,
    },
    /// A shell command: it serves on `BENCH_SOCKET`, keeps its data below `BENCH_ROOT`, and ends upon TERM.
    Peer {
        /// The command.
        command: &'a str,
    },
}

/// A daemon of the benchmark's own; ends with this value.
pub struct Daemon {
    /// How to speak to it.
    pub side: Side,
    /// From its start to the answer to `_ping`, milliseconds.
    pub started_in: f64,
    _process: Running,
}

/// Starts a daemon whose data lie in `folder` and waits for its `_ping`.
pub fn launch(how: &Launch<'_>, folder: &Path, cli: &Path) -> Result<Daemon> {
    std::fs::create_dir_all(folder)?;
    let (socket, log) = (folder.join("d.sock"), folder.join("log"));
    let (name, command) = match how {
        Launch::Ours { engine, sandbox, nft } => {
            let config = folder.join("engine.json");
            std::fs::write(&config, r#"{"insecure-registries":["127.0.0.1:5000"]}"#)?;
            let path = std::env::var("PATH").unwrap_or_default();
            let mut c = sandbox.command(engine);
            c.arg("serve").arg("--socket").arg(&socket).arg("--root").arg(folder.join("root"));
            c.arg("--exec-root").arg(folder.join("exec")).arg("--config").arg(config);
            c.env("PATH", format!("{}:{path}", nft.display()));
            ("ours", c)
        }
        Launch::Peer { command } => {
            let mut c = Command::new("sh");
            // exec: the signal that ends it must reach the daemon.
            c.arg("-c").arg(format!("exec {command}"));
            c.env("BENCH_ROOT", folder).env("BENCH_SOCKET", &socket);
            ("peer", c)
        }
    };
    let started = Instant::now();
    let mut process = Running::start(command, &log)?;
    await_ping(&socket, &mut process).with_context(|| {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        said.lines().rev().take(5).collect::<Vec<_>>().join("\n")
    })?;
    let started_in = started.elapsed().as_secs_f64() * 1e3;
    Ok(Daemon { side: Side::new(name, &socket, cli, folder), started_in, _process: process })
}
