//! One of the two that are compared: a shell with the stock CLI in front of an engine's socket.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Answer, Case, Compared, Step, rules, told};
use crate::{Cli, Engine, Outcome, Registry, images};

/// Seconds a line may take.
const LINE_LIMIT: &str = "60";

/// `api METHOD PATH [BODY]` of the cases' shell.
const API: &str = r#"#!/bin/sh
method=$1 path=$2
shift 2
[ "$method" = HEAD ] && set -- -I
[ $# -gt 0 ] && [ "$method" != HEAD ] && set -- -H 'Content-Type: application/json' -d "$1"
[ "$method" = HEAD ] || set -- -X "$method" "$@"
body=$(mktemp)
status=$(curl -sS -g --max-time 30 -o "$body" -w '%{http_code}' "$@" --unix-socket "$SOCKET" "http://x$path")
echo "HTTP $status"
cat "$body"
rm -f "$body"
"#;

/// `try OPTIONS` of the cases' shell: whether a container can be made with them.
const TRY: &str = r#"#!/bin/sh
docker create --name d-try "$@" d-busybox
code=$?
docker rm -f d-try >/dev/null 2>&1
exit $code
"#;

/// `build IMAGE OPTIONS` of the cases' shell: what lies in the case's folder becomes an image, without the cache of a run before.
const BUILD: &str = r#"#!/bin/sh
image=$1
shift
docker buildx build --quiet --no-cache --tag "$image" "$@" "$DIR" >/dev/null
"#;

/// `tree IMAGE PATHS` of the cases' shell: files with type, mode, owner, size, target and extended attributes (their
/// names and lengths: `tar` tells no more of them; those of users are in no archive of dockerd's default store), and sums
/// of their content.
const TREE: &str = r#"#!/bin/sh
place=$(mktemp -d)
image=$1
shift
docker create --name d-tree "$image" x >/dev/null && docker export d-tree >"$place/tar"
docker rm d-tree >/dev/null
tar --numeric-owner --xattrs --xattrs-include='*' -tvvf "$place/tar" "$@" 2>/dev/null |
    awk '/^  x:/ { if ($3 !~ /^user/) print last, $0; next } { sub(/\*$/, "", $1); if ($1 ~ /^d/) $3 = "-"; $4 = ""; $5 = ""; print; last = $6 }' |
    sort -k 4
mkdir "$place/files"
tar -xf "$place/tar" -C "$place/files" --no-same-owner --delay-directory-restore "$@" 2>/dev/null
cd "$place/files" && find . -type f -exec cksum {} + | sort -k 3
chmod -R u+rwx "$place" && rm -r "$place"
"#;

/// `repository COMMAND` of the cases' shell: runs it while the repositories of the case's folder are served at
/// `git://127.0.0.1/`.
const REPOSITORY: &str = r#"#!/bin/sh
"$(git --exec-path)/git-daemon" --export-all --reuseaddr --listen=127.0.0.1 --base-path="$DIR" >/dev/null 2>&1 &
served=$!
trap 'kill $served; wait $served 2>/dev/null' EXIT
trap 'exit 124' TERM
until git ls-remote git://127.0.0.1/repo >/dev/null 2>&1; do kill -0 $served || exit 125; done
"$@"
"#;

/// Removes what a case left behind: containers, networks, volumes and images whose name begins with `d-`, but for the
/// two images of all cases. Asked by curl, which starts in a tenth of the CLI's time: mostly little is left.
const CLEAN: &str = r#"
list() { curl -sSf -g --max-time 30 --unix-socket "$SOCKET" "http://x$1"; }
has() { list "$1" | grep -q "$2"; }
if has '/containers/json?all=1' '"/d-'; then
    docker ps -aq --filter name=^/d- | xargs -r docker rm -fv
fi
if has /networks '"d-'; then
    docker network ls -q --filter name=^d- | xargs -r docker network rm
fi
if has /volumes '"d-'; then
    docker volume ls -q --filter name=^d- | xargs -r docker volume rm
fi
list /images/json | grep -oE '"(127\.0\.0\.1:5000/)?d-[^"@]*:[^"@]*"' | tr -d '"' | sort -u |
    grep -vxE 'd-(busybox|rich):latest' | xargs -r docker rmi -f
"#;

/// What is in front of the shell.
enum Where {
    /// An engine of ours, with a registry.
    Ours(Box<(Registry, Engine)>),
    /// A dockerd on this machine, by its socket.
    Peer,
}

/// One side.
pub struct Side {
    place: Where,
    socket: PathBuf,
    /// `docker`, `compose` and `api` of the shell, its CLI's settings, the cases' folder.
    folder: tempfile::TempDir,
    /// Folders of this side, with what they are called in answers.
    paths: Vec<(String, &'static str)>,
}

impl Side {
    /// An engine of ours.
    pub fn ours() -> Self {
        // The settings of the dockerd that is recorded.
        let engine = Engine::with_config(json!({
            "registry-mirrors": ["http://127.0.0.1:5000"],
            "insecure-registries": ["127.0.0.1:5000", "localhost:5000", "registry:5000"],
        }));
        let registry = Registry::start(&engine.sandbox, engine.folder.path());
        let socket = engine.socket();
        Self::new(Where::Ours(Box::new((registry, engine))), socket)
    }

    /// The dockerd behind a socket. A registry answers on its port 5000.
    pub fn peer(socket: &Path) -> Self {
        Self::new(Where::Peer, socket.to_owned())
    }

    fn new(place: Where, socket: PathBuf) -> Self {
        let folder = tempfile::Builder::new().prefix("coracle-cases-").tempdir().expect("a temporary folder");
        for below in ["bin", "config/cli-plugins", "files"] {
            std::fs::create_dir_all(folder.path().join(below)).expect("make a folder");
        }
        let docker = format!("#!/bin/sh\nexec '{}' \"$@\"\n", Cli::V28.program().display());
        let compose = format!("#!/bin/sh\nexec '{}' \"$@\"\n", crate::tool("CORACLE_TEST_COMPOSE").display());
        let plugin = folder.path().join("config/cli-plugins/docker-buildx");
        std::os::unix::fs::symlink(crate::tool("CORACLE_TEST_BUILDX"), plugin).expect("a link");
        for (name, text) in [
            ("docker", docker.as_str()),
            ("compose", compose.as_str()),
            ("api", API),
            ("try", TRY),
            ("build", BUILD),
            ("tree", TREE),
            ("repository", REPOSITORY),
        ] {
            let path = folder.path().join("bin").join(name);
            std::fs::write(&path, text).expect("write a script");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        let mut side = Self { place, socket, folder, paths: Vec::new() };
        for (name, config) in [("d-busybox", json!({ "Cmd": ["sh"] })), ("d-rich", rich())] {
            let path = side.folder.path().join(format!("{name}.tar"));
            images::archive(&path, &format!("{name}:latest"), config, &[images::busybox_layer(&[])]);
            side.must(&format!("docker load -q -i {}", path.display()));
        }
        let root = side.must("docker info -f '{{.DockerRootDir}}'");
        side.paths.push((root.trim().to_owned(), "<root>"));
        side.paths.push((side.files().display().to_string(), "<dir>"));
        side.clean();
        side
    }

    /// Removes what a case left behind, at the engine and in the cases' own folder.
    fn clean(&self) {
        self.must(CLEAN);
        let files = self.files();
        std::fs::remove_dir_all(&files).expect("remove the cases' files");
        std::fs::create_dir(&files).expect("make the cases' folder");
    }

    fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    fn shell(&self, line: &str, start: &str) -> Outcome {
        let mut command = match &self.place {
            Where::Ours(ours) => ours.1.sandbox.command("timeout"),
            Where::Peer => self.beside_peer("timeout"),
        };
        let path = std::env::var("PATH").unwrap_or_default();
        // Entering the sandbox leads to its root: the case's folder is taken by the shell itself.
        command
            .args([LINE_LIMIT, "sh", "-c", &format!("cd \"$DIR\" || exit 125\n{line}")])
            .env("PATH", format!("{}:{path}", self.folder.path().join("bin").display()))
            .env("SOCKET", &self.socket)
            .env("DOCKER_HOST", format!("unix://{}", self.socket.display()))
            .env("DOCKER_CONFIG", self.folder.path().join("config"))
            .env("DOCKER_CLI_HINTS", "false")
            .env("DIR", self.files())
            .env("START", start)
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command.output().expect("a shell").into()
    }

    /// A command in the peer's network, where its path leads through that of another root (`/proc/PID/root`): so that what the cases
    /// serve at 127.0.0.1 is at the same place for both sides.
    fn beside_peer(&self, program: &str) -> Command {
        let through: Vec<&str> = self.socket.to_str().unwrap_or_default().split('/').collect();
        let ["", "proc", pid, "root", ..] = through[..] else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net")).arg(program);
        command
    }

    fn must(&self, line: &str) -> String {
        self.shell(line, "0").ok()
    }

    /// Which engine answers, for a recording's header.
    pub fn describe(&self) -> Value {
        let version: Value =
            serde_json::from_str(&self.must("docker version -f '{{json .}}'")).expect("JSON");
        let driver = self.must("docker info -f '{{.Driver}} {{json .DriverStatus}}'");
        let store = if driver.contains("io.containerd.snapshotter") { "containerd" } else { "graph drivers" };
        json!({
            "Version": version["Server"]["Version"], "ApiVersion": version["Server"]["ApiVersion"],
            "Store": store, "Cli": version["Client"]["Version"],
        })
    }

    /// Runs a case and removes what it left; the compared lines with their answers.
    pub fn run(&self, case: &Case) -> Vec<(String, Answer)> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let start = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        let mut answers = Vec::new();
        for step in &case.steps {
            let outcome = self.shell(&step.line, &start);
            if step.compared == Compared::Nothing {
                let said = format!("{}{}", outcome.out, outcome.err);
                assert_eq!(outcome.code, Some(0), "setup of {:?}: {}: {said}", case.name, step.line);
                continue;
            }
            answers.push((step.line.clone(), self.answer(step, outcome)));
        }
        self.clean();
        answers
    }

    fn answer(&self, step: &Step, outcome: Outcome) -> Answer {
        let code = outcome.code.unwrap_or(-1);
        let out = rules::text(&outcome.out, &self.paths);
        let err = rules::text(&outcome.err, &self.paths);
        // What is no JSON where it should be is compared as the text it is.
        let parsed = || documents(&outcome.out).unwrap_or_else(|_| json!(out));
        match step.compared {
            Compared::Nothing | Compared::Exit => {
                Answer { code, out: Value::Null, err: String::new(), said: format!("{out}{err}") }
            }
            Compared::Text => Answer { code, out: json!(out), err, said: String::new() },
            Compared::Lines => {
                let mut lines: Vec<&str> = out.lines().collect();
                lines.sort_unstable();
                Answer { code, out: json!(lines.join("\n")), err, said: String::new() }
            }
            Compared::Json => {
                Answer { code, out: rules::json(parsed(), &self.paths), err, said: String::new() }
            }
            Compared::Steps => {
                let told = told::fold(&outcome.err).unwrap_or(Value::Null);
                Answer { code, out: rules::json(told, &self.paths), err: String::new(), said: String::new() }
            }
            Compared::Shape => Answer {
                code,
                out: rules::json(rules::shape(&parsed()), &self.paths),
                err,
                said: String::new(),
            },
        }
    }
}

/// Everything an image's configuration can say.
fn rich() -> Value {
    json!({
        "User": "33:50", "ExposedPorts": { "80/tcp": {}, "53/udp": {} }, "Env": ["A=image", "B=two words"],
        "Entrypoint": ["sh", "-c"], "Cmd": ["echo rich"], "Volumes": { "/data": {} }, "WorkingDir": "/tmp",
        "Labels": { "maintainer": "nobody", "org.example.x": "1" }, "StopSignal": "SIGINT",
        "Shell": ["/bin/sh", "-ec"], "OnBuild": ["RUN true"],
    })
}

/// An output that is JSON: one document, or a list of those that follow each other; `HTTP status` in front is kept.
fn documents(out: &str) -> Result<Value, String> {
    let (status, rest) = match out.strip_prefix("HTTP ").and_then(|rest| rest.split_once('\n')) {
        Some((status, rest)) => (Some(status), rest),
        None => (None, out),
    };
    let all: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(rest).into_iter().collect();
    let mut all = all.map_err(|e| e.to_string())?;
    let body = if all.len() == 1 { all.remove(0) } else { Value::Array(all) };
    Ok(match status {
        Some(status) => json!({ "status": status, "body": body }),
        None => body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_documents() {
        assert_eq!(documents("HTTP 200\n{}\n").unwrap(), json!({"status": "200", "body": {}}));
        assert_eq!(documents("{}\n[1]\n").unwrap(), json!([{}, [1]]));
        assert_eq!(documents("HTTP 204\n").unwrap(), json!({"status": "204", "body": []}));
        assert!(documents("Error: x").is_err());
    }
}
