//! Reading images out of the store's records.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension as _};

use crate::spec::{ConfigDocument, Document, History, ImageConfig};
use crate::store::Store;
use crate::{Descriptor, Digest, Error, Platform, Reference};

/// Shortest ID prefix taken for one, hex digits (Docker's).
const SHORT_ID: usize = 4;

/// An image, as one of its manifests describes it.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the index or manifest it stands for.
    pub id: Digest,
    /// Names with tags, in familiar form (`busybox:latest`).
    pub repo_tags: Vec<String>,
    /// Names with digests (`busybox@sha256:...`).
    pub repo_digests: Vec<String>,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// Bytes of its content (compressed) and of its layers (unpacked), as `docker images` counts them with the
    /// containerd store.
    pub size: u64,
    /// Bytes of its content alone.
    pub content_size: u64,
    /// What its containers start with.
    pub config: ImageConfig,
    /// Processor architecture.
    pub architecture: String,
    /// Operating system.
    pub os: String,
    /// Processor variant, or empty.
    pub variant: String,
    /// Author, or empty.
    pub author: String,
    /// Digests of the unpacked layers, the lowest first.
    pub diff_ids: Vec<String>,
    /// Index or manifest it stands for.
    pub descriptor: Descriptor,
    /// Manifest all this was read from: the one that fits this machine best of those that are here.
    pub manifest: Digest,
    /// Digest of its configuration.
    pub config_digest: Digest,
    /// How it was made.
    pub history: Vec<History>,
    /// When it last got a name; none for an image without names.
    pub last_tagged: Option<SystemTime>,
    /// What kind of artifact it is (a media type); none for an image that containers can be made of.
    pub artifact: Option<String>,
}

/// The stored bytes of an index, manifest or configuration, with their media type.
pub(crate) fn document(store: &Store, digest: &Digest) -> Result<Option<(String, Vec<u8>)>, Error> {
    store.read(|db| document_in(db, digest))
}

/// The same, within a reading already begun.
pub(crate) fn document_in(db: &Connection, digest: &Digest) -> Result<Option<(String, Vec<u8>)>, Error> {
    stored(db, &digest.to_string())
}

fn stored(db: &Connection, digest: &str) -> Result<Option<(String, Vec<u8>)>, Error> {
    Ok(db
        .prepare_cached("SELECT media_type, data FROM image_document WHERE digest = ?1")?
        .query_row([digest], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?)
}

/// Bytes on disk of unpacked layers; 0 for those that are not.
pub(crate) fn layer_sizes(db: &Connection, diff_ids: &[String]) -> Result<Vec<u64>, Error> {
    let mut size = db.prepare_cached("SELECT disk_bytes FROM image_layer WHERE diff_id = ?1")?;
    diff_ids
        .iter()
        .map(|id| Ok(size.query_row([id], |r| r.get::<_, i64>(0)).optional()?.unwrap_or(0) as u64))
        .collect()
}

/// Names of an image, in full form.
pub(crate) fn names(db: &Connection, target: &Digest) -> Result<Vec<Reference>, Error> {
    let names: Vec<String> = db
        .prepare_cached("SELECT name FROM image_name WHERE target = ?1 ORDER BY name")?
        .query_map([target.to_string()], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    names.iter().map(|n| Reference::parse(n)).collect()
}

/// What a name or ID stands for: the image, and the name by which it was found if it was a name.
pub(crate) fn find(db: &Connection, text: &str) -> Result<(Digest, Option<Reference>), Error> {
    let target_of = |name: &str| -> Result<Option<Digest>, Error> {
        db.prepare_cached("SELECT target FROM image_name WHERE name = ?1")?
            .query_row([name], |r| r.get::<_, String>(0))
            .optional()?
            .map(|d| d.parse())
            .transpose()
    };
    if let Ok(digest) = text.parse::<Digest>() {
        let known = db
            .prepare_cached("SELECT 1 FROM image_target WHERE digest = ?1")?
            .exists([digest.to_string()])?;
        if known {
            return Ok((digest, None));
        }
        // A build tells the digest of the configuration as well, which was an image's ID for ten years.
        let of_config: Option<String> = db
            .prepare_cached(
                "SELECT t.digest FROM image_manifest m JOIN image_target t ON t.digest = m.digest
                 OR t.digest IN (SELECT parent FROM image_child WHERE child = m.digest) WHERE m.config = ?1",
            )?
            .query_row([digest.to_string()], |r| r.get(0))
            .optional()?;
        return match of_config {
            Some(id) => Ok((id.parse()?, None)),
            None => Err(Error::NoSuchImage(text.into())),
        };
    }
    let reference = Reference::parse(text);
    if let Ok(reference) = &reference {
        if let Some(digest) = reference.digest() {
            // Any name of this repository that stands for it will do, or the very tag when one was given.
            let same = |name: &Reference| {
                name.domain() == reference.domain()
                    && name.path() == reference.path()
                    && (reference.tag().is_none() || name.tag().is_none() || name.tag() == reference.tag())
            };
            if let Some(name) = names(db, digest)?.into_iter().find(same) {
                return Ok((*digest, Some(name)));
            }
        } else if let Some(target) = target_of(&reference.to_string())? {
            return Ok((target, Some(reference.clone())));
        }
    }
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if (SHORT_ID..=64).contains(&hex.len()) && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        let found: Vec<String> = db
            .prepare_cached(
                "SELECT digest FROM image_target WHERE digest >= ?1 AND digest < ?1 || 'g' LIMIT 2",
            )?
            .query_map([format!("sha256:{hex}")], |r| r.get(0))?
            .collect::<Result<_, _>>()?;
        match found.as_slice() {
            [] => {}
            [one] => return Ok((one.parse()?, None)),
            _ => return Err(Error::Ambiguous(text.into())),
        }
    }
    Err(match reference {
        Ok(reference) => Error::NoSuchImage(reference.familiar()),
        // An ID that is none of ours is no name, and no bad one.
        Err(_) if hex.len() == 64 => Error::NoSuchImage(text.into()),
        Err(e) => e,
    })
}

/// The manifest of an image to use here: itself, or the best of an index's that are complete.
pub(crate) fn manifest_of(
    db: &Connection,
    target: &Digest,
    wanted: &Platform,
) -> Result<Option<(Digest, Platform)>, Error> {
    let rows = runnable(db, target)?;
    // Without one for this machine, what there is: `docker pull --platform` of another one.
    Ok(rows.into_iter().min_by_key(|(_, p)| wanted.fit(p).unwrap_or(u32::MAX)))
}

/// The manifests of an image that are complete here, with their platforms.
pub(crate) fn runnable(db: &Connection, target: &Digest) -> Result<Vec<(Digest, Platform)>, Error> {
    let rows: Vec<(String, Platform)> = db
        .prepare_cached(
            "SELECT digest, os, architecture, variant FROM image_manifest WHERE digest = ?1
             UNION ALL SELECT m.digest, os, architecture, variant FROM image_child JOIN image_manifest m ON m.digest = child
             WHERE parent = ?1",
        )?
        .query_map([target.to_string()], |r| {
            Ok((r.get(0)?, Platform { os: r.get(1)?, architecture: r.get(2)?, variant: r.get(3)? }))
        })?
        .collect::<Result<_, _>>()?;
    rows.into_iter().map(|(digest, platform)| Ok((digest.parse()?, platform))).collect()
}

/// One manifest of an image: what is here of it and what it takes (`GET /images/json?manifests=1`).
#[derive(Debug, Clone)]
pub struct ManifestSummary {
    /// What the index says of it; of an image without an index its own descriptor.
    pub descriptor: Descriptor,
    /// Whether all of its content is here.
    pub available: bool,
    /// Bytes of its content that are here.
    pub content: u64,
    /// Bytes of its unpacked layers.
    pub unpacked: u64,
    /// What it is.
    pub kind: ManifestKind,
}

/// What a manifest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestKind {
    /// Something to run, for this platform.
    Image(Platform),
    /// Statements about another manifest (BuildKit's attestations).
    Attestation(String),
    /// Another artifact, or an image of which too little is here to tell.
    Unknown,
}

/// The manifests an image's index names, here or not; of an image without one that itself.
pub(crate) fn manifests(db: &Connection, id: &Digest) -> Result<Vec<ManifestSummary>, Error> {
    let gone = || Error::NoSuchImage(id.to_string());
    let (media_type, data) = document_in(db, id)?.ok_or_else(gone)?;
    let named = match Document::parse(&media_type, &data, &id.to_string())?.0 {
        Document::Index(index) => index.manifests,
        Document::Manifest(_) => vec![crate::pull::descriptor(&media_type, *id, &data)],
    };
    named.into_iter().map(|descriptor| summary(db, descriptor)).collect()
}

fn summary(db: &Connection, descriptor: Descriptor) -> Result<ManifestSummary, Error> {
    let digest = descriptor.digest.to_string();
    let platform: Option<Platform> = db
        .prepare_cached("SELECT os, architecture, variant FROM image_manifest WHERE digest = ?1")?
        .query_row([&digest], |r| Ok(Platform { os: r.get(0)?, architecture: r.get(1)?, variant: r.get(2)? }))
        .optional()?;
    let unpacked: i64 = db
        .prepare_cached(
            "SELECT coalesce(sum(disk_bytes), 0) FROM image_layer WHERE diff_id IN
             (SELECT diff_id FROM image_chain WHERE manifest = ?1)",
        )?
        .query_row([&digest], |r| r.get(0))?;
    let kind = match (descriptor.attests(), platform.or_else(|| descriptor.platform.clone())) {
        (Some(of), _) => ManifestKind::Attestation(of.into()),
        (None, Some(platform)) if platform.os != "unknown" => ManifestKind::Image(platform),
        _ => ManifestKind::Unknown,
    };
    Ok(ManifestSummary {
        available: is_here(db, &descriptor.digest)?,
        content: content_size(db, &descriptor.digest)?,
        unpacked: unpacked as u64,
        kind,
        descriptor,
    })
}

/// Whether a blob is kept here.
pub(crate) fn has_blob(db: &Connection, digest: &Digest) -> Result<bool, Error> {
    Ok(db.prepare_cached("SELECT 1 FROM image_blob WHERE digest = ?1")?.exists([digest.to_string()])?)
}

/// Whether a layer is unpacked here.
pub(crate) fn has_layer(db: &Connection, diff_id: &Digest) -> Result<bool, Error> {
    Ok(db.prepare_cached("SELECT 1 FROM image_layer WHERE diff_id = ?1")?.exists([diff_id.to_string()])?)
}

/// Whether a manifest and everything it names are here.
pub(crate) fn is_here(db: &Connection, manifest: &Digest) -> Result<bool, Error> {
    let (children, present): (i64, i64) = db
        .prepare_cached(
            "SELECT count(*), coalesce(sum(child IN (SELECT digest FROM image_blob)
                                        OR child IN (SELECT digest FROM image_document)), 0)
             FROM image_child WHERE parent = ?1",
        )?
        .query_row([manifest.to_string()], |r| Ok((r.get(0)?, r.get(1)?)))?;
    Ok(children > 0 && present == children)
}

/// All of one image, as the manifest that fits this machine best describes it.
pub(crate) fn image(db: &Connection, id: &Digest) -> Result<Image, Error> {
    image_for(db, id, None)
}

/// The same for a platform, which must then be here.
pub(crate) fn image_for(db: &Connection, id: &Digest, wanted: Option<&Platform>) -> Result<Image, Error> {
    let gone = || Error::NoSuchImage(id.to_string());
    let descriptor = db
        .prepare_cached("SELECT media_type, size FROM image_target WHERE digest = ?1")?
        .query_row([id.to_string()], |r| {
            Ok(Descriptor {
                media_type: r.get(0)?,
                digest: *id,
                size: r.get::<_, i64>(1)? as u64,
                platform: None,
                urls: Vec::new(),
                annotations: Default::default(),
            })
        })
        .optional()?
        .ok_or_else(gone)?;
    let (manifest, platform) = match wanted {
        None => match manifest_of(db, id, &Platform::host())? {
            Some(found) => found,
            None => return artifact(db, descriptor),
        },
        Some(wanted) => manifest_of(db, id, wanted)?
            .filter(|(_, found)| wanted.fit(found).is_some())
            .ok_or_else(|| Error::PlatformNotHere { image: id.to_string(), platform: wanted.to_string() })?,
    };
    let config_digest: String = db
        .prepare_cached("SELECT config FROM image_manifest WHERE digest = ?1")?
        .query_row([manifest.to_string()], |r| r.get(0))?;
    let (_, config) = stored(db, &config_digest)?
        .ok_or_else(|| Error::content("image database", format!("{config_digest} is missing")))?;
    let config: ConfigDocument =
        serde_json::from_slice(&config).map_err(|e| Error::content(format!("configuration of {id}"), e))?;
    let (repo_tags, repo_digests) = familiar_names(db, id)?;
    let content_size = content_size(db, id)?;
    let unpacked: i64 = db
        .prepare_cached(
            "SELECT coalesce(sum(disk_bytes), 0) FROM image_layer WHERE diff_id IN
             (SELECT diff_id FROM image_chain WHERE manifest = ?1 OR manifest IN
               (SELECT child FROM image_child WHERE parent = ?1))",
        )?
        .query_row([id.to_string()], |r| r.get(0))?;
    Ok(Image {
        id: *id,
        repo_tags,
        repo_digests,
        created: config.created,
        size: content_size + unpacked as u64,
        content_size,
        config: config.config,
        architecture: config.platform.architecture,
        os: platform.os,
        variant: config.platform.variant,
        author: config.author.unwrap_or_default(),
        diff_ids: config.rootfs.diff_ids.iter().map(Digest::to_string).collect(),
        descriptor,
        manifest,
        config_digest: config_digest.parse()?,
        history: config.history,
        last_tagged: last_tagged(db, id)?,
        artifact: None,
    })
}

/// Tags and digests of an image as Docker shows them.
fn familiar_names(db: &Connection, id: &Digest) -> Result<(Vec<String>, Vec<String>), Error> {
    let names = names(db, id)?;
    let mut digests: Vec<String> = names.iter().map(|n| n.with_digest(*id).familiar()).collect();
    digests.dedup();
    Ok((names.iter().filter(|n| n.digest().is_none()).map(Reference::familiar).collect(), digests))
}

/// When an image last got a name.
fn last_tagged(db: &Connection, id: &Digest) -> Result<Option<SystemTime>, Error> {
    let at: Option<i64> = db
        .prepare_cached("SELECT max(tagged) FROM image_name WHERE target = ?1")?
        .query_row([id.to_string()], |r| r.get(0))?;
    Ok(at.and_then(|at| u64::try_from(at).ok()).map(|at| SystemTime::UNIX_EPOCH + Duration::from_nanos(at)))
}

/// What is kept and listed, but is no image to run: there is no configuration of one.
fn artifact(db: &Connection, descriptor: Descriptor) -> Result<Image, Error> {
    let id = descriptor.digest;
    let (media_type, data) = document_in(db, &id)?.ok_or_else(|| Error::NoSuchImage(id.to_string()))?;
    let (config_digest, kind) = match Document::parse(&media_type, &data, &id.to_string())?.0 {
        Document::Manifest(manifest) => (manifest.config.digest, manifest.kind().to_owned()),
        Document::Index(_) => (id, media_type),
    };
    let (repo_tags, repo_digests) = familiar_names(db, &id)?;
    let content_size = content_size(db, &id)?;
    Ok(Image {
        id,
        repo_tags,
        repo_digests,
        created: None,
        size: content_size,
        content_size,
        config: ImageConfig::default(),
        architecture: String::new(),
        os: String::new(),
        variant: String::new(),
        author: String::new(),
        diff_ids: Vec::new(),
        descriptor,
        manifest: id,
        config_digest,
        history: Vec::new(),
        last_tagged: last_tagged(db, &id)?,
        artifact: Some(kind),
    })
}

/// Bytes of the documents and blobs of an image that are here.
fn content_size(db: &Connection, id: &Digest) -> Result<u64, Error> {
    let bytes: i64 = db
        .prepare_cached(
            "WITH RECURSIVE reached(digest) AS (
               VALUES(?1) UNION SELECT child FROM image_child JOIN reached ON parent = reached.digest)
             SELECT coalesce((SELECT sum(size) FROM image_blob WHERE digest IN reached), 0)
                  + coalesce((SELECT sum(length(data)) FROM image_document WHERE digest IN reached), 0)",
        )?
        .query_row([id.to_string()], |r| r.get(0))?;
    Ok(bytes as u64)
}

/// All images, the newest first.
pub(crate) fn list(db: &Connection) -> Result<Vec<Image>, Error> {
    let ids: Vec<String> = db
        .prepare_cached("SELECT digest FROM image_target ORDER BY added DESC, digest")?
        .query_map([], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    ids.iter().map(|id| image(db, &id.parse()?)).collect()
}
