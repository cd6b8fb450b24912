//! Frames: a length (`u32`, big-endian) and that many bytes of JSON, at most [`MAX`].
//!
//! Pure: [`encode`] makes one, [`Decoder`] finds them in bytes as they arrive.

use serde::{Serialize, de::DeserializeOwned};

/// Most bytes of JSON in one frame (1 MiB).
pub const MAX: usize = 1 << 20;
/// Bytes of a frame's length.
const PREFIX: usize = 4;

/// Why a frame can't be made or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// More than [`MAX`] bytes.
    #[error("a frame of {0} bytes, {MAX} are the most")]
    TooLong(usize),
    /// Not JSON, or not of the expected form.
    #[error("a frame that is not understood: {0}")]
    Json(#[from] serde_json::Error),
}

/// One frame holding `value`.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let json = serde_json::to_vec(value)?;
    if json.len() > MAX {
        return Err(FrameError::TooLong(json.len()));
    }
    let mut frame = Vec::with_capacity(PREFIX + json.len());
    frame.extend_from_slice(&(json.len() as u32).to_be_bytes());
    frame.extend_from_slice(&json);
    Ok(frame)
}

/// Finds frames in bytes as they arrive. After an error the stream is lost: drop it.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Takes in more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if it has arrived. Call until it gives `None`.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(prefix) = self.bytes.first_chunk::<PREFIX>() else { return Ok(None) };
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > MAX {
            return Err(FrameError::TooLong(len));
        }
        let Some(json) = self.bytes.get(PREFIX..PREFIX + len) else { return Ok(None) };
        let value = serde_json::from_slice(json)?;
        self.bytes.drain(..PREFIX + len);
        Ok(Some(value))
    }

    /// True when no part of a frame is waiting for its rest.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes after the last frame taken: what follows when a stream turns to something else.
    pub fn into_rest(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(texts in proptest::collection::vec(".{0,40}", 0..8), step in 1usize..17) {
            let bytes: Vec<u8> = texts.iter().flat_map(|t| encode(t).unwrap()).collect();
            let (mut decoder, mut got) = (Decoder::default(), Vec::new());
            for part in bytes.chunks(step) {
                decoder.push(part);
                while let Some(text) = decoder.take::<String>().unwrap() {
                    got.push(text);
                }
            }
            prop_assert_eq!(got, texts);
            prop_assert!(decoder.is_empty());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.take::<serde_json::Value>() {}
        }
    }

    #[test]
    fn an_oversized_length_is_refused_before_its_bytes_arrive() {
        let mut decoder = Decoder::default();
        decoder.push(&(MAX as u32 + 1).to_be_bytes());
        assert!(matches!(decoder.take::<String>(), Err(FrameError::TooLong(_))));
    }
}
