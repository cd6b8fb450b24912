//! Any bytes, unpacked as a layer: they fail or they make files, below the folder given.
#![no_main]

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use archive::{ExtractOptions, Limits, extract};
use libfuzzer_sys::fuzz_target;

/// A folder to unpack into; nothing may ever appear beside `root`.
static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    // In memory where there is such a folder: this unpacks thousands of times a second.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    place.expect("a temporary folder").keep()
});

fuzz_target!(|data: &[u8]| {
    let root = PLACE.join("root");
    fs::create_dir(&root).expect("make the folder");
    let folder = fs::File::open(&root).expect("open the folder");
    let limits = Limits { entries: 64, bytes: 1 << 20, path_bytes: 4096, depth: 32 };
    let options = ExtractOptions { limits, ..ExtractOptions::layer() };
    // An error is a fine answer.
    let _ = extract(data, folder.as_fd(), &options);
    fs::remove_dir_all(&root).expect("remove the folder");
    let beside: Vec<_> = fs::read_dir(&*PLACE).expect("read the place").collect();
    assert!(beside.is_empty(), "something was made outside: {beside:?}");
});
