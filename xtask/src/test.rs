//! `cargo xtask test`: format, lints, licences' rules, then unit and integration tests, and beside them, as soon as the
//! programs are staged, the end-to-end tests against these (`lanes`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::lanes::{self, Job};
use crate::{check, dist, fuzz, licences, stage, target_dir, tools, ui, workspace};

/// How much is tested.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Unit and fast integration tests, within five minutes.
    Quick,
    /// What CI runs.
    Plain,
    /// Every count that SPECIFICATION.md names.
    Full,
}

impl Tier {
    /// The tier that the flags name.
    pub fn of(quick: bool, full: bool) -> Self {
        match (quick, full) {
            (true, _) => Self::Quick,
            (_, true) => Self::Full,
            _ => Self::Plain,
        }
    }
}

/// Runs a tier; fails with the first thing that does.
pub fn run_step(name: &str, command: &mut Command) -> Result<()> {
    eprintln!("== {name}");
    let started = Instant::now();
    stage::run(command)?;
    eprintln!("== {name}: {:.1} s", started.elapsed().as_secs_f32());
    Ok(())
}

/// Runs all of a tier.
pub fn run_all(tier: Tier, filter: Option<&str>) -> Result<()> {
    // Now: building may put another file in its place, and then this one has no name.
    let own_program = std::env::current_exe()?;
    crate::setup::programs()?;
    let tools = tools::environment()?;
    let cargo = || {
        let mut c = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        c.current_dir(workspace()).env("CARGO_TARGET_DIR", target_dir()).envs(tools.iter().cloned());
        match tier {
            Tier::Full => c.env("CORACLE_TEST_FULL", "1").env("PROPTEST_CASES", "20000"),
            // The same cases each time: what is judged is the change, not luck. `--full` looks for new ones.
            Tier::Quick | Tier::Plain => c.env("PROPTEST_RNG_SEED", "1"),
        };
        c
    };
    if filter.is_none() {
        eprintln!("== licences");
        licences::check()?;
        run_step("format", cargo().args(["fmt", "--all", "--check"]))?;
        eprintln!("== other systems");
        check::lean()?;
    }
    if tier != Tier::Quick {
        // The controller's own tests boot a guest with a double in the engine's place.
        crate::double()?;
    }
    // A whole run lints as it builds: by itself, `cargo clippy` would check all that the tests stand on once more.
    let building = || match filter {
        None => linting(cargo()),
        Some(_) => cargo(),
    };
    eprintln!("== lints and building tests");
    let started = Instant::now();
    let programs = lanes::build(&mut building())?;
    eprintln!("== lints and building tests: {:.1} s", started.elapsed().as_secs_f32());
    let mut environment: Vec<(OsString, OsString)> =
        cargo().get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect();
    if tier != Tier::Quick {
        environment.push(("CORACLE_TEST_MACHINE".into(), "1".into()));
    }
    let (end_to_end, own): (Vec<_>, Vec<_>) = programs.iter().partition(|program| program.package == "tests");
    let mut jobs: Vec<Job> = own.iter().map(|program| Job::of(program, filter, &environment)).collect();
    let mut examples = building();
    // Of all packages: of others than the tests were built of, cargo would build dependencies with other features.
    examples.args(["test", "--doc", "--workspace", "--locked", "--quiet"]).args(filter);
    jobs.push(Job::other("examples of the documentation", examples));
    if tier == Tier::Quick {
        lanes::run(jobs, || Ok(Vec::new()))?;
        return ui::check();
    }
    jobs.extend(end_to_end.iter().map(|program| Job::of(program, filter, &environment).afterwards()));
    // Those of the machine wait for guests most of the time: meanwhile what the end-to-end tests need is built.
    let beside = Beside::start(&own_program)?;
    let started = Instant::now();
    lanes::run(jobs, || {
        beside.end()?;
        end_to_end_environment(tier)
    })?;
    eprintln!("== tests: {:.1} s", started.elapsed().as_secs_f32());
    if tier != Tier::Full || filter.is_some() {
        return Ok(());
    }
    for (kind, root) in dist::installed(&stage::dir())? {
        let bin = root.path().join("usr/lib/coracle/bin");
        run_step(
            &format!("the app as the .{kind} brings it"),
            cargo()
                .args(["test", "--package", "tests", "--test", "app", "--locked", "the_window_opens"])
                .envs(ui::test_environment(built_bridge())?)
                .env("CORACLE_TEST_DESKTOP", bin.join("coracle-desktop"))
                .env("CORACLE_TEST_BIN", bin),
        )?;
    }
    // CI has the mutations of `image::fuzzing` instead, among the unit tests.
    fuzz::run(None, fuzz::SECONDS)?;
    let (bin, qemu) = crate::run::prepare()?;
    // What is measured, apart from what is tested: it takes minutes and wants the computer for itself.
    let figures = ["--package", "tests", "--test", "app", "--locked", "--", "--ignored", "--nocapture"];
    run_step(
        "figures of the app",
        cargo()
            .arg("test")
            .args(figures)
            .args(["--test-threads=1", "script", "doing_nothing", "in_front_of_a_machine"])
            .envs(ui::test_environment(built_bridge())?)
            .env("CORACLE_TEST_QEMU", qemu)
            .env("CORACLE_TEST_DESKTOP", bin.join("coracle-desktop"))
            .env("CORACLE_TEST_BIN", bin),
    )
}

/// A cargo that refuses what Clippy warns of in our crates, in the one build. It keeps what it builds of them apart from what
/// other commands do.
pub fn linting(mut cargo: Command) -> Command {
    let own = std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from);
    cargo.env("RUSTC_WORKSPACE_WRAPPER", own.with_file_name("clippy-driver"));
    cargo.env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
    cargo
}

/// The bridge, which is built with the tests.
fn built_bridge() -> PathBuf {
    target_dir().join("debug/coracle-bridge")
}

/// What the end-to-end tests find what they drive by.
fn end_to_end_environment(tier: Tier) -> Result<Vec<(OsString, OsString)>> {
    let mut environment = ui::test_environment(built_bridge())?;
    let (bin, qemu) = crate::run::prepare()?;
    environment.push(("CORACLE_TEST_DESKTOP", bin.join("coracle-desktop")));
    environment.extend([("CORACLE_TEST_BIN", bin), ("CORACLE_TEST_QEMU", qemu)]);
    if tier == Tier::Full && crate::debian::host_arch() != "arm64" {
        eprintln!("== a guest of arm64");
        crate::image_of("arm64")?;
        let image = stage::dir().join("arm64/share/coracle/images/welcome.tar");
        environment.push(("CORACLE_TEST_QEMU_ARM", crate::qemu_of("arm64")?));
        environment.push(("CORACLE_TEST_ARM_IMAGE", image));
        environment.extend(crate::mac()?);
    }
    Ok(environment.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
}

/// What the end-to-end tests need, being made by a process of its own that gives way to others.
struct Beside {
    child: Child,
    log: PathBuf,
    started: Instant,
}

impl Beside {
    fn start(own: &Path) -> Result<Self> {
        let log = target_dir().join("beside.log");
        std::fs::create_dir_all(target_dir())?;
        let out = std::fs::File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let mut command = Command::new("nice");
        command.args(["-n", "10"]).arg(own).arg("programs");
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        eprintln!("== user interface, shell and programs: built meanwhile ({})", log.display());
        Ok(Self { child: command.spawn().context("run nice")?, log, started: Instant::now() })
    }

    /// Waits for it; fails with its words.
    fn end(mut self) -> Result<()> {
        let status = self.child.wait()?;
        eprint!("{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        eprintln!("== user interface, shell and programs: {:.1} s", self.started.elapsed().as_secs_f32());
        ensure!(status.success(), "the user interface, the shell or the programs failed (above is why)");
        Ok(())
    }
}

impl Drop for Beside {
    /// Nothing is left running when a test before it failed.
    fn drop(&mut self) {
        let _ = self.child.wait();
    }
}

/// Checks the user interface, builds the shell around it, all programs and the guest's image.
pub fn programs() -> Result<()> {
    eprintln!("== user interface");
    ui::check()?;
    eprintln!("== shell");
    stage::run(ui::shell_cargo().args(["fmt", "--check"]))?;
    ui::desktop(true)?;
    crate::run::prepare().map(drop)
}

/// Takes pictures of every screen, of a real engine with something in it.
pub fn screenshots() -> Result<PathBuf> {
    crate::setup::programs()?;
    let (tools, folder) = (tools::environment()?, target_dir().join("screenshots"));
    let bin = stage::build()?;
    ui::build()?;
    std::fs::create_dir_all(&folder)?;
    stage::run(
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(workspace())
            .args(["test", "--quiet", "--package", "tests", "--test", "app", "--locked", "--"])
            .args(["--ignored", "screenshots"])
            .env("CARGO_TARGET_DIR", target_dir())
            .envs(tools)
            .envs(ui::test_environment(ui::bridge()?)?)
            .env("CORACLE_TEST_BIN", bin)
            .env("CORACLE_SHOTS", &folder),
    )?;
    Ok(folder)
}

pub use run_all as run;
