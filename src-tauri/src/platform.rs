//! What differs between systems, for the window and the tray; nothing else here asks which one it is.

#[cfg(target_os = "linux")]
mod system {
    use std::{os::unix::process::CommandExt, path::Path};

    use tauri::{AppHandle, RunEvent};

    /// Whether a click at the tray shows its menu; else it shows the window. Here nothing is told of clicks.
    pub const CLICK_SHOWS_MENU: bool = false;

    /// WebKit's switch, read at its start.
    const OLDER_RENDERER: &str = "WEBKIT_DISABLE_DMABUF_RENDERER";

    /// Packages of Linux belong to the distribution's tools.
    #[cfg(feature = "updates")]
    pub const INSTALLS_UPDATES: bool = false;

    /// Some drivers show an empty window with WebKit's newer renderer: NVIDIA's, and old Wayland ones. For these the
    /// program starts itself anew with the setting.
    pub fn begin() {
        if std::env::var_os(OLDER_RENDERER).is_some() || !Path::new("/proc/driver/nvidia").exists() {
            return;
        }
        let Ok(program) = std::env::current_exe() else { return };
        let mut again = std::process::Command::new(program);
        let error = again.args(std::env::args_os().skip(1)).env(OLDER_RENDERER, "1").exec();
        eprintln!("coracle-desktop: {error}");
    }

    /// Whether there can be a tray, or why not: the crate that loads its library gives up the whole program where it
    /// isn't.
    pub fn has_tray() -> Result<(), &'static str> {
        const NAMES: [&str; 2] = ["libayatana-appindicator3.so.1", "libappindicator3.so.1"];
        let triple = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        let own = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let usual =
            ["/usr/lib", "/usr/lib64", "/usr/local/lib", triple.as_str()].map(std::path::PathBuf::from);
        let folders: Vec<_> = std::env::split_paths(&own).chain(usual).collect();
        let is_there = folders.iter().any(|folder| NAMES.iter().any(|name| folder.join(name).exists()));
        is_there.then_some(()).ok_or("libayatana-appindicator3.so.1 is not installed")
    }

    /// Places come as arguments of a start.
    pub fn happened(_: &AppHandle, _: &RunEvent) {}

    /// What a window needs that may not be there.
    pub const WINDOW_NEEDS: &str = "";

    /// Says why there is no window to say anything in.
    pub fn say_failure(why: &str) {
        eprintln!("coracle-desktop: {why}");
    }
}

#[cfg(target_os = "macos")]
mod system {
    use tauri::{AppHandle, RunEvent};

    /// As everything in the menu bar does.
    pub const CLICK_SHOWS_MENU: bool = true;

    #[cfg(feature = "updates")]
    pub const INSTALLS_UPDATES: bool = true;

    pub fn begin() {}

    pub fn has_tray() -> Result<(), &'static str> {
        Ok(())
    }

    /// A place that another program opened, which comes as an event here; a click at the Dock, where the window was
    /// closed.
    pub fn happened(app: &AppHandle, event: &RunEvent) {
        match event {
            RunEvent::Opened { urls } => {
                let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
                crate::link(app, &urls);
            }
            RunEvent::Reopen { .. } => crate::show(app),
            _ => {}
        }
    }

    /// What a window needs that may not be there.
    pub const WINDOW_NEEDS: &str = "";

    /// Says why there is no window to say anything in.
    pub fn say_failure(why: &str) {
        eprintln!("coracle-desktop: {why}");
    }
}

#[cfg(windows)]
mod system {
    use std::ffi::c_void;

    use tauri::{AppHandle, RunEvent};

    /// The other button shows the menu.
    pub const CLICK_SHOWS_MENU: bool = false;

    #[cfg(feature = "updates")]
    pub const INSTALLS_UPDATES: bool = true;

    pub fn begin() {}

    pub fn has_tray() -> Result<(), &'static str> {
        Ok(())
    }

    /// Places come as arguments of a start.
    pub fn happened(_: &AppHandle, _: &RunEvent) {}

    /// What a window needs that may not be there.
    pub const WINDOW_NEEDS: &str =
        "\n\nIt is shown by Microsoft's WebView2: https://developer.microsoft.com/microsoft-edge/webview2/";

    /// Says why there is no window to say anything in: this program has no console, and whoever clicked at it would see nothing
    /// at all.
    #[allow(unsafe_code)]
    pub fn say_failure(why: &str) {
        const ERROR: u32 = 0x10; // MB_ICONERROR
        #[link(name = "user32")]
        unsafe extern "system" {
            fn MessageBoxW(owner: *mut c_void, text: *const u16, title: *const u16, kind: u32) -> i32;
        }
        eprintln!("coracle-desktop: {why}");
        let wide = |text: &str| text.encode_utf16().chain([0]).collect::<Vec<u16>>();
        let (text, title) = (wide(&format!("Coracle: {why}")), wide("Coracle"));
        // SAFETY: both texts end in a null and live through the call.
        unsafe { MessageBoxW(std::ptr::null_mut(), text.as_ptr(), title.as_ptr(), ERROR) };
    }
}

pub use system::*;
