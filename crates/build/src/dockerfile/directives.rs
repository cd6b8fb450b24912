//! Lines at the top that say how the rest is read: `# syntax=`, `# escape=`, `# check=`.

use serde_json::Value;

use crate::graph::Range;

/// A directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// In lower case.
    pub name: String,
    /// All of it.
    pub value: String,
    /// Its line, from 1.
    pub line: u32,
}

/// Reads directives line by line, until there is a line that is none.
#[derive(Debug)]
pub struct Reader {
    comment: &'static str,
    line: u32,
    seen: Vec<String>,
    done: bool,
}

impl Reader {
    /// Directives in comments that begin with `comment`; `line` lines were before.
    pub fn new(comment: &'static str, line: u32) -> Reader {
        Reader { comment, line, seen: Vec::new(), done: false }
    }

    /// The next line, without its end.
    pub fn line(&mut self, text: &str) -> Result<Option<Directive>, String> {
        self.line += 1;
        if self.done {
            return Ok(None);
        }
        let found = text.strip_prefix(self.comment).and_then(|rest| {
            let (name, value) = rest.trim_start().split_once('=')?;
            let (name, value) = (name.trim_end().to_ascii_lowercase(), value.trim());
            let known = matches!(name.as_str(), "syntax" | "escape" | "check") && !value.is_empty();
            known.then(|| (name, value.to_owned()))
        });
        let Some((name, value)) = found else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&name) {
            return Err(format!("only one {name} parser directive can be used"));
        }
        self.seen.push(name.clone());
        Ok(Some(Directive { name, value, line: self.line }))
    }
}

fn find_in(text: &str, comment: &'static str, before: u32, name: &str) -> Option<Directive> {
    let mut reader = Reader::new(comment, before);
    for line in text.lines() {
        match reader.line(line) {
            Ok(Some(found)) if found.name == name => return Some(found),
            Ok(_) if reader.done => return None,
            Ok(_) => {}
            Err(_) => return None,
        }
    }
    None
}

/// The text without byte order mark and `#!` line, and how many lines that took.
fn body(text: &str) -> (&str, u32) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match text.strip_prefix("#!") {
        Some(rest) => (rest.split_once('\n').map_or("", |(_, rest)| rest), 1),
        None => (text, 0),
    }
}

/// The directive of this name (`check`).
pub fn find(text: &str, name: &str) -> Option<Directive> {
    let (text, before) = body(text);
    find_in(text, "#", before, name)
}

/// The syntax a file asks for, also as `// syntax=` or in JSON: its image and where it says so.
pub fn syntax(text: &str) -> Option<(String, Range)> {
    let (text, before) = body(text);
    let found = find_in(text, "#", before, "syntax").or_else(|| find_in(text, "//", before, "syntax"));
    let at = |line| Range { start: line, end: line };
    if let Some(found) = found {
        let image = found.value.split(' ').next().unwrap_or_default().to_owned();
        return Some((image, at(found.line)));
    }
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let json: Value = serde_json::from_str(text).ok()?;
    Some((json.get("syntax")?.as_str()?.to_owned(), at(before + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_stand_before_everything_else() {
        let text =
            "\u{feff}#!/bin/x\n# Syntax = docker/dockerfile:1 x\n#check=skip=all\nFROM a\n# escape=`\n";
        assert_eq!(syntax(text), Some(("docker/dockerfile:1".into(), Range { start: 2, end: 2 })));
        assert_eq!(find(text, "check").map(|d| (d.value, d.line)), Some(("skip=all".into(), 3)));
        assert_eq!(find(text, "escape"), None);
        assert_eq!(find("# words\n# check=skip=all", "check"), None);
        assert_eq!(syntax("// syntax=a/b\n{}").map(|s| s.0), Some("a/b".into()));
        assert_eq!(syntax("{\"syntax\": \"a/b\"}").map(|s| s.0), Some("a/b".into()));
    }
}
