//! Patterns of `.dockerignore` and `--exclude`, as `moby/patternmatcher` reads and matches them.
//!
//! `*` and `?` stop at slashes, `**` does not; a pattern that names a folder is one for all below it; `!` takes back
//! what patterns before it said; the last one that matches decides.

use regex::bytes::Regex;

/// Most patterns.
pub const MAX_PATTERNS: usize = 10_000;

/// Reads a `.dockerignore` file.
pub fn read_ignore_file(data: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(data);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut out = Vec::new();
    for line in text.lines() {
        // Only a `#` in the first column begins a comment.
        if line.starts_with('#') {
            continue;
        }
        let line = line.trim();
        let (sign, pattern) = line.strip_prefix('!').map_or(("", line), |rest| ("!", rest.trim()));
        if line.is_empty() {
            continue;
        }
        if pattern.is_empty() {
            out.push(sign.to_owned());
            continue;
        }
        let clean = crate::convert::names::clean(pattern);
        // They are relative to the context's root, whatever they say.
        let relative = if clean.len() > 1 { clean.strip_prefix('/').unwrap_or(&clean) } else { &clean };
        out.push(format!("{sign}{relative}"));
    }
    out
}

/// Patterns, in order.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    exception: bool,
    regex: Regex,
    /// What it begins with, up to the first sign: most paths are told apart by that.
    literal: String,
}

impl Patterns {
    /// Reads patterns. Empty ones are passed over.
    ///
    /// # Errors
    /// A pattern that has no meaning (`[`, a single `!`).
    pub fn new<T: AsRef<str>>(patterns: &[T]) -> Result<Patterns, String> {
        if patterns.len() > MAX_PATTERNS {
            return Err(format!("more than {MAX_PATTERNS} patterns"));
        }
        let mut out = Vec::new();
        for text in patterns {
            let text = text.as_ref().trim();
            if text.is_empty() {
                continue;
            }
            let text = crate::convert::names::clean(text);
            let (text, exception) = match text.strip_prefix('!') {
                Some("") => return Err("illegal exclusion pattern: \"!\"".into()),
                Some(rest) => (rest.to_owned(), true),
                None => (text, false),
            };
            let expression = expression(&text)?;
            let regex = Regex::new(&expression).map_err(|_| "syntax error in pattern".to_owned())?;
            let literal = text.split(['*', '?', '[', '\\']).next().unwrap_or_default().to_owned();
            out.push(Pattern { text, exception, regex, literal });
        }
        Ok(Patterns { patterns: out })
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Some take back what others say: a folder that matches may have files that do not.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|p| p.exception)
    }

    /// All of them say that the path, or a folder above it, matches. The path is relative, with slashes.
    pub fn matches(&self, path: &str) -> bool {
        let path = path.trim_start_matches('/');
        let mut matched = false;
        for pattern in &self.patterns {
            // What is matched already can only be taken back, and the other way round.
            if pattern.exception == matched && pattern.matches_it_or_above(path) {
                matched = !pattern.exception;
            }
        }
        matched
    }

    /// Each pattern's own answer for a folder, to be given on to what is in it: cheaper than asking for all folders
    /// above each file.
    pub fn descend(&self, path: &str, above: &Answers) -> (bool, Answers) {
        let path = path.trim_start_matches('/');
        let mut matched = false;
        let mut answers = Vec::with_capacity(self.patterns.len());
        for (at, pattern) in self.patterns.iter().enumerate() {
            let own = above.0.get(at).copied().unwrap_or(false) || pattern.matches(path);
            answers.push(own);
            if own {
                matched = !pattern.exception;
            }
        }
        (matched, Answers(answers))
    }

    /// A folder that matches has nothing that an exception could take back: it need not be read.
    pub fn may_skip(&self, folder: &str) -> bool {
        let folder = format!("{}/", folder.trim_matches('/'));
        !self.patterns.iter().filter(|p| p.exception).any(|p| {
            let literal = p.literal.as_str();
            literal.starts_with(&folder) || folder.starts_with(literal) || literal.len() < p.text.len()
        })
    }

    /// The patterns, without `!`.
    pub fn texts(&self) -> impl Iterator<Item = (&str, bool)> {
        self.patterns.iter().map(|p| (p.text.as_str(), p.exception))
    }
}

/// Which patterns match a folder, or one above it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers(Vec<bool>);

impl Pattern {
    fn matches(&self, path: &str) -> bool {
        path.starts_with(&self.literal) && self.regex.is_match(path.as_bytes())
    }

    fn matches_it_or_above(&self, path: &str) -> bool {
        if self.matches(path) {
            return true;
        }
        path.char_indices().filter(|(_, c)| *c == '/').any(|(at, _)| self.matches(&path[..at]))
    }
}

/// A pattern as an expression.
fn expression(pattern: &str) -> Result<String, String> {
    let bad = || "syntax error in pattern".to_owned();
    let mut out = String::from("(?s-u)^");
    let mut chars = pattern.chars().peekable();
    let literal = |out: &mut String, c: char| {
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    };
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                // `**/` is `**`: it also stands for no folder at all.
                if chars.peek() == Some(&'/') {
                    chars.next();
                }
                match chars.peek() {
                    None => out.push_str(".*"),
                    Some(_) => out.push_str("(.*/)?"),
                }
            }
            '*' => out.push_str("[^/]*"),
            // One character, of however many bytes.
            '?' => out.push_str("(?u:[^/])"),
            '\\' => match chars.next() {
                Some(next) => literal(&mut out, next),
                None => return Err(bad()),
            },
            '[' => out.push_str(&class(&mut chars).ok_or_else(bad)?),
            c => literal(&mut out, c),
        }
    }
    out.push('$');
    Ok(out)
}

/// `[a-z]`, `[^a-z]`, after its bracket.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    let mut out = String::from("(?u:[");
    if chars.peek() == Some(&'^') {
        chars.next();
        out.push('^');
    }
    let mut any = false;
    let member = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next()? {
        '\\' => chars.next(),
        '-' | ']' => None,
        c => Some(c),
    };
    loop {
        if any && chars.peek() == Some(&']') {
            chars.next();
            out.push_str("])");
            return Some(out);
        }
        let low = member(chars)?;
        let high = match chars.peek() {
            Some('-') => {
                chars.next();
                member(chars)?
            }
            _ => low,
        };
        if low > high {
            return None;
        }
        out.push_str(&format!("\\x{{{:x}}}-\\x{{{:x}}}", low as u32, high as u32));
        any = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(patterns: &[&str], path: &str) -> bool {
        Patterns::new(patterns).unwrap().matches(path)
    }

    /// Of moby/patternmatcher's documentation and Docker's reference.
    #[test]
    fn patterns_match_as_docker_says() {
        for (pattern, path, expected) in [
            ("*", "a", true),
            ("*", "a/b", true),
            ("**", "a/b", true),
            ("**/", "a/b", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir", false),
            ("**/file", "file", true),
            ("**/file", "a/b/file", true),
            ("**/file", "a/b/file2", false),
            ("**/file*.txt", "a/b/file.txt", true),
            ("a**/*.txt", "abc/def/x.txt", true),
            ("**/**", "file", true),
            ("a/*/b", "a/x/b", true),
            ("a/*/b", "a/x/y/b", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("a?c", "aäc", true),
            ("a[b-d]e", "ace", true),
            ("a[^b-d]e", "ace", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("abc", "abc/def", true),
            (".foo", "xfoo", false),
            ("abc.def", "abcXdef", false),
            ("./a/../b", "b", true),
            ("a(b)c/def", "a(b)c/def", true),
        ] {
            assert_eq!(matches(&[pattern], path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn the_last_pattern_decides() {
        assert!(!matches(&["*.md", "!README.md"], "README.md"));
        assert!(matches(&["*.md", "!README*.md", "README-secret.md"], "README-secret.md"));
        assert!(!matches(&["docs", "!docs/README.md"], "docs/README.md"));
        assert!(matches(&["!docs/README.md", "docs"], "docs/README.md"));
        let patterns = Patterns::new(&["docs", "!docs/a"]).unwrap();
        assert!(!patterns.may_skip("docs") && patterns.has_exceptions());
        assert!(Patterns::new(&["docs", "!other/a"]).unwrap().may_skip("docs"));
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for pattern in ["[", "[a", "a\\", "[]a]", "[b-a]", "!"] {
            assert!(Patterns::new(&[pattern]).is_err(), "{pattern}");
        }
    }

    #[test]
    fn ignore_files_are_read() {
        let read = read_ignore_file(b"\xef\xbb\xbf# no\n\n a \n/b/../c\n! d\n #e\n!\n");
        assert_eq!(read, ["a", "c", "!d", "#e", "!"]);
    }

    proptest! {
        #[test]
        fn going_down_says_the_same(
            texts in prop::collection::vec("!?[ab*?]{1,3}(/[ab*]{1,3}){0,2}", 0..5),
            path in "[ab]{1,2}(/[ab]{1,2}){0,3}",
        ) {
            let patterns = Patterns::new(&texts).unwrap();
            let mut answers = Answers::default();
            let mut said = false;
            let ends = path.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| at).chain([path.len()]);
            for end in ends {
                (said, answers) = patterns.descend(&path[..end], &answers);
            }
            prop_assert_eq!(said, patterns.matches(&path));
        }

        #[test]
        fn a_skipped_folder_has_nothing_that_is_taken_back(
            texts in prop::collection::vec("!?[ab*]{1,3}(/[ab*]{1,3}){0,2}", 1..5),
            folder in "[ab]{1,2}", below in "[ab]{1,2}(/[ab]{1,2}){0,2}",
        ) {
            let patterns = Patterns::new(&texts).unwrap();
            if patterns.matches(&folder) && patterns.may_skip(&folder) {
                let path = format!("{folder}/{below}");
                prop_assert!(patterns.matches(&path));
            }
        }

        #[test]
        fn any_pattern_is_read_or_refused(text in ".{0,20}", path in ".{0,20}") {
            if let Ok(patterns) = Patterns::new(&[text]) {
                patterns.matches(&path);
            }
        }
    }
}
