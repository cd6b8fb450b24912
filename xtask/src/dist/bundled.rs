//! Programs of others that packages bring: those of `installer/programs.txt`, each held to its sum.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::{debian, target_dir, workspace};

/// What the app runs for compose projects and builds.
pub const PLUGINS: [&str; 2] = ["docker-compose", "docker-buildx"];

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its name, without a system's suffix.
    pub name: String,
    /// As its makers name it.
    pub version: String,
    /// Of its file, in hexadecimal digits.
    pub sha256: String,
    /// By its SPDX name.
    pub licence: String,
    /// Where it is had.
    pub url: String,
}

/// The lines for a system and a processor.
pub fn listed(os: &str, arch: &str) -> Result<Vec<Program>> {
    of(&fs::read_to_string(workspace().join("installer/programs.txt"))?, os, arch)
}

fn of(list: &str, os: &str, arch: &str) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for line in list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, system, processor, version, sha256, licence, url] = words[..] else {
            anyhow::bail!("programs.txt: {line:?}")
        };
        if system == os && (processor == arch || processor == "any") {
            let [name, version, sha256, licence, url] =
                [name, version, sha256, licence, url].map(str::to_owned);
            programs.push(Program { name, version, sha256, licence, url });
        }
    }
    Ok(programs)
}

/// Which of the listed programs a package brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// All; without one of them nothing is packed. For what is released.
    All,
    /// Those that can be had; what can't be is said, and looked for on the user's computer instead.
    Had,
    /// Compose and buildx stay out.
    NoPlugins,
}

/// A program of others as it is packed.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Its line of the list.
    pub program: Program,
    /// Its file.
    pub bytes: Vec<u8>,
}

/// What was asked for, and why the rest of it is not there.
#[derive(Debug, Default)]
pub struct Pack {
    /// What is packed.
    pub packed: Vec<Packed>,
    /// A line for each that could not be had.
    pub missing: Vec<String>,
}

/// The programs for a system and a processor, each the listed one. Made before anything is built for minutes: all that is wrong
/// is said at once.
pub fn pack(os: &str, arch: &str, bin: &Path, others: Others) -> Result<Pack> {
    pack_of(listed(os, arch)?, bin, others)
}

fn pack_of(programs: Vec<Program>, bin: &Path, others: Others) -> Result<Pack> {
    let (mut pack, mut wrong) = (Pack::default(), Vec::new());
    let wanted = |program: &Program| others != Others::NoPlugins || !PLUGINS.contains(&program.name.as_str());
    for program in programs.into_iter().filter(wanted) {
        match program.had(bin)? {
            Had::Listed(bytes) => pack.packed.push(Packed { program, bytes }),
            Had::Another(why) => wrong.push(why),
            Had::Unreached(why) => pack.missing.push(why),
        }
    }
    if others == Others::All {
        wrong.append(&mut pack.missing);
    }
    ensure!(wrong.is_empty(), "the packages want what is not here:\n{}", wrong.join("\n"));
    Ok(pack)
}

/// What came of looking for a program.
enum Had {
    /// Its file.
    Listed(Vec<u8>),
    /// There is one, and it isn't the listed one.
    Another(String),
    /// Its makers' server could not be asked.
    Unreached(String),
}

impl Program {
    /// Its file: beside the stage's own programs, or fetched; either way it must be the listed one.
    fn had(&self, bin: &Path) -> Result<Had> {
        let kept =
            target_dir().join("tools").join(format!("{}-{}-{}", self.name, self.version, &self.sha256[..8]));
        let (is_new, bytes) = match self.found(bin, &kept) {
            Some(path) => (false, fs::read(path)?),
            None => match self.fetch()? {
                Ok(bytes) => (true, bytes),
                Err(why) => {
                    return Ok(Had::Unreached(format!(
                        "{} {} could not be fetched ({why}). Put the file that {} gives at {}",
                        self.name,
                        self.version,
                        self.url,
                        bin.join(&self.name).display()
                    )));
                }
            },
        };
        let is = debian::hex(&Sha256::digest(&bytes));
        if is != self.sha256 {
            return Ok(Had::Another(format!(
                "{} {} has the SHA-256 {is}, listed is {}: it is not packed",
                self.name, self.version, self.sha256
            )));
        }
        if is_new {
            fs::create_dir_all(kept.parent().expect("a folder"))?;
            fs::write(&kept, &bytes)?;
        }
        Ok(Had::Listed(bytes))
    }

    fn found(&self, bin: &Path, kept: &Path) -> Option<PathBuf> {
        let beside = ["", ".exe"].map(|suffix| bin.join(format!("{}{suffix}", self.name)));
        beside.into_iter().chain([kept.to_owned()]).find(|path| path.is_file())
    }

    fn fetch(&self) -> Result<std::result::Result<Vec<u8>, String>> {
        eprintln!("fetching {}", self.url);
        let fetched = Command::new("curl")
            .args(["--fail", "--silent", "--show-error", "--location"])
            .args(["--connect-timeout", "20", "--max-time", "600", &self.url])
            .output()
            .context("run curl")?;
        let why = String::from_utf8_lossy(&fetched.stderr).trim().to_owned();
        Ok(if fetched.status.success() { Ok(fetched.stdout) } else { Err(why) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_packed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let sum = debian::hex(&Sha256::digest(b"the listed one"));
        let list = format!("# a remark\n\ntool linux amd64 1.2 {sum} MIT https://example.invalid/tool\n");
        let programs = of(&list, "linux", "amd64").unwrap();
        assert!(of(&list, "linux", "arm64").unwrap().is_empty());
        assert!(of("tool linux 1.2", "linux", "amd64").is_err());
        fs::write(dir.path().join("tool"), "the listed one").unwrap();
        let pack = pack_of(programs.clone(), dir.path(), Others::All).unwrap();
        assert_eq!((pack.packed[0].bytes.as_slice(), pack.packed.len()), (&b"the listed one"[..], 1));
        // Another one is never packed, and nothing without it: it is not that none could be had.
        fs::write(dir.path().join("tool"), "another").unwrap();
        let said = pack_of(programs, dir.path(), Others::Had).unwrap_err().to_string();
        assert!(said.contains("it is not packed"), "{said}");
    }

    /// A release has everything; who builds for themselves gets what there is, and is told of the rest.
    #[test]
    fn what_cannot_be_had_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let program = |name: &str| Program {
            name: name.into(),
            version: "1.2".into(),
            sha256: "a".repeat(64),
            licence: "MIT".into(),
            // No curl goes there.
            url: format!("none://example.invalid/{name}"),
        };
        let programs = || vec![program("vfkit"), program("docker-compose")];
        let pack = pack_of(programs(), dir.path(), Others::Had).unwrap();
        assert!(pack.packed.is_empty());
        let [vfkit, compose] = &pack.missing[..] else { panic!("{pack:?}") };
        assert!(
            vfkit.starts_with("vfkit 1.2 could not be fetched")
                && compose.contains("/docker-compose gives at")
        );
        let pack = pack_of(programs(), dir.path(), Others::NoPlugins).unwrap();
        assert_eq!(pack.missing.len(), 1, "{pack:?}");
        let said = pack_of(programs(), dir.path(), Others::All).unwrap_err().to_string();
        assert!(said.contains("\nvfkit 1.2") && said.contains("\ndocker-compose 1.2"), "{said}");
    }

    /// Every line of our own list is whole, and says what a package may be made of.
    #[test]
    fn the_list_is_whole() {
        for (os, arch, least) in [
            ("linux", "amd64", 2),
            ("linux", "arm64", 2),
            ("macos", "arm64", 3),
            ("macos", "amd64", 3),
            ("windows", "amd64", 2),
        ] {
            let programs = listed(os, arch).unwrap();
            assert!(programs.len() >= least, "{os} {arch}: {programs:?}");
            for program in programs {
                assert!(program.sha256.len() == 64 && program.sha256.bytes().all(|b| b.is_ascii_hexdigit()));
                assert!(program.url.starts_with("https://") && program.url.contains(&program.version));
            }
        }
    }
}
