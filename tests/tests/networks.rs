//! Networks, published ports, volumes and binds on bare Linux.

use tests::{Engine, images};

#[test]
fn a_published_port_is_open_on_the_host() {
    let engine = Engine::start();
    engine.load(images::web);
    engine.docker(&["run", "-d", "--name", "web", "-p", "8080:80", "web"]).ok();
    assert_eq!(engine.curl(&["http://127.0.0.1:8080/"]).ok(), "<h1>it works</h1>");
    assert_eq!(engine.curl(&["http://[::1]:8080/"]).ok(), "<h1>it works</h1>");
    assert_eq!(engine.docker(&["port", "web"]).ok(), "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080");
    let second = engine.docker(&["run", "--name", "second", "-p", "8080:80", "web"]);
    second.fails(125, "Bind for 0.0.0.0:8080 failed: port is already allocated");
    engine.docker(&["rm", "second"]).ok();
    engine.docker(&["rm", "-f", "web"]).ok();
    assert_ne!(
        engine.curl(&["http://127.0.0.1:8080/"]).code,
        Some(0),
        "the port is closed with the container"
    );
    engine.docker(&["run", "-d", "--name", "random", "-P", "web"]).ok();
    let port = engine.docker(&["port", "random", "80"]).ok();
    let port = port.lines().next().unwrap().rsplit(':').next().unwrap().to_owned();
    assert_eq!(engine.curl(&[&format!("http://127.0.0.1:{port}/")]).ok(), "<h1>it works</h1>");
}

#[test]
fn containers_of_a_network_find_each_other_by_name() {
    let engine = Engine::with_busybox();
    engine.load(images::web);
    engine.docker(&["network", "create", "net"]).ok();
    engine.docker(&["run", "-d", "--network", "net", "--name", "web", "--network-alias", "site", "web"]).ok();
    for name in ["web", "site", "web.net"] {
        let got = engine.docker(&[
            "run",
            "--rm",
            "--network",
            "net",
            "busybox",
            "wget",
            "-qO-",
            &format!("http://{name}/"),
        ]);
        assert_eq!(got.ok(), "<h1>it works</h1>", "{name}");
    }
    let other = engine.docker(&["run", "--rm", "busybox", "wget", "-T", "2", "-qO-", "http://web/"]);
    assert_ne!(other.code, Some(0), "names are known only inside the network");
    engine.docker(&["network", "rm", "net"]).fails(1, "has active endpoints");
    engine.docker(&["rm", "-f", "web"]).ok();
    engine.docker(&["network", "rm", "net"]).ok();
    engine.docker(&["network", "inspect", "net"]).fails(1, "network net not found");
    engine.docker(&["run", "--rm", "--network", "nope", "busybox"]).fails(125, "network nope not found");
}

/// The kernel gives a bridge the lowest address of its ports unless it has one of its own: with every container that comes
/// or goes the others' would send to an address that is nobody's any more, for some seconds.
#[test]
fn the_gateway_of_a_network_keeps_its_hardware_address() {
    let engine = Engine::with_busybox();
    let id = engine.docker(&["network", "create", "net"]).ok();
    let sleeper = ["run", "-d", "--network", "net", "--name", "stays", "busybox", "sleep", "1000"];
    engine.docker(&sleeper).ok();
    let bridge = format!("br-{}", &id[..12]);
    let address = || {
        let link = engine.sandbox.command("ip").args(["-o", "link", "show", &bridge]).output().unwrap();
        let link = String::from_utf8(link.stdout).unwrap();
        link.split("link/ether ").nth(1).expect("a bridge").split(' ').next().unwrap().to_owned()
    };
    let at_first = address();
    for _ in 0..8 {
        engine.docker(&["run", "--rm", "--network", "net", "busybox", "true"]).ok();
        let other = ["run", "-d", "--network", "net", "busybox", "sleep", "1000"];
        engine.docker(&other).ok();
        assert_eq!(address(), at_first);
    }
}

#[test]
fn the_world_is_reached_through_the_bridge_and_networks_are_apart() {
    let engine = Engine::with_busybox();
    engine.load(images::web);
    // "The world": a server on an address of the host that is on no container network.
    engine.sandbox.command("ip").args(["addr", "add", "10.99.0.1/32", "dev", "lo"]).status().unwrap();
    engine.docker(&["run", "-d", "--network", "host", "--name", "world", "web"]).ok();
    let get = |network: &str, url: &str| {
        engine.docker(&["run", "--rm", "--network", network, "busybox", "wget", "-T", "2", "-qO-", url])
    };
    assert_eq!(get("bridge", "http://10.99.0.1/").ok(), "<h1>it works</h1>");
    engine.docker(&["network", "create", "--internal", "closed"]).ok();
    assert_ne!(get("none", "http://10.99.0.1/").code, Some(0));
    engine.docker(&["network", "create", "--subnet", "10.77.0.0/24", "a"]).ok();
    engine.docker(&["run", "-d", "--network", "a", "--ip", "10.77.0.9", "--name", "fixed", "web"]).ok();
    assert_eq!(get("a", "http://10.77.0.9/").ok(), "<h1>it works</h1>");
    assert_ne!(get("bridge", "http://10.77.0.9/").code, Some(0), "one network does not reach another");
    engine
        .docker(&["network", "create", "--subnet", "10.77.0.0/25", "b"])
        .fails(1, "Pool overlaps with other one on this address space");
    assert_eq!(
        engine.docker(&["run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net"]).ok(),
        "lo"
    );
}

#[test]
fn networks_of_a_swarm_are_refused_in_dockers_words() {
    let engine = Engine::start();
    let create = |body: &str| engine.request("POST", "/networks/create", Some(body));
    for (body, status, words) in [
        (r#"{"Name":"x","Driver":"overlay"}"#, 403, "This node is not a swarm manager. Use "),
        (r#"{"Name":"x","Driver":"overlay","Ingress":true}"#, 403, "This node is not a swarm manager. Use "),
        (r#"{"Name":"x","Ingress":true}"#, 403, "Ingress network can only be global scope network"),
        (
            r#"{"Name":"x","Scope":"swarm"}"#,
            403,
            "cannot create a swarm scoped network when swarm is not active",
        ),
        (
            r#"{"Name":"x","ConfigFrom":{"Network":"y"}}"#,
            404,
            r#"configuration network \"y\" does not exist"#,
        ),
    ] {
        let answer = create(body);
        assert!(answer.0 == status && answer.1.contains(words), "{body}: {answer:?}");
    }
    engine.docker(&["network", "create", "-d", "overlay", "x"]).fails(1, "not a swarm manager");
    assert_eq!(engine.docker(&["network", "ls", "-q", "--filter", "type=custom"]).ok(), "");
}

#[test]
fn subnets_are_chosen_beside_those_that_the_host_routes() {
    let engine = Engine::start();
    let subnet = |name: &str| {
        engine.docker(&["network", "create", name]).ok();
        engine.docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", name]).ok()
    };
    assert_eq!(subnet("first"), "172.18.0.0/16");
    for route in ["172.19.0.0/16", "172.20.3.0/24"] {
        let done = engine.sandbox.command("ip").args(["route", "add", route, "dev", "lo"]).status();
        assert!(done.unwrap().success(), "{route}");
    }
    assert_eq!(subnet("second"), "172.21.0.0/16");
    // What a person asks for is their own affair.
    let mine = ["network", "create", "--subnet", "172.19.0.0/16", "mine"];
    engine.docker(&mine).ok();
}

#[test]
fn volumes_keep_files_and_binds_show_the_hosts() {
    let engine = Engine::with_busybox();
    engine.docker(&["run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo kept >/data/file"]).ok();
    assert_eq!(
        engine.docker(&["run", "--rm", "-v", "data:/data:ro", "busybox", "cat", "/data/file"]).ok(),
        "kept"
    );
    assert_eq!(
        engine.docker(&["run", "--rm", "-v", "data:/data:ro", "busybox", "touch", "/data/x"]).code,
        Some(1)
    );
    // A new volume gets what the image has at its place, owners and all.
    assert_eq!(
        engine
            .docker(&["run", "--rm", "-v", "copy:/etc", "busybox", "sh", "-c", "grep -c root /etc/passwd"])
            .ok(),
        "1"
    );
    engine.docker(&["run", "--name", "user", "-v", "data:/d", "busybox", "true"]).ok();
    engine.docker(&["volume", "rm", "data"]).fails(1, "volume is in use - [");
    engine.docker(&["rm", "user"]).ok();
    engine.docker(&["volume", "rm", "data", "copy"]).ok();

    let source = engine.path("src");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "from the host").unwrap();
    let bind = format!("{}:/src", source.display());
    assert_eq!(
        engine
            .docker(&[
                "run",
                "--rm",
                "-v",
                &bind,
                "busybox",
                "sh",
                "-c",
                "cat /src/file; echo back >/src/new"
            ])
            .ok(),
        "from the host"
    );
    assert_eq!(std::fs::read_to_string(source.join("new")).unwrap(), "back\n");
    let missing = format!("type=bind,source={},target=/x", engine.path("nope").display());
    engine
        .docker(&["run", "--rm", "--mount", &missing, "busybox"])
        .fails(125, "bind source path does not exist");

    engine.docker(&["run", "--name", "anon", "-v", "/anon", "busybox", "true"]).ok();
    assert_eq!(engine.docker(&["volume", "ls", "-q"]).ok().lines().count(), 1);
    engine.docker(&["rm", "-v", "anon"]).ok();
    assert_eq!(engine.docker(&["volume", "ls", "-q"]).ok(), "");
}
