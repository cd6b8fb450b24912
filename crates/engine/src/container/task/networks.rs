//! A container's places in networks: taken when it starts, and changed while it runs.

use std::sync::Arc;

use super::{Run, State, Task};
use crate::container::config::EndpointSettings;
use crate::container::{PublishedPort, Record, links, names, ports};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::networks::{CONTEXT, Driver, Member, Network, primary, routes_of};
use crate::store::Durability;

impl Task {
    pub(super) async fn join_networks(&mut self, run: &mut Run) -> Result<()> {
        let engine = self.engine.clone();
        if links::shares_network(&self.record.host) {
            return Ok(());
        }
        let who = (self.record.id.as_str(), self.record.name.as_str());
        if let Some(settings) = self.record.networks.get("host") {
            // No link, but it is listed as a member.
            let network = engine.networks.find("host")?;
            run.members.push(engine.networks.join(&network, who, settings).await?);
            return Ok(());
        }
        let netns = run.container.netns();
        network::loopback_up(&netns).await.map_err(|e| Error::from(e).context(CONTEXT))?;
        for (name, settings) in &self.record.networks {
            let network = engine.networks.find(name).map_err(|e| e.context(CONTEXT))?;
            let member =
                engine.networks.join(&network, who, settings).await.map_err(|e| e.context(CONTEXT))?;
            // Entered before it is plugged, so that a failure gives the address back.
            run.members.push(member);
        }
        let routes: Vec<_> = run.members.iter().map(|m| routes_of(m, &run.members)).collect();
        for (n, (member, ways_out)) in run.members.iter_mut().zip(routes).enumerate() {
            let network = engine.networks.find(&member.network_id)?;
            let interface = format!("{}{n}", network.interface_prefix());
            let plugged = engine.networks.plug(member, &netns, &interface, ways_out).await;
            plugged.map_err(|e| e.context(CONTEXT))?;
            engine.network_event(&network, "connect", &self.record.id);
        }
        names::write_hosts(&engine, &self.record, &run.members).await?;
        serve_names(&engine, &self.record, run).await.map_err(|e| e.context(CONTEXT))
    }

    pub(super) async fn open_ports(&self, members: &[Member]) -> Result<Vec<PublishedPort>> {
        let Some(member) = carries_ports(&self.engine, members) else { return Ok(Vec::new()) };
        let network = self.engine.networks.find(&member.network_id)?;
        let requests = ports::port_requests(&self.record, member, network.binding_address())?;
        let (routed, opened): (Vec<_>, Vec<_>) =
            requests.iter().cloned().partition(|request| network.is_routed_to(request));
        let mut opened = self.open_requests(member, opened).await?.into_iter();
        if !routed.is_empty() {
            let ports = routed.iter().map(|r| (r.protocol, r.target)).collect();
            self.engine.networks.firewall().admit(&self.record.id, ports).await?;
        }
        // In the order in which they were asked for.
        let published = |r: &network::PortRequest| {
            if network.is_routed_to(r) { Some(ports::routed(r)) } else { opened.next() }
        };
        Ok(requests.iter().filter_map(published).collect())
    }

    async fn open_requests(
        &self,
        member: &Member,
        requests: Vec<network::PortRequest>,
    ) -> Result<Vec<PublishedPort>> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let opened = self.engine.ports.open(&self.record.id, requests).await.map_err(|e| {
            // dockerd answers 500 here whatever the cause; the CLI exits with 125.
            Error::internal(format!(
                "{CONTEXT}: driver failed programming external connectivity on endpoint {} ({}): {e}",
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

    /// Enters a network; a container that does not run only notes it.
    pub(super) async fn connect(&mut self, network: &Arc<Network>, settings: EndpointSettings) -> Result<()> {
        may_connect(&self.engine, &self.record, network)?;
        if let State::Running(mut run) = std::mem::replace(&mut self.state, State::Idle) {
            let result = self.enter(&mut run, network, &settings).await;
            self.record.last.members.clone_from(&run.members);
            self.state = State::Running(run);
            result?;
        }
        self.record.networks.insert(network.name.clone(), settings);
        self.networks_changed().await
    }

    /// Leaves a network; a container that does not run only forgets it.
    pub(super) async fn disconnect(&mut self, network: &Arc<Network>) -> Result<()> {
        let host = matches!(network.driver, Driver::Host);
        let running = matches!(self.state, State::Running(_));
        if running && host && self.record.networks.contains_key("host") {
            return Err(Error::invalid(
                "cannot disconnect container from host network - container was created in host network mode",
            ));
        }
        if !self.record.networks.contains_key(&network.name) {
            // The words differ as dockerd's do; both are 500.
            let to = if running { "network" } else { "the network" };
            return Err(Error::internal(format!(
                "container {} is not connected to {to} {}",
                self.record.id, network.name
            )));
        }
        if let State::Running(mut run) = std::mem::replace(&mut self.state, State::Idle) {
            let result = self.quit(&mut run, network).await;
            self.record.last.members.clone_from(&run.members);
            self.state = State::Running(run);
            result?;
        }
        self.record.networks.remove(&network.name);
        self.networks_changed().await
    }

    async fn networks_changed(&mut self) -> Result<()> {
        self.save(Durability::Durable).await;
        let status = self.publish.borrow().status.clone();
        self.publish(status);
        if let State::Running(mut run) = std::mem::replace(&mut self.state, State::Idle) {
            let named = names::write_resolv_conf(&self.engine, &self.record).await;
            let served = serve_names(&self.engine, &self.record, &mut run).await;
            self.state = State::Running(run);
            named.and(served)?;
        }
        Ok(())
    }

    async fn enter(&mut self, run: &mut Run, network: &Network, settings: &EndpointSettings) -> Result<()> {
        let engine = self.engine.clone();
        if run.members.iter().any(|m| m.network_id == network.id) {
            return Err(Error::forbidden(format!(
                "endpoint with name {} already exists in network {}",
                self.record.name, network.name
            )));
        }
        let who = (self.record.id.as_str(), self.record.name.as_str());
        let mut member = engine.networks.join(network, who, settings).await?;
        let number =
            |m: &Member| m.interface.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().ok();
        let next = run.members.iter().filter_map(number).max().map_or(0, |n| n + 1);
        let interface = format!("{}{next}", network.interface_prefix());
        let before = primary(&run.members).map(|m| m.network_id.clone());
        run.members.push(member.clone());
        let carries = primary(&run.members).is_some_and(|m| m.network_id == network.id);
        let routes = routes_of(&member, &run.members);
        run.members.pop();
        if let Err(e) = engine.networks.plug(&mut member, &run.container.netns(), &interface, routes).await {
            engine.networks.leave(&self.record.id, &member);
            return Err(e);
        }
        let addresses: Vec<_> = member.addresses().collect();
        run.members.push(member);
        for address in addresses {
            // A file that a program filled with something else cannot be added to: then it is as if nothing was.
            if let Err(e) = names::add_to_hosts(&engine, &self.record, address).await {
                if let Some(member) = run.members.pop() {
                    engine.networks.unplug(&member, &run.container.netns()).await?;
                    engine.networks.leave(&self.record.id, &member);
                }
                return Err(e.context("add the address to /etc/hosts of the container"));
            }
        }
        engine.network_event(network, "connect", &self.record.id);
        if carries && before.is_some() { self.move_ports(run).await } else { Ok(()) }
    }

    async fn quit(&mut self, run: &mut Run, network: &Network) -> Result<()> {
        let engine = self.engine.clone();
        let Some(n) = run.members.iter().position(|m| m.network_id == network.id) else {
            return Ok(());
        };
        let carried = primary(&run.members).is_some_and(|m| m.network_id == network.id);
        let lost = routes_of(&run.members[n], &run.members);
        engine.networks.unplug(&run.members[n], &run.container.netns()).await?;
        let member = run.members.remove(n);
        engine.networks.leave(&self.record.id, &member);
        for address in member.addresses() {
            names::remove_from_hosts(&engine, &self.record, address).await?;
        }
        engine.network_event(network, "disconnect", &self.record.id);
        for other in &run.members {
            let instead = routes_of(other, &run.members);
            for way in instead.into_iter().filter(|way| lost.iter().any(|lost| lost.is_v6() == way.is_v6())) {
                network::set_way_out(&run.container.netns(), &other.interface, way).await?;
            }
        }
        if !carried {
            return Ok(());
        }
        self.move_ports(run).await
    }

    /// Another network leads out now: what is published goes there, on the same ports of the host.
    async fn move_ports(&mut self, run: &Run) -> Result<()> {
        if self.record.last.ports.is_empty() {
            return Ok(());
        }
        self.engine.ports.close(&self.record.id).await;
        self.engine.networks.firewall().dismiss(&self.record.id).await;
        let had = std::mem::take(&mut self.record.last.ports);
        let Some(member) = carries_ports(&self.engine, &run.members) else { return Ok(()) };
        let again = ports::ports_again(&had, member);
        let network = self.engine.networks.find(&member.network_id)?;
        // What was, or will be, reached at the container's own address begins anew.
        self.record.last.ports = if again.len() < had.len() || again.iter().any(|r| network.is_routed_to(r)) {
            self.open_ports(&run.members).await?
        } else {
            self.open_requests(member, again).await?
        };
        Ok(())
    }
}

/// The place whose addresses published ports lead to. Links over one of the host's stand in its network themselves:
/// nothing is published there, as with dockerd.
fn carries_ports<'a>(engine: &Engine, members: &'a [Member]) -> Option<&'a Member> {
    let bridged = |m: &&Member| {
        let network = engine.networks.find(&m.network_id);
        network.is_ok_and(|n| matches!(n.driver, Driver::Bridge { .. }))
    };
    primary(members).filter(bridged)
}

/// Starts the container's name server, once it is in a network that has names. It stays when the container leaves
/// again: its `resolv.conf` is read by programs when they start.
pub(super) async fn serve_names(engine: &Arc<Engine>, record: &Record, run: &mut Run) -> Result<()> {
    let named = |m: &Member| engine.networks.find(&m.network_id).is_ok_and(|n| !n.is_predefined());
    if run.names.is_some() || !run.members.iter().any(named) {
        return Ok(());
    }
    run.names = Some(names::serve(engine, record, &run.container.netns()).await?);
    Ok(())
}

/// Whether a container may enter a network besides those it is in, in Docker's words.
fn may_connect(engine: &Engine, record: &Record, network: &Network) -> Result<()> {
    if links::shares_network(&record.host) || record.networks.contains_key("host") {
        return Err(Error::invalid(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        ));
    }
    if matches!(network.driver, Driver::Host) {
        return Err(Error::invalid(
            "cannot connect container to host network - container must be created in host network mode",
        ));
    }
    let none = |name: &String| engine.networks.find(name).is_ok_and(|n| matches!(n.driver, Driver::Null));
    let other = record.networks.keys().any(|name| *name != network.name);
    if other && (matches!(network.driver, Driver::Null) || record.networks.keys().any(none)) {
        return Err(Error::invalid(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ));
    }
    Ok(())
}
