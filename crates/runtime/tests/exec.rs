//! Further processes in a running container.

mod common;

use common::*;
use runtime::{AttachWant, Code, Container, ExecSpec};
use tokio::io::AsyncWriteExt as _;

fn exec(args: &[&str]) -> ExecSpec {
    ExecSpec {
        process: process(args),
        tty: false,
        stdin: false,
        stdout: true,
        stderr: true,
        console_size: None,
    }
}

async fn output_of(container: &Container, spec: ExecSpec) -> (u8, String) {
    let tty = spec.tty;
    let exec = container.exec(spec).await.unwrap();
    let attachment = exec.attach(output()).await.unwrap();
    exec.start().await.unwrap();
    let text = read_all(attachment, tty).await;
    (within(exec.wait()).await.unwrap().code, text)
}

#[tokio::test]
async fn it_runs_inside_with_the_containers_limits_on_it() {
    let Some(machine) = machine() else { return };
    let container = started(&machine, machine.bundle(&["sleep", "1000"])).await;
    let script = "hostname; grep -E 'CapEff|NoNewPrivs|^Seccomp:' /proc/self/status; cat /proc/1/comm; ls /proc/self/fd | wc -l; \
        unshare -m true 2>&1 || echo refused; cat /proc/self/cgroup | tail -1; exit 5";
    let (code, text) = output_of(&container, exec(&["sh", "-c", script])).await;
    assert_eq!(code, 5, "{text}");
    assert!(
        text.starts_with("box\nCapEff:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2\nsleep\n4\n"),
        "{text:?}"
    );
    assert!(text.contains("Operation not permitted\nrefused\n0::/\n"), "{text:?}");
    assert!(container.pids().await.contains(&container.pid()));
    container.delete().await.unwrap();
}

#[tokio::test]
async fn its_stdin_its_terminal_and_its_signals() {
    let Some(machine) = machine() else { return };
    let container = started(&machine, machine.bundle(&["sleep", "1000"])).await;

    let mut cat = exec(&["cat"]);
    cat.stdin = true;
    let cat = container.exec(cat).await.unwrap();
    let mut attachment = cat.attach(AttachWant { stdin: true, ..output() }).await.unwrap();
    cat.start().await.unwrap();
    attachment.writer.write_all(b"through").await.unwrap();
    attachment.writer.shutdown().await.unwrap();
    assert_eq!(read_all(attachment, false).await, "through");
    assert_eq!(within(cat.wait()).await.unwrap().code, 0);

    let mut tty = exec(&["sh", "-c", "tty; stty size"]);
    tty.tty = true;
    tty.console_size = Some((30, 100));
    assert_eq!(output_of(&container, tty).await, (0, "/dev/pts/0\r\n30 100\r\n".to_owned()));

    let sleep = container.exec(exec(&["sleep", "1000"])).await.unwrap();
    sleep.start().await.unwrap();
    sleep.kill(15).await.unwrap();
    assert_eq!(within(sleep.wait()).await.unwrap().code, 143);
    container.delete().await.unwrap();
}

#[tokio::test]
async fn what_cannot_run_is_told_and_a_dead_container_takes_none() {
    let Some(machine) = machine() else { return };
    let container = started(&machine, machine.bundle(&["sleep", "1000"])).await;
    let error = container.exec(exec(&["nope"])).await.unwrap_err();
    assert_eq!(
        (error.code(), error.to_string()),
        (Code::NotFound, "exec: \"nope\": executable file not found in $PATH".into())
    );
    container.kill(9).await.unwrap();
    within(container.wait()).await.unwrap();
    assert_eq!(container.exec(exec(&["true"])).await.unwrap_err().code(), Code::NotRunning);
    container.delete().await.unwrap();
}

#[tokio::test]
async fn a_hundred_at_once() {
    let Some(machine) = machine() else { return };
    let container = started(&machine, machine.bundle(&["sleep", "1000"])).await;
    let mut all = tokio::task::JoinSet::new();
    for n in 0..100u8 {
        let container = container.clone();
        all.spawn(async move {
            let code = n.to_string();
            (n, output_of(&container, exec(&["sh", "-c", &format!("echo {code}; exit {code}")])).await)
        });
    }
    while let Some(done) = all.join_next().await {
        let (n, (code, text)) = done.unwrap();
        assert_eq!((code, text), (n, format!("{n}\n")));
    }
    container.delete().await.unwrap();
}
