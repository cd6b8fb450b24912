//! Builds whose parts are elsewhere: caches in registries and folders, contexts from repositories and layouts, private
//! images, results that are pushed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tests::building::{Context, built, cached, nothing_runs};
use tests::{Engine, Registry, eventually, store, tool};

const STAGES: &str = r#"
FROM busybox AS tools
RUN echo tool > /tool && date +%s%N > /made
FROM busybox AS data
COPY data /in
RUN tr a-z A-Z < /in > /out
FROM busybox
WORKDIR /app
COPY --from=tools /tool /made ./
COPY --from=data /out .
RUN cat tool out > all && rm tool
"#;

/// Forgets all images and the whole cache.
fn wipe(engine: &Engine, context: &Context<'_>) {
    for id in engine.docker(&["images", "-aq"]).ok().split_whitespace() {
        engine.docker(&["rmi", "-f", id]);
    }
    built(context.run(&["buildx", "prune", "-af"]));
    assert!(engine.docker(&["buildx", "du"]).ok().contains("Total:\t\t0B"));
    let archive = tests::images::busybox(engine.folder.path());
    engine.docker(&["load", "-q", "-i", archive.to_str().unwrap()]).ok();
}

/// What steps say that would be another the next time.
fn made(engine: &Engine, image: &str) -> String {
    engine.docker(&["run", "--rm", image, "cat", "/app/made", "/app/all"]).ok()
}

#[test]
fn caches_are_written_to_and_read_from_a_registry() {
    let engine = Engine::with_busybox();
    let _registry = Registry::start(&engine.sandbox, engine.folder.path());
    let context = Context::new(&engine, "cached", STAGES);
    context.write("data", "some data\n");
    let to = "type=registry,ref=127.0.0.1:5000/cache:max,mode=max";
    let progress = built(context.build(&["-t", "first", "--cache-to", to]));
    assert!(progress.contains("exporting cache to registry"), "{progress}");
    let first = made(&engine, "first");

    wipe(&engine, &context);
    let from = ["--cache-from", "127.0.0.1:5000/cache:max"];
    let progress = built(context.build(&[&["-t", "second"], &from[..]].concat()));
    assert_eq!(cached(&progress), 7, "{progress}");
    assert_eq!(made(&engine, "second"), first);
    // Layers of stages that the result does not have were not fetched.
    let usage = engine.docker(&["buildx", "du", "--verbose"]).ok();
    assert!(!usage.contains("echo tool"), "{usage}");

    // What was found there and not fetched is passed on.
    wipe(&engine, &context);
    let again = ["--cache-to", "type=registry,ref=127.0.0.1:5000/cache:again,mode=max"];
    built(context.build(&[&from[..], &again].concat()));
    wipe(&engine, &context);
    let again = ["--cache-from", "type=registry,ref=127.0.0.1:5000/cache:again"];
    // Another command at the end: all before it is found, in all stages.
    context.write("Dockerfile", &STAGES.replace("&& rm tool", "&& rm out"));
    let progress = built(context.build(&[&["-t", "third"], &again[..]].concat()));
    assert_eq!(cached(&progress), 6, "{progress}");
    assert_eq!(made(&engine, "third"), first);
    nothing_runs(&engine);
}

#[test]
fn a_small_cache_has_what_the_result_has() {
    let engine = Engine::with_busybox();
    let _registry = Registry::start(&engine.sandbox, engine.folder.path());
    let context = Context::new(&engine, "small", STAGES);
    context.write("data", "some data\n");
    built(context.build(&["-t", "first", "--cache-to", "type=registry,ref=127.0.0.1:5000/cache"]));
    let first = made(&engine, "first");
    wipe(&engine, &context);
    let from = ["--cache-from", "type=registry,ref=127.0.0.1:5000/cache"];
    // The stages' own steps are not in it, and are not needed.
    let progress = built(context.build(&[&["-t", "second"], &from[..]].concat()));
    assert!(!progress.contains("DONE 0.0s\n\n#1 [tools"), "{progress}");
    assert_eq!(made(&engine, "second"), first);
    // Where a stage changes, it is done, and so is what stands on it.
    context.write("data", "other data\n");
    wipe(&engine, &context);
    built(context.build(&[&["-t", "third"], &from[..]].concat()));
    assert!(made(&engine, "third").contains("OTHER DATA"));
}

#[test]
fn caches_are_kept_in_folders_of_the_client() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "folder", STAGES);
    context.write("data", "some data\n");
    let folder = engine.path("the-cache");
    for more in ["", ",image-manifest=false"] {
        wipe(&engine, &context);
        let to = format!("type=local,dest={},mode=max{more}", folder.display());
        built(context.build(&["-t", "first", "--cache-to", &to]));
        let first = made(&engine, "first");
        let index: Value =
            serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"].as_array().map(Vec::len), Some(1), "{index}");
        wipe(&engine, &context);
        let from = format!("type=local,src={}", folder.display());
        let progress = built(context.build(&["-t", "second", "--cache-from", &from]));
        assert_eq!(cached(&progress), 7, "{progress}");
        assert_eq!(made(&engine, "second"), first);
        engine.docker(&["rmi", "-f", "first", "second"]).ok();
        std::fs::remove_dir_all(&folder).unwrap();
    }
    let nowhere = engine.path("nowhere");
    let progress = context.build(&["--cache-from", &format!("type=local,src={}", nowhere.display())]);
    assert_eq!(progress.code, Some(0), "a cache that is not there is no failure: {}", progress.err);
}

#[test]
fn layers_of_a_cache_are_compressed_as_it_is_asked_for() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "packed", STAGES);
    context.write("data", "some data\n");
    let folder = engine.path("the-cache");
    for (compression, media_type) in [("zstd", "tar+zstd"), ("uncompressed", "tar"), ("gzip", "tar+gzip")] {
        wipe(&engine, &context);
        let to = format!("type=local,dest={},mode=max", folder.display());
        // What is packed already is packed anew by force alone.
        built(context.build(&["-t", "first", "--cache-to", &to]));
        let to = format!("{to},compression={compression},force-compression=true");
        built(context.build(&["-t", "first", "--cache-to", &to]));
        let first = made(&engine, "first");
        let read =
            |path: PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
        let index = read(folder.join("index.json"));
        let digest = index["manifests"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:");
        let manifest = read(folder.join("blobs/sha256").join(digest));
        let layers = manifest["layers"].as_array().unwrap();
        let wanted = format!("application/vnd.oci.image.layer.v1.{media_type}");
        assert!(!layers.is_empty() && layers.iter().all(|l| l["mediaType"] == *wanted), "{manifest}");
        wipe(&engine, &context);
        let from = format!("type=local,src={}", folder.display());
        let progress = built(context.build(&["-t", "second", "--cache-from", &from]));
        assert_eq!(cached(&progress), 7, "{progress}");
        assert_eq!(made(&engine, "second"), first);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn caches_come_with_images() {
    let engine = Engine::with_busybox();
    let _registry = Registry::start(&engine.sandbox, engine.folder.path());
    let context = Context::new(&engine, "inline", STAGES);
    context.write("data", "some data\n");
    let name = "127.0.0.1:5000/app:1";
    for by in [["--cache-to", "type=inline"], ["--build-arg", "BUILDKIT_INLINE_CACHE=1"]] {
        built(context.build(&[&["-t", name, "--push"], &by[..]].concat()));
        engine.docker(&["pull", name]).ok();
        let first = made(&engine, name);
        wipe(&engine, &context);
        let progress = built(context.build(&["-t", "second", "--cache-from", name]));
        assert!(cached(&progress) >= 4, "{progress}");
        assert_eq!(made(&engine, "second"), first);
        wipe(&engine, &context);
    }
    // An image without one, and none at all: told, and done without.
    engine.docker(&["tag", "busybox", "127.0.0.1:5000/plain"]).ok();
    engine.docker(&["push", "127.0.0.1:5000/plain"]).ok();
    assert_eq!(cached(&built(context.build(&["--cache-from", "127.0.0.1:5000/plain"]))), 0);
    let progress = built(context.build(&["--no-cache", "--cache-from", "127.0.0.1:1/some/cache"]));
    assert!(progress.contains("importing cache manifest from 127.0.0.1:1/some/cache"), "{progress}");
    assert!(progress.contains("ERROR: "), "{progress}");
}

#[test]
fn caches_that_cannot_be_written_fail_the_build_unless_it_can_do_without() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "caches", "FROM busybox\nRUN true\n");
    let to = "type=registry,ref=127.0.0.1:1/cache";
    context.build(&["--cache-to", to]).fails(1, "connection refused");
    built(context.build(&["--cache-to", &format!("{to},ignore-error=true")]));
    context.build(&["--cache-to", "type=other,x=y"]).fails(1, "unknown cache exporter: \"other\"");
    context.build(&["--cache-to", &format!("{to},mode=all")]).fails(1, "invalid cache export mode");
    context
        .build(&["--cache-to", &format!("{to},compression=rar")])
        .fails(1, "unsupported compression type rar");
}

#[test]
fn a_cache_that_lies_does_no_harm() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "lies", STAGES);
    context.write("data", "some data\n");
    let folder = engine.path("the-cache");
    let to = format!("type=local,dest={},mode=max", folder.display());
    built(context.build(&["--cache-to", &to]));
    // All layers are something else now; index, manifest and document are what they were.
    let blobs: Vec<PathBuf> =
        std::fs::read_dir(folder.join("blobs/sha256")).unwrap().map(|e| e.unwrap().path()).collect();
    let gzip = |path: &PathBuf| std::fs::read(path).unwrap().starts_with(&[0x1f, 0x8b]);
    let layers: Vec<&PathBuf> = blobs.iter().filter(|p| gzip(p)).collect();
    assert!(layers.len() >= 6);
    let other = std::fs::read(layers[0]).unwrap();
    for layer in &layers[1..] {
        std::fs::remove_file(layer).unwrap();
        std::fs::write(layer, &other).unwrap();
    }
    wipe(&engine, &context);
    let from = format!("type=local,src={}", folder.display());
    built(context.build(&["-t", "second", "--cache-from", &from]));
    // What could not be had was done anew.
    assert!(made(&engine, "second").ends_with("tool\nSOME DATA"));
    assert_eq!(store::faults(&engine.root()), [""; 0]);
}

/// A repository with two branches, a tag, and a module.
struct Repository<'a> {
    engine: &'a Engine,
    folder: PathBuf,
}

impl<'a> Repository<'a> {
    fn new(engine: &'a Engine) -> Self {
        let this = Self { engine, folder: engine.path("repositories") };
        let module = this.make("module");
        this.commit(&module, &[("inner", "of the module\n")]);
        let main = this.make("main");
        let dockerfile = "FROM busybox\nCOPY . /src\nRUN cat /src/word > /word\n";
        this.commit(
            &main,
            &[
                ("Dockerfile", dockerfile),
                ("word", "first\n"),
                ("sub/Dockerfile", dockerfile),
                ("sub/word", "below\n"),
            ],
        );
        this.git(&main, &["tag", "-a", "v1", "-m", "a tag"]);
        this.git(&main, &["branch", "other"]);
        std::os::unix::fs::symlink("word", main.join("link")).unwrap();
        this.git(&main, &["-c", "protocol.file.allow=always", "submodule", "add", "-q", "../module", "mod"]);
        this.commit(&main, &[("word", "second\n"), ("run", "#!/bin/sh\n")]);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(main.join("run"), mode).unwrap();
        this.commit(&main, &[("word", "third\n")]);
        // As servers have it, and by a name that says what it is.
        this.git(&this.folder, &["clone", "-q", "--bare", "main", "main.git"]);
        this
    }

    fn make(&self, name: &str) -> PathBuf {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        self.git(&folder, &["init", "-q", "-b", "main"]);
        folder
    }

    fn git(&self, folder: &Path, args: &[&str]) -> String {
        let mut git = Command::new("git");
        git.arg("-C").arg(folder).args(["-c", "user.name=x", "-c", "user.email=x@y"]).args(args);
        let done = git.env("GIT_CONFIG_GLOBAL", "/dev/null").output().expect("git");
        assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    fn commit(&self, folder: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        self.git(folder, &["add", "-A"]);
        self.git(folder, &["commit", "-q", "-m", "more"]);
    }

    /// Serves all of them by `git://`, on git's own port.
    fn serve(&self) -> Served {
        // Itself, not by `git daemon`: that would be a child of git's, which outlives it.
        let programs = Command::new("git").arg("--exec-path").output().expect("git").stdout;
        let programs = Path::new(std::str::from_utf8(&programs).expect("a path").trim()).to_owned();
        let mut daemon = self.engine.sandbox.command(programs.join("git-daemon"));
        daemon.args(["--export-all", "--reuseaddr", "--listen=127.0.0.1"]);
        daemon.arg(format!("--base-path={}", self.folder.display()));
        let served = Served(daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("git"));
        eventually("the repositories are served", || {
            let mut git = self.engine.sandbox.command("git");
            git.args(["ls-remote", "git://127.0.0.1/main"]).stdout(Stdio::null()).stderr(Stdio::null());
            git.status().is_ok_and(|s| s.success())
        });
        served
    }

    /// Serves all of them by HTTP on a port of the sandbox; with a token only to who has it.
    fn serve_http(&self, port: u16, token: Option<&str>) -> Served {
        let script = self.folder.join("serve.py");
        std::fs::write(&script, HTTP).unwrap();
        let mut server = self.engine.sandbox.command(tool("CORACLE_TEST_PYTHON"));
        server.arg(&script).arg(port.to_string()).arg(&self.folder).arg(token.unwrap_or(""));
        let served = Served(server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("python"));
        eventually("the repositories are served", || {
            self.engine.curl(&[&format!("http://127.0.0.1:{port}/")]).code == Some(0)
        });
        served
    }
}

/// `git http-backend` behind a small server.
const HTTP: &str = r#"
import base64, http.server, os, subprocess, sys
port, root, token = int(sys.argv[1]), sys.argv[2], sys.argv[3]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    def do_GET(self):
        wanted = "basic " + base64.b64encode(b"x-access-token:" + token.encode()).decode()
        if token and self.headers.get("authorization", "").lower() != wanted.lower():
            self.send_response(401)
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        env = dict(os.environ, GIT_PROJECT_ROOT=root, GIT_HTTP_EXPORT_ALL="1", PATH_INFO=path, QUERY_STRING=query,
            REQUEST_METHOD=self.command, CONTENT_TYPE=self.headers.get("content-type", ""),
            CONTENT_LENGTH=str(len(body)), GIT_PROTOCOL=self.headers.get("git-protocol", ""),
            REMOTE_ADDR="127.0.0.1", GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="safe.directory", GIT_CONFIG_VALUE_0="*")
        out = subprocess.run(["git", "http-backend"], input=body, env=env, stdout=subprocess.PIPE).stdout
        head, _, rest = out.partition(b"\r\n\r\n")
        lines = [line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line]
        status = [value for name, value in lines if name == "Status"]
        self.send_response(int(status[0].split()[0]) if status else 200)
        for name, value in lines:
            if name != "Status":
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(rest)
    do_POST = do_GET
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"#;

struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn repositories_are_contexts() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "repositories-of", "FROM scratch\n");
    let repository = Repository::new(&engine);
    let _served = repository.serve();
    let build = |from: &str, more: &[&str]| {
        let mut args = vec!["buildx", "build", "--progress=plain", "-t", "git"];
        args.extend(more);
        args.push(from);
        context.run(&args)
    };
    let shows = |path: &str| engine.docker(&["run", "--rm", "git", "cat", path]).ok();
    let address = "git://127.0.0.1/main";
    let progress = built(build(address, &[]));
    assert!(progress.contains("[internal] load git source git://127.0.0.1/main"), "{progress}");
    assert_eq!(shows("/word"), "third");
    assert_eq!(shows("/src/mod/inner"), "of the module");
    assert_eq!(shows("/src/link"), "third");
    let modes = ["run", "--rm", "git", "stat", "-c", "%a %u", "/src/run", "/src/word", "/src/sub"];
    assert_eq!(engine.docker(&modes).ok(), "755 0\n644 0\n755 0");
    engine.docker(&["run", "--rm", "git", "ls", "/src/.git"]).fails(1, "No such file");
    // The same commit is not fetched again, and its steps are found: the checkout and two of them are told so.
    assert_eq!(cached(&built(build(address, &[]))), 3);
    for (which, word) in [
        ("#other", "first"),
        ("#v1", "first"),
        ("#main", "third"),
        ("#main:sub", "below"),
        ("#refs/heads/other:sub", "below"),
    ] {
        built(build(&format!("{address}{which}"), &[]));
        assert_eq!(shows("/word"), word, "{which}");
    }
    let commit = repository.git(&repository.folder.join("main"), &["rev-parse", "HEAD~1"]);
    built(build(&format!("{address}#{commit}"), &["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"]));
    assert_eq!(shows("/word"), "second");
    assert_eq!(shows("/src/.git/HEAD"), commit);
    // What is kept is a repository.
    let out = engine.path("out");
    built(build(
        &format!("{address}#{commit}"),
        &["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", "-o", out.to_str().unwrap()],
    ));
    assert_eq!(repository.git(&out.join("src"), &["log", "--format=%H"]), commit);
    assert_eq!(repository.git(&out.join("src"), &["status", "--porcelain"]), "");
    build(&format!("{address}#nobody"), &[]).fails(1, "repository does not contain ref nobody");
    build(&format!("{address}#main:nowhere"), &[]).fails(1, "nowhere");
    build("git://127.0.0.1:1/main", &[]).fails(1, "efused");
    nothing_runs(&engine);
}

#[test]
fn repositories_are_sources_of_files_and_named_contexts() {
    let engine = Engine::with_busybox();
    let repository = Repository::new(&engine);
    let _served = repository.serve_http(8080, None);
    let dockerfile = "FROM busybox\nADD http://127.0.0.1:8080/main.git /all\n\
        ADD http://127.0.0.1:8080/main.git#v1:sub /sub\nCOPY --from=repo word /named\n";
    let context = Context::new(&engine, "adding", dockerfile);
    built(context.build(&["-t", "adds", "--build-context", "repo=http://127.0.0.1:8080/main.git#other"]));
    let shown = engine.docker(&["run", "--rm", "adds", "cat", "/all/word", "/sub/word", "/named"]).ok();
    assert_eq!(shown, "third\nbelow\nfirst");
    let main = repository.folder.join("main");
    let commit = repository.git(&main, &["rev-parse", "other"]);
    let add = |sum: &str| {
        context.write(
            "Dockerfile",
            &format!("FROM busybox\nADD --checksum={sum} http://127.0.0.1:8080/main.git#other /x\n"),
        );
        context.build(&[])
    };
    built(add(&commit));
    add(&"1".repeat(40)).fails(1, "expected checksum to match");
}

#[test]
fn private_repositories_are_opened_by_a_secret() {
    let engine = Engine::with_busybox();
    let repository = Repository::new(&engine);
    let _served = repository.serve_http(8081, Some("a-token"));
    let context = Context::new(&engine, "private", "FROM scratch\n");
    let build = |secret: Option<&str>| {
        let mut args = vec!["buildx", "build", "--progress=plain", "-t", "private"];
        args.extend(secret.iter().flat_map(|s| ["--secret", s]));
        args.push("http://127.0.0.1:8081/main.git");
        let mut command = context.command(&args);
        command.env("TOKEN", "a-token").env("OTHER", "another").output().expect("docker").into()
    };
    let outcome: tests::Outcome = build(None);
    outcome.fails(1, "GIT_AUTH_TOKEN");
    build(Some("id=GIT_AUTH_TOKEN,env=OTHER")).fails(1, "authentication failed");
    built(build(Some("id=GIT_AUTH_TOKEN,env=TOKEN")));
    built(build(Some("id=GIT_AUTH_TOKEN.127.0.0.1:8081,env=TOKEN")));
    assert_eq!(engine.docker(&["run", "--rm", "private", "cat", "/word"]).ok(), "third");
}

#[test]
fn layouts_and_images_are_named_contexts() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "layouts", "FROM busybox\nRUN echo base > /base\nLABEL of=layout\n");
    let archive = engine.path("layout.tar");
    let to = format!("type=oci,dest={}", archive.display());
    built(context.build(&["-o", &to]));
    let layout = engine.path("layout");
    std::fs::create_dir_all(&layout).unwrap();
    let done = Command::new("tar").arg("xf").arg(&archive).arg("-C").arg(&layout).status().unwrap();
    assert!(done.success());
    let dockerfile = "FROM base AS one\nRUN cat /base > /seen\nFROM busybox\nCOPY --from=one /seen /\nCOPY --from=base /base /\n";
    context.write("Dockerfile", dockerfile);
    wipe(&engine, &context);
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let named = format!("base=oci-layout://{}@{digest}", layout.display());
    built(context.build(&["-t", "of-layout", "--build-context", &named]));
    assert_eq!(engine.docker(&["run", "--rm", "of-layout", "cat", "/seen", "/base"]).ok(), "base\nbase");
    assert_eq!(
        cached(&built(
            context.build(&["--build-context", &format!("base=oci-layout://{}@{digest}", layout.display()),])
        )),
        3
    );
    let none = format!("base=oci-layout://{}@sha256:{}", layout.display(), "1".repeat(64));
    context.build(&["--build-context", &none]).fails(1, "not found");
    // An image, and a folder.
    engine.docker(&["tag", "of-layout", "other:1"]).ok();
    built(context.build(&["-t", "of-image", "--build-context", "base=docker-image://other:1"]));
    let folder = engine.path("named");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("base"), "folder\n").unwrap();
    context.write("Dockerfile", "FROM busybox\nCOPY --from=base base /\n");
    let named = format!("base={}", folder.display());
    built(context.build(&["-t", "of-folder", "--build-context", &named]));
    assert_eq!(engine.docker(&["run", "--rm", "of-folder", "cat", "/base"]).ok(), "folder");
}

#[test]
fn private_registries_are_asked_with_the_clients_credentials() {
    let engine = Engine::with_busybox();
    let _registry = Registry::start_private(&engine.sandbox, engine.folder.path());
    let context = Context::new(&engine, "private", "FROM 127.0.0.1:5000/base\nRUN echo private > /x\n");
    let (user, password) = Registry::LOGIN;
    engine.docker(&["login", "-u", user, "-p", password, "127.0.0.1:5000"]).ok();
    engine.docker(&["tag", "busybox", "127.0.0.1:5000/base"]).ok();
    engine.docker(&["push", "127.0.0.1:5000/base"]).ok();
    engine.docker(&["rmi", "127.0.0.1:5000/base", "busybox"]).ok();
    // The base is fetched, the cache written, and the result pushed by what the client says when it is asked.
    let to = "type=registry,ref=127.0.0.1:5000/cache,mode=max";
    built(context.build(&["-t", "127.0.0.1:5000/app", "--push", "--cache-to", to]));
    engine.docker(&["rmi", "127.0.0.1:5000/app", "127.0.0.1:5000/base"]).ok();
    built(context.run(&["buildx", "prune", "-af"]));
    assert_eq!(cached(&built(context.build(&["--cache-from", "127.0.0.1:5000/cache"]))), 1);
    assert_eq!(engine.docker(&["run", "--rm", "127.0.0.1:5000/app", "cat", "/x"]).ok(), "private");
    engine.docker(&["logout", "127.0.0.1:5000"]).ok();
    context.write("Dockerfile", "FROM 127.0.0.1:5000/app\nRUN true\n");
    context.build(&["--pull"]).fails(1, "failed to resolve source metadata");
    context.build(&["--push", "-t", "127.0.0.1:5000/other"]).fails(1, "denied");
}

/// Parts of the step of this name that were told of, and whether each was done.
fn parts(report: &str, step: &str) -> BTreeMap<String, bool> {
    let events: Vec<Value> = report.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let all =
        |kind: &str| events.iter().filter_map(|e| e[kind].as_array()).flatten().cloned().collect::<Vec<_>>();
    let named =
        all("vertexes").into_iter().find(|v| v["name"].as_str().is_some_and(|name| name.starts_with(step)));
    let digest = named.unwrap_or_else(|| panic!("no {step} in {report}"))["digest"].clone();
    let mut parts = BTreeMap::new();
    for part in all("statuses").iter().filter(|s| s["vertex"] == digest) {
        *parts.entry(part["id"].as_str().unwrap().to_owned()).or_default() |= part["completed"].is_string();
    }
    parts
}

#[test]
fn a_base_image_is_fetched_where_it_is_needed_and_tells_how_far_it_is() {
    let engine = Engine::with_busybox();
    let _registry = Registry::start(&engine.sandbox, engine.folder.path());
    let base = "127.0.0.1:5000/base";
    engine.docker(&["tag", "busybox", base]).ok();
    engine.docker(&["push", "-q", base]).ok();
    let context = Context::new(&engine, "fetched", &format!("FROM {base}\nRUN echo made > /made\nENV A=b\n"));
    let build = || {
        let folder = context.folder.to_str().unwrap();
        built(context.run(&["buildx", "build", "--progress=rawjson", "-t", "made", folder]))
    };
    let forget = || drop(engine.docker(&["rmi", "-f", "busybox", base, "made"]));
    forget();
    let report = build();
    assert_eq!(
        parts(&report, "[internal] load metadata"),
        BTreeMap::new(),
        "nothing but its documents is asked for"
    );
    let told = parts(&report, "[1/2] FROM");
    let begins = |start: &str| told.keys().filter(|id| id.starts_with(start)).count();
    assert!(told.values().all(|done| *done), "{told:?}");
    let resolved = format!("resolve {base}:latest@sha256:");
    assert_eq!([begins(&resolved), begins("sha256:"), begins("extracting sha256:")], [1, 1, 1], "{told:?}");
    assert_eq!(engine.docker(&["run", "--rm", "made", "cat", "/made"]).ok(), "made");

    // The step is in the cache, and what it stands on is fetched again.
    forget();
    let report = build();
    assert!(report.contains(r#""cached":true"#), "{report}");
    assert_eq!(engine.docker(&["run", "--rm", "made", "cat", "/made"]).ok(), "made");
    // What says nothing but what it is does not need its files to be read.
    engine.docker(&["rmi", "-f", "busybox", base, "made"]);
    built(context.run(&["buildx", "prune", "-af"]));
    context
        .write("Dockerfile", &format!("FROM {base} AS unused\nRUN false\nFROM scratch\nCOPY Dockerfile /\n"));
    build();
    assert_eq!(engine.docker(&["images", "-q", base]).ok(), "");
    nothing_runs(&engine);
}

#[test]
fn what_is_pushed_says_how_it_was_made() {
    let engine = Engine::with_busybox();
    let _registry = Registry::start(&engine.sandbox, engine.folder.path());
    let context = Context::new(&engine, "pushed", "FROM busybox\nARG WORD\nRUN echo $WORD > /x\n");
    let name = "127.0.0.1:5000/app:1";
    let metadata = engine.path("metadata.json");
    built(context.build(&["-t", name, "--push", "--metadata-file", metadata.to_str().unwrap()]));
    let metadata: Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    let raw = context.run(&["buildx", "imagetools", "inspect", "--raw", name]).ok();
    let index: Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(index["manifests"][1]["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(
        index["manifests"][1]["annotations"]["vnd.docker.reference.digest"],
        index["manifests"][0]["digest"]
    );
    let listed = context.run(&["buildx", "imagetools", "inspect", name]).ok();
    assert!(listed.contains(metadata["containerimage.digest"].as_str().unwrap()), "{listed}");
    let told =
        |format: &str| context.run(&["buildx", "imagetools", "inspect", name, "--format", format]).ok();
    let predicate: Value = serde_json::from_str(&told("{{json .Provenance.SLSA}}")).unwrap();
    assert_eq!(predicate["invocation"]["configSource"]["entryPoint"], "Dockerfile");
    assert!(predicate["materials"][0]["uri"].as_str().unwrap().starts_with("pkg:docker/busybox@latest"));
    assert_eq!(predicate["invocation"]["parameters"].get("args"), None, "not without mode=max");

    built(context.build(&[
        "-t",
        name,
        "--push",
        "--provenance=mode=max,version=v1",
        "--build-arg",
        "WORD=w",
    ]));
    let predicate: Value = serde_json::from_str(&told("{{json .Provenance.SLSA}}")).unwrap();
    let request = &predicate["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:WORD"], "w", "{predicate}");

    built(context.build(&["-t", name, "--push", "--provenance=false"]));
    let raw = context.run(&["buildx", "imagetools", "inspect", "--raw", name]).ok();
    let manifest: Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(manifest["config"]["mediaType"], json!("application/vnd.docker.container.image.v1+json"));
    // It runs, is saved and removed as any other image.
    built(context.build(&["-t", "attested", "--build-arg", "WORD=said"]));
    assert_eq!(engine.docker(&["run", "--rm", "attested", "cat", "/x"]).ok(), "said");
    let archive = engine.path("saved.tar");
    engine.docker(&["save", "-o", archive.to_str().unwrap(), "attested"]).ok();
    engine.docker(&["rmi", "attested"]).ok();
    engine.docker(&["load", "-i", archive.to_str().unwrap()]).ok();
    assert_eq!(engine.docker(&["run", "--rm", "attested", "cat", "/x"]).ok(), "said");
    assert_eq!(store::faults(&engine.root()), [""; 0]);
}

#[test]
fn several_targets_are_baked_and_joined() {
    let engine = Engine::with_busybox();
    let _registry = Registry::start(&engine.sandbox, engine.folder.path());
    let context = Context::new(
        &engine,
        "baked",
        "FROM busybox AS one\nARG WORD=none\nRUN echo $WORD > /one\nFROM one AS two\nRUN echo two > /two\n",
    );
    let bake = r#"
variable "TAG" { default = "1" }
group "default" { targets = ["one", "two"] }
target "one" {
  context = "FOLDER"
  target = "one"
  args = { WORD = "baked" }
  tags = ["127.0.0.1:5000/one:${TAG}"]
}
target "two" {
  inherits = ["one"]
  target = "two"
  tags = ["127.0.0.1:5000/two:${TAG}"]
}
"#;
    context.write("docker-bake.hcl", &bake.replace("FOLDER", context.folder.to_str().unwrap()));
    let file = context.folder.join("docker-bake.hcl");
    let mut bake =
        context.command(&["buildx", "bake", "--progress=plain", "--push", "-f", file.to_str().unwrap()]);
    built(bake.env("TAG", "9").output().unwrap().into());
    let shown = engine.docker(&["run", "--rm", "127.0.0.1:5000/two:9", "cat", "/one", "/two"]).ok();
    assert_eq!(shown, "baked\ntwo");
    let create = ["buildx", "imagetools", "create", "-t", "127.0.0.1:5000/one:copy", "127.0.0.1:5000/one:9"];
    context.run(&create).ok();
    engine.docker(&["pull", "127.0.0.1:5000/one:copy"]).ok();
}

#[test]
fn the_clients_ssh_agent_is_forwarded() {
    let engine = Engine::with_busybox();
    let agent = engine.path("agent");
    let key = engine.path("key");
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "the-key", "-f"]).arg(&key);
    assert!(keygen.status().expect("ssh-keygen").success());
    let mut agent_process = Command::new("ssh-agent");
    agent_process.arg("-D").arg("-a").arg(&agent).stdout(Stdio::null()).stderr(Stdio::null());
    let _served = Served(agent_process.spawn().expect("ssh-agent"));
    eventually("the agent listens", || agent.exists());
    let add = Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &agent).status();
    assert!(add.expect("ssh-add").success());
    let dockerfile = "FROM busybox\nCOPY tree /\nRUN --mount=type=ssh,required,uid=7 stat -c 'of %u' \"$SSH_AUTH_SOCK\" && \
        ssh-add -L\nRUN test -z \"$SSH_AUTH_SOCK\"\n";
    let context = Context::new(&engine, "ssh", dockerfile);
    let program = Path::new("/usr/bin/ssh-add");
    let libraries = Command::new("ldd").arg(program).output().expect("ldd").stdout;
    let libraries = String::from_utf8(libraries).unwrap();
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
    for path in paths.chain([program]) {
        let to = context.folder.join("tree").join(path.strip_prefix("/").unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(path, to).unwrap();
    }
    let spec = format!("default={}", agent.display());
    let progress = built(context.build(&["--ssh", &spec]));
    assert!(progress.contains(" of 7\n") && progress.contains(" the-key\n"), "{progress}");
    built(context.run(&["buildx", "prune", "-af"]));
    context.build(&[]).fails(1, "unset ssh forward key default");
    nothing_runs(&engine);
}

/// What the bake files below build: a target that stands on another's result, and one that takes files from it.
const LINKED: &str = r#"
group "default" { targets = ["app", "files"] }
target "base" {
  context = "CONTEXT"
  dockerfile = "base.Dockerfile"
}
target "app" {
  contexts = { base = "target:base" }
  dockerfile-inline = "FROM base\nRUN echo $WORD-$(cat /made) > /app\n"
  tags = ["app"]
}
target "files" {
  contexts = { base = "target:base" }
  dockerfile-inline = "FROM busybox\nCOPY --from=base /made /taken\n"
  tags = ["files"]
}
"#;
const BASE: &str = "FROM busybox\nENV WORD=linked\nCOPY word /made\n";

#[test]
fn targets_of_a_bake_stand_on_each_others_results() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "linked", "");
    let here = context.folder.to_str().unwrap();
    context.write("docker-bake.hcl", &LINKED.replace("CONTEXT", here));
    context.write("base.Dockerfile", BASE);
    let file = context.folder.join("docker-bake.hcl");
    let bake = |word: &str| {
        context.write("word", word);
        built(context.run(&["buildx", "bake", "--progress=plain", "-f", file.to_str().unwrap()]));
        let read = |image: &str, path: &str| engine.docker(&["run", "--rm", image, "cat", path]).ok();
        (read("app", "/app"), read("files", "/taken"))
    };
    assert_eq!(bake("one\n"), ("linked-one".into(), "one".into()));
    // The base's own configuration goes with it, and what it is made of is looked at again.
    assert_eq!(bake("two\n"), ("linked-two".into(), "two".into()));
    nothing_runs(&engine);
    assert_eq!(store::faults(&engine.root()), [""; 0]);
}

#[test]
fn what_is_baked_may_be_elsewhere_altogether() {
    let engine = Engine::with_busybox();
    let repository = Repository::new(&engine);
    let bake = LINKED.replace("CONTEXT", ".");
    let files = [("docker-bake.hcl", bake.as_str()), ("base.Dockerfile", BASE), ("word", "from-afar\n")];
    let folder = repository.make("baked");
    repository.commit(&folder, &files);
    repository.git(&repository.folder, &["clone", "-q", "--bare", "baked", "baked.git"]);
    let context = Context::new(&engine, "baking", "");
    let baked = |from: &str| {
        let done = built(context.run(&["buildx", "bake", "--progress=plain", from]));
        let app = engine.docker(&["run", "--rm", "app", "cat", "/app"]).ok();
        engine.docker(&["rmi", "-f", "app", "files"]).ok();
        assert_eq!(app, "linked-from-afar", "{done}");
    };
    let served = repository.serve_http(8082, None);
    baked("http://127.0.0.1:8082/baked.git");
    drop(served);
    // A file alone, whose context is the client's.
    files[1..].iter().for_each(|(path, text)| context.write(path, text));
    let file = LINKED.replace("CONTEXT", context.folder.to_str().unwrap());
    std::fs::write(engine.path("file.hcl"), file).unwrap();
    let mut server = engine.sandbox.command(tool("CORACLE_TEST_BUSYBOX"));
    server.args(["httpd", "-f", "-p", "127.0.0.1:8083", "-h", engine.folder.path().to_str().unwrap()]);
    let _served = Served(server.spawn().unwrap());
    eventually("files are served", || engine.curl(&["-f", "http://127.0.0.1:8083/file.hcl"]).code == Some(0));
    baked("http://127.0.0.1:8083/file.hcl");
    nothing_runs(&engine);
}
