//! Building for another processor or system: Debian's cross compilers, unpacked in folders of their own.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    debian::{Debian, Tree},
    target_dir,
};

/// The suite whose compiler it is: an old C library's, so that it runs on every machine that has a newer one.
const SUITE: &str = "bookworm";
/// The compiler, its binutils, and the C library (static as well) of arm64.
const PACKAGES: [&str; 3] =
    ["gcc-12-aarch64-linux-gnu", "binutils-aarch64-linux-gnu", "libc6-dev-arm64-cross"];

/// What cargo and the `cc` crate want to know to build for a target.
pub fn environment(triple: &str) -> Result<Vec<(String, String)>> {
    if triple == crate::stage::triple() {
        return Ok(Vec::new());
    }
    let lower = triple.replace('-', "_");
    let folder = match triple {
        "aarch64-unknown-linux-gnu" => programs()?,
        "x86_64-pc-windows-gnu" => {
            let folder = mingw()?;
            // rustc looks for dlltool and as by their names.
            let path = std::env::var_os("PATH").unwrap_or_default();
            let path = std::env::join_paths(std::env::split_paths(&path).chain([folder.join("bin")]))?;
            let linker = folder.join("gcc").display().to_string();
            return Ok(vec![
                (format!("CARGO_TARGET_{}_LINKER", lower.to_uppercase()), linker),
                ("PATH".into(), path.into_string().map_err(|_| anyhow::anyhow!("PATH is not UTF-8"))?),
            ]);
        }
        _ => bail!("there is no cross compiler for {triple} here"),
    };
    let program = |name: &str| folder.join(name).display().to_string();
    Ok(vec![
        (format!("CC_{lower}"), program("gcc")),
        (format!("AR_{lower}"), program("ar")),
        (format!("CARGO_TARGET_{}_LINKER", lower.to_uppercase()), program("gcc")),
    ])
}

/// Scripts that run the compiler out of its tree.
fn programs() -> Result<PathBuf> {
    let tree = Debian::open(SUITE)?.tree("cross-arm64", &PACKAGES)?;
    let folder = target_dir().join("tools/cross-arm64");
    fs::create_dir_all(folder.join("lib"))?;
    libraries(&tree, &folder.join("lib"))?;
    let root = tree.root().display();
    let (bin, lib) = (tree.file("/usr/bin"), folder.join("lib"));
    // The compiler finds its own parts beside itself; headers and libraries of arm64 by the root it is told.
    write_script(
        &folder.join("gcc"),
        &format!(
            "LD_LIBRARY_PATH='{}' exec '{}/aarch64-linux-gnu-gcc-12' --sysroot='{root}' -B'{}/aarch64-linux-gnu-' \
             -isystem '{root}/usr/aarch64-linux-gnu/include' -L'{root}/usr/aarch64-linux-gnu/lib' \
             -B'{root}/usr/aarch64-linux-gnu/lib/' \"$@\"",
            lib.display(),
            bin.display(),
            bin.display(),
        ),
    )?;
    write_script(
        &folder.join("ar"),
        &format!("LD_LIBRARY_PATH='{}' exec '{}/aarch64-linux-gnu-ar' \"$@\"", lib.display(), bin.display()),
    )?;
    Ok(folder)
}

/// A folder with mingw's `gcc`, and in `bin` what is called by name.
pub fn mingw() -> Result<PathBuf> {
    let tree = Debian::open(SUITE)?.tree("mingw", &["gcc-mingw-w64-x86-64-win32"])?;
    let folder = target_dir().join("tools/mingw");
    fs::create_dir_all(folder.join("bin"))?;
    fs::create_dir_all(folder.join("lib"))?;
    libraries(&tree, &folder.join("lib"))?;
    let (bin, lib) = (tree.file("/usr/bin"), folder.join("lib"));
    let script = |program: &str| {
        format!(
            "LD_LIBRARY_PATH='{}' PATH=\"$PATH:{1}\" exec '{}/{program}' \"$@\"",
            lib.display(),
            bin.display()
        )
    };
    write_script(&folder.join("gcc"), &script("x86_64-w64-mingw32-gcc-win32"))?;
    write_script(&folder.join("strip"), &script("x86_64-w64-mingw32-strip"))?;
    // The last two make the app's resources: its icon, its version.
    for name in ["dlltool", "as", "windres", "ar"].map(|name| format!("x86_64-w64-mingw32-{name}")) {
        write_script(&folder.join("bin").join(&name), &script(&name))?;
    }
    // windres reads its sources through it.
    write_script(&folder.join("bin/x86_64-w64-mingw32-gcc"), &script("x86_64-w64-mingw32-gcc-win32"))?;
    Ok(folder)
}

/// Links to the libraries that the compiler's own programs want and a machine may lack; not to the C library's, which
/// must fit the machine's loader.
fn libraries(tree: &Tree, folder: &Path) -> Result<()> {
    const WANTED: [&str; 8] =
        ["libisl", "libmpc", "libmpfr", "libgmp", "libbfd", "libopcodes", "libctf", "libzstd"];
    let from = tree.file("/usr/lib/x86_64-linux-gnu");
    for entry in fs::read_dir(&from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if WANTED.iter().any(|wanted| name.to_string_lossy().starts_with(wanted)) {
            let link = folder.join(&name);
            let _ = fs::remove_file(&link);
            symlink(entry.path(), link)?;
        }
    }
    Ok(())
}

fn write_script(path: &Path, line: &str) -> Result<()> {
    let part = path.with_extension(format!("part{}", std::process::id()));
    fs::write(&part, format!("#!/bin/sh\n{line}\n"))?;
    fs::set_permissions(&part, fs::Permissions::from_mode(0o755))?;
    fs::rename(&part, path).with_context(|| format!("write {}", path.display()))
}
