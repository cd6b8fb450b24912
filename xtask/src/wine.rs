//! The controller as Windows has it, built by Debian's mingw and run under wine: the tests of `host` (named pipes, access
//! lists, paths), and `coracle` with a daemon of its own.
//!
//! Wine is unpacked like every tool, and lies over `/usr` in a mount namespace of its own: it finds its parts by their
//! places. That wants root. What wine does otherwise than Windows (it lets a pipe's name be taken twice) is said where the
//! test is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    cross,
    debian::{Debian, Tree},
    setup, stage, target_dir, workspace,
};

const TRIPLE: &str = "x86_64-pc-windows-gnu";
/// Seconds that one program may take, and then to die.
const LIMIT: [&str; 3] = ["-k", "5", "180"];
/// What the standard library asks of Windows and wine 8 lacks.
const MISSING: &str = "#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T len) { return SystemFunction036(data, (ULONG)len); }
";

/// Builds and runs all of it.
pub fn run() -> Result<()> {
    ensure!(
        setup::is_root(),
        "running Windows' programs needs root: wine is mounted over /usr in a namespace"
    );
    crate::check::need(TRIPLE)?;
    let wine = Wine::new()?;
    let tests = build(&["test", "--no-run", "--package", "host", "--lib"])?;
    wine.copy(&tests, "host.exe")?;
    let said = wine.run("host.exe", &[])?;
    ensure!(said.status.success(), "host's tests under wine:\n{}", text(&said));
    eprintln!("{}", text(&said).lines().rfind(|l| l.starts_with("test result")).unwrap_or_default());

    let coracle = build(&["build", "--package", "cli", "--bin", "coracle"])?;
    wine.copy(&coracle, "coracle.exe")?;
    // A daemon of its own, found by its pipe, and gone again.
    wine.expect(&["status"], 3, "stopped")?;
    wine.expect(&["env"], 0, "npipe:////./pipe/coracle-")?;
    wine.expect(&["start"], 1, "the driver wsl is not part of this build")?;
    wine.expect(&["version"], 0, "daemon")?;
    wine.expect(&["autostart", "on"], 0, "")?;
    wine.expect(&["autostart", "status"], 0, "on")?;
    wine.expect(&["autostart", "off"], 0, "")?;
    wine.expect(&["autostart", "status"], 0, "off")?;
    wine.expect(&["stop"], 0, "")?;
    wine.expect(&["status"], 3, "stopped")?;
    eprintln!("coracle.exe and its daemon speak through their pipe");
    Ok(())
}

/// Builds for Windows; gives the program.
fn build(words: &[&str]) -> Result<PathBuf> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace())
        .args(words)
        .args(["--locked", "--target", TRIPLE, "--message-format", "json-render-diagnostics"])
        .env("CARGO_TARGET_DIR", target_dir())
        .envs(cross::environment(TRIPLE)?)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("run cargo")?;
    ensure!(output.status.success(), "cargo {} failed for Windows", words.join(" "));
    let program = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back();
    program.context("cargo built no program")
}

/// Wine with a folder of its own; its server ends with this value.
struct Wine {
    tree: Tree,
    folder: PathBuf,
}

impl Wine {
    fn new() -> Result<Self> {
        let tree = Debian::open("bookworm")?.tree("wine64", &["wine64"])?;
        let folder = target_dir().join("wine");
        let _ = fs::remove_dir_all(&folder);
        // Where Debian's package has a link to another package's.
        let extra = folder.join("usr/lib/x86_64-linux-gnu/wine/x86_64-windows");
        fs::create_dir_all(&extra)?;
        for entry in fs::read_dir(tree.file("/usr/x86_64-w64-mingw32/lib"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "dll") {
                fs::copy(&path, extra.join(path.file_name().context("a file")?))?;
            }
        }
        let source = folder.join("missing.c");
        fs::write(&source, MISSING)?;
        let mut gcc = Command::new(cross::mingw()?.join("gcc"));
        gcc.args(["-shared", "-o"]).arg(folder.join("bcryptprimitives.dll")).arg(&source).arg("-ladvapi32");
        stage::run(&mut gcc)?;
        Ok(Self { tree, folder })
    }

    fn copy(&self, program: &Path, name: &str) -> Result<()> {
        fs::copy(program, self.folder.join(name)).with_context(|| format!("copy {}", program.display()))?;
        Ok(())
    }

    /// Runs a program; what it says goes into files, for a daemon it leaves behind would hold a pipe open.
    fn run(&self, program: &str, args: &[&str]) -> Result<Output> {
        const SCRIPT: &str = "mount --make-rprivate / && mount -t overlay overlay -o \"lowerdir=$LOWER\" /usr && \
                              exec timeout \"$@\" >\"$SAID\" 2>&1 </dev/null";
        let said = self.folder.join("said");
        let lower = [self.folder.join("usr"), self.tree.file("/usr"), PathBuf::from("/usr")];
        let lower = lower.map(|path| fs::canonicalize(&path).unwrap_or(path).display().to_string());
        let mut status = Command::new("unshare");
        status.args(["-m", "sh", "-c", SCRIPT, "sh"]).args(LIMIT).arg("/usr/lib/wine/wine64").arg(program);
        status.args(args).current_dir(&self.folder).env("LOWER", lower.join(":")).env("SAID", &said);
        let prefix = self.folder.join("prefix");
        status.env("WINEPREFIX", &prefix).env("WINEDEBUG", "-all").env("HOME", &self.folder);
        status.env("WINEDLLOVERRIDES", "mscoree,mshtml=").env_remove("CORACLE_HOME");
        let status = status.status().context("unshare could not be run")?;
        Ok(Output { status, stdout: fs::read(&said).unwrap_or_default(), stderr: Vec::new() })
    }

    fn expect(&self, args: &[&str], code: i32, words: &str) -> Result<()> {
        let said = self.run("coracle.exe", args)?;
        if said.status.code() == Some(code) && text(&said).contains(words) {
            return Ok(());
        }
        bail!(
            "coracle {} under wine: {} instead of {code}, without {words:?}:\n{}",
            args.join(" "),
            said.status,
            text(&said)
        );
    }
}

impl Drop for Wine {
    fn drop(&mut self) {
        // Ends everything of this prefix, and of no other.
        let server = self.tree.file("/usr/lib/wine/wineserver64");
        let _ = Command::new(server).arg("-k").env("WINEPREFIX", self.folder.join("prefix")).status();
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
