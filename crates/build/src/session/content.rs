//! Content stores of a client: folders with blobs by digest, which hold caches (`type=local`) and OCI layouts.
//!
//! The service is containerd's (`containerd.services.content.v1.Content`), as far as BuildKit's clients serve it; which
//! of the client's stores is meant, a call's metadata says.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::Session;
use crate::rpc::{Code, Messages, Sender, Status};

/// Metadata that says which store.
const STORE: &str = "buildkit-attachable-store-id";
const SERVICE: &str = "/containerd.services.content.v1.Content";
/// Bytes of one message to the client: below gRPC's usual limit of 4 MiB.
const CHUNK: usize = 1 << 20;
/// How long the client may take for one message.
const SILENCE: Duration = Duration::from_secs(120);
/// Pieces of a blob on their way.
const QUEUE: usize = 8;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct InfoRequest {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct InfoResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) info: Option<Info>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Info {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) size: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReadRequest {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) offset: i64,
    #[prost(int64, tag = "3")]
    pub(crate) size: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ReadResponse {
    #[prost(int64, tag = "1")]
    pub(crate) offset: i64,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) data: Vec<u8>,
}

/// What a message of a write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum Action {
    Stat = 0,
    Write = 1,
    Commit = 2,
}

#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(enumeration = "Action", tag = "1")]
    action: i32,
    #[prost(string, tag = "2")]
    reference: String,
    #[prost(int64, tag = "3")]
    total: i64,
    #[prost(string, tag = "4")]
    expected: String,
    #[prost(int64, tag = "5")]
    offset: i64,
    #[prost(bytes = "vec", tag = "6")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WriteResponse {
    #[prost(enumeration = "Action", tag = "1")]
    action: i32,
    #[prost(int64, tag = "4")]
    offset: i64,
    #[prost(string, tag = "6")]
    digest: String,
}

/// One of a client's content stores.
#[derive(Clone)]
pub struct ContentStore {
    session: Arc<Session>,
    store: String,
}

fn late<E>(_: E) -> Status {
    Status::new(Code::DeadlineExceeded, "the client's content store does not answer")
}

impl ContentStore {
    /// The store of this name (`local:DIR`, `oci:NAME`, `export`).
    ///
    /// # Errors
    /// When the client has none at all.
    pub fn new(session: &Arc<Session>, store: impl Into<String>) -> Result<Self, Status> {
        if !session.serves(&format!("{SERVICE}/Read")) {
            return Err(Status::new(Code::Unimplemented, "the client has no content store"));
        }
        Ok(Self { session: session.clone(), store: store.into() })
    }

    fn call(&self, method: &str) -> (Sender, impl Future<Output = Result<Messages, Status>> + Send + use<>) {
        let metadata = [(STORE.to_owned(), self.store.clone())];
        self.session.channel.stream(&format!("{SERVICE}/{method}"), &metadata)
    }

    /// The size of a blob; `None` where there is none of this digest.
    ///
    /// # Errors
    /// The client's.
    pub async fn size(&self, digest: &str) -> Result<Option<u64>, Status> {
        let (sender, answers) = self.call("Info");
        sender.send(&InfoRequest { digest: digest.to_owned() }).await?;
        drop(sender);
        let asked = async {
            let mut answers = answers.await?;
            let answer = answers.next::<InfoResponse>().await?;
            while answers.next::<InfoResponse>().await?.is_some() {}
            Ok::<_, Status>(answer)
        };
        match tokio::time::timeout(SILENCE, asked).await.map_err(late)? {
            Ok(answer) => {
                let size = answer.and_then(|a| a.info).map_or(0, |i| i.size);
                Ok(Some(u64::try_from(size).unwrap_or(0)))
            }
            Err(e) if e.is(Code::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A blob's bytes, as they come: nobody has held them against the digest.
    pub fn open(&self, digest: &str) -> Pin<Box<dyn AsyncRead + Send>> {
        let (sender, answers) = self.call("Read");
        let request = ReadRequest { digest: digest.to_owned(), ..ReadRequest::default() };
        let (tx, rx) = tokio::sync::mpsc::channel::<std::io::Result<bytes::Bytes>>(QUEUE);
        tokio::spawn(async move {
            let work = async {
                sender.send(&request).await?;
                drop(sender);
                let mut answers = tokio::time::timeout(SILENCE, answers).await.map_err(late)??;
                while let Some(piece) =
                    tokio::time::timeout(SILENCE, answers.next::<ReadResponse>()).await.map_err(late)??
                {
                    if tx.send(Ok(piece.data.into())).await.is_err() {
                        break;
                    }
                }
                Ok::<(), Status>(())
            };
            if let Err(e) = work.await {
                let _ = tx.send(Err(std::io::Error::other(e.message))).await;
            }
        });
        let stream = futures_util::stream::unfold(rx, |mut rx| async move { Some((rx.recv().await?, rx)) });
        Box::pin(tokio_util::io::StreamReader::new(Box::pin(stream)))
    }

    /// Writes a blob, unless it is there.
    ///
    /// # Errors
    /// The client's; what the input cannot be read by.
    pub async fn write(
        &self,
        digest: &str,
        size: u64,
        mut input: impl AsyncRead + Send + Unpin,
    ) -> Result<(), Status> {
        if self.size(digest).await?.is_some() {
            return Ok(());
        }
        let (sender, answers) = self.call("Write");
        let total = i64::try_from(size).unwrap_or(i64::MAX);
        let base = WriteRequest {
            reference: format!("{digest}-{}", crate::random_id()),
            total,
            expected: digest.to_owned(),
            ..WriteRequest::default()
        };
        sender.send(&WriteRequest { action: Action::Stat as i32, ..base.clone() }).await?;
        let mut answers = tokio::time::timeout(SILENCE, answers).await.map_err(late)??;
        let ended = || Status::new(Code::Unavailable, "the client ended a blob that was not whole");
        let mut hear = async || -> Result<(), Status> {
            let next = tokio::time::timeout(SILENCE, answers.next::<WriteResponse>()).await.map_err(late)?;
            next?.map(drop).ok_or_else(ended)
        };
        let done = async {
            hear().await?;
            let mut offset = 0_i64;
            let mut buffer = vec![0; CHUNK];
            loop {
                let mut filled = 0;
                while filled < buffer.len() {
                    let got = input.read(&mut buffer[filled..]).await;
                    match got.map_err(|e| Status::new(Code::Internal, e.to_string()))? {
                        0 => break,
                        n => filled += n,
                    }
                }
                if filled == 0 {
                    break;
                }
                let data = buffer[..filled].to_vec();
                let piece = WriteRequest { action: Action::Write as i32, offset, data, ..base.clone() };
                sender.send(&piece).await?;
                hear().await?;
                offset += i64::try_from(filled).unwrap_or(0);
            }
            sender.send(&WriteRequest { action: Action::Commit as i32, offset, ..base.clone() }).await?;
            hear().await
        }
        .await;
        drop(sender);
        match done {
            // Somebody wrote the same meanwhile.
            Err(e) if e.code == ALREADY_EXISTS => Ok(()),
            done => done,
        }
    }
}

/// gRPC's `ALREADY_EXISTS`.
const ALREADY_EXISTS: i32 = 6;
