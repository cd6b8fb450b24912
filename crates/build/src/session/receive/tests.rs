//! Senders that keep to the protocol, and such that do not: over a real connection, with a session's own code.

use std::sync::Arc;

use proptest::prelude::*;
use tokio::sync::mpsc as queue;

use super::*;
use crate::rpc::{Answer, Request, Service, serve};
use crate::session::{Greeting, Sessions};

/// A client that sends these packets, and the contents it is asked for.
struct Client {
    packets: Vec<Packet>,
    contents: Vec<(u32, Vec<u8>)>,
}

impl Service for Client {
    fn call(
        self: Arc<Self>,
        mut request: Request,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Answer, Status>> + Send>> {
        Box::pin(async move {
            let (tx, rx) = queue::channel::<Result<Packet, Status>>(8);
            tokio::spawn(async move {
                for packet in &self.packets {
                    let _ = tx.send(Ok(packet.clone())).await;
                }
                while let Ok(Some(packet)) = request.messages.next::<Packet>().await {
                    if packet.r#type == PacketType::PacketFin as i32 {
                        let _ = tx.send(Ok(files::finished())).await;
                        return;
                    }
                    for (id, data) in &self.contents {
                        if *id == packet.id {
                            let _ = tx.send(Ok(files::data(*id, data.clone()))).await;
                            let _ = tx.send(Ok(files::data(*id, Vec::new()))).await;
                        }
                    }
                }
            });
            let stream = futures_util::stream::unfold(rx, |mut rx| async {
                rx.recv().await.map(|packet| (packet, rx))
            });
            Ok(Answer::stream(stream))
        })
    }
}

async fn transfer(client: Client, folder: &Path, held: Index, limits: Limits) -> Result<Transfer, Status> {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let sessions = Arc::new(Sessions::default());
    let serving = tokio::spawn(serve(theirs, Arc::new(client)));
    let open = sessions.clone();
    let greeting = Greeting { id: "one".into(), ..Greeting::default() };
    let session = tokio::spawn(async move { open.serve(greeting, ours).await });
    let found = sessions.get("one").await?;
    let selection = Selection { folder: "context".into(), ..Selection::default() };
    let done = receive(&found, &selection, folder.to_owned(), held, limits, |_| {}).await;
    session.abort();
    serving.abort();
    done
}

fn file(path: &str, size: i64) -> Stat {
    Stat { path: path.into(), mode: 0o644, size, mod_time: 1_000_000_000, ..Stat::default() }
}

fn folder(path: &str) -> Stat {
    Stat { path: path.into(), mode: 1 << 31 | 0o755, ..Stat::default() }
}

fn link(path: &str, to: &str) -> Stat {
    Stat { path: path.into(), mode: 1 << 27 | 0o777, linkname: to.into(), ..Stat::default() }
}

fn all(stats: &[Stat]) -> Vec<Packet> {
    stats.iter().cloned().map(Some).chain([None]).map(files::describes).collect()
}

fn quick() -> Limits {
    Limits { entries: 100, bytes: 1000, silence: Duration::from_millis(500) }
}

async fn refused(stats: &[Stat]) -> String {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("files");
    let client = Client { packets: all(stats), contents: vec![(1, b"escaped".to_vec())] };
    let error = transfer(client, &target, Index::default(), quick()).await.unwrap_err();
    let names: Vec<_> = std::fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["files"], "nothing is made outside");
    error.message
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_new_is_asked_for() {
    let place = tempfile::tempdir().unwrap();
    let stats = [folder("d"), file("d/a", 3), file("d/b", 3), link("l", "d/a")];
    let contents = vec![(1, b"one".to_vec()), (2, b"two".to_vec())];
    let client = Client { packets: all(&stats), contents };
    let first = transfer(client, place.path(), Index::default(), Limits::default()).await.unwrap();
    assert_eq!(std::fs::read(place.path().join("d/b")).unwrap(), b"two");
    assert_eq!(first.index.0["d/a"].digest, Sha256::digest(b"one").to_vec());

    let saved = place.path().with_extension("index");
    first.index.write(&saved).unwrap();
    let held = Index::read(&saved).unwrap();
    std::fs::remove_file(saved).unwrap();
    assert_eq!(held, first.index);

    // `d/b` is younger now and `l` gone; who is asked for anything else has no answer.
    let younger = Stat { mod_time: 2_000_000_000, ..file("d/b", 4) };
    let client = Client {
        packets: all(&[folder("d"), file("d/a", 3), younger]),
        contents: vec![(2, b"four".to_vec())],
    };
    let second = transfer(client, place.path(), held, quick()).await.unwrap();
    assert_eq!(std::fs::read(place.path().join("d/b")).unwrap(), b"four");
    assert_eq!(second.index.0["d/a"].digest, first.index.0["d/a"].digest);
    assert!(place.path().join("l").symlink_metadata().is_err());
}

/// The second transfer has a link where the first had a folder, and nothing of what was in it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_a_folder_is_not_looked_for_behind_a_link() {
    let place = tempfile::tempdir().unwrap();
    let (target, outside) = (place.path().join("files"), place.path().join("outside"));
    std::fs::create_dir_all(outside.join("deep")).unwrap();
    for name in ["precious", "deep/precious"] {
        std::fs::write(outside.join(name), "kept").unwrap();
    }
    let first =
        [folder("d"), file("d/precious", 1), folder("d/deep"), file("d/deep/precious", 1), file("e", 1)];
    let contents = [1, 3, 4].map(|id| (id, vec![0])).to_vec();
    let client = Client { packets: all(&first), contents };
    let held = transfer(client, &target, Index::default(), quick()).await.unwrap().index;
    let client = Client { packets: all(&[link("d", outside.to_str().unwrap())]), contents: Vec::new() };
    let done = transfer(client, &target, held, quick()).await.unwrap();
    assert_eq!(done.index.0.keys().collect::<Vec<_>>(), ["d"]);
    assert!(!target.join("e").exists());
    for name in ["precious", "deep/precious"] {
        assert_eq!(std::fs::read_to_string(outside.join(name)).unwrap(), "kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_that_would_leave_the_folder_are_refused() {
    for path in ["../x", "/etc/x", "a/../../x", "./x", "a//b", "", "x/"] {
        assert!(refused(&[file(path, 1)]).await.contains("invalid files"), "{path}");
    }
    assert!(refused(&[link("l", "/tmp"), file("l/x", 7)]).await.contains("in no folder"));
    assert!(refused(&[folder("d"), link("d", "/tmp"), file("d/x", 7)]).await.contains("comes twice"));
    let hard = Stat { linkname: "../../etc/passwd".into(), ..file("h", 0) };
    assert!(refused(&[hard]).await.contains("not there"));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_whatever_a_sender_says() {
    assert!(refused(&[file("a", 2000)]).await.contains("larger than 1000 bytes"));
    assert!(refused(&[file("a", -1)]).await.contains("negative size"));
    let many: Vec<Stat> = (0..200).map(|n| file(&format!("{n:03}"), 0)).collect();
    assert!(refused(&many).await.contains("more than 100 files"));

    // More than was announced.
    let place = tempfile::tempdir().unwrap();
    let client = Client { packets: all(&[file("a", 1)]), contents: vec![(0, vec![0; 5000])] };
    let error = transfer(client, place.path(), Index::default(), quick()).await.unwrap_err();
    assert!(error.message.contains("larger than 1000 bytes"), "{error}");

    // Nothing at all.
    let client = Client { packets: Vec::new(), contents: Vec::new() };
    let error = transfer(client, place.path(), Index::default(), quick()).await.unwrap_err();
    assert!(error.message.contains("sent nothing"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_senders_own_words_are_told() {
    let place = tempfile::tempdir().unwrap();
    let client = Client { packets: vec![files::failed("no such folder")], contents: Vec::new() };
    let error = transfer(client, place.path(), Index::default(), quick()).await.unwrap_err();
    assert_eq!(error.message, "no such folder");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_packets_end_and_stay_inside(
        stats in prop::collection::vec(("[a-c./]{0,6}", any::<u32>(), -2_i64..20, "[a-c./]{0,6}"), 0..12),
        data in prop::collection::vec((0_u32..12, prop::collection::vec(any::<u8>(), 0..8)), 0..12),
    ) {
        let place = tempfile::tempdir().unwrap();
        let (ask, _asked) = mpsc::unbounded_channel();
        let target = place.path().join("files");
        let mut receiver = Receiver::new(target, Index::default(), quick(), ask);
        let (tx, rx) = mpsc::channel(64);
        for (path, mode, size, linkname) in stats {
            // Of all kinds, with modes that we may remove again.
            let stat = Stat { path, mode: mode | 0o700, size, linkname, ..Stat::default() };
            tx.try_send(vec![files::describes(Some(stat))]).unwrap();
        }
        tx.try_send(vec![files::describes(None)]).unwrap();
        for (id, bytes) in data {
            tx.try_send(vec![files::data(id, bytes)]).unwrap();
        }
        drop(tx);
        if receiver.run(rx, |_| {}).is_ok() {
            let _ = receiver.finish();
        }
        let names: Vec<_> = std::fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        prop_assert!(names.iter().all(|n| n == "files"), "{names:?}");
    }
}

/// The digest of all in a folder, by what an index says and by what is read.
fn digests(folder: &Path, index: &Index) -> [Vec<u8>; 2] {
    use crate::files::{Root, digest, select};
    let root = Root::open(folder).unwrap();
    let of = |index: Option<&Index>| {
        let mut hasher = Sha256::new();
        for path in ["/", "/d"] {
            for found in select(&root, path, false, true).unwrap() {
                digest::add(&mut hasher, &found, &|path, _| !path.ends_with("left-out"), index).unwrap();
            }
        }
        hasher.finalize().to_vec()
    };
    [of(Some(index)), of(None)]
}

#[tokio::test]
async fn what_was_received_is_known_without_being_read() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("files");
    let mut linked = file("d/hard", 3);
    linked.linkname = "d/a".into();
    let mut special = file("d.e", 3);
    special.mode = files::go_mode(libc::S_IFREG | 0o4751);
    let stats = [
        folder("d"),
        file("d/a", 3),
        folder("d/e"),
        file("d/e/left-out", 3),
        linked,
        link("d/l", "a"),
        special,
    ];
    let contents = [1, 3, 6].map(|id| (id, b"one".to_vec())).to_vec();
    let client = Client { packets: all(&stats), contents };
    let done = transfer(client, &target, Index::default(), quick()).await.unwrap();
    let [known, read] = digests(&target, &done.index);
    assert_eq!(known, read);
    std::fs::write(target.join("d/a"), "two").unwrap();
    assert_ne!(digests(&target, &done.index)[1], read);
}
