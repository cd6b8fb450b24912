//! Datagrams of one peer, as the end passes them on that the peer speaks to: each a big-endian `u16` length and its bytes.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{LinkError, Stream, opened};

/// A datagram's most bytes.
pub const DATAGRAM: usize = 65_535;
/// A peer of whom, and for whom, nothing has come this long is forgotten.
pub const IDLE: Duration = Duration::from_secs(60);
/// Datagrams of one peer that wait for the link; more are lost, as datagrams may be.
pub const QUEUE: usize = 64;

/// Passes a peer's datagrams on, and what comes back to `back`, until nobody hands any in, the peer is [`IDLE`] or the stream ends.
///
/// # Errors
/// The other end did not serve the stream, or the link broke.
pub async fn datagrams<F: Future<Output = ()>>(
    stream: Stream,
    mut waiting: mpsc::Receiver<Vec<u8>>,
    mut back: impl FnMut(Vec<u8>) -> F,
) -> Result<(), LinkError> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    opened(&mut reader).await?;
    let (heard, mut hearing) = watch::channel(());
    let out = async {
        loop {
            tokio::select! {
                datagram = waiting.recv() => {
                    let Some(datagram) = datagram else { return Ok(()) };
                    let mut framed = (datagram.len() as u16).to_be_bytes().to_vec();
                    framed.extend(datagram);
                    writer.write_all(&framed).await?;
                    writer.flush().await?;
                }
                // Either direction keeps the peer alive.
                quiet = timeout(IDLE, hearing.changed()) => if quiet.is_err() { return Ok(()) },
            }
        }
    };
    let back = async {
        loop {
            let mut datagram = vec![0; usize::from(reader.read_u16().await?)];
            reader.read_exact(&mut datagram).await?;
            back(datagram).await;
            heard.send_replace(());
        }
    };
    tokio::select! { end = out => end, end = back => end }
}
