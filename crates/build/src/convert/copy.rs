//! `COPY` and `ADD`.

use super::commands::{Expander, shown_command, titled};
use super::graph::Inputs;
use super::names::{GitRef, absolute, base, clean};
use super::resolve::git_source;
use super::state::{Context, State, Step};
use crate::Error;
use crate::checks::Rule;
use crate::dockerfile::instructions::Files;
use crate::dockerfile::text::quote;
use crate::graph::{Chmod, Copy, CopySource, CopyStep, Http, Op, Owner, Vertex};

/// Adds the step, and those of what it takes from elsewhere.
pub fn dispatch(
    context: &mut Context<'_>,
    state: &mut State,
    step: &Step,
    files: &Files,
    add: bool,
) -> Result<(), Error> {
    let files = expand(context, state, step, files)?;
    let lines = step.instruction.lines;
    let dest = destination(&state.cwd, &files.dest);
    let chmod = chmod(&files.chmod)?;
    if !files.checksum.is_empty() {
        let why = match files.sources.as_slice() {
            [source] if is_http(source) || git(source)?.is_some_and(|g| !g.like_a_path) => None,
            [_] => Some("checksum requires HTTP(S) or Git sources"),
            _ => Some("checksum can't be specified for multiple sources"),
        };
        if let Some(why) = why {
            return Err(Error::invalid(why));
        }
    }
    let mut by = String::from(if add { "ADD" } else { "COPY" });
    if files.parents {
        by.push_str(" --parents");
    }
    for (name, value) in [("chown", &files.chown), ("chmod", &files.chmod)] {
        if !value.is_empty() {
            by.push_str(&format!(" --{name}={value}"));
        }
    }
    let text = shown_command(&context.lex, &step.instruction.code, &state.env);
    let name = titled(context, state, step, &text);

    let common = CopyStep {
        dest,
        exclude: files.exclude.clone(),
        owner: Some(files.chown.as_str()).filter(|c| !c.is_empty()).map(Owner::parse),
        chmod,
        time: context.options.epoch,
        ..CopyStep::default()
    };
    let mut inputs = Inputs::default();
    // `--link` is a plain copy, as with dockerd's default store: links in the destination are followed and names are
    // looked up.
    let base = inputs.slot(state.root);
    let mut copy = Copy { base, steps: Vec::new() };
    for source in &files.sources {
        by.push_str(&format!(" {source}"));
        let made = if let Some(found) = git(source)?.filter(|g| !g.like_a_path) {
            from_git(context, &files, add, source, &found, &name, &mut inputs)?
        } else if is_http(source) {
            from_web(context, &files, add, source, &name, &mut inputs)?
        } else {
            from_tree(context, state, step, &files, add, source, &mut inputs)?
        };
        copy.steps.push(CopyStep {
            dest: common.dest.clone(),
            exclude: common.exclude.clone(),
            owner: common.owner.clone(),
            chmod: common.chmod.clone(),
            time: common.time,
            ..made
        });
    }
    for doc in &files.contents {
        by.push_str(&format!(" <<{}", doc.name));
        let from =
            CopySource::Inline { name: doc.file().map_err(Error::invalid)?, data: doc.content.clone() };
        copy.steps.push(CopyStep { from, ..common.clone() });
    }
    by.push_str(&format!(" {} # buildkit", files.dest));
    let vertex = Vertex {
        name,
        op: Op::Copy(copy),
        inputs: inputs.0,
        // The same files for whatever platform: those of two are one step.
        platform: None,
        ignore_cache: state.no_cache,
        lines: vec![lines],
        command: step.instruction.code.clone(),
    };
    state.root = Some(context.graph.add(vertex)?);
    state.commit(&mut context.graph, by, true, context.options.epoch)
}

/// Words with their variables.
fn expand(context: &mut Context<'_>, state: &State, step: &Step, files: &Files) -> Result<Files, Error> {
    let expander = Expander::new(context, step);
    let mut out = files.clone();
    out.chown = expander.word(context, state, &files.chown)?;
    out.chmod = expander.word(context, state, &files.chmod)?;
    out.checksum = expander.word(context, state, &files.checksum)?;
    out.exclude = expander.words(context, state, &files.exclude)?;
    out.dest = expander.word(context, state, &files.dest)?;
    out.sources = expander.words(context, state, &files.sources)?;
    let raw = expander.raw();
    for doc in &mut out.contents {
        if doc.chomp {
            doc.content = crate::dockerfile::heredoc::chomp(&doc.content);
        }
        if doc.expand {
            doc.content = raw.word(context, state, &doc.content)?;
        }
    }
    Ok(out)
}

/// Absolute and clean, but for a slash at the end.
fn destination(cwd: &str, dest: &str) -> String {
    let path = absolute(cwd, dest);
    let folder = dest.is_empty() || dest == "." || dest.ends_with('/') || dest.ends_with("/.");
    if folder && path != "/" { format!("{path}/") } else { path }
}

fn git(source: &str) -> Result<Option<GitRef>, Error> {
    GitRef::parse(source).map_err(Error::invalid)
}

fn is_http(source: &str) -> bool {
    (source.starts_with("http://") || source.starts_with("https://"))
        && !matches!(GitRef::parse(source), Ok(Some(_)))
}

fn chmod(text: &str) -> Result<Option<Chmod>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || {
        Error::invalid(format!(
            "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        ))
    };
    match u32::from_str_radix(text, 8) {
        Ok(bits) if bits <= 0o7777 => Ok(Some(Chmod::Bits(bits))),
        Ok(_) => Err(wrong()),
        Err(_) if text.starts_with(|c: char| c.is_ascii_digit()) => Err(wrong()),
        Err(_) if !is_symbolic_mode(text) => Err(Error::invalid("invalid syntax")),
        Err(_) => Ok(Some(Chmod::Symbolic(text.to_owned()))),
    }
}

/// `[ugoa]*([-+=]([rwxXst]*|[ugo]))+`, with commas between.
fn is_symbolic_mode(text: &str) -> bool {
    text.split(',').all(|clause| {
        let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        actions.starts_with(['+', '-', '='])
            && actions
                .split(['+', '-', '='])
                .skip(1)
                .all(|perms| matches!(perms, "u" | "g" | "o") || perms.chars().all(|c| "rwxXst".contains(c)))
    })
}

fn from_git(
    context: &mut Context<'_>,
    files: &Files,
    add: bool,
    source: &str,
    found: &GitRef,
    name: &str,
    inputs: &mut Inputs,
) -> Result<CopyStep, Error> {
    if !add {
        return Err(Error::invalid("source can't be a git ref for COPY"));
    }
    if let (Some(flag), Some(query)) = (files.keep_git_dir, found.keep_git_dir)
        && flag != query
    {
        return Err(Error::invalid("inconsistent keep-git-dir configuration"));
    }
    if !files.checksum.is_empty() && !found.checksum.is_empty() && files.checksum != found.checksum {
        let (one, other) = (quote(&files.checksum), quote(&found.checksum));
        return Err(Error::invalid(format!("checksum mismatch {one} != {other}")));
    }
    let mut git = git_source(source, files.keep_git_dir == Some(true))?.unwrap_or_default();
    if !files.checksum.is_empty() {
        git.checksum = Some(files.checksum.clone());
    }
    let vertex = context.graph.add(super::state::source(name, Op::Git(git)))?;
    let from = CopySource::Tree { from: inputs.slot(Some(vertex)), path: "/".into() };
    Ok(CopyStep { from, contents_only: true, ..CopyStep::default() })
}

fn from_web(
    context: &mut Context<'_>,
    files: &Files,
    add: bool,
    source: &str,
    name: &str,
    inputs: &mut Inputs,
) -> Result<CopyStep, Error> {
    if !add {
        return Err(Error::invalid("source can't be a URL for COPY"));
    }
    let checksum = Some(files.checksum.clone()).filter(|c| !c.is_empty());
    if let Some(checksum) = &checksum {
        check_digest(checksum)?;
    }
    // The last part of the path; query and fragment are not of it.
    let address = source.split(['?', '#']).next().unwrap_or_default();
    let path =
        address.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    let filename = match base(path) {
        "" | "." | ".." => "__unnamed__".to_owned(),
        name => percent_decoded(name),
    };
    let http = Http { url: source.to_owned(), checksum, filename: filename.clone(), ..Http::default() };
    let vertex = context.graph.add(super::state::source(name, Op::Http(http)))?;
    let from = CopySource::Tree { from: inputs.slot(Some(vertex)), path: format!("/{filename}") };
    Ok(CopyStep { from, unpack: files.unpack == Some(true), ..CopyStep::default() })
}

/// `%20` and the like; what would be a path of its own stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let pair = (ahead.next(), ahead.next());
        let hex = |b: Option<u8>| b.and_then(|b| (b as char).to_digit(16));
        match (byte, hex(pair.0), hex(pair.1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                bytes = ahead;
            }
            _ => out.push(byte),
        }
    }
    match String::from_utf8(out) {
        Ok(name) if !name.contains(['/', '\0']) && name != "." && name != ".." => name,
        _ => text.to_owned(),
    }
}

fn check_digest(text: &str) -> Result<(), Error> {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return Err(Error::invalid("invalid checksum digest format"));
    };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(Error::invalid("unsupported digest algorithm")),
    };
    if hex.len() != length {
        return Err(Error::invalid("invalid checksum digest length"));
    }
    if !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(Error::invalid("invalid checksum digest format"));
    }
    Ok(())
}

fn has_wildcards(text: &str) -> bool {
    let mut escaped = false;
    text.chars().any(|c| {
        if std::mem::take(&mut escaped) {
            return false;
        }
        escaped = c == '\\';
        matches!(c, '*' | '?' | '[')
    })
}

fn from_tree(
    context: &mut Context<'_>,
    state: &State,
    step: &Step,
    files: &Files,
    add: bool,
    source: &str,
    inputs: &mut Inputs,
) -> Result<CopyStep, Error> {
    let tree = match step.sources.first().copied() {
        None => {
            let shown = clean(source);
            if !context.ignore.has_exceptions()
                && shown != "."
                && shown != "/"
                && context.ignore.matches(&shown)
            {
                let verb = if add { "Add" } else { "Copy" };
                let message =
                    format!("Attempting to {verb} file {} that is excluded by .dockerignore", quote(&shown));
                context.checks.report(&Rule::COPY_IGNORED_FILE, &[step.instruction.lines], message);
            }
            context.paths[0].insert(clean(&format!("/{source}")));
            Some(context.main_context()?)
        }
        Some(stage) => {
            if !context.stages[stage].dispatched {
                let (from, own) = (quote(&files.from), quote(&state.shown));
                let why = format!(
                    "cannot copy from stage {from}, it needs to be defined before current stage {own}"
                );
                return Err(Error::invalid(why));
            }
            let paths = context.stages[stage].paths;
            context.paths[paths].insert(clean(&format!("/{source}")));
            context.stages[stage].root
        }
    };
    let mut out = CopyStep {
        follow_links: true,
        contents_only: true,
        wildcard: true,
        allow_empty: true,
        unpack: files.unpack.unwrap_or(add),
        ..CopyStep::default()
    };
    let mut path = source;
    if files.parents {
        // What stands before `/./` is not kept.
        let (before, pattern) = source.split_once("/./").unwrap_or(("/", source));
        let pattern = clean(&format!("/{pattern}"));
        path = before;
        if !has_wildcards(before) && !has_wildcards(&pattern) {
            out.required = vec![clean(&format!("/{before}/{pattern}"))];
        }
        out.include = vec![pattern.trim_start_matches('/').to_owned()];
    }
    out.from = CopySource::Tree { from: inputs.slot(tree), path: clean(&format!("/{path}")) };
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_or_symbolic() {
        assert_eq!(chmod("0755"), Ok(Some(Chmod::Bits(0o755))));
        for text in ["u+x", "go-w,a=rX", "+x", "u=g", "a="] {
            assert_eq!(chmod(text), Ok(Some(Chmod::Symbolic(text.into()))), "{text}");
        }
        for text in ["foo", "u", "u+q"] {
            assert_eq!(chmod(text), Err(Error::invalid("invalid syntax")), "{text}");
        }
        assert!(chmod("99999").unwrap_err().message.contains("octal"));
        assert!(chmod("77777").unwrap_err().message.contains("octal"));
    }

    #[test]
    fn destinations_keep_their_slash() {
        for (dest, expected) in [
            ("a", "/w/a"),
            ("a/", "/w/a/"),
            (".", "/w/"),
            ("./", "/w/"),
            ("/", "/"),
            ("/x/.", "/x/"),
            ("", "/w/"),
        ] {
            assert_eq!(destination("/w", dest), expected, "{dest}");
        }
        assert_eq!(destination("/", "."), "/");
        assert_eq!(percent_decoded("a%20b%2fc"), "a%20b%2fc");
        assert_eq!(percent_decoded("a%20b"), "a b");
    }
}
