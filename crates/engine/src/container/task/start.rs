//! How a run begins, or is found again.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Run, State, Task};
use crate::container::{LastRun, PublishedPort, Status, create, health, names, ports, spec};
use crate::error::{Code, Error, Result};
use crate::networks::ContainerNames;
use crate::store::Durability;

impl Task {
    pub(super) async fn start(&mut self) -> Result<()> {
        match self.bring_up().await {
            Ok(run) => {
                self.record.last.error = String::new();
                self.record.stopped_by_user = false;
                self.state = State::Running(Box::new(run));
                // Found again through its shim after a crash: nothing is lost if this line is.
                self.save(Durability::Lazy).await;
                self.publish_running();
                self.emit("start", &[]);
                Ok(())
            }
            Err(error) => {
                self.record.last.error.clone_from(&error.error.message);
                self.record.last.exit_code = error.exit_code.unwrap_or(128);
                self.record.last.members.clear();
                self.record.last.ports.clear();
                self.state = State::Idle;
                let ran = !self.record.last.started_at.is_empty();
                self.publish(if ran { Status::Exited } else { Status::Created });
                self.pending.clear();
                if !self.record.host.auto_remove {
                    self.save(Durability::Lazy).await;
                }
                Err(error.error)
            }
        }
    }

    async fn bring_up(&mut self) -> std::result::Result<Run, StartError> {
        let engine = self.engine.clone();
        let id = self.record.id.clone();
        let files = self.files.clone().lock_owned().await;
        let rootfs =
            engine.images.mount(&create::image_digest(&self.record)?, &id).await.map_err(Error::from)?;
        let bundle = spec::bundle(&engine, &self.record, rootfs).await?;
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
        *ports = self.open_ports(run).await?;
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

    pub(super) async fn join_networks(&mut self, run: &mut Run) -> Result<()> {
        let context = "failed to set up container networking";
        if self.record.host.network_mode.starts_with("container:")
            || self.record.networks.contains_key("host")
        {
            return self.note_host_network(run).await;
        }
        let netns = run.container.netns();
        network::loopback_up(&netns).await.map_err(|e| Error::from(e).context(context))?;
        let engine = self.engine.clone();
        let mut user_networks = Vec::new();
        let wanted = self.record.networks.clone();
        for (n, (name, settings)) in wanted.iter().enumerate() {
            let network = engine.networks.find(name).map_err(|e| e.context(context))?;
            let who = (self.record.id.as_str(), self.record.name.as_str());
            let member =
                engine.networks.join(&network, who, settings).await.map_err(|e| e.context(context))?;
            // Entered before it is plugged, so that a failure gives the address back.
            run.members.push(member);
            if let Some(member) = run.members.last_mut() {
                let plugged = engine.networks.plug(member, &netns, &format!("eth{n}"), n == 0).await;
                plugged.map_err(|e| e.context(context))?;
            }
            if !network.is_predefined() {
                user_networks.push(network.id.clone());
            }
            engine.network_event(&network, "connect", &self.record.id);
        }
        names::write_hosts(&engine, &self.record, &run.members).await?;
        if !user_networks.is_empty() {
            let names = ContainerNames {
                networks: engine.networks.clone(),
                network_ids: user_networks,
                upstreams: names::upstreams(&engine, &self.record),
            };
            let server = network::dns::serve(&netns, Arc::new(names)).await;
            run.names = Some(server.map_err(|e| Error::from(e).context(context))?);
        }
        Ok(())
    }

    /// `--network host`: no link, but it is listed as a member.
    pub(super) async fn note_host_network(&mut self, run: &mut Run) -> Result<()> {
        if let Some(settings) = self.record.networks.get("host") {
            let network = self.engine.networks.find("host")?;
            let who = (self.record.id.as_str(), self.record.name.as_str());
            run.members.push(self.engine.networks.join(&network, who, settings).await?);
        }
        Ok(())
    }

    pub(super) async fn open_ports(&self, run: &Run) -> Result<Vec<PublishedPort>> {
        let Some(member) = run.members.iter().find(|m| m.address.is_some()) else { return Ok(Vec::new()) };
        let Some(address) = member.address else { return Ok(Vec::new()) };
        let requests = ports::port_requests(&self.record, address.addr())?;
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let opened = self.engine.ports.open(&self.record.id, requests).await.map_err(|e| {
            // dockerd answers 500 here whatever the cause; the CLI exits with 125.
            Error::internal(format!(
                "failed to set up container networking: driver failed programming external connectivity on endpoint {} ({}): {e}",
                self.record.name, member.endpoint_id
            ))
        })?;
        let published = |b: network::Binding| PublishedPort {
            port: format!("{}/{}", b.request.target.port(), b.request.protocol.name()),
            host_ip: b.request.host_ip,
            host_port: b.host_port,
        };
        Ok(opened.into_iter().map(published).collect())
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
            paused: false,
            _monitor: health::watch(&self.engine, &self.record, &container),
            stopping: None,
            container,
        };
        let user_networks: Vec<String> = run
            .members
            .iter()
            .filter_map(|m| self.engine.networks.find(&m.network_id).ok())
            .filter(|n| !n.is_predefined())
            .map(|n| n.id.clone())
            .collect();
        if !user_networks.is_empty() {
            let names = ContainerNames {
                networks: self.engine.networks.clone(),
                network_ids: user_networks,
                upstreams: names::upstreams(&self.engine, &self.record),
            };
            match network::dns::serve(&run.container.netns(), Arc::new(names)).await {
                Ok(server) => run.names = Some(server),
                Err(e) => tracing::error!("container {} has no name server: {e}", self.record.name),
            }
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
