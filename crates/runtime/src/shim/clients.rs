//! The shim's connections: control connections that speak frames, and attached ones that carry raw bytes.

use super::CHUNK;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// One connection.
pub(super) struct Client {
    pub id: u64,
    pub socket: OwnedFd,
    pub kind: Kind,
    /// Bytes not yet taken by the socket, from `sent` on.
    outbox: Vec<u8>,
    sent: usize,
    /// Since when an attached client has taken nothing although something waits for it.
    pub stalled_since: Option<Instant>,
    /// The socket reported an error.
    pub broken: bool,
    /// What it was attached to has ended: it goes once its outbox is empty.
    pub over: bool,
}

pub(super) enum Kind {
    Control { inbox: Vec<u8>, greeted: bool },
    Attached(Attached),
}

/// An attached client.
pub(super) struct Attached {
    pub process: u32,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// It may still send.
    pub open: bool,
    pub detach: DetachKeys,
}

impl Attached {
    /// Still a source of stdin.
    pub fn takes_input(&self) -> bool {
        self.stdin && self.open
    }
}

impl Client {
    pub fn new(id: u64, socket: OwnedFd) -> Client {
        Client {
            id,
            socket,
            kind: Kind::Control { inbox: Vec::new(), greeted: false },
            outbox: Vec::new(),
            sent: 0,
            stalled_since: None,
            broken: false,
            over: false,
        }
    }

    /// The engine that started us: its plan was its greeting.
    pub fn engine(id: u64, socket: OwnedFd) -> Client {
        Client { kind: Kind::Control { inbox: Vec::new(), greeted: true }, ..Client::new(id, socket) }
    }

    /// A control connection that has been answered: it may be sent events.
    pub fn is_greeted(&self) -> bool {
        matches!(self.kind, Kind::Control { greeted: true, .. })
    }

    /// From frames to raw bytes; returns what was sent behind the request already.
    pub fn become_attached(&mut self, process: u32, wants: [bool; 3], detach_keys: Vec<u8>) -> Vec<u8> {
        let [stdin, stdout, stderr] = wants;
        let attached =
            Attached { process, stdin, stdout, stderr, open: true, detach: DetachKeys::new(detach_keys) };
        match std::mem::replace(&mut self.kind, Kind::Attached(attached)) {
            Kind::Control { inbox, .. } => inbox,
            Kind::Attached(_) => Vec::new(),
        }
    }

    pub fn is_control(&self) -> bool {
        matches!(self.kind, Kind::Control { .. })
    }

    pub fn attached_to(&self, process: u32) -> bool {
        matches!(&self.kind, Kind::Attached(a) if a.process == process)
    }

    pub fn queued(&self) -> usize {
        self.outbox.len() - self.sent
    }

    pub fn has_output(&self) -> bool {
        self.queued() > 0 && !self.broken
    }

    /// Whether it has taken nothing for as long as `limit`.
    pub fn stalled_at(&self, now: Instant, limit: Duration) -> bool {
        self.stalled_since.is_some_and(|since| now >= since + limit)
    }

    /// Sends `bytes` now as far as the socket takes them, and keeps the rest.
    pub fn queue(&mut self, bytes: &[u8]) {
        self.outbox.extend_from_slice(bytes);
        self.flush();
    }

    /// Keeps `bytes` for the next [`Client::queue`].
    pub fn queue_later(&mut self, bytes: &[u8]) {
        self.outbox.extend_from_slice(bytes);
    }

    pub fn flush(&mut self) {
        while self.sent < self.outbox.len() {
            match rustix::io::write(&self.socket, &self.outbox[self.sent..]) {
                Ok(n) => {
                    self.sent += n;
                    self.stalled_since = None;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !self.is_control() && self.stalled_since.is_none() {
                        self.stalled_since = Some(Instant::now());
                    }
                    if self.sent > CHUNK {
                        self.outbox.drain(..self.sent);
                        self.sent = 0;
                    }
                    return;
                }
                Err(_) => {
                    self.broken = true;
                    break;
                }
            }
        }
        self.sent = 0;
        self.outbox.clear();
        if self.outbox.capacity() > CHUNK {
            self.outbox = Vec::new();
        }
    }
}

/// Watches a client's input for its detach sequence.
pub struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them have just been seen, and held back.
    seen: usize,
}

impl DetachKeys {
    /// Of these keys; without any, nothing is their sequence.
    pub fn new(keys: Vec<u8>) -> DetachKeys {
        DetachKeys { keys, seen: 0 }
    }

    /// What of `bytes` goes on to the process, and whether the sequence was completed.
    pub fn feed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (bytes.to_vec(), false);
        }
        let mut pass = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if *byte == self.keys[self.seen] {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (pass, true);
                }
                continue;
            }
            pass.extend_from_slice(&self.keys[..self.seen]);
            self.seen = 0;
            if *byte == self.keys[0] {
                self.seen = 1;
                if self.keys.len() == 1 {
                    return (pass, true);
                }
            } else {
                pass.push(*byte);
            }
        }
        (pass, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_detaches_and_a_part_of_it_passes() {
        let mut keys = DetachKeys::new(vec![16, 17]);
        assert_eq!(keys.feed(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.feed(b"c\x10\x10"), (b"\x10c\x10".to_vec(), false));
        assert_eq!(keys.feed(b"\x11rest"), (Vec::new(), true));
    }

    #[test]
    fn without_keys_everything_passes() {
        assert_eq!(DetachKeys::new(Vec::new()).feed(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }
}
