//! A TUN device: the packets that are routed to an interface, one a read, and packets that come in by it, one a write.
//!
//! Before each stands a header (`struct virtio_net_hdr`, VIRTIO 1.2, 5.1.6) by which both sides leave checksums and the cutting of
//! TCP's segments to whoever has to do it at last: most packets never leave this computer's memory.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
};

use tokio::io::unix::AsyncFd;

use super::interface::{check, named};

const DEVICE: &str = "/dev/net/tun";
/// Bytes of the header, its flag for a checksum that is not made yet, and its kind for TCP over IPv4.
const HEADER: usize = 10;
const NEEDS_CHECKSUM: u8 = 1;
const TCP4: u8 = 1;
/// Where TCP's checksum stands in its own header.
const TCP_CHECKSUM: u16 = 16;

/// Makes the interface `name`, which has no address yet. It lives as long as the file.
pub fn make_tun(name: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(DEVICE)?;
    let mut request = named(name)?;
    let flags = nix::libc::IFF_TUN | nix::libc::IFF_NO_PI | nix::libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: the request lives through the call.
    check(unsafe { nix::libc::ioctl(file.as_raw_fd(), nix::libc::TUNSETIFF, &mut request) })?;
    let offload = nix::libc::c_ulong::from(nix::libc::TUN_F_CSUM | nix::libc::TUN_F_TSO4);
    // SAFETY: the argument is a number.
    check(unsafe { nix::libc::ioctl(file.as_raw_fd(), nix::libc::TUNSETOFFLOAD, offload) })?;
    Ok(file)
}

/// What is left to the kernel of a TCP segment over IPv4, in whose checksum's place stands the sum of the pseudo-header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Bytes of IP's header.
    pub ip_header: u16,
    /// Bytes of both headers.
    pub headers: u16,
    /// Bytes of each segment that it is to be cut into.
    pub segment: Option<u16>,
}

/// A device in use.
pub struct Tun(AsyncFd<File>);

impl Tun {
    /// Of what [`make_tun`] gave.
    pub fn new(file: File) -> io::Result<Self> {
        // SAFETY: a File keeps its one descriptor open for as long as it lives, and AsyncFd owns it.
        let registered = unsafe { AsyncFd::register(file) };
        registered.map(Self).map_err(io::Error::from)
    }

    /// The length of the next packet, which is put into `packet`. Segments are not cut, nor their checksums made.
    pub async fn receive(&self, packet: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.0.readable().await?;
            match read(guard.get_inner(), packet) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                other => return other,
            }
        }
    }

    /// The same, if one is there.
    pub fn try_receive(&self, packet: &mut [u8]) -> Option<usize> {
        read(self.0.get_ref(), packet).ok()
    }

    /// Hands a packet to the kernel; one that it doesn't take is lost, as packets may be.
    pub fn send(&self, packet: &[u8], unfinished: Option<Unfinished>) {
        let mut header = [0; HEADER];
        if let Some(Unfinished { ip_header, headers, segment }) = unfinished {
            header[0] = NEEDS_CHECKSUM;
            header[1] = if segment.is_some() { TCP4 } else { 0 };
            let words = [headers, segment.unwrap_or(0), ip_header, TCP_CHECKSUM];
            for (to, word) in header[2..].chunks_exact_mut(2).zip(words) {
                to.copy_from_slice(&word.to_ne_bytes());
            }
        }
        let _ = self.0.get_ref().write_vectored(&[IoSlice::new(&header), IoSlice::new(packet)]);
    }
}

fn read(mut file: &File, packet: &mut [u8]) -> io::Result<usize> {
    let mut header = [0; HEADER];
    let len = file.read_vectored(&mut [IoSliceMut::new(&mut header), IoSliceMut::new(packet)])?;
    Ok(len.saturating_sub(HEADER))
}
