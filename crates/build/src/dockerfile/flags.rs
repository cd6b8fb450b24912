//! `--name=value` of an instruction.

use super::text::did_you_mean;

/// The flags an instruction was given, checked against those it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    given: Vec<(String, String)>,
}

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// `true`, `false` or nothing.
    Bool,
    /// A text.
    Text,
    /// A text, and more than once.
    Texts,
}

impl Flags {
    /// Reads them.
    ///
    /// # Errors
    /// A flag that is not known, given twice or without what it takes.
    pub fn read(words: &[String], known: &[(&str, Takes)]) -> Result<Flags, String> {
        let mut flags = Flags::default();
        for word in words {
            let Some(flag) = word.strip_prefix("--") else {
                return Err(format!("arg should start with -- : {word}"));
            };
            if flag.is_empty() {
                break;
            }
            let (name, value) = flag.split_once('=').map_or((flag, None), |(n, v)| (n, Some(v)));
            let Some((_, takes)) = known.iter().find(|(k, _)| *k == name) else {
                let names: Vec<&str> = known.iter().map(|(k, _)| *k).collect();
                return Err(format!("unknown flag: --{name}{}", did_you_mean(name, &names, true)));
            };
            if *takes != Takes::Texts && flags.get(name).is_some() {
                return Err(format!("duplicate flag specified: --{name}"));
            }
            let value = match (takes, value) {
                (Takes::Bool, None) => "true".to_owned(),
                (Takes::Bool, Some("")) | (_, None) => {
                    return Err(format!("missing a value on flag: --{name}"));
                }
                (Takes::Bool, Some(text)) => match text.to_lowercase().as_str() {
                    lower @ ("true" | "false") => lower.to_owned(),
                    _ => return Err(format!("expecting boolean value for flag --{name}, not: {text}")),
                },
                (_, Some(text)) => text.to_owned(),
            };
            flags.given.push((name.to_owned(), value));
        }
        Ok(flags)
    }

    /// The value of one that was given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.given.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The value of one, or nothing.
    pub fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    /// All values of one.
    pub fn texts(&self, name: &str) -> Vec<String> {
        self.given.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }

    /// A boolean that was given.
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.get(name).map(|v| v == "true")
    }

    /// A boolean, false where not given.
    pub fn is(&self, name: &str) -> bool {
        self.bool(name) == Some(true)
    }
}
