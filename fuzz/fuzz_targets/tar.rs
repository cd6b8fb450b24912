//! Any bytes, unpacked as a layer: they fail or they make files, below the folder given.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

/// A folder to unpack into.
static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    // In memory where there is such a folder: this unpacks thousands of times a second.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    place.expect("a temporary folder").keep()
});

fuzz_target!(|data: &[u8]| image::fuzzing::tar(data, &PLACE));
