//! Containers come and go, and nothing of them stays: memory, descriptors, mounts, groups, links, rules and files are as
//! before. 200 cycles, 2,000 with `cargo xtask test --full`, or as many as `CORACLE_SOAK` says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use tests::{Engine, eventually, tool};

/// How many run at once.
const AT_ONCE: usize = 8;
/// Runs before anything is counted: what is made once is made by then.
const WARM_UP: usize = 24;
/// Looks at what there is that find the same: then nothing is on its way any more.
const LOOKS_ALIKE: usize = 10;
/// KiB that the engine may have grown by: allocators keep what they may need again.
const GROWTH: u64 = 6 << 10;

/// All that may be left over.
#[derive(Debug)]
struct Footprint {
    descriptors: BTreeMap<String, usize>,
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    rules: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
    threads: usize,
}

fn lines(engine: &Engine, program: &Path, args: &[&str]) -> BTreeSet<String> {
    let out = engine.sandbox.command(program).args(args).output().expect("run in the sandbox");
    assert!(out.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect()
}

fn below(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            below(&entry.path(), found);
        }
        found.insert(entry.path());
    }
}

impl Footprint {
    fn of(engine: &Engine) -> Self {
        let proc = PathBuf::from(format!("/proc/{}", engine.pid()));
        let mut descriptors = BTreeMap::new();
        for entry in std::fs::read_dir(proc.join("fd")).expect("descriptors").flatten() {
            let Ok(what) = std::fs::read_link(entry.path()) else { continue };
            // Sockets and pipes by their kind.
            let what = what.to_string_lossy().split(":[").next().unwrap_or_default().to_owned();
            *descriptors.entry(what).or_default() += 1;
        }
        let mut files = BTreeSet::new();
        for folder in ["root", "exec"] {
            below(&engine.path(folder), &mut files);
        }
        // SQLite's own come and go.
        files.retain(|f| !f.to_string_lossy().contains("coracle.db-"));
        let links = lines(engine, Path::new("ip"), &["-o", "link"]);
        Self {
            descriptors,
            mounts: lines(engine, Path::new("cat"), &["/proc/self/mounts"]),
            // Without the counters behind the names.
            links: links.iter().filter_map(|l| Some(l.split(':').nth(1)?.trim().to_owned())).collect(),
            rules: lines(engine, &tool("CORACLE_TEST_NFT"), &["-s", "list", "ruleset"]),
            files,
            threads: std::fs::read_dir(proc.join("task")).map_or(0, Iterator::count),
        }
    }

    /// Of an engine that nobody asks anything: a client's connection and what is given back behind an answer are gone
    /// when several looks in a row find the same.
    fn at_rest(engine: &Engine) -> Self {
        let (mut last, mut alike) = (Self::of(engine), 0);
        eventually("the engine is at rest", || {
            let now = Self::of(engine);
            alike =
                if now.descriptors == last.descriptors && now.files == last.files { alike + 1 } else { 0 };
            last = now;
            alike == LOOKS_ALIKE
        });
        last
    }
}

/// KiB of memory that are the engine's alone.
fn memory(engine: &Engine) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", engine.pid())).expect("memory");
    text.lines().find_map(|l| l.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok()).expect("Pss")
}

/// So many containers with a network, a published port, a volume and a log; answers their ids.
fn cycles(engine: &Engine, count: usize) -> Vec<String> {
    let left = AtomicUsize::new(count);
    let args = ["run", "-d", "--rm", "-p", "80", "-v", "/data", "--tmpfs", "/t", "busybox", "sh", "-c"];
    let script = "echo said; echo kept > /data/f; sleep 0.05; exit 3";
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    let mut ids = Vec::new();
                    while left
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                        .is_ok()
                    {
                        let id = engine.docker(&[&args[..], &[script]].concat()).ok();
                        // It may have gone already.
                        let waiting = engine
                            .command(&["wait", &id])
                            .stdout(Stdio::null())
                            .stderr(Stdio::null())
                            .status();
                        waiting.expect("docker");
                        ids.push(id);
                    }
                    ids
                })
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().expect("a worker")).collect()
    })
}

#[test]
fn nothing_stays_of_containers_that_have_gone() {
    let usual = if std::env::var_os("CORACLE_TEST_FULL").is_some() { 2000 } else { 200 };
    let count = std::env::var("CORACLE_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    let engine = Engine::with_busybox();
    let gone = || eventually("all are removed", || engine.docker(&["ps", "-aq"]).out.is_empty());
    cycles(&engine, WARM_UP);
    gone();
    let (before, memory_before) = (Footprint::at_rest(&engine), memory(&engine));
    let ids = cycles(&engine, count);
    gone();
    assert_eq!(ids.len(), count);
    let after = Footprint::at_rest(&engine);
    assert_eq!(after.descriptors, before.descriptors, "descriptors");
    let more = |after: &BTreeSet<String>, before: &BTreeSet<String>| -> Vec<String> {
        after.symmetric_difference(before).cloned().collect()
    };
    assert_eq!(more(&after.mounts, &before.mounts), [""; 0], "mounts");
    assert_eq!(more(&after.links, &before.links), [""; 0], "links");
    assert_eq!(more(&after.rules, &before.rules), [""; 0], "rules");
    let files: Vec<_> = after.files.symmetric_difference(&before.files).collect();
    assert!(files.is_empty(), "files: {files:?}");
    for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let groups: Vec<_> =
            ids.iter().filter(|id| Path::new(hierarchy).join("coracle").join(id).exists()).collect();
        assert!(groups.is_empty(), "groups: {groups:?}");
    }
    let grown = memory(&engine).saturating_sub(memory_before);
    println!(
        "{count} cycles: the engine grew by {grown} KiB from {memory_before} KiB, threads {} to {}",
        before.threads, after.threads
    );
    assert!(grown < GROWTH, "the engine grew by {grown} KiB from {memory_before} KiB");
}
