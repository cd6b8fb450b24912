//! Time as the API writes it.

use std::time::SystemTime;

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

/// A point given to a filter: Unix seconds with an optional fraction, RFC 3339, or a Go duration before now.
pub fn parse_point(text: &str) -> Option<SystemTime> {
    if let Ok(seconds) = text.parse::<f64>() {
        return SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::try_from_secs_f64(seconds).ok()?);
    }
    parse(text)
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
        assert_eq!(parse_point("nonsense"), None);
    }

    #[test]
    fn durations_are_told_as_docker_tells_them() {
        assert_eq!(human(0), "Less than a second");
        assert_eq!(human(70), "About a minute");
        assert_eq!(human(7200), "2 hours");
    }
}
