//! One container that is stuck holds up nobody else: not `ps`, not the operations on others.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use tests::{Engine, Outcome, engine::signal, eventually};

/// How long anything may take that has nothing to do with what is stuck.
const LIMIT: Duration = Duration::from_secs(15);

/// A process that is ended with the test, also when that fails.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything that people do with other containers, and what looks at all of them.
fn others_go_on(engine: &Engine, stuck: &str) {
    let within = |args: &[&str]| engine.within(LIMIT, args);
    assert!(within(&["ps", "-a"]).ok().contains(stuck));
    within(&["inspect", stuck]).ok();
    within(&["run", "-d", "--name", "other", "busybox", "sleep", "1000"]).ok();
    assert_eq!(within(&["exec", "other", "echo", "hi"]).ok(), "hi");
    within(&["top", "other"]).ok();
    within(&["stats", "--no-stream", "other"]).ok();
    within(&["cp", "other:/etc/passwd", "-"]).ok();
    within(&["pause", "other"]).ok();
    within(&["unpause", "other"]).ok();
    within(&["rename", "other", "another"]).ok();
    within(&["update", "--pids-limit", "100", "another"]).ok();
    within(&["stop", "-t", "1", "another"]).ok();
    within(&["logs", "another"]).ok();
    within(&["start", "another"]).ok();
    within(&["rm", "-f", "another"]).ok();
    within(&["info"]).ok();
    within(&["system", "df"]).ok();
    assert_eq!(within(&["run", "--rm", "busybox", "echo", "hi"]).ok(), "hi");
}

/// The shim of a container.
fn shim(engine: &Engine, container: &str) -> u32 {
    let pid = engine.docker(&["inspect", "-f", "{{.State.Pid}}", container]).ok();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    stat.rsplit(')')
        .next()
        .and_then(|s| s.split_whitespace().nth(1))
        .and_then(|p| p.parse().ok())
        .expect("a parent")
}

#[test]
fn a_shim_that_stands_still() {
    let engine = Engine::with_busybox();
    engine.docker(&["run", "-d", "--name", "still", "busybox", "sleep", "1000"]).ok();
    let shim = shim(&engine, "still");
    signal(shim, "STOP");
    let waiting =
        engine.command(&["exec", "still", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut waiting = Ended(waiting.expect("docker"));
    let stopping = engine.command(&["stop", "-t", "1", "still"]).stdout(Stdio::null()).spawn();
    let mut stopping = Ended(stopping.expect("docker"));
    others_go_on(&engine, "still");
    assert!(waiting.0.try_wait().expect("wait").is_none(), "an exec of a shim that stands still waits");
    signal(shim, "CONT");
    assert!(stopping.0.wait().expect("wait").success(), "what waited goes on");
    waiting.0.wait().expect("wait");
    assert_eq!(engine.docker(&["inspect", "-f", "{{.State.Status}}", "still"]).ok(), "exited");
}

#[test]
fn a_client_that_does_not_read() {
    let engine = Engine::with_busybox();
    let script = "echo ready; until [ -e /go ]; do sleep 0.05; done; head -c 5000000 /dev/zero | tr '\\0' 'x' | fold -w 99; echo; echo done; sleep 1000";
    engine.docker(&["run", "-d", "--name", "talker", "busybox", "sh", "-c", script]).ok();
    let client = |args: &[&str]| {
        let mut child =
            engine.command(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("docker");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        let mut out = BufReader::with_capacity(16, out);
        out.read_line(&mut line).expect("a line");
        (Ended(child), out, line)
    };
    // Someone follows its log and then reads no more: the pipe of that client fills up.
    let (_follower, _pipe, line) = client(&["logs", "-f", "talker"]);
    assert_eq!(line, "ready\n");
    engine.docker(&["exec", "talker", "touch", "/go"]).ok();
    others_go_on(&engine, "talker");
    eventually("the container has said all, whoever reads", || {
        engine.within(LIMIT, &["logs", "--tail", "1", "talker"]).out.trim() == "done"
    });
}

#[test]
fn an_attached_client_that_does_not_read() {
    let engine = Engine::with_busybox();
    let script = "while :; do echo a line that nobody reads; done";
    let child = engine
        .command(&["run", "--name", "talker", "busybox", "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn();
    // Its output is a pipe that nobody empties.
    let _client = Ended(child.expect("docker"));
    eventually("it runs", || {
        engine.docker(&["inspect", "-f", "{{.State.Running}}", "talker"]).out.trim() == "true"
    });
    others_go_on(&engine, "talker");
    engine.within(LIMIT, &["rm", "-f", "talker"]).ok();
}

#[test]
fn a_file_system_that_does_not_answer() {
    let engine = Engine::with_busybox();
    let folder = engine.path("hanging");
    std::fs::create_dir(&folder).expect("make the folder");
    let program = tests::walls::compile("hang", engine.folder.path(), &[]);
    let mut child =
        engine.sandbox.command(program).arg(&folder).stdout(Stdio::piped()).spawn().expect("the file system");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it speaks");
    let mut hanging = Ended(child);
    assert_eq!(line, "mounted\n", "FUSE is needed: /dev/fuse");
    let volume = format!("{}:/h", folder.display());
    let mut starting = engine.command(&["run", "--name", "stuck", "-v", &volume, "busybox", "ls", "/h"]);
    let starting = starting.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("docker");
    // It is made, or its making hangs: either way it is nobody else's business.
    engine.docker(&["run", "-d", "--name", "busy", "busybox", "sleep", "1000"]).ok();
    others_go_on(&engine, "busy");
    // The file system goes, and with it what waited for it: with an error.
    hanging.0.kill().expect("kill");
    hanging.0.wait().expect("wait");
    let done: Outcome = starting.wait_with_output().expect("docker").into();
    assert_ne!(done.code, Some(0), "{done:?}");
    engine.sandbox.command("umount").arg("-l").arg(&folder).status().expect("umount");
}

#[test]
fn a_full_disk_neither_kills_a_container_nor_breaks_its_log() {
    let mut engine = Engine::start();
    engine.stop();
    let root = engine.path("root");
    let small =
        engine.sandbox.command("mount").args(["-t", "tmpfs", "-o", "size=40m", "small"]).arg(&root).status();
    assert!(small.is_ok_and(|s| s.success()), "mount a small disk");
    engine.launch();
    engine.load(tests::images::busybox);
    // The container fills the disk, speaks while it is full, makes room, and speaks again.
    let script = r#"
        echo before; dd if=/dev/zero of=/fill bs=64k 2>/dev/null; dd if=/dev/zero of=/fill2 bs=512 2>/dev/null
        i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo "line $i of a log on a full disk"; done
        touch /dev/shm/full; while [ ! -e /dev/shm/go ]; do sleep 0.05; done
        rm /fill /fill2; i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo "line $i of a log on a full disk"; done
        echo after; exit 7"#;
    engine
        .docker(&["run", "-d", "--name", "filler", "--log-opt", "max-size=-1", "busybox", "sh", "-c", script])
        .ok();
    eventually("the disk is full", || {
        engine.docker(&["exec", "filler", "test", "-e", "/dev/shm/full"]).code == Some(0)
    });
    assert_eq!(engine.docker(&["inspect", "-f", "{{.State.Running}}", "filler"]).ok(), "true", "it lives");
    engine.within(LIMIT, &["ps"]).ok();
    // What cannot be kept is refused in words; nobody else is harmed.
    let more = engine.within(LIMIT, &["create", "--name", "more", "busybox"]);
    assert!(more.code == Some(0) || more.err.contains("space") || more.err.contains("full"), "{more:?}");
    engine.docker(&["exec", "filler", "touch", "/dev/shm/go"]).ok();
    assert_eq!(engine.within(LIMIT, &["wait", "filler"]).ok(), "7");
    let log = engine.docker(&["logs", "filler"]);
    let said = format!("{}{}", log.out, log.err);
    let whole = |l: &&str| {
        matches!(*l, "before" | "after")
            || l.starts_with("line ") && l.ends_with(" of a log on a full disk")
            || l.starts_with("[coracle: ") && l.ends_with("the disk was full]")
    };
    let broken: Vec<&str> = said.lines().filter(|l| !whole(l)).collect();
    assert!(broken.is_empty(), "broken lines: {broken:?}");
    assert!(said.contains("before\n") && said.contains("after\n"), "{said}");
    assert!(said.contains("the disk was full"), "the loss is told: {said}");
    // Every line of the file is one JSON document.
    let id = engine.docker(&["inspect", "-f", "{{.Id}}", "filler"]).ok();
    let file = root.join(format!("containers/{id}/{id}-json.log"));
    let text = engine.sandbox.command("cat").arg(file).output().expect("cat");
    for line in String::from_utf8_lossy(&text.stdout).lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    engine.docker(&["rm", "-f", "filler", "more"]);
    assert_eq!(engine.docker(&["run", "--rm", "busybox", "echo", "works"]).ok(), "works");
}
