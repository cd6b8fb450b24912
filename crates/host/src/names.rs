//! Names, for the guest: its questions ([`wire::names`]) are asked of the resolvers that this computer asks.
//!
//! Messages pass as they are, so that truncation, EDNS and negative answers are those resolvers' own. Which they are is
//! read anew when it may have changed: a VPN comes and goes. Before them counts what this computer knows by itself
//! ([`hosts`]).

mod hosts;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use link::{
    LinkError, Stream,
    names::{read_message, write_message},
};
use tokio::{
    io::AsyncWriteExt,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use wire::names::{MAX_QUESTION, about, failure, known};

use crate::platform;
use hosts::Hosts;

/// Time in which a question has its answer, or is told that there is none.
const LIMIT: Duration = Duration::from_secs(3);
/// A resolver that has not answered after this time is no longer waited for alone: the next is asked as well.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it may go unnoticed that this computer asks others.
const REREAD: Duration = Duration::from_secs(1);
/// Most resolvers of one kind that are asked, as the C library has it.
const MAX_RESOLVERS: usize = 3;
/// Port of resolvers.
const PORT: u16 = 53;
/// A file in the form of `resolv.conf`, in the place of this computer's own.
const FILE: &str = "CORACLE_RESOLV_CONF";

/// Whom this computer asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolvers {
    /// About everything.
    all: Vec<SocketAddr>,
    /// About one domain and what is below it: macOS' `/etc/resolver/DOMAIN`.
    domains: Vec<(String, Vec<SocketAddr>)>,
}

impl Resolvers {
    /// What is set now.
    fn read() -> Self {
        let file = std::env::var_os(FILE).map(PathBuf::from);
        let Some(path) = file.or_else(|| platform::RESOLV_CONF.map(PathBuf::from)) else {
            return Self::default();
        };
        let all = listed(&std::fs::read_to_string(path).unwrap_or_default());
        let folder = platform::RESOLVERS_OF_DOMAINS.and_then(|folder| std::fs::read_dir(folder).ok());
        let domains = folder.into_iter().flatten().flatten().filter_map(|entry| {
            let servers = listed(&std::fs::read_to_string(entry.path()).ok()?);
            let domain = entry.file_name().to_str()?.to_ascii_lowercase();
            (!servers.is_empty()).then_some((domain, servers))
        });
        Self { all, domains: domains.collect() }
    }

    /// Who knows about a name: the longest domain holds.
    fn about(&self, name: &str) -> &[SocketAddr] {
        let within = |domain: &str| {
            name.strip_suffix(domain).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let of_domain = self.domains.iter().filter(|(domain, _)| within(domain));
        of_domain.max_by_key(|(domain, _)| domain.len()).map_or(&self.all, |(_, servers)| servers)
    }
}

/// The servers of a file in `resolv.conf`'s form; a `port` is macOS' own.
fn listed(text: &str) -> Vec<SocketAddr> {
    let values = |key: &'static str| {
        text.lines().filter_map(move |line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(key)).then(|| words.next()).flatten()
        })
    };
    let port = values("port").find_map(|port| port.parse().ok()).unwrap_or(PORT);
    let addresses = values("nameserver").filter_map(|address| address.parse::<IpAddr>().ok());
    addresses.map(|ip| SocketAddr::new(ip, port)).take(MAX_RESOLVERS).collect()
}

/// Answers a guest's questions.
#[derive(Default)]
pub struct Names {
    sources: Mutex<Option<(Instant, Arc<Sources>)>>,
}

/// Where answers are found.
#[derive(Default)]
struct Sources {
    hosts: Arc<Hosts>,
    resolvers: Resolvers,
}

impl Names {
    /// One question, from the stream that it came by to the same stream.
    pub async fn answer(&self, mut stream: Stream, tcp: bool) -> Result<(), LinkError> {
        let question = timeout(LIMIT, read_message(&mut stream, MAX_QUESTION));
        let question = question.await.map_err(|_| LinkError::NoAnswer)??;
        let Some(about) = about(&question) else { return Ok(()) };
        let sources = self.sources().await;
        let answer = match (sources.hosts.addresses(&about), sources.resolvers.about(&about.name)) {
            (Some(addresses), _) => known(&question, &addresses).unwrap_or_default(),
            (None, []) => Vec::new(),
            (None, servers) => match timeout(LIMIT, ask(servers, question.clone().into(), tcp)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(Nobody::MayBeAsked)) => Vec::new(),
                Ok(Err(Nobody::Answered)) | Err(_) => failure(&question).unwrap_or_default(),
            },
        };
        write_message(&mut stream, &answer).await?;
        stream.shutdown().await?;
        Ok(())
    }

    async fn sources(&self) -> Arc<Sources> {
        let before = self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let hosts = match before {
            Some((read, sources)) if read.elapsed() < REREAD => return sources,
            Some((_, sources)) => sources.hosts.clone(),
            None => Arc::default(),
        };
        let read = move || Sources { hosts: Hosts::read(hosts), resolvers: Resolvers::read() };
        let read = Arc::new(tokio::task::spawn_blocking(read).await.unwrap_or_default());
        *self.sources.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), read.clone()));
        read
    }
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
enum Nobody {
    Answered,
    /// This computer lets none of them be asked: on macOS the user is asked whether Coracle may speak to others in the
    /// network, resolvers among them. The hypervisor's, which the guest has as well, is the system's own.
    MayBeAsked,
}

/// The first answer. Each resolver is asked when those before it have failed or had their time.
async fn ask(servers: &[SocketAddr], question: Arc<[u8]>, tcp: bool) -> Result<Vec<u8>, Nobody> {
    let mut asked = JoinSet::new();
    let mut left = servers.iter();
    let mut barred = 0;
    loop {
        if let Some(server) = left.next() {
            let (server, question) = (*server, question.clone());
            asked.spawn(async move { link::names::ask(server, &question, tcp).await });
        }
        let wait = async {
            while let Some(answer) = asked.join_next().await {
                match answer {
                    Ok(Ok(answer)) => return Some(answer),
                    Ok(Err(error)) if is_barred(&error) => barred += 1,
                    Ok(Err(_)) | Err(_) => {}
                }
                if left.len() > 0 {
                    return None;
                }
            }
            None
        };
        if left.len() == 0 {
            let answer = wait.await;
            return answer.ok_or(if barred == servers.len() { Nobody::MayBeAsked } else { Nobody::Answered });
        }
        tokio::select! {
            answer = wait => if let Some(answer) = answer { return Ok(answer) },
            () = sleep(PATIENCE) => {}
        }
    }
}

/// Whether it was this computer that refused, and no other.
fn is_barred(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, PermissionDenied};
    [PermissionDenied, HostUnreachable, NetworkUnreachable].contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::*;

    const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x02vm\x04corp\0\0\x01\0\x01";

    #[test]
    fn resolvers_are_read_as_the_system_writes_them() {
        let text = "# made by a VPN\nsearch x\nnameserver 10.1.2.3\n nameserver\t::1\noptions edns0\n\
                    nameserver fe80::1%eth0\nnameserver 127.0.0.53\nnameserver 9.9.9.9\n";
        let expected = ["10.1.2.3:53", "[::1]:53", "127.0.0.53:53"].map(|s| s.parse().unwrap());
        assert_eq!(listed(text), expected);
        assert_eq!(listed("nameserver 127.0.0.1\nport 5353\n"), ["127.0.0.1:5353".parse().unwrap()]);
        assert_eq!(listed(""), []);
    }

    #[test]
    fn the_longest_domain_is_asked_about_what_is_below_it() {
        let at = |n: u8| vec![SocketAddr::from(([10, 0, 0, n], 53))];
        let domains = vec![("corp".to_owned(), at(2)), ("lab.corp".to_owned(), at(3))];
        let resolvers = Resolvers { all: at(1), domains };
        for (name, n) in [("vm.corp", 2), ("corp", 2), ("a.lab.corp", 3), ("notcorp", 1), ("example", 1)] {
            assert_eq!(resolvers.about(name), at(n), "{name}");
        }
    }

    /// A resolver that answers each datagram with `word` in the question's place.
    async fn resolver(word: &'static [u8]) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((_, from)) = socket.recv_from(&mut question).await {
                // Somebody else's answer first: it counts for nothing.
                let _ = socket.send_to(b"\0\0forged", from).await;
                let _ = socket.send_to(&[&question[..2], word].concat(), from).await;
            }
        });
        at
    }

    #[tokio::test]
    async fn the_next_resolver_is_asked_when_one_is_silent_or_gone() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let gone = {
            let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            closed.local_addr().unwrap()
        };
        let servers = [gone, silent.local_addr().unwrap(), resolver(b"yes").await];
        let answer = timeout(LIMIT, ask(&servers, QUESTION.into(), false)).await.unwrap();
        assert_eq!(answer.as_deref(), Ok(&b"\x12\x34yes"[..]));
        // Who is gone is told by an error, or by none (wine): it is no answer.
        let nobody = timeout(PATIENCE, ask(&servers[..1], QUESTION.into(), false)).await;
        assert!(nobody.is_err() || nobody == Ok(Err(Nobody::Answered)), "{nobody:?}");
    }

    /// As macOS refuses a program that may not speak to the network it is in: here to all of it at once.
    #[tokio::test]
    async fn resolvers_that_may_not_be_asked_are_told_from_those_that_fail() {
        let barred: SocketAddr = "255.255.255.255:53".parse().unwrap();
        let asked = |servers: Vec<SocketAddr>| async move { ask(&servers, QUESTION.into(), false).await };
        assert_eq!(asked(vec![barred]).await, Err(Nobody::MayBeAsked));
        assert_eq!(asked(vec![barred, barred]).await, Err(Nobody::MayBeAsked));
        assert_eq!(asked(vec![barred, resolver(b"yes").await]).await.unwrap(), b"\x12\x34yes");
    }
}
