//! `userns-remap`: containers' root is nobody on this host, and notices little of it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tests::engine::with_input;
use tests::{Engine, eventually, images};

/// The first ids outside.
const USERS: u32 = 231_072;
const GROUPS: u32 = 331_072;

fn settings(remap: &str) -> serde_json::Value {
    json!({ "userns-remap": remap })
}

/// An engine that maps, with busybox.
fn remapped() -> Engine {
    let mut engine = Engine::not_started(settings("default"));
    engine.sandbox.own_etc(&engine.path("etc"));
    for (file, first) in [("subuid", USERS), ("subgid", GROUPS)] {
        let file = engine.sandbox.seen(&Path::new("/etc").join(file));
        std::fs::write(file, format!("dockremap:{first}:65536\n")).expect("write the ranges");
    }
    engine.launch();
    engine.load(images::busybox);
    engine
}

/// Owner and group of a file.
fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let path = path.as_ref();
    let stat = std::fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (stat.uid(), stat.gid())
}

/// Ids of the process's user and group.
fn ids(pid: &str) -> (u32, u32) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let id = |key| {
        let line = status.lines().find_map(|l| l.strip_prefix(key)).expect("an id");
        line.split_whitespace().next().and_then(|id| id.parse().ok()).expect("a number")
    };
    (id("Uid:"), id("Gid:"))
}

/// What tar(1) lists of an archive.
fn listed(archive: &[u8]) -> String {
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "-tvf", "-"]);
    with_input(tar, archive).ok()
}

#[test]
fn ids_are_those_inside_wherever_one_looks() {
    let engine = remapped();
    let docker = |args: &[&str]| engine.docker(args).ok();
    assert!(docker(&["info", "-f", "{{.SecurityOptions}}"]).contains("name=userns"));
    let script = "echo one > /data/f; chown 33:44 /data/f; touch /new; echo said > /dev/stdout; \
                  echo erred > /dev/stderr; echo ready > /ready; exec sleep 1000";
    docker(&["run", "-d", "--name", "box", "-v", "data:/data", "busybox", "sh", "-c", script]);
    eventually("its files are there", || engine.docker(&["exec", "box", "cat", "/ready"]).code == Some(0));
    assert_eq!(
        docker(&["exec", "box", "cat", "/proc/1/uid_map"]).split_whitespace().collect::<Vec<_>>(),
        ["0", &USERS.to_string(), "65536"]
    );
    let pid = docker(&["inspect", "-f", "{{.State.Pid}}", "box"]);
    assert_eq!(ids(&pid), (USERS, GROUPS));
    assert_eq!(docker(&["exec", "-u", "1000:1001", "box", "sh", "-c", "id -u; id -g"]), "1000\n1001");
    assert_eq!(docker(&["exec", "-t", "box", "sh", "-c", "test -t 0 && tty"]), "/dev/pts/0");
    let logs = engine.docker(&["logs", "box"]);
    assert_eq!((logs.out.as_str(), logs.err.as_str()), ("said\n", "erred\n"));

    // On disk: as inside, for whoever comes next.
    assert_eq!(owner(engine.root().join("volumes/data/_data/f")), (33, 44));
    let seen = |args: &[&str]| docker(&[&["run", "--rm", "-v", "data:/data"], args].concat());
    let stat = ["busybox", "stat", "-c", "%u:%g", "/data/f"];
    assert_eq!(seen(&stat), "33:44");
    assert_eq!(seen(&[&["--userns=host"], &stat[..]].concat()), "33:44");
    assert!(docker(&["diff", "box"]).contains("A /new"));
    docker(&["commit", "box", "kept"]);
    assert_eq!(docker(&["run", "--rm", "--userns=host", "kept", "stat", "-c", "%u:%g", "/new"]), "0:0");

    // Archives, while it runs and when it does not.
    let folder = engine.path("in");
    std::fs::create_dir(&folder).expect("make a folder");
    std::fs::write(folder.join("five"), "5").expect("write a file");
    std::os::unix::fs::chown(folder.join("five"), Some(5), Some(6)).expect("give it away");
    let packed = Command::new("tar").arg("-C").arg(&folder).args(["-cf", "-", "five"]).output().expect("tar");
    for _ in ["running", "stopped"] {
        for place in ["/", "/data"] {
            engine.docker_with_input(&["cp", "-", &format!("box:{place}")], &packed.stdout).ok();
            let file = format!("{}/five", place.trim_end_matches('/'));
            let put = format!("/coracle/v1/containers/box/file?path={file}");
            assert_eq!(engine.request("PUT", &put, Some("rewritten")), (204, String::new()));
            let path = format!("box:{place}/five");
            let out = engine.command(&["cp", &path, "-"]).output().expect("docker cp");
            assert!(listed(&out.stdout).contains(" 5/6 "), "{}", listed(&out.stdout));
        }
        docker(&["cp", "box:/data/f", engine.path("out").to_str().expect("a plain path")]);
        assert_eq!(std::fs::read_to_string(engine.path("out")).expect("the copy"), "one\n");
        let exported = engine.command(&["export", "box"]).output().expect("docker export");
        let all = listed(&exported.stdout);
        assert!(all.lines().any(|l| l.contains(" 0/0 ") && l.ends_with(" new")), "{all}");
        if engine.docker(&["exec", "box", "true"]).code == Some(0) {
            assert_eq!(docker(&["exec", "box", "stat", "-c", "%u:%g", "/five", "/data/five"]), "5:6\n5:6");
            docker(&["stop", "-t", "0", "box"]);
        }
    }
    // What nobody inside is cannot be given to them.
    std::os::unix::fs::chown(folder.join("five"), Some(70_000), Some(6)).expect("give it away");
    let packed = Command::new("tar").arg("-C").arg(&folder).args(["-cf", "-", "five"]).output().expect("tar");
    docker(&["start", "box"]);
    engine.docker_with_input(&["cp", "-", "box:/"], &packed.stdout).fails(1, "nvalid argument");
}

#[test]
fn the_walls_hold_with_every_capability() {
    let engine = remapped();
    let host = engine.path("host");
    std::fs::create_dir(&host).expect("make a folder");
    std::fs::write(host.join("secret"), "root's").expect("write a file");
    let own = |path: &Path, mode| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set a mode");
    };
    own(&host, 0o755);
    own(&host.join("secret"), 0o600);
    own(engine.folder.path(), 0o755);
    let bind = format!("{}:/host", host.display());
    let all =
        ["run", "--rm", "--cap-add", "ALL", "--security-opt", "seccomp=unconfined", "-v", &bind, "busybox"];
    let run = |script: &str| engine.docker(&[&all[..], &["sh", "-c", script]].concat());
    assert_eq!(run("stat -c %u /host/secret").ok(), "65534", "the host's files are nobody's");
    run("cat /host/secret").fails(1, "ermission denied");
    run("echo x > /host/new").fails(1, "ermission denied");
    run("mknod /tmp/disk b 8 0").fails(1, "peration not permitted");
    run("mount -o remount,rw /host && chown 0:0 /host/secret").fails(1, "");
    assert_ne!(run("echo 1 > /proc/sys/kernel/panic").code, Some(0));
    // A read-only bind stays so, whatever it may do in its own namespace.
    let locked =
        ["run", "--rm", "--cap-add", "ALL", "--security-opt", "seccomp=unconfined", "-v", "data:/d:ro"];
    let script = "mount -o remount,rw,bind /d; touch /d/x";
    engine.docker(&[&locked[..], &["busybox", "sh", "-c", script]].concat()).fails(1, "ead-only");
    let caps = |more: &[&str]| {
        let line = ["busybox", "grep", "CapEff", "/proc/self/status"];
        let line = engine.docker(&[&["run", "--rm"], more, &line[..]].concat()).ok();
        u64::from_str_radix(line.split_whitespace().last().expect("a set"), 16).expect("a number")
    };
    // The set is full even where this machine's own is not: it counts inside alone.
    let (inside, here) = (caps(&["--cap-add", "ALL"]), caps(&["--cap-add", "ALL", "--userns=host"]));
    assert_eq!(inside & here, here);
    assert_eq!(caps(&[]), caps(&["--userns=host"]));
}

#[test]
fn options_that_need_rights_over_the_host_are_seen_to() {
    let engine = remapped();
    let run = |args: &[&str], script: &str| {
        engine.docker(&[&["run", "--rm"], args, &["busybox", "sh", "-c", script]].concat())
    };
    assert_eq!(run(&["--ulimit", "nofile=900:1000"], "ulimit -Sn; ulimit -Hn").ok(), "900\n1000");
    assert_eq!(run(&["--oom-score-adj", "100"], "cat /proc/self/oom_score_adj").ok(), "100");
    assert_eq!(run(&["-t"], "test -t 1 && tty").ok(), "/dev/pts/0");
    assert_eq!(run(&["--init"], "cat /proc/1/comm").ok(), "docker-init");
    assert_eq!(run(&["-w", "/made/here"], "pwd; stat -c %u .").ok(), "/made/here\n0");
    for mode in ["--userns=", "--userns=host"] {
        // Where the image has no such folder, it is for everybody.
        assert_eq!(run(&[mode, "-u", "1000", "--tmpfs", "/t"], "echo x > /t/f && cat /t/f").ok(), "x");
    }
    let port = ["--sysctl", "net.ipv4.ip_unprivileged_port_start=0"];
    assert_eq!(run(&port, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start").ok(), "0");
    let device = ["--device", "/dev/null:/dev/nothing"];
    let devices = "echo x > /dev/nothing && echo x > /dev/null && stat -c %u%g /dev/nothing /dev/zero";
    assert_eq!(run(&device, devices).ok(), "00\n00");
    run(&["--read-only"], "touch /x").fails(1, "ead-only");
    assert_eq!(run(&[], "mkdir /sys/fs/cgroup/below && rmdir /sys/fs/cgroup/below && echo own").ok(), "own");
    for mode in ["--ipc=host", "--uts=host", "--cgroupns=host", "--network=none"] {
        assert_eq!(run(&[mode], "echo there").ok(), "there", "{mode}");
    }
    run(&[], "ping -c 1 127.0.0.1").ok();
    assert_eq!(run(&["--tmpfs", "/t:mode=700"], "stat -c %a%u /t").ok(), "7000");
    engine
        .docker(&["volume", "create", "-d", "local", "-o", "type=tmpfs", "-o", "device=tmpfs", "memory"])
        .ok();
    assert_eq!(run(&["-v", "memory:/m"], "touch /m/f && stat -c %u /m/f").ok(), "0");

    for (option, words) in [
        ("--privileged", "privileged mode is incompatible with user namespaces"),
        ("--network=host", "cannot share the host's network namespace when user namespaces are enabled"),
        ("--pid=host", "cannot share the host PID namespace when user namespaces are enabled"),
    ] {
        run(&[option], "true").fails(125, words);
        let map = run(&[option, "--userns=host"], "cat /proc/self/uid_map").ok();
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295"], "{option}");
    }
}

#[test]
fn containers_share_namespaces_and_networks() {
    let engine = remapped();
    let docker = |args: &[&str]| engine.docker(args).ok();
    let script = "echo page > /index.html; exec httpd -f -h /";
    docker(&["run", "-d", "--name", "web", "--ipc=shareable", "busybox", "sh", "-c", script]);
    let page = ["busybox", "wget", "-qO-", "http://127.0.0.1/"];
    let within = |mode: &str, args: &[&str]| engine.docker(&[&["run", "--rm", mode], args].concat());
    eventually("its page is there", || within("--network=container:web", &page).out == "page\n");
    assert!(within("--pid=container:web", &["busybox", "ps"]).ok().contains("httpd"));
    assert_eq!(within("--ipc=container:web", &["busybox", "id", "-u"]).ok(), "0");
    let map = within("--network=container:web", &["busybox", "cat", "/proc/self/uid_map"]).ok();
    assert!(map.contains(&USERS.to_string()), "{map}");
    docker(&["run", "-d", "--name", "free", "--userns=host", "busybox", "sleep", "1000"]);
    within("--network=container:free", &["busybox", "true"]).fails(125, "use --userns=host");
    // Published ports and names go their usual way.
    docker(&["network", "create", "net"]);
    docker(&[
        "run",
        "-d",
        "--name",
        "named",
        "--network",
        "net",
        "-p",
        "8080:80",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    let by_name = ["run", "--rm", "--network", "net", "busybox", "wget", "-qO-", "http://named/"];
    eventually("it is found by its name", || engine.docker(&by_name).out == "page\n");
    eventually("its port is open", || engine.curl(&["-f", "http://127.0.0.1:8080/"]).out == "page\n");
    let check =
        ["run", "-d", "--name", "well", "--health-cmd", "test $(id -u) = 0", "--health-interval", "100ms"];
    docker(&[&check[..], &["busybox", "sleep", "1000"]].concat());
    let health = || docker(&["inspect", "-f", "{{.State.Health.Status}}", "well"]);
    eventually("it is healthy", || health() == "healthy");
}

#[test]
fn the_setting_comes_and_goes_and_containers_stay() {
    let mut engine = remapped();
    let script = "touch /made; exec sleep 1000";
    engine.docker(&["run", "-d", "--name", "old", "-v", "data:/data", "busybox", "sh", "-c", script]).ok();
    let map = |engine: &Engine, name: &str| {
        let text = engine.docker(&["exec", name, "cat", "/proc/self/uid_map"]).ok();
        text.split_whitespace().nth(1).and_then(|n| n.parse::<u32>().ok()).expect("an id")
    };
    engine.stop();
    engine.configure(settings(""));
    engine.launch();
    assert!(!engine.docker(&["info", "-f", "{{.SecurityOptions}}"]).ok().contains("userns"));
    // It runs on as it was started, and is looked into and written to as before.
    assert_eq!(map(&engine, "old"), USERS);
    let config = engine.path("engine.json");
    engine.docker(&["cp", config.to_str().expect("a plain path"), "old:/data/copied"]).ok();
    assert_eq!(engine.docker(&["exec", "old", "stat", "-c", "%u", "/data/copied"]).ok(), "0");
    engine.docker(&["restart", "-t", "0", "old"]).ok();
    assert_eq!(map(&engine, "old"), 0);
    assert_eq!(engine.docker(&["exec", "old", "stat", "-c", "%u", "/made", "/data/copied"]).ok(), "0\n0");

    engine.docker(&["create", "--name", "mighty", "--privileged", "busybox", "true"]).ok();
    engine.stop();
    engine.configure(settings("default"));
    engine.launch();
    engine.docker(&["start", "mighty"]).fails(1, "privileged mode is incompatible with user namespaces");
    engine.docker(&["restart", "-t", "0", "old"]).ok();
    assert_eq!(map(&engine, "old"), USERS);
    assert_eq!(engine.docker(&["exec", "old", "stat", "-c", "%u", "/made", "/data/copied"]).ok(), "0\n0");
}
