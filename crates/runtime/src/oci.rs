//! Containers made by another OCI runtime (`docker run --runtime NAME`): crun, runc and what has their command line.
//!
//! The container is ours all the same: our group with its limits and device rules, our shim that holds it, its root
//! mounted in the shim's mount namespace. The runtime makes its first process and its execs from a bundle:
//!
//! ```text
//!   EXEC_ROOT/<id>/bundle/
//!     config.json      the specification, as far as it is the runtime's business
//!     staged/<n>       mounts that the specification has no words for: made by the shim, bound by the runtime
//!     state/           the runtime's own
//!     runtime.log      what it said last
//! ```

use crate::error::Error;
use crate::plan::{MountKind, MountPlan, OciPlan};
use crate::{Bundle, translate};
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, LinuxSeccomp, Mount, Process, Root, Spec};
use std::path::{Path, PathBuf};

/// The folder below the container's.
pub(crate) const BUNDLE: &str = "bundle";

/// Another program that makes containers, with the command line of runc (the OCI's runtime command line interface).
#[derive(Debug, Clone)]
pub struct OciRuntime {
    /// The program.
    pub program: PathBuf,
    /// What it is always told, before the command.
    pub args: Vec<String>,
    /// The container's profile: such a runtime compiles it itself.
    pub seccomp: Option<LinuxSeccomp>,
}

/// Writes the bundle into the container's folder, and says how the shim is to use it. `group` is the container's group
/// within `hierarchy`.
pub(crate) fn write_bundle(
    bundle: &Bundle,
    runtime: &OciRuntime,
    folder: &Path,
    group: &Path,
    hierarchy: &Path,
) -> Result<OciPlan, Error> {
    let place = folder.join(BUNDLE);
    let failed = |e: std::io::Error| Error::system("cannot write the container's bundle", e);
    std::fs::create_dir_all(place.join("state")).map_err(failed)?;
    std::fs::create_dir_all(place.join("staged")).map_err(failed)?;
    let below = group.strip_prefix(hierarchy).unwrap_or(group);
    let mut staged = Vec::new();
    let spec = specification(bundle, runtime, &folder.join("rootfs"), below, |mount| {
        let at = place.join("staged").join(staged.len().to_string());
        staged.push((mount, translate::text(&at)?));
        Ok(at)
    })?;
    let text = serde_json::to_vec(&spec).map_err(|e| Error::Invalid(format!("the container's spec: {e}")))?;
    std::fs::write(place.join("config.json"), text).map_err(failed)?;
    Ok(OciPlan {
        program: translate::text(&runtime.program)?,
        args: runtime.args.clone(),
        bundle: translate::text(&place)?,
        hierarchy: translate::text(hierarchy)?,
        group: format!("/sys/fs/cgroup/{}", translate::text(below)?),
        staged,
    })
}

/// The container's specification without what the engine and the shim do themselves.
fn specification(
    bundle: &Bundle,
    runtime: &OciRuntime,
    root: &Path,
    group: &Path,
    mut stage: impl FnMut(MountPlan) -> Result<PathBuf, Error>,
) -> Result<Spec, Error> {
    let mut spec = bundle.spec.clone();
    // Older ones refuse newer versions, and nothing of a newer one is used.
    spec.set_version("1.0.2".into());
    let read_only = spec.root().as_ref().and_then(Root::readonly).unwrap_or(false);
    let mut at = Root::default();
    at.set_path(root.to_owned()).set_readonly(Some(read_only));
    spec.set_root(Some(at));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in &mut mounts {
        take_over(mount, &mut stage)?;
    }
    spec.set_mounts(Some(mounts));
    let Some(mut linux) = spec.linux().clone() else {
        return Err(Error::Invalid("the spec has no linux part".into()));
    };
    let own_names =
        linux.namespaces().iter().flatten().any(|n| n.typ() == LinuxNamespaceType::Uts && n.path().is_none());
    if !own_names {
        spec.set_hostname(None).set_domainname(None);
    }
    linux.set_cgroups_path(Some(Path::new("/").join(group)));
    // Limits and device rules are in force already. But runc sets rules of its own, for what Docker's defaults allow,
    // unless it is told of others.
    let rules = linux.resources().as_ref().and_then(|r| r.devices().clone());
    let mut resources = LinuxResources::default();
    resources.set_devices(rules.filter(|rules| *rules != crate::spec::default_device_rules()));
    linux.set_resources(Some(resources));
    linux.set_seccomp(runtime.seccomp.clone());
    spec.set_linux(Some(linux));
    Ok(spec)
}

/// Leaves of a mount what any runtime knows.
fn take_over(
    mount: &mut Mount,
    stage: &mut impl FnMut(MountPlan) -> Result<PathBuf, Error>,
) -> Result<(), Error> {
    let plan = translate::mount(mount)?;
    let bind = matches!(plan.kind, MountKind::Bind { .. } | MountKind::BindOf { .. });
    let special = matches!(plan.kind, MountKind::BindOf { .. } | MountKind::Bind { beneath: Some(_), .. });
    if special {
        mount.set_source(Some(stage(plan)?));
    }
    if bind {
        let mut options = mount.options().clone().unwrap_or_default();
        options.retain(|o| {
            let name = o.split('=').next().unwrap_or_default();
            !translate::BIND_IGNORES.contains(&name)
                && !matches!(name, "subpath" | crate::spec::OF_NAMESPACE | crate::spec::OF_ENGINE)
        });
        mount.set_options(Some(options));
    }
    Ok(())
}

/// A process as such a runtime reads it.
pub(crate) fn process(process: &Process, tty: bool) -> Result<String, Error> {
    let mut process = process.clone();
    process.set_terminal(Some(tty));
    serde_json::to_string(&process).map_err(|e| Error::Invalid(format!("the process: {e}")))
}
