//! Life of containers beside each other and over time: limits, pausing, parallel starts, logs, clients.

mod common;

use common::*;
use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType as Ns};
use runtime::{AttachWant, LogConfig, logs};
use std::os::unix::fs::MetadataExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn fifty_start_side_by_side_and_leave_nothing() {
    let Some(machine) = machine() else { return };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let mut all = tokio::task::JoinSet::new();
    for n in 0..50u8 {
        let (runtime, bundle) =
            (machine.runtime.clone(), machine.bundle(&["sh", "-c", &format!("exit {n}")]));
        all.spawn(async move {
            let container = runtime.create(bundle).await.unwrap();
            container.start().await.unwrap();
            let code = container.wait().await.unwrap().code;
            container.delete().await.unwrap();
            (n, code)
        });
    }
    while let Some(done) = within(all.join_next()).await {
        let (n, code) = done.unwrap();
        assert_eq!(n, code);
    }
    assert_eq!(std::fs::read_dir(machine.dir.path().join("run")).unwrap().count(), 0);
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(), mounts);
}

#[tokio::test]
async fn pausing_stops_it_and_resuming_lets_it_go_on() {
    let Some(machine) = machine() else { return };
    let mut bundle = machine.bundle(&["cat"]);
    bundle.stdio.open_stdin = true;
    let container = machine.runtime.create(bundle).await.unwrap();
    let mut attachment = container.attach(AttachWant { stdin: true, ..output() }).await.unwrap();
    container.start().await.unwrap();
    container.pause().await.unwrap();
    attachment.writer.write_all(b"later\n").await.unwrap();
    let mut byte = [0];
    let silent =
        tokio::time::timeout(std::time::Duration::from_millis(200), attachment.reader.read(&mut byte)).await;
    assert!(silent.is_err(), "a paused container wrote");
    container.resume().await.unwrap();
    read_until(&mut attachment, "later").await;
    let used = container.meter().read();
    assert!(used.cpu_total > 0);
    assert_eq!(used.pids, 1);
    container.pause().await.unwrap();
    container.delete().await.unwrap();
}

#[tokio::test]
async fn the_log_has_everything_across_rotation_and_can_be_followed() {
    let Some(machine) = machine() else { return };
    let mut bundle = machine.bundle(&["sh", "-c", "seq 1 20000; printf end"]);
    let path = machine.dir.path().join("own.log");
    bundle.log =
        LogConfig::JsonFile { path: path.clone(), max_size: Some(100_000), max_file: 50, compress: true };
    let container = machine.runtime.create(bundle).await.unwrap();
    let waiting = container.clone();
    let ended: logs::Ended = Box::pin(async move { drop(waiting.wait().await) });
    let mut reader = logs::read(path.clone(), logs::Options::default(), Some(ended)).await.unwrap();
    container.start().await.unwrap();
    for n in 1..=20000 {
        let entry = within(reader.next()).await.unwrap().unwrap();
        assert_eq!(String::from_utf8(entry.line).unwrap(), format!("{n}\n"));
    }
    let last = within(reader.next()).await.unwrap().unwrap();
    assert_eq!((last.line.as_slice(), last.partial()), (&b"end"[..], true));
    assert_eq!(within(reader.next()).await.unwrap(), None);
    // What was put aside is compressed behind all that, and is the same.
    let newest = path.with_extension("log.1");
    within(async {
        while newest.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    let tail = logs::Options { tail: Some(20_000), ..logs::Options::default() };
    let mut reader = logs::read(path, tail, None).await.unwrap();
    assert_eq!(within(reader.next()).await.unwrap().unwrap().line, b"2\n");
    container.delete().await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_neither_log_nor_other_calls() {
    let Some(machine) = machine() else { return };
    let mut bundle = machine.bundle(&["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; sleep 1000"]);
    let path = machine.dir.path().join("own.log");
    bundle.log = LogConfig::JsonFile { path: path.clone(), max_size: None, max_file: 1, compress: false };
    let container = machine.runtime.create(bundle).await.unwrap();
    let stuck = container.attach(output()).await.unwrap();
    container.start().await.unwrap();
    // The shim still answers while its queue for the client is full.
    let attachment = container.attach(output()).await.unwrap();
    drop(attachment);
    // Once the stuck client has gone everything flows.
    drop(stuck);
    within(async {
        while std::fs::metadata(&path).map_or(0, |m| m.size()) < 3_000_000 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    container.delete().await.unwrap();
}

#[tokio::test]
async fn a_hundred_megabytes_through_attach_arrive_whole() {
    let Some(machine) = machine() else { return };
    let mut bundle = machine.bundle(&["head", "-c", "100000000", "/dev/zero"]);
    bundle.log = LogConfig::None;
    let container = machine.runtime.create(bundle).await.unwrap();
    let mut attachment = container.attach(output()).await.unwrap();
    container.start().await.unwrap();
    let clock = std::time::Instant::now();
    let mut head = [0; 8];
    let (mut total, mut sink) = (0u64, vec![0; 1 << 20]);
    while within(attachment.reader.read_exact(&mut head)).await.is_ok() {
        let length = u32::from_be_bytes(head[4..].try_into().unwrap()) as usize;
        within(attachment.reader.read_exact(&mut sink[..length])).await.unwrap();
        total += length as u64;
    }
    println!("100 MB through attach: {:?}", clock.elapsed());
    assert_eq!(total, 100_000_000);
    container.delete().await.unwrap();
}

#[tokio::test]
async fn detach_keys_end_the_client_and_not_the_stdin() {
    let Some(machine) = machine() else { return };
    let mut bundle = machine.bundle(&["cat"]);
    bundle.stdio.open_stdin = true;
    bundle.stdio.stdin_once = true;
    let container = machine.runtime.create(bundle).await.unwrap();
    container.start().await.unwrap();
    let want = AttachWant { stdin: true, detach_keys: Some(vec![16, 17]), ..output() };
    let mut first = container.attach(want.clone()).await.unwrap();
    first.writer.write_all(b"\x10\x11").await.unwrap();
    assert_eq!(read_all(first, false).await, "");
    let mut second = container.attach(want).await.unwrap();
    second.writer.write_all(b"still\n").await.unwrap();
    read_until(&mut second, "still").await;
    drop(second);
    assert_eq!(within(container.wait()).await.unwrap().code, 0);
    container.delete().await.unwrap();
}

#[tokio::test]
async fn namespaces_of_another_container_are_joined() {
    let Some(machine) = machine() else { return };
    let first = started(&machine, machine.bundle(&["sleep", "1000"])).await;
    let mut spec = docker_spec(&["sh", "-c", "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; ps"]);
    let joined = [(Ns::Network, "net"), (Ns::Ipc, "ipc"), (Ns::Pid, "pid")].map(|(kind, name)| {
        let path = format!("/proc/{}/ns/{name}", first.pid());
        LinuxNamespaceBuilder::default().typ(kind).path(path).build().unwrap()
    });
    let own = [Ns::Mount, Ns::Uts, Ns::Cgroup]
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build().unwrap());
    spec.linux_mut().as_mut().unwrap().set_namespaces(Some(joined.into_iter().chain(own).collect()));
    let (exit, text) = machine.run(machine.bundle_of(spec)).await;
    for name in ["net", "ipc"] {
        let theirs = std::fs::read_link(format!("/proc/{}/ns/{name}", first.pid())).unwrap();
        assert!(text.contains(theirs.to_str().unwrap()), "{text}");
    }
    assert!(text.contains("sleep 1000"), "{text}");
    assert_eq!(exit.code, 0);
    assert!(first.pids().await.contains(&first.pid()));
    first.delete().await.unwrap();
}

#[tokio::test]
async fn in_the_hosts_pid_namespace_nothing_survives_the_first_process() {
    let Some(machine) = machine() else { return };
    let mut spec = docker_spec(&["sh", "-c", "sleep 4321 & sleep 4322 & exit 3"]);
    let own = [Ns::Mount, Ns::Uts, Ns::Cgroup, Ns::Ipc]
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build().unwrap());
    spec.linux_mut().as_mut().unwrap().set_namespaces(Some(own.to_vec()));
    let container = started(&machine, machine.bundle_of(spec)).await;
    assert_eq!(within(container.wait()).await.unwrap().code, 3);
    within(async {
        // Killed, they leave their group one by one.
        while !container.pids().await.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    container.delete().await.unwrap();
}

#[tokio::test]
async fn a_user_namespace_maps_root_away() {
    let Some(machine) = machine() else { return };
    let mut spec = docker_spec(&[
        "sh",
        "-c",
        "id -u; cat /proc/self/uid_map; echo x >/dev/null && touch /new && echo made; ls -ln /dev/zero",
    ]);
    let map = || {
        let map = oci_spec::runtime::LinuxIdMappingBuilder::default()
            .container_id(0u32)
            .host_id(100_000u32)
            .size(65536u32);
        Some(vec![map.build().unwrap()])
    };
    let linux = spec.linux_mut().as_mut().unwrap();
    let mut namespaces = linux.namespaces().clone().unwrap();
    namespaces.push(LinuxNamespaceBuilder::default().typ(Ns::User).build().unwrap());
    linux.set_namespaces(Some(namespaces));
    linux.set_uid_mappings(map());
    linux.set_gid_mappings(map());
    let bundle = machine.bundle_of(spec);
    let id = bundle.id.clone();
    let (exit, text) = machine.run(bundle).await;
    assert!(text.starts_with("0\n") && text.contains("100000") && text.contains("made"), "{text}");
    assert_eq!(exit.code, 0);
    // On disk it is root's: mounts shift the owners.
    assert_eq!(std::fs::metadata(machine.upper(&id).join("new")).unwrap().uid(), 0);
}

#[tokio::test]
async fn an_init_passes_signals_collects_orphans_and_exits_as_its_child() {
    let Some(machine) = machine() else { return };
    let init = |args: &[&str]| {
        let mut all = vec![runtime::shim::INIT_PATH, "--"];
        all.extend(args);
        let mut bundle = machine.bundle(&all);
        let mut mounts = bundle.spec.mounts().clone().unwrap();
        let program = oci_spec::runtime::MountBuilder::default()
            .destination(runtime::shim::INIT_PATH)
            .typ("bind")
            .source(env!("CARGO_BIN_EXE_coracle-shim"))
            .options(vec!["bind".to_owned(), "ro".to_owned()]);
        mounts.push(program.build().unwrap());
        // The test's own program is linked to a C library: the image borrows the machine's.
        for folder in ["/lib", "/lib64"] {
            let library = oci_spec::runtime::MountBuilder::default()
                .destination(folder)
                .typ("bind")
                .source(std::fs::canonicalize(folder).unwrap())
                .options(vec!["rbind".to_owned(), "ro".to_owned()]);
            mounts.push(library.build().unwrap());
        }
        bundle.spec.set_mounts(Some(mounts));
        bundle
    };
    let script = "(sleep 0.01 &) ; sleep 0.1; ps -o pid,comm,stat | grep -c Z; exit 6";
    let (exit, text) = machine.run(init(&["sh", "-c", script])).await;
    assert_eq!((exit.code, text.as_str()), (6, "0\n"));
    let container = machine
        .runtime
        .create(init(&["sh", "-c", "trap 'exit 44' TERM; echo up; while :; do sleep 0.05; done"]))
        .await
        .unwrap();
    let mut attachment = container.attach(output()).await.unwrap();
    container.start().await.unwrap();
    read_until(&mut attachment, "up").await;
    container.kill(15).await.unwrap();
    assert_eq!(within(container.wait()).await.unwrap().code, 44);
    container.delete().await.unwrap();
    assert_eq!(machine.run(init(&["nope"])).await.0.code, 127);
}
