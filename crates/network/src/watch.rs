//! Notices that somebody else removed our table, and has it written again.

use std::sync::{Arc, Weak};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};
use crate::firewall::Firewall;
use crate::sys;

/// Multicast group of changes to nftables (`NFNLGRP_NFTABLES`), as a bit of a netlink address.
const NFTABLES_GROUP: u32 = 1 << 6;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE`.
const TABLE_REMOVED: u16 = 10 << 8 | 2;
/// Bytes of a netlink header, and of the netfilter header after it.
const HEADERS: usize = 16 + 4;
/// Receive buffer of one datagram, in bytes.
const RECEIVE_BYTES: usize = 64 * 1024;

/// Watches in a task of its own, as long as the firewall lives.
pub(crate) fn start(firewall: &Arc<Firewall>) -> Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(|e| Error::io("open netlink", &e))?;
    socket.bind(&SocketAddr::new(0, NFTABLES_GROUP)).map_err(|e| Error::io("watch nftables", &e))?;
    socket.set_non_blocking(true).map_err(|e| Error::io("watch nftables", &e))?;
    let socket = sys::watchable(socket)?;
    let firewall = Arc::downgrade(firewall);
    tokio::spawn(async move {
        if let Err(e) = watch(socket, firewall).await {
            tracing::warn!("rules that somebody else removes are not restored any more: {e}");
        }
    });
    Ok(())
}

async fn watch(socket: AsyncFd<Socket>, firewall: Weak<Firewall>) -> std::io::Result<()> {
    loop {
        let mut ready = socket.readable().await?;
        let mut removed = false;
        loop {
            let mut buf = Vec::with_capacity(RECEIVE_BYTES);
            match socket.get_ref().recv(&mut buf, 0) {
                Ok(_) => removed |= says_removed(&buf),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                // More happened than the socket holds: it may have been ours.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => removed = true,
                Err(e) => return Err(e),
            }
        }
        ready.clear_ready();
        if !removed {
            continue;
        }
        let Some(firewall) = firewall.upgrade() else { return Ok(()) };
        tracing::info!("the firewall table was removed by somebody else: written again");
        if let Err(e) = firewall.rewrite().await {
            tracing::error!("firewall rules are not restored: {e}");
        }
    }
}

/// Whether a datagram says that our table is gone.
fn says_removed(mut datagram: &[u8]) -> bool {
    while datagram.len() >= HEADERS {
        let length = u32::from_ne_bytes([datagram[0], datagram[1], datagram[2], datagram[3]]) as usize;
        let kind = u16::from_ne_bytes([datagram[4], datagram[5]]);
        let Some(message) = datagram.get(..length).filter(|m| m.len() >= HEADERS) else { return false };
        if kind == TABLE_REMOVED && message[HEADERS..].windows(8).any(|w| w == b"coracle\0") {
            return true;
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, table: &[u8]) -> Vec<u8> {
        let mut m = Vec::new();
        let length = HEADERS + 4 + table.len();
        m.extend((length as u32).to_ne_bytes());
        m.extend(kind.to_ne_bytes());
        m.extend([0; 10 + 4]);
        m.extend(((4 + table.len()) as u16).to_ne_bytes());
        m.extend(1u16.to_ne_bytes());
        m.extend(table);
        m.resize(length.next_multiple_of(4), 0);
        m
    }

    #[test]
    fn only_our_tables_removal_counts() {
        let added = message(10 << 8, b"coracle\0");
        let other = message(TABLE_REMOVED, b"filter\0");
        assert!(!says_removed(&[added.clone(), other.clone()].concat()));
        let ours = message(TABLE_REMOVED, b"coracle\0");
        assert!(says_removed(&[added, other, ours.clone()].concat()));
        assert!(!says_removed(&ours[..ours.len() - 4]));
        assert!(!says_removed(&[0; 64]), "a message without length ends the reading");
    }
}
