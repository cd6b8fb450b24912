//! The name server in a container's network: the world's names, many questions, dead resolvers.

use std::process::{Child, Command, Stdio};

use tests::{Engine, Neighbour, Outcome};

/// A Python program in the network namespace of a container: busybox asks one question at a time.
fn inside(engine: &Engine, container: &str, program: &str) -> Outcome {
    let pid = engine.docker(&["inspect", "-f", "{{.State.Pid}}", container]).ok();
    let mut python = Command::new("nsenter");
    python.args(["--target", &pid, "--net", "--"]).arg(tests::tool("CORACLE_TEST_PYTHON"));
    python.args(["-c", program]).stdin(Stdio::null()).output().expect("python").into()
}

/// A resolver at the neighbour's address: every name is 9.9.9.9, by UDP and TCP.
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
def answer(q):
    end = q.index(b"\0", 12) + 5
    return q[:2] + b"\x81\x80\0\x01\0\x01\0\0\0\0" + q[12:end] + b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x09\x09\x09\x09"
tcp = socket.create_server(("10.98.0.2", 53))
def streams():
    while True:
        s, _ = tcp.accept()
        n = struct.unpack(">H", s.recv(2))[0]
        a = answer(s.recv(n))
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
