//! Every option that our parser takes has a Dockerfile of its own that both engines have built: the table of them is
//! `tests/fixtures/matrix.txt`, the Dockerfiles stand in the differential test's cases.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use build::dockerfile::instructions::{NAMES, options};
use build::dockerfile::mounts::{MountSpec, TYPES, keys};

/// An instruction and one of its options, or `-` for what has none.
type Cell = (String, String);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// Cells with the cases that are to cover them.
fn table() -> BTreeMap<Cell, (String, String)> {
    let text = std::fs::read_to_string(fixtures().join("matrix.txt")).expect("the table");
    let row = |line: &str| {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [instruction, option, case] = columns[..] else { panic!("not three columns: {line}") };
        let (group, name) = case.split_once('/').unwrap_or_else(|| panic!("not GROUP/CASE: {line}"));
        ((instruction.to_owned(), option.to_owned()), (group.to_owned(), name.to_owned()))
    };
    text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(row).collect()
}

/// The lines of a group's cases, by their names.
fn cases(group: &str) -> BTreeMap<String, String> {
    let path = fixtures().join("cases").join(format!("{group}.txt"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut cases: BTreeMap<String, String> = BTreeMap::new();
    for part in format!("\n{text}").split("\n== ").skip(1) {
        let (name, lines) = part.split_once('\n').unwrap_or((part, ""));
        cases.insert(name.trim().to_owned(), lines.to_owned());
    }
    cases
}

/// Whether one of the Dockerfiles that these lines write has the cell. They are written line by line, each in quotes.
fn has(lines: &str, (instruction, option): &Cell) -> bool {
    let written = lines.split(['\'', '"', ';']).map(str::trim);
    // A trigger is an instruction as well.
    written.flat_map(|line| [Some(line), line.strip_prefix("ONBUILD ")]).flatten().any(|line| {
        let mut words = line.split_whitespace();
        let of_it = words.next().is_some_and(|word| word.trim_start_matches("# ") == instruction);
        let named = |word: &str, name: &str| {
            word.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        let fits = |word: &str| match option.strip_prefix("--mount=type=") {
            Some(mount) => {
                let (kind, key) = mount.split_once(',').unwrap_or((mount, "type"));
                let Some(fields) = word.strip_prefix("--mount=") else { return false };
                let fields: Vec<&str> = fields.split(',').collect();
                let own = fields.iter().find_map(|f| f.strip_prefix("type=")).unwrap_or("bind");
                own == kind && (key == "type" || fields.iter().any(|f| named(f, key)))
            }
            None => named(word, option),
        };
        of_it && (option == "-" || words.any(fits))
    })
}

/// What the parser takes.
fn accepted() -> BTreeSet<Cell> {
    let mut cells = BTreeSet::new();
    for name in NAMES {
        cells.insert((name.to_owned(), "-".to_owned()));
        for (option, _) in options(name) {
            cells.insert((name.to_owned(), format!("--{option}")));
        }
    }
    for (kind, _) in TYPES {
        for key in keys().filter(|key| *key != "type") {
            let value = match key {
                "mode" => "0700",
                "uid" | "gid" => "1",
                "size" => "1m",
                "sharing" => "locked",
                "readonly" | "ro" | "readwrite" | "rw" | "required" => "true",
                _ => "x",
            };
            // A secret is of some id or source, and not of two.
            let rest = if kind == "secret" && !matches!(key, "id" | "source" | "src") { ",id=s" } else { "" };
            let text = format!("type={kind},{key}={value}{rest}");
            if MountSpec::parse(&text, &mut |word| Ok(word.to_owned())).is_ok() {
                cells.insert(("RUN".to_owned(), format!("--mount=type={kind},{key}")));
            }
        }
    }
    cells
}

#[test]
fn each_option_has_a_dockerfile_that_dockerd_has_built() {
    let table = table();
    let missing: Vec<Cell> = accepted().into_iter().filter(|cell| !table.contains_key(cell)).collect();
    assert!(missing.is_empty(), "options without a Dockerfile: name one in matrix.txt: {missing:?}");
    let mut wrong = Vec::new();
    let mut groups: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (cell, (group, case)) in &table {
        let cases = groups.entry(group.clone()).or_insert_with(|| cases(group));
        match cases.get(case) {
            None => wrong.push(format!("{cell:?}: there is no case {group}/{case}")),
            Some(lines) if !has(lines, cell) => {
                wrong.push(format!("{cell:?}: {group}/{case} has no such instruction"));
            }
            Some(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_case_without_the_option_is_noticed() {
    let cell = |option: &str| ("RUN".to_owned(), option.to_owned());
    let lines =
        "setup: printf '%s\\n' 'FROM x' 'RUN --mount=type=cache,target=/c --network=none true' >Dockerfile";
    assert!(has(lines, &cell("--network")));
    assert!(has(lines, &cell("--mount=type=cache,target")));
    assert!(!has(lines, &cell("--mount=type=bind,target")));
    assert!(!has(lines, &cell("--mount=type=cache,id")));
    assert!(!has(lines, &cell("--security")));
    assert!(!has(lines, &("COPY".to_owned(), "-".to_owned())));
}
