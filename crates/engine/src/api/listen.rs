//! Where the API is served: a unix socket for its owner and group, and TCP for those who show a certificate.
//!
//! Whoever may speak to the engine is root of its machine. So TCP without mutual TLS is refused, unless the settings name
//! it insecure (`insecure-tcp`): then `info` warns.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::preface::{self, Spoken};
use super::{build, hijack};
use crate::config::EngineConfig;
use crate::engine::Engine;
use crate::error::{Error, Result};

/// How long requests in flight have to end when the engine stops.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a client may take to show its certificate.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Out of file descriptors: how long requests in flight have to give some back before the next is taken.
const BREATH: Duration = Duration::from_millis(20);
/// Docker's ports, with TLS and without.
const TLS_PORT: u16 = 2376;
const PLAIN_PORT: u16 = 2375;

/// A connection, whatever carries it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Whether the client has bytes before it that it has not read, where that is known.
    fn unread(&self) -> bool {
        false
    }

    /// The socket once more, where it tells whether the client has gone ([`super::presence`]).
    fn telling(&self) -> Option<OwnedFd> {
        None
    }
}

impl Stream for tokio::net::UnixStream {
    fn unread(&self) -> bool {
        // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ, unix(7)) writes one int.
        #[allow(unsafe_code)]
        let left = unsafe {
            let getter =
                rustix::ioctl::Getter::<{ libc::TIOCOUTQ as rustix::ioctl::Opcode }, libc::c_int>::new();
            rustix::ioctl::ioctl(self, getter)
        };
        left.is_ok_and(|left| left > 0)
    }

    fn telling(&self) -> Option<OwnedFd> {
        self.as_fd().try_clone_to_owned().ok()
    }
}

impl Stream for tokio::net::TcpStream {}
impl Stream for tokio_rustls::server::TlsStream<tokio::net::TcpStream> {}

/// A connection, whatever carries it.
pub type Io = Box<dyn Stream>;

/// Something that clients connect to.
pub enum Listener {
    /// For the socket's owner and group.
    Unix(UnixListener),
    /// For those with a certificate.
    Tls(TcpListener, TlsAcceptor),
    /// For everybody.
    Plain(TcpListener),
}

impl Listener {
    /// Listens on a unix socket that only its owner and group may use. A socket left by an engine that died is
    /// replaced; one that answers is another engine's and is left alone.
    pub async fn unix(path: &Path) -> Result<Self> {
        // A longer path cannot be bound: sun_path has 108 bytes on Linux, 104 elsewhere.
        if path.as_os_str().len() > 104 {
            return Err(Error::invalid(format!(
                "{}: a socket's path may have 104 bytes at most",
                path.display()
            )));
        }
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(Error::conflict(format!("{} is served by another engine already", path.display())));
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await?;
        }
        let listener =
            UnixListener::bind(path).map_err(|e| Error::internal(format!("{}: {e}", path.display())))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(Self::Unix(listener))
    }

    /// Listens where `host` says: `tcp://ADDRESS:PORT` or `unix://PATH`.
    pub async fn host(host: &str, config: &EngineConfig) -> Result<Self> {
        if let Some(path) = host.strip_prefix("unix://") {
            return Self::unix(Path::new(path)).await;
        }
        let Some(address) = host.strip_prefix("tcp://") else {
            return Err(Error::invalid(format!(
                "invalid host {host}: tcp://ADDRESS:PORT or unix://PATH is served"
            )));
        };
        let acceptor = match (config.tlsverify, config.insecure_tcp) {
            (true, _) => Some(acceptor(config)?),
            (false, true) => None,
            (false, false) => {
                return Err(Error::invalid(format!(
                    "{host}: TCP is served only to clients with a certificate (--tlsverify, --tlscacert, --tlscert, --tlskey): whoever reaches the port would be root of this machine; --insecure-tcp serves it all the same"
                )));
            }
        };
        let address = with_port(address, if acceptor.is_some() { TLS_PORT } else { PLAIN_PORT });
        let listener =
            TcpListener::bind(&address).await.map_err(|e| Error::internal(format!("{host}: {e}")))?;
        let bound = listener.local_addr()?;
        Ok(match acceptor {
            Some(acceptor) => {
                tracing::info!("serving on tcp://{bound}, with TLS");
                Self::Tls(listener, acceptor)
            }
            None => {
                tracing::warn!(
                    "serving on tcp://{bound} WITHOUT TLS: whoever reaches it is root of this machine"
                );
                Self::Plain(listener)
            }
        })
    }

    /// The next client; of one over TCP nothing is known yet.
    async fn accept(&self) -> std::io::Result<Client> {
        match self {
            Self::Unix(listener) => Ok(Client::Known(Box::new(listener.accept().await?.0))),
            Self::Plain(listener) => {
                let (io, _) = listener.accept().await?;
                io.set_nodelay(true)?;
                Ok(Client::Known(Box::new(io)))
            }
            Self::Tls(listener, acceptor) => {
                let (io, _) = listener.accept().await?;
                io.set_nodelay(true)?;
                Ok(Client::Unknown(Box::new(acceptor.accept(io))))
            }
        }
    }
}

enum Client {
    Known(Io),
    /// It has to show its certificate first.
    Unknown(Box<tokio_rustls::Accept<tokio::net::TcpStream>>),
}

fn with_port(address: &str, port: u16) -> String {
    let address = address.trim_end_matches('/');
    let has_port = address.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
    });
    match (has_port, address) {
        (_, "") => format!("127.0.0.1:{port}"),
        (true, address) if address.starts_with(':') => format!("0.0.0.0{address}"),
        (true, address) => address.to_owned(),
        (false, address) => format!("{address}:{port}"),
    }
}

/// Mutual TLS of the settings' files.
fn acceptor(config: &EngineConfig) -> Result<TlsAcceptor> {
    let need = |file: &Option<PathBuf>, what: &str| {
        file.clone().ok_or_else(|| Error::invalid(format!("--tlsverify needs --{what}")))
    };
    let (ca, cert, key) = (
        need(&config.tlscacert, "tlscacert")?,
        need(&config.tlscert, "tlscert")?,
        need(&config.tlskey, "tlskey")?,
    );
    let failed = |file: &Path, e: &dyn std::fmt::Display| Error::invalid(format!("{}: {e}", file.display()));
    let certificates = |file: &Path| -> Result<Vec<CertificateDer<'static>>> {
        let found = CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
            .map_err(|e| failed(file, &e))?;
        if found.is_empty() {
            return Err(failed(file, &"no certificate in it"));
        }
        Ok(found)
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(&ca)? {
        roots.add(root).map_err(|e| failed(&ca, &e))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|e| failed(&ca, &e))?;
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|e| failed(&key, &e))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::internal(e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&cert)?, private)
        .map_err(|e| failed(&cert, &e))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until `stop`, then lets requests in flight end within a limit.
pub async fn serve(engine: Arc<Engine>, listeners: Vec<Listener>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let served = listeners.into_iter().map(|listener| one(&engine, listener, &stop, &connections));
    // The listeners are gone behind this: another engine may take the sockets' places.
    futures_util::future::join_all(served).await;
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::info!("{} connections were open when the engine stopped", connections.len());
    }
}

async fn one(engine: &Arc<Engine>, listener: Listener, stop: &CancellationToken, connections: &TaskTracker) {
    loop {
        let client = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(client) => client,
                Err(e) => {
                    tracing::warn!("accept: {e}");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            },
        };
        let (engine, stop) = (engine.clone(), stop.clone());
        connections.spawn(async move {
            let io = match client {
                Client::Known(io) => io,
                Client::Unknown(handshake) => match tokio::time::timeout(HANDSHAKE, *handshake).await {
                    Ok(Ok(io)) => Box::new(io) as Io,
                    Ok(Err(e)) => return tracing::info!("a client was refused: {e}"),
                    Err(_) => return tracing::info!("a client showed no certificate in time"),
                },
            };
            let served = async {
                match preface::read(io).await {
                    Ok(Spoken::Http1(io)) => {
                        hijack::serve(io, |request| super::answer(engine.clone(), request)).await;
                    }
                    Ok(Spoken::Http2(io)) => build::direct(engine.clone(), io).await,
                    Err(e) => tracing::debug!("connection ended: {e}"),
                }
            };
            tokio::select! {
                () = served => {}
                // Streams have no end of their own.
                () = async { stop.cancelled().await; tokio::time::sleep(DRAIN).await } => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_dockers_unless_said() {
        assert_eq!(with_port("127.0.0.1:1", 2376), "127.0.0.1:1");
        assert_eq!(with_port("10.0.0.1", 2376), "10.0.0.1:2376");
        assert_eq!(with_port(":99", 2376), "0.0.0.0:99");
        assert_eq!(with_port("[::1]", 2376), "[::1]:2376");
        assert_eq!(with_port("[::1]:9", 2376), "[::1]:9");
        assert_eq!(with_port("", 2376), "127.0.0.1:2376");
    }

    #[tokio::test]
    async fn tcp_is_not_served_to_everybody() {
        let refused = |config: EngineConfig| async move {
            match Listener::host("tcp://127.0.0.1:0", &config).await {
                Ok(_) => panic!("it is served"),
                Err(e) => e.message,
            }
        };
        assert!(refused(EngineConfig::default()).await.contains("--tlsverify"));
        let verify = EngineConfig { tlsverify: true, ..EngineConfig::default() };
        assert!(refused(verify.clone()).await.contains("needs --tlscacert"));
        let missing = Some(PathBuf::from("/nonexistent.pem"));
        let files =
            EngineConfig { tlscacert: missing.clone(), tlscert: missing.clone(), tlskey: missing, ..verify };
        assert!(refused(files).await.contains("/nonexistent.pem"));
        let insecure = EngineConfig { insecure_tcp: true, ..EngineConfig::default() };
        assert!(matches!(Listener::host("tcp://127.0.0.1:0", &insecure).await, Ok(Listener::Plain(_))));
        assert!(Listener::host("fd://", &insecure).await.is_err());
    }
}
