//! Ways out of a container that were found in other runtimes, tried on ours. Each test is named after what was found, and
//! asserts what the attacker wanted: that it did not happen.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::{Engine, Outcome, tool};

/// How long an operation may take that a container tries to hold up.
const HELD_UP: Duration = Duration::from_secs(20);
/// Descriptors that are tried as working folders.
const DESCRIPTORS: std::ops::Range<u32> = 3..24;

/// A file of the host's that no container may see, in a folder that no container is given.
fn secret(engine: &Engine) -> PathBuf {
    let path = engine.path("secret-of-the-host");
    std::fs::write(&path, "SECRET").expect("write");
    path
}

fn contents(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("read")
}

/// A setting of the host's that no namespace hides; words are no value for it, so that a test that fails does no harm.
const SETTING: &str = "/proc/sys/kernel/printk_ratelimit_burst";

/// CVE-2019-5736: a container makes an exec run the runtime's own program, catches it in /proc/PID/exe and writes into it.
#[test]
fn the_runtimes_program_cannot_be_overwritten() {
    let engine = Engine::with_busybox();
    let programs = ["coracle-engine", "coracle-shim"].map(|name| tool("CORACLE_TEST_BIN").join(name));
    let before: Vec<Vec<u8>> = programs.iter().map(|p| contents(p)).collect();
    // Whatever runs that is not the image's own is held open and written to.
    let hunter = r#"
        printf '#!/proc/self/exe\n' > /bin/evil; chmod +x /bin/evil; echo ready
        while :; do
            for p in /proc/[0-9]*; do
                exe=$(readlink $p/exe) || continue
                case $exe in
                /bin/busybox*) ;;
                *) echo "$exe" >> /caught
                   ( exec 9< $p/exe && echo pwned > /proc/self/fd/9 && echo "$exe" >> /written ) 2>/dev/null
                   ( echo pwned > $p/exe && echo "$exe" >> /written ) 2>/dev/null;;
                esac
            done
        done 2>/dev/null"#;
    engine.docker(&["run", "-d", "--name", "hunter", "busybox", "sh", "-c", hunter]).ok();
    tests::eventually("the hunter is there", || engine.docker(&["logs", "hunter"]).out.contains("ready"));
    for _ in 0..20 {
        // The interpreter is the runtime's program itself: it starts, in the container, and ends.
        engine.within(HELD_UP, &["exec", "hunter", "/bin/evil"]);
        engine.docker(&["exec", "hunter", "true"]).ok();
    }
    engine.docker(&["exec", "hunter", "test", "!", "-e", "/written"]).ok();
    // The container's own program may be it, too.
    engine.docker(&["cp", "hunter:/bin/evil", engine.path("evil").to_str().expect("plain")]).ok();
    engine.docker(&["commit", "hunter", "evil"]).ok();
    for _ in 0..3 {
        engine.docker(&["run", "--rm", "evil", "/bin/evil"]);
    }
    let after: Vec<Vec<u8>> = programs.iter().map(|p| contents(p)).collect();
    assert!(before == after, "a program was changed");
    assert_eq!(engine.docker(&["run", "--rm", "busybox", "echo", "works"]).ok(), "works");
}

/// CVE-2024-21626: a working folder in /proc/self/fd leads to a folder of the host that the runtime had open.
#[test]
fn no_working_folder_leads_outside() {
    let engine = Engine::with_busybox();
    let secret = secret(&engine);
    let up = "../".repeat(20);
    let look = format!("cat {up}{} 2>/dev/null; pwd; ls", secret.display());
    let refused = |what: &str, done: Outcome| {
        assert!(!done.out.contains("SECRET"), "{what}: {}", done.out);
        // Where it runs at all, it is inside: the root has the image's folders.
        assert!(done.code != Some(0) || done.out.starts_with('/'), "{what}: {}", done.out);
    };
    engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "box",
            "busybox",
            "sh",
            "-c",
            "ln -s /proc/self/fd/7 /seven; sleep 1000",
        ])
        .ok();
    for n in DESCRIPTORS {
        for folder in [format!("/proc/self/fd/{n}"), format!("/proc/self/fd/{n}/..")] {
            refused(&folder, engine.docker(&["run", "--rm", "-w", &folder, "busybox", "sh", "-c", &look]));
            refused(&folder, engine.docker(&["exec", "-w", &folder, "box", "sh", "-c", &look]));
        }
    }
    refused("a link to it", engine.docker(&["exec", "-w", "/seven", "box", "sh", "-c", &look]));
    // The image may say it.
    engine.docker(&["commit", "--change", "WORKDIR /proc/self/fd/8", "box", "leading"]).ok();
    refused("the image's", engine.docker(&["run", "--rm", "leading", "sh", "-c", &look]));
    // And nothing is open that could be led to.
    for mut args in [vec!["run", "--rm", "busybox"], vec!["exec", "box"]] {
        args.extend(["sh", "-c", "for f in /proc/self/fd/*; do readlink $f; done; true"]);
        let open = engine.docker(&args).ok();
        let leaked: Vec<&str> = open
            .lines()
            .filter(|l| !["pipe:", "/dev/null", "/proc/", "socket:"].iter().any(|known| l.starts_with(known)))
            .collect();
        assert!(leaked.is_empty(), "open in a container: {leaked:?}");
    }
}

/// CVE-2025-31133: /dev/null, which masks files, is replaced by a link to a file of procfs that is then bound writable.
#[test]
fn masks_are_the_null_device() {
    let engine = Engine::with_busybox();
    let before = contents(Path::new(SETTING));
    // A volume at /dev in which one container turns `null` about while others start.
    let turn = format!("echo ready; while :; do ln -sf {SETTING} /d/null; rm -f /d/null; done");
    engine.docker(&["run", "-d", "--name", "turner", "-v", "dev:/d", "busybox", "sh", "-c", &turn]).ok();
    tests::eventually("the links turn", || engine.docker(&["logs", "turner"]).out.contains("ready"));
    let look = "head -c1 /proc/kcore | wc -c; grep ' /proc/' /proc/self/mountinfo | grep printk_ratelimit";
    for _ in 0..10 {
        let done = engine.docker(&["run", "--rm", "-v", "dev:/dev", "busybox", "sh", "-c", look]);
        // It may be refused; if it runs, the masks hold and nothing of /proc was bound elsewhere.
        assert!(done.code != Some(0) || done.out.lines().next() == Some("0"), "{}", done.out);
        assert!(!done.out.contains("printk_ratelimit"), "{}", done.out);
    }
    engine.docker(&["rm", "-f", "turner"]).ok();
    // The same without a race.
    engine.docker(&["run", "--rm", "-v", "dev:/d", "busybox", "ln", "-sf", SETTING, "/d/null"]).ok();
    let done = engine.docker(&[
        "run",
        "--rm",
        "-v",
        "dev:/dev",
        "busybox",
        "sh",
        "-c",
        "echo pwned > /dev/null; echo pwned > /proc/timer_list",
    ]);
    assert!(!done.out.contains("pwned"));
    assert_eq!(contents(Path::new(SETTING)), before, "the host's setting was written");
}

/// CVE-2025-52565: /dev/console is a link by which the terminal is bound over a file of procfs.
#[test]
fn the_terminal_is_bound_nowhere_else() {
    let engine = Engine::with_busybox();
    engine
        .docker(&[
            "run",
            "--rm",
            "-v",
            "dev:/d",
            "busybox",
            "sh",
            "-c",
            &format!("ln -s {SETTING} /d/console; ln -s {SETTING} /d/pts"),
        ])
        .ok();
    let before = contents(Path::new(SETTING));
    let done =
        engine.docker(&["run", "--rm", "-t", "-v", "dev:/dev", "busybox", "cat", "/proc/self/mountinfo"]);
    let bound = done.out.lines().filter(|l| l.contains("printk_ratelimit"));
    assert_eq!(bound.count(), 0, "{}", done.out);
    assert_eq!(contents(Path::new(SETTING)), before);
}

/// CVE-2025-52881, CVE-2021-30465 and their kin: what the runtime writes to procfs, or mounts, is led elsewhere by links in
/// a volume that two containers share, or by a /proc that is none.
#[test]
fn what_the_runtime_writes_goes_where_it_was_meant() {
    let engine = Engine::with_busybox();
    let secret = secret(&engine);
    // Mounts below a volume's links stay inside.
    let plant = format!(
        "ln -s / /v/up; ln -s {} /v/host; mkdir -p /v/proc",
        secret.parent().expect("a folder").display()
    );
    engine.docker(&["run", "--rm", "-v", "links:/v", "busybox", "sh", "-c", &plant]).ok();
    let host_mounts = contents(Path::new("/proc/self/mountinfo"));
    for place in ["/v/up/etc", "/v/host", "/v/up/proc/self", "/v/proc/../up/sys"] {
        engine.docker(&["run", "--rm", "-v", "links:/v", "-v", &format!("other:{place}"), "busybox", "true"]);
    }
    assert!(contents(Path::new("/proc/self/mountinfo")) == host_mounts, "something was mounted on the host");
    assert_eq!(contents(&secret), b"SECRET");
    // Volumes over procfs are refused.
    for place in ["/proc", "/proc/sys", "/proc/self/attr", "/v/up/proc"] {
        let done = engine.docker(&[
            "run",
            "--rm",
            "-v",
            "links:/v",
            "-v",
            &format!("fake:{place}"),
            "busybox",
            "true",
        ]);
        assert_ne!(done.code, Some(0), "{place} was covered");
    }
    // A setting goes to the container's own namespace, whatever its files say.
    let port = "net.ipv4.ip_unprivileged_port_start";
    let before = contents(Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start"));
    let done = engine.docker(&[
        "run",
        "--rm",
        "--sysctl",
        &format!("{port}=77"),
        "-v",
        "links:/v",
        "busybox",
        "cat",
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    ]);
    assert_eq!(done.ok(), "77");
    assert_eq!(contents(Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start")), before);
}

/// A container that may mount replaces its /proc: an exec neither writes through it nor waits for it.
#[test]
fn an_exec_trusts_no_proc_of_the_containers() {
    let engine = Engine::with_busybox();
    let secret = secret(&engine);
    let fake = format!(
        "umount -l /proc/* 2>/dev/null; mount -t tmpfs none /proc; mkdir -p /proc/self/fd /proc/self/attr /proc/sys /proc/thread-self/attr
         mkfifo /proc/self/oom_score_adj /proc/self/attr/exec /proc/self/setgroups /proc/self/uid_map
         for n in 0 1 2 3 4 5 6 7 8 9; do ln -s {} /proc/self/fd/$n; done
         ln -s self /proc/1; echo ready; exec sleep 1000",
        secret.display()
    );
    engine
        .docker(&["run", "-d", "--name", "faker", "--cap-add", "SYS_ADMIN", "busybox", "sh", "-c", &fake])
        .ok();
    tests::eventually("the fake is there", || engine.docker(&["logs", "faker"]).out.contains("ready"));
    for args in [
        vec!["exec", "faker", "echo", "ran"],
        vec!["exec", "-u", "nobody", "-w", "/tmp", "faker", "echo", "ran"],
        vec!["exec", "--privileged", "faker", "echo", "ran"],
    ] {
        assert_eq!(engine.within(HELD_UP, &args).ok(), "ran", "{args:?}");
    }
    for args in
        [vec!["top", "faker"], vec!["stats", "--no-stream", "faker"], vec!["cp", "faker:/etc/passwd", "-"]]
    {
        engine.within(HELD_UP, &args).ok();
    }
    assert_eq!(contents(&secret), b"SECRET");
}

/// /etc/passwd and /etc/group are the container's: pipes, links out, devices and endless files tell nothing and hold nobody up.
#[test]
fn a_malicious_passwd_tells_nothing() {
    let engine = Engine::with_busybox();
    let secret = engine.path("passwd-of-the-host");
    std::fs::write(&secret, "intruder:x:0:0::/:/bin/sh\n").expect("write");
    let up = format!("{}{}", "../".repeat(20), secret.display());
    engine.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]).ok();
    for plant in [
        "rm /etc/passwd; mkfifo /etc/passwd".to_owned(),
        format!("rm /etc/passwd; ln -s {} /etc/passwd", secret.display()),
        format!("rm /etc/passwd; ln -s {up} /etc/passwd"),
        "rm /etc/passwd; ln -s /dev/zero /etc/passwd".to_owned(),
        "rm /etc/passwd; ln -s /proc/self/fd/0 /etc/passwd".to_owned(),
        "rm /etc/passwd; ln -s passwd /etc/passwd".to_owned(),
        "rm /etc/passwd; mkdir /etc/passwd".to_owned(),
        "rmdir /etc/passwd; yes intruder > /etc/passwd & sleep 1; kill $!".to_owned(),
        "rm /etc/group; mkfifo /etc/group; echo ok:x:1:1::/:/bin/sh > /etc/passwd".to_owned(),
    ] {
        engine.docker(&["exec", "box", "sh", "-c", &plant]).ok();
        for args in
            [["exec", "-u", "intruder", "box", "true"], ["exec", "-u", "intruder:intruder", "box", "true"]]
        {
            let done = engine.within(HELD_UP, &args);
            assert_ne!(done.code, Some(0), "{plant}: the user of another file was believed");
        }
        let done = engine.within(HELD_UP, &["exec", "-u", "12", "box", "grep", "Uid:", "/proc/self/status"]);
        assert!(done.out.starts_with("Uid:\t12\t") || done.code != Some(0), "{plant}: {done:?}");
    }
    assert_eq!(engine.within(HELD_UP, &["exec", "box", "echo", "works"]).ok(), "works");
}
