//! The installer of Windows, by Debian's NSIS: programs, the root of the WSL distribution, documents.
//!
//! Debian's 32-bit stub would not even start where there is no 32-bit Windows around it (wine64), and end with 0: the
//! script asks for `amd64-unicode`, and tests look at files, never at exit codes.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use super::{About, bundled::Packed, documents};
use crate::{debian::Debian, workspace};

/// The suite whose NSIS it is.
const SUITE: &str = "bookworm";
/// The program that every package has; the app's where it was built.
const PROGRAM: &str = "coracle.exe";
pub const APP: [&str; 2] = ["coracle-desktop.exe", "WebView2Loader.dll"];

/// Makes the installer of a stage of Windows' programs; `work` is a folder of its own.
pub fn build(stage: &Path, about: &About, work: &Path) -> Result<Vec<u8>> {
    let files = work.join("files");
    let put = |from: &Path, to: &str| -> Result<()> {
        let to = files.join(to);
        fs::create_dir_all(to.parent().expect("a folder"))?;
        fs::copy(from, &to).with_context(|| format!("copy {}", from.display()))?;
        Ok(())
    };
    put(&stage.join("bin").join(PROGRAM), &format!("bin/{PROGRAM}"))?;
    if about.has_app {
        for name in APP {
            put(&stage.join("bin").join(name), &format!("bin/{name}"))?;
        }
    }
    for Packed { program, bytes } in &about.others {
        fs::write(files.join(format!("bin/{}.exe", program.name)), bytes)?;
    }
    let guest = format!("share/coracle/guest/{}", about.arch);
    for name in ["manifest.json", "wsl/root.tar.gz", "wsl/manifest.json"] {
        let name = format!("{guest}/{name}");
        put(&stage.join(&name), &name)?;
    }
    put(&workspace().join("LICENSE"), "doc/LICENSE.txt")?;
    for (name, text) in documents::all(documents::Readers::Notepad)? {
        fs::write(files.join("doc").join(name), text)?;
    }
    let tree = Debian::open(SUITE)?.tree("nsis", &["nsis"])?;
    let out = work.join("setup.exe");
    let said = makensis(&tree, about, &files, &out).output().context("run makensis")?;
    ensure!(said.status.success(), "makensis failed:\n{}", String::from_utf8_lossy(&said.stdout));
    fs::read(&out).with_context(|| format!("read {}", out.display()))
}

fn makensis(tree: &crate::debian::Tree, about: &About, files: &Path, out: &Path) -> Command {
    let mut makensis = tree.command("/usr/bin/makensis");
    makensis.env("NSISDIR", tree.file("/usr/share/nsis")).env("NSISCONFDIR", tree.file("/etc"));
    makensis.env("SOURCE_DATE_EPOCH", about.time.to_string());
    makensis.args(["-V2", "-NOCD", "-INPUTCHARSET", "UTF8"]);
    makensis.arg(format!("-DVERSION={}", about.version));
    makensis.arg(format!("-DFILES={}", files.display())).arg(format!("-DOUT={}", out.display()));
    makensis.arg(workspace().join("installer/windows/coracle.nsi"));
    makensis
}
