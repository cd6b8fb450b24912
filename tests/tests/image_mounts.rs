//! `--mount type=image`: another image's files in a container, read only. What is expected here dockerd 28.5.2 answered.

use tests::{Engine, images};

fn engine() -> Engine {
    let engine = Engine::with_busybox();
    engine.load(images::web);
    engine
}

#[test]
fn an_image_is_there_to_be_read_as_long_as_the_container() {
    let mut engine = engine();
    let mount = "type=image,source=web,target=/x";
    let script = "cat /x/www/index.html; touch /x/new; grep -c ' /x overlay ro,' /proc/mounts";
    let create = ["create", "--name", "user", "--mount", mount, "busybox", "sh", "-c", script];
    engine.docker(&create).ok();
    let shown = engine.docker(&["inspect", "-f", "{{json .Mounts}}", "user"]).ok();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let id = engine.docker(&["image", "inspect", "-f", "{{.Id}}", "web"]).ok();
    let expected = serde_json::json!([{
        "Type": "image", "Name": "web", "Source": id, "Destination": "/x", "Mode": "", "RW": false,
        "Propagation": "rprivate",
    }]);
    assert_eq!(shown, expected);
    assert_eq!(engine.docker(&["ps", "-a", "--format", "{{.Mounts}}"]).ok(), "web");
    // Looked at before it runs, and by another container.
    let copied = engine.path("copied");
    engine.docker(&["cp", "user:/x/www/index.html", &copied.display().to_string()]).ok();
    assert_eq!(std::fs::read_to_string(&copied).unwrap(), "<h1>it works</h1>\n");
    let other = ["run", "--rm", "--volumes-from", "user", "busybox", "ls", "/x/www"];
    assert_eq!(engine.docker(&other).ok(), "index.html");

    // In use: the image stays, by force its layers do, over an engine's death too.
    engine.docker(&["rmi", "web"]).fails(1, "is using its referenced image");
    engine.docker(&["rmi", "-f", "web"]).ok();
    engine.crash();
    engine.launch();
    let ran = engine.docker(&["start", "-a", "user"]);
    assert_eq!(ran.out, "<h1>it works</h1>\n1\n", "{ran:?}");
    assert!(ran.err.contains("Read-only file system"), "{ran:?}");
    assert_eq!(engine.docker(&["diff", "user"]).ok(), "A /x", "nothing was written but the place");
    engine.docker(&["rm", "user"]).ok();
    // Asked without the CLI, which would pull busybox now.
    let body =
        r#"{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"image","Source":"web","Target":"/x"}]}}"#;
    let (code, said) = engine.request("POST", "/v1.51/containers/create", Some(body));
    assert!(code == 404 && said.contains("No such image: web:latest"), "{code} {said}");
    let kept = std::fs::read_dir(engine.root().join("image/containers")).unwrap();
    assert_eq!(kept.count(), 0, "nothing is kept for nobody");
}

#[test]
fn a_part_of_an_image_and_several() {
    let engine = engine();
    let run = |mounts: &[&str], script: &str| {
        let mounts = mounts.iter().flat_map(|m| ["--mount", *m]).collect::<Vec<_>>();
        engine.docker(&[&["run", "--rm"], &mounts[..], &["busybox", "sh", "-c", script]].concat())
    };
    let part = |path: &str| format!("type=image,source=web,target=/x,image-subpath={path}");
    assert_eq!(run(&[&part("www")], "ls /x").ok(), "index.html");
    assert_eq!(run(&[&part("www/index.html")], "cat /x").ok(), "<h1>it works</h1>", "a file, too");
    let two = ["type=image,source=busybox,target=/b", "type=image,source=web,target=/a"];
    assert_eq!(run(&two, "ls /a/www; ls /b/www").out, "index.html\n");
    run(&[&part("nope")], "true").fails(127, "cannot access path");
    // Links in it lead nowhere but into it.
    assert_eq!(run(&[&part("bin/ls")], "head -c 4 /x").ok(), "\u{7f}ELF");
    let refused = |mount: &str, words: &str| run(&[mount], "true").fails(125, words);
    let invalid = |words: &str| format!("invalid mount config for type \"image\": {words}");
    for path in ["../etc", "/etc"] {
        refused(&part(path), &invalid("subpath must be a relative path within the volume"));
    }
    refused("type=image,target=/x", &invalid("field Source must not be empty"));
    refused(
        "type=image,source=web,target=x",
        &invalid("invalid mount path: 'x' mount path must be absolute"),
    );
    refused("type=image,source=web,target=/", &invalid("invalid specification: destination can't be '/'"));
    let create = |version: &str, mount: &str| {
        let body = format!(r#"{{"Image":"busybox","HostConfig":{{"Mounts":[{mount}]}}}}"#);
        engine.request("POST", &format!("/{version}/containers/create"), Some(&body))
    };
    let image = r#"{"Type":"image","Source":"web","Target":"/x"}"#;
    let (code, said) = create("v1.47", image);
    assert!(code == 400 && said.contains(r#"Mount type \"Image\" needs API v1.48 or newer"#), "{said}");
    let (code, said) = create("v1.51", r#"{"Type":"image","Source":"web","Target":"/x","BindOptions":{}}"#);
    assert!(code == 400 && said.contains("BindOptions must not be specified on mount type"), "{said}");
    let bind = r#"{"Type":"bind","Source":"/","Target":"/x","ImageOptions":{"Subpath":"bin"}}"#;
    let (code, said) = create("v1.51", bind);
    assert!(code == 400 && said.contains("field ImageOptions must not be specified"), "{said}");
    assert_eq!(engine.docker(&["ps", "-aq"]).ok(), "");
}
