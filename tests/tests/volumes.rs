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
fn a_new_volume_gets_what_the_image_has_there_once() {
    let engine = Engine::with_busybox();
    let make = "mkdir -p /seed/sub; echo x >/seed/f; chown 33:50 /seed /seed/f; chmod 750 /seed; chmod 4640 /seed/f; \
        ln -s f /seed/l; ln /seed/f /seed/h; mkfifo /seed/p";
    engine.docker(&["run", "--name", "made", "busybox", "sh", "-c", make]).ok();
    engine.docker(&["commit", "made", "seed"]).ok();
    let run = |options: &[&str], script: &str| {
        engine.docker(&[&["run", "--rm"], options, &["seed", "sh", "-c", script]].concat())
    };
    let look =
        "stat -c '%n %a:%u:%g %h' /seed /seed/f /seed/h; readlink /seed/l; test -p /seed/p && ls /seed";
    let all = "/seed 750:33:50 3\n/seed/f 4640:33:50 2\n/seed/h 4640:33:50 2\nf\nf\nh\nl\np\nsub";
    assert_eq!(run(&["-v", "whole:/seed"], look).ok(), all);
    assert_eq!(run(&["-v", "still:/seed:ro"], look).ok(), all, "before it is read only");
    assert_eq!(run(&["-v", "bare:/seed:nocopy"], "ls -A /seed; stat -c %a:%u:%g /seed").ok(), "755:0:0");
    // Not over what is there; anew when it is empty.
    run(&["-v", "whole:/seed"], "rm /seed/h").ok();
    assert_eq!(run(&["-v", "whole:/seed"], "ls /seed").ok(), "f\nl\np\nsub");
    run(&["-v", "whole:/seed"], "rm -rf /seed/*").ok();
    assert_eq!(run(&["-v", "whole:/seed"], "ls /seed").ok(), "f\nh\nl\np\nsub");
    // A part of a volume as well, and nothing beside it.
    let part = "type=volume,source=parts,target=/seed,volume-subpath=one";
    run(&["-v", "parts:/v"], "mkdir /v/one").ok();
    assert_eq!(run(&["--mount", part], "ls /seed").ok(), "f\nh\nl\np\nsub");
    assert_eq!(run(&["-v", "parts:/v"], "ls /v").ok(), "one");
}

#[test]
fn volumes_that_nobody_named_go_with_their_last_container_when_asked() {
    let engine = Engine::with_busybox();
    let count = || engine.docker(&["volume", "ls", "-q"]).ok().lines().count();
    let create = |name: &str, options: &[&str]| {
        engine.docker(&[&["create", "--name", name], options, &["busybox"]].concat()).ok()
    };
    engine.docker(&["run", "--rm", "-v", "/anon", "-v", "named:/named", "busybox", "true"]).ok();
    assert_eq!(count(), 1, "`--rm` takes them, and spares what has a name");
    create("box", &["-v", "/anon"]);
    engine.docker(&["rm", "box"]).ok();
    assert_eq!(count(), 2, "without -v they stay");
    create("one", &["-v", "/anon", "-v", "named:/named"]);
    create("two", &["--volumes-from", "one"]);
    engine.docker(&["rm", "-v", "one"]).ok();
    assert_eq!(count(), 3, "another still uses it");
    engine.docker(&["rm", "-v", "two"]).ok();
    assert_eq!(count(), 2);
    // An image's own: anew for each container, kept over its restart; something else may take its place.
    engine.docker(&["commit", "-c", "VOLUME /data", &create("of", &[]), "data"]).ok();
    engine.docker(&["run", "--name", "keeps", "data", "sh", "-c", "cat /data/f; echo y >/data/f"]).ok();
    assert_eq!(engine.docker(&["start", "-a", "keeps"]).ok(), "y");
    assert_eq!(count(), 3);
    engine.docker(&["run", "--rm", "-v", "named:/data", "data", "true"]).ok();
    engine.docker(&["run", "--rm", "--tmpfs", "/data", "data", "true"]).ok();
    engine.docker(&["rm", "-v", "keeps"]).ok();
    assert_eq!(count(), 2);
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
