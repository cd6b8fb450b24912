//! What an engine's image store must hold to at any time that nothing is under way: read from its folders and its
//! database, not through its API.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use sha2::{Digest, Sha256};

/// Everything wrong with the store of an engine whose root folder this is; empty when it is whole.
///
/// Files and records name each other both ways, every blob and document has the contents its digest says, every
/// name and manifest has all it needs, and no lease is open.
pub fn faults(root: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    let db = Connection::open_with_flags(root.join("coracle.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)
        .expect("the engine's database");
    let column = |query: &str| -> BTreeSet<String> {
        let mut statement = db.prepare(query).expect("the tables are as expected");
        let rows = statement.query_map([], |r| r.get::<_, String>(0)).expect("a query");
        rows.map(|r| r.expect("text")).collect()
    };

    let images = root.join("image");
    for (folder, records) in [
        ("blobs/sha256", "SELECT substr(digest, 8) FROM image_blob"),
        ("layers", "SELECT CAST(id AS TEXT) FROM image_layer"),
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

/// What no image and no container reaches, though the store keeps it: there is none after a collection.
pub fn garbage(root: &Path) -> Vec<String> {
    let db = Connection::open_with_flags(root.join("coracle.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)
        .expect("the engine's database");
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
