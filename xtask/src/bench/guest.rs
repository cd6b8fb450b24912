//! `bench --guest`: the rows in guests, through their forwarded sockets, and the boot.
//!
//! With `--dockerd` a second guest stands beside: the same kernel, init, link and QEMU line, with Debian's dockerd
//! (containerd, runc) in the engine's place, on a disk of its own, uncompressed. So both sides have
//! cgroup v2 with its controllers (which of them, is printed).

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::machine::{Machine, Parts};
use super::outside::Ways;
use super::place::Place;
use super::report::{Row, Target, head};
use super::side::Side;
use super::sys::{Running, pause};
use super::{Bench, Clean, Names, Options, Part, SLOW_RUNS, image, load};
use crate::cpio::Cpio;
use crate::debian::{self, Debian};
use crate::{stage, tools};

/// Containers at once: the guest has less of everything.
const MANY: usize = 20;
/// Containers of a crowd: dockerd makes them at one or two a second there.
const CROWD: usize = 100;
/// Boots of each kind, at most.
const BOOTS: usize = 5;
/// Longest a bare kernel may take to its userspace.
const BARE_LIMIT: Duration = Duration::from_secs(60);
/// How often a boot that is not measured is tried again.
const UP_TRIES: usize = 2;
/// What `bare_init` says.
const UP: &[u8] = b"userspace: up";

/// Runs all rows, prints the table.
pub fn run(options: &Options) -> Result<()> {
    let programs = options.programs.clone().unwrap_or_else(|| stage::dir().join("bin"));
    let coracle = programs.join("coracle");
    ensure!(coracle.is_file(), "{} is not there: run `cargo xtask stage` first", coracle.display());
    let cli = tools::docker()?;
    let qemu = crate::qemu()?;
    let folder = tempfile::Builder::new().prefix("cb-").tempdir()?;
    let arch = debian::host_arch();
    let ours_image = crate::image_in(arch, Some(programs.clone()), Some(folder.path().join("image")), false)?;
    let mut bench = Bench {
        names: Names::of(folder.path())?,
        rows: Vec::new(),
        runs: options.runs.into(),
        many: MANY,
        crowd: CROWD,
        folder: folder.path().into(),
    };
    let ways = Ways::new(folder.path())?;
    let (more, forwards) = (ways.arguments(), ways.forwards());
    let parts = Parts {
        coracle: &coracle,
        image: &ours_image,
        qemu: &qemu,
        more: &more,
        forwards: &forwards,
        cli: &cli,
    };
    let ours = Machine::new(&parts, &folder.path().join("o"))?;
    let peer = match options.dockerd {
        false => None,
        true => {
            let disk = dockerd_disk(folder.path())?;
            let image = dockerd_image(&programs, folder.path())?;
            let more = [
                "-drive".to_owned(),
                format!("if=none,id=peer,format=raw,readonly=on,file={}", disk.display()),
                "-device".to_owned(),
                "virtio-blk-pci,drive=peer".to_owned(),
            ];
            let parts = Parts { image: &image, more: &more, forwards: "", ..parts };
            Some(Machine::new(&parts, &folder.path().join("p"))?)
        }
    };

    println!("load average at the start: {}\n{}", load(), head());
    if options.outside || !options.wants(Part::Fresh) {
        ours.boot()?;
        peer.as_ref().map_or(Ok(()), up)?;
    } else {
        boots(&mut bench, &ours, peer.as_ref(), &bare_initrd(folder.path())?)?;
    }
    println!("  guests run by {}", ours.accel()?);

    let side = |name, machine: &Machine, daemon| {
        let side = Side::new(name, &machine.socket(), &cli, &folder.path().join(name));
        side.in_guest(Place::Guest { shell: machine.shell(), daemon })
    };
    let ours_side = side("ours", &ours, "coracle-engine");
    let peer_side = peer.as_ref().map(|machine| side("peer", machine, "dockerd"));
    let sides: Vec<&Side> = [&ours_side].into_iter().chain(&peer_side).collect();
    if !options.outside && options.wants(Part::Fresh) {
        bench.idle_memory(&sides)?;
    }
    let _clean = Clean { sides: &sides, label: bench.names.label.clone(), image: bench.names.image.clone() };
    let busybox = tools::environment()?.into_iter().find(|(name, _)| name == "CORACLE_TEST_BUSYBOX");
    let busybox = busybox.context("no busybox among the tools")?.1;
    let archive = image::image(&busybox, &bench.names.image, folder.path())?;
    for side in &sides {
        side.docker(&["load", "-q", "-i", &archive.display().to_string()])?;
    }
    let versions: Vec<String> = sides
        .iter()
        .map(|s| {
            let format = "{{.Server.Version}}, Linux {{.Server.KernelVersion}}";
            s.docker(&["version", "-f", format]).map(|v| format!("{}: {v}", s.name))
        })
        .collect::<Result<_>>()?;
    println!("{}", versions.join("; "));
    if options.wants(Part::Ports) {
        bench.ports(&ours_side, &ours, &ways)?;
    }
    if options.wants(Part::Folders) {
        let shared = ours.shared("bench")?;
        bench.folders(&ours_side, &ours, &shared)?;
        bench.news(&ours_side, &shared)?;
    }
    if options.outside {
        println!("load average at the end: {}", load());
        return bench.write(options, &versions);
    }
    bench.of_containers(&sides, options)?;
    println!("load average at the end: {}", load());
    bench.write(options, &versions)
}

/// Boots both ways in turn, the machine's first boot (which makes its data disk) not counted; leaves all running.
fn boots(bench: &mut Bench, ours: &Machine, peer: Option<&Machine>, initrd: &Path) -> Result<()> {
    let (mut boot, mut bare, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    ours.boot()?;
    ours.stop()?;
    if let Some(peer) = peer {
        up(peer)?;
        peer.stop()?;
    }
    for turn in 0..bench.runs.min(BOOTS) {
        bare.push(bare_boot(ours, initrd, &bench.folder)?);
        boot.push(ours.boot()?);
        ours.stop()?;
        if let Some(peer) = peer
            && turn < SLOW_RUNS
        {
            theirs.push(peer.boot()?);
            peer.stop()?;
        }
    }
    bench.row(Row {
        name: "exec to `docker version`, bare boot".into(),
        unit: "ms",
        target: Target::Ratio(2.0),
        ours: boot.clone(),
        peer: bare,
        note: "peer: the bare kernel to userspace, same QEMU line".into(),
    });
    if let Some(peer) = peer {
        bench.row(Row {
            name: "exec to `docker version`, dockerd".into(),
            unit: "ms",
            target: Target::None,
            ours: boot,
            peer: theirs,
            note: "both with their data disk made before".into(),
        });
        up(peer)?;
    }
    ours.boot().map(drop)
}

/// A boot that is not measured. dockerd on a busy computer takes longer than a daemon waits for an engine: once more.
fn up(machine: &Machine) -> Result<()> {
    let mut tries = (0..UP_TRIES).map(|_| machine.boot());
    tries.find_map(Result::ok).map(drop).map_or_else(|| machine.boot().map(drop), Ok)
}

/// Milliseconds from the exec of QEMU to userspace, by the same line as the machine's. QEMU is ended then.
fn bare_boot(machine: &Machine, initrd: &Path, folder: &Path) -> Result<f64> {
    let console = machine.console();
    let mut log = fs::File::open(&console).with_context(|| format!("read {}", console.display()))?;
    log.seek(SeekFrom::End(0))?;
    let command = machine.bare(initrd)?;
    let started = Instant::now();
    let mut qemu = Running::start(command, &folder.join("bare.log"))?;
    let mut said = Vec::new();
    loop {
        log.read_to_end(&mut said)?;
        if said.windows(UP.len()).any(|w| w == UP) {
            break;
        }
        if let Some(end) = qemu.ended()? {
            let words = fs::read_to_string(folder.join("bare.log"))?;
            anyhow::bail!("QEMU ended ({end}) before its guest was up: {words}");
        }
        ensure!(started.elapsed() < BARE_LIMIT, "no bare kernel within {BARE_LIMIT:?}");
        pause(Duration::from_millis(1));
    }
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// An initrd whose init only says that it is there.
fn bare_initrd(folder: &Path) -> Result<PathBuf> {
    let triple = stage::triple();
    let mut cargo = stage::cargo(&stage::build_id());
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    cargo.args(["build", "--quiet", "--release", "--locked", "--target", &triple]);
    stage::run(cargo.args(["--package", "guest", "--example", "bare_init"]))?;
    let init = crate::target_dir().join(triple).join("release/examples/bare_init");
    let mut cpio = Cpio::default();
    cpio.dir("dev");
    cpio.device("dev/console", 0o600, 5, 1);
    cpio.file("init", 0o755, &fs::read(init)?);
    let path = folder.join("bare.initrd");
    fs::write(&path, cpio.finish())?;
    Ok(path)
}

/// Debian's dockerd with all it stands on, as a read-only disk.
fn dockerd_disk(folder: &Path) -> Result<PathBuf> {
    let tree = Debian::open("forky")?.tree("dockerd", &["docker.io", "iptables"])?;
    let disk = folder.join("dockerd.erofs");
    crate::image::erofs(tree.root(), &disk, &[])?;
    Ok(disk)
}

/// Stands in the engine's place: mounts the disk and becomes dockerd.
const DOCKERD: &str = r#"#!/bin/sh
set -e
# Mounts of its own, the disk as their very root: from a mere chroot an exec would end in the guest's root, not in the
# container's, for joining mounts begins at their root.
[ "$1" = inside ] || exec unshare -m "$0" inside "$@"
while [ $# -gt 0 ]; do
    case "$1" in --socket) socket=$2 ;; --root) root=$2 ;; esac
    shift
done
mount --make-rprivate /
top=/run/dockerd
mkdir -p $top/disk $top/rw $top/root "$root"
mount -t erofs -o ro /dev/vdc $top/disk
mount -t tmpfs none $top/rw
mkdir $top/rw/upper $top/rw/work
mount -t overlay -o lowerdir=$top/disk,upperdir=$top/rw/upper,workdir=$top/rw/work none $top/root
cd $top/root
mkdir -p dev proc sys run tmp var/lib/docker old
mount --rbind /dev dev
mount --rbind /proc proc
mount --rbind /sys sys
mount --bind /run run
mount --bind "$root" var/lib/docker
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
    ln -sf xtables-nft-multi usr/sbin/$name
done
cp /etc/resolv.conf etc/resolv.conf
pivot_root . old
PATH=/usr/sbin:/usr/bin exec /old/usr/bin/busybox chroot . /old/usr/bin/busybox sh -c '
    /old/usr/bin/busybox umount -l /old
    exec dockerd --host "unix://$0" --data-root /var/lib/docker --exec-root /run/docker \
        --exec-opt native.cgroupdriver=cgroupfs' "$socket"
"#;

/// The guest's image with dockerd's start in the engine's place.
fn dockerd_image(programs: &Path, folder: &Path) -> Result<PathBuf> {
    let with = folder.join("dockerd-programs");
    fs::create_dir_all(&with)?;
    for program in ["coracle-guest", "coracle-shim"] {
        fs::copy(programs.join(program), with.join(program))?;
    }
    fs::write(with.join("coracle-engine"), DOCKERD)?;
    stage::run(std::process::Command::new("chmod").arg("755").arg(with.join("coracle-engine")))?;
    crate::image_in(debian::host_arch(), Some(with), Some(folder.join("dockerd-image")), false)
}
