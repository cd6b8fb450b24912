//! Platforms of images (OCI image-spec, `image-index.md`), compared as containerd does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Operating system and processor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, ...
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `v7`, `v8`; empty where it does not matter.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", ""),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Platform { architecture: architecture.into(), os: "linux".into(), variant: variant.into() }
    }

    /// In containerd's normal form: `x86_64` is `amd64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`.
    pub fn normalised(&self) -> Platform {
        let mut p = Platform {
            architecture: self.architecture.to_ascii_lowercase(),
            os: self.os.to_ascii_lowercase(),
            variant: self.variant.to_ascii_lowercase(),
        };
        match p.architecture.as_str() {
            "x86_64" | "x86-64" => p.architecture = "amd64".into(),
            "i386" => p.architecture = "386".into(),
            "aarch64" => p.architecture = "arm64".into(),
            "armhf" => (p.architecture, p.variant) = ("arm".into(), "v7".into()),
            "armel" => (p.architecture, p.variant) = ("arm".into(), "v6".into()),
            _ => {}
        }
        match (p.architecture.as_str(), p.variant.as_str()) {
            ("arm64", "8" | "v8") | ("amd64", "v1") => p.variant.clear(),
            ("arm", "") => p.variant = "v7".into(),
            ("arm", v) if !v.starts_with('v') => p.variant = format!("v{v}"),
            _ => {}
        }
        p
    }

    /// How well `other` serves where `self` is wanted: `None` not at all, lower is better.
    pub(crate) fn fit(&self, other: &Platform) -> Option<u32> {
        let (want, have) = (self.normalised(), other.normalised());
        if want.os != have.os {
            return None;
        }
        if want.architecture != have.architecture {
            return None;
        }
        if want.variant == have.variant {
            return Some(0);
        }
        let number = |v: &str| v.trim_start_matches('v').parse::<u32>().ok();
        match want.architecture.as_str() {
            // An older variant runs on a newer processor.
            "arm" | "amd64" => {
                let (want, have) = (number(&want.variant).unwrap_or(1), number(&have.variant).unwrap_or(1));
                want.checked_sub(have)
            }
            _ if have.variant.is_empty() => Some(1),
            _ => None,
        }
    }
}

/// `linux/arm64/v8`.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// `os/arch[/variant]`, or an architecture alone, or `linux` alone.
    fn from_str(text: &str) -> Result<Platform, Error> {
        let bad = || Error::Invalid(format!("{text:?}: cannot parse platform specifier: invalid argument"));
        let part = |s: &str| {
            !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        if !text.split('/').all(part) {
            return Err(bad());
        }
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            ["linux"] => return Ok(Platform::host()),
            [arch] => ("linux", arch, ""),
            [os, arch] => (os, arch, ""),
            [os, arch, variant] => (os, arch, variant),
            _ => return Err(bad()),
        };
        Ok(Platform { architecture: architecture.into(), os: os.into(), variant: variant.into() }
            .normalised())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_compare_in_their_normal_form() {
        let p = |s: &str| s.parse::<Platform>().unwrap();
        assert_eq!(p("linux/arm64/v8"), p("linux/aarch64"));
        assert_eq!(p("x86_64").to_string(), "linux/amd64");
        assert_eq!(p("linux/arm/v7").fit(&p("linux/arm/v6")), Some(1));
        assert_eq!(p("linux/arm/v6").fit(&p("linux/arm/v7")), None);
        assert_eq!(p("linux/amd64").fit(&p("linux/arm64")), None);
        assert!("a/b/c/d".parse::<Platform>().is_err());
        assert!("".parse::<Platform>().is_err());
    }
}
