//! What goes wrong with WSL, told by its double (`examples/wsl_double`), which injects it; and upgrades of the
//! distribution's root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::harness::{Machine, is_full, kill, wsl_machine, wsl_root};

/// The daemon keeps its environment: another fault wants another daemon.
fn fails_with(machine: &mut Machine, fault: &str, words: &str, code: &str) {
    machine.set("CORACLE_DOUBLE", fault);
    let said = machine.fails(&["start"]);
    assert!(said.contains(words), "{fault}: {said}");
    assert_eq!(machine.error_code(), code, "{fault}");
    machine.set("CORACLE_DOUBLE", "");
    machine.done(&["stop"]);
}

fn starts(machine: &Machine) {
    machine.done(&["start"]);
    assert_eq!(machine.http("GET", "/_ping", b""), b"OK");
}

#[test]
fn each_step_of_a_start_may_fail_and_the_next_start_goes_on() {
    let Some(mut machine) = wsl_machine("wsteps") else { return };
    // Words of the user's language, and in them the codes that are everybody's.
    fails_with(&mut machine, "off", "wsl --install --no-distribution", "wsl_off");
    fails_with(&mut machine, "import", "ERROR_DISK_FULL", "wsl");
    fails_with(&mut machine, "cut", "RPC_S_SERVER_UNAVAILABLE", "wsl");
    fails_with(&mut machine, "dies", "the WSL distribution ended", "wsl_died");
    let double = machine.get("CORACLE_WSL").unwrap();
    machine.set("CORACLE_WSL", "/nonexistent/wsl.exe");
    fails_with(&mut machine, "", "/nonexistent/wsl.exe", "wsl_missing");
    machine.set("CORACLE_WSL", &double);
    let root = machine.get("CORACLE_WSL_ROOT").unwrap();
    machine.set("CORACLE_WSL_ROOT", "/nonexistent");
    fails_with(&mut machine, "", "CORACLE_WSL_ROOT", "wsl_root");
    machine.set("CORACLE_WSL_ROOT", &root);

    starts(&machine);
    machine.done(&["stop"]);
    if !is_full() {
        return;
    }
    machine.set("CORACLE_DOUBLE", "mute");
    machine.done(&["settings", "set", "boot-limit-s", "2"]);
    assert!(machine.fails(&["start"]).contains("did not answer within 2s"));
    assert_eq!(machine.error_code(), "no_answer");
    machine.set("CORACLE_DOUBLE", "");
    machine.done(&["stop"]);
    machine.done(&["settings", "set", "boot-limit-s", "0"]);
    starts(&machine);

    // A guest that only the distribution's end stops, and that end refused: its keeper is ended.
    machine.done(&["stop"]);
    machine.set("CORACLE_DOUBLE", "mute,deaf");
    machine.done(&["settings", "set", "boot-limit-s", "2"]);
    assert!(machine.fails(&["start"]).contains("did not answer within 2s"));
    machine.done(&["stop"]);
}

#[test]
fn an_upgrade_keeps_the_data_and_can_be_gone_back_on() {
    let Some(mut machine) = wsl_machine("wupgrade") else { return };
    let old = machine.get("CORACLE_WSL_ROOT").unwrap();
    let new = another_root(&machine.home.join("root"), "b2");
    starts(&machine);
    assert_eq!(machine.http("POST", "/write/kept", b"what must stay"), b"written");
    machine.done(&["stop"]);

    machine.set("CORACLE_WSL_ROOT", &new.display().to_string());
    fails_with(&mut machine, "unpack", "could not unpack the root", "wsl");
    starts(&machine);
    assert_eq!(machine.http("GET", "/read/kept", b""), b"what must stay");
    assert_eq!(running_build(&machine), "b2");
    machine.done(&["stop"]);

    machine.set("CORACLE_WSL_ROOT", &old);
    starts(&machine);
    assert_eq!(machine.http("GET", "/read/kept", b""), b"what must stay");
    assert_ne!(running_build(&machine), "b2");

    // The daemon and the keeper are killed: what still runs in the distribution is no hindrance.
    kill(machine.pid("run/daemon.pid"));
    kill(machine.hypervisor());
    starts(&machine);
    assert_eq!(machine.http("GET", "/read/kept", b""), b"what must stay");
    machine.done(&["stop"]);
}

fn running_build(machine: &Machine) -> String {
    let record: Value =
        serde_json::from_slice(&fs::read(machine.home.join("machine/machine.json")).unwrap()).unwrap();
    record["build"].as_str().unwrap().to_owned()
}

/// The same root under another build's name.
fn another_root(folder: &Path, build: &str) -> PathBuf {
    let (tree, out) = (folder.join("tree"), folder.join("wsl"));
    fs::create_dir_all(&tree).unwrap();
    fs::create_dir_all(&out).unwrap();
    let tar = |args: &[&str]| assert!(Command::new("tar").args(args).status().unwrap().success());
    let text = |path: &Path| path.display().to_string();
    tar(&["-xzf", &text(&wsl_root().join("root.tar.gz")), "-C", &text(&tree)]);
    let mut manifest: Value =
        serde_json::from_slice(&fs::read(wsl_root().join("manifest.json")).unwrap()).unwrap();
    let roots = tree.join("roots");
    fs::rename(roots.join(manifest["build"].as_str().unwrap()), roots.join(build)).unwrap();
    let archive = out.join("root.tar.gz");
    tar(&["-czf", &text(&archive), "-C", &text(&tree), "roots"]);
    manifest["build"] = build.into();
    manifest["bytes"] = fs::metadata(&archive).unwrap().len().into();
    fs::write(out.join("manifest.json"), manifest.to_string()).unwrap();
    fs::remove_dir_all(&tree).unwrap();
    out
}
