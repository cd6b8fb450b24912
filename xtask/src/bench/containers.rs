//! Rows about many containers that stay: what looking at them costs, and what the engine costs when nothing happens.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::report::{Row, Target};
use super::side::Side;
use super::{Bench, Names, SLOW_RUNS, sys};

/// How many of a crowd are started at once.
const AT_ONCE: usize = 20;
/// Containers that `docker stats` watches, at most, and for how long.
const WATCHED: usize = 100;
/// Requests in a row that one sample is the mean of: one alone takes less than what a timer's interrupt does to it.
const REQUESTS: u32 = 20;
const WATCH: Duration = Duration::from_secs(10);
/// Before an idle daemon is looked at: what follows from the work before is done by then. Threads that waited for work
/// in vain end after ten seconds.
const SETTLE: Duration = Duration::from_secs(15);

/// A connection that is kept from one request to the next.
struct Kept(BufReader<UnixStream>);

impl Kept {
    fn open(socket: &Path) -> Result<Self> {
        Ok(Self(BufReader::new(UnixStream::connect(socket)?)))
    }

    /// A GET's body.
    fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        self.0.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        ensure!(line.contains(" 200 "), "{path}: {line}");
        let (mut length, mut chunked) = (None, false);
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            let lower = line.trim().to_ascii_lowercase();
            if lower.is_empty() {
                break;
            }
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = Some(value.trim().parse::<usize>()?);
            }
            chunked |= lower == "transfer-encoding: chunked";
        }
        let mut body = Vec::new();
        match length {
            Some(length) => {
                body.resize(length, 0);
                self.0.read_exact(&mut body)?;
            }
            None if chunked => loop {
                line.clear();
                self.0.read_line(&mut line)?;
                let size =
                    usize::from_str_radix(line.trim(), 16).with_context(|| format!("a chunk: {line}"))?;
                let start = body.len();
                body.resize(start + size, 0);
                self.0.read_exact(&mut body[start..])?;
                line.clear();
                self.0.read_line(&mut line)?;
                if size == 0 {
                    break;
                }
            },
            None => bail!("{path}: an answer without an end"),
        }
        Ok(body)
    }
}

/// How many samples a stream of statistics tells within so long.
fn told(socket: &Path, path: &str, within: Duration) -> Result<usize> {
    /// Once in each sample.
    const MARK: &[u8] = b"\"preread\":";
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").as_bytes())?;
    let until = Instant::now() + within;
    let (mut text, mut some) = (Vec::new(), [0; 1 << 16]);
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) {
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut some) {
            Ok(0) => bail!("{path}: ended: {}", String::from_utf8_lossy(&text)),
            Ok(n) => text.extend_from_slice(&some[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(text.windows(MARK.len()).filter(|w| *w == MARK).count())
}

impl Bench {
    /// Rows about a crowd of running containers.
    pub fn crowd(&mut self, sides: &[&Side]) -> Result<()> {
        let names = Names::of(&self.folder)?;
        let crowd = self.crowd;
        let all: Vec<String> = (0..crowd).map(|n| names.container(format!("crowd-{n}"))).collect();
        let mut memory = vec![Vec::new(); 2];
        for (n, side) in sides.iter().enumerate() {
            start(side, &names, &all)?;
            memory[n].push(side.daemon_memory()?.rss as f64 / 1024.0);
        }
        // One connection a side for all samples: what is measured is the answer, not the connecting.
        let mut kept: Vec<Kept> = sides.iter().map(|s| Kept::open(&s.socket)).collect::<Result<_>>()?;
        let label = format!("%7B%22label%22%3A%5B%22{}%22%5D%7D", names.label.replace('=', "%3D"));
        let list = format!("/v1.47/containers/json?all=1&filters={label}");
        let inspect = format!("/v1.47/containers/{}/json", all[0]);
        for (path, name) in [
            (list, format!("list of {crowd} containers, kept connection")),
            (inspect, "inspect, kept connection".to_owned()),
        ] {
            self.alternate(sides, &name, Target::Ratio(0.5), self.runs, |side| {
                let at = sides.iter().position(|s| s.name == side.name).context("a side")?;
                let started = Instant::now();
                for _ in 0..REQUESTS {
                    let body = kept[at].get(&path)?;
                    ensure!(body.len() > 500, "{}: {path}: {} bytes", side.name, body.len());
                }
                Ok(started.elapsed().as_secs_f64() * 1e3 / f64::from(REQUESTS))
            })?;
        }
        drop(kept);
        self.watched(sides, &all)?;
        for side in sides {
            remove(side, &all)?;
        }
        let mut memory = memory.into_iter();
        let (ours, peer) = (memory.next().unwrap_or_default(), memory.next().unwrap_or_default());
        let name = format!("daemon's RSS, {crowd} running");
        self.row(Row {
            name,
            unit: "MB",
            target: Target::AtMost(40.0),
            ours,
            peer,
            note: "shims apart".into(),
        });
        Ok(())
    }

    /// What it costs to be told all the time what running containers use: of the daemons, of the shims that read for
    /// dockerd what our engine reads by itself, and how much one is told for it.
    fn watched(&mut self, sides: &[&Side], all: &[String]) -> Result<()> {
        let watch = WATCHED.min(all.len());
        let mut costs: [[Vec<f64>; 2]; 3] = Default::default();
        for turn in 0..SLOW_RUNS {
            for n in super::order(sides.len(), turn) {
                let side = sides[n];
                let daemon = side.place.daemon(&side.socket)?;
                let shims = side.shims(all)?;
                let before = (side.place.cpu_seconds(&daemon)?, side.place.cpu_seconds(&shims)?);
                // Asked for by name, the client gives up when a container has told nothing within two seconds, which an
                // emulated dockerd does not keep with a hundred. Where nobody else runs, it is asked for all.
                let alone = side.docker(&["ps", "-q"])?.lines().count() == watch;
                let named = all.iter().take(watch).map(String::as_str).filter(|_| !alone);
                let args: Vec<&str> = ["stats"].into_iter().chain(named).collect();
                let mut client = side
                    .command(&args)
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .context("docker")?;
                let told = told(&side.socket, &format!("/v1.47/containers/{}/stats", all[0]), WATCH)?;
                let ended = client.try_wait()?;
                client.kill()?;
                let said = client.wait_with_output()?.stderr;
                let said = String::from_utf8_lossy(&said);
                ensure!(ended.is_none(), "{}: docker stats has ended ({ended:?}): {said}", side.name);
                let own = side.place.cpu_seconds(&daemon)? - before.0;
                let with_shims = own + side.place.cpu_seconds(&shims)? - before.1;
                for (cost, value) in costs.iter_mut().zip([own * 1e3, with_shims * 1e3, told as f64]) {
                    cost[n].push(value);
                }
            }
        }
        let stats = format!("CPU of {} s docker stats over {watch}", WATCH.as_secs());
        let rows = [
            (stats.clone(), "ms", Target::None, "the daemon's own, client and shims apart"),
            (format!("{stats}, with shims"), "ms", Target::Ratio(0.3), "client apart"),
            ("the same: samples told of one of them".to_owned(), "", Target::None, "more is better"),
        ];
        for ((name, unit, target, note), [ours, peer]) in rows.into_iter().zip(costs) {
            self.row(Row { name, unit, target, ours, peer, note: note.into() });
        }
        Ok(())
    }

    /// What the daemons do when nobody asks anything of them, for so many seconds, while so many containers run.
    pub fn idle(&mut self, sides: &[&Side], seconds: u64, running: usize) -> Result<()> {
        let names = Names::of(&self.folder)?;
        let all: Vec<String> = (0..running).map(|n| names.container(format!("idle-{n}"))).collect();
        for side in sides {
            // What rows before left.
            let label = format!("label={}", names.label);
            let left = side.docker(&["ps", "-aq", "--no-trunc", "--filter", &label])?;
            remove(side, &left.lines().map(str::to_owned).collect::<Vec<_>>())?;
            start(side, &names, &all)?;
        }
        sys::pause(SETTLE);
        let mut daemons = Vec::new();
        for side in sides {
            let pids = side.place.daemon(&side.socket)?;
            let before = side.place.activity(&pids)?;
            daemons.push((side, pids, before));
        }
        let started = Instant::now();
        sys::pause(Duration::from_secs(seconds));
        let (mut busy, mut switches) = (vec![Vec::new(); 2], vec![Vec::new(); 2]);
        for (n, (side, pids, before)) in daemons.into_iter().enumerate() {
            let after = side.place.activity(&pids)?;
            let window = started.elapsed().as_secs_f64();
            busy[n].push(after.cpu_since(&before) / window * 100.0);
            switches[n].push(after.switches_since(&before) as f64 * 60.0 / window);
        }
        for side in sides {
            remove(side, &all)?;
        }
        let note = format!("over {seconds} s; the daemon's own, shims apart");
        for (name, unit, target, samples) in [
            (format!("idle CPU, {running} running"), "%", Target::AtMost(0.05), busy),
            (format!("idle context switches a minute, {running} running"), "", Target::None, switches),
        ] {
            let mut samples = samples.into_iter();
            let (ours, peer) = (samples.next().unwrap_or_default(), samples.next().unwrap_or_default());
            self.row(Row { name, unit, target, ours, peer, note: note.clone() });
        }
        Ok(())
    }
}

/// Starts containers that sleep, some at once.
fn start(side: &Side, names: &Names, all: &[String]) -> Result<()> {
    for some in all.chunks(AT_ONCE) {
        let starts: Vec<Vec<String>> = some
            .iter()
            .map(|name| names.run_args(&["-d", "--name", name, &names.image, "sleep", "100000"]))
            .map(|args| args.into_iter().map(str::to_owned).collect())
            .collect();
        side.time_parallel(&starts).context("a crowd")?;
    }
    Ok(())
}

/// Removes containers.
fn remove(side: &Side, all: &[String]) -> Result<()> {
    for some in all.chunks(AT_ONCE) {
        let args: Vec<&str> = ["rm", "-f"].into_iter().chain(some.iter().map(String::as_str)).collect();
        side.docker(&args)?;
    }
    Ok(())
}
