//! Questions about names, which the guest passes to the host: DNS messages, as they came, in streams of
//! [`Open::Names`](crate::open::Open::Names) that the guest opens, one for each.
//!
//! ```text
//! guest                                   host
//!  | Open::Names{tcp}, length, question ->  |   asked by UDP or TCP, as the asker did
//!  | <-------------------- length, answer   |   no bytes: no resolver is known here, or none can be asked
//! ```
//! A length is a big-endian `u16`, as DNS has it over TCP.

use std::net::IpAddr;

/// Longest question that is passed on.
pub const MAX_QUESTION: usize = 4096;
/// Most addresses of one answer that is written here: with the longest name it fits a datagram of 512 bytes.
pub const MAX_ADDRESSES: usize = 8;
/// Seconds for which such an answer holds.
const LIFETIME: u32 = 5;
/// The host's own names, as Docker Desktop has them: whoever resolves for containers answers them itself.
pub const HOST_NAMES: [&str; 2] = ["host.docker.internal", "gateway.docker.internal"];
/// Questions of one guest at once.
pub const MAX_ASKED: usize = 256;
/// Bytes before a question's own: id, flags, counts.
const HEADER: usize = 12;
/// Longest name, in DNS' own form.
const MAX_NAME: usize = 255;

/// What a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The name, without its last dot, in small letters.
    pub name: String,
    /// What is asked of it.
    pub kind: Kind,
}

/// What is asked of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its addresses of IPv4.
    V4,
    /// Its addresses of IPv6.
    V6,
    /// Anything else.
    Other,
}

impl Kind {
    /// Whether an address is of this kind.
    pub fn is(self, address: &IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
            Self::Other => false,
        }
    }
}

/// What a question is about; nothing where it can't be read.
pub fn about(question: &[u8]) -> Option<About> {
    let (labels, end) = labels(question)?;
    let text: Vec<String> =
        labels.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    let kind = match question.get(end..end + 4)? {
        [0, 1, 0, 1] => Kind::V4,
        [0, 28, 0, 1] => Kind::V6,
        _ => Kind::Other,
    };
    Some(About { name: text.join("."), kind })
}

/// What an asker is told when there is no answer to be had (SERVFAIL); nothing for what is no question.
pub fn failure(question: &[u8]) -> Option<Vec<u8>> {
    const SERVFAIL: u8 = 2;
    answer(question, SERVFAIL, &[])
}

/// The answer with these addresses, of the kind that is asked for, of which the first [`MAX_ADDRESSES`] are told.
pub fn known(question: &[u8], addresses: &[IpAddr]) -> Option<Vec<u8>> {
    answer(question, 0, &addresses[..addresses.len().min(MAX_ADDRESSES)])
}

fn answer(question: &[u8], code: u8, addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let (_, end) = labels(question)?;
    let mut answer = question.get(..end + 4)?.to_vec(); // and its type and class
    let asked_for_more = answer[2] & 1;
    // An answer; the kind of question, and whether others might be asked, as they were; recursion is to be had.
    answer[2] = 0x80 | (answer[2] & 0x78) | asked_for_more;
    answer[3] = 0x80 | code;
    answer[4..HEADER].copy_from_slice(&[0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
    for address in addresses {
        let bytes: &[u8] = match address {
            IpAddr::V4(ip) => &ip.octets(),
            IpAddr::V6(ip) => &ip.octets(),
        };
        // The question's own name, type and class.
        answer.extend([0xc0, HEADER as u8]);
        answer.extend_from_within(end..end + 4);
        answer.extend(LIFETIME.to_be_bytes());
        answer.extend([0, bytes.len() as u8]);
        answer.extend(bytes);
    }
    Some(answer)
}

/// The labels of the first question's name, and where it ends.
fn labels(question: &[u8]) -> Option<(Vec<&[u8]>, usize)> {
    let is_answer = question.get(2)? & 0x80 != 0;
    if is_answer || u16::from_be_bytes([*question.get(4)?, *question.get(5)?]) == 0 {
        return None;
    }
    let (mut labels, mut at) = (Vec::new(), HEADER);
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        match length {
            0 => return Some((labels, at)),
            1..=63 if at + length - HEADER <= MAX_NAME => labels.push(question.get(at..at + length)?),
            _ => return None, // a pointer has no place in a first name
        }
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUESTION: &[u8] =
        b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\x01\x03Www\x07example\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";

    #[test]
    fn what_a_question_is_about_is_read() {
        let of = |name: &str, kind| Some(About { name: name.into(), kind });
        assert_eq!(about(QUESTION), of("www.example", Kind::V4));
        let root = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01";
        assert_eq!(about(root), of("", Kind::Other));
        assert_eq!(about(b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x1c\0\x01"), of("a", Kind::V6));
        assert_eq!(about(&QUESTION[..20]), None, "cut off");
        assert_eq!(about(&root[..16]), None, "cut off in its class");
        assert_eq!(about(b"\0\0\x81\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01"), None, "an answer");
        assert_eq!(about(b"\0\0\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01"), None, "points at itself");
    }

    #[test]
    fn addresses_that_are_known_follow_the_question() {
        let told = known(QUESTION, &[[10, 0, 0, 7].into()]).unwrap();
        assert_eq!(
            told,
            b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x03Www\x07example\0\0\x01\0\x01\
              \xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x0a\0\0\x07"
        );
        assert_eq!(
            known(QUESTION, &[]).unwrap()[2..8],
            *b"\x81\x80\0\x01\0\0",
            "the name is there, no address is"
        );
        let many = vec![IpAddr::from([0; 16]); 20];
        assert!(known(QUESTION, &many).unwrap().len() < 512);
    }

    #[test]
    fn a_failure_repeats_the_question_and_nothing_else() {
        let failed = failure(QUESTION).unwrap();
        assert_eq!(failed, b"\x12\x34\x81\x82\0\x01\0\0\0\0\0\0\x03Www\x07example\0\0\x01\0\x01");
        assert_eq!(failure(b"no question"), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = about(&bytes);
            if let Some(failed) = failure(&bytes) {
                prop_assert_eq!(&failed[..2], &bytes[..2]);
                prop_assert!(failed.len() <= bytes.len());
            }
        }
    }
}
