//! Engines and shims that die.

mod common;

use common::*;
use runtime::Reconnected;

fn shim_of(machine: &Machine, id: &str) -> u32 {
    let state = std::fs::read(machine.dir.path().join("run").join(id).join("state.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&state).unwrap()["shim"].as_u64().unwrap() as u32
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

async fn gone(pid: u32) {
    within(async {
        while std::path::Path::new(&format!("/proc/{pid}")).exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_container_is_found_again_by_the_next_engine() {
    let Some(machine) = machine() else { return };
    let container = started(&machine, machine.bundle(&["sleep", "1000"])).await;
    let (id, pid) = (container.id().to_owned(), container.pid());
    // Dropping every handle closes the connection, as the engine's death does.
    drop(container);
    let Reconnected::Running(container) = machine.runtime.reconnect(&id).await.unwrap() else {
        panic!("it is gone")
    };
    assert_eq!(container.pid(), pid);
    container.kill(15).await.unwrap();
    container.kill(9).await.unwrap();
    assert_eq!(within(container.wait()).await.unwrap().code, 137);
    container.delete().await.unwrap();
    assert!(matches!(machine.runtime.reconnect(&id).await.unwrap(), Reconnected::Gone));
}

#[tokio::test]
async fn an_exit_while_no_engine_runs_is_not_lost() {
    let Some(machine) = machine() else { return };
    let bundle = machine.bundle(&["sh", "-c", "read x; exit 9"]);
    let mut bundle = bundle;
    bundle.stdio.open_stdin = true;
    let container = started(&machine, bundle).await;
    let (id, shim, pid) = (container.id().to_owned(), shim_of(&machine, container.id()), container.pid());
    drop(container);
    kill(pid);
    gone(shim).await;
    match machine.runtime.reconnect(&id).await.unwrap() {
        Reconnected::Exited(exit) => assert_eq!(exit.code, 137),
        other => panic!("{other:?}"),
    }
    assert!(matches!(machine.runtime.reconnect(&id).await.unwrap(), Reconnected::Gone));
}

#[tokio::test]
async fn a_container_dies_with_its_shim_and_is_reported() {
    let Some(machine) = machine() else { return };
    let container = started(&machine, machine.bundle(&["sleep", "1000"])).await;
    let pid = container.pid();
    kill(shim_of(&machine, container.id()));
    assert_eq!(within(container.wait()).await.unwrap().code, 137);
    gone(pid).await;
    container.delete().await.unwrap();
}

#[tokio::test]
async fn a_shim_that_died_while_no_engine_ran_is_reported_too() {
    let Some(machine) = machine() else { return };
    let container = started(&machine, machine.bundle(&["sleep", "1000"])).await;
    let (id, pid, shim) = (container.id().to_owned(), container.pid(), shim_of(&machine, container.id()));
    drop(container);
    kill(shim);
    gone(shim).await;
    match machine.runtime.reconnect(&id).await.unwrap() {
        Reconnected::Exited(exit) => assert_eq!(exit.code, 137),
        other => panic!("{other:?}"),
    }
    gone(pid).await;
}

#[tokio::test]
async fn one_never_started_ends_with_its_engine() {
    let Some(machine) = machine() else { return };
    let container = machine.runtime.create(machine.bundle(&["true"])).await.unwrap();
    let (id, shim, pid) = (container.id().to_owned(), shim_of(&machine, container.id()), container.pid());
    drop(container);
    gone(shim).await;
    gone(pid).await;
    assert!(matches!(machine.runtime.reconnect(&id).await.unwrap(), Reconnected::Gone));
}

#[tokio::test]
async fn what_an_engine_left_half_made_or_half_removed_goes() {
    let Some(machine) = machine() else { return };
    let folder = machine.dir.path().join("run/half");
    std::fs::create_dir_all(&folder).unwrap();
    assert!(matches!(machine.runtime.reconnect("half").await.unwrap(), Reconnected::Gone));
    assert!(!folder.exists());
}

#[tokio::test]
async fn folders_with_long_names_do() {
    let Some(machine) = machine_in(&"long/".repeat(40)) else { return };
    assert_eq!(machine.run(machine.bundle(&["true"])).await.0.code, 0);
}

#[tokio::test]
async fn an_id_in_use_is_refused_and_its_container_lives_on() {
    let Some(machine) = machine() else { return };
    let container = started(&machine, machine.bundle(&["sleep", "1000"])).await;
    let mut second = machine.bundle(&["true"]);
    second.id = container.id().to_owned();
    assert_eq!(machine.runtime.create(second).await.unwrap_err().code(), runtime::Code::InvalidArgument);
    assert!(container.pids().await.contains(&container.pid()));
    container.delete().await.unwrap();
}

/// No test: the engine that the next test kills, in a process of its own.
#[tokio::test]
async fn engine_to_be_killed() {
    let Some(dir) = std::env::var_os("CORACLE_TEST_ENGINE") else { return };
    let dir = std::path::PathBuf::from(dir);
    let machine = machine().unwrap();
    let runtime = runtime::Runtime::new(runtime::Config {
        shim: env!("CARGO_BIN_EXE_coracle-shim").into(),
        exec_root: dir.join("run"),
        cgroup_parent: std::env::var("CORACLE_TEST_PARENT").unwrap(),
    })
    .unwrap();
    let mut bundle = machine.bundle(&["sh", "-c", "while :; do echo beat; sleep 0.02; done"]);
    bundle.id = "kept".into();
    bundle.log = runtime::LogConfig::JsonFile {
        path: dir.join("kept.log"),
        max_size: None,
        max_file: 1,
        compress: false,
    };
    // The folders of this process's machine must outlive it.
    bundle.rootfs = runtime::RootFs::Dir(dir.join("image"));
    bundle.exit_file = dir.join("exit.json");
    let container = runtime.create(bundle).await.unwrap();
    container.start().await.unwrap();
    std::fs::write(dir.join("up"), container.pid().to_string()).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn an_engine_killed_hard_leaves_its_container_running_and_logging() {
    let Some(machine) = machine() else { return };
    let dir = machine.dir.path();
    let mut engine = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "engine_to_be_killed"])
        .env("CORACLE_TEST_ENGINE", dir)
        // What it cannot clean up goes with this test's folder.
        .env("TMPDIR", dir)
        .env("CORACLE_TEST_PARENT", machine.parent())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid: u32 = within(async {
        loop {
            match std::fs::read_to_string(dir.join("up")).ok().and_then(|s| s.parse().ok()) {
                Some(pid) => break pid,
                None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    let group = format!("coracle-test-{}-0", engine.id().unwrap());
    engine.kill().await.unwrap();
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let _ = std::fs::remove_dir(std::path::Path::new(root).join(&group));
    }
    let Reconnected::Running(container) = machine.runtime.reconnect("kept").await.unwrap() else {
        panic!("it is gone")
    };
    assert_eq!(container.pid(), pid);
    let size = || std::fs::metadata(dir.join("kept.log")).unwrap().len();
    let before = size();
    within(async {
        while size() == before {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut attachment = container.attach(output()).await.unwrap();
    read_until(&mut attachment, "beat").await;
    container.delete().await.unwrap();
}
