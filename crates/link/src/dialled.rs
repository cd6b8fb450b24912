//! Streams as the end serves them that dials for the other: what came of it is said first ([`Opened`]), then what is found there
//! goes both ways.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, copy_bidirectional_with_sizes},
    net::UdpSocket,
};
use wire::open::Opened;

use crate::{LinkError, Stream, Strict, peer::DATAGRAM, write_frame};

/// Bytes a stream copies at a time, each way: a whole frame.
const COPY: usize = wire::sync::MAX_BODY;

/// Says whether it went well, then passes bytes both ways; an end of file passes by itself. When the other end drops the stream
/// the socket is closed at once: nobody is there any more for whom something could come.
pub async fn join(
    mut stream: Stream,
    socket: Result<impl AsyncRead + AsyncWrite + Unpin, String>,
) -> Result<(), LinkError> {
    match socket {
        Ok(mut socket) => {
            let told = write_frame(&mut stream, &Opened::Ok).await;
            let mut stream = Strict::new(stream);
            match told {
                Ok(()) => drop(copy_bidirectional_with_sizes(&mut stream, &mut socket, COPY, COPY).await?),
                // The other end has dropped it already. What it had said is still said: who asks for something and does not
                // wait for the answer has asked.
                Err(_) => drop(copy(&mut stream, &mut socket).await?),
            }
            Ok(())
        }
        Err(message) => refuse(&mut stream, message).await,
    }
}

/// Says in words why there is nothing, and ends the stream.
pub async fn refuse(stream: &mut Stream, message: String) -> Result<(), LinkError> {
    write_frame(stream, &Opened::Failed { message }).await?;
    stream.shutdown().await?;
    Ok(())
}

/// One peer's datagrams, each a length and its bytes.
pub async fn datagrams(mut stream: Stream, to: SocketAddr) -> Result<(), LinkError> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let dial = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(to).await?;
        Ok::<_, std::io::Error>(socket)
    };
    let socket = match dial.await {
        Ok(socket) => socket,
        Err(error) => return refuse(&mut stream, format!("{to}: {error}")).await,
    };
    write_frame(&mut stream, &Opened::Ok).await?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let out = async {
        let mut datagram = vec![0; DATAGRAM];
        loop {
            let len = usize::from(reader.read_u16().await?);
            reader.read_exact(&mut datagram[..len]).await?;
            let _ = socket.send(&datagram[..len]).await; // lost, as datagrams may be
        }
    };
    let back = async {
        let mut datagram = vec![0; DATAGRAM + 2];
        loop {
            let Ok(len) = socket.recv(&mut datagram[2..]).await else { continue };
            datagram[..2].copy_from_slice(&(len as u16).to_be_bytes());
            writer.write_all(&datagram[..2 + len]).await?;
            writer.flush().await?;
        }
    };
    tokio::select! {
        end = out => end,
        end = back => end,
    }
}
