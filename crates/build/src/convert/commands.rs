//! Instructions that change the configuration only, and the way to those that do more.

use super::names::absolute;
use super::state::{Context, State, Step, Title};
use super::{copy, ports, run, scan, signals};
use crate::Error;
use crate::checks::Rule;
use crate::config::{Empty, Healthcheck};
use crate::dockerfile::Command;
use crate::dockerfile::MAX_VARIABLES;
use crate::dockerfile::expand::{Env, EnvList, Lex};
use crate::dockerfile::instructions::{Arg, CommandLine};
use crate::dockerfile::text::{quote, quote_all, quote_char, show_duration, suggest};
use crate::dockerfile::words::Pair;
use crate::graph::{Op, Owner, Range, Vertex};
use crate::outline::ArgInfo;

/// Arguments that are never variables of a step.
const NOT_ENV: [&str; 2] = [scan::OF_CONTEXT, scan::OF_STAGES];

/// A step's words, with the variables of its stage.
pub struct Expander<'a> {
    lex: Lex,
    lines: Range,
    name: &'a str,
}

impl<'a> Expander<'a> {
    /// For an instruction.
    pub fn new(context: &Context<'_>, step: &'a Step) -> Expander<'a> {
        Expander { lex: context.lex, lines: step.instruction.lines, name: &step.instruction.name }
    }

    /// The same where quotes mean nothing (heredocs).
    pub fn raw(&self) -> Expander<'a> {
        Expander { lex: Lex { skip_quotes: true, ..Lex::new('\\') }, lines: self.lines, name: self.name }
    }

    /// A word with its variables.
    pub fn word(&self, context: &mut Context<'_>, state: &State, word: &str) -> Result<String, Error> {
        let (expanded, result) = self.lex.expand(word, &state.env);
        for name in &expanded.unmatched {
            let declared = state.build_args.iter().any(|a| a.key == *name);
            if declared || NOT_ENV.contains(&name.as_str()) {
                continue;
            }
            let meant = suggest(name, &state.env.keys(), true).map(|s| format!(" (did you mean ${s}?)"));
            let message = format!("Usage of undefined variable '${name}'{}", meant.unwrap_or_default());
            context.checks.report(&Rule::UNDEFINED_VAR, &[self.lines], message);
        }
        result.map_err(Error::invalid)?;
        Ok(expanded.word)
    }

    /// Words with their variables.
    pub fn words(
        &self,
        context: &mut Context<'_>,
        state: &State,
        words: &[String],
    ) -> Result<Vec<String>, Error> {
        words.iter().map(|word| self.word(context, state, word)).collect()
    }

    fn pairs(&self, context: &mut Context<'_>, state: &State, pairs: &[Pair]) -> Result<Vec<Pair>, Error> {
        let pair = |pair: &Pair| {
            let key = self.word(context, state, &pair.key)?;
            let value = self.word(context, state, &pair.value)?;
            if pair.legacy {
                let name = self.name;
                let message = format!(
                    "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
                );
                context.checks.report(&Rule::LEGACY_KEY_VALUE_FORMAT, &[self.lines], message);
            }
            Ok(Pair { key, value, legacy: pair.legacy })
        };
        pairs.iter().map(pair).collect()
    }
}

/// Does an instruction.
pub fn dispatch(context: &mut Context<'_>, state: &mut State, step: &Step) -> Result<(), Error> {
    let lines = step.instruction.lines;
    let name = &step.instruction.name;
    let expander = Expander::new(context, step);
    let by = match &step.instruction.command {
        Command::Add(files) => return copy::dispatch(context, state, step, files, true),
        Command::Copy(files) => return copy::dispatch(context, state, step, files, false),
        Command::Run(line) => return run::dispatch(context, state, step, line),
        Command::Workdir(path) => {
            let path = expander.word(context, state, path)?;
            return workdir(context, state, step, &path);
        }
        Command::Arg(args) => arg(context, state, &expander, args, lines)?,
        Command::Cmd(line) => {
            once(context, name, &mut state.cmd, lines);
            state.image.config.cmd = shell_line(context, state, line, name, lines);
            state.image.config.args_escaped = true;
            format!("CMD {}", quote_all(&state.image.config.cmd))
        }
        Command::Entrypoint(line) => {
            once(context, name, &mut state.entrypoint, lines);
            state.image.config.entrypoint = shell_line(context, state, line, name, lines);
            if state.cmd.is_none() {
                state.image.config.cmd.clear();
            }
            format!("ENTRYPOINT {}", quote_all(&state.image.config.entrypoint))
        }
        Command::Env(pairs) => {
            let pairs = expander.pairs(context, state, pairs)?;
            let mut by = String::from("ENV");
            for pair in pairs {
                secret(context, "ENV", &pair.key, lines);
                by.push_str(&format!(" {}={}", pair.key, pair.value));
                set_env(&mut state.image.config.env, &pair.key, &pair.value);
                state.env.set(pair.key, pair.value);
            }
            by
        }
        Command::Label(pairs) => {
            let mut by = String::from("LABEL");
            for pair in expander.pairs(context, state, pairs)? {
                by.push_str(&format!(" {}={}", pair.key, pair.value));
                state.image.config.labels.insert(pair.key, pair.value);
            }
            by
        }
        Command::Expose(written) => expose(context, state, &expander, written, lines)?,
        Command::Healthcheck(check) => {
            once(context, name, &mut state.healthcheck, lines);
            state.image.config.healthcheck = Some(check.clone());
            format!("HEALTHCHECK {}", show_healthcheck(check))
        }
        Command::Maintainer(who) => {
            state.image.author.clone_from(who);
            format!("MAINTAINER {who}")
        }
        Command::Onbuild(expression) => {
            state.image.config.on_build.push(expression.clone());
            return Ok(());
        }
        Command::Shell(shell) => {
            state.image.config.shell.clone_from(shell);
            format!("SHELL [{}]", shell.join(" "))
        }
        Command::StopSignal(signal) => {
            let signal = expander.word(context, state, signal)?;
            if !signals::is_signal(&signal) {
                return Err(Error::invalid(format!("invalid signal: {signal}")));
            }
            state.image.config.stop_signal.clone_from(&signal);
            format!("STOPSIGNAL {signal}")
        }
        Command::User(user) => {
            let user = expander.word(context, state, user)?;
            state.image.config.user.clone_from(&user);
            format!("USER {user}")
        }
        Command::Volume(volumes) => {
            let volumes = expander.words(context, state, volumes)?;
            if volumes.iter().any(String::is_empty) {
                return Err(Error::invalid("VOLUME specified can not be an empty string"));
            }
            for volume in &volumes {
                state.image.config.volumes.insert(volume.clone(), Empty {});
            }
            format!("VOLUME [{}]", volumes.join(" "))
        }
        Command::From(_) => return Err(Error::invalid("FROM isn't allowed here")),
    };
    check_count(&state.env)?;
    state.commit(&mut context.graph, by, false, context.options.epoch)
}

/// Each step has all variables: there may not be any number of them.
pub fn check_count(env: &EnvList) -> Result<(), Error> {
    if env.count() > MAX_VARIABLES {
        return Err(Error::invalid(format!("more than {MAX_VARIABLES} variables")));
    }
    Ok(())
}

/// Sets a variable where it stands, or adds it.
fn set_env(env: &mut Vec<String>, key: &str, value: &str) {
    let text = format!("{key}={value}");
    match env.iter_mut().find(|e| super::state::split_env(e).0 == key) {
        Some(found) => *found = text,
        None => env.push(text),
    }
}

fn secret(context: &mut Context<'_>, instruction: &str, key: &str, lines: Range) {
    if crate::checks::sounds_secret(key) {
        let message =
            format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {})", quote(key));
        context.checks.report(&Rule::SECRETS_USED_IN_ARG_OR_ENV, &[lines], message);
    }
}

/// Notes where an instruction stands of which only the last counts.
fn once(context: &mut Context<'_>, name: &str, at: &mut Option<Range>, lines: Range) {
    if let Some(before) = at.replace(lines) {
        let message = format!(
            "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
        );
        context.checks.report(&Rule::MULTIPLE_INSTRUCTIONS_DISALLOWED, &[before], message);
    }
}

/// The words of a line, for the shell where it is one's.
pub fn with_shell(state: &State, words: &[String]) -> Vec<String> {
    let mut line = state.image.config.shell.clone();
    if line.is_empty() {
        let windows = state.image.os == "windows";
        let shell: &[&str] = if windows { &["cmd", "/S", "/C"] } else { &["/bin/sh", "-c"] };
        line = shell.iter().map(|w| (*w).to_owned()).collect();
    }
    line.push(words.join(" "));
    line
}

fn shell_line(
    context: &mut Context<'_>,
    state: &State,
    line: &CommandLine,
    name: &str,
    lines: Range,
) -> Vec<String> {
    if !line.shell {
        return line.words.clone();
    }
    if state.image.config.shell.is_empty() {
        let message = format!(
            "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
        );
        context.checks.report(&Rule::JSON_ARGS_RECOMMENDED, &[lines], message);
    }
    with_shell(state, &line.words)
}

/// As BuildKit writes it: all of it by Go's `%q`, which makes a character of a number.
fn show_healthcheck(check: &Healthcheck) -> String {
    let times = [check.interval, check.timeout, check.start_period, check.start_interval];
    let times: Vec<String> = times.iter().map(|t| quote(&show_duration(*t))).collect();
    let retries = u32::try_from(check.retries).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
    format!("&{{{} {} {}}}", quote_all(&check.test), times.join(" "), quote_char(retries))
}

fn arg(
    context: &mut Context<'_>,
    state: &mut State,
    expander: &Expander<'_>,
    args: &[Arg],
    lines: Range,
) -> Result<String, Error> {
    let mut by = Vec::with_capacity(args.len());
    for arg in args {
        secret(context, "ARG", &arg.key, lines);
        let given = context.options.build_args.get(&arg.key).cloned();
        let mut inherited = false;
        let value = match (given, &arg.value) {
            (Some(given), _) => Some(given),
            (None, Some(default)) => Some(expander.word(context, state, default)?),
            (None, None) => {
                let global = context.global.get(&arg.key).map(str::to_owned);
                inherited = global.is_some();
                global
            }
        };
        if let Some(value) = &value
            && !NOT_ENV.contains(&arg.key.as_str())
        {
            state.env.set(&arg.key, value);
        }
        if context.options.request.is_some() {
            if !inherited {
                let info = ArgInfo { value: value.clone().unwrap_or_default(), ..ArgInfo::new(arg, lines) };
                state.outline.args.insert(arg.key.clone(), info);
            }
            state.outline.used.insert(arg.key.clone());
        }
        by.push(match &value {
            Some(value) => format!("{}={value}", arg.key),
            None => arg.key.clone(),
        });
        state.build_args.push(Arg { value, ..arg.clone() });
    }
    Ok(format!("ARG {}", by.join(" ")))
}

fn expose(
    context: &mut Context<'_>,
    state: &mut State,
    expander: &Expander<'_>,
    written: &[String],
    lines: Range,
) -> Result<String, Error> {
    let mut shown = Vec::new();
    for word in written {
        // Variables that are not there pass without a word.
        let (expanded, result) = expander.lex.expand(word, &state.env);
        result.map_err(Error::invalid)?;
        for port in expanded.words {
            let ports = ports::parse(&port).map_err(Error::invalid)?;
            if ports.host {
                let message = format!(
                    "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                );
                context.checks.report(&Rule::EXPOSE_INVALID_FORMAT, &[lines], message);
            }
            if ports.casing {
                let message = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
                context.checks.report(&Rule::EXPOSE_PROTO_CASING, &[lines], message);
            }
            context.graph.spend(16 * ports.ports.len())?;
            shown.extend(ports.ports);
        }
    }
    for port in &shown {
        state.image.config.exposed_ports.insert(port.clone(), Empty {});
    }
    Ok(format!("EXPOSE [{}]", shown.join(" ")))
}

fn workdir(context: &mut Context<'_>, state: &mut State, step: &Step, path: &str) -> Result<(), Error> {
    let lines = step.instruction.lines;
    if !state.workdir && !path.starts_with('/') {
        let message =
            format!("Relative workdir {} can have unexpected results if the base image changes", quote(path));
        context.checks.report(&Rule::WORKDIR_RELATIVE_PATH, &[lines], message);
    }
    state.workdir = true;
    let folder = absolute(&state.image.config.working_dir, path);
    // As with BuildKit: an absolute one is told as it was written.
    let told = if path.starts_with('/') { path.to_owned() } else { folder.clone() };
    state.image.config.working_dir.clone_from(&told);
    state.cwd.clone_from(&folder);
    let layer = folder != "/";
    if layer {
        let name = title(context, state, step, context.lex);
        let user = state.image.config.user.as_str();
        let mut inputs = super::graph::Inputs::default();
        let op = Op::Mkdir {
            base: inputs.slot(state.root),
            path: folder.clone(),
            mode: 0o755,
            owner: Some(user).filter(|u| !u.is_empty()).map(Owner::parse),
            time: context.options.epoch,
        };
        state.root = Some(context.graph.add(Vertex {
            name,
            op,
            inputs: inputs.0,
            platform: state.platform.clone(),
            ignore_cache: false,
            lines: vec![lines],
            command: step.instruction.code.clone(),
        })?);
    }
    state.commit(&mut context.graph, format!("WORKDIR {told}"), layer, context.options.epoch)
}

/// The title of a step that makes a layer.
fn title(context: &Context<'_>, state: &mut State, step: &Step, lex: Lex) -> String {
    let text = shown_command(&lex, &step.instruction.code, &state.env);
    titled(context, state, step, &text)
}

/// `[stage 2/3] TEXT`
pub fn titled(context: &Context<'_>, state: &mut State, step: &Step, text: &str) -> String {
    let env = std::mem::take(&mut state.env);
    let platform = state.platform.clone();
    let platform = context.title_platform(platform.as_ref());
    let title = state.title(text, &Title { platform, env: Some(&env), on_build: step.on_build });
    state.env = env;
    title
}

/// An instruction as progress shows it: variables replaced, its name in upper case.
pub fn shown_command(lex: &Lex, code: &str, env: &dyn Env) -> String {
    let text = lex.word(code, env).unwrap_or_else(|_| code.to_owned());
    match text.split_once(' ') {
        Some((name, rest)) => format!("{} {rest}", name.to_uppercase()),
        None => text.to_uppercase(),
    }
}
