//! macOS' programs made on a machine that is no Mac: linked by `cargo-zigbuild` with PyPI's `ziglang`, signed by `rcodesign`
//! (the crate apple-codesign), each of one version, below `target/tools`.
//!
//! What needs Apple's frameworks (the desktop app) can't be linked so; a Mac builds it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{stage, target_dir};

/// The target for a processor, by Debian's name of that: Apple silicon, or Intel.
pub fn triple(arch: &str) -> &'static str {
    if arch == "arm64" { "aarch64-apple-darwin" } else { "x86_64-apple-darwin" }
}

/// The oldest macOS that programs run on: the oldest one that vfkit does.
pub const OLDEST: (u16, u8) = (13, 0);
/// Zig's version, and the sums of its wheels for Linux on x86_64 and on arm64.
const ZIG: (&str, [&str; 2]) = (
    "0.17.1",
    [
        "ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54",
        "b7c5f02fccd40f89b999ee16a1f5ddced56e6182370f8affe494bcf8a28cf07e",
    ],
);
/// What lets cargo link by it, and its version.
const ZIGBUILD: (&str, &str) = ("cargo-zigbuild", "0.24.1");
/// What signs, and its version.
const SIGNER: (&str, &str) = ("apple-codesign", "0.29.0");

/// Builds a program of the workspace for macOS; answers its file. A Mac needs nothing for it.
pub fn link(package: &str, program: &str, arch: &str) -> Result<PathBuf> {
    let triple = triple(arch);
    let mut cargo = stage::cargo(&stage::build_id());
    if cfg!(target_os = "macos") {
        cargo.arg("build");
    } else {
        crate::check::need(triple)?;
        let zigbuild = installed(ZIGBUILD, "cargo-zigbuild", &[])?;
        let folders = zigbuild.parent().map(Path::to_owned).into_iter();
        let path = std::env::var_os("PATH").unwrap_or_default();
        cargo.env("PATH", std::env::join_paths(folders.chain(std::env::split_paths(&path)))?);
        cargo.env("CARGO_ZIGBUILD_ZIG_PATH", zig()?);
        // Its strip is of this machine's programs.
        cargo.env("CARGO_PROFILE_RELEASE_STRIP", "none");
        cargo.arg("zigbuild");
    }
    cargo.args(["--release", "--locked", "--target", triple, "--package", package, "--bin", program]);
    cargo.env("MACOSX_DEPLOYMENT_TARGET", format!("{}.{}", OLDEST.0, OLDEST.1));
    stage::run(&mut cargo)?;
    Ok(target_dir().join(triple).join("release").join(program))
}

/// The signer, built on its first use.
pub fn signer() -> Result<PathBuf> {
    // Without what only Apple's notaries are sent things by.
    installed(SIGNER, "rcodesign", &["--no-default-features"])
}

/// The oldest macOS that a program says it runs on (Mach-O's `LC_BUILD_VERSION`, `mach-o/loader.h`).
pub fn oldest(program: &[u8]) -> Option<(u16, u8)> {
    const MAGIC: u32 = 0xfeed_facf;
    const HEADER: usize = 32;
    const BUILD_VERSION: u32 = 0x32;
    let word = |at: usize| Some(u32::from_le_bytes(program.get(at..at + 4)?.try_into().ok()?));
    let (magic, commands) = (word(0)?, word(16)?);
    let mut at = HEADER;
    for _ in 0..commands {
        let (kind, len) = (word(at)?, word(at + 4)?);
        if kind == BUILD_VERSION && magic == MAGIC {
            // Major in 16 bits, minor and patch in eight each.
            let version = word(at + 12)?;
            return Some(((version >> 16) as u16, (version >> 8) as u8));
        }
        // No command is shorter than its own head.
        at = at.checked_add((len as usize >= 8).then_some(len as usize)?)?;
    }
    None
}

/// Zig's program.
fn zig() -> Result<PathBuf> {
    let (version, sums) = ZIG;
    let folder = target_dir().join("tools").join(format!("ziglang-{version}"));
    let program = folder.join("ziglang/zig");
    if program.is_file() {
        return Ok(program);
    }
    let part = folder.with_extension(format!("part{}", std::process::id()));
    let _ = fs::remove_dir_all(&part);
    fs::create_dir_all(&part)?;
    let wanted = part.join("wanted.txt");
    let hashes: String = sums.iter().map(|sum| format!(" --hash=sha256:{sum}")).collect();
    fs::write(&wanted, format!("ziglang=={version}{hashes}\n"))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]);
    pip.arg("--dest").arg(&part).arg("--requirement").arg(&wanted);
    stage::run(&mut pip).context("zig comes from PyPI, by pip (Debian's python3-pip)")?;
    let mut files = fs::read_dir(&part)?.flatten().map(|entry| entry.path());
    let wheel =
        files.find(|path| path.extension().is_some_and(|e| e == "whl")).context("pip fetched nothing")?;
    stage::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&part))?;
    fs::remove_file(&wheel)?;
    fs::set_permissions(part.join("ziglang/zig"), fs::Permissions::from_mode(0o755))?;
    fs::rename(&part, &folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(program)
}

/// A program of crates.io, built on its first use.
fn installed((name, version): (&str, &str), program: &str, more: &[&str]) -> Result<PathBuf> {
    let root = target_dir().join("tools").join(format!("{name}-{version}"));
    let path = root.join("bin").join(program);
    if path.is_file() {
        return Ok(path);
    }
    eprintln!("== {name} {version}, which is built once");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["install", "--quiet", "--locked", name, "--version", version, "--root"])
        .arg(&root)
        .args(more);
    // Built to be run a few times.
    cargo.env("CARGO_TARGET_DIR", root.join("target")).env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
    stage::run(&mut cargo)?;
    fs::remove_dir_all(root.join("target"))?;
    ensure!(path.is_file(), "{name} has no {program}");
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::oldest;

    #[test]
    fn a_programs_oldest_system_is_read_and_nonsense_is_none() {
        let mut program = vec![0u8; 32];
        program[..4].copy_from_slice(&0xfeed_facf_u32.to_le_bytes());
        program[16..20].copy_from_slice(&2u32.to_le_bytes());
        let command = |kind: u32, rest: &[u32]| {
            let len = 8 + 4 * rest.len() as u32;
            [kind, len].iter().chain(rest).flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()
        };
        program.extend(command(0x1b, &[0; 4]));
        program.extend(command(0x32, &[1, 0x000d_0200, 0x000e_0000, 0]));
        assert_eq!(oldest(&program), Some((13, 2)));
        for len in 0..program.len() - 8 {
            assert_eq!(oldest(&program[..len]), None, "{len}");
        }
        // A command of no length, and more of them than there are.
        program[36..40].copy_from_slice(&0u32.to_le_bytes());
        program[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        program.truncate(64);
        assert_eq!(oldest(&program[..40]), None);
    }
}
