//! Linux and macOS.

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// Raw mode until dropped.
pub struct Raw(Option<Termios>);

impl Raw {
    /// Makes standard input raw, if it is a terminal.
    pub fn enter() -> Self {
        let stdin = std::io::stdin();
        if !isatty(&stdin) {
            return Self(None);
        }
        let Ok(before) = tcgetattr(&stdin) else { return Self(None) };
        let mut raw = before.clone();
        raw.make_raw();
        match tcsetattr(&stdin, OptionalActions::Now, &raw) {
            Ok(()) => Self(Some(before)),
            Err(_) => Self(None),
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Columns and rows.
pub fn size() -> (u16, u16) {
    tcgetwinsize(std::io::stdout()).map_or((80, 24), |size| (size.ws_col.max(1), size.ws_row.max(1)))
}

/// A line that sets a variable in a POSIX shell.
pub fn set_variable(name: &str, value: &str) -> String {
    format!("export {name}='{}'", value.replace('\'', r"'\''"))
}
