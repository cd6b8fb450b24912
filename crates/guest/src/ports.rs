//! Published ports: passes the engine's wanted set on to the host, and the host's answer back.
//!
//! The engine connects to [`SOCKET`]; the newest connection holds. When it drops, the last set stays until a new one
//! comes. Generations are renumbered here, so that they grow over restarts of the engine.

use std::{
    collections::HashMap,
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use link::{Frames, LinkError, write_frame};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use wire::ports::{Bind, Outcome, PortError, PortResult, Wanted};

use crate::{BREATH, say};

/// Where the engine speaks [`wire::ports`].
pub const SOCKET: &str = "/run/coracle/ports.sock";
/// Time in which the host must answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Between engine and host.
#[derive(Clone, Default)]
pub struct Relay {
    wanted: Arc<watch::Sender<Wanted>>,
    outcome: Arc<watch::Sender<Outcome>>,
    /// Ports that the host picked, by key: asked for again by number, so that a port stays over restarts of engine and
    /// daemon for as long as it is wanted.
    picked: Arc<Mutex<HashMap<String, u16>>>,
}

impl Relay {
    /// The set wanted now, and every change.
    pub fn wanted(&self) -> watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }

    /// The host has answered.
    pub fn answered(&self, outcome: Outcome) {
        self.outcome.send_replace(outcome);
    }

    /// Serves the engine.
    pub async fn serve(self) {
        let _ = std::fs::remove_file(SOCKET);
        let listener = match UnixListener::bind(SOCKET) {
            Ok(listener) => listener,
            Err(error) => return say(format_args!("the ports' socket {SOCKET}: {error}")),
        };
        let _ = std::fs::set_permissions(SOCKET, std::fs::Permissions::from_mode(0o600));
        let mut current = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                sleep(BREATH).await;
                continue;
            };
            current.abort_all();
            let relay = self.clone();
            current.spawn(async move {
                if let Err(error) = relay.connection(stream).await {
                    say(format_args!("the engine's ports: {error}"));
                }
            });
        }
    }

    /// What the host picked becomes what is asked for.
    fn keep(&self, results: &[PortResult]) {
        self.wanted.send_if_modified(|set| {
            let mut picked = self.picked();
            for port in set.ports.iter_mut().filter(|port| port.host_port == 0) {
                if let Some(Bind::Ok { host_port }) =
                    results.iter().find(|r| r.key == port.key).map(|r| &r.result)
                {
                    port.host_port = *host_port;
                    picked.insert(port.key.clone(), *host_port);
                }
            }
            false // a host that asks anew gets it; the one that picked knows it
        });
    }

    fn picked(&self) -> MutexGuard<'_, HashMap<String, u16>> {
        self.picked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(&self, stream: UnixStream) -> Result<(), LinkError> {
        let (reader, mut writer) = stream.into_split();
        let mut frames = Frames::new(reader);
        while let Some(wanted) = frames.next::<Wanted>().await? {
            let outcome = self.ask(wanted).await;
            write_frame(&mut writer, &outcome).await?;
        }
        Ok(())
    }

    async fn ask(&self, wanted: Wanted) -> Outcome {
        if let Err(message) = wanted.check() {
            return Outcome::all_failed(&wanted, PortError::Invalid, &message);
        }
        let theirs = wanted.generation;
        let mut ports = wanted.ports.clone();
        {
            let mut picked = self.picked();
            picked.retain(|key, _| ports.iter().any(|port| port.key == *key));
            for port in ports.iter_mut().filter(|port| port.host_port == 0) {
                port.host_port = picked.get(&port.key).copied().unwrap_or(0);
            }
        }
        let mut answers = self.outcome.subscribe();
        let mut ours = 0;
        self.wanted.send_modify(|set| {
            ours = set.generation + 1;
            *set = Wanted { generation: ours, ports };
        });
        let answer = timeout(ANSWER_LIMIT, answers.wait_for(|o| o.generation == ours)).await;
        match answer {
            Ok(Ok(outcome)) => {
                let results = outcome.results.clone();
                drop(outcome);
                self.keep(&results);
                Outcome { generation: theirs, results }
            }
            _ => Outcome::all_failed(&wanted, PortError::Unavailable, "the host does not answer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::ports::{Port, Proto};

    use super::*;

    #[tokio::test]
    async fn a_set_goes_to_the_host_and_its_answer_comes_back() {
        let relay = Relay::default();
        let port = Port {
            key: "k".into(),
            proto: Proto::Tcp,
            host_ip: "0.0.0.0".parse().unwrap(),
            host_port: 0,
            target_ip: "172.17.0.2".parse().unwrap(),
            target_port: 80,
        };
        let host = tokio::spawn({
            let relay = relay.clone();
            async move {
                let mut wanted = relay.wanted();
                let set = wanted.wait_for(|w| w.generation == 1).await.unwrap().clone();
                let results =
                    vec![PortResult { key: set.ports[0].key.clone(), result: Bind::Ok { host_port: 4711 } }];
                relay.answered(Outcome { generation: 1, results });
            }
        });
        let outcome = relay.ask(Wanted { generation: 40, ports: vec![port] }).await;
        host.await.unwrap();
        // A host that comes later is asked for the port that was picked.
        assert_eq!(relay.wanted().borrow().ports[0].host_port, 4711);
        assert_eq!(outcome.generation, 40);
        assert_eq!(outcome.results[0].result, Bind::Ok { host_port: 4711 });
    }

    #[tokio::test(start_paused = true)]
    async fn no_host_is_an_error_in_words() {
        let wanted = Wanted { generation: 1, ports: vec![] };
        assert_eq!(Relay::default().ask(wanted).await, Outcome { generation: 1, results: vec![] });
    }
}
