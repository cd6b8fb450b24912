//! The same commands on dockerd and on our engine: `tests::differential` says how.

use std::fmt::Write;

use tests::differential::{Fixture, Group, Known, Side, compare};

/// Compares one group with its recording; what it finds in words.
fn differences(group: &Group, known: &Known) -> String {
    let mut found = String::new();
    let fixture = Fixture::read(&group.name);
    let side = Side::ours();
    for case in &group.cases {
        let name = format!("{}/{}", group.name, case.name);
        let ours = side.run(case);
        let lines = |steps: &[(String, _)]| steps.iter().map(|(line, _)| line.clone()).collect::<Vec<_>>();
        let theirs = fixture.cases.get(&case.name).map_or(&[][..], Vec::as_slice);
        assert_eq!(
            lines(theirs),
            lines(&ours),
            "{name} is not recorded as it stands: `cargo xtask fixtures`"
        );
        for ((line, theirs), (_, ours)) in theirs.iter().zip(&ours) {
            for d in compare(theirs, ours) {
                if !known.covers(&format!("{name}: {line}"), &d.place) {
                    writeln!(
                        found,
                        "{name} | {}\n  {line}\n  dockerd: {:?}\n  ours:    {:?}",
                        d.place, d.theirs, d.ours
                    )
                    .expect("a string");
                    if !ours.said.is_empty() {
                        writeln!(found, "  we said: {:?}", ours.said).expect("a string");
                    }
                }
            }
        }
    }
    found
}

#[test]
fn what_dockerd_says_we_say() {
    let wanted = std::env::var("CORACLE_TEST_GROUP").unwrap_or_default();
    let known = Known::read();
    let mut groups = Group::all(&wanted);
    if wanted.is_empty() && std::env::var_os("CORACLE_TEST_FULL").is_none() {
        groups.retain(|group| !group.is_long());
    }
    assert!(!groups.is_empty(), "no group of this name");
    let found: String = std::thread::scope(|scope| {
        let running: Vec<_> = groups.iter().map(|group| scope.spawn(|| differences(group, &known))).collect();
        running.into_iter().map(|r| r.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    });
    assert!(found.is_empty(), "differences from dockerd:\n{found}");
    if wanted.is_empty() {
        assert_eq!(known.unused(), [""; 0], "known differences that are none any more: remove their lines");
    }
}

#[test]
#[ignore = "records: cargo xtask fixtures --peer SOCKET"]
fn record() {
    let socket = std::env::var_os("CORACLE_TEST_PEER").expect("CORACLE_TEST_PEER names dockerd's socket");
    let wanted = std::env::var("CORACLE_TEST_GROUP").unwrap_or_default();
    let side = Side::peer(socket.as_ref());
    let peer = side.describe();
    for group in Group::all(&wanted) {
        let cases = group.cases.iter().map(|case| (case.name.clone(), side.run(case))).collect();
        Fixture { peer: peer.clone(), cases }.write(&group.name);
    }
}
