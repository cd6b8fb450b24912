//! What is said of a result besides its kind: attributes of exporters, read before anything is done.

use std::collections::{BTreeMap, HashMap};

use crate::dockerfile::text::parse_bool;
use crate::platform::Platform;
use crate::rpc::{Code, Status};

/// Attributes that are yes or no, and none at all is yes.
const FLAGS: [&str; 11] = [
    "push",
    "push-by-digest",
    "registry.insecure",
    "unpack",
    "store",
    "name-canonical",
    "oci-mediatypes",
    "rewrite-timestamp",
    "prefer-nondist-layers",
    "tar",
    "oci-artifact",
];

/// In BuildKit's words, which clients show as they are.
pub(super) fn wrong(words: impl Into<String>) -> Status {
    Status::new(Code::Unknown, words)
}

fn no_bool(value: &str) -> String {
    format!("strconv.ParseBool: parsing {value:?}: invalid syntax")
}

/// Refuses attributes that mean nothing.
///
/// # Errors
/// The first of them, in BuildKit's words.
pub(super) fn check(attrs: &HashMap<String, String>) -> Result<(), Status> {
    let bad = |value: &str| !value.is_empty() && parse_bool(value).is_none();
    for name in FLAGS {
        if let Some(value) = attrs.get(name).filter(|v| bad(v)) {
            return Err(wrong(format!("non-bool value specified for {name}: {}", no_bool(value))));
        }
    }
    if let Some(value) = attrs.get("force-compression").filter(|v| bad(v)) {
        let why = no_bool(value);
        return Err(wrong(format!("non-bool value {value} specified for force-compression: {why}")));
    }
    split(attrs)?;
    Annotations::read(attrs).map(drop)
}

/// Whether each platform goes to a folder of its own (`platform-split`), where that is said.
pub(super) fn split(attrs: &HashMap<String, String>) -> Result<Option<bool>, Status> {
    let Some(value) = attrs.get("platform-split") else { return Ok(None) };
    let why = || wrong(format!("non-bool value for platform-split: {value}: {}", no_bool(value)));
    parse_bool(value).map(Some).ok_or_else(why)
}

/// Annotations by where they go, each with the platform it is for, where it is for one alone.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    manifest: Vec<(Option<Platform>, String, String)>,
    manifest_descriptor: Vec<(Option<Platform>, String, String)>,
    /// Of the list of platforms.
    pub index: BTreeMap<String, String>,
    /// Of what names that list.
    pub index_descriptor: BTreeMap<String, String>,
}

impl Annotations {
    /// Whether there is one that Docker's own documents have no place for: lists, and what names something in a list.
    pub fn want_oci(&self) -> bool {
        !(self.manifest_descriptor.is_empty() && self.index.is_empty() && self.index_descriptor.is_empty())
    }

    /// Reads `annotation.NAME`, `annotation-KIND.NAME` and `annotation-KIND[PLATFORM].NAME`.
    ///
    /// # Errors
    /// Kinds and platforms that are none.
    pub fn read(attrs: &HashMap<String, String>) -> Result<Self, Status> {
        let mut all = Self::default();
        for (key, value) in attrs {
            let Some(rest) = key.strip_prefix("annotation") else { continue };
            let (before, platform, name) = match rest.split_once('[') {
                Some((kind, rest)) if !kind.contains('.') => {
                    let parts =
                        rest.split_once("].").ok_or_else(|| wrong(format!("invalid annotation {key}")))?;
                    let platform = Platform::parse(parts.0).map_err(wrong)?.normalized();
                    (kind, Some(platform), parts.1)
                }
                _ => {
                    let Some((kind, name)) = rest.split_once('.') else { continue };
                    (kind, None, name)
                }
            };
            let (name, value) = (name.to_owned(), value.clone());
            match before.strip_prefix('-').unwrap_or(before) {
                "" | "manifest" => all.manifest.push((platform, name, value)),
                "manifest-descriptor" => all.manifest_descriptor.push((platform, name, value)),
                "index" => drop(all.index.insert(name, value)),
                "index-descriptor" => drop(all.index_descriptor.insert(name, value)),
                other => return Err(wrong(format!("unrecognized annotation type {other}"))),
            }
        }
        Ok(all)
    }

    /// Refuses what has no place: annotations of lists where there is none, and of platforms that are not made.
    ///
    /// # Errors
    /// In BuildKit's words.
    pub fn fit(&self, made: &[Platform], list: bool) -> Result<(), Status> {
        let of_list = !self.index.is_empty()
            || !self.index_descriptor.is_empty()
            || !self.manifest_descriptor.is_empty();
        if of_list && !list {
            return Err(wrong("index annotations not supported for single platform export"));
        }
        if !list {
            return Ok(());
        }
        let named = self.manifest.iter().chain(&self.manifest_descriptor).filter_map(|(p, ..)| p.as_ref());
        match named.into_iter().find(|p| !made.contains(p)) {
            Some(other) => Err(wrong(format!("invalid annotation: no platform {other} found in source"))),
            None => Ok(()),
        }
    }

    /// Those of a platform's manifest, and of what names it in the list.
    pub fn of(&self, platform: &Platform) -> [BTreeMap<String, String>; 2] {
        [&self.manifest, &self.manifest_descriptor].map(|all| {
            // What is said of one platform goes before what is said of all.
            let (own, common): (Vec<_>, Vec<_>) = all
                .iter()
                .filter(|(p, ..)| p.as_ref().is_none_or(|p| p == platform))
                .partition(|(p, ..)| p.is_some());
            let pair = |(_, name, value): &(_, String, String)| (name.clone(), value.clone());
            common.into_iter().chain(own).map(pair).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn what_means_nothing_is_refused_in_words() {
        let words = |name, value| check(&attrs(&[(name, value)])).unwrap_err().message;
        assert!(check(&attrs(&[("push", ""), ("tar", "false"), ("name", "x")])).is_ok());
        assert_eq!(
            words("push", "maybe"),
            "non-bool value specified for push: strconv.ParseBool: parsing \"maybe\": invalid syntax"
        );
        assert!(words("force-compression", "maybe").starts_with("non-bool value maybe specified for force-"));
        assert!(words("platform-split", "zz").starts_with("non-bool value for platform-split: zz: strconv"));
        assert_eq!(words("annotation-foo.x", "y"), "unrecognized annotation type foo");
    }

    #[test]
    fn annotations_go_where_they_belong() {
        let [amd, arm] = ["amd64", "arm64"].map(|arch| Platform::normal("linux", arch, ""));
        let read = Annotations::read(&attrs(&[
            ("annotation.a", "1"),
            ("annotation-manifest[linux/amd64].a.b", "2"),
            ("annotation[linux/amd64].a", "3"),
            ("annotation-index.c", "4"),
            ("annotation-manifest-descriptor.d", "5"),
            ("annotation-index-descriptor.e", "6"),
        ]))
        .unwrap();
        let map = |pairs: &[(&str, &str)]| attrs(pairs).into_iter().collect::<BTreeMap<_, _>>();
        assert_eq!(read.of(&amd), [map(&[("a", "3"), ("a.b", "2")]), map(&[("d", "5")])]);
        assert_eq!(read.of(&arm), [map(&[("a", "1")]), map(&[("d", "5")])]);
        assert_eq!(
            (read.index.clone(), read.index_descriptor.clone()),
            (map(&[("c", "4")]), map(&[("e", "6")]))
        );
        assert!(read.fit(&[amd.clone(), arm.clone()], true).is_ok());
        let words = |made: &[Platform], list| read.fit(made, list).unwrap_err().message;
        let plain = Annotations::read(&attrs(&[("annotation[linux/arm64].a", "1")])).unwrap();
        assert!(plain.fit(std::slice::from_ref(&amd), false).is_ok());
        assert_eq!(words(&[amd], false), "index annotations not supported for single platform export");
        assert_eq!(words(&[arm], true), "invalid annotation: no platform linux/amd64 found in source");
    }
}
