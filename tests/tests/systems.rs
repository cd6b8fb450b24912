//! Systems differ in platform files and drivers, and nowhere else: the words by which code asks for its system are
//! looked for in every other source file.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What asks for a system.
const WORDS: [&str; 6] =
    ["target_os", "target_family", "cfg(unix", "cfg(windows", "cfg!(unix", "cfg!(windows"];
/// Sources that are a system's as a whole, and why.
const OF_ONE_SYSTEM: [&str; 2] = [
    "crates/share/src/lib.rs",  // the folder of a Linux host: built nowhere else
    "crates/share/src/main.rs", // says so where it was built all the same
];

#[test]
fn only_platform_files_and_drivers_know_their_system() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = Vec::new();
    for package in fs::read_dir(root.join("crates")).expect("crates").flatten() {
        find(&package.path().join("src"), &mut sources);
    }
    find(&root.join("src-tauri/src"), &mut sources);
    assert!(sources.len() > 100, "the sources were not found");
    let mut knowing = 0;
    for path in sources {
        let name = path.strip_prefix(&root).expect("below the root").display().to_string();
        let text = fs::read_to_string(&path).expect("a source");
        let asks = text.lines().find(|line| WORDS.iter().any(|word| line.contains(word)));
        let may = name.contains("/platform") || name.contains("/driver") || OF_ONE_SYSTEM.contains(&&*name);
        match asks {
            Some(_) if may => knowing += 1,
            Some(line) => panic!("{name} asks for its system, which platform files and drivers may: {line}"),
            None => assert!(!OF_ONE_SYSTEM.contains(&&*name), "{name} asks for no system any more"),
        }
    }
    assert!(knowing > 2, "the platform files were not looked at");
}

/// On Windows the app has no console, and each program that wants one opens a window: how that is kept from happening is
/// known in one place.
#[test]
fn the_app_starts_programs_by_its_platform_file_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = Vec::new();
    find(&root.join("crates/app/src"), &mut sources);
    find(&root.join("src-tauri/src"), &mut sources);
    let starts = |path: &PathBuf| fs::read_to_string(path).expect("a source").contains("Command::new(");
    let mut starting: Vec<_> = sources.iter().filter(|path| starts(path)).collect();
    starting.sort();
    let platform = [root.join("crates/app/src/platform.rs"), root.join("src-tauri/src/platform.rs")];
    assert_eq!(starting, platform.iter().collect::<Vec<_>>());
}

fn find(folder: &Path, sources: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            find(&path, sources);
        } else if path.extension().is_some_and(|e| e == "rs") {
            sources.push(path);
        }
    }
}
