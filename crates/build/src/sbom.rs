//! What is in a result, said by a scanner: an image that runs over what was built and writes statements, by BuildKit's
//! protocol (`docs/attestations/sbom-protocol.md` there).

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsFd;

use rustix::fs::{FileType, OFlags};
use serde::Deserialize;
use serde_json::Value;

use crate::Error;
use crate::attest::{self, About};
use crate::config::Image;
use crate::convert::Builder;
use crate::convert::names::{Reference, absolute};
use crate::convert::state::source;
use crate::files::{Root, fault, names};
use crate::frontend::{Host, ImageRequest};
use crate::graph::{Exec, Mount, MountKind, Op, ResolveMode, Slot, Vertex, VertexRef};
use crate::platform::Platform;
use crate::worker::Statement;

/// The scanner that is meant where none is named: BuildKit's.
const DEFAULT: &str = "docker/buildkit-syft-scanner:stable-1";
/// The option that names one.
const GENERATOR: &str = "generator";
/// What the target's statements are called, and what the others' names begin with.
const CORE: &str = "sbom";
/// Where a scanner finds what it is to look at.
const CORES: &str = "/run/src/core";
const EXTRAS: &str = "/run/src/extras";
/// Where it writes to.
const OUT: &str = "/run/out";
/// The only kind of statements that a scanner makes.
const SPDX: &str = "https://spdx.dev/Document";
/// What is written down as having completed a document.
const TOOL: &str = concat!("Tool: coracle-", env!("CARGO_PKG_VERSION"));

/// Most statements of one scan.
const STATEMENTS: usize = 1024;
/// Largest statement, in bytes.
const STATEMENT: u64 = 80 << 20;
/// Most bytes of all statements of one scan, which are held in memory together.
const ALL: usize = 256 << 20;

/// A scan that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sbom {
    /// The scanner's image.
    pub generator: Reference,
    /// What it is told besides.
    pub parameters: BTreeMap<String, String>,
}

impl Sbom {
    /// What options ask for.
    ///
    /// # Errors
    /// A scanner whose name is none; types of attestations that are none.
    pub fn wanted<'a>(
        options: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<Option<Self>, String> {
        let Some(mut parameters) = attest::asked(options)?.remove(attest::SBOM) else { return Ok(None) };
        let name = parameters.remove(GENERATOR).unwrap_or_else(|| DEFAULT.to_owned());
        if name.is_empty() {
            return Err("sbom generator cannot be empty".into());
        }
        let wrong = |why| format!("failed to parse sbom generator {name}: {why}");
        let generator = Reference::parse(&name).map_err(wrong)?.tagged();
        Ok(Some(Self { generator, parameters }))
    }
}

/// A scanner that was found.
pub(crate) struct Scanner {
    name: Reference,
    digest: Option<String>,
    mode: ResolveMode,
    platform: Platform,
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
}

/// What is scanned.
pub(crate) struct Scan<'a> {
    /// Of which platform it is.
    pub platform: &'a Platform,
    /// The result.
    pub core: Option<VertexRef>,
    /// What is looked at besides, by name.
    pub extras: Vec<(String, Option<VertexRef>)>,
    /// Done anew whatever the cache has.
    pub anew: bool,
}

impl Scanner {
    /// Finds it.
    ///
    /// # Errors
    /// There is no such image, or nothing in it that runs.
    pub async fn find<H: Host>(sbom: &Sbom, mode: ResolveMode, host: &H) -> Result<Self, Error> {
        let name = &sbom.generator;
        let platform = host.platforms().into_iter().next().unwrap_or_else(Platform::host);
        let request = ImageRequest {
            name: format!("resolve image config for docker-image://{name}"),
            reference: name.to_string(),
            platform: platform.clone(),
            mode,
            oci_layout: None,
        };
        let found = host.resolve_image(request).await?;
        let config = Image::read(&found.config)?.config;
        let args = [config.entrypoint, config.cmd].concat();
        if args.is_empty() {
            return Err(Error::invalid(format!("scanner {name} does not have cmd")));
        }
        let mut env = config.env;
        let parameters = sbom.parameters.iter().map(|(k, v)| format!("BUILDKIT_SCAN_{k}={v}"));
        env.push(format!("BUILDKIT_SCAN_DESTINATION={OUT}/"));
        env.push(format!("BUILDKIT_SCAN_SOURCE={CORES}/{CORE}"));
        env.extend(parameters);
        Ok(Self {
            name: name.clone(),
            digest: found.digest,
            mode,
            platform,
            args,
            env,
            cwd: absolute("/", &config.working_dir),
        })
    }

    /// Adds the steps of a scan; gives the one whose files are its statements.
    ///
    /// # Errors
    /// The build's definition has grown too large.
    pub fn scan(&self, steps: &mut Builder, scan: Scan<'_>) -> Result<VertexRef, Error> {
        let mut pinned = self.name.clone();
        if let Some(digest) = &self.digest {
            pinned.digest.clone_from(digest);
        }
        let image = Op::Image { reference: pinned.to_string(), resolve: self.mode };
        let image = Vertex {
            platform: Some(self.platform.clone()),
            ..source(&format!("docker-image://{}", self.name), image)
        };
        let mut inputs = vec![steps.add(image)?];
        let mut read = |from: Option<VertexRef>| MountKind::Bind {
            from: from.map(|vertex| {
                inputs.push(vertex);
                Slot(inputs.len() - 1)
            }),
            source: "/".into(),
            writable: false,
        };
        let mut mounts = vec![
            Mount { target: "/tmp".into(), kind: MountKind::Tmpfs { size: 0, read_only: false } },
            Mount { target: format!("{CORES}/{CORE}"), kind: read(scan.core) },
        ];
        let mut env = self.env.clone();
        if !scan.extras.is_empty() {
            env.push(format!("BUILDKIT_SCAN_SOURCE_EXTRAS={EXTRAS}"));
        }
        for (name, files) in scan.extras {
            mounts.push(Mount { target: format!("{EXTRAS}/{CORE}-{name}"), kind: read(files) });
        }
        let exec = Exec {
            base: Some(Slot(0)),
            args: self.args.clone(),
            env,
            cwd: self.cwd.clone(),
            mounts,
            output: Some(OUT.into()),
            ..Exec::default()
        };
        let name = format!("[{}] generating sbom using {}", scan.platform, self.name);
        steps.add(Vertex {
            inputs,
            platform: Some(self.platform.clone()),
            ignore_cache: scan.anew,
            ..source(&name, Op::Exec(Box::new(exec)))
        })
    }
}

/// What a scanner said.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// The file it wrote it to.
    pub file: String,
    subjects: Vec<Value>,
    predicate: Value,
}

/// A file of a scanner's.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    predicate_type: String,
    #[serde(default)]
    subject: Option<Vec<Value>>,
    #[serde(default)]
    predicate: Value,
}

/// Reads what a scanner wrote: all in its folder, the target's first.
///
/// # Errors
/// Files that are no statements, or of another kind; too many; faults of the disk.
pub(crate) fn read(folder: &Root) -> Result<Vec<Said>, Error> {
    read_within(folder, ALL)
}

fn read_within(folder: &Root, most: usize) -> Result<Vec<Said>, Error> {
    let top = folder.at("/", OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| fault("open", OUT, e))?;
    let files = names(top.as_fd()).map_err(|e| fault("read", OUT, e))?;
    if files.len() > STATEMENTS {
        return Err(Error::invalid(format!("a scanner wrote more than {STATEMENTS} files")));
    }
    let (mut said, mut left) = (Vec::new(), most);
    for file in files {
        let file = file.to_string_lossy().into_owned();
        let content = content(folder, &file)?;
        let too_much = || Error::invalid(format!("a scanner's files have more than {most} bytes together"));
        left = left.checked_sub(content.len()).ok_or_else(too_much)?;
        let written: Written = serde_json::from_slice(&content)
            .map_err(|e| Error::invalid(format!("cannot decode in-toto statement: {e}")))?;
        if written.predicate_type != SPDX {
            let kind = written.predicate_type;
            let words = format!("bundle entry {kind} does not match required predicate type {SPDX}");
            return Err(Error::invalid(words));
        }
        let mut subjects = written.subject.unwrap_or_default();
        for subject in &mut subjects {
            let unnamed = subject["name"].as_str().is_none_or(str::is_empty);
            if unnamed && subject.is_object() {
                subject["name"] = "_".into();
            }
        }
        said.push(Said { file, subjects, predicate: written.predicate });
    }
    // Stable: the others keep their order.
    said.sort_by_key(|s| !s.is_core());
    Ok(said)
}

fn content(folder: &Root, file: &str) -> Result<Vec<u8>, Error> {
    let fd = folder.at(file, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|e| fault("open", file, e))?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| fault("stat", file, e))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => {
            return Err(Error::invalid(format!(
                "cannot decode in-toto statement: read {file}: is a directory"
            )));
        }
        _ => return Err(Error::invalid(format!("cannot decode in-toto statement: {file} is no file"))),
    }
    let mut data = Vec::new();
    std::fs::File::from(fd)
        .take(STATEMENT + 1)
        .read_to_end(&mut data)
        .map_err(|e| Error::invalid(format!("read {file}: {e}")))?;
    if data.len() as u64 > STATEMENT {
        return Err(Error::invalid(format!("{file} exceeds {STATEMENT} bytes")));
    }
    Ok(data)
}

impl Said {
    /// Whether it is about the target, not about what was looked at besides.
    fn is_core(&self) -> bool {
        self.file.split('.').next() == Some(CORE)
    }

    /// The statement. Where the scanner does not say what it is about, it is about all there is.
    pub fn statement(&self, about: &About<'_>) -> Statement {
        self.as_statement(about, &self.predicate)
    }

    /// The same of an image: which layer has each file is added, as with BuildKit.
    pub fn of_image(&self, about: &About<'_>, layer_of: &dyn Fn(&str) -> Option<String>) -> Statement {
        let mut predicate = self.predicate.clone();
        if self.is_core() {
            add_layers(&mut predicate, layer_of);
        }
        self.as_statement(about, &predicate)
    }

    fn as_statement(&self, about: &About<'_>, predicate: &Value) -> Statement {
        let subjects = if self.subjects.is_empty() { about.subjects() } else { self.subjects.clone() };
        attest::statement(SPDX, &subjects, predicate)
    }
}

/// Says of each file of a document which layer has it. What is no document of SPDX 2 is left as it is.
fn add_layers(document: &mut Value, layer_of: &dyn Fn(&str) -> Option<String>) {
    if !document["spdxVersion"].as_str().is_some_and(|v| v.starts_with("SPDX-2.")) {
        return;
    }
    let files = document.get_mut("files").and_then(Value::as_array_mut);
    for file in files.into_iter().flatten().filter_map(Value::as_object_mut) {
        // What a scanner has said itself stays.
        let says = |name: &str| file.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let (None, Some(layer)) = (says("comment"), says("fileName").and_then(layer_of)) {
            file.insert("comment".into(), format!("layerID: {layer}").into());
        }
    }
    let Some(document) = document.as_object_mut() else { return };
    let made = document.entry("creationInfo").or_insert_with(|| Value::Object(serde_json::Map::new()));
    let Some(made) = made.as_object_mut() else { return };
    let creators = made.entry("creators").or_insert_with(|| Value::Array(Vec::new()));
    if let Some(creators) = creators.as_array_mut() {
        creators.push(TOOL.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wanted(pairs: &[(&str, &str)]) -> Result<Option<Sbom>, String> {
        let options: BTreeMap<String, String> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Sbom::wanted(&options)
    }

    #[test]
    fn a_scanner_is_named_or_the_usual_one() {
        assert_eq!(wanted(&[("attest:provenance", "mode=max")]), Ok(None));
        assert_eq!(wanted(&[("attest:sbom", "disabled=true")]), Ok(None));
        let usual = wanted(&[("attest:sbom", "")]).unwrap().unwrap();
        assert_eq!(usual.generator.to_string(), format!("docker.io/{DEFAULT}"));
        let own = wanted(&[("build-arg:BUILDKIT_ATTEST_SBOM", "generator=me/scan,A=b")]).unwrap().unwrap();
        assert_eq!(own.generator.to_string(), "docker.io/me/scan:latest");
        assert_eq!(own.parameters, [("A".to_owned(), "b".to_owned())].into());
        let words = |generator| wanted(&[("attest:sbom", generator)]).unwrap_err();
        assert_eq!(words("generator="), "sbom generator cannot be empty");
        assert_eq!(
            words("generator=UPPER"),
            "failed to parse sbom generator UPPER: invalid reference format: repository name (library/UPPER) must \
             be lowercase"
        );
    }

    #[test]
    fn statements_are_read_the_targets_first() {
        let folder = tempfile::tempdir().unwrap();
        let read = || read(&Root::open(folder.path()).unwrap());
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let statement = |subject: &Value| {
            json!({ "predicateType": SPDX, "subject": subject, "predicate": { "a": 1 } }).to_string()
        };
        write("a.spdx.json", &statement(&json!([{ "digest": { "sha256": "12" } }])));
        write("sbom.spdx.json", &statement(&Value::Null));
        let said = read().unwrap();
        assert_eq!(
            said.iter().map(|s| s.file.as_str()).collect::<Vec<_>>(),
            ["sbom.spdx.json", "a.spdx.json"]
        );
        let files = [("x".to_owned(), "ab".to_owned())];
        let as_json = |said: &Said| -> Value {
            serde_json::from_slice(&said.statement(&About::Files(&files)).data).unwrap()
        };
        assert_eq!(as_json(&said[0])["subject"], json!([{ "name": "x", "digest": { "sha256": "ab" } }]));
        assert_eq!(as_json(&said[1])["subject"], json!([{ "name": "_", "digest": { "sha256": "12" } }]));

        let words = read_within(&Root::open(folder.path()).unwrap(), 100).unwrap_err().message;
        assert_eq!(words, "a scanner's files have more than 100 bytes together");

        write("other", &json!({ "predicateType": "https://x" }).to_string());
        let words = read().unwrap_err().message;
        assert_eq!(words, format!("bundle entry https://x does not match required predicate type {SPDX}"));
        write("other", "hello");
        assert!(read().unwrap_err().message.starts_with("cannot decode in-toto statement: "));
        std::fs::remove_file(folder.path().join("other")).unwrap();
        std::fs::create_dir(folder.path().join("other")).unwrap();
        assert!(read().unwrap_err().message.contains("is a directory"));
        std::fs::remove_dir(folder.path().join("other")).unwrap();
        // Leads nowhere: links are the folder's own.
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("other")).unwrap();
        assert!(read().unwrap_err().message.starts_with("open other"));
    }

    #[test]
    fn files_are_said_to_be_in_their_layers() {
        let mut document = json!({ "spdxVersion": "SPDX-2.3", "creationInfo": { "creators": ["Tool: x"] }, "files": [
            { "fileName": "/a" }, { "fileName": "/gone" }, { "fileName": "/b", "comment": "mine" }, 7,
        ] });
        let find = |path: &str| (path != "/gone").then(|| "sha256:12".to_owned());
        add_layers(&mut document, &find);
        assert_eq!(
            document["files"],
            json!([
                { "fileName": "/a", "comment": "layerID: sha256:12" }, { "fileName": "/gone" },
                { "fileName": "/b", "comment": "mine" }, 7,
            ])
        );
        assert_eq!(document["creationInfo"]["creators"], json!(["Tool: x", TOOL]));
        for other in [
            json!({ "a": 1 }),
            json!([]),
            json!("x"),
            json!({ "spdxVersion": "SPDX-2.3", "creationInfo": 1 }),
        ] {
            let mut same = other.clone();
            add_layers(&mut same, &find);
            assert_eq!(same, other);
        }
    }
}
