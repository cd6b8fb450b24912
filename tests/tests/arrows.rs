//! The arrows between our crates, as ARCHITECTURE.md draws them, held against `cargo metadata`.
//!
//! ```text
//! engine -> build, network, runtime, image, archive, wire      build -> archive      image -> archive
//! guest -> link, wire      host -> link, wire      link, share -> wire      app -> host      cli -> host
//! src-tauri -> app         tests and xtask import none of ours: they start binaries
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Every package of ours and what it imports, tests and build scripts included. A row for each: a package that is
/// not listed fails. Those that are not there yet are passed over.
const ARROWS: &[(&str, &[&str])] = &[
    ("app", &["host"]),
    ("archive", &[]),
    ("build", &["archive"]),
    ("cli", &["host"]),
    ("engine", &["archive", "build", "image", "network", "runtime", "wire"]),
    ("guest", &["link", "wire"]),
    ("host", &["link", "wire"]),
    ("image", &["archive"]),
    ("link", &["wire"]),
    ("network", &[]),
    ("runtime", &[]),
    ("capng", &[]),
    ("share", &["wire"]),
    ("coracle-desktop", &["app"]),
    ("tests", &[]),
    ("wire", &[]),
    ("xtask", &[]),
];

/// Packages of the workspace, each with those of ours that its manifest names (ordinary, dev and build).
fn workspace() -> BTreeMap<String, BTreeSet<String>> {
    // The shell is a workspace of its own.
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = packages(own);
    all.extend(packages(&own.join("../src-tauri")));
    all
}

fn packages(folder: &std::path::Path) -> BTreeMap<String, BTreeSet<String>> {
    // Without dependencies there is nothing to resolve: no network, no lock is needed.
    let asked = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(folder)
        .output()
        .expect("cargo");
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&asked.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |p: &serde_json::Value| p["name"].as_str().expect("a name").to_owned();
    packages
        .iter()
        .map(|p| {
            let dependencies = p["dependencies"].as_array().expect("dependencies");
            // What lies in this workspace is named by its folder.
            (name(p), dependencies.iter().filter(|d| d["path"].is_string()).map(name).collect())
        })
        .collect()
}

/// What is wrong with the arrows of `crates`, in words; nothing when all is well.
fn wrongs(crates: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, imports) in crates {
        let Some((_, allowed)) = ARROWS.iter().find(|(n, _)| n == name) else {
            wrong.push(format!("{name} is not drawn in ARCHITECTURE.md and in this test"));
            continue;
        };
        for import in imports.iter().filter(|i| !allowed.contains(&i.as_str())) {
            wrong.push(format!("{name} -> {import} is not one of the arrows"));
        }
        for arrow in *allowed {
            if crates.contains_key(*arrow) && !imports.contains(*arrow) {
                wrong.push(format!("{name} -> {arrow} is drawn, but {name} does not import it"));
            }
        }
    }
    wrong
}

#[test]
fn our_crates_import_each_other_only_as_drawn() {
    let crates = workspace();
    assert!(crates.contains_key("engine") && crates.contains_key("coracle-desktop"), "{crates:?}");
    let wrong = wrongs(&crates);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_arrow_that_is_not_drawn_is_found() {
    let crates = |edges: &[(&str, &[&str])]| {
        edges
            .iter()
            .map(|(n, to)| ((*n).to_owned(), to.iter().map(|t| (*t).to_owned()).collect()))
            .collect::<BTreeMap<_, BTreeSet<_>>>()
    };
    assert_eq!(wrongs(&crates(&[("wire", &["link"])])), ["wire -> link is not one of the arrows"]);
    assert_eq!(wrongs(&crates(&[("util", &[])])), ["util is not drawn in ARCHITECTURE.md and in this test"]);
    assert_eq!(
        wrongs(&crates(&[("archive", &[]), ("image", &[])])),
        ["image -> archive is drawn, but image does not import it"]
    );
}

#[test]
fn the_arrows_make_no_circle() {
    // Take away what imports nothing that is left, until nothing changes: a circle would stay.
    let mut left: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    loop {
        let names: BTreeSet<&str> = left.keys().copied().collect();
        left.retain(|_, to| to.iter().any(|t| names.contains(t)));
        if left.len() == names.len() {
            break;
        }
    }
    assert!(left.is_empty(), "{left:?}");
}
