//! The packages of macOS: `Coracle.app` in a `.zip` and in a `.dmg`.
//!
//! ```text
//! Coracle.app/Contents/Info.plist
//!   MacOS/coracle  coracle-desktop  vfkit  docker-compose  docker-buildx   (the last three of installer/programs.txt;
//!                                                            without vfkit it is looked for on the user's computer)
//!   Resources/share/coracle/guest/<arch>/...        the guest's image
//!   Resources/doc/...                                     what there is to read
//! Read Me.txt  Applications -> /Applications              beside it, of the .dmg
//! ```
//!
//! Signed ad hoc, by macOS' `codesign` or elsewhere by `rcodesign`: without a signature Apple silicon runs nothing, and
//! without its entitlement vfkit makes no machines. A Developer ID, and Apple's own approval, are the release pipeline's.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{
    About,
    bundled::{self, Packed},
    documents,
};
use crate::{apple, debian::Debian, stage, workspace};

const SUITE: &str = "bookworm";
const APP: &str = "coracle-desktop";
/// The guest's image: vfkit boots it by its firmware's way or by its kernel's.
const IMAGE: [&str; 5] = ["kernel", "initrd", "root.erofs", "boot.efi", "manifest.json"];
const VFKIT: &str = "Contents/MacOS/vfkit";
/// What lies beside the app in the `.dmg`, for an app's folder opens to nobody by itself.
const READ_ME: &str = "Read Me.txt";

/// The `.zip` and the `.dmg` of a stage of macOS' programs; `work` is a folder of its own.
pub fn build(stage: &Path, about: &About, work: &Path) -> Result<(Vec<u8>, Vec<u8>)> {
    let folder = work.join("image");
    lay(stage, about, &folder)?;
    sign(&folder.join("Coracle.app"), &workspace().join("installer/macos/vfkit.entitlements"))?;
    times(&folder, about.time)?;
    Ok((zip(&folder, work)?, dmg(&folder, work, about)?))
}

/// Lays out what is packed, not yet signed.
fn lay(stage: &Path, about: &About, folder: &Path) -> Result<()> {
    let contents = folder.join("Coracle.app/Contents");
    let put = |bytes: &[u8], to: &str, mode: u32| -> Result<()> {
        let to = contents.join(to);
        fs::create_dir_all(to.parent().expect("a folder"))?;
        fs::write(&to, bytes)?;
        Ok(fs::set_permissions(&to, fs::Permissions::from_mode(mode))?)
    };
    let read = |path: PathBuf| fs::read(&path).with_context(|| format!("read {}", path.display()));
    let installer = workspace().join("installer/macos");
    let main = if about.has_app { APP } else { "coracle" };
    let plist = String::from_utf8(read(installer.join("Info.plist"))?)?;
    let plist = plist.replace("@VERSION@", &about.version).replace("@EXECUTABLE@", main);
    put(plist.as_bytes(), "Info.plist", 0o644)?;
    put(&read(stage.join("bin/coracle"))?, "MacOS/coracle", 0o755)?;
    if about.has_app {
        put(&read(stage.join("bin").join(APP))?, &format!("MacOS/{APP}"), 0o755)?;
    }
    put(&read(workspace().join("src-tauri/icons/icon.icns"))?, "Resources/icon.icns", 0o644)?;
    for Packed { program, bytes } in &about.others {
        put(bytes, &format!("MacOS/{}", program.name), 0o755)?;
    }
    let guest = format!("share/coracle/guest/{}", about.arch);
    for name in IMAGE {
        put(&read(stage.join(&guest).join(name))?, &format!("Resources/{guest}/{name}"), 0o644)?;
    }
    put(&read(workspace().join("LICENSE"))?, "Resources/doc/LICENSE", 0o644)?;
    for (name, text) in documents::all(documents::Readers::Markdown)? {
        put(&text, &format!("Resources/doc/{name}"), 0o644)?;
    }
    std::os::unix::fs::symlink("/Applications", folder.join("Applications"))?; // of the .dmg
    fs::copy(installer.join(READ_ME), folder.join(READ_ME))?;
    Ok(())
}

/// Programs of the app beside its main one, in the order in which they are signed.
const PROGRAMS: [&str; 4] = ["vfkit", "coracle", "docker-compose", "docker-buildx"];

/// Signs ad hoc, vfkit with its entitlements.
fn sign(app: &Path, entitlements: &Path) -> Result<()> {
    let there = PROGRAMS.iter().map(|name| format!("Contents/MacOS/{name}"));
    let there: Vec<String> = there.filter(|program| app.join(program).is_file()).collect();
    if cfg!(target_os = "macos") {
        let codesign = |what: &Path, more: &[&str]| {
            let mut sign = Command::new("codesign");
            stage::run(sign.args(["--force", "--sign", "-", "--options", "runtime"]).args(more).arg(what))
        };
        for program in &there {
            let entitled = ["--entitlements", &entitlements.display().to_string()];
            codesign(&app.join(program), if program == VFKIT { &entitled } else { &[] })?;
        }
        return codesign(app, &[]);
    }
    // All at once, from the inside out. What is said of one program is not said of those within it.
    let mut sign = Command::new(apple::signer()?);
    sign.args(["sign", "--code-signature-flags", "runtime"]);
    for program in &there {
        sign.args(["--code-signature-flags", &format!("{program}:runtime")]);
        if program == VFKIT {
            sign.args(["--entitlements-xml-path", &format!("{VFKIT}:{}", entitlements.display())]);
        }
    }
    stage::run(sign.arg(app))
}

/// Links the command line for macOS, packs it as the packages have it, signs that, and looks at what came out: for Apple
/// silicon and for Intel.
pub fn check() -> Result<()> {
    ["arm64", "amd64"].into_iter().try_for_each(check_for)
}

/// vfkit's place is taken by the same program: what is looked at is the signature.
fn check_for(arch: &str) -> Result<()> {
    let program = apple::link("cli", "coracle", arch)?;
    let bytes = fs::read(&program)?;
    let oldest = apple::oldest(&bytes);
    ensure!(oldest == Some(apple::OLDEST), "coracle is made for macOS {oldest:?}, not {:?}", apple::OLDEST);
    let work = super::work()?;
    let (stage, folder) = (work.path().join("stage"), work.path().join("image"));
    let image = format!("share/coracle/guest/{arch}");
    let guest = stage.join(&image);
    fs::create_dir_all(&guest)?;
    for name in IMAGE {
        fs::write(guest.join(name), name)?;
    }
    stage::install(&program, &stage.join("bin/coracle"))?;
    let vfkit = bundled::listed("macos", arch)?.into_iter().find(|program| program.name == "vfkit");
    let mut about = super::bare(super::version(), arch, false)?;
    about.others.push(Packed { program: vfkit.context("vfkit is on no list")?, bytes });
    lay(&stage, &about, &folder)?;
    let app = folder.join("Coracle.app");
    sign(&app, &workspace().join("installer/macos/vfkit.entitlements"))?;

    let said = |args: &[&str], what: &Path| -> Result<String> {
        let out = Command::new(apple::signer()?).args(args).arg(what).output()?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(out.status.success(), "rcodesign {args:?} {}: {said}", what.display());
        Ok(said)
    };
    for (name, may_make_machines) in [("Contents/MacOS/coracle", false), (VFKIT, true)] {
        let signature = said(&["print-signature-info"], &app.join(name))?;
        ensure!(signature.contains("ADHOC | RUNTIME"), "{name} is not signed ad hoc, hardened: {signature}");
        let entitled = signature.contains("com.apple.security.virtualization");
        ensure!(entitled == may_make_machines, "{name} has other entitlements: {signature}");
    }
    // What isn't in the app's seal could be exchanged.
    let seal = fs::read_to_string(app.join("Contents/_CodeSignature/CodeResources"))?;
    let root = format!("Resources/{image}/root.erofs");
    for sealed in ["MacOS/vfkit", &root, "Resources/doc/LICENSE"] {
        ensure!(seal.contains(&format!("<key>{sealed}</key>")), "{sealed} is not sealed: {seal}");
    }
    Ok(())
}

/// Every time the same: bytes depend on what is packed alone.
fn times(folder: &Path, time: u64) -> Result<()> {
    let mut touch = Command::new("find");
    touch.arg(folder).args(["-depth", "-exec", "touch", "-h", "-d", &format!("@{time}"), "{}", "+"]);
    stage::run(&mut touch)
}

fn zip(folder: &Path, work: &Path) -> Result<Vec<u8>> {
    let tree = Debian::open(SUITE)?.tree("zip", &["zip"])?;
    let out = work.join("out.zip");
    // In the order of the names, whatever the file system's is; without owners and times of access.
    let list = Command::new("find").arg("Coracle.app").current_dir(folder).output()?;
    let mut names: Vec<&str> = std::str::from_utf8(&list.stdout)?.lines().collect();
    names.sort_unstable();
    let mut zip = tree.command("/usr/bin/zip");
    zip.args(["-q", "-X", "-9"]).arg(&out).args(names).current_dir(folder).env("TZ", "UTC");
    stage::run(&mut zip)?;
    fs::read(&out).context("read the .zip")
}

fn dmg(folder: &Path, work: &Path, about: &About) -> Result<Vec<u8>> {
    let tree = Debian::open(SUITE)?.tree("xorriso", &["xorriso"])?;
    let out = work.join("out.iso");
    let mut iso = tree.command("/usr/bin/xorriso");
    iso.args(["-as", "mkisofs", "-quiet", "-hfsplus", "-D", "-l", "-V", "Coracle", "-no-pad", "-r", "-o"]);
    iso.arg(&out).arg(folder).env("SOURCE_DATE_EPOCH", about.time.to_string());
    stage::run(&mut iso)?;
    super::dmg::compressed(&fs::read(&out).context("read the disk of the .dmg")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both archives, read by tools that didn't write them. What is in `bin` only says who it is.
    #[test]
    fn an_app_is_laid_out_with_all_there_is_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let (stage, folder) = (dir.path().join("stage"), dir.path().join("image"));
        let guest = stage.join("share/coracle/guest/arm64");
        fs::create_dir_all(stage.join("bin")).unwrap();
        fs::create_dir_all(&guest).unwrap();
        fs::write(stage.join("bin/coracle"), "coracle").unwrap();
        for name in IMAGE {
            fs::write(guest.join(name), name).unwrap();
        }
        let about = About {
            version: "1.2.3".into(),
            arch: "arm64".into(),
            time: 1_795_305_600,
            has_app: false,
            others: Vec::new(),
        };
        lay(&stage, &about, &folder).unwrap();
        times(&folder, about.time).unwrap();
        let plist = fs::read_to_string(folder.join("Coracle.app/Contents/Info.plist")).unwrap();
        assert!(plist.contains("1.2.3") && !plist.contains('@'), "{plist}");

        let unpacked = dir.path().join("unpacked");
        let archive = zip(&folder, dir.path()).unwrap();
        fs::write(dir.path().join("a.zip"), &archive).unwrap();
        let mut unzip = Command::new("python3");
        unzip.args(["-m", "zipfile", "-e"]).arg(dir.path().join("a.zip")).arg(&unpacked);
        assert!(unzip.status().unwrap().success());
        let image = dmg(&folder, dir.path(), &about).unwrap();
        let tree = Debian::open(SUITE).unwrap().tree("xorriso", &["xorriso"]).unwrap();
        let listed = tree
            .command("/usr/bin/xorriso")
            .args(["-indev"])
            .arg(dir.path().join("out.iso"))
            .args(["-find", "/", "-exec", "echo"])
            .output()
            .unwrap();
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        for name in
            ["README.md", "INSTALL.md", "TROUBLESHOOTING.md", "SECURITY.md", "CHANGELOG.md", "LICENSE"]
        {
            let path = format!("Coracle.app/Contents/Resources/doc/{name}");
            assert!(fs::metadata(unpacked.join(&path)).unwrap().len() > 200, "{name}");
            assert!(listed.contains(&path), "{name}: {listed}");
        }
        assert!(listed.contains(READ_ME) && listed.contains("/Applications"), "{listed}");
        let disk = fs::metadata(dir.path().join("out.iso")).unwrap().len();
        assert!((image.len() as u64) < disk, "the .dmg has {} bytes, its disk {disk}", image.len());
        // The same once more.
        let again = dir.path().join("again");
        lay(&stage, &about, &again).unwrap();
        times(&again, about.time).unwrap();
        let work = dir.path().join("work");
        fs::create_dir_all(&work).unwrap();
        assert!(zip(&again, &work).unwrap() == archive, "another .zip of the same");
        assert!(dmg(&again, &work, &about).unwrap() == image, "another .dmg of the same");
    }
}
