//! Provenance: what an image was made of and how, as a statement beside it (in-toto, with SLSA's predicates of version
//! 0.2 or 1), in the words of BuildKit's.
//!
//! With `mode=max` they have the Dockerfile and what was done, step by step, in BuildKit's terms ([`definition`]).

mod definition;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use bollard_buildkit_proto::moby::buildkit::v1 as proto;
use serde_json::{Map, Value, json};

use self::definition::Definition;
use crate::convert::names::Reference;
use crate::dockerfile::text::{csv, parse_bool};
use crate::graph::{Graph, Target};
use crate::platform::Platform;
use crate::rpc::{Code, Status};
use crate::worker::Statement;

/// Options that ask for something to be said of a result, and build arguments that stand for them.
const ANY: &str = "attest:";
const ARGUMENT: &str = "build-arg:BUILDKIT_ATTEST_";
/// Types of what may be said.
const PROVENANCE: &str = "provenance";
pub(crate) const SBOM: &str = "sbom";
const TYPE_0: &str = "https://slsa.dev/provenance/v0.2";
const TYPE_1: &str = "https://slsa.dev/provenance/v1";
const BUILD_TYPE_0: &str = "https://mobyproject.org/buildkit@v1";
const BUILD_TYPE_1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const METADATA: &str = "https://mobyproject.org/buildkit@v1#metadata";
/// Arguments that say nothing of what is made.
const OF_TRANSPORT: [&str; 4] = ["attest:", "vcs:", "sharedkey:", "context:"];

/// What is wanted of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// With arguments and the Dockerfile.
    max: bool,
    /// SLSA's second form.
    first: bool,
    /// Only where it can be put beside an image: nobody asked for it by name.
    pub inline_only: bool,
    builder: String,
}

/// Attestations that options ask for, by type, each with its own options.
///
/// # Errors
/// Types that are none.
pub(crate) fn asked<'a>(
    options: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<BTreeMap<String, BTreeMap<String, String>>, String> {
    let mut all = BTreeMap::new();
    for (name, text) in options {
        let kind = name.strip_prefix(ANY).or_else(|| name.strip_prefix(ARGUMENT));
        let Some(kind) = kind.map(str::to_lowercase) else { continue };
        if kind != PROVENANCE && kind != SBOM {
            return Err(format!("unknown attestation type {kind:?}"));
        }
        let fields = if text.is_empty() { Ok(Vec::new()) } else { csv(text) };
        let fields = fields.map_err(|e| format!("failed to parse {kind}: {e}"))?;
        let own: BTreeMap<String, String> = fields
            .iter()
            .map(|field| field.split_once('=').unwrap_or((field, "")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        if own.get("disabled").and_then(|v| parse_bool(v)) != Some(true) {
            all.insert(kind, own);
        }
    }
    Ok(all)
}

/// What a request asks for of provenance.
///
/// # Errors
/// Types and options that are none.
pub(crate) fn wanted(request: &proto::SolveRequest) -> Result<Option<Wanted>, Status> {
    let invalid = |words: String| Status::new(Code::Unknown, words);
    let mut all = asked(&request.frontend_attrs).map_err(invalid)?;
    let Some(options) = all.remove(PROVENANCE) else { return Ok(None) };
    let invalid = |words| Err(invalid(words));
    let mut wanted = Wanted::default();
    for (name, value) in &options {
        match (name.as_str(), value.as_str()) {
            ("mode", "min" | "") => wanted.max = false,
            ("mode", "max") => wanted.max = true,
            ("mode", other) => return invalid(format!("invalid mode {other:?}")),
            ("version", "v0.2") => wanted.first = false,
            ("version", "v1") => wanted.first = true,
            ("version", other) => return invalid(format!("invalid provenance version {other:?}")),
            ("inline-only", value) => wanted.inline_only = parse_bool(value) == Some(true),
            ("builder-id", id) => id.clone_into(&mut wanted.builder),
            // Whether steps are the same the next time is not known here.
            _ => {}
        }
    }
    Ok(Some(wanted))
}

/// Something a build took from elsewhere: its address, and the algorithm and digits of its digest.
pub(crate) type Materials = BTreeMap<String, (&'static str, String)>;

/// The address of an image (package-url, `pkg:docker/…`).
pub(crate) fn purl(name: &str, platform: &Platform) -> String {
    let Ok(reference) = Reference::parse(name) else { return format!("pkg:docker/{name}") };
    let mut plain = reference.tagged();
    let tag = std::mem::take(&mut plain.tag);
    let digest = std::mem::take(&mut plain.digest);
    let version = if tag.is_empty() { digest } else { tag };
    let version = if version.is_empty() { "latest".to_owned() } else { version };
    let platform = platform.to_string().replace('/', "%2F");
    format!("pkg:docker/{}@{}?platform={platform}", plain.familiar(), version.replace(':', "%3A"))
}

/// What is known of a build.
pub(crate) struct Build<'a> {
    pub wanted: &'a Wanted,
    pub request: &'a proto::SolveRequest,
    pub begun: SystemTime,
    pub materials: Materials,
    /// Folders of the client's that were used.
    pub local: bool,
    pub graph: Option<Arc<Graph>>,
    pub builder: Platform,
}

fn time(time: SystemTime) -> String {
    chrono::DateTime::<chrono::Utc>::from(time).to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

/// What a statement is about.
pub(crate) enum About<'a> {
    /// The image of this digest, which has these names.
    Image { digest: &'a str, names: &'a [String], platform: &'a Platform },
    /// Files, by their paths, with the hex digits of their SHA-256.
    Files(&'a [(String, String)]),
}

impl About<'_> {
    /// As statements name it.
    pub fn subjects(&self) -> Vec<Value> {
        let subject = |name: &str, sha256: &str| json!({ "name": name, "digest": { "sha256": sha256 } });
        match self {
            Self::Image { digest, names, platform } => {
                let sha256 = digest.trim_start_matches("sha256:");
                let named: Vec<Value> = names.iter().map(|n| subject(&purl(n, platform), sha256)).collect();
                if named.is_empty() { vec![subject("_", sha256)] } else { named }
            }
            Self::Files(files) => files.iter().map(|(path, sha256)| subject(path, sha256)).collect(),
        }
    }
}

/// A statement, as in-toto has it.
pub(crate) fn statement(kind: &str, subjects: &[Value], predicate: &Value) -> Statement {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v0.1", "predicateType": kind, "subject": subjects,
        "predicate": predicate,
    });
    Statement { predicate_type: kind.into(), data: statement.to_string().into_bytes() }
}

impl Build<'_> {
    /// The statement.
    pub fn statement(&self, about: &About<'_>) -> Statement {
        let definition = self.graph.as_ref().filter(|_| self.wanted.max).map(|graph| {
            let of = |target: &&Target| match about {
                About::Image { platform, .. } => target.platform == **platform,
                About::Files(_) => true,
            };
            let output = graph.results.iter().find(of).and_then(|target| target.output);
            Definition::of(&graph.vertices, output)
        });
        let (kind, predicate) = match self.wanted.first {
            true => (TYPE_1, self.first(definition.as_ref())),
            false => (TYPE_0, self.before_first(definition.as_ref())),
        };
        statement(kind, &about.subjects(), &predicate)
    }

    fn materials(&self) -> Value {
        let one = |(uri, (algorithm, digits)): (&String, &(&str, String))| json!({ "uri": uri, "digest": { *algorithm: digits } });
        Value::Array(self.materials.iter().map(one).collect())
    }

    fn option(&self, name: &str) -> Option<&String> {
        self.request.frontend_attrs.get(name).filter(|v| !v.is_empty())
    }

    fn entry(&self) -> &str {
        self.option("filename").map_or("Dockerfile", String::as_str)
    }

    /// What was asked for.
    fn parameters(&self) -> Map<String, Value> {
        let mut out = Map::new();
        out.insert("frontend".into(), json!(crate::control::DOCKERFILE));
        if self.wanted.max {
            let plain = |name: &str| !OF_TRANSPORT.iter().any(|prefix| name.starts_with(prefix));
            let args: BTreeMap<&String, &String> =
                self.request.frontend_attrs.iter().filter(|(name, _)| plain(name)).collect();
            if !args.is_empty() {
                out.insert("args".into(), json!(args));
            }
        }
        if self.local {
            out.insert("locals".into(), json!([{ "name": "context" }, { "name": "dockerfile" }]));
        }
        out
    }

    /// Where the files come from by version control, as the client says; and the Dockerfile.
    fn metadata(&self, definition: Option<&Definition>) -> Map<String, Value> {
        let mut out = Map::new();
        let vcs: BTreeMap<&str, &String> = self
            .request
            .frontend_attrs
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix("vcs:")?, value)))
            .collect();
        if !vcs.is_empty() {
            out.insert("vcs".into(), json!(vcs));
        }
        if let (Some(graph), Some(definition)) = (&self.graph, definition) {
            let source = &graph.source;
            let data = base64::engine::general_purpose::STANDARD.encode(&source.data);
            let info = json!({ "filename": source.filename, "language": "Dockerfile", "data": data });
            out.insert("source".into(), json!({ "locations": definition.locations(), "infos": [info] }));
        }
        out
    }

    fn before_first(&self, definition: Option<&Definition>) -> Value {
        let mut metadata = json!({
            "buildInvocationID": self.request.r#ref, "buildStartedOn": time(self.begun),
            "buildFinishedOn": time(SystemTime::now()),
            "completeness": { "parameters": self.wanted.max, "environment": true, "materials": !self.local },
            "reproducible": false,
        });
        metadata[METADATA] = Value::Object(self.metadata(definition));
        let mut predicate = json!({
            "builder": { "id": self.wanted.builder }, "buildType": BUILD_TYPE_0, "materials": self.materials(),
            "invocation": {
                "configSource": { "entryPoint": self.entry() }, "parameters": self.parameters(),
                "environment": { "platform": self.builder.to_string() },
            },
            "metadata": metadata,
        });
        if let Some(definition) = definition {
            predicate["buildConfig"] = definition.shown();
        }
        predicate
    }

    fn first(&self, definition: Option<&Definition>) -> Value {
        let mut predicate = json!({
            "buildDefinition": {
                "buildType": BUILD_TYPE_1,
                "externalParameters": {
                    "configSource": { "path": self.entry() }, "request": self.parameters(),
                },
                "internalParameters": { "builderPlatform": self.builder.to_string() },
                "resolvedDependencies": self.materials(),
            },
            "runDetails": {
                "builder": { "id": self.wanted.builder },
                "metadata": {
                    "invocationId": self.request.r#ref, "startedOn": time(self.begun),
                    "finishedOn": time(SystemTime::now()), "buildkit_metadata": self.metadata(definition),
                    "buildkit_completeness": {
                        "request": self.wanted.max, "resolvedDependencies": !self.local,
                    },
                    "buildkit_reproducible": false,
                },
            },
        });
        if let Some(definition) = definition {
            predicate["buildDefinition"]["internalParameters"]["buildConfig"] = definition.shown();
        }
        predicate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Source;

    const OPTION: &str = "attest:provenance";

    fn request(pairs: &[(&str, &str)]) -> proto::SolveRequest {
        let frontend_attrs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        proto::SolveRequest { r#ref: "invocation".into(), frontend_attrs, ..Default::default() }
    }

    #[test]
    fn options_are_read() {
        let read = |text| wanted(&request(&[(OPTION, text)]));
        assert_eq!(wanted(&request(&[])).unwrap(), None);
        assert_eq!(read("disabled=true").unwrap(), None);
        let by_default = read("mode=min,inline-only=true").unwrap().unwrap();
        assert!(by_default.inline_only && !by_default.max);
        let all = read("mode=max,version=v1,builder-id=me").unwrap().unwrap();
        assert!(all.max && all.first && all.builder == "me");
        assert!(read("mode=some").is_err() && read("version=v3").is_err());
        assert_eq!(wanted(&request(&[("attest:sbom", "")])).unwrap(), None);
        let other = wanted(&request(&[("attest:other", "")])).unwrap_err();
        assert_eq!(other.message, "unknown attestation type \"other\"");
        let argument = request(&[("build-arg:BUILDKIT_ATTEST_PROVENANCE", "mode=max")]);
        assert!(wanted(&argument).unwrap().unwrap().max);
    }

    #[test]
    fn a_statement_says_of_what_and_how() {
        let request = request(&[(OPTION, "mode=max"), ("build-arg:A", "1"), ("vcs:revision", "abc")]);
        let wanted = wanted(&request).unwrap().unwrap();
        let platform = Platform::normal("linux", "amd64", "");
        let source = Source { filename: "Dockerfile".into(), data: b"FROM x".to_vec() };
        let name = purl("docker.io/library/busybox:1", &platform);
        assert_eq!(name, "pkg:docker/busybox@1?platform=linux%2Famd64");
        let build = Build {
            wanted: &wanted,
            request: &request,
            begun: SystemTime::UNIX_EPOCH,
            materials: [(name.clone(), ("sha256", "12".into()))].into(),
            local: true,
            graph: Some(Arc::new(Graph { source, ..Graph::default() })),
            builder: platform.clone(),
        };
        let names = ["docker.io/a/b:c".to_owned()];
        let about = About::Image { digest: "sha256:ab", names: &names, platform: &platform };
        let made = build.statement(&about);
        let read: Value = serde_json::from_slice(&made.data).unwrap();
        assert_eq!(made.predicate_type, TYPE_0);
        assert_eq!(read["subject"][0]["name"], "pkg:docker/a/b@c?platform=linux%2Famd64");
        assert_eq!(read["subject"][0]["digest"]["sha256"], "ab");
        let predicate = &read["predicate"];
        assert_eq!(predicate["materials"][0], json!({ "uri": name, "digest": { "sha256": "12" } }));
        assert_eq!(predicate["invocation"]["parameters"]["args"], json!({ "build-arg:A": "1" }));
        assert_eq!(predicate["metadata"][METADATA]["vcs"]["revision"], "abc");
        assert_eq!(predicate["metadata"][METADATA]["source"]["infos"][0]["data"], "RlJPTSB4");
        assert_eq!(predicate["metadata"]["buildStartedOn"], "1970-01-01T00:00:00Z");
        let files = [("a/b".to_owned(), "cd".to_owned())];
        let made: Value = serde_json::from_slice(&build.statement(&About::Files(&files)).data).unwrap();
        assert_eq!(made["subject"], json!([{ "name": "a/b", "digest": { "sha256": "cd" } }]));
    }
}
