//! The user namespace of a container: one of its own, or that of the container whose other namespaces it shares.

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use super::running;
use crate::container::config::HostConfig;
use crate::container::mounts::{MountKind, MountPoint};
use crate::container::{Record, links};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::remap::{self, Remap};

/// Refuses what a container that is mapped cannot have.
pub fn check(engine: &Engine, host: &HostConfig) -> Result<()> {
    if engine.remap_for(host).is_none() {
        return Ok(());
    }
    remap::check(host, engine.config.runtime(&host.runtime)?.is_none())
}

/// A container's user namespace.
pub(super) struct Users {
    /// Its ids.
    pub remap: Remap,
    /// To be made, or joined.
    pub namespace: LinuxNamespace,
}

/// The user namespace of a container; `None`: the host's.
pub(super) fn users(engine: &Engine, record: &Record) -> Result<Option<Users>> {
    let Some(own) = engine.remap_for(&record.host) else { return Ok(None) };
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(LinuxNamespaceType::User);
    let mut donors = Vec::new();
    for (mode, what) in [(&record.host.pid_mode, "PID"), (&record.host.ipc_mode, "IPC")] {
        if let Some(other) = mode.strip_prefix("container:") {
            let refusal = format!("cannot join {what} of a non running container");
            donors.push(format!("/proc/{}/ns/user", running(engine, other, &refusal)?));
        }
    }
    if let Some(net) = links::shared_netns(engine, record)? {
        donors.push(net.trim_end_matches("/net").to_owned() + "/user");
    }
    let Some(first) = donors.first() else { return Ok(Some(Users { remap: own.clone(), namespace })) };
    // What belongs to a user namespace can be shared only from within it.
    let which = |path: &str| {
        std::fs::read_link(path).map_err(|e| Error::internal(format!("the other container's {path}: {e}")))
    };
    let (theirs, ours) = (which(first)?, which("/proc/self/ns/user")?);
    for donor in &donors[1..] {
        if which(donor)? != theirs {
            return Err(Error::conflict(
                "containers whose namespaces are joined must share one user namespace when user namespaces are enabled",
            ));
        }
    }
    if theirs == ours {
        return Err(Error::conflict(
            "cannot join a container that runs in the host's user namespace when user namespaces are enabled: use --userns=host",
        ));
    }
    let map = |name: &str| {
        let path = first.replace("/ns/user", name);
        std::fs::read_to_string(&path).map_err(|e| Error::internal(format!("{path}: {e}")))
    };
    // It may have been started with another setting.
    let remap = Remap::of_process(&map("/uid_map")?, &map("/gid_map")?).unwrap_or_else(|| own.clone());
    namespace.set_path(Some(first.into()));
    Ok(Some(Users { remap, namespace }))
}

/// Whether a mount's files belong to containers: those of volumes, unless they are a folder of the host, or come from
/// another machine.
pub(super) fn is_the_containers(engine: &Engine, mount: &MountPoint) -> bool {
    let Some(name) = mount.volume.as_deref().filter(|_| mount.kind == MountKind::Volume) else {
        return false;
    };
    let Ok(volume) = engine.volumes.get(name) else { return true };
    let kind = volume.options.as_ref().and_then(|options| options.get("type"));
    kind.is_none_or(|kind| kind == "tmpfs")
}
