//! Images on their way: pull, push, load and save, with their progress.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::platform;
use crate::api::presence::Left;
use crate::api::registry::credentials;
use crate::api::reply::Reply;
use crate::api::request::Call;
use crate::api::system::{Gone, Out, async_stream};
use crate::engine::Engine;
use crate::error::{Code, Error, Result};

/// One line of a progress stream, as Docker's clients read them.
fn progress_line(p: &image::Progress) -> Bytes {
    let mut line = json!({ "status": p.status });
    if p.current > 0 || p.total > 0 {
        line["progressDetail"] = json!({ "current": p.current, "total": p.total });
    } else if p.id.as_ref().is_some_and(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit())) {
        line["progressDetail"] = json!({});
    }
    if let Some(id) = &p.id {
        line["id"] = json!(id);
    }
    Bytes::from(format!("{line}\r\n"))
}

fn error_line(e: &Error) -> Bytes {
    Bytes::from(format!("{}\r\n", json!({ "errorDetail": { "message": e.message }, "error": e.message })))
}

/// Progress lines that may wait for a slow client; more are dropped, the last of a layer always comes.
const PROGRESS_QUEUE: usize = 1024;

/// Runs `work`, streaming its progress. A failure before the first line is an ordinary error response. The work ends with
/// its client.
pub async fn with_progress<F, Fut>(left: Left, work: F) -> Result<Reply>
where
    F: FnOnce(image::ProgressSink) -> Fut,
    Fut: Future<Output = Result<Vec<Bytes>>> + Send + 'static,
{
    let (tx, mut rx) = tokio::sync::mpsc::channel::<Bytes>(PROGRESS_QUEUE);
    let sink: image::ProgressSink = Arc::new(move |p: image::Progress| {
        // A full queue drops a line: progress, not content.
        let _ = tx.try_send(progress_line(&p));
    });
    let mut work = Box::pin(work(sink));
    // The first line, or the end without one, decides whether this is a stream or an error.
    let first = tokio::select! {
        biased;
        line = rx.recv() => line,
        () = left.wait() => return Err(Error::unavailable("the client went away")),
        end = &mut work => {
            let lines = end?;
            let stream = futures_util::stream::iter(lines.into_iter().map(Ok));
            let mut early = Vec::new();
            while let Ok(line) = rx.try_recv() { early.push(Ok(line)); }
            return Ok(Reply::Stream("application/json", Box::pin(futures_util::stream::iter(early).chain(stream))));
        }
    };
    Ok(Reply::Stream(
        "application/json",
        async_stream(move |out: Arc<Out>| async move {
            if let Some(line) = first {
                out.send(line).await?;
            }
            loop {
                tokio::select! {
                    biased;
                    Some(line) = rx.recv() => out.send(line).await?,
                    end = &mut work => {
                        while let Ok(line) = rx.try_recv() {
                            out.send(line).await?;
                        }
                        match end {
                            Ok(lines) => for line in lines { out.send(line).await?; },
                            Err(e) => out.send(error_line(&e)).await?,
                        }
                        return Ok(());
                    }
                }
            }
        }),
    ))
}

pub async fn create(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    if !call.get("fromSrc").is_empty() {
        return crate::api::make::import(engine, call).await;
    }
    let name = call.get("fromImage");
    if name.is_empty() {
        return Err(Error::invalid("invalid reference format"));
    }
    let tag = call.get("tag");
    let text = match tag {
        "" => name.to_owned(),
        digest if digest.contains(':') => format!("{name}@{digest}"),
        tag => format!("{name}:{tag}"),
    };
    // `docker pull -a` leaves the tag out.
    let all =
        tag.is_empty() && !text.contains('@') && !text.rsplit('/').next().is_some_and(|l| l.contains(':'));
    let reference: image::Reference = text.parse().map_err(Error::from)?;
    let platform = match call.get("platform") {
        "" => None,
        text => Some(text.parse().map_err(Error::from)?),
    };
    let options = image::PullOptions { platform, auth: credentials(&call)?, name: None };
    with_progress(call.left, move |sink| async move {
        let wanted = if all {
            let tags = engine.images.tags(&reference, options.auth.clone()).await?;
            let named = tags.iter().map(|tag| reference.with_tag(tag));
            named.collect::<std::result::Result<Vec<_>, _>>()?
        } else {
            vec![reference]
        };
        for reference in wanted {
            engine.images.pull(&reference, options.clone(), sink.clone()).await?;
            let familiar = reference.familiar();
            let attributes = BTreeMap::from([("name".to_owned(), reference.familiar_name())]);
            engine.events.emit("image", "pull", familiar, attributes);
        }
        Ok(Vec::new())
    })
    .await
}

/// The local tags of a repository, for `docker push -a`.
async fn tags_of(engine: &Engine, repository: &image::Reference) -> Result<Vec<image::Reference>> {
    let mut tags = Vec::new();
    for image in engine.images.list().await? {
        for tag in &image.repo_tags {
            let reference: image::Reference = tag.parse().map_err(Error::from)?;
            if reference.familiar_name() == repository.familiar_name() {
                tags.push(reference);
            }
        }
    }
    if tags.is_empty() {
        return Err(image::Error::NoLocalImage(repository.familiar_name()).into());
    }
    Ok(tags)
}

pub async fn push(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let name = call.param(0);
    let (text, all) = match call.get("tag") {
        "" => (name.to_owned(), !name.rsplit('/').next().is_some_and(|l| l.contains(':'))),
        tag => (format!("{name}:{tag}"), false),
    };
    let reference: image::Reference = text.parse().map_err(Error::from)?;
    let platform = platform(call.get("platform"))?;
    let options = image::PushOptions { auth: credentials(&call)?, platform };
    with_progress(call.left, move |sink| async move {
        let wanted = if all { tags_of(&engine, &reference).await? } else { vec![reference] };
        let mut lines = Vec::new();
        for reference in wanted {
            let pushed = engine.images.push(&reference, options.clone(), sink.clone()).await?;
            let attributes = BTreeMap::from([("name".to_owned(), reference.familiar_name())]);
            engine.events.emit("image", "push", reference.familiar(), attributes);
            let mut tell = |aux: Value| {
                lines.push(Bytes::from(format!("{}\r\n", json!({ "progressDetail": {}, "aux": aux }))));
            };
            if let Some(index) = &pushed.instead_of {
                // The client says that other platforms were not pushed.
                tell(json!({
                    "manifestPushedInsteadOfIndex": true,
                    "originalIndex": index, "selectedManifest": pushed.descriptor,
                }));
            }
            let digest = pushed.descriptor.digest.to_string();
            tell(json!({ "Tag": reference.tag(), "Digest": digest, "Size": pushed.descriptor.size }));
        }
        Ok(lines)
    })
    .await
}

pub async fn load(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let quiet = call.flag("quiet");
    let options = image::LoadOptions { platform: platform(call.get("platform"))? };
    let body = call.body.into_data_stream().map_err(std::io::Error::other);
    let input = tokio_util::io::StreamReader::new(body);
    with_progress(call.left, move |sink| async move {
        let sink: image::ProgressSink = if quiet { Arc::new(|_| {}) } else { sink };
        let loaded = engine.images.load(input, options, sink).await?;
        let mut lines = Vec::new();
        for l in loaded {
            let name = l.reference.as_ref().map(image::Reference::familiar);
            let words = match &name {
                Some(name) => format!("Loaded image: {name}\n"),
                None => format!("Loaded image ID: {}\n", l.id),
            };
            engine.events.emit(
                "image",
                "load",
                l.id.to_string(),
                BTreeMap::from([("name".to_owned(), name.unwrap_or_else(|| l.id.to_string()))]),
            );
            lines.push(Bytes::from(format!("{}\r\n", json!({ "stream": words }))));
        }
        Ok(lines)
    })
    .await
}

pub async fn save_one(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let platform = platform(call.get("platform"))?;
    save(engine, vec![call.param(0).to_owned()], platform).await
}

pub async fn save_all(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let names: Vec<String> =
        call.all("names").iter().flat_map(|n| n.split(',').map(str::to_owned).collect::<Vec<_>>()).collect();
    if names.is_empty() {
        return Err(Error { code: Code::InvalidArgument, message: "no images were named".into() });
    }
    let platform = platform(call.get("platform"))?;
    save(engine, names, platform).await
}

/// Bytes of an archive between the store and the connection.
const SAVE_BUFFER: usize = 256 << 10;

async fn save(engine: Arc<Engine>, names: Vec<String>, platform: Option<image::Platform>) -> Result<Reply> {
    for name in &names {
        let image = match &platform {
            Some(platform) => engine.images.get_for(name, platform).await?,
            None => engine.images.get(name).await?,
        };
        let attributes = BTreeMap::from([("name".to_owned(), name.clone())]);
        engine.events.emit("image", "save", image.id.to_string(), attributes);
    }
    let (near, far) = tokio::io::duplex(SAVE_BUFFER);
    Ok(Reply::Stream(
        "application/x-tar",
        async_stream(move |out| async move {
            let writing = async { engine.images.save(&names, platform, far).await };
            let reading = async {
                let mut pieces = tokio_util::io::ReaderStream::with_capacity(near, 64 << 10);
                while let Some(Ok(piece)) = pieces.next().await {
                    out.send(piece).await?;
                }
                Ok::<_, Gone>(())
            };
            let (written, read) = tokio::join!(writing, reading);
            read?;
            if let Err(e) = written {
                tracing::warn!("save of {}: {e}", names.join(", "));
                out.cut(e.to_string()).await;
            }
            Ok(())
        }),
    ))
}
