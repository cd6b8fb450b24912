//! Debian's package: an `ar` archive of two tar archives, written here (deb(5)), so that it is the same twice.

use std::io::Write;

use anyhow::{Context, Result};
use lzma_rust2::{XzOptions, XzWriter};

use super::{About, Content, File, preremove};

/// What the programs need: the C library they were built with, and a hypervisor. (Without KVM it must be QEMU 10 or
/// newer; the program says so.)
const DEPENDS: &str = "libc6 (>= 2.34), libgcc-s1, QEMU";
const QEMU: (&str, &str) = ("qemu-system-x86 (>= 1:7.2)", "qemu-system-arm (>= 1:7.2)");
const RECOMMENDS: &str = "docker-cli | docker-ce-cli | docker.io";
/// What the app shows itself with.
const APP_RECOMMENDS: &str = ", libwebkit2gtk-4.1-0, libayatana-appindicator3-1";

/// How hard `xz` tries: its own default, and dpkg's.
const PRESET: u32 = 6;

pub fn build(files: &[File], about: &About) -> Result<Vec<u8>> {
    let (mut data, mut size, mut sums) = (Archive::new(about.time)?, 0, String::new());
    for file in files {
        match &file.content {
            Content::Bytes { bytes, mode } => {
                data.file(&file.to, bytes, *mode)?;
                size += bytes.len().div_ceil(1024);
                sums.push_str(&format!("{}  {}\n", md5(bytes)?, file.to));
            }
            Content::Link(to) => data.link(&file.to, to)?,
        }
    }
    let (qemu, app) = (if about.arch == "arm64" { QEMU.1 } else { QEMU.0 }, about.has_app);
    let control = format!(
        "Package: coracle\nVersion: {}\nArchitecture: {}\nMaintainer: The Coracle project <coracle@localhost>\n\
         Installed-Size: {size}\nDepends: {}\nRecommends: {RECOMMENDS}{}\nSection: admin\nPriority: optional\n\
         Description: Linux containers on this computer\n \
         A small Linux machine, and in it a container engine that the docker command\n \
         line, compose and buildx talk to.\n",
        about.version,
        about.arch,
        DEPENDS.replace("QEMU", qemu),
        if app { APP_RECOMMENDS } else { "" },
    );
    let mut meta = Archive::new(about.time)?;
    meta.file("control", control.as_bytes(), 0o644)?;
    meta.file("md5sums", sums.as_bytes(), 0o644)?;
    meta.file("prerm", preremove()?.as_bytes(), 0o755)?;
    let mut deb = b"!<arch>\n".to_vec();
    for (name, bytes) in [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.xz", meta.finish()?),
        ("data.tar.xz", data.finish()?),
    ] {
        writeln!(deb, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", about.time, 0, 0, "100644", bytes.len())?;
        deb.extend(&bytes);
        if bytes.len() % 2 == 1 {
            deb.push(b'\n');
        }
    }
    Ok(deb)
}

/// A compressed tar archive of root's files, each folder before what is in it.
struct Archive {
    tar: tar::Builder<XzWriter<Vec<u8>>>,
    time: u64,
    folders: Vec<String>,
}

impl Archive {
    fn new(time: u64) -> Result<Self> {
        let xz = XzWriter::new(Vec::new(), XzOptions::with_preset(PRESET))?;
        Ok(Self { tar: tar::Builder::new(xz), time, folders: Vec::new() })
    }

    fn file(&mut self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.parents(path)?;
        let mut header = self.header(tar::EntryType::Regular, mode);
        header.set_size(bytes.len() as u64);
        self.tar.append_data(&mut header, format!("./{path}"), bytes).with_context(|| path.to_owned())
    }

    fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.parents(path)?;
        let mut header = self.header(tar::EntryType::Symlink, 0o777);
        header.set_size(0);
        self.tar.append_link(&mut header, format!("./{path}"), to).with_context(|| path.to_owned())
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        for (at, _) in path.match_indices('/') {
            let folder = format!("./{}/", &path[..at]);
            if !self.folders.contains(&folder) {
                let mut header = self.header(tar::EntryType::Directory, 0o755);
                header.set_size(0);
                self.tar.append_data(&mut header, &folder, std::io::empty())?;
                self.folders.push(folder);
            }
        }
        Ok(())
    }

    fn header(&self, kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(self.time);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?.finish()?)
    }
}

/// By the program that every Debian has: nothing of ours needs MD5 for more than this list.
fn md5(bytes: &[u8]) -> Result<String> {
    let mut sum = std::process::Command::new("md5sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("md5sum could not be run")?;
    sum.stdin.take().context("piped")?.write_all(bytes)?;
    let said = sum.wait_with_output()?;
    let text = String::from_utf8(said.stdout)?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
