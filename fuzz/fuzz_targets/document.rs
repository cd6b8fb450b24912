//! Any bytes as an index, manifest or configuration: read, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| image::fuzzing::document(data));
