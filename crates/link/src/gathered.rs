//! A channel that gathers what is written to it: many frames go out by one write, and come in by one read.
//!
//! yamux flushes after every frame, and reads a frame's header and its body each by a read of their own. A write to a
//! virtio-serial port ends up in the hypervisor, and wakes whoever reads there. So a flush of yamux's does nothing here, and
//! the session's driver calls [`Gathered::poll_send`] when yamux has nothing more to do.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use futures_util::io::{AsyncRead, AsyncWrite};
use tokio::io::ReadBuf;

use crate::{READ_BUFFER, WRITE_BUFFER};

/// A read of at least this much goes past the buffer: what a virtio-serial port gives at once.
const DIRECT: usize = 4096;

/// Two handles to one channel: yamux owns one, the driver the other. Both are used by one task.
pub struct Gathered<C>(Arc<Mutex<Buffers<C>>>);

struct Buffers<C> {
    channel: C,
    /// To be written, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    /// Whether somebody waits for room in `out`.
    is_waited_for: bool,
    /// Read, and not yet taken: from `taken` to `filled`.
    into: Box<[u8]>,
    taken: usize,
    filled: usize,
}

impl<C> Clone for Gathered<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C> Gathered<C> {
    /// A channel with empty buffers.
    pub fn new(channel: C) -> Self {
        Self(Arc::new(Mutex::new(Buffers {
            channel,
            out: Vec::with_capacity(WRITE_BUFFER),
            sent: 0,
            is_waited_for: false,
            into: vec![0; READ_BUFFER].into(),
            taken: 0,
            filled: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Buffers<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: tokio::io::AsyncWrite + Unpin> Gathered<C> {
    /// Sends what was gathered. Whether somebody had waited for room, who can go on now.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut buffers = self.lock();
        ready!(buffers.poll_send(cx))?;
        ready!(Pin::new(&mut buffers.channel).poll_flush(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut buffers.is_waited_for)))
    }
}

impl<C: tokio::io::AsyncWrite + Unpin> Buffers<C> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let n = ready!(Pin::new(&mut self.channel).poll_write(cx, &self.out[self.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        self.out.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl<C: tokio::io::AsyncWrite + Unpin> AsyncWrite for Gathered<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut buffers = self.lock();
        if buffers.out.len() == WRITE_BUFFER && buffers.poll_send(cx)?.is_pending() {
            buffers.is_waited_for = true;
            return Poll::Pending;
        }
        let n = bytes.len().min(WRITE_BUFFER - buffers.out.len());
        buffers.out.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buffers = self.lock();
        ready!(buffers.poll_send(cx))?;
        Pin::new(&mut buffers.channel).poll_shutdown(cx)
    }
}

impl<C: tokio::io::AsyncRead + Unpin> AsyncRead for Gathered<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffers = self.lock();
        let Buffers { channel, into, taken, filled, .. } = &mut *buffers;
        if taken == filled {
            if to.len() >= DIRECT {
                let mut to = ReadBuf::new(to);
                ready!(Pin::new(channel).poll_read(cx, &mut to))?;
                return Poll::Ready(Ok(to.filled().len()));
            }
            let mut read = ReadBuf::new(into);
            ready!(Pin::new(channel).poll_read(cx, &mut read))?;
            (*taken, *filled) = (0, read.filled().len());
        }
        let n = to.len().min(*filled - *taken);
        to[..n].copy_from_slice(&into[*taken..*taken + n]);
        *taken += n;
        Poll::Ready(Ok(n))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{
        future::poll_fn,
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        task::noop_waker,
    };
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    type Count = Arc<Mutex<usize>>;

    /// A channel that counts what it is asked.
    struct Counting<C> {
        channel: C,
        reads: Count,
        writes: Count,
    }

    fn counting<C>(channel: C) -> (Gathered<Counting<C>>, Count, Count) {
        let (reads, writes) = (Count::default(), Count::default());
        let counting = Counting { channel, reads: reads.clone(), writes: writes.clone() };
        (Gathered::new(counting), reads, writes)
    }

    impl<C: tokio::io::AsyncRead + Unpin> tokio::io::AsyncRead for Counting<C> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            to: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            *self.reads.lock().unwrap() += 1;
            Pin::new(&mut self.channel).poll_read(cx, to)
        }
    }

    impl<C: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for Counting<C> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            *self.writes.lock().unwrap() += 1;
            Pin::new(&mut self.channel).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.channel).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.channel).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn frames_that_are_flushed_one_by_one_go_out_and_come_in_together() {
        let (here, there) = duplex(1 << 20);
        let (mut here, _, writes) = counting(here);
        for n in 0..50 {
            here.write_all(&[n; 12]).await.unwrap();
            here.write_all(&[n; 1000]).await.unwrap();
            here.flush().await.unwrap();
        }
        assert_eq!(*writes.lock().unwrap(), 0);
        poll_fn(|cx| here.poll_send(cx)).await.unwrap();
        assert_eq!(*writes.lock().unwrap(), 1);

        let (mut there, reads, _) = counting(there);
        for n in 0..50 {
            let (mut head, mut body) = ([0; 12], [0; 1000]);
            there.read_exact(&mut head).await.unwrap();
            there.read_exact(&mut body).await.unwrap();
            assert!(head == [n; 12] && body == [n; 1000]);
        }
        assert_eq!(*reads.lock().unwrap(), 1);
    }

    #[tokio::test]
    async fn who_waits_for_room_goes_on_when_there_is_some() {
        let (here, mut there) = duplex(4096);
        let here = Gathered::new(here);
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        // Nobody reads: the buffer and the channel fill up, and no more is taken.
        let mut taken = 0;
        let mut writer = here.clone();
        while let Poll::Ready(n) = Pin::new(&mut writer).poll_write(&mut cx, &[7; 10_000]) {
            taken += n.unwrap();
            assert!(taken <= WRITE_BUFFER + 4096, "{taken} bytes taken");
        }
        assert!(here.poll_send(&mut cx).is_pending());
        let read = async {
            let mut got = vec![0; taken];
            there.read_exact(&mut got).await.unwrap();
            got
        };
        let (waited, got) = tokio::join!(poll_fn(|cx| here.poll_send(cx)), read);
        assert!(waited.unwrap(), "somebody waited");
        assert!(got.iter().all(|b| *b == 7));
        assert!(!poll_fn(|cx| here.poll_send(cx)).await.unwrap(), "nobody waits any more");
        there.shutdown().await.unwrap();
    }
}
