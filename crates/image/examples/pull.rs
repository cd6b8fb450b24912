//! Pulls images into a folder and says how long it took.
//!
//! `cargo run --release -p image --example pull -- ROOT IMAGE...`

use std::sync::Arc;
use std::time::Instant;

use image::{Config, Images, Progress, PullOptions, Reference};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let root = std::path::PathBuf::from(args.next().ok_or("usage: pull ROOT IMAGE...")?);
    std::fs::create_dir_all(&root)?;
    let images = Images::open(Config {
        db: root.join("engine.db"),
        root: root.clone(),
        registry_mirrors: std::env::var("MIRROR").ok().into_iter().collect(),
        ..Config::default()
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let verbose = std::env::var_os("VERBOSE").is_some();
    for name in args {
        let start = Instant::now();
        let progress = Arc::new(move |p: Progress| {
            if verbose {
                println!("{} {} {}/{}", p.id.unwrap_or_default(), p.status, p.current, p.total);
            }
        });
        let pulled =
            runtime.block_on(images.pull(&Reference::parse(&name)?, PullOptions::default(), progress))?;
        println!("{} {} in {} ms", pulled.reference, pulled.id, start.elapsed().as_millis());
        let image = runtime.block_on(images.get(&name))?;
        println!("{:?} size {}", image.repo_tags, image.size);
    }
    Ok(())
}
