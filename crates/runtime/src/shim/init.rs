//! A minimal pid 1, for `docker run --init`: the same program, started under the name `docker-init`.
//!
//! It starts its arguments as a child, passes every signal on to it, collects orphans, and ends as the child ends. The
//! engine binds the shim's program read-only to [`PATH`] and puts `docker-init --` before the command.

use crate::sys;
use rustix::process::{Pid, WaitOptions, wait};
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// Where the program is bound in a container with an init.
pub const PATH: &str = "/sbin/docker-init";

/// Whether the program was started as an init.
pub(super) fn is_asked_for(name: &OsString) -> bool {
    name.to_string_lossy().rsplit('/').next() == Some("docker-init")
}

pub(super) fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut args = args.skip_while(|a| a == "--");
    let Some(program) = args.next() else {
        eprintln!("docker-init: no command given");
        return ExitCode::FAILURE;
    };
    // Everything but what a fault of our own raises, and what cannot be caught.
    let own = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGSEGV,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGBUS,
        libc::SIGABRT,
        libc::SIGTRAP,
        libc::SIGSYS,
    ];
    let passed: Vec<i32> = (1..=64).filter(|s| !own.contains(s) && !(32..34).contains(s)).collect();
    let Ok(signals) = sys::blocking_signal_fd(&passed) else {
        eprintln!("docker-init: cannot make a signalfd");
        return ExitCode::FAILURE;
    };
    let child = match sys::with_signals_reset(Command::new(&program).args(args).process_group(0)).spawn() {
        Ok(child) => child,
        Err(e) => {
            eprintln!("docker-init: exec {} failed: {e}", program.to_string_lossy());
            return ExitCode::from(if e.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 });
        }
    };
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return ExitCode::FAILURE };
    if rustix::termios::isatty(rustix::stdio::stdin()) {
        // The terminal belongs to the program, so that ^C reaches it. SIGTTOU is blocked.
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), pid);
    }
    loop {
        let mut info = [0u8; 128];
        if rustix::io::read(&signals, &mut info).is_ok_and(|n| n == info.len()) {
            let signal = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            if signal != libc::SIGCHLD {
                // One that has just ended is met below.
                let _ = sys::kill(pid.as_raw_nonzero().get(), signal);
                continue;
            }
        }
        while let Ok(Some((ended, status))) = wait(WaitOptions::NOHANG) {
            if ended == pid {
                let code = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => code as u8,
                    (None, Some(signal)) => 128u8.wrapping_add(signal as u8),
                    (None, None) => 255,
                };
                return ExitCode::from(code);
            }
        }
    }
}
