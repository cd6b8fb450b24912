//! Images: a real registry, archives, and what must fail cleanly.

use serde_json::json;
use tests::{Engine, Registry, images};

/// Pushes an image into the registry by hand: this engine does not push yet.
fn push(engine: &Engine, name: &str, layers: &[Vec<u8>], config: serde_json::Value) -> String {
    use sha2::{Digest, Sha256};
    let digest = |b: &[u8]| {
        format!("sha256:{}", Sha256::digest(b).iter().map(|b| format!("{b:02x}")).collect::<String>())
    };
    let put = |bytes: &[u8]| {
        let file = engine.path("blob");
        std::fs::write(&file, bytes).unwrap();
        let started = engine
            .curl(&[
                "-D",
                "-",
                "-o",
                "/dev/null",
                "-X",
                "POST",
                &format!("http://127.0.0.1:5000/v2/{name}/blobs/uploads/"),
            ])
            .ok();
        let location = started
            .lines()
            .find_map(|l| l.strip_prefix("Location: "))
            .expect("a place to upload to")
            .trim()
            .to_owned();
        let url = format!("{location}&digest={}", digest(bytes));
        engine
            .curl(&[
                "-f",
                "-X",
                "PUT",
                "--data-binary",
                &format!("@{}", file.display()),
                "-H",
                "Content-Type: application/octet-stream",
                &url,
            ])
            .ok();
        json!({ "digest": digest(bytes), "size": bytes.len() })
    };
    let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": config, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let mut config = put(config.to_string().as_bytes());
    config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
    let layers: Vec<_> = layers
        .iter()
        .map(|l| {
            let mut layer = put(l);
            layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
            layer
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers,
    })
    .to_string();
    let url = format!("http://127.0.0.1:5000/v2/{name}/manifests/latest");
    engine
        .curl(&[
            "-f",
            "-X",
            "PUT",
            "-H",
            "Content-Type: application/vnd.oci.image.manifest.v1+json",
            "-d",
            &manifest,
            &url,
        ])
        .ok();
    digest(manifest.as_bytes())
}

#[test]
fn an_image_is_pulled_from_a_registry_and_run() {
    let engine = Engine::start();
    let _registry = Registry::start(&engine.sandbox, engine.folder.path());
    let layers =
        [images::busybox_layer(&[]), images::busybox_layer(&[images::File("etc/motd", 0o644, b"hello\n")])];
    let digest = push(&engine, "box", &layers, json!({ "Cmd": ["cat", "/etc/motd"] }));
    let pulled = engine.docker(&["pull", "127.0.0.1:5000/box"]).ok();
    assert!(pulled.contains(&format!("Digest: {digest}")), "{pulled}");
    assert!(pulled.contains("Status: Downloaded newer image for 127.0.0.1:5000/box:latest"), "{pulled}");
    assert!(
        engine
            .docker(&["pull", "127.0.0.1:5000/box"])
            .ok()
            .contains("Status: Image is up to date for 127.0.0.1:5000/box:latest")
    );
    assert_eq!(engine.docker(&["run", "--rm", "127.0.0.1:5000/box"]).ok(), "hello");
    let (_, listed) = engine.request("GET", "/images/json?shared-size=1", None);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["SharedSize"], 0, "nothing is shared by one image: {listed}");
    assert_eq!(
        engine.docker(&["images", "-q", "--no-trunc"]).ok(),
        digest,
        "identity is the manifest's digest"
    );
    // Unknown to the engine, known to the registry: run pulls it.
    engine.docker(&["rmi", "127.0.0.1:5000/box"]).ok();
    assert_eq!(engine.docker(&["run", "--rm", "-q", "127.0.0.1:5000/box"]).ok(), "hello");
}

#[test]
fn a_mirror_serves_the_hubs_names() {
    let engine = Engine::with_config(
        json!({ "registry-mirrors": ["http://127.0.0.1:5000"], "insecure-registries": ["127.0.0.1:5000"] }),
    );
    let _registry = Registry::start(&engine.sandbox, engine.folder.path());
    push(
        &engine,
        "library/hub",
        &[images::busybox_layer(&[])],
        json!({ "Cmd": ["echo", "from the hub's mirror"] }),
    );
    assert_eq!(engine.docker(&["run", "--rm", "-q", "hub"]).ok(), "from the hub's mirror");
    assert_eq!(engine.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok(), "hub:latest");
}

#[test]
fn what_cannot_be_pulled_says_why() {
    let engine = Engine::start();
    let _registry = Registry::start(&engine.sandbox, engine.folder.path());
    engine
        .docker(&["pull", "127.0.0.1:5000/nope"])
        .fails(1, "manifest for 127.0.0.1:5000/nope:latest not found: manifest unknown");
    engine.docker(&["pull", "127.0.0.1:1/x"]).fails(1, "connection refused");
    engine.docker(&["run", "--rm", "127.0.0.1:1/x"]).fails(125, "connection refused");
    engine.docker(&["pull", "UPPER"]).fails(1, "repository name");
    engine.docker(&["run", "--rm", "127.0.0.1:5000/nope"]).fails(125, "manifest unknown");
    assert_eq!(engine.docker(&["images", "-q"]).ok(), "");
}

#[test]
fn saved_images_load_again() {
    let engine = Engine::with_busybox();
    let id = engine.docker(&["images", "-q", "--no-trunc", "busybox"]).ok();
    assert_ne!(
        engine.docker(&["history", "--format", "{{.Size}}", "busybox"]).ok(),
        "0B",
        "a layer has a size"
    );
    engine.docker(&["tag", "busybox", "mine:1"]).ok();
    let archive = engine.path("saved.tar");
    let archive = archive.to_str().unwrap();
    engine.docker(&["save", "-o", archive, "busybox", "mine:1"]).ok();
    engine.docker(&["rmi", "busybox", "mine:1"]).ok();
    assert_eq!(engine.docker(&["images", "-q"]).ok(), "");
    let loaded = engine.docker(&["load", "-i", archive]).ok();
    assert!(
        loaded.contains("Loaded image: busybox:latest") && loaded.contains("Loaded image: mine:1"),
        "{loaded}"
    );
    assert_eq!(
        engine.docker(&["images", "-q", "--no-trunc", "mine:1"]).ok(),
        id,
        "a saved image keeps its identity"
    );
    assert_eq!(engine.docker(&["run", "--rm", "mine:1", "echo", "whole"]).ok(), "whole");
}

#[test]
fn images_in_use_are_kept() {
    let engine = Engine::with_busybox();
    engine.docker(&["run", "--name", "user", "busybox", "true"]).ok();
    engine.docker(&["rmi", "busybox"]).fails(1, "(must be forced) - container");
    engine.docker(&["rm", "user"]).ok();
    engine.docker(&["rmi", "busybox"]).ok();
    engine.docker(&["rmi", "busybox"]).fails(1, "No such image: busybox:latest");
}

#[test]
fn hostile_archives_touch_nothing_outside() {
    let engine = Engine::start();
    let outside = engine.path("outside");
    std::fs::write(&outside, "untouched").unwrap();
    let up = format!("{}{}", "../".repeat(24), outside.display().to_string().trim_start_matches('/'));
    for (n, path) in [up.as_str(), "../../escape"].into_iter().enumerate() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut h = tar::Header::new_gnu();
        // Set by hand: the builder refuses such names.
        let name = &mut h.as_old_mut().name;
        let bytes = path.as_bytes();
        let length = bytes.len().min(name.len());
        name[..length].copy_from_slice(&bytes[..length]);
        h.set_size(4);
        h.set_mode(0o644);
        h.set_entry_type(tar::EntryType::Regular);
        h.set_cksum();
        tar.append(&h, &b"evil"[..]).unwrap();
        let archive = engine.path(&format!("evil{n}.tar"));
        images::archive(&archive, "evil:latest", json!({ "Cmd": ["sh"] }), &[tar.into_inner().unwrap()]);
        // Refused, or kept inside the layer's folder: both are safe.
        engine.docker(&["load", "-q", "-i", archive.to_str().unwrap()]);
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "untouched");
        assert!(!engine.path("escape").exists());
    }
    let broken = engine.path("broken.tar");
    std::fs::write(&broken, b"this is no archive").unwrap();
    assert_ne!(engine.docker(&["load", "-q", "-i", broken.to_str().unwrap()]).code, Some(0));
}
