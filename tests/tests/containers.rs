//! The first container, by the stock CLI against the engine on bare Linux.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use tests::{Cli, Engine, Outcome, engine::signal, images, seconds_now};

#[test]
fn hello_world_with_every_cli() {
    let engine = Engine::start();
    engine.load(images::hello_world);
    for cli in [Cli::V20, Cli::V26, Cli::V28] {
        let said: Outcome = engine.command_of(cli, &["run", "--rm", "hello-world"]).output().unwrap().into();
        assert_eq!(said.ok(), "\nHello from Docker!", "{cli:?}");
    }
    assert_eq!(engine.docker(&["ps", "-aq"]).ok(), "", "--rm leaves nothing");
}

#[test]
fn exit_codes_are_dockers() {
    let engine = Engine::with_busybox();
    let code = |args: &[&str]| engine.docker(&[&["run", "--rm"], args].concat()).code;
    assert_eq!(code(&["busybox", "true"]), Some(0));
    assert_eq!(code(&["busybox", "sh", "-c", "exit 3"]), Some(3));
    engine.docker(&["run", "-d", "--name", "killed", "busybox", "sleep", "1000"]).ok();
    engine.docker(&["kill", "killed"]).ok();
    assert_eq!(engine.docker(&["wait", "killed"]).ok(), "137");
    engine.docker(&["rm", "killed"]).ok();
    engine
        .docker(&["run", "--rm", "busybox", "nope"])
        .fails(127, "exec: \"nope\": executable file not found in $PATH");
    engine.docker(&["run", "--rm", "busybox", "/etc/passwd"]).fails(126, "permission denied");
    engine.docker(&["run", "--rm", "busybox", "/nope"]).fails(127, "no such file or directory");
    engine.docker(&["run", "--rm", "--bogus"]).fails(125, "unknown flag");
    assert_eq!(engine.docker(&["ps", "-aq"]).ok(), "", "failed starts leave nothing behind");
}

#[test]
fn standard_streams_are_kept_apart() {
    let engine = Engine::with_busybox();
    let both = engine.docker(&["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((both.out.as_str(), both.err.as_str()), ("out\n", "err\n"));
    let echoed = engine.docker_with_input(&["run", "--rm", "-i", "busybox", "cat"], b"hi\n");
    assert_eq!(echoed.ok(), "hi");
    let much = vec![b'x'; 3 << 20];
    let counted = engine.docker_with_input(&["run", "--rm", "-i", "busybox", "wc", "-c"], &much);
    assert_eq!(counted.ok(), much.len().to_string());
}

#[test]
fn a_terminal_is_a_terminal() {
    let engine = Engine::with_busybox();
    // Of a known size.
    let line =
        "stty rows 33 cols 99; {docker} run --rm -it busybox sh -c 'tty; stty size; read x; echo got $x'";
    let mut child = engine.on_terminal(line).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line.starts_with("/dev/pts/0") || line.starts_with("/dev/console"), "{line}");
    line.clear();
    output.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "33 99");
    input.write_all(b"word\n").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("got word"), "{rest}");
    assert!(child.wait().unwrap().success());
}

#[test]
fn interrupting_the_client_interrupts_the_container() {
    let engine = Engine::with_busybox();
    let mut child = engine
        .command(&[
            "run",
            "--rm",
            "--name",
            "loop",
            "busybox",
            "sh",
            "-c",
            "trap 'echo bye; exit 7' INT; echo ready; while :; do sleep 0.1; done",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    signal(child.id(), "INT");
    line.clear();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "bye\n");
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn logs_are_kept_and_followed() {
    let engine = Engine::with_busybox();
    let id = engine
        .docker(&["run", "-d", "busybox", "sh", "-c", "echo one; echo two >&2; read x; echo three"])
        .ok();
    engine.docker(&["rm", "-f", &id]).ok();
    engine
        .docker(&["run", "-d", "-i", "--name", "talker", "busybox", "sh", "-c", "echo one; read x; echo two"])
        .ok();
    let mut follow = engine.command(&["logs", "-f", "talker"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(follow.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "one\n");
    engine.docker_with_input(&["attach", "--no-stdin=false", "talker"], b"go\n");
    line.clear();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "two\n");
    assert!(follow.wait().unwrap().success(), "follow ends with the container");
    assert_eq!(engine.docker(&["logs", "--tail", "1", "talker"]).ok(), "two");
    let stamped = engine.docker(&["logs", "-t", "talker"]).ok();
    assert!(stamped.lines().all(|l| l.starts_with("20") && l.contains("Z ")), "{stamped}");
}

#[test]
fn a_log_that_is_followed_until_a_time_ends_then() {
    let engine = Engine::with_busybox();
    let script = "while :; do echo line; sleep 0.1; done";
    engine.docker(&["run", "-d", "--name", "talks", "busybox", "sh", "-c", script]).ok();
    let began = std::time::Instant::now();
    // From the client's clock: two seconds from now.
    let until = (std::time::SystemTime::now() + std::time::Duration::from_secs(2))
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    let said = engine.docker(&["logs", "-f", "--until", &format!("{until:.3}"), "talks"]).ok();
    assert!(began.elapsed() >= std::time::Duration::from_millis(1900), "it followed: {:?}", began.elapsed());
    assert!(said.lines().count() >= 10 && said.lines().all(|l| l == "line"), "{said}");
    assert_eq!(engine.docker(&["inspect", "-f", "{{.State.Running}}", "talks"]).ok(), "true");
    engine.docker(&["rm", "-f", "talks"]).ok();
}

#[test]
fn exec_runs_beside_the_container() {
    let engine = Engine::with_busybox();
    engine.docker(&["run", "-d", "--name", "box", "-e", "A=b", "busybox", "sleep", "1000"]).ok();
    assert_eq!(engine.docker(&["exec", "box", "sh", "-c", "echo $A; hostname | wc -c"]).ok(), "b\n13");
    assert_eq!(engine.docker(&["exec", "box", "sh", "-c", "exit 5"]).code, Some(5));
    assert_eq!(engine.docker_with_input(&["exec", "-i", "box", "cat"], b"in\n").ok(), "in");
    // dockerd says this on standard output too.
    let missing = engine.docker(&["exec", "box", "nope"]);
    assert_eq!(missing.code, Some(127));
    assert!(missing.out.contains("exec: \"nope\": executable file not found in $PATH"), "{missing:?}");
    assert_eq!(
        engine.docker(&["exec", "-u", "www-data", "-w", "/tmp", "box", "sh", "-c", "id -u; pwd"]).ok(),
        "33\n/tmp"
    );
    // The same walls as around the container itself.
    let walls = "grep -E '^(Seccomp|NoNewPrivs|CapBnd)' /proc/self/status";
    let inside = engine.docker(&["exec", "box", "sh", "-c", walls]).ok();
    let own = engine.docker(&["run", "--rm", "busybox", "sh", "-c", walls]).ok();
    assert_eq!(inside, own);
    engine.docker(&["exec", "missing", "true"]).fails(1, "No such container: missing");
}

#[test]
fn no_exit_code_of_an_exec_is_lost() {
    // The client asks for it as soon as the output ends; under load that was before the engine knew.
    let engine = Engine::with_busybox();
    engine.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    let execs: Vec<_> = (0..40)
        .map(|_| {
            engine.command(&["exec", "box", "sh", "-c", "exit 5"]).stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in execs {
        assert_eq!(child.wait().unwrap().code(), Some(5));
    }
}

#[test]
fn a_container_is_confined_as_dockers_are() {
    let engine = Engine::with_busybox();
    let status = engine.docker(&["run", "--rm", "busybox", "cat", "/proc/self/status"]).ok();
    for line in [
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapInh:\t0000000000000000",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line}\n{status}");
    }
    let refuses = |script: &str| {
        let tried = engine.docker(&["run", "--rm", "busybox", "sh", "-c", script]);
        assert_ne!(tried.code, Some(0), "{script}: {}", tried.out);
    };
    refuses("unshare -m true");
    refuses("mount -t tmpfs none /tmp");
    refuses("echo 1 > /proc/sys/kernel/sysrq");
    refuses("echo b > /proc/sysrq-trigger");
    refuses("test -s /proc/kcore && head -c1 /proc/kcore | grep -q .");
    refuses("mknod /tmp/disk b 254 0 && head -c1 /tmp/disk");
    refuses("hostname other");
    refuses("ls /sys/firmware/* ");
    assert_eq!(
        engine
            .docker(&["run", "--rm", "busybox", "sh", "-c", "echo $$; ls /proc | grep -c '^[0-9]'"])
            .ok()
            .lines()
            .next(),
        Some("1")
    );
    assert_eq!(engine.docker(&["run", "--rm", "--read-only", "busybox", "touch", "/x"]).code, Some(1));
    let fds = engine.docker(&["run", "--rm", "busybox", "sh", "-c", "ls /proc/$$/fd"]).ok();
    assert_eq!(
        fds.split_whitespace().filter(|f| !matches!(*f, "0" | "1" | "2" | "3" | "10")).count(),
        0,
        "leaked: {fds}"
    );
}

#[test]
fn options_of_run_have_effect() {
    let engine = Engine::with_busybox();
    let run = |args: &[&str]| engine.docker(&[&["run", "--rm"], args].concat()).ok();
    assert_eq!(run(&["-h", "box", "busybox", "hostname"]), "box");
    assert_eq!(run(&["-w", "/new/dir", "busybox", "pwd"]), "/new/dir");
    assert_eq!(run(&["-u", "33:50", "busybox", "id"]), "uid=33(www-data) gid=50(staff) groups=50(staff)");
    assert_eq!(run(&["-u", "nobody", "busybox", "id", "-G"]), "65534 50");
    assert_eq!(run(&["--entrypoint", "echo", "busybox", "hi"]), "hi");
    assert_eq!(
        run(&["--ulimit", "nofile=123:456", "busybox", "sh", "-c", "ulimit -n; ulimit -Hn"]),
        "123\n456"
    );
    assert_eq!(
        run(&["--shm-size", "8m", "busybox", "sh", "-c", "df -k /dev/shm | tail -1 | awk '{print $2}'"]),
        "8192"
    );
    assert_eq!(
        run(&["--cap-drop", "ALL", "busybox", "grep", "CapEff", "/proc/self/status"]),
        "CapEff:\t0000000000000000"
    );
    assert_eq!(
        run(&["--security-opt", "no-new-privileges", "busybox", "grep", "NoNewPrivs", "/proc/self/status"]),
        "NoNewPrivs:\t1"
    );
    assert_eq!(
        run(&[
            "--sysctl",
            "net.ipv4.ip_unprivileged_port_start=77",
            "busybox",
            "cat",
            "/proc/sys/net/ipv4/ip_unprivileged_port_start"
        ]),
        "77"
    );
    assert_eq!(
        run(&["--add-host", "other:10.1.2.3", "busybox", "grep", "other", "/etc/hosts"]),
        "10.1.2.3\tother"
    );
    assert!(
        run(&["--tmpfs", "/scratch:size=1m", "busybox", "mount"])
            .contains("tmpfs on /scratch type tmpfs (rw,nosuid,nodev,noexec,relatime,size=1024k")
    );
    assert_eq!(
        run(&["--privileged", "busybox", "grep", "CapEff", "/proc/self/status"]).len(),
        "CapEff:\t000001ffffffffff".len()
    );
    let first = run(&["--init", "busybox", "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline; echo; echo $$"]);
    assert!(first.contains("docker-init -- sh") && !first.ends_with("\n1"), "{first}");
    // 404, as dockerd answers: the CLI looks for an image then.
    let body = "{\"Image\":\"busybox\",\"Volumes\":{\"/data\":{}},\"HostConfig\":{\"VolumeDriver\":\"nfs\"}}";
    let (status, words) = engine.request("POST", "/containers/create", Some(body));
    assert!(status == 404 && words.contains("error looking up volume plugin nfs: plugin"), "{words}");
    engine
        .docker(&["run", "--rm", "--storage-opt", "size=1g", "busybox"])
        .fails(125, "--storage-opt is supported only for overlay over xfs with 'pquota' mount option");
    engine.docker(&["run", "--rm", "--storage-opt", "speed=1", "busybox"]).fails(125, "Unknown option speed");
    let other = if std::env::consts::ARCH == "aarch64" { "linux/amd64" } else { "linux/arm64" };
    let (status, words) = engine.request(
        "POST",
        &format!("/containers/create?platform={other}"),
        Some("{\"Image\":\"busybox\"}"),
    );
    assert!(status == 404 && words.contains("does not provide the specified platform"), "{words}");
}

#[test]
fn lifecycle_by_hand() {
    let engine = Engine::with_busybox();
    let id = engine
        .docker(&[
            "create",
            "--name",
            "one",
            "busybox",
            "sh",
            "-c",
            "trap 'exit 4' TERM; while :; do sleep 0.1; done",
        ])
        .ok();
    assert_eq!(id.len(), 64);
    let state = |what: &str| engine.docker(&["inspect", "-f", &format!("{{{{.State.{what}}}}}"), "one"]).ok();
    assert_eq!(state("Status"), "created");
    engine.docker(&["start", "one"]).ok();
    assert_eq!(state("Status"), "running");
    engine.docker(&["pause", "one"]).ok();
    assert_eq!(state("Status"), "paused");
    engine.docker(&["unpause", "one"]).ok();
    engine.docker(&["restart", "-t", "2", "one"]).ok();
    assert_eq!(state("Running"), "true");
    engine
        .docker(&["rm", "one"])
        .fails(1, "container is running: stop the container before removing or force remove");
    engine.docker(&["stop", "one"]).ok();
    assert_eq!((state("Status"), state("ExitCode")), ("exited".into(), "4".into()));
    engine.docker(&["rename", "one", "two"]).ok();
    assert_eq!(
        engine.docker(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]).ok().split_whitespace().next(),
        Some("two")
    );
    engine.docker(&["run", "--name", "two", "busybox"]).fails(
        125,
        &format!("Conflict. The container name \"/two\" is already in use by container \"{id}\""),
    );
    engine.docker(&["rm", "two"]).ok();
    engine.docker(&["start", "two"]).fails(1, "No such container: two");
    engine.docker(&["stop", "-t", "0", "two"]).fails(1, "No such container: two");
}

#[test]
fn restart_policies_bring_it_back() {
    let engine = Engine::with_busybox();
    engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "again",
            "--restart",
            "on-failure:2",
            "busybox",
            "sh",
            "-c",
            "echo x; exit 1",
        ])
        .ok();
    engine.docker(&["wait", "again"]).ok();
    tests::eventually("two restarts", || {
        engine.docker(&["inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "again"]).ok() == "2 exited"
    });
    assert_eq!(engine.docker(&["logs", "again"]).ok(), "x\nx\nx");
}

#[test]
fn pauses_before_restarts_grow_until_somebody_starts_it() {
    let engine = Engine::with_busybox();
    engine.docker(&["run", "-d", "--name", "again", "--restart", "always", "busybox", "false"]).ok();
    let told = || -> Vec<(String, f64)> {
        let format = "{{.Action}} {{.TimeNano}}";
        let args =
            ["events", "--since", "1h", "--until", "0s", "--filter", "container=again", "--format", format];
        let actions = ["start", "die", "restart"].map(|action| format!("event={action}"));
        let filters = actions.iter().flat_map(|event| ["--filter", event]);
        let lines = engine.docker(&args.into_iter().chain(filters).collect::<Vec<_>>()).ok();
        let event = |line: &str| {
            let (action, at) = line.split_once(' ').unwrap();
            (action.to_owned(), at.parse::<f64>().unwrap() / 1e9)
        };
        lines.lines().map(event).collect()
    };
    // Seconds from each end to the start that follows.
    let pauses = |events: &[(String, f64)]| -> Vec<f64> {
        let after = events.iter().skip_while(|(action, _)| action != "die").collect::<Vec<_>>();
        after.chunks_exact(2).map(|pair| pair[1].1 - pair[0].1).collect()
    };
    tests::eventually("four restarts", || pauses(&told()).len() >= 4);
    let all = pauses(&told());
    for (n, at_least) in [0.1, 0.2, 0.4, 0.8].into_iter().enumerate() {
        // Starting it takes a while as well, on a busy machine a long one.
        assert!(all[n] >= at_least && all[n] < at_least + 5.0, "{all:?}");
    }
    engine.docker(&["restart", "-t", "0", "again"]).ok();
    let since = || -> Vec<f64> {
        // The client asks for what was told until the last whole second.
        let events = told();
        let at = events.iter().position(|(action, _)| action == "restart").unwrap_or(events.len());
        pauses(&events[at..])
    };
    tests::eventually("one more restart", || !since().is_empty());
    let pause = since()[0];
    assert!((0.1..1.6).contains(&pause), "a person's start begins anew: {pause} s after {all:?}");
    // A policy that is taken away while it waits is not followed.
    engine.docker(&["update", "--restart", "no", "again"]).ok();
    tests::eventually("it stays ended", || {
        engine.docker(&["inspect", "-f", "{{.State.Status}}", "again"]).ok() == "exited"
    });
    engine.docker(&["rm", "-f", "again"]).ok();
}

#[test]
fn twenty_at_once() {
    let engine = Engine::with_busybox();
    let runs: Vec<_> = (0..20)
        .map(|n| {
            let text = n.to_string();
            engine.command(&["run", "--rm", "busybox", "echo", &text]).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for (n, child) in runs.into_iter().enumerate() {
        let said: Outcome = child.wait_with_output().unwrap().into();
        assert_eq!(said.ok(), n.to_string());
    }
    assert_eq!(engine.docker(&["ps", "-aq"]).ok(), "");
}

#[test]
fn a_container_can_ask_the_engine_through_its_socket() {
    let engine = Engine::with_busybox();
    engine.docker(&["run", "-d", "--name", "sibling", "busybox", "sleep", "1000"]).ok();
    // The stock CLI itself inside a container: its program and libraries are bound at the same paths.
    let program = Cli::V28.program();
    let target = program.ancestors().nth(3).expect("target/tools/docker/docker").display().to_string();
    let bind = format!("{target}:{target}:ro");
    let listed = engine.docker(&[
        "run",
        "--rm",
        "-v",
        "/var/run/docker.sock:/var/run/docker.sock",
        "-v",
        &bind,
        "busybox",
        program.to_str().expect("a plain path"),
        "ps",
        "--format",
        "{{.Names}}",
    ]);
    assert!(listed.out.contains("sibling"), "{listed:?}");
}

#[test]
fn bad_requests_get_dockers_own_errors_and_leave_nothing() {
    let engine = Engine::with_busybox();
    let post = |body: &str| engine.request("POST", "/v1.51/containers/create", Some(body));
    assert_eq!(post("{\"Image\":"), (400, "{\"message\":\"invalid JSON: unexpected EOF\"}\n".into()));
    assert_eq!(
        post("{}"),
        (400, "{\"message\":\"config cannot be empty in order to create a container\"}\n".into())
    );
    assert_eq!(post("{\"Image\":\"nope\"}"), (404, "{\"message\":\"No such image: nope:latest\"}\n".into()));
    assert_eq!(post("{\"Image\":\"busybox\"} x").0, 400);
    assert_eq!(engine.request("GET", "/nope", None), (404, "{\"message\":\"page not found\"}\n".into()));
    assert_eq!(engine.request("GET", "/v1.99/info", None).0, 400);
    assert_eq!(
        engine.request("GET", "/containers/nope/json", None),
        (404, "{\"message\":\"No such container: nope\"}\n".into())
    );
    let (status, words) = engine.request("POST", "/plugins/pull", None);
    assert!(status == 501 && words.contains("PluginPull"), "{words}");
    assert_eq!(engine.request("GET", "/services", None).0, 503);
    engine
        .docker(&["run", "--name", "a b", "busybox"])
        .fails(125, "Invalid container name (a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed");
    // A body that does not end is cut off at a limit, and the engine goes on.
    let huge = engine.path("huge.json");
    let mut file = std::fs::File::create(&huge).unwrap();
    file.write_all(b"{\"Image\":\"").unwrap();
    file.write_all(&vec![b'a'; 9 << 20]).unwrap();
    let (status, _) = engine.request("POST", "/containers/create", Some(&format!("@{}", huge.display())));
    assert_eq!(status, 400);
    assert_eq!(engine.docker(&["ps", "-aq"]).ok(), "");
    assert_eq!(engine.request("GET", "/_ping", None), (200, "OK".into()));
}

/// What the engine answers on a connection of its own, after its head.
fn asked(engine: &Engine, path: &str) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let (mut answer, mut line) = (BufReader::new(stream), String::new());
    while line != "\r\n" {
        line.clear();
        assert_ne!(answer.read_line(&mut line).unwrap(), 0, "{path}: no answer");
    }
    answer
}

#[test]
fn who_hears_of_an_end_and_asks_then_is_not_told_that_it_runs() {
    let engine = Engine::with_busybox();
    let mut events = asked(&engine, "/events?filters=%7B%22event%22%3A%5B%22die%22%5D%7D");
    engine.docker(&["create", "--name", "ends", "--network", "none", "busybox", "true"]).ok();
    for _ in 0..20 {
        engine.docker(&["start", "ends"]).ok();
        let mut line = String::new();
        while !line.contains(r#""Action":"die""#) {
            line.clear();
            assert_ne!(events.read_line(&mut line).unwrap(), 0, "the events ended");
        }
        let mut told = String::new();
        asked(&engine, "/containers/ends/json").read_to_string(&mut told).unwrap();
        assert!(told.contains(r#""Status":"exited""#), "{told}");
    }
}

#[test]
fn events_tell_what_happened() {
    let engine = Engine::with_busybox();
    let id = engine.docker(&["run", "-d", "--name", "seen", "busybox", "sh", "-c", "exit 2"]).ok();
    engine.docker(&["wait", "seen"]).ok();
    engine.docker(&["rm", "seen"]).ok();
    let seen = engine.docker(&[
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "container=seen",
        "--format",
        "{{.Action}}",
    ]);
    let now = seconds_now();
    let listed = engine
        .docker(&[
            "events",
            "--since",
            "0",
            "--until",
            &now,
            "--filter",
            &format!("container={id}"),
            "--format",
            "{{.Action}}",
        ])
        .ok();
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["create", "start", "die", "destroy"], "{seen:?}");
}

#[test]
fn docker_py_notices_no_difference() {
    let engine = Engine::with_busybox();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docker_py.py");
    let mut python = std::process::Command::new(tests::tool("CORACLE_TEST_PYTHON"));
    python.arg(script).env("DOCKER_HOST", format!("unix://{}", engine.socket().display()));
    assert!(Outcome::from(python.output().unwrap()).ok().starts_with("docker-py "));
}
