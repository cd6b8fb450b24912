//! An engine of a test's own, and the stock CLI in front of it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::{Sandbox, eventually, images, tool};

/// Which stock CLI drives it.
#[derive(Clone, Copy, Debug)]
pub enum Cli {
    /// 20.10, Debian 12's.
    V20,
    /// 26.1, Debian 13's.
    V26,
    /// 28.5.
    V28,
}

impl Cli {
    /// The program.
    pub fn program(self) -> PathBuf {
        tool(match self {
            Self::V20 => "CORACLE_TEST_DOCKER_20",
            Self::V26 => "CORACLE_TEST_DOCKER_26",
            Self::V28 => "CORACLE_TEST_DOCKER",
        })
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl From<Output> for Outcome {
    fn from(o: Output) -> Self {
        Self {
            code: o.status.code(),
            out: String::from_utf8_lossy(&o.stdout).into_owned(),
            err: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

impl Outcome {
    /// Its output, trimmed, when it succeeded; panics with its words when not.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "failed: {}{}", self.out, self.err);
        self.out.trim_end().to_owned()
    }

    /// Panics unless it exited with `code` and said `words` on standard error.
    #[track_caller]
    pub fn fails(self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        assert!(self.err.contains(words), "said {:?}, not {words:?}", self.err);
    }
}

/// A running engine with folders and namespaces of its own.
pub struct Engine {
    process: Option<Child>,
    /// Where it runs.
    pub sandbox: Sandbox,
    /// Its folders; gone with it.
    pub folder: tempfile::TempDir,
    config: serde_json::Value,
}

impl Engine {
    /// Starts one without images.
    pub fn start() -> Self {
        Self::with_config(serde_json::json!({ "insecure-registries": ["127.0.0.1:5000"] }))
    }

    /// Starts one that has `busybox`.
    pub fn with_busybox() -> Self {
        let engine = Self::start();
        let archive = images::busybox(engine.folder.path());
        engine.docker(&["load", "-q", "-i", archive.to_str().expect("a plain path")]).ok();
        engine
    }

    /// Starts one with settings.
    pub fn with_config(config: serde_json::Value) -> Self {
        let mut engine = Self::not_started(config);
        engine.launch();
        engine
    }

    /// Starts one whose whole root folder (images, containers, database) is on a disk of so many bytes.
    pub fn on_small_disk(bytes: u64) -> Self {
        let mut engine = Self::not_started(serde_json::json!({ "insecure-registries": ["127.0.0.1:5000"] }));
        engine.sandbox.small_disk(&engine.path("root"), bytes);
        engine.launch();
        engine
    }

    /// Prepares one: [`Self::launch`] starts it.
    pub fn not_started(config: serde_json::Value) -> Self {
        let folder = tempfile::Builder::new().prefix("coracle-test-").tempdir().expect("a temporary folder");
        Self { process: None, sandbox: Sandbox::new(), folder, config }
    }

    /// Settings for its next start.
    pub fn configure(&mut self, config: serde_json::Value) {
        self.config = config;
    }

    /// Its root folder, as it is seen from outside its sandbox.
    pub fn root(&self) -> PathBuf {
        self.sandbox.seen(&self.path("root"))
    }

    /// A folder below its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its API's socket.
    pub fn socket(&self) -> PathBuf {
        self.path("docker.sock")
    }

    /// Starts the program (again) and waits until it answers.
    pub fn launch(&mut self) {
        let config = self.path("engine.json");
        std::fs::write(&config, self.config.to_string()).expect("write settings");
        let log =
            std::fs::File::options().create(true).append(true).open(self.path("engine.log")).expect("a log");
        // nft stands beside the other tools.
        let nft = tool("CORACLE_TEST_NFT");
        let path = format!(
            "{}:{}",
            nft.parent().expect("a folder").display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let process = self
            .sandbox
            .command(tool("CORACLE_TEST_BIN").join("coracle-engine"))
            .arg("serve")
            .arg("--socket")
            .arg(self.socket())
            .arg("--root")
            .arg(self.path("root"))
            .arg("--exec-root")
            .arg(self.path("exec"))
            .arg("--config")
            .arg(config)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("coracle-engine");
        self.process = Some(process);
        let socket = self.socket();
        eventually("the engine answers", || {
            let asked = Command::new("curl")
                .args(["-sf", "--unix-socket"])
                .arg(&socket)
                .arg("http://x/_ping")
                .output();
            asked.is_ok_and(|o| o.stdout == b"OK")
        });
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// Kills it as a crash would; containers stay.
    pub fn crash(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("kill");
        process.wait().expect("wait");
    }

    /// Stops it in order; containers stay.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        signal(process.id(), "TERM");
        assert!(process.wait().expect("wait").success(), "{}", self.log());
    }

    /// Ends it as a machine going down does: containers are stopped in order.
    pub fn power_off(&mut self) {
        let mut process = self.process.take().expect("it runs");
        signal(process.id(), "PWR");
        assert!(process.wait().expect("wait").success(), "{}", self.log());
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("engine.log")).unwrap_or_default()
    }

    /// A command of the stock CLI (28.5), ready to run.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_of(Cli::V28, args)
    }

    /// A command of one of the stock CLIs.
    pub fn command_of(&self, cli: Cli, args: &[&str]) -> Command {
        let mut command = self.sandbox.command(cli.program());
        command
            .args(args)
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", self.path("docker-config"))
            .env("DOCKER_CLI_HINTS", "false")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of the stock CLI.
    pub fn docker(&self, args: &[&str]) -> Outcome {
        self.command(args).output().expect("docker").into()
    }

    /// Runs a command of the stock CLI that must be through within `limit`, whatever else hangs.
    #[track_caller]
    pub fn within(&self, limit: std::time::Duration, args: &[&str]) -> Outcome {
        /// What timeout(1) says of a command it had to end.
        const TIMED_OUT: i32 = 124;
        let docker = self.command(args);
        let mut command = self.sandbox.command("timeout");
        command
            .arg(format!("{}s", limit.as_secs_f32()))
            .arg(Cli::V28.program())
            .args(args)
            .stdin(Stdio::null());
        command.envs(docker.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let done: Outcome = command.output().expect("docker").into();
        assert_ne!(done.code, Some(TIMED_OUT), "held up: docker {}", args.join(" "));
        done
    }

    /// Runs a command of the stock CLI with input.
    pub fn docker_with_input(&self, args: &[&str], input: &[u8]) -> Outcome {
        with_input(self.command(args), input)
    }

    /// A shell's line whose `{docker}` is the stock CLI, on a terminal of its own (script(1) gives it one).
    pub fn on_terminal(&self, line: &str) -> Command {
        let line = line.replace("{docker}", &Cli::V28.program().display().to_string());
        let mut script = Command::new("script");
        script
            .args(["-qefc", &line, "/dev/null"])
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", self.path("docker-config"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        script
    }

    /// Runs curl inside the sandbox.
    pub fn curl(&self, args: &[&str]) -> Outcome {
        self.sandbox
            .command("curl")
            .args(["-s", "--max-time", "10"])
            .args(args)
            .output()
            .expect("curl")
            .into()
    }

    /// A request to the API itself: (status, body).
    pub fn request(&self, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "20", "-X", method, "-w", "\n%{http_code}", "--unix-socket"]);
        curl.arg(self.socket()).arg(format!("http://x{path}"));
        if let Some(body) = body {
            curl.args(["-H", "Content-Type: application/json", "-d", body]);
        }
        let out: Outcome = curl.output().expect("curl").into();
        let (body, status) = out.out.rsplit_once('\n').expect("a status");
        (status.parse().unwrap_or(0), body.to_owned())
    }

    /// Loads one of the test images.
    pub fn load(&self, make: impl FnOnce(&Path) -> PathBuf) {
        let archive = make(self.folder.path());
        self.docker(&["load", "-q", "-i", archive.to_str().expect("a plain path")]).ok();
    }
}

/// Runs a command with input.
pub fn with_input(mut command: Command, input: &[u8]) -> Outcome {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the command");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let out = child.wait_with_output().expect("wait for the command").into();
    // The command may end without reading all of it.
    let _ = writer.join().expect("the writer");
    out
}

/// Sends a signal by its name.
pub fn signal(pid: u32, name: &str) {
    let done = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(done.is_ok_and(|s| s.success()), "kill -{name} {pid}");
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the engine's log\n{}", self.log());
        }
        if self.process.is_none() {
            // A test that left it dead still has containers: only an engine finds and ends them.
            self.launch();
        }
        let all = self.docker(&["ps", "-aq", "--no-trunc"]).out;
        let ids: Vec<&str> = all.lines().collect();
        if !ids.is_empty() {
            self.docker(&[&["rm", "-f", "-v"], &ids[..]].concat());
        }
        if let Some(mut process) = self.process.take() {
            let _ = Command::new("kill").arg(process.id().to_string()).status();
            let _ = process.wait();
        }
    }
}
