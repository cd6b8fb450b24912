//! The host's disk runs full under a running guest: on a small file system of the test's own, in a mount namespace
//! that only its thread and the programs it starts are in. The namespace, and the file system with it, is gone when
//! they are, however the test ends.

use std::{fs, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::statvfs::statvfs,
};

use crate::{
    harness::{Machine, home_of, is_full, machine_on},
    hypervisor::Hypervisor,
};

/// Size of the file system. A guest starts, and goes on, with 256 MiB free; its empty data disk takes some 50, krunkit's
/// boot disk and its double's copy as much again.
const SIZE: &str = "size=512m";
/// What is left free, bytes: QEMU stops a guest in the midst of a write that finds no room. Of the others the daemon
/// must find that there is little (32 MiB) before the guest finds that there is none: to them a write fails.
fn left(hypervisor: Hypervisor) -> u64 {
    if hypervisor == Hypervisor::Qemu { 1 << 20 } else { 16 << 20 }
}

/// Times that room is tried to be taken.
const TRIES: u32 = 1000;

fn small_file_system(at: &Path) {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("private");
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(SIZE)).expect("a small file system");
}

/// Takes all the room but `left`; gives the file that does.
fn fill(machine: &Machine, left: u64) -> std::path::PathBuf {
    let path = machine.home.join("ballast");
    let file = fs::File::create(&path).unwrap();
    // The guest may be writing: what was free a moment ago needn't be.
    for _ in 0..TRIES {
        let free = statvfs(&machine.home).expect("the file system's room");
        let bytes = (free.blocks_available() * free.fragment_size()).saturating_sub(left).max(1);
        match nix::fcntl::posix_fallocate(&file, 0, bytes.try_into().unwrap()) {
            Ok(()) => return path,
            Err(nix::Error::ENOSPC) => {}
            Err(error) => panic!("room could not be taken: {error}"),
        }
    }
    panic!("the guest never stopped writing");
}

#[test]
fn a_host_disk_that_fills_up_is_said_and_the_guest_goes_on_when_there_is_room() {
    fills_up(Hypervisor::Qemu, "full");
}

/// Neither tells of a full disk: the daemon looks for room, and pauses the guest by itself: vfkit's by its control,
/// krunkit's, which knows no pause, by a signal.
#[test]
fn under_vfkits_double_as_well() {
    if is_full() {
        fills_up(Hypervisor::Vfkit, "vfull");
    }
}

#[test]
fn under_krunkits_double_as_well() {
    if is_full() {
        fills_up(Hypervisor::Krunkit, "kfull");
    }
}

fn fills_up(hypervisor: Hypervisor, name: &'static str) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CORACLE_TEST_MACHINE").is_none(), "mounting a file system needs root");
        println!("skipped: mounting a file system needs root");
        return;
    }
    // A thread of its own: the test harness may run other tests in this one.
    let done = std::thread::spawn(move || {
        let Some(machine) = machine_on(name, hypervisor, small_file_system) else { return };
        machine.done(&["start"]);
        assert_eq!(machine.http("POST", "/write/kept", b"what must stay"), b"written");

        let ballast = fill(&machine, left(hypervisor));
        let more = vec![7; 20 << 20];
        let stands_still =
            || machine.until("a guest that stands still", |s| s["error"]["code"] == "disk_full");
        if hypervisor != Hypervisor::Qemu {
            stands_still();
        }
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| machine.http("POST", "/write/more", &more));
            stands_still();
            let said = machine.run(&["status"]);
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            assert!(said.contains("the disk of this computer is full"), "{said}");
            assert!(said.contains("the guest stands still"), "{said}");
            assert!(!writing.is_finished(), "what can't be on disk is not acknowledged");
            fs::remove_file(&ballast).unwrap();
            machine.until("a guest that goes on", |s| s["error"].is_null() && s["state"] == "running");
            assert_eq!(writing.join().unwrap(), b"written", "the same request, after all");
        });
        assert_eq!(machine.http("GET", "/read/more", b""), more);
        assert_eq!(machine.http("GET", "/read/kept", b""), b"what must stay");

        // Full before it starts: refused in words, and nothing is lost by it.
        machine.done(&["stop"]);
        let ballast = fill(&machine, left(hypervisor));
        assert!(machine.fails(&["start"]).contains("the disk of this computer is full"));
        assert_eq!(machine.error_code(), "disk_full");
        fs::remove_file(&ballast).unwrap();
        machine.done(&["start"]);
        assert_eq!(machine.http("GET", "/read/kept", b""), b"what must stay");
    })
    .join();
    // Outside it is an empty folder: the machine could not take away what it was mounted on.
    let _ = fs::remove_dir(home_of(name));
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}
