//! Dockerfiles, contexts and clients that mean ill: what they want does not happen, the build fails in words where it
//! cannot do what it is told, and the engine goes on.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tests::building::{Context, built, nothing_runs};
use tests::{Engine, engine::signal, store};

/// A folder of the host's that no build is given, with what one could read, remove or overwrite there.
struct Outside(PathBuf);

impl Outside {
    fn new(engine: &Engine) -> Self {
        let path = engine.path("outside");
        std::fs::create_dir_all(path.join("folder")).unwrap();
        std::fs::write(path.join("secret"), "SECRET").unwrap();
        std::fs::write(path.join("empty"), "").unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }

    /// As many `..` as lead from any place to `/`, then here.
    fn climbing(&self) -> String {
        format!("{}{}", "../".repeat(40), self.path().trim_start_matches('/'))
    }

    #[track_caller]
    fn is_as_it_was(&self) {
        let mut names: Vec<_> = std::fs::read_dir(&self.0)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["empty", "folder", "secret"]);
        assert_eq!(std::fs::read_to_string(self.0.join("secret")).unwrap(), "SECRET");
        assert_eq!(std::fs::read(self.0.join("empty")).unwrap(), b"");
        assert_eq!(std::fs::read_dir(self.0.join("folder")).unwrap().count(), 0);
    }
}

/// The next build is as if nothing had been.
#[track_caller]
fn goes_on(context: &Context<'_>) {
    context.write("Dockerfile", "FROM busybox\nRUN echo fine > /fine\n");
    built(context.build(&["--no-cache", "-o", "type=cacheonly"]));
    nothing_runs(context.engine);
    assert_eq!(store::faults(&context.engine.root()), [""; 0]);
}

#[test]
fn links_lead_copies_nowhere_outside() {
    let engine = Engine::with_busybox();
    let outside = Outside::new(&engine);
    let (there, climbing) = (outside.path(), outside.climbing());
    let context = Context::new(&engine, "links", "");
    let fails = |dockerfile: &str, words: &str| {
        context.write("Dockerfile", dockerfile);
        context.build(&["-o", "type=cacheonly"]).fails(1, words);
    };
    // Out of the context.
    symlink(there, context.folder.join("absolute")).unwrap();
    symlink(&climbing, context.folder.join("relative")).unwrap();
    symlink("loop", context.folder.join("loop")).unwrap();
    for source in ["absolute/secret", "relative/secret", "absolute", "relative", "../outside/secret", "loop"]
    {
        fails(&format!("FROM busybox\nCOPY {source} /stolen\n"), "");
        let mount = format!("FROM busybox\nRUN --mount=source={source},target=/stolen cat /stolen/secret\n");
        fails(&mount, "");
    }
    // Out of a stage, out of an image, and out of what a cache begins with.
    let stage = format!("FROM busybox AS a\nRUN ln -s {there} /absolute && ln -s {climbing} /relative\n");
    for link in ["absolute", "relative"] {
        fails(&format!("{stage}FROM busybox\nCOPY --from=a /{link}/secret /stolen\n"), "not found");
        let start = format!("from=a,source=/{link},target=/c");
        let bind = format!("{stage}FROM busybox\nRUN --mount=type=bind,{start} cat /c/secret\n");
        fails(&bind, "");
        let cache = format!("{stage}FROM busybox\nRUN --mount=type=cache,id={link},{start} cat /c/secret\n");
        fails(&cache, "");
    }
    // Into places that links lead to: they are the image's own.
    context.write("file", "of the context");
    let (mut packed, path) = (tar::Builder::new(Vec::new()), there.trim_start_matches('/'));
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_mode(0o777);
    packed.append_link(&mut header.clone(), "l", there).unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    packed.append_data(&mut header.clone(), "l/from-archive", std::io::empty()).unwrap();
    std::fs::write(context.folder.join("evil.tar"), packed.into_inner().unwrap()).unwrap();
    let into = format!(
        "{stage}FROM a\nCOPY file /absolute/new\nCOPY file /relative/secret\nADD file {there}/added\n\
         WORKDIR /absolute/folder/made\nADD evil.tar /unpacked/\n\
         RUN test -e {there}/new && test -e {there}/added && test -d {there}/folder/made && ! test -e {there}/empty\n\
         FROM scratch\nCOPY --from=a /absolute /{path}\n"
    );
    context.write("Dockerfile", &into);
    let outcome = context.build(&["-o", "type=cacheonly"]);
    // The last copies what the link itself leads to in its image: nothing.
    outcome.fails(1, "not found");
    outside.is_as_it_was();
    goes_on(&context);
}

#[test]
fn files_of_heredocs_stay_in_their_folder() {
    let engine = Engine::with_busybox();
    let outside = Outside::new(&engine);
    let context = Context::new(&engine, "heredocs", "");
    for target in [outside.path().to_owned(), outside.climbing(), "..".into(), "../../../x".into()] {
        for name in ["secret", "new"] {
            let word = format!("{target}/{name}");
            for file in [
                format!("FROM busybox\nCOPY <<\"{word}\" /d/\noverwritten\n{word}\n"),
                format!("FROM busybox\nWORKDIR /d\nCOPY <<\"{word}\" .\noverwritten\n{word}\n"),
                format!("FROM busybox\nRUN <<\"{word}\"\n#!/bin/sh\necho overwritten\n{word}\n"),
            ] {
                context.write("Dockerfile", &file);
                let outcome = context.build(&["-o", "type=cacheonly"]);
                // As with BuildKit, one whose folders are all taken back is a file of that name.
                assert!(word.starts_with("..") || outcome.code == Some(1), "{file}{}", outcome.err);
                outside.is_as_it_was();
            }
        }
    }
    goes_on(&context);
}

#[test]
fn what_programs_leave_is_not_followed() {
    let engine = Engine::with_busybox();
    let outside = Outside::new(&engine);
    let there = outside.path();
    let context = Context::new(&engine, "programs", "");
    let build = |dockerfile: &str| {
        context.write("Dockerfile", &format!("FROM busybox\n{dockerfile}"));
        context.build(&["-o", "type=cacheonly"])
    };
    // A folder above a mount is another one when the program ends.
    for name in ["folder", "empty"] {
        let run = format!("RUN --mount=type=tmpfs,target=/p/{name} mv /p /q && ln -s {there} /p\n");
        build(&run);
        outside.is_as_it_was();
    }
    // A cache that has links: mounted anew, with mounts in it, and begun with.
    built(build(&format!(
        "RUN --mount=type=cache,target=/c ln -s {there} /c/link && ln -s {} /c/climbs && ln -s / /c/root\n",
        outside.climbing()
    )));
    for at in ["link", "climbs", "root"] {
        let inner = format!(
            "RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/c/{at}/folder/x touch /c/{at}/x\n"
        );
        build(&inner);
        build(&format!("RUN --mount=type=cache,target=/c ! cat /c/{at}/secret\n"));
        outside.is_as_it_was();
    }
    // Rules of the cache measure and remove it: links in it are links.
    built(build("RUN --mount=type=cache,target=/c rm -r /c/root && mkdir /c/root\n"));
    engine.docker(&["buildx", "prune", "-af"]).ok();
    outside.is_as_it_was();
    goes_on(&context);
}

#[test]
fn what_was_in_a_folder_is_not_looked_for_behind_a_link() {
    let engine = Engine::with_busybox();
    let outside = Outside::new(&engine);
    let context = Context::new(&engine, "changing", "FROM busybox\nCOPY d /d\n");
    for name in ["secret", "empty"] {
        context.write(&format!("d/{name}"), "of the context");
    }
    built(context.build(&["-o", "type=cacheonly"]));
    // The engine's copy of the context has these two, and removes them where they are no more.
    std::fs::remove_dir_all(context.folder.join("d")).unwrap();
    symlink(outside.path(), context.folder.join("d")).unwrap();
    context.build(&["-o", "type=cacheonly"]).fails(1, "not found");
    outside.is_as_it_was();
    goes_on(&context);
}

#[test]
fn lists_of_what_is_ignored_do_no_harm() {
    let engine = Engine::with_busybox();
    let outside = Outside::new(&engine);
    let context = Context::new(&engine, "ignored", "");
    context.write("kept", "kept");
    let dockerfile =
        "FROM busybox\nCOPY . /all/\nRUN ls -R /all; test -e /all/kept && ! grep -r SECRE[T] /all\n";
    let list = context.folder.join(".dockerignore");
    let everything = format!("!{}/secret\n!../outside/**\n!/../../**\n!**/../../**\n", outside.path());
    // Patterns that are slow where they are carried out naively.
    let slow = format!("{}b\n", "**/*a*".repeat(60)).repeat(20);
    let many = (0..9_000).fold(String::new(), |all, n| format!("{all}none-{n}/**/x\n"));
    for text in [everything, slow, many] {
        context.write("Dockerfile", dockerfile);
        std::fs::write(&list, text).unwrap();
        built(context.build(&["-o", "type=cacheonly", "--no-cache"]));
    }
    std::fs::write(&list, "x\n".repeat(20_000)).unwrap();
    context.build(&[]).fails(1, "more than 10000 patterns");
    std::fs::write(&list, "a[\n").unwrap();
    context.build(&[]).fails(1, "syntax error in pattern");
    // Itself, and the Dockerfile, left out: both are read all the same, as with dockerd.
    std::fs::write(&list, "*\n!kept\n").unwrap();
    built(context.build(&["-o", "type=cacheonly"]));
    // No file at all: a link out of the context, a folder, a pipe that nobody writes to.
    for kind in ["link", "folder", "pipe"] {
        std::fs::remove_file(&list).or_else(|_| std::fs::remove_dir(&list)).unwrap();
        match kind {
            "link" => symlink(outside.0.join("secret"), &list).unwrap(),
            "folder" => std::fs::create_dir(&list).unwrap(),
            _ => {
                let made = std::process::Command::new("mkfifo").arg(&list).status().unwrap();
                assert!(made.success());
            }
        }
        let outcome = context.build(&["-o", "type=cacheonly", "--no-cache"]);
        assert!(!format!("{}{}", outcome.out, outcome.err).contains("SECRET\n"), "{}", outcome.err);
        assert_ne!(outcome.code, Some(124), "{kind}: it hangs: {}", outcome.err);
    }
    std::fs::remove_file(&list).unwrap();
    outside.is_as_it_was();
    goes_on(&context);
}

/// Zeros, twice compressed to almost nothing: gzip takes a thousandth of them.
fn bomb(path: &Path, bytes: u64) {
    let packed =
        flate2::write::GzEncoder::new(std::fs::File::create(path).unwrap(), flate2::Compression::fast());
    let mut packed = tar::Builder::new(packed);
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(0o644);
    packed.append_data(&mut header, "zeros", std::io::Read::take(std::io::repeat(0), bytes)).unwrap();
    packed.into_inner().unwrap().finish().unwrap().flush().unwrap();
}

#[test]
fn archives_that_are_bombs_fill_no_more_than_the_disk() {
    let engine = Engine::on_small_disk(160 << 20);
    let archive = tests::images::busybox(engine.folder.path());
    engine.docker(&["load", "-q", "-i", archive.to_str().unwrap()]).ok();
    let context = Context::new(&engine, "bombs", "FROM busybox\nADD bomb.tar.gz /\n");
    bomb(&context.folder.join("bomb.tar.gz"), 400 << 20);
    context.build(&["-o", "type=cacheonly"]).fails(1, "No space left on device");
    nothing_runs(&engine);
    // What was written is gone: there is room for as much as the disk has.
    bomb(&context.folder.join("bomb.tar.gz"), 60 << 20);
    built(context.build(&["-o", "type=cacheonly"]));

    // Folders in folders, more than any program goes down.
    let mut deep = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    for depth in [600, 2000] {
        deep.append_data(&mut header.clone(), "d/".repeat(depth), std::io::empty()).unwrap();
    }
    std::fs::write(context.folder.join("deep.tar"), deep.into_inner().unwrap()).unwrap();
    context.write("Dockerfile", "FROM busybox\nADD deep.tar /\n");
    context.build(&["-o", "type=cacheonly"]).fails(1, "unpack to /");

    // One that ends in the middle, and one whose compression does.
    let whole = std::fs::read(context.folder.join("bomb.tar.gz")).unwrap();
    std::fs::write(context.folder.join("cut.tar.gz"), &whole[..whole.len() / 2]).unwrap();
    context.write("Dockerfile", "FROM busybox\nADD cut.tar.gz /\n");
    context.build(&["-o", "type=cacheonly"]).fails(1, "unpack to /");
    goes_on(&context);
}

#[test]
fn a_dockerfile_of_50_megabytes_is_refused() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "huge", "");
    let line = "RUN true # and a comment that makes it longer\n";
    for text in [
        format!("FROM busybox\n{}", line.repeat((50 << 20) / line.len())),
        format!("FROM busybox\nRUN true {}", "x".repeat(50 << 20)),
        format!("FROM busybox\nRUN true {}", "\\\n".repeat(25 << 20)),
        format!("FROM busybox\nCOPY <<E /\n{}E\n", "text\n".repeat(10 << 20)),
    ] {
        context.write("Dockerfile", &text);
        context.build(&[]).fails(1, "greater than max allowed size");
    }
    goes_on(&context);
}

/// The client is asked for a secret and does not answer.
#[test]
fn a_client_that_stands_still_holds_up_nobody() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "still", "FROM busybox\nRUN --mount=type=secret,id=s true\n");
    let pipe = engine.path("secret");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let secret = format!("id=s,src={}", pipe.display());
    let args = ["buildx", "build", "--progress=plain", "--secret", &secret, context.folder.to_str().unwrap()];
    let mut command = engine.command(&args);
    let mut client =
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    // Opened once the client reads, which it does once it is asked.
    let writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    signal(client.id(), "STOP");
    let other = Context::new(&engine, "other", "FROM busybox\nRUN echo other\n");
    built(other.build(&["-o", "type=cacheonly"]));
    signal(client.id(), "KILL");
    client.wait().unwrap();
    drop(writer);
    goes_on(&other);
}

/// Requests that take a connection over for gRPC, and then speak none, or stop in the middle.
#[test]
fn connections_that_speak_no_protocol_end_alone() {
    use std::io::Read as _;
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "garbage", "");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    // A frame of 16 MiB that never comes; settings that mean nothing; a stream that was not opened.
    let huge = [preface, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat();
    let settings = [preface, &[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]].concat();
    let stray = [preface, &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0, 0, 4, 0, 0, 0, 0, 0, 9, 1, 2, 3, 4]].concat();
    let noise: Vec<u8> = (0..5000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut open = Vec::new();
    for (path, upgrade) in [("grpc", "h2c"), ("session", "h2c")] {
        for bytes in
            [Vec::new(), preface.to_vec(), huge.clone(), settings.clone(), stray.clone(), noise.clone()]
        {
            let mut stream = std::os::unix::net::UnixStream::connect(engine.socket()).unwrap();
            let id = open.len();
            let head = format!(
                "POST /{path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\
                 X-Docker-Expose-Session-Uuid: garbage-{id}\r\nX-Docker-Expose-Session-Name: x\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 101");
            // The other side may have closed it before all was written.
            let _ = stream.write_all(&bytes);
            open.push(stream);
        }
    }
    // While they are open, and after.
    context.write("Dockerfile", "FROM busybox\nRUN echo beside\n");
    built(context.build(&["-o", "type=cacheonly"]));
    drop(open);
    goes_on(&context);
}
