//! A machine of the benchmark's own: `coracle` with a home in a temporary folder, and a shell in its guest.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};

/// Time that a guest may take to answer, seconds, as `coracle start` takes it.
const START_LIMIT: &str = "180";

/// What a machine is made of.
pub struct Parts<'a> {
    /// `coracle`.
    pub coracle: &'a Path,
    /// The guest's image.
    pub image: &'a Path,
    /// QEMU.
    pub qemu: &'a Path,
    /// More arguments for QEMU.
    pub more: &'a [String],
    /// What its user network is told besides.
    pub forwards: &'a str,
    /// The stock CLI.
    pub cli: &'a Path,
}

/// A machine; deleted with this value.
pub struct Machine {
    shell: Shell,
    home: PathBuf,
    cli: PathBuf,
    qemu: PathBuf,
}

/// Runs commands in the guest, through `coracle shell`.
#[derive(Clone)]
pub struct Shell {
    coracle: PathBuf,
    env: Vec<(&'static str, PathBuf)>,
}

impl Shell {
    fn coracle(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.coracle);
        command.args(args).envs(self.env.iter().cloned()).current_dir("/");
        command
    }

    /// What a line of shell prints on standard output.
    pub fn run(&self, script: &str) -> Result<String> {
        // A terminal echoes: the marks are written so that the echo of the command is not one.
        let line = format!("stty -echo; echo \"@@\"begin; {script}; echo \"@@\"end; exit\n");
        let mut child = self
            .coracle(&["shell"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run coracle shell")?;
        child.stdin.take().context("a pipe")?.write_all(line.as_bytes())?;
        let done = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&done.stdout).replace('\r', "");
        let between = said.split_once("@@begin\n").and_then(|(_, rest)| rest.rsplit_once("@@end"));
        let Some((text, _)) = between else {
            bail!("coracle shell gave no answer: {said}{}", String::from_utf8_lossy(&done.stderr));
        };
        Ok(text.to_owned())
    }
}

impl Machine {
    /// One that does not run yet. `home` is short: it holds sockets.
    pub fn new(parts: &Parts<'_>, home: &Path) -> Result<Self> {
        std::fs::create_dir_all(home)?;
        let script = home.join("qemu");
        // What starts QEMU notes when, and with what.
        let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let more: String = parts.more.iter().map(|arg| format!(" {}", quote(arg))).collect();
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] || {{ printf '%s\\n' \"$@\" >{arguments}; date +%s%N >{started}; }}\n\
             for a do shift; case \"$a\" in user,id=net*) a=\"$a\"{forwards};; esac; set -- \"$@\" \"$a\"; done\n\
             exec {qemu} \"$@\"{more}\n",
            forwards = quote(parts.forwards),
            arguments = quote(&home.join("arguments").display().to_string()),
            started = quote(&home.join("started").display().to_string()),
            qemu = quote(&parts.qemu.display().to_string()),
        );
        std::fs::write(&script, text)?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        let env = vec![
            ("CORACLE_HOME", home.join("c")),
            ("HOME", home.to_owned()),
            ("CORACLE_GUEST", parts.image.to_owned()),
            ("CORACLE_QEMU", script),
        ];
        let shell = Shell { coracle: parts.coracle.to_owned(), env };
        Ok(Self { shell, home: home.to_owned(), cli: parts.cli.to_owned(), qemu: parts.qemu.to_owned() })
    }

    /// The forwarded socket of Docker's API.
    pub fn socket(&self) -> PathBuf {
        self.home.join("c/run/docker.sock")
    }

    /// A folder of the user's that the machine shares.
    pub fn shared(&self, name: &str) -> Result<PathBuf> {
        let folder = self.home.join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// How often the guest asked its first share for what, so far.
    pub fn requests(&self) -> Result<BTreeMap<String, u64>> {
        let socket = self.home.join("c/machine/share0.requests");
        let mut stream = UnixStream::connect(&socket).with_context(|| format!("ask {}", socket.display()))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        serde_json::from_str(&said).with_context(|| format!("the share's counts: {said}"))
    }

    /// How to look into the guest.
    pub fn shell(&self) -> Shell {
        self.shell.clone()
    }

    fn coracle(&self, args: &[&str]) -> Result<String> {
        let done = self.shell.coracle(args).stdin(Stdio::null()).output().context("run coracle")?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "coracle {} failed: {}", args.join(" "), said.trim());
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Boots it: milliseconds from QEMU's exec to the CLI's exit with an answer to `docker version`.
    pub fn boot(&self) -> Result<f64> {
        self.coracle(&["start", "--timeout", START_LIMIT])?;
        let mut version = Command::new(&self.cli);
        version.arg("version").env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        version.env("DOCKER_CONFIG", self.home.join("docker-config")).stdin(Stdio::null());
        let done = version.output().context("run docker")?;
        let now = SystemTime::now();
        ensure!(done.status.success(), "docker version: {}", String::from_utf8_lossy(&done.stderr));
        let started: u64 = std::fs::read_to_string(self.home.join("started"))?.trim().parse()?;
        let took = now.duration_since(SystemTime::UNIX_EPOCH + Duration::from_nanos(started))?;
        Ok(took.as_secs_f64() * 1e3)
    }

    /// Stops it in order.
    pub fn stop(&self) -> Result<()> {
        self.coracle(&["stop"]).map(drop)
    }

    /// How it runs: `kvm` or `tcg`.
    pub fn accel(&self) -> Result<String> {
        let status: serde_json::Value = serde_json::from_str(&self.coracle(&["status", "--json"])?)?;
        Ok(status["accel"].as_str().unwrap_or("unknown").to_owned())
    }

    /// The line that QEMU was started with last, another initrd in it. Without the shares: who serves them ended with
    /// the machine, and a bare kernel asks nothing of them.
    pub fn bare(&self, initrd: &Path) -> Result<Command> {
        let text = std::fs::read_to_string(self.home.join("arguments"))?;
        let mut args: Vec<String> = Vec::new();
        let mut lines = text.lines().peekable();
        while let Some(arg) = lines.next() {
            let share = lines.next_if(|value| is_share(arg, value));
            if share.is_none() {
                args.push(arg.to_owned());
            }
        }
        let at = args.iter().position(|a| a == "-initrd").context("QEMU is given an initrd")?;
        *args.get_mut(at + 1).context("and its path")? = initrd.display().to_string();
        let mut command = Command::new(&self.qemu);
        command.args(args);
        Ok(command)
    }

    /// What the guest's kernel says goes there.
    pub fn console(&self) -> PathBuf {
        self.home.join("c/logs/console.log")
    }
}

/// Whether an argument of QEMU and its value are part of a share.
fn is_share(arg: &str, value: &str) -> bool {
    match arg {
        "-chardev" => value.contains("id=share"),
        "-device" => value.starts_with("vhost-user-fs"),
        _ => false,
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(e) = self.coracle(&["delete", "--force"]) {
            eprintln!("{e:#}");
        }
    }
}
