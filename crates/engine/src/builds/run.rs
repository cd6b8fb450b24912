//! A step's program: a container of its own, with nothing that outlives the step.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use build::Error;
use build::graph::{Network, Security};
use build::worker::{Ended, Run, RunSource};
use oci_spec::runtime::{Mount, Process};
use tokio::io::AsyncReadExt;

use super::PREFIX;
use super::worker::{Draft, EngineWorker};
use crate::container::config::{Config, EndpointSettings, HostConfig, Ulimit};
use crate::container::{Record, links, names, spec, user};
use crate::engine::Engine;
use crate::error::{Error as EngineError, Result as EngineResult};
use crate::networks::{self, Member};
use crate::rootfs::{self, Layers};

/// Host name of a step that has none of its own: BuildKit's.
const HOSTNAME: &str = "buildkitsandbox";
/// Where programs are looked for.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes before each piece of output: the stream, three of nothing, the length.
const FRAME: usize = 8;
/// Largest piece of output that is taken at once.
const PIECE: usize = 1 << 20;
/// Largest `/etc/passwd` or `/etc/group` that is read, in bytes.
const NAMES: u64 = 1 << 20;

/// Looks at a shim that does not answer, and the pause between two.
const LEAVING: (u32, Duration) = (20, Duration::from_millis(100));

/// Ends what an engine that died left running, and removes what it left.
pub(super) async fn end_leftovers(engine: &Engine) {
    let places = [engine.paths.exec_root.join("containers"), engine.paths.root.join("containers")];
    let names: std::collections::BTreeSet<String> = places
        .iter()
        .filter_map(|place| std::fs::read_dir(place).ok())
        .flat_map(|entries| entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.starts_with(PREFIX))
        .collect();
    for name in names {
        let mut found = engine.runtime.reconnect(&name).await;
        // A shim that is on its way out answers nobody any more.
        for _ in 0..LEAVING.0 {
            if found.is_ok() {
                break;
            }
            tokio::time::sleep(LEAVING.1).await;
            found = engine.runtime.reconnect(&name).await;
        }
        match found {
            Ok(runtime::Reconnected::Running(container)) => {
                if let Err(e) = container.delete().await {
                    tracing::warn!("a step of an earlier engine: {e}");
                }
            }
            Ok(_) => {}
            Err(e) => tracing::warn!("a step of an earlier engine: {e}"),
        }
        if let Err(e) = std::fs::remove_dir_all(engine.paths.container(&name))
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("a step of an earlier engine: {e}");
        }
    }
}

/// A step's container and what it has. Dropped, all of it ends, in a task of its own.
struct Running {
    engine: Arc<Engine>,
    id: String,
    container: Option<runtime::Container>,
    member: Option<Member>,
    /// Its name server, in a network that has names.
    names: Option<network::dns::Server>,
    /// The layer stays until nobody writes to it.
    draft: Option<Arc<image::NewBuilt>>,
}

impl Running {
    async fn end(&mut self) {
        self.names = None;
        if let Some(member) = self.member.take() {
            self.engine.networks.leave(&self.id, &member);
        }
        if let Some(container) = self.container.take()
            && let Err(e) = container.delete().await
        {
            tracing::warn!("step {}: what its run used was not all released: {e}", self.id);
        }
        let _ = tokio::fs::remove_dir_all(self.engine.paths.container(&self.id)).await;
        self.draft = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.container.is_none() && self.member.is_none() && self.draft.is_none() {
            return;
        }
        let mut rest = Running {
            engine: self.engine.clone(),
            id: self.id.clone(),
            container: self.container.take(),
            member: self.member.take(),
            names: self.names.take(),
            draft: self.draft.take(),
        };
        tokio::spawn(async move { rest.end().await });
    }
}

fn of_runtime(e: runtime::Error) -> Error {
    EngineError::internal(e.to_string()).into()
}

pub(super) async fn run(worker: &EngineWorker, run: Run<'_>, draft: &Draft) -> Result<Ended, Error> {
    let engine = worker.engine()?;
    let id = format!("{PREFIX}{}", &crate::names::random_id()[..32]);
    let rootfs = draft.new.rootfs(&draft.stack, true);
    let (mounts, _held) = mounts(worker, &run).await?;
    let record = record(&engine, &run, &id)?;
    // Before its folder is made: that goes with it, however far the step comes.
    let mut running = Running {
        engine: engine.clone(),
        id: id.clone(),
        container: None,
        member: None,
        names: None,
        draft: Some(draft.new.clone()),
    };
    let bundle = bundle(&engine, &run, &record, rootfs.clone(), mounts).await?;
    let container = engine.runtime.create(bundle).await.map_err(of_runtime)?;
    running.container = Some(container.clone());
    if run.exec.network != Network::Host && !links::shares_network(&record.host) {
        connect(&mut running, &record, &container.netns()).await?;
    }
    let want = runtime::AttachWant { stdout: true, stderr: true, ..Default::default() };
    let attached = container.attach(want).await.map_err(of_runtime)?;
    if let Err(e) = container.start().await {
        // A program that is not there is the Dockerfile's fault, and told as a failed step.
        running.end().await;
        let words = format!("failed to create task for container: {e}");
        return Err(Error::invalid(words).with_kind(build::error::Kind::Unknown));
    }
    let told = tell(attached.reader, &run.output).await;
    let exit = container.wait().await.map_err(of_runtime)?;
    drop(container);
    running.end().await;
    told.map_err(EngineError::from)?;
    let (targets, upper, lower) = (targets(&run), rootfs.upper, draft.stack.lower.clone());
    tokio::task::spawn_blocking(move || remove_places(&targets, &upper, &lower))
        .await
        .map_err(|e| EngineError::internal(e.to_string()))?;
    Ok(Ended { code: exit.code, out_of_memory: exit.oom_killed })
}

/// Gives the step a network of its own: loopback, and the one it is to be in.
async fn connect(running: &mut Running, record: &Record, netns: &Path) -> EngineResult<()> {
    let engine = running.engine.clone();
    network::loopback_up(netns).await?;
    for (name, settings) in record.networks.iter().filter(|(name, _)| *name != "none") {
        let network = engine.networks.find(name)?;
        let member = engine.networks.join(&network, (&record.id, &record.name), settings).await;
        let member = running.member.insert(member.map_err(|e| e.context(networks::CONTEXT))?);
        let routes = member.ways_out();
        engine.networks.plug(member, netns, "eth0", routes).await?;
        if !network.is_predefined() {
            running.names = Some(names::serve(&engine, record, netns).await?);
        }
    }
    Ok(())
}

/// The network of a step as a container's: the mode, and the network that it is in by its own name.
fn network_of(engine: &Engine, run: &Run<'_>) -> EngineResult<(String, Option<String>)> {
    let of_its_own = |name: &str| (name.to_owned(), Some(name.to_owned()));
    Ok(match (run.exec.network, run.network) {
        (Network::None, _) => of_its_own("none"),
        (Network::Host, _) => of_its_own("host"),
        (Network::Default, "") => of_its_own("bridge"),
        (Network::Default, name) if name.starts_with("container:") => (name.to_owned(), None),
        (Network::Default, name) => {
            let found = engine.networks.find(name).map_err(|e| e.context(networks::CONTEXT))?;
            of_its_own(&found.name)
        }
    })
}

/// Passes output on until it ends.
async fn tell(
    mut from: impl tokio::io::AsyncRead + Unpin,
    to: &build::worker::Output,
) -> std::io::Result<()> {
    let mut head = [0; FRAME];
    loop {
        match from.read_exact(&mut head).await {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        }
        let mut left = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        while left > 0 {
            let mut piece = vec![0; left.min(PIECE)];
            from.read_exact(&mut piece).await?;
            left -= piece.len();
            // Nobody listens when the step is being given up.
            let _ = to.send((head[0], piece)).await;
        }
    }
}

/// Mounts of the step, and what keeps trees among them mounted.
async fn mounts(
    worker: &EngineWorker,
    run: &Run<'_>,
) -> Result<(Vec<Mount>, (Option<rootfs::Held>, Vec<image::Stack>, Vec<image::NewBuilt>)), Error> {
    let engine = worker.engine()?;
    let (mut parts, mut stacks, mut drafts) = (Vec::new(), Vec::new(), Vec::new());
    for mount in &run.mounts {
        let RunSource::Tree { tree, path } = &mount.source else { continue };
        let (lower, stack) = worker.layers(tree).await?;
        let upper = if mount.read_only {
            None
        } else {
            // What is written goes with the step.
            let base = match &stack {
                Some(_) => worker.stack(tree).await?,
                None => worker.stack(&build::worker::Tree::default()).await?,
            };
            let new = engine.images.new_built(&base).await.map_err(EngineError::from)?;
            let rootfs = new.rootfs(&base, false);
            drafts.push(new);
            Some((rootfs.upper, rootfs.work))
        };
        stacks.extend(stack);
        parts.push((Layers { lower, upper }, PathBuf::from(path)));
    }
    let held = match parts.is_empty() {
        true => None,
        false => Some(rootfs::hold(parts, worker.scratch()?).await?),
    };
    let mut places = held.iter().flat_map(|h| h.places.iter());
    let mut list = Vec::new();
    for mount in &run.mounts {
        let access = if mount.read_only { "ro" } else { "rw" };
        list.push(match &mount.source {
            RunSource::Tree { .. } => {
                let place = places.next().map(|p| p.display().to_string()).unwrap_or_default();
                let namespace = held.as_ref().map(|h| h.namespace.display().to_string());
                let option = format!("{}={}", runtime::spec::OF_ENGINE, namespace.unwrap_or_default());
                one(&mount.target, "bind", &place, &["bind", access, &option])
            }
            RunSource::Path(path) => {
                one(&mount.target, "bind", &path.display().to_string(), &["rbind", "rprivate", access])
            }
            RunSource::Memory(size) => {
                let size = format!("size={size}");
                // Programs may be made and run there: BuildKit forbids no more than to gain rights.
                let mut options = vec!["nosuid", "mode=1777"];
                options.extend((size != "size=0").then_some(size.as_str()));
                options.extend(mount.read_only.then_some("ro"));
                one(&mount.target, "tmpfs", "tmpfs", &options)
            }
        });
    }
    Ok((list, (held, stacks, drafts)))
}

fn one(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(target.into())
        .set_typ(Some(kind.into()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

/// The step as a container's record: what the runtime is told comes the same way as for any container.
fn record(engine: &Engine, run: &Run<'_>, id: &str) -> EngineResult<Record> {
    let (mode, network) = network_of(engine, run)?;
    Ok(record_in(run, id, mode, network))
}

fn record_in(run: &Run<'_>, id: &str, network_mode: String, network: Option<String>) -> Record {
    let exec = run.exec;
    let hostname = if exec.hostname.is_empty() { HOSTNAME } else { &exec.hostname };
    let shm = if exec.shm_size == 0 { runtime::spec::DEFAULT_SHM_SIZE } else { exec.shm_size };
    let ulimit = |u: &build::graph::Ulimit| Ulimit { name: u.name.clone(), soft: u.soft, hard: u.hard };
    let limits = run.limits.clone();
    let mut host = HostConfig {
        memory: limits.memory,
        memory_swap: limits.memory_swap,
        cpu_shares: limits.cpu_shares,
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpuset_cpus: limits.cpus,
        cpuset_mems: limits.memory_nodes,
        network_mode,
        shm_size: i64::try_from(shm).unwrap_or(i64::MAX),
        cgroup_parent: exec.cgroup_parent.clone(),
        privileged: exec.security == Security::Insecure,
        // Trees of other stages could not be mapped into a step: overlays can't.
        userns_mode: "host".into(),
        ..HostConfig::default()
    };
    host.ulimits = exec.ulimits.iter().map(ulimit).collect::<Vec<_>>().into();
    host.log_config.r#type = "none".into();
    let config = Config {
        hostname: hostname.into(),
        user: exec.user.clone(),
        working_dir: exec.cwd.clone(),
        ..Config::default()
    };
    let mut args = exec.args.iter().cloned();
    Record {
        id: id.to_owned(),
        name: id.to_owned(),
        created: String::new(),
        image_id: String::new(),
        config,
        host,
        networks: network.map(|name| (name, EndpointSettings::default())).into_iter().collect(),
        links: Vec::new(),
        mounts: Vec::new(),
        path: args.next().unwrap_or_default(),
        args: args.collect(),
        last: Default::default(),
        restart_count: 0,
        stopped_by_user: false,
    }
}

async fn bundle(
    engine: &Arc<Engine>,
    run: &Run<'_>,
    record: &Record,
    rootfs: image::RootFs,
    mounts: Vec<Mount>,
) -> Result<runtime::Bundle, Error> {
    let lower = rootfs.lower.clone();
    let mut bundle = spec::bundle(engine, record, rootfs, None).await?;
    let own = engine.paths.container(&record.id);
    if !links::shares_network(&record.host) {
        let text = hosts(run, &record.config.hostname);
        tokio::fs::write(own.join("hosts"), text).await.map_err(EngineError::from)?;
    }
    let mut all: Vec<Mount> = bundle.spec.mounts().clone().unwrap_or_default();
    // As BuildKit has it: no file for the name, and those for names and addresses are not to be written.
    all.retain(|m| m.destination() != Path::new("/etc/hostname"));
    for mount in &mut all {
        if matches!(mount.destination().to_str(), Some("/etc/hosts" | "/etc/resolv.conf")) {
            let mut options = mount.options().clone().unwrap_or_default();
            options.push("ro".into());
            mount.set_options(Some(options));
        }
    }
    all.extend(mounts);
    bundle.spec.set_mounts(Some(all));
    let mut process: Process = bundle.spec.process().clone().unwrap_or_default();
    process.set_env(Some(environment(run, &lower).await?));
    bundle.spec.set_process(Some(process));
    Ok(bundle)
}

fn hosts(run: &Run<'_>, hostname: &str) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in &run.exec.extra_hosts {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text
}

/// The whole environment: the Dockerfile's, what the build adds, and a home.
async fn environment(run: &Run<'_>, lower: &[PathBuf]) -> EngineResult<Vec<String>> {
    let mut env: Vec<String> = run.exec.env.iter().chain(&run.env).cloned().collect();
    let has = |env: &[String], name: &str| env.iter().any(|e| e.split('=').next() == Some(name));
    if !has(&env, "PATH") {
        env.push(PATH.into());
    }
    if !has(&env, "HOME") {
        let (lower, who) = (lower.to_vec(), run.exec.user.clone());
        let home = tokio::task::spawn_blocking(move || -> EngineResult<String> {
            let text = |path: &str| first(&lower, path);
            let (users, groups) = (text("etc/passwd"), text("etc/group"));
            let uid = user::identity(&users, &groups, &who, &[])?.uid;
            // Of the number, as BuildKit's steps have it: of two users of one number, the first's.
            Ok(user::identity(&users, &groups, &uid.to_string(), &[])?.home)
        })
        .await
        .map_err(|e| EngineError::internal(e.to_string()))??;
        env.push(format!("HOME={home}"));
    }
    Ok(env)
}

/// A small file of the topmost layer that has it.
fn first(layers: &[PathBuf], path: &str) -> String {
    use std::io::Read;
    for layer in layers {
        if std::fs::symlink_metadata(layer.join(path)).is_err() {
            continue;
        }
        let Ok(Some(file)) = rootfs::open_inside(layer, Path::new(path)) else { return String::new() };
        let mut text = Vec::new();
        if file.metadata().is_ok_and(|m| m.is_file()) && file.take(NAMES).read_to_end(&mut text).is_ok() {
            return String::from_utf8_lossy(&text).into_owned();
        }
        return String::new();
    }
    String::new()
}

fn targets(run: &Run<'_>) -> Vec<String> {
    run.mounts.iter().map(|m| m.target.clone()).collect()
}

/// Removes what the runtime made for mounts to stand on, and the program left empty: no part of the layer.
///
/// The program may have put links where folders were: none is followed.
fn remove_places(targets: &[String], upper: &Path, lower: &[PathBuf]) {
    use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
    let open = |root: BorrowedFd<'_>, path: &Path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::openat(CWD, upper, flags, Mode::empty()) else { return };
    for target in targets {
        let mut path = PathBuf::from(target.trim_start_matches('/'));
        while let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
            let known = lower.iter().any(|l| std::fs::symlink_metadata(l.join(&path)).is_ok());
            let Ok(folder) = open(root.as_fd(), parent) else { break };
            let Ok(stat) = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else { break };
            let gone = match FileType::from_raw_mode(stat.st_mode) {
                _ if known => break,
                FileType::Directory => rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR),
                FileType::RegularFile if stat.st_size == 0 => {
                    rustix::fs::unlinkat(&folder, name, AtFlags::empty())
                }
                _ => break,
            };
            if gone.is_err() || !path.pop() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_may_use_what_its_build_says() {
        let (exec, base, limits) = (
            build::graph::Exec::default(),
            build::worker::Tree::default(),
            build::worker::Limits {
                memory: 64 << 20,
                memory_swap: 96 << 20,
                cpu_shares: 512,
                cpu_period: 50_000,
                cpu_quota: 25_000,
                cpus: "0".into(),
                memory_nodes: "0".into(),
            },
        );
        let told = |limits: &build::worker::Limits| {
            let run = Run {
                exec: &exec,
                limits,
                network: "",
                base: &base,
                mounts: Vec::new(),
                env: Vec::new(),
                output: tokio::sync::mpsc::channel(1).0,
                scratch: PathBuf::new(),
            };
            serde_json::to_value(spec::resources(&record_in(&run, "build-x", "none".into(), None)).unwrap())
                .unwrap()
        };
        let limited = told(&limits);
        assert_eq!(limited["memory"], serde_json::json!({ "limit": 64 << 20, "swap": 96 << 20 }));
        let cpu = serde_json::json!({
            "shares": 512, "period": 50_000, "quota": 25_000, "cpus": "0", "mems": "0",
        });
        assert_eq!(limited["cpu"], cpu);
        let free = told(&build::worker::Limits::default());
        assert_eq!((&free["memory"], &free["cpu"]), (&serde_json::json!({}), &serde_json::json!({})));
    }

    #[test]
    fn places_of_mounts_go_and_nothing_behind_a_link_does() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for folder in ["upper/a/b", "upper/kept/x", "upper/of-image/y", "lower/of-image", "outside/b"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        for file in ["upper/file", "outside/file", "upper/kept/text"] {
            std::fs::write(at(file), if file.ends_with("text") { "text" } else { "" }).unwrap();
        }
        std::os::unix::fs::symlink(at("outside"), at("upper/link")).unwrap();
        let targets = [
            "/a/b",
            "/kept/x",
            "/of-image/y",
            "/file",
            "/link/b",
            "/link/file",
            "/../outside/b",
            "/kept/text",
        ];
        let targets = targets.map(str::to_owned);
        remove_places(&targets, &at("upper"), &[at("lower")]);
        for (path, there) in [
            ("upper/a", false),
            ("upper/file", false),
            ("upper/kept/x", false),
            ("upper/kept/text", true),
            ("upper/of-image/y", false),
            ("upper/of-image", true),
            ("upper/link", true),
            ("outside/b", true),
            ("outside/file", true),
        ] {
            assert_eq!(at(path).symlink_metadata().is_ok(), there, "{path}");
        }
    }
}
