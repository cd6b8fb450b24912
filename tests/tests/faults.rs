//! The engine killed, and its disk filled, in the middle of what changes images: whatever it had acknowledged is whole
//! when it starts again, what it had not is gone or whole, and nothing is left behind.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use tests::{Engine, Outcome, Registry, images, store};

/// Kills in CI, and in the full tier. Every third comes after the acknowledgement.
const KILLS: usize = 20;
const KILLS_FULL: usize = 200;
/// Longest wait from an acknowledgement to the kill: what happens in the background is under way then.
const AFTERWARDS: Duration = Duration::from_millis(40);
/// Disks filled in CI, and in the full tier.
const FILLED: usize = 12;
const FILLED_FULL: usize = 200;
/// Size of the disk that is filled: some times what the test keeps on it.
const DISK: u64 = 96 << 20;

const FAULT: &str = "127.0.0.1:5000/fault:latest";
const PUSHED: &str = "127.0.0.1:5000/pushed:latest";

/// What is under way when the engine dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Pull,
    Load,
    Push,
    Prune,
    Remove,
    Commit,
    Create,
    RemoveContainer,
}

const ACTS: [Act; 8] = [
    Act::Pull,
    Act::Load,
    Act::Push,
    Act::Prune,
    Act::Remove,
    Act::Commit,
    Act::Create,
    Act::RemoveContainer,
];

struct Stage {
    engine: Engine,
    archive: String,
}

impl Stage {
    fn load(&self) {
        self.engine.docker(&["load", "-q", "-i", &self.archive]).ok();
    }

    /// Makes what the act needs.
    fn prepare(&self, act: Act) {
        match act {
            Act::Pull | Act::Load | Act::Commit => {}
            Act::Push => {
                self.load();
                self.engine.docker(&["tag", FAULT, PUSHED]).ok();
            }
            Act::Prune | Act::Remove | Act::Create => self.load(),
            Act::RemoveContainer => {
                self.load();
                self.engine.docker(&["create", "--name", "victim", FAULT, "true"]).ok();
            }
        }
    }

    fn begin(&self, act: Act) -> Child {
        let args: &[&str] = match act {
            Act::Pull => &["pull", "-q", FAULT],
            Act::Load => &["load", "-q", "-i", &self.archive],
            Act::Push => &["push", "-q", PUSHED],
            Act::Prune => &["image", "prune", "-af"],
            Act::Remove => &["rmi", FAULT],
            Act::Commit => &["commit", "keeper", "committed"],
            Act::Create => &["create", "--name", "victim", FAULT, "true"],
            Act::RemoveContainer => &["rm", "-f", "victim"],
        };
        let mut command = self.engine.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("docker")
    }

    fn has(&self, image: &str) -> bool {
        self.engine.docker(&["image", "inspect", image]).code == Some(0)
    }

    /// The image's every file comes out: one of each layer is asked for.
    fn runs(&self, image: &str, file: &str, contents: &str) {
        assert_eq!(self.engine.docker(&["run", "--rm", image, "cat", file]).ok(), contents, "{image}");
    }

    /// What is saved of an image is all of it.
    fn saves(&self, image: &str) {
        let done = self.engine.command(&["save", image]).output().expect("docker");
        assert!(done.status.success(), "{image}: {}", String::from_utf8_lossy(&done.stderr));
        let faults = store::archive_faults(&done.stdout);
        assert!(faults.is_empty(), "{image} saved: {faults:#?}");
    }

    /// What must hold after the act: `acknowledged` is whether the client saw it succeed.
    fn check(&self, act: Act, acknowledged: bool) {
        let done = match act {
            Act::Pull | Act::Load => self.has(FAULT),
            Act::Prune | Act::Remove => !self.has(FAULT),
            Act::Commit => self.has("committed"),
            Act::Create => self.engine.docker(&["inspect", "victim"]).code == Some(0),
            Act::RemoveContainer => self.engine.docker(&["inspect", "victim"]).code != Some(0),
            Act::Push => {
                self.engine.docker(&["rmi", PUSHED, FAULT]).ok();
                let pulled = self.engine.docker(&["pull", "-q", PUSHED]).code == Some(0);
                if pulled {
                    self.runs(PUSHED, "/data/1", "two");
                }
                pulled
            }
        };
        assert!(done || !acknowledged, "{act:?} was acknowledged and is undone");
        if self.has(FAULT) {
            self.runs(FAULT, "/data/0", "one");
            self.saves(FAULT);
        }
        if self.has("committed") {
            self.runs("committed", "/kept", "kept");
            self.saves("committed");
        }
        assert!(self.has("busybox"), "the image that a container uses");
    }

    /// Removes what acts make. Anything may be absent.
    fn clear(&self) {
        self.engine.docker(&["rm", "-f", "victim"]);
        self.engine.docker(&["rmi", "-f", FAULT, PUSHED, "committed"]);
    }

    /// Waits for what the engine does in the background at start, then nothing may be amiss.
    #[track_caller]
    fn whole(&self, when: &str, find: impl Fn() -> Vec<String>) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut found = find();
        while !found.is_empty() && Instant::now() < deadline {
            pause(Duration::from_millis(20));
            found = find();
        }
        assert!(found.is_empty(), "{when}: {found:#?}");
    }
}

/// The instant of death is what is random: there is nothing to wait for.
#[allow(clippy::disallowed_methods)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn two_layers(stage: &Stage) {
    let one = images::busybox_layer(&[images::File("data/0", 0o644, b"one")]);
    let noise: Vec<u8> = (0..1_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let names: Vec<String> = (2..300).map(|n| format!("data/{n}")).collect();
    let mut files: Vec<images::File<'_>> =
        names.iter().map(|n| images::File(n, 0o644, &noise[..2000])).collect();
    files.push(images::File("data/1", 0o644, b"two"));
    files.push(images::File("data/noise", 0o644, &noise));
    let two = images::busybox_layer(&files);
    images::archive(stage.archive.as_ref(), FAULT, json!({ "Cmd": ["sh"] }), &[one, two]);
}

fn full() -> bool {
    std::env::var_os("CORACLE_TEST_FULL").is_some()
}

/// Random numbers that can be had again.
fn random() -> (u64, StdRng) {
    let seed: u64 = match std::env::var("CORACLE_TEST_SEED") {
        Ok(seed) => seed.parse().expect("CORACLE_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("CORACLE_TEST_SEED={seed}");
    (seed, StdRng::seed_from_u64(seed))
}

/// An engine with busybox in use by a container, a registry that has the image of the acts, and its archive.
fn stage(engine: Engine) -> (Stage, Registry) {
    engine.load(images::busybox);
    let registry = Registry::start(&engine.sandbox, engine.folder.path());
    let archive = engine.path("fault.tar").to_str().expect("a plain path").to_owned();
    let stage = Stage { engine, archive };
    two_layers(&stage);
    stage.engine.docker(&["run", "--name", "keeper", "busybox", "sh", "-c", "echo kept >/kept"]).ok();
    stage.load();
    stage.engine.docker(&["push", "-q", FAULT]).ok();
    stage.clear();
    (stage, registry)
}

#[test]
fn a_killed_engine_keeps_what_it_acknowledged_and_nothing_else() {
    let (seed, mut random) = random();
    let (mut stage, _registry) = stage(Engine::start());

    // Nothing happens before the client has started.
    let started = Instant::now();
    stage.engine.docker(&["version"]).ok();
    let client_start = started.elapsed();
    // How long each takes undisturbed: death comes somewhere in that time, or just after.
    let usual: Vec<Duration> = ACTS
        .iter()
        .map(|act| {
            stage.prepare(*act);
            let started = Instant::now();
            Outcome::from(stage.begin(*act).wait_with_output().expect("docker")).ok();
            let time = started.elapsed();
            stage.clear();
            time
        })
        .collect();

    let root = stage.engine.root();
    for round in 0..if full() { KILLS_FULL } else { KILLS } {
        let act = ACTS[round % ACTS.len()];
        stage.prepare(act);
        let client = stage.begin(act);
        let (after, acknowledged) = if round % 3 == 2 {
            let acknowledged = client.wait_with_output().expect("docker").status.success();
            let after = AFTERWARDS.mul_f64(random.random_range(0.0..1.0));
            pause(after);
            stage.engine.crash();
            (after, acknowledged)
        } else {
            let work = usual[round % ACTS.len()].saturating_sub(client_start / 2);
            let after = client_start / 2 + work.mul_f64(random.random_range(0.0..1.05));
            pause(after);
            stage.engine.crash();
            (after, client.wait_with_output().expect("docker").status.success())
        };
        let what = format!("round {round}, {act:?} killed after {after:?} (seed {seed})");
        println!("{what}: acknowledged {acknowledged}");
        stage.engine.launch();
        stage.whole(&what, || store::faults(&root));
        stage.check(act, acknowledged);
        stage.clear();
        stage.whole(&what, || [store::faults(&root), store::garbage(&root)].concat());
    }
}

/// Bytes that are free where `path` is.
fn free(path: &Path) -> u64 {
    let out = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(path).output().expect("stat");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (blocks, size) = text.trim().split_once(' ').expect("two numbers");
    blocks.parse::<u64>().expect("a number") * size.parse::<u64>().expect("a number")
}

/// Fills the disk with a file until no more than `left` bytes are free.
fn fill(filler: &Path, left: u64) {
    let mut file = std::fs::File::create(filler).expect("create the filler");
    loop {
        let more = free(filler).saturating_sub(left);
        if more == 0 {
            return;
        }
        // Full already, or somebody was faster: there is no more to be had.
        if file.write_all(&vec![0xa5; usize::try_from(more).expect("a small disk")]).is_err() {
            return;
        }
    }
}

#[test]
fn a_full_disk_is_said_and_nothing_is_lost_or_left_behind() {
    const FILLING: [Act; 7] =
        [Act::Pull, Act::Load, Act::Push, Act::Commit, Act::Prune, Act::Create, Act::Remove];
    let (seed, mut random) = random();
    let (mut stage, _registry) = stage(Engine::on_small_disk(DISK));
    let root = stage.engine.root();
    let filler = root.join("filler");

    // What each takes of the disk undisturbed: it ends somewhere in that, or right after.
    let takes: Vec<u64> = FILLING
        .iter()
        .map(|act| {
            stage.prepare(*act);
            let before = free(&root);
            Outcome::from(stage.begin(*act).wait_with_output().expect("docker")).ok();
            let takes = before.saturating_sub(free(&root)) + (64 << 10);
            stage.clear();
            takes
        })
        .collect();

    for round in 0..if full() { FILLED_FULL } else { FILLED } {
        let act = FILLING[round % FILLING.len()];
        stage.prepare(act);
        // Now and then there is no room at all.
        let left = if round % 4 == 3 { 0 } else { random.random_range(0..takes[round % FILLING.len()]) };
        fill(&filler, left);
        let done: Outcome = stage.begin(act).wait_with_output().expect("docker").into();
        let acknowledged = done.code == Some(0);
        let what = format!("round {round}, {act:?} with {left} bytes left (seed {seed})");
        println!("{what}: acknowledged {acknowledged} {}", done.err.trim());
        assert!(
            acknowledged || done.err.to_lowercase().contains("no space left on device"),
            "{what}: {}{}",
            done.out,
            done.err
        );
        // What makes room works when there is none.
        assert!(acknowledged || !matches!(act, Act::Prune | Act::Remove), "{what}: {}", done.err);
        assert!(stage.has("busybox"), "{what}: the engine goes on");
        if round % 2 == 1 {
            stage.engine.crash();
            stage.engine.launch();
            assert!(stage.has("busybox"), "{what}: the engine starts on a full disk");
        }
        std::fs::remove_file(&filler).expect("remove the filler");
        stage.check(act, acknowledged);
        if !acknowledged {
            // It is not the worse for it: with room the same thing works.
            stage.engine.docker(&["rm", "-f", "victim"]);
            Outcome::from(stage.begin(act).wait_with_output().expect("docker")).ok();
            stage.check(act, true);
        }
        stage.engine.crash();
        stage.engine.launch();
        stage.whole(&what, || store::faults(&root));
        stage.clear();
        stage.whole(&what, || [store::faults(&root), store::garbage(&root)].concat());
    }
}

/// The tests above are worth what their checker is worth: it finds each of these.
#[test]
fn a_store_that_is_broken_by_hand_is_found() {
    let (mut stage, _registry) = stage(Engine::start());
    stage.load();
    stage.engine.docker(&["create", "--name", "victim", FAULT, "true"]).ok();
    let root = stage.engine.root();
    stage.whole("before", || [store::faults(&root), store::garbage(&root)].concat());
    stage.engine.stop();

    let first = |folder: &str| {
        let items = std::fs::read_dir(root.join("image").join(folder)).expect("a folder");
        let mut paths: Vec<_> = items.map(|i| i.expect("an item").path()).collect();
        paths.sort();
        paths.remove(0)
    };
    let (blob, layer) = (first("blobs/sha256"), first("layers"));
    let container = first("containers");
    let file = layer.join("bin/busybox");
    let sql = |text: &str| {
        let db = rusqlite::Connection::open(root.join("coracle.db")).expect("the database");
        db.execute_batch(text).expect("a change");
    };
    let damages: [(&str, &dyn Fn()); 14] = [
        ("a blob that is gone", &|| std::fs::remove_file(&blob).expect("remove")),
        ("a blob that is cut", &|| std::fs::write(&blob, b"cut").expect("write")),
        ("a blob nobody knows", &|| std::fs::write(blob.with_file_name("0".repeat(64)), b"").expect("write")),
        ("a layer that is gone", &|| std::fs::remove_dir_all(&layer).expect("remove")),
        ("a layer nobody knows", &|| std::fs::create_dir(layer.with_file_name("9999")).expect("mkdir")),
        ("a layer's file that is cut", &|| std::fs::write(&file, b"cut").expect("write")),
        ("a layer's file that is gone", &|| std::fs::remove_file(&file).expect("remove")),
        ("a container's folder that is gone", &|| std::fs::remove_dir_all(&container).expect("remove")),
        ("a download that is left", &|| std::fs::write(root.join("image/ingest/1"), b"").expect("write")),
        ("a lease", &|| sql("INSERT INTO image_lease(path) VALUES('layers/9999')")),
        ("a blob's record that is gone", &|| sql("DELETE FROM image_blob")),
        ("a configuration that is gone", &|| {
            sql("DELETE FROM image_document WHERE digest IN (SELECT config FROM image_manifest)");
        }),
        ("a document that is another", &|| sql("UPDATE image_document SET data = x'7b7d'")),
        ("an image without names or users that is half gone", &|| {
            sql(
                "DELETE FROM image_name; DELETE FROM image_mount; DELETE FROM image_mount_layer; DELETE FROM image_target",
            );
        }),
    ];
    let copy = |from: &Path, to: &Path| {
        let done = Command::new("cp").arg("-aT").arg(from).arg(to).status();
        assert!(done.is_ok_and(|s| s.success()), "copy {}", from.display());
    };
    let whole = stage.engine.path("whole");
    copy(&root, &whole);
    for (what, damage) in damages {
        damage();
        let found = [store::faults(&root), store::garbage(&root)].concat();
        println!("{what}: {found:?}");
        assert!(!found.is_empty(), "{what} is not found");
        std::fs::remove_dir_all(root.join("image")).expect("remove the broken copy");
        for name in ["coracle.db", "coracle.db-wal", "coracle.db-shm"] {
            let _ = std::fs::remove_file(root.join(name));
        }
        copy(&whole, &root);
    }
    assert!([store::faults(&root), store::garbage(&root)].concat().is_empty(), "the copy is whole");
    stage.engine.launch();
    stage.check(Act::Load, true);
}
