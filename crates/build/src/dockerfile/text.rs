//! Small things of Go's that show in words: quoting, durations, sizes, booleans, CSV, and what was probably meant.

/// A string as `%q` writes it.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() || (c.is_whitespace() && c != ' ') || c == '\u{feff}' => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A list of strings as `%q` writes it: `["a" "b"]`.
pub fn quote_all(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|t| quote(t)).collect::<Vec<_>>().join(" "))
}

/// A character as `%q` writes it: `'a'`, `'\x03'`.
pub fn quote_char(c: char) -> String {
    match c {
        '\'' => "'\\''".into(),
        '"' => "'\"'".into(),
        c => format!("'{}'", quote(c.encode_utf8(&mut [0; 4])).trim_matches('"')),
    }
}

/// A boolean as `strconv.ParseBool` reads it.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// One line of CSV as `encoding/csv` reads it.
pub fn csv(line: &str) -> Result<Vec<String>, String> {
    if line.is_empty() {
        return Err("EOF".into());
    }
    let mut fields = Vec::new();
    let mut rest = line;
    let column = |rest: &str| line.len() - rest.len() + 1;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut inner = quoted;
            loop {
                let Some(end) = inner.find('"') else {
                    let at = line.len() + 1;
                    return Err(format!(
                        "parse error on line 1, column {at}: extraneous or missing \" in quoted-field"
                    ));
                };
                field.push_str(&inner[..end]);
                inner = &inner[end + 1..];
                if let Some(more) = inner.strip_prefix('"') {
                    field.push('"');
                    inner = more;
                } else {
                    break;
                }
            }
            fields.push(field);
            match inner.strip_prefix(',') {
                Some(next) => rest = next,
                None if inner.is_empty() => return Ok(fields),
                None => {
                    let at = column(inner) - 1;
                    return Err(format!(
                        "parse error on line 1, column {at}: extraneous or missing \" in quoted-field"
                    ));
                }
            }
        } else {
            let (field, next) = match rest.split_once(',') {
                Some((field, next)) => (field, Some(next)),
                None => (rest, None),
            };
            if let Some(at) = field.find('"') {
                let at = column(rest) + at;
                return Err(format!("parse error on line 1, column {at}: bare \" in non-quoted-field"));
            }
            fields.push(field.to_owned());
            match next {
                Some(next) => rest = next,
                None => return Ok(fields),
            }
        }
    }
}

/// A duration as `time.ParseDuration` reads it, in nanoseconds.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: f64 = 0.0;
    let mut whole: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let dots = number.bytes().filter(|b| *b == b'.').count();
        if number.is_empty() || number == "." || dots > 1 {
            return Err(invalid());
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let scale: i64 = match unit {
            "" => return Err(format!("time: missing unit in duration {}", quote(text))),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            unit => return Err(format!("time: unknown unit {} in duration {}", quote(unit), quote(text))),
        };
        let (integer, fraction) = number.split_once('.').unwrap_or((number, ""));
        let integer: i128 = if integer.is_empty() { 0 } else { integer.parse().map_err(|_| invalid())? };
        whole = whole.saturating_add(integer.saturating_mul(scale.into()));
        if !fraction.is_empty() {
            total += format!("0.{fraction}").parse::<f64>().map_err(|_| invalid())? * scale as f64;
        }
        rest = next;
    }
    let sum = whole.saturating_add(total as i128);
    let sum = i64::try_from(sum).map_err(|_| invalid())?;
    Ok(if negative { -sum } else { sum })
}

/// A duration as Go prints it: `1m30s`, `500ms`, `0s`.
pub fn show_duration(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".into();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = |value: u64, unit: u64| {
        let rest = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let rest = rest.trim_end_matches('0');
        let dot = if rest.is_empty() { "" } else { "." };
        format!("{}{dot}{rest}", value / unit)
    };
    if n < 1_000 {
        return format!("{sign}{n}ns");
    }
    if n < 1_000_000 {
        return format!("{sign}{}µs", fraction(n, 1_000));
    }
    if n < 1_000_000_000 {
        return format!("{sign}{}ms", fraction(n, 1_000_000));
    }
    let minutes = n / 60_000_000_000;
    let seconds = fraction(n % 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, m) => format!("{sign}{m}m{seconds}s"),
        (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
    }
}

/// A size as `units.RAMInBytes` reads it: `64m`, `1.5GiB`, `512`.
pub fn parse_size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let unit = unit.trim_start();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    (number >= 0.0).then_some((number * 1024f64.powi(power)) as u64)
}

/// How many edits are no longer a slip.
const TOO_FAR: usize = 3;
/// Longer words are not compared.
const MAX_COMPARED: usize = 256;

/// The option that was probably meant; `None` where the value is one of them or like none.
pub fn suggest<'a>(value: &str, options: &[&'a str], case_sensitive: bool) -> Option<&'a str> {
    let fold = |t: &str| if case_sensitive { t.to_owned() } else { t.to_lowercase() };
    let value = fold(value);
    let (mut best, mut least) = (None, TOO_FAR);
    for option in options {
        let folded = fold(option);
        if folded == value {
            return None;
        }
        let far = distance(&folded, &value);
        if far < least {
            (best, least) = (Some(*option), far);
        }
    }
    best
}

/// ` (did you mean x?)`, or nothing.
pub fn did_you_mean(value: &str, options: &[&str], case_sensitive: bool) -> String {
    suggest(value, options, case_sensitive).map(|s| format!(" (did you mean {s}?)")).unwrap_or_default()
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) >= TOO_FAR || a.len().max(b.len()) > MAX_COMPARED {
        return TOO_FAR;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_as_go_does() {
        assert_eq!(quote("a\"b\\\n\u{1}ä"), "\"a\\\"b\\\\\\n\\x01ä\"");
        assert_eq!(quote_all(&["a".into(), "b c".into()]), "[\"a\" \"b c\"]");
    }

    #[test]
    fn a_slip_is_seen_and_a_stranger_is_not() {
        assert_eq!(suggest("RUNN", &["RUN", "FROM"], false), Some("RUN"));
        assert_eq!(suggest("run", &["RUN"], false), None);
        assert_eq!(suggest("completely", &["RUN"], false), None);
        assert_eq!(distance("kitten", "sittin"), 2);
    }

    #[test]
    fn durations_and_sizes_are_gos() {
        assert_eq!(parse_duration("1m30s"), Ok(90_000_000_000));
        assert_eq!(parse_duration("1.5s"), Ok(1_500_000_000));
        assert_eq!(parse_duration("5"), Err("time: missing unit in duration \"5\"".into()));
        assert_eq!(parse_duration("x"), Err("time: invalid duration \"x\"".into()));
        for (nanos, shown) in
            [(90_000_000_000, "1m30s"), (500_000_000, "500ms"), (0, "0s"), (3_600_000_000_000, "1h0m0s")]
        {
            assert_eq!(show_duration(nanos), shown);
        }
        assert_eq!(parse_size("64m"), Some(64 << 20));
        assert_eq!(parse_size("1.5GiB"), Some(3 << 29));
        assert_eq!(parse_size("x"), None);
    }

    #[test]
    fn csv_fields_may_be_quoted() {
        assert_eq!(csv("a,\"b,c\"\"\",d"), Ok(vec!["a".into(), "b,c\"".into(), "d".into()]));
        assert!(csv("a,b\"c").is_err());
        assert!(csv("\"a").is_err());
    }
}
