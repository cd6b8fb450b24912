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

use super::{SharedStack, stack::Flow};

/// One that was accepted. Dropped before both ends were said, it is reset.
pub struct Connection {
    shared: Arc<SharedStack>,
    flow: Flow,
    handle: SocketHandle,
    heard_end: bool,
    said_end: bool,
}

impl Connection {
    /// Answers `first`, which asked for it.
    pub fn accept(shared: Arc<SharedStack>, flow: Flow, first: &[u8]) -> Self {
        let handle = shared.stack().accept(flow, first);
        shared.changed.notify_one();
        Self { shared, flow, handle, heard_end: false, said_end: false }
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
        let (shared, handle) = (self.shared.clone(), self.handle);
        let mut stack = shared.stack();
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
                shared.changed.notify_one(); // there is room again, which the other end is told
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
        let mut stack = self.shared.stack();
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
                self.shared.changed.notify_one();
                Poll::Ready(Ok(n))
            }
            Err(_) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.stack().socket(self.handle).close();
        self.shared.changed.notify_one();
        self.said_end = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.stack().end(self.flow, self.handle, self.heard_end && self.said_end);
        self.shared.changed.notify_one();
    }
}
