//! Ways to the API: who may use the socket, TCP for those with a certificate, a container's streams over a WebSocket.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::{Engine, Outcome, certificates, tool};

#[test]
fn the_socket_is_its_owners_and_groups() {
    let engine = Engine::start();
    let mode = std::fs::metadata(engine.socket()).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn tcp_is_for_those_with_a_certificate() {
    let (ours, others) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    certificates::make(ours.path(), &["server", "client"]);
    certificates::make(others.path(), &["client"]);
    let file = |name: &str| ours.path().join(name).display().to_string();
    // The sandbox has a network of its own: the port is nobody else's.
    let engine = Engine::with_config(serde_json::json!({
        "hosts": ["tcp://127.0.0.1:2376"], "tlsverify": true,
        "tlscacert": file("ca.pem"), "tlscert": file("server.pem"), "tlskey": file("server-key.pem"),
    }));
    let docker = |folder: &Path, tls: bool, args: &[&str]| -> Outcome {
        let mut command = engine.sandbox.command(tests::Cli::V28.program());
        command.args(["-H", "tcp://127.0.0.1:2376"]).env("DOCKER_CONFIG", engine.path("docker-config"));
        if tls {
            command.args(["--tlsverify", "--tlscacert", &file("ca.pem")]);
            command.arg("--tlscert").arg(folder.join("client.pem"));
            command.arg("--tlskey").arg(folder.join("client-key.pem"));
        }
        command.args(args).stdin(Stdio::null()).output().expect("docker").into()
    };
    assert_eq!(docker(ours.path(), true, &["ps", "-q"]).ok(), "");
    // Hijacked connections go through it too.
    engine.load(tests::images::busybox);
    let said = docker(ours.path(), true, &["run", "--rm", "busybox", "sh", "-c", "echo out; exit 4"]);
    assert_eq!((said.code, said.out.as_str()), (Some(4), "out\n"), "{}", said.err);
    let stranger = docker(others.path(), true, &["ps"]);
    assert_ne!(stranger.code, Some(0), "another authority's certificate was taken");
    let nobody = docker(ours.path(), false, &["ps"]);
    assert_ne!(nobody.code, Some(0), "no certificate was asked for: {}", nobody.out);
    let plain = engine.curl(&["-k", "https://127.0.0.1:2376/_ping"]);
    assert!(plain.code != Some(0) && plain.out.is_empty(), "{plain:?}");
}

#[test]
fn tcp_without_tls_must_be_named_insecure() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("timeout");
    command.arg("20").arg(tool("CORACLE_TEST_BIN").join("coracle-engine")).arg("serve");
    for (option, name) in [("--socket", "s"), ("--root", "root"), ("--exec-root", "exec")] {
        command.arg(option).arg(folder.path().join(name));
    }
    let refused: Outcome = command.args(["-H", "tcp://127.0.0.1:0"]).output().expect("coracle-engine").into();
    refused.fails(1, "--tlsverify");
    let engine =
        Engine::with_config(serde_json::json!({ "hosts": ["tcp://127.0.0.1:2375"], "insecure-tcp": true }));
    assert_eq!(engine.curl(&["http://127.0.0.1:2375/_ping"]).ok(), "OK");
    let warned = engine.docker(&["info", "-f", "{{json .Warnings}}"]).ok();
    assert!(warned.contains("API is accessible on http://127.0.0.1:2375 without encryption"), "{warned}");
    assert!(engine.log().contains("WITHOUT TLS"), "{}", engine.log());
}

/// A WebSocket's client, as small as can be.
struct WebSocket(UnixStream);

impl WebSocket {
    /// Asks for it; the status where it is refused.
    fn open(engine: &Engine, path: &str) -> Result<Self, String> {
        let mut stream = UnixStream::connect(engine.socket()).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("ask");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text");
        if head.starts_with("HTTP/1.1 101 ") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
            Ok(Self(stream))
        } else {
            Err(head.lines().next().unwrap_or_default().to_owned())
        }
    }

    fn send(&mut self, kind: u8, text: &[u8]) {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![0x80 | kind, 0x80 | text.len() as u8];
        frame.extend(mask);
        frame.extend(text.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        self.0.write_all(&frame).expect("send");
    }

    #[track_caller]
    /// The next frame: its kind and bytes.
    fn next(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).expect("a frame");
        let length = match head[1] {
            126 => {
                let mut long = [0; 2];
                self.0.read_exact(&mut long).expect("a length");
                u16::from_be_bytes(long).into()
            }
            short => usize::from(short),
        };
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).expect("its bytes");
        (head[0] & 15, bytes)
    }

    #[track_caller]
    /// What comes until `end` has been said.
    fn until(&mut self, end: &str) -> String {
        let mut said = String::new();
        while !said.contains(end) {
            let (kind, bytes) = self.next();
            assert_eq!(kind, 2, "binary messages, until {end:?}; so far {said:?}");
            said.push_str(&String::from_utf8_lossy(&bytes));
        }
        said
    }
}

#[test]
fn a_containers_streams_go_over_a_websocket() {
    let engine = Engine::with_busybox();
    let script = "echo early; echo error >&2; while read word; do echo got $word; done; echo over";
    let talker = |name: &str, more: &[&str]| {
        engine
            .docker(&[&["run", "-d", "-i", "--name", name], more, &["busybox", "sh", "-c", script]].concat())
            .ok();
        tests::eventually("it speaks", || engine.docker(&["logs", name]).out.contains("early"));
    };
    for (name, more) in [("plain", &[][..]), ("terminal", &["-t"][..])] {
        talker(name, more);
        let path = format!("/v1.51/containers/{name}/attach/ws?logs=1&stream=1&stdin=1&stdout=1&stderr=1");
        let mut socket = WebSocket::open(&engine, &path).expect("a WebSocket");
        // Both streams, without Docker's frames.
        let early = socket.until("error");
        assert!(early.contains("early") && !early.contains('\0'), "{early:?}");
        socket.send(2, b"one\n");
        socket.until("got one");
        socket.send(1, b"two\n");
        socket.until("got two");
        socket.send(9, b"there?");
        assert_eq!(socket.next(), (10, b"there?".to_vec()), "a ping is answered");
    }
    let mut socket =
        WebSocket::open(&engine, "/containers/plain/attach/ws?stream=1&stdout=1").expect("a WebSocket");
    engine.docker(&["kill", "plain"]).ok();
    assert_eq!(socket.next().0, 8, "closed with the container");
    let refused = WebSocket::open(&engine, "/containers/nobody/attach/ws?stream=1").err().expect("refused");
    assert!(refused.contains(" 404 "), "{refused}");
    let (status, words) = engine.request("GET", "/containers/plain/attach/ws?stream=1", None);
    assert!(status == 400 && words.contains("websocket"), "{status} {words}");
}
