//! Checkouts: the files of one commit of a repository. No git is run: what is needed of its protocol is small, and a
//! machine that runs this engine need not have it.
//!
//! ```text
//! remote --refs--> which commit --fetch (of it alone)--> pack --> files, modules below, `.git` where it is asked for
//! ```
//! Attributes of files (`.gitattributes`: line ends, filters such as LFS) are not carried out.

mod index;
mod pack;
mod wire;

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

pub(crate) use pack::Id;
use pack::Kind as Object;
#[cfg(any(fuzzing, test))]
pub(crate) use pack::Pack;
#[cfg(not(any(fuzzing, test)))]
use pack::Pack;
use wire::{Ref, Remote};

use crate::Error;
use crate::error::Kind;
use crate::graph::Git;
use crate::worker::Worker;

/// Deepest folder of a repository.
const DEPTH: usize = 256;
/// Deepest module within modules.
const MODULES: usize = 8;
/// Most modules of one repository.
const MODULE_COUNT: usize = 1000;

/// What a checkout needs besides the worker.
#[derive(Clone, Default)]
pub(crate) struct Access {
    /// `Authorization` for web servers.
    pub authorization: Option<String>,
    /// Socket of an ssh agent.
    pub agent: Option<PathBuf>,
}

impl Access {
    fn headers(&self) -> Vec<(String, String)> {
        self.authorization.iter().map(|value| ("authorization".to_owned(), value.clone())).collect()
    }
}

/// A commit that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    id: Id,
    /// The ref that is it.
    name: String,
}

impl Commit {
    /// Its name, 40 digits.
    pub fn id(&self) -> String {
        self.id.to_string()
    }

    /// What it was found under, as `git ls-remote` shows it.
    pub fn shown(&self) -> String {
        format!("{}\t{}", self.id, self.name)
    }
}

fn disk(e: io::Error) -> Error {
    Error::invalid(format!("git: {e}")).with_kind(Kind::Unknown)
}

fn malformed(what: impl std::fmt::Display) -> Error {
    Error::invalid(format!("git: {what} is malformed")).with_kind(Kind::Unknown)
}

/// Finds the commit that is meant.
///
/// # Errors
/// What the remote answers; that it has no such ref, or another commit than the one that was said.
pub(crate) async fn find<W: Worker>(worker: &W, git: &Git, access: &Access) -> Result<Commit, Error> {
    let found = match Id::parse(&git.reference) {
        Some(id) => Commit { id, name: git.reference.clone() },
        None => {
            let mut remote =
                Remote::open(worker, &git.remote, access.headers(), access.agent.clone()).await?;
            let wanted = if git.reference.is_empty() { "HEAD" } else { &git.reference };
            let heads = format!("refs/heads/{}", wanted.trim_start_matches("refs/heads/"));
            let tags = format!("refs/tags/{}", wanted.trim_start_matches("refs/tags/"));
            let other = format!("refs/{}", wanted.trim_start_matches("refs/"));
            let names = [wanted, &heads, &tags, &other];
            let refs = remote.refs(&names).await?;
            let of = |name: &str| refs.iter().find(|r: &&Ref| r.name == name);
            // As git has it: a branch before a tag.
            let order = if wanted == "HEAD" { vec!["HEAD"] } else { vec![heads.as_str(), &tags, &other] };
            let none = || {
                let words = format!("repository does not contain ref {wanted}, output: \"\"");
                Error::invalid(words).with_kind(Kind::NotFound)
            };
            let found = order.into_iter().find_map(of).ok_or_else(none)?;
            Commit { id: found.peeled.unwrap_or(found.id), name: found.name.clone() }
        }
    };
    if let Some(wanted) = git.checksum.as_ref().filter(|c| !c.bytes().all(|b| b.is_ascii_hexdigit())) {
        let words = format!("invalid checksum {wanted} for Git URL, expected hex commit hash");
        return Err(Error::invalid(words));
    }
    if let Some(wanted) = git.checksum.as_ref().filter(|c| !found.id().starts_with(c.as_str())) {
        let words = format!("expected checksum to match {wanted}, got {}", found.id());
        return Err(Error::invalid(words));
    }
    Ok(found)
}

/// Puts the files of a commit into a new folder.
///
/// # Errors
/// What the remote answers; faults of the disk.
pub(crate) async fn checkout<W: Worker>(
    worker: &W,
    git: &Git,
    commit: &Commit,
    access: &Access,
    to: &Path,
) -> Result<(), Error> {
    let (id, remote) = (commit.id, git.remote.clone());
    let mut pack = fetch(worker, &remote, &id, access, to).await?;
    let (folder, keep) = (to.to_owned(), git.keep_git_dir);
    let subdir = git.subdir.clone();
    let name = commit.name.clone();
    let write = move || {
        let links = write(&mut pack, &id, &subdir, &folder)?;
        if keep {
            repository(&mut pack, &id, &name, &remote, &folder.join(".git"))?;
        }
        Ok::<_, Error>(links)
    };
    let links = tokio::task::spawn_blocking(write).await.map_err(|e| disk(e.into()))??;
    if git.skip_submodules {
        return Ok(());
    }
    modules(worker, links, git.remote.clone(), access, to, MODULES).await
}

/// The objects of one commit.
async fn fetch<W: Worker>(
    worker: &W,
    remote: &str,
    id: &Id,
    access: &Access,
    near: &Path,
) -> Result<Pack, Error> {
    let mut file = tempfile_in(near.parent().unwrap_or(near)).map_err(disk)?;
    let mut remote = Remote::open(worker, remote, access.headers(), access.agent.clone()).await?;
    remote.fetch(id, &mut file).await?;
    let file = file.into_std().await;
    tokio::task::spawn_blocking(move || Pack::open(file)).await.map_err(|e| disk(e.into()))?.map_err(disk)
}

/// A file without a name.
fn tempfile_in(folder: &Path) -> io::Result<tokio::fs::File> {
    let path = folder.join(format!("new-{}", crate::random_id()));
    let file = fs::File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(path)?;
    Ok(tokio::fs::File::from_std(file))
}

/// A module: where it stands, its commit, and the address that `.gitmodules` gives.
struct Module {
    path: String,
    id: Id,
    url: String,
}

fn modules<'a, W: Worker>(
    worker: &'a W,
    all: Vec<Module>,
    remote: String,
    access: &'a Access,
    to: &'a Path,
    deep: usize,
) -> std::pin::Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>> {
    Box::pin(async move {
        if all.len() > MODULE_COUNT || deep == 0 && !all.is_empty() {
            return Err(Error::invalid("git: too many modules within modules"));
        }
        for module in all {
            let url = relative(&remote, &module.url);
            // Another host must not be told the secret of this one.
            let same = host(&url) == host(&remote);
            let access = if same { access.clone() } else { Access { authorization: None, ..access.clone() } };
            let context = |e: Error| e.context(format!("module {}", module.path));
            let folder = to.join(&module.path);
            let mut pack = fetch(worker, &url, &module.id, &access, to).await.map_err(context)?;
            let (into, id) = (folder.clone(), module.id);
            let write = move || write(&mut pack, &id, "", &into);
            let links = tokio::task::spawn_blocking(write).await.map_err(|e| disk(e.into()))?;
            modules(worker, links.map_err(context)?, url, &access, &folder, deep - 1)
                .await
                .map_err(context)?;
        }
        Ok(())
    })
}

/// The host of a remote.
pub(crate) fn host(remote: &str) -> &str {
    let rest = remote.split_once("://").map_or(remote, |(_, rest)| rest);
    let place = rest.split(['/']).next().unwrap_or(rest);
    place.rsplit_once('@').map_or(place, |(_, host)| host)
}

/// The address of a module, which may be relative to the repository's.
fn relative(remote: &str, url: &str) -> String {
    if !url.starts_with("./") && !url.starts_with("../") {
        return url.to_owned();
    }
    let mut base = remote.trim_end_matches('/').to_owned();
    let mut rest = url;
    loop {
        if let Some(next) = rest.strip_prefix("./") {
            rest = next;
        } else if let Some(next) = rest.strip_prefix("../") {
            rest = next;
            let cut = base.rfind(['/', ':']).unwrap_or(0);
            let separator = &base[cut..cut + usize::from(cut > 0)];
            let keep = if separator == ":" { cut + 1 } else { cut };
            base.truncate(keep);
        } else {
            break;
        }
    }
    if base.ends_with(':') { format!("{base}{rest}") } else { format!("{base}/{rest}") }
}

fn object(pack: &mut Pack, id: &Id, kind: Object) -> Result<std::sync::Arc<Vec<u8>>, Error> {
    let none = || malformed(format_args!("the repository: {} {id} is not in it and", kind.word()));
    let (found, data) = pack.object(id).map_err(disk)?.ok_or_else(none)?;
    if found == kind { Ok(data) } else { Err(none()) }
}

/// The tree of a commit (or of a tag of one).
fn tree_of(pack: &mut Pack, id: &Id) -> Result<Id, Error> {
    let mut id = *id;
    for _ in 0..DEPTH {
        let (kind, data) = pack.object(&id).map_err(disk)?.ok_or_else(|| malformed(id))?;
        let first = data.split(|b| *b == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(first).into_owned();
        let (word, name) = line.split_once(' ').unwrap_or_default();
        let named = Id::parse(name).ok_or_else(|| malformed(id));
        match (kind, word) {
            (Object::Commit, "tree") => return named,
            (Object::Tag, "object") => id = named?,
            (Object::Tree, _) => return Ok(id),
            _ => return Err(malformed(id)),
        }
    }
    Err(malformed(id))
}

/// One entry of a tree.
#[derive(Debug)]
struct Item {
    mode: u32,
    name: String,
    id: Id,
}

fn items(data: &[u8]) -> Result<Vec<Item>, Error> {
    let mut out = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == 0).ok_or_else(|| malformed("a folder"))?;
        let (head, after) = rest.split_at(end);
        let id = after.get(1..21).ok_or_else(|| malformed("a folder"))?;
        let head = std::str::from_utf8(head).map_err(|_| malformed("a name that is no text"))?;
        let (mode, name) = head.split_once(' ').ok_or_else(|| malformed("a folder"))?;
        let mode = u32::from_str_radix(mode, 8).map_err(|_| malformed("a mode"))?;
        let lower = name.to_lowercase();
        if matches!(lower.as_str(), "" | "." | ".." | ".git") || name.contains('/') || name.contains('\0') {
            return Err(malformed(format_args!("the name {name:?}")));
        }
        let mut bytes = [0; 20];
        bytes.copy_from_slice(id);
        out.push(Item { mode, name: name.to_owned(), id: Id(bytes) });
        rest = &after[21..];
    }
    Ok(out)
}

/// Writes the files of a commit below a folder, which is made; gives its modules.
fn write(pack: &mut Pack, commit: &Id, subdir: &str, to: &Path) -> Result<Vec<Module>, Error> {
    let top = tree_of(pack, commit)?;
    let mut tree = top;
    for part in subdir.split('/').filter(|p| !p.is_empty()) {
        let none = || {
            let path = subdir.trim_start_matches('/');
            let why = format!("failed to lstat {path:?}: statat {path}: no such file or directory");
            Error::invalid(format!("invalid subdir {subdir}: {why}")).with_kind(Kind::NotFound)
        };
        let found = items(&object(pack, &tree, Object::Tree)?)?.into_iter().find(|i| i.name == part);
        tree = found.filter(|i| i.mode & 0o170000 == 0o040000).ok_or_else(none)?.id;
    }
    fs::create_dir_all(to).map_err(disk)?;
    let mut links = Vec::new();
    folder(pack, &tree, to, "", &mut links, 0)?;
    if links.is_empty() {
        return Ok(Vec::new());
    }
    // Modules are named from the top.
    let urls = match items(&object(pack, &top, Object::Tree)?)?.into_iter().find(|i| i.name == ".gitmodules")
    {
        Some(file) => addresses(&String::from_utf8_lossy(&object(pack, &file.id, Object::Blob)?)),
        None => Vec::new(),
    };
    let before = subdir.trim_matches('/');
    let module = |(path, id): (String, Id)| {
        let whole = if before.is_empty() { path.clone() } else { format!("{before}/{path}") };
        let url = urls.iter().find(|(at, _)| *at == whole).map(|(_, url)| url.clone())?;
        Some(Module { path, id, url })
    };
    Ok(links.into_iter().filter_map(module).collect())
}

fn folder(
    pack: &mut Pack,
    tree: &Id,
    to: &Path,
    path: &str,
    links: &mut Vec<(String, Id)>,
    depth: usize,
) -> Result<(), Error> {
    if depth > DEPTH {
        return Err(malformed("a tree that is too deep"));
    }
    for item in items(&object(pack, tree, Object::Tree)?)? {
        // Everything here is new: nothing of the tree can lead elsewhere.
        let at = to.join(&item.name);
        let path = if path.is_empty() { item.name.clone() } else { format!("{path}/{}", item.name) };
        match item.mode & 0o170000 {
            0o040000 => {
                fs::create_dir(&at).map_err(disk)?;
                folder(pack, &item.id, &at, &path, links, depth + 1)?;
            }
            0o120000 => {
                let target = object(pack, &item.id, Object::Blob)?;
                let target: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(target.as_slice());
                symlink(target, &at).map_err(disk)?;
            }
            0o160000 => {
                fs::create_dir(&at).map_err(disk)?;
                links.push((path, item.id));
            }
            0o100000 => {
                let data = object(pack, &item.id, Object::Blob)?;
                let mut file = fs::File::create_new(&at).map_err(disk)?;
                io::Write::write_all(&mut file, &data).map_err(disk)?;
                let mode = if item.mode & 0o111 != 0 { 0o755 } else { 0o644 };
                file.set_permissions(fs::Permissions::from_mode(mode)).map_err(disk)?;
            }
            _ => return Err(malformed(format_args!("the mode of {path}"))),
        }
    }
    Ok(())
}

/// Paths and addresses of `.gitmodules`.
fn addresses(text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let (mut path, mut url) = (None, None);
    for line in text.lines().chain(["["]) {
        let line = line.trim();
        if line.starts_with('[') {
            if let (Some(path), Some(url)) = (path.take(), url.take()) {
                all.push((path, url));
            }
        } else if let Some((key, value)) = line.split_once('=') {
            let value = Some(value.trim().trim_matches('"').to_owned());
            match key.trim() {
                "path" => path = value,
                "url" => url = value,
                _ => {}
            }
        }
    }
    all
}

/// Writes `.git`: a repository of this commit alone, so that programs can ask which it is.
fn repository(pack: &mut Pack, commit: &Id, name: &str, remote: &str, to: &Path) -> Result<(), Error> {
    let file = |path: &str, data: &[u8]| {
        let path = to.join(path);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, data));
        made.map_err(disk)
    };
    for id in pack.ids().collect::<Vec<_>>() {
        let Some((kind, data)) = pack.object(&id).map_err(disk)? else { continue };
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        let head = format!("{} {}\0", kind.word(), data.len());
        io::Write::write_all(&mut packed, head.as_bytes()).map_err(disk)?;
        io::Write::write_all(&mut packed, &data).map_err(disk)?;
        let name = id.to_string();
        let packed = packed.finish().map_err(disk)?;
        file(&format!("objects/{}/{}", &name[..2], &name[2..]), &packed)?;
    }
    let line = format!("{commit}\n");
    file("shallow", line.as_bytes())?;
    if name.starts_with("refs/") {
        file(name, line.as_bytes())?;
    }
    // On no branch: whoever commits there would move it, and it is of one commit alone.
    file("HEAD", line.as_bytes())?;
    fs::create_dir_all(to.join("refs/heads")).map_err(disk)?;
    let config = format!(
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n[remote \"origin\"]\n\turl = \
         {remote}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
    );
    file("config", config.as_bytes())?;
    let index = index::of(pack, commit)?;
    file("index", &index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_have_addresses() {
        let text = "[submodule \"a\"]\n\tpath = lib/a\n\turl = ../a.git\n[submodule \"b\"]\n path=b\n url=https://x/b\n";
        assert_eq!(
            addresses(text),
            [("lib/a".to_owned(), "../a.git".to_owned()), ("b".to_owned(), "https://x/b".to_owned())]
        );
        for (remote, url, expected) in [
            ("https://x/y/z.git", "../a.git", "https://x/y/a.git"),
            ("https://x/y/z.git", "./a.git", "https://x/y/z.git/a.git"),
            ("https://x/y/z.git", "https://other/a", "https://other/a"),
            ("git@x:y/z.git", "../a.git", "git@x:y/a.git"),
            ("git@x:z.git", "../a.git", "git@x:a.git"),
        ] {
            assert_eq!(relative(remote, url), expected);
        }
        assert_eq!((host("https://u@x/y"), host("https://x/z")), ("x", "x"));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let tree = |name: &str| [format!("100644 {name}\0").as_bytes(), &[1; 20]].concat();
        assert_eq!(items(&tree("file")).unwrap()[0].mode, 0o100644);
        for name in ["..", ".", ".git", ".GIT", "a/b", "", "/etc"] {
            assert!(items(&tree(name)).is_err(), "{name}");
        }
        assert!(items(b"100644 cut\0abc").is_err());
        assert!(items(b"xyz").is_err());
    }
}
