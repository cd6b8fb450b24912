//! A machine of a test's own: daemon, QEMU and guest, run by an ordinary user, and the stock CLI in front of it.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Cli, Outcome, tool};

/// The ordinary user that root becomes here: nobody's.
const USER: u32 = 64_124;
/// Beside a script that starts QEMU: what the daemon takes for this host's `resolv.conf`.
const RESOLVERS: &str = "daemons-resolv.conf";
/// The same of its `/etc/hosts`.
const HOSTS: &str = "daemons-hosts";
/// Two processors and an emulated guest: one at a time, whichever of our test programs boots it (`crates/cli` waits for its
/// turn at the same file). It ends with the process at the latest.
fn turn() -> std::fs::File {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::fs::create_dir_all(&target).expect("make the target folder");
    let file = std::fs::File::create(target.join("guest.turn")).expect("make the file that guests wait at");
    file.lock().expect("wait for a guest's turn");
    file
}

/// The first folder on the way to the programs that others may not enter.
fn closed_folder(programs: &Path) -> Option<PathBuf> {
    let is_closed = |dir: &&Path| std::fs::metadata(dir).is_ok_and(|m| m.permissions().mode() & 0o001 == 0);
    programs.ancestors().find(is_closed).map(Path::to_owned)
}

/// A guest of another architecture, or under another hypervisor.
pub struct Foreign {
    /// Its processor's architecture.
    pub arch: &'static str,
    /// QEMU for it.
    pub qemu: PathBuf,
    /// Settings before the first start: key and value.
    pub settings: Vec<(&'static str, String)>,
    /// More of the daemon's environment.
    pub environment: Vec<(&'static str, PathBuf)>,
}

/// A daemon with its guest; stopped and deleted with this value.
pub struct Machine {
    home: PathBuf,
    /// Who runs it; `None`: whoever runs the test.
    user: Option<u32>,
    /// What isn't this computer's about it.
    foreign: Option<Foreign>,
    /// A script that starts QEMU, where it isn't started as it is.
    starter: Option<PathBuf>,
    _turn: std::fs::File,
}

impl Machine {
    /// Boots one.
    pub fn start(name: &str) -> Self {
        Self::start_as(name, None, None)
    }

    /// Boots one for which this host's resolver is another: the one at this address for QEMU alone, and for the daemon
    /// none, until [`Self::resolvers`] are told.
    pub fn start_with_resolver(name: &str, resolver: std::net::IpAddr) -> Self {
        let folder = PathBuf::from(format!("/tmp/cq-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("make a folder");
        std::fs::write(folder.join("resolv.conf"), format!("nameserver {resolver}\n")).expect("write");
        std::fs::write(folder.join(RESOLVERS), "").expect("write");
        let script = folder.join("qemu");
        // A version is asked as well: all goes through.
        let text = format!(
            "#!/bin/sh\nexport folder={} qemu={}\nexec unshare --user --map-root-user --mount sh -c '\
             mount --bind $folder/resolv.conf /etc/resolv.conf && exec $qemu \"$@\"' qemu \"$@\"\n",
            folder.display(),
            tool("CORACLE_TEST_QEMU").display(),
        );
        std::fs::write(&script, text).expect("write");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        Self::start_as(name, None, Some(script))
    }

    /// From now on the daemon of one with a resolver asks these.
    pub fn resolvers(&self, addresses: &[std::net::IpAddr]) {
        let script = self.starter.as_ref().expect("started with a resolver");
        let lines: String = addresses.iter().map(|address| format!("nameserver {address}\n")).collect();
        std::fs::write(script.with_file_name(RESOLVERS), lines).expect("write");
    }

    /// From now on the daemon of one with a resolver knows these names by itself, as `/etc/hosts` has them.
    pub fn hosts(&self, lines: &str) {
        let script = self.starter.as_ref().expect("started with a resolver");
        std::fs::write(script.with_file_name(HOSTS), lines).expect("write");
    }

    /// Boots one of another architecture, translated.
    pub fn start_foreign(name: &str, foreign: Foreign) -> Self {
        Self::start_as(name, Some(foreign), None)
    }

    fn start_as(name: &str, foreign: Option<Foreign>, starter: Option<PathBuf>) -> Self {
        let turn = turn();
        // Short: a socket's path has 103 bytes at most.
        let home = PathBuf::from(format!("/tmp/cg-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&home).expect("make the machine's folder");
        let user = match closed_folder(&tool("CORACLE_TEST_BIN")) {
            None => Some(USER),
            Some(folder) => {
                println!("runs as root: {} is closed to other users", folder.display());
                None
            }
        };
        if let Some(user) = user {
            chown(&home, Some(user), Some(user))
                .expect("chown: these tests need root, to become an ordinary user");
        }
        let limit = if foreign.is_some() { "400" } else { "240" };
        let this = Self { home, user, foreign, starter, _turn: turn };
        if let Some(foreign) = &this.foreign {
            this.coracle(&["settings", "set", "boot-limit-s", limit]).ok();
            for (key, value) in &foreign.settings {
                this.coracle(&["settings", "set", key, value]).ok();
            }
        }
        let started = this.coracle(&["start", "--timeout", limit]);
        // Once in some thousand boots QEMU gives up by one of these assertions about its own map of memory while it
        // translates: nothing of ours to test, unless it does so twice.
        let qemus_own = ["msix_table_mmio_write: Assertion", "iotlb_to_section: Assertion"];
        if qemus_own.iter().any(|own| started.err.contains(own)) {
            eprintln!("once more, since {}", started.err);
            this.coracle(&["start", "--timeout", limit]).ok();
        } else {
            started.ok();
        }
        this
    }

    /// Who runs it.
    pub fn user(&self) -> u32 {
        // Root, where the programs are closed to others.
        self.user.unwrap_or(0)
    }

    /// A path below the machine's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    fn as_user(&self, mut command: Command) -> Command {
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
            .env("HOME", &self.home)
            .env("CORACLE_HOME", self.home.join("c"))
            .env("DOCKER_HOST", format!("unix://{}", self.home.join("c/run/docker.sock").display()))
            .env("DOCKER_CONFIG", self.home.join("docker"))
            .env("DOCKER_CLI_HINTS", "false")
            .current_dir(&self.home)
            .stdin(Stdio::null());
        match (&self.foreign, &self.starter) {
            (Some(foreign), _) => command
                .env("CORACLE_ARCH", foreign.arch)
                .env("CORACLE_QEMU", &foreign.qemu)
                .envs(foreign.environment.iter().map(|(key, value)| (key, value))),
            (None, Some(starter)) => command
                .env("CORACLE_QEMU", starter)
                .env("CORACLE_RESOLV_CONF", starter.with_file_name(RESOLVERS))
                .env("CORACLE_HOSTS", starter.with_file_name(HOSTS)),
            (None, None) => command.env("CORACLE_QEMU", tool("CORACLE_TEST_QEMU")),
        };
        command
    }

    /// Runs `coracle`.
    pub fn coracle(&self, args: &[&str]) -> Outcome {
        let mut c = Command::new(tool("CORACLE_TEST_BIN").join("coracle"));
        c.args(args);
        self.as_user(c).output().expect("coracle").into()
    }

    /// `coracle status --json`.
    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.coracle(&["status", "--json"]).out).expect("JSON")
    }

    /// A program that finds this machine's engine, ready to run.
    pub fn run_as_user(&self, program: &Path) -> Command {
        self.as_user(Command::new(program))
    }

    /// A command of the stock CLI, ready to run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = self.run_as_user(&Cli::V28.program());
        c.args(args);
        c
    }

    /// Runs a command of the stock CLI.
    pub fn docker(&self, args: &[&str]) -> Outcome {
        self.command(args).output().expect("docker").into()
    }

    /// Runs a command of the stock CLI with input.
    pub fn docker_with_input(&self, args: &[&str], input: &[u8]) -> Outcome {
        crate::engine::with_input(self.command(args), input)
    }

    /// Loads an archive that a test made.
    pub fn load(&self, archive: &std::path::Path) {
        let bytes = std::fs::read(archive).expect("read the archive");
        self.docker_with_input(&["load", "-q"], &bytes).ok();
    }

    /// The process that serves the user's folder to the guest.
    pub fn share(&self) -> u32 {
        let socket = self.path("c/machine/share0.sock");
        let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
        let mut pids = pids.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        let serves = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|b| *b == 0).collect();
            words.first().is_some_and(|program| program.ends_with(b"coracle-share"))
                && words.contains(&socket.as_os_str().as_encoded_bytes())
        };
        pids.find(serves).expect("coracle-share runs")
    }

    /// Asks for a page on the host.
    pub fn curl(&self, url: &str) -> Outcome {
        Command::new("curl").args(["-s", "--max-time", "10", url]).output().expect("curl").into()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["daemon.log", "console.log"] {
                let text = std::fs::read_to_string(self.home.join("c/logs").join(log)).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(60).collect();
                eprintln!("---- {log}");
                tail.iter().rev().for_each(|l| eprintln!("{l}"));
            }
        }
        let deleted = self.coracle(&["delete", "--force"]);
        if deleted.code != Some(0) {
            eprintln!("the machine in {} is left behind: {}", self.home.display(), deleted.err);
            return;
        }
        if let Some(folder) = self.starter.as_ref().and_then(|script| script.parent())
            && let Err(e) = std::fs::remove_dir_all(folder)
        {
            eprintln!("{} is left behind: {e}", folder.display());
        }
        if let Err(e) = std::fs::remove_dir_all(&self.home) {
            eprintln!("{} is left behind: {e}", self.home.display());
        }
    }
}
