//! Names for containers: a server at 127.0.0.11 port 53 inside each container's network namespace.
//!
//! The sockets are bound inside the namespace once and then served from here. Names of containers are answered
//! from [`Names`]; everything else goes, as it came, to the upstream resolvers and back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, rdata};
use rand::seq::SliceRandom;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::error::{Error, Result};
use crate::{BREATH, sys};

/// Where containers find it.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Seconds an answer about a container may be cached, as Docker says.
const TTL_SECONDS: u32 = 600;
/// How long one upstream may take before the next is asked.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(4);
/// Questions of one container that wait for a resolver outside; further ones fail at once. Those about containers
/// never wait behind them.
const IN_FLIGHT: usize = 1024;
/// Connections of one container at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// Largest message over UDP.
const MAX_DATAGRAM: usize = 4096;
/// How long a TCP client may stay silent.
const TCP_IDLE: Duration = Duration::from_secs(10);

/// What a name means inside one container.
pub trait Names: Send + Sync + 'static {
    /// The addresses of a container's name, alias or id, lower case, without the final dot; `None`: not ours.
    fn lookup(&self, name: &str) -> Option<Vec<IpAddr>>;
    /// The name of an address in the container's networks.
    fn reverse(&self, address: IpAddr) -> Option<String>;
    /// Resolvers that know the rest of the world, in the order to ask.
    fn upstreams(&self) -> Vec<SocketAddr>;
}

/// A running server; dropping it stops it.
pub struct Server {
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Binds inside the namespace at `netns` and serves from here on.
pub async fn serve(netns: &Path, names: Arc<dyn Names>) -> Result<Server> {
    let address = SocketAddr::from((ADDRESS, 53));
    let (udp, tcp) = sys::in_netns(netns, move || {
        let udp = std::net::UdpSocket::bind(address).map_err(|e| Error::io("bind the name server", &e))?;
        let tcp = std::net::TcpListener::bind(address).map_err(|e| Error::io("bind the name server", &e))?;
        udp.set_nonblocking(true).map_err(|e| Error::io("bind the name server", &e))?;
        tcp.set_nonblocking(true).map_err(|e| Error::io("bind the name server", &e))?;
        Ok((udp, tcp))
    })
    .await?;
    let udp = UdpSocket::from_std(udp).map_err(|e| Error::io("serve names", &e))?;
    let tcp = TcpListener::from_std(tcp).map_err(|e| Error::io("serve names", &e))?;
    Ok(Server { task: tokio::spawn(run(Arc::new(udp), tcp, names)) })
}

async fn run(udp: Arc<UdpSocket>, tcp: TcpListener, names: Arc<dyn Names>) {
    // Owns every question in flight: they end with the server.
    let mut tasks = JoinSet::new();
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut buf = vec![0; MAX_DATAGRAM];
    loop {
        let accept = async {
            let place = connections.clone().acquire_owned().await;
            let accepted = tcp.accept().await;
            if accepted.is_err() {
                tokio::time::sleep(BREATH).await;
            }
            (place, accepted)
        };
        tokio::select! {
            received = udp.recv_from(&mut buf) => {
                let Ok((n, from)) = received else { continue };
                let Ok(message) = Message::from_vec(&buf[..n]) else { continue };
                let reply = match (answer_here(&message, &*names, false), places.clone().try_acquire_owned()) {
                    (Some(reply), _) => reply,
                    (None, Ok(place)) => {
                        let (question, names, udp) = (buf[..n].to_vec(), names.clone(), udp.clone());
                        tasks.spawn(async move {
                            send(&udp, from, ask_outside(&question, &message, &*names, false).await).await;
                            drop(place);
                        });
                        while tasks.try_join_next().is_some() {}
                        continue;
                    }
                    (None, Err(_)) => failure(&message),
                };
                send(&udp, from, Some(reply)).await;
            }
            (place, accepted) = accept => {
                let (Ok(place), Ok((stream, _))) = (place, accepted) else { continue };
                let names = names.clone();
                tasks.spawn(async move {
                    if let Err(e) = serve_tcp(stream, names).await {
                        tracing::debug!("name server, tcp: {e}");
                    }
                    drop(place);
                });
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

async fn serve_tcp(mut stream: TcpStream, names: Arc<dyn Names>) -> std::io::Result<()> {
    loop {
        let length = match tokio::time::timeout(TCP_IDLE, stream.read_u16()).await {
            Ok(Ok(length)) => usize::from(length),
            Ok(Err(_)) | Err(_) => return Ok(()),
        };
        let mut question = vec![0; length];
        stream.read_exact(&mut question).await?;
        let Some(answer) = answer(&question, &*names, true).await else { return Ok(()) };
        stream.write_u16(u16::try_from(answer.len()).map_err(std::io::Error::other)?).await?;
        stream.write_all(&answer).await?;
    }
}

async fn send(udp: &UdpSocket, to: SocketAddr, answer: Option<Vec<u8>>) {
    if let Some(answer) = answer
        && let Err(e) = udp.send_to(&answer, to).await
    {
        tracing::debug!("name answer not sent: {e}");
    }
}

/// The answer to one question; `None` when it is no DNS message at all.
async fn answer(question: &[u8], names: &dyn Names, tcp: bool) -> Option<Vec<u8>> {
    let message = Message::from_vec(question).ok()?;
    match answer_here(&message, names, tcp) {
        Some(reply) => Some(reply),
        None => ask_outside(question, &message, names, tcp).await,
    }
}

/// The answer to a question about containers; one too long for the client says so (TC), who asks again over TCP.
fn answer_here(message: &Message, names: &dyn Names, tcp: bool) -> Option<Vec<u8>> {
    let reply = local(message, names)?;
    let limit = if tcp { usize::from(u16::MAX) } else { usize::from(message.max_payload()) };
    let bytes = reply.to_vec().ok()?;
    if bytes.len() > limit { reply.truncate().to_vec().ok() } else { Some(bytes) }
}

/// The answer of the first resolver that gives one; that nobody did is said too.
async fn ask_outside(question: &[u8], message: &Message, names: &dyn Names, tcp: bool) -> Option<Vec<u8>> {
    for upstream in names.upstreams() {
        let limit = usize::from(message.max_payload()).max(MAX_DATAGRAM);
        match tokio::time::timeout(UPSTREAM_TIMEOUT, forward(question, upstream, tcp, limit)).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(e)) => tracing::debug!("resolver {upstream}: {e}"),
            Err(_) => tracing::debug!("resolver {upstream} did not answer in {UPSTREAM_TIMEOUT:?}"),
        }
    }
    Some(failure(message))
}

/// What a client is told when there is no answer to be had.
fn failure(question: &Message) -> Vec<u8> {
    let mut failed = response(question);
    failed.metadata.response_code = ResponseCode::ServFail;
    // A header and the question it came with: it was read from as many bytes.
    failed.to_vec().unwrap_or_default()
}

fn response(question: &Message) -> Message {
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.queries.clone_from(&question.queries);
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_DATAGRAM as u16);
        reply.set_edns(edns);
    }
    reply
}

/// The reply when the question is about a container.
fn local(question: &Message, names: &dyn Names) -> Option<Message> {
    let query = question.queries.first().filter(|q| q.query_class == DNSClass::IN)?;
    let mut reply = response(question);
    if query.query_type == RecordType::PTR {
        let ip = query.name.parse_arpa_name().ok()?.addr();
        let name = Name::from_ascii(format!("{}.", names.reverse(ip)?)).ok()?;
        let data = RData::PTR(rdata::PTR(name));
        reply.answers.push(Record::from_rdata(query.name.clone(), TTL_SECONDS, data));
        return Some(reply);
    }
    let name = query.name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let mut addresses = names.lookup(&name)?;
    // Clients take the first: each gets its turn.
    addresses.shuffle(&mut rand::rng());
    // Of another type, or of a version it has no address of: the name exists, there is no such record.
    for ip in addresses {
        let data = match (query.query_type, ip) {
            (RecordType::A, IpAddr::V4(ip)) => RData::A(rdata::A(ip)),
            (RecordType::AAAA, IpAddr::V6(ip)) => RData::AAAA(rdata::AAAA(ip)),
            _ => continue,
        };
        reply.answers.push(Record::from_rdata(query.name.clone(), TTL_SECONDS, data));
    }
    Some(reply)
}

/// Asks one resolver; an answer over UDP has at most `limit` bytes.
async fn forward(question: &[u8], upstream: SocketAddr, tcp: bool, limit: usize) -> std::io::Result<Vec<u8>> {
    if tcp {
        let mut stream = TcpStream::connect(upstream).await?;
        stream.write_u16(u16::try_from(question.len()).map_err(std::io::Error::other)?).await?;
        stream.write_all(question).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        return Ok(answer);
    }
    let any: SocketAddr = if upstream.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(question).await?;
    let mut answer = vec![0; limit];
    loop {
        let n = socket.recv(&mut answer).await?;
        // Only the answer to this question counts.
        if n >= 2 && answer[..2] == question[..2] {
            answer.truncate(n);
            return Ok(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;

    /// `web` is two containers, one of them with an address of version 6; `many` are a hundred.
    #[derive(Default)]
    struct Known {
        upstreams: Vec<SocketAddr>,
    }

    impl Names for Known {
        fn lookup(&self, name: &str) -> Option<Vec<IpAddr>> {
            let count = match name {
                "web" => 2,
                "many" => 100,
                _ => return None,
            };
            let v6 = (name == "web").then(|| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 2]));
            Some((2..2 + count).map(|n| IpAddr::from([10, 0, 0, n])).chain(v6).collect())
        }
        fn reverse(&self, address: IpAddr) -> Option<String> {
            let known = [IpAddr::from([10, 0, 0, 2]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 2])];
            known.contains(&address).then(|| "web.net".into())
        }
        fn upstreams(&self) -> Vec<SocketAddr> {
            self.upstreams.clone()
        }
    }

    fn question(name: &str, kind: RecordType) -> Message {
        let mut m = Message::query();
        m.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        m
    }

    async fn ask_with(m: Message, tcp: bool) -> Message {
        let names = Known::default();
        Message::from_vec(&answer(&m.to_vec().unwrap(), &names, tcp).await.unwrap()).unwrap()
    }

    async fn ask(name: &str, kind: RecordType) -> Message {
        ask_with(question(name, kind), false).await
    }

    /// A server on loopback in this namespace, with a client's socket connected to it.
    async fn served(names: Known) -> (Server, UdpSocket) {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(udp.local_addr().unwrap()).await.unwrap();
        (Server { task: tokio::spawn(run(Arc::new(udp), tcp, Arc::new(names))) }, client)
    }

    #[tokio::test]
    async fn an_answer_too_long_for_the_client_says_so() {
        let short = ask("many.", RecordType::A).await;
        assert!(short.metadata.truncation && short.answers.is_empty());
        assert_eq!(ask_with(question("many.", RecordType::A), true).await.answers.len(), 100);
        let mut roomy = question("many.", RecordType::A);
        roomy.set_edns({
            let mut edns = Edns::new();
            edns.set_max_payload(4096);
            edns
        });
        let long = ask_with(roomy, false).await;
        assert_eq!(long.answers.len(), 100);
        assert!(long.edns.is_some(), "who speaks EDNS is answered so");
    }

    #[tokio::test]
    async fn every_container_of_a_name_comes_first_in_its_turn() {
        let mut first = std::collections::BTreeSet::new();
        for _ in 0..200 {
            first.insert(ask("web.", RecordType::A).await.answers[0].to_string());
        }
        assert_eq!(first.len(), 2);
    }

    #[tokio::test]
    async fn names_of_containers_do_not_wait_behind_a_dead_resolver() {
        // It listens and never answers.
        let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (_server, client) = served(Known { upstreams: vec![dead.local_addr().unwrap()] }).await;
        for n in 0..IN_FLIGHT + 16 {
            let mut m = question("example.org.", RecordType::A);
            m.metadata.id = n as u16;
            client.send(&m.to_vec().unwrap()).await.unwrap();
            // The server takes each from its buffer, which has no room for all.
            tokio::task::yield_now().await;
        }
        let mut m = question("web.", RecordType::A);
        m.metadata.id = 60_000;
        client.send(&m.to_vec().unwrap()).await.unwrap();
        let mut buf = [0; 512];
        let answered = tokio::time::timeout(Duration::from_secs(2), async {
            loop {
                let n = client.recv(&mut buf).await.unwrap();
                let reply = Message::from_vec(&buf[..n]).unwrap();
                if reply.metadata.id == 60_000 {
                    return reply;
                }
                assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "too many at once");
            }
        });
        assert_eq!(answered.await.unwrap().answers.len(), 2);
    }

    #[tokio::test]
    async fn a_thousand_questions_at_once_are_all_answered() {
        let resolver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = resolver.local_addr().unwrap();
        let echo = tokio::spawn(async move {
            let mut buf = [0; 512];
            while let Ok((n, from)) = resolver.recv_from(&mut buf).await {
                let asked = Message::from_vec(&buf[..n]).unwrap();
                resolver.send_to(&response(&asked).to_vec().unwrap(), from).await.unwrap();
            }
        });
        let (_server, client) = served(Known { upstreams: vec![at] }).await;
        let client = Arc::new(client);
        let asker = client.clone();
        let asking = tokio::spawn(async move {
            for id in 0..1000 {
                let mut m = question(if id % 2 == 0 { "web." } else { "example.org." }, RecordType::A);
                m.metadata.id = id;
                asker.send(&m.to_vec().unwrap()).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut seen = std::collections::BTreeSet::new();
        let mut buf = [0; 512];
        let all = tokio::time::timeout(Duration::from_secs(20), async {
            while seen.len() < 1000 {
                let n = client.recv(&mut buf).await.unwrap();
                seen.insert(Message::from_vec(&buf[..n]).unwrap().metadata.id);
            }
        });
        let done = all.await;
        assert!(done.is_ok(), "{} of 1000 were answered", seen.len());
        asking.await.unwrap();
        echo.abort();
    }

    #[tokio::test]
    async fn containers_are_found_by_name_and_by_address() {
        assert_eq!(ask("WEB.", RecordType::A).await.answers.len(), 2);
        assert_eq!(ask("web.", RecordType::AAAA).await.answers.len(), 1);
        let other_type = ask("many.", RecordType::AAAA).await;
        assert!(other_type.answers.is_empty());
        assert_eq!(other_type.metadata.response_code, ResponseCode::NoError);
        let arpa = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
        for name in ["2.0.0.10.in-addr.arpa.", arpa] {
            assert_eq!(ask(name, RecordType::PTR).await.answers.len(), 1, "{name}");
        }
    }

    #[tokio::test]
    async fn without_an_upstream_the_rest_fails_at_once() {
        assert_eq!(ask("example.org.", RecordType::A).await.metadata.response_code, ResponseCode::ServFail);
    }

    #[tokio::test]
    async fn what_is_no_question_gets_no_answer() {
        assert!(answer(b"nonsense", &Known::default(), false).await.is_none());
    }
}
