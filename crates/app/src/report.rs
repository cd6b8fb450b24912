//! The diagnostics bundle: what somebody who helps needs to see, and nothing that is secret.

use std::{io::Write, path::Path, sync::LazyLock};

use host::{Home, Settings};
use regex::Regex;

use crate::{App, AppError, platform};

/// Lines of each log.
const LINES: usize = 20_000;
/// Longest answer of the engine that goes along.
const MOST: usize = 4 << 20;
/// What is asked of the engine: nothing that names variables or commands of containers.
const ASKED: [(&str, &str); 3] = [
    ("engine-info.json", "/info"),
    ("engine-version.json", "/version"),
    ("engine-features.json", "/coracle/v1/features"),
];

/// Writes it to `path`, as a gzipped tar archive.
pub async fn write(app: &App, path: &Path) -> Result<(), AppError> {
    if !path.is_absolute() {
        return Err(AppError::Request(format!("{}: a whole path is needed", path.display())));
    }
    let mut files = vec![
        ("versions.txt".to_owned(), versions(app)),
        ("settings.txt".to_owned(), settings(app.home())),
        ("daemon.log".to_owned(), host::tail(&app.home().daemon_log(), LINES)),
        ("console.log".to_owned(), host::tail(&app.home().console_log(), LINES)),
    ];
    match app.machine().await {
        Ok(machine) => files.push(("machine.txt".into(), format!("{machine:#?}\n"))),
        Err(error) => files.push(("machine.txt".into(), format!("{error}\n"))),
    }
    for (name, asked) in ASKED {
        files.push((name.into(), ask(app, asked).await.unwrap_or_else(|e| e.to_string())));
    }
    let (path, wrong) = (path.to_owned(), |e: std::io::Error| AppError::Request(e.to_string()));
    tokio::task::spawn_blocking(move || archive(&path, &files))
        .await
        .map_err(|e| AppError::Request(e.to_string()))?
        .map_err(wrong)
}

async fn ask(app: &App, path: &str) -> Result<String, AppError> {
    use http_body_util::BodyExt;
    let request = hyper::Request::get(path).body(crate::empty()).expect("a fixed request");
    let answer = app.docker(request).await?;
    let body = http_body_util::Limited::new(answer.into_body(), MOST).collect().await;
    let body = body.map_err(|e| AppError::Unreachable(e.to_string()))?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

fn versions(app: &App) -> String {
    format!(
        "coracle {} ({})\n{} {}\nhome {}\n",
        host::RELEASE,
        host::BUILD,
        std::env::consts::OS,
        std::env::consts::ARCH,
        app.home().root().display()
    )
}

fn settings(home: &Home) -> String {
    match Settings::load(home) {
        Ok(settings) => settings.all().iter().map(|(key, value)| format!("{key}={value}\n")).collect(),
        Err(error) => format!("{error}\n"),
    }
}

fn archive(path: &Path, files: &[(String, String)]) -> std::io::Result<()> {
    let packed =
        flate2::write::GzEncoder::new(platform::private_file().open(path)?, flate2::Compression::default());
    let mut archive = tar::Builder::new(packed);
    for (name, text) in files {
        let text = without_secrets(text);
        let mut head = tar::Header::new_gnu();
        head.set_mode(0o600);
        head.set_size(text.len() as u64);
        archive.append_data(&mut head, format!("coracle/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.flush()
}

/// Takes out what looks like a secret: passwords in addresses, values of what is named like one.
fn without_secrets(text: &str) -> String {
    static ADDRESS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"://[^/\s@\x22']+@").expect("a fixed expression"));
    static NAMED: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r#"(?i)((?:pass(?:word|wd|phrase)?|secret|token|api_?key|credential|authorization|x-registry-auth)[\w-]*["']?\s*[=:]\s*)("[^"]*"|'[^']*'|(?:Basic |Bearer )?[^\s,"'}]+)"#)
            .expect("a fixed expression")
    });
    let text = ADDRESS.replace_all(text, "://***@");
    NAMED.replace_all(&text, "${1}***").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out() {
        for (text, left) in [
            ("proxy http://me:pw@proxy:3128/", "proxy http://***@proxy:3128/"),
            ("POSTGRES_PASSWORD=hunter2 next", "POSTGRES_PASSWORD=*** next"),
            (r#"{"token": "abc", "a": 1}"#, r#"{"token": ***, "a": 1}"#),
            ("Authorization: Basic YWJj", "Authorization: ***"),
            ("the password was changed", "the password was changed"),
        ] {
            assert_eq!(without_secrets(text), left);
        }
    }

    #[test]
    fn the_archive_has_each_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.tar.gz");
        archive(&path, &[("a.txt".into(), "secret=x".into()), ("b.txt".into(), String::new())]).unwrap();
        let mut read = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap()));
        let mut found = Vec::new();
        for entry in read.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
            found.push((entry.path().unwrap().display().to_string(), text));
        }
        assert_eq!(
            found,
            [("coracle/a.txt".into(), "secret=***".into()), ("coracle/b.txt".into(), String::new())]
        );
    }
}
