//! `cargo xtask run`: from a clean checkout to a page served by a container in the guest.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::{qemu, stage, tools, welcome};

/// The welcome container's name and the port it is shown on, if that is free.
const CONTAINER: &str = "welcome";
const PORT: &str = "8080";

/// Builds what is missing, starts daemon and guest, runs the welcome container and prints its address.
pub fn run() -> Result<()> {
    let (bin, qemu) = prepare()?;
    let coracle = bin.join("coracle");
    let cli = |args: &[&str]| -> Result<Output> {
        let mut c = Command::new(&coracle);
        c.args(args).env("CORACLE_QEMU", &qemu).stderr(Stdio::inherit());
        c.output().with_context(|| format!("run {}", coracle.display()))
    };
    eprintln!("== starting the guest");
    ensure!(cli(&["start"])?.status.success(), "the guest did not start (above is why)");
    let status: serde_json::Value = serde_json::from_slice(&cli(&["status", "--json"])?.stdout)?;
    if status["daemon"]["build"] != stage::build_id().as_str()
        || status["guest"]["build"] != stage::build_id().as_str()
    {
        eprintln!("== the running guest is of another build: restarting it");
        ensure!(cli(&["restart"])?.status.success(), "the guest did not start again (above is why)");
    }
    let status: serde_json::Value = serde_json::from_slice(&cli(&["status", "--json"])?.stdout)?;
    let socket = status["socket"].as_str().context("coracle status names no socket")?.to_owned();
    let docker = Docker { program: docker_cli()?, host: format!("unix://{socket}") };

    let url = docker.welcome()?;
    answers(&url)?;
    println!();
    println!(
        "Coracle runs ({}, {}).",
        status["driver"].as_str().unwrap_or("?"),
        status["accel"].as_str().unwrap_or("?")
    );
    println!("  The welcome container's page:  {url}");
    println!("  The stock docker CLI uses it:  eval \"$({} env)\"; docker ps", coracle.display());
    println!("  Stop it:                       {} stop", coracle.display());
    if !window(&coracle)? {
        show(&url);
    }
    Ok(())
}

/// Opens the window where there is a display and the app can be built; answers whether it did. Without, all else holds.
fn window(coracle: &Path) -> Result<bool> {
    if !has_display() || !crate::ui::desktop_can_be_built() {
        return Ok(false);
    }
    eprintln!("== building the desktop app");
    let desktop = match crate::ui::desktop(false) {
        Ok(desktop) => desktop,
        Err(error) => {
            eprintln!("the desktop app was not built: {error:#}");
            return Ok(false);
        }
    };
    let mut app = Command::new(&desktop);
    // The same as packages bring along; where they can't be had, the window leaves compose and builds out.
    match tools::plugins() {
        Ok(plugins) => drop(app.envs(plugins)),
        Err(error) => eprintln!("the window is without compose and builds: {error:#}"),
    }
    app.env("CORACLE_PROGRAM", coracle).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // In a group of its own: what ends this command's does not end the window.
    std::os::unix::process::CommandExt::process_group(&mut app, 0);
    app.spawn().with_context(|| format!("run {}", desktop.display()))?;
    println!("  The window:                    {}", desktop.display());
    Ok(true)
}

/// Programs, welcome image, guest image and QEMU; answers where the programs and QEMU are.
pub fn prepare() -> Result<(PathBuf, PathBuf)> {
    eprintln!("== building (minutes, the first time)");
    let bin = stage::build()?;
    eprintln!("== making the guest's image");
    crate::image_of(crate::debian::host_arch())?;
    Ok((bin, qemu()?))
}

/// The machine's own docker, else the one that tests use.
fn docker_cli() -> Result<PathBuf> {
    let own = Command::new("docker").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if own.is_ok_and(|s| s.success()) { Ok("docker".into()) } else { tools::docker() }
}

struct Docker {
    program: PathBuf,
    host: String,
}

impl Docker {
    fn call(&self, args: &[&str]) -> Result<Output> {
        let mut c = Command::new(&self.program);
        c.args(args).env("DOCKER_HOST", &self.host).env_remove("DOCKER_CONTEXT");
        c.output().with_context(|| format!("run {}", self.program.display()))
    }

    /// Runs the welcome container, or finds it, and answers its page's address.
    fn welcome(&self) -> Result<String> {
        if !self.call(&["start", CONTAINER])?.status.success() {
            let fixed = format!("127.0.0.1:{PORT}:80");
            let run = |port: &str| self.call(&["run", "-d", "--name", CONTAINER, "-p", port, welcome::NAME]);
            let mut out = run(&fixed)?;
            if String::from_utf8_lossy(&out.stderr).contains("port is already allocated") {
                self.call(&["rm", "-f", CONTAINER])?;
                out = run("127.0.0.1::80")?;
            }
            ensure!(
                out.status.success(),
                "the welcome container did not start: {}",
                String::from_utf8_lossy(&out.stderr)
            );
        }
        let port = self.call(&["port", CONTAINER, "80/tcp"])?;
        let port = String::from_utf8_lossy(&port.stdout).lines().next().unwrap_or_default().to_owned();
        ensure!(!port.is_empty(), "the welcome container publishes no port");
        Ok(format!("http://{port}/"))
    }
}

/// Asks for the page: it is there as soon as the server in the container listens.
// The container's server tells nobody when it listens: asking is all there is.
#[allow(clippy::disallowed_methods)]
fn answers(url: &str) -> Result<()> {
    let mut last = String::new();
    for _ in 0..50 {
        match fetch(url) {
            Ok(page) if page.contains("This page comes from a container") => return Ok(()),
            Ok(page) => {
                last = format!("something else answered: {}", page.lines().next().unwrap_or_default())
            }
            Err(e) => last = e.to_string(),
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    bail!("{url} does not answer: {last}")
}

fn fetch(url: &str) -> Result<String> {
    use std::io::{Read, Write};
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

fn has_display() -> bool {
    std::env::var_os("DISPLAY").is_some() || std::env::var_os("WAYLAND_DISPLAY").is_some()
}

/// Opens the page where there is a display. Without one, or a browser, the printed address is enough.
fn show(url: &str) {
    if has_display() && Path::new("/usr/bin/xdg-open").exists() {
        let opened =
            Command::new("/usr/bin/xdg-open").arg(url).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        if let Err(e) = opened {
            eprintln!("no browser opened: {e}");
        }
    }
}
