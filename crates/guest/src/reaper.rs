//! Children and orphans: PID 1 waits for everybody, and tells those who asked how their child ended.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::{say, sys};

/// The one that waits for children.
#[derive(Clone, Default)]
pub struct Reaper {
    asked: Arc<Mutex<HashMap<u32, oneshot::Sender<String>>>>,
}

impl Reaper {
    /// Starts to wait. Must be called in a runtime.
    pub fn start() -> Self {
        let reaper = Self::default();
        match signal(SignalKind::child()) {
            Ok(mut ended) => {
                let reaper = reaper.clone();
                tokio::spawn(async move {
                    loop {
                        // Reaping waits for whoever holds CHILDREN: not in the way of the runtime's tasks.
                        let turn = reaper.clone();
                        let _ = tokio::task::spawn_blocking(move || turn.reap()).await;
                        ended.recv().await;
                    }
                });
            }
            Err(error) => say(format_args!("no signals of children: {error}")),
        }
        reaper
    }

    /// Starts a child by `start`, which gives whatever it likes and the pid; the receiver gets how it ended.
    pub fn spawn<T>(
        &self,
        start: impl FnOnce() -> io::Result<(T, u32)>,
    ) -> io::Result<(T, u32, oneshot::Receiver<String>)> {
        // Nobody reaps until the pid is on the list.
        let _turn = sys::CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
        let (what, pid) = start()?;
        let (tell, ended) = oneshot::channel();
        self.asked().insert(pid, tell);
        Ok((what, pid, ended))
    }

    fn reap(&self) {
        let _turn = sys::CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((pid, how)) = sys::reap() {
            if let Some(tell) = self.asked().remove(&pid) {
                let _ = tell.send(how);
            }
        }
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<String>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
