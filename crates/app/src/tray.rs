//! The tray's menu: a pure function of what there is. The shell shows it and sends back the id of what was clicked.

use crate::words::State;

/// Most containers with a line of their own.
pub const MOST: usize = 8;

/// What the menu is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The machine's state.
    pub state: State,
    /// What is wrong, if anything is.
    pub error: Option<String>,
    /// Containers that run, in the order of the list.
    pub running: Vec<Running>,
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// Its name, without the slash.
    pub name: String,
    /// A published port of this computer, if there is one.
    pub port: Option<u16>,
}

/// A line of the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MenuItem {
    /// Words that do nothing.
    Label(String),
    /// Something to click.
    Action {
        /// What it does.
        action: Action,
        /// Its words.
        text: String,
        /// Whether it can be clicked.
        enabled: bool,
    },
    /// A line that opens more.
    Submenu {
        /// Its words.
        text: String,
        /// What opens.
        items: Vec<MenuItem>,
    },
    /// A separator.
    Line,
}

/// What a click does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Show the window.
    Open,
    /// Show the settings.
    Settings,
    /// Start the machine.
    Start,
    /// Stop the machine.
    Stop,
    /// Stop it and start it again.
    Restart,
    /// End the app; containers go on.
    Quit,
    /// Stop a container.
    StopContainer(String),
    /// Show a container's log.
    Logs(String),
    /// Open a published port in the browser.
    Port(u16),
}

impl Action {
    /// As the shell's menus name it.
    pub fn id(&self) -> String {
        match self {
            Self::Open => "open".into(),
            Self::Settings => "settings".into(),
            Self::Start => "start".into(),
            Self::Stop => "stop".into(),
            Self::Restart => "restart".into(),
            Self::Quit => "quit".into(),
            Self::StopContainer(id) => format!("stop:{id}"),
            Self::Logs(id) => format!("logs:{id}"),
            Self::Port(port) => format!("port:{port}"),
        }
    }

    /// Back from its name.
    pub fn of(id: &str) -> Option<Self> {
        Some(match id {
            "open" => Self::Open,
            "settings" => Self::Settings,
            "start" => Self::Start,
            "stop" => Self::Stop,
            "restart" => Self::Restart,
            "quit" => Self::Quit,
            _ => match id.split_once(':')? {
                ("stop", id) => Self::StopContainer(id.to_owned()),
                ("logs", id) => Self::Logs(id.to_owned()),
                ("port", port) => Self::Port(port.parse().ok()?),
                _ => return None,
            },
        })
    }
}

/// The menu.
pub fn menu(view: &View) -> Vec<MenuItem> {
    let action =
        |action: Action, text: &str, enabled| MenuItem::Action { action, text: text.to_owned(), enabled };
    let mut items = vec![action(Action::Open, "Open Coracle", true), MenuItem::Line];
    items.push(MenuItem::Label(match view.state {
        State::Stopped => "Stopped".into(),
        State::Starting => "Starting…".into(),
        State::Running => match view.running.len() {
            0 => "Running, no containers".into(),
            1 => "Running, 1 container".into(),
            n => format!("Running, {n} containers"),
        },
        State::Stopping => "Stopping…".into(),
        State::Failed => format!("Failed: {}", brief(view.error.as_deref().unwrap_or("see the window"))),
    }));
    for container in view.running.iter().take(MOST) {
        let mut more = vec![
            action(Action::StopContainer(container.id.clone()), "Stop", true),
            action(Action::Logs(container.id.clone()), "Logs", true),
        ];
        if let Some(port) = container.port {
            more.push(action(Action::Port(port), &format!("Open localhost:{port}"), true));
        }
        items.push(MenuItem::Submenu { text: brief(&container.name), items: more });
    }
    if let Some(more) = view.running.len().checked_sub(MOST).filter(|n| *n > 0) {
        items.push(action(Action::Open, &format!("{more} more…"), true));
    }
    items.push(MenuItem::Line);
    items.push(match view.state {
        State::Running | State::Stopping => {
            action(Action::Stop, "Stop the engine", view.state == State::Running)
        }
        State::Stopped | State::Failed | State::Starting => {
            action(Action::Start, "Start the engine", view.state != State::Starting)
        }
    });
    items.push(action(Action::Restart, "Restart the engine", view.state == State::Running));
    items.push(MenuItem::Line);
    items.push(action(Action::Settings, "Settings…", true));
    items.push(action(Action::Quit, "Quit (containers go on)", true));
    items
}

/// A step from one menu to the next, for a menu that may be open meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Other words, or another state, of the line at a place.
    Set {
        /// Its place.
        at: usize,
        /// Its words.
        text: String,
        /// Whether it can be clicked.
        enabled: bool,
    },
    /// The line at a place goes.
    Remove {
        /// Its place.
        at: usize,
    },
    /// A line comes before the one at a place.
    Insert {
        /// Its place.
        at: usize,
        /// It.
        item: MenuItem,
    },
}

/// What leads from one menu to the next, in order: lines that stay are changed in place, so that nothing jumps under
/// a person's pointer.
pub fn changes(old: &[MenuItem], new: &[MenuItem]) -> Vec<Change> {
    let mut now: Vec<&MenuItem> = old.iter().collect();
    let mut out = Vec::new();
    for (at, item) in new.iter().enumerate() {
        // A line that comes later in the new menu is not thrown away for one that is new.
        while now.get(at).is_some_and(|there| !same(there, item))
            && !new[at..].iter().any(|later| same(now[at], later))
        {
            now.remove(at);
            out.push(Change::Remove { at });
        }
        match (now.get(at), item) {
            (Some(there), item) if *there == item => {}
            (Some(there), MenuItem::Action { text, enabled, .. }) if same(there, item) => {
                out.push(Change::Set { at, text: text.clone(), enabled: *enabled });
                now[at] = item;
            }
            (Some(MenuItem::Label(_)), MenuItem::Label(text)) => {
                out.push(Change::Set { at, text: text.clone(), enabled: false });
                now[at] = item;
            }
            (there, item) => {
                // What opens more is replaced with what is in it.
                if there.is_some_and(|t| same(t, item)) {
                    now.remove(at);
                    out.push(Change::Remove { at });
                }
                now.insert(at, item);
                out.push(Change::Insert { at, item: item.clone() });
            }
        }
    }
    while now.len() > new.len() {
        now.pop();
        out.push(Change::Remove { at: now.len() });
    }
    out
}

/// Whether two lines are one with other words.
fn same(a: &MenuItem, b: &MenuItem) -> bool {
    match (a, b) {
        (MenuItem::Label(_), MenuItem::Label(_)) | (MenuItem::Line, MenuItem::Line) => true,
        (MenuItem::Action { action: a, .. }, MenuItem::Action { action: b, .. }) => a == b,
        (MenuItem::Submenu { text: a, .. }, MenuItem::Submenu { text: b, .. }) => a == b,
        _ => false,
    }
}

/// A menu's line is one, and short; names come from others.
fn brief(text: &str) -> String {
    const MOST: usize = 48;
    // GTK and Windows take these for marks of a key.
    let clean: String = text.chars().filter(|c| !c.is_control() && *c != '&' && *c != '_').collect();
    if clean.chars().count() <= MOST {
        return clean;
    }
    let mut short: String = clean.chars().take(MOST - 1).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(n: usize) -> Vec<Running> {
        (0..n)
            .map(|i| Running {
                id: format!("id{i}"),
                name: format!("web{i}"),
                port: (i == 0).then_some(8080),
            })
            .collect()
    }

    fn enabled(items: &[MenuItem], wanted: &Action) -> Option<bool> {
        items.iter().find_map(|item| match item {
            MenuItem::Action { action, enabled, .. } if action == wanted => Some(*enabled),
            _ => None,
        })
    }

    #[test]
    fn a_running_engine_with_many_containers() {
        let items = menu(&View { state: State::Running, error: None, running: running(10) });
        assert_eq!(items[2], MenuItem::Label("Running, 10 containers".into()));
        let submenus: Vec<_> = items.iter().filter(|i| matches!(i, MenuItem::Submenu { .. })).collect();
        assert_eq!(submenus.len(), MOST);
        let MenuItem::Submenu { text, items: first } = submenus[0] else { unreachable!() };
        assert_eq!(text, "web0");
        assert_eq!(enabled(first, &Action::Port(8080)), Some(true));
        assert_eq!(enabled(first, &Action::StopContainer("id0".into())), Some(true));
        assert!(items.iter().any(|i| matches!(i, MenuItem::Action { text, .. } if text == "2 more…")));
        assert_eq!(
            (enabled(&items, &Action::Stop), enabled(&items, &Action::Restart)),
            (Some(true), Some(true))
        );
        assert_eq!(enabled(&items, &Action::Start), None);
    }

    #[test]
    fn every_state_has_its_words_and_can_be_left() {
        for (state, word, start) in [
            (State::Stopped, "Stopped", Some(true)),
            (State::Starting, "Starting…", Some(false)),
            (State::Stopping, "Stopping…", None),
            (State::Failed, "Failed: the disk is full", Some(true)),
        ] {
            let error = (state == State::Failed).then(|| "the disk is full".to_owned());
            let items = menu(&View { state, error, running: vec![] });
            assert_eq!(items[2], MenuItem::Label(word.into()));
            assert_eq!(enabled(&items, &Action::Start), start, "{state:?}");
            assert_eq!(enabled(&items, &Action::Restart), Some(false));
            assert_eq!(enabled(&items, &Action::Quit), Some(true));
        }
    }

    #[test]
    fn names_of_others_stay_one_short_line() {
        let mut running = running(1);
        running[0].name = format!("&a_b\n{}", "x".repeat(99));
        let items = menu(&View { state: State::Running, error: None, running });
        let Some(MenuItem::Submenu { text, .. }) =
            items.iter().find(|i| matches!(i, MenuItem::Submenu { .. }))
        else {
            panic!("no container")
        };
        assert!(text.starts_with("abxx") && text.ends_with('…') && text.chars().count() == 48, "{text}");
    }

    fn applied(old: &[MenuItem], changes: Vec<Change>) -> Vec<MenuItem> {
        let mut now = old.to_vec();
        for change in changes {
            match change {
                Change::Remove { at } => drop(now.remove(at)),
                Change::Insert { at, item } => now.insert(at, item),
                Change::Set { at, text: words, enabled: can } => match &mut now[at] {
                    MenuItem::Label(text) => *text = words,
                    MenuItem::Action { text, enabled, .. } => (*text, *enabled) = (words, can),
                    other => panic!("{other:?} has no words of its own"),
                },
            }
        }
        now
    }

    #[test]
    fn every_menu_becomes_every_other() {
        let mut views = Vec::new();
        for state in [State::Stopped, State::Starting, State::Running, State::Stopping, State::Failed] {
            for n in [0, 1, 3, 8, 10] {
                views.push(menu(&View { state, error: Some("why".into()), running: running(n) }));
            }
        }
        let mut reversed = running(5);
        reversed.reverse();
        views.push(menu(&View { state: State::Running, error: None, running: reversed }));
        for old in &views {
            for new in &views {
                assert_eq!(&applied(old, changes(old, new)), new);
            }
        }
    }

    #[test]
    fn what_stays_is_changed_in_place() {
        let one = menu(&View { state: State::Running, error: None, running: running(2) });
        let two = menu(&View { state: State::Running, error: None, running: running(3) });
        let steps = changes(&one, &two);
        assert!(
            matches!(&steps[..], [Change::Set { text, .. }, Change::Insert { item: MenuItem::Submenu { .. }, .. }] if text.contains('3')),
            "{steps:?}"
        );
        assert_eq!(changes(&one, &one), []);
    }

    #[test]
    fn an_action_comes_back_from_its_name() {
        for action in [
            Action::Open,
            Action::Settings,
            Action::Start,
            Action::Stop,
            Action::Restart,
            Action::Quit,
            Action::StopContainer("abc".into()),
            Action::Logs("abc".into()),
            Action::Port(80),
        ] {
            assert_eq!(Action::of(&action.id()), Some(action));
        }
        assert_eq!(Action::of("port:99999"), None);
        assert_eq!(Action::of("nothing"), None);
    }
}
