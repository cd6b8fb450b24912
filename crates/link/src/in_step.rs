//! Both ends in step on a channel without connection semantics: the dialogue of [`wire::sync`].
//!
//! After [`host`] and [`guest`] return, the next byte each end reads is the first of the new session, whatever an
//! earlier session left in the channel's buffers.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use wire::sync::{FLUSH, FLUSH_BYTE, Kind, Record, Scanner};

use crate::LinkError;

/// Pause between two HELLOs of the host.
const HELLO_PAUSE: Duration = Duration::from_millis(100);
/// Time from the guest's ACK to its GO: after it the connection is taken for one way only and made anew.
const GO_LIMIT: Duration = Duration::from_millis(500);
/// Bytes read at a time, but where a GO is waited for: what follows that belongs to the session.
const CHUNK: usize = 4096;

/// The host's part: returns when the guest has said GO, or [`LinkError::NoAnswer`] after `limit`.
///
/// A connection on which the guest has answered but does not begin is useless (seen when an earlier host was killed
/// under load): the caller connects again.
pub async fn host<C>(channel: &mut C, limit: Duration) -> Result<(), LinkError>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = Instant::now() + limit;
    let nonce: u64 = rand::random();
    let mut scanner = Scanner::default();
    let (mut reader, mut writer) = tokio::io::split(channel);
    let mut reading = std::pin::pin!(async {
        loop {
            let record = next_record(&mut reader, &mut scanner).await?;
            if record.nonce == nonce && record.kind == Kind::Ack {
                return Ok::<_, LinkError>(reader);
            }
        }
    });
    // Writing must not stop reading: stale bytes may have to be drained before the guest reads ours.
    let writing = async {
        writer.write_all(&[FLUSH_BYTE; FLUSH]).await?;
        loop {
            writer.write_all(&Record { kind: Kind::Hello, nonce }.encode()).await?;
            writer.flush().await?;
            sleep_until(Instant::now() + HELLO_PAUSE).await;
        }
        #[allow(unreachable_code)]
        Ok::<std::convert::Infallible, LinkError>(unreachable!())
    };
    // The writer may be cancelled in the middle of a HELLO: START is preceded by its own flush, so that the guest's
    // scanner sees it whole.
    let acknowledged = async {
        tokio::select! {
            done = &mut reading => done,
            failed = writing => failed.map(|never| match never {}),
        }
    };
    let mut reader = timeout_at(deadline, acknowledged).await.map_err(|_| LinkError::NoAnswer)??;
    let go = async {
        let mut start = vec![FLUSH_BYTE; wire::sync::RECORD];
        start.extend(Record { kind: Kind::Start, nonce }.encode());
        writer.write_all(&start).await?;
        writer.flush().await?;
        let mut scanner = Scanner::default();
        loop {
            // Byte by byte near the end: nothing after GO may be taken. ACKs of other HELLOs may come first.
            let record = next_record_exactly(&mut reader, &mut scanner).await?;
            if record.nonce == nonce && record.kind == Kind::Go {
                return Ok::<_, LinkError>(());
            }
        }
    };
    timeout(GO_LIMIT, go).await.map_err(|_| LinkError::NoAnswer)?
}

/// The guest's part: waits, without limit, for a host that begins.
///
/// Many bytes are read at a time: a flush is long, and a host sends nothing after its START until it has its GO. What
/// another host sent behind it ends the session, which begins in the midst of that one's flush.
pub async fn guest<C>(channel: &mut C) -> Result<(), LinkError>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let mut scanner = Scanner::default();
    let mut chunk = [0; CHUNK];
    let mut flushed = false;
    let mut acknowledged = None;
    loop {
        let n = read_some(channel, &mut chunk).await?;
        let mut bytes = &chunk[..n];
        while !bytes.is_empty() {
            let (record, taken) = scanner.scan(bytes);
            bytes = &bytes[taken..];
            match record {
                Some(Record { kind: Kind::Hello, nonce }) if acknowledged != Some(nonce) => {
                    if !flushed {
                        // Now somebody reads: an old session at the host dies of it.
                        channel.write_all(&[FLUSH_BYTE; FLUSH]).await?;
                        flushed = true;
                    }
                    channel.write_all(&Record { kind: Kind::Ack, nonce }.encode()).await?;
                    channel.flush().await?;
                    acknowledged = Some(nonce);
                }
                Some(Record { kind: Kind::Start, nonce }) if acknowledged == Some(nonce) => {
                    channel.write_all(&Record { kind: Kind::Go, nonce }.encode()).await?;
                    channel.flush().await?;
                    return Ok(());
                }
                Some(_) | None => {}
            }
        }
    }
}

/// The next record, found fast: may take bytes after it, so only where none matter.
async fn next_record(
    from: &mut (impl AsyncRead + Unpin),
    scanner: &mut Scanner,
) -> Result<Record, LinkError> {
    let mut chunk = [0; CHUNK];
    loop {
        let n = read_some(from, &mut chunk).await?;
        let mut bytes = &chunk[..n];
        while !bytes.is_empty() {
            let (record, taken) = scanner.scan(bytes);
            if let Some(record) = record {
                return Ok(record);
            }
            bytes = &bytes[taken..];
        }
    }
}

/// The next record, and not a byte more: never asks for more bytes than a record still lacks.
async fn next_record_exactly(
    from: &mut (impl AsyncRead + Unpin),
    scanner: &mut Scanner,
) -> Result<Record, LinkError> {
    let mut chunk = [0; wire::sync::RECORD];
    loop {
        let lacking = scanner.lacking();
        let n = read_some(from, &mut chunk[..lacking]).await?;
        if let (Some(record), _) = scanner.scan(&chunk[..n]) {
            return Ok(record);
        }
    }
}

async fn read_some(from: &mut (impl AsyncRead + Unpin), chunk: &mut [u8]) -> Result<usize, LinkError> {
    match from.read(chunk).await? {
        0 => Err(LinkError::Closed),
        n => Ok(n),
    }
}
