//! Containers that enter and leave networks, share another's, and know others by names of their own.

use tests::{Engine, images};

fn get(engine: &Engine, container: &str, url: &str) -> tests::Outcome {
    engine.docker(&["exec", container, "wget", "-T", "2", "-qO-", url])
}

const PAGE: &str = "<h1>it works</h1>";

#[test]
fn a_running_container_enters_and_leaves_networks() {
    let engine = Engine::with_busybox();
    engine.load(images::web);
    for (name, subnet) in [("front", "10.71.0.0/24"), ("back", "10.72.0.0/24")] {
        engine.docker(&["network", "create", "--subnet", subnet, name]).ok();
    }
    engine.docker(&["run", "-d", "--name", "web", "--network", "back", "-p", "8080:80", "web"]).ok();
    engine.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    assert_ne!(get(&engine, "box", "http://web/").code, Some(0), "not yet in its network");

    let connect = ["network", "connect", "--ip", "10.72.0.77", "--alias", "inbox", "back", "box"];
    engine.docker(&connect).ok();
    assert_eq!(get(&engine, "box", "http://web/").ok(), PAGE);
    let links = engine.docker(&["exec", "box", "ls", "/sys/class/net"]).ok();
    assert_eq!(links.split_whitespace().collect::<Vec<_>>(), ["eth0", "eth1", "lo"]);
    assert!(engine.docker(&["exec", "box", "cat", "/etc/hosts"]).ok().contains("10.72.0.77\t"));
    let shown = engine.docker(&[
        "inspect",
        "-f",
        "{{with .NetworkSettings.Networks.back}}{{.IPAddress}} {{.Aliases}} {{.DNSNames}}{{end}}",
        "box",
    ]);
    let id = engine.docker(&["inspect", "-f", "{{slice .Id 0 12}}", "box"]).ok();
    assert_eq!(shown.ok(), format!("10.72.0.77 [inbox] [box inbox {id}]"));
    let members =
        engine.docker(&["network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}", "back"]).ok();
    assert_eq!(members.split_whitespace().collect::<std::collections::BTreeSet<_>>().len(), 2);
    engine.docker(&connect).fails(1, "endpoint with name box already exists in network back");

    // The way out is the network that comes first by name: "back", then "bridge".
    let route = || engine.docker(&["exec", "box", "ip", "route", "show", "default"]).ok();
    assert!(route().starts_with("default via 10.72.0.1 "), "{}", route());
    engine.docker(&["network", "disconnect", "back", "box"]).ok();
    assert!(route().contains("dev eth0"), "{}", route());
    assert_ne!(get(&engine, "box", "http://web/").code, Some(0), "out of its network again");
    assert!(!engine.docker(&["exec", "box", "cat", "/etc/hosts"]).ok().contains("10.72.0.77"));
    engine.docker(&["network", "disconnect", "back", "box"]).fails(1, "is not connected to network back");

    // A published port follows the container from network to network.
    engine.docker(&["network", "connect", "--gw-priority", "5", "front", "web"]).ok();
    engine.docker(&["network", "disconnect", "back", "web"]).ok();
    assert_eq!(engine.curl(&["http://127.0.0.1:8080/"]).ok(), PAGE);
    engine.docker(&["network", "rm", "back"]).ok();
    // A new name is known at once.
    engine.docker(&["network", "connect", "front", "box"]).ok();
    engine.docker(&["rename", "web", "renamed"]).ok();
    assert_eq!(get(&engine, "box", "http://renamed/").ok(), PAGE);
    assert_ne!(get(&engine, "box", "http://web/").code, Some(0));
}

#[test]
fn networks_of_a_stopped_container_are_those_it_starts_in() {
    let mut engine = Engine::with_busybox();
    for name in ["one", "two"] {
        engine.docker(&["network", "create", name]).ok();
    }
    engine.docker(&["create", "--name", "box", "--network", "one", "busybox", "sleep", "1000"]).ok();
    engine.docker(&["network", "connect", "--alias", "also", "two", "box"]).ok();
    engine.docker(&["network", "disconnect", "one", "box"]).ok();
    engine.docker(&["network", "disconnect", "one", "box"]).fails(1, "is not connected to the network one");
    engine.docker(&["start", "box"]).ok();
    let networks = "{{range $name, $n := .NetworkSettings.Networks}}{{$name}} {{end}}";
    assert_eq!(engine.docker(&["inspect", "-f", networks, "box"]).ok(), "two");
    // What was entered while it runs is kept over a crash of the engine.
    engine.docker(&["network", "connect", "one", "box"]).ok();
    engine.crash();
    engine.launch();
    assert_eq!(engine.docker(&["inspect", "-f", networks, "box"]).ok(), "one two");
    let answered = engine.docker(&["run", "--rm", "--network", "one", "busybox", "ping", "-c", "1", "box"]);
    assert!(answered.ok().contains("1 packets received"));
    engine.docker(&["network", "disconnect", "one", "box"]).ok();
    let left = engine.docker(&["exec", "box", "ls", "/sys/class/net"]).ok();
    assert_eq!(left.split_whitespace().count(), 2, "{left}");
}

#[test]
fn what_cannot_be_connected_is_refused_in_dockers_words() {
    let engine = Engine::with_busybox();
    engine.docker(&["network", "create", "--subnet", "10.73.0.0/24", "net"]).ok();
    for (name, network) in [("hosted", "host"), ("alone", "none"), ("box", "bridge")] {
        engine.docker(&["run", "-d", "--name", name, "--network", network, "busybox", "sleep", "1000"]).ok();
    }
    let connect = |network: &str, container: &str, more: &str| {
        let body = format!("{{\"Container\":\"{container}\"{more}}}");
        engine.request("POST", &format!("/networks/{network}/connect"), Some(&body))
    };
    let refused = |answer: (u16, String), status: u16, words: &str| {
        assert_eq!(answer.0, status, "{}", answer.1);
        assert!(answer.1.contains(words), "{}", answer.1);
    };
    refused(connect("net", "hosted", ""), 400, "cannot be connected to any other network");
    refused(connect("net", "alone", ""), 400, "one of the networks in private (none) mode");
    refused(connect("none", "box", ""), 400, "one of the networks in private (none) mode");
    refused(connect("host", "box", ""), 400, "cannot connect container to host network");
    refused(connect("net", "nope", ""), 404, "No such container: nope");
    refused(connect("nope", "box", ""), 404, "network nope not found");
    refused(connect("net", "", ""), 400, "invalid name or ID supplied");
    let elsewhere = r#","EndpointConfig":{"IPAMConfig":{"IPv4Address":"1.2.3.4"}}"#;
    refused(connect("net", "box", elsewhere), 400, "contain the IP address 1.2.3.4");
    let disconnect = |network: &str, body: &str| {
        engine.request("POST", &format!("/networks/{network}/disconnect"), Some(body))
    };
    refused(
        disconnect("host", r#"{"Container":"hosted"}"#),
        400,
        "container was created in host network mode",
    );
    refused(disconnect("net", r#"{"Container":"nope","Force":true}"#), 404, "endpoint nope not found");
}

#[test]
fn a_container_shares_the_network_of_another() {
    let engine = Engine::with_busybox();
    engine.load(images::web);
    engine.docker(&["run", "-d", "--name", "web", "web"]).ok();
    engine
        .docker(&["run", "-d", "--name", "side", "--network", "container:web", "busybox", "sleep", "1000"])
        .ok();
    assert_eq!(get(&engine, "side", "http://127.0.0.1/").ok(), PAGE);
    let address = "{{.NetworkSettings.IPAddress}}";
    let web = engine.docker(&["inspect", "-f", address, "web"]).ok();
    assert!(engine.docker(&["exec", "side", "ip", "addr"]).ok().contains(&web));
    assert_eq!(
        engine.docker(&["exec", "side", "cat", "/etc/hosts"]).ok(),
        engine.docker(&["exec", "web", "cat", "/etc/hosts"]).ok()
    );
    let id = engine.docker(&["inspect", "-f", "{{.Id}}", "web"]).ok();
    let mode = engine.docker(&["inspect", "-f", "{{.HostConfig.NetworkMode}}", "side"]).ok();
    assert_eq!(mode, format!("container:{id}"));
    for (option, words) in [
        (["-p", "80:80"], "conflicting options: port publishing and the container type network mode"),
        (["--hostname", "x"], "conflicting options: hostname and the network mode"),
        (["--dns", "1.1.1.1"], "conflicting options: dns and the network mode"),
        (["--add-host", "a:1.1.1.1"], "conflicting options: custom host-to-IP mapping and the network mode"),
        (["--expose", "80"], "conflicting options: port exposing and the container type network mode"),
        (["--link", "web"], "container type network can't be used with links"),
    ] {
        let run =
            [&["run", "--rm", "--network", "container:web"], &option[..], &["busybox", "true"]].concat();
        engine.docker(&run).fails(125, words);
    }
    engine
        .docker(&["run", "--rm", "--network", "container:nope", "busybox", "true"])
        .fails(125, "joining network namespace of container: No such container: nope");
    engine.docker(&["rm", "-f", "side"]).ok();
    assert!(engine.docker(&["exec", "web", "ls", "/sys/class/net"]).code == Some(0), "the other keeps it");
    engine.docker(&["stop", "-t", "0", "web"]).ok();
    engine
        .docker(&["run", "--rm", "--network", "container:web", "busybox", "true"])
        .fails(125, "cannot join network namespace of a non running container: container web is exited");
}

#[test]
fn links_name_another_container() {
    let engine = Engine::with_busybox();
    engine.load(images::web);
    engine.docker(&["run", "-d", "--name", "web", "-e", "COLOUR=red", "--expose", "53/udp", "web"]).ok();
    engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "box",
            "--link",
            "web:site",
            "busybox",
            "sh",
            "-c",
            "env >/env; sleep 1000",
        ])
        .ok();
    assert_eq!(get(&engine, "box", "http://site/").ok(), PAGE);
    let address = engine.docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web"]).ok();
    let env = engine.docker(&["exec", "box", "cat", "/env"]).ok();
    for line in [
        format!("SITE_PORT=tcp://{address}:80"),
        format!("SITE_PORT_53_UDP_ADDR={address}"),
        "SITE_PORT_80_TCP_PROTO=tcp".to_owned(),
        "SITE_NAME=/box/site".to_owned(),
        "SITE_ENV_COLOUR=red".to_owned(),
    ] {
        assert!(env.lines().any(|l| l == line), "{line} is not in {env}");
    }
    assert_eq!(
        engine.docker(&["inspect", "-f", "{{json .HostConfig.Links}}", "box"]).ok(),
        r#"["/web:/box/site"]"#
    );
    engine
        .docker(&["create", "--link", "nope", "busybox"])
        .fails(1, "could not get container for nope: No such container: nope");
    engine.docker(&["create", "--name", "idle", "busybox"]).ok();
    engine
        .docker(&["run", "--name", "late", "--link", "idle:x", "busybox", "true"])
        .fails(125, "Cannot link to a non running container: /idle AS /late/x");

    // A command run in it knows the same; and when the other comes back with another address, that is known too.
    let env = engine.docker(&["exec", "box", "env"]).ok();
    assert!(env.lines().any(|l| l == format!("SITE_PORT=tcp://{address}:80")), "{env}");
    engine.docker(&["stop", "-t", "0", "web"]).ok();
    engine.docker(&["run", "-d", "--name", "squatter", "busybox", "sleep", "1000"]).ok();
    engine.docker(&["start", "web"]).ok();
    let now = engine.docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web"]).ok();
    assert_ne!(now, address);
    assert_eq!(get(&engine, "box", "http://site/").ok(), PAGE);
    let hosts = engine.docker(&["exec", "box", "cat", "/etc/hosts"]).ok();
    assert!(hosts.contains(&format!("{now}\tsite ")) && !hosts.contains(&format!("{address}\t")), "{hosts}");

    // In a network with a name server the name is one of its names, for this container alone.
    engine.docker(&["network", "create", "net"]).ok();
    engine.docker(&["network", "connect", "net", "web"]).ok();
    let linked = |link: &[&str]| {
        let run = ["run", "--rm", "--network", "net"];
        engine.docker(&[&run, link, &["busybox", "wget", "-T", "2", "-qO-", "http://page/"]].concat())
    };
    assert_eq!(linked(&["--link", "web:page"]).ok(), PAGE);
    assert_ne!(linked(&[]).code, Some(0));

    // A link is removed by its name; both containers stay.
    engine.docker(&["rm", "--link", "/box/site"]).ok();
    let hosts = engine.docker(&["exec", "box", "cat", "/etc/hosts"]).ok();
    assert!(!hosts.contains("site"), "{hosts}");
    assert_eq!(engine.docker(&["inspect", "-f", "{{json .HostConfig.Links}}", "box"]).ok(), "null");
    engine.docker(&["rm", "--link", "/box/site"]).fails(1, "Could not get container for link /box/site");
    engine.docker(&["rm", "--link", "box"]).fails(1, "cannot remove the default link name of the container");
}

#[test]
fn an_alias_of_several_containers_leads_to_each_of_them() {
    let engine = Engine::with_busybox();
    engine.docker(&["network", "create", "net"]).ok();
    for n in ["1", "2", "3"] {
        let name = format!("worker-{n}");
        let run = ["run", "-d", "--name", &name, "--network", "net", "--network-alias", "worker"];
        engine.docker(&[&run[..], &["busybox", "sleep", "1000"]].concat()).ok();
    }
    // In the order of the answer: libraries sort by rules of their own.
    let ask = "for i in $(seq 60); do nslookup worker | sed -n '/^Name/{n;p;q;}'; done | sort -u";
    let firsts = engine.docker(&["run", "--rm", "--network", "net", "busybox", "sh", "-c", ask]).ok();
    assert_eq!(firsts.lines().count(), 3, "{firsts}");
    engine.docker(&["stop", "-t", "0", "worker-1"]).ok();
    let left = engine.docker(&["run", "--rm", "--network", "net", "busybox", "nslookup", "worker"]).ok();
    assert_eq!(left.matches("Name:").count(), 2, "{left}");
}

#[test]
fn a_hosts_file_that_is_no_text_keeps_a_container_out_of_networks_until_it_is_mended() {
    let engine = Engine::with_busybox();
    engine.docker(&["network", "create", "other"]).ok();
    engine.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    engine.docker(&["exec", "box", "sh", "-c", "printf '\\377' > /etc/hosts"]).ok();
    engine.docker(&["network", "connect", "other", "box"]).fails(1, "/etc/hosts of the container");
    assert_eq!(engine.docker(&["exec", "box", "ls", "/sys/class/net"]).ok(), "eth0\nlo");
    engine.docker(&["exec", "box", "sh", "-c", "echo > /etc/hosts"]).ok();
    engine.docker(&["network", "connect", "other", "box"]).ok();
    engine.docker(&["rm", "-f", "box"]).ok();
}
