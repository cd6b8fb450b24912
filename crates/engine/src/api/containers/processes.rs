//! A container's processes: `top`, `resize`, `wait`.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::json;

use crate::api::reply::Reply;
use crate::api::request::Call;
use crate::api::system::async_stream;
use crate::container::{Handle, Record, Status, View};
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
    let (_, container) = running(&engine.containers.find(call.param(0))?)?;
    let pids = container.pids().await;
    if !matches!(call.get("ps_args"), "" | "-ef") {
        return Err(Error::not_implemented("ps options other than -ef are not there yet"));
    }
    let rows: Vec<Vec<String>> = pids.iter().filter_map(|pid| process_row(*pid)).collect();
    Ok(Reply::json(json!({
        "Titles": ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"], "Processes": rows,
    })))
}

/// One line of `ps -ef`; `None` when the process has just gone.
fn process_row(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let uid = status.lines().find_map(|l| l.strip_prefix("Uid:")?.split_whitespace().next()).unwrap_or("?");
    let uid = if uid == "0" { "root" } else { uid };
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let boot = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = boot.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok())?;
    let started = chrono::DateTime::from_timestamp((boot + field(19) / ticks) as i64, 0)?;
    let seconds = (field(11) + field(12)) / ticks;
    let tty = match field(4) {
        0 => "?".to_owned(),
        n => format!("pts/{}", n & 0xff),
    };
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> = raw
        .split(|b| *b == 0)
        .filter(|w| !w.is_empty())
        .map(|w| String::from_utf8_lossy(w).into_owned())
        .collect();
    let command = if words.is_empty() {
        format!("[{}]", stat.split_once('(')?.1.rsplit_once(')')?.0)
    } else {
        words.join(" ")
    };
    Some(vec![
        uid.to_owned(),
        pid.to_string(),
        field(1).to_string(),
        "0".into(),
        started.format("%H:%M").to_string(),
        tty,
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        command,
    ])
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
                Until::NotRunning => {
                    !matches!(v.status, Status::Running { .. } | Status::Restarting | Status::Created)
                }
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
