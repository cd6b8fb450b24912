//! `RUN --mount=type=…`.

use super::text::{csv, did_you_mean, parse_bool, parse_size, quote};
use crate::graph::Sharing;

/// What kind of mount it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountType {
    /// A tree.
    #[default]
    Bind,
    /// A folder that stays.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret.
    Secret,
    /// An agent's socket.
    Ssh,
}

/// All types, by their names.
pub const TYPES: [(&str, MountType); 5] = [
    ("bind", MountType::Bind),
    ("cache", MountType::Cache),
    ("tmpfs", MountType::Tmpfs),
    ("secret", MountType::Secret),
    ("ssh", MountType::Ssh),
];

/// Keys that a misspelled one is held against.
const KEYS: [&str; 16] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "ro",
    "rw",
    "readwrite",
];

/// Every key that some type of mount takes.
pub fn keys() -> impl Iterator<Item = &'static str> {
    KEYS.into_iter().chain(["destination", "size", "env"])
}

impl MountType {
    /// As it is written.
    pub fn name(self) -> &'static str {
        TYPES.iter().find(|(_, t)| *t == self).map_or("", |(n, _)| n)
    }
}

/// A mount as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountSpec {
    /// What kind.
    pub kind: MountType,
    /// Stage or image it is taken from.
    pub from: String,
    /// Path there, or a secret's id.
    pub source: String,
    /// Where it goes.
    pub target: String,
    /// Which cache, secret or agent.
    pub id: String,
    /// Without write access.
    pub read_only: bool,
    /// Fail where it is not there.
    pub required: bool,
    /// Bytes of memory.
    pub size: u64,
    /// How a cache is shared.
    pub sharing: Option<Sharing>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Variable that a secret goes to.
    pub env: Option<String>,
}

type Expander<'a> = &'a mut dyn FnMut(&str) -> Result<String, String>;

impl MountSpec {
    /// Reads what can be read before variables are known: which stage or image is needed.
    ///
    /// # Errors
    /// A form that can never be right.
    pub fn from_of(text: &str) -> Result<MountSpec, String> {
        let mut spec = MountSpec::default();
        for field in fields(text)? {
            let Some((key, value)) = field.split_once('=') else { continue };
            match key.to_lowercase().as_str() {
                "from" => {
                    if value.find('$').is_some_and(|at| at + 1 < value.len()) {
                        return Err(
                            "'from' doesn't support variable expansion, define alias stage instead".into()
                        );
                    }
                    spec.from = value.to_owned();
                }
                // Needed to know whether `from` means something; what is wrong with it is said later.
                "type" => {
                    let found = TYPES.iter().find(|(n, _)| value.eq_ignore_ascii_case(n));
                    spec.kind = found.map_or(MountType::Bind, |(_, t)| *t);
                }
                _ => {}
            }
        }
        Ok(spec)
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// What does not fit together, in BuildKit's words.
    pub fn parse(text: &str, expand: Expander<'_>) -> Result<MountSpec, String> {
        let mut spec = MountSpec::default();
        let mut access = None;
        for field in fields(text)? {
            let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(k, v)| (k, Some(v)));
            let key = key.to_lowercase();
            let unexpected =
                |kind: MountType| format!("unexpected key '{key}' for mount type '{}'", kind.name());
            let Some(value) = value else {
                match key.as_str() {
                    "readonly" | "ro" => access = Some(true),
                    "readwrite" | "rw" => access = Some(false),
                    "required" if spec.takes_required() => spec.required = true,
                    "required" => return Err(unexpected(spec.kind)),
                    _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
                }
                continue;
            };
            let value = expand(value)?;
            let invalid = || format!("invalid value for {key}: {value}");
            let bool = || parse_bool(&value).ok_or_else(invalid);
            let number = |radix| {
                u32::from_str_radix(&value, radix).map_err(|_| format!("invalid value {value} for {key}"))
            };
            match key.as_str() {
                "type" => {
                    let lower = value.to_lowercase();
                    let Some((_, kind)) = TYPES.iter().find(|(n, _)| *n == lower) else {
                        let names = TYPES.map(|(n, _)| n);
                        let meant = did_you_mean(&value, &names, true);
                        return Err(format!("unsupported mount type {}{meant}", quote(&value)));
                    };
                    spec.kind = *kind;
                }
                "from" => spec.from = value,
                "source" | "src" => spec.source = value,
                "target" | "dst" | "destination" => spec.target = value,
                "readonly" | "ro" => access = Some(bool()?),
                "readwrite" | "rw" => access = Some(!bool()?),
                "required" if spec.takes_required() => spec.required = bool()?,
                "size" if spec.kind == MountType::Tmpfs => {
                    spec.size = parse_size(&value).ok_or_else(invalid)?
                }
                "required" | "size" => return Err(unexpected(spec.kind)),
                "id" => spec.id = value,
                "sharing" => {
                    spec.sharing = Some(match value.to_lowercase().as_str() {
                        "shared" => Sharing::Shared,
                        "private" => Sharing::Private,
                        "locked" => Sharing::Locked,
                        _ => {
                            let meant = did_you_mean(&value, &["shared", "private", "locked"], true);
                            return Err(format!("unsupported sharing value {}{meant}", quote(&value)));
                        }
                    });
                }
                "mode" => spec.mode = Some(number(8)?),
                "uid" => spec.uid = Some(number(10)?),
                "gid" => spec.gid = Some(number(10)?),
                // Of any other mount it means nothing.
                "env" => spec.env = Some(value).filter(|_| spec.kind == MountType::Secret),
                _ => {
                    let meant = did_you_mean(&key, &KEYS, true);
                    return Err(format!("unexpected key '{key}' in '{field}'{meant}"));
                }
            }
        }
        spec.check(access)
    }

    fn takes_required(&self) -> bool {
        matches!(self.kind, MountType::Secret | MountType::Ssh)
    }

    fn check(mut self, access: Option<bool>) -> Result<MountSpec, String> {
        if matches!(self.kind, MountType::Bind | MountType::Tmpfs) {
            for (name, given) in
                [("mode", self.mode.is_some()), ("uid", self.uid.is_some()), ("gid", self.gid.is_some())]
            {
                if given {
                    return Err(format!("{name} not allowed for {} type mounts", quote(self.kind.name())));
                }
            }
        }
        self.read_only = access.unwrap_or(!matches!(self.kind, MountType::Cache | MountType::Tmpfs));
        if self.kind == MountType::Secret {
            let wrong = [
                (!self.from.is_empty(), "secret mount should not have a from"),
                (self.sharing.is_some(), "secret mount should not define sharing"),
                (
                    self.source.is_empty() && self.target.is_empty() && self.id.is_empty(),
                    "invalid secret mount. one of source, target required",
                ),
                (!self.source.is_empty() && !self.id.is_empty(), "both source and id can't be set"),
            ];
            if let Some((_, why)) = wrong.iter().find(|(wrong, _)| *wrong) {
                return Err((*why).to_owned());
            }
        }
        if self.sharing.is_some() && self.kind != MountType::Cache {
            return Err(format!("invalid cache sharing set for {} mount", self.kind.name()));
        }
        Ok(self)
    }
}

fn fields(text: &str) -> Result<Vec<String>, String> {
    csv(text).map_err(|why| format!("failed to parse csv mounts: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountSpec, String> {
        MountSpec::parse(text, &mut |word| Ok(word.replace("$V", "value")))
    }

    #[test]
    fn mounts_are_read_with_their_defaults() {
        let cache = parse("type=cache,target=/x,sharing=locked,uid=3,mode=0700").unwrap();
        assert_eq!((cache.sharing, cache.uid, cache.mode), (Some(Sharing::Locked), Some(3), Some(0o700)));
        assert!(!cache.read_only);
        assert!(parse("target=/x").unwrap().read_only);
        assert!(!parse("target=/x,rw").unwrap().read_only);
        assert_eq!(parse("type=secret,id=$V,env=X").unwrap().id, "value");
        assert_eq!(parse("type=tmpfs,target=/x,size=64m").unwrap().size, 64 << 20);
        assert_eq!(MountSpec::from_of("type=bind,from=a,target=$V").unwrap().from, "a");
    }

    #[test]
    fn what_does_not_fit_is_said() {
        for (text, expected) in [
            ("type=binde", "unsupported mount type \"binde\" (did you mean bind?)"),
            ("tarjet=/x", "unexpected key 'tarjet' in 'tarjet=/x' (did you mean target?)"),
            ("type=secret", "invalid secret mount. one of source, target required"),
            ("type=cache,sharing=foo", "unsupported sharing value \"foo\""),
            ("uid=3", "uid not allowed for \"bind\" type mounts"),
            ("required", "unexpected key 'required' for mount type 'bind'"),
            ("x", "invalid field 'x' must be a key=value pair"),
            ("type=tmpfs,size=foo", "invalid value for size: foo"),
        ] {
            assert_eq!(parse(text), Err(expected.to_owned()), "{text}");
        }
    }
}
