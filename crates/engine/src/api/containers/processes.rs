//! A container's processes: `top`, `resize`, `wait`.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::json;

use crate::api::reply::Reply;
use crate::api::request::Call;
use crate::api::system::async_stream;
use crate::container::{Handle, Record, Status, View, ps};
use crate::engine::Engine;
use crate::error::{Error, Result};

/// A container's running processes; refuses in Docker's words when it does not run.
pub fn running(handle: &Handle) -> Result<(Arc<Record>, runtime::Container)> {
    let view = handle.view();
    match view.status {
        Status::Running { paused: true, .. } => Err(Error::conflict(format!(
            "Container {} is paused, unpause the container before exec",
            view.record.id
        ))),
        Status::Running { container, .. } => Ok((view.record, container)),
        Status::Restarting => Err(Error::conflict(format!(
            "Container {} is restarting, wait until the container is running",
            view.record.id
        ))),
        _ => Err(Error::conflict(format!("container {} is not running", view.record.id))),
    }
}

pub async fn top(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let container = match handle.view().status {
        // Frozen processes can be looked at.
        Status::Running { container, .. } => container,
        _ => running(&handle)?.1,
    };
    let format = match call.get("ps_args") {
        "" => ps::Format::parse("-ef"),
        options => ps::Format::parse(options),
    }?;
    let pids = container.pids().await;
    let (titles, rows) = tokio::task::spawn_blocking(move || {
        let titles: Vec<String> = format.titles().into_iter().map(str::to_owned).collect();
        (titles, format.rows(&pids))
    })
    .await
    .map_err(|e| Error::internal(e.to_string()))?;
    engine.container_event(&handle.view().record, "top", &[]);
    Ok(Reply::json(json!({ "Titles": titles, "Processes": rows })))
}

pub async fn resize(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let (rows, columns) = size(&call)?;
    let (_, container) = running(&handle)?;
    container.resize(rows, columns).await.map_err(|e| Error::internal(e.to_string()))?;
    engine.container_event(
        &handle.view().record,
        "resize",
        &[("height", rows.to_string()), ("width", columns.to_string())],
    );
    Ok(Reply::Empty(StatusCode::OK))
}

/// `h` and `w` of a resize.
pub fn size(call: &Call) -> Result<(u16, u16)> {
    let side = |name: &str| -> Result<u16> {
        let what = if name == "h" { "height" } else { "width" };
        let text = call.get(name);
        text.parse().map_err(|_| Error::invalid(format!("invalid resize {what} \"{text}\": invalid syntax")))
    };
    Ok((side("h")?, side("w")?))
}

pub async fn wait(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let condition = match call.get("condition") {
        "" | "not-running" => Until::NotRunning,
        "next-exit" => Until::NextExit,
        "removed" => Until::Removed,
        other => return Err(Error::invalid(format!("invalid condition: {other:?}"))),
    };
    let mut view = handle.watch();
    let seen = view.borrow().exits;
    // The head goes out at once: the client starts the container only after it.
    Ok(Reply::Stream(
        "application/json",
        async_stream(move |out| async move {
            let reached = |v: &View| match condition {
                // One that was never started does not run either, and ended with 0, as dockerd sees it. One that ends ends
                // the wait, though its policy may start it again.
                Until::NotRunning => v.exits > seen || !v.status.counts_as_running(),
                Until::NextExit => v.exits > seen || matches!(v.status, Status::Removed),
                Until::Removed => matches!(v.status, Status::Removed),
            };
            // An error means that the task has gone with the container: its last words are still there.
            let gone = view.wait_for(reached).await.is_err();
            tracing::trace!("wait: gone {gone}");
            let code = view.borrow().record.last.exit_code;
            out.send(Bytes::from(format!("{}\n", json!({ "StatusCode": code })))).await
        }),
    ))
}

#[derive(Clone, Copy)]
enum Until {
    NotRunning,
    NextExit,
    Removed,
}
