//! Stands in for `coracle-engine` in tests of the machine: takes its arguments, serves a little HTTP on its socket.
//!
//! `GET /_ping`: OK. `POST /ports`: sends the body (a wanted set) over the ports socket, answers the outcome.
//! `POST /echo`: gives the body back, then whatever else comes, until the client half-closes. `POST /listen/PORT`:
//! a TCP echo server and a UDP one there. `POST /write/NAME`, `GET /read/NAME`: a file on the data disk.
//! `POST /die`: exits with 3. `GET /version`: a version.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, UdpSocket},
    os::unix::net::{UnixListener, UnixStream},
    sync::{Arc, Mutex},
    thread,
};

struct Double {
    root: String,
    ports: Mutex<Option<UnixStream>>,
    ports_socket: String,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = args.iter().position(|a| a == name);
        at.and_then(|at| args.get(at + 1).cloned()).unwrap_or_default()
    };
    let (socket, root) = (value("--socket"), value("--root"));
    fs::create_dir_all(&root).expect("the root can be made");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("the socket can be bound");
    let double = Arc::new(Double { root, ports: Mutex::new(None), ports_socket: value("--ports-socket") });
    eprintln!("engine double: serving {socket}");
    for stream in listener.incoming().flatten() {
        let double = double.clone();
        thread::spawn(move || double.serve(stream));
    }
}

impl Double {
    fn serve(&self, stream: UnixStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut writer = stream;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let mut words = line.split_whitespace();
            let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
            let mut len = 0;
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).ok()?;
                if header.trim().is_empty() {
                    break;
                }
                if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                    len = value.trim().parse().ok()?;
                }
            }
            let mut body = vec![0; len];
            reader.read_exact(&mut body).ok()?;
            if path == "/echo" {
                writer.write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\n").ok()?;
                writer.write_all(&body).ok()?;
                std::io::copy(&mut reader, &mut writer).ok()?;
                return None;
            }
            let answer = self.answer(&method, &path, &body).unwrap_or_else(|| b"failed".to_vec());
            let head =
                format!("HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nContent-Length: {}\r\n\r\n", answer.len());
            writer.write_all(head.as_bytes()).ok()?;
            writer.write_all(&answer).ok()?;
        }
    }

    fn answer(&self, method: &str, path: &str, body: &[u8]) -> Option<Vec<u8>> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (method, parts.as_slice()) {
            (_, ["_ping"]) => Some(b"OK".to_vec()),
            ("GET", ["version"]) => Some(br#"{"Version":"0","ApiVersion":"1.51"}"#.to_vec()),
            ("POST", ["ports"]) => {
                let mut ports = self.ports.lock().ok()?;
                if ports.is_none() {
                    *ports = Some(UnixStream::connect(&self.ports_socket).ok()?);
                }
                let stream = ports.as_mut()?;
                stream.write_all(&(body.len() as u32).to_be_bytes()).ok()?;
                stream.write_all(body).ok()?;
                let mut len = [0; 4];
                stream.read_exact(&mut len).ok()?;
                let mut answer = vec![0; u32::from_be_bytes(len) as usize];
                stream.read_exact(&mut answer).ok()?;
                Some(answer)
            }
            ("POST", ["listen", port]) => {
                let port: u16 = port.parse().ok()?;
                let tcp = TcpListener::bind(("127.0.0.1", port)).ok()?;
                let udp = UdpSocket::bind(("127.0.0.1", port)).ok()?;
                thread::spawn(move || {
                    for stream in tcp.incoming().flatten() {
                        thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
                    }
                });
                thread::spawn(move || {
                    let mut datagram = [0; 65535];
                    while let Ok((n, from)) = udp.recv_from(&mut datagram) {
                        let _ = udp.send_to(&datagram[..n], from);
                    }
                });
                Some(b"listening".to_vec())
            }
            ("POST", ["write", name]) => {
                // Durable before it is acknowledged, down to the host's disk.
                let mut file = fs::File::create(format!("{}/{name}", self.root)).ok()?;
                file.write_all(body).and_then(|()| file.sync_all()).ok()?;
                fs::File::open(&self.root).and_then(|folder| folder.sync_all()).ok()?;
                Some(b"written".to_vec())
            }
            ("GET", ["read", name]) => fs::read(format!("{}/{name}", self.root)).ok(),
            ("POST", ["die"]) => std::process::exit(3),
            ("POST", ["discard"]) => Some(body.len().to_string().into_bytes()),
            _ => None,
        }
    }
}
