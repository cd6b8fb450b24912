//! Whether a client is still there.
//!
//! A client that says nothing more may still listen (`shutdown(2)` of one direction: pipes into `nc`, `socat`); only who has
//! closed both directions has gone. The kernel tells the two apart by `EPOLLHUP`, which it reports whatever is asked for
//! (epoll_ctl(2)). Of a TCP client both look alike until something is written.

use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

/// That the client of a request has gone away: for handlers that wait before they answer.
#[derive(Clone, Default)]
pub struct Left(CancellationToken);

impl Left {
    /// Resolves when it has.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }

    /// It has.
    pub fn tell(&self) {
        self.0.cancel();
    }

    /// Whether it has.
    pub fn is_told(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// Resolves when nobody is at the other end of this socket any more; never, where that is not to be known.
pub async fn hang_up(socket: Option<OwnedFd>) {
    let Some(Ok(watched)) = socket.map(watch) else { return std::future::pending().await };
    loop {
        let Ok(mut ready) = watched.ready(Interest::PRIORITY).await else {
            return std::future::pending().await;
        };
        if ready.ready().is_read_closed() {
            return;
        }
        // Urgent data, which a unix socket has had since Linux 5.15.
        ready.clear_ready();
    }
}

fn watch(socket: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and the same, until it is dropped, and it is dropped with what watches it.
    #[allow(unsafe_code)]
    let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::PRIORITY) };
    Ok(watched?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::pin::pin;

    use futures_util::poll;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn who_says_nothing_more_is_there_and_who_has_closed_is_not() {
        let (server, mut client) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let mut gone = pin!(hang_up(Some(server.as_fd().try_clone_to_owned().unwrap())));
        assert!(poll!(gone.as_mut()).is_pending());
        std::io::Write::write_all(&mut client, b"word").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut read = Vec::new();
        tokio::net::UnixStream::from_std(server).unwrap().read_to_end(&mut read).await.unwrap();
        assert_eq!((read.as_slice(), poll!(gone.as_mut()).is_pending()), (&b"word"[..], true));
        drop(client);
        gone.await;
    }
}
