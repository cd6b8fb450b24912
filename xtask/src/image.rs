//! `cargo xtask image`: the guest's kernel, initrd and root, out of Debian's packages and our own programs.
//!
//! Needs no root and no network but Debian's packages; the same packages and programs give the same bytes. What goes in
//! is data: `vm-image/`. Out come, in `target/stage/share/coracle/guest/<arch>/`:
//!
//! ```text
//! kernel         Debian's cloud kernel (x86: bzImage; arm64: uncompressed Image, as vfkit wants it)
//! initrd         newc cpio: /init (coracle-guest), the modules that the root needs, /modules (their order)
//! root.erofs     the read-only root
//! boot.efi       systemd-boot, for hypervisors that boot by firmware alone (krunkit)
//! manifest.json  packages with version, sha256 and licence; sha256 of the outputs; the build's id; the boot arguments
//! ```
//!
//! and, where it is asked for, `wsl/`: the same root for a WSL2 distribution (`image/wsl.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use sha2::{Digest, Sha256};

mod wsl;

use crate::{
    cpio::Cpio,
    debian::{Deb, Debian, Tree, hex},
    modules::{Modules, Stage},
};

/// The suite whose packages the guest is made of.
const SUITE: &str = "trixie";
/// Our own programs in the root.
const PROGRAMS: [&str; 3] = ["coracle-guest", "coracle-engine", "coracle-shim"];
/// Debian's package of the firmware's loader, and where it has it for a processor.
const LOADER: (&str, fn(&str) -> &'static str) = ("systemd-boot-efi", |arch| match arch {
    "arm64" => "/usr/lib/systemd/boot/efi/systemd-bootaa64.efi",
    _ => "/usr/lib/systemd/boot/efi/systemd-bootx64.efi",
});
/// The root's UUID: fixed, so that bytes are reproducible.
const ROOT_UUID: &str = "c0ac1e00-0000-4000-8000-000000000001";
/// How the root is packed; one thread, so that bytes are reproducible.
const COMPRESSION: [&str; 4] = ["-zlz4hc,12", "-C65536", "-Eall-fragments,dedupe", "--workers=0"];
/// Folders of the root: places to mount on and links' targets.
const FOLDERS: [&str; 14] = [
    "data",
    "dev",
    "etc/ssl/certs",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr/bin",
    "usr/lib",
    "usr/lib64",
    "usr/sbin",
    "usr/share/coracle/images",
    "opt",
];

/// What to build.
pub struct Options {
    /// `amd64` or `arm64`.
    pub arch: String,
    /// Folder with `coracle-guest`, `coracle-engine` and `coracle-shim` for that architecture.
    pub programs: PathBuf,
    /// Folder with image archives that the engine loads at its first start.
    pub images: PathBuf,
    /// Where the outputs go.
    pub out: PathBuf,
    /// Whether the root is made for WSL2 as well.
    pub wsl: bool,
}

#[derive(Serialize)]
struct Manifest {
    format: u32,
    arch: String,
    build: String,
    kernel_version: String,
    cmdline: String,
    outputs: BTreeMap<String, Output>,
    programs: BTreeMap<String, String>,
    packages: Vec<Package>,
}

#[derive(Serialize)]
struct Output {
    sha256: String,
    bytes: u64,
}

#[derive(Serialize)]
struct Package {
    name: String,
    version: String,
    sha256: String,
    licence: Vec<String>,
}

/// Builds the image; gives the folder it is in.
pub fn build(options: &Options) -> Result<PathBuf> {
    for program in PROGRAMS {
        let path = options.programs.join(program);
        ensure!(
            path.is_file(),
            "{} is missing: stage the programs of the guest first (static, for {})",
            path.display(),
            options.arch
        );
    }
    let debian = Debian::open_arch(SUITE, &options.arch)?;
    let kernel = kernel_package(&debian, &options.arch)?;
    let kernel_tree = debian.unpack("kernel", std::slice::from_ref(&kernel))?;
    let (files, parts): (Vec<Listed>, Vec<Listed>) =
        listed_files(&options.arch)?.into_iter().partition(|file| file.whole);
    let wanted: BTreeSet<&str> =
        files.iter().map(|f| f.package.as_str()).chain(["ca-certificates"]).collect();
    let debs = debian.closure(&wanted.into_iter().collect::<Vec<_>>())?;
    let tree = debian.unpack("guest", &debs)?;
    let mut sources: Vec<(Deb, Tree)> = debs.iter().map(|deb| (deb.clone(), tree.clone())).collect();

    let work = crate::target_dir().join("image").join(format!("{}-{}", options.arch, std::process::id()));
    let _ = fs::remove_dir_all(&work);
    let root = work.join("root");
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder))?;
    }
    for merged in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{merged}"), root.join(merged))?;
    }
    let modules = Modules::of(&kernel_tree, &crate::workspace().join("vm-image/modules.txt"))?;
    let mut used = put_files(&root, &tree, &files, &debs, &options.arch)?;
    put_own(&root, options, &tree, &modules)?;
    for part in &parts {
        let deb = debian.fetch(&[&part.package])?.remove(0);
        let licence = format!("/usr/share/doc/{}/copyright", part.package);
        let tree = debian.unpack_only("part", std::slice::from_ref(&deb), &[&part.path, &licence])?;
        let needed = libraries(&tree.file(&part.path))?;
        ensure!(needed.is_empty(), "{} is not static, it needs {needed:?}", part.path);
        copy(&tree.file(&part.path), &root.join(part.to.trim_start_matches('/')))?;
        used.insert(part.package.clone());
        sources.push((deb, tree));
    }
    let (package, place) = (LOADER.0, LOADER.1(&options.arch));
    let deb = debian.fetch(&[package])?.remove(0);
    let licence = format!("/usr/share/doc/{package}/copyright");
    let tree = debian.unpack_only("loader", std::slice::from_ref(&deb), &[place, &licence])?;
    let loader = fs::read(tree.file(place)).with_context(|| format!("{package} has no {place}"))?;
    used.insert(package.into());
    sources.push((deb, tree));
    used.insert(kernel.name.clone());
    sources.push((kernel, kernel_tree));
    let kernel_tree = &sources.last().expect("the kernel").1;
    used.insert("ca-certificates".into());
    normalise(&root)?;

    let part = options.out.with_extension(format!("part{}", std::process::id()));
    let _ = fs::remove_dir_all(&part);
    fs::create_dir_all(&part)?;
    fs::write(part.join("kernel"), kernel_image(kernel_tree)?)?;
    fs::write(part.join("boot.efi"), loader)?;
    fs::write(part.join("initrd"), initrd(&options.programs.join("coracle-guest"), &modules)?)?;
    erofs(&root, &part.join("root.erofs"), &COMPRESSION)?;
    let manifest = manifest(options, &part, &sources, &used, &modules)?;
    fs::write(part.join("manifest.json"), serde_json::to_vec_pretty(&manifest)?)?;
    if options.wsl {
        wsl::build(&root, &options.arch, &part.join("wsl"))?;
    }
    fs::remove_dir_all(&work)?;
    let _ = fs::remove_dir_all(&options.out);
    fs::rename(&part, &options.out)
        .with_context(|| format!("{} could not be put in place", options.out.display()))?;
    Ok(options.out.clone())
}

fn kernel_package(debian: &Debian, arch: &str) -> Result<Deb> {
    let meta = format!("linux-image-cloud-{arch}");
    // The meta package depends on the kernel of the day; only that one is wanted, none of its dependencies.
    let name = debian
        .names(&[&meta])?
        .into_iter()
        .find(|name| name.starts_with("linux-image-") && *name != meta)
        .with_context(|| format!("{meta} names no kernel"))?;
    Ok(debian.fetch(&[&name])?.remove(0))
}

struct Listed {
    package: String,
    path: String,
    to: String,
    /// Whether the package is unpacked with all it needs, or this file alone.
    whole: bool,
}

fn listed_files(arch: &str) -> Result<Vec<Listed>> {
    let text = fs::read_to_string(crate::workspace().join("vm-image/files.txt"))?;
    let mut files = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (package, path, to) = match words[..] {
            [package, path] => (package, path, path),
            [package, path, to] => (package, path, to),
            _ => bail!("vm-image/files.txt: not understood: {line}"),
        };
        let package = match package.split_once(':') {
            Some((other, _)) if other != arch => continue,
            Some((_, package)) => package,
            None => package,
        };
        let (package, whole) = package.strip_prefix('+').map_or((package, true), |package| (package, false));
        files.push(Listed { package: package.into(), path: path.into(), to: to.into(), whole });
    }
    Ok(files)
}

/// Copies the listed files and the libraries they need; gives the names of the packages they came from.
fn put_files(
    root: &Path,
    tree: &Tree,
    files: &[Listed],
    debs: &[Deb],
    arch: &str,
) -> Result<BTreeSet<String>> {
    let triple = if arch == "arm64" { "aarch64-linux-gnu" } else { "x86_64-linux-gnu" };
    let mut used = BTreeSet::new();
    let mut needed: Vec<String> = Vec::new();
    for file in files {
        let from = tree.file(&file.path);
        copy(&from, &root.join(file.to.trim_start_matches('/')))?;
        needed.extend(libraries(&from)?);
        used.insert(file.package.clone());
    }
    let mut done = BTreeSet::new();
    while let Some(name) = needed.pop() {
        if !done.insert(name.clone()) {
            continue;
        }
        // A program's loader is named by its whole path; libraries are looked for.
        let candidates = match name.starts_with('/') {
            true => vec![name.clone()],
            false => ["usr/lib/".to_owned() + triple, "usr/lib".to_owned()]
                .map(|l| format!("/{l}/{name}"))
                .to_vec(),
        };
        let found = candidates
            .iter()
            .find(|path| tree.file(path).exists())
            .with_context(|| format!("no package of the guest has the library {name}"))?;
        copy(&tree.file(found), &root.join(found.trim_start_matches('/')))?;
        needed.extend(libraries(&tree.file(found))?);
        used.extend(owner(debs, name.rsplit('/').next().unwrap_or(&name))?);
    }
    Ok(used)
}

/// The package that a library came from.
fn owner(debs: &[Deb], library: &str) -> Result<Option<String>> {
    for deb in debs {
        let list = Command::new("dpkg-deb").arg("--contents").arg(&deb.path).output()?;
        let listed = String::from_utf8_lossy(&list.stdout);
        if listed.lines().any(|l| l.split(" -> ").next().is_some_and(|l| l.ends_with(&format!("/{library}"))))
        {
            return Ok(Some(deb.name.clone()));
        }
    }
    Ok(None)
}

/// Libraries an ELF file names, its loader included.
fn libraries(path: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(path).with_context(|| format!("{} is missing", path.display()))?;
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(Vec::new());
    }
    let elf =
        goblin::elf::Elf::parse(&bytes).with_context(|| format!("{} is no ELF file", path.display()))?;
    Ok(elf.libraries.iter().copied().chain(elf.interpreter).map(str::to_owned).collect())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    // Follows links: a library is stored under the name that programs ask for.
    fs::copy(from, to).with_context(|| format!("{} could not be copied", from.display()))?;
    Ok(())
}

fn put_own(root: &Path, options: &Options, tree: &Tree, modules: &Modules) -> Result<()> {
    for program in PROGRAMS {
        copy(&options.programs.join(program), &root.join("usr/bin").join(program))?;
    }
    symlink("../bin/coracle-guest", root.join("usr/sbin/modprobe"))?;
    symlink("busybox", root.join("usr/bin/sh"))?;
    symlink("/run", root.join("var-run"))?;
    fs::create_dir_all(root.join("var/lib"))?;
    fs::rename(root.join("var-run"), root.join("var/run"))?;
    symlink("/run/resolv.conf", root.join("etc/resolv.conf"))?;
    symlink("/proc/self/mounts", root.join("etc/mtab"))?;
    let etc = root.join("etc");
    fs::write(
        etc.join("passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    )?;
    fs::write(etc.join("group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::write(etc.join("hosts"), "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")?;
    fs::write(etc.join("nsswitch.conf"), "passwd: files\ngroup: files\nhosts: files dns\n")?;
    fs::write(etc.join("hostname"), "coracle\n")?;
    fs::write(
        etc.join("os-release"),
        "NAME=\"Coracle\"\nID=coracle\nID_LIKE=debian\nPRETTY_NAME=\"Coracle guest\"\n",
    )?;
    fs::write(etc.join("ssl/certs/ca-certificates.crt"), certificates(tree)?)?;
    if options.images.is_dir() {
        for entry in fs::read_dir(&options.images)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "tar") {
                copy(&path, &root.join("usr/share/coracle/images").join(path.file_name().expect("a file")))?;
            }
        }
    }
    modules.put(&root.join("usr/lib/modules"))
}

/// The bundle that Debian's `update-ca-certificates` would make: every certificate of the package.
fn certificates(tree: &Tree) -> Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(tree.file("/usr/share/ca-certificates/mozilla"))?
        .map(|e| Ok(e?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    let mut bundle = String::new();
    for file in files {
        bundle.push_str(fs::read_to_string(file)?.trim_end());
        bundle.push('\n');
    }
    ensure!(bundle.contains("BEGIN CERTIFICATE"), "ca-certificates holds no certificate");
    Ok(bundle)
}

/// Modes that don't depend on who unpacked what under which umask.
fn normalise(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_symlink() {
            continue;
        }
        if meta.is_dir() {
            normalise(&path)?;
        }
        let executable = meta.is_dir() || meta.permissions().mode() & 0o100 != 0;
        fs::set_permissions(&path, fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A read-only file system of a folder: all root's, the same bytes for the same files.
pub fn erofs(root: &Path, out: &Path, compression: &[&str]) -> Result<()> {
    let tools = Debian::open(SUITE)?.tree("erofs-utils", &["erofs-utils"])?;
    let output = tools
        .command("/usr/bin/mkfs.erofs")
        .args(compression)
        .args(["-T0", "--all-time", "--all-root"])
        .args(["-U", ROOT_UUID, "-Lcoracle-root"])
        .arg(out)
        .arg(root)
        .output()?;
    ensure!(output.status.success(), "mkfs.erofs failed:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn initrd(init: &Path, modules: &Modules) -> Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    for dir in ["dev", "proc", "sys", "root", "lib"] {
        cpio.dir(dir);
    }
    cpio.device("dev/console", 0o600, 5, 1);
    cpio.file("init", 0o755, &fs::read(init)?);
    let mut order = String::new();
    for (name, data) in modules.stage(Stage::Initrd) {
        let path = format!("lib/{name}.ko");
        cpio.file(&path, 0o644, data);
        order.push_str(&format!("/{path}\n"));
    }
    cpio.file("modules", 0o644, order.as_bytes());
    Ok(cpio.finish())
}

/// The kernel as hypervisors load it.
fn kernel_image(tree: &Tree) -> Result<Vec<u8>> {
    let boot = tree.file("/boot");
    let path = fs::read_dir(&boot)?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-")))
        .context("the kernel's package holds no kernel")?;
    let bytes = fs::read(path)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut image = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut image)?;
        return Ok(image);
    }
    ensure!(bytes.get(4..8) != Some(b"zimg"), "an EFI zboot kernel: unpacking it is not there yet");
    Ok(bytes)
}

fn manifest(
    options: &Options,
    out: &Path,
    sources: &[(Deb, Tree)],
    used: &BTreeSet<String>,
    modules: &Modules,
) -> Result<Manifest> {
    let mut outputs = BTreeMap::new();
    for name in ["kernel", "initrd", "root.erofs", "boot.efi"] {
        let bytes = fs::read(out.join(name))?;
        let output = Output { sha256: hex(&Sha256::digest(&bytes)), bytes: bytes.len() as u64 };
        outputs.insert(name.to_owned(), output);
    }
    let mut programs = BTreeMap::new();
    for name in PROGRAMS {
        programs.insert(name.to_owned(), hex(&Sha256::digest(fs::read(options.programs.join(name))?)));
    }
    let packages = sources
        .iter()
        .filter(|(deb, _)| used.contains(&deb.name))
        .map(|(deb, tree)| Package {
            name: deb.name.clone(),
            version: deb.version.clone(),
            sha256: deb.sha256.clone(),
            licence: licences(tree, &deb.name),
        })
        .collect();
    // The id covers every byte of the outputs, so two images with one id are one image.
    let all: String = outputs.values().map(|o| o.sha256.as_str()).collect();
    Ok(Manifest {
        format: 1,
        arch: options.arch.clone(),
        build: hex(&Sha256::digest(all))[..16].to_owned(),
        kernel_version: modules.version.clone(),
        cmdline: fs::read_to_string(crate::workspace().join("vm-image/cmdline.txt"))?.trim().to_owned(),
        outputs,
        programs,
        packages,
    })
}

/// Names of licences from the package's machine-readable copyright file; where it has none, where to read.
fn licences(tree: &Tree, package: &str) -> Vec<String> {
    let path = format!("/usr/share/doc/{package}/copyright");
    let text = fs::read_to_string(tree.file(&path)).unwrap_or_default();
    let names: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("License:"))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    if names.is_empty() { vec![format!("see Debian's {path}")] } else { names.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs Debian's packages (cached after the first run).
    #[test]
    fn two_runs_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        for program in PROGRAMS {
            fs::write(dir.path().join(program), format!("#!/bin/false {program}\n")).unwrap();
        }
        let build = |name: &str| {
            let options = Options {
                arch: crate::debian::host_arch().into(),
                programs: dir.path().into(),
                images: dir.path().join("none"),
                out: dir.path().join(name),
                wsl: true,
            };
            let out = build(&options).unwrap();
            let names = ["kernel", "initrd", "root.erofs", "boot.efi", "manifest.json"];
            let wsl = ["wsl/root.tar.gz", "wsl/manifest.json"];
            [&names[..], &wsl[..]]
                .concat()
                .into_iter()
                .map(|f| hex(&Sha256::digest(fs::read(out.join(f)).unwrap())))
                .collect::<Vec<_>>()
        };
        assert_eq!(build("a"), build("b"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            arch: "amd64".into(),
            programs: dir.path().into(),
            images: dir.path().into(),
            out: dir.path().join("out"),
            wsl: false,
        };
        assert!(super::build(&options).unwrap_err().to_string().contains("coracle-guest is missing"));
    }
}
