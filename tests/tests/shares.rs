//! The host's folders in containers of the guest: whose files they are on either side, that they behave as files, and
//! that whoever waits in a container for changes hears of the host's.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tests::{images, machine::Machine};

/// One machine for all: a boot and its images are most of what each of these takes.
#[test]
fn folders_of_the_host_in_a_machine() {
    let machine = Machine::start("share");
    let folder = tempfile::tempdir().unwrap();
    let all = [images::busybox, images::watcher, images::chokidar, images::redis, images::postgres];
    all.iter().for_each(|image| machine.load(&image(folder.path())));
    tests::in_order!(
        &machine;
        the_users_folder_is_there_with_owners_on_both_sides,
        a_share_does_what_a_disk_does,
        a_watcher_in_a_container_hears_what_the_host_changes,
        nodes_watcher_hears_what_the_host_changes,
        databases_keep_their_files_in_a_folder_of_the_users,
        // The last: the share is gone then.
        a_share_that_dies_is_said_in_words_and_a_restart_brings_it_back,
    );
}

/// A folder of the user's that is shared with the machine.
fn shared(machine: &Machine, name: &str) -> PathBuf {
    let path = machine.path(name);
    fs::create_dir(&path).unwrap();
    let user = machine.user();
    std::os::unix::fs::chown(&path, Some(user), Some(user)).unwrap();
    path
}

fn the_users_folder_is_there_with_owners_on_both_sides(machine: &Machine) {
    let src = shared(machine, "src");
    let user = machine.user();
    fs::write(src.join("from-host"), "host\n").unwrap();
    std::os::unix::fs::chown(src.join("from-host"), Some(user), Some(user)).unwrap();
    let bind = format!("{}:/src", src.display());
    let run = |options: &[&str], script: &str| {
        machine.docker(
            &[&["run", "--rm", "-v", &bind, "-w", "/src"], options, &["busybox", "sh", "-c", script]]
                .concat(),
        )
    };
    let on_host = |name: &str| {
        let meta = fs::symlink_metadata(src.join(name)).unwrap();
        (meta.uid(), meta.permissions().mode() & 0o7777)
    };

    // What the host made belongs to the first ordinary user, and root can do everything.
    assert_eq!(run(&[], "stat -c %u:%g:%a from-host; cat from-host").ok(), "1000:1000:644\nhost");
    // What containers make belongs to whoever made it, in there; on the host all is the user's.
    run(&[], "umask 022; echo root > by-root; mkdir dir; chmod 700 dir").ok();
    run(&["-u", "70:70"], "echo x > /src/denied").fails(1, "Permission denied");
    assert_eq!(run(&[], "stat -c %u:%g:%a by-root dir").ok(), "0:0:644\n0:0:700");
    assert_eq!(on_host("by-root"), (user, 0o644));
    assert_eq!(fs::read_to_string(src.join("by-root")).unwrap(), "root\n");
    // `chown` and `chmod` stick, with set-id bits, and mean nothing on the host.
    run(&[], "mkdir data; chown 70:71 data by-root; chmod 4750 by-root; chmod 000 from-host").ok();
    assert_eq!(
        run(&[], "stat -c %u:%g:%a data by-root from-host").ok(),
        "70:71:755\n70:71:4750\n1000:1000:0"
    );
    assert_eq!(on_host("by-root"), (user, 0o750));
    assert_eq!(on_host("from-host"), (user, 0o600), "the user can always read it");
    assert_eq!(run(&["-u", "70:71"], "echo mine > data/f; stat -c %u:%g:%a data/f").ok(), "70:71:644");
    run(&["-u", "72"], "touch data/g").fails(1, "Permission denied");
    // The record itself is not seen, and not to be forged.
    assert_eq!(
        run(&[], "setfattr -n user.coracle.owner -v 0:0:777 data 2>&1 || echo no; stat -c %u data")
            .out
            .lines()
            .last(),
        Some("70")
    );
    // A folder that hands its group down does so.
    assert_eq!(
        run(&[], "mkdir sg; chgrp 80 sg; chmod 2775 sg; touch sg/f; mkdir sg/d; stat -c %g:%a sg/f sg/d")
            .ok(),
        "80:644\n80:2755"
    );

    // Files behave as files.
    symlink("by-root", src.join("link-by-host")).unwrap();
    let script = "ln -s dir link; ln by-root hard; mv data moved; readlink link; readlink link-by-host; stat -c %h hard; \
        echo 0123456789 > seek; dd if=/dev/zero of=seek bs=1 seek=4 count=2 conv=notrunc 2>/dev/null; tr '\\0' - < seek; \
        exec 3> gone; rm gone; echo still >&3; mkfifo pipe; rm pipe; truncate -s 3 seek; stat -c %s seek";
    assert_eq!(run(&[], script).ok(), "dir\nby-root\n2\n0123--6789\n3");
    assert_eq!(fs::read_link(src.join("link")).unwrap().to_str(), Some("dir"));
    assert_eq!(fs::metadata(src.join("hard")).unwrap().nlink(), 2);
    assert!(src.join("moved/f").exists() && !src.join("data").exists());
    // Changes on the host are seen, also in a container that looks on.
    machine.docker(&["run", "-d", "--name", "watch", "-v", &bind, "busybox", "sleep", "1000"]).ok();
    assert_eq!(machine.docker(&["exec", "watch", "cat", "/src/moved/f"]).ok(), "mine");
    fs::write(src.join("moved/f"), "changed").unwrap();
    tests::eventually("the change is seen in the container", || {
        machine.docker(&["exec", "watch", "cat", "/src/moved/f"]).ok() == "changed"
    });
    machine.docker(&["rm", "-f", "watch"]).ok();

    // `-v` makes a folder that is missing, `--mount` does not, and what is not shared is refused in words.
    let new = format!("{}:/x", src.join("made/by/docker").display());
    machine.docker(&["run", "--rm", "-v", &new, "busybox", "touch", "/x/y"]).ok();
    assert!(src.join("made/by/docker/y").exists());
    let missing = format!("type=bind,source={},target=/x", src.join("nope").display());
    machine
        .docker(&["run", "--rm", "--mount", &missing, "busybox", "true"])
        .fails(125, "bind source path does not exist");
    machine
        .docker(&["run", "--rm", "-v", "/opt/x:/x", "busybox", "true"])
        .fails(125, "/opt/x is not shared with the machine");
    // The guest's own are still there: tools ask for them.
    machine
        .docker(&["run", "--rm", "-v", "/sys/fs/cgroup:/cg:ro", "busybox", "test", "-e", "/cg/cgroup.procs"])
        .ok();
    let inspected = machine.docker(&["create", "-v", &bind, "--name", "seen", "busybox"]);
    inspected.ok();
    let source = machine.docker(&["inspect", "-f", "{{(index .Mounts 0).Source}}", "seen"]).ok();
    assert_eq!(source, src.display().to_string(), "the host's path is shown");
    machine.docker(&["rm", "seen"]).ok();
}

fn a_share_that_dies_is_said_in_words_and_a_restart_brings_it_back(machine: &Machine) {
    let src = shared(machine, "dies");
    fs::write(src.join("file"), "from the host").unwrap();
    let bind = format!("{}:/src", src.display());
    machine.docker(&["run", "-d", "--name", "uses", "-v", &bind, "busybox", "sleep", "1000"]).ok();
    assert_eq!(machine.docker(&["exec", "uses", "cat", "/src/file"]).ok(), "from the host");

    tests::engine::signal(machine.share(), "KILL");
    tests::eventually("the death is said", || machine.status()["error"]["code"] == "share_lost");
    let message = machine.status()["error"]["message"].to_string();
    assert!(message.contains("coracle restart"), "{message}");
    assert_eq!(machine.status()["state"], "running", "what needs no share goes on");
    let is_full = std::env::var_os("CORACLE_TEST_FULL").is_some();
    if is_full {
        // Somebody in there waits for an answer that never comes.
        machine.docker(&["exec", "-d", "uses", "cat", "/src/file"]).ok();
    }
    tests::eventually("who comes now is told", || {
        let run = machine.docker(&["run", "--rm", "-v", &bind, "busybox", "true"]);
        run.code == Some(125) && run.err.contains("no longer shared") && run.err.contains("coracle restart")
    });
    assert_eq!(machine.docker(&["run", "--rm", "busybox", "echo", "hi"]).ok(), "hi");
    assert_eq!(machine.docker(&["ps", "--format", "{{.Names}}"]).ok(), "uses");
    if !is_full {
        return;
    }
    machine.docker(&["volume", "create", "kept"]).ok();
    machine.coracle(&["restart"]).ok();
    assert!(machine.status()["error"].is_null());
    assert_eq!(machine.docker(&["volume", "ls", "-q"]).ok(), "kept", "what was acknowledged is on the disk");
    let run = machine.docker(&["run", "--rm", "-v", &bind, "busybox", "cat", "/src/file"]);
    assert_eq!(run.ok(), "from the host");
}

/// Checks whose findings may differ, with the reason.
const OTHERWISE: [(&str, &str); 2] = [
    ("the owner of a symbolic link", "a link takes no attribute of a user's that could hold it"),
    ("a temporary file without a name", "virtiofsd has none: programs make one with a name then"),
];

fn a_share_does_what_a_disk_does(machine: &Machine) {
    let src = shared(machine, "alike");
    let checks = include_bytes!("../file_checks.py");
    let findings = |mount: &str| {
        let args = ["run", "--rm", "-i", "-v", mount, "watcher", "python3", "-", "/checked"];
        let said = machine.docker_with_input(&args, checks).ok();
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let disk = findings("disk:/checked");
    let share = findings(&format!("{}:/checked", src.display()));
    assert!(disk.len() > 20 && disk.len() == share.len(), "{disk:#?} {share:#?}");
    let differ: Vec<_> = disk
        .iter()
        .zip(&share)
        .filter(|(disk, share)| {
            disk != share && !OTHERWISE.iter().any(|(check, _)| disk.starts_with(&format!("{check}:")))
        })
        .collect();
    assert!(differ.is_empty(), "on a disk, on a share: {differ:#?}");
    machine.docker(&["volume", "rm", "disk"]).ok();
}

fn a_watcher_in_a_container_hears_what_the_host_changes(machine: &Machine) {
    let src = shared(machine, "hear");
    let user = machine.user();
    let own = |path: &std::path::Path| std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
    fs::create_dir_all(src.join("old")).unwrap();
    fs::write(src.join("old/file"), "1").unwrap();
    for name in ["", "old", "old/file"] {
        own(&src.join(name));
    }
    let bind = format!("{}:/src", src.display());
    machine.docker(&["run", "-d", "--name", "watcher", "-v", &bind, "watcher"]).ok();
    let mut watcher = Watcher::listen(machine.command(&["logs", "-f", "watcher"]));
    watcher.hears("ready");

    fs::write(src.join("old/file"), "2").unwrap();
    watcher.hears("modified /src/old/file");
    fs::write(src.join("new"), "x").unwrap();
    own(&src.join("new"));
    watcher.hears("created /src/new");
    watcher.hears("closed /src/new");
    fs::create_dir(src.join("sub")).unwrap();
    own(&src.join("sub"));
    watcher.hears("created /src/sub");
    fs::write(src.join("sub/deep"), "x").unwrap();
    watcher.hears("created /src/sub/deep");
    fs::rename(src.join("new"), src.join("renamed")).unwrap();
    watcher.hears("deleted /src/new");
    watcher.hears("created /src/renamed");
    symlink("renamed", src.join("link")).unwrap();
    watcher.hears("created /src/link");
    // As editors save: a new file takes the place of the old one.
    fs::write(src.join("renamed.tmp"), "saved").unwrap();
    fs::rename(src.join("renamed.tmp"), src.join("renamed")).unwrap();
    watcher.hears("created /src/renamed");
    let read = |path: &str| {
        let script = format!("print(open({path:?}).read())");
        machine.docker(&["exec", "watcher", "python3", "-c", &script]).ok()
    };
    assert_eq!(read("/src/renamed"), "saved");
    fs::remove_file(src.join("sub/deep")).unwrap();
    watcher.hears("deleted /src/sub/deep");
    fs::remove_dir(src.join("sub")).unwrap();
    watcher.hears("deleted /src/sub");

    // Nothing was carried out twice, and what containers do themselves is no news of the host's.
    let mut left: Vec<String> =
        fs::read_dir(&src).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["link", "old", "renamed"]);
    let script = "echo 1 > /src/inside; mv /src/inside /src/inside2; rm /src/inside2";
    machine.docker(&["run", "--rm", "-v", &bind, "busybox", "sh", "-c", script]).ok();
    // Not the user's to write to (it is root's), and heard of like any other.
    fs::write(src.join("after"), "").unwrap();
    watcher.hears("created /src/after");
    watcher.hears("closed /src/after");
    let seen = |line: &str| watcher.heard.iter().filter(|l| *l == line).count();
    assert_eq!((seen("created /src/inside"), seen("deleted /src/inside2")), (1, 1));

    // A burst neither stops the news nor loses what came last.
    for n in 0..10_000 {
        fs::write(src.join(format!("old/burst{}", n % 200)), n.to_string()).unwrap();
    }
    fs::write(src.join("last"), "end").unwrap();
    // What was made while the kernel dropped events may be told as written.
    watcher.hears("closed /src/last");
    assert_eq!(read("/src/old/burst199"), "9999");
    machine.docker(&["rm", "-f", "watcher"]).ok();
}

fn nodes_watcher_hears_what_the_host_changes(machine: &Machine) {
    let src = shared(machine, "node");
    let user = machine.user();
    let own = |name: &str| std::os::unix::fs::chown(src.join(name), Some(user), Some(user)).unwrap();
    fs::create_dir_all(src.join("pages")).unwrap();
    fs::write(src.join("pages/index.js"), "1").unwrap();
    ["", "pages", "pages/index.js"].into_iter().for_each(own);
    let bind = format!("{}:/src", src.display());
    machine.docker(&["run", "-d", "--name", "node", "-v", &bind, "chokidar"]).ok();
    let mut watcher = Watcher::listen(machine.command(&["logs", "-f", "node"]));
    watcher.hears("ready");

    fs::write(src.join("pages/index.js"), "22").unwrap();
    watcher.hears("change /src/pages/index.js");
    fs::write(src.join("new.js"), "x").unwrap();
    watcher.hears("add /src/new.js");
    fs::rename(src.join("new.js"), src.join("renamed.js")).unwrap();
    watcher.hears_all(&["unlink /src/new.js", "add /src/renamed.js"]);
    // As editors save: a new file takes the place of the old one.
    fs::write(src.join("renamed.js.tmp"), "saved").unwrap();
    fs::rename(src.join("renamed.js.tmp"), src.join("renamed.js")).unwrap();
    watcher.hears("change /src/renamed.js");
    fs::create_dir(src.join("parts")).unwrap();
    watcher.hears("addDir /src/parts");
    fs::write(src.join("parts/one.js"), "x").unwrap();
    watcher.hears("add /src/parts/one.js");
    fs::remove_file(src.join("parts/one.js")).unwrap();
    fs::remove_dir(src.join("parts")).unwrap();
    watcher.hears_all(&["unlink /src/parts/one.js", "unlinkDir /src/parts"]);

    // A branch is changed: many files at once. The last state is what is heard of and read.
    for n in 0..2_000 {
        fs::write(src.join(format!("pages/part{}.js", n % 100)), n.to_string()).unwrap();
    }
    fs::write(src.join("last.js"), "end").unwrap();
    watcher.hears("add /src/last.js");
    let script = "console.log(require('fs').readFileSync('/src/pages/part99.js', 'utf8'))";
    assert_eq!(machine.docker(&["exec", "node", "node", "-e", script]).ok(), "1999");
    machine.docker(&["rm", "-f", "node"]).ok();
}

fn databases_keep_their_files_in_a_folder_of_the_users(machine: &Machine) {
    let user = machine.user();
    let place = |name: &str, at: &str| format!("{}:{at}", shared(machine, name).display());
    let pgdata = "/var/lib/postgresql/data";
    let (redis, postgres) = (place("redis", "/data"), place("pg", pgdata));
    // What the makers' images do first, as root: the folder becomes the server's own, and nobody else's.
    let prepare = |bind: &str, image: &str, user: &str, at: &str| {
        let script = format!("chown {user}:{user} {at} && chmod 700 {at} && stat -c %u:%g:%a {at}");
        let run = ["run", "--rm", "-u", "0", "-v", bind, "--entrypoint", "sh", image, "-c", &script];
        assert_eq!(machine.docker(&run).ok(), "999:999:700");
    };
    // Debian's redis package has no coreutils: the other image's do.
    prepare(&redis, "postgres", "999", "/data");
    prepare(&postgres, "postgres", "postgres", pgdata);

    let start = |name: &str, bind: &str| {
        machine.docker(&["run", "-d", "--name", name, "-v", bind, name]).ok();
    };
    let redis_says = |words: &[&str]| {
        let said = machine.docker(&[&["exec", "redis", "redis-cli"], words].concat());
        said.out.trim().to_owned()
    };
    let sql = |text: &str| {
        let said = machine.docker(&["exec", "postgres", "psql", "-U", "postgres", "-Atc", text]);
        said.out.trim().to_owned()
    };
    start("redis", &redis);
    tests::eventually("redis answers", || redis_says(&["ping"]) == "PONG");
    assert_eq!(redis_says(&["set", "key", "value"]), "OK");
    start("postgres", &postgres);
    // Making a database takes long where the processor is translated.
    tests::within(Duration::from_secs(300), "postgres answers", || sql("select 1") == "1");
    assert_eq!(sql("create table kept (n int)"), "CREATE TABLE");
    assert_eq!(sql("insert into kept select generate_series(1, 1000)"), "INSERT 0 1000");

    machine.docker(&["restart", "redis", "postgres"]).ok();
    tests::eventually("redis has its data again", || redis_says(&["get", "key"]) == "value");
    tests::eventually("postgres has its data again", || sql("select count(*) from kept") == "1000");
    // Others in there are kept out; on the host all of it is the user's, who can read and remove it.
    let peek = ["run", "--rm", "-u", "1000", "-v", &postgres, "--entrypoint", "ls", "postgres", pgdata];
    machine.docker(&peek).fails(2, "Permission denied");
    let mut walk = vec![machine.path("pg"), machine.path("redis")];
    let mut files = 0;
    while let Some(path) = walk.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!(meta.uid(), user, "{}", path.display());
        files += 1;
        if meta.is_dir() {
            walk.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
    assert!(files > 500, "{files}: a database has more");

    // Killed, not stopped: what was committed is there, by its log.
    assert_eq!(sql("insert into kept values (1001)"), "INSERT 0 1");
    machine.docker(&["rm", "-f", "redis", "postgres"]).ok();
    start("redis", &redis);
    start("postgres", &postgres);
    tests::eventually("redis has its data in a new container", || redis_says(&["get", "key"]) == "value");
    tests::eventually("and postgres", || sql("select count(*) from kept") == "1001");
    machine.docker(&["rm", "-f", "redis", "postgres"]).ok();
    let mut rm = machine.run_as_user(std::path::Path::new("rm"));
    let removed = rm.arg("-rf").arg(machine.path("pg")).arg(machine.path("redis")).status().unwrap();
    assert!(removed.success() && !machine.path("pg").exists());
}

/// Longest until news arrive. It says when something is wrong: how long they take is the benchmark's to tell.
const NEWS: Duration = Duration::from_secs(60);

/// What the watcher in the container prints.
struct Watcher {
    logs: Child,
    lines: Receiver<String>,
    heard: Vec<String>,
    /// Lines before this were waited for already.
    at: usize,
}

impl Watcher {
    fn listen(mut logs: Command) -> Self {
        let mut logs = logs.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let (send, lines) = channel();
        let out = BufReader::new(logs.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { logs, lines, heard: Vec::new(), at: 0 }
    }

    /// Waits for a line after those waited for before.
    fn hears(&mut self, line: &str) {
        loop {
            if let Some(found) = self.heard[self.at..].iter().position(|l| l == line) {
                self.at += found + 1;
                return;
            }
            match self.lines.recv_timeout(NEWS) {
                Ok(next) => self.heard.push(next),
                Err(e) => {
                    let last: Vec<&String> = self.heard[self.at..].iter().rev().take(20).collect();
                    panic!("{line:?} is not heard ({e}); the last, newest first: {last:?}")
                }
            }
        }
    }
}

impl Watcher {
    /// Waits for lines after those waited for before, in whatever order.
    fn hears_all(&mut self, lines: &[&str]) {
        let from = self.at;
        let mut to = from;
        for line in lines {
            self.at = from;
            self.hears(line);
            to = to.max(self.at);
        }
        self.at = to;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.logs.kill();
        let _ = self.logs.wait();
    }
}
