//! What the user set for the guest's engine: read anew whenever the guest says hello.

use std::{fs, io::ErrorKind, path::Path};

use wire::setup::{Proxies, Setup};

use crate::{Home, Settings};

/// Reads it; what can't be read is left out and said in the log.
pub fn read(home: &Home) -> Setup {
    let setup = Setup {
        engine: text(&home.engine_settings()),
        certificates: certificates(&home.certificates()),
        proxies: proxies(&Settings::load(home).unwrap_or_default()),
    };
    if setup.fits() {
        return setup;
    }
    tracing::error!(
        "none of engine.json, certificates and proxies is used: one is larger than {} bytes; make it smaller, then `coracle restart`",
        wire::setup::MAX_BYTES
    );
    Setup::default()
}

/// Those of the settings; what is not set there, of the daemon's environment.
pub fn proxies(settings: &Settings) -> Proxies {
    let or = |set: &String, name| if set.is_empty() { variable(name) } else { set.clone() };
    Proxies {
        http: or(&settings.http_proxy, "HTTP_PROXY"),
        https: or(&settings.https_proxy, "HTTPS_PROXY"),
        direct: or(&settings.no_proxy, "NO_PROXY"),
    }
}

fn text(path: &Path) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
        Err(e) => {
            tracing::error!("{} can't be read: {e}", path.display());
            String::new()
        }
    }
}

/// All of a folder, one after the other, in the order of their names.
fn certificates(folder: &Path) -> String {
    let Ok(entries) = fs::read_dir(folder) else { return String::new() };
    let mut files: Vec<_> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "pem" || e == "crt"))
        .collect();
    files.sort();
    let all: Vec<String> =
        files.iter().map(|p| text(p)).filter(|t| t.contains("BEGIN CERTIFICATE")).collect();
    all.join("\n")
}

/// In capitals, or not: programs have both.
fn variable(name: &str) -> String {
    let found = [name.to_owned(), name.to_ascii_lowercase()].iter().find_map(|n| std::env::var(n).ok());
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_empty_and_certificates_are_put_together() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home"), false).unwrap();
        let setup = read(&home);
        assert_eq!((setup.engine.as_str(), setup.certificates.as_str()), ("", ""));
        fs::create_dir_all(home.certificates()).unwrap();
        let pem = |name: &str| format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n");
        fs::write(home.certificates().join("b.crt"), pem("b")).unwrap();
        fs::write(home.certificates().join("a.pem"), pem("a")).unwrap();
        fs::write(home.certificates().join("README"), "not one").unwrap();
        fs::write(home.engine_settings(), "{}").unwrap();
        Settings::set(&home, "https-proxy", "http://proxy:3128").unwrap();
        assert_eq!(read(&home).proxies.https, "http://proxy:3128");
        let setup = read(&home);
        assert_eq!((setup.engine, setup.certificates), ("{}".into(), format!("{}\n{}", pem("a"), pem("b"))));
        fs::write(home.engine_settings(), " ".repeat(wire::setup::MAX_BYTES + 1)).unwrap();
        assert_eq!(read(&home), Setup::default(), "too much of it");
    }
}
