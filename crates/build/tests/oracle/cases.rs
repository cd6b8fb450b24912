//! Dockerfiles that both builders are given.

/// A build.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// The file.
    pub dockerfile: &'static str,
    /// Files of the context.
    pub files: &'static [(&'static str, &'static str)],
    /// Arguments of `docker buildx build`, and the option each becomes.
    pub args: &'static [(&'static str, &'static str)],
}

const fn case(name: &'static str, dockerfile: &'static str) -> Case {
    Case { name, dockerfile, files: &[], args: &[] }
}

/// The base image with triggers, built before the others.
pub const ONBUILD_NAME: &str = "coracle-build-onbuild";
/// Its Dockerfile.
pub const ONBUILD: &str = r#"FROM busybox
ENV FROM_BASE=1
WORKDIR /base
USER 1000:1000
LABEL base=yes
CMD ["base"]
ONBUILD ENV TRIGGERED=yes
ONBUILD COPY a /a
ONBUILD RUN true
"#;

/// All of them.
pub const CASES: &[Case] = &[
    case("scratch", "FROM scratch\nLABEL a=b\nWORKDIR /x\n"),
    case("from", "FROM busybox\n"),
    case(
        "metadata",
        r#"FROM busybox
MAINTAINER somebody
ENV A=1 B="two words" C=$A-x
ENV OLD way  of it
LABEL a=b c="d e" "f g"=h
EXPOSE 80 81/udp 90-92
EXPOSE 7000/tcp
USER 1000:1000
WORKDIR /w
WORKDIR sub
VOLUME /data ["/x"]
VOLUME ["/data", "/more"]
STOPSIGNAL SIGINT
SHELL ["/bin/sh", "-xc"]
CMD echo hi
"#,
    ),
    case(
        "entrypoint",
        "FROM busybox AS a\nCMD [\"x\", \"y\"]\nFROM a\nENTRYPOINT [\"e\"]\nHEALTHCHECK --interval=30s --retries=3 CMD true\n",
    ),
    case("entrypoint-after-cmd", "FROM busybox\nCMD [\"x\"]\nENTRYPOINT run it\n"),
    case("cmd-empty", "FROM busybox\nCMD []\nENTRYPOINT []\n"),
    case("healthcheck-none", "FROM busybox\nHEALTHCHECK NONE\n"),
    case(
        "healthcheck-json",
        "FROM busybox\nHEALTHCHECK --interval=1m30s --timeout=500ms --start-period=1h --start-interval=2s CMD [\"a\", \"b c\"]\n",
    ),
    case("run", "FROM busybox\nRUN echo a   b && true\nRUN [\"true\", \"x y\"]\nRUN true \\\n  && true\n"),
    case(
        "run-args",
        "ARG G=global\nFROM busybox\nARG A=1\nARG B\nARG G\nARG U=unused C=$A\nRUN echo $A $B\nENV A=env\nRUN echo $A\n",
    ),
    Case {
        name: "run-args-given",
        dockerfile: "FROM busybox\nARG A=1\nARG B\nARG HTTP_PROXY\nRUN echo $A $B\n",
        files: &[],
        args: &[
            ("--build-arg=A=2", "build-arg:A=2"),
            ("--build-arg=HTTP_PROXY=http://p:1", "build-arg:HTTP_PROXY=http://p:1"),
        ],
    },
    case(
        "platform-args",
        "FROM --platform=$BUILDPLATFORM busybox AS build\nARG TARGETOS TARGETARCH TARGETVARIANT BUILDARCH TARGETSTAGE\nRUN echo $TARGETOS/$TARGETARCH $BUILDARCH\nFROM busybox\nCOPY --from=build /bin/sh /x\n",
    ),
    case(
        "heredoc-run",
        "FROM busybox\nRUN <<EOF\necho one\necho two\nEOF\nRUN <<-X cat > /x\n\tcontent\n\tX\nRUN <<A cat - <<'B'\na\nA\nb $x\nB\n",
    ),
    case("heredoc-shebang", "FROM busybox\nRUN <<EOF\n#!/bin/sh\necho hi\nEOF\n"),
    case(
        "heredoc-copy",
        "FROM busybox\nENV N=me\nCOPY <<EOF <<-'two' /d/\nhello $N \"q\" \\$x\nEOF\n\traw $N\ntwo\nCOPY --chmod=0755 <<run.sh /usr/bin/run.sh\n#!/bin/sh\nrun.sh\n",
    ),
    Case {
        name: "copy",
        dockerfile: "FROM busybox\nWORKDIR /w\nCOPY a b* ./\nCOPY --chown=1000:1000 --chmod=0600 a /x\nCOPY . /all\nADD a /y\nCOPY [\"sp ace\", \"/z\"]\n",
        files: &[("a", "a"), ("b1", "b"), ("sp ace", "s")],
        args: &[],
    },
    Case {
        name: "copy-link",
        dockerfile: "FROM busybox\nCOPY --link a /a\nCOPY --link --chown=3 a /b/\nRUN true\n",
        files: &[("a", "a")],
        args: &[],
    },
    Case {
        name: "copy-exclude",
        dockerfile: "FROM scratch\nCOPY --exclude=*.md --exclude=b . /x/\n",
        files: &[("a", "a"), ("r.md", "r")],
        args: &[],
    },
    case(
        "copy-from-image",
        "FROM scratch\nCOPY --from=busybox /bin/sh /sh\nCOPY --from=busybox:latest /bin/ls /\n",
    ),
    case(
        "copy-from-number",
        "FROM busybox\nRUN echo 0 > /f\nFROM busybox AS one\nCOPY --from=0 /f /g\nFROM scratch\nCOPY --from=one /g /h\nCOPY --from=0 /f /i\n",
    ),
    case(
        "dead-stages",
        "FROM busybox AS a\nRUN echo a > /a\nFROM busybox AS dead\nRUN false\nFROM a AS b\nRUN true\nFROM scratch\nCOPY --from=b /a /a\n",
    ),
    Case {
        name: "target",
        dockerfile: "FROM busybox AS one\nLABEL s=1\nFROM one AS two\nRUN true\nFROM two\nRUN false\n",
        files: &[],
        args: &[("--target=two", "target=two")],
    },
    Case {
        name: "labels",
        dockerfile: "FROM busybox\nLABEL a=1 b=2\n",
        files: &[],
        args: &[("--label=b=3", "label:b=3"), ("--label=c=4", "label:c=4")],
    },
    Case {
        name: "onbuild",
        dockerfile: "FROM coracle-build-onbuild\nRUN id\n",
        files: &[("a", "a")],
        args: &[],
    },
    case(
        "onbuild-stage",
        "FROM busybox AS base\nONBUILD RUN echo hi\nONBUILD COPY --from=busybox /bin/sh /s\nFROM base AS child\nRUN true\nFROM child\n",
    ),
    case(
        "mounts",
        "FROM busybox AS src\nRUN echo x > /f\nFROM busybox\nRUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=bind,from=src,source=/f,target=/f cat /f\nRUN --mount=type=secret,id=nope --mount=type=bind,target=/ctx ls /ctx\n",
    ),
    case("secret-env", "FROM busybox\nRUN --mount=type=secret,id=nope,env=TOKEN echo $TOKEN done\n"),
    case("network", "FROM busybox\nRUN --network=none true\n"),
    Case {
        name: "named-context",
        dockerfile: "FROM other AS a\nCOPY --from=dir f /f\nFROM a\nRUN --mount=from=dir,target=/m ls /m\n",
        files: &[("sub/f", "f")],
        args: &[
            ("--build-context=other=docker-image://busybox", "context:other=docker-image://busybox"),
            ("--build-context=dir=sub", "context:dir=local:dir"),
        ],
    },
    Case {
        name: "named-context-stage",
        dockerfile: "FROM scratch AS base\nRUN false\nFROM base\nRUN true\n",
        files: &[],
        args: &[("--build-context=base=docker-image://busybox", "context:base=docker-image://busybox")],
    },
    case(
        "expansion",
        "ARG V=1.2.3\nFROM busybox\nARG V\nENV MAJOR=${V%%.*} REST=${V#*.} DASH=${V//./-} D=${NONE:-d} P=${V:+set} Q='$V' E=\"\\$V\"\nWORKDIR /opt/$V\nLABEL v=\"$V\" w='$V' x=a\\ b\nUSER ${U:-nobody}\nEXPOSE ${PORT:-8080}\nVOLUME /v/$V\nSTOPSIGNAL ${S:-9}\nCOPY --from=busybox /bin/sh /opt/$V/\nRUN echo $V ${MAJOR} $PATH '$V'\n",
    ),
    case("escape", "# escape=`\nFROM busybox\nRUN echo a `\n  b\nENV X=c:\\d Y=a`$b\nWORKDIR /w\n"),
    case(
        "case-and-comments",
        "# a comment\nfrom busybox as X\n# one\nrun echo a \\\n  # inner\n  && echo b\n\nenv a=b\n",
    ),
    case(
        "twelve-steps",
        "FROM busybox AS many\nWORKDIR /1\nWORKDIR /2\nWORKDIR /3\nWORKDIR /4\nWORKDIR /5\nWORKDIR /6\nWORKDIR /7\nWORKDIR /8\nWORKDIR /9\nWORKDIR /10\nWORKDIR /11\n",
    ),
    case("workdir-root", "FROM busybox\nWORKDIR /\nWORKDIR rel\nUSER 5\nWORKDIR /own\n"),
    Case {
        name: "epoch",
        dockerfile: "FROM busybox\nRUN true\nCOPY a /a\nENV A=1\n",
        files: &[("a", "a")],
        args: &[("--build-arg=SOURCE_DATE_EPOCH=1700000000", "build-arg:SOURCE_DATE_EPOCH=1700000000")],
    },
    case("epoch-arg", "ARG SOURCE_DATE_EPOCH=1700000000\nFROM busybox\nRUN true\n"),
    Case {
        name: "hosts",
        dockerfile: "FROM busybox\nRUN cat /etc/hosts\n",
        files: &[],
        args: &[("--add-host=db:10.0.0.9", "add-hosts=db=10.0.0.9"), ("--shm-size=32m", "shm-size=33554432")],
    },
    Case {
        name: "dockerignore",
        dockerfile: "FROM scratch\nCOPY a /\nCOPY sub /sub/\n",
        files: &[("a", "a"), ("sub/x", "x"), ("sub/y", "y"), (".dockerignore", "# c\nsub/y\n!a\n")],
        args: &[],
    },
    case("json-fallback", "FROM busybox\nCMD [ 'a' ]\nRUN [ -e / ]\n"),
    case(
        "same-base",
        "FROM busybox AS a\nRUN echo 1 > /1\nFROM busybox AS b\nRUN echo 2 > /2\nFROM busybox\nCOPY --from=a /1 /\nCOPY --from=b /2 /\n",
    ),
    case("crlf", "FROM busybox\r\nRUN echo a \\\r\n && echo b\r\nENV A=b\r\n"),
    case("shell", "FROM busybox\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN echo a\nCMD b\nENTRYPOINT c\n"),
    case("user-workdir", "FROM busybox\nUSER nobody\nWORKDIR /home/x\nRUN true\n"),
    case("exec-env-secret-arg", "FROM busybox\nARG API_TOKEN=x\nENV MY_PASSWORD=y\nRUN true\n"),
    // Those that fail.
    case("error-circle", "FROM busybox AS a\nCOPY --from=b x y\nFROM busybox AS b\nCOPY --from=a x y\n"),
    case("error-unknown", "FROM busybox\nRUNN x\n"),
    case("error-flag", "FROM busybox\nCOPY --form=a b c\n"),
    case("error-flag-twice", "FROM busybox\nCOPY --from=a --from=b b c\n"),
    case("error-flag-bool", "FROM busybox\nCOPY --link=x b c\n"),
    case("error-mount-type", "FROM busybox\nRUN --mount=type=binde,target=/x true\n"),
    case("error-mount-key", "FROM busybox\nRUN --mount=type=bind,tarjet=/x true\n"),
    case("error-mount-root", "FROM busybox\nRUN --mount=type=bind,target=/ true\n"),
    case("error-mount-from", "FROM busybox\nRUN --mount=type=bind,from=$x,target=/a true\n"),
    case("error-network", "FROM busybox\nRUN --network=foo true\n"),
    case("error-no-stage", "RUN x\n"),
    case("error-from-words", "FROM busybox b\n"),
    case("error-stage-name", "FROM busybox AS 1a\n"),
    case("error-copy-one", "FROM busybox\nCOPY a\n"),
    case("error-copy-from-variable", "FROM busybox AS a\nFROM busybox\nCOPY --from=$x a b\n"),
    case("error-copy-from-number", "FROM busybox AS a\nCOPY --from=7 a b\n"),
    case("error-copy-from-later", "FROM busybox AS a\nCOPY --from=b a b\nFROM busybox AS b\nFROM a\n"),
    case("error-env-one", "FROM busybox\nENV a\n"),
    case("error-env-blank", "FROM busybox\nENV =b\n"),
    case("error-arg-blank", "FROM busybox\nARG =b\n"),
    case("error-workdir-none", "FROM busybox\nWORKDIR\n"),
    case("error-shell-form", "FROM busybox\nSHELL bash -c\n"),
    case("error-health-type", "FROM busybox\nHEALTHCHECK foo\n"),
    case("error-health-interval", "FROM busybox\nHEALTHCHECK --interval=1 CMD x\n"),
    case("error-health-short", "FROM busybox\nHEALTHCHECK --interval=1us CMD x\n"),
    case("error-health-retries", "FROM busybox\nHEALTHCHECK --retries=x CMD x\n"),
    case("error-onbuild-chain", "FROM busybox\nONBUILD ONBUILD RUN x\n"),
    case("error-onbuild-from", "FROM busybox\nONBUILD FROM x\n"),
    case("error-onbuild-bad-trigger", "FROM busybox AS a\nONBUILD FOO x\nFROM a\n"),
    case("error-expose-protocol", "FROM busybox\nEXPOSE 80/foo\n"),
    case("error-expose-port", "FROM busybox\nEXPOSE a\n"),
    case("error-expose-range", "FROM busybox\nEXPOSE 9-8\n"),
    case("error-expose-large", "FROM busybox\nEXPOSE 99999\n"),
    case("error-expose-none", "FROM busybox\nEXPOSE /tcp\n"),
    case("error-expose-host", "FROM busybox\nEXPOSE x:80\n"),
    case("error-expose-ip", "FROM busybox\nEXPOSE 1.2.3:80:80\n"),
    case("error-signal", "FROM busybox\nSTOPSIGNAL SIGFOO\n"),
    case("error-json-number", "FROM busybox\nCMD [1]\n"),
    case("error-heredoc-open", "FROM busybox\nRUN <<EOF\nx\n"),
    case("error-heredoc-destination", "FROM busybox\nCOPY a <<EOF\nx\nEOF\n"),
    case("error-chmod", "FROM busybox\nCOPY --chmod=foo a b\n"),
    case("error-chmod-large", "FROM busybox\nCOPY --chmod=77777 a b\n"),
    case("error-copy-url", "FROM busybox\nCOPY http://x/y b\n"),
    case("error-copy-git", "FROM busybox\nCOPY git@github.com:a/b.git b\n"),
    case("error-checksum-local", "FROM busybox\nADD --checksum=sha256:00 a b\n"),
    case("error-checksum-short", "FROM busybox\nADD --checksum=sha256:00 http://127.0.0.1:1/a b\n"),
    case("error-base-case", "FROM Busybox\n"),
    case("error-base-blank", "FROM ${X}\n"),
    case("error-platform", "FROM --platform=foo busybox\n"),
    case("error-platform-parts", "FROM --platform=foo/bar/baz/boo busybox\n"),
    case("error-platform-empty", "FROM --platform=$X busybox\n"),
    case("error-variable", "FROM busybox\nENV a=${b\n"),
    case("error-variable-needed", "FROM busybox\nENV a=\"${b:?need b}\"\n"),
    case("error-empty", ""),
    case("error-only-comments", "# x\n"),
    case("error-escape", "# escape=x\nFROM busybox\n"),
    case("error-check", "# check=foo=bar\nFROM busybox\n"),
    case("error-checks-are-errors", "# check=error=true\nFROM busybox\nMAINTAINER x\n"),
    case("error-base-misspelled", "FROM busybo\n"),
    Case {
        name: "error-target",
        dockerfile: "FROM busybox AS build\n",
        files: &[],
        args: &[("--target=biuld", "target=biuld")],
    },
    case("error-volume-empty", "FROM busybox\nVOLUME [\"\"]\n"),
    case("error-size", "FROM busybox\nRUN --mount=type=tmpfs,target=/x,size=foo true\n"),
    case("error-secret-none", "FROM busybox\nRUN --mount=type=secret true\n"),
    case("error-sharing", "FROM busybox\nRUN --mount=type=cache,target=/x,sharing=foo true\n"),
    case("error-device", "FROM busybox\nRUN --device=vendor.com/a=b true\n"),
    case("error-continuation-heredoc", "FROM busybox\nADD <<A <<B /x\na\nA\nb\n"),
    case("error-quote", "FROM busybox\nLABEL a='b\n"),
    case("error-workdir-variable", "FROM busybox\nWORKDIR $NONE\n"),
    case(
        "checks",
        "# some stuff\nARG TAG=latest\nARG EMPTY\n# wrong comment\nFROM busybox as Base\nfrom busybox:l${EMPTYY}atest AS two\nFROM --platform=$TARGETPLATFORM busybox AS scratch\nFROM --platform=linux/amd64 busybox AS base\nFROM busybox:${EMPTY:-latest} AS three\nMAINTAINER me\nWORKDIR rel\nRUN echo a \\\n\n  b\nENV a b\nENV MY_SECRET=x PUBLIC_KEY=y\nARG api_token\nLABEL a b\nCMD echo $x\nCMD echo y\nEXPOSE 80/TCP 127.0.0.1:81:82\nCOPY $foo $PTH /x/\nrun echo lower\nHEALTHCHECK CMD a\nHEALTHCHECK CMD b\n",
    ),
];

/// Questions that both are asked of a case: its name, what `--call` says, what the request is called.
pub const CALLS: &[(&str, &str, &str)] = &[
    ("checks", "targets", "frontend.targets"),
    ("checks", "check", "frontend.lint"),
    ("case-and-comments", "targets", "frontend.targets"),
    ("run-args", "outline", "frontend.outline"),
    ("mounts", "outline", "frontend.outline"),
    ("dead-stages", "check", "frontend.lint"),
    ("error-unknown", "check", "frontend.lint"),
    ("error-flag", "check", "frontend.lint"),
    ("error-heredoc-open", "check", "frontend.lint"),
];
