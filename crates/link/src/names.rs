//! DNS messages as both ends pass them on: over streams ([`wire::names`]), and asked of a resolver.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

/// Longest answer.
pub const MAX_ANSWER: usize = u16::MAX as usize;

/// Asks one resolver, by UDP or TCP. It waits for as long as nobody ends it.
///
/// # Errors
/// What the network answers.
pub async fn ask(server: SocketAddr, question: &[u8], tcp: bool) -> io::Result<Vec<u8>> {
    if tcp {
        let mut stream = TcpStream::connect(server).await?;
        write_message(&mut stream, question).await?;
        return read_message(&mut stream, MAX_ANSWER).await;
    }
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A port of its own for each question: whoever wants to answer in a resolver's place must guess it.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; MAX_ANSWER];
    loop {
        let len = socket.recv(&mut answer).await?;
        // Only the answer to this question counts.
        if len >= 2 && answer[..2] == question[..2] {
            answer.truncate(len);
            return Ok(answer);
        }
    }
}

/// Reads a message of a stream, of `most` bytes at most.
///
/// # Errors
/// The stream's; `InvalidData` for a longer one.
pub async fn read_message(from: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Vec<u8>> {
    let len = usize::from(from.read_u16().await?);
    if len > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; len];
    from.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message to a stream and flushes it.
///
/// # Errors
/// The stream's; a message of more than [`MAX_ANSWER`] bytes.
pub async fn write_message(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(io::Error::other)?;
    to.write_all(&[&len.to_be_bytes()[..], message].concat()).await?;
    to.flush().await
}
