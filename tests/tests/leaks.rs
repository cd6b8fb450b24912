//! Networks and containers that come and go leave nothing behind.

use std::collections::BTreeSet;
use std::time::Duration;

use tests::{Engine, Outcome, images};

/// What the kernel and the disk have of an engine's networks and containers.
fn everything(engine: &Engine) -> BTreeSet<String> {
    let said = |program: &str, args: &[&str]| -> String {
        let out: Outcome = engine.sandbox.command(program).args(args).output().expect("run").into();
        out.out
    };
    let nft = tests::tool("CORACLE_TEST_NFT");
    let mut all = BTreeSet::new();
    let mut add = |what: &str, lines: String| {
        all.extend(lines.lines().map(|l| format!("{what}: {}", l.trim())));
    };
    // Interfaces' numbers grow; their names are what counts.
    let links = said("ip", &["-o", "link"]);
    add("link", links.lines().filter_map(|l| l.split(' ').nth(1)).collect::<Vec<_>>().join("\n"));
    add(
        "address",
        said("ip", &["-o", "addr"])
            .lines()
            .map(|l| l.split_whitespace().skip(1).take(3).collect::<Vec<_>>().join(" ") + "\n")
            .collect(),
    );
    // A bridge without ports is down: that its last container went is no leak.
    add("route", said("ip", &["route"]).replace(" linkdown", ""));
    add("rule", said(nft.to_str().expect("a plain path"), &["list", "table", "inet", "coracle"]));
    add(
        "mount",
        said("cat", &["/proc/self/mountinfo"])
            .lines()
            .filter_map(|l| l.split(' ').nth(4))
            .collect::<Vec<_>>()
            .join("\n"),
    );
    for folder in ["root/containers", "root/volumes", "exec/containers", "exec/rootfs", "root/image/layers"] {
        let entries = std::fs::read_dir(engine.path(folder)).into_iter().flatten().flatten();
        add(folder, entries.map(|e| format!("{}\n", e.file_name().to_string_lossy())).collect());
    }
    all
}

/// `CORACLE_TEST_FULL` makes it as many as people have in a day.
fn counts() -> (usize, usize) {
    if std::env::var_os("CORACLE_TEST_FULL").is_some() { (200, 500) } else { (10, 20) }
}

#[test]
fn networks_and_containers_leave_nothing_behind() {
    let engine = Engine::start();
    engine.load(images::web);
    // What the first of all makes for good: the default bridge, and the tables.
    engine.docker(&["run", "--rm", "-p", "80", "web", "true"]).ok();
    let before = everything(&engine);
    let (networks, containers) = counts();
    for n in 0..networks {
        let (name, subnet) = (format!("net{n}"), format!("10.{}.{}.0/24", 100 + n / 250, n % 250));
        let six: &[&str] = if n % 3 == 0 { &["--ipv6"] } else { &[] };
        engine.docker(&[&["network", "create", "--subnet", &subnet], six, &[&name]].concat()).ok();
    }
    for n in 0..containers {
        let (name, network) = (format!("box{n}"), format!("net{}", n % networks));
        let run = ["run", "-d", "--name", &name, "--network", &network, "-v", "/data", "-p", "80"];
        engine.docker(&[&run[..], &["web"]].concat()).ok();
        if n % 5 == 0 {
            engine.docker(&["network", "connect", &format!("net{}", (n + 1) % networks), &name]).ok();
        }
    }
    assert!(everything(&engine).len() > before.len() + containers);
    let names: Vec<String> = (0..containers).map(|n| format!("box{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    engine.docker(&[&["rm", "-f", "-v"], &names[..]].concat()).ok();
    let names: Vec<String> = (0..networks).map(|n| format!("net{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    engine.docker(&[&["network", "rm"], &names[..]].concat()).ok();
    let after = everything(&engine);
    assert_eq!(after.difference(&before).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// The instant of death is what differs: there is nothing to wait for.
#[allow(clippy::disallowed_methods)]
fn pass(time: Duration) {
    std::thread::sleep(time);
}

#[test]
fn a_network_whose_engine_dies_is_whole_or_gone() {
    let mut engine = Engine::start();
    engine.load(images::web);
    for n in 0..12u32 {
        let name = format!("net{n}");
        let body = format!("{{\"Name\":\"{name}\"}}");
        let mut create = std::process::Command::new("curl");
        create.args(["-s", "-f", "-o", "/dev/null", "-X", "POST", "-d", &body, "--unix-socket"]);
        create.arg(engine.socket()).args(["-H", "Content-Type: application/json"]);
        let mut create = create.arg("http://x/networks/create").spawn().unwrap();
        pass(Duration::from_millis(6) * n);
        engine.crash();
        let created = create.wait().unwrap().success();
        engine.launch();
        let known = engine.docker(&["network", "inspect", &name]).code == Some(0);
        assert!(known || !created, "what was acknowledged is there");
        if known {
            let get = ["run", "--rm", "--network", &name, "web", "sh", "-c", "ip route | grep -c default"];
            assert_eq!(engine.docker(&get).ok(), "1", "it works");
            engine.docker(&["network", "rm", &name]).ok();
        } else {
            engine.docker(&["network", "create", &name]).ok();
            engine.docker(&["network", "rm", &name]).ok();
        }
    }
    let links = engine.sandbox.command("ip").args(["-o", "link"]).output().unwrap();
    let links = String::from_utf8_lossy(&links.stdout);
    assert!(!links.contains("br-"), "{links}");
}
