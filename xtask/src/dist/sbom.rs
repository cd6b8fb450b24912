//! What the packages consist of, as CycloneDX 1.5: the crates that our programs are linked of, and Debian's packages in
//! the guest's image, and others' programs that travel along.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{About, bundled::Packed};
use crate::workspace;

/// Packages whose programs travel in Linux' packages, and the one of the others' hosts.
pub const LINUX: &[&str] = &["cli", "share", "engine", "runtime", "guest"];
pub const HOST: &[&str] = &["cli"];
/// Those that run in the guest.
const GUEST: &[&str] = &["engine", "runtime", "guest"];

/// Lists what a package of `host` programs, compiled for `triple`, and of the stage's image is made of.
pub fn build(stage: &Path, about: &About, triple: &str, host: &[&str]) -> Result<Vec<u8>> {
    let manifest = workspace().join("Cargo.toml");
    let mut components = crates(&manifest, host, triple)?;
    let processor = if about.arch == "arm64" { "aarch64" } else { "x86_64" };
    components.extend(crates(&manifest, GUEST, &format!("{processor}-unknown-linux-gnu"))?);
    if about.has_app {
        components.extend(crates(&workspace().join("src-tauri/Cargo.toml"), &["coracle-desktop"], triple)?);
    }
    components.extend(packages(stage, about)?);
    components.extend(programs(about));
    let components: Vec<Value> = components
        .into_iter()
        .map(|part| {
            let mut component = json!({
                "type": "library", "name": part.name, "version": part.version, "purl": part.purl,
                "bom-ref": part.purl,
                "licenses": part.licences.iter().map(|l| json!({ "license": { "name": l } })).collect::<Vec<_>>(),
            });
            if let Some(sha256) = part.sha256 {
                component["hashes"] = json!([{ "alg": "SHA-256", "content": sha256 }]);
            }
            component
        })
        .collect();
    let bom = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": { "component": { "type": "application", "name": "coracle", "version": about.version,
            "licenses": [{ "license": { "id": "Apache-2.0" } }] } },
        "components": components,
    });
    Ok(serde_json::to_vec_pretty(&bom)?)
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    name: String,
    version: String,
    purl: String,
    licences: Vec<String>,
    sha256: Option<String>,
}

/// Crates that the programs are linked of, ours left out; what only builds or tests them as well.
fn crates(manifest: &Path, programs: &[&str], triple: &str) -> Result<BTreeSet<Part>> {
    let asked = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", triple])
        .arg("--manifest-path")
        .arg(manifest)
        .output()
        .context("run cargo metadata")?;
    ensure!(asked.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&asked.stderr));
    let metadata: Value = serde_json::from_slice(&asked.stdout)?;
    let all = metadata["packages"].as_array().context("packages")?;
    let nodes = metadata["resolve"]["nodes"].as_array().context("nodes")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut waiting: Vec<String> = all
        .iter()
        .filter(|package| package["source"].is_null() && programs.contains(&&*text(&package["name"])))
        .map(|package| text(&package["id"]))
        .collect();
    ensure!(waiting.len() == programs.len(), "{} has not all of {programs:?}", manifest.display());
    let mut reached = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !reached.insert(id.clone()) {
            continue;
        }
        let node = nodes.iter().find(|node| node["id"] == id.as_str()).context("a node")?;
        for dependency in node["deps"].as_array().into_iter().flatten() {
            // No kind: an ordinary dependency.
            if dependency["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"].is_null()) {
                waiting.push(text(&dependency["pkg"]));
            }
        }
    }
    let parts = all.iter().filter(|package| !package["source"].is_null());
    let parts = parts.filter(|package| reached.contains(&text(&package["id"]))).map(|package| {
        let (name, version) = (text(&package["name"]), text(&package["version"]));
        Part {
            purl: format!("pkg:cargo/{name}@{version}"),
            licences: vec![text(&package["license"])],
            sha256: None,
            name,
            version,
        }
    });
    Ok(parts.collect())
}

/// Others' programs that the package brings.
fn programs(about: &About) -> impl Iterator<Item = Part> {
    about.others.iter().map(|Packed { program, .. }| Part {
        purl: format!("pkg:generic/{}@{}?download_url={}", program.name, program.version, program.url),
        licences: vec![program.licence.clone()],
        sha256: Some(program.sha256.clone()),
        name: program.name.clone(),
        version: program.version.clone(),
    })
}

/// Debian's packages in the image, as its manifest names them.
fn packages(stage: &Path, about: &About) -> Result<Vec<Part>> {
    let path = stage.join("share/coracle/guest").join(&about.arch).join("manifest.json");
    let manifest: Value =
        serde_json::from_slice(&fs::read(&path).with_context(|| format!("read {}", path.display()))?)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let parts = manifest["packages"].as_array().context("the image's manifest names no packages")?.iter();
    let parts = parts.map(|package| {
        let (name, version) = (text(&package["name"]), text(&package["version"]));
        Part {
            purl: format!("pkg:deb/debian/{name}@{version}?arch={}", about.arch),
            licences: package["licence"].as_array().into_iter().flatten().map(text).collect(),
            sha256: Some(text(&package["sha256"])),
            name,
            version,
        }
    });
    Ok(parts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a package brings is on its list, and what only others' bring is not.
    #[test]
    fn each_system_has_a_list_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        for (os, triple, host, arch, own) in [
            ("linux", "x86_64-unknown-linux-gnu", LINUX, "amd64", ["nix", "docker-buildx"]),
            ("windows", "x86_64-pc-windows-gnu", HOST, "amd64", ["windows-sys", "docker-compose"]),
            ("macos", "aarch64-apple-darwin", HOST, "arm64", ["nix", "vfkit"]),
        ] {
            let image = dir.path().join("share/coracle/guest").join(arch);
            fs::create_dir_all(&image).unwrap();
            let package =
                r#"{"packages":[{"name":"nftables","version":"1","sha256":"ab","licence":["GPL-2"]}]}"#;
            fs::write(image.join("manifest.json"), package).unwrap();
            let about = About {
                version: "1.2.3".into(),
                arch: arch.into(),
                time: 0,
                has_app: false,
                others: super::super::bundled::listed(os, arch)
                    .unwrap()
                    .into_iter()
                    .map(|program| Packed { program, bytes: Vec::new() })
                    .collect(),
            };
            let list: Value =
                serde_json::from_slice(&build(dir.path(), &about, triple, host).unwrap()).unwrap();
            assert_eq!(
                (&list["bomFormat"], &list["specVersion"]),
                (&json!("CycloneDX"), &json!("1.5")),
                "{os}"
            );
            let parts = list["components"].as_array().unwrap();
            let named = |name: &str| parts.iter().find(|part| part["name"] == name);
            for name in own.iter().chain(&["tokio", "nftables", "docker-compose"]) {
                assert!(named(name).is_some(), "{os}: {name} is not listed");
            }
            assert_eq!(named("vfkit").is_some(), os == "macos");
            assert_eq!(named("windows-sys").is_some(), os == "windows");
            for part in parts {
                let licences = part["licenses"].as_array().unwrap();
                assert!(licences.iter().any(|l| l["license"]["name"] != ""), "{os}: {part}");
                assert!(part["purl"].as_str().unwrap().starts_with("pkg:"), "{os}: {part}");
            }
            // Each once: identities in a list are unique.
            let mut names: Vec<_> = parts.iter().map(|part| part["bom-ref"].as_str().unwrap()).collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "{os}");
            let is_sum =
                |part: &Value| part["hashes"][0]["content"].as_str().is_some_and(|sum| sum.len() == 64);
            assert!(is_sum(named("docker-compose").unwrap()), "{os}");
        }
    }
}
