//! Rows about networks on bare Linux: bytes by iperf3, requests by wrk.
//!
//! Server and client are Debian's, the same files on both sides. What runs "on the host" runs in the network namespace
//! of the side's own daemon: for it, that is the host. There is no other machine: what comes in by a published port
//! comes from that host, at an address of its own (a rule's way) and at 127.0.0.1 (a relay's).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::report::{Row, Target};
use super::side::Side;
use super::sys::{Running, listener, pause};
use super::{Bench, Names, image, order};
use crate::debian::Debian;

/// How long each sample sends, seconds.
const SECONDS: &str = "2";
/// Samples, at most.
const RUNS: usize = 7;
/// Connections at once of the rows about requests, by one thread: the server's process has the other processor.
const CONNECTIONS: &str = "32";
/// iperf3's port, in containers.
const BYTES: &str = "5201";
/// The same on the host: the published one has that of the container.
const HOSTS: &str = "5301";
/// nginx's, as it is published.
const PAGES: &str = "8080";
/// What a side may lose at most.
const PROMISE: f64 = 0.95;
/// How long a server may take to listen: this often, [`LOOK`] apart.
const LOOKS: usize = 1000;
const LOOK: Duration = Duration::from_millis(10);
/// How often a test is tried that the server is too busy for, and the pause between.
const TRIES: usize = 5;
const BREATH: Duration = Duration::from_millis(300);

/// One process that answers from memory: the network is what is measured.
const NGINX: &str = "\
user root;
worker_processes 1;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
    access_log off;
    keepalive_requests 1000000;
    server { listen 80; location / { return 200 'a page of some bytes, from memory\\n'; } }
}
";

/// The clients on the host.
struct Clients {
    iperf: PathBuf,
    wrk: PathBuf,
}

/// A side with its servers.
struct Servers<'a> {
    side: &'a Side,
    /// The daemon's process: its network namespace is this side's host.
    host: u32,
    network: String,
    image: &'a str,
    /// Container names: of iperf3 in a network of its own, of both servers with published ports.
    bytes: String,
    published: String,
    /// The host's address in the default network.
    gateway: String,
    /// On the host; ends with this value.
    _on_host: Running,
}

impl Bench {
    /// Rows about networks, `sides` alternating.
    pub fn network(&mut self, sides: &[&Side]) -> Result<()> {
        let names = Names::of(&self.folder)?;
        let folder = self.folder.join("network");
        fs::create_dir_all(&folder)?;
        let image_name = format!("{}:latest", names.container("net-image"));
        let (archive, clients) = tools(&image_name, &folder)?;
        let mut servers = Vec::new();
        for side in sides {
            side.docker(&["load", "-q", "-i", &archive.display().to_string()])?;
            servers.push(Servers::start(side, &names, &image_name, &clients, &folder)?);
        }
        let done = self.network_rows(&servers, &clients);
        for one in &servers {
            // Reported by the rows, if by anybody.
            let _ = one.side.docker(&["rm", "-f", "-v", &one.bytes, &one.published]);
            let _ = one.side.docker(&["network", "rm", &one.network]);
            let _ = one.side.docker(&["rmi", &image_name]);
        }
        done
    }

    fn network_rows(&mut self, servers: &[Servers<'_>], clients: &Clients) -> Result<()> {
        type Sample<'a> = &'a dyn Fn(&Servers<'_>) -> Result<f64>;
        let rows: [(&str, &str, Sample<'_>); 7] = [
            ("container to container", "Gbit/s", &|s| {
                s.container_sends(&s.network, &s.address_of_bytes()?, BYTES)
            }),
            ("container to host", "Gbit/s", &|s| s.container_sends("bridge", &s.gateway, HOSTS)),
            ("host to published port", "Gbit/s", &|s| s.host_sends(clients, &s.gateway)),
            ("host to published port, 127.0.0.1", "Gbit/s", &|s| s.host_sends(clients, "127.0.0.1")),
            ("requests/s, container's address", "1/s", &|s| {
                s.requests(clients, &format!("{}:80", s.address_of_pages()?))
            }),
            ("requests/s, published port", "1/s", &|s| {
                s.requests(clients, &format!("{}:{PAGES}", s.gateway))
            }),
            ("requests/s, published, 127.0.0.1", "1/s", &|s| {
                s.requests(clients, &format!("127.0.0.1:{PAGES}"))
            }),
        ];
        for (name, unit, work) in rows {
            let mut samples = vec![Vec::new(); 2];
            // The first is not counted.
            for turn in 0..=self.runs.min(RUNS) {
                for n in order(servers.len(), turn) {
                    let got = work(&servers[n])
                        .with_context(|| format!("row {name:?}, {}", servers[n].side.name))?;
                    if turn > 0 {
                        samples[n].push(got);
                    }
                }
            }
            let peer = samples.pop().unwrap_or_default();
            let ours = samples.pop().unwrap_or_default();
            let note = "more is better".to_owned();
            self.row(Row { name: name.into(), unit, target: Target::AtLeast(PROMISE), ours, peer, note });
        }
        Ok(())
    }
}

/// The image of the servers, and the clients.
fn tools(name: &str, folder: &Path) -> Result<(PathBuf, Clients)> {
    let debian = Debian::open("trixie")?;
    let tree = debian.tree("network-servers", &["nginx-light", "iperf3"])?;
    let files = [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/group", "root:x:0:\n"),
        ("etc/bench.conf", NGINX),
    ];
    let folders = ["tmp", "run", "var/log/nginx", "var/lib/nginx"];
    let archive = image::tree(tree.root(), &folders, &files, name, folder)?;
    let (iperf, wrk) = (folder.join("iperf3"), folder.join("wrk"));
    tree.wrapper("/usr/bin/iperf3", &[], &[], &iperf)?;
    debian.tree("wrk", &["wrk"])?.wrapper("/usr/bin/wrk", &[], &[], &wrk)?;
    Ok((archive, Clients { iperf, wrk }))
}

impl<'a> Servers<'a> {
    fn start(
        side: &'a Side,
        names: &Names,
        image: &'a str,
        clients: &Clients,
        folder: &Path,
    ) -> Result<Self> {
        let (network, bytes, published) =
            (names.container("net"), names.container("bytes"), names.container("published"));
        side.docker(&["network", "create", "--label", &names.label, &network])?;
        let serve = ["iperf3", "-s"];
        let run = |more: &[&str]| side.docker(&names.run_args(more));
        run(&[&["-d", "--name", &bytes, "--network", &network, image][..], &serve].concat())?;
        let (one, two) = (format!("{BYTES}:{BYTES}"), format!("{PAGES}:80"));
        run(&[
            &["-d", "--name", &published, "-p", &one, "-p", &two, image][..],
            &["nginx", "-c", "/etc/bench.conf", "-e", "/dev/stderr", "-g", "daemon off;"],
        ]
        .concat())?;
        side.docker(&[&["exec", "-d", &published][..], &serve].concat())?;
        let gateway =
            side.docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge"])?;
        let host = listener(&side.socket)?;
        let mut command = on_host(host, &clients.iperf);
        command.args(["-s", "-p", HOSTS]);
        let on_host = Running::start(command, &folder.join(format!("{}.log", side.name)))?;
        let this = Self { side, host, network, image, bytes, published, gateway, _on_host: on_host };
        this.await_listening(&this.gateway, &[HOSTS, BYTES, PAGES])?;
        this.await_listening(&this.address_of_bytes()?, &[BYTES])?;
        Ok(this)
    }

    fn address(&self, container: &str, network: &str) -> Result<String> {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        self.side.docker(&["inspect", "-f", &format, container])
    }

    fn address_of_bytes(&self) -> Result<String> {
        self.address(&self.bytes, &self.network)
    }

    fn address_of_pages(&self) -> Result<String> {
        self.address(&self.published, "bridge")
    }

    /// Waits until something answers on the host's ports.
    fn await_listening(&self, address: &str, ports: &[&str]) -> Result<()> {
        for port in ports {
            let mut tries = (0..LOOKS).map(|_| {
                // bash's own way to connect: nothing is sent, so that a server of one test at a time stays free.
                let script = format!("exec 3<>/dev/tcp/{address}/{port}");
                let mut bash = on_host(self.host, Path::new("bash"));
                let there = bash.args(["-c", &script]).stderr(Stdio::null()).status();
                let there = there.is_ok_and(|s| s.success());
                if !there {
                    pause(LOOK);
                }
                there
            });
            ensure!(tries.any(|there| there), "{}: nothing listens at {address}:{port}", self.side.name);
        }
        Ok(())
    }

    /// Gbit/s from a container of `network` to a server.
    fn container_sends(&self, network: &str, to: &str, port: &str) -> Result<f64> {
        let client = ["iperf3", "-c", to, "-p", port, "-t", SECONDS, "-J"];
        gigabits(
            &self.side.docker(&[&["run", "--rm", "--network", network, self.image][..], &client].concat())?,
        )
    }

    /// Gbit/s from the host to the published port, by one of its addresses.
    fn host_sends(&self, clients: &Clients, to: &str) -> Result<f64> {
        let mut command = on_host(self.host, &clients.iperf);
        command.args(["-c", to, "-p", BYTES, "-t", SECONDS, "-J"]);
        // A server of one test at a time may not have heard yet that the one before is over.
        let mut tries = (1..TRIES).map(|_| said(&mut command).inspect_err(|_| pause(BREATH)));
        match tries.find_map(Result::ok) {
            Some(report) => gigabits(&report),
            None => gigabits(&said(&mut command)?),
        }
    }

    /// Requests a second from the host.
    fn requests(&self, clients: &Clients, to: &str) -> Result<f64> {
        let mut command = on_host(self.host, &clients.wrk);
        let duration = format!("{SECONDS}s");
        per_second(&said(command.args([
            "-t",
            "1",
            "-c",
            CONNECTIONS,
            "-d",
            &duration,
            &format!("http://{to}/"),
        ]))?)
    }
}

/// A program in the network namespace of a process.
fn on_host(process: u32, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &process.to_string(), "--net", "--"]).arg(program);
    command
}

fn said(command: &mut Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(done.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&done.stderr));
    Ok(text)
}

/// What came, of iperf3's JSON.
fn gigabits(report: &str) -> Result<f64> {
    let report: Value = serde_json::from_str(report).with_context(|| format!("iperf3 said {report:?}"))?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.with_context(|| format!("iperf3 counted nothing: {}", report["error"]))? / 1e9)
}

/// The rate of wrk's report. Answers that failed are an error: they are quicker than others.
fn per_second(report: &str) -> Result<f64> {
    ensure!(
        !report.contains("Socket errors") && !report.contains("Non-2xx"),
        "some requests failed: {report}"
    );
    let rate = report.lines().find_map(|l| l.trim().strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.with_context(|| format!("wrk said {report:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read() {
        let report = r#"{"end":{"sum_sent":{"bits_per_second":1},"sum_received":{"bits_per_second":2.5e9}}}"#;
        assert_eq!(gigabits(report).unwrap(), 2.5);
        assert!(gigabits(r#"{"end":{},"error":"refused"}"#).unwrap_err().to_string().contains("refused"));
        assert_eq!(
            per_second("  1 threads\nRequests/sec:  12345.67\nTransfer/sec: 1MB\n").unwrap(),
            12345.67
        );
        assert!(per_second("Requests/sec: 1\n  Non-2xx or 3xx responses: 3\n").is_err());
    }
}
