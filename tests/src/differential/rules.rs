//! The rules by which both sides' answers are made comparable. Each has a name, which stands in what it leaves behind.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// Rules for text: name, pattern, what is put in its place. In this order.
const TEXT: &[(&str, &str, &str)] = &[
    // Ids: of containers, networks, digests of images.
    ("digest", r"sha256:[0-9a-f]{64}", "<digest>"),
    ("id", r"\b[0-9a-f]{64}\b", "<id>"),
    ("short digest", r"sha256:[0-9a-f]{12}\b", "<short-digest>"),
    ("short id", r"\b[0-9a-f]{12}\b", "<short-id>"),
    // Times; Go's zero time is a statement of its own and stays.
    ("time", r"\b(?:2\d{3})-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", "<time>"),
    ("local time", r"\b2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? [+-]\d{4} [A-Z]+", "<time>"),
    (
        "ago",
        r"(?:Less than a second|About a minute|About an hour|\d+ (?:seconds?|minutes?|hours?|days?|weeks?|months?))",
        "<while>",
    ),
    // Addresses that the engine chooses.
    ("hardware address", r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", "<mac>"),
    ("address", r"\b(?:172\.(?:1[6-9]|2\d|3[01])|192\.168)\.\d{1,3}\.\d{1,3}\b", "<address>"),
    ("random port", r":(?:3[2-9]\d{3}|[4-6]\d{4})\b", ":<port>"),
    // Sizes: what a layer weighs differs by file system.
    ("size", r"\b\d+(?:\.\d+)?(?:B|kB|MB|GB)\b", "<size>"),
    // Of a failed build buildx says which of two goroutines told it first, which is a race of its own.
    ("failed build", r"failed to run Build function: ", "failed to solve: "),
    // What the builder calls a result for itself.
    ("ref", r"checksum of ref [^ ]+: ", "checksum of ref <ref>: "),
    ("client's cache", r"manifest from local:\d+", "manifest from local:<number>"),
    // Columns are as wide as their widest word.
    ("columns", r" {2,}", "  "),
    ("end of line", r"[ \t]+\n", "\n"),
];

/// Rules for JSON: fields whose value is the machine's or the moment's: only the type is compared.
const FIELDS: &[(&str, &[&str])] = &[
    ("moment", &["time", "timeNano", "Pid", "SystemTime", "execDuration"]),
    ("created, in seconds", &["Created"]),
    ("size", &["Size", "SharedSize", "SizeRw", "SizeRootFs", "SpaceReclaimed", "LayersSize", "VirtualSize"]),
    ("random port", &["PublicPort", "HostPort"]),
    ("address", &["IPAddress", "Gateway", "MacAddress", "IPv4Address", "Subnet"]),
];

static COMPILED: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    TEXT.iter()
        .map(|(name, pattern, put)| (Regex::new(pattern).unwrap_or_else(|e| panic!("{name}: {e}")), *put))
        .collect()
});

/// Applies the rules to text; `paths` are the side's own folders with their names.
pub fn text(said: &str, paths: &[(String, &str)]) -> String {
    let mut out = said.to_owned();
    for (path, name) in paths {
        out = out.replace(path, name);
    }
    for (regex, put) in COMPILED.iter() {
        out = regex.replace_all(&out, *put).into_owned();
    }
    out
}

/// Applies the rules to a JSON document.
pub fn json(value: Value, paths: &[(String, &str)]) -> Value {
    match value {
        Value::String(s) => Value::String(text(&s, paths)),
        Value::Array(list) => Value::Array(list.into_iter().map(|v| json(v, paths)).collect()),
        Value::Object(map) => {
            let entry = |(key, value): (String, Value)| {
                let volatile = FIELDS.iter().any(|(_, fields)| fields.contains(&key.as_str()));
                let value = match value {
                    Value::Number(n) if volatile && n.as_f64() != Some(0.0) => "<number>".into(),
                    Value::String(s) if volatile && !s.is_empty() && s != "string" && s != "number" => {
                        "<text>".into()
                    }
                    other => json(other, paths),
                };
                (text(&key, paths), value)
            };
            Value::Object(map.into_iter().map(entry).collect())
        }
        other => other,
    }
}

/// Which fields there are, and of which type.
pub fn shape(value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Array(list) => {
            // The different shapes of its elements, however many.
            let mut shapes: Vec<Value> = list.iter().map(shape).collect();
            shapes.sort_by_key(Value::to_string);
            shapes.dedup();
            Value::Array(shapes)
        }
        Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (k.clone(), shape(v))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_the_moments_is_named() {
        let paths = [("/data/root".to_owned(), "<root>")];
        let said =
            "4f0e0d7a5a4b1c2d  Up 3 seconds  172.17.0.2  12.5MB  0.0.0.0:32768->80/tcp  /data/root/x \n";
        assert_eq!(
            text(said, &paths),
            "4f0e0d7a5a4b1c2d  Up <while>  <address>  <size>  0.0.0.0:<port>->80/tcp  <root>/x\n"
        );
        assert_eq!(text("0001-01-01T00:00:00Z 2026-01-01T00:00:00.5Z", &[]), "0001-01-01T00:00:00Z <time>");
    }

    #[test]
    fn a_number_that_is_there_differs_from_zero() {
        assert_eq!(super::json(json!({"Pid": 7}), &[]), json!({"Pid": "<number>"}));
        assert_eq!(super::json(json!({"Pid": 0}), &[]), json!({"Pid": 0}));
    }

    #[test]
    fn shapes_forget_values_only() {
        let value = json!({"A": [1, 2], "B": null, "C": [], "D": {"e": true}});
        assert_eq!(shape(&value), json!({"A": ["number"], "B": null, "C": [], "D": {"e": "bool"}}));
    }
}
