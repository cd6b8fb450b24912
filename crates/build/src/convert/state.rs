//! Stages on their way to vertices.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{Builder, Inputs};
use crate::Error;
use crate::checks::Checks;
use crate::config::{DEFAULT_PATH, History, Image};
use crate::dockerfile::expand::{Env, EnvList};
use crate::dockerfile::instructions::Arg;
use crate::dockerfile::stages::Stage;
use crate::dockerfile::{Instruction, expand::Lex};
use crate::graph::{Op, Range, Vertex, VertexRef};
use crate::options::Options;
use crate::outline::Outline;
use crate::patterns::Patterns;
use crate::platform::Platform;

/// What history says of who made an entry.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// The place of a stage among [`Context::stages`].
pub type StageRef = usize;

/// An instruction in its stage.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is said.
    pub instruction: Instruction,
    /// Stages it takes files from: one for `COPY --from`, one for each mount of `RUN`.
    pub sources: Vec<StageRef>,
    /// It comes from the base image's `ONBUILD`.
    pub on_build: bool,
}

/// A stage, or an image that files are taken from.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// As in the Dockerfile; `None` for an image that files are taken from.
    pub stage: Option<Stage>,
    /// What it begins with, variables replaced; then in full.
    pub base_name: String,
    /// In lower case; may be empty.
    pub name: String,
    /// As progress shows it.
    pub shown: String,
    /// Where it begins.
    pub lines: Range,
    /// The stage it begins with.
    pub base: Option<StageRef>,
    /// `--platform`, then what it is for.
    pub platform: Option<Platform>,
    /// The context that stands in its place.
    pub context: Option<String>,
    /// Its base is known.
    pub resolved: bool,
    /// What it does has been added to the graph.
    pub dispatched: bool,
    /// `ONBUILD` of what it begins with is among its steps.
    pub triggered: bool,
    /// Stages it needs, each with where.
    pub needs: Vec<(StageRef, Range)>,
    /// What it does.
    pub steps: Vec<Step>,
    /// Its configuration.
    pub image: Image,
    /// Its base image's.
    pub base_image: Option<Image>,
    /// Its files; `None` for none.
    pub root: Option<VertexRef>,
    /// Variables of its steps.
    pub env: EnvList,
    /// Folder of its steps.
    pub cwd: String,
    /// Arguments that were declared.
    pub build_args: Vec<Arg>,
    /// Which paths of its base others need: see [`Context::paths`].
    pub paths: usize,
    /// A folder of the client it begins with: its vertex takes what `paths` says.
    pub no_cache: bool,
    /// Steps so far.
    pub step: usize,
    /// Steps in all.
    pub total: usize,
    /// `WORKDIR` was said.
    pub workdir: bool,
    /// Where `ENTRYPOINT` was said.
    pub entrypoint: Option<Range>,
    /// Where `CMD` was said.
    pub cmd: Option<Range>,
    /// Where `HEALTHCHECK` was said.
    pub healthcheck: Option<Range>,
    /// Arguments, secrets and agents it uses.
    pub outline: Outline,
}

/// A folder of the client whose vertex is complete only when all is known.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Its vertex.
    pub vertex: VertexRef,
    /// Which paths are needed: see [`Context::paths`].
    pub paths: usize,
}

/// All that a conversion knows.
#[derive(Debug)]
pub struct Context<'a> {
    /// What was asked for.
    pub options: &'a Options,
    /// `\`, or what `# escape=` says.
    pub lex: Lex,
    /// What the build is for.
    pub target: Platform,
    /// It was not said: base images of the builder's other platforms are fine.
    pub implicit_target: bool,
    /// What the builder runs.
    pub platforms: Vec<Platform>,
    /// Arguments before the first stage, and those that are always there.
    pub global: EnvList,
    /// Of the global arguments.
    pub outline: Outline,
    /// What may be wrong.
    pub checks: Checks,
    /// Steps of the build.
    pub graph: Builder,
    /// All, in order; those that are not in the Dockerfile come after the stages.
    pub stages: Vec<State>,
    /// Stages in the order they are done in.
    pub order: Vec<StageRef>,
    /// Stages by name.
    pub by_name: BTreeMap<String, StageRef>,
    /// Sets of paths that are needed of something; 0 is the main context.
    pub paths: Vec<BTreeSet<String>>,
    /// Folders of the client.
    pub folders: Vec<Folder>,
    /// The main context, once it is needed or known.
    pub main: Option<VertexRef>,
    /// What `.dockerignore` leaves out.
    pub ignore: Patterns,
    /// Proxies given as build arguments.
    pub proxy: BTreeMap<String, String>,
}

/// Variables as `[(name, value)]`.
pub fn split_env(text: &str) -> (&str, &str) {
    text.split_once('=').unwrap_or((text, ""))
}

impl State {
    /// Adds to history.
    pub fn commit(
        &mut self,
        graph: &mut Builder,
        by: String,
        layer: bool,
        epoch: Option<i64>,
    ) -> Result<(), Error> {
        graph.spend(by.len())?;
        self.image.history.push(History {
            created: epoch.map(show_time),
            created_by: by,
            comment: COMMENT.into(),
            empty_layer: !layer,
            ..History::default()
        });
        Ok(())
    }

    /// Takes over environment, folder and user of the configuration.
    pub fn begin(&mut self) {
        let has_path = self.image.config.env.iter().any(|e| split_env(e).0 == "PATH");
        let windows = self.platform.as_ref().is_some_and(|p| p.os == "windows");
        if !has_path && !windows {
            self.image.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        self.take_config();
    }

    /// The same of a configuration that stays as it is.
    pub fn take_config(&mut self) {
        for env in &self.image.config.env {
            let (name, value) = split_env(env);
            self.env.set(name, value);
        }
        if !self.image.config.working_dir.is_empty() {
            let folder = super::names::absolute("/", &self.image.config.working_dir);
            self.image.config.working_dir.clone_from(&folder);
            self.cwd = folder;
        }
        if self.cwd.is_empty() {
            self.cwd = "/".into();
        }
    }

    /// Takes over what the stage it begins with came to.
    pub fn inherit(&mut self, base: &State) {
        self.platform.clone_from(&base.platform);
        self.image = base.image.clone();
        // Triggers are for those that begin with the stage, not for those that begin with them.
        self.image.config.on_build.clear();
        self.base_image.clone_from(&base.base_image);
        self.root = base.root;
        self.env = base.env.clone();
        self.cwd.clone_from(&base.cwd);
        self.paths = base.paths;
        self.workdir = base.workdir;
        self.build_args = base.build_args.clone();
    }

    /// `[stage 2/3] text`
    pub fn title(&mut self, text: &str, step: &Title<'_>) -> String {
        if self.total == 0 {
            return text.to_owned();
        }
        let mut out = String::from("[");
        if let Some(platform) = step.platform {
            let other = step.env.and_then(|env| cross(platform, env)).unwrap_or_default();
            out.push_str(&format!("{platform}{other} "));
        }
        if !self.shown.is_empty() {
            out.push_str(&format!("{} ", self.shown));
        }
        self.step += 1;
        let width = self.total.ilog10() as usize + 1;
        out.push_str(&format!("{:width$}/{}] ", self.step, self.total));
        if step.on_build {
            out.push_str("ONBUILD ");
        }
        out + text
    }
}

/// What a step's title says beside its text.
#[derive(Default)]
pub struct Title<'a> {
    /// Of several: which.
    pub platform: Option<&'a Platform>,
    /// Where it may say what is built for.
    pub env: Option<&'a dyn Env>,
    /// It comes from the base image.
    pub on_build: bool,
}

/// `->arm64`: what is built for, where it is not what runs.
fn cross(base: &Platform, env: &dyn Env) -> Option<String> {
    let target = match env.get("TARGETPLATFORM").and_then(|p| Platform::parse(p).ok()) {
        Some(platform) => platform,
        None => {
            let part = |name: &str| env.get(name).unwrap_or_default().to_owned();
            let (os, arch, variant) = (part("TARGETOS"), part("TARGETARCH"), part("TARGETVARIANT"));
            if os.is_empty() && arch.is_empty() && variant.is_empty() {
                return None;
            }
            let or = |value: String, other: &str| if value.is_empty() { other.to_owned() } else { value };
            Platform::normal(&or(os, &base.os), &or(arch, &base.architecture), &variant)
        }
    }
    .normalized();
    if target.os != base.os {
        return Some(format!("->{target}"));
    }
    if target.architecture == base.architecture {
        return None;
    }
    let variant = if target.variant.is_empty() { String::new() } else { format!("/{}", target.variant) };
    Some(format!("->{}{variant}", target.architecture))
}

/// Seconds since 1970 as RFC 3339.
pub fn show_time(seconds: i64) -> String {
    let time = chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

impl Context<'_> {
    /// The platform for titles: none where there is one only.
    pub fn title_platform<'p>(&self, platform: Option<&'p Platform>) -> Option<&'p Platform> {
        platform.filter(|_| self.options.multi_platform)
    }

    /// The stage of a name, as written.
    pub fn find(&self, name: &str) -> Option<StageRef> {
        self.by_name.get(&name.to_lowercase()).copied()
    }

    /// Names of stages, for those that are misspelled.
    pub fn names(&self) -> Vec<&str> {
        self.order.iter().map(|s| self.stages[*s].shown.as_str()).filter(|n| !n.is_empty()).collect()
    }

    /// A new set of paths.
    pub fn new_paths(&mut self) -> usize {
        self.paths.push(BTreeSet::new());
        self.paths.len() - 1
    }

    /// The main context's vertex.
    pub fn main_context(&mut self) -> Result<VertexRef, Error> {
        if let Some(vertex) = self.main {
            return Ok(vertex);
        }
        let local = crate::graph::Local {
            name: "context".into(),
            exclude: self.ignore.texts().map(|(t, e)| if e { format!("!{t}") } else { t.into() }).collect(),
            shared_key: "context".into(),
            differ: true,
            ..Default::default()
        };
        let vertex = self.graph.add(source("[internal] load build context", Op::Local(local)))?;
        self.folders.push(Folder { vertex, paths: 0 });
        self.main = Some(vertex);
        Ok(vertex)
    }

    /// Takes up what folders of the client are needed for.
    pub fn complete_folders(&mut self) {
        for folder in &self.folders {
            let paths = &self.paths[folder.paths];
            let all = paths.contains("/");
            if let Op::Local(local) = &mut self.graph.get(folder.vertex).op
                && !all
            {
                local.follow_paths = paths.iter().map(|p| p.trim_start_matches('/').to_owned()).collect();
                local.follow_paths.sort();
            }
        }
    }
}

/// A vertex without inputs.
pub fn source(name: &str, op: Op) -> Vertex {
    Vertex {
        name: name.to_owned(),
        op,
        inputs: Inputs::default().0,
        platform: None,
        ignore_cache: false,
        lines: Vec::new(),
        command: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_rfc_3339() {
        assert_eq!(show_time(0), "1970-01-01T00:00:00Z");
        assert_eq!(show_time(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(show_time(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(show_time(-1), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn titles_say_stage_and_step() {
        let mut state = State { shown: "build".into(), total: 12, ..State::default() };
        assert_eq!(state.title("RUN x", &Title::default()), "[build  1/12] RUN x");
        let amd = Platform::normal("linux", "amd64", "");
        let mut env = EnvList::default();
        env.set("TARGETARCH", "arm64");
        let title = Title { platform: Some(&amd), env: Some(&env), on_build: true };
        assert_eq!(state.title("RUN x", &title), "[linux/amd64->arm64 build  2/12] ONBUILD RUN x");
    }
}
