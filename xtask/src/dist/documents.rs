//! What people read, as packages bring it: all in one folder, their links leading to each other.
//!
//! The repository's texts also lead to what doesn't travel (pictures, papers for those who work on it): there the link goes and its
//! words stay. Windows has no program for `.md`: there they are `.txt`, with its line ends.

use std::{borrow::Cow, fs};

use anyhow::{Context, Result};

use crate::workspace;

/// The documents that travel, by their places in the repository. The licence is each package's own affair.
const DOCUMENTS: [&str; 5] =
    ["README.md", "SECURITY.md", "CHANGELOG.md", "docs/INSTALL.md", "docs/TROUBLESHOOTING.md"];

/// For whose eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Linux and macOS: Markdown as it is.
    Markdown,
    /// Windows: what Notepad opens.
    Notepad,
}

/// Each document's name in the package's folder, and its text.
pub fn all(readers: Readers) -> Result<Vec<(String, Vec<u8>)>> {
    let document = |path: &&str| {
        let text = fs::read_to_string(workspace().join(path)).with_context(|| format!("read {path}"))?;
        let text = travelling(&text, readers);
        let text = if readers == Readers::Notepad { text.replace('\n', "\r\n") } else { text };
        Ok((name(path, readers), text.into_bytes()))
    };
    DOCUMENTS.iter().map(document).collect()
}

/// A document's name in the package's folder.
fn name(path: &str, readers: Readers) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    match readers {
        Readers::Markdown => name.to_owned(),
        Readers::Notepad => name.replace(".md", ".txt"),
    }
}

/// A text whose links and words name the documents as they lie in the package.
fn travelling(text: &str, readers: Readers) -> String {
    let lines = text.split_inclusive('\n').map(|line| without_links_astray(line, readers));
    let mut text: String = lines.collect();
    for path in DOCUMENTS {
        text = text.replace(path, &name(path, readers));
    }
    text
}

/// A line without pictures, and without links to files that don't travel. A line that is a picture alone goes whole.
fn without_links_astray(line: &str, readers: Readers) -> Cow<'_, str> {
    if !line.contains("](") {
        return Cow::Borrowed(line);
    }
    let (mut out, mut rest) = (String::new(), line);
    while let Some((before, is_picture, words, to, after)) = link(rest) {
        out.push_str(before);
        let is_outside = to.contains("://") || to.starts_with('#');
        if is_outside || DOCUMENTS.contains(&to) {
            // Notepad follows no links: it is enough to say the name once.
            let same = readers == Readers::Notepad && words == to;
            out.push_str(&if same { to.to_owned() } else { format!("[{words}]({to})") });
        } else if !is_picture {
            out.push_str(words);
        }
        rest = after;
    }
    out.push_str(rest);
    if out.trim().is_empty() { Cow::Borrowed("") } else { Cow::Owned(out) }
}

/// The first link of a line: what stands before it, whether it is a picture, its words, where it leads, what comes after.
fn link(line: &str) -> Option<(&str, bool, &str, &str, &str)> {
    let middle = line.find("](")?;
    let start = line[..middle].rfind('[')?;
    let end = middle + line[middle..].find(')')?;
    let before = &line[..start];
    let picture = before.strip_suffix('!');
    let (words, to) = (&line[start + 1..middle], &line[middle + 2..end]);
    Some((picture.unwrap_or(before), picture.is_some(), words, to, &line[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_what_travels_and_others_become_their_words() {
        let text = "See [docs/INSTALL.md](docs/INSTALL.md) or [it](docs/INSTALL.md), [ARCHITECTURE.md](ARCHITECTURE.md).\n\
                    ![A picture](ui/pictures/a.png)\n[there](https://example.invalid/docs) and [below](#x)\n";
        assert_eq!(
            travelling(text, Readers::Markdown),
            "See [INSTALL.md](INSTALL.md) or [it](INSTALL.md), ARCHITECTURE.md.\n\
             [there](https://example.invalid/docs) and [below](#x)\n"
        );
        assert!(travelling(text, Readers::Notepad).starts_with("See INSTALL.txt or [it](INSTALL.txt), "));
    }

    /// Of the real documents: every link that names a file names one that lies beside it.
    #[test]
    fn no_document_leads_to_a_file_that_is_not_there() {
        for readers in [Readers::Markdown, Readers::Notepad] {
            let documents = all(readers).unwrap();
            assert_eq!(documents.len(), DOCUMENTS.len());
            for (name, text) in &documents {
                let text = std::str::from_utf8(text).unwrap();
                let mut links = 0;
                for line in text.lines() {
                    let mut rest = line;
                    while let Some((_, is_picture, _, to, after)) = link(rest) {
                        let is_there = documents.iter().any(|(name, _)| name == to);
                        assert!(is_there || to.contains("://") || to.starts_with('#'), "{name}: {line}");
                        assert!(!is_picture, "{name}: {line}");
                        (links, rest) = (links + 1, after);
                    }
                }
                assert!(links > 0 || !name.starts_with("README"), "{name} has no links");
                assert!(!text.contains("docs/"), "{name} names a folder that is not there");
                let ends = (text.matches("\r\n").count(), text.matches('\n').count());
                assert_eq!(ends.0, if readers == Readers::Notepad { ends.1 } else { 0 }, "{name}");
            }
        }
    }
}
