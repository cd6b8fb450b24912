//! `RUN`.

use std::collections::BTreeMap;

use super::commands::{Expander, shown_command, titled, with_shell};
use super::graph::Inputs;
use super::names::{absolute, base, clean};
use super::state::{Context, State, Step};
use crate::Error;
use crate::dockerfile::expand::{Env, EnvList, Lex, Over};
use crate::dockerfile::heredoc;
use crate::dockerfile::instructions::Run;
use crate::dockerfile::mounts::{MountSpec, MountType};
use crate::dockerfile::text::quote;
use crate::graph::{Access, Exec, Mount, MountKind, Op, SecretEnv, Vertex};
use crate::options::Options;

/// Where a program that stands in the Dockerfile is put.
const INLINE: &str = "/dev/pipes";

/// Proxies that are given as build arguments.
pub fn proxies(options: &Options) -> BTreeMap<String, String> {
    const NAMES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];
    let mut out = BTreeMap::new();
    for (key, value) in &options.build_args {
        if let Some(name) = NAMES.iter().find(|n| key.eq_ignore_ascii_case(n)) {
            out.insert((*name).to_owned(), value.clone());
            out.insert(name.to_uppercase(), value.clone());
        }
    }
    out
}

/// Adds the step.
pub fn dispatch(context: &mut Context<'_>, state: &mut State, step: &Step, run: &Run) -> Result<(), Error> {
    if !run.devices.is_empty() {
        return Err(Error::invalid(
            "device feature is only supported in Dockerfile frontend 1.14.0-labs or later",
        ));
    }
    let expander = Expander::new(context, step);
    let mut specs = Vec::with_capacity(run.mounts.len());
    for text in &run.mounts {
        let mut failed = None;
        let spec = MountSpec::parse(text, &mut |word| {
            expander.word(context, state, word).map_err(|error| {
                let message = error.message.clone();
                failed = Some(error);
                message
            })
        });
        match (spec, failed) {
            (_, Some(error)) => return Err(error),
            (spec, None) => specs.push(spec.map_err(Error::invalid)?),
        }
    }
    // A program can read all there is.
    context.paths[state.paths].insert("/".into());

    let mut inputs = Inputs::default();
    let mut exec = Exec { base: inputs.slot(state.root), ..Exec::default() };
    let mut code = step.instruction.code.clone();
    let mut words = run.line.words.clone();
    if let Some(first) = run.files.first() {
        let [line] = words.as_slice() else {
            return Err(Error::invalid(format!(
                "parsing produced an invalid run command: [{}]",
                words.join(" ")
            )));
        };
        if heredoc::from_word(line).ok().flatten().is_some() {
            let data = first.text();
            if state.image.os != "windows" && data.starts_with("#!") {
                words = vec![format!("{INLINE}/{}", first.name)];
                let kind =
                    MountKind::Inline { name: first.file().map_err(Error::invalid)?, data, mode: 0o755 };
                exec.mounts.push(Mount { target: INLINE.into(), kind });
            } else {
                words = vec![data];
            }
            code.push_str(&format!(" ({})", summary(&first.content)));
        } else {
            // The shell reads them itself.
            let mut text = line.clone();
            for file in &run.files {
                text.push_str(&format!("\n{}{}", file.content, file.name));
            }
            words = vec![text];
        }
    }
    exec.args = if run.line.shell { with_shell(state, &words) } else { words };

    mounts(context, state, step, &specs, &mut inputs, &mut exec)?;
    exec.env = state.env.to_strings();
    exec.cwd.clone_from(&state.cwd);
    exec.user.clone_from(&state.image.config.user);
    exec.hostname.clone_from(&context.options.hostname);
    exec.extra_hosts.clone_from(&context.options.extra_hosts);
    exec.shm_size = context.options.shm_size;
    exec.ulimits.clone_from(&context.options.ulimits);
    exec.cgroup_parent.clone_from(&context.options.cgroup_parent);
    exec.network = match run.network {
        None | Some(crate::graph::Network::Default) => context.options.network,
        Some(network) => network,
    };
    exec.security = run.security;
    exec.proxy.clone_from(&context.proxy);

    let lex = Lex { raw_quotes: true, skip_unset: true, ..context.lex };
    // A secret does not show; that it is one does.
    let mut masked = EnvList::default();
    specs.iter().filter_map(|s| s.env.as_ref()).for_each(|name| masked.set(name, "****"));
    let text = shown_command(&lex, &code, &Over(&masked, &state.env));
    let name = titled(context, state, step, &text);
    let by = format!("RUN {} # buildkit", history(&exec.args, state));
    state.root = Some(context.graph.add(Vertex {
        name,
        op: Op::Exec(Box::new(exec)),
        inputs: inputs.0,
        platform: state.platform.clone(),
        ignore_cache: state.no_cache,
        lines: vec![step.instruction.lines],
        command: step.instruction.code.clone(),
    })?);
    state.commit(&mut context.graph, by, true, context.options.epoch)
}

/// `|2 A=b C=d /bin/sh -c x`
fn history(args: &[String], state: &State) -> String {
    let mut given: Vec<(&str, &str)> = Vec::new();
    for arg in &state.build_args {
        let value = state.env.get(&arg.key).or(arg.value.as_deref()).unwrap_or_default();
        match given.iter_mut().find(|(key, _)| *key == arg.key) {
            Some(found) => found.1 = value,
            None => given.push((&arg.key, value)),
        }
    }
    let mut words: Vec<String> = Vec::new();
    if !given.is_empty() {
        words.push(format!("|{}", given.len()));
        words.extend(given.iter().map(|(key, value)| format!("{key}={value}")));
    }
    words.extend(args.iter().cloned());
    words.join(" ")
}

/// The first line of a text.
fn summary(text: &str) -> String {
    let text = text.trim();
    match text.split_once('\n') {
        Some((first, _)) => format!("{}...", first.trim_end_matches('\r')),
        None => text.to_owned(),
    }
}

fn mounts(
    context: &mut Context<'_>,
    state: &mut State,
    step: &Step,
    specs: &[MountSpec],
    inputs: &mut Inputs,
    exec: &mut Exec,
) -> Result<(), Error> {
    let lines = step.instruction.lines;
    for (at, spec) in specs.iter().enumerate() {
        let outline = context.options.request.is_some();
        match spec.kind {
            MountType::Secret => {
                secret(spec, exec)?;
                if outline {
                    let id = secret_id(spec);
                    state.outline.secrets.entry(id).or_insert((spec.required, lines));
                }
                continue;
            }
            MountType::Ssh => {
                if !spec.source.is_empty() {
                    return Err(Error::invalid("ssh does not support source"));
                }
                let id = if spec.id.is_empty() { "default" } else { &spec.id };
                if outline {
                    state.outline.ssh.entry(id.to_owned()).or_insert((spec.required, lines));
                }
                let agents = exec.mounts.iter().filter(|m| matches!(m.kind, MountKind::Ssh { .. })).count();
                let target = match spec.target.as_str() {
                    "" => format!("/run/buildkit/ssh_agent.{agents}"),
                    target => absolute("/", target),
                };
                let kind = MountKind::Ssh {
                    id: id.to_owned(),
                    mode: spec.mode.unwrap_or(0o600),
                    uid: spec.uid.unwrap_or_default(),
                    gid: spec.gid.unwrap_or_default(),
                    required: spec.required,
                };
                exec.mounts.push(Mount { target, kind });
                continue;
            }
            _ => {}
        }
        let from = from(context, state, step, spec, at)?;
        let target = absolute(&state.cwd, &spec.target);
        if target == "/" {
            return Err(Error::invalid(format!("invalid mount target {}", quote(&target))));
        }
        let source = clean(&format!("/{}", spec.source));
        let kind = match spec.kind {
            MountType::Tmpfs => MountKind::Tmpfs { size: spec.size, read_only: spec.read_only },
            MountType::Cache => {
                let id = if spec.id.is_empty() { clean(&spec.target) } else { spec.id.clone() };
                let said = spec.mode.is_some() || spec.uid.is_some() || spec.gid.is_some();
                let access = said.then(|| Access {
                    mode: spec.mode.unwrap_or(0o755),
                    uid: spec.uid.unwrap_or_default(),
                    gid: spec.gid.unwrap_or_default(),
                });
                MountKind::Cache {
                    id: format!("{}/{id}", context.options.cache_namespace),
                    // A folder that is made for its owner starts empty, as BuildKit's does.
                    from: inputs.slot(from.filter(|_| !said)),
                    source,
                    sharing: spec.sharing.unwrap_or_default(),
                    access,
                    read_only: spec.read_only,
                }
            }
            _ => MountKind::Bind { from: inputs.slot(from), source, writable: !spec.read_only },
        };
        exec.mounts.push(Mount { target, kind });
    }
    Ok(())
}

/// The tree that a mount is taken from.
fn from(
    context: &mut Context<'_>,
    state: &State,
    step: &Step,
    spec: &MountSpec,
    at: usize,
) -> Result<Option<crate::graph::VertexRef>, Error> {
    if spec.kind == MountType::Tmpfs {
        return Ok(None);
    }
    let path = clean(&format!("/{}", spec.source));
    if spec.from.is_empty() {
        if spec.kind == MountType::Cache {
            return Ok(None);
        }
        context.paths[0].insert(path);
        return context.main_context().map(Some);
    }
    let Some(source) = step.sources.get(at).copied() else { return Ok(None) };
    if !context.stages[source].dispatched {
        let (from, target) = (quote(&spec.from), quote(&spec.target));
        let why = format!(
            "cannot mount from stage {from} to {target}, stage needs to be defined before current command"
        );
        return Err(Error::invalid(why));
    }
    let _ = state;
    let paths = context.stages[source].paths;
    context.paths[paths].insert(path);
    Ok(context.stages[source].root)
}

fn secret_id(spec: &MountSpec) -> String {
    let id = if spec.source.is_empty() { &spec.id } else { &spec.source };
    if id.is_empty() { base(&spec.target).to_owned() } else { id.clone() }
}

fn secret(spec: &MountSpec, exec: &mut Exec) -> Result<(), Error> {
    let id = secret_id(spec);
    if id.is_empty() {
        return Err(Error::invalid("one of source, target required"));
    }
    if let Some(env) = &spec.env {
        exec.secret_env.push(SecretEnv { id: id.clone(), env: env.clone(), required: spec.required });
        if spec.target.is_empty() {
            return Ok(());
        }
    }
    let target = match spec.target.as_str() {
        "" => format!("/run/secrets/{}", base(&id)),
        target => absolute("/", target),
    };
    let kind = MountKind::Secret {
        id,
        mode: spec.mode.unwrap_or(0o400),
        uid: spec.uid.unwrap_or_default(),
        gid: spec.gid.unwrap_or_default(),
        required: spec.required,
    };
    exec.mounts.push(Mount { target, kind });
    Ok(())
}
