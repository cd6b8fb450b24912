//! Programs of others that packages bring: those of `installer/programs.txt`, each held to its sum.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::About;
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

impl Program {
    /// Its file: beside the stage's own programs, or fetched; either way it must be the listed one.
    pub fn bytes(&self, bin: &Path) -> Result<Vec<u8>> {
        let kept =
            target_dir().join("tools").join(format!("{}-{}-{}", self.name, self.version, &self.sha256[..8]));
        let (path, bytes) = match self.found(bin, &kept) {
            Some(path) => (Some(path.clone()), fs::read(path)?),
            None => (None, self.fetch(bin)?),
        };
        let is = debian::hex(&Sha256::digest(&bytes));
        ensure!(
            is == self.sha256,
            "{} {} has the SHA-256 {is}, listed is {}: it is not packed",
            self.name,
            self.version,
            self.sha256
        );
        if path.is_none() {
            fs::create_dir_all(kept.parent().expect("a folder"))?;
            fs::write(&kept, &bytes)?;
        }
        Ok(bytes)
    }

    fn found(&self, bin: &Path, kept: &Path) -> Option<PathBuf> {
        let beside = ["", ".exe"].map(|suffix| bin.join(format!("{}{suffix}", self.name)));
        beside.into_iter().chain([kept.to_owned()]).find(|path| path.is_file())
    }

    fn fetch(&self, bin: &Path) -> Result<Vec<u8>> {
        eprintln!("fetching {}", self.url);
        let fetched = Command::new("curl")
            .args(["--fail", "--silent", "--show-error", "--location", "--max-time", "600", &self.url])
            .output()
            .context("run curl")?;
        ensure!(
            fetched.status.success(),
            "{} {} could not be fetched ({}). Put the file that {} gives at {}{}",
            self.name,
            self.version,
            String::from_utf8_lossy(&fetched.stderr).trim(),
            self.url,
            bin.join(&self.name).display(),
            if PLUGINS.contains(&self.name.as_str()) {
                ", or pack without compose and buildx (--without-plugins)"
            } else {
                ""
            }
        );
        Ok(fetched.stdout)
    }
}

/// Makes sure, before anything is built for minutes, of all that a package brings of others.
pub fn need(os: &str, arch: &str, has_plugins: bool, bin: &Path) -> Result<()> {
    let mut missing = Vec::new();
    for program in listed(os, arch)? {
        if (has_plugins || !PLUGINS.contains(&program.name.as_str()))
            && let Err(error) = program.bytes(bin)
        {
            missing.push(format!("{error:#}"));
        }
    }
    ensure!(missing.is_empty(), "the packages want what is not here:\n{}", missing.join("\n"));
    Ok(())
}

/// Compose and buildx, where they are wanted and listed, each with its name and bytes.
pub fn plugins(os: &str, about: &About, bin: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    if !about.has_plugins {
        return Ok(Vec::new());
    }
    let listed = listed(os, &about.arch)?;
    for name in PLUGINS.iter().filter(|name| !listed.iter().any(|program| program.name == **name)) {
        eprintln!("{name} of {os} on {} is on no list: it is not packed", about.arch);
    }
    let wanted = listed.iter().filter(|program| PLUGINS.contains(&program.name.as_str()));
    wanted.map(|program| Ok((program.name.clone(), program.bytes(bin)?))).collect()
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
        let [tool] = &programs[..] else { panic!("{programs:?}") };
        fs::write(dir.path().join("tool"), "the listed one").unwrap();
        assert_eq!(tool.bytes(dir.path()).unwrap(), b"the listed one");
        fs::write(dir.path().join("tool"), "another").unwrap();
        assert!(tool.bytes(dir.path()).unwrap_err().to_string().contains("it is not packed"));
    }

    /// All that is missing is said at once, and what can be done about each.
    #[test]
    fn what_is_missing_is_said_before_anything_is_built() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["vfkit", "docker-compose"] {
            fs::write(dir.path().join(name), "another").unwrap();
        }
        let said = need("macos", "arm64", true, dir.path()).unwrap_err().to_string();
        assert!(said.contains("\nvfkit 0.") && said.contains("\ndocker-compose 2."), "{said}");
        let said = need("macos", "arm64", false, dir.path()).unwrap_err().to_string();
        assert!(said.contains("\nvfkit 0.") && !said.contains("docker-compose"), "{said}");
    }

    /// Every line of our own list is whole, and says what a package may be made of.
    #[test]
    fn the_list_is_whole() {
        for (os, arch, least) in
            [("linux", "amd64", 2), ("linux", "arm64", 2), ("macos", "arm64", 2), ("windows", "amd64", 2)]
        {
            let programs = listed(os, arch).unwrap();
            assert!(programs.len() >= least, "{os} {arch}: {programs:?}");
            for program in programs {
                assert!(program.sha256.len() == 64 && program.sha256.bytes().all(|b| b.is_ascii_hexdigit()));
                assert!(program.url.starts_with("https://") && program.url.contains(&program.version));
            }
        }
    }
}
