//! The walls around a container, beside those of dockerd.

use std::process::Command;

use tests::walls::{answers, probe, recording, side_by_side};
use tests::{Engine, Outcome};

/// Differences that are meant: a question (`*` at its end stands for anything) and why.
const MEANT: &[(&str, &str)] = &[
    ("mount /sys/fs/cgroup", "recorded on cgroup v1: a tmpfs with the hierarchies in it"),
    ("socket AF_ALG", "the profile is moby's of today, which denies the kernel's crypto sockets"),
    ("call 041", "the same: socket(2) of a family that is none"),
    ("open tun", "runc lets every container at /dev/net/tun; here it is asked for by --device"),
];

#[test]
fn the_walls_are_as_high_as_dockerds() {
    let recorded = std::fs::read_to_string(recording()).expect("the recording");
    let header = recorded.lines().next().unwrap_or_default();
    if !header.contains(std::env::consts::ARCH) {
        // Numbers of calls are the architecture's.
        println!("{header}: not of this architecture, nothing to compare with");
        return;
    }
    let dockerd = answers(&recorded);
    let engine = Engine::with_busybox();
    let program = probe(engine.folder.path());
    let ours = answers(&run(&mut |args| engine.docker(args), &program));
    println!("{header}\n{}", side_by_side(&ours, &dockerd));
    assert!(ours.len() > 400, "{} questions were answered", ours.len());
    let meant = |question: &str| {
        MEANT.iter().any(|(pattern, _)| match pattern.strip_suffix('*') {
            Some(start) => question.starts_with(start),
            None => question == *pattern,
        })
    };
    let lower: Vec<_> = dockerd
        .iter()
        .filter(|(question, answer)| ours.get(*question) != Some(answer) && !meant(question))
        .map(|(question, answer)| format!("{question}: dockerd {answer}, ours {:?}", ours.get(question)))
        .collect();
    assert!(lower.is_empty(), "{}", lower.join("\n"));
    let more: Vec<_> =
        ours.iter().filter(|(question, _)| !dockerd.contains_key(*question) && !meant(question)).collect();
    assert!(more.is_empty(), "dockerd's container has nothing of the kind: {more:?}");
}

/// The program in a container with nothing asked for; an exec must see the same.
fn run(docker: &mut dyn FnMut(&[&str]) -> Outcome, program: &std::path::Path) -> String {
    let name = "coracle-walls";
    docker(&["rm", "-f", name]);
    docker(&["run", "-d", "--name", name, "--network", "none", "busybox", "sleep", "1000"]).ok();
    docker(&["cp", program.to_str().expect("a plain path"), &format!("{name}:/walls")]).ok();
    let exec = docker(&["exec", name, "/walls"]).ok();
    docker(&["commit", name, "coracle-walls:test"]).ok();
    let own = docker(&["run", "--rm", "--network", "none", "coracle-walls:test", "/walls"]).ok();
    docker(&["rm", "-f", name]).ok();
    docker(&["rmi", "-f", "coracle-walls:test"]).ok();
    let (exec, own_answers) = (answers(&exec), answers(&own));
    assert_eq!(exec, own_answers, "an exec is behind other walls than its container");
    own
}

#[test]
#[ignore = "records dockerd's answers: needs CORACLE_TEST_PEER, its socket"]
fn record() {
    let peer = std::env::var("CORACLE_TEST_PEER").expect("CORACLE_TEST_PEER");
    let mut docker = |args: &[&str]| -> Outcome {
        let mut command = Command::new(tests::Cli::V28.program());
        command.args(["-H", &format!("unix://{peer}")]).args(args).output().expect("docker").into()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let busybox = tests::images::busybox(folder.path());
    docker(&["load", "-q", "-i", busybox.to_str().expect("a plain path")]).ok();
    let said = run(&mut docker, &probe(folder.path()));
    let version = docker(&["version", "-f", "dockerd {{.Server.Version}}, {{.Server.KernelVersion}}"]).ok();
    let runc = docker(&["info", "-f", "runc {{.RuncCommit.ID}}, cgroup {{.CgroupVersion}}"]).ok();
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    let text = format!("# {version} {}, {runc}\n{}\n", std::env::consts::ARCH, lines.join("\n"));
    std::fs::write(recording(), text).expect("write the recording");
}
