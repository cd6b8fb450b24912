//! The guest's own network: loopback and the first interface, as the boot arguments say.

use std::{
    fs, io,
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    GuestError,
    cmdline::Net,
    dhcp::{self, Answer, Ask, Lease},
    names::Names,
    say, sys,
};

/// Name of the first interface.
const FIRST: &str = "eth0";
/// Time in which the interface must appear after its driver was loaded.
const LIMIT: Duration = Duration::from_secs(5);
/// What programs ask for names; `/etc/resolv.conf` leads here.
const RESOLV: &str = "/run/resolv.conf";
/// Time in which a server must give an address, while somebody waits for it.
const DHCP_LIMIT: Duration = Duration::from_secs(20);
/// First and longest time for an answer; then the question is asked again.
const DHCP_ANSWER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// Pause before a server that didn't renew is asked again.
const DHCP_RETRY: Duration = Duration::from_secs(60);

/// Brings the network up: the way out, if there is one, and its lease, to be kept by [`keep`].
///
/// Programs are told to ask `names`, where it listens, and the network's own servers otherwise.
pub fn up(net: Option<&Net>, names: &Names) -> Result<(Option<Ipv4Addr>, Option<Lease>), GuestError> {
    configure(&sys::Interface { name: "lo", address: (Ipv4Addr::LOCALHOST, 8), gateway: None })?;
    let Some(net) = net else { return Ok((None, None)) };
    sys::wait_for_path(&Path::new("/sys/class/net").join(FIRST), LIMIT)?;
    match net {
        Net::Fixed { address, prefix, gateway, dns } => {
            name_servers(&[*dns], names)?;
            let address = (*address, *prefix);
            configure(&sys::Interface { name: FIRST, address, gateway: Some(*gateway) })?;
            Ok((Some(*gateway), None))
        }
        Net::Dhcp => {
            let lease = ask().map_err(GuestError::io("getting an address for", FIRST))?;
            apply(&lease, names)?;
            Ok((lease.gateway, Some(lease)))
        }
    }
}

/// Renews a lease for as long as the guest runs. A new address is taken when the server wants it so.
pub async fn keep(mut lease: Lease, names: Names) {
    let mut until = Instant::now() + lease.end;
    let mut pause = lease.renewal;
    loop {
        tokio::time::sleep(pause).await;
        let (old, over) = (lease.clone(), Instant::now() > until);
        let renewed = tokio::task::spawn_blocking(move || renew(&old, over)).await;
        match renewed.map_err(io::Error::other).flatten() {
            Ok(new) => {
                if new != lease
                    && let Err(error) = apply(&new, &names)
                {
                    say(error);
                }
                (until, pause) = (Instant::now() + new.end, new.renewal);
                lease = new;
            }
            Err(error) => {
                say(format_args!("the network's lease was not renewed: {error}"));
                pause = DHCP_RETRY;
            }
        }
    }
}

fn apply(lease: &Lease, names: &Names) -> Result<(), GuestError> {
    name_servers(&lease.dns, names)?;
    let address = (lease.address, lease.prefix);
    configure(&sys::Interface { name: FIRST, address, gateway: lease.gateway })
}

fn configure(interface: &sys::Interface) -> Result<(), GuestError> {
    sys::configure_interface(interface).map_err(GuestError::io("configuring", interface.name))
}

fn name_servers(all: &[Ipv4Addr], names: &Names) -> Result<(), GuestError> {
    names.fall_back_to(all);
    let own = names.address();
    let all = own.as_ref().map_or(all, std::slice::from_ref);
    let lines: String = all.iter().map(|address| format!("nameserver {address}\n")).collect();
    fs::write(RESOLV, lines).map_err(GuestError::io("writing", RESOLV))
}

/// An address of a server that hasn't been asked yet.
fn ask() -> io::Result<Lease> {
    let client = Client::new()?;
    let deadline = Instant::now() + DHCP_LIMIT;
    loop {
        let offer = client.dialogue(Ask::Discover, Ipv4Addr::BROADCAST, deadline, |answer| match answer {
            Answer::Offer(lease) => Some(Ok(lease)),
            Answer::Given(_) | Answer::Refused => None,
        })?;
        let take = Ask::Take { address: offer.address, server: offer.server };
        // Refused, it may be offered another one.
        if let Ok(lease) = client.dialogue(take, Ipv4Addr::BROADCAST, deadline, given) {
            return Ok(lease);
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

fn renew(lease: &Lease, is_over: bool) -> io::Result<Lease> {
    if is_over {
        return ask();
    }
    let deadline = Instant::now() + DHCP_LIMIT;
    let renewed =
        Client::new()?.dialogue(Ask::Renew { address: lease.address }, lease.server, deadline, given);
    match renewed {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => ask(),
        other => other,
    }
}

fn given(answer: Answer) -> Option<io::Result<Lease>> {
    match answer {
        Answer::Given(lease) => Some(Ok(lease)),
        Answer::Refused => Some(Err(io::ErrorKind::PermissionDenied.into())),
        Answer::Offer(_) => None,
    }
}

/// A client on the first interface.
struct Client {
    socket: UdpSocket,
    mac: [u8; 6],
}

impl Client {
    fn new() -> io::Result<Self> {
        let path = format!("/sys/class/net/{FIRST}/address");
        let mac = parse_mac(fs::read_to_string(path)?.trim()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { socket: sys::broadcast_socket(FIRST, dhcp::PORTS.0)?, mac })
    }

    /// Asks until an answer counts.
    fn dialogue(
        &self,
        ask: Ask,
        to: Ipv4Addr,
        deadline: Instant,
        mut counts: impl FnMut(Answer) -> Option<io::Result<Lease>>,
    ) -> io::Result<Lease> {
        let id = u32::from_ne_bytes(sys::random()?);
        let mut wait = DHCP_ANSWER.0;
        while Instant::now() < deadline {
            self.socket.send_to(&dhcp::encode(ask, id, self.mac), (to, dhcp::PORTS.1))?;
            let again = Instant::now() + wait;
            while let Some(left) = again.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
                self.socket.set_read_timeout(Some(left))?;
                let mut message = [0; dhcp::MESSAGE];
                let len = match self.socket.recv(&mut message) {
                    Ok(len) => len,
                    Err(error)
                        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
                    {
                        break;
                    }
                    Err(error) => return Err(error),
                };
                if let Some(done) = dhcp::decode(&message[..len], id, self.mac).and_then(&mut counts) {
                    return done;
                }
            }
            wait = (wait * 2).min(DHCP_ANSWER.1);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "no DHCP server answered"))
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}
