//! The build's id: the commit, and whether the tree differed from it.
use std::process::Command;

fn main() {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    // Whoever builds all programs of a release gives them one id; an archive of the sources has no git.
    let build =
        std::env::var("CORACLE_BUILD").ok().filter(|id| !id.is_empty()).unwrap_or_else(|| {
            match git(&["rev-parse", "--short=12", "HEAD"]) {
                Some(commit) => {
                    let dirty = git(&["status", "--porcelain", "--untracked-files=no"])
                        .is_some_and(|s| !s.is_empty());
                    format!("{commit}{}", if dirty { "-dirty" } else { "" })
                }
                None => "unknown".to_owned(),
            }
        });
    println!("cargo:rustc-env=CORACLE_BUILD={build}");
    println!("cargo:rerun-if-env-changed=CORACLE_BUILD");
    for path in ["HEAD", "index", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", path]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src");
}
