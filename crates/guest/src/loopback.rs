//! The host's loopback, for containers: an address of the guest's own ([`HOST`]) behind which is no computer but the link.
//!
//! ```text
//!   container --> HOST:PORT --> interface `host0` (TUN) --> stack --link: Open::Loopback--> host --> 127.0.0.1:PORT, [::1]:PORT
//! ```
//! Not every hypervisor's network leads there (Apple's, WSL's), and those that do know IPv4 alone. A connection is answered when
//! the host has its own, and refused when nobody listens there, so that whoever waits for a service by connecting to it is not
//! deceived; hence a TCP/IP stack (smoltcp) and not the kernel's, which answers first. Datagrams go by peer and port.

mod connection;
mod fragments;
mod stack;

use std::{
    collections::HashMap,
    fs::File,
    io,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use link::{LinkError, Session, Stream, Strict, opened, peer};
use tokio::{
    io::copy_bidirectional_with_sizes,
    sync::{Notify, Semaphore, mpsc},
    time::{sleep, timeout},
};
use wire::{
    open::{MAX_LOOPBACK, Open},
    ports::Proto,
};

use crate::{GuestError, say, sys};
use connection::Connection;
use stack::{Flow, Packet, Stack};

/// Where the host's loopback is found: the address that Docker Desktop has for it.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 65, 254);
/// The guest's own end.
const HERE: (Ipv4Addr, u8) = (Ipv4Addr::new(192, 168, 65, 253), 30);
const NAME: &str = "host0";
/// Bytes of a packet that the guest itself sends there. Containers' are as their own networks have them.
const MTU: u16 = 9000;
/// Bytes of a packet at most.
const PACKET: usize = 65_535;
/// Packets that are taken before any is answered.
const BATCH: usize = 64;
/// Time in which the host must have connected, or say that it has not.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// Bytes a stream copies at a time, each way: a whole frame.
const COPY: usize = wire::sync::MAX_BODY;
/// Peers that send datagrams at once.
const MAX_PEERS: usize = 256;

/// The way there; a handle. It leads nowhere until it is opened.
#[derive(Clone, Default)]
pub struct Loopback(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Opened, and not served yet.
    interface: Mutex<Option<File>>,
    /// The link to a host that lets us in.
    link: Mutex<Weak<Session>>,
}

impl Loopback {
    /// Makes the interface; gives where containers find the host by it. What comes from now on waits for [`Self::serve`].
    pub fn open(&self) -> Result<Ipv4Addr, GuestError> {
        *lock(&self.0.interface) = Some(interface().map_err(GuestError::io("making the interface", NAME))?);
        Ok(HOST)
    }

    /// From now on this link's host is asked, for as long as the link is there.
    pub fn ask_by(&self, session: Weak<Session>) {
        *lock(&self.0.link) = session;
    }

    /// Serves for ever what comes to the interface.
    pub async fn serve(self) {
        let Some(interface) = lock(&self.0.interface).take() else { return };
        let served = async {
            let tun = Arc::new(sys::Tun::new(interface)?);
            let seed = sys::random()?;
            Served::new(self, tun, u64::from_ne_bytes(seed)).run().await
        };
        let end: io::Result<()> = served.await;
        if let Err(error) = end {
            say(format_args!("the host's loopback is not reached any more: {error}"));
        }
    }

    async fn dial(&self, proto: Proto, port: u16) -> Result<Stream, LinkError> {
        let session = lock(&self.0.link).upgrade().ok_or(LinkError::Closed)?;
        session.open(&Open::Loopback { proto, port }).await
    }
}

fn interface() -> io::Result<File> {
    let file = sys::make_tun(NAME)?;
    sys::set_mtu(NAME, MTU)?;
    sys::configure_interface(&sys::Interface { name: NAME, address: HERE, gateway: None })?;
    Ok(file)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stack and who waits for it to change.
struct SharedStack {
    stack: Mutex<Stack>,
    /// Something was put in or taken out: there may be packets to send, and another time at which to look again.
    changed: Notify,
}

impl SharedStack {
    fn stack(&self) -> MutexGuard<'_, Stack> {
        lock(&self.stack)
    }
}

/// A peer's datagrams that wait for the link.
type Queue = mpsc::Sender<Vec<u8>>;

struct Served {
    loopback: Loopback,
    tun: Arc<sys::Tun>,
    shared: Arc<SharedStack>,
    places: Arc<Semaphore>,
    peers: HashMap<Flow, Queue>,
    /// What answers to datagrams are numbered by, so that their fragments are told apart.
    numbers: Arc<AtomicU16>,
}

impl Served {
    fn new(loopback: Loopback, tun: Arc<sys::Tun>, seed: u64) -> Self {
        let out = tun.clone();
        let stack = Mutex::new(Stack::new(seed, move |packet, unfinished| out.send(packet, unfinished)));
        Self {
            loopback,
            tun,
            shared: Arc::new(SharedStack { stack, changed: Notify::new() }),
            places: Arc::new(Semaphore::new(MAX_LOOPBACK)),
            peers: HashMap::new(),
            numbers: Arc::default(),
        }
    }

    async fn run(mut self) -> io::Result<()> {
        let mut packet = vec![0; PACKET];
        let tun = self.tun.clone();
        loop {
            let again = self.shared.stack().poll();
            let look_again = async {
                match again {
                    Some(pause) => sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                len = tun.receive(&mut packet) => {
                    self.packet(&packet[..len?]);
                    for _ in 1..BATCH {
                        let Some(len) = tun.try_receive(&mut packet) else { break };
                        self.packet(&packet[..len]);
                    }
                }
                () = self.shared.changed.notified() => {}
                () = look_again => {}
            }
        }
    }

    fn packet(&mut self, packet: &[u8]) {
        let taken = self.shared.stack().take(packet);
        match taken {
            Packet::Taken => {}
            Packet::Asks(flow) => self.connect(flow, packet.to_vec()),
            Packet::Datagram(flow, bytes) => self.datagram(flow, bytes),
        }
    }

    /// Connects there, and then here. Above the limit nobody answers: whoever asks does so again.
    fn connect(&self, flow: Flow, first: Vec<u8>) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return self.shared.stack().forget(flow);
        };
        let (loopback, shared) = (self.loopback.clone(), self.shared.clone());
        tokio::spawn(async move {
            let dial = async {
                let mut stream = loopback.dial(Proto::Tcp, flow.port).await?;
                opened(&mut stream).await?;
                Ok::<_, LinkError>(stream)
            };
            match timeout(DIAL_LIMIT, dial).await {
                Ok(Ok(stream)) => {
                    let mut connection = Connection::accept(shared, flow, &first);
                    let mut stream = Strict::new(stream);
                    let _ = copy_bidirectional_with_sizes(&mut connection, &mut stream, COPY, COPY).await;
                }
                Ok(Err(_)) | Err(_) => shared.stack().refuse(flow, &first),
            }
            drop(place);
        });
    }

    fn datagram(&mut self, flow: Flow, bytes: Vec<u8>) {
        if self.peers.get(&flow).is_none_or(Queue::is_closed) {
            self.peers.retain(|_, queue| !queue.is_closed());
            if self.peers.len() >= MAX_PEERS {
                return;
            }
            let (queue, waiting) = mpsc::channel(peer::QUEUE);
            let (loopback, tun, numbers) = (self.loopback.clone(), self.tun.clone(), self.numbers.clone());
            tokio::spawn(async move {
                let stream = loopback.dial(Proto::Udp, flow.port).await?;
                let back = |bytes: Vec<u8>| {
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    if let Some(packet) = stack::datagram(flow, number, &bytes) {
                        tun.send(&packet, None);
                    }
                    std::future::ready(())
                };
                peer::datagrams(stream, waiting, back).await
            });
            self.peers.insert(flow, queue);
        }
        if let Some(queue) = self.peers.get(&flow) {
            let _ = queue.try_send(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream, UdpSocket};

    use link::{dialled, header};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::oneshot,
    };
    use wire::open::Opened;

    use super::*;

    /// A port that gives everything back, one that nobody listens at, and one whose service goes away in the middle.
    const ECHO: u16 = 7;
    const CLOSED: u16 = 8;
    const RESETS: u16 = 9;
    /// One whose service says nothing, and tells when whoever asked has gone.
    const WATCHES: u16 = 10;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from((HOST, port))
    }

    /// A host, as far as the link shows one.
    async fn host(session: Session, gone: oneshot::Sender<()>) {
        let gone = Arc::new(Mutex::new(Some(gone)));
        while let Ok(mut stream) = session.accept().await {
            let gone = gone.clone();
            tokio::spawn(async move {
                let Open::Loopback { proto, port } = header(&mut stream).await? else {
                    panic!("of another kind")
                };
                if port == CLOSED {
                    return dialled::refuse(&mut stream, "nobody listens".into()).await;
                }
                link::write_frame(&mut stream, &Opened::Ok).await?;
                match (proto, port) {
                    (Proto::Tcp, RESETS) => {
                        // Asked first: a reset that comes before `connect` has returned is `connect`'s.
                        stream.read_u8().await?;
                        stream.write_all(b"wor").await?;
                        stream.flush().await?;
                    }
                    (Proto::Tcp, WATCHES) => {
                        let mut stream = Strict::new(stream);
                        let mut said = Vec::new();
                        stream.read_to_end(&mut said).await.expect_err("a reset");
                        let _ = lock(&gone).take().expect("one watch").send(());
                    }
                    (Proto::Tcp | Proto::Udp, _) => {
                        let (mut from, mut to) = tokio::io::split(stream);
                        tokio::io::copy(&mut from, &mut to).await?;
                        to.shutdown().await?;
                    }
                }
                Ok::<_, LinkError>(())
            });
        }
    }

    /// Does something beside a kernel's network that has the way and nothing else.
    fn beside<T: Send>(work: impl FnOnce(oneshot::Receiver<()>) -> T + Send) -> T {
        sys::in_a_network_of_its_own(|| {
            let loopback = Loopback::default();
            assert_eq!(loopback.open()?, HOST);
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let _entered = runtime.enter();
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let (guest, theirs) = (Arc::new(Session::guest(ours)), Session::host(theirs));
            let (gone, has_gone) = oneshot::channel();
            tokio::spawn(host(theirs, gone));
            tokio::spawn(loopback.clone().serve());
            // Nobody lets us in yet.
            assert_eq!(TcpStream::connect(at(ECHO)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            loopback.ask_by(Arc::downgrade(&guest));
            let done = work(has_gone);
            drop(guest);
            assert_eq!(TcpStream::connect(at(ECHO)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            Ok(done)
        })
        .unwrap()
    }

    #[test]
    fn bytes_go_there_and_back_and_each_end_by_itself() {
        beside(|_| {
            let mut client = TcpStream::connect(at(ECHO)).unwrap();
            let said: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
            let back = std::thread::scope(|scope| {
                let mut from = client.try_clone().unwrap();
                let reader = scope.spawn(move || {
                    let mut back = Vec::new();
                    from.read_to_end(&mut back).map(|_| back)
                });
                client.write_all(&said).unwrap();
                client.shutdown(std::net::Shutdown::Write).unwrap();
                reader.join().unwrap().unwrap()
            });
            assert!(back == said, "{} of {} bytes came back, or others", back.len(), said.len());
        });
    }

    #[test]
    fn a_port_that_nobody_has_is_refused_and_a_service_that_goes_away_resets() {
        beside(|_| {
            for _ in 0..3 {
                let refused = TcpStream::connect(at(CLOSED)).unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            }
            let mut client = TcpStream::connect(at(RESETS)).unwrap();
            client.write_all(b"?").unwrap();
            let mut said = Vec::new();
            let reset = client.read_to_end(&mut said).unwrap_err();
            assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
            assert!(b"wor".starts_with(&said), "a reset may overtake what was said");
        });
    }

    #[test]
    fn a_client_that_goes_away_is_told_to_the_host() {
        beside(|has_gone| {
            let mut client = TcpStream::connect(at(WATCHES)).unwrap();
            client.write_all(b"word").unwrap();
            // What a process leaves that is killed with bytes unread, or closes at once: a reset.
            nix::sys::socket::setsockopt(
                &client,
                nix::sys::socket::sockopt::Linger,
                &nix::libc::linger { l_onoff: 1, l_linger: 0 },
            )
            .unwrap();
            drop(client);
            has_gone.blocking_recv().unwrap();
        });
    }

    #[test]
    fn many_connections_to_one_port_are_told_apart() {
        beside(|_| {
            std::thread::scope(|scope| {
                for n in 0..50_u8 {
                    scope.spawn(move || {
                        let mut client = TcpStream::connect(at(ECHO)).unwrap();
                        client.write_all(&[n; 100]).unwrap();
                        client.shutdown(std::net::Shutdown::Write).unwrap();
                        let mut back = Vec::new();
                        client.read_to_end(&mut back).unwrap();
                        assert_eq!(back, [n; 100]);
                    });
                }
            });
        });
    }

    #[test]
    fn datagrams_come_back_whole_to_their_peer() {
        beside(|_| {
            let (a, b) = (UdpSocket::bind("0.0.0.0:0").unwrap(), UdpSocket::bind("0.0.0.0:0").unwrap());
            // Above what the interface takes at once: in fragments.
            for (socket, len) in [(&a, 4), (&b, 5), (&a, 8000), (&b, 0), (&a, 20_000), (&b, 65_507)] {
                socket.connect(at(ECHO)).unwrap();
                socket.send(&vec![len as u8; len]).unwrap();
                let mut back = vec![0; PACKET];
                let got = socket.recv(&mut back).unwrap();
                assert_eq!(&back[..got], vec![len as u8; len]);
            }
        });
    }

    /// What is no packet of anybody's is passed over.
    #[test]
    fn nonsense_is_no_packet() {
        let mut stack = Stack::new(1, |_, _| ());
        for nonsense in [&b""[..], &[0x45], &[0x45; 20], &[0x60; 40], &[0xff; 1500]] {
            assert_eq!(stack.take(nonsense), Packet::Taken);
        }
        stack.poll();
    }
}
