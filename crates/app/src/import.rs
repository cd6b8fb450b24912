//! Images and volumes of another engine of this computer (Docker's own, Podman's, whoever serves Docker's API), brought
//! into ours. Nothing of the other engine's is changed, but for a container that is made, never started, and removed
//! again: Docker's API reaches a volume's files only through one.
//!
//! ```text
//!   other engine --GET /images/NAME/get--------------> POST /images/load          ours
//!   other engine --GET /containers/H/archive (tar)---> PUT /containers/H/archive  ours
//! ```

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use http_body_util::BodyExt;
use hyper::{Request, Response, body::Incoming};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::{
    App, AppError, Body, body_of, docker, empty, platform, registries,
    streams::{End, Window},
    words::{Engine, EngineImage, Message},
};

/// Longest list or answer.
const MOST: usize = 64 << 20;
/// How long another engine may take to list what it has.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// An image without anything in it, for containers that are only there to reach a volume.
const HELPER_IMAGE: (&str, &str) = ("coracle/files", "2");
/// What tells such containers from a person's.
const HELPER_LABEL: &str = "dev.coracle.helper";
/// Where a volume is in its helper.
const VOLUME: &str = "/volume";
/// An archive without entries.
const EMPTY_ARCHIVE: [u8; 1024] = [0; 1024];
/// Sockets below a person's home folder.
const IN_HOME: [&str; 6] = [
    ".docker/run/docker.sock",
    ".docker/desktop/docker.sock",
    ".orbstack/run/docker.sock",
    ".colima/default/docker.sock",
    ".rd/docker.sock",
    ".local/share/containers/podman/machine/podman.sock",
];
/// Sockets below `XDG_RUNTIME_DIR`.
const IN_RUNTIME: [&str; 2] = ["docker.sock", "podman/podman.sock"];
/// Sockets of the whole system.
const OF_SYSTEM: [&str; 2] = ["/var/run/docker.sock", "/run/podman/podman.sock"];

/// Engines that answer, without our own.
pub(crate) async fn engines(app: &App) -> Vec<Engine> {
    let own = app.home().docker_socket();
    let own = own.canonicalize().unwrap_or(own);
    let mut seen = BTreeSet::from([own]);
    let mut found = Vec::new();
    for (name, socket) in candidates() {
        let Ok(real) = socket.canonicalize() else { continue };
        if seen.insert(real)
            && let Ok(Ok(engine)) = tokio::time::timeout(PATIENCE, look(name, &socket)).await
        {
            found.push(engine);
        }
    }
    found
}

/// Where engines are, as docker's contexts name them and as their makers place them.
fn candidates() -> Vec<(String, PathBuf)> {
    let mut all = Vec::new();
    if let Some(folder) = registries::config_folder() {
        all.extend(contexts(&folder.join("contexts/meta")));
    }
    let below = |folder: Option<PathBuf>, names: &[&str]| -> Vec<PathBuf> {
        folder.into_iter().flat_map(|f| names.iter().map(move |n| f.join(n)).collect::<Vec<_>>()).collect()
    };
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()).map(PathBuf::from);
    let places = [
        below(std::env::home_dir(), &IN_HOME),
        below(runtime, &IN_RUNTIME),
        OF_SYSTEM.map(PathBuf::from).to_vec(),
    ];
    all.extend(places.concat().into_iter().map(|socket| (String::new(), socket)));
    all
}

/// Docker's contexts that lead to a socket of this computer.
fn contexts(folder: &Path) -> Vec<(String, PathBuf)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Context {
        name: String,
        endpoints: std::collections::BTreeMap<String, Endpoint>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Endpoint {
        #[serde(default)]
        host: String,
    }
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<(String, PathBuf)> = entries
        .filter_map(|entry| {
            let bytes = std::fs::read(entry.ok()?.path().join("meta.json")).ok()?;
            let context: Context = serde_json::from_slice(&bytes).ok()?;
            let socket = context.endpoints.get("docker")?.host.strip_prefix(platform::ADDRESS)?;
            Some((context.name, PathBuf::from(socket)))
        })
        .collect();
    found.sort();
    found
}

/// What an engine has; `name` is its context's, or empty.
async fn look(name: String, socket: &Path) -> Result<Engine, AppError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Image {
        id: String,
        #[serde(default)]
        repo_tags: Option<Vec<String>>,
        size: u64,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Volumes {
        volumes: Option<Vec<Volume>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Volume {
        name: String,
        driver: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Info {
        #[serde(default)]
        name: String,
        #[serde(default)]
        operating_system: String,
    }
    let info: Info = get(socket, "/info").await?;
    let images: Vec<Image> = get(socket, "/images/json").await?;
    let volumes: Volumes = get(socket, "/volumes").await?;
    // Each name by itself: an archive has the names that were asked for, and what they share is stored once.
    let mut images: Vec<EngineImage> = images
        .into_iter()
        .flat_map(|image| {
            let tags = image.repo_tags.unwrap_or_default();
            let mut names: Vec<String> = tags.into_iter().filter(|t| !t.starts_with("<none>")).collect();
            if names.is_empty() {
                names.push(image.id);
            }
            names.into_iter().map(move |name| EngineImage { name, size: image.size })
        })
        .collect();
    images.sort_by(|a, b| a.name.cmp(&b.name));
    let mut volumes: Vec<String> = volumes
        .volumes
        .unwrap_or_default()
        .into_iter()
        .filter(|v| v.driver == "local")
        .map(|v| v.name)
        .collect();
    volumes.sort();
    let says = if info.operating_system.is_empty() { info.name } else { info.operating_system };
    let name = if name.is_empty() { says } else { format!("{name} ({says})") };
    Ok(Engine { name, socket: socket.display().to_string(), images, volumes })
}

/// Brings them over, one after another; what can't be brought is told of, and the rest comes all the same. Let go of, it
/// ends after what it has made at the other engine is gone.
pub(crate) async fn import(
    window: &mut Window,
    socket: &str,
    images: Vec<String>,
    volumes: Vec<String>,
) -> Result<(), End> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (said, mut hear) = mpsc::channel(16);
    let work = Work { app: window.app.clone(), other: PathBuf::from(socket), said };
    let all = u64::try_from(images.len() + volumes.len()).unwrap_or(u64::MAX);
    // A task of its own: this one ends wherever it is when the window lets go of it.
    let task = tokio::spawn(async move { work.all(images, volumes, stopped).await });
    window.say(Message::Opened).await?;
    let mut done = 0;
    while let Some(line) = hear.recv().await {
        window.say(Message::Lines { lines: vec![line] }).await?;
        done += 1;
        window.say(Message::Moved { bytes: done, of: Some(all) }).await?;
    }
    drop(stop);
    match task.await {
        Ok(failed) if failed.is_empty() => Ok(()),
        Ok(failed) => Err(AppError::Tool(failed.join("\n")).into()),
        Err(error) => Err(AppError::Tool(error.to_string()).into()),
    }
}

struct Work {
    app: App,
    other: PathBuf,
    said: mpsc::Sender<String>,
}

impl Work {
    /// Answers what failed, in words.
    async fn all(
        self,
        images: Vec<String>,
        volumes: Vec<String>,
        mut stopped: oneshot::Receiver<()>,
    ) -> Vec<String> {
        let mut failed = Vec::new();
        for image in images {
            let done = tokio::select! {
                done = self.image(&image) => done,
                _ = &mut stopped => return failed,
            };
            self.tell(&image, done, &mut failed).await;
        }
        for volume in volumes {
            let mut half = Half::default();
            let done = tokio::select! {
                done = self.volume(&volume, &mut half) => Some(done),
                _ = &mut stopped => None,
            };
            let own = self.app.home().docker_socket();
            for (socket, helper) in [(&self.other, half.theirs), (&own, half.ours)] {
                if let Some(helper) = helper {
                    helper.remove(socket).await;
                }
            }
            if half.made && !matches!(done, Some(Ok(()))) {
                // It would look like a whole one, and be in the way of another try.
                let _ =
                    ask(&own, Request::delete(format!("/volumes/{}", escaped(&volume))).body(empty())).await;
            }
            let Some(done) = done else { return failed };
            self.tell(&volume, done, &mut failed).await;
        }
        failed
    }

    async fn tell(&self, name: &str, done: Result<(), AppError>, failed: &mut Vec<String>) {
        let line = match done {
            Ok(()) => name.to_owned(),
            Err(error) => {
                let line = format!("{name}: {error}");
                failed.push(line.clone());
                line
            }
        };
        let _ = self.said.send(line).await;
    }

    async fn image(&self, name: &str) -> Result<(), AppError> {
        let archive =
            ask(&self.other, Request::get(format!("/images/{}/get", escaped(name))).body(empty())).await?;
        let load = Request::post("/images/load?quiet=1").header("content-type", "application/x-tar");
        let answer = ask(&self.app.home().docker_socket(), load.body(archive.into_body().boxed())).await?;
        // What goes wrong after the first byte stands in the answer's lines.
        let body = collect(answer).await?;
        for line in body.split(|b| *b == b'\n') {
            if let Ok(Value::Object(said)) = serde_json::from_slice(line)
                && let Some(error) = said.get("error").and_then(Value::as_str)
            {
                return Err(AppError::Tool(error.to_owned()));
            }
        }
        Ok(())
    }

    /// A new volume of the same name. One that is here already is somebody's: it is left alone.
    async fn volume(&self, name: &str, half: &mut Half) -> Result<(), AppError> {
        let own = self.app.home().docker_socket();
        let there = ask(&own, Request::get(format!("/volumes/{}", escaped(name))).body(empty())).await;
        match there {
            Ok(_) => return Err(AppError::Request("a volume of this name is here already".into())),
            Err(AppError::Refused { status: 404, .. }) => {}
            Err(error) => return Err(error),
        }
        Helper::make(&mut half.theirs, &self.other, name).await?;
        ask(&own, post("/volumes/create", &json!({ "Name": name }))).await?;
        half.made = true;
        Helper::make(&mut half.ours, &own, name).await?;
        let (Some(from), Some(to)) = (&half.theirs, &half.ours) else { return Ok(()) };
        let files =
            Request::get(format!("/containers/{}/archive?path={VOLUME}/.", from.container)).body(empty());
        let files = ask(&self.other, files).await?.into_body().boxed();
        let put = Request::put(format!("/containers/{}/archive?path={VOLUME}", to.container))
            .header("content-type", "application/x-tar");
        collect(ask(&own, put.body(files)).await?).await.map(drop)
    }
}

/// What there is of a volume that is being brought.
#[derive(Default)]
struct Half {
    theirs: Option<Helper>,
    ours: Option<Helper>,
    made: bool,
}

/// A container that has a volume and is never started.
struct Helper {
    container: String,
    /// Whether the image was made for it.
    image: bool,
}

impl Helper {
    /// Makes it; `made` holds as much as there is at any time, so that it can be removed.
    async fn make(made: &mut Option<Self>, socket: &Path, volume: &str) -> Result<(), AppError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Made {
            id: String,
        }
        let (repository, tag) = HELPER_IMAGE;
        let image = format!("{repository}:{tag}");
        let missing = match ask(socket, Request::get(format!("/images/{image}/json")).body(empty())).await {
            Ok(_) => false,
            Err(AppError::Refused { status: 404, .. }) => true,
            Err(error) => return Err(error),
        };
        if missing {
            let label = format!("changes=LABEL%20{HELPER_LABEL}%3Dfiles");
            let import =
                Request::post(format!("/images/create?fromSrc=-&repo={repository}&tag={tag}&{label}"))
                    .header("content-type", "application/x-tar");
            collect(ask(socket, import.body(body_of(EMPTY_ARCHIVE.to_vec()))).await?).await?;
        }
        let made = made.insert(Self { container: String::new(), image: missing });
        let words = json!({
            "Image": image, "Cmd": ["-"], "Labels": { HELPER_LABEL: "import" }, "NetworkDisabled": true,
            "HostConfig": { "NetworkMode": "none", "Mounts": [{ "Type": "volume", "Source": volume, "Target": VOLUME }] },
        });
        let answer = ask(socket, post("/containers/create", &words)).await?;
        let answer: Made = read(answer).await?;
        made.container = answer.id;
        Ok(())
    }

    /// What can't be removed is not worth failing for: lists leave it out by its label.
    async fn remove(self, socket: &Path) {
        if !self.container.is_empty() {
            let _ =
                ask(socket, Request::delete(format!("/containers/{}", self.container)).body(empty())).await;
        }
        if self.image {
            let (repository, tag) = HELPER_IMAGE;
            let _ = ask(socket, Request::delete(format!("/images/{repository}:{tag}")).body(empty())).await;
        }
    }
}

fn post(path: &str, words: &Value) -> Result<Request<Body>, hyper::http::Error> {
    Request::post(path).header("content-type", "application/json").body(body_of(words.to_string()))
}

/// Sends a request; an answer that is no success is an error in the engine's words.
async fn ask(
    socket: &Path,
    request: Result<Request<Body>, hyper::http::Error>,
) -> Result<Response<Incoming>, AppError> {
    let request = request.map_err(|e| AppError::Request(e.to_string()))?;
    let answer = docker::send_to(socket, request).await?;
    if answer.status().is_success() { Ok(answer) } else { Err(docker::refusal(answer).await) }
}

async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, AppError> {
    read(ask(socket, Request::get(path).body(empty())).await?).await
}

async fn read<T: DeserializeOwned>(answer: Response<Incoming>) -> Result<T, AppError> {
    serde_json::from_slice(&collect(answer).await?).map_err(|e| AppError::Unreachable(e.to_string()))
}

async fn collect(answer: Response<Incoming>) -> Result<bytes::Bytes, AppError> {
    let body = http_body_util::Limited::new(answer.into_body(), MOST).collect().await;
    Ok(body.map_err(|e| AppError::Unreachable(e.to_string()))?.to_bytes())
}

/// As a part of a path: references may have slashes, colons and an at sign, and these stay.
fn escaped(name: &str) -> String {
    name.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b':' | b'@' | b'.' | b'_' | b'-' => {
                char::from(b).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_that_lead_to_a_socket_here_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let context = |id: &str, text: String| {
            std::fs::create_dir(folder.path().join(id)).unwrap();
            std::fs::write(folder.path().join(id).join("meta.json"), text).unwrap();
        };
        let one = |name: &str, host: &str| {
            json!({ "Name": name, "Metadata": {}, "Endpoints": { "docker": { "Host": host } } }).to_string()
        };
        context("1", one("here", &format!("{}/a/docker.sock", platform::ADDRESS)));
        context("2", one("far", "ssh://me@there"));
        context("3", "{ no json".into());
        context("4", json!({ "Name": "none", "Endpoints": {} }).to_string());
        assert_eq!(contexts(folder.path()), [("here".to_owned(), PathBuf::from("/a/docker.sock"))]);
        assert!(contexts(&folder.path().join("nothing")).is_empty());
    }

    #[test]
    fn names_stay_in_their_part_of_a_path() {
        assert_eq!(escaped("a.b:5000/c/d_e@sha256:1"), "a.b:5000/c/d_e@sha256:1");
        assert_eq!(escaped("a?b#c d"), "a%3Fb%23c%20d");
    }
}
