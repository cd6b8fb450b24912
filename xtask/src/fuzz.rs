//! Fuzz targets (`fuzz/`, cargo-fuzz's layout), each for a bounded time, on the stable toolchain. In CI the same
//! properties meet the same seeds, mutated blindly (`image::fuzzing`).
//!
//! cargo-fuzz itself asks for nightly only because of sanitizers. Coverage, which is what guides libFuzzer, comes
//! from an LLVM pass that stable has too; the flags below are those cargo-fuzz gives without a sanitizer.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::test::run_step;
use crate::{stage, target_dir, workspace};

/// The targets: programs of `fuzz/`, with their seeds in `fuzz/seeds/NAME`.
const TARGETS: [&str; 8] =
    ["tar", "reference", "document", "challenge", "load", "dockerfile", "pack", "cache"];
/// Seconds for each, unless told.
pub const SECONDS: u32 = 300;
/// Longest input, bytes: beyond a few tar blocks more of the same follows.
const INPUT_BYTES: u32 = 32 * 1024;
/// Most memory a target may hold, MB: what an input makes us allocate must not depend on numbers it states.
const MEMORY_MB: u32 = 1024;
/// Longest one input may take, seconds.
const INPUT_SECONDS: u32 = 10;

const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// Builds the targets and runs them, or the one that is named, one after the other. What crashed one is kept in
/// `target/fuzz/findings/`.
pub fn run(only: Option<&str>, seconds: u32) -> Result<()> {
    ensure!(only.is_none_or(|name| TARGETS.contains(&name)), "the targets are: {}", TARGETS.join(", "));
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let folder: PathBuf =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(target_dir, PathBuf::from).join("fuzz");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // With a target named, build scripts and macros stay without instruments.
    run_step(
        "fuzz targets",
        Command::new(cargo)
            .args(["build", "--release", "--locked", "--quiet", "--target", &target])
            .current_dir(workspace().join("fuzz"))
            .env("CARGO_TARGET_DIR", &folder)
            .env("RUSTFLAGS", FLAGS),
    )?;
    let findings = folder.join("findings");
    std::fs::create_dir_all(&findings)?;
    for name in TARGETS.into_iter().filter(|name| only.is_none_or(|only| only == *name)) {
        // libFuzzer adds what it learns to the first folder: that is one of its own, kept for the next run.
        let learnt = folder.join("corpus").join(name);
        std::fs::create_dir_all(&learnt)?;
        eprintln!("== fuzz {name}: {seconds} s");
        stage::run(
            Command::new(folder.join(&target).join("release").join(name))
                .arg(format!("-max_total_time={seconds}"))
                .arg(format!("-max_len={INPUT_BYTES}"))
                .arg(format!("-rss_limit_mb={MEMORY_MB}"))
                .arg(format!("-timeout={INPUT_SECONDS}"))
                .arg(format!("-artifact_prefix={}/{name}-", findings.display()))
                .args(["-verbosity=0", "-print_final_stats=1"])
                .arg(learnt)
                .arg(workspace().join("fuzz/seeds").join(name)),
        )?;
    }
    Ok(())
}
