//! Images made here: `docker commit` and `docker import`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::images::with_progress;
use super::reply::Reply;
use super::request::Call;
use crate::changes;
use crate::container::config::Config;
use crate::container::freeze::Frozen;
use crate::container::{Status, View};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::time;

/// Bytes of an archive read at once.
const BUFFER: usize = 256 << 10;

/// The name asked for by `repo` and `tag`; `None` when there is none.
fn name(call: &Call) -> Result<Option<image::Reference>> {
    let (repo, tag) = (call.get("repo"), call.get("tag"));
    if repo.is_empty() {
        return Ok(None);
    }
    let text = if tag.is_empty() { repo.to_owned() } else { format!("{repo}:{tag}") };
    let name: image::Reference = text.parse().map_err(Error::from)?;
    if name.digest().is_some() {
        return Err(Error::invalid("refusing to create a tag with a digest reference"));
    }
    Ok(Some(name))
}

/// The part of a container's configuration that images have, as Docker's images write it (OCI image-spec `config.md`
/// with Docker's `Healthcheck`, `OnBuild` and `Shell`): what is empty is left out.
fn image_config(c: &Config) -> Map<String, Value> {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| {
        let empty = match &value {
            Value::Null => true,
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            _ => false,
        };
        if !empty {
            out.insert(key.into(), value);
        }
    };
    put("User", json!(c.user));
    put("ExposedPorts", json!(c.exposed_ports));
    put("Env", json!(c.env));
    put("Entrypoint", json!(c.entrypoint));
    put("Cmd", json!(c.cmd));
    put("Volumes", json!(c.volumes));
    put("WorkingDir", json!(c.working_dir));
    put("Labels", json!(c.labels));
    put("StopSignal", json!(c.stop_signal));
    put("Healthcheck", json!(c.healthcheck));
    put("OnBuild", json!(c.on_build));
    put("Shell", json!(c.shell));
    out
}

/// `POST /commit`.
pub async fn commit(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let handle = engine.containers.find(call.get("container"))?;
    let name = name(&call)?;
    let (comment, author) = (call.get("comment").to_owned(), call.get("author").to_owned());
    let lines = call.all("changes");
    // Old clients do not say it; Docker pauses by default since API 1.13.
    let pause = call.get("pause").is_empty() || call.flag("pause");
    let mut config: Config = call.json_or_default().await?;
    let View { record, status, .. } = handle.view();
    if matches!(status, Status::Removing | Status::Removed) {
        return Err(Error::conflict(format!(
            "You cannot commit container {} which is being removed",
            record.id
        )));
    }
    changes::apply(&mut config, &lines)?;
    // What is asked for besides the container's own configuration wins.
    config.inherit(&record.config);

    // While its files are read.
    let frozen = Frozen::new(pause.then_some(handle)).await?;
    let made = async {
        let base = record.image_id.parse::<image::Digest>().map_err(Error::from)?;
        let now = time::now();
        let mut document = Map::from_iter([
            ("created".to_owned(), json!(now)),
            ("config".to_owned(), Value::Object(image_config(&config))),
        ]);
        if !author.is_empty() {
            document.insert("author".into(), json!(author));
        }
        let command: Vec<&str> =
            [record.path.as_str()].into_iter().chain(record.args.iter().map(String::as_str)).collect();
        let image = image::NewImage {
            base: Some(engine.images.mounted_manifest(&record.id).await?.unwrap_or(base)),
            layer: Some(image::LayerSource::Written(record.id.clone())),
            config: document,
            step: image::History {
                created: Some(now),
                created_by: command.join(" "),
                author: author.clone(),
                comment: comment.clone(),
                empty_layer: false,
            },
            name: name.clone(),
        };
        engine.images.make(image).await.map_err(Error::from)
    }
    .await;
    frozen.thaw().await;
    let id = made?.to_string();
    engine.image_made(&id, name.as_slice());
    let mut more = vec![("comment", comment), ("imageID", id.clone())];
    if let Some(name) = &name {
        more.push(("imageRef", name.familiar()));
    }
    engine.container_event(&record, "commit", &more);
    Ok(Reply::created(json!({ "Id": id })))
}

/// `POST /images/create?fromSrc=...`.
pub async fn import(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let source = call.get("fromSrc").to_owned();
    let name = name(&call)?;
    let lines = call.all("changes");
    let mut config = Config::default();
    changes::apply(&mut config, &lines)?;
    let mut message = call.get("message").to_owned();
    let platform = match call.get("platform") {
        "" => image::Platform::host(),
        text => text.parse().map_err(Error::from)?,
    };
    let now = time::now();
    let mut document = Map::from_iter([
        ("created".to_owned(), json!(now)),
        ("architecture".to_owned(), json!(platform.architecture)),
        ("os".to_owned(), json!(platform.os)),
        ("config".to_owned(), Value::Object(image_config(&config))),
    ]);
    if !platform.variant.is_empty() {
        document.insert("variant".into(), json!(platform.variant));
    }
    if message.is_empty() {
        message = format!("Imported from {source}");
    }
    let body = call.body.into_data_stream().map_err(std::io::Error::other);
    with_progress(call.left, move |sink| async move {
        let layer: Box<dyn tokio::io::AsyncRead + Send + Unpin> = if source == "-" {
            Box::new(StreamReader::new(body))
        } else {
            let url = if source.contains("://") { source.clone() } else { format!("http://{source}") };
            sink(image::Progress {
                id: None,
                status: format!("Downloading from {url}"),
                current: 0,
                total: 0,
                layer: None,
            });
            Box::new(engine.images.open_url(&url).await?)
        };
        let input = std::io::BufReader::with_capacity(BUFFER, SyncIoBridge::new(layer));
        let step = image::History {
            created: Some(now),
            created_by: String::new(),
            author: String::new(),
            comment: message,
            empty_layer: false,
        };
        let image = image::NewImage {
            base: None,
            layer: Some(image::LayerSource::Archive(Box::new(input))),
            config: document,
            step,
            name: name.clone(),
        };
        let id = engine.images.make(image).await?.to_string();
        let shown = name.map_or_else(|| id.clone(), |n| n.to_string());
        engine.events.emit("image", "import", id.clone(), BTreeMap::from([("name".to_owned(), shown)]));
        Ok(vec![Bytes::from(format!("{}\r\n", json!({ "status": id })))])
    })
    .await
}
