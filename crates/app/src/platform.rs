//! What differs between systems.

use std::{ffi::OsStr, fs::OpenOptions, path::PathBuf};

use tokio::process::Command;

/// What the names of programs end with.
pub const PROGRAM_SUFFIX: &str = std::env::consts::EXE_SUFFIX;

/// How docker's programs write the kind of the engine's address.
pub const ADDRESS: &str = if cfg!(windows) { "npipe://" } else { "unix://" };

/// The helper by which docker keeps credentials on a new installation.
pub const CREDENTIALS: &str = if cfg!(windows) {
    "wincred"
} else if cfg!(target_os = "macos") {
    "osxkeychain"
} else {
    "secretservice"
};

/// Where docker's plugins are that are every user's, as its command line looks for them
/// (`cli-plugins/manager/manager_unix.go`, `manager_windows.go`), and Homebrew's of Apple silicon, which that one has to be told of.
pub fn plugin_folders() -> Vec<PathBuf> {
    if cfg!(windows) {
        let of = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
        let all = ["ProgramData", "ProgramFiles"].into_iter().filter_map(of);
        return all.map(|folder| folder.join("Docker").join("cli-plugins")).collect();
    }
    let unix = ["/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec"];
    let brew = cfg!(target_os = "macos").then_some("/opt/homebrew/lib");
    unix.into_iter().chain(brew).map(|folder| PathBuf::from(folder).join("docker/cli-plugins")).collect()
}

/// A program to be run. The app has no console: what wants one (compose, whatever keeps credentials) would open a black
/// window on Windows, for as long as it runs.
pub fn program(path: impl AsRef<OsStr>) -> Command {
    let mut command = std::process::Command::new(path);
    host::windowless(&mut command);
    command.into()
}

/// How a file is made that only its user may read: begun anew where it is there. Elsewhere than on Unix its folder
/// says who may.
pub fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(all(test, unix))]
mod tests {
    #[test]
    fn a_private_file_is_its_users_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        super::private_file().open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
