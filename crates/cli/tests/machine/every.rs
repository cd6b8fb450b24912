//! Faults at each step of a start, the same under every hypervisor: whatever dies, what is left is no hindrance, and the
//! next `start` works.

use std::{
    fs,
    os::unix::{fs::chown, net::UnixListener},
    process::{Child, Stdio},
};

use crate::{
    harness::{Machine, USER, becomes_user, is_full, kill, lives, machine_under},
    hypervisor::Hypervisor,
};

/// Where a start has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There is a daemon.
    Daemon,
    /// The hypervisor has been started, and written down.
    Hypervisor,
    /// The guest has answered.
    Answer,
}

#[test]
fn under_qemu_a_start_gets_over_whatever_dies_in_it() {
    whatever_dies("every", Hypervisor::Qemu);
}

#[test]
fn under_vfkit_a_start_gets_over_whatever_dies_in_it() {
    whatever_dies("vevery", Hypervisor::Vfkit);
}

/// The driver is vfkit's, and firmware takes its time.
#[test]
fn under_krunkit_a_start_gets_over_whatever_dies_in_it() {
    if is_full() || Hypervisor::Krunkit.real().is_some() {
        whatever_dies("kevery", Hypervisor::Krunkit);
    }
}

#[test]
fn in_wsls_double_a_start_gets_over_whatever_dies_in_it() {
    whatever_dies("wevery", Hypervisor::Wsl);
}

fn whatever_dies(name: &str, hypervisor: Hypervisor) {
    let Some(machine) = machine_under(name, hypervisor) else { return };
    leave_sockets(&machine);

    // The daemon is killed, at each step.
    let mut started = Vec::new();
    for step in [Step::Daemon, Step::Hypervisor, Step::Answer] {
        let mut start = begin(&machine);
        reach(&machine, step);
        kill(machine.pid("run/daemon.pid"));
        started.extend((step != Step::Daemon).then(|| machine.hypervisor()));
        start.wait().unwrap();
    }
    machine.done(&["start"]);
    assert_eq!(machine.http("GET", "/_ping", b""), b"OK");
    assert_eq!(machine.http("POST", "/write/kept", b"what must stay"), b"written");
    let now = machine.hypervisor();
    for pid in started.into_iter().filter(|pid| *pid != now) {
        machine.until("the end of what was not taken over", |_| !lives(pid));
    }
    machine.done(&["stop"]);

    // The hypervisor is.
    for step in [Step::Hypervisor, Step::Answer] {
        let mut start = begin(&machine);
        reach(&machine, step);
        kill(machine.hypervisor());
        machine.until("the failure", |s| s["state"] == "failed");
        assert_eq!(machine.error_code(), format!("{}_died", hypervisor.name()), "{step:?}");
        start.wait().unwrap();
    }
    machine.done(&["start"]);
    assert_eq!(machine.http("GET", "/read/kept", b""), b"what must stay");
    machine.done(&["stop"]);

    // Somebody thinks better of it.
    let mut start = begin(&machine);
    reach(&machine, Step::Hypervisor);
    let pid = machine.hypervisor();
    machine.done(&["stop", "--grace", "1"]);
    assert_eq!(start.wait().unwrap().code(), Some(1));
    assert_eq!(machine.status()["state"], "stopped");
    assert!(!lives(pid));
    machine.done(&["start"]);
    assert_eq!(machine.http("GET", "/read/kept", b""), b"what must stay");
}

fn begin(machine: &Machine) -> Child {
    machine.command(&["start"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn reach(machine: &Machine, step: Step) {
    machine.until(&format!("{step:?}"), |status| match step {
        Step::Daemon => !status["daemon"].is_null(),
        Step::Hypervisor => machine.home.join("machine/machine.json").exists() && lives(machine.hypervisor()),
        Step::Answer => !status["guest"].is_null(),
    });
}

/// Sockets that nobody listens to, as processes leave them that are killed.
fn leave_sockets(machine: &Machine) {
    let folder = machine.home.join("machine");
    fs::create_dir_all(&folder).unwrap();
    let names = ["link.sock", "qmp.sock", "rest.sock", "net.sock"];
    for name in names {
        drop(UnixListener::bind(folder.join(name)).unwrap());
    }
    if becomes_user() {
        for path in names.iter().map(|name| folder.join(name)).chain([folder.clone()]) {
            chown(path, Some(USER), Some(USER)).unwrap();
        }
    }
}
