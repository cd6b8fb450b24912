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

use super::{HOST, MTU, fragments::Fragments};
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
    fragments: Fragments,
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
            fragments: Fragments::default(),
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
        match ip.next_header() {
            IpProtocol::Udp => {
                let Some(bytes) = self.fragments.take(&ip) else { return Packet::Taken };
                let Ok(udp) = UdpPacket::new_checked(&*bytes) else { return Packet::Taken };
                let flow =
                    Flow { from: SocketAddrV4::new(ip.src_addr(), udp.src_port()), port: udp.dst_port() };
                return Packet::Datagram(flow, udp.payload().to_vec());
            }
            // What is no datagram is never cut by the kernel: whoever does it is not heard.
            _ if ip.more_frags() || ip.frag_offset() != 0 => return Packet::Taken,
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

/// A packet with an answer to a datagram; `None` where it would be too long for one. `number`: what its fragments have in
/// common, as a container's network may be too narrow for the whole.
pub fn datagram(flow: Flow, number: u16, bytes: &[u8]) -> Option<Vec<u8>> {
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
    whole.set_ident(number);
    whole.set_dont_frag(false);
    whole.fill_checksum();
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::{collection::vec, prelude::*};
    use smoltcp::wire::TcpSeqNumber;

    use super::*;

    /// What a container may do: anything.
    #[derive(Clone, Debug)]
    enum Act {
        Sends(Vec<u8>),
        SendsTcp(Segment),
        IsAccepted(bool),
        IsSaidTo(usize),
        IsHeard(usize),
        IsClosed,
        IsLeft(bool),
    }

    #[derive(Clone, Debug)]
    struct Segment {
        ports: (u16, u16),
        flags: u8,
        /// Where the numbers are those that the other side waits for, and how far off they are else.
        seq: (bool, u32),
        ack: (bool, u32),
        window: u16,
        options: Vec<u8>,
        payload: usize,
    }

    fn options() -> impl Strategy<Value = Vec<u8>> {
        let one = prop_oneof![
            any::<u16>().prop_map(|mss| [&[2, 4][..], &mss.to_be_bytes()].concat()),
            (0..4_u16).prop_map(|mss| [&[2, 4][..], &mss.to_be_bytes()].concat()),
            any::<u8>().prop_map(|shift| vec![3, 3, shift]),
            Just(vec![4, 2]),
            vec(any::<u8>(), 8).prop_map(|times| [&[8, 10][..], &times].concat()),
            vec(any::<u8>(), 16).prop_map(|ranges| [&[5, 18][..], &ranges].concat()),
            vec(any::<u8>(), 0..12),
        ];
        vec(one, 0..4).prop_map(|all| all.concat())
    }

    fn segment() -> impl Strategy<Value = Segment> {
        let ports = (prop_oneof![0..3_u16], prop_oneof![Just(80), 0..3_u16]);
        // FIN, SYN, RST, PSH, ACK, URG; mostly as a client would.
        let flags = prop_oneof![Just(2_u8), Just(0x10), Just(0x18), Just(0x11), any::<u8>()];
        let number = || (prop::bool::weighted(0.8), any::<u32>());
        let payload = prop_oneof![Just(0_usize), 1..100_usize, Just(60_000)];
        (ports, flags, number(), number(), any::<u16>(), options(), payload).prop_map(
            |(ports, flags, seq, ack, window, options, payload)| Segment {
                ports,
                flags,
                seq,
                ack,
                window,
                options,
                payload,
            },
        )
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            1 => vec(any::<u8>(), 0..80).prop_map(Act::Sends),
            10 => segment().prop_map(Act::SendsTcp),
            4 => prop::bool::weighted(0.8).prop_map(Act::IsAccepted),
            3 => (0..100_000_usize).prop_map(Act::IsSaidTo),
            3 => (0..100_000_usize).prop_map(Act::IsHeard),
            1 => Just(Act::IsClosed),
            1 => any::<bool>().prop_map(Act::IsLeft),
        ]
    }

    /// What the stack said last: its numbers, by the client's port.
    type Said = Arc<Mutex<HashMap<u16, (u32, u32)>>>;

    fn packet(segment: &Segment, said: &Said) -> Vec<u8> {
        let (next, waits_for) = said.lock().unwrap().get(&segment.ports.0).copied().unwrap_or_default();
        let number =
            |(exact, off): (bool, u32), right: u32| if exact { right } else { right.wrapping_add(off) };
        let mut options = segment.options.clone();
        options.truncate(40);
        options.resize(options.len().next_multiple_of(4), 0);
        let header = 20 + options.len();
        let len = 20 + header + segment.payload;
        let mut packet = vec![0; len];
        let ip = Ipv4Repr {
            src_addr: super::super::HERE.0,
            dst_addr: HOST,
            next_header: IpProtocol::Tcp,
            payload_len: len - 20,
            hop_limit: HOP_LIMIT,
        };
        let mut whole = Ipv4Packet::new_unchecked(&mut packet[..]);
        ip.emit(&mut whole, &ChecksumCapabilities::default());
        let mut tcp = TcpPacket::new_unchecked(whole.payload_mut());
        tcp.set_src_port(segment.ports.0);
        tcp.set_dst_port(segment.ports.1);
        tcp.set_seq_number(TcpSeqNumber(number(segment.seq, waits_for) as i32));
        tcp.set_ack_number(TcpSeqNumber(number(segment.ack, next) as i32));
        tcp.set_header_len(header as u8);
        tcp.set_window_len(segment.window);
        let tcp = whole.payload_mut();
        tcp[13] = segment.flags;
        tcp[20..header].copy_from_slice(&options);
        packet
    }

    fn stack(said: &Said) -> Stack {
        let said = said.clone();
        Stack::new(7, move |packet, unfinished| {
            let ip = Ipv4Packet::new_checked(packet).expect("a packet");
            assert_eq!(ip.src_addr(), HOST);
            if ip.next_header() != IpProtocol::Tcp {
                return;
            }
            let tcp = TcpPacket::new_checked(ip.payload()).expect("a segment");
            let unfinished = unfinished.expect("checksums are left to the kernel");
            assert_eq!(unfinished.headers, 20 + u16::from(tcp.header_len()));
            let longest = unfinished.segment.unwrap_or(u16::MAX);
            assert!(longest > 0, "segments of nothing");
            let next = tcp.seq_number() + tcp.segment_len();
            said.lock().unwrap().insert(tcp.dst_port(), (next.0 as u32, tcp.ack_number().0 as u32));
        })
    }

    #[test]
    fn what_a_client_waits_for_goes_in_one_piece_that_the_kernel_cuts() {
        let said = Said::default();
        let mut stack = stack(&said);
        let segment = |flags, options: &[u8]| Segment {
            ports: (1, 80),
            flags,
            seq: (true, 0),
            ack: (true, 0),
            window: 60_000,
            options: options.to_vec(),
            payload: 0,
        };
        let syn = packet(&segment(2, &[2, 4, 5, 0xb4]), &said);
        let Packet::Asks(flow) = stack.take(&syn) else { panic!("it asks") };
        assert_eq!(stack.take(&syn), Packet::Taken, "asked again");
        let handle = stack.accept(flow, &syn);
        assert_eq!(stack.take(&packet(&segment(0x10, &[]), &said)), Packet::Taken);
        stack.poll();
        assert_eq!(stack.socket(handle).state(), tcp::State::Established);
        stack.socket(handle).send_slice(&[1; 40_000]).unwrap();
        let pieces = Arc::new(Mutex::new(Vec::new()));
        let kept = pieces.clone();
        stack.device.out.send = Box::new(move |packet, unfinished| {
            kept.lock().unwrap().push((packet.len(), unfinished.and_then(|u| u.segment)));
        });
        stack.poll();
        assert_eq!(*pieces.lock().unwrap(), [(40_040, Some(1460))]);
    }

    proptest! {
        /// The guest's first process runs this, and must not die of what a container sends.
        #[test]
        fn whatever_comes_is_lived_through(acts in vec(act(), 0..60)) {
            let said = Said::default();
            let mut stack = stack(&said);
            let mut asked: Vec<(Flow, Vec<u8>)> = Vec::new();
            let mut held: Vec<(Flow, SocketHandle)> = Vec::new();
            for act in acts {
                match act {
                    Act::Sends(bytes) => drop(stack.take(&bytes)),
                    Act::SendsTcp(segment) => {
                        let packet = packet(&segment, &said);
                        if let Packet::Asks(flow) = stack.take(&packet) {
                            asked.push((flow, packet));
                        }
                    }
                    Act::IsAccepted(is_accepted) => match asked.pop() {
                        Some((flow, first)) if is_accepted => held.push((flow, stack.accept(flow, &first))),
                        Some((flow, first)) => stack.refuse(flow, &first),
                        None => {}
                    },
                    Act::IsSaidTo(len) => for (_, handle) in &held {
                        let _ = stack.socket(*handle).send_slice(&vec![1; len]);
                    },
                    Act::IsHeard(len) => for (_, handle) in &held {
                        let _ = stack.socket(*handle).recv_slice(&mut vec![0; len]);
                    },
                    Act::IsClosed => for (_, handle) in &held {
                        stack.socket(*handle).close();
                    },
                    Act::IsLeft(in_order) => if let Some((flow, handle)) = held.pop() {
                        stack.end(flow, handle, in_order);
                    },
                }
                stack.poll();
            }
            // All of it can be given up.
            for (flow, _) in asked {
                stack.forget(flow);
            }
            for (flow, handle) in held {
                stack.end(flow, handle, false);
            }
            stack.poll();
            prop_assert!(stack.ending.iter().all(|(_, handle)| stack.sockets.get::<Socket<'_>>(*handle).is_open()));
        }
    }
}
