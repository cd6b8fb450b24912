//! What one container shares with another, and where logs go, by the stock CLI.

use tests::{Engine, eventually};

#[test]
fn a_container_has_the_volumes_of_another() {
    let engine = Engine::with_busybox();
    engine.docker(&["create", "--name", "data", "-v", "/one", "-v", "named:/two", "busybox"]).ok();
    let run = |args: &[&str], script: &str| {
        engine.docker(&[&["run", "--rm"], args, &["busybox", "sh", "-c", script]].concat())
    };
    run(&["--volumes-from", "data"], "echo 1 > /one/f; echo 2 > /two/f").ok();
    assert_eq!(run(&["--volumes-from", "data:ro"], "cat /one/f /two/f").ok(), "1\n2");
    run(&["--volumes-from", "data:ro"], "touch /one/g").fails(1, "Read-only file system");
    // What it asks for itself wins.
    assert_eq!(run(&["--volumes-from", "data", "-v", "other:/one"], "ls /one; cat /two/f").ok(), "2");
    run(&["--volumes-from", "nobody"], "true").fails(125, "No such container: nobody");
    run(&["--volumes-from", "data:bogus"], "true").fails(125, "invalid mode: bogus");
    assert_eq!(run(&["--volumes-from", "data"], "cat /one/f").ok(), "1", "--rm took nothing of the other's");
}

#[test]
fn a_container_sees_the_processes_of_another() {
    let engine = Engine::with_busybox();
    engine.docker(&["run", "-d", "--name", "first", "busybox", "sleep", "12345"]).ok();
    let seen = engine.docker(&["run", "--rm", "--pid", "container:first", "busybox", "ps"]).ok();
    assert!(seen.contains("sleep 12345") && seen.contains("ps"), "{seen}");
    engine
        .docker(&["run", "-d", "--name", "second", "--pid", "container:first", "busybox", "sleep", "6"])
        .ok();
    let seen = engine.docker(&["exec", "second", "ps"]).ok();
    assert!(seen.contains("sleep 12345") && seen.contains("sleep 6"), "{seen}");
    engine.docker(&["rm", "-f", "second"]).ok();
    assert_eq!(engine.docker(&["inspect", "-f", "{{.State.Running}}", "first"]).ok(), "true");
    engine.docker(&["stop", "-t", "0", "first"]).ok();
    engine
        .docker(&["run", "--rm", "--pid", "container:first", "busybox", "true"])
        .fails(125, "cannot join PID of a non running container");
    engine.docker(&["run", "--rm", "--pid", "bogus", "busybox", "true"]).fails(125, "PID");
}

#[test]
fn logs_are_kept_by_the_local_driver_too_and_what_cannot_be_is_refused() {
    let engine = Engine::with_busybox();
    engine.docker(&["run", "--name", "local", "--log-driver", "local", "busybox", "echo", "said"]).ok();
    assert_eq!(engine.docker(&["logs", "local"]).ok(), "said");
    assert_eq!(
        engine.docker(&["inspect", "-f", "{{.HostConfig.LogConfig.Type}} {{.LogPath}}", "local"]).ok(),
        "local"
    );
    for driver in ["syslog", "journald"] {
        engine.docker(&["run", "--log-driver", driver, "busybox", "true"]).fails(125, driver);
    }
    engine
        .docker(&["run", "--gpus", "all", "busybox", "true"])
        .fails(125, "could not select device driver \"\" with capabilities: [[gpu]]");
}

#[test]
fn a_container_shares_the_memory_of_one_that_lets_it() {
    let engine = Engine::with_busybox();
    let donor = |name: &str, mode: &str| {
        engine.docker(&["run", "-d", "--name", name, "--ipc", mode, "busybox", "sleep", "1000"]).ok();
    };
    donor("open", "shareable");
    donor("closed", "private");
    let run = |mode: &str, script: &str| {
        engine.docker(&["run", "--rm", "--ipc", mode, "busybox", "sh", "-c", script])
    };
    run("container:open", "echo shared > /dev/shm/word").ok();
    assert_eq!(engine.docker(&["exec", "open", "cat", "/dev/shm/word"]).ok(), "shared");
    assert_eq!(
        run("container:open", "readlink /proc/self/ns/ipc; cat /dev/shm/word").ok(),
        format!("{}\nshared", engine.docker(&["exec", "open", "readlink", "/proc/self/ns/ipc"]).ok())
    );
    // What one of the guests does is gone with it; the donor's stays.
    run("container:open", "umount /dev/shm").code.filter(|c| *c != 0).expect("it may not take it away");
    run("container:closed", "true").fails(125, "non-shareable IPC");
    run("container:nobody", "true").fails(125, "No such container: nobody");
    run("bogus", "true").fails(125, "IPC");
    assert_eq!(run("none", "ls -d /dev/shm").code, Some(1), "without shared memory");
    engine.docker(&["stop", "-t", "0", "open"]).ok();
    run("container:open", "true").fails(125, "cannot join IPC of a non running container");
}

#[test]
fn a_container_may_have_another_group_as_its_parent() {
    let engine = Engine::with_busybox();
    let parent = format!("coracle-test-{}", std::process::id());
    let group = |id: &str| -> bool {
        let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        places.iter().any(|p| std::path::Path::new(p).join(&parent).join("below").join(id).is_dir())
    };
    let option = format!("/{parent}/below");
    let id = engine
        .docker(&["run", "-d", "--name", "placed", "--cgroup-parent", &option, "busybox", "sleep", "1000"])
        .ok();
    assert!(group(&id), "the container's group is below the parent");
    assert!(engine.docker(&["top", "placed"]).ok().contains("sleep 1000"));
    engine.docker(&["rm", "-f", "placed"]).ok();
    assert!(!group(&id), "the group goes with the container");
    engine.docker(&["run", "--cgroup-parent", "/a/../../b", "busybox"]).fails(125, "invalid cgroup parent");
    for place in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        // Parents stay, as with dockerd: others may be in them.
        let _ = std::fs::remove_dir(format!("{place}/{parent}/below"));
        let _ = std::fs::remove_dir(format!("{place}/{parent}"));
    }
}

#[test]
fn details_of_a_log_are_labels_and_variables_it_names() {
    let engine = Engine::with_busybox();
    let options = ["labels=team,none", "env=STAGE", "tag={{.Name}}"];
    let options: Vec<&str> = options.iter().flat_map(|o| ["--log-opt", o]).collect();
    let args = ["run", "--name", "told", "-l", "team=a b", "-e", "STAGE=x=y", "-e", "SECRET=1"];
    engine.docker(&[&args[..], &options, &["busybox", "echo", "said"]].concat()).ok();
    assert_eq!(engine.docker(&["logs", "--details", "told"]).ok(), "STAGE=x%3Dy,tag=told,team=a+b said");
    assert_eq!(engine.docker(&["logs", "told"]).ok(), "said");
    let stamped = engine.docker(&["logs", "-t", "--details", "told"]).ok();
    assert!(stamped.ends_with("Z STAGE=x%3Dy,tag=told,team=a+b said"), "{stamped}");
    for (option, words) in [
        ("bogus=1", "unknown log opt 'bogus' for json-file log driver"),
        ("tag={{.Bogus}}", "log tag"),
        ("mode=sometimes", "logging mode not supported: sometimes"),
    ] {
        engine.docker(&["create", "--log-opt", option, "busybox"]).fails(1, words);
    }
    engine
        .docker(&["run", "--log-opt", "compress=maybe", "busybox"])
        .fails(125, "strconv.ParseBool: parsing \"maybe\"");
    let alone = ["run", "--log-opt", "compress=true", "--log-opt", "max-file=1", "busybox"];
    engine.docker(&alone).fails(125, "compress cannot be true when max-file is less than 2");
    engine.docker(&["run", "--log-opt", "max-size=12x", "busybox"]).fails(125, "invalid size: '12x'");
}

#[test]
fn logs_put_aside_are_compressed_and_read_like_all_others() {
    let mut engine = Engine::with_busybox();
    let files = |engine: &Engine, id: &str| -> Vec<String> {
        let folder = std::fs::read_dir(engine.root().join("containers").join(id)).expect("its folder");
        let mut names: Vec<String> = folder
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter_map(|name| Some(name.split_once("-json.log")?.1.to_owned()))
            .collect();
        names.sort();
        names
    };
    let options = ["--log-opt", "max-size=20k", "--log-opt", "max-file=100"];
    let run = |engine: &Engine, driver: &str| {
        let start = ["run", "-d", "--log-driver", driver];
        engine.docker(&[&start[..], &options, &["busybox", "seq", "1", "2000"]].concat()).ok()
    };
    let all: Vec<String> = (1..=2000).map(|n| n.to_string()).collect();
    // `local` compresses by itself, as Docker's does; `json-file` where it is told to.
    let (packed, plain) = (run(&engine, "local"), run(&engine, "json-file"));
    for id in [&packed, &plain] {
        assert_eq!(engine.docker(&["logs", "-f", id]).ok(), all.join("\n"));
    }
    let is_packed = |engine: &Engine| {
        let names = files(engine, &packed);
        names.len() > 5 && names.iter().all(|n| n.is_empty() || n.ends_with(".gz"))
    };
    eventually("what was put aside is compressed", || is_packed(&engine));
    assert!(files(&engine, &plain).iter().all(|n| !n.ends_with("gz")), "{:?}", files(&engine, &plain));
    assert_eq!(engine.docker(&["logs", &packed]).ok(), all.join("\n"));
    assert_eq!(engine.docker(&["logs", "-n", "1500", &packed]).ok(), all[500..].join("\n"));

    // What an engine left undone, the next one does: here its plain file is there again, as after a crash.
    engine.crash();
    let folder = engine.root().join("containers").join(&packed);
    let first = folder.join(format!("{packed}-json.log.1.gz"));
    let unpacked = std::process::Command::new("gzip").arg("-dc").arg(&first).output().expect("gzip");
    assert!(unpacked.status.success());
    std::fs::write(first.with_extension(""), unpacked.stdout).expect("write a log");
    std::fs::write(folder.join(format!("{packed}-json.log.gz.new")), "half").expect("write half a file");
    engine.launch();
    assert_eq!(engine.docker(&["logs", &packed]).ok(), all.join("\n"));
    eventually("it is compressed again", || is_packed(&engine));
    assert_eq!(engine.docker(&["logs", &packed]).ok(), all.join("\n"));
}

#[test]
fn the_hosts_names_are_seen_and_not_set_and_no_network_is_none() {
    let engine = Engine::with_busybox();
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name").trim().to_owned();
    let before = host();
    assert_eq!(engine.docker(&["run", "--rm", "--uts=host", "busybox", "hostname"]).ok(), before);
    assert_eq!(host(), before);
    // An option of the API alone.
    let body = r#"{"Image":"busybox","Cmd":["ls","/sys/class/net"],"NetworkDisabled":true}"#;
    let (status, answer) = engine.request("POST", "/containers/create?name=alone", Some(body));
    assert_eq!(status, 201, "{answer}");
    assert_eq!(engine.docker(&["start", "-a", "alone"]).ok(), "lo");
}
