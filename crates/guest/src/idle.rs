//! Whether anything happens here: the host stops a machine that is not used.
//!
//! The guest knows no containers. What it knows is processes: where there is none but PID 1 and the engine, and the
//! engine takes no processor's time, nobody misses the machine.

use std::{fs, path::Path, time::Instant};

/// The engine's name among processes.
const ENGINE: &str = "coracle-engine";
/// Part of one processor's time below which an engine does nothing.
const NOTHING: f64 = 0.02;

/// What was seen the last time.
#[derive(Default)]
pub struct Idle {
    /// The engine's processor time, in clock ticks, and when that was.
    engine: Option<(u64, Instant)>,
}

impl Idle {
    /// Whether nothing has happened since the question before. To the first the answer is no.
    pub fn is_quiet(&mut self) -> bool {
        let (others, ticks) = look(Path::new("/proc"));
        let now = Instant::now();
        let before = self.engine.replace((ticks, now));
        let Some((earlier, since)) = before else { return false };
        let seconds = (now - since).as_secs_f64();
        // USER_HZ is 100 on every architecture of ours. An engine that was started anew has less than before.
        let used = ticks.abs_diff(earlier) as f64 / 100.0;
        others == 0 && used <= seconds * NOTHING
    }
}

/// Processes besides PID 1 and the engine, and the engine's processor time.
fn look(proc: &Path) -> (usize, u64) {
    let (mut others, mut ticks) = (0, 0);
    for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A kernel's thread has no command line, nor has what is only waited for.
        if pid == 1 || fs::read(entry.path().join("cmdline")).unwrap_or_default().is_empty() {
            continue;
        }
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        match times(&stat) {
            Some((ENGINE, used)) => ticks += used,
            Some(_) => others += 1,
            None => {} // it ended meanwhile
        }
    }
    (others, ticks)
}

/// Name and processor time of a process, of `/proc/PID/stat`.
fn times(stat: &str) -> Option<(&str, u64)> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    // After the name: state is field 3, utime 14, stime 15.
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((name, user + system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_times_of_processes() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 1 2 3";
        assert_eq!(times(stat), Some(("a) b (c)", 200)));
        assert_eq!(times("7 (x"), None);
        assert_eq!(times(""), None);
    }

    #[test]
    fn a_process_besides_the_engine_is_not_quiet() {
        let folder = tempfile::tempdir().unwrap();
        let process = |pid: u32, name: &str, cmdline: &str| {
            let folder = folder.path().join(pid.to_string());
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cmdline"), cmdline).unwrap();
            fs::write(folder.join("stat"), format!("{pid} ({name}) S 1 7 7 0 -1 1 1 2 3 4 3 4 0 0 20"))
                .unwrap();
        };
        process(1, "coracle-guest", "/init");
        process(2, "kthreadd", "");
        process(50, ENGINE, "/usr/bin/coracle-engine\0serve");
        assert_eq!(look(folder.path()), (0, 7));
        process(60, "coracle-shim", "/usr/bin/coracle-shim");
        assert_eq!(look(folder.path()), (1, 7));
    }
}
