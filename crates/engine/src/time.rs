//! Time as the API writes it.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};

/// Go's zero time.
pub const ZERO: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 with nanoseconds, UTC.
pub fn format(at: SystemTime) -> String {
    DateTime::<Utc>::from(at).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// Now, as [`format`] writes it.
pub fn now() -> String {
    format(SystemTime::now())
}

/// Reads what [`format`] wrote (or any RFC 3339 time).
pub fn parse(text: &str) -> Option<SystemTime> {
    DateTime::parse_from_rfc3339(text).ok().map(SystemTime::from)
}

/// RFC 3339 from which a person left something out at the end: the seconds, the minutes, the time of day, the zone
/// (then it is UTC).
fn parse_shortened(text: &str) -> Option<SystemTime> {
    const WHOLE: &str = "0000-00-00T00:00:00";
    let zone = match text.strip_suffix(['Z', 'z']) {
        Some(before) => before.len(),
        // A date has two dashes of its own.
        None => text.rfind(['+', '-']).filter(|at| *at >= "0000-00-00".len()).unwrap_or(text.len()),
    };
    let (mut moment, zone) = (text.get(..zone)?.to_owned(), text.get(zone..)?);
    moment.push_str(WHOLE.get(moment.len()..).unwrap_or_default());
    parse(&(moment + if zone.is_empty() { "Z" } else { zone }))
}

/// A point given to a filter: Unix seconds with an optional fraction, RFC 3339, or a Go duration before now.
pub fn parse_point(text: &str) -> Option<SystemTime> {
    if let Some(at) = seconds(text) {
        return Some(at);
    }
    parse_shortened(text).or_else(|| SystemTime::now().checked_sub(parse_duration(text)?))
}

/// A point in a query; Go's words for what is none.
pub fn parse_query(text: &str) -> crate::error::Result<SystemTime> {
    parse_point(text).ok_or_else(|| {
        let wrong = match text.split_once('.') {
            Some((whole, fraction)) if whole.parse::<i64>().is_ok() => fraction,
            _ => text,
        };
        crate::error::Error::internal(format!("strconv.ParseInt: parsing \"{wrong}\": invalid syntax"))
    })
}

/// `1700000000.123456789`: to the nanosecond, which no floating number holds for today's times.
fn seconds(text: &str) -> Option<SystemTime> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos = Duration::from_nanos(digits.parse().ok()?);
    let seconds = Duration::from_secs(whole.unsigned_abs());
    match whole < 0 {
        true => SystemTime::UNIX_EPOCH.checked_sub(seconds)?.checked_add(nanos),
        false => SystemTime::UNIX_EPOCH.checked_add(seconds)?.checked_add(nanos),
    }
}

/// Go's durations, not negative: `1h30m`, `1.5s`, `300ms`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let seconds = match &after[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let value: f64 = number.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(value * seconds).ok()?)?;
        rest = &after[unit..];
    }
    (!text.is_empty()).then_some(total)
}

/// Docker's words for how long ago something was: `About a minute`, `3 hours`.
pub fn human(seconds: u64) -> String {
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{} minutes", seconds / 60),
        3600..5400 => "About an hour".into(),
        5400..172_800 => format!("{} hours", (seconds + 1800) / 3600),
        172_800..1_209_600 => format!("{} days", seconds / 86_400),
        1_209_600..5_184_000 => format!("{} weeks", seconds / 604_800),
        5_184_000..63_072_000 => format!("{} months", seconds / 2_592_000),
        _ => format!("{} years", seconds / 31_536_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_their_text() {
        let now = SystemTime::now();
        assert_eq!(parse(&format(now)), Some(now));
        assert_eq!(parse_point("1.5"), Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1500)));
        let exactly = std::time::Duration::new(1_796_004_479, 123_456_789);
        assert_eq!(parse_point("1796004479.123456789"), Some(SystemTime::UNIX_EPOCH + exactly));
        assert_eq!(
            parse_point("-5"),
            Some(SystemTime::UNIX_EPOCH - std::time::Duration::from_secs(5)),
            "before 1970"
        );
        for (text, whole) in [
            ("2026-01-02", "2026-01-02T00:00:00Z"),
            ("2026-01-02Z", "2026-01-02T00:00:00Z"),
            ("2026-01-02+01:00", "2026-01-02T00:00:00+01:00"),
            ("2026-01-02T03", "2026-01-02T03:00:00Z"),
            ("2026-01-02T03:04-05:00", "2026-01-02T03:04:00-05:00"),
            ("2026-01-02T03:04:05", "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05.678Z", "2026-01-02T03:04:05.678Z"),
        ] {
            assert_eq!(parse_point(text), parse(whole), "{text}");
            assert!(parse(whole).is_some());
        }
        for bad in ["2026", "2026-13-01", "2026-01-02é"] {
            assert_eq!(parse_shortened(bad), None, "{bad}");
        }
        for bad in ["nonsense", "1.x", "1.5.6", "."] {
            assert_eq!(parse_point(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_told_as_docker_tells_them() {
        assert_eq!(human(0), "Less than a second");
        assert_eq!(human(70), "About a minute");
        assert_eq!(human(7200), "2 hours");
    }

    #[test]
    fn durations_are_gos() {
        let ms = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(ms("1h30m"), Some(5_400_000));
        assert_eq!(ms("1.5s"), Some(1500));
        assert_eq!(ms("300ms"), Some(300));
        for bad in ["", "5", "x", "1d", "s", "-1s", "1h30"] {
            assert_eq!(ms(bad), None, "{bad}");
        }
        assert!(parse_point("24h").unwrap() < SystemTime::now());
    }
}
