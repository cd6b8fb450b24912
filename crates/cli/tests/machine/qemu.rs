//! What goes wrong with QEMU; and the driver `local`, which needs none.

use std::{fs, io::Write, os::unix::fs::PermissionsExt};

use crate::{harness::machine_under, hypervisor::Hypervisor};

#[test]
fn what_is_missing_is_said() {
    let Some(mut machine) = machine_under("missing", Hypervisor::Qemu) else { return };
    let (guest, qemu) = (machine.get("CORACLE_GUEST").unwrap(), machine.get("CORACLE_QEMU").unwrap());
    machine.set("CORACLE_GUEST", "/nonexistent");
    assert!(machine.fails(&["start"]).contains("image"));
    assert_eq!(machine.error_code(), "image");
    machine.done(&["stop"]);
    machine.set("CORACLE_GUEST", &guest);

    machine.set("CORACLE_QEMU", "/nonexistent/qemu");
    assert!(machine.fails(&["start"]).contains("CORACLE_QEMU"));
    assert_eq!(machine.error_code(), "qemu_missing");
    machine.done(&["stop"]);

    let script = |name: &str, text: &str| {
        let path = machine.home.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let old = script("old", "echo QEMU emulator version 7.2.17");
    let version = "[ \"$1\" = --version ] && echo QEMU emulator version 10.0.2 && exit";
    let dying = script("dying", &format!("{version}\necho no luck >&2; exit 7"));
    machine.set("CORACLE_QEMU", &old);
    assert!(machine.fails(&["start"]).contains("7.2 is too old: 10.0"));
    machine.done(&["stop"]);
    machine.set("CORACLE_QEMU", &dying);
    assert!(machine.fails(&["start"]).contains("no luck"));
    assert_eq!(machine.error_code(), "qemu_died");
    machine.done(&["stop"]);
    machine.set("CORACLE_QEMU", &qemu);
    machine.done(&["start"]);
}

#[test]
fn the_local_driver_serves_an_engine_without_a_guest() {
    let Some(machine) = machine_under("local", Hypervisor::Qemu) else { return };
    machine.done(&["settings", "set", "driver", "local"]);
    machine.done(&["start"]);
    assert_eq!(machine.status()["driver"], "local");
    assert_eq!(machine.http("GET", "/_ping", b""), b"OK");
    let _ = machine.docker().write_all(b"POST /die HTTP/1.1\r\nHost: d\r\n\r\n");
    machine.until("the failure", |s| s["state"] == "failed");
    assert_eq!(machine.error_code(), "engine");
    machine.done(&["start"]);
    machine.done(&["stop"]);
}
