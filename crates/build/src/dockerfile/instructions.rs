//! Nodes to instructions: the arguments of each, checked as far as they can be without knowing variables.

use super::flags::{Flags, Takes};
use super::heredoc::{self, Heredoc};
use super::mounts::MountSpec;
use super::parser::{Args, Node};
use super::text::{did_you_mean, parse_duration, quote};
use super::words::Pair;
use crate::config::Healthcheck;
use crate::graph::{Network, Range, Security};

/// Names of all instructions.
pub const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// The options (`--name`) of an instruction, and what each takes.
pub fn options(instruction: &str) -> &'static [(&'static str, Takes)] {
    use Takes::{Bool, Text, Texts};
    match instruction {
        "ADD" => &[
            ("chown", Text),
            ("chmod", Text),
            ("link", Bool),
            ("exclude", Texts),
            ("keep-git-dir", Bool),
            ("checksum", Text),
            ("unpack", Bool),
        ],
        "COPY" => &[
            ("chown", Text),
            ("chmod", Text),
            ("link", Bool),
            ("exclude", Texts),
            ("from", Text),
            ("parents", Bool),
        ],
        "FROM" => &[("platform", Text)],
        "HEALTHCHECK" => &[
            ("interval", Text),
            ("timeout", Text),
            ("start-period", Text),
            ("start-interval", Text),
            ("retries", Text),
        ],
        "RUN" => &[("mount", Texts), ("network", Text), ("security", Text), ("device", Texts)],
        _ => &[],
    }
}

/// Shortest time between health checks, in nanoseconds.
const SHORTEST_INTERVAL: i64 = 1_000_000;

/// An instruction with where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The instruction's name as written.
    pub name: String,
    /// All of it as written.
    pub code: String,
    /// Where.
    pub lines: Range,
    /// The comments right before it.
    pub comments: Vec<String>,
    /// What it says.
    pub command: Command,
}

/// What an instruction says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `ADD`
    Add(Files),
    /// `ARG`
    Arg(Vec<Arg>),
    /// `CMD`
    Cmd(CommandLine),
    /// `COPY`
    Copy(Files),
    /// `ENTRYPOINT`
    Entrypoint(CommandLine),
    /// `ENV`
    Env(Vec<Pair>),
    /// `EXPOSE`
    Expose(Vec<String>),
    /// `FROM`
    From(From),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Vec<Pair>),
    /// `MAINTAINER`
    Maintainer(String),
    /// `ONBUILD`, with the instruction as written
    Onbuild(String),
    /// `RUN`
    Run(Run),
    /// `SHELL`
    Shell(Vec<String>),
    /// `STOPSIGNAL`
    StopSignal(String),
    /// `USER`
    User(String),
    /// `VOLUME`
    Volume(Vec<String>),
    /// `WORKDIR`
    Workdir(String),
}

/// The beginning of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct From {
    /// What it begins with, with its variables.
    pub base: String,
    /// In lower case; may be empty.
    pub stage: String,
    /// The name as written.
    pub written: String,
    /// The `as` as written.
    pub keyword: String,
    /// `--platform`, with its variables.
    pub platform: String,
}

/// A build argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// Its name.
    pub key: String,
    /// Its default.
    pub value: Option<String>,
    /// What the comment before it says of it.
    pub comment: String,
}

/// Words, or a line for the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// One for a shell.
    pub words: Vec<String>,
    /// It is for a shell.
    pub shell: bool,
}

/// `RUN`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What is run.
    pub line: CommandLine,
    /// Texts that follow.
    pub files: Vec<Heredoc>,
    /// `--mount`, as written.
    pub mounts: Vec<String>,
    /// What of them is known already.
    pub mount_sources: Vec<MountSpec>,
    /// `--network`
    pub network: Option<Network>,
    /// `--security`
    pub security: Security,
    /// `--device`, as written.
    pub devices: Vec<String>,
}

/// `COPY` and `ADD`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Paths, URLs, repositories.
    pub sources: Vec<String>,
    /// Texts.
    pub contents: Vec<Heredoc>,
    /// Where to.
    pub dest: String,
    /// `--from`
    pub from: String,
    /// `--chown`
    pub chown: String,
    /// `--chmod`
    pub chmod: String,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`
    pub exclude: Vec<String>,
    /// `--checksum`
    pub checksum: String,
    /// `--keep-git-dir`
    pub keep_git_dir: Option<bool>,
    /// `--unpack`
    pub unpack: Option<bool>,
}

impl Instruction {
    /// Reads a node.
    ///
    /// # Errors
    /// What is wrong with it, in BuildKit's words.
    pub fn read(node: &Node) -> Result<Instruction, String> {
        Ok(Instruction {
            name: node.name.clone(),
            code: node.original.trim().to_owned(),
            lines: node.lines,
            comments: node.comments.clone(),
            command: command(node)?,
        })
    }
}

fn at_least_one(name: &str) -> String {
    format!("{name} requires at least one argument")
}

fn command(node: &Node) -> Result<Command, String> {
    let none = Vec::new();
    let words = match &node.args {
        Args::Words(words) => words,
        _ => &none,
    };
    let name = node.name.to_ascii_uppercase();
    let flags = || Flags::read(&node.flags, options(&name));
    let one = || match words.as_slice() {
        [word] => Ok(word.clone()),
        _ => Err(format!("{name} requires exactly one argument")),
    };
    let line = || CommandLine { words: words.clone(), shell: !node.json };
    Ok(match name.as_str() {
        "ADD" | "COPY" => {
            if words.len() < 2 {
                return Err(format!(
                    "{name} requires at least two arguments, but only one was provided. Destination could not be \
                     determined"
                ));
            }
            let files = files(node, words, &flags()?)?;
            if name == "ADD" { Command::Add(files) } else { Command::Copy(files) }
        }
        "ARG" => {
            if words.is_empty() {
                return Err(at_least_one("ARG"));
            }
            let arg = |word: &String| {
                let (key, value) = word.split_once('=').map_or((word.as_str(), None), |(k, v)| (k, Some(v)));
                if key.is_empty() {
                    return Err("ARG names can not be blank".to_owned());
                }
                let comment = comment_of(&node.comments, key);
                Ok(Arg { key: key.to_owned(), value: value.map(str::to_owned), comment })
            };
            Command::Arg(words.iter().map(arg).collect::<Result<_, _>>()?)
        }
        "CMD" => {
            flags()?;
            Command::Cmd(line())
        }
        "ENTRYPOINT" => {
            flags()?;
            Command::Entrypoint(line())
        }
        "ENV" | "LABEL" => {
            flags()?;
            let pairs = match &node.args {
                Args::Pairs(pairs) if !pairs.is_empty() => pairs.clone(),
                _ => return Err(at_least_one(&name)),
            };
            if pairs.iter().any(|p| p.key.is_empty()) {
                return Err(format!("{name} names can not be blank"));
            }
            if name == "ENV" { Command::Env(pairs) } else { Command::Label(pairs) }
        }
        "EXPOSE" => {
            if words.is_empty() {
                return Err(at_least_one("EXPOSE"));
            }
            flags()?;
            let mut ports = words.clone();
            ports.sort();
            Command::Expose(ports)
        }
        "FROM" => {
            let (stage, keyword, written) = match words.as_slice() {
                [_, keyword, written] if keyword.eq_ignore_ascii_case("as") => {
                    let stage = written.to_lowercase();
                    if !valid_stage(&stage) {
                        return Err(format!(
                            "invalid name for build stage: {}, name can't start with a number or contain symbols",
                            quote(written)
                        ));
                    }
                    (stage, keyword.clone(), written.clone())
                }
                [_] => Default::default(),
                _ => return Err("FROM requires either one or three arguments".into()),
            };
            let platform = flags()?.text("platform");
            Command::From(From { base: words[0].clone(), stage, written, keyword, platform })
        }
        "HEALTHCHECK" => Command::Healthcheck(healthcheck(node, words)?),
        "MAINTAINER" => {
            let who = one()?;
            flags()?;
            Command::Maintainer(who)
        }
        "ONBUILD" => {
            let Args::Node(inner) = &node.args else { return Err(at_least_one("ONBUILD")) };
            let text = node.original.trim_start();
            let rest = text.get("ONBUILD".len()..).unwrap_or_default().trim_start();
            if rest.is_empty() {
                return Err(at_least_one("ONBUILD"));
            }
            flags()?;
            let trigger = inner.as_ref().map(|n| n.name.to_uppercase()).unwrap_or_default();
            match trigger.as_str() {
                "ONBUILD" => return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into()),
                "MAINTAINER" | "FROM" => {
                    return Err(format!("{trigger} isn't allowed as an ONBUILD trigger"));
                }
                _ => {}
            }
            let mut expression = rest.to_owned();
            for doc in &node.heredocs {
                expression.push_str(&format!("\n{}{}", doc.content, doc.name));
            }
            Command::Onbuild(expression)
        }
        "RUN" => {
            let flags = flags()?;
            let mounts = flags.texts("mount");
            let network = match flags.get("network") {
                None => None,
                Some("default") => Some(Network::Default),
                Some("none") => Some(Network::None),
                Some("host") => Some(Network::Host),
                Some(other) => return Err(format!("invalid network mode {}", quote(other))),
            };
            let security = match flags.get("security") {
                None | Some("sandbox") => Security::Sandbox,
                Some("insecure") => Security::Insecure,
                Some(other) => return Err(format!("security {} is not valid", quote(other))),
            };
            Command::Run(Run {
                line: line(),
                files: node.heredocs.clone(),
                mount_sources: mounts.iter().map(|m| MountSpec::from_of(m)).collect::<Result<_, _>>()?,
                mounts,
                network,
                security,
                devices: flags.texts("device"),
            })
        }
        "SHELL" => {
            flags()?;
            match words.is_empty() {
                true => return Err(at_least_one("SHELL")),
                false if !node.json => return Err("SHELL requires the arguments to be in JSON form".into()),
                false => Command::Shell(words.clone()),
            }
        }
        "STOPSIGNAL" => Command::StopSignal(one()?),
        "USER" => {
            let user = one()?;
            flags()?;
            Command::User(user)
        }
        "VOLUME" => {
            if words.is_empty() {
                return Err(at_least_one("VOLUME"));
            }
            flags()?;
            let volumes: Vec<String> = words.iter().map(|w| w.trim().to_owned()).collect();
            if volumes.iter().any(String::is_empty) {
                return Err("VOLUME specified can not be an empty string".into());
            }
            Command::Volume(volumes)
        }
        "WORKDIR" => {
            let path = one()?;
            flags()?;
            Command::Workdir(path)
        }
        _ => {
            return Err(format!(
                "unknown instruction: {}{}",
                node.name,
                did_you_mean(&node.name, &NAMES, false)
            ));
        }
    })
}

fn valid_stage(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
}

/// What the comment `# name …` says.
pub fn comment_of(comments: &[String], name: &str) -> String {
    if name.is_empty() {
        return String::new();
    }
    let found = comments.iter().find_map(|c| c.strip_prefix(name)?.strip_prefix(' '));
    found.unwrap_or_default().to_owned()
}

fn files(node: &Node, words: &[String], flags: &Flags) -> Result<Files, String> {
    let (dest, sources) = words.split_last().ok_or("no destination")?;
    // A word that cannot be read is none here: where it begins one, the parser has said so.
    let begins = |word: &str| heredoc::from_word(word).ok().flatten();
    if begins(dest).is_some() {
        return Err(format!("{} cannot accept a heredoc as a destination", node.name.to_uppercase()));
    }
    let mut out = Files {
        dest: dest.clone(),
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.is("link"),
        parents: flags.is("parents"),
        exclude: flags.texts("exclude"),
        checksum: flags.text("checksum"),
        keep_git_dir: flags.bool("keep-git-dir"),
        unpack: flags.bool("unpack"),
        ..Files::default()
    };
    for source in sources {
        match begins(source).filter(|_| !node.json) {
            Some(begun) => {
                let text = node.heredocs.iter().rev().find(|doc| doc.name == begun.name);
                let content = text.map(|doc| doc.content.clone()).unwrap_or_default();
                out.contents.push(Heredoc { content, ..begun });
            }
            None => out.sources.push(source.clone()),
        }
    }
    Ok(out)
}

fn healthcheck(node: &Node, words: &[String]) -> Result<Healthcheck, String> {
    let Some((kind, args)) = words.split_first() else { return Err(at_least_one("HEALTHCHECK")) };
    let kind = kind.to_uppercase();
    if kind == "NONE" {
        if !args.is_empty() {
            return Err("HEALTHCHECK NONE takes no arguments".into());
        }
        return Ok(Healthcheck { test: vec![kind], ..Healthcheck::default() });
    }
    let flags = Flags::read(&node.flags, options("HEALTHCHECK"))?;
    if kind != "CMD" {
        return Err(format!("Unknown type {} in HEALTHCHECK (try CMD)", quote(&kind)));
    }
    if args.is_empty() {
        return Err("Missing command after HEALTHCHECK CMD".into());
    }
    let time = |name: &str| match flags.get(name) {
        None | Some("") => Ok(0),
        Some(text) => match parse_duration(text)? {
            0 => Ok(0),
            short if short < SHORTEST_INTERVAL => {
                Err(format!("Interval {} cannot be less than 1ms", quote(name)))
            }
            time => Ok(time),
        },
    };
    let kind = if node.json { "CMD" } else { "CMD-SHELL" };
    let mut check = Healthcheck {
        test: [vec![kind.to_owned()], args.to_vec()].concat(),
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start-period")?,
        start_interval: time("start-interval")?,
        retries: 0,
    };
    if let Some(text) = flags.get("retries").filter(|t| !t.is_empty()) {
        let failed = |why| format!("strconv.ParseInt: parsing {}: {why}", quote(text));
        let number: i64 = text.parse().map_err(|_| failed("invalid syntax"))?;
        if i32::try_from(number).is_err() {
            return Err(failed("value out of range"));
        }
        if number < 0 {
            return Err(format!("--retries cannot be negative ({number})"));
        }
        check.retries = number;
    }
    Ok(check)
}
