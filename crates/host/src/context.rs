//! The docker context `coracle`: docker's own files (`contexts/meta/<sha256 of the name>/meta.json`).

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{Home, HostError, home::write_whole, platform};

/// The context's name.
pub const NAME: &str = "coracle";

/// Registers the context where this home may: the user's docker configuration for the default home, else one in the
/// home, whose path is given. Never makes itself the user's current context.
pub fn register(home: &Home) -> Result<Option<PathBuf>, HostError> {
    if !home.is_default() {
        let config = home.docker_config();
        write_context(&config, home)?;
        let own = config.join("config.json");
        if !own.exists() {
            write_whole(&own, format!("{{\"currentContext\":\"{NAME}\"}}\n").as_bytes())?;
        }
        return Ok(Some(config));
    }
    write_context(&user_config()?, home)?;
    Ok(None)
}

/// Takes the context away again.
pub fn unregister(home: &Home) -> Result<(), HostError> {
    let config = if home.is_default() { user_config()? } else { home.docker_config() };
    let folder = folder(&config);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(HostError::io("removing", folder)(error))
        }
        _ => Ok(()),
    }
}

fn user_config() -> Result<PathBuf, HostError> {
    match std::env::var_os("DOCKER_CONFIG").filter(|d| !d.is_empty()) {
        Some(folder) => Ok(folder.into()),
        None => Ok(std::env::home_dir().ok_or(HostError::NoHome)?.join(".docker")),
    }
}

fn folder(config: &Path) -> PathBuf {
    let digest: String = Sha256::digest(NAME).iter().map(|b| format!("{b:02x}")).collect();
    config.join("contexts/meta").join(digest)
}

fn write_context(config: &Path, home: &Home) -> Result<(), HostError> {
    let folder = folder(config);
    std::fs::create_dir_all(&folder).map_err(HostError::io("making", &folder))?;
    let meta = serde_json::json!({
        "Name": NAME,
        "Metadata": { "Description": "Coracle" },
        "Endpoints": { "docker": { "Host": platform::docker_host(&home.docker_socket()), "SkipTLSVerify": false } },
    });
    write_whole(&folder.join("meta.json"), meta.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_of_its_own_touches_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("h"), false).unwrap();
        home.create().unwrap();
        let config = register(&home).unwrap().unwrap();
        assert!(config.starts_with(home.root()));
        // sha256("coracle"), as docker looks for it
        let meta = std::fs::read_to_string(folder(&config).join("meta.json")).unwrap();
        assert!(meta.contains(&platform::docker_host(&home.docker_socket())), "{meta}");
        unregister(&home).unwrap();
        assert!(!folder(&config).exists());
    }
}
