//! Frames of [`wire::frame`] over async streams.

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use wire::frame::{Decoder, FrameError, MAX, encode};

use crate::LinkError;

/// Bytes read at a time.
const CHUNK: usize = 16 * 1024;

/// Reads frames; cancel-safe: a frame that has come in part is kept.
#[derive(Debug)]
pub struct Frames<R> {
    from: R,
    decoder: Decoder,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// Frames of a stream.
    pub fn new(from: R) -> Self {
        Self { from, decoder: Decoder::default() }
    }

    /// What follows the last frame taken: bytes that came with it, then the stream's own.
    pub fn into_rest(self) -> impl AsyncRead + Unpin {
        AsyncReadExt::chain(std::io::Cursor::new(self.decoder.into_rest()), self.from)
    }

    /// The next frame; `None` at the end of the stream.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LinkError> {
        let mut chunk = [0; CHUNK];
        loop {
            if let Some(value) = self.decoder.take()? {
                return Ok(Some(value));
            }
            match self.from.read(&mut chunk).await? {
                0 if self.decoder.is_empty() => return Ok(None),
                0 => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
                n => self.decoder.push(&chunk[..n]),
            }
        }
    }
}

/// Writes one frame and flushes it.
pub async fn write_frame<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> Result<(), LinkError> {
    to.write_all(&encode(value)?).await?;
    to.flush().await?;
    Ok(())
}

/// Reads exactly one frame and not a byte more: for headers that other bytes follow.
pub async fn read_frame<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> Result<T, LinkError> {
    let len = from.read_u32().await? as usize;
    if len > MAX {
        return Err(FrameError::TooLong(len).into());
    }
    let mut json = vec![0; len];
    from.read_exact(&mut json).await?;
    Ok(serde_json_from(&json)?)
}

fn serde_json_from<T: DeserializeOwned>(json: &[u8]) -> Result<T, FrameError> {
    let mut decoder = Decoder::default();
    decoder.push(&(json.len() as u32).to_be_bytes());
    decoder.push(json);
    // A whole frame was pushed, so one comes out.
    decoder.take()?.ok_or(FrameError::TooLong(json.len()))
}
