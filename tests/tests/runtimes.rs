//! `--runtime`: containers made by other OCI runtimes, Debian's crun and runc, are containers like all others.

use std::path::{Path, PathBuf};

use serde_json::json;
use tests::{Engine, eventually, images, tool};

/// A script that runs a program with the libraries of its package beside it: those of this machine may be absent.
fn script(folder: &Path, name: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let package = tool(&format!("CORACLE_TEST_{}", name.to_uppercase()));
    let libraries = package.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let program =
        ["usr/bin", "usr/sbin"].map(|f| package.join(f).join(name)).into_iter().find(|p| p.exists());
    let program = program.expect("the program is in its package");
    let path = folder.join(name);
    let text =
        format!("#!/bin/sh\nLD_LIBRARY_PATH={} exec {} \"$@\"\n", libraries.display(), program.display());
    std::fs::write(&path, text).expect("write a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("make it a program");
    path
}

/// An engine that knows the runtime, with busybox; the folder of its script.
fn with(name: &str) -> (Engine, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine =
        Engine::with_config(json!({ "runtimes": { name: { "path": script(folder.path(), name) } } }));
    engine.load(images::busybox);
    (engine, folder)
}

/// What is left of containers in the folder of this boot.
fn left(engine: &Engine) -> Vec<String> {
    let entries = std::fs::read_dir(engine.sandbox.seen(&engine.path("exec"))).expect("the exec root");
    entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(|n| n.len() == 64).collect()
}

#[test]
fn one_whose_start_hangs_is_not_waited_for_for_ever() {
    let (mut engine, folder) = with("crun");
    let (gate, script) = (folder.path().join("gate"), folder.path().join("crun"));
    let text = std::fs::read_to_string(&script).unwrap();
    let waits = format!("while [ -e {} ]; do sleep 0.1; done\nLD_LIBRARY", gate.display());
    std::fs::write(&script, text.replacen("LD_LIBRARY", &waits, 1)).unwrap();
    let run =
        ["run", "-d", "--name", "slow", "--runtime", "crun", "--restart", "always", "--stop-timeout", "0"];
    engine.docker(&[&run[..], &["busybox", "sleep", "1000"]].concat()).ok();
    engine.power_off();
    std::fs::write(&gate, "").unwrap();
    engine.launch();
    let inspect = ["inspect", "-f", "{{.State.Status}}", "slow"];
    // A shim that makes no container is given up after a minute: this must not be what ends the wait.
    assert_eq!(engine.within(std::time::Duration::from_secs(40), &inspect).ok(), "restarting");
    engine.docker(&["run", "--rm", "busybox", "true"]).ok();
    std::fs::remove_file(&gate).unwrap();
    eventually("it goes on", || engine.docker(&inspect).ok() == "running");
}

fn is_a_container_like_all_others(name: &str) {
    let (mut engine, _script) = with(name);
    let run = |args: &[&str]| engine.docker(&[&["run", "--rm", "--runtime", name], args].concat());
    let done = run(&["busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (Some(7), "out\n", "err\n"));
    run(&["busybox", "nope"]).fails(127, "not found");
    run(&["busybox", "/etc"]).fails(126, "ermission denied");
    assert_eq!(run(&["-t", "busybox", "sh", "-c", "test -t 1 && tty"]).ok(), "/dev/pts/0");
    let passed =
        engine.docker_with_input(&["run", "--rm", "-i", "--runtime", name, "busybox", "cat"], b"through");
    assert_eq!(passed.ok(), "through");
    assert_eq!(run(&["--init", "busybox", "cat", "/proc/1/comm"]).ok(), "docker-init");
    // The walls are the same.
    let ours =
        engine.docker(&["run", "--rm", "busybox", "grep", "-E", "^(Cap|Seccomp:|NoNew)", "/proc/1/status"]);
    assert_eq!(run(&["busybox", "grep", "-E", "^(Cap|Seccomp:|NoNew)", "/proc/1/status"]).ok(), ours.ok());
    run(&["busybox", "sh", "-c", "echo x > /proc/sys/kernel/hostname"]).fails(1, "ead-only");
    run(&["--read-only", "busybox", "touch", "/x"]).fails(1, "ead-only");
    // A part of a volume is a mount that other runtimes have no words for.
    engine
        .docker(&[
            "run",
            "--rm",
            "-v",
            "data:/d",
            "busybox",
            "sh",
            "-c",
            "mkdir /d/part; echo in > /d/part/f",
        ])
        .ok();
    let part = "type=volume,source=data,target=/p,volume-subpath=part,readonly";
    assert_eq!(run(&["--mount", part, "busybox", "cat", "/p/f"]).ok(), "in");

    let docker = |args: &[&str]| engine.docker(args).ok();
    docker(&[
        "run",
        "-d",
        "--runtime",
        name,
        "--name",
        "web",
        "-p",
        "8080:80",
        "busybox",
        "sh",
        "-c",
        "echo ready; echo page > /index.html; exec httpd -f -h /",
    ]);
    assert_eq!(docker(&["inspect", "-f", "{{.HostConfig.Runtime}}", "web"]), name);
    eventually("its page is there", || engine.curl(&["-f", "http://127.0.0.1:8080/"]).out == "page\n");
    assert_eq!(docker(&["exec", "-w", "/etc", "web", "pwd"]), "/etc");
    assert_eq!(docker(&["exec", "-t", "web", "sh", "-c", "test -t 1 && echo tty"]), "tty");
    let through = engine.docker_with_input(&["exec", "-i", "web", "cat"], b"in and out");
    assert_eq!(through.ok(), "in and out");
    assert_eq!(engine.docker(&["exec", "web", "sh", "-c", "exit 5"]).code, Some(5));
    let none = engine.docker(&["exec", "web", "nope"]);
    assert!(none.code == Some(127) && none.out.contains("not found"), "{}{}", none.out, none.err);
    assert!(docker(&["top", "web"]).contains("httpd"));
    assert_eq!(docker(&["logs", "web"]), "ready");

    // It outlives the engine.
    engine.crash();
    engine.launch();
    let docker = |args: &[&str]| engine.docker(args).ok();
    assert_eq!(docker(&["exec", "web", "cat", "/index.html"]), "page");
    docker(&["pause", "web"]);
    docker(&["unpause", "web"]);
    docker(&["restart", "-t", "0", "web"]);
    eventually("its page is there again", || engine.curl(&["-f", "http://127.0.0.1:8080/"]).out == "page\n");
    docker(&["kill", "web"]);
    assert_eq!(docker(&["wait", "web"]), "137");
    docker(&["rm", "web"]);
    eventually("nothing of it is left", || left(&engine).is_empty());
}

#[test]
fn with_crun_it_is_a_container_like_all_others() {
    is_a_container_like_all_others("crun");
}

#[test]
fn with_runc_it_is_a_container_like_all_others() {
    is_a_container_like_all_others("runc");
}

#[test]
fn a_runtime_that_is_not_there_is_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = Engine::with_config(json!({
        "runtimes": { "gone": { "path": "/nowhere/gone" }, "crun": { "path": script(folder.path(), "crun") } },
        "default-runtime": "crun",
    }));
    engine.load(images::busybox);
    engine
        .docker(&["create", "--runtime", "kata", "busybox"])
        .fails(1, "unknown or invalid runtime name: kata");
    engine
        .docker(&["run", "--rm", "--runtime", "gone", "busybox", "true"])
        .fails(127, "cannot start the runtime /nowhere/gone: no such file or directory");
    assert_eq!(left(&engine), [""; 0]);
    // One that asks for none has the default; the engine's own is there by its name.
    let of = |args: &[&str]| {
        let id = engine.docker(&[&["create"], args, &["busybox", "true"]].concat()).ok();
        engine.docker(&["start", "-a", &id]).ok();
        engine.docker(&["inspect", "-f", "{{.HostConfig.Runtime}}", &id]).ok()
    };
    assert_eq!([of(&[]), of(&["--runtime", "coracle"])], ["crun", "coracle"]);
    let info = engine.docker(&["info", "-f", "{{.DefaultRuntime}} {{len .Runtimes}}"]).ok();
    assert_eq!(info, "crun 3");
}
