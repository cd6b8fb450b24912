//! Images of Debian's servers: their packages as they unpack, and over them what the packages' scripts would make.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{File, archive, header};
use crate::tool;

/// What no program in these images reads.
const LEFT_OUT: &[&str] =
    &[".packages", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/i18n"];
/// Who runs the servers that do not run as root.
const SERVER: u64 = 999;

/// A folder of an image: path, mode, owner (user and group).
struct Folder<'a>(&'a str, u32, u64);

/// Folders that every container has something mounted on, or writes to.
const FOLDERS: &[Folder<'_>] = &[
    Folder("tmp/", 0o1777, 0),
    Folder("run/", 0o755, 0),
    Folder("dev/", 0o755, 0),
    Folder("proc/", 0o555, 0),
    Folder("sys/", 0o555, 0),
];

/// A tree that xtask unpacked, without what is left out (patterns as tar's), as a layer.
fn packages(variable: &str, left_out: &[&str]) -> Vec<u8> {
    let tree = tool(variable);
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--owner=0", "--group=0", "--anchored", "--wildcards"]);
    for path in LEFT_OUT.iter().chain(left_out) {
        tar.arg(format!("--exclude=./{path}"));
    }
    let done = tar.arg("-C").arg(&tree).args(["-cf", "-", "."]).output().expect("tar");
    assert!(done.status.success(), "tar of {}: {}", tree.display(), String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// The layer over the packages.
fn top(folders: &[Folder<'_>], files: &[File<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for Folder(path, mode, owner) in FOLDERS.iter().chain(folders) {
        let mut folder = header(path, tar::EntryType::Directory, *mode, 0);
        folder.set_uid(*owner);
        folder.set_gid(*owner);
        folder.set_cksum();
        tar.append(&folder, std::io::empty()).expect("tar");
    }
    for File(path, mode, contents) in files {
        tar.append(&header(path, tar::EntryType::Regular, *mode, contents.len() as u64), *contents)
            .expect("tar");
    }
    tar.into_inner().expect("tar")
}

fn image(folder: &Path, name: &str, config: Value, layers: &[Vec<u8>]) -> PathBuf {
    let path = folder.join(format!("{name}.tar"));
    archive(&path, &format!("{name}:latest"), config, layers);
    path
}

/// `/etc/passwd` and `/etc/group` with root and one more user.
fn users(name: &str, id: u64, home: &str) -> (String, String) {
    (
        format!("root:x:0:0:root:/root:/bin/sh\n{name}:x:{id}:{id}:{name}:{home}:/bin/false\n"),
        format!("root:x:0:\n{name}:x:{id}:\n"),
    )
}

/// `nginx:latest`: serves one page on port 80.
pub fn nginx(folder: &Path) -> PathBuf {
    let (passwd, group) = users("www-data", 33, "/var/www");
    let layer = top(
        &[
            Folder("var/log/nginx/", 0o755, 0),
            Folder("var/lib/nginx/", 0o755, 33),
            Folder("var/www/", 0o755, 0),
        ],
        &[
            File("etc/passwd", 0o644, passwd.as_bytes()),
            File("etc/group", 0o644, group.as_bytes()),
            File("etc/nginx/sites-enabled/default", 0o644, b"server { listen 80; root /var/www; }\n"),
            File("var/www/index.html", 0o644, b"<h1>Welcome to nginx!</h1>\n"),
        ],
    );
    let config = json!({ "Cmd": ["/usr/sbin/nginx", "-g", "daemon off;"], "ExposedPorts": { "80/tcp": {} } });
    image(folder, "nginx", config, &[packages("CORACLE_TEST_NGINX", &[]), layer])
}

/// `redis:latest`: serves port 6379 as a user of its own, with its data in the volume `/data`, each write logged.
pub fn redis(folder: &Path) -> PathBuf {
    let (passwd, group) = users("redis", SERVER, "/data");
    let layer = top(
        &[Folder("data/", 0o750, SERVER)],
        &[File("etc/passwd", 0o644, passwd.as_bytes()), File("etc/group", 0o644, group.as_bytes())],
    );
    let config = json!({
        "User": "redis", "WorkingDir": "/data", "Volumes": { "/data": {} },
        "ExposedPorts": { "6379/tcp": {} },
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Entrypoint": ["redis-server", "--bind", "*", "--protected-mode", "no", "--appendonly", "yes"],
    });
    image(folder, "redis", config, &[packages("CORACLE_TEST_REDIS", &[]), layer])
}

/// Makes the database in an empty volume, then becomes the server.
const POSTGRES_START: &[u8] = b"#!/bin/sh
set -e
if [ ! -s \"$PGDATA/PG_VERSION\" ]; then
    initdb --locale=C.UTF-8 --auth-local=trust --auth-host=reject >&2
fi
exec postgres \"$@\"
";

/// `postgres:latest`: serves port 5432 and its local socket, with its data in the volume `$PGDATA`.
pub fn postgres(folder: &Path) -> PathBuf {
    const DATA: &str = "/var/lib/postgresql/data";
    let tree = tool("CORACLE_TEST_POSTGRES");
    let versions = std::fs::read_dir(tree.join("usr/lib/postgresql")).expect("Debian's postgresql");
    let version = versions.flatten().next().expect("a version of it").file_name();
    let bin = format!("/usr/lib/postgresql/{}/bin", version.display());
    let (passwd, group) = users("postgres", SERVER, DATA);
    let layer = top(
        &[Folder("var/lib/postgresql/data/", 0o700, SERVER), Folder("var/run/postgresql/", 0o775, SERVER)],
        &[
            File("etc/passwd", 0o644, passwd.as_bytes()),
            File("etc/group", 0o644, group.as_bytes()),
            File("usr/local/bin/start", 0o755, POSTGRES_START),
        ],
    );
    let config = json!({
        "User": "postgres", "Volumes": { DATA: {} }, "ExposedPorts": { "5432/tcp": {} },
        "Env": [format!("PATH=/usr/local/bin:{bin}:/usr/bin:/bin"), format!("PGDATA={DATA}")],
        "Entrypoint": ["start"], "StopSignal": "SIGINT",
    });
    // Without its compiler of queries, most of the packages' size: the server does without by itself.
    let left_out = [
        "usr/lib/postgresql/*/lib/llvmjit*",
        "usr/lib/*-linux-gnu/libLLVM*",
        "usr/lib/*-linux-gnu/libz3.*",
        "usr/lib/*-linux-gnu/perl",
        "usr/share/perl",
    ];
    image(folder, "postgres", config, &[packages("CORACLE_TEST_POSTGRES", &left_out), layer])
}

/// Prints what Python's watchdog (inotify) sees below `/src`, a line each.
const WATCHER: &[u8] = b"\
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer

class Handler(FileSystemEventHandler):
    def on_any_event(self, event):
        if not event.event_type.startswith('opened'):
            print(event.event_type, event.src_path, flush=True)

observer = Observer()
observer.schedule(Handler(), '/src', recursive=True)
observer.start()
print('ready', flush=True)
observer.join()
";

/// `watcher:latest`: [`WATCHER`].
pub fn watcher(folder: &Path) -> PathBuf {
    let layer = top(&[], &[File("watcher.py", 0o644, WATCHER)]);
    let config = json!({ "Cmd": ["python3", "/watcher.py"], "Env": ["PATH=/usr/bin:/bin"] });
    image(folder, "watcher", config, &[packages("CORACLE_TEST_WATCHER", &[]), layer])
}

/// Prints what Node's chokidar (which bundlers and test runners watch with) sees below `/src`, a line each.
const CHOKIDAR: &[u8] = b"\
const { watch } = require('chokidar');
watch('/src', { ignoreInitial: true })
    .on('all', (event, path) => console.log(event, path))
    .on('ready', () => console.log('ready'));
";

/// `chokidar:latest`: [`CHOKIDAR`].
pub fn chokidar(folder: &Path) -> PathBuf {
    let layer = top(&[], &[File("watch.js", 0o644, CHOKIDAR)]);
    let config = json!({ "Cmd": ["node", "/watch.js"], "Env": ["PATH=/usr/bin:/bin"] });
    image(folder, "chokidar", config, &[packages("CORACLE_TEST_CHOKIDAR", &[]), layer])
}

/// `debian:latest`: Debian's essential packages and apt, with a shell as its command.
pub fn minbase(folder: &Path) -> PathBuf {
    let tree = tool("CORACLE_TEST_MINBASE");
    let master = |name: &str| {
        let path = tree.join("usr/share/base-passwd").join(name);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let (passwd, group) = (master("passwd.master"), master("group.master"));
    let files = [File("etc/passwd", 0o644, &passwd), File("etc/group", 0o644, &group)];
    let layers = [packages("CORACLE_TEST_MINBASE", &[]), top(&[], &files)];
    image(folder, "debian", json!({ "Cmd": ["bash"] }), &layers)
}
