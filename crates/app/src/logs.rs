//! The log of a container, kept whole: lines with an index, so that any of a million is there at once and all of them
//! can be searched, while the window holds only the hundred it shows.
//!
//! ```text
//!  bytes  |2026-..Z hello\n is not kept|: text of all lines, one after the other, control sequences taken out
//!  ends   where each line's text ends in `bytes`
//!  marks  when each was written and to which stream
//! ```

use regex::bytes::{Regex, RegexBuilder};

use crate::words::LogLine;

/// Most bytes of text that are kept; then the oldest quarter goes.
pub const MOST_BYTES: usize = 256 << 20;
/// Longest line; what is beyond starts another.
const LONGEST: usize = 64 * 1024;
/// Most lines that one search names.
pub const MOST_FOUND: usize = 10_000;
/// Most lines in one answer.
const MOST_LINES: usize = 2000;
/// Longest compiled expression, in bytes.
const MOST_REGEX: usize = 1 << 20;
/// Length of a time as the engine writes it: `2026-01-02T03:04:05.123456789Z`.
const TIME: usize = 30;

/// When a line was written, and where to.
#[derive(Debug, Clone, Copy)]
struct Mark {
    time: [u8; TIME],
    stderr: bool,
    /// Which of several containers.
    source: u16,
}

/// All lines of a log.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    marks: Vec<Mark>,
    /// Lines that went.
    gone: u64,
}

impl Lines {
    /// Number of the first line that is kept.
    pub fn first(&self) -> u64 {
        self.gone
    }

    /// Number after the last line.
    pub fn end(&self) -> u64 {
        self.gone + self.ends.len() as u64
    }

    /// Adds a line: its time and its text, apart by a space, as the engine sends it.
    pub fn push(&mut self, raw: &[u8], stderr: bool, source: u16) {
        let (time, text) = split_time(raw);
        if self.bytes.len() + text.len() > MOST_BYTES {
            self.forget();
        }
        let before = self.bytes.len();
        plain(text, &mut self.bytes);
        self.bytes.truncate(before + (self.bytes.len() - before).min(LONGEST));
        self.ends.push(self.bytes.len());
        self.marks.push(Mark { time, stderr, source });
    }

    fn forget(&mut self) {
        let lines = self.ends.len().div_ceil(4);
        let Some(&bytes) = lines.checked_sub(1).and_then(|last| self.ends.get(last)) else { return };
        self.bytes.drain(..bytes);
        self.ends.drain(..lines);
        self.marks.drain(..lines);
        for end in &mut self.ends {
            *end -= bytes;
        }
        self.gone += lines as u64;
    }

    fn text(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }

    /// So many lines from a number on; fewer where there are no more.
    pub fn lines(&self, from: u64, count: u32) -> Vec<LogLine> {
        let start =
            usize::try_from(from.saturating_sub(self.gone)).unwrap_or(usize::MAX).min(self.ends.len());
        let count = usize::try_from(count).unwrap_or(MOST_LINES).min(MOST_LINES);
        let end = start.saturating_add(count).min(self.ends.len());
        (start..end)
            .map(|index| LogLine {
                number: self.gone + index as u64,
                time: String::from_utf8_lossy(&self.marks[index].time).trim_end_matches('\0').to_owned(),
                stderr: self.marks[index].stderr,
                text: String::from_utf8_lossy(self.text(index)).into_owned(),
                source: self.marks[index].source,
            })
            .collect()
    }

    /// How many lines match, and the numbers of the last [`MOST_FOUND`] of them.
    pub fn search(&self, what: &Regex) -> (u64, Vec<u64>) {
        let mut found: std::collections::VecDeque<u64> = std::collections::VecDeque::new();
        let mut total = 0;
        for index in (0..self.ends.len()).filter(|i| what.is_match(self.text(*i))) {
            total += 1;
            if found.len() == MOST_FOUND {
                found.pop_front();
            }
            found.push_back(self.gone + index as u64);
        }
        (total, found.into())
    }
}

/// What is searched for, or why it can't be.
pub fn expression(text: &str, regex: bool, case: bool) -> Result<Regex, String> {
    let text = if regex { text.to_owned() } else { regex::escape(text) };
    RegexBuilder::new(&text).case_insensitive(!case).size_limit(MOST_REGEX).build().map_err(|e| {
        let words = e.to_string();
        words.lines().last().unwrap_or("it is no regular expression").trim().to_owned()
    })
}

/// When a line was written, as it can be compared.
pub fn time(raw: &[u8]) -> [u8; TIME] {
    split_time(raw).0
}

fn split_time(raw: &[u8]) -> ([u8; TIME], &[u8]) {
    let mut time = [0; TIME];
    let starts_like_one = raw.len() > 20 && raw[0].is_ascii_digit() && raw.get(10) == Some(&b'T');
    match raw.iter().take(TIME + 6).position(|b| *b == b' ') {
        Some(at) if starts_like_one => {
            let kept = at.min(TIME);
            time[..kept].copy_from_slice(&raw[..kept]);
            (time, &raw[at + 1..])
        }
        _ => (time, raw),
    }
}

/// Takes out what only a terminal understands: control sequences, and what a carriage return overwrites.
fn plain(text: &[u8], out: &mut Vec<u8>) {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let text = text.rsplit(|b| *b == b'\r').next().unwrap_or(text);
    let mut rest = text;
    while let Some(at) = rest.iter().position(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
        out.extend_from_slice(&rest[..at]);
        rest = match rest[at..] {
            [0x1b, b'[', ref after @ ..] => {
                let end = after.iter().position(|b| (0x40..=0x7e).contains(b));
                end.map_or(&[][..], |end| &after[end + 1..])
            }
            [0x1b, b']', ref after @ ..] => {
                // Ended by a bell or by ESC \.
                let end = after.iter().position(|b| *b == 7 || *b == 0x1b);
                end.map_or(&[][..], |end| after[end + 1..].strip_prefix(b"\\").unwrap_or(&after[end + 1..]))
            }
            [0x1b, _, ref after @ ..] | [_, ref after @ ..] => after,
            [] => &[],
        };
    }
    out.extend_from_slice(rest);
}

/// Puts the engine's stream together again to lines.
#[derive(Debug)]
pub enum Reader {
    /// One stream: of a container with a terminal.
    Plain(Vec<u8>),
    /// Frames with a head of eight bytes: stream, size.
    Framed {
        /// What has come and is no frame yet.
        waiting: Vec<u8>,
        /// Unfinished lines of standard output and standard error.
        open: [Vec<u8>; 2],
    },
}

impl Reader {
    /// For a container with a terminal, or without.
    pub fn new(tty: bool) -> Self {
        if tty {
            Self::Plain(Vec::new())
        } else {
            Self::Framed { waiting: Vec::new(), open: Default::default() }
        }
    }

    /// Takes bytes as they come; whole lines go to `sink`, with whether they were written to standard error.
    pub fn feed(&mut self, bytes: &[u8], mut sink: impl FnMut(&[u8], bool)) {
        const HEAD: usize = 8;
        match self {
            Self::Plain(open) => split(open, bytes, |line| sink(line, false)),
            Self::Framed { waiting, open } => {
                waiting.extend_from_slice(bytes);
                let mut at = 0;
                while let Some(head) = waiting.get(at..at + HEAD) {
                    let stderr = head[0] == 2;
                    let size = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
                    // A size that no engine sends would have us wait, and keep, for ever.
                    let size = size.min(MOST_BYTES);
                    let Some(frame) = waiting.get(at + HEAD..at + HEAD + size) else { break };
                    let open = &mut open[usize::from(stderr)];
                    // A long line comes in frames, each with the time again.
                    let frame = if open.is_empty() { frame } else { split_time(frame).1 };
                    split(open, frame, |line| sink(line, stderr));
                    at += HEAD + size;
                }
                waiting.drain(..at);
            }
        }
    }

    /// The end: what is unfinished is a line as well.
    pub fn finish(&mut self, mut sink: impl FnMut(&[u8], bool)) {
        match self {
            Self::Plain(open) if !open.is_empty() => sink(&std::mem::take(open), false),
            Self::Plain(_) => {}
            Self::Framed { open, .. } => {
                for (stderr, open) in [false, true].into_iter().zip(open) {
                    if !open.is_empty() {
                        sink(&std::mem::take(open), stderr);
                    }
                }
            }
        }
    }
}

fn split(open: &mut Vec<u8>, bytes: &[u8], mut line: impl FnMut(&[u8])) {
    for part in bytes.split_inclusive(|b| *b == b'\n') {
        let whole = part.ends_with(b"\n");
        if whole && open.is_empty() {
            line(part);
            continue;
        }
        open.extend_from_slice(part);
        if whole || open.len() > LONGEST {
            line(open);
            open.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T: &str = "2026-01-02T03:04:05.123456789Z";

    fn frame(stream: u8, text: &str) -> Vec<u8> {
        let mut out = vec![stream, 0, 0, 0];
        out.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
        out.extend_from_slice(text.as_bytes());
        out
    }

    fn texts(lines: &Lines) -> Vec<String> {
        lines.lines(0, 2000).into_iter().map(|l| l.text).collect()
    }

    #[test]
    fn frames_become_lines_with_time_and_stream() {
        let mut bytes = frame(1, &format!("{T} one\n"));
        bytes.extend(frame(2, &format!("{T} oh\n")));
        bytes.extend(frame(1, &format!("{T} be")));
        bytes.extend(frame(1, &format!("{T} gun\n")));
        bytes.extend(frame(1, &format!("{T} open")));
        let (mut lines, mut reader) = (Lines::default(), Reader::new(false));
        for byte in bytes {
            reader.feed(&[byte], |l, e| lines.push(l, e, 0));
        }
        assert_eq!(texts(&lines), ["one", "oh", "begun"]);
        reader.finish(|l, e| lines.push(l, e, 0));
        assert_eq!(texts(&lines)[3], "open");
        let oh = &lines.lines(1, 1)[0];
        assert_eq!((oh.number, oh.stderr, oh.time.as_str()), (1, true, T));
    }

    #[test]
    fn what_only_a_terminal_understands_is_taken_out() {
        let (mut lines, mut reader) = (Lines::default(), Reader::new(true));
        let text =
            format!("{T} \x1b[1;31mred\x1b[0m \x1b]0;title\x07x\r\n{T} 10%\r{T} 99%\n{T} a\x07\tb\x1b[\n");
        reader.feed(text.as_bytes(), |l, e| lines.push(l, e, 0));
        assert_eq!(texts(&lines), ["red x", &format!("{T} 99%"), "a\tb"]);
    }

    #[test]
    fn a_search_counts_all_and_names_the_last() {
        let mut lines = Lines::default();
        for n in 0..20_000 {
            lines.push(
                format!("{T} line {n} {}", if n % 2 == 0 { "Even" } else { "odd" }).as_bytes(),
                false,
                0,
            );
        }
        let (total, found) = lines.search(&expression("even", false, false).unwrap());
        assert_eq!((total, found.len(), found.last()), (10_000, MOST_FOUND, Some(&19_998)));
        assert_eq!(lines.search(&expression("even", false, true).unwrap()).0, 0);
        assert_eq!(lines.search(&expression(r"line 1\d{4} odd$", true, true).unwrap()).0, 5000);
        assert_eq!(
            lines.search(&expression("line 7 odd.", false, true).unwrap()).0,
            0,
            "a text is no expression"
        );
        assert!(expression("(", true, true).unwrap_err().contains("unclosed group"));
    }

    #[test]
    fn the_oldest_go_when_there_is_too_much() {
        let mut lines = Lines::default();
        let long = format!("{T} {}", "x".repeat(LONGEST));
        let count = MOST_BYTES / LONGEST + 8;
        for _ in 0..count {
            lines.push(long.as_bytes(), false, 0);
        }
        assert!(lines.first() > 0 && lines.end() == count as u64);
        assert!(lines.bytes.len() <= MOST_BYTES);
        assert_eq!(lines.lines(0, 1)[0].number, lines.first(), "what is gone is passed over");
    }

    proptest! {
        #[test]
        fn nothing_that_comes_breaks_it(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..20), tty: bool) {
            let (mut lines, mut reader) = (Lines::default(), Reader::new(tty));
            for chunk in &chunks {
                reader.feed(chunk, |l, e| lines.push(l, e, 0));
            }
            reader.finish(|l, e| lines.push(l, e, 0));
            for line in lines.lines(0, 100) {
                prop_assert!(!line.text.contains(|c: char| c.is_ascii_control() && c != '\t'));
            }
        }
    }
}
