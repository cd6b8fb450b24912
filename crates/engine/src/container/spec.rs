//! From a container's record to what the runtime is told: an OCI runtime specification with Docker's defaults.

mod mapped;
mod resources;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::runtime::{
    Capability, Linux, LinuxCapabilities, LinuxNamespace, LinuxNamespaceType, Mount, PosixRlimit, Process,
    Root, Spec,
};
use serde_json::json;

use super::config::HostConfig;
use super::mounts::{MountKind, MountPoint};
use super::security::{self, Security};
use super::user::{self, Identity};
use super::{Record, Status, links, log_options, names, validate};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::exec::ExecConfig;
use crate::remap::Remap;
use crate::rootfs::Held;
pub use mapped::check as check_mapped;
pub use resources::resources;

/// Places where the engine's own socket is expected by tools that look into it.
const DOCKER_SOCKETS: &[&str] = &["/var/run/docker.sock", "/run/docker.sock"];

/// Everything the runtime needs for a run; `trees` are the images that it mounts ([`super::images::hold`]).
pub async fn bundle(
    engine: &Arc<Engine>,
    record: &Record,
    rootfs: image::RootFs,
    trees: Option<&Held>,
) -> Result<runtime::Bundle> {
    validate::device_drivers(&record.host)?;
    names::write_names(engine, record).await?;
    let groups = record.host.group_add.clone().unwrap_or_default();
    let who = identity(engine, &rootfs, &record.config.user, &groups).await?;
    for mount in &record.mounts {
        make_source(engine, mount).await?;
    }
    let spec = spec(engine, record, &who, trees)?;
    let folder = engine.paths.container(&record.id);
    Ok(runtime::Bundle {
        id: record.id.clone(),
        seccomp: security::program(engine, &record.host, &bounding(record)?)?,
        oci: oci_runtime(engine, record)?,
        spec,
        rootfs: runtime::RootFs::Overlay { lower: rootfs.lower, upper: rootfs.upper, work: rootfs.work },
        stdio: runtime::Stdio {
            tty: record.config.tty,
            open_stdin: record.config.open_stdin,
            stdin_once: record.config.stdin_once,
            console_size: match record.host.console_size {
                (0, _) | (_, 0) => None,
                (rows, columns) => Some((rows as u16, columns as u16)),
            },
        },
        log: log_options::place(record, log_path(engine, record))?,
        exit_file: folder.join("exit.json"),
        cgroup_parent: Some(record.host.cgroup_parent.clone()).filter(|p| !p.is_empty()),
    })
}

/// Where a container's log is.
pub fn log_path(engine: &Engine, record: &Record) -> PathBuf {
    engine.paths.container(&record.id).join(format!("{}-json.log", record.id))
}

/// Who a process runs as; the image is looked into only when a name or a home must be found.
async fn identity(
    engine: &Engine,
    rootfs: &image::RootFs,
    user: &str,
    groups: &[String],
) -> Result<Identity> {
    if matches!(user, "" | "0" | "root" | "0:0" | "root:root") && groups.is_empty() {
        return Ok(Identity { uid: 0, gid: 0, groups: Vec::new(), home: "/root".into() });
    }
    let (user, groups) = (user.to_owned(), groups.to_vec());
    let scratch = engine.paths.exec_root.join("rootfs");
    crate::rootfs::merged(rootfs.clone(), scratch, move |root| user::resolve(root, &user, &groups)).await
}

/// Whether a bind's source is there, or will be made, and is within reach: asked when a container is made.
pub async fn check_source(engine: &Engine, mount: &MountPoint) -> Result<()> {
    if mount.kind != MountKind::Bind || is_own_socket(engine, mount) {
        return Ok(());
    }
    let here = engine.host_paths.here(&mount.source)?;
    if mount.create_source || tokio::fs::symlink_metadata(&here).await.is_ok() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid mount config for type \"bind\": bind source path does not exist: {}",
        mount.source.display()
    )))
}

/// `-v /missing:/x` makes the folder, as dockerd does; anything else that is missing is an error.
async fn make_source(engine: &Engine, mount: &MountPoint) -> Result<()> {
    if mount.kind != MountKind::Bind || is_own_socket(engine, mount) {
        return Ok(());
    }
    let here = engine.host_paths.here(&mount.source)?;
    match tokio::fs::symlink_metadata(&here).await {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && mount.create_source => {
            tokio::fs::create_dir_all(&here).await.map_err(|e| {
                Error::internal(format!(
                    "error while creating mount source path '{}': {e}",
                    mount.source.display()
                ))
            })
        }
        Err(e) => Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}: {e}",
            mount.source.display()
        ))),
    }
}

fn is_own_socket(engine: &Engine, mount: &MountPoint) -> bool {
    mount.source == engine.paths.socket
        || mount.source.to_str().is_some_and(|s| DOCKER_SOCKETS.contains(&s) && !mount.source.exists())
        || mount.source.to_str().is_some_and(|s| DOCKER_SOCKETS.contains(&s))
}

fn spec(engine: &Engine, record: &Record, who: &Identity, trees: Option<&Held>) -> Result<Spec> {
    let (config, host) = (&record.config, &record.host);
    // The setting may be newer than the container.
    check_mapped(engine, host)?;
    let users = mapped::users(engine, record)?;
    let mut spec = Spec::default();
    spec.set_version("1.2.0".into());
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(host.readonly_rootfs));
    spec.set_root(Some(root));
    // The host's names are not a container's to set.
    let names_are_the_hosts = host.uts_mode == "host";
    spec.set_hostname(Some(config.hostname.clone()).filter(|_| !names_are_the_hosts));
    if !names_are_the_hosts && !config.domainname.is_empty() {
        spec.set_domainname(Some(config.domainname.clone()));
    }
    spec.set_process(Some(process(engine, record, who)?));
    spec.set_mounts(Some(mounts(engine, record, users.is_some(), trees)?));
    spec.set_annotations(
        (!host.annotations.is_empty()).then(|| host.annotations.clone().into_iter().collect()),
    );

    let mut linux = Linux::default();
    linux.set_cgroups_path(None);
    let mut namespaces = namespaces(engine, record)?;
    if let Some(users) = users {
        linux.set_uid_mappings(Some(Remap::mappings(&users.remap.uids)?));
        linux.set_gid_mappings(Some(Remap::mappings(&users.remap.gids)?));
        namespaces.push(users.namespace);
    }
    linux.set_namespaces(Some(namespaces));
    linux.set_resources(Some(resources(record)?));
    linux.set_devices(Some(resources::devices(record)?));
    let sysctls = sysctls(host, linux.uid_mappings().is_some());
    linux.set_sysctl((!sysctls.is_empty()).then_some(sysctls));
    let strings = |list: &[&str]| Some(list.iter().map(|s| (*s).to_owned()).collect());
    if host.privileged {
        linux.set_masked_paths(None).set_readonly_paths(None);
    } else {
        linux.set_masked_paths(host.masked_paths.clone().or_else(|| strings(&runtime::spec::MASKED_PATHS)));
        linux.set_readonly_paths(
            host.readonly_paths.clone().or_else(|| strings(&runtime::spec::READONLY_PATHS)),
        );
    }
    // The program is compiled apart and cached: `security::program`.
    linux.set_seccomp(None);
    spec.set_linux(Some(linux));
    Ok(spec)
}

/// The kernel's settings for a container: in a network of its own, low ports and `ping` need no capability, as with
/// dockerd; then what was asked.
fn sysctls(host: &HostConfig, mapped: bool) -> HashMap<String, String> {
    let mut all = HashMap::new();
    if host.network_mode != "host" && !links::shares_network(host) {
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        // The kernel takes only groups that the namespace maps.
        if !mapped {
            all.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
        }
    }
    all.extend(host.sysctls.clone());
    all
}

fn process(engine: &Engine, record: &Record, who: &Identity) -> Result<Process> {
    let (config, host) = (&record.config, &record.host);
    let mut process = Process::default();
    let mut args = Vec::new();
    if host.init == Some(true) {
        args.extend([runtime::shim::INIT_PATH.to_owned(), "--".to_owned()]);
    }
    args.push(record.path.clone());
    args.extend(record.args.iter().cloned());
    process.set_args(Some(args));
    let told: Vec<String> =
        links::linked(engine, record)?.iter().flat_map(|l| l.environment(&record.name)).collect();
    process.set_env(Some(environment(&config.env, &told, &config.hostname, who, config.tty)));
    process.set_cwd(if config.working_dir.is_empty() {
        "/".into()
    } else {
        config.working_dir.clone().into()
    });
    process.set_terminal(Some(config.tty));
    set_user(&mut process, who)?;
    process.set_capabilities(Some(capabilities(host.privileged, &host.cap_add, &host.cap_drop, who.uid)?));
    process.set_no_new_privileges(Some(Security::of(&record.host)?.no_new_privileges));
    process.set_oom_score_adj(Some(host.oom_score_adj));
    let limits: Vec<PosixRlimit> = host.ulimits.iter().map(rlimit).collect::<Result<_>>()?;
    process.set_rlimits(Some(limits));
    Ok(process)
}

fn set_user(process: &mut Process, who: &Identity) -> Result<()> {
    // The primary group is among the additional ones too: without it a setgid program could drop it
    // (CVE-2022-36109).
    let mut groups = vec![who.gid];
    groups.extend(who.groups.iter().filter(|g| **g != who.gid));
    let user = json!({ "uid": who.uid, "gid": who.gid, "additionalGids": groups });
    process.set_user(serde_json::from_value(user).map_err(|e| Error::internal(e.to_string()))?);
    Ok(())
}

fn rlimit(u: &super::config::Ulimit) -> Result<PosixRlimit> {
    let name = format!("RLIMIT_{}", u.name.to_ascii_uppercase());
    serde_json::from_value(json!({ "type": name, "hard": u.hard as u64, "soft": u.soft as u64 }))
        .map_err(|_| Error::invalid(format!("invalid ulimit type: {}", u.name)))
}

/// Where programs are looked for unless the container says otherwise.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The process's environment: what was asked, and what a shell expects.
fn environment(asked: &[String], told: &[String], hostname: &str, who: &Identity, tty: bool) -> Vec<String> {
    let mut env = Vec::with_capacity(asked.len() + 3);
    let has = |name: &str| asked.iter().any(|e| e.split('=').next() == Some(name));
    env.push(asked.iter().find(|e| e.starts_with("PATH=")).map_or(DEFAULT_PATH, String::as_str).to_owned());
    if !has("HOSTNAME") {
        env.push(format!("HOSTNAME={hostname}"));
    }
    if tty && !has("TERM") {
        env.push("TERM=xterm".into());
    }
    env.extend(told.iter().filter(|e| !has(e.split('=').next().unwrap_or_default())).cloned());
    // A name alone removes the variable.
    env.extend(asked.iter().filter(|e| e.contains('=') && !e.starts_with("PATH=")).cloned());
    if !has("HOME") {
        env.push(format!("HOME={}", who.home));
    }
    env
}

/// Refuses capabilities that there are not.
pub fn check_capabilities(host: &HostConfig) -> Result<()> {
    capabilities(false, &host.cap_add, &host.cap_drop, 0).map(drop)
}

fn capabilities(
    privileged: bool,
    add: &Option<Vec<String>>,
    drop: &Option<Vec<String>>,
    uid: u32,
) -> Result<LinuxCapabilities> {
    let parse = |name: &String| -> Result<Capability> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        serde_json::from_value(json!(format!("CAP_{bare}")))
            .map_err(|_| Error::invalid(format!("invalid CapAdd: unknown capability: \"CAP_{bare}\"")))
    };
    let is_all = |name: &String| name.eq_ignore_ascii_case("all");
    let mut set: HashSet<Capability> = if privileged || add.iter().flatten().any(is_all) {
        runtime::spec::all_capabilities()
    } else if drop.iter().flatten().any(is_all) {
        HashSet::new()
    } else {
        runtime::spec::DEFAULT_CAPABILITIES.into_iter().collect()
    };
    if !privileged {
        let given = add.iter().flatten().filter(|n| !is_all(n)).map(parse).collect::<Result<Vec<_>>>()?;
        for name in drop.iter().flatten().filter(|n| !is_all(n)) {
            set.remove(&parse(name)?);
        }
        // What is both given and taken away is given, but for one that is taken from all of them.
        if !add.iter().flatten().any(is_all) {
            set.extend(given);
        }
    }
    let mut capabilities = LinuxCapabilities::default();
    // A user other than root starts without effective capabilities, as with dockerd.
    let own = if uid == 0 { set.clone() } else { HashSet::new() };
    capabilities
        .set_bounding(Some(set))
        .set_permitted(Some(own.clone()))
        .set_effective(Some(own))
        .set_inheritable(Some(HashSet::new()))
        .set_ambient(Some(HashSet::new()));
    Ok(capabilities)
}

/// The runtime that the container asked for, when it is not the engine's own.
fn oci_runtime(engine: &Engine, record: &Record) -> Result<Option<runtime::OciRuntime>> {
    let Some(found) = engine.config.runtime(&record.host.runtime)? else { return Ok(None) };
    let seccomp = security::profile(&record.host, &bounding(record)?)?;
    Ok(Some(runtime::OciRuntime { program: found.path.clone(), args: found.runtime_args.clone(), seccomp }))
}

/// The capabilities that decide which calls the profile allows: root's, whatever user the process starts as.
fn bounding(record: &Record) -> Result<Vec<Capability>> {
    let set = capabilities(false, &record.host.cap_add, &record.host.cap_drop, 0)?;
    let mut caps: Vec<Capability> = set.bounding().iter().flatten().copied().collect();
    caps.sort_by_key(|c| format!("{c:?}"));
    Ok(caps)
}

fn namespaces(engine: &Engine, record: &Record) -> Result<Vec<LinuxNamespace>> {
    let host = &record.host;
    let mut list = vec![LinuxNamespaceType::Mount];
    let wanted = [
        (LinuxNamespaceType::Pid, host.pid_mode != "host"),
        (LinuxNamespaceType::Ipc, host.ipc_mode != "host"),
        (LinuxNamespaceType::Uts, host.uts_mode != "host"),
        (LinuxNamespaceType::Network, !record.networks.contains_key("host")),
        (
            LinuxNamespaceType::Cgroup,
            host.cgroupns_mode != "host" && !host.privileged || host.cgroupns_mode == "private",
        ),
    ];
    list.extend(wanted.into_iter().filter(|(_, own)| *own).map(|(kind, _)| kind));
    list.into_iter()
        .map(|kind| {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind);
            if let (LinuxNamespaceType::Pid, Some(other)) = (kind, host.pid_mode.strip_prefix("container:")) {
                let pid = running(engine, other, "cannot join PID of a non running container")?;
                namespace.set_path(Some(format!("/proc/{pid}/ns/pid").into()));
            }
            if let (LinuxNamespaceType::Ipc, Some(other)) = (kind, host.ipc_mode.strip_prefix("container:")) {
                namespace.set_path(Some(format!("/proc/{}/ns/ipc", ipc_donor(engine, other)?).into()));
            }
            if kind == LinuxNamespaceType::Network {
                namespace.set_path(links::shared_netns(engine, record)?.map(PathBuf::from));
            }
            Ok(namespace)
        })
        .collect()
}

/// The first process of another container, which must run for something of it to be shared.
fn running(engine: &Engine, other: &str, refusal: &str) -> Result<u32> {
    let view = engine.containers.find(other)?.view();
    match view.status {
        Status::Running { container, .. } => Ok(container.pid()),
        Status::Restarting => Err(Error::conflict(format!(
            "container {other} is restarting, wait until the container is running"
        ))),
        _ => Err(Error::conflict(format!("{refusal}: {}", view.record.id))),
    }
}

/// The first process of the container whose IPC namespace is shared: one that lets others in.
fn ipc_donor(engine: &Engine, other: &str) -> Result<u32> {
    let mode = engine.containers.find(other)?.view().record.host.ipc_mode.clone();
    let pid = running(engine, other, "cannot join IPC of a non running container")?;
    if mode != "shareable" {
        return Err(Error::invalid(format!(
            "failed to join IPC namespace: container {other}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
        )));
    }
    Ok(pid)
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.into()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

fn mounts(engine: &Engine, record: &Record, mapped: bool, trees: Option<&Held>) -> Result<Vec<Mount>> {
    let host = &record.host;
    let own: BTreeMap<&std::path::Path, &MountPoint> =
        record.mounts.iter().map(|m| (m.destination.as_path(), m)).collect();
    let mut list = runtime::spec::default_mounts(u64::try_from(host.shm_size).unwrap_or_default());
    list.retain(|m| {
        let place = m.destination().as_path();
        let without_shm = host.ipc_mode == "none" && place == std::path::Path::new("/dev/shm");
        !own.contains_key(place) && !without_shm
    });
    if mapped {
        // The group is handed over: see the runtime.
        for m in list.iter_mut().filter(|m| m.typ().as_deref() == Some("cgroup")) {
            let options = m.options().clone().unwrap_or_default();
            m.set_options(Some(options.into_iter().filter(|o| o != "ro").collect()));
        }
    }
    if host.privileged {
        // sysfs and cgroup2 are writable for a privileged container.
        for m in &mut list {
            let options = m.options().clone().unwrap_or_default();
            m.set_options(Some(options.into_iter().filter(|o| o != "ro").collect()));
        }
    }
    let other = host.ipc_mode.strip_prefix("container:");
    for shm in list.iter_mut().filter(|m| m.destination() == std::path::Path::new("/dev/shm")) {
        if host.ipc_mode == "host" {
            *shm = mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rprivate"]);
        } else if let Some(other) = other {
            let namespace =
                format!("{}=/proc/{}/ns/mnt", runtime::spec::OF_NAMESPACE, ipc_donor(engine, other)?);
            *shm = mount("/dev/shm", "bind", "/dev/shm", &["nosuid", "noexec", "nodev", &namespace]);
        }
    }
    if host.init == Some(true) {
        // The shim's program is an init too, under that name; static, so that it runs in any image.
        let shim = engine.paths.shim.to_string_lossy();
        list.push(mount(runtime::shim::INIT_PATH, "bind", &shim, &["bind", "rprivate", "ro"]));
    }
    let folder = names::folder(engine, record);
    for name in ["resolv.conf", "hostname", "hosts"] {
        let place = format!("/etc/{name}");
        if !own.contains_key(std::path::Path::new(&place)) {
            let options = ["rbind", "rprivate", "idmap"];
            let options = if mapped { &options[..] } else { &options[..2] };
            list.push(mount(&place, "bind", &folder.join(name).to_string_lossy(), options));
        }
    }
    let mut images = trees.iter().flat_map(|held| held.places.iter());
    for m in &record.mounts {
        let place = m.destination.to_string_lossy();
        match m.kind {
            MountKind::Image => {
                let (Some(held), Some(image)) = (trees, images.next()) else {
                    return Err(Error::internal(format!("the image for {place} is not mounted")));
                };
                let namespace = format!("{}={}", runtime::spec::OF_ENGINE, held.namespace.display());
                list.push(mount(&place, "bind", &image.to_string_lossy(), &["bind", "ro", &namespace]));
            }
            MountKind::Tmpfs => {
                let mut options: Vec<&str> = vec!["noexec", "nosuid", "nodev", "rprivate"];
                for option in &m.tmpfs_options {
                    // `exec` takes `noexec` back, and so on.
                    options.retain(|o| o.strip_prefix("no") != Some(option.as_str()));
                    options.push(option);
                }
                if !m.rw {
                    options.push("ro");
                }
                list.push(mount(&place, "tmpfs", "tmpfs", &options));
            }
            MountKind::Bind | MountKind::Volume => {
                let source = source(engine, m);
                let propagation = if m.propagation.is_empty() { "rprivate" } else { &m.propagation };
                let mut options = vec![if m.recursive { "rbind" } else { "bind" }, propagation];
                if !m.rw {
                    options.push(if m.recursive { "rro" } else { "ro" });
                }
                if mapped && mapped::is_the_containers(engine, m) {
                    options.push("idmap");
                }
                let part = format!("subpath={}", m.subpath);
                if !m.subpath.is_empty() {
                    options.push(&part);
                }
                list.push(mount(&place, "bind", &source.to_string_lossy(), &options));
            }
        }
    }
    Ok(list)
}

/// Where the files of a bind or volume are on the host.
pub fn source(engine: &Engine, mount: &MountPoint) -> PathBuf {
    match &mount.volume {
        Some(name) => engine.volumes.data(name),
        None if is_own_socket(engine, mount) => engine.paths.socket.clone(),
        // What is not shared was refused when the container was made.
        None => engine.host_paths.here(&mount.source).unwrap_or_else(|_| mount.source.clone()),
    }
}

/// What `docker exec` runs: like the container's own process, but for what it says itself.
pub async fn exec_process(
    engine: &Engine,
    record: &Record,
    container: &runtime::Container,
    exec: &ExecConfig,
) -> Result<Process> {
    let user = if exec.user.is_empty() { record.config.user.clone() } else { exec.user.clone() };
    let groups =
        if exec.user.is_empty() { record.host.group_add.clone().unwrap_or_default() } else { Vec::new() };
    let root = PathBuf::from(format!("/proc/{}/root", container.pid()));
    let who = if matches!(user.as_str(), "" | "0" | "root") && groups.is_empty() {
        Identity { uid: 0, gid: 0, groups: Vec::new(), home: "/root".into() }
    } else {
        tokio::task::spawn_blocking(move || user::resolve(&root, &user, &groups))
            .await
            .map_err(|e| Error::internal(e.to_string()))??
    };
    let mut env = record.config.env.to_vec();
    for variable in &exec.env {
        let name = variable.split('=').next().unwrap_or_default();
        env.retain(|e| e.split('=').next() != Some(name));
        env.push(variable.clone());
    }
    let mut process = Process::default();
    process.set_args(Some(exec.cmd.clone()));
    // A container behind a link may be down by now: that is no reason to run nothing in this one.
    let linked = links::linked(engine, record).unwrap_or_default();
    let told: Vec<String> = linked.iter().flat_map(|l| l.environment(&record.name)).collect();
    process.set_env(Some(environment(&env, &told, &record.config.hostname, &who, exec.tty)));
    let cwd = if exec.working_dir.is_empty() { &record.config.working_dir } else { &exec.working_dir };
    process.set_cwd(if cwd.is_empty() { "/".into() } else { cwd.clone().into() });
    process.set_terminal(Some(exec.tty));
    set_user(&mut process, &who)?;
    let privileged = exec.privileged || record.host.privileged;
    let caps = capabilities(privileged, &record.host.cap_add, &record.host.cap_drop, who.uid)?;
    process.set_capabilities(Some(caps));
    process.set_no_new_privileges(Some(Security::of(&record.host)?.no_new_privileges));
    process.set_oom_score_adj(Some(record.host.oom_score_adj));
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_added_and_dropped_by_any_spelling() {
        let some = |l: &[&str]| Some(l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let bounding = |add, drop| capabilities(false, &add, &drop, 0).unwrap().bounding().clone().unwrap();
        assert_eq!(bounding(None, None).len(), 14);
        assert!(bounding(some(&["net_admin"]), None).contains(&Capability::NetAdmin));
        assert_eq!(bounding(None, some(&["ALL"])).len(), 0);
        assert_eq!(bounding(some(&["CAP_CHOWN"]), some(&["all"])), HashSet::from([Capability::Chown]));
        assert!(capabilities(false, &some(&["NOPE"]), &None, 0).is_err());
        assert!(capabilities(false, &None, &None, 1000).unwrap().effective().clone().unwrap().is_empty());
    }

    #[test]
    fn the_environment_has_what_a_shell_expects() {
        let who = Identity { uid: 0, gid: 0, groups: vec![], home: "/root".into() };
        let env = environment(
            &["PATH=/bin".into(), "A=b".into(), "GONE".into()],
            &["A=link".into(), "DB_PORT=tcp://x".into()],
            "box",
            &who,
            true,
        );
        assert_eq!(env, ["PATH=/bin", "HOSTNAME=box", "TERM=xterm", "DB_PORT=tcp://x", "A=b", "HOME=/root"]);
    }
}
