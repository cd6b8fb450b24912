//! Starting with the user's login: on, off, and whether it is. What is written where is the platform's.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{Home, HostError, home::write_whole, platform};

/// The application's name for macOS (`installer/macos/Info.plist`).
const BUNDLE: &str = "dev.coracle.desktop";

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

/// Whether a program is where it stays. macOS runs an application that was just downloaded from a folder that is gone
/// with it ("translocation") until it is moved; and the image it came in is not there at the next login.
pub fn stays(program: &Path) -> Result<(), String> {
    let text = program.to_string_lossy();
    if !text.contains("/AppTranslocation/") && !text.starts_with("/Volumes/Coracle") {
        return Ok(());
    }
    Err(format!(
        "{text} is no place to stay: move Coracle into the folder Applications, start it there, and try again"
    ))
}

/// What makes macOS start the daemon at login: launchd's description of an agent.
///
/// Without a kind of its own launchd would throttle it, and with it the machine that it starts (launchd.plist(5)); the
/// bundle's name is what its settings show it under.
pub fn agent(program: &Path, home: Option<&Path>) -> String {
    let text = |path: &Path| {
        path.display().to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
    };
    let environment = home.map_or(String::new(), |home| {
        let home = text(home);
        format!(
            "<key>EnvironmentVariables</key><dict><key>CORACLE_HOME</key><string>{home}</string></dict>\n"
        )
    });
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <plist version=\"1.0\"><dict>\n\
         <key>Label</key><string>dev.coracle</string>\n\
         <key>ProgramArguments</key><array><string>{}</string><string>daemon</string></array>\n\
         {environment}\
         <key>RunAtLoad</key><true/>\n\
         <key>ProcessType</key><string>Interactive</string>\n\
         <key>AbandonProcessGroup</key><true/>\n\
         <key>AssociatedBundleIdentifiers</key><string>{BUNDLE}</string>\n\
         </dict></plist>\n",
        text(program)
    )
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
    fn an_application_that_was_only_looked_at_is_not_started_at_login() {
        let passing =
            "/private/var/folders/t4/x0/X/AppTranslocation/0A-1B/d/Coracle.app/Contents/MacOS/coracle";
        for program in [passing, "/Volumes/Coracle/Coracle.app/Contents/MacOS/coracle"] {
            assert!(stays(Path::new(program)).unwrap_err().contains("Applications"), "{program}");
        }
        for program in ["/Applications/Coracle.app/Contents/MacOS/coracle", "/opt/homebrew/bin/coracle"] {
            stays(Path::new(program)).unwrap();
        }
    }

    #[test]
    fn the_agent_is_launchds_and_no_background_task() {
        let text = agent(Path::new("/A & B/coracle"), Some(Path::new("/h")));
        assert!(text.contains("<string>/A &amp; B/coracle</string><string>daemon</string>"), "{text}");
        assert!(text.contains("<key>CORACLE_HOME</key><string>/h</string>"), "{text}");
        assert!(text.contains("<key>ProcessType</key><string>Interactive</string>"), "{text}");
        assert_eq!(text.matches("<key>").count(), text.matches("</key>").count());
        // The same name as the window's program has, by which macOS knows it when it tells something.
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let plist = fs::read_to_string(root.join("installer/macos/Info.plist")).unwrap();
        let window = fs::read_to_string(root.join("src-tauri/tauri.conf.json")).unwrap();
        assert!(
            plist.contains(&format!("<key>CFBundleIdentifier</key><string>{BUNDLE}</string>")),
            "{plist}"
        );
        assert!(window.contains(&format!("\"identifier\": \"{BUNDLE}\"")), "{window}");
    }

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
