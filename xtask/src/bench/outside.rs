//! What the host has of a machine: published ports and shared folders.
//!
//! ```text
//!   host --listener--> daemon --link--> guest agent --> container      ours: a published port
//!   host --listener--> QEMU's user network (hostfwd) --> guest         what it is held against
//!   host --unix socket--> a virtio-serial port of its own --> guest    what the link could do at most
//! ```
//! Folders are held against a volume: the guest's own disk.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::machine::{Machine, Shell};
use super::report::{Row, Target};
use super::side::Side;
use super::{Bench, Names, SLOW_RUNS};

/// Bytes sent through a port.
const SENT: usize = 100 << 20;
/// Bytes handed to the kernel at once.
const PIECE: usize = 64 << 10;
/// The file of the rows about folders, MB.
const FILE: usize = 500;
/// Small files.
const FILES: usize = 10_000;
/// Ports in the guest that send and take bytes.
const SENDS: u16 = 7001;
const TAKES: u16 = 7002;
/// How long nothing may come or go.
const PATIENCE: Duration = Duration::from_secs(60);
/// The name of the raw port.
const RAW: &str = "org.coracle.bench";

/// Ways into a guest that are not ours, for comparison.
pub struct Ways {
    sends: u16,
    takes: u16,
    raw: PathBuf,
}

impl Ways {
    /// Ports that are free now; `folder` is short: it holds a socket.
    pub fn new(folder: &Path) -> Result<Self> {
        let free = || -> Result<u16> { Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()) };
        Ok(Self { sends: free()?, takes: free()?, raw: folder.join("raw") })
    }

    /// What QEMU's user network is told besides.
    pub fn forwards(&self) -> String {
        let one = |host: u16, guest: u16| format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}");
        one(self.sends, SENDS) + &one(self.takes, TAKES)
    }

    /// More arguments for QEMU.
    pub fn arguments(&self) -> Vec<String> {
        let chardev = format!("socket,id=raw,server=on,wait=off,path={}", self.raw.display());
        let port = format!("virtserialport,chardev=raw,name={RAW}");
        ["-chardev", &chardev, "-device", &port].map(str::to_owned).into()
    }
}

impl Bench {
    /// Rows about ports.
    pub fn ports(&mut self, side: &Side, machine: &Machine, ways: &Ways) -> Result<()> {
        let names = Names::of(&self.folder)?;
        // The same two programs: once behind published ports, once where the user network leads.
        let serve = format!(
            "nc -ll -p {SENDS} -e dd if=/dev/zero bs={PIECE} count={count} & \
             exec nc -ll -p {TAKES} -e sh -c 'cat >/dev/null; echo done'",
            count = SENT / PIECE
        );
        let (published, direct) = (names.container("published"), names.container("direct"));
        let (sends, takes) = (format!("127.0.0.1::{SENDS}"), format!("127.0.0.1::{TAKES}"));
        let run = |more: &[&str]| {
            side.docker(&names.run_args(&[more, &[&names.image, "sh", "-c", &serve]].concat()))
        };
        run(&["-d", "--name", &published, "-p", &sends, "-p", &takes])?;
        run(&["-d", "--name", &direct, "--network", "host"])?;
        let port = |of: u16| -> Result<u16> {
            let said = side.docker(&["port", &published, &of.to_string()])?;
            Ok(said.lines().next().and_then(|l| l.rsplit(':').next()).context("a port")?.trim().parse()?)
        };
        let (sends, takes) = (port(SENDS)?, port(TAKES)?);
        let mut rows: [(Vec<f64>, Vec<f64>, Vec<f64>); 2] = Default::default();
        for _ in 0..self.runs.min(SLOW_RUNS) {
            rows[0].0.push(taken(sends)?);
            rows[0].1.push(taken(ways.sends)?);
            rows[0].2.push(raw(&machine.shell(), &ways.raw, true)?);
            rows[1].0.push(sent(takes)?);
            rows[1].1.push(sent(ways.takes)?);
            rows[1].2.push(raw(&machine.shell(), &ways.raw, false)?);
        }
        for (way, (ours, peer, raw)) in ["guest to host", "host to guest"].into_iter().zip(rows) {
            let mut add = |name: String, target, ours: Vec<f64>, peer: Vec<f64>, note: &str| {
                self.row(Row { name, unit: "ms", target, ours, peer, note: note.into() });
            };
            let what = format!("100 MB, {way}, published port");
            add(
                what,
                Target::Ratio(1.0),
                ours.clone(),
                peer,
                "peer: QEMU's hostfwd, to a container in the guest's network",
            );
            let what = format!("100 MB, {way}, beside a raw port");
            add(what, Target::None, ours, raw, "peer: a virtio-serial port of its own, no container");
        }
        side.docker(&["rm", "-f", &published, &direct]).map(drop)
    }

    /// Rows about folders: a share of the host beside a volume on the guest's own disk.
    pub fn folders(&mut self, side: &Side, machine: &Machine, shared: &Path) -> Result<()> {
        let names = Names::of(&self.folder)?;
        let volume = names.container("volume");
        let places = [format!("{}:/p", shared.display()), format!("{volume}:/p")];
        let many = format!("seq {FILES}");
        let works = [
            (
                format!("{FILE} MB written and synced"),
                Target::Ratio(2.0),
                format!("dd if=/dev/zero of=/p/f bs=1M count={FILE} conv=fsync 2>/dev/null"),
            ),
            (format!("{FILE} MB read, not cached"), Target::Ratio(2.0), "cat /p/f >/dev/null".to_owned()),
            (
                format!("{FILES} small files made"),
                Target::None,
                format!("mkdir /p/d && cd /p/d && {many} | while read n; do echo $n >$n; done"),
            ),
            (
                format!("{FILES} small files: stat, not cached"),
                Target::None,
                "ls -lR /p/d >/dev/null".to_owned(),
            ),
            (
                format!("{FILES} small files read, not cached"),
                Target::None,
                format!("cd /p/d && {many} | xargs cat >/dev/null"),
            ),
        ];
        for (name, target, script) in works {
            let mut samples: [Vec<f64>; 2] = Default::default();
            let mut asked = Vec::new();
            for (samples, place) in samples.iter_mut().zip(&places) {
                machine.shell().run("sync; echo 3 >/proc/sys/vm/drop_caches")?;
                let args = ["--rm", "-v", place, &names.image, "sh", "-c", &script];
                let before = machine.requests()?;
                samples.push(side.time(&names.run_args(&args))?);
                asked.push(per_file(&before, &machine.requests()?));
            }
            let [ours, peer] = samples;
            let note = format!(
                "peer: a volume; with the container's own start and end; requests for {FILES} files: {}",
                asked.first().map_or("", String::as_str)
            );
            self.row(Row { name: format!("share: {name}"), unit: "ms", target, ours, peer, note });
        }
        side.docker(&["volume", "rm", &volume]).map(drop)
    }
}

/// What a share was asked for between two looks, divided by the files of a row; what came less than once in ten files
/// is left out.
fn per_file(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> String {
    let asked = after.iter().map(|(name, n)| (name, n - before.get(name).unwrap_or(&0)));
    let shown = asked.filter(|(_, n)| *n >= FILES as u64 / 10);
    let shown: Vec<String> =
        shown.map(|(name, n)| format!("{name} {:.1}", n as f64 / FILES as f64)).collect();
    if shown.is_empty() { "hardly any".to_owned() } else { shown.join(", ") }
}

/// Milliseconds until all bytes that a port sends are here.
fn taken(port: u16) -> Result<f64> {
    let started = Instant::now();
    let got = drain(TcpStream::connect(("127.0.0.1", port))?)?;
    ensure!(got == SENT, "{got} of {SENT} bytes came");
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// Milliseconds until a port has taken all bytes, and says so.
fn sent(port: u16) -> Result<f64> {
    let started = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    fill(&mut stream)?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    ensure!(said.trim() == "done", "the other end said {said:?}");
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// Milliseconds of the same through the raw port.
fn raw(shell: &Shell, socket: &Path, from_guest: bool) -> Result<f64> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let find = format!("p=/dev/$(basename $(dirname $(grep -l {RAW} /sys/class/virtio-ports/*/name)))");
    let count = SENT / PIECE;
    let work = if from_guest {
        format!("{find}; dd if=/dev/zero of=$p bs={PIECE} count={count} 2>/dev/null")
    } else {
        // Opened once: what waits in a port is lost when it is closed. (Not `head -c`: busybox' goes byte by byte.)
        format!(
            "{find}; exec 3<>$p; echo ready >&3; \
             dd bs={PIECE} count={count} iflag=fullblock <&3 of=/dev/null 2>/dev/null; echo done >&3"
        )
    };
    let shell = shell.clone();
    let guest = std::thread::spawn(move || shell.run(&work));
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    let started = Instant::now();
    if from_guest {
        let mut left = SENT - 1;
        let mut piece = vec![0; PIECE];
        while left > 0 {
            let n = stream.read(&mut piece)?;
            ensure!(n > 0, "the raw port ended");
            left -= n.min(left);
        }
    } else {
        let mut said = vec![0; "eady\n".len()];
        stream.read_exact(&mut said)?;
        fill(&mut stream)?;
        let mut said = vec![0; "done\n".len()];
        stream.read_exact(&mut said)?;
    }
    let took = started.elapsed().as_secs_f64() * 1e3;
    guest.join().map_err(|_| anyhow::anyhow!("the shell's thread died"))??;
    Ok(took)
}

fn fill(to: &mut impl Write) -> Result<()> {
    let piece = vec![0; PIECE];
    for _ in 0..SENT / PIECE {
        to.write_all(&piece)?;
    }
    Ok(())
}

fn drain(mut from: impl Read) -> Result<usize> {
    let (mut piece, mut got) = (vec![0; PIECE], 0);
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(got),
            n => got += n,
        }
    }
}
