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
                let bound = |(owner, set): (&String, &Vec<PortRequest>)| {
                    Some((owner.clone(), answers(owner, set, &outcome).find_map(Result::err)?))
                };
                self.wanted.iter().filter_map(bound).collect()
            }
            Err(e) => {
                let unheard = unheard(e);
                self.wanted.keys().map(|owner| (owner.clone(), unheard.clone())).collect()
            }
        }
    }

    async fn open(&mut self, owner: &str, requests: Vec<PortRequest>) -> Result<Vec<Binding>> {
        let mut choices = Choice::of(&requests)?;
        if let Err(e) = self.choose(owner, &requests, &mut choices).await {
            self.wanted.remove(owner);
            if let Err(e) = self.say().await {
                tracing::warn!("the host was not told of ports given up: {e}");
            }
            return Err(e);
        }
        let number = |n: usize| choices.iter().find(|c| c.members.contains(&n)).map_or(0, |c| c.number);
        let bindings = requests.into_iter().enumerate();
        Ok(bindings.map(|(n, request)| Binding { host_port: number(n), request }).collect())
    }

    /// Asks the host for one set after the other, until it has opened all of one.
    async fn choose(&mut self, owner: &str, requests: &[PortRequest], choices: &mut [Choice]) -> Result<()> {
        loop {
            for choice in choices.iter_mut() {
                // What this engine's other containers have is not asked for.
                while let Some(n) =
                    choice.members.iter().find(|n| self.has(owner, &choice.request(requests, **n)))
                {
                    let taken = taken(&choice.request(requests, *n));
                    choice.next(&requests[*n], taken)?;
                }
            }
            let asked: Vec<(usize, PortRequest)> = choices
                .iter()
                .flat_map(|c| c.asked().iter().map(|n| (*n, c.request(requests, *n))))
                .collect();
            let set: Vec<PortRequest> = asked.iter().map(|(_, r)| r.clone()).collect();
            self.wanted.insert(owner.to_owned(), set.clone());
            let outcome = self.say().await.map_err(unheard)?;
            let (mut all, mut anew) = (true, false);
            for ((n, asked), answer) in asked.iter().zip(answers(owner, &set, &outcome)) {
                let Some(choice) = choices.iter_mut().find(|c| c.members.contains(n)) else { continue };
                match answer {
                    Ok(number) if choice.number == 0 => {
                        all &= choice.members.len() == 1;
                        choice.number = number;
                    }
                    Ok(_) => {}
                    // Its twin may have said so already.
                    Err(e) if e.code() == Code::Conflict && requests[*n].is_open() => {
                        all = false;
                        if choice.number == asked.host_port {
                            choice.next(&requests[*n], e)?;
                            anew |= choice.number == 0;
                        }
                    }
                    Err(e) => return Err(e),
                }
            }
            if anew {
                // The host keeps what it chose for as long as it is asked for.
                self.wanted.remove(owner);
                self.say().await.map_err(unheard)?;
            }
            if all {
                return Ok(());
            }
        }
    }

    /// Whether another container has it. (A number that is not known yet nobody has.)
    fn has(&self, owner: &str, r: &PortRequest) -> bool {
        let same = |w: &PortRequest| {
            w.protocol == r.protocol && w.host_port == r.host_port && w.host_ip == r.host_ip
        };
        let mut others = self.wanted.iter().filter(|(name, _)| *name != owner);
        r.host_port != 0 && others.any(|(_, set)| set.iter().any(same))
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

fn unheard(e: std::io::Error) -> Error {
    Error::new(Code::Internal, format!("the host could not be asked for ports: {e}"))
}

fn key(owner: &str, n: usize) -> String {
    format!("{owner}/{n}")
}

fn taken(r: &PortRequest) -> Error {
    let at = std::net::SocketAddr::new(r.host_ip, r.host_port);
    Error::new(Code::Conflict, format!("Bind for {at} failed: port is already allocated"))
}

/// What became of each port of `owner`'s set: its number.
fn answers<'a>(
    owner: &'a str,
    set: &'a [PortRequest],
    outcome: &'a Outcome,
) -> impl Iterator<Item = Result<u16>> + 'a {
    set.iter().enumerate().map(move |(n, request)| {
        let name = key(owner, n);
        match outcome.results.iter().find(|r| r.key == name).map(|r| &r.result) {
            Some(Bind::Ok { host_port }) => Ok(*host_port),
            Some(Bind::Error { code: PortError::InUse, .. }) => Err(taken(request)),
            Some(Bind::Error { code, message }) => {
                let at = std::net::SocketAddr::new(request.host_ip, request.host_port);
                let code = match code {
                    PortError::Denied => Code::Forbidden,
                    PortError::Invalid => Code::InvalidArgument,
                    PortError::InUse | PortError::Unavailable => Code::Internal,
                };
                let is_whole = message.starts_with("Bind for");
                let words =
                    if is_whole { message.clone() } else { format!("Bind for {at} failed: {message}") };
                Err(Error::new(code, words))
            }
            None => Err(Error::new(Code::Internal, "the host did not answer for every port")),
        }
    })
}

/// Requests that get one number: one, or the two families of a number that is to be chosen.
struct Choice {
    members: Vec<usize>,
    /// 0: the host chooses, and has not yet.
    number: u16,
    candidates: Box<dyn Iterator<Item = u16> + Send>,
}

impl Choice {
    fn of(requests: &[PortRequest]) -> Result<Vec<Self>> {
        let mut choices: Vec<Self> = Vec::new();
        for (n, request) in requests.iter().enumerate() {
            let twin = |c: &&mut Self| c.members.len() == 1 && requests[c.members[0]].is_twin(request);
            match choices.iter_mut().find(twin) {
                Some(choice) => choice.members.push(n),
                None => {
                    let mut choice = Self { members: vec![n], number: 0, candidates: request.candidates() };
                    choice.next(request, taken(request))?;
                    choices.push(choice);
                }
            }
        }
        Ok(choices)
    }

    /// Those that can be asked for: the second family once the first has its number.
    fn asked(&self) -> &[usize] {
        if self.number == 0 { &self.members[..1] } else { &self.members }
    }

    fn request(&self, requests: &[PortRequest], n: usize) -> PortRequest {
        PortRequest { host_port: self.number, last_port: self.number, ..requests[n].clone() }
    }

    /// Goes on to the next number that will do, or says why there is none.
    fn next(&mut self, request: &PortRequest, why: Error) -> Result<()> {
        match self.candidates.next() {
            Some(number) => self.number = number,
            None if request.last_port > request.host_port => {
                return Err(Error::new(
                    Code::Conflict,
                    format!(
                        "Bind for {}:{}-{} failed: all ports are allocated",
                        request.host_ip, request.host_port, request.last_port
                    ),
                ));
            }
            None => return Err(why),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// A host on which these ports are somebody else's, and whose own choice is 5000 and upwards.
    fn host(socket: &std::path::Path, foreign: &'static [(&str, u16)]) {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut next = 5000;
            while let Ok(length) = stream.read_u32().await {
                let mut body = vec![0; length as usize];
                stream.read_exact(&mut body).await.unwrap();
                let wanted: Wanted = serde_json::from_slice(&body).unwrap();
                let results = wanted.ports.iter().map(|port| {
                    let host_port = if port.host_port == 0 { next } else { port.host_port };
                    next += u16::from(port.host_port == 0);
                    let is_foreign =
                        foreign.iter().any(|(ip, n)| *n == host_port && port.host_ip.to_string() == *ip);
                    let result = match is_foreign {
                        true => Bind::Error { code: PortError::InUse, message: "in use".into() },
                        false => Bind::Ok { host_port },
                    };
                    wire::ports::PortResult { key: port.key.clone(), result }
                });
                let outcome = Outcome { generation: wanted.generation, results: results.collect() };
                stream.write_all(&wire::frame::encode(&outcome).unwrap()).await.unwrap();
            }
        });
    }

    fn both(first: u16, last: u16) -> Vec<PortRequest> {
        let request = |ip: &str| PortRequest {
            protocol: Protocol::Tcp,
            host_ip: ip.parse().unwrap(),
            host_port: first,
            last_port: last,
            target: "10.0.0.2:80".parse().unwrap(),
        };
        vec![request("0.0.0.0"), request("::")]
    }

    async fn numbers(ports: &GuestPorts, owner: &str, requests: Vec<PortRequest>) -> Result<Vec<u16>> {
        Ok(ports.open(owner, requests).await?.into_iter().map(|b| b.host_port).collect())
    }

    #[tokio::test]
    async fn of_a_range_the_first_number_that_is_free_in_both_families() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ports.sock");
        host(&socket, &[("0.0.0.0", 8001), ("::", 8002), ("0.0.0.0", 8004), ("::", 5000)]);
        let ports = GuestPorts::start(socket, &tokio_util::task::TaskTracker::new());
        assert_eq!(numbers(&ports, "a", both(8000, 8004)).await.unwrap(), [8000, 8000]);
        assert_eq!(numbers(&ports, "b", both(8000, 8004)).await.unwrap(), [8003, 8003]);
        let full = numbers(&ports, "c", both(8000, 8004)).await.unwrap_err().to_string();
        assert!(full.contains("8000-8004 failed: all ports are allocated"), "{full}");
        ports.close("a").await;
        assert_eq!(numbers(&ports, "c", both(8000, 8004)).await.unwrap(), [8000, 8000]);
        // A number that the host chose for one family and that is taken in the other is given up.
        let any = numbers(&ports, "d", both(0, 0)).await.unwrap();
        assert!(any[0] == any[1] && any[0] > 5000, "{any:?}");
        let fixed = numbers(&ports, "e", both(8004, 8004)).await.unwrap_err();
        assert_eq!(fixed.code(), Code::Conflict);
        assert_eq!(numbers(&ports, "e", both(8005, 8005)).await.unwrap(), [8005, 8005]);
    }
}
