//! The conversion against dockerd's: what it made of the same Dockerfiles stands in `fixtures/dockerd.json`.
//!
//! `CORACLE_ORACLE=unix:///run/docker.sock cargo test -p build --test oracle -- --ignored record` records anew, with
//! the `docker` in the path and a dockerd that has `busybox`.

mod cases;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

use build::Error;
use build::frontend::{Host, ImageRequest, Outcome, ResolvedImage, solve};
use build::graph::{Op, Vertex};
use build::platform::Platform;
use cases::{CALLS, CASES, Case};
use serde_json::{Value, json};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dockerd.json")
}

/// An engine that has a case's files and the images of the recording.
struct Fake<'a> {
    case: &'a Case,
    images: &'a Value,
    /// Names of the steps that were asked for.
    asked: Mutex<BTreeSet<String>>,
}

impl Host for Fake<'_> {
    async fn read_files(&self, steps: &[Vertex], paths: &[String]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let step = steps.last().expect("a step");
        self.asked.lock().unwrap().insert(step.name.clone());
        let Op::Local(local) = &step.op else { panic!("{step:?}") };
        let folder = if local.name == "dir" { "sub/" } else { "" };
        let file = |path: &String| match path.as_str() {
            "Dockerfile" => Some(self.case.dockerfile.as_bytes().to_vec()),
            path => {
                let found = self.case.files.iter().find(|(name, _)| *name == format!("{folder}{path}"));
                found.map(|(_, data)| data.as_bytes().to_vec())
            }
        };
        Ok(paths.iter().map(file).collect())
    }

    async fn resolve_image(&self, request: ImageRequest) -> Result<ResolvedImage, Error> {
        self.asked.lock().unwrap().insert(request.name.clone());
        match self.images.get(&request.reference) {
            Some(config) => Ok(ResolvedImage { digest: None, config: config.to_string().into_bytes() }),
            None => {
                let name = request.reference;
                Err(Error::invalid(format!(
                    "failed to resolve source metadata for {name}: {name}: not found"
                )))
            }
        }
    }

    fn platforms(&self) -> Vec<Platform> {
        vec![Platform::normal("linux", "amd64", "")]
    }
}

/// What we make of a case, as it is recorded of dockerd.
fn ours(case: &Case, images: &Value) -> Value {
    let options: BTreeMap<String, String> = case
        .args
        .iter()
        .map(|(_, option)| option.split_once('=').expect("an option"))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    let host = Fake { case, images, asked: Mutex::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let graph = match runtime.block_on(solve(&options, &host)) {
        Ok(Outcome::Build(graph)) => graph,
        Ok(other) => panic!("{other:?}"),
        Err(error) => {
            let lines: Vec<u32> = error.lines.iter().map(|l| l[0].start).collect();
            return json!({ "error": error.message, "lines": lines });
        }
    };
    let mut steps = host.asked.into_inner().unwrap();
    steps.extend(graph.vertices.iter().map(|v| v.name.clone()));
    let warnings: Vec<String> = graph.warnings.iter().map(build::graph::Warning::short).collect();
    let image = serde_json::to_value(&graph.results[0].image).unwrap();
    json!({ "image": plain(image), "steps": steps, "warnings": sorted(warnings) })
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list
}

/// Our answer to a question, as it is recorded of dockerd.
fn our_answer(case: &Case, request: &str, images: &Value) -> Value {
    let options = [("requestid".to_owned(), request.to_owned())].into_iter().collect();
    let host = Fake { case, images, asked: Mutex::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    match runtime.block_on(solve(&options, &host)) {
        Ok(Outcome::Answer(answer)) => serde_json::from_slice(&answer["result.json"]).expect("JSON"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn questions_are_answered_as_dockerd_answers() {
    let recorded: Value =
        serde_json::from_slice(&std::fs::read(fixture()).expect("the fixture")).expect("JSON");
    for (name, call, request) in CALLS {
        let case = CASES.iter().find(|c| c.name == *name).expect("a case");
        let mut made = our_answer(case, request, &recorded["images"]);
        let mut theirs = recorded["calls"][format!("{name} {call}")].clone();
        // Arguments of one line come in no order there.
        for args in
            [&mut made, &mut theirs].into_iter().filter_map(|answer| answer.get_mut("args")?.as_array_mut())
        {
            args.sort_by_key(ToString::to_string);
        }
        assert_eq!(made, theirs, "{name} {call}");
    }
}

/// A configuration without what the exporter writes.
fn plain(mut image: Value) -> Value {
    let map = image.as_object_mut().expect("an object");
    map.remove("rootfs");
    map.remove("created");
    for entry in map.get_mut("history").and_then(Value::as_array_mut).into_iter().flatten() {
        entry.as_object_mut().expect("an entry").remove("created");
    }
    image
}

#[test]
fn what_is_made_of_dockerfiles_is_what_dockerd_makes() {
    let recorded: Value =
        serde_json::from_slice(&std::fs::read(fixture()).expect("the fixture")).expect("JSON");
    let mut wrong = Vec::new();
    for case in CASES {
        let expected = &recorded["cases"][case.name];
        let made = ours(case, &recorded["images"]);
        if made != *expected {
            let text = |v: &Value| serde_json::to_string_pretty(v).unwrap();
            wrong.push(format!("== {}\n-- dockerd\n{}\n-- ours\n{}", case.name, text(expected), text(&made)));
        }
    }
    assert!(wrong.is_empty(), "{} of {}\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
}

fn docker(args: &[&str]) -> Output {
    let host = std::env::var("CORACLE_ORACLE").expect("CORACLE_ORACLE: dockerd's socket");
    Command::new("docker").args(["-H", &host]).args(args).output().expect("docker")
}

/// The configuration document of an image.
fn config(image: &str, folder: &Path) -> Value {
    let saved = folder.join("saved.tar");
    let path = saved.to_str().unwrap();
    let output = docker(&["save", "-o", path, image]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = |name: &str| {
        let output = Command::new("tar").args(["-xOf", path, name]).output().expect("tar");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let manifest = file("manifest.json");
    file(manifest[0]["Config"].as_str().expect("a config"))
}

fn record_case(case: &Case, folder: &Path) -> Value {
    let context = folder.join(case.name);
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), case.dockerfile).unwrap();
    for (name, data) in case.files {
        std::fs::create_dir_all(context.join(name).parent().unwrap()).unwrap();
        std::fs::write(context.join(name), data).unwrap();
    }
    let id = folder.join("id");
    let _ = std::fs::remove_file(&id);
    let mut args = vec!["buildx", "build", "--progress=rawjson", "--iidfile", id.to_str().unwrap()];
    let sub = format!("--build-context=dir={}", context.join("sub").display());
    for (arg, _) in case.args {
        args.push(if arg.starts_with("--build-context=dir=") { &sub } else { arg });
    }
    args.push(context.to_str().unwrap());
    let output = docker(&args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut steps = BTreeSet::new();
    let mut warnings = BTreeSet::new();
    for status in text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()) {
        for vertex in status["vertexes"].as_array().into_iter().flatten() {
            steps.insert(vertex["name"].as_str().unwrap_or_default().to_owned());
        }
        for warning in status["warnings"].as_array().into_iter().flatten() {
            use base64::Engine;
            let short = warning["short"].as_str().unwrap_or_default();
            let short = base64::engine::general_purpose::STANDARD.decode(short).unwrap();
            warnings.insert(String::from_utf8(short).unwrap());
        }
    }
    if !output.status.success() {
        let message =
            text.lines().rev().find_map(|l| l.strip_prefix("ERROR: failed to build: failed to solve: "));
        let place = |l: &str| l.strip_prefix("Dockerfile:").and_then(|n| n.parse::<u32>().ok());
        let lines: Vec<u32> = text.lines().filter_map(place).collect();
        return json!({ "error": message.unwrap_or(&text), "lines": lines });
    }
    let image = std::fs::read_to_string(&id).unwrap();
    let config = config(&image, folder);
    docker(&["image", "rm", &image]);
    // Text that stands in the Dockerfile is a step of its own there; here it is part of the step that uses it.
    steps.retain(|s| s != "exporting to image" && s != "[internal] preparing inline document");
    json!({ "image": plain(config), "steps": steps, "warnings": warnings })
}

fn record_call(case: &Case, call: &str, folder: &Path) -> Value {
    let context = folder.join(case.name);
    let call = format!("--call={call},format=json");
    let output = docker(&["buildx", "build", &call, context.to_str().unwrap()]);
    let mut answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    // How the Dockerfile came to the builder is its own affair.
    for source in answer["sources"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        source.remove("definition");
    }
    answer
}

/// Records anew what dockerd makes of all cases.
#[test]
#[ignore = "needs dockerd"]
fn record() {
    let folder = std::env::temp_dir().join(format!("coracle-oracle-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let version = docker(&["version", "--format", "{{.Server.Version}}"]);
    let base = folder.join("onbuild.Dockerfile");
    std::fs::write(&base, cases::ONBUILD).unwrap();
    let name = cases::ONBUILD_NAME;
    let built =
        docker(&["buildx", "build", "-t", name, "-f", base.to_str().unwrap(), folder.to_str().unwrap()]);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut images = serde_json::Map::new();
    for image in ["busybox", name] {
        images.insert(format!("docker.io/library/{image}:latest"), config(image, &folder));
    }
    let cases: BTreeMap<&str, Value> = CASES.iter().map(|c| (c.name, record_case(c, &folder))).collect();
    let calls: BTreeMap<String, Value> = CALLS
        .iter()
        .map(|(name, call, _)| {
            let case = CASES.iter().find(|c| c.name == *name).expect("a case");
            (format!("{name} {call}"), record_call(case, call, &folder))
        })
        .collect();
    docker(&["image", "rm", name]);
    std::fs::remove_dir_all(&folder).unwrap();
    let peer = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let all = json!({ "peer": format!("dockerd {peer}"), "images": images, "cases": cases, "calls": calls });
    std::fs::write(fixture(), serde_json::to_string_pretty(&all).unwrap() + "\n").unwrap();
}
