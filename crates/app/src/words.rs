//! The words that window and app speak, as the user interface sees them: its types are made from these
//! (`ui/src/lib/backend/generated`; a test holds them equal).

use std::collections::BTreeMap;

use host::api::{StateName, Status};
use serde::{Deserialize, Serialize};

/// What may be asked of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "control", rename_all = "snake_case")]
pub enum Control {
    /// How is it?
    Machine,
    /// Start it, and the daemon first where there is none. Answered when it runs or has failed.
    Start,
    /// Stop it in order; the daemon ends with it.
    Stop,
    /// All settings.
    Settings,
    /// Change one; acts from the next start on.
    Set {
        /// As `coracle settings` names it.
        key: String,
        /// In the words of `coracle settings set`.
        value: String,
    },
    /// The end of the daemon's log, or of the guest's console.
    Log {
        /// The guest's console.
        guest: bool,
        /// So many lines.
        lines: u32,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum ControlAnswer {
    /// How the machine is now.
    Machine {
        /// It.
        machine: Box<Machine>,
    },
    /// All settings, as they are now.
    Settings {
        /// Values in the words of `coracle settings`.
        settings: BTreeMap<String, String>,
    },
    /// Text.
    Text {
        /// It.
        text: String,
    },
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Failure {
    /// For programs.
    pub code: String,
    /// The engine's status, where it was the engine that refused.
    pub status: Option<u16>,
    /// For people.
    pub message: String,
}

/// How the machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Machine {
    /// What it is doing.
    pub state: State,
    /// `qemu` or `local`.
    pub driver: Option<String>,
    /// `kvm`, `tcg` or none.
    pub accel: Option<String>,
    /// Why this accelerator, where another was wished for.
    pub accel_note: Option<String>,
    /// Docker's socket.
    pub socket: String,
    /// The daemon's release and build.
    pub daemon: Option<String>,
    /// The guest's release and build.
    pub guest: Option<String>,
    /// This program's release and build.
    pub app: String,
    /// True when the daemon that runs is of another build than this program.
    pub other_build: bool,
    /// What is wrong, if anything is.
    pub error: Option<Failure>,
}

/// States of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Off.
    Stopped,
    /// Booting.
    Starting,
    /// The engine takes connections.
    Running,
    /// Going off in order.
    Stopping,
    /// It failed; the error says how.
    Failed,
}

impl Machine {
    /// From the daemon's own words.
    pub fn of(status: Status) -> Self {
        let named = |version: &str, build: &str| format!("{version} ({build})");
        Self {
            state: match status.state {
                StateName::Stopped => State::Stopped,
                StateName::Starting => State::Starting,
                StateName::Running => State::Running,
                StateName::Stopping => State::Stopping,
                StateName::Failed => State::Failed,
            },
            driver: status.driver,
            accel: status.accel,
            accel_note: status.accel_note,
            socket: status.socket,
            other_build: status.daemon.as_ref().is_some_and(|d| d.build != host::BUILD),
            daemon: status.daemon.map(|d| named(&d.version, &d.build)),
            guest: status.guest.map(|g| named(&g.version, &g.build)),
            app: named(host::RELEASE, host::BUILD),
            error: status.error.map(|e| Failure { code: e.code, status: None, message: e.message }),
        }
    }
}

/// What can be opened: it goes on until one side ends it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "open", rename_all = "snake_case")]
pub enum Open {
    /// The machine's state, now and at every change.
    Machine,
    /// An answer of the engine that comes line by line: events, stats, progress of a pull or push.
    Lines {
        /// HTTP's method.
        method: String,
        /// The engine's path, with its query.
        path: String,
    },
    /// The log of a container, kept and indexed here.
    Logs {
        /// Its id or name.
        container: String,
        /// Whether it has a terminal: its log then is one stream.
        tty: bool,
    },
    /// A connection that becomes a terminal: `POST /exec/{id}/start` or `/containers/{id}/attach`.
    Terminal {
        /// The engine's path, with its query.
        path: String,
        /// The request's body, JSON.
        body: Option<String>,
    },
}

/// What comes from an open stream. A terminal's bytes come beside these, as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum Message {
    /// Of [`Open::Machine`].
    Machine {
        /// How it is now.
        machine: Machine,
    },
    /// The engine took the request.
    Opened,
    /// Of [`Open::Lines`]: whole lines.
    Lines {
        /// As they came.
        lines: Vec<String>,
    },
    /// Of [`Open::Logs`]: how much there is by now.
    LogSize {
        /// Number of the first line that is still kept.
        #[cfg_attr(test, ts(type = "number"))]
        first: u64,
        /// Number after the last line.
        #[cfg_attr(test, ts(type = "number"))]
        end: u64,
        /// True when no more come (the container ended).
        ended: bool,
    },
    /// Lines that were asked for.
    LogLines {
        /// The question's.
        id: u32,
        /// The lines; fewer than asked for at the end.
        lines: Vec<LogLine>,
    },
    /// Lines that were searched for.
    LogFound {
        /// The question's.
        id: u32,
        /// How many lines match.
        #[cfg_attr(test, ts(type = "number"))]
        total: u64,
        /// Their numbers, the last ones where there are too many.
        #[cfg_attr(test, ts(type = "Array<number>"))]
        lines: Vec<u64>,
        /// Why nothing was searched: the expression is wrong.
        error: Option<String>,
    },
    /// It failed, and ends.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// It ended by itself.
    Ended,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct LogLine {
    /// Its number.
    #[cfg_attr(test, ts(type = "number"))]
    pub number: u64,
    /// When it was written (RFC 3339), as the engine says.
    pub time: String,
    /// Whether it was written to standard error.
    pub stderr: bool,
    /// Its text, without control sequences.
    pub text: String,
}

/// What may be said to an open stream. A terminal's input comes beside these, as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "input", rename_all = "snake_case")]
pub enum Input {
    /// Lines of the log, by their numbers.
    LogLines {
        /// Comes back with the answer.
        id: u32,
        /// First number.
        #[cfg_attr(test, ts(type = "number"))]
        from: u64,
        /// So many.
        count: u32,
    },
    /// Lines of the log that have a text.
    LogSearch {
        /// Comes back with the answer.
        id: u32,
        /// What is searched for.
        text: String,
        /// It is a regular expression.
        regex: bool,
        /// Upper and lower case differ.
        case: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use ts_rs::{Config, TS};

    const HEAD: &str = "// Made from crates/app/src/words.rs by its test; `CORACLE_WRITE_TYPES=1 cargo test -p app words` writes it.\n\n";

    fn typescript() -> String {
        let config = Config::default();
        let declare = |text: String| format!("export {text}\n");
        let mut all = HEAD.to_owned();
        for text in [
            Control::decl(&config),
            ControlAnswer::decl(&config),
            Failure::decl(&config),
            Machine::decl(&config),
            State::decl(&config),
            Open::decl(&config),
            Message::decl(&config),
            LogLine::decl(&config),
            Input::decl(&config),
        ] {
            all.push_str(&declare(text));
        }
        all
    }

    #[test]
    fn the_user_interface_has_these_words() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ui/src/lib/backend/words.ts");
        let now = typescript();
        if std::env::var_os("CORACLE_WRITE_TYPES").is_some() {
            std::fs::write(path, &now).unwrap();
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            there == now,
            "{path} is not what words.rs says: CORACLE_WRITE_TYPES=1 cargo test -p app words"
        );
    }
}
