//! The desktop app's side of a test: a daemon with the driver `local`, the bridge in front of it, and a browser, all
//! in one sandbox.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Cli, Sandbox, tool};

/// A home whose daemon runs the engine on this Linux; not started yet. Stopped and removed with this value.
pub struct Desktop {
    /// Where it runs.
    pub sandbox: Sandbox,
    folder: tempfile::TempDir,
    /// The home's folder, below the test's own.
    home: &'static str,
    bridge: Option<Child>,
    /// QEMU's program, where a guest runs the engine.
    qemu: Option<PathBuf>,
}

impl Desktop {
    /// Makes a home whose engine runs on this Linux itself.
    pub fn new() -> Self {
        Self::with("c", r#"{"driver":"local"}"#, None)
    }

    /// The same as the user's own home, which may touch docker's configuration.
    pub fn of_user() -> Self {
        Self::with(".coracle", r#"{"driver":"local"}"#, None)
    }

    /// Makes a home with a machine, emulated.
    pub fn in_machine() -> Self {
        Self::with("c", r#"{"accel":"tcg","memory-mib":1024}"#, Some(tool("CORACLE_TEST_QEMU")))
    }

    fn with(home: &'static str, settings: &str, qemu: Option<PathBuf>) -> Self {
        // Short: a socket's path has 104 bytes at most.
        let folder = tempfile::Builder::new().prefix("ca-").tempdir_in("/tmp").expect("a temporary folder");
        let root = folder.path().join(home);
        std::fs::create_dir(&root).expect("make the home");
        std::fs::write(root.join("settings.json"), settings).expect("settings");
        Self { sandbox: Sandbox::new(), folder, home, bridge: None, qemu }
    }

    /// A path below the test's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path in the home.
    pub fn in_home(&self, name: &str) -> PathBuf {
        self.path(self.home).join(name)
    }

    /// A command in the sandbox that knows the home.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let nft = tool("CORACLE_TEST_NFT");
        let nft = nft.parent().expect("a folder").display();
        let bin = tool("CORACLE_TEST_BIN");
        let mut command = self.sandbox.command(program);
        command
            .env("PATH", format!("{nft}:{}", std::env::var("PATH").unwrap_or_default()))
            .env("HOME", self.folder.path())
            .env("CORACLE_HOME", self.path(self.home))
            .env("CORACLE_PROGRAM", bin.join("coracle"))
            .env("CORACLE", bin.join("coracle"))
            .env("DOCKER", Cli::V28.program())
            .env("CORACLE_COMPOSE", tool("CORACLE_TEST_COMPOSE"))
            .env("CORACLE_BUILDX", tool("CORACLE_TEST_BUILDX"))
            .env("CORACLE_FOLDER", self.folder.path())
            .env("DOCKER_HOST", format!("unix://{}", self.in_home("run/docker.sock").display()))
            .env("DOCKER_CONFIG", self.path("docker"))
            .env("DOCKER_CLI_HINTS", "false")
            .stdin(Stdio::null());
        if let Some(qemu) = &self.qemu {
            command.env("CORACLE_QEMU", qemu);
        }
        command
    }

    /// Starts the bridge and answers its address, the token in it.
    pub fn bridge(&mut self) -> String {
        let mut child = self
            .command(tool("CORACLE_TEST_BRIDGE"))
            .arg("--ui")
            .arg(tool("CORACLE_TEST_UI").join("dist"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("coracle-bridge");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("the bridge speaks");
        self.bridge = Some(child);
        assert!(line.starts_with("http://127.0.0.1:"), "the bridge said {line:?}");
        line.trim().to_owned()
    }

    /// A script of `ui/e2e`, ready to run against the bridge at `url`; `options` are Node's.
    pub fn script(&self, options: &[&str], script: &str, url: &str) -> Command {
        let mut node = self.command(tool("CORACLE_TEST_NODE"));
        node.args(options)
            .arg(tool("CORACLE_TEST_UI").join("e2e").join(script))
            .env("CORACLE_URL", url)
            .env("CORACLE_CHROMIUM", tool("CORACLE_TEST_CHROMIUM"))
            .env("CORACLE_WELCOME", tool("CORACLE_TEST_WELCOME"))
            .env("CORACLE_BUSYBOX", crate::images::busybox(self.folder.path()));
        node
    }

    /// The folder of a registry on port 5000 of the sandbox.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Default for Desktop {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["logs/daemon.log", "machine/engine.log"] {
                eprintln!("---- {log}\n{}", std::fs::read_to_string(self.in_home(log)).unwrap_or_default());
            }
        }
        if let Some(mut bridge) = self.bridge.take() {
            let _ = bridge.kill();
            let _ = bridge.wait();
        }
        let coracle = tool("CORACLE_TEST_BIN").join("coracle");
        // Not there any more is fine.
        let docker = self.in_home("run/docker.sock");
        if docker.exists() {
            let ids = self.command(Cli::V28.program()).args(["ps", "-aq"]).output();
            let ids = ids.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
            if !ids.trim().is_empty() {
                let _ = self
                    .command(Cli::V28.program())
                    .args(["rm", "-fv"])
                    .args(ids.split_whitespace())
                    .output();
            }
        }
        let _ = self.command(coracle).args(["delete", "--force"]).output();
    }
}

/// A display and a session bus of a test's own, in the sandbox.
pub struct Display {
    server: Child,
    bus: Child,
    name: String,
    bus_address: String,
}

/// A program with a window; ended with this value.
pub struct Window(Child);

/// What the app tells of the engine's answers.
pub struct Told(std::sync::mpsc::Receiver<String>);

impl Told {
    /// Waits for a line that contains `what`, and answers it.
    #[track_caller]
    pub fn wait(&self, what: &str) -> String {
        let mut before = Vec::new();
        loop {
            match self.0.recv_timeout(crate::LIMIT) {
                Ok(line) if line.contains(what) => return line,
                Ok(line) => before.push(line),
                Err(_) => panic!("the app did not tell of {what:?}, but:\n{}", before.join("\n")),
            }
        }
    }
}

impl Window {
    /// Waits for its own end.
    pub fn wait(mut self) -> std::process::ExitStatus {
        self.0.wait().expect("wait for the window")
    }
}

impl Window {
    /// Its process and those below it.
    fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.0.id()];
        let mut at = 0;
        while at < all.len() {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", all[at])).into_iter().flatten().flatten();
            for task in tasks {
                let below = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
                all.extend(below.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
            at += 1;
        }
        all
    }

    /// Milliseconds of processor time so far: its own, and those of WebKit's processes.
    pub fn processor_ms(&self) -> (u64, u64) {
        /// Linux counts in hundredths of a second.
        const TICK_MS: u64 = 10;
        let of = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let rest = stat.rsplit(')').next().unwrap_or_default();
            let ticks: u64 =
                rest.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
            ticks * TICK_MS
        };
        let all = self.processes();
        (of(all[0]), all[1..].iter().map(|pid| of(*pid)).sum())
    }

    /// Resident memory of each of its processes, in kB, by name.
    pub fn resident_kb(&self) -> Vec<(String, u64)> {
        let of = |pid: u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
            let kb = field("VmRSS:")?.split_whitespace().next()?.parse().ok()?;
            Some((field("Name:")?.to_owned(), kb))
        };
        self.processes().into_iter().filter_map(of).collect()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // Already ended is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Display {
    /// Starts both; the display's number is its own choice.
    pub fn start(desktop: &Desktop) -> Self {
        // Every display of a namespace of its own is `:0`, and Xvfb compiles its keyboard's map into a file of that
        // name: two at once would take it from each other, and one end.
        desktop.sandbox.small_disk(Path::new("/var/lib/xkb"), 1 << 20);
        // Its socket of that name stands in a folder that all of them would share: one's end is not to take another's away.
        std::fs::create_dir_all("/tmp/.X11-unix").expect("a folder for displays' sockets");
        desktop.sandbox.small_disk(Path::new("/tmp/.X11-unix"), 1 << 20);
        let mut server = desktop
            .command("Xvfb")
            // Without the last, a server whose only client goes begins anew, and whoever is just coming is sent away.
            .args(["-displayfd", "1", "-screen", "0", "1280x900x24", "-nolisten", "tcp", "-noreset"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Xvfb");
        let number = first_line(&mut server);
        assert!(!number.is_empty(), "Xvfb ended at its start");
        let name = format!(":{number}");
        let mut bus = desktop
            .command("dbus-daemon")
            .args(["--session", "--nofork", "--print-address=1", "--address"])
            .arg(format!("unix:path={}", desktop.path("bus").display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon");
        let bus_address = first_line(&mut bus);
        Self { server, bus, name, bus_address }
    }

    fn command(&self, desktop: &Desktop, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = desktop.command(program);
        command
            .env("DISPLAY", &self.name)
            .env("DBUS_SESSION_BUS_ADDRESS", &self.bus_address)
            .env("XDG_RUNTIME_DIR", desktop.folder())
            .env("NO_AT_BRIDGE", "1")
            .env("LIBGL_ALWAYS_SOFTWARE", "1")
            .env("WEBKIT_DISABLE_DMABUF_RENDERER", "1")
            .env_remove("WAYLAND_DISPLAY");
        command
    }

    /// The address of its session bus.
    pub fn bus(&self) -> &str {
        &self.bus_address
    }

    /// Starts a program with a window.
    pub fn run(&self, desktop: &Desktop, program: &Path, args: &[&str]) -> Window {
        Window(self.command(desktop, program).args(args).spawn().expect("the desktop app"))
    }

    /// Starts the app, which tells of each answer of the engine.
    pub fn run_told(&self, desktop: &Desktop, program: &Path, args: &[&str]) -> (Window, Told) {
        let mut command = self.command(desktop, program);
        command.args(args).env("CORACLE_TIMES", "1").stderr(Stdio::piped());
        let mut child = command.spawn().expect("the desktop app");
        let said = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let (to, from) = std::sync::mpsc::channel();
        // All of it, also what nobody waits for: whoever writes to a pipe that nobody reads would stand still.
        std::thread::spawn(move || said.for_each(|line| drop(to.send(line))));
        (Window(child), Told(from))
    }

    /// What xdotool printed.
    pub fn xdotool(&self, desktop: &Desktop, args: &[&str]) -> String {
        let out =
            self.command(desktop, "xdotool").args(args).stderr(Stdio::null()).output().expect("xdotool");
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    /// Waits for a visible window of Coracle's; its title.
    pub fn window(&self, desktop: &Desktop) -> String {
        let mut title = String::new();
        crate::eventually("the window is visible", || {
            let find = ["search", "--onlyvisible", "--name", "Coracle", "getwindowname"];
            title = self.xdotool(desktop, &find);
            !title.is_empty()
        });
        title
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        for child in [&mut self.bus, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    let out = child.stdout.take().expect("piped");
    BufReader::new(out).read_line(&mut line).expect("it speaks");
    line.trim().to_owned()
}
