//! Operations of the tag Image: looking at images, naming and removing them. Those that move content are in
//! [`transfer`].

mod transfer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use image::FileKind;
use serde_json::{Value, json};

use super::reply::Reply;
use super::request::{Call, Version};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::time;

pub use transfer::{create, load, push, save_all, save_one, with_progress};

fn unix(created: Option<&str>) -> i64 {
    let at = created.and_then(time::parse);
    at.and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs() as i64)
}

fn or_null(map: &BTreeMap<String, String>) -> Value {
    if map.is_empty() { Value::Null } else { json!(map) }
}

/// The entries of `GET /images/json`.
pub async fn list_json(
    engine: &Engine,
    images: &[image::Image],
    shared: bool,
    manifests: bool,
) -> Result<Value> {
    let mut shared_sizes = BTreeMap::new();
    if shared {
        let usage = engine.images.disk_usage().await?;
        shared_sizes.extend(usage.images.into_iter().map(|i| (i.id.to_string(), i.shared)));
    }
    let containers = engine.containers.list();
    let entry = |i: &image::Image| {
        let id = i.id.to_string();
        let users = containers.iter().filter(|c| c.view().record.image_id == id).count();
        json!({
            "Containers": users, "Created": unix(i.created.as_deref()), "Id": id, "Labels": or_null(&i.config.labels),
            "ParentId": "", "RepoDigests": i.repo_digests, "RepoTags": i.repo_tags,
            "SharedSize": shared_sizes.get(&id).map_or(-1, |s| *s as i64), "Size": i.size,
            "Descriptor": { "mediaType": i.descriptor.media_type, "digest": i.descriptor.digest.to_string(), "size": i.descriptor.size },
        })
    };
    let mut out: Vec<Value> = images.iter().map(entry).collect();
    if manifests {
        for (entry, image) in out.iter_mut().zip(images) {
            entry["Manifests"] = manifests_json(engine, image).await?;
        }
    }
    out.sort_by_key(|v| std::cmp::Reverse(v["Created"].as_i64()));
    Ok(json!(out))
}

/// `Manifests` of a list's entry or an inspection (API 1.47 and 1.48).
async fn manifests_json(engine: &Engine, image: &image::Image) -> Result<Value> {
    let id = image.id.to_string();
    let mut out = Vec::new();
    for m in engine.images.manifests(&image.id).await? {
        let digest = m.descriptor.digest.to_string();
        let mut entry = json!({
            "ID": digest, "Descriptor": m.descriptor, "Available": m.available,
            "Size": { "Content": m.content, "Total": m.content + m.unpacked },
        });
        match m.kind {
            image::ManifestKind::Image(platform) => {
                let containers: Vec<String> = if m.descriptor.digest == image.manifest {
                    let list = engine.containers.list();
                    let views = list.iter().map(|c| c.view().record);
                    views.filter(|r| r.image_id == id).map(|r| r.id.clone()).collect()
                } else {
                    Vec::new()
                };
                entry["Kind"] = json!("image");
                let containers = if containers.is_empty() { Value::Null } else { json!(containers) };
                entry["ImageData"] = json!({
                    "Platform": platform, "Size": { "Unpacked": m.unpacked }, "Containers": containers,
                });
            }
            image::ManifestKind::Attestation(of) => {
                entry["Kind"] = json!("attestation");
                entry["AttestationData"] = json!({ "For": of });
            }
            image::ManifestKind::Unknown => entry["Kind"] = json!("unknown"),
        }
        out.push(entry);
    }
    Ok(json!(out))
}

/// The image a path names, as the platform asked for describes it.
async fn named(engine: &Engine, call: &Call) -> Result<image::Image> {
    Ok(match platform(call.get("platform"))? {
        Some(platform) => engine.images.get_for(call.param(0), &platform).await?,
        None => engine.images.get(call.param(0)).await?,
    })
}

/// What older clients get: fields that have gone since, none that have come.
pub fn for_version(image: &mut Value, version: Version) {
    if version < Version(1, 44) {
        image["VirtualSize"] = image["Size"].clone();
    }
    if version < Version(1, 48)
        && let Some(fields) = image.as_object_mut()
    {
        fields.remove("Descriptor");
    }
    if version < Version(1, 51)
        && let Some(containers) = image.get_mut("Containers")
    {
        *containers = json!(-1);
    }
}

const LIST_FILTERS: &[&str] = &["before", "dangling", "label", "reference", "since", "until"];

/// Whether a shell-like pattern (`*` and `?`) fits the whole text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.first(), text.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            glob(&pattern[1..], text) || (!text.is_empty() && text[0] != b'/' && glob(pattern, &text[1..]))
        }
        (Some(b'?'), Some(_)) => glob(&pattern[1..], &text[1..]),
        (Some(p), Some(t)) if p == t => glob(&pattern[1..], &text[1..]),
        _ => false,
    }
}

fn reference_fits(pattern: &str, tag: &str) -> bool {
    let repository = tag.rsplit_once(':').map_or(tag, |(r, _)| r);
    [tag, repository].into_iter().any(|t| glob(pattern.as_bytes(), t.as_bytes()))
}

pub async fn list(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let filters = call.filters()?.only(LIST_FILTERS)?;
    let dangling = filters.truth("dangling")?;
    let mut images = engine.images.list().await?;
    let bound = |key: &str| -> Vec<String> { filters.values(key).to_vec() };
    let (since, before) = (bound("since"), bound("before"));
    let mut created = BTreeMap::new();
    for name in since.iter().chain(&before) {
        created.insert(name.clone(), unix(engine.images.get(name).await?.created.as_deref()));
    }
    images.retain(|i| {
        let at = unix(i.created.as_deref());
        dangling.is_none_or(|d| d == i.repo_tags.is_empty())
            && filters.labels(&i.config.labels)
            && filters.any("reference", |p| i.repo_tags.iter().any(|t| reference_fits(p, t)))
            && since.iter().all(|n| at > created[n])
            && before.iter().all(|n| at < created[n])
            && filters.any("until", |u| {
                time::parse_point(u)
                    .and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok())
                    .is_some_and(|d| at < d.as_secs() as i64)
            })
    });
    if !filters.values("reference").is_empty() {
        // Of an image's names only those asked for are shown.
        for image in &mut images {
            image.repo_tags.retain(|t| filters.any("reference", |p| reference_fits(p, t)));
            image.repo_digests.retain(|d| {
                let repository = d.split('@').next().unwrap_or_default();
                filters.any("reference", |p| glob(p.as_bytes(), repository.as_bytes()))
            });
        }
    }
    let mut list = list_json(&engine, &images, call.flag("shared-size"), call.flag("manifests")).await?;
    for entry in list.as_array_mut().into_iter().flatten() {
        for_version(entry, call.version);
    }
    Ok(Reply::json(list))
}

pub async fn inspect(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    if call.flag("manifests") && !call.get("platform").is_empty() {
        return Err(Error::invalid("conflicting options: manifests and platform options cannot both be set"));
    }
    let i = named(&engine, &call).await?;
    let c = &i.config;
    let set = |list: &[String]| {
        let map: BTreeMap<&String, Value> = list.iter().map(|k| (k, json!({}))).collect();
        if map.is_empty() { Value::Null } else { json!(map) }
    };
    let mut config = json!({
        "Cmd": c.cmd, "Entrypoint": c.entrypoint, "Env": if c.env.is_empty() { Value::Null } else { json!(c.env) },
        "Labels": or_null(&c.labels), "OnBuild": if c.on_build.is_empty() { Value::Null } else { json!(c.on_build) }, "User": c.user, "Volumes": set(&c.volumes),
        "WorkingDir": c.working_dir,
    });
    if !c.exposed_ports.is_empty() {
        config["ExposedPorts"] = set(&c.exposed_ports);
    }
    if let Some(signal) = &c.stop_signal {
        config["StopSignal"] = json!(signal);
    }
    if let Some(test) = &c.healthcheck {
        config["Healthcheck"] = test.clone();
    }
    if c.args_escaped {
        config["ArgsEscaped"] = json!(true);
    }
    if let Some(shell) = &c.shell {
        config["Shell"] = json!(shell);
    }
    if call.version < Version(1, 50) {
        // A container's fields, which no image has.
        for (field, value) in [
            ("Hostname", json!("")),
            ("Domainname", json!("")),
            ("Image", json!("")),
            ("AttachStdin", json!(false)),
            ("AttachStdout", json!(false)),
            ("AttachStderr", json!(false)),
            ("Tty", json!(false)),
            ("OpenStdin", json!(false)),
            ("StdinOnce", json!(false)),
        ] {
            config[field] = value;
        }
    }
    let descriptor = json!({
        "mediaType": i.descriptor.media_type, "digest": i.descriptor.digest.to_string(), "size": i.descriptor.size,
    });
    let mut out = json!({
        "Id": i.id.to_string(), "RepoTags": i.repo_tags, "RepoDigests": i.repo_digests, "Parent": "", "Comment": "",
        "Created": i.created.as_deref().unwrap_or(time::ZERO), "DockerVersion": "", "Author": i.author,
        "Architecture": i.architecture, "Os": i.os, "Size": i.size,
        "GraphDriver": { "Data": null, "Name": "overlayfs" },
        "RootFS": { "Type": "layers", "Layers": i.diff_ids },
        "Metadata": { "LastTagTime": i.last_tagged.map_or(time::ZERO.to_owned(), time::format) }, "Descriptor": descriptor, "Config": config,
    });
    if !i.variant.is_empty() {
        out["Variant"] = json!(i.variant);
    }
    if call.flag("manifests") {
        out["Manifests"] = manifests_json(&engine, &i).await?;
    }
    for_version(&mut out, call.version);
    Ok(Reply::json(out))
}

pub async fn history(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    Ok(Reply::json(json!(steps(&engine, &call).await?.into_iter().map(|(step, _)| step).collect::<Vec<_>>())))
}

/// The same with the number of the layer that a step made, the lowest being 0; none for a step that made none.
pub async fn layers(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let steps = steps(&engine, &call).await?.into_iter().map(|(mut step, layer)| {
        step["Layer"] = json!(layer);
        step
    });
    Ok(Reply::json(json!(steps.collect::<Vec<_>>())))
}

/// How an image was made, the last step first, each with the number of the layer that it made.
async fn steps(engine: &Engine, call: &Call) -> Result<Vec<(Value, Option<usize>)>> {
    let i = named(engine, call).await?;
    // Steps that made a layer come in the order of the layers.
    let mut layers = engine.images.layer_sizes(&i).await?.into_iter().enumerate();
    let mut out: Vec<(Value, Option<usize>)> = i
        .history
        .iter()
        .map(|h| {
            let (layer, size) = match if h.empty_layer { None } else { layers.next() } {
                Some((layer, size)) => (Some(layer), size),
                None => (None, 0),
            };
            let step = json!({
                "Id": "<missing>", "Created": unix(h.created.as_deref()), "CreatedBy": h.created_by,
                "Tags": null, "Size": size, "Comment": h.comment,
            });
            (step, layer)
        })
        .collect();
    out.reverse();
    if let Some((top, _)) = out.first_mut() {
        top["Id"] = json!(i.id.to_string());
        top["Tags"] = json!(i.repo_tags);
    }
    Ok(out)
}

/// Most files of a layer that are told.
const MOST_LAYER_FILES: usize = 5000;

/// What a layer of an image holds: `layer` is the number of [`layers`].
pub async fn layer_files(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let text = call.get("layer");
    let layer = text.parse().map_err(|_| Error::invalid(format!("layer is a number, not {text:?}")))?;
    let found = engine.images.layer_files(&named(&engine, &call).await?, layer, MOST_LAYER_FILES).await?;
    let files = found.files.into_iter().map(|file| {
        let (kind, target) = match file.kind {
            FileKind::File => ("file", None),
            FileKind::Folder => ("folder", None),
            FileKind::Link(target) => ("link", Some(target)),
            FileKind::Special => ("special", None),
            FileKind::Removed => ("removed", None),
        };
        json!({ "Path": file.path, "Kind": kind, "Target": target, "Size": file.size, "Mode": file.mode })
    });
    let files: Vec<Value> = files.collect();
    Ok(Reply::json(json!({ "DiffId": found.diff_id, "Files": files, "Total": found.total })))
}

pub async fn tag(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let repo = call.get("repo");
    let tag = if call.get("tag").is_empty() { "latest" } else { call.get("tag") };
    let target: image::Reference = format!("{repo}:{tag}").parse().map_err(Error::from)?;
    engine.images.tag(call.param(0), &target).await?;
    let id = engine.images.get(call.param(0)).await?.id.to_string();
    engine.events.emit("image", "tag", id, BTreeMap::from([("name".to_owned(), target.familiar())]));
    Ok(Reply::Empty(hyper::StatusCode::CREATED))
}

/// Who uses which image, as it is now.
fn uses(engine: &Engine) -> impl Fn(&image::Digest) -> Vec<image::ImageUse> + Send + Sync + use<> {
    let mut by_image: BTreeMap<String, Vec<image::ImageUse>> = BTreeMap::new();
    for view in engine.containers.list().iter().map(|h| h.view()) {
        let user =
            image::ImageUse { container: view.record.id.clone(), running: view.status.counts_as_running() };
        let mounted = view.record.mounts.iter().filter_map(|m| m.image.as_ref());
        let images: BTreeSet<&String> = mounted.map(|i| &i.id).chain([&view.record.image_id]).collect();
        for image in images {
            let user = image::ImageUse { container: user.container.clone(), running: user.running };
            by_image.entry(image.clone()).or_default().push(user);
        }
    }
    move |id| by_image.get(&id.to_string()).cloned().unwrap_or_default()
}

/// Tells of removals and shows them.
fn told(engine: &Engine, removed: Vec<image::Removed>, id: &str) -> Value {
    let mut out = Vec::new();
    for r in removed {
        let (key, action, what) = match r {
            image::Removed::Untagged(what) => ("Untagged", "untag", what),
            image::Removed::Deleted(what) => ("Deleted", "delete", what),
        };
        let about = if id.is_empty() { what.clone() } else { id.to_owned() };
        engine.events.emit("image", action, about, BTreeMap::from([("name".to_owned(), what.clone())]));
        out.push(json!({ key: what }));
    }
    json!(out)
}

pub async fn delete(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let name = call.param(0);
    let id = engine.images.get(name).await?.id.to_string();
    let mut platforms = Vec::new();
    for text in call.all("platforms") {
        platforms.extend(platform(&text)?);
    }
    let options =
        image::RemoveOptions { force: call.flag("force"), prune_children: !call.flag("noprune"), platforms };
    let removed = engine.images.remove(name, options, &uses(&engine)).await?;
    Ok(Reply::json(told(&engine, removed, &id)))
}

fn prune_options(call: &Call) -> Result<image::PruneOptions> {
    let filters = call.filters()?.only(&["dangling", "label", "label!", "until"])?;
    let until = match filters.values("until") {
        [] => None,
        [text, ..] => {
            let at = time::parse_point(text).and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
            Some(at.ok_or_else(|| Error::invalid(format!("invalid filter 'until={text}'")))?.as_secs() as i64)
        }
    };
    Ok(image::PruneOptions {
        all: !filters.truth("dangling")?.unwrap_or(true),
        until,
        labels: filters.values("label").to_vec(),
        not_labels: filters.values("label!").to_vec(),
    })
}

/// What a prune with the same filters would do now.
pub async fn prunable(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let found = engine.images.prunable(&prune_options(&call)?, &uses(&engine)).await?;
    Ok(Reply::json(json!({ "Count": found.images, "SpaceReclaimable": found.bytes })))
}

pub async fn prune(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let pruned = engine.images.prune(prune_options(&call)?, &uses(&engine)).await?;
    let space = pruned.space_reclaimed;
    let removed = told(&engine, pruned.removed, "");
    engine.prune_event("image", space);
    let nothing = removed.as_array().is_none_or(Vec::is_empty);
    Ok(Reply::json(
        json!({ "ImagesDeleted": if nothing { Value::Null } else { removed }, "SpaceReclaimed": space }),
    ))
}

/// A platform as newer clients give it: JSON (OCI image-spec); older ones write `os/arch[/variant]`.
fn platform(text: &str) -> Result<Option<image::Platform>> {
    match text {
        "" => Ok(None),
        json if json.starts_with('{') => serde_json::from_str(json)
            .map(Some)
            .map_err(|e| Error::invalid(format!("failed to parse platform: {e}"))),
        words => Ok(Some(words.parse().map_err(Error::from)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_matched_with_and_without_the_tag() {
        for fits in ["busybox", "busy*", "busybox:latest", "busybox:l?test"] {
            assert!(reference_fits(fits, "busybox:latest"), "{fits}");
        }
        assert!(!reference_fits("busy", "busybox:latest"));
        assert!(!reference_fits("*", "a/b:c"));
        assert!(reference_fits("*/b", "a/b:c"));
    }
}
