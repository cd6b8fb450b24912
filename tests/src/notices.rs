//! A desktop's notifications: it owns `org.freedesktop.Notifications` on the bus of a
//! [`Display`](crate::desktop::Display) and keeps what is told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use zbus::{
    blocking::{Connection, connection},
    interface,
    zvariant::OwnedValue,
};

/// Titles and texts.
type Kept = Arc<Mutex<Vec<(String, String)>>>;

struct Server(Kept);

#[interface(name = "org.freedesktop.Notifications")]
impl Server {
    #[expect(clippy::too_many_arguments, reason = "the specification of notifications has them")]
    fn notify(
        &self,
        _program: &str,
        _replaces: u32,
        _icon: &str,
        title: String,
        text: String,
        _actions: Vec<String>,
        _hints: HashMap<String, OwnedValue>,
        _milliseconds: i32,
    ) -> u32 {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((title, text));
        u32::try_from(all.len()).unwrap_or(u32::MAX)
    }

    fn close_notification(&self, _id: u32) {}

    fn get_capabilities(&self) -> Vec<String> {
        vec!["body".into()]
    }

    fn get_server_information(&self) -> (String, String, String, String) {
        ("tests".into(), "Coracle".into(), "1".into(), "1.2".into())
    }
}

/// The server.
pub struct Notices {
    kept: Kept,
    _bus: Connection,
}

impl Notices {
    /// Takes the name on the bus.
    pub fn start(bus: &str) -> Self {
        let kept = Kept::default();
        let bus = connection::Builder::address(bus)
            .and_then(|b| b.name("org.freedesktop.Notifications"))
            .and_then(|b| b.serve_at("/org/freedesktop/Notifications", Server(kept.clone())))
            .and_then(connection::Builder::build)
            .expect("the bus");
        Self { kept, _bus: bus }
    }

    /// What was told so far: titles and texts.
    pub fn all(&self) -> Vec<(String, String)> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
