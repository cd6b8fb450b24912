//! `cargo xtask test`: format, lints, licences' rules, unit and integration tests, then the end-to-end tests
//! against the staged programs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

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
    let own = std::env::current_exe()?;
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
        run_step(
            "lints",
            cargo().args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ]),
        )?;
        eprintln!("== other systems");
        check::lean()?;
    }
    let name: Vec<&str> = filter.into_iter().collect();
    let mut tests = cargo();
    if tier != Tier::Quick {
        // The controller's own tests boot a guest with a double in the engine's place.
        crate::double()?;
        tests.env("CORACLE_TEST_MACHINE", "1");
    }
    // Those of the machine wait for guests most of the time: meanwhile what the end-to-end tests need is built.
    run_step("building tests", cargo().args(["test", "--workspace", "--locked", "--quiet", "--no-run"]))?;
    let beside = (tier != Tier::Quick).then(|| Beside::start(&own)).transpose()?;
    // Programs of the crates' own integration tests (the shim) are built by cargo test itself.
    run_step(
        "unit and integration tests",
        tests.args(["test", "--workspace", "--exclude", "tests", "--locked", "--no-fail-fast"]).args(&name),
    )?;
    let Some(beside) = beside else {
        return ui::check();
    };
    beside.end()?;
    let mut interface = ui::test_environment()?;
    interface.push(("CORACLE_TEST_DESKTOP", stage::dir().join("bin/coracle-desktop")));
    // CI has the mutations of `image::fuzzing` instead, among the unit tests.
    if filter.is_none() && tier == Tier::Full {
        fuzz::run(None, fuzz::SECONDS)?;
    }
    let (bin, qemu) = crate::run::prepare()?;
    let mut end_to_end = cargo();
    if tier == Tier::Full && crate::debian::host_arch() != "arm64" {
        eprintln!("== a guest of arm64");
        crate::image_of("arm64")?;
        end_to_end.env("CORACLE_TEST_QEMU_ARM", crate::qemu_of("arm64")?);
        end_to_end.env("CORACLE_TEST_ARM_IMAGE", stage::dir().join("arm64/share/coracle/images/welcome.tar"));
        end_to_end.envs(crate::mac()?);
    }
    run_step(
        "end to end",
        end_to_end
            .args(["test", "--package", "tests", "--locked", "--no-fail-fast"])
            .args(&name)
            .envs(interface)
            .env("CORACLE_TEST_BIN", &bin)
            .env("CORACLE_TEST_QEMU", &qemu),
    )?;
    if tier != Tier::Full || filter.is_some() {
        return Ok(());
    }
    for (kind, root) in dist::installed(&stage::dir())? {
        let bin = root.path().join("usr/lib/coracle/bin");
        run_step(
            &format!("the app as the .{kind} brings it"),
            cargo()
                .args(["test", "--package", "tests", "--test", "app", "--locked", "the_window_opens"])
                .envs(ui::test_environment()?)
                .env("CORACLE_TEST_DESKTOP", bin.join("coracle-desktop"))
                .env("CORACLE_TEST_BIN", bin),
        )?;
    }
    // What is measured, apart from what is tested: it takes minutes and wants the computer for itself.
    let figures = ["--package", "tests", "--test", "app", "--locked", "--", "--ignored", "--nocapture"];
    run_step(
        "figures of the app",
        cargo()
            .arg("test")
            .args(figures)
            .args(["--test-threads=1", "script", "doing_nothing", "in_front_of_a_machine"])
            .envs(ui::test_environment()?)
            .env("CORACLE_TEST_QEMU", qemu)
            .env("CORACLE_TEST_DESKTOP", bin.join("coracle-desktop"))
            .env("CORACLE_TEST_BIN", bin),
    )
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
            .envs(ui::test_environment()?)
            .env("CORACLE_TEST_BIN", bin)
            .env("CORACLE_SHOTS", &folder),
    )?;
    Ok(folder)
}

pub use run_all as run;
