//! `coracle settings`, which needs no daemon. On Linux and Windows no driver has Rosetta; on a Mac it is a setting, and
//! this says nothing of it.
#![cfg(not(target_os = "macos"))]

use std::process::{Command, Output};

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn settings(&self, args: &[&str]) -> Output {
        let mut coracle = Command::new(env!("CARGO_BIN_EXE_coracle"));
        coracle.arg("settings").args(args).env("CORACLE_HOME", self.0.path().join("home"));
        let out = coracle.output().expect("coracle");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        out
    }
}

#[test]
fn what_the_machine_cannot_have_is_not_listed_and_told_of_when_it_is_set() {
    let home = Home::new();
    let listed = || String::from_utf8(home.settings(&["get"]).stdout).expect("text");
    assert!(listed().lines().any(|line| line.starts_with("cpus=")), "{}", listed());
    assert!(!listed().contains("rosetta"), "{}", listed());
    let said = String::from_utf8(home.settings(&["set", "rosetta", "true"]).stderr).expect("text");
    assert!(said.contains("rosetta is kept, and does nothing here"), "{said}");
    assert_eq!(home.settings(&["get", "rosetta"]).stdout, b"true\n");
    assert!(!listed().contains("rosetta"), "{}", listed());
    assert!(home.settings(&["set", "cpus", "2"]).stderr.is_empty());
    assert!(listed().lines().any(|line| line == "cpus=2"), "{}", listed());
}
