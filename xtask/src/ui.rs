//! The user interface: Node and its packages, checks, tests and the build; the desktop app's shell around it.
//!
//! ```text
//! target/node/<version>/      Node and npm as npm's registry has them, by pinned digests; nothing is installed
//! ui/node_modules             what ui/package-lock.json names
//! ui/dist                     the built user interface
//! target/desktop/             the shell's own target folder: it is a workspace of its own
//! ```
//!
//! Packages come through npm's own configuration: a registry that the machine's `.npmrc` or `npm_config_registry` names
//! is used for all of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha512};

use crate::stage::{self, run};
use crate::{debian, target_dir, workspace};

const NODE: &str = "22.23.3";
const NPM: &str = "11.21.2";
const REGISTRY: &str = "https://registry.npmjs.org";
/// SHA-512 of the packages' archives.
const NODE_AMD64: &str = "a879f3e6d16c1e88ff58cfae4443558d638d8b9855be6c2b82af00e15efa2a9b95340738fa3c0af31e20c1ba1b13d06d1cd83f00a476e7cdde628acb17f73b9e";
const NODE_ARM64: &str = "9770c01d9adeca5a3ea7d4170edb0eae31b625726a5736179c01a621034e50d01170ca694ced9c99ec1540ffb7ead8c99d213e773a4c36d816f9cde8883bd7b4";
const NPM_DIGEST: &str = "ec73c0a64f807e53146af4ac78bd4f9ba0a762a3081e4e77c7e2a6ba1aa64c3a8f9233cc8312294cf713aac13dd4428dc3880504957d7e75e249d1a6d435eaf4";

/// Node's program.
pub fn node() -> Result<PathBuf> {
    Ok(folder()?.join("node/bin/node"))
}

/// Fetches Node and npm where they are not there yet.
fn folder() -> Result<PathBuf> {
    let base = target_dir().join("node").join(format!("{NODE}-npm{NPM}"));
    if base.join("ok").is_file() {
        return Ok(base);
    }
    let (arch, digest) = match debian::host_arch() {
        "arm64" => ("arm64", NODE_ARM64),
        _ => ("x64", NODE_AMD64),
    };
    let registry = std::env::var("npm_config_registry").unwrap_or_else(|_| REGISTRY.into());
    let registry = registry.trim_end_matches('/');
    let name = format!("node-linux-{arch}");
    unpack(&format!("{registry}/{name}/-/{name}-{NODE}.tgz"), digest, &base.join("node"))?;
    unpack(&format!("{registry}/npm/-/npm-{NPM}.tgz"), NPM_DIGEST, &base.join("npm"))?;
    std::fs::write(base.join("ok"), "")?;
    Ok(base)
}

fn unpack(url: &str, digest: &str, to: &Path) -> Result<()> {
    let fetched = Command::new("curl").args(["-sSfL", "--retry", "3", "--max-time", "300", url]).output()?;
    ensure!(fetched.status.success(), "fetching {url}: {}", String::from_utf8_lossy(&fetched.stderr).trim());
    let found = debian::hex(&Sha512::digest(&fetched.stdout));
    ensure!(found == digest, "{url} has sha512 {found}, not {digest}");
    let _ = std::fs::remove_dir_all(to);
    let parts = to.with_extension("part");
    let _ = std::fs::remove_dir_all(&parts);
    tar::Archive::new(flate2::read::GzDecoder::new(&fetched.stdout[..])).unpack(&parts)?;
    // npm's archives have one folder, `package`.
    std::fs::rename(parts.join("package"), to)?;
    let _ = std::fs::remove_dir_all(&parts);
    let program = to.join("bin/node");
    if program.is_file() {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// A command of Node's in `ui/`, which finds this Node before any other.
fn command(program: &Path) -> Result<Command> {
    let base = folder()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([base.join("node/bin")].into_iter().chain(std::env::split_paths(&path)))?;
    let mut command = Command::new(base.join("node/bin/node"));
    command.arg(program).current_dir(workspace().join("ui")).env("PATH", path);
    Ok(command)
}

fn tool(name: &str, args: &[&str]) -> Result<Command> {
    let link = workspace().join("ui/node_modules/.bin").join(name);
    let mut command = command(&link)?;
    command.args(args);
    Ok(command)
}

/// Installs the packages that the lock file names, where they are not there yet, and makes Docker's types.
pub fn packages() -> Result<()> {
    let ui = workspace().join("ui");
    let (lock, mark) = (ui.join("package-lock.json"), ui.join("node_modules/.coracle"));
    let wanted = debian::hex(&Sha512::digest(std::fs::read(&lock).context("read ui/package-lock.json")?));
    if std::fs::read_to_string(&mark).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    let npm = folder()?.join("npm/bin/npm-cli.js");
    run(command(&npm)?.args(["ci", "--ignore-scripts", "--no-fund", "--no-audit", "--loglevel=error"]))?;
    run(tool("openapi-typescript", &["docker-api-v1.51.yaml", "--output", "src/lib/docker/api.gen.ts"])?
        .stdout(Stdio::null()))?;
    std::fs::write(mark, wanted)?;
    Ok(())
}

/// Builds `ui/dist`.
pub fn build() -> Result<PathBuf> {
    packages()?;
    run(&mut tool("vite", &["build", "--logLevel", "warn"])?)?;
    Ok(workspace().join("ui/dist"))
}

/// Licences, types and unit tests of the user interface.
pub fn check() -> Result<()> {
    packages()?;
    licences()?;
    run(&mut tool("svelte-check", &["--fail-on-warnings", "--tsconfig", "./tsconfig.json"])?)?;
    run(&mut tool("vitest", &["run"])?)
}

/// Licences of npm's packages that may be used: those that are in what we ship, and those of tools beside it.
const SHIPPED: &[&str] =
    &["MIT", "ISC", "Apache-2.0", "Apache-2.0 OR MIT", "BSD-2-Clause", "BSD-3-Clause", "0BSD"];
const TOOLS: &[&str] =
    &["MPL-2.0", "BlueOak-1.0.0", "CC0-1.0", "(MIT OR CC0-1.0)", "Python-2.0", "CC-BY-4.0", "Unlicense"];

/// Every package of the lock file has an allowed licence and names no registry of a machine's own.
fn licences() -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Package {
        license: Option<String>,
        resolved: Option<String>,
        #[serde(default)]
        dev: bool,
    }
    #[derive(serde::Deserialize)]
    struct Lock {
        packages: std::collections::BTreeMap<String, Package>,
    }
    let lock: Lock = serde_json::from_slice(&std::fs::read(workspace().join("ui/package-lock.json"))?)?;
    let mut wrong = Vec::new();
    for (name, package) in &lock.packages {
        let licence = package.license.as_deref().unwrap_or("none");
        if !(SHIPPED.contains(&licence) || package.dev && TOOLS.contains(&licence)) {
            wrong.push(format!("{name}: {licence} is not among the allowed licences"));
        }
        if let Some(from) = package.resolved.as_deref().filter(|r| !r.starts_with(REGISTRY)) {
            wrong.push(format!("{name} comes from {from}"));
        }
    }
    ensure!(wrong.is_empty(), "ui/package-lock.json:\n{}", wrong.join("\n"));
    eprintln!("{} packages of npm keep to their rules", lock.packages.len());
    Ok(())
}

/// Programs and libraries that are installed, not unpacked: WebKit and Chromium start helpers of their own by fixed
/// paths. What tells that it is there, and the Debian package.
const SHELL: &[(&str, &str)] = &[
    ("lib:webkit2gtk-4.1", "libwebkit2gtk-4.1-dev"),
    ("lib:ayatana-appindicator3-0.1", "libayatana-appindicator3-dev"),
    ("pkg-config", "pkg-config"),
];
const BROWSER: &[(&str, &str)] = &[
    ("chromium", "chromium"),
    ("file:/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", "fonts-dejavu-core"),
];
const WINDOW: &[(&str, &str)] = &[("Xvfb", "xvfb"), ("dbus-daemon", "dbus-daemon"), ("xdotool", "xdotool")];

/// What the shell is built with.
pub fn shell_packages() -> Result<()> {
    provide(SHELL)
}

/// What its tests need besides.
pub fn test_packages() -> Result<()> {
    provide(&[BROWSER, WINDOW].concat())
}

fn provide(wanted: &[(&str, &str)]) -> Result<()> {
    crate::setup::install(
        wanted.iter().filter(|(sign, _)| !is_there(sign)).map(|(_, package)| *package).collect(),
    )
}

fn is_there(sign: &str) -> bool {
    if let Some(library) = sign.strip_prefix("lib:") {
        let asked = Command::new("pkg-config").args(["--exists", library]).status();
        return asked.is_ok_and(|s| s.success());
    }
    match sign.strip_prefix("file:") {
        Some(file) => Path::new(file).is_file(),
        None => crate::setup::is_there(sign),
    }
}

/// Cargo in the shell's workspace.
pub fn shell_cargo() -> Command {
    let mut cargo = stage::cargo(&stage::build_id());
    cargo.current_dir(workspace().join("src-tauri")).env("CARGO_TARGET_DIR", target_dir().join("desktop"));
    cargo
}

/// Builds the desktop app and stages it; `lint`: and refuses what Clippy warns of. In the one build: `cargo clippy`
/// would check all that it stands on once more, which takes minutes.
pub fn desktop(lint: bool) -> Result<PathBuf> {
    shell_packages()?;
    build()?;
    let mut cargo = if lint { crate::test::linting(shell_cargo()) } else { shell_cargo() };
    run(cargo.args(["build", "--release", "--locked", "--quiet"]))?;
    let to = stage::dir().join("bin/coracle-desktop");
    stage::install(&target_dir().join("desktop/release/coracle-desktop"), &to)?;
    Ok(to)
}

/// Builds the desktop app for another system, and answers the folder that its programs are in.
pub fn desktop_for(triple: &str) -> Result<PathBuf> {
    crate::check::need(triple)?;
    build()?;
    let mut cargo = shell_cargo();
    cargo.args(["build", "--release", "--locked", "--quiet", "--target", triple]);
    run(cargo.envs(crate::cross::environment(triple)?))?;
    Ok(target_dir().join("desktop").join(triple).join("release"))
}

/// Whether the desktop app can be built here: all it needs is there, or may be installed.
pub fn desktop_can_be_built() -> bool {
    crate::setup::is_root() || SHELL.iter().all(|(sign, _)| is_there(sign))
}

/// Builds the bridge and answers its program.
pub fn bridge() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(target_dir, PathBuf::from);
    run(Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--locked", "-p", "app", "--bin", "coracle-bridge"])
        .current_dir(workspace())
        .env("CARGO_TARGET_DIR", &target))?;
    Ok(target.join("debug/coracle-bridge"))
}

/// Environment of the tests that drive the app, with the bridge's program.
pub fn test_environment(bridge: PathBuf) -> Result<Vec<(&'static str, PathBuf)>> {
    test_packages()?;
    let Some(chromium) = crate::setup::find("chromium") else { bail!("chromium is not in the PATH") };
    crate::welcome::build(debian::host_arch(), &stage::dir().join("share/coracle/images"))?;
    Ok(vec![
        ("CORACLE_TEST_NODE", node()?),
        ("CORACLE_TEST_UI", workspace().join("ui")),
        ("CORACLE_TEST_BRIDGE", bridge),
        ("CORACLE_TEST_CHROMIUM", chromium),
        ("CORACLE_TEST_WELCOME", stage::dir().join("share/coracle/images/welcome.tar")),
    ])
}
