//! The package of Fedora, openSUSE and their kin.

use anyhow::{Context, Result};
use rpm::{BuildConfig, CompressionWithLevel, Dependency, FileOptions, PackageBuilder};

use super::{About, Content, DOCUMENTS, File, preremove};

/// What the programs need. QEMU's package is named otherwise by each distribution: any that has the program will do.
const QEMU: (&str, &str) = ("/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-system-aarch64");

/// What the app shows itself with, by the libraries it asks for: each distribution names their packages otherwise.
const APP_RECOMMENDS: [&str; 2] =
    ["libwebkit2gtk-4.1.so.0()(64bit)", "libayatana-appindicator3.so.1()(64bit)"];
/// The command line: Docker's own package, Fedora's, openSUSE's.
const RECOMMENDS: &str = "(docker-ce-cli or docker-cli or docker)";

/// How hard zstd tries: as Fedora's own packages.
const LEVEL: i32 = 19;

/// RPM's name of the architecture.
pub fn arch(about: &About) -> &'static str {
    if about.arch == "arm64" { "aarch64" } else { "x86_64" }
}

pub fn build(files: &[File], about: &About) -> Result<Vec<u8>> {
    let time = u32::try_from(about.time).context("a time past 2106")?;
    let config = BuildConfig::default().compression(CompressionWithLevel::Zstd(LEVEL)).source_date(time);
    let mut package = PackageBuilder::new(
        "coracle",
        &about.version,
        "Apache-2.0",
        arch(about),
        "Linux containers on this computer",
    );
    package.using_config(config);
    package
        .description("A small Linux machine, and in it a container engine that the docker command line, compose and buildx talk to.")
        .release("1")
        .build_host("coracle")
        .requires(Dependency::any(if about.arch == "arm64" { QEMU.1 } else { QEMU.0 }))
        .requires(Dependency::any("libc.so.6(GLIBC_2.34)(64bit)"))
        .pre_uninstall_script(preremove()?);
    package.recommends(Dependency::any(RECOMMENDS));
    for library in APP_RECOMMENDS.iter().filter(|_| about.has_app) {
        package.recommends(Dependency::any(*library));
    }
    for file in files {
        let to = format!("/{}", file.to);
        match &file.content {
            Content::Bytes { bytes, mode } => {
                let options = FileOptions::new(to).permissions(*mode as u16);
                let options = if file.to.starts_with(DOCUMENTS) { options.doc() } else { options };
                package.with_file_contents(bytes.clone(), options)?;
            }
            Content::Link(target) => {
                package.with_symlink(FileOptions::symlink(to, target))?;
            }
        }
    }
    let mut bytes = Vec::new();
    package.build()?.write(&mut bytes)?;
    Ok(bytes)
}
