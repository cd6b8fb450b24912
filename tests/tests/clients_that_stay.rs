//! Clients that stay: a terminal and the keys that leave it, `wait` with each of its conditions; and clients that go
//! away while nothing is said.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use tests::{Engine, eventually};

/// A request that waits: given back once the engine has said that it does.
fn waiting(engine: &Engine, name: &str, condition: &str) -> Child {
    let mut curl = Command::new("curl")
        // Into its output curl writes the head only with the body.
        .args(["-sN", "-D", "/dev/stderr", "--max-time", "120", "-X", "POST", "--unix-socket"])
        .arg(engine.socket())
        .arg(format!("http://x/containers/{name}/wait?condition={condition}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("curl");
    let mut line = String::new();
    BufReader::new(curl.stderr.as_mut().expect("piped")).read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    curl
}

/// What it was told in the end.
fn told(curl: Child) -> String {
    let out = curl.wait_with_output().unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_wait_ends_when_its_condition_holds() {
    let engine = Engine::with_busybox();
    engine.docker(&["create", "--name", "box", "busybox", "sh", "-c", "sleep 1000 & wait"]).ok();
    // One that was never started does not run.
    assert_eq!(engine.docker(&["wait", "box"]).ok(), "0");
    let next = waiting(&engine, "box", "next-exit");
    engine.docker(&["start", "box"]).ok();
    let not_running = waiting(&engine, "box", "not-running");
    let removed = waiting(&engine, "box", "removed");
    engine.docker(&["kill", "box"]).ok();
    assert_eq!(told(next), r#"{"StatusCode":137}"#);
    assert_eq!(told(not_running), r#"{"StatusCode":137}"#);
    assert_eq!(told(waiting(&engine, "box", "")), r#"{"StatusCode":137}"#, "it has ended already");
    engine.docker(&["rm", "box"]).ok();
    assert_eq!(told(removed), r#"{"StatusCode":137}"#);
    let (code, said) = engine.request("POST", "/containers/box/wait?condition=never", None);
    assert_eq!((code, said.contains("No such container")), (404, true), "{said}");
}

/// A terminal on `cat` in a container, ready: what was typed has come back.
fn terminal(engine: &Engine, docker: &str) -> (Child, BufReader<ChildStdout>, impl Write) {
    let mut child = engine.on_terminal(&format!("{{docker}} {docker}")).spawn().expect("script");
    let mut input = child.stdin.take().expect("piped");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    input.write_all(b"word\n").unwrap();
    let mut line = String::new();
    // Once by the terminal's echo, once by `cat`: which comes first is theirs.
    for _ in 0..2 {
        line.clear();
        output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "word");
    }
    (child, output, input)
}

/// Attaches without a client, types a word and Docker's own keys, and is let go.
fn type_keys(engine: &Engine, path: &str, body: &str) {
    let mut stream = UnixStream::connect(engine.socket()).expect("the socket");
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 2 {
        line.clear();
    }
    stream.write_all(b"word\n\x10\x11").unwrap();
    // The end of what is said, while the connection is still open on this side.
    reader.read_to_string(&mut line).unwrap();
}

#[test]
fn keys_leave_a_container_and_it_runs_on() {
    let engine = Engine::with_busybox();
    let runs = || engine.docker(&["inspect", "-f", "{{.State.Running}}", "box"]).ok();
    let leave = |(mut child, mut output, mut input): (Child, BufReader<ChildStdout>, _), keys: &[u8]| {
        Write::write_all(&mut input, keys).unwrap();
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        // 0 or 1 by the client's version: it was not the container that ended.
        child.wait().unwrap();
        assert_eq!(runs(), "true", "{rest}");
    };
    leave(terminal(&engine, "run -it --name box busybox cat"), b"\x10\x11");
    leave(terminal(&engine, "attach --detach-keys ctrl-x,x box"), b"\x18x");
    // A beginning of the keys that does not go on is the container's.
    let (child, mut output, mut input) = terminal(&engine, "attach --detach-keys @,x box");
    input.write_all(b"@y\n").unwrap();
    let mut line = String::new();
    while !line.contains("@y") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the client has ended");
    }
    leave((child, output, input), b"@x");
    // An exec goes on as well: beside the container's own `cat` there are two.
    leave(terminal(&engine, "exec -it box cat"), b"\x10\x11");
    leave(terminal(&engine, "exec -it --detach-keys ctrl-x,x box cat"), b"\x18x");
    let running = engine.docker(&["top", "box", "-o", "pid,comm"]).ok();
    assert_eq!(running.lines().filter(|line| line.ends_with("cat")).count(), 3, "{running}");
    // The stock client keeps the keys to itself; one that sends them is let go, and that is told.
    let told = |event: &str| {
        let filter = format!("event={event}");
        engine
            .docker(&["events", "--since", "1h", "--until", "0s", "--filter", &filter, "-f", "container=box"])
            .ok()
    };
    assert_eq!(told("detach"), "");
    type_keys(&engine, "/containers/box/attach?stream=1&stdin=1&stdout=1", "");
    eventually("it is told", || told("detach").lines().count() == 1);
    let exec = r#"{"Tty":true,"AttachStdin":true,"AttachStdout":true,"Cmd":["cat"]}"#;
    let (code, made) = engine.request("POST", "/containers/box/exec", Some(exec));
    assert_eq!(code, 201, "{made}");
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    type_keys(&engine, &format!("/exec/{}/start", made["Id"].as_str().unwrap()), r#"{"Tty":true}"#);
    eventually("that of an exec too", || told("exec_detach").lines().count() == 1);
    engine.docker(&["rm", "-f", "box"]).ok();
}

#[test]
fn a_terminal_gets_another_size_while_it_runs() {
    let engine = Engine::with_busybox();
    let sizes = "while :; do stty size >/tmp/now; mv /tmp/now /tmp/size; sleep 0.05; done";
    engine.docker(&["run", "-dt", "--name", "box", "busybox", "sh", "-c", sizes]).ok();
    let size = |file: &str| engine.docker(&["exec", "box", "cat", file]).out.trim().to_owned();
    assert_eq!(engine.request("POST", "/containers/box/resize?h=11&w=22", None).0, 200);
    eventually("the container has it", || size("/tmp/size") == "11 22");
    let sizes = sizes.replace("/tmp/", "/tmp/exec-");
    let exec = format!(r#"{{"Tty":true,"Cmd":["sh","-c",{sizes:?}],"ConsoleSize":[5,6]}}"#);
    let (code, made) = engine.request("POST", "/containers/box/exec", Some(&exec));
    assert_eq!(code, 201, "{made}");
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let id = made["Id"].as_str().unwrap();
    let started = engine.request("POST", &format!("/exec/{id}/start"), Some(r#"{"Detach":true,"Tty":true}"#));
    assert_eq!(started.0, 200, "{}", started.1);
    eventually("the exec begins with its own", || size("/tmp/exec-size") == "5 6");
    assert_eq!(engine.request("POST", &format!("/exec/{id}/resize?h=33&w=44"), None).0, 200);
    eventually("the exec has it", || size("/tmp/exec-size") == "33 44");
    assert_eq!(size("/tmp/size"), "11 22", "the container's own stays");
}

/// A registry that takes a connection after the other and says nothing: it tells when it was asked, and when whoever asked
/// has left. A line lets it hang up.
const SILENT: &str = r#"
import select, socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    client, _ = server.accept()
    client.recv(4096)
    print("asked", flush=True)
    ready = select.select([client, 0], [], [], 30)[0]
    if client in ready:
        assert not client.recv(4096)
        print("left", flush=True)
    elif ready:
        sys.stdin.readline()
    else:
        print("still waited for", flush=True)
    client.close()
"#;

#[test]
fn a_pull_ends_with_its_client_though_the_registry_says_nothing() {
    let engine = Engine::start();
    let mut registry = engine
        .sandbox
        .command(tests::tool("CORACLE_TEST_PYTHON"))
        .args(["-u", "-c", SILENT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut hang_up = registry.stdin.take().expect("piped");
    let mut lines = BufReader::new(registry.stdout.take().expect("piped")).lines().map(Result::unwrap);
    let name = format!("127.0.0.1:{}/image", lines.next().unwrap());
    let mut client =
        engine.command(&["pull", &name]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(lines.next().unwrap(), "asked");
    client.kill().unwrap();
    client.wait().unwrap();
    assert_eq!(lines.next().unwrap(), "left");

    // Who has only said that nothing more is to come hears the answer.
    let mut half = UnixStream::connect(engine.socket()).unwrap();
    let head = format!("POST /images/create?fromImage={name}&tag=x HTTP/1.1\r\nHost: x\r\n\r\n");
    half.write_all(head.as_bytes()).unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    // With TLS, and without.
    for _ in 0..2 {
        assert_eq!(lines.next().unwrap(), "asked");
        hang_up.write_all(b"\n").unwrap();
    }
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 ") && answer.contains(r#""message""#), "{answer}");
    // It ends with the sandbox at the latest.
    registry.kill().unwrap();
    registry.wait().unwrap();
}

#[test]
fn events_that_nobody_hears_any_more_are_not_kept_waiting_for() {
    let engine = Engine::start();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", engine.pid())).unwrap().count();
    engine.docker(&["version"]).ok();
    let before = descriptors();
    let mut clients: Vec<UnixStream> = Vec::new();
    for _ in 0..20 {
        let mut client = UnixStream::connect(engine.socket()).unwrap();
        client.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut line = String::new();
        BufReader::new(&client).read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        clients.push(client);
    }
    assert!(descriptors() >= before + 20);
    drop(clients);
    // Nothing happens that would be told, and still they are let go.
    eventually("the engine lets go of their connections", || descriptors() <= before + 2);
}
