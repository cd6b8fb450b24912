//! `POST /session`, `POST /grpc`: connections that become BuildKit's, and those that are so from their first byte; and the
//! build cache.

use std::pin::Pin;
use std::sync::Arc;

use build::gc;
use build::rpc::{Answer, Request, Service, Status};
use build::session::Greeting;
use serde_json::{Value, json};

use super::hijack::Hijacked;
use super::listen::Io;
use super::reply::Reply;
use super::request::Call;
use crate::builds;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::time;

/// `POST /session`: the client serves gRPC on the connection, the engine calls.
pub async fn session(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let greeting = Greeting::read(&call.headers).map_err(|e| Error::invalid(e.message))?;
    let sessions = engine.builds.sessions.clone();
    Ok(Reply::Upgrade(Box::new(move |io: Hijacked| {
        Box::pin(async move {
            if let Err(e) = sessions.serve(greeting, io).await {
                tracing::info!("session: {e}");
            }
        })
    })))
}

/// `POST /grpc`: BuildKit's services.
pub async fn grpc(engine: Arc<Engine>, _: Call) -> Result<Reply> {
    let builder = builds::builder(&engine).await?;
    Ok(Reply::Upgrade(Box::new(move |io: Hijacked| {
        Box::pin(build::rpc::serve(io, Arc::new(build::control::Api(builder))))
    })))
}

/// BuildKit's services on a connection that begins with HTTP/2. Sessions are there too, as `Control/Session`.
pub async fn direct(engine: Arc<Engine>, io: Io) {
    build::rpc::serve(io, Arc::new(Direct(engine))).await;
}

/// BuildKit's services of an engine that may have built nothing yet.
struct Direct(Arc<Engine>);

impl Service for Direct {
    fn call(
        self: Arc<Self>,
        request: Request,
    ) -> Pin<Box<dyn Future<Output = std::result::Result<Answer, Status>> + Send>> {
        Box::pin(async move {
            let failed = |e: Error| Status::new(build::rpc::Code::Unavailable, e.message);
            let builder = builds::builder(&self.0).await.map_err(failed)?;
            Arc::new(build::control::Api(builder)).call(request).await
        })
    }
}

/// `POST /build/prune`.
pub async fn prune(engine: Arc<Engine>, call: Call) -> Result<Reply> {
    let builder = builds::builder(&engine).await?;
    let filters = call.filters()?;
    let mut options = gc::Prune { all: call.flag("all"), ..gc::Prune::default() };
    let bytes = |name: &str| Ok::<_, Error>(call.number::<u64>(name)?.unwrap_or(0));
    options.space = gc::Space {
        // By its older name too.
        reserved: bytes("reserved-space")?.max(bytes("keep-storage")?),
        most: bytes("max-used-space")?,
        free: bytes("min-free-space")?,
    };
    for name in ["until", "unused-for"] {
        let [value] = filters.values(name) else { continue };
        let wrong = || Error::invalid(format!("{name} filter: invalid duration {value:?}"));
        let age = time::parse_point(value).and_then(|t| std::time::SystemTime::now().duration_since(t).ok());
        options.older = age.ok_or_else(wrong)?;
    }
    let mut wanted = Vec::new();
    for name in ["id", "parent", "type", "description", "inuse", "shared", "private"] {
        for value in filters.values(name) {
            let field = if name == "parent" { "parents" } else { name };
            wanted.push(match name {
                "inuse" | "shared" | "private" => field.to_owned(),
                "id" => format!("{field}~=^{value}"),
                _ => format!("{field}=={value}"),
            });
        }
    }
    if !wanted.is_empty() {
        options.filters = gc::Filters::parse(&[wanted.join(",")])?;
    }
    let (gone, bytes) = gc::prune(&builder, &options).await?;
    let ids: Vec<&String> = gone.iter().map(|u| &u.id).collect();
    let deleted = if ids.is_empty() { Value::Null } else { json!(ids) };
    Ok(Reply::json(json!({ "CachesDeleted": deleted, "SpaceReclaimed": bytes })))
}

/// The build cache, as `GET /system/df` shows it.
pub async fn usage(engine: &Arc<Engine>) -> Result<Value> {
    let builder = builds::builder(engine).await?;
    let all = gc::usage(&builder).await?;
    let record = |u: &build::cache::Usage| {
        let mut record = json!({
            "ID": u.id, "Type": u.kind, "Description": u.description, "InUse": u.in_use, "Shared": u.shared,
            "Size": u.bytes, "CreatedAt": time::format(u.created), "LastUsedAt": time::format(u.used),
            "UsageCount": u.count,
        });
        if !u.parents.is_empty() {
            record["Parents"] = json!(u.parents);
        }
        record
    };
    Ok(Value::Array(all.iter().map(record).collect()))
}
