//! A host for trays: it owns `org.kde.StatusNotifierWatcher` on the bus of a [`Display`](crate::desktop::Display), reads
//! the menus that are shown, and clicks in them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use zbus::{
    blocking::{Connection, Proxy, connection},
    interface,
    message::Header,
    zvariant::{ObjectPath, OwnedValue, Value},
};

/// Who has registered: the sender and the path of its item.
type Registered = Arc<Mutex<Vec<(String, String)>>>;

struct Watcher(Registered);

#[interface(name = "org.kde.StatusNotifierWatcher")]
impl Watcher {
    fn register_status_notifier_item(&self, service: &str, #[zbus(header)] header: Header<'_>) {
        let sender = header.sender().map(ToString::to_string).unwrap_or_default();
        let path = if service.starts_with('/') { service } else { "/StatusNotifierItem" };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((sender, path.to_owned()));
    }

    fn register_status_notifier_host(&self, _service: &str) {}

    #[zbus(property)]
    fn registered_status_notifier_items(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(sender, path)| format!("{sender}{path}")).collect()
    }

    #[zbus(property)]
    fn is_status_notifier_host_registered(&self) -> bool {
        true
    }

    #[zbus(property)]
    fn protocol_version(&self) -> i32 {
        0
    }
}

/// A line of a menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    id: i32,
    /// Its words.
    pub text: String,
    /// Whether it can be clicked.
    pub enabled: bool,
    /// What it opens.
    pub inside: Vec<Line>,
}

/// The host.
pub struct TrayHost {
    bus: Connection,
    registered: Registered,
}

/// A node of a menu as `com.canonical.dbusmenu` sends it.
type Node = (i32, HashMap<String, OwnedValue>, Vec<OwnedValue>);

impl TrayHost {
    /// Takes the name on the bus.
    pub fn start(bus: &str) -> Self {
        let registered = Registered::default();
        let bus = connection::Builder::address(bus)
            .and_then(|b| b.name("org.kde.StatusNotifierWatcher"))
            .and_then(|b| b.serve_at("/StatusNotifierWatcher", Watcher(registered.clone())))
            .and_then(connection::Builder::build)
            .expect("the bus");
        Self { bus, registered }
    }

    fn menu_of_item(&self) -> Option<Proxy<'static>> {
        let all = self.registered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (sender, path) = all.last()?.clone();
        let item = Proxy::new(&self.bus, sender.clone(), path, "org.kde.StatusNotifierItem").ok()?;
        let menu: ObjectPath<'_> = item.get_property("Menu").ok()?;
        Proxy::new(&self.bus, sender, menu.to_string(), "com.canonical.dbusmenu").ok()
    }

    /// What the menu shows; nothing while there is none.
    pub fn menu(&self) -> Vec<Line> {
        let Some(menu) = self.menu_of_item() else { return Vec::new() };
        let names: Vec<&str> = Vec::new();
        let told: zbus::Result<(u32, Node)> = menu.call("GetLayout", &(0_i32, -1_i32, names));
        told.map(|(_, root)| lines(root.2)).unwrap_or_default()
    }

    /// Clicks a line.
    pub fn click(&self, line: &Line) {
        let menu = self.menu_of_item().expect("a menu");
        let none = Value::from(0_i32);
        menu.call::<_, _, ()>("Event", &(line.id, "clicked", none, 0_u32)).expect("the click is taken");
    }
}

fn lines(nodes: Vec<OwnedValue>) -> Vec<Line> {
    nodes
        .into_iter()
        .filter_map(|node| Node::try_from(node).ok())
        .map(|(id, about, inside)| {
            let text = about.get("label").and_then(|v| <&str>::try_from(v).ok()).unwrap_or_default();
            let enabled = about.get("enabled").and_then(|v| bool::try_from(v).ok()).unwrap_or(true);
            Line { id, text: text.to_owned(), enabled, inside: lines(inside) }
        })
        .collect()
}
