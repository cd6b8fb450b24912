//! Registries beyond the plain ones: with certificates of their own, behind proxies, with logins, limits, many tags.

mod support;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{Code, Config, Credentials, Images, Proxies, PullOptions, Reference};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use support::{Answer, Place, Registry, Server, TestImage, gzip, silent, simple, tar};

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn open(place: &Place, config: Config) -> Images {
    Images::open(Config { root: place.root(), db: place.db(), ..config }).unwrap()
}

/// An authority with a certificate for this machine under the name `0.0.0.0`: it leads to loopback, but is not one
/// of the names that need no certificate.
struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { folder: tempfile::tempdir().unwrap(), issuer }
    }

    fn file(&self, name: &str, pem: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    }

    fn own(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate and its key.
    fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["0.0.0.0".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (
            self.file(&format!("{name}.cert"), &cert.pem()),
            self.file(&format!("{name}.key"), &key.serialize_pem()),
        )
    }
}

#[tokio::test]
async fn certificates_of_a_registry_are_looked_up_by_its_name() {
    let authority = Authority::new();
    let ((cert, key), (mine, my_key)) = (authority.issue("server"), authority.issue("client"));
    let ca = authority.file("ca.pem", &authority.own());
    let Some(registry) = Registry::start_with(Some([&cert, &key, &ca])).await else { return };
    let port = registry.host.rsplit(':').next().unwrap();
    let host = format!("0.0.0.0:{port}");
    let name = reference(&format!("{host}/app:1"));

    let (place, folders) = (Place::new(), tempfile::tempdir().unwrap());
    let images = open(&place, Config { certificates: vec![folders.path().into()], ..Config::default() });
    let asked = async || images.tags(&name, None).await.map(|t| t.len());
    let unknown = asked().await.unwrap_err().to_string();
    assert!(unknown.contains("certificate"), "{unknown}");

    let own = folders.path().join(&host);
    std::fs::create_dir(&own).unwrap();
    let put = |from: &Path, to: &str| std::fs::copy(from, own.join(to)).unwrap();
    put(&ca, "authority.crt");
    // The registry wants one of us as well.
    assert!(asked().await.is_err());
    put(&mine, "me.cert");
    let words = asked().await.unwrap_err().to_string();
    assert!(words.contains("missing key") && words.contains("me.cert"), "{words}");
    put(&my_key, "me.key");
    // Without a restart: the folder is read anew when it changes. The repository itself is not there.
    let error = asked().await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
}

#[tokio::test]
async fn a_proxy_is_asked_except_for_what_is_direct() {
    let image = simple("proxied");
    let proxy = Server::image(image.clone(), |_, _| None).await;
    let place = Place::new();
    let proxies = |direct: Option<&str>| Config {
        insecure_registries: vec!["registry.invalid".into()],
        proxies: Proxies {
            http: Some(format!("http://{}", proxy.host)),
            https: Some(proxy.host.clone()),
            direct: direct.map(str::to_owned),
        },
        ..Config::default()
    };
    let images = open(&place, proxies(None));
    let name = reference("registry.invalid/app");
    assert_eq!(images.pull(&name, PullOptions::default(), silent()).await.unwrap().id, image.id());
    assert!(proxy.count("GET", "http://registry.invalid/v2/app/") > 0, "{:?}", proxy.asked.lock().unwrap());

    // Loopback is never asked of a proxy, and neither is what the settings name.
    let direct = Server::image(image.clone(), |_, _| None).await;
    let before = proxy.asked.lock().unwrap().len();
    images.tags(&reference(&format!("{}/app", direct.host)), None).await.unwrap_err();
    assert!(direct.count("GET", "/v2/app/tags/list") > 0);
    drop(images);
    let images = open(&place, proxies(Some(".invalid")));
    images.tags(&name, None).await.unwrap_err();
    assert_eq!(proxy.asked.lock().unwrap().len(), before);

    let bad = Config {
        proxies: Proxies { http: Some("http://[".into()), ..Proxies::default() },
        ..Config::default()
    };
    let bad = Config { root: place.root(), db: place.db(), ..bad };
    assert_eq!(Images::open(bad).err().unwrap().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_limit_is_waited_for_when_it_is_short_and_told_when_it_is_not() {
    let image = simple("limited");
    let refusals = AtomicUsize::new(0);
    let server = Server::image(image.clone(), move |asked, _| {
        let first = asked.path.contains("/blobs/") && refusals.fetch_add(1, Ordering::Relaxed) == 0;
        first.then(|| Answer::new(429, "{}").header("retry-after", 1))
    })
    .await;
    let (place, name) = (Place::new(), reference(&format!("{}/app", server.host)));
    let images = place.open();
    assert_eq!(images.pull(&name, PullOptions::default(), silent()).await.unwrap().id, image.id());

    let server = Server::start(|_, _| {
        Answer::new(
            429,
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#,
        )
        .header("retry-after", 3600)
    })
    .await;
    let name = reference(&format!("{}/app", server.host));
    let error = images.tags(&name, None).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "toomanyrequests: You have reached your pull rate limit. (try again in 3600 seconds)"
    );
    assert_eq!(server.asked.lock().unwrap().len(), 1, "a long wait is not begun");
}

#[tokio::test]
async fn a_foreign_layer_is_fetched_from_its_maker_and_not_pushed() {
    let mut image = simple("foreign");
    let layer = image.layers[0].clone();
    let maker = Server::start(move |asked, _| match asked.path.as_str() {
        "/layer.tar.gz" => Answer::new(200, layer.clone()),
        _ => Answer::new(404, ""),
    })
    .await;
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    let last = manifest["layers"].as_array_mut().unwrap().last_mut().unwrap();
    let foreign = last["digest"].as_str().unwrap().to_owned();
    last["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
    last["urls"] = serde_json::json!([
        "http://foreign.example.com/never-in-plain-text",
        format!("http://{}/gone", maker.host),
        format!("http://{}/layer.tar.gz", maker.host),
    ]);
    image.manifest = serde_json::to_vec(&manifest).unwrap();
    let lacking = foreign.clone();
    let server = Server::image(image.clone(), move |asked, _| {
        asked.path.ends_with(&lacking).then(|| Answer::new(404, "{}"))
    })
    .await;
    let (place, name) = (Place::new(), reference(&format!("{}/app:1", server.host)));
    let images = place.open();
    let login = Some(Credentials::Basic { user: "me".into(), password: "secret".into() });
    let options = PullOptions { auth: login, ..PullOptions::default() };
    assert_eq!(images.pull(&name, options, silent()).await.unwrap().id, image.id());
    assert!(maker.asked.lock().unwrap().iter().all(|a| a.header("authorization").is_none()));

    let Some(registry) = Registry::start().await else { return };
    let name = reference(&format!("{}/copy:1", registry.host));
    images.tag(&image.id().to_string(), &name).await.unwrap();
    let told = support::Recorded::default();
    let pushed = images.push(&name, image::PushOptions::default(), told.sink()).await.unwrap();
    assert_eq!(pushed.descriptor.digest, image.id(), "the manifest goes as it came");
    assert_eq!(told.count("Skipped foreign layer"), 1, "{:?}", told.lines());
    assert!(!registry.has_blob("copy", &foreign).await);
}

#[tokio::test]
async fn credentials_stay_with_their_host_when_a_blob_is_elsewhere() {
    let image = simple("moved");
    let elsewhere = Server::image(image.clone(), |_, _| None).await;
    let far = elsewhere.host.clone();
    let server = Server::image(image.clone(), move |asked, _| {
        if asked.header("authorization").is_none() {
            return Some(Answer::new(401, "{}").header("www-authenticate", "Basic realm=x"));
        }
        let away = asked.path.contains("/blobs/");
        // Another name for the same machine is another host.
        away.then(|| {
            let port = far.rsplit(':').next().unwrap_or_default();
            Answer::new(307, "").header("location", format!("http://localhost:{port}{}", asked.path))
        })
    })
    .await;
    let (place, name) = (Place::new(), reference(&format!("{}/app", server.host)));
    let auth = Some(Credentials::Basic { user: "me".into(), password: "secret".into() });
    let options = PullOptions { auth, ..PullOptions::default() };
    assert_eq!(place.open().pull(&name, options, silent()).await.unwrap().id, image.id());
    let asked = elsewhere.asked.lock().unwrap();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|a| a.header("authorization").is_none()), "{asked:?}");
}

#[tokio::test]
async fn a_login_is_proven_by_the_registry() {
    let good = |asked: &support::Asked, wanted: &str| asked.header("authorization") == Some(wanted);
    // bWU6c2VjcmV0 is me:secret.
    let basic = Server::start(move |asked, _| {
        if good(asked, "Basic bWU6c2VjcmV0") {
            return Answer::new(200, "{}");
        }
        Answer::new(401, "{}").header("www-authenticate", "Basic realm=x")
    })
    .await;
    let bearer = Server::start(move |asked, own| {
        if asked.path.starts_with("/token") {
            let wanted = asked.path.contains("offline_token=true") && good(asked, "Basic bWU6c2VjcmV0");
            return if wanted {
                Answer::new(200, r#"{"token":"t","refresh_token":"keep me"}"#)
            } else {
                Answer::new(401, "{}")
            };
        }
        if good(asked, "Bearer t") {
            return Answer::new(200, "{}");
        }
        let realm = format!("Bearer realm=\"http://{own}/token\",service=\"s\"");
        Answer::new(401, "{}").header("www-authenticate", realm)
    })
    .await;
    let open_to_all = Server::start(|_, _| Answer::new(200, "{}")).await;
    let place = Place::new();
    let images = place.open();
    let me = |password: &str| Credentials::Basic { user: "me".into(), password: password.into() };
    for (server, identity) in [(&basic, None), (&bearer, Some("keep me".to_owned())), (&open_to_all, None)] {
        assert_eq!(images.login(&server.host, "me", &me("secret")).await.unwrap(), identity);
    }
    for server in [&basic, &bearer] {
        let error =
            images.login(&format!("http://{}/v1/", server.host), "me", &me("wrong")).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthorized);
        let words =
            format!("Get \"http://{}/v2/\": unauthorized: incorrect username or password", server.host);
        assert_eq!(error.to_string(), words);
    }
}

#[tokio::test]
async fn tags_come_in_pages_and_platforms_without_a_pull() {
    let server = Server::start(|asked, _| {
        let page = |tags: &str| Answer::new(200, format!("{{\"name\":\"app\",\"tags\":[{tags}]}}"));
        match asked.path.as_str() {
            "/v2/app/tags/list" => {
                page("\"1\",\"2\"").header("link", "</v2/app/tags/list?last=2&n=2>; rel=\"next\"")
            }
            "/v2/app/tags/list?last=2&n=2" => page("\"3\""),
            _ => Answer::new(404, "{}"),
        }
    })
    .await;
    let place = Place::new();
    let images = place.open();
    assert_eq!(
        images.tags(&reference(&format!("{}/app", server.host)), None).await.unwrap(),
        ["1", "2", "3"]
    );

    let arm = TestImage::new("arm64", &[tar(&[("arch", b"arm64")])], gzip);
    let server = Server::image(arm.clone(), |_, _| None).await;
    let found = images.distribution(&reference(&format!("{}/app", server.host)), None).await.unwrap();
    assert_eq!(found.descriptor.digest, arm.id());
    assert_eq!(found.platforms[0].to_string(), "linux/arm64");
    assert!(images.list().await.unwrap().is_empty());
    let error =
        images.distribution(&reference(&format!("{}/nope@{}", server.host, simple("x").id())), None).await;
    assert!(error.is_err());
}

#[tokio::test]
async fn a_search_goes_to_the_registry_that_is_named() {
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/v1/search?q=term&n=7" => Answer::new(
            200,
            r#"{"num_results":1,"results":[{"name":"a/b","description":"d","star_count":3,"is_official":true}]}"#,
        ),
        _ => Answer::new(404, "{}"),
    })
    .await;
    let place = Place::new();
    let images = place.open();
    let found = images.search(&format!("{}/term", server.host), 7).await.unwrap();
    assert_eq!((found[0].name.as_str(), found[0].star_count, found[0].is_official), ("a/b", 3, true));
    let nobody = images.search("127.0.0.1:1/x", 7).await.unwrap_err();
    assert!(nobody.to_string().contains("connection refused"), "{nobody}");
}
