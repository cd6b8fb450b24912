//! What we push and save is what other tools read, and the other way round: skopeo, podman and buildx, through a
//! registry and through archives. dockerd itself, where the environment names one (`CORACLE_TEST_PEER`).

use std::process::Command;

use serde_json::json;
use tests::{Cli, Engine, Outcome, Registry, images, store, tool};

const OURS: &str = "127.0.0.1:5000/ours:1";

/// A tool beside the engine, in its sandbox, with settings of its own.
fn beside(engine: &Engine, variable: &str) -> Command {
    let home = engine.path("home");
    std::fs::create_dir_all(&home).expect("make a home");
    let mut command = engine.sandbox.command(tool(variable));
    command.env("HOME", &home).env("XDG_RUNTIME_DIR", &home).current_dir(&home);
    command
}

fn skopeo(engine: &Engine, args: &[&str]) -> Outcome {
    let mut command = beside(engine, "CORACLE_TEST_SKOPEO");
    command.args(["--insecure-policy", "--tmpdir"]).arg(engine.folder.path()).args(args);
    command.output().expect("skopeo").into()
}

/// Podman starts itself anew for every layer, so it runs in a root of its own: Debian's packages, in the sandbox.
/// Before anything else it looks for what networks need; images need nothing of it, so there is only its name.
const PODMAN_ROOT: &str = r#"set -e
mkdir -p "$1/root" "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mkdir -p proc dev sys tmp run var/tmp usr/lib/podman
for name in proc dev sys; do mount --rbind /$name $name; done
cp "$3" usr/lib/podman/netavark
"#;

fn podman(engine: &Engine, args: &[&str]) -> Outcome {
    let place = engine.path("podman");
    if !place.exists() {
        let mut make = engine.sandbox.command("sh");
        make.args(["-c", PODMAN_ROOT, "sh"]).arg(&place);
        make.arg(tool("CORACLE_TEST_PODMAN")).arg(tool("CORACLE_TEST_BUSYBOX"));
        Outcome::from(make.output().expect("sh")).ok();
    }
    let mut command = engine.sandbox.command("chroot");
    command.arg(place.join("root")).args([
        "/usr/bin/podman",
        "--storage-driver",
        "vfs",
        "--events-backend",
        "none",
    ]);
    command
        .env("HOME", "/root")
        .env("PATH", "/usr/sbin:/usr/bin")
        .env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1");
    command.args(&args[..1]).arg("--tls-verify=false").args(&args[1..]);
    command.output().expect("podman").into()
}

/// An engine with an image of two layers that is pushed as [`OURS`]; its digest.
fn pushed() -> (Engine, Registry, String) {
    let engine = Engine::start();
    let registry = Registry::start(&engine.sandbox, engine.folder.path());
    let archive = engine.path("two.tar");
    let layers =
        [images::busybox_layer(&[]), images::busybox_layer(&[images::File("etc/motd", 0o644, b"hello\n")])];
    images::archive(&archive, OURS, json!({ "Cmd": ["cat", "/etc/motd"] }), &layers);
    engine.docker(&["load", "-q", "-i", archive.to_str().expect("a plain path")]).ok();
    engine.docker(&["push", "-q", OURS]).ok();
    let digest = engine.docker(&["image", "inspect", "-f", "{{.Id}}", OURS]).ok();
    (engine, registry, digest)
}

/// Pulls what another tool pushed, and runs it.
#[track_caller]
fn comes_back(engine: &Engine, name: &str) {
    assert_eq!(engine.docker(&["run", "--rm", "--pull", "always", "-q", name]).ok(), "hello", "{name}");
}

#[test]
fn skopeo_reads_what_we_push_and_we_read_what_it_pushes() {
    let (engine, _registry, digest) = pushed();
    let source = format!("docker://{OURS}");
    let said = skopeo(&engine, &["inspect", "--tls-verify=false", &source]).ok();
    let said: serde_json::Value = serde_json::from_str(&said).expect("skopeo says JSON");
    assert_eq!(said["Digest"], json!(digest));
    assert_eq!(said["Layers"].as_array().map(Vec::len), Some(2), "{said}");
    let target = "docker://127.0.0.1:5000/skopeo:1";
    let both = ["copy", "--src-tls-verify=false", "--dest-tls-verify=false"];
    skopeo(&engine, &[&both[..], &["--preserve-digests", &source, target]].concat()).ok();
    comes_back(&engine, "127.0.0.1:5000/skopeo:1");
    assert_eq!(engine.docker(&["image", "inspect", "-f", "{{.Id}}", "127.0.0.1:5000/skopeo:1"]).ok(), digest);
    // Compressed otherwise it is another image with the same files.
    let target = "docker://127.0.0.1:5000/zstd:1";
    let zstd = ["--dest-compress-format", "zstd", "--format", "oci"];
    skopeo(&engine, &[&both[..], &zstd, &[&source, target]].concat()).ok();
    comes_back(&engine, "127.0.0.1:5000/zstd:1");
}

#[test]
fn podman_pulls_what_we_push_and_we_pull_what_it_pushes() {
    let (engine, _registry, _) = pushed();
    podman(&engine, &["pull", "-q", OURS]).ok();
    podman(&engine, &["push", "-q", OURS, "docker://127.0.0.1:5000/podman:1"]).ok();
    comes_back(&engine, "127.0.0.1:5000/podman:1");
}

#[test]
fn buildx_inspects_what_we_push() {
    let (engine, _registry, digest) = pushed();
    let mut buildx = beside(&engine, "CORACLE_TEST_BUILDX");
    buildx
        .args(["imagetools", "inspect", OURS])
        .env("DOCKER_HOST", format!("unix://{}", engine.socket().display()));
    let said = Outcome::from(buildx.output().expect("buildx")).ok();
    assert!(said.contains(&digest) && said.contains("Name:      127.0.0.1:5000/ours:1"), "{said}");
}

#[test]
fn archives_go_both_ways() {
    let (engine, _registry, digest) = pushed();
    let path = |name: &str| engine.path(name).to_str().expect("a plain path").to_owned();
    let saved = path("saved.tar");
    engine.docker(&["save", "-o", &saved, OURS]).ok();
    assert_eq!(store::archive_faults(&std::fs::read(&saved).expect("the archive")), [""; 0]);
    // Ours is a docker-archive and an OCI one.
    for (from, to) in [("docker-archive", "from-docker"), ("oci-archive", "from-oci")] {
        let target = format!("oci:{}", path(to));
        skopeo(&engine, &["copy", &format!("{from}:{saved}"), &target]).ok();
        let back = format!("docker-archive:{}:back/{to}:1", path(&format!("{to}.tar")));
        skopeo(&engine, &["copy", &target, &back]).ok();
        engine.docker(&["load", "-q", "-i", &path(&format!("{to}.tar"))]).ok();
        assert_eq!(engine.docker(&["run", "--rm", &format!("back/{to}:1")]).ok(), "hello");
    }
    // An OCI archive of skopeo's keeps the image what it is.
    let oci = path("skopeo.oci.tar");
    let source = format!("docker://{OURS}");
    let target = format!("oci-archive:{oci}:127.0.0.1:5000/ours:oci");
    skopeo(&engine, &["copy", "--src-tls-verify=false", "--preserve-digests", &source, &target]).ok();
    let loaded = engine.docker(&["load", "-i", &oci]).ok();
    assert!(loaded.contains("ours:oci") || loaded.contains(&digest), "{loaded}");
    assert_eq!(engine.docker(&["run", "--rm", &digest]).ok(), "hello");
}

/// By hand, beside a real dockerd: CI has none.
#[test]
fn dockerd_loads_what_we_save_and_we_load_what_it_saves() {
    let Some(peer) = std::env::var_os("CORACLE_TEST_PEER") else {
        eprintln!("SKIPPED: CORACLE_TEST_PEER does not name a dockerd's socket");
        return;
    };
    let engine = Engine::start();
    let archive = engine.path("two.tar");
    let name = format!("coracle-interop-{}:1", std::process::id());
    let motd = images::busybox_layer(&[images::File("etc/motd", 0o644, b"hello\n")]);
    images::archive(&archive, &name, json!({ "Cmd": ["cat", "/etc/motd"] }), &[motd]);
    engine.docker(&["load", "-q", "-i", archive.to_str().expect("a plain path")]).ok();
    let dockerd = |args: &[&str], input: &[u8]| {
        let mut command = Command::new(Cli::V28.program());
        command.args(args).env("DOCKER_HOST", format!("unix://{}", peer.to_string_lossy()));
        tests::engine::with_input(command, input)
    };
    let saved = engine.command(&["save", &name]).output().expect("docker").stdout;
    dockerd(&["load", "-q"], &saved).ok();
    let ran = dockerd(&["run", "--rm", "--network", "none", &name], b"");
    let path = engine.path("theirs.tar");
    let kept = dockerd(&["save", "-o", path.to_str().expect("a plain path"), &name], b"");
    let gone = dockerd(&["rmi", "-f", &name], b"");
    assert_eq!(ran.ok(), "hello");
    kept.ok();
    gone.ok();
    engine.docker(&["rmi", &name]).ok();
    engine.docker(&["load", "-q", "-i", path.to_str().expect("a plain path")]).ok();
    assert_eq!(engine.docker(&["run", "--rm", &name]).ok(), "hello");
}
