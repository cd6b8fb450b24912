//! Named pipes as local sockets: of messages, so that an end can be said (Docker's clients and dockerd do the same: an
//! empty message is the end of what is sent, as a unix socket's half-close).

use std::{
    io,
    os::windows::io::AsRawHandle,
    path::Path,
    pin::Pin,
    ptr::null_mut,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::windows::named_pipe::{ClientOptions, NamedPipeClient, NamedPipeServer, PipeMode, ServerOptions},
    time::{Instant, sleep},
};
use windows_sys::Win32::{Foundation::ERROR_PIPE_BUSY, System::Pipes::PeekNamedPipe};

use super::access::{Private, is_own_pipe};

/// How long a client waits for a server that has no free end, and the pause between two tries.
const BUSY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(10));
/// Bytes of a pipe's buffers, each way.
const BUFFER: u32 = 64 * 1024;

/// A listener on a pipe's name: always one end more than there are connections.
pub struct Listener {
    name: String,
    next: NamedPipeServer,
}

/// A connection.
#[derive(Debug)]
pub struct Socket {
    end: End,
    /// The end of what is sent was said.
    said_end: bool,
}

#[derive(Debug)]
enum End {
    Server(NamedPipeServer),
    Client(NamedPipeClient),
}

/// Listens at a name, for this user alone. Fails when the name is taken: by another daemon, or by another user.
pub fn bind_private(path: &Path) -> io::Result<Listener> {
    let name = path.display().to_string();
    let next = end(&name, true)?;
    Ok(Listener { name, next })
}

fn end(name: &str, first: bool) -> io::Result<NamedPipeServer> {
    let access = Private::new(false)?;
    let mut attributes = access.attributes();
    let mut options = ServerOptions::new();
    options.first_pipe_instance(first).reject_remote_clients(true).pipe_mode(PipeMode::Message);
    options.in_buffer_size(BUFFER).out_buffer_size(BUFFER);
    // SAFETY: the attributes, and the list they lead to, live through the call.
    unsafe { options.create_with_security_attributes_raw(name, (&raw mut attributes).cast()) }
}

impl Listener {
    /// The next connection; nothing is lost when this is dropped before it comes.
    pub async fn accept(&mut self) -> io::Result<Socket> {
        self.next.connect().await?;
        let next = end(&self.name, false)?;
        Ok(Socket { end: End::Server(std::mem::replace(&mut self.next, next)), said_end: false })
    }
}

/// Connects to a pipe of this user's.
pub async fn connect(path: &Path) -> io::Result<Socket> {
    let since = Instant::now();
    loop {
        match ClientOptions::new().open(path) {
            Ok(client) => {
                if !is_own_pipe(client.as_raw_handle())? {
                    return Err(io::Error::new(
                        io::ErrorKind::PermissionDenied,
                        "the pipe of that name is another user's",
                    ));
                }
                return Ok(Socket { end: End::Client(client), said_end: false });
            }
            Err(error)
                if error.raw_os_error() == Some(ERROR_PIPE_BUSY as i32) && since.elapsed() < BUSY.0 =>
            {
                sleep(BUSY.1).await; // the server makes its next end when it likes
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether whoever was at the other end has gone, and not only said that nothing more is to come. Reading tells both as the
/// same end (`mio` makes one of `ERROR_BROKEN_PIPE`), so the pipe itself is asked.
pub fn has_left(socket: &Socket) -> bool {
    let pipe = match &socket.end {
        End::Server(end) => end.as_raw_handle(),
        End::Client(end) => end.as_raw_handle(),
    };
    // SAFETY: the handle is open for as long as its owner, and nothing is asked for that would have to be written anywhere.
    let there = unsafe { PeekNamedPipe(pipe, null_mut(), 0, null_mut(), null_mut(), null_mut()) };
    there == 0
}

/// Whether somebody listens at a name.
pub fn connect_now(path: &Path) -> io::Result<()> {
    match std::fs::OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.raw_os_error() == Some(ERROR_PIPE_BUSY as i32) => Ok(()),
        other => other.map(drop),
    }
}

macro_rules! on_end {
    ($self:ident, $end:ident => $do:expr) => {
        match &mut $self.end {
            End::Server($end) => $do,
            End::Client($end) => $do,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_end!(self, end => Pin::new(end).poll_read(cx, into))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // An empty message would be taken for the end.
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.said_end {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        on_end!(self, end => Pin::new(end).poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_end!(self, end => Pin::new(end).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.said_end {
            return Poll::Ready(Ok(()));
        }
        match ready!(on_end!(self, end => Pin::new(end).poll_write(cx, &[]))) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Poll::Ready(Err(error)),
            _ => {
                self.said_end = true;
                Poll::Ready(Ok(()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn both_ways_and_an_end_by_itself() {
        let name = format!(r"\\.\pipe\coracle-test-{}", std::process::id());
        let mut listener = bind_private(Path::new(&name)).unwrap();
        // Wine lets it be taken twice.
        if std::env::var_os("WINEPREFIX").is_none() {
            assert!(bind_private(Path::new(&name)).is_err(), "the name is taken");
        }
        for _ in 0..3 {
            let client = async {
                let mut client = connect(Path::new(&name)).await.unwrap();
                client.write_all(&[7; 200_000]).await.unwrap();
                client.shutdown().await.unwrap();
                let mut back = Vec::new();
                client.read_to_end(&mut back).await.unwrap();
                back
            };
            let server = async {
                let mut server = listener.accept().await.unwrap();
                let mut got = Vec::new();
                server.read_to_end(&mut got).await.unwrap();
                assert!(!has_left(&server), "it still listens");
                server.write_all(&got).await.unwrap();
                server.shutdown().await.unwrap();
                // Once it has read all, it goes.
                assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
                assert!(has_left(&server));
            };
            let (back, ()) = tokio::join!(client, server);
            assert!(back.len() == 200_000 && back.iter().all(|b| *b == 7));
        }
    }

    #[tokio::test]
    async fn nobody_there_is_not_found() {
        let error = connect(Path::new(r"\\.\pipe\coracle-test-none")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
