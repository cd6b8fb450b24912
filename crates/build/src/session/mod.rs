//! Sessions: connections on which a client serves what a build asks of it (files, secrets, credentials, an SSH agent).
//!
//! The roles are reversed: the client opened the connection, and the engine makes the calls. A session lives as long as
//! its connection.

pub mod content;
pub mod files;
mod index;
mod receive;
pub mod send;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::secrets::v1 as secrets;
use bollard_buildkit_proto::moby::filesync::v1 as auth;
use bollard_buildkit_proto::moby::sshforward::v1 as ssh;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::rpc::{Channel, Code, Messages, Sender, Status};
pub use index::{Entry, Index};
pub use receive::{Limits, Transfer, receive};

/// How long a build waits for the session it names: the client opens both at once.
const ARRIVAL: Duration = Duration::from_secs(10);
/// How long a client may take to answer a question.
const ANSWER: Duration = Duration::from_secs(60);
/// Most sessions at once; a client has one for a build.
const MOST: usize = 1024;
/// Largest secret, in bytes: as BuildKit's.
const SECRET_LIMIT: usize = 500 << 10;

/// Headers of `POST /session`.
pub mod headers {
    /// The session's id.
    pub const ID: &str = "x-docker-expose-session-uuid";
    /// What the session calls itself.
    pub const NAME: &str = "x-docker-expose-session-name";
    /// What makes files of one session comparable with those of an earlier one.
    pub const SHARED_KEY: &str = "x-docker-expose-session-sharedkey";
    /// A method that is served; comes several times.
    pub const METHOD: &str = "x-docker-expose-session-grpc-method";
}

/// What a client says of its session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Greeting {
    /// Unique id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The same for sessions whose files are to be compared.
    pub shared_key: String,
    /// `/package.Service/Method`s that it serves.
    pub methods: BTreeSet<String>,
}

impl Greeting {
    /// Reads it of a request's headers, or of a call's metadata.
    ///
    /// # Errors
    /// Without an id.
    pub fn read(headers: &hyper::HeaderMap) -> Result<Self, Status> {
        let text = |v: &hyper::header::HeaderValue| v.to_str().unwrap_or_default().to_owned();
        let one = |name: &str| headers.get(name).map(text).unwrap_or_default();
        let greeting = Self {
            id: one(headers::ID),
            name: one(headers::NAME),
            shared_key: one(headers::SHARED_KEY),
            methods: headers.get_all(headers::METHOD).iter().map(text).collect(),
        };
        if greeting.id.is_empty() {
            let words = format!("a session needs an id: header {}", headers::ID);
            return Err(Status::new(Code::InvalidArgument, words));
        }
        Ok(greeting)
    }
}

/// A client that can be asked.
pub struct Session {
    greeting: Greeting,
    channel: Channel,
}

/// All sessions.
#[derive(Default)]
pub struct Sessions {
    open: Mutex<HashMap<String, Arc<Session>>>,
    arrived: watch::Sender<u64>,
}

impl Sessions {
    /// Takes a connection into use as a session, until it ends.
    ///
    /// # Errors
    /// When the id is in use or missing; when the other side speaks no gRPC.
    pub async fn serve(
        &self,
        greeting: Greeting,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(), Status> {
        let id = greeting.id.clone();
        if id.is_empty() {
            return Err(Status::new(Code::InvalidArgument, "a session needs an id"));
        }
        let session = Arc::new(Session { greeting, channel: Channel::open(io).await? });
        {
            let mut open = self.lock();
            if open.contains_key(&id) || open.len() >= MOST {
                return Err(Status::new(Code::FailedPrecondition, format!("session {id} is open already")));
            }
            open.insert(id.clone(), session.clone());
        }
        self.arrived.send_modify(|n| *n += 1);
        // Also when whoever serves the connection gives it up.
        struct Leave<'a>(&'a Sessions, &'a str);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.lock().remove(self.1);
            }
        }
        let _leave = Leave(self, &id);
        session.channel.closed().await;
        Ok(())
    }

    /// The session of this id, which may still be on its way.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn get(&self, id: &str) -> Result<Arc<Session>, Status> {
        let mut arrived = self.arrived.subscribe();
        let found = async {
            loop {
                arrived.borrow_and_update();
                if let Some(session) = self.lock().get(id) {
                    return Some(session.clone());
                }
                arrived.changed().await.ok()?;
            }
        };
        let none = || Status::new(Code::NotFound, format!("no active session for {id}"));
        tokio::time::timeout(ARRIVAL, found).await.ok().flatten().ok_or_else(none)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Session {
    /// What the client said of it.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Waits until the client is gone.
    pub async fn closed(&self) {
        self.channel.closed().await;
    }

    fn serves(&self, method: &str) -> bool {
        self.greeting.methods.is_empty()
            || self.greeting.methods.iter().any(|m| m.eq_ignore_ascii_case(method))
    }

    async fn ask<Q, A>(&self, method: &str, question: &Q) -> Result<A, Status>
    where
        Q: prost::Message,
        A: prost::Message + Default,
    {
        if !self.serves(method) {
            return Err(Status::new(Code::Unimplemented, format!("the client does not serve {method}")));
        }
        let late = |_| Status::new(Code::DeadlineExceeded, format!("the client did not answer {method}"));
        tokio::time::timeout(ANSWER, self.channel.unary(method, question)).await.map_err(late)?
    }

    /// A secret the client offers; `None` when it has none of this id.
    ///
    /// # Errors
    /// When the client is gone, or the secret too large.
    pub async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, Status> {
        let question = secrets::GetSecretRequest { id: id.into(), ..Default::default() };
        let answer: Result<secrets::GetSecretResponse, Status> =
            self.ask("/moby.buildkit.secrets.v1.Secrets/GetSecret", &question).await;
        match answer {
            Ok(secret) if secret.data.len() > SECRET_LIMIT => {
                let words = format!("secret {id} is larger than {SECRET_LIMIT} bytes");
                Err(Status::new(Code::ResourceExhausted, words))
            }
            Ok(secret) => Ok(Some(secret.data)),
            Err(e) if e.is(Code::NotFound) || e.is(Code::Unimplemented) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// User and password (or identity token, with no user) for a registry; `None` when the client has none.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn credentials(&self, host: &str) -> Result<Option<(String, String)>, Status> {
        let question = auth::CredentialsRequest { host: host.into() };
        let answer: Result<auth::CredentialsResponse, Status> =
            self.ask("/moby.filesync.v1.Auth/Credentials", &question).await;
        match answer {
            Ok(a) if a.username.is_empty() && a.secret.is_empty() => Ok(None),
            Ok(a) => Ok(Some((a.username, a.secret))),
            Err(e) if e.is(Code::NotFound) || e.is(Code::Unimplemented) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether the client has an SSH agent (or key) of this id.
    ///
    /// # Errors
    /// When it has none.
    pub async fn check_agent(&self, id: &str) -> Result<(), Status> {
        let question = ssh::CheckAgentRequest { id: id.into() };
        let answer: ssh::CheckAgentResponse =
            self.ask("/moby.sshforward.v1.SSH/CheckAgent", &question).await?;
        let ssh::CheckAgentResponse {} = answer;
        Ok(())
    }

    /// Joins a connection to the client's SSH agent, until either ends.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn forward_agent<S>(&self, id: &str, io: S) -> Result<(), Status>
    where
        S: AsyncRead + AsyncWrite + Send,
    {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let metadata = [("buildkit.ssh.id".to_owned(), id.to_owned())];
        let (sender, answers) = self.channel.stream("/moby.sshforward.v1.SSH/ForwardAgent", &metadata);
        let (mut reader, mut writer) = tokio::io::split(io);
        let there = async {
            let mut buffer = vec![0; 32 << 10];
            while let Ok(n @ 1..) = reader.read(&mut buffer).await {
                sender.send(&ssh::BytesMessage { data: buffer[..n].to_vec() }).await?;
            }
            drop(sender);
            Ok(())
        };
        let back = async {
            let mut answers = answers.await?;
            while let Some(message) = answers.next::<ssh::BytesMessage>().await? {
                if writer.write_all(&message.data).await.is_err() {
                    break;
                }
            }
            let _ = writer.shutdown().await;
            Ok(())
        };
        tokio::try_join!(there, back).map(drop)
    }

    /// Opens a stream on which the client sends (`FileSync`) or takes (`FileSend`) files.
    pub fn files(
        &self,
        method: files::Method,
        metadata: &[(String, String)],
    ) -> (Sender, impl Future<Output = Result<Messages, Status>> + Send + 'static) {
        self.channel.stream(method.path(), metadata)
    }

    /// What names the files of a folder across builds: the client's own key, where it gives one.
    pub fn folder_key(&self, name: &str) -> Option<String> {
        let shared = &self.greeting.shared_key;
        (!shared.is_empty()).then(|| format!("{shared}:{name}"))
    }
}
