//! The tray: shows what [`app::tray::menu`] says and does what is clicked.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use app::{
    App,
    streams::Out,
    tray::{Action, Change, MenuItem, Running, View, changes, menu},
    words::{Control, Machine, Message, Open, State},
};
use http_body_util::BodyExt;
use tauri::{
    AppHandle, Manager,
    menu::{IsMenuItem, Menu, MenuItemBuilder, PredefinedMenuItem, Submenu, SubmenuBuilder},
    tray::{MouseButton, MouseButtonState, TrayIconBuilder, TrayIconEvent},
};
use tauri_plugin_notification::NotificationExt;
use tauri_plugin_opener::OpenerExt;

const TRAY: &str = "coracle";
/// Pause before a stream that broke is opened again.
const AGAIN: Duration = Duration::from_secs(1);
/// Within which the same words are one piece of news.
const IN_A_ROW: Duration = Duration::from_secs(5);
const ENGINE_FAILED: &str = "The engine failed";
/// Longest list of containers that is read.
const LONGEST: usize = 16 << 20;

/// Makes it, and keeps it true from then on. Without what a tray needs there is none, which is an error and no more.
pub fn make(app: &AppHandle) -> Result<(), Box<dyn std::error::Error>> {
    crate::platform::has_tray()?;
    let view = View { state: State::Stopped, error: None, running: Vec::new() };
    let live = Live::new(app, menu(&view))?;
    let mut tray = TrayIconBuilder::with_id(TRAY)
        .tooltip("Coracle")
        .menu(&live.menu)
        .show_menu_on_left_click(crate::platform::CLICK_SHOWS_MENU)
        .on_tray_icon_event(|tray, event| {
            // On Linux nothing is told of clicks: whoever shows the tray shows its menu.
            const LEFT: (MouseButton, MouseButtonState) = (MouseButton::Left, MouseButtonState::Up);
            if let TrayIconEvent::Click { button, button_state, .. } = event
                && (button, button_state) == LEFT
                && !crate::platform::CLICK_SHOWS_MENU
            {
                crate::show(tray.app_handle());
            }
        })
        .on_menu_event(|app, event| {
            if let Some(action) = Action::of(event.id().as_ref()) {
                act(app, action);
            }
        });
    if let Some(icon) = app.default_window_icon() {
        tray = tray.icon(icon.clone());
    }
    tray.build(app)?;
    let app = app.clone();
    tauri::async_runtime::spawn(async move { follow(app, live).await });
    Ok(())
}

/// A line of the menu that is shown.
enum Shown {
    Item(tauri::menu::MenuItem<tauri::Wry>),
    Submenu(Submenu<tauri::Wry>),
    Line(PredefinedMenuItem<tauri::Wry>),
}

impl Shown {
    fn of(app: &AppHandle, item: &MenuItem) -> tauri::Result<Self> {
        Ok(match item {
            MenuItem::Label(text) => Self::Item(MenuItemBuilder::new(text).enabled(false).build(app)?),
            MenuItem::Action { action, text, enabled } => {
                Self::Item(MenuItemBuilder::with_id(action.id(), text).enabled(*enabled).build(app)?)
            }
            MenuItem::Submenu { text, items } => {
                let made = items.iter().map(|i| Self::of(app, i)).collect::<tauri::Result<Vec<_>>>()?;
                let made: Vec<&dyn IsMenuItem<tauri::Wry>> = made.iter().map(Self::item).collect();
                Self::Submenu(SubmenuBuilder::new(app, text).items(&made).build()?)
            }
            MenuItem::Line => Self::Line(PredefinedMenuItem::separator(app)?),
        })
    }

    fn item(&self) -> &dyn IsMenuItem<tauri::Wry> {
        match self {
            Self::Item(item) => item,
            Self::Submenu(item) => item,
            Self::Line(item) => item,
        }
    }
}

/// The menu as it is shown: changed in place, because one that is replaced stays as it was while it is open.
struct Live {
    menu: Menu<tauri::Wry>,
    items: Vec<MenuItem>,
    shown: Vec<Shown>,
}

impl Live {
    fn new(app: &AppHandle, items: Vec<MenuItem>) -> tauri::Result<Self> {
        let shown = items.iter().map(|item| Shown::of(app, item)).collect::<tauri::Result<Vec<_>>>()?;
        let all: Vec<&dyn IsMenuItem<tauri::Wry>> = shown.iter().map(Shown::item).collect();
        Ok(Self { menu: Menu::with_items(app, &all)?, items, shown })
    }

    fn show(&mut self, app: &AppHandle, items: Vec<MenuItem>) -> tauri::Result<()> {
        for change in changes(&self.items, &items) {
            match change {
                Change::Set { at, text, enabled } => {
                    if let Shown::Item(item) = &self.shown[at] {
                        item.set_text(text)?;
                        item.set_enabled(enabled)?;
                    }
                }
                Change::Remove { at } => {
                    self.menu.remove(self.shown.remove(at).item())?;
                }
                Change::Insert { at, item } => {
                    let made = Shown::of(app, &item)?;
                    self.menu.insert(made.item(), at)?;
                    self.shown.insert(at, made);
                }
            }
        }
        self.items = items;
        Ok(())
    }
}

/// Follows the machine and the engine's events; the menu follows what it shows.
async fn follow(app: AppHandle, mut live: Live) {
    let backend = app.state::<App>().inner().clone();
    let mut shown = None;
    loop {
        let mut machine = backend.open(Open::Machine);
        let mut events: Option<app::Stream> = None;
        let mut now: Option<Machine> = None;
        loop {
            let event = async {
                match &mut events {
                    Some(events) => events.from.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                out = machine.from.recv() => match out {
                    Some(Out::Message(Message::Machine { machine })) => {
                        if machine.state == State::Failed && now.as_ref().is_some_and(|m| m.state != State::Failed) {
                            let why = machine.error.as_ref().map_or("", |e| e.message.as_str());
                            tell(&app, ENGINE_FAILED, why);
                        }
                        events = match (machine.state, events.take()) {
                            (State::Running, None) => Some(backend.open(Open::Lines {
                                method: "GET".into(),
                                path: "/events?filters=%7B%22type%22%3A%5B%22container%22%5D%7D".into(),
                                registry: None,
                            })),
                            (State::Running, events) => events,
                            _ => None,
                        };
                        now = Some(machine);
                    }
                    Some(_) => {}
                    None => break,
                },
                event = event => if event.is_none() {
                    events = None;
                    tokio::time::sleep(AGAIN).await;
                },
            }
            let Some(machine) = &now else { continue };
            let running = if machine.state == State::Running { containers(&backend).await } else { vec![] };
            let error = machine.error.as_ref().map(|e| e.message.clone());
            let view = View { state: machine.state, error, running };
            if shown.as_ref() != Some(&view) {
                if let Err(error) = live.show(&app, menu(&view)) {
                    eprintln!("coracle-desktop: the tray's menu: {error}");
                }
                shown = Some(view);
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn containers(backend: &App) -> Vec<Running> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Port {
        public_port: Option<u16>,
        #[serde(rename = "Type")]
        kind: String,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Container {
        id: String,
        names: Vec<String>,
        ports: Option<Vec<Port>>,
    }
    let Ok(request) = hyper::Request::get("/containers/json").body(app::empty()) else { return vec![] };
    let Ok(answer) = backend.docker(request).await else { return vec![] };
    let Ok(body) = http_body_util::Limited::new(answer.into_body(), LONGEST).collect().await else {
        return vec![];
    };
    let list: Vec<Container> = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
    list.into_iter()
        .map(|c| Running {
            name: c.names.first().map_or(c.id.as_str(), |n| n.trim_start_matches('/')).to_owned(),
            port: c.ports.unwrap_or_default().iter().filter(|p| p.kind == "tcp").find_map(|p| p.public_port),
            id: c.id,
        })
        .collect()
}

fn act(app: &AppHandle, action: Action) {
    let (app, backend) = (app.clone(), app.state::<App>().inner().clone());
    tauri::async_runtime::spawn(async move {
        let starts = matches!(action, Action::Start | Action::Restart);
        let done = match action {
            Action::Open => {
                crate::show(&app);
                Ok(())
            }
            Action::Settings => {
                crate::go(&app, "settings");
                Ok(())
            }
            Action::Logs(id) => {
                crate::go(&app, &format!("containers/{id}/logs"));
                Ok(())
            }
            Action::Start => backend.control(Control::Start).await.map(drop).map_err(|e| e.to_string()),
            Action::Stop => backend.control(Control::Stop).await.map(drop).map_err(|e| e.to_string()),
            Action::Restart => match backend.control(Control::Stop).await {
                Ok(_) => backend.control(Control::Start).await.map(drop).map_err(|e| e.to_string()),
                Err(error) => Err(error.to_string()),
            },
            Action::StopContainer(id) => stop(&backend, &id).await,
            Action::Port(port) => {
                let url = format!("http://localhost:{port}/");
                app.opener().open_url(url, None::<&str>).map_err(|e| e.to_string())
            }
            Action::Quit => {
                app.exit(0);
                Ok(())
            }
        };
        if let Err(error) = done {
            let title = if starts { ENGINE_FAILED } else { "Coracle" };
            tell(&app, title, &error);
        }
    });
}

/// What was told last, and when.
#[derive(Default)]
pub struct Told(Mutex<Option<(String, Instant)>>);

/// Tells by the desktop, also while no window is shown. A start that fails is noticed by whoever asked for it and by
/// whoever follows the machine: the same words in a row are told once.
fn tell(app: &AppHandle, title: &str, words: &str) {
    let now = Some((words.to_owned(), Instant::now()));
    let last =
        std::mem::replace(&mut *app.state::<Told>().0.lock().unwrap_or_else(PoisonError::into_inner), now);
    if last.is_some_and(|(before, at)| before == words && at.elapsed() < IN_A_ROW) {
        return;
    }
    if let Err(error) = app.notification().builder().title(title).body(words).show() {
        eprintln!("coracle-desktop: no notification: {error}");
    }
}

async fn stop(backend: &App, id: &str) -> Result<(), String> {
    let request = hyper::Request::post(format!("/containers/{id}/stop")).body(app::empty());
    let answer = backend.docker(request.map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
    let status = answer.status();
    if status.is_success() || status.as_u16() == 304 {
        return Ok(());
    }
    let body = answer.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    Err(String::from_utf8_lossy(&body).into_owned())
}
