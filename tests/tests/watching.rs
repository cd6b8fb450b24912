//! Stats, updates and health checks, by the stock CLI.

use serde_json::Value;

use tests::{Engine, eventually};

fn status(engine: &Engine, name: &str) -> String {
    engine.docker(&["ps", "-a", "--filter", &format!("name=^{name}$"), "--format", "{{.Status}}"]).ok()
}

fn health(engine: &Engine, name: &str) -> Value {
    let text = engine.docker(&["inspect", "-f", "{{json .State.Health}}", name]).ok();
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn stats_are_the_containers_own() {
    let engine = Engine::with_busybox();
    let busy = "while :; do :; done";
    engine.docker(&["run", "-d", "--name", "busy", "busybox", "sh", "-c", busy]).ok();
    engine.docker(&["run", "-d", "--name", "idle", "busybox", "sleep", "1000"]).ok();
    engine.docker(&["create", "--name", "off", "busybox"]).ok();
    let stat = |name: &str, query: &str| -> Value {
        let (code, body) = engine.request("GET", &format!("/containers/{name}/stats?{query}"), None);
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    };
    let one = stat("busy", "stream=false");
    let used = |v: &Value, of: &str| v[of]["cpu_usage"]["total_usage"].as_u64().unwrap();
    let of_machine = |v: &Value, of: &str| v[of]["system_cpu_usage"].as_u64().unwrap();
    assert!(used(&one, "cpu_stats") > used(&one, "precpu_stats"), "{one}");
    assert!(of_machine(&one, "cpu_stats") > of_machine(&one, "precpu_stats"));
    assert_eq!(one["pids_stats"]["current"], 1);
    assert!(one["networks"]["eth0"]["rx_bytes"].is_u64());
    assert!(one["memory_stats"]["limit"].as_u64().unwrap() > 0);
    let idle = stat("idle", "stream=false");
    let spent = |v: &Value| used(v, "cpu_stats") - used(v, "precpu_stats");
    assert!(spent(&one) > 20 * spent(&idle).max(1), "{} and {}", spent(&one), spent(&idle));
    let shot = stat("busy", "stream=false&one-shot=true");
    assert_eq!((used(&shot, "precpu_stats"), &shot["preread"]), (0, &Value::from("0001-01-01T00:00:00Z")));
    let off = stat("off", "stream=false");
    assert_eq!((used(&off, "cpu_stats"), &off["memory_stats"]), (0, &serde_json::json!({})));
    let table = engine.docker(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"]).ok();
    let mut rows: Vec<&str> = table.lines().collect();
    rows.sort_unstable();
    assert_eq!(rows, ["busy 1", "idle 1"]);
    assert_eq!(engine.request("GET", "/containers/none/stats?stream=false", None).0, 404);
    // A stream ends with its container.
    let watching = engine
        .command(&["stats", "--format", "{{.Name}}", "idle"])
        .stdout(std::process::Stdio::null())
        .spawn();
    engine.docker(&["rm", "-f", "idle", "busy"]).ok();
    let mut watching = watching.unwrap();
    eventually("the stream ends", || watching.try_wait().unwrap().is_some());
}

#[test]
fn limits_and_restart_policy_change_while_it_runs() {
    let engine = Engine::with_busybox();
    engine.docker(&["run", "-d", "--name", "cc", "busybox", "sleep", "1000"]).ok();
    engine.docker(&["update", "--restart", "on-failure:3", "--cpu-shares", "512", "cc"]).ok();
    let show = |format: &str| engine.docker(&["inspect", "-f", format, "cc"]).ok();
    assert_eq!(
        show(
            "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}} {{.HostConfig.CpuShares}}"
        ),
        "on-failure 3 512"
    );
    engine
        .docker(&["update", "--memory", "100m", "cc"])
        .fails(1, "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time");
    engine.docker(&["update", "--memory", "1m", "cc"]).fails(1, "Minimum memory limit allowed is 6MB");
    engine.docker(&["update", "--memory", "100m", "--memory-swap", "-1", "cc"]).ok();
    assert_eq!(show("{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}"), "104857600 -1");
    engine.docker(&["update", "--cpu-quota", "5000", "cc"]).ok();
    engine
        .docker(&["update", "--cpus", "1", "cc"])
        .fails(1, "Nano CPUs cannot be updated as CPU Quota has already been set");
    engine.docker(&["run", "-d", "--rm", "--name", "rm", "busybox", "sleep", "1000"]).ok();
    engine
        .docker(&["update", "--restart", "always", "rm"])
        .fails(1, "Restart policy cannot be updated because AutoRemove is enabled for the container");
}

#[test]
fn a_health_check_follows_the_container() {
    let mut engine = Engine::with_busybox();
    let check = "echo checked; test -e /tmp/ok";
    let every = ["--health-interval", "200ms", "--health-retries", "2", "--health-timeout", "5s"];
    let args =
        [&["run", "-d", "--name", "cc", "--health-cmd", check], &every[..], &["busybox", "sleep", "1000"]];
    engine.docker(&args.concat()).ok();
    assert_eq!(status(&engine, "cc"), "Up Less than a second (health: starting)");
    eventually("it is unhealthy", || status(&engine, "cc").ends_with("(unhealthy)"));
    let found = health(&engine, "cc");
    assert_eq!((&found["Status"], &found["Log"][0]["ExitCode"]), (&"unhealthy".into(), &1.into()), "{found}");
    assert_eq!(found["Log"][0]["Output"], "checked\n");
    engine.docker(&["exec", "cc", "touch", "/tmp/ok"]).ok();
    eventually("it is healthy", || status(&engine, "cc").ends_with("(healthy)"));
    assert_eq!(health(&engine, "cc")["FailingStreak"], 0);
    let named = |value: &str| engine.docker(&["ps", "-q", "--filter", &format!("health={value}")]).ok();
    assert!(!named("healthy").is_empty() && named("none").is_empty() && named("unhealthy").is_empty());
    eventually("results are kept, five of them", || {
        health(&engine, "cc")["Log"].as_array().unwrap().len() == 5
    });
    let events = engine.docker(&[
        "events",
        "--since",
        "1m",
        // The CLI cuts it down to a whole second.
        "--until=-1s",
        "--filter",
        "event=health_status",
        "--format",
        "{{.Action}}",
    ]);
    assert_eq!(events.ok(), "health_status: unhealthy\nhealth_status: healthy");
    // Another engine goes on with it.
    engine.crash();
    engine.launch();
    assert!(status(&engine, "cc").ends_with("(healthy)"), "{}", status(&engine, "cc"));
    engine.docker(&["exec", "cc", "rm", "/tmp/ok"]).ok();
    eventually("the new engine checks too", || status(&engine, "cc").ends_with("(unhealthy)"));
    engine.docker(&["stop", "-t", "0", "cc"]).ok();
    assert_eq!(health(&engine, "cc")["Status"], "unhealthy");
}

#[test]
fn checks_that_hang_are_ended_and_those_not_wanted_do_not_run() {
    let engine = Engine::with_busybox();
    let run = |name: &str, args: &[&str]| {
        engine.docker(&[&["run", "-d", "--name", name], args, &["busybox", "sleep", "1000"]].concat()).ok();
    };
    run(
        "hangs",
        &[
            "--health-cmd",
            "sleep 500",
            "--health-timeout",
            "300ms",
            "--health-interval",
            "100ms",
            "--health-retries",
            "1",
        ],
    );
    eventually("it is unhealthy", || status(&engine, "hangs").ends_with("(unhealthy)"));
    let found = health(&engine, "hangs");
    assert_eq!(
        (&found["Log"][0]["ExitCode"], &found["Log"][0]["Output"]),
        (&(-1).into(), &"Health check exceeded timeout (300ms)".into())
    );
    run("none", &["--no-healthcheck"]);
    assert_eq!(health(&engine, "none"), Value::Null);
    run(
        "starts",
        &[
            "--health-cmd",
            "false",
            "--health-interval",
            "50ms",
            "--health-retries",
            "1",
            "--health-start-period",
            "1h",
            "--health-start-interval",
            "50ms",
        ],
    );
    eventually("it is checked", || health(&engine, "starts")["Log"].as_array().is_some_and(|l| l.len() == 5));
    assert_eq!(
        (&health(&engine, "starts")["Status"], &health(&engine, "starts")["FailingStreak"]),
        (&"starting".into(), &0.into())
    );
    engine
        .docker(&["run", "-d", "--health-cmd", "true", "--health-interval", "1us", "busybox"])
        .fails(125, "cannot be less than 1ms");
}
