//! Platforms as containerd's `platforms` reads and writes them: `linux/arm64/v8`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an image is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`, `arm64`, ... (Go's names)
    pub architecture: String,
    /// `v7` of `arm`, `v2` of `amd64`; empty for the usual one.
    pub variant: String,
    /// Windows' build number; empty elsewhere.
    pub os_version: String,
}

impl Platform {
    /// The platform this program runs on.
    pub fn host() -> Platform {
        Platform::normal(std::env::consts::OS, std::env::consts::ARCH, "")
    }

    /// From its parts, by their usual names.
    pub fn normal(os: &str, architecture: &str, variant: &str) -> Platform {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        let (arch, variant) = (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
        let (arch, variant) = match (arch.as_str(), variant.as_str()) {
            ("i386" | "x86", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v),
            ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
            ("aarch64" | "arm64", v) => ("arm64", v),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            (arch, v) => (arch, v),
        };
        Platform { os, architecture: arch.to_owned(), variant: variant.to_owned(), os_version: String::new() }
    }

    /// Reads `linux/arm64/v8`, `linux/amd64`, `linux` or `arm64`; what is missing is the host's.
    pub fn parse(text: &str) -> Result<Platform, String> {
        let wrong = |why: &str| Err(format!("{text:?}: {why}: invalid argument"));
        if text.contains('*') {
            return wrong("wildcards not yet supported");
        }
        let valid =
            |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        let parts: Vec<&str> = text.split('/').collect();
        // An OS can have a version and features in brackets: `windows(10.0.17763)/amd64`.
        let (os, version) = match parts[0].strip_suffix(')').and_then(|p| p.split_once('(')) {
            Some((os, version)) => (os, version),
            None => (parts[0], ""),
        };
        for part in parts.iter().skip(1).copied().chain([os]) {
            if !valid(part) {
                return Err(format!(
                    "{part:?} is an invalid component of {text:?}: platform specifier component must match \
                     \"^[A-Za-z0-9_-]+$\": invalid argument"
                ));
            }
        }
        let mut platform = match parts[..] {
            [_] => {
                let normal = Platform::normal(os, "", "");
                if KNOWN_OS.contains(&normal.os.as_str()) {
                    let host = Platform::host();
                    Platform::normal(&normal.os, &host.architecture, &host.variant)
                } else {
                    let normal = Platform::normal("", os, "");
                    if !KNOWN_ARCH.contains(&normal.architecture.as_str()) {
                        return wrong("unknown operating system or architecture");
                    }
                    Platform { os: Platform::host().os, ..normal }
                }
            }
            [_, arch] => Platform::normal(os, arch, ""),
            [_, arch, variant] => {
                let mut platform = Platform::normal(os, arch, variant);
                if platform.architecture == "arm64" && platform.variant.is_empty() {
                    platform.variant = "v8".into();
                }
                platform
            }
            _ => return wrong("cannot parse platform specifier"),
        };
        platform.os_version = version.to_owned();
        Ok(platform)
    }

    /// The same by its usual names.
    pub fn normalized(&self) -> Platform {
        Platform {
            os_version: self.os_version.clone(),
            ..Platform::normal(&self.os, &self.architecture, &self.variant)
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os.is_empty() {
            return write!(f, "unknown");
        }
        write!(f, "{}", self.os)?;
        if !self.os_version.is_empty() {
            write!(f, "({})", self.os_version)?;
        }
        for part in [&self.architecture, &self.variant] {
            if !part.is_empty() {
                write!(f, "/{part}")?;
            }
        }
        Ok(())
    }
}

const KNOWN_OS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];
const KNOWN_ARCH: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "loong64",
    "ppc64",
    "ppc64le",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];
