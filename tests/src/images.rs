//! Test images, made from Debian's packages: archives as `docker load` takes them.

mod debian;

pub use debian::{chokidar, minbase, nginx, postgres, redis, watcher};

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::tool;

/// A file of an image: path, mode, contents.
pub struct File<'a>(pub &'a str, pub u32, pub &'a [u8]);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn header(path: &str, kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut h = tar::Header::new_gnu();
    h.set_path(path).expect("a short path");
    h.set_entry_type(kind);
    h.set_mode(mode);
    h.set_size(size);
    h.set_uid(0);
    h.set_gid(0);
    h.set_mtime(1_700_000_000);
    h.set_cksum();
    h
}

/// The busybox root file system as a layer, with more files.
pub fn busybox_layer(more: &[File<'_>]) -> Vec<u8> {
    let busybox = std::fs::read(tool("CORACLE_TEST_BUSYBOX")).expect("read busybox");
    let mut tar = tar::Builder::new(Vec::new());
    for folder in [
        "bin/", "etc/", "tmp/", "root/", "var/", "home/", "usr/", "usr/bin/", "dev/", "proc/", "sys/", "run/",
    ] {
        let mode = if folder == "tmp/" { 0o1777 } else { 0o755 };
        tar.append(&header(folder, tar::EntryType::Directory, mode, 0), std::io::empty()).expect("tar");
    }
    tar.append(&header("bin/busybox", tar::EntryType::Regular, 0o755, busybox.len() as u64), &busybox[..])
        .expect("tar");
    let applets =
        std::process::Command::new(tool("CORACLE_TEST_BUSYBOX")).arg("--list").output().expect("busybox");
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|a| *a != "busybox") {
        let mut h = header(&format!("bin/{applet}"), tar::EntryType::Symlink, 0o777, 0);
        h.set_link_name("busybox").expect("a short name");
        h.set_cksum();
        tar.append(&h, std::io::empty()).expect("tar");
    }
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n";
    let group = b"root:x:0:\nwww-data:x:33:\nstaff:x:50:nobody\nnogroup:x:65534:\n";
    for File(path, mode, contents) in
        [File("etc/passwd", 0o644, passwd), File("etc/group", 0o644, group)].iter().chain(more)
    {
        tar.append(&header(path, tar::EntryType::Regular, *mode, contents.len() as u64), *contents)
            .expect("tar");
    }
    tar.into_inner().expect("tar")
}

/// Writes a docker archive with one image of these layers.
pub fn archive(path: &Path, name: &str, config: serde_json::Value, layers: &[Vec<u8>]) {
    let diff_ids: Vec<String> =
        layers.iter().map(|l| format!("sha256:{}", hex(&Sha256::digest(l)))).collect();
    let arch = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": arch, "os": "linux", "created": "2026-01-01T00:00:00Z", "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": layers.iter().map(|_| json!({ "created": "2026-01-01T00:00:00Z", "created_by": "test" })).collect::<Vec<_>>(),
    })
    .to_string();
    let config_name = format!("{}.json", hex(&Sha256::digest(config.as_bytes())));
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": names }]).to_string();
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        tar.append(&header(path, tar::EntryType::Regular, 0o644, bytes.len() as u64), bytes).expect("tar");
    };
    for (name, layer) in names.iter().zip(layers) {
        add(name, layer);
    }
    add(&config_name, config.as_bytes());
    add("manifest.json", manifest.as_bytes());
    let bytes = tar.into_inner().expect("tar");
    let mut file = std::fs::File::create(path).expect("create the archive");
    file.write_all(&bytes).expect("write the archive");
}

/// `busybox:latest` below `folder`.
pub fn busybox(folder: &Path) -> PathBuf {
    let path = folder.join("busybox.tar");
    archive(&path, "busybox:latest", json!({ "Cmd": ["sh"] }), &[busybox_layer(&[])]);
    path
}

/// `hello-world:latest`: prints Docker's greeting's first line.
pub fn hello_world(folder: &Path) -> PathBuf {
    let path = folder.join("hello.tar");
    let greeting = File("hello", 0o755, b"#!/bin/sh\necho; echo 'Hello from Docker!'\n");
    archive(&path, "hello-world:latest", json!({ "Cmd": ["/hello"] }), &[busybox_layer(&[greeting])]);
    path
}

/// `web:latest`: serves one page on port 80.
pub fn web(folder: &Path) -> PathBuf {
    let path = folder.join("web.tar");
    let page = File("www/index.html", 0o644, b"<h1>it works</h1>\n");
    let config =
        json!({ "Cmd": ["httpd", "-f", "-p", "80", "-h", "/www"], "ExposedPorts": { "80/tcp": {} } });
    archive(&path, "web:latest", config, &[busybox_layer(&[page])]);
    path
}
