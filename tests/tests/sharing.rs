//! What one container shares with another, and where logs go, by the stock CLI.

use tests::Engine;

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
