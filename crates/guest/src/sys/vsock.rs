//! The link where the hypervisor has vsock: a listener, and connections with an end.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, listen, socket,
};
use tokio::{io::unix::AsyncFd, net::UnixStream};

/// Any of the machine's own addresses.
const ANY: u32 = nix::libc::VMADDR_CID_ANY;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4;

/// A listener on a port.
pub struct Vsock(AsyncFd<OwnedFd>);

impl Vsock {
    /// Listens; an error while there is no device for it.
    pub fn listen(port: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
        bind(listener.as_raw_fd(), &VsockAddr::new(ANY, port))?;
        listen(&listener, Backlog::new(BACKLOG)?)?;
        // SAFETY: an OwnedFd keeps its one descriptor open for as long as it lives, and AsyncFd owns it.
        let registered = unsafe { AsyncFd::register(listener) };
        registered.map(Self).map_err(io::Error::from)
    }

    /// The next connection; nothing is lost when this is dropped before it comes.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let mut guard = self.0.readable().await?;
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            match accept4(guard.get_inner().as_raw_fd(), flags) {
                Ok(fd) => {
                    // SAFETY: the call gives a new descriptor that nobody else owns.
                    let stream = unsafe { OwnedFd::from_raw_fd(fd) };
                    // A stream socket is read, written and shut down as any other, whatever its family.
                    return UnixStream::from_std(stream.into());
                }
                Err(nix::errno::Errno::EAGAIN) => guard.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::connect;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// By the kernel's own loopback, where it has one.
    #[tokio::test]
    async fn a_connection_both_ways_with_its_end() {
        const PORT: u32 = 764_123;
        let client = || {
            let client = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            connect(client.as_raw_fd(), &VsockAddr::new(nix::libc::VMADDR_CID_LOCAL, PORT))?;
            Ok::<_, io::Error>(std::os::unix::net::UnixStream::from(client))
        };
        let (Ok(listener), Ok(stream)) = (Vsock::listen(PORT), client()) else {
            println!("skipped: this kernel has no vsock loopback");
            return;
        };
        stream.set_nonblocking(true).unwrap();
        let mut client = UnixStream::from_std(stream).unwrap();
        let mut server = listener.accept().await.unwrap();
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        server.write_all(b"and back").await.unwrap();
        drop(server);
        let mut back = Vec::new();
        client.read_to_end(&mut back).await.unwrap();
        assert_eq!((got.as_slice(), back.as_slice()), (&b"hello"[..], &b"and back"[..]));
    }
}
