//! Any text as a Dockerfile: it is converted or refused, and what comes of it can be walked.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| build::fuzzing::dockerfile(text));
