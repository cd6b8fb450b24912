//! The options of a container's log (`--log-opt`): checked when it is made, and read where they count.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Record;
use super::config::{HostConfig, LogConfig};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::truth::truth;

/// A container's log is rotated at this many bytes, keeping this many files, unless it says otherwise.
const MAX_SIZE: u64 = 20 << 20;
const MAX_FILES: u32 = 5;
/// Docker's drivers that send a log elsewhere.
const REMOTE: &[&str] = &["awslogs", "fluentd", "gcplogs", "gelf", "journald", "splunk", "syslog"];
/// Options of both drivers that keep a log here.
const KEPT: &[&str] = &["max-size", "max-file", "compress", "mode", "max-buffer-size"];
/// Options that say what `logs --details` shows.
const DETAILS: &[&str] = &["labels", "labels-regex", "env", "env-regex", "tag"];

/// Fills in the engine's defaults, and refuses drivers and options that are not there.
pub fn check(engine: &Engine, host: &mut HostConfig) -> Result<()> {
    let log = &mut host.log_config;
    if log.r#type.is_empty() {
        log.r#type = engine.config.log_driver.clone().unwrap_or_else(|| "json-file".into());
        if log.config.is_empty() {
            log.config.clone_from(&engine.config.log_opts);
        }
    }
    let driver = log.r#type.as_str();
    match driver {
        "json-file" | "local" | "none" => {}
        other if REMOTE.contains(&other) => {
            return Err(Error::not_implemented(format!(
                "log driver {other} is not supported by this engine: use json-file, local or none"
            )));
        }
        other => {
            return Err(Error::invalid(format!(
                "error looking up logging plugin {other}: plugin \"{other}\" not found"
            )));
        }
    }
    let known = |key: &str| KEPT.contains(&key) || driver == "json-file" && DETAILS.contains(&key);
    if let Some(key) = log.config.keys().find(|k| driver != "none" && !known(k)) {
        return Err(Error::invalid(match driver {
            "local" => format!("unknown log opt '{key}' for log driver {driver}"),
            _ => format!("unknown log opt '{key}' for {driver} log driver"),
        }));
    }
    match log.config.get("mode").map(String::as_str) {
        // A log is a file here, and a full disk loses lines: writing never waits for anything else.
        None | Some("" | "blocking" | "non-blocking") => {}
        Some(other) => return Err(Error::invalid(format!("logger: logging mode not supported: {other}"))),
    }
    if let Some(size) = log.config.get("max-buffer-size") {
        if log.config.get("mode").is_none_or(|m| m != "non-blocking") {
            return Err(Error::invalid(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ));
        }
        let context = "error parsing option max-buffer-size";
        size_of(size).ok_or_else(|| Error::invalid(format!("{context}: invalid size: '{size}'")))?;
    }
    if let Some(tag) = log.config.get("tag") {
        tag_text(tag, "", "", "")?;
    }
    for key in ["labels-regex", "env-regex"] {
        if let Some(pattern) = log.config.get(key) {
            regex::Regex::new(pattern).map_err(|e| Error::invalid(format!("{key}: {e}")))?;
        }
    }
    // Numbers that are none are found when it starts, as with dockerd.
    Ok(())
}

/// Bytes at which a log is rotated (`None` = never), and how many files are kept.
fn rotation(log: &LogConfig) -> Result<(Option<u64>, u32)> {
    let options = &log.config;
    // The other driver says which option it speaks of.
    let wrong = |key: &str, text: &str, why: String| {
        let about = format!("invalid value for {key}: {text}: ");
        Error::internal(if log.r#type == "local" { about + &why } else { why })
    };
    let size = match options.get("max-size").map(String::as_str) {
        Some("-1") => None,
        Some(text) => match size_of(text) {
            Some(0) => return Err(Error::internal("max-size must be a positive number")),
            Some(size) => Some(size),
            None => return Err(wrong("max-size", text, format!("invalid size: '{text}'"))),
        },
        None => Some(MAX_SIZE),
    };
    let files = match options.get("max-file") {
        Some(text) => text.parse::<i64>().map_err(|_| {
            wrong("max-file", text, format!("strconv.Atoi: parsing \"{text}\": invalid syntax"))
        })?,
        None => MAX_FILES.into(),
    };
    if files < 1 && log.r#type == "json-file" {
        return Err(Error::internal("max-file cannot be less than 1"));
    }
    Ok((size, u32::try_from(files.max(1)).unwrap_or(u32::MAX)))
}

/// Whether files put aside are compressed, as far as it is said.
fn compress(log: &LogConfig) -> Result<Option<bool>> {
    let Some(said) = log.config.get("compress") else { return Ok(None) };
    let wrong = || Error::internal(format!("strconv.ParseBool: parsing {said:?}: invalid syntax"));
    truth(said).ok_or_else(wrong).map(Some)
}

/// Compresses what containers' logs have put aside and nobody compressed: of an earlier engine, or while none ran.
pub async fn catch_up(engine: &Engine, records: Vec<std::sync::Arc<Record>>) {
    for record in records {
        let path = super::spec::log_path(engine, &record);
        if let Ok(runtime::LogConfig::JsonFile { path, compress: true, .. }) = place(&record, path) {
            runtime::logs::compress_later(path).await;
        }
    }
}

/// Where the runtime logs to.
pub fn place(record: &Record, path: PathBuf) -> Result<runtime::LogConfig> {
    let context = "failed to create task for container: failed to initialize logging driver";
    placed(record, path).map_err(|e| e.context(context))
}

fn placed(record: &Record, path: PathBuf) -> Result<runtime::LogConfig> {
    if record.host.log_config.r#type == "none" {
        return Ok(runtime::LogConfig::None);
    }
    let (max_size, max_file) = rotation(&record.host.log_config)?;
    let asked = compress(&record.host.log_config)?;
    let local = record.host.log_config.r#type == "local";
    // Docker's defaults.
    let wanted = asked.unwrap_or(local);
    if local && wanted && max_file < 2 {
        return Err(Error::internal("compression cannot be enabled when max file count is 1"));
    }
    let cannot = max_file < 2 || max_size.is_none();
    if asked == Some(true) && cannot {
        return Err(Error::internal(
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ));
    }
    let compress = wanted && !cannot;
    Ok(runtime::LogConfig::JsonFile { path, max_size, max_file, compress })
}

/// `10m`, `64k`, `1g`: Docker's units are powers of two here.
fn size_of(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return None,
    };
    let digits = digits.trim_end();
    let whole = digits.parse::<u64>().ok().map(|n| n.checked_mul(factor));
    // `1.5m` is a size as well; what has digits and a point is a number to Rust too.
    let plain = digits.starts_with(|c: char| c.is_ascii_digit());
    let with_a_point = || {
        let bytes = digits.parse::<f64>().ok().filter(|_| plain)? * factor as f64;
        // More than there are bytes is no size.
        (bytes < u64::MAX as f64).then_some(bytes as u64)
    };
    whole.unwrap_or_else(with_a_point)
}

/// What `logs --details` shows before each line: the labels and variables that the log's options name, `a=b,c=d`.
/// They are those the container was made with, so no line needs to carry them.
pub fn details(record: &Record) -> String {
    let options = &record.host.log_config.config;
    if record.host.log_config.r#type != "json-file" {
        return String::new();
    }
    let list = |key: &str| -> Vec<&str> {
        options.get(key).map(|l| l.split(',').filter(|k| !k.is_empty()).collect()).unwrap_or_default()
    };
    let pattern = |key: &str| options.get(key).and_then(|p| regex::Regex::new(p).ok());
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    let (labels, like) = (list("labels"), pattern("labels-regex"));
    for (key, value) in &record.config.labels {
        if labels.contains(&key.as_str()) || like.as_ref().is_some_and(|p| p.is_match(key)) {
            found.insert(key, value.clone());
        }
    }
    let (names, like) = (list("env"), pattern("env-regex"));
    for (key, value) in record.config.env.iter().filter_map(|v| v.split_once('=')) {
        if names.contains(&key) || like.as_ref().is_some_and(|p| p.is_match(key)) {
            found.insert(key, value.to_owned());
        }
    }
    if let Some(tag) = options.get("tag")
        && let Ok(tag) = tag_text(tag, &record.id, &record.name, &record.config.image)
        && !tag.is_empty()
    {
        found.insert("tag", tag);
    }
    let pairs: Vec<String> =
        found.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value))).collect();
    pairs.join(",")
}

/// A tag with its placeholders filled in.
fn tag_text(tag: &str, id: &str, name: &str, image: &str) -> Result<String> {
    let mut text = String::new();
    let mut rest = tag;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((word, behind)) = after.split_once("}}") else {
            return Err(Error::invalid("error parsing log tag: unclosed action"));
        };
        text.push_str(before);
        match word.trim() {
            ".ID" => text.push_str(id.get(..12).unwrap_or(id)),
            ".FullID" => text.push_str(id),
            ".Name" => text.push_str(name),
            ".ImageName" => text.push_str(image),
            ".DaemonName" => text.push_str("docker"),
            other => {
                return Err(Error::not_implemented(format!(
                    "log tag: {{{{{other}}}}} is not there: use .ID, .FullID, .Name, .ImageName or .DaemonName"
                )));
            }
        }
        rest = behind;
    }
    text.push_str(rest);
    Ok(text)
}

/// As Go's `url.QueryEscape`.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size_of("10m"), Some(10 << 20));
        assert_eq!(size_of("7"), Some(7));
        assert_eq!(size_of("1.5k"), Some(1536));
        assert_eq!(size_of("1 k"), Some(1024));
        assert_eq!((size_of("1x"), size_of("-1"), size_of("")), (None, None, None));
        assert_eq!(size_of("99999999999999999999g"), None);
    }

    #[test]
    fn tags_have_placeholders() {
        let id = "0123456789abcdef";
        assert_eq!(tag_text("{{.Name}}/{{ .ID }}!", id, "web", "nginx").unwrap(), "web/0123456789ab!");
        assert!(tag_text("{{.Bogus}}", id, "web", "nginx").is_err());
        assert!(tag_text("{{.ID", id, "web", "nginx").is_err());
        assert_eq!(escape("a b=ü"), "a+b%3D%C3%BC");
    }
}
