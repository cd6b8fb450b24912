//! What hostile input reaches, as functions of any bytes that panic when something is not as it must be. An error
//! is always a fine answer.
//!
//! Two things drive them, from the same seeds (`fuzz/seeds/NAME`): the programs of `fuzz/` (libFuzzer, guided by
//! coverage; `cargo xtask test --full`), and the tests of this module, which mutate the seeds blindly for a bounded
//! time whenever unit tests run. libFuzzer alone in CI would cost more than it gives: it wants everything that this
//! crate stands on built once more with instruments, which takes minutes, for seconds of fuzzing.

#[cfg(test)]
mod mutations;

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use archive::{ExtractOptions, Limits};

use crate::registry::auth::Challenge;
use crate::spec::{ConfigDocument, Document};
use crate::{Images, LoadOptions, Reference};

/// Any bytes, unpacked as a layer: they make files below `place/root` (made here and removed again), none beside it.
pub fn tar(data: &[u8], place: &Path) {
    let root = place.join("root");
    fs::create_dir(&root).expect("make the folder");
    let folder = fs::File::open(&root).expect("open the folder");
    let limits = Limits { entries: 64, bytes: 1 << 20, path_bytes: 4096, depth: 32 };
    let options = ExtractOptions { limits, ..ExtractOptions::layer() };
    let _ = archive::extract(data, folder.as_fd(), &options);
    fs::remove_dir_all(&root).expect("remove the folder");
    let beside: Vec<_> = fs::read_dir(place).expect("read the place").collect();
    assert!(beside.is_empty(), "something was made outside: {beside:?}");
}

/// Any text as a reference: what is accepted reads back from its own writing as the same.
pub fn reference(text: &str) {
    if let Ok(reference) = Reference::parse(text) {
        assert_eq!(Reference::parse(&reference.familiar()).ok(), Some(reference.clone()), "{text:?}");
        assert_eq!(Reference::parse(&reference.to_string()).ok(), Some(reference), "{text:?}");
    }
    let _ = Reference::parse_bare(text);
}

/// Any bytes as an index, a manifest and a configuration. A document means the same thing whatever its server calls
/// it, or is refused.
pub fn document(data: &[u8]) {
    let read = |media_type: &str| Document::parse(media_type, data, "fuzzed").ok();
    for media_type in ["", crate::spec::OCI_INDEX, crate::spec::OCI_MANIFEST] {
        let Some((document, found)) = read(media_type) else { continue };
        let is_index = matches!(document, Document::Index(_));
        assert_eq!(is_index, found.contains("index") || found.contains("list"), "{found}");
        let again = read(&found).map(|(document, found)| (matches!(document, Document::Index(_)), found));
        assert_eq!(again, Some((is_index, found)), "a document reads as what it was found to be");
    }
    if let (Ok((Document::Manifest(manifest), _)), Ok(_)) =
        (Document::parse("", data, "fuzzed"), serde_json::from_slice::<ConfigDocument>(data))
    {
        let _ = crate::pull::read_config(data, &manifest, "fuzzed");
    }
}

/// Any text as a `WWW-Authenticate` header.
pub fn challenge(header: &str) {
    if let Some(Challenge::Bearer { realm, .. }) = Challenge::parse(header) {
        assert!(!realm.is_empty(), "a bearer challenge names its realm");
    }
}

/// Any bytes as an archive for `docker load`: what is loaded can be read and saved, what is not leaves nothing.
pub fn load(data: &[u8], images: &Images, runtime: &tokio::runtime::Runtime) {
    let input = std::io::Cursor::new(data.to_vec());
    let loaded = runtime.block_on(images.load(input, LoadOptions::default(), Arc::new(|_| {})));
    for image in loaded.iter().flatten() {
        let id = image.id.to_string();
        runtime.block_on(images.get(&id)).expect("what was loaded is there");
        runtime.block_on(images.save(&[id], None, tokio::io::sink())).expect("and can be saved");
    }
    let all = crate::PruneOptions { all: true, ..Default::default() };
    runtime.block_on(images.prune(all, &|_| Vec::new())).expect("and goes again");
}
