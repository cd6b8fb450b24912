//! Where two answers differ.

use serde_json::Value;

use super::Answer;

/// One difference.
#[derive(Debug, PartialEq)]
pub struct Difference {
    /// `code`, `out`, `err`, or a path into the JSON.
    pub place: String,
    /// What dockerd says.
    pub theirs: String,
    /// What we say.
    pub ours: String,
}

/// All differences between what dockerd said and what we say.
pub fn compare(theirs: &Answer, ours: &Answer) -> Vec<Difference> {
    let mut out = Vec::new();
    let mut differ = |place: &str, theirs: String, ours: String| {
        if theirs != ours {
            out.push(Difference { place: place.to_owned(), theirs, ours });
        }
    };
    differ("code", theirs.code.to_string(), ours.code.to_string());
    differ("err", theirs.err.clone(), ours.err.clone());
    if let (Value::String(t), Value::String(o)) = (&theirs.out, &ours.out) {
        differ("out", t.clone(), o.clone());
    } else {
        values(String::new(), Some(&theirs.out), Some(&ours.out), &mut out);
    }
    out
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "absent".to_owned(), Value::to_string)
}

fn values(place: String, theirs: Option<&Value>, ours: Option<&Value>, out: &mut Vec<Difference>) {
    match (theirs, ours) {
        (t, o) if t == o => {}
        (Some(Value::Object(t)), Some(Value::Object(o))) => {
            let mut keys: Vec<&String> = t.keys().chain(o.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                values(place, t.get(key), o.get(key), out);
            }
        }
        (Some(Value::Array(t)), Some(Value::Array(o))) if t.len() == o.len() => {
            for (n, (t, o)) in t.iter().zip(o).enumerate() {
                values(format!("{place}[{n}]"), Some(t), Some(o), out);
            }
        }
        (t, o) => out.push(Difference { place, theirs: shown(t), ours: shown(o) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn places(theirs: Value, ours: Value) -> Vec<String> {
        let answer = |out| Answer { code: 0, out, err: String::new(), said: String::new() };
        compare(&answer(theirs), &answer(ours)).into_iter().map(|d| d.place).collect()
    }

    #[test]
    fn absent_null_and_empty_are_three_things() {
        assert_eq!(places(json!({"A": null, "B": []}), json!({"B": null})), ["A", "B"]);
        assert_eq!(places(json!([{"A": [1, 2]}]), json!([{"A": [1, 3]}])), ["[0].A[1]"]);
        assert_eq!(places(json!("a"), json!("b")), ["out"]);
        assert!(places(json!({"A": []}), json!({"A": []})).is_empty());
    }
}
