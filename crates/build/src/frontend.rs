//! The Dockerfile frontend (`dockerfile.v0`): options of a solve request in, a [`Graph`] or an answer out.

use std::collections::BTreeMap;
use std::future::Future;

use futures_util::future::join_all;

use crate::Error;
use crate::answers::{self, Request};
use crate::checks::Checks;
use crate::convert::names::{Reference, clean};
use crate::convert::state::source;
use crate::convert::{Builder, Job, MainContext, Shown, convert, git_source};
use crate::dockerfile::{MAX_SIZE, directives, parse, stages};
use crate::error::Kind;
use crate::graph::{
    Copy, CopySource, CopyStep, Graph, Http, Local, Op, ResolveMode, Slot, Source, Target, Vertex, VertexRef,
};
use crate::options::Options;
use crate::platform::Platform;
use crate::sbom::{Scan, Scanner};

/// What the frontend asks of the engine. Calls may run at the same time.
pub trait Host: Sync {
    /// Does a source step (`Local`, `Git`, `Http`, with or without a `Copy` that unpacks it: `steps` is a graph of its
    /// own whose last vertex is meant) and reads files of what it gives. One answer for each path; `None` where it is
    /// not there. At most [`MAX_FILE`] bytes of each are read; what is longer comes cut.
    fn read_files(
        &self,
        steps: &[Vertex],
        paths: &[String],
    ) -> impl Future<Output = Result<Vec<Option<Vec<u8>>>, Error>> + Send;

    /// Finds an image's digest and configuration for a platform, under a step of the progress named `request.name`.
    fn resolve_image(
        &self,
        request: ImageRequest,
    ) -> impl Future<Output = Result<ResolvedImage, Error>> + Send;

    /// The platforms this engine can run programs of, its own first. Never empty.
    fn platforms(&self) -> Vec<Platform>;
}

/// How much of a file is read, in bytes: one more than a Dockerfile or `.dockerignore` may have.
pub const MAX_FILE: usize = crate::dockerfile::MAX_SIZE + 1;

/// Which image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRequest {
    /// `[internal] load metadata for docker.io/library/busybox:latest`
    pub name: String,
    /// Canonical, with tag or digest.
    pub reference: String,
    /// For what.
    pub platform: Platform,
    /// Where it may come from.
    pub mode: ResolveMode,
    /// In an OCI layout of the session: its store (`--build-context x=oci-layout://…`).
    pub oci_layout: Option<String>,
}

/// An image that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedImage {
    /// Digest of what the reference means (manifest or list), `sha256:…`. `None` for an image of the store that has no
    /// manifest.
    pub digest: Option<String>,
    /// The configuration document.
    pub config: Vec<u8>,
}

/// What a solve request gives.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A build.
    Build(Box<Graph>),
    /// An answer to a question (`docker build --call`): the metadata of the result (`result.json`, `result.txt`,
    /// `result.statuscode`, `version`).
    Answer(BTreeMap<String, Vec<u8>>),
}

/// Does a solve request of the frontend `dockerfile.v0` with these options (`FrontendOpt`).
///
/// # Errors
/// What is wrong with the options or the file, in BuildKit's words, with the file and the lines it is about.
pub async fn solve<H: Host>(options: &BTreeMap<String, String>, host: &H) -> Result<Outcome, Error> {
    let options = Options::read(options)?;
    let found = definition(&options, host).await?;
    if found.source.data.len() > MAX_SIZE {
        return Err(Error::invalid(format!("dockerfile greater than max allowed size of {MAX_SIZE}")));
    }
    let text = String::from_utf8_lossy(&found.source.data).into_owned();
    solve_text(&options, host, &found, &text).await.map_err(|error| error.of(&found.source))
}

async fn solve_text<H: Host>(
    options: &Options,
    host: &H,
    found: &Definition,
    text: &str,
) -> Result<Outcome, Error> {
    check_syntax(options, text)?;
    if text.is_empty() {
        return Err(Error::invalid("the Dockerfile cannot be empty"));
    }
    let (all_stages, request) = match options.request.as_deref() {
        None => (false, None),
        Some(name) => {
            let request = Request::read(name)?;
            (request == Request::Lint && options.target.is_empty(), Some(request))
        }
    };
    if request == Some(Request::Describe) {
        return Ok(Outcome::Answer(answers::describe()));
    }
    let checks = match &options.checks {
        Some(checks) => checks.clone(),
        None => {
            let written = directives::find(text, "check").map(|d| d.value).unwrap_or_default();
            let wrong = |why| Error::invalid(format!("failed to parse check options: {why}"));
            Checks::read(&written).map_err(wrong)?
        }
    };
    let parsed = match parse(text) {
        Err(error) if request == Some(Request::Lint) => {
            return Ok(Outcome::Answer(answers::lint(&found.source, &[], Some(&error))));
        }
        parsed => parsed?,
    };
    if request == Some(Request::Targets) {
        let read = stages(&parsed, &mut Checks::default())?;
        return Ok(Outcome::Answer(answers::targets(&found.source, &read)));
    }
    let job = |target| Job {
        parsed: &parsed,
        options,
        target,
        context: &found.context,
        checks: checks.clone(),
        all_stages,
    };
    if request == Some(Request::Lint) {
        let (checks, result) = convert(job(options.platforms.first()), host).await;
        return Ok(Outcome::Answer(answers::lint(&found.source, &checks.found, result.err().as_ref())));
    }
    let targets: Vec<Option<&Platform>> = match options.platforms.is_empty() {
        true => vec![None],
        false => options.platforms.iter().map(Some).collect(),
    };
    let scanner = match &options.sbom {
        None => None,
        Some(sbom) => Some(Scanner::find(sbom, options.resolve, host).await?),
    };
    let results = join_all(targets.iter().map(|target| convert(job(*target), host))).await;
    let mut graph =
        Graph { multi_platform: options.multi_platform, source: found.source.clone(), ..Graph::default() };
    let mut all = Builder::default();
    for (at, (checks, result)) in results.into_iter().enumerate() {
        // Checks say the same for each platform.
        if at == 0 {
            graph.warnings = checks.found;
        }
        let done = result.map_err(|error| error.with_warnings(&graph.warnings))?;
        if request == Some(Request::Outline) {
            return Ok(Outcome::Answer(answers::outline(&found.source, &done.outline)));
        }
        let first = all.count();
        for mut vertex in done.steps {
            vertex.inputs.iter_mut().for_each(|input| input.0 += first);
            all.add(vertex)?;
        }
        let moved = |v: Option<VertexRef>| v.map(|v| VertexRef(v.0 + first));
        let output = moved(done.output);
        let sbom = match &scanner {
            None => None,
            Some(scanner) => {
                let extras =
                    done.extras.files.into_iter().map(|(name, files)| (name, moved(files))).collect();
                let scan = Scan { platform: &done.platform, core: output, extras, anew: done.extras.anew };
                Some(scanner.scan(&mut all, scan)?)
            }
        };
        graph.results.push(Target {
            platform: done.platform,
            output,
            sbom,
            image: done.image,
            base: done.base,
            epoch: options.epoch,
        });
    }
    let ends = graph.results.iter_mut().flat_map(|r| [&mut r.output, &mut r.sbom]);
    let mut ends: Vec<&mut Option<VertexRef>> = ends.collect();
    graph.vertices = all.finish(&mut ends, Shown::First);
    Ok(Outcome::Build(Box::new(graph)))
}

/// Only the syntax that is built in can be had: others are programs of their own.
fn check_syntax(options: &Options, text: &str) -> Result<(), Error> {
    let (image, lines) = match &options.syntax {
        Some(line) => (line.trim().split(' ').next().unwrap_or_default().to_owned(), None),
        None => match directives::syntax(text) {
            Some((image, lines)) => (image, Some(lines)),
            None => return Ok(()),
        },
    };
    let plain = image.strip_prefix("docker-image://").unwrap_or(&image);
    let ours = Reference::parse(plain).is_ok_and(|r| {
        r.domain == "docker.io"
            && matches!(r.path.as_str(), "docker/dockerfile" | "docker/dockerfile-upstream")
    });
    if ours {
        return Ok(());
    }
    let why = format!(
        "syntax {image} is not supported: this builder has docker/dockerfile built in and runs no other"
    );
    let error = Error::invalid(why).with_kind(Kind::Unsupported);
    Err(match lines {
        Some(lines) => error.at(&[lines]),
        None => error,
    })
}

/// The Dockerfile, and where it came from.
struct Definition {
    source: Source,
    context: MainContext,
}

/// Reads the Dockerfile: from the client's folder, from the repository or archive that is the context, or it is itself
/// what was downloaded.
async fn definition<H: Host>(options: &Options, host: &H) -> Result<Definition, Error> {
    let mut filename = options.filename.clone();
    let mut steps: Vec<Vertex> = Vec::new();
    let context = options.context.as_str();
    if let Some(git) = git_source(context, options.keep_git_dir)? {
        steps.push(source(&format!("[internal] load git source {context}"), Op::Git(git)));
    } else if context.starts_with("http://") || context.starts_with("https://") {
        let http = Http { url: context.to_owned(), filename: "context".into(), ..Http::default() };
        steps.push(source("[internal] load remote build context", Op::Http(http)));
        let read = host.read_files(&steps, &["context".to_owned()]).await;
        let read = read.map_err(|e| e.context("failed to read downloaded context"))?;
        let data = read.into_iter().next().flatten().unwrap_or_default();
        if is_archive(&data) {
            let unpacked = CopyStep {
                from: CopySource::Tree { from: Some(Slot(0)), path: "/context".into() },
                dest: "/".into(),
                unpack: true,
                ..CopyStep::default()
            };
            steps.push(copied(unpacked));
        } else {
            filename = "context".into();
        }
    } else if options.contexts_input() {
        steps.push(source("[internal] load build context", Op::Input { name: "context".into() }));
    }
    if !steps.is_empty() && !options.context_subdir.is_empty() {
        let inner = CopyStep {
            from: CopySource::Tree {
                from: Some(Slot(0)),
                path: clean(&format!("/{}", options.context_subdir)),
            },
            dest: "/".into(),
            contents_only: true,
            ..CopyStep::default()
        };
        let mut step = copied(inner);
        step.inputs = vec![VertexRef(steps.len() - 1)];
        steps.push(step);
    }
    let (folder, name) = filename.rsplit_once('/').map_or(("", filename.as_str()), |(f, n)| (f, n));
    let lower = match (name, folder) {
        ("Dockerfile", "") => Some("dockerfile".to_owned()),
        ("Dockerfile", folder) => Some(format!("{folder}/dockerfile")),
        _ => None,
    };
    let ignore = format!("{filename}.dockerignore");
    let paths: Vec<String> = [filename.clone(), ignore.clone()].into_iter().chain(lower).collect();
    let local;
    let from: &[Vertex] = if steps.is_empty() || options.dockerfile_folder.is_some() {
        let name = options.dockerfile_folder.clone().unwrap_or_else(|| "dockerfile".into());
        let files = Local { shared_key: name.clone(), name, follow_paths: paths.clone(), ..Local::default() };
        local = [source(&format!("[internal] load build definition from {filename}"), Op::Local(files))];
        &local
    } else {
        &steps
    };
    let mut read = host.read_files(from, &paths).await?.into_iter();
    let (file, ignored, other) = (read.next().flatten(), read.next().flatten(), read.next().flatten());
    let Some(data) = file.or(other) else {
        let why = format!("failed to read dockerfile: open {filename}: no such file or directory");
        return Err(Error::invalid(why).with_kind(Kind::NotFound));
    };
    Ok(Definition {
        source: Source { filename, data },
        context: MainContext { steps, ignore: ignored.map(|data| (ignore, data)) },
    })
}

fn copied(step: CopyStep) -> Vertex {
    let mut vertex =
        source("[internal] load remote build context", Op::Copy(Copy { base: None, steps: vec![step] }));
    vertex.inputs = vec![VertexRef(0)];
    vertex
}

/// Whether it is a tar archive, compressed or not.
fn is_archive(data: &[u8]) -> bool {
    const MAGIC: [&[u8]; 4] =
        [b"BZh", &[0x1f, 0x8b, 0x08], &[0xfd, b'7', b'z', b'X', b'Z', 0], &[0x28, 0xb5, 0x2f, 0xfd]];
    if MAGIC.iter().any(|m| data.starts_with(m)) {
        return true;
    }
    // A tar header: its checksum is the sum of its bytes, with blanks in the checksum's place.
    let Some(header) = data.get(..512) else { return false };
    let written = String::from_utf8_lossy(&header[148..156]);
    let written = u32::from_str_radix(written.trim_matches(['\0', ' ']), 8).ok();
    let sum: u32 = header
        .iter()
        .enumerate()
        .map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) })
        .sum();
    written == Some(sum) && header.iter().any(|b| *b != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// An engine with these files, and every image there is.
    #[derive(Default)]
    struct Files {
        files: BTreeMap<String, Vec<u8>>,
        asked: Mutex<Vec<String>>,
    }

    impl Host for Files {
        async fn read_files(
            &self,
            steps: &[Vertex],
            paths: &[String],
        ) -> Result<Vec<Option<Vec<u8>>>, Error> {
            self.asked.lock().unwrap().push(steps.last().unwrap().name.clone());
            Ok(paths.iter().map(|p| self.files.get(p).cloned()).collect())
        }

        async fn resolve_image(&self, request: ImageRequest) -> Result<ResolvedImage, Error> {
            self.asked.lock().unwrap().push(request.name);
            let Platform { os, architecture, .. } = request.platform;
            let config = format!(
                r#"{{"os":"{os}","architecture":"{architecture}","rootfs":{{"diff_ids":["sha256:0"]}},"config":null}}"#
            );
            Ok(ResolvedImage {
                digest: Some(format!("sha256:{}", "a".repeat(64))),
                config: config.into_bytes(),
            })
        }

        fn platforms(&self) -> Vec<Platform> {
            vec![Platform::normal("linux", "amd64", "")]
        }
    }

    fn build(options: &[(&str, &str)], files: &[(&str, &str)]) -> (Result<Graph, Error>, Vec<String>) {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let files = files.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect();
        let host = Files { files, ..Files::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let result = runtime.block_on(solve(&options, &host)).map(|outcome| match outcome {
            Outcome::Build(graph) => *graph,
            other => panic!("{other:?}"),
        });
        (result, host.asked.into_inner().unwrap())
    }

    fn names(graph: &Graph) -> Vec<&str> {
        graph.vertices.iter().map(|v| v.name.as_str()).collect()
    }

    #[test]
    fn what_several_platforms_share_is_done_once() {
        let file = "FROM --platform=$BUILDPLATFORM a AS build\nRUN make\nFROM b\nCOPY --from=build /x /x\n";
        let options = [("platform", "linux/amd64,linux/arm64")];
        let graph = build(&options, &[("Dockerfile", file)]).0.unwrap();
        let sum = "a".repeat(64);
        assert_eq!(
            names(&graph),
            [
                &format!("[linux/amd64 build 1/2] FROM docker.io/library/a:latest@sha256:{sum}"),
                &format!("[linux/amd64 stage-1 1/2] FROM docker.io/library/b:latest@sha256:{sum}"),
                "[linux/amd64 build 2/2] RUN make",
                "[linux/amd64 stage-1 2/2] COPY --from=build /x /x",
                &format!("[linux/arm64 stage-1 1/2] FROM docker.io/library/b:latest@sha256:{sum}"),
                "[linux/arm64 stage-1 2/2] COPY --from=build /x /x",
            ]
        );
        let platforms: Vec<String> = graph.results.iter().map(|r| r.image.platform().to_string()).collect();
        assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
        assert!(graph.multi_platform);
    }

    #[test]
    fn the_file_may_come_from_elsewhere() {
        let file =
            [("Dockerfile", "FROM scratch\nCOPY . /\n"), ("sub/dockerfile", "FROM scratch\nCOPY a /\n")];
        let (graph, asked) =
            build(&[("context", "https://x/y.git#main:sub"), ("contextsubdir", "in")], &file);
        let graph = graph.unwrap();
        assert_eq!(asked, ["[internal] load remote build context"]);
        let Op::Git(git) = &graph.vertices[0].op else { panic!("{graph:?}") };
        assert_eq!((git.reference.as_str(), git.subdir.as_str()), ("main", "/sub"));
        assert_eq!(graph.vertices.len(), 3);
        // `Dockerfile` is also found in lower case, in the folder it was said to be in.
        let (graph, asked) = build(&[("filename", "sub/Dockerfile")], &file);
        assert_eq!(asked[0], "[internal] load build definition from sub/Dockerfile");
        let graph = graph.unwrap();
        let Op::Local(local) = &graph.vertices[0].op else { panic!("{graph:?}") };
        assert_eq!(local.follow_paths, ["a"]);
        let (error, _) = build(&[("filename", "other")], &file);
        assert_eq!(
            error.unwrap_err().message,
            "failed to read dockerfile: open other: no such file or directory"
        );
    }

    #[test]
    fn other_syntaxes_are_refused_where_they_are_named() {
        let read = |line: &str| {
            let file = format!("{line}\nFROM scratch\nLABEL a=b\n");
            build(&[], &[("Dockerfile", &file)]).0.map(|_| ())
        };
        for line in [
            "# syntax=docker/dockerfile:1.7-labs",
            "# syntax=docker.io/docker/dockerfile-upstream:master",
            "# x",
        ] {
            assert_eq!(read(line), Ok(()), "{line}");
        }
        let error = read("# syntax=example/other:1").unwrap_err();
        assert!(error.message.contains("example/other:1") && error.kind == Kind::Unsupported, "{error:?}");
        assert_eq!(error.lines[0][0].start, 1);
        assert_eq!(error.file.unwrap().filename, "Dockerfile");
    }

    #[test]
    fn no_cache_is_of_all_stages_or_some() {
        let file = "FROM a AS one\nRUN x\nFROM one AS two\nRUN y\n";
        let marked = |value| {
            let graph = build(&[("no-cache", value)], &[("Dockerfile", file)]).0.unwrap();
            graph.vertices.iter().filter(|v| v.ignore_cache).map(|v| v.command.clone()).collect::<Vec<_>>()
        };
        assert_eq!(marked(""), ["RUN x", "RUN y"]);
        assert_eq!(marked("two"), ["RUN y"]);
    }

    #[test]
    fn archives_are_told_by_their_beginning() {
        let mut header = vec![0u8; 512];
        header[0] = b'x';
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(is_archive(&header));
        assert!(is_archive(&[0x1f, 0x8b, 0x08, 0]));
        assert!(!is_archive(b"FROM scratch\n"));
        assert!(!is_archive(&[0; 1024]));
    }
}
