//! The image that both sides run: busybox and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::json;
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
    let tar = |from: &Path, archive: &Path| {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(from).args(["--numeric-owner", "--owner=0", "--group=0", "-cf"]);
        stage::run(tar.arg(archive).arg("."))
    };
    let parts = folder.join("archive");
    fs::create_dir_all(&parts)?;
    let layer = parts.join("layer.tar");
    tar(&root, &layer)?;
    let config = json!({
        "architecture": crate::debian::host_arch(), "os": "linux", "config": { "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&Sha256::digest(fs::read(&layer)?)))] },
    })
    .to_string();
    let config_name = format!("{}.json", hex(&Sha256::digest(config.as_bytes())));
    fs::write(parts.join(&config_name), config)?;
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"] }]);
    fs::write(parts.join("manifest.json"), manifest.to_string())?;
    let archive = folder.join("image.tar");
    // Named one by one: readers of such archives know no "./".
    let mut whole = Command::new("tar");
    whole.arg("-C").arg(&parts).args(["--numeric-owner", "--owner=0", "--group=0", "-cf"]).arg(&archive);
    stage::run(whole.args(["manifest.json", &config_name, "layer.tar"]))?;
    Ok(archive)
}
