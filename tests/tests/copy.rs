//! `docker cp`, `diff` and `export`, by the stock CLI; and the races that others' `cp` has lost.

use std::path::Path;
use std::process::Stdio;

use tests::Engine;

/// Names, kinds and owners in an archive that `docker cp ... -` or `export` wrote.
fn listed(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().expect("an archive");
    let mut all: Vec<String> = entries
        .map(|e| {
            let e = e.expect("an entry");
            format!("{}", String::from_utf8_lossy(&e.path_bytes()))
        })
        .collect();
    all.sort();
    all
}

fn cp_out(engine: &Engine, from: &str) -> Vec<u8> {
    let out = engine.command(&["cp", from, "-"]).output().expect("docker");
    assert!(out.status.success(), "cp {from}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A folder with a file, a folder and links.
fn make_source(at: &Path) {
    std::fs::create_dir_all(at.join("sub")).unwrap();
    std::fs::write(at.join("a"), "a\n").unwrap();
    std::fs::write(at.join("sub/b"), "b\n").unwrap();
    std::os::unix::fs::symlink("a", at.join("link")).unwrap();
}

#[test]
fn files_go_in_and_out_of_a_container_that_runs_and_of_one_that_does_not() {
    let engine = Engine::with_busybox();
    let source = engine.path("src");
    make_source(&source);
    let src = source.to_str().unwrap();
    let file = source.join("a");
    let file = file.to_str().unwrap();
    engine.docker(&["create", "--name", "cc", "-v", "/vol", "busybox", "sleep", "1000"]).ok();
    for state in ["stopped", "running"] {
        if state == "running" {
            engine.docker(&["start", "cc"]).ok();
        }
        let place = format!("/tmp/{state}");
        let to = format!("cc:{place}");
        // Into a place that is not there the folder goes under its new name, into one that is under its own.
        engine.docker(&["cp", src, &to]).ok();
        let names =
            |below: &[&str]| -> Vec<String> { below.iter().map(|n| format!("{state}/{n}")).collect() };
        assert_eq!(listed(&cp_out(&engine, &to)), names(&["", "a", "link", "sub/", "sub/b"]), "{state}");
        engine.docker(&["cp", src, &to]).ok();
        assert!(listed(&cp_out(&engine, &to)).contains(&format!("{state}/src/sub/b")));
        // What lies in it, without itself.
        let out = engine.path(&format!("out-{state}"));
        engine.docker(&["cp", &format!("{to}/sub/."), out.to_str().unwrap()]).ok();
        assert_eq!(text(&out.join("b")), "b\n");
        // A link as it is, or what it leads to.
        engine.docker(&["cp", &format!("{to}/link"), &format!("{}/l", out.display())]).ok();
        assert!(out.join("l").is_symlink());
        engine.docker(&["cp", "-L", &format!("{to}/link"), &format!("{}/f", out.display())]).ok();
        assert_eq!(text(&out.join("f")), "a\n");
        // Volumes are seen as in the container.
        engine.docker(&["cp", file, &format!("cc:/vol/{state}")]).ok();
        assert!(listed(&cp_out(&engine, "cc:/vol")).contains(&format!("vol/{state}")));
        // An archive from a pipe, back out through a pipe.
        let archive = cp_out(&engine, &format!("{to}/sub"));
        engine.docker_with_input(&["cp", "-", "cc:/vol"], &archive).ok();
        assert!(listed(&cp_out(&engine, "cc:/vol/sub")).contains(&"sub/b".to_owned()));

        let cp = |from: &str, to: &str| engine.docker(&["cp", from, to]);
        cp("cc:/nope", ".").fails(1, "Could not find the file /nope in container cc");
        cp(file, "cc:/nope/x").fails(1, "Could not find the file /nope in container cc");
        cp(file, "cc:/tmp/nope/").fails(1, "no such directory");
        cp(src, "cc:/etc/passwd").fails(1, "cannot copy directory");
        engine.docker_with_input(&["cp", "-", "cc:/tmp"], b"no archive").fails(1, "EOF");
    }
    let seen = engine.docker(&["exec", "cc", "cat", "/vol/stopped", "/vol/running", "/vol/sub/b"]);
    assert_eq!(seen.ok(), "a\na\nb", "the container sees what was copied");
}

#[test]
fn what_is_read_only_in_the_container_is_so_for_cp() {
    let engine = Engine::with_busybox();
    let file = engine.path("file");
    std::fs::write(&file, "x").unwrap();
    let file = file.to_str().unwrap();
    engine.docker(&["create", "--name", "root", "--read-only", "-v", "vol:/rw", "busybox"]).ok();
    engine.docker(&["cp", file, "root:/tmp/x"]).fails(1, "container rootfs is marked read-only");
    // Also to a client that is still sending when the answer is known.
    let large = engine.path("large");
    std::fs::write(&large, vec![0; 20 << 20]).unwrap();
    engine
        .docker(&["cp", large.to_str().unwrap(), "root:/tmp/x"])
        .fails(1, "container rootfs is marked read-only");
    engine.docker(&["cp", file, "root:/rw/x"]).ok();
    engine.docker(&["create", "--name", "volume", "-v", "vol:/ro:ro", "busybox"]).ok();
    engine.docker(&["cp", file, "volume:/ro/y"]).fails(1, "mounted volume is marked read-only");
    assert_eq!(listed(&cp_out(&engine, "volume:/ro")), ["ro/", "ro/x"]);
}

/// What is mounted below the place that is copied into has its own say.
#[test]
fn a_read_only_volume_below_what_is_copied_into_stays_as_it_is() {
    let engine = Engine::with_busybox();
    let source = engine.path("src");
    std::fs::create_dir_all(source.join("ro")).unwrap();
    std::fs::write(source.join("ro/x"), "x").unwrap();
    let from = format!("{}/.", source.display());
    engine.docker(&["create", "--name", "cc", "-v", "vol:/w/ro:ro", "-v", "vol:/w/rw", "busybox"]).ok();
    let place = engine.path("place");
    std::fs::create_dir(&place).unwrap();
    engine.docker(&["cp", place.to_str().unwrap(), "cc:/w"]).ok();
    engine.docker(&["cp", &from, "cc:/w"]).fails(1, "ead-only file system");
    assert_eq!(listed(&cp_out(&engine, "cc:/w/rw")), ["rw/"]);
}

/// An operation of Coracle's own, for editors: `docker cp` puts another file in a file's place.
#[test]
fn a_file_that_is_written_anew_stays_the_file_it_is() {
    let engine = Engine::with_busybox();
    let file = engine.path("settings");
    std::fs::write(&file, "bound").unwrap();
    let (own, fixed) = (format!("{}:/etc/own", file.display()), format!("{}:/etc/fixed:ro", file.display()));
    let script = "mkdir /w; echo first and long >/w/a; ln /w/a /w/b; chown 70:71 /w/a; chmod 640 /w/a; echo v >/data/v; echo as it was >/small/s
        ln -s a /w/link; mkfifo /w/pipe; exec 3</w/a; echo ready; until [ -e /w/go ]; do usleep 20000; done; cat <&3; echo; sleep 1000";
    engine
        .docker(
            &["run", "-d", "--name", "cc", "--stop-timeout", "0", "-v", "vol:/data", "-v", "vol:/volume:ro"]
                .into_iter()
                .chain([
                    "-v",
                    &own,
                    "-v",
                    &fixed,
                    "--tmpfs",
                    "/small:size=16k",
                    "busybox",
                    "sh",
                    "-c",
                    script,
                ])
                .collect::<Vec<_>>(),
        )
        .ok();
    tests::eventually("its files are there", || engine.docker(&["logs", "cc"]).out.contains("ready"));
    let write = |path: &str, text: &str| {
        engine.request("PUT", &format!("/coracle/v1/containers/cc/file?path={path}"), Some(text))
    };
    let read = |path: &str| {
        let archive = cp_out(&engine, &format!("cc:{path}"));
        let mut archive = tar::Archive::new(&archive[..]);
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        let head = entry.header();
        (text, head.uid().unwrap(), head.gid().unwrap(), head.mode().unwrap() & 0o7777)
    };
    for state in ["running", "stopped"] {
        if state == "stopped" {
            engine.docker(&["exec", "cc", "touch", "/w/go"]).ok();
            let held = || engine.docker(&["logs", "cc"]).out.contains("running");
            tests::eventually("who has it open reads what was written", held);
            engine.docker(&["stop", "cc"]).ok();
        }
        // Shorter than what was there, and longer.
        for text in [state.to_owned(), format!("{state} {}", "x".repeat(100_000)), state.to_owned()] {
            assert_eq!(write("/w/a", &text), (204, String::new()), "{state}");
            assert_eq!(
                read("/w/b"),
                (text, 70, 71, 0o640),
                "{state}: by its other name, with owner and mode"
            );
        }
        assert_eq!(write("/data/v", state).0, 204);
        assert_eq!(read("/volume/v").0, state);
        assert_eq!(write("/etc/own", state).0, 204, "a file that is mounted by itself");
        assert_eq!(text(&file), state);
        let refused = |path: &str, code: u16, words: &str, text: &str| {
            let (status, answer) = write(path, text);
            assert_eq!(status, code, "{state} {path}: {answer}");
            assert!(answer.contains(words), "{state} {path}: {answer}");
        };
        refused("/volume/v", 400, "marked read-only", "no");
        refused("/etc/fixed", 400, "marked read-only", "no");
        refused("/w/none", 404, "Could not find the file /w/none in container cc", "no");
        refused("/none/x", 404, "Could not find the file", "no");
        for path in ["/w", "/w/pipe", "/w/link", "/"] {
            refused(path, 400, "is not a file", "no");
        }
        if state == "running" {
            let before = read("/small/s");
            refused("/small/s", 500, "No space left on device", &"x".repeat(100_000));
            assert_eq!(read("/small/s"), before, "a full disk leaves it as it was");
            assert_eq!(write("/small/s", "less").0, 204, "and takes what it has room for");
            for path in ["/proc/uptime", "/dev/null"] {
                refused(path, 400, "is not a file", "no");
            }
        }
        assert_eq!(text(&file), state);
    }
}

#[test]
fn with_a_the_containers_user_owns_what_is_copied() {
    let engine = Engine::with_busybox();
    let file = engine.path("file");
    std::fs::write(&file, "x").unwrap();
    engine.docker(&["create", "--name", "cc", "-u", "www-data", "busybox"]).ok();
    engine.docker(&["cp", "-a", file.to_str().unwrap(), "cc:/tmp/x"]).ok();
    let archive = cp_out(&engine, "cc:/tmp/x");
    let mut archive = tar::Archive::new(&archive[..]);
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (33, 33));
}

/// CVE-2018-15664: the container exchanges a folder and a link while `docker cp` resolves the path.
#[test]
fn a_container_that_exchanges_links_meanwhile_reaches_nothing_of_the_host() {
    let engine = Engine::with_busybox();
    // On the host and, under the same path, in the container.
    let secret = engine.path("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("file"), "host").unwrap();
    let host = secret.to_str().unwrap();
    let script = format!(
        "mkdir -p {host} /w/real; echo inside > {host}/file; echo inside > /w/real/file; cd /w; ln -s {host} link; echo ready;
         while :; do mv real x; mv link real; mv real link; mv x real; done"
    );
    engine.docker(&["run", "-d", "--name", "cc", "busybox", "sh", "-c", &script]).ok();
    tests::eventually("the exchange goes on", || engine.docker(&["logs", "cc"]).out.contains("ready"));
    let new = engine.path("new");
    std::fs::create_dir(&new).unwrap();
    std::fs::write(new.join("file"), "overwritten").unwrap();
    let new = new.join("file");
    let mut came = 0;
    for _ in 0..60 {
        let out = engine.command(&["cp", "cc:/w/real/file", "-"]).stdin(Stdio::null()).output().unwrap();
        if out.status.success() {
            came += 1;
            assert!(!String::from_utf8_lossy(&out.stdout).contains("host"), "the host's file came out");
        }
        // It fails when the folder is just not there: only where it goes to matters.
        engine.docker(&["cp", new.to_str().unwrap(), "cc:/w/real/file"]);
        assert_eq!(text(&secret.join("file")), "host", "the host's file was overwritten");
    }
    assert!(came > 0, "not one copy succeeded");
}

/// The plain forms of the same: links that lead to the host's files, and up.
#[test]
fn links_of_a_container_count_from_its_own_root() {
    let engine = Engine::with_busybox();
    let host = engine.path("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "host").unwrap();
    let script =
        format!("ln -s {} /out; ln -s ../../../../..{} /up; sleep 1000", host.display(), host.display());
    engine.docker(&["run", "-d", "--name", "cc", "busybox", "sh", "-c", &script]).ok();
    tests::eventually("the links are there", || {
        engine.docker(&["exec", "cc", "readlink", "/up"]).code == Some(0)
    });
    let file = engine.path("file");
    std::fs::write(&file, "overwritten").unwrap();
    for state in ["running", "stopped"] {
        if state == "stopped" {
            engine.docker(&["stop", "-t", "0", "cc"]).ok();
        }
        for link in ["/out", "/up"] {
            assert_ne!(
                engine.docker(&["cp", &format!("cc:{link}/file"), "-"]).code,
                Some(0),
                "{state} {link}"
            );
            engine.docker(&["cp", file.to_str().unwrap(), &format!("cc:{link}/file")]);
            assert_eq!(text(&host.join("file")), "host", "{state} {link}");
        }
    }
}

/// CVE-2019-14271: dockerd's helper loaded the container's libraries while it was inside.
#[test]
fn nothing_of_the_container_is_run_by_cp() {
    let engine = Engine::with_busybox();
    let script = "mkdir -p /lib/x86_64-linux-gnu /lib64; echo junk > /lib/x86_64-linux-gnu/libnss_files.so.2;
        echo junk > /lib/x86_64-linux-gnu/libc.so.6; mkfifo /etc/nsswitch.conf; rm /etc/passwd; mkfifo /etc/passwd; sleep 1000";
    engine.docker(&["run", "-d", "--name", "cc", "-u", "0:0", "busybox", "sh", "-c", script]).ok();
    tests::eventually("the traps are set", || {
        engine.docker(&["exec", "cc", "test", "-p", "/etc/passwd"]).code == Some(0)
    });
    let file = engine.path("file");
    std::fs::write(&file, "x").unwrap();
    engine.docker(&["cp", "-a", file.to_str().unwrap(), "cc:/tmp/x"]).ok();
    assert_eq!(listed(&cp_out(&engine, "cc:/tmp/x")), ["x"]);
}

#[test]
fn a_copy_of_the_root_leaves_the_kernels_files_out() {
    let engine = Engine::with_busybox();
    engine.docker(&["run", "-d", "--name", "cc", "busybox", "sleep", "1000"]).ok();
    let all = listed(&cp_out(&engine, "cc:/"));
    assert!(all.contains(&"/proc/".to_owned()) && all.contains(&"/etc/hosts".to_owned()), "{all:?}");
    let inside =
        |n: &&String| ["/proc/", "/sys/", "/dev/"].iter().any(|k| n.starts_with(k) && n.len() > k.len());
    assert_eq!(all.iter().find(inside), None);
    engine
        .docker(&["cp", "cc:/proc/1/status", "-"])
        .fails(1, "Could not find the file /proc/1/status in container cc");
}

#[test]
fn changes_and_exports_are_the_containers_own() {
    let engine = Engine::with_busybox();
    let script = "echo x > /new; mkdir /tmp/d; echo y > /tmp/d/f; rm /etc/group; echo z >> /etc/passwd; echo v > /vol/in; echo ready; sleep 1000";
    engine.docker(&["run", "-d", "--name", "cc", "-v", "/vol", "busybox", "sh", "-c", script]).ok();
    tests::eventually("it has written", || engine.docker(&["logs", "cc"]).out.contains("ready"));
    let changes = "C /etc\nD /etc/group\nC /etc/passwd\nA /new\nC /tmp\nA /tmp/d\nA /tmp/d/f\nA /vol";
    for state in ["running", "stopped"] {
        if state == "stopped" {
            engine.docker(&["stop", "-t", "0", "cc"]).ok();
        }
        assert_eq!(engine.docker(&["diff", "cc"]).ok(), changes, "{state}");
        let out = engine.command(&["export", "cc"]).output().unwrap();
        assert!(out.status.success());
        let all = listed(&out.stdout);
        for there in ["new", "tmp/d/f", "etc/passwd", "bin/busybox", "vol/"] {
            assert!(all.iter().any(|n| n == there), "{state}: {there} is missing");
        }
        for not_there in ["etc/group", "vol/in", "proc/1/"] {
            assert!(!all.iter().any(|n| n == not_there), "{state}: {not_there}");
        }
    }
    engine.docker(&["create", "--name", "fresh", "busybox"]).ok();
    assert_eq!(engine.docker(&["diff", "fresh"]).ok(), "");
}
