//! A connection of the stack as a stream of bytes.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use smoltcp::{
    iface::SocketHandle,
    socket::tcp::{RecvError, State},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Shelf, stack::Flow};

/// One that was accepted. Dropped before both ends were said, it is reset.
pub struct Connection {
    shelf: Arc<Shelf>,
    flow: Flow,
    handle: SocketHandle,
    heard_end: bool,
    said_end: bool,
}

impl Connection {
    /// Answers `first`, which asked for it.
    pub fn accept(shelf: Arc<Shelf>, flow: Flow, first: &[u8]) -> Self {
        let handle = shelf.stack().accept(flow, first);
        shelf.changed.notify_one();
        Self { shelf, flow, handle, heard_end: false, said_end: false }
    }
}

fn is_coming(state: State) -> bool {
    matches!(state, State::Listen | State::SynReceived)
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (shelf, handle) = (self.shelf.clone(), self.handle);
        let mut stack = shelf.stack();
        let socket = stack.socket(handle);
        if is_coming(socket.state()) {
            socket.register_recv_waker(cx.waker());
            return Poll::Pending;
        }
        match socket.recv_slice(buf.initialize_unfilled()) {
            Ok(0) => {
                socket.register_recv_waker(cx.waker());
                Poll::Pending
            }
            Ok(n) => {
                buf.advance(n);
                shelf.changed.notify_one(); // there is room again, which the other end is told
                Poll::Ready(Ok(()))
            }
            Err(RecvError::Finished) => {
                self.heard_end = true;
                Poll::Ready(Ok(()))
            }
            Err(RecvError::InvalidState) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut stack = self.shelf.stack();
        let socket = stack.socket(self.handle);
        if is_coming(socket.state()) {
            socket.register_send_waker(cx.waker());
            return Poll::Pending;
        }
        match socket.send_slice(bytes) {
            Ok(0) if !bytes.is_empty() => {
                socket.register_send_waker(cx.waker());
                Poll::Pending
            }
            Ok(n) => {
                self.shelf.changed.notify_one();
                Poll::Ready(Ok(n))
            }
            Err(_) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shelf.stack().socket(self.handle).close();
        self.shelf.changed.notify_one();
        self.said_end = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shelf.stack().end(self.flow, self.handle, self.heard_end && self.said_end);
        self.shelf.changed.notify_one();
    }
}
