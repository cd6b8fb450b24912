//! The name server in a container's network: its own names, the world's, many questions, dead resolvers.

use std::process::{Child, Command, Stdio};

use tests::{Engine, Neighbour, Outcome};

/// A Python program in the network namespace of a container: busybox asks one question at a time.
fn inside(engine: &Engine, container: &str, program: &str) -> Outcome {
    let pid = engine.docker(&["inspect", "-f", "{{.State.Pid}}", container]).ok();
    let mut python = Command::new("nsenter");
    python.args(["--target", &pid, "--net", "--"]).arg(tests::tool("CORACLE_TEST_PYTHON"));
    python.args(["-c", program]).stdin(Stdio::null()).output().expect("python").into()
}

/// A resolver at the neighbour's address: every name is 9.9.9.9, by UDP and TCP, but for those that begin with `none`
/// (there is no such name), `empty` (it has no address), `long` (a hundred, by TCP alone), `edns` (9.9.9.1 to who speaks
/// EDNS).
struct Resolver(Child);

impl Resolver {
    fn start(neighbour: &Neighbour) -> Self {
        let mut python = neighbour.command(tests::tool("CORACLE_TEST_PYTHON"));
        let mut child = python.args(["-c", RESOLVER]).stdout(Stdio::piped()).spawn().expect("python");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("it speaks");
        Self(child)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        // Already dead is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const RESOLVER: &str = r#"
import socket, struct, threading
def answer(q, by_tcp=False):
    end = q.index(b"\0", 12) + 5
    label = q[13:13 + q[12]]
    flags, count, last = b"\x81\x80", 1, b"\x09"
    if label == b"none": flags, count = b"\x81\x83", 0
    if label == b"empty": count = 0
    if label == b"long": flags, count = (b"\x81\x80", 100) if by_tcp else (b"\x83\x80", 0)
    if label == b"edns": last = bytes([q[11]])
    record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x09\x09\x09" + last
    return q[:2] + flags + b"\0\x01\0" + bytes([count]) + b"\0\0\0\0" + q[12:end] + record * count
tcp = socket.create_server(("10.98.0.2", 53))
def streams():
    while True:
        s, _ = tcp.accept()
        n = struct.unpack(">H", s.recv(2))[0]
        a = answer(s.recv(n), True)
        s.sendall(struct.pack(">H", len(a)) + a)
        s.close()
threading.Thread(target=streams, daemon=True).start()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
udp.bind(("10.98.0.2", 53))
print("up", flush=True)
while True:
    q, who = udp.recvfrom(4096)
    udp.sendto(answer(q), who)
"#;

/// A thousand questions within a second, half about a container, half about the world; prints how many are answered.
const THOUSAND: &str = r#"
import socket, struct, threading, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("127.0.0.11", 53))
s.settimeout(5)
def question(n):
    name = b"\x03box\0" if n % 2 else b"\x07example\x03org\0"
    return struct.pack(">HHHHHH", n, 0x100, 1, 0, 0, 0) + name + b"\0\x01\0\x01"
def ask():
    start = time.monotonic()
    for n in range(1000):
        s.send(question(n))
        time.sleep(max(0, start + n / 1000 - time.monotonic()))
threading.Thread(target=ask).start()
seen = set()
try:
    while len(seen) < 1000:
        a = s.recv(4096)
        if a[3] & 15 == 0 and a[7] == 1:
            seen.add(struct.unpack(">H", a[:2])[0])
except OSError:
    pass
print(len(seen))
"#;

/// One question about the world by TCP; prints the address.
const BY_TCP: &str = r#"
import socket, struct
s = socket.create_connection(("127.0.0.11", 53), 5)
q = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\x07example\x03org\0\0\x01\0\x01"
s.sendall(struct.pack(">H", len(q)) + q)
n = struct.unpack(">H", s.recv(2))[0]
print(socket.inet_ntoa(s.recv(n)[-4:]))
"#;

/// Asks each `NAME TYPE [edns] [tcp]` of its lines and prints the code of the answer, `cut` where it says that it is, and
/// its addresses and names.
const ASK: &str = r#"
import socket, struct
TYPES = {"a": 1, "aaaa": 28, "ptr": 12, "mx": 15}
def name_at(a, at):
    labels = []
    while a[at]:
        if a[at] >= 0xc0:
            return ".".join(labels + [name_at(a, struct.unpack(">H", a[at:at + 2])[0] & 0x3fff)])
        labels.append(a[at + 1:at + 1 + a[at]].decode())
        at += 1 + a[at]
    return ".".join(labels)
def ask(line):
    name, kind, *how = line.split()
    q = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 1 if "edns" in how else 0)
    q += b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0" + struct.pack(">HH", TYPES[kind], 1)
    if "edns" in how: q += b"\0\0\x29\x04\xd0\0\0\0\0\0\0"
    if "tcp" in how:
        s = socket.create_connection(("127.0.0.11", 53), 5)
        s.sendall(struct.pack(">H", len(q)) + q)
        n, a = struct.unpack(">H", s.recv(2))[0], b""
        while len(a) < n: a += s.recv(n - len(a))
    else:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(5)
        s.sendto(q, ("127.0.0.11", 53))
        a = s.recv(4096)
    at, found = a.index(b"\0", 12) + 5, []
    for _ in range(struct.unpack(">H", a[6:8])[0]):
        while a[at] and a[at] < 0xc0: at += 1 + a[at]
        at += 2 if a[at] else 1
        kind, _, _, size = struct.unpack(">HHIH", a[at:at + 10])
        at += 10
        data = a[at:at + size]
        found.append(name_at(a, at) if kind == 12 else socket.inet_ntop(socket.AF_INET6 if size == 16 else socket.AF_INET, data))
        at += size
    codes = {0: "ok", 2: "failed", 3: "none"}
    print(codes[a[3] & 15], *(["cut"] if a[2] & 2 else []), *(found if len(found) < 4 else [len(found)]))
for line in QUESTIONS: ask(line)
"#;

/// What a container's name server says to questions, a line each.
fn answers(engine: &Engine, container: &str, questions: &[&str]) -> Vec<String> {
    let program = ASK.replace("QUESTIONS", &format!("{questions:?}"));
    inside(engine, container, &program).ok().lines().map(str::to_owned).collect()
}

#[test]
fn containers_are_known_by_names_aliases_ids_and_addresses() {
    let engine = Engine::with_busybox();
    engine.docker(&["network", "create", "--ipv6", "--subnet", "10.61.0.0/24", "Net"]).ok();
    let run = |name: &str, options: &[&str]| {
        let run = ["run", "-d", "--name", name, "--network"];
        engine.docker(&[&run[..], options, &["busybox", "sleep", "1000"]].concat()).ok()
    };
    let id = run("web", &["Net", "--ip", "10.61.0.9", "--network-alias", "site"]);
    run("asks", &["Net"]);
    let six =
        engine.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.Net.GlobalIPv6Address}}", "web"]).ok();
    let gateway =
        engine.docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "Net"]).ok();
    let (short, aaaa) = (format!("{} a", &id[..12]), format!("ok {six}"));
    let host = "host.docker.internal a";
    for (question, expected) in [
        ("web a", "ok 10.61.0.9"),
        ("WEB a", "ok 10.61.0.9"),
        ("site a", "ok 10.61.0.9"),
        ("web.net a", "ok 10.61.0.9"),
        ("web.Net a edns", "ok 10.61.0.9"),
        ("web a tcp", "ok 10.61.0.9"),
        (short.as_str(), "ok 10.61.0.9"),
        ("web aaaa", &aaaa),
        // The name is there, such a record is not.
        ("web mx", "ok"),
        ("9.0.61.10.in-addr.arpa ptr", "ok web.Net"),
        (host, &format!("ok {gateway}")),
        ("gateway.docker.internal a", &format!("ok {gateway}")),
    ] {
        assert_eq!(answers(&engine, "asks", &[question]), [expected], "{question}");
    }
    // In a network without IPv6 it has no such address, and is known all the same.
    engine.docker(&["network", "create", "four"]).ok();
    run("plain", &["four"]);
    assert_eq!(answers(&engine, "plain", &["plain aaaa"]), ["ok"]);
}

#[test]
fn what_the_world_answers_comes_as_it_is() {
    let engine = Engine::with_busybox();
    let neighbour = Neighbour::of(&engine.sandbox);
    let _resolver = Resolver::start(&neighbour);
    engine.docker(&["network", "create", "open"]).ok();
    engine.docker(&["network", "create", "--internal", "closed"]).ok();
    for (name, network) in [("box", "open"), ("shut", "closed")] {
        let run = ["run", "-d", "--name", name, "--network", network, "--dns", "10.98.0.2"];
        engine.docker(&[&run[..], &["busybox", "sleep", "1000"]].concat()).ok();
    }
    for (question, expected) in [
        ("example.org a", "ok 9.9.9.9"),
        ("none.test a", "none"),
        ("empty.test a", "ok"),
        ("long.test a", "ok cut"),
        ("long.test a tcp", "ok 100"),
        ("edns.test a", "ok 9.9.9.0"),
        ("edns.test a edns", "ok 9.9.9.1"),
        ("4.3.2.1.in-addr.arpa ptr tcp", "ok 9.9.9.9"),
    ] {
        assert_eq!(answers(&engine, "box", &[question]), [expected], "{question}");
    }
    // Who is in closed networks alone is told nothing of the world, and asks it nothing: a question leaves, too.
    assert_eq!(
        answers(&engine, "shut", &["shut mx", "example.org a", "none.test a"]),
        ["ok", "failed", "failed"]
    );
    engine.docker(&["network", "connect", "open", "shut"]).ok();
    assert_eq!(answers(&engine, "shut", &["example.org a"]), ["ok 9.9.9.9"]);
    engine.docker(&["network", "disconnect", "open", "shut"]).ok();
    assert_eq!(answers(&engine, "shut", &["example.org a"]), ["failed"]);
}

#[test]
fn a_thousand_questions_in_a_second_are_all_answered() {
    let engine = Engine::with_busybox();
    let neighbour = Neighbour::of(&engine.sandbox);
    let _resolver = Resolver::start(&neighbour);
    engine.docker(&["network", "create", "net"]).ok();
    // The first resolver of the list is dead: it refuses at once.
    let run = ["run", "-d", "--name", "box", "--network", "net", "--dns", "10.98.0.1", "--dns", "10.98.0.2"];
    engine.docker(&[&run[..], &["busybox", "sleep", "1000"]].concat()).ok();
    assert_eq!(inside(&engine, "box", THOUSAND).ok(), "1000");
    assert_eq!(inside(&engine, "box", BY_TCP).ok(), "9.9.9.9");
    let asked = engine.docker(&["exec", "box", "nslookup", "-type=a", "example.org"]).ok();
    assert!(asked.contains("Address: 9.9.9.9"), "{asked}");
}

#[test]
fn search_domains_and_options_are_what_was_asked() {
    let engine = Engine::with_busybox();
    engine.docker(&["network", "create", "net"]).ok();
    let shown = |more: &[&str]| {
        let run = [&["run", "--rm"], more, &["busybox", "cat", "/etc/resolv.conf"]].concat();
        engine.docker(&run).ok()
    };
    let words =
        ["--dns", "10.98.0.9", "--dns-search", "a.test", "--dns-search", "b.test", "--dns-opt", "timeout:1"];
    let own = shown(&[&["--network", "net"], &words[..]].concat());
    assert!(own.contains("nameserver 127.0.0.11\nsearch a.test b.test\noptions timeout:1 ndots:0"), "{own}");
    let plain = shown(&words);
    assert!(plain.contains("nameserver 10.98.0.9\nsearch a.test b.test\noptions timeout:1"), "{plain}");
    let none = shown(&["--network", "net", "--dns-search", ".", "--dns-opt", "ndots:3"]);
    assert!(!none.contains("search") && none.contains("options ndots:3"), "{none}");
    // A name of the network is found as it is and below a search domain it is not in.
    engine.docker(&["run", "-d", "--name", "web", "--network", "net", "busybox", "sleep", "1000"]).ok();
    let ping =
        ["run", "--rm", "--network", "net", "--dns-search", "a.test", "busybox", "ping", "-c", "1", "web"];
    assert!(engine.docker(&ping).ok().contains("1 packets received"));
}

#[test]
fn resolvers_that_never_answer_hold_up_nobody() {
    let engine = Engine::with_busybox();
    // Its packets go to the wire and nobody is there.
    let _neighbour = Neighbour::of(&engine.sandbox);
    engine.docker(&["network", "create", "net"]).ok();
    let run =
        ["run", "-d", "--name", "box", "--network", "net", "--dns", "10.98.0.77", "busybox", "sleep", "1000"];
    engine.docker(&run).ok();
    let script = "for i in $(seq 20); do nslookup example.org >/dev/null 2>&1 & done; time -p nslookup box";
    let said = engine.docker(&["exec", "box", "sh", "-c", script]);
    let seconds = said.err.lines().find_map(|l| l.strip_prefix("real ")?.trim().parse::<f64>().ok());
    assert!(seconds.is_some_and(|s| s < 2.0), "{}{}", said.out, said.err);
}
