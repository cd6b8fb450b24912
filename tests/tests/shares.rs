//! The host's folders in containers of the guest: whose files they are on either side, and that they behave as files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tests::{images, machine::Machine};

#[test]
fn the_users_folder_is_there_with_owners_on_both_sides() {
    let machine = Machine::start("share");
    let folder = tempfile::tempdir().unwrap();
    machine.load(&images::busybox(folder.path()));
    let src = machine.path("src");
    fs::create_dir(&src).unwrap();
    let user = machine.user();
    std::os::unix::fs::chown(&src, Some(user), Some(user)).unwrap();
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
