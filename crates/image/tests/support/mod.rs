//! What these tests stand on: stores in temporary folders, images made here, a real registry and hostile ones.
#![allow(dead_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use image::{Config, Digest, Images, Progress, ProgressSink};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A store in a folder that goes with it. Overlayfs must work there: not on an overlay or a tmpfs without xattrs.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    pub fn db(&self) -> PathBuf {
        self.dir.path().join("engine.db")
    }

    pub fn open(&self) -> Images {
        self.open_with(&[])
    }

    pub fn open_with(&self, mirrors: &[String]) -> Images {
        Images::open(Config {
            root: self.root(),
            db: self.db(),
            registry_mirrors: mirrors.to_vec(),
            ..Config::default()
        })
        .unwrap()
    }

    /// Names in a folder of the store.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.root().join(folder))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Waits until nothing half-done is left: cancelled work is cleaned up by threads of its own.
    pub async fn settled(&self) {
        for _ in 0..500 {
            if self.names("ingest").is_empty()
                && self.names("layers").is_empty()
                && self.names("blobs/sha256").is_empty()
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!(
            "left behind: {:?} {:?} {:?}",
            self.names("ingest"),
            self.names("layers"),
            self.names("blobs/sha256")
        );
    }
}

/// Mounts a root file system in a mount namespace that ends with the command, and runs it there.
pub fn in_rootfs(rootfs: &image::RootFs, command: &str) -> String {
    let lower: Vec<String> = rootfs.lower.iter().map(|p| p.display().to_string()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        rootfs.upper.display(),
        rootfs.work.display()
    );
    let at = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t overlay overlay -o '{options}' '{0}' && cd '{0}' && {command}",
        at.path().display()
    );
    let out = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", &script])
        .output()
        .unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

pub fn silent() -> ProgressSink {
    Arc::new(|_| {})
}

/// Progress as it was reported.
#[derive(Clone, Default)]
pub struct Recorded(Arc<Mutex<Vec<Progress>>>);

impl Recorded {
    pub fn sink(&self) -> ProgressSink {
        let list = self.0.clone();
        Arc::new(move |p| list.lock().unwrap().push(p))
    }

    /// Status lines, with their id.
    pub fn lines(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .map(|p| match &p.id {
                Some(id) => format!("{id}: {}", p.status),
                None => p.status.clone(),
            })
            .collect()
    }

    pub fn count(&self, status: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|p| p.status == status).count()
    }
}

/// A tar of files; a path that ends in `/` is a folder.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, data) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(if path.ends_with('/') { 0o755 } else { 0o644 });
        header.set_entry_type(if path.ends_with('/') {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_size(data.len() as u64);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, path, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that do not compress.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// An image made of layers.
#[derive(Clone)]
pub struct TestImage {
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
    /// Compressed.
    pub layers: Vec<Vec<u8>>,
}

impl TestImage {
    /// From uncompressed layers, compressed by `pack`.
    pub fn new(architecture: &str, layers: &[Vec<u8>], pack: fn(&[u8]) -> Vec<u8>) -> TestImage {
        let diff_ids: Vec<String> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
        let config = serde_json::to_vec(&json!({
            "architecture": architecture, "os": "linux", "created": "2026-01-02T03:04:05Z",
            "config": {"Env": ["A=b"], "Cmd": ["sh"], "Labels": {"kind": "test"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": "test"}],
        }))
        .unwrap();
        TestImage::with_config(config, layers.iter().map(|l| pack(l)).collect())
    }

    pub fn with_config(config: Vec<u8>, layers: Vec<Vec<u8>>) -> TestImage {
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": Digest::of(&config), "size": config.len()},
            "layers": layers.iter().map(|l| json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": Digest::of(l), "size": l.len(),
            })).collect::<Vec<_>>(),
        }))
        .unwrap();
        TestImage { config, manifest, layers }
    }

    pub fn id(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub fn blobs(&self) -> Vec<Vec<u8>> {
        self.layers.iter().chain([&self.config]).cloned().collect()
    }
}

/// A small image with one file.
pub fn simple(text: &str) -> TestImage {
    TestImage::new("amd64", &[tar(&[("etc/", b""), ("etc/text", text.as_bytes())])], gzip)
}

pub fn index(images: &[(&str, &TestImage)]) -> Vec<u8> {
    serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": images.iter().map(|(architecture, i)| json!({
            "mediaType": OCI_MANIFEST, "digest": i.id(), "size": i.manifest.len(),
            "platform": {"os": "linux", "architecture": architecture},
        })).collect::<Vec<_>>(),
    }))
    .unwrap()
}

/// Debian's `docker-registry` on a loopback port, from the path in `CORACLE_TEST_REGISTRY`.
pub struct Registry {
    child: Child,
    pub host: String,
    _dir: tempfile::TempDir,
}

impl Registry {
    /// `None`, with a line that says so, where the program is not given.
    pub async fn start() -> Option<Registry> {
        Registry::start_with(None).await
    }

    /// With TLS: the files of a certificate, its key, and the authority that clients' certificates must have.
    pub async fn start_with(tls: Option<[&Path; 3]>) -> Option<Registry> {
        let Some(program) = std::env::var_os("CORACLE_TEST_REGISTRY") else {
            eprintln!("SKIPPED: CORACLE_TEST_REGISTRY does not name a docker-registry program");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let settings = dir.path().join("registry.yml");
        std::fs::write(
            &settings,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"{}}}\n",
                dir.path().display(),
                tls.map_or(String::new(), |[cert, key, clients]| format!(
                    ", tls: {{certificate: {}, key: {}, clientcas: [{}]}}",
                    cert.display(),
                    key.display(),
                    clients.display()
                )),
            ),
        )
        .unwrap();
        let child = Command::new(program)
            .arg("serve")
            .arg(&settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Registry { child, host, _dir: dir };
        for _ in 0..500 {
            if tokio::net::TcpStream::connect(&registry.host).await.is_ok() {
                return Some(registry);
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the registry does not answer");
    }

    pub async fn push_blobs(&self, name: &str, blobs: &[Vec<u8>]) {
        for blob in blobs {
            let start =
                request("POST", &format!("http://{}/v2/{name}/blobs/uploads/", self.host), "", &[]).await;
            let location = start.headers().get("location").unwrap().to_str().unwrap().to_string();
            let url = format!("{location}&digest={}", Digest::of(blob));
            let done = request("PUT", &url, "application/octet-stream", blob).await;
            assert_eq!(done.status(), 201);
        }
    }

    pub async fn push_manifest(&self, name: &str, tag: &str, media_type: &str, manifest: &[u8]) {
        let url = format!("http://{}/v2/{name}/manifests/{tag}", self.host);
        let done = request("PUT", &url, media_type, manifest).await;
        assert_eq!(done.status(), 201);
    }

    pub async fn has_blob(&self, name: &str, digest: &str) -> bool {
        let url = format!("http://{}/v2/{name}/blobs/{digest}", self.host);
        http().head(url).send().await.unwrap().status().is_success()
    }

    pub async fn push(&self, name: &str, tag: &str, image: &TestImage) {
        self.push_blobs(name, &image.blobs()).await;
        self.push_manifest(name, tag, OCI_MANIFEST, &image.manifest).await;
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn http() -> reqwest::Client {
    // A process has one default provider; a second installation is refused and does not matter.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

async fn request(method: &str, url: &str, content_type: &str, body: &[u8]) -> reqwest::Response {
    http()
        .request(method.parse().unwrap(), url)
        .header("content-type", content_type)
        .body(body.to_vec())
        .send()
        .await
        .unwrap()
}

/// A request as a hostile registry sees it.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// What it answers. With `claimed` longer than the body the connection breaks off.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub claimed: Option<usize>,
    /// Never ends the answer, until the client goes.
    pub stall: bool,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, headers: Vec::new(), body: body.into(), claimed: None, stall: false }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Answer {
        self.headers.push((name.into(), value.to_string()));
        self
    }
}

/// A server that answers as a closure says, one request per connection.
pub struct Server {
    pub host: String,
    pub asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(answer: impl Fn(&Asked, &str) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (answer, list, own) = (Arc::new(answer), asked.clone(), host.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, list, own) = (answer.clone(), list.clone(), own.clone());
                connections.spawn(async move {
                    let mut head = Vec::new();
                    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                        let mut byte = [0; 1024];
                        match stream.read(&mut byte).await {
                            // A TLS hello (no plain http yet) or a client gone.
                            Ok(n) if n > 0 && (!head.is_empty() || byte[0] != 0x16) => {
                                head.extend_from_slice(&byte[..n])
                            }
                            _ => return,
                        }
                    }
                    let text = String::from_utf8_lossy(&head).into_owned();
                    let mut lines = text.split("\r\n");
                    let mut first = lines.next().unwrap().split(' ');
                    let request = Asked {
                        method: first.next().unwrap().into(),
                        path: first.next().unwrap().into(),
                        headers: lines
                            .filter_map(|l| l.split_once(": "))
                            .map(|(n, v)| (n.to_string(), v.to_string()))
                            .collect(),
                    };
                    let reply = answer(&request, &own);
                    list.lock().unwrap().push(request.clone());
                    let mut out = format!(
                        "HTTP/1.1 {} X\r\nconnection: close\r\ncontent-length: {}\r\n",
                        reply.status,
                        reply.claimed.unwrap_or(reply.body.len())
                    );
                    for (name, value) in &reply.headers {
                        out.push_str(&format!("{name}: {value}\r\n"));
                    }
                    out.push_str("\r\n");
                    let _ = stream.write_all(out.as_bytes()).await;
                    if request.method != "HEAD" {
                        let _ = stream.write_all(&reply.body).await;
                    }
                    if reply.stall {
                        let _ = stream.read(&mut [0]).await;
                    }
                });
            }
        });
        Server { host, asked, task }
    }

    /// Serves an image honestly, except where `special` has another answer.
    pub async fn image(
        image: TestImage,
        special: impl Fn(&Asked, &str) -> Option<Answer> + Send + Sync + 'static,
    ) -> Server {
        Server::start(move |asked, host| special(asked, host).unwrap_or_else(|| honest(&image, asked))).await
    }

    pub fn count(&self, method: &str, part: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|a| a.method == method && a.path.contains(part)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn honest(image: &TestImage, asked: &Asked) -> Answer {
    let manifest =
        |a: Answer| a.header("content-type", OCI_MANIFEST).header("docker-content-digest", image.id());
    if asked.path.contains("/manifests/") {
        return manifest(Answer::new(200, image.manifest.clone()));
    }
    let found = image.blobs().into_iter().find(|b| asked.path.ends_with(&Digest::of(b).to_string()));
    match found {
        Some(blob) => match asked
            .header("range")
            .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok())
        {
            Some(start) => Answer::new(206, &blob[start..])
                .header("content-range", format!("bytes {start}-{}/{}", blob.len() - 1, blob.len())),
            None => Answer::new(200, blob),
        },
        None => Answer::new(404, "{}"),
    }
}

pub fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}
