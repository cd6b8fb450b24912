//! Putting host and guest in step on a byte channel without connection semantics (virtio-serial).
//!
//! Either end may have been killed in the middle of a frame and restarted; megabytes of stale bytes may arrive. So both
//! ends, on opening, send a [`FLUSH`]: more 0xFF than any frame is long, which overruns a half-read frame of an old
//! session (which dies at once: no yamux frame begins with 0xFF). Then records are exchanged:
//!
//! ```text
//! host                              guest
//!  | FLUSH, HELLO(n) every 100 ms -> |
//!  | <------------- FLUSH, ACK(n)    |      scans for records, skipping anything else
//!  | START(n) ---------------------> |
//!  | <---------------------- GO(n)   |      from here on the guest's bytes are the session's
//!  | session's bytes                 |
//! ```
//!
//! A record is 32 bytes: magic, kind, the host's nonce, a checksum.

/// Bytes of a record.
pub const RECORD: usize = 32;
/// Most bytes of a stream in one frame: where the guest is translated, a frame costs more than its bytes do.
pub const MAX_BODY: usize = 64 * 1024;
/// Longest frame that may be sent in a session: what a flush must overrun.
pub const MAX_FRAME: usize = MAX_BODY + 64;
/// Bytes of 0xFF sent on opening.
pub const FLUSH: usize = MAX_FRAME + 64;
/// The byte a flush consists of.
pub const FLUSH_BYTE: u8 = 0xFF;

/// No yamux frame begins with its first byte (yamux: version 0).
const MAGIC: [u8; 8] = [0xC0, b'R', b'C', b'L', b'L', b'N', b'K', 0x01];

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Host: is anybody there?
    Hello,
    /// Guest: yes.
    Ack,
    /// Host: begin.
    Start,
    /// Guest: begun; the session's bytes follow.
    Go,
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// What it says.
    pub kind: Kind,
    /// Chosen by the host for one attempt.
    pub nonce: u64,
}

impl Record {
    /// Its bytes.
    pub fn encode(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = match self.kind {
            Kind::Hello => 1,
            Kind::Ack => 2,
            Kind::Start => 3,
            Kind::Go => 4,
        };
        bytes[16..24].copy_from_slice(&self.nonce.to_be_bytes());
        let sum = checksum(&bytes[..24]);
        bytes[24..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; RECORD]) -> Option<Self> {
        let kind = match bytes[8] {
            1 => Kind::Hello,
            2 => Kind::Ack,
            3 => Kind::Start,
            4 => Kind::Go,
            _ => return None,
        };
        let record = Self { kind, nonce: u64::from_be_bytes(bytes[16..24].try_into().ok()?) };
        (record.encode() == *bytes).then_some(record)
    }
}

/// FNV-1a, 64 bits: guards against chance, not against malice (both ends are ours).
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, b| (sum ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// Finds records in bytes as they arrive, skipping everything else.
#[derive(Debug, Default)]
pub struct Scanner {
    window: Vec<u8>,
}

impl Scanner {
    /// Bytes that the next record lacks at least: reading no more than that never reads past it.
    pub fn lacking(&self) -> usize {
        RECORD - self.window.len()
    }

    /// Takes in `bytes` up to and including the next record; gives it and how many bytes were taken.
    pub fn scan(&mut self, bytes: &[u8]) -> (Option<Record>, usize) {
        for (at, byte) in bytes.iter().enumerate() {
            if self.window.len() < MAGIC.len() && *byte != MAGIC[self.window.len()] {
                // The magic's first byte occurs in it only once, so nothing that was matched can begin another.
                self.window.clear();
                if *byte != MAGIC[0] {
                    continue;
                }
            }
            self.window.push(*byte);
            if let Ok(record) = <&[u8; RECORD]>::try_from(self.window.as_slice()) {
                let found = Record::decode(record);
                if found.is_none() {
                    // A damaged record may hold the beginning of a good one.
                    let rest = self.window.split_off(1);
                    self.window.clear();
                    let (_, _) = self.scan(&rest);
                    continue;
                }
                self.window.clear();
                return (found, at + 1);
            }
        }
        (None, bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8], step: usize) -> Vec<Record> {
        let (mut scanner, mut found) = (Scanner::default(), Vec::new());
        for mut part in bytes.chunks(step) {
            while !part.is_empty() {
                let (record, taken) = scanner.scan(part);
                found.extend(record);
                part = &part[taken..];
            }
        }
        found
    }

    /// What the scanner must find, by trying every place: slow, and plain enough to be right.
    fn every_place(mut bytes: &[u8]) -> Vec<Record> {
        let mut found = Vec::new();
        while let Some((first, _)) = bytes.split_first_chunk::<RECORD>() {
            let record = Record::decode(first);
            bytes = &bytes[if record.is_some() { RECORD } else { 1 }..];
            found.extend(record);
        }
        found
    }

    #[test]
    fn a_flush_that_completes_a_record_cut_short_makes_it_a_record() {
        // One in 256 records ends with the flush's byte.
        let whole = (0..).map(|nonce| Record { kind: Kind::Ack, nonce });
        let record =
            whole.into_iter().find(|record| record.encode()[RECORD - 1] == FLUSH_BYTE).expect("one in 256");
        let mut bytes = record.encode()[..RECORD - 1].to_vec();
        bytes.push(FLUSH_BYTE);
        bytes.extend(record.encode());
        assert_eq!(all(&bytes, 1), vec![record, record]);
    }

    proptest! {
        #[test]
        fn a_record_is_found_among_anything(
            before in proptest::collection::vec(any::<u8>(), 0..200),
            flush in 0usize..100,
            cut in 0usize..RECORD,
            nonce: u64,
            step in 1usize..70,
        ) {
            let record = Record { kind: Kind::Ack, nonce };
            let mut bytes = before;
            bytes.extend(&record.encode()[..cut]); // a record cut short
            bytes.extend(std::iter::repeat_n(FLUSH_BYTE, flush));
            bytes.extend(record.encode());
            let found = all(&bytes, step);
            prop_assert_eq!(found.last(), Some(&record));
            prop_assert_eq!(found, every_place(&bytes));
        }

        #[test]
        fn a_damaged_record_is_none(at in 0usize..RECORD, bit in 0u8..8, nonce: u64) {
            let mut bytes = Record { kind: Kind::Go, nonce }.encode();
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(all(&bytes, 5), vec![]);
        }
    }
}
