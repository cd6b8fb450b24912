//! Many connections through a published port: at once, and one after the other.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    process::Command,
    time::Instant,
};

use serde_json::json;

use crate::harness::{LIMIT, Machine, bound, is_full, machine, port};

/// The limit of open files that systems begin with, and one that this test needs for itself.
const OPEN_FILES: (u32, u32) = (1024, 8192);

/// Sets how many files this process, and what it starts, may have open.
fn open_files(limit: u32) {
    let args = ["--pid", &std::process::id().to_string(), &format!("--nofile={limit}:")];
    assert!(Command::new("prlimit").args(args).status().unwrap().success());
}

/// Open files of the daemon; of PID 1 and the engine in the guest.
fn descriptors(machine: &Machine) -> (usize, [usize; 2]) {
    let daemon = machine.pid("run/daemon.pid");
    // What the terminal shows of the line itself has no number after the colon.
    let script = "for p in 1 $(pidof coracle-engine); do echo count:$(ls /proc/$p/fd | wc -l); done";
    let text = machine.shell(script);
    let counts: Vec<usize> =
        text.lines().filter_map(|line| line.trim().strip_prefix("count:")?.trim().parse().ok()).collect();
    let [guest, engine] = counts[..] else { panic!("{text}") };
    (fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().count(), [guest, engine])
}

#[test]
fn a_thousand_connections_at_once_and_ten_times_as_many_in_a_row_leave_nothing() {
    let Some(machine) = machine("many") else { return };
    open_files(OPEN_FILES.0);
    machine.done(&["start"]);
    open_files(OPEN_FILES.1);
    machine.http("POST", "/listen/7000", b"");
    let wanted = json!([port("t", "tcp", 0, 7000)]);
    let port = bound(&machine.publish(1, &wanted), 0);
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    };
    // What the first one makes for good.
    let ask = |mut stream: TcpStream, n: usize| {
        let word = format!("connection {n}");
        stream.write_all(word.as_bytes()).unwrap();
        // Said all: the answer still comes, and its end.
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap_or_else(|e| panic!("{n}: {e}\n{}", machine.logs()));
        assert_eq!(answer, word);
    };
    ask(connect(), 0);
    let before = descriptors(&machine);

    let (at_once, in_a_row) = if is_full() { (1000, 10_000) } else { (200, 300) };
    let since = Instant::now();
    let all: Vec<TcpStream> = (0..at_once).map(|_| connect()).collect();
    // Each of them is served while all are there.
    let talks: Vec<_> = all
        .into_iter()
        .enumerate()
        .map(|(n, mut stream)| {
            stream.write_all(b"x").unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap_or_else(|e| panic!("{n}: {e}\n{}", machine.logs()));
            stream
        })
        .collect();
    println!("{at_once} at once: {:?}", since.elapsed());
    for (n, stream) in talks.into_iter().enumerate() {
        ask(stream, n);
    }
    let since = Instant::now();
    for n in 0..in_a_row {
        ask(connect(), n);
    }
    println!("{in_a_row} in a row: {:?}", since.elapsed());
    let since = Instant::now();
    loop {
        let after = descriptors(&machine);
        if after.0 <= before.0 && after.1[0] <= before.1[0] && after.1[1] <= before.1[1] {
            return;
        }
        assert!(since.elapsed() < LIMIT, "before {before:?}, after {after:?}\n{}", machine.logs());
    }
}
