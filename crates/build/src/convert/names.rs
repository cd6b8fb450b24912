//! Names of images as `distribution/reference` reads them, paths as Docker cleans them, repositories as BuildKit finds
//! them in words.

/// An image's name in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// `docker.io`, `localhost:5000`
    pub domain: String,
    /// `library/busybox`
    pub path: String,
    /// Empty where none was given.
    pub tag: String,
    /// `sha256:…`; empty where none was given.
    pub digest: String,
}

/// Longest name.
const MAX_NAME: usize = 255;

impl Reference {
    /// Reads a name as users write it.
    ///
    /// # Errors
    /// What is wrong with it, in distribution's words.
    pub fn parse(text: &str) -> Result<Reference, String> {
        let invalid = || "invalid reference format".to_owned();
        if is_hex(text, 64) {
            return Err(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            ));
        }
        let (rest, digest) = text.split_once('@').map_or((text, ""), |(r, d)| (r, d));
        let (first, remainder) = rest.split_once('/').map_or(("", rest), |(f, r)| (f, r));
        let is_domain = !first.is_empty()
            && (first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first);
        let (domain, name) = match (is_domain, first) {
            (true, "index.docker.io") => ("docker.io", remainder),
            (true, domain) => (domain, remainder),
            (false, _) => ("docker.io", rest),
        };
        let (path, tag) = name.split_once(':').map_or((name, ""), |(p, t)| (p, t));
        let path = match domain == "docker.io" && !path.contains('/') {
            true => format!("library/{path}"),
            false => path.to_owned(),
        };
        if path.to_lowercase() != path {
            return Err(format!("invalid reference format: repository name ({path}) must be lowercase"));
        }
        let valid_tag = |t: &str| {
            t.len() <= 128
                && t.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                && t.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        };
        let valid_digest = |d: &str| match d.split_once(':') {
            Some(("sha256", hex)) => is_hex(hex, 64),
            Some(("sha512", hex)) => is_hex(hex, 128),
            _ => false,
        };
        let fine = valid_domain(domain)
            && path.split('/').all(valid_component)
            && (valid_tag(tag) || (tag.is_empty() && !name.contains(':')))
            && (valid_digest(digest) || (digest.is_empty() && !text.contains('@')));
        if !fine {
            return Err(invalid());
        }
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(format!("repository name must not be more than {MAX_NAME} characters"));
        }
        Ok(Reference { domain: domain.into(), path, tag: tag.into(), digest: digest.into() })
    }

    /// With `latest` where neither tag nor digest was given.
    pub fn tagged(mut self) -> Reference {
        if self.tag.is_empty() && self.digest.is_empty() {
            self.tag = "latest".into();
        }
        self
    }

    /// As users write it: without what is understood.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        match full.strip_prefix("docker.io/") {
            Some(rest) => match rest.strip_prefix("library/") {
                Some(name) if !name.contains('/') => name.to_owned(),
                _ => rest.to_owned(),
            },
            None => full,
        }
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if !self.tag.is_empty() {
            write!(f, ":{}", self.tag)?;
        }
        if !self.digest.is_empty() {
            write!(f, "@{}", self.digest)?;
        }
        Ok(())
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// `[a-z0-9]+` parts, between them `.`, `_`, `__` or any number of `-`.
fn valid_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = text.starts_with(alphanumeric) && text.ends_with(alphanumeric);
    let separators = text.split(alphanumeric).filter(|s| !s.is_empty());
    ends && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn valid_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.chars().all(|c| c.is_ascii_hexdigit() || c == ':') => {
                ("v6", port)
            }
            _ => return false,
        },
        None => text.find(':').map_or((text, ""), |at| text.split_at(at)),
    };
    let port = port.is_empty()
        || port.strip_prefix(':').is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let label = |l: &str| {
        let edge = |c: char| c.is_ascii_alphanumeric();
        l.starts_with(edge) && l.ends_with(edge) && l.chars().all(|c| edge(c) || c == '-')
    };
    port && host.split('.').all(label)
}

/// A path without `.`, `..` and double slashes (Go's `path.Clean`).
pub fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    match (absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".into(),
        (false, false) => parts.join("/"),
    }
}

/// `path` in `folder`, absolute and clean.
pub fn absolute(folder: &str, path: &str) -> String {
    if path.starts_with('/') { clean(path) } else { clean(&format!("/{folder}/{path}")) }
}

/// The last part of a path.
pub fn base(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// A repository, found in a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitRef {
    /// As git takes it.
    pub remote: String,
    /// Branch, tag or commit.
    pub reference: String,
    /// Folder in it.
    pub subdir: String,
    /// The commit it must be.
    pub checksum: String,
    /// `?keep-git-dir=`
    pub keep_git_dir: Option<bool>,
    /// `?submodules=`
    pub submodules: Option<bool>,
    /// `github.com/…`, which may be a path just as well.
    pub like_a_path: bool,
}

impl GitRef {
    /// Reads `git://…`, `ssh://…`, `git@host:path`, `https://….git`, `github.com/…`, with `#ref:folder` or a query.
    /// `None` where it is none of them.
    ///
    /// # Errors
    /// A query that has no meaning.
    pub fn parse(text: &str) -> Result<Option<GitRef>, String> {
        if text.starts_with("./") || text.starts_with("../") {
            return Ok(None);
        }
        let (main, fragment) = text.split_once('#').map_or((text, ""), |(m, f)| (m, f));
        let lower = main.to_ascii_lowercase();
        let mut out = GitRef::default();
        let web = lower.starts_with("http://") || lower.starts_with("https://");
        let scheme = ["git://", "ssh://"].iter().any(|s| lower.starts_with(s));
        let (address, query) = match web || scheme {
            true => main.split_once('?').map_or((main, ""), |(a, q)| (a, q)),
            false => (main, ""),
        };
        if web {
            if !address.ends_with(".git") {
                return Ok(None);
            }
            out.remote = address.to_owned();
        } else if scheme {
            out.remote = address.to_owned();
        } else if is_scp(main) {
            out.remote = main.to_owned();
        } else if main.starts_with("github.com/") {
            out.remote = format!("https://{main}");
            out.like_a_path = true;
        } else {
            return Ok(None);
        }
        let (reference, subdir) = fragment.split_once(':').map_or((fragment, ""), |(r, s)| (r, s));
        out.reference = reference.to_owned();
        out.subdir = subdir.to_owned();
        out.query(query)?;
        let subdir = clean(&format!("/{}", out.subdir));
        out.subdir = if subdir == "/" { String::new() } else { subdir };
        Ok(Some(out))
    }

    /// Reads what stands behind `?`.
    fn query(&mut self, query: &str) -> Result<(), String> {
        let (mut tag, mut branch) = (None, None);
        let mut seen: Vec<&str> = Vec::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').map_or((pair, ""), |(k, v)| (k, v));
            let is_flag = matches!(key, "submodules" | "keep-git-dir");
            if seen.contains(&key) {
                return Err(format!("query {key:?} has multiple values"));
            }
            if value.is_empty() && !is_flag {
                return Err(format!("query {key:?} has no value"));
            }
            seen.push(key);
            let flag = || match value {
                "" => Ok(true),
                text => crate::dockerfile::text::parse_bool(text)
                    .ok_or_else(|| format!("invalid {key} value: {value:?}")),
            };
            match key {
                "ref" => agree("ref", &mut self.reference, value)?,
                "branch" => branch = Some(value),
                "tag" => tag = Some(value),
                "subdir" => agree("subdir", &mut self.subdir, value)?,
                "checksum" | "commit" => self.checksum = value.to_owned(),
                "keep-git-dir" => self.keep_git_dir = Some(flag()?),
                "submodules" => self.submodules = Some(flag()?),
                _ => return Err(format!("unexpected query {key:?}")),
            }
        }
        if tag.is_some() && branch.is_some() {
            return Err("branch conflicts with tag".into());
        }
        let named = tag.map(|t| ("refs/tags/", t)).or(branch.map(|b| ("refs/heads/", b)));
        if let Some((prefix, name)) = named {
            let name = name.strip_prefix(prefix).unwrap_or(name);
            agree("ref", &mut self.reference, &format!("{prefix}{name}"))?;
        }
        // Nothing else says which: it is the commit itself, where that is said in full.
        if self.reference.is_empty() && self.checksum.len() == COMMIT_DIGITS {
            self.reference.clone_from(&self.checksum);
        }
        Ok(())
    }
}

/// Digits of a commit's whole id.
const COMMIT_DIGITS: usize = 40;

/// Takes a value that may have been said before, but no other one.
fn agree(what: &str, place: &mut String, value: &str) -> Result<(), String> {
    if !place.is_empty() && place != value {
        return Err(format!("{what} conflicts: {place:?} vs {value:?}"));
    }
    value.clone_into(place);
    Ok(())
}

/// `user@host:path`
fn is_scp(text: &str) -> bool {
    let Some((before, path)) = text.split_once(':') else { return false };
    let Some((user, host)) = before.split_once('@') else { return false };
    let word = |t: &str| !t.is_empty() && t.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    word(user) && word(host) && !path.is_empty() && !path.starts_with("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_full() {
        let sum = format!("sha256:{}", "a".repeat(64));
        for (text, expected, familiar) in [
            ("busybox", "docker.io/library/busybox", "busybox"),
            ("a/b:c", "docker.io/a/b:c", "a/b:c"),
            ("localhost:5000/x", "localhost:5000/x", "localhost:5000/x"),
            ("index.docker.io/x", "docker.io/library/x", "x"),
            (&format!("x@{sum}"), &format!("docker.io/library/x@{sum}"), &format!("x@{sum}")),
        ] {
            let read = Reference::parse(text).unwrap();
            assert_eq!((read.to_string().as_str(), read.familiar().as_str()), (expected, familiar));
        }
        assert_eq!(Reference::parse("x").unwrap().tagged().tag, "latest");
        for text in ["", "a b", "busybox:", "a//b", "-a", "a@sha256:1", "x:y:z", "a..b"] {
            assert_eq!(Reference::parse(text), Err("invalid reference format".into()), "{text}");
        }
        let why = "invalid reference format: repository name (library/Busybox) must be lowercase";
        assert_eq!(Reference::parse("Busybox"), Err(why.into()));
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in
            [("/a/../b//c/.", "/b/c"), ("/../..", "/"), ("a/./b", "a/b"), ("..", ".."), ("", ".")]
        {
            assert_eq!(clean(path), expected);
        }
        assert_eq!(absolute("/w", "../x"), "/x");
        assert_eq!(base("/a/b/"), "b");
    }

    #[test]
    fn repositories_are_told_from_paths() {
        let git = |text: &str| GitRef::parse(text).unwrap();
        assert_eq!(git("https://x/y.git#main:sub").unwrap().subdir, "/sub");
        assert_eq!(git("git@github.com:a/b.git").unwrap().remote, "git@github.com:a/b.git");
        assert_eq!(git("ssh://git@x/y?branch=b").unwrap().reference, "refs/heads/b");
        assert!(git("github.com/a/b").unwrap().like_a_path);
        let commit = "0123456789".repeat(4);
        assert_eq!(git(&format!("https://x/y.git?commit={commit}")).unwrap().reference, commit);
        assert_eq!(git("https://x/y.git?commit=012").unwrap().reference, "");
        for (query, why) in [
            ("branch=a&tag=b", "branch conflicts with tag"),
            ("branch=a&ref=a", "ref conflicts: \"a\" vs \"refs/heads/a\""),
            ("ref=a&ref=a", "query \"ref\" has multiple values"),
            ("tag", "query \"tag\" has no value"),
            ("nope=1", "unexpected query \"nope\""),
        ] {
            assert_eq!(GitRef::parse(&format!("https://x/y.git?{query}")), Err(why.into()));
        }
        for text in ["a", "./x.git", "https://x/y", "a/b:c", "http://x/y.tar.gz"] {
            assert_eq!(git(text), None, "{text}");
        }
    }
}
