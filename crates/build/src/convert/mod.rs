//! A Dockerfile to steps: stages, what they begin with, which of them count, what they do.
//!
//! ```text
//! stages -> states -> [resolve: images and contexts they begin with, ONBUILD] -> dispatch -> vertices
//! ```
//!
//! Follows BuildKit's `dockerfile2llb`: names of steps, history and errors are the same.

mod args;
mod commands;
mod copy;
mod graph;
pub mod names;
mod ports;
mod resolve;
mod run;
pub mod scan;
mod signals;
pub mod state;

use std::collections::BTreeMap;

use crate::Error;
use crate::checks::{Checks, Rule};
use crate::config::Image;
use crate::dockerfile::expand::Lex;
use crate::dockerfile::stages::{Stage, Stages};
use crate::dockerfile::text::{did_you_mean, quote};
use crate::dockerfile::{Command, Instruction, Parsed, stages};
use crate::frontend::Host;
use crate::graph::{Range, Vertex, VertexRef};
use crate::options::Options;
use crate::outline::Outline;
use crate::patterns::Patterns;
use crate::platform::Platform;

use state::{Context, StageRef, State, Step};

pub use graph::{Builder, MAX_DEFINITION, Shown};
pub use resolve::git_source;

/// The main context, as the frontend found it.
#[derive(Clone, Debug, Default)]
pub struct MainContext {
    /// Not the client's folder: its steps, whose last one is meant.
    pub steps: Vec<Vertex>,
    /// `.dockerignore`, where it stood beside the Dockerfile.
    pub ignore: Option<(String, Vec<u8>)>,
}

/// What is converted.
pub struct Job<'a> {
    /// The file.
    pub parsed: &'a Parsed,
    /// What was asked for.
    pub options: &'a Options,
    /// What for; `None` for the builder's platform.
    pub target: Option<&'a Platform>,
    /// The main context.
    pub context: &'a MainContext,
    /// Rules that are looked at.
    pub checks: Checks,
    /// Look at all stages, not at those that count only.
    pub all_stages: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Converted {
    /// Steps, in topological order; those that do not count are still among them.
    pub steps: Vec<Vertex>,
    /// The target's files.
    pub output: Option<VertexRef>,
    /// What a scanner looks at besides.
    pub extras: scan::Extras,
    /// The target's configuration.
    pub image: Image,
    /// Its base image's.
    pub base: Option<Image>,
    /// What it is for.
    pub platform: Platform,
    /// What was found.
    pub checks: Checks,
    /// What the build can be given.
    pub outline: Outline,
}

/// Converts a Dockerfile; the checks' findings come also with an error.
pub async fn convert<H: Host>(job: Job<'_>, host: &H) -> (Checks, Result<Converted, Error>) {
    let mut checks = job.checks.clone();
    for line in &job.parsed.empty_continuations {
        let at = Range { start: *line, end: *line };
        checks.report(&Rule::NO_EMPTY_CONTINUATION, &[at], "Empty continuation line".into());
    }
    let read = match stages(job.parsed, &mut checks) {
        Ok(read) => read,
        Err(error) => return (checks, Err(error)),
    };
    args::check_stages(&read, &mut checks);
    let mut context = match prepare(&job, &read, &mut checks, host) {
        Ok(context) => context,
        Err(error) => return (checks, Err(error)),
    };
    let result = work(&mut context, &read, &job, host).await;
    let checks = context.checks.clone();
    match result {
        Ok(target) => (checks, finish(context, target)),
        Err(error) => (checks, Err(error)),
    }
}

fn prepare<'a, H: Host>(
    job: &Job<'a>,
    read: &Stages,
    checks: &mut Checks,
    host: &H,
) -> Result<Context<'a>, Error> {
    let lex = Lex::new(job.parsed.escape);
    let platforms = host.platforms();
    let build = platforms.first().cloned().unwrap_or_else(Platform::host);
    let target = job.target.cloned().unwrap_or_else(|| build.clone());
    let defaults = args::defaults(job.options, &build, &target);
    args::check_defaults(&defaults, &lex, read, checks);
    let (global, outline) = args::global(defaults, &lex, read, Some(job.options))?;
    Ok(Context {
        options: job.options,
        lex,
        target,
        implicit_target: job.target.is_none(),
        platforms,
        global,
        outline,
        checks: std::mem::take(checks),
        graph: graph::Builder::default(),
        stages: Vec::new(),
        order: Vec::new(),
        by_name: BTreeMap::new(),
        paths: vec![Default::default()],
        folders: Vec::new(),
        main: None,
        ignore: Patterns::default(),
        proxy: run::proxies(job.options),
    })
}

async fn work<H: Host>(
    context: &mut Context<'_>,
    read: &Stages,
    job: &Job<'_>,
    host: &H,
) -> Result<StageRef, Error> {
    for (at, stage) in read.stages.iter().enumerate() {
        add_stage(context, stage, at)?;
    }
    let target = match context.options.target.as_str() {
        "" => {
            *context.order.last().ok_or_else(|| Error::invalid("dockerfile contains no stages to build"))?
        }
        name => context.find(name).ok_or_else(|| {
            let meant = did_you_mean(name, &context.names(), true);
            Error::invalid(format!("target stage {} could not be found{meant}", quote(name)))
                .with_kind(crate::error::Kind::NotFound)
        })?,
    };
    for at in 0..read.stages.len() {
        let commands = read.stages[at].commands.clone();
        let steps = commands.into_iter().map(|c| step(context, c, false)).collect::<Result<Vec<_>, _>>()?;
        need(context, at, &steps);
        context.stages[at].steps = steps;
    }
    check_circles(context)?;
    if let [only] = context.order[..] {
        context.stages[only].shown.clear();
    }
    let counts = resolve::all(context, target, job.all_stages, host).await?;
    load_main_context(context, job, host).await?;
    let order = context.order.clone();
    for stage in order {
        let skip = !counts.contains(&stage) || context.stages[stage].dispatched;
        if skip && !job.all_stages {
            continue;
        }
        dispatch_stage(context, stage)?;
    }
    let paths = context.stages[target].paths;
    context.paths[paths].insert("/".into());
    Ok(target)
}

fn finish(mut context: Context<'_>, target: StageRef) -> Result<Converted, Error> {
    context.checks.verdict()?;
    let mut extras = scan::extras(&mut context, target)?;
    context.complete_folders();
    if context.options.request.is_some() {
        collect_outline(&mut context, target);
    }
    let state = std::mem::take(&mut context.stages[target]);
    let mut image = state.image;
    image.config.labels.extend(context.options.labels.clone());
    image.created = None;
    if !context.implicit_target {
        let wanted = &context.target;
        let same = wanted.os == image.os && wanted.architecture == image.architecture;
        image.os.clone_from(&wanted.os);
        image.architecture.clone_from(&wanted.architecture);
        if !wanted.variant.is_empty() || !same {
            image.variant.clone_from(&wanted.variant);
        }
        if !wanted.os_version.is_empty() || !same {
            image.os_version.clone_from(&wanted.os_version);
        }
    }
    let platform = image.platform().normalized();
    image.set_platform(&platform);
    let mut output = state.root;
    let mut ends = vec![&mut output];
    ends.extend(extras.files.iter_mut().map(|(_, files)| files));
    let steps = context.graph.finish(&mut ends, graph::Shown::Last);
    let platform = if context.implicit_target { platform } else { context.target };
    Ok(Converted {
        steps,
        output,
        extras,
        image,
        base: state.base_image,
        platform,
        checks: context.checks,
        outline: state.outline,
    })
}

/// What the target and all it needs can be given.
fn collect_outline(context: &mut Context<'_>, target: StageRef) {
    let mut all = Outline::default();
    for stage in resolve::reachable(context, target) {
        let own = &mut context.stages[stage].outline;
        own.mark_needed();
        for name in own.used.clone() {
            if let Some(arg) = own.args.get(&name) {
                all.args.entry(name).or_insert_with(|| arg.clone());
            }
        }
        for (from, to) in [(&own.secrets, &mut all.secrets), (&own.ssh, &mut all.ssh)] {
            for (name, found) in from {
                to.entry(name.clone()).or_insert(*found);
            }
        }
    }
    context.stages[target].outline = all;
}

/// Adds a stage of the Dockerfile.
fn add_stage(context: &mut Context<'_>, stage: &Stage, at: usize) -> Result<(), Error> {
    let lines = [stage.lines];
    let expand = |context: &mut Context<'_>, word: &str| {
        let (expanded, result) = context.lex.expand(word, &context.global);
        args::check_from(&expanded, &context.global, &context.outline, stage.lines, &mut context.checks);
        (expanded, result)
    };
    let (name, result) = expand(context, &stage.from.base);
    result.map_err(|why| Error::invalid(why).at(&lines))?;
    if name.word.is_empty() {
        let why = format!("base name ({}) should not be blank", stage.from.base);
        return Err(Error::invalid(why).at(&lines));
    }
    let mut state = State {
        stage: Some(Stage { commands: Vec::new(), ..stage.clone() }),
        base_name: name.word,
        name: stage.from.stage.clone(),
        shown: stage.from.stage.clone(),
        lines: stage.lines,
        paths: context.new_paths(),
        ..State::default()
    };
    let outline = context.options.request.is_some();
    if outline {
        state.outline = context.outline.clone();
        state.outline.used.extend(name.matched);
    }
    let written = &stage.from.platform;
    if !written.is_empty() {
        let (platform, result) = expand(context, written);
        args::check_platform(
            written,
            &stage.from.stage,
            &platform,
            &context.global,
            stage.lines,
            &mut context.checks,
        );
        result.map_err(|why| {
            Error::invalid(format!("failed to process arguments for platform {}: {why}", platform.word))
                .at(&lines)
        })?;
        let known = crate::dockerfile::expand::Env::keys(&context.global);
        let meant = platform.unmatched.iter().map(|n| did_you_mean(n, &known, true)).find(|m| !m.is_empty());
        let meant = meant.unwrap_or_default();
        if platform.word.is_empty() {
            return Err(
                Error::invalid(format!("empty platform value from expression {written}{meant}")).at(&lines)
            );
        }
        let parsed = Platform::parse(&platform.word).map_err(|why| {
            // Named twice, as BuildKit does it.
            let mut error = Error::invalid(format!("failed to parse platform {written}: {why}{meant}"));
            error.lines = vec![lines.to_vec(); 2];
            error
        })?;
        state.outline.used.extend(platform.matched.into_iter().filter(|_| outline));
        state.platform = Some(parsed);
    }
    if !state.name.is_empty() {
        let platform = state.platform.clone().unwrap_or_else(|| context.target.clone());
        if let Some(found) = resolve::named_context(context.options, &state.name, &platform)? {
            state.context = Some(found);
        }
    } else {
        state.shown = format!("stage-{at}");
    }
    if let (None, Some(base)) = (&state.context, context.by_name.get(&state.base_name)) {
        state.base = Some(*base);
        if outline {
            let used = std::mem::take(&mut state.outline.used);
            state.outline = context.stages[*base].outline.clone();
            state.outline.used.extend(used);
        }
    }
    if state.context.is_none() {
        let begins = usize::from(state.base_name != "scratch" && state.base.is_none());
        let makes = |c: &&Instruction| {
            matches!(c.command, Command::Add(_) | Command::Copy(_) | Command::Run(_) | Command::Workdir(_))
        };
        state.total = begins + stage.commands.iter().filter(makes).count();
        state.no_cache = context.options.is_no_cache(&state.name);
    }
    register(context, state);
    Ok(())
}

/// Gives a stage its place; from here on it is found by its name.
fn register(context: &mut Context<'_>, state: State) -> StageRef {
    let at = context.stages.len();
    if !state.name.is_empty() {
        context.by_name.insert(state.name.clone(), at);
    }
    context.stages.push(state);
    context.order.push(at);
    at
}

/// An instruction with the stages it takes files from. Images that are no stage's become stages of their own.
fn step(context: &mut Context<'_>, instruction: Instruction, on_build: bool) -> Result<Step, Error> {
    let mut sources = Vec::new();
    match &instruction.command {
        Command::Copy(files) if !files.from.is_empty() => {
            let from = files.from.as_str();
            let plain = context.lex.word(from, &Default::default() as &crate::dockerfile::expand::EnvList);
            if plain.map_err(Error::invalid)? != from {
                return Err(Error::invalid(
                    "variable expansion is not supported for --from, define a new stage with FROM using ARG from \
                     global scope as a workaround",
                ));
            }
            sources.push(match from.parse::<i64>() {
                Ok(index) => {
                    let found = usize::try_from(index).ok().and_then(|i| context.order.get(i).copied());
                    found.ok_or_else(|| Error::invalid(format!("invalid stage index {index}")))?
                }
                Err(_) => stage_or_image(context, from, instruction.lines),
            });
        }
        Command::Run(run) => {
            for mount in &run.mount_sources {
                // Which kind of mount it is may hang on variables: all have a source, be it an empty one.
                let from = if mount.from.is_empty() { "scratch" } else { &mount.from };
                sources.push(stage_or_image(context, from, instruction.lines));
            }
        }
        _ => {}
    }
    Ok(Step { instruction, sources, on_build })
}

fn stage_or_image(context: &mut Context<'_>, name: &str, lines: Range) -> StageRef {
    if let Some(found) = context.find(name) {
        return found;
    }
    let paths = context.new_paths();
    let state = State { base_name: name.to_owned(), lines, paths, ..State::default() };
    register(context, state)
}

/// Notes which stages a stage needs.
fn need(context: &mut Context<'_>, stage: StageRef, steps: &[Step]) {
    let needs: Vec<_> =
        steps.iter().flat_map(|s| s.sources.iter().map(|n| (*n, s.instruction.lines))).collect();
    context.stages[stage].needs.extend(needs);
}

/// Stages may not need each other in a circle. (What a stage begins with stands before it.)
fn check_circles(context: &Context<'_>) -> Result<(), Error> {
    let mut done = vec![false; context.stages.len()];
    for first in &context.order {
        // The way down, each with how many of its needs were looked at.
        let mut way: Vec<(StageRef, usize)> = Vec::new();
        if !std::mem::replace(&mut done[*first], true) {
            way.push((*first, 0));
        }
        while let Some((stage, next)) = way.last_mut() {
            let Some((needed, _)) = context.stages[*stage].needs.get(*next).copied() else {
                way.pop();
                continue;
            };
            *next += 1;
            if way.iter().any(|(s, _)| *s == needed) {
                let name = &context.stages[*first].shown;
                let mut error = Error::invalid(format!("circular dependency detected on stage: {name}"));
                let lines = way.iter().rev().map(|(s, next)| vec![context.stages[*s].needs[next - 1].1]);
                error.lines = lines.collect();
                return Err(error);
            }
            if !std::mem::replace(&mut done[needed], true) {
                way.push((needed, 0));
            }
        }
    }
    Ok(())
}

/// Takes up the main context: what `.dockerignore` leaves out, or the steps it comes from.
async fn load_main_context<H: Host>(context: &mut Context<'_>, job: &Job<'_>, host: &H) -> Result<(), Error> {
    if !job.context.steps.is_empty() {
        let first = context.graph.count();
        for vertex in &job.context.steps {
            let mut vertex = vertex.clone();
            vertex.inputs.iter_mut().for_each(|input| input.0 += first);
            context.main = Some(context.graph.add(vertex)?);
        }
        return Ok(());
    }
    let (name, data) = match &job.context.ignore {
        Some((name, data)) => (name.clone(), Some(data.clone())),
        None => {
            let local = crate::graph::Local {
                name: "context".into(),
                follow_paths: vec![".dockerignore".into()],
                shared_key: "context-.dockerignore".into(),
                ..Default::default()
            };
            let step = state::source("[internal] load .dockerignore", crate::graph::Op::Local(local));
            let read = host.read_files(&[step], &[".dockerignore".to_owned()]).await?;
            (".dockerignore".to_owned(), read.into_iter().next().flatten())
        }
    };
    let data = data.unwrap_or_default();
    if data.len() > crate::dockerfile::MAX_SIZE {
        let most = crate::dockerfile::MAX_SIZE;
        return Err(Error::invalid(format!(
            "failed parsing {name}: greater than max allowed size of {most}"
        )));
    }
    let patterns = crate::patterns::read_ignore_file(&data);
    context.ignore = Patterns::new(&patterns)
        .map_err(|why| Error::invalid(why).context(format!("failed parsing {name}")))?;
    Ok(())
}

/// Does what a stage says.
fn dispatch_stage(context: &mut Context<'_>, stage: StageRef) -> Result<(), Error> {
    let mut state = std::mem::take(&mut context.stages[stage]);
    if let Some(base) = state.base {
        let base = &context.stages[base];
        let history: usize = base.image.history.iter().map(|h| h.created_by.len() + 64).sum();
        let env: usize = base.image.config.env.iter().map(String::len).sum();
        context.graph.spend(history + 2 * env)?;
        state.inherit(base);
    }
    state.dispatched = true;
    if state.platform.is_none() {
        state.platform = Some(context.target.clone());
    }
    state.begin();
    let steps = std::mem::take(&mut state.steps);
    let mut result = Ok(());
    for step in &steps {
        // A step may take from its own stage's base, never from itself: the state can be out of its place.
        result = commands::dispatch(context, &mut state, step).map_err(|e| e.at(&[step.instruction.lines]));
        if result.is_err() {
            break;
        }
    }
    state.steps = steps;
    context.stages[stage] = state;
    result
}
