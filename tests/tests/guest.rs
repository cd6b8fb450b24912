//! The slice closed: the stock CLI on the host, containers in the guest, driven by an ordinary user.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tests::{Cli, Outcome, engine::signal, eventually, images, machine::Machine};

/// One machine for all: a boot and its images are most of what each of these takes.
#[test]
fn a_machine_and_what_runs_in_it() {
    let machine = Machine::start("guest");
    tests::in_order!(
        &machine;
        // The first: nothing has been loaded.
        the_first_container_needs_no_registry,
        clients_notice_no_difference,
        limits_are_what_they_say,
        ports_are_the_hosts,
        redis_keeps_its_data_in_a_volume,
        whatever_is_killed_comes_back,
        what_the_user_sets_for_the_engine_reaches_it,
        a_machine_that_is_stopped_says_so,
    );
}

/// Loads one of the test images, if it isn't there.
fn load(machine: &Machine, name: &str, image: fn(&Path) -> PathBuf) {
    if machine.docker(&["image", "inspect", name]).code != Some(0) {
        let folder = tempfile::tempdir().unwrap();
        machine.load(&image(folder.path()));
    }
}

fn the_first_container_needs_no_registry(machine: &Machine) {
    let version = machine.docker(&["version", "-f", "{{.Server.Version}} {{.Server.KernelVersion}}"]).ok();
    assert!(version.starts_with("28.5.2+coracle."), "{version}");
    assert!(!version.ends_with(&rustix_free_kernel()), "a kernel of its own: {version}");
    machine.docker(&["run", "-d", "--name", "welcome", "-p", "127.0.0.1:18081:80", "coracle/welcome"]).ok();
    let mut page = String::new();
    eventually("the welcome page answers", || {
        page = machine.curl("http://127.0.0.1:18081/").out;
        !page.is_empty()
    });
    assert!(page.contains("This page comes from a container."), "{page}");
    // Bound on loopback alone: not on the host's other addresses.
    let listening = std::fs::read_to_string("/proc/net/tcp").unwrap();
    assert!(listening.contains("0100007F:46A1") && !listening.contains("00000000:46A1"), "{listening}");
    machine.docker(&["rm", "-f", "welcome"]).ok();
    assert_ne!(machine.curl("http://127.0.0.1:18081/").code, Some(0), "closed with the container");
}

fn a_machine_that_is_stopped_says_so(machine: &Machine) {
    machine.coracle(&["stop"]).ok();
    assert_eq!(machine.status()["state"], "stopped");
    assert_eq!(machine.coracle(&["status"]).code, Some(3));
}

/// This host's kernel release.
fn rustix_free_kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim().to_owned()
}

fn clients_notice_no_difference(machine: &Machine) {
    load(machine, "busybox", images::busybox);
    let run = |args: &[&str]| machine.docker(&[&["run", "--rm"], args].concat());
    for code in [0, 3] {
        assert_eq!(run(&["busybox", "sh", "-c", &format!("exit {code}")]).code, Some(code));
    }
    run(&["busybox", "nope"]).fails(127, "executable file not found in $PATH");
    run(&["busybox", "/etc/passwd"]).fails(126, "permission denied");
    assert_eq!(machine.docker_with_input(&["run", "--rm", "-i", "busybox", "cat"], b"hi\n").ok(), "hi");
    let much = vec![b'x'; 1 << 20];
    let counted = machine.docker_with_input(&["run", "--rm", "-i", "busybox", "wc", "-c"], &much);
    assert_eq!(counted.ok(), much.len().to_string(), "half-close passes the link");

    // A terminal of a known size, resized while it runs.
    let docker = format!(
        "stty rows 33 cols 99; {} run --rm -it busybox sh -c 'stty size; read x; echo got $x'",
        Cli::V28.program().display()
    );
    let mut script = std::process::Command::new("script");
    script.args(["-qefc", &docker, "/dev/null"]);
    for (key, value) in machine.command(&[]).get_envs() {
        script.env(key, value.unwrap_or_default());
    }
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "33 99");
    child.stdin.take().unwrap().write_all(b"word\n").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("got word"), "{rest}");
    assert!(child.wait().unwrap().success());

    // Follow, exec, interrupt.
    machine
        .docker(&["run", "-d", "-i", "--name", "talker", "busybox", "sh", "-c", "echo one; read x; echo two"])
        .ok();
    let mut follow = machine.command(&["logs", "-f", "talker"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(follow.stdout.take().unwrap());
    line.clear();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "one\n");
    assert_eq!(machine.docker(&["exec", "talker", "sh", "-c", "exit 5"]).code, Some(5));
    machine.docker_with_input(&["attach", "talker"], b"go\n");
    line.clear();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "two\n");
    assert!(follow.wait().unwrap().success());

    let mut interrupted = machine
        .command(&[
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            "trap 'exit 7' INT; echo ready; while :; do sleep 0.1; done",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    line.clear();
    BufReader::new(interrupted.stdout.take().unwrap()).read_line(&mut line).unwrap();
    signal(interrupted.id(), "INT");
    assert_eq!(interrupted.wait().unwrap().code(), Some(7));

    let runs: Vec<_> = (0..20)
        .map(|n| {
            machine
                .command(&["run", "--rm", "busybox", "echo", &n.to_string()])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for (n, child) in runs.into_iter().enumerate() {
        assert_eq!(Outcome::from(child.wait_with_output().unwrap()).ok(), n.to_string());
    }

    machine.docker(&["network", "create", "net"]).ok();
    machine.docker(&["run", "-d", "--network", "net", "--name", "web", "coracle/welcome"]).ok();
    let page = run(&["--network", "net", "busybox", "wget", "-qO-", "http://web/"]).ok();
    assert!(page.contains("This page comes from a container."), "{page}");
}

fn limits_are_what_they_say(machine: &Machine) {
    load(machine, "busybox", images::busybox);
    let run = |args: &[&str]| machine.docker(&[&["run", "--rm"], args].concat());
    let files = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max";
    let limited = run(&[
        "-m",
        "64m",
        "--memory-swap",
        "64m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "20",
        "busybox",
        "sh",
        "-c",
        files,
    ]);
    assert_eq!(limited.ok(), "67108864\n0\n50000 100000\n20");
    machine
        .docker(&[
            "run",
            "--name",
            "hungry",
            "-m",
            "32m",
            "--memory-swap",
            "32m",
            "busybox",
            "tail",
            "/dev/zero",
        ])
        .fails(137, "");
    assert_eq!(
        machine.docker(&["inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", "hungry"]).ok(),
        "true 137"
    );
    // A kill that the container outlives is told when it happens.
    let child = "tail /dev/zero; echo gone on; exec sleep 1000";
    machine
        .docker(&[
            "run",
            "-d",
            "--name",
            "goes-on",
            "-m",
            "32m",
            "--memory-swap",
            "32m",
            "busybox",
            "sh",
            "-c",
            child,
        ])
        .ok();
    let state = "{{.State.Running}} {{.State.OOMKilled}}";
    eventually("the kill is told", || {
        machine.docker(&["inspect", "-f", state, "goes-on"]).ok() == "true true"
    });
    for name in ["hungry", "goes-on"] {
        let filter = format!("container={name}");
        // The CLI cuts "now" down to a whole second.
        let told = || {
            machine.docker(&[
                "events",
                "--since",
                "1h",
                "--until",
                "0s",
                "--filter",
                &filter,
                "--filter",
                "event=oom",
                "--format",
                "{{.Action}}",
            ])
        };
        eventually("the kill is an event, one", || told().ok() == "oom");
    }
    machine.docker(&["rm", "-f", "goes-on"]).ok();
    let forks = run(&[
        "--pids-limit",
        "5",
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait",
    ]);
    assert!(forks.err.contains("can't fork"), "{forks:?}");
    // A loop that wants a whole processor is held back.
    let busy = "timeout 2 sh -c 'while :; do :; done'; cat /sys/fs/cgroup/cpu.stat";
    let stat = run(&["--cpus", "0.2", "busybox", "sh", "-c", busy]).ok();
    let throttled = stat.lines().find_map(|l| l.strip_prefix("nr_throttled ")?.parse::<u64>().ok());
    assert!(throttled.is_some_and(|n| n > 3), "{stat}");
    // A disk is written no faster than allowed: 3 MiB at 1 MiB a second, a second of it at once.
    let script = "dd if=/dev/zero of=/f bs=64k count=48 conv=fsync 2>/dev/null; cat /sys/fs/cgroup/io.max";
    let started = std::time::Instant::now();
    let max = run(&["--device-write-bps", "/dev/vdb:1mb", "busybox", "sh", "-c", script]).ok();
    let took = started.elapsed();
    assert!(max.contains("wbps=1048576"), "{max}");
    assert!(took.as_secs_f64() > 2.0, "3 MiB were written in {took:?}");
    // A step of the classic builder has what its build is given.
    let folder = tempfile::tempdir().unwrap();
    let step = "FROM busybox\nRUN cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max\n";
    std::fs::write(folder.path().join("Dockerfile"), step).unwrap();
    let options = ["build", "-m", "64m", "--cpu-period", "50000", "--cpu-quota", "25000"];
    let mut build = machine.command(&[&options[..], &[folder.path().to_str().unwrap()]].concat());
    let built = build.env("DOCKER_BUILDKIT", "0").output().expect("docker");
    let said = String::from_utf8_lossy(&built.stdout);
    assert!(built.status.success() && said.contains("67108864\n25000 50000\n"), "{built:?}");
    let warnings = machine.docker(&["info", "-f", "{{.Warnings}}"]).ok();
    assert_eq!(warnings, "[]", "every controller is there");
}

fn ports_are_the_hosts(machine: &Machine) {
    load(machine, "nginx", images::nginx);
    machine.docker(&["run", "-d", "--name", "nginx", "-p", "18084:80", "nginx"]).ok();
    let mut page = String::new();
    eventually("nginx answers", || {
        page = machine.curl("http://localhost:18084/").out;
        !page.is_empty()
    });
    assert_eq!(page, "<h1>Welcome to nginx!</h1>\n");
    let taken = std::net::TcpListener::bind("0.0.0.0:18082").unwrap();
    let refused = machine.docker(&["run", "--name", "late", "-p", "18082:80", "coracle/welcome"]);
    refused.fails(125, "Bind for 0.0.0.0:18082 failed: port is already allocated");
    drop(taken);
    machine.docker(&["start", "late"]).ok();
    eventually("the port that became free", || machine.curl("http://127.0.0.1:18082/").code == Some(0));
    let second = machine.docker(&["run", "--name", "second", "-p", "18082:80", "coracle/welcome"]);
    second.fails(125, "port is already allocated");
    machine.docker(&["run", "-d", "--name", "random", "-P", "coracle/welcome"]).ok();
    let port = machine.docker(&["port", "random", "80/tcp"]).ok();
    let numbers: Vec<&str> = port.lines().map(|l| l.rsplit(':').next().unwrap()).collect();
    assert_eq!(numbers.len(), 2, "{port}");
    assert_eq!(numbers[0], numbers[1], "both families have the same number");
    let port = port.lines().next().unwrap().rsplit(':').next().unwrap().to_owned();
    eventually("the random port", || machine.curl(&format!("http://127.0.0.1:{port}/")).code == Some(0));

    // Ranges: as many as the container has, and of several that will do the first that is free.
    let held = std::net::TcpListener::bind("0.0.0.0:18113").unwrap();
    let run = ["run", "-d", "--name", "range", "-p", "18110-18112:80-82", "coracle/welcome"];
    machine.docker(&run).ok();
    let ports = machine.docker(&["port", "range"]).ok();
    for n in 0..3 {
        assert!(ports.contains(&format!("{}/tcp -> 0.0.0.0:{}", 80 + n, 18110 + n)), "{ports}");
    }
    eventually("the first of a range", || machine.curl("http://127.0.0.1:18110/").code == Some(0));
    machine.docker(&["run", "-d", "--name", "one", "-p", "18112-18114:80", "coracle/welcome"]).ok();
    let port = machine.docker(&["port", "one", "80/tcp"]).ok();
    assert!(port.contains("0.0.0.0:18114") && port.contains("[::]:18114"), "{port}");
    let full = machine.docker(&["run", "--name", "full", "-p", "18112-18114:80", "coracle/welcome"]);
    full.fails(125, "all ports are allocated");
    drop(held);

    // The other way: what listens on the host's loopback is there for containers, by Docker's name of the host.
    load(machine, "busybox", images::busybox);
    let service = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port();
    let networks = ["own", "bridge", "host"];
    let serve = std::thread::spawn(move || {
        // And a build's step.
        for _ in 0..networks.len() + 1 {
            service.accept()?.0.write_all(b"from the host\n")?;
        }
        std::io::Result::Ok(())
    });
    let hosts = ["run", "--rm", "--add-host", "me:host-gateway", "busybox", "cat", "/etc/hosts"];
    assert!(machine.docker(&hosts).ok().contains("192.168.65.254\tme"));
    machine.docker(&["network", "create", "own"]).ok();
    let script = format!("nc host.docker.internal {port} </dev/null");
    for network in networks {
        let run = ["run", "--rm", "--network", network, "busybox", "sh", "-c", &script];
        assert_eq!(machine.docker(&run).ok(), "from the host", "{network}");
    }
    let context = tempfile::tempdir().unwrap();
    let step = format!("FROM busybox\nRUN test \"$({script})\" = \"from the host\"\n");
    std::fs::write(context.path().join("Dockerfile"), step).unwrap();
    machine.docker(&["build", context.path().to_str().unwrap()]).ok();
    serve.join().unwrap().unwrap();

    // And in datagrams that no container's network carries in one piece.
    let service = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port();
    let serve = std::thread::spawn(move || keep_a_file(&service));
    let tftp = |way: &str| format!("tftp {way} -b {BLOCK} host.docker.internal {port}");
    let (put, get) = (tftp("-p -l /file -r file"), tftp("-g -r file -l /back"));
    let script = format!("seq 5000 >/file && {put} && {get} && cmp /file /back && echo the same");
    assert_eq!(machine.docker(&["run", "--rm", "busybox", "sh", "-c", &script]).ok(), "the same");
    serve.join().unwrap().unwrap();
}

/// Bytes of a file in one datagram.
const BLOCK: usize = 8000;

/// Serves one file, which is put and got once, by TFTP (RFC 1350, options: 2347, 2348).
fn keep_a_file(service: &std::net::UdpSocket) -> std::io::Result<()> {
    service.set_read_timeout(Some(std::time::Duration::from_secs(60)))?;
    let (mut file, mut blocks) = (Vec::new(), 0_u16);
    let mut packet = vec![0; 65_535];
    loop {
        let (len, client) = service.recv_from(&mut packet)?;
        let (what, block) = (packet[1], u16::from_be_bytes([packet[2], packet[3]]));
        let answer = match what {
            1 | 2 => format!("\0\x06blksize\0{BLOCK}\0").into_bytes(),
            3 => {
                // One that is not answered at once comes again.
                if block == blocks + 1 {
                    blocks = block;
                    file.extend_from_slice(&packet[4..len]);
                }
                [&[0, 4], &block.to_be_bytes()[..]].concat()
            }
            4 => {
                let Some(rest) = file.get(usize::from(block) * BLOCK..) else { return Ok(()) };
                let next = (block + 1).to_be_bytes();
                [&[0, 3], &next[..], &rest[..rest.len().min(BLOCK)]].concat()
            }
            other => panic!("TFTP's {other}"),
        };
        service.send_to(&answer, client)?;
    }
}

/// What redis answers at a port of the host to one command and QUIT, as it is on the wire.
fn redis(port: u16, command: &str) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
    write!(stream, "{command}\r\nQUIT\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn redis_keeps_its_data_in_a_volume(machine: &Machine) {
    load(machine, "redis", images::redis);
    let start = || {
        machine
            .docker(&["run", "-d", "--name", "redis", "-p", "18085:6379", "-v", "kept:/data", "redis"])
            .ok();
        eventually("redis answers", || redis(18085, "PING").is_ok_and(|a| a == "+PONG\r\n+OK\r\n"));
    };
    start();
    assert_eq!(redis(18085, "SET key value").unwrap(), "+OK\r\n+OK\r\n");
    machine.docker(&["rm", "-f", "redis"]).ok();
    start();
    assert_eq!(redis(18085, "GET key").unwrap(), "$5\r\nvalue\r\n+OK\r\n");
    // The machine's end is a power-off: what was written is on the disk that stays.
    machine.coracle(&["restart"]).ok();
    machine.docker(&["start", "redis"]).ok();
    eventually("redis answers again", || redis(18085, "GET key").is_ok_and(|a| a.contains("value")));
}

fn what_the_user_sets_for_the_engine_reaches_it(machine: &Machine) {
    load(machine, "busybox", images::busybox);
    let settings = machine.path("c/engine.json");
    let info = |format: &str| machine.docker(&["info", "-f", format]).ok();
    assert_eq!(info("{{.RegistryConfig.Mirrors}}"), "[]");
    // Kept by the guest, told anew by the host.
    let asked = r#"{"registry-mirrors": ["http://mirror.test:5000"], "userns-remap": "default"}"#;
    std::fs::write(&settings, asked).unwrap();
    machine.coracle(&["restart"]).ok();
    assert_eq!(info("{{.RegistryConfig.Mirrors}}"), "[http://mirror.test:5000/]");
    // Containers' root is nobody of the guest's now, limits and volumes are as ever.
    assert!(info("{{.SecurityOptions}}").contains("name=userns"));
    let look = "cat /proc/self/uid_map /sys/fs/cgroup/pids.max; touch /v/x && stat -c %u:%g /v/x";
    let run = ["run", "--rm", "--pids-limit", "16", "-v", "mapped:/v", "busybox", "sh", "-c", look];
    let seen = machine.docker(&run).ok();
    let seen: Vec<&str> = seen.split_whitespace().collect();
    assert_eq!(seen, ["0", "100000", "65536", "16", "0:0"]);
    let refused = machine.docker(&["run", "--rm", "--privileged", "busybox", "true"]);
    assert!(refused.err.contains("incompatible with user namespaces"), "{refused:?}");
    // What the engine does not know it says.
    std::fs::write(&settings, r#"{"bogus-key": 1}"#).unwrap();
    let refused = machine.coracle(&["restart"]);
    assert!(refused.code == Some(1) && refused.err.contains("bogus-key"), "{refused:?}");
    std::fs::remove_file(&settings).unwrap();
    machine.coracle(&["restart"]).ok();
    assert_eq!(info("{{.RegistryConfig.Mirrors}}"), "[]");
    let without = ["run", "--rm", "-v", "mapped:/v", "busybox", "sh", "-c", "id -u; stat -c %u /v/x"];
    assert_eq!(machine.docker(&without).ok(), "0\n0", "what was made under the setting is root's without it");

    // A proxy of the shell that starts the daemon, on the host's own loopback.
    machine.coracle(&["stop"]).ok();
    eventually("the daemon has ended with its machine", || machine.coracle(&["status"]).code == Some(3));
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let mut start = machine.run_as_user(&tests::tool("CORACLE_TEST_BIN").join("coracle"));
    Outcome::from(start.args(["start"]).env("HTTPS_PROXY", url).output().unwrap()).ok();
    let asked = std::thread::spawn(move || {
        let mut line = String::new();
        BufReader::new(proxy.accept().unwrap().0).read_line(&mut line).unwrap();
        line
    });
    assert_ne!(machine.docker(&["pull", "registry.test/some/image"]).code, Some(0));
    assert_eq!(asked.join().unwrap().trim(), "CONNECT registry.test:443 HTTP/1.1");
}

fn whatever_is_killed_comes_back(machine: &Machine) {
    load(machine, "busybox", images::busybox);
    machine.docker(&["run", "-d", "--name", "site", "-p", "18083:80", "coracle/welcome"]).ok();
    machine
        .docker(&[
            "run",
            "-d",
            "--name",
            "clock",
            "busybox",
            "sh",
            "-c",
            "while :; do echo tick; sleep 0.2; done",
        ])
        .ok();
    let state =
        |name: &str| machine.docker(&["inspect", "-f", "{{.State.Status}}", name]).out.trim().to_owned();
    let page = || machine.curl("http://127.0.0.1:18083/").code == Some(0);
    eventually("the page", page);

    // The daemon: the guest goes on; the next start takes it over.
    let status = machine.status();
    signal(status["daemon"]["pid"].as_u64().unwrap() as u32, "KILL");
    eventually("the daemon is gone", || machine.coracle(&["status"]).code != Some(0));
    machine.coracle(&["start"]).ok();
    assert_eq!(machine.status()["pid"], status["pid"], "the same QEMU");
    assert_eq!((state("site"), state("clock")), ("running".into(), "running".into()));
    eventually("the page after the daemon's death", page);

    // The engine: its supervisor starts it again, containers go on.
    let pid = machine.docker(&["inspect", "-f", "{{.State.Pid}}", "clock"]).ok();
    let kill = |what: &str| {
        machine.docker(&[
            "run",
            "--rm",
            "--privileged",
            "--pid",
            "host",
            "busybox",
            "sh",
            "-c",
            &format!("kill -9 {what}"),
        ])
    };
    kill("$(pidof coracle-engine)");
    eventually("the engine answers again", || machine.docker(&["version"]).code == Some(0));
    assert_eq!(machine.docker(&["inspect", "-f", "{{.State.Pid}}", "clock"]).ok(), pid, "the same process");
    eventually("the page after the engine's death", page);
    assert!(machine.docker(&["logs", "--tail", "1", "clock"]).ok().contains("tick"));

    // A shim: its container is ended and reported.
    kill(&format!("$(awk '{{print $4}}' /proc/{pid}/stat)")).ok();
    eventually("the orphan is reported", || state("clock") == "exited");

    // QEMU: a power cut. What was acknowledged is there again, nothing is listed in a state it is not in.
    signal(machine.status()["pid"].as_u64().unwrap() as u32, "KILL");
    eventually("the loss is noticed", || machine.status()["state"] != "running");
    machine.coracle(&["start", "--timeout", "240"]).ok();
    assert_eq!((state("site"), state("clock")), ("exited".into(), "exited".into()));
    machine.docker(&["start", "site"]).ok();
    eventually("the page after the power cut", page);
    assert_eq!(machine.docker(&["run", "--rm", "busybox", "echo", "whole"]).ok(), "whole");
}
