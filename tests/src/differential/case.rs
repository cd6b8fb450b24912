//! The cases, as `tests/fixtures/cases/*.txt` has them.

/// What of a step is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Nothing: it must succeed.
    Nothing,
    /// Exit code and both outputs.
    Text,
    /// The same, the output's lines in any order.
    Lines,
    /// The exit code.
    Exit,
    /// The output as JSON, value by value.
    Json,
    /// The exit code, and what the standard error tells of a build's steps.
    Steps,
    /// The output as JSON, only its fields and their types.
    Shape,
}

/// One line of a case.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is compared.
    pub compared: Compared,
    /// The shell's line.
    pub line: String,
}

/// Lines that belong together.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name, unique in its group.
    pub name: String,
    /// Its lines.
    pub steps: Vec<Step>,
}

/// A file of cases.
#[derive(Clone, Debug)]
pub struct Group {
    /// The file's name.
    pub name: String,
    /// Its cases.
    pub cases: Vec<Case>,
}

impl Group {
    /// Whether it is compared in `--full` alone, or when it is asked for: by the end of its name.
    pub fn is_long(&self) -> bool {
        self.name.ends_with("_full")
    }

    /// All groups, or those whose name contains `wanted`.
    pub fn all(wanted: &str) -> Vec<Self> {
        let folder = super::folder().join("cases");
        let mut files: Vec<_> = std::fs::read_dir(&folder)
            .expect("the folder of cases")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|e| e == "txt"))
            .collect();
        files.sort();
        let read = |path: std::path::PathBuf| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).expect("read the cases");
            let cases = parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            Self { name, cases }
        };
        files.into_iter().map(read).filter(|g| g.name.contains(wanted)).collect()
    }
}

fn parse(text: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let bad = |what: &str| Err(format!("line {}: {what}: {line}", number + 1));
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            if cases.iter().any(|c| c.name == name) {
                return bad("there is a case of this name already");
            }
            cases.push(Case { name: name.trim().to_owned(), steps: Vec::new() });
            continue;
        }
        let Some(case) = cases.last_mut() else { return bad("before the first `== name`") };
        if line.starts_with(char::is_whitespace) {
            let Some(step) = case.steps.last_mut() else { return bad("goes on with nothing") };
            step.line = format!("{} {}", step.line, line.trim());
            continue;
        }
        let Some((word, command)) = line.split_once(": ") else { return bad("no `word: command`") };
        let compared = match word {
            "setup" => Compared::Nothing,
            "run" => Compared::Text,
            "sorted" => Compared::Lines,
            "exit" => Compared::Exit,
            "json" => Compared::Json,
            "steps" => Compared::Steps,
            "shape" => Compared::Shape,
            _ => return bad("unknown word"),
        };
        case.steps.push(Step { compared, line: command.trim().to_owned() });
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_read() {
        let text = "# words\n== one\nsetup: a: b\nrun: x\n  y\n\n== two\njson: api GET /info\n";
        let cases = parse(text).unwrap();
        assert_eq!(cases.len(), 2);
        assert_eq!(cases[0].steps[0].line, "a: b");
        assert_eq!(cases[0].steps[1].line, "x y");
        assert_eq!(cases[1].steps[0].compared, Compared::Json);
        for bad in ["run: x", "== a\nwalk: x", "== a\n== a", "== a\n  x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
