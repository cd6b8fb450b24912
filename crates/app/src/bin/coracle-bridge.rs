//! `coracle-bridge`: the user interface in a plain browser, for development and tests. Not part of what is shipped.

use std::{path::PathBuf, process::ExitCode};

use app::{App, bridge::Bridge};
use clap::Parser;

#[derive(Parser)]
#[command(about = "Coracle's user interface for a plain browser, on loopback")]
struct Args {
    /// The built user interface
    #[arg(long)]
    ui: PathBuf,
    /// Port on loopback; 0 takes one that is free
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Serve also from a release build
    #[arg(long)]
    allow_release: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if !cfg!(debug_assertions) && !args.allow_release {
        eprintln!("coracle-bridge: this is a release build: it serves only with --allow-release");
        return ExitCode::FAILURE;
    }
    let served = tokio::runtime::Builder::new_multi_thread().enable_all().build().and_then(|runtime| {
        runtime.block_on(async {
            let app = App::of_user().map_err(std::io::Error::other)?;
            let bridge = Bridge::bind(app, args.ui, args.port).await?;
            println!("{}", bridge.url());
            match bridge.serve().await {}
        })
    });
    let Err(error): Result<(), std::io::Error> = served else { return ExitCode::SUCCESS };
    eprintln!("coracle-bridge: {error}");
    ExitCode::FAILURE
}
