//! Programs of other processors: the kernel gives them to QEMU's user-mode emulators, where the image has them; on Apple
//! silicon those of amd64 to Rosetta, where the host gives it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use nix::mount::MsFlags;

use crate::{GuestError, modules, say, sys};

const PLACE: &str = "/proc/sys/fs/binfmt_misc";
const MODULE: &str = "binfmt_misc";
/// P: the emulator is told the program's own first argument. O, C: the program is opened for it, and its rights count.
/// F: the emulator is opened now, so that containers, which don't have its file, find it as well.
const FLAGS: &str = "POCF";
/// Which programs are whose: name, the first bytes of their files, which bits of these count.
const FORMATS: [(&str, &str, &str); 2] = [
    (
        "aarch64",
        r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00",
        r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff",
    ),
    (
        "x86_64",
        r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00",
        r"\xff\xff\xff\xff\xff\xfe\xfe\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff",
    ),
];

/// Where Rosetta is mounted, and what it runs (it is told nothing of first arguments, so without `P`).
const ROSETTA: (&str, &str, &str) = ("/run/rosetta", "x86_64", "OCF");

/// A program of amd64 that ends at once, with 0: head, one segment, `xor edi, edi; mov eax, 60; syscall`.
const ENDS: [u8; 129] = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0\x78\0\x40\0\0\0\0\0\
    \x40\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\
    \x01\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\0\0\x40\0\0\0\0\0\0\0\x40\0\0\0\0\0\
    \x81\0\0\0\0\0\0\0\x81\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\
    \x31\xff\xb8\x3c\0\0\0\x0f\x05";
/// Where that program is.
const TRIED: &str = "/run/amd64";
/// What a Rosetta says that is older than this kernel: of things that the kernel tells each program, and of its place in them
/// (macOS 13 against 6.3 and newer; macOS 15 against 6.11 where it is built otherwise, and 6.13).
const TOO_OLD: [&str; 2] = ["auxillary vector", "vdso"];

/// Registers every emulator that is here, and Rosetta of that tag. What fails is said: programs of this processor run
/// all the same.
pub fn register(rosetta: Option<&str>) {
    let mut here: Vec<(String, String)> = FORMATS
        .iter()
        .map(|(name, magic, mask)| {
            let emulator = format!("/usr/bin/qemu-{name}");
            (emulator.clone(), rule(&format!("qemu-{name}"), magic, mask, &emulator, FLAGS))
        })
        .filter(|(emulator, _)| Path::new(emulator).exists())
        .collect();
    // Of two rules for a program the later one holds.
    if let Some(tag) = rosetta {
        match mount_rosetta(tag) {
            Ok(rosetta) => here.push(rosetta),
            Err(error) => say(format_args!("without Rosetta: {error}")),
        }
    }
    if here.is_empty() {
        return;
    }
    let mounted = modules::load(MODULE)
        .and_then(|()| sys::mount(MODULE, PLACE, MODULE, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, ""));
    if let Err(error) = mounted {
        return say(error);
    }
    for (emulator, rule) in here {
        if let Err(error) = fs::write(format!("{PLACE}/register"), rule) {
            say(format_args!("{emulator} was not registered: {error}"));
        }
    }
}

/// Rosetta's program and its rule. A program of amd64 itself it could not run.
fn mount_rosetta(tag: &str) -> Result<(String, String), GuestError> {
    let (place, runs, flags) = ROSETTA;
    if runs == std::env::consts::ARCH {
        return Err(GuestError::Invalid("this processor needs none".into()));
    }
    fs::create_dir_all(place).map_err(GuestError::io("making", place))?;
    sys::mount(tag, place, "virtiofs", MsFlags::MS_RDONLY | MsFlags::MS_NODEV, "")?;
    let program = format!("{place}/rosetta");
    fs::metadata(&program).map_err(GuestError::io("looking for", &program))?;
    let tried = is_of_this_kernels_time(Command::new(&program), Path::new(TRIED));
    let _ = fs::remove_file(TRIED);
    tried?;
    let (_, magic, mask) = FORMATS.iter().find(|(name, ..)| *name == runs).expect("a format of ours");
    Ok((program.clone(), rule("rosetta", magic, mask, &program, flags)))
}

/// Whether it knows what this kernel tells programs: one that doesn't gives up each of them, and the emulator of the image's
/// runs them. Whatever else it says is not about the kernel.
fn is_of_this_kernels_time(mut rosetta: Command, program: &Path) -> Result<(), GuestError> {
    fs::write(program, ENDS)
        .and_then(|()| fs::set_permissions(program, fs::Permissions::from_mode(0o755)))
        .map_err(GuestError::io("writing", program.display().to_string()))?;
    let tried = rosetta.arg(program).stdin(Stdio::null()).output();
    let tried = tried.map_err(GuestError::io("running", "Rosetta"))?;
    let said = String::from_utf8_lossy(&[tried.stdout, tried.stderr].concat()).trim().to_owned();
    if !tried.status.success() && TOO_OLD.iter().any(|word| said.contains(word)) {
        let message = format!("it is older than this kernel ({said}); a newer macOS brings a newer one");
        return Err(GuestError::Program { program: "rosetta", message });
    }
    Ok(())
}

fn rule(name: &str, magic: &str, mask: &str, emulator: &str, flags: &str) -> String {
    format!(":{name}:M::{magic}:{mask}:{emulator}:{flags}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In Rosetta's place a script that says what it has been seen to say.
    #[test]
    fn a_rosetta_that_does_not_know_this_kernel_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("amd64");
        let tried = |script: &str| {
            let mut rosetta = Command::new("sh");
            rosetta.args(["-c", script, "rosetta"]);
            is_of_this_kernels_time(rosetta, &program)
        };
        for words in ["rosetta error: unhandled auxillary vector type 29", "Failed to find vdso DT_HASH"] {
            let error = tried(&format!("echo '{words}' >&2; exit 133")).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        tried("exit 0").unwrap();
        tried("echo 'something else' >&2; exit 1").unwrap();
        if std::env::consts::ARCH == "x86_64" {
            let ended = Command::new("sh").arg("-c").arg(&program).status().unwrap();
            assert!(ended.success(), "the program itself: {ended}");
        }
    }

    #[test]
    fn rules_fit_the_kernels_form() {
        for (name, magic, mask) in FORMATS {
            let bytes = |text: &str| text.replace("ELF", r"\x45\x4c\x46").matches(r"\x").count();
            assert_eq!((bytes(magic), bytes(mask)), (20, 20), "{name}");
            let rule = rule(name, magic, mask, "/usr/bin/qemu-x", FLAGS);
            // The kernel takes at most 1920 bytes, parted by the first one.
            assert!(rule.len() < 1920 && rule.matches(':').count() == 7, "{rule}");
        }
    }
}
