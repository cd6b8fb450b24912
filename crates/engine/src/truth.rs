//! Yes and no in the words of options: those that Go's `strconv.ParseBool` takes, and no others.

/// Reads it; none for what is neither.
pub fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
