//! Networks over links of the guest's: VLANs, ipvlan in each mode. Here and not on bare Linux alone
//! (`tests/gateways.rs`), because not every computer's kernel has such links; the guest's has.

use tests::{eventually, images, machine::Machine};

const PAGE: &str = "<h1>it works</h1>";

/// What a shell in the guest's own namespaces says.
fn in_guest(machine: &Machine, script: &str) -> tests::Outcome {
    let own =
        ["run", "--rm", "--privileged", "--network", "host", "--pid", "host", "web", "sh", "-c", script];
    machine.docker(&own)
}

/// Another machine at the end of a wire: 10.98.0.2, and 10.97.0.2 in VLAN 10. The guest's own is 10.98.0.1.
fn connect_neighbour(machine: &Machine) {
    machine.docker(&["run", "-d", "--name", "far", "--network", "none", "--privileged", "web"]).ok();
    let pid = machine.docker(&["inspect", "-f", "{{.State.Pid}}", "far"]).ok();
    let script = format!(
        "set -e; ip link add name wire type veth; \
         end=$(basename $(dirname $(grep -lx $(cat /sys/class/net/wire/iflink) /sys/class/net/*/ifindex))); \
         ip link set $end netns {pid}; ip addr add 10.98.0.1/24 dev wire; ip link set wire up; echo $end"
    );
    let end = in_guest(machine, &script).ok();
    let script = format!(
        "set -e; ip addr add 10.98.0.2/24 dev {end}; ip link set {end} up; \
         ip link add link {end} name tagged type vlan id 10; ip addr add 10.97.0.2/24 dev tagged; \
         ip link set tagged up"
    );
    machine.docker(&["exec", "far", "sh", "-c", &script]).ok();
}

#[test]
fn vlans_and_ipvlans_lead_to_other_machines() {
    if std::env::var_os("CORACLE_TEST_FULL").is_none() {
        return;
    }
    let machine = Machine::start("links");
    let folder = tempfile::tempdir().unwrap();
    machine.load(&images::web(folder.path()));
    connect_neighbour(&machine);
    let has = |link: &str| in_guest(&machine, &format!("ip link show {link}")).code == Some(0);
    let create = |driver: &str, subnet: &str, options: &[&str], name: &str| {
        let options = options.iter().flat_map(|o| ["-o", o]).collect::<Vec<_>>();
        let fixed = ["network", "create", "-d", driver, "--subnet", subnet];
        machine.docker(&[&fixed[..], &options, &[name]].concat())
    };
    let ping = |ip: &str, to: &str| {
        let run = ["run", "--rm", "--network", "net", "--ip", ip, "web", "ping", "-c", "1", "-W", "5", to];
        machine.docker(&run)
    };
    let remove = || machine.docker(&["network", "rm", "net"]).ok();

    // A VLAN of a link: made and removed with the network.
    create("macvlan", "10.97.0.0/24", &["parent=wire.10"], "net").ok();
    assert!(has("wire.10"));
    ping("10.97.0.7", "10.97.0.2").ok();
    assert_ne!(ping("10.97.0.7", "10.98.0.2").code, Some(0), "another VLAN is another network");
    // As when somebody removes it: the engine makes it anew.
    in_guest(&machine, "ip link del wire.10; kill -9 $(pidof coracle-engine)");
    eventually("the engine answers again", || machine.docker(&["version"]).code == Some(0));
    ping("10.97.0.8", "10.97.0.2").ok();
    remove();
    assert!(!has("wire.10"), "what the engine made goes with the network");
    create("ipvlan", "10.97.0.0/24", &["parent=wire.10", "ipvlan_mode=l2"], "net").ok();
    ping("10.97.0.9", "10.97.0.2").ok();
    remove();
    assert!(!has("wire.10"));
    // One that was there before stays.
    in_guest(&machine, "ip link add link wire name wire.10 type vlan id 10 && ip link set wire.10 up").ok();
    create("macvlan", "10.97.0.0/24", &["parent=wire.10"], "net").ok();
    ping("10.97.0.7", "10.97.0.2").ok();
    remove();
    assert!(has("wire.10"));
    create("macvlan", "10.96.0.0/24", &["parent=nowhere"], "net")
        .fails(1, "invalid subinterface vlan name nowhere, example formatting is eth0.10");

    // Containers that route: reached through the guest, by their own addresses.
    for (mode, subnet) in [("l3", "10.95.0.0/24"), ("l3s", "10.96.0.0/24")] {
        create("ipvlan", subnet, &["parent=wire", &format!("ipvlan_mode={mode}")], "net").ok();
        machine.docker(&["run", "-d", "--name", "server", "--network", "net", "web"]).ok();
        let format = "{{(index .NetworkSettings.Networks \"net\").IPAddress}}";
        let address = machine.docker(&["inspect", "-f", format, "server"]).ok();
        let route = machine.docker(&["exec", "server", "ip", "route", "show", "default"]).ok();
        assert!(route.starts_with("default dev eth0"), "{mode}: {route}");
        let script = format!("ip route add {subnet} via 10.98.0.1 && wget -T 10 -qO- http://{address}/");
        assert_eq!(machine.docker(&["exec", "far", "sh", "-c", &script]).ok(), PAGE, "{mode}");
        machine.docker(&["rm", "-f", "server"]).ok();
        remove();
    }
}
