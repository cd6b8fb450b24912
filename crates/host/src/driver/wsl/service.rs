//! `wsl.exe`, the client of Windows' WSL service: its command line, and what it says.
//!
//! Words and their meaning are those of its sources, which are public (https://github.com/microsoft/WSL); the double's table
//! (`crates/cli/examples/wsl_double/options.rs`) names the place of each. What it says is UTF-16 or UTF-8, in the user's
//! language; only the codes in it (`Wsl/Service/WSL_E_DISTRO_NOT_FOUND`) are the same for everybody. It ends with -1
//! where it failed itself, and else as the program it ran.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use tokio::time::timeout;

use crate::{HostError, platform};

/// Time in which questions are answered; the first one may have to start the service's machine.
const ANSWER: Duration = Duration::from_secs(90);
/// Time that an import or an upgrade may take.
const UNPACKED: Duration = Duration::from_secs(900);
/// What is kept of what it says, in characters.
const SAID: usize = 400;
/// Parts of codes that say that Windows' own part is off or not there, as `wsl.exe` or its older stub gives them.
const IS_OFF: [&str; 10] = [
    "HCS_E_HYPERV_NOT_INSTALLED",
    "HCS_E_SERVICE_NOT_AVAILABLE",
    "WSL_E_VIRTUAL_MACHINE_PLATFORM_REQUIRED",
    "WSL_E_WSL_OPTIONAL_COMPONENT_REQUIRED",
    "ERROR_NOT_SUPPORTED",
    "0x80370102",
    "0x80370114",
    "0x8007019e",
    // Its own parts are not registered: it is half installed.
    "REGDB_E_CLASSNOTREG",
    // The stub of a Windows without WSL has no code in what it says, but the page that tells how it is had.
    "aka.ms/wslinstall",
];
/// Options that only its own list of them names: what it says to a word that it doesn't know. Windows' own part of WSL, before
/// it came as a package, knows less of them.
const USAGE: [&str; 3] = ["--distribution", "--exec", "--import"];

/// The program.
#[derive(Debug, Clone)]
pub struct Service {
    program: PathBuf,
}

impl Service {
    /// By its path.
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Its path.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Names of the user's distributions, or of those that run.
    pub async fn list(&self, running: bool) -> Result<Vec<String>, HostError> {
        let mut words = vec!["--list", "--quiet"];
        words.extend(running.then_some("--running"));
        let output = self.call("list the distributions", &words, Stdio::null(), ANSWER).await?;
        Ok(decode(&output.stdout)
            .lines()
            .map(|line| line.trim().to_owned())
            .filter(|l| !l.is_empty())
            .collect())
    }

    /// Makes a distribution of a root's archive, its disk in `folder`.
    pub async fn import(&self, name: &str, folder: &Path, archive: &Path) -> Result<(), HostError> {
        let (folder, archive) = (folder.display().to_string(), archive.display().to_string());
        let words = ["--import", name, &folder, &archive, "--version", "2"];
        self.call("import the distribution", &words, Stdio::null(), UNPACKED).await.map(drop)
    }

    /// Ends everything in a distribution at once.
    pub async fn terminate(&self, name: &str) -> Result<(), HostError> {
        self.call("terminate the distribution", &["--terminate", name], Stdio::null(), ANSWER).await.map(drop)
    }

    /// Takes a distribution and its disk away.
    pub async fn unregister(&self, name: &str) -> Result<(), HostError> {
        self.call("unregister the distribution", &["--unregister", name], Stdio::null(), ANSWER)
            .await
            .map(drop)
    }

    /// Runs a program in a distribution to its end; what it said.
    pub async fn run(&self, name: &str, words: &[&str]) -> Result<String, HostError> {
        let words = [&in_distribution(name)[..], words].concat();
        let output = self.call("run a program in the distribution", &words, Stdio::null(), ANSWER).await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same with input.
    pub async fn feed(&self, name: &str, words: &[&str], input: File) -> Result<(), HostError> {
        let words = [&in_distribution(name)[..], words].concat();
        self.call("unpack the root in the distribution", &words, input.into(), UNPACKED).await.map(drop)
    }

    /// A program in a distribution, ready to run.
    pub fn in_distribution(&self, name: &str, words: &[&str]) -> Command {
        let mut command = self.command();
        command.args(in_distribution(name)).args(words);
        command
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // Newer ones write UTF-8 when told so; older ones don't know it.
        command.env("WSL_UTF8", "1");
        platform::windowless(&mut command);
        command
    }

    async fn call(
        &self,
        what: &'static str,
        words: &[&str],
        input: Stdio,
        limit: Duration,
    ) -> Result<Output, HostError> {
        let mut command = self.command();
        command.args(words).stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        tracing::debug!("running {command:?}");
        let mut command = tokio::process::Command::from(command);
        let output = match timeout(limit, command.kill_on_drop(true).output()).await {
            Ok(output) => output.map_err(HostError::io("running", &self.program))?,
            Err(_) => {
                return Err(HostError::Wsl { what, said: format!("it did not answer within {limit:?}") });
            }
        };
        if output.status.success() {
            return Ok(output);
        }
        // It speaks of its own failures on either stream; a program in the distribution on its standard error.
        let said = format!("{} {}", decode(&output.stdout).trim(), decode(&output.stderr).trim());
        Err(failure(what, &said, &output.status.to_string()))
    }
}

/// What it means that it could not do something.
fn failure(what: &'static str, said: &str, status: &str) -> HostError {
    let is_usage = USAGE.iter().all(|word| said.contains(word));
    let said: String = said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SAID).collect();
    if IS_OFF.iter().any(|code| said.contains(code)) {
        HostError::WslOff(said)
    } else if is_usage {
        HostError::WslOld(said)
    } else {
        HostError::Wsl { what, said: format!("{said} ({status})") }
    }
}

fn in_distribution(name: &str) -> [&str; 7] {
    ["--distribution", name, "--user", "root", "--cd", "/", "--exec"]
}

/// What it says: UTF-16LE, with or without a mark, or UTF-8.
fn decode(bytes: &[u8]) -> String {
    let marked = bytes.strip_prefix(&[0xFF, 0xFE]);
    // Whatever the language, its lines' ends and spaces have a null as their second half.
    let is_wide = marked.is_some() || bytes.iter().skip(1).step_by(2).any(|byte| *byte == 0);
    if !is_wide {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let units: Vec<u16> = marked
        .unwrap_or(bytes)
        .chunks(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
        .collect();
    String::from_utf16_lossy(&units)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as Windows 10's own `wsl.exe` and Windows 11's stub have them.
    #[test]
    fn what_can_be_mended_is_told_from_other_failures() {
        let code = |said: &str| failure("do it", said, "exit code: 1").code().to_owned();
        let usage = "Invalid command line option: --cd Copyright (c) Microsoft Corporation. All rights reserved. \
            Usage: wsl.exe [Argument] [Options...] [CommandLine] --exec, -e <CommandLine> --distribution, -d <Distro> \
            --user, -u <UserName> --import <Distro> <InstallLocation> <FileName> [Options]";
        assert_eq!(code(usage), "wsl_old");
        let stub = "Das Windows-Subsystem für Linux ist nicht installiert. Sie können es mit 'wsl.exe --install' installieren. \
            Weitere Informationen finden Sie unter https://aka.ms/wslinstall";
        assert_eq!(code(stub), "wsl_off");
        assert_eq!(
            code("Class not registered Error code: Wsl/CallMsi/Install/REGDB_E_CLASSNOTREG"),
            "wsl_off"
        );
        assert_eq!(code("Error code: Wsl/Service/WSL_E_DISTRO_NOT_FOUND"), "wsl");
    }

    #[test]
    fn what_it_says_is_read_in_either_form() {
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let text = "coracle\r\nÜbung 日本\r\n";
        assert_eq!(decode(&wide(text)), text);
        assert_eq!(decode(&[&[0xFF, 0xFE][..], &wide(text)].concat()), text);
        assert_eq!(decode(text.as_bytes()), text);
        assert_eq!(decode(b""), "");
        assert_eq!(decode(b"x"), "x");
    }
}
