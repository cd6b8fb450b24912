//! `coracle`: the command line. It starts the daemon when one is needed and asks it; see `coracle --help`.
//!
//! Exit codes: 0 done, 1 failed (one line on stderr: what, why, what to do), 2 usage, 3 not running.

mod args;
mod commands;
mod platform;

use std::process::ExitCode;

use clap::Parser;

/// Exit code: not running.
const NOT_RUNNING: u8 = 3;

fn main() -> ExitCode {
    let args = args::Args::parse();
    match commands::run(args.command) {
        Ok(code) => code,
        Err(error) => {
            // One line: errors carry what others said, which may have more.
            eprintln!("coracle: {}", error.to_string().replace('\n', " | "));
            ExitCode::from(if error.code() == "not_running" { NOT_RUNNING } else { 1 })
        }
    }
}
