//! Published ports by this host's own sockets: they hold the port against others, and forward what no rule of the
//! kernel leads to the container (IPv6 to a container without it, everything where rules cannot be written).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::BREATH;
use crate::error::{Code, Error, Result};
use crate::ports::Protocol;

/// Connections through one published port at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// How long a dial to the container may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// UDP clients of one port remembered at once, and for how long after their last datagram.
const MAX_UDP_CLIENTS: usize = 1024;
const UDP_IDLE: Duration = Duration::from_secs(90);

/// An open port; closed when dropped.
pub(crate) struct Listener(JoinHandle<()>);

impl Listener {
    /// Closes it; the port is free when this returns.
    pub(crate) async fn close(self) {
        self.0.abort();
        while !self.0.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn refused(at: SocketAddr, e: &std::io::Error) -> Error {
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
            format!("Bind for {at} failed: this host does not have the address {}", at.ip()),
        ),
        _ => Error::io(&format!("Bind for {at} failed"), e),
    }
}

/// Opens a port that leads to `target`; port 0: any. Answers the number too.
pub(crate) fn listen(protocol: Protocol, at: SocketAddr, target: SocketAddr) -> Result<(Listener, u16)> {
    match protocol {
        Protocol::Tcp => {
            let listener = tcp_listener(at).map_err(|e| refused(at, &e))?;
            let port = listener.local_addr().map_err(|e| refused(at, &e))?.port();
            Ok((Listener(tokio::spawn(accept(listener, target))), port))
        }
        Protocol::Udp => {
            let socket = udp_socket(at).map_err(|e| refused(at, &e))?;
            let port = socket.local_addr().map_err(|e| refused(at, &e))?.port();
            Ok((Listener(tokio::spawn(relay(Arc::new(socket), target))), port))
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
                tracing::warn!("accept on a published port: {e}");
                tokio::time::sleep(BREATH).await;
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
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
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
