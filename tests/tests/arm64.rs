//! The guest of arm64 on whatever computer this is: booted by QEMU, translated, a container run in it by the stock CLI.

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
