//! `POST /build`: the classic builder (`DOCKER_BUILDKIT=0 docker build`, docker-py's `images.build`). The work is
//! [`build::classic`]'s; here are its options and the stream that clients read.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use build::classic::{self, Order, Told, Unpacked};
use build::worker::{Credentials, Limits};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::registry::AuthConfig;
use super::reply::Reply;
use super::request::{Call, Version};
use crate::builds::{self, EngineWorker, HUB};
use crate::container::config::{HostConfig, Ulimit};
use crate::container::limits;
use crate::engine::Engine;
use crate::error::{Code, Error, Result};

/// Bytes of a context read at once.
const BUFFER: usize = 256 << 10;
/// Lines between a build and a client that reads slowly.
const WAITING: usize = 64;
/// How long a build says nothing at most: only what is written to a connection shows that nobody listens any more (a
/// client may end its half of it and wait), and then the build ends.
const SILENCE: Duration = Duration::from_secs(2);
/// What is written then: space between JSON documents. (An empty `stream` is a new line to the docker CLI.)
const NOTHING: &[u8] = b" ";

/// `POST /build`.
pub async fn build(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let mut order = order(&engine, &call)?;
    let (lines, mut ready) = mpsc::channel(WAITING);
    let teller = Teller {
        lines,
        quiet: call.flag("q"),
        // Older clients know no such lines.
        aux: call.version >= Version(1, 30),
        held: warnings(&engine, &call)?,
        begun: false,
    };
    let builder = builds::builder(&engine).await?;
    if !order.options.contains_key("context") {
        order.context = Some(unpack(&builder, call).await?);
    }
    let mut work = JoinSet::new();
    work.spawn(teller.run(builder, order));
    // What is wrong with the order or the file is no stream: nothing was begun.
    let first = ready.recv().await.ok_or_else(|| Error::internal("the build was given up"))??;
    // The build ends with the stream: who does not listen any more wants no image.
    let rest = futures_util::stream::unfold((ready, work), |(mut ready, work)| async move {
        let line: Result<Bytes> = ready.recv().await?;
        Some((line.map_err(std::io::Error::other), (ready, work)))
    });
    let stream = futures_util::stream::iter([Ok(first)]).chain(rest);
    Ok(Reply::Stream("application/json", Box::pin(stream)))
}

/// Turns what a build tells into the lines that clients read.
struct Teller {
    /// An error only as the first.
    lines: mpsc::Sender<Result<Bytes>>,
    quiet: bool,
    aux: bool,
    /// Lines that come before the next one; with `quiet` all of them, for the case of a failure.
    held: Vec<Bytes>,
    begun: bool,
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\r\n"))
}

fn text(text: &str) -> Bytes {
    line(&json!({ "stream": text }))
}

impl Teller {
    async fn run(mut self, builder: Arc<build::builder::Builder<EngineWorker>>, order: Order) {
        let names = order.names.clone();
        let (tell, mut told) = mpsc::channel(WAITING);
        let work = async {
            let tell = tell;
            classic::build(&builder, order, &tell).await
        };
        let pass = async {
            loop {
                let told = tokio::select! {
                    told = told.recv() => told,
                    () = tokio::time::sleep(SILENCE), if self.begun => {
                        self.send(Bytes::from_static(NOTHING)).await;
                        continue;
                    }
                };
                let Some(told) = told else { break };
                self.tell(match told {
                    Told::Text(words) => text(&words),
                    // As dockerd has it: red.
                    Told::Stderr(words) => text(&format!("\x1b[91m{words}\x1b[0m")),
                })
                .await;
            }
        };
        let (done, ()) = tokio::join!(work, pass);
        match done {
            Ok(made) => {
                if self.aux {
                    self.tell(line(&json!({ "aux": { "ID": made.digest } }))).await;
                }
                self.tell(text(&format!("Successfully built {}\n", classic::short(&made.digest)))).await;
                for name in names {
                    let shown = name.parse::<image::Reference>().map_or(name, |r| r.familiar());
                    self.tell(text(&format!("Successfully tagged {shown}\n"))).await;
                }
                if self.quiet {
                    self.held.clear();
                    self.send(text(&format!("{}\n", made.digest))).await;
                }
            }
            Err(e) if !self.begun => {
                let _ = self.lines.send(Err(refusal(e))).await;
            }
            Err(e) => {
                for line in std::mem::take(&mut self.held) {
                    self.send(line).await;
                }
                self.send(failure(&e)).await;
            }
        }
    }

    async fn tell(&mut self, line: Bytes) {
        let first = !std::mem::replace(&mut self.begun, true);
        if self.quiet {
            if first {
                self.send(Bytes::from_static(NOTHING)).await;
            }
            self.held.push(line);
            return;
        }
        for line in std::mem::take(&mut self.held) {
            self.send(line).await;
        }
        self.send(line).await;
    }

    async fn send(&self, line: Bytes) {
        // Nobody reads when the build is being given up.
        let _ = self.lines.send(Ok(line)).await;
    }
}

/// A failure after something was told.
fn failure(e: &build::Error) -> Bytes {
    let Some(exit) = &e.exit else {
        return line(&json!({ "errorDetail": { "message": e.message }, "error": e.message }));
    };
    let words = format!("The command '{}' returned a non-zero code: {}", exit.command, exit.code);
    line(&json!({ "errorDetail": { "code": exit.code, "message": words }, "error": words }))
}

/// A failure before: what the file or the order names and is not there is the client's mistake.
fn refusal(e: build::Error) -> Error {
    let e = Error::from(e);
    let code = if e.code == Code::NotFound { Code::InvalidArgument } else { e.code };
    Error { code, message: e.message }
}

fn missing(words: impl std::fmt::Display) -> Error {
    let code = Code::NotImplemented;
    Error { code, message: format!("{words} is not there for builds by POST /build (ImageBuild)") }
}

/// An option that is a JSON document; the default where it is not given.
fn document<T: DeserializeOwned + Default>(call: &Call, name: &str) -> Result<T> {
    let value = call.get(name);
    if value.is_empty() {
        return Ok(T::default());
    }
    let read: Option<T> =
        serde_json::from_str(value).map_err(|e| Error::invalid(format!("error reading {name}: {e}")))?;
    Ok(read.unwrap_or_default())
}

/// Refuses what could only be left out in silence.
fn refuse(call: &Call) -> Result<()> {
    if call.get("version") == "2" {
        return Err(missing("BuildKit by this path (version=2; BuildKit's clients use /grpc)"));
    }
    if call.flag("squash") {
        return Err(Error::invalid("squash is not supported: a build's layers stay as its steps made them"));
    }
    let given = |name: &str| !matches!(call.get(name), "" | "null" | "[]");
    if given("outputs") {
        return Err(missing("option outputs"));
    }
    if given("securityopt") {
        return Err(Error::invalid("security options are not supported on linux"));
    }
    if !matches!(call.get("isolation"), "" | "default") {
        return Err(Error::invalid(format!("unsupported isolation: {:?}", call.get("isolation"))));
    }
    Ok(())
}

/// What a client should know of options that change nothing.
fn warnings(engine: &Engine, call: &Call) -> Result<Vec<Bytes>> {
    let images: Vec<String> = document(call, "cachefrom")?;
    let caches = images
        .iter()
        .map(|image| format!("importing cache from {image} is not there: built with the engine's own cache"));
    let controllers = engine.runtime.controllers();
    let limits = limits::discarded(&asked_limits(call)?, |controller| controllers.has(controller));
    Ok(caches.chain(limits).map(|words| text(&format!("[Warning] {words}\n"))).collect())
}

/// What steps may use, as a container's settings say it. Clients send what they were not told as 0.
fn asked_limits(call: &Call) -> Result<HostConfig> {
    let number = |name: &str| Ok::<_, Error>(call.number::<i64>(name)?.unwrap_or(0));
    Ok(HostConfig {
        memory: number("memory")?,
        memory_swap: number("memswap")?,
        cpu_shares: number("cpushares")?,
        cpu_period: number("cpuperiod")?,
        cpu_quota: number("cpuquota")?,
        cpuset_cpus: call.get("cpusetcpus").to_owned(),
        cpuset_mems: call.get("cpusetmems").to_owned(),
        ..HostConfig::default()
    })
}

/// The same, checked as a container's.
fn limits(engine: &Engine, call: &Call) -> Result<Limits> {
    let mut host = asked_limits(call)?;
    limits::check(&mut host, engine.cpus, limits::memory_nodes())?;
    Ok(Limits {
        memory: host.memory,
        memory_swap: host.memory_swap,
        cpu_shares: host.cpu_shares,
        cpu_period: host.cpu_period,
        cpu_quota: host.cpu_quota,
        cpus: host.cpuset_cpus,
        memory_nodes: host.cpuset_mems,
    })
}

/// Reads what is asked for.
fn order(engine: &Engine, call: &Call) -> Result<Order> {
    refuse(call)?;
    let mut order = Order { limits: limits(engine, call)?, ..Order::default() };
    let mut put = |key: &str, value: String| {
        if !value.is_empty() {
            order.options.insert(key.to_owned(), value);
        }
    };
    put("filename", call.get("dockerfile").to_owned());
    put("target", call.get("target").to_owned());
    put("platform", call.get("platform").to_lowercase());
    put("cgroup-parent", call.get("cgroupparent").to_owned());
    put("image-resolve-mode", if call.flag("pull") { "pull" } else { "local" }.into());
    match call.get("networkmode") {
        "" | "default" | "bridge" => {}
        "none" => put("force-network-mode", "none".into()),
        "host" => {
            put("force-network-mode", "host".into());
            order.entitlements.push("network.host".into());
        }
        other => order.network = other.to_owned(),
    }
    let mut put = |key: String, value: String| order.options.insert(key, value);
    match call.get("remote") {
        "" => {}
        url if url.starts_with("http://")
            || url.starts_with("https://")
            || build::convert::git_source(url, false)?.is_some() =>
        {
            put("context".into(), url.to_owned());
        }
        other => {
            return Err(missing(format_args!(
                "context {other:?} (a folder, or the address of a Dockerfile or archive, is)"
            )));
        }
    }
    if call.flag("nocache") {
        put("no-cache".into(), String::new());
    }
    if let Some(bytes) = call.number::<i64>("shmsize")?.filter(|n| *n != 0) {
        put("shm-size".into(), bytes.to_string());
    }
    // `null` is an argument whose value the client does not have.
    for (name, value) in document::<BTreeMap<String, Option<String>>>(call, "buildargs")? {
        if let Some(value) = value {
            put(format!("build-arg:{name}"), value);
        }
    }
    for (name, value) in document::<BTreeMap<String, String>>(call, "labels")? {
        put(format!("label:{name}"), value);
    }
    let limits: Vec<Ulimit> = document(call, "ulimits")?;
    if !limits.is_empty() {
        let limits: Vec<String> =
            limits.iter().map(|u| format!("{}={}:{}", u.name, u.soft, u.hard)).collect();
        put("ulimit".into(), limits.join(","));
    }
    let hosts = hosts(engine, &call.all("extrahosts"))?;
    if !hosts.is_empty() {
        put("add-hosts".into(), hosts.join(","));
    }
    order.credentials = credentials(call)?;
    for name in call.all("t") {
        if name.is_empty() {
            continue;
        }
        let name: image::Reference = name.parse()?;
        if name.digest().is_some() {
            return Err(Error::invalid("build tag cannot contain a digest"));
        }
        let name = name.to_string();
        if !order.names.contains(&name) {
            order.names.push(name);
        }
    }
    Ok(order)
}

/// `name:address`, with the host's own address for `host-gateway`; as the frontend reads them.
fn hosts(engine: &Engine, given: &[String]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for host in given.iter().filter(|h| !h.is_empty()) {
        let wrong = || Error::invalid(format!("bad format for add-host: {host:?}"));
        let (name, address) = host.split_once([':', '=']).ok_or_else(wrong)?;
        if address == "host-gateway" {
            out.extend(engine.networks.host_gateway_of_steps().iter().map(|ip| format!("{name}={ip}")));
        } else {
            out.push(format!("{name}={}", address.trim_matches(['[', ']'])));
        }
    }
    Ok(out)
}

/// `X-Registry-Config`: base64 of a JSON object, registry to `AuthConfig`.
fn credentials(call: &Call) -> Result<Credentials> {
    let mut out = Credentials::new();
    let Some(header) = call.headers.get("x-registry-config") else { return Ok(out) };
    let bad = || Error::invalid("invalid X-Registry-Config header: not base64url-encoded JSON");
    let text = header.to_str().map_err(|_| bad())?.trim_end_matches('=');
    let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text)
        .or_else(|_| base64::engine::general_purpose::STANDARD_NO_PAD.decode(text))
        .map_err(|_| bad())?;
    if raw.is_empty() {
        return Ok(out);
    }
    let all: Option<BTreeMap<String, AuthConfig>> = serde_json::from_slice(&raw).map_err(|_| bad())?;
    for (registry, config) in all.unwrap_or_default() {
        let host = registry.trim_start_matches("https://").trim_start_matches("http://");
        let host = host.split('/').next().unwrap_or_default();
        let host = if matches!(host, "index.docker.io" | "docker.io") { HUB } else { host };
        let pair = match config.credentials()? {
            Some(image::Credentials::Basic { user, password }) => (user, password),
            Some(image::Credentials::IdentityToken(token)) => (String::new(), token),
            Some(_) | None => continue,
        };
        out.insert(host.to_owned(), pair);
    }
    Ok(out)
}

/// Unpacks the context that is the request's body.
async fn unpack(builder: &build::builder::Builder<EngineWorker>, call: Call) -> Result<Unpacked> {
    let context = Unpacked::new(builder)?;
    let body = StreamReader::new(call.body.into_data_stream().map_err(std::io::Error::other));
    let input = std::io::BufReader::with_capacity(BUFFER, SyncIoBridge::new(body));
    let work = move || -> Result<Unpacked> {
        let folder = std::fs::File::open(context.folder())?;
        let wrong = |e: String| Error::invalid(format!("Error processing tar file(context): {e}"));
        let mut input = image::decompress(input).map_err(|e| wrong(e.to_string()))?;
        let options = archive::ExtractOptions::plain();
        archive::extract(&mut input, folder.as_fd(), &options).map_err(|e| wrong(e.to_string()))?;
        // What stands behind the archive's end is the client's still to send.
        std::io::copy(&mut input, &mut std::io::sink()).map_err(|e| wrong(e.to_string()))?;
        Ok(context)
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(e.to_string()))?
}
