//! Steps that run a program.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use tokio::sync::{OwnedMutexGuard, mpsc};

use super::{Node, Solve, from_session, only_folder};
use crate::Error;
use crate::cache;
use crate::dockerfile::text::quote;
use crate::error::Kind;
use crate::files::Root;
use crate::files::copy::Copier;
use crate::graph::{Access, Exec, MountKind, Sharing, Slot};
use crate::session::Session;
use crate::worker::{AgentSocket, Run, RunMount, RunSource, Tree, Worker};

/// Chunks of output between a program and those who are told of it.
const OUTPUT: usize = 64;
/// Most folders of one cache mount that is not shared.
const PRIVATE: usize = 64;

/// What a run's mounts keep for as long as it runs.
#[derive(Default)]
struct Held {
    mounts: Vec<RunMount>,
    env: Vec<String>,
    _agents: Vec<AgentSocket>,
    _locks: Vec<OwnedMutexGuard<()>>,
    /// Cache folders, to be measured afterwards.
    caches: Vec<(String, String, PathBuf)>,
}

/// A folder that goes with what it was made for.
pub(super) struct Scratch(pub(super) PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!("{}: {e}", self.0.display());
        }
    }
}

fn io(what: &str) -> impl Fn(std::io::Error) -> Error + '_ {
    move |e| Error::invalid(format!("{what}: {e}")).with_kind(Kind::Unknown)
}

impl<W: Worker> Solve<W> {
    /// Runs a program; gives the folder with its output, where it has one of its own.
    pub(super) async fn exec(
        &self,
        node: &Node,
        exec: &Exec,
        base: &Tree,
        inputs: &[Tree],
        draft: &W::Draft,
    ) -> Result<Option<Scratch>, Error> {
        let builder = &self.solver.builder;
        let scratch = Scratch(builder.scratch.join(crate::random_id()));
        std::fs::create_dir_all(&scratch.0).map_err(io("make a folder for the step"))?;
        let mut held = Held::default();
        for (n, mount) in exec.mounts.iter().enumerate() {
            self.mount(&mut held, &scratch.0, n, &mount.target, &mount.kind, inputs).await?;
        }
        let output_folder = match &exec.output {
            Some(target) => Some(self.output_folder(&mut held, target)?),
            None => None,
        };
        for secret in &exec.secret_env {
            match self.session()?.secret(&secret.id).await.map_err(from_session)? {
                Some(value) => {
                    let value = String::from_utf8_lossy(&value).into_owned();
                    held.env.push(format!("{}={value}", secret.env));
                }
                None if secret.required => return Err(missing(&secret.id)),
                None => {}
            }
        }
        for (name, value) in &exec.proxy {
            let variable = format!("{name}={value}");
            if !exec.env.iter().any(|e| e.split('=').next() == Some(name)) {
                held.env.push(variable);
            }
        }
        let (output, mut lines) = mpsc::channel::<(u8, Vec<u8>)>(OUTPUT);
        let run = Run {
            exec,
            limits: &self.solver.context.limits,
            network: &self.solver.context.network,
            base,
            mounts: std::mem::take(&mut held.mounts),
            env: std::mem::take(&mut held.env),
            output,
            scratch: scratch.0.clone(),
        };
        let tell = async {
            while let Some((stream, bytes)) = lines.recv().await {
                node.with_step(|step| step.log(i64::from(stream), &bytes));
            }
        };
        let (ended, ()) = tokio::join!(builder.worker.run(run, draft), tell);
        let ended = ended?;
        for (id, description, folder) in std::mem::take(&mut held.caches) {
            let cache = builder.cache.clone();
            // Nobody waits for it.
            tokio::task::spawn_blocking(move || {
                let bytes = bytes_below(&folder);
                if let Err(e) = cache.touch(&id, cache::kind::CACHE_MOUNT, &description, Some(bytes)) {
                    tracing::warn!("{e}");
                }
            });
        }
        if ended.code == 0 {
            return Ok(output_folder);
        }
        let why = if ended.out_of_memory { ": cannot allocate memory" } else { "" };
        let command = exec.args.join(" ");
        let mut error = Error::invalid(format!(
            "process {} did not complete successfully: exit code: {}{why}",
            quote(&command),
            ended.code
        ));
        error.exit = Some(Box::new(crate::error::Exit { command, code: ended.code }));
        Err(error.with_kind(Kind::Unknown))
    }

    /// A folder for what a program makes besides, on the disk.
    fn output_folder(&self, held: &mut Held, target: &str) -> Result<Scratch, Error> {
        let folder = self.solver.builder.root.join("mounts").join(format!("new-{}", crate::random_id()));
        std::fs::create_dir(&folder).map_err(io("make a folder for the step's output"))?;
        let folder = Scratch(folder);
        let source = RunSource::Path(folder.0.clone());
        held.mounts.push(RunMount { target: target.to_owned(), source, read_only: false });
        Ok(folder)
    }

    fn session(&self) -> Result<&Arc<Session>, Error> {
        self.solver.context.session.as_ref().ok_or_else(|| Error::invalid("the build has no session to ask"))
    }

    async fn mount(
        &self,
        held: &mut Held,
        scratch: &Path,
        n: usize,
        target: &str,
        kind: &MountKind,
        inputs: &[Tree],
    ) -> Result<(), Error> {
        let tree = |slot: &Option<Slot>| slot.and_then(|s| inputs.get(s.0)).cloned().unwrap_or_default();
        let (source, read_only) = match kind {
            MountKind::Bind { from, source, writable } => {
                let tree = tree(from);
                match only_folder(&tree) {
                    Some(folder) if !writable => (RunSource::Path(inside(folder, source)?), true),
                    _ => (RunSource::Tree { tree, path: source.clone() }, !writable),
                }
            }
            MountKind::Tmpfs { size, read_only } => (RunSource::Memory(*size), *read_only),
            MountKind::Inline { name, data, mode } => {
                let folder = scratch.join(format!("inline-{n}"));
                let file = folder.join(name);
                if file.parent() != Some(folder.as_path()) || name == ".." {
                    return Err(Error::invalid(format!("{name:?} is not the name of a file")));
                }
                std::fs::create_dir_all(&folder)
                    .and_then(|()| std::fs::write(&file, data))
                    .and_then(|()| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(*mode)))
                    .map_err(io("write the step's program"))?;
                (RunSource::Path(folder), true)
            }
            MountKind::Secret { id, mode, uid, gid, required } => {
                let secret = match &self.solver.context.session {
                    Some(session) => session.secret(id).await.map_err(from_session)?,
                    None => None,
                };
                let Some(secret) = secret else {
                    return if *required { Err(missing(id)) } else { Ok(()) };
                };
                let file = scratch.join(format!("secret-{n}"));
                write_private(&file, &secret)
                    .and_then(|()| chown(&file, Some(*uid), Some(*gid)))
                    .and_then(|()| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(*mode)))
                    .map_err(io("write a secret"))?;
                (RunSource::Path(file), true)
            }
            MountKind::Ssh { id, mode, uid, gid, required } => {
                let name = if id.is_empty() { "default" } else { id };
                let session = self.session()?.clone();
                // Said also where there is none, as with BuildKit.
                if !held.env.iter().any(|e| e.starts_with("SSH_AUTH_SOCK=")) {
                    held.env.push(format!("SSH_AUTH_SOCK={target}"));
                }
                if let Err(e) = session.check_agent(name).await {
                    let unset = || Error::invalid(format!("unset ssh forward key {name}"));
                    return if *required { Err(unset().context(e.message)) } else { Ok(()) };
                }
                let socket = scratch.join(format!("ssh-{n}"));
                let agent = AgentSocket::listen_in(scratch, &format!("ssh-{n}"), session, name.to_owned())
                    .map_err(io("listen for the ssh agent"))?;
                chown(&socket, Some(*uid), Some(*gid))
                    .and_then(|()| std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(*mode)))
                    .map_err(io("listen for the ssh agent"))?;
                held._agents.push(agent);
                (RunSource::Path(socket), false)
            }
            MountKind::Cache { id, from, source, sharing, access, read_only } => {
                let start = from.map(|_| (tree(from), source.clone()));
                let folder = self.cache_folder(held, id, *sharing, start, *access, target).await?;
                (RunSource::Path(folder), *read_only)
            }
        };
        held.mounts.push(RunMount { target: target.to_owned(), source, read_only });
        Ok(())
    }

    /// The folder of a cache mount, made where it is not there.
    async fn cache_folder(
        &self,
        held: &mut Held,
        id: &str,
        sharing: Sharing,
        start: Option<(Tree, String)>,
        access: Option<Access>,
        target: &str,
    ) -> Result<PathBuf, Error> {
        let builder = &self.solver.builder;
        let name = super::key(&["cache mount", id]).trim_start_matches("sha256:")[..32].to_owned();
        let mut chosen = name.clone();
        match sharing {
            Sharing::Shared => {}
            Sharing::Locked => held._locks.push(builder.lock_of(&name).lock_owned().await),
            Sharing::Private => {
                let mut found = None;
                for n in 0..PRIVATE {
                    chosen = if n == 0 { name.clone() } else { format!("{name}-{n}") };
                    if let Ok(lock) = builder.lock_of(&chosen).try_lock_owned() {
                        found = Some(lock);
                        break;
                    }
                }
                let none = || Error::invalid(format!("cache mount {id} is in use {PRIVATE} times"));
                held._locks.push(found.ok_or_else(none)?);
            }
        }
        let folder = builder.root.join("mounts").join(&chosen);
        let record = format!("mount-{chosen}");
        let description = format!("cached mount {target} from exec with id {id:?}");
        self.solver.hold(builder.cache.touch(&record, cache::kind::CACHE_MOUNT, &description, None)?);
        if !folder.exists() {
            // Whole or not at all: another step may look at the same time.
            let new = builder.root.join("mounts").join(format!("new-{}", crate::random_id()));
            std::fs::create_dir_all(&new).map_err(io("make a cache mount"))?;
            let mut access = access.unwrap_or(Access { mode: 0o755, uid: 0, gid: 0 });
            if let Some((tree, path)) = start {
                self.here(&tree).await?;
                let to = new.clone();
                let fill = move |view: crate::worker::View| {
                    let to = Root::open(&to).map_err(io("open a cache mount"))?;
                    let Some(from) = view.read.first() else { return Ok(access) };
                    let mut copier = Copier {
                        to: &to,
                        owner: None,
                        chmod: None,
                        time: None,
                        contents_only: true,
                        taken: &|_, _| true,
                        stop: &std::sync::atomic::AtomicBool::new(false),
                        links: Default::default(),
                    };
                    for found in crate::files::select(from, &path, false, true)? {
                        let stat = &found.stat;
                        access = Access { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid };
                        copier.copy(&found, "/")?;
                    }
                    Ok(access)
                };
                access = builder.worker.view(None, vec![tree], fill).await?;
            }
            let Access { mode, uid, gid } = access;
            chown(&new, Some(uid), Some(gid))
                .and_then(|()| std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode)))
                .map_err(io("make a cache mount"))?;
            match std::fs::rename(&new, &folder) {
                Ok(()) => {}
                Err(_) if folder.exists() => {
                    let _ = std::fs::remove_dir_all(&new);
                }
                Err(e) => return Err(io("make a cache mount")(e)),
            }
        }
        held.caches.push((record, description, folder.clone()));
        Ok(folder)
    }
}

fn missing(id: &str) -> Error {
    Error::invalid(format!("secret {id}: not found")).with_kind(Kind::NotFound)
}

fn write_private(path: &Path, data: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(data)
}

/// A path of a client's folder, links resolved inside it.
fn inside(folder: &Path, path: &str) -> Result<PathBuf, Error> {
    let root = Root::open(folder).map_err(io("open the context"))?;
    let found = root.at(path, OFlags::PATH).map_err(|e| {
        let words = format!("{path:?}: not found");
        if e == rustix::io::Errno::NOENT {
            Error::invalid(words).with_kind(Kind::NotFound)
        } else {
            Error::invalid(e.to_string())
        }
    })?;
    std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(io("find a mount's source"))
}

/// Bytes on disk below a folder.
pub(crate) fn bytes_below(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (mut pending, mut total) = (vec![folder.to_owned()], 0);
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                pending.push(entry.path());
            }
            total += meta.blocks() * 512;
        }
    }
    total
}
