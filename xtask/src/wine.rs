//! The controller as Windows has it, built by Debian's mingw and run under wine: the tests of `host` (named pipes, access
//! lists, paths), `coracle` with a daemon of its own and a machine in WSL's double, and the installer.
//!
//! Wine is unpacked like every tool, and lies over `/usr` in a mount namespace of its own: it finds its parts by their
//! places. That wants root. What wine does otherwise than Windows (it lets a pipe's name be taken twice) is said where the
//! test is.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
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
    let mut wine = Wine::new()?;
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
    wine.expect(&["start"], 1, "WSL was not found")?;
    wine.expect(&["version"], 0, "daemon")?;
    wine.expect(&["autostart", "on"], 0, "")?;
    wine.expect(&["autostart", "status"], 0, "on")?;
    wine.expect(&["autostart", "off"], 0, "")?;
    wine.expect(&["autostart", "status"], 0, "off")?;
    wine.expect(&["stop"], 0, "")?;
    wine.expect(&["status"], 3, "stopped")?;
    eprintln!("coracle.exe and its daemon speak through their pipe");
    machine(&mut wine)?;
    eprintln!("coracle.exe has a machine in WSL's double");
    installer(&wine, &coracle)
}

/// A machine in WSL's double, whose service is a program of Linux.
fn machine(wine: &mut Wine) -> Result<()> {
    const EXAMPLE: [&str; 5] = ["build", "--package", "cli", "--example", "wsl_double"];
    crate::double()?;
    let root = target_dir().join("double/share/coracle/guest").join(crate::debian::host_arch()).join("wsl");
    wine.copy(&build(&EXAMPLE)?, "wsl.exe")?;
    let mut service = stage::cargo("wine");
    stage::run(service.args(EXAMPLE).arg("--locked"))?;
    let folder = wine.folder.join("distributions");
    fs::create_dir_all(&folder)?;
    let mut service = Command::new(target_dir().join("debug/examples/wsl_double"))
        .arg("serve")
        .arg(fs::canonicalize(&folder)?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("run WSL's double")?;
    let mut address = String::new();
    BufReader::new(service.stdout.take().context("its output")?).read_line(&mut address)?;
    let _service = Service(service);
    let windows = |path: &Path| -> Result<String> {
        Ok(format!("Z:{}", fs::canonicalize(path)?.display().to_string().replace('/', "\\")))
    };
    wine.env = vec![
        ("CORACLE_WSL", windows(&wine.folder.join("wsl.exe"))?),
        ("CORACLE_WSL_ROOT", windows(&root)?),
        ("CORACLE_WSL_DOUBLE", address.trim().to_owned()),
    ];
    wine.expect(&["start"], 0, "")?;
    wine.expect(&["status"], 0, "running")?;
    wine.expect(&["version"], 0, "guest")?;
    wine.expect(&["logs", "--guest"], 0, "coracle-guest")?;
    pipes_and_ports(wine)?;
    wine.expect(&["stop"], 0, "")?;
    wine.expect(&["start"], 0, "")?;
    wine.expect(&["delete", "--force"], 0, "")?;
    ensure!(fs::read_dir(&folder)?.next().is_none(), "a distribution is left behind");
    wine.env.clear();
    Ok(())
}

/// Docker's API through the user's pipe and by dockerd's own name for it; a published port, asked from outside.
fn pipes_and_ports(wine: &Wine) -> Result<()> {
    const EXAMPLE: [&str; 5] = ["build", "--package", "cli", "--example", "pipe_get"];
    const ALIAS: &str = r"\\.\pipe\docker_engine";
    wine.copy(&build(&EXAMPLE)?, "pipe_get.exe")?;
    let env = text(&wine.run("coracle.exe", &["env"])?);
    let pipe = env.split("npipe://").nth(1).and_then(|rest| rest.split(['"', '\'', '\r', '\n']).next());
    let pipe = pipe.context("`coracle env` names no pipe")?.replace('/', r"\");
    let ask = |words: &[&str]| -> Result<String> {
        let said = wine.run("pipe_get.exe", words)?;
        ensure!(said.status.success(), "pipe_get {words:?}: {}", text(&said));
        Ok(text(&said).trim().to_owned())
    };
    for pipe in [pipe.as_str(), ALIAS] {
        let said = ask(&[pipe, "GET", "/_ping"])?;
        ensure!(said == "OK", "{pipe} answers {said:?}");
    }
    ask(&[&pipe, "POST", "/listen/7000"])?;
    let wanted = serde_json::json!({ "generation": 1, "ports": [{ "key": "t", "proto": "tcp",
        "host_ip": "127.0.0.1", "host_port": 0, "target_ip": "127.0.0.1", "target_port": 7000 }] });
    let outcome: serde_json::Value =
        serde_json::from_str(&ask(&[&pipe, "POST", "/ports", &wanted.to_string()])?)?;
    let port = outcome["results"][0]["ok"]["host_port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let port = port.with_context(|| format!("no port was opened: {outcome}"))?;
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"through the port")?;
    stream.shutdown(Shutdown::Write)?;
    let mut back = String::new();
    stream.read_to_string(&mut back)?;
    ensure!(back == "through the port", "the port answers {back:?}");
    Ok(())
}

/// Ends with its standard input, and with it its distributions.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Installs, upgrades and removes silently, and looks at the files: a stub that doesn't run ends with 0 as well.
fn installer(wine: &Wine, coracle: &Path) -> Result<()> {
    let stage = wine.folder.join("stage");
    let guest = stage.join("share/coracle/guest/amd64");
    fs::create_dir_all(guest.join("wsl"))?;
    stage::install(coracle, &stage.join("bin/coracle.exe"))?;
    stage::run(Command::new(cross::mingw()?.join("strip")).arg(stage.join("bin/coracle.exe")))?;
    let app = crate::ui::desktop_for(TRIPLE)?;
    for name in crate::dist::windows::APP {
        stage::install(&app.join(name), &stage.join("bin").join(name))?;
    }
    let double = target_dir().join("double/share/coracle/guest/amd64");
    for name in ["manifest.json", "wsl/manifest.json", "wsl/root.tar.gz"] {
        fs::copy(double.join(name), guest.join(name))?;
    }
    // Debian's wine has a link to it that its loader doesn't follow; whatever opens windows wants it.
    let system = wine.folder.join("prefix/drive_c/windows/system32");
    fs::copy(wine.tree.file("/usr/x86_64-w64-mingw32/lib/zlib1.dll"), system.join("zlib1.dll"))?;
    // Windows that nobody sees can be made without a display.
    let driver = ["add", r"HKCU\Software\Wine\Drivers", "/v", "Graphics", "/d", "null", "/f"];
    let said = wine.run("reg.exe", &driver)?;
    ensure!(said.status.success(), "{}", text(&said));
    let setup = |version: &str| -> Result<()> {
        let out = wine.folder.join("dist");
        crate::dist::windows_packages(&stage, &out, &crate::dist::bare(version, "amd64", true)?)?;
        wine.copy(&out.join(format!("Coracle-Setup-{version}-x64.exe")), "setup.exe")?;
        let said = wine.run("setup.exe", &["/S"])?;
        ensure!(said.status.success(), "the installer: {}\n{}", said.status, text(&said));
        Ok(())
    };
    let installed = |path: &str| -> Result<PathBuf> {
        let users = wine.folder.join("prefix/drive_c/users");
        let entries =
            fs::read_dir(&users)?.flatten().map(|entry| entry.path().join("AppData/Local").join(path));
        entries.into_iter().find(|path| path.exists()).with_context(|| format!("{path} is nowhere"))
    };
    setup("1.2.3")?;
    let home = installed("Programs/Coracle")?;
    for name in [
        "bin/coracle.exe",
        "bin/coracle-desktop.exe",
        "bin/WebView2Loader.dll",
        "share/coracle/guest/amd64/wsl/root.tar.gz",
        "doc/LICENSE.txt",
        "doc/README.txt",
        "doc/INSTALL.txt",
        "doc/TROUBLESHOOTING.txt",
        "doc/SECURITY.txt",
        "doc/CHANGELOG.txt",
        "uninstall.exe",
    ] {
        ensure!(home.join(name).is_file(), "{name} was not installed");
    }
    let program = home.join("bin/coracle.exe").display().to_string();
    let said = wine.run(&program, &["version"])?;
    ensure!(said.status.success() && text(&said).contains("coracle "), "{}", text(&said));
    // Wine has no WebView2, which the window is shown by. That its program starts and ends is seen all the same.
    let desktop = home.join("bin/coracle-desktop.exe").display().to_string();
    let said = wine.run(&desktop, &["--quit"])?;
    ensure!(said.status.success(), "{desktop} --quit: {}\n{}", said.status, text(&said));
    const LINK: &str = r"HKCU\Software\Classes\coracle\shell\open\command";
    let link = || wine.run("reg.exe", &["query", LINK, "/ve"]).map(|said| text(&said));
    ensure!(link()?.contains(r"bin\coracle-desktop.exe"), "coracle:// leads nowhere: {}", link()?);
    // An upgrade stops the daemon that runs, and takes away what is no longer part of it.
    for old in ["bin/old.dll", "doc/OLD.md"] {
        fs::write(home.join(old), "")?;
    }
    let said = wine.run(&program, &["autostart", "on"])?;
    ensure!(said.status.success(), "{}", text(&said));
    setup("1.2.4")?;
    ensure!(home.join("bin/coracle.exe").is_file() && !home.join("bin/old.dll").exists(), "not upgraded");
    ensure!(
        home.join("doc/INSTALL.txt").is_file() && !home.join("doc/OLD.md").exists(),
        "documents not upgraded"
    );
    let registry =
        || wine.run("reg.exe", &["query", r"HKCU\Environment", "/v", "Path"]).map(|said| text(&said));
    let path = registry()?;
    ensure!(path.matches(r"Programs\Coracle\bin").count() == 1, "once in PATH: {path}");

    let data = home.parent().and_then(Path::parent).context("a folder")?.join("Coracle");
    fs::create_dir_all(data.join("data"))?;
    // What the web view would have kept.
    let web = data.with_file_name("dev.coracle.desktop");
    fs::create_dir_all(web.join("EBWebView"))?;
    wine.run(&home.join("uninstall.exe").display().to_string(), &["/S"])?;
    // It goes on in a copy of itself.
    for _ in 0..600 {
        if !home.exists() {
            break;
        }
        #[allow(clippy::disallowed_methods)] // another's process has no event for its end
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(!home.exists(), "the installed folder is still there");
    ensure!(data.join("data").is_dir(), "the user's data is gone");
    ensure!(!web.exists(), "what the web view kept is still there");
    ensure!(!link()?.contains("coracle-desktop"), "coracle:// is left behind: {}", link()?);
    let path = registry()?;
    ensure!(!path.contains("Coracle"), "still in PATH: {path}");
    ensure!(installed("../Roaming/Microsoft/Windows/Start Menu/Programs/Startup/Coracle.cmd").is_err());
    eprintln!("installed, upgraded and removed");
    what_is_others_stays(wine)
}

/// A PATH longer than NSIS' strings, and a folder that has other programs' files under the names of ours.
fn what_is_others_stays(wine: &Wine) -> Result<()> {
    const PLACE: &str = r"HKCU\Environment";
    let long: Vec<String> = (0..80).map(|n| format!(r"C:\Tools\folder-number-{n:03}")).collect();
    let long = long.join(";");
    let said =
        wine.run("reg.exe", &["add", PLACE, "/v", "Path", "/t", "REG_EXPAND_SZ", "/d", &long, "/f"])?;
    ensure!(said.status.success(), "{}", text(&said));
    let tools = wine.folder.join("prefix/drive_c/tools");
    let files = ["bin/theirs.exe", "share/theirs", "doc/theirs.txt"].map(|name| tools.join(name));
    for file in &files {
        fs::create_dir_all(file.parent().context("a folder")?)?;
        fs::write(file, "")?;
    }
    let own = tools.join("Coracle");
    let is_as_before = |when: &str| -> Result<()> {
        let path = text(&wine.run("reg.exe", &["query", PLACE, "/v", "Path"])?);
        ensure!(path.contains(&long), "{when} PATH is not as it was: {path}");
        ensure!(files.iter().all(|file| file.is_file()), "{when} files of others are gone");
        Ok(())
    };
    wine.run("setup.exe", &["/S", r"/D=C:\tools"])?;
    ensure!(own.join("bin/coracle.exe").is_file(), "not installed beside what is others'");
    is_as_before("installed,")?;
    wine.run("setup.exe", &["/S", r"/D=C:\tools\Coracle"])?;
    ensure!(!own.join("Coracle").exists(), "an upgrade took its own folder for others'");
    wine.run(&own.join("uninstall.exe").display().to_string(), &["/S"])?;
    for _ in 0..600 {
        if !own.exists() {
            break;
        }
        #[allow(clippy::disallowed_methods)] // another's process has no event for its end
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(!own.exists(), "the folder beside what is others' is still there");
    is_as_before("removed,")?;
    eprintln!("what is others' stays");
    Ok(())
}

/// Builds for Windows; gives the program.
pub fn build(words: &[&str]) -> Result<PathBuf> {
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
    /// More of the programs' environment.
    env: Vec<(&'static str, String)>,
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
        Ok(Self { tree, folder, env: Vec::new() })
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
        status.envs(self.env.iter().map(|(key, value)| (key, value)));
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
