//! The guest of arm64 on whatever computer this is: booted by QEMU, translated, a container run in it by the stock CLI; and
//! programs of arm64 in this computer's own guest.

use tests::{eventually, machine::Machine};

/// Minutes of translated instructions: `cargo xtask test --full` makes the image and names its QEMU.
#[test]
fn a_container_in_a_guest_of_arm64() {
    let Some(qemu) = std::env::var_os("CORACLE_TEST_QEMU_ARM") else {
        println!("skipped: CORACLE_TEST_QEMU_ARM names no QEMU (`cargo xtask test --full` does)");
        return;
    };
    let machine = Machine::start_foreign("arm", "arm64", qemu.into());
    assert_eq!(machine.docker(&["version", "-f", "{{.Server.Arch}}"]).ok(), "arm64");
    let uname = ["run", "--rm", "coracle/welcome", "busybox", "uname", "-m"];
    assert_eq!(machine.docker(&uname).ok(), "aarch64");
    assert_eq!(machine.docker(&["run", "--rm", "coracle/welcome", "sh", "-c", "exit 3"]).code, Some(3));

    // The network, from the host to the container: nftables, bridge and link of that architecture.
    machine.docker(&["run", "-d", "--name", "web", "-p", "127.0.0.1::80", "coracle/welcome"]).ok();
    let address = machine.docker(&["port", "web", "80/tcp"]).ok();
    let mut page = String::new();
    eventually("the page of the container", || {
        page = machine.curl(&format!("http://{address}/")).out;
        !page.is_empty()
    });
    assert!(page.contains("This page comes from a container."), "{page}");
    machine.docker(&["rm", "-f", "web"]).ok();
    machine.coracle(&["stop"]).ok();
}

/// The emulator is in the guest's image, and registered before anybody asks.
#[test]
fn programs_of_arm64_in_a_guest_of_amd64() {
    let Some(archive) = std::env::var_os("CORACLE_TEST_ARM_IMAGE").map(std::path::PathBuf::from) else {
        println!("skipped: CORACLE_TEST_ARM_IMAGE names no image (`cargo xtask test --full` does)");
        return;
    };
    let machine = Machine::start("foreign");
    machine.load(&archive);
    let run = |args: &[&str]| {
        machine.docker(&[&["run", "--rm", "--platform", "linux/arm64", "coracle/welcome"], args].concat())
    };
    assert_eq!(run(&["busybox", "uname", "-m"]).ok(), "aarch64");
    // Its own first argument, a child of it, its exit code, a program by its interpreter's line.
    let script = "printf '#!/bin/sh\\necho $0; exit 5\\n' >/tmp/s; chmod +x /tmp/s; (exec /tmp/s); exit $?";
    let said = run(&["sh", "-c", script]);
    assert_eq!((said.code, said.out.trim()), (Some(5), "/tmp/s"), "{}", said.err);
    // A user that isn't root, in a container without any privilege.
    let args = ["run", "--rm", "--platform", "linux/arm64", "--user", "1000", "--cap-drop", "ALL"];
    let id = machine.docker(&[&args[..], &["coracle/welcome", "busybox", "id", "-u"]].concat());
    assert_eq!(id.ok(), "1000");
    machine.coracle(&["stop"]).ok();
}
