//! The guest's root for a WSL2 distribution: an archive that `wsl --import` takes, and that a distribution takes another
//! build's root from (`crates/guest/src/hosted.rs` says what is where).
//!
//! ```text
//! root.tar.gz      usr/bin/coracle-guest, busybox    etc/passwd, group, wsl.conf, wsl-distribution.conf    roots/<build>/...
//! manifest.json    format, arch, build, bytes, sha256
//! ```
//!
//! The kernel and its modules are Windows': none of ours are in it.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::debian::hex;

const FORMAT: u32 = 1;
/// What stays out.
const NOT: &str = "usr/lib/modules";
/// Programs of the distribution itself, taken from the root.
const PROGRAMS: [&str; 2] = ["usr/bin/coracle-guest", "usr/bin/busybox"];
/// Windows' drives are seen below /mnt, with owners and modes of their own; nothing of Windows is run from inside, and
/// no service manager is wanted.
const CONF: &str = "[automount]\nenabled=true\nroot=/mnt/\noptions=\"metadata\"\nmountFsTab=false\n\n\
                    [interop]\nenabled=false\nappendWindowsPath=false\n\n\
                    [network]\ngenerateHosts=false\n\n[boot]\nsystemd=false\n\n[user]\ndefault=root\n";

/// The distribution is the machine's: a person who opens it by the start menu or Windows' terminal, where WSL puts whatever is
/// imported, finds nothing of use in it.
const DISTRIBUTION: &str = "[shortcut]\nenabled=false\n\n[windowsterminal]\nenabled=false\n";

/// Packs a root.
pub fn build(root: &Path, arch: &str, out: &Path) -> Result<()> {
    // The id covers every byte of the root.
    let mut tree = Archive::new(tar::Builder::new(Vec::new()));
    tree.folder(root, Path::new(""))?;
    let build = hex(&Sha256::digest(tree.0.into_inner()?))[..16].to_owned();
    let mut archive = Archive::new(tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default())));
    for folder in
        ["data", "etc", "usr", "usr/bin", "roots", "run", "tmp", "root", "mnt", "proc", "sys", "dev"]
    {
        archive.entry(tar::EntryType::Directory, Path::new(folder), 0o755, None, &[])?;
    }
    archive.entry(tar::EntryType::Symlink, Path::new("bin"), 0o777, Some(Path::new("usr/bin")), &[])?;
    archive.entry(
        tar::EntryType::Symlink,
        Path::new("usr/bin/sh"),
        0o777,
        Some(Path::new("busybox")),
        &[],
    )?;
    for name in PROGRAMS {
        archive.entry(tar::EntryType::Regular, Path::new(name), 0o755, None, &fs::read(root.join(name))?)?;
    }
    for name in ["etc/passwd", "etc/group"] {
        archive.entry(tar::EntryType::Regular, Path::new(name), 0o644, None, &fs::read(root.join(name))?)?;
    }
    for (name, text) in [("etc/wsl.conf", CONF), ("etc/wsl-distribution.conf", DISTRIBUTION)] {
        archive.entry(tar::EntryType::Regular, Path::new(name), 0o644, None, text.as_bytes())?;
    }
    archive.folder(root, &Path::new("roots").join(&build))?;
    let bytes = archive.0.into_inner()?.finish()?;
    fs::create_dir_all(out)?;
    fs::write(out.join("root.tar.gz"), &bytes)?;
    let manifest = json!({ "format": FORMAT, "arch": arch, "build": build, "bytes": bytes.len(),
                           "sha256": hex(&Sha256::digest(&bytes)) });
    fs::write(out.join("manifest.json"), serde_json::to_vec_pretty(&manifest)?)?;
    Ok(())
}

/// An archive of root's files without times: the same for the same files.
struct Archive<W: Write>(tar::Builder<W>);

impl<W: Write> Archive<W> {
    fn new(mut tar: tar::Builder<W>) -> Self {
        tar.mode(tar::HeaderMode::Deterministic);
        Self(tar)
    }

    /// A folder and all in it, in the order of the names, as `to`.
    fn folder(&mut self, from: &Path, to: &Path) -> Result<()> {
        if !to.as_os_str().is_empty() {
            self.entry(tar::EntryType::Directory, to, 0o755, None, &[])?;
        }
        let mut entries: Vec<PathBuf> = fs::read_dir(from)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
        entries.sort();
        for path in entries {
            let to = to.join(path.file_name().context("a name")?);
            let meta = fs::symlink_metadata(&path)?;
            if path.ends_with(NOT) {
                continue;
            }
            if meta.is_symlink() {
                self.entry(tar::EntryType::Symlink, &to, 0o777, Some(&fs::read_link(&path)?), &[])?;
            } else if meta.is_dir() {
                self.folder(&path, &to)?;
            } else {
                let mode = meta.permissions().mode() & 0o777;
                self.entry(tar::EntryType::Regular, &to, mode, None, &fs::read(&path)?)?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        kind: tar::EntryType,
        path: &Path,
        mode: u32,
        link: Option<&Path>,
        bytes: &[u8],
    ) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        match link {
            Some(link) => self.0.append_link(&mut header, path, link)?,
            None => self.0.append_data(&mut header, path, bytes)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn a_distribution_is_not_offered_to_people() {
        let dir = tempfile::tempdir().unwrap();
        let (root, out) = (dir.path().join("root"), dir.path().join("out"));
        for name in PROGRAMS.iter().chain(&["etc/passwd", "etc/group"]) {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), name).unwrap();
        }
        build(&root, "amd64", &out).unwrap();
        let mut archive = tar::Archive::new(GzDecoder::new(fs::File::open(out.join("root.tar.gz")).unwrap()));
        let mut told = String::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            if entry.path().unwrap() == Path::new("etc/wsl-distribution.conf") {
                entry.read_to_string(&mut told).unwrap();
            }
        }
        assert_eq!(told, DISTRIBUTION);
    }
}
