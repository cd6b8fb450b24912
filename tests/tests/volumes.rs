//! Volumes of the local driver with options, and parts of volumes.

use tests::{Cli, Engine, Outcome};

fn mounts(engine: &Engine) -> String {
    // The engine's own view: its mount namespace is the sandbox's.
    let out: Outcome =
        engine.sandbox.command("cat").arg("/proc/self/mountinfo").output().expect("cat").into();
    out.out.lines().filter(|l| l.contains("/_data ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_volume_in_memory_is_one_for_all_who_use_it() {
    let mut engine = Engine::with_busybox();
    let options = ["--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=1m,uid=1000"];
    engine.docker(&[&["volume", "create"], &options[..], &["mem"]].concat()).ok();
    let shown = engine.docker(&["volume", "inspect", "-f", "{{json .Options}}", "mem"]).ok();
    assert_eq!(shown, r#"{"device":"tmpfs","o":"size=1m,uid=1000","type":"tmpfs"}"#);
    assert_eq!(mounts(&engine), "", "not before it is used");
    for name in ["one", "two"] {
        engine.docker(&["run", "-d", "--name", name, "-v", "mem:/mem", "busybox", "sleep", "1000"]).ok();
    }
    engine.docker(&["exec", "one", "sh", "-c", "echo shared >/mem/file"]).ok();
    assert_eq!(engine.docker(&["exec", "two", "cat", "/mem/file"]).ok(), "shared");
    assert_eq!(engine.docker(&["exec", "two", "stat", "-c", "%u", "/mem"]).ok(), "1000");
    let full = ["exec", "two", "dd", "if=/dev/zero", "of=/mem/big", "bs=1M", "count=2"];
    engine.docker(&full).fails(1, "No space left on device");
    // It lives as long as it is used, over the engine's death too.
    engine.docker(&["rm", "-f", "one"]).ok();
    engine.crash();
    engine.launch();
    assert_eq!(engine.docker(&["exec", "two", "cat", "/mem/file"]).ok(), "shared");
    assert_eq!(mounts(&engine).lines().count(), 1);
    engine.docker(&["rm", "-f", "two"]).ok();
    assert_eq!(mounts(&engine), "");
    let again = ["run", "--rm", "-v", "mem:/mem", "busybox", "ls", "/mem"];
    assert_eq!(engine.docker(&again).ok(), "", "what was in memory is gone");
    engine.docker(&["volume", "rm", "mem"]).ok();
}

#[test]
fn a_folder_of_the_host_as_a_volume_outlives_it() {
    let mut engine = Engine::with_busybox();
    let folder = engine.path("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("file"), "from the host").unwrap();
    let device = format!("volume-opt=device={}", folder.display());
    let mount = format!("type=volume,source=host,target=/d,volume-opt=type=none,volume-opt=o=bind,{device}");
    let run = |engine: &Engine, script: &str| {
        engine.docker(&["run", "--rm", "--mount", &mount, "busybox", "sh", "-c", script])
    };
    assert_eq!(run(&engine, "cat /d/file; echo back >/d/new").ok(), "from the host");
    assert_eq!(std::fs::read_to_string(folder.join("new")).unwrap(), "back\n");
    // A container that ended while no engine ran: its mount goes with the next start.
    engine.docker(&["run", "-d", "--name", "box", "-v", "host:/d", "busybox", "sleep", "1000"]).ok();
    let pid = engine.docker(&["inspect", "-f", "{{.State.Pid}}", "box"]).ok();
    engine.crash();
    tests::engine::signal(pid.parse().unwrap(), "KILL");
    engine.launch();
    tests::eventually("it is unmounted", || mounts(&engine).is_empty());
    engine.docker(&["rm", "-f", "box"]).ok();
    engine.docker(&["volume", "rm", "host"]).ok();
    assert_eq!(
        std::fs::read_to_string(folder.join("file")).unwrap(),
        "from the host",
        "it is not the volume's"
    );
}

#[test]
fn what_cannot_be_a_volume_is_refused_in_dockers_words() {
    let engine = Engine::with_busybox();
    let create = |options: &[&str]| {
        let all = options.iter().flat_map(|o| ["--opt", o]);
        engine.docker(&[&["volume", "create"], &all.collect::<Vec<_>>()[..], &["bad"]].concat())
    };
    create(&["type=tmpfs"]).fails(1, "create bad: missing required option: \"device\"");
    create(&["wrong=x"]).fails(1, "create bad: invalid option: \"wrong\"");
    assert_eq!(engine.docker(&["volume", "ls", "-q"]).ok(), "");
    create(&["type=none", "o=bind", "device=/nowhere/at/all"]).ok();
    let run = engine.docker(&["run", "--rm", "-v", "bad:/d", "busybox", "true"]);
    // The CLI takes the words for a missing program, whoever says them.
    run.fails(127, "error while mounting volume");
    let run = engine.docker(&["run", "--rm", "-v", "bad:/d", "busybox", "true"]);
    run.fails(127, "failed to mount local volume: mount /nowhere/at/all:");
    assert_eq!(engine.docker(&["ps", "-aq"]).ok(), "");
    engine.docker(&["volume", "rm", "bad"]).ok();
}

#[test]
fn a_part_of_a_volume() {
    let engine = Engine::with_busybox();
    let script =
        "mkdir -p /d/a/b; echo inner >/d/a/b/file; ln -s a/b /d/link; ln -s /etc /d/out; ln -s ../.. /d/up";
    engine.docker(&["run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", script]).ok();
    let part = |path: &str, script: &str| {
        let mount = format!("type=volume,source=data,target=/part,volume-subpath={path}");
        engine.docker(&["run", "--rm", "--mount", &mount, "busybox", "sh", "-c", script])
    };
    assert_eq!(part("a/b", "cat /part/file; echo more >/part/new").ok(), "inner");
    assert_eq!(part("link", "cat /part/new").ok(), "more");
    assert_eq!(part("a/b/file", "cat /part").ok(), "inner", "a file, too");
    part("nope", "true").fails(127, "cannot access path");
    // Links in it lead nowhere but into it: /etc of the volume is not there.
    part("out", "ls /part").fails(127, "cannot access path");
    assert_eq!(part("up", "ls /part").ok(), "a\nlink\nout\nup", "its top is as far up as it goes");
    part("../data", "true").fails(125, "subpath must be a relative path within the volume");
}

#[test]
fn what_is_pruned_and_what_is_counted() {
    let engine = Engine::with_busybox();
    engine.docker(&["volume", "create", "--label", "keep=yes", "named"]).ok();
    engine.docker(&["run", "--name", "user", "-v", "used:/d", "-v", "/anonymous", "busybox", "true"]).ok();
    engine
        .docker(&[
            "run",
            "-v",
            "/left",
            "--name",
            "gone",
            "busybox",
            "sh",
            "-c",
            "head -c 100000 /dev/zero >/left/f",
        ])
        .ok();
    engine.docker(&["rm", "gone"]).ok();
    let df = engine.docker(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"]).ok();
    assert!(df.contains("Local Volumes 4 2"), "{df}");
    // Without --all those that somebody named stay.
    let pruned = engine.docker(&["volume", "prune", "-f"]).ok();
    assert!(pruned.contains("Total reclaimed space: 1"), "{pruned}");
    assert_eq!(engine.docker(&["volume", "ls", "-q"]).ok().lines().count(), 3);
    engine.docker(&["volume", "prune", "-f", "--all", "--filter", "label!=keep=yes"]).ok();
    engine
        .docker(&["volume", "prune", "-f", "--filter", "all=bogus"])
        .fails(1, "invalid filter 'all': strconv.ParseBool: parsing \"bogus\": invalid syntax");
    // One with options never goes by itself: what they lead to was chosen.
    engine.docker(&["volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "chosen"]).ok();
    engine.docker(&["volume", "prune", "-f", "--all", "--filter", "label!=keep=yes"]).ok();
    engine.docker(&["volume", "rm", "chosen"]).ok();
    // Clients before API 1.42 mean all of them.
    engine.docker(&["volume", "create", "old"]).ok();
    let mut prune = engine.command_of(Cli::V20, &["volume", "prune", "-f", "--filter", "label!=keep=yes"]);
    let pruned = Outcome::from(prune.output().unwrap()).ok();
    assert!(pruned.contains("old"), "{pruned}");
    assert!(engine.docker(&["volume", "ls", "-q"]).ok().contains("named"));
    engine.docker(&["volume", "prune", "-f", "--all"]).ok();
    let left = engine.docker(&["volume", "ls", "-q"]).ok();
    assert!(!left.contains("named") && left.contains("used") && left.lines().count() == 2, "{left}");
    engine.docker(&["rm", "-v", "user"]).ok();
    assert_eq!(
        engine.docker(&["volume", "ls", "-q"]).ok(),
        "used",
        "a container takes what nobody named along"
    );
}
