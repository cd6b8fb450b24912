//! What goes wrong with vfkit and krunkit. What has to be injected is told by their double (`examples/vfkit_double`), which
//! boots no guest; the rest by a real vfkit as well, where one is named. What wants a guest is among the tests of every
//! hypervisor.

use std::{
    fs,
    os::unix::{fs::chown, net::UnixListener},
    path::Path,
    process::{Child, Stdio},
};

use serde_json::json;

use crate::{
    harness::{
        Machine, USER, bare_machine, becomes_user, gone, in_krunkits_place, is_full, kill, lives,
        machine_under, vfkit_double,
    },
    hypervisor::{Hypervisor, arch},
};

/// A machine of the double, which fails as it is told to (`empty`: it doesn't). The guest's image is as empty as the guest
/// that it says it runs.
fn failing(name: &str, fault: &str, hypervisor: Hypervisor) -> Machine {
    let mut machine = bare_machine(name);
    let image = machine.home.join("image");
    fs::create_dir(&image).unwrap();
    for name in ["kernel", "initrd", "root.erofs", "boot.efi"] {
        fs::write(image.join(name), "MZ..").unwrap();
    }
    let size = json!({ "bytes": 4 });
    let manifest = json!({ "format": 1, "arch": arch(), "build": "b", "cmdline": "quiet",
        "outputs": { "kernel": size, "initrd": size, "root.erofs": size } });
    fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
    machine.set("CORACLE_GUEST", &image.display().to_string());
    machine.set("CORACLE_VFKIT", &vfkit_double().display().to_string());
    in_krunkits_place(&mut machine);
    machine.set("CORACLE_DOUBLE", fault);
    machine.done(&["settings", "set", "driver", hypervisor.name()]);
    machine.done(&["settings", "set", "disk-gib", "1"]);
    machine
}

/// A machine of the real vfkit and a real guest where one is named, else of the double; `None` with the reason printed
/// when what the real one needs is not there.
fn machine(name: &str) -> Option<Machine> {
    match Hypervisor::Vfkit.real() {
        Some(_) => machine_under(name, Hypervisor::Vfkit),
        None => Some(failing(name, "empty", Hypervisor::Vfkit)),
    }
}

fn fails_with(machine: &mut Machine, fault: &str, words: &str, code: &str) {
    machine.set("CORACLE_DOUBLE", fault);
    fails(machine, words, code);
}

/// The daemon keeps its environment: what fails otherwise wants another daemon.
fn fails(machine: &Machine, words: &str, code: &str) {
    let said = machine.fails(&["start"]);
    assert!(said.contains(words), "{said}");
    assert_eq!(machine.error_code(), code);
    machine.done(&["stop"]);
}

#[test]
fn one_whose_daemon_was_killed_before_it_recorded_it_is_ended_by_the_next() {
    let Some(machine) = machine("vlost") else { return };
    let record = machine.home.join("machine/machine.json");
    let mut start = begin(&machine);
    machine.until("a hypervisor", |_| record.exists());
    let first = machine.hypervisor();
    kill(machine.pid("run/daemon.pid"));
    start.wait().unwrap();
    fs::remove_file(&record).unwrap();
    let mut start = begin(&machine);
    machine.until("another", |_| record.exists());
    assert!(!lives(first), "it would hold the disks");
    assert_ne!(machine.hypervisor(), first);
    machine.done(&["stop", "--grace", "1"]);
    start.wait().unwrap();
}

fn begin(machine: &Machine) -> Child {
    machine.command(&["start"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The double's: a real one has the right, and starts.
#[test]
fn what_keeps_vfkit_from_starting_is_said() {
    let mut machine = failing("vstart", "", Hypervisor::Vfkit);
    fails_with(&mut machine, "entitlement", "com.apple.security.virtualization", "entitlement");
    fails_with(&mut machine, "dies", "The virtual machine failed to start", "vfkit_died");
}

#[test]
fn a_vfkit_that_is_missing_or_cannot_be_told_something_is_said() {
    let Some(mut machine) = machine("vmissing") else { return };
    let program = machine.get("CORACLE_VFKIT").unwrap();
    machine.set("CORACLE_VFKIT", "/nonexistent/vfkit");
    fails(&machine, "CORACLE_VFKIT", "vfkit_missing");
    machine.set("CORACLE_VFKIT", &program);

    machine.done(&["settings", "set", "kernel-arguments", "a=\"b\""]);
    fails(&machine, "double quotes", "setting");
    machine.done(&["settings", "set", "kernel-arguments", ""]);
    comes_up(&machine);
    machine.done(&["stop", "--grace", "1"]);
}

/// The double's.
#[cfg_attr(all(target_os = "macos", target_arch = "x86_64"), ignore = "krunkit is for Apple silicon alone")]
#[test]
fn what_keeps_krunkit_from_starting_is_said() {
    let mut machine = failing("kstart", "", Hypervisor::Krunkit);
    fails_with(&mut machine, "dies", "krunkit ended: exit status: 1", "krunkit_died");
    fails_with(&mut machine, "offline", "operation not permitted", "network");
    machine.done(&["settings", "set", "memory-mib", "65536"]);
    fails_with(&mut machine, "empty", "memory-mib may be 61440 at most with krunkit", "setting");
    machine.done(&["settings", "set", "memory-mib", "1024"]);
    machine.set("CORACLE_GVPROXY", "/nonexistent/gvproxy");
    fails_with(&mut machine, "", "CORACLE_GVPROXY", "gvproxy_missing");
    machine.set("CORACLE_KRUNKIT", "/nonexistent/krunkit");
    fails_with(&mut machine, "", "CORACLE_KRUNKIT", "krunkit_missing");
}

/// Its network is a program beside it: it lives as long as the guest, and no longer. The double's.
#[cfg_attr(all(target_os = "macos", target_arch = "x86_64"), ignore = "krunkit is for Apple silicon alone")]
#[test]
fn krunkits_network_ends_with_its_guest_and_its_own_end_is_said() {
    let machine = failing("knet", "empty", Hypervisor::Krunkit);
    comes_up(&machine);
    let first = proxy(&machine);
    assert!(lives(first));
    machine.done(&["stop", "--grace", "1"]);
    gone(first);

    // Both are left by a daemon that was killed, and then the guest dies as well: the next daemon takes the rest away.
    comes_up(&machine);
    let left = proxy(&machine);
    kill(machine.pid("run/daemon.pid"));
    kill(machine.hypervisor());
    assert!(lives(left));
    comes_up(&machine);
    gone(left);

    // It dies alone: said, and the guest goes on.
    kill(proxy(&machine));
    machine.until("its end to be said", |s| s["error"]["code"] == "network_lost");
    assert_eq!(machine.status()["state"], "starting");
    machine.done(&["stop", "--grace", "1"]);
}

/// It is started before its guest. The double's.
#[cfg_attr(all(target_os = "macos", target_arch = "x86_64"), ignore = "krunkit is for Apple silicon alone")]
#[test]
fn a_network_whose_daemon_was_killed_before_it_recorded_it_is_ended_by_the_next() {
    let machine = failing("klost", "empty", Hypervisor::Krunkit);
    comes_up(&machine);
    let left = proxy(&machine);
    kill(machine.pid("run/daemon.pid"));
    fs::remove_file(machine.home.join("machine/machine.json")).unwrap();
    assert!(lives(left));
    comes_up(&machine);
    assert_ne!(proxy(&machine), left);
    gone(left);
    machine.done(&["stop", "--grace", "1"]);
}

/// The process that is the network of krunkit's guest.
fn proxy(machine: &Machine) -> u32 {
    let record = fs::read(machine.home.join("machine/machine.json")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    u32::try_from(record["proxy"].as_u64().unwrap()).unwrap()
}

#[test]
fn a_guest_that_never_answers_is_given_up_and_ended() {
    let Some(machine) = machine("vmute") else { return };
    machine.done(&["settings", "set", "boot-limit-s", "1"]);
    machine.done(&["settings", "set", "kernel-arguments", Hypervisor::Vfkit.mute()]);
    assert!(machine.fails(&["start"]).contains("did not answer within 1s"));
    assert_eq!(machine.error_code(), "no_answer");
    machine.done(&["stop"]);
    assert!(!machine.home.join("machine/machine.json").exists());
}

#[test]
fn what_an_earlier_vfkit_left_is_no_hindrance() {
    let Some(machine) = machine("vstale") else { return };
    fs::create_dir_all(machine.home.join("machine")).unwrap();
    for name in ["rest.sock", "link.sock"] {
        // Bound and left, as by a process that was killed.
        let path = machine.home.join("machine").join(name);
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        own(&path);
    }
    own(&machine.home.join("machine"));
    comes_up(&machine);
    machine.done(&["stop", "--grace", "1"]);
}

#[test]
fn a_vfkit_outlives_its_daemon_and_its_end_is_seen() {
    let Some(machine) = machine("vadopt") else { return };
    comes_up(&machine);
    let pid = machine.hypervisor();
    kill(machine.pid("run/daemon.pid"));
    assert!(lives(pid), "it outlives the daemon");

    // The next daemon takes it over, and sees its end although it isn't its child.
    comes_up(&machine);
    assert_eq!(machine.status()["pid"], pid);
    kill(pid);
    machine.until("the failure", |s| s["state"] == "failed");
    assert_eq!(machine.error_code(), "vfkit_died");

    // One of its own, in order.
    comes_up(&machine);
    assert_ne!(machine.hypervisor(), pid);
    let pid = machine.hypervisor();
    machine.done(&["stop", "--grace", "1"]);
    assert!(!lives(pid));
}

/// The double's.
#[test]
fn one_that_does_not_hear_is_made_to_end() {
    if !is_full() {
        return;
    }
    // Refuses to stop its guest in order: after the limit it is ended by force.
    let mut machine = failing("vdeaf", "empty,deaf", Hypervisor::Vfkit);
    comes_up(&machine);
    let pid = machine.hypervisor();
    machine.done(&["stop", "--grace", "1"]);
    assert!(!lives(pid));
    // Never runs its guest, and never even listens: given up, and nothing of it is left.
    fails_with(&mut machine, "hangs", "did not run within", "vfkit_died");
    fails_with(&mut machine, "silent", "did not run within", "vfkit_died");
}

/// The hypervisor says that its guest runs. The double's is none, so the machine stays where it waits for it.
fn comes_up(machine: &Machine) {
    if machine.get("CORACLE_DOUBLE").is_none() {
        machine.done(&["start"]);
        assert_eq!(machine.status()["state"], "running", "{}", machine.logs());
        return;
    }
    let said = machine.fails(&["start", "--timeout", "2"]);
    assert!(said.contains("goes on starting"), "{said}");
    // What an earlier one left may still be ended first.
    machine.until("a start", |s| s["state"] == "starting");
}

fn own(path: &Path) {
    if becomes_user() {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
}
