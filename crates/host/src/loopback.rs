//! Services at this computer's loopback, for the guest's containers, which find them as `host.docker.internal`.
//!
//! The guest names a port and no address: what listens elsewhere is not reached by this.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use link::{LinkError, Stream, dialled};
use tokio::{net::TcpStream, sync::Notify, time::timeout};
use wire::ports::Proto;

/// A service of IPv4 that has not answered after this time is no longer waited for alone: Windows takes two seconds to say that
/// nobody listens.
const PATIENCE: Duration = Duration::from_millis(100);

/// Serves one stream: a connection, or the datagrams of one peer.
///
/// # Errors
/// The link broke, or the connection did.
pub async fn serve(stream: Stream, proto: Proto, port: u16) -> Result<(), LinkError> {
    match proto {
        Proto::Tcp => {
            let dialled = dial(port).await.map_err(|error| format!("port {port} of the loopback: {error}"));
            dialled::join(stream, dialled).await
        }
        // Who answers by IPv6 alone can't be told from who is silent.
        Proto::Udp => dialled::datagrams(stream, SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await,
    }
}

/// A connection to whoever listens: at `127.0.0.1`, or at `::1` alone, as programs do that listen at "localhost".
async fn dial(port: u16) -> io::Result<TcpStream> {
    let refused = Notify::new();
    let v4 =
        async { TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.inspect_err(|_| refused.notify_one()) };
    let v6 = async {
        let _ = timeout(PATIENCE, refused.notified()).await;
        TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await
    };
    let (mut v4, mut v6) = (std::pin::pin!(v4), std::pin::pin!(v6));
    let connected = tokio::select! {
        // What IPv4 says tells more: a computer may have no IPv6.
        connected = &mut v4 => match connected {
            Ok(connected) => Ok(connected),
            Err(error) => v6.await.map_err(|_| error),
        },
        connected = &mut v6 => match connected {
            Ok(connected) => Ok(connected),
            Err(_) => v4.await,
        },
    };
    connected.inspect(|connected| drop(connected.set_nodelay(true)))
}

#[cfg(test)]
mod tests {
    use link::{Session, opened};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, UdpSocket},
    };
    use wire::open::Open;

    use super::*;
    use crate::asked;

    fn linked() -> Session {
        let (host, guest) = tokio::io::duplex(64 << 10);
        let (host, guest) = (Session::host(host), Session::guest(guest));
        tokio::spawn(async move { asked::serve(&host).await });
        guest
    }

    /// Says the word, and gives what was said back.
    async fn echo(at: &str) -> u16 {
        let listener = TcpListener::bind(at).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut said = Vec::new();
            client.read_to_end(&mut said).await.unwrap();
            client.write_all(&said).await.unwrap();
        });
        port
    }

    #[tokio::test]
    async fn a_service_of_either_family_is_found_and_a_port_that_nobody_has_is_refused() {
        let guest = linked();
        let v6 = std::net::TcpListener::bind("[::1]:0").is_ok().then_some("[::1]:0");
        for at in ["127.0.0.1:0"].into_iter().chain(v6) {
            let port = echo(at).await;
            let mut stream = guest.open(&Open::Loopback { proto: Proto::Tcp, port }).await.unwrap();
            opened(&mut stream).await.unwrap();
            stream.write_all(b"word").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut back = String::new();
            stream.read_to_string(&mut back).await.unwrap();
            assert_eq!(back, "word", "{at}");
        }
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let mut stream = guest.open(&Open::Loopback { proto: Proto::Tcp, port: free }).await.unwrap();
        let refused = opened(&mut stream).await.unwrap_err();
        assert!(matches!(&refused, LinkError::Refused(why) if why.contains(&free.to_string())), "{refused}");
    }

    #[tokio::test]
    async fn datagrams_go_there_and_come_back_whole() {
        let (guest, service) = (linked(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let port = service.local_addr().unwrap().port();
        let mut stream = guest.open(&Open::Loopback { proto: Proto::Udp, port }).await.unwrap();
        opened(&mut stream).await.unwrap();
        stream.write_all(b"\0\x04word\0\0").await.unwrap();
        let mut datagram = [0; 16];
        let (len, from) = service.recv_from(&mut datagram).await.unwrap();
        assert_eq!(&datagram[..len], b"word");
        service.send_to(b"answer", from).await.unwrap();
        let mut back = [0; 8];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"\0\x06answer");
        assert_eq!(service.recv_from(&mut datagram).await.unwrap().0, 0, "an empty one is one");
    }
}
