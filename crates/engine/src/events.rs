//! What happens in the engine, told to whoever listens (`GET /events`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::broadcast;

/// Past events kept for `since`, as many as dockerd keeps.
const KEPT: usize = 256;
/// Events a slow listener may lag behind before it loses some.
const BACKLOG: usize = 1024;

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// `container`, `image`, `network`, `volume`, `daemon`.
    pub kind: &'static str,
    /// What happened: `create`, `start`, `exec_create: sh` ...
    pub action: String,
    /// Id or name of what it happened to.
    pub id: String,
    /// More about it: labels, image, exit code ...
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub at: SystemTime,
}

impl Event {
    /// Time since the epoch.
    pub fn since_epoch(&self) -> Duration {
        self.at.duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// As the API tells it; containers and images with the fields of old API versions too.
    pub fn to_json(&self) -> Value {
        let at = self.since_epoch();
        let mut v = json!({
            "Type": self.kind, "Action": self.action,
            "Actor": { "ID": self.id, "Attributes": self.attributes },
            "scope": "local", "time": at.as_secs(), "timeNano": at.as_nanos() as u64,
        });
        if matches!(self.kind, "container" | "image") {
            v["status"] = json!(self.action);
            v["id"] = json!(self.id);
            if let Some(from) = self.attributes.get("image").filter(|_| self.kind == "container") {
                v["from"] = json!(from);
            }
        }
        v
    }
}

/// The engine's events: a short past and a live stream.
pub struct Events {
    past: Mutex<VecDeque<Event>>,
    live: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self { past: Mutex::default(), live: broadcast::channel(BACKLOG).0 }
    }
}

impl Events {
    /// Tells everybody.
    pub fn emit(
        &self,
        kind: &'static str,
        action: impl Into<String>,
        id: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) {
        let event = Event { kind, action: action.into(), id: id.into(), attributes, at: SystemTime::now() };
        let mut past = self.past.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Nobody listening is fine. Sent under the lock, so that `subscribe` misses nothing and sees nothing twice.
        let _ = self.live.send(event);
    }

    /// The past events and all that come from now on.
    pub fn subscribe(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let past = self.past.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (past.iter().cloned().collect(), self.live.subscribe())
    }

    /// How many listen now.
    pub fn listeners(&self) -> usize {
        self.live.receiver_count()
    }
}
