//! `<<EOF`: text of the following lines.

use super::expand::{EnvList, Lex};
use super::text::quote;
use crate::convert::names::clean;

/// Text that stands in the lines after an instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it; the name of the file it makes.
    pub name: String,
    /// Variables in it are replaced: its word was not quoted.
    pub expand: bool,
    /// Tabs at the beginning of lines do not count (`<<-`).
    pub chomp: bool,
    /// All of it, with its line ends.
    pub content: String,
}

impl Heredoc {
    /// The content as it is meant.
    pub fn text(&self) -> String {
        if self.chomp { chomp(&self.content) } else { self.content.clone() }
    }

    /// Name of the file it makes: BuildKit makes it in an empty folder, from which no `..` leads out.
    ///
    /// # Errors
    /// Where the word names no file of that folder.
    pub fn file(&self) -> Result<String, String> {
        let path = clean(&format!("/{}", self.name));
        let name = path.trim_start_matches('/');
        if name.is_empty() || name.contains(['/', '\0']) {
            return Err(format!("{} cannot be the name of a heredoc's file", quote(&self.name)));
        }
        Ok(name.to_owned())
    }
}

/// Without the tabs at the beginning of lines.
pub fn chomp(text: &str) -> String {
    text.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

/// A word as a heredoc's beginning (`3<<-"EOF"`), if it is one.
pub fn from_word(word: &str) -> Result<Option<Heredoc>, String> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(rest) = rest.strip_prefix("<<") else { return Ok(None) };
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let read = |raw_quotes| {
        let lex = Lex { raw_quotes, skip_unset: true, ..Lex::new('\\') };
        let (expanded, result) = lex.expand(rest, &EnvList::default());
        result.map(|()| expanded.words)
    };
    let plain = read(false)?;
    let [name] = plain.as_slice() else { return Ok(None) };
    let raw = read(true)?;
    let [raw] = raw.as_slice() else {
        return Err(format!("internal lexing of heredoc produced inconsistent results: {rest}"));
    };
    // A quote that is gone in one of them was a quote.
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    let expand = quotes(name) == quotes(raw);
    Ok(Some(Heredoc { name: name.clone(), expand, chomp, content: String::new() }))
}

/// All that begin in a line.
pub fn in_line(line: &str) -> Result<Vec<Heredoc>, String> {
    let lex = Lex { raw_quotes: true, raw_escapes: true, skip_unset: true, ..Lex::new('\\') };
    let (expanded, result) = lex.expand(line, &EnvList::default());
    let words = if result.is_ok() { expanded.words } else { Vec::new() };
    words.iter().filter_map(|word| from_word(word).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stay_in_their_folder() {
        let file = |name: &str| Heredoc { name: name.into(), ..Heredoc::default() }.file();
        for (word, expected) in [("EOF", "EOF"), ("../../EOF", "EOF"), ("/EOF", "EOF"), ("a/../b", "b")] {
            assert_eq!(file(word), Ok(expected.to_owned()));
        }
        for word in ["..", "/", "a/b", "../etc/passwd", "a\0"] {
            assert!(file(word).is_err(), "{word:?}");
        }
    }

    #[test]
    fn words_that_begin_a_heredoc() {
        let heredoc =
            |name: &str, expand, chomp| Heredoc { name: name.into(), expand, chomp, content: String::new() };
        assert_eq!(from_word("<<EOF"), Ok(Some(heredoc("EOF", true, false))));
        assert_eq!(from_word("3<<-\"EO F\""), Ok(Some(heredoc("EO F", false, true))));
        assert_eq!(from_word("<<'E'OF"), Ok(Some(heredoc("EOF", false, false))));
        for word in ["<<", "<<<EOF", "x<<EOF", "EOF", "<<a b"] {
            assert_eq!(from_word(word), Ok(None), "{word}");
        }
        assert_eq!(in_line("RUN cat <<A \"<<B\" <<-C").unwrap().len(), 2);
        assert_eq!(chomp("\t\ta\n\tb\n c\n"), "a\nb\n c\n");
    }
}
