//! Between a machine's containers and the host around it: the host's own network, datagrams, ports that need a right,
//! the clock, where the host's network leads, and the host's proxy on the way to registries.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tests::{Registry, certificates, eventually, images, machine::Machine};

/// Serves each `KIND:ADDRESS:PORT` of its arguments: TCP says its port, or ends the program when it is told `bye`; UDP
/// gives back what it got, with its port.
const SERVER: &str = r#"
import os, socket, sys, threading
def tcp(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    s = socket.create_server((host, port), family=family, dualstack_ipv6=host == "::")
    while True:
        c, _ = s.accept()
        c.sendall(b"%d\n" % port)
        if c.recv(16) == b"bye": os._exit(0)
        c.close()
def udp(host, port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((host, port))
    while True:
        word, who = s.recvfrom(2048)
        s.sendto(b"%d %s" % (port, word), who)
threads = []
for what in sys.argv[1:]:
    kind, rest = what.split(":", 1)
    host, port = rest.rsplit(":", 1)
    threads.append(threading.Thread(target=globals()[kind], args=(host, int(port))))
for t in threads: t.start()
"#;

/// One machine for all: a boot and its images are most of what each of these takes.
#[test]
fn what_the_host_has_of_a_machine() {
    let [qemus, hosts, _] = RESOLVERS;
    resolver(qemus, [[9, 9, 7, 9], [9, 9, 7, 8]]);
    resolver(hosts, [[9, 9, 9, 9], [9, 9, 9, 8]]);
    let machine = Machine::start_with_resolver("outside", qemus);
    let folder = tempfile::tempdir().unwrap();
    machine.load(&images::watcher(folder.path()));
    machine.load(&images::busybox(folder.path()));
    tests::in_order!(
        &machine;
        subnets_are_chosen_beside_where_the_hosts_network_leads,
        datagrams_reach_a_published_port_and_what_needs_a_right_says_how_to_get_it,
        what_a_container_of_the_hosts_network_listens_on_is_open_on_the_host,
        a_clock_that_is_wrong_is_set_at_once_and_not_by_and_by,
        names_of_the_world_are_asked_of_the_hosts_own_resolvers,
        // The last: other settings, and starts anew for each.
        images_come_and_go_through_the_hosts_proxy_and_by_its_certificates,
    );
}

/// What a port of the host says to `word`; nothing, where nobody is behind it.
fn talk(at: &str, word: &str) -> String {
    let at: SocketAddr = at.parse().unwrap();
    let mut said = String::new();
    let mut ask = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(word.as_bytes())?;
        // All is said: else the server waits for more, and this for its end.
        stream.shutdown(std::net::Shutdown::Write)?;
        stream.read_to_string(&mut said).map(drop)
    };
    // A connection that is reset has said what it said.
    let _ = ask();
    said.trim().to_owned()
}

/// What a datagram brings back; nothing, when nothing comes.
fn datagram(at: &str, word: &str) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    socket.send_to(word.as_bytes(), at).unwrap();
    let mut answer = [0; 2048];
    let len = socket.recv(&mut answer).unwrap_or(0);
    String::from_utf8_lossy(&answer[..len]).into_owned()
}

/// Whether this host listens there.
fn is_open(at: &str) -> bool {
    let at: SocketAddr = at.parse().unwrap();
    let (table, ip) = match at.ip() {
        IpAddr::V4(ip) => ("tcp", format!("{:08X}", u32::from_ne_bytes(ip.octets()))),
        IpAddr::V6(ip) => {
            let words = ip.octets();
            let words = words.chunks(4).map(|w| u32::from_ne_bytes(w.try_into().unwrap()));
            ("tcp6", words.map(|w| format!("{w:08X}")).collect())
        }
    };
    let sockets = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
    sockets.contains(&format!(" {ip}:{:04X} ", at.port()))
}

fn what_a_container_of_the_hosts_network_listens_on_is_open_on_the_host(machine: &Machine) {
    let run = |name: &str, options: &[&str], served: &[&str]| {
        let run = ["run", "-d", "--name", name];
        machine.docker(&[&run[..], options, &["watcher", "python3", "-c", SERVER], served].concat()).ok();
    };
    // Somebody on the host has one of them already: it stays theirs.
    let theirs = TcpListener::bind("0.0.0.0:18139").unwrap();
    let served = [
        "tcp:0.0.0.0:18131",
        "tcp:127.0.0.1:18132",
        "tcp::::18133",
        "udp:0.0.0.0:18134",
        "tcp:0.0.0.0:18139",
    ];
    run("hosted", &["--network", "host"], &served);
    eventually("a port of all addresses", || talk("127.0.0.1:18131", "") == "18131");
    assert!(is_open("0.0.0.0:18131"));
    eventually("a port of loopback", || talk("127.0.0.1:18132", "") == "18132");
    assert!(is_open("127.0.0.1:18132") && !is_open("0.0.0.0:18132"), "it is on the host's loopback alone");
    eventually("a port of both families", || talk("127.0.0.1:18133", "") == "18133");
    if TcpListener::bind("[::1]:0").is_ok() {
        eventually("the same by IPv6", || talk("[::1]:18133", "") == "18133");
    }
    eventually("datagrams", || datagram("127.0.0.1:18134", "hello") == "18134 hello");
    drop(theirs);
    eventually("what became free", || talk("127.0.0.1:18139", "") == "18139");
    // What listens in a network of its own is the container's alone, though the host's network has the same engine.
    run("bridged", &[], &["tcp:0.0.0.0:18135"]);
    // They go when the program does, be it one of several.
    machine.docker(&["exec", "-d", "hosted", "python3", "-c", SERVER, "tcp:0.0.0.0:18136"]).ok();
    eventually("a program that is run in it", || is_open("0.0.0.0:18136"));
    assert!(!is_open("0.0.0.0:18135"));
    assert_eq!(talk("127.0.0.1:18136", "bye"), "18136");
    eventually("its end", || !is_open("0.0.0.0:18136"));
    assert_eq!(talk("127.0.0.1:18131", ""), "18131", "the others stay");
    // The engine may die: its successor finds them again.
    let kill = "import os; [os.kill(int(p), 9) for p in os.listdir('/proc') if p.isdigit() \
                and open(f'/proc/{p}/comm').read() == 'coracle-engine\\n']";
    machine.docker(&["run", "--rm", "--privileged", "--pid", "host", "watcher", "python3", "-c", kill]);
    eventually("the engine answers again", || machine.docker(&["version"]).code == Some(0));
    eventually("a port after the engine's death", || talk("127.0.0.1:18131", "") == "18131");
    machine.docker(&["rm", "-f", "hosted"]).ok();
    eventually("all are closed with the container", || {
        ["0.0.0.0:18131", "127.0.0.1:18132", "0.0.0.0:18133", "0.0.0.0:18139"].iter().all(|at| !is_open(at))
    });
}

fn datagrams_reach_a_published_port_and_what_needs_a_right_says_how_to_get_it(machine: &Machine) {
    let serve = |name: &str, publish: &str| {
        let run = ["run", "-d", "--name", name, "-p", publish, "watcher", "python3", "-c", SERVER];
        machine.docker(&[&run[..], &["udp:0.0.0.0:53"]].concat()).ok();
    };
    serve("first", "127.0.0.1:18141:53/udp");
    eventually("an answer", || datagram("127.0.0.1:18141", "a") == "53 a");
    // Each peer gets its own answers.
    let peers: Vec<_> = (0..8)
        .map(|n| std::thread::spawn(move || (n, datagram("127.0.0.1:18141", &format!("peer {n}")))))
        .collect();
    for peer in peers {
        let (n, said) = peer.join().unwrap();
        assert_eq!(said, format!("53 peer {n}"));
    }
    let large = "x".repeat(1400);
    assert_eq!(datagram("127.0.0.1:18141", &large), format!("53 {large}"));
    machine.docker(&["rm", "-f", "first"]).ok();
    serve("second", "127.0.0.1:18141:53/udp");
    eventually("the one that is there now answers", || datagram("127.0.0.1:18141", "b") == "53 b");

    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if machine.user() != 0 && first.trim().parse::<u16>().unwrap() > 81 {
        let refused =
            machine.docker(&["run", "--name", "low", "-p", "127.0.0.1:81:80", "watcher", "python3", "-V"]);
        refused
            // The CLI's code for these words, whatever they speak of.
            .fails(126, "Bind for 127.0.0.1:81 failed: permission denied: ports below 1024 are root's here");
        let again = machine.docker(&["start", "low"]);
        assert!(again.err.contains("sysctl net.ipv4.ip_unprivileged_port_start=81"), "{again:?}");
    }
}

fn a_clock_that_is_wrong_is_set_at_once_and_not_by_and_by(machine: &Machine) {
    machine
        .docker(&["run", "-d", "--name", "clock", "--cap-add", "SYS_TIME", "busybox", "sleep", "1000"])
        .ok();
    let guest = |script: &str| {
        let said = machine.docker(&["exec", "clock", "sh", "-c", script]).ok();
        said.lines().last().unwrap().parse::<u64>().unwrap()
    };
    let host = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    // Starting from the host's, as a host that slept leaves it: hours behind; and as a bad battery does: ahead.
    for wrong in ["- 7200", "+ 7200"] {
        let now = host();
        let set = guest(&format!("date -s @$(($(date +%s) {wrong})) >/dev/null && date +%s"));
        assert!(set.abs_diff(now) > 7000, "it can be set: {set}, {now}");
        eventually("the clock is right", || guest("date +%s").abs_diff(host()) <= 1);
    }
    machine.docker(&["rm", "-f", "clock"]).ok();
}

fn subnets_are_chosen_beside_where_the_hosts_network_leads(machine: &Machine) {
    let guest = |script: &str| {
        let own = ["run", "--rm", "--privileged", "--pid", "host", "busybox", "sh", "-c", script];
        machine.docker(&own).ok()
    };
    let file = "/proc/1/root/run/coracle/taken-subnets";
    let told = guest(&format!("cat {file}"));
    let routes = std::fs::read_to_string("/proc/net/route").unwrap();
    let places = routes.lines().skip(1).filter_map(|l| {
        let words: Vec<&str> = l.split('\t').collect();
        let number = |at: usize| u32::from_str_radix(words[at], 16).map(u32::swap_bytes).unwrap();
        let prefix = number(7).leading_ones();
        let ip = std::net::Ipv4Addr::from(number(1));
        (prefix >= 4 && !ip.is_link_local()).then(|| format!("{ip}/{prefix}"))
    });
    for place in places {
        assert!(told.lines().any(|line| line == place), "{place} of this host is not in {told}");
    }
    // A VPN that comes up: the networks made from then on keep away from it.
    let subnet = |name: &str| {
        machine.docker(&["network", "create", name]).ok();
        let format = "{{(index .IPAM.Config 0).Subnet}}";
        machine.docker(&["network", "inspect", "-f", format, name]).ok()
    };
    let first = subnet("before");
    machine.docker(&["network", "rm", "before"]).ok();
    guest(&format!("echo {first} >> {file}"));
    assert_ne!(subnet("after"), first);
}

/// A resolver that knows an address for every name: by UDP the first that is given, by TCP the second. But there is no name
/// that begins with `none`, and those that begin with `long` have a hundred addresses, too many for a datagram.
fn resolver(at: IpAddr, addresses: [[u8; 4]; 2]) {
    const ADDRESS: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4];
    fn answer(question: &[u8], address: [u8; 4], is_datagram: bool) -> Option<Vec<u8>> {
        let end = 12 + question.get(12..)?.iter().position(|b| *b == 0)? + 5;
        let about = question.get(13..end)?;
        let (flags, count) = match (about, is_datagram) {
            ([b'n', b'o', b'n', b'e', ..], _) => ([0x81, 0x83], 0),
            ([b'l', b'o', b'n', b'g', ..], true) => ([0x83, 0x80], 0),
            ([b'l', b'o', b'n', b'g', ..], false) => ([0x81, 0x80], 100),
            _ => ([0x81, 0x80], 1),
        };
        let mut a = [&question[..2], &flags, &[0, 1, 0, count, 0, 0, 0, 0], question.get(12..end)?].concat();
        (0..count).for_each(|_| a.extend([ADDRESS, &address].concat()));
        Some(a)
    }
    let (udp, tcp) = (UdpSocket::bind((at, 53)).unwrap(), TcpListener::bind((at, 53)).unwrap());
    // Both end with the test's process.
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((n, from)) = udp.recv_from(&mut question) {
            answer(&question[..n], addresses[0], true).and_then(|a| udp.send_to(&a, from).ok());
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut length = [0; 2];
            let mut serve = || -> Option<()> {
                stream.read_exact(&mut length).ok()?;
                let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut question).ok()?;
                let a = answer(&question, addresses[1], false)?;
                stream.write_all(&[&(a.len() as u16).to_be_bytes()[..], &a].concat()).ok()
            };
            let _ = serve();
        }
    });
}

/// QEMU's own, which is asked only where the host has none; the host's; one that never answers.
const RESOLVERS: [IpAddr; 3] = [loopback(77), loopback(78), loopback(79)];

const fn loopback(last: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, last))
}

/// Asks 127.0.0.11, or the resolver that `/etc/resolv.conf` names, for each name that it is told, by UDP and TCP, and says
/// what came: how many addresses, and the last of them.
const NAMES: &str = r#"
import socket, struct, sys
def told(q, a):
    assert a[:2] == q[:2] and a[2] & 0x80, a
    if a[3] & 15: return ["", "FORMERR", "SERVFAIL", "NXDOMAIN"][a[3] & 15]
    if a[2] & 2: return "cut"
    return "%d %s" % (struct.unpack(">H", a[6:8])[0], socket.inet_ntoa(a[-4:]))
for name in sys.stdin:
    server = [l.split()[1] for l in open("/etc/resolv.conf") if l.startswith("nameserver")][0]
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.strip().split("."))
    q = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0\0\x01\0\x01"
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(8)
    s.sendto(q, (server, 53))
    t = socket.create_connection((server, 53), 8)
    t.sendall(struct.pack(">H", len(q)) + q)
    f = t.makefile("rb")
    n = struct.unpack(">H", f.read(2))[0]
    print(told(q, s.recv(512)) + ", " + told(q, f.read(n)), flush=True)
"#;

/// A container that asks for names.
struct Asker {
    client: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Asker {
    fn start(machine: &Machine, network: &str) -> Self {
        let run = ["run", "--rm", "-i", "--network", network, "watcher", "python3", "-c", NAMES];
        let mut client =
            machine.command(&run).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("docker");
        let questions = client.stdin.take();
        let answers = BufReader::new(client.stdout.take().expect("piped"));
        Self { client, questions, answers }
    }

    fn ask(&mut self, name: &str) -> String {
        writeln!(self.questions.as_ref().expect("piped"), "{name}").expect("it listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("it answers");
        answer.trim().to_owned()
    }
}

impl Drop for Asker {
    /// The end of its questions ends it, and its container.
    fn drop(&mut self) {
        drop(self.questions.take());
        if std::thread::panicking() {
            let _ = self.client.kill();
        }
        let _ = self.client.wait();
    }
}

fn names_of_the_world_are_asked_of_the_hosts_own_resolvers(machine: &Machine) {
    let [_, hosts, silent] = RESOLVERS;
    let _never_answers = UdpSocket::bind((silent, 53)).unwrap();
    machine.docker(&["network", "create", "net"]).ok();
    let networks = ["bridge", "net", "host"];
    let mut askers = networks.map(|network| Asker::start(machine, network));
    let mut ask = |network: &str, name: &str| {
        let asker = networks.iter().position(|n| *n == network).expect("one of them");
        askers[asker].ask(name)
    };
    for network in networks {
        assert_eq!(
            ask(network, "private.test"),
            "1 9.9.7.9, 1 9.9.7.8",
            "{network}, no resolver of the host's"
        );
    }
    // A VPN comes up: it is noticed, and what it knows is known in containers.
    machine.resolvers(&[hosts]);
    eventually("the host's resolver is asked", || ask("host", "private.test") == "1 9.9.9.9, 1 9.9.9.8");
    for network in networks {
        assert_eq!(ask(network, "private.test"), "1 9.9.9.9, 1 9.9.9.8", "{network}");
        assert_eq!(ask(network, "none.test"), "NXDOMAIN, NXDOMAIN", "{network}");
        assert_eq!(ask(network, "long.test"), "cut, 100 9.9.9.8", "{network}");
    }
    // What the host knows by itself counts before; what it calls by its own name is asked as ever.
    machine.hosts("127.0.0.1 localhost private.test\n10.9.8.7 nas.test # in the cellar\nfd00::7 six.test\n");
    eventually("the host's own names are known", || ask("host", "nas.test") == "1 10.9.8.7, 1 10.9.8.7");
    for network in networks {
        assert_eq!(ask(network, "nas.test"), "1 10.9.8.7, 1 10.9.8.7", "{network}");
        assert_eq!(ask(network, "private.test"), "1 9.9.9.9, 1 9.9.9.8", "{network}");
    }
    // All of them are dead: that is said, in time.
    machine.resolvers(&[silent]);
    eventually("nobody answers", || ask("host", "private.test") == "SERVFAIL, SERVFAIL");
    for network in networks {
        assert_eq!(ask(network, "private.test"), "SERVFAIL, SERVFAIL", "{network}");
    }
    // One is alive, though not the first.
    machine.resolvers(&[silent, hosts]);
    eventually("the other is asked", || ask("host", "private.test") == "1 9.9.9.9, 1 9.9.9.8");
    assert_eq!(ask("net", "private.test"), "1 9.9.9.9, 1 9.9.9.8");
    // Port 53 of the guest's network is its containers'.
    let listen = "import socket; [socket.socket(socket.AF_INET, k).bind(('0.0.0.0', 53)) for k in (1, 2)]; print('free')";
    let run = ["run", "--rm", "--network", "host", "watcher", "python3", "-c", listen];
    assert_eq!(machine.docker(&run).ok(), "free");
}

/// A proxy on this host's loopback that leads every name to one port of the host's, and remembers what it was asked.
struct Proxy {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn to(registry: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = asked.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let heard = heard.clone();
                std::thread::spawn(move || serve(client, registry, &heard));
            }
        });
        Self { port, asked }
    }
}

/// One connection: the head of a CONNECT, then bytes both ways.
fn serve(mut client: TcpStream, registry: u16, heard: &Mutex<Vec<String>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let line = String::from_utf8_lossy(&head).lines().next()?.to_owned();
    let is_tunnel = line.starts_with("CONNECT ");
    heard.lock().unwrap().push(line);
    if !is_tunnel {
        return client.write_all(b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n").ok();
    }
    let mut server = TcpStream::connect(("127.0.0.1", registry)).ok()?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    let (mut from, mut to) = (client.try_clone().ok()?, server.try_clone().ok()?);
    let up = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(std::net::Shutdown::Write);
    up.join().ok()
}

fn images_come_and_go_through_the_hosts_proxy_and_by_its_certificates(machine: &Machine) {
    // The host's resolver knows no such name: whoever reaches it does so by the proxy.
    const REGISTRY: &str = "none.registry.test";
    machine.resolvers(&[RESOLVERS[1]]);
    let folder = tempfile::tempdir().unwrap();
    certificates::make(folder.path(), &[REGISTRY]);
    let (_registry, port) = Registry::start_secure(folder.path(), REGISTRY);
    let proxy = Proxy::to(port);
    let name = &format!("{REGISTRY}/some/busybox:1");
    machine.docker(&["tag", "busybox", name]).ok();
    // No such name, no proxy.
    assert_ne!(machine.docker(&["push", "-q", name]).code, Some(0));
    let url = format!("http://127.0.0.1:{}", proxy.port);
    machine.coracle(&["settings", "set", "https-proxy", &url]).ok();
    machine.coracle(&["restart"]).ok();
    let unknown = machine.docker(&["push", "-q", name]);
    assert!(unknown.code != Some(0) && unknown.err.to_lowercase().contains("certificate"), "{unknown:?}");
    std::fs::create_dir_all(machine.path("c/certificates")).unwrap();
    std::fs::copy(folder.path().join("ca.pem"), machine.path("c/certificates/ours.pem")).unwrap();
    machine.coracle(&["restart"]).ok();
    machine.docker(&["push", "-q", name]).ok();
    machine.docker(&["rmi", name, "busybox"]).ok();
    machine.docker(&["pull", "-q", name]).ok();
    assert_eq!(machine.docker(&["run", "--rm", name, "echo", "whole"]).ok(), "whole");
    let asked = proxy.asked.lock().unwrap().clone();
    let connect = format!("CONNECT {REGISTRY}:443 HTTP/1.1");
    assert!(asked.len() >= 2 && asked.iter().all(|l| l == &connect), "{asked:?}");
    // What is named is asked directly: there is no such name.
    machine.coracle(&["settings", "set", "no-proxy", REGISTRY]).ok();
    machine.coracle(&["restart"]).ok();
    machine.docker(&["rmi", "-f", name]).ok();
    assert_ne!(machine.docker(&["pull", "-q", name]).code, Some(0));
    assert_eq!(proxy.asked.lock().unwrap().len(), asked.len());
}
