//! What is to be done for a build: the face between the Dockerfile frontend and the executor.
//!
//! A [`Graph`] is a list of vertices in topological order: a vertex's inputs stand before it. A vertex has one
//! output, a *snapshot*: a folder tree with the stack of layers it was made of. Ops name their inputs by [`Slot`], the
//! place in the vertex's `inputs`, so that the definition of an op does not depend on where it stands. Where an op has
//! a `base: Option<Slot>`, `None` is the empty tree (`FROM scratch`).
//!
//! # What the executor does, op by op
//!
//! * [`Op::Image`]: the image's root file system, pulled when its content is needed and not before. No layer is added:
//!   the snapshot's layers are the image's. Its key is `reference`'s digest, or what the resolver said.
//! * [`Op::Local`]: files of the client, by the session's filesync, with the patterns given. `differ: false` marks small
//!   transfers (Dockerfile, `.dockerignore`) that are not worth a metadata comparison.
//! * [`Op::Git`], [`Op::Http`], [`Op::OciLayout`], [`Op::Input`]: the same from elsewhere. `Http` makes one file named
//!   `filename` with mode 0600 unless said otherwise, with Last-Modified as its time; a `checksum` that differs fails
//!   the build. `Input` is a frontend input of the solve request (bake's `target:` contexts).
//! * [`Op::Exec`]: a process in `base`, whose changes are one new layer, also when it changed nothing. See [`Exec`].
//! * [`Op::Copy`]: files put onto `base`, as one new layer. See [`Copy`].
//! * [`Op::Mkdir`]: a folder with its parents, as one new layer (an empty one where the folder is there). Owner `None` is
//!   0:0; names are looked up in `base`. A folder that is there keeps mode and owner.
//!
//! # Keys
//!
//! [`Op::digest`] is the digest of an op's definition, without names, lines or what only the environment needs
//! (proxies). A vertex's cache key is made of it and the keys of its inputs. For inputs that are only *read*
//! ([`Copy`]'s sources, bind mounts) the executor can put a digest of the content that is read in place of the input's
//! key: an unchanged file then stays a hit, whatever else changed. `ignore_cache` vertices are always done anew, but
//! what they make is cached for others. Cache mounts, secrets and ssh sockets add only their definition to the key,
//! never their content.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Image;
use crate::platform::Platform;

/// The place of a vertex in [`Graph::vertices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VertexRef(pub usize);

/// The place of an input in [`Vertex::inputs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slot(pub usize);

/// A build: its steps and what comes of them.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// In topological order. Every vertex is reachable from a result.
    pub vertices: Vec<Vertex>,
    /// One per platform, in the order they were asked for.
    pub results: Vec<Target>,
    /// The exporter writes a list of platforms, also when there is one only.
    pub multi_platform: bool,
    /// Build checks that were not skipped, in order.
    pub warnings: Vec<Warning>,
    /// The Dockerfile, for excerpts.
    pub source: Source,
}

/// What a build makes for one platform.
#[derive(Clone, Debug)]
pub struct Target {
    /// The platform that was asked for, or the builder's.
    pub platform: Platform,
    /// `None`: an image without layers (`FROM scratch` with nothing but metadata).
    pub output: Option<VertexRef>,
    /// The configuration without `rootfs`, `created` (the exporter writes both). The last entries of `history` are this
    /// build's; where `created` is `None` the exporter writes the time of the layer, or of the export for empty ones.
    /// `history` and layers correspond: one entry without `empty_layer` for each layer.
    pub image: Image,
    /// The configuration of the base image as it was found, for provenance and inline caches.
    pub base: Option<Image>,
    /// What a scanner says of it: a folder of statements.
    pub sbom: Option<VertexRef>,
    /// `SOURCE_DATE_EPOCH` in seconds: the image's `created`, and no file of a new layer is younger.
    pub epoch: Option<i64>,
}

/// One step.
#[derive(Clone, Debug)]
pub struct Vertex {
    /// As progress shows it: `[build 2/4] RUN make`.
    pub name: String,
    /// What is done.
    pub op: Op,
    /// What it is done with.
    pub inputs: Vec<VertexRef>,
    /// What runs, and which variant of an image is taken. `None` where it does not matter.
    pub platform: Option<Platform>,
    /// Done anew whatever the cache has (`--no-cache`).
    pub ignore_cache: bool,
    /// Where it stands in [`Graph::source`].
    pub lines: Vec<Range>,
    /// The instruction as written (`com.docker.dockerfile.v1.command`). Empty for internal steps.
    pub command: String,
}

/// A file that ranges point into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// `Dockerfile`, or as `-f` gave it.
    pub filename: String,
    /// All of it.
    pub data: Vec<u8>,
}

/// From line to line, both counted from 1 and included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Range {
    /// First line.
    pub start: u32,
    /// Last line.
    pub end: u32,
}

/// A build check that found something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The rule: `UndefinedVar`.
    pub rule: String,
    /// What the rule is about, one sentence.
    pub description: String,
    /// Where it is explained.
    pub url: String,
    /// What was found here.
    pub message: String,
    /// Where.
    pub lines: Vec<Range>,
}

impl Warning {
    /// The line by which BuildKit reports it: `UndefinedVar: Usage of undefined variable '$x' (line 3)`.
    pub fn short(&self) -> String {
        let line = self.lines.first().map(|l| format!(" (line {})", l.start)).unwrap_or_default();
        format!("{}: {}{line}", self.rule, self.message)
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// An image from a registry or the engine's own store.
    Image {
        /// Canonical: `docker.io/library/busybox:latest@sha256:…`; without digest where the resolver gave none.
        reference: String,
        /// Where it may come from.
        resolve: ResolveMode,
    },
    /// Files of the client.
    Local(Local),
    /// One file from a web server.
    Http(Http),
    /// A checkout.
    Git(Git),
    /// An image of an OCI layout at the client (`--build-context x=oci-layout://…`), by the session's content store.
    OciLayout {
        /// `name@sha256:…` or `name:tag@sha256:…`, canonical.
        reference: String,
        /// Which content store of the session.
        store: String,
        /// Which session; empty for the build's own.
        session: String,
    },
    /// An input of the solve request.
    Input {
        /// Its key there.
        name: String,
    },
    /// A process.
    Exec(Box<Exec>),
    /// Files onto a tree.
    Copy(Copy),
    /// A folder.
    Mkdir {
        /// The tree it is made in.
        base: Option<Slot>,
        /// Absolute, clean. Parents are made too.
        path: String,
        /// Permission bits of what is made.
        mode: u32,
        /// Owner of what is made, parents included.
        owner: Option<Owner>,
        /// Time of what is made, in seconds; otherwise the time it is made at.
        #[serde(skip_serializing_if = "Option::is_none")]
        time: Option<i64>,
    },
}

impl Op {
    /// Digest of the definition, `sha256:…`: what the cache key of a vertex is made of, beside its inputs.
    pub fn digest(&self) -> String {
        // Field order is fixed by the types, maps are sorted: the same definition gives the same bytes.
        let definition = serde_json::to_vec(self).expect("an op is plain data");
        Sha256::digest(&definition)
            .iter()
            .fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// Where an image may come from (`image-resolve-mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResolveMode {
    /// The store's own where it has it, otherwise the registry.
    #[default]
    Default,
    /// The registry is always asked (`--pull`).
    Pull,
    /// The store's own is preferred.
    Local,
}

/// Files of the client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Local {
    /// The session's folder: `context`, `dockerfile`, or a named one.
    pub name: String,
    /// Only what matches (fsutil include patterns); empty is everything.
    pub include: Vec<String>,
    /// Not what matches (`.dockerignore`), with `!` exceptions.
    pub exclude: Vec<String>,
    /// Only these, with what links among them point to; may hold wildcards. Empty is everything.
    pub follow_paths: Vec<String>,
    /// Transfers with the same hint build on each other's files.
    #[serde(skip)]
    pub shared_key: String,
    /// Compare metadata with the last transfer, and only take what changed.
    #[serde(skip)]
    pub differ: bool,
}

/// One file from a web server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Http {
    /// `http://` or `https://`.
    pub url: String,
    /// `sha256:…` that the content must have.
    pub checksum: Option<String>,
    /// The name it gets.
    pub filename: String,
    /// Permission bits; `None` is 0600.
    pub mode: Option<u32>,
    /// Owner; `None` is 0.
    pub uid: Option<u32>,
    /// Group; `None` is 0.
    pub gid: Option<u32>,
}

/// A checkout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Git {
    /// As git understands it.
    pub remote: String,
    /// Branch, tag or commit; empty is the remote's HEAD.
    pub reference: String,
    /// Only this folder of it.
    pub subdir: String,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// Do not check out submodules.
    pub skip_submodules: bool,
    /// The commit (or its prefix) that must be found.
    pub checksum: Option<String>,
    /// Secret of the session with a token (`GIT_AUTH_TOKEN`), optional there.
    pub auth_token_secret: String,
    /// Secret with an authorization header (`GIT_AUTH_HEADER`), optional there.
    pub auth_header_secret: String,
    /// ssh agent of the session to use, for ssh remotes.
    pub ssh: Option<String>,
}

/// A process whose changes to `base` are a layer.
///
/// The executor gives it: `/proc`, `/sys`, `/dev` as a container has them, `/etc/resolv.conf`, `/etc/hosts` (with
/// `extra_hosts`), `/etc/hostname`; none of these mounts shows in the layer, and mount points that were made for them or
/// for `mounts` are removed again. A non-zero exit fails the build with
/// `process "/bin/sh -c make" did not complete successfully: exit code: 2` (arguments joined by spaces).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Exec {
    /// The root file system; written to.
    pub base: Option<Slot>,
    /// Program and arguments; shells are written out (`/bin/sh -c …`). The program is searched in `PATH` of `env`.
    pub args: Vec<String>,
    /// `KEY=value`, in order; the whole of the environment but for `proxy`, secrets and `HOME` (from the user, when
    /// not set).
    pub env: Vec<String>,
    /// Absolute; made when it is not there.
    pub cwd: String,
    /// `user[:group]` by name or number, as in a container's configuration; empty is root.
    pub user: String,
    /// Empty: `buildkitsandbox`.
    pub hostname: String,
    /// Name and address, for `/etc/hosts`.
    pub extra_hosts: Vec<(String, String)>,
    /// Size of `/dev/shm` in bytes; 0 is the default.
    pub shm_size: u64,
    /// Limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Where its control group goes; empty is the engine's place.
    pub cgroup_parent: String,
    /// Which network it has.
    pub network: Network,
    /// Which rights it has.
    pub security: Security,
    /// In the order to be mounted.
    pub mounts: Vec<Mount>,
    /// A folder, empty at the beginning, whose content is the step's result in place of what has changed in `base`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Secrets put into the environment.
    pub secret_env: Vec<SecretEnv>,
    /// Proxies of the environment (`http_proxy` and `HTTP_PROXY` ...): set, but not part of the key.
    #[serde(skip)]
    pub proxy: BTreeMap<String, String>,
}

/// Limit of a process (`--ulimit`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ulimit {
    /// `nofile`
    pub name: String,
    /// Soft limit; -1 is none.
    pub soft: i64,
    /// Hard limit; -1 is none.
    pub hard: i64,
}

/// Which network a step has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// As `docker build` gives it: a bridge with NAT.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The engine's own. Needs the entitlement `network.host`.
    Host,
}

/// Which rights a step has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// As a container's.
    #[default]
    Sandbox,
    /// As `--privileged`. Needs the entitlement `security.insecure`.
    Insecure,
}

/// Something mounted for a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mount {
    /// Where: absolute, clean.
    pub target: String,
    /// What.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum MountKind {
    /// A tree, or a file or folder of it. Where `writable`, what is written is thrown away after the step.
    Bind {
        /// `None`: an empty tree.
        from: Option<Slot>,
        /// Path in it, resolved inside it; must be there. `/` is all of it.
        source: String,
        /// Writes go to a layer that is thrown away.
        writable: bool,
    },
    /// A folder that stays from build to build.
    Cache {
        /// Which one.
        id: String,
        /// What a new one starts with; `None` is an empty folder.
        from: Option<Slot>,
        /// Path in `from` that is mounted.
        source: String,
        /// What happens when two steps want it at once.
        sharing: Sharing,
        /// Whose a new one is, where that is said; else what it starts with says so.
        access: Option<Access>,
        /// Mounted without write access.
        read_only: bool,
    },
    /// Memory.
    Tmpfs {
        /// Bytes; 0 is without limit.
        size: u64,
        /// Mounted without write access.
        read_only: bool,
    },
    /// A file with a secret of the session.
    Secret {
        /// Which one.
        id: String,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Fail where the session has none (`secret x: not found`); otherwise nothing is mounted.
        required: bool,
    },
    /// The socket of an ssh agent of the session. `SSH_AUTH_SOCK` is set to the first one's `target`.
    Ssh {
        /// Which agent; empty is `default`.
        id: String,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Fail where the session has none; otherwise nothing is mounted.
        required: bool,
    },
    /// A folder with one program in it (`RUN <<EOF` with `#!`), read-only.
    Inline {
        /// Name of the file.
        name: String,
        /// Its content.
        data: String,
        /// Its permission bits.
        mode: u32,
    },
}

/// A secret put into the environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SecretEnv {
    /// Which one.
    pub id: String,
    /// Name of the variable.
    pub env: String,
    /// Fail where the session has none; otherwise the variable is not set.
    pub required: bool,
}

/// What happens when two steps want the same cache folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Both write to it.
    #[default]
    Shared,
    /// The second gets another one.
    Private,
    /// The second waits.
    Locked,
}

/// Files put onto `base`, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Copy {
    /// What they are put onto. User and group names are looked up in it (`/etc/passwd`, `/etc/group`).
    pub base: Option<Slot>,
    /// One for each source.
    pub steps: Vec<CopyStep>,
}

/// One source of a `COPY` or `ADD`.
///
/// * `dest` is absolute and clean but for a `/` at its end, which says that it is a folder; so does a `dest` that is one.
///   Folders above it are made with mode 0755 and the step's `owner`. Links in it are followed inside the root.
/// * A source that is a folder gives its content, a file itself. Modes, xattrs and links are kept. The owner is `owner`;
///   without one, files of a client are 0:0 and files of another step keep theirs, but folders made on the way, and the
///   folder a source's content goes into, are 0:0. Times are kept (but see `time`).
/// * A folder onto a folder merges; anything else replaces what is there. (A file onto a folder goes into it; a folder
///   onto a file fails.)
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CopyStep {
    /// Where from.
    pub from: CopySource,
    /// Where to.
    pub dest: String,
    /// Follow links in the last component of the source path, inside its root.
    pub follow_links: bool,
    /// Of a folder take what is in it; without it the folder itself (checkouts have it set as well).
    pub contents_only: bool,
    /// The path may have wildcards (`*`, `?`, `[…]` as Go's `filepath.Match`), each match is a source.
    pub wildcard: bool,
    /// Wildcards that match nothing are no error.
    pub allow_empty: bool,
    /// Unpack an archive (tar, tar.gz, tar.bz2, tar.xz, tar.zst) into `dest`, recognised by its content; other files
    /// are copied.
    pub unpack: bool,
    /// Only what matches, relative to the source path; empty is everything (`--parents`).
    pub include: Vec<String>,
    /// Not what matches (`--exclude`), relative to the source path.
    pub exclude: Vec<String>,
    /// Paths in the source that must be there (`--parents` without wildcards).
    pub required: Vec<String>,
    /// Owner of what is made.
    pub owner: Option<Owner>,
    /// Mode of what is made.
    pub chmod: Option<Chmod>,
    /// Time of what is made, in seconds; otherwise the source's.
    pub time: Option<i64>,
}

/// Whose something is, and who may what with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Access {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Where a [`CopyStep`] takes its files from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "source", rename_all = "lowercase")]
pub enum CopySource {
    /// A path of an input; `None`: of an empty tree.
    Tree {
        /// Which input.
        from: Option<Slot>,
        /// Absolute, clean, resolved inside the input's root.
        path: String,
    },
    /// A file that stands in the Dockerfile (heredoc), mode 0644, owner 0:0.
    Inline {
        /// Its name.
        name: String,
        /// Its content.
        data: String,
    },
}

impl Default for CopySource {
    fn default() -> Self {
        CopySource::Tree { from: None, path: "/".into() }
    }
}

/// A user or group, by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Id {
    /// By number.
    Number(u32),
    /// By name, looked up in the tree that is written to.
    Name(String),
}

/// `--chown=user[:group]`. Without group: the user's own where it goes by name, and the user's number otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// `None`: 0 (`:group`).
    pub user: Option<Id>,
    /// See above.
    pub group: Option<Id>,
}

impl Owner {
    /// Reads `user[:group]`.
    pub fn parse(text: &str) -> Owner {
        let id = |part: &str| match (part, part.parse::<u32>()) {
            ("", _) => None,
            (_, Ok(number)) => Some(Id::Number(number)),
            (name, Err(_)) => Some(Id::Name(name.to_owned())),
        };
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        Owner { user: id(user), group: id(group) }
    }
}

/// `--chmod`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Chmod {
    /// Permission bits up to 0o7777, for files and folders alike.
    Bits(u32),
    /// As chmod(1) reads it: `u+x,go-w`, `a=rX`. Valid by [`crate::dockerfile`]'s check.
    Symbolic(String),
}
