//! Names of the world: a resolver for everything in the guest, which asks the host over the link.
//!
//! ```text
//!   engine (127.0.0.11's own questions, pulls), containers of the bridge and of the network `host`
//!     '--> ADDRESS:53 --> names --link--> host --> whatever the host asks: VPN, split DNS, a stub of its own
//!                           '--> the hypervisor's resolver, where the link is down or the host knows none
//! ```
//! The names of the host itself ([`HOST_NAMES`]) are answered here: containers of the default bridge and of the network `host`, and
//! build steps, have no other resolver.
//!
//! Messages pass as they are. The sockets are in a network namespace of their own ([`place`]): port 53 of the guest's
//! network belongs to its containers.

mod place;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use link::{
    LinkError, Session,
    names::{MAX_ANSWER, ask, read_message, write_message},
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::Semaphore,
    time::timeout,
};
use wire::{
    names::{HOST_NAMES, MAX_ASKED, MAX_QUESTION, about, failure, known},
    open::Open,
};

use place::Sockets;

use crate::{BREATH, GuestError, say};

/// Time in which the host must answer: it tells its own failures sooner.
const LINK_LIMIT: Duration = Duration::from_secs(4);
/// Time in which a resolver of the hypervisor's must answer, before the next is asked.
const FALLBACK_LIMIT: Duration = Duration::from_secs(3);
/// How long a TCP connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);
/// TCP connections at once.
const MAX_CONNECTIONS: usize = 128;

/// The resolver; a handle. Without sockets it answers nobody.
#[derive(Clone, Default)]
pub struct Names(Arc<Shared>);

struct Shared {
    sockets: Mutex<Option<Sockets>>,
    listens: AtomicBool,
    /// The link to a host that asks.
    link: Mutex<Weak<Session>>,
    /// Where containers find the host.
    host: Mutex<Option<Ipv4Addr>>,
    /// The hypervisor's resolvers.
    fallback: Mutex<Vec<Ipv4Addr>>,
    places: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            sockets: Mutex::default(),
            listens: AtomicBool::new(false),
            link: Mutex::default(),
            host: Mutex::default(),
            fallback: Mutex::default(),
            places: Arc::new(Semaphore::new(MAX_ASKED)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        }
    }
}

impl Names {
    /// Listens; who asks from now on waits for [`Self::serve`].
    pub fn open(&self) -> Result<(), GuestError> {
        let sockets = Sockets::open()?;
        *self.0.sockets.lock().unwrap_or_else(PoisonError::into_inner) = Some(sockets);
        self.0.listens.store(true, Ordering::Release);
        Ok(())
    }

    /// Where it can be asked.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.0.listens.load(Ordering::Acquire).then_some(place::THERE)
    }

    /// From now on this link's host is asked, for as long as the link is there.
    pub fn ask_by(&self, session: Weak<Session>) {
        *self.0.link.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    /// Where containers find the host.
    pub fn host_is_at(&self, host: Option<Ipv4Addr>) {
        *self.0.host.lock().unwrap_or_else(PoisonError::into_inner) = host;
    }

    /// Who is asked otherwise.
    pub fn fall_back_to(&self, servers: &[Ipv4Addr]) {
        *self.0.fallback.lock().unwrap_or_else(PoisonError::into_inner) = servers.to_vec();
    }

    /// Answers for ever, where it listens.
    pub async fn serve(self) {
        let sockets = self.0.sockets.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Sockets { udp, tcp }) = sockets else { return };
        match (UdpSocket::from_std(udp), TcpListener::from_std(tcp)) {
            (Ok(udp), Ok(tcp)) => {
                tokio::join!(self.udp(Arc::new(udp)), self.tcp(tcp));
            }
            (Err(error), _) | (_, Err(error)) => say(format_args!("names: {error}")),
        }
    }

    async fn udp(&self, socket: Arc<UdpSocket>) {
        let mut question = [0; MAX_QUESTION];
        loop {
            let Ok((len, from)) = socket.recv_from(&mut question).await else { continue };
            // Above the limit a question is lost, as datagrams may be: it is asked again.
            let Ok(place) = self.0.places.clone().try_acquire_owned() else { continue };
            let (names, socket, question) = (self.clone(), socket.clone(), question[..len].to_vec());
            tokio::spawn(async move {
                if let Some(answer) = names.answer(&question, false).await {
                    let _ = socket.send_to(&answer, from).await;
                }
                drop(place);
            });
        }
    }

    async fn tcp(&self, listener: TcpListener) {
        loop {
            let Ok(place) = self.0.connections.clone().acquire_owned().await else { return };
            let Ok((mut client, _)) = listener.accept().await else {
                tokio::time::sleep(BREATH).await;
                continue;
            };
            let names = self.clone();
            tokio::spawn(async move {
                while let Ok(Ok(question)) = timeout(IDLE, read_message(&mut client, MAX_QUESTION)).await {
                    let Ok(_turn) = names.0.places.acquire().await else { break };
                    let Some(answer) = names.answer(&question, true).await else { break };
                    if !matches!(timeout(IDLE, write_message(&mut client, &answer)).await, Ok(Ok(()))) {
                        break;
                    }
                }
                drop(place);
            });
        }
    }

    /// The answer, or that there is none; nothing to what is no question.
    async fn answer(&self, question: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let failed = failure(question)?;
        if let Some(answer) = self.about_the_host(question) {
            return Some(answer);
        }
        let session = self.0.link.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(session) = session
            && let Ok(Ok(answer)) = timeout(LINK_LIMIT, by_link(&session, question, tcp)).await
            && !answer.is_empty()
        {
            return Some(answer);
        }
        let servers = self.0.fallback.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for server in servers {
            let server = SocketAddr::from((server, 53));
            if let Ok(Ok(answer)) = timeout(FALLBACK_LIMIT, ask(server, question, tcp)).await {
                return Some(answer);
            }
        }
        Some(failed)
    }

    fn about_the_host(&self, question: &[u8]) -> Option<Vec<u8>> {
        let about = about(question).filter(|about| HOST_NAMES.contains(&about.name.as_str()))?;
        let host = IpAddr::from((*self.0.host.lock().unwrap_or_else(PoisonError::into_inner))?);
        // One that has no address of this kind is known all the same.
        known(question, Some(host).filter(|host| about.kind.is(host)).as_slice())
    }
}

async fn by_link(session: &Session, question: &[u8], tcp: bool) -> Result<Vec<u8>, LinkError> {
    let mut stream = session.open(&Open::Names { tcp }).await?;
    write_message(&mut stream, question).await?;
    Ok(read_message(&mut stream, MAX_ANSWER).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_hosts_names_are_answered_without_asking_anybody() {
        let names = Names::default();
        let question = |kind: u8| {
            [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04Host\x06docker\x08internal\0\0", &[kind, 0, 1][..]]
                .concat()
        };
        const NO_ANSWER: [u8; 2] = [0, 0];
        let failed = names.answer(&question(1), false).await.unwrap();
        assert_eq!(failed[3] & 15, 2, "nobody knows where the host is");
        names.host_is_at(Some(Ipv4Addr::new(10, 0, 2, 2)));
        let answer = names.answer(&question(1), false).await.unwrap();
        assert!(answer.ends_with(&[0, 4, 10, 0, 2, 2]) && answer[3] & 15 == 0, "{answer:?}");
        let answer = names.answer(&question(28), true).await.unwrap();
        assert_eq!((answer[3] & 15, &answer[6..8]), (0, &NO_ANSWER[..]), "it has no address of IPv6");
    }
}
