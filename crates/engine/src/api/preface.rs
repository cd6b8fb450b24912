//! What a connection begins with: HTTP/1, or HTTP/2 of a client that knows without asking that it is served (RFC 9113,
//! 3.3). From API 1.53 on BuildKit's clients speak to the socket so.

use std::io::Result;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::listen::{Io, Stream};

/// The first bytes of HTTP/2. No request of HTTP/1 begins so.
const HTTP2: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client speaks, on the connection as it came.
pub enum Spoken {
    /// HTTP/1, or nothing that is known.
    Http1(Io),
    /// HTTP/2.
    Http2(Io),
}

/// Reads as far as it takes to tell; nothing of it is lost.
///
/// # Errors
/// When the connection breaks.
pub async fn read(mut io: Io) -> Result<Spoken> {
    let mut early = [0; HTTP2.len()];
    let mut len = 0;
    while len < early.len() && early[..len] == HTTP2[..len] {
        match io.read(&mut early[len..]).await? {
            0 => break,
            n => len += n,
        }
    }
    let io: Io = Box::new(Rewound { early, pos: 0, len, io });
    Ok(if early == *HTTP2 { Spoken::Http2(io) } else { Spoken::Http1(io) })
}

/// A connection whose first bytes come once more.
struct Rewound {
    early: [u8; HTTP2.len()],
    pos: usize,
    len: usize,
    io: Io,
}

impl Stream for Rewound {
    fn unread(&self) -> bool {
        self.io.unread()
    }

    fn telling(&self) -> Option<OwnedFd> {
        self.io.telling()
    }
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        let rest = &this.early[this.pos..this.len];
        if rest.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let n = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..n]);
        this.pos += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::*;

    /// Whether HTTP/2 is seen in what a client sends in these pieces, and what is read of it afterwards.
    async fn sent(pieces: &[&[u8]]) -> (bool, Vec<u8>) {
        let (mut client, server) = UnixStream::pair().unwrap();
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|p| p.to_vec()).collect();
        let client = async move {
            for piece in pieces {
                client.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let server = async {
            let (second, mut io) = match read(Box::new(server)).await.unwrap() {
                Spoken::Http1(io) => (false, io),
                Spoken::Http2(io) => (true, io),
            };
            let mut all = Vec::new();
            io.read_to_end(&mut all).await.unwrap();
            (second, all)
        };
        tokio::join!(client, server).1
    }

    #[tokio::test]
    async fn http_2_is_told_by_its_first_bytes_and_nothing_is_lost() {
        let greeting = [&HTTP2[..], b"\0\0\0\x04\0\0\0\0\0"].concat();
        assert_eq!(sent(&[&greeting]).await, (true, greeting.clone()));
        let bytes: Vec<&[u8]> = greeting.chunks(1).collect();
        assert_eq!(sent(&bytes).await, (true, greeting.clone()));
        for other in
            [&b"POST /grpc HTTP/1.1\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\nmore", b"PRI * HTTP/2.0", b"P", b""]
        {
            assert_eq!(sent(&[other]).await, (false, other.to_vec()));
        }
    }
}
