//! What happens in the engine, told to whoever listens (`GET /events`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

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

    /// The next event of those that come, until a time; `None` when none comes any more. What happened before that time and waits to
    /// be heard is told, what happened after it is not.
    pub async fn next(live: &mut broadcast::Receiver<Event>, until: Option<SystemTime>) -> Option<Event> {
        loop {
            let left = until.map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
            let heard = match left {
                None => live.recv().await,
                Some(Duration::ZERO) => match live.try_recv() {
                    Ok(event) => Ok(event),
                    Err(TryRecvError::Lagged(n)) => Err(RecvError::Lagged(n)),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
                },
                Some(left) => match tokio::time::timeout(left, live.recv()).await {
                    Ok(heard) => heard,
                    Err(_) => continue,
                },
            };
            match heard {
                Ok(event) if until.is_none_or(|until| event.at <= until) => return Some(event),
                Ok(_) => {}
                Err(RecvError::Lagged(n)) => {
                    tracing::warn!("a listener lost {n} events: it reads too slowly");
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// How many listen now.
    pub fn listeners(&self) -> usize {
        self.live.receiver_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emit(events: &Events, action: &str) {
        events.emit("container", action, "c", BTreeMap::new());
    }

    #[tokio::test]
    async fn what_happens_after_the_end_is_not_told_and_what_happened_before_it_is() {
        let events = Events::default();
        let (_, mut live) = events.subscribe();
        emit(&events, "start");
        let until = SystemTime::now();
        while SystemTime::now() == until {}
        emit(&events, "die");
        let told = Events::next(&mut live, Some(until)).await;
        assert_eq!(told.map(|event| event.action).as_deref(), Some("start"));
        assert!(Events::next(&mut live, Some(until)).await.is_none());
    }

    #[tokio::test]
    async fn an_end_that_is_still_to_come_is_waited_for() {
        let events = Events::default();
        let (_, mut live) = events.subscribe();
        let until = SystemTime::now() + Duration::from_millis(50);
        assert!(Events::next(&mut live, Some(until)).await.is_none());
        assert!(SystemTime::now() >= until);
        // Without one, until there is nobody to tell anything.
        emit(&events, "start");
        assert!(Events::next(&mut live, None).await.is_some());
        drop(events);
        assert!(Events::next(&mut live, None).await.is_none());
    }
}
