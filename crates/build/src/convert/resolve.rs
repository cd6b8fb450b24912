//! What stages begin with: images, contexts of the client, other stages' results.

use std::collections::BTreeSet;

use base64::Engine;
use futures_util::future::join_all;

use super::names::{GitRef, Reference};
use super::state::{Context, Folder, StageRef, Title, source};
use crate::Error;
use crate::checks::Rule;
use crate::config::Image;
use crate::dockerfile::text::{did_you_mean, quote};
use crate::dockerfile::{Command, Instruction, parse};
use crate::frontend::{Host, ImageRequest};
use crate::graph::{Git, Http, Local, Op, Vertex, VertexRef};
use crate::options::Options;
use crate::platform::Platform;

/// The context (`--build-context`) of a name, if there is one: its key and what it is.
///
/// # Errors
/// A name that can be no image's.
pub fn named_context(options: &Options, name: &str, platform: &Platform) -> Result<Option<String>, Error> {
    if name.eq_ignore_ascii_case("scratch")
        || name.eq_ignore_ascii_case("context")
        || options.contexts.is_empty()
    {
        return Ok(None);
    }
    let reference = Reference::parse(name)
        .map_err(|why| Error::invalid(format!("invalid context name {name}: {why}")))?;
    let familiar = reference.familiar();
    let name = familiar.strip_suffix(":latest").unwrap_or(&familiar);
    let special = format!("{name}::{}", platform.normalized());
    Ok([special, name.to_owned()].into_iter().find(|key| options.contexts.contains_key(key)))
}

/// Stages that a stage needs, itself among them, in no order.
pub fn reachable(context: &Context<'_>, target: StageRef) -> BTreeSet<StageRef> {
    let mut found = BTreeSet::new();
    let mut open = vec![target];
    while let Some(stage) = open.pop() {
        if found.insert(stage) {
            let state = &context.stages[stage];
            open.extend(state.needs.iter().map(|(s, _)| *s).chain(state.base));
        }
    }
    found
}

/// Finds what all stages begin with that count, until `ONBUILD` asks for no more.
pub async fn all<H: Host>(
    context: &mut Context<'_>,
    target: StageRef,
    all_stages: bool,
    host: &H,
) -> Result<BTreeSet<StageRef>, Error> {
    loop {
        let counts = reachable(context, target);
        bases(context, &counts, all_stages, host).await?;
        if !triggers(context, &counts)? {
            return Ok(counts);
        }
    }
}

/// What a stage begins with.
enum Begin {
    /// Nothing.
    Scratch,
    /// A context of the client.
    Context { stage: StageRef, key: String, platform: Platform, stands_for_stage: bool },
    /// An image.
    Image { stage: StageRef, written: String, reference: Reference, request: ImageRequest },
}

/// What was found of it.
#[derive(Default)]
struct Found {
    root: Option<VertexRef>,
    image: Option<Image>,
}

async fn bases<H: Host>(
    context: &mut Context<'_>,
    counts: &BTreeSet<StageRef>,
    all_stages: bool,
    host: &H,
) -> Result<(), Error> {
    let mut begins = Vec::new();
    for stage in context.order.clone() {
        let state = &context.stages[stage];
        if state.base.is_some() || state.dispatched || state.resolved {
            continue;
        }
        let counts = counts.contains(&stage) || all_stages;
        let lines = [state.lines];
        match begin(context, stage).map_err(|e| e.at(&lines))? {
            _ if !counts => {}
            Begin::Scratch => {
                let target = context.target.clone();
                let state = &mut context.stages[stage];
                state.image = Image::empty(&target);
                state.platform = Some(target);
                state.resolved = true;
                state.dispatched = state.stage.is_none();
            }
            begin => begins.push(begin),
        }
    }
    // Images all at once, the same one once.
    let mut requests: Vec<ImageRequest> = Vec::new();
    for begin in &begins {
        if let Begin::Image { request, .. } = begin
            && !requests.contains(request)
        {
            requests.push(request.clone());
        }
    }
    let answers = join_all(requests.iter().map(|r| host.resolve_image(r.clone()))).await;
    for begin in begins {
        match begin {
            Begin::Scratch => {}
            Begin::Context { stage, key, platform, stands_for_stage } => {
                let lines = [context.stages[stage].lines];
                let found = load(context, stage, &key, &platform, host).await.map_err(|e| e.at(&lines))?;
                stands(context, stage, found, platform, stands_for_stage);
            }
            Begin::Image { stage, written, reference, request } => {
                let lines = [context.stages[stage].lines];
                let at = requests.iter().position(|r| *r == request).unwrap_or_default();
                let answer = answers[at].clone().map_err(|error| {
                    let mut known = context.names();
                    known.extend(COMMON);
                    let meant = did_you_mean(&written, &known, true);
                    let mut error = error.context(&written).at(&lines);
                    error.message.push_str(&meant);
                    error
                })?;
                let image = Image::read(&answer.config).map_err(|e| e.at(&lines))?;
                begin_with_image(
                    context,
                    stage,
                    &written,
                    reference,
                    request.platform,
                    answer.digest,
                    image,
                )?;
            }
        }
        // Images that files are taken from have no steps.
    }
    Ok(())
}

/// Names that images often have, for those that are misspelled.
const COMMON: [&str; 14] = [
    "alpine",
    "alpine:latest",
    "busybox",
    "busybox:latest",
    "centos",
    "centos:latest",
    "debian",
    "debian:latest",
    "golang",
    "golang:latest",
    "ubuntu",
    "ubuntu:latest",
    "fedora",
    "fedora:latest",
];

fn begin(context: &Context<'_>, stage: StageRef) -> Result<Begin, Error> {
    let state = &context.stages[stage];
    let platform = state.platform.clone().unwrap_or_else(|| context.target.clone());
    if let Some(key) = state.context.clone() {
        return Ok(Begin::Context { stage, key, platform, stands_for_stage: true });
    }
    let written = state.base_name.clone();
    if written == "scratch" {
        return Ok(Begin::Scratch);
    }
    let reference = Reference::parse(&written)
        .map_err(|why| Error::invalid(format!("failed to parse stage name {}: {why}", quote(&written))))?
        .tagged();
    if let Some(key) = named_context(context.options, &reference.to_string(), &platform)? {
        return Ok(Begin::Context { stage, key, platform, stands_for_stage: false });
    }
    let prefix = context.title_platform(Some(&platform)).map(|p| format!("{p} ")).unwrap_or_default();
    let request = ImageRequest {
        name: format!("[{prefix}internal] load metadata for {reference}"),
        reference: reference.to_string(),
        platform,
        mode: context.options.resolve,
        oci_layout: None,
    };
    Ok(Begin::Image { stage, written, reference, request })
}

fn begin_with_image(
    context: &mut Context<'_>,
    stage: StageRef,
    written: &str,
    mut reference: Reference,
    mut platform: Platform,
    digest: Option<String>,
    mut image: Image,
) -> Result<(), Error> {
    let base = image.clone();
    image.created = None;
    let implicit = context.stages[stage].platform.is_none() && context.implicit_target;
    let fits = |p: &Platform| p.os == image.os && p.architecture == image.architecture;
    if implicit
        && !fits(&platform)
        && let Some(other) = context.platforms.iter().find(|p| fits(p))
    {
        platform = other.clone();
    }
    if let Some(digest) = digest {
        reference.digest = digest;
    }
    let name = reference.to_string();
    // An image without layers is nothing.
    let empty = image.rootfs.diff_ids.is_empty() && image.history.iter().all(|h| h.empty_layer);
    let shown = context.title_platform(Some(&platform)).cloned();
    let state = &mut context.stages[stage];
    let lines = state.lines;
    if !empty {
        let title = Title { platform: shown.as_ref(), ..Title::default() };
        let vertex = Vertex {
            name: state.title(&format!("FROM {name}"), &title),
            op: Op::Image { reference: name.clone(), resolve: context.options.resolve },
            inputs: Vec::new(),
            platform: Some(platform.clone()),
            ignore_cache: false,
            lines: vec![lines],
            command: state.stage.as_ref().map(|s| s.code.clone()).unwrap_or_default(),
        };
        let actual = image.platform();
        state.root = Some(context.graph.add(vertex)?);
        if platform.os != actual.os || platform.architecture != actual.architecture {
            let message = format!(
                "Base image {written} was pulled with platform {}, expected {} for current build",
                quote(&actual.normalized().to_string()),
                quote(&platform.normalized().to_string())
            );
            context.checks.report(&Rule::INVALID_BASE_IMAGE_PLATFORM, &[lines], message);
        }
    }
    state.base_name = name;
    state.base_image = Some(base);
    state.image = image;
    state.platform = Some(platform);
    state.resolved = true;
    state.dispatched = state.stage.is_none();
    Ok(())
}

/// A context stands in a stage's place, or is what it begins with.
fn stands(context: &mut Context<'_>, stage: StageRef, found: Found, platform: Platform, whole: bool) {
    let state = &mut context.stages[stage];
    state.root = found.root;
    state.resolved = true;
    let mut image = found.image;
    if let Some(image) = &mut image {
        image.created = None;
    }
    if whole {
        state.dispatched = true;
        if let Some(image) = image {
            if !image.os.is_empty() && !image.architecture.is_empty() {
                state.platform = Some(image.platform());
            }
            state.image = image;
        }
        state.take_config();
    } else {
        state.base_image = image.clone();
        state.image = image.unwrap_or_else(|| Image::empty(&platform));
        state.platform = Some(platform);
        state.dispatched = state.stage.is_none();
    }
}

/// Triggers of base images and stages become the first steps. Says whether there are stages to be found for them.
fn triggers(context: &mut Context<'_>, counts: &BTreeSet<StageRef>) -> Result<bool, Error> {
    let mut more = false;
    for stage in counts.iter().copied() {
        let state = &mut context.stages[stage];
        let mut triggers = match state.base {
            None => std::mem::take(&mut state.image.config.on_build),
            Some(_) => Vec::new(),
        };
        if state.stage.is_none() {
            continue;
        }
        if let (Some(base), false) = (state.base, state.triggered) {
            let own = context.stages[base].steps.iter().filter_map(|s| match &s.instruction.command {
                Command::Onbuild(expression) => Some(expression.clone()),
                _ => None,
            });
            triggers.extend(own);
        }
        context.stages[stage].triggered = true;
        if triggers.is_empty() {
            continue;
        }
        let lines = context.stages[stage].lines;
        let mut steps = Vec::with_capacity(triggers.len());
        for trigger in triggers {
            let step = trigger_step(context, &trigger, lines).map_err(|mut error| {
                error.lines = vec![vec![lines]];
                error
            })?;
            more |= !step.sources.is_empty();
            steps.push(step);
        }
        super::need(context, stage, &steps);
        let state = &mut context.stages[stage];
        state.total += steps.len();
        state.steps.splice(0..0, steps);
    }
    Ok(more)
}

fn trigger_step(
    context: &mut Context<'_>,
    trigger: &str,
    lines: crate::graph::Range,
) -> Result<super::state::Step, Error> {
    let parsed = parse(trigger)?;
    let [node] = parsed.nodes.as_slice() else {
        return Err(Error::invalid("onbuild trigger should be a single expression"));
    };
    let mut node = node.clone();
    node.lines = lines;
    let instruction = Instruction::read(&node).map_err(Error::invalid)?;
    if let Command::From(_) = instruction.command {
        return Err(Error::invalid("FROM isn't allowed as an ONBUILD trigger"));
    }
    super::step(context, instruction, true)
}

/// Takes up a context of the client.
async fn load<H: Host>(
    context: &mut Context<'_>,
    stage: StageRef,
    key: &str,
    platform: &Platform,
    host: &H,
) -> Result<Found, Error> {
    let input = context.options.contexts.get(key).cloned().unwrap_or_default();
    let Some((kind, rest)) = input.split_once(':') else {
        return Err(Error::invalid(format!("invalid context specifier {input} for {key}")));
    };
    let kind = if kind.starts_with("git@") { "git" } else { kind };
    let path = rest.strip_prefix("//").unwrap_or(rest);
    match kind {
        "docker-image" if path == "scratch" => Ok(Found::default()),
        "docker-image" => {
            let reference = Reference::parse(path).map_err(Error::invalid)?.tagged();
            let request = ImageRequest {
                name: format!("[context {key}] load metadata for {path}"),
                reference: reference.to_string(),
                platform: platform.clone(),
                mode: context.options.resolve,
                oci_layout: None,
            };
            let answer = host.resolve_image(request).await?;
            let mut reference = reference;
            reference.digest = answer.digest.unwrap_or(reference.digest);
            let op = Op::Image { reference: reference.to_string(), resolve: context.options.resolve };
            let mut vertex = source(&format!("[context {key}] {path}"), op);
            vertex.platform = Some(platform.clone());
            let root = Some(context.graph.add(vertex)?);
            Ok(Found { root, image: Some(Image::read(&answer.config)?) })
        }
        "git" | "http" | "https" => {
            if let Some(op) = git_source(&input, false)? {
                let vertex = source(&format!("[internal] load git source {input}"), Op::Git(op));
                return Ok(Found { root: Some(context.graph.add(vertex)?), image: None });
            }
            if kind == "git" {
                return Err(Error::invalid(format!("invalid git context {input}")));
            }
            let op = Http { url: input.clone(), filename: "context".into(), ..Http::default() };
            let vertex = source(&format!("[context {key}] {input}"), Op::Http(op));
            Ok(Found { root: Some(context.graph.add(vertex)?), image: None })
        }
        "oci-layout" => {
            let wrong =
                |why: &str| Error::invalid(format!("could not parse oci-layout reference {path:?}: {why}"));
            let (named, digest) = path.split_once('@').ok_or_else(|| {
                Error::invalid(format!("oci-layout reference {} has no digest", quote(path)))
            })?;
            // The name is the store's, which is no image's; a tag in it says nothing.
            let tagless = named.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
            let store = tagless.map_or(named, |(store, _)| store).to_owned();
            let name = key.split("::").next().unwrap_or(key);
            let mut reference = Reference::parse(name).map_err(|why| wrong(&why))?;
            reference.digest = digest.to_owned();
            let reference = Reference::parse(&reference.to_string()).map_err(|why| wrong(&why))?.to_string();
            let request = ImageRequest {
                name: format!("[context {key}] load metadata for {reference}"),
                reference: reference.clone(),
                platform: platform.clone(),
                mode: context.options.resolve,
                oci_layout: Some(store.clone()),
            };
            let answer = host.resolve_image(request).await?;
            let op = Op::OciLayout { reference, store, session: String::new() };
            let mut vertex = source(&format!("[context {key}] OCI load from client"), op);
            vertex.platform = Some(platform.clone());
            let root = Some(context.graph.add(vertex)?);
            Ok(Found { root, image: Some(Image::read(&answer.config)?) })
        }
        "local" => {
            let ignore = Local {
                name: rest.to_owned(),
                follow_paths: vec![".dockerignore".into()],
                shared_key: format!("context:{key}-.dockerignore"),
                ..Local::default()
            };
            let step = source(&format!("[context {key}] load .dockerignore"), Op::Local(ignore));
            let read = host.read_files(&[step], &[".dockerignore".to_owned()]).await?;
            let ignore = read.into_iter().next().flatten().unwrap_or_default();
            let exclude = crate::patterns::read_ignore_file(&ignore);
            crate::patterns::Patterns::new(&exclude)
                .map_err(|why| Error::invalid(why).context("failed parsing .dockerignore"))?;
            let shared = context.options.shared_keys.get(key).cloned().unwrap_or_default();
            let local = Local {
                name: rest.to_owned(),
                exclude,
                shared_key: format!("context:{key}-{shared}"),
                differ: true,
                ..Local::default()
            };
            let vertex =
                context.graph.add(source(&format!("[context {key}] load from client"), Op::Local(local)))?;
            let paths = context.stages[stage].paths;
            context.folders.push(Folder { vertex, paths });
            Ok(Found { root: Some(vertex), image: None })
        }
        "input" => {
            let vertex = source(&format!("[context {key}] {input}"), Op::Input { name: rest.to_owned() });
            let root = Some(context.graph.add(vertex)?);
            let image = match context.options.input_metadata.get(rest) {
                Some(text) => input_config(text)
                    .map_err(|why| Error::invalid(format!("failed to parse input metadata {text}: {why}")))?,
                None => None,
            };
            Ok(Found { root, image: image.map(|data| Image::read(&data)).transpose()? })
        }
        other => Err(Error::invalid(format!("unsupported context source {other} for {key}"))),
    }
}

/// The configuration in an input's metadata (`{"containerimage.config": "base64"}`).
fn input_config(text: &str) -> Result<Option<Vec<u8>>, String> {
    let map: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|e| e.to_string())?;
    let Some(value) = map.get("containerimage.config").and_then(|v| v.as_str()) else { return Ok(None) };
    base64::engine::general_purpose::STANDARD.decode(value).map(Some).map_err(|e| e.to_string())
}

/// A repository as a source, if the text names one.
///
/// # Errors
/// A repository with a query that has no meaning.
pub fn git_source(text: &str, keep_git_dir: bool) -> Result<Option<Git>, Error> {
    let Some(found) = GitRef::parse(text).map_err(Error::invalid)? else { return Ok(None) };
    let ssh = !found.remote.contains("://") || found.remote.starts_with("ssh://");
    Ok(Some(Git {
        keep_git_dir: keep_git_dir || found.keep_git_dir == Some(true),
        skip_submodules: found.submodules == Some(false),
        checksum: Some(found.checksum).filter(|c| !c.is_empty()),
        auth_token_secret: "GIT_AUTH_TOKEN".into(),
        auth_header_secret: "GIT_AUTH_HEADER".into(),
        ssh: ssh.then(|| "default".to_owned()),
        remote: found.remote,
        reference: found.reference,
        subdir: found.subdir,
    }))
}
