//! Names for containers: a server at 127.0.0.11 port 53 inside each container's network namespace.
//!
//! The sockets are bound inside the namespace once and then served from here. Names of containers are answered
//! from [`Names`]; everything else goes, as it came, to the upstream resolvers and back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType, rdata};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::error::{Error, Result};
use crate::sys;

/// Where containers find it.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Seconds an answer about a container may be cached, as Docker says.
const TTL_SECONDS: u32 = 600;
/// How long one upstream may take before the next is asked.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(4);
/// Questions of one container in flight; more wait in the socket's buffer.
const IN_FLIGHT: usize = 256;
/// Largest message over UDP.
const MAX_DATAGRAM: usize = 4096;
/// How long a TCP client may stay silent.
const TCP_IDLE: Duration = Duration::from_secs(10);

/// What a name means inside one container.
pub trait Names: Send + Sync + 'static {
    /// The addresses of a container's name, alias or id, lower case, without the final dot; `None`: not ours.
    fn lookup(&self, name: &str) -> Option<Vec<Ipv4Addr>>;
    /// The name of an address in the container's networks.
    fn reverse(&self, address: Ipv4Addr) -> Option<String>;
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
    let mut buf = vec![0; MAX_DATAGRAM];
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        tokio::select! {
            received = udp.recv_from(&mut buf) => {
                let Ok((n, from)) = received else { continue };
                let (question, names, udp) = (buf[..n].to_vec(), names.clone(), udp.clone());
                tasks.spawn(async move {
                    if let Some(answer) = answer(&question, &*names, false).await
                        && let Err(e) = udp.send_to(&answer, from).await
                    {
                        tracing::debug!("name answer not sent: {e}");
                    }
                    drop(place);
                });
            }
            accepted = tcp.accept() => {
                let Ok((stream, _)) = accepted else { continue };
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

/// The answer to one question; `None` when it is no DNS message at all.
async fn answer(question: &[u8], names: &dyn Names, tcp: bool) -> Option<Vec<u8>> {
    let message = Message::from_vec(question).ok()?;
    if let Some(mut reply) = local(&message, names) {
        let limit = if tcp { usize::from(u16::MAX) } else { usize::from(message.max_payload()) };
        let mut bytes = reply.to_vec().ok()?;
        if bytes.len() > limit {
            reply = reply.truncate();
            bytes = reply.to_vec().ok()?;
        }
        return Some(bytes);
    }
    for upstream in names.upstreams() {
        match tokio::time::timeout(UPSTREAM_TIMEOUT, forward(question, upstream, tcp)).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(e)) => tracing::debug!("resolver {upstream}: {e}"),
            Err(_) => tracing::debug!("resolver {upstream} did not answer in {UPSTREAM_TIMEOUT:?}"),
        }
    }
    let mut failed = response(&message);
    failed.metadata.response_code = ResponseCode::ServFail;
    failed.to_vec().ok()
}

fn response(question: &Message) -> Message {
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.queries.clone_from(&question.queries);
    reply
}

/// The reply when the question is about a container.
fn local(question: &Message, names: &dyn Names) -> Option<Message> {
    let query = question.queries.first().filter(|q| q.query_class == DNSClass::IN)?;
    let mut reply = response(question);
    if query.query_type == RecordType::PTR {
        let IpAddr::V4(ip) = query.name.parse_arpa_name().ok()?.addr() else { return None };
        let name = Name::from_ascii(format!("{}.", names.reverse(ip)?)).ok()?;
        let data = RData::PTR(rdata::PTR(name));
        reply.answers.push(Record::from_rdata(query.name.clone(), TTL_SECONDS, data));
        return Some(reply);
    }
    let name = query.name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let addresses = names.lookup(&name)?;
    // Of another type (AAAA): the name exists, there is no such record.
    if query.query_type == RecordType::A {
        for ip in addresses {
            reply.answers.push(Record::from_rdata(query.name.clone(), TTL_SECONDS, RData::A(rdata::A(ip))));
        }
    }
    Some(reply)
}

async fn forward(question: &[u8], upstream: SocketAddr, tcp: bool) -> std::io::Result<Vec<u8>> {
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
    let mut answer = vec![0; MAX_DATAGRAM];
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

    struct Two;
    impl Names for Two {
        fn lookup(&self, name: &str) -> Option<Vec<Ipv4Addr>> {
            (name == "web").then(|| vec![Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)])
        }
        fn reverse(&self, address: Ipv4Addr) -> Option<String> {
            (address == Ipv4Addr::new(10, 0, 0, 2)).then(|| "web.net".into())
        }
        fn upstreams(&self) -> Vec<SocketAddr> {
            Vec::new()
        }
    }

    async fn ask(name: &str, kind: RecordType) -> Message {
        let mut m = Message::query();
        m.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        Message::from_vec(&answer(&m.to_vec().unwrap(), &Two, false).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn containers_are_found_by_name_and_by_address() {
        assert_eq!(ask("WEB.", RecordType::A).await.answers.len(), 2);
        let other_type = ask("web.", RecordType::AAAA).await;
        assert!(other_type.answers.is_empty());
        assert_eq!(other_type.metadata.response_code, ResponseCode::NoError);
        assert_eq!(ask("2.0.0.10.in-addr.arpa.", RecordType::PTR).await.answers.len(), 1);
    }

    #[tokio::test]
    async fn without_an_upstream_the_rest_fails_at_once() {
        assert_eq!(ask("example.org.", RecordType::A).await.metadata.response_code, ResponseCode::ServFail);
    }

    #[tokio::test]
    async fn what_is_no_question_gets_no_answer() {
        assert!(answer(b"nonsense", &Two, false).await.is_none());
    }
}
