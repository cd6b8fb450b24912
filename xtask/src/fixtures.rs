//! `cargo xtask fixtures`: what a real dockerd answers to the cases of the differential test, recorded.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{stage, tools, workspace};

/// Records all groups, or those whose name contains `group`. The recorder is a test that is ignored otherwise: it runs
/// the very code that the comparison runs.
pub fn record(peer: &Path, group: Option<&str>) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(workspace())
        .envs(tools::environment()?)
        .env("CORACLE_TEST_PEER", peer)
        .env("CORACLE_TEST_GROUP", group.unwrap_or_default())
        .args(["test", "--package", "tests", "--test", "differential", "--locked"])
        .args(["--", "--ignored", "--exact", "record"]);
    stage::run(&mut cargo)
}
