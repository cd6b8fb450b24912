//! Image references as Docker reads them (`github.com/distribution/reference`).
//!
//! ```text
//! [domain[:port]/]path[/path...][:tag][@digest]
//! busybox               -> docker.io/library/busybox:latest
//! me/app:1              -> docker.io/me/app:1
//! 127.0.0.1:5000/app    -> 127.0.0.1:5000/app:latest
//! ```
//! The first component is a domain when it holds a `.` or `:`, has capitals, or is `localhost`.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, Error};

/// The registry meant when none is named.
pub const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Longest repository path, bytes (distribution's limit).
const PATH_BYTES: usize = 255;
/// Longest tag, bytes.
const TAG_BYTES: usize = 128;

/// A normalised reference: always with a domain, and with a tag, a digest, or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a reference; without tag and digest it gets the tag `latest`.
    ///
    /// # Errors
    /// [`Error::Reference`] with Docker's words.
    pub fn parse(text: &str) -> Result<Reference, Error> {
        let mut reference = Reference::parse_bare(text)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some(DEFAULT_TAG.into());
        }
        Ok(reference)
    }

    /// As [`parse`](Reference::parse), but a bare name stays one (all tags of a repository).
    pub fn parse_bare(text: &str) -> Result<Reference, Error> {
        let bad = || Error::Reference("".into());
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(Error::Reference(": cannot specify 64-byte hexadecimal strings".into()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|_| bad())?)),
            None => (text, None),
        };
        let (domain, rest) = match rest.split_once('/') {
            Some((first, rest))
                if first.contains(['.', ':'])
                    || first == "localhost"
                    || first.bytes().any(|b| b.is_ascii_uppercase()) =>
            {
                (first, rest)
            }
            _ => (DEFAULT_DOMAIN, rest),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
        if !is_domain(domain) || tag.is_some_and(|t| !is_tag(t)) {
            return Err(bad());
        }
        if path.bytes().any(|b| b.is_ascii_uppercase())
            && path.to_ascii_lowercase().split('/').all(is_path_component)
        {
            let library = if domain == DEFAULT_DOMAIN && !path.contains('/') { OFFICIAL } else { "" };
            return Err(Error::Reference(
                format!(": repository name ({library}{path}) must be lowercase").into(),
            ));
        }
        if path.is_empty() || !path.split('/').all(is_path_component) {
            return Err(bad());
        }
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_string()
        };
        if path.len() > PATH_BYTES {
            return Err(Error::Reference(": repository name must not be more than 255 characters".into()));
        }
        Ok(Reference { domain: domain.to_string(), path, tag: tag.map(str::to_string), digest })
    }

    /// `docker.io`, `127.0.0.1:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `latest`; none when only a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The repository as Docker shows it: `busybox`, `me/app`, `127.0.0.1:5000/app`.
    pub fn familiar_name(&self) -> String {
        // Without its domain such a path would read as another registry's (Docker shows it so all the same).
        let ambiguous =
            self.path.split_once('/').is_some_and(|(first, _)| first.contains('.') || first == "localhost");
        if self.domain == DEFAULT_DOMAIN && !ambiguous {
            let official = self.path.strip_prefix(OFFICIAL).filter(|name| !name.contains('/'));
            official.unwrap_or(&self.path).to_string()
        } else {
            format!("{}/{}", self.domain, self.path)
        }
    }

    /// The whole reference as Docker shows it: `busybox:latest`, `busybox@sha256:...`.
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_name())
    }

    /// The same repository with only this digest.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same repository with only this tag.
    ///
    /// # Errors
    /// [`Error::Reference`] for what cannot be a tag.
    pub fn with_tag(&self, tag: &str) -> Result<Reference, Error> {
        if !is_tag(tag) {
            return Err(Error::Reference("".into()));
        }
        Ok(Reference { tag: Some(tag.to_string()), digest: None, ..self.clone() })
    }

    /// The name under which the store keeps it: a digest wins over a tag given with it, as in Docker.
    pub(crate) fn stored(&self) -> Reference {
        match self.digest {
            Some(digest) => self.with_digest(digest),
            None => self.clone(),
        }
    }

    /// What to ask the registry for: the digest, else the tag.
    pub(crate) fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.into(),
        }
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name = format!("{name}:{tag}");
        }
        if let Some(digest) = &self.digest {
            name = format!("{name}@{digest}");
        }
        name
    }
}

/// The full form: `docker.io/library/busybox:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(format!("{}/{}", self.domain, self.path)))
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Reference, Error> {
        Reference::parse(text)
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|d| d.split_once(']')) {
        Some((host, rest)) => {
            if host.is_empty() || !host.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                return false;
            }
            return rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_BYTES
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(part: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    if !bytes.first().is_some_and(|b| alnum(*b)) || !bytes.last().is_some_and(|b| alnum(*b)) {
        return false;
    }
    bytes.split(|b| alnum(*b)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_normalised_as_docker_does() {
        for (given, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("me/app:1", "docker.io/me/app:1", "me/app:1"),
            ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("index.docker.io/library/busybox:a", "docker.io/library/busybox:a", "busybox:a"),
            // Only what has nothing more behind it is one of the Hub's own.
            ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("127.0.0.1:5000/a/b:T_1", "127.0.0.1:5000/a/b:T_1", "127.0.0.1:5000/a/b:T_1"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("a__b/c--d/e.f_g", "docker.io/a__b/c--d/e.f_g:latest", "a__b/c--d/e.f_g:latest"),
        ] {
            let reference = Reference::parse(given).unwrap_or_else(|e| panic!("{given}: {e}"));
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
        }
    }

    #[test]
    fn a_digest_needs_no_tag() {
        let digest = Digest::of(b"x");
        let reference = Reference::parse(&format!("busybox@{digest}")).unwrap();
        assert_eq!(reference.tag(), None);
        assert_eq!(reference.familiar(), format!("busybox@{digest}"));
        let both = Reference::parse(&format!("busybox:1@{digest}")).unwrap();
        assert_eq!(both.target(), digest.to_string());
        assert_eq!(both.stored(), reference);
    }

    #[test]
    fn what_is_no_reference_is_refused_in_dockers_words() {
        for bad in [
            "",
            ":",
            "a:",
            "a b",
            "-a",
            "a//b",
            "a_",
            "a..b",
            "a___b",
            "x@sha256:12",
            "a:.t",
            "http://a/b",
            "/a",
        ] {
            assert_eq!(Reference::parse(bad).unwrap_err().to_string(), "invalid reference format", "{bad}");
        }
        let id = Digest::of(b"").hex();
        assert!(Reference::parse(&id).unwrap_err().to_string().contains("64-byte hexadecimal"));
        for (given, named) in [("Busybox", "library/Busybox"), ("Foo/Bar", "Bar"), ("me/Bar", "me/Bar")] {
            assert_eq!(
                Reference::parse(given).unwrap_err().to_string(),
                format!("invalid reference format: repository name ({named}) must be lowercase")
            );
        }
    }

    proptest! {
        #[test]
        fn the_full_form_reads_as_itself(text in "[a-zA-Z0-9.:/@_-]{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference.clone());
                prop_assert_eq!(Reference::parse(&reference.familiar()).unwrap(), reference);
            }
        }
    }
}
