//! What the shim is told to make: a container with every decision already taken.
//!
//! The engine's side turns the OCI spec into a [`Plan`] (see `translate`), so that the shim needs no JSON, no OCI
//! types and no defaults, and so that a wrong spec is refused before anything exists. A plan is only ever read by
//! the shim that was started with it (same build), encoded with postcard.

use serde::{Deserialize, Serialize};

/// One container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The container's id, for messages only.
    pub id: String,
    /// The container's group, an absolute path in the unified hierarchy.
    pub cgroup: String,
    /// What becomes `/`.
    pub root: RootPlan,
    /// The folder that relative paths of this plan mean.
    pub stage: Option<String>,
    /// An existing, empty folder on which the root is mounted in the container's mount namespace.
    pub mountpoint: String,
    /// Mount `/` read-only once everything else is in place.
    pub root_readonly: bool,
    /// `MS_*` propagation of the new mount namespace.
    pub propagation: u64,
    /// Mounts in the order of the spec.
    pub mounts: Vec<MountPlan>,
    /// Device nodes in `/dev`.
    pub devices: Vec<DevicePlan>,
    /// Namespaces to make (`CLONE_NEW*` flags).
    pub new_namespaces: u64,
    /// Namespaces to join: flag and path.
    pub join_namespaces: Vec<(u64, String)>,
    /// User namespace mappings: inside, outside, count. Files on disk have the ids inside: see `shim::mapped`.
    pub uid_map: Vec<(u32, u32, u32)>,
    /// As `uid_map`, for groups.
    pub gid_map: Vec<(u32, u32, u32)>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    /// Key with dots, value.
    pub sysctl: Vec<(String, String)>,
    pub masked: Vec<String>,
    pub readonly: Vec<String>,
    /// The container's first process.
    pub process: ProcessPlan,
    pub stdin: StdinPlan,
    pub log: Option<LogPlan>,
    /// Where the exit is recorded.
    pub exit_file: String,
    /// Another runtime makes the processes.
    pub oci: Option<OciPlan>,
}

/// How another OCI runtime makes the container's processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OciPlan {
    /// The program.
    pub program: String,
    /// What it is always told, before the command.
    pub args: Vec<String>,
    /// The folder with `config.json`, and everything else of this: see [`crate::oci`].
    pub bundle: String,
    /// The unified hierarchy.
    pub hierarchy: String,
    /// The container's group where such runtimes look for it.
    pub group: String,
    /// Mounts for the shim to make, and where: from there the runtime binds them.
    pub staged: Vec<(MountPlan, String)>,
}

/// Where `/` comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum RootPlan {
    /// An overlay: lower folders from the top down.
    Overlay { lower: Vec<String>, upper: String, work: String },
    /// A folder, bound recursively.
    Dir(String),
}

/// One mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MountPlan {
    pub target: String,
    pub kind: MountKind,
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear (binds only).
    pub clear: u64,
    /// `MOUNT_ATTR_*` to set on the whole tree (`rro` and its kin).
    pub set_recursive: u64,
    /// `MS_PRIVATE` and so on, with `MS_REC` where the tree is meant; 0 = private.
    pub propagation: u64,
    /// Copy what the image has at the target into a new tmpfs.
    pub copy_up: bool,
    /// The source's files belong to the container: their ids on disk are those inside (binds only).
    pub mapped: bool,
}

/// What is mounted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum MountKind {
    /// `beneath`: a part of the source, looked up within it.
    Bind {
        source: String,
        beneath: Option<String>,
        recursive: bool,
    },
    /// A file system that another container has: the path of its mount namespace, and the place in it.
    BindOf {
        namespace: String,
        path: String,
        /// The namespace is the engine's own: a file or folder of any file system.
        engine: bool,
    },
    Filesystem {
        kind: String,
        source: String,
        options: Vec<(String, Option<String>)>,
    },
}

/// One device node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DevicePlan {
    pub path: String,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub kind: u32,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// A node that is there already, to be bound.
    pub staged: Option<String>,
}

/// One process, the container's first or an exec.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ProcessPlan {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: Option<u32>,
    pub capabilities: CapabilityPlan,
    pub no_new_privileges: bool,
    /// `RLIMIT_*`, soft, hard.
    pub rlimits: Vec<(u32, u64, u64)>,
    pub oom_score_adj: Option<i32>,
    /// The file with the compiled seccomp program (a `struct sock_filter` array): only the process itself reads it,
    /// so that it costs the shim nothing.
    pub seccomp: Option<String>,
    pub tty: bool,
    /// Rows, columns.
    pub console_size: Option<(u16, u16)>,
    /// Which pipes exist (without a tty).
    pub stdout: bool,
    pub stderr: bool,
}

/// The five sets, bit n = capability n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CapabilityPlan {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// What becomes of the process's stdin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StdinPlan {
    /// `/dev/null` (a tty still takes input from attached clients).
    Null,
    /// Kept open across clients.
    Open,
    /// Closed when the first client that writes to it goes.
    Once,
}

/// A json-file log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LogPlan {
    pub path: String,
    /// Bytes at which the file is rotated; `None` = never.
    pub max_size: Option<u64>,
    /// How many files are kept, the current one included; at least 1.
    pub max_file: u32,
    /// Whether the engine compresses what is put aside.
    pub compress: bool,
}
