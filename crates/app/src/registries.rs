//! Credentials for registries, kept where docker keeps them: `config.json` in docker's folder, or the program
//! (`docker-credential-*`) that it names, which keeps them in the system's own keychain. So `docker`, compose and
//! builds have them as well, and the app theirs.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
};

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;

use crate::{AppError, platform, words::Registry};

/// Docker Hub, as docker's configuration names it.
const HUB: &str = "https://index.docker.io/v1/";
/// What stands for a user where the secret is an identity token.
const TOKEN: &str = "<token>";
/// Longest answer of a program that keeps credentials.
const MOST: u64 = 1 << 20;

/// A user and what shows that it is they.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    secret: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Credentials {
    /// As `X-Registry-Auth` carries them.
    pub fn header(&self, registry: &str) -> String {
        let words = if self.user == TOKEN {
            json!({ "identitytoken": self.secret, "serveraddress": registry })
        } else {
            json!({ "username": self.user, "password": self.secret, "serveraddress": registry })
        };
        URL_SAFE.encode(words.to_string())
    }
}

/// Docker's folder: `DOCKER_CONFIG`, or `.docker` at home.
pub fn config_folder() -> Option<PathBuf> {
    let named = std::env::var_os("DOCKER_CONFIG").filter(|f| !f.is_empty()).map(PathBuf::from);
    named.or_else(|| std::env::home_dir().map(|home| home.join(".docker")))
}

/// The name under which a registry's credentials are kept.
pub fn key(host: &str) -> String {
    let bare = host.trim().trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    match bare {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" | "index.docker.io/v1" => HUB.into(),
        other => other.split('/').next().unwrap_or(other).into(),
    }
}

/// Docker's configuration; what it has beside credentials stays as it is.
#[derive(Debug)]
pub struct Config {
    path: PathBuf,
    values: Map<String, Value>,
}

impl Config {
    /// The user's own.
    pub fn load() -> Result<Self, AppError> {
        let folder = config_folder().ok_or_else(|| AppError::Request("there is no home folder".into()))?;
        Self::at(folder.join("config.json"))
    }

    fn at(path: PathBuf) -> Result<Self, AppError> {
        // A link is followed: what replaces the file must not replace the link.
        let path = std::fs::canonicalize(&path).unwrap_or(path);
        let values = match std::fs::read(&path) {
            Ok(bytes) if bytes.trim_ascii().is_empty() => Map::new(),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| AppError::Request(format!("{} is not understood: {e}", path.display())))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Map::new(),
            Err(e) => return Err(AppError::Request(format!("{}: {e}", path.display()))),
        };
        Ok(Self { path, values })
    }

    fn text(&self, key: &str) -> Option<String> {
        self.values.get(key)?.as_str().filter(|t| !t.is_empty()).map(str::to_owned)
    }

    /// The context that docker uses where nothing else is said (`DOCKER_HOST`, `DOCKER_CONTEXT`); none: its default.
    pub fn context(&self) -> Option<String> {
        self.text("currentContext")
    }

    /// Sets it, as `docker context use` does.
    pub fn set_context(&mut self, name: Option<&str>) -> Result<(), AppError> {
        match name {
            Some(name) => self.values.insert("currentContext".into(), name.into()),
            None => self.values.remove("currentContext"),
        };
        self.write()
    }

    /// The program that keeps new credentials; none: this file does. Where nothing has been kept yet, the system's
    /// usual one, as docker does it.
    pub fn store(&self) -> Option<String> {
        let usual = platform::CREDENTIALS;
        let fresh = self.auths().is_none_or(Map::is_empty);
        self.text("credsStore").or_else(|| (fresh && helper_is_there(usual)).then(|| usual.to_owned()))
    }

    /// Where the user says that docker's plugins are, beside the usual places.
    pub fn plugin_folders(&self) -> Vec<PathBuf> {
        let named = self.values.get("cliPluginsExtraDirs").and_then(Value::as_array);
        named.into_iter().flatten().filter_map(Value::as_str).map(PathBuf::from).collect()
    }

    fn helper(&self, key: &str) -> Option<String> {
        let own = self.values.get("credHelpers").and_then(|h| h.get(key)).and_then(Value::as_str);
        own.map(str::to_owned).or_else(|| self.text("credsStore"))
    }

    fn auths(&self) -> Option<&Map<String, Value>> {
        self.values.get("auths")?.as_object()
    }

    fn own(&self, key: &str) -> Option<Credentials> {
        let entry = self.auths()?.get(key)?;
        if let Some(token) = entry.get("identitytoken").and_then(Value::as_str).filter(|t| !t.is_empty()) {
            return Some(Credentials { user: TOKEN.into(), secret: token.into() });
        }
        let text = STANDARD.decode(entry.get("auth")?.as_str()?).ok()?;
        let text = String::from_utf8(text).ok()?;
        let (user, secret) = text.split_once(':')?;
        Some(Credentials { user: user.into(), secret: secret.trim_end_matches('\0').into() })
    }

    /// Every registry with credentials.
    pub async fn all(&self) -> Vec<Registry> {
        let mut found: BTreeMap<String, Registry> = BTreeMap::new();
        for key in self.auths().into_iter().flat_map(Map::keys) {
            let user = self.own(key).map(|c| c.user).filter(|u| u != TOKEN);
            found.insert(key.clone(), Registry { host: key.clone(), user, store: None });
        }
        let helpers = self.values.get("credHelpers").and_then(Value::as_object);
        let stores: Vec<String> = self.text("credsStore").into_iter().collect();
        for store in stores {
            let listed = ask(&store, "list", "").await.unwrap_or_default();
            let listed: BTreeMap<String, String> = serde_json::from_str(&listed).unwrap_or_default();
            for (host, user) in listed {
                let user = Some(user).filter(|u| !u.is_empty() && u != TOKEN);
                found.insert(host.clone(), Registry { host, user, store: Some(store.clone()) });
            }
        }
        for (host, store) in helpers.into_iter().flatten() {
            let store = store.as_str().map(str::to_owned);
            found.insert(host.clone(), Registry { host: host.clone(), user: None, store });
        }
        found.into_values().collect()
    }

    /// A registry's credentials, where there are any.
    pub async fn get(&self, host: &str) -> Option<Credentials> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Kept {
            username: String,
            secret: String,
        }
        let key = key(host);
        if let Some(helper) = self.helper(&key)
            && let Ok(said) = ask(&helper, "get", &key).await
            && let Ok(kept) = serde_json::from_str::<Kept>(&said)
        {
            return Some(Credentials { user: kept.username, secret: kept.secret });
        }
        self.own(&key)
    }

    /// Keeps credentials.
    pub async fn keep(&mut self, host: &str, user: &str, secret: &str) -> Result<(), AppError> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Kept<'a> {
            #[serde(rename = "ServerURL")]
            server: &'a str,
            username: &'a str,
            secret: &'a str,
        }
        let key = key(host);
        let own = self.values.get("credHelpers").and_then(|h| h.get(&key)).and_then(Value::as_str);
        let helper = own.map(str::to_owned).or_else(|| self.store());
        let entry = if let Some(helper) = helper {
            let kept =
                serde_json::to_string(&Kept { server: &key, username: user, secret }).expect("strings");
            ask(&helper, "store", &kept).await?;
            if self.text("credsStore").is_none() && own_helper(&self.values, &key).is_none() {
                self.values.insert("credsStore".into(), helper.into());
            }
            json!({})
        } else if user == TOKEN {
            json!({ "auth": STANDARD.encode(format!("{user}:")), "identitytoken": secret })
        } else {
            json!({ "auth": STANDARD.encode(format!("{user}:{secret}")) })
        };
        let auths = self.values.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        if let Some(auths) = auths.as_object_mut() {
            auths.insert(key, entry);
        }
        self.write()
    }

    /// Forgets a registry's credentials.
    pub async fn forget(&mut self, host: &str) -> Result<(), AppError> {
        let known = self.auths().is_some_and(|a| a.contains_key(host));
        let key = if known { host.to_owned() } else { key(host) };
        if let Some(helper) = self.helper(&key) {
            // Not there any more is what was wanted.
            let _ = ask(&helper, "erase", &key).await;
        }
        if let Some(auths) = self.values.get_mut("auths").and_then(Value::as_object_mut) {
            auths.remove(&key);
        }
        self.write()
    }

    /// Whole or not at all, for the user alone.
    fn write(&self) -> Result<(), AppError> {
        let wrong = |e: std::io::Error| AppError::Request(format!("{}: {e}", self.path.display()));
        let mut bytes = Vec::new();
        let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut writer = serde_json::Serializer::with_formatter(&mut bytes, tabs);
        self.values.serialize(&mut writer).map_err(|e| AppError::Request(e.to_string()))?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(wrong)?;
        let beside = folder.join(format!(".config.json.{}", std::process::id()));
        let written = platform::private_file().open(&beside).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
        written.and_then(|()| std::fs::rename(&beside, &self.path)).map_err(|e| {
            let _ = std::fs::remove_file(&beside);
            wrong(e)
        })
    }
}

fn own_helper<'a>(values: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    values.get("credHelpers")?.get(key)?.as_str()
}

fn program(helper: &str) -> String {
    format!("docker-credential-{helper}{}", platform::PROGRAM_SUFFIX)
}

fn helper_is_there(helper: &str) -> bool {
    std::env::split_paths(&host::programs::path()).any(|folder| folder.join(program(helper)).is_file())
}

/// Asks a program that keeps credentials.
async fn ask(helper: &str, verb: &str, words: &str) -> Result<String, AppError> {
    use tokio::io::AsyncReadExt;
    if helper.contains(['/', '\\', '.']) {
        return Err(AppError::Request(format!("{helper:?} is no name of a program for credentials")));
    }
    let name = program(helper);
    let failed = |e: std::io::Error| AppError::Request(format!("{name}: {e}"));
    let mut child = platform::program(&name)
        .arg(verb)
        .env("PATH", host::programs::path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // One that does not read says why by its end.
        let _ = input.write_all(words.as_bytes()).await;
    }
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        out.take(MOST).read_to_string(&mut said).await.map_err(failed)?;
    }
    if child.wait().await.map_err(failed)?.success() {
        return Ok(said);
    }
    Err(AppError::Request(format!("{name} {verb}: {}", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hub_has_many_names() {
        for name in ["", "docker.io", "https://index.docker.io/v1/", "index.docker.io"] {
            assert_eq!(key(name), HUB, "{name:?}");
        }
        assert_eq!(key("https://registry.example.com/v2/"), "registry.example.com");
        assert_eq!(key("localhost:5000"), "localhost:5000");
    }

    #[tokio::test]
    async fn credentials_are_kept_in_dockers_own_file_and_nothing_else_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, r#"{"currentContext":"x","auths":{"a:1":{"auth":"dTpw"}}}"#).unwrap();
        let mut config = Config::at(path.clone()).unwrap();
        config.keep("registry.example.com", "me", "pass:word").await.unwrap();
        let config = Config::at(path.clone()).unwrap();
        let found = config.get("registry.example.com").await.unwrap();
        assert_eq!((found.user.as_str(), found.secret.as_str()), ("me", "pass:word"));
        assert!(!format!("{found:?}").contains("word"));
        assert_eq!(config.get("a:1").await.unwrap().user, "u");
        assert_eq!(config.text("currentContext").as_deref(), Some("x"));
        let hosts: Vec<_> = config.all().await.into_iter().map(|r| (r.host, r.user)).collect();
        assert_eq!(
            hosts,
            [("a:1".into(), Some("u".into())), ("registry.example.com".into(), Some("me".into()))]
        );
        let mut config = config;
        config.forget("registry.example.com").await.unwrap();
        assert!(Config::at(path).unwrap().get("registry.example.com").await.is_none());
    }

    #[test]
    fn plugins_are_looked_for_where_the_user_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let named = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Config::at(path.clone()).unwrap().plugin_folders()
        };
        let folders = named(r#"{"cliPluginsExtraDirs":["/opt/a","/opt/b",7]}"#);
        assert_eq!(folders, [Path::new("/opt/a"), Path::new("/opt/b")]);
        assert!(named("{}").is_empty() && named(r#"{"cliPluginsExtraDirs":"/opt/a"}"#).is_empty());
    }

    #[test]
    fn dockers_context_is_set_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let mut config = Config::at(path.clone()).unwrap();
        assert_eq!(config.context(), None);
        config.set_context(Some("coracle")).unwrap();
        let mut config = Config::at(path.clone()).unwrap();
        assert_eq!(config.context().as_deref(), Some("coracle"));
        config.set_context(None).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "{}");
    }

    #[test]
    fn what_the_engine_gets() {
        let plain = Credentials { user: "me".into(), secret: "s".into() };
        let decoded: Value = serde_json::from_slice(&URL_SAFE.decode(plain.header("h")).unwrap()).unwrap();
        assert_eq!(decoded, json!({ "username": "me", "password": "s", "serveraddress": "h" }));
        let token = Credentials { user: TOKEN.into(), secret: "t".into() };
        let decoded: Value = serde_json::from_slice(&URL_SAFE.decode(token.header("h")).unwrap()).unwrap();
        assert_eq!(decoded["identitytoken"], "t");
    }

    #[test]
    fn a_file_that_is_not_understood_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, "{ not json").unwrap();
        assert!(Config::at(path).unwrap_err().to_string().contains("not understood"));
    }
}
