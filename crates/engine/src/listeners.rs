//! What containers of the network `host` listen on, in a machine: open on the host outside as well, where people take
//! that network for the host's own.
//!
//! Sockets come and go without a word, so the kernel's tables are looked at, as long as there is such a container; whose a
//! socket is its inode tells, among the descriptors of the containers' processes. What others have (this engine, its
//! guest) stays inside. A listener of all addresses is open on all of the host's, one of loopback on the host's loopback;
//! any other address is the machine's own and none of the host's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use network::{Listening, PortRequest, Protocol};

use crate::container::{Status, View};
use crate::engine::Engine;

/// Pause between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Looks after which a port is asked for again that the host refused.
const RETRY: u32 = 10;

/// A port of the host: transport, address, number.
type Place = (Protocol, IpAddr, u16);

/// Keeps the host's ports as the containers' listeners are, for as long as the engine lives.
pub async fn follow(engine: Arc<Engine>) {
    let mut changes = engine.networks.watch_host();
    let mut outside = Outside::default();
    loop {
        changes.borrow_and_update();
        let containers = on_host(&engine);
        let wanted =
            if containers.is_empty() { BTreeMap::new() } else { outside.sockets.wanted(&containers).await };
        outside.apply(&engine, wanted).await;
        let changed = changes.changed();
        if containers.is_empty() {
            // The engine's end is this task's, too.
            let Ok(()) = changed.await else { return };
        } else {
            let _ = tokio::time::timeout(PERIOD, changed).await;
        }
    }
}

/// The running containers of the network `host`, and those that share it with one.
fn on_host(engine: &Engine) -> Vec<View> {
    let members = engine.networks.on_host();
    if members.is_empty() {
        return Vec::new();
    }
    let is_there = |view: &View| {
        let shared = view.record.host.network_mode.strip_prefix("container:");
        members.contains(&view.record.id) || shared.is_some_and(|id| members.contains(id))
    };
    engine.containers.list().iter().map(|c| c.view()).filter(is_there).collect()
}

/// Whose each socket is that was seen listening: found out once.
#[derive(Default)]
struct Sockets(HashMap<u64, bool>);

impl Sockets {
    /// The ports that the containers' listeners want of the host, and where each leads.
    async fn wanted(&mut self, containers: &[View]) -> BTreeMap<Place, SocketAddr> {
        let Ok(all) = tokio::task::spawn_blocking(network::listening).await else { return BTreeMap::new() };
        self.0.retain(|inode, _| all.iter().any(|l| l.inode == *inode));
        if all.iter().any(|l| !self.0.contains_key(&l.inode)) {
            let mut pids = Vec::new();
            for view in containers {
                if let Status::Running { container, .. } = &view.status {
                    pids.extend(container.pids().await);
                }
            }
            let theirs = tokio::task::spawn_blocking(move || sockets_of(&pids)).await.unwrap_or_default();
            for l in &all {
                self.0.entry(l.inode).or_insert_with(|| theirs.contains(&l.inode));
            }
        }
        ports(all.iter().filter(|l| self.0.get(&l.inode) == Some(&true)))
    }
}

/// The sockets among the processes' descriptors. One that ends meanwhile has none.
fn sockets_of(pids: &[u32]) -> BTreeSet<u64> {
    let folders = pids.iter().filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).ok());
    let links = folders.flatten().flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let inode =
        |link: std::path::PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    links.filter_map(inode).collect()
}

/// One of IPv6's any address takes IPv4 as well, as is usual; where it doesn't, the host's port leads to nobody.
fn ports<'a>(listening: impl Iterator<Item = &'a Listening>) -> BTreeMap<Place, SocketAddr> {
    let mut all = BTreeMap::new();
    for l in listening {
        let port = l.address.port();
        let mut add = |ip: IpAddr, target: IpAddr| {
            all.insert((l.protocol, ip, port), SocketAddr::new(target, port));
        };
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        match l.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => add(ip.into(), v4),
            IpAddr::V6(ip) if ip.is_unspecified() => {
                add(ip.into(), v6);
                add(Ipv4Addr::UNSPECIFIED.into(), v4);
            }
            ip if ip.is_loopback() => add(ip, ip),
            _ => {}
        }
    }
    all
}

/// What is asked of the host.
#[derive(Default)]
struct Outside {
    sockets: Sockets,
    open: BTreeSet<Place>,
    /// Those that the host refused, with the looks until they are asked for again.
    refused: BTreeMap<Place, u32>,
}

impl Outside {
    async fn apply(&mut self, engine: &Engine, wanted: BTreeMap<Place, SocketAddr>) {
        let gone: Vec<Place> =
            self.open.iter().filter(|place| !wanted.contains_key(place)).copied().collect();
        for place in gone {
            engine.ports.close(&owner(&place)).await;
            self.open.remove(&place);
        }
        self.refused.retain(|place, _| wanted.contains_key(place));
        for (place, target) in wanted {
            if self.open.contains(&place) {
                continue;
            }
            let again = self.refused.get_mut(&place);
            let is_new = again.is_none();
            if let Some(looks) = again
                && *looks > 0
            {
                *looks -= 1;
                continue;
            }
            let (protocol, host_ip, host_port) = place;
            let request = PortRequest { protocol, host_ip, host_port, last_port: host_port, target };
            match engine.ports.open(&owner(&place), vec![request]).await {
                Ok(_) => {
                    self.open.insert(place);
                    self.refused.remove(&place);
                }
                Err(e) => {
                    if is_new {
                        tracing::warn!("a container of the network host listens, and the host does not: {e}");
                    }
                    self.refused.insert(place, RETRY);
                }
            }
        }
    }
}

fn owner((protocol, ip, port): &Place) -> String {
    format!("host/{}/{}", protocol.name(), SocketAddr::new(*ip, *port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_open_outside_where_it_is_open_inside() {
        let wanted = |addresses: &[&str]| {
            let listening =
                |a: &&str| Listening { protocol: Protocol::Tcp, address: a.parse().unwrap(), inode: 1 };
            let all: Vec<Listening> = addresses.iter().map(listening).collect();
            let found = ports(all.iter()).into_iter();
            found.map(|((_, ip, port), target)| format!("{ip} {port} {target}")).collect::<Vec<_>>()
        };
        assert_eq!(wanted(&["0.0.0.0:80"]), ["0.0.0.0 80 127.0.0.1:80"]);
        assert_eq!(wanted(&["[::]:80", "0.0.0.0:80"]), ["0.0.0.0 80 127.0.0.1:80", ":: 80 [::1]:80"]);
        assert_eq!(wanted(&["127.0.0.1:80", "[::1]:81"]), ["127.0.0.1 80 127.0.0.1:80", "::1 81 [::1]:81"]);
        assert_eq!(wanted(&["172.17.0.1:80", "10.0.2.15:80"]), Vec::<String>::new());
    }

    #[test]
    fn sockets_are_found_among_a_process_descriptors() {
        use std::os::fd::AsRawFd;
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let found = sockets_of(&[std::process::id(), 0]);
        assert!(found.iter().any(|inode| link.to_str() == Some(&format!("socket:[{inode}]"))));
    }
}
