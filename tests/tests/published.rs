//! Published ports on bare Linux: who reaches them, who is seen, what outlives the engine.

use std::process::Stdio;

use tests::{Engine, Neighbour, Outcome, eventually, images};

const PAGE: &str = "<h1>it works</h1>";

/// A web server that tells who asked: busybox's httpd says it on standard error.
fn watched_web(engine: &Engine, name: &str, more: &[&str]) {
    let run = ["run", "-d", "--name", name];
    engine.docker(&[&run, more, &["web", "httpd", "-f", "-v", "-p", "80", "-h", "/www"]].concat()).ok();
}

fn nft(engine: &Engine, args: &[&str]) -> Outcome {
    engine.sandbox.command(tests::tool("CORACLE_TEST_NFT")).args(args).output().expect("nft").into()
}

#[test]
fn a_container_sees_who_its_clients_are() {
    let engine = Engine::start();
    engine.load(images::web);
    let neighbour = Neighbour::of(&engine.sandbox);
    watched_web(&engine, "web", &["-p", "8080:80"]);
    assert_eq!(neighbour.curl("http://10.98.0.1:8080/").ok(), PAGE);
    let clients = || engine.docker(&["logs", "web"]).err;
    eventually("the client is told of", || clients().contains("10.98.0.2"));
    // From this host itself by each of its addresses, IPv6 to a container that has none too.
    for host in ["127.0.0.1", "10.98.0.1", "172.17.0.1", "[::1]", "[fd98::1]", "127.0.0.7"] {
        assert_eq!(engine.curl(&[&format!("http://{host}:8080/")]).ok(), PAGE, "{host}");
    }
    assert_eq!(neighbour.curl("http://[fd98::1]:8080/").ok(), PAGE);
    // From the container itself, and from one beside it, by the host's address.
    for from in ["web", "box"] {
        if from == "box" {
            engine.docker(&["run", "-d", "--name", "box", "web", "sleep", "1000"]).ok();
        }
        let get = ["exec", from, "wget", "-T", "5", "-qO-", "http://10.98.0.1:8080/"];
        assert_eq!(engine.docker(&get).ok(), PAGE, "{from}");
    }
}

#[test]
fn a_port_of_one_address_is_open_there_alone() {
    let engine = Engine::start();
    engine.load(images::web);
    let neighbour = Neighbour::of(&engine.sandbox);
    for (name, publish) in [("local", "127.0.0.1:8081:80"), ("lan", "10.98.0.1:8082:80")] {
        engine.docker(&["run", "-d", "--name", name, "-p", publish, "web"]).ok();
    }
    assert_eq!(engine.curl(&["http://127.0.0.1:8081/"]).ok(), PAGE);
    assert_ne!(neighbour.curl("http://10.98.0.1:8081/").code, Some(0));
    assert_eq!(neighbour.curl("http://10.98.0.1:8082/").ok(), PAGE);
    assert_ne!(engine.curl(&["http://127.0.0.1:8082/"]).code, Some(0));

    // A neighbour that routes loopback addresses, or the containers' own, this way gets nowhere.
    let address = engine.docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "local"]).ok();
    for (device, to) in [("lo", "127.0.0.1/32"), ("wire", "172.17.0.0/16")] {
        if device == "lo" {
            neighbour.command("ip").args(["addr", "del", "127.0.0.1/8", "dev", "lo"]).status().unwrap();
        }
        let done =
            neighbour.command("ip").args(["route", "add", to, "via", "10.98.0.1", "dev", "wire"]).status();
        assert!(done.unwrap().success(), "{to}");
    }
    neighbour
        .command("sh")
        .args(["-c", "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet"])
        .status()
        .unwrap();
    assert_ne!(neighbour.curl("http://127.0.0.1:8081/").code, Some(0));
    assert_ne!(
        neighbour.curl(&format!("http://{address}/")).code,
        Some(0),
        "only what is published comes in"
    );
}

#[test]
fn published_ports_outlive_the_engine() {
    let mut engine = Engine::start();
    engine.load(images::web);
    let neighbour = Neighbour::of(&engine.sandbox);
    engine.docker(&["run", "-d", "--name", "web", "-p", "8080:80", "web"]).ok();
    engine.docker(&["run", "-d", "--rm", "--name", "gone", "-p", "8090:80", "web"]).ok();
    let gone = engine.docker(&["inspect", "-f", "{{.State.Pid}}", "gone"]).ok();
    engine.crash();
    assert_eq!(neighbour.curl("http://10.98.0.1:8080/").ok(), PAGE, "no engine runs");
    assert_eq!(engine.curl(&["http://127.0.0.1:8080/"]).ok(), PAGE);
    tests::engine::signal(gone.parse().unwrap(), "KILL");
    engine.launch();
    assert_eq!(neighbour.curl("http://10.98.0.1:8080/").ok(), PAGE);
    eventually("the rules of a container that ended meanwhile are gone", || {
        !nft(&engine, &["list", "map", "inet", "coracle", "any4"]).out.contains("8090")
    });
    assert!(nft(&engine, &["list", "map", "inet", "coracle", "any4"]).ok().contains("8080"));
    engine.docker(&["rm", "-f", "web"]).ok();
    assert!(!nft(&engine, &["list", "map", "inet", "coracle", "any4"]).ok().contains("8080"));
    assert_ne!(neighbour.curl("http://10.98.0.1:8080/").code, Some(0));
}

#[test]
fn rules_come_back_when_somebody_else_removes_them() {
    let engine = Engine::start();
    engine.load(images::web);
    let neighbour = Neighbour::of(&engine.sandbox);
    watched_web(&engine, "web", &["-p", "8080:80"]);
    nft(&engine, &["flush", "ruleset"]).ok();
    eventually("the table is there again", || {
        nft(&engine, &["list", "map", "inet", "coracle", "any4"]).out.contains("8080")
    });
    assert_eq!(neighbour.curl("http://10.98.0.1:8080/").ok(), PAGE);
    let clients = || engine.docker(&["logs", "web"]).err;
    eventually("the client is told of", || clients().contains("10.98.0.2"));
    // The way out, too: what leaves gets the host's address.
    let ruleset = nft(&engine, &["list", "table", "inet", "coracle"]).ok();
    assert!(ruleset.contains("masquerade") && ruleset.contains("\"docker0\" : jump to-docker0"), "{ruleset}");
}

#[test]
fn a_persons_own_rules_are_asked_first() {
    let engine = Engine::start();
    engine.load(images::web);
    let neighbour = Neighbour::of(&engine.sandbox);
    engine.docker(&["run", "-d", "--name", "web", "-p", "8080:80", "web"]).ok();
    let rule = ["add", "rule", "inet", "coracle", "user", "ip", "saddr", "10.98.0.2", "drop"];
    nft(&engine, &rule).ok();
    assert_ne!(neighbour.curl("http://10.98.0.1:8080/").code, Some(0));
    // They stay when networks and ports come and go.
    engine.docker(&["network", "create", "other"]).ok();
    engine.docker(&["run", "-d", "--network", "other", "-p", "8090:80", "web"]).ok();
    assert_ne!(neighbour.curl("http://10.98.0.1:8090/").code, Some(0));
    nft(&engine, &["flush", "chain", "inet", "coracle", "user"]).ok();
    assert_eq!(neighbour.curl("http://10.98.0.1:8080/").ok(), PAGE);
}

#[test]
fn of_a_range_the_first_free_port_is_taken() {
    let engine = Engine::start();
    engine.load(images::web);
    for (name, port) in [("one", "8000"), ("two", "8001")] {
        engine.docker(&["run", "-d", "--name", name, "-p", "8000-8001:80", "web"]).ok();
        let said = engine.docker(&["port", name]).ok();
        assert_eq!(said, format!("80/tcp -> 0.0.0.0:{port}\n80/tcp -> [::]:{port}"));
        assert_eq!(engine.curl(&[&format!("http://127.0.0.1:{port}/")]).ok(), PAGE);
    }
    engine.docker(&["run", "-d", "-p", "8000-8001:80", "web"]).fails(125, "all ports are allocated");
    // As many as ports of the container: one each.
    engine.docker(&["run", "-d", "--name", "each", "-p", "8010-8011:80-81", "web"]).ok();
    let said = engine.docker(&["port", "each"]).ok();
    assert!(said.contains("80/tcp -> 0.0.0.0:8010") && said.contains("81/tcp -> 0.0.0.0:8011"), "{said}");
}

#[test]
fn what_another_program_listens_on_is_not_taken_away() {
    let engine = Engine::start();
    engine.load(images::web);
    let mut other = engine
        .sandbox
        .command(tests::tool("CORACLE_TEST_BUSYBOX"))
        .args(["nc", "-l", "-p", "8080"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let listening = || {
        let table = engine.sandbox.command("cat").args(["/proc/net/tcp", "/proc/net/tcp6"]).output().unwrap();
        String::from_utf8_lossy(&table.stdout).contains(":1F90 ")
    };
    // /proc shows the namespace of the one who reads.
    eventually("it listens", listening);
    let refused = engine.docker(&["run", "--name", "web", "-p", "8080:80", "web"]);
    refused.fails(125, "failed: port is already allocated");
    other.kill().unwrap();
    other.wait().unwrap();
    engine.docker(&["rm", "web"]).ok();
    engine.docker(&["run", "-d", "--name", "web", "-p", "8080:80", "web"]).ok();
    // Nor can another program take the container's.
    let mut nc = engine.sandbox.command(tests::tool("CORACLE_TEST_BUSYBOX"));
    let taken: Outcome = nc.args(["nc", "-l", "-p", "8080"]).stdin(Stdio::null()).output().unwrap().into();
    assert!(taken.err.contains("in use"), "{taken:?}");
}

#[test]
fn clients_of_udp_find_the_container_that_is_there_now() {
    let engine = Engine::start();
    engine.load(images::web);
    let neighbour = Neighbour::of(&engine.sandbox);
    // busybox has nothing that answers UDP: a program in the container's network namespace does.
    let serve = |name: &str| {
        engine.docker(&["run", "-d", "--name", name, "-p", "5353:53/udp", "web"]).ok();
        let pid = engine.docker(&["inspect", "-f", "{{.State.Pid}}", name]).ok();
        let mut server = std::process::Command::new("nsenter");
        server.args(["--target", &pid, "--net", "--"]).arg(tests::tool("CORACLE_TEST_PYTHON"));
        server.args(["-c", UDP_SERVER, name]).stdin(Stdio::null());
        server.spawn().unwrap()
    };
    // One client's flow, its port always the same.
    let ask = || -> String {
        let mut client = neighbour.command(tests::tool("CORACLE_TEST_PYTHON"));
        let said: Outcome = client.args(["-c", UDP_CLIENT]).output().unwrap().into();
        said.out.trim().to_owned()
    };
    let mut server = serve("first");
    eventually("the first answers", || ask() == "first 10.98.0.2");
    server.kill().unwrap();
    server.wait().unwrap();
    engine.docker(&["rm", "-f", "first"]).ok();
    assert_eq!(ask(), "", "nobody is there");
    let mut server = serve("second");
    eventually("the second answers the same client", || ask() == "second 10.98.0.2");
    server.kill().unwrap();
    server.wait().unwrap();
}

/// Answers every datagram with its own name and who asked.
const UDP_SERVER: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 53))
while True:
    _, who = s.recvfrom(512)
    s.sendto(f"{sys.argv[1]} {who[0]}".encode(), who)
"#;

/// Asks from the port it always has, and prints the answer if there is one.
const UDP_CLIENT: &str = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 40000))
s.settimeout(0.5)
s.sendto(b"?", ("10.98.0.1", 5353))
try:
    print(s.recv(512).decode())
except OSError:
    pass
"#;

#[test]
fn neighbours_that_may_not_speak_to_each_other_reach_the_host_alone() {
    let engine = Engine::with_busybox();
    engine.load(images::web);
    let option = "com.docker.network.bridge.enable_icc=false";
    engine.docker(&["network", "create", "-o", option, "apart"]).ok();
    engine.docker(&["run", "-d", "--network", "apart", "--name", "web", "-p", "8080:80", "web"]).ok();
    engine.docker(&["run", "-d", "--network", "apart", "--name", "box", "busybox", "sleep", "1000"]).ok();
    let get = |url: &str| engine.docker(&["exec", "box", "wget", "-T", "2", "-qO-", url]);
    assert_ne!(get("http://web/").code, Some(0));
    assert_eq!(engine.curl(&["http://127.0.0.1:8080/"]).ok(), PAGE, "the host reaches them");
    let gateway = engine.docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "apart"]);
    assert_eq!(get(&format!("http://{}:8080/", gateway.ok())).ok(), PAGE, "and they what is published");
}

#[test]
fn internal_networks_neither_reach_out_nor_are_reached() {
    let engine = Engine::with_busybox();
    engine.load(images::web);
    let neighbour = Neighbour::of(&engine.sandbox);
    engine.docker(&["network", "create", "--internal", "--subnet", "10.55.0.0/24", "closed"]).ok();
    engine.docker(&["run", "-d", "--network", "closed", "--name", "web", "-p", "8080:80", "web"]).ok();
    engine.docker(&["run", "-d", "--name", "open", "-p", "8090:80", "web"]).ok();
    assert_eq!(engine.docker(&["port", "web"]).ok(), "");
    let get = |url: &str| {
        engine.docker(&["run", "--rm", "--network", "closed", "busybox", "wget", "-T", "2", "-qO-", url])
    };
    assert_eq!(get("http://web/").ok(), PAGE);
    assert_ne!(get("http://10.98.0.2/").code, Some(0));
    assert_ne!(get("http://10.98.0.1:8090/").code, Some(0), "not by another network's published port either");
    assert_ne!(neighbour.curl("http://10.98.0.1:8080/").code, Some(0));
    let isolated = ["-o", "com.docker.network.bridge.gateway_mode_ipv4=isolated"];
    engine.docker(&[&["network", "create", "--internal"], &isolated[..], &["alone"]].concat()).ok();
    let gateway =
        engine.docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "alone"]).ok();
    let ping = ["run", "--rm", "--network", "alone", "busybox", "ping", "-c", "1", "-W", "1", &gateway];
    assert_ne!(engine.docker(&ping).code, Some(0), "not even this host");
    let refused = engine.docker(&[&["network", "create"], &isolated[..], &["bad"]].concat());
    refused.fails(1, "internal");
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    let engine = Engine::start();
    engine.load(images::web);
    engine.docker(&["run", "-d", "--name", "web", "-p", "8080:80", "web"]).ok();
    let files = || std::fs::read_dir(format!("/proc/{}/fd", engine.pid())).unwrap().count();
    let before = files();
    // By IPv6 they go through the engine's own socket; by IPv4 the kernel leads them.
    for family in ["-6", "-4"] {
        let codes = ["-o", "/dev/null", "-w", "%{http_code}\n", "http://localhost:8080/?[1-500]"];
        let codes = engine.curl(&[&[family, "--max-time", "60"], &codes[..]].concat()).ok();
        assert_eq!(codes.lines().filter(|l| *l == "200").count(), 500, "{family}");
    }
    eventually("connections are closed", || files() <= before + 2);
}
