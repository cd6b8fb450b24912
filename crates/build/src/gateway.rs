//! What a frontend asks of the builder (`LLBBridge`): here it is the client's own, which hands Dockerfiles over to ours.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bollard_buildkit_proto::fsutil::types::Stat;
use bollard_buildkit_proto::moby::buildkit::v1 as proto;
use bollard_buildkit_proto::pb;
use proto::apicaps::ApiCap;
use proto::frontend::{self, result};
use rustix::fs::{AtFlags, OFlags};
use std::os::fd::AsFd;

use crate::builder::Builder;
use crate::control::{DOCKERFILE, status, worker_record};
use crate::files::{Found, Root, names};
use crate::frontend::{Host, ImageRequest};
use crate::graph::ResolveMode;
use crate::jobs::{Answered, Job, Returned, Solved};
use crate::llb;
use crate::platform::Platform;
use crate::rpc::{Answer, Code, Request, Status};
use crate::session::files::go_mode;
use crate::solve::host::{Answers, read_file};
use crate::worker::{View, Worker};

/// What the gateway can do, in BuildKit's names (`frontend/gateway/pb/caps.go`).
const GATEWAY: &[&str] = &[
    "solve.base",
    "solve.inlinereturn",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "readdir",
    "statfile",
    "return",
    "returnmap",
    "proto.refarray",
    "reference.output",
    "frontend.caps",
    "frontend.inputs",
    "gateway.solve.evaluate",
    "gateway.warnings",
];

/// What steps can do, in BuildKit's names (`solver/pb/caps.go`).
const STEPS: &[&str] = &[
    "source.image",
    "source.image.resolvemode",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.local.differ",
    "source.http",
    "source.http.checksum",
    "exec.meta.base",
    "exec.meta.cgroup.parent",
    "exec.meta.network",
    "exec.meta.proxyenv",
    "exec.meta.security",
    "exec.meta.security.devices.v1",
    "exec.meta.setsdefaultpath",
    "exec.meta.ulimit",
    "exec.mount.bind",
    "exec.mount.bind.readwrite-nooutput",
    "exec.mount.cache",
    "exec.mount.cache.sharing",
    "exec.mount.selector",
    "exec.mount.tmpfs",
    "exec.mount.tmpfs.size",
    "exec.mount.secret",
    "exec.mount.ssh",
    "exec.secretenv",
    "exec.cgroup",
    "file.base",
    "file.rm.wildcard",
    "file.rm.nofollow",
    "constraints",
    "platform",
    "meta.ignorecache",
    "meta.description",
    "meta.exportcache",
    "mergeop",
    "exporter.image.annotations",
    "exporter.image.attestations",
    "source.git",
    "source.git.keepgitdir",
    "source.git.fullurl",
    "source.git.httpauth",
    "source.git.subdir",
    "source.git.checksum",
    "source.ocilayout",
    "exporter.multiple",
    "gc.freespacefilter",
];

fn caps(names: &[&str]) -> Vec<ApiCap> {
    names.iter().map(|id| ApiCap { id: (*id).into(), enabled: true, ..Default::default() }).collect()
}

/// Answers a call of a build's frontend.
pub(crate) async fn call<W: Worker>(
    builder: &Arc<Builder<W>>,
    job: &Arc<Job<W>>,
    method: &str,
    mut request: Request,
) -> Result<Answer, Status> {
    match method {
        "Ping" => Ok(Answer::one(&frontend::PongResponse {
            frontend_api_caps: caps(GATEWAY),
            llb_caps: caps(STEPS),
            workers: vec![worker_record(builder, None)],
        })),
        "Solve" => solve(job, request.message().await?).await,
        "Return" => {
            let returned: frontend::ReturnRequest = request.message().await?;
            job.give(give(job, returned));
            Ok(Answer::one(&frontend::ReturnResponse {}))
        }
        "ResolveImageConfig" => resolve(job, request.message().await?).await,
        "Inputs" => Ok(Answer::one(&frontend::InputsResponse::default())),
        "Evaluate" => {
            // What has an id is done.
            let asked: frontend::EvaluateRequest = request.message().await?;
            job.find_ref(&asked.r#ref)?;
            Ok(Answer::one(&frontend::EvaluateResponse {}))
        }
        "Warn" => {
            let asked: frontend::WarnRequest = request.message().await?;
            job.progress.warn(proto::VertexWarning {
                vertex: asked.digest,
                level: asked.level,
                short: asked.short,
                detail: asked.detail,
                url: asked.url,
                info: asked.info,
                ranges: asked.ranges,
            });
            Ok(Answer::one(&frontend::WarnResponse {}))
        }
        "ReadFile" => {
            let asked: frontend::ReadFileRequest = request.message().await?;
            let data = look(builder, job, &asked.r#ref, asked.file_path, |root, path| {
                let none = || crate::Error::invalid(format!("open {path}: no such file or directory"));
                read_file(root, path)?.ok_or_else(none)
            })
            .await?;
            let data = match asked.range {
                Some(range) => {
                    let from = usize::try_from(range.offset).unwrap_or(0).min(data.len());
                    let length = usize::try_from(range.length).unwrap_or(0);
                    let to =
                        if length == 0 { data.len() } else { from.saturating_add(length).min(data.len()) };
                    data[from..to].to_vec()
                }
                None => data,
            };
            Ok(Answer::one(&frontend::ReadFileResponse { data }))
        }
        "StatFile" => {
            let asked: frontend::StatFileRequest = request.message().await?;
            let stat = look(builder, job, &asked.r#ref, asked.path, |root, path| {
                let found = crate::files::select(root, path, false, false)?;
                found.first().map(stat_of).ok_or_else(|| crate::Error::invalid("not found"))
            })
            .await?;
            Ok(Answer::one(&frontend::StatFileResponse { stat: Some(stat) }))
        }
        "ReadDir" => {
            let asked: frontend::ReadDirRequest = request.message().await?;
            let pattern = asked.include_pattern;
            let entries = look(builder, job, &asked.r#ref, asked.dir_path, move |root, path| {
                read_dir(root, path, &pattern)
            })
            .await?;
            Ok(Answer::one(&frontend::ReadDirResponse { entries }))
        }
        other => Err(Status::new(Code::Unimplemented, format!("LLBBridge/{other} is not there"))),
    }
}

async fn solve<W: Worker>(job: &Arc<Job<W>>, request: frontend::SolveRequest) -> Result<Answer, Status> {
    let refs = |refs| {
        let result = describe(refs, false, request.allow_result_array_ref);
        Answer::one(&frontend::SolveResponse { r#ref: String::new(), result: Some(result) })
    };
    match request.frontend.as_str() {
        "" => {
            let definition = request.definition.unwrap_or_default();
            return Ok(refs(vec![job.definition(&definition).await.map_err(status)?]));
        }
        name => check_frontend(name)?,
    }
    let mut options: BTreeMap<String, String> = request.frontend_opt.into_iter().collect();
    by_image(&request.frontend, &mut options);
    inputs(job, request.frontend_inputs, &mut options).await?;
    let result = match job.dockerfile(&options).await.map_err(status)? {
        Answered::Metadata(metadata) => {
            frontend::Result { metadata: metadata.into_iter().collect(), ..Default::default() }
        }
        Answered::Refs(refs, list) => describe(refs, list, request.allow_result_array_ref),
    };
    Ok(Answer::one(&frontend::SolveResponse { r#ref: String::new(), result: Some(result) }))
}

/// The frontend that runs an image, which is how clients ask for a syntax (`BUILDKIT_SYNTAX`).
const BY_IMAGE: &str = "gateway.v0";

/// Refuses frontends that are none.
pub(crate) fn check_frontend(name: &str) -> Result<(), Status> {
    match name {
        "" | DOCKERFILE | BY_IMAGE => Ok(()),
        other => {
            let words = format!("frontend {other} is not there: {DOCKERFILE} is");
            Err(Status::new(Code::Unknown, words))
        }
    }
}

/// The image that is to run is a syntax, of which that of Dockerfiles is built in.
pub(crate) fn by_image(frontend: &str, options: &mut BTreeMap<String, String>) {
    if frontend == BY_IMAGE {
        let image = options.get("source").cloned().unwrap_or_default();
        options.insert("build-arg:BUILDKIT_SYNTAX".into(), image);
    }
}

/// Takes the inputs of a request: contexts that come by what they are made of, in place of by name.
async fn inputs<W: Worker>(
    job: &Arc<Job<W>>,
    inputs: HashMap<String, pb::Definition>,
    options: &mut BTreeMap<String, String>,
) -> Result<(), Status> {
    const CONTEXT: &str = "context";
    const FILE: &str = "dockerfile";
    // Clients name the same for both: the Dockerfile is looked for in the context.
    if inputs.get(FILE).is_some_and(|file| inputs.get(CONTEXT) != Some(file)) {
        let words = "a Dockerfile by an input of its own is not there: it is read from the context's";
        return Err(Status::new(Code::Unimplemented, words));
    }
    for (name, definition) in inputs.iter().filter(|(name, _)| *name != FILE) {
        let tree = job.solver.definition(definition).await.map_err(status)?;
        job.solver.add_input(name, tree, None);
    }
    if inputs.contains_key(CONTEXT) {
        options.insert(CONTEXT.into(), format!("input:{CONTEXT}"));
    }
    Ok(())
}

/// What was made, as a frontend is told of it.
fn describe(refs: Vec<(String, Solved)>, list: bool, by_message: bool) -> frontend::Result {
    const CONFIG: &str = "containerimage.config";
    let mut metadata = HashMap::new();
    let config = |solved: &Solved| {
        solved.target.as_ref().and_then(|t| serde_json::to_vec(&t.image).ok()).unwrap_or_default()
    };
    if !list && refs.len() == 1 {
        let (id, solved) = refs.into_iter().next().unwrap_or_else(|| unreachable!("one ref"));
        metadata.insert(CONFIG.to_owned(), config(&solved));
        let result =
            if by_message { result::Result::Ref(named(id)) } else { result::Result::RefDeprecated(id) };
        return frontend::Result { metadata, result: Some(result), ..Default::default() };
    }
    let mut map = HashMap::new();
    let mut platforms = Vec::new();
    for (id, solved) in refs {
        let platform = solved.target.as_ref().map(|t| t.platform.clone()).unwrap_or_default();
        let name = platform.to_string();
        metadata.insert(format!("{CONFIG}/{name}"), config(&solved));
        platforms.push(serde_json::json!({ "ID": name, "Platform": {
            "architecture": platform.architecture, "os": platform.os, "variant": platform.variant,
        } }));
        map.insert(name, id);
    }
    metadata.insert(
        "refs.platforms".into(),
        serde_json::json!({ "Platforms": platforms }).to_string().into_bytes(),
    );
    let result = if by_message {
        let refs = map.into_iter().map(|(k, id)| (k, named(id))).collect();
        result::Result::Refs(frontend::RefMap { refs })
    } else {
        result::Result::RefsDeprecated(frontend::RefMapDeprecated { refs: map })
    };
    frontend::Result { metadata, result: Some(result), ..Default::default() }
}

/// A ref with the definition by which other builds have it.
fn named(id: String) -> frontend::Ref {
    let def = Some(llb::of_ref(&id));
    frontend::Ref { id, def }
}

/// What the client's frontend came to.
fn give<W: Worker>(job: &Job<W>, returned: frontend::ReturnRequest) -> Result<Returned, Status> {
    if let Some(error) = returned.error {
        return Err(Status::from_message(error));
    }
    let result = returned.result.unwrap_or_default();
    let mut ids: Vec<(String, String)> = match result.result {
        None => Vec::new(),
        Some(result::Result::RefDeprecated(id)) => vec![(String::new(), id)],
        Some(result::Result::Ref(r)) => vec![(String::new(), r.id)],
        Some(result::Result::RefsDeprecated(map)) => map.refs.into_iter().collect(),
        Some(result::Result::Refs(map)) => map.refs.into_iter().map(|(k, r)| (k, r.id)).collect(),
    };
    ids.retain(|(_, id)| !id.is_empty());
    ids.sort();
    let mut all = Returned { metadata: result.metadata, ..Returned::default() };
    for (_, id) in ids {
        let (solved, list) = job.find_ref(&id)?;
        all.multi_platform |= list;
        all.solved.push(solved);
    }
    Ok(all)
}

async fn resolve<W: Worker>(
    job: &Arc<Job<W>>,
    request: frontend::ResolveImageConfigRequest,
) -> Result<Answer, Status> {
    let platform = match request.platform {
        Some(p) => Platform::normal(&p.os, &p.architecture, &p.variant),
        None => Platform::host(),
    };
    let name = if request.log_name.is_empty() {
        format!("resolve image config for {}", request.r#ref)
    } else {
        request.log_name
    };
    let mode = match request.resolve_mode.as_str() {
        "pull" => ResolveMode::Pull,
        "local" => ResolveMode::Local,
        _ => ResolveMode::Default,
    };
    let asked = ImageRequest { name, reference: request.r#ref.clone(), platform, mode, oci_layout: None };
    let found = Answers::new(job.solver.clone()).resolve_image(asked).await.map_err(status)?;
    Ok(Answer::one(&frontend::ResolveImageConfigResponse {
        digest: found.digest.unwrap_or_default(),
        config: found.config,
        r#ref: request.r#ref,
    }))
}

/// Looks into what a ref stands for.
async fn look<W: Worker, T: Send + 'static>(
    builder: &Arc<Builder<W>>,
    job: &Arc<Job<W>>,
    id: &str,
    path: String,
    work: impl FnOnce(&Root, &str) -> Result<T, crate::Error> + Send + 'static,
) -> Result<T, Status> {
    let (solved, _) = job.find_ref(id)?;
    let look = move |view: View| {
        let root = view.read.first().ok_or_else(|| crate::Error::invalid("nothing to read"))?;
        work(root, &path)
    };
    builder.worker.view(None, vec![solved.tree], look).await.map_err(status)
}

fn stat_of(found: &Found) -> Stat {
    let link = rustix::fs::readlinkat(&found.parent, found.name.as_str(), Vec::new());
    Stat {
        path: found.name.clone(),
        mode: go_mode(found.stat.st_mode),
        uid: found.stat.st_uid,
        gid: found.stat.st_gid,
        size: found.stat.st_size,
        mod_time: found.stat.st_mtime * 1_000_000_000 + i64::try_from(found.stat.st_mtime_nsec).unwrap_or(0),
        linkname: link.map(|l| l.to_string_lossy().into_owned()).unwrap_or_default(),
        ..Default::default()
    }
}

fn read_dir(root: &Root, path: &str, pattern: &str) -> Result<Vec<Stat>, crate::Error> {
    let folder =
        root.at(path, OFlags::PATH | OFlags::DIRECTORY).map_err(|e| crate::files::fault("open", path, e))?;
    let mut entries = Vec::new();
    for name in names(folder.as_fd()).map_err(|e| crate::files::fault("read", path, e))? {
        let text = name.to_string_lossy().into_owned();
        if !pattern.is_empty() && !crate::files::glob::matches(pattern, &text) {
            continue;
        }
        let stat = rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| crate::files::fault("stat", path, e))?;
        let parent = folder.try_clone().map_err(|e| crate::Error::invalid(e.to_string()))?;
        entries.push(stat_of(&Found { parent, name: text.clone(), path: text, stat }));
    }
    Ok(entries)
}
