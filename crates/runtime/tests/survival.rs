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
