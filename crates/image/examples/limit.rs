//! The least time that unpacking an image's layers can take: for `cargo xtask bench` to hold a pull against.
//!
//! `limit TO BLOB...` unpacks each blob from memory into a folder of its own below `TO`, one after another, and prints
//! the milliseconds of each. Every file, folder and link is made, with its contents and mode. Nothing else is done:
//! no digest, no owner, no safety against hostile paths, no sync. So this must only ever see layers that are trusted.
//! Layers unpacked side by side cannot be ready before `max(largest, sum / processors)` of these times.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let to = args.next().ok_or("usage: limit TO BLOB...")?;
    for (n, path) in args.enumerate() {
        let blob = fs::read(&path)?;
        let folder = to.join(n.to_string());
        fs::create_dir_all(&folder)?;
        let started = Instant::now();
        let files = unpack(blob, &folder)?;
        println!("{:.3} {files}", started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

/// How many entries were made.
fn unpack(blob: Vec<u8>, folder: &Path) -> Result<u64, Failure> {
    let mut archive = tar::Archive::new(image::decompress(Cursor::new(blob))?);
    let mut made = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = folder.join(entry.path()?.strip_prefix("/").unwrap_or(&entry.path()?));
        let mode = entry.header().mode()? & 0o7777;
        let link = || entry.link_name().ok().flatten().ok_or("a link without a target");
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                fs::create_dir_all(&path)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o700))?;
            }
            tar::EntryType::Symlink => symlink(link()?, &path)?,
            tar::EntryType::Link => fs::hard_link(folder.join(link()?), &path)?,
            tar::EntryType::Regular => {
                let mut file =
                    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&path)?;
                std::io::copy(&mut entry, &mut file)?;
            }
            // Devices and the like are few, and need privileges.
            _ => continue,
        }
        made += 1;
    }
    Ok(made)
}
