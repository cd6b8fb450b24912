//! What goes wrong with vfkit, told by its double (`examples/vfkit_double`), which injects it. Nothing here boots a
//! guest: what wants one is among the tests of every hypervisor.

use std::{
    fs,
    os::unix::{fs::chown, net::UnixListener},
    path::Path,
    process::Stdio,
};

use serde_json::json;

use crate::harness::{
    Hypervisor, Machine, USER, bare_machine, becomes_user, in_krunkits_place, is_full, kill, vfkit_double,
};

/// A machine whose guest's image is as empty as the guest that the double says it runs.
fn machine(name: &str, fault: &str) -> Machine {
    machine_under(name, fault, Hypervisor::Vfkit)
}

fn machine_under(name: &str, fault: &str, hypervisor: Hypervisor) -> Machine {
    let mut machine = bare_machine(name);
    let image = machine.home.join("image");
    fs::create_dir(&image).unwrap();
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    for name in ["kernel", "initrd", "root.erofs", "boot.efi"] {
        fs::write(image.join(name), "MZ..").unwrap();
    }
    let size = json!({ "bytes": 4 });
    let manifest = json!({ "format": 1, "arch": arch, "build": "b", "cmdline": "quiet",
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

/// The daemon keeps its environment: another fault wants another daemon.
fn fails_with(machine: &mut Machine, fault: &str, words: &str, code: &str) {
    machine.set("CORACLE_DOUBLE", fault);
    let said = machine.fails(&["start"]);
    assert!(said.contains(words), "{said}");
    assert_eq!(machine.error_code(), code);
    machine.done(&["stop"]);
}

#[test]
fn one_whose_daemon_was_killed_before_it_recorded_it_is_ended_by_the_next() {
    let machine = machine("vlost", "empty");
    let begin = || {
        let mut start = machine.command(&["start"]);
        start.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let record = machine.home.join("machine/machine.json");
    let mut start = begin();
    machine.until("a hypervisor", |_| record.exists());
    let first = machine.hypervisor();
    kill(machine.pid("run/daemon.pid"));
    start.wait().unwrap();
    fs::remove_file(&record).unwrap();
    let mut start = begin();
    machine.until("another", |_| record.exists());
    assert!(!Path::new(&format!("/proc/{first}")).exists(), "it would hold the disks");
    assert_ne!(machine.hypervisor(), first);
    machine.done(&["stop", "--grace", "1"]);
    start.wait().unwrap();
}

#[test]
fn what_keeps_vfkit_from_starting_is_said() {
    let mut machine = machine("vstart", "");
    fails_with(&mut machine, "entitlement", "com.apple.security.virtualization", "entitlement");
    fails_with(&mut machine, "dies", "The virtual machine failed to start", "vfkit_died");

    let double = vfkit_double().display().to_string();
    machine.set("CORACLE_VFKIT", "/nonexistent/vfkit");
    fails_with(&mut machine, "", "CORACLE_VFKIT", "vfkit_missing");
    machine.set("CORACLE_VFKIT", &double);

    machine.done(&["settings", "set", "kernel-arguments", "a=\"b\""]);
    fails_with(&mut machine, "empty", "double quotes", "setting");
    machine.done(&["settings", "set", "kernel-arguments", ""]);
}

#[test]
fn what_keeps_krunkit_from_starting_is_said() {
    let mut machine = machine_under("kstart", "", Hypervisor::Krunkit);
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

/// Its network is a program beside it: it lives as long as the guest, and no longer.
#[test]
fn krunkits_network_ends_with_its_guest_and_its_own_end_is_said() {
    let machine = machine_under("knet", "empty", Hypervisor::Krunkit);
    let proxy = |machine: &Machine| {
        let record = fs::read(machine.home.join("machine/machine.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        u32::try_from(record["proxy"].as_u64().unwrap()).unwrap()
    };
    let lives = |pid: u32| Path::new(&format!("/proc/{pid}")).exists();
    starts_to_boot(&machine);
    let first = proxy(&machine);
    assert!(lives(first));
    machine.done(&["stop", "--grace", "1"]);
    gone(first);

    // Both are left by a daemon that was killed, and then the guest dies as well: the next daemon takes the rest away.
    starts_to_boot(&machine);
    let left = proxy(&machine);
    kill(machine.pid("run/daemon.pid"));
    kill(machine.hypervisor());
    assert!(lives(left));
    starts_to_boot(&machine);
    gone(left);

    // It dies alone: said, and the guest goes on.
    kill(proxy(&machine));
    machine.until("its end to be said", |s| s["error"]["code"] == "network_lost");
    assert_eq!(machine.status()["state"], "starting");
    machine.done(&["stop", "--grace", "1"]);
}

/// Waits for the end of a process that somebody else reaps.
fn gone(pid: u32) {
    let since = std::time::Instant::now();
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(since.elapsed() < crate::harness::LIMIT, "process {pid} is left behind");
        #[allow(clippy::disallowed_methods)] // another's process has no event for its end
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_guest_that_never_answers_is_given_up_and_ended() {
    let machine = machine("vmute", "empty");
    machine.done(&["settings", "set", "boot-limit-s", "1"]);
    assert!(machine.fails(&["start"]).contains("did not answer within 1s"));
    assert_eq!(machine.error_code(), "no_answer");
    machine.done(&["stop"]);
    assert!(!machine.home.join("machine/machine.json").exists());
}

#[test]
fn what_an_earlier_vfkit_left_is_no_hindrance() {
    let machine = machine("vstale", "empty");
    fs::create_dir_all(machine.home.join("machine")).unwrap();
    for name in ["rest.sock", "link.sock"] {
        // Bound and left, as by a process that was killed.
        let path = machine.home.join("machine").join(name);
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        own(&path);
    }
    own(&machine.home.join("machine"));
    starts_to_boot(&machine);
    machine.done(&["stop", "--grace", "1"]);
}

#[test]
fn a_vfkit_outlives_its_daemon_and_its_end_is_seen() {
    let machine = machine("vadopt", "empty");
    starts_to_boot(&machine);
    let pid = machine.hypervisor();
    kill(machine.pid("run/daemon.pid"));
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "it outlives the daemon");

    // The next daemon takes it over, and sees its end although it isn't its child.
    starts_to_boot(&machine);
    assert_eq!(machine.status()["pid"], pid);
    kill(pid);
    machine.until("the failure", |s| s["state"] == "failed");
    assert_eq!(machine.error_code(), "vfkit_died");

    // One of its own, in order.
    starts_to_boot(&machine);
    assert_ne!(machine.hypervisor(), pid);
    let pid = machine.hypervisor();
    machine.done(&["stop", "--grace", "1"]);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn one_that_does_not_hear_is_made_to_end() {
    if !is_full() {
        return;
    }
    // Refuses to stop its guest in order: after the limit it is ended by force.
    let mut machine = machine("vdeaf", "empty,deaf");
    starts_to_boot(&machine);
    let pid = machine.hypervisor();
    machine.done(&["stop", "--grace", "1"]);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    // Never runs its guest, and never even listens: given up, and nothing of it is left.
    fails_with(&mut machine, "hangs", "did not run within", "vfkit_died");
    fails_with(&mut machine, "silent", "did not run within", "vfkit_died");
}

/// The double says that its guest runs; the guest is none, so the machine stays where it waits for it.
fn starts_to_boot(machine: &Machine) {
    let said = machine.fails(&["start", "--timeout", "2"]);
    assert!(said.contains("goes on starting"), "{said}");
    assert_eq!(machine.status()["state"], "starting", "{}", machine.logs());
}

fn own(path: &Path) {
    if becomes_user() {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
}
