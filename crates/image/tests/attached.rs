//! What is not an image but comes with one, or in its place: attestations and artifacts; and the manifests of single
//! platforms. With the registry named by `CORACLE_TEST_REGISTRY` (`cargo xtask test` provides it).

mod support;

use image::{
    Code, Digest, Error, ImageUse, Images, LoadOptions, ManifestKind, Platform, PullOptions, Reference,
    RemoveOptions, Removed,
};
use serde_json::{Value, json};
use support::{
    Answer, OCI_INDEX, OCI_MANIFEST, Place, Registry, Server, TestImage, gzip, index, silent, simple, tar,
};

const IN_TOTO: &[u8] = br#"{"_type":"https://in-toto.io/Statement/v0.1"}"#;

/// An index with one image and BuildKit's attestation of it: (index, attestation's manifest, its configuration).
fn attested(image: &TestImage) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let bytes = |v: Value| serde_json::to_vec(&v).unwrap();
    let config = bytes(json!({
        "architecture": "unknown", "os": "unknown", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(IN_TOTO)] },
    }));
    let manifest = bytes(json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.in-toto+json", "digest": Digest::of(IN_TOTO), "size": IN_TOTO.len() }],
    }));
    let index = bytes(json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [
            { "mediaType": OCI_MANIFEST, "digest": image.id(), "size": image.manifest.len(),
              "platform": { "os": "linux", "architecture": "amd64" } },
            { "mediaType": OCI_MANIFEST, "digest": Digest::of(&manifest), "size": manifest.len(),
              "platform": { "os": "unknown", "architecture": "unknown" },
              "annotations": { "vnd.docker.reference.type": "attestation-manifest",
                               "vnd.docker.reference.digest": image.id() } },
        ],
    }));
    (index, manifest, config)
}

async fn push_attested(registry: &Registry, image: &TestImage) -> Digest {
    let (index, manifest, config) = attested(image);
    registry.push_blobs("app", &image.blobs()).await;
    registry.push_blobs("app", &[config, IN_TOTO.to_vec()]).await;
    registry.push_manifest("app", &image.id().to_string(), OCI_MANIFEST, &image.manifest).await;
    registry.push_manifest("app", &Digest::of(&manifest).to_string(), OCI_MANIFEST, &manifest).await;
    registry.push_manifest("app", "1", OCI_INDEX, &index).await;
    Digest::of(&index)
}

async fn saved(images: &Images, name: &str) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let out = tokio::fs::File::create(file.path()).await.unwrap();
    images.save(&[name.to_owned()], None, out).await.unwrap();
    std::fs::read(file.path()).unwrap()
}

async fn load(images: &Images, archive: Vec<u8>) -> Result<Vec<image::Loaded>, Error> {
    images.load(std::io::Cursor::new(archive), LoadOptions::default(), silent()).await
}

fn unused(_: &Digest) -> Vec<ImageUse> {
    Vec::new()
}

/// Whether the attestation is there, whole.
async fn is_attested(images: &Images, id: &Digest) -> bool {
    let all = images.manifests(id).await.unwrap();
    let attestation = all.iter().find(|m| matches!(m.kind, ManifestKind::Attestation(_))).unwrap();
    attestation.available
}

#[tokio::test]
async fn attestations_come_with_their_image_and_go_where_it_goes() {
    let Some(registry) = Registry::start().await else { return };
    let image = simple("attested");
    let id = push_attested(&registry, &image).await;
    let place = Place::new();
    let images = place.open();
    let name = Reference::parse(&format!("{}/app:1", registry.host)).unwrap();
    assert_eq!(images.pull(&name, PullOptions::default(), silent()).await.unwrap().id, id);
    assert!(is_attested(&images, &id).await);
    assert_eq!(images.get(&name.familiar()).await.unwrap().manifest, image.id());
    assert!(images.pull(&name, PullOptions::default(), silent()).await.unwrap().up_to_date);

    // Pushed elsewhere it is the same, attestation and all.
    let copy = Reference::parse(&format!("{}/copy:1", registry.host)).unwrap();
    images.tag(&name.familiar(), &copy).await.unwrap();
    let pushed = images.push(&copy, Default::default(), silent()).await.unwrap();
    assert_eq!((pushed.descriptor.digest, pushed.instead_of), (id, None));
    let other = Place::new();
    let elsewhere = other.open();
    elsewhere.pull(&copy, PullOptions::default(), silent()).await.unwrap();
    assert!(is_attested(&elsewhere, &id).await);

    // The same through an archive.
    let third = Place::new();
    let loaded = third.open();
    assert_eq!(load(&loaded, saved(&images, &name.familiar()).await).await.unwrap()[0].id, id);
    assert!(is_attested(&loaded, &id).await);
    drop(loaded.mount(&id, "runs").await.unwrap());
    loaded.unmount_and_discard("runs").await.unwrap();

    // It goes with its image.
    let force = RemoveOptions { force: true, ..RemoveOptions::default() };
    loaded.remove(&id.to_string(), force, &unused).await.unwrap();
    third.settled().await;
    assert_eq!(loaded.disk_usage().await.unwrap().total, 0);
}

#[tokio::test]
async fn an_image_whose_attestation_is_lost_is_pulled_without() {
    let image = simple("x");
    let (index, manifest, _) = attested(&image);
    let (top, lost) = (Digest::of(&index), Digest::of(&manifest).to_string());
    let server = Server::image(image, move |asked, _| {
        if asked.path.ends_with("/manifests/1") || asked.path.ends_with(&top.to_string()) {
            let answer = Answer::new(200, index.clone()).header("content-type", OCI_INDEX);
            return Some(answer.header("docker-content-digest", top));
        }
        asked.path.ends_with(&lost).then(|| Answer::new(404, "{}"))
    })
    .await;
    let place = Place::new();
    let images = place.open();
    let name = Reference::parse(&format!("{}/app:1", server.host)).unwrap();
    let pulled = images.pull(&name, PullOptions::default(), silent()).await.unwrap();
    assert_eq!(pulled.id, top);
    assert!(!is_attested(&images, &top).await);
}

/// A chart as Helm pushes one.
fn chart() -> (Vec<u8>, Vec<Vec<u8>>) {
    let (config, content) = (br#"{"name":"chart"}"#.to_vec(), gzip(b"a chart"));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": { "mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": Digest::of(&config), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
                     "digest": Digest::of(&content), "size": content.len() }],
    });
    (serde_json::to_vec(&manifest).unwrap(), vec![config, content])
}

#[tokio::test]
async fn artifacts_are_kept_and_listed_but_not_run() {
    let Some(registry) = Registry::start().await else { return };
    let (manifest, blobs) = chart();
    registry.push_blobs("chart", &blobs).await;
    registry.push_manifest("chart", "1", OCI_MANIFEST, &manifest).await;
    let place = Place::new();
    let images = place.open();
    let name = Reference::parse(&format!("{}/chart:1", registry.host)).unwrap();
    let id = images.pull(&name, PullOptions::default(), silent()).await.unwrap().id;
    assert_eq!(id, Digest::of(&manifest));
    assert!(images.pull(&name, PullOptions::default(), silent()).await.unwrap().up_to_date);
    let listed = images.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].artifact.as_deref(), Some("application/vnd.cncf.helm.config.v1+json"));
    assert_eq!(listed[0].repo_tags, [name.familiar()]);
    let bytes = manifest.len() + blobs.iter().map(Vec::len).sum::<usize>();
    assert_eq!(listed[0].size, bytes as u64);
    assert_eq!(images.mount(&id, "key").await.unwrap_err().code(), Code::NotFound);

    // It is pushed, saved and loaded as what it is, and goes without a trace.
    let copy = Reference::parse(&format!("{}/copy:1", registry.host)).unwrap();
    images.tag(&name.familiar(), &copy).await.unwrap();
    assert_eq!(images.push(&copy, Default::default(), silent()).await.unwrap().descriptor.digest, id);
    let other = Place::new();
    let elsewhere = other.open();
    assert_eq!(load(&elsewhere, saved(&images, &name.familiar()).await).await.unwrap()[0].id, id);
    elsewhere.remove(&name.familiar(), RemoveOptions::default(), &unused).await.unwrap();
    other.settled().await;
    assert_eq!(elsewhere.disk_usage().await.unwrap().total, 0);
}

#[tokio::test]
async fn platforms_are_removed_one_by_one_and_the_image_with_the_last() {
    let Some(registry) = Registry::start().await else { return };
    let amd = TestImage::new("amd64", &[tar(&[("arch", b"amd64")])], gzip);
    let arm = TestImage::new("arm64", &[tar(&[("arch", b"arm64")])], gzip);
    let both = index(&[("arm64", &arm), ("amd64", &amd)]);
    for image in [&amd, &arm] {
        registry.push_blobs("app", &image.blobs()).await;
        registry.push_manifest("app", &image.id().to_string(), OCI_MANIFEST, &image.manifest).await;
    }
    registry.push_manifest("app", "1", OCI_INDEX, &both).await;
    let place = Place::new();
    let images = place.open();
    let name = Reference::parse(&format!("{}/app:1", registry.host)).unwrap();
    let platform = |text: &str| text.parse::<Platform>().unwrap();
    for one in ["linux/amd64", "linux/arm64"] {
        let options = PullOptions { platform: Some(platform(one)), ..PullOptions::default() };
        images.pull(&name, options, silent()).await.unwrap();
    }
    let text = name.familiar();
    let remove = async |wanted: &str| {
        let options = RemoveOptions { platforms: vec![platform(wanted)], ..RemoveOptions::default() };
        images.remove(&text, options, &unused).await
    };
    let error = remove("linux/s390x").await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.to_string().contains("does not provide the specified platform (linux/s390x)"), "{error}");
    images.mount(&arm.id(), "user").await.unwrap();
    assert_eq!(remove("linux/arm64").await.unwrap_err().code(), Code::Conflict);
    images.unmount_and_discard("user").await.unwrap();
    assert_eq!(remove("linux/arm64").await.unwrap(), [Removed::Deleted(arm.id().to_string())]);
    assert_eq!(place.names("layers").len(), 1, "its layer is gone at once");
    assert_eq!(images.get(&text).await.unwrap().architecture, "amd64");
    // It can come back.
    let options = PullOptions { platform: Some(platform("linux/arm64")), ..PullOptions::default() };
    assert!(!images.pull(&name, options, silent()).await.unwrap().up_to_date);
    remove("linux/arm64").await.unwrap();
    let id = Digest::of(&both).to_string();
    assert_eq!(remove("linux/amd64").await.unwrap(), [Removed::Untagged(text.clone()), Removed::Deleted(id)]);
    place.settled().await;
}

#[tokio::test]
async fn a_push_asks_for_leave_to_read_what_it_mounts_from() {
    let server = Server::start(|asked, host| {
        if asked.path.starts_with("/token") {
            return Answer::new(200, r#"{"token":"good"}"#);
        }
        if asked.header("authorization") != Some("Bearer good") {
            let name = if asked.path.contains("/b/") { "b" } else { "a" };
            return Answer::new(401, "{}").header(
                "www-authenticate",
                format!(
                    r#"Bearer realm="http://{host}/token",service="reg",scope="repository:{name}:pull,push""#
                ),
            );
        }
        match (asked.method.as_str(), asked.path.contains("mount=")) {
            ("HEAD", _) => Answer::new(404, "{}"),
            ("POST", true) => Answer::new(201, "{}"),
            ("POST", false) => Answer::new(202, "{}").header("location", format!("http://{host}/upload?x=1")),
            ("PUT", _) => Answer::new(201, "{}"),
            _ => Answer::new(200, "{}"),
        }
    })
    .await;
    let place = Place::new();
    let images = place.open();
    let image = simple("x");
    let manifest = json!([{"Config": "c", "RepoTags": [format!("{}/a:1", server.host)], "Layers": ["l"]}]);
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let archive = tar(&[("c", &image.config), ("l", &image.layers[0]), ("manifest.json", &manifest)]);
    load(&images, archive).await.unwrap();
    let to = Reference::parse(&format!("{}/b:1", server.host)).unwrap();
    images.tag(&format!("{}/a:1", server.host), &to).await.unwrap();
    images.push(&to, Default::default(), silent()).await.unwrap();
    let asked = server.asked.lock().unwrap();
    let tokens: Vec<&str> =
        asked.iter().filter(|a| a.path.starts_with("/token")).map(|a| a.path.as_str()).collect();
    assert!(
        tokens
            .iter()
            .any(|t| t.contains("scope=repository%3Ab%3Apull%2Cpush")
                && t.contains("scope=repository%3Aa%3Apull")),
        "{tokens:?}"
    );
    assert!(asked.iter().any(|a| a.method == "POST" && a.path.contains("from=a")));
}

#[tokio::test]
async fn a_name_remembers_when_it_was_given() {
    let place = Place::new();
    let images = place.open();
    let image = simple("x");
    let manifest =
        serde_json::to_vec(&json!([{"Config": "c", "RepoTags": ["a:1"], "Layers": ["l"]}])).unwrap();
    let archive = tar(&[("c", &image.config), ("l", &image.layers[0]), ("manifest.json", &manifest)]);
    load(&images, archive).await.unwrap();
    let first = images.get("a:1").await.unwrap().last_tagged.unwrap();
    images.tag("a:1", &Reference::parse("b:1").unwrap()).await.unwrap();
    assert!(images.get("a:1").await.unwrap().last_tagged.unwrap() > first);
}
