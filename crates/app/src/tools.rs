//! The programs beside the engine that speak for themselves: compose and buildx, as they come with Coracle or with
//! docker. They get words, never a shell's line; what they are pointed at is this home's engine.

use std::{
    ffi::OsString,
    path::{Component, Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use crate::{
    App, AppError, platform,
    words::{ComposeVerb, ControlAnswer, Tool},
};

/// Names that compose takes by itself, in its order.
const COMPOSE_FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
/// Most entries of a folder that are looked at.
const MOST_LOOKED_AT: usize = 2000;

/// Compose or buildx.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `docker-compose`.
    Compose,
    /// `docker-buildx`.
    Buildx,
}

impl Program {
    fn name(self) -> String {
        let name = match self {
            Self::Compose => "docker-compose",
            Self::Buildx => "docker-buildx",
        };
        format!("{name}{}", platform::PROGRAM_SUFFIX)
    }

    fn variable(self) -> &'static str {
        match self {
            Self::Compose => "CORACLE_COMPOSE",
            Self::Buildx => "CORACLE_BUILDX",
        }
    }

    /// Where it is: named by the environment, beside this program, where docker keeps its plugins (its command line's
    /// own order), in the PATH.
    pub fn find(self) -> Option<PathBuf> {
        if let Some(path) = std::env::var_os(self.variable()).filter(|p| !p.is_empty()) {
            return Some(path.into());
        }
        let own = std::env::current_exe().ok().and_then(|p| p.parent().map(Path::to_owned));
        let beside = own.iter().flat_map(|bin| [bin.clone(), bin.join("../lib/coracle")]);
        let user = crate::registries::config_folder().map(|folder| folder.join("cli-plugins"));
        let named = crate::registries::Config::load().map_or(Vec::new(), |config| config.plugin_folders());
        beside
            .chain(named)
            .chain(user)
            .chain(platform::plugin_folders())
            .chain(std::env::split_paths(&host::programs::path()))
            .map(|folder| folder.join(self.name()))
            .find(|program| program.is_file())
    }
}

/// Which are there.
pub fn there() -> ControlAnswer {
    let shown = |program: Program| program.find().map(|p| p.display().to_string());
    ControlAnswer::Tools {
        compose: shown(Program::Compose),
        build: shown(Program::Buildx),
        store: crate::registries::Config::load().ok().and_then(|c| c.store()),
    }
}

/// What a folder has in it for compose and builds.
pub fn look(path: &str) -> Result<ControlAnswer, AppError> {
    let wrong = |e: std::io::Error| AppError::Request(format!("{path}: {e}"));
    if !Path::new(path).is_absolute() {
        return Err(AppError::Request("A folder’s whole path is needed".into()));
    }
    let folder = cleaned(&std::path::absolute(path).map_err(wrong)?);
    let mut compose = Vec::new();
    let mut dockerfiles = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(wrong)?.take(MOST_LOOKED_AT).flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !entry.path().is_file() {
            continue;
        }
        if COMPOSE_FILES.contains(&name.as_str()) {
            compose.push(name);
        } else if name == "Dockerfile"
            || name == "Containerfile"
            || name.starts_with("Dockerfile.")
            || name.ends_with(".Dockerfile")
        {
            dockerfiles.push(name);
        }
    }
    compose.sort_by_key(|name| COMPOSE_FILES.iter().position(|f| f == name));
    dockerfiles.sort_by_key(|name| (name != "Dockerfile", name.clone()));
    dockerfiles.retain(|name| !name.ends_with(".dockerignore"));
    Ok(ControlAnswer::Folder { path: folder.display().to_string(), compose, dockerfiles })
}

/// A path as Go's programs write it: without `.` and `..`, links as they are. Where links lead is another path, that the machine
/// may not share by that name (`/tmp` of macOS), and what Windows makes of it (`\\?\C:\...`) neither compose nor the engine take.
fn cleaned(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(clean.pop()),
            other => clean.push(other),
        }
    }
    clean
}

/// The program, ready to be run.
pub fn command(app: &App, tool: &Tool) -> Result<Command, AppError> {
    let (program, words, folder) = match tool {
        Tool::Compose { project, folder, files, verb, services } => {
            (Program::Compose, compose(project.as_deref(), folder.as_deref(), files, verb, services)?, folder)
        }
        other => (Program::Buildx, buildx(other)?, &None),
    };
    let path = program.find().ok_or_else(|| {
        AppError::Request(format!(
            "{} was not found: install it, or set {} to its path",
            program.name(),
            program.variable()
        ))
    })?;
    let mut command = platform::program(path);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    command
        .env("DOCKER_HOST", docker_host(app))
        // They run programs themselves: those that keep credentials.
        .env("PATH", host::programs::path())
        .env_remove("DOCKER_CONTEXT")
        .env_remove("BUILDX_BUILDER")
        .env("COMPOSE_ANSI", "never")
        .env("DOCKER_CLI_HINTS", "false")
        .env("NO_COLOR", "1");
    Ok(command)
}

/// As docker's programs name the engine's socket.
fn docker_host(app: &App) -> OsString {
    let mut host = OsString::from(platform::ADDRESS);
    host.push(app.home().docker_socket());
    host
}

fn compose(
    project: Option<&str>,
    folder: Option<&str>,
    files: &[String],
    verb: &ComposeVerb,
    services: &[String],
) -> Result<Vec<OsString>, AppError> {
    let mut words: Vec<OsString> = vec!["--ansi=never".into(), "--progress=json".into()];
    if let Some(project) = project {
        words.extend(["-p".into(), plain("project", project)?]);
    }
    if let Some(folder) = folder {
        words.extend(["--project-directory".into(), whole(folder)?]);
    }
    for file in files {
        words.extend(["-f".into(), whole(file)?]);
    }
    if project.is_none() && folder.is_none() {
        return Err(AppError::Request("a project or a folder is needed".into()));
    }
    match verb {
        ComposeVerb::Up { build } => {
            words.extend(["up".into(), "-d".into(), "--remove-orphans".into()]);
            if *build {
                words.push("--build".into());
            }
        }
        ComposeVerb::Down { volumes } => {
            words.extend(["down".into(), "--remove-orphans".into()]);
            if *volumes {
                words.push("--volumes".into());
            }
        }
        ComposeVerb::Start => words.push("start".into()),
        ComposeVerb::Stop => words.push("stop".into()),
        ComposeVerb::Restart => words.push("restart".into()),
        ComposeVerb::Pull => words.push("pull".into()),
        ComposeVerb::Build => words.push("build".into()),
        ComposeVerb::Config => words.push("config".into()),
        ComposeVerb::Scale { count } => {
            words.push("scale".into());
            for service in services {
                words.push(format!("{}={count}", plain("service", service)?.to_string_lossy()).into());
            }
            return Ok(words);
        }
    }
    for service in services {
        words.push(plain("service", service)?);
    }
    Ok(words)
}

fn buildx(tool: &Tool) -> Result<Vec<OsString>, AppError> {
    let words = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
    Ok(match tool {
        Tool::Compose { .. } => Vec::new(),
        Tool::Builds => words(&["history", "ls", "--no-trunc", "--format", "json"]),
        Tool::BuildRecord { id } => {
            [words(&["history", "inspect", "--format", "json"]), vec![reference(id)?]].concat()
        }
        Tool::BuildLog { id } => {
            [words(&["history", "logs", "--progress", "rawjson"]), vec![reference(id)?]].concat()
        }
        Tool::BuildForget { id } => [words(&["history", "rm"]), vec![reference(id)?]].concat(),
        Tool::Build { folder, file, tags, args, target, platform, no_cache, pull } => {
            let mut words = words(&["build", "--progress=rawjson", "--load"]);
            let folder = whole(folder)?;
            if !file.is_empty() {
                words.extend(["-f".into(), Path::new(&folder).join(file).into_os_string()]);
            }
            for tag in tags {
                words.push(format!("--tag={tag}").into());
            }
            for arg in args {
                words.push(format!("--build-arg={arg}").into());
            }
            if !target.is_empty() {
                words.push(format!("--target={target}").into());
            }
            if !platform.is_empty() {
                words.push(format!("--platform={platform}").into());
            }
            if *no_cache {
                words.push("--no-cache".into());
            }
            if *pull {
                words.push("--pull".into());
            }
            words.extend(["--".into(), folder]);
            words
        }
    })
}

/// A word that can't be taken for an option.
fn plain(what: &str, word: &str) -> Result<OsString, AppError> {
    let good = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if good && word.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        return Ok(word.into());
    }
    Err(AppError::Request(format!("{word:?} is no {what}’s name")))
}

fn reference(id: &str) -> Result<OsString, AppError> {
    plain("build", id.rsplit('/').next().unwrap_or(id))
}

fn whole(path: &str) -> Result<OsString, AppError> {
    if Path::new(path).is_absolute() {
        return Ok(path.into());
    }
    Err(AppError::Request(format!("{path:?} is no whole path")))
}

/// What a program said last, as the reason why it failed: its own line, or the message in it.
pub fn reason(lines: &[String]) -> String {
    #[derive(serde::Deserialize)]
    struct Said {
        #[serde(alias = "msg", alias = "text")]
        message: Option<String>,
    }
    let mut found: Vec<String> = Vec::new();
    for line in lines.iter().rev() {
        let text = if line.starts_with('{') {
            let said: Option<Said> = serde_json::from_str(line).ok();
            said.and_then(|s| s.message)
        } else {
            Some(line.trim().to_owned())
        };
        if let Some(text) = text.filter(|t| !t.is_empty()) {
            let last = text.starts_with("ERROR") || text.starts_with("error");
            found.push(text);
            if last || found.len() == 4 {
                break;
            }
        }
    }
    found.reverse();
    found.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(words: Vec<OsString>) -> String {
        words.iter().map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_compose_is_asked() {
        let words = compose(
            Some("shop"),
            Some("/srv/shop"),
            &["/srv/shop/c.yml".into()],
            &ComposeVerb::Up { build: true },
            &["web".into()],
        );
        assert_eq!(
            shown(words.unwrap()),
            "--ansi=never --progress=json -p shop --project-directory /srv/shop -f /srv/shop/c.yml up -d --remove-orphans --build web"
        );
        let scale = compose(Some("shop"), None, &[], &ComposeVerb::Scale { count: 3 }, &["web".into()]);
        assert!(shown(scale.unwrap()).ends_with("scale web=3"));
    }

    #[test]
    fn nothing_of_others_becomes_an_option() {
        let bad = |project: Option<&str>, folder: Option<&str>, services: &[&str]| {
            let services: Vec<String> = services.iter().map(|s| (*s).to_owned()).collect();
            compose(project, folder, &[], &ComposeVerb::Stop, &services).is_err()
        };
        assert!(bad(Some("--host=evil"), None, &[]));
        assert!(bad(None, Some("relative"), &[]));
        assert!(bad(Some("shop"), None, &["-v"]));
        assert!(bad(None, None, &[]));
        assert!(buildx(&Tool::BuildLog { id: "--builder=x".into() }).is_err());
        let build = Tool::Build {
            folder: "/tmp/--push".into(),
            file: "--x".into(),
            tags: vec!["-x".into()],
            args: vec![],
            target: String::new(),
            platform: String::new(),
            no_cache: false,
            pull: false,
        };
        assert_eq!(
            shown(buildx(&build).unwrap()),
            "build --progress=rawjson --load -f /tmp/--push/--x --tag=-x -- /tmp/--push"
        );
    }

    #[test]
    fn a_folder_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["compose.yaml", "Dockerfile.dev", "Dockerfile", "Dockerfile.dockerignore", "other"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let Ok(ControlAnswer::Folder { compose, dockerfiles, .. }) =
            look(&folder.path().display().to_string())
        else {
            panic!("no folder")
        };
        assert_eq!(
            (compose, dockerfiles),
            (vec!["compose.yaml".to_owned()], vec!["Dockerfile".into(), "Dockerfile.dev".into()])
        );
        assert!(look("here").is_err() && look("/no/such/folder").is_err());
    }

    #[test]
    fn a_folder_keeps_the_name_it_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let base = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(base.join("real")).unwrap();
        std::os::unix::fs::symlink(base.join("real"), base.join("link")).unwrap();
        let asked = base.join("real/../link/./");
        let Ok(ControlAnswer::Folder { path, .. }) = look(&asked.display().to_string()) else {
            panic!("no folder")
        };
        assert_eq!(Path::new(&path), base.join("link"));
    }

    #[test]
    fn the_reason_is_the_last_that_was_said() {
        let lines = |list: &[&str]| list.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            reason(&lines(&[r#"{"id":"a"}"#, r#"{"error":true,"message":"no such service: x"}"#])),
            "no such service: x"
        );
        assert_eq!(
            reason(&lines(&["noise", "ERROR: failed to solve: x", "more"])),
            "ERROR: failed to solve: x\nmore"
        );
        assert_eq!(reason(&[]), "");
    }
}
