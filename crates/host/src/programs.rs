//! Where programs of others are looked for: in `PATH`, and where package managers put theirs. What the system starts at
//! login, or from an icon, is told less of them than a shell is.

use std::{
    env::{self, consts::EXE_SUFFIX},
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::platform;

/// The folders, in the order in which they are looked through; as `PATH` for programs that look for others themselves.
pub fn path() -> OsString {
    with(&env::var_os("PATH").unwrap_or_default(), platform::PROGRAM_FOLDERS)
}

/// A program by its name, without a system's suffix.
pub fn find(name: &str) -> Option<PathBuf> {
    env::split_paths(&path())
        .map(|folder| folder.join(format!("{name}{EXE_SUFFIX}")))
        .find(|path| platform::is_program(path))
}

fn with(path: &OsString, more: &[&str]) -> OsString {
    let own: Vec<PathBuf> = env::split_paths(path).filter(|folder| !folder.as_os_str().is_empty()).collect();
    let missing = more.iter().map(Path::new).filter(|folder| !own.iter().any(|known| known == folder));
    let all: Vec<&Path> = own.iter().map(PathBuf::as_path).chain(missing).collect();
    // None of them has the character that parts them: the first came from such a text.
    env::join_paths(all).unwrap_or_else(|_| path.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_package_managers_come_last_and_once() {
        let text = |folders: &[&str]| env::join_paths(folders).unwrap();
        let usual = ["/opt/homebrew/bin", "/usr/local/bin"];
        let of_an_icon = text(&["/usr/bin", "/bin"]);
        assert_eq!(
            with(&of_an_icon, &usual),
            text(&["/usr/bin", "/bin", "/opt/homebrew/bin", "/usr/local/bin"])
        );
        let of_a_shell = text(&["/opt/homebrew/bin", "/usr/bin"]);
        assert_eq!(with(&of_a_shell, &usual), text(&["/opt/homebrew/bin", "/usr/bin", "/usr/local/bin"]));
        assert_eq!(with(&of_a_shell, &[]), of_a_shell);
        // An empty one would be the folder one is in.
        assert_eq!(with(&OsString::new(), &usual), text(&usual));
    }
}
