//! Programs of other processors: the kernel gives them to QEMU's user-mode emulators, where the image has them; on Apple
//! silicon those of amd64 to Rosetta, where the host gives it.

use std::{fs, path::Path};

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
    let (_, magic, mask) = FORMATS.iter().find(|(name, ..)| *name == runs).expect("a format of ours");
    Ok((program.clone(), rule("rosetta", magic, mask, &program, flags)))
}

fn rule(name: &str, magic: &str, mask: &str, emulator: &str, flags: &str) -> String {
    format!(":{name}:M::{magic}:{mask}:{emulator}:{flags}")
}

#[cfg(test)]
mod tests {
    use super::*;

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
