//! What is said of a build's result besides its kind, and what is told of it afterwards, by the stock clients.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::building::{Context, built, nothing_runs};
use tests::{Engine, store};

const BOTH: &str = "linux/amd64,linux/arm64";

/// A layout that a build is to make, and its documents.
struct Layout(PathBuf);

impl Layout {
    fn new(engine: &Engine, name: &str) -> Self {
        Self(engine.path(name))
    }

    fn output(&self, more: &str) -> String {
        format!("type=oci,dest={},tar=false{more}", self.0.display())
    }

    fn blob(&self, descriptor: &Value) -> Value {
        let digest = descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:");
        read(&self.0.join("blobs/sha256").join(digest))
    }

    /// What the layout names.
    fn top(&self) -> Value {
        read(&self.0.join("index.json"))["manifests"][0].clone()
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// All below a folder, in order.
fn below(folder: &Path) -> Vec<String> {
    let mut find = std::process::Command::new("find");
    let found = find.arg(".").args(["!", "-type", "d"]).current_dir(folder).output().unwrap().stdout;
    let found = String::from_utf8(found).unwrap();
    let mut all: Vec<String> = found.lines().map(|l| l.trim_start_matches("./").to_owned()).collect();
    all.sort();
    all
}

#[test]
fn annotations_go_where_they_belong() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "annotated", "FROM scratch\nCOPY Dockerfile /\n");
    let layout = Layout::new(&engine, "layout");
    built(context.build(&[
        &format!("--platform={BOTH}"),
        "--annotation=a=all",
        "--annotation=manifest[linux/arm64]:a=one",
        "--annotation=index:b=list",
        "--annotation=manifest-descriptor:c=name",
        "--annotation=index-descriptor:d=top",
        "-o",
        &layout.output(""),
    ]));
    let top = layout.top();
    assert_eq!(top["annotations"]["d"], "top", "{top}");
    let index = layout.blob(&top);
    assert_eq!(index["annotations"], json!({ "b": "list" }));
    for (n, said) in ["all", "one"].into_iter().enumerate() {
        assert_eq!(index["manifests"][n]["annotations"], json!({ "c": "name" }));
        assert_eq!(layout.blob(&index["manifests"][n])["annotations"], json!({ "a": said }));
    }
    let archive = engine.path("archive.tar");
    let to = format!("type=oci,dest={}", archive.display());
    built(context.build(&["--platform", BOTH, "--annotation=index-descriptor:d=top", "-o", &to]));
    let index =
        std::process::Command::new("tar").arg("-xOf").arg(&archive).arg("index.json").output().unwrap();
    let index: Value = serde_json::from_slice(&index.stdout).unwrap();
    assert_eq!(index["manifests"][0]["annotations"], json!({ "d": "top" }));

    let refused = |args: &[&str], words: &str| context.build(args).fails(1, words);
    let to = layout.output("");
    refused(
        &["--annotation=index:b=list", "-o", &to],
        "ERROR: failed to build: failed to solve: index annotations not supported for single platform export",
    );
    refused(
        &["--annotation=manifest[linux/s390x]:a=b", "--platform", BOTH, "-o", &to],
        "invalid annotation: no platform linux/s390x found in source",
    );
    assert_eq!(store::faults(&engine.root()), [""; 0]);
}

#[test]
fn documents_have_the_media_types_that_are_asked_for() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "typed", "FROM busybox\nRUN echo > /x\n");
    let types = |more: &str, args: &[&str]| -> Vec<String> {
        let layout = Layout::new(&engine, &format!("layout{}", more.len()));
        built(context.build(&[&["-o", &layout.output(more)], args].concat()));
        let top = layout.top();
        let manifest = layout.blob(&top);
        let all = [&top, &manifest["config"]].into_iter().chain(manifest["layers"].as_array().unwrap());
        all.map(|d| d["mediaType"].as_str().unwrap().trim_start_matches("application/vnd.").to_owned())
            .collect()
    };
    // Provenance that nobody asked for by name makes no list of it.
    let (base, layer) = ("oci.image.layer.v1.tar", "oci.image.layer.v1.tar+gzip");
    assert_eq!(types("", &[]), ["oci.image.manifest.v1+json", "oci.image.config.v1+json", base, layer]);
    let (base, layer) = ("docker.image.rootfs.diff.tar", "docker.image.rootfs.diff.tar.gzip");
    assert_eq!(
        types(",oci-mediatypes=false", &[]),
        ["docker.distribution.manifest.v2+json", "docker.container.image.v1+json", base, layer]
    );

    // In the store they are Docker's, unless something beside them wants OCI's.
    let context = Context::new(&engine, "copied", "FROM scratch\nCOPY Dockerfile /\n");
    let kept = |args: &[&str]| {
        built(context.build(&[&["-t", "kept"], args].concat()));
        let inspected =
            engine.docker(&["image", "inspect", "--format", "{{.Descriptor.MediaType}}", "kept"]).ok();
        inspected.trim_start_matches("application/vnd.").to_owned()
    };
    let (manifest, list) =
        ("docker.distribution.manifest.v2+json", "docker.distribution.manifest.list.v2+json");
    let oci = "oci.image.index.v1+json";
    assert_eq!(kept(&["--provenance=false"]), manifest);
    assert_eq!(
        kept(&["--provenance=false", "--platform", BOTH, "--build-arg", "BUILDKIT_MULTI_PLATFORM=1"]),
        list
    );
    assert_eq!(kept(&["--provenance=true"]), oci);
    assert_eq!(
        kept(&["--provenance=false", "--output", "type=image,oci-mediatypes=true"]),
        "oci.image.manifest.v1+json"
    );
    assert_eq!(
        kept(&[
            "--provenance=false",
            "--output",
            "type=image",
            "--annotation",
            "manifest-descriptor:a=b",
            "--platform",
            BOTH
        ]),
        oci
    );
}

#[test]
fn platforms_go_to_folders_of_their_own_or_together() {
    let engine = Engine::with_busybox();
    let apart = "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /of-$TARGETARCH\n";
    let context = Context::new(&engine, "split", apart);
    let out = |name: &str| engine.path(name);
    let to = |name: &str, more: &str| format!("type=local,dest={}{more}", out(name).display());
    let build = |args: &[&str]| context.build(args);
    built(build(&["--platform", BOTH, "--provenance=true", "-o", &to("one", ",platform-split=false")]));
    let together = ["of-amd64", "of-arm64", "provenance.linux_amd64.json", "provenance.linux_arm64.json"];
    assert_eq!(below(&out("one")), together);
    built(build(&["-o", &to("alone", ",platform-split=true")]));
    assert_eq!(below(&out("alone")), ["linux_amd64/of-amd64"]);
    built(build(&["--platform", BOTH, "-o", &to("each", "")]));
    assert_eq!(below(&out("each")), ["linux_amd64/of-amd64", "linux_arm64/of-arm64"]);

    context.write(
        "Dockerfile",
        "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /of/$TARGETARCH\nCOPY Dockerfile /of/all\n",
    );
    build(&["--platform", BOTH, "-o", &to("same", ",platform-split=false")])
        .fails(1, "cannot overwrite of/all from linux/amd64 with linux/arm64 when split option is disabled");
    assert!(!out("same").join("of").exists(), "nothing of it is written");
    nothing_runs(&engine);
}

#[test]
fn what_means_nothing_is_refused_before_anything_is_done() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "refused", "FROM busybox\nRUN echo this is not to run\n");
    let syntax =
        |value: &str, kind: &str| format!("{value}: strconv.Parse{kind}: parsing \"maybe\": invalid syntax");
    for (args, words) in [
        (["-o", "type=other"], "exporter \"other\" could not be found".to_owned()),
        (
            ["-o", "type=image,name=UPPER"],
            "invalid reference format: repository name (library/UPPER) must be lowercase".into(),
        ),
        (["-o", "type=image,compression=lzma"], "unsupported compression type lzma".into()),
        (["-o", "type=image,push=maybe"], syntax("non-bool value specified for push", "Bool")),
        (["-o", "type=image,source-date-epoch=maybe"], syntax("invalid source-date-epoch", "Int")),
        (["-o", "type=image,annotation-other.x=y"], "unrecognized annotation type other".into()),
        (["--cache-to", "type=other"], "unknown cache exporter: \"other\"".into()),
        (["--provenance", "mode=other"], "invalid mode \"other\"".into()),
    ] {
        let outcome = context.build(&args);
        // No kind of error stands before the words, as with dockerd.
        let whole = format!("ERROR: failed to build: failed to solve: {words}");
        assert!(outcome.err.lines().any(|line| line == whole), "{args:?}: {}", outcome.err);
        assert!(!outcome.err.contains("this is not to run"), "{}", outcome.err);
        outcome.fails(1, &words);
    }
}

#[test]
fn the_syntax_of_dockerfiles_may_be_named_by_the_client() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "syntax", "FROM busybox\nRUN cat /etc/hosts\n");
    built(context.build(&["--build-arg", "BUILDKIT_SYNTAX=docker/dockerfile:1.7"]));
    context.build(&["--build-arg", "BUILDKIT_SYNTAX=some/other"]).fails(
        1,
        "syntax some/other is not supported: this builder has docker/dockerfile built in and runs no other",
    );
    // A step finds the host by the way out of its network.
    let progress = built(context.build(&["--no-cache", "--add-host", "gate=host-gateway"]));
    let gateway =
        engine.docker(&["network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}"]).ok();
    assert!(progress.contains(&format!("{gateway}\tgate")), "{progress}");
    nothing_runs(&engine);
}

#[test]
fn how_something_was_made_is_told_afterwards() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "told", "FROM busybox\nARG WORD\nRUN echo $WORD\n");
    let metadata = engine.path("metadata.json");
    let file = metadata.to_str().unwrap();
    let plain = ["--provenance=false", "--metadata-file", file, "--build-arg", "WORD=w", "-t", "told"];
    built(context.build(&plain));
    let made = read(&metadata)["buildx.build.provenance"].clone();
    assert_eq!(made["buildType"], "https://mobyproject.org/buildkit@v1", "{made}");
    assert!(made["materials"][0]["uri"].as_str().unwrap().starts_with("pkg:docker/busybox@latest"), "{made}");
    let history = |args: &[&str]| context.run(&[&["buildx", "history", "inspect"], args].concat()).ok();
    let kind = "https://slsa.dev/provenance/v0.2";
    let attached: Value = serde_json::from_str(&history(&["attachment", "--type", kind])).unwrap();
    assert_eq!(attached["invocation"]["configSource"]["entryPoint"], "Dockerfile");
    assert_eq!(attached["invocation"]["parameters"].get("args"), None, "not without mode=max");
    let shown = history(&[]);
    assert!(shown.contains(kind) && shown.contains("pkg:docker/busybox@latest"), "{shown}");

    built(context.build(&[
        "--provenance=mode=max,version=v1",
        "--platform",
        BOTH,
        "--build-arg",
        "WORD=w",
        "-o",
        "type=cacheonly",
    ]));
    let kind = "https://slsa.dev/provenance/v1";
    let attached = history(&["attachment", "--type", kind, "--platform", "linux/arm64"]);
    let attached: Value = serde_json::from_str(&attached).unwrap();
    let request = &attached["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:WORD"], "w", "{attached}");
    // What is gone can be removed again.
    context.run(&["buildx", "history", "rm", "--all"]).ok();
    context.run(&["buildx", "history", "rm", "0123456789abcdefghijklmno"]).ok();
}
