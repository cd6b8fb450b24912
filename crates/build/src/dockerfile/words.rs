//! A line cut into instruction, flags and arguments, as each instruction has them.

use serde_json::Value;

use super::text::quote;

/// What stands between words of an instruction. (Not every space is.)
fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// Cuts at the first blanks.
fn split_first(text: &str) -> Option<(&str, &str)> {
    let at = text.find(is_blank)?;
    Some((&text[..at], text[at..].trim_start_matches(is_blank)))
}

/// Instruction, flags and the rest of a line.
pub fn command(line: &str) -> (&str, Vec<String>, &str) {
    let line = line.trim();
    match split_first(line) {
        None => (line, Vec::new(), ""),
        Some((name, rest)) => {
            let (flags, rest) = flags(rest);
            (name, flags, rest.trim())
        }
    }
}

/// `--name=value` words at the beginning, and what comes after.
fn flags(line: &str) -> (Vec<String>, &str) {
    #[derive(PartialEq)]
    enum Phase {
        Spaces,
        Word,
        Quote(char),
    }
    let mut flags: Vec<String> = Vec::new();
    let mut phase = Phase::Spaces;
    let mut word = String::new();
    let mut blank_ok = false;
    let mut chars = line.char_indices();
    while let Some((at, mut c)) = chars.next() {
        if phase == Phase::Spaces {
            if c.is_whitespace() {
                continue;
            }
            if !line[at..].starts_with("--") {
                return (flags, &line[at..]);
            }
            phase = Phase::Word;
        }
        match phase {
            Phase::Word if c.is_whitespace() => {
                phase = Phase::Spaces;
                if word == "--" {
                    return (flags, &line[at..]);
                }
                if blank_ok || !word.is_empty() {
                    flags.push(std::mem::take(&mut word));
                }
                blank_ok = false;
                continue;
            }
            Phase::Word if c == '\'' || c == '"' => {
                blank_ok = true;
                phase = Phase::Quote(c);
                continue;
            }
            Phase::Quote(quote) if c == quote => {
                phase = Phase::Word;
                continue;
            }
            _ => {}
        }
        if c == '\\' {
            match chars.next() {
                Some((_, next)) => c = next,
                None => break,
            }
        }
        word.push(c);
    }
    if phase != Phase::Spaces && word != "--" && (blank_ok || !word.is_empty()) {
        flags.push(word);
    }
    (flags, "")
}

/// Words as a shell cuts them; quotes and escapes stay.
pub fn shell_words(rest: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut blank_ok = false;
    let mut chars = rest.chars().peekable();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if blank_ok || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                blank_ok = false;
                continue;
            }
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                blank_ok = true;
            }
            Some(open) if c == open => quote = None,
            _ => {}
        }
        if c == escape && quote != Some('\'') {
            // At the end of the line it stands for nothing.
            let Some(next) = chars.next() else { continue };
            word.push(c);
            word.push(next);
            continue;
        }
        word.push(c);
    }
    if blank_ok || !word.is_empty() {
        words.push(word);
    }
    words
}

/// A name with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Name.
    pub key: String,
    /// Value.
    pub value: String,
    /// `ENV name value`, the old way.
    pub legacy: bool,
}

/// `name=value …`, or `name value`.
pub fn pairs(rest: &str, instruction: &str, escape: char) -> Result<Vec<Pair>, String> {
    let words = shell_words(rest, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.contains('=') {
        let Some((key, value)) = split_first(rest) else {
            return Err(format!("{instruction} must have two arguments"));
        };
        return Ok(vec![Pair { key: key.into(), value: value.into(), legacy: true }]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some((key, value)) => Ok(Pair { key: key.into(), value: value.into(), legacy: false }),
        None => {
            Err(format!("Syntax error - can't find = in {}. Must be of the form: name=value", quote(word)))
        }
    };
    words.iter().map(pair).collect()
}

/// Words between blanks.
pub fn blank_separated(rest: &str) -> Vec<String> {
    if rest.is_empty() {
        return Vec::new();
    }
    rest.split(is_blank).filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

/// A JSON array of strings; `None` where it is no array.
pub fn json_strings(rest: &str) -> Result<Option<Vec<String>>, String> {
    if !rest.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<Value>>(rest) else { return Ok(None) };
    let string = |value| match value {
        Value::String(text) => Ok(text),
        _ => Err("when using JSON array syntax, arrays must be comprised of strings only".to_owned()),
    };
    values.into_iter().map(string).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_before_arguments() {
        let read = |line| {
            let (name, flags, rest) = command(line);
            (name.to_owned(), flags, rest.to_owned())
        };
        let flags = |list: &[&str]| list.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            read("COPY --from=a  --link b c"),
            ("COPY".into(), flags(&["--from=a", "--link"]), "b c".into())
        );
        assert_eq!(
            read("RUN --mount='type=x y' ls"),
            ("RUN".into(), flags(&["--mount=type=x y"]), "ls".into())
        );
        assert_eq!(read("run -- ls"), ("run".into(), flags(&[]), "ls".into()));
        assert_eq!(read("RUN\tls  -l"), ("RUN".into(), flags(&[]), "ls  -l".into()));
        assert_eq!(read("RUN"), ("RUN".into(), flags(&[]), String::new()));
    }

    #[test]
    fn pairs_are_read_both_ways() {
        let read = |rest| {
            pairs(rest, "ENV", '\\').map(|p| p.into_iter().map(|p| (p.key, p.value)).collect::<Vec<_>>())
        };
        assert_eq!(read("a b  c"), Ok(vec![("a".into(), "b  c".into())]));
        assert_eq!(read("a=b c=\"d e\""), Ok(vec![("a".into(), "b".into()), ("c".into(), "\"d e\"".into())]));
        assert_eq!(read("a=b\\ c"), Ok(vec![("a".into(), "b\\ c".into())]));
        assert_eq!(read("a"), Err("ENV must have two arguments".into()));
        assert!(read("a=b c").unwrap_err().contains("can't find = in \"c\""));
    }

    #[test]
    fn arrays_are_of_strings() {
        assert_eq!(json_strings("[\"a\", \"b\"]"), Ok(Some(vec!["a".into(), "b".into()])));
        assert_eq!(json_strings("[a]"), Ok(None));
        assert!(json_strings("[1]").is_err());
    }
}
