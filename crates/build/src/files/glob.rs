//! Wildcards as Go's `filepath.Match` reads them, one part of a path at a time.

/// Whether a part of a path has wildcards.
pub fn has_wildcards(part: &str) -> bool {
    part.contains(['*', '?', '[', '\\'])
}

/// Whether `name` fits `pattern`; a malformed pattern fits nothing.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // Where the last star stands, and what it has taken: then no recursion is needed.
    let (mut p, mut n, mut star) = (0, 0, None);
    loop {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some(_) if n < name.len() => match one(&pattern[p..], name[n]) {
                Some((true, used)) => {
                    p += used;
                    n += 1;
                    continue;
                }
                Some((false, _)) => {}
                None => return false,
            },
            None if n == name.len() => return true,
            _ => {}
        }
        match star {
            Some((at, taken)) if taken < name.len() => {
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            }
            _ => return false,
        }
    }
}

/// Whether the pattern's first item fits a character, and how long the item is; `None` where it is malformed.
fn one(pattern: &[char], c: char) -> Option<(bool, usize)> {
    match pattern {
        ['?', ..] => Some((true, 1)),
        ['\\', literal, ..] => Some((*literal == c, 2)),
        ['\\'] => None,
        ['[', rest @ ..] => {
            let (negated, mut i) = if rest.first() == Some(&'^') { (true, 1) } else { (false, 0) };
            let (mut found, first) = (false, i);
            loop {
                if rest.get(i) == Some(&']') && i > first {
                    return Some((found != negated, i + 2));
                }
                let mut next = || -> Option<char> {
                    let c = *rest.get(i)?;
                    i += 1;
                    match c {
                        '\\' => {
                            i += 1;
                            rest.get(i - 1).copied()
                        }
                        '-' | ']' => None,
                        c => Some(c),
                    }
                };
                let low = next()?;
                let high = if rest.get(i) == Some(&'-') {
                    i += 1;
                    let c = *rest.get(i)?;
                    i += 1;
                    match c {
                        '\\' => {
                            i += 1;
                            *rest.get(i - 1)?
                        }
                        '-' | ']' => return None,
                        c => c,
                    }
                } else {
                    low
                };
                found |= (low..=high).contains(&c);
            }
        }
        [literal, ..] => Some((*literal == c, 1)),
        [] => Some((false, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_gos_do() {
        let cases = [
            ("*.txt", "a.txt", true),
            ("*.txt", ".txt", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("?", "ä", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[a-]x", "ax", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("*", "", true),
            ("", "", true),
            ("a", "", false),
        ];
        for (pattern, name, fits) in cases {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_pattern_ends(pattern in "[a*?\\[\\]^\\\\-]{0,30}", name in "[ab]{0,30}") {
            let _ = matches(&pattern, &name);
        }
    }
}
