//! Identifiers: random ids, names for containers that were given none, and which names are allowed.

use rand::Rng;

const ADJECTIVES: &[&str] = &[
    "able", "amber", "brave", "breezy", "bright", "calm", "clever", "cosy", "daring", "deft", "eager",
    "easy", "fair", "fleet", "fond", "fresh", "gentle", "glad", "happy", "hardy", "keen", "kind", "light",
    "lively", "lucid", "merry", "mild", "neat", "nimble", "noble", "plucky", "proud", "quick", "quiet",
    "ready", "salty", "serene", "sharp", "steady", "still", "sunny", "swift", "tidy", "trusty", "vivid",
    "warm", "wise", "zesty",
];
const NOUNS: &[&str] = &[
    "anchor", "bay", "beacon", "bight", "boat", "bosun", "bow", "breeze", "buoy", "canoe", "cape", "coast",
    "compass", "coracle", "cove", "crew", "current", "deck", "delta", "dinghy", "dock", "drift", "estuary",
    "ferry", "fjord", "gull", "harbour", "helm", "heron", "inlet", "island", "jetty", "keel", "kelp",
    "ketch", "knot", "lagoon", "lantern", "mast", "mooring", "oar", "otter", "paddle", "pier", "quay",
    "reef", "river", "rudder", "sail", "shoal", "sloop", "sound", "stern", "strait", "tide", "tiller",
    "wake", "wave", "wharf", "yawl",
];

/// 64 hexadecimal digits.
pub fn random_id() -> String {
    let mut bytes = [0u8; 32];
    rand::rng().fill(&mut bytes[..]);
    hex(&bytes)
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
        // Writing to a String cannot fail.
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// A name such as `merry_harbour`; `attempt` > 0 adds a digit.
pub fn random_name(attempt: u32) -> String {
    let mut rng = rand::rng();
    let (a, n) = (rng.random_range(0..ADJECTIVES.len()), rng.random_range(0..NOUNS.len()));
    let digit = if attempt == 0 { String::new() } else { rng.random_range(0..10).to_string() };
    format!("{}_{}{digit}", ADJECTIVES[a], NOUNS[n])
}

/// Docker's rule for names: `[a-zA-Z0-9][a-zA-Z0-9_.-]`, at least two characters.
pub fn is_valid(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && name.len() >= 2
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_follow_dockers_rule() {
        for ok in ["ab", "web-1", "a.b_c"] {
            assert!(super::is_valid(ok), "{ok}");
        }
        for bad in ["", "a", "-a", "a b", "a/b", "ä1"] {
            assert!(!super::is_valid(bad), "{bad}");
        }
        assert!(super::is_valid(&super::random_name(1)));
        assert_eq!(super::random_id().len(), 64);
    }
}
