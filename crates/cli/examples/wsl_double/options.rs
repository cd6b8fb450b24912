//! `wsl.exe`'s command line, as much of it as this double takes; anything else is refused, as `wsl.exe` refuses what it
//! doesn't know. Each option names where its sources (https://github.com/microsoft/WSL) have it: file, commit, function.

/// An option and where it stands in the sources.
pub struct Known(pub &'static str, pub &'static str);

const CLIENT: &str = "src/windows/common/WslClient.cpp@01373ad43276";

/// All of them. Values are words of their own; `--exec` takes all that follows.
pub const OPTIONS: &[(Known, &str)] = &[
    (Known("--list", CLIENT), "ListDistributions"),
    (Known("--quiet", CLIENT), "ListDistributions"),
    (Known("--running", CLIENT), "ListDistributions"),
    (Known("--import", CLIENT), "ImportDistribution"),
    (Known("--version", CLIENT), "ImportDistribution"),
    (Known("--terminate", CLIENT), "TerminateDistribution"),
    (Known("--unregister", CLIENT), "UnregisterDistribution"),
    (Known("--distribution", CLIENT), "WslMain"),
    (Known("--user", CLIENT), "WslMain"),
    (Known("--cd", CLIENT), "ChangeDirectory"),
    (Known("--exec", CLIENT), "WslMain"),
];

/// Prints all of it: option, file, commit and function.
pub fn print() {
    for (Known(name, place), function) in OPTIONS {
        println!("{name} {place} {function}");
    }
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    List { running: bool },
    Import { name: String, folder: String, archive: String },
    Terminate(String),
    Unregister(String),
    Exec { name: String, words: Vec<String> },
}

/// Reads a command line.
pub fn parse(args: &[String]) -> Result<Asked, String> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let owned = |text: &str| text.to_owned();
    match words[..] {
        ["--list", ref rest @ ..] => {
            // Its header and marks are in the user's language; only --quiet is plain.
            if !rest.contains(&"--quiet") || rest.iter().any(|w| !["--quiet", "--running"].contains(w)) {
                return Err(format!("Wsl/E_INVALIDARG {}", rest.join(" ")));
            }
            Ok(Asked::List { running: rest.contains(&"--running") })
        }
        ["--import", name, folder, archive, "--version", "2"] => {
            Ok(Asked::Import { name: owned(name), folder: owned(folder), archive: owned(archive) })
        }
        ["--terminate", name] => Ok(Asked::Terminate(owned(name))),
        ["--unregister", name] => Ok(Asked::Unregister(owned(name))),
        ["--distribution", name, "--user", "root", "--cd", "/", "--exec", ref words @ ..]
            if !words.is_empty() =>
        {
            Ok(Asked::Exec { name: owned(name), words: words.iter().map(|w| owned(w)).collect() })
        }
        _ => Err(format!("Wsl/E_INVALIDARG {}", words.join(" "))),
    }
}
