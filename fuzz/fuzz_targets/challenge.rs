//! Any `WWW-Authenticate` header of a registry: read, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|header: &str| image::fuzzing::challenge(header));
