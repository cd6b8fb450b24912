//! Published ports: what is asked for, and how a bare Linux host gives it.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use crate::bridge::blocking;
use crate::conntrack;
use crate::error::{Code, Error, Result};
use crate::firewall::{Firewall, Redirect};
use crate::forward::{Listener, listen};

/// Transport of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One port asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRequest {
    /// Transport.
    pub protocol: Protocol,
    /// Address to listen on.
    pub host_ip: IpAddr,
    /// Port to listen on; 0: choose one.
    pub host_port: u16,
    /// The last port that will do as well, where several will; else as `host_port`.
    pub last_port: u16,
    /// The container's address and port.
    pub target: SocketAddr,
}

impl PortRequest {
    /// Whether both leave the number open in the same way, for the same port of the container, on all addresses of
    /// the two families: such a pair gets the same number.
    pub fn is_twin(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.target.port() == other.target.port()
            && self.is_open()
            && (self.host_port, self.last_port) == (other.host_port, other.last_port)
            && self.host_ip.is_unspecified()
            && other.host_ip.is_unspecified()
            && self.host_ip.is_ipv4() != other.host_ip.is_ipv4()
    }

    /// Whether the number is to be chosen.
    pub fn is_open(&self) -> bool {
        self.host_port == 0 || self.last_port > self.host_port
    }

    /// The numbers to try, in turn; 0 is any that is free.
    pub fn candidates(&self) -> Box<dyn Iterator<Item = u16> + Send> {
        if self.host_port == 0 {
            return Box::new(std::iter::repeat_n(0, ANY_PORT_TRIES));
        }
        Box::new(self.host_port..=self.last_port.max(self.host_port))
    }
}

/// How often a free number is looked for that is free in both families.
const ANY_PORT_TRIES: usize = 16;

/// One port given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// What was asked.
    pub request: PortRequest,
    /// The port it became.
    pub host_port: u16,
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who opens ports to the world: this host's own sockets, or a controller outside the virtual machine.
pub trait Ports: Send + Sync {
    /// Opens all of `requests` for `owner` or none; answers in their order. Bound when it returns. A port that
    /// something else has is [`Code::Conflict`], one that needs a privilege [`Code::Forbidden`].
    fn open<'a>(&'a self, owner: &'a str, requests: Vec<PortRequest>) -> Answer<'a, Result<Vec<Binding>>>;
    /// Closes what `owner` has; nothing is fine.
    fn close<'a>(&'a self, owner: &'a str) -> Answer<'a, ()>;
    /// What was open before a restart, for all owners at once: a port that stays is never closed in between. Called
    /// once, before anything is opened. Answers what could not be had, by owner.
    fn restore(&self, all: Vec<(String, Vec<PortRequest>)>) -> Answer<'_, Vec<(String, Error)>>;
}

/// Opens ports of this host: rules of the kernel lead what arrives to the containers, with the client's own address
/// and also while no engine runs; a socket of the engine holds each port and serves what no rule can. No process
/// per port.
pub struct LocalPorts {
    /// Whose rules lead to the containers; without one the sockets serve alone.
    firewall: Option<Arc<Firewall>>,
    open: Mutex<HashMap<String, Vec<Listener>>>,
}

impl LocalPorts {
    /// Ports whose rules `firewall` writes.
    pub fn new(firewall: Arc<Firewall>) -> Self {
        Self { firewall: Some(firewall), open: Mutex::default() }
    }

    /// Holds the ports, all or none.
    fn hold(&self, owner: &str, requests: Vec<PortRequest>) -> Result<(Vec<Binding>, Vec<Redirect>)> {
        // Dropped on the first failure: none stays open.
        let mut listeners = Vec::new();
        let mut ports: Vec<Option<u16>> = vec![None; requests.len()];
        for n in 0..requests.len() {
            if ports[n].is_some() {
                continue;
            }
            let twin =
                (n + 1..requests.len()).find(|m| ports[*m].is_none() && requests[n].is_twin(&requests[*m]));
            let pair: Vec<&PortRequest> = std::iter::once(n).chain(twin).map(|m| &requests[m]).collect();
            let (opened, port) = listen_alike(&pair)?;
            listeners.extend(opened);
            ports[n] = Some(port);
            if let Some(twin) = twin {
                ports[twin] = Some(port);
            }
        }
        let bindings: Vec<Binding> = requests
            .into_iter()
            .zip(ports)
            .filter_map(|(request, port)| Some(Binding { request, host_port: port? }))
            .collect();
        if !listeners.is_empty() {
            let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            open.entry(owner.to_owned()).or_default().extend(listeners);
        }
        let redirect = |b: &Binding| Redirect {
            protocol: b.request.protocol,
            at: SocketAddr::new(b.request.host_ip, b.host_port),
            target: b.request.target,
        };
        let redirects = bindings.iter().map(redirect).filter(Redirect::is_possible).collect();
        Ok((bindings, redirects))
    }
}

/// Opens the same number for each of `requests`.
fn listen_alike(requests: &[&PortRequest]) -> Result<(Vec<Listener>, u16)> {
    let mut failed = Error::new(Code::Conflict, "no port was asked for");
    let Some(first) = requests.first() else { return Err(failed) };
    for candidate in first.candidates() {
        let mut port = candidate;
        let mut opened = Vec::new();
        let all: Result<()> = requests.iter().try_for_each(|r| {
            let (listener, number) = listen(r.protocol, SocketAddr::new(r.host_ip, port), r.target)?;
            port = number;
            opened.push(listener);
            Ok(())
        });
        match all {
            Ok(()) => return Ok((opened, port)),
            Err(e) if e.code() == Code::Conflict && first.is_open() => failed = e,
            Err(e) => return Err(e),
        }
    }
    if first.last_port > first.host_port {
        failed = Error::new(
            Code::Conflict,
            format!(
                "Bind for {}:{}-{} failed: all ports are allocated",
                first.host_ip, first.host_port, first.last_port
            ),
        );
    }
    Err(failed)
}

/// Forgets flows of UDP that went another way before.
async fn forget_flows(redirects: &[Redirect]) {
    let udp = redirects.iter().filter(|r| r.protocol == Protocol::Udp);
    let ports: Vec<u16> = udp.map(|r| r.at.port()).collect();
    if ports.is_empty() {
        return;
    }
    if let Err(e) = blocking(move || conntrack::forget_udp(&ports)).await {
        tracing::warn!("clients of UDP ports may go on to an earlier container: {e}");
    }
}

impl Ports for LocalPorts {
    fn open<'a>(&'a self, owner: &'a str, requests: Vec<PortRequest>) -> Answer<'a, Result<Vec<Binding>>> {
        Box::pin(async move {
            let (bindings, redirects) = self.hold(owner, requests)?;
            let Some(firewall) = self.firewall.as_ref().filter(|_| !redirects.is_empty()) else {
                return Ok(bindings);
            };
            match firewall.publish(owner, redirects.clone()).await {
                Ok(()) => forget_flows(&redirects).await,
                // The sockets serve, then: slower, and clients have the bridge's address.
                Err(e) => tracing::warn!("published ports are forwarded by the engine alone: {e}"),
            }
            Ok(bindings)
        })
    }

    fn restore(&self, all: Vec<(String, Vec<PortRequest>)>) -> Answer<'_, Vec<(String, Error)>> {
        Box::pin(async move {
            let (mut failed, mut ports) = (Vec::new(), BTreeMap::new());
            for (owner, requests) in all {
                match self.hold(&owner, requests) {
                    Ok((_, redirects)) if redirects.is_empty() => {}
                    Ok((_, redirects)) => {
                        ports.insert(owner, redirects);
                    }
                    Err(e) => failed.push((owner, e)),
                }
            }
            if let Some(firewall) = &self.firewall {
                firewall.restore_ports(ports).await;
            }
            failed
        })
    }

    fn close<'a>(&'a self, owner: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            if let Some(firewall) = &self.firewall {
                match firewall.withdraw(owner).await {
                    Ok(gone) => forget_flows(&gone).await,
                    Err(e) => tracing::error!("rules of closed ports are left behind: {e}"),
                }
            }
            let closed = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(owner);
            for listener in closed.into_iter().flatten() {
                listener.close().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    fn request(port: u16, target: SocketAddr) -> PortRequest {
        PortRequest {
            protocol: Protocol::Tcp,
            host_ip: Ipv4Addr::LOCALHOST.into(),
            host_port: port,
            last_port: port,
            target,
        }
    }

    /// The sockets alone: a test changes no rule of the machine.
    fn local() -> LocalPorts {
        LocalPorts { firewall: None, open: Mutex::default() }
    }

    #[tokio::test]
    async fn a_published_port_reaches_its_target_and_passes_half_close() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        let ports = local();
        let port = ports.open("c", vec![request(0, target)]).await.unwrap()[0].host_port;
        let echo = tokio::spawn(async move {
            let (mut s, _) = server.accept().await.unwrap();
            let mut all = Vec::new();
            s.read_to_end(&mut all).await.unwrap();
            s.write_all(&all).await.unwrap();
        });
        let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"hello");
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn a_taken_port_is_dockers_error_and_nothing_stays_open() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let ports = local();
        let e = ports
            .open(
                "c",
                vec![request(0, taken.local_addr().unwrap()), request(port, taken.local_addr().unwrap())],
            )
            .await
            .unwrap_err();
        assert_eq!(e.code(), Code::Conflict);
        assert_eq!(e.to_string(), format!("Bind for 127.0.0.1:{port} failed: port is already allocated"));
        assert!(ports.open.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_closed_port_is_free_at_once() {
        let ports = local();
        let target = "127.0.0.1:9".parse().unwrap();
        let port = ports.open("a", vec![request(0, target)]).await.unwrap()[0].host_port;
        ports.close("a").await;
        ports.open("b", vec![request(port, target)]).await.unwrap();
    }

    #[tokio::test]
    async fn of_several_ports_the_first_free_one_is_taken() {
        let ports = local();
        let target = "127.0.0.1:9".parse().unwrap();
        let first = ports.open("a", vec![request(0, target)]).await.unwrap()[0].host_port;
        let range = PortRequest { last_port: first + 20, ..request(first, target) };
        let second = ports.open("b", vec![range.clone()]).await.unwrap()[0].host_port;
        assert!(second > first && second <= first + 20);
        let full = PortRequest { last_port: first, ..range };
        assert_eq!(ports.open("c", vec![full]).await.unwrap_err().code(), Code::Conflict);
    }
}
