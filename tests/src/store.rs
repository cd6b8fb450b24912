//! What an engine's image store must hold to at any time that nothing is under way: read from its folders and its
//! database, not through its API.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use sha2::{Digest, Sha256};

/// Everything wrong with the store of an engine whose root folder this is; empty when it is whole.
///
/// Files and records name each other both ways, every blob and document has the contents its digest says, every
/// name and manifest has all it needs, and no lease is open.
pub fn faults(root: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    let (db, _copy) = database(root);
    let column = |query: &str| -> BTreeSet<String> {
        let mut statement = db.prepare(query).expect("the tables are as expected");
        let rows = statement.query_map([], |r| r.get::<_, String>(0)).expect("a query");
        rows.map(|r| r.expect("text")).collect()
    };

    let images = root.join("image");
    for (folder, records) in [
        ("blobs/sha256", "SELECT substr(digest, 8) FROM image_blob"),
        ("layers", "SELECT CAST(id AS TEXT) FROM image_layer UNION SELECT CAST(id AS TEXT) FROM image_built"),
        ("containers", "SELECT key FROM image_mount"),
        ("ingest", "SELECT '' WHERE 0"),
    ] {
        let (files, records) = (names(&images.join(folder)), column(records));
        faults.extend(files.difference(&records).map(|n| format!("{folder}/{n} has no record")));
        faults.extend(records.difference(&files).map(|n| format!("{folder}/{n} is recorded and not there")));
    }
    faults.extend(column("SELECT path FROM image_lease").iter().map(|p| format!("the lease of {p} is open")));

    for hex in names(&images.join("blobs/sha256")) {
        let Ok(bytes) = std::fs::read(images.join("blobs/sha256").join(&hex)) else { continue };
        if digest(&bytes) != hex {
            faults.push(format!("blob {hex} has other contents"));
        }
    }
    let mut documents = db.prepare("SELECT digest, data FROM image_document").expect("the table");
    let rows = documents.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, Vec<u8>>(1)?)));
    for row in rows.expect("a query") {
        let (name, data) = row.expect("a document");
        if format!("sha256:{}", digest(&data)) != name {
            faults.push(format!("document {name} has other contents"));
        }
    }

    faults.extend(layer_faults(&images, &db));

    for (what, query) in [
        (
            "an image without its document",
            "SELECT digest FROM image_target WHERE digest NOT IN (SELECT digest FROM image_document)",
        ),
        (
            "a name without its image",
            "SELECT name FROM image_name WHERE target NOT IN (SELECT digest FROM image_target)",
        ),
        (
            "a manifest without its configuration",
            "SELECT digest FROM image_manifest WHERE config NOT IN (SELECT digest FROM image_document)",
        ),
        (
            "a manifest without a blob",
            "SELECT parent || ' ' || child FROM image_child JOIN image_manifest ON parent = digest
             WHERE position > 0 AND child NOT IN (SELECT digest FROM image_blob)",
        ),
        (
            "a container without its manifest",
            "SELECT key FROM image_mount WHERE manifest NOT IN (SELECT digest FROM image_manifest)",
        ),
        (
            "a container without a layer",
            "SELECT key FROM image_mount_layer WHERE layer NOT IN (SELECT id FROM image_layer)",
        ),
    ] {
        faults.extend(column(query).iter().map(|row| format!("{what}: {row}")));
    }
    faults
}

/// The engine's database. One that is on a sandbox's own mount is copied: SQLite follows the link that
/// `/proc/PID/root` is said to be, and leaves the sandbox.
fn database(root: &Path) -> (Connection, Option<tempfile::TempDir>) {
    let mut folder = root.to_path_buf();
    let copy = root.starts_with("/proc").then(|| tempfile::tempdir().expect("a temporary folder"));
    if let Some(copy) = &copy {
        folder = copy.path().to_path_buf();
        for name in ["coracle.db", "coracle.db-wal"] {
            // There need be no log.
            let _ = std::fs::copy(root.join(name), folder.join(name));
        }
    }
    // The log of a copy is only read by who may write.
    let flags =
        if copy.is_some() { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
    let db = Connection::open_with_flags(folder.join("coracle.db"), flags).expect("the engine's database");
    (db, copy)
}

/// Unpacked layers that are not what their blobs say: files, their contents, links and folders.
fn layer_faults(images: &Path, db: &Connection) -> Vec<String> {
    let mut statement = db
        .prepare(
            "SELECT DISTINCT image_layer.id, substr(child, 8) FROM image_layer JOIN image_chain USING(diff_id)
             JOIN image_child ON parent = manifest AND image_child.position = image_chain.position + 1
             JOIN image_blob ON image_blob.digest = child",
        )
        .expect("the tables are as expected");
    let rows =
        statement.query_map([], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?))).expect("a query");
    let mut faults = Vec::new();
    for row in rows {
        let (id, blob) = row.expect("a layer");
        let folder = images.join("layers").join(id.to_string());
        // What is not there is a fault already.
        let Ok(file) = std::fs::File::open(images.join("blobs/sha256").join(blob)) else { continue };
        if !folder.is_dir() {
            continue;
        }
        if let Err(why) = compare(file, &folder) {
            faults.push(format!("layers/{id} is not its blob: {why}"));
        }
    }
    faults
}

fn compare(mut blob: std::fs::File, folder: &Path) -> Result<(), String> {
    let mut head = [0; 2];
    let words = |e: std::io::Error| e.to_string();
    blob.read_exact(&mut head).and_then(|()| blob.rewind()).map_err(words)?;
    let tar: Box<dyn Read> = match head {
        [0x1f, 0x8b] => Box::new(flate2::read::MultiGzDecoder::new(blob)),
        [0x28, 0xb5] => Box::new(zstd::Decoder::new(blob).map_err(|e| e.to_string())?),
        _ => Box::new(blob),
    };
    for entry in tar::Archive::new(tar).entries().map_err(words)? {
        let mut entry = entry.map_err(words)?;
        let path = entry.path().map_err(words)?.into_owned();
        // Deletions have another form in overlayfs.
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(".wh.")) {
            continue;
        }
        let here = folder.join(&path);
        let same = match entry.header().entry_type() {
            tar::EntryType::Regular => {
                let mut contents = Vec::new();
                entry.read_to_end(&mut contents).map_err(words)?;
                std::fs::read(&here).is_ok_and(|found| found == contents)
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name().map_err(words)?;
                std::fs::read_link(&here).ok().as_deref() == target.as_deref()
            }
            tar::EntryType::Directory => here.is_dir(),
            _ => here.symlink_metadata().is_ok(),
        };
        if !same {
            return Err(format!("{} differs", path.display()));
        }
    }
    Ok(())
}

/// Everything wrong with an archive of `docker save`: a blob that is not its name's digest, a manifest, configuration
/// or layer that is named and not in it.
pub fn archive_faults(archive: &[u8]) -> Vec<String> {
    let mut blobs = BTreeMap::new();
    let mut index = None;
    let mut faults = Vec::new();
    for entry in tar::Archive::new(archive).entries().expect("a tar") {
        let Ok(mut entry) = entry else {
            faults.push("the archive is cut off".into());
            break;
        };
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        let mut contents = Vec::new();
        if entry.read_to_end(&mut contents).is_err() {
            faults.push(format!("{path} is cut off"));
        }
        match path.strip_prefix("blobs/sha256/") {
            Some(hex) if !hex.is_empty() => {
                if digest(&contents) != hex {
                    faults.push(format!("{path} has other contents"));
                }
                blobs.insert(format!("sha256:{hex}"), contents);
            }
            _ if path == "index.json" => index = Some(contents),
            _ => {}
        }
    }
    let Some(index) = index else { return vec!["no index.json".into()] };
    let mut open = vec![("index.json".to_owned(), index)];
    while let Some((name, data)) = open.pop() {
        let Ok(document) = serde_json::from_slice::<serde_json::Value>(&data) else {
            faults.push(format!("{name} is no JSON"));
            continue;
        };
        let children = ["manifests", "layers"].iter().filter_map(|key| document[*key].as_array()).flatten();
        for child in children.chain(document.get("config").filter(|c| c["digest"].is_string())) {
            let digest = child["digest"].as_str().unwrap_or_default();
            let kind = child["mediaType"].as_str().unwrap_or_default();
            match blobs.get(digest) {
                Some(data) if kind.contains("manifest") || kind.contains("index") => {
                    open.push((digest.to_owned(), data.clone()));
                }
                Some(_) => {}
                // Of other platforms nothing needs to be there.
                None if name != "index.json" && kind.contains("manifest") => {}
                None => faults.push(format!("{name} names {digest}, which is not in the archive")),
            }
        }
    }
    faults
}

/// What no image and no container reaches, though the store keeps it: there is none after a collection.
pub fn garbage(root: &Path) -> Vec<String> {
    let (db, _copy) = database(root);
    let mut statement = db
        .prepare(
            "WITH RECURSIVE reached(digest) AS (
               SELECT digest FROM image_target UNION SELECT manifest FROM image_mount
               UNION SELECT child FROM image_child JOIN reached ON parent = reached.digest)
             SELECT digest FROM image_document WHERE digest NOT IN reached
             UNION ALL SELECT digest FROM image_blob WHERE digest NOT IN reached
             UNION ALL SELECT diff_id FROM image_layer WHERE diff_id NOT IN
               (SELECT diff_id FROM image_chain WHERE manifest IN reached)",
        )
        .expect("the tables are as expected");
    let rows = statement.query_map([], |r| r.get::<_, String>(0)).expect("a query");
    rows.map(|r| format!("nothing reaches {}", r.expect("text"))).collect()
}

fn names(folder: &Path) -> BTreeSet<String> {
    let items = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    items.map(|i| i.expect("an item").file_name().to_string_lossy().into_owned()).collect()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
