//! Questions about names, which the guest passes to the host: DNS messages, as they came, in streams of
//! [`Open::Names`](crate::open::Open::Names) that the guest opens, one for each.
//!
//! ```text
//! guest                                   host
//!  | Open::Names{tcp}, length, question ->  |   asked by UDP or TCP, as the asker did
//!  | <-------------------- length, answer   |   no bytes: no resolver is known here, or none can be asked
//! ```
//! A length is a big-endian `u16`, as DNS has it over TCP.

/// Longest question that is passed on.
pub const MAX_QUESTION: usize = 4096;
/// Questions of one guest at once.
pub const MAX_ASKED: usize = 256;
/// Bytes before a question's own: id, flags, counts.
const HEADER: usize = 12;
/// Longest name, in DNS' own form.
const MAX_NAME: usize = 255;

/// The name that a question is about, without its last dot, in small letters; nothing where it can't be read.
pub fn name(question: &[u8]) -> Option<String> {
    let (labels, _) = labels(question)?;
    let text: Vec<String> =
        labels.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    Some(text.join("."))
}

/// What an asker is told when there is no answer to be had (SERVFAIL); nothing for what is no question.
pub fn failure(question: &[u8]) -> Option<Vec<u8>> {
    let (_, end) = labels(question)?;
    let mut answer = question.get(..end + 4)?.to_vec(); // and its type and class
    let asked_for_more = answer[2] & 1;
    // An answer; the kind of question, and whether others might be asked, as they were; recursion is to be had; failed.
    answer[2] = 0x80 | (answer[2] & 0x78) | asked_for_more;
    answer[3] = 0x80 | 2;
    answer[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
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
    fn a_questions_name_is_read() {
        assert_eq!(name(QUESTION).as_deref(), Some("www.example"));
        assert_eq!(name(b"\0\0\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01").as_deref(), Some(""), "the root");
        assert_eq!(name(&QUESTION[..20]), None, "cut off");
        assert_eq!(name(b"\0\0\x81\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01"), None, "an answer");
        assert_eq!(name(b"\0\0\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01"), None, "points at itself");
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
            let _ = name(&bytes);
            if let Some(failed) = failure(&bytes) {
                prop_assert_eq!(&failed[..2], &bytes[..2]);
                prop_assert!(failed.len() <= bytes.len());
            }
        }
    }
}
