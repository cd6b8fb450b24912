//! `cargo xtask check`: the workspace for the systems and processors that this machine isn't.
//!
//! Clippy compiles everything up to linking. The controller of Windows is also linked, and run under wine; that of macOS is
//! linked, and signed in an app. The standard libraries come by `rustup target add`; where rustup or its server is not to be
//! had, CONTRIBUTING.md names another way.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{cross, stage, target_dir, workspace};

/// A target and what is checked for it.
struct Target {
    triple: &'static str,
    /// Packages, each as `cargo`'s words name them.
    packages: &'static [&'static str],
    /// Those whose tests are checked as well, and what is built for these: examples are programs that tests start.
    tested: &'static [&'static str],
    built: &'static [&'static str],
    /// Whether its C has to be compiled.
    has_c: bool,
}

/// What runs on the host, and needs nothing but a standard library.
const HOST: &[&str] = &["host", "cli", "wire", "link"];
/// The targets of `--all-targets-os`.
const ALL: &[Target] = &[
    Target {
        triple: "x86_64-pc-windows-gnu",
        packages: &["host", "cli", "app", "wire", "link"],
        tested: &["host", "cli"],
        built: &["--tests"],
        has_c: false,
    },
    Target {
        triple: "aarch64-apple-darwin",
        packages: &["host", "cli", "app", "wire", "link"],
        tested: &["host", "cli"],
        built: &["--tests", "--examples"],
        has_c: false,
    },
    Target {
        triple: "x86_64-apple-darwin",
        packages: &["host", "cli", "app", "wire", "link"],
        tested: &["host", "cli"],
        built: &["--tests", "--examples"],
        has_c: false,
    },
    Target {
        triple: "aarch64-unknown-linux-gnu",
        packages: &["engine", "guest", "runtime", "host", "cli", "app"],
        tested: &[],
        built: &[],
        has_c: true,
    },
];
/// Those of every `cargo xtask test`, with [`HOST`] alone.
const LEAN: &[&str] = &["x86_64-pc-windows-gnu", "aarch64-apple-darwin"];

/// Checks everything (`all`), or what every test run checks.
pub fn run(all: bool) -> Result<()> {
    for target in ALL.iter().filter(|target| all || LEAN.contains(&target.triple)) {
        need(target.triple)?;
        check(target, if all { target.packages } else { HOST }, if all { target.tested } else { &[] })?;
    }
    if all {
        for triple in ["x86_64-pc-windows-gnu", "aarch64-apple-darwin"] {
            shell(triple)?;
        }
        if cfg!(target_os = "linux") {
            eprintln!("== macOS, Apple silicon and Intel: linked, packed and signed");
            crate::dist::macos::check()?;
        }
        eprintln!("== under wine");
        crate::wine::run()?;
    }
    Ok(())
}

/// The part of every test run; what can't be had is said, and `CORACLE_TEST_SYSTEMS=1` forbids that.
pub fn lean() -> Result<()> {
    for target in ALL.iter().filter(|target| LEAN.contains(&target.triple)) {
        match need(target.triple) {
            Ok(()) => check(target, HOST, &[])?,
            Err(error) if std::env::var_os("CORACLE_TEST_SYSTEMS").is_none() => {
                eprintln!("== {} was NOT checked: {error:#}", target.triple);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn check(target: &Target, packages: &[&str], tested: &[&str]) -> Result<()> {
    let cargo = |packages: &[&str], what: &[&str]| -> Result<()> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(workspace()).env("CARGO_TARGET_DIR", target_dir());
        cargo.args(["clippy", "--quiet", "--locked", "--target", target.triple]);
        cargo.args(packages.iter().flat_map(|package| ["--package", package])).args(what);
        if target.has_c {
            cargo.envs(cross::environment(target.triple)?);
        }
        cargo.args(["--", "-D", "warnings"]);
        stage::run(&mut cargo)
    };
    eprintln!("== {}: {}", target.triple, packages.join(", "));
    let started = std::time::Instant::now();
    cargo(packages, &["--lib", "--bins"])?;
    if !tested.is_empty() {
        cargo(tested, target.built)?;
    }
    eprintln!("== {}: {:.1} s", target.triple, started.elapsed().as_secs_f32());
    Ok(())
}

/// The same for the desktop app, which is a workspace of its own.
fn shell(triple: &str) -> Result<()> {
    eprintln!("== {triple}: the desktop app");
    crate::ui::build()?;
    let mut cargo = crate::ui::shell_cargo();
    cargo.args(["clippy", "--release", "--locked", "--quiet", "--target", triple]);
    if triple.contains("windows") {
        cargo.envs(cross::environment(triple)?);
    } else {
        // One crate has lines of Objective-C, which only Apple's compiler takes. It leaves them out where nothing is
        // linked, by the variable that says so.
        cargo.env("DOCS_RS", "1");
    }
    stage::run(cargo.args(["--", "-D", "warnings"]))
}

/// Makes sure of a target's standard library.
pub fn need(triple: &str) -> Result<()> {
    let rustc = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", triple])
        .current_dir(workspace())
        .output()
        .context("rustc could not be run")?;
    let folder = String::from_utf8_lossy(&rustc.stdout).trim().to_owned();
    if std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Ok(());
    }
    let added = Command::new("rustup")
        .args(["target", "add", triple])
        .current_dir(workspace())
        .stdout(Stdio::null())
        .output()
        .with_context(|| format!("rustup, which adds the target {triple}, could not be run"))?;
    ensure!(
        added.status.success(),
        "`rustup target add {triple}` failed (CONTRIBUTING.md names another way): {}",
        String::from_utf8_lossy(&added.stderr).trim()
    );
    Ok(())
}
