//! Any text as a reference: what is accepted reads back from its own writing as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| image::fuzzing::reference(text));
