//! One container's process, from the OCI spec to its exit: namespaces, control groups, seccomp, stdio, exec, logs.
//!
//! [`Runtime`] is the engine's side. For each container it starts a `coracle-shim` (module `shim`, a small program without
//! threads), which makes the container and holds it; the engine may die and come back ([`Runtime::reconnect`]).
//!
//! ```text
//!   EXEC_ROOT/<id>/            (a folder that need not survive a reboot)
//!     shim.sock                the shim's socket; protocol in `protocol`
//!     shim.log                 what a shim had to say before it died; empty
//!     state.json               what a later engine must know: shim's pid, exit file
//!     seccomp.bpf              the compiled filter, for execs
//!     bundle/                  where another OCI runtime makes the container: see `oci`
//!     rootfs/                  where the root is mounted, in the container's namespace only: on the host it is empty
//!   <unified hierarchy>/<parent>/<id>/     the container's group
//!   <exit file>                {"exit_code":0,"finished_at":"...","oom_killed":false}
//! ```
//! ```text
//!   create --> Created --start--> Running --exit--> Exited --delete--> gone
//!     |           '-------delete, or the engine's death------------------^
//!     '-- error: everything undone
//! ```
//! The runtime is our own, unless a container asks for another OCI one: libcontainer costs eight times the memory per container and runs execs without the
//! container's seccomp filter. The shim carries no OCI types: the engine's side translates the spec into a plan.

mod cgroup;
mod container;
mod error;
pub mod logs;
mod oci;
mod plan;
mod protocol;
pub mod seccomp;
pub mod shim;
pub mod spec;
mod sys;
mod timestamp;
mod translate;

pub use cgroup::{Controllers, IoStat, MEMORY_KEYS, MemoryKills, Meter, Stats};
pub use container::{
    AttachWant, Attachment, Bundle, Config, Container, Exec, ExecSpec, Exit, LogConfig, Reconnected, RootFs,
    Runtime, Stdio,
};
pub use error::{Code, Error};
pub use oci::OciRuntime;
pub use sys::one_heap_a_processor;
