//! Answers to questions about a Dockerfile (`docker build --call`): targets, outline, checks.
//!
//! Each is JSON as BuildKit writes it (indented by two blanks) and a text for people.

use std::collections::BTreeMap;

use base64::Engine;
use serde::Serialize;

use crate::Error;
use crate::dockerfile::Stages;
use crate::dockerfile::instructions::comment_of;
use crate::error::Kind;
use crate::graph::{Range, Source, Warning};
use crate::outline::Outline;

/// The metadata of an answer's result.
pub type Answer = BTreeMap<String, Vec<u8>>;

/// A question (`requestid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// What can be asked.
    Describe,
    /// What a build can be given.
    Outline,
    /// Which stages there are.
    Targets,
    /// What checks find.
    Lint,
}

impl Request {
    /// By its name.
    ///
    /// # Errors
    /// There is no such question.
    pub fn read(name: &str) -> Result<Request, Error> {
        match name {
            "frontend.subrequests.describe" => Ok(Request::Describe),
            "frontend.outline" => Ok(Request::Outline),
            "frontend.targets" => Ok(Request::Targets),
            "frontend.lint" => Ok(Request::Lint),
            other => Err(Error::invalid(format!("unsupported request {other}")).with_kind(Kind::Unsupported)),
        }
    }
}

/// Go's `json.MarshalIndent(v, "", "  ")`, which writes `<`, `>` and `&` as escapes.
fn json(value: &impl Serialize) -> Vec<u8> {
    let text = serde_json::to_string_pretty(value).expect("answers are plain data");
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026").into_bytes()
}

fn answer(value: &impl Serialize, text: String) -> Answer {
    let entry = |name: &str, data: Vec<u8>| (name.to_owned(), data);
    [
        entry("result.json", json(value)),
        entry("result.txt", text.into_bytes()),
        entry("version", b"1.0.0".to_vec()),
    ]
    .into_iter()
    .collect()
}

#[derive(Serialize)]
struct Location {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Lines>,
}

#[derive(Serialize)]
struct Lines {
    start: Line,
    end: Line,
}

#[derive(Serialize)]
struct Line {
    line: u32,
}

/// Lines of an instruction that are listed one by one.
const LISTED: u32 = 1000;

impl Location {
    /// Each line is a range of its own, as BuildKit writes them.
    fn new(lines: &[Range]) -> Location {
        let range = |start, end| Lines { start: Line { line: start }, end: Line { line: end } };
        let each = lines.iter().flat_map(|l| {
            let listed = l.end.min(l.start.saturating_add(LISTED));
            let rest = (listed < l.end).then(|| range(listed + 1, l.end));
            (l.start..=listed).map(move |line| range(line, line)).chain(rest)
        });
        Location { ranges: each.collect() }
    }
}

fn encoded(data: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(data)
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Rows with columns as wide as they need be, three blanks between.
fn table(rows: &[Vec<&str>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |at: usize| rows.iter().filter_map(|r| r.get(at)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            let last = at + 1 == row.len();
            let pad = if last { 0 } else { widths[at] + 3 - cell.chars().count() };
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', pad));
        }
        out.push('\n');
    }
    out
}

#[derive(Serialize)]
struct Described {
    name: &'static str,
    version: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    description: &'static str,
    opts: Option<Vec<Named>>,
    inputs: Option<Vec<Named>>,
    metadata: Vec<Named>,
    refs: Option<Vec<Named>>,
}

#[derive(Serialize)]
struct Named {
    name: &'static str,
    description: &'static str,
}

/// What can be asked.
pub fn describe() -> Answer {
    let named = |name, description| Named { name, description };
    let request = |name, description, opts: Option<Vec<Named>>, status: bool| {
        let mut metadata = vec![named("result.json", ""), named("result.txt", "")];
        if status {
            metadata.push(named("result.statuscode", ""));
        }
        Described {
            name,
            version: "1.0.0",
            kind: "rpc",
            description,
            opts,
            inputs: None,
            metadata,
            refs: None,
        }
    };
    let target = vec![named("target", "Target build stage")];
    let all = [
        request("frontend.outline", "List all parameters current build target supports", Some(target), false),
        request("frontend.targets", "List all targets current build supports", Some(Vec::new()), false),
        request("frontend.lint", "Lint a Dockerfile", Some(Vec::new()), true),
        request("frontend.subrequests.describe", "List available subrequest types", None, false),
    ];
    let mut rows = vec![vec!["NAME", "VERSION", "DESCRIPTION"]];
    for one in &all {
        rows.push(vec![one.name.trim_start_matches("frontend."), one.version, one.description]);
    }
    answer(&all, table(&rows))
}

#[derive(Serialize)]
struct Targets<'a> {
    targets: Vec<TargetEntry<'a>>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct TargetEntry<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_false")]
    default: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    base: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    platform: &'a str,
    location: Location,
}

/// Which stages there are.
pub fn targets(source: &Source, stages: &Stages) -> Answer {
    let last = stages.stages.len().saturating_sub(1);
    let entries = stages.stages.iter().enumerate().map(|(at, stage)| TargetEntry {
        name: &stage.from.stage,
        default: at == last,
        description: comment_of(&stage.comments, &stage.from.stage),
        base: &stage.from.base,
        platform: &stage.from.platform,
        location: Location::new(&[stage.lines]),
    });
    let list = Targets { targets: entries.collect(), sources: [encoded(&source.data)] };
    let names: Vec<String> = list
        .targets
        .iter()
        .map(|t| match (t.name, t.default) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        })
        .collect();
    let mut rows = vec![vec!["TARGET", "DESCRIPTION"]];
    rows.extend(list.targets.iter().zip(&names).map(|(t, name)| vec![name.as_str(), t.description.as_str()]));
    let text = table(&rows);
    answer(&list, text)
}

#[derive(Serialize)]
struct Outlined<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<ArgEntry<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<NeedEntry<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<NeedEntry<'a>>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct ArgEntry<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    value: &'a str,
    location: Location,
}

#[derive(Serialize)]
struct NeedEntry<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "is_false")]
    required: bool,
    location: Location,
}

/// What a build can be given.
pub fn outline(source: &Source, outline: &Outline) -> Answer {
    let mut args: Vec<_> = outline.args.iter().collect();
    args.sort_by_key(|(_, arg)| arg.lines);
    let needs = |map: &'_ BTreeMap<String, (bool, Range)>| {
        let mut list: Vec<(String, bool, Range)> =
            map.iter().map(|(name, (required, lines))| (name.clone(), *required, *lines)).collect();
        list.sort_by_key(|(_, _, lines)| *lines);
        list
    };
    let (secrets, ssh) = (needs(&outline.secrets), needs(&outline.ssh));
    fn entries(list: &[(String, bool, Range)]) -> Vec<NeedEntry<'_>> {
        list.iter()
            .map(|(name, required, lines)| NeedEntry {
                name,
                required: *required,
                location: Location::new(&[*lines]),
            })
            .collect()
    }
    let out = Outlined {
        args: args
            .iter()
            .map(|(name, arg)| ArgEntry {
                name,
                description: &arg.comment,
                value: &arg.value,
                location: Location::new(&[arg.lines]),
            })
            .collect(),
        secrets: entries(&secrets),
        ssh: entries(&ssh),
        sources: [encoded(&source.data)],
    };
    let mut text = String::new();
    if !out.args.is_empty() {
        let mut rows = vec![vec!["BUILD ARG", "VALUE", "DESCRIPTION"]];
        rows.extend(out.args.iter().map(|a| vec![a.name, a.value, a.description]));
        text.push_str(&table(&rows));
        text.push('\n');
    }
    for (title, list) in [("SECRET", &out.secrets), ("SSH", &out.ssh)] {
        if !list.is_empty() {
            let mut rows = vec![vec![title, "REQUIRED"]];
            rows.extend(list.iter().map(|n| vec![n.name, if n.required { "true" } else { "" }]));
            text.push_str(&table(&rows));
            text.push('\n');
        }
    }
    answer(&out, text)
}

#[derive(Serialize)]
struct Linted<'a> {
    // Go's nil: `null` where there are none.
    warnings: Option<Vec<WarningEntry<'a>>>,
    sources: [SourceEntry<'a>; 1],
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    error: Option<ErrorEntry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WarningEntry<'a> {
    rule_name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    url: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    location: Location,
}

#[derive(Serialize)]
struct SourceEntry<'a> {
    filename: &'a str,
    data: String,
    language: &'static str,
}

#[derive(Serialize)]
struct ErrorEntry<'a> {
    message: &'a str,
    location: Location,
}

/// What checks found, and what stopped them.
pub fn lint(source: &Source, warnings: &[Warning], error: Option<&Error>) -> Answer {
    let entry = |w| -> WarningEntry<'_> {
        let w: &Warning = w;
        WarningEntry {
            rule_name: &w.rule,
            description: &w.description,
            url: &w.url,
            detail: &w.message,
            location: Location::new(&w.lines),
        }
    };
    let out = Linted {
        warnings: Some(warnings.iter().map(entry).collect()).filter(|w: &Vec<_>| !w.is_empty()),
        sources: [SourceEntry {
            filename: &source.filename,
            data: encoded(&source.data),
            language: "Dockerfile",
        }],
        error: error.map(|e| ErrorEntry { message: &e.message, location: Location::new(&e.lines.concat()) }),
    };
    let mut text = String::new();
    let mut sorted: Vec<&Warning> = warnings.iter().collect();
    sorted.sort_by(|a, b| (a.lines.first(), &a.message).cmp(&(b.lines.first(), &b.message)));
    for warning in sorted {
        text.push_str(&format!("\nWARNING: {}", warning.rule));
        if !warning.url.is_empty() {
            text.push_str(&format!(" - {}", warning.url));
        }
        text.push_str(&format!("\n{}\n", warning.message));
        text.push_str(&excerpt(source, &warning.lines));
    }
    if let Some(error) = error {
        text.push_str(&format!("\nERROR: {}\n", error.message));
        text.push_str(&excerpt(source, &error.lines.concat()));
    }
    let failed = !warnings.is_empty() || error.is_some();
    let mut answer = answer(&out, text);
    answer.insert("result.statuscode".into(), if failed { b"1".to_vec() } else { b"0".to_vec() });
    answer
}

/// Lines of an excerpt before and after those that are meant.
const AROUND: u32 = 2;

/// The lines of a file that are meant, with some around them, as BuildKit prints them.
pub fn excerpt(source: &Source, lines: &[Range]) -> String {
    let (Some(first), Some(last)) = (lines.iter().map(|l| l.start).min(), lines.iter().map(|l| l.end).max())
    else {
        return String::new();
    };
    let data = String::from_utf8_lossy(&source.data);
    let all: Vec<&str> = data.split('\n').collect();
    let count = all.len() as u32;
    if first == 0 || first > count {
        return String::new();
    }
    // A short range shows more around it.
    let mut around = (0, 0);
    let (mut start, mut end) = (first, last.min(count));
    while end - start < AROUND * 2 && (around.0 < AROUND || around.1 < AROUND) {
        let before = (start, end);
        if around.0 < AROUND && start > 1 {
            start -= 1;
        }
        if around.1 < AROUND && end < count {
            end += 1;
        }
        around = (around.0 + 1, around.1 + 1);
        if before == (start, end) {
            break;
        }
    }
    let rule = "--------------------\n";
    let mut out = format!("{}:{first}\n{rule}", source.filename);
    for number in start..=end {
        let meant = lines.iter().any(|l| (l.start..=l.end).contains(&number));
        let mark = if meant { ">>>" } else { "   " };
        let line = all[number as usize - 1].trim_end_matches('\r');
        out.push_str(&format!(" {number:3} | {mark} {line}\n"));
    }
    out + rule
}
