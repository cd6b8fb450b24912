//! `cargo xtask`: the workspace's own commands.

mod debian;

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
        Task::Debian { suite, packages } => {
            let names: Vec<&str> = packages.iter().map(String::as_str).collect();
            let tree = debian::Debian::open(&suite)?.tree(names[0], &names)?;
            println!("{}", tree.root().display());
        }
    }
    Ok(())
}

/// The workspace's root folder.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the workspace")
}

/// Where things are built and staged: the workspace's `target/`, whatever `CARGO_TARGET_DIR` says.
fn target_dir() -> PathBuf {
    workspace().join("target")
}
