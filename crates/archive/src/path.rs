//! Lexical cleaning of entry paths, before any of them meets the file system.

use crate::{Error, Limits, error::lossy};

/// `path` with empty and `.` components dropped and `..` applied lexically, as Go's `filepath.Clean` has it; the
/// leading slash of an absolute path is dropped (it is meant below the root). The root itself is the empty path.
pub(crate) fn clean(path: &[u8], limits: &Limits) -> Result<Vec<u8>, Error> {
    if path.len() > limits.path_bytes {
        return Err(Error::Limit { what: "bytes in a path", limit: limits.path_bytes as u64 });
    }
    if path.contains(&0) {
        return Err(Error::malformed("a path with a NUL byte"));
    }
    let absolute = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                // "/.." is "/" to Go as well: only a relative path can lead out.
                if parts.pop().is_none() && !absolute {
                    return Err(Error::Outside { path: lossy(path) });
                }
            }
            name => parts.push(name),
        }
    }
    if parts.len() > limits.depth {
        return Err(Error::Limit { what: "folders below each other", limit: limits.depth as u64 });
    }
    Ok(parts.join(&b'/'))
}

/// Splits a cleaned path into its parent (empty: the root) and its last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(i) => (&path[..i], &path[i + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(path: &str) -> Result<String, Error> {
        clean(path.as_bytes(), &Limits::default()).map(|p| lossy(&p))
    }

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(cleaned("./a//b/./c/").unwrap(), "a/b/c");
        assert_eq!(cleaned("/etc/passwd").unwrap(), "etc/passwd");
        assert_eq!(cleaned("a/../b").unwrap(), "b");
        assert_eq!(cleaned("/../../etc").unwrap(), "etc");
        assert_eq!(cleaned("./").unwrap(), "");
        assert!(matches!(cleaned("../x"), Err(Error::Outside { .. })));
        assert!(matches!(cleaned("a/../../x"), Err(Error::Outside { .. })));
        assert!(matches!(cleaned("a\0b"), Err(Error::Malformed(_))));
        assert!(matches!(cleaned(&"x/".repeat(5000)), Err(Error::Limit { .. })));
    }

    #[test]
    fn a_path_splits_at_its_last_slash() {
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"c"), (&b""[..], &b"c"[..]));
    }
}
