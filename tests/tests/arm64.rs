//! The guest of arm64 on whatever computer this is: booted by QEMU, translated, a container run in it by the stock CLI;
//! programs of one processor in the guest of the other, both ways; and all of it as on Apple silicon, by vfkit's double.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use tests::machine::{Foreign, Machine};
use tests::{Outcome, eventually, tool};

/// What `cargo xtask test --full` has made, or `None` with the reason said: minutes of translated instructions.
fn made(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        println!("skipped: {variable} names nothing (`cargo xtask test --full` makes it)");
    }
    path
}

fn guest(name: &str) -> Option<Machine> {
    let qemu = made("CORACLE_TEST_QEMU_ARM")?;
    let foreign = Foreign { arch: "arm64", qemu, settings: Vec::new(), environment: Vec::new() };
    Some(Machine::start_foreign(name, foreign))
}

/// The welcome image of this computer's processor: in the stage, beside the programs.
fn our_image() -> PathBuf {
    tool("CORACLE_TEST_BIN").join("../share/coracle/images/welcome.tar")
}

#[test]
fn a_container_in_a_guest_of_arm64() {
    let Some(machine) = guest("arm") else { return };
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
    let Some(archive) = made("CORACLE_TEST_ARM_IMAGE") else { return };
    let machine = Machine::start("foreign");
    runs_foreign_programs(&machine, &archive, "linux/arm64", "aarch64");
    machine.coracle(&["stop"]).ok();
}

#[test]
fn programs_of_amd64_in_a_guest_of_arm64() {
    if cfg!(not(target_arch = "x86_64")) {
        println!("skipped: the image at hand is of arm64");
        return;
    }
    let Some(machine) = guest("arm2") else { return };
    runs_foreign_programs(&machine, &our_image(), "linux/amd64", "x86_64");
    machine.coracle(&["stop"]).ok();
}

/// vfkit's double runs the guest of arm64, with a shared folder and something in Rosetta's place (the emulator of QEMU by
/// that name): the driver asks for it, the guest mounts it and lets it run what is of amd64.
#[test]
fn as_on_apple_silicon_with_a_shared_folder_and_rosetta() {
    if cfg!(not(target_arch = "x86_64")) {
        println!("skipped: the image at hand is of arm64");
        return;
    }
    let (Some(qemu), Some(double), Some(rosetta)) =
        (made("CORACLE_TEST_QEMU_ARM"), made("CORACLE_TEST_VFKIT_DOUBLE"), made("CORACLE_TEST_ROSETTA"))
    else {
        return;
    };
    let folder = tempfile::Builder::new().prefix("cg-mac").tempdir().unwrap();
    let share = tool("CORACLE_TEST_BIN").join("coracle-share");
    let machine = Machine::start_foreign(
        "mac",
        Foreign {
            arch: "arm64",
            qemu,
            settings: vec![
                ("driver", "vfkit".into()),
                ("rosetta", "true".into()),
                ("shares", folder.path().display().to_string()),
            ],
            environment: vec![
                ("CORACLE_VFKIT", double),
                ("CORACLE_DOUBLE_SHARE", share),
                ("CORACLE_DOUBLE_ROSETTA", rosetta),
            ],
        },
    );
    assert_eq!(machine.status()["driver"], "vfkit");
    let opened = ["run", "--rm", "-v", "/proc/sys/fs/binfmt_misc:/b", "coracle/welcome", "busybox", "cat"];
    let rule = machine.docker(&[&opened[..], &["/b/rosetta"]].concat()).ok();
    assert!(rule.starts_with("enabled") && rule.contains("interpreter /run/rosetta/rosetta"), "{rule}");
    machine.load(&our_image());
    let uname = ["run", "--rm", "--platform", "linux/amd64", "coracle/welcome", "busybox", "uname", "-m"];
    assert_eq!(machine.docker(&uname).ok(), "x86_64");

    // The computer's own services, which Apple's network doesn't lead to.
    let service = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port();
    let serve = std::thread::spawn(move || service.accept()?.0.write_all(b"from the host\n"));
    let script = format!("busybox nc host.docker.internal {port} </dev/null");
    assert_eq!(
        machine.docker(&["run", "--rm", "coracle/welcome", "sh", "-c", &script]).ok(),
        "from the host"
    );
    serve.join().unwrap().unwrap();

    std::os::unix::fs::chown(folder.path(), Some(machine.user()), Some(machine.user())).unwrap();
    std::fs::write(folder.path().join("file"), "from the host").unwrap();
    let bind = format!("{}:/x", folder.path().display());
    let script = "busybox cat /x/file; echo from a container >/x/back";
    let said = machine.docker(&["run", "--rm", "-v", &bind, "coracle/welcome", "sh", "-c", script]);
    assert_eq!(said.ok(), "from the host");
    assert_eq!(std::fs::read_to_string(folder.path().join("back")).unwrap(), "from a container\n");
    machine.coracle(&["stop"]).ok();
}

fn runs_foreign_programs(machine: &Machine, archive: &Path, platform: &str, processor: &str) {
    machine.load(archive);
    let run = |args: &[&str]| -> Outcome {
        machine.docker(&[&["run", "--rm", "--platform", platform, "coracle/welcome"], args].concat())
    };
    assert_eq!(run(&["busybox", "uname", "-m"]).ok(), processor);
    // Its own first argument, a child of it, its exit code, a program by its interpreter's line.
    let script = "printf '#!/bin/sh\\necho $0; exit 5\\n' >/tmp/s; chmod +x /tmp/s; (exec /tmp/s); exit $?";
    let said = run(&["sh", "-c", script]);
    assert_eq!((said.code, said.out.trim()), (Some(5), "/tmp/s"), "{}", said.err);
    // A user that isn't root, in a container without any privilege.
    let args = ["run", "--rm", "--platform", platform, "--user", "1000", "--cap-drop", "ALL"];
    let id = machine.docker(&[&args[..], &["coracle/welcome", "busybox", "id", "-u"]].concat());
    assert_eq!(id.ok(), "1000");
}
