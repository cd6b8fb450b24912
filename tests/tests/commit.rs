//! Images made of containers and archives: `docker commit`, `docker import`, and that a container's own writes are
//! all that is in them.

use std::io::Read;

use tests::{Engine, seconds_now};

fn format(engine: &Engine, image: &str, template: &str) -> String {
    engine.docker(&["inspect", "-f", template, image]).ok()
}

#[test]
fn a_container_becomes_an_image() {
    let engine = Engine::with_busybox();
    let script = "echo hi > /made; rm /etc/passwd; mkdir -p /d/e";
    engine.docker(&["run", "--name", "box", "-e", "A=1", "-v", "/vol", "busybox", "sh", "-c", script]).ok();
    let id = engine
        .docker(&[
            "commit",
            "-a",
            "me",
            "-m",
            "words",
            "-c",
            "CMD [\"cat\", \"/made\"]",
            "-c",
            "LABEL x=y",
            "-c",
            "ENV B=1",
            "box",
            "made:1",
        ])
        .ok();
    assert_eq!(format(&engine, "made:1", "{{.Id}}"), id);
    assert_eq!(engine.docker(&["run", "--rm", "made:1"]).ok(), "hi");
    engine.docker(&["run", "--rm", "made:1", "ls", "/etc/passwd"]).fails(1, "No such file");
    assert_eq!(
        format(&engine, "made:1", "{{.Author}} {{.Config.Labels.x}} {{.Config.Env}} {{len .RootFS.Layers}}"),
        "me y [B=1 A=1] 2"
    );
    let history =
        engine.docker(&["history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "made:1"]).ok();
    assert_eq!(history.lines().next(), Some(format!("sh -c {script}|words").as_str()));

    // Who keeps a list of images hears of it, as from dockerd.
    let now = seconds_now();
    let told = ["--since", "0", "--until", now.as_str()];
    let shown = ["--filter", "type=image", "--filter", "event=create", "--filter", "event=tag"];
    let format_of = ["--format", "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}}"];
    let events = engine.docker(&[&["events"], &told[..], &shown, &format_of].concat()).ok();
    assert!(events.contains(&format!("create {id} {id}\ntag {id} made:1")), "{events}");

    // Only what it wrote: no places that the runtime mounts at, nothing of its volume.
    let saved = engine.path("made.tar");
    engine.docker(&["save", "-o", saved.to_str().unwrap(), "made:1"]).ok();
    assert_eq!(top_layer(&saved), ["d/", "d/e/", "etc/", "etc/.wh.passwd", "made", "vol/"]);
}

/// The members of the topmost layer of a saved image.
fn top_layer(saved: &std::path::Path) -> Vec<String> {
    let member = |name: &str| {
        let mut archive = tar::Archive::new(std::fs::File::open(saved).unwrap());
        let mut entries = archive.entries().unwrap().map(Result::unwrap);
        let mut found =
            entries.find(|e| e.path().unwrap().to_str() == Some(name)).expect("a member of this name");
        let mut data = Vec::new();
        found.read_to_end(&mut data).unwrap();
        data
    };
    let manifest: serde_json::Value = serde_json::from_slice(&member("manifest.json")).unwrap();
    let layers = manifest[0]["Layers"].as_array().unwrap();
    let layer = member(layers.last().unwrap().as_str().unwrap());
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer.as_slice()));
    let names = archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().to_str().unwrap().to_owned());
    names.collect()
}

#[test]
fn a_running_container_is_frozen_only_while_it_is_read() {
    let engine = Engine::with_busybox();
    engine
        .docker(&["run", "-d", "--name", "box", "busybox", "sh", "-c", "echo 1 > /f; exec sleep 1000"])
        .ok();
    let id = engine.docker(&["commit", "box"]).ok();
    assert_eq!(format(&engine, "box", "{{.State.Status}}"), "running");
    // Without a name it is an image all the same.
    assert_eq!(engine.docker(&["run", "--rm", &id, "cat", "/f"]).ok(), "1");
    assert_eq!(engine.docker(&["images", "-q", "--no-trunc", "-f", "dangling=true"]).ok(), id);
    engine.docker(&["pause", "box"]).ok();
    engine.docker(&["commit", "box"]).ok();
    assert_eq!(format(&engine, "box", "{{.State.Status}}"), "paused", "a person's pause stays");
    engine.docker(&["unpause", "box"]).ok();
    engine.docker(&["commit", "nobody"]).fails(1, "No such container: nobody");
    engine.docker(&["commit", "-c", "RUN x", "box"]).fails(1, "RUN is not a valid change command");
    engine.docker(&["commit", "box", "Bad Name"]).fails(1, "invalid reference format");
    engine.docker(&["rm", "-f", "box"]).ok();
}

#[test]
fn an_archive_becomes_an_image() {
    let engine = Engine::with_busybox();
    let rootfs = engine.path("rootfs.tar");
    let mut archive = tar::Builder::new(std::fs::File::create(&rootfs).unwrap());
    archive.append_path_with_name(tests::tool("CORACLE_TEST_BUSYBOX"), "bin/sh").unwrap();
    archive.into_inner().unwrap();
    let path = rootfs.to_str().unwrap();
    let id = engine
        .docker(&[
            "import",
            "-c",
            "CMD [\"/bin/sh\", \"-c\", \"echo imported\"]",
            "-m",
            "note",
            path,
            "imp:1",
        ])
        .ok();
    assert_eq!(format(&engine, "imp:1", "{{.Id}} {{len .RootFS.Layers}}"), format!("{id} 1"));
    assert_eq!(engine.docker(&["run", "--rm", "imp:1"]).ok(), "imported");
    assert_eq!(engine.docker(&["history", "--format", "{{.Comment}}", "imp:1"]).ok(), "note");
    let again = engine.docker_with_input(&["import", "-", "imp:2"], &std::fs::read(&rootfs).unwrap()).ok();
    assert!(again.starts_with("sha256:"), "{again}");
    engine.docker_with_input(&["import", "-"], b"no archive").fails(1, "");
    engine.docker(&["import", "http://127.0.0.1:1/x.tar"]).fails(1, "connection refused");
    assert_eq!(engine.docker(&["images", "-q", "-f", "dangling=true"]).ok(), "", "failures leave nothing");
}

#[test]
fn a_client_that_goes_away_leaves_no_container_frozen() {
    let engine = Engine::with_busybox();
    let script = "dd if=/dev/urandom of=/big bs=1M count=200 2>/dev/null; exec sleep 1000";
    engine.docker(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script]).ok();
    tests::eventually("the file is written", || {
        engine.docker(&["exec", "box", "stat", "-c", "%s", "/big"]).out.trim() == (200 << 20).to_string()
    });
    let mut client = engine.command(&["commit", "box"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    tests::eventually("the container is frozen", || format(&engine, "box", "{{.State.Status}}") == "paused");
    client.kill().unwrap();
    client.wait().unwrap();
    tests::eventually("it runs again", || format(&engine, "box", "{{.State.Status}}") == "running");
    engine.docker(&["rm", "-f", "box"]).ok();
}
