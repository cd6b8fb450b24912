//! The welcome image: a web server with one page, carried in the guest's image and loaded at its first boot, so that
//! the first run needs no registry.
//!
//! Debian's static busybox and `vm-image/welcome/index.html`, as an archive that `docker load` takes. Two runs over
//! the same package give the same bytes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::debian::{Debian, hex};
use crate::workspace;

/// The image's name.
pub const NAME: &str = "coracle/welcome:latest";
/// 2026-01-01: every time in the image.
const TIME: (&str, u64) = ("2026-01-01T00:00:00Z", 1_767_225_600);
/// What a person who looks around in it needs; the rest of busybox is there by its own name.
const APPLETS: &[&str] =
    &["sh", "httpd", "ls", "cat", "ps", "id", "env", "hostname", "ip", "wget", "vi", "top"];

fn entry(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    link: &str,
    bytes: &[u8],
) -> Result<()> {
    let mut h = tar::Header::new_gnu();
    h.set_path(path)?;
    h.set_entry_type(kind);
    h.set_mode(mode);
    h.set_size(bytes.len() as u64);
    h.set_uid(0);
    h.set_gid(0);
    h.set_mtime(TIME.1);
    if !link.is_empty() {
        h.set_link_name(link)?;
    }
    h.set_cksum();
    tar.append(&h, bytes)?;
    Ok(())
}

/// Writes the archive into a folder, where `cargo xtask image` takes it from; `arch` as Debian names it.
pub fn build(arch: &str, folder: &Path) -> Result<PathBuf> {
    use tar::EntryType::{Directory, Regular, Symlink};
    let tree = Debian::open_arch("trixie", arch)?.tree("busybox-static", &["busybox-static"])?;
    let busybox = std::fs::read(tree.file("/usr/bin/busybox")).context("read busybox")?;
    let page =
        std::fs::read(workspace().join("vm-image/welcome/index.html")).context("read the welcome page")?;

    let mut layer = tar::Builder::new(Vec::new());
    for folder in ["bin/", "dev/", "etc/", "proc/", "root/", "run/", "sys/", "tmp/", "www/"] {
        let mode = if folder == "tmp/" { 0o1777 } else { 0o755 };
        entry(&mut layer, folder, Directory, mode, "", &[])?;
    }
    entry(&mut layer, "bin/busybox", Regular, 0o755, "", &busybox)?;
    for applet in APPLETS {
        entry(&mut layer, &format!("bin/{applet}"), Symlink, 0o777, "busybox", &[])?;
    }
    entry(
        &mut layer,
        "etc/passwd",
        Regular,
        0o644,
        "",
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    entry(&mut layer, "etc/group", Regular, 0o644, "", b"root:x:0:\nnogroup:x:65534:\n")?;
    entry(&mut layer, "www/index.html", Regular, 0o644, "", &page)?;
    let layer = layer.into_inner()?;

    let diff_id = format!("sha256:{}", hex(&Sha256::digest(&layer)));
    let config = json!({
        "architecture": arch, "os": "linux", "created": TIME.0,
        "config": {
            "Cmd": ["httpd", "-f", "-v", "-p", "80", "-h", "/www"], "ExposedPorts": { "80/tcp": {} },
            "Env": ["PATH=/bin"], "Labels": { "org.opencontainers.image.title": "Coracle's welcome page" },
            "StopSignal": "SIGKILL",
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created": TIME.0, "created_by": "cargo xtask image" }],
    })
    .to_string();
    let config_name = format!("{}.json", hex(&Sha256::digest(config.as_bytes())));
    let manifest =
        json!([{ "Config": config_name, "RepoTags": [NAME], "Layers": ["layer.tar"] }]).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    entry(&mut archive, "layer.tar", Regular, 0o644, "", &layer)?;
    entry(&mut archive, &config_name, Regular, 0o644, "", config.as_bytes())?;
    entry(&mut archive, "manifest.json", Regular, 0o644, "", manifest.as_bytes())?;
    write(&folder.join("welcome.tar"), &archive.into_inner()?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))?;
    Ok(path.to_owned())
}
