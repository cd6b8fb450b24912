//! `ps`: which containers a list is of.

use std::sync::Arc;

use super::summary::{Images, Manifest, summary};
use crate::api::reply::Reply;
use crate::api::request::{Call, Filters, Version};
use crate::container::{Handle, Status, View};
use crate::engine::Engine;
use crate::error::{Error, Result};

/// Bytes that an entry usually takes.
const USUAL_ENTRY: usize = 1024;

const LIST_FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// `GET /containers/json`.
pub async fn list(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let filters = call.filters()?.only(LIST_FILTERS)?;
    let limit: Option<i64> = call.number("limit")?;
    let limit = limit.filter(|l| *l > 0);
    let all = call.flag("all") || limit.is_some() || !filters.values("status").is_empty();
    check_list_filters(&filters)?;
    let is_task = filters.truth("is-task")?;
    let created =
        |reference: &str| engine.containers.find(reference).map(|h| h.view().record.created.clone());
    let since = filters.values("since").first().map(|r| created(r)).transpose()?;
    let before = filters.values("before").first().map(|r| created(r)).transpose()?;
    let mut views: Vec<View> = engine.containers.list().iter().map(Handle::view).collect();
    views.retain(|v| {
        (all || v.status.counts_as_running())
            // No container here is a swarm's.
            && is_task != Some(true)
            && since.as_ref().is_none_or(|s| v.record.created > *s)
            && before.as_ref().is_none_or(|b| v.record.created < *b)
            && keeps(&engine, &filters, v)
    });
    views.sort_by(|a, b| b.record.created.cmp(&a.record.created));
    let mut images = Images::of(&engine);
    let ancestors = filters.values("ancestor");
    if !ancestors.is_empty() {
        views = descendants(&mut images, views, ancestors).await;
    }
    if let Some(limit) = limit {
        views.truncate(limit as usize);
    }
    let mut text = Vec::with_capacity(views.len() * USUAL_ENTRY);
    text.push(b'[');
    for (n, view) in views.iter().enumerate() {
        if n > 0 {
            text.push(b',');
        }
        let mut entry = summary(&mut images, view, call.flag("size")).await;
        if call.version >= Version(1, 48) {
            entry.image_manifest_descriptor = Manifest::of(&mut images, &view.record.image_id).await;
        }
        serde_json::to_writer(&mut text, &entry).map_err(|e| Error::internal(e.to_string()))?;
    }
    text.extend_from_slice(b"]\n");
    Ok(Reply::Encoded(text.into()))
}

/// The containers of these images and of what was built on top of them: images whose layers begin with theirs.
async fn descendants(images: &mut Images<'_>, views: Vec<View>, ancestors: &[String]) -> Vec<View> {
    let mut known = Vec::new();
    for name in ancestors {
        known.extend(images.get(name).await);
    }
    let mut kept = Vec::new();
    for view in views {
        let record = &view.record;
        let by_name = ancestors.contains(&record.config.image)
            || known.iter().any(|a| a.id.to_string() == record.image_id);
        let fits = by_name
            || images.get(&record.image_id).await.is_some_and(|image| {
                known.iter().any(|a| {
                    !a.diff_ids.is_empty()
                        && image.diff_ids.len() > a.diff_ids.len()
                        && image.diff_ids.starts_with(&a.diff_ids)
                })
            });
        if fits {
            kept.push(view);
        }
    }
    kept
}

fn keeps(engine: &Engine, filters: &Filters, view: &View) -> bool {
    let record = &view.record;
    let exited = || view.record.last.exit_code.to_string();
    filters.matches("id", &[&record.id])
        // Names are matched with their slash and without.
        && filters.matches("name", &[&record.name, &format!("/{}", record.name)])
        && filters.allows("status", view.status.name())
        && filters.any("exited", |v| matches!(view.status, Status::Exited) && v == exited())
        && filters.allows("health", record.last.health.as_ref().map_or("none", |h| h.status.name()))
        && filters.any("network", |v| {
            record.networks.contains_key(v)
                || engine.networks.find(v).is_ok_and(|n| record.networks.contains_key(&n.name))
        })
        && filters.any("volume", |v| {
            record
                .mounts
                .iter()
                .any(|m| m.volume.as_deref() == Some(v) || m.destination == std::path::Path::new(v))
        })
        && filters.any("publish", |v| {
            let published = |p: &crate::container::PublishedPort| {
                let protocol = p.port.split_once('/').map_or("tcp", |(_, protocol)| protocol);
                ports_of(v).is_ok_and(|(range, wanted)| wanted == protocol && range.contains(&p.host_port))
            };
            record.last.ports.iter().any(published)
        })
        && filters.any("expose", |v| {
            let exposed = |port: &String| {
                let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
                let number = number.parse().unwrap_or(0);
                ports_of(v).is_ok_and(|(range, wanted)| wanted == protocol && range.contains(&number))
            };
            record.config.exposed_ports.keys().any(exposed)
        })
        && filters.labels(&record.config.labels)
}

/// `80`, `80/udp`, `8000-9000/tcp` -> the range and the protocol.
fn ports_of(text: &str) -> std::result::Result<(std::ops::RangeInclusive<u16>, &str), String> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let number = |word: &str| {
        word.parse::<u16>().map_err(|_| format!("strconv.ParseUint: parsing \"{word}\": invalid syntax"))
    };
    Ok((number(first)?..=number(last)?, protocol))
}

/// Refuses values of filters that there are not, in Docker's words.
fn check_list_filters(filters: &Filters) -> Result<()> {
    let one_of = |key: &str, what: &str, known: &[&str]| -> Result<()> {
        match filters.values(key).iter().find(|v| !known.contains(&v.as_str())) {
            Some(v) => Err(Error::invalid(format!(
                "invalid filter '{key}={v}': invalid value for {what} ({v}): must be one of {}",
                known.join(", ")
            ))),
            None => Ok(()),
        }
    };
    let states = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
    one_of("status", "state", &states)?;
    one_of("health", "health", &["none", "starting", "healthy", "unhealthy"])?;
    for v in filters.values("exited") {
        if v.parse::<i64>().is_err() {
            return Err(Error::invalid(format!(
                "invalid filter 'exited={v}': strconv.Atoi: parsing \"{v}\": invalid syntax"
            )));
        }
    }
    for key in ["expose", "publish"] {
        for v in filters.values(key) {
            ports_of(v).map_err(|e| Error::internal(format!("error while looking up for {key} {v}: {e}")))?;
        }
    }
    Ok(())
}
