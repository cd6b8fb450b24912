//! `cargo xtask dist`: packages of what is staged, in `target/dist/`, with their sums and a list of what is in them.
//!
//! ```text
//! coracle_<version>_<arch>.deb   coracle-<version>-1.<arch>.rpm
//! Coracle-Setup-<version>-x64.exe   Coracle-<version>-<arch>.zip, .dmg
//! coracle-<version>.cdx.json     CycloneDX: crates of the programs, Debian's packages in the guest's image, others' programs
//! SHA256SUMS
//! ```
//!
//! A package of Linux is the stage as it is, below `/usr/lib/coracle`, and what a desktop looks for in its own places. The same
//! programs give the same bytes: times are the commit's (or `SOURCE_DATE_EPOCH`).

mod bundled;
mod deb;
mod dmg;
mod documents;
pub mod macos;
mod rpm;
mod sbom;
pub mod windows;

pub use bundled::Others;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::{apple, debian, stage, target_dir, ui, workspace};
use bundled::Packed;

/// Where the stage lies once installed.
const HOME: &str = "usr/lib/coracle";
/// Where people look for what there is to read.
const DOCUMENTS: &str = "usr/share/doc/coracle";
/// Programs that travel; the app where it was built.
const PROGRAMS: &[&str] = &["coracle", "coracle-share", "coracle-engine", "coracle-shim"];
const DESKTOP: &str = "coracle-desktop";
/// What a package may weigh (`SPECIFICATION.md`).
const MOST_BYTES: u64 = 120_000_000;

/// A file of a package.
pub struct File {
    /// Where it goes, without the leading slash.
    to: String,
    /// What is in it.
    content: Content,
}

enum Content {
    Bytes { bytes: Vec<u8>, mode: u32 },
    Link(String),
}

/// What packages say of themselves.
pub struct About {
    version: String,
    /// Debian's name of the architecture.
    arch: String,
    /// Seconds since 1970 of everything in it.
    time: u64,
    has_app: bool,
    /// Programs of others that travel with it.
    others: Vec<Packed>,
}

/// What packages are made of.
#[derive(Debug)]
pub struct Options {
    /// For whom: `linux`, `macos` or `windows`.
    pub os: String,
    /// Debian's name of the processor; by itself the stage's, or the usual one of the system.
    pub arch: Option<String>,
    /// A stage that is packed as it is, instead of a new one.
    pub stage: Option<PathBuf>,
    /// Whether the desktop app travels.
    pub with_app: bool,
    /// Programs of others.
    pub others: Others,
}

impl Options {
    fn arch(&self) -> Result<String> {
        let usual = match self.os.as_str() {
            "macos" => "arm64",
            "windows" => "amd64",
            _ => debian::host_arch(),
        };
        let others = if self.os == "macos" { &["arm64", "amd64"][..] } else { &[usual][..] };
        let staged = self.stage.as_ref().and_then(|stage| {
            others.iter().copied().find(|arch| stage.join("share/coracle/guest").join(arch).is_dir())
        });
        let arch = self.arch.as_deref().or(staged).unwrap_or(usual);
        ensure!(others.contains(&arch), "packages for {} on {arch} are not made here", self.os);
        Ok(arch.to_owned())
    }
}

/// Makes packages; answers their folder.
pub fn run(options: &Options) -> Result<PathBuf> {
    let (os, arch) = (options.os.as_str(), options.arch()?);
    let stage = options.stage.clone().unwrap_or_else(|| match os {
        "linux" => stage::dir(),
        _ => stage::dir().join(os).join(&arch),
    });
    let pack = bundled::pack(os, &arch, &stage.join("bin"), options.others)?;
    let missing = |line: &String| eprintln!("NOT PACKED: {line}");
    pack.missing.iter().for_each(missing);
    if options.stage.is_none() {
        match os {
            "macos" => macos_stage(&stage, &arch)?,
            "windows" => windows_stage(&stage, options.with_app)?,
            _ => linux_stage(&arch, options.with_app)?,
        }
    }
    let app = stage.join("bin").join(if os == "windows" { format!("{DESKTOP}.exe") } else { DESKTOP.into() });
    let about = About {
        version: version().into(),
        arch,
        time: time()?,
        has_app: options.with_app && app.is_file(),
        others: pack.packed,
    };
    ensure!(
        about.has_app || options.others != Others::All,
        "a release has the desktop app, and {} is not there",
        app.display()
    );
    let out = target_dir().join("dist");
    match os {
        "macos" => macos_packages(&stage, &out, &about)?,
        "windows" => windows_packages(&stage, &out, &about)?,
        _ => linux_packages(&stage, &out, &about)?,
    }
    if options.with_app && !about.has_app {
        eprintln!(
            "NOT PACKED: the desktop app, which {} builds",
            if os == "macos" { "a Mac" } else { "nobody" }
        );
    }
    pack.missing.iter().for_each(missing);
    Ok(out)
}

fn linux_stage(arch: &str, with_app: bool) -> Result<()> {
    stage::build()?;
    crate::image_of(arch)?;
    if with_app {
        ui::desktop(false)?;
    }
    Ok(())
}

/// Packages of a stage.
fn linux_packages(stage: &Path, out: &Path, about: &About) -> Result<()> {
    let files = files(stage, about)?;
    let made = [
        (format!("coracle_{}_{}.deb", about.version, about.arch), deb::build(&files, about)?),
        (format!("coracle-{}-1.{}.rpm", about.version, rpm::arch(about)), rpm::build(&files, about)?),
        (
            format!("coracle-{}.cdx.json", about.version),
            sbom::build(stage, about, &stage::triple(), sbom::LINUX)?,
        ),
    ];
    write(out, &made)
}

/// Windows' stage, cross-compiled.
fn windows_stage(stage: &Path, with_app: bool) -> Result<()> {
    let program = crate::wine::build(&["build", "--release", "--package", "cli", "--bin", "coracle"])?;
    stage::install(&program, &stage.join("bin/coracle.exe"))?;
    if with_app {
        let built = ui::desktop_for("x86_64-pc-windows-gnu")?;
        for name in windows::APP {
            stage::install(&built.join(name), &stage.join("bin").join(name))?;
        }
    }
    let programs = stage::build_guest("amd64")?;
    crate::image_in("amd64", Some(programs), Some(stage.join("share/coracle/guest/amd64")), true)?;
    Ok(())
}

/// The installer of Windows, which is x86_64's: on arm64 it refuses, for WSL has a kernel of that there.
pub fn windows_packages(stage: &Path, out: &Path, about: &About) -> Result<()> {
    let work = work()?;
    let made = [
        (format!("Coracle-Setup-{}-x64.exe", about.version), windows::build(stage, about, work.path())?),
        (
            format!("coracle-{}.cdx.json", about.version),
            sbom::build(stage, about, "x86_64-pc-windows-gnu", sbom::HOST)?,
        ),
    ];
    write(out, &made)
}

/// macOS' stage: the command line, and the guest's image. The app is a Mac's to build.
fn macos_stage(stage: &Path, arch: &str) -> Result<()> {
    stage::install(&apple::link("cli", "coracle", arch)?, &stage.join("bin/coracle"))?;
    // The guest's programs of this machine's own processor come from its stage as well.
    let programs = stage::build_guest(arch)?;
    crate::image_in(arch, Some(programs), Some(stage.join("share/coracle/guest").join(arch)), false)?;
    Ok(())
}

/// Packages of a stage of macOS.
fn macos_packages(stage: &Path, out: &Path, about: &About) -> Result<()> {
    let work = work()?;
    let (zip, dmg) = macos::build(stage, about, work.path())?;
    let name = format!("Coracle-{}-{}", about.version, about.arch);
    let made = [
        (format!("{name}.zip"), zip),
        (format!("{name}.dmg"), dmg),
        (
            format!("coracle-{}.cdx.json", about.version),
            sbom::build(stage, about, apple::triple(&about.arch), sbom::HOST)?,
        ),
    ];
    write(out, &made)
}

/// What packages of a stage say of themselves that bring nothing of others'.
pub fn bare(version: &str, arch: &str, has_app: bool) -> Result<About> {
    Ok(About { version: version.into(), arch: arch.into(), time: time()?, has_app, others: Vec::new() })
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// A folder for what is being packed, gone with its value.
fn work() -> Result<Work> {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = target_dir().join(format!("dist-{}-{n}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path)?;
    Ok(Work(path))
}

/// A folder that goes with its value.
pub struct Work(PathBuf);

impl Work {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What Linux' packages of a stage bring, unpacked: by Debian's own tool, and by the library of the other kind, for here
/// is no `rpm`. Compose and buildx are left out: their makers' servers may be out of reach.
pub fn installed(stage: &Path) -> Result<Vec<(&'static str, Work)>> {
    let made = work()?;
    let has_app = stage.join("bin").join(DESKTOP).is_file();
    linux_packages(stage, &made.path().join("made"), &bare(version(), debian::host_arch(), has_app)?)?;
    let mut roots = Vec::new();
    for kind in ["deb", "rpm"] {
        let root = work()?;
        let all = fs::read_dir(made.path().join("made"))?.flatten().map(|entry| entry.path());
        let mut packages = all.filter(|path| path.extension().is_some_and(|e| e == kind));
        let package = packages.next().with_context(|| format!("no .{kind} was made"))?;
        match kind {
            "deb" => stage::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(root.path()))?,
            _ => {
                fs::remove_dir(root.path())?; // it makes the folder itself
                ::rpm::Package::open(&package)?.extract(root.path())?;
            }
        }
        roots.push((kind, root));
    }
    Ok(roots)
}

/// Puts packages and their sums into `out`, and nothing else.
fn write(out: &Path, made: &[(String, Vec<u8>)]) -> Result<()> {
    let _ = fs::remove_dir_all(out);
    fs::create_dir_all(out)?;
    let mut sums = String::new();
    for (name, bytes) in made {
        ensure!(
            bytes.len() as u64 <= MOST_BYTES,
            "{name} has {} bytes, {MOST_BYTES} are the most",
            bytes.len()
        );
        fs::write(out.join(name), bytes)?;
        sums.push_str(&format!("{}  {name}\n", debian::hex(&Sha256::digest(bytes))));
        eprintln!("{name}: {:.1} MB", bytes.len() as f64 / 1e6);
    }
    fs::write(out.join("SHA256SUMS"), sums)?;
    Ok(())
}

/// Everything of a package, in the order of its paths.
fn files(stage: &Path, about: &About) -> Result<Vec<File>> {
    let mut files = Vec::new();
    let mut add = |to: &str, bytes: Vec<u8>, mode: u32| {
        files.push(File { to: to.to_owned(), content: Content::Bytes { bytes, mode } });
    };
    let read = |path: PathBuf| fs::read(&path).with_context(|| format!("read {}", path.display()));
    for program in PROGRAMS {
        add(&format!("{HOME}/bin/{program}"), read(stage.join("bin").join(program))?, 0o755);
    }
    for Packed { program, bytes } in &about.others {
        add(&format!("{HOME}/bin/{}", program.name), bytes.clone(), 0o755);
    }
    let image = stage.join("share/coracle/guest").join(&about.arch);
    for name in ["kernel", "initrd", "root.erofs", "manifest.json"] {
        add(&format!("{HOME}/share/coracle/guest/{}/{name}", about.arch), read(image.join(name))?, 0o644);
    }
    let own = workspace().join("installer/linux");
    add(&format!("{HOME}/docker-socket"), read(own.join("docker-socket"))?, 0o755);
    let unit = String::from_utf8(read(own.join("coracle.service"))?)?;
    add("usr/lib/systemd/user/coracle.service", unit.into_bytes(), 0o644);
    for (shell, to) in [
        ("bash", "usr/share/bash-completion/completions/coracle"),
        ("zsh", "usr/share/zsh/vendor-completions/_coracle"),
        ("fish", "usr/share/fish/vendor_completions.d/coracle.fish"),
    ] {
        let said = Command::new(stage.join("bin/coracle")).args(["completions", shell]).output()?;
        ensure!(said.status.success(), "coracle completions {shell} failed");
        add(to, said.stdout, 0o644);
    }
    for (name, text) in documents::all(documents::Readers::Markdown)? {
        add(&format!("{DOCUMENTS}/{name}"), text, 0o644);
    }
    add(&format!("{DOCUMENTS}/copyright"), read(workspace().join("LICENSE"))?, 0o644);
    if about.has_app {
        add(&format!("{HOME}/bin/{DESKTOP}"), read(stage.join("bin").join(DESKTOP))?, 0o755);
        let entry = "dev.coracle.Coracle";
        add(
            &format!("usr/share/applications/{entry}.desktop"),
            read(own.join(format!("{entry}.desktop")))?,
            0o644,
        );
        let text = String::from_utf8(read(own.join(format!("{entry}.metainfo.xml")))?)?;
        let text = text.replace("@VERSION@", &about.version).replace("@DATE@", &date(about.time));
        add(&format!("usr/share/metainfo/{entry}.metainfo.xml"), text.into_bytes(), 0o644);
        let icons = workspace().join("src-tauri/icons");
        add(
            &format!("usr/share/icons/hicolor/scalable/apps/{entry}.svg"),
            read(icons.join("icon.svg"))?,
            0o644,
        );
    }
    files.push(File {
        to: "usr/bin/coracle".into(),
        content: Content::Link("../lib/coracle/bin/coracle".into()),
    });
    files.sort_by(|a, b| a.to.cmp(&b.to));
    Ok(files)
}

/// What a package says when it goes.
fn preremove() -> Result<String> {
    Ok(fs::read_to_string(workspace().join("installer/linux/preremove"))?)
}

/// When the sources were last changed: `SOURCE_DATE_EPOCH`, or the commit's time.
fn time() -> Result<u64> {
    if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        return text.parse().context("SOURCE_DATE_EPOCH is no number");
    }
    let git = Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(workspace()).output()?;
    let text = String::from_utf8_lossy(&git.stdout).trim().to_owned();
    text.parse().context("git tells no time of the commit: set SOURCE_DATE_EPOCH")
}

/// `2026-11-21`, by the civil calendar (days since 1970, Howard Hinnant's algorithm).
fn date(time: u64) -> String {
    let days = time as i64 / 86_400 + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn days_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_795_305_600), "2026-11-22");
    }

    /// Packages of a stage, without the app and what is others'; their folder.
    fn packages(stage: &Path, out: &Path) -> PathBuf {
        linux_packages(stage, out, &bare(version(), debian::host_arch(), false).unwrap()).unwrap();
        out.to_owned()
    }

    /// A stage of programs that only say who they are.
    fn stage_in(dir: &Path) -> PathBuf {
        let stage = dir.join("stage");
        let image = stage.join("share/coracle/guest").join(debian::host_arch());
        fs::create_dir_all(stage.join("bin")).unwrap();
        fs::create_dir_all(&image).unwrap();
        for program in PROGRAMS {
            let path = stage.join("bin").join(program);
            fs::write(&path, format!("#!/bin/sh\necho {program} \"$@\"\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        for name in ["kernel", "initrd", "root.erofs"] {
            fs::write(image.join(name), name).unwrap();
        }
        fs::write(
            image.join("manifest.json"),
            r#"{"packages":[{"name":"nftables","version":"1","sha256":"ab","licence":["GPL-2"]}]}"#,
        )
        .unwrap();
        stage
    }

    fn package(folder: &Path, kind: &str) -> PathBuf {
        let all = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
        all.into_iter().find(|path| path.extension().is_some_and(|e| e == kind)).unwrap()
    }

    /// What packages are made of, and that two runs give the same bytes.
    #[test]
    fn packages_are_whole_and_the_same_twice() {
        let dir = tempfile::tempdir().unwrap();
        let stage = stage_in(dir.path());
        let make = |name: &str| packages(&stage, &dir.path().join(name));
        let (first, second) = (make("a"), make("b"));
        let sums = fs::read_to_string(first.join("SHA256SUMS")).unwrap();
        assert_eq!(sums, fs::read_to_string(second.join("SHA256SUMS")).unwrap());
        assert_eq!(sums.lines().count(), 3);
        let deb = package(&first, "deb");

        // Debian's own tool takes it, and what it unpacks runs.
        let root = dir.path().join("root");
        let unpacked = Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&root).status().unwrap();
        assert!(unpacked.success());
        let said = Command::new(root.join("usr/bin/coracle")).arg("version").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), "coracle version\n");
        let about = Command::new("dpkg-deb").arg("-I").arg(&deb).output().unwrap();
        let about = String::from_utf8_lossy(&about.stdout).into_owned();
        assert!(about.contains("Package: coracle\n") && about.contains("Depends: "), "{about}");
        assert!(root.join("usr/lib/systemd/user/coracle.service").is_file());
    }

    /// What there is to read lies where people of Linux look for it, in both packages; `rpm -qd` lists it.
    #[test]
    fn documents_come_with_both_packages_of_linux() {
        const READ: [&str; 6] =
            ["README.md", "INSTALL.md", "TROUBLESHOOTING.md", "SECURITY.md", "CHANGELOG.md", "copyright"];
        let dir = tempfile::tempdir().unwrap();
        let made = packages(&stage_in(dir.path()), &dir.path().join("made"));
        let (deb, rpm) = (dir.path().join("deb"), dir.path().join("rpm"));
        let unpacked = Command::new("dpkg-deb").arg("-x").arg(package(&made, "deb")).arg(&deb).status();
        assert!(unpacked.unwrap().success());
        let package = ::rpm::Package::open(package(&made, "rpm")).unwrap();
        package.extract(&rpm).unwrap();
        for root in [&deb, &rpm] {
            for name in READ {
                let text = fs::read_to_string(root.join(DOCUMENTS).join(name)).unwrap();
                assert!(text.len() > 200, "{name}: {text}");
            }
            let readme = fs::read_to_string(root.join(DOCUMENTS).join("README.md")).unwrap();
            assert!(readme.contains("(INSTALL.md)") && readme.contains("(TROUBLESHOOTING.md)"), "{readme}");
        }
        let entries = package.metadata.get_file_entries().unwrap();
        for entry in entries {
            let is_document = entry.path().starts_with(Path::new("/").join(DOCUMENTS));
            assert_eq!(entry.flags().contains(::rpm::FileFlags::DOC), is_document, "{:?}", entry.path());
        }
    }

    /// The sums beside the packages are of what lies there, for `sha256sum -c`; what is too big for a download is refused by its name.
    #[test]
    fn sums_hold_and_what_is_too_big_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let made = |bytes: Vec<u8>| [("a.zip".to_owned(), b"a".to_vec()), ("b.dmg".to_owned(), bytes)];
        let out = dir.path().join("out");
        write(&out, &made(b"b".to_vec())).unwrap();
        let held = || {
            let mut check = Command::new("sha256sum");
            check.args(["--check", "--strict", "--quiet", "SHA256SUMS"]).current_dir(&out);
            check.output().unwrap().status.success()
        };
        assert!(held());
        fs::write(out.join("b.dmg"), "c").unwrap();
        assert!(!held());
        let refused = write(&out, &made(vec![0; MOST_BYTES as usize + 1])).unwrap_err().to_string();
        assert!(refused.starts_with("b.dmg has 120000001 bytes"), "{refused}");
    }

    /// What a desktop reads of the app, by the tools of those who read it.
    #[test]
    fn what_desktops_read_is_as_they_want_it() {
        let dir = tempfile::tempdir().unwrap();
        let (own, entry) = (workspace().join("installer/linux"), "dev.coracle.Coracle");
        let text = fs::read_to_string(own.join(format!("{entry}.metainfo.xml"))).unwrap();
        let metainfo = dir.path().join(format!("{entry}.metainfo.xml"));
        fs::write(&metainfo, text.replace("@VERSION@", "1.2.3").replace("@DATE@", "2026-11-22")).unwrap();
        let packages = ["appstream", "desktop-file-utils"];
        let tree = debian::Debian::open("bookworm").unwrap().tree("desktop-files", &packages).unwrap();
        let valid = |program: &str, args: &[&str], file: &Path| {
            let said = tree.command(program).args(args).arg(file).output().unwrap();
            let text = [said.stdout, said.stderr].concat();
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&text));
        };
        valid("/usr/bin/appstreamcli", &["validate", "--no-net"], &metainfo);
        valid("/usr/bin/desktop-file-validate", &[], &own.join(format!("{entry}.desktop")));
    }

    /// Windows' installer is made of what is staged; whether it installs is tried under wine.
    #[test]
    fn an_installer_of_windows_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let stage = dir.path().join("stage");
        let guest = stage.join("share/coracle/guest/amd64");
        fs::create_dir_all(stage.join("bin")).unwrap();
        fs::create_dir_all(guest.join("wsl")).unwrap();
        for path in
            [stage.join("bin/coracle.exe"), guest.join("wsl/root.tar.gz"), guest.join("wsl/manifest.json")]
        {
            fs::write(path, "x").unwrap();
        }
        fs::write(guest.join("manifest.json"), r#"{"packages":[]}"#).unwrap();
        let out = dir.path().join("out");
        windows_packages(&stage, &out, &bare("1.2.3", "amd64", false).unwrap()).unwrap();
        let setup = fs::read(out.join("Coracle-Setup-1.2.3-x64.exe")).unwrap();
        assert!(setup.starts_with(b"MZ"));
        let sums = fs::read_to_string(out.join("SHA256SUMS")).unwrap();
        assert!(sums.contains("Coracle-Setup-1.2.3-x64.exe") && sums.contains(".cdx.json"), "{sums}");
    }

    /// What is asked for, of what there is; nothing is made of another vfkit than the listed one, nor for a release of half.
    #[test]
    fn another_vfkit_than_the_listed_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let stage = dir.path().join("stage");
        fs::create_dir_all(stage.join("bin")).unwrap();
        for name in ["coracle", "vfkit"] {
            fs::write(stage.join("bin").join(name), name).unwrap();
        }
        let options = |os: &str, arch: Option<&str>, others| Options {
            os: os.into(),
            arch: arch.map(str::to_owned),
            stage: Some(stage.clone()),
            with_app: true,
            others,
        };
        let refused = run(&options("macos", None, Others::NoPlugins)).unwrap_err();
        assert!(refused.to_string().contains("it is not packed"), "{refused:#}");
        for (os, arch) in [("windows", "arm64"), ("linux", "riscv64")] {
            let refused = run(&options(os, Some(arch), Others::NoPlugins)).unwrap_err().to_string();
            assert_eq!(refused, format!("packages for {os} on {arch} are not made here"));
        }
        // By itself the one whose guest is in the stage.
        fs::create_dir_all(stage.join("share/coracle/guest/amd64")).unwrap();
        assert_eq!(options("macos", None, Others::Had).arch().unwrap(), "amd64");
        assert_eq!(options("macos", Some("arm64"), Others::Had).arch().unwrap(), "arm64");
    }

    /// Into a root of its own, and out again: nothing is left, and what is the user's is said.
    #[test]
    fn installs_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let deb = package(&packages(&stage_in(dir.path()), &dir.path().join("out")), "deb");
        let root = dir.path().join("root");
        for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "run"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
        let dpkg = |what: &str, package: &Path| {
            let mut dpkg = Command::new("dpkg");
            dpkg.arg(format!("--root={}", root.display()));
            dpkg.args(["--force-depends", "--force-not-root", "--force-script-chrootless", what])
                .arg(package);
            let done = dpkg.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            String::from_utf8_lossy(&done.stdout).into_owned()
        };
        dpkg("--install", &deb);
        assert!(root.join("usr/lib/coracle/bin/coracle-engine").is_file());
        let link = root.join("run/docker.sock");
        let mut on = Command::new(root.join("usr/lib/coracle/docker-socket"));
        assert!(on.args(["on", "root"]).env("DESTDIR", &root).status().unwrap().success());
        assert!(fs::symlink_metadata(&link).is_ok());
        dpkg("--install", &deb); // once more: as an upgrade
        assert!(fs::symlink_metadata(&link).is_ok(), "an upgrade takes nothing away");
        let said = dpkg("--remove", Path::new("coracle"));
        assert!(said.contains("stay in each user's ~/.coracle"), "{said}");
        assert!(fs::symlink_metadata(&link).is_err());
        let mut left = Command::new("find");
        left.arg(&root).args(["-path", "*var/lib/dpkg", "-prune", "-o", "-type", "f", "-print"]);
        let left = left.output().unwrap().stdout;
        assert_eq!(String::from_utf8_lossy(&left).trim(), "");
    }

    /// The same by `rpm` itself.
    #[test]
    fn rpm_installs_upgrades_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let stage = stage_in(dir.path());
        let about = |version: &str| About {
            version: version.into(),
            arch: debian::host_arch().into(),
            time: 1_795_305_600,
            has_app: false,
            others: Vec::new(),
        };
        let made = |version: &str| {
            let about = about(version);
            let path = dir.path().join(format!("{version}.rpm"));
            fs::write(&path, rpm::build(&files(&stage, &about).unwrap(), &about).unwrap()).unwrap();
            path
        };
        let (first, second) = (made("1.0.0"), made("1.1.0"));
        let root = dir.path().join("root");
        // What runs a package's script, and the script's `install`, `ln` and `rm`.
        fs::create_dir_all(root.join("bin")).unwrap();
        let busybox = crate::tools::named("CORACLE_TEST_BUSYBOX").unwrap();
        fs::copy(&busybox, root.join("bin/busybox")).unwrap();
        for name in ["sh", "rm", "ln", "mkdir", "cat", "id", "readlink", "getent", "cut", "sed", "grep"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        let program = crate::tools::named("CORACLE_TEST_RPM").unwrap();
        let rpm = |args: &[&str]| {
            let mut rpm = Command::new(&program);
            rpm.arg("--root").arg(&root).args(["--dbpath", "/var/lib/rpm"]).args(args);
            let done = rpm.output().unwrap();
            assert!(done.status.success(), "rpm {args:?}: {}", String::from_utf8_lossy(&done.stderr));
            String::from_utf8_lossy(&done.stdout).into_owned()
        };
        let before = everything_in(&root);
        // By itself it asks for a hypervisor, which this root has not.
        let mut alone = Command::new(&program);
        alone.arg("--root").arg(&root).args(["--dbpath", "/var/lib/rpm", "--test", "-i"]).arg(&first);
        let alone = String::from_utf8_lossy(&alone.output().unwrap().stderr).into_owned();
        assert!(alone.contains("/usr/bin/qemu-system-"), "{alone}");

        rpm(&["-i", "--nodeps", &first.display().to_string()]);
        assert!(root.join("usr/lib/coracle/bin/coracle-engine").is_file());
        assert!(rpm(&["-qR", "coracle", "--recommends"]).contains("docker-ce-cli"));
        assert_eq!(rpm(&["-V", "--nodeps", "coracle"]), "", "all is as the package says");
        let link = root.join("run/docker.sock");
        let mut on = Command::new(root.join("usr/lib/coracle/docker-socket"));
        assert!(on.args(["on", "root"]).env("DESTDIR", &root).status().unwrap().success());
        rpm(&["-U", "--nodeps", &second.display().to_string()]);
        assert!(fs::symlink_metadata(&link).is_ok(), "an upgrade takes nothing away");
        assert_eq!(rpm(&["-q", "coracle"]).trim(), format!("coracle-1.1.0-1.{}", rpm::arch(&about("1.1.0"))));
        let said = rpm(&["-e", "coracle"]);
        assert!(said.contains("stay in each user's ~/.coracle"), "{said}");
        assert!(fs::symlink_metadata(&link).is_err());
        assert_eq!(everything_in(&root), before);
    }

    /// Files and links below a folder, but for what the package manager writes down.
    fn everything_in(root: &Path) -> String {
        let mut all = Command::new("find");
        all.arg(root).args(["-path", "*var/lib/rpm", "-prune", "-o", "-not", "-type", "d", "-print"]);
        let out = all.output().unwrap().stdout;
        let mut lines: Vec<&str> = std::str::from_utf8(&out).unwrap().lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    /// The link that programs which look nowhere else need, made and taken away; somebody else's is left alone.
    #[test]
    fn the_link_to_a_users_socket() {
        let dir = tempfile::tempdir().unwrap();
        let script = workspace().join("installer/linux/docker-socket");
        let call = |args: &[&str]| {
            Command::new(&script).args(args).env("DESTDIR", dir.path()).output().unwrap().status.success()
        };
        let link = dir.path().join("run/docker.sock");
        assert!(call(&["on", "root"]) && call(&["on", "root"]));
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("/root/.coracle/run/docker.sock"));
        assert!(call(&["off"]) && call(&["off"]));
        assert!(fs::symlink_metadata(&link).is_err());
        assert!(!dir.path().join("etc/tmpfiles.d/coracle-docker.conf").exists());
        std::os::unix::fs::symlink("/somebody/elses", &link).unwrap();
        assert!(!call(&["on", "root"]));
        assert!(call(&["off"]) && fs::read_link(&link).unwrap() == Path::new("/somebody/elses"));
        assert!(!call(&["on", "nobody-of-that-name"]));
    }
}
