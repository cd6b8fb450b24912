//! Power cuts: QEMU killed at random instants while containers are made, started, stopped, committed and removed. The
//! guest boots, every change that was acknowledged is there, and nothing is half there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};
use tests::{Outcome, engine::signal, eventually, images, machine::Machine};

/// Cuts in CI, and in the full tier.
const CUTS: usize = 10;
const CUTS_FULL: usize = 50;
/// The longest that a round lasts before its cut: some acts are through by then.
const ROUND: Duration = Duration::from_millis(2500);
/// In this time what is removed is off the disk.
const SWEPT: Duration = Duration::from_secs(20);
/// Where the guest's engine keeps its state, as a process of the guest sees it.
const ENGINE: &str = "/proc/1/root/data/engine";

/// What is done when the power goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Create,
    Start,
    Stop,
    Commit,
    Remove,
}

/// What a container is, as far as the engine said so.
#[derive(Clone, Debug)]
struct Known {
    /// It was started, with a policy that starts it again.
    wanted: bool,
    /// Its name as an image.
    committed: bool,
}

/// What the engine has acknowledged, and what was under way.
#[derive(Default)]
struct Ledger {
    containers: BTreeMap<String, Known>,
    removed: BTreeSet<String>,
    made: usize,
    /// The act that was not answered.
    open: Option<(Act, String)>,
}

impl Ledger {
    /// Acts until the power goes: then an answer does not come.
    fn act(&mut self, machine: &Machine, random: &mut StdRng) {
        loop {
            let names: Vec<String> = self.containers.keys().cloned().collect();
            let act = match random.random_range(0..100) {
                _ if names.len() < 2 => Act::Create,
                0..30 => Act::Start,
                30..45 => Act::Stop,
                45..65 => Act::Commit,
                65..80 => Act::Remove,
                _ if names.len() > 6 => Act::Remove,
                _ => Act::Create,
            };
            let name = match act {
                Act::Create => {
                    self.made += 1;
                    format!("c{}", self.made)
                }
                _ => names[random.random_range(0..names.len())].clone(),
            };
            let script = format!("echo {name} > /is; exec sleep 100000");
            let tag = format!("kept:{name}");
            let args: Vec<&str> = match act {
                Act::Create => {
                    vec![
                        "create",
                        "--name",
                        &name,
                        "--restart",
                        "unless-stopped",
                        "busybox",
                        "sh",
                        "-c",
                        &script,
                    ]
                }
                Act::Start => vec!["start", &name],
                Act::Stop => vec!["stop", "-t", "0", &name],
                Act::Commit => vec!["commit", &name, &tag],
                Act::Remove => vec!["rm", "-f", &name],
            };
            self.open = Some((act, name.clone()));
            if machine.docker(&args).code != Some(0) {
                return;
            }
            self.open = None;
            match act {
                Act::Create => {
                    self.containers.insert(name, Known { wanted: false, committed: false });
                }
                Act::Start => self.known(&name).wanted = true,
                Act::Stop => self.known(&name).wanted = false,
                Act::Commit => self.known(&name).committed = true,
                Act::Remove => {
                    self.containers.remove(&name);
                    self.removed.insert(name);
                }
            }
        }
    }

    fn known(&mut self, name: &str) -> &mut Known {
        self.containers.get_mut(name).expect("a container of the ledger")
    }

    /// Compares with what is there after the boot, and takes over what came of the act that was not answered.
    fn check(&mut self, machine: &Machine, when: &str) {
        let (act, open) = self.open.take().expect("the power went in an act");
        let states = || -> BTreeMap<String, String> {
            let lines = machine.docker(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]).ok();
            lines.lines().filter_map(|l| l.split_once(' ')).map(|(n, s)| (n.into(), s.into())).collect()
        };
        // Where a start takes longer than the first answers wait for it.
        let running = |state: &str| state == "running";
        eventually(&format!("{when}: those that are wanted run"), || {
            let now = states();
            let known = self.containers.iter().filter(|(name, known)| known.wanted && **name != open);
            known.into_iter().all(|(name, _)| now.get(name).is_some_and(|s| running(s)))
        });
        let now = states();
        for (name, known) in &self.containers {
            let state = now.get(name).map_or("missing", String::as_str);
            if *name == open {
                assert!(act == Act::Remove || state != "missing", "{when}: {name} is {state} after {act:?}");
            } else if !known.wanted {
                assert!(matches!(state, "created" | "exited"), "{when}: {name} is {state}, not wanted");
            }
        }
        for (name, state) in &now {
            let expected = self.containers.contains_key(name) || (act == Act::Create && *name == open);
            assert!(expected && !self.removed.contains(name), "{when}: {name} is {state}, of nobody");
        }

        // Whole, not only listed.
        let tags = machine.docker(&["images", "kept", "--format", "{{.Tag}}"]).ok();
        let tags: BTreeSet<&str> = tags.lines().collect();
        for (name, known) in &self.containers {
            if known.committed {
                assert!(tags.contains(name.as_str()), "{when}: the image of {name}; there are {tags:?}");
            }
        }
        if let Some(tag) = (act == Act::Commit && tags.contains(open.as_str())).then_some(&open) {
            let args = ["run", "--rm", &format!("kept:{tag}"), "sh", "-c", "cat /is || echo never started"];
            let is = machine.docker(&args).ok();
            assert!(is == *tag || is.ends_with("never started"), "{when}: kept:{tag} holds {is}");
            self.known(&open).committed = true;
        }
        match (act, now.get(&open)) {
            (Act::Create, Some(_)) => {
                self.containers.insert(open.clone(), Known { wanted: false, committed: false });
                machine.docker(&["start", &open]).ok();
                self.known(&open).wanted = true;
            }
            (Act::Remove, None) => {
                self.containers.remove(&open);
                self.removed.insert(open);
            }
            // One that was being started or ended is one or the other from now on.
            (Act::Start | Act::Stop | Act::Remove, Some(_)) => {
                machine.docker(&["stop", "-t", "0", &open]).ok();
                self.known(&open).wanted = false;
            }
            _ => {}
        }
    }
}

/// What lies in the engine's folders; of containers, how many.
fn folders(machine: &Machine) -> BTreeSet<String> {
    let list = format!(
        "cd {ENGINE}; ls -d image/layers/* image/blobs/*/* image/ingest/* volumes/* 2>/dev/null;
        for d in containers image/containers; do echo $d: $(ls $d | wc -l); done"
    );
    let lines =
        machine.docker(&["run", "--rm", "--privileged", "--pid", "host", "busybox", "sh", "-c", &list]);
    lines.ok().lines().map(str::to_owned).collect()
}

/// The instant is what is random: there is nothing to wait for.
#[allow(clippy::disallowed_methods)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[test]
fn a_power_cut_takes_nothing_that_was_acknowledged() {
    let seed: u64 = match std::env::var("CORACLE_TEST_SEED") {
        Ok(seed) => seed.parse().expect("CORACLE_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("CORACLE_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let machine = Machine::start("cut");
    let folder = tempfile::tempdir().unwrap();
    machine.load(&images::busybox(folder.path()));
    let before = folders(&machine);
    let mut ledger = Ledger::default();
    let mut acts = BTreeMap::<String, usize>::new();
    for round in 0..if std::env::var_os("CORACLE_TEST_FULL").is_some() { CUTS_FULL } else { CUTS } {
        let qemu = machine.status()["pid"].as_u64().expect("QEMU's process") as u32;
        let wait = ROUND.mul_f64(random.random_range(0.0..1.0));
        let seed = random.random();
        std::thread::scope(|scope| {
            scope.spawn(|| ledger.act(&machine, &mut StdRng::seed_from_u64(seed)));
            pause(wait);
            signal(qemu, "KILL");
        });
        let open = format!("{:?}", ledger.open);
        *acts.entry(ledger.open.as_ref().map_or(String::new(), |o| format!("{:?}", o.0))).or_default() += 1;
        eventually("the loss is noticed", || machine.status()["state"] != "running");
        machine.coracle(&["start", "--timeout", "240"]).ok();
        ledger.check(&machine, &format!("round {round}, cut after {wait:?} in {open}"));
    }
    println!("{} containers made, cut in {acts:?}", ledger.made);

    let names: Vec<&str> = ledger.containers.keys().map(String::as_str).collect();
    machine.docker(&[&["rm", "-f"], &names[..]].concat()).ok();
    let images = machine.docker(&["images", "kept", "-q"]).ok();
    let images: BTreeSet<&str> = images.lines().collect();
    if !images.is_empty() {
        let images: Vec<&str> = images.into_iter().collect();
        machine.docker(&[&["rmi", "-f"], &images[..]].concat()).ok();
    }
    let _: Outcome = machine.docker(&["image", "prune", "-f"]);
    let left = || -> Vec<String> { folders(&machine).symmetric_difference(&before).cloned().collect() };
    let deadline = std::time::Instant::now() + SWEPT;
    while !left().is_empty() && std::time::Instant::now() < deadline {}
    assert_eq!(left(), [""; 0], "nothing stays of what is removed");
}
