//! Published ports: what is asked for, and how a bare Linux host gives it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::error::{Code, Error, Result};

/// Transport of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// The container's address and port.
    pub target: SocketAddr,
}

impl PortRequest {
    /// Whether both ask for any one number, for the same port of the container, on all addresses of the two
    /// families: such a pair gets the same number.
    pub fn is_twin(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.target == other.target
            && self.host_port == 0
            && other.host_port == 0
            && self.host_ip.is_unspecified()
            && other.host_ip.is_unspecified()
            && self.host_ip.is_ipv4() != other.host_ip.is_ipv4()
    }
}

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

/// Connections through one published port at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// How long a dial to the container may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// UDP clients of one port remembered at once, and for how long after their last datagram.
const MAX_UDP_CLIENTS: usize = 1024;
const UDP_IDLE: Duration = Duration::from_secs(90);

/// Listens on this host and forwards: no process per port.
#[derive(Default)]
pub struct LocalPorts {
    open: Mutex<HashMap<String, Vec<Listener>>>,
}

struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Ports for LocalPorts {
    fn open<'a>(&'a self, owner: &'a str, requests: Vec<PortRequest>) -> Answer<'a, Result<Vec<Binding>>> {
        Box::pin(async move {
            // Dropped on the first failure: none stays open.
            let mut listeners = Vec::new();
            let mut bindings: Vec<Binding> = Vec::new();
            for mut request in requests {
                let asked = request.clone();
                if request.host_port == 0
                    && let Some(twin) = bindings.iter().find(|b| b.request.is_twin(&request))
                {
                    // The same port on the other address family gets the same number, as with dockerd.
                    request.host_port = twin.host_port;
                }
                let (listener, host_port) = listen(&request).await?;
                listeners.push(listener);
                bindings.push(Binding { request: asked, host_port });
            }
            if !listeners.is_empty() {
                let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                open.entry(owner.to_owned()).or_default().extend(listeners);
            }
            Ok(bindings)
        })
    }

    fn restore(&self, all: Vec<(String, Vec<PortRequest>)>) -> Answer<'_, Vec<(String, Error)>> {
        Box::pin(async move {
            let mut failed = Vec::new();
            for (owner, requests) in all {
                if let Err(e) = self.open(&owner, requests).await {
                    failed.push((owner, e));
                }
            }
            failed
        })
    }

    fn close<'a>(&'a self, owner: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let closed = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(owner);
            for listener in closed.into_iter().flatten() {
                listener.0.abort();
                // The port is free only when the task has gone.
                while !listener.0.is_finished() {
                    tokio::task::yield_now().await;
                }
            }
        })
    }
}

fn refused(request: &PortRequest, e: &std::io::Error) -> Error {
    let at = SocketAddr::new(request.host_ip, request.host_port);
    match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            Error::new(Code::Conflict, format!("Bind for {at} failed: port is already allocated"))
        }
        std::io::ErrorKind::PermissionDenied => Error::new(
            Code::Forbidden,
            format!(
                "Bind for {at} failed: permission denied (ports below net.ipv4.ip_unprivileged_port_start need root)"
            ),
        ),
        std::io::ErrorKind::AddrNotAvailable => Error::new(
            Code::InvalidArgument,
            format!("Bind for {at} failed: this host does not have the address {}", request.host_ip),
        ),
        _ => Error::io(&format!("Bind for {at} failed"), e),
    }
}

async fn listen(request: &PortRequest) -> Result<(Listener, u16)> {
    let at = SocketAddr::new(request.host_ip, request.host_port);
    match request.protocol {
        Protocol::Tcp => {
            let listener = tcp_listener(at).map_err(|e| refused(request, &e))?;
            let port = listener.local_addr().map_err(|e| refused(request, &e))?.port();
            Ok((Listener(tokio::spawn(accept(listener, request.target))), port))
        }
        Protocol::Udp => {
            let socket = udp_socket(at).map_err(|e| refused(request, &e))?;
            let port = socket.local_addr().map_err(|e| refused(request, &e))?.port();
            Ok((Listener(tokio::spawn(relay(Arc::new(socket), request.target))), port))
        }
    }
}

/// IPv6 sockets take IPv6 alone: the IPv4 twin has its own.
fn tcp_listener(at: SocketAddr) -> std::io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(family, SocketType::STREAM, flags, None)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    sockopt::set_socket_reuseaddr(&fd, true)?;
    bind(&fd, &at)?;
    listen(&fd, 4096)?;
    TcpListener::from_std(fd.into())
}

fn udp_socket(at: SocketAddr) -> std::io::Result<UdpSocket> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    bind(&fd, &at)?;
    UdpSocket::from_std(fd.into())
}

async fn accept(listener: TcpListener, target: SocketAddr) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Owns the connections: they end with the port.
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(e) => {
                // Out of file descriptors or a connection already gone: let others end first.
                tracing::warn!("accept on a published port: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        connections.spawn(async move {
            if let Err(e) = splice(client, target).await {
                tracing::debug!("published port to {target}: {e}");
            }
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn splice(mut client: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut server = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(target)).await??;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // Passes half-closes on in both directions.
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

async fn relay(socket: Arc<UdpSocket>, target: SocketAddr) {
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buf = vec![0; 65_536];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buf) => {
                let Ok((n, from)) = received else { continue };
                let upstream = match clients.get(&from) {
                    Some(upstream) => upstream.clone(),
                    None if clients.len() >= MAX_UDP_CLIENTS => continue,
                    None => match dial_udp(target).await {
                        Ok(upstream) => {
                            let upstream = Arc::new(upstream);
                            clients.insert(from, upstream.clone());
                            tasks.spawn(replies(socket.clone(), upstream.clone(), from));
                            upstream
                        }
                        Err(e) => {
                            tracing::debug!("published port to {target}: {e}");
                            continue;
                        }
                    },
                };
                if let Err(e) = upstream.send(&buf[..n]).await {
                    tracing::debug!("published port to {target}: {e}");
                }
            }
            Some(Ok(idle)) = tasks.join_next() => {
                clients.remove(&idle);
            }
        }
    }
}

async fn dial_udp(target: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// Brings answers back to one client until it was silent for [`UDP_IDLE`]; answers which client it was.
async fn replies(socket: Arc<UdpSocket>, upstream: Arc<UdpSocket>, client: SocketAddr) -> SocketAddr {
    let mut buf = vec![0; 65_536];
    while let Ok(Ok(n)) = tokio::time::timeout(UDP_IDLE, upstream.recv(&mut buf)).await {
        if let Err(e) = socket.send_to(&buf[..n], client).await {
            tracing::debug!("published port, answer to {client}: {e}");
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn request(port: u16, target: SocketAddr) -> PortRequest {
        PortRequest { protocol: Protocol::Tcp, host_ip: Ipv4Addr::LOCALHOST.into(), host_port: port, target }
    }

    #[tokio::test]
    async fn a_published_port_reaches_its_target_and_passes_half_close() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        let ports = LocalPorts::default();
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
        let ports = LocalPorts::default();
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
        let ports = LocalPorts::default();
        let target = "127.0.0.1:9".parse().unwrap();
        let port = ports.open("a", vec![request(0, target)]).await.unwrap()[0].host_port;
        ports.close("a").await;
        ports.open("b", vec![request(port, target)]).await.unwrap();
    }
}
