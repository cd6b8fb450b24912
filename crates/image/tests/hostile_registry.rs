//! Registries that lie, break off, ask for credentials or are not there.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use image::{Code, Credentials, Digest, Error, PullOptions, Reference};
use support::{Answer, Place, Recorded, Server, TestImage, gzip, noise, silent, simple, tar};

async fn pull(place: &Place, host: &str) -> Result<image::Pulled, Error> {
    let reference = Reference::parse(&format!("{host}/app")).unwrap();
    place.open().pull(&reference, PullOptions::default(), silent()).await
}

/// An image whose layer is long enough to be cut.
fn long() -> TestImage {
    TestImage::new("amd64", &[tar(&[("noise", &noise(600_000, 7))])], gzip)
}

#[tokio::test]
async fn an_honest_one_is_pulled() {
    let (place, image) = (Place::new(), simple("honest"));
    let server = Server::image(image.clone(), |_, _| None).await;
    let pulled = pull(&place, &server.host).await.unwrap();
    assert_eq!(pulled.id, image.id());
    assert_eq!(place.names("ingest"), [""; 0]);
}

#[tokio::test]
async fn a_layer_that_is_not_its_digest_is_refused_and_leaves_nothing() {
    let (place, image) = (Place::new(), long());
    let layer = Digest::of(&image.layers[0]).to_string();
    let mut wrong = image.layers[0].clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    let server =
        Server::image(image, move |a, _| a.path.ends_with(&layer).then(|| Answer::new(200, wrong.clone())))
            .await;
    let error = pull(&place, &server.host).await.unwrap_err();
    assert!(matches!(error, Error::Verification { .. }), "{error}");
    assert!(place.open().list().await.unwrap().is_empty());
    place.settled().await;
}

#[tokio::test]
async fn a_layer_whose_diff_id_lies_is_refused() {
    let place = Place::new();
    let config = serde_json::json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"another")]}});
    let image = TestImage::with_config(serde_json::to_vec(&config).unwrap(), simple("x").layers);
    let server = Server::image(image, |_, _| None).await;
    let error = pull(&place, &server.host).await.unwrap_err();
    assert!(error.to_string().contains("unpacked layer failed verification"), "{error}");
    place.settled().await;
}

#[tokio::test]
async fn a_longer_or_shorter_layer_is_refused() {
    for cut in [true, false] {
        let (place, image) = (Place::new(), long());
        let layer = Digest::of(&image.layers[0]).to_string();
        let mut wrong = image.layers[0].clone();
        if cut {
            wrong.truncate(1000)
        } else {
            wrong.extend_from_slice(&[0; 1000])
        }
        let server = Server::image(image, move |a, _| {
            a.path.ends_with(&layer).then(|| Answer::new(200, wrong.clone()))
        })
        .await;
        let error = pull(&place, &server.host).await.unwrap_err();
        assert!(matches!(error, Error::Verification { .. } | Error::Registry { .. }), "{error}");
        place.settled().await;
    }
}

#[tokio::test]
async fn a_manifest_that_is_not_its_digest_is_refused() {
    let (place, image) = (Place::new(), simple("x"));
    let other = simple("other").manifest;
    let server = Server::image(image, move |a, _| {
        (a.method == "GET" && a.path.contains("/manifests/")).then(|| Answer::new(200, other.clone()))
    })
    .await;
    let error = pull(&place, &server.host).await.unwrap_err();
    assert!(matches!(error, Error::Verification { .. }), "{error}");
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    for ranges in [true, false] {
        let (place, image) = (Place::new(), long());
        let (layer, data) = (Digest::of(&image.layers[0]).to_string(), image.layers[0].clone());
        let times = AtomicUsize::new(0);
        let server = Server::image(image.clone(), move |a, _| {
            if !a.path.ends_with(&layer) {
                return None;
            }
            let cut = data.len() / 3;
            match times.fetch_add(1, Ordering::SeqCst) {
                0 => Some(Answer { claimed: Some(data.len()), ..Answer::new(200, &data[..cut]) }),
                // A server that does not know ranges starts again.
                _ if !ranges => Some(Answer::new(200, data.clone())),
                _ => None,
            }
        })
        .await;
        let pulled = pull(&place, &server.host).await.unwrap();
        assert_eq!(pulled.id, image.id());
        let asked = server.asked.lock().unwrap();
        let resumed = asked.iter().find_map(|a| a.header("range")).unwrap();
        assert!(resumed.starts_with("bytes=") && resumed != "bytes=0-", "{resumed}");
    }
}

#[tokio::test]
async fn one_that_always_breaks_off_is_given_up() {
    let (place, image) = (Place::new(), long());
    let layer = Digest::of(&image.layers[0]).to_string();
    let server = Server::image(image, move |a, _| {
        a.path.ends_with(&layer).then(|| Answer { claimed: Some(10), ..Answer::new(200, "") })
    })
    .await;
    let error = pull(&place, &server.host).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(server.count("GET", "/blobs/") < 12);
    place.settled().await;
}

#[tokio::test]
async fn server_errors_are_tried_again() {
    let (place, image) = (Place::new(), simple("x"));
    let times = AtomicUsize::new(0);
    let server = Server::image(image, move |_, _| {
        times.fetch_add(1, Ordering::SeqCst).is_multiple_of(2).then(|| Answer::new(503, ""))
    })
    .await;
    pull(&place, &server.host).await.unwrap();
}

fn challenge(accepted: &'static str) -> impl Fn(&support::Asked, &str) -> Option<Answer> {
    move |a, host| {
        if a.path.starts_with("/token") {
            assert!(
                a.path.contains("service=reg") && a.path.contains("scope=repository%3Aapp%3Apull"),
                "{}",
                a.path
            );
            // user:right
            return Some(match a.header("authorization") {
                Some("Basic dXNlcjpyaWdodA==") => Answer::new(200, r#"{"token":"good"}"#),
                Some(_) => Answer::new(401, "{}"),
                None => Answer::new(200, r#"{"access_token":"anonymous"}"#),
            });
        }
        if a.header("authorization") == Some(accepted) {
            return None;
        }
        Some(
            Answer::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)
                .header(
                    "www-authenticate",
                    format!(
                        r#"Bearer realm="http://{host}/token",service="reg",scope="repository:app:pull""#
                    ),
                ),
        )
    }
}

#[tokio::test]
async fn tokens_are_fetched_and_used() {
    let server = Server::image(simple("x"), challenge("Bearer good")).await;
    let reference = Reference::parse(&format!("{}/app", server.host)).unwrap();
    let with = |password: &str| PullOptions {
        auth: Some(Credentials::Basic { user: "user".into(), password: password.into() }),
        ..PullOptions::default()
    };
    let place = Place::new();
    let images = place.open();
    let error = images.pull(&reference, with("wrong"), silent()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthorized);
    assert!(error.to_string().contains("unauthorized: incorrect username or password"), "{error}");
    let error = images.pull(&reference, PullOptions::default(), silent()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("pull access denied for {}/app, repository does not exist", server.host))
    );
    images.pull(&reference, with("right"), silent()).await.unwrap();

    let open = Server::image(simple("x"), challenge("Bearer anonymous")).await;
    pull(&Place::new(), &open.host).await.unwrap();
    assert_eq!(open.count("GET", "/token"), 1, "one token serves the whole pull");
}

#[tokio::test]
async fn mirrors_come_before_the_hub_and_see_no_password() {
    let place = Place::new();
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let server = Server::image(simple("x"), |_, _| None).await;
    let images = place.open_with(&[dead, format!("http://{}", server.host)]);
    let options = PullOptions {
        auth: Some(Credentials::Basic { user: "user".into(), password: "secret".into() }),
        ..PullOptions::default()
    };
    images.pull(&Reference::parse("busybox").unwrap(), options, silent()).await.unwrap();
    assert_eq!(images.get("busybox").await.unwrap().repo_tags, ["busybox:latest"]);
    let asked = server.asked.lock().unwrap();
    assert!(asked.iter().all(|a| a.path.starts_with("/v2/library/busybox/")));
    assert!(asked.iter().all(|a| a.header("authorization").is_none()));
}

#[tokio::test]
async fn what_is_not_there_is_said_in_dockers_words() {
    let server = Server::start(|a, _| match a.path.contains("/app/") {
        true => Answer::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
        false => Answer::new(200, r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#),
    })
    .await;
    let place = Place::new();
    let error = pull(&place, &server.host).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("manifest for {}/app:latest not found: manifest unknown: manifest unknown", server.host)
    );
    assert_eq!(error.code(), Code::NotFound);
    let old = Reference::parse(&format!("{}/old", server.host)).unwrap();
    let error = place.open().pull(&old, PullOptions::default(), silent()).await.unwrap_err();
    assert_eq!(error.code(), Code::NotImplemented);

    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let error = pull(&place, &gone).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.to_string().contains(&gone), "{error}");
}

#[tokio::test]
async fn a_cancelled_pull_leaves_nothing() {
    let (place, image) = (Place::new(), long());
    let (layer, data) = (Digest::of(&image.layers[0]).to_string(), image.layers[0].clone());
    let started = Arc::new(tokio::sync::Notify::new());
    let notify = started.clone();
    let server = Server::image(image, move |a, _| {
        a.path.ends_with(&layer).then(|| {
            notify.notify_one();
            Answer { claimed: Some(data.len()), stall: true, ..Answer::new(200, &data[..data.len() / 2]) }
        })
    })
    .await;
    tokio::select! {
        done = pull(&place, &server.host) => panic!("{done:?}"),
        () = started.notified() => {}
    }
    place.settled().await;
    assert!(place.open().list().await.unwrap().is_empty());
}

#[tokio::test]
async fn two_pulls_of_one_layer_share_one_fetch() {
    let (place, image) = (Place::new(), long());
    let slow = Arc::new(AtomicBool::new(true));
    let server = Server::image(image.clone(), move |a, _| {
        if a.path.contains("/blobs/") && slow.swap(false, Ordering::SeqCst) {
            return Some(Answer::new(503, ""));
        }
        None
    })
    .await;
    let images = place.open();
    let reference = |tag: &str| Reference::parse(&format!("{}/app:{tag}", server.host)).unwrap();
    let (one, two) = (reference("one"), reference("two"));
    let (a, b) = tokio::join!(
        images.pull(&one, PullOptions::default(), silent()),
        images.pull(&two, PullOptions::default(), silent())
    );
    assert_eq!(a.unwrap().id, b.unwrap().id);
    assert_eq!(server.count("GET", &Digest::of(&image.layers[0]).to_string()), 1);
    assert_eq!(place.names("layers").len(), 1);
    assert_eq!(images.get(&image.id().to_string()).await.unwrap().repo_tags.len(), 2);
}

#[tokio::test]
async fn progress_is_in_dockers_words_and_order() {
    let (place, image) = (Place::new(), long());
    let server = Server::image(image.clone(), |_, _| None).await;
    let images = place.open();
    let reference = Reference::parse(&format!("{}/app", server.host)).unwrap();
    let recorded = Recorded::default();
    images.pull(&reference, PullOptions::default(), recorded.sink()).await.unwrap();
    let short = Digest::of(&image.layers[0]).short();
    let mut lines = recorded.lines();
    lines.retain(|l| !l.ends_with(": Downloading"));
    assert_eq!(
        lines,
        [
            "latest: Pulling from app".to_string(),
            format!("{short}: Pulling fs layer"),
            format!("{short}: Download complete"),
            format!("{short}: Extracting"),
            format!("{short}: Pull complete"),
            format!("Digest: {}", image.id()),
            format!("Status: Downloaded newer image for {}/app:latest", server.host),
        ]
    );
    let again = Recorded::default();
    images.pull(&reference, PullOptions::default(), again.sink()).await.unwrap();
    assert_eq!(again.lines()[2], format!("Status: Image is up to date for {}/app:latest", server.host));
}

#[tokio::test]
async fn when_the_fetching_pull_is_cancelled_the_waiting_one_takes_over() {
    let (place, image) = (Place::new(), long());
    let (layer, data) = (Digest::of(&image.layers[0]).to_string(), image.layers[0].clone());
    let started = Arc::new(tokio::sync::Notify::new());
    let (notify, first) = (started.clone(), AtomicBool::new(true));
    let server = Server::image(image.clone(), move |a, _| {
        (a.path.ends_with(&layer) && first.swap(false, Ordering::SeqCst)).then(|| {
            notify.notify_one();
            Answer { claimed: Some(data.len()), stall: true, ..Answer::new(200, &data[..data.len() / 2]) }
        })
    })
    .await;
    let images = place.open();
    let reference = |tag: &str| Reference::parse(&format!("{}/app:{tag}", server.host)).unwrap();
    let (one, two) = (reference("one"), reference("two"));
    let mut cancelled = Box::pin(images.pull(&one, PullOptions::default(), silent()));
    tokio::select! {
        done = &mut cancelled => panic!("{done:?}"),
        () = started.notified() => {}
    }
    let recorded = Recorded::default();
    let mut waiting = Box::pin(images.pull(&two, PullOptions::default(), recorded.sink()));
    // Polled until it waits for the other's transfer.
    while recorded.count("Pulling fs layer") == 0 {
        tokio::select! {
            done = &mut waiting => panic!("{done:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    drop(cancelled);
    assert_eq!(waiting.await.unwrap().id, image.id());
    assert_eq!(images.list().await.unwrap().len(), 1);
    for _ in 0..500 {
        if place.names("ingest").is_empty() && place.names("layers").len() == 1 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("left behind: {:?} {:?}", place.names("ingest"), place.names("layers"));
}
