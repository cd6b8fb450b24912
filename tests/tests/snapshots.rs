//! Snapshots of volumes: an operation of Coracle's own beside Docker's.

use serde_json::Value;
use tests::Engine;

const PATH: &str = "/coracle/v1/volumes/data/snapshots";

fn ask(engine: &Engine, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (code, answer) = engine.request(method, path, (!body.is_empty()).then_some(body));
    (code, serde_json::from_str(&answer).unwrap_or(Value::Null))
}

/// What people keep in volumes: owners, names of one file, holes, attributes, links, pipes.
const FILL: &str = "cd /data && echo before >file && ln file other && chown 70:70 file && mkdir -m 700 own \
    && chown 70 own && ln -s file link && mkfifo pipe && echo x | dd of=sparse bs=1 seek=64M 2>/dev/null";
const LOOK: &str = "cd /data && cat file && stat -c '%n %u:%g %a %h' file other own \
    && readlink link && stat -c %F pipe && test $(du -k sparse | cut -f1) -lt 1024 && ls -A | wc -l";

#[test]
fn a_volumes_files_come_back_as_they_were() {
    let mut engine = Engine::with_busybox();
    let run = |engine: &Engine, script: &str| {
        engine.docker(&["run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", script])
    };
    run(&engine, FILL).ok();
    let before = run(&engine, LOOK).ok();
    engine.docker(&["run", "-d", "--name", "box", "-v", "data:/data", "busybox", "sleep", "1000"]).ok();
    let (code, made) = ask(&engine, "POST", PATH, r#"{"Name":"first"}"#);
    assert_eq!((code, made["Name"].as_str()), (201, Some("first")), "{made}");
    let state = engine.docker(&["inspect", "-f", "{{.State.Status}}", "box"]).ok();
    assert_eq!(state, "running", "it goes on");
    engine
        .docker(&["exec", "box", "sh", "-c", "echo after >/data/file; rm /data/own -r; touch /data/new"])
        .ok();

    // Not under a container's feet.
    let (code, refused) = ask(&engine, "POST", &format!("{PATH}/first/restore"), "");
    assert_eq!(code, 409, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("in use by running containers"), "{refused}");
    engine.docker(&["stop", "-t", "0", "box"]).ok();
    // Over the engine's death.
    engine.crash();
    engine.launch();
    assert_eq!(ask(&engine, "POST", &format!("{PATH}/first/restore"), "").0, 204);
    assert_eq!(run(&engine, LOOK).ok(), before);
    engine.docker(&["start", "box"]).ok();
    assert_eq!(engine.docker(&["exec", "box", "cat", "/data/file"]).ok(), "before");

    let (_, list) = ask(&engine, "GET", PATH, "");
    assert_eq!(list["Snapshots"].as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(ask(&engine, "DELETE", &format!("{PATH}/first"), "").0, 204);
    assert_eq!(ask(&engine, "DELETE", &format!("{PATH}/first"), "").0, 404);
    engine.docker(&["rm", "-f", "box"]).ok();
    engine.docker(&["volume", "rm", "data"]).ok();
    assert_eq!(ask(&engine, "GET", PATH, "").0, 404);
}

#[test]
fn what_cannot_be_kept_is_refused_in_words() {
    let engine = Engine::with_busybox();
    let options = ["--opt", "type=tmpfs", "--opt", "device=tmpfs"];
    engine.docker(&[&["volume", "create"], &options[..], &["data"]].concat()).ok();
    let (code, refused) = ask(&engine, "POST", PATH, r#"{"Name":"one"}"#);
    assert_eq!(code, 409, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("has options"), "{refused}");
    engine.docker(&["volume", "rm", "data"]).ok();
    engine.docker(&["volume", "create", "data"]).ok();
    for name in ["", "x", "../x", "a/b", "-x"] {
        let (code, refused) = ask(&engine, "POST", PATH, &format!(r#"{{"Name":"{name}"}}"#));
        assert_eq!(code, 400, "{name}: {refused}");
    }
    assert_eq!(ask(&engine, "POST", PATH, r#"{"Name":"one"}"#).0, 201);
    assert_eq!(ask(&engine, "POST", PATH, r#"{"Name":"one"}"#).0, 409, "one of a name");
    engine.docker(&["volume", "rm", "data"]).ok();
}
