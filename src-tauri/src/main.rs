//! `coracle-desktop`: the window and the tray. It translates between WebKit, the desktop and the crate `app`, and
//! decides nothing.

#![cfg_attr(windows, windows_subsystem = "windows")]

mod commands;
mod platform;
mod tray;
mod updates;

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use app::App;
use tauri::{AppHandle, Emitter, Manager, WebviewUrl, WebviewWindowBuilder, WindowEvent};

/// The window's name inside, its title, and its sizes: first and least.
const WINDOW: &str = "main";
const TITLE: &str = "Coracle";
const SIZE: (f64, f64) = (1160.0, 760.0);
const LEAST: (f64, f64) = (900.0, 600.0);
/// Started at login: only the tray shows.
const HIDDEN: &str = "--hidden";

/// Ends the program that runs, and nothing else: an installer's word.
const QUIT: &str = "--quit";

/// When this program started.
static STARTED: OnceLock<Instant> = OnceLock::new();

/// Time since this program's start.
fn since_start() -> Duration {
    STARTED.get_or_init(Instant::now).elapsed()
}

/// Whether answers of the engine are told on standard error with their times: for measurements (`CORACLE_TIMES=1`).
fn tells_times() -> bool {
    static TELLS: OnceLock<bool> = OnceLock::new();
    *TELLS.get_or_init(|| std::env::var_os("CORACLE_TIMES").is_some())
}

/// Whether closing the window hides it: only where a tray can bring it back.
struct HasTray(AtomicBool);

/// Where the page is to go, until it has asked: it may not have been read yet.
#[derive(Default)]
struct Place(Mutex<Option<String>>);

impl Place {
    fn of(app: &AppHandle) -> std::sync::MutexGuard<'_, Option<String>> {
        app.state::<Self>().inner().0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn main() {
    since_start();
    platform::begin();
    let backend = match App::of_user() {
        Ok(app) => app,
        Err(error) => {
            platform::say_failure(&error.to_string());
            std::process::exit(1);
        }
    };
    let builder = tauri::Builder::default()
        // First: a second start only shows the window of the first.
        .plugin(tauri_plugin_single_instance::init(|app, arguments, _| {
            if arguments.iter().any(|a| a == QUIT) {
                return app.exit(0);
            }
            show(app);
            link(app, &arguments);
        }))
        .plugin(tauri_plugin_autostart::Builder::new().args([HIDDEN]).app_name(TITLE).build())
        .plugin(tauri_plugin_dialog::init())
        .plugin(tauri_plugin_notification::init())
        .plugin(tauri_plugin_opener::init());
    #[cfg(feature = "updates")]
    let builder = builder.plugin(tauri_plugin_updater::Builder::new().build());
    let built = builder
        .manage(backend)
        .manage(commands::Streams::default())
        .manage(Place::default())
        .manage(tray::Told::default())
        .manage(HasTray(AtomicBool::new(false)))
        .invoke_handler(tauri::generate_handler![
            commands::docker,
            commands::control,
            commands::open,
            commands::say,
            commands::type_in,
            commands::close,
            commands::open_url,
            commands::save,
            commands::pick,
            commands::open_folder,
            commands::autostart,
            commands::place,
            updates::updates,
            updates::update,
        ])
        .setup(|app| {
            let arguments: Vec<String> = std::env::args().collect();
            if arguments.iter().any(|a| a == QUIT) {
                app.handle().exit(0); // there was none
                return Ok(());
            }
            window(app.handle())?;
            if let Err(error) = tray::make(app.handle()) {
                eprintln!("coracle-desktop: no tray: {error}");
            } else {
                app.state::<HasTray>().0.store(true, Ordering::Relaxed);
            }
            if !arguments.iter().any(|a| a == HIDDEN) {
                show(app.handle());
            }
            link(app.handle(), &arguments);
            Ok(())
        })
        .on_window_event(|window, event| {
            if let WindowEvent::CloseRequested { api, .. } = event
                && window.state::<HasTray>().0.load(Ordering::Relaxed)
            {
                // Containers go on, and so does the tray.
                api.prevent_close();
                let _ = window.hide();
            }
        })
        .build(tauri::generate_context!());
    match built {
        Ok(app) => app.run(|app, event| platform::happened(app, &event)),
        Err(error) => {
            platform::say_failure(&format!(
                "the window could not be made: {error}{}",
                platform::WINDOW_NEEDS
            ));
            std::process::exit(1);
        }
    }
}

fn window(app: &AppHandle) -> tauri::Result<()> {
    WebviewWindowBuilder::new(app, WINDOW, WebviewUrl::default())
        .title(TITLE)
        .inner_size(SIZE.0, SIZE.1)
        .min_inner_size(LEAST.0, LEAST.1)
        .visible(false)
        // The page is ours alone: nothing else is ever shown in this window.
        .on_navigation(|url| matches!(url.scheme(), "tauri") || url.host_str() == Some("tauri.localhost"))
        .build()
        .map(drop)
}

/// Shows the window, in front.
fn show(app: &AppHandle) {
    if let Some(window) = app.get_webview_window(WINDOW) {
        let _ = window.show();
        let _ = window.unminimize();
        let _ = window.set_focus();
    }
}

/// Tells the page where to go: `containers/<id>/logs`, `settings`.
fn go(app: &AppHandle, place: &str) {
    *Place::of(app) = Some(place.to_owned());
    show(app);
    let _ = app.emit("go", ());
}

/// `coracle://containers/NAME/logs` and the like, among the arguments of a start: only places, never deeds.
fn link(app: &AppHandle, arguments: &[String]) {
    if let Some(place) = arguments.iter().find_map(|a| a.strip_prefix("coracle://")) {
        go(app, place);
    }
}
