//! Kills for want of memory, told as they come: the container itself may go on.

use std::sync::Arc;

use super::{Command, Record};
use crate::engine::Engine;

/// Ends with the value: who listens to the kernel about one run.
pub struct Listener(tokio::task::JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to listen; `None` where the machine does not count memory.
pub fn listen(engine: &Arc<Engine>, record: &Record, container: &runtime::Container) -> Option<Listener> {
    let mut kills = container.memory_kills().ok()?;
    let (engine, id, run) = (engine.clone(), record.id.clone(), record.last.started_at.clone());
    Some(Listener(tokio::spawn(async move {
        while kills.next().await.is_ok() {
            // Gone with its container: then this ends too.
            let Ok(handle) = engine.containers.find(&id) else { return };
            if handle.send(Command::OutOfMemory { run: run.clone() }).await.is_err() {
                return;
            }
        }
    })))
}
