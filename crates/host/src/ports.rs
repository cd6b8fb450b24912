//! Published ports: listeners on this computer, kept as the engine wants them ([`wire::ports`]).
//!
//! A listener stays over changes of the set, of the guest's session and of its target; connections go to the guest
//! through whatever session is there when they come.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use link::{LinkError, Session, peer};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{Semaphore, mpsc, watch},
    task::{AbortHandle, JoinHandle},
};
use wire::{
    open::Open,
    ports::{Bind, Outcome, Port, PortError, PortResult, Proto, Wanted},
};

use crate::{
    BREATH,
    forward::{Route, join},
    platform,
};

/// Connections that wait to be accepted, per listener.
const BACKLOG: i32 = 1024;
/// Connections through published ports at once, all together.
const MAX_CONNECTIONS: usize = 2048;
/// Peers of one UDP port at once.
const MAX_PEERS: usize = 512;

/// The listeners.
#[derive(Clone)]
pub struct Ports(Arc<Shared>);

struct Shared {
    open: Mutex<HashMap<String, Published>>,
    route: watch::Receiver<Route>,
    places: Arc<Semaphore>,
}

struct Published {
    proto: Proto,
    host_ip: IpAddr,
    bound: u16,
    target: watch::Sender<SocketAddr>,
    task: JoinHandle<()>,
}

impl Published {
    fn serves(&self, port: &Port) -> bool {
        self.proto == port.proto
            && self.host_ip == port.host_ip
            && (port.host_port == 0 || port.host_port == self.bound)
            && !self.task.is_finished()
    }
}

impl Ports {
    /// No listeners yet; connections will go by `route`.
    pub fn new(route: watch::Receiver<Route>) -> Self {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Self(Arc::new(Shared { open: Mutex::default(), route, places }))
    }

    /// Opens and closes listeners until they are the wanted ones; bound when this returns.
    pub async fn apply(&self, wanted: &Wanted) -> Outcome {
        if let Err(message) = wanted.check() {
            return Outcome::all_failed(wanted, PortError::Invalid, &message);
        }
        let gone: Vec<Published> = {
            let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
            let by_key: HashMap<&str, &Port> = wanted.ports.iter().map(|p| (p.key.as_str(), p)).collect();
            open.extract_if(|key, published| !by_key.get(key.as_str()).is_some_and(|p| published.serves(p)))
                .map(|(_, published)| published)
                .collect()
        };
        // A port that moves from one key to another must be free before it is bound again.
        for published in gone {
            published.task.abort();
            let _ = published.task.await;
        }
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let results = wanted.ports.iter().map(|port| {
            let target = SocketAddr::new(port.target_ip, port.target_port);
            let result = match open.get(&port.key) {
                Some(published) => {
                    published.target.send_if_modified(|old| std::mem::replace(old, target) != target);
                    Bind::Ok { host_port: published.bound }
                }
                None => match self.publish(port, target) {
                    Ok(published) => {
                        let host_port = published.bound;
                        open.insert(port.key.clone(), published);
                        Bind::Ok { host_port }
                    }
                    Err(error) => failed(port, &error),
                },
            };
            PortResult { key: port.key.clone(), result }
        });
        Outcome { generation: wanted.generation, results: results.collect() }
    }

    /// Closes every listener: the guest is off.
    pub fn clear(&self) {
        for (_, published) in self.0.open.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            published.task.abort();
        }
    }

    fn publish(&self, port: &Port, target: SocketAddr) -> io::Result<Published> {
        let (socket, guests) = self.0.bind(port)?;
        self.serve(port, socket, guests, target)
    }

    fn serve(
        &self,
        port: &Port,
        socket: Socket,
        guests: Guests,
        target: SocketAddr,
    ) -> io::Result<Published> {
        let (sender, receiver) = watch::channel(target);
        let (shared, bound) = (self.0.clone(), socket.local_addr()?.as_socket().map_or(0, |at| at.port()));
        let task = match port.proto {
            Proto::Tcp => {
                socket.listen(BACKLOG)?;
                tokio::spawn(tcp(TcpListener::from_std(socket.into())?, guests, receiver, shared))
            }
            Proto::Udp => tokio::spawn(udp(UdpSocket::from_std(socket.into())?, guests, receiver, shared)),
        };
        Ok(Published { proto: port.proto, host_ip: port.host_ip, bound, target: sender, task })
    }
}

impl Shared {
    /// A socket at the port's place: or, where a loopback address is the right of root alone and all addresses are
    /// everybody's, at all of them, for this computer's own programs.
    fn bind(&self, port: &Port) -> io::Result<(Socket, Guests)> {
        let at = |ip: IpAddr| bind(port.proto, SocketAddr::new(ip, port.host_port));
        match at(port.host_ip) {
            Err(error)
                if platform::LOW_PORTS_ON_ALL_ADDRESSES
                    && port.host_ip.is_loopback()
                    && error.kind() == io::ErrorKind::PermissionDenied =>
            {
                let all: IpAddr = match port.host_ip {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                Ok((at(all)?, Guests::ThisComputer))
            }
            other => Ok((other?, Guests::All)),
        }
    }
}

fn bind(proto: Proto, address: SocketAddr) -> io::Result<Socket> {
    let (kind, protocol) = match proto {
        Proto::Tcp => (Type::STREAM, Protocol::TCP),
        Proto::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?; // Docker asks for both families by two ports
    }
    if proto == Proto::Tcp {
        platform::reuse_address(&socket)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// Who is served at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guests {
    /// Whoever gets there.
    All,
    /// Programs of this computer that come from loopback: nobody else's packets do.
    ThisComputer,
}

impl Guests {
    fn welcomes(self, from: SocketAddr) -> bool {
        self == Self::All || from.ip().to_canonical().is_loopback()
    }
}

fn failed(port: &Port, error: &io::Error) -> Bind {
    let address = SocketAddr::new(port.host_ip, port.host_port);
    let (code, message) = match error.kind() {
        io::ErrorKind::AddrInUse => {
            (PortError::InUse, format!("Bind for {address} failed: port is already allocated"))
        }
        io::ErrorKind::PermissionDenied => (
            PortError::Denied,
            format!("Bind for {address} failed: permission denied: {}", platform::low_ports(address.port())),
        ),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => {
            (PortError::Invalid, format!("Bind for {address} failed: this computer has no such address"))
        }
        _ => (PortError::Unavailable, format!("Bind for {address} failed: {error}")),
    };
    Bind::Error { code, message }
}

fn session(route: &watch::Receiver<Route>) -> Result<Arc<Session>, LinkError> {
    match &*route.borrow() {
        Route::Link(session) => Ok(session.clone()),
        Route::Down | Route::Coming | Route::Asleep | Route::Socket(_) => Err(LinkError::Closed),
    }
}

async fn tcp(
    listener: TcpListener,
    guests: Guests,
    target: watch::Receiver<SocketAddr>,
    shared: Arc<Shared>,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = shared.places.clone().acquire_owned().await else { return };
        let (client, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a published port: {error}");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        if !guests.welcomes(from) {
            continue;
        }
        let (to, route) = (*target.borrow(), shared.route.clone());
        connections.spawn(async move {
            let serve = async {
                let _ = client.set_nodelay(true);
                let stream = session(&route)?.open(&Open::Tcp { to, from: Some(from) }).await?;
                join(client, stream).await
            };
            if let Err(error) = serve.await {
                tracing::debug!("{from} to {to}: {error}");
            }
            drop(place);
        });
    }
}

async fn udp(socket: UdpSocket, guests: Guests, target: watch::Receiver<SocketAddr>, shared: Arc<Shared>) {
    let socket = Arc::new(socket);
    let mut peers: HashMap<SocketAddr, (mpsc::Sender<Vec<u8>>, AbortOnDrop)> = HashMap::new();
    let mut datagram = vec![0; peer::DATAGRAM];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut datagram).await else { continue };
        if !guests.welcomes(from) {
            continue;
        }
        if peers.get(&from).is_none_or(|(queue, _)| queue.is_closed()) {
            peers.retain(|_, (queue, _)| !queue.is_closed());
            if peers.len() >= MAX_PEERS {
                continue;
            }
            let (queue, waiting) = mpsc::channel(peer::QUEUE);
            let task = tokio::spawn(datagrams(
                socket.clone(),
                from,
                *target.borrow(),
                waiting,
                shared.route.clone(),
            ));
            peers.insert(from, (queue, AbortOnDrop(task.abort_handle())));
        }
        if let Some((queue, _)) = peers.get(&from) {
            let _ = queue.try_send(datagram[..len].to_vec());
        }
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn datagrams(
    socket: Arc<UdpSocket>,
    from: SocketAddr,
    to: SocketAddr,
    waiting: mpsc::Receiver<Vec<u8>>,
    route: watch::Receiver<Route>,
) {
    let serve = async {
        let stream = session(&route)?.open(&Open::Udp { to, from: Some(from) }).await?;
        let socket = &socket;
        let back = |datagram: Vec<u8>| async move { drop(socket.send_to(&datagram, from).await) };
        peer::datagrams(stream, waiting, back).await
    };
    let end: Result<(), LinkError> = serve.await;
    if let Err(error) = end {
        tracing::debug!("datagrams of {from} to {to}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn port(key: &str, host_port: u16) -> Port {
        Port {
            key: key.into(),
            proto: Proto::Tcp,
            host_ip: "127.0.0.1".parse().unwrap(),
            host_port,
            target_ip: "172.17.0.2".parse().unwrap(),
            target_port: 80,
        }
    }

    fn set(generation: u64, ports: &[Port]) -> Wanted {
        Wanted { generation, ports: ports.to_vec() }
    }

    fn bound(outcome: &Outcome, at: usize) -> u16 {
        match &outcome.results[at].result {
            Bind::Ok { host_port } => *host_port,
            Bind::Error { message, .. } => panic!("{message}"),
        }
    }

    #[tokio::test]
    async fn listeners_are_what_is_wanted_and_no_more() {
        let (_route, receiver) = watch::channel(Route::Down);
        let ports = Ports::new(receiver);
        let first = bound(&ports.apply(&set(1, &[port("a", 0)])).await, 0);
        // Asked for any port again, or for the one it has: it keeps it.
        assert_eq!(bound(&ports.apply(&set(2, &[port("a", 0)])).await, 0), first);
        assert_eq!(bound(&ports.apply(&set(3, &[port("a", first), port("b", 0)])).await, 0), first);
        // Another key that takes the port over at once.
        assert_eq!(bound(&ports.apply(&set(4, &[port("c", first)])).await, 0), first);
        ports.apply(&set(5, &[])).await;
        std::net::TcpListener::bind(("127.0.0.1", first)).expect("the port is free again");
    }

    /// As where a loopback address' low ports are root's alone.
    #[tokio::test]
    async fn a_listener_on_all_addresses_serves_this_computer_alone() {
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
        let limit = Duration::from_secs(20);
        let (host, guest) =
            tokio::join!(link::in_step::host(&mut ours, limit), link::in_step::guest(&mut theirs));
        host.and(guest).unwrap();
        let (host, guest) = (Session::host(ours), Session::guest(theirs));
        tokio::spawn(async move {
            while let Ok(mut stream) = guest.accept().await {
                link::header(&mut stream).await.unwrap();
                link::write_frame(&mut stream, &wire::open::Opened::Ok).await.unwrap();
                stream.write_all(b"served").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        let (_route, receiver) = watch::channel(Route::Link(Arc::new(host)));
        let ports = Ports::new(receiver);
        let asked = port("a", 0);
        let target = SocketAddr::new(asked.target_ip, asked.target_port);
        let socket = bind(Proto::Tcp, "0.0.0.0:0".parse().unwrap()).unwrap();
        let published = ports.serve(&asked, socket, Guests::ThisComputer, target).unwrap();
        // Where packets to elsewhere would go out: an address of this computer that is not loopback.
        let way_out = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let own = way_out.connect("192.0.2.1:9").and_then(|()| way_out.local_addr()).map(|at| at.ip());
        let said = async |ip: IpAddr| {
            let mut client = tokio::net::TcpStream::connect((ip, published.bound)).await.unwrap();
            let mut said = String::new();
            // Who is not served finds the connection ended, or reset.
            let _ = client.read_to_string(&mut said).await;
            said
        };
        assert_eq!(said(Ipv4Addr::LOCALHOST.into()).await, "served");
        if let Ok(own) = own {
            assert_eq!(said(own).await, "", "{own} is seen by others");
        }
        published.task.abort();
    }

    #[tokio::test]
    async fn one_port_in_use_does_not_fail_the_others() {
        let (_route, receiver) = watch::channel(Route::Down);
        let ports = Ports::new(receiver);
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = taken.local_addr().unwrap().port();
        let outcome = ports.apply(&set(1, &[port("a", number), port("b", 0)])).await;
        assert!(matches!(&outcome.results[0].result,
            Bind::Error { code: PortError::InUse, message } if message.ends_with("port is already allocated")));
        bound(&outcome, 1);
        drop(taken);
        assert_eq!(bound(&ports.apply(&set(2, &[port("a", number)])).await, 0), number);
        let mut wrong = port("w", 0);
        wrong.host_ip = "192.0.2.1".parse().unwrap();
        let outcome = ports.apply(&set(3, &[wrong])).await;
        assert!(matches!(outcome.results[0].result, Bind::Error { code: PortError::Invalid, .. }));
    }
}
