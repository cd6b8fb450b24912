//! Operations of the tag Container: its life here, what is shown of it in `list` and `look`, its processes in `processes`, its
//! output and input in `streams`.

mod archive;
mod list;
mod look;
mod processes;
mod stats;
mod streams;
mod summary;
mod websocket;

use std::sync::Arc;

use serde_json::{Value, json};

pub use archive::{archive_get, archive_info, archive_put, changes, export, file_put};
pub use list::list;
pub use look::inspect;
pub use processes::{resize, running, size, top, wait};
pub use stats::stats;
pub use streams::{attach, detach_keys, logs, pump};
pub use summary::{Images, summary};
pub use websocket::attach as attach_websocket;

use super::reply::Reply;
use super::request::{Call, Version};
use crate::container::config::{Config, HostConfig, NetworkingConfig};
use crate::container::{
    Command, Record, Status, create as make, links, signal::parse_signal, update as make_update,
};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::time;

/// How long `kill` waits for a container's end; dockerd's own limit.
const KILL_WAIT: std::time::Duration = std::time::Duration::from_secs(10);

/// Media types of attach and log streams: frames of two streams, or a terminal's bytes.
pub const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
pub const RAW: &str = "application/vnd.docker.raw-stream";

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct CreateBody {
    // The container's own configuration stands at the top of the body, not in a field.
    host_config: HostConfig,
    networking_config: NetworkingConfig,
}

pub async fn create(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let name = call.get("name").trim_start_matches('/').to_owned();
    let platform = match call.get("platform") {
        "" => None,
        text => Some((text.to_owned(), text.parse::<image::Platform>().map_err(Error::from)?)),
    };
    let version = call.version;
    let body: Value = call.json().await?;
    let beside =
        |key: &String| ["HostConfig", "NetworkingConfig"].iter().any(|other| other.eq_ignore_ascii_case(key));
    let empty = body.as_object().is_none_or(|fields| fields.keys().all(beside));
    let config: Config = super::go_json::from_value(body.clone())?;
    let CreateBody { mut host_config, networking_config } = super::go_json::from_value(body)?;
    // What older clients expect where they say nothing.
    if version < Version(1, 40) && host_config.ipc_mode.is_empty() {
        host_config.ipc_mode = "shareable".into();
    }
    if version < Version(1, 41) && host_config.cgroupns_mode.is_empty() {
        host_config.cgroupns_mode = "host".into();
    }
    if version < Version(1, 48) && host_config.mounts.iter().any(|m| m.r#type == "image") {
        return Err(Error::invalid("Mount type \"Image\" needs API v1.48 or newer"));
    }
    if empty {
        return Err(Error::invalid("config cannot be empty in order to create a container"));
    }
    if let Some((text, wanted)) = platform {
        let image = engine.images.get(&config.image).await?;
        if image.os != wanted.os
            || (!wanted.architecture.is_empty() && image.architecture != wanted.architecture)
        {
            return Err(Error::not_found(format!(
                "image with reference {} was found but does not provide the specified platform ({text})",
                config.image
            )));
        }
    }
    let name = (!name.is_empty()).then_some(name.as_str());
    let made = make::create(&engine, name, config, host_config, networking_config).await?;
    Ok(Reply::created(json!({ "Id": made.id, "Warnings": made.warnings })))
}

pub async fn start(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    if !call.get("checkpoint").is_empty() {
        return Err(Error::not_implemented("checkpoints need CRIU, which this engine does not drive"));
    }
    // Docker took a configuration here once; one that is sent must not be lost without a word.
    let length = call.headers.get(hyper::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if length.unwrap_or(0) > 2u64 {
        return Err(Error::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    let handle = engine.containers.find(call.param(0))?;
    handle.ask(|reply| Command::Start { reply }).await??;
    Ok(Reply::no_content())
}

fn signal(call: &Call) -> Result<Option<i32>> {
    match call.get("signal") {
        "" => Ok(None),
        text => parse_signal(text).map(Some).ok_or_else(|| Error::invalid(format!("invalid signal: {text}"))),
    }
}

pub async fn stop(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let timeout = call.number("t")?;
    if !handle.view().status.counts_as_running() {
        return Err(Error::not_modified());
    }
    let context = |e: Error| Error::internal(format!("cannot stop container: {}: {e}", call.param(0)));
    let signal = signal(&call).map_err(context)?;
    handle.ask(|reply| Command::Stop { signal, timeout, by_user: true, reply }).await??;
    Ok(Reply::no_content())
}

pub async fn restart(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let (signal, timeout) = (signal(&call)?, call.number("t")?);
    handle.ask(|reply| Command::Restart { signal, timeout, reply }).await??;
    Ok(Reply::no_content())
}

pub async fn kill(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let context = |e: Error| e.context(&format!("cannot kill container: {}", call.param(0)));
    let handle = engine.containers.find(call.param(0)).map_err(context)?;
    let signal = signal(&call).map_err(context)?.unwrap_or(libc::SIGKILL);
    let mut view = handle.watch();
    let seen = view.borrow().exits;
    handle.ask(|reply| Command::Kill { signal, reply }).await??;
    if signal == libc::SIGKILL {
        // As with dockerd: what comes behind a kill meets a container that does not run. One that does not die in time is
        // reported by its state; one that is gone is gone.
        let ended = view.wait_for(|v| v.exits > seen || !v.status.is_running());
        let _ = tokio::time::timeout(KILL_WAIT, ended).await;
    }
    Ok(Reply::no_content())
}

pub async fn pause(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    handle.ask(|reply| Command::Pause { pause: true, reply }).await??;
    Ok(Reply::no_content())
}

pub async fn unpause(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    handle.ask(|reply| Command::Pause { pause: false, reply }).await??;
    Ok(Reply::no_content())
}

pub async fn rename(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let name = call.get("name").trim_start_matches('/').to_owned();
    if name.is_empty() {
        return Err(Error::invalid("Neither old nor new names may be empty"));
    }
    handle.ask(|reply| Command::Rename { name, reply }).await??;
    Ok(Reply::no_content())
}

pub async fn delete(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    if call.flag("link") {
        links::remove(&engine, call.param(0)).await?;
        return Ok(Reply::no_content());
    }
    let handle = engine.containers.find(call.param(0))?;
    let (force, volumes) = (call.flag("force"), call.flag("v"));
    handle.ask(|reply| Command::Remove { force, volumes, reply }).await??;
    engine.execs.forget(&handle.view().record.id);
    Ok(Reply::no_content())
}

pub async fn prune(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let filters = call.filters()?.only(&["label", "label!", "until"])?;
    let until = filters.until()?;
    let mut removed = Vec::new();
    let mut bytes = 0;
    for handle in engine.containers.list() {
        let view = handle.view();
        let idle = matches!(view.status, Status::Created | Status::Exited);
        let old =
            until.is_none_or(|until| time::parse(&view.record.created).is_some_and(|made| made < until));
        if !idle || !old || !filters.labels(&view.record.config.labels) {
            continue;
        }
        bytes += size_of(&engine, &view.record).await;
        let gone = handle.ask(|reply| Command::Remove { force: false, volumes: false, reply }).await;
        if matches!(gone, Ok(Ok(()))) {
            removed.push(view.record.id.clone());
        }
    }
    engine.prune_event("container", bytes);
    Ok(Reply::json(json!({
        "ContainersDeleted": if removed.is_empty() { Value::Null } else { json!(removed) },
        "SpaceReclaimed": bytes,
    })))
}

pub async fn update(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.param(0))?;
    let mut wanted = make_update::only_limits(call.json_or_default().await?);
    let warnings = make_update::check(&engine, &mut wanted)?;
    let wanted = Box::new(wanted);
    handle.ask(|reply| Command::Update { wanted, reply }).await??;
    Ok(Reply::json(json!({ "Warnings": if warnings.is_empty() { Value::Null } else { json!(warnings) } })))
}

/// Bytes of the container's own files.
async fn size_of(engine: &Engine, record: &Record) -> u64 {
    engine.images.container_size(&record.id).await.unwrap_or(0)
}
