//! The known differences: `tests/fixtures/known.txt`, one per line, each with its reason.
//!
//! ```text
//! GROUP/CASE: LINE | PLACE | REASON
//! ```
//! `*` in the first two stands for anything. A place is what the test prints: `code`, `out`, `err` or a path into the
//! JSON such as `[0].State.Pid`. A line that fits no difference any more fails the test: it is to be removed. But for those
//! that begin with `~ `: these depend on the machine (its cgroups, its kernel), and another shows them or not.

use std::sync::atomic::{AtomicBool, Ordering};

use regex::Regex;

struct Entry {
    line: String,
    case: Regex,
    place: Regex,
    /// Only some machines show it.
    machines: bool,
    used: AtomicBool,
}

/// The table.
pub struct Known(Vec<Entry>);

fn glob(text: &str) -> Result<Regex, String> {
    let pattern = regex::escape(text.trim()).replace("\\*", ".*");
    Regex::new(&format!("^{pattern}$")).map_err(|e| e.to_string())
}

impl Known {
    /// Reads the table.
    pub fn read() -> Self {
        let path = super::folder().join("known.txt");
        let text = std::fs::read_to_string(&path).expect("the table of known differences");
        Self::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut entries = Vec::new();
        for line in text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
            let (machines, columns) =
                line.strip_prefix("~ ").map_or((false, line), |columns| (true, columns));
            let parts: Vec<&str> = columns.splitn(3, '|').collect();
            let [case, place, reason] = parts[..] else { return Err(format!("not three columns: {line}")) };
            if reason.trim().is_empty() {
                return Err(format!("no reason: {line}"));
            }
            let (case, place) = (glob(case)?, glob(place)?);
            let used = AtomicBool::new(false);
            entries.push(Entry { line: line.to_owned(), case, place, machines, used });
        }
        Ok(Self(entries))
    }

    /// Whether this difference is known.
    pub fn covers(&self, case: &str, place: &str) -> bool {
        let fits = |e: &&Entry| e.case.is_match(case) && e.place.is_match(place);
        // All that fit count as used: which one came first in the file means nothing.
        let mut covered = false;
        for entry in self.0.iter().filter(fits) {
            entry.used.store(true, Ordering::Relaxed);
            covered = true;
        }
        covered
    }

    /// Lines that fitted no difference.
    pub fn unused(&self) -> Vec<&str> {
        let unused = |e: &&Entry| !e.machines && !e.used.load(Ordering::Relaxed);
        self.0.iter().filter(unused).map(|e| e.line.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_nothing_any_more_is_told() {
        let known =
            Known::parse("# words\na/* | [*].Id | reason\nb/x | err | reason\n~ c | d | e\n").unwrap();
        assert!(known.covers("a/anything", "[0].Id"));
        assert!(!known.covers("a/anything", "[0].Idx"));
        assert_eq!(known.unused(), ["b/x | err | reason"]);
        assert!(Known::parse("a | b | ").is_err());
    }
}
