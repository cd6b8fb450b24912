//! Instructions to stages.

use super::instructions::{Arg, Command, From, Instruction};
use super::parser::Parsed;
use crate::Error;
use crate::checks::{Checks, Rule};
use crate::graph::Range;

/// A stage: `FROM` and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What it begins with.
    pub from: From,
    /// `FROM` as written.
    pub code: String,
    /// The instruction's name as written.
    pub name: String,
    /// Where it begins.
    pub lines: Range,
    /// The comments right before it.
    pub comments: Vec<String>,
    /// What it does.
    pub commands: Vec<Instruction>,
}

/// `ARG` before the first stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalArg {
    /// Its arguments.
    pub args: Vec<Arg>,
    /// Where.
    pub lines: Range,
}

/// A Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stages {
    /// At least one.
    pub stages: Vec<Stage>,
    /// What stands before them.
    pub args: Vec<GlobalArg>,
}

/// Reads the nodes of a Dockerfile.
///
/// # Errors
/// `dockerfile parse error on line 3: …`, with where.
pub fn stages(parsed: &Parsed, checks: &mut Checks) -> Result<Stages, Error> {
    let mut out = Stages { stages: Vec::new(), args: Vec::new() };
    for node in &parsed.nodes {
        if node.name.eq_ignore_ascii_case("maintainer") {
            checks.report(
                &Rule::MAINTAINER_DEPRECATED,
                &[node.lines],
                "Maintainer instruction is deprecated in favor of using label".into(),
            );
        }
        let read = Instruction::read(node).map_err(|why| {
            Error::invalid(format!("dockerfile parse error on line {}: {why}", node.lines.start))
                .at(&[node.lines])
        })?;
        if let Command::From(from) = &read.command {
            casing(from, &read.name, read.lines, checks);
        }
        describe(&read, checks);
        match read.command {
            Command::From(from) => {
                out.stages.push(Stage {
                    from,
                    code: read.code,
                    name: read.name,
                    lines: read.lines,
                    comments: read.comments,
                    commands: Vec::new(),
                });
            }
            Command::Arg(args) if out.stages.is_empty() => {
                out.args.push(GlobalArg { args, lines: read.lines });
            }
            _ => match out.stages.last_mut() {
                Some(stage) => stage.commands.push(read),
                None => return Err(Error::invalid("no build stage in current context").at(&[node.lines])),
            },
        }
    }
    if out.stages.is_empty() {
        return Err(Error::invalid("dockerfile contains no stages to build"));
    }
    Ok(out)
}

fn casing(from: &From, name: &str, lines: Range, checks: &mut Checks) {
    if from.written != from.stage {
        let message = format!("Stage name '{}' should be lowercase", from.written);
        checks.report(&Rule::STAGE_NAME_CASING, &[lines], message);
    }
    let lower = |text: &str| text.to_lowercase() == text;
    let upper = |text: &str| text.to_uppercase() == text;
    let keyword = &from.keyword;
    let wrong = (lower(name) && !lower(keyword)) || (upper(name) && !upper(keyword));
    if !keyword.is_empty() && wrong {
        let message = format!("'{keyword}' and '{name}' keywords' casing do not match");
        checks.report(&Rule::FROM_AS_CASING, &[lines], message);
    }
}

/// A comment right before `ARG` or `FROM` describes it, or should not stand there.
fn describe(read: &Instruction, checks: &mut Checks) {
    let names: Vec<&str> = match &read.command {
        Command::Arg(args) => args.iter().map(|a| a.key.as_str()).collect(),
        Command::From(from) if !from.stage.is_empty() => vec![from.stage.as_str()],
        _ => return,
    };
    let Some(comment) = read.comments.last() else { return };
    let first = comment.split(' ').next().unwrap_or_default();
    if names.contains(&first) {
        return;
    }
    let example = if names.len() > 1 { "<arg_key>" } else { names[0] };
    let name = read.name.to_uppercase();
    let message = format!("Comment for {name} should follow the format: `# {example} <description>`");
    checks.report(&Rule::INVALID_DEFINITION_DESCRIPTION, &[read.lines], message);
}
