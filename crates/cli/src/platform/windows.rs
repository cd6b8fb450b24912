//! Windows.
#![allow(unsafe_code)]

use windows_sys::Win32::{
    Foundation::{HANDLE, INVALID_HANDLE_VALUE},
    System::Console::{
        CONSOLE_MODE, CONSOLE_SCREEN_BUFFER_INFO, ENABLE_ECHO_INPUT, ENABLE_LINE_INPUT,
        ENABLE_PROCESSED_INPUT, ENABLE_VIRTUAL_TERMINAL_INPUT, ENABLE_VIRTUAL_TERMINAL_PROCESSING,
        GetConsoleMode, GetConsoleScreenBufferInfo, GetStdHandle, STD_HANDLE, STD_INPUT_HANDLE,
        STD_OUTPUT_HANDLE, SetConsoleMode,
    },
};

/// Raw mode until dropped.
pub struct Raw {
    before: Vec<(STD_HANDLE, CONSOLE_MODE)>,
}

impl Raw {
    /// Makes the console raw, if there is one: keys as a terminal sends them, and its sequences obeyed.
    pub fn enter() -> Self {
        let cooked = ENABLE_LINE_INPUT | ENABLE_ECHO_INPUT | ENABLE_PROCESSED_INPUT;
        let mut before = Vec::new();
        for (which, add, take) in [
            (STD_INPUT_HANDLE, ENABLE_VIRTUAL_TERMINAL_INPUT, cooked),
            (STD_OUTPUT_HANDLE, ENABLE_VIRTUAL_TERMINAL_PROCESSING, 0),
        ] {
            if let Some(mode) = mode(which) {
                before.push((which, mode));
                set_mode(which, (mode | add) & !take);
            }
        }
        Self { before }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        for (which, mode) in &self.before {
            set_mode(*which, *mode);
        }
    }
}

/// Columns and rows.
pub fn size() -> (u16, u16) {
    let mut info = CONSOLE_SCREEN_BUFFER_INFO::default();
    // SAFETY: the structure lives through the call; a handle that is no console only fails it.
    let known =
        handle(STD_OUTPUT_HANDLE).is_some_and(|h| unsafe { GetConsoleScreenBufferInfo(h, &mut info) } != 0);
    if !known {
        return (80, 24);
    }
    let span = |from: i16, to: i16| u16::try_from(to - from + 1).unwrap_or(1).max(1);
    let window = info.srWindow;
    (span(window.Left, window.Right), span(window.Top, window.Bottom))
}

/// A line that sets a variable in PowerShell.
pub fn set_variable(name: &str, value: &str) -> String {
    format!("$env:{name} = '{}'", value.replace('\'', "''"))
}

fn handle(which: STD_HANDLE) -> Option<HANDLE> {
    // SAFETY: no preconditions; the handle isn't ours to close.
    let handle = unsafe { GetStdHandle(which) };
    (!handle.is_null() && handle != INVALID_HANDLE_VALUE).then_some(handle)
}

/// A console's mode; `None` for what is no console.
fn mode(which: STD_HANDLE) -> Option<CONSOLE_MODE> {
    let mut mode = 0;
    // SAFETY: the number lives through the call.
    (unsafe { GetConsoleMode(handle(which)?, &mut mode) } != 0).then_some(mode)
}

fn set_mode(which: STD_HANDLE, mode: CONSOLE_MODE) {
    if let Some(handle) = handle(which) {
        // SAFETY: any mode may be asked for; one that isn't to be had fails.
        unsafe { SetConsoleMode(handle, mode) };
    }
}
