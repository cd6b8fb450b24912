//! The engine killed in the middle of what changes images: whatever it had acknowledged is whole when it starts
//! again, what it had not is gone or whole, and nothing is left behind.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use tests::{Engine, Outcome, Registry, images, store};

/// Kills in CI, and in the full tier.
const KILLS: usize = 20;
const KILLS_FULL: usize = 200;

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
        }
        if self.has("committed") {
            self.runs("committed", "/kept", "kept");
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
        let deadline = Instant::now() + Duration::from_secs(10);
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

#[test]
fn a_killed_engine_keeps_what_it_acknowledged_and_nothing_else() {
    let full = std::env::var_os("CORACLE_TEST_FULL").is_some();
    let seed: u64 = match std::env::var("CORACLE_TEST_SEED") {
        Ok(seed) => seed.parse().expect("CORACLE_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("CORACLE_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let engine = Engine::with_busybox();
    let _registry = Registry::start(&engine.sandbox, engine.folder.path());
    let archive = engine.path("fault.tar").to_str().expect("a plain path").to_owned();
    let mut stage = Stage { engine, archive };
    two_layers(&stage);
    stage.engine.docker(&["run", "--name", "keeper", "busybox", "sh", "-c", "echo kept >/kept"]).ok();
    stage.load();
    stage.engine.docker(&["push", "-q", FAULT]).ok();
    stage.clear();

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

    let root = stage.engine.path("root");
    for round in 0..if full { KILLS_FULL } else { KILLS } {
        let act = ACTS[round % ACTS.len()];
        stage.prepare(act);
        let after = usual[round % ACTS.len()].mul_f64(random.random_range(0.0..1.1));
        let client = stage.begin(act);
        pause(after);
        stage.engine.crash();
        let acknowledged = client.wait_with_output().expect("docker").status.success();
        let what = format!("round {round}, {act:?} killed after {after:?} (seed {seed})");
        println!("{what}: acknowledged {acknowledged}");
        stage.engine.launch();
        stage.whole(&what, || store::faults(&root));
        stage.check(act, acknowledged);
        stage.clear();
        stage.whole(&what, || [store::faults(&root), store::garbage(&root)].concat());
    }
}
