//! Starting with the user's login: on, off, and whether it is. What is written where is the platform's.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{Home, HostError, home::write_whole, platform};

/// What makes a system start the daemon at login: a file, and on some systems a link that makes it count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
    /// The link, which leads to the file.
    pub link: Option<PathBuf>,
}

impl Entry {
    /// The one for this program and home.
    pub fn of(home: &Home, program: &Path) -> Result<Self, HostError> {
        let chosen = (!home.is_default()).then(|| home.root());
        platform::login_entry(program, chosen).map_err(HostError::Setting)
    }

    /// Writes it; what an earlier one said is replaced.
    pub fn enable(&self) -> Result<(), HostError> {
        make_parent(&self.path)?;
        write_whole(&self.path, self.text.as_bytes())?;
        if let Some(link) = &self.link {
            make_parent(link)?;
            remove(link)?;
            platform::link(&self.path, link).map_err(HostError::io("making", link))?;
        }
        Ok(())
    }

    /// Takes it away; one that isn't there is fine.
    pub fn disable(&self) -> Result<(), HostError> {
        if let Some(link) = &self.link {
            remove(link)?;
        }
        remove(&self.path)
    }

    /// Whether there is one, of this program or another.
    pub fn is_enabled(&self) -> bool {
        self.link.as_ref().unwrap_or(&self.path).exists()
    }
}

fn make_parent(path: &Path) -> Result<(), HostError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(HostError::io("making", folder))
}

fn remove(path: &Path) -> Result<(), HostError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(HostError::io("removing", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_and_off_again_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("units/coracle.service");
        let entry = Entry { path: path.clone(), text: "x".into(), link: None };
        assert!(!entry.is_enabled());
        entry.disable().unwrap();
        entry.enable().unwrap();
        entry.enable().unwrap();
        assert!(entry.is_enabled());
        assert_eq!(fs::read_to_string(&path).unwrap(), "x");
        entry.disable().unwrap();
        assert!(!entry.is_enabled() && !path.exists());
    }
}
