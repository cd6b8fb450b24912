//! Any bytes as an archive for `docker load`, into a store of its own.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use image::{Config, Images};
use libfuzzer_sys::fuzz_target;

static STORE: LazyLock<(Images, tokio::runtime::Runtime)> = LazyLock::new(|| {
    // In memory where there is such a folder: every run syncs.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let root = place.expect("a temporary folder").keep();
    let config = Config { db: root.join("db"), root: root.join("images"), ..Config::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    (Images::open(config).expect("a store"), runtime.expect("a runtime"))
});

fuzz_target!(|data: &[u8]| image::fuzzing::load(data, &STORE.0, &STORE.1));
