//! How a run begins, or is found again.

use tokio::time::Instant;

use super::networks::serve_names;
use super::{Run, State, Task};
use crate::container::{LastRun, PublishedPort, create, health, images, links, memory, spec};
use crate::error::{Code, Error, Result};

impl Task {
    /// Starts it. Of a failure others hear from who asked for the start: the container rests then, or waits to be
    /// started again.
    pub(super) async fn start(&mut self) -> Result<()> {
        match self.bring_up().await {
            Ok(run) => {
                self.record.last.error = String::new();
                self.record.stopped_by_user = false;
                self.state = State::Running(Box::new(run));
                self.save(self.run_durability()).await;
                self.publish_running();
                self.emit("start", &[]);
                links::tell_those_linked_to(&self.engine, &self.record.id).await;
                Ok(())
            }
            Err(error) => {
                self.record.last.error.clone_from(&error.error.message);
                self.record.last.exit_code = error.exit_code.unwrap_or(128);
                self.record.last.members.clear();
                self.record.last.ports.clear();
                self.state = State::Idle;
                self.pending.clear();
                if !self.record.host.auto_remove {
                    self.save(self.run_durability()).await;
                }
                Err(error.error)
            }
        }
    }

    async fn bring_up(&mut self) -> std::result::Result<Run, StartError> {
        let engine = self.engine.clone();
        let names = self.record.mounts.iter().filter_map(|m| m.volume.as_deref());
        let brought = match engine.volumes.acquire(names, &self.record.id, &engine.host_paths).await {
            Ok(()) => self.bring_up_mounted().await,
            Err(e) => Err(e.into()),
        };
        if brought.is_err() {
            engine.volumes.release(&self.record.id).await;
        }
        brought
    }

    async fn bring_up_mounted(&mut self) -> std::result::Result<Run, StartError> {
        let engine = self.engine.clone();
        let id = self.record.id.clone();
        let files = self.files.clone().lock_owned().await;
        let rootfs =
            engine.images.mount(&create::image_digest(&self.record)?, &id).await.map_err(Error::from)?;
        // Until the container's mounts are made.
        let held = images::hold(&engine, &self.record).await?;
        let bundle = spec::bundle(&engine, &self.record, rootfs, held.as_ref()).await?;
        let container = engine.runtime.create(bundle).await.map_err(start_error)?;
        // Mounted: from here on its files are reached through its first process.
        drop(files);
        let mut run = Run {
            container,
            members: Vec::new(),
            names: None,
            started: Instant::now(),
            paused: false,
            _monitor: None,
            _kills: None,
            stopping: None,
        };
        let mut ports = Vec::new();
        match self.connect_and_start(&mut run, &mut ports).await {
            Ok(()) => {
                engine.volumes_event(&self.record, "mount");
                self.record.last = LastRun {
                    started_at: crate::time::now(),
                    finished_at: self.record.last.finished_at.clone(),
                    members: run.members.clone(),
                    ports,
                    health: health::command(&self.record.config).map(|_| health::Health {
                        log: self.record.last.health.take().map(|h| h.log).unwrap_or_default(),
                        ..health::Health::default()
                    }),
                    ..LastRun::default()
                };
                run._monitor = health::watch(&engine, &self.record, &run.container);
                run._kills = memory::listen(&engine, &self.record, &run.container);
                Ok(run)
            }
            Err(e) => {
                self.release(run).await;
                Err(e)
            }
        }
    }

    async fn connect_and_start(
        &mut self,
        run: &mut Run,
        ports: &mut Vec<PublishedPort>,
    ) -> std::result::Result<(), StartError> {
        self.join_networks(run).await?;
        *ports = self.open_ports(&run.members).await?;
        for (want, reply) in self.pending.drain(..) {
            if reply.is_closed() {
                continue;
            }
            let attachment = run.container.attach(want).await.map_err(start_error)?;
            // The client may have gone away.
            let _ = reply.send(attachment);
        }
        run.container.start().await.map_err(start_error)
    }

    /// A container found running after the engine's restart.
    pub(super) async fn adopt(&mut self, container: runtime::Container) {
        let who = (self.record.id.as_str(), self.record.name.as_str());
        for member in &self.record.last.members {
            self.engine.networks.rejoin(who, member);
        }
        let mut run = Run {
            members: self.record.last.members.clone(),
            names: None,
            started: Instant::now(),
            paused: container.is_paused(),
            _monitor: health::watch(&self.engine, &self.record, &container),
            _kills: memory::listen(&self.engine, &self.record, &container),
            stopping: None,
            container,
        };
        if let Err(e) = serve_names(&self.engine, &self.record, &mut run).await {
            tracing::error!("container {} has no name server: {e}", self.record.name);
        }
        self.state = State::Running(Box::new(run));
    }
}

/// Why a start failed, and the exit code Docker gives for it.
struct StartError {
    error: Error,
    exit_code: Option<u8>,
}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        Self { error, exit_code: None }
    }
}

/// The runtime's failure in the words the CLI looks for when it chooses between 125, 126 and 127.
fn start_error(e: runtime::Error) -> StartError {
    let words = format!(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: unable to start container process: error during container init: {e}"
    );
    match e.code() {
        runtime::Code::NotFound => {
            StartError { error: Error { code: Code::InvalidArgument, message: words }, exit_code: Some(127) }
        }
        runtime::Code::NotExecutable => {
            StartError { error: Error { code: Code::InvalidArgument, message: words }, exit_code: Some(126) }
        }
        runtime::Code::InvalidArgument => {
            StartError { error: Error { code: Code::InvalidArgument, message: words }, exit_code: Some(128) }
        }
        _ => StartError { error: Error::internal(words), exit_code: Some(128) },
    }
}
