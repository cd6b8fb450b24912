//! What a solve request says to the frontend (`FrontendOpt`), read.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::Error;
use crate::checks::Checks;
use crate::dockerfile::text::{csv, parse_bool, quote};
use crate::graph::{Network, ResolveMode, Ulimit};
use crate::platform::Platform;
use crate::sbom::Sbom;

/// Most platforms of one build.
pub const MAX_PLATFORMS: usize = 64;

/// Options of a build.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// `target`: the stage that is built; empty for the last.
    pub target: String,
    /// `platform`: what for; empty for the builder's.
    pub platforms: Vec<Platform>,
    /// The result is a list, also of one platform.
    pub multi_platform: bool,
    /// `build-arg:*`
    pub build_args: BTreeMap<String, String>,
    /// `label:*`
    pub labels: BTreeMap<String, String>,
    /// `no-cache`: `None`, all stages (empty), or some.
    pub no_cache: Option<Vec<String>>,
    /// `add-hosts`
    pub extra_hosts: Vec<(String, String)>,
    /// `shm-size`
    pub shm_size: u64,
    /// `ulimit`
    pub ulimits: Vec<Ulimit>,
    /// `cgroup-parent`
    pub cgroup_parent: String,
    /// `force-network-mode`
    pub network: Network,
    /// `hostname`
    pub hostname: String,
    /// `image-resolve-mode`
    pub resolve: ResolveMode,
    /// `filename`
    pub filename: String,
    /// `context`, under the name `contextkey` says: a repository or URL in place of the client's folder.
    pub context: String,
    /// `contextsubdir`
    pub context_subdir: String,
    /// `dockerfilekey`: the client's folder with the Dockerfile, whatever the context is.
    pub dockerfile_folder: Option<String>,
    /// `context:NAME`
    pub contexts: BTreeMap<String, String>,
    /// `input-metadata:NAME`
    pub input_metadata: BTreeMap<String, String>,
    /// `sharedkey:localdir:NAME`
    pub shared_keys: BTreeMap<String, String>,
    /// `build-arg:BUILDKIT_CACHE_MOUNT_NS`
    pub cache_namespace: String,
    /// `build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR`
    pub keep_git_dir: bool,
    /// `build-arg:SOURCE_DATE_EPOCH`, in seconds.
    pub epoch: Option<i64>,
    /// `build-arg:BUILDKIT_SYNTAX`
    pub syntax: Option<String>,
    /// `build-arg:BUILDKIT_DOCKERFILE_CHECK`, in place of what the file says.
    pub checks: Option<Checks>,
    /// `attest:sbom`
    pub sbom: Option<Sbom>,
    /// `requestid`: a question in place of a build.
    pub request: Option<String>,
}

fn prefixed(options: &BTreeMap<String, String>, prefix: &str) -> BTreeMap<String, String> {
    options.iter().filter_map(|(k, v)| Some((k.strip_prefix(prefix)?.to_owned(), v.clone()))).collect()
}

impl Options {
    /// Reads them. What is not known is left alone, as BuildKit does.
    ///
    /// # Errors
    /// A value that has no meaning.
    pub fn read(options: &BTreeMap<String, String>) -> Result<Options, Error> {
        Options::parse(options).map_err(Error::invalid)
    }

    fn parse(options: &BTreeMap<String, String>) -> Result<Options, String> {
        let text = |key: &str| options.get(key).cloned().unwrap_or_default();
        let given = |key: &str| options.get(key).filter(|v| !v.is_empty());
        let mut platforms = Vec::new();
        for name in given("platform").into_iter().flat_map(|list| list.split(',')) {
            let platform = Platform::parse(name)
                .map_err(|why| format!("failed to parse target platform {name}: {why}"))?;
            platforms.push(platform.normalized());
        }
        if platforms.len() > MAX_PLATFORMS {
            return Err(format!("more than {MAX_PLATFORMS} target platforms"));
        }
        let several = given("build-arg:BUILDKIT_MULTI_PLATFORM").or_else(|| given("multi-platform"));
        let multi_platform = match several {
            None => platforms.len() > 1,
            Some(value) => {
                let wanted = parse_bool(value)
                    .ok_or_else(|| format!("invalid boolean value for multi-platform: {value}"))?;
                if !wanted && platforms.len() > 1 {
                    return Err(
                        "conflicting config: returning multiple target platforms is not allowed".into()
                    );
                }
                wanted
            }
        };
        let network = match text("force-network-mode").as_str() {
            "" | "sandbox" => Network::Default,
            "none" => Network::None,
            "host" => Network::Host,
            other => return Err(format!("invalid netmode {other}")),
        };
        let resolve = match text("image-resolve-mode").as_str() {
            "" | "default" => ResolveMode::Default,
            "pull" => ResolveMode::Pull,
            "local" => ResolveMode::Local,
            other => return Err(format!("invalid image-resolve-mode: {other}")),
        };
        let integer = |key: &str| match given(key) {
            None => Ok(None),
            Some(value) => {
                let why = || format!("strconv.ParseInt: parsing {}: invalid syntax", quote(value));
                value.parse::<i64>().map(Some).map_err(|_| why())
            }
        };
        let epoch_key = "build-arg:SOURCE_DATE_EPOCH";
        let epoch = integer(epoch_key)
            .map_err(|why| format!("invalid SOURCE_DATE_EPOCH: {}: {why}", text(epoch_key)))?;
        let shm = integer("shm-size").map_err(|why| format!("failed to parse shm size: {why}"))?;
        let checks = match options.get("build-arg:BUILDKIT_DOCKERFILE_CHECK") {
            None => None,
            Some(value) => {
                let wrong = |why| format!("failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: {why}");
                Some(Checks::read(value).map_err(wrong)?)
            }
        };
        let context_key = given("contextkey").map_or("context", String::as_str);
        let filename = given("filename").map_or("Dockerfile", String::as_str);
        Ok(Options {
            target: text("target"),
            platforms,
            multi_platform,
            build_args: prefixed(options, "build-arg:"),
            labels: prefixed(options, "label:"),
            no_cache: options.get("no-cache").map(|list| match list.as_str() {
                "" => Vec::new(),
                list => list.split(',').map(str::to_owned).collect(),
            }),
            extra_hosts: hosts(&text("add-hosts"))?,
            shm_size: shm.and_then(|s| u64::try_from(s).ok()).unwrap_or_default(),
            ulimits: ulimits(&text("ulimit"))?,
            cgroup_parent: text("cgroup-parent"),
            network,
            hostname: given("build-arg:BUILDKIT_SANDBOX_HOSTNAME")
                .cloned()
                .unwrap_or_else(|| text("hostname")),
            resolve,
            filename: filename.to_owned(),
            context: text(context_key),
            context_subdir: text("contextsubdir"),
            dockerfile_folder: given("dockerfilekey").cloned(),
            contexts: prefixed(options, "context:"),
            input_metadata: prefixed(options, "input-metadata:"),
            shared_keys: prefixed(options, "sharedkey:localdir:"),
            cache_namespace: text("build-arg:BUILDKIT_CACHE_MOUNT_NS"),
            keep_git_dir: parse_bool(&text("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR")) == Some(true),
            epoch,
            syntax: given("build-arg:BUILDKIT_SYNTAX").cloned(),
            checks,
            sbom: Sbom::wanted(options)?,
            request: given("requestid").cloned(),
        })
    }

    /// The main context is an input of the request (bake's `contexts = { context = "target:…" }`).
    pub fn contexts_input(&self) -> bool {
        self.context.starts_with("input:")
    }

    /// A stage is to be done anew.
    pub fn is_no_cache(&self, stage: &str) -> bool {
        match &self.no_cache {
            None => false,
            Some(names) => names.is_empty() || names.iter().any(|n| n.eq_ignore_ascii_case(stage)),
        }
    }
}

fn hosts(text: &str) -> Result<Vec<(String, String)>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let wrong = |why: String| format!("failed to parse additional hosts: {why}");
    let host = |field: &String| {
        let lower = field.to_lowercase();
        let Some((name, address)) = lower.split_once('=') else {
            return Err(wrong(format!("invalid key-value pair {field}")));
        };
        let ip: IpAddr = address.parse().map_err(|_| wrong(format!("failed to parse IP {address}")))?;
        Ok((name.to_owned(), ip.to_string()))
    };
    csv(text).map_err(wrong)?.iter().map(host).collect()
}

/// `nofile=1024:2048,…`
fn ulimits(text: &str) -> Result<Vec<Ulimit>, String> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let wrong = |why: String| format!("failed to parse ulimit: {why}");
    let limit = |field: &String| {
        let Some((name, values)) = field.split_once('=').filter(|(n, _)| !n.is_empty()) else {
            return Err(wrong(format!("invalid ulimit argument: {field}")));
        };
        if !NAMES.contains(&name) {
            return Err(wrong(format!("invalid ulimit type: {name}")));
        }
        let number = |text: &str| {
            let why = || wrong(format!("strconv.ParseInt: parsing {}: invalid syntax", quote(text)));
            text.parse::<i64>().map_err(|_| why())
        };
        let (soft, hard) = match values.split_once(':') {
            Some((soft, hard)) => (number(soft)?, number(hard)?),
            None => (number(values)?, number(values)?),
        };
        if hard != -1 && (soft == -1 || soft > hard) {
            let shown = if soft == -1 { "-1".to_owned() } else { soft.to_string() };
            return Err(wrong(format!(
                "ulimit soft limit must be less than or equal to hard limit: {shown} > {hard}"
            )));
        }
        Ok(Ulimit { name: name.to_owned(), soft, hard })
    };
    csv(text).map_err(wrong)?.iter().map(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Options, String> {
        let map = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Options::read(&map).map_err(|e| e.message)
    }

    #[test]
    fn options_are_read() {
        let options = read(&[
            ("platform", "linux/amd64,linux/arm64/v8"),
            ("build-arg:A", "b"),
            ("label:x", "y"),
            ("no-cache", ""),
            ("add-hosts", "a=10.0.0.1,b=::1"),
            ("ulimit", "nofile=1:2"),
            ("context:base", "docker-image://busybox"),
        ])
        .unwrap();
        assert!(options.multi_platform && options.is_no_cache("x"));
        assert_eq!(options.platforms[1].to_string(), "linux/arm64");
        assert_eq!(options.extra_hosts[1], ("b".into(), "::1".into()));
        assert_eq!(options.ulimits[0], Ulimit { name: "nofile".into(), soft: 1, hard: 2 });
        assert_eq!(options.filename, "Dockerfile");
        let some = read(&[("no-cache", "a,b")]).unwrap();
        assert!(some.is_no_cache("B") && !some.is_no_cache("c"));
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for (key, value, expected) in [
            ("force-network-mode", "foo", "invalid netmode foo"),
            ("image-resolve-mode", "foo", "invalid image-resolve-mode: foo"),
            ("add-hosts", "a=b", "failed to parse additional hosts: failed to parse IP b"),
            ("ulimit", "foo=1", "failed to parse ulimit: invalid ulimit type: foo"),
            ("multi-platform", "x", "invalid boolean value for multi-platform: x"),
        ] {
            assert_eq!(read(&[(key, value)]), Err(expected.into()));
        }
    }
}
