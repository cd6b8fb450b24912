//! What the executor needs of the engine: where layers are kept and where programs run.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use crate::Error;
use crate::files::Root;
use crate::frontend::{ImageRequest, ResolvedImage};
use crate::graph::{Exec, ResolveMode};
use crate::platform::Platform;
use crate::session::Session;

/// A part of a stack of layers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// All layers of an image.
    Image {
        /// Canonical, with digest.
        reference: String,
        /// Which of its manifests.
        platform: Platform,
    },
    /// A layer that a step made, by the worker's number.
    Built(i64),
    /// A folder that is not the worker's: files of a client. Only read, and never part of an image.
    #[serde(skip)]
    Folder(PathBuf),
}

/// A file system: layers, the lowest first; none is the empty tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tree(pub Vec<Layer>);

impl Tree {
    /// The same with one more layer.
    #[must_use]
    pub fn with(mut self, layer: Layer) -> Self {
        self.0.push(layer);
        self
    }

    /// Numbers of the layers that steps made.
    pub fn built(&self) -> impl Iterator<Item = i64> + '_ {
        self.0.iter().filter_map(|l| match l {
            Layer::Built(id) => Some(*id),
            Layer::Image { .. } | Layer::Folder(_) => None,
        })
    }
}

/// A layer that is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayerUse {
    /// Bytes on disk.
    pub bytes: u64,
    /// Whether an image has it too.
    pub shared: bool,
}

/// Trees as a piece of work sees them.
#[derive(Debug)]
pub struct View {
    /// The new layer upon its tree; there where one was asked for.
    pub write: Option<Root>,
    /// The trees to read, in the order they were given.
    pub read: Vec<Root>,
}

/// Something mounted for a program.
#[derive(Debug)]
pub struct RunMount {
    /// Where: absolute, clean.
    pub target: String,
    /// What.
    pub source: RunSource,
    /// Not to be written.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug)]
pub enum RunSource {
    /// A file or folder of a tree; written to, it is changed for this program only.
    Tree {
        /// The tree.
        tree: Tree,
        /// The path in it.
        path: String,
    },
    /// A file or folder of this machine.
    Path(PathBuf),
    /// Memory of at most so many bytes; 0: no limit of its own.
    Memory(u64),
}

/// Output of a program: 1 or 2 for stdout or stderr, and bytes.
pub type Output = mpsc::Sender<(u8, Vec<u8>)>;

/// What the machine gives a step's program, as for a container; 0, or nothing: as much as it asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes.
    pub memory: i64,
    /// Memory and swap together, in bytes; -1: of swap as much as it asks for.
    pub memory_swap: i64,
    /// Its share of the processors beside others'.
    pub cpu_shares: i64,
    /// Microseconds of a period, and of the processors' time in each.
    pub cpu_period: i64,
    /// See `cpu_period`.
    pub cpu_quota: i64,
    /// Processors: `0-2,4`.
    pub cpus: String,
    /// Nodes of memory, likewise.
    pub memory_nodes: String,
}

/// A program to be run.
#[derive(Debug)]
pub struct Run<'a> {
    /// What the Dockerfile says; its `mounts`, `secret_env` and `proxy` are carried out in the fields below.
    pub exec: &'a Exec,
    /// What it may use.
    pub limits: &'a Limits,
    /// The network it has in place of the default one: see [`crate::solve::Context::network`].
    pub network: &'a str,
    /// Its root, below the new layer.
    pub base: &'a Tree,
    /// Further mounts.
    pub mounts: Vec<RunMount>,
    /// Further variables.
    pub env: Vec<String>,
    /// Where its output goes.
    pub output: Output,
    /// A folder of this run's own, for files that are mounted; gone afterwards.
    pub scratch: PathBuf,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit status, or 128 and the signal.
    pub code: u8,
    /// The kernel killed it for want of memory.
    pub out_of_memory: bool,
}

/// Credentials by registry: user and password (or identity token, with no user).
pub type Credentials = std::collections::BTreeMap<String, (String, String)>;

/// Where a build's credentials come from.
#[derive(Clone, Default)]
pub struct Asker {
    /// A client that is asked.
    pub session: Option<Arc<Session>>,
    /// What came with the request.
    pub given: Arc<Credentials>,
}

impl Asker {
    /// User and password for a registry.
    pub async fn credentials(&self, host: &str) -> Option<(String, String)> {
        if let Some(found) = self.given.get(host) {
            return Some(found.clone());
        }
        let session = self.session.as_ref()?;
        session.credentials(host).await.unwrap_or_else(|e| {
            tracing::info!("credentials for {host}: {e}");
            None
        })
    }
}

/// Takes how far the parts of an image are, each by its name.
pub type Fetched = Box<dyn Fn(&str, Far) + Send + Sync>;

/// How far something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Far {
    /// Begun; so many bytes, of how many.
    At(u64, u64),
    /// All of it is here.
    Done,
}

/// A layer as a blob, as registries have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Blob {
    /// Digest of its bytes.
    pub digest: String,
    /// Digest of its archive, uncompressed.
    pub diff_id: String,
    /// Its bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
}

/// A layer that is there as a blob, for as long as this lives.
#[derive(Clone)]
pub struct Packed {
    /// The layer's number.
    pub layer: i64,
    /// The blob.
    pub blob: Blob,
    /// Where its bytes are.
    pub file: PathBuf,
    /// Keeps the file.
    pub hold: Arc<dyn std::any::Any + Send + Sync>,
}

/// A request to a web server.
#[derive(Clone, Debug, Default)]
pub struct WebRequest {
    /// `http://` or `https://`.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// With a body it is sent by POST, without one asked for by GET.
    pub body: Option<Vec<u8>>,
}

/// A web server's answer.
pub struct WebAnswer {
    /// HTTP's number.
    pub status: u16,
    /// What answered, after all redirections.
    pub url: String,
    /// What it sends.
    pub body: std::pin::Pin<Box<dyn tokio::io::AsyncRead + Send>>,
}

/// Something other than an image that is kept at a registry.
pub struct Artifact {
    /// What the manifest names.
    pub blobs: Vec<Packed>,
    /// Its configuration: digest and bytes.
    pub config: (String, Vec<u8>),
    /// The manifest's media type.
    pub media_type: String,
    /// The manifest.
    pub manifest: Vec<u8>,
}

/// Something said about an image, as in-toto has it.
#[derive(Clone, Debug)]
pub struct Statement {
    /// What kind of thing is said.
    pub predicate_type: String,
    /// The statement, JSON.
    pub data: Vec<u8>,
}

/// An image that something is said about.
pub struct Attested<'a> {
    /// Digest of its manifest.
    pub digest: &'a str,
    /// Digest of the topmost layer that has a file, by its path.
    pub layer_of: &'a dyn Fn(&str) -> Option<String>,
}

/// Says something about an image.
pub type Say = Arc<dyn Fn(&Attested<'_>) -> Vec<Statement> + Send + Sync>;

/// What is said about an image.
#[derive(Clone)]
pub struct Attest {
    /// It asks for layers of files.
    pub of_files: bool,
    /// Makes the statements.
    pub say: Say,
}

/// An image to be made of a tree.
#[derive(Clone)]
pub struct ImageWork {
    /// Its layers.
    pub tree: Tree,
    /// Its configuration, `history` included, without `rootfs`.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// The platform.
    pub platform: Platform,
    /// Names it gets (of a list of platforms the list does).
    pub names: Vec<String>,
    /// Annotations of the manifest.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Annotations of what names the manifest in a list.
    pub descriptor_annotations: std::collections::BTreeMap<String, String>,
    /// Its documents have Docker's media types, not OCI's.
    pub docker_types: bool,
    /// How its layers are packed.
    pub packing: Packing,
    /// What is to stand beside it: then the image is a list, also of one.
    pub attest: Option<Attest>,
}

/// How layers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    Uncompressed,
    /// As every registry and engine takes it.
    #[default]
    Gzip,
    /// Smaller and faster, not taken by old engines.
    Zstd,
}

/// How layers of an image are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Packing {
    /// Of those that are not packed yet.
    pub compression: Compression,
    /// The compression's own level.
    pub level: Option<u32>,
    /// Also of those that are packed already in another way.
    pub force: bool,
    /// No file of a layer that a step made is younger, in seconds after 1970.
    pub youngest: Option<i64>,
}

/// An image that was made.
#[derive(Clone, Debug)]
pub struct MadeImage {
    /// Digest of the manifest or list.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// Its size, in bytes.
    pub size: u64,
    /// Digest of the configuration; of a list: of the first.
    pub config: String,
    /// Annotations of what names it in a layout.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// What it is made of, one for each platform.
    pub manifests: Vec<MadeManifest>,
    /// It is a list of them.
    pub list: bool,
}

/// An image of one platform that was made, by the digests of its documents.
#[derive(Clone, Debug)]
pub struct MadeManifest {
    /// The manifest.
    pub manifest: String,
    /// The configuration.
    pub config: String,
    /// The manifest of what is said of it.
    pub attestation: Option<String>,
}

/// The engine, as the executor sees it.
pub trait Worker: Send + Sync + 'static {
    /// A layer that is being written. What is not kept goes.
    type Draft: Send + Sync + 'static;

    /// This engine's id.
    fn id(&self) -> String;

    /// What clients are told of it, besides what every worker tells.
    fn labels(&self) -> std::collections::BTreeMap<String, String>;

    /// An image's name with registry and tag: `docker.io/library/busybox:latest`.
    fn full_name(&self, name: &str) -> Result<String, Error>;

    /// Platforms whose programs run here, its own first.
    fn platforms(&self) -> Vec<Platform>;

    /// Finds an image; pulls nothing.
    fn find_image(
        &self,
        request: &ImageRequest,
        asker: &Asker,
    ) -> impl Future<Output = Result<ResolvedImage, Error>> + Send;

    /// Sees to it that an image's layers are here.
    fn fetch_image(
        &self,
        reference: &str,
        platform: &Platform,
        mode: ResolveMode,
        asker: &Asker,
        fetched: Fetched,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// A new layer upon a tree.
    fn draft(&self, base: &Tree) -> impl Future<Output = Result<Self::Draft, Error>> + Send;

    /// Keeps a layer; gives its number and what it uses.
    fn keep(&self, draft: Self::Draft) -> impl Future<Output = Result<(i64, LayerUse), Error>> + Send;

    /// Removes layers; gives the bytes that were freed.
    fn forget(&self, layers: Vec<i64>) -> impl Future<Output = Result<u64, Error>> + Send;

    /// All layers that are kept.
    fn layers(&self)
    -> impl Future<Output = Result<std::collections::BTreeMap<i64, LayerUse>, Error>> + Send;

    /// Does `work` on a thread that sees these trees. `write`: a layer that is being written, and the tree it is upon.
    fn view<T: Send + 'static>(
        &self,
        write: Option<(&Tree, &Self::Draft)>,
        read: Vec<Tree>,
        work: impl FnOnce(View) -> Result<T, Error> + Send + 'static,
    ) -> impl Future<Output = Result<T, Error>> + Send;

    /// Runs a program whose changes go into `draft`. Dropped, it ends at once with all it started.
    fn run(&self, run: Run<'_>, draft: &Self::Draft) -> impl Future<Output = Result<Ended, Error>> + Send;

    /// Undoes compression, by what the first bytes are.
    fn decompress(
        &self,
        input: Box<dyn std::io::BufRead + Send>,
    ) -> std::io::Result<Box<dyn std::io::Read + Send>>;

    /// Opens a web address.
    fn open_url(
        &self,
        url: &str,
    ) -> impl Future<Output = Result<std::pin::Pin<Box<dyn tokio::io::AsyncRead + Send>>, Error>> + Send;

    /// Asks a web server; whatever it answers is no error.
    fn web(&self, request: WebRequest) -> impl Future<Output = Result<WebAnswer, Error>> + Send;

    /// Takes in the images of an archive.
    fn load_archive(
        &self,
        input: std::pin::Pin<Box<dyn tokio::io::AsyncRead + Send>>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Makes images; several are a list of platforms, which then has the names and these annotations.
    fn make_image(
        &self,
        images: Vec<ImageWork>,
        list: bool,
        annotations: std::collections::BTreeMap<String, String>,
    ) -> impl Future<Output = Result<MadeImage, Error>> + Send;

    /// Writes an image that was made as an archive: an OCI layout, which Docker reads too.
    fn save_image(
        &self,
        made: &MadeImage,
        names: Vec<String>,
        out: Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Layers that are kept as blobs, in this order.
    fn pack(
        &self,
        layers: Vec<i64>,
        packing: Packing,
    ) -> impl Future<Output = Result<Vec<Packed>, Error>> + Send;

    /// Makes a layer of a blob, which is held against its digests; gives its number and what it uses.
    fn unpack(
        &self,
        blob: &Blob,
        input: std::pin::Pin<Box<dyn tokio::io::AsyncRead + Send>>,
    ) -> impl Future<Output = Result<(i64, LayerUse), Error>> + Send;

    /// An index or manifest at a registry, by digest or else by the name's tag.
    fn fetch_document(
        &self,
        name: &str,
        digest: Option<&str>,
        asker: &Asker,
    ) -> impl Future<Output = Result<Vec<u8>, Error>> + Send;

    /// A blob at a registry: nobody has held its bytes against the digest.
    fn fetch_blob(
        &self,
        name: &str,
        digest: &str,
        asker: &Asker,
    ) -> impl Future<Output = Result<std::pin::Pin<Box<dyn tokio::io::AsyncRead + Send>>, Error>> + Send;

    /// Keeps something at a registry under a name; what is there is not sent again.
    fn push_artifact(
        &self,
        name: &str,
        asker: &Asker,
        artifact: Artifact,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Pushes an image that was made.
    fn push_image(&self, name: &str, asker: &Asker) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Set when it is dropped: work on a thread that nobody waits for any more.
#[derive(Default)]
pub struct StopOnDrop(pub Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// A socket in a run's folder that leads to the client's SSH agent, for as long as this lives.
pub struct AgentSocket {
    task: tokio::task::JoinHandle<()>,
}

impl AgentSocket {
    /// Listens in a folder, by this name.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub fn listen_in(
        folder: &std::path::Path,
        name: &str,
        session: Arc<Session>,
        id: String,
    ) -> std::io::Result<Self> {
        use std::os::fd::AsRawFd;
        // A socket's path may have 107 bytes: by the folder's descriptor it is short.
        let folder = std::fs::File::open(folder)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))?;
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((io, _)) = listener.accept().await {
                let (session, id) = (session.clone(), id.clone());
                connections.spawn(async move {
                    if let Err(e) = session.forward_agent(&id, io).await {
                        tracing::debug!("ssh agent: {e}");
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { task })
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}
