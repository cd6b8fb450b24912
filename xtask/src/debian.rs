//! Packages from Debian's archive, taken without installing anything.
//!
//! A private apt state folder per suite and architecture lives under `target/debian/`. Where the archive is, which
//! proxy leads there and which keyring signs it are read from the machine's own apt configuration when asked; apt
//! checks the signatures, there is no way round that. What is fetched is kept by content:
//!
//! ```text
//! target/debian/
//!   <suite>-<arch>/            apt's own state: apt.conf, sources.list, lists/, archives/ (empty between runs)
//!     stamp                    when the lists were last fetched (its mtime)
//!   pool/<sha256>.deb          every package once, named by the digest that the signed index gives
//!   trees/<name>-<digest>/     unpacked packages; the digest covers name=version+sha256 of every package in it
//!     .packages                one line a package: name version sha256
//! ```
//!
//! Everything works as root and as an ordinary user. Suites are asked by name: `bookworm`, `bookworm-backports`,
//! `trixie`, `forky`. Environment: `CORACLE_DEBIAN_MIRROR` names an archive where the machine's apt knows none (a
//! machine that isn't Debian); `CORACLE_DEBIAN_KEYRING` a keyring file for it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

/// Lists older than this are fetched again before a package is resolved.
const LISTS_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Keyrings of Debian's archive, in the order in which they are looked for.
const KEYRINGS: [&str; 3] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/etc/apt/trusted.gpg.d/debian-archive-keyring.gpg",
];
/// Folders that are links to their namesakes below `usr/` in every Debian since 12.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// One package of the archive, fetched and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deb {
    /// Package name, without architecture.
    pub name: String,
    /// Debian version, epoch included.
    pub version: String,
    /// Digest of the package file, lower-case hex.
    pub sha256: String,
    /// The package file.
    pub path: PathBuf,
}

/// Packages unpacked over each other: a root folder whose programs run with its own libraries.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

/// A suite of Debian's archive for one architecture.
#[derive(Debug)]
pub struct Debian {
    suite: String,
    state: PathBuf,
    base: PathBuf,
}

/// What the machine's own apt says of Debian's archive.
struct Archive {
    main: String,
    security: Option<String>,
    keyring: PathBuf,
}

/// Debian's name of this machine's architecture.
pub fn host_arch() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

impl Debian {
    /// The suite for this machine's architecture.
    pub fn open(suite: &str) -> Result<Self> {
        Self::open_arch(suite, host_arch())
    }

    /// The suite for `arch` (`amd64`, `arm64`): such packages can be unpacked anywhere.
    pub fn open_arch(suite: &str, arch: &str) -> Result<Self> {
        let base = crate::target_dir().join("debian");
        let state = base.join(format!("{suite}-{arch}"));
        for folder in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(state.join(folder))?;
        }
        fs::create_dir_all(base.join("pool"))?;
        fs::create_dir_all(base.join("trees"))?;
        let archive = Archive::of_this_machine()?;
        let mut sources = String::new();
        let mut source = |uri: &str, suite: &str| {
            let keyring = archive.keyring.display();
            sources.push_str(&format!("deb [arch={arch} signed-by={keyring}] {uri} {suite} main\n"));
        };
        let release = suite.trim_end_matches("-backports");
        source(&archive.main, release);
        // Testing has neither; an absent one would make every update fail.
        if matches!(release, "bookworm" | "trixie") {
            source(&archive.main, &format!("{release}-updates"));
            if let Some(security) = &archive.security {
                source(security, &format!("{release}-security"));
            }
        }
        if suite != release {
            source(&archive.main, suite);
        }
        let dir = state.display();
        let mut conf = format!(
            "Dir::Etc::main \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\n\
             Dir::Etc::sourcelist \"{dir}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
             Dir::State \"{dir}\";\nDir::State::lists \"{dir}/lists\";\nDir::State::status \"{dir}/status\";\n\
             Dir::Cache \"{dir}\";\nDir::Cache::archives \"{dir}/archives\";\n\
             APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\n\
             APT::Install-Recommends \"0\";\nAPT::Get::AllowUnauthenticated \"0\";\n\
             APT::Sandbox::User \"root\";\nAPT::Default-Release \"{suite}\";\n\
             Acquire::Languages \"none\";\nAcquire::ForceHash \"SHA256\";\nAcquire::Retries \"3\";\n"
        );
        conf.push_str(&machine_proxy()?);
        let fresh_config = fs::read_to_string(state.join("sources.list")).is_ok_and(|old| old == sources);
        fs::write(state.join("sources.list"), &sources)?;
        fs::write(state.join("apt.conf"), conf)?;
        fs::write(state.join("status"), "")?;
        let debian = Self { suite: suite.to_owned(), state, base };
        if !fresh_config || debian.lists_age().is_none_or(|age| age > LISTS_MAX_AGE) {
            debian.update()?;
        }
        Ok(debian)
    }

    /// Fetches exactly the named packages, none of what they depend on; each checked against the signed index.
    pub fn fetch(&self, names: &[&str]) -> Result<Vec<Deb>> {
        let wanted: BTreeSet<&str> = names.iter().copied().collect();
        let plan = self.plan(names)?;
        let plan: Vec<Planned> = plan.into_iter().filter(|p| wanted.contains(p.name.as_str())).collect();
        ensure!(plan.len() == wanted.len(), "{} does not have all of {wanted:?}", self.suite);
        self.obtain(plan)
    }

    /// Fetches the named packages and everything they depend on (recommendations are left out).
    pub fn closure(&self, names: &[&str]) -> Result<Vec<Deb>> {
        self.obtain(self.plan(names)?)
    }

    /// Names of the named packages and of everything they depend on; fetches nothing.
    pub fn names(&self, names: &[&str]) -> Result<Vec<String>> {
        Ok(self.plan(names)?.into_iter().map(|p| p.name).collect())
    }

    /// The named packages and all they depend on, unpacked in one folder that is kept.
    pub fn tree(&self, name: &str, packages: &[&str]) -> Result<Tree> {
        self.unpack(name, &self.closure(packages)?)
    }

    /// The given packages unpacked over each other in one folder that is kept.
    pub fn unpack(&self, name: &str, debs: &[Deb]) -> Result<Tree> {
        self.unpack_only(name, debs, &[])
    }

    /// The same, of `paths` alone where there are some; each must be in every package.
    pub fn unpack_only(&self, name: &str, debs: &[Deb], paths: &[&str]) -> Result<Tree> {
        let mut lines: Vec<String> =
            debs.iter().map(|d| format!("{} {} {}\n", d.name, d.version, d.sha256)).collect();
        lines.extend(paths.iter().map(|path| format!("only {path}\n")));
        lines.sort();
        let list = lines.concat();
        let root = self.base.join("trees").join(format!("{name}-{}", &hex(&Sha256::digest(&list))[..16]));
        if root.join(".packages").is_file() {
            return Ok(Tree { root });
        }
        let parts = root.with_extension(format!("part{}", std::process::id()));
        let _ = fs::remove_dir_all(&parts);
        for dir in MERGED {
            fs::create_dir_all(parts.join("usr").join(dir))?;
            std::os::unix::fs::symlink(format!("usr/{dir}"), parts.join(dir))?;
        }
        for deb in debs {
            // dpkg-deb's own -x replaces a link by a folder of the same name; tar can be told not to.
            let mut data = Command::new("dpkg-deb")
                .arg("--fsys-tarfile")
                .arg(&deb.path)
                .stdout(std::process::Stdio::piped())
                .spawn()
                .context("dpkg-deb could not be run: it comes with Debian's `dpkg` package")?;
            let unpacked = Command::new("tar")
                .args(["-x", "--keep-directory-symlink", "--no-same-owner", "-p", "-C"])
                .arg(&parts)
                .args(paths.iter().map(|path| format!(".{path}")))
                .stdin(data.stdout.take().expect("piped"))
                .status()
                .context("tar could not be run")?;
            ensure!(
                data.wait()?.success() && unpacked.success(),
                "{} could not be unpacked",
                deb.path.display()
            );
        }
        fs::write(parts.join(".packages"), list)?;
        if fs::rename(&parts, &root).is_err() {
            // Someone else unpacked the same at the same time.
            fs::remove_dir_all(&parts)?;
            ensure!(root.join(".packages").is_file(), "{} is in the way", root.display());
        }
        Ok(Tree { root })
    }

    fn lists_age(&self) -> Option<Duration> {
        let time = fs::metadata(self.state.join("stamp")).ok()?.modified().ok()?;
        Some(SystemTime::now().duration_since(time).unwrap_or_default())
    }

    fn update(&self) -> Result<()> {
        let mut output = self.apt("apt-get", &["update", "-qq"])?;
        if !output.status.success()
            && String::from_utf8_lossy(&output.stderr).contains(" is expired (invalid since")
        {
            // A mirror that lags behind: still signed, only older than the archive promises. Signatures stay checked.
            eprintln!(
                "{}: the mirror's index is past its date; using it as it is (its signature is good)",
                self.suite
            );
            output = self.apt("apt-get", &["update", "-qq", "-o", "Acquire::Check-Valid-Until=false"])?;
        }
        if !output.status.success() {
            bail!("fetching the package lists of {} failed:\n{}", self.suite, text(&output.stderr));
        }
        fs::write(self.state.join("stamp"), "")?;
        Ok(())
    }

    fn plan(&self, names: &[&str]) -> Result<Vec<Planned>> {
        let mut args = vec!["install", "--print-uris", "-y", "-qq"];
        args.extend(names);
        let output = self.apt("apt-get", &args)?;
        if !output.status.success() {
            bail!("{} has no {}:\n{}", self.suite, names.join(", "), text(&output.stderr));
        }
        text(&output.stdout).lines().filter(|l| l.starts_with('\'')).map(Planned::parse).collect()
    }

    fn obtain(&self, plan: Vec<Planned>) -> Result<Vec<Deb>> {
        let missing: Vec<String> = plan
            .iter()
            .filter(|p| !self.pooled(&p.sha256).is_file())
            .map(|p| format!("{}={}", p.name, p.version))
            .collect();
        if !missing.is_empty() {
            let mut args = vec!["download", "-qq"];
            args.extend(missing.iter().map(String::as_str));
            let output = self.apt("apt-get", &args)?;
            if !output.status.success() {
                // The archive may have moved on since the lists were fetched: say so by fetching them next time.
                let _ = fs::remove_file(self.state.join("stamp"));
                bail!(
                    "fetching {} failed (run again: the lists are renewed):\n{}",
                    missing.join(", "),
                    text(&output.stderr)
                );
            }
        }
        let mut debs = Vec::with_capacity(plan.len());
        for Planned { name, version, sha256, file } in plan {
            let path = self.pooled(&sha256);
            if !path.is_file() {
                let got = self.state.join("archives").join(&file);
                let digest =
                    hex(&Sha256::digest(fs::read(&got).with_context(|| format!("{file} was not fetched"))?));
                ensure!(digest == sha256, "{file}: the index says sha256 {sha256}, the file has {digest}");
                fs::rename(&got, &path)?;
            }
            debs.push(Deb { name, version, sha256, path });
        }
        Ok(debs)
    }

    fn pooled(&self, sha256: &str) -> PathBuf {
        self.base.join("pool").join(format!("{sha256}.deb"))
    }

    fn apt(&self, program: &str, args: &[&str]) -> Result<std::process::Output> {
        Command::new(program)
            .args(args)
            .env("APT_CONFIG", self.state.join("apt.conf"))
            .env("LC_ALL", "C")
            .current_dir(self.state.join("archives"))
            .output()
            .with_context(|| format!("{program} could not be run: Debian's packages are taken through apt"))
    }
}

impl Tree {
    /// Its root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file of the tree by its absolute path, e.g. `/usr/bin/qemu-img`.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Runs a program of the tree with the tree's own libraries (also where this machine's are older).
    pub fn command(&self, program: &str) -> Command {
        let mut line = self.line(program);
        let mut command = Command::new(line.remove(0));
        command.args(line);
        command
    }

    /// Writes a shell script at `path` that runs a program of the tree with `extra` arguments before its own.
    pub fn wrapper(
        &self,
        program: &str,
        extra: &[String],
        env: &[(&str, String)],
        path: &Path,
    ) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let quote = |s: &String| format!("'{}'", s.replace('\'', r"'\''"));
        let mut script = "#!/bin/sh\n".to_owned();
        for (key, value) in env {
            script.push_str(&format!("export {key}={}\n", quote(value)));
        }
        let line: Vec<String> = self.line(program).iter().chain(extra).map(quote).collect();
        script.push_str(&format!("exec {} \"$@\"\n", line.join(" ")));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let part = path.with_extension(format!("part{}", std::process::id()));
        fs::write(&part, script)?;
        fs::set_permissions(&part, fs::Permissions::from_mode(0o755))?;
        fs::rename(&part, path)?;
        Ok(())
    }

    fn line(&self, program: &str) -> Vec<String> {
        let path = self.file(program).display().to_string();
        let (triple, loader) = match host_arch() {
            "arm64" => ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
            _ => ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
        };
        // Not the one in lib64: older packages have a link there that leads to this machine's own loader, which fits the
        // tree's libraries only as long as both are of one version.
        let loaders = ["usr/lib", "lib"].map(|l| self.root.join(l).join(triple).join(loader));
        let Some(loader) = loaders.iter().find(|l| l.is_file()) else {
            return vec![path];
        };
        // Older packages have their libraries in /lib itself. What is not found here would be this machine's, of another
        // version than the loader.
        let libraries = [
            format!("usr/lib/{triple}"),
            format!("lib/{triple}"),
            "usr/lib".to_owned(),
            format!("usr/lib/{triple}/pulseaudio"),
        ]
        .map(|l| self.root.join(l).display().to_string())
        .join(":");
        vec![loader.display().to_string(), "--library-path".to_owned(), libraries, path]
    }
}

/// A line of `apt-get --print-uris`.
#[derive(Debug, PartialEq, Eq)]
struct Planned {
    name: String,
    version: String,
    sha256: String,
    file: String,
}

impl Planned {
    /// `'URI' name_version_arch.deb SIZE SHA256:DIGEST`, the epoch's colon written `%3a`.
    fn parse(line: &str) -> Result<Self> {
        let parse = || {
            let mut words = line.split(' ');
            let file = words.nth(1)?;
            let sha256 = words.nth(1)?.strip_prefix("SHA256:")?;
            let mut parts = file.strip_suffix(".deb")?.split('_');
            let (name, version) = (parts.next()?, parts.next()?.replace("%3a", ":"));
            Some(Self { name: name.into(), version, sha256: sha256.into(), file: file.into() })
        };
        parse().with_context(|| format!("apt-get --print-uris gave a line that is not understood: {line}"))
    }
}

impl Archive {
    fn of_this_machine() -> Result<Self> {
        let mut main = std::env::var("CORACLE_DEBIAN_MIRROR").ok();
        let mut security = None;
        for text in apt_sources() {
            for uri in uris(&text) {
                let path = uri.trim_end_matches('/');
                if path.ends_with("/debian") {
                    main.get_or_insert_with(|| path.to_owned());
                } else if path.ends_with("/debian-security") {
                    security.get_or_insert_with(|| path.to_owned());
                }
            }
        }
        let main = main.context(
            "this machine's apt knows no Debian archive: name one in CORACLE_DEBIAN_MIRROR (a URI that ends in /debian)",
        )?;
        let keyring = std::env::var_os("CORACLE_DEBIAN_KEYRING")
            .map(PathBuf::from)
            .into_iter()
            .chain(KEYRINGS.map(PathBuf::from))
            .find(|path| path.is_file())
            .context("no keyring of Debian's archive: install the package `debian-archive-keyring`")?;
        Ok(Self { main, security, keyring })
    }
}

fn apt_sources() -> Vec<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|e| e.path()));
    }
    files.sort();
    files.iter().filter_map(|f| fs::read_to_string(f).ok()).collect()
}

/// Every URI of a sources file, in the one-line format or the `URIs:` fields of the other.
fn uris(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_whitespace)
        .filter(|word| word.contains("://"))
        .collect()
}

/// How the machine's apt reaches its mirrors (proxies and the like), as configuration lines.
fn machine_proxy() -> Result<String> {
    let dump = Command::new("apt-config").arg("dump").output().context("apt-config could not be run")?;
    Ok(text(&dump.stdout)
        .lines()
        .filter(|line| {
            let line = line.to_ascii_lowercase();
            line.starts_with("acquire::http") && !line.ends_with(" \"\";")
        })
        .map(|line| format!("{line}\n"))
        .collect())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Lower-case hex of a digest.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_print_uris() {
        let line = "'http://m/debian/pool/main/a/attr/libattr1_2.5.2-3_amd64.deb' libattr1_1%3a2.5.2-3_amd64.deb 22876 SHA256:ab12";
        let planned = Planned::parse(line).unwrap();
        assert_eq!((planned.name.as_str(), planned.version.as_str()), ("libattr1", "1:2.5.2-3"));
        assert_eq!(planned.sha256, "ab12");
        assert!(Planned::parse("'http://m/x.deb' x_1_all.deb 5 MD5Sum:00").is_err());
    }

    #[test]
    fn uris_of_both_formats() {
        assert_eq!(
            uris("deb [signed-by=/k] http://m/debian trixie main\n# http://n/debian"),
            ["http://m/debian"]
        );
        assert_eq!(uris("Types: deb\nURIs: http://m/debian\nSuites: x"), ["http://m/debian"]);
    }
}
