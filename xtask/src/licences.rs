//! Licences, bans and sources of everything we depend on, against `deny.toml`.
//!
//! The same file that cargo-deny reads; of its rules those that need nothing but `cargo metadata` are applied
//! here: `licenses.allow`, `licenses.exceptions`, `bans.deny` by name, `bans.wildcards`, `sources`. A key that this
//! does not know is an error: a rule that is not applied misleads.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::workspace;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    #[serde(rename = "graph")]
    _graph: Option<toml::Table>,
    licenses: Licences,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Licences {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
    #[serde(rename = "confidence-threshold")]
    _confidence_threshold: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Bans {
    #[serde(rename = "multiple-versions")]
    _multiple_versions: Option<String>,
    wildcards: Level,
    allow_wildcard_paths: bool,
    deny: Vec<Ban>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Level {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Sources {
    unknown_registry: Level,
    unknown_git: Level,
    allow_registry: Vec<String>,
    allow_git: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// `None`: it lies in this workspace.
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    req: String,
    path: Option<String>,
}

/// Checks all packages of `Cargo.lock`, for every platform; fails with a line for each that breaks a rule.
pub fn check() -> Result<()> {
    let path = workspace().join("deny.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let rules: Rules = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
    // The shell is a workspace of its own.
    for folder in [workspace().to_owned(), workspace().join("src-tauri")] {
        let metadata = metadata(&folder)?;
        let wrong = wrongs(&rules, &metadata)?;
        ensure!(wrong.is_empty(), "deny.toml is broken:\n{}", wrong.join("\n"));
        eprintln!("{} packages keep to deny.toml", metadata.packages.len());
    }
    Ok(())
}

fn metadata(folder: &std::path::Path) -> Result<Metadata> {
    let ask = |more: &[&str]| {
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["metadata", "--locked", "--all-features", "--format-version", "1"])
            .args(more)
            .current_dir(folder)
            .output()
            .context("run cargo metadata")
    };
    let mut asked = ask(&["--offline"])?;
    if !asked.status.success() {
        // A build fetches this platform's packages only; the others' are fetched once.
        asked = ask(&[])?;
    }
    ensure!(asked.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&asked.stderr));
    serde_json::from_slice(&asked.stdout).context("cargo metadata's answer")
}

fn wrongs(rules: &Rules, metadata: &Metadata) -> Result<Vec<String>> {
    let parse = |list: &[String]| -> Result<Vec<spdx::Licensee>> {
        list.iter().map(|l| spdx::Licensee::parse(l).with_context(|| format!("deny.toml: {l}"))).collect()
    };
    let allowed = parse(&rules.licenses.allow)?;
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let Package { name, version, .. } = package;
        let mut excepted = Vec::new();
        for exception in rules.licenses.exceptions.iter().filter(|e| e.name == *name) {
            excepted.extend(parse(&exception.allow)?);
        }
        match &package.license {
            None => wrong.push(format!("{name} {version} names no licence in its manifest")),
            // Lax: `MIT/Apache-2.0` is how older crates write it.
            Some(words) => match spdx::Expression::parse_mode(words, spdx::ParseMode::LAX) {
                Err(e) => wrong.push(format!("{name} {version}: {words} is no licence expression: {e}")),
                Ok(expression) => {
                    if !expression.evaluate(|r| allowed.iter().chain(&excepted).any(|a| a.satisfies(r))) {
                        wrong.push(format!("{name} {version}: {words} is not among the allowed licences"));
                    }
                }
            },
        }
        if let Some(ban) = rules.bans.deny.iter().find(|b| b.name == *name) {
            wrong.push(format!("{name} {version} is banned: {}", ban.reason));
        }
        match &package.source {
            None if rules.bans.wildcards == Level::Deny => {
                let open = package.dependencies.iter().filter(|d| d.req == "*");
                let named = open.filter(|d| d.path.is_none() || !rules.bans.allow_wildcard_paths);
                wrong.extend(named.map(|d| format!("{name} takes any version of {}", d.name)));
            }
            None => {}
            Some(source) => {
                let known = match source.split_once('+') {
                    Some(("registry" | "sparse", url)) => {
                        rules.sources.unknown_registry == Level::Allow
                            || rules.sources.allow_registry.iter().any(|a| a == url)
                    }
                    Some(("git", url)) => {
                        rules.sources.unknown_git == Level::Allow
                            || rules.sources.allow_git.iter().any(|a| url.split(['?', '#']).next() == Some(a))
                    }
                    _ => false,
                };
                if !known {
                    wrong.push(format!("{name} {version} comes from {source}"));
                }
            }
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrongs_of(name: &str, license: Option<&str>, source: Option<&str>, req: &str) -> Vec<String> {
        let rules = toml::from_str(
            r#"
            [licenses]
            allow = ["MIT", "Apache-2.0 WITH LLVM-exception"]
            exceptions = [{ crate = "odd", allow = ["MPL-2.0"] }]
            [bans]
            wildcards = "deny"
            allow-wildcard-paths = true
            deny = [{ crate = "bad", reason = "because" }]
            [sources]
            unknown-registry = "deny"
            unknown-git = "deny"
            allow-registry = ["https://r"]
            allow-git = []
            "#,
        )
        .unwrap();
        let package = Package {
            name: name.into(),
            version: "1.0.0".into(),
            license: license.map(str::to_owned),
            source: source.map(str::to_owned),
            dependencies: vec![Dependency { name: "dep".into(), req: req.into(), path: None }],
        };
        wrongs(&rules, &Metadata { packages: vec![package] }).unwrap()
    }

    #[test]
    fn what_is_allowed_passes() {
        for license in ["MIT", "GPL-3.0-only OR MIT", "Apache-2.0/MIT", "Apache-2.0 WITH LLVM-exception"] {
            assert_eq!(wrongs_of("x", Some(license), Some("registry+https://r"), "1"), [""; 0], "{license}");
        }
        assert_eq!(wrongs_of("odd", Some("MPL-2.0"), None, "1"), [""; 0]);
    }

    #[test]
    fn what_is_not_is_named() {
        let found = |name, license, source, req| wrongs_of(name, license, source, req).join("\n");
        for license in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "MPL-2.0", "Apache-2.0"] {
            assert!(found("x", Some(license), None, "1").contains("not among the allowed"), "{license}");
        }
        assert_eq!(found("x", None, None, "1"), "x 1.0.0 names no licence in its manifest");
        assert_eq!(found("bad", Some("MIT"), None, "1"), "bad 1.0.0 is banned: because");
        assert_eq!(found("x", Some("MIT"), None, "*"), "x takes any version of dep");
        assert_eq!(
            found("x", Some("MIT"), Some("git+https://g?rev=1#1"), "1"),
            "x 1.0.0 comes from git+https://g?rev=1#1"
        );
        assert_eq!(
            found("x", Some("MIT"), Some("registry+https://s"), "1"),
            "x 1.0.0 comes from registry+https://s"
        );
    }
}
