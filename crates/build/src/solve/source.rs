//! Files from elsewhere: a client's folders, web servers.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;
use tokio::sync::{OnceCell, OwnedMutexGuard};

use super::exec::Scratch;
use super::{Node, Solve, from_session};
use crate::Error;
use crate::cache;
use crate::error::Kind;
use crate::git::Access;
use crate::graph::{Git, Http, Local, Op};
use crate::hex;
use crate::session::files::Selection;
use crate::session::{Index, Limits, receive};
use crate::worker::{AgentSocket, Worker};

/// Largest file that `ADD` fetches, in bytes.
const DOWNLOAD: u64 = 64 << 30;

/// What is said before the reason why nothing stands for a source.
const NO_KEY: &str = "failed to load cache key";
/// Downloads tell how far they are from so many bytes on.
const TOLD: u64 = 1 << 20;

/// A folder that came from elsewhere. Nobody changes it while this lives.
pub(super) struct Files {
    pub(super) folder: PathBuf,
    pub(super) index: Arc<Index>,
    /// Of all that is in it, but for times.
    pub(super) digest: String,
    _lock: Option<OwnedMutexGuard<()>>,
    _temporary: Option<Temporary>,
}

pub(crate) struct Temporary(pub(crate) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let path = self.0.clone();
        // It may be large, and nobody waits for it.
        std::thread::spawn(move || std::fs::remove_dir_all(path));
    }
}

/// A socket that leads to the client's ssh agent.
struct Agent {
    _socket: AgentSocket,
    _folder: Scratch,
}

fn io(what: &str) -> impl Fn(std::io::Error) -> Error + '_ {
    move |e| Error::invalid(format!("{what}: {e}")).with_kind(Kind::Unknown)
}

/// Digest of all that an index has, but for times.
fn digest(index: &Index) -> String {
    let mut hasher = Sha256::new();
    for (path, entry) in &index.0 {
        for text in [path.as_bytes(), entry.stat.linkname.as_bytes(), &entry.digest] {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        }
        for number in [entry.stat.mode, entry.stat.uid, entry.stat.gid] {
            hasher.update(number.to_le_bytes());
        }
        let xattrs: std::collections::BTreeMap<_, _> = entry.stat.xattrs.iter().collect();
        for (name, value) in xattrs {
            hasher.update(name);
            hasher.update(value);
        }
    }
    hex(&hasher.finalize())
}

impl<W: Worker> Solve<W> {
    /// Which files a source gives.
    fn source_key(node: &Node) -> String {
        let hint = match &node.vertex.op {
            Op::Local(local) => local.shared_key.as_str(),
            _ => "",
        };
        format!("{} {hint}", node.vertex.op.digest())
    }

    /// Whether nothing of this build has asked for a source's files yet.
    pub(super) fn is_new_source(&self, node: &Node) -> bool {
        let sources = self.solver.sources.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        !sources.contains_key(&Self::source_key(node))
    }

    /// Files of a source; those of one build that ask for the same get the same.
    pub(super) async fn source(&self, node: &Node) -> Result<Arc<Files>, Error> {
        let key = Self::source_key(node);
        let cell = {
            let mut sources = self.solver.sources.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            sources.entry(key).or_insert_with(|| Arc::new(OnceCell::new())).clone()
        };
        let get = || async {
            match &node.vertex.op {
                Op::Local(local) => self.local(node, local).await.map(Arc::new),
                Op::Http(http) => self.http(node, http).await.map(Arc::new).map_err(|e| e.elsewhere("")),
                Op::Git(git) => self.git(node, git).await.map(Arc::new).map_err(|e| e.elsewhere("")),
                _ => Err(Error::invalid("this step is no source")),
            }
        };
        cell.get_or_init(get).await.clone()
    }

    async fn local(&self, node: &Node, local: &Local) -> Result<Files, Error> {
        if let Some(given) = &self.solver.context.folder {
            let folder = given.folder();
            given.exclude(&local.exclude).await?;
            // Steps go by the content of what they read: the whole has no digest that another build's could equal.
            let digest = super::key(&["given", &crate::random_id()]);
            return Ok(Files { folder, index: Arc::default(), digest, _lock: None, _temporary: None });
        }
        let session = self.solver.context.session.as_ref();
        let session = session.ok_or_else(|| Error::invalid("the build has no session to ask for files"))?;
        let builder = &self.solver.builder;
        // Kept for the next build only where the client says which files are the same.
        let kept = session.folder_key(&local.name).map(|key| super::key(&["local", &key, &local.shared_key]));
        let kept = kept.map(|key| key.trim_start_matches("sha256:")[..32].to_owned());
        // Two builds of one folder at once: the second has its own.
        let lock = kept.as_ref().and_then(|name| builder.lock_of(name).try_lock_owned().ok());
        let place = match (&kept, &lock) {
            (Some(name), Some(_)) => builder.root.join("local").join(name),
            _ => builder.root.join("local").join(format!("new-{}", crate::random_id())),
        };
        let temporary = lock.is_none().then(|| Temporary(place.clone()));
        let (folder, saved) = (place.join("files"), place.join("index"));
        let held = {
            let (folder, saved) = (folder.clone(), saved.clone());
            let prepare = move || -> std::io::Result<Index> {
                let held = Index::read(&saved);
                if held.is_none() {
                    // What a transfer that died left.
                    match std::fs::remove_dir_all(&folder) {
                        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                        _ => {}
                    }
                }
                std::fs::create_dir_all(&folder)?;
                match std::fs::remove_file(&saved) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
                Ok(held.unwrap_or_default())
            };
            tokio::task::spawn_blocking(prepare)
                .await
                .map_err(|e| Error::invalid(e.to_string()))?
                .map_err(io("make room for the context"))?
        };
        let selection = Selection {
            folder: local.name.clone(),
            include: local.include.clone(),
            exclude: local.exclude.clone(),
            follow: local.follow_paths.clone(),
        };
        let part = node.with_step(|step| step.part(&format!("transferring {}:", local.name)));
        let told = part.clone();
        let progress = move |bytes| told.at(bytes, 0);
        let transfer = receive(session, &selection, folder.clone(), held, Limits::default(), progress).await;
        let transfer = transfer.map_err(from_session)?;
        part.done(transfer.received);
        let index = Arc::new(transfer.index);
        let digest = {
            let (index, keep) = (index.clone(), temporary.is_none());
            let work = move || {
                if keep {
                    index.write(&saved)?;
                }
                Ok::<_, crate::rpc::Status>(digest(&index))
            };
            tokio::task::spawn_blocking(work)
                .await
                .map_err(|e| Error::invalid(e.to_string()))?
                .map_err(from_session)?
        };
        if let (Some(name), None) = (&kept, &temporary) {
            let id = format!("local-{name}");
            let description = format!("local source for {}", local.name);
            let in_use = builder.cache.touch(&id, cache::kind::LOCAL, &description, Some(index.bytes()))?;
            self.solver.hold(in_use);
        }
        Ok(Files { folder, index, digest, _lock: lock, _temporary: temporary })
    }

    /// What gets at a repository: the session's secrets, or its ssh agent for as long as the second part lives.
    async fn git_access(&self, git: &Git) -> Result<(Access, Option<Agent>), Error> {
        let Some(session) = &self.solver.context.session else { return Ok(Default::default()) };
        let mut access = Access::default();
        if let Some(id) = &git.ssh {
            if session.check_agent(id).await.is_err() {
                return Ok(Default::default());
            }
            let folder = Scratch(self.solver.builder.scratch.join(crate::random_id()));
            std::fs::create_dir_all(&folder.0).map_err(io("make a folder for the ssh agent"))?;
            let path = folder.0.join("agent");
            let socket = AgentSocket::listen_in(&folder.0, "agent", session.clone(), id.clone())
                .map_err(io("listen for the ssh agent"))?;
            access.agent = Some(path);
            return Ok((access, Some(Agent { _socket: socket, _folder: folder })));
        }
        let host = crate::git::host(&git.remote);
        let by_host = |name: &str| [format!("{name}.{host}"), name.to_owned()];
        let mut secrets = Vec::new();
        secrets.extend(by_host(&git.auth_header_secret).map(|id| (id, false)));
        secrets.extend(by_host(&git.auth_token_secret).map(|id| (id, true)));
        for (id, token) in secrets {
            let Some(secret) = session.secret(&id).await.map_err(from_session)? else { continue };
            let secret = String::from_utf8_lossy(&secret).trim().to_owned();
            access.authorization = Some(if token {
                let pair = format!("x-access-token:{secret}");
                format!("basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
            } else {
                secret
            });
            break;
        }
        Ok((access, None))
    }

    async fn git(&self, node: &Node, git: &Git) -> Result<Files, Error> {
        let builder = &self.solver.builder;
        let (access, _agent) = self.git_access(git).await?;
        let commit = match crate::git::find(&builder.worker, git, &access).await {
            // A whole commit is fetched before it is seen to be another.
            Err(e) if git.checksum.as_deref().and_then(crate::git::Id::parse).is_some() => return Err(e),
            found => found.map_err(|e| e.elsewhere(NO_KEY))?,
        };
        node.with_step(|step| step.log(1, format!("{}\n", commit.shown()).as_bytes()));
        self.solver.took(format!("{}#{}", git.remote, git.reference), "sha1", &commit.id());
        let flags = format!("{} {}", git.keep_git_dir, git.skip_submodules);
        let address = if git.keep_git_dir { git.remote.as_str() } else { "" };
        let digest = super::key(&["git", &commit.id(), &git.subdir, &flags, address]);
        let name = digest.trim_start_matches("sha256:")[..32].to_owned();
        // A commit is always the same: what was checked out once serves again. Whoever removes it asks for the record.
        let place = builder.root.join("local").join(&name);
        let id = format!("local-{name}");
        let description = format!("git snapshot for {}#{}", git.remote, git.reference);
        let touch = |bytes| builder.cache.touch(&id, cache::kind::GIT, &description, bytes);
        let lock = builder.lock_of(&name).lock_owned().await;
        self.solver.hold(touch(None)?);
        if !place.exists() {
            let new = builder.root.join("local").join(format!("new-{}", crate::random_id()));
            let temporary = Temporary(new.clone());
            std::fs::create_dir_all(&new).map_err(io("make room for a checkout"))?;
            let files = new.join("files");
            crate::git::checkout(&builder.worker, git, &commit, &access, &files).await?;
            let bytes = {
                let new = new.clone();
                tokio::task::spawn_blocking(move || super::exec::bytes_below(&new)).await
            };
            std::fs::rename(&new, &place).map_err(io("keep a checkout"))?;
            drop(temporary);
            self.solver.hold(touch(bytes.ok())?);
        }
        drop(lock);
        let folder = place.join("files");
        Ok(Files { folder, index: Arc::default(), digest, _lock: None, _temporary: None })
    }

    async fn http(&self, node: &Node, http: &Http) -> Result<Files, Error> {
        use std::os::unix::fs::{PermissionsExt, chown};
        let builder = &self.solver.builder;
        let place = builder.root.join("local").join(format!("new-{}", crate::random_id()));
        let temporary = Temporary(place.clone());
        let folder = place.join("files");
        tokio::fs::create_dir_all(&folder).await.map_err(io("make room for a download"))?;
        let path = folder.join(&http.filename);
        if path.parent() != Some(folder.as_path()) {
            return Err(Error::invalid(format!("invalid file name {:?}", http.filename)));
        }
        let body = builder.worker.open_url(&http.url).await;
        let mut body = body.map_err(|e| e.elsewhere(NO_KEY))?;
        let mut part = None;
        let mut file = tokio::fs::File::create(&path).await.map_err(io("write a download"))?;
        let (mut hasher, mut bytes, mut buffer) = (Sha256::new(), 0_u64, vec![0; 256 << 10]);
        loop {
            let n = body.read(&mut buffer).await.map_err(io(&http.url))?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            bytes += n as u64;
            if bytes > DOWNLOAD {
                return Err(Error::invalid(format!("{} is larger than {DOWNLOAD} bytes", http.url)));
            }
            tokio::io::AsyncWriteExt::write_all(&mut file, &buffer[..n])
                .await
                .map_err(io("write a download"))?;
            if bytes >= TOLD {
                part.get_or_insert_with(|| node.with_step(|step| step.part("downloading"))).at(bytes, 0);
            }
        }
        tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(io("write a download"))?;
        let content = hex(&hasher.finalize());
        self.solver.took(http.url.clone(), "sha256", content.trim_start_matches("sha256:"));
        if let Some(wanted) = http.checksum.as_ref().filter(|c| **c != content) {
            return Err(Error::invalid(format!("digest mismatch {content}: {wanted}")));
        }
        if let Some(part) = part {
            part.done(bytes);
        }
        let (mode, uid, gid) = (http.mode.unwrap_or(0o600), http.uid.unwrap_or(0), http.gid.unwrap_or(0));
        chown(&path, Some(uid), Some(gid))
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)))
            .map_err(io("write a download"))?;
        let digest = super::key(&["http", &content, &http.filename, &format!("{mode} {uid} {gid}")]);
        Ok(Files { folder, index: Arc::default(), digest, _lock: None, _temporary: Some(temporary) })
    }
}
