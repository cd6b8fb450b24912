//! Variables and quotes in words, as BuildKit's shell lexer reads them (`frontend/dockerfile/shell`).
//!
//! `$name`, `${name}`, `${name:-word}`, `-`, `:+`, `+`, `:?`, `?`, `${name#pattern}`, `##`, `%`, `%%`,
//! `${name/pattern/with}` and `//`. Single quotes hold everything, double quotes everything but variables and escapes.

use std::collections::BTreeSet;

use regex::Regex;

use super::text::quote;

/// `${a:-${b:-…}}`: how deep.
pub const MAX_NESTING: usize = 128;
/// How long a word may become, in bytes (`ENV A=$A$A`, again and again).
pub const MAX_WORD: usize = 1 << 20;

/// Where variables come from.
pub trait Env {
    /// The value of one.
    fn get(&self, name: &str) -> Option<&str>;
    /// The names of all.
    fn keys(&self) -> Vec<&str>;
}

/// Variables in order; a name once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvList(Vec<(String, String)>);

impl EnvList {
    /// Sets one; it becomes the last.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let name = name.into();
        self.0.retain(|(n, _)| *n != name);
        self.0.push((name, value.into()));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// `name=value` for each.
    pub fn to_strings(&self) -> Vec<String> {
        self.0.iter().map(|(n, v)| format!("{n}={v}")).collect()
    }
}

impl Env for EnvList {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(n, _)| n.as_str()).collect()
    }
}

/// Some variables before others.
pub struct Over<'a>(pub &'a EnvList, pub &'a dyn Env);

impl Env for Over<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).or_else(|| self.1.get(name))
    }

    fn keys(&self) -> Vec<&str> {
        self.1.keys().into_iter().filter(|k| self.0.get(k).is_none()).chain(self.0.keys()).collect()
    }
}

/// How words are read.
#[derive(Clone, Copy, Debug)]
pub struct Lex {
    /// `\`, or as `# escape=` says.
    pub escape: char,
    /// Quotes stay in the word.
    pub raw_quotes: bool,
    /// Escapes stay in the word.
    pub raw_escapes: bool,
    /// Quotes mean nothing.
    pub skip_quotes: bool,
    /// Unset variables stay as they are written.
    pub skip_unset: bool,
}

/// What became of a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// All of it.
    pub word: String,
    /// The same cut at spaces outside of quotes.
    pub words: Vec<String>,
    /// Variables that were found.
    pub matched: BTreeSet<String>,
    /// Variables that were not.
    pub unmatched: BTreeSet<String>,
}

impl Lex {
    /// The usual way.
    pub fn new(escape: char) -> Lex {
        Lex { escape, raw_quotes: false, raw_escapes: false, skip_quotes: false, skip_unset: false }
    }

    /// Reads a word. The result has the variables that were seen also where it is an error.
    pub fn expand(&self, word: &str, env: &dyn Env) -> (Expanded, Result<(), String>) {
        let mut reader = Reader {
            lex: self,
            env,
            rest: word,
            raw_escapes: self.raw_escapes,
            depth: 0,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        };
        let (text, result) = match reader.until(None, self.raw_escapes) {
            Ok(text) => (text, Ok(())),
            Err(why) => (Words::default(), Err(format!("failed to process {}: {why}", quote(word)))),
        };
        let (matched, unmatched) = (reader.matched, reader.unmatched);
        (Expanded { word: text.text.clone(), words: text.finish(), matched, unmatched }, result)
    }

    /// The word alone.
    pub fn word(&self, word: &str, env: &dyn Env) -> Result<String, String> {
        let (expanded, result) = self.expand(word, env);
        result.map(|()| expanded.word)
    }
}

/// Text, and the same in words.
#[derive(Default)]
struct Words {
    text: String,
    word: String,
    words: Vec<String>,
    inside: bool,
}

impl Words {
    /// A character that separates words where it is a space.
    fn push(&mut self, c: char) {
        self.text.push(c);
        self.push_word(c);
    }

    fn push_word(&mut self, c: char) {
        if !c.is_whitespace() {
            self.word.push(c);
            self.inside = true;
        } else if self.inside && !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
            self.inside = false;
        }
    }

    /// A character that belongs to a word, whatever it is.
    fn push_raw(&mut self, c: char) {
        self.text.push(c);
        self.word.push(c);
        self.inside = true;
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

struct Reader<'a> {
    lex: &'a Lex,
    env: &'a dyn Env,
    rest: &'a str,
    raw_escapes: bool,
    depth: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

const NO_BRACE: &str = "syntax error: missing '}'";

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn check(&self, length: usize) -> Result<(), String> {
        if length > MAX_WORD {
            return Err(format!("word longer than max allowed size of {MAX_WORD}"));
        }
        Ok(())
    }

    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<Words, String> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(format!("substitutions nested deeper than {MAX_NESTING}"));
        }
        let before = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let result = self.until_inner(stop);
        self.raw_escapes = before;
        self.depth -= 1;
        result
    }

    fn until_inner(&mut self, stop: Option<char>) -> Result<Words, String> {
        let mut out = Words::default();
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.next();
                return Ok(out);
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    out.text.push_str(&value);
                    value.chars().for_each(|c| out.push_word(c));
                }
                '\'' | '"' if !self.lex.skip_quotes => {
                    let value = if c == '"' { self.double()? } else { self.single()? };
                    out.text.push_str(&value);
                    out.word.push_str(&value);
                    out.inside = true;
                }
                _ => {
                    self.next();
                    if c == self.lex.escape {
                        if self.raw_escapes {
                            out.push_raw(c);
                        }
                        match self.next() {
                            Some(c) => out.push_raw(c),
                            None => break,
                        }
                    } else {
                        out.push(c);
                    }
                }
            }
            self.check(out.text.len())?;
        }
        match stop {
            Some(stop) => Err(format!("unexpected end of statement while looking for matching {stop}")),
            None => Ok(out),
        }
    }

    fn single(&mut self) -> Result<String, String> {
        let mut out = String::new();
        let open = self.next();
        out.extend(open.filter(|_| self.lex.raw_quotes));
        loop {
            match self.next() {
                None => {
                    return Err("unexpected end of statement while looking for matching single-quote".into());
                }
                Some('\'') => {
                    out.extend(Some('\'').filter(|_| self.lex.raw_quotes));
                    return Ok(out);
                }
                Some(c) => out.push(c),
            }
        }
    }

    fn double(&mut self) -> Result<String, String> {
        let mut out = String::new();
        let open = self.next();
        out.extend(open.filter(|_| self.lex.raw_quotes));
        loop {
            match self.peek() {
                None => {
                    return Err("unexpected end of statement while looking for matching double-quote".into());
                }
                Some('"') => {
                    self.next();
                    out.extend(Some('"').filter(|_| self.lex.raw_quotes));
                    return Ok(out);
                }
                Some('$') => out.push_str(&self.dollar()?),
                Some(mut c) => {
                    self.next();
                    if c == self.lex.escape {
                        if self.raw_escapes {
                            out.push(c);
                        }
                        match self.peek() {
                            None => continue,
                            Some(next) if next == '"' || next == '$' || next == self.lex.escape => {
                                c = next;
                                self.next();
                            }
                            // Others are not escaped in quotes: the escape character stays.
                            Some(_) => {}
                        }
                    }
                    out.push(c);
                }
            }
            self.check(out.len())?;
        }
    }

    fn get(&mut self, name: &str) -> Option<String> {
        let value = self.env.get(name).map(str::to_owned);
        let names = if value.is_some() { &mut self.matched } else { &mut self.unmatched };
        names.insert(name.to_owned());
        value
    }

    fn dollar(&mut self) -> Result<String, String> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            let value = self.get(&name);
            return Ok(match value {
                None if self.lex.skip_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err(NO_BRACE.into()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".into()),
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            Some('}') => {
                let value = self.get(&name);
                Ok(match value {
                    None if self.lex.skip_unset => format!("${{{name}}}"),
                    value => value.unwrap_or_default(),
                })
            }
            Some(':') => {
                let modifier = self.next();
                self.modified(&name, modifier, true)
            }
            Some(c @ ('+' | '-' | '?' | '#' | '%')) => self.modified(&name, Some(c), false),
            Some('/') => self.replaced(&name),
            c => Err(format!("unsupported modifier ({}) in substitution", shown(c))),
        }
    }

    /// What stands in braces up to `stop`, or the error that the braces miss their end.
    fn inner(&mut self, stop: char, raw_escapes: bool, missing: &str) -> Result<String, String> {
        match self.until(Some(stop), raw_escapes) {
            Ok(words) => Ok(words.text),
            Err(why) if self.depth > MAX_NESTING => Err(why),
            Err(_) if self.peek().is_none() => Err(missing.into()),
            Err(why) => Err(why),
        }
    }

    fn modified(
        &mut self,
        name: &str,
        modifier: Option<char>,
        null_is_unset: bool,
    ) -> Result<String, String> {
        let raw = matches!(modifier, Some('#' | '%'));
        let word = self.inner('}', raw, NO_BRACE)?;
        let value = self.get(name);
        let colon = if null_is_unset { ":" } else { "" };
        if self.lex.skip_unset && value.is_none() {
            return Ok(format!("${{{name}{colon}{}{word}}}", shown(modifier)));
        }
        let given = match &value {
            Some(v) => !(null_is_unset && v.is_empty()),
            None => false,
        };
        match modifier {
            Some('-') => Ok(if given { value.unwrap_or_default() } else { word }),
            Some('+') => Ok(if given { word } else { String::new() }),
            Some('?') if given => Ok(value.unwrap_or_default()),
            Some('?') => Err(match (word.is_empty(), value) {
                (false, _) => format!("{name}: {word}"),
                (true, None) => format!("{name}: is not allowed to be unset"),
                (true, Some(_)) => format!("{name}: is not allowed to be empty"),
            }),
            Some(c @ ('#' | '%')) => {
                let (pattern, greedy) = match word.strip_prefix(c) {
                    Some(pattern) => (pattern, true),
                    None => (word.as_str(), false),
                };
                let value = value.unwrap_or_default();
                let wrong = |why| format!("invalid pattern ({pattern}) in substitution: {why}");
                if c == '#' {
                    let found = shell_pattern(pattern, greedy, true).map_err(wrong)?.find(&value);
                    return Ok(found.map_or(value.as_str(), |m| &value[m.end()..]).to_owned());
                }
                // The end of it is the beginning of it backwards.
                let back: String = value.chars().rev().collect();
                let found = shell_pattern(&reverse(pattern), greedy, true).map_err(wrong)?.find(&back);
                Ok(found.map_or(back.as_str(), |m| &back[m.end()..]).chars().rev().collect())
            }
            c => Err(format!("unsupported modifier ({colon}{}) in substitution", shown(c))),
        }
    }

    fn replaced(&mut self, name: &str) -> Result<String, String> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.inner('/', true, "syntax error: missing '/' in ${}")?;
        let with = self.inner('}', true, NO_BRACE)?;
        let value = self.get(name);
        let value = match value {
            None if self.lex.skip_unset => return Ok(format!("${{{name}/{pattern}/{with}}}")),
            value => value.unwrap_or_default(),
        };
        let wrong = |why| format!("invalid pattern ({pattern}) in substitution: {why}");
        let pattern = shell_pattern(&pattern, true, false).map_err(wrong)?;
        if !all {
            return Ok(match pattern.find(&value) {
                Some(m) => format!("{}{with}{}", &value[..m.start()], &value[m.end()..]),
                None => value,
            });
        }
        let matches = pattern.find_iter(&value).count();
        self.check(value.len().saturating_add(matches.saturating_mul(with.len())))?;
        Ok(pattern.replace_all(&value, with.as_str()).into_owned())
    }

    fn name(&mut self) -> String {
        let first = match self.peek() {
            Some(c) => c,
            None => return String::new(),
        };
        let length = if first.is_numeric() {
            self.rest.find(|c: char| !c.is_numeric()).unwrap_or(self.rest.len())
        } else if "@*#?-$!".contains(first) {
            1
        } else {
            self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len())
        };
        let (name, rest) = self.rest.split_at(length);
        self.rest = rest;
        name.to_owned()
    }
}

fn shown(c: Option<char>) -> String {
    // Go writes the end of input, -1, as the replacement character.
    c.unwrap_or('\u{fffd}').to_string()
}

/// A shell's pattern (`*`, `?`, escapes) as an expression.
fn shell_pattern(pattern: &str, greedy: bool, anchored: bool) -> Result<Regex, String> {
    let mut out = String::with_capacity(pattern.len() + 4);
    if anchored {
        out.push('^');
    }
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => out.push_str(if greedy { ".*" } else { ".*?" }),
            '?' => out.push('.'),
            '\\' => {
                // These must be escaped in braces, and stand for themselves.
                if matches!(chars.peek(), Some('}' | '/')) {
                    continue;
                }
                match chars.next() {
                    Some(c @ ('*' | '?' | '\\')) => {
                        out.push('\\');
                        out.push(c);
                    }
                    c => return Err(format!("invalid escape '\\{}'", shown(c))),
                }
            }
            c => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    Regex::new(&out).map_err(|e| e.to_string())
}

/// The pattern backwards; an escape stays before what it escapes.
fn reverse(pattern: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let mut part = c.to_string();
        if c == '\\' {
            part.extend(chars.next());
        }
        parts.push(part);
    }
    parts.reverse();
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env(pairs: &[(&str, &str)]) -> EnvList {
        let mut env = EnvList::default();
        pairs.iter().for_each(|(n, v)| env.set(*n, *v));
        env
    }

    fn expand(word: &str) -> Result<String, String> {
        let vars = [("A", "abc"), ("E", ""), ("P", "/usr/lib/x.tar.gz"), ("U", "äöü"), ("S", "a*b")];
        Lex::new('\\').word(word, &env(&vars))
    }

    #[test]
    fn variables_become_their_values() {
        for (word, expected) in [
            ("$A", "abc"),
            ("${A}d", "abcd"),
            ("$A$N.", "abc."),
            ("$", "$"),
            ("$.", "$."),
            (r"\$A", "$A"),
            ("'$A'", "$A"),
            ("\"$A\"", "abc"),
            (r#""\$A \n""#, r"$A \n"),
            ("${N:-x}", "x"),
            ("${N:-$A}", "abc"),
            ("${E:-x}", "x"),
            ("${E-x}", ""),
            ("${N-x}", "x"),
            ("${A:+x}", "x"),
            ("${E:+x}", ""),
            ("${E+x}", "x"),
            ("${N+x}", ""),
            ("${A?no}", "abc"),
            ("${P#*/}", "usr/lib/x.tar.gz"),
            ("${P##*/}", "x.tar.gz"),
            ("${P%.*}", "/usr/lib/x.tar"),
            ("${P%%.*}", "/usr/lib/x"),
            ("${A/b/x}", "axc"),
            ("${P//\\//_}", "_usr_lib_x.tar.gz"),
            ("${P/r/}", "/us/lib/x.tar.gz"),
            ("${U%ü}", "äö"),
            (r"${S#a\*}", "b"),
            (r"${S%\*b}", "a"),
            ("$1x", "x"),
            ("a b  c", "a b  c"),
        ] {
            assert_eq!(expand(word).as_deref(), Ok(expected), "{word}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_in_buildkits_words() {
        for (word, expected) in [
            ("${", "syntax error: missing '}'"),
            ("${A", "unsupported modifier (\u{fffd}) in substitution"),
            ("${}", "syntax error: bad substitution"),
            ("${A:-x", "syntax error: missing '}'"),
            ("${A^x}", "unsupported modifier (^) in substitution"),
            ("${A:x}", "unsupported modifier (:x) in substitution"),
            ("${N:?}", "N: is not allowed to be unset"),
            ("${E:?}", "E: is not allowed to be empty"),
            ("${N?give it}", "N: give it"),
            ("'x", "unexpected end of statement while looking for matching single-quote"),
            ("\"x", "unexpected end of statement while looking for matching double-quote"),
        ] {
            assert_eq!(expand(word), Err(format!("failed to process {}: {expected}", quote(word))), "{word}");
        }
    }

    #[test]
    fn words_are_cut_at_spaces_outside_of_quotes() {
        let lex = Lex::new('\\');
        let (expanded, _) = lex.expand(r#"a "b c" d\ e $V "#, &env(&[("V", "x y")]));
        assert_eq!(expanded.words, ["a", "b c", "d e", "x", "y"]);
    }

    #[test]
    fn nesting_and_growth_have_an_end() {
        let deep = "${A:-".repeat(100_000);
        assert!(expand(&deep).unwrap_err().contains("nested deeper"));
        let long = env(&[("A", &"x".repeat(MAX_WORD / 2 + 1))]);
        assert!(Lex::new('\\').word("$A$A", &long).unwrap_err().contains("longer than"));
        assert!(Lex::new('\\').word("${A//x/yyy}", &long).unwrap_err().contains("longer than"));
    }

    proptest! {
        #[test]
        fn any_word_is_read_or_refused(word in r#"[$\{}:\-+?#%/'"\\ a-cA*]{0,40}"#) {
            for flags in 0..16 {
                let lex = Lex {
                    escape: '\\',
                    raw_quotes: flags & 1 != 0,
                    raw_escapes: flags & 2 != 0,
                    skip_quotes: flags & 4 != 0,
                    skip_unset: flags & 8 != 0,
                };
                let (expanded, result) = lex.expand(&word, &env(&[("A", "abc")]));
                prop_assert!(result.is_ok() || expanded.word.is_empty());
            }
        }

        #[test]
        fn words_without_signs_stay(word in "[a-z0-9_./=-]{0,40}") {
            prop_assert_eq!(Lex::new('\\').word(&word, &EnvList::default()), Ok(word));
        }
    }
}
