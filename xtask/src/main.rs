//! `cargo xtask`: the workspace's own commands.

mod apple;
mod bench;
mod check;
mod cpio;
mod cross;
mod debian;
mod dist;
mod fixtures;
mod fuzz;
mod image;
mod lanes;
mod licences;
mod modules;
mod run;
mod setup;
mod stage;
mod test;
mod tools;
mod ui;
mod welcome;
mod wine;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Coracle's own build commands")]
struct Args {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Set up what is missing, start daemon and guest, run the welcome container and print its address
    Run,
    /// Set up what is missing and pass all tests
    Test {
        /// Unit and fast integration tests only
        #[arg(long)]
        quick: bool,
        /// Every count that the specification names
        #[arg(long, conflicts_with = "quick")]
        full: bool,
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Check the controller and the command line for Windows and macOS
    Check {
        /// Everything that is built for another system or processor: the app's part, and the guest for arm64
        #[arg(long)]
        all_targets_os: bool,
        /// Only link Windows' controller and run it under wine, which `--all-targets-os` does as well
        #[arg(long, conflicts_with = "all_targets_os")]
        under_wine: bool,
        /// Only link macOS' command line, pack it and sign it, which `--all-targets-os` does as well
        #[arg(long, conflicts_with_all = ["all_targets_os", "under_wine"])]
        signed: bool,
    },
    /// Make packages, in target/dist
    Dist {
        /// For whom
        #[arg(long, value_parser = ["linux", "macos", "windows"])]
        os: String,
        /// The processor, for macOS: arm64 (by itself) or amd64
        #[arg(long, value_parser = ["amd64", "arm64"])]
        arch: Option<String>,
        /// Leave the desktop app out
        #[arg(long)]
        without_app: bool,
        /// Leave compose and buildx out (they are fetched from their makers)
        #[arg(long)]
        without_plugins: bool,
        /// As a release has them: with the app and every listed program of others, or not at all
        #[arg(long, conflicts_with_all = ["without_app", "without_plugins"])]
        whole: bool,
        /// Pack this stage as it is, instead of building one
        #[arg(long)]
        stage: Option<PathBuf>,
    },
    /// Record what a real dockerd answers, for the differential test to compare ours with
    Fixtures {
        /// dockerd's socket; a registry answers on port 5000 of its network namespace
        #[arg(long)]
        peer: PathBuf,
        /// Only groups whose name contains this
        group: Option<String>,
    },
    /// Give the readers of hostile input arbitrary bytes, guided by what they reach
    Fuzz {
        /// Only this target of fuzz/
        target: Option<String>,
        /// For how long each, seconds
        #[arg(long, default_value_t = fuzz::SECONDS)]
        seconds: u32,
    },
    /// Measure our engine beside a real dockerd
    Bench(bench::Options),
    /// Build the programs as they are shipped, in target/stage/bin
    Stage,
    /// Check the user interface; build the app, all programs and the guest's image: what end-to-end tests need
    Programs,
    /// Build the desktop app, in target/stage/bin/coracle-desktop
    Desktop,
    /// Take pictures of every screen in both themes, in target/screenshots
    Screenshots,
    /// Fetch the tools of the tests and print the environment that names them
    Tools,
    /// Make the guest's kernel, initrd and root out of Debian's packages and the staged programs
    Image {
        /// amd64 or arm64
        #[arg(long, default_value = debian::host_arch(), value_parser = ["amd64", "arm64"])]
        arch: String,
        /// Folder with coracle-guest, coracle-engine and coracle-shim [default: target/stage/bin; for another
        /// architecture than this machine's they are built into target/stage/<arch>/bin]
        #[arg(long)]
        programs: Option<PathBuf>,
        /// Make the root for WSL2 as well, in the image's folder `wsl`
        #[arg(long)]
        wsl: bool,
        /// Where the image goes [default: target/stage/share/coracle/guest/<arch>]
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Make a guest image whose engine is a double, and a QEMU: for the tests of the machine (`cargo test -p cli`)
    Double {
        /// amd64 or arm64: of another architecture than this machine's the image alone, for a computer that has it
        #[arg(long, default_value = debian::host_arch(), value_parser = ["amd64", "arm64"])]
        arch: String,
    },
    /// Provide a QEMU that is new enough, from Debian's packages, and print the path to run it by (for CORACLE_QEMU)
    Qemu {
        /// Of the guests: amd64 or arm64
        #[arg(long, default_value = "amd64", value_parser = ["amd64", "arm64"])]
        arch: String,
    },
    /// Unpack packages of Debian's archive in a folder of their own (nothing is installed) and print its path
    Debian {
        /// bookworm, bookworm-backports, trixie or forky
        suite: String,
        /// Names of packages; what they depend on comes along
        #[arg(required = true)]
        packages: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Task::Run => run::run()?,
        Task::Test { quick, full, filter } => test::run(test::Tier::of(quick, full), filter.as_deref())?,
        Task::Dist { os, arch, without_app, without_plugins, whole, stage } => {
            let others = match (whole, without_plugins) {
                (true, _) => dist::Others::All,
                (_, true) => dist::Others::NoPlugins,
                _ => dist::Others::Had,
            };
            let options = dist::Options { os, arch, stage, with_app: !without_app, others };
            println!("{}", dist::run(&options)?.display());
        }
        Task::Check { under_wine: true, .. } => wine::run()?,
        Task::Check { signed: true, .. } => dist::macos::check()?,
        Task::Check { all_targets_os, .. } => check::run(all_targets_os)?,
        Task::Tools => {
            for (variable, path) in tools::environment()? {
                println!("export {variable}='{}'", path.display());
            }
        }
        Task::Fixtures { peer, group } => fixtures::record(&peer, group.as_deref())?,
        Task::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds)?,
        Task::Bench(options) => bench::run(&options)?,
        Task::Stage => println!("{}", stage::build()?.display()),
        Task::Programs => test::programs()?,
        Task::Desktop => println!("{}", ui::desktop(false)?.display()),
        Task::Screenshots => println!("{}", test::screenshots()?.display()),
        Task::Image { arch, programs, wsl, out } => {
            println!("{}", image_in(&arch, programs, out, wsl)?.display());
        }
        Task::Double { arch } => println!("{}", double_of(&arch)?.display()),
        Task::Qemu { arch } => println!("{}", qemu_of(&arch)?.display()),
        Task::Debian { suite, packages } => {
            let names: Vec<&str> = packages.iter().map(String::as_str).collect();
            let tree = debian::Debian::open(&suite)?.tree(names[0], &names)?;
            println!("{}", tree.root().display());
        }
    }
    Ok(())
}

/// The guest's image of the staged programs, with the welcome image in it.
fn image_of(arch: &str) -> anyhow::Result<PathBuf> {
    image_in(arch, None, None, false)
}

fn image_in(
    arch: &str,
    programs: Option<PathBuf>,
    out: Option<PathBuf>,
    wsl: bool,
) -> anyhow::Result<PathBuf> {
    // Another architecture's programs are built here: nothing else of the stage is of it.
    let is_ours = arch == debian::host_arch();
    let stage = if is_ours { stage::dir() } else { stage::dir().join(arch) };
    let programs = match programs {
        Some(programs) => programs,
        None if is_ours => stage.join("bin"),
        None => stage::build_guest(arch)?,
    };
    let images = stage.join("share/coracle/images");
    welcome::build(arch, &images)?;
    image::build(&image::Options {
        programs,
        images,
        out: out.unwrap_or_else(|| stage::dir().join("share/coracle/guest").join(arch)),
        arch: arch.to_owned(),
        wsl,
    })
}

/// The image with the engine double, at `target/double/`, and what runs it here.
fn double() -> anyhow::Result<PathBuf> {
    double_of(debian::host_arch())
}

/// The same for an architecture. An image of another one than this machine's lies beside it, for a computer that has it: a
/// Mac makes none.
fn double_of(arch: &str) -> anyhow::Result<PathBuf> {
    let is_ours = arch == debian::host_arch();
    let triple = stage::guest_triple(arch)?;
    check::need(triple)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = std::process::Command::new(cargo)
        .args(["build", "--release", "--target", triple, "-p", "guest", "--bins", "--examples"])
        .current_dir(workspace())
        .envs(cross::environment(triple)?)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .status()?;
    anyhow::ensure!(built.success(), "the guest's programs could not be built");
    let cargo_target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(target_dir, PathBuf::from);
    let (release, folder) = (cargo_target.join(triple).join("release"), target_dir().join("double"));
    let programs = if is_ours { folder.clone() } else { folder.join(arch) };
    std::fs::create_dir_all(&programs)?;
    for (from, to) in [
        ("coracle-guest", "coracle-guest"),
        ("examples/engine_double", "coracle-engine"),
        ("examples/engine_double", "coracle-shim"),
    ] {
        std::fs::copy(release.join(from), programs.join(to))?;
    }
    if is_ours {
        qemu_of(arch)?;
        firmware()?;
    }
    image::build(&image::Options {
        arch: arch.into(),
        images: programs.join("none"),
        out: folder.join("share/coracle/guest").join(arch),
        programs,
        wsl: is_ours,
    })
}

/// Firmware for QEMU's guests, where krunkit's double boots by it: `target/tools/firmware.fd`.
fn firmware() -> anyhow::Result<PathBuf> {
    let tree = debian::Debian::open("trixie")?.tree("ovmf", &["ovmf"])?;
    let firmware = target_dir().join("tools/firmware.fd");
    std::fs::copy(tree.file("/usr/share/ovmf/OVMF.fd"), &firmware)?;
    Ok(firmware)
}

/// A script under `target/tools/` that runs Debian's QEMU with its own libraries and firmware.
fn qemu() -> anyhow::Result<PathBuf> {
    qemu_of("amd64")
}

/// The same for guests of an architecture; those of another than this machine's are translated.
fn qemu_of(arch: &str) -> anyhow::Result<PathBuf> {
    let (name, program, packages) = match arch {
        "arm64" => ("qemu-arm", "qemu-system-aarch64", &["qemu-system-arm"][..]),
        _ => ("qemu", "qemu-system-x86_64", &["qemu-system-x86", "seabios"][..]),
    };
    let tree = debian::Debian::open("bookworm-backports")?.tree(name, packages)?;
    let firmware = ["/usr/share/qemu", "/usr/share/seabios"];
    let extra: Vec<String> =
        firmware.iter().flat_map(|dir| ["-L".to_owned(), tree.file(dir).display().to_string()]).collect();
    let modules = tree.file("/usr/lib/x86_64-linux-gnu/qemu").display().to_string();
    let script = target_dir().join("tools").join(program);
    tree.wrapper(&format!("/usr/bin/{program}"), &extra, &[("QEMU_MODULE_DIR", modules)], &script)?;
    Ok(script)
}

/// What stands in the place of a Mac's own programs, for the end-to-end tests: vfkit's double, and a folder as Rosetta's
/// with QEMU's emulator in it.
fn mac() -> anyhow::Result<[(&'static str, PathBuf); 2]> {
    const EMULATOR: &str = "/usr/bin/qemu-x86_64";
    let mut cargo = stage::cargo("mac");
    stage::run(cargo.args(["build", "--package", "cli", "--example", "vfkit_double", "--locked"]))?;
    let debian = debian::Debian::open_arch("trixie", "arm64")?;
    let tree = debian.unpack_only("rosetta", &debian.fetch(&["qemu-user"])?, &[EMULATOR])?;
    let rosetta = target_dir().join("tools/rosetta");
    std::fs::create_dir_all(&rosetta)?;
    std::fs::copy(tree.file(EMULATOR), rosetta.join("rosetta"))?;
    let double = target_dir().join("debug/examples/vfkit_double");
    Ok([("CORACLE_TEST_VFKIT_DOUBLE", double), ("CORACLE_TEST_ROSETTA", rosetta)])
}

/// The workspace's root folder.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the workspace")
}

/// Where things are built and staged: the workspace's `target/`, whatever `CARGO_TARGET_DIR` says.
fn target_dir() -> PathBuf {
    workspace().join("target")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `cargo xtask ...` in a text, up to what ends a command there.
    fn commands(text: &str) -> Vec<Vec<&str>> {
        let ends = |c: char| "`\n#|&;)(".contains(c);
        let rests = text.split("cargo xtask ").skip(1);
        let lines = rests.map(|rest| rest.split(ends).next().unwrap_or_default());
        lines
            .map(|line| line.split_whitespace().map(|word| word.trim_matches([',', '.'])).collect())
            .collect()
    }

    /// What people and pipelines are told to run can be run.
    #[test]
    fn the_commands_that_documents_and_pipelines_name_are_there() {
        let mut seen = 0;
        for name in [
            "README.md",
            "ARCHITECTURE.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "SPECIFICATION.md",
            "docs/INSTALL.md",
            "docs/TROUBLESHOOTING.md",
            ".ci/run",
            ".github/workflows/ci.yml",
            ".github/workflows/release.yml",
        ] {
            let text = std::fs::read_to_string(workspace().join(name)).unwrap();
            // One of those that a pipeline puts there.
            let text = text.replace("${{ matrix.arch }}", "arm64");
            for words in commands(&text) {
                let wrong = Args::try_parse_from([&["xtask"], &words[..]].concat()).err();
                assert!(wrong.is_none(), "{name}: cargo xtask {}: {wrong:?}", words.join(" "));
                seen += 1;
            }
        }
        assert!(seen > 20, "{seen} commands were found");
    }

    /// Files of the repository that pipelines run.
    #[test]
    fn the_files_that_pipelines_run_are_there() {
        for name in ["ci", "release"] {
            let path = format!(".github/workflows/{name}.yml");
            let text = std::fs::read_to_string(workspace().join(path)).unwrap();
            let words = text.split_whitespace().map(|word| word.trim_start_matches("./"));
            for file in words.filter(|word| word.starts_with("installer/") || word.starts_with(".github/")) {
                assert!(workspace().join(file).exists(), "{name}: {file}");
            }
        }
    }
}
