//! What buildx is told of a build (`--progress=rawjson`), folded into what it came to: the order in which things happen side by
//! side is chance, what happens is not.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde_json::{Value, json};

/// How far such a step was is chance.
const BESIDE: &str = "beside a step that failed";

/// A step as it is told, little by little.
#[derive(Default)]
struct Vertex {
    name: String,
    cached: bool,
    completed: bool,
    error: String,
    parts: Vec<String>,
    said: Vec<u8>,
}

/// Steps with how they ended, their parts and what they said, by name; then what build checks found. `None`: this is no such
/// report.
pub fn fold(report: &str) -> Option<Value> {
    let mut steps: BTreeMap<String, Vertex> = BTreeMap::new();
    let mut warnings = Vec::new();
    let mut rest = Vec::new();
    let decoded = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default()
    };
    for line in report.lines() {
        let Ok(status @ Value::Object(_)) = serde_json::from_str::<Value>(line) else {
            rest.push(line);
            continue;
        };
        let list = |name: &str| status[name].as_array().cloned().unwrap_or_default();
        let of = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
        for told in list("vertexes") {
            let step = steps.entry(of(&told, "digest")).or_default();
            step.name = of(&told, "name");
            step.cached |= told["cached"] == true;
            step.completed |= told["completed"].is_string();
            if told["error"].is_string() {
                step.error = of(&told, "error");
            }
        }
        for told in list("statuses") {
            let step = steps.entry(of(&told, "vertex")).or_default();
            let part = of(&told, "id");
            if !step.parts.contains(&part) {
                step.parts.push(part);
            }
        }
        for told in list("logs") {
            steps.entry(of(&told, "vertex")).or_default().said.extend(decoded(&told["data"]));
        }
        warnings
            .extend(list("warnings").iter().map(|w| json!(String::from_utf8_lossy(&decoded(&w["short"])))));
    }
    if steps.is_empty() && rest.is_empty() {
        return None;
    }
    let failed = steps.values().any(|step| step.has_failed());
    let mut told: Vec<Value> = steps.into_values().map(|step| step.shown(failed)).collect();
    told.sort_by_key(|step| (step["name"].to_string(), step.to_string()));
    warnings.sort_by_key(Value::to_string);
    Some(json!({ "steps": told, "warnings": warnings, "rest": rest.join("\n") }))
}

impl Vertex {
    /// By itself, and not because another step has.
    fn has_failed(&self) -> bool {
        !self.error.is_empty() && !self.error.ends_with("context canceled")
    }

    /// `failed`: some step of the build has.
    fn shown(self, failed: bool) -> Value {
        let ended = match (self.error.as_str(), self.cached, self.completed) {
            (error, ..) if self.has_failed() => error,
            _ if failed => BESIDE,
            ("", true, _) => "CACHED",
            ("", false, true) => "DONE",
            ("", false, false) => "not begun",
            (error, ..) => error,
        };
        let parts = if ended == BESIDE { &[][..] } else { &self.parts };
        json!({
            "name": self.name, "ended": ended, "parts": parts,
            "said": String::from_utf8_lossy(&self.said),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_what_its_steps_came_to() {
        let report = r#"{"vertexes":[{"digest":"b","name":"two"},{"digest":"a","name":"one","started":"t"}]}
{"vertexes":[{"digest":"a","name":"one","completed":"t"}],"statuses":[{"id":"part","vertex":"a"},{"id":"part","vertex":"a"}]}
{"vertexes":[{"digest":"a","name":"one","completed":"t","cached":true}],"logs":[{"vertex":"b","data":"aGkK"}]}
ERROR: no"#;
        let one = json!({ "name": "one", "ended": "CACHED", "parts": ["part"], "said": "" });
        let two = json!({ "name": "two", "ended": "not begun", "parts": [], "said": "hi\n" });
        let all = json!({ "steps": [one, two], "warnings": [], "rest": "ERROR: no" });
        assert_eq!(fold(report), Some(all));
        assert_eq!(fold(""), None);
        let failed = r#"{"vertexes":[{"digest":"a","name":"one","error":"no"},{"digest":"b","name":"two","error":"x: context canceled"}]}"#;
        let all = fold(failed).unwrap();
        assert_eq!((&all["steps"][0]["ended"], &all["steps"][1]["ended"]), (&json!("no"), &json!(BESIDE)));
    }
}
