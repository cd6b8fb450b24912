//! A machine that nobody uses is stopped, and started by the next who uses it.

use std::{
    io::{Read, Write},
    process::Stdio,
    time::Duration,
};

use crate::harness::{Machine, is_full, machine};

#[test]
fn a_machine_that_nobody_uses_is_stopped_and_the_next_use_starts_it() {
    let Some(machine) = machine("idle") else { return };
    machine.done(&["settings", "set", "idle-stop-s", "5"]);
    machine.done(&["start"]);
    assert_eq!(machine.http("POST", "/write/kept", b"what must stay"), b"written");
    if is_full() {
        a_process_keeps_it_up(&machine);
    }
    machine.until("a machine that sleeps", |s| s["state"] == "stopped" && s["asleep"] == true);
    assert!(!machine.home.join("machine/machine.json").exists(), "nothing of it runs");
    assert!(!machine.status()["daemon"].is_null(), "the daemon waits");
    let said = String::from_utf8(machine.run(&["status"]).stdout).unwrap();
    assert!(said.starts_with("stopped (asleep"), "{said}");
    // The socket is there; several at once start it once.
    let asked: Vec<_> = (0..4).map(|_| machine.docker()).collect();
    for mut stream in asked {
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n").unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).unwrap_or_else(|e| panic!("{e}\n{}", machine.logs()));
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }
    assert_eq!(machine.http("GET", "/read/kept", b""), b"what must stay");
    if is_full() {
        // One that sleeps is started and stopped like any other.
        machine.until("a machine that sleeps", |s| s["asleep"] == true);
        machine.done(&["start"]);
        machine.until("a machine that sleeps", |s| s["asleep"] == true);
    }
    machine.done(&["stop"]);
    assert_eq!(machine.run(&["status"]).status.code(), Some(3));
}

/// A process in the guest, whether it does anything or not.
fn a_process_keeps_it_up(machine: &Machine) {
    let mut shell = machine.command(&["shell"]);
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    #[allow(clippy::disallowed_methods)] // that nothing happens has no event
    std::thread::sleep(Duration::from_secs(20));
    assert_eq!(machine.status()["state"], "running");
    shell.stdin.take().unwrap().write_all(b"exit\n").unwrap();
    shell.wait().unwrap();
}
