//! BuildKit's services on the engine's socket itself, without an upgrade: as clients of API 1.53 and later speak to it, and
//! as buildx speaks to a builder that it knows by its address.

use tests::Engine;
use tests::building::{Context, built, cached, nothing_runs};

const DOCKERFILE: &str =
    "FROM busybox\nCOPY file /\nRUN --mount=type=secret,id=word cat /run/secrets/word > /told\n";

#[test]
fn a_client_that_knows_the_socket_alone_builds_by_it() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "direct", DOCKERFILE);
    context.write("file", "of the client\n");
    let secret = engine.path("word");
    std::fs::write(&secret, "whispered").unwrap();
    let address = format!("unix://{}", engine.socket().display());
    context.run(&["buildx", "create", "--name", "direct", "--driver", "remote", &address]).ok();
    // ListWorkers and Info.
    let shown = context.run(&["buildx", "inspect", "direct"]).ok();
    assert!(shown.contains("running") && shown.contains("coracle"), "{shown}");
    // Solve, Status and the frontend's calls; the files, the secret and the archive go through Control/Session.
    let secret = format!("id=word,src={}", secret.display());
    let archive = engine.path("archive.tar");
    let to = format!("type=docker,dest={}", archive.display());
    let build = |more: &[&str]| {
        let direct = ["--builder", "direct", "--secret", &secret, "--provenance=false", "-t", "direct"];
        context.build(&[&direct[..], more].concat())
    };
    built(build(&["-o", "type=image"]));
    let told = ["run", "--rm", "direct", "cat", "/file", "/told"];
    assert_eq!(engine.docker(&told).ok(), "of the client\nwhispered");
    let again = built(build(&["-o", &to]));
    assert_eq!(cached(&again), 2, "{again}");
    engine.docker(&["rmi", "direct"]).ok();
    engine.docker(&["load", "-i", archive.to_str().unwrap()]).ok();
    assert_eq!(engine.docker(&told).ok(), "of the client\nwhispered");
    // DiskUsage, ListenBuildHistory, Prune; a failure in its words.
    let usage = context.run(&["buildx", "du", "--builder", "direct"]).ok();
    assert!(usage.contains("Total:"), "{usage}");
    let past =
        context.run(&["buildx", "history", "ls", "--builder", "direct", "--format", "{{.Status}}"]).ok();
    assert_eq!(past, "Completed\nCompleted");
    context.write("Dockerfile", "FROM busybox\nRUN exit 3\n");
    build(&[]).fails(1, "exit code: 3");
    context.run(&["buildx", "prune", "-af", "--builder", "direct"]).ok();
    nothing_runs(&engine);
}

#[test]
fn over_http_2_nothing_but_grpc_is_served() {
    let engine = Engine::start();
    let request = |kind: &str, path: &str| {
        let mut curl = engine.sandbox.command("curl");
        curl.args(["-s", "--http2-prior-knowledge", "-X", "POST", "--data-binary", "@-"]);
        curl.args(["-w", "\n%{http_version} %{http_code}", "--max-time", "20", "--unix-socket"]);
        curl.arg(engine.socket()).args(["-H", &format!("Content-Type: {kind}")]);
        curl.arg(format!("http://docker{path}")).stdin(std::process::Stdio::null());
        String::from_utf8_lossy(&curl.output().expect("curl").stdout).into_owned()
    };
    let refused = request("application/json", "/v1.51/containers/create");
    assert_eq!(refused, "{\"message\":\"over HTTP/2 only gRPC is served\"}\n\n2 415");
    // An unknown method is gRPC's own affair: the connection and the answer are whole.
    assert_eq!(request("application/grpc", "/moby.buildkit.v1.Control/None"), "\n2 200");
    // HTTP/1 is served beside it.
    engine.docker(&["version"]).ok();
}
