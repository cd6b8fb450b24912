//! The driver `local`: daemon and engine on this Linux, without a guest.

use std::path::Path;
use std::process::Stdio;

use tests::desktop::Desktop;
use tests::engine::signal;
use tests::{Cli, Outcome, eventually, images, tool};

fn coracle(home: &Desktop, args: &[&str]) -> Outcome {
    home.command(tool("CORACLE_TEST_BIN").join("coracle")).args(args).output().expect("coracle").into()
}

fn docker(home: &Desktop, args: &[&str]) -> Outcome {
    home.command(Cli::V28.program()).args(args).output().expect("docker").into()
}

/// A home that runs, with busybox.
fn started() -> Desktop {
    let home = Desktop::new();
    coracle(&home, &["start"]).ok();
    let archive = images::busybox(home.folder());
    docker(&home, &["load", "-q", "-i", archive.to_str().expect("a plain path")]).ok();
    home
}

/// A container's process as this machine knows it.
fn pid(home: &Desktop, name: &str) -> u32 {
    docker(home, &["inspect", "-f", "{{.State.Pid}}", name]).ok().parse().expect("a pid")
}

fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_stop_ends_containers_in_order_and_a_delete_leaves_nothing() {
    let home = started();
    let asked = ["run", "-d", "--name", "asked", "--restart", "always", "busybox", "sh", "-c"];
    docker(&home, &[&asked[..], &["trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done"]].concat())
        .ok();
    docker(
        &home,
        &["run", "-d", "--name", "deaf", "--stop-timeout", "3600", "busybox", "sh", "-c"]
            .iter()
            .chain(&["trap '' TERM; echo deaf; while :; do sleep 0.1; done"])
            .copied()
            .collect::<Vec<_>>(),
    )
    .ok();
    eventually("it no longer hears", || docker(&home, &["logs", "deaf"]).out == "deaf\n");
    let pids = [pid(&home, "asked"), pid(&home, "deaf")];
    // One would take an hour: the grace is what counts.
    coracle(&home, &["stop", "--grace", "2"]).ok();
    assert!(!pids.iter().any(|pid| lives(*pid)), "containers are still there after the stop");

    // The policy brings back what was not stopped by a person.
    coracle(&home, &["start"]).ok();
    eventually("the policy starts it again", || {
        docker(&home, &["ps", "--format", "{{.Names}}"]).out == "asked\n"
    });
    assert_eq!(docker(&home, &["logs", "asked"]).ok().lines().next(), Some("bye"));
    let pid = pid(&home, "asked");
    coracle(&home, &["delete", "--force"]).ok();
    assert!(!lives(pid), "a container is still there after the delete");
    assert!(!home.path("c").exists(), "the home is still there");
}

#[test]
fn what_a_killed_daemon_and_engine_left_is_ended_too_and_a_volumes_folder_is_spared() {
    let home = started();
    let mine = home.path("mine");
    std::fs::create_dir(&mine).expect("make a folder");
    std::fs::write(mine.join("kept"), "").expect("write");
    let device = format!("device={}", mine.display());
    let options = ["--opt", "type=none", "--opt", "o=bind", "--opt", &device];
    docker(&home, &[&["volume", "create"], &options[..], &["bound"]].concat()).ok();
    docker(&home, &["run", "-d", "--name", "left", "-v", "bound:/data", "busybox", "sleep", "1000"]).ok();
    let left = pid(&home, "left");
    for file in ["c/run/daemon.pid", "c/run/engine/engine.pid"] {
        let pid: u32 =
            std::fs::read_to_string(home.path(file)).expect("a pid").trim().parse().expect("a pid");
        signal(pid, "KILL");
        eventually("it is gone", || !runs(pid));
    }
    assert!(lives(left), "the container goes on");
    coracle(&home, &["delete", "--force"]).ok();
    assert!(!lives(left), "a container is still there after the delete");
    assert!(mine.join("kept").exists(), "the folder behind the volume was emptied");
    assert!(!home.path("c").exists(), "the home is still there");

    // What is mounted there otherwise is nobody's to empty.
    std::fs::create_dir_all(home.path("c/data/a place")).expect("make a folder");
    let mount = |args: &[&str]| {
        let done = home.sandbox.command("mount").args(args).arg(home.path("c/data/a place")).status();
        assert!(done.is_ok_and(|s| s.success()), "mount");
    };
    mount(&["--bind", mine.to_str().expect("a plain path")]);
    coracle(&home, &["delete", "--force"]).fails(1, "a place is still mounted");
    assert!(mine.join("kept").exists());
    let done = home.sandbox.command("umount").arg(home.path("c/data/a place")).stderr(Stdio::null()).status();
    assert!(done.is_ok_and(|s| s.success()), "umount");
}

/// Whether a process runs: one that nobody has waited for yet doesn't.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
