//! Any text as what a build cache that is kept elsewhere says it holds.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| build::fuzzing::cache(text));
