//! Text to nodes: lines with their continuations, comments, heredocs.

use super::directives::Reader;
use super::heredoc::{self, Heredoc};
use super::words::{self, Pair};
use super::{MAX_INSTRUCTIONS, MAX_LINE, MAX_SIZE};
use crate::Error;
use crate::graph::Range;

/// A line of a Dockerfile, with all that belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The instruction, as written.
    pub name: String,
    /// The whole line, continuations joined.
    pub original: String,
    /// `--name=value`
    pub flags: Vec<String>,
    /// What comes after.
    pub args: Args,
    /// It was a JSON array.
    pub json: bool,
    /// Where it stands.
    pub lines: Range,
    /// The comments right before it.
    pub comments: Vec<String>,
    /// The texts that follow it.
    pub heredocs: Vec<Heredoc>,
}

/// Arguments, as each instruction has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Args {
    /// Words, or one that is all of it.
    Words(Vec<String>),
    /// Names and values (`ENV`, `LABEL`).
    Pairs(Vec<Pair>),
    /// The instruction that `ONBUILD` puts off.
    Node(Option<Box<Node>>),
}

impl Default for Args {
    fn default() -> Self {
        Args::Words(Vec::new())
    }
}

/// A Dockerfile in nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Its instructions; at least one.
    pub nodes: Vec<Node>,
    /// `\`, or what `# escape=` says.
    pub escape: char,
    /// Lines in which an instruction with an empty continuation ends.
    pub empty_continuations: Vec<u32>,
}

/// Cuts a line into instruction and arguments.
fn node(line: &str, escape: char, inside: bool) -> Result<Node, String> {
    let (name, flags, rest) = words::command(line);
    let whole = |rest: &str| if rest.is_empty() { Vec::new() } else { vec![rest.to_owned()] };
    let mut json = false;
    let mut list = |rest: &str, otherwise: fn(&str) -> Vec<String>| -> Result<Args, String> {
        Ok(Args::Words(match words::json_strings(rest)? {
            Some(strings) => {
                json = true;
                strings
            }
            None => otherwise(rest),
        }))
    };
    let args = match name.to_ascii_lowercase().as_str() {
        "add" | "copy" | "volume" => list(rest, words::blank_separated)?,
        "cmd" | "entrypoint" | "run" | "shell" => list(rest, whole)?,
        "healthcheck" => {
            let (kind, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            match list(rest.trim_start(), whole)? {
                _ if kind.is_empty() => Args::Words(Vec::new()),
                Args::Words(words) => Args::Words([vec![kind.to_owned()], words].concat()),
                other => other,
            }
        }
        "arg" => Args::Words(words::shell_words(rest, escape)),
        "env" => Args::Pairs(words::pairs(rest, "ENV", escape)?),
        "label" => Args::Pairs(words::pairs(rest, "LABEL", escape)?),
        "expose" | "from" => Args::Words(words::blank_separated(rest)),
        "maintainer" | "stopsignal" | "user" | "workdir" => Args::Words(whole(rest)),
        // What is inside of the second one is never looked at: chaining is refused.
        "onbuild" if !rest.is_empty() && !inside => Args::Node(Some(Box::new(node(rest, escape, true)?))),
        "onbuild" => Args::Node(None),
        _ => Args::default(),
    };
    Ok(Node { name: name.to_owned(), original: line.to_owned(), flags, args, json, ..Node::default() })
}

impl Node {
    /// May be followed by heredocs.
    fn takes_heredocs(&self) -> bool {
        let node = match &self.args {
            Args::Node(Some(inner)) => inner,
            _ => self,
        };
        let name = node.name.to_ascii_lowercase();
        matches!(name.as_str(), "add" | "copy" | "run") && !node.json
    }
}

/// A line without its continuation character, and whether it had one.
fn continuation(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        // Escaped itself, it is no continuation.
        Some(before) if !before.ends_with(escape) => (before, true),
        _ => (line, false),
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

struct Lines<'a> {
    rest: &'a str,
    number: u32,
    /// The last line was too long.
    too_long: bool,
}

impl<'a> Lines<'a> {
    /// The next line, with its end.
    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() || self.too_long {
            return None;
        }
        let end = self.rest.find('\n').map_or(self.rest.len(), |at| at + 1);
        let (line, rest) = self.rest.split_at(end);
        if line.len() > MAX_LINE || (line.len() == MAX_LINE && !line.ends_with('\n')) {
            self.too_long = true;
            return None;
        }
        self.rest = rest;
        Some(line)
    }
}

/// Reads a Dockerfile.
///
/// # Errors
/// What does not have a Dockerfile's form, with the lines where, in BuildKit's words.
pub fn parse(text: &str) -> Result<Parsed, Error> {
    if text.len() > MAX_SIZE {
        return Err(Error::invalid(format!("dockerfile greater than max allowed size of {MAX_SIZE}")));
    }
    let mut lines = Lines { rest: text.strip_prefix('\u{feff}').unwrap_or(text), number: 0, too_long: false };
    let mut directives = Reader::new("#", 0);
    let mut out = Parsed { nodes: Vec::new(), escape: '\\', empty_continuations: Vec::new() };
    let mut comments: Vec<String> = Vec::new();
    // The first line's number is not known when it is read: BuildKit names none then.
    let at = |start: u32, end: u32, why: String| {
        let lines = [Range { start, end: end.max(start) }];
        Err(Error::invalid(why).at(if start == 0 { &[] } else { &lines }))
    };

    while let Some(raw) = lines.next() {
        let line = raw.trim_end_matches(['\r', '\n']).trim_start();
        let directive = match directives.line(line) {
            Ok(found) => found,
            Err(why) => return at(lines.number, lines.number, why),
        };
        if let Some(found) = &directive
            && found.name == "escape"
        {
            if found.value != "\\" && found.value != "`" {
                let why = format!("invalid escape token '{}' does not match ` or \\", found.value);
                return at(lines.number, lines.number, why);
            }
            out.escape = if found.value == "`" { '`' } else { '\\' };
        }
        lines.number += 1;
        let start = lines.number;
        if let Some(comment) = line.strip_prefix('#') {
            let comment = comment.trim();
            match comment {
                "" => comments.clear(),
                _ if directive.is_some() => {}
                comment => comments.push(comment.to_owned()),
            }
            continue;
        }
        if line.is_empty() {
            comments.clear();
            continue;
        }
        let (first, mut open) = continuation(line, out.escape);
        let mut joined = first.to_owned();
        let mut empty = false;
        while open {
            let Some(raw) = lines.next() else { break };
            let line = raw.trim_end_matches(['\r', '\n']);
            // Directives end with the first line that is none.
            let _ = directives.line(line);
            lines.number += 1;
            if is_comment(line) {
                continue;
            }
            if line.trim_start().is_empty() {
                empty = true;
                continue;
            }
            let more;
            (more, open) = continuation(line, out.escape);
            joined.push_str(more);
        }
        if empty {
            out.empty_continuations.push(lines.number);
        }
        let mut child = match node(&joined, out.escape, false) {
            Ok(child) => child,
            Err(why) => return at(start, lines.number, why),
        };
        if child.takes_heredocs() && joined.contains("<<") {
            match heredocs(&joined, &mut lines) {
                Ok(heredocs) => child.heredocs = heredocs,
                Err(why) => return at(start, lines.number, why),
            }
        }
        child.lines = Range { start, end: lines.number };
        child.comments = std::mem::take(&mut comments);
        if out.nodes.len() == MAX_INSTRUCTIONS {
            return at(start, lines.number, format!("more than {MAX_INSTRUCTIONS} instructions"));
        }
        out.nodes.push(child);
    }
    if lines.too_long {
        let why = format!("dockerfile line greater than max allowed size of {}", MAX_LINE - 1);
        return at(lines.number, lines.number, why);
    }
    if out.nodes.is_empty() {
        return at(lines.number, lines.number, "file with no instructions".into());
    }
    Ok(out)
}

/// The texts that begin in `line`.
fn heredocs(line: &str, lines: &mut Lines<'_>) -> Result<Vec<Heredoc>, String> {
    let mut docs = heredoc::in_line(line)?;
    for doc in &mut docs {
        loop {
            let Some(raw) = lines.next() else { return Err("unterminated heredoc".into()) };
            lines.number += 1;
            let mut end = raw.trim_end_matches(['\r', '\n']);
            if doc.chomp {
                end = end.trim_start_matches('\t');
            }
            if end == doc.name {
                break;
            }
            doc.content.push_str(raw);
        }
    }
    Ok(docs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<(String, Range)> {
        parse(text).unwrap().nodes.into_iter().map(|n| (n.original, n.lines)).collect()
    }

    fn lines(start: u32, end: u32) -> Range {
        Range { start, end }
    }

    #[test]
    fn lines_go_on_after_the_escape_character() {
        let text = "FROM a\nRUN b \\\n  # comment\n\n  c\\\nd\n";
        assert_eq!(read(text), [("FROM a".into(), lines(1, 1)), ("RUN b   cd".into(), lines(2, 6))]);
        assert_eq!(parse(text).unwrap().empty_continuations, [6]);
        assert_eq!(read("# escape=`\nRUN a `\nb \\\n"), [("RUN a b \\".into(), lines(2, 3))]);
        assert_eq!(
            read("RUN a \\\\\nRUN b"),
            [("RUN a \\\\".into(), lines(1, 1)), ("RUN b".into(), lines(2, 2))]
        );
    }

    #[test]
    fn byte_order_mark_and_carriage_returns_do_not_matter() {
        assert_eq!(
            read("\u{feff}FROM a\r\nRUN b\\\r\n c\r\n"),
            [("FROM a".into(), lines(1, 1)), ("RUN b c".into(), lines(2, 3))]
        );
    }

    #[test]
    fn heredocs_belong_to_their_instruction() {
        let parsed = parse("RUN <<A cat <<-'B'\none\nA\n\ttwo\n\tB\nUSER x\n").unwrap();
        let [run, user] = parsed.nodes.as_slice() else { panic!("{parsed:?}") };
        assert_eq!(run.heredocs[0].content, "one\n");
        assert_eq!((run.heredocs[1].content.as_str(), run.heredocs[1].text().as_str()), ("\ttwo\n", "two\n"));
        assert_eq!((run.lines, user.lines), (lines(1, 5), lines(6, 6)));
        assert_eq!(parse("RUN <<A\none\n").unwrap_err().message, "unterminated heredoc");
        // Nothing else takes them.
        assert!(parse("CMD cat <<A\nUSER A").unwrap().nodes[0].heredocs.is_empty());
    }

    #[test]
    fn comments_before_an_instruction_are_its_own() {
        let parsed = parse("# check=skip=all\n# one\n#\n# two\n# three\nFROM a\n# four\n\nRUN b").unwrap();
        assert_eq!(parsed.nodes[0].comments, ["two", "three"]);
        assert!(parsed.nodes[1].comments.is_empty());
    }

    #[test]
    fn what_is_too_large_is_refused() {
        for (text, expected) in [
            (
                format!("RUN {}\n", "x".repeat(MAX_LINE)),
                "dockerfile line greater than max allowed size of 65535",
            ),
            ("RUN x\n".repeat(MAX_INSTRUCTIONS + 1), "more than 10000 instructions"),
            ("#\n".repeat(MAX_SIZE), "dockerfile greater than max allowed size of 16777216"),
            ("ONBUILD ".repeat(8000), ""),
            ("# only\n\n".into(), "file with no instructions"),
        ] {
            let message = parse(&text).err().map(|e| e.message).unwrap_or_default();
            assert_eq!(message, expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([A-Z]{3,4}|ONBUILD|RUN|COPY|<<|EOF|#|\\\\|`|\n|\t| |=|--|\"|'|\\[|\\]|,|x){0,40}") {
            if let Ok(parsed) = parse(&text) {
                let count = text.lines().count() as u32;
                let mut last = 0;
                for node in parsed.nodes {
                    prop_assert!(node.lines.start > last && node.lines.end >= node.lines.start);
                    prop_assert!(node.lines.end <= count);
                    last = node.lines.end;
                }
            }
        }
    }
}
