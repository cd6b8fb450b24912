//! Networks that others are made from (`--config-only`, `--config-from`), in dockerd's words.

use tests::Engine;

#[test]
fn a_network_is_made_from_the_configuration_of_another() {
    let engine = Engine::with_busybox();
    let network = |rest: &[&str]| engine.docker(&[&["network"], rest].concat());
    let plan = ["create", "--config-only", "--subnet", "10.88.0.0/24", "--gateway", "10.88.0.7"];
    let rest = ["-o", "com.docker.network.driver.mtu=1400", "--label", "a=b", "plan"];
    network(&[&plan[..], &rest].concat()).ok();
    // It is a network in lists alone, and takes nobody's addresses.
    let shown =
        "{{.Driver}} {{.ConfigOnly}} {{.Labels}} {{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}}";
    assert_eq!(network(&["inspect", "-f", shown, "plan"]).ok(), "null true map[a:b] 10.88.0.0/24 10.88.0.7");
    network(&["create", "--config-only", "--subnet", "10.88.0.0/24", "same"]).ok();
    network(&["create", "--config-only", "-d", "nosuch", "any"]).ok();
    assert_eq!(network(&["inspect", "-f", "{{json .IPAM.Config}}", "any"]).ok(), "null");

    network(&["create", "--config-from", "plan", "--internal", "made"]).ok();
    let shown = "{{.Driver}} {{.ConfigOnly}} {{.ConfigFrom.Network}} {{.Internal}} {{.Labels}}";
    assert_eq!(network(&["inspect", "-f", shown, "made"]).ok(), "bridge false plan true map[a:b]");
    let look = "ip -4 -o addr show eth0; cat /sys/class/net/eth0/mtu";
    let seen = engine.docker(&["run", "--rm", "--network", "made", "busybox", "sh", "-c", look]).ok();
    assert!(seen.contains(" 10.88.0.") && seen.ends_with("1400"), "{seen}");
    network(&["create", "--config-from", "plan", "more"]).fails(1, "Pool overlaps with other one");

    // It stays as long as something follows it, also when the engine comes back, and is never pruned.
    let mut engine = engine;
    engine.crash();
    engine.launch();
    let network = |rest: &[&str]| engine.docker(&[&["network"], rest].concat());
    let used = "error while removing network: configuration network \"plan\" is in use";
    network(&["rm", "plan"]).fails(1, used);
    assert!(network(&["prune", "-f"]).ok().contains("made"));
    network(&["rm", "plan", "same", "any"]).ok();
}

#[test]
fn a_configuration_is_no_network_to_be_in() {
    let engine = Engine::with_busybox();
    engine.docker(&["network", "create", "--config-only", "plan"]).ok();
    let run = engine.docker(&["run", "--rm", "--network", "plan", "busybox", "true"]);
    run.fails(125, "cannot create endpoint on configuration-only network");
    assert_eq!(engine.docker(&["ps", "-aq"]).ok(), "", "nothing is left of it");
}

#[test]
fn what_cannot_be_configured_is_refused_in_dockers_words() {
    let engine = Engine::start();
    engine.docker(&["network", "create", "--config-only", "plan"]).ok();
    let create =
        |more: &str| engine.request("POST", "/networks/create", Some(&format!(r#"{{"Name":"n",{more}}}"#)));
    let operator = "configuration network can only contain network specific fields. Network operator fields like \
                    [ ingress | internal | attachable | scope ] are not supported.";
    let own =
        "user specified configurations are not supported if the network depends on a configuration network";
    let from = r#""ConfigFrom":{"Network":"plan"}"#;
    for (body, status, words) in [
        (r#""ConfigOnly":true,"Internal":true"#, 403, operator),
        (r#""ConfigOnly":true,"Attachable":true"#, 403, operator),
        (r#""ConfigOnly":true,"Ingress":true"#, 403, operator),
        (r#""ConfigOnly":true,"Scope":"swarm""#, 403, operator),
        (
            r#""ConfigOnly":true,"ConfigFrom":{"Network":"plan"}"#,
            403,
            "a configuration network cannot depend on another configuration network",
        ),
        (r#""ConfigFrom":{"Network":"x"}"#, 404, r#"configuration network \"x\" does not exist"#),
        (r#""ConfigFrom":{"Network":"bridge"}"#, 404, r#"configuration network \"bridge\" does not exist"#),
        (&format!(r#"{from},"Labels":{{"a":"b"}}"#), 403, own),
        (&format!(r#"{from},"EnableIPv6":true"#), 403, own),
        (&format!(r#"{from},"IPAM":{{"Config":[{{"Subnet":"10.1.0.0/24"}}]}}"#), 403, own),
        (
            &format!(r#"{from},"Options":{{"a":"b"}}"#),
            403,
            "network driver options are not supported if the network depends on a configuration network",
        ),
        (r#""EnableIPv4":false"#, 400, "IPv4 or IPv6 must be enabled"),
    ] {
        let (code, answer) = create(body);
        assert!(code == status && answer.contains(words), "{body}: {code} {answer}");
    }
}
