//! The rows about images: pull, load, save, push, what they take of memory and disk, and what many cost at start.
//!
//! Every sample has a daemon of its own with an empty folder (module doc of `bench`). Ours is held against dockerd's
//! two image stores, the default one and containerd's, where a command for each was given, and against the limit: the
//! time that a program takes that does nothing but unpack the same layers from memory (`image`'s example `limit`).

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::report::{Row, Target, spread};
use super::side::{Daemon, Launch, launch};
use super::sys::{self, Running};
use super::{Bench, Options, SLOW_RUNS, await_registry, order};
use crate::debian::hex;
use crate::stage;

/// Up-to-date pulls after each cold one.
const AGAIN: usize = 3;
/// Images of the row about the start with many.
const MANY_IMAGES: usize = 500;
/// Where the registry that is pushed to listens, in the daemon's own network namespace.
const PUSH_PORT: u16 = 5001;

/// What the rows need besides daemons.
pub struct Tools<'a> {
    /// The stock CLI.
    pub cli: &'a Path,
    /// docker-registry.
    pub registry: &'a Path,
    /// The limit program.
    pub limit: &'a Path,
}

/// Builds the limit program.
pub fn limit_program() -> Result<PathBuf> {
    let triple = stage::triple();
    let mut cargo = stage::cargo(&stage::build_id());
    // As the staged programs: what it stands on is built already then.
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    cargo.args(["build", "--quiet", "--release", "--locked", "--target", &triple]);
    stage::run(cargo.args(["--package", "image", "--example", "limit"]))?;
    Ok(crate::target_dir().join(triple).join("release/examples/limit"))
}

/// Samples of one kind of daemon.
#[derive(Default)]
struct Samples {
    cold: Vec<f64>,
    again: Vec<f64>,
    peak: Vec<f64>,
    disk: Vec<f64>,
    save: Vec<f64>,
    push: Vec<f64>,
    push_again: Vec<f64>,
    load: Vec<f64>,
}

impl Bench {
    /// Rows about one large image, [`Options::pull`].
    pub fn images(&mut self, ours: &Launch<'_>, options: &Options, tools: &Tools<'_>) -> Result<()> {
        let default = options.peer_daemon.as_deref().map(|command| Launch::Peer { command });
        let containerd = options.peer_daemon_containerd.as_deref().map(|command| Launch::Peer { command });
        // Ours, dockerd's default store, its containerd store.
        let places = [Some(ours), default.as_ref(), containerd.as_ref()];
        let kinds: Vec<usize> = (0..places.len()).filter(|n| places[*n].is_some()).collect();
        let mut all: Vec<Samples> = places.iter().map(|_| Samples::default()).collect();
        let mut limits = Vec::new();
        let archive = self.folder.join("image-of-the-rows.tar");
        for turn in 0..self.runs.min(SLOW_RUNS) {
            for at in order(kinds.len(), turn) {
                let n = kinds[at];
                let Some(how) = places[n] else { continue };
                let folder = self.folder.join(format!("pulled-{n}-{turn}"));
                self.registry_rows(how, options, tools, &folder, &mut all[n]).with_context(|| {
                    format!("rows about images, {}", ["ours", "default", "containerd"][n])
                })?;
                if n == 0 {
                    limits.push(limit(tools.limit, &folder, &self.folder.join(format!("limit-{turn}")))?);
                }
            }
            if turn == 0 {
                self.archive_of(places, options, tools.cli, &archive)?;
            }
            for at in order(kinds.len(), turn) {
                let n = kinds[at];
                let Some(how) = places[n] else { continue };
                let folder = self.folder.join(format!("loaded-{n}-{turn}"));
                let daemon = launch(how, &folder, tools.cli)?;
                stage::run(&mut Command::new("sync"))?;
                let took = daemon.side.time(&["load", "-q", "-i", &archive.display().to_string()])?;
                ensure!(!daemon.side.docker(&["images", "-q"])?.is_empty(), "nothing was loaded");
                all[n].load.push(took);
            }
        }
        let mut all = all.into_iter();
        let (ours, default, containerd) =
            (all.next().unwrap_or_default(), all.next().unwrap_or_default(), all.next().unwrap_or_default());
        self.image_rows(ours, default, containerd, limits);
        Ok(())
    }

    /// Pull, save and push with a daemon of its own, which is empty.
    fn registry_rows(
        &self,
        how: &Launch<'_>,
        options: &Options,
        tools: &Tools<'_>,
        folder: &Path,
        samples: &mut Samples,
    ) -> Result<()> {
        let daemon = launch(how, folder, tools.cli)?;
        let Daemon { side, .. } = &daemon;
        let empty = disk(folder)?;
        let pids = side.place.daemon(&side.socket)?;
        let idle: u64 = pids.iter().map(|pid| sys::reset_peak(*pid)).sum::<Result<u64>>()?;
        // What the other side just wrote must not be written back at this one's expense.
        stage::run(&mut Command::new("sync"))?;
        samples.cold.push(side.time(&["pull", "-q", &options.pull])?);
        let peak: u64 = pids.iter().map(|pid| sys::peak(*pid)).sum();
        ensure!(peak > 0, "the daemon has ended");
        samples.peak.push(peak.saturating_sub(idle) as f64 / 1024.0);
        ensure!(!side.docker(&["images", "-q"])?.is_empty(), "nothing was pulled");
        // Delayed allocation: blocks are counted when they are written.
        stage::run(&mut Command::new("sync"))?;
        samples.disk.push(disk(folder)?.saturating_sub(empty) as f64 / f64::from(1 << 20));
        for _ in 0..AGAIN {
            samples.again.push(side.time(&["pull", "-q", &options.pull])?);
        }
        samples.save.push(side.time(&["save", &options.pull])?);

        let first = pids.first().context("a daemon has a process")?;
        let registry = push_registry(*first, tools.registry, &folder.join("pushed"))?;
        let target = format!("127.0.0.1:{PUSH_PORT}/pushed:latest");
        side.docker(&["tag", &options.pull, &target])?;
        stage::run(&mut Command::new("sync"))?;
        samples.push.push(side.time(&["push", "-q", &target])?);
        for _ in 0..AGAIN {
            samples.push_again.push(side.time(&["push", "-q", &target])?);
        }
        drop(registry);
        Ok(())
    }

    /// The archive that all load: as the default store's dockerd saves it, which is what most archives are.
    fn archive_of(
        &self,
        places: [Option<&Launch<'_>>; 3],
        options: &Options,
        cli: &Path,
        archive: &Path,
    ) -> Result<()> {
        let [ours, default, _] = places;
        let how = default.or(ours).context("someone to save it")?;
        let daemon = launch(how, &self.folder.join("saved"), cli)?;
        daemon.side.docker(&["pull", "-q", &options.pull])?;
        daemon.side.docker(&["save", "-o", &archive.display().to_string(), &options.pull])?;
        Ok(())
    }

    fn image_rows(&mut self, ours: Samples, default: Samples, containerd: Samples, limits: Vec<Limit>) {
        let mut add = |name: &str, unit, target, ours: &[f64], peer: &[f64], note: &str| {
            let (ours, peer) = (ours.to_vec(), peer.to_vec());
            self.row(Row { name: name.into(), unit, target, ours, peer, note: note.into() });
        };
        let empty = "each into an empty folder; nothing deleted before";
        add("pull, cold", "ms", Target::Ratio(0.3), &ours.cold, &default.cold, empty);
        add("pull, cold, containerd store", "ms", Target::Ratio(0.6), &ours.cold, &containerd.cold, empty);
        let least: Vec<f64> = limits.iter().map(|l| l.least).collect();
        let what = limits.first().map(|l| {
            format!(
                "peer: {} layers, {} files, from memory on {} processors",
                l.layers, l.files, l.processors
            )
        });
        let what = what.unwrap_or_default();
        add("pull, cold, beside the limit", "ms", Target::Ratio(1.3), &ours.cold, &least, &what);
        add("pull, up to date", "ms", Target::Ratio(1.0), &ours.again, &default.again, "");
        add("pull, up to date, containerd store", "ms", Target::None, &ours.again, &containerd.again, "");
        let saved_by = if default.load.is_empty() { "ours" } else { "the default store" };
        let archive = &format!("the same archive, saved by {saved_by}");
        add("load", "ms", Target::Ratio(0.3), &ours.load, &default.load, archive);
        add("load, containerd store", "ms", Target::None, &ours.load, &containerd.load, archive);
        add(
            "save",
            "ms",
            Target::Ratio(0.7),
            &ours.save,
            &default.save,
            "the default store writes layers uncompressed",
        );
        add("save, containerd store", "ms", Target::None, &ours.save, &containerd.save, "");
        add("push", "ms", Target::Ratio(0.7), &ours.push, &default.push, "into an empty registry");
        add(
            "push, containerd store",
            "ms",
            Target::None,
            &ours.push,
            &containerd.push,
            "into an empty registry",
        );
        add("push, all there", "ms", Target::None, &ours.push_again, &default.push_again, "");
        add("peak memory of a pull above idle", "MB", Target::AtMost(64.0), &ours.peak, &default.peak, "RSS");
        add(
            "disk, containerd store",
            "MB",
            Target::Ratio(1.0),
            &ours.disk,
            &containerd.disk,
            "of the pulled image",
        );
        add(
            "disk, default store",
            "MB",
            Target::None,
            &ours.disk,
            &default.disk,
            "which keeps no compressed layers",
        );
    }

    /// The start with many images, and with one.
    pub fn start_with_many(&mut self, ours: &Launch<'_>, cli: &Path) -> Result<()> {
        let mut samples = Vec::new();
        for count in [MANY_IMAGES, 1] {
            let folder = self.folder.join(format!("start-{count}"));
            let archive = self.folder.join(format!("{count}.tar"));
            many_images(&archive, count)?;
            let daemon = launch(ours, &folder, cli)?;
            daemon.side.docker(&["load", "-q", "-i", &archive.display().to_string()])?;
            let there = daemon.side.docker(&["images", "-q"])?.lines().count();
            ensure!(there == count, "{there} images are there, not {count}");
            drop(daemon);
            samples.push(folder);
        }
        let mut times = vec![Vec::new(); 2];
        for turn in 0..self.runs {
            for n in order(2, turn) {
                times[n].push(launch(ours, &samples[n], cli)?.started_in);
            }
        }
        let one = times.pop().unwrap_or_default();
        let many = times.pop().unwrap_or_default();
        self.row(Row {
            name: format!("start with {MANY_IMAGES} images"),
            unit: "ms",
            target: Target::Ratio(1.5),
            ours: many,
            peer: one,
            note: "peer: ours with one image".into(),
        });
        Ok(())
    }
}

/// What the limit program measured.
struct Limit {
    /// Milliseconds: `max(largest layer, sum / processors)`.
    least: f64,
    layers: usize,
    files: u64,
    processors: usize,
}

/// Runs the limit program on the blobs of the image that ours pulled into `folder`.
fn limit(program: &Path, folder: &Path, to: &Path) -> Result<Limit> {
    let blobs: Vec<PathBuf> = fs::read_dir(folder.join("root/image/blobs/sha256"))?
        .map(|item| item.map(|i| i.path()))
        .collect::<std::io::Result<_>>()?;
    ensure!(!blobs.is_empty(), "ours pulled no blobs");
    stage::run(&mut Command::new("sync"))?;
    let done = Command::new(program).arg(to).args(&blobs).output().context("run the limit program")?;
    ensure!(done.status.success(), "the limit program: {}", String::from_utf8_lossy(&done.stderr));
    let (mut times, mut files) = (Vec::new(), 0);
    for line in String::from_utf8_lossy(&done.stdout).lines() {
        let (time, made) = line.split_once(' ').context("a time and a number of files")?;
        times.push(time.parse::<f64>()?);
        files += made.parse::<u64>()?;
    }
    let processors = std::thread::available_parallelism()?.get();
    let (_, _, largest) = spread(&times).context("times of layers")?;
    let least = largest.max(times.iter().sum::<f64>() / processors as f64);
    Ok(Limit { least, layers: times.len(), files, processors })
}

/// An empty registry in the network namespace of a process.
fn push_registry(pid: u32, program: &Path, folder: &Path) -> Result<Running> {
    fs::create_dir_all(folder)?;
    let inside = |program: &Path| {
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid.to_string(), "--net", "--"]).arg(program);
        command
    };
    let address = format!("127.0.0.1:{PUSH_PORT}");
    let config = folder.join("registry.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
        folder.join("data").display()
    );
    fs::write(&config, text)?;
    let mut command = inside(program);
    command.arg("serve").arg(&config);
    let registry = Running::start(command, &folder.join("log"))?;
    await_registry(registry, &folder.join("log"), || {
        let mut curl = inside(Path::new("curl"));
        curl.args(["-sf", &format!("http://{address}/v2/")]);
        curl
    })
}

/// Bytes that a folder takes on disk, mounts in it left out.
fn disk(folder: &Path) -> Result<u64> {
    let done = Command::new("du").args(["-sx", "--block-size=1"]).arg(folder).output()?;
    // Files may go while they are counted: du says so and counts the rest.
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let number = said.split_whitespace().next().with_context(|| format!("du said {said:?}"))?;
    Ok(number.parse()?)
}

/// A docker-archive of `count` images with a layer each.
fn many_images(path: &Path, count: usize) -> Result<()> {
    let mut tar = tar::Builder::new(std::io::BufWriter::new(fs::File::create(path)?));
    let mut manifest = Vec::new();
    let header = |size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(size as u64);
        header
    };
    for n in 0..count {
        let text = n.to_string();
        let mut layer = tar::Builder::new(Vec::new());
        layer.append_data(&mut header(text.len()), "number", text.as_bytes())?;
        let layer = layer.into_inner()?;
        let config = json!({
            "architecture": crate::debian::host_arch(), "os": "linux", "config": { "Cmd": ["number"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&Sha256::digest(&layer)))] },
        })
        .to_string();
        let (config_name, layer_name) = (format!("{n}.json"), format!("{n}.tar"));
        tar.append_data(&mut header(config.len()), &config_name, config.as_bytes())?;
        tar.append_data(&mut header(layer.len()), &layer_name, layer.as_slice())?;
        manifest.push(
            json!({ "Config": config_name, "RepoTags": [format!("many:{n}")], "Layers": [layer_name] }),
        );
    }
    let manifest = json!(manifest).to_string();
    tar.append_data(&mut header(manifest.len()), "manifest.json", manifest.as_bytes())?;
    tar.into_inner()?.flush()?;
    Ok(())
}
