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
    /// Which programs are there that compose and build.
    Tools,
    /// What a folder of this computer has in it for compose and builds.
    Look {
        /// Its whole path.
        path: String,
    },
    /// Registries with credentials in docker's configuration.
    Registries,
    /// Asks the registry, through the engine, whether the credentials are good; then keeps them.
    SignIn {
        /// The registry's host, with its port; empty for Docker Hub.
        registry: String,
        /// User.
        user: String,
        /// Password or token.
        secret: String,
    },
    /// Forgets the credentials of a registry.
    SignOut {
        /// As [`Registry::host`] names it.
        registry: String,
    },
    /// The engine's own settings, `engine.json`, as text.
    EngineSettings,
    /// Keeps them; they act from the next start on.
    SetEngineSettings {
        /// A JSON object; empty for none.
        text: String,
    },
    /// Certificates that the engine trusts beside the usual ones.
    Certificates,
    /// Trusts another one, from the next start on.
    Trust {
        /// Its file, in PEM: a whole path.
        path: String,
    },
    /// No longer trusts one.
    Distrust {
        /// As [`ControlAnswer::Certificates`] names it.
        name: String,
    },
    /// Whether `docker` leads to this engine where nothing else is said.
    Context,
    /// Lets it lead here, or no longer.
    UseContext {
        /// Here.
        wanted: bool,
    },
    /// Writes logs, versions and settings as one archive, for a report. No secrets.
    Diagnostics {
        /// Where to: a whole path.
        path: String,
    },
    /// Other engines of this computer that answer, and what they have.
    Engines,
    /// Stops the machine and deletes every image, container, volume and setting.
    Reset,
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
    /// The programs.
    Tools {
        /// Compose's, where it is there.
        compose: Option<String>,
        /// Buildx's, where it is there.
        build: Option<String>,
        /// Where credentials are kept from now on: a program's name, or nothing for docker's own file.
        store: Option<String>,
    },
    /// A folder.
    Folder {
        /// Its whole path, without what leads astray.
        path: String,
        /// Files that compose would take, the first one first.
        compose: Vec<String>,
        /// Files that look like Dockerfiles, the first one first.
        dockerfiles: Vec<String>,
    },
    /// Registries.
    Registries {
        /// Each with credentials.
        registries: Vec<Registry>,
    },
    /// Certificates that are trusted beside the usual ones.
    Certificates {
        /// Their files' names.
        names: Vec<String>,
    },
    /// Docker's context.
    Context {
        /// Whether it is this home's; none: docker has no context that leads here.
        used: Option<bool>,
    },
    /// Other engines.
    Engines {
        /// Each that answers.
        engines: Vec<Engine>,
    },
}

/// Another engine of this computer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Engine {
    /// What it calls itself, after the name of docker's context that leads to it.
    pub name: String,
    /// Its socket.
    pub socket: String,
    /// Its images, under each of their names.
    pub images: Vec<EngineImage>,
    /// Its volumes of the driver `local`.
    pub volumes: Vec<String>,
}

/// An image of another engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct EngineImage {
    /// A tag, or its id where it has none.
    pub name: String,
    /// Bytes, as its engine counts them.
    #[cfg_attr(test, ts(type = "number"))]
    pub size: u64,
}

/// A registry with credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Registry {
    /// Its name in docker's configuration.
    pub host: String,
    /// The user, where it is told.
    pub user: Option<String>,
    /// The program that keeps the secret; none: docker's own file does.
    pub store: Option<String>,
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
    /// Stopped because nothing ran in it; the next use of Docker's socket starts it.
    pub asleep: bool,
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
            asleep: status.asleep,
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
        /// The registry whose credentials go along, where there are any: for pulls and pushes.
        registry: Option<String>,
    },
    /// The logs of containers, kept and indexed here; of several, one after the other in time.
    Logs {
        /// Of these.
        containers: Vec<LogOf>,
        /// What they wrote there alone; else to both.
        only: Option<Output>,
    },
    /// What all running containers use, once a second.
    Usage,
    /// The files of a container or volume that does not change meanwhile: read once, then shown folder by folder.
    Tree {
        /// The container's id.
        container: String,
        /// The folder that is the root of what is shown.
        path: String,
    },
    /// A file of this computer as a request's body: loads, imports, uploads. Back come lines, and how much has gone.
    Send {
        /// HTTP's method.
        method: String,
        /// The engine's path, with its query.
        path: String,
        /// The file: a whole path.
        file: String,
        /// Packed into an archive of this one file first, as uploads into containers want it.
        pack: bool,
    },
    /// An answer of the engine as a file of this computer: saves, exports, downloads.
    Receive {
        /// The engine's path, with its query.
        path: String,
        /// The file: a whole path. What was there stays until all has come.
        file: String,
    },
    /// One answer of the engine as the body of another request: copies of volumes.
    Copy {
        /// What is read, with its query.
        from: String,
        /// Where it is put (`PUT`), with its query.
        to: String,
    },
    /// Images and volumes of another engine, brought into this one: a line for each that has come.
    Import {
        /// The other's socket, of [`Control::Engines`].
        socket: String,
        /// Names of images.
        images: Vec<String>,
        /// Names of volumes.
        volumes: Vec<String>,
    },
    /// A program that comes with Coracle and speaks for itself: compose, builds.
    Tool {
        /// Which, and what it shall do.
        tool: Tool,
    },
    /// A connection that becomes a terminal: `POST /exec/{id}/start` or `/containers/{id}/attach`.
    Terminal {
        /// The engine's path, with its query.
        path: String,
        /// The request's body, JSON.
        body: Option<String>,
    },
}

/// Where a program writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Its output.
    Stdout,
    /// Its errors and notes.
    Stderr,
}

/// One of several logs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct LogOf {
    /// The container's id or name.
    pub id: String,
    /// Whether it has a terminal: its log then is one stream.
    pub tty: bool,
}

/// What the programs beside the engine are asked for. They get words, never a shell's line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "tool", rename_all = "snake_case")]
pub enum Tool {
    /// Compose.
    Compose {
        /// The project's name; without one, compose takes the folder's.
        project: Option<String>,
        /// The project's folder.
        folder: Option<String>,
        /// Its files, where they have no usual name.
        files: Vec<String>,
        /// What to do.
        verb: ComposeVerb,
        /// With these services only; none: with all.
        services: Vec<String>,
    },
    /// A build; what comes is BuildKit's progress, as JSON.
    Build {
        /// The folder that is sent.
        folder: String,
        /// The Dockerfile, from the folder on; empty for the usual one.
        file: String,
        /// Names of the image.
        tags: Vec<String>,
        /// Arguments, `NAME=value`.
        args: Vec<String>,
        /// The stage to build; empty for the last one.
        target: String,
        /// The platform; empty for the engine's own.
        platform: String,
        /// Leave the cache aside.
        no_cache: bool,
        /// Ask registries for newer images to build upon.
        pull: bool,
    },
    /// The builds that the engine remembers: a line of JSON for each.
    Builds,
    /// All about one of them.
    BuildRecord {
        /// Its reference.
        id: String,
    },
    /// The progress of one of them, as it was.
    BuildLog {
        /// Its reference.
        id: String,
    },
    /// Forget one of them.
    BuildForget {
        /// Its reference.
        id: String,
    },
}

/// What compose shall do with a project.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum ComposeVerb {
    /// Make what is missing or has changed, and start it.
    Up {
        /// Build images first.
        build: bool,
    },
    /// Stop and remove its containers and networks.
    Down {
        /// And its volumes.
        volumes: bool,
    },
    /// Start what is stopped.
    Start,
    /// Stop what runs.
    Stop,
    /// Restart.
    Restart,
    /// Pull its images.
    Pull,
    /// Build its images.
    Build,
    /// Tell what its files come to.
    Config,
    /// Run so many of each of the services.
    Scale {
        /// So many.
        count: u32,
    },
}

/// What a container uses at one time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Default)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Use {
    /// Percent of one processor.
    pub cpu: f64,
    /// Bytes, without what is only cached.
    #[cfg_attr(test, ts(type = "number"))]
    pub memory: u64,
    /// Bytes it may use.
    #[cfg_attr(test, ts(type = "number"))]
    pub limit: u64,
    /// Bytes received, in all.
    #[cfg_attr(test, ts(type = "number"))]
    pub received: u64,
    /// Bytes sent, in all.
    #[cfg_attr(test, ts(type = "number"))]
    pub sent: u64,
    /// Bytes read from disks, in all.
    #[cfg_attr(test, ts(type = "number"))]
    pub read: u64,
    /// Bytes written to disks, in all.
    #[cfg_attr(test, ts(type = "number"))]
    pub written: u64,
    /// Processes.
    #[cfg_attr(test, ts(type = "number"))]
    pub processes: u64,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes.
    #[cfg_attr(test, ts(type = "number"))]
    pub size: u64,
    /// As `ls` shows it: `drwxr-xr-x`.
    pub mode: String,
    /// Where a link leads.
    pub target: Option<String>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A folder.
    Folder,
    /// A file.
    File,
    /// A link.
    Link,
    /// Something else.
    Other,
}

/// What comes from an open stream. A terminal's bytes come beside these, as they are.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// Of [`Open::Usage`], by the containers' ids.
    Usage {
        /// Milliseconds since 1970.
        #[cfg_attr(test, ts(type = "number"))]
        at: u64,
        /// Each running container.
        containers: BTreeMap<String, Use>,
    },
    /// Of [`Open::Tree`]: a folder that was asked for.
    Folder {
        /// The question's.
        id: u32,
        /// What is in it; nothing where there is no such folder.
        entries: Option<Vec<Entry>>,
    },
    /// Bytes that have gone or come, of [`Open::Send`], [`Open::Receive`] and [`Open::Tree`].
    Moved {
        /// So many.
        #[cfg_attr(test, ts(type = "number"))]
        bytes: u64,
        /// Of so many, where it is known.
        #[cfg_attr(test, ts(type = "number | null"))]
        of: Option<u64>,
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
    /// Which of the containers that were asked for.
    pub source: u16,
}

/// What may be said to an open stream. A terminal's input comes beside these, as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "input", rename_all = "snake_case")]
pub enum Input {
    /// Of [`Open::Machine`]: its state once more, as it is now.
    Look,
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
    /// A folder of the tree.
    Folder {
        /// Comes back with the answer.
        id: u32,
        /// Its path, from the tree's root on.
        path: String,
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
            Registry::decl(&config),
            Engine::decl(&config),
            EngineImage::decl(&config),
            Failure::decl(&config),
            Machine::decl(&config),
            State::decl(&config),
            Open::decl(&config),
            Output::decl(&config),
            LogOf::decl(&config),
            Tool::decl(&config),
            ComposeVerb::decl(&config),
            Use::decl(&config),
            EntryKind::decl(&config),
            Entry::decl(&config),
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
