//! The machine end to end, through `coracle` itself: a real guest with an engine double in it, under QEMU and under the
//! doubles of vfkit, krunkit and WSL; on a Mac under the real vfkit.
//!
//! Wants `cargo xtask double` first (the guest's image and a QEMU); without them each test that boots says so and is
//! skipped, unless `CORACLE_TEST_MACHINE=1` forbids that. Run as root, everything runs as another, ordinary user.
//!
//! `CORACLE_TEST_VFKIT` names a real vfkit, which then takes its double's place, and QEMU's in what is the same under each
//! (`CORACLE_TEST_KRUNKIT` and `CORACLE_TEST_GVPROXY` a real krunkit). Only doubles fail on request: what wants that is told
//! by them everywhere. On a Mac, where no image can be made, one of Linux (`cargo xtask double --arch arm64`) lies at the same
//! place below `target/double`; what is Linux's alone is not built there, or says so and is skipped. On Linux
//! `CORACLE_ARCH=arm64` boots that image, translated.
#![cfg(unix)]

mod every;
#[cfg(target_os = "linux")] // it mounts a small file system
mod full_disk;
mod harness;
mod hypervisor;
mod idle;
#[cfg(target_os = "linux")] // it looks into /proc
mod many;
#[cfg(target_os = "linux")] // QEMU and the driver `local` are Linux's
mod qemu;
mod vfkit;
mod wsl;

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::{PermissionsExt, chown},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use harness::{
    LIMIT, Machine, USER, becomes_user, bound, echo, is_full, kill, lives, machine, machine_under, port,
    terminate,
};
use hypervisor::Hypervisor;

#[test]
fn a_life_under_qemu() {
    life("life", Hypervisor::Qemu);
}

#[test]
fn a_life_under_vfkit() {
    life("vlife", Hypervisor::Vfkit);
}

#[test]
fn a_life_under_krunkit() {
    life("klife", Hypervisor::Krunkit);
}

#[test]
fn a_life_in_wsls_double() {
    life("wlife", Hypervisor::Wsl);
}

fn life(name: &str, hypervisor: Hypervisor) {
    let Some(machine) = machine_under(name, hypervisor) else { return };
    assert_eq!(machine.run(&["status"]).status.code(), Some(3));
    assert_eq!(machine.run(&["stop"]).status.code(), Some(3));
    machine.done(&["start"]);
    machine.done(&["start"]);
    let status = machine.status();
    assert_eq!(
        (status["state"].as_str(), status["driver"].as_str()),
        (Some("running"), Some(hypervisor.name()))
    );
    assert_eq!(status["guest"]["api"], 2);
    let mode = fs::metadata(machine.home.join("run/docker.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(machine.http("GET", "/_ping", b""), b"OK");
    assert_eq!(machine.http("POST", "/write/kept", b"what must stay"), b"written");

    // Half-close through host, link, guest and back.
    let mut stream = machine.docker();
    stream.write_all(b"POST /echo HTTP/1.1\r\nHost: d\r\n\r\n").unwrap();
    stream.write_all(&[b'x'; 300_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert_eq!(back.iter().filter(|b| **b == b'x').count(), 300_000);

    // Published ports: TCP, UDP, one that is taken, one that nobody serves.
    machine.http("POST", "/listen/7000", b"");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let wanted = json!([
        port("t", "tcp", 0, 7000),
        port("u", "udp", 0, 7000),
        port("x", "tcp", taken.local_addr().unwrap().port(), 7000),
        port("closed", "tcp", 0, 7999)
    ]);
    let outcome = machine.publish(1, &wanted);
    assert_eq!(outcome["generation"], 1);
    let (tcp, udp) = (bound(&outcome, 0), bound(&outcome, 1));
    assert_eq!(outcome["results"][2]["error"]["code"], "in_use");
    assert_eq!(echo(tcp).unwrap(), "through the port");
    assert!(!matches!(echo(bound(&outcome, 3)).as_deref(), Ok("through the port")));
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    datagrams.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    datagrams.send_to(b"datagram", ("127.0.0.1", udp)).unwrap();
    let mut answer = [0; 64];
    let n = datagrams.recv(&mut answer).unwrap();
    assert_eq!(&answer[..n], b"datagram");

    // The daemon is killed: the guest goes on, the next daemon takes it over with its ports.
    let pid = machine.hypervisor();
    kill(machine.pid("run/daemon.pid"));
    assert_eq!(machine.run(&["status"]).status.code(), Some(3));
    machine.done(&["start"]);
    assert_eq!(machine.status()["pid"], pid);
    assert_eq!(machine.http("GET", "/read/kept", b""), b"what must stay");
    let since = Instant::now();
    while echo(tcp).ok().as_deref() != Some("through the port") {
        assert!(since.elapsed() < LIMIT, "the port never came back\n{}", machine.logs());
    }
    assert_eq!(bound(&machine.publish(2, &wanted), 0), tcp);

    // The engine dies: it is started again, and that is said.
    let _ = machine.docker().write_all(b"POST /die HTTP/1.1\r\nHost: d\r\n\r\n");
    // The state follows the log: what it was before is still told for a moment.
    machine.until("an engine that ended, and another", |s| {
        let logs = machine.logs();
        let after =
            logs.split("--- console").next().and_then(|daemon| daemon.split_once("exited with code 3"));
        after.is_some_and(|(_, after)| after.contains("the engine runs")) && s["state"] == "running"
    });
    assert_eq!(machine.http("GET", "/_ping", b""), b"OK");

    // A shell in the guest.
    let text = machine.shell("cat /proc/1/comm; ip -4 addr show dev eth0");
    assert!(text.contains("coracle-guest"), "{text}");
    let address = text.split("inet ").nth(1).and_then(|rest| rest.split('/').next()?.parse().ok());
    assert!(address.is_some_and(|address| hypervisor.gives(address)), "{text}");
    reaches_services(&machine);

    // The hypervisor is killed: said within a moment, and the next start brings back what was written.
    kill(machine.hypervisor());
    machine.until("the failure", |s| s["state"] == "failed");
    assert_eq!(machine.error_code(), format!("{}_died", hypervisor.name()));
    machine.done(&["start"]);
    assert_eq!(machine.http("GET", "/read/kept", b""), b"what must stay");

    // Both are killed.
    kill(machine.pid("run/daemon.pid"));
    kill(machine.hypervisor());
    machine.done(&["start"]);
    assert_eq!(machine.http("GET", "/read/kept", b""), b"what must stay");

    // The data disk grows with its setting, and the guest's file system with it (WSL's disk is WSL's).
    machine.done(&["settings", "set", "disk-gib", "2"]);
    let pid = machine.hypervisor();
    machine.done(&["restart"]);
    assert!(!lives(pid));
    let has_disk = hypervisor != Hypervisor::Wsl;
    assert!(
        !has_disk || machine.logs().contains("the data disk has grown to 2048 MiB"),
        "{}",
        machine.logs()
    );
    assert_eq!(machine.http("GET", "/read/kept", b""), b"what must stay");

    machine.done(&["stop"]);
    assert!(machine.logs().contains("coracle-guest: off"), "{}", machine.logs());
    assert_eq!(machine.status()["state"], "stopped");
    assert!(TcpStream::connect(("127.0.0.1", tcp)).is_err(), "a stopped machine listens to nothing");
    machine.done(&["delete", "--force"]);
    assert!(!machine.home.join("data").exists());
    if let Some(service) = &machine.service {
        assert_eq!(fs::read_dir(&service.folder).unwrap().count(), 0, "the distribution is unregistered");
    }
}

/// Services at this computer's loopback are there for the guest; a port that nobody has is refused, as it is here.
fn reaches_services(machine: &Machine) {
    const HOST: &str = "host.docker.internal";
    let services: Vec<TcpListener> =
        ["127.0.0.1:0", "[::1]:0"].iter().filter_map(|at| TcpListener::bind(at).ok()).collect();
    let ports: Vec<u16> = services.iter().map(|service| service.local_addr().unwrap().port()).collect();
    let served: Vec<_> = services
        .into_iter()
        .map(|service| {
            std::thread::spawn(move || {
                let mut client = service.accept()?.0;
                let mut said = String::new();
                client.read_to_string(&mut said)?;
                client.write_all(format!("heard {said}").as_bytes())
            })
        })
        .collect();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let asked: Vec<String> =
        ports.iter().map(|port| format!("echo $((40+2))-{port} | nc {HOST} {port}")).collect();
    let script = format!("{}; nc {HOST} {closed} </dev/null; echo status=$?", asked.join("; "));
    let text = machine.shell(&script);
    for port in &ports {
        assert!(text.contains(&format!("heard 42-{port}")), "{text}");
    }
    assert!(text.contains("refused") && text.contains("status=1"), "{text}");
    served.into_iter().for_each(|service| service.join().unwrap().unwrap());
}

/// Rounds: a few, or (CORACLE_TEST_FULL) as many as were measured when the link was designed.
#[test]
fn the_daemon_is_killed_under_load_and_the_guest_survives() {
    let Some(machine) = machine("load") else { return };
    machine.done(&["start"]);
    let hypervisor = machine.hypervisor();
    let rounds = if is_full() { 60 } else { 8 };
    for round in 0..rounds {
        // Load both ways on several streams, cut off in its midst.
        let load: Vec<_> = (0..3)
            .map(|_| {
                let mut stream = machine.docker();
                let mut back = stream.try_clone().unwrap();
                stream.write_all(b"POST /echo HTTP/1.1\r\nHost: d\r\n\r\n").unwrap();
                let reader = std::thread::spawn(move || {
                    let (mut chunk, mut got) = (vec![0; 65536], 0);
                    while let Ok(n @ 1..) = back.read(&mut chunk) {
                        got += n;
                    }
                    got
                });
                let writer = std::thread::spawn(move || while stream.write_all(&[9; 65536]).is_ok() {});
                (reader, writer)
            })
            .collect();
        assert_eq!(machine.http("GET", "/_ping", b""), b"OK", "round {round}");
        kill(machine.pid("run/daemon.pid"));
        for (reader, writer) in load {
            writer.join().unwrap();
            reader.join().unwrap();
        }
        let since = Instant::now();
        machine.done(&["start"]);
        println!("round {round}: taken over in {:?}", since.elapsed());
        assert_eq!(machine.http("GET", "/_ping", b""), b"OK", "round {round}");
        assert_eq!(machine.status()["pid"], hypervisor);
    }
}

#[test]
fn a_signal_to_the_daemon_stops_the_guest_in_order() {
    let Some(machine) = machine("term") else { return };
    machine.done(&["start"]);
    let hypervisor = machine.hypervisor();
    terminate(machine.pid("run/daemon.pid"));
    machine.until("a stopped machine", |s| s["state"] == "stopped" && s["daemon"].is_null());
    assert!(machine.done(&["logs", "--guest"]).contains("coracle-guest: off"));
    assert!(machine.done(&["logs", "-n", "5"]).contains("a signal ends the daemon"));
    assert!(!lives(hypervisor));
}

#[test]
fn a_kernel_panic_is_said_and_the_next_start_works() {
    panics("panic", Hypervisor::Qemu);
}

/// vfkit tells of no panic: the console is looked at.
#[test]
fn a_kernel_panic_under_vfkit_is_said_too() {
    if is_full() || Hypervisor::Vfkit.real().is_some() {
        panics("vpanic", Hypervisor::Vfkit);
    }
}

fn panics(name: &str, hypervisor: Hypervisor) {
    let Some(machine) = machine_under(name, hypervisor) else { return };
    machine.done(&["settings", "set", "kernel-arguments", "coracle.root=/dev/none"]);
    let said = machine.fails(&["start"]);
    assert!(said.contains("panic"), "{said}");
    assert_eq!(machine.error_code(), "kernel_panic");
    machine.done(&["settings", "set", "kernel-arguments", ""]);
    machine.done(&["start"]);
}

#[test]
fn a_guest_that_never_answers_is_started_once_more_and_given_up() {
    let Some(machine) = machine("mute") else { return };
    machine.done(&["settings", "set", "boot-limit-s", "1"]);
    machine.done(&["settings", "set", "kernel-arguments", Hypervisor::usual().mute()]);
    assert!(machine.fails(&["start"]).contains("did not answer within 1s"));
    assert_eq!(machine.error_code(), "no_answer");
    let logs = machine.logs();
    assert_eq!(logs.matches("is started once more").count(), 1, "{logs}");
    machine.done(&["settings", "set", "boot-limit-s", "0"]);
    machine.done(&["settings", "set", "kernel-arguments", ""]);
    machine.done(&["start"]);
}

#[test]
fn a_data_disk_with_something_else_on_it_is_left_as_it_is() {
    let Some(machine) = machine("disk") else { return };
    let disk = machine.home.join("data/disk.raw");
    fs::create_dir_all(machine.home.join("data")).unwrap();
    let mut file = fs::File::create(&disk).unwrap();
    file.write_all(&[0xA5; 100_000]).unwrap();
    file.set_len(1 << 30).unwrap();
    if becomes_user() {
        for path in [machine.home.join("data"), disk.clone()] {
            chown(path, Some(USER), Some(USER)).unwrap();
        }
    }
    assert!(machine.fails(&["start"]).contains("no ext4 file system"));
    assert_eq!(machine.error_code(), "engine");
    machine.done(&["stop"]);
    let mut kept = vec![0; 100_000];
    fs::File::open(&disk).unwrap().read_exact(&mut kept).unwrap();
    assert!(kept.iter().all(|b| *b == 0xA5));
}

#[test]
fn a_long_path_is_refused_in_words() {
    let output = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .arg("start")
        .env("CORACLE_HOME", format!("/tmp/{}", "x".repeat(100)))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("CORACLE_HOME"));
}

#[test]
fn usage_and_what_is_not_there() {
    let run = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_coracle"))
            .args(args)
            .env("CORACLE_HOME", "/tmp/cm-none")
            .output()
            .unwrap()
    };
    assert_eq!(run(&["no-such-thing"]).status.code(), Some(2));
    assert_eq!(run(&["scan", "busybox"]).status.code(), Some(1));
    assert!(String::from_utf8_lossy(&run(&["completions", "bash"]).stdout).contains("coracle"));
    let env = run(&["env"]).stdout;
    assert!(String::from_utf8_lossy(&env).contains("DOCKER_HOST='unix:///tmp/cm-none/run/docker.sock'"));
    let version: Value = serde_json::from_slice(&run(&["version", "--json"]).stdout).unwrap();
    assert!(version["coracle"]["build"].is_string());
}

/// Prints what the link gives; `cargo test -p cli --test machine --release -- --ignored --nocapture figures`.
#[test]
#[ignore = "prints figures, checks nothing"]
fn figures() {
    let Some(machine) = machine("figures") else { return };
    let since = Instant::now();
    machine.done(&["start"]);
    println!("first start (makes the data disk), until _ping answered: {:?}", since.elapsed());
    machine.done(&["stop"]);
    for _ in 0..3 {
        let since = Instant::now();
        machine.done(&["start"]);
        println!("start, until _ping answered: {:?}", since.elapsed());
        let since = Instant::now();
        machine.done(&["stop"]);
        println!("stop: {:?}", since.elapsed());
    }
    machine.done(&["start"]);
    let open = || {
        let mut stream = machine.docker();
        stream.write_all(b"POST /echo HTTP/1.1\r\nHost: d\r\n\r\n").unwrap();
        let mut head = [0; 52]; // HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\n
        let head_len = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\n".len();
        stream.read_exact(&mut head[..head_len]).unwrap();
        stream
    };
    let mut stream = open();
    let mut trips: Vec<Duration> = (0..2000)
        .map(|_| {
            let since = Instant::now();
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            since.elapsed()
        })
        .collect();
    trips.sort();
    println!("round trip through the docker socket: median {:?}, 99 % {:?}", trips[1000], trips[1980]);
    const BYTES: usize = 256 << 20;
    let since = Instant::now();
    let writer = std::thread::spawn({
        let mut stream = stream.try_clone().unwrap();
        move || {
            let chunk = vec![7; 1 << 20];
            (0..BYTES >> 20).for_each(|_| stream.write_all(&chunk).unwrap());
        }
    });
    let mut chunk = vec![0; 1 << 20];
    let mut got = 0;
    while got < BYTES {
        got += stream.read(&mut chunk).unwrap();
    }
    writer.join().unwrap();
    println!(
        "echo, both ways at once: {:.0} MB/s each way",
        BYTES as f64 / 1e6 / since.elapsed().as_secs_f64()
    );
    let since = Instant::now();
    machine.http("POST", "/discard", &vec![7; BYTES / 4]);
    println!("up: {:.0} MB/s", (BYTES / 4) as f64 / 1e6 / since.elapsed().as_secs_f64());
    machine.http("POST", "/write/big", &vec![7; BYTES / 4]);
    let since = Instant::now();
    machine.http("GET", "/read/big", b"");
    println!("down: {:.0} MB/s", (BYTES / 4) as f64 / 1e6 / since.elapsed().as_secs_f64());
}
