//! Loads, saves and mounts images of a folder, and says how long it took.
//!
//! `archive ROOT load FILE`, `archive ROOT save FILE NAME...`, `archive ROOT mount NAME KEY` (prints what to mount),
//! `archive ROOT discard KEY`, `archive ROOT remove NAME`, `archive ROOT list`

use std::sync::Arc;
use std::time::Instant;

use image::{Config, Images, LoadOptions, RemoveOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let root = std::path::PathBuf::from(args.first().ok_or("usage: archive ROOT COMMAND ...")?);
    std::fs::create_dir_all(&root)?;
    let images =
        Images::open(Config { db: root.join("engine.db"), root: root.clone(), ..Config::default() })?;
    let start = Instant::now();
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    match words.as_slice() {
        ["load", file] => {
            let input = tokio::fs::File::open(file).await?;
            for loaded in images.load(input, LoadOptions::default(), Arc::new(|_| {})).await? {
                println!("{} {:?}", loaded.id, loaded.reference.map(|r| r.familiar()));
            }
        }
        ["save", file, names @ ..] => {
            let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
            images.save(&names, None, tokio::fs::File::create(file).await?).await?;
        }
        ["mount", name, key] => {
            let rootfs = images.mount(&images.get(name).await?.id, key).await?;
            let lower: Vec<String> = rootfs.lower.iter().map(|p| p.display().to_string()).collect();
            println!(
                "lowerdir={},upperdir={},workdir={}",
                lower.join(":"),
                rootfs.upper.display(),
                rootfs.work.display()
            );
            return Ok(());
        }
        ["discard", key] => images.unmount_and_discard(key).await?,
        ["remove", name] => {
            let options = RemoveOptions { force: true, prune_children: true, ..RemoveOptions::default() };
            println!("{:?}", images.remove(name, options, &|_| Vec::new()).await?);
        }
        ["list"] => {
            for image in images.list().await? {
                println!("{} {:?} {}", image.id.short(), image.repo_tags, image.size);
            }
        }
        _ => return Err("unknown command".into()),
    }
    eprintln!("{} ms", start.elapsed().as_millis());
    Ok(())
}
