//! Operations of the tag Volume.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::reply::Reply;
use super::request::{Call, Version};
use crate::container::{Handle, freeze::Frozen};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::store::Durability;
use crate::volumes::{ANONYMOUS, Snapshot, Volume};

/// A volume as the API shows it.
pub fn json(engine: &Engine, volume: &Volume) -> Value {
    json!({
        "CreatedAt": volume.created, "Driver": "local", "Labels": volume.labels,
        "Mountpoint": engine.volumes.data(&volume.name), "Name": volume.name, "Options": volume.options,
        "Scope": "local",
    })
}

pub async fn list(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let filters = call.filters()?.only(&["dangling", "driver", "label", "name"])?;
    let dangling = filters.truth("dangling")?;
    let list: Vec<Value> = engine
        .volumes
        .list()
        .iter()
        .filter(|v| {
            filters.allows("driver", "local")
                && filters.matches("name", &[&v.name])
                && filters.labels(v.labels.as_ref().unwrap_or(&BTreeMap::new()))
                && dangling.is_none_or(|d| d == engine.containers.using_volume(&v.name).is_empty())
        })
        .map(|v| json(&engine, v))
        .collect();
    Ok(Reply::json(json!({ "Volumes": list, "Warnings": null })))
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct CreateBody {
    name: String,
    driver: String,
    driver_opts: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
}

pub async fn create(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let body: CreateBody = call.json().await?;
    let mut labels = body.labels;
    let name = if body.name.is_empty() {
        labels.get_or_insert_default().insert(ANONYMOUS.into(), String::new());
        crate::names::random_id()
    } else {
        body.name
    };
    let (volume, new) =
        engine.volumes.create(&name, &body.driver, labels, body.driver_opts, Durability::Durable).await?;
    if new {
        engine.volume_event(&name, "create", BTreeMap::new());
    }
    Ok(Reply::created(json(&engine, &volume)))
}

pub async fn inspect(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    Ok(Reply::json(json(&engine, &*engine.volumes.get(call.param(0))?)))
}

pub async fn delete(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let name = call.param(0);
    if let Err(e) = engine.volumes.get(name) {
        // `rm -f` of what is not there is fine, as with dockerd.
        return if call.flag("force") { Ok(Reply::no_content()) } else { Err(e) };
    }
    let users = engine.containers.using_volume(name);
    if !users.is_empty() {
        return Err(Error::conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
    }
    engine.volumes.remove(name, Durability::Durable).await?;
    engine.volume_event(name, "destroy", BTreeMap::new());
    Ok(Reply::no_content())
}

/// The filter `all`, as Go reads a truth value.
fn all_of(values: &[String]) -> Result<bool> {
    match values {
        [] => Ok(false),
        [one] if matches!(one.as_str(), "1" | "t" | "T" | "TRUE" | "true" | "True") => Ok(true),
        [one] if matches!(one.as_str(), "0" | "f" | "F" | "FALSE" | "false" | "False") => Ok(false),
        [one] => Err(Error::invalid(format!(
            "invalid filter 'all': strconv.ParseBool: parsing \"{one}\": invalid syntax"
        ))),
        more => Err(Error::invalid(format!("invalid filter 'all=[{}]'", more.join(" ")))),
    }
}

pub async fn prune(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let filters = call.filters()?.only(&["all", "label", "label!"])?;
    // Before that version prune took all.
    let all = call.version < Version(1, 42) || all_of(filters.values("all"))?;
    let (mut removed, mut bytes) = (Vec::new(), 0);
    for volume in engine.volumes.list() {
        let named = !volume.is_anonymous();
        let used = !engine.containers.using_volume(&volume.name).is_empty();
        // As with dockerd: what the options lead to is somebody's choice, named or not.
        let chosen = volume.options.as_ref().is_some_and(|o| !o.is_empty());
        if used
            || chosen
            || (named && !all)
            || !filters.labels(volume.labels.as_ref().unwrap_or(&BTreeMap::new()))
        {
            continue;
        }
        let size = engine.volumes.size(&volume.name).await.unwrap_or(0);
        engine.volumes.remove(&volume.name, Durability::Durable).await?;
        engine.volume_event(&volume.name, "destroy", BTreeMap::new());
        bytes += size;
        removed.push(volume.name.clone());
    }
    engine.prune_event("volume", bytes);
    Ok(Reply::json(json!({
        "VolumesDeleted": removed, "SpaceReclaimed": bytes,
    })))
}

fn snapshot_json(snapshot: &Snapshot) -> Value {
    json!({ "Name": snapshot.name, "CreatedAt": snapshot.created, "Size": snapshot.size })
}

/// `GET /coracle/v1/volumes/{name}/snapshots`: the oldest first.
pub async fn snapshots(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let volume = engine.volumes.get(call.param(0))?;
    let list: Vec<Value> = volume.snapshots.iter().map(snapshot_json).collect();
    Ok(Reply::json(json!({ "Snapshots": list })))
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct SnapshotBody {
    name: String,
}

/// `POST /coracle/v1/volumes/{name}/snapshots`. Containers that run with the volume are frozen while it is copied.
pub async fn snapshot(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let volume = call.param(0).to_owned();
    let SnapshotBody { name } = call.json().await?;
    // To its end, whether the client waits for it or not: nobody may stay frozen.
    let made = to_the_end(engine.tasks.clone(), async move {
        let _ = engine.volumes.get(&volume)?;
        let users = engine.containers.using_volume(&volume);
        let users: Vec<Handle> = users.iter().filter_map(|id| engine.containers.find(id).ok()).collect();
        let frozen = Frozen::new(users).await?;
        let made = engine.volumes.snapshot(&volume, &name).await;
        frozen.thaw().await;
        let made = made?;
        engine.volume_event(&volume, "snapshot", BTreeMap::from([("snapshot".into(), name)]));
        Ok(made)
    });
    Ok(Reply::created(snapshot_json(&made.await?)))
}

/// `POST /coracle/v1/volumes/{name}/snapshots/{snapshot}/restore`.
pub async fn restore(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let (volume, name) = (call.param(0).to_owned(), call.param(1).to_owned());
    let done = to_the_end(engine.tasks.clone(), async move {
        engine.volumes.restore(&volume, &name).await?;
        engine.volume_event(&volume, "restore", BTreeMap::from([("snapshot".into(), name)]));
        Ok(())
    });
    done.await.map(|()| Reply::no_content())
}

/// `DELETE /coracle/v1/volumes/{name}/snapshots/{snapshot}`.
pub async fn delete_snapshot(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let (volume, name) = (call.param(0).to_owned(), call.param(1).to_owned());
    let done = to_the_end(engine.tasks.clone(), async move {
        engine.volumes.remove_snapshot(&volume, &name).await?;
        engine.volume_event(&volume, "snapshot-remove", BTreeMap::from([("snapshot".into(), name)]));
        Ok(())
    });
    done.await.map(|()| Reply::no_content())
}

/// Does it whether the client waits for its end or not.
async fn to_the_end<T: Send + 'static>(
    tasks: tokio_util::task::TaskTracker,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tasks.spawn(work).await.map_err(|e| Error::internal(e.to_string()))?
}
