//! Signals by name and number.

use super::config::Config;

/// The signal a container is stopped with.
pub fn stop_signal(config: &Config) -> i32 {
    parse_signal(&config.stop_signal).unwrap_or(libc::SIGTERM)
}

/// Whether who sends this signal wants the container to end, and to stay ended: SIGKILL, its stop signal, and where it
/// names none, what programs end by. dockerd takes every signal for such then, so that a reload by SIGHUP switches the
/// restart policy off without a word (moby#41302).
pub fn means_stop(config: &Config, signal: i32) -> bool {
    match (signal, parse_signal(&config.stop_signal)) {
        (libc::SIGKILL, _) => true,
        (_, Some(stop)) => signal == stop,
        (_, None) => !matches!(
            signal,
            libc::SIGHUP | libc::SIGUSR1 | libc::SIGUSR2 | libc::SIGWINCH | libc::SIGCONT | libc::SIGQUIT
        ),
    }
}

/// A signal by number or by name, with or without `SIG`.
pub fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = match name {
        "ABRT" | "IOT" => libc::SIGABRT,
        "ALRM" => libc::SIGALRM,
        "BUS" => libc::SIGBUS,
        "CHLD" | "CLD" => libc::SIGCHLD,
        "CONT" => libc::SIGCONT,
        "FPE" => libc::SIGFPE,
        "HUP" => libc::SIGHUP,
        "ILL" => libc::SIGILL,
        "INT" => libc::SIGINT,
        "IO" | "POLL" => libc::SIGIO,
        "KILL" => libc::SIGKILL,
        "PIPE" => libc::SIGPIPE,
        "PROF" => libc::SIGPROF,
        "PWR" => libc::SIGPWR,
        "QUIT" => libc::SIGQUIT,
        "SEGV" => libc::SIGSEGV,
        "STKFLT" => libc::SIGSTKFLT,
        "STOP" => libc::SIGSTOP,
        "SYS" => libc::SIGSYS,
        "TERM" => libc::SIGTERM,
        "TRAP" => libc::SIGTRAP,
        "TSTP" => libc::SIGTSTP,
        "TTIN" => libc::SIGTTIN,
        "TTOU" => libc::SIGTTOU,
        "URG" => libc::SIGURG,
        "USR1" => libc::SIGUSR1,
        "USR2" => libc::SIGUSR2,
        "VTALRM" => libc::SIGVTALRM,
        "WINCH" => libc::SIGWINCH,
        "XCPU" => libc::SIGXCPU,
        "XFSZ" => libc::SIGXFSZ,
        "RTMIN" => 34,
        "RTMAX" => 64,
        other => {
            let offset = |rest: &str, base: i32, sign: i32| Some(base + sign * rest.parse::<i32>().ok()?);
            let number = match (other.strip_prefix("RTMIN+"), other.strip_prefix("RTMAX-")) {
                (Some(rest), _) => offset(rest, 34, 1),
                (_, Some(rest)) => offset(rest, 64, -1),
                _ => None,
            }?;
            return (34..=64).contains(&number).then_some(number);
        }
    };
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_signals_are_meant_to_end_it_and_some_to_tell_it_something() {
        let plain = Config::default();
        assert!(means_stop(&plain, libc::SIGTERM) && means_stop(&plain, libc::SIGKILL));
        assert!(!means_stop(&plain, libc::SIGHUP), "a reload");
        let own = Config { stop_signal: "USR1".into(), ..Config::default() };
        assert!(means_stop(&own, libc::SIGUSR1) && means_stop(&own, libc::SIGKILL));
        assert!(!means_stop(&own, libc::SIGTERM));
    }

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(parse_signal("SIGTERM"), Some(15));
        assert_eq!(parse_signal("int"), Some(2));
        assert_eq!(parse_signal("9"), Some(9));
        assert_eq!(parse_signal("RTMIN+3"), Some(37));
        for bad in ["0", "65", "SIGNOPE", "", "-1"] {
            assert_eq!(parse_signal(bad), None, "{bad}");
        }
    }
}
