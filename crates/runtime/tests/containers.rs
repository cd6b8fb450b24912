//! Containers made for real: exits, signals, stdio, isolation.

mod common;

use common::*;
use runtime::{AttachWant, Code};
use tokio::io::AsyncWriteExt as _;

#[tokio::test]
async fn true_exits_with_0_and_false_with_1() {
    let Some(machine) = machine() else { return };
    assert_eq!(machine.run(machine.bundle(&["true"])).await.0.code, 0);
    assert_eq!(machine.run(machine.bundle(&["false"])).await.0.code, 1);
}

#[tokio::test]
async fn a_script_and_its_output() {
    let Some(machine) = machine() else { return };
    let (code, text) = machine.sh("echo out; echo err >&2; exit 7").await;
    assert_eq!(code, 7);
    assert!(text.contains("out\n") && text.contains("err\n"), "{text:?}");
}

#[tokio::test]
async fn what_a_process_sees_is_what_docker_shows() {
    let Some(machine) = machine() else { return };
    let (code, status) = machine
        .sh("echo $$; hostname; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; echo $HOME; pwd")
        .await;
    assert_eq!(
        status,
        "1\nbox\nCapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
         CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n/root\n/\n"
    );
    assert_eq!(code, 0);
    let (_, devices) = machine.sh("ls /dev; ls /proc/self/fd | wc -l; readlink /proc/self/fd/0").await;
    assert_eq!(
        devices,
        "core\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n4\n/dev/null\n"
            .replace("core\n", if std::path::Path::new("/proc/kcore").exists() { "core\n" } else { "" })
    );
    let (_, mounts) = machine.sh("cat /proc/mounts").await;
    for wanted in [
        "overlay / overlay rw,relatime",
        "proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0",
        "tmpfs /dev tmpfs rw,nosuid,size=65536k,mode=755 0 0",
        "devpts /dev/pts devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666 0 0",
        "sysfs /sys sysfs ro,nosuid,nodev,noexec,relatime 0 0",
        "cgroup /sys/fs/cgroup cgroup2 ro,nosuid,nodev,noexec,relatime",
        "mqueue /dev/mqueue mqueue rw,nosuid,nodev,noexec,relatime 0 0",
        "shm /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k 0 0",
        "proc /proc/sys proc ro,nosuid,nodev,noexec,relatime 0 0",
    ] {
        assert!(mounts.lines().any(|l| l.starts_with(wanted)), "{wanted:?} is not in\n{mounts}");
    }
    assert!(!mounts.contains("/dev/vda") && !mounts.contains("ext4"), "the host shows through:\n{mounts}");
}

#[tokio::test]
async fn a_signal_ends_it_with_128_and_the_signal() {
    let Some(machine) = machine() else { return };
    let container = started(&machine, machine.bundle(&["sleep", "1000"])).await;
    container.kill(9).await.unwrap();
    assert_eq!(within(container.wait()).await.unwrap().code, 137);
    assert_eq!(container.kill(9).await.unwrap_err().code(), Code::NotRunning);
    container.delete().await.unwrap();
}

#[tokio::test]
async fn commands_that_cannot_run_are_told_in_runcs_words() {
    let Some(machine) = machine() else { return };
    for (command, code, words) in [
        ("nope", Code::NotFound, "exec: \"nope\": executable file not found in $PATH"),
        ("/x", Code::NotFound, "exec: \"/x\": stat /x: no such file or directory"),
        ("/etc/passwd", Code::NotExecutable, "exec: \"/etc/passwd\": permission denied"),
        ("/etc", Code::NotExecutable, "exec: \"/etc\": is a directory: permission denied"),
    ] {
        let error = machine.runtime.create(machine.bundle(&[command])).await.unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (code, words));
    }
}

#[tokio::test]
async fn stdin_reaches_it_and_its_end_too() {
    let Some(machine) = machine() else { return };
    let mut bundle = machine.bundle(&["cat"]);
    bundle.stdio.open_stdin = true;
    bundle.stdio.stdin_once = true;
    let container = machine.runtime.create(bundle).await.unwrap();
    let want = AttachWant { stdin: true, stdout: true, stderr: true, detach_keys: None };
    let mut attachment = container.attach(want).await.unwrap();
    attachment.writer.write_all(b"hello\n").await.unwrap();
    container.start().await.unwrap();
    attachment.writer.shutdown().await.unwrap();
    assert_eq!(read_all(attachment, false).await, "hello\n");
    assert_eq!(within(container.wait()).await.unwrap().code, 0);
    container.delete().await.unwrap();
}

#[tokio::test]
async fn a_terminal_is_one() {
    let Some(machine) = machine() else { return };
    let mut bundle = machine.bundle(&[
        "sh",
        "-c",
        "tty; stty size; ls -l /dev/console; echo done; read x; stty size; echo got $x",
    ]);
    bundle.stdio.tty = true;
    bundle.stdio.open_stdin = true;
    bundle.stdio.console_size = Some((24, 80));
    let container = machine.runtime.create(bundle).await.unwrap();
    let want = AttachWant { stdin: true, stdout: true, stderr: true, detach_keys: Some(vec![16, 17]) };
    let mut attachment = container.attach(want).await.unwrap();
    container.start().await.unwrap();
    let text = read_until(&mut attachment, "done").await;
    assert!(text.contains("/dev/pts/0\r\n24 80\r\n"), "{text:?}");
    container.resize(40, 132).await.unwrap();
    attachment.writer.write_all(b"word\n").await.unwrap();
    let text = read_all(attachment, true).await;
    assert!(text.contains("40 132\r\n") && text.contains("got word"), "{text:?}");
    container.delete().await.unwrap();
}

#[tokio::test]
async fn what_the_kernel_cannot_execute_starts_and_exits_with_255_as_in_docker() {
    let Some(machine) = machine() else { return };
    let image = machine.dir.path().join("image");
    for (name, text, words) in [
        ("bad", "\x7fELFxx", "exec /bin/bad: exec format error\n"),
        ("lost", "#!/no/such\n", "exec /bin/lost: no such file or directory\n"),
    ] {
        std::fs::write(image.join("bin").join(name), text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(image.join("bin").join(name), mode).unwrap();
        let (exit, said) = machine.run(machine.bundle(&[name])).await;
        assert_eq!((exit.code, said.as_str()), (255, words));
    }
}
