//! Arguments before the first stage, and those that are always there.

use crate::Error;
use crate::checks::{Checks, Rule};
use crate::dockerfile::Stages;
use crate::dockerfile::expand::{Env, EnvList, Expanded, Lex};
use crate::dockerfile::text::{quote, suggest};
use crate::graph::Range;
use crate::options::Options;
use crate::outline::{ArgInfo, Outline};
use crate::platform::Platform;

use super::commands::check_count;
use super::names::Reference;

/// Arguments that every Dockerfile has.
pub fn defaults(options: &Options, build: &Platform, target: &Platform) -> EnvList {
    let stage = if options.target.is_empty() { "default" } else { &options.target };
    let mut env = EnvList::default();
    for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
        for (name, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("OSVERSION", platform.os_version.clone()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone()),
        ] {
            set(&mut env, options, format!("{prefix}{name}"), value);
        }
    }
    set(&mut env, options, "TARGETSTAGE".into(), stage.to_owned());
    env
}

fn set(env: &mut EnvList, options: &Options, name: String, value: String) {
    let value = options.build_args.get(&name).cloned().unwrap_or(value);
    env.set(name, value);
}

/// Adds the arguments of the file; `given` says whether those of the build count.
pub fn global(
    mut env: EnvList,
    lex: &Lex,
    stages: &Stages,
    options: Option<&Options>,
) -> Result<(EnvList, Outline), Error> {
    let mut outline = Outline::default();
    for instruction in &stages.args {
        for arg in &instruction.args {
            let mut info = ArgInfo::new(arg, instruction.lines);
            let given = options.and_then(|o| o.build_args.get(&arg.key));
            let value = match (given, &arg.value) {
                (Some(given), _) => Some(given.clone()),
                (None, None) => None,
                (None, Some(default)) => {
                    let (expanded, result) = lex.expand(default, &env);
                    result.map_err(|why| Error::invalid(why).at(&[instruction.lines]))?;
                    info.needs = expanded.matched;
                    if info.needs.remove(&arg.key)
                        && let Some(before) = outline.args.get(&arg.key)
                    {
                        info.needs.extend(before.needs.iter().cloned());
                    }
                    Some(expanded.word)
                }
            };
            if let Some(value) = value {
                info.value.clone_from(&value);
                env.set(&arg.key, value);
            }
            outline.args.insert(arg.key.clone(), info);
            check_count(&env).map_err(|e| e.at(&[instruction.lines]))?;
        }
    }
    Ok((env, outline))
}

/// `FROM` should be right also where no arguments are given.
pub fn check_defaults(env: &EnvList, lex: &Lex, stages: &Stages, checks: &mut Checks) {
    // What fails here fails again where it counts.
    let Ok((env, _)) = global(env.clone(), lex, stages, None) else { return };
    for stage in &stages.stages {
        let Ok(name) = lex.word(&stage.from.base, &env) else { return };
        if Reference::parse(&name).is_err() {
            let message = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                stage.from.base
            );
            checks.report(&Rule::INVALID_DEFAULT_ARG_IN_FROM, &[stage.lines], message);
        }
    }
}

/// Arguments that `FROM` names and nobody declared.
pub fn check_from(expanded: &Expanded, env: &EnvList, outline: &Outline, lines: Range, checks: &mut Checks) {
    let mut known: Vec<&str> = env.keys();
    known.extend(outline.args.keys().map(String::as_str));
    for name in expanded.unmatched.iter().filter(|n| !known.contains(&n.as_str())) {
        let meant = suggest(name, &known, true).map(|s| format!(" (did you mean {s}?)")).unwrap_or_default();
        checks.report(
            &Rule::UNDEFINED_ARG_IN_FROM,
            &[lines],
            format!("FROM argument '{name}' is not declared{meant}"),
        );
    }
}

/// `--platform` that says what goes without saying, or what should not be fixed.
pub fn check_platform(
    written: &str,
    stage: &str,
    expanded: &Expanded,
    env: &EnvList,
    lines: Range,
    checks: &mut Checks,
) {
    let only = expanded.matched.len() == 1 && expanded.unmatched.is_empty();
    if only
        && expanded.matched.contains("TARGETPLATFORM")
        && env.get("TARGETPLATFORM") == Some(&expanded.word)
    {
        let message = format!(
            "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
        );
        checks.report(&Rule::REDUNDANT_TARGET_PLATFORM, &[lines], message);
    }
    if !expanded.matched.is_empty() || !expanded.unmatched.is_empty() {
        return;
    }
    let Ok(platform) = Platform::parse(&expanded.word) else { return };
    if stage.contains(&platform.os) || stage.contains(&platform.architecture) {
        return;
    }
    let message = format!("FROM --platform flag should not use constant value {}", quote(&expanded.word));
    checks.report(&Rule::FROM_PLATFORM_FLAG_CONST_DISALLOWED, &[lines], message);
}

/// Names of stages that are taken, twice or otherwise.
pub fn check_stages(stages: &Stages, checks: &mut Checks) {
    let mut seen: Vec<&str> = Vec::new();
    for stage in &stages.stages {
        let name = stage.from.stage.as_str();
        if name.is_empty() {
            continue;
        }
        if name == "context" || name == "scratch" {
            let message =
                format!("Stage name should not use the same name as reserved stage {}", quote(name));
            checks.report(&Rule::RESERVED_STAGE_NAME, &[stage.lines], message);
        }
        if seen.contains(&name) {
            let message = format!("Duplicate stage name {}, stage names should be unique", quote(name));
            checks.report(&Rule::DUPLICATE_STAGE_NAME, &[stage.lines], message);
        }
        seen.push(name);
    }
    casing(stages, checks);
}

fn casing(stages: &Stages, checks: &mut Checks) {
    let all = || {
        stages.stages.iter().flat_map(|s| {
            std::iter::once((s.name.as_str(), s.lines))
                .chain(s.commands.iter().map(|c| (c.name.as_str(), c.lines)))
        })
    };
    let count = |fits: fn(&str) -> bool| all().filter(|(name, _)| fits(name)).count();
    let lower = count(|n| n == n.to_lowercase());
    let upper = count(|n| n == n.to_uppercase());
    for (name, lines) in all() {
        let wanted = match lower > upper {
            true if name.to_lowercase() != name => "lowercase",
            false if name.to_uppercase() != name => "uppercase",
            _ => continue,
        };
        let message = format!("Command '{name}' should match the case of the command majority ({wanted})");
        checks.report(&Rule::CONSISTENT_INSTRUCTION_CASING, &[lines], message);
    }
}
