//! Containers outlive the engine, and nothing is listed in a state it is not in.

use tests::{Engine, engine::signal, eventually};

#[test]
fn containers_survive_a_crash_with_their_logs_and_exit_codes() {
    let mut engine = Engine::with_busybox();
    engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "runs",
            "busybox",
            "sh",
            "-c",
            "echo before; while :; do sleep 0.1; done",
        ])
        .ok();
    engine
        .docker(&[
            "run",
            "-d",
            "-i",
            "--name",
            "ends",
            "busybox",
            "sh",
            "-c",
            "echo start; sleep 0.3; echo end; exit 9",
        ])
        .ok();
    engine.docker(&["run", "-d", "--rm", "--name", "vanishes", "busybox", "sleep", "0.3"]).ok();
    let pid = engine.docker(&["inspect", "-f", "{{.State.Pid}}", "runs"]).ok();
    let ends = engine.docker(&["inspect", "-f", "{{.State.Pid}}", "ends"]).ok();
    engine.crash();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "it goes on without an engine");
    eventually("the second ends while nobody looks", || {
        !std::path::Path::new(&format!("/proc/{ends}")).exists()
    });
    engine.launch();
    let state = |name: &str| {
        engine.docker(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}", name])
    };
    assert_eq!(state("runs").ok(), format!("running 0 {pid}"));
    assert_eq!(state("ends").ok(), "exited 9 0");
    eventually("what had --rm is gone", || state("vanishes").code == Some(1));
    assert_eq!(engine.docker(&["logs", "ends"]).ok(), "start\nend");
    assert_eq!(engine.docker(&["exec", "runs", "echo", "still here"]).ok(), "still here");
    engine.docker(&["stop", "-t", "0", "runs"]).ok();
    assert_eq!(engine.docker(&["inspect", "-f", "{{.State.ExitCode}}", "runs"]).ok(), "137");
}

#[test]
fn fifty_containers_are_found_again_each_with_its_own_end() {
    const CROWD: usize = 50;
    let mut engine = Engine::with_busybox();
    let names: Vec<String> = (0..CROWD).map(|n| format!("c{n}")).collect();
    // Code and words are each one's own.
    for some in names.chunks(10) {
        let starts = some.iter().map(|name| {
            let code = &name[1..];
            let script =
                format!("trap 'echo bye {code}; exit {code}' TERM; echo up {code}; sleep 1000 & wait");
            engine
                .command(&["run", "-d", "--name", name, "busybox", "sh", "-c", &script])
                .stdout(std::process::Stdio::null())
                .spawn()
                .expect("docker")
        });
        for mut start in starts.collect::<Vec<_>>() {
            assert!(start.wait().expect("docker").success());
        }
    }
    let every = |engine: &Engine, format: &str| -> Vec<String> {
        let args: Vec<&str> =
            ["inspect", "-f", format].into_iter().chain(names.iter().map(String::as_str)).collect();
        engine.docker(&args).ok().lines().map(str::to_owned).collect()
    };
    eventually("all are up", || names.iter().all(|name| engine.docker(&["logs", name]).out.contains("up")));
    let pids = every(&engine, "{{.State.Pid}}");
    engine.crash();
    // Every other one ends while there is no engine.
    for pid in pids.iter().step_by(2) {
        signal(pid.parse().expect("a process"), "TERM");
    }
    eventually("they have ended", || {
        pids.iter().step_by(2).all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    });
    engine.launch();
    let expected = |n: usize| match n % 2 {
        0 => format!("exited {n} 0"),
        _ => format!("running 0 {}", pids[n]),
    };
    let states = every(&engine, "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}");
    assert_eq!(states, (0..CROWD).map(expected).collect::<Vec<_>>());
    let stop: Vec<&str> = ["stop"].into_iter().chain(names.iter().map(String::as_str)).collect();
    engine.docker(&stop).ok();
    let codes = every(&engine, "{{.State.ExitCode}}");
    assert_eq!(codes, (0..CROWD).map(|n| n.to_string()).collect::<Vec<_>>());
    for (n, name) in names.iter().enumerate() {
        assert_eq!(engine.docker(&["logs", name]).ok(), format!("up {n}\nbye {n}"));
    }
}

#[test]
fn an_orderly_stop_leaves_containers_running() {
    let mut engine = Engine::with_busybox();
    engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "runs",
            "-p",
            "8080:80",
            "busybox",
            "sh",
            "-c",
            "mkdir /w; echo page >/w/index.html; exec httpd -f -p 80 -h /w",
        ])
        .ok();
    engine.stop();
    // What a power cut leaves of a container that was never acknowledged.
    let orphan = engine.root().join("containers").join("f".repeat(64));
    std::fs::create_dir_all(&orphan).unwrap();
    engine.launch();
    assert!(!orphan.exists(), "{}", orphan.display());
    assert_eq!(engine.docker(&["inspect", "-f", "{{.State.Status}}", "runs"]).ok(), "running");
    assert_eq!(engine.curl(&["http://127.0.0.1:8080/"]).ok(), "page", "its port is open again");
}

#[test]
fn a_machine_going_down_stops_containers_in_order_and_policies_bring_them_back() {
    let mut engine = Engine::with_busybox();
    let trap = "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.1; done";
    engine.docker(&["run", "-d", "--name", "plain", "busybox", "sh", "-c", trap]).ok();
    engine
        .docker(&["run", "-d", "--name", "always", "--restart", "always", "busybox", "sh", "-c", trap])
        .ok();
    engine
        .docker(&["run", "-d", "--name", "fails", "--restart", "on-failure", "busybox", "sh", "-c", trap])
        .ok();
    engine.docker(&["run", "--name", "done", "--restart", "on-failure", "busybox", "true"]).ok();
    for name in ["plain", "always", "fails"] {
        eventually("it says so", || engine.docker(&["logs", name]).out == "up\n");
    }
    engine.power_off();
    engine.launch();
    let state =
        |name: &str| engine.docker(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name]).ok();
    assert_eq!(state("plain"), "exited 4");
    assert_eq!(engine.docker(&["logs", "plain"]).ok(), "up\nbye");
    // Policies have brought them back before anybody is told anything.
    assert_eq!([state("always"), state("fails"), state("done")], ["running 0", "running 0", "exited 0"]);
}

#[test]
fn what_is_stopped_as_the_engine_comes_up_stays_stopped() {
    let mut engine = Engine::with_busybox();
    let names = ["one", "two", "three", "four"];
    for name in names {
        let policy = if name == "one" { "on-failure" } else { "unless-stopped" };
        let kept = ["run", "-d", "--name", name, "--restart", policy, "--stop-timeout", "0"];
        engine.docker(&[&kept[..], &["busybox", "sleep", "1000"]].concat()).ok();
    }
    engine.power_off();
    engine.launch();
    std::thread::scope(|scope| {
        for name in names {
            let engine = &engine;
            scope.spawn(move || {
                let (status, _) = engine.request("POST", &format!("/containers/{name}/stop?t=0"), None);
                assert_eq!(status, 204, "{name} is there to be stopped");
            });
        }
    });
    let running = |engine: &Engine| engine.docker(&["ps", "-q"]).ok();
    assert_eq!(running(&engine), "");
    engine.power_off();
    engine.launch();
    assert_eq!(running(&engine), "", "nor does the next start bring them back");
}

#[test]
fn one_that_was_paused_is_paused_still() {
    let mut engine = Engine::with_busybox();
    engine.docker(&["run", "-d", "--name", "frozen", "--stop-timeout", "0", "busybox", "sleep", "1000"]).ok();
    engine.docker(&["pause", "frozen"]).ok();
    engine.crash();
    engine.launch();
    let state = || engine.docker(&["inspect", "-f", "{{.State.Status}}", "frozen"]).ok();
    assert_eq!(state(), "paused");
    engine.docker(&["exec", "frozen", "true"]).fails(1, "is paused, unpause the container before exec");
    engine.docker(&["unpause", "frozen"]).ok();
    assert_eq!(state(), "running");
    engine.docker(&["exec", "frozen", "true"]).ok();
}

#[test]
fn a_shim_that_is_killed_is_noticed() {
    let engine = Engine::with_busybox();
    engine.docker(&["run", "-d", "--name", "orphan", "busybox", "sleep", "1000"]).ok();
    let pid = engine.docker(&["inspect", "-f", "{{.State.Pid}}", "orphan"]).ok();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let shim: u32 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap();
    signal(shim, "KILL");
    eventually("the container is reported as ended", || {
        engine.docker(&["inspect", "-f", "{{.State.Status}}", "orphan"]).ok() == "exited"
    });
    eventually("its processes are gone", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    engine.docker(&["start", "orphan"]).ok();
    assert_eq!(engine.docker(&["inspect", "-f", "{{.State.Status}}", "orphan"]).ok(), "running");
}
