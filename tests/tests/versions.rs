//! Networks of IPv6, alone with IPv4 beside it, and links over the host's own (macvlan, ipvlan).

use tests::{Engine, Neighbour, images};

const PAGE: &str = "<h1>it works</h1>";

#[test]
fn a_network_of_both_versions() {
    let engine = Engine::with_busybox();
    engine.load(images::web);
    let neighbour = Neighbour::of(&engine.sandbox);
    engine.docker(&["network", "create", "--ipv6", "both"]).ok();
    let subnet =
        engine.docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 1).Subnet}}", "both"]).ok();
    assert!(subnet.starts_with("fd") && subnet.ends_with("/64"), "{subnet}");
    engine.docker(&["run", "-d", "--network", "both", "--name", "web", "-p", "8080:80", "web"]).ok();
    let run =
        |script: &str| engine.docker(&["run", "--rm", "--network", "both", "busybox", "sh", "-c", script]);
    // By name, in each version.
    let names = run("nslookup -type=a web; nslookup -type=aaaa web").ok();
    let shown = "{{with .NetworkSettings.Networks.both}}{{.IPAddress}} {{.GlobalIPv6Address}} {{.IPv6Gateway}}{{end}}";
    let shown = engine.docker(&["inspect", "-f", shown, "web"]).ok();
    let [v4, v6, gateway] = shown.split(' ').collect::<Vec<_>>()[..] else { panic!("{shown}") };
    assert!(
        names.contains(&format!("Address: {v4}")) && names.contains(&format!("Address: {v6}")),
        "{names}"
    );
    assert!(run(&format!("wget -T 2 -qO- 'http://[{v6}]/'")).ok().contains(PAGE));
    assert!(run(&format!("nslookup {v6}")).ok().contains("web.both"));
    let hosts = engine.docker(&["exec", "web", "cat", "/etc/hosts"]).ok();
    assert!(hosts.contains(&format!("{v6}\t")), "{hosts}");
    assert!(run("ip -6 route show default").ok().contains(gateway));

    // The way out: the world sees the host.
    let mut world = neighbour.command(tests::tool("CORACLE_TEST_BUSYBOX"));
    let mut world = world.args(["httpd", "-f", "-p", "[fd98::2]:80", "-h", "/etc"]).spawn().unwrap();
    tests::eventually("the world answers", || {
        run("wget -T 2 -qO- 'http://[fd98::2]/hostname'").code == Some(0)
    });
    world.kill().unwrap();
    world.wait().unwrap();
    // And the way in.
    assert_eq!(neighbour.curl("http://[fd98::1]:8080/").ok(), PAGE);
    assert_eq!(neighbour.curl("http://10.98.0.1:8080/").ok(), PAGE);
    assert_eq!(engine.curl(&["http://[::1]:8080/"]).ok(), PAGE);
    neighbour.command("ip").args(["route", "add", &subnet, "via", "fd98::1"]).status().unwrap();
    assert_ne!(neighbour.curl(&format!("http://[{v6}]/")).code, Some(0), "only what is published comes in");
}

#[test]
fn a_network_of_version_6_alone() {
    let engine = Engine::with_busybox();
    engine.load(images::web);
    let neighbour = Neighbour::of(&engine.sandbox);
    engine.docker(&["network", "create", "--ipv4=false", "--ipv6", "six"]).ok();
    let shown = "{{.EnableIPv4}} {{.EnableIPv6}} {{len .IPAM.Config}}";
    assert_eq!(engine.docker(&["network", "inspect", "-f", shown, "six"]).ok(), "false true 1");
    let web = ["run", "-d", "--network", "six", "--name", "web", "-p", "8080:80", "web"];
    engine.docker(&web).ok();
    let shown =
        "{{with .NetworkSettings.Networks.six}}{{.IPAddress}}|{{.Gateway}}|{{.GlobalIPv6Address}}{{end}}";
    let shown = engine.docker(&["inspect", "-f", shown, "web"]).ok();
    let v6 = shown.strip_prefix("||").expect("no address of version 4");
    // Its names, its way out and its way in are of version 6.
    let run =
        |script: &str| engine.docker(&["run", "--rm", "--network", "six", "busybox", "sh", "-c", script]);
    assert!(run("wget -T 2 -qO- http://web/").ok().contains(PAGE));
    let inside = run("ip -4 -o addr show dev eth0; ip -6 route show default; tail -n 1 /etc/hosts").ok();
    assert!(inside.starts_with("default via fd") && inside.lines().count() == 2, "{inside}");
    assert!(run("ping -c 1 -W 2 fd98::2").ok().contains("1 packets received"));
    assert_eq!(engine.docker(&["port", "web"]).ok(), "80/tcp -> [::]:8080");
    assert_eq!(neighbour.curl("http://[fd98::1]:8080/").ok(), PAGE);
    assert_eq!(engine.curl(&["http://[::1]:8080/"]).ok(), PAGE);
    assert_ne!(engine.curl(&["http://127.0.0.1:8080/"]).code, Some(0));
    // Beside networks of version 4 it has both ways out; each falls to another network with the one that gave it.
    let routes = || {
        let both = ["exec", "web", "sh", "-c", "ip route show default; ip -6 route show default"];
        engine.docker(&both).ok()
    };
    let other = ["network", "create", "--ipv6", "--subnet", "10.74.0.0/24", "--subnet", "fd74::/64", "tail"];
    engine.docker(&other).ok();
    for (word, network, ways) in [
        ("connect", "bridge", ["default via 172.", "default via fd"]),
        ("connect", "tail", ["default via 172.", "default via fd"]),
        ("disconnect", "bridge", ["default via 10.74.", "default via fd"]),
        ("disconnect", "six", ["default via 10.74.", "default via fd74:"]),
        ("connect", "six", ["default via 10.74.", "default via fd"]),
    ] {
        engine.docker(&["network", word, network, "web"]).ok();
        assert!(ways.iter().all(|way| routes().contains(way)), "{word} {network}: {}", routes());
    }
    engine.docker(&["restart", "-t", "0", "web"]).ok();
    assert!(routes().contains("default via 10.74.") && !routes().contains("via fd74:"), "{}", routes());
    engine.docker(&["network", "disconnect", "tail", "web"]).ok();

    // An engine that comes back knows its addresses.
    let mut engine = engine;
    engine.crash();
    engine.launch();
    let again = engine.docker(&[
        "run",
        "--rm",
        "--network",
        "six",
        "busybox",
        "wget",
        "-T",
        "2",
        "-qO-",
        "http://web/",
    ]);
    assert!(again.ok().contains(PAGE));
    let run = ["run", "--rm", "--network", "six", "busybox", "ip", "-6", "-o", "addr", "show", "dev", "eth0"];
    assert!(!engine.docker(&run).ok().contains(&format!("{v6}/")), "nobody else's address");
    engine.docker(&["rm", "-f", "web"]).ok();
    engine.docker(&["network", "rm", "six"]).ok();
}

#[test]
fn fixed_addresses_of_version_6() {
    let engine = Engine::with_busybox();
    let net = ["network", "create", "--ipv6", "--subnet", "fd55::/64", "--gateway", "fd55::99", "six"];
    engine.docker(&net).ok();
    let address = |more: &[&str]| {
        let run =
            [&["run", "--rm", "--network", "six"], more, &["busybox", "ip", "-6", "-o", "addr"]].concat();
        engine.docker(&run)
    };
    assert!(address(&["--ip6", "fd55::1234"]).ok().contains("fd55::1234/64"));
    assert!(address(&[]).ok().contains("fd55::"));
    address(&["--ip6", "fd66::1"])
        .fails(125, "no configured subnet or ip-range contain the IP address fd66::1");
    address(&["--ip", "10.0.0.1"])
        .fails(125, "only when connecting to networks with user configured subnets");
    let overlap = ["network", "create", "--ipv6", "--subnet", "fd55::/80", "more"];
    engine.docker(&overlap).fails(1, "Pool overlaps with other one on this address space");
    // Without it there is nothing of it.
    let plain = engine.docker(&["run", "--rm", "busybox", "ip", "-6", "-o", "addr", "show", "dev", "eth0"]);
    assert_eq!(plain.ok(), "");
    // An engine that comes back knows whose addresses they are.
    let mut engine = engine;
    let run =
        ["run", "-d", "--name", "kept", "--network", "six", "--ip6", "fd55::7", "busybox", "sleep", "100"];
    engine.docker(&run).ok();
    engine.crash();
    engine.launch();
    let again = ["run", "--rm", "--network", "six", "--ip6", "fd55::7", "busybox", "true"];
    engine.docker(&again).fails(125, "Address already in use");
}

#[test]
fn names_of_this_host() {
    let engine = Engine::with_busybox();
    engine.load(images::web);
    engine.docker(&["network", "create", "--subnet", "10.56.0.0/24", "net"]).ok();
    engine.docker(&["run", "-d", "--network", "host", "web"]).ok();
    for name in ["host.docker.internal", "gateway.docker.internal"] {
        let url = format!("http://{name}/");
        let get = ["run", "--rm", "--network", "net", "busybox", "wget", "-T", "2", "-qO-", &url];
        assert_eq!(engine.docker(&get).ok(), PAGE, "{name}");
    }
    let hosts = |network: &str| {
        let run =
            ["run", "--rm", "--add-host", "me:host-gateway", "--add-host", "x:1.2.3.4", "--network", network];
        engine.docker(&[&run[..], &["busybox", "cat", "/etc/hosts"]].concat()).ok()
    };
    assert!(hosts("net").contains("10.56.0.1\tme\n1.2.3.4\tx\n"), "{}", hosts("net"));
    assert!(hosts("bridge").contains("172.17.0.1\tme\n"), "{}", hosts("bridge"));
}

#[test]
fn containers_beside_the_host_on_its_own_wire() {
    let engine = Engine::with_busybox();
    engine.load(images::web);
    let neighbour = Neighbour::of(&engine.sandbox);
    // A host has an eth0 as containers have.
    let add = ["link", "add", "eth0", "type", "veth", "peer", "name", "end"];
    assert!(engine.sandbox.command("ip").args(add).status().unwrap().success());
    let net = ["network", "create", "-d", "macvlan", "--subnet", "10.98.0.0/24", "--gateway", "10.98.0.2"];
    engine.docker(&[&net[..], &["-o", "parent=wire", "lan"]].concat()).ok();
    let run =
        ["run", "-d", "--name", "web", "--network", "lan", "--ip", "10.98.0.77", "-p", "8080:80", "web"];
    engine.docker(&run).ok();
    assert_eq!(neighbour.curl("http://10.98.0.77/").ok(), PAGE, "it has an address of the wire's network");
    assert_eq!(engine.docker(&["port", "web"]).ok(), "", "nothing is published there");
    let route = engine.docker(&["exec", "web", "ip", "route", "show", "default"]).ok();
    assert!(route.starts_with("default via 10.98.0.2 dev eth0"), "{route}");
    let names = ["run", "--rm", "--network", "lan", "busybox", "wget", "-T", "2", "-qO-", "http://web/"];
    assert_eq!(engine.docker(&names).ok(), PAGE);
    // In and out while it runs.
    engine.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    engine.docker(&["network", "connect", "lan", "box"]).ok();
    assert_eq!(engine.docker(&["exec", "box", "ls", "/sys/class/net"]).ok(), "eth0\neth1\nlo");
    engine.docker(&["network", "disconnect", "lan", "box"]).ok();
    assert_eq!(engine.docker(&["exec", "box", "ls", "/sys/class/net"]).ok(), "eth0\nlo");
    let refused = |driver: &str, option: &str, words: &str| {
        engine.docker(&["network", "create", "-d", driver, "-o", option, "bad"]).fails(1, words);
    };
    refused("macvlan", "parent=wire", "is already using parent interface wire");
    refused("macvlan", "parent=nope", "invalid subinterface vlan name nope, example formatting is eth0.10");
    refused("macvlan", "parent=nope.7", "-o parent interface was not found on the host: nope");
    refused(
        "macvlan",
        "macvlan_mode=bad",
        "requested macvlan mode 'bad' is not valid, 'bridge' mode is the macvlan",
    );
    refused("ipvlan", "ipvlan_mode=bad", "requested ipvlan mode 'bad' is not valid, 'l2' mode is the ipvlan");
    refused("overlay", "x=y", "This node is not a swarm manager.");
    engine.docker(&["rm", "-f", "web", "box"]).ok();
    engine.docker(&["network", "rm", "lan"]).ok();
    // The same of IPv6 alone.
    let net = ["network", "create", "-d", "macvlan", "--ipv4=false", "--ipv6", "--subnet", "fd98::/64"];
    engine.docker(&[&net[..], &["--gateway", "fd98::2", "-o", "parent=wire", "six"]].concat()).ok();
    engine.docker(&["run", "-d", "--name", "web", "--network", "six", "--ip6", "fd98::77", "web"]).ok();
    assert_eq!(neighbour.curl("http://[fd98::77]/").ok(), PAGE);
    let inside = "ip -6 route show default; ip -4 -o addr show dev eth0";
    let inside = engine.docker(&["exec", "web", "sh", "-c", inside]).ok();
    assert!(inside.starts_with("default via fd98::2 dev eth0") && inside.lines().count() == 1, "{inside}");
    let names = ["run", "--rm", "--network", "six", "busybox", "wget", "-T", "2", "-qO-", "http://web/"];
    assert_eq!(engine.docker(&names).ok(), PAGE);
    engine.docker(&["rm", "-f", "web"]).ok();
    engine.docker(&["network", "rm", "six"]).ok();
    let links = engine.sandbox.command("ip").args(["-o", "link"]).output().unwrap();
    assert!(String::from_utf8_lossy(&links.stdout).contains("wire"), "the host's own link stays");
}

#[test]
fn auxiliary_addresses_are_never_given_out() {
    let engine = Engine::with_busybox();
    let net = ["network", "create", "--subnet", "10.57.0.0/29", "--aux-address", "router=10.57.0.2", "net"];
    engine.docker(&net).ok();
    let shown = "{{json (index .IPAM.Config 0).AuxAddress}}";
    assert_eq!(engine.docker(&["network", "inspect", "-f", shown, "net"]).ok(), r#"{"router":"10.57.0.2"}"#);
    let address =
        ["run", "--rm", "--network", "net", "busybox", "ip", "-4", "-o", "addr", "show", "dev", "eth0"];
    assert!(engine.docker(&address).ok().contains("10.57.0.3/29"));
}
