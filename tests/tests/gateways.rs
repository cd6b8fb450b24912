//! How networks and the world meet: gateway modes of bridges, and links over VLANs of the host's.

use tests::{Engine, Neighbour, images};

const PAGE: &str = "<h1>it works</h1>";

/// A web server in a network, and its address there.
fn web(engine: &Engine, name: &str, network: &str, more: &[&str]) -> String {
    engine.docker(&[&["run", "-d", "--name", name, "--network", network], more, &["web"]].concat()).ok();
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    engine.docker(&["inspect", "-f", &format, name]).ok()
}

fn network(engine: &Engine, name: &str, subnet: &str, mode: &str) {
    let mode = format!("com.docker.network.bridge.gateway_mode_ipv4={mode}");
    engine.docker(&["network", "create", "--subnet", subnet, "-o", &mode, name]).ok();
}

#[test]
fn a_routed_network_is_reached_by_its_own_addresses_at_published_ports_alone() {
    let mut engine = Engine::with_busybox();
    engine.load(images::web);
    let neighbour = Neighbour::of(&engine.sandbox);
    let route = |subnet: &str| {
        let done = neighbour.command("ip").args(["route", "add", subnet, "via", "10.98.0.1"]).status();
        assert!(done.unwrap().success(), "{subnet}");
    };
    for (name, subnet) in
        [("nat", "10.71.0.0/24"), ("nat-unprotected", "10.72.0.0/24"), ("routed", "10.73.0.0/24")]
    {
        network(&engine, name, subnet, name);
        route(subnet);
    }
    // What is dropped is waited for.
    let get = |neighbour: &Neighbour, address: &str| -> tests::Outcome {
        let url = format!("http://{address}/");
        neighbour.command("curl").args(["-s", "--max-time", "3", &url]).output().unwrap().into()
    };
    let nat = web(&engine, "natted", "nat", &["-p", "8081:80"]);
    assert_ne!(get(&neighbour, &nat).code, Some(0));
    let open = web(&engine, "open", "nat-unprotected", &[]);
    assert_eq!(get(&neighbour, &open).ok(), PAGE);
    // Published: at its own port, with no port of the host; what is not, is not.
    let routed = web(&engine, "routed", "routed", &["-p", "127.0.0.1:8083:80"]);
    let hidden = web(&engine, "hidden", "routed", &[]);
    assert_eq!(get(&neighbour, &routed).ok(), PAGE);
    assert_ne!(get(&neighbour, &hidden).code, Some(0));
    assert_ne!(engine.curl(&["http://127.0.0.1:8083/"]).code, Some(0));
    let mut ping = neighbour.command(tests::tool("CORACLE_TEST_BUSYBOX"));
    let pinged = ping.args(["ping", "-c", "1", "-W", "5", &hidden]).status().unwrap();
    assert!(pinged.success(), "who routes to it may ask whether it is there");
    let shown = |name: &str| engine.docker(&["inspect", "-f", "{{json .NetworkSettings.Ports}}", name]).ok();
    assert_eq!(shown("routed"), r#"{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":""}]}"#);
    let listed = engine.docker(&["ps", "--filter", "name=^routed$", "--format", "{{.Ports}}"]).ok();
    assert_eq!(listed, "0.0.0.0:0->80/tcp");
    // Containers of other networks come in like anybody.
    let from = |network: &str, url: &str| {
        engine.docker(&["run", "--rm", "--network", network, "busybox", "wget", "-T", "2", "-qO-", url])
    };
    assert_eq!(from("nat", &format!("http://{routed}/")).ok(), PAGE);
    assert_ne!(from("nat", &format!("http://{hidden}/")).code, Some(0));

    // What leaves has the container's own address.
    let mut world = neighbour.command(tests::tool("CORACLE_TEST_PYTHON"));
    let mut world = world.args(["-c", WHO]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufReader::new(world.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    let who = |container: &str| {
        engine.docker(&["exec", container, "wget", "-T", "5", "-qO-", "http://10.98.0.2:8000/"]).ok()
    };
    assert_eq!((who("routed"), who("natted")), (routed.clone(), "10.98.0.1".to_owned()));
    world.kill().unwrap();
    world.wait().unwrap();

    // The rules outlive the engine, come back when somebody removes them, and go with the container.
    engine.crash();
    assert_eq!(get(&neighbour, &routed).ok(), PAGE);
    engine.launch();
    let nft = tests::tool("CORACLE_TEST_NFT");
    let list = |engine: &Engine, args: &[&str]| -> tests::Outcome {
        engine.sandbox.command(&nft).args(args).output().unwrap().into()
    };
    list(&engine, &["flush", "ruleset"]).ok();
    // While there are no rules all is open: they are there again when what is not published is closed.
    tests::eventually("the rules are back", || get(&neighbour, &hidden).code != Some(0));
    assert_eq!(get(&neighbour, &routed).ok(), PAGE);
    engine.docker(&["rm", "-f", "routed"]).ok();
    let left = list(&engine, &["list", "set", "inet", "coracle", "routed4"]).ok();
    assert!(!left.contains(&routed), "{left}");
}

/// Says to everybody the address it sees.
const WHO: &str = r#"
import http.server
class Who(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())
    def log_message(self, *args): pass
server = http.server.HTTPServer(("10.98.0.2", 8000), Who)
print("up", flush=True)
server.serve_forever()
"#;

#[test]
fn links_over_a_vlan_of_the_hosts_are_made_and_removed_with_their_network() {
    let mut engine = Engine::with_busybox();
    let neighbour = Neighbour::of(&engine.sandbox);
    let ip = |args: &str| neighbour.command("ip").args(args.split(' ')).status().unwrap().success();
    if !ip("link add link wire name wire.10 type vlan id 10") {
        println!("skipped: this kernel has no VLANs");
        return;
    }
    assert!(ip("addr add 10.97.0.2/24 dev wire.10") && ip("link set wire.10 up"));
    let has = |engine: &Engine, link: &str| {
        engine.sandbox.command("ip").args(["link", "show", link]).output().unwrap().status.success()
    };
    let create = |engine: &Engine, driver: &str, options: &[&str], name: &str| {
        let subnet =
            ["network", "create", "-d", driver, "--subnet", "10.97.0.0/24", "--gateway", "10.97.0.2"];
        let options = options.iter().flat_map(|o| ["-o", o]);
        engine.docker(&[&subnet[..], &options.collect::<Vec<_>>(), &[name]].concat())
    };
    let ping = |engine: &Engine, ip: &str| {
        let run = ["run", "--rm", "--network", "tagged", "--ip", ip, "busybox"];
        engine.docker(&[&run[..], &["ping", "-c", "1", "-W", "5", "10.97.0.2"]].concat()).ok();
    };
    create(&engine, "macvlan", &["parent=wire.10"], "tagged").ok();
    assert!(has(&engine, "wire.10"));
    ping(&engine, "10.97.0.7");
    // As after a boot: the link is gone, the network is not.
    engine.stop();
    engine.sandbox.command("ip").args(["link", "del", "wire.10"]).status().unwrap();
    engine.launch();
    ping(&engine, "10.97.0.8");
    engine.docker(&["network", "rm", "tagged"]).ok();
    assert!(!has(&engine, "wire.10"), "what the engine made goes with the network");

    create(&engine, "ipvlan", &["parent=wire.10", "ipvlan_mode=l2"], "tagged").ok();
    ping(&engine, "10.97.0.9");
    engine.docker(&["network", "rm", "tagged"]).ok();
    assert!(!has(&engine, "wire.10"));

    // One that was there before stays.
    let add = "link add link wire name wire.10 type vlan id 10";
    assert!(engine.sandbox.command("ip").args(add.split(' ')).status().unwrap().success());
    create(&engine, "macvlan", &["parent=wire.10"], "tagged").ok();
    engine.docker(&["network", "rm", "tagged"]).ok();
    assert!(has(&engine, "wire.10"));
}

#[test]
fn ipvlans_that_route_are_reached_through_the_host() {
    let engine = Engine::start();
    engine.load(images::web);
    let neighbour = Neighbour::of(&engine.sandbox);
    let try_one = ["link", "add", "link", "wire", "name", "try", "type", "ipvlan", "mode", "l3"];
    if !neighbour.command("ip").args(try_one).status().unwrap().success() {
        println!("skipped: this kernel has no ipvlan");
        return;
    }
    neighbour.command("ip").args(["link", "del", "try"]).status().unwrap();
    for (mode, subnet) in [("l3", "10.95.0.0/24"), ("l3s", "10.96.0.0/24")] {
        let option = format!("ipvlan_mode={mode}");
        let create =
            ["network", "create", "-d", "ipvlan", "--subnet", subnet, "-o", "parent=wire", "-o", &option];
        engine.docker(&[&create[..], &["routed"]].concat()).ok();
        let address = web(&engine, "web", "routed", &[]);
        let route = engine.docker(&["exec", "web", "ip", "route", "show", "default"]).ok();
        assert!(route.starts_with("default dev eth0"), "{mode}: {route}");
        let via = ["route", "add", subnet, "via", "10.98.0.1"];
        assert!(neighbour.command("ip").args(via).status().unwrap().success());
        assert_eq!(neighbour.curl(&format!("http://{address}/")).ok(), PAGE, "{mode}");
        engine.docker(&["rm", "-f", "web"]).ok();
        engine.docker(&["network", "rm", "routed"]).ok();
    }
}
