//! What is in a result, said by a scanner: an image of one's own that speaks BuildKit's protocol for such.

use std::path::Path;

use serde_json::{Value, json};
use tests::building::{Context, built, cached, nothing_runs};
use tests::{Engine, Registry, store};

/// Lists the files of all it is given as SPDX does, and tells what it was given.
const SCANNER: &str = r#"
FROM busybox
WORKDIR /place
ENV OF_IMAGE=yes
COPY --chmod=755 <<'END' /scan
#!/bin/sh -e
echo "in $(pwd) as $(id -u), $OF_IMAGE, to $BUILDKIT_SCAN_DESTINATION, word $BUILDKIT_SCAN_WORD"
one() {
    name=$(basename $1) comma=
    {
        echo '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","subject":null,'
        echo '"predicate":{"spdxVersion":"SPDX-2.3","name":"'$name'","creationInfo":{"creators":["Tool: scan"]},"files":['
        for file in $(cd $1 && find . -type f | cut -c2- | sort); do
            echo "$comma{\"fileName\":\"$file\"}" && comma=,
        done
        echo ']}}'
    } > $BUILDKIT_SCAN_DESTINATION/$name.spdx.json
}
for folder in $BUILDKIT_SCAN_SOURCE ${BUILDKIT_SCAN_SOURCE_EXTRAS:+$BUILDKIT_SCAN_SOURCE_EXTRAS/*}; do
    one $folder
    touch $folder/mine 2> /dev/null && echo "changed $folder"
done
cp /bin/busybox /tmp/true && /tmp/true && echo done
END
ENTRYPOINT ["/scan"]
"#;

/// With a stage and a context that are looked at as well.
const SCANNED: &str = r#"
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true
FROM busybox AS tools
ARG BUILDKIT_SBOM_SCAN_STAGE=true
WORKDIR /only
RUN rm -rf /bin /etc /home /root /usr /var; echo tool > tool
FROM scratch
COPY --from=tools /only/tool /below
COPY a /a
COPY a /below
"#;

fn names(document: &Value) -> Vec<&str> {
    document["files"].as_array().unwrap().iter().map(|f| f["fileName"].as_str().unwrap()).collect()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_scanner_says_what_is_in_an_image() {
    let engine = Engine::with_busybox();
    let _registry = Registry::start(&engine.sandbox, engine.folder.path());
    let scanner = Context::new(&engine, "scanner", SCANNER);
    built(scanner.build(&["-t", "scanner"]));
    let context = Context::new(&engine, "scanned", SCANNED);
    context.write("a", "a\n");
    context.write("other", "not needed\n");
    let (name, sbom) = ("127.0.0.1:5000/app:1", "--sbom=generator=scanner,WORD=said");
    let progress = built(context.build(&["-t", name, "--push", sbom]));
    let step = "] generating sbom using docker.io/library/scanner:latest";
    assert!(progress.contains(step), "{progress}");
    assert!(progress.contains("in /place as 0, yes, to /run/out/, word said"), "{progress}");
    assert!(progress.contains(" done\n") && !progress.contains("changed"), "{progress}");

    let told = |format: &str| -> Value {
        let told = context.run(&["buildx", "imagetools", "inspect", name, "--format", format]).ok();
        serde_json::from_str(&told).unwrap()
    };
    let document = told("{{json .SBOM.SPDX}}");
    assert_eq!(names(&document), ["/a", "/below"]);
    // The layer that shows: both files are of the last two.
    let raw = |name: &str| -> Value {
        serde_json::from_str(&context.run(&["buildx", "imagetools", "inspect", "--raw", name]).ok()).unwrap()
    };
    let index = raw(name);
    let part =
        |n: usize| raw(&format!("127.0.0.1:5000/app@{}", index["manifests"][n]["digest"].as_str().unwrap()));
    let (image, said) = (part(0), part(1));
    let layer = |n: usize| format!("layerID: {}", image["layers"][n]["digest"].as_str().unwrap());
    assert_eq!(document["files"][0]["comment"], layer(1));
    assert_eq!(document["files"][1]["comment"], layer(2));
    let creators = document["creationInfo"]["creators"].as_array().unwrap();
    assert!(creators[0] == "Tool: scan" && creators[1].as_str().unwrap().starts_with("Tool: coracle-"));
    let others = told("{{json .SBOM.AdditionalSPDXs}}");
    let others: Vec<_> = others.as_array().unwrap().iter().map(|o| (o["name"].clone(), names(o))).collect();
    assert_eq!(others, [(json!("sbom-context"), vec!["/a"]), (json!("sbom-tools"), vec!["/only/tool"])]);
    // Beside it stands how the image was made, last, as with BuildKit.
    let kinds =
        said["layers"].as_array().unwrap().iter().map(|l| &l["annotations"]["in-toto.io/predicate-type"]);
    let (spdx, slsa) = (json!("https://spdx.dev/Document"), json!("https://slsa.dev/provenance/v0.2"));
    assert_eq!(kinds.collect::<Vec<_>>(), [&spdx, &spdx, &spdx, &slsa]);

    // Nothing is new, nothing is scanned; without the cache all is.
    let progress = built(context.build(&["-t", name, sbom]));
    assert_eq!(cached(&progress), 6, "{progress}");
    let progress = built(context.build(&["-t", name, sbom, "--no-cache"]));
    assert!(progress.contains(" done\n"), "{progress}");
    // The image runs as any other, and goes with what was said of it.
    engine.docker(&["rmi", name]).ok();
    assert_eq!(store::faults(&engine.root()), [""; 0]);
    nothing_runs(&engine);
}

#[test]
fn what_a_scanner_says_goes_with_trees_and_archives() {
    let engine = Engine::with_busybox();
    let scanner = Context::new(&engine, "scanner", SCANNER);
    built(scanner.build(&["-t", "scanner"]));
    let context = Context::new(&engine, "scanned", SCANNED);
    context.write("a", "a\n");
    let out = engine.path("out");
    let to = out.to_str().unwrap();
    built(context.build(&["--sbom=generator=scanner", "--provenance=true", "-o", to]));
    let statement = read(&out.join("sbom.spdx.json"));
    assert_eq!(statement["predicateType"], "https://spdx.dev/Document");
    // The scanner did not say of what: of all files, by their content.
    let subjects: Vec<_> = statement["subject"].as_array().unwrap().iter().map(|s| &s["name"]).collect();
    assert_eq!(subjects, ["a", "below"]);
    assert_eq!(names(&statement["predicate"]), ["/a", "/below"]);
    assert!(statement["predicate"]["files"][0].get("comment").is_none(), "a tree has no layers");
    for beside in ["sbom-context.spdx.json", "sbom-tools.spdx.json", "provenance.json"] {
        read(&out.join(beside));
    }

    let archive = engine.path("out.tar");
    let to = format!("type=tar,dest={},attestation-prefix=of-", archive.display());
    built(context.build(&["--sbom=generator=scanner", "-o", &to, "--platform", "linux/amd64,linux/arm64"]));
    let list = std::process::Command::new("tar").arg("-tf").arg(&archive).output().unwrap().stdout;
    let list = String::from_utf8(list).unwrap();
    for folder in ["linux_amd64", "linux_arm64"] {
        for name in ["a", "of-sbom.spdx.json", "of-sbom-tools.spdx.json"] {
            assert!(list.lines().any(|l| l == format!("{folder}/{name}")), "{list}");
        }
    }
    assert_eq!(store::faults(&engine.root()), [""; 0]);
    nothing_runs(&engine);
}

#[test]
fn scanners_that_are_none_or_say_nothing_fail_in_words() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "scanned", "FROM busybox\nRUN true\n");
    let scanner = |script: &str| {
        let text = format!("FROM busybox\nENTRYPOINT [\"sh\", \"-c\", {}]\n", json!(script));
        built(Context::new(&engine, "scanner", &text).build(&["-t", "scanner"]));
        context.build(&["--sbom=generator=scanner", "-t", "result"])
    };
    scanner("echo hello > /run/out/sbom.spdx.json").fails(1, "cannot decode in-toto statement");
    scanner("echo '{\"predicateType\":\"x\"}' > /run/out/a")
        .fails(1, "bundle entry x does not match required predicate type https://spdx.dev/Document");
    scanner("ln -s /etc/passwd /run/out/a").fails(1, "open a");
    scanner("mkdir /run/out/a").fails(1, "cannot decode in-toto statement: read a: is a directory");
    scanner("mkfifo /run/out/a").fails(1, "cannot decode in-toto statement");
    scanner("exit 3").fails(1, "did not complete successfully: exit code: 3");
    assert_eq!(engine.docker(&["images", "-q", "result"]).ok(), "");
    // One that has nothing to say is none that fails.
    built(scanner("true"));

    built(Context::new(&engine, "empty", "FROM scratch\nCOPY Dockerfile /\n").build(&["-t", "empty"]));
    let refused = |args: &[&str], words: &str| context.build(args).fails(1, words);
    refused(&["--sbom=generator=empty"], "scanner docker.io/library/empty:latest does not have cmd");
    refused(&["--sbom=generator="], "sbom generator cannot be empty");
    refused(
        &["--sbom=generator=UPPER"],
        "failed to parse sbom generator UPPER: invalid reference format: repository name (library/UPPER) must be lowercase",
    );
    refused(&["--attest", "type=other"], "unknown attestation type \"other\"");
    // The usual scanner is nowhere here.
    refused(
        &["--sbom=true"],
        "failed to resolve source metadata for docker.io/docker/buildkit-syft-scanner:stable-1",
    );
    assert_eq!(store::faults(&engine.root()), [""; 0]);
    nothing_runs(&engine);
}
