//! What the programs of `fuzz/` do with their input.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::Error;
use crate::frontend::{Host, ImageRequest, Outcome, ResolvedImage, solve};
use crate::git::Pack;
use crate::graph::{Graph, Vertex};
use crate::platform::Platform;
use crate::remote::format;

/// An engine with one Dockerfile, and every image there is.
struct One<'a>(&'a str);

impl Host for One<'_> {
    async fn read_files(&self, _: &[Vertex], paths: &[String]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        Ok(paths.iter().map(|p| (p == "Dockerfile").then(|| self.0.as_bytes().to_vec())).collect())
    }

    async fn resolve_image(&self, request: ImageRequest) -> Result<ResolvedImage, Error> {
        let config = br#"{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"OnBuild":["RUN x","COPY --from=y a b"]},
            "rootfs":{"type":"layers","diff_ids":["sha256:0"]},"history":[{"created_by":"x"}]}"#;
        // Names that begin with this one have triggers, which may name themselves.
        let config = if request.reference.contains("onbuild") {
            config.to_vec()
        } else {
            String::from_utf8_lossy(config).replace("OnBuild", "Other").into_bytes()
        };
        Ok(ResolvedImage { digest: None, config })
    }

    fn platforms(&self) -> Vec<Platform> {
        vec![Platform::normal("linux", "amd64", "")]
    }
}

/// The result of a conversion that waits for nothing.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("nothing is waited for"),
    }
}

/// Every text is a Dockerfile or is refused, for a build and for each question.
///
/// # Panics
/// A graph whose inputs do not stand before what uses them, or an error without words.
pub fn dockerfile(text: &str) {
    for request in [None, Some("frontend.lint"), Some("frontend.outline"), Some("frontend.targets")] {
        ask(text, request);
    }
}

fn ask(text: &str, request: Option<&str>) {
    let options: BTreeMap<String, String> =
        request.map(|r| ("requestid".to_owned(), r.to_owned())).into_iter().collect();
    match at_once(solve(&options, &One(text))) {
        Ok(Outcome::Build(graph)) => walk(&graph),
        Ok(Outcome::Answer(answer)) => assert!(answer.contains_key("result.json")),
        Err(error) => assert!(!error.message.is_empty()),
    }
}

fn walk(graph: &Graph) {
    let mut used = vec![false; graph.vertices.len()];
    for (at, vertex) in graph.vertices.iter().enumerate() {
        for input in &vertex.inputs {
            assert!(input.0 < at, "{vertex:?}");
            used[input.0] = true;
        }
    }
    graph.results.iter().filter_map(|r| r.output).for_each(|v| used[v.0] = true);
    assert!(used.iter().all(|u| *u), "{graph:?}");
}

/// Any bytes between the head and the sum of a pack: it is refused, or each of its objects is what it is called.
///
/// # Panics
/// Where it is neither.
pub fn pack(bytes: &[u8]) {
    use sha1::{Digest, Sha1};
    use std::io::Write;
    let mut whole = b"PACK\0\0\0\x02".to_vec();
    whole.extend_from_slice(bytes);
    let sum = Sha1::digest(&whole);
    whole.extend_from_slice(&sum);
    let Ok(memory) = rustix::fs::memfd_create("pack", rustix::fs::MemfdFlags::CLOEXEC) else { return };
    let mut file = std::fs::File::from(memory);
    file.write_all(&whole).expect("there is memory for it");
    let Ok(mut pack) = Pack::open(file) else { return };
    for id in pack.ids().collect::<Vec<_>>() {
        let (kind, data) = pack.object(&id).expect("it was read before").expect("it is there");
        let mut hasher = Sha1::new();
        hasher.update(format!("{} {}\0", kind.word(), data.len()));
        hasher.update(data.as_slice());
        assert_eq!(id.0[..], hasher.finalize()[..]);
    }
}

/// Any text as what a cache that is kept elsewhere says it holds: it is left out, or can be written again.
///
/// # Panics
/// Where what was read is read differently once it was written.
pub fn cache(text: &str) {
    let Ok(document) = serde_json::from_str(text) else { return };
    let records = format::read(&document);
    let again = serde_json::to_value(format::write(&records)).expect("plain data");
    let again = serde_json::from_value(again).expect("what was written");
    assert_eq!(format::read(&again), records);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Files that cost the most they can: each ends, in memory that the limits bound.
    #[test]
    fn the_largest_files_end() {
        let many = |line: fn(usize) -> String| (0..9_990).map(line).collect::<String>();
        for text in [
            "FROM a\n".to_owned() + &many(|n| format!("RUN x{n}\n")),
            "FROM a\n".to_owned() + &many(|n| format!("ENV A{n}=$A{} B{n}=y\n", n.max(1) - 1)),
            "FROM a\n".to_owned() + &many(|n| format!("{} A{n}=y\n", if n % 2 == 0 { "ENV" } else { "RUN" })),
            "FROM a AS s0\n".to_owned() + &many(|n| format!("FROM s{n} AS s{}\n", n + 1)),
            "FROM a AS s0\n".to_owned() + &many(|n| format!("FROM a AS s{}\n", n + 1)),
            many(|n| format!("ARG A{n}=$A{n}\n")) + "FROM a\n",
            "FROM a AS s\nRUN x\n".to_owned() + &many(|_| "COPY --from=s . .\n".into()),
            "FROM a\n".to_owned() + &many(|n| format!("COPY --from=i{n} . .\n")),
            "FROM a\nARG A=x\n".to_owned() + &"ENV A=$A$A$A$A\n".repeat(200),
            "FROM a\n".to_owned() + &"EXPOSE 1-65535\n".repeat(50),
            "FROM a\n".to_owned() + &"RUN <<A <<B\n".repeat(2000),
            "FROM a\nRUN ".to_owned() + &"x \\\n".repeat(200_000),
            "x".repeat(50 << 20),
            "#\n".repeat(1 << 20),
            format!("FROM a\nENV A={}\nENV {}\n", "ab".repeat(20_000), "B=${A//?/${A}} ".repeat(400)),
        ] {
            super::ask(&text, None);
        }
    }

    proptest! {
        #[test]
        fn any_lines_are_converted_or_refused(lines in prop::collection::vec(prop::sample::select(vec![
            "FROM a", "FROM a AS b", "FROM b", "FROM b AS c", "FROM onbuild", "FROM scratch AS d", "RUN x", "RUN [\"x\"]",
            "COPY --from=b x y", "COPY --from=0 x y", "COPY --from=onbuild x y", "COPY x y", "ADD http://x/y z",
            "ADD https://x/y.git /z", "RUN --mount=from=c,target=/m y", "RUN --mount=type=cache,target=c y",
            "RUN --mount=type=secret,id=s,env=E y", "COPY --link x y", "COPY --parents a/./b* y", "WORKDIR $A/x",
            "ENV A=$A$A$A B=${A:-x}", "ARG A=1 B", "ONBUILD RUN z", "ONBUILD COPY --from=c x y", "COPY <<E /x", "E",
            "RUN <<E", "#!/bin/sh", "EXPOSE 1-9", "CMD x", "LABEL a b", "USER x", "", "# x", "\\", "HEALTHCHECK NONE",
        ]), 0..25)) {
            super::dockerfile(&lines.join("\n"));
        }
    }
}
