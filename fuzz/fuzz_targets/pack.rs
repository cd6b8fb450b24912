//! Any bytes as the objects of a repository that is fetched.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| build::fuzzing::pack(bytes));
