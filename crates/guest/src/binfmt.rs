//! Programs of other processors: the kernel gives them to QEMU's user-mode emulators, where the image has them.

use std::{fs, path::Path};

use nix::mount::MsFlags;

use crate::{modules, say, sys};

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

/// Registers every emulator that is here. What fails is said: programs of this processor run all the same.
pub fn register() {
    let here: Vec<(String, String)> = FORMATS
        .iter()
        .map(|(name, magic, mask)| (format!("/usr/bin/qemu-{name}"), rule(name, magic, mask)))
        .filter(|(emulator, _)| Path::new(emulator).exists())
        .collect();
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

fn rule(name: &str, magic: &str, mask: &str) -> String {
    format!(":qemu-{name}:M::{magic}:{mask}:/usr/bin/qemu-{name}:{FLAGS}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_fit_the_kernels_form() {
        for (name, magic, mask) in FORMATS {
            let bytes = |text: &str| text.replace("ELF", r"\x45\x4c\x46").matches(r"\x").count();
            assert_eq!((bytes(magic), bytes(mask)), (20, 20), "{name}");
            let rule = rule(name, magic, mask);
            // The kernel takes at most 1920 bytes, parted by the first one.
            assert!(rule.len() < 1920 && rule.matches(':').count() == 7, "{rule}");
        }
    }
}
