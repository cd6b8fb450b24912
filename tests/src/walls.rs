//! What the walls around a container let through: a small static program asks (`tests/probe/walls.c`), in a container of
//! dockerd and in one of ours.
//!
//! dockerd's answers are recorded in `fixtures/dockerd/walls.txt`, whose first line names it. To record anew:
//! `CORACLE_TEST_PEER=/path/of/docker.sock cargo test -p tests --test walls -- record --ignored`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The last system call that is tried: those of Linux 6.18.
const LAST_CALL: u32 = 470;

/// Question -> answer.
pub type Answers = BTreeMap<String, String>;

/// Compiles a program of `tests/probe` into `folder`.
pub fn compile(name: &str, folder: &Path, flags: &[String]) -> PathBuf {
    let program = folder.join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("probe/{name}.c"));
    let mut cc = Command::new("cc");
    let made = cc
        .args(["-static", "-O1", "-Wall", "-Werror"])
        .args(flags)
        .arg("-o")
        .arg(&program)
        .arg(source)
        .output();
    let made = made.expect("cc: these tests need build-essential");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    program
}

/// The program that asks.
pub fn probe(folder: &Path) -> PathBuf {
    compile("walls", folder, &[format!("-DLAST={LAST_CALL}")])
}

/// Reads what the program said.
pub fn answers(text: &str) -> Answers {
    let pair = |line: &str| line.split_once('\t').map(|(q, a)| (q.to_owned(), a.trim().to_owned()));
    text.lines().filter(|l| !l.starts_with('#')).filter_map(pair).collect()
}

/// Where dockerd's answers are.
pub fn recording() -> PathBuf {
    crate::differential::folder().join("dockerd/walls.txt")
}

/// Both lists, for people to read.
pub fn side_by_side(ours: &Answers, dockerd: &Answers) -> String {
    let none = "-".to_owned();
    let mut text = format!("{:<46} {:<44} dockerd\n", "", "ours");
    let questions: std::collections::BTreeSet<&String> = ours.keys().chain(dockerd.keys()).collect();
    for question in questions {
        let (a, b) = (ours.get(question).unwrap_or(&none), dockerd.get(question).unwrap_or(&none));
        text.push_str(&format!("{question:<46} {a:<44} {b}{}\n", if a == b { "" } else { "   <-- differs" }));
    }
    text
}
