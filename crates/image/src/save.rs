//! Saving: an OCI layout that is a docker-archive as well (`index.json` and `manifest.json`), as Docker writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use rusqlite::Connection;
use serde_json::json;

use crate::spec::{Document, OCI_INDEX};
use crate::store::{Pin, Store};
use crate::{Descriptor, Digest, Error, Platform, Reference, records};

/// Bytes written at once.
const BUFFER: usize = 256 * 1024;

/// What an archive will hold.
pub(crate) struct Plan {
    index: Vec<u8>,
    manifest: Vec<u8>,
    documents: Vec<Digest>,
    blobs: Vec<(Digest, u64)>,
    _pins: Vec<Pin>,
}

/// Looks everything up before the first byte goes out, so that a wrong name is an error and not half an archive.
pub(crate) fn plan(store: &Arc<Store>, names: &[String], platform: Option<&Platform>) -> Result<Plan, Error> {
    if names.is_empty() {
        return Err(Error::Invalid("no image given to save".into()));
    }
    let found = store.read(|db| {
        let mut found: Vec<(Digest, Vec<Reference>)> = Vec::new();
        for name in names {
            for (id, reference) in resolve(db, name)? {
                let place = match found.iter().position(|(other, _)| *other == id) {
                    Some(place) => place,
                    None => {
                        found.push((id, Vec::new()));
                        found.len() - 1
                    }
                };
                let tags = &mut found[place].1;
                tags.extend(reference.filter(|r| r.tag().is_some() && !tags.contains(r)));
            }
        }
        Ok(found)
    })?;
    plan_of(store, found, &BTreeMap::new(), platform)
}

/// The same for images by their IDs, each under names of the archive's own, and with annotations of what names it there.
pub(crate) fn plan_of(
    store: &Arc<Store>,
    found: Vec<(Digest, Vec<Reference>)>,
    annotations: &BTreeMap<String, String>,
    platform: Option<&Platform>,
) -> Result<Plan, Error> {
    let pins = found.iter().map(|(id, _)| store.pin([*id])).collect();
    store.read(|db| {
        let mut documents = BTreeSet::new();
        let mut blobs = Vec::new();
        let (mut index, mut manifest) = (Vec::new(), Vec::new());
        for (id, tags) in &found {
            let image = records::image_for(db, id, platform).map_err(|e| match (e, tags.first()) {
                (Error::PlatformNotHere { platform, .. }, Some(tag)) => {
                    Error::PlatformNotHere { image: tag.familiar(), platform }
                }
                (e, _) => e,
            })?;
            let mut open = vec![*id];
            while let Some(digest) = open.pop() {
                if records::document_in(db, &digest)?.is_none() {
                    let size = db
                        .prepare_cached("SELECT size FROM image_blob WHERE digest = ?1")?
                        .query_map([digest.to_string()], |r| r.get::<_, i64>(0))?
                        .next()
                        .transpose()?;
                    // Manifests of other platforms may be absent.
                    if let Some(size) = size.filter(|_| !blobs.iter().any(|(b, _)| *b == digest)) {
                        blobs.push((digest, size as u64));
                    }
                    continue;
                }
                documents.insert(digest);
                // Configurations have no children; the query says so.
                let children: Vec<String> = db
                    .prepare_cached("SELECT child FROM image_child WHERE parent = ?1")?
                    .query_map([digest.to_string()], |r| r.get(0))?
                    .collect::<Result<_, _>>()?;
                for child in children {
                    let child = child.parse()?;
                    // Of an index only the manifest asked for; what others have besides stays away.
                    if platform.is_none() || digest != *id || *id == image.manifest || child == image.manifest
                    {
                        open.push(child);
                    }
                }
            }
            let entries: Vec<Option<&Reference>> =
                if tags.is_empty() { vec![None] } else { tags.iter().map(Some).collect() };
            for tag in entries {
                let mut descriptor: Descriptor = image.descriptor.clone();
                descriptor.annotations.extend(annotations.clone());
                if let Some(tag) = tag {
                    descriptor.annotations.insert("io.containerd.image.name".into(), tag.to_string());
                    descriptor.annotations.insert(
                        "org.opencontainers.image.ref.name".into(),
                        tag.tag().unwrap_or_default().into(),
                    );
                }
                index.push(descriptor);
            }
            // A docker-archive knows images only.
            if image.artifact.is_some() {
                continue;
            }
            let path = |d: &Digest| format!("blobs/sha256/{}", d.hex());
            let (media_type, data) = records::document_in(db, &image.manifest)?
                .ok_or_else(|| Error::content("image database", format!("{} is missing", image.manifest)))?;
            let (Document::Manifest(document), _) = Document::parse(&media_type, &data, "manifest")? else {
                return Err(Error::content("image database", "an index where a manifest was expected"));
            };
            manifest.push(json!({
                "Config": path(&image.config_digest),
                "RepoTags": tags.iter().map(Reference::familiar).collect::<Vec<_>>(),
                "Layers": document.layers.iter().map(|l| path(&l.digest)).collect::<Vec<_>>(),
            }));
        }
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": index });
        let bytes =
            |v: &serde_json::Value| serde_json::to_vec(v).map_err(|e| Error::content("index.json", e));
        Ok(Plan {
            index: bytes(&index)?,
            manifest: bytes(&json!(manifest))?,
            documents: documents.into_iter().collect(),
            blobs,
            _pins: pins,
        })
    })
}

/// The images a name stands for: a repository without tag stands for all of its tags.
fn resolve(db: &Connection, text: &str) -> Result<Vec<(Digest, Option<Reference>)>, Error> {
    if let Ok(bare) = Reference::parse_bare(text).as_ref()
        && bare.tag().is_none()
        && bare.digest().is_none()
    {
        let prefix = format!("{}/{}:", bare.domain(), bare.path());
        let rows: Vec<(String, String)> = db
            .prepare_cached(
                "SELECT target, name FROM image_name WHERE substr(name, 1, length(?1)) = ?1 ORDER BY name",
            )?
            .query_map([prefix], |r| Ok((r.get(0)?, r.get(1)?)))?
            .collect::<Result<_, _>>()?;
        if !rows.is_empty() {
            return rows.iter().map(|(d, n)| Ok((d.parse()?, Some(Reference::parse(n)?)))).collect();
        }
    }
    Ok(vec![records::find(db, text)?])
}

/// Writes the archive.
pub(crate) fn write(store: &Store, plan: &Plan, out: impl Write) -> Result<(), Error> {
    let failed = |e: io::Error| Error::Layer(archive::Error::Write(e));
    let mut out = BufWriter::with_capacity(BUFFER, out);
    for folder in ["blobs/", "blobs/sha256/"] {
        out.write_all(header(folder, None).as_bytes()).map_err(failed)?;
    }
    for (digest, size) in &plan.blobs {
        let path = store.blob_path(digest);
        let file = std::fs::File::open(&path).map_err(|e| Error::os("open", &path, e))?;
        member(&mut out, &format!("blobs/sha256/{}", digest.hex()), *size, file).map_err(failed)?;
    }
    for digest in &plan.documents {
        let (_, data) = records::document(store, digest)?
            .ok_or_else(|| Error::content("image database", format!("{digest} is missing")))?;
        member(&mut out, &format!("blobs/sha256/{}", digest.hex()), data.len() as u64, data.as_slice())
            .map_err(failed)?;
    }
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    for (name, data) in
        [("index.json", plan.index.as_slice()), ("manifest.json", &plan.manifest), ("oci-layout", layout)]
    {
        member(&mut out, name, data.len() as u64, data).map_err(failed)?;
    }
    out.write_all(&[0; 1024]).and_then(|()| out.flush()).map_err(failed)
}

fn header(name: &str, size: Option<u64>) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    // All names here are short.
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(if size.is_some() { tar::EntryType::Regular } else { tar::EntryType::Directory });
    header.set_mode(if size.is_some() { 0o644 } else { 0o755 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size.unwrap_or(0));
    header.set_cksum();
    header
}

fn member(out: &mut impl Write, name: &str, size: u64, mut data: impl io::Read) -> io::Result<()> {
    out.write_all(header(name, Some(size)).as_bytes())?;
    let mut buffer = vec![0; BUFFER];
    let mut left = size;
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        data.read_exact(&mut buffer[..want])?;
        out.write_all(&buffer[..want])?;
        left -= want as u64;
    }
    out.write_all(&[0; 512][..(size.wrapping_neg() % 512) as usize])
}
