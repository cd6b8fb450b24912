//! BuildKit's services, as clients of dockerd use them.
//!
//! ```text
//! Control/Solve ---begins--> Job <--- LLBBridge/* (the frontend runs in the client; metadata says which job)
//!    '-- waits for Return, exports          '-- Control/Status tells of it
//! ```

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use bollard_buildkit_proto::google::protobuf::Any;
use bollard_buildkit_proto::health::{HealthCheckResponse, health_check_response::ServingStatus};
use bollard_buildkit_proto::moby::buildkit::v1 as proto;
use bollard_buildkit_proto::pb;

use crate::builder::Builder;
use crate::error::Error;
use crate::graph::{Graph, Range};
use crate::history;
use crate::jobs::{Answered, Returned};
use crate::progress::Progress;
use crate::rpc::{Answer, Code, Request, Service, Status};
use crate::session::Greeting;
use crate::solve::Context;
use crate::worker::Worker;

/// The BuildKit whose protocol this is.
pub const VERSION: &str = "v0.25.1";
/// The only frontend there is.
pub const DOCKERFILE: &str = "dockerfile.v0";
/// What a client may grant a build.
const ENTITLEMENTS: [&str; 2] = ["network.host", "security.insecure"];
/// Bytes of a session on their way, and of one message.
const SESSION: usize = 1 << 20;
const PIECE: usize = 64 << 10;
/// Metadata that says which build a call of a frontend is of.
const BUILD_ID: &str = "buildkit-controlapi-buildid";

/// BuildKit's services over one engine's builds.
pub struct Api<W: Worker>(pub Arc<Builder<W>>);

impl<W: Worker> Service for Api<W> {
    fn call(
        self: Arc<Self>,
        mut request: Request,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, Status>> + Send>> {
        Box::pin(async move {
            let path = request.path.clone();
            match path.as_str() {
                "/moby.buildkit.v1.Control/ListWorkers" => self.workers(),
                "/moby.buildkit.v1.Control/Info" => {
                    Ok(Answer::one(&proto::InfoResponse { buildkit_version: Some(version()) }))
                }
                "/moby.buildkit.v1.Control/Solve" => {
                    let solve = request.message().await?;
                    self.solve(solve).await
                }
                "/moby.buildkit.v1.Control/Status" => {
                    let status: proto::StatusRequest = request.message().await?;
                    self.status(&status.r#ref).await
                }
                "/moby.buildkit.v1.Control/DiskUsage" => {
                    let asked: proto::DiskUsageRequest = request.message().await?;
                    self.disk_usage(asked).await
                }
                "/moby.buildkit.v1.Control/Prune" => {
                    let asked: proto::PruneRequest = request.message().await?;
                    self.prune(asked).await
                }
                "/moby.buildkit.v1.Control/ListenBuildHistory" => {
                    let asked: proto::BuildHistoryRequest = request.message().await?;
                    history::list(&self.0.cache, &asked)
                }
                "/moby.buildkit.v1.Control/UpdateBuildHistory" => {
                    let asked: proto::UpdateBuildHistoryRequest = request.message().await?;
                    let (pinned, delete) = (asked.pinned, asked.delete);
                    let change = || self.0.cache.update_history(&asked.r#ref, pinned, delete).map_err(status);
                    // What is not there is gone, as with BuildKit.
                    let there = asked.finalize || change()? || delete;
                    let none = || Status::new(Code::NotFound, format!("no record {}", asked.r#ref));
                    there.then(|| Answer::one(&proto::UpdateBuildHistoryResponse {})).ok_or_else(none)
                }
                "/moby.buildkit.v1.Control/Session" => self.session(request),
                "/grpc.health.v1.Health/Check" => {
                    Ok(Answer::one(&HealthCheckResponse { status: ServingStatus::Serving as i32 }))
                }
                "/containerd.services.content.v1.Content/Info" => {
                    history::info(&self.0.cache, request.message().await?)
                }
                "/containerd.services.content.v1.Content/Read" => {
                    let asked = request.message().await?;
                    history::read(&self.0.cache, &asked)
                }
                // Spans of clients are nobody's concern here: they are taken, as BuildKit takes them.
                "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Ok(Answer::one(&())),
                other => match other.strip_prefix("/moby.buildkit.v1.frontend.LLBBridge/") {
                    Some(method) => {
                        let none = || Status::new(Code::InvalidArgument, format!("no {BUILD_ID}"));
                        let id = request.metadata(BUILD_ID).ok_or_else(none)?.to_owned();
                        let job = self.0.job(&id).await?;
                        crate::gateway::call(&self.0, &job, method, request).await
                    }
                    None => Err(Status::new(Code::Unimplemented, format!("{other} is not there"))),
                },
            }
        })
    }
}

fn version() -> proto::types::BuildkitVersion {
    proto::types::BuildkitVersion {
        package: "github.com/moby/buildkit".into(),
        version: VERSION.into(),
        revision: String::new(),
    }
}

/// A failure of a build, as BuildKit's clients read it: with the lines it is about.
pub fn status(e: Error) -> Status {
    // Always this one, as from BuildKit: clients put the name of any other before the words.
    let mut status = Status::new(Code::Unknown, e.message);
    let Some(file) = e.file else { return status };
    for lines in &e.lines {
        // By their Go structs' names, in JSON: BuildKit's `errdefs.Source`.
        let position = |line: u32| serde_json::json!({ "line": line });
        let ranges: Vec<_> = lines
            .iter()
            .map(|r| serde_json::json!({ "start": position(r.start), "end": position(r.end) }))
            .collect();
        let data = base64::engine::general_purpose::STANDARD.encode(&file.data);
        let info = serde_json::json!({ "filename": file.filename, "data": data, "language": "Dockerfile" });
        status.details.push(Any {
            type_url: "github.com/moby/buildkit/errdefs.Source+json".into(),
            value: serde_json::json!({ "info": info, "ranges": ranges }).to_string().into_bytes(),
        });
    }
    status
}

fn source_info(source: &crate::graph::Source) -> pb::SourceInfo {
    pb::SourceInfo {
        filename: source.filename.clone(),
        data: source.data.clone(),
        language: "Dockerfile".into(),
        ..Default::default()
    }
}

fn ranges(lines: &[Range]) -> Vec<pb::Range> {
    let position = |line: u32| Some(pb::Position { line: i32::try_from(line).unwrap_or(0), character: 0 });
    lines.iter().map(|r| pb::Range { start: position(r.start), end: position(r.end) }).collect()
}

/// Tells of a graph's warnings.
pub(crate) fn warn(progress: &Progress, graph: &Graph) {
    use sha2::Digest;
    let vertex = crate::hex(&sha2::Sha256::digest(&graph.source.data));
    for warning in &graph.warnings {
        progress.warn(proto::VertexWarning {
            vertex: vertex.clone(),
            level: 1,
            short: warning.short().into_bytes(),
            detail: vec![warning.description.clone().into_bytes()],
            url: warning.url.clone(),
            info: Some(source_info(&graph.source)),
            ranges: ranges(&warning.lines),
        });
    }
}

pub(crate) fn platform(platform: &crate::platform::Platform) -> pb::Platform {
    pb::Platform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: Vec::new(),
    }
}

impl<W: Worker> Api<W> {
    fn workers(&self) -> Result<Answer, Status> {
        let keep = self.0.keep.and_then(|k| i64::try_from(k).ok());
        let gc_policy =
            keep.map(|keep| proto::types::GcPolicy { all: true, max_used_space: keep, ..Default::default() });
        let worker = self.record(gc_policy);
        Ok(Answer::one(&proto::ListWorkersResponse { record: vec![worker] }))
    }

    /// This engine, as a worker of BuildKit's.
    pub(crate) fn record(&self, gc: Option<proto::types::GcPolicy>) -> proto::types::WorkerRecord {
        worker_record(&self.0, gc)
    }

    /// A session on a call in place of a connection of its own: its bytes go in messages (`docker buildx bake`).
    fn session(&self, request: Request) -> Result<Answer, Status> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let greeting = Greeting::read(&request.metadata)?;
        let (ours, theirs) = tokio::io::duplex(SESSION);
        let (reader, mut writer) = tokio::io::split(theirs);
        let mut messages = request.messages;
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.next::<proto::BytesMessage>().await {
                if writer.write_all(&message.data).await.is_err() {
                    break;
                }
            }
            let _ = writer.shutdown().await;
        });
        let sessions = self.0.sessions.clone();
        tokio::spawn(async move {
            if let Err(e) = sessions.serve(greeting, ours).await {
                tracing::info!("session: {e}");
            }
        });
        Ok(Answer::stream(futures_util::stream::unfold(reader, |mut reader| async move {
            let mut data = vec![0; PIECE];
            let n = reader.read(&mut data).await.ok().filter(|n| *n > 0)?;
            data.truncate(n);
            Some((Ok(proto::BytesMessage { data }), reader))
        })))
    }

    async fn status(&self, reference: &str) -> Result<Answer, Status> {
        // Of the past, where it is not under way.
        match history::events(&self.0.cache, reference)? {
            Some(events) => Ok(Answer::stream(Arc::new(Progress::replay(events)).stream())),
            None => Ok(Answer::stream(self.0.progress(reference).await?.stream())),
        }
    }

    async fn solve(&self, request: proto::SolveRequest) -> Result<Answer, Status> {
        if request.definition.is_some() {
            return Err(Status::new(
                Code::Unimplemented,
                "definitions in LLB are not taken: this engine builds Dockerfiles",
            ));
        }
        crate::gateway::check_frontend(&request.frontend)?;
        crate::export::check(&self.0.worker, &request)?;
        if let Some(other) = request.entitlements.iter().find(|e| !ENTITLEMENTS.contains(&e.as_str())) {
            let words = format!("granting entitlement {other} is not allowed by build daemon configuration");
            return Err(Status::new(Code::Unknown, words));
        }
        let mut context = Context {
            entitlements: request.entitlements.clone(),
            caches: request.cache.iter().flat_map(|c| c.imports.clone()).collect(),
            ..Context::default()
        };
        if !request.session.is_empty() {
            context.session = Some(self.0.sessions.get(&request.session).await?);
        }
        let session = context.session.clone();
        let listed = self.0.begin(&request.r#ref, context)?;
        let job = listed.job.clone();
        let begun = SystemTime::now();
        let work = async {
            let returned = if request.frontend.is_empty() {
                // Beside the client's own work, so that they are there when the first step asks.
                let (_, returned) = tokio::join!(job.solver.imported(), job.returned());
                returned?
            } else {
                let mut options = request.frontend_attrs.clone().into_iter().collect();
                crate::gateway::by_image(&request.frontend, &mut options);
                match job.dockerfile(&options).await.map_err(status)? {
                    Answered::Metadata(metadata) => {
                        Returned { metadata: metadata.into_iter().collect(), ..Returned::default() }
                    }
                    Answered::Refs(refs, multi_platform) => Returned {
                        solved: refs.into_iter().map(|(_, s)| s).collect(),
                        multi_platform,
                        metadata: HashMap::new(),
                    },
                }
            };
            let told = crate::export::all(&self.0, &job, &request, &returned, begun).await?;
            Ok((told, crate::export::said(&job, &request, &returned, begun)?))
        };
        // Without its session there is nobody to build for.
        let gone = async {
            match &session {
                Some(session) => session.closed().await,
                None => std::future::pending().await,
            }
        };
        let done = tokio::select! {
            biased;
            done = work => done,
            () = gone => Err(Status::new(Code::Cancelled, "context canceled")),
        };
        job.progress.end();
        let (done, said) = match done {
            Ok((told, said)) => (Ok(told), said),
            Err(e) => (Err(e), Vec::new()),
        };
        if !request.internal {
            // While it is under way it is told from its job.
            let progress = &job.progress;
            history::keep(&self.0, history::Ended { request: &request, begun, done: &done, progress, said });
        }
        drop(listed);
        crate::gc::later(&self.0);
        let exporter_response = done?;
        Ok(Answer::one(&proto::SolveResponse { exporter_response }))
    }

    async fn disk_usage(&self, asked: proto::DiskUsageRequest) -> Result<Answer, Status> {
        let usage = crate::gc::usage(&self.0).await.map_err(status)?;
        let filters = crate::gc::Filters::parse(&asked.filter).map_err(status)?;
        let limit = Duration::from_nanos(u64::try_from(asked.age_limit).unwrap_or(0));
        let record = usage
            .iter()
            .filter(|u| filters.fit(u) && (asked.age_limit == 0 || crate::gc::age(u) >= limit))
            .map(crate::gc::record)
            .collect();
        Ok(Answer::one(&proto::DiskUsageResponse { record }))
    }

    async fn prune(&self, asked: proto::PruneRequest) -> Result<Answer, Status> {
        let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
        let options = crate::gc::Prune {
            filters: crate::gc::Filters::parse(&asked.filter).map_err(status)?,
            all: asked.all,
            older: Duration::from_nanos(bytes(asked.keep_duration)),
            space: crate::gc::Space {
                reserved: bytes(asked.reserved_space),
                most: bytes(asked.max_used_space),
                free: bytes(asked.min_free_space),
            },
        };
        let (gone, _) = crate::gc::prune(&self.0, &options).await.map_err(status)?;
        let records: Vec<Result<_, Status>> = gone.iter().map(|u| Ok(crate::gc::record(u))).collect();
        Ok(Answer::stream(futures_util::stream::iter(records)))
    }
}

/// This engine, as a worker of BuildKit's.
pub(crate) fn worker_record<W: Worker>(
    builder: &Builder<W>,
    gc: Option<proto::types::GcPolicy>,
) -> proto::types::WorkerRecord {
    // The snapshotter's label is how clients tell that images are kept as containerd's store keeps them.
    let labels = [
        ("org.mobyproject.buildkit.worker.executor", "coracle"),
        ("org.mobyproject.buildkit.worker.snapshotter", "overlayfs"),
        ("org.mobyproject.buildkit.worker.network", "host"),
    ];
    let mut labels: HashMap<String, String> =
        labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    labels.extend(builder.worker.labels());
    proto::types::WorkerRecord {
        id: builder.worker.id(),
        labels,
        platforms: builder.worker.platforms().iter().map(platform).collect(),
        gc_policy: gc.into_iter().collect(),
        buildkit_version: Some(version()),
        cdi_devices: Vec::new(),
    }
}
