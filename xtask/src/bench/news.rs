//! How long until a program in a container hears of what the host does in a shared folder.
//!
//! ```text
//!   host: write, rename, remove --> share --link--> guest --inotify--> python in a container --docker logs--> here
//! ```
//! The container's line comes back by `docker logs -f`, which is part of what is measured.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::report::{Row, Target};
use super::side::Side;
use super::{Bench, Names};
use crate::{stage, tools};

/// Changes of each kind that are measured.
const CHANGES: usize = 40;
/// What was promised, ms.
const PROMISE: f64 = 200.0;
/// Longest until a change is given up.
const LIMIT: Duration = Duration::from_secs(30);
/// Prints kind and name of each event in a folder, as the kernel numbers kinds.
const WATCHER: &str = r#"
import ctypes, os, struct
inotify = ctypes.CDLL(None)
fd = inotify.inotify_init()
inotify.inotify_add_watch(fd, b"/p", 0x3c2)
print("ready", flush=True)
while True:
    events, at = os.read(fd, 65536), 0
    while at < len(events):
        _, kind, _, length = struct.unpack_from("iIII", events, at)
        name = events[at + 16:at + 16 + length].rstrip(b"\0").decode()
        print(kind & 0xfff, name, flush=True)
        at += 16 + length
"#;
/// `IN_MODIFY`, `IN_CREATE`, `IN_DELETE`: a rename arrives as the last two.
const MODIFY: u32 = 2;
const CREATE: u32 = 0x100;
const DELETE: u32 = 0x200;

/// A program that is ended with its value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Already dead is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bench {
    /// The rows. `shared` is a folder that the guest has.
    pub fn news(&mut self, side: &Side, shared: &Path) -> Result<()> {
        let names = Names::of(&self.folder)?;
        let tree = tools::environment()?.into_iter().find(|(name, _)| name == "CORACLE_TEST_WATCHER");
        let tree = tree.context("no python for containers among the tools")?.1;
        let archive = self.folder.join("python.tar");
        let mut tar = Command::new("tar");
        tar.args(["--exclude=./usr/share/doc", "--exclude=./usr/share/man", "--numeric-owner", "-C"]);
        stage::run(tar.arg(&tree).arg("-cf").arg(&archive).arg("."))?;
        let (image, watcher) = (format!("{}-python", names.image), names.container("watcher"));
        side.docker(&["import", &archive.display().to_string(), &image])?;
        let folder = shared.join("news");
        fs::create_dir_all(&folder)?;
        let bind = format!("{}:/p", folder.display());
        let run = ["run", "-d", "--label", &names.label, "--name", &watcher, "-v", &bind];
        side.docker(&[&run[..], &[&image, "python3", "-c", WATCHER]].concat())?;
        let mut logs = side.command(&["logs", "-f", &watcher]);
        let mut logs = Ended(logs.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
        let out = BufReader::new(logs.0.stdout.take().context("a pipe")?);
        let (send, lines) = channel();
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).try_for_each(|line| send.send((line, Instant::now())))
        });
        hears(&lines, "ready")?;

        let mut rows: [(&str, Vec<f64>); 4] = ["made", "written", "renamed", "removed"].map(|r| (r, vec![]));
        for n in 0..CHANGES {
            let (file, other) = (folder.join(format!("a{n}")), folder.join(format!("b{n}")));
            let mut measure = |row: usize, done: &dyn Fn() -> std::io::Result<()>, kind: u32, name: &str| {
                let since = Instant::now();
                done()?;
                let heard = hears(&lines, &format!("{kind} {name}{n}"))?;
                rows[row].1.push(heard.duration_since(since).as_secs_f64() * 1e3);
                anyhow::Ok(())
            };
            measure(0, &|| fs::write(&file, "1"), CREATE, "a")?;
            measure(1, &|| fs::write(&file, "2"), MODIFY, "a")?;
            measure(2, &|| fs::rename(&file, &other), CREATE, "b")?;
            measure(3, &|| fs::remove_file(&other), DELETE, "b")?;
        }
        for (what, ours) in rows {
            let most = ours.iter().copied().fold(0.0, f64::max);
            let name = format!("share: a file {what} on the host is heard of in a container");
            let note = format!("{CHANGES} times, the slowest {most:.0} ms; with `docker logs -f`");
            self.row(Row { name, unit: "ms", target: Target::AtMost(PROMISE), ours, peer: Vec::new(), note });
        }
        side.docker(&["rm", "-f", &watcher])?;
        side.docker(&["rmi", &image]).map(drop)
    }
}

/// When the line came; what comes before it is passed over.
fn hears(lines: &Receiver<(String, Instant)>, line: &str) -> Result<Instant> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok((heard, when)) if heard == line => return Ok(when),
            Ok(_) => {}
            Err(error) => return Err(anyhow!("{line:?} was not heard: {error}")),
        }
    }
}
