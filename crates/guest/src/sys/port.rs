//! The link's virtio-serial port as an async byte channel.
//!
//! It has no connections. Without a host: read gives 0 (after what was left), a write would block for ever, poll says
//! HUP. So end of file and HUP end the channel; whoever wants on opens it anew.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll, ready},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

/// The port's name, which the hypervisor gives it.
const NAME: &str = "org.coracle.link";

/// An open port.
pub struct Port(AsyncFd<File>);

impl Port {
    /// Opens the port when there is one and a host is connected; an error else.
    pub fn open() -> io::Result<Self> {
        let path = find()?;
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
        if hung_up(&file) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        // SAFETY: a File keeps its one descriptor open for as long as it lives, and AsyncFd owns it.
        let registered = unsafe { AsyncFd::register(file) };
        registered.map(Self).map_err(io::Error::from)
    }
}

fn find() -> io::Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == NAME) {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn hung_up(file: &File) -> bool {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

impl AsyncRead for Port {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let mut file = guard.get_inner();
            match file.read(buf.initialize_unfilled()) {
                Ok(n) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            let mut file = guard.get_inner();
            match file.write(bytes) {
                Ok(n) => return Poll::Ready(Ok(n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The same answer for a full queue and for no host; only poll tells them apart.
                    if hung_up(file) {
                        return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                    }
                    guard.clear_ready();
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
