//! The link over a channel that behaves like virtio-serial: no connections, stale bytes, ends that are killed.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use link::{Session, Strict, header, in_step, opened, write_frame};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::{Mutex, mpsc},
    time::timeout,
};
use wire::open::{Open, Opened};

/// Bytes that fit in the channel each way, as in a virtio-serial queue.
const CHANNEL: usize = 64 * 1024;
/// Longest a step of these tests may take.
const LIMIT: Duration = Duration::from_secs(20);

async fn pair() -> (Session, Session) {
    let (mut a, mut b) = duplex(CHANNEL);
    let (host, guest) = tokio::join!(in_step::host(&mut a, LIMIT), in_step::guest(&mut b));
    host.unwrap();
    guest.unwrap();
    (Session::host(a), Session::guest(b))
}

/// Serves every stream with what comes in, until the session ends.
async fn echo(session: Session) {
    while let Ok(mut stream) = session.accept().await {
        tokio::spawn(async move {
            header(&mut stream).await?;
            write_frame(&mut stream, &Opened::Ok).await?;
            let (mut r, mut w) = tokio::io::split(stream);
            tokio::io::copy(&mut r, &mut w).await?;
            w.shutdown().await?;
            Ok::<_, link::LinkError>(())
        });
    }
}

async fn ask(session: &Session, text: &[u8]) -> Result<Vec<u8>, link::LinkError> {
    let mut stream = session.open(&Open::Docker).await?;
    stream.write_all(text).await?;
    // Half-close: the answer still comes.
    stream.shutdown().await?;
    opened(&mut stream).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn streams_carry_bytes_and_half_close() {
    let (host, guest) = pair().await;
    tokio::spawn(echo(guest));
    assert_eq!(ask(&host, b"hello").await.unwrap(), b"hello");
    let big: Vec<u8> = (0..3_000_000u32).map(|i| i as u8).collect();
    let mut stream = host.open(&Open::Docker).await.unwrap();
    let (mut r, mut w) = tokio::io::split(&mut stream);
    let mut answer = vec![0; big.len()];
    let (wrote, read) = tokio::join!(w.write_all(&big), async {
        opened(&mut r).await.unwrap();
        r.read_exact(&mut answer).await
    });
    wrote.unwrap();
    read.unwrap();
    assert!(answer == big);
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_told_from_one_whose_end_was_said() {
    for dropped in [false, true] {
        let (host, guest) = pair().await;
        let mut asking = host.open(&Open::Docker).await.unwrap();
        asking.write_all(b"word").await.unwrap();
        let mut served = guest.accept().await.unwrap();
        header(&mut served).await.unwrap();
        let mut served = Strict::new(served);
        let kept = if dropped {
            drop(asking);
            None
        } else {
            asking.shutdown().await.unwrap();
            Some(asking)
        };
        let mut said = Vec::new();
        let end = timeout(LIMIT, served.read_to_end(&mut said)).await.unwrap();
        assert_eq!(said, b"word");
        match kept {
            Some(mut asking) => {
                end.unwrap();
                served.write_all(b"answer").await.unwrap();
                served.shutdown().await.unwrap();
                let mut answer = Vec::new();
                asking.read_to_end(&mut answer).await.unwrap();
                assert_eq!(answer, b"answer");
            }
            None => assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

#[tokio::test]
async fn a_refusal_comes_in_words() {
    let (host, guest) = pair().await;
    let to: SocketAddr = "172.17.0.2:80".parse().unwrap();
    let asked = Open::Tcp { to, from: None };
    let mut stream = host.open(&asked).await.unwrap();
    let mut served = guest.accept().await.unwrap();
    assert_eq!(header(&mut served).await.unwrap(), asked);
    write_frame(&mut served, &Opened::Failed { message: "connection refused".into() }).await.unwrap();
    assert_eq!(opened(&mut stream).await.unwrap_err().to_string(), "connection refused");
}

#[tokio::test]
async fn a_stalled_stream_blocks_no_other() {
    let (host, guest) = pair().await;
    let mut stalled = host.open(&Open::Docker).await.unwrap();
    let never_read = guest.accept().await.unwrap();
    // Fill its window: the writer must stop, not the session.
    let filled = timeout(Duration::from_millis(500), async {
        loop {
            stalled.write_all(&[7; 65536]).await.unwrap();
        }
    });
    filled.await.unwrap_err();
    tokio::spawn(echo(guest));
    for _ in 0..50 {
        assert_eq!(timeout(LIMIT, ask(&host, b"through")).await.unwrap().unwrap(), b"through");
    }
    drop(never_read);
}

#[tokio::test]
async fn many_bytes_of_some_hold_up_no_word_of_another() {
    let (host, guest) = pair().await;
    let (host, guest) = (Arc::new(host), Arc::new(guest));
    // Both ways, as fast as the channel goes, while words come and go.
    let mut bulk = tokio::task::JoinSet::new();
    for (from, to) in [(host.clone(), guest.clone()), (guest.clone(), host.clone())] {
        let mut sends = from.open(&Open::Docker).await.unwrap();
        let mut takes = to.accept().await.unwrap();
        bulk.spawn(async move { while sends.write_all(&[7; 65536]).await.is_ok() {} });
        bulk.spawn(async move {
            let mut chunk = vec![0; 65536];
            while takes.read(&mut chunk).await.is_ok_and(|n| n > 0) {}
        });
    }
    let mut words = host.open(&Open::Docker).await.unwrap();
    let mut answers = guest.accept().await.unwrap();
    header(&mut answers).await.unwrap();
    bulk.spawn(async move {
        while let Ok(word) = answers.read_u32().await {
            answers.write_u32(word).await.unwrap();
        }
    });
    for word in 0..200 {
        let began = std::time::Instant::now();
        words.write_u32(word).await.unwrap();
        assert_eq!(timeout(LIMIT, words.read_u32()).await.unwrap().unwrap(), word);
        // What a word waits for is bounded by windows and buffers, not by how much the others have to say.
        assert!(began.elapsed() < Duration::from_secs(2), "word {word} took {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_thousand_streams_at_once() {
    let (host, guest) = pair().await;
    tokio::spawn(echo(guest));
    let all = (0..1000u32).map(|i| {
        let host = &host;
        async move { ask(host, &i.to_be_bytes()).await.unwrap() == i.to_be_bytes() }
    });
    let good = futures_util::future::join_all(all).await.into_iter().filter(|good| *good).count();
    assert_eq!(good, 1000);
}

/// A channel through which ends come and go, as a virtio-serial port between QEMU and the guest: bytes written while
/// nobody reads wait (up to its size) for whoever comes next.
struct Port {
    to_guest: Way,
    to_host: Way,
}

/// Each half is held by one end at a time: a hypervisor takes a connection when the one before is closed, and nothing
/// comes from that one any more.
type Way = (Arc<Mutex<mpsc::Sender<Vec<u8>>>>, Arc<Mutex<mpsc::Receiver<Vec<u8>>>>);

impl Port {
    fn new() -> Self {
        let queue = || {
            let (s, r) = mpsc::channel(16);
            (Arc::new(Mutex::new(s)), Arc::new(Mutex::new(r)))
        };
        Self { to_guest: queue(), to_host: queue() }
    }

    /// An end that lives as long as the returned guard: killed, it leaves what it wrote and what it had not read.
    fn attach(&self, host: bool) -> (DuplexStream, tokio::task::JoinSet<()>) {
        let (out, back) =
            if host { (&self.to_guest.0, &self.to_host.1) } else { (&self.to_host.0, &self.to_guest.1) };
        let (out, back) = (out.clone(), back.clone());
        let (end, mine) = duplex(8192);
        let (mut r, mut w) = tokio::io::split(mine);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let out = out.lock().await;
            let mut chunk = vec![0; 4096];
            while let Ok(n @ 1..) = r.read(&mut chunk).await {
                if out.send(chunk[..n].to_vec()).await.is_err() {
                    return;
                }
            }
        });
        tasks.spawn(async move {
            let mut back = back.lock().await;
            while let Some(bytes) = back.recv().await {
                if w.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        (end, tasks)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_end_is_killed_under_load_and_comes_back() {
    let port = Arc::new(Port::new());
    let seed: u64 = std::env::var("LINK_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0x5eed);
    println!("LINK_SEED={seed}");
    let mut random = seed;
    let mut next = move || {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        random >> 33
    };
    let start_guest = |port: Arc<Port>| {
        tokio::spawn(async move {
            loop {
                let (mut end, _tasks) = port.attach(false);
                if in_step::guest(&mut end).await.is_ok() {
                    echo(Session::guest(end)).await;
                }
            }
        })
    };
    let mut guest = start_guest(port.clone());
    for round in 0..20 {
        let (session, tasks) = timeout(LIMIT, async {
            loop {
                let (mut end, tasks) = port.attach(true);
                if in_step::host(&mut end, LIMIT).await.is_ok() {
                    return (Session::host(end), tasks);
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("round {round}: the ends never came into step"));
        let session = Arc::new(session);
        assert_eq!(
            timeout(LIMIT, ask(&session, b"alive")).await.unwrap().unwrap(),
            b"alive",
            "round {round}"
        );
        // Load in both directions, then a kill in the midst of it.
        let load = tokio::spawn({
            let session = session.clone();
            async move { while ask(&session, &[9; 100_000]).await.is_ok() {} }
        });
        for _ in 0..next() % 200 {
            tokio::task::yield_now().await;
        }
        if next() % 2 == 0 {
            guest.abort();
            let _ = (&mut guest).await;
            guest = start_guest(port.clone());
        }
        load.abort();
        let _ = load.await;
        drop(session);
        drop(tasks);
    }
    guest.abort();
}
