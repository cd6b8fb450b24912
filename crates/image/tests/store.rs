//! Images as they are kept, mounted, named, removed, saved and loaded. Needs root (overlay mounts, in namespaces of
//! their own); those that pull take the registry named by `CORACLE_TEST_REGISTRY` (`cargo xtask test` provides it).

mod support;

use std::process::Command;

use image::{
    Code, Digest, Error, ImageUse, Images, LoadOptions, Prunable, PruneOptions, PullOptions, Reference,
    RemoveOptions, Removed,
};
use serde_json::json;
use support::{
    OCI_INDEX, OCI_MANIFEST, Place, Recorded, Registry, TestImage, gzip, in_rootfs, index, silent, simple,
    tar,
};

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn unused(_: &Digest) -> Vec<ImageUse> {
    Vec::new()
}

/// A docker-archive as dockers before 25 wrote it.
fn docker_archive(image: &TestImage, tags: &[&str]) -> Vec<u8> {
    let manifest = json!([{"Config": "config.json", "RepoTags": tags,
        "Layers": (0..image.layers.len()).map(|i| format!("{i}/layer.tar")).collect::<Vec<_>>()}]);
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let names: Vec<String> = (0..image.layers.len()).map(|i| format!("{i}/layer.tar")).collect();
    let mut files: Vec<(&str, &[u8])> =
        names.iter().zip(&image.layers).map(|(n, l)| (n.as_str(), l.as_slice())).collect();
    files.push(("config.json", &image.config));
    files.push(("manifest.json", &manifest));
    tar(&files)
}

async fn load(images: &Images, archive: Vec<u8>) -> Result<Vec<image::Loaded>, Error> {
    images.load(std::io::Cursor::new(archive), LoadOptions::default(), silent()).await
}

async fn loaded(images: &Images, text: &str, tags: &[&str]) -> Digest {
    load(images, docker_archive(&simple(text), tags)).await.unwrap()[0].id
}

async fn save(images: &Images, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    images.save(&names, None, tokio::fs::File::create(file.path()).await.unwrap()).await.unwrap();
    std::fs::read(file.path()).unwrap()
}

#[tokio::test]
async fn a_pulled_image_is_listed_and_runs() {
    let Some(registry) = Registry::start().await else { return };
    let (place, image) = (Place::new(), simple("hello"));
    registry.push("app", "1", &image).await;
    let images = place.open();
    let name = format!("{}/app:1", registry.host);
    let pulled = images.pull(&reference(&name), PullOptions::default(), silent()).await.unwrap();
    assert!(!pulled.up_to_date);
    let got = images.get(&name).await.unwrap();
    assert_eq!(got.id, image.id());
    assert_eq!(got.repo_tags, std::slice::from_ref(&name));
    assert_eq!(got.repo_digests, [format!("{}/app@{}", registry.host, image.id())]);
    assert_eq!((got.os.as_str(), got.architecture.as_str()), ("linux", "amd64"));
    assert_eq!(got.config.env, ["A=b"]);
    assert_eq!(got.created.as_deref(), Some("2026-01-02T03:04:05Z"));
    let content = (image.manifest.len() + image.config.len() + image.layers[0].len()) as u64;
    assert_eq!(got.content_size, content);
    assert!(got.size > content);
    for text in
        [&got.id.to_string(), &got.id.hex(), &got.id.short(), &got.id.hex()[..4], &got.repo_digests[0]]
    {
        assert_eq!(images.get(text).await.unwrap().id, got.id, "{text}");
    }
    let rootfs = images.mount(&got.id, "c1").await.unwrap();
    assert_eq!(in_rootfs(&rootfs, "cat etc/text && echo more > new"), "hello");
    // The same again after a restart, with what was written.
    let again = place.open().mount(&got.id, "c1").await.unwrap();
    assert_eq!(again, rootfs);
    assert_eq!(in_rootfs(&again, "cat new"), "more\n");
    assert!(images.container_size("c1").await.unwrap() >= 4096);
    images.unmount_and_discard("c1").await.unwrap();
    assert_eq!(place.names("containers"), [""; 0]);
    assert!(images.pull(&reference(&name), PullOptions::default(), silent()).await.unwrap().up_to_date);
    // By digest it has no tag.
    let by_digest = format!("{}/app@{}", registry.host, image.id());
    images.pull(&reference(&by_digest), PullOptions::default(), silent()).await.unwrap();
    assert_eq!(images.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn layers_are_shared_and_whiteouts_hide() {
    let Some(registry) = Registry::start().await else { return };
    let base = tar(&[("d/", b""), ("d/old", b"1"), ("o/", b""), ("o/old", b"1"), ("keep", b"1")]);
    let top = tar(&[("d/", b""), ("d/.wh.old", b""), ("o/", b""), ("o/.wh..wh..opq", b""), ("o/new", b"2")]);
    let one = TestImage::new("amd64", std::slice::from_ref(&base), gzip);
    let two = TestImage::new("amd64", &[base, top], |data| zstd::encode_all(data, 3).unwrap());
    // The same base compressed the same way, below something else.
    let three = TestImage::new(
        "amd64",
        &[
            tar(&[("d/", b""), ("d/old", b"1"), ("o/", b""), ("o/old", b"1"), ("keep", b"1")]),
            tar(&[("x", b"3")]),
        ],
        gzip,
    );
    registry.push("one", "latest", &one).await;
    registry.push("two", "latest", &two).await;
    registry.push("three", "latest", &three).await;
    let place = Place::new();
    let images = place.open();
    let pull = async |name: &str| {
        let recorded = Recorded::default();
        let name = reference(&format!("{}/{name}", registry.host));
        let pulled = images.pull(&name, PullOptions::default(), recorded.sink()).await.unwrap();
        (pulled.id, recorded)
    };
    pull("one").await;
    let (two, _) = pull("two").await;
    let (_, recorded) = pull("three").await;
    assert_eq!(recorded.count("Already exists"), 1);
    assert_eq!(place.names("layers").len(), 3, "the base is unpacked once");
    let rootfs = images.mount(&two, "c").await.unwrap();
    // Two layers, and the one below every image.
    assert_eq!(rootfs.lower.len(), 3);
    assert_eq!(in_rootfs(&rootfs, "ls d o; cat keep"), "d:\n\no:\nnew\n1");
    let usage = images.disk_usage().await.unwrap();
    assert_eq!(usage.images.len(), 3);
    assert!(usage.images.iter().all(|i| i.shared > 0 && i.shared < i.size));
    let sum: u64 = usage.images.iter().map(|i| i.size).sum();
    assert!(usage.total < sum);
}

#[tokio::test]
async fn an_index_gives_the_platform_asked_for() {
    let Some(registry) = Registry::start().await else { return };
    let amd = TestImage::new("amd64", &[tar(&[("arch", b"amd64")])], gzip);
    let arm = TestImage::new("arm64", &[tar(&[("arch", b"arm64")])], gzip);
    let both = index(&[("arm64", &arm), ("amd64", &amd)]);
    for image in [&amd, &arm] {
        registry.push_blobs("app", &image.blobs()).await;
        registry.push_manifest("app", &image.id().to_string(), OCI_MANIFEST, &image.manifest).await;
    }
    registry.push_manifest("app", "latest", OCI_INDEX, &both).await;
    let place = Place::new();
    let images = place.open();
    let name = reference(&format!("{}/app", registry.host));
    let on =
        |platform: &str| PullOptions { platform: Some(platform.parse().unwrap()), ..PullOptions::default() };
    let error = images.pull(&name, on("linux/s390x"), silent()).await.unwrap_err();
    assert_eq!(error.to_string(), "no matching manifest for linux/s390x in the manifest list entries");
    let pulled = images.pull(&name, on("linux/arm64"), silent()).await.unwrap();
    assert_eq!(pulled.id, Digest::of(&both), "the index is the image");
    assert_eq!(images.get(&name.to_string()).await.unwrap().architecture, "arm64");
    // Both side by side; this machine's own is shown.
    let pulled = images.pull(&name, on("linux/amd64"), silent()).await.unwrap();
    assert!(!pulled.up_to_date);
    let image = images.get(&name.to_string()).await.unwrap();
    assert_eq!((image.architecture.as_str(), image.manifest), ("amd64", amd.id()));
    let rootfs = images.mount(&arm.id(), "arm").await.unwrap();
    assert_eq!(in_rootfs(&rootfs, "cat arch"), "arm64");
    // Saved and loaded elsewhere it is the same image, with both.
    let archive = save(&images, &[&name.familiar()]).await;
    let other = Place::new();
    let elsewhere = other.open();
    let loaded = load(&elsewhere, archive).await.unwrap();
    assert_eq!(loaded, [image::Loaded { id: pulled.id, reference: Some(name.clone()) }]);
    let rootfs = elsewhere.mount(&arm.id(), "arm").await.unwrap();
    assert_eq!(in_rootfs(&rootfs, "cat arch"), "arm64");
    assert_eq!(elsewhere.get(&name.familiar()).await.unwrap().repo_digests, image.repo_digests);
}

#[tokio::test]
async fn names_and_ids_are_found_as_docker_finds_them() {
    let place = Place::new();
    let images = place.open();
    let id = loaded(&images, "x", &["app:1"]).await;
    for (missing, said) in [
        ("busybox", "No such image: busybox:latest"),
        ("app", "No such image: app:latest"),
        ("abcdef", "No such image: abcdef:latest"),
    ] {
        let error = images.get(missing).await.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.code()), (said, Code::NotFound));
    }
    images.tag("app:1", &reference("other/name:2")).await.unwrap();
    images.tag(&id.short(), &reference("app")).await.unwrap();
    assert_eq!(images.get("app").await.unwrap().repo_tags, ["app:1", "app:latest", "other/name:2"]);
    assert!(images.tag("nope", &reference("x")).await.is_err());
    assert!(images.tag("app", &reference(&format!("x@{id}"))).await.is_err());
    // A tag moves; the image that had it stays, without a name.
    let next = loaded(&images, "y", &["app:1"]).await;
    assert_eq!(images.get("app:1").await.unwrap().id, next);
    assert_eq!(images.list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn removal_goes_by_dockers_rules_and_gives_all_space_back() {
    let place = Place::new();
    let images = place.open();
    let id = loaded(&images, "x", &["app:1", "app:2", "me/other:1"]).await;
    let remove = async |name: &str, force: bool, users: &[(&str, bool)]| {
        let users: Vec<ImageUse> = users
            .iter()
            .map(|(c, running)| ImageUse { container: c.to_string(), running: *running })
            .collect();
        let options = RemoveOptions { force, prune_children: true, ..RemoveOptions::default() };
        images.remove(name, options, &|_| users.clone()).await.map_err(|e| (e.code(), e.to_string()))
    };
    let short = id.short();
    let stopped = [("0123456789abcdef", false)];
    let running = [("0123456789abcdef", true)];
    assert_eq!(
        remove(&short, false, &[]).await.unwrap_err().1,
        format!(
            "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
        )
    );
    assert_eq!(
        remove("me/other:1", false, &running).await.unwrap(),
        [Removed::Untagged("me/other:1".into())]
    );
    assert_eq!(
        remove(&short, false, &stopped).await.unwrap_err(),
        (
            Code::Conflict,
            format!(
                "conflict: unable to delete {short} (must be forced) - image is being used by stopped container 0123456789ab"
            )
        )
    );
    assert_eq!(
        remove(&short, true, &running).await.unwrap_err().1,
        format!(
            "conflict: unable to delete {short} (cannot be forced) - image is being used by running container 0123456789ab"
        )
    );
    assert_eq!(remove("app:1", false, &[]).await.unwrap(), [Removed::Untagged("app:1".into())]);
    assert_eq!(
        remove("app:2", false, &stopped).await.unwrap_err().1,
        format!(
            "conflict: unable to delete app:2 (must be forced) - container 0123456789ab is using its referenced image {short}"
        )
    );
    // Forced by name it loses the name only.
    assert_eq!(remove("app:2", true, &stopped).await.unwrap(), [Removed::Untagged("app:2".into())]);
    assert!(images.get(&short).await.unwrap().repo_tags.is_empty());
    // A container keeps the content of an image that is gone.
    let rootfs = images.mount(&id, "c").await.unwrap();
    assert_eq!(remove(&short, true, &stopped).await.unwrap(), [Removed::Deleted(id.to_string())]);
    assert_eq!(in_rootfs(&rootfs, "cat etc/text"), "x");
    assert_eq!(images.mount(&id, "c").await.unwrap(), rootfs);
    images.unmount_and_discard("c").await.unwrap();
    place.settled().await;
    assert_eq!(images.disk_usage().await.unwrap().total, 0);
    assert_eq!(remove("app", false, &[]).await.unwrap_err().1, "No such image: app:latest");
}

#[tokio::test]
async fn pruning_takes_what_filters_say() {
    let place = Place::new();
    let images = place.open();
    loaded(&images, "old", &["app:1"]).await;
    let named = loaded(&images, "new", &["app:1"]).await;
    let kept = PruneOptions { labels: vec!["kind=other".into()], ..PruneOptions::default() };
    assert!(images.prune(kept, &unused).await.unwrap().removed.is_empty());
    let early = PruneOptions { until: Some(1_000), ..PruneOptions::default() };
    assert!(images.prune(early, &unused).await.unwrap().removed.is_empty());
    let before = images.disk_usage().await.unwrap().total;
    let labelled = PruneOptions { labels: vec!["kind=test".into()], ..PruneOptions::default() };
    let told = images.prunable(&labelled, &unused).await.unwrap();
    let pruned = images.prune(labelled, &unused).await.unwrap();
    assert_eq!(pruned.removed.len(), 1);
    // What it would do is what it did.
    assert_eq!((told.images, told.bytes), (1, pruned.space_reclaimed));
    assert_eq!(before - images.disk_usage().await.unwrap().total, pruned.space_reclaimed);
    let all = PruneOptions { all: true, ..PruneOptions::default() };
    let used = |_: &Digest| vec![ImageUse { container: "c".into(), running: false }];
    assert_eq!(images.prunable(&all, &used).await.unwrap(), Prunable::default());
    assert!(images.prune(all.clone(), &used).await.unwrap().removed.is_empty());
    let told = images.prunable(&all, &unused).await.unwrap();
    let pruned = images.prune(all, &unused).await.unwrap();
    assert_eq!((told.images, told.bytes), (1, pruned.space_reclaimed));
    assert_eq!(pruned.removed, [Removed::Untagged("app:1".into()), Removed::Deleted(named.to_string())]);
    place.settled().await;
}

#[tokio::test]
async fn archives_of_all_kinds_load_and_save() {
    let plain = TestImage::new("amd64", &[tar(&[("f", b"1")]), tar(&[("g", b"2")])], <[u8]>::to_vec);
    let archive = docker_archive(&plain, &["app:1", "app:2"]);
    let packed = [archive.clone(), gzip(&archive), zstd::encode_all(archive.as_slice(), 3).unwrap()];
    for archive in packed {
        let place = Place::new();
        let images = place.open();
        let loaded = load(&images, archive).await.unwrap();
        assert_eq!(loaded.len(), 2);
        assert_eq!(loaded[0].reference, Some(reference("app:1")));
        assert_eq!(place.names("ingest"), [""; 0]);
        let rootfs = images.mount(&loaded[0].id, "c").await.unwrap();
        assert_eq!(in_rootfs(&rootfs, "cat f g"), "12");
        // A repository stands for all its tags; tools read the result.
        let saved = save(&images, &["app"]).await;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.tar"), &saved).unwrap();
        let done = Command::new("tar").args(["-x", "-f", "x.tar"]).current_dir(dir.path()).status().unwrap();
        assert!(done.success());
        let manifest: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["app:1", "app:2"]));
        assert!(dir.path().join(manifest[0]["Config"].as_str().unwrap()).exists());
        let other = Place::new();
        let elsewhere = other.open();
        let again = load(&elsewhere, saved).await.unwrap();
        assert_eq!(again.iter().map(|l| l.id).collect::<Vec<_>>(), vec![loaded[0].id; 2]);
        assert_eq!(elsewhere.get("app:2").await.unwrap().id, loaded[0].id);
        // By ID it has no name.
        let nameless = save(&images, &[&loaded[0].id.to_string()]).await;
        let third = Place::new();
        assert_eq!(load(&third.open(), nameless).await.unwrap()[0].reference, None);
    }
}

#[tokio::test]
async fn what_is_no_archive_of_images_loads_nothing() {
    let image = simple("x");
    let mut lying = image.clone();
    lying.layers[0] = gzip(&tar(&[("other", b"content")]));
    for (archive, said) in [
        (Vec::new(), "not a tar"),
        (b"not a tar at all, but long enough to be something".to_vec(), "EOF"),
        (tar(&[("readme", b"hello")]), "neither index.json nor manifest.json"),
        (tar(&[("manifest.json", br#"[{"Config":"../../etc/passwd","Layers":[]}]"#)]), "not in the archive"),
        (docker_archive(&lying, &["app:1"]), "failed verification"),
        (docker_archive(&image, &["UPPER:1"]), "invalid reference format"),
    ] {
        let place = Place::new();
        let images = place.open();
        let error = load(&images, archive).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert!(images.list().await.unwrap().is_empty());
        place.settled().await;
    }
    let place = Place::new();
    let missing = place.open().save(&["nope".to_string()], None, tokio::io::sink()).await.unwrap_err();
    assert_eq!(missing.to_string(), "No such image: nope:latest");
}

/// As after a power cut: the layers' rows say another boot, leases are left.
#[tokio::test]
async fn what_may_not_be_on_disk_is_unpacked_again_from_its_blob() {
    let place = Place::new();
    let id = {
        let images = place.open();
        let id = loaded(&images, "precious", &["app"]).await;
        let rootfs = images.mount(&id, "c").await.unwrap();
        in_rootfs(&rootfs, "echo mine > written");
        id
    };
    let db = rusqlite::Connection::open(place.db()).unwrap();
    db.execute("UPDATE image_layer SET boot = 'another'", []).unwrap();
    db.execute("INSERT INTO image_lease(path) VALUES('ingest/77'), ('layers/78')", []).unwrap();
    drop(db);
    std::fs::write(place.root().join("ingest/77"), "half").unwrap();
    std::fs::create_dir_all(place.root().join("layers/78/deep")).unwrap();
    let before = place.names("layers");
    let images = place.open();
    assert_eq!(place.names("layers"), [""; 0]);
    assert_eq!(place.names("ingest"), [""; 0]);
    assert_eq!(images.get("app").await.unwrap().id, id);
    let rootfs = images.mount(&id, "c").await.unwrap();
    assert_ne!(place.names("layers"), before, "numbers are not used again");
    assert_eq!(in_rootfs(&rootfs, "cat etc/text written"), "preciousmine\n");
    // Garbage collection knows that the new layer is in use.
    images
        .remove(
            "app",
            RemoveOptions { force: true, prune_children: true, ..RemoveOptions::default() },
            &unused,
        )
        .await
        .unwrap();
    assert_eq!(in_rootfs(&rootfs, "cat etc/text"), "precious");
}

#[tokio::test]
async fn a_newer_database_is_refused_in_a_sentence() {
    let place = Place::new();
    drop(place.open());
    let db = rusqlite::Connection::open(place.db()).unwrap();
    db.execute("UPDATE schema SET version = 99 WHERE part = 'image'", []).unwrap();
    let config = image::Config { root: place.root(), db: place.db(), ..image::Config::default() };
    let error = Images::open(config).err().unwrap();
    assert!(error.to_string().contains("has format 99"), "{error}");
}

#[tokio::test]
async fn an_older_database_is_brought_up_to_date() {
    let place = Place::new();
    let id = {
        let images = place.open();
        loaded(&images, "x", &["app"]).await
    };
    let db = rusqlite::Connection::open(place.db()).unwrap();
    db.execute_batch(
        "DROP TABLE image_built; ALTER TABLE image_name DROP COLUMN tagged;
         UPDATE schema SET version = 1 WHERE part = 'image'",
    )
    .unwrap();
    drop(db);
    let images = place.open();
    let image = images.get("app").await.unwrap();
    assert_eq!((image.id, image.last_tagged), (id, None));
    images.tag("app", &reference("again")).await.unwrap();
    assert!(images.get("app").await.unwrap().last_tagged.is_some());
}

#[tokio::test]
async fn a_builds_layer_is_the_images_too() {
    let place = Place::new();
    let images = place.open();
    let base = image::Part::Image(loaded(&images, "x", &["app"]).await);
    let stack = images.stack(std::slice::from_ref(&base)).await.unwrap();
    let dropped = images.new_built(&stack).await.unwrap();
    drop(dropped);
    let new = images.new_built(&stack).await.unwrap();
    std::fs::write(new.rootfs(&stack, false).upper.join("made"), "here").unwrap();
    let (id, bytes) = images.keep_built(new).await.unwrap();
    assert!(bytes > 0);
    let made = || image::NewBuiltImage {
        parts: vec![base.clone(), image::Part::Built(id)],
        config: serde_json::from_str(r#"{"architecture":"amd64","os":"linux","config":{},"history":[]}"#)
            .unwrap(),
        annotations: Default::default(),
        docker_types: false,
        packing: image::Packing::default(),
        names: vec![reference("made")],
        keep: true,
    };
    let first = images.make_built(made()).await.unwrap();
    assert_eq!(images.get("made").await.unwrap().id, first.manifest.digest);
    assert_eq!(images.make_built(made()).await.unwrap().manifest, first.manifest, "the same once more");
    assert_eq!(images.built().await.unwrap()[&id], (bytes, true), "one folder for both");

    // Forgotten by the build, it is still the image's; it goes with that.
    assert_eq!(images.forget_built(vec![id]).await.unwrap(), 0);
    let rootfs = images.mount(&first.manifest.digest, "container").await.unwrap();
    assert!(rootfs.lower[0].join("made").exists());
    images.unmount_and_discard("container").await.unwrap();
    // Both keep what they are made of.
    drop((stack, first));
    for name in ["made", "app"] {
        images.remove(name, Default::default(), &|_| Vec::new()).await.unwrap();
    }
    place.settled().await;
    assert_eq!((place.names("layers"), place.names("ingest")), (vec![], vec![]));
}

#[tokio::test]
async fn disk_usage_is_what_the_files_take() {
    let place = Place::new();
    let images = place.open();
    let big = vec![7; 123_457];
    let small: Vec<(String, Vec<u8>)> =
        (0..300).map(|n| (format!("many/files/{n}"), vec![1; n * 17])).collect();
    let mut files: Vec<(&str, &[u8])> = vec![("many/", b""), ("many/files/", b""), ("big", &big)];
    files.extend(small.iter().map(|(path, data)| (path.as_str(), data.as_slice())));
    for layers in [vec![tar(&files)], vec![tar(&files), tar(&[("more", b"x")])]] {
        let image = TestImage::new("amd64", &layers, gzip);
        load(&images, docker_archive(&image, &[])).await.unwrap();
    }
    let du = |folder: &str, more: &[&str]| {
        let mut du = Command::new("du");
        let out = du.arg("-sc").args(more).arg(place.root().join(folder)).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let usage = images.disk_usage().await.unwrap();
    let folders: u64 =
        place.names("layers").iter().map(|id| du(&format!("layers/{id}"), &["--block-size=1"])).sum();
    let blobs: u64 = place
        .names("blobs/sha256")
        .iter()
        .map(|name| std::fs::metadata(place.root().join("blobs/sha256").join(name)).unwrap().len())
        .sum();
    let db = rusqlite::Connection::open(place.db()).unwrap();
    let documents: i64 =
        db.query_row("SELECT sum(length(data)) FROM image_document", [], |r| r.get(0)).unwrap();
    assert_eq!(usage.total, folders + blobs + documents as u64);
    // The first layer is in both images, the second in one.
    let shared = usage.images.iter().map(|i| i.shared).collect::<Vec<_>>();
    assert_eq!(shared[0], shared[1]);
    let sum: u64 = usage.images.iter().map(|i| i.size - i.shared).sum::<u64>() + shared[0];
    assert_eq!(sum, usage.total, "every byte once");
}

#[tokio::test]
async fn keys_do_not_lead_out() {
    let place = Place::new();
    let images = place.open();
    let id = loaded(&images, "x", &["app"]).await;
    for key in ["", "..", ".", "a/b", "../x", &"x".repeat(300)] {
        assert_eq!(images.mount(&id, key).await.unwrap_err().code(), Code::InvalidArgument, "{key}");
        assert!(images.unmount_and_discard(key).await.is_err());
    }
}

#[tokio::test]
async fn a_pushed_image_keeps_its_digest_and_is_sent_once() {
    let Some(registry) = Registry::start().await else { return };
    let amd = simple("amd");
    let arm = TestImage::new("arm64", &[tar(&[("arch", b"arm64")])], gzip);
    let both = index(&[("arm64", &arm), ("amd64", &amd)]);
    for image in [&amd, &arm] {
        registry.push_blobs("app", &image.blobs()).await;
        registry.push_manifest("app", &image.id().to_string(), OCI_MANIFEST, &image.manifest).await;
    }
    registry.push_manifest("app", "latest", OCI_INDEX, &both).await;
    let place = Place::new();
    let images = place.open();
    let name = reference(&format!("{}/app", registry.host));
    let copy = reference(&format!("{}/copy:2", registry.host));
    let push = async |to: &Reference| {
        let recorded = Recorded::default();
        images.push(to, Default::default(), recorded.sink()).await.map(|p| (p, recorded.lines()))
    };
    assert_eq!(
        push(&copy).await.unwrap_err().to_string(),
        format!("An image does not exist locally with the tag: {}/copy", registry.host)
    );
    let options = |platform: &str| image::PushOptions {
        platform: Some(platform.parse().unwrap()),
        ..image::PushOptions::default()
    };
    let on =
        |platform: &str| PullOptions { platform: Some(platform.parse().unwrap()), ..PullOptions::default() };
    images.pull(&name, on("linux/amd64"), silent()).await.unwrap();
    images.tag(&name.familiar(), &copy).await.unwrap();
    let (alone, _) = push(&copy).await.unwrap();
    assert_eq!(alone.descriptor.digest, amd.id(), "of half an index the manifest that is here is pushed");
    assert_eq!(alone.instead_of.unwrap().digest, Digest::of(&both));
    let other = options("linux/arm64");
    assert_eq!(images.push(&copy, other.clone(), silent()).await.unwrap_err().code(), Code::NotFound);
    images.pull(&name, on("linux/arm64"), silent()).await.unwrap();
    let one = images.push(&copy, other, silent()).await.unwrap();
    assert_eq!(one.descriptor.digest, arm.id(), "one platform alone when asked for");
    let (pushed, lines) = push(&copy).await.unwrap();
    assert_eq!((pushed.descriptor.digest, pushed.descriptor.size), (Digest::of(&both), both.len() as u64));
    assert_eq!(pushed.instead_of, None);
    assert_eq!(lines.first().unwrap(), &format!("The push refers to repository [{}/copy]", registry.host));
    assert_eq!(lines.iter().filter(|l| l.ends_with(": Layer already exists")).count(), 2, "{lines:?}");
    assert_eq!(
        lines.last().unwrap(),
        &format!("2: digest: {} size: {}", pushed.descriptor.digest, pushed.descriptor.size)
    );
    let (_, lines) = push(&copy).await.unwrap();
    assert_eq!(lines.iter().filter(|l| l.ends_with(": Layer already exists")).count(), 2, "{lines:?}");
    // An image that came otherwise is uploaded, and others can pull it.
    let id = load(&images, docker_archive(&simple("mine"), &[&format!("{}/mine", registry.host)]))
        .await
        .unwrap()[0]
        .id;
    let mine = reference(&format!("{}/mine", registry.host));
    let (_, lines) = push(&mine).await.unwrap();
    assert_eq!(lines.iter().filter(|l| l.ends_with(": Pushed")).count(), 1, "{lines:?}");
    let other = Place::new();
    assert_eq!(other.open().pull(&mine, PullOptions::default(), silent()).await.unwrap().id, id);
}

#[tokio::test]
async fn what_a_killed_engine_had_only_forgotten_goes_when_it_starts_again() {
    let place = Place::new();
    loaded(&place.open(), "x", &["app"]).await;
    // Killed between the two steps of a removal: the name is gone, what it meant is not.
    let db = rusqlite::Connection::open(place.db()).unwrap();
    db.execute_batch("DELETE FROM image_name; DELETE FROM image_target").unwrap();
    drop(db);
    let images = place.open();
    assert_ne!((place.names("blobs/sha256").len(), place.names("layers").len()), (0, 0));
    images.tidy().await.unwrap();
    assert_eq!((place.names("blobs/sha256").len(), place.names("layers").len()), (0, 0));
    assert_eq!(images.disk_usage().await.unwrap().total, 0);
}
