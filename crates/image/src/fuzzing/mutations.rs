//! Seeds, mutated blindly for a bounded time.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{Config, Images};

/// Time for each kind of input, in CI and in the full tier.
const TIME: Duration = Duration::from_secs(2);
const TIME_FULL: Duration = Duration::from_secs(60);
/// Longest input made, bytes.
const LONGEST: usize = 32 * 1024;
/// Mutations on top of each other, at most.
const AT_ONCE: u64 = 4;
/// A tar's block; its header's checksum, and the word that tells a header.
const BLOCK: usize = 512;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const MAGIC: (usize, &[u8]) = (257, b"ustar");

/// Marsaglia's xorshift: short, and the same everywhere for a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }

    fn place(&mut self, data: &[u8]) -> usize {
        self.below(data.len() as u64) as usize
    }
}

/// Changes some of `data`; `other` is another seed, `words` are what such inputs are made of.
fn mutate(data: &mut Vec<u8>, other: &[u8], words: &[&str], random: &mut Random) {
    for _ in 0..=random.below(AT_ONCE) {
        let at = random.place(data);
        let end = (at + 1 + random.below(64) as usize).min(data.len());
        match random.below(9) {
            0 if !data.is_empty() => data[at] ^= 1 << random.below(8),
            1 if !data.is_empty() => data[at] = [0, 0xff, b'/', b'.', b'9', b'"'][random.below(6) as usize],
            2 => drop(data.drain(at..end)),
            3 => {
                let piece = data[at..end].to_vec();
                let to = random.place(data);
                data.splice(to..to, piece);
            }
            4 => {
                let word = words[random.place(&vec![0; words.len()])];
                data.splice(at..at, word.bytes());
            }
            5 => {
                let word = words[random.place(&vec![0; words.len()])];
                data.splice(at..end, word.bytes());
            }
            6 if !other.is_empty() => {
                let from = random.place(other);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
            7 => data.truncate(at),
            // Whole blocks: entries of a tar come twice, or in another order.
            _ if data.len() >= 2 * BLOCK => {
                let blocks = (data.len() / BLOCK) as u64;
                let (from, to) =
                    (random.below(blocks) as usize * BLOCK, random.below(blocks) as usize * BLOCK);
                let piece = data[from..from + BLOCK].to_vec();
                data.splice(to..to, piece);
            }
            _ => {}
        }
    }
    data.truncate(LONGEST);
}

/// Makes the checksums of a tar's headers right: without that every change ends at the first comparison.
fn checksums(data: &mut [u8]) {
    let (at, magic) = MAGIC;
    for block in data.chunks_exact_mut(BLOCK) {
        if &block[at..at + magic.len()] != magic {
            continue;
        }
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(name);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|item| item.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no seeds in {}", folder.display());
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Runs `work` on the seeds and on mutations of them until the time is up. A panic names the input.
fn run(name: &str, words: &[&str], mut work: impl FnMut(&[u8])) {
    let time = if std::env::var_os("CORACLE_TEST_FULL").is_some() { TIME_FULL } else { TIME };
    let seed = match std::env::var("CORACLE_TEST_SEED") {
        Ok(seed) => seed.parse().expect("CORACLE_TEST_SEED is a number"),
        Err(_) => Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id()) << 20 | 1,
    };
    println!("{name}: CORACLE_TEST_SEED={seed}");
    let seeds = seeds(name);
    let tars = matches!(name, "tar" | "load");
    let mut random = Random(seed | 1);
    let (until, mut inputs) = (Instant::now() + time, 0u64);
    for seed in &seeds {
        work(seed);
    }
    while Instant::now() < until {
        let mut data = seeds[random.below(seeds.len() as u64) as usize].clone();
        let other = &seeds[random.below(seeds.len() as u64) as usize];
        mutate(&mut data, other, words, &mut random);
        if tars && random.below(8) > 0 {
            checksums(&mut data);
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&data)));
        if let Err(panic) = done {
            let kept = std::env::temp_dir().join(format!("coracle-{name}-{seed}-{inputs}"));
            std::fs::write(&kept, &data).unwrap();
            eprintln!("{name}, input {inputs} of seed {seed}, kept as {}", kept.display());
            std::panic::resume_unwind(panic);
        }
        inputs += 1;
    }
    println!("{name}: {inputs} inputs");
    assert!(inputs > 10, "{inputs} inputs in {time:?}");
}

const PATHS: &[&str] = &[
    "../",
    "/",
    "./",
    "\0",
    "00000000000",
    "77777777777",
    "0",
    "1",
    "2",
    "3",
    "5",
    "6",
    "L",
    "K",
    "x",
    "g",
    "S",
    ".wh.",
    ".wh..wh..opq",
    "30 path=../../x\n",
    "22 size=99999999999\n",
    "28 linkpath=/etc/passwd\n",
    "GNU.sparse.map=0,1",
    "SCHILY.xattr.user.a=b",
    "ustar",
];
const JSON: &[&str] = &[
    "{}",
    "[]",
    "null",
    "-1",
    "1e999",
    "18446744073709551616",
    "\"\"",
    "\"sha256:\"",
    "\"manifests\":[",
    "\"config\":{",
    "\"layers\":[",
    "\"schemaVersion\":1",
    "\"mediaType\":\"application/vnd.oci.image.index.v1+json\"",
    "\\ud800",
    "\"diff_ids\":[]",
    "\"Config\":\"\"",
    "\"RepoTags\":[\"a\"]",
    "\"Layers\":null",
    "../",
];

#[test]
fn any_bytes_as_a_layer_stay_in_their_folder() {
    let place = tempfile::tempdir().unwrap();
    run("tar", PATHS, |data| super::tar(data, place.path()));
}

#[test]
fn any_text_as_a_reference_reads_back_or_is_refused() {
    let words = [
        "@sha256:",
        ":",
        "/",
        "localhost/",
        "[::1]",
        "docker.io/",
        "library/",
        "__",
        "..",
        "-",
        "A",
        "\u{130}",
    ];
    run("reference", &words, |data| super::reference(&String::from_utf8_lossy(data)));
}

#[test]
fn any_bytes_as_a_document_mean_one_thing_or_are_refused() {
    run("document", JSON, super::document);
}

#[test]
fn any_text_as_a_challenge_is_read_or_refused() {
    let words = ["Bearer ", "realm=", "\"", ",", "scope=", "service=", "\\", "=", "Basic ", "http://"];
    run("challenge", &words, |data| super::challenge(&String::from_utf8_lossy(data)));
}

#[test]
fn any_bytes_as_an_archive_load_whole_or_not_at_all() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("images");
    let images = Images::open(Config { db: place.path().join("db"), root, ..Config::default() }).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let words = [PATHS, JSON].concat();
    run("load", &words, |data| super::load(data, &images, &runtime));
    // What was refused is cleaned up by threads that end with the runtime.
    drop(runtime);
    for folder in ["ingest", "layers", "blobs/sha256"] {
        let left: Vec<_> = std::fs::read_dir(place.path().join("images").join(folder)).unwrap().collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
}
