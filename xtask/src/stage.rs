//! Builds the programs as they are shipped and puts them where everything expects them.
//!
//! ```text
//! target/stage/bin/                  coracle, coracle-share, coracle-engine, coracle-shim, coracle-guest
//! target/stage/share/coracle/images/ archives that the guest loads at its first boot
//! target/stage/share/coracle/guest/  the guest's image (`cargo xtask image`)
//! ```
//!
//! What runs in the guest is static (no libraries travel with it); the shim is also at a fixed address, which
//! saves each of them the pages that relocation would dirty. The engine, which keeps its random address, has its
//! relocations packed: 1.3 MB less to read when it starts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{target_dir, workspace};

/// Static programs of the guest: package, program, more flags for the linker's last step.
const STATIC: &[(&str, &str, &[&str])] = &[
    // Said here once more: with a profile of its own for the package, cargo forgets that it is to be stripped.
    ("engine", "coracle-engine", &["-C", "strip=symbols", "-C", "link-arg=-Wl,-z,pack-relative-relocs"]),
    ("runtime", "coracle-shim", &["-C", "relocation-model=static"]),
    ("guest", "coracle-guest", &[]),
];
/// Programs of the host.
const HOST: &[(&str, &str)] = &[("cli", "coracle"), ("share", "coracle-share")];

/// The host's target triple, which static builds must name.
pub fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// `target/stage`.
pub fn dir() -> PathBuf {
    target_dir().join("stage")
}

/// The commit, with `-dirty` when the tree has changes.
pub fn build_id() -> String {
    let git = |args: &[&str]| {
        let out = Command::new("git").arg("-C").arg(workspace()).args(args).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    let dirty = git(&["status", "--porcelain"]).is_some_and(|s| !s.is_empty());
    if dirty { format!("{commit}-dirty") } else { commit }
}

/// Builds and stages all programs.
pub fn build() -> Result<PathBuf> {
    let bin = dir().join("bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("make {}", bin.display()))?;
    let build = build_id();
    let triple = triple();
    for (package, program, flags) in STATIC {
        build_static(&build, &triple, &[], package, program, flags, &bin)?;
    }
    for (package, program) in HOST {
        run(cargo(&build).args(["build", "--release", "--locked", "--package", package, "--bin", program]))?;
        install(&target_dir().join("release").join(program), &bin.join(program))?;
    }
    Ok(bin)
}

/// Rust's name of what a guest's programs are built for, by Debian's name of its architecture.
pub fn guest_triple(arch: &str) -> Result<&'static str> {
    match arch {
        "arm64" => Ok("aarch64-unknown-linux-gnu"),
        "amd64" => Ok("x86_64-unknown-linux-gnu"),
        other => anyhow::bail!("there is no guest for {other}"),
    }
}

/// Builds the guest's programs for another architecture (Debian's name) and puts them in `target/stage/<arch>/bin`.
pub fn build_guest(arch: &str) -> Result<PathBuf> {
    let triple = guest_triple(arch)?;
    crate::check::need(triple)?;
    let bin = dir().join(arch).join("bin");
    let (build, cross) = (build_id(), crate::cross::environment(triple)?);
    for (package, program, flags) in STATIC {
        build_static(&build, triple, &cross, package, program, flags, &bin)?;
    }
    Ok(bin)
}

fn build_static(
    build: &str,
    triple: &str,
    cross: &[(String, String)],
    package: &str,
    program: &str,
    flags: &[&str],
    bin: &Path,
) -> Result<()> {
    let mut cargo = cargo(build);
    cargo.envs(cross.iter().cloned()).env("RUSTFLAGS", "-C target-feature=+crt-static").args([
        "rustc",
        "--release",
        "--locked",
        "--target",
        triple,
        "--package",
        package,
        "--bin",
        program,
    ]);
    if !flags.is_empty() {
        cargo.arg("--").args(flags);
    }
    run(&mut cargo)?;
    install(&target_dir().join(triple).join("release").join(program), &bin.join(program))
}

/// Cargo, building into the stage's target folder.
pub fn cargo(build: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // One target folder, whatever the caller's environment: the stage takes its programs from there.
    cargo.current_dir(workspace()).env("CARGO_TARGET_DIR", target_dir()).env("CORACLE_BUILD", build);
    cargo
}

/// Runs a command, and fails when it does.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

/// Copies a program when it differs: by a rename, so that one that runs is replaced and not written into.
pub fn install(from: &Path, to: &Path) -> Result<()> {
    let new = std::fs::read(from).with_context(|| format!("read {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let beside = to.with_extension("new");
    std::fs::copy(from, &beside).with_context(|| format!("write {}", beside.display()))?;
    std::fs::rename(&beside, to).with_context(|| format!("write {}", to.display()))
}
