//! What the user set for the guest's engine: read anew whenever the guest says hello.
//!
//! Two things that people write into the home by hand, or by the app: `engine.json`, of which only the engine knows what
//! it means, and the folder `certificates`.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use wire::setup::{MAX_BYTES, Proxies, Setup};

use crate::{Home, HostError, Settings, home::write_whole};

/// How a certificate in PEM begins.
const PEM: &str = "BEGIN CERTIFICATE";
/// Ends of the names of files that are taken for certificates.
const ENDS: [&str; 2] = ["pem", "crt"];

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
    certificate_files(folder).into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("\n")
}

fn certificate_files(folder: &Path) -> Vec<(PathBuf, String)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| ENDS.iter().any(|end| e == *end)))
        .collect();
    files.sort();
    let read = files.into_iter().map(|path| {
        let text = text(&path);
        (path, text)
    });
    read.filter(|(_, text)| text.contains(PEM)).collect()
}

/// The text of the engine's settings; empty where there are none.
pub fn engine_settings(home: &Home) -> Result<String, HostError> {
    let path = home.engine_settings();
    match fs::read_to_string(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(String::new()),
        other => other.map_err(HostError::io("reading", path)),
    }
}

/// Keeps settings of the engine; empty: none. What they mean the engine says at its next start.
pub fn set_engine_settings(home: &Home, text: &str) -> Result<(), HostError> {
    let path = home.engine_settings();
    if text.trim().is_empty() {
        return match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(HostError::io("removing", path)(e)),
            _ => Ok(()),
        };
    }
    let read: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_str(text);
    read.map_err(|e| HostError::Setting(format!("the engine's settings are no JSON object: {e}")))?;
    if text.len() > MAX_BYTES {
        return Err(HostError::Setting(format!("the engine's settings may have {MAX_BYTES} bytes at most")));
    }
    home.create()?;
    write_whole(&path, text.as_bytes())
}

/// The names of the certificates that the engine trusts beside the usual ones.
pub fn trusted(home: &Home) -> Vec<String> {
    let name = |(path, _): (PathBuf, String)| Some(path.file_name()?.to_string_lossy().into_owned());
    certificate_files(&home.certificates()).into_iter().filter_map(name).collect()
}

/// Takes a certificate in PEM among those; one of the same name is replaced.
pub fn trust(home: &Home, file: &Path) -> Result<(), HostError> {
    let wrong = |why: &str| HostError::Setting(format!("{} {why}", file.display()));
    let length = fs::metadata(file).map_err(HostError::io("reading", file))?.len();
    if length > MAX_BYTES as u64 {
        return Err(wrong("is too large for a certificate"));
    }
    let text = fs::read_to_string(file).map_err(HostError::io("reading", file))?;
    if !text.contains(PEM) {
        return Err(wrong("is no certificate in PEM: it has no line \"-----BEGIN CERTIFICATE-----\""));
    }
    let name = file.file_stem().ok_or_else(|| wrong("has no name"))?.to_string_lossy().into_owned();
    let folder = home.certificates();
    fs::create_dir_all(&folder).map_err(HostError::io("making", &folder))?;
    write_whole(&folder.join(format!("{name}.pem")), text.as_bytes())
}

/// No longer trusts a certificate, by its name in [`trusted`].
pub fn distrust(home: &Home, name: &str) -> Result<(), HostError> {
    if !trusted(home).iter().any(|known| known == name) {
        return Err(HostError::Setting(format!("there is no certificate {name:?}")));
    }
    let path = home.certificates().join(name);
    fs::remove_file(&path).map_err(HostError::io("removing", path))
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

    #[test]
    fn settings_of_the_engine_are_kept_as_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home"), false).unwrap();
        assert_eq!(engine_settings(&home).unwrap(), "");
        let text = "{\n  \"registry-mirrors\": []\n}\n";
        set_engine_settings(&home, text).unwrap();
        assert_eq!(engine_settings(&home).unwrap(), text);
        for wrong in ["[]", "{", "true", "{\"a\": 1} x"] {
            assert_eq!(set_engine_settings(&home, wrong).unwrap_err().code(), "setting", "{wrong}");
        }
        assert_eq!(engine_settings(&home).unwrap(), text, "what was there stays");
        set_engine_settings(&home, "").unwrap();
        set_engine_settings(&home, " ").unwrap();
        assert!(!home.engine_settings().exists());
    }

    #[test]
    fn certificates_are_taken_in_and_given_up_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home"), false).unwrap();
        let file = folder.path().join("company.cer");
        fs::write(&file, "MIIB not PEM").unwrap();
        assert!(trust(&home, &file).unwrap_err().to_string().contains("no certificate in PEM"));
        fs::write(&file, "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n").unwrap();
        trust(&home, &file).unwrap();
        trust(&home, &file).unwrap();
        assert_eq!(trusted(&home), ["company.pem"]);
        assert!(read(&home).certificates.contains("MIIB"));
        for wrong in ["../company.pem", "other.pem", ""] {
            assert_eq!(distrust(&home, wrong).unwrap_err().code(), "setting", "{wrong}");
        }
        distrust(&home, "company.pem").unwrap();
        assert_eq!(trusted(&home), [""; 0]);
    }
}
