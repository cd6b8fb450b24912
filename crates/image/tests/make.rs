//! Images made of what is here: `docker import` and `docker commit`. Needs root (overlay mounts in namespaces of
//! their own).

mod support;

use std::io::Cursor;

use image::{Code, Digest, History, Images, LayerSource, NewImage, Reference};
use serde_json::{Map, json};
use support::{Place, gzip, in_rootfs, tar};

fn step(by: &str) -> History {
    History { created_by: by.into(), ..History::default() }
}

fn config(env: &str) -> Map<String, serde_json::Value> {
    Map::from_iter([("config".to_owned(), json!({ "Env": [env] }))])
}

async fn import(images: &Images, archive: Vec<u8>, name: &str) -> Result<Digest, image::Error> {
    let image = NewImage {
        base: None,
        layer: Some(LayerSource::Archive(Box::new(Cursor::new(archive)))),
        config: config("A=1"),
        step: step(""),
        name: Some(Reference::parse(name).unwrap()),
    };
    images.make(image).await
}

async fn commit(images: &Images, key: &str, base: Digest) -> Digest {
    let image = NewImage {
        base: Some(images.mounted_manifest(key).await.unwrap().unwrap_or(base)),
        layer: Some(LayerSource::Written(key.into())),
        config: config("A=2"),
        step: step("sh"),
        name: None,
    };
    images.make(image).await.unwrap()
}

/// With `sh` and what it needs of the host, so that commands can run in the tree.
fn files() -> Vec<u8> {
    tar(&[("etc/text", b"one"), ("etc/old", b"old"), ("folder/a", b"a")])
}

/// What a layer holds, in words.
async fn held(images: &Images, image: &image::Image, layer: usize) -> std::collections::BTreeSet<String> {
    let found = images.layer_files(image, layer, 1000).await.unwrap();
    found.files.into_iter().map(|file| format!("{:?} {}", file.kind, file.path)).collect()
}

#[tokio::test]
async fn an_archive_becomes_an_image_and_its_container_another() {
    let place = Place::new();
    let images = place.open();
    let base = import(&images, gzip(&files()), "base:1").await.unwrap();
    let got = images.get("base:1").await.unwrap();
    assert_eq!((got.id, got.config.env.as_slice()), (base, &["A=1".to_owned()][..]));
    assert_eq!(got.architecture, image::Platform::host().architecture);

    let rootfs = images.mount(&base, "c1").await.unwrap();
    in_rootfs(&rootfs, "echo two > etc/text; rm etc/old; rm -r folder; mkdir folder; echo b > folder/b");
    let second = commit(&images, "c1", base).await;
    let got = images.get(&second.to_string()).await.unwrap();
    assert_eq!((got.diff_ids.len(), got.history.len()), (2, 2));
    assert_eq!(
        held(&images, &got, 1).await,
        ["File /etc/text", "Removed /etc/old", "File /folder/b"].map(str::to_owned).into(),
        "folder/a went with its folder, whose place another took"
    );
    assert!(held(&images, &got, 0).await.contains("File /folder/a"));
    assert_eq!(images.layer_files(&got, 1, 2).await.map(|l| (l.files.len(), l.total)).unwrap(), (2, 3));
    assert_eq!(images.layer_files(&got, 2, 2).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(got.history[1].created_by, "sh");
    assert!(got.repo_tags.is_empty());

    let rootfs = images.mount(&second, "c2").await.unwrap();
    let seen = in_rootfs(&rootfs, "cat etc/text; ls etc folder");
    // `bottom` adds the places a runtime mounts at; the old folder is hidden as a whole.
    assert_eq!(seen, "two\netc:\nhostname\nhosts\nmtab\nresolv.conf\ntext\n\nfolder:\nb\n");

    // The blob stays when only the unpacked form is lost (a power cut), and gives the same tree again.
    drop(images);
    let db = rusqlite::Connection::open(place.db()).unwrap();
    db.execute("UPDATE image_layer SET boot = 'another'", []).unwrap();
    db.execute("DELETE FROM image_mount_layer", []).unwrap();
    drop(db);
    let images = place.open();
    let rootfs = images.mount(&second, "c3").await.unwrap();
    assert_eq!(in_rootfs(&rootfs, "cat etc/text; ls folder"), "two\nb\n");
}

#[tokio::test]
async fn a_container_that_was_never_mounted_commits_to_an_empty_layer() {
    let place = Place::new();
    let images = place.open();
    let base = import(&images, files(), "base:1").await.unwrap();
    let id = commit(&images, "never", base).await;
    assert_eq!(images.get(&id.to_string()).await.unwrap().diff_ids.len(), 2);
}

#[tokio::test]
async fn what_is_no_archive_leaves_nothing_behind() {
    let place = Place::new();
    let images = place.open();
    for bad in
        [b"this is no tar archive, but long enough for a header".repeat(20), gzip(&files())[..60].to_vec()]
    {
        let error = import(&images, bad, "bad:1").await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
    place.settled().await;
    assert!(images.list().await.unwrap().is_empty());
}
