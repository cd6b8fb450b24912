//! What is kept of builds: records of the past, the cache and its limits; and results that say when, for what and by
//! whose leave.

use std::collections::BTreeSet;

use tests::building::{Context, built, cached, nothing_runs};
use tests::{Engine, eventually};

#[test]
fn builds_of_the_past_are_told_again() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "past", "FROM busybox\nRUN echo words\nRUN echo more\n");
    built(context.build(&["-t", "past"]));
    built(context.build(&["-t", "past"]));
    context.write("Dockerfile", "FROM busybox\nRUN echo words\nRUN echo failing; exit 3\n");
    context.build(&[]).fails(1, "exit code: 3");
    let history = |args: &[&str]| context.run(&[&["buildx", "history"], args].concat());
    let list = history(&["ls", "--format", "{{.Status}} {{.Ref}}"]).ok();
    let lines: Vec<(&str, &str)> = list.lines().filter_map(|l| l.split_once(' ')).collect();
    assert_eq!(lines.iter().map(|l| l.0).collect::<Vec<_>>(), ["Error", "Completed", "Completed"], "{list}");
    let id = |n: usize| lines[n].1.rsplit('/').next().unwrap();
    let shown = history(&["inspect", id(0)]).ok();
    assert!(shown.contains("exit code: 3") && shown.contains("Dockerfile"), "{shown}");
    // The two commands were found the second time.
    let steps = history(&[
        "inspect",
        "--format",
        "{{.NumCompletedSteps}}/{{.NumTotalSteps}} {{.NumCachedSteps}}",
        id(1),
    ]);
    let steps = steps.ok();
    let (done, cached) = steps.split_once(' ').unwrap();
    let (done, all) = done.split_once('/').unwrap();
    assert!(done == all && cached == "2", "{steps}");
    let logs = context.run(&["buildx", "history", "logs", id(2)]);
    assert!(format!("{}{}", logs.out, logs.err).contains(" words\n"), "{}{}", logs.out, logs.err);
    history(&["rm", id(2)]).ok();
    history(&["logs", id(2)]).fails(1, "no");
    assert_eq!(history(&["ls", "--format", "{{.Ref}}"]).ok().lines().count(), 2);
}

#[test]
fn the_cache_is_pruned_to_a_size() {
    let engine = Engine::with_busybox();
    let step = |n: u32| format!("RUN dd if=/dev/urandom of=/{n} bs=1M count=4 2>/dev/null\n");
    let context = Context::new(&engine, "sizes", "");
    let fill = |number: u32| {
        context.write("Dockerfile", &format!("FROM busybox\n{}{}", step(number), step(number + 1)));
        built(context.build(&["-o", "type=cacheonly"]));
    };
    let total = || -> f64 {
        let usage = engine.docker(&["buildx", "du"]).ok();
        let total = usage.lines().find_map(|l| l.strip_prefix("Total:")).unwrap().trim().to_owned();
        let number = total.trim_end_matches(char::is_alphabetic);
        number.parse::<f64>().unwrap() * if total.ends_with("MB") { 1.0 } else { 0.0 }
    };
    fill(1);
    fill(3);
    assert!(total() > 16.0, "{}", total());
    // The longest unused goes first.
    context.run(&["buildx", "prune", "-f", "--max-used-space", "10mb"]).ok();
    assert!(total() > 8.0 && total() < 10.0, "{}", total());
    context.write("Dockerfile", &format!("FROM busybox\n{}{}", step(3), step(4)));
    assert_eq!(cached(&built(context.build(&["-o", "type=cacheonly"]))), 2);
    for spared in [
        &["--filter", "until=1h"][..],
        &["--reserved-space", "1gb"],
        &["--min-free-space", "1mb"],
        &["--filter", "type=exec.cachemount"],
    ] {
        context.run(&[&["buildx", "prune", "-f"], spared].concat()).ok();
        assert!(total() > 8.0, "{spared:?}: {}", total());
    }
    engine.docker(&["builder", "prune", "-f", "--keep-storage", "5mb"]).ok();
    assert!(total() > 4.0 && total() < 5.0, "{}", total());
    engine.docker(&["builder", "prune", "-f", "--filter", "until=1ns"]).ok();
    assert_eq!(total(), 0.0);
}

#[test]
fn the_cache_goes_by_itself_once_it_is_too_large() {
    // A tenth of the disk is the cache's.
    let engine = Engine::on_small_disk(160 << 20);
    let archive = tests::images::busybox(engine.folder.path());
    engine.docker(&["load", "-q", "-i", archive.to_str().unwrap()]).ok();
    let context = Context::new(&engine, "full", "");
    for n in 0..6 {
        let dockerfile = format!("FROM busybox\nRUN dd if=/dev/urandom of=/{n} bs=1M count=6 2>/dev/null\n");
        context.write("Dockerfile", &dockerfile);
        built(context.build(&["-o", "type=cacheonly"]));
    }
    eventually("what is too much goes", || {
        let usage = engine.docker(&["buildx", "du"]).ok();
        let total = usage.lines().find_map(|l| l.strip_prefix("Total:")).unwrap().trim().to_owned();
        total.strip_suffix("MB").and_then(|t| t.parse::<f64>().ok()).is_some_and(|t| t < 17.0)
    });
    // The last is there still.
    assert_eq!(cached(&built(context.build(&["-o", "type=cacheonly"]))), 1);
    nothing_runs(&engine);
}

#[test]
fn results_have_the_time_they_are_given() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "epoch", "FROM busybox\nCOPY file /\nRUN true\nLABEL a=b\n");
    context.write("file", "text\n");
    let build = |more: &[&str]| {
        let mut args = vec!["buildx", "build", "--progress=plain", "--provenance=false", "-t", "epoch"];
        args.extend(more);
        args.push(context.folder.to_str().unwrap());
        context.command(&args).env("SOURCE_DATE_EPOCH", "1000000000").output().expect("docker").into()
    };
    built(build(&[]));
    let created = ["image", "inspect", "-f", "{{.Created}}", "epoch"];
    assert_eq!(engine.docker(&created).ok(), "2001-09-09T01:46:40Z");
    let history = engine.docker(&["history", "--format", "{{.CreatedAt}}", "epoch"]).ok();
    assert_eq!(history.lines().filter(|l| l.starts_with("2001-09-09")).count(), 3, "{history}");
    let file = ["run", "--rm", "epoch", "stat", "-c", "%Y", "/file"];
    assert_eq!(engine.docker(&file).ok(), "1000000000");
}

#[test]
fn the_same_steps_at_another_time_are_the_same_image_where_times_are_rewritten() {
    let engine = Engine::with_busybox();
    let dockerfile = "FROM busybox\nCOPY file /\nENV A=b\nRUN mkdir /etc/new; echo made > /etc/new/made; \
        touch -d @500000000 /old; rm /bin/vi\nRUN ln /old /linked; ln -s /old /pointing\n";
    let context = Context::new(&engine, "again", dockerfile);
    context.write("file", "text\n");
    let build = |more: &str| -> String {
        let output = format!("type=image,name=again{more}");
        let mut args = vec!["buildx", "build", "--progress=plain", "--provenance=false", "--no-cache"];
        args.extend(["-o", &output, context.folder.to_str().unwrap()]);
        built(context.command(&args).env("SOURCE_DATE_EPOCH", "1000000000").output().expect("docker").into());
        engine.docker(&["image", "inspect", "-f", "{{.Id}}", "again"]).ok()
    };
    // The files are the same but for their times.
    assert_ne!(build(""), build(""));
    let first = build(",rewrite-timestamp=true");
    assert_eq!(first, build(",rewrite-timestamp=true"));
    // What is younger is as old as was said; what is older stays so, and so do the base image's files.
    let told = ["run", "--rm", "again", "stat", "-c", "%Y"];
    let stat = |paths: &[&str]| engine.docker(&[&told[..], paths].concat()).ok();
    let of_base = engine.docker(&["run", "--rm", "busybox", "stat", "-c", "%Y", "/bin/busybox"]).ok();
    let made = stat(&["/file", "/etc/new", "/etc/new/made", "/pointing", "/old", "/linked", "/bin/busybox"]);
    let times = ["1000000000"; 4].into_iter().chain(["500000000"; 2]).chain([of_base.as_str()]);
    assert_eq!(made, times.collect::<Vec<_>>().join("\n"));
    engine.docker(&["run", "--rm", "again", "test", "!", "-e", "/bin/vi"]).ok();
    // The result's own time goes before the build's, in the configuration too.
    let own = build(",rewrite-timestamp=true,source-date-epoch=900000000");
    assert_ne!(own, first);
    assert_eq!(stat(&["/file", "/old"]), "900000000\n500000000");
    let created = ["image", "inspect", "-f", "{{.Created}}", "again"];
    assert_eq!(engine.docker(&created).ok(), "1998-07-09T16:00:00Z");
    let history = engine.docker(&["history", "--format", "{{.CreatedAt}}", "again"]).ok();
    assert_eq!(history.lines().filter(|l| l.starts_with("1998-07-09")).count(), 4, "{history}");
    let refused = |output: &str, words: &str| context.build(&["-o", output]).fails(1, words);
    refused(
        "type=image,source-date-epoch=soon",
        "invalid source-date-epoch: strconv.ParseInt: parsing \"soon\"",
    );
}

#[test]
fn all_files_of_a_result_have_the_time_they_are_given() {
    use std::os::unix::fs::MetadataExt as _;
    let engine = Engine::with_busybox();
    let dockerfile = "FROM busybox AS b\nRUN mkdir -p /o/d; echo x > /o/d/f; ln /o/d/f /o/d/h; ln -s f /o/d/l\n\
        FROM scratch\nCOPY --from=b /o /\n";
    let context = Context::new(&engine, "dated", dockerfile);
    let out = engine.path("out");
    let times = |kind: &str, more: &str| {
        let dest = out.join(if kind == "tar" { "tree.tar" } else { "tree" });
        std::fs::create_dir_all(&out).unwrap();
        let output = format!("type={kind},dest={}{more}", dest.display());
        let args = ["buildx", "build", "--progress=plain", "-o", &output, context.folder.to_str().unwrap()];
        built(context.command(&args).env("SOURCE_DATE_EPOCH", "1000000000").output().expect("docker").into());
        let tree = out.join("tree");
        if kind == "tar" {
            std::fs::create_dir(&tree).unwrap();
            let mut tar = std::process::Command::new("tar");
            assert!(tar.arg("-xf").arg(&dest).arg("-C").arg(&tree).status().unwrap().success());
        }
        let time = |path: &str| tree.join(path).symlink_metadata().unwrap().mtime();
        let found: BTreeSet<i64> = ["d", "d/f", "d/h", "d/l"].map(time).into();
        std::fs::remove_dir_all(&out).unwrap();
        found
    };
    for kind in ["local", "tar"] {
        assert_eq!(times(kind, ""), BTreeSet::from([1_000_000_000]), "{kind}: the build's");
        let own = times(kind, ",source-date-epoch=900000000");
        assert_eq!(own, BTreeSet::from([900_000_000]), "{kind}: the result's own");
    }
}

#[test]
fn several_platforms_are_one_result() {
    let engine = Engine::with_busybox();
    let dockerfile = "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /file\n";
    let context = Context::new(&engine, "platforms", dockerfile);
    context.write("amd64", "of amd64\n");
    context.write("arm64", "of arm64\n");
    let both = ["--platform", "linux/amd64,linux/arm64"];
    built(context.build(&[&both[..], &["-t", "both"]].concat()));
    let manifests = engine.request("GET", "/v1.51/images/both/json?manifests=1", None).1;
    for platform in ["amd64", "arm64", "attestation"] {
        assert!(manifests.contains(platform), "{manifests}");
    }
    let out = engine.path("out");
    built(context.build(&[&both[..], &["-o", out.to_str().unwrap()]].concat()));
    for platform in ["amd64", "arm64"] {
        let file = std::fs::read_to_string(out.join(format!("linux_{platform}/file"))).unwrap();
        assert_eq!(file, format!("of {platform}\n"));
    }
    let archive = format!("type=oci,dest={}", engine.path("both.tar").display());
    built(context.build(&[&both[..], &["-o", &archive]].concat()));
    let tar = engine.path("files.tar");
    built(context.build(&[&both[..], &["-o", &format!("type=tar,dest={}", tar.display())]].concat()));
    let listed = std::process::Command::new("tar").arg("tf").arg(&tar).output().expect("tar");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for platform in ["amd64", "arm64"] {
        assert!(listed.lines().any(|l| l == format!("linux_{platform}/file")), "{listed}");
    }
}

#[test]
fn rights_are_given_by_the_client_alone() {
    let engine = Engine::with_busybox();
    let mut ip = engine.sandbox.command("ip");
    assert!(ip.args(["link", "add", "marker", "type", "bridge"]).status().unwrap().success());
    let context = Context::new(&engine, "rights", "FROM busybox\nRUN --network=host ip link show marker\n");
    context.build(&[]).fails(1, "network.host is not allowed");
    built(context.build(&["--allow", "network.host"]));
    context.write("Dockerfile", "FROM busybox\nRUN --security=insecure mount -t tmpfs none /tmp\n");
    context.build(&["--allow", "network.host"]).fails(1, "security.insecure is not allowed");
    built(context.build(&["--allow", "security.insecure"]));
    context.write("Dockerfile", "FROM busybox\nRUN mount -t tmpfs none /tmp\n");
    context.build(&["--allow", "security.insecure"]).fails(1, "denied");
    nothing_runs(&engine);
}

/// Kinds of a layout's layers, and how their first bytes are, the lowest first.
fn layers(layout: &std::path::Path) -> Vec<(String, [u8; 2])> {
    let blob =
        |digest: &serde_json::Value| layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
    let read = |path| serde_json::from_slice::<serde_json::Value>(&std::fs::read(path).unwrap()).unwrap();
    let index = read(layout.join("index.json"));
    let manifest = read(blob(&index["manifests"][0]["digest"]));
    let layer = |layer: &serde_json::Value| {
        let bytes = std::fs::read(blob(&layer["digest"])).unwrap();
        assert_eq!(bytes.len() as u64, layer["size"].as_u64().unwrap());
        let kind = layer["mediaType"].as_str().unwrap().rsplit("layer.v1.").next().unwrap().to_owned();
        (kind, [bytes[0], bytes[1]])
    };
    manifest["layers"].as_array().unwrap().iter().map(layer).collect()
}

#[test]
fn layers_are_compressed_as_it_is_said() {
    let engine = Engine::with_busybox();
    let context = Context::new(&engine, "packed", "FROM busybox\nRUN echo one > /one\n");
    let layout = |name: &str, how: &str| {
        let folder = engine.path(name);
        let to = format!("type=oci,tar=false,dest={},{how}", folder.display());
        built(context.build(&["--provenance=false", "-o", &to]));
        layers(&folder)
    };
    let zstd = ("tar+zstd".to_owned(), [0x28, 0xb5]);
    let own = layout("own", "compression=zstd,compression-level=19");
    assert_eq!((own.len(), &own[1]), (2, &zstd));
    built(context.build(&["-o", "type=image,name=keeps:1,compression=zstd"]));
    assert_eq!(layout("still", "compression=gzip")[1], zstd, "what is packed stays so unless it is forced");
    assert_eq!(layout("all", "compression=zstd,force-compression=true"), [zstd.clone(), zstd.clone()]);
    let plain = layout("plain", "compression=uncompressed,force-compression=true");
    assert!(plain.iter().all(|(kind, _)| kind.ends_with("tar")), "{plain:?}");
    let gzip = layout("gzip", "force-compression=true");
    assert!(gzip.iter().all(|layer| *layer == ("tar+gzip".to_owned(), [0x1f, 0x8b])), "{gzip:?}");

    // Such an image runs here, and is a base.
    built(context.build(&["-o", "type=image,name=packed:1,compression=zstd,force-compression=true"]));
    assert_eq!(engine.docker(&["run", "--rm", "packed:1", "cat", "/one"]).ok(), "one");
    context.write("Dockerfile", "FROM base\nRUN test -e /one && test -x /bin/busybox\n");
    let base = format!("base=oci-layout://{}", engine.path("all").display());
    built(context.build(&["--build-context", &base, "-o", "type=cacheonly"]));
    let refused = context.build(&["-o", "type=oci,dest=/dev/null,compression=estargz"]);
    assert_ne!(refused.code, Some(0));
    assert!(refused.err.contains("compression=estargz are not there"), "{}", refused.err);
    assert_eq!(tests::store::faults(&engine.root()), [""; 0]);
}

#[test]
fn steps_that_two_builds_share_are_done_once() {
    let engine = Engine::with_busybox();
    // Each has a step of its own after one that both have, and begins while the other is at that.
    let shared = "FROM busybox\nRUN echo begun; sleep 2; date +%s%N > /made\n";
    let contexts: Vec<Context<'_>> = ["one", "two"]
        .map(|name| Context::new(&engine, name, &format!("{shared}RUN echo {name} > /own\n")))
        .into();
    std::thread::scope(|scope| {
        let build = |context: &'_ Context<'_>, name: &str| built(context.build(&["-t", name]));
        let (first, second) = (&contexts[0], &contexts[1]);
        let one = scope.spawn(move || build(first, "one"));
        let two = scope.spawn(move || build(second, "two"));
        let told = [one.join().unwrap(), two.join().unwrap()];
        let begun = told.iter().flat_map(|t| t.lines()).filter(|line| line.ends_with(" begun")).count();
        assert_eq!(begun, 1, "{told:?}");
    });
    let made = |image: &str| engine.docker(&["run", "--rm", image, "cat", "/made"]).ok();
    assert_eq!(made("one"), made("two"));
    assert_eq!(engine.docker(&["run", "--rm", "two", "cat", "/own"]).ok(), "two");
    nothing_runs(&engine);
}
