//! Removal by name or ID, pruning, and what disk space is used for. Docker's rules:
//!
//! * a name goes alone while the image has others; the last one takes the image with it;
//! * an ID takes all names, unless they are in several repositories and it is not forced;
//! * a container keeps its image's name unless forced, and its content always.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;

use rusqlite::{Connection, OptionalExtension as _, Transaction};

use crate::spec::Document;
use crate::store::Store;
use crate::{Digest, Error, Image, Platform, Reference, records};

/// How to remove.
#[derive(Debug, Clone, Default)]
pub struct RemoveOptions {
    /// Also with several names, or used by stopped containers.
    pub force: bool,
    /// Docker's `noprune=false`: accepted for its API. Content that nothing else uses always goes with the image.
    pub prune_children: bool,
    /// Only the manifests of these platforms, and what attests them. Empty: the image.
    pub platforms: Vec<Platform>,
}

/// A container that uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// The container's ID.
    pub container: String,
    /// Whether it runs.
    pub running: bool,
}

/// Asks who uses an image.
pub type InUse<'a> = &'a (dyn Fn(&Digest) -> Vec<ImageUse> + Send + Sync);

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// This name is gone.
    Untagged(String),
    /// This image is gone.
    Deleted(String),
}

/// What to prune.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Also images that have names (`dangling=false`).
    pub all: bool,
    /// Only those made before, seconds since 1970.
    pub until: Option<i64>,
    /// Only those with these labels: `key` or `key=value`.
    pub labels: Vec<String>,
    /// Only those without these.
    pub not_labels: Vec<String>,
}

/// What pruning did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// What went.
    pub removed: Vec<Removed>,
    /// Bytes of disk given back.
    pub space_reclaimed: u64,
}

/// What pruning would do now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prunable {
    /// Images that would go.
    pub images: usize,
    /// Bytes of disk that nothing else needs then.
    pub bytes: u64,
}

/// What images use of the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of all blobs, documents and unpacked layers, each once.
    pub total: u64,
    /// Per image: ID, bytes, and bytes of these that other images use too.
    pub images: Vec<ImageUsage>,
}

/// One image's part of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUsage {
    /// The image.
    pub id: Digest,
    /// All its bytes.
    pub size: u64,
    /// Those that other images use too.
    pub shared: u64,
}

/// Removes records; content follows by collection.
pub(crate) fn remove(
    tx: &Transaction<'_>,
    id: Digest,
    name: Option<&Reference>,
    options: &RemoveOptions,
    uses: &[ImageUse],
) -> Result<Vec<Removed>, Error> {
    let names = records::names(tx, &id)?;
    let short = id.short();
    let container = |u: &ImageUse| u.container.chars().take(12).collect::<String>();
    if let Some(name) = name {
        let same_repository =
            |other: &Reference| other.domain() == name.domain() && other.path() == name.path();
        // A name by digest does not hold its image when the repository's last tag goes.
        let tags_left = names.iter().any(|n| n != name && same_repository(n) && n.tag().is_some());
        let (gone, left): (Vec<_>, Vec<_>) = names
            .into_iter()
            .partition(|n| n == name || (!tags_left && same_repository(n) && n.tag().is_none()));
        if !left.is_empty() {
            return untag(tx, &gone);
        }
        if let Some(user) = uses.first() {
            if !options.force {
                return Err(Error::Conflict {
                    what: "delete",
                    name: name.familiar(),
                    why: format!(
                        "(must be forced) - container {} is using its referenced image {short}",
                        container(user)
                    ),
                });
            }
            return untag(tx, &gone);
        }
        return delete(tx, &id, &gone);
    }
    let conflict = |why: String| Err(Error::Conflict { what: "delete", name: short.clone(), why });
    if let Some(user) = uses.iter().find(|u| u.running) {
        return conflict(format!(
            "(cannot be forced) - image is being used by running container {}",
            container(user)
        ));
    }
    if !options.force {
        let repositories: BTreeSet<String> = names.iter().map(Reference::familiar_name).collect();
        if repositories.len() > 1 {
            return conflict("(must be forced) - image is referenced in multiple repositories".into());
        }
        if let Some(user) = uses.first() {
            return conflict(format!(
                "(must be forced) - image is being used by stopped container {}",
                container(user)
            ));
        }
    }
    delete(tx, &id, &names)
}

/// Removes the manifests of some platforms, as if they had never been fetched. The image goes with its last one.
pub(crate) fn remove_platforms(
    tx: &Transaction<'_>,
    id: Digest,
    name: Option<&Reference>,
    options: &RemoveOptions,
    uses: &[ImageUse],
) -> Result<Vec<Removed>, Error> {
    let shown = name.map_or_else(|| id.to_string(), Reference::familiar);
    let here = records::runnable(tx, &id)?;
    let mut gone = BTreeSet::new();
    for wanted in &options.platforms {
        let fits = here.iter().find(|(_, platform)| wanted.fit(platform) == Some(0));
        let missing = || Error::PlatformNotHere { image: shown.clone(), platform: wanted.to_string() };
        gone.insert(fits.ok_or_else(missing)?.0);
    }
    if gone.len() == here.len() {
        return remove(tx, id, name, options, uses);
    }
    let conflict = |why: String| Err(Error::Conflict { what: "delete", name: shown.clone(), why });
    for manifest in &gone {
        let text = manifest.to_string();
        let user: Option<String> = tx
            .prepare_cached("SELECT key FROM image_mount WHERE manifest = ?1 LIMIT 1")?
            .query_row([&text], |r| r.get(0))
            .optional()?;
        if let Some(user) = user {
            let user: String = user.chars().take(12).collect();
            return conflict(format!(
                "(cannot be forced) - container {user} is using its referenced image {}",
                manifest.short()
            ));
        }
        let shared = tx
            .prepare_cached(
                "SELECT 1 FROM image_target WHERE digest != ?1 AND
                 (digest = ?2 OR digest IN (SELECT parent FROM image_child WHERE child = ?2))",
            )?
            .exists((id.to_string(), &text))?;
        if shared {
            return conflict(
                "(cannot be forced) - the platform's manifest is part of another image too".into(),
            );
        }
    }
    let (media_type, data) =
        records::document_in(tx, &id)?.ok_or_else(|| Error::NoSuchImage(shown.clone()))?;
    let mut forgotten = gone.clone();
    if let Document::Index(index) = Document::parse(&media_type, &data, &shown)?.0 {
        let about = |of: &str| gone.iter().any(|digest| digest.to_string() == of);
        forgotten.extend(index.manifests.iter().filter(|m| m.attests().is_some_and(about)).map(|m| m.digest));
    }
    for manifest in &forgotten {
        for table in [
            "image_manifest WHERE digest",
            "image_chain WHERE manifest",
            "image_child WHERE parent",
            "image_document WHERE digest",
        ] {
            tx.execute(&format!("DELETE FROM {table} = ?1"), [manifest.to_string()])?;
        }
    }
    Ok(gone.iter().map(|digest| Removed::Deleted(digest.to_string())).collect())
}

fn untag(tx: &Transaction<'_>, names: &[Reference]) -> Result<Vec<Removed>, Error> {
    for name in names {
        tx.prepare_cached("DELETE FROM image_name WHERE name = ?1")?.execute([name.to_string()])?;
    }
    Ok(names.iter().map(|n| Removed::Untagged(n.familiar())).collect())
}

fn delete(tx: &Transaction<'_>, id: &Digest, names: &[Reference]) -> Result<Vec<Removed>, Error> {
    let mut removed = untag(tx, names)?;
    tx.prepare_cached("DELETE FROM image_target WHERE digest = ?1")?.execute([id.to_string()])?;
    removed.push(Removed::Deleted(id.to_string()));
    Ok(removed)
}

/// Whether pruning takes this image.
pub(crate) fn is_prunable(image: &Image, options: &PruneOptions) -> bool {
    let named = !image.repo_tags.is_empty() || !image.repo_digests.is_empty();
    let has = |wanted: &String| match wanted.split_once('=') {
        Some((key, value)) => image.config.labels.get(key).is_some_and(|v| v == value),
        None => image.config.labels.contains_key(wanted),
    };
    let made = image
        .created
        .as_deref()
        .and_then(|c| chrono::DateTime::parse_from_rfc3339(c).ok())
        .map_or(0, |t| t.timestamp());
    (options.all || !named)
        && options.until.is_none_or(|until| made < until)
        && options.labels.iter().all(has)
        && !options.not_labels.iter().any(has)
}

/// Removes an image that pruning chose, unless it changed meanwhile.
pub(crate) fn prune(tx: &Transaction<'_>, image: &Image) -> Result<Vec<Removed>, Error> {
    let names = records::names(tx, &image.id)?;
    let known: Vec<String> = names.iter().map(Reference::familiar).collect();
    if known.iter().any(|n| !image.repo_tags.contains(n) && !image.repo_digests.contains(n)) {
        return Ok(Vec::new());
    }
    delete(tx, &image.id, &names)
}

/// Bytes by image, and those shared.
pub(crate) fn disk_usage(db: &Connection) -> Result<DiskUsage, Error> {
    let total: i64 = db.query_row(
        "SELECT coalesce((SELECT sum(size) FROM image_blob), 0)
              + coalesce((SELECT sum(length(data)) FROM image_document), 0)
              + coalesce((SELECT sum(disk_bytes) FROM image_layer), 0)",
        [],
        |r| r.get(0),
    )?;
    let rows = pieces(db)?;
    let mut users: HashMap<&str, usize> = HashMap::new();
    for (_, piece, _) in &rows {
        *users.entry(piece).or_default() += 1;
    }
    let mut images: Vec<ImageUsage> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (target, piece, bytes) in &rows {
        let place = match places.get(target.as_str()) {
            Some(place) => *place,
            None => {
                images.push(ImageUsage { id: target.parse()?, size: 0, shared: 0 });
                places.insert(target, images.len() - 1);
                images.len() - 1
            }
        };
        images[place].size += *bytes as u64;
        if users[piece.as_str()] > 1 {
            images[place].shared += *bytes as u64;
        }
    }
    Ok(DiskUsage { total: total as u64, images })
}

/// Bytes that only these images need.
pub(crate) fn needed_by(db: &Connection, these: &BTreeSet<String>) -> Result<u64, Error> {
    let rows = pieces(db)?;
    let others: HashSet<&str> = rows
        .iter()
        .filter(|(target, ..)| !these.contains(target))
        .map(|(_, piece, _)| piece.as_str())
        .collect();
    let mut counted = HashSet::new();
    let own = rows.iter().filter(|(target, piece, _)| {
        these.contains(target) && !others.contains(piece.as_str()) && counted.insert(piece.as_str())
    });
    Ok(own.map(|(_, _, bytes)| *bytes as u64).sum())
}

/// Every piece of every image, once per image: the image, the piece, its bytes.
fn pieces(db: &Connection) -> Result<Vec<(String, String, i64)>, Error> {
    let mut pieces = db.prepare(
        "WITH RECURSIVE reached(target, digest) AS (
           SELECT digest, digest FROM image_target
           UNION SELECT target, child FROM image_child JOIN reached ON parent = reached.digest)
         SELECT target, 'b' || b.digest, size FROM reached JOIN image_blob b USING(digest)
         UNION SELECT target, 'd' || d.digest, length(data) FROM reached JOIN image_document d USING(digest)
         UNION SELECT target, 'l' || l.diff_id, disk_bytes FROM reached JOIN image_chain c ON c.manifest = reached.digest
           JOIN image_layer l USING(diff_id)",
    )?;
    let rows = pieces.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Bytes on disk that a container has written.
pub(crate) fn container_size(store: &Store, key: &str) -> Result<u64, Error> {
    let mut bytes = 0;
    let mut links = BTreeSet::new();
    let mut folders = vec![store.container_path(key).join("upper")];
    while let Some(folder) = folders.pop() {
        let items = match std::fs::read_dir(&folder) {
            Ok(items) => items,
            // A running container may remove it under us.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::os("read", &folder, e)),
        };
        for item in items.flatten() {
            let Ok(meta) = item.metadata() else { continue };
            if meta.is_dir() {
                folders.push(item.path());
            } else if meta.nlink() > 1 && !links.insert((meta.dev(), meta.ino())) {
                continue;
            }
            bytes += meta.blocks() * 512;
        }
    }
    Ok(bytes)
}
