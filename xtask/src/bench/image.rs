//! Images that both sides run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::debian::hex;
use crate::stage;

/// An image of busybox alone, as `docker load` takes it.
pub fn image(busybox: &Path, name: &str, folder: &Path) -> Result<PathBuf> {
    let root = folder.join("image");
    for name in ["bin", "etc", "tmp", "dev", "proc", "sys", "root"] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::copy(busybox, root.join("bin/busybox"))?;
    let list = Command::new(busybox).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|a| *a != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    packed(&[&root], json!({ "Cmd": ["sh"] }), name, folder)
}

/// An image of a folder, with more folders and files over it.
pub fn tree(
    root: &Path,
    folders: &[&str],
    files: &[(&str, &str)],
    name: &str,
    folder: &Path,
) -> Result<PathBuf> {
    let top = folder.join("top");
    for name in folders {
        fs::create_dir_all(top.join(name))?;
    }
    for (name, text) in files {
        let path = top.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&top))?;
        fs::write(path, text)?;
    }
    packed(&[root, &top], json!({ "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] }), name, folder)
}

/// An image of one layer a folder, the lowest first.
fn packed(roots: &[&Path], config: Value, name: &str, folder: &Path) -> Result<PathBuf> {
    let tar = |from: &Path, archive: &Path| {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(from).args(["--numeric-owner", "--owner=0", "--group=0", "-cf"]);
        stage::run(tar.arg(archive).arg("."))
    };
    let parts = folder.join("archive");
    fs::create_dir_all(&parts)?;
    let (mut layers, mut digests) = (Vec::new(), Vec::new());
    for (n, root) in roots.iter().enumerate() {
        let layer = format!("layer{n}.tar");
        tar(root, &parts.join(&layer))?;
        digests.push(format!("sha256:{}", hex(&Sha256::digest(fs::read(parts.join(&layer))?))));
        layers.push(layer);
    }
    let config = json!({
        "architecture": crate::debian::host_arch(), "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": digests },
    })
    .to_string();
    let config_name = format!("{}.json", hex(&Sha256::digest(config.as_bytes())));
    fs::write(parts.join(&config_name), config)?;
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": layers }]);
    fs::write(parts.join("manifest.json"), manifest.to_string())?;
    let archive = folder.join("image.tar");
    // Named one by one: readers of such archives know no "./".
    let mut whole = Command::new("tar");
    whole.arg("-C").arg(&parts).args(["--numeric-owner", "--owner=0", "--group=0", "-cf"]).arg(&archive);
    stage::run(whole.args(["manifest.json", &config_name]).args(&layers))?;
    Ok(archive)
}
