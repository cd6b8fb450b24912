//! What a program said before it ended: its lines go on to the console, the last are kept.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    process::Child,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;

/// Lines that are kept.
const LINES: usize = 12;
/// Longest part of a line that is kept, in characters.
const LINE: usize = 400;
/// How long a program that ended is still listened to: its end may be known before its words are read, and who
/// inherited its output may hold that open for as long as it likes.
const HEARD_OUT: Duration = Duration::from_secs(2);

/// Listens to one program, in a thread for each of its outputs, which ends with it.
pub struct LastWords {
    lines: Arc<Mutex<VecDeque<String>>>,
    /// Closed when no thread listens any more.
    listening: mpsc::Receiver<()>,
}

impl LastWords {
    /// Listens to what a program says on the outputs that are piped.
    pub fn of(child: &mut Child) -> Self {
        let (listener, listening) = mpsc::channel(1);
        let words = Self { lines: Arc::default(), listening };
        if let Some(pipe) = child.stdout.take() {
            words.listen(pipe, listener.clone());
        }
        if let Some(pipe) = child.stderr.take() {
            words.listen(pipe, listener);
        }
        words
    }

    fn listen(&self, pipe: impl Read + Send + 'static, listener: mpsc::Sender<()>) {
        let lines = self.lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                eprintln!("{line}");
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == LINES {
                    lines.pop_front();
                }
                lines.push_back(line.chars().take(LINE).collect());
            }
            drop(listener);
        });
    }

    /// The last lines of a program that has ended, in one; empty if it said nothing.
    pub async fn said(mut self) -> String {
        let _ = tokio::time::timeout(HEARD_OUT, self.listening.recv()).await;
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).make_contiguous().join(" | ")
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn shell(script: &str) -> LastWords {
        let mut command = Command::new("sh");
        let mut child =
            command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let words = LastWords::of(&mut child);
        child.wait().unwrap();
        words
    }

    #[tokio::test]
    async fn what_was_said_last_is_known_though_the_end_is_known_first() {
        // There is much that nobody has read yet when the program ends.
        let words = shell("seq 1 500; seq 1 500 >&2; echo why >&2").said().await;
        assert!(words.contains(" | why") && words.matches(" | ").count() == LINES - 1, "{words}");
    }

    #[tokio::test]
    async fn who_keeps_the_output_open_keeps_nobody_waiting() {
        let words = shell("echo why >&2; sleep 30 & echo $!").said().await;
        let pid = words.split(" | ").find_map(|line| line.parse::<i32>().ok()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
        assert!(words.contains("why"), "{words}");
    }
}
