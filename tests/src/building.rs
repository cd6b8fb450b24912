//! Building with the stock clients: a folder to build from, and what is seen of a build.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::{Engine, Outcome, eventually, store};

/// How long one build may take.
pub const LIMIT: &str = "120";

/// A folder to build from, and the engine that does.
pub struct Context<'a> {
    /// The engine.
    pub engine: &'a Engine,
    /// The folder.
    pub folder: PathBuf,
}

impl<'a> Context<'a> {
    /// A folder of this name with this Dockerfile.
    pub fn new(engine: &'a Engine, name: &str, dockerfile: &str) -> Self {
        let plugins = engine.path("docker-config/cli-plugins");
        std::fs::create_dir_all(&plugins).unwrap();
        for (tool, name) in
            [("CORACLE_TEST_BUILDX", "docker-buildx"), ("CORACLE_TEST_COMPOSE", "docker-compose")]
        {
            let link = plugins.join(name);
            if !link.exists() {
                std::os::unix::fs::symlink(crate::tool(tool), link).unwrap();
            }
        }
        let folder = engine.path(name);
        std::fs::create_dir_all(&folder).unwrap();
        let context = Self { engine, folder };
        context.write("Dockerfile", dockerfile);
        context
    }

    /// Writes a file of it.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A command of the stock CLI, ended after [`LIMIT`] seconds.
    pub fn command(&self, args: &[&str]) -> std::process::Command {
        let docker = self.engine.command(args);
        let mut command = self.engine.sandbox.command("timeout");
        command.arg(LIMIT).arg(docker_program()).args(args);
        command.stdin(std::process::Stdio::null());
        command.envs(docker.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command
    }

    /// Runs such a command.
    pub fn run(&self, args: &[&str]) -> Outcome {
        self.command(args).output().expect("docker").into()
    }

    /// `docker buildx build`, with progress as plain text (on stderr).
    pub fn build(&self, more: &[&str]) -> Outcome {
        let mut args = vec!["buildx", "build", "--progress=plain"];
        args.extend(more);
        args.push(self.folder.to_str().expect("a plain path"));
        self.run(&args)
    }
}

fn docker_program() -> PathBuf {
    crate::engine::Cli::V28.program()
}

/// What was told of a build that went well.
#[track_caller]
pub fn built(outcome: Outcome) -> String {
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.out, outcome.err);
    outcome.err
}

/// Steps that were found in the cache. The client says it once more of one whose layers it then hears of.
pub fn cached(progress: &str) -> usize {
    progress.lines().filter(|l| l.ends_with(" CACHED")).collect::<BTreeSet<_>>().len()
}

/// Nothing is left of what ran.
pub fn nothing_runs(engine: &Engine) {
    let left = |path: &str| {
        let found = std::fs::read_dir(engine.sandbox.seen(&engine.path(path))).into_iter().flatten();
        found.flatten().map(|e| e.file_name()).filter(|n| n.to_string_lossy().starts_with("build-")).count()
    };
    eventually("steps leave no process", || left("exec/containers") == 0);
    eventually("steps leave no files", || left("root/containers") == 0);
    eventually("the store is whole", || store::faults(&engine.root()).is_empty());
}
