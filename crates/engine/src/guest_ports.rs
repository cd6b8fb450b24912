//! Published ports inside the virtual machine: the host outside opens them.
//!
//! `coracle-guest` serves a unix socket (`--ports-socket`) where the engine says its full wanted set
//! ([`wire::ports`]); the answer tells what became of each port. One owner task holds the set and the
//! connection, so that sets are sent one after another; it says the set again after a reconnect.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use network::{Binding, Code, Error, PortRequest, Ports, Protocol, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use wire::ports::{Bind, Outcome, Port, PortError, Proto, Wanted};

/// How long the host may take to answer a set.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that may wait for the owner task.
const QUEUE: usize = 256;

enum Ask {
    Open { owner: String, requests: Vec<PortRequest>, reply: oneshot::Sender<Result<Vec<Binding>>> },
    Close { owner: String, reply: oneshot::Sender<()> },
    Restore { all: Vec<(String, Vec<PortRequest>)>, reply: oneshot::Sender<Vec<(String, Error)>> },
}

/// Asks the host for ports, through the guest's agent.
pub struct GuestPorts {
    asks: mpsc::Sender<Ask>,
}

impl GuestPorts {
    /// Starts the owner of the wanted set, speaking on `socket`.
    pub fn start(socket: PathBuf, tasks: &tokio_util::task::TaskTracker) -> Self {
        let (asks, rx) = mpsc::channel(QUEUE);
        tasks.spawn(Owner { socket, stream: None, generation: 0, wanted: BTreeMap::new() }.run(rx));
        Self { asks }
    }
}

impl Ports for GuestPorts {
    fn open<'a>(
        &'a self,
        owner: &'a str,
        requests: Vec<PortRequest>,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Binding>>> + Send + 'a>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let gone = || Error::new(Code::Internal, "the engine is stopping");
            self.asks
                .send(Ask::Open { owner: owner.to_owned(), requests, reply })
                .await
                .map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        })
    }

    fn restore(
        &self,
        all: Vec<(String, Vec<PortRequest>)>,
    ) -> Pin<Box<dyn Future<Output = Vec<(String, Error)>> + Send + '_>> {
        Box::pin(self.ask_to_restore(all))
    }

    fn close<'a>(&'a self, owner: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            if self.asks.send(Ask::Close { owner: owner.to_owned(), reply }).await.is_ok() {
                // The engine is stopping: its ports end with it.
                let _ = answer.await;
            }
        })
    }
}

impl GuestPorts {
    async fn ask_to_restore(&self, all: Vec<(String, Vec<PortRequest>)>) -> Vec<(String, Error)> {
        let (reply, answer) = oneshot::channel();
        if self.asks.send(Ask::Restore { all, reply }).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }
}

struct Owner {
    socket: PathBuf,
    stream: Option<UnixStream>,
    generation: u64,
    wanted: BTreeMap<String, Vec<PortRequest>>,
}

impl Owner {
    async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        while let Some(ask) = asks.recv().await {
            match ask {
                Ask::Open { owner, requests, reply } => {
                    let result = self.open(&owner, requests).await;
                    // The one that asked may have gone away.
                    let _ = reply.send(result);
                }
                Ask::Restore { all, reply } => {
                    let failed = self.restore(all).await;
                    // The one that asked may have gone away.
                    let _ = reply.send(failed);
                }
                Ask::Close { owner, reply } => {
                    if self.wanted.remove(&owner).is_some()
                        && let Err(e) = self.say().await
                    {
                        tracing::warn!("the host was not told of closed ports: {e}");
                    }
                    // The one that asked may have gone away.
                    let _ = reply.send(());
                }
            }
        }
    }

    /// One set for all: the host may still hold ports of an engine that died, and closes those that are in it no
    /// more, even when none is.
    async fn restore(&mut self, all: Vec<(String, Vec<PortRequest>)>) -> Vec<(String, Error)> {
        self.wanted = all.into_iter().collect();
        match self.say().await {
            Ok(outcome) => {
                let bound = |(owner, requests): (&String, &Vec<PortRequest>)| {
                    bindings(owner, requests, &outcome).err().map(|e| (owner.clone(), e))
                };
                self.wanted.iter().filter_map(bound).collect()
            }
            Err(e) => {
                let unheard =
                    Error::new(Code::Internal, format!("the host could not be asked for ports: {e}"));
                self.wanted.keys().map(|owner| (owner.clone(), unheard.clone())).collect()
            }
        }
    }

    /// A port to be chosen gets the same number for IPv4 and IPv6, as with dockerd: the second family is asked for
    /// once the first has its number.
    async fn open(&mut self, owner: &str, mut requests: Vec<PortRequest>) -> Result<Vec<Binding>> {
        let asked = requests.clone();
        let twin_of =
            |all: &[PortRequest], n: usize| all[..n].iter().position(|first| first.is_twin(&all[n]));
        let twins: Vec<(usize, usize)> =
            (0..requests.len()).filter_map(|n| twin_of(&requests, n).map(|first| (n, first))).collect();
        if twins.is_empty() {
            return self.open_now(owner, requests).await;
        }
        let firsts: Vec<PortRequest> = (0..requests.len())
            .filter(|n| !twins.iter().any(|(twin, _)| twin == n))
            .map(|n| requests[n].clone())
            .collect();
        for binding in self.open_now(owner, firsts).await? {
            for (n, request) in requests.iter_mut().enumerate() {
                if asked[n] == binding.request || binding.request.is_twin(&asked[n]) {
                    request.host_port = binding.host_port;
                }
            }
        }
        self.wanted.remove(owner);
        let bound = self.open_now(owner, requests).await?;
        Ok(bound
            .into_iter()
            .zip(asked)
            .map(|(b, request)| Binding { request, host_port: b.host_port })
            .collect())
    }

    async fn open_now(&mut self, owner: &str, requests: Vec<PortRequest>) -> Result<Vec<Binding>> {
        let clash =
            requests.iter().find(|r| {
                r.host_port != 0
                    && self.wanted.values().flatten().any(|w| {
                        w.protocol == r.protocol && w.host_port == r.host_port && w.host_ip == r.host_ip
                    })
            });
        if let Some(r) = clash {
            return Err(taken(r));
        }
        self.wanted.insert(owner.to_owned(), requests.clone());
        let bound = match self.say().await {
            Ok(outcome) => bindings(owner, &requests, &outcome),
            Err(e) => Err(Error::new(Code::Internal, format!("the host could not be asked for ports: {e}"))),
        };
        if bound.is_err() {
            self.wanted.remove(owner);
            if let Err(e) = self.say().await {
                tracing::warn!("the host was not told of ports given up: {e}");
            }
        }
        bound
    }

    /// Sends the full set and waits for its answer; once more on a new connection when the old one is dead.
    async fn say(&mut self) -> std::io::Result<Outcome> {
        self.generation += 1;
        let ports = self.wanted.iter().flat_map(|(owner, requests)| {
            requests.iter().enumerate().map(move |(n, r)| Port {
                key: key(owner, n),
                proto: match r.protocol {
                    Protocol::Tcp => Proto::Tcp,
                    Protocol::Udp => Proto::Udp,
                },
                host_ip: r.host_ip,
                host_port: r.host_port,
                target_ip: r.target.ip(),
                target_port: r.target.port(),
            })
        });
        let set = Wanted { generation: self.generation, ports: ports.collect() };
        let frame = wire::frame::encode(&set).map_err(std::io::Error::other)?;
        if let Some(stream) = self.stream.take()
            && let Ok(outcome) = self.exchange(stream, &frame).await
        {
            return Ok(outcome);
        }
        let stream = UnixStream::connect(&self.socket).await?;
        self.exchange(stream, &frame).await
    }

    async fn exchange(&mut self, mut stream: UnixStream, frame: &[u8]) -> std::io::Result<Outcome> {
        let answer = async {
            stream.write_all(frame).await?;
            loop {
                let mut length = [0; 4];
                stream.read_exact(&mut length).await?;
                let length = u32::from_be_bytes(length) as usize;
                if length > wire::frame::MAX {
                    return Err(std::io::Error::other(format!("a frame of {length} bytes")));
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await?;
                let outcome: Outcome = serde_json::from_slice(&body)?;
                // Answers to older sets may still be under way.
                if outcome.generation == self.generation {
                    return Ok(outcome);
                }
            }
        };
        let outcome = tokio::time::timeout(ANSWER_TIMEOUT, answer).await??;
        self.stream = Some(stream);
        Ok(outcome)
    }
}

fn key(owner: &str, n: usize) -> String {
    format!("{owner}/{n}")
}

fn taken(r: &PortRequest) -> Error {
    let at = std::net::SocketAddr::new(r.host_ip, r.host_port);
    Error::new(Code::Conflict, format!("Bind for {at} failed: port is already allocated"))
}

fn bindings(owner: &str, requests: &[PortRequest], outcome: &Outcome) -> Result<Vec<Binding>> {
    requests
        .iter()
        .enumerate()
        .map(|(n, request)| {
            let name = key(owner, n);
            let result = outcome.results.iter().find(|r| r.key == name).map(|r| &r.result);
            match result {
                Some(Bind::Ok { host_port }) => {
                    Ok(Binding { request: request.clone(), host_port: *host_port })
                }
                Some(Bind::Error { code: PortError::InUse, .. }) => Err(taken(request)),
                Some(Bind::Error { code, message }) => {
                    let at = std::net::SocketAddr::new(request.host_ip, request.host_port);
                    let code = match code {
                        PortError::Denied => Code::Forbidden,
                        PortError::Invalid => Code::InvalidArgument,
                        PortError::InUse | PortError::Unavailable => Code::Internal,
                    };
                    Err(Error::new(code, format!("Bind for {at} failed: {message}")))
                }
                None => Err(Error::new(Code::Internal, "the host did not answer for every port")),
            }
        })
        .collect()
}
