//! The parts that a machine is made of, found beside this program: the guest's image, the engine, QEMU.

use std::{
    collections::BTreeMap,
    env::consts::EXE_SUFFIX,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{HostError, Settings, driver::vfkit::Kind, platform, programs};

/// The format of images that this build understands.
const FORMAT: u32 = 1;

/// The guest's image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Folder with kernel, initrd and root.
    pub folder: PathBuf,
    /// Its build id.
    pub build: String,
    /// The kernel's boot arguments.
    pub cmdline: String,
}

#[derive(Deserialize)]
struct Manifest {
    format: u32,
    arch: String,
    build: String,
    cmdline: String,
    outputs: BTreeMap<String, Output>,
}

#[derive(Deserialize)]
struct Output {
    bytes: u64,
}

impl Image {
    /// The one that belongs to this program: `CORACLE_GUEST`, or `../share/coracle/guest/<arch>` beside it.
    pub fn find() -> Result<Self, HostError> {
        let folder = match std::env::var_os("CORACLE_GUEST").filter(|f| !f.is_empty()) {
            Some(folder) => folder.into(),
            None => guests()?.join(arch()),
        };
        Self::at(&folder)
    }

    fn at(folder: &Path) -> Result<Self, HostError> {
        let path = folder.join("manifest.json");
        let bytes = std::fs::read(&path).map_err(|e| HostError::Image(format!("{}: {e}", path.display())))?;
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|e| HostError::Image(format!("{}: {e}", path.display())))?;
        if manifest.format != FORMAT {
            let text = format!("it has format {}, this coracle understands {FORMAT}", manifest.format);
            return Err(HostError::Image(text));
        }
        if manifest.arch != arch() {
            return Err(HostError::Image(format!(
                "it is made for {}, wanted is one for {}",
                manifest.arch,
                arch()
            )));
        }
        for name in ["kernel", "initrd", "root.erofs"] {
            let file = folder.join(name);
            let wanted = manifest.outputs.get(name).map(|o| o.bytes);
            match std::fs::metadata(&file) {
                Ok(meta) if Some(meta.len()) == wanted => {}
                Ok(meta) => {
                    let text =
                        format!("{} has {} bytes, the manifest says {wanted:?}", file.display(), meta.len());
                    return Err(HostError::Image(text));
                }
                Err(error) => return Err(HostError::Image(format!("{}: {error}", file.display()))),
            }
        }
        Ok(Self { folder: folder.to_owned(), build: manifest.build, cmdline: manifest.cmdline })
    }
}

/// The engine's program, for the local driver.
pub fn engine() -> Result<PathBuf, HostError> {
    let path = match std::env::var_os("CORACLE_ENGINE").filter(|f| !f.is_empty()) {
        Some(path) => path.into(),
        None => beside(&format!("coracle-engine{EXE_SUFFIX}"))?,
    };
    if path.is_file() { Ok(path) } else { Err(HostError::EngineMissing(path)) }
}

/// The program that gives a folder to the guest: `CORACLE_SHARE`, or beside this one.
pub fn share() -> Result<PathBuf, HostError> {
    let path = match std::env::var_os("CORACLE_SHARE").filter(|f| !f.is_empty()) {
        Some(path) => path.into(),
        None => beside(&format!("coracle-share{EXE_SUFFIX}"))?,
    };
    if path.is_file() { Ok(path) } else { Err(HostError::ShareMissing(path)) }
}

/// QEMU's program: the setting, `CORACLE_QEMU`, or in `PATH`.
pub fn qemu(settings: &Settings) -> Result<PathBuf, HostError> {
    let named = settings.qemu.clone().or_else(|| std::env::var_os("CORACLE_QEMU").map(PathBuf::from));
    if let Some(path) = named.filter(|p| !p.as_os_str().is_empty()) {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(HostError::QemuMissing(path.display().to_string()))
        };
    }
    let name = if arch() == "arm64" { "qemu-system-aarch64" } else { "qemu-system-x86_64" };
    programs::find(name).ok_or_else(|| HostError::QemuMissing(format!("no {name} in PATH")))
}

/// The program of vfkit or krunkit: what its variable names, beside this one, or in `PATH`.
pub fn hypervisor(kind: &'static Kind) -> Result<PathBuf, HostError> {
    program(kind.name, kind.variable).map_err(|why| HostError::VfkitMissing(kind, why))
}

/// The program that is the network of krunkit's guests: `CORACLE_GVPROXY`, beside this one, or in `PATH`.
pub fn gvproxy() -> Result<PathBuf, HostError> {
    program("gvproxy", "CORACLE_GVPROXY").map_err(HostError::ProxyMissing)
}

fn program(name: &str, variable: &str) -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(variable).filter(|p| !p.is_empty()).map(PathBuf::from) {
        return if platform::is_program(&path) { Ok(path) } else { Err(path.display().to_string()) };
    }
    let beside = beside(name).map_err(|error| error.to_string())?;
    if platform::is_program(&beside) {
        return Ok(beside);
    }
    programs::find(name).ok_or_else(|| format!("neither {} nor one in PATH", beside.display()))
}

/// WSL's program: `CORACLE_WSL`, or the one of Windows.
pub fn wsl() -> Result<PathBuf, HostError> {
    let named = std::env::var_os("CORACLE_WSL").filter(|p| !p.is_empty()).map(PathBuf::from);
    let windows = std::env::var_os("SystemRoot").map(|root| PathBuf::from(root).join(r"System32\wsl.exe"));
    match named.or(windows) {
        Some(path) if platform::is_program(&path) => Ok(path),
        Some(path) => Err(HostError::WslMissing(path.display().to_string())),
        None => Err(HostError::WslMissing("this is no Windows".into())),
    }
}

/// The root of the WSL distribution.
#[derive(Debug, Clone)]
pub struct WslRoot {
    /// A compressed tar archive of it.
    pub archive: PathBuf,
    /// Its build id.
    pub build: String,
}

impl WslRoot {
    /// The one that belongs to this program: `CORACLE_WSL_ROOT`, or `../share/coracle/guest/<arch>/wsl` beside it.
    pub fn find() -> Result<Self, HostError> {
        let folder = match std::env::var_os("CORACLE_WSL_ROOT").filter(|f| !f.is_empty()) {
            Some(folder) => folder.into(),
            None => guests()?.join(own_arch()).join("wsl"),
        };
        Self::at(&folder)
    }

    fn at(folder: &Path) -> Result<Self, HostError> {
        #[derive(Deserialize)]
        struct Manifest {
            format: u32,
            arch: String,
            build: String,
            bytes: u64,
        }
        let path = folder.join("manifest.json");
        let wrong = |why: String| HostError::WslRoot(format!("{}: {why}", path.display()));
        let bytes = std::fs::read(&path).map_err(|e| wrong(e.to_string()))?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
        if (manifest.format, manifest.arch.as_str()) != (FORMAT, own_arch()) {
            let (format, arch) = (manifest.format, manifest.arch);
            let wanted = own_arch();
            return Err(wrong(format!("format {format} for {arch}, wanted is {FORMAT} for {wanted}")));
        }
        let archive = folder.join("root.tar.gz");
        let len =
            std::fs::metadata(&archive).map_err(|e| wrong(format!("{}: {e}", archive.display())))?.len();
        if len != manifest.bytes {
            return Err(wrong(format!("{} has {len} bytes, not {}", archive.display(), manifest.bytes)));
        }
        Ok(Self { archive, build: manifest.build })
    }
}

/// Debian's name of this computer's architecture.
pub fn own_arch() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

/// Debian's name of the guest's architecture: `CORACLE_ARCH`, else this computer's. Another one is translated, slowly.
pub fn arch() -> &'static str {
    match std::env::var("CORACLE_ARCH").as_deref() {
        Ok("arm64") => "arm64",
        Ok("amd64") => "amd64",
        _ => own_arch(),
    }
}

/// Where images are: beside the programs' folder, or (in a bundle of macOS) among its resources.
fn guests() -> Result<PathBuf, HostError> {
    let bundled = beside("../Resources/share/coracle/guest")?;
    if bundled.is_dir() { Ok(bundled) } else { beside("../share/coracle/guest") }
}

fn beside(path: &str) -> Result<PathBuf, HostError> {
    let program = std::env::current_exe().map_err(HostError::io("finding", "this program"))?;
    let folder = program.parent().unwrap_or(Path::new("/"));
    Ok(std::path::absolute(folder.join(path)).unwrap_or_else(|_| folder.join(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(dir: &Path, manifest: &str) -> Result<Image, HostError> {
        for name in ["kernel", "initrd", "root.erofs"] {
            std::fs::write(dir.join(name), "1234").unwrap();
        }
        std::fs::write(dir.join("manifest.json"), manifest).unwrap();
        Image::at(dir)
    }

    #[test]
    fn a_root_that_does_not_fit_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let with = |manifest: String| {
            std::fs::write(dir.path().join("manifest.json"), manifest).unwrap();
            WslRoot::at(dir.path())
        };
        let of = |format: u32, bytes: u64| {
            let arch = own_arch();
            format!(r#"{{"format":{format},"arch":"{arch}","build":"b1","bytes":{bytes}}}"#)
        };
        assert!(with(of(1, 4)).unwrap_err().to_string().contains("root.tar.gz"));
        std::fs::write(dir.path().join("root.tar.gz"), "1234").unwrap();
        assert_eq!(with(of(1, 4)).unwrap().build, "b1");
        assert!(with(of(1, 5)).unwrap_err().to_string().contains("4 bytes"));
        assert!(with(of(2, 4)).unwrap_err().to_string().contains("format 2"));
        assert_eq!(with("{".into()).unwrap_err().code(), "wsl_root");
    }

    #[test]
    fn an_image_that_does_not_fit_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Image::at(dir.path()).unwrap_err().to_string().contains("manifest.json"));
        let outputs = r#""outputs":{"kernel":{"bytes":4},"initrd":{"bytes":4},"root.erofs":{"bytes":4}}"#;
        let of = |format: u32, arch: &str| {
            format!(r#"{{"format":{format},"arch":"{arch}","build":"b","cmdline":"c",{outputs}}}"#)
        };
        assert_eq!(image(dir.path(), &of(1, arch())).unwrap().build, "b");
        assert!(image(dir.path(), &of(2, arch())).unwrap_err().to_string().contains("format 2"));
        assert!(image(dir.path(), &of(1, "s390x")).unwrap_err().to_string().contains("s390x"));
        let cut = of(1, arch()).replace("\"initrd\":{\"bytes\":4}", "\"initrd\":{\"bytes\":9}");
        assert!(image(dir.path(), &cut).unwrap_err().to_string().contains("4 bytes"));
    }
}
