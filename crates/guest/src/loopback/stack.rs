//! The TCP/IP stack behind the interface: packets in, packets out, and connections in between.
//!
//! ```text
//!   a SYN --take--> Asks --+-- accept --> a connection   (the SYN that was kept is answered)
//!                          +-- refuse --> a reset
//! ```

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    net::SocketAddrV4,
    num::{NonZeroU16, NonZeroUsize},
    time::Duration,
};

use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium, PacketMeta},
    socket::tcp::{self, Socket, SocketBuffer},
    time::Instant,
    wire::{HardwareAddress, IpCidr, IpProtocol, Ipv4Packet, Ipv4Repr, TcpPacket, UdpPacket, UdpRepr},
};

use super::{HOST, MTU};
use crate::sys::Unfinished;

/// Bytes of a connection that wait, each way.
const BUFFER: usize = 64 * 1024;
/// How long a client may not answer, and how often it is asked whether it is there: a container ends without a word.
const GONE: Duration = Duration::from_secs(300);
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// What a packet's header says first: how many others may pass it on.
const HOP_LIMIT: u8 = 64;

/// Who speaks to which of the host's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The container's end.
    pub from: SocketAddrV4,
    /// The host's port.
    pub port: u16,
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet {
    /// It is the stack's, or nobody's.
    Taken,
    /// It asks for a connection that is not there yet: [`Stack::accept`], [`Stack::refuse`] or [`Stack::forget`].
    Asks(Flow),
    /// It is a datagram.
    Datagram(Flow, Vec<u8>),
}

/// The stack. It does nothing by itself: [`Self::poll`].
pub struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    device: Device,
    start: std::time::Instant,
    /// Connections, and what asks for one (`None`).
    flows: HashMap<Flow, Option<SocketHandle>>,
    /// Connections that nobody holds any more, until they have ended.
    ending: Vec<(Flow, SocketHandle)>,
}

impl Stack {
    /// A stack with no connections, whose packets go `out`. `seed`: what sequence numbers are guessed from.
    pub fn new(seed: u64, out: impl FnMut(&[u8], Option<Unfinished>) + Send + 'static) -> Self {
        let mut device =
            Device { waiting: VecDeque::new(), out: Out { send: Box::new(out), packet: Vec::new() } };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.update_ip_addrs(|all| {
            all.push(IpCidr::new(HOST.into(), 30)).expect("the first address has room");
        });
        // Whoever asks is reached by the interface, wherever it is.
        interface.routes_mut().add_default_ipv4_route(super::HERE.0).expect("the first route has room");
        Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            device,
            start: std::time::Instant::now(),
            flows: HashMap::new(),
            ending: Vec::new(),
        }
    }

    /// Takes a packet that came.
    pub fn take(&mut self, packet: &[u8]) -> Packet {
        let Some(ip) =
            Ipv4Packet::new_checked(packet).ok().filter(|ip| ip.version() == 4 && ip.dst_addr() == HOST)
        else {
            return Packet::Taken;
        };
        let is_whole = !ip.more_frags() && ip.frag_offset() == 0;
        match ip.next_header() {
            _ if !is_whole => return Packet::Taken,
            IpProtocol::Tcp => {
                let Ok(tcp) = TcpPacket::new_checked(ip.payload()) else { return Packet::Taken };
                let flow =
                    Flow { from: SocketAddrV4::new(ip.src_addr(), tcp.src_port()), port: tcp.dst_port() };
                if tcp.syn() && !tcp.ack() && !tcp.rst() {
                    match self.flows.entry(flow) {
                        Entry::Vacant(place) => {
                            place.insert(None);
                            return Packet::Asks(flow);
                        }
                        Entry::Occupied(place) if place.get().is_none() => return Packet::Taken, // it asks again
                        Entry::Occupied(_) => {}
                    }
                }
            }
            IpProtocol::Udp => {
                let Ok(udp) = UdpPacket::new_checked(ip.payload()) else { return Packet::Taken };
                let flow =
                    Flow { from: SocketAddrV4::new(ip.src_addr(), udp.src_port()), port: udp.dst_port() };
                return Packet::Datagram(flow, udp.payload().to_vec());
            }
            _ => {}
        }
        self.device.waiting.push_back(packet.to_vec());
        Packet::Taken
    }

    /// The connection that `first` asked for.
    pub fn accept(&mut self, flow: Flow, first: &[u8]) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_timeout(Some(GONE.into()));
        socket.set_keep_alive(Some(KEEP_ALIVE.into()));
        self.poll(); // what came before finds no socket that listens
        // A port of 0 is the one thing that can't be listened at: then the SYN is refused below.
        let _ = socket.listen((HOST, flow.port));
        let handle = self.sockets.add(socket);
        self.flows.insert(flow, Some(handle));
        self.device.waiting.push_back(first.to_vec());
        self.poll();
        if self.socket(handle).is_listening() {
            self.socket(handle).abort(); // the stack made nothing of it; the next one is somebody else's
        }
        handle
    }

    /// There is no such connection: says so to whoever asked.
    pub fn refuse(&mut self, flow: Flow, first: &[u8]) {
        self.flows.remove(&flow);
        self.device.waiting.push_back(first.to_vec());
        self.poll();
    }

    /// Whoever asked gets no answer, and may ask again.
    pub fn forget(&mut self, flow: Flow) {
        self.flows.remove(&flow);
    }

    /// A connection.
    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Nobody holds this connection any more: it ends in order, or at once with a reset.
    pub fn end(&mut self, flow: Flow, handle: SocketHandle, in_order: bool) {
        if !in_order {
            self.socket(handle).abort();
        }
        self.ending.push((flow, handle));
    }

    /// Handles what came and sends what is there to be sent. Gives when to look again.
    pub fn poll(&mut self) -> Option<Duration> {
        // Not the clock of the wall: that one is set.
        let now = Instant::from_micros(i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX));
        self.interface.poll(now, &mut self.device, &mut self.sockets);
        let (sockets, flows) = (&mut self.sockets, &mut self.flows);
        self.ending.retain(|(flow, handle)| {
            // Its last word has been said: whoever says theirs again is told that there is nothing.
            let is_over = matches!(
                sockets.get::<Socket<'_>>(*handle).state(),
                tcp::State::Closed | tcp::State::TimeWait
            );
            if is_over {
                sockets.remove(*handle);
                flows.remove(flow);
            }
            !is_over
        });
        self.interface.poll_delay(now, &self.sockets).map(Duration::from)
    }
}

/// A packet with an answer to a datagram; `None` where it would be too long for one.
pub fn datagram(flow: Flow, bytes: &[u8]) -> Option<Vec<u8>> {
    let udp = UdpRepr { src_port: flow.port, dst_port: flow.from.port() };
    let ip = Ipv4Repr {
        src_addr: HOST,
        dst_addr: *flow.from.ip(),
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + bytes.len(),
        hop_limit: HOP_LIMIT,
    };
    let len = ip.buffer_len() + ip.payload_len;
    if len > super::PACKET {
        return None;
    }
    let mut packet = vec![0; len];
    let mut whole = Ipv4Packet::new_unchecked(&mut packet[..]);
    let checksums = ChecksumCapabilities::default();
    ip.emit(&mut whole, &checksums);
    let (from, to) = (ip.src_addr.into(), ip.dst_addr.into());
    udp.emit(
        &mut UdpPacket::new_unchecked(whole.payload_mut()),
        &from,
        &to,
        bytes.len(),
        |payload| payload.copy_from_slice(bytes),
        &checksums,
    );
    Some(packet)
}

/// The stack's side of the interface.
struct Device {
    /// Packets that came.
    waiting: VecDeque<Vec<u8>>,
    out: Out,
}

struct Out {
    send: SendPacket,
    /// Room for one.
    packet: Vec<u8>,
}

type SendPacket = Box<dyn FnMut(&[u8], Option<Unfinished>) + Send>;

struct Came(Vec<u8>);

impl phy::Device for Device {
    type RxToken<'a> = Came;
    type TxToken<'a> = Leaves<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Came, Leaves<'_>)> {
        let came = Came(self.waiting.pop_front()?);
        Some((came, Leaves { out: &mut self.out, segment: None }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaves<'_>> {
        Some(Leaves { out: &mut self.out, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(MTU);
        // The kernel made or checked them, in this same memory; or leaves them to whoever needs them, as we do.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::None;
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(super::PACKET);
        capabilities
    }
}

impl phy::RxToken for Came {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Leaves<'a> {
    out: &'a mut Out,
    /// Bytes of each segment that it is to be cut into.
    segment: Option<NonZeroU16>,
}

impl phy::TxToken for Leaves<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let packet = &mut self.out.packet;
        packet.clear();
        packet.resize(len, 0);
        let written = write(packet);
        let unfinished = unfinished(packet, self.segment);
        (self.out.send)(packet, unfinished);
        written
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}

/// Puts the sum of the pseudo-header (RFC 9293, 3.1) into a TCP segment, to which whoever finishes it adds the rest.
fn unfinished(packet: &mut [u8], segment: Option<NonZeroU16>) -> Option<Unfinished> {
    let mut ip = Ipv4Packet::new_checked(packet).ok().filter(|ip| ip.next_header() == IpProtocol::Tcp)?;
    let (from, to) = (ip.src_addr().octets(), ip.dst_addr().octets());
    let (ip_header, len) = (u16::from(ip.header_len()), ip.total_len());
    let words = from.chunks_exact(2).chain(to.chunks_exact(2)).map(|w| u16::from_be_bytes([w[0], w[1]]));
    let sum: u32 = words.chain([6, len.checked_sub(ip_header)?]).map(u32::from).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let mut tcp = TcpPacket::new_checked(ip.payload_mut()).ok()?;
    tcp.set_checksum(((folded & 0xffff) + (folded >> 16)) as u16);
    let headers = ip_header + u16::from(tcp.header_len());
    Some(Unfinished { ip_header, headers, segment: segment.map(NonZeroU16::get) })
}
