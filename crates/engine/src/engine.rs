//! The engine: what joins images, runtime and networks, and how it comes up.
//!
//! ```text
//! EXEC_ROOT/engine.pid       the engine's process id
//! EXEC_ROOT/containers/<id>/ the shim's socket and pids (runtime's)
//! EXEC_ROOT/rootfs/          place for the short, private mounts of `rootfs`
//! ```
//!
//! At start containers are found again through their shims: those that run are adopted, those that ended while
//! nobody looked get their exit from the shim's record, those with `--rm` that are left over are removed. Restart
//! policies then start theirs, and what sees containers ([`Operation::sees_containers`]) is answered behind that.
//!
//! [`Operation::sees_containers`]: crate::api::router::Operation::sees_containers

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use network::Ports;
use tokio_util::task::TaskTracker;

use crate::config::{EngineConfig, Paths};
use crate::container::config::HostConfig;
use crate::container::{Command, Containers, LastRun, Record, log_options, ports, task};
use crate::error::{Error, Result};
use crate::events::Events;
use crate::exec::Execs;
use crate::host_paths::HostPaths;
use crate::networks::{Member, Network, Networks, primary};
use crate::remap::Remap;
use crate::store::{Durability, Kind, Store};
use crate::volumes::Volumes;

/// The cgroup below which containers' groups are made.
const CGROUP_PARENT: &str = "coracle";
/// Where certificates of registries are looked for: Docker's own folder, and ours.
const CERTIFICATES: [&str; 2] = ["/etc/docker/certs.d", "/etc/coracle/certs.d"];

/// Everything a request needs.
pub struct Engine {
    /// This engine's own id, made once.
    pub id: String,
    /// Settings.
    pub config: EngineConfig,
    /// Ids of containers on this host; `None`: what they are inside.
    pub remap: Option<Remap>,
    /// Where things are.
    pub paths: Paths,
    /// Records on disk.
    pub store: Store,
    /// Where the host's folders are.
    pub host_paths: HostPaths,
    /// Images.
    pub images: image::Images,
    /// Containers' processes.
    pub runtime: runtime::Runtime,
    /// Networks.
    pub networks: Arc<Networks>,
    /// Volumes.
    pub volumes: Volumes,
    /// Who opens published ports.
    pub ports: Box<dyn Ports>,
    /// Containers.
    pub containers: Containers,
    /// Commands run in containers.
    pub execs: Execs,
    /// Builds of images.
    pub builds: crate::builds::Builds,
    /// Counts what containers use, for those who watch.
    pub sampler: crate::container::stats::Sampler,
    /// What happens.
    pub events: Events,
    /// Owner of the engine's background tasks.
    pub tasks: TaskTracker,
    /// Processors.
    pub cpus: usize,
    /// Compiled seccomp programs by the capabilities they were made for.
    pub(crate) seccomp: Mutex<HashMap<String, Arc<[u8]>>>,
}

/// How to bring an engine up.
pub struct Options {
    /// Settings.
    pub config: EngineConfig,
    /// Where things are.
    pub paths: Paths,
    /// The guest agent's socket for published ports; `None`: this host binds them.
    pub ports_socket: Option<PathBuf>,
    /// Folders of the host that are mounted here.
    pub host_paths: Vec<(PathBuf, PathBuf)>,
    /// A file of subnets that networks don't get.
    pub taken_subnets: Option<PathBuf>,
}

impl Engine {
    /// Opens state and finds containers again. Fails in words when another engine has the same root.
    pub async fn open(options: Options) -> Result<Arc<Self>> {
        let Options { config, paths, ports_socket, host_paths, taken_subnets } = options;
        let remap = match config.userns_remap.as_deref().filter(|setting| !setting.is_empty()) {
            Some(setting) => Remap::read(setting, Path::new("/etc"))?,
            None => None,
        };
        let in_machine = ports_socket.is_some();
        let host_paths = HostPaths::new(in_machine, host_paths);
        for folder in [&paths.root, &paths.exec_root, &paths.root.join("containers")] {
            tokio::fs::create_dir_all(folder)
                .await
                .map_err(|e| Error::internal(format!("make {}: {e}", folder.display())))?;
        }
        let db = paths.root.join("coracle.db");
        image::make_room(&paths.root.join("image"));
        let store = Store::open(&db)?;
        let id = match store.get::<String>(Kind::Meta, "id").await? {
            Some(id) => id,
            None => {
                let id = crate::names::random_id();
                store.put(Kind::Meta, "id", &id, Durability::Durable).await?;
                id
            }
        };
        let images = image::Images::open(image::Config {
            root: paths.root.join("image"),
            db,
            registry_mirrors: config.registry_mirrors.clone(),
            insecure_registries: config.insecure_registries.clone(),
            certificates: CERTIFICATES.into_iter().map(PathBuf::from).collect(),
            proxies: config.proxies(),
        })?;
        let runtime = runtime::Runtime::new(runtime::Config {
            shim: paths.shim.clone(),
            exec_root: paths.exec_root.join("containers"),
            cgroup_parent: CGROUP_PARENT.into(),
        })
        .map_err(|e| Error::internal(e.to_string()))?;
        let networks = Networks::open(store.clone(), &config, &id, taken_subnets).await?;
        let volumes = Volumes::open(store.clone(), &paths.root).await?;
        let tasks = TaskTracker::new();
        let ports: Box<dyn Ports> = match ports_socket {
            Some(socket) => Box::new(crate::guest_ports::GuestPorts::start(socket, &tasks)),
            None => Box::new(network::LocalPorts::new(networks.firewall().clone())),
        };
        let engine = Arc::new(Self {
            host_paths,
            id,
            config,
            remap,
            paths,
            store,
            images,
            runtime,
            networks,
            volumes,
            ports,
            containers: Containers::default(),
            execs: Execs::default(),
            builds: crate::builds::Builds::default(),
            sampler: crate::container::stats::Sampler::default(),
            events: Events::default(),
            tasks,
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            seccomp: Mutex::default(),
        });
        engine.find_containers().await?;
        crate::builds::end_leftovers(&engine).await;
        let records: Vec<_> = engine.containers.list().iter().map(|c| c.view().record.clone()).collect();
        let logs = engine.clone();
        tokio::spawn(async move { log_options::catch_up(&logs, records).await });
        if in_machine {
            tokio::spawn(crate::listeners::follow(engine.clone()));
        }
        // Beside the first requests: it looks at everything, and nobody waits for it.
        let tidied = engine.clone();
        tokio::spawn(async move {
            if let Err(e) = tidied.images.tidy().await {
                tracing::error!("what no image reaches was left: {e}");
            }
        });
        Ok(engine)
    }

    /// The ids that a container gets; `None`: this host's.
    pub fn remap_for(&self, host: &HostConfig) -> Option<&Remap> {
        self.remap.as_ref().filter(|_| host.userns_mode != "host")
    }

    async fn find_containers(self: &Arc<Self>) -> Result<()> {
        let (mut ports, mut bridges, mut found) = (Vec::new(), Vec::new(), Vec::new());
        let mut admitted = BTreeMap::new();
        for (id, mut record) in self.store.all::<Record>(Kind::Container).await? {
            let mut running = None;
            match self.runtime.reconnect(&id).await {
                Ok(runtime::Reconnected::Running(container)) => running = Some(container),
                Ok(runtime::Reconnected::Exited(exit)) => note_exit(&mut record.last, &exit),
                Ok(runtime::Reconnected::Gone) if record.last.finished_at < record.last.started_at => {
                    // It ran, and this boot knows nothing of it: a power cut.
                    let exit = self.recorded_exit(&id).await.unwrap_or(runtime::Exit {
                        code: 255,
                        finished_at: SystemTime::now(),
                        oom_killed: false,
                    });
                    note_exit(&mut record.last, &exit);
                }
                Ok(runtime::Reconnected::Gone) => {}
                Err(e) => {
                    tracing::error!("container {}: {e}", record.name);
                    note_exit(
                        &mut record.last,
                        &runtime::Exit { code: 255, finished_at: SystemTime::now(), oom_killed: false },
                    );
                }
            }
            if running.is_none() {
                record.last.members.clear();
                record.last.ports.clear();
            }
            if record.host.auto_remove && running.is_none() {
                self.discard_leftover(&record).await;
                continue;
            }
            if let Some(member) = primary(&record.last.members).filter(|_| !record.last.ports.is_empty()) {
                ports.push((id.clone(), ports::ports_again(&record.last.ports, member)));
                admitted.insert(id.clone(), ports::admitted(&record.last.ports, member));
            }
            if running.is_some() {
                let names = record.mounts.iter().filter_map(|m| m.volume.as_deref());
                if let Err(e) = self.volumes.acquire(names, &id, &self.host_paths).await {
                    tracing::error!("container {}: {e}", record.name);
                }
            }
            let network = |m: &Member| self.networks.find(&m.network_id).ok()?.bridge();
            bridges.extend(record.last.members.iter().filter_map(network));
            found.push((id, record, running));
        }
        admitted.retain(|_, ports| !ports.is_empty());
        self.networks.firewall().found(bridges, admitted).await;
        // Before the tasks start: one that finds its container ended closes what is open by then.
        for (id, e) in self.ports.restore(ports).await {
            tracing::error!("container {id} lost its ports: {e}");
        }
        for (id, record, running) in found {
            self.containers.reserve_name(&record.name, &id)?;
            let handle = task::spawn(self, record, running);
            self.containers.insert(&id, handle);
        }
        self.containers.found();
        self.volumes.release_unused().await;
        self.remove_unknown_folders().await;
        Ok(())
    }

    /// Folders of containers that have no record: the power went before the record was written, or after it was removed.
    async fn remove_unknown_folders(&self) {
        let Ok(mut folders) = tokio::fs::read_dir(self.paths.containers()).await else { return };
        let known: HashSet<OsString> =
            self.containers.list().iter().map(|c| c.view().record.id.clone().into()).collect();
        while let Ok(Some(folder)) = folders.next_entry().await {
            if !known.contains(&folder.file_name())
                && let Err(e) = tokio::fs::remove_dir_all(folder.path()).await
            {
                tracing::warn!("{} was left: {e}", folder.path().display());
            }
        }
    }

    /// The shim's durable record of how a container ended.
    async fn recorded_exit(&self, id: &str) -> Option<runtime::Exit> {
        #[derive(serde::Deserialize)]
        struct Recorded {
            exit_code: u8,
            finished_at: String,
            oom_killed: bool,
        }
        let bytes = tokio::fs::read(self.paths.container(id).join("exit.json")).await.ok()?;
        let r: Recorded = serde_json::from_slice(&bytes).ok()?;
        let finished_at = crate::time::parse(&r.finished_at)?;
        Some(runtime::Exit { code: r.exit_code, finished_at, oom_killed: r.oom_killed })
    }

    /// A container with `--rm` that an earlier engine did not get to remove.
    async fn discard_leftover(&self, record: &Record) {
        let id = &record.id;
        if let Err(e) = crate::container::images::discard(self, id, &record.mounts).await {
            tracing::warn!("container {}: {e}", record.name);
        }
        if let Err(e) = self.store.delete(Kind::Container, id, Durability::Lazy).await {
            tracing::warn!("container {}: {e}", record.name);
        }
        let _ = tokio::fs::remove_dir_all(self.paths.container(id)).await;
        self.remove_anonymous_volumes(record).await;
    }

    /// Removes the container's volumes that nobody named and nobody else uses.
    pub async fn remove_anonymous_volumes(&self, record: &Record) {
        for name in record.mounts.iter().filter_map(|m| m.volume.as_deref()) {
            let anonymous = self.volumes.get(name).is_ok_and(|v| v.is_anonymous());
            if !anonymous || !self.containers.using_volume(name).is_empty() {
                continue;
            }
            match self.volumes.remove(name, Durability::Lazy).await {
                Ok(()) => self.volume_event(name, "destroy", BTreeMap::new()),
                Err(e) => tracing::warn!("anonymous volume {name}: {e}"),
            }
        }
    }

    /// Stops all containers in order, each with its own signal and time, or (`now`) by SIGKILL: the machine is going
    /// down. Their restart policies bring them back at the next boot.
    pub async fn stop_containers(&self, now: bool) {
        let (signal, timeout) = if now { (Some(libc::SIGKILL), Some(0)) } else { (None, None) };
        let stops = self.containers.list().into_iter().filter(|c| c.view().status.counts_as_running()).map(
            |c| async move {
                let stopped = c.ask(|reply| Command::Stop { signal, timeout, by_user: false, reply }).await;
                if let Ok(Err(e)) | Err(e) = stopped {
                    tracing::warn!("container {} was not stopped: {e}", c.view().record.name);
                }
            },
        );
        futures_util::future::join_all(stops).await;
    }

    /// Tells of something that happened to a container.
    pub fn container_event(&self, record: &Record, action: &str, more: &[(&str, String)]) {
        let mut attributes = record.config.labels.clone();
        attributes.insert("image".into(), record.config.image.clone());
        attributes.insert("name".into(), record.name.clone());
        attributes.extend(more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
        self.events.emit("container", action, &record.id, attributes);
    }

    /// Tells of an image that was made here, and of the names that it got.
    pub fn image_made(&self, id: &str, names: &[image::Reference]) {
        let named = |name: String| BTreeMap::from([("name".to_owned(), name)]);
        self.events.emit("image", "create", id, named(id.to_owned()));
        for name in names {
            self.events.emit("image", "tag", id, named(name.familiar()));
        }
    }

    /// Tells of something that happened to a volume.
    pub fn volume_event(&self, name: &str, action: &str, mut attributes: BTreeMap<String, String>) {
        attributes.insert("driver".into(), "local".into());
        self.events.emit("volume", action, name, attributes);
    }

    /// Tells that a container's volumes came into use (`mount`) or went out of it (`unmount`).
    pub fn volumes_event(&self, record: &Record, action: &str) {
        for mount in &record.mounts {
            let Some(name) = &mount.volume else { continue };
            let mut attributes = BTreeMap::from([("container".to_owned(), record.id.clone())]);
            if action == "mount" {
                attributes.insert("destination".into(), mount.destination.display().to_string());
                attributes.insert("read/write".into(), mount.rw.to_string());
                attributes.insert("propagation".into(), mount.propagation.clone());
            }
            self.volume_event(name, action, attributes);
        }
    }

    /// Tells of something that happened to a network; `container`: who came or went, or empty.
    pub fn network_event(&self, network: &Network, action: &str, container: &str) {
        let mut attributes = BTreeMap::from([
            ("name".into(), network.name.clone()),
            ("type".into(), network.driver.name().into()),
        ]);
        if !container.is_empty() {
            attributes.insert("container".into(), container.to_owned());
        }
        self.events.emit("network", action, &network.id, attributes);
    }

    /// Tells that unused ones of a kind were removed, and how many bytes that gave back.
    pub fn prune_event(&self, kind: &'static str, bytes: u64) {
        self.events.emit(kind, "prune", "", BTreeMap::from([("reclaimed".to_owned(), bytes.to_string())]));
    }

    /// Loads the archives of a folder that were not loaded before: the images a guest brings along.
    pub async fn preload(self: &Arc<Self>, folder: PathBuf) -> Result<()> {
        let mut archives = Vec::new();
        let mut entries = match tokio::fs::read_dir(&folder).await {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::internal(format!("{}: {e}", folder.display()))),
        };
        while let Some(entry) = entries.next_entry().await? {
            if entry.path().extension().is_some_and(|e| e == "tar") {
                archives.push(entry.path());
            }
        }
        archives.sort();
        for archive in archives {
            // A new version of the archive is another file to us: size and name tell.
            let name = archive.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let mark = format!("preload {name} {}", tokio::fs::metadata(&archive).await?.len());
            if self.store.get::<bool>(Kind::Meta, &mark).await?.is_some() {
                continue;
            }
            let file = tokio::fs::File::open(&archive).await?;
            let loaded = self.images.load(file, image::LoadOptions::default(), Arc::new(|_| {})).await;
            loaded.map_err(|e| Error::from(e).context(&format!("load {}", archive.display())))?;
            self.store.put(Kind::Meta, &mark, &true, Durability::Durable).await?;
        }
        Ok(())
    }
}

fn note_exit(last: &mut LastRun, exit: &runtime::Exit) {
    last.exit_code = exit.code;
    last.oom_killed = exit.oom_killed;
    last.finished_at = crate::time::format(exit.finished_at);
}
