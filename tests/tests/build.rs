//! Building images with the stock clients: `docker build`, `docker buildx`, `docker compose build`.

use std::path::Path;

use tests::building::{Context, LIMIT, built, cached, nothing_runs};
use tests::engine::{Cli, signal};
use tests::{Engine, Outcome, eventually, store};

const STAGES: &str = r#"
FROM busybox AS tools
RUN echo '#!/bin/sh' > /tool && echo 'cat /app/data' >> /tool && chmod 755 /tool
FROM busybox AS data
COPY data /in/
RUN --mount=type=cache,target=/cache echo run >> /cache/runs && wc -l < /cache/runs
RUN tr a-z A-Z < /in/data > /out
FROM busybox
LABEL purpose=test
WORKDIR /app
COPY --from=data /out data
COPY --from=tools --chmod=711 --chown=7:8 /tool /usr/bin/tool
RUN <<EOF
echo someone:x:7:8::/:/bin/sh > /etc/passwd
rm /bin/vi
EOF
USER someone
ENV GREETING="hello there"
CMD ["tool"]
"#;

#[test]
fn stages_become_an_image_and_are_not_done_twice() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "stages", STAGES);
    context.write("data", "some data\n");
    context.write("unused", "is not sent\n");
    // A statement about the build would be another each time, and so would the image be.
    let plain = "--provenance=false";
    let first = built(context.build(&["-t", "app", "-t", "app:2", plain]));
    assert_eq!(cached(&first), 0, "{first}");
    assert!(first.contains("naming to docker.io/library/app:2"), "{first}");
    assert_eq!(engine.docker(&["run", "--rm", "app"]).ok(), "SOME DATA");
    let shown = "{{.Config.User}} {{.Config.WorkingDir}} {{index .Config.Env 1}} {{.Config.Labels.purpose}}";
    let inspected = engine.docker(&["image", "inspect", "-f", shown, "app:2"]).ok();
    assert_eq!(inspected, "someone /app GREETING=hello there test");
    let seen = engine.docker(&["run", "--rm", "app", "stat", "-c", "%a %u:%g", "/usr/bin/tool"]).ok();
    assert_eq!(seen, "711 7:8");
    engine.docker(&["run", "--rm", "app", "ls", "/bin/vi"]).fails(1, "No such file");

    // Written once more, with the same content: all of it is found.
    std::fs::remove_file(context.folder.join("data")).unwrap();
    context.write("data", "some data\n");
    let id = engine.docker(&["images", "-q", "--no-trunc", "app:2"]).ok();
    let second = built(context.build(&["-t", "app:3", plain]));
    assert_eq!(cached(&second), 8, "{second}");
    assert_eq!(engine.docker(&["images", "-q", "--no-trunc", "app:3"]).ok(), id, "the very same image");

    // Another content: what does not stand on it is found still, and the cache mount has what was written.
    context.write("data", "other data\n");
    let third = built(context.build(&["-t", "app"]));
    assert!(third.lines().any(|l| l.starts_with('#') && l.trim_end().ends_with(" 2")), "{third}");
    assert!(cached(&third) >= 2, "{third}");
    assert_eq!(engine.docker(&["run", "--rm", "app"]).ok(), "OTHER DATA");
    nothing_runs(&engine);
}

#[test]
fn steps_that_need_nothing_of_each_other_run_at_once() {
    let engine = Engine::with_busybox();
    // Each waits for the other, by what both see of the cache mount.
    let wait = |mine: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,target=/c touch /c/{mine}; n=0; while [ ! -e /c/{other} ]; do \
             sleep 0.1; n=$((n+1)); [ $n -lt 300 ] || exit 9; done; echo {mine} > /{mine}\n"
        )
    };
    let dockerfile = format!(
        "FROM busybox AS a\n{}FROM busybox AS b\n{}FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
        wait("a", "b"),
        wait("b", "a")
    );
    let context = Context::new(&engine, "parallel", &dockerfile);
    built(context.build(&[]));
}

#[test]
fn a_failed_step_shows_its_output_and_its_line() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "failing", "FROM busybox\nRUN true\n\nRUN echo \"words\"; exit 7\n");
    let outcome = context.build(&[]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.err);
    for words in [
        "words",
        "Dockerfile:4",
        "   4 | >>> RUN echo \"words\"; exit 7",
        // Before it stands "failed to solve" or "failed to run Build function": a race within buildx.
        "ERROR: failed to build: ",
        r#": process "/bin/sh -c echo \"words\"; exit 7" did not complete successfully: exit code: 7"#,
    ] {
        assert!(outcome.err.contains(words), "{words:?} is not in {}", outcome.err);
    }
    context.write("Dockerfile", "FROM busybox\nCOPY missing /\n");
    context.build(&[]).fails(1, "\"/missing\": not found");
    // What a link leads to is looked for in the context, not outside.
    std::os::unix::fs::symlink("/etc/hostname", context.folder.join("escape")).unwrap();
    context.write("Dockerfile", "FROM busybox\nCOPY escape /x\n");
    context.build(&[]).fails(1, "not found");
    nothing_runs(&engine);
}

#[test]
fn secrets_and_mounts_are_there_for_their_step_alone() {
    let engine = Engine::with_busybox();
    let dockerfile = r#"
FROM busybox AS other
RUN mkdir /o && echo other > /o/file
FROM busybox
RUN --mount=type=secret,id=token --mount=type=secret,id=token,env=TOKEN \
    test "$(cat /run/secrets/token)" = "$TOKEN" && echo "$TOKEN" | md5sum > /sum
RUN --mount=type=bind,from=other,source=/o,target=/mnt/o \
    --mount=type=bind,source=.,target=/src,rw --mount=type=tmpfs,target=/tmpfs \
    cat /mnt/o/file /src/file > /both && touch /src/new /tmpfs/new && ! touch /mnt/o/new 2>/dev/null
RUN --mount=type=tmpfs,target=/made cp /bin/busybox /made/true && /made/true
RUN --network=none ! ip link show eth0
RUN ip link show eth0
"#;
    let context = Context::new(&engine, "mounts", dockerfile);
    context.write("file", "from the context\n");
    let secret = engine.path("secret");
    std::fs::write(&secret, "hidden").unwrap();
    let secret = format!("id=token,src={}", secret.display());
    built(context.build(&["-t", "mounts", "--secret", &secret]));
    let run = |args: &[&str]| engine.docker(&[&["run", "--rm", "mounts"], args].concat());
    assert_eq!(run(&["cat", "/both"]).ok(), "other\nfrom the context");
    run(&["ls", "/mnt"]).fails(1, "No such file");
    assert_eq!(run(&["sh", "-c", "ls -d /src /tmpfs /run/secrets 2>/dev/null | wc -l"]).ok(), "0");
    assert!(!context.folder.join("new").exists(), "what is written to a mount of the context is thrown away");
    assert!(!engine.docker(&["history", "--no-trunc", "mounts"]).ok().contains("hidden"));
    nothing_runs(&engine);
}

#[test]
fn results_go_to_the_client_as_tree_and_archives() {
    let engine = Engine::with_busybox();
    let dockerfile = "FROM busybox AS make\nRUN mkdir /d && echo text > /d/f && ln -s f /d/l && chmod 600 /d/f\n\
                      FROM scratch\nCOPY --from=make /d /out\n";
    let context = Context::new(&engine, "results", dockerfile);
    let out = engine.path("out");
    built(context.build(&["-o", out.to_str().unwrap()]));
    assert_eq!(std::fs::read_to_string(out.join("out/f")).unwrap(), "text\n");
    assert_eq!(std::fs::read_link(out.join("out/l")).unwrap(), Path::new("f"));
    let archive = engine.path("image.tar");
    let kinds = [("docker", true), ("oci", true), ("tar", false)];
    for (kind, loads) in kinds {
        let to = format!("type={kind},dest={}", archive.display());
        built(context.build(&["-o", &to, "-t", "results:of-archive"]));
        let listed =
            Outcome::from(std::process::Command::new("tar").arg("tf").arg(&archive).output().expect("tar"))
                .ok();
        if loads {
            let loaded = engine.docker(&["load", "-i", archive.to_str().unwrap()]).ok();
            assert!(loaded.contains("results:of-archive"), "{kind}: {loaded}");
            engine.docker(&["rmi", "results:of-archive"]).ok();
        } else {
            assert!(listed.contains("out/f"), "{listed}");
        }
    }
    let metadata = engine.path("metadata.json");
    built(context.build(&["-t", "named", "--metadata-file", metadata.to_str().unwrap()]));
    let metadata: serde_json::Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    let id = engine.docker(&["images", "-q", "--no-trunc", "named"]).ok();
    assert_eq!(metadata["containerimage.digest"], id.as_str());
    assert_eq!(metadata["image.name"], "docker.io/library/named:latest");
    let config = metadata["containerimage.config.digest"].as_str().unwrap();
    assert_eq!(engine.docker(&["image", "inspect", "-f", "{{.Id}}", config]).ok(), id);
    assert_eq!(store::faults(&engine.root()), [""; 0]);
}

#[test]
fn trees_and_layouts_go_to_folders_with_how_they_were_made() {
    let engine = Engine::with_busybox();
    let dockerfile = "FROM busybox AS make\nRUN mkdir -p /q/d && echo text > /a && echo more > /q/d/z && ln -s a /q/l\n\
                      FROM scratch\nCOPY --from=make /a /\nCOPY --from=make /q /q\n";
    let context = Context::new(&engine, "told", dockerfile);
    let out = engine.path("out");
    let plain = format!("type=local,dest={}", out.display());
    // By default nothing is said beside files: only where it is asked for.
    built(context.build(&["-o", &plain]));
    assert!(!out.join("provenance.json").exists());
    let tar = engine.path("files.tar");
    let results = [("local", out.clone()), ("tar", tar.clone())];
    for (kind, dest) in &results {
        let to = format!("type={kind},dest={}", dest.display());
        built(context.build(&["-o", &to, "--provenance=mode=max"]));
    }
    let unpacked = engine.path("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    let done = std::process::Command::new("tar").arg("-C").arg(&unpacked).arg("-xf").arg(&tar).status();
    assert!(done.unwrap().success());
    for folder in [&out, &unpacked] {
        assert_eq!(std::fs::read_to_string(folder.join("q/d/z")).unwrap(), "more\n");
        let said = std::fs::read(folder.join("provenance.json")).unwrap();
        let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
        assert_eq!(said["predicateType"], "https://slsa.dev/provenance/v0.2");
        let subjects = said["subject"].as_array().unwrap();
        let names: Vec<_> = subjects.iter().map(|s| s["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "q/d/z"]);
        let digest = {
            use sha2::Digest;
            sha2::Sha256::digest(b"text\n").iter().map(|b| format!("{b:02x}")).collect::<String>()
        };
        assert_eq!(subjects[0]["digest"]["sha256"], digest.as_str());
    }

    // An image as a folder: what reads OCI layouts reads it.
    let layout = engine.path("layout");
    built(context.build(&["-o", &format!("type=oci,tar=false,dest={}", layout.display()), "-t", "told:1"]));
    let index = std::fs::read(layout.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    assert!(layout.join("blobs").join(digest.replace(':', "/")).exists(), "{index}");
    context.write("Dockerfile", "FROM base\nCOPY Dockerfile /new\n");
    let base = format!("base=oci-layout://{}@{digest}", layout.display());
    let again = engine.path("again");
    built(context.build(&["--build-context", &base, "-o", again.to_str().unwrap()]));
    assert_eq!(std::fs::read_to_string(again.join("a")).unwrap(), "text\n");
    assert_eq!(store::faults(&engine.root()), [""; 0]);
}

#[test]
fn a_file_of_many_steps_is_built() {
    let engine = Engine::with_busybox();
    let steps: String = (0..300).map(|n| format!("WORKDIR /folder-{n}\n")).collect();
    let context = Context::new(&engine, "many", &format!("FROM busybox\n{steps}"));
    built(context.build(&["-o", "type=cacheonly"]));
    assert_eq!(cached(&built(context.build(&["-o", "type=cacheonly"]))), 300);
}

#[test]
fn a_cancelled_build_leaves_nothing_running() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "cancelled", "FROM busybox\nRUN echo begun; sleep 1234\n");
    let log = engine.path("progress");
    let from = context.folder.to_str().unwrap();
    let mut command = engine.command(&["buildx", "build", "--progress=plain", from]);
    command.stderr(std::fs::File::create(&log).unwrap());
    let mut client = command.spawn().unwrap();
    eventually("the step runs", || std::fs::read_to_string(&log).is_ok_and(|l| l.contains(" begun")));
    signal(client.id(), "INT");
    client.wait().unwrap();
    nothing_runs(&engine);

    let log = std::fs::File::create(&log).unwrap();
    let mut command = engine.command(&["build", "--no-cache", from]);
    command.env("DOCKER_BUILDKIT", "0").stdout(log).stderr(std::process::Stdio::null());
    let mut client = command.spawn().unwrap();
    let log = engine.path("progress");
    eventually("the step runs", || std::fs::read_to_string(&log).is_ok_and(|l| l.contains("\nbegun")));
    signal(client.id(), "INT");
    client.wait().unwrap();
    nothing_runs(&engine);
    let left = || std::fs::read_dir(engine.root().join("build/local")).into_iter().flatten().flatten();
    let new = || left().filter(|e| e.file_name().to_string_lossy().starts_with("new-")).count();
    eventually("no context stays", || new() == 0);
}

#[test]
fn an_engine_killed_while_it_builds_keeps_the_steps_that_were_done() {
    let mut engine = Engine::with_busybox();
    let context =
        Context::new(&engine, "killed", "FROM busybox\nRUN echo done > /done\nRUN echo begun; sleep 1234\n");
    let folder = context.folder.clone();
    let log = engine.path("progress");
    let mut command = engine.command(&["buildx", "build", "--progress=plain", folder.to_str().unwrap()]);
    command.stderr(std::fs::File::create(&log).unwrap());
    let mut client = command.spawn().unwrap();
    eventually("the step runs", || std::fs::read_to_string(&log).is_ok_and(|l| l.contains(" begun")));
    engine.crash();
    client.wait().unwrap();
    engine.launch();
    std::fs::write(folder.join("Dockerfile"), "FROM busybox\nRUN echo done > /done\nRUN echo new\n").unwrap();
    let context = Context { engine: &engine, folder };
    let progress = built(context.build(&[]));
    assert!(progress.contains("[2/3] RUN echo done > /done\n") && cached(&progress) == 1, "{progress}");
    nothing_runs(&engine);
}

#[test]
fn the_cache_is_shown_and_pruned() {
    let engine = Engine::with_busybox();
    let context = Context::new(
        &engine,
        "pruned",
        "FROM busybox\nCOPY Dockerfile /\nRUN --mount=type=cache,target=/c touch /c/x; echo 1 > /1\n",
    );
    built(context.build(&[]));
    let usage = engine.docker(&["buildx", "du", "--verbose"]).ok();
    for kind in ["regular", "exec.cachemount", "source.local"] {
        assert!(usage.contains(kind), "{usage}");
    }
    assert!(engine.docker(&["system", "df", "-v"]).ok().contains("exec.cachemount"));
    engine.docker(&["builder", "prune", "-f", "--filter", "type=exec.cachemount"]).ok();
    assert!(!engine.docker(&["buildx", "du", "--verbose"]).ok().contains("exec.cachemount"));
    engine.docker(&["image", "prune", "-f"]).ok();
    engine.docker(&["buildx", "prune", "-af"]).ok();
    assert!(engine.docker(&["buildx", "du"]).ok().contains("Total:\t\t0B"));
    assert_eq!(store::faults(&engine.root()), [""; 0]);
    assert_eq!(cached(&built(context.build(&[]))), 0);
    let history = engine.docker(&["buildx", "history", "ls"]).ok();
    assert_eq!(history.matches("Completed").count(), 2, "{history}");
}

#[test]
fn compose_builds_its_services() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "shop", "FROM busybox\nARG WORD\nRUN echo $WORD > /word\n");
    context.write(
        "compose.yaml",
        "services:\n  shop:\n    build: { context: ., args: { WORD: welcome } }\n    command: cat /word\n",
    );
    let file = context.folder.join("compose.yaml");
    let file = file.to_str().unwrap();
    let done = context.run(&["compose", "-f", file, "run", "--rm", "--build", "shop"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(done.out.contains("welcome"), "{}{}", done.out, done.err);
}

#[test]
fn an_unchanged_context_is_not_sent_again() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "large", "FROM scratch\nCOPY . /\n");
    for n in 0..40 {
        context.write(&format!("folder-{}/file-{n}", n % 4), &"x".repeat(100_000));
    }
    let sent = |progress: &str| -> String {
        let mut line = progress.lines().filter(|l| l.contains("transferring context: "));
        let last = line.rfind(|l| l.contains("done")).unwrap_or_default().to_owned();
        last.split("context: ").nth(1).unwrap_or_default().split(' ').next().unwrap_or_default().to_owned()
    };
    let first = sent(&built(context.build(&[])));
    assert!(first.ends_with("MB"), "{first}");
    let second = built(context.build(&[]));
    assert!(sent(&second).ends_with("kB"), "{second}");
    std::fs::remove_dir_all(context.folder.join("folder-1")).unwrap();
    context.write("folder-2/new", "new");
    let out = engine.path("out");
    let third = built(context.build(&["-o", out.to_str().unwrap()]));
    assert!(sent(&third).ends_with("kB"), "{third}");
    assert!(!out.join("folder-1").exists() && out.join("folder-2/new").exists());
}

/// `docker build` by the classic builder.
trait Classic {
    fn classic(&self, client: tests::engine::Cli, more: &[&str]) -> Outcome;
}

impl Classic for Context<'_> {
    fn classic(&self, client: tests::engine::Cli, more: &[&str]) -> Outcome {
        let mut args = vec!["build"];
        args.extend(more);
        args.push(self.folder.to_str().expect("a plain path"));
        let mut command = self.command(&args);
        let mut plain = std::process::Command::new("timeout");
        plain.arg(LIMIT).arg(client.program()).args(&args).stdin(std::process::Stdio::null());
        plain.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command = plain;
        command.env("DOCKER_BUILDKIT", "0").output().expect("docker").into()
    }
}

const CLASSIC: &str = r#"ARG BASE=busybox
FROM ${BASE} AS first
ENV A=1
RUN echo to stdout; echo to stderr >&2; echo $A > /first
FROM busybox
ARG WORD
WORKDIR /here
COPY --from=first /first .
COPY . context/
RUN echo "$WORD" > word; getent hosts some.host || grep some.host /etc/hosts
LABEL of=file
CMD ["sh", "-c", "cat /here/first /here/word; ls -A /here/context"]
"#;

#[test]
fn the_classic_builder_tells_of_each_instruction() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "classic", CLASSIC);
    context.write(".dockerignore", "ignored\nDockerfile\n.dockerignore\n");
    context.write("kept", "kept\n");
    context.write("ignored", "not sent\n");
    let options =
        ["--build-arg", "WORD=said", "--build-arg", "NOBODY=asks", "--label", "of=client", "--add-host"];
    let options = [&options[..], &["some.host:10.9.8.7", "-t", "classic", "-t", "classic:2"]].concat();
    let done = context.classic(Cli::V28, &options);
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    let id = engine.docker(&["images", "-q", "classic:2"]).ok();
    for words in [
        "Step 1/12 : ARG BASE=busybox\nStep 2/12 : FROM ${BASE} AS first\n ---> ",
        "\nStep 4/12 : RUN echo to stdout; echo to stderr >&2; echo $A > /first\n",
        "\nto stdout\n",
        "to stderr",
        "10.9.8.7",
        "\nStep 12/12 : CMD [\"sh\", \"-c\", \"cat /here/first /here/word; ls -A /here/context\"]\n",
        "[Warning] One or more build-args [NOBODY] were not consumed\n",
        &format!(
            "\nSuccessfully built {id}\nSuccessfully tagged classic:latest\nSuccessfully tagged classic:2"
        ),
    ] {
        assert!(done.out.contains(words), "{words:?} is not in {}", done.out);
    }
    assert!(!done.out.contains("Using cache"), "{}", done.out);
    assert_eq!(engine.docker(&["run", "--rm", "classic"]).ok(), "1\nsaid\nkept");
    let label = ["image", "inspect", "-f", "{{.Config.Labels.of}}", "classic"];
    assert_eq!(engine.docker(&label).ok(), "client");

    // Once more, by older clients: all is found, and it is the same image.
    for client in [Cli::V20, Cli::V26] {
        let again = context.classic(client, &options);
        assert_eq!(again.code, Some(0), "{}{}", again.out, again.err);
        assert_eq!(again.out.matches(" ---> Using cache\n").count(), 5, "{}", again.out);
        assert!(again.out.contains(&format!("Successfully built {id}")), "{}", again.out);
    }
    let fresh = context.classic(Cli::V28, &[&options[..], &["--no-cache", "-q"]].concat());
    assert!(fresh.out.trim().starts_with("sha256:") && fresh.out.lines().count() == 1, "{}", fresh.out);
    // BuildKit's clients find the same steps.
    assert_eq!(
        cached(&built(context.build(&["--build-arg", "WORD=other", "--add-host=some.host:10.9.8.7"]))),
        4
    );
    let target = context.classic(Cli::V28, &["--target", "first"]);
    assert!(target.out.contains("Step 4/4 : RUN "), "{}{}", target.out, target.err);
    nothing_runs(&engine);
}

#[test]
fn steps_of_the_classic_builder_have_the_limits_that_are_said() {
    let engine = Engine::with_busybox();
    let dockerfile =
        "FROM busybox\nRUN grep Cpus_allowed_list: /proc/self/status; ulimit -n; df -k /dev/shm\n";
    let context = Context::new(&engine, "limits", dockerfile);
    let limits = ["-m", "64m", "--memory-swap", "96m", "--cpu-shares", "512", "--cpuset-cpus", "0"];
    let more =
        ["--cpu-period", "50000", "--cpu-quota", "25000", "--ulimit", "nofile=99:99", "--shm-size", "3m"];
    let done = context.classic(Cli::V28, &[&limits[..], &more[..]].concat());
    assert_eq!(done.code, Some(0), "{}{}", done.out, done.err);
    assert!(done.out.contains("\n99\n") && done.out.contains("3072"), "{}", done.out);
    // A limit that this machine has no controller for is told of; the others hold.
    let held = |controller: &str, words: &str| {
        let info = engine.docker(&["info", "-f", &format!("{{{{.{controller}}}}}")]).ok();
        let discarded = done.out.contains(&format!("[Warning] Your kernel does not support {words}"));
        assert_eq!(info == "false", discarded, "{controller} is {info}: {}", done.out);
        !discarded
    };
    held("MemoryLimit", "memory limit capabilities");
    held("CPUShares", "CPU shares");
    held("CPUCfsQuota", "CPU CFS scheduler");
    if held("CPUSet", "cpuset") {
        assert!(done.out.contains("Cpus_allowed_list:\t0\n"), "{}", done.out);
    }
    // What a step may use is no part of what it is.
    let again = context.classic(Cli::V28, &[&["-m", "32m"], &more[4..]].concat());
    assert!(again.out.contains(" ---> Using cache\n"), "{}{}", again.out, again.err);
    nothing_runs(&engine);
}

#[test]
fn steps_of_the_classic_builder_are_in_the_network_they_are_given() {
    let engine = Engine::with_busybox();
    engine.docker(&["network", "create", "--subnet", "10.75.0.0/24", "net"]).ok();
    let other = ["run", "-d", "--name", "other", "--network", "net", "busybox", "sleep", "1000"];
    engine.docker(&other).ok();
    let look = "RUN ip -4 -o addr show eth0; nslookup other";
    let context = Context::new(&engine, "networked", &format!("FROM busybox\n{look}\n"));
    let built = |network: &str| {
        let outcome = context.classic(Cli::V28, &["--no-cache", "--network", network]);
        assert_eq!(outcome.code, Some(0), "{}{}", outcome.out, outcome.err);
        outcome.out
    };
    let address = "{{.NetworkSettings.Networks.net.IPAddress}}";
    let address = engine.docker(&["inspect", "-f", address, "other"]).ok();
    // In the network itself, with a place of its own that is given back; by name, or by the beginning of its id.
    let id = engine.docker(&["network", "inspect", "-f", "{{slice .Id 0 12}}", "net"]).ok();
    for network in ["net", &id] {
        let out = built(network);
        assert!(out.contains(" 10.75.0.") && !out.contains(&format!("inet {address}/")), "{out}");
        assert!(out.contains(&format!("Address: {address}")), "{out}");
    }
    let members = engine.docker(&["network", "inspect", "-f", "{{len .Containers}}", "net"]);
    assert_eq!(members.ok(), "1");
    // In that of a container: its address is theirs, and it must run.
    let out = built("container:other");
    assert!(
        out.contains(&format!("inet {address}/")) && out.contains(&format!("Address: {address}")),
        "{out}"
    );
    engine.docker(&["stop", "-t", "0", "other"]).ok();
    let outcome = context.classic(Cli::V28, &["--no-cache", "--network", "container:other"]);
    let words = "cannot join network namespace of a non running container: container other is exited";
    assert!(outcome.err.contains(words), "{}", outcome.err);
    nothing_runs(&engine);
}

#[test]
fn the_classic_builder_fails_in_words() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "failing", "FROM busybox\nRUN true\nRUN echo words; exit 7\n");
    let fails = |more: &[&str], words: &str| {
        let outcome = context.classic(Cli::V28, more);
        assert!(outcome.err.contains(words), "{words:?} is not in {}{}", outcome.out, outcome.err);
        (outcome.code, outcome.out)
    };
    let (code, out) = fails(&[], "The command '/bin/sh -c echo words; exit 7' returned a non-zero code: 7");
    // The client ends with the step's own status.
    assert_eq!(code, Some(7));
    assert!(out.contains("Step 3/3 : RUN echo words; exit 7\n") && out.contains("words\n"), "{out}");
    context.write("Dockerfile", "FROM busybox\nFOO\n");
    assert_eq!(fails(&[], "unknown instruction: FOO").1.matches("Step").count(), 0);
    context.write("Dockerfile", "FROM 127.0.0.1:1/no/such:image\n");
    assert!(fails(&[], "127.0.0.1:1/no/such").1.contains("Step 1/1 : FROM 127.0.0.1:1/no/such:image"));
    context.write("Dockerfile", "FROM busybox\nCOPY missing /\n");
    fails(&[], "\"/missing\": not found");
    context.write("Dockerfile", "FROM busybox\nRUN true\n");
    fails(&["--build-arg", "BUILDKIT_SYNTAX=other/syntax"], "syntax other/syntax is not supported");
    fails(&["--target", "none"], "target stage \"none\" could not be found");
    fails(&["--memory", "1m"], "Minimum memory limit allowed is 6MB");
    fails(&["--cpuset-cpus", "900"], "Requested CPUs are not available");
    fails(&["--security-opt", "seccomp=unconfined"], "security options are not supported on linux");
    fails(
        &["--no-cache", "--network", "container:x"],
        "joining network namespace of container: No such container: x",
    );
    fails(&["--no-cache", "--network", "x"], "failed to set up container networking: network x not found");
    let cached = context.classic(Cli::V28, &["--cache-from", "some:image"]);
    assert!(cached.out.contains("[Warning] importing cache from some:image is not there"), "{}", cached.out);
    nothing_runs(&engine);
}
